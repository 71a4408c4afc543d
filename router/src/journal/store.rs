//! The SQLite file of a journal: how it is examined, begun, written and trusted.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use metering::LedgerDomain;
use rusqlite::config::DbConfig;
use rusqlite::types::FromSql;
use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};

use super::files::{
    OWNER_ONLY, SIDECARS, beside, io_error, is_file, remove, remove_file, rename, set_aside, sync_directory_of,
};
use super::reserve::{empty_log, noise};
use super::state::{JOURNAL, Row, SPARE, State, VERSION, read_heading_value, seal};
use super::{CHANNELS_MAX, JournalError};

/// Marks an SQLite file as a journal (`PRAGMA application_id`): "WAYB".
const APPLICATION_ID: i64 = 0x5741_5942;

/// Small pages: a commit writes whole pages, and a router's flash wears by what is written.
pub(super) const PAGE_SIZE: i64 = 1024;

/// The write-ahead log is folded into the file when it has this many pages (256 KiB).
pub(super) const WAL_PAGES: i64 = 256;

/// Pages kept free in the file (see [`super::reserve`]): lines of the days of eight neighbours for a month.
const FREE_PAGES: i64 = 64;

/// `PRAGMA synchronous`: the log is flushed at every commit. `NORMAL` would lose acknowledged commits in a power cut.
const SYNCHRONOUS_FULL: i64 = 2;

/// The one table. A row is a record's newest state; `seal` ties the row together (see [`seal`]).
const SCHEMA: &str = "CREATE TABLE record (kind TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, \
                      seal BLOB NOT NULL, PRIMARY KEY (kind, key)) STRICT, WITHOUT ROWID";

pub(super) const UPSERT: &str = "INSERT INTO record (kind, key, value, seal) VALUES (?1, ?2, ?3, ?4) \
                      ON CONFLICT DO UPDATE SET value = excluded.value, seal = excluded.seal";

/// A journal file that was looked into.
pub(super) struct Found {
    pub(super) connection: Connection,
    /// What could be proven; all there is, where nothing is at fault.
    pub(super) state: State,
    pub(super) fault: Option<String>,
}

/// What stands in the way of using a file.
pub(super) enum Fault {
    /// Nobody but us has to act.
    Damage(String),
    /// A person has to look.
    Refuse(JournalError),
}

impl Fault {
    fn damage(why: impl Into<String>) -> Self {
        Self::Damage(why.into())
    }

    pub(super) fn from_sqlite(action: &'static str, path: &Path, error: rusqlite::Error) -> Self {
        let path = path.to_owned();
        let Some(code) = error.sqlite_error() else {
            // Not SQLite but a value of another type than asked for.
            return Self::damage(error.to_string());
        };
        match (code.code, code.extended_code) {
            (ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase, _)
            | (_, ffi::SQLITE_IOERR_READ | ffi::SQLITE_IOERR_SHORT_READ | ffi::SQLITE_IOERR_CORRUPTFS) => {
                Self::damage(error.to_string())
            }
            (ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked, _) => Self::Refuse(JournalError::Locked { path }),
            (ErrorCode::DiskFull, _) => Self::Refuse(JournalError::DiskFull { action, path }),
            _ => Self::Refuse(JournalError::Sqlite { action, path, source: error }),
        }
    }

    /// While a file is only read, SQLite's complaint is about the file, unless it is plainly about something else.
    fn while_reading(path: &Path, error: rusqlite::Error) -> Self {
        let is_about_the_file = !matches!(
            error.sqlite_error_code(),
            Some(
                ErrorCode::OutOfMemory
                    | ErrorCode::PermissionDenied
                    | ErrorCode::CannotOpen
                    | ErrorCode::SystemIoFailure
                    | ErrorCode::FileLockingProtocolFailed
            )
        );
        match Self::from_sqlite("read", path, error) {
            Self::Refuse(JournalError::Sqlite { source, .. }) if is_about_the_file => Self::Damage(source.to_string()),
            fault @ (Self::Damage(_) | Self::Refuse(_)) => fault,
        }
    }

    pub(super) fn into_error(self, path: &Path) -> JournalError {
        match self {
            Self::Damage(why) => JournalError::Damaged { path: path.to_owned(), why },
            Self::Refuse(error) => error,
        }
    }
}

/// Looks into the journal at `path`, if there is one.
pub(super) fn find(path: &Path, domain: &LedgerDomain) -> Result<Option<Found>, JournalError> {
    if !is_file(path)? {
        return Ok(None);
    }
    let connection = connect(path)?;
    let mut state = State::default();
    let fault = match examine(path, &connection, domain, &mut state) {
        Ok(()) => None,
        Err(Fault::Damage(why)) => Some(why),
        Err(Fault::Refuse(error)) => return Err(error),
    };
    Ok(Some(Found { connection, state, fault }))
}

pub(super) fn salvage(found: Option<Found>) -> (State, Option<String>) {
    // The connection closes here, before its files are renamed.
    found.map_or_else(Default::default, |found| (found.state, found.fault))
}

/// Reads everything into `state`, and answers what is wrong with the file.
fn examine(path: &Path, connection: &Connection, domain: &LedgerDomain, state: &mut State) -> Result<(), Fault> {
    let of = |error| Fault::while_reading(path, error);
    if pragma::<i64>(connection, "application_id").map_err(of)? != APPLICATION_ID {
        return Err(Fault::damage("it is not a journal"));
    }
    // A journal always has a write-ahead log. With one flipped bit SQLite would think otherwise, and pass the log by.
    if pragma::<String>(connection, "journal_mode").map_err(of)? != "wal" {
        return Err(Fault::damage("its header denies the write-ahead log"));
    }
    if pragma::<i64>(connection, "page_size").map_err(of)? != PAGE_SIZE {
        return Err(Fault::damage("its pages have another size"));
    }
    let tables = "SELECT sql FROM sqlite_schema";
    if strings(connection, tables).map_err(of)? != [SCHEMA] {
        return Err(Fault::damage("it holds other tables than a journal"));
    }
    state.version = read_heading(path, connection, domain)?;
    let damaged_rows = read_rows(connection, domain, state).map_err(of)?;
    if damaged_rows > 0 {
        return Err(Fault::damage(format!("{damaged_rows} of its rows are damaged")));
    }
    if connection.is_readonly("main").map_err(of)? {
        return Err(Fault::damage("its header forbids writing"));
    }
    let complaints = strings(connection, "PRAGMA quick_check(1)").map_err(of)?;
    if complaints != ["ok"] {
        return Err(Fault::Damage(complaints.join("; ")));
    }
    Ok(())
}

/// The heading says what the other rows mean; it is the only row that is sealed without a ledger.
fn read_heading(path: &Path, connection: &Connection, wanted: &LedgerDomain) -> Result<u16, Fault> {
    let query = "SELECT value, seal FROM record WHERE kind = ?1";
    let (value, sealed): (Vec<u8>, Vec<u8>) =
        connection.query_row(query, [JOURNAL], |row| Ok((row.get(0)?, row.get(1)?))).map_err(|error| {
            if error == rusqlite::Error::QueryReturnedNoRows {
                return Fault::damage("its heading is missing");
            }
            Fault::while_reading(path, error)
        })?;
    let heading = (sealed == seal(None, JOURNAL, &[], &value)).then(|| read_heading_value(&value)).flatten();
    let Some((version, found)) = heading else {
        return Err(Fault::damage("its heading is damaged"));
    };
    if version > VERSION {
        return Err(Fault::Refuse(JournalError::Newer { path: path.to_owned(), version }));
    }
    refuse_other_ledger(path, &found, wanted).map_err(Fault::Refuse)?;
    Ok(version)
}

/// Reads every row that is intact; answers how many are not.
fn read_rows(connection: &Connection, domain: &LedgerDomain, state: &mut State) -> rusqlite::Result<usize> {
    let mut statement = connection.prepare("SELECT kind, key, value, seal FROM record")?;
    let mut rows = statement.query([])?;
    let mut damaged = 0;
    while let Some(row) = rows.next()? {
        let (kind, key) = (row.get_ref(0)?.as_bytes()?, row.get_ref(1)?.as_bytes()?);
        let (value, sealed) = (row.get_ref(2)?.as_bytes()?, row.get_ref(3)?.as_bytes()?);
        let Ok(kind) = str::from_utf8(kind) else {
            damaged += 1;
            continue;
        };
        let ledger = (kind != JOURNAL).then_some(domain);
        let is_intact = sealed == seal(ledger, kind, key, value)
            && state.read_row(kind, key, value, domain).is_some()
            && state.entries_max() <= CHANNELS_MAX;
        damaged += usize::from(!is_intact);
        if state.entries_max() > CHANNELS_MAX {
            break;
        }
    }
    Ok(damaged)
}

/// Puts a new journal that knows `state` in the place of whatever is at `path`, and says where that went. Whenever
/// power fails, the old file, the new one, or both are there in full; [`finish_replacement`] sorts it out.
pub(super) fn replace(path: &Path, domain: &LedgerDomain, state: &State) -> Result<Option<PathBuf>, JournalError> {
    let new = beside(path, ".new");
    remove(&new)?;
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(OWNER_ONLY)
        .open(&new)
        .map_err(|source| io_error("create", &new, source))?;
    let mut connection = connect(&new)?;
    begin(&mut connection, domain, &state.rows(domain))
        .map_err(|error| Fault::from_sqlite("begin", path, error).into_error(path))?;
    drop(connection);
    for suffix in SIDECARS {
        remove_file(&beside(&new, suffix))?;
    }
    let to = set_aside(path)?;
    rename(&new, path)?;
    sync_directory_of(path).map_err(|source| io_error("write the directory of", path, source))?;
    Ok(to)
}

/// Writes a whole journal under SQLite's own rollback journal, and then declares the write-ahead log.
fn begin(connection: &mut Connection, domain: &LedgerDomain, rows: &[Row]) -> rusqlite::Result<()> {
    connection.pragma_update(None, "page_size", PAGE_SIZE)?;
    connection.pragma_update(None, "synchronous", SYNCHRONOUS_FULL)?;
    let transaction = connection.transaction()?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.execute_batch(SCHEMA)?;
    insert_rows(&transaction, domain, rows)?;
    transaction.commit()?;
    connection.pragma_update(None, "journal_mode", "wal")
}

pub(super) fn insert(connection: &mut Connection, domain: &LedgerDomain, rows: &[Row]) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    insert_rows(&transaction, domain, rows)?;
    transaction.commit()
}

fn insert_rows(connection: &Connection, domain: &LedgerDomain, rows: &[Row]) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(UPSERT)?;
    for Row { kind, key, value } in rows {
        let ledger = (*kind != JOURNAL).then_some(domain);
        statement.execute((kind, key, value, seal(ledger, kind, key, value)))?;
    }
    Ok(())
}

/// Deletes the rows of a kind whose keys are below `first`.
pub(super) fn forget(connection: &Connection, kind: &str, first: &[u8]) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM record WHERE kind = ?1 AND key < ?2", (kind, first)).map(|_| ())
}

/// Deletes rows by kind and key, all or none.
pub(super) fn delete(connection: &mut Connection, rows: &[(&str, [u8; 48])]) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for row in rows {
        transaction.execute("DELETE FROM record WHERE kind = ?1 AND key = ?2", *row)?;
    }
    transaction.commit()
}

pub(super) fn refuse_other_ledger(
    path: &Path,
    found: &LedgerDomain,
    wanted: &LedgerDomain,
) -> Result<(), JournalError> {
    if found == wanted {
        return Ok(());
    }
    let text = |domain: &LedgerDomain| format!("chain {} contract {}", domain.chain_id, domain.contract);
    Err(JournalError::OtherLedger { path: path.to_owned(), found: text(found), wanted: text(wanted) })
}

/// A connection that changes nothing by being opened and closed, whatever the file holds.
pub(super) fn connect(path: &Path) -> Result<Connection, JournalError> {
    let of = |source| Fault::from_sqlite("open", path, source).into_error(path);
    fs::set_permissions(path, fs::Permissions::from_mode(OWNER_ONLY))
        .map_err(|source| io_error("protect", path, source))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(uri(path), flags).map_err(of)?;
    if connection.is_readonly("main").map_err(of)? {
        return Err(io_error("write", path, io::ErrorKind::ReadOnlyFilesystem.into()));
    }
    let prepare = || {
        // First of all: without shared memory the log also works on jffs2, and nobody else can come between.
        connection.pragma_update(None, "locking_mode", "exclusive")?;
        connection.pragma_update(None, "trusted_schema", false)?;
        connection.pragma_update(None, "cell_size_check", true)?;
        connection.pragma_update(None, "temp_store", "memory")?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        // A damaged file is kept as it was found; and of a whole one the log keeps its length (see `fold_log`).
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
    };
    prepare().map_err(of)?;
    Ok(connection)
}

/// Turns on what durability rests on, and believes none of it before asking.
pub(super) fn make_safe(path: &Path, connection: &Connection) -> Result<(), JournalError> {
    let of = |error| Fault::from_sqlite("set up", path, error).into_error(path);
    connection.pragma_update(None, "synchronous", SYNCHRONOUS_FULL).map_err(of)?;
    connection.pragma_update(None, "wal_autocheckpoint", WAL_PAGES).map_err(of)?;
    demand(path, connection, "journal_mode", "wal".to_owned())?;
    demand(path, connection, "locking_mode", "exclusive".to_owned())?;
    demand(path, connection, "synchronous", SYNCHRONOUS_FULL)?;
    demand(path, connection, "page_size", PAGE_SIZE)
}

/// Sees to it that rows can be added without the file growing, where there is room.
pub(super) fn keep_free_pages(connection: &mut Connection, domain: &LedgerDomain) -> rusqlite::Result<()> {
    if pragma::<i64>(connection, "freelist_count")? >= FREE_PAGES / 2 {
        return Ok(());
    }
    let len = usize::try_from(FREE_PAGES * PAGE_SIZE).unwrap_or_default();
    let grown = insert(connection, domain, &[Row::new(SPARE, &[], &noise(len))]).and_then(|()| fold(connection));
    connection.execute("DELETE FROM record WHERE kind = ?1", [SPARE])?;
    fold(connection)?;
    grown.map(|_| ())
}

/// Folds the log into the file, and leaves it empty and as long as it was: closing the connection would remove it, and on
/// a full disk there would be no room for the next one.
pub(super) fn fold_log(path: &Path, connection: &Connection) -> Result<(), JournalError> {
    let of = |error| Fault::from_sqlite("fold in the log of", path, error).into_error(path);
    if fold(connection).map_err(of)? {
        empty_log(path).map_err(|source| io_error("empty the log of", path, source))?;
    }
    Ok(())
}

/// Folds the log into the file; says whether all of it is there.
fn fold(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
        let [busy, pages, folded] = [row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?];
        Ok(busy == 0 && pages >= 0 && pages == folded)
    })
}

fn demand<T: FromSql + PartialEq + ToString>(
    path: &Path,
    connection: &Connection,
    name: &'static str,
    wanted: T,
) -> Result<(), JournalError> {
    let got: T =
        pragma(connection, name).map_err(|error| Fault::from_sqlite("set up", path, error).into_error(path))?;
    if got == wanted {
        return Ok(());
    }
    let (wanted, got) = (wanted.to_string(), got.to_string());
    Err(JournalError::Unsafe { path: path.to_owned(), pragma: name, wanted, got })
}

fn pragma<T: FromSql>(connection: &Connection, name: &str) -> rusqlite::Result<T> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}

fn strings(connection: &Connection, query: &str) -> rusqlite::Result<Vec<String>> {
    connection.prepare(query)?.query_map([], |row| row.get(0))?.collect()
}

/// `psow=0`: SQLite then does not count on a torn write sparing the rest of its sector, and flash does not spare it.
pub(super) fn uri(path: &Path) -> String {
    let mut uri = String::from(if path.is_absolute() { "file://" } else { "file:" });
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/._-".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
    uri + "?psow=0"
}
