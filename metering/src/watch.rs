//! The watch: neighbours keep copies of each other's receipts, and redeem them for whoever is away.
//!
//! A receipt pays its payee, whoever brings it to the ledger; so a copy of it can be given to anybody. A payee gives the
//! newest receipt of each channel to a few of its neighbours, never to the one that signed it, and each of them says what
//! it keeps. When a payer gives notice while the payee is away, whoever keeps a copy redeems it; and a payee that has lost
//! its journal is told what was kept.
//!
//! A keeper learns what the payer has paid, which the ledger shows everybody when the receipt is redeemed. By saying that
//! it keeps what it does not keep it leaves the payee where it would be without it.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::time::{Duration, Instant};

use minicbor::{Decoder, decode, encode};
use thiserror::Error;

use crate::cbor::{DecodeError, Statement, Writer, decode_statement, encode_statement};
use crate::identity::SignatureError;
use crate::{ChannelId, LedgerDomain, NodeId, Receipt, Tokens, Unverified};

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

/// How many channels of one neighbour are kept: as many as may pay a busy relay.
pub const KEPT_MAX: usize = 32;

/// Signatures checked at once for one neighbour, and how often one more is: a check takes 0.3 ms, and 14 ms on a router.
const CHECKS_MAX: u32 = 2 * KEPT_MAX as u32;
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Longer datagrams are refused unread.
const MESSAGE_LENGTH_MAX: usize = 512;

/// One message, in one datagram between the two link-local addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Payee to keeper: keep this for me.
    Keep(Receipt<Unverified>),
    /// Keeper to payee: of your receipts on that channel I have this one on disk. Sent in answer, and when the two meet.
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
    ours: BTreeMap<ChannelId, Ours>,
    theirs: BTreeMap<ChannelId, Theirs>,
    checks: u32,
    checks_at: Instant,
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
    /// When it is sent again, or a newer one.
    offer_at: Instant,
    send: bool,
}

/// A channel that pays the neighbour.
#[derive(Clone, Copy, Debug)]
struct Theirs {
    newest: Receipt,
    durable: Option<Receipt>,
    tell: bool,
}

impl Watch {
    /// A watch over a link to a neighbour that has just been admitted.
    #[must_use]
    pub const fn new(us: NodeId, peer: NodeId, domain: LedgerDomain, now: Instant) -> Self {
        Self {
            us,
            peer,
            domain,
            ours: BTreeMap::new(),
            theirs: BTreeMap::new(),
            checks: CHECKS_MAX,
            checks_at: now,
            events: VecDeque::new(),
        }
    }

    /// The two have met, perhaps again: what the neighbour keeps it says, and what it does not say it may have lost.
    pub fn handle_met(&mut self, now: Instant) {
        for ours in self.ours.values_mut() {
            *ours = Ours { offered: None, kept: Tokens::ZERO, offer_at: now + FIRST, send: false, ..*ours };
        }
        for theirs in self.theirs.values_mut() {
            theirs.tell = theirs.durable.is_some();
        }
    }

    /// Takes the newest receipt of each channel that is to be kept by this neighbour. Channels that are missing are not to be
    /// kept any more; what the neighbour itself signed never is.
    pub fn handle_ours(&mut self, now: Instant, receipts: impl IntoIterator<Item = Receipt>) {
        let mut known = std::mem::take(&mut self.ours);
        for newest in receipts {
            let channel = newest.channel();
            if channel.payee != self.us || channel.payer == self.peer {
                continue;
            }
            let first = Ours { newest, offered: None, kept: Tokens::ZERO, offer_at: now + FIRST, send: false };
            let ours = known.remove(&channel).unwrap_or(first);
            self.ours.insert(channel, Ours { newest, ..ours });
        }
        self.handle_timeout(now);
    }

    /// Sends all at once, however lately it was sent: before a shutdown.
    pub fn handle_flush(&mut self, now: Instant) {
        for ours in self.ours.values_mut().filter(|ours| ours.newest.amount() > ours.kept) {
            ours.offer(now, true);
        }
    }

    /// Keeper: this receipt of the neighbour is on disk.
    pub fn handle_kept(&mut self, receipt: Receipt) {
        if receipt.channel().payee != self.peer {
            return;
        }
        let known = self.theirs.get(&receipt.channel()).copied();
        let known = known.unwrap_or(Theirs { newest: receipt, durable: None, tell: false });
        if known.durable.is_none_or(|durable| durable.amount() <= receipt.amount()) {
            let newest = if known.newest.amount() > receipt.amount() { known.newest } else { receipt };
            self.theirs.insert(receipt.channel(), Theirs { newest, durable: Some(receipt), tell: true });
        }
    }

    /// Keeper: nothing on this channel is kept (any more): the ledger does not know it, or has closed it.
    pub fn handle_not_kept(&mut self, channel: &ChannelId) {
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
        let known = self.theirs.get_mut(&channel);
        if known.is_none() && self.theirs.len() >= KEPT_MAX {
            return Ok(());
        }
        if let Some(known) = self.theirs.get_mut(&channel)
            && receipt.amount() <= known.newest.amount()
        {
            known.tell |= known.durable.is_some();
            return Ok(());
        }
        if !self.may_check(now) {
            return Ok(());
        }
        let newest = receipt.verify(&self.domain).map_err(Rejected::Forged)?;
        let durable = self.theirs.get(&channel).and_then(|known| known.durable);
        self.theirs.insert(channel, Theirs { newest, durable, tell: false });
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
            if self.may_check(now) {
                let found = receipt.verify(&self.domain).map_err(Rejected::Forged)?;
                self.events.push_back(Event::Found(found));
            }
            return Ok(());
        }
        if let Some(ours) = known {
            ours.kept = ours.kept.max(receipt.amount());
            if ours.offered.is_none_or(|offered| offered.amount() <= ours.kept) {
                ours.offer_at = ours.offer_at.max(now + COPY_INTERVAL);
            }
        }
        Ok(())
    }

    /// Whether one more signature may be checked for this neighbour. What is not is sent again.
    fn may_check(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.checks_at).as_secs() / CHECK_INTERVAL.as_secs();
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        self.checks = self.checks.saturating_add(passed).min(CHECKS_MAX);
        self.checks_at += CHECK_INTERVAL * passed;
        match self.checks.checked_sub(1) {
            Some(left) => {
                self.checks = left;
                true
            }
            None => false,
        }
    }

    /// Does what is due. Harmless to call early.
    pub fn handle_timeout(&mut self, now: Instant) {
        for ours in self.ours.values_mut().filter(|ours| ours.is_wanting() && ours.offer_at <= now) {
            ours.offer(now, false);
        }
    }

    /// When to call [`Watch::handle_timeout`] next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.ours.values().filter(|ours| ours.is_wanting()).map(|ours| ours.offer_at).min()
    }

    /// The payload of the next datagram to the neighbour, if there is one.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        let offer = self.ours.values_mut().find(|ours| ours.send).map(|ours| {
            ours.send = false;
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
    /// Whether the neighbour is not known to keep the newest.
    fn is_wanting(&self) -> bool {
        self.newest.amount() > self.kept
    }

    /// Sends what was offered and is not known to be kept once more, so that it need not be checked again; else the newest.
    fn offer(&mut self, now: Instant, newest: bool) {
        let pending = self.offered.filter(|offered| !newest && offered.amount() > self.kept);
        self.offered = Some(pending.unwrap_or(self.newest));
        self.offer_at = now + REPEAT;
        self.send = true;
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
        disk: BTreeMap<ChannelId, Receipt>,
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
            self.payee.handle_ours(self.now, receipts.iter().copied());
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
                self.keeper.handle_kept(receipt);
            }
            self.talk();
        }

        fn after(&mut self, wait: Duration) {
            let end = self.now + wait;
            while let Some(due) = self.payee.poll_timeout().filter(|due| *due <= end) {
                self.now = due.max(self.now);
                self.payee.handle_timeout(self.now);
                self.talk();
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
        two.writes();
        two.has(&[receipt(PAYER, PAYEE, 1, 11)]);
        two.payee.handle_flush(two.now);
        two.talk();
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
        assert_eq!(two.found, [receipt(4, PAYEE, 2, 7), receipt(PAYER, PAYEE, 1, 10)]);
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
        assert_eq!(two.kept(), []);
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

    /// Neither many channels nor many amounts make us keep, check or say more than a little.
    #[test]
    fn a_neighbour_that_asks_for_much_gets_little() {
        let mut now = beginning();
        let mut keeper = Watch::new(id(KEEPER), id(PAYEE), DOMAIN, now);
        let mut send = |now, nonce, amount| {
            let message = Message::Keep(receipt(PAYER, PAYEE, nonce, amount).into_unverified());
            keeper.handle_message(now, &message.encode()).unwrap();
            std::iter::from_fn(|| keeper.poll_event()).count()
        };
        let channels: usize = (1..=100).map(|nonce| send(now, nonce, 10)).sum();
        assert_eq!(channels, KEPT_MAX);
        let amounts: usize = (11..=111).map(|amount| send(now, 1, amount)).sum();
        assert_eq!(amounts, CHECKS_MAX as usize - KEPT_MAX);
        now += 3 * CHECK_INTERVAL;
        let later: usize = (200..=300).map(|amount| send(now, 1, amount)).sum();
        assert_eq!(later, 3);
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
