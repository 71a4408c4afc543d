//! The watch in a router ([`metering::watch`]): what is kept for neighbours, and redeemed for them when a payer gives notice
//! and they do not answer it; and what neighbours had kept for us.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use ledger_client::{Error, Ledger, Phase};
use metering::watch::{self, COPY_INTERVAL, KEPT_MAX as KEPT_EACH};
use metering::{ChannelId, NodeId, Receipt, Role, SortedMap, SortedSet, Tokens};
use node::LinkId;

use super::money::{is_worthless, one_by_one, usable};
use super::{Control, Done, history};
use crate::journal::{Journal, Record};

/// How often the ledger is asked about the channels that are watched, at most; at least eight times in a notice.
const LOOK_MOST: Duration = Duration::from_secs(600);
const LOOK_LEAST: Duration = Duration::from_secs(1);
/// Channels watched in all: receipts are small, but each is a row of the journal. A neighbour has [`KEPT_EACH`] of them at most,
/// and can always have [`KEPT_LEAST`].
const KEPT_IN_ALL: usize = 256;
const KEPT_LEAST: usize = 8;
/// How long after a failed write nothing of this is written along with what others wait for.
const REST: Duration = Duration::from_secs(60);
/// How long what neighbours had kept for us is gathered before it is written, and how often that may be: whoever has a payer for a
/// friend can find something as often as it likes.
const GATHER: Duration = Duration::from_secs(1);
const FOUND_INTERVAL: Duration = Duration::from_secs(600);
const FOUND_BURST: u32 = 5;
/// Found receipts that wait to be written.
const FOUND_MAX: usize = 256;
/// How long a router that has lost its journal takes no offer to close a channel that was there before: its keepers may know more.
const DOUBT: Duration = Duration::from_secs(120);
/// Of each pair of accounts, what is known of so many channels stays after they are worth nothing: should the ledger itself be put
/// back to an older state, they are worth something again.
const CHANNELS_REMEMBERED: usize = 8;

/// What is kept for neighbours, and what they had kept for us.
pub(super) struct Keeping {
    kept: SortedMap<ChannelId, Kept>,
    look_at: Instant,
    interval: Duration,
    /// The ledger has been asked, and not answered yet.
    looking: bool,
    /// The last channel that was looked at: a slow ledger does not come to all in one round.
    looked_at: Option<ChannelId>,
    rest_until: Instant,
    found: SortedMap<ChannelId, (LinkId, Receipt)>,
    found_at: Instant,
    /// Until when what was written of found receipts would have lasted, at one write each [`FOUND_INTERVAL`].
    found_paid_until: Instant,
    /// The ledger has been asked for what it has not paid, and not answered yet.
    looking_for_unredeemed: bool,
    /// Channels that paid us before a start without a journal, until then.
    doubtful: Option<(SortedSet<ChannelId>, Instant)>,
}

struct Kept {
    receipt: Receipt,
    /// What of it is on disk, and since when.
    written: Tokens,
    written_at: Option<Instant>,
    /// When the notice was first seen.
    noticed: Option<Instant>,
}

/// How a watched channel stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Watched {
    /// Open, or not there in this state of the ledger.
    Quiet,
    /// Its payer gave notice, and its payee still has time.
    Noticed,
    /// We have redeemed so much for the payee.
    Redeemed(Tokens),
    /// The ledger has closed it, or paid the receipt.
    Over,
}

/// Receipts of ours on disk for which the ledger has not paid yet.
#[derive(Debug, Default)]
pub(super) struct Unredeemed {
    /// The dearest first, and no more than a neighbour keeps.
    pub(super) receipts: Vec<Receipt>,
    /// Whose channels are about to end.
    pub(super) closing: SortedSet<NodeId>,
}

impl Keeping {
    pub(super) fn new(now: Instant, notice_s: u32, written: impl IntoIterator<Item = Receipt>) -> Self {
        let kept = |receipt: Receipt| Kept { receipt, written: receipt.amount(), written_at: Some(now), noticed: None };
        let kept = written.into_iter().map(|receipt| (receipt.channel(), kept(receipt))).collect();
        let interval = Duration::from_secs(u64::from(notice_s) / 8).clamp(LOOK_LEAST, LOOK_MOST);
        Self {
            kept,
            look_at: now + interval,
            interval,
            looking: false,
            looked_at: None,
            rest_until: now,
            found: SortedMap::new(),
            found_at: now,
            found_paid_until: now,
            looking_for_unredeemed: false,
            doubtful: None,
        }
    }

    /// What is kept of a neighbour's, and is on disk.
    fn of(&self, payee: NodeId) -> Vec<Receipt> {
        let theirs = self.kept.values().filter(|kept| kept.receipt.channel().payee == payee);
        theirs.filter(|kept| kept.is_written()).map(|kept| kept.receipt).collect()
    }

    fn count_of(&self, payee: NodeId) -> usize {
        self.kept.keys().filter(|channel| channel.payee == payee).count()
    }

    /// Keeps a receipt, and says which channel is given up for it. It may be the receipt's own, if there is no room for it.
    fn keep(&mut self, receipt: Receipt) -> Option<ChannelId> {
        if let Some(kept) = self.kept.get_mut(&receipt.channel()) {
            if receipt.amount() > kept.receipt.amount() {
                kept.receipt = receipt;
            }
            return None;
        }
        let payee = receipt.channel().payee;
        let theirs = self.count_of(payee);
        let fresh = Kept { receipt, written: Tokens::ZERO, written_at: None, noticed: None };
        self.kept.insert(receipt.channel(), fresh);
        let from = if theirs >= KEPT_EACH {
            payee
        } else if self.kept.len() > KEPT_IN_ALL {
            let payees: SortedSet<NodeId> = self.kept.keys().map(|channel| channel.payee).collect();
            let most = payees.into_iter().max_by_key(|payee| self.count_of(*payee)).unwrap_or(payee);
            // Only who has more than its share gives something up for others.
            if theirs < KEPT_LEAST { most } else { payee }
        } else {
            return None;
        };
        let theirs = self.kept.values().filter(|kept| kept.receipt.channel().payee == from);
        let least = theirs.min_by_key(|kept| kept.receipt.amount()).map(|kept| kept.receipt.channel());
        least.inspect(|channel| {
            self.kept.remove(channel);
        })
    }

    /// What is not on disk yet and should be: not more often than copies are made, whatever a neighbour sends.
    pub(super) fn unwritten(&self, now: Instant) -> Vec<Receipt> {
        let due = |kept: &&Kept| kept.written_at.is_none_or(|at| now + REST >= at + COPY_INTERVAL);
        let resting = now < self.rest_until;
        let unwritten = self.kept.values().filter(|kept| !resting && !kept.is_written()).filter(due);
        unwritten.map(|kept| kept.receipt).collect()
    }

    /// The same at the end of a run, when there is no later.
    pub(super) fn last_records(&self) -> Vec<Record> {
        let unwritten = self.kept.values().filter(|kept| !kept.is_written());
        unwritten.map(|kept| Record::Kept { receipt: kept.receipt }).collect()
    }

    /// A write has failed: what others wait for goes alone for a while.
    pub(super) fn rest(&mut self, now: Instant) {
        self.rest_until = now + REST;
    }

    /// Every receipt, and whether it is on disk.
    pub(super) fn all(&self) -> impl Iterator<Item = (&Receipt, bool)> {
        self.kept.values().map(|kept| (&kept.receipt, kept.is_written()))
    }

    /// All that is kept, beginning after what was looked at last.
    fn in_turn(&self) -> impl Iterator<Item = &Kept> {
        let is_after = |channel: &ChannelId| self.looked_at.is_none_or(|last| *channel > last);
        let (after, before): (Vec<_>, Vec<_>) = self.kept.iter().partition(|(channel, _)| is_after(channel));
        after.into_iter().chain(before).map(|(_, kept)| kept)
    }

    /// Whether a channel paid us before this start, which found no journal, so that neighbours may still tell us more of it.
    pub(super) fn doubts(&self, now: Instant, channel: &ChannelId) -> bool {
        self.doubtful.as_ref().is_some_and(|(channels, until)| now < *until && channels.contains(channel))
    }

    pub(super) fn doubt(&mut self, now: Instant, channels: SortedSet<ChannelId>) {
        self.doubtful = Some((channels, now + DOUBT));
    }
}

impl Kept {
    fn is_written(&self) -> bool {
        self.written == self.receipt.amount()
    }
}

impl Control {
    /// Does what the watch with a neighbour asks for.
    pub(super) fn handle_watch(&mut self, link: LinkId, event: watch::Event) {
        let (receipt, found) = match event {
            watch::Event::Keep(receipt) => (receipt, false),
            watch::Event::Found(receipt) => (receipt, true),
        };
        let Some(desk) = &self.ledger else {
            return self.node.handle_not_kept(link, &receipt.channel());
        };
        // Nobody fills our disk with channels that cost nothing. What cannot be judged comes again.
        self.spawn(desk.ask_later(move |ledger| is_good(ledger, &receipt)), move |good| match (good, found) {
            (Ok(Ok(true)), false) => Some(Done::Keep { link, receipt }),
            (Ok(Ok(true)), true) => Some(Done::Found { link, receipt }),
            (_, true) => None,
            (_, false) => Some(Done::NotKept { link, channel: receipt.channel() }),
        });
    }

    /// Keeps a receipt for a neighbour. It goes to the disk with whatever is written next.
    pub(super) fn keep(&mut self, receipt: Receipt) {
        if let Some(given_up) = self.keeping.keep(receipt) {
            self.forget_kept(vec![given_up]);
        }
    }

    /// The journal has these receipts of neighbours.
    pub(super) fn handle_kept(&mut self, now: Instant, receipts: Vec<Receipt>) {
        for receipt in receipts {
            let Some(kept) = self.keeping.kept.get_mut(&receipt.channel()) else { continue };
            (kept.written, kept.written_at) = (kept.written.max(receipt.amount()), Some(now));
            if let Some(link) = self.link_to(receipt.channel().payee) {
                self.node.handle_kept(now, link, receipt);
            }
        }
    }

    /// Tells a neighbour that has just been admitted what is kept for it.
    pub(super) fn tell_kept(&mut self, now: Instant, link: LinkId, peer: NodeId) {
        for receipt in self.keeping.of(peer) {
            self.node.handle_kept(now, link, receipt);
        }
    }

    fn forget_kept(&mut self, channels: Vec<ChannelId>) {
        for channel in &channels {
            self.keeping.kept.remove(channel);
            if let Some(link) = self.link_to(channel.payee) {
                self.node.handle_forgotten(link, channel);
            }
        }
        if !channels.is_empty() {
            self.write_down(move |journal| journal.forget_kept(&channels));
        }
    }

    /// A neighbour had kept a receipt of ours that is higher than what we knew.
    pub(super) fn handle_found(&mut self, now: Instant, link: LinkId, receipt: Receipt) {
        let found = &mut self.keeping.found;
        if found.is_empty() {
            self.keeping.found_at = now + GATHER;
        }
        let is_higher = found.get(&receipt.channel()).is_none_or(|(_, known)| receipt.amount() > known.amount());
        if is_higher && (found.len() < FOUND_MAX || found.contains_key(&receipt.channel())) {
            found.insert(receipt.channel(), (link, receipt));
        }
    }

    /// Writes what was found: it is ours again once it is on disk.
    fn write_found(&mut self, now: Instant) {
        let keeping = &mut self.keeping;
        let may = keeping.found_paid_until <= now + FOUND_INTERVAL * (FOUND_BURST - 1);
        if keeping.found.is_empty() || now < keeping.found_at || !may {
            return;
        }
        keeping.found_paid_until = keeping.found_paid_until.max(now) + FOUND_INTERVAL;
        let found: Vec<(LinkId, Receipt)> = std::mem::take(&mut keeping.found).into_values().collect();
        let news = move |journal: &mut Journal| {
            let known = |receipt: &Receipt| journal.held_on(&receipt.channel()).map_or(Tokens::ZERO, Receipt::amount);
            let news: Vec<(LinkId, Receipt)> =
                found.into_iter().filter(|(_, receipt)| receipt.amount() > known(receipt)).collect();
            let records: Vec<Record> = news.iter().map(|(_, receipt)| Record::Held { receipt: *receipt }).collect();
            journal.commit(&records).map(|()| news)
        };
        self.spawn(self.journal.ask(news), |answer| match answer {
            Ok(Ok(news)) => Some(Done::Regained { news }),
            Ok(Err(error)) => Some(Done::Warning(error.to_string())),
            Err(error) => Some(Done::Warning(error.to_string())),
        });
    }

    /// They are on disk: settlement with their payers goes on from there.
    pub(super) fn handle_regained(&mut self, news: &[(LinkId, Receipt)]) {
        for (keeper, receipt) in news {
            let (payer, keeper) = (receipt.channel().payer, self.name_of(*keeper));
            tracing::info!(node = %self.name, %payer, amount = %receipt.amount(), keeper, "a receipt is here again");
            self.warn(format!("{keeper} had kept receipts that this router had lost; they are here again"));
            if let Some(link) = self.link_to(payer).filter(|link| self.node.role(*link) == Some(Role::Provider)) {
                self.restore(link, payer, Role::Provider, false);
            }
        }
        self.look_at_unredeemed();
    }

    /// Finds out which receipts on disk the ledger can still pay: neighbours keep copies of those too whose payers are away.
    pub(super) fn look_at_unredeemed(&mut self) {
        let Some(desk) = self.ledger.clone().filter(|_| !self.keeping.looking_for_unredeemed) else { return };
        self.keeping.looking_for_unredeemed = true;
        let held = self.journal.ask(|journal| {
            let is_waiting = |receipt: &&Receipt| receipt.amount() > journal.redeemed(&receipt.channel());
            journal.held().filter(is_waiting).copied().collect::<Vec<_>>()
        });
        self.spawn(
            async move {
                let held = held.await.ok()?;
                let (unpaid, failed) = one_by_one(&desk, held, unpaid_one).await;
                failed.is_none().then(|| dearest(unpaid.into_iter().flatten()))
            },
            |unredeemed| Some(Done::Unredeemed { unredeemed }),
        );
    }

    /// Takes that, and redeems where a channel is about to end.
    pub(super) fn handle_unredeemed(&mut self, now: Instant, unredeemed: Option<Unredeemed>) {
        self.keeping.looking_for_unredeemed = false;
        let Some(Unredeemed { receipts, closing }) = unredeemed else { return };
        self.node.handle_unredeemed(receipts);
        for payer in closing {
            self.redeem(now, Some(payer), None);
        }
    }

    /// A start without a journal: the channels there were before are doubtful for a while.
    pub(super) fn doubt_channels(&self) {
        let (Some(desk), us) = (&self.ledger, self.node.id()) else { return };
        self.spawn(desk.ask_later(move |ledger| ledger.channels_of(us)), move |channels| {
            let channels = channels.ok()?.ok()?.into_iter().map(|(id, _)| id).filter(|id| id.payee == us);
            Some(Done::Doubtful { channels: channels.collect() })
        });
    }

    /// Asks the ledger about the channels that are watched, and redeems what their payees do not; writes what was found.
    pub(super) fn look_at_kept(&mut self, now: Instant) {
        self.write_found(now);
        if now < self.keeping.look_at || self.keeping.looking {
            return;
        }
        self.keeping.look_at = now + self.keeping.interval;
        let Some(desk) = self.ledger.clone().filter(|_| !self.keeping.kept.is_empty()) else { return };
        self.keeping.looking = true;
        let since = |at: Option<Instant>| at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let watched: Vec<(Receipt, Duration)> =
            self.keeping.in_turn().map(|kept| (kept.receipt, since(kept.noticed))).collect();
        let clock = history::unix_seconds();
        let looked = async move {
            one_by_one(&desk, watched, move |ledger, (receipt, seen)| {
                Ok((receipt.channel(), look_at_one(ledger, receipt, *seen, clock)?))
            })
            .await
        };
        self.spawn(looked, |(watched, failed)| Some(Done::Watched { watched, failed }));
    }

    /// Takes what became of them.
    pub(super) fn handle_watched(&mut self, now: Instant, watched: Vec<(ChannelId, Watched)>, failed: Option<String>) {
        self.keeping.looking = false;
        if let Some(error) = failed {
            self.warn(format!("cannot watch channels for neighbours: {error}"));
        }
        let last = watched.last().map(|(channel, _)| *channel);
        // One that the ledger gives no answer for does not keep it from the others.
        self.keeping.looked_at = last.or_else(|| Some(self.keeping.in_turn().next()?.receipt.channel()));
        let mut over = Vec::new();
        for (channel, how) in watched {
            match how {
                Watched::Quiet => {}
                Watched::Noticed => {
                    if let Some(kept) = self.keeping.kept.get_mut(&channel) {
                        kept.noticed.get_or_insert(now);
                    }
                }
                Watched::Redeemed(paid) => {
                    let payee = self.person(channel.payee);
                    tracing::info!(node = %self.name, payee, payer = %channel.payer, %paid, "redeemed for a neighbour");
                    self.warn(format!("redeemed for {payee}, which had not: a payer is closing its channel"));
                }
                Watched::Over => over.push(channel),
            }
        }
        self.forget_kept(over);
    }

    /// Forgets old channels that are worth nothing any more: a payer can close and open, or open, as often as it likes. What is still
    /// worth something is redeemed before.
    pub(super) fn forget_old_channels(&self) {
        let Some(desk) = self.ledger.clone() else { return };
        let (journal, done) = (self.journal.clone(), self.done.clone());
        tokio::spawn(async move {
            let old = journal.ask(|journal| {
                let with_receipt = |id: ChannelId| (id, journal.held_on(&id).copied());
                journal.old_channels(CHANNELS_REMEMBERED).into_iter().map(with_receipt).collect::<Vec<_>>()
            });
            let Ok(old) = old.await else { return };
            if old.is_empty() {
                return;
            }
            let (worthless, failed) = one_by_one(&desk, old, worthless_one).await;
            if let Some(error) = failed {
                tracing::debug!(error, "not all old channels were looked at");
            }
            let worthless: Vec<ChannelId> = worthless.into_iter().flatten().collect();
            if let Ok(Err(error)) = journal.ask(move |journal| journal.forget_channels(&worthless)).await {
                let _stopping = done.send(Done::Warning(error.to_string())).await;
            }
        });
    }

    /// What people call an account.
    pub(super) fn person(&self, account: NodeId) -> String {
        self.link_to(account).map_or_else(|| account.to_string(), |link| self.name_of(link))
    }
}

/// Whether there is something to be had for a receipt.
fn is_good(ledger: &mut Box<dyn Ledger>, receipt: &Receipt) -> Result<bool, Error> {
    let channel = usable(ledger, receipt.channel())?.filter(|channel| channel.phase != Phase::Closed);
    Ok(channel.is_some_and(|channel| channel.redeemed < receipt.amount() && receipt.amount() <= channel.deposit))
}

/// How much of a receipt is not paid and can be, and whether its channel is about to end.
fn unpaid_one(ledger: &mut Box<dyn Ledger>, receipt: &Receipt) -> Result<Option<(Tokens, Receipt, bool)>, Error> {
    let channel = usable(ledger, receipt.channel())?.filter(|channel| !is_worthless(channel, receipt));
    Ok(channel
        .map(|channel| (receipt.amount().saturating_sub(channel.redeemed), *receipt, channel.phase != Phase::Open)))
}

fn dearest(unpaid: impl Iterator<Item = (Tokens, Receipt, bool)>) -> Unredeemed {
    let mut unpaid: Vec<_> = unpaid.collect();
    let closing =
        unpaid.iter().filter(|(.., closing)| *closing).map(|(_, receipt, _)| receipt.channel().payer).collect();
    unpaid.sort_by_key(|(rest, ..)| Reverse(*rest));
    let receipts = unpaid.into_iter().take(KEPT_EACH).map(|(_, receipt, _)| receipt).collect();
    Unredeemed { receipts, closing }
}

/// The channel, if nothing more can be signed or redeemed on it; what can be is redeemed. The ledger's record decides, or an entry
/// that it made: a refusal proves nothing.
pub(super) fn worthless_one(
    ledger: &mut Box<dyn Ledger>,
    (id, held): &(ChannelId, Option<Receipt>),
) -> Result<Option<ChannelId>, Error> {
    let Some(channel) = ledger.channel(*id)? else { return Ok(None) };
    let paid = match held.filter(|held| !is_worthless(&channel, held)).map(|receipt| ledger.redeem(receipt)) {
        None | Some(Ok(_)) => true,
        Some(Err(Error::Refused(_))) => false,
        Some(Err(error)) => return Err(error),
    };
    // Of one that we pay on, the ceiling binds until it is closed.
    Ok((channel.phase == Phase::Closed || paid && held.is_some()).then_some(*id))
}

/// Looks at a channel, and redeems its receipt in the second half of a notice: before that its payee may do so. The half is
/// over when it is by the `clock`, seconds since 1970, or when that long has passed since the notice was seen: a router's clock may
/// be years behind.
pub(super) fn look_at_one(
    ledger: &mut Box<dyn Ledger>,
    receipt: &Receipt,
    seen: Duration,
    clock: u64,
) -> Result<Watched, Error> {
    let half = u64::from(ledger.genesis().close_notice_s()) / 2;
    let Some(channel) = ledger.channel(receipt.channel())? else { return Ok(Watched::Quiet) };
    let exit = match channel.phase {
        Phase::Closed => return Ok(Watched::Over),
        Phase::Open | Phase::Closing { .. } if is_worthless(&channel, receipt) => return Ok(Watched::Over),
        Phase::Open => return Ok(Watched::Quiet),
        Phase::Closing { exit } => exit,
    };
    if seen.as_secs() < half && clock.saturating_add(half) < exit.seconds() {
        return Ok(Watched::Noticed);
    }
    match ledger.redeem(*receipt) {
        Ok(paid) => Ok(Watched::Redeemed(paid)),
        // Somebody else was faster.
        Err(Error::Refused(_)) => Ok(Watched::Quiet),
        Err(error) => Err(error),
    }
}

#[cfg(all(test, feature = "ledger-host"))]
mod tests {
    use ledger_client::{Embedded, Genesis, UnixTime};
    use metering::{AccountKey, Close, Identity, Seed};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const NOTICE_S: u32 = 1000;
    const FOUNDED: u32 = 1_000_000;

    fn tokens(amount: u128) -> Tokens {
        Tokens::new(amount).expect("small")
    }

    fn key(seed: u8) -> AccountKey {
        Identity::new(&Seed::from_bytes([seed; 32])).account().clone()
    }

    fn payer() -> AccountKey {
        key(1)
    }

    fn payee() -> AccountKey {
        key(2)
    }

    /// The payee ends a channel, with so much for itself.
    fn close(directory: &tempfile::TempDir, channel: ChannelId, total: u128) {
        let now = Box::new(|| UnixTime::from_seconds(FOUNDED.into()));
        let ledger = Embedded::open(&directory.path().join("ledger"), now).expect("it is there");
        let mut ledger = ledger.signed_by(payee());
        let close = Close::sign(&payer(), &ledger.domain(), channel, tokens(total));
        ledger.mutual_close(close).expect("the payer offers it");
    }

    /// A ledger whose clock is in our hands, with an open channel of 50.
    fn ledger(directory: &tempfile::TempDir) -> (Box<dyn Ledger>, ChannelId, Arc<AtomicU32>) {
        let clock = Arc::new(AtomicU32::new(FOUNDED));
        let founded = UnixTime::from_seconds(FOUNDED.into());
        let genesis = Genesis::new("Hilltop", "HILL", 6, key(9).node_id(), founded, [1; 16]);
        let genesis = genesis.expect("these are good").with_close_notice(NOTICE_S);
        let hands = Arc::clone(&clock);
        let now = Box::new(move || UnixTime::from_seconds(hands.load(Ordering::Relaxed).into()));
        let ledger = Embedded::create(&directory.path().join("ledger"), &genesis, now);
        let mut ledger = ledger.expect("an empty directory").signed_by(key(9));
        ledger.mint(payer().node_id(), tokens(100)).expect("the treasurer mints");
        let mut ledger: Box<dyn Ledger> = Box::new(ledger.signed_by(payer()));
        let channel = ledger.open_channel(payee().node_id(), tokens(50)).expect("it has 100");
        (ledger, channel, clock)
    }

    fn receipt(ledger: &dyn Ledger, channel: ChannelId, amount: u128) -> Receipt {
        Receipt::sign(&payer(), &ledger.domain(), channel, tokens(amount), [0; 32])
    }

    #[test]
    fn a_keeper_redeems_in_the_second_half_of_a_notice_and_what_its_payee_redeems_it_leaves_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (mut ledger, channel, clock) = ledger(&directory);
        let kept = receipt(&*ledger, channel, 30);
        let look = |ledger: &mut Box<dyn Ledger>, seen: u64, at: u32| {
            clock.store(at, Ordering::Relaxed);
            look_at_one(ledger, &kept, Duration::from_secs(seen), at.into()).unwrap()
        };
        assert_eq!(look(&mut ledger, 0, FOUNDED), Watched::Quiet, "nobody closes it");
        ledger.start_close(channel).unwrap();
        assert_eq!(look(&mut ledger, 0, FOUNDED + 10), Watched::Noticed);
        assert_eq!(look(&mut ledger, 499, FOUNDED + 499), Watched::Noticed);
        assert_eq!(look(&mut ledger, 0, FOUNDED + 500), Watched::Redeemed(tokens(30)));
        assert_eq!(look(&mut ledger, 0, FOUNDED + 501), Watched::Over, "once");
        assert_eq!(ledger.balance(payee().node_id()).unwrap(), tokens(30));
    }

    #[test]
    fn a_keeper_whose_clock_is_years_behind_redeems_in_time() {
        let directory = tempfile::tempdir().unwrap();
        let (mut ledger, channel, _) = ledger(&directory);
        let kept = receipt(&*ledger, channel, 30);
        ledger.start_close(channel).unwrap();
        let mut looked = |seen| look_at_one(&mut ledger, &kept, Duration::from_secs(seen), 5).unwrap();
        assert_eq!(looked(499), Watched::Noticed);
        assert_eq!(looked(500), Watched::Redeemed(tokens(30)));
    }

    #[test]
    fn only_receipts_that_their_channel_can_pay_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let (mut ledger, channel, _) = ledger(&directory);
        let [good, above] = [50, 51].map(|amount| receipt(&*ledger, channel, amount));
        let unknown = receipt(&*ledger, ChannelId { nonce: 2, ..channel }, 1);
        assert!(is_good(&mut ledger, &good).unwrap());
        let less = receipt(&*ledger, channel, 20);
        ledger.redeem(less).unwrap();
        assert!(!is_good(&mut ledger, &less).unwrap(), "it is paid");
        assert!(is_good(&mut ledger, &good).unwrap());
        assert!(!is_good(&mut ledger, &above).unwrap());
        assert!(!is_good(&mut ledger, &unknown).unwrap());
        close(&directory, channel, 21);
        assert!(!is_good(&mut ledger, &good).unwrap());
    }

    #[test]
    fn of_channels_that_end_again_and_again_a_few_are_remembered_and_what_is_worth_something_is_redeemed_before() {
        let directory = tempfile::tempdir().unwrap();
        let (mut ledger, channel, _) = ledger(&directory);
        let (mut journal, _) = Journal::open(&directory.path().join("journal"), &ledger.domain()).unwrap();
        for nonce in 1..=20 {
            let id = ChannelId { nonce, ..channel };
            if nonce > 1 {
                assert_eq!(ledger.open_channel(id.payee, tokens(1)).unwrap(), id);
            }
            // One is over more than its payer has locked so far.
            let receipt = receipt(&*ledger, id, if nonce == 2 { 5 } else { 1 });
            journal.commit(&[Record::Held { receipt }]).unwrap();
            // The first two and the last three stay open.
            if (3..=17).contains(&nonce) {
                close(&directory, id, 1);
            }
        }
        let ceiling = ChannelId { payer: channel.payee, payee: channel.payer, nonce: 1 };
        journal.commit(&[Record::Ceiling { channel: ceiling, amount: tokens(1) }]).unwrap();
        let old: Vec<(ChannelId, Option<Receipt>)> = journal
            .old_channels(CHANNELS_REMEMBERED)
            .into_iter()
            .map(|id| (id, journal.held_on(&id).copied()))
            .collect();
        assert_eq!(old.len(), 20 - CHANNELS_REMEMBERED);
        let worthless: Vec<ChannelId> = old.iter().filter_map(|old| worthless_one(&mut ledger, old).unwrap()).collect();
        journal.forget_channels(&worthless).unwrap();
        let known = journal.held().map(|held| held.channel().nonce).collect::<Vec<_>>();
        assert_eq!(known, [2, 13, 14, 15, 16, 17, 18, 19, 20]);
        assert_eq!(ledger.balance(payee().node_id()).unwrap(), tokens(16), "the open one was redeemed");
        assert_eq!(journal.ceiling(&ceiling), tokens(1));
    }

    #[test]
    fn what_is_about_to_end_is_redeemed_and_the_dearest_receipts_are_kept_by_others() {
        let directory = tempfile::tempdir().unwrap();
        let (mut ledger, channel, _) = ledger(&directory);
        let mut receipts = vec![receipt(&*ledger, channel, 50)];
        for nonce in 2..=40 {
            ledger.open_channel(channel.payee, tokens(1)).unwrap();
            receipts.push(receipt(&*ledger, ChannelId { nonce, ..channel }, 1));
        }
        let unredeemed = unpaid_of(&mut ledger, &receipts);
        assert_eq!(unredeemed.receipts.len(), KEPT_EACH);
        assert_eq!(unredeemed.receipts.first(), receipts.first());
        assert!(unredeemed.closing.is_empty());
        ledger.start_close(channel).unwrap();
        let unredeemed = unpaid_of(&mut ledger, &receipts);
        assert_eq!(unredeemed.closing, SortedSet::from([channel.payer]));
        let Some(first) = receipts.first() else { panic!("there are forty") };
        ledger.redeem(*first).unwrap();
        let unredeemed = unpaid_of(&mut ledger, &receipts);
        assert!(unredeemed.closing.is_empty());
    }

    fn unpaid_of(ledger: &mut Box<dyn Ledger>, receipts: &[Receipt]) -> Unredeemed {
        dearest(receipts.iter().filter_map(|receipt| unpaid_one(ledger, receipt).expect("it is there")))
    }

    fn someone_s(payee: u8, payer: u64, amount: u128) -> Receipt {
        let key = payer_number(payer);
        let channel = ChannelId { payer: key.node_id(), payee: NodeId([payee; 20]), nonce: 1 };
        Receipt::sign(
            &key,
            &metering::LedgerDomain { chain_id: 0, contract: NodeId([9; 20]) },
            channel,
            tokens(amount),
            [0; 32],
        )
    }

    fn payer_number(number: u64) -> AccountKey {
        let mut seed = [1; 32];
        seed[..8].copy_from_slice(&number.to_be_bytes());
        Identity::new(&Seed::from_bytes(seed)).account().clone()
    }

    #[expect(clippy::disallowed_methods, reason = "the beginning of virtual time")]
    fn beginning() -> Instant {
        Instant::now()
    }

    #[test]
    fn no_neighbour_takes_the_room_of_others_and_the_dearest_of_each_are_kept() {
        let mut keeping = Keeping::new(beginning(), NOTICE_S, []);
        let mut given_up = 0;
        for payee in 1..=9 {
            for payer in 0..40 {
                given_up += usize::from(keeping.keep(someone_s(payee, payer, u128::from(payer) + 1)).is_some());
            }
        }
        assert_eq!(keeping.kept.len(), KEPT_IN_ALL);
        assert_eq!(given_up, 9 * 40 - KEPT_IN_ALL);
        for payee in 1..=9 {
            let theirs = keeping.count_of(NodeId([payee; 20]));
            assert!((KEPT_LEAST..=KEPT_EACH).contains(&theirs), "{theirs}");
            let dearest = someone_s(payee, 39, 40);
            assert!(keeping.kept.contains_key(&dearest.channel()), "{payee}");
        }
    }

    #[test]
    fn a_receipt_is_written_once_in_a_while_however_often_it_rises_and_not_while_writes_fail() {
        let mut now = beginning();
        let mut keeping = Keeping::new(now, NOTICE_S, []);
        keeping.keep(someone_s(1, 1, 10));
        assert_eq!(keeping.unwritten(now), [someone_s(1, 1, 10)]);
        keeping.rest(now);
        assert_eq!(keeping.unwritten(now), []);
        now += REST;
        assert_eq!(keeping.unwritten(now), [someone_s(1, 1, 10)]);
        for kept in keeping.kept.values_mut() {
            (kept.written, kept.written_at) = (tokens(10), Some(now));
        }
        keeping.keep(someone_s(1, 1, 9));
        assert!(keeping.all().all(|(_, written)| written));
        keeping.keep(someone_s(1, 1, 11));
        assert_eq!(keeping.unwritten(now), []);
        assert_eq!(keeping.last_records().len(), 1);
        now += COPY_INTERVAL;
        assert_eq!(keeping.unwritten(now), [someone_s(1, 1, 11)]);
    }
}
