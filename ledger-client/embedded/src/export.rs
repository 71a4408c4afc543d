//! The log alone, as text: a line of hexadecimal digits for each entry. Whoever has it needs no SQLite to check everything.

use std::io::{self, BufRead, Read, Write};

use ledger_core::entry::MAX_ENTRY_BYTES;
use ledger_core::{EntryError, Head, Records, ReplayError, State};
use thiserror::Error;

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
/// for tables, which it does not have. Keeps what the ledger keeps of accounts and channels, and one line.
///
/// # Errors
/// Where it cannot be read further. A log that is wrong is a [`Verdict::Broken`].
pub fn audit_export(mut from: impl BufRead) -> io::Result<Verdict> {
    let (mut state, mut number, mut line): (Option<State>, _, _) = (None, 0, Vec::new());
    loop {
        line.clear();
        if from.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if let Err(error) = replay(&mut state, &line) {
            return Ok(Verdict::Broken(Difference::Entry { number, error }));
        }
        number += 1;
    }
    Ok(state.map_or(Verdict::Broken(Difference::MissingEntry { number: 0 }), |state| {
        let (accounts, channels) = (state.balances().len(), state.channels().len());
        Verdict::Kept(Audit { head: state.head(), totals: state.totals(), accounts, channels })
    }))
}

fn replay(state: &mut Option<State>, line: &[u8]) -> Result<(), ReplayError> {
    // A line without an end was cut short, or is too long.
    let digits = line.strip_suffix(b"\n").ok_or(EntryError::Malformed)?;
    let entry = hex::decode(digits).map_err(|_| EntryError::Malformed)?;
    match state {
        None => *state = Some(State::replay_founding(&entry)?),
        Some(state) => drop(state.replay(&entry)?),
    }
    Ok(())
}
