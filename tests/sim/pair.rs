//! Two neighbours' exchanges alone, on virtual time, beside the plain truth about what was carried, signed and written.
//!
//! A [`Pair`] has two real [`Exchange`]s with their journals, one ledger and a link. Three things drive it: a script of bytes
//! (`fuzz/settlement.rs`), the stories of cheats (`tests/scenarios/cheats.rs`), and the bench of settlement. Its [`Truth`] is
//! kept in exact integers from what the link carried, never from what an exchange says; at each step it is held against both:
//! - the payer signs for no more than was delivered since its segment began, on top of what it had signed; never above the
//!   ceiling its journal has, nor above the deposit; and its amounts rise;
//! - what the provider holds verifies, fits the channel and rises;
//! - what was carried and is not paid for stays within what the provider prints as its risk;
//! - a channel is closed by agreement with all that its payee holds, and with no more than its payer signed; after its offer the
//!   payer signs nothing on it;
//! - no call leads to more than a few messages and events, no timer fires in vain, and nobody honest is called a cheat.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use metering::credit::LIFELINE;
use metering::exchange::{Alarm, Event, Setup};
use metering::wire::Message;
use metering::{
    Bytes, ChannelId, ChannelState, Counts, Credit, Exchange, Identity, LedgerDomain, Limits, Misbehaviour, NodeId,
    Offer, Price, Receipt, Rejected, Restored, Role, Seed, Side, Snapshot, Terms, Tokens,
};

/// The one who is paid, until the two change roles.
pub const PROVIDER: usize = 0;
/// The one who pays, until then.
pub const PAYER: usize = 1;

/// The ledger both use.
pub const DOMAIN: LedgerDomain = LedgerDomain { chain_id: 0, contract: NodeId([0xc0; 20]) };

/// How often a shell reads its counters.
pub const POLL: Duration = Duration::from_millis(50);

/// The two do not read at the same moment.
const PROVIDER_READS_LATER: Duration = Duration::from_millis(20);

/// What passes at most between two readings: at one GiB/s there is nothing more to be seen.
const BETWEEN_READINGS_MAX: u64 = (1 << 30) / 20;

/// What one call may lead to: one message of each kind, and in the worst case a receipt to write, a channel to ask for, terms
/// and alarms.
const MESSAGES_MAX: usize = 3;
const EVENTS_MAX: usize = 6;

/// One in so many of the receipts that a provider holds is verified once more: signatures are most of what a run costs.
const VERIFIED_AGAIN: u64 = 8;

/// What an attacker may listen to and send again later.
const HEARD_MAX: usize = 64;

/// More than anybody locks.
const WALLET: Tokens = Tokens::new(1 << 90).expect("below 2^96");

/// The most that a provider takes for lost without being told (`metering::credit`), parts per million.
const LOSS_MOST_PPM: u32 = 250_000;

/// What becomes of a message on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It does not arrive.
    Lost,
    /// It arrives so late, perhaps after others that were sent later.
    Late(Duration),
    /// It arrives at once and again so late.
    Twice(Duration),
}

/// What becomes of messages for which no [`Fate`] was named, and of crashes; drawn from the pair's seed.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// So many of them are lost, of one.
    pub lost: f64,
    /// So many come twice, of one.
    pub twice: f64,
    /// How long they take.
    pub delay: [Duration; 2],
    /// How long a write of the journal takes.
    pub write: Duration,
}

/// What a cheat sends where its exchange, which is honest, would send this.
pub type Cheat = Box<dyn FnMut(Message) -> Vec<Message>>;

/// One side: a process that may be dead, and a journal that outlives it.
struct Party {
    exchange: Option<Exchange>,
    role: Role,
    session: u64,
    journal: Journal,
    /// An older state of the disk: the journal and the session it began with.
    backup: (Journal, u64),
    /// For which session its exchange waits to be told what journal and ledger know.
    awaits: Option<u64>,
    writing: Vec<(Instant, Event)>,
    revives_at: Instant,
    /// The link's counters in this life.
    counts: Counts,
    reads_at: Option<Instant>,
    alarms: Vec<Alarm>,
    rejected: Vec<Rejected>,
    cheat: Option<Cheat>,
    honest: bool,
}

/// What outlives a process.
#[derive(Clone, Copy, Debug, Default)]
struct Journal {
    /// The channel by which each of the two is paid, as last heard of.
    channels: [Option<ChannelState>; 2],
    /// As a payer.
    ceiling: Option<(ChannelId, Tokens)>,
    /// As a payee.
    held: Option<Receipt>,
}

/// What is true of one of the two as a payee, and of the other as its payer.
#[derive(Debug, Default)]
struct Truth {
    /// What reached its end, at the prices of the moment, in base units times 2^30: nothing is rounded.
    worth: u128,
    /// The same, of what the provider's exchange has not been told yet; and the most that ever was.
    unread: u128,
    unread_max: u128,
    segment: Option<Segment>,
    /// What the payer offered to close the channel with, in this life of its; and what it offered before.
    offered: Option<(u64, u128)>,
    offered_before: Vec<u128>,
    /// By channel, the highest amount the payer ever sent; of this life of its, too.
    sent: BTreeMap<u64, u128>,
    sent_in_this_life: BTreeMap<u64, u128>,
    /// How many receipts the provider has held.
    held: u64,
    /// By channel, what the provider's best receipt is over.
    paid: BTreeMap<u64, u128>,
    /// What it had of a channel before its disk was put back to an older state: its payer knows, and tells.
    put_back: Option<(u64, u128)>,
    /// Those that were closed by agreement: what is paid by them stays.
    closed: BTreeSet<u64>,
    /// The most the provider ever printed: a full window, and a day's gift.
    window: u128,
    each_day: u128,
    lives: u128,
    /// The most that is taken for lost, parts per million.
    allowance: u32,
}

/// Billed bytes, in all, by who sent them.
#[derive(Debug, Clone, Copy, Default)]
struct Carried {
    sent: [u64; 2],
    arrived: [u64; 2],
}

/// A segment as the payer sees it.
#[derive(Debug)]
struct Segment {
    terms: Terms,
    began: Carried,
    sent: BTreeMap<u64, u128>,
}

/// Two exchanges; see the module.
pub struct Pair {
    /// The time.
    pub now: Instant,
    /// What happens to messages.
    pub weather: Weather,
    /// Before the weather has a say: to whom, in turn.
    pub fates: [VecDeque<Fate>; 2],
    /// What both have said, the latest last: to whom, and what.
    pub heard: VecDeque<(usize, Vec<u8>)>,
    /// Messages and their bytes, in all.
    pub messages: (u64, u64),
    began: Instant,
    dice: fastrand::Rng,
    parties: [Party; 2],
    air: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
    posted: u64,
    /// What whoever is paid asks, and whoever pays accepts.
    offer: Offer,
    limits: Limits,
    /// Who will be what, and when.
    turns: Vec<(Instant, usize, Role)>,
    /// By payee: the channel to it, if one is open, and the last one that was.
    ledger: [Option<ChannelState>; 2],
    last_closed: [u64; 2],
    /// Offers to close on their way to the ledger, by payee, and whether it refuses them.
    closes: Vec<(Instant, usize, ChannelId, Tokens)>,
    refuses_to_close: bool,
    news: Vec<(Instant, usize)>,
    restores: Vec<(Instant, usize, Role)>,
    /// What may pass while a provider carries slowly, and when that was last added to.
    ration: [u64; 2],
    rationed_at: [Instant; 2],
    between_readings: u64,
    carried: Carried,
    /// As of somebody's last reading: a segment that it pays for begins there.
    read: [Carried; 2],
    /// By payee.
    truth: [Truth; 2],
}

/// The keys of the two. They cost more to make than a whole run.
pub fn identity(who: usize) -> &'static Identity {
    static BOTH: OnceLock<[Identity; 2]> = OnceLock::new();
    let both = BOTH.get_or_init(|| [1, 2].map(|seed| Identity::new(&Seed::from_bytes([seed; 32]))));
    &both[who]
}

/// One instant for all: they are about differences.
pub fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    #[expect(clippy::disallowed_methods, reason = "an Instant has no other origin")]
    *START.get_or_init(Instant::now)
}

impl Weather {
    /// Nothing is lost.
    pub const FINE: Self =
        Self { lost: 0.0, twice: 0.0, delay: [Duration::from_millis(10); 2], write: Duration::from_millis(20) };
}

impl Pair {
    /// A pair whose payer has locked `deposit`, if any.
    #[must_use]
    pub fn new(seed: u64, offer: Offer, max_price: Price, deposit: Option<Tokens>) -> Self {
        let now = start();
        let ledger = deposit.map(|deposit| ChannelState { nonce: 1, deposit, redeemed: Tokens::ZERO, closing: false });
        let ledger = [ledger, None];
        let party = |role| Party {
            exchange: None,
            role,
            session: 0,
            journal: Journal { channels: ledger, ..Journal::default() },
            backup: (Journal { channels: ledger, ..Journal::default() }, 0),
            awaits: None,
            writing: Vec::new(),
            revives_at: now,
            counts: Counts::ZERO,
            reads_at: None,
            alarms: Vec::new(),
            rejected: Vec::new(),
            cheat: None,
            honest: true,
        };
        let mut pair = Self {
            now,
            weather: Weather::FINE,
            fates: Default::default(),
            heard: VecDeque::new(),
            messages: (0, 0),
            began: now,
            dice: fastrand::Rng::with_seed(seed),
            parties: [party(Role::Provider), party(Role::Subscriber)],
            air: BTreeMap::new(),
            posted: 0,
            offer,
            limits: Limits { max_price },
            turns: Vec::new(),
            ledger,
            last_closed: [0; 2],
            closes: Vec::new(),
            refuses_to_close: false,
            news: Vec::new(),
            restores: Vec::new(),
            ration: [0; 2],
            rationed_at: [now; 2],
            between_readings: 0,
            carried: Carried::default(),
            read: Default::default(),
            truth: Default::default(),
        };
        pair.happen();
        pair
    }

    /// Where a side stands; `None` while it is dead.
    #[must_use]
    pub fn snapshot(&self, who: usize) -> Option<Snapshot> {
        self.parties[who].exchange.as_ref().map(Exchange::snapshot)
    }

    /// The provider's best receipt.
    #[must_use]
    pub fn best_receipt(&self) -> Option<Receipt> {
        self.parties[PROVIDER].exchange.as_ref().and_then(Exchange::best_receipt).copied()
    }

    /// What a side was told about and would tell its owner.
    #[must_use]
    pub fn alarms(&self, who: usize) -> &[Alarm] {
        &self.parties[who].alarms
    }

    /// What a side refused.
    #[must_use]
    pub fn rejected(&self, who: usize) -> &[Rejected] {
        &self.parties[who].rejected
    }

    /// What was carried to its end, at the prices of the moment, in base units.
    #[must_use]
    pub fn worth(&self) -> u128 {
        self.truth[PROVIDER].worth >> 30
    }

    /// Billed bytes the payer sent, those that reached the provider, and those that reached the payer.
    #[must_use]
    pub fn carried(&self) -> [u64; 3] {
        let Carried { sent, arrived } = self.carried;
        [sent[PAYER], arrived[PAYER], arrived[PROVIDER]]
    }

    /// What the provider has receipts for, on all channels.
    #[must_use]
    pub fn paid(&self) -> u128 {
        self.truth[PROVIDER].paid.values().sum()
    }

    /// The most the payer ever signed and sent, on all channels.
    #[must_use]
    pub fn signed(&self) -> u128 {
        self.truth[PROVIDER].sent.values().sum()
    }

    /// How often the provider was started.
    #[must_use]
    pub fn lives(&self) -> u128 {
        self.truth[PROVIDER].lives
    }

    /// A full window, in base units, as the provider prints it.
    #[must_use]
    pub fn window(&self) -> u128 {
        self.truth[PROVIDER].window
    }

    /// What was carried and is not paid for: the gain of whoever does not pay.
    #[must_use]
    pub fn unpaid(&self) -> u128 {
        self.truth[PROVIDER].unpaid()
    }

    /// The most of it that there may be.
    #[must_use]
    pub fn unpaid_max(&self) -> u128 {
        self.truth[PROVIDER].unpaid_max(self.now.duration_since(self.began))
    }

    /// From here on a side's messages go through a cheat's hands. What holds for the honest is asked only of the other.
    pub fn cheat(&mut self, who: usize, cheat: Cheat) {
        self.parties[who].honest = false;
        self.parties[who].cheat = Some(cheat);
    }

    /// Lets time pass.
    pub fn wait(&mut self, pause: Duration) {
        let end = self.now + pause;
        while let Some(at) = self.next_at().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.happen();
        }
        self.now = end;
    }

    /// Packets of so many billed bytes in all, from one side, as far as there is credit; and whether the link loses them.
    /// Returns what was carried.
    pub fn carry(&mut self, from: usize, bytes: u64, lost: bool) -> u64 {
        let [Some(_), Some(_)] = self.parties.each_ref().map(|party| party.exchange.as_ref()) else { return 0 };
        let offers = [PROVIDER, PAYER].map(|who| self.offer_of(who));
        let room = BETWEEN_READINGS_MAX - self.between_readings;
        let wanted = bytes.min(room);
        let mut passes = wanted;
        for who in [PROVIDER, PAYER] {
            // What its payer sends and the link loses, a provider never sees.
            if offers[who].is_some() && (who == from || !lost) {
                passes = self.ration(who, passes);
            }
        }
        let add = |sum: Bytes, more: u64| sum.saturating_add(Bytes::new(more));
        let sent = if offers[from].is_some() { passes } else { wanted };
        let arrives = if lost { 0 } else { passes };
        self.between_readings += sent;
        let [counts, theirs] = [from, 1 - from].map(|who| self.parties[who].counts);
        self.parties[from].counts.sent = add(counts.sent, sent);
        self.parties[1 - from].counts.received = add(theirs.received, arrives);
        self.carried.sent[from] += sent;
        self.carried.arrived[from] += arrives;
        for who in [PROVIDER, PAYER] {
            if let Some(offer) = offers[who] {
                // A provider counts what it sends, whatever becomes of it.
                let (counts, price) = if who == from { (sent, offer.price_down) } else { (arrives, offer.price_up) };
                self.truth[who].carry(arrives, counts, price);
            }
        }
        self.plan_reading(PROVIDER);
        self.plan_reading(PAYER);
        arrives
    }

    /// What somebody asks for what it carries, if it is paid.
    fn offer_of(&self, who: usize) -> Option<Offer> {
        match self.parties[who].exchange.as_ref()?.side() {
            Side::Provider(offer) => Some(offer),
            Side::Subscriber(_) | Side::Peer => None,
        }
    }

    /// Hands bytes to a side as its neighbour's, and says what it made of them.
    ///
    /// # Errors
    /// As [`Exchange::handle_message`].
    pub fn tell(&mut self, to: usize, bytes: &[u8]) -> Result<(), Rejected> {
        let now = self.now;
        let Some(exchange) = &mut self.parties[to].exchange else { return Ok(()) };
        let told = exchange.handle_message(now, bytes);
        if let Err(rejected) = told {
            self.parties[to].rejected.push(rejected);
        }
        self.drain(to);
        self.check();
        told
    }

    /// The same, of bytes its neighbour would never have sent.
    ///
    /// # Errors
    /// As [`Exchange::handle_message`].
    pub fn tell_hostile(&mut self, to: usize, bytes: &[u8]) -> Result<(), Rejected> {
        self.parties[1 - to].honest = false;
        self.tell(to, bytes)
    }

    /// Kills a process; it comes again after `pause`. A write that was under way has or has not reached the disk.
    pub fn crash(&mut self, who: usize, pause: Duration) {
        let party = &mut self.parties[who];
        if party.exchange.take().is_none() {
            return;
        }
        party.revives_at = self.now + pause;
        (party.reads_at, party.awaits) = (None, None);
        for (_, event) in std::mem::take(&mut party.writing) {
            if self.dice.bool() {
                write(&mut party.journal, event);
            }
        }
        self.restores.retain(|(_, whose, _)| *whose != who);
        let held = party.journal.held;
        self.truth[who].forget(held);
        let payer = &mut self.truth[1 - who];
        payer.sent_in_this_life.clear();
        payer.segment = None;
        payer.forget_offer();
        for close in self.closes.extract_if(.., |(_, payee, ..)| *payee == who).collect::<Vec<_>>() {
            // The ledger has it already, or never will.
            if self.dice.bool() {
                self.close_at_the_ledger(close);
            }
        }
    }

    /// Keeps a copy of a disk.
    pub fn back_up(&mut self, who: usize) {
        let party = &mut self.parties[who];
        party.backup = (party.journal, party.session);
    }

    /// As [`Pair::crash`], and the disk comes back as it was at the last [`Pair::back_up`]. The other one lives, and knows better.
    pub fn put_back(&mut self, who: usize, pause: Duration) {
        if self.parties[who].exchange.is_none() || self.parties[1 - who].exchange.is_none() {
            return;
        }
        let best = self.parties[who].exchange.as_ref().and_then(|exchange| exchange.best_receipt().copied());
        self.crash(who, pause);
        let party = &mut self.parties[who];
        // The count of boots goes back too; the random half of a session tells the lives apart.
        (party.journal, party.session) =
            (party.backup.0, party.backup.1 & !0xffff_ffff | u64::from(self.dice.u32(1..)));
        let held = party.journal.held;
        let truth = &mut self.truth[who];
        truth.forget(held);
        let before = truth.put_back.map_or(0, |(_, amount)| amount);
        truth.put_back = best.map(|best| (best.channel().nonce, before.max(best.amount().get())));
    }

    /// Whoever is paid asks something else.
    pub fn ask(&mut self, offer: Offer) {
        self.offer = offer;
        self.take_sides();
    }

    /// Another limit of whoever pays.
    pub fn limit(&mut self, max_price: Price) {
        self.limits = Limits { max_price };
        self.take_sides();
    }

    /// Somebody takes itself for something else, after a while.
    pub fn turn(&mut self, who: usize, role: Role, after: Duration) {
        self.turns.push((self.now + after, who, role));
    }

    /// Whoever pays wants the rest of its deposit back.
    pub fn close(&mut self) {
        for who in [PROVIDER, PAYER] {
            self.change(who, |exchange, _| {
                exchange.handle_close();
            });
        }
    }

    /// Whether the ledger refuses to close channels.
    pub fn refuse_to_close(&mut self, refuses: bool) {
        self.refuses_to_close = refuses;
    }

    /// Whoever is paid is about to redeem, or to end.
    pub fn flush(&mut self) {
        self.change(PROVIDER, Exchange::handle_flush);
        self.change(PAYER, Exchange::handle_flush);
    }

    /// What routing says the link loses, parts per million.
    pub fn lose(&mut self, ppm: u32) {
        for who in [PROVIDER, PAYER] {
            self.truth[who].allowance = self.truth[who].allowance.max(LOSS_MOST_PPM);
            self.change(who, |exchange, _| exchange.handle_link_loss(ppm));
        }
    }

    /// Changes the channel that the ledger has, or both where each has paid the other. Both hear of it, each in its time.
    pub fn change_ledger(&mut self, mut change: impl FnMut(usize, &mut ChannelState)) {
        for (payee, channel) in self.ledger.iter_mut().enumerate() {
            if let Some(channel) = channel {
                change(payee, channel);
            }
        }
        self.spread(PROVIDER);
        self.spread(PAYER);
    }

    /// What the provider's journal has is taken out of the channel.
    pub fn redeem(&mut self) {
        let held = self.parties.each_ref().map(|party| party.journal.held);
        self.change_ledger(|payee, channel| {
            let held = held[payee].filter(|held| held.channel().nonce == channel.nonce);
            channel.redeemed = channel.redeemed.max(held.map_or(Tokens::ZERO, |held| held.amount()));
        });
    }

    /// A time without faults and traffic. Between two honest sides that can do business all is paid then.
    ///
    /// # Panics
    /// If it is not.
    pub fn settle(&mut self) {
        const QUIET: Duration = Duration::from_secs(40);
        self.weather = Weather::FINE;
        self.fates = Default::default();
        self.refuses_to_close = false;
        self.wait(QUIET);
        let (Some(_), Some(_)) = (self.snapshot(PROVIDER), self.snapshot(PAYER)) else {
            panic!("somebody stayed dead")
        };
        let payee = match self.parties.each_ref().map(|party| party.role) {
            [Role::Provider, Role::Subscriber] => PROVIDER,
            [Role::Subscriber, Role::Provider] => PAYER,
            [Role::Peer, Role::Peer] => return self.settle_as_peers(),
            _ => return,
        };
        let [provider, payer] = [payee, 1 - payee].map(|who| self.snapshot(who).expect("alive"));
        let offer = self.offer;
        let agreeable = offer.price_up.max(offer.price_down) <= self.limits.max_price;
        if !agreeable || !self.parties.iter().all(|party| party.honest) {
            return;
        }
        assert!(provider.agreed && payer.agreed, "no terms after {QUIET:?}");
        assert_eq!(self.truth[payee].put_back, None, "what its payer knew of never came back");
        assert_eq!(provider.terms, payer.terms);
        let free = offer.price_up.max(offer.price_down) == Price::FREE;
        if free || self.ledger[payee].is_some_and(|channel| channel.closing) {
            return;
        }
        assert_eq!(payer.owed_by_us, Tokens::ZERO);
        assert_eq!(provider.signed, payer.signed);
        let segment = self.truth[payee].segment.as_ref().expect("terms were agreed on");
        let since = |all: u64, then: u64| Bytes::new(all - then);
        let sent = [PROVIDER, PAYER].map(|who| since(self.carried.sent[who], segment.began.sent[who]));
        let down = since(self.carried.arrived[payee], segment.began.arrived[payee]);
        assert_eq!(payer.ours, Counts { sent: sent[1 - payee], received: down });
        // What was lost downwards may look unpaid to a provider that allows for no loss.
        if down == sent[payee] {
            assert_eq!(provider.owed_to_us, Tokens::ZERO);
        }
    }

    fn settle_as_peers(&self) {
        if self.parties.iter().all(|party| party.honest) {
            let both = [PROVIDER, PAYER].map(|who| self.snapshot(who).expect("alive"));
            assert!(both.iter().all(|peer| peer.agreed), "no terms between peers");
            assert!(both.iter().all(|peer| peer.owed_by_us == Tokens::ZERO && peer.owed_to_us == Tokens::ZERO));
        }
    }

    fn next_at(&self) -> Option<Instant> {
        let of_party = |party: &Party| match &party.exchange {
            None => Some(party.revives_at),
            Some(exchange) => [exchange.poll_timeout(), party.reads_at].into_iter().flatten().min(),
        };
        let writes = self.parties.iter().flat_map(|party| party.writing.iter().map(|(at, _)| *at));
        let air = self.air.keys().map(|(at, _)| *at).take(1);
        let news = self.news.iter().map(|(at, _)| *at);
        let turns = self.turns.iter().map(|(at, ..)| *at);
        let closes = self.closes.iter().map(|(at, ..)| *at);
        let restores = self.restores.iter().map(|(at, ..)| *at);
        let parties = self.parties.iter().filter_map(of_party);
        parties.chain(writes).chain(air).chain(news).chain(turns).chain(closes).chain(restores).min()
    }

    fn happen(&mut self) {
        for who in [PROVIDER, PAYER] {
            self.revive(who);
        }
        while let Some(entry) = self.air.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let (to, bytes) = entry.remove();
            // Whether it was honest or not: nobody is called a cheat for what the network does.
            let _said = self.tell(to, &bytes);
        }
        self.finish_writes();
        for close in self.closes.extract_if(.., |(at, ..)| *at <= self.now).collect::<Vec<_>>() {
            self.close_at_the_ledger(close);
        }
        self.tell_news();
        self.restore_roles();
        for (_, who, role) in self.turns.extract_if(.., |(at, ..)| *at <= self.now).collect::<Vec<_>>() {
            self.parties[who].role = role;
            self.take_sides();
        }
        for who in [PROVIDER, PAYER] {
            if self.parties[who].reads_at.is_some_and(|at| at <= self.now) {
                self.read(who);
            }
            self.change(who, |exchange, now| {
                if exchange.poll_timeout().is_some_and(|at| at <= now) {
                    exchange.handle_timeout(now);
                    assert!(exchange.poll_timeout().is_none_or(|at| at > now), "a timer fired and did nothing");
                }
            });
        }
        self.check();
    }

    fn side(&self, role: Role) -> Side {
        match role {
            Role::Provider => Side::Provider(self.offer),
            Role::Subscriber => Side::Subscriber(self.limits),
            Role::Peer => Side::Peer,
        }
    }

    /// Both are told what they are to be, as a shell does again and again.
    fn take_sides(&mut self) {
        for who in [PROVIDER, PAYER] {
            let side = self.side(self.parties[who].role);
            self.change(who, |exchange, now| exchange.handle_side(now, side));
        }
    }

    /// What journal and ledger know that matters in a role.
    fn restored(&self, who: usize, role: Role) -> Restored {
        let journal = &self.parties[who].journal;
        let channel = payee(who, role).and_then(|payee| journal.channels[payee]);
        match role {
            Role::Subscriber => Restored { channel, ceiling: journal.ceiling, ..Restored::default() },
            Role::Provider | Role::Peer => Restored { channel, held: journal.held, ..Restored::default() },
        }
    }

    /// An exchange that has become something else is told what is known of that, after all that it has had written.
    fn restore_roles(&mut self) {
        for (_, who, role) in self.restores.extract_if(.., |(at, ..)| *at <= self.now).collect::<Vec<_>>() {
            self.parties[who].journal.channels = self.ledger;
            let restored = self.restored(who, role);
            self.change(who, |exchange, now| {
                if exchange.side().role() == role {
                    exchange.handle_restored(now, restored);
                }
            });
        }
    }

    fn note_waiting(&mut self, who: usize) {
        let Some(exchange) = &self.parties[who].exchange else { return };
        let (awaits, role) = (exchange.awaits_restored(), exchange.side().role());
        if awaits.is_some() && awaits != self.parties[who].awaits {
            let written = self.parties[who].writing.iter().map(|(at, _)| *at).max();
            let takes = Duration::from_millis(self.dice.u64(1..300));
            self.restores.push((written.map_or(self.now, |at| at.max(self.now)) + takes, who, role));
            self.truth[1 - who].forget_offer();
        }
        self.parties[who].awaits = awaits;
    }

    /// The ledger answers an offer to close.
    fn close_at_the_ledger(&mut self, (_, payee, id, total): (Instant, usize, ChannelId, Tokens)) {
        let open = self.ledger[payee].filter(|channel| channel.nonce == id.nonce && !self.refuses_to_close);
        if let Some(channel) = open {
            assert!(channel.redeemed <= total && total <= channel.deposit, "{total} of {channel:?}");
            let paid = self.truth[payee].paid.insert(id.nonce, total.get());
            assert!(paid.is_none_or(|paid| paid <= total.get()), "closed with {total}, where {paid:?} is held");
            self.truth[payee].closed.insert(id.nonce);
            (self.ledger[payee], self.last_closed[payee]) = (None, id.nonce);
            self.spread(1 - payee);
        } else {
            self.change(payee, |exchange, _| exchange.handle_close_failed());
        }
        self.spread(payee);
    }

    fn revive(&mut self, who: usize) {
        let (side, restored) = (self.side(self.parties[who].role), self.restored(who, self.parties[who].role));
        let party = &mut self.parties[who];
        if party.exchange.is_some() || party.revives_at > self.now {
            return;
        }
        // As a durable count of boots makes it.
        party.session += 1 << 32;
        party.counts = Counts::ZERO;
        let setup = Setup {
            account: identity(who).account().clone(),
            peer: identity(1 - who).node_id(),
            domain: DOMAIN,
            side,
            session: party.session,
            counts: Counts::ZERO,
            restored,
        };
        party.exchange = Some(Exchange::new(setup, self.now));
        self.truth[who].lives += 1;
        self.truth[who].unread = 0;
        self.read[who] = self.carried;
        self.drain(who);
    }

    fn change(&mut self, who: usize, act: impl FnOnce(&mut Exchange, Instant)) {
        let now = self.now;
        if let Some(exchange) = &mut self.parties[who].exchange {
            act(exchange, now);
        }
        self.drain(who);
    }

    /// A shell reads its counters each [`POLL`]; when nothing has changed, that changes nothing.
    fn plan_reading(&mut self, who: usize) {
        let later = if who == PROVIDER { PROVIDER_READS_LATER } else { Duration::ZERO };
        let mut at = self.began + later;
        let polls = self.now.saturating_duration_since(at).as_millis() / POLL.as_millis();
        at += POLL * u32::try_from(polls + 1).expect("years");
        self.parties[who].reads_at.get_or_insert(at);
    }

    /// A shell reads the link's counters.
    fn read(&mut self, who: usize) {
        let counts = self.parties[who].counts;
        self.parties[who].reads_at = None;
        self.read[who] = self.carried;
        self.truth[who].unread = 0;
        if who == PROVIDER {
            self.between_readings = 0;
        }
        self.change(who, |exchange, now| exchange.handle_counts(now, counts));
    }

    /// How much of it a provider's datapath carries.
    fn ration(&mut self, who: usize, bytes: u64) -> u64 {
        let Some(credit) = self.parties[who].exchange.as_ref().map(Exchange::credit) else { return 0 };
        let passed = self.now.duration_since(self.rationed_at[who]);
        self.rationed_at[who] = self.now;
        // In a second all of what is left, or the lifeline; and no more at once than a few packets or a tenth of a second.
        let each_second = match credit {
            Credit::Open => return bytes,
            Credit::Paced { left } => left.get(),
            Credit::Exhausted { .. } => LIFELINE.get(),
        };
        let added = (each_second as f64 * passed.as_secs_f64()) as u64;
        let ration = &mut self.ration[who];
        *ration = (*ration + added).min(LIFELINE.get().max(each_second / 10));
        let passes = bytes.min(*ration);
        *ration -= passes;
        passes
    }

    fn drain(&mut self, who: usize) {
        let Some(exchange) = &mut self.parties[who].exchange else { return };
        let sent: Vec<Vec<u8>> = std::iter::from_fn(|| exchange.poll_transmit()).take(MESSAGES_MAX + 1).collect();
        let events: Vec<Event> = std::iter::from_fn(|| exchange.poll_event()).take(EVENTS_MAX + 1).collect();
        assert!(sent.len() <= MESSAGES_MAX && events.len() <= EVENTS_MAX, "{} messages, {events:?}", sent.len());
        // Before the messages: terms agreed on are the ground of what is signed.
        for event in events {
            self.handle_event(who, event);
        }
        for bytes in sent {
            self.send(who, bytes);
        }
        self.note_waiting(who);
    }

    fn handle_event(&mut self, who: usize, event: Event) {
        match event {
            Event::Reserve { .. } | Event::Hold(_) => {
                let takes = self.weather.write.mul_f64(self.dice.f64());
                self.parties[who].writing.push((self.now + takes, event));
            }
            Event::NeedChannel { at_least, .. } => {
                let payee = 1 - who;
                let open = self.ledger[payee].filter(|channel| !channel.closing);
                let last = self.ledger[payee].map_or(0, |channel| channel.nonce).max(self.last_closed[payee]);
                let none =
                    ChannelState { nonce: last + 1, deposit: Tokens::ZERO, redeemed: Tokens::ZERO, closing: false };
                let mut channel = open.unwrap_or(none);
                channel.deposit = channel.deposit.max(at_least.min(WALLET));
                self.ledger[payee] = Some(channel);
                self.spread(who);
            }
            Event::LookUpChannel(_) => self.spread(who),
            Event::CloseOffered(close) => {
                let (channel, total) = (close.channel(), close.total());
                self.check_offered(who, channel, total);
                let takes = Duration::from_millis(self.dice.u64(1..4000));
                self.closes.push((self.now + takes, who, channel, total));
            }
            Event::TermsAgreed(terms) if terms.payer == identity(who).node_id() => {
                let payee = 1 - who;
                let (began, sent) = (self.read[who], self.truth[payee].sent.clone());
                self.truth[payee].segment = Some(Segment { terms, began, sent });
            }
            // What passes until its next reading the provider does not count.
            Event::TermsAgreed(_) => self.plan_reading(who),
            Event::Alarm(alarm) => self.parties[who].alarms.push(alarm),
        }
    }

    fn send(&mut self, from: usize, bytes: Vec<u8>) {
        let message = Message::decode(&bytes).expect("our own message");
        if self.parties[from].honest {
            if let Message::Receipt(message) = &message {
                self.check_signed(from, message.receipt.channel(), message.receipt.amount());
            } else if let Message::Close(close) = &message {
                self.check_offer(from, close.channel(), close.total());
            }
        }
        let cheated = self.parties[from].cheat.as_mut().map(|cheat| cheat(message));
        let cheated = cheated.map(|messages| messages.iter().map(Message::encode).collect());
        for bytes in cheated.unwrap_or_else(|| vec![bytes]) {
            self.heard.push_back((1 - from, bytes.clone()));
            if self.heard.len() > HEARD_MAX {
                self.heard.pop_front();
            }
            self.messages = (self.messages.0 + 1, self.messages.1 + bytes.len() as u64);
            self.post(1 - from, bytes);
        }
    }

    fn post(&mut self, to: usize, bytes: Vec<u8>) {
        let [least, most] = self.weather.delay;
        let usual = if most > least { least + (most - least).mul_f64(self.dice.f64()) } else { least };
        let fate = self.fates[to].pop_front().or_else(|| self.draw_fate(usual));
        let arrivals = match fate {
            None => [Some(usual), None],
            Some(Fate::Lost) => return,
            Some(Fate::Late(late)) => [Some(late), None],
            Some(Fate::Twice(late)) => [Some(usual), Some(late)],
        };
        for delay in arrivals.into_iter().flatten() {
            self.posted += 1;
            self.air.insert((self.now + delay, self.posted), (to, bytes.clone()));
        }
    }

    fn draw_fate(&mut self, usual: Duration) -> Option<Fate> {
        if self.weather.lost > 0.0 && self.dice.f64() < self.weather.lost {
            return Some(Fate::Lost);
        }
        let twice = self.weather.twice > 0.0 && self.dice.f64() < self.weather.twice;
        twice.then(|| Fate::Twice(usual.mul_f64(1.0 + self.dice.f64())))
    }

    fn finish_writes(&mut self) {
        for who in [PROVIDER, PAYER] {
            let writing = std::mem::take(&mut self.parties[who].writing);
            let (done, rest): (Vec<_>, Vec<_>) = writing.into_iter().partition(|(at, _)| *at <= self.now);
            self.parties[who].writing = rest;
            for (_, event) in done {
                write(&mut self.parties[who].journal, event);
                self.change(who, |exchange, now| match event {
                    Event::Reserve { channel, ceiling } => exchange.handle_reserved(now, channel, ceiling),
                    Event::Hold(receipt) => exchange.handle_held(now, receipt.channel(), receipt.amount()),
                    Event::NeedChannel { .. }
                    | Event::LookUpChannel(_)
                    | Event::CloseOffered(_)
                    | Event::TermsAgreed(_)
                    | Event::Alarm(_) => {}
                });
            }
        }
    }

    /// Somebody will hear what the ledger has.
    fn spread(&mut self, who: usize) {
        let takes = Duration::from_millis(self.dice.u64(1..500));
        self.news.push((self.now + takes, who));
    }

    fn tell_news(&mut self) {
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.news).into_iter().partition(|(at, _)| *at <= self.now);
        self.news = later;
        for (_, who) in due {
            self.parties[who].journal.channels = self.ledger;
            let role = self.parties[who].exchange.as_ref().map(|exchange| exchange.side().role());
            let Some(payee) = role.and_then(|role| payee(who, role)) else { continue };
            match self.ledger[payee] {
                Some(channel) => {
                    if channel.closing {
                        // Notice ends the wish to close by agreement.
                        self.truth[payee].forget_offer();
                    }
                    self.change(who, |exchange, now| exchange.handle_channel(now, channel));
                }
                None => {
                    let nonce = self.last_closed[payee];
                    self.change(who, |exchange, now| exchange.handle_channel_closed(now, nonce));
                }
            }
        }
    }

    /// A receipt that an honest payer sends.
    fn check_signed(&mut self, payer: usize, channel: ChannelId, amount: Tokens) {
        let payee = 1 - payer;
        assert_eq!((channel.payer, channel.payee), (identity(payer).node_id(), identity(payee).node_id()));
        let journal = &self.parties[payer].journal;
        let ceiling = journal.ceiling.filter(|(on, _)| *on == channel);
        assert!(ceiling.is_some_and(|(_, ceiling)| amount <= ceiling), "{amount} signed, {ceiling:?} written");
        let truth = &self.truth[payee];
        if let Some((_, offered)) = truth.offered.filter(|(nonce, _)| *nonce == channel.nonce) {
            assert!(amount.get() <= offered, "{amount} signed after an offer to close with {offered}");
        }
        let deposit = journal.channels[payee].map(|channel| channel.deposit);
        assert!(deposit.is_some_and(|deposit| amount <= deposit), "{amount} signed of {deposit:?}");
        let most = truth.signed_max(channel.nonce, payer, self.carried, self.parties[payee].honest);
        assert!(amount.get() <= most, "{amount} signed, where {most} was owed: {truth:?}");
        let truth = &mut self.truth[payee];
        for sent in [&mut truth.sent_in_this_life, &mut truth.sent] {
            let highest = sent.entry(channel.nonce).or_default();
            *highest = amount.get().max(*highest);
        }
        assert_eq!(truth.sent_in_this_life[&channel.nonce], amount.get(), "an amount went back");
    }

    /// What an honest payer offers to close its channel with: no more than it has signed, or the ledger has paid.
    fn check_offer(&mut self, payer: usize, channel: ChannelId, total: Tokens) {
        let payee = 1 - payer;
        assert_eq!((channel.payer, channel.payee), (identity(payer).node_id(), identity(payee).node_id()));
        let redeemed = self.parties[payer].journal.channels[payee].map_or(Tokens::ZERO, |known| known.redeemed);
        let truth = &mut self.truth[payee];
        let signed = truth.sent.get(&channel.nonce).copied().unwrap_or_default();
        assert!(total.get() <= signed.max(redeemed.get()), "{total} offered, {signed} signed and {redeemed} redeemed");
        truth.offered = Some((channel.nonce, total.get()));
    }

    /// What a payee takes to the ledger: all that it holds, and no more than is locked.
    fn check_offered(&self, payee: usize, id: ChannelId, total: Tokens) {
        let on = |receipt: &Receipt| receipt.channel() == id;
        let best =
            self.parties[payee].exchange.as_ref().and_then(|exchange| exchange.best_receipt().filter(|best| on(best)));
        let held = self.parties[payee].journal.held.filter(on);
        let most = best.copied().into_iter().chain(held).map(|receipt| receipt.amount()).max();
        assert!(most <= Some(total), "{total} taken for a channel with {most:?}");
        let known = self.parties[payee].journal.channels[payee].filter(|known| known.nonce == id.nonce);
        assert!(known.is_none_or(|known| total <= known.deposit), "{total} taken of {known:?}");
    }

    /// What is true at every moment.
    fn check(&mut self) {
        self.check_provider(PROVIDER);
        self.check_provider(PAYER);
        if !self.parties.iter().all(|party| party.honest) {
            return;
        }
        for who in [PROVIDER, PAYER] {
            for rejected in std::mem::take(&mut self.parties[who].rejected) {
                let Rejected::Misbehaved(misbehaviour) = rejected else { continue };
                // The two hear of a deposit or a new channel at different times; then the receipt comes again.
                let early = matches!(misbehaviour, Misbehaviour::AboveDeposit { .. } | Misbehaviour::OtherChannel);
                // What it offered before it forgot it, or gave notice, comes late.
                let late = matches!(misbehaviour, Misbehaviour::CloseTooLow { total, .. }
                    if self.truth[who].offered_before.contains(&total.get()));
                let excused = early || late;
                assert!(excused, "an honest neighbour was called a cheat: {rejected}");
            }
        }
    }

    fn check_provider(&mut self, who: usize) {
        let (Some(snapshot), Some(exchange)) = (self.snapshot(who), &self.parties[who].exchange) else {
            return;
        };
        assert!(snapshot.window <= snapshot.at_risk.unpaid && snapshot.at_risk.unpaid <= snapshot.at_risk.unwritten);
        if snapshot.role != Role::Provider {
            return;
        }
        let waits = exchange.awaits_restored().is_some();
        assert!(waits || snapshot.held <= snapshot.signed);
        let best = exchange.best_receipt().copied();
        let truth = &mut self.truth[who];
        truth.window = truth.window.max(snapshot.at_risk.unwritten.get());
        truth.each_day = truth.each_day.max(snapshot.at_risk.each_day.get());
        let loss = snapshot.terms.map_or(0, |terms| terms.loss_allowance_ppm);
        truth.allowance = truth.allowance.max(loss);
        if let Some(best) = best {
            self.check_held(who, &best);
        }
        let truth = &self.truth[who];
        let (unpaid, most) = (truth.unpaid(), truth.unpaid_max(self.now.duration_since(self.began)));
        if self.parties[who].honest && truth.put_back.is_none() {
            assert!(unpaid <= most, "{unpaid} carried and not paid for, where {most} is at risk: {truth:?}");
        }
    }

    fn check_held(&mut self, who: usize, best: &Receipt) {
        let (nonce, amount) = (best.channel().nonce, best.amount().get());
        if self.truth[who].closed.contains(&nonce) {
            // The ledger has closed it: that is what was paid, and the exchange will hear of it.
            assert!(self.truth[who].paid[&nonce] >= amount, "{best:?} on a channel that was closed with less");
            return;
        }
        let known = self.truth[who].paid.insert(nonce, amount);
        self.truth[who].put_back = self.truth[who].put_back.filter(|before| *before > (nonce, amount));
        if known == Some(amount) {
            return;
        }
        self.truth[who].held += 1;
        if self.truth[who].held % VERIFIED_AGAIN == 1 {
            assert_eq!(best.into_unverified().verify(&DOMAIN), Ok(*best));
        }
        let parties = ChannelId { payer: identity(1 - who).node_id(), payee: identity(who).node_id(), nonce };
        assert_eq!(best.channel(), parties);
        let channel = self.parties[who].journal.channels[who].expect("no receipt is held before a channel is known");
        assert!(nonce <= channel.nonce, "{best:?} on {channel:?}");
        assert!(nonce < channel.nonce || best.amount() <= channel.deposit, "{best:?} on {channel:?}");
        assert!(known.is_none_or(|known| known < amount), "the best receipt went back from {known:?}: {best:?}");
    }
}

impl Truth {
    /// So much reached its end, and the payee counts so much of it.
    fn carry(&mut self, arrives: u64, counts: u64, price: Price) {
        self.worth += u128::from(arrives) * u128::from(price.get());
        self.unread += u128::from(counts) * u128::from(price.get());
        self.unread_max = self.unread_max.max(self.unread);
    }

    /// What was carried and is not paid for.
    fn unpaid(&self) -> u128 {
        (self.worth >> 30).saturating_sub(self.paid.values().sum())
    }

    /// The most of it that there may be after so long: in each life of the payee a window on trust, one of receipts that were
    /// not written and what passed before it looked; what payments work off; what is given away each day; and all that more
    /// by what it takes for lost.
    fn unpaid_max(&self, passed: Duration) -> u128 {
        let paid: u128 = self.paid.values().sum();
        let in_a_life = 2 * self.window + (self.unread_max >> 30) + 2;
        let given = (self.each_day as f64 * passed.as_secs_f64() / 86_400.0) as u128;
        let most = in_a_life * self.lives + paid / 8 + given;
        let taken_for_lost = u128::from(self.allowance) * paid / 1_000_000;
        (most + taken_for_lost) * 1_000_000 / u128::from(1_000_000 - self.allowance)
    }

    /// What the payer offered to close with binds it no more, and may still be under way.
    fn forget_offer(&mut self) {
        self.offered_before.extend(self.offered.take().map(|(_, total)| total));
    }

    /// The provider lost its memory, and what it has not written is not paid.
    fn forget(&mut self, held: Option<Receipt>) {
        let (newest, amount) = held.map_or((0, 0), |held| (held.channel().nonce, held.amount().get()));
        self.paid.retain(|nonce, _| *nonce <= newest || self.closed.contains(nonce));
        if held.is_some() && !self.closed.contains(&newest) {
            self.paid.insert(newest, amount);
        }
    }

    /// What the payer may have signed on a channel: all it had signed when the segment began, and what was delivered since.
    /// A provider that lies about what it received can at most be believed as far as the payer's own count.
    fn signed_max(&self, nonce: u64, payer: usize, carried: Carried, payee_is_honest: bool) -> u128 {
        let Some(segment) = &self.segment else { return 0 };
        let base = segment.sent.get(&nonce).copied().unwrap_or_default();
        let up = if payee_is_honest { carried.arrived[payer] - segment.began.arrived[payer] } else { u64::MAX };
        let up = up.min(carried.sent[payer] - segment.began.sent[payer]);
        let down = carried.arrived[1 - payer] - segment.began.arrived[1 - payer];
        let worth = |bytes: u64, price: Price| (u128::from(bytes) * u128::from(price.get())) >> 30;
        base + worth(up, segment.terms.price_up) + worth(down, segment.terms.price_down)
    }
}

/// Who is paid on the channel that matters to somebody in a role.
fn payee(who: usize, role: Role) -> Option<usize> {
    match role {
        Role::Provider => Some(who),
        Role::Subscriber => Some(1 - who),
        Role::Peer => None,
    }
}

fn write(journal: &mut Journal, event: Event) {
    match event {
        Event::Reserve { channel, ceiling } => {
            let known = journal.ceiling.map(|(known, ceiling)| (known.nonce, ceiling));
            if known < Some((channel.nonce, ceiling)) {
                journal.ceiling = Some((channel, ceiling));
            }
        }
        Event::Hold(receipt) => {
            let order = |receipt: Receipt| (receipt.channel().nonce, receipt.amount());
            if journal.held.map(order) < Some(order(receipt)) {
                journal.held = Some(receipt);
            }
        }
        Event::NeedChannel { .. }
        | Event::LookUpChannel(_)
        | Event::CloseOffered(_)
        | Event::TermsAgreed(_)
        | Event::Alarm(_) => {}
    }
}
