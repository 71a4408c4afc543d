//! Room that is kept for the journal alone, so that it goes on when others have filled the disk.
//!
//! A journal replaces its rows; once it has been used for a while, neither its file nor its log has to grow. So these are
//! taken while there is room:
//!
//! - The log, `NAME-wal`, has its full length from the start and is never cut: SQLite overwrites it from its beginning
//!   whenever it has been folded into the file. When the journal is closed it is emptied by its heading alone.
//! - The file has free pages for rows to come: a day's lines, another neighbour.
//! - Both anchors are there.
//! - `NAME.spare` is given up when the disk refuses a write all the same; the next start makes another.
//!
//! Where a file's blocks are overwritten in place (ext4, tmpfs; the tests fill those to the last byte) that is all a full
//! disk has to give, for months. Flash file systems (f2fs, ubifs, jffs2) write elsewhere what is overwritten, from the room
//! they keep for collecting garbage, and refuse ordinary writes that would use that up. What is kept here is noise, which they
//! cannot compress, so that overwriting it frees as much as it takes; but I have not tried them, and count there only on
//! the spare file, which may be removed on any full disk.
//!
//! A disk that cannot be written for another reason (an I/O error, read-only) is no better off for all this.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::files::{OWNER_ONLY, beside, sync_directory_of};
use super::store::{PAGE_SIZE, WAL_PAGES};

/// The largest commit, pages: the totals, standings and days of 128 neighbours, sixfold.
const COMMIT_PAGES: u64 = 256;

/// What SQLite writes before a log, and before each page in it, bytes.
const LOG_HEADING: usize = 32;
const FRAME_HEADING: u64 = 24;

/// How long a log can become: it is folded in after the commit by which it has [`WAL_PAGES`].
const LOG_LEN: u64 = LOG_HEADING as u64 + (WAL_PAGES as u64 + COMMIT_PAGES) * (PAGE_SIZE as u64 + FRAME_HEADING);

/// Two erase blocks of common flash.
const SPARE_LEN: u64 = 128 << 10;

/// Gives the log of the journal at `path` its full length.
pub(super) fn keep_log(path: &Path) -> io::Result<()> {
    keep(&beside(path, "-wal"), LOG_LEN)
}

/// Empties a log that has been folded in, and keeps its length.
pub(super) fn empty_log(path: &Path) -> io::Result<()> {
    let mut log = OpenOptions::new().write(true).open(beside(path, "-wal"))?;
    log.write_all(&[0; LOG_HEADING])?;
    log.sync_data()
}

/// Makes the spare file, where there is room.
pub(super) fn keep_spare(path: &Path) -> io::Result<()> {
    keep(&beside(path, ".spare"), SPARE_LEN)
}

/// Removes the spare file; says whether there was one.
pub(super) fn give_up_spare(path: &Path) -> bool {
    let spare = beside(path, ".spare");
    let given = fs::remove_file(&spare).is_ok();
    if given {
        tracing::warn!(path = %spare.display(), "the disk is full; the room kept for the journal is used");
    }
    given
}

/// Makes a file at least so long by noise, which no file system can compress. A log that begins with zeros is empty.
fn keep(path: &Path, len: u64) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(false).mode(OWNER_ONLY).open(path)?;
    let before = file.seek(SeekFrom::End(0))?;
    if before >= len {
        return Ok(());
    }
    let mut noise = noise(usize::try_from(len - before).unwrap_or(usize::MAX));
    if before == 0 {
        noise[..LOG_HEADING].fill(0);
    }
    file.write_all(&noise)?;
    File::sync_all(&file)?;
    if before == 0 { sync_directory_of(path) } else { Ok(()) }
}

/// So many bytes that cannot be compressed.
pub(super) fn noise(len: usize) -> Vec<u8> {
    let mut noise = vec![0; len];
    fastrand::fill(&mut noise);
    noise
}
