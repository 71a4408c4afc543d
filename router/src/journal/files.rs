//! The files of a journal: their names, their lock, and how they are renamed.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::JournalError;

/// Mode of every file here: receipts and balances are the owner's business.
pub(super) const OWNER_ONLY: u32 = 0o600;

/// What SQLite keeps beside a file.
pub(super) const SIDECARS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// The path with `suffix` after its last letter.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

pub(super) fn lock_of(path: &Path) -> PathBuf {
    beside(path, ".lock")
}

/// One daemon at a time. A lock of our own besides SQLite's: it also covers the anchors and the renaming of files.
pub(super) fn take_lock(path: &Path) -> Result<File, JournalError> {
    let lock = lock_of(path);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(OWNER_ONLY)
        .open(&lock)
        .map_err(|source| io_error("open", &lock, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(JournalError::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(io_error("lock", &lock, source)),
    }
}

/// Completes a [`replace`] that power cut short after the old file was gone.
pub(super) fn finish_replacement(path: &Path) -> Result<(), JournalError> {
    if is_file(path)? {
        return Ok(());
    }
    // A log without its file would be played into the next one.
    set_aside(path)?;
    let new = beside(path, ".new");
    let is_complete = !SIDECARS.iter().any(|suffix| beside(&new, suffix).exists());
    if is_complete && is_file(&new)? && fs::metadata(&new).is_ok_and(|meta| meta.len() > 0) {
        rename(&new, path)?;
        return sync_directory_of(path).map_err(|source| io_error("write the directory of", path, source));
    }
    remove(&new)
}

/// Renames the file and what SQLite keeps beside it to the first free `NAME.damaged-<n>`; answers where the file is.
pub(super) fn set_aside(path: &Path) -> Result<Option<PathBuf>, JournalError> {
    let is_free = |to: &PathBuf| !to.exists() && !SIDECARS.iter().any(|suffix| beside(to, suffix).exists());
    let Some(to) = (1..=u32::MAX).map(|n| beside(path, &format!(".damaged-{n}"))).find(is_free) else {
        return Err(io_error("set aside", path, io::ErrorKind::AlreadyExists.into()));
    };
    let is_there = path.exists();
    if is_there {
        rename(path, &to)?;
    }
    for suffix in SIDECARS {
        if beside(path, suffix).exists() {
            rename(&beside(path, suffix), &beside(&to, suffix))?;
        }
    }
    Ok(is_there.then_some(to))
}

/// Whether the journal is there; anything but a regular file in its place is an error, for opening it may hang.
pub(super) fn is_file(path: &Path) -> Result<bool, JournalError> {
    match fs::metadata(path) {
        Ok(meta) if meta.is_file() => Ok(true),
        Ok(_) => Err(JournalError::NotAFile { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(io_error("open", path, source)),
    }
}

pub(super) fn remove(path: &Path) -> Result<(), JournalError> {
    remove_file(path)?;
    SIDECARS.iter().try_for_each(|suffix| remove_file(&beside(path, suffix)))
}

pub(super) fn remove_file(path: &Path) -> Result<(), JournalError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path, source)),
        _ => Ok(()),
    }
}

pub(super) fn rename(from: &Path, to: &Path) -> Result<(), JournalError> {
    fs::rename(from, to).map_err(|source| io_error("rename", from, source))
}

/// A new or renamed file is durable when its directory is.
pub(super) fn sync_directory_of(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

pub(super) fn io_error(action: &'static str, path: &Path, source: io::Error) -> JournalError {
    let path = path.to_owned();
    if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        return JournalError::DiskFull { action, path };
    }
    JournalError::Io { action, path, source }
}
