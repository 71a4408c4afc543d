//! The watch: neighbours keep copies of each other's receipts, and redeem them for whoever is away.
//!
//! A receipt pays its payee, whoever brings it to the ledger; so a copy of it can be given to anybody. A payee gives the
//! newest receipt of each channel to a few of its neighbours, never to the one that signed it, and each of them says what
//! it keeps. When a payer gives notice while the payee is away, whoever keeps a copy redeems it; and a payee that has lost
//! its journal is told what was kept.
//!
//! A keeper learns what the payer has paid, which the ledger shows everybody when the receipt is redeemed. By saying that
//! it keeps what it does not keep it takes a better keeper's place: that is why several are asked.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use minicbor::{Decoder, decode, encode};
use thiserror::Error;

use crate::allowance::Allowance;
use crate::cbor::{DecodeError, Statement, Writer, decode_statement, encode_statement};
use crate::identity::SignatureError;
use crate::{ChannelId, LedgerDomain, NodeId, Receipt, SortedMap, Tokens, Unverified};

/// The link-local UDP port of the watch.
pub const PORT: u16 = 6700;

/// The version of its messages, the first item of each.
pub const VERSION: u8 = 1;

/// How long a copy is good enough: what was signed since is at risk while the payee is away.
pub const COPY_INTERVAL: Duration = Duration::from_secs(600);

/// How soon a copy that is not known to be kept is sent again. A keeper writes it within [`COPY_INTERVAL`] to spare its flash.
const REPEAT: Duration = Duration::from_secs(60);

/// How long a neighbour that was just met has to say what it keeps, before it is offered anything.
const FIRST: Duration = Duration::from_secs(5);

/// When a keeper says again what it keeps, after it has said so once; after the last of these each [`COPY_INTERVAL`]. Whoever has
/// lost something does not know what to ask for, and what it is told may be lost on the way, or cannot be judged yet.
const TELL_AGAIN: [Duration; 2] = [FIRST, REPEAT];

/// How soon two that have met can meet anew: a neighbour can begin anew as often as it likes.
const MEET_EACH: Duration = Duration::from_secs(5);

/// How long an offer may be unanswered before others are asked, and how long it is remembered that they had to be.
const DEAF_AFTER: Duration = Duration::from_secs(900);
const DEAF_FOR: Duration = Duration::from_secs(86_400);

/// How often the newest is sent before a shutdown: there is no later.
const LAST_TIMES: u8 = 3;

/// How many channels of one neighbour are kept: as many as may pay a busy relay.
pub const KEPT_MAX: usize = 32;

/// Signatures checked at once for one neighbour, and how often one more is: a check takes 0.3 ms, and 14 ms on a router.
const CHECKS_MAX: u32 = 16;
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Longer datagrams are refused unread.
const MESSAGE_LENGTH_MAX: usize = 512;

/// One message, in one datagram between the two link-local addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Payee to keeper: keep this for me.
    Keep(Receipt<Unverified>),
    /// Keeper to payee: of your receipts on that channel I have this one on disk. Sent in answer, when the two meet, and now and
    /// then: whoever has lost it does not ask.
    Kept(Receipt<Unverified>),
}

/// What the watch wants of its shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Keeper: make this durable if the ledger knows the channel, and call [`Watch::handle_kept`]; else
    /// [`Watch::handle_not_kept`].
    Keep(Receipt),
    /// Payee: the neighbour keeps a receipt that is higher than what is known here. If the ledger knows the channel, it
    /// is ours to redeem.
    Found(Receipt),
}

/// Why a message was refused. Nothing of it was adopted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Rejected {
    /// Not a message, or one of another version.
    #[error(transparent)]
    Malformed(#[from] DecodeError),
    /// A receipt for somebody else than its sender, or by its receiver: nobody asks for that to be kept.
    #[error("a receipt that is not the sender's to be kept")]
    NotTheirs,
    /// A receipt said to be kept for us that is not ours.
    #[error("a receipt that is not ours was kept for us")]
    NotOurs,
    /// A signature that is not the payer's.
    #[error("a forged receipt: {0}")]
    Forged(SignatureError),
}

/// The watch between us and one neighbour, both ways.
///
/// Say when the two meet ([`Watch::handle_met`]), what there is to be kept ([`Watch::handle_ours`], as often as it may have
/// changed), and what is on disk for the neighbour ([`Watch::handle_kept`]); hand in its messages and time; drain
/// [`Watch::poll_transmit`] and [`Watch::poll_event`] after each.
#[derive(Debug)]
pub struct Watch {
    us: NodeId,
    peer: NodeId,
    domain: LedgerDomain,
    ours: SortedMap<ChannelId, Ours>,
    theirs: SortedMap<ChannelId, Theirs>,
    /// What signatures may be checked for the neighbour. What is not is sent again.
    checks: Allowance,
    met_at: Option<Instant>,
    /// They are to meet anew.
    meet_at: Option<Instant>,
    /// Until when the neighbour counts as one that does not answer.
    deaf_until: Option<Instant>,
    events: VecDeque<Event>,
}

/// A channel that pays us.
#[derive(Clone, Copy, Debug)]
struct Ours {
    newest: Receipt,
    /// What was last sent to be kept.
    offered: Option<Receipt>,
    /// What the neighbour says it keeps.
    kept: Tokens,
    /// Whether this neighbour is to keep it at all.
    wanted: bool,
    /// Since when an offer has not been answered.
    unanswered: Option<Instant>,
    /// When it is sent again, or a newer one.
    offer_at: Instant,
    /// How often it is to be sent at once.
    send: u8,
}

/// A channel that pays the neighbour.
#[derive(Clone, Copy, Debug)]
struct Theirs {
    newest: Receipt,
    durable: Option<Receipt>,
    tell: bool,
    /// How often it was told since the two met, and when it is told next.
    told: usize,
    tell_at: Instant,
}

impl Watch {
    /// A watch over a link to a neighbour that has just been admitted.
    #[must_use]
    pub const fn new(us: NodeId, peer: NodeId, domain: LedgerDomain, now: Instant) -> Self {
        Self {
            us,
            peer,
            domain,
            ours: SortedMap::new(),
            theirs: SortedMap::new(),
            checks: Allowance::new(CHECKS_MAX, CHECK_INTERVAL, now),
            met_at: None,
            meet_at: None,
            deaf_until: None,
            events: VecDeque::new(),
        }
    }

    /// The two have met, perhaps again, or the neighbour began anew: what it keeps it says, and what it does not say it may have
    /// lost; and what it had lost it is told.
    pub fn handle_met(&mut self, now: Instant) {
        let earliest = self.met_at.map_or(now, |at| at + MEET_EACH);
        self.meet_at.get_or_insert(earliest.max(now));
        self.handle_timeout(now);
    }

    fn meet(&mut self, now: Instant) {
        (self.met_at, self.meet_at) = (Some(now), None);
        for ours in self.ours.values_mut() {
            *ours = Ours { wanted: ours.wanted, ..Ours::new(ours.newest, now) };
        }
        for theirs in self.theirs.values_mut() {
            theirs.tell = theirs.durable.is_some();
            (theirs.told, theirs.tell_at) = (0, now + TELL_AGAIN[0]);
        }
    }

    /// Takes the newest receipt of each channel that the ledger has not paid, and whether this neighbour is to keep them. What the
    /// neighbour itself signed it never is.
    pub fn handle_ours(&mut self, now: Instant, receipts: impl IntoIterator<Item = Receipt>, wanted: bool) {
        let mut known = std::mem::take(&mut self.ours);
        for newest in receipts {
            let channel = newest.channel();
            if channel.payee != self.us || channel.payer == self.peer {
                continue;
            }
            let ours = known.remove(&channel).unwrap_or_else(|| Ours::new(newest, now));
            self.ours.insert(channel, Ours { newest, wanted, ..ours });
        }
        self.handle_timeout(now);
    }

    /// Whether the neighbour has left offers unanswered for long, so that others had better be asked.
    #[must_use]
    pub fn is_deaf(&self, now: Instant) -> bool {
        self.deaf_until.is_some_and(|until| now < until)
    }

    /// Sends all at once, however lately it was sent: before a shutdown.
    pub fn handle_flush(&mut self, now: Instant) {
        for ours in self.ours.values_mut().filter(|ours| ours.is_wanting()) {
            ours.offer(now, true);
            ours.send = LAST_TIMES;
        }
    }

    /// Keeper: this receipt of the neighbour is on disk.
    pub fn handle_kept(&mut self, now: Instant, receipt: Receipt) {
        if receipt.channel().payee != self.peer {
            return;
        }
        let fresh = Theirs { newest: receipt, durable: None, tell: false, told: 0, tell_at: now };
        let known = self.theirs.get(&receipt.channel()).copied().unwrap_or(fresh);
        if known.durable.is_none_or(|durable| durable.amount() <= receipt.amount()) {
            let newest = if known.newest.amount() > receipt.amount() { known.newest } else { receipt };
            let (told, tell_at) =
                if known.durable.is_some() { (known.told, known.tell_at) } else { (0, now + TELL_AGAIN[0]) };
            let theirs = Theirs { newest, durable: Some(receipt), tell: true, told, tell_at };
            self.theirs.insert(receipt.channel(), theirs);
        }
    }

    /// Keeper: what was to be kept of this channel last is not: the ledger cannot pay it, or cannot be asked. What is on disk is.
    pub fn handle_not_kept(&mut self, channel: &ChannelId) {
        let durable = self.theirs.get(channel).and_then(|theirs| theirs.durable);
        match (durable, self.theirs.get_mut(channel)) {
            (Some(durable), Some(theirs)) => theirs.newest = durable,
            (None, _) => self.forget(channel),
            (Some(_), None) => {}
        }
    }

    /// Keeper: nothing of this channel is kept any more.
    pub fn forget(&mut self, channel: &ChannelId) {
        self.theirs.remove(channel);
    }

    /// Takes one datagram of the neighbour.
    ///
    /// # Errors
    /// [`Rejected`] says why nothing of it was adopted.
    pub fn handle_message(&mut self, now: Instant, message: &[u8]) -> Result<(), Rejected> {
        match Message::decode(message)? {
            Message::Keep(receipt) => self.handle_keep(now, receipt),
            Message::Kept(receipt) => self.handle_told(now, receipt),
        }
    }

    fn handle_keep(&mut self, now: Instant, receipt: Receipt<Unverified>) -> Result<(), Rejected> {
        let channel = receipt.channel();
        if channel.payee != self.peer || channel.payer == self.us || channel.payer == self.peer {
            return Err(Rejected::NotTheirs);
        }
        if let Some(known) = self.theirs.get_mut(&channel)
            && receipt.amount() <= known.newest.amount()
        {
            known.tell |= known.durable.is_some();
            return Ok(());
        }
        let is_new = !self.theirs.contains_key(&channel);
        let least = self.theirs.values().min_by_key(|theirs| theirs.newest.amount()).map(|theirs| theirs.newest);
        let full = is_new && self.theirs.len() >= KEPT_MAX;
        if full && least.is_some_and(|least| receipt.amount() <= least.amount()) || !self.checks.take(now) {
            return Ok(());
        }
        let newest = receipt.verify(&self.domain).map_err(Rejected::Forged)?;
        if let Some(least) = least.filter(|_| full) {
            self.theirs.remove(&least.channel());
        }
        let fresh = Theirs { newest, durable: None, tell: false, told: 0, tell_at: now };
        self.theirs.entry(channel).or_insert(fresh).newest = newest;
        self.events.push_back(Event::Keep(newest));
        Ok(())
    }

    fn handle_told(&mut self, now: Instant, receipt: Receipt<Unverified>) -> Result<(), Rejected> {
        let channel = receipt.channel();
        if channel.payee != self.us || channel.payer == self.us || channel.payer == self.peer {
            return Err(Rejected::NotOurs);
        }
        let known = self.ours.get_mut(&channel);
        if known.as_ref().is_none_or(|ours| receipt.amount() > ours.newest.amount()) {
            if self.checks.take(now) {
                let found = receipt.verify(&self.domain).map_err(Rejected::Forged)?;
                self.events.push_back(Event::Found(found));
            }
            return Ok(());
        }
        if let Some(ours) = known {
            let before = ours.kept;
            ours.kept = ours.kept.max(receipt.amount());
            let is_answer = |offered: Receipt| before < offered.amount() && offered.amount() <= ours.kept;
            if ours.offered.is_some_and(is_answer) {
                ours.offer_at = now + COPY_INTERVAL;
                ours.unanswered = None;
                self.deaf_until = None;
            }
        }
        Ok(())
    }

    /// Does what is due. Harmless to call early.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.meet_at.is_some_and(|at| at <= now) {
            self.meet(now);
        }
        for ours in self.ours.values_mut().filter(|ours| ours.is_wanting() && ours.offer_at <= now) {
            ours.offer(now, false);
            if ours.unanswered.is_some_and(|since| now >= since + DEAF_AFTER) {
                self.deaf_until = Some(now + DEAF_FOR);
            }
        }
        for theirs in self.theirs.values_mut().filter(|theirs| theirs.durable.is_some() && theirs.tell_at <= now) {
            theirs.tell = true;
            theirs.told += 1;
            theirs.tell_at = now + TELL_AGAIN.get(theirs.told).copied().unwrap_or(COPY_INTERVAL);
        }
    }

    /// When to call [`Watch::handle_timeout`] next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let offers = self.ours.values().filter(|ours| ours.is_wanting()).map(|ours| ours.offer_at);
        let tells = self.theirs.values().filter(|theirs| theirs.durable.is_some()).map(|theirs| theirs.tell_at);
        offers.chain(tells).chain(self.meet_at).min()
    }

    /// The payload of the next datagram to the neighbour, if there is one.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        let offer = self.ours.values_mut().find(|ours| ours.send > 0).map(|ours| {
            ours.send -= 1;
            Message::Keep(ours.offered.unwrap_or(ours.newest).into_unverified())
        });
        let told = || {
            let theirs = self.theirs.values_mut().find(|theirs| theirs.tell)?;
            theirs.tell = false;
            Some(Message::Kept(theirs.durable?.into_unverified()))
        };
        offer.or_else(told).map(|message| message.encode())
    }

    /// The next thing wanted of the shell.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What the neighbour says it keeps for us, by channel.
    pub fn kept(&self) -> impl Iterator<Item = (ChannelId, Tokens)> + '_ {
        self.ours.iter().filter(|(_, ours)| ours.kept > Tokens::ZERO).map(|(channel, ours)| (*channel, ours.kept))
    }
}

impl Ours {
    fn new(newest: Receipt, now: Instant) -> Self {
        let (offered, unanswered, kept) = (None, None, Tokens::ZERO);
        Self { newest, offered, kept, wanted: false, unanswered, offer_at: now + FIRST, send: 0 }
    }

    /// Whether the neighbour is to keep it and is not known to keep the newest.
    fn is_wanting(&self) -> bool {
        self.wanted && self.newest.amount() > self.kept
    }

    /// Sends what was offered and is not known to be kept once more, so that it need not be checked again; else the newest.
    fn offer(&mut self, now: Instant, newest: bool) {
        let pending = self.offered.filter(|offered| !newest && offered.amount() > self.kept);
        self.offered = Some(pending.unwrap_or(self.newest));
        self.unanswered.get_or_insert(now);
        self.offer_at = now + REPEAT;
        self.send = self.send.max(1);
    }
}

impl Message {
    /// The one encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_statement(self)
    }

    /// Reads a message.
    ///
    /// # Errors
    /// [`DecodeError`]
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MESSAGE_LENGTH_MAX {
            return Err(DecodeError::Malformed { what: Self::WHAT });
        }
        decode_statement(bytes)
    }
}

const KEEP: u8 = 0;
const KEPT: u8 = 1;

impl Statement for Message {
    const WHAT: &'static str = "message of the watch";

    fn write(&self, to: &mut Writer) -> Result<(), encode::Error<Infallible>> {
        let (kind, receipt) = match self {
            Self::Keep(receipt) => (KEEP, receipt),
            Self::Kept(receipt) => (KEPT, receipt),
        };
        to.array(3)?.u8(VERSION)?.u8(kind)?;
        receipt.write(to)
    }

    fn read(from: &mut Decoder<'_>) -> Result<Self, decode::Error> {
        match (from.array()?, from.u8()?, from.u8()?) {
            (Some(3), VERSION, KEEP) => Ok(Self::Keep(Receipt::read(from)?)),
            (Some(3), VERSION, KEPT) => Ok(Self::Kept(Receipt::read(from)?)),
            _ => Err(decode::Error::message("no such message")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Identity, Seed};

    const DOMAIN: LedgerDomain = LedgerDomain { chain_id: 0, contract: NodeId([0xc0; 20]) };

    fn identity(n: u8) -> Identity {
        Identity::new(&Seed::from_bytes([n; 32]))
    }

    fn id(n: u8) -> NodeId {
        identity(n).node_id()
    }

    const PAYEE: u8 = 1;
    const KEEPER: u8 = 2;
    const PAYER: u8 = 3;

    fn receipt(payer: u8, payee: u8, nonce: u64, amount: u64) -> Receipt {
        let channel = ChannelId { payer: id(payer), payee: id(payee), nonce };
        Receipt::sign(identity(payer).account(), &DOMAIN, channel, Tokens::new(amount.into()).unwrap(), [0; 32])
    }

    #[expect(clippy::disallowed_methods, reason = "the beginning of virtual time")]
    fn beginning() -> Instant {
        Instant::now()
    }

    /// A payee and its keeper, and the disk of the keeper.
    struct Two {
        now: Instant,
        payee: Watch,
        keeper: Watch,
        disk: SortedMap<ChannelId, Receipt>,
        waiting: Vec<Receipt>,
        found: Vec<Receipt>,
        sent: usize,
    }

    impl Two {
        fn met() -> Self {
            let now = beginning();
            let [payee, keeper] =
                [(PAYEE, KEEPER), (KEEPER, PAYEE)].map(|(us, peer)| Watch::new(id(us), id(peer), DOMAIN, now));
            let (disk, waiting, found) = Default::default();
            Self { now, payee, keeper, disk, waiting, found, sent: 0 }
        }

        fn has(&mut self, receipts: &[Receipt]) {
            self.payee.handle_ours(self.now, receipts.iter().copied(), true);
            self.talk();
        }

        fn talk(&mut self) {
            loop {
                let mut silent = true;
                while let Some(message) = self.payee.poll_transmit() {
                    (silent, self.sent) = (false, self.sent + 1);
                    self.keeper.handle_message(self.now, &message).unwrap();
                }
                while let Some(message) = self.keeper.poll_transmit() {
                    silent = false;
                    self.payee.handle_message(self.now, &message).unwrap();
                }
                if silent {
                    break;
                }
            }
            while let Some(event) = self.keeper.poll_event() {
                let Event::Keep(receipt) = event else { panic!("nothing of the keeper's is kept") };
                self.waiting.push(receipt);
            }
            while let Some(event) = self.payee.poll_event() {
                let Event::Found(receipt) = event else { panic!("the keeper asks for nothing") };
                self.found.push(receipt);
            }
        }

        fn writes(&mut self) {
            for receipt in std::mem::take(&mut self.waiting) {
                self.disk.insert(receipt.channel(), receipt);
                self.keeper.handle_kept(self.now, receipt);
            }
            self.talk();
        }

        fn after(&mut self, wait: Duration) {
            let end = self.now + wait;
            let due = |two: &Self| two.payee.poll_timeout().into_iter().chain(two.keeper.poll_timeout()).min();
            while let Some(due) = due(self).filter(|due| *due <= end) {
                self.now = due.max(self.now);
                self.payee.handle_timeout(self.now);
                self.keeper.handle_timeout(self.now);
                self.talk();
                assert!(
                    self.payee.poll_timeout().into_iter().chain(self.keeper.poll_timeout()).all(|at| at > self.now)
                );
            }
            self.now = end;
        }

        fn kept(&self) -> Vec<u128> {
            self.payee.kept().map(|(_, amount)| amount.get()).collect()
        }
    }

    #[test]
    fn a_copy_is_told_to_be_kept_only_once_it_is_on_disk_and_is_renewed_at_intervals() {
        let mut two = Two::met();
        two.has(&[receipt(PAYER, PAYEE, 1, 10)]);
        two.after(FIRST);
        assert_eq!((two.sent, two.waiting.len()), (1, 1));
        two.has(&[receipt(PAYER, PAYEE, 1, 15)]);
        two.after(2 * REPEAT);
        assert_eq!(two.kept(), []);
        assert_eq!((two.sent, two.waiting.len()), (3, 1), "the same is repeated, which costs the keeper nothing");
        two.writes();
        assert_eq!(two.kept(), [10]);
        two.after(COPY_INTERVAL - REPEAT);
        assert_eq!(two.sent, 3);
        two.after(REPEAT);
        two.writes();
        assert_eq!((two.sent, two.kept()), (4, vec![15]));
        two.after(10 * COPY_INTERVAL);
        assert_eq!(two.sent, 4, "nothing new was signed");
    }

    #[test]
    fn before_a_shutdown_the_newest_is_sent_whatever_was_sent_before() {
        let mut two = Two::met();
        two.has(&[receipt(PAYER, PAYEE, 1, 10)]);
        two.after(FIRST);
        assert_eq!((two.sent, two.waiting.len()), (1, 1));
        two.has(&[receipt(PAYER, PAYEE, 1, 11)]);
        two.payee.handle_flush(two.now);
        two.talk();
        assert_eq!(two.sent, 1 + usize::from(LAST_TIMES));
        two.writes();
        assert_eq!(two.kept(), [11]);
    }

    #[test]
    fn a_payee_that_lost_its_journal_is_told_what_was_kept() {
        let mut two = Two::met();
        two.has(&[receipt(PAYER, PAYEE, 1, 10), receipt(4, PAYEE, 2, 7)]);
        two.after(FIRST);
        two.writes();
        two.payee = Watch::new(id(PAYEE), id(KEEPER), DOMAIN, two.now);
        two.keeper.handle_met(two.now);
        two.talk();
        two.found.sort_by_key(|receipt| receipt.amount());
        let all = [receipt(4, PAYEE, 2, 7), receipt(PAYER, PAYEE, 1, 10)];
        assert_eq!(two.found, all);

        // What comes while it cannot be judged comes again, and what is known again does not.
        two.found.clear();
        two.after(REPEAT + FIRST);
        assert_eq!(two.found.len(), 2 * TELL_AGAIN.len());
        two.has(&all);
        two.found.clear();
        two.after(3 * COPY_INTERVAL);
        assert_eq!(two.found, []);
        assert_eq!(two.kept(), [10, 7]);
    }

    #[test]
    fn a_neighbour_that_begins_anew_again_and_again_makes_us_say_little() {
        let mut two = Two::met();
        two.has(&[receipt(PAYER, PAYEE, 1, 10)]);
        two.after(FIRST);
        two.writes();
        let mut told = 0;
        for _ in 0..100 {
            two.now += Duration::from_secs(1);
            two.keeper.handle_met(two.now);
            two.keeper.handle_timeout(two.now);
            told += std::iter::from_fn(|| two.keeper.poll_transmit()).count();
        }
        assert!((19..=40).contains(&told), "{told}");
    }

    #[test]
    fn what_a_neighbour_already_keeps_does_not_put_off_what_is_newer() {
        let mut two = Two::met();
        two.has(&[receipt(PAYER, PAYEE, 1, 10)]);
        two.after(FIRST);
        two.writes();
        two.has(&[receipt(PAYER, PAYEE, 1, 15)]);
        two.payee.handle_met(two.now);
        two.keeper.handle_met(two.now);
        two.after(FIRST + MEET_EACH);
        two.writes();
        assert_eq!(two.kept(), [15]);
    }

    #[test]
    fn who_never_answers_is_deaf_until_it_does() {
        let mut two = Two::met();
        two.has(&[receipt(PAYER, PAYEE, 1, 10)]);
        two.after(FIRST + DEAF_AFTER - REPEAT);
        assert!(!two.payee.is_deaf(two.now));
        two.after(2 * REPEAT);
        assert!(two.payee.is_deaf(two.now));
        two.writes();
        assert!(!two.payee.is_deaf(two.now));
        assert_eq!(two.kept(), [10]);
    }

    #[test]
    fn what_the_ledger_refuses_takes_nothing_from_what_is_kept() {
        let mut two = Two::met();
        two.has(&[receipt(PAYER, PAYEE, 1, 10)]);
        two.after(FIRST);
        two.writes();
        let channel = receipt(PAYER, PAYEE, 1, 99).channel();
        two.keeper
            .handle_message(two.now, &Message::Keep(receipt(PAYER, PAYEE, 1, 99).into_unverified()).encode())
            .unwrap();
        assert!(two.keeper.poll_event().is_some());
        two.keeper.handle_not_kept(&channel);
        two.payee = Watch::new(id(PAYEE), id(KEEPER), DOMAIN, two.now);
        two.keeper.handle_met(two.now);
        two.after(MEET_EACH);
        assert_eq!(two.found.first(), Some(&receipt(PAYER, PAYEE, 1, 10)));
    }

    #[test]
    fn a_keeper_that_lost_its_disk_is_given_everything_again() {
        let mut two = Two::met();
        two.has(&[receipt(PAYER, PAYEE, 1, 10)]);
        two.after(FIRST);
        two.writes();
        assert_eq!(two.kept(), [10]);
        two.keeper = Watch::new(id(KEEPER), id(PAYEE), DOMAIN, two.now);
        two.payee.handle_met(two.now);
        assert_eq!(two.kept(), [], "it has to say so");
        two.after(FIRST);
        two.writes();
        assert_eq!(two.kept(), [10]);
    }

    #[test]
    fn the_payer_is_not_asked_to_keep_what_it_signed() {
        let mut two = Two::met();
        two.has(&[receipt(KEEPER, PAYEE, 1, 10)]);
        two.after(COPY_INTERVAL);
        assert_eq!(two.sent, 0);
    }

    #[test]
    fn what_is_not_the_neighbours_is_refused_and_so_is_what_is_forged() {
        let now = beginning();
        let mut keeper = Watch::new(id(KEEPER), id(PAYEE), DOMAIN, now);
        let mut send = |message: Message| keeper.handle_message(now, &message.encode());
        for others in [receipt(PAYER, 5, 1, 10), receipt(KEEPER, PAYEE, 1, 10), receipt(PAYEE, KEEPER, 1, 10)] {
            assert_eq!(send(Message::Keep(others.into_unverified())), Err(Rejected::NotTheirs));
        }
        for others in [receipt(PAYER, PAYEE, 1, 10), receipt(PAYEE, KEEPER, 1, 10)] {
            assert_eq!(send(Message::Kept(others.into_unverified())), Err(Rejected::NotOurs));
        }
        let other_ledger = LedgerDomain { chain_id: 5, ..DOMAIN };
        let channel = receipt(PAYER, PAYEE, 1, 10).channel();
        let forged = Receipt::sign(identity(PAYER).account(), &other_ledger, channel, Tokens::new(9).unwrap(), [0; 32]);
        assert!(matches!(send(Message::Keep(forged.into_unverified())), Err(Rejected::Forged(_))));
        assert_eq!(keeper.poll_event(), None);
        assert_eq!(keeper.poll_transmit(), None);
    }

    /// Neither many channels nor many amounts make us keep, check or say more than a little; and the dearest are kept.
    #[test]
    fn a_neighbour_that_asks_for_much_gets_little() {
        let mut now = beginning();
        let mut keeper = Watch::new(id(KEEPER), id(PAYEE), DOMAIN, now);
        let mut send = |now, nonce, amount| {
            let message = Message::Keep(receipt(PAYER, PAYEE, nonce, amount).into_unverified());
            keeper.handle_message(now, &message.encode()).unwrap();
            std::iter::from_fn(|| keeper.poll_event()).count()
        };
        let amounts: usize = (1..=100).map(|amount| send(now, 1, amount)).sum();
        assert_eq!(amounts, CHECKS_MAX as usize);
        now += 3 * CHECK_INTERVAL;
        let later: usize = (200..=300).map(|amount| send(now, 1, amount)).sum();
        assert_eq!(later, 3);
        for nonce in 2..=100 {
            now += CHECK_INTERVAL;
            send(now, nonce, 100 + nonce);
        }
        let kept: Vec<u64> = keeper.theirs.keys().map(|channel| channel.nonce).collect();
        assert_eq!(kept.len(), KEPT_MAX);
        assert!(kept.contains(&1) && kept.contains(&100) && !kept.contains(&2), "{kept:?}");
    }

    #[test]
    fn messages_are_read_back_and_none_is_read_cut_short_or_with_a_tail() {
        let receipt = receipt(PAYER, PAYEE, 1, 10).into_unverified();
        for message in [Message::Keep(receipt), Message::Kept(receipt)] {
            let bytes = message.encode();
            assert_eq!(Message::decode(&bytes), Ok(message));
            for end in 0..bytes.len() {
                assert!(Message::decode(&bytes[..end]).is_err());
            }
            assert!(Message::decode(&[&bytes[..], &[0]].concat()).is_err());
        }
        assert!(Message::decode(&[0x83, 1, 2, 0x80]).is_err());
        assert!(Message::decode(&[0x81; 400]).is_err());
    }
}
