//! One transaction on the tables, as the rules see it.

use std::cmp::Ordering;

use ledger_core::merkle::{Subtrees, leaf_hash, subtree_count, subtree_number};
use ledger_core::record_tree::Subtree;
use ledger_core::{Channel, Entry, Event, Genesis, Hash, Head, Phase, Records, Sums, Totals, Tree, UnixTime};
use metering::{ChannelId, NodeId, Tokens};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::error::Fault;
use crate::seal::{Seal, Table, seal, seal_numbers};

/// How many of the newest entries are hashed when a ledger is opened: some milliseconds. An audit looks at all.
const CHECKED_AT_OPENING: u64 = 1024;

/// Records that read and write rows. Totals, time and the log's head are read at the beginning and written by
/// [`Transaction::finish`]; everything else goes straight to its row.
pub(crate) struct Transaction<'c> {
    connection: &'c Connection,
    genesis: Genesis,
    time: UnixTime,
    totals: Totals,
    tree: Tree,
    root: Hash,
    seal: Seal,
}

impl<'c> Transaction<'c> {
    /// Writes the rows of a new ledger.
    pub(crate) fn found(connection: &'c Connection, genesis: &Genesis, founding: &Entry) -> Result<(), Fault> {
        connection.execute(
            "INSERT INTO ledger VALUES (0, ?1, ?2, 0, 0, 0, 0, 0, x'', zeroblob(32), zeroblob(8))",
            params![founding.encode(), stored(genesis.founded().seconds())?],
        )?;
        let mut records = Self {
            connection,
            genesis: genesis.clone(),
            time: genesis.founded(),
            totals: Totals::default(),
            tree: Tree::default(),
            root: Tree::default().head().root,
            seal: Seal::default(),
        };
        records.append(founding)?;
        records.finish()?;
        records.set_hashed(0, &Subtree::Empty)
    }

    /// Reads the ledger's own row. `connection` is in a transaction. `genesis` is what an earlier transaction read, as it
    /// never changes.
    pub(crate) fn begin(connection: &'c Connection, genesis: Option<&Genesis>) -> Result<Self, Fault> {
        let mut select = connection.prepare_cached(
            "SELECT genesis, time, minted, burned, held, locked, size, peaks, root, seal FROM ledger WHERE id = 0",
        )?;
        let mut rows = select.query([])?;
        let row = rows.next()?.ok_or_else(|| Fault::damaged("the ledger's own row is missing"))?;
        let genesis = match genesis {
            Some(genesis) => genesis.clone(),
            None => read_genesis(row.get_ref(0)?.as_blob().unwrap_or_default())?,
        };
        let totals =
            Totals { minted: tokens(row, 2)?, burned: tokens(row, 3)?, held: tokens(row, 4)?, locked: tokens(row, 5)? };
        let peaks = row.get_ref(7)?.as_blob().unwrap_or_default();
        let tree = Tree::from_peaks(number(row, 6)?, read_peaks(peaks)?)
            .ok_or_else(|| Fault::damaged("the log's size does not fit its peaks"))?;
        let (time, root) = (UnixTime::from_seconds(number(row, 1)?), Hash(row.get(8)?));
        Ok(Self { connection, genesis, time, totals, tree, root, seal: row.get(9)? })
    }

    /// Whether the ledger's own row is what was written.
    pub(crate) fn check_own_row(&self) -> Result<(), Fault> {
        let head = self.tree.head();
        if self.root == head.root && self.seal == self.own_seal()? {
            Ok(())
        } else {
            Err(Fault::damaged("the ledger's own row is not what was written"))
        }
    }

    fn own_seal(&self) -> Result<Seal, Fault> {
        let Totals { minted, burned, held, locked } = self.totals;
        let amounts = [minted, burned, held, locked].map(|amount| amount.get().to_be_bytes()).concat();
        let numbers = [self.time.seconds(), self.tree.size()].map(u64::to_be_bytes).concat();
        let peaks: Vec<u8> = self.tree.peaks().iter().flat_map(|peak| peak.0).collect();
        Ok(seal(Table::Ledger, &[&self.genesis.encode(), &amounts, &numbers, &peaks]))
    }

    /// Whether the ledger's own row fits itself and both ends of the log, which is what can be told without replaying it
    /// all. Gives the genesis.
    pub(crate) fn check_head(self) -> Result<Genesis, Fault> {
        if !self.totals.conserved() {
            return Err(ledger_core::records::NotConserved { totals: self.totals }.into());
        }
        if self.tree.head().root != self.root {
            return Err(Fault::damaged("the log's root does not fit its peaks"));
        }
        let founding = ledger_core::state::founding(&self.genesis).encode();
        if self.entry_bytes(0)?.as_ref() != Some(&founding) {
            return Err(Fault::damaged("entry 0 is not the ledger's founding"));
        }
        let last: Option<i64> = self.connection.query_row("SELECT max(number) FROM entry", [], |row| row.get(0))?;
        if last.and_then(|last| u64::try_from(last).ok()).map(|last| last + 1) != Some(self.tree.size()) {
            return Err(Fault::damaged("the log's last entry is not the one its size says"));
        }
        self.check_tail()?;
        self.check_own_row()?;
        self.check_rows()?;
        Ok(self.genesis)
    }

    /// Whether the newest entries are those that were appended, by their hashes.
    fn check_tail(&self) -> Result<(), Fault> {
        let size = self.tree.size();
        let first = size.saturating_sub(CHECKED_AT_OPENING);
        let mut tree = Tree::at(self, first)?;
        let mut entries =
            self.connection.prepare("SELECT number, entry FROM entry WHERE number >= ?1 ORDER BY number")?;
        let mut entries = entries.query([stored(first)?])?;
        let mut roots = self.connection.prepare("SELECT root FROM subtree WHERE number >= ?1 ORDER BY number")?;
        let mut roots = roots.query([stored(subtree_count(first))?])?;
        for number in first..size {
            let row = entries.next()?.filter(|row| row.get(0).ok() == i64::try_from(number).ok());
            let row = row.ok_or_else(|| Fault::damaged(format!("entry {number} is missing")))?;
            for completed in tree.append(leaf_hash(row.get_ref(1)?.as_blob().unwrap_or_default())) {
                let kept = roots.next()?.map(|row| row.get(0)).transpose()?.map(Hash);
                if kept != Some(completed) {
                    return Err(Fault::damaged(format!("the log up to entry {number} is not what was appended")));
                }
            }
        }
        if tree == self.tree { Ok(()) } else { Err(Fault::damaged("the newest entries do not have the log's root")) }
    }

    /// Whether the rows of the tables are what was written, and add up to the totals: some hundred milliseconds for a million
    /// accounts.
    pub(crate) fn check_rows(&self) -> Result<(), Fault> {
        let mut sums = Sums::default();
        self.each_balance(|row| row.checked(name_balance).map(|(_, balance)| sums.add_balance(balance)))?;
        self.each_channel(|row| row.checked(name_channel).map(|(_, channel)| sums.add_channel(&channel)))?;
        self.each_fact(|row| {
            let (place, value) = row.checked(name_fact)?;
            sums.add_fact(&place, &value).ok_or_else(|| Fault::damaged("a record does not read"))
        })?;
        if !sums.fit(&self.totals) {
            return Err(Fault::damaged("the accounts, channels and vouchers do not add up to the totals"));
        }
        Ok(())
    }

    /// Whether these, smallest first, are the roots that were kept of the subtrees that an entry completed.
    pub(crate) fn completes(&self, number: u64, completed: &[Hash]) -> Result<bool, Fault> {
        for (level, root) in (1..).zip(completed) {
            if self.subtree(level, number >> level)? != *root {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// How many subtrees are kept.
    pub(crate) fn subtrees(&self) -> Result<u64, Fault> {
        unsigned(self.connection.query_row("SELECT count(*) FROM subtree", [], |row| row.get(0))?)
    }

    /// Writes the ledger's own row.
    pub(crate) fn finish(&mut self) -> Result<(), Fault> {
        let head = self.tree.head();
        self.root = head.root;
        let peaks: Vec<u8> = self.tree.peaks().iter().flat_map(|peak| peak.0).collect();
        self.connection
            .prepare_cached(
                "UPDATE ledger SET time = ?1, minted = ?2, burned = ?3, held = ?4, locked = ?5, size = ?6,
                 peaks = ?7, root = ?8, seal = ?9",
            )?
            .execute(params![
                stored(self.time.seconds())?,
                stored(self.totals.minted.get())?,
                stored(self.totals.burned.get())?,
                stored(self.totals.held.get())?,
                stored(self.totals.locked.get())?,
                stored(head.size)?,
                peaks,
                head.root.0,
                self.own_seal()?,
            ])?;
        Ok(())
    }

    pub(crate) fn head(&self) -> Head {
        Head { size: self.tree.size(), root: self.root }
    }

    pub(crate) fn connection(&self) -> &Connection {
        self.connection
    }

    pub(crate) fn channels_of(&self, account: NodeId) -> Result<Vec<(ChannelId, Channel)>, Fault> {
        self.channels("WHERE payer = ?1 OR payee = ?1", params![account.0])
    }

    /// The channels of an account with ids above `after`, in order, at most so many: of those it pays on and those it is
    /// paid on, which stand in two indexes, as many each, merged.
    pub(crate) fn channels_behind(
        &self,
        account: NodeId,
        after: Option<ChannelId>,
        limit: usize,
    ) -> Result<Vec<(ChannelId, Channel)>, Fault> {
        let most = i64::try_from(limit).unwrap_or(i64::MAX);
        // No channel has the nonce 0.
        let after = after.unwrap_or(ChannelId { payer: NodeId([0; 20]), payee: NodeId([0; 20]), nonce: 0 });
        let nonce = i64::try_from(after.nonce).unwrap_or(i64::MAX);
        let mut page = if after.payer > account {
            Vec::new()
        } else {
            let (payee, nonce) = if after.payer == account { (after.payee, nonce) } else { (NodeId([0; 20]), 0) };
            let which = "WHERE payer = ?1 AND (payee, nonce) > (?2, ?3)";
            self.channels_in_order(which, "payee, nonce", params![account.0, payee.0, nonce, most])?
        };
        // Of the payer that `after` ends at, those it pays this account on are behind it or not as the payee is.
        let (payer, nonce) = match account.cmp(&after.payee) {
            Ordering::Less => (after.payer, i64::MAX),
            Ordering::Equal => (after.payer, nonce),
            Ordering::Greater => (after.payer, 0),
        };
        let which = "WHERE payee = ?1 AND (payer, nonce) > (?2, ?3)";
        page.extend(self.channels_in_order(which, "payer, nonce", params![account.0, payer.0, nonce, most])?);
        page.sort_unstable_by_key(|(id, _)| *id);
        page.truncate(limit);
        Ok(page)
    }

    fn channels(&self, which: &str, with: impl rusqlite::Params) -> Result<Vec<(ChannelId, Channel)>, Fault> {
        self.channels_by(&format!("{which} ORDER BY payer, payee, nonce"), with)
    }

    /// The last parameter, `?4`, says how many.
    fn channels_in_order(
        &self,
        which: &str,
        order: &str,
        with: impl rusqlite::Params,
    ) -> Result<Vec<(ChannelId, Channel)>, Fault> {
        self.channels_by(&format!("{which} ORDER BY {order} LIMIT ?4"), with)
    }

    fn channels_by(&self, which: &str, with: impl rusqlite::Params) -> Result<Vec<(ChannelId, Channel)>, Fault> {
        let mut select = self.connection.prepare(&format!("{SELECT_CHANNEL} {which}"))?;
        let mut rows = select.query(with)?;
        let mut channels = Vec::new();
        while let Some(row) = rows.next()? {
            channels.push(read_channel(row)?.checked(name_channel)?);
        }
        Ok(channels)
    }

    /// Every channel, in order.
    pub(crate) fn each_channel(&self, mut with: impl FnMut(Kept<(ChannelId, Channel)>) -> Done) -> Done {
        let mut select = self.connection.prepare(&format!("{SELECT_CHANNEL} ORDER BY payer, payee, nonce"))?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            with(read_channel(row)?)?;
        }
        Ok(())
    }

    /// Every balance, in order of the accounts.
    pub(crate) fn each_balance(&self, mut with: impl FnMut(Kept<(NodeId, Tokens)>) -> Done) -> Done {
        let mut select = self.connection.prepare("SELECT id, balance, seal FROM account ORDER BY id")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            with(read_balance(row)?)?;
        }
        Ok(())
    }

    /// Every fact, with its place, in order of the places.
    pub(crate) fn each_fact(&self, mut with: impl FnMut(Kept<Placed>) -> Done) -> Done {
        let mut select = self.connection.prepare("SELECT place, value, seal FROM fact ORDER BY place")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            with(read_fact(row)?)?;
        }
        Ok(())
    }

    /// The first records behind one place and before another that have something in them, in order of their places.
    pub(crate) fn facts_between(&self, after: &[u8], end: &[u8], limit: usize) -> Result<Vec<Placed>, Fault> {
        let mut select = self.connection.prepare_cached(
            "SELECT place, value, seal FROM fact WHERE place > ?1 AND place < ?2 AND length(value) > 0
             ORDER BY place LIMIT ?3",
        )?;
        let mut rows = select.query(params![after, end, i64::try_from(limit).unwrap_or(i64::MAX)])?;
        let mut facts = Vec::new();
        while let Some(row) = rows.next()? {
            facts.push(read_fact(row)?.checked(name_fact)?);
        }
        Ok(facts)
    }

    pub(crate) fn entries(&self, from: u64, limit: usize) -> Result<Vec<Entry>, Fault> {
        let mut select = self
            .connection
            .prepare_cached("SELECT number, entry FROM entry WHERE number >= ?1 ORDER BY number LIMIT ?2")?;
        let mut rows =
            select.query(params![i64::try_from(from).unwrap_or(i64::MAX), i64::try_from(limit).unwrap_or(i64::MAX)])?;
        let mut entries = Vec::new();
        while let Some(row) = rows.next()? {
            let entry = Entry::decode(row.get_ref(1)?.as_blob().unwrap_or_default());
            let damaged = |error| row.get(0).map(|number: i64| Fault::damaged(format!("entry {number}: {error}")));
            match entry {
                Ok(entry) => entries.push(entry),
                Err(error) => return Err(damaged(error)?),
            }
        }
        Ok(entries)
    }

    /// The number of the entry that an account's order made.
    pub(crate) fn ordered_number(&self, account: NodeId, sequence: u64) -> Result<Option<u64>, Fault> {
        // The rules give no sequence beyond 2^63: each order makes an entry.
        let Ok(sequence) = i64::try_from(sequence) else {
            return Ok(None);
        };
        let mut select = self
            .connection
            .prepare_cached("SELECT sequence, entry, seal FROM ordered WHERE account = ?1 AND sequence = ?2")?;
        let mut rows = select.query(params![account.0, sequence])?;
        rows.next()?.map(|row| read_order(row, account).map(|(_, entry)| entry)).transpose()
    }

    /// How many orders the table has.
    pub(crate) fn orders(&self) -> Result<u64, Fault> {
        unsigned(self.connection.query_row("SELECT count(*) FROM ordered", [], |row| row.get(0))?)
    }

    pub(crate) fn entry_bytes(&self, number: u64) -> Result<Option<Vec<u8>>, Fault> {
        Ok(self
            .connection
            .prepare_cached("SELECT entry FROM entry WHERE number = ?1")?
            .query_row([stored(number)?], |row| row.get(0))
            .optional()?)
    }
}

impl Records for Transaction<'_> {
    type Error = Fault;

    fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    fn time(&self) -> UnixTime {
        self.time
    }

    fn totals(&self) -> Totals {
        self.totals
    }

    fn balance(&self, account: NodeId) -> Result<Tokens, Fault> {
        let mut select = self.connection.prepare_cached("SELECT id, balance, seal FROM account WHERE id = ?1")?;
        let mut rows = select.query([account.0])?;
        rows.next()?.map_or(Ok(Tokens::ZERO), |row| Ok(read_balance(row)?.checked(name_balance)?.1))
    }

    fn sequence(&self, account: NodeId) -> Result<u64, Fault> {
        let mut select = self.connection.prepare_cached(
            "SELECT sequence, entry, seal FROM ordered WHERE account = ?1 ORDER BY sequence DESC LIMIT 1",
        )?;
        let mut rows = select.query([account.0])?;
        rows.next()?.map_or(Ok(0), |row| read_order(row, account).map(|(sequence, _)| sequence))
    }

    fn ordered(&self, account: NodeId, sequence: u64) -> Result<Option<Entry>, Fault> {
        let Some(number) = self.ordered_number(account, sequence)? else {
            return Ok(None);
        };
        let damaged = || Fault::damaged(format!("entry {number} is not the order it should be"));
        let entry = self.entry_bytes(number)?.and_then(|bytes| Entry::decode(&bytes).ok()).ok_or_else(damaged)?;
        let is_it = entry.order().is_some_and(|made| (made.account(), made.seal().sequence) == (account, sequence));
        if is_it { Ok(Some(entry)) } else { Err(damaged()) }
    }

    fn fact(&self, place: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        let mut select = self.connection.prepare_cached("SELECT place, value, seal FROM fact WHERE place = ?1")?;
        let mut rows = select.query([place])?;
        rows.next()?.map(|row| Ok(read_fact(row)?.checked(name_fact)?.1)).transpose()
    }

    fn channel(&self, id: ChannelId) -> Result<Option<Channel>, Fault> {
        // The rules give no nonce beyond 2^63, so no channel has one.
        let Ok(nonce) = i64::try_from(id.nonce) else {
            return Ok(None);
        };
        let mut select = self
            .connection
            .prepare_cached(&format!("{SELECT_CHANNEL} WHERE payer = ?1 AND payee = ?2 AND nonce = ?3"))?;
        let mut rows = select.query(params![id.payer.0, id.payee.0, nonce])?;
        rows.next()?.map(|row| Ok(read_channel(row)?.checked(name_channel)?.1)).transpose()
    }

    fn latest_nonce(&self, payer: NodeId, payee: NodeId) -> Result<Option<u64>, Fault> {
        let mut select =
            self.connection.prepare_cached("SELECT max(nonce) FROM channel WHERE payer = ?1 AND payee = ?2")?;
        let latest: Option<i64> = select.query_row(params![payer.0, payee.0], |row| row.get(0))?;
        latest.map(unsigned).transpose()
    }

    fn root_at(&self, size: u64) -> Result<Option<Hash>, Fault> {
        if size > self.tree.size() { Ok(None) } else { Ok(Some(Tree::at(self, size)?.head().root)) }
    }

    fn set_totals(&mut self, totals: Totals) {
        self.totals = totals;
    }

    fn set_balance(&mut self, account: NodeId, balance: Tokens) -> Result<(), Fault> {
        let balance = stored(balance.get())?;
        self.connection
            .prepare_cached(
                "INSERT INTO account VALUES (?1, ?2, ?3)
                 ON CONFLICT (id) DO UPDATE SET balance = excluded.balance, seal = excluded.seal",
            )?
            .execute(params![account.0, balance, seal_numbers(Table::Account, &account.0, &[balance])])?;
        Ok(())
    }

    fn set_fact(&mut self, place: &[u8], value: &[u8]) -> Result<(), Fault> {
        self.connection
            .prepare_cached(
                "INSERT INTO fact VALUES (?1, ?2, ?3)
                 ON CONFLICT (place) DO UPDATE SET value = excluded.value, seal = excluded.seal",
            )?
            .execute(params![place, value, seal(Table::Fact, &[place, value])])?;
        Ok(())
    }

    fn set_channel(&mut self, id: ChannelId, channel: Channel) -> Result<(), Fault> {
        let (exit_time, closed) = match channel.phase {
            Phase::Open => (0, false),
            Phase::Closing { exit } => (exit.seconds(), false),
            Phase::Closed => (0, true),
        };
        let (nonce, exit_time) = (stored(id.nonce)?, stored(exit_time)?);
        let (deposit, redeemed) = (stored(channel.deposit.get())?, stored(channel.redeemed.get())?);
        let seal = seal_channel(id, &[nonce, deposit, redeemed, exit_time, closed.into()]);
        self.connection
            .prepare_cached(
                "INSERT INTO channel VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
                 ON CONFLICT (payer, payee, nonce) DO UPDATE SET deposit = excluded.deposit,
                 redeemed = excluded.redeemed, exit_time = excluded.exit_time, closed = excluded.closed,
                 seal = excluded.seal",
            )?
            .execute(params![id.payer.0, id.payee.0, nonce, deposit, redeemed, exit_time, closed, seal])?;
        Ok(())
    }

    fn append(&mut self, entry: &Entry) -> Result<(), Fault> {
        let bytes = entry.encode();
        self.connection
            .prepare_cached("INSERT INTO entry VALUES (?1, ?2)")?
            .execute(params![stored(self.tree.size())?, bytes])?;
        if let Some(order) = entry.order() {
            let (account, sequence) = (order.account().0, stored(order.seal().sequence)?);
            let seal = seal_numbers(Table::Ordered, &account, &[sequence, stored(self.tree.size())?]);
            self.connection.prepare_cached("INSERT INTO ordered VALUES (?1, ?2, ?3, ?4)")?.execute(params![
                account,
                sequence,
                stored(self.tree.size())?,
                seal,
            ])?;
        }
        let number = self.tree.size();
        for (level, root) in (1..).zip(self.tree.append(leaf_hash(&bytes))) {
            let place = subtree_number(level, number >> level).map(stored).transpose()?;
            self.connection.prepare_cached("INSERT INTO subtree VALUES (?1, ?2)")?.execute(params![place, root.0])?;
        }
        self.time = entry.at;
        Ok(())
    }
}

impl Subtrees for Transaction<'_> {
    type Error = Fault;

    fn subtree(&self, level: u32, index: u64) -> Result<Hash, Fault> {
        let missing = || Fault::damaged(format!("subtree {index} of level {level} is missing"));
        let Some(place) = subtree_number(level, index) else {
            let entry = self.entry_bytes(index)?.ok_or_else(missing)?;
            return Ok(leaf_hash(&entry));
        };
        let mut select = self.connection.prepare_cached("SELECT root FROM subtree WHERE number = ?1")?;
        select.query_row([stored(place)?], |row| row.get(0)).optional()?.map(Hash).ok_or_else(missing)
    }
}

fn read_genesis(bytes: &[u8]) -> Result<Genesis, Fault> {
    let damaged = || Fault::damaged("the genesis does not read");
    let Event::Founded(genesis) = Entry::decode(bytes).map_err(|_| damaged())?.event else {
        return Err(damaged());
    };
    Ok(genesis)
}

fn read_peaks(bytes: &[u8]) -> Result<Vec<Hash>, Fault> {
    let (peaks, rest) = bytes.as_chunks::<32>();
    if rest.is_empty() {
        Ok(peaks.iter().copied().map(Hash).collect())
    } else {
        Err(Fault::damaged("a peak is cut short"))
    }
}

/// What may go wrong with each of many rows.
type Done = Result<(), Fault>;

/// A fact's place and value.
type Placed = (Vec<u8>, Vec<u8>);

const SELECT_CHANNEL: &str = "SELECT payer, payee, nonce, deposit, redeemed, exit_time, closed, seal FROM channel";

/// What a row says, and whether that is what was written.
pub(crate) struct Kept<T> {
    pub(crate) value: T,
    fits: bool,
}

impl<T> Kept<T> {
    /// What the row says, where that is what was written; `name` names the row for who must put it right.
    pub(crate) fn checked(self, name: impl FnOnce(&T) -> String) -> Result<T, Fault> {
        if self.fits { Ok(self.value) } else { Err(Fault::damaged(format!("{} was changed", name(&self.value)))) }
    }
}

pub(crate) fn name_balance((account, _): &(NodeId, Tokens)) -> String {
    format!("the balance of {account}")
}

pub(crate) fn name_channel((id, _): &(ChannelId, Channel)) -> String {
    format!("channel {} of {} for {}", id.nonce, id.payer, id.payee)
}

pub(crate) fn name_fact((place, _): &Placed) -> String {
    format!("the record under {}", hex::encode(place))
}

/// Reads a row of [`SELECT_CHANNEL`].
fn read_channel(row: &Row<'_>) -> Result<Kept<(ChannelId, Channel)>, Fault> {
    let phase = match (number(row, 5)?, row.get(6)?) {
        (0, false) => Phase::Open,
        (exit, false) => Phase::Closing { exit: UnixTime::from_seconds(exit) },
        (0, true) => Phase::Closed,
        (_, true) => return Err(Fault::damaged("a closed channel has an exit time")),
    };
    let id = ChannelId { payer: NodeId(row.get(0)?), payee: NodeId(row.get(1)?), nonce: number(row, 2)? };
    let numbers = [row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?];
    let channel = Channel { deposit: tokens(row, 3)?, redeemed: tokens(row, 4)?, phase };
    Ok(Kept { value: (id, channel), fits: row.get::<_, Seal>(7)? == seal_channel(id, &numbers) })
}

/// The numbers are those of the row's columns, in order.
fn seal_channel(id: ChannelId, numbers: &[i64]) -> Seal {
    seal_numbers(Table::Channel, &[id.payer.0, id.payee.0].concat(), numbers)
}

/// Reads `id, balance, seal`.
fn read_balance(row: &Row<'_>) -> Result<Kept<(NodeId, Tokens)>, Fault> {
    let (account, balance) = (NodeId(row.get(0)?), row.get(1)?);
    let fits = row.get::<_, Seal>(2)? == seal_numbers(Table::Account, &account.0, &[balance]);
    Ok(Kept { value: (account, tokens(row, 1)?), fits })
}

/// Reads `place, value, seal`.
fn read_fact(row: &Row<'_>) -> Result<Kept<Placed>, Fault> {
    let (place, value): Placed = (row.get(0)?, row.get(1)?);
    let fits = row.get::<_, Seal>(2)? == seal(Table::Fact, &[&place, &value]);
    Ok(Kept { value: (place, value), fits })
}

/// Reads `sequence, entry, seal` of an account's.
fn read_order(row: &Row<'_>, account: NodeId) -> Result<(u64, u64), Fault> {
    let numbers = [row.get(0)?, row.get(1)?];
    if row.get::<_, Seal>(2)? != seal_numbers(Table::Ordered, &account.0, &numbers) {
        return Err(Fault::damaged(format!("order {} of {account} was changed", numbers[0])));
    }
    Ok((unsigned(numbers[0])?, unsigned(numbers[1])?))
}

fn tokens(row: &Row<'_>, column: usize) -> Result<Tokens, Fault> {
    // 64 bits always fit 96.
    Tokens::new(number(row, column)?.into()).ok_or_else(|| Fault::damaged("an amount is too large"))
}

fn number(row: &Row<'_>, column: usize) -> Result<u64, Fault> {
    unsigned(row.get(column)?)
}

pub(crate) fn unsigned(number: i64) -> Result<u64, Fault> {
    u64::try_from(number).map_err(|_| Fault::damaged("a number is negative"))
}

/// SQLite counts in 63 bits. The rules keep all amounts, nonces and times below, so a larger one is a bug in them.
pub(crate) fn stored(number: impl TryInto<i64>) -> Result<i64, Fault> {
    number.try_into().map_err(|_| Fault::damaged("a number is too large to store"))
}
