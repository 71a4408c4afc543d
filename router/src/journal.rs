//! The journal: what a node must not forget, in SQLite.
//!
//! The rules (and what breaks without them) in short: a payer's ceiling is durable before the receipt below it leaves;
//! a receipt is durable before credit is built on it; the boot counter is durable before a boot's first packet. A
//! commit returns when that is so. Power may fail at any moment, the file may be damaged by any cause, and the disk may
//! be full: none of that stops the node from starting with all that can still be proven. Room is kept so that a journal also
//! goes on being written when others fill the disk ([`reserve`]).
//!
//! Files, all beside each other: `NAME` and `NAME-wal` (SQLite's), `NAME.lock` (one daemon at a time),
//! `NAME.anchor-a`, `NAME.anchor-b` (the ceilings once more), `NAME.spare` (room), `NAME.damaged-1` (what was set aside) and,
//! for a moment while a journal is begun, `NAME.new`. Together they take some 0.8 MiB.

mod anchor;
mod day;
mod files;
mod reserve;
mod state;
mod store;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use metering::{Bytes, ChannelId, LedgerDomain, NodeId, Receipt, SortedMap, SortedSet, Standing, Tokens};
use rusqlite::Connection;

pub use day::Day;

use anchor::{Anchor, AnchorFiles};
use files::{io_error, lock_of};
use state::{BOOT, DAY, JOURNAL, KEPT, Row, State, VERSION, channel_to_bytes, day_key, heading};
use store::Found;

/// How many channels, and how many neighbours, one journal remembers: far more than a router meets, and a bound on
/// what a damaged or hostile file can make us hold in memory.
const CHANNELS_MAX: usize = 16_384;

/// How many lines of days one journal keeps: two neighbours for some five years, 20 for half a year.
pub const DAYS_MAX: usize = 4096;

/// What a node must not forget. Begin with [`Journal::open`], then [`Journal::next_boot`] before the first packet;
/// from then on [`Journal::commit`], and act on a record only after it returned.
///
/// What was committed is also held in memory: the questions cost nothing and cannot fail.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    domain: LedgerDomain,
    connection: Connection,
    anchors: AnchorFiles,
    state: State,
    /// Held for its lock.
    _lock: File,
}

/// What [`Journal::open`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// No journal; one was begun. It holds what an anchor still knew, which on a new node is nothing.
    Fresh,
    /// The journal, whole.
    Restored,
    /// A file that is no whole journal. It was renamed, and a new journal begun with all rows of the old one that
    /// could still be proven and with the ceilings of the newest anchor. What is missing the neighbours and the ledger
    /// know.
    SetAside {
        /// Where the damaged file is.
        to: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// One thing to remember. Amounts and counts only grow: a lower one changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// As payer: no receipt above this amount has been or will be signed on the channel.
    Ceiling {
        /// The channel we pay on.
        channel: ChannelId,
        /// The ceiling.
        amount: Tokens,
    },
    /// As payee: the best receipt of its channel.
    Held {
        /// The receipt.
        receipt: Receipt,
    },
    /// As keeper: the best receipt of a channel that pays a neighbour ([`metering::watch`]).
    Kept {
        /// The receipt.
        receipt: Receipt,
    },
    /// All that was ever billed between us and a neighbour.
    Totals {
        /// The neighbour.
        peer: NodeId,
        /// From us to it.
        sent: Bytes,
        /// From it to us.
        received: Bytes,
    },
    /// As payee: what the ledger has credited on a channel so far.
    Redeemed {
        /// The channel.
        channel: ChannelId,
        /// The amount, cumulative.
        amount: Tokens,
    },
    /// The newest channel of two as the ledger last showed it. While the ledger is away, this is what is known.
    Channel {
        /// Which.
        channel: ChannelId,
        /// How it stands.
        known: KnownChannel,
    },
    /// What a day with a neighbour has come to; the newest counts.
    Day {
        /// Days since 1970-01-01, UTC.
        day: u32,
        /// The neighbour.
        peer: NodeId,
        /// What it came to.
        line: Day,
    },
    /// How a payer stands with us; the newest counts.
    Standing {
        /// The payer.
        peer: NodeId,
        /// How it stands.
        standing: Standing,
    },
    /// Babel's own sequence number; the newest counts, for it wraps around (RFC 8966, section 3.2.1).
    Seqno {
        /// The number.
        seqno: u16,
    },
}

impl Record {
    /// Whose standing it is, and which.
    #[must_use]
    pub fn standing(&self) -> Option<(NodeId, Standing)> {
        if let Self::Standing { peer, standing } = *self { Some((peer, standing)) } else { None }
    }
}

/// A channel as the ledger showed it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KnownChannel {
    /// What the payer locked, in all.
    pub deposit: Tokens,
    /// What the payee took out of it, in all.
    pub redeemed: Tokens,
    /// Whether the payer gave notice.
    pub closing: bool,
}

/// Billed bytes between us and one neighbour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// From us to the neighbour.
    pub sent: Bytes,
    /// From the neighbour to us.
    pub received: Bytes,
}

/// Why the journal cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process has it open.
    #[error("the journal {path} is in use by another process")]
    Locked {
        /// The journal.
        path: PathBuf,
    },
    /// There is no room. Nothing was half written, and the journal works again when there is room.
    #[error("cannot {action} the journal {path}: the disk is full")]
    DiskFull {
        /// What was being done.
        action: &'static str,
        /// The journal.
        path: PathBuf,
    },
    /// It holds the channels of another ledger.
    #[error("the journal {path} belongs to another ledger: {found}, where the configuration says {wanted}")]
    OtherLedger {
        /// The journal, or its anchor.
        path: PathBuf,
        /// The ledger it was begun for.
        found: String,
        /// The ledger it was opened for.
        wanted: String,
    },
    /// A newer program wrote it.
    #[error("the journal {path} is of version {version}; this program knows version {VERSION}")]
    Newer {
        /// The journal.
        path: PathBuf,
        /// Its version.
        version: u16,
    },
    /// Its place is taken by something that is not a regular file.
    #[error("the journal {path} is not a file")]
    NotAFile {
        /// The journal.
        path: PathBuf,
    },
    /// SQLite would not keep its promises here.
    #[error("cannot use the journal {path}: {pragma} is {got}, and must be {wanted}")]
    Unsafe {
        /// The journal.
        path: PathBuf,
        /// The setting.
        pragma: &'static str,
        /// What makes it safe.
        wanted: String,
        /// What it is.
        got: String,
    },
    /// More channels or neighbours than one journal remembers.
    #[error("the journal {path} is full: it remembers {CHANNELS_MAX} channels")]
    TooManyChannels {
        /// The journal.
        path: PathBuf,
    },
    /// It was damaged while open. The next start sets it aside.
    #[error("the journal {path} is damaged: {why}")]
    Damaged {
        /// The journal.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// SQLite failed in another way.
    #[error("cannot {action} the journal {path}: {source}")]
    Sqlite {
        /// What was being done.
        action: &'static str,
        /// The journal.
        path: PathBuf,
        /// SQLite's answer.
        source: rusqlite::Error,
    },
}

impl JournalError {
    /// What the person at the keyboard can do about it: one or two lines, to print below the error.
    #[must_use]
    pub fn next_step(&self) -> String {
        match self {
            Self::Locked { path } => {
                format!(
                    "another waybill is running with it: stop that one; `fuser {}` names it",
                    lock_of(path).display()
                )
            }
            Self::DiskFull { path, .. } => format!(
                "make room on the disk of {}; until then packets are routed, but nothing is carried on credit",
                path.display()
            ),
            Self::OtherLedger { path, .. } => format!(
                "if you changed communities on purpose, move {0} and its neighbours {0}.* away and keep them: its \
                 receipts are money there; otherwise correct the configuration",
                path.display()
            ),
            Self::Newer { .. } => "install the version of waybill that wrote it, or a newer one".to_owned(),
            Self::NotAFile { path } => format!("move {} out of the way, or name another journal", path.display()),
            Self::Unsafe { .. } => "put the journal on a local disk: ext4, f2fs, ubifs and jffs2 are fine".to_owned(),
            Self::TooManyChannels { path } => {
                format!("redeem what is held, then move {} away and start again", path.display())
            }
            Self::Damaged { .. } => "restart waybill: it keeps the damaged file and begins a new journal".to_owned(),
            Self::Io { path, source, .. } => io_next_step(path, source),
            Self::Sqlite { .. } => "this is unexpected; `dmesg` may tell of a failing disk".to_owned(),
        }
    }
}

fn io_next_step(path: &Path, source: &io::Error) -> String {
    let directory = path.parent().unwrap_or(path).display();
    if source.kind() == io::ErrorKind::NotFound {
        format!("make its directory: `mkdir -p {directory}`")
    } else if source.kind() == io::ErrorKind::PermissionDenied {
        format!("the router must own {directory} and all in it; `ls -la {directory}` shows who does")
    } else if source.kind() == io::ErrorKind::ReadOnlyFilesystem {
        format!("{directory} is mounted read-only: name a journal on a disk that can be written")
    } else {
        "this is unexpected; `dmesg` may tell of a failing disk".to_owned()
    }
}

impl Journal {
    /// Opens the journal at `path`, or begins one, for the channels of one ledger. The directory must exist.
    ///
    /// # Errors
    /// Only what a person has to look at; a damaged file is none of these.
    pub fn open(path: &Path, domain: &LedgerDomain) -> Result<(Self, Opened), JournalError> {
        let lock = files::take_lock(path)?;
        files::finish_replacement(path)?;
        let (anchors, anchor) = AnchorFiles::open(path);
        if let Some(anchor) = &anchor {
            store::refuse_other_ledger(path, &anchor.domain, domain)?;
        }
        let (mut connection, state, opened) = match store::find(path, domain)? {
            Some(Found { connection, state, fault: None }) => {
                let state = state.with_anchor(anchor.as_ref());
                (connection, state, Opened::Restored)
            }
            found => rebuild(path, domain, found, anchor.as_ref())?,
        };
        store::make_safe(path, &connection)?;
        keep_room(path, &mut connection, domain);
        let mut journal = Self { path: path.to_owned(), domain: *domain, connection, anchors, state, _lock: lock };
        if journal.state.version < VERSION {
            journal.write_rows(&[Row::new(JOURNAL, &[], &heading(domain))])?;
            journal.state.version = VERSION;
        }
        Ok((journal, opened))
    }

    /// Counts one boot, durably, and says which it is; the first is 1. Comes before the first packet of a boot.
    ///
    /// # Errors
    /// As [`Journal::commit`]; the count may then have gone up all the same, and that does no harm.
    pub fn next_boot(&mut self) -> Result<u64, JournalError> {
        let boot = self.state.boot.saturating_add(1);
        self.write_anchor(boot, self.state.ceilings.clone())?;
        self.write_rows(&[Row::new(BOOT, &[], &boot.to_be_bytes())])?;
        self.state.boot = boot;
        Ok(boot)
    }

    /// Makes records durable, all or none. What says nothing new costs nothing.
    ///
    /// # Errors
    /// None of the records counts, in memory or on disk; but a ceiling may have been raised on disk alone, which binds
    /// nobody.
    pub fn commit(&mut self, records: &[Record]) -> Result<(), JournalError> {
        let mut next = self.state.clone();
        let mut rows = SortedMap::new();
        for record in records {
            if next.learn(record) {
                let row = next.row(record);
                rows.insert((row.kind, row.key.clone()), row);
            }
        }
        if rows.is_empty() {
            return Ok(());
        }
        if next.entries_max() > CHANNELS_MAX {
            return Err(JournalError::TooManyChannels { path: self.path.clone() });
        }
        if next.ceilings != self.state.ceilings {
            self.write_anchor(next.boot, next.ceilings.clone())?;
        }
        self.write_rows(&rows.into_values().collect::<Vec<_>>())?;
        self.state = next;
        Ok(())
    }

    /// Up to which amount receipts may have been signed on a channel; zero where none were.
    #[must_use]
    pub fn ceiling(&self, channel: &ChannelId) -> Tokens {
        self.state.ceilings.get(channel).copied().unwrap_or(Tokens::ZERO)
    }

    /// The ceilings of all channels we pay on.
    pub fn ceilings(&self) -> impl Iterator<Item = (ChannelId, Tokens)> + '_ {
        self.state.ceilings.iter().map(|(channel, amount)| (*channel, *amount))
    }

    /// The best receipt of each channel that pays us.
    pub fn held(&self) -> impl Iterator<Item = &Receipt> {
        self.state.held.values()
    }

    /// The best receipt of one channel that pays us.
    #[must_use]
    pub fn held_on(&self, channel: &ChannelId) -> Option<&Receipt> {
        self.state.held.get(channel)
    }

    /// The best receipt of each channel that is kept for others.
    pub fn kept(&self) -> impl Iterator<Item = &Receipt> {
        self.state.kept.values()
    }

    /// The channels of which anything is known that are not among the newest `newest` between their two parties: the ledger
    /// may have closed them long ago.
    #[must_use]
    pub fn old_channels(&self, newest: usize) -> Vec<ChannelId> {
        let State { ceilings, held, redeemed, .. } = &self.state;
        let all: SortedSet<ChannelId> = ceilings.keys().chain(held.keys()).chain(redeemed.keys()).copied().collect();
        let mut seen: SortedMap<(NodeId, NodeId), usize> = SortedMap::new();
        let is_old = |channel: &ChannelId| {
            let seen = seen.entry((channel.payer, channel.payee)).or_default();
            *seen += 1;
            *seen > newest
        };
        all.into_iter().rev().filter(is_old).collect()
    }

    /// Forgets all that is about channels that the ledger has closed: nothing can be signed or redeemed on them any more, and
    /// their nonces are used up.
    ///
    /// # Errors
    /// As [`Journal::commit`]; nothing is forgotten then.
    pub fn forget_channels(&mut self, closed: &[ChannelId]) -> Result<(), JournalError> {
        let mut next = self.state.clone();
        let forgotten =
            closed.iter().flat_map(|channel| next.forget(channel).into_iter().map(move |kind| (kind, channel)));
        let rows: Vec<(&str, [u8; 48])> = forgotten.map(|(kind, channel)| (kind, channel_to_bytes(channel))).collect();
        store::delete(&mut self.connection, &rows)
            .map_err(|error| store::Fault::from_sqlite("write", &self.path, error).into_error(&self.path))?;
        self.state = next;
        Ok(())
    }

    /// Forgets what was kept for others of a channel.
    ///
    /// # Errors
    /// As [`Journal::commit`]; nothing is forgotten then.
    pub fn forget_kept(&mut self, channels: &[ChannelId]) -> Result<(), JournalError> {
        let rows: Vec<(&str, [u8; 48])> = channels.iter().map(|channel| (KEPT, channel_to_bytes(channel))).collect();
        store::delete(&mut self.connection, &rows)
            .map_err(|error| store::Fault::from_sqlite("write", &self.path, error).into_error(&self.path))?;
        self.state.kept.retain(|channel, _| !channels.contains(channel));
        Ok(())
    }

    /// What the ledger has credited on a channel so far, as far as we saw.
    #[must_use]
    pub fn redeemed(&self, channel: &ChannelId) -> Tokens {
        self.state.redeemed.get(channel).copied().unwrap_or(Tokens::ZERO)
    }

    /// The newest channel from a payer to a payee, as the ledger last showed it.
    #[must_use]
    pub fn channel(&self, payer: NodeId, payee: NodeId) -> Option<(ChannelId, KnownChannel)> {
        let (nonce, known) = *self.state.channels.get(&(payer, payee))?;
        Some((ChannelId { payer, payee, nonce }, known))
    }

    /// What each day with each neighbour came to, oldest first.
    pub fn days(&self) -> impl DoubleEndedIterator<Item = (u32, NodeId, Day)> + '_ {
        self.state.days.iter().map(|((day, peer), line)| (*day, *peer, *line))
    }

    /// Forgets the days before `first`, and of the rest the oldest, so that at most [`DAYS_MAX`] lines stay.
    ///
    /// # Errors
    /// As [`Journal::commit`]; nothing is forgotten then.
    pub fn forget_days(&mut self, first: u32) -> Result<(), JournalError> {
        let too_many = self.state.days.len().saturating_sub(DAYS_MAX);
        let first = self.state.days.keys().nth(too_many).map_or(first, |(day, _)| first.max(*day));
        if self.state.days.keys().next().is_none_or(|(oldest, _)| *oldest >= first) {
            return Ok(());
        }
        store::forget(&self.connection, DAY, &day_key(first, &NodeId([0; 20])))
            .map_err(|error| store::Fault::from_sqlite("write", &self.path, error).into_error(&self.path))?;
        Arc::make_mut(&mut self.state.days).retain(|(day, _), _| *day >= first);
        Ok(())
    }

    /// Billed bytes, by neighbour.
    pub fn totals(&self) -> impl Iterator<Item = (NodeId, Totals)> + '_ {
        self.state.totals.iter().map(|(peer, totals)| (*peer, *totals))
    }

    /// How a payer stood with us when that was last written; one that is not known owes nothing.
    #[must_use]
    pub fn standing(&self, peer: NodeId) -> Standing {
        self.state.standings.get(&peer).copied().unwrap_or_default()
    }

    /// How all payers stood with us when that was last written.
    pub fn standings(&self) -> impl Iterator<Item = (NodeId, Standing)> + '_ {
        self.state.standings.iter().map(|(peer, standing)| (*peer, *standing))
    }

    /// Babel's own sequence number, if one was recorded.
    #[must_use]
    pub fn seqno(&self) -> Option<u16> {
        self.state.seqno
    }

    /// The boot that [`Journal::next_boot`] last counted; zero before the first.
    #[must_use]
    pub fn boot(&self) -> u64 {
        self.state.boot
    }

    fn write_anchor(&mut self, boot: u64, ceilings: SortedMap<ChannelId, Tokens>) -> Result<(), JournalError> {
        let anchor = Anchor { domain: self.domain, boot, ceilings };
        self.with_spare_room(|journal| {
            journal.anchors.write(&anchor).map_err(|(path, source)| io_error("write", &path, source))
        })
    }

    fn write_rows(&mut self, rows: &[Row]) -> Result<(), JournalError> {
        self.with_spare_room(|journal| {
            store::insert(&mut journal.connection, &journal.domain, rows)
                .map_err(|error| store::Fault::from_sqlite("write", &journal.path, error).into_error(&journal.path))
        })
    }

    /// Writes, and where the disk is full once more in the room that was spared.
    fn with_spare_room(&mut self, write: impl Fn(&mut Self) -> Result<(), JournalError>) -> Result<(), JournalError> {
        match write(self) {
            Err(JournalError::DiskFull { .. }) if reserve::give_up_spare(&self.path) => write(self),
            written => written,
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if let Err(error) = store::fold_log(&self.path, &self.connection) {
            // All is in the log, and the next start reads it.
            tracing::debug!(%error, "the journal's log was left as it is");
        }
    }
}

/// Takes the room that the journal will need, as far as there is any.
fn keep_room(path: &Path, connection: &mut Connection, domain: &LedgerDomain) {
    let kept = reserve::keep_log(path).map_err(|error| error.to_string());
    let kept = kept.and_then(|()| store::keep_free_pages(connection, domain).map_err(|error| error.to_string()));
    if let Err(error) = kept.and_then(|()| reserve::keep_spare(path).map_err(|error| error.to_string())) {
        tracing::warn!(path = %path.display(), %error, "no room is kept for the journal; a full disk would stop credit");
    }
}

/// Begins a journal with all that is known from what was found and from the anchor.
fn rebuild(
    path: &Path,
    domain: &LedgerDomain,
    found: Option<Found>,
    anchor: Option<&Anchor>,
) -> Result<(Connection, State, Opened), JournalError> {
    let (salvaged, why) = store::salvage(found);
    let state = salvaged.with_anchor(anchor);
    let opened = match (store::replace(path, domain, &state)?, why) {
        (Some(to), Some(why)) if anchor.is_some() => Opened::SetAside { to, why },
        (Some(to), Some(why)) => {
            let why = format!("{why}; no anchor can be read, so ceilings may be missing");
            Opened::SetAside { to, why }
        }
        _ => Opened::Fresh,
    };
    Ok((store::connect(path)?, state, opened))
}

#[cfg(test)]
mod tests {
    use super::files::beside;
    use super::state::{HELD, JOURNAL, heading, seal};
    use super::store::{UPSERT, uri};
    use super::*;
    use crate::netlink::rerun_in_namespace;
    use metering::{Identity, Seed};
    use std::ffi::OsString;
    use std::fs;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Stdio};
    use std::time::Duration;
    use tempfile::TempDir;

    const DOMAIN: LedgerDomain = LedgerDomain { chain_id: 0, contract: NodeId([0xee; 20]) };

    fn us() -> Identity {
        Identity::new(&Seed::from_bytes([1; 32]))
    }

    fn neighbour(n: u8) -> Identity {
        Identity::new(&Seed::from_bytes([n; 32]))
    }

    fn tokens(amount: u64) -> Tokens {
        Tokens::new(amount.into()).unwrap()
    }

    /// The channel on which we pay neighbour `n`.
    fn paid(n: u8) -> ChannelId {
        ChannelId { payer: us().node_id(), payee: neighbour(n).node_id(), nonce: 1 }
    }

    /// The channel on which neighbour `n` pays us.
    fn earned(n: u8) -> ChannelId {
        ChannelId { payer: neighbour(n).node_id(), payee: us().node_id(), nonce: 1 }
    }

    fn receipt(n: u8, amount: u64) -> Receipt {
        Receipt::sign(neighbour(n).account(), &DOMAIN, earned(n), tokens(amount), [n; 32])
    }

    /// What neighbour `n` has signed for neighbour `payee`.
    fn receipt_for(n: u8, payee: u8, amount: u64) -> Receipt {
        let channel = ChannelId { payee: neighbour(payee).node_id(), ..earned(n) };
        Receipt::sign(neighbour(n).account(), &DOMAIN, channel, tokens(amount), [n; 32])
    }

    fn ceiling(n: u8, amount: u64) -> Record {
        Record::Ceiling { channel: paid(n), amount: tokens(amount) }
    }

    fn held(n: u8, amount: u64) -> Record {
        Record::Held { receipt: receipt(n, amount) }
    }

    fn totals(n: u8, sent: u64, received: u64) -> Record {
        Record::Totals { peer: neighbour(n).node_id(), sent: Bytes::new(sent), received: Bytes::new(received) }
    }

    fn standing(n: u8, arrears: u64) -> Record {
        let standing = Standing { arrears: tokens(arrears), unpaid: tokens(7), nonce: 1, ..Standing::default() };
        Record::Standing { peer: neighbour(n).node_id(), standing }
    }

    fn some_of_everything() -> Vec<Record> {
        let redeemed = Record::Redeemed { channel: earned(2), amount: tokens(150) };
        let known = KnownChannel { deposit: tokens(900), redeemed: tokens(150), closing: true };
        let line = Day { segments: 2, earned: tokens(150), ..Day::default() };
        let mut records = vec![
            redeemed,
            Record::Seqno { seqno: 65_535 },
            Record::Channel { channel: earned(2), known },
            Record::Day { day: 20_783, peer: neighbour(2).node_id(), line },
            standing(2, 40),
            Record::Kept { receipt: receipt_for(4, 3, 70) },
        ];
        for n in 2..6 {
            records.extend([ceiling(n, 1000), held(n, 200), totals(n, 10, 20)]);
        }
        records
    }

    /// A child that another test starts holds our lock between its fork and its exec; that passes.
    fn open(path: &Path) -> (Journal, Opened) {
        let mut opened = Journal::open(path, &DOMAIN);
        for _ in 0..200 {
            if !matches!(opened, Err(JournalError::Locked { .. })) {
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
            opened = Journal::open(path, &DOMAIN);
        }
        opened.unwrap_or_else(|error| panic!("{error}"))
    }

    /// A directory in memory where there is one: thousands of flushes cost nothing there.
    fn directory() -> TempDir {
        tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
    }

    /// A closed journal in its second boot that knows some of everything.
    fn written() -> (TempDir, PathBuf, State) {
        let directory = directory();
        let path = directory.path().join("journal.db");
        let (mut journal, opened) = open(&path);
        assert_eq!(opened, Opened::Fresh);
        journal.next_boot().unwrap();
        journal.next_boot().unwrap();
        journal.commit(&some_of_everything()).unwrap();
        let state = journal.state.clone();
        drop(journal);
        (directory, path, state)
    }

    #[test]
    fn of_the_channels_between_two_the_newest_is_kept() {
        let (_directory, path, _) = written();
        let (mut journal, _) = open(&path);
        let (payer, payee) = (neighbour(9).node_id(), us().node_id());
        for nonce in [1, 3, 2] {
            let known = KnownChannel { deposit: tokens(nonce), ..KnownChannel::default() };
            journal.commit(&[Record::Channel { channel: ChannelId { payer, payee, nonce }, known }]).unwrap();
        }
        drop(journal);
        let (journal, opened) = open(&path);
        assert_eq!(opened, Opened::Restored);
        let (channel, known) = journal.channel(payer, payee).unwrap();
        assert_eq!((channel.nonce, known.deposit), (3, tokens(3)));
        assert_eq!(journal.channel(payee, payer), None);
    }

    #[test]
    fn what_is_kept_for_others_is_forgotten_alone() {
        let (_directory, path, mut state) = written();
        let (mut journal, _) = open(&path);
        let kept = receipt_for(4, 3, 70);
        assert_eq!(journal.kept().copied().collect::<Vec<_>>(), [kept]);
        journal.commit(&[Record::Kept { receipt: receipt_for(4, 3, 69) }]).unwrap();
        assert_eq!(journal.kept().copied().collect::<Vec<_>>(), [kept]);
        journal.forget_kept(&[kept.channel()]).unwrap();
        state.kept.clear();
        assert_eq!(journal.state, state);
        drop(journal);
        assert_eq!(open(&path).0.state, state);
    }

    #[test]
    fn what_is_forgotten_of_a_channel_is_gone_from_the_disk_too() {
        let (_directory, path, mut state) = written();
        let (mut journal, _) = open(&path);
        journal.forget_channels(&[earned(2), paid(3)]).unwrap();
        assert_eq!(state.forget(&earned(2)), [HELD, "redeemed"]);
        assert_eq!(state.forget(&paid(3)), ["ceiling"]);
        assert_eq!(journal.state, state);
        drop(journal);
        let (journal, opened) = open(&path);
        assert_eq!(opened, Opened::Restored);
        // The anchor's ceilings are raised again until it is written next; they bind nobody.
        assert_eq!(journal.ceiling(&paid(3)), tokens(1000));
        assert_eq!(journal.held_on(&earned(2)), None);
        assert_eq!(journal.redeemed(&earned(2)), Tokens::ZERO);
    }

    #[test]
    fn days_are_forgotten_from_the_oldest_on() {
        let (_directory, path, _) = written();
        let (mut journal, _) = open(&path);
        let peer = neighbour(2).node_id();
        let line = Day { segments: 1, ..Day::default() };
        let records: Vec<Record> =
            (0..DAYS_MAX + 3).map(|n| Record::Day { day: 10_000 + u32::try_from(n).unwrap(), peer, line }).collect();
        journal.commit(&records).unwrap();
        journal.forget_days(10_002).unwrap();
        let kept: Vec<u32> = journal.days().map(|(day, ..)| day).collect();
        assert_eq!((kept.len(), kept.first()), (DAYS_MAX, Some(&10_004)));
        journal.forget_days(20_000).unwrap();
        drop(journal);
        let (journal, opened) = open(&path);
        assert_eq!(opened, Opened::Restored);
        assert_eq!(journal.days().map(|(day, ..)| day).collect::<Vec<_>>(), [20_783]);
    }

    #[test]
    fn a_journal_of_an_older_version_is_read_and_says_from_then_on_that_it_is_of_this_one() {
        for version in [1_u16, 2] {
            let (_directory, path, mut state) = written();
            // Neither knew how payers stand, nor what was paid late.
            let mut value = heading(&DOMAIN);
            value[..2].copy_from_slice(&version.to_be_bytes());
            let connection = Connection::open(&path).unwrap();
            connection.execute(UPSERT, (JOURNAL, [0_u8; 0], &value, seal(None, JOURNAL, &[], &value))).unwrap();
            connection.execute("DELETE FROM record WHERE kind = 'standing'", []).unwrap();
            let key = day_key(20_783, &neighbour(2).node_id());
            let query = "SELECT value FROM record WHERE kind = ?1";
            let mut day: Vec<u8> = connection.query_row(query, [DAY], |row| row.get(0)).unwrap();
            day.truncate(day.len() - 12);
            connection.execute(UPSERT, (DAY, &key, &day, seal(Some(&DOMAIN), DAY, &key, &day))).unwrap();
            drop(connection);

            state.standings.clear();
            let (mut journal, opened) = open(&path);
            assert_eq!((opened, &journal.state), (Opened::Restored, &state));
            journal.commit(&[standing(3, 5)]).unwrap();
            drop(journal);
            let connection = Connection::open(&path).unwrap();
            let value: Vec<u8> = connection.query_row(query, [JOURNAL], |row| row.get(0)).unwrap();
            assert_eq!(value, heading(&DOMAIN));
            drop(connection);
            let (journal, _) = open(&path);
            assert_eq!(journal.standing(neighbour(3).node_id()).arrears, tokens(5));
            assert_eq!(journal.standing(neighbour(2).node_id()), Standing::default());
        }
    }

    #[test]
    fn of_standings_the_newest_counts_and_none_that_is_empty_is_written() {
        let (directory, path, _) = written();
        let (mut journal, _) = open(&path);
        let before = files_of(directory.path());
        let unknown = Record::Standing { peer: neighbour(9).node_id(), standing: Standing::default() };
        journal.commit(&[unknown, standing(2, 40)]).unwrap();
        assert_eq!(files_of(directory.path()), before);
        journal.commit(&[standing(2, 3)]).unwrap();
        assert_eq!(journal.standing(neighbour(2).node_id()).debt(), tokens(10));
        drop(journal);
        let (journal, _) = open(&path);
        assert_eq!(journal.standing(neighbour(2).node_id()).debt(), tokens(10));
    }

    /// What must hold whatever happened to the file.
    fn assert_nothing_is_made_up(journal: &Journal, before: &State) {
        assert_eq!(journal.state.ceilings, before.ceilings, "the anchors know the ceilings");
        assert_eq!(journal.state.boot, before.boot, "the anchors know the boot");
        assert!(journal.held().all(|receipt| before.held.get(&receipt.channel()) == Some(receipt)));
        assert!(journal.redeemed(&earned(2)) <= tokens(150));
        assert!(journal.totals().all(|(peer, totals)| before.totals.get(&peer) == Some(&totals)));
    }

    fn files_of(directory: &Path) -> SortedMap<OsString, Vec<u8>> {
        let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
        entries.map(|entry| (entry.file_name(), fs::read(entry.path()).unwrap())).collect()
    }

    fn put_files(directory: &Path, files: &SortedMap<OsString, Vec<u8>>) {
        for entry in fs::read_dir(directory).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        for (name, content) in files {
            fs::write(directory.join(name), content).unwrap();
        }
    }

    #[test]
    fn what_was_committed_is_there_after_reopening() {
        let (_directory, path, before) = written();
        let (mut journal, opened) = open(&path);
        assert_eq!(opened, Opened::Restored);
        assert_eq!(journal.state, before);
        assert_eq!(journal.ceiling(&paid(2)), tokens(1000));
        assert_eq!(journal.ceiling(&paid(9)), Tokens::ZERO);
        assert_eq!(journal.held_on(&earned(3)), Some(&receipt(3, 200)));
        assert_eq!(journal.redeemed(&earned(2)), tokens(150));
        assert_eq!(journal.totals().count(), 4);
        assert_eq!(journal.seqno(), Some(65_535));
        assert_eq!((journal.boot(), journal.next_boot().unwrap()), (2, 3));
    }

    #[test]
    fn a_lower_amount_never_replaces_a_higher_one() {
        let (_directory, path, _) = written();
        let (mut journal, _) = open(&path);
        let records = [
            ceiling(2, 999),
            held(2, 199),
            totals(2, 11, 19),
            ceiling(3, 3000),
            ceiling(3, 2000),
            Record::Redeemed { channel: earned(2), amount: tokens(1) },
            Record::Seqno { seqno: 3 },
        ];
        journal.commit(&records).unwrap();
        drop(journal);
        let (journal, _) = open(&path);
        assert_eq!((journal.ceiling(&paid(2)), journal.ceiling(&paid(3))), (tokens(1000), tokens(3000)));
        assert_eq!(journal.held_on(&earned(2)).unwrap().amount(), tokens(200));
        assert_eq!(journal.redeemed(&earned(2)), tokens(150));
        let (_, totals) = journal.totals().find(|(peer, _)| *peer == neighbour(2).node_id()).unwrap();
        assert_eq!(totals, Totals { sent: Bytes::new(11), received: Bytes::new(20) });
        assert_eq!(journal.seqno(), Some(3), "the sequence number wraps around");
    }

    #[test]
    fn what_is_no_news_is_not_written() {
        let (directory, path, _) = written();
        let (mut journal, _) = open(&path);
        journal.commit(&[totals(2, 50, 50)]).unwrap();
        let before = files_of(directory.path());
        journal.commit(&some_of_everything()).unwrap();
        journal.commit(&[]).unwrap();
        assert_eq!(files_of(directory.path()), before);
    }

    #[test]
    fn the_files_are_the_owners_alone_and_padded_against_torn_sectors() {
        let (directory, path, _) = written();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let (mut journal, _) = open(&path);
        journal.commit(&[totals(2, 50, 50)]).unwrap();
        for entry in fs::read_dir(directory.path()).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{}", entry.path().display());
        }
        // One page changed. SQLite repeats its frame up to the next sector of 4,096 bytes, because of psow=0.
        let log = fs::metadata(beside(&path, "-wal")).unwrap().len();
        assert!(log >= 4096, "the log has {log} bytes");
        assert!(!beside(&path, "-shm").exists(), "no shared memory");
    }

    #[test]
    fn random_bytes_are_set_aside_and_kept() {
        let (_directory, path, before) = written();
        for round in 0..20 {
            let mut rng = fastrand::Rng::with_seed(round);
            let mut noise = vec![0; rng.usize(1..9000)];
            rng.fill(&mut noise);
            if round % 2 == 0 && noise.len() > 100 {
                noise[..16].copy_from_slice(b"SQLite format 3\0");
            }
            fs::write(&path, &noise).unwrap();
            let (journal, opened) = open(&path);
            let Opened::SetAside { to, .. } = opened else { panic!("{opened:?}") };
            assert_eq!(fs::read(&to).unwrap(), noise);
            assert_eq!(to, beside(&path, &format!(".damaged-{}", round + 1)));
            assert_nothing_is_made_up(&journal, &before);
            assert_eq!(journal.held().count(), 0);
        }
    }

    #[test]
    fn a_cut_file_is_set_aside_at_every_page() {
        let (directory, _, before) = written();
        let files = files_of(directory.path());
        let whole = &files[&OsString::from("journal.db")];
        assert!(whole.len() > 3 * 1024);
        for len in (0..whole.len()).step_by(1024) {
            let scratch = self::directory();
            let path = scratch.path().join("journal.db");
            put_files(scratch.path(), &files);
            fs::write(&path, &whole[..len]).unwrap();
            let (mut journal, opened) = open(&path);
            assert!(matches!(opened, Opened::SetAside { .. }), "{len}: {opened:?}");
            assert_nothing_is_made_up(&journal, &before);
            journal.commit(&some_of_everything()).unwrap();
            assert_eq!(journal.state, before);
        }
    }

    #[test]
    fn a_flipped_bit_never_makes_anything_up() {
        let (directory, path, before) = written();
        let files = files_of(directory.path());
        let len = files[&OsString::from("journal.db")].len();
        let mut rng = fastrand::Rng::with_seed(1);
        let header = 0..100 * 8;
        let anywhere: Vec<_> = (0..1000).map(|_| rng.usize(..len * 8)).collect();
        let mut set_aside = 0;
        for bit in header.chain(anywhere) {
            put_files(directory.path(), &files);
            let mut bytes = files[&OsString::from("journal.db")].clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bytes).unwrap();
            let (journal, opened) = open(&path);
            assert_nothing_is_made_up(&journal, &before);
            match opened {
                Opened::SetAside { to, .. } => {
                    assert_eq!(fs::read(to).unwrap(), bytes, "it is kept as it was found");
                    set_aside += 1;
                }
                Opened::Restored => assert_eq!(journal.state, before, "bit {bit}"),
                Opened::Fresh => panic!("bit {bit}"),
            }
        }
        // Free pages hold nothing that could be damaged.
        assert!(set_aside > 400, "{set_aside}");
    }

    #[test]
    fn a_damaged_log_never_makes_anything_up() {
        let (directory, path, _) = written();
        let (mut journal, _) = open(&path);
        let all: Vec<_> = (2..6).flat_map(|n| [ceiling(n, 5000), totals(n, 100, 200)]).collect();
        journal.commit(&all).unwrap();
        // The power fails: the files as they are, the log not yet folded in.
        let before = journal.state.clone();
        let files = files_of(directory.path());
        drop(journal);
        let log = OsString::from("journal.db-wal");
        let whole = &files[&log];
        assert!(!whole.is_empty());

        put_files(directory.path(), &files);
        assert_eq!(open(&path).0.state, before);

        let mut rng = fastrand::Rng::with_seed(2);
        for _ in 0..1000 {
            let mut bytes = whole.clone();
            if rng.bool() {
                bytes.truncate(rng.usize(..whole.len()));
            } else {
                bytes[rng.usize(..whole.len())] ^= 1 << rng.u8(..8);
            }
            put_files(directory.path(), &files);
            fs::write(directory.path().join(&log), &bytes).unwrap();
            let (journal, opened) = open(&path);
            assert!(matches!(opened, Opened::Restored | Opened::SetAside { .. }), "{opened:?}");
            assert_eq!(journal.state.ceilings, before.ceilings);
            assert!(journal.held().all(|receipt| before.held.get(&receipt.channel()) == Some(receipt)));
            let known = |totals: Totals| totals.sent == Bytes::new(10) || totals.sent == Bytes::new(100);
            assert!(journal.totals().all(|(_, totals)| known(totals)));
        }
    }

    #[test]
    fn rows_that_can_be_proven_survive_a_damaged_one() {
        let (_directory, path, before) = written();
        // Someone grants itself a receipt, and the file is a perfect database all the same.
        let database = Connection::open(&path).unwrap();
        let value = receipt(2, 9_000_000).encode();
        let key = channel_to_bytes(&earned(2));
        let forged = [value.as_slice(), &[0]].concat();
        let sealed = seal(Some(&DOMAIN), HELD, &key, &forged);
        database.execute(UPSERT, (HELD, key, forged, sealed)).unwrap();
        let changed = "UPDATE record SET value = zeroblob(12) WHERE kind = 'ceiling'";
        assert_eq!(database.execute(changed, []).unwrap(), 4);
        database.close().unwrap();

        let (journal, opened) = open(&path);
        let Opened::SetAside { why, .. } = opened else { panic!("{opened:?}") };
        assert_eq!(why, "5 of its rows are damaged");
        assert_nothing_is_made_up(&journal, &before);
        assert_eq!(journal.held().count(), 3);
        drop(journal);
        let (journal, opened) = open(&path);
        assert_eq!((opened, journal.held().count()), (Opened::Restored, 3));
    }

    #[test]
    fn foreign_databases_are_set_aside_and_other_ledgers_and_newer_versions_refused() {
        let (_directory, path, before) = written();
        let other = LedgerDomain { chain_id: 1, ..DOMAIN };
        let error = Journal::open(&path, &other).unwrap_err();
        assert!(matches!(error, JournalError::OtherLedger { .. }), "{error}");
        assert!(error.next_step().contains("move"));
        fs::remove_file(beside(&path, ".anchor-a")).unwrap();
        fs::remove_file(beside(&path, ".anchor-b")).unwrap();
        let error = Journal::open(&path, &other).unwrap_err();
        assert!(matches!(error, JournalError::OtherLedger { .. }), "{error}");
        assert_eq!(open(&path).0.state, before, "a look with the wrong configuration changes nothing");

        let mut newer = heading(&DOMAIN);
        newer[1] = 5;
        let database = Connection::open(&path).unwrap();
        database.execute(UPSERT, (JOURNAL, [0_u8; 0], &newer, seal(None, JOURNAL, &[], &newer))).unwrap();
        database.close().unwrap();
        let error = Journal::open(&path, &DOMAIN).unwrap_err();
        assert!(matches!(error, JournalError::Newer { version: 5, .. }), "{error}");

        fs::remove_file(&path).unwrap();
        let database = Connection::open(&path).unwrap();
        database.execute_batch("CREATE TABLE song (title TEXT)").unwrap();
        database.close().unwrap();
        let (_, opened) = open(&path);
        let Opened::SetAside { why, .. } = opened else { panic!("{opened:?}") };
        assert_eq!(why, "it is not a journal; no anchor can be read, so ceilings may be missing");
    }

    #[test]
    fn a_lost_journal_begins_with_the_ceilings_of_its_anchor() {
        let (_directory, path, before) = written();
        fs::remove_file(&path).unwrap();
        let (journal, opened) = open(&path);
        assert_eq!(opened, Opened::Fresh);
        assert_nothing_is_made_up(&journal, &before);
    }

    #[test]
    fn a_replacement_cut_short_is_completed() {
        let (directory, path, before) = written();
        let new = beside(&path, ".new");
        let files = files_of(directory.path());

        // The old file was renamed, its log and the new file not yet.
        fs::rename(&path, &new).unwrap();
        fs::write(beside(&path, "-wal"), [7; 5000]).unwrap();
        let (journal, opened) = open(&path);
        assert_eq!((opened, &journal.state), (Opened::Restored, &before));
        assert!(directory.path().join("journal.db.damaged-1-wal").exists());
        drop(journal);

        // The new file is half written, the old one still there.
        put_files(directory.path(), &files);
        fs::write(&new, b"half").unwrap();
        fs::write(beside(&new, "-journal"), b"half").unwrap();
        assert_eq!(open(&path).1, Opened::Restored);

        // The very first start was cut short.
        fs::remove_file(&path).unwrap();
        fs::write(&new, b"half").unwrap();
        fs::write(beside(&new, "-journal"), b"half").unwrap();
        assert_eq!(open(&path).1, Opened::Fresh);
        assert!(!new.exists());
    }

    #[test]
    fn errors_name_the_next_step() {
        let (directory, path, _) = written();
        let (journal, _) = open(&path);
        let error = Journal::open(&path, &DOMAIN).unwrap_err();
        assert!(matches!(error, JournalError::Locked { .. }), "{error}");
        assert!(error.next_step().contains("another waybill is running"));
        drop(journal);

        let error = Journal::open(&directory.path().join("none/journal.db"), &DOMAIN).unwrap_err();
        assert!(error.next_step().contains("mkdir -p"), "{error}");
        let error = Journal::open(directory.path(), &DOMAIN).unwrap_err();
        assert!(matches!(error, JournalError::NotAFile { .. }), "{error}");

        // Only a file name: the directory is the current one.
        assert_eq!(uri(Path::new("a b?c#%.db")), "file:a%20b%3Fc%23%25.db?psow=0");
        let strange = directory.path().join("a b?mode=memory#%41.db");
        let (mut journal, _) = open(&strange);
        journal.next_boot().unwrap();
        assert!(strange.exists());
    }

    #[test]
    fn more_channels_than_can_be_remembered_are_refused() {
        let (_directory, path, before) = written();
        let (mut journal, _) = open(&path);
        let first = paid(2);
        let channel = |nonce| ChannelId { nonce, ..first };
        let many: Vec<_> = (0..=CHANNELS_MAX as u64)
            .map(|nonce| Record::Ceiling { channel: channel(nonce), amount: tokens(1) })
            .collect();
        let error = journal.commit(&many).unwrap_err();
        assert!(matches!(error, JournalError::TooManyChannels { .. }), "{error}");
        assert_eq!(journal.state, before);
        journal.commit(&many[..CHANNELS_MAX - 4]).unwrap();
        drop(journal);
        let (journal, opened) = open(&path);
        assert_eq!((opened, journal.ceilings().count()), (Opened::Restored, CHANNELS_MAX - 1));
    }

    /// The child of the test below: says each amount after it was committed, until it is killed.
    fn commit_until_killed(path: &Path) {
        let (mut journal, _) = open(path);
        journal.next_boot().unwrap();
        let mut amount = journal.ceiling(&paid(2)).get() as u64;
        loop {
            amount += 1;
            journal.commit(&[ceiling(2, amount), held(3, amount), totals(4, amount, amount)]).unwrap();
            writeln!(io::stdout(), "committed {amount}").unwrap();
        }
    }

    #[test]
    fn what_was_acknowledged_survives_kill_minus_nine() {
        const CHILD: &str = "WAYBILL_TEST_JOURNAL";
        if let Some(path) = std::env::var_os(CHILD) {
            return commit_until_killed(Path::new(&path));
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal.db");
        let mut rng = fastrand::Rng::with_seed(3);
        let mut acknowledged = 0;
        for boot in 1..=20 {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "journal::tests::what_was_acknowledged_survives_kill_minus_nine", "--nocapture"])
                .env(CHILD, &path)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
            let amount = |line: String| line.split_once("committed ").and_then(|(_, n)| n.parse().ok());
            acknowledged = lines.find_map(amount).unwrap();
            std::thread::sleep(Duration::from_micros(rng.u64(..30_000)));
            child.kill().unwrap();
            child.wait().unwrap();
            acknowledged = lines.filter_map(amount).last().unwrap_or(acknowledged);

            let (journal, opened) = open(&path);
            assert_eq!(opened, Opened::Restored);
            assert_eq!(journal.boot(), boot);
            assert!(journal.ceiling(&paid(2)) >= tokens(acknowledged));
            assert!(journal.held_on(&earned(3)).unwrap().amount() >= tokens(acknowledged));
            let (_, totals) = journal.totals().next().unwrap();
            assert!(totals.sent >= Bytes::new(acknowledged));
        }
        assert!(acknowledged >= 20);
    }

    /// Fills a disk to the last byte.
    fn fill(ballast: &Path) {
        let mut file = File::create(ballast).unwrap();
        for block in [4096, 1] {
            while file.write_all(&vec![0; block]).is_ok() {}
        }
        assert!(fs::write(ballast.with_extension("more"), [1]).is_err(), "there is room left");
        let _ = fs::remove_file(ballast.with_extension("more"));
    }

    #[test]
    fn a_journal_goes_on_for_months_on_a_disk_that_others_filled() {
        let name = "journal::tests::a_journal_goes_on_for_months_on_a_disk_that_others_filled";
        if !rerun_in_namespace(name, "--mount", "mount -t tmpfs -o size=2m none /mnt || exit 1") {
            return;
        }
        let path = Path::new("/mnt/journal.db");
        let (mut journal, _) = open(path);
        journal.next_boot().unwrap();
        // A first boot's first ceiling, when the disk is full already.
        fill(Path::new("/mnt/ballast"));
        let months = 90;
        for day in 0..months {
            let line = Day { segments: 1, earned: tokens(9), ..Day::default() };
            for n in 1..=20 {
                let amount = 1000 * u64::from(day + 1) + n;
                let more = [ceiling(2, amount), held(2, amount), totals(3, amount, amount), standing(4, amount)];
                journal.commit(&more).unwrap();
            }
            journal.commit(&[Record::Day { day: 20_000 + day, peer: neighbour(2).node_id(), line }]).unwrap();
            if day % 10 == 9 {
                // Without power for a moment, and in order.
                let state = journal.state.clone();
                drop(journal);
                let (again, opened) = open(path);
                assert_eq!((opened, &again.state), (Opened::Restored, &state));
                journal = again;
                journal.next_boot().unwrap();
            }
        }
        assert_eq!(journal.days().count(), months as usize);
        assert!(beside(path, ".spare").exists(), "it was not even needed");
    }

    #[test]
    fn a_full_disk_refuses_by_name_and_half_writes_nothing() {
        let name = "journal::tests::a_full_disk_refuses_by_name_and_half_writes_nothing";
        if !rerun_in_namespace(name, "--mount", "mount -t tmpfs -o size=2m none /mnt || exit 1") {
            return;
        }
        let path = Path::new("/mnt/journal.db");
        let (mut journal, _) = open(path);
        journal.next_boot().unwrap();
        journal.commit(&some_of_everything()).unwrap();
        let ballast = Path::new("/mnt/ballast");
        fill(ballast);

        // Ever more channels need ever more room: first the free pages are used, then what was spared.
        let (mut n, mut before) = (1, journal.state.clone());
        let channel = |nonce| Record::Ceiling { channel: ChannelId { nonce, ..paid(2) }, amount: tokens(1) };
        let error = loop {
            n += 50;
            match journal.commit(&(n..n + 50).map(channel).collect::<Vec<_>>()) {
                Ok(()) => before = journal.state.clone(),
                Err(error) => break error,
            }
            assert!(n < 16_000, "the disk never filled up");
        };
        assert!(n > 400, "only {n} channels had room");
        assert!(matches!(error, JournalError::DiskFull { .. }), "{error}");
        assert!(error.next_step().contains("make room"));
        assert!(!beside(path, ".spare").exists(), "it was of no use");
        assert_eq!(journal.state, before);
        drop(journal);
        let (mut journal, opened) = open(path);
        assert_eq!((opened, &journal.state.held), (Opened::Restored, &before.held));

        fs::remove_file(ballast).unwrap();
        journal.commit(&[held(2, 5000), ceiling(2, 5000)]).unwrap();
        drop(journal);
        let (journal, opened) = open(path);
        assert_eq!((opened, journal.ceiling(&paid(2))), (Opened::Restored, tokens(5000)));

        // No room for a first journal either.
        fill(ballast);
        let error = Journal::open(Path::new("/mnt/second.db"), &DOMAIN).unwrap_err();
        assert!(matches!(error, JournalError::DiskFull { .. }), "{error}");
        fs::remove_file(ballast).unwrap();
        assert_eq!(open(Path::new("/mnt/second.db")).1, Opened::Fresh);
    }
}
