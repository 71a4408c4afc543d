//! Who a node is: one seed, three keys, the card that binds them, and the addresses that follow from them.

use std::fmt;
use std::marker::PhantomData;
use std::net::Ipv6Addr;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hkdf::Hkdf;
use k256::ecdsa::hazmat::SignPrimitive;
use k256::ecdsa::{SigningKey, VerifyingKey};
use minicbor::{Decoder, decode, encode};
use sha2::{Digest, Sha256};
use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::cbor::{self, DecodeError, Statement, Writer, decode_statement, encode_statement};
use crate::eip712::{self, Word, keccak256};
use crate::{Unverified, Verified};

/// A node's account address: the last 20 bytes of Keccak-256 of its secp256k1 public key, as Ethereum derives it.
///
/// Shown with the mixed-case checksum of EIP-55.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; 20]);

/// The 32 secret bytes all of a node's keys are derived from. Wiped from memory when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Seed([u8; 32]);

/// A node's keys, all derived from its [`Seed`]. Start here: `Identity::new(seed)`, then ask for what is needed.
#[derive(Clone, Debug)]
pub struct Identity {
    account: AccountKey,
    wireguard: Secret,
    tls: Secret,
    card: NodeCard,
}

/// The secp256k1 key that signs receipts, terms and the card.
#[derive(Clone)]
pub struct AccountKey {
    signing: SigningKey,
    node_id: NodeId,
}

/// A recoverable secp256k1 signature: r, s, then v (27 or 28), as Ethereum writes it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature(pub [u8; 65]);

/// An X25519 public key; shown in base64, as `wg` shows it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WireguardKey(pub [u8; 32]);

/// An Ed25519 public key, for QUIC links; shown in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TlsKey(pub [u8; 32]);

/// The statement, signed by the account, that three public keys are one node.
///
/// Text form: `waybill-card1:` and the base64url of the CBOR; reading it checks the signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeCard<S = Verified> {
    account: NodeId,
    wireguard: WireguardKey,
    tls: TlsKey,
    signature: Signature,
    state: PhantomData<S>,
}

/// The /48 of the node with this key: `fd` and the first 40 bits of a hash of the key.
#[must_use]
pub fn mesh_prefix(key: &WireguardKey) -> (Ipv6Addr, u8) {
    let hash = address_hash(key);
    let mut octets = [0; 16];
    octets[0] = 0xfd;
    octets[1..6].copy_from_slice(&hash[..5]);
    (octets.into(), 48)
}

/// The node's own address, in subnet 0 of its [`mesh_prefix`]: 64 further bits of the hash prove its key.
#[must_use]
pub fn mesh_address(key: &WireguardKey) -> Ipv6Addr {
    let hash = address_hash(key);
    let mut octets = mesh_prefix(key).0.octets();
    octets[8..].copy_from_slice(&hash[5..13]);
    octets.into()
}

/// The node's address on each of its links, in fe80::/64.
#[must_use]
pub fn link_local(key: &WireguardKey) -> Ipv6Addr {
    let hash = Sha256::new().chain_update("waybill link-local address v1").chain_update(key.0).finalize();
    let mut octets = [0; 16];
    octets[..2].copy_from_slice(&[0xfe, 0x80]);
    octets[8..].copy_from_slice(&hash[..8]);
    octets.into()
}

fn address_hash(key: &WireguardKey) -> [u8; 32] {
    Sha256::new().chain_update("waybill mesh address v1").chain_update(key.0).finalize().into()
}

impl Seed {
    /// The seed of these bytes, which must be secret and random.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes, for the key file alone.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// HKDF-SHA256 (RFC 5869) with no salt; the label is the info.
    fn derive(&self, label: &[&[u8]]) -> Secret {
        let mut key = Zeroizing::new([0; 32]);
        Hkdf::<Sha256>::new(None, &self.0)
            .expand_multi_info(label, key.as_mut_slice())
            .expect("HKDF-SHA256 gives up to 8160 bytes");
        Secret(key)
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(..)")
    }
}

/// Secret bytes that no log shows.
#[derive(Clone)]
struct Secret(Zeroizing<[u8; 32]>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("..")
    }
}

impl Identity {
    /// Derives all keys.
    #[must_use]
    pub fn new(seed: &Seed) -> Self {
        let account = account_key(seed);
        let wireguard = wireguard_secret(seed);
        let tls = seed.derive(&[b"waybill v1 tls"]);
        let wireguard_public = x25519_dalek::StaticSecret::from(*wireguard.0);
        let card = NodeCard::sign(
            &account,
            WireguardKey(x25519_dalek::PublicKey::from(&wireguard_public).to_bytes()),
            TlsKey(ed25519_dalek::SigningKey::from_bytes(&tls.0).verifying_key().to_bytes()),
        );
        Self { account, wireguard, tls, card }
    }

    /// The account's address.
    #[must_use]
    pub const fn node_id(&self) -> NodeId {
        self.account.node_id
    }

    /// The key that signs receipts, terms and the card.
    #[must_use]
    pub const fn account(&self) -> &AccountKey {
        &self.account
    }

    /// The X25519 secret, clamped as `wg genkey` prints one.
    #[must_use]
    pub fn wireguard_secret(&self) -> Zeroizing<[u8; 32]> {
        self.wireguard.0.clone()
    }

    /// The X25519 public key.
    #[must_use]
    pub const fn wireguard_key(&self) -> WireguardKey {
        self.card.wireguard
    }

    /// The Ed25519 secret (RFC 8032's 32-byte private key).
    #[must_use]
    pub fn tls_secret(&self) -> Zeroizing<[u8; 32]> {
        self.tls.0.clone()
    }

    /// The Ed25519 public key.
    #[must_use]
    pub const fn tls_key(&self) -> TlsKey {
        self.card.tls
    }

    /// The card to hand to neighbours.
    #[must_use]
    pub const fn card(&self) -> &NodeCard {
        &self.card
    }

    /// Proves to one other node, and to nobody else, that whoever has this account holds the card's WireGuard key, where no
    /// WireGuard handshake does: a hash of what only the two can compute, and of both accounts.
    ///
    /// It is always the same, and of no use to whoever overhears it: the account in it signs no card but its own.
    #[must_use]
    pub fn prove_wireguard(&self, to: &NodeCard) -> [u8; 32] {
        self.wireguard_proof(&to.wireguard, self.card.account, to.account).0
    }

    /// Whether this is what [`Identity::prove_wireguard`] gives there, for us.
    #[must_use]
    pub fn has_proven_wireguard(&self, card: &NodeCard, proof: &[u8; 32]) -> bool {
        let (expected, is_sound) = self.wireguard_proof(&card.wireguard, card.account, self.card.account);
        // Compared as a whole, so that how long it takes tells nothing of the bytes.
        let differing = expected.iter().zip(proof).fold(0, |differing, (a, b)| differing | (a ^ b));
        is_sound && differing == 0
    }

    /// The proof, and whether both keys took part in it.
    fn wireguard_proof(&self, key: &WireguardKey, prover: NodeId, verifier: NodeId) -> ([u8; 32], bool) {
        let shared = x25519_dalek::StaticSecret::from(*self.wireguard.0).diffie_hellman(&key.0.into());
        let hash = Sha256::new().chain_update("waybill proof of a WireGuard key v1").chain_update(shared.as_bytes());
        (hash.chain_update(prover.0).chain_update(verifier.0).finalize().into(), shared.was_contributory())
    }

    /// Signs a statement with the Ed25519 key (RFC 8032). It has to begin with words of its own kind: TLS, which has the key
    /// sign too, begins with 64 spaces (RFC 8446, section 4.4.3).
    #[must_use]
    pub fn sign_with_tls(&self, statement: &[u8]) -> [u8; 64] {
        use ed25519_dalek::Signer as _;
        ed25519_dalek::SigningKey::from_bytes(&self.tls.0).sign(statement).to_bytes()
    }
}

/// The first candidate that is a secp256k1 scalar; all but one seed in 2^127 need only the first.
fn account_key(seed: &Seed) -> AccountKey {
    (0_u8..=u8::MAX)
        .find_map(|counter| AccountKey::from_bytes(&seed.derive(&[b"waybill v1 account", &[counter]]).0))
        .expect("256 hashes in a row outside the group order do not happen")
}

fn wireguard_secret(seed: &Seed) -> Secret {
    let mut secret = seed.derive(&[b"waybill v1 wireguard"]);
    secret.0[0] &= 248;
    secret.0[31] = secret.0[31] & 127 | 64;
    secret
}

impl AccountKey {
    /// The key with this secret scalar, big-endian; `None` for 0 and from the group order on.
    #[must_use]
    pub fn from_bytes(secret: &[u8; 32]) -> Option<Self> {
        let signing = SigningKey::from_slice(secret).ok()?;
        let node_id = node_id(signing.verifying_key());
        Some(Self { signing, node_id })
    }

    /// The account's address.
    #[must_use]
    pub const fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// Signs a digest, deterministically (RFC 6979), with the low s.
    ///
    /// # Panics
    /// If the one nonce RFC 6979 gives is out of range: a digest nobody will find.
    #[must_use]
    pub fn sign_digest(&self, digest: &Word) -> Signature {
        self.sign_digest_with(digest, &[])
    }

    /// Signs a digest as [`AccountKey::sign_digest`] does, with something else that the nonce comes from too (RFC 6979,
    /// section 3.6): each other `extra` gives another signature, as good as the first.
    ///
    /// # Panics
    /// As [`AccountKey::sign_digest`].
    #[must_use]
    pub fn sign_digest_with(&self, digest: &Word, extra: &[u8]) -> Signature {
        let (signature, recovery) = self
            .signing
            .as_nonzero_scalar()
            .try_sign_prehashed_rfc6979::<Sha256>(&(*digest).into(), extra)
            .expect("a 32-byte digest is long enough, and RFC 6979 nonces are in range");
        let mut bytes = [0; 65];
        bytes[..64].copy_from_slice(&signature.to_bytes());
        bytes[64] = 27 + u8::from(recovery.is_some_and(|recovery| recovery.is_y_odd()));
        Signature(bytes)
    }
}

impl fmt::Debug for AccountKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccountKey({})", self.node_id)
    }
}

fn node_id(key: &VerifyingKey) -> NodeId {
    account_of(key.to_encoded_point(false).as_bytes())
}

/// The account of a public key in its uncompressed form: a byte that says so, and the point.
fn account_of(key: &[u8]) -> NodeId {
    let hash = keccak256(&[&key[1..]]);
    let mut id = [0; 20];
    id.copy_from_slice(&hash[12..]);
    NodeId(id)
}

/// Why a signature proves nothing. The signer misbehaved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SignatureError {
    /// v is neither 27 nor 28.
    #[error("the recovery byte of a signature is 27 or 28, not {v}")]
    BadRecovery {
        /// The byte found.
        v: u8,
    },
    /// The higher of the two equivalent values of s: anyone can make it from the lower one (EIP-2).
    #[error("a signature with the high s")]
    HighS,
    /// r or s out of range, or no public key fits.
    #[error("a signature no key can have made")]
    Invalid,
    /// A good signature, by another account.
    #[error("signed by {actual}, not by {expected}")]
    WrongSigner {
        /// Whose signature was needed.
        expected: NodeId,
        /// Who signed, or what an altered statement makes of the signature.
        actual: NodeId,
    },
}

impl Signature {
    /// The account that signed `digest`.
    ///
    /// # Errors
    /// [`SignatureError`], all but `WrongSigner`.
    pub fn recover(&self, digest: &Word) -> Result<NodeId, SignatureError> {
        #[cfg(feature = "fast-signatures")]
        return self.recover_by(digest, recovered_in_c);
        #[cfg(not(feature = "fast-signatures"))]
        self.recover_by(digest, recovered)
    }

    /// Reads the signature, and has its signer found where it is one.
    fn recover_by(
        &self,
        digest: &Word,
        find: impl FnOnce(&Word, &k256::ecdsa::Signature, bool) -> Option<NodeId>,
    ) -> Result<NodeId, SignatureError> {
        let v = self.0[64];
        let y_is_odd = match v {
            27 => false,
            28 => true,
            _ => return Err(SignatureError::BadRecovery { v }),
        };
        let signature = k256::ecdsa::Signature::from_slice(&self.0[..64]).map_err(|_| SignatureError::Invalid)?;
        if signature.normalize_s().is_some() {
            return Err(SignatureError::HighS);
        }
        find(digest, &signature, y_is_odd).ok_or(SignatureError::Invalid)
    }

    /// Checks that `expected` signed `digest`.
    ///
    /// # Errors
    /// [`SignatureError`]
    pub fn verify(&self, digest: &Word, expected: NodeId) -> Result<(), SignatureError> {
        match self.recover(digest)? {
            actual if actual == expected => Ok(()),
            actual => Err(SignatureError::WrongSigner { expected, actual }),
        }
    }
}

/// The account of the only key with which this signature, of this recovery, is one of `digest` (SEC 1, section 4.1.6): `(s R - z G) / r`,
/// where R is the point of the signature's nonce.
///
/// k256 does the same and then verifies the signature with the key, which takes as long again and cannot fail: putting that
/// key into the verification's equation gives R, whose x is r.
#[cfg(any(test, not(feature = "fast-signatures")))]
fn recovered(digest: &Word, signature: &k256::ecdsa::Signature, y_is_odd: bool) -> Option<NodeId> {
    use k256::elliptic_curve::ops::{Invert as _, LinearCombination as _, Reduce};
    use k256::elliptic_curve::point::DecompressPoint as _;
    use k256::{AffinePoint, ProjectivePoint, Scalar, U256};
    let (r, s) = signature.split_scalars();
    let z = <Scalar as Reduce<U256>>::reduce_bytes(&(*digest).into());
    let nonce: Option<AffinePoint> = AffinePoint::decompress(&r.to_bytes(), u8::from(y_is_odd).into()).into();
    let over_r: Scalar = *r.invert();
    let (of_generator, of_nonce) = (-(over_r * z), over_r * *s);
    let point = ProjectivePoint::lincomb(&ProjectivePoint::GENERATOR, &of_generator, &nonce?.into(), &of_nonce);
    // The point at infinity is no key.
    VerifyingKey::from_affine(point.into()).ok().map(|key| node_id(&key))
}

/// The same by libsecp256k1. What it is given has been read, and refused where it had the high s, as for k256.
#[cfg(any(test, feature = "fast-signatures"))]
fn recovered_in_c(digest: &Word, signature: &k256::ecdsa::Signature, y_is_odd: bool) -> Option<NodeId> {
    use secp256k1::Message;
    use secp256k1::ecdsa::{RecoverableSignature, RecoveryId};
    let recovery = if y_is_odd { RecoveryId::One } else { RecoveryId::Zero };
    let signature = RecoverableSignature::from_compact(&signature.to_bytes(), recovery).ok()?;
    let key = signature.recover_ecdsa(Message::from_digest(*digest)).ok()?;
    Some(account_of(&key.serialize_uncompressed()))
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({})", hex::encode(self.0))
    }
}

/// Why a text is not a key, an address or a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ParseError {
    /// An address is `0x` and 40 hexadecimal digits.
    #[error("an account is written as 0x and 40 hexadecimal digits")]
    NotAnAccount,
    /// Upper and lower case contradict EIP-55: a digit was mistyped.
    #[error("the account has a wrong checksum; a character was mistyped")]
    Checksum,
    /// A key is 44 characters of base64.
    #[error("a WireGuard key is written as 44 characters of base64, as `wg pubkey` prints it")]
    NotAWireguardKey,
    /// A key is 64 hexadecimal digits.
    #[error("a TLS key is written as 64 hexadecimal digits")]
    NotATlsKey,
    /// A card starts with `waybill-card1:`.
    #[error("a node card starts with `{CARD_PREFIX}` and goes on in base64url")]
    NotACard,
    /// The card's bytes are not a card.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The card's signature proves nothing.
    #[error("the node card is forged or damaged: {0}")]
    Signature(#[from] SignatureError),
}

/// With the checksum of EIP-55: a digit is upper case when the hash of the lower-case text says so.
impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lower = hex::encode(self.0);
        let hash = keccak256(&[lower.as_bytes()]);
        let digits = lower.chars().enumerate().map(|(i, digit)| {
            if (hash[i / 2] >> (4 * ((i + 1) % 2))) & 0x8 == 0 { digit } else { digit.to_ascii_uppercase() }
        });
        f.pad(&"0x".chars().chain(digits).collect::<String>())
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// All lower or all upper case passes without a checksum; mixed case must fit it.
impl FromStr for NodeId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let digits = text.strip_prefix("0x").ok_or(ParseError::NotAnAccount)?;
        let mut id = [0; 20];
        hex::decode_to_slice(digits, &mut id).map_err(|_| ParseError::NotAnAccount)?;
        let has = |case: fn(&u8) -> bool| digits.as_bytes().iter().any(case);
        let mixed = has(u8::is_ascii_lowercase) && has(u8::is_ascii_uppercase);
        if mixed && Self(id).to_string() != text {
            return Err(ParseError::Checksum);
        }
        Ok(Self(id))
    }
}

/// DER before the 32 bytes of an Ed25519 public key in a `SubjectPublicKeyInfo` (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// DER before the 32 bytes of an Ed25519 secret in a PKCS #8 `OneAsymmetricKey` (RFC 8410, section 7).
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

impl TlsKey {
    /// The key as a `SubjectPublicKeyInfo` in DER, its one encoding.
    #[must_use]
    pub fn spki(&self) -> Vec<u8> {
        [&SPKI_PREFIX[..], &self.0].concat()
    }

    /// Reads what [`TlsKey::spki`] writes; everything else is refused.
    #[must_use]
    pub fn from_spki(der: &[u8]) -> Option<Self> {
        der.strip_prefix(&SPKI_PREFIX)?.try_into().ok().map(Self)
    }

    /// Checks what [`Identity::sign_with_tls`] signed.
    ///
    /// # Errors
    /// [`SignatureError::Invalid`]
    pub fn verify(&self, statement: &[u8], signature: &[u8; 64]) -> Result<(), SignatureError> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(&self.0).map_err(|_| SignatureError::Invalid)?;
        let signature = ed25519_dalek::Signature::from_bytes(signature);
        key.verify_strict(statement, &signature).map_err(|_| SignatureError::Invalid)
    }

    /// A secret (RFC 8032, section 5.1.5) as a PKCS #8 `OneAsymmetricKey` in DER, as TLS takes it.
    #[must_use]
    pub fn pkcs8(secret: &[u8; 32]) -> Zeroizing<Vec<u8>> {
        Zeroizing::new([&PKCS8_PREFIX[..], secret].concat())
    }
}

impl fmt::Display for WireguardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for WireguardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for WireguardKey {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bytes = STANDARD.decode(text).ok();
        let key = bytes.and_then(|bytes| bytes.try_into().ok());
        key.map(Self).ok_or(ParseError::NotAWireguardKey)
    }
}

impl fmt::Display for TlsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&hex::encode(self.0))
    }
}

impl fmt::Debug for TlsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TlsKey {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut key = [0; 32];
        hex::decode_to_slice(text, &mut key).map_err(|_| ParseError::NotATlsKey)?;
        Ok(Self(key))
    }
}

const CARD_PREFIX: &str = "waybill-card1:";
const CARD_VERSION: u8 = 1;

impl NodeCard {
    /// Binds the keys to the account that signs.
    #[must_use]
    pub fn sign(account: &AccountKey, wireguard: WireguardKey, tls: TlsKey) -> Self {
        let unsigned =
            Self { account: account.node_id, wireguard, tls, signature: Signature([0; 65]), state: PhantomData };
        Self { signature: account.sign_digest(&unsigned.digest()), ..unsigned }
    }

    /// The node's address in the mesh.
    #[must_use]
    pub fn mesh_address(&self) -> Ipv6Addr {
        mesh_address(&self.wireguard)
    }
}

impl NodeCard<Unverified> {
    /// Reads a card whose signature nobody has checked.
    ///
    /// # Errors
    /// [`DecodeError`]
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        decode_statement(bytes)
    }

    /// Checks that the account signed these keys: the only way to a [`NodeCard`] one may rely on.
    ///
    /// # Errors
    /// [`SignatureError`]
    pub fn verify(self) -> Result<NodeCard, SignatureError> {
        self.signature.verify(&self.digest(), self.account)?;
        Ok(NodeCard {
            account: self.account,
            wireguard: self.wireguard,
            tls: self.tls,
            signature: self.signature,
            state: PhantomData,
        })
    }
}

impl<S> NodeCard<S> {
    /// The account that signed, or is said to have.
    #[must_use]
    pub const fn account(&self) -> NodeId {
        self.account
    }

    /// The node's X25519 key.
    #[must_use]
    pub const fn wireguard(&self) -> WireguardKey {
        self.wireguard
    }

    /// The node's Ed25519 key.
    #[must_use]
    pub const fn tls(&self) -> TlsKey {
        self.tls
    }

    /// The card in deterministic CBOR: `[1, account, wireguard, tls, signature]`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_statement(self)
    }

    /// The EIP-712 digest. The domain names no ledger: a card holds everywhere.
    fn digest(&self) -> Word {
        let card = eip712::hash_struct(
            "NodeCard(address account,bytes32 wireguard,bytes32 tls)",
            &[eip712::address(self.account), self.wireguard.0, self.tls.0],
        );
        eip712::digest(&eip712::domain(), &card)
    }
}

impl<S> Statement for NodeCard<S> {
    const WHAT: &'static str = "node card";

    fn write(&self, to: &mut Writer) -> Result<(), encode::Error<std::convert::Infallible>> {
        to.array(5)?
            .u8(CARD_VERSION)?
            .bytes(&self.account.0)?
            .bytes(&self.wireguard.0)?
            .bytes(&self.tls.0)?
            .bytes(&self.signature.0)?;
        Ok(())
    }

    fn read(from: &mut Decoder<'_>) -> Result<Self, decode::Error> {
        cbor::array(from, 5)?;
        if from.u8()? != CARD_VERSION {
            return Err(decode::Error::message("a card of another version"));
        }
        Ok(Self {
            account: NodeId(cbor::bytes(from)?),
            wireguard: WireguardKey(cbor::bytes(from)?),
            tls: TlsKey(cbor::bytes(from)?),
            signature: Signature(cbor::bytes(from)?),
            state: PhantomData,
        })
    }
}

impl fmt::Display for NodeCard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{CARD_PREFIX}{}", URL_SAFE_NO_PAD.encode(self.encode()))
    }
}

impl FromStr for NodeCard {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let body = text.strip_prefix(CARD_PREFIX).ok_or(ParseError::NotACard)?;
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| ParseError::NotACard)?;
        Ok(NodeCard::<Unverified>::decode(&bytes)?.verify()?)
    }
}

#[cfg(test)]
mod tests {
    use k256::ecdsa::RecoveryId;
    use proptest::prelude::*;

    use super::*;

    fn identity() -> Identity {
        Identity::new(&Seed::from_bytes(std::array::from_fn(|i| i as u8)))
    }

    /// Computed with other software: Python's `cryptography` (HKDF, X25519, Ed25519), `eth_account` and `cbor2`.
    const CARD: &str = "waybill-card1:hQFUs9kjobp4tNWIaFr-RZkEzBhI1IBYIKzNkX0h2Us040li_wiD-QFFP-WH-O_gwitu\
        SH1wiE8nWCAs1S7rrSl9GEqf4ECTgCZnlDvEdEQ8MlzvL1EZtiJANFhBQMAzA8LCIrNicoh_3RyIbnJW2RdhO-tVMcj3vBo5lxdc\
        DuxbIm95SQLl7_APVZqdoptNR9Sn_d1sp46YU66FzRw";

    #[test]
    fn a_wireguard_key_is_proven_by_whoever_holds_it_for_its_own_account_to_one_node() {
        let [us, them, thief] = [1, 2, 3].map(|seed| Identity::new(&Seed::from_bytes([seed; 32])));
        let proof = them.prove_wireguard(us.card());
        assert!(us.has_proven_wireguard(them.card(), &proof));
        assert!(!thief.has_proven_wireguard(them.card(), &proof), "it was for us");
        // A card that names their key, and a proof that they gave to us or to the thief.
        let stolen = NodeCard::sign(thief.account(), them.wireguard_key(), thief.tls_key());
        let overheard = [proof, them.prove_wireguard(thief.card()), thief.prove_wireguard(us.card())];
        assert!(overheard.iter().all(|proof| !us.has_proven_wireguard(&stolen, proof)));
        // A key that makes the same secret with everybody's.
        let nobody = NodeCard::sign(thief.account(), WireguardKey([0; 32]), thief.tls_key());
        let hash = Sha256::new().chain_update("waybill proof of a WireGuard key v1").chain_update([0; 32]);
        let proof = hash.chain_update(thief.node_id().0).chain_update(us.node_id().0).finalize().into();
        assert!(!us.has_proven_wireguard(&nobody, &proof));
    }

    #[test]
    fn keys_and_addresses_of_a_seed_are_what_other_software_derives() {
        let identity = identity();
        assert_eq!(identity.node_id().to_string(), "0xB3D923a1Ba78B4d588685AFE459904Cc1848D480");
        assert_eq!(STANDARD.encode(identity.wireguard_secret()), "INTSbfQqhIJ+mIwu2oUK8d4CA8l62MU4j8SsDFPd5Fs=");
        let key = identity.wireguard_key();
        assert_eq!(key.to_string(), "rM2RfSHZSzTjSWL/CIP5AUU/5Yf47+DCK25IfXCITyc=");
        assert_eq!(identity.tls_key().to_string(), "2cd52eebad297d184a9fe04093802667943bc474443c325cef2f5119b6224034");
        assert_eq!(mesh_prefix(&key), ("fdd2:1b12:ff02::".parse().unwrap(), 48));
        let address: Ipv6Addr = "fdd2:1b12:ff02:0:a08c:e031:a6c0:f9ef".parse().unwrap();
        assert_eq!(mesh_address(&key), address);
        let local: Ipv6Addr = "fe80::a394:c402:4e18:35fc".parse().unwrap();
        assert_eq!(link_local(&key), local);
        assert_eq!(identity.card().to_string(), CARD);
    }

    #[test]
    fn a_card_is_read_back_and_every_altered_byte_is_noticed() {
        let card: NodeCard = CARD.parse().unwrap();
        assert_eq!(&card, identity().card());
        let bytes = card.encode();
        for i in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[i] ^= 1;
            let read = NodeCard::<Unverified>::decode(&altered).map(NodeCard::verify);
            assert!(!matches!(read, Ok(Ok(_))), "byte {i}");
            assert!(NodeCard::<Unverified>::decode(&bytes[..i]).is_err());
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert_eq!(NodeCard::<Unverified>::decode(&longer), Err(DecodeError::NotDeterministic { what: "node card" }));
        assert_eq!("waybill-card2:".parse::<NodeCard>(), Err(ParseError::NotACard));
    }

    #[test]
    fn another_account_cannot_claim_the_keys() {
        let mut card = *identity().card();
        let thief = Identity::new(&Seed::from_bytes([7; 32]));
        card.account = thief.node_id();
        let read = NodeCard::<Unverified>::decode(&card.encode()).unwrap();
        assert!(matches!(
            read.verify(),
            Err(SignatureError::WrongSigner { expected, .. }) if expected == thief.node_id()
        ));
    }

    /// The examples of EIP-55.
    #[test]
    fn accounts_carry_the_checksum_of_eip_55() {
        for text in [
            "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
            "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
            "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
            "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
            "0x52908400098527886E0F7030069857D2E4169EE7",
            "0xde709f2102306220921060314715629080e2fb77",
        ] {
            let id: NodeId = text.parse().unwrap();
            assert_eq!(id.to_string(), text);
            assert_eq!(text.to_lowercase().parse(), Ok(id));
        }
        let parse = |text: &str| text.parse::<NodeId>();
        assert_eq!(parse("0x5aaeb6053F3E94C9b9A09f33669435E7Ef1BeAed"), Err(ParseError::Checksum));
        for wrong in ["", "0x", "0x12", "5aaeb6053f3e94c9b9a09f33669435e7ef1beaed", "0xé"] {
            assert_eq!(parse(wrong), Err(ParseError::NotAnAccount), "{wrong}");
        }
    }

    #[test]
    fn a_signature_has_one_form() {
        let key = identity().account().clone();
        let digest = [9; 32];
        let signature = key.sign_digest(&digest);
        assert_eq!(signature.verify(&digest, key.node_id()), Ok(()));
        let mut other = signature;
        other.0[64] -= 27;
        let v = other.0[64];
        assert_eq!(other.recover(&digest), Err(SignatureError::BadRecovery { v }));
        assert_eq!(mirrored(signature).recover(&digest), Err(SignatureError::HighS));
        assert!(Signature([27; 65]).verify(&digest, NodeId([0; 20])).is_err());
        let mut zero = signature;
        zero.0[..64].fill(0);
        assert_eq!(zero.recover(&digest), Err(SignatureError::Invalid));
    }

    /// As k256 recovers, with its own check at the end.
    fn recovered_by_k256(signature: &Signature, digest: &Word) -> Option<NodeId> {
        let y_is_odd = [27, 28].iter().position(|v| *v == signature.0[64])? == 1;
        let parts = k256::ecdsa::Signature::from_slice(&signature.0[..64]).ok()?;
        let low = parts.normalize_s().is_none();
        let key = VerifyingKey::recover_from_prehash(digest, &parts, RecoveryId::new(y_is_odd, false)).ok()?;
        low.then(|| node_id(&key))
    }

    /// n, (n - 1) / 2 and the x of the generator (SEC 2, section 2.4.1), and what lies around them and at both ends.
    fn edge() -> impl Strategy<Value = Word> {
        let edges = [
            "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141",
            "7fffffffffffffffffffffffffffffff5d576e7357a4501ddfe92f46681b20a0",
            "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798",
            "fffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc2f",
            "0000000000000000000000000000000000000000000000000000000000000000",
            "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        ];
        (prop::sample::select(edges.to_vec()), 0..4_u8, any::<bool>()).prop_map(|(edge, by, up)| {
            let mut word = [0; 32];
            hex::decode_to_slice(edge, &mut word).unwrap();
            word[31] = if up { word[31].wrapping_add(by) } else { word[31].wrapping_sub(by) };
            word
        })
    }

    fn word() -> impl Strategy<Value = Word> {
        prop_oneof![1 => any::<Word>(), 1 => edge()]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn signer_of_anything_is_who_k256_says(r in word(), s in word(), v in 25..31_u8, digest in word()) {
            let mut signature = Signature([v; 65]);
            signature.0[..32].copy_from_slice(&r);
            signature.0[32..64].copy_from_slice(&s);
            prop_assert_eq!(signature.recover(&digest).ok(), recovered_by_k256(&signature, &digest));
        }

        #[test]
        fn signer_is_found_and_after_a_turned_bit_it_is_who_k256_says(digest in word(), bit in 0..520_usize) {
            let key = AccountKey::from_bytes(&[7; 32]).unwrap();
            let mut signature = key.sign_digest(&digest);
            prop_assert_eq!(signature.recover(&digest), Ok(key.node_id()));
            signature.0[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(signature.recover(&digest).ok(), recovered_by_k256(&signature, &digest));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn signer_is_the_same_in_c(r in word(), s in word(), odd in any::<bool>(), digest in word(), turned in 0..520_usize) {
            // Anything at all, and what was signed with a bit of it turned.
            let mut signed = AccountKey::from_bytes(&[7; 32]).unwrap().sign_digest(&digest);
            signed.0[turned / 8] ^= 1 << (turned % 8);
            for bytes in [[r, s].concat(), [r, signed.0[32..64].try_into().unwrap()].concat(), signed.0[..64].to_vec()] {
                if let Ok(signature) = k256::ecdsa::Signature::from_slice(&bytes) {
                    prop_assert_eq!(recovered_in_c(&digest, &signature, odd), recovered(&digest, &signature, odd));
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_500))]
        #[test]
        fn whatever_the_bytes_are_both_libraries_say_the_same(
            r in word(),
            s in word(),
            v in prop_oneof![4 => 27..31_u8, 1 => any::<u8>()],
            digest in word(),
            signed in any::<[bool; 3]>(),
            turned in prop::option::of(0..520_usize),
        ) {
            // A part of a real signature, or the other s that is as valid, or anything; and a bit of it all turned.
            let mut signature = AccountKey::from_bytes(&[7; 32]).unwrap().sign_digest(&digest);
            let [keep_r, keep_s, keep_v] = signed;
            if !keep_r {
                signature.0[..32].copy_from_slice(&r);
            }
            if !keep_s {
                signature.0[32..64].copy_from_slice(&s);
            }
            if !keep_v {
                signature.0[64] = v;
            }
            if let Some(bit) = turned {
                signature.0[bit / 8] ^= 1 << (bit % 8);
            }
            let reads = matches!(signature.0[64], 27 | 28) && k256::ecdsa::Signature::from_slice(&signature.0[..64]).is_ok();
            for signature in [Some(signature), reads.then(|| mirrored(signature))].into_iter().flatten() {
                let (ours, in_c) = (signature.recover_by(&digest, recovered), signature.recover_by(&digest, recovered_in_c));
                prop_assert_eq!(&ours, &in_c, "{:?} of {}", signature, hex::encode(digest));
                prop_assert_eq!(signature.recover(&digest), ours);
            }
        }
    }

    #[test]
    fn high_s_zeros_and_recovery_ids_that_ethereum_has_not_are_refused_by_both_libraries() {
        let digest = [3; 32];
        let good = AccountKey::from_bytes(&[7; 32]).unwrap().sign_digest(&digest);
        let with = |range: std::ops::Range<usize>, byte: u8| {
            let mut signature = good;
            signature.0[range].fill(byte);
            signature
        };
        let bad_recovery = |v| (with(64..65, v), SignatureError::BadRecovery { v });
        let refused = [0, 1, 2, 3, 26, 29, 30, 255].map(bad_recovery).into_iter().chain([
            (mirrored(good), SignatureError::HighS),
            (with(0..32, 0), SignatureError::Invalid),
            (with(32..64, 0), SignatureError::Invalid),
            (with(0..64, 0), SignatureError::Invalid),
            (with(0..32, 0xff), SignatureError::Invalid),
        ]);
        for (signature, error) in refused {
            assert_eq!(signature.recover_by(&digest, recovered), Err(error), "{signature:?}");
            assert_eq!(signature.recover_by(&digest, recovered_in_c), Err(error), "{signature:?}");
        }
    }

    /// With R the generator and s the digest, what is left of `s R - z G` is nothing.
    #[test]
    fn signature_that_would_be_by_the_point_at_infinity_is_by_nobody() {
        let mut signature = Signature([0; 65]);
        hex::decode_to_slice(
            "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798",
            &mut signature.0[..32],
        )
        .unwrap();
        signature.0[32..64].copy_from_slice(&[5; 32]);
        signature.0[64] = 27;
        assert_eq!(signature.recover(&[5; 32]), Err(SignatureError::Invalid));
        assert_eq!(recovered_by_k256(&signature, &[5; 32]), None);
        assert!(signature.recover(&[6; 32]).is_ok());
    }

    /// The same signature with s replaced by the group order minus s, and v flipped: valid ECDSA, refused here.
    fn mirrored(signature: Signature) -> Signature {
        let low = k256::ecdsa::Signature::from_slice(&signature.0[..64]).unwrap();
        let (r, s) = low.split_scalars();
        let high = k256::ecdsa::Signature::from_scalars(r.to_bytes(), (-*s).to_bytes()).unwrap();
        let mut bytes = [0; 65];
        bytes[..64].copy_from_slice(&high.to_bytes());
        bytes[64] = 55 - signature.0[64];
        Signature(bytes)
    }

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        let seed = Seed::from_bytes([0xab; 32]);
        let shown = format!("{seed:?} {:?}", Identity::new(&seed));
        assert!(!shown.contains("171") && !shown.contains("abab"), "{shown}");
    }

    #[test]
    fn wireguard_keys_are_written_as_wg_writes_them() {
        let key = identity().wireguard_key();
        assert_eq!(key.to_string().parse(), Ok(key));
        for wrong in ["", "AAAA", "rM2RfSHZSzTjSWL/CIP5AUU/5Yf47+DCK25IfXCITyd=", "?"] {
            assert_eq!(wrong.parse::<WireguardKey>(), Err(ParseError::NotAWireguardKey));
        }
    }

    #[test]
    fn a_tls_key_of_another_kind_is_refused() {
        let key = TlsKey([1; 32]);
        assert_eq!(TlsKey::from_spki(&key.spki()), Some(key));
        assert_eq!(TlsKey::from_spki(&key.spki()[..43]), None);
        assert_eq!(TlsKey::from_spki(&[&key.spki()[..], &[0]].concat()), None);
        assert_eq!(TlsKey::from_spki(&[]), None);
        assert_eq!(TlsKey::from_spki(&[0x30; 44]), None);
    }
}
