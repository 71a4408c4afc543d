//! The key file: 32 secret bytes from which every key of this node derives.
//!
//! The file is one line of base64 with a newline at its end, the form `wg genkey` prints: it survives an editor, a
//! copy and paste and a printout. It is created on the first start with mode 0600, and refused when anyone but its
//! owner can read it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use metering::{Identity, Seed};
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

use crate::cli::Failure;

/// 32 bytes in base64, without the newline.
const TEXT_LEN: usize = 44;

/// Why there is no identity. The message names the file; [`KeyFileError::next_step`] says what to do.
#[derive(Debug, Error)]
pub enum KeyFileError {
    /// There is no such file, and it was not to be created.
    #[error("there is no key file {}", path.display())]
    Missing {
        /// The key file.
        path: PathBuf,
    },
    /// A directory, device or pipe stands where the key should be, or a symbolic link to nothing.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// The key file.
        path: PathBuf,
    },
    /// The group or everybody may read or write the key.
    #[error("{} is open to other users (mode {mode:04o})", path.display())]
    TooOpen {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The content is not one line of 44 base64 characters.
    #[error("{} does not hold a key: {why}", path.display())]
    Malformed {
        /// The key file.
        path: PathBuf,
        /// What is wrong with the content; never the content itself.
        why: &'static str,
    },
    /// The operating system refused.
    #[error("cannot {action} {}: {}", path.display(), plain(cause))]
    Io {
        /// What was tried: "read", "create".
        action: &'static str,
        /// The file or directory it was tried on.
        path: PathBuf,
        /// What the operating system said.
        cause: io::Error,
    },
}

impl KeyFileError {
    /// What the owner can do about it.
    pub fn next_step(&self) -> String {
        match self {
            Self::Missing { path } => {
                format!("create it with `waybill key --file {}`", path.display())
            }
            Self::NotAFile { .. } => "name another key file, or move what is in its place".to_owned(),
            Self::TooOpen { path, .. } => format!("close it with `chmod 600 {}`", path.display()),
            Self::Malformed { path, .. } => format!(
                "put the saved key back, or move {} away: a new identity is made at the next start",
                path.display()
            ),
            Self::Io { cause, .. } if cause.kind() == io::ErrorKind::PermissionDenied => {
                "run as the key's owner (usually root), or name another file".to_owned()
            }
            Self::Io { .. } => "check the directory and the free space, then try again".to_owned(),
        }
    }
}

impl From<KeyFileError> for Failure {
    fn from(error: KeyFileError) -> Self {
        Self::new(&error, error.next_step())
    }
}

/// Reads the identity in the key file, or makes a new one when there is no file yet.
///
/// A new key is durable, under its final name, before this returns: the file and its directory are synced.
///
/// # Errors
/// See [`KeyFileError`]; nothing is created or changed when the file exists.
pub fn load_or_create(path: &Path) -> Result<Identity, KeyFileError> {
    match load(path) {
        Err(KeyFileError::Missing { .. }) => {}
        result => return result,
    }
    create(path)?;
    load(path) // two first starts at once: both read the file that won
}

/// Reads the identity in the key file.
///
/// # Errors
/// See [`KeyFileError`].
pub fn load(path: &Path) -> Result<Identity, KeyFileError> {
    let mut file = open(path)?;
    let mut text = Zeroizing::new([0; TEXT_LEN + 2]); // one byte more than a key and its newline shows a longer file
    let mut len = 0;
    while len < text.len() {
        match file.read(&mut text[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(io_error("read", path)(cause)),
        }
    }
    let malformed = |why| KeyFileError::Malformed { path: path.to_owned(), why };
    Ok(Identity::new(&decode(&text[..len]).map_err(malformed)?))
}

/// Opens what is certainly a closed regular file: checked on the open descriptor, so that it cannot be swapped.
fn open(path: &Path) -> Result<File, KeyFileError> {
    let not_a_file = || KeyFileError::NotAFile { path: path.to_owned() };
    let kind = fs::metadata(path).map_err(|cause| {
        if cause.kind() != io::ErrorKind::NotFound {
            io_error("read", path)(cause)
        } else if fs::symlink_metadata(path).is_ok() {
            not_a_file() // a link to nothing
        } else {
            KeyFileError::Missing { path: path.to_owned() }
        }
    })?;
    if kind.is_dir() || kind.file_type().is_fifo() {
        return Err(not_a_file()); // a pipe would block in open
    }
    let file = File::open(path).map_err(io_error("read", path))?;
    let metadata = file.metadata().map_err(io_error("read", path))?;
    if !metadata.is_file() {
        return Err(not_a_file());
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::TooOpen { path: path.to_owned(), mode });
    }
    Ok(file)
}

fn decode(text: &[u8]) -> Result<Seed, &'static str> {
    let line = text.strip_suffix(b"\n").unwrap_or(text);
    match line.len() {
        0 => return Err("it is empty"),
        TEXT_LEN => {}
        len if len < TEXT_LEN => return Err("it is too short; a key is one line of 44 characters"),
        _ => return Err("it is too long; a key is one line of 44 characters"),
    }
    let mut decoded = Zeroizing::new([0; TEXT_LEN / 4 * 3]);
    if STANDARD.decode_slice(line, &mut decoded[..]) != Ok(32) {
        return Err("it is not 32 bytes of base64");
    }
    let mut seed = Zeroizing::new([0; 32]);
    seed.copy_from_slice(&decoded[..32]);
    if seed.iter().all(|byte| *byte == 0) {
        return Err("it is all zeros; a key is random");
    }
    Ok(Seed::from_bytes(*seed))
}

/// Writes a fresh key beside its place, syncs it, and links it there unless another process was first.
fn create(path: &Path) -> Result<(), KeyFileError> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(io_error("create", directory))?;

    let mut unsaved = path.as_os_str().to_owned();
    unsaved.push(format!(".{}.new", std::process::id()));
    let unsaved = PathBuf::from(unsaved);
    let written = write_fresh_key(&unsaved).and_then(|()| match fs::hard_link(&unsaved, path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => fs::rename(&unsaved, path),
        _ => Ok(()), // linked, or another process was first
    });
    let _ = fs::remove_file(&unsaved); // gone already if it was renamed
    written.map_err(io_error("create", path))?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(io_error("create", path))
}

fn write_fresh_key(path: &Path) -> io::Result<()> {
    let _ = fs::remove_file(path); // left by a process of the same id that was killed
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut seed[..])?;
    let mut line = STANDARD.encode(&seed[..]);
    line.push('\n');
    let written = file.write_all(line.as_bytes());
    line.zeroize();
    written.and_then(|()| file.sync_all())
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeyFileError {
    let path = path.to_owned();
    move |cause| KeyFileError::Io { action, path, cause }
}

/// What the operating system said, without the number.
pub(crate) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split_once(" (os error").map_or(text.as_str(), |(words, _)| words).to_lowercase()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn write(path: &Path, mode: u32, content: &[u8]) {
        fs::write(path, content).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn refusal(path: &Path) -> String {
        let error = load_or_create(path).expect_err("the file is refused");
        format!("{error}\n  {}", error.next_step()).replace(&path.display().to_string(), "KEY")
    }

    #[test]
    fn first_start_makes_a_closed_key_and_the_second_reads_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/er/key");
        let first = load_or_create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::read(&path).unwrap().len(), TEXT_LEN + 1);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else is left behind");
        assert_eq!(load_or_create(&path).unwrap().node_id(), first.node_id());
        assert_eq!(load(&path).unwrap().node_id(), first.node_id());
    }

    #[test]
    fn two_first_starts_at_once_agree() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        create(&path).unwrap();
        let first = load(&path).unwrap().node_id();
        create(&path).unwrap();
        assert_eq!(load(&path).unwrap().node_id(), first);
    }

    #[test]
    fn a_key_others_can_read_is_refused_with_the_command_that_closes_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        load_or_create(&path).unwrap();
        for mode in [0o640, 0o604, 0o660, 0o601] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(
                refusal(&path),
                format!("KEY is open to other users (mode {mode:04o})\n  close it with `chmod 600 KEY`")
            );
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        assert!(load(&path).is_ok(), "read-only is closed enough");
    }

    #[test]
    fn wrong_content_is_refused_by_name_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        for (content, why) in [
            (&b""[..], "it is empty"),
            (b"\n", "it is empty"),
            (b"AAAA\n", "it is too short; a key is one line of 44 characters"),
            (&[b'A'; 45], "it is too long; a key is one line of 44 characters"),
            (&[b'A'; 4000], "it is too long; a key is one line of 44 characters"),
            (&[0xff; 44], "it is not 32 bytes of base64"),
            (&[b'A'; 44], "it is not 32 bytes of base64"),
            (b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n", "it is all zeros; a key is random"),
        ] {
            write(&path, 0o600, content);
            let said = refusal(&path);
            assert!(said.starts_with(&format!("KEY does not hold a key: {why}\n")), "{said}");
            assert_eq!(fs::read(&path).unwrap(), content);
        }
    }

    #[test]
    fn only_a_regular_file_is_a_key_file() {
        let directory = tempfile::tempdir().unwrap();
        assert!(refusal(directory.path()).starts_with("KEY is not a regular file\n"));
        assert!(refusal(Path::new("/dev/null")).starts_with("KEY is not a regular file\n"));
        let dangling = directory.path().join("link");
        std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
        assert!(refusal(&dangling).starts_with("KEY is not a regular file\n"));
    }

    #[test]
    fn a_missing_key_is_only_made_when_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let error = load(&path).expect_err("there is no key");
        assert_eq!(error.next_step(), format!("create it with `waybill key --file {}`", path.display()));
        assert!(!path.exists());
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let said = refusal(Path::new("/proc/nowhere/key"));
        assert!(said.starts_with("cannot create /proc/nowhere: "), "{said}");
    }
}
