//! The keys of a feed: one for opkg's index (usign, Ed25519) and one for apk (ECDSA on P-256). Routers trust what these sign.
//!
//! Both are plain files without a password, in the forms that `usign` and `openssl` read, in a directory that nobody else may
//! look into. Who has them installs what it likes on every router that trusts the feed.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::Signer;
use p256::ecdsa::signature::hazmat::PrehashSigner;
use sha2::{Digest, Sha512};

const USIGN_SECRET: &str = "usign.sec";
const USIGN_PUBLIC: &str = "usign.pub";
const APK_SECRET: &str = "apk.pem";
const APK_PUBLIC: &str = "apk.pub.pem";

/// What stands in `openssl`'s P-256 secret key before the number and between it and the point (RFC 5915, with the curve's name).
const SECRET_HEAD: [u8; 7] = [0x30, 0x77, 0x02, 0x01, 0x01, 0x04, 0x20];
const SECRET_MIDDLE: [u8; 17] =
    [0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0xa1, 0x44, 0x03, 0x42, 0x00];
/// The same of a public key before the point (RFC 5480).
const PUBLIC_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The directory has some already: who overwrote them would lose the trust of all routers.
    #[error("{} is there already: routers trust the keys they have, so keep these, or name another directory", .path.display())]
    Exist {
        /// The file in the way.
        path: PathBuf,
    },
    /// The directory is a link: whoever may change that could have the keys elsewhere.
    #[error("{} is a link: name the directory itself", .directory.display())]
    Link {
        /// The link.
        directory: PathBuf,
    },
    /// Nobody made any.
    #[error("no keys in {}: make them once with `cargo run -p openwrt-pack -- keys {}`", .directory.display(), .directory.display())]
    Missing {
        /// Where they were looked for.
        directory: PathBuf,
    },
    /// A file is none of ours.
    #[error("{} is no key of a feed: {what}", .path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        what: &'static str,
    },
    /// A file cannot be read or written.
    #[error("cannot use {}: {source}", .path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The system gives no random numbers.
    #[error("the system has no random numbers: {0}")]
    Random(getrandom::Error),
}

/// Both keys of a feed.
pub struct Keys {
    /// For opkg's index.
    pub usign: UsignKey,
    /// For apk's packages and index.
    pub apk: ApkKey,
}

impl Keys {
    /// Makes two new keys, kept nowhere yet.
    ///
    /// # Errors
    /// [`KeysError::Random`].
    pub fn generate() -> Result<Self, KeysError> {
        let mut seed = [0_u8; 32];
        getrandom::fill(&mut seed).map_err(KeysError::Random)?;
        let usign = UsignKey(ed25519_dalek::SigningKey::from_bytes(&seed));
        loop {
            getrandom::fill(&mut seed).map_err(KeysError::Random)?;
            // All but one in 2^32 numbers are keys of this curve.
            if let Ok(key) = p256::ecdsa::SigningKey::from_slice(&seed) {
                return Ok(Self { usign, apk: ApkKey(key) });
            }
        }
    }

    /// Writes them into a directory, which is made for its owner alone; so are the secret ones. One that is there is closed to
    /// everybody else. Nothing is written through a link, and nothing is overwritten.
    ///
    /// # Errors
    /// [`KeysError::Exist`] if one of the files is there, or a link in its place; [`KeysError::Link`] if the directory is a link;
    /// [`KeysError::File`].
    pub fn write(&self, directory: &Path) -> Result<(), KeysError> {
        let cannot = |source| KeysError::File { path: directory.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(cannot)?;
        // By its own name: a slash at the end would lead through a link.
        let own_name: PathBuf = directory.components().collect();
        if fs::symlink_metadata(own_name).map_err(cannot)?.is_symlink() {
            return Err(KeysError::Link { directory: directory.to_owned() });
        }
        for name in [USIGN_SECRET, APK_SECRET, USIGN_PUBLIC, APK_PUBLIC] {
            let path = directory.join(name);
            // A link to nowhere is something, too.
            if fs::symlink_metadata(&path).is_ok() {
                return Err(KeysError::Exist { path });
            }
        }
        fs::set_permissions(directory, Permissions::from_mode(0o700)).map_err(cannot)?;
        create(&directory.join(USIGN_SECRET), 0o600, &self.usign.secret_file())?;
        create(&directory.join(APK_SECRET), 0o600, &self.apk.secret_file())?;
        create(&directory.join(USIGN_PUBLIC), 0o644, &self.usign.public_file())?;
        create(&directory.join(APK_PUBLIC), 0o644, &self.apk.public_file())
    }

    /// Reads what [`Keys::write`] wrote.
    ///
    /// # Errors
    /// [`KeysError::Missing`], [`KeysError::Malformed`], [`KeysError::File`].
    pub fn read(directory: &Path) -> Result<Self, KeysError> {
        let usign = read(directory, USIGN_SECRET)?;
        let apk = read(directory, APK_SECRET)?;
        Ok(Self {
            usign: UsignKey::parse(&usign)
                .map_err(|what| KeysError::Malformed { path: directory.join(USIGN_SECRET), what })?,
            apk: ApkKey::parse(&apk).map_err(|what| KeysError::Malformed { path: directory.join(APK_SECRET), what })?,
        })
    }
}

fn read(directory: &Path, name: &str) -> Result<String, KeysError> {
    let path = directory.join(name);
    fs::read_to_string(&path).map_err(|source| {
        if source.kind() == io::ErrorKind::NotFound {
            KeysError::Missing { directory: directory.to_owned() }
        } else {
            KeysError::File { path, source }
        }
    })
}

fn create(path: &Path, mode: u32, content: &str) -> Result<(), KeysError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| file.write_all(content.as_bytes()).and_then(|()| file.sync_all()))
        .map_err(|source| KeysError::File { path: path.to_owned(), source })
}

/// Signs the index that opkg reads, as usign does.
pub struct UsignKey(ed25519_dalek::SigningKey);

impl UsignKey {
    /// By what a router finds the key: the name of its file in `/etc/opkg/keys`.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        hex::encode(self.fingerprint_bytes())
    }

    /// Of the key itself, so that the same key always has the same; usign makes up eight bytes.
    fn fingerprint_bytes(&self) -> [u8; 8] {
        let mut out = [0; 8];
        out.copy_from_slice(&Sha512::digest(self.0.verifying_key().as_bytes())[..8]);
        out
    }

    /// The public key, as a file for `/etc/opkg/keys`.
    #[must_use]
    pub fn public_file(&self) -> String {
        let content = [b"Ed".as_slice(), &self.fingerprint_bytes(), self.0.verifying_key().as_bytes()].concat();
        format!("untrusted comment: public key {}\n{}\n", self.fingerprint(), STANDARD.encode(content))
    }

    /// The signature of a file, to lie beside it.
    #[must_use]
    pub fn signature_file(&self, content: &[u8]) -> String {
        let signature = [b"Ed".as_slice(), &self.fingerprint_bytes(), &self.0.sign(content).to_bytes()].concat();
        format!("untrusted comment: signed by key {}\n{}\n", self.fingerprint(), STANDARD.encode(signature))
    }

    fn secret_file(&self) -> String {
        let secret = self.0.to_keypair_bytes();
        let content = [
            b"EdBK".as_slice(),
            // Not encrypted: no rounds, no salt.
            &[0; 20],
            &Sha512::digest(secret)[..8],
            &self.fingerprint_bytes(),
            &secret,
        ]
        .concat();
        format!("untrusted comment: private key {}\n{}\n", self.fingerprint(), STANDARD.encode(content))
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        let line = text.lines().nth(1).ok_or("it has no second line")?;
        let content = STANDARD.decode(line.trim()).map_err(|_| "its second line is not base64")?;
        let secret: &[u8; 64] = content
            .strip_prefix(b"EdBK")
            .and_then(|rest| rest.strip_prefix(&[0; 4]))
            .and_then(|rest| rest.get(32..))
            .and_then(|secret| secret.try_into().ok())
            .ok_or("it is no usign key without a password")?;
        let key =
            ed25519_dalek::SigningKey::from_keypair_bytes(secret).map_err(|_| "its halves do not belong together")?;
        Ok(Self(key))
    }
}

/// Signs what apk reads.
pub struct ApkKey(p256::ecdsa::SigningKey);

impl ApkKey {
    /// The public key, as a file for `/etc/apk/keys`.
    #[must_use]
    pub fn public_file(&self) -> String {
        pem("PUBLIC KEY", &[PUBLIC_HEAD.as_slice(), &self.point()].concat())
    }

    /// By what apk finds the key.
    pub(crate) fn id(&self) -> [u8; 16] {
        let mut out = [0; 16];
        out.copy_from_slice(&Sha512::digest(self.point())[..16]);
        out
    }

    /// The signature of what has this hash, in DER.
    pub(crate) fn sign_hash(&self, hash: &[u8]) -> Vec<u8> {
        let signature: p256::ecdsa::Signature =
            self.0.sign_prehash(hash).expect("a hash of 64 bytes is long enough to be signed");
        signature.to_der().as_bytes().to_vec()
    }

    fn point(&self) -> Vec<u8> {
        self.0.verifying_key().to_encoded_point(false).as_bytes().to_vec()
    }

    fn secret_file(&self) -> String {
        let content = [SECRET_HEAD.as_slice(), &self.0.to_bytes(), &SECRET_MIDDLE, &self.point()].concat();
        pem("EC PRIVATE KEY", &content)
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        let base64: String = text
            .lines()
            .skip_while(|line| *line != "-----BEGIN EC PRIVATE KEY-----")
            .skip(1)
            .take_while(|line| !line.starts_with('-'))
            .collect();
        let content = STANDARD.decode(base64).map_err(|_| "it is not base64 inside")?;
        let secret = content
            .strip_prefix(&SECRET_HEAD)
            .and_then(|rest| rest.get(..32))
            .ok_or("it is no key as `openssl ecparam -name prime256v1 -genkey -noout` makes it")?;
        p256::ecdsa::SigningKey::from_slice(secret).map(Self).map_err(|_| "its number is no key of the curve")
    }
}

fn pem(what: &str, content: &[u8]) -> String {
    let base64 = STANDARD.encode(content);
    let lines: Vec<&str> = (0..base64.len()).step_by(64).map(|at| &base64[at..base64.len().min(at + 64)]).collect();
    format!("-----BEGIN {what}-----\n{}\n-----END {what}-----\n", lines.join("\n"))
}
