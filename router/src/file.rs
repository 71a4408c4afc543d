//! Small files that are there whole or not at all, whenever the power goes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

/// Puts `bytes` in place of whatever is at `path`, durably; readable by `mode`. The directory has to be there.
///
/// # Errors
/// The system's; then `path` is as it was.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    put(path, bytes, mode, None)
}

/// The same with mode 0600, for whom its directory belongs to: what root leaves for a daemon that runs as a user of its own.
///
/// # Errors
/// As for [`replace`].
#[cfg(any(feature = "ledger-remote", test))]
pub(crate) fn leave(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = fs::metadata(directory_of(path))?;
    put(path, bytes, 0o600, Some((directory.uid(), directory.gid())))
}

fn put(path: &Path, bytes: &[u8], mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    let fresh = beside(path);
    let put = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh)?;
        // By its descriptor: whoever has the directory may have put something else there.
        if let Some((user, group)) = owner.filter(|(user, _)| file.metadata().is_ok_and(|its| its.uid() != *user)) {
            fchown(&file, Some(user), Some(group))?;
        }
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&fresh, path)
    };
    // What a power cut left.
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    put().inspect_err(|_| {
        let _left = fs::remove_file(&fresh);
    })?;
    sync_directory(path)
}

/// Removes a file, durably. One that is not there is gone.
///
/// # Errors
/// The system's.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_directory(path),
    }
}

/// Its name with `.new` behind.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(directory_of(path))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_what_a_power_cut_left_is_no_hindrance() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("members.json");
        fs::write(beside(&path), "half").unwrap();
        replace(&path, b"one", 0o600).unwrap();
        replace(&path, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(replace(&directory.path().join("nowhere/file"), b"x", 0o600).is_err());
    }

    #[test]
    fn what_root_leaves_in_a_daemons_directory_is_the_daemons() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("enrolment");
        // Another user's, where there are rights for that; else one's own.
        let owner = std::os::unix::fs::chown(directory.path(), Some(4242), Some(4243)).map_or_else(
            |_| fs::metadata(directory.path()).map(|its| (its.uid(), its.gid())).unwrap(),
            |()| (4242, 4243),
        );
        leave(&path, b"code").unwrap();
        let found = fs::metadata(&path).unwrap();
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o777), (owner.0, owner.1, 0o600));
        assert_eq!(fs::read(&path).unwrap(), b"code");
    }
}
