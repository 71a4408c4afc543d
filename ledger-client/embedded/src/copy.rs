//! Copies of a ledger's file: taken while it is in use, and put back.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicUsize, Ordering};

use ledger_core::Head;
use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use thiserror::Error;

use crate::file::{sync_directory, with_ending};
use crate::{Audit, Clock, CreateError, Difference, Embedded, Error, Verdict};

/// How much is copied between two words on how far it is.
const PAGES_AT_ONCE: i32 = 256;

/// How far a copy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What is copied.
    pub done: u64,
    /// Of how much, in the same unit.
    pub of: u64,
}

/// Why a ledger was not restored. There is no new file.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// There is a ledger already, or what one has left behind. It was left as it is.
    #[error("{} exists already", path.display())]
    Exists {
        /// Which file.
        path: PathBuf,
    },
    /// The copy is not what its log says: the operator must find another one.
    #[error("{} is not what its log says: {difference}", path.display())]
    Broken {
        /// The copy.
        path: PathBuf,
        /// What is wrong with it.
        difference: Box<Difference>,
    },
    /// It could not be read or written, is no ledger, or, as [`Error::Rewound`] and [`Error::Forked`], not the newest.
    #[error(transparent)]
    Failed(#[from] Error),
}

impl Embedded {
    /// Copies the ledger as it is at this moment to a new file, readable by its owner only, while others read and write. The
    /// copy is on the disk when this returns, and opens; a copy that is cut short has a name that ends in `.part`.
    ///
    /// # Errors
    /// [`CreateError`]; a file that is there already is left as it is.
    pub fn backup(&mut self, to: &Path, mut progress: impl FnMut(Progress)) -> Result<Head, CreateError> {
        let exists = || CreateError::Exists { path: to.to_owned() };
        if is_there(to) {
            return Err(exists());
        }
        let part = Part::beside(to)?;
        self.copy_to(&part.0, &mut progress)?;
        let head = Self::open(&part.0, Box::new(ledger_core::UnixTime::default))?.head()?;
        if part.place(to)? { Ok(head) } else { Err(exists()) }
    }

    fn copy_to(&mut self, part: &Path, progress: &mut impl FnMut(Progress)) -> Result<(), Error> {
        let (theirs, ours) = (|error| Error::sqlite(part, error), self.path.clone());
        let mut target = Connection::open(part).map_err(theirs)?;
        target.pragma_update(None, "synchronous", "FULL").map_err(theirs)?;
        // All steps within one transaction: who writes meanwhile does not make it begin anew.
        let transaction = self.connection.transaction().map_err(|error| Error::sqlite(&ours, error))?;
        transaction
            .query_row("SELECT size FROM ledger", [], |_| Ok(()))
            .map_err(|error| Error::sqlite(&ours, error))?;
        let backup = Backup::new(&transaction, &mut target).map_err(theirs)?;
        loop {
            let step = backup.step(PAGES_AT_ONCE).map_err(theirs)?;
            let pages = backup.progress();
            let of = u64::try_from(pages.pagecount).unwrap_or(0);
            progress(Progress { done: of - u64::try_from(pages.remaining).unwrap_or(0).min(of), of });
            match step {
                StepResult::Done => return Ok(()),
                StepResult::More => {}
                StepResult::Busy | StepResult::Locked | _ => return Err(Error::Busy { path: part.to_owned() }),
            }
        }
    }

    /// Puts a copy of a ledger in place, where there is none: audits it whole, makes sure that it continues what was
    /// `published`, and only then gives it its name. The copy itself is not written to. Nobody else may be writing it.
    ///
    /// # Errors
    /// [`RestoreError`]
    pub fn restore(
        from: &Path,
        to: &Path,
        published: Option<&Head>,
        clock: Clock,
        mut progress: impl FnMut(Progress),
    ) -> Result<(Self, Audit), RestoreError> {
        // An old log beside the new file would be taken for its own.
        for path in ["", "-wal", "-shm", "-journal"].map(|end| with_ending(to, end)) {
            if is_there(&path) {
                return Err(RestoreError::Exists { path });
            }
        }
        let part = Part::beside(to)?;
        copy_file(from, &part.0, &mut progress)?;
        let log = with_ending(from, "-wal");
        if is_there(&log) {
            // What was copied by other means than `backup` has its newest entries here.
            copy_file(&log, &with_ending(&part.0, "-wal"), &mut |_| ())?;
        }
        let audit = prove(from, &part.0, published)?;
        if !part.place(to)? {
            return Err(RestoreError::Exists { path: to.to_owned() });
        }
        Ok((Self::open(to, clock)?, audit))
    }
}

/// Whether what was copied `from` somewhere is a whole ledger, and none that was left behind.
fn prove(from: &Path, part: &Path, published: Option<&Head>) -> Result<Audit, RestoreError> {
    let named = |error: Error| RestoreError::Failed(error.of(from));
    let mut ledger = Embedded::open(part, Box::new(ledger_core::UnixTime::default)).map_err(named)?;
    let audit = match ledger.audit().map_err(named)? {
        Verdict::Kept(audit) => audit,
        Verdict::Broken(difference) => {
            return Err(RestoreError::Broken { path: from.to_owned(), difference: difference.into() });
        }
    };
    published.map_or(Ok(()), |published| ledger.must_continue(published)).map_err(named)?;
    // All is in the file itself, and no log is left beside it, once nobody has it open.
    let emptied = "PRAGMA wal_checkpoint(TRUNCATE)";
    ledger.connection.query_row(emptied, [], |_| Ok(())).map_err(|error| named(Error::sqlite(from, error)))?;
    Ok(audit)
}

/// A file on its way to its name. Where it does not get there, it is removed.
struct Part(PathBuf);

impl Part {
    /// A new file, in the directory where it is to stay.
    fn beside(to: &Path) -> Result<Self, Error> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = with_ending(to, &format!(".{}-{number}.part", process::id()));
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(_) => return Ok(Self(path)),
                // Somebody was cut short who had our number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::io(to, error)),
            }
        }
    }

    /// Gives it its name, on the disk, unless something has that name.
    fn place(self, to: &Path) -> Result<bool, Error> {
        let io = |error| Error::io(to, error);
        File::open(&self.0).and_then(|file| file.sync_all()).map_err(io)?;
        match fs::hard_link(&self.0, to) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            // A file system without links, as on a memory stick.
            Err(_) if !is_there(to) => fs::rename(&self.0, to).map_err(io)?,
            Err(error) => return Err(io(error)),
        }
        sync_directory(to)?;
        Ok(true)
    }
}

/// Writes a small file, in place of what it was: on the disk when this returns, and never half of it.
///
/// # Errors
/// [`Error`]; then it is what it was.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let (part, io) = (Part::beside(path)?, |error| Error::io(path, error));
    fs::write(&part.0, bytes).and_then(|()| File::open(&part.0)?.sync_all()).map_err(io)?;
    fs::rename(&part.0, path).map_err(io)?;
    sync_directory(path)
}

impl Drop for Part {
    fn drop(&mut self) {
        for end in ["", "-wal", "-shm", "-journal"] {
            // It may have its name by now, or never have been there.
            let _ = fs::remove_file(with_ending(&self.0, end));
        }
    }
}

fn copy_file(from: &Path, to: &Path, progress: &mut impl FnMut(Progress)) -> Result<(), Error> {
    let theirs = |error| Error::io(from, error);
    let mut source = File::open(from).map_err(theirs)?;
    let mut progressed = Progress { done: 0, of: source.metadata().map_err(theirs)?.len() };
    let new = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(to);
    let mut target = new.map_err(|error| Error::io(to, error))?;
    let mut chunk = vec![0; 1 << 20];
    loop {
        let length = source.read(&mut chunk).map_err(theirs)?;
        let Some(bytes) = chunk.get(..length).filter(|bytes| !bytes.is_empty()) else {
            return target.sync_all().map_err(|error| Error::io(to, error));
        };
        target.write_all(bytes).map_err(|error| Error::io(to, error))?;
        progressed.done += bytes.len() as u64;
        progress(progressed);
    }
}

fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}
