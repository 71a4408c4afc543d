//! The log alone, as text: a line of hexadecimal digits for each entry. Whoever has it needs no SQLite to check everything.

use std::io::{self, BufRead, Read, Write};
use std::iter;

use ledger_core::entry::MAX_ENTRY_BYTES;
use ledger_core::{Head, Records, State};
use thiserror::Error;

use crate::ahead::Ahead;
use crate::error::Fault;
use crate::transaction::Transaction;
use crate::{Audit, Difference, Embedded, Error, Verdict};

/// The longest line, with its end.
const MAX_LINE: u64 = 2 * MAX_ENTRY_BYTES as u64 + 1;

/// Why a log was not exported whole.
#[derive(Debug, Error)]
pub enum ExportError {
    /// Where it was to go took no more.
    #[error("the log cannot be written there: {0}")]
    Write(#[from] io::Error),
    /// The ledger could not be read.
    #[error(transparent)]
    Failed(#[from] Error),
}

impl Embedded {
    /// Writes the log as it is at this moment, a line for each entry, while others read and write. What was written is for
    /// whoever calls this to bring to the disk. Gives size and root of what was written, to be compared with what an audit of it finds: a
    /// log that was cut at the end of a line is whole in itself.
    ///
    /// # Errors
    /// [`ExportError`]
    pub fn export(&mut self, to: &mut impl Write) -> Result<Head, ExportError> {
        Ok(self.read(|records| write_lines(records, to))??)
    }
}

fn write_lines(records: &Transaction<'_>, to: &mut impl Write) -> Result<io::Result<Head>, Fault> {
    let mut select = records.connection().prepare("SELECT number, entry FROM entry ORDER BY number")?;
    let mut rows = select.query([])?;
    let head = records.head();
    for number in 0..head.size {
        let row = rows.next()?.filter(|row| row.get(0).ok() == i64::try_from(number).ok());
        let row = row.ok_or_else(|| Fault::damaged(format!("entry {number} is missing")))?;
        let line = hex::encode(row.get_ref(1)?.as_blob().unwrap_or_default());
        if let Err(error) = writeln!(to, "{line}") {
            return Ok(Err(error));
        }
    }
    Ok(to.flush().map(|()| head))
}

/// Audits an exported log: replays every entry by the rules. Finds what [`Embedded::audit`] finds of the ledger it came from, but
/// for tables, which it does not have. Keeps what the ledger keeps of accounts and channels, and two pages of lines.
///
/// # Errors
/// Where it cannot be read further. A log that is wrong is a [`Verdict::Broken`].
pub fn audit_export(mut from: impl BufRead) -> io::Result<Verdict> {
    let mut entries = iter::from_fn(|| next_entry(&mut from).transpose());
    let Some(founding) = entries.next().transpose()? else {
        return Ok(Verdict::Broken(Difference::MissingEntry { number: 0 }));
    };
    let broken = |number, error| Ok(Verdict::Broken(Difference::Entry { number, error }));
    let mut state = match State::replay_founding(&founding) {
        Ok(state) => state,
        Err(error) => return broken(0, error),
    };
    for (number, looked) in (1..).zip(Ahead::new(state.genesis().domain(), entries)) {
        let (_, logged) = looked?;
        if let Err(error) = logged.and_then(|logged| state.replay_logged(&logged)) {
            return broken(number, error);
        }
    }
    let (accounts, channels) = (state.balances().len(), state.channels().len());
    Ok(Verdict::Kept(Audit { head: state.head(), totals: state.totals(), accounts, channels }))
}

/// The entry on the next line, if there is one more.
fn next_entry(from: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    if from.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    // A line without an end was cut short, or is too long. Nothing is no entry either.
    let entry = line.strip_suffix(b"\n").and_then(|digits| hex::decode(digits).ok());
    Ok(Some(entry.unwrap_or_default()))
}
