//! The watch in a router ([`metering::watch`]): what is kept for neighbours, and redeemed for them when a payer gives notice
//! and they do not answer it; and what neighbours had kept for us.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ledger_client::{Error, Ledger, Phase};
use metering::{ChannelId, NodeId, Receipt, Tokens, watch};
use node::LinkId;

use super::money::ledger_failed;
use super::{Control, Done, history};
use crate::journal::{Journal, Record};

/// How often the ledger is asked about the channels that are watched, at most; at least eight times in a notice.
const LOOK_MOST: Duration = Duration::from_secs(600);
const LOOK_LEAST: Duration = Duration::from_secs(1);
/// Channels watched in all: receipts are small, but each is a row of the journal.
pub(super) const KEPT_MAX: usize = 256;
/// Of each pair of accounts, what is known of so many channels stays after the ledger has closed them: should the ledger itself be
/// put back to an older state, they are worth something again.
const CHANNELS_REMEMBERED: usize = 8;

/// What is kept for neighbours.
pub(super) struct Keeping {
    kept: BTreeMap<ChannelId, Kept>,
    look_at: Instant,
    interval: Duration,
}

struct Kept {
    receipt: Receipt,
    /// What of it is on disk.
    written: Tokens,
    /// When the notice was first seen.
    noticed: Option<Instant>,
}

/// How a watched channel stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Watched {
    /// Open, or redeemed as far as is known here.
    Quiet,
    /// Its payer gave notice, and its payee still has time.
    Noticed,
    /// We have redeemed so much for the payee.
    Redeemed(Tokens),
    /// The ledger has closed it.
    Over,
}

impl Keeping {
    pub(super) fn new(now: Instant, notice_s: u32, written: impl IntoIterator<Item = Receipt>) -> Self {
        let kept = |receipt: Receipt| Kept { receipt, written: receipt.amount(), noticed: None };
        let kept = written.into_iter().map(|receipt| (receipt.channel(), kept(receipt))).collect();
        let interval = Duration::from_secs(u64::from(notice_s) / 8).clamp(LOOK_LEAST, LOOK_MOST);
        Self { kept, look_at: now + interval, interval }
    }

    /// What is kept of a neighbour's, and is on disk.
    fn of(&self, payee: NodeId) -> Vec<Receipt> {
        let theirs = self.kept.values().filter(|kept| kept.receipt.channel().payee == payee);
        theirs.filter(|kept| kept.written == kept.receipt.amount()).map(|kept| kept.receipt).collect()
    }

    fn has_room(&self, channel: &ChannelId) -> bool {
        self.kept.len() < KEPT_MAX || self.kept.contains_key(channel)
    }

    fn keep(&mut self, receipt: Receipt) {
        let kept = self.kept.entry(receipt.channel());
        let kept = kept.or_insert(Kept { receipt, written: Tokens::ZERO, noticed: None });
        if receipt.amount() > kept.receipt.amount() {
            kept.receipt = receipt;
        }
    }

    /// What is not on disk yet.
    pub(super) fn unwritten(&self) -> Vec<Receipt> {
        let unwritten = self.kept.values().filter(|kept| kept.written < kept.receipt.amount());
        unwritten.map(|kept| kept.receipt).collect()
    }

    /// Every receipt, and whether it is on disk.
    pub(super) fn all(&self) -> impl Iterator<Item = (&Receipt, bool)> {
        self.kept.values().map(|kept| (&kept.receipt, kept.written == kept.receipt.amount()))
    }
}

impl Control {
    /// Does what the watch with a neighbour asks for.
    pub(super) fn handle_watch(&mut self, now: Instant, link: LinkId, event: watch::Event) {
        let (receipt, found) = match event {
            watch::Event::Keep(receipt) => (receipt, false),
            watch::Event::Found(receipt) => (receipt, true),
        };
        let Some(desk) = self.ledger.as_ref().filter(|_| found || self.keeping.has_room(&receipt.channel())) else {
            return self.node.handle_not_kept(now, link, &receipt.channel());
        };
        // Nobody fills our disk with channels that cost nothing.
        self.spawn(desk.ask(move |ledger| is_good(ledger, &receipt)), move |good| match (good, found) {
            (Ok(Ok(true)), false) => Some(Done::Keep { link, receipt }),
            (Ok(Ok(true)), true) => Some(Done::Found { link, receipt }),
            (_, true) => None,
            (_, false) => Some(Done::NotKept { link, channel: receipt.channel() }),
        });
    }

    /// Keeps a receipt for a neighbour. It goes to the disk with whatever is written next.
    pub(super) fn keep(&mut self, receipt: Receipt) {
        self.keeping.keep(receipt);
    }

    /// The journal has these receipts of neighbours.
    pub(super) fn handle_kept(&mut self, now: Instant, receipts: Vec<Receipt>) {
        for receipt in receipts {
            let Some(kept) = self.keeping.kept.get_mut(&receipt.channel()) else { continue };
            kept.written = kept.written.max(receipt.amount());
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

    /// A neighbour had kept a receipt of ours that is higher than what we knew: it is ours again once it is on disk.
    pub(super) fn handle_found(&mut self, link: LinkId, receipt: Receipt) {
        let (journal, keeper) = (self.journal.clone(), self.name_of(link));
        let news = move |journal: &mut Journal| {
            let known = journal.held_on(&receipt.channel()).map_or(Tokens::ZERO, Receipt::amount);
            journal.commit(&[Record::Held { receipt }]).map(|()| receipt.amount() > known)
        };
        self.spawn(async move { (journal.ask(news).await, keeper) }, move |(answer, keeper)| match answer {
            Ok(Ok(true)) => Some(Done::Regained { receipt, keeper }),
            Ok(Ok(false)) => None,
            Ok(Err(error)) => Some(Done::Warning(error.to_string())),
            Err(error) => Some(Done::Warning(error.to_string())),
        });
    }

    /// It is on disk.
    pub(super) fn handle_regained(&mut self, now: Instant, receipt: &Receipt, keeper: &str) {
        self.node.handle_found(now, receipt);
        self.look_at_unredeemed();
        let payer = self.person(receipt.channel().payer);
        self.warn(format!("{keeper} had kept a receipt by {payer} that this router had lost; it is here again"));
    }

    /// Finds out which receipts on disk the ledger can still pay: neighbours keep copies of those too whose payers are away.
    pub(super) fn look_at_unredeemed(&self) {
        let Some(desk) = self.ledger.clone() else { return };
        let held = self.journal.ask(|journal| {
            let is_waiting = |receipt: &&Receipt| receipt.amount() > journal.redeemed(&receipt.channel());
            journal.held().filter(is_waiting).copied().collect::<Vec<_>>()
        });
        self.spawn(
            async move {
                let held = held.await.ok()?;
                desk.ask(move |ledger| unpaid_of(ledger, held)).await.ok()?.ok()
            },
            |receipts| Some(Done::Unredeemed { receipts: receipts? }),
        );
    }

    /// Asks the ledger about the channels that are watched, and redeems what their payees do not.
    pub(super) fn look_at_kept(&mut self, now: Instant) {
        if now < self.keeping.look_at {
            return;
        }
        self.keeping.look_at = now + self.keeping.interval;
        let Some(desk) = self.ledger.as_ref().filter(|_| !self.keeping.kept.is_empty()) else { return };
        let since = |at: Option<Instant>| at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let watched: Vec<(Receipt, Duration)> =
            self.keeping.kept.values().map(|kept| (kept.receipt, since(kept.noticed))).collect();
        let clock = history::unix_seconds();
        self.spawn(desk.ask(move |ledger| look_at(ledger, &watched, clock)), |looked| {
            Some(match looked {
                Ok(Ok(watched)) => Done::Watched { watched },
                Ok(Err(error)) => ledger_failed("cannot watch channels for neighbours", &error),
                Err(error) => ledger_failed("cannot watch channels for neighbours", &error),
            })
        });
    }

    /// Takes what became of them.
    pub(super) fn handle_watched(&mut self, now: Instant, watched: Vec<(ChannelId, Watched)>) {
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
                    let [payee, payer] = [channel.payee, channel.payer].map(|account| self.person(account));
                    let amount = paid.display(self.money.unit.decimals);
                    self.warn(format!(
                        "redeemed {amount} {} for {payee}: {payer} is closing its channel, and {payee} had not",
                        self.money.unit.symbol
                    ));
                }
                Watched::Over => over.push(channel),
            }
        }
        for channel in &over {
            self.keeping.kept.remove(channel);
            if let Some(link) = self.link_to(channel.payee) {
                self.node.handle_not_kept(now, link, channel);
            }
        }
        if !over.is_empty() {
            self.write_down(move |journal| journal.forget_kept(&over));
        }
    }

    /// Forgets old channels that the ledger has closed: a payer can close and open as often as it likes.
    pub(super) fn forget_old_channels(&self) {
        let Some(desk) = self.ledger.clone() else { return };
        let (journal, done) = (self.journal.clone(), self.done.clone());
        tokio::spawn(async move {
            let Ok(old) = journal.ask(|journal| journal.old_channels(CHANNELS_REMEMBERED)).await else { return };
            if old.is_empty() {
                return;
            }
            let Ok(Ok(closed)) = desk.ask(move |ledger| closed_of(ledger, old)).await else { return };
            if let Ok(Err(error)) = journal.ask(move |journal| journal.forget_channels(&closed)).await {
                let _stopping = done.send(Done::Warning(error.to_string())).await;
            }
        });
    }

    /// What people call an account.
    pub(super) fn person(&self, account: NodeId) -> String {
        self.link_to(account).map_or_else(|| account.to_string(), |link| self.name_of(link))
    }
}

/// Whether a receipt draws on a channel that can pay it.
fn is_good(ledger: &mut Box<dyn Ledger>, receipt: &Receipt) -> Result<bool, Error> {
    let channel = ledger.channel(receipt.channel())?;
    Ok(channel.is_some_and(|channel| channel.phase != Phase::Closed && receipt.amount() <= channel.deposit))
}

/// Those that the ledger can pay something for, the dearest first, and as many as a neighbour keeps.
fn unpaid_of(ledger: &mut Box<dyn Ledger>, receipts: Vec<Receipt>) -> Result<Vec<Receipt>, Error> {
    let mut unpaid = Vec::new();
    for receipt in receipts {
        let channel = ledger.channel(receipt.channel())?.filter(|channel| channel.phase != Phase::Closed);
        let paid = channel.map_or(Tokens::MAX, |channel| channel.redeemed);
        unpaid
            .extend(receipt.amount().checked_sub(paid).filter(|rest| *rest > Tokens::ZERO).map(|rest| (rest, receipt)));
    }
    unpaid.sort_by_key(|(rest, _)| std::cmp::Reverse(*rest));
    Ok(unpaid.into_iter().take(watch::KEPT_MAX).map(|(_, receipt)| receipt).collect())
}

fn closed_of(ledger: &mut Box<dyn Ledger>, channels: Vec<ChannelId>) -> Result<Vec<ChannelId>, Error> {
    let mut closed = Vec::new();
    for id in channels {
        if ledger.channel(id)?.is_some_and(|channel| channel.phase == Phase::Closed) {
            closed.push(id);
        }
    }
    Ok(closed)
}

/// Looks at each channel, and redeems its receipt in the second half of a notice: before that its payee may do so. The half is
/// over when it is by the `clock`, seconds since 1970, or when that long has passed since the notice was seen: a router's clock may
/// be years behind.
fn look_at(
    ledger: &mut Box<dyn Ledger>,
    kept: &[(Receipt, Duration)],
    clock: u64,
) -> Result<Vec<(ChannelId, Watched)>, Error> {
    let half = u64::from(ledger.genesis().close_notice_s()) / 2;
    let mut watched = Vec::new();
    for (receipt, seen) in kept {
        let id = receipt.channel();
        let how = match ledger.channel(id)? {
            None => Watched::Over,
            Some(channel) => match channel.phase {
                Phase::Closed => Watched::Over,
                Phase::Closing { exit } if receipt.amount() > channel.redeemed => {
                    if seen.as_secs() >= half || clock + half >= exit.seconds() {
                        redeemed(ledger.redeem(*receipt))?
                    } else {
                        Watched::Noticed
                    }
                }
                Phase::Open | Phase::Closing { .. } => Watched::Quiet,
            },
        };
        watched.push((id, how));
    }
    Ok(watched)
}

/// A refusal says that somebody else was faster.
fn redeemed(answer: Result<Tokens, Error>) -> Result<Watched, Error> {
    match answer {
        Ok(paid) => Ok(Watched::Redeemed(paid)),
        Err(Error::Refused(_)) => Ok(Watched::Quiet),
        Err(error) => Err(error),
    }
}

#[cfg(all(test, feature = "ledger-host"))]
mod tests {
    use ledger_client::{Embedded, Genesis, UnixTime};
    use metering::{AccountKey, Identity, Seed};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const TREASURER: NodeId = NodeId([9; 20]);
    const PAYEE: NodeId = NodeId([2; 20]);
    const NOTICE_S: u32 = 1000;
    const FOUNDED: u32 = 1_000_000;

    fn tokens(amount: u128) -> Tokens {
        Tokens::new(amount).expect("small")
    }

    fn payer() -> AccountKey {
        Identity::new(&Seed::from_bytes([1; 32])).account().clone()
    }

    /// A ledger whose clock is in our hands, with an open channel of 50.
    fn ledger(directory: &tempfile::TempDir) -> (Box<dyn Ledger>, ChannelId, Arc<AtomicU32>) {
        let clock = Arc::new(AtomicU32::new(FOUNDED));
        let founded = UnixTime::from_seconds(FOUNDED.into());
        let genesis = Genesis::new("Hilltop", "HILL", 6, TREASURER, founded);
        let genesis = genesis.expect("these are good").with_close_notice(NOTICE_S);
        let hands = Arc::clone(&clock);
        let now = Box::new(move || UnixTime::from_seconds(hands.load(Ordering::Relaxed).into()));
        let ledger = Embedded::create(&directory.path().join("ledger"), &genesis, now);
        let mut ledger: Box<dyn Ledger> = Box::new(ledger.expect("an empty directory"));
        ledger.mint(TREASURER, payer().node_id(), tokens(100)).expect("the treasurer mints");
        let channel = ledger.open_channel(payer().node_id(), PAYEE, tokens(50)).expect("it has 100");
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
            let looked = look_at(ledger, &[(kept, Duration::from_secs(seen))], at.into()).unwrap();
            let [(id, how)]: [_; 1] = looked.try_into().unwrap();
            assert_eq!(id, channel);
            how
        };
        assert_eq!(look(&mut ledger, 0, FOUNDED), Watched::Quiet, "nobody closes it");
        ledger.start_close(channel).unwrap();
        assert_eq!(look(&mut ledger, 0, FOUNDED + 10), Watched::Noticed);
        assert_eq!(look(&mut ledger, 499, FOUNDED + 499), Watched::Noticed);
        assert_eq!(look(&mut ledger, 0, FOUNDED + 500), Watched::Redeemed(tokens(30)));
        assert_eq!(look(&mut ledger, 0, FOUNDED + 501), Watched::Quiet, "once");
        assert_eq!(ledger.balance(PAYEE).unwrap(), tokens(30));
        ledger.mutual_close(channel, tokens(30)).unwrap();
        assert_eq!(look(&mut ledger, 0, FOUNDED + 502), Watched::Over);
    }

    #[test]
    fn a_keeper_whose_clock_is_years_behind_redeems_in_time() {
        let directory = tempfile::tempdir().unwrap();
        let (mut ledger, channel, _) = ledger(&directory);
        let kept = receipt(&*ledger, channel, 30);
        ledger.start_close(channel).unwrap();
        let looked =
            |ledger: &mut Box<dyn Ledger>, seen| look_at(ledger, &[(kept, Duration::from_secs(seen))], 5).unwrap();
        assert_eq!(looked(&mut ledger, 499), [(channel, Watched::Noticed)]);
        assert_eq!(looked(&mut ledger, 500), [(channel, Watched::Redeemed(tokens(30)))]);
    }

    #[test]
    fn only_receipts_that_their_channel_can_pay_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let (mut ledger, channel, _) = ledger(&directory);
        let [good, above] = [50, 51].map(|amount| receipt(&*ledger, channel, amount));
        let unknown = receipt(&*ledger, ChannelId { nonce: 2, ..channel }, 1);
        assert!(is_good(&mut ledger, &good).unwrap());
        assert!(!is_good(&mut ledger, &above).unwrap());
        assert!(!is_good(&mut ledger, &unknown).unwrap());
        ledger.mutual_close(channel, tokens(1)).unwrap();
        assert!(!is_good(&mut ledger, &good).unwrap());
    }

    #[test]
    fn of_channels_that_end_again_and_again_a_few_are_remembered_and_no_open_one_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let (mut ledger, channel, _) = ledger(&directory);
        let (mut journal, _) = Journal::open(&directory.path().join("journal"), &ledger.domain()).unwrap();
        let still_open = channel;
        for nonce in 1..=20 {
            let id = ChannelId { nonce, ..channel };
            if nonce > 1 {
                assert_eq!(ledger.open_channel(id.payer, PAYEE, tokens(1)).unwrap(), id);
            }
            let receipt = receipt(&*ledger, id, 1);
            let redeemed = Record::Redeemed { channel: id, amount: tokens(1) };
            journal.commit(&[Record::Held { receipt }, Record::Kept { receipt }, redeemed]).unwrap();
            if id != still_open {
                ledger.mutual_close(id, tokens(1)).unwrap();
            }
        }
        let old = journal.old_channels(CHANNELS_REMEMBERED);
        assert_eq!(old.len(), 20 - CHANNELS_REMEMBERED);
        let closed = closed_of(&mut ledger, old).unwrap();
        journal.forget_channels(&closed).unwrap();
        let known = |journal: &Journal| journal.held().map(|held| held.channel().nonce).collect::<Vec<_>>();
        assert_eq!(known(&journal), [1, 13, 14, 15, 16, 17, 18, 19, 20]);
        assert_eq!(journal.kept().count(), 9);
        assert_eq!(journal.redeemed(&ChannelId { nonce: 2, ..channel }), Tokens::ZERO);
    }
}
