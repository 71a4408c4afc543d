//! The file: how it is created, recognised and opened.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf, absolute};
use std::time::Duration;

use ledger_core::Genesis;
use ledger_core::state::founding;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::error::{CreateError, Error};
use crate::transaction::Transaction;

/// How long a writer waits for another. A commit takes milliseconds on a disk and some tenths of a second on slow flash.
pub const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// "WAYB": tells our files from other SQLite files.
const APPLICATION_ID: u32 = u32::from_be_bytes(*b"WAYB");

/// The format this program writes. Since 5 the log may have names, which older programs do not read.
const FORMAT: u32 = 5;

/// The oldest format this program reads, with the same tables: opening it makes it the newest.
const OLDEST: u32 = 4;

/// More than there are statements in `transaction.rs`: each is compiled once for a connection.
const STATEMENTS: usize = 40;

/// Small, because a commit writes whole pages and flash wears out.
const PAGE_SIZE: u32 = 1024;

/// Amounts are below 2^63, times below 2^40; a channel's phase is its exit time (0 where no notice was given) and
/// whether it has ended. `ordered` says which entry an account's order made; its highest sequence is the account's newest.
/// `seal` is a short hash of the row. `subtree` has the roots of the log's complete subtrees under their `ledger_core::merkle::subtree_number`.
/// `tile` has the hashes of all records as they were when the log had the size in `hashed` (`records.rs`).
const SCHEMA: &str = "
    CREATE TABLE ledger (
        id INTEGER PRIMARY KEY CHECK (id = 0),
        genesis BLOB NOT NULL,
        time INTEGER NOT NULL CHECK (time >= 0),
        minted INTEGER NOT NULL CHECK (minted >= 0),
        burned INTEGER NOT NULL CHECK (burned >= 0),
        held INTEGER NOT NULL CHECK (held >= 0),
        locked INTEGER NOT NULL CHECK (locked >= 0),
        size INTEGER NOT NULL CHECK (size >= 0),
        peaks BLOB NOT NULL,
        root BLOB NOT NULL CHECK (length(root) = 32),
        seal BLOB NOT NULL CHECK (length(seal) = 8)
    ) STRICT;
    CREATE TABLE account (
        id BLOB PRIMARY KEY CHECK (length(id) = 20),
        balance INTEGER NOT NULL CHECK (balance >= 0),
        seal BLOB NOT NULL CHECK (length(seal) = 8)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE ordered (
        account BLOB NOT NULL CHECK (length(account) = 20),
        sequence INTEGER NOT NULL CHECK (sequence > 0),
        entry INTEGER NOT NULL CHECK (entry > 0),
        seal BLOB NOT NULL CHECK (length(seal) = 8),
        PRIMARY KEY (account, sequence)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE fact (
        place BLOB PRIMARY KEY,
        value BLOB NOT NULL,
        seal BLOB NOT NULL CHECK (length(seal) = 8)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE channel (
        payer BLOB NOT NULL CHECK (length(payer) = 20),
        payee BLOB NOT NULL CHECK (length(payee) = 20),
        nonce INTEGER NOT NULL CHECK (nonce > 0),
        deposit INTEGER NOT NULL CHECK (deposit > 0),
        redeemed INTEGER NOT NULL CHECK (redeemed BETWEEN 0 AND deposit),
        exit_time INTEGER NOT NULL CHECK (exit_time >= 0),
        closed INTEGER NOT NULL CHECK (closed IN (0, 1)),
        seal BLOB NOT NULL CHECK (length(seal) = 8),
        PRIMARY KEY (payer, payee, nonce)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX channel_by_payee ON channel (payee);
    CREATE TABLE entry (
        number INTEGER PRIMARY KEY CHECK (number >= 0),
        entry BLOB NOT NULL
    ) STRICT;
    CREATE TABLE subtree (
        number INTEGER PRIMARY KEY CHECK (number >= 0),
        root BLOB NOT NULL CHECK (length(root) = 32)
    ) STRICT;
    CREATE TABLE hashed (
        id INTEGER PRIMARY KEY CHECK (id = 0),
        size INTEGER NOT NULL CHECK (size >= 0),
        root BLOB NOT NULL,
        seal BLOB NOT NULL CHECK (length(seal) = 8)
    ) STRICT;
    CREATE TABLE tile (
        prefix BLOB PRIMARY KEY,
        slots BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;
";

/// Creates a ledger whose only entry is its founding. What a failure leaves behind is removed; what a power cut leaves
/// behind is an empty file ([`Error::Unfinished`]).
pub(crate) fn create(path: &Path, genesis: &Genesis) -> Result<(), CreateError> {
    reserve(path)?;
    let filled = fill(path, genesis).and_then(|()| sync_directory(path));
    if filled.is_err() {
        // We made the file, so it is ours to remove; when even that fails, the first error is the one to report.
        let _ = fs::remove_file(path);
    }
    Ok(filled?)
}

fn reserve(path: &Path) -> Result<(), CreateError> {
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(CreateError::Exists { path: path.to_owned() })
        }
        Err(error) => Err(Error::io(path, error).into()),
    }
}

fn fill(path: &Path, genesis: &Genesis) -> Result<(), Error> {
    let mut connection = connect(path)?;
    let sqlite = |error| Error::sqlite(path, error);
    connection.pragma_update(None, "page_size", PAGE_SIZE).map_err(sqlite)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(sqlite)?;
    let transaction = connection.transaction().map_err(sqlite)?;
    transaction.execute_batch(SCHEMA).map_err(sqlite)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID).map_err(sqlite)?;
    transaction.pragma_update(None, "user_version", FORMAT).map_err(sqlite)?;
    Transaction::found(&transaction, genesis, &founding(genesis)).map_err(|fault| fault.at(path))?;
    // Without a write-ahead log, which opening begins: so the main file holds the marks that `recognise` looks for.
    transaction.commit().map_err(sqlite)
}

pub(crate) fn sync_directory(path: &Path) -> Result<(), Error> {
    let absolute = absolute(path).map_err(|error| Error::io(path, error))?;
    let directory = absolute.parent().unwrap_or(&absolute);
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(|error| Error::io(path, error))
}

/// Opens a ledger's file. A file that is not one is not written to.
pub(crate) fn open(path: &Path) -> Result<Connection, Error> {
    recognise(path)?;
    let connection = connect(path)?;
    let mark = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let [application, format] = ["application_id", "user_version"].map(mark);
    let sqlite = |error| Error::sqlite(path, error);
    let format = check_marks(path, application.map_err(sqlite)?, format.map_err(sqlite)?)?;
    check_tables(&connection, path)?;
    set_and_assert(&connection, path)?;
    if format < FORMAT {
        connection.pragma_update(None, "user_version", FORMAT).map_err(|error| Error::sqlite(path, error))?;
    }
    Ok(connection)
}

/// Whether the file is a ledger, before SQLite is let loose on it: it would tidy up after another program's write-ahead log.
///
/// A power cut within a checkpoint may leave anything in the first page, on a disk that damages what lies around what it
/// writes. SQLite then has that page from the write-ahead log, and so the log tells whose it is.
fn recognise(path: &Path) -> Result<(), Error> {
    let Err(error) = recognise_alone(path) else { return Ok(()) };
    let readable = !matches!(error, Error::Missing { .. } | Error::Denied { .. } | Error::Io { .. });
    if readable && log_is_a_ledgers(path).unwrap_or(false) { Ok(()) } else { Err(error) }
}

/// Whether the write-ahead log has a first page with our marks (<https://sqlite.org/fileformat2.html>, sections 1.3 and 4.1).
/// There is no lock on this file that closing it would take.
fn log_is_a_ledgers(path: &Path) -> io::Result<bool> {
    const HEADER: u64 = 32;
    const FRAME: u64 = 24 + PAGE_SIZE as u64;
    let mut log = BufReader::new(File::open(with_ending(path, "-wal"))?);
    let frames = log.get_ref().metadata()?.len().saturating_sub(HEADER) / FRAME;
    log.seek_relative(HEADER.cast_signed())?;
    let mut frame = [0; FRAME as usize];
    for _ in 0..frames {
        log.read_exact(&mut frame)?;
        let (head, page) = frame.split_at(24);
        if head.starts_with(&1_u32.to_be_bytes()) {
            let mark = |at: usize| page.get(at..at + 4);
            let known = (OLDEST..=FORMAT).any(|format| mark(60) == Some(&format.to_be_bytes()));
            return Ok(known && mark(68) == Some(&APPLICATION_ID.to_be_bytes()));
        }
    }
    Ok(false)
}

/// Whether the file itself says that it is a ledger.
///
/// It is read by SQLite too, as a file that nothing changes: whoever closes a file by other means takes from its whole process
/// all locks on it (fcntl(2)), those of a ledger that is open already, whose log another process would then remove.
fn recognise_alone(path: &Path) -> Result<u32, Error> {
    let found = fs::metadata(path).map_err(|error| Error::io(path, error))?;
    if !found.is_file() {
        return Err(Error::io(path, io::ErrorKind::IsADirectory.into()));
    }
    if found.len() == 0 {
        return Err(Error::Unfinished { path: path.to_owned() });
    }
    let not_a_ledger = || Error::NotALedger { path: path.to_owned() };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let absolute = absolute(path).map_err(|error| Error::io(path, error))?;
    let Ok(connection) = Connection::open_with_flags(uri(&absolute, "immutable=1"), flags) else {
        // SQLite does not say why. It has no lock on what it cannot open.
        return Err(File::open(path).map_or_else(|error| Error::io(path, error), |_| not_a_ledger()));
    };
    // A power cut within a checkpoint leaves a first page that counts pages which are only in the write-ahead log. SQLite reads
    // them there when it opens the file; read alone it looks cut short, unless SQLite is told to look away.
    connection.pragma_update(None, "writable_schema", true).map_err(|error| Error::sqlite(path, error))?;
    let mark = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    match (mark("application_id"), mark("user_version")) {
        (Ok(application), Ok(format)) => check_marks(path, application, format),
        (Err(error), _) | (_, Err(error)) => match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => Err(not_a_ledger()),
            _ => Err(Error::sqlite(path, error)),
        },
    }
}

/// Whether these are a ledger's marks; gives its format.
fn check_marks(path: &Path, application: i64, format: i64) -> Result<u32, Error> {
    if application != i64::from(APPLICATION_ID) {
        return Err(Error::NotALedger { path: path.to_owned() });
    }
    match u32::try_from(format) {
        Ok(found @ OLDEST..=FORMAT) => Ok(found),
        // No older format was ever deployed.
        Ok(found @ 1..OLDEST) => Err(Error::OlderFormat { path: path.to_owned(), found, known: OLDEST }),
        Ok(found) if found > FORMAT => Err(Error::NewerFormat { path: path.to_owned(), found, known: FORMAT }),
        _ => Err(Error::damaged(path, format!("format {format} never existed"))),
    }
}

/// What `ANALYZE` leaves, by hand or by a tool that tidies up: counts that SQLite plans queries by. Tables, so they do nothing.
const STATISTICS: &[(&str, &str)] = &[
    ("sqlite_stat1", "CREATE TABLE sqlite_stat1(tbl,idx,stat)"),
    ("sqlite_stat4", "CREATE TABLE sqlite_stat4(tbl,idx,neq,nlt,ndlt,sample)"),
];

/// Whether the file has the tables of [`SCHEMA`] and nothing else: a trigger would move tokens behind the rules' back.
fn check_tables(connection: &Connection, path: &Path) -> Result<(), Error> {
    let expected = Connection::open_in_memory()
        .and_then(|empty| empty.execute_batch(SCHEMA).and_then(|()| tables(&empty)))
        .map_err(|error| Error::sqlite(path, error))?;
    let mut found = tables(connection).map_err(|error| Error::sqlite(path, error))?;
    found.retain(|(name, sql)| !STATISTICS.iter().any(|known| (known.0, Some(known.1)) == (name, sql.as_deref())));
    if found != expected {
        return Err(Error::damaged(path, format!("its tables are not those of format {FORMAT}")));
    }
    Ok(())
}

fn tables(connection: &Connection) -> rusqlite::Result<Vec<(String, Option<String>)>> {
    let mut select = connection.prepare("SELECT name, sql FROM sqlite_schema ORDER BY name")?;
    select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

fn connect(path: &Path) -> Result<Connection, Error> {
    // A power cut may damage the rest of a sector that is being written, and SQLite then journals whole sectors.
    let uri = uri(&absolute(path).map_err(|error| Error::io(path, error))?, "psow=0");
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(uri, flags).map_err(|error| Error::sqlite(path, error))?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(|error| Error::sqlite(path, error))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(connection)
}

pub(crate) fn with_ending(path: &Path, end: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(end);
    name.into()
}

/// SQLite's name of a file, with a word on how it is to be opened.
fn uri(absolute: &Path, how: &str) -> String {
    let mut uri = "file://".to_owned();
    for byte in absolute.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(byte) {
            uri.push(char::from(*byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(uri, "%{byte:02X}");
        }
    }
    uri + "?" + how
}

/// Sets what a connection needs and asserts what durability rests on. No exclusive locking: the routers and the command
/// line of one machine share the file.
fn set_and_assert(connection: &Connection, path: &Path) -> Result<(), Error> {
    let sqlite = |error| Error::sqlite(path, error);
    connection.pragma_update(None, "synchronous", "FULL").map_err(sqlite)?;
    connection.pragma_update(None, "trusted_schema", "OFF").map_err(sqlite)?;
    connection.pragma_update(None, "cell_size_check", "ON").map_err(sqlite)?;
    let journal = connection
        .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0))
        .map_err(sqlite)?;
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(sqlite);
    // 2 is FULL: each commit is synced before it is acknowledged.
    let (synchronous, page_size) = (number("synchronous")?, number("page_size")?);
    if (journal.as_str(), synchronous, page_size) != ("wal", 2, i64::from(PAGE_SIZE)) {
        let what = format!(
            "it opens with journal_mode={journal} synchronous={synchronous} page_size={page_size}, which would not survive a power cut"
        );
        return Err(Error::damaged(path, what));
    }
    Ok(())
}
