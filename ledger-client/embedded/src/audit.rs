//! The audit: does the log keep the rules, and do the tables say what the log says?

use std::collections::BTreeMap;

use ledger_core::merkle::leaf_hash;
use ledger_core::{Channel, Hash, Head, Records, ReplayError, State, Totals, Tree, UnixTime};
use metering::{ChannelId, NodeId, Tokens};
use rusqlite::Rows;
use thiserror::Error;

use crate::ahead::Ahead;
use crate::error::Fault;
use crate::transaction::Transaction;

/// What an audit found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every rule held, and the tables are what the log says.
    Kept(Audit),
    /// Something is wrong, and this is the first of it.
    Broken(Difference),
}

/// What was audited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Audit {
    /// Size and root of the log, which was replayed whole.
    pub head: Head,
    /// Where all tokens are.
    pub totals: Totals,
    /// How many accounts ever held something.
    pub accounts: usize,
    /// How many channels were ever opened.
    pub channels: usize,
}

/// Where a ledger first differs from what its log and the rules make of it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Difference {
    /// SQLite's own check of the file fails.
    #[error("the file is damaged: {what}")]
    File {
        /// What SQLite found.
        what: String,
    },
    /// An entry is not there.
    #[error("entry {number} is missing")]
    MissingEntry {
        /// Which.
        number: u64,
    },
    /// An entry is there beyond the log's end.
    #[error("entry {number} is beyond the end of the log")]
    ExtraEntry {
        /// Which.
        number: u64,
    },
    /// An entry does not read, or the rules do not allow it or what it says.
    #[error("entry {number}: {error}")]
    Entry {
        /// Which.
        number: u64,
        /// What is wrong with it.
        error: ReplayError,
    },
    /// The entries have another root than the one that was kept when they were appended.
    #[error("the log's root is {} over {} entries, not {}", log.root, log.size, table.root)]
    Root {
        /// From the log.
        log: Head,
        /// From the table.
        table: Head,
    },
    /// An account holds something else.
    #[error("account {account} holds {table}, and by the log {log}")]
    Balance {
        /// Which.
        account: NodeId,
        /// From the log.
        log: Tokens,
        /// From the table.
        table: Tokens,
    },
    /// A channel's record is another.
    #[error("channel {} of {} for {} is {table:?}, and by the log {log:?}", channel.nonce, channel.payer, channel.payee)]
    Channel {
        /// Which.
        channel: ChannelId,
        /// From the log.
        log: Option<Channel>,
        /// From the table.
        table: Option<Channel>,
    },
    /// Who asks again for an order would be given another entry than the one it made.
    #[error("entry {number} was made by order {sequence} of {account}, and the table says otherwise")]
    Order {
        /// Which entry.
        number: u64,
        /// Whose order.
        account: NodeId,
        /// Which of its orders.
        sequence: u64,
    },
    /// A voucher, a key or another of the smaller records is another.
    #[error("the record under {} differs from what the log makes of it", hex::encode(place))]
    Fact {
        /// Its key, as `ledger_core::fact::Fact` encodes it.
        place: Vec<u8>,
    },
    /// An entry up to this one has another hash than the one the log kept when it was appended.
    #[error("the log up to entry {number} is not what was appended")]
    Rewritten {
        /// Which.
        number: u64,
    },
    /// There are hashes of subtrees that the log does not have.
    #[error("the table has {table} subtrees, and the log {log}")]
    Subtrees {
        /// From the log.
        log: u64,
        /// From the table.
        table: u64,
    },
    /// There are orders that no entry was made by.
    #[error("the table has {table} orders, and the log {log}")]
    Orders {
        /// From the log.
        log: u64,
        /// From the table.
        table: u64,
    },
    /// All records hash to something else.
    #[error("all records hash to {table}, and by the log to {log}")]
    Records {
        /// From the log.
        log: Hash,
        /// From the table.
        table: Hash,
    },
    /// There are hashes of records that nothing leads to.
    #[error("the table has {table} tiles of hashes of records, and {reached} belong to the tree")]
    Tiles {
        /// Those of the tree.
        reached: u64,
        /// From the table.
        table: u64,
    },
    /// The running totals are others.
    #[error("the totals are {table:?}, and by the log {log:?}")]
    Totals {
        /// From the log.
        log: Totals,
        /// From the table.
        table: Totals,
    },
    /// The newest entry has another time.
    #[error("the ledger's time is {table}, and by the log {log}")]
    Time {
        /// From the log.
        log: UnixTime,
        /// From the table.
        table: UnixTime,
    },
}

/// Audits what `records`, a transaction, sees.
pub(crate) fn audit(records: &Transaction<'_>) -> Result<Verdict, Fault> {
    match compare(records) {
        Ok(audit) => Ok(Verdict::Kept(audit)),
        Err(Stop::Difference(difference)) => Ok(Verdict::Broken(*difference)),
        // A row that does not read is a difference too: no log gives it.
        Err(Stop::Fault(Fault::Damaged(what) | Fault::Hashes(what))) => Ok(Verdict::Broken(Difference::File { what })),
        Err(Stop::Fault(fault)) => Err(fault),
    }
}

/// What ends an audit early.
enum Stop {
    Fault(Fault),
    Difference(Box<Difference>),
}

impl<E: Into<Fault>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Fault(error.into())
    }
}

fn differs<T>(difference: Difference) -> Result<T, Stop> {
    Err(Stop::Difference(Box::new(difference)))
}

fn compare(records: &Transaction<'_>) -> Result<Audit, Stop> {
    let what: String = records.connection().query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if what != "ok" {
        return differs(Difference::File { what });
    }
    let state = replay(records)?;
    compare_balances(records, &state)?;
    compare_channels(records, &state)?;
    compare_facts(records, &state)?;
    compare_head(records, &state)?;
    compare_hashes(records, &state)?;
    // What the rows say is right, and whoever reads them next must be able to believe it.
    records.check_own_row().and_then(|()| records.check_rows())?;
    let (accounts, channels) = (state.balances().len(), state.channels().len());
    Ok(Audit { head: state.head(), totals: state.totals(), accounts, channels })
}

fn replay(records: &Transaction<'_>) -> Result<State, Stop> {
    let mut select = records.connection().prepare("SELECT number, entry FROM entry ORDER BY number")?;
    let mut rows = select.query([])?;
    let size = records.head().size;
    let mut entries = (0..size).map(|number| entry_in(&mut rows, number));
    let Some(founding) = entries.next().transpose()? else {
        return differs(Difference::MissingEntry { number: 0 });
    };
    let founded = State::replay_founding(&founding);
    let mut state = founded.or_else(|error| differs(Difference::Entry { number: 0, error }))?;
    let (mut orders, mut subtrees, mut tree) = (0, 0, Tree::default());
    let mut grow = |number, entry: &[u8]| {
        let completed = tree.append(leaf_hash(entry));
        subtrees += completed.len() as u64;
        if records.completes(number, &completed)? { Ok(()) } else { differs(Difference::Rewritten { number }) }
    };
    grow(0, &founding)?;
    for (number, looked) in (1..).zip(Ahead::new(state.genesis().domain(), entries)) {
        let (entry, logged) = looked?;
        let logged = logged.and_then(|logged| state.replay_logged(&logged).map(|()| logged));
        let logged = logged.or_else(|error| differs(Difference::Entry { number, error }))?;
        grow(number, &entry)?;
        if let Some(order) = logged.entry().order() {
            orders += 1;
            let (account, sequence) = (order.account(), order.seal().sequence);
            if records.ordered_number(account, sequence)? != Some(number) {
                return differs(Difference::Order { number, account, sequence });
            }
        }
    }
    let table = records.orders()?;
    if table != orders {
        return differs(Difference::Orders { log: orders, table });
    }
    let table = records.subtrees()?;
    if table != subtrees {
        return differs(Difference::Subtrees { log: subtrees, table });
    }
    if rows.next()?.is_some() {
        return differs(Difference::ExtraEntry { number: size });
    }
    Ok(state)
}

/// The entry of the next row, which has to be this one.
fn entry_in(rows: &mut Rows<'_>, number: u64) -> Result<Vec<u8>, Stop> {
    let Some(row) = rows.next()? else {
        return differs(Difference::MissingEntry { number });
    };
    if u64::try_from(row.get::<_, i64>(0)?) != Ok(number) {
        return differs(Difference::MissingEntry { number });
    }
    Ok(row.get_ref(1)?.as_blob().unwrap_or_default().to_vec())
}

fn compare_balances(records: &Transaction<'_>, state: &State) -> Result<(), Stop> {
    // An account without tokens and one never heard of are the same.
    let some = |(_, balance): &(NodeId, Tokens)| *balance != Tokens::ZERO;
    let log = state.balances().iter().map(|(account, balance)| (*account, *balance)).filter(some).collect();
    let mut table = BTreeMap::new();
    records.each_balance(|row| {
        table.extend(Some(row.value).filter(some));
        Ok(())
    })?;
    let Some((account, log, table)) = first_difference(log, table) else {
        return Ok(());
    };
    differs(Difference::Balance { account, log: log.unwrap_or_default(), table: table.unwrap_or_default() })
}

fn compare_channels(records: &Transaction<'_>, state: &State) -> Result<(), Stop> {
    let mut table = BTreeMap::new();
    records.each_channel(|row| {
        table.extend([row.value]);
        Ok(())
    })?;
    let Some((channel, log, table)) = first_difference(state.channels().clone(), table) else {
        return Ok(());
    };
    differs(Difference::Channel { channel, log, table })
}

fn compare_facts(records: &Transaction<'_>, state: &State) -> Result<(), Stop> {
    let (log, mut table) = (state.facts(), BTreeMap::new());
    records.each_fact(|row| {
        table.extend([row.value]);
        Ok(())
    })?;
    let differing = |place: &&Vec<u8>| log.get(*place) != table.get(*place);
    match log.keys().chain(table.keys()).filter(differing).min() {
        Some(place) => differs(Difference::Fact { place: place.clone() }),
        None => Ok(()),
    }
}

fn compare_head(records: &Transaction<'_>, state: &State) -> Result<(), Stop> {
    if records.totals() != state.totals() {
        return differs(Difference::Totals { log: state.totals(), table: records.totals() });
    }
    if records.time() != state.time() {
        return differs(Difference::Time { log: state.time(), table: records.time() });
    }
    let (log, table) = (state.head(), records.head());
    if log != table {
        return differs(Difference::Root { log, table });
    }
    Ok(())
}

/// The hash of all records, where it is up to date; the tree itself in any case.
fn compare_hashes(records: &Transaction<'_>, state: &State) -> Result<(), Stop> {
    let (size, root) = records.hashed()?;
    let (log, table) = (state.record_root(), root.hash());
    if size == state.head().size && log != table {
        return differs(Difference::Records { log, table });
    }
    let (count, table) = records.count_tiles(&root)?;
    if count.tiles != table {
        return differs(Difference::Tiles { reached: count.tiles, table });
    }
    Ok(())
}

/// The first key, in order, under which two maps hold something different.
fn first_difference<K: Ord + Copy, V: PartialEq>(
    mut log: BTreeMap<K, V>,
    mut table: BTreeMap<K, V>,
) -> Option<(K, Option<V>, Option<V>)> {
    let key = log.keys().chain(table.keys()).filter(|key| log.get(key) != table.get(key)).min().copied()?;
    Some((key, log.remove(&key), table.remove(&key)))
}
