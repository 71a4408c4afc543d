//! What can be wrong with a ledger's file.

use std::io;
use std::path::{Path, PathBuf};

use ledger_core::records::NotConserved;
use ledger_core::{Refusal, UnixTime};
use metering::NodeId;
use rusqlite::ErrorCode;
use thiserror::Error;

/// Why the ledger did not do or say what it was asked. Nothing has happened.
#[derive(Debug, Error)]
pub enum Error {
    /// A rule forbids it: the caller must ask for something else.
    #[error("the ledger refuses it ({}): {_0}", _0.rule())]
    Refused(Refusal),
    /// Another process has been writing for longer than [`crate::BUSY_TIMEOUT`]: try again.
    #[error("{} is busy: another process is writing", path.display())]
    Busy {
        /// The ledger's file.
        path: PathBuf,
    },
    /// The clock is more than [`crate::MAX_REST_S`] ahead of the newest entry: the operator sets it, or looks and says that it is
    /// right ([`crate::Embedded::accept_time`]).
    #[error(
        "the clock says {}, and the newest entry of {} is of {}: set the clock, or accept the time if it is right",
        now.utc(), path.display(), newest.utc()
    )]
    ClockAhead {
        /// The ledger's file.
        path: PathBuf,
        /// When the newest entry happened.
        newest: UnixTime,
        /// What the clock says.
        now: UnixTime,
    },
    /// No space left: the operator must make room.
    #[error("no space left for {}", path.display())]
    DiskFull {
        /// The ledger's file.
        path: PathBuf,
    },
    /// There is no such file: the operator gave a wrong path, or has not created the ledger.
    #[error("there is no ledger at {}", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The file, or its directory, may not be read or written by this user.
    #[error("{} may not be opened for reading and writing", path.display())]
    Denied {
        /// The ledger's file.
        path: PathBuf,
    },
    /// The file is something else, and was left as it is.
    #[error("{} is not a Waybill ledger", path.display())]
    NotALedger {
        /// The file.
        path: PathBuf,
    },
    /// Creating it was interrupted: the operator removes it and creates it again.
    #[error("{} is empty: creating the ledger was interrupted", path.display())]
    Unfinished {
        /// The file.
        path: PathBuf,
    },
    /// A newer program made it: the operator updates this one.
    #[error("{} has format {found}, and this program knows {known}", path.display())]
    NewerFormat {
        /// The ledger's file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest this program knows.
        known: u32,
    },
    /// An older program made it, whose format this one does not read: the operator founds the ledger anew.
    #[error("{} has format {found}, and this program reads {known} and newer", path.display())]
    OlderFormat {
        /// The ledger's file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The oldest this program reads.
        known: u32,
    },
    /// It is another ledger than the one that was expected.
    #[error("{} is the ledger {found} of {community:?}, not {expected}", path.display())]
    OtherLedger {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        community: String,
        /// What receipts for it name as the contract.
        found: NodeId,
        /// What was expected.
        expected: NodeId,
    },
    /// The key that should sign checkpoints is another log's: the operator has named the wrong one.
    #[error("{} signs its checkpoints as {origin}, and the key is {name}'s", path.display())]
    OtherSigner {
        /// The ledger's file.
        path: PathBuf,
        /// The name of the key.
        name: String,
        /// What it would have to be.
        origin: String,
    },
    /// Entries that were published are missing: the operator restored an old copy, and must find a newer one, or found the
    /// ledger anew. Going on would fork the log.
    #[error("{} has {size} entries, and {published} were published: it is an old copy", path.display())]
    Rewound {
        /// The ledger's file.
        path: PathBuf,
        /// How many entries it has.
        size: u64,
        /// How many had been published.
        published: u64,
    },
    /// The log is not the one that was published: the operator must find the right file. Going on would fork the log.
    #[error("the first {published} entries of {} are not those that were published", path.display())]
    Forked {
        /// The ledger's file.
        path: PathBuf,
        /// How many had been published.
        published: u64,
    },
    /// The file is damaged, or was written to by hand: the operator restores it.
    #[error("{} is damaged: {what}", path.display())]
    Damaged {
        /// The ledger's file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// SQLite has another complaint.
    #[error("{} cannot be used", path.display())]
    Sqlite {
        /// The ledger's file.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// The operating system has another complaint.
    #[error("{} cannot be used", path.display())]
    Io {
        /// The ledger's file.
        path: PathBuf,
        /// What it says.
        source: io::Error,
    },
}

/// Why a ledger was not created.
#[derive(Debug, Error)]
pub enum CreateError {
    /// There is a file already. It was left as it is.
    #[error("{} exists already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// It could not be written or opened.
    #[error(transparent)]
    Failed(#[from] Error),
}

impl Error {
    pub(crate) fn sqlite(path: &Path, error: rusqlite::Error) -> Self {
        Fault::from(error).at(path)
    }

    /// The same of another file: of the one that was copied, where the copy is in the way of being made.
    pub(crate) fn of(mut self, file: &Path) -> Self {
        match &mut self {
            Self::Refused(_) => {}
            Self::Busy { path }
            | Self::DiskFull { path }
            | Self::Missing { path }
            | Self::Denied { path }
            | Self::NotALedger { path }
            | Self::Unfinished { path }
            | Self::NewerFormat { path, .. }
            | Self::OlderFormat { path, .. }
            | Self::OtherLedger { path, .. }
            | Self::OtherSigner { path, .. }
            | Self::ClockAhead { path, .. }
            | Self::Rewound { path, .. }
            | Self::Forked { path, .. }
            | Self::Damaged { path, .. }
            | Self::Sqlite { path, .. }
            | Self::Io { path, .. } => file.clone_into(path),
        }
        self
    }

    pub(crate) fn io(path: &Path, source: io::Error) -> Self {
        use io::ErrorKind as Kind;
        let (path, kind) = (path.to_owned(), source.kind());
        if kind == Kind::NotFound {
            Self::Missing { path }
        } else if [Kind::PermissionDenied, Kind::ReadOnlyFilesystem].contains(&kind) {
            Self::Denied { path }
        } else if [Kind::StorageFull, Kind::QuotaExceeded].contains(&kind) {
            Self::DiskFull { path }
        } else {
            Self::Io { path, source }
        }
    }

    pub(crate) fn damaged(path: &Path, what: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), what: what.into() }
    }
}

/// An error inside of a transaction, which does not know the path.
#[derive(Debug)]
pub(crate) enum Fault {
    Sqlite(rusqlite::Error),
    Damaged(String),
    /// The hash of all records is not what was written. It can be made anew from them, unlike anything else.
    Hashes(String),
    ClockAhead {
        newest: UnixTime,
        now: UnixTime,
    },
}

impl Fault {
    pub(crate) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged(what.into())
    }

    pub(crate) fn at(self, path: &Path) -> Error {
        let path = path.to_owned();
        let source = match self {
            Self::Damaged(what) | Self::Hashes(what) => return Error::Damaged { path, what },
            Self::ClockAhead { newest, now } => return Error::ClockAhead { path, newest, now },
            Self::Sqlite(source) => source,
        };
        match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Error::Busy { path },
            Some(ErrorCode::DiskFull) => Error::DiskFull { path },
            Some(ErrorCode::NotADatabase) => Error::NotALedger { path },
            Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly | ErrorCode::CannotOpen) => Error::Denied { path },
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch) => {
                Error::Damaged { path, what: source.to_string() }
            }
            _ => Error::Sqlite { path, source },
        }
    }
}

/// A row that is not there or not of our shape is damage: nobody but us writes rows.
impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::Error as E;
        if matches!(error, E::QueryReturnedNoRows) {
            return Self::damaged("a row is missing");
        }
        if matches!(error, E::FromSqlConversionFailure(..) | E::InvalidColumnType(..) | E::IntegralValueOutOfRange(..))
        {
            return Self::damaged(error.to_string());
        }
        Self::Sqlite(error)
    }
}

impl From<NotConserved> for Fault {
    fn from(error: NotConserved) -> Self {
        Self::damaged(error.to_string())
    }
}
