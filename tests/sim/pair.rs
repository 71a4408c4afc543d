//! Two neighbours' exchanges alone, on virtual time, beside the plain truth about what was carried, signed and written.
//!
//! A [`Pair`] has two real [`Exchange`]s with their journals, one ledger and a link. Three things drive it: a script of bytes
//! (`fuzz/settlement.rs`), the stories of cheats (`tests/scenarios/cheats.rs`), and the bench of settlement. Its [`Truth`] is
//! kept in exact integers from what the link carried, never from what an exchange says; at each step it is held against both:
//! - the payer signs for no more than was delivered since its segment began, on top of what it had signed; never above the
//!   ceiling its journal has, nor above the deposit; and its amounts rise;
//! - what the provider holds verifies, fits the channel and rises;
//! - what was carried and is not paid for stays within what the provider prints as its risk;
//! - no call leads to more than a few messages and events, no timer fires in vain, and nobody honest is called a cheat.

use std::collections::{BTreeMap, VecDeque};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use metering::credit::LIFELINE;
use metering::exchange::{Alarm, Event, Setup};
use metering::wire::Message;
use metering::{
    Bytes, ChannelId, ChannelState, Counts, Credit, Exchange, Identity, LedgerDomain, Limits, Misbehaviour, NodeId,
    Offer, Price, Receipt, Rejected, Restored, Seed, Side, Snapshot, Terms, Tokens,
};

/// The one who is paid.
pub const PROVIDER: usize = 0;
/// The one who pays.
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
    side: Side,
    session: u64,
    journal: Restored,
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

/// What is true of a pair.
#[derive(Debug, Default)]
struct Truth {
    carried: Carried,
    /// What reached its end, at the prices of the moment, in base units times 2^30: nothing is rounded.
    worth: u128,
    /// The same, of what the provider's exchange has not been told yet; and the most that ever was.
    unread: u128,
    unread_max: u128,
    /// As of the payer's last reading: a segment of its begins there.
    payer_read: Carried,
    segment: Option<Segment>,
    /// By channel, the highest amount the payer ever sent; of this life of its, too.
    sent: BTreeMap<u64, u128>,
    sent_in_this_life: BTreeMap<u64, u128>,
    /// How many receipts the provider has held.
    held: u64,
    /// By channel, what the provider's best receipt is over.
    paid: BTreeMap<u64, u128>,
    /// The most the provider ever printed: a full window, and a day's gift.
    window: u128,
    each_day: u128,
    lives: u128,
    /// The most that is taken for lost, parts per million.
    allowance: u32,
}

/// Billed bytes, in all.
#[derive(Debug, Clone, Copy, Default)]
struct Carried {
    up_sent: u64,
    up: u64,
    down_sent: u64,
    down: u64,
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
    ledger: Option<ChannelState>,
    news: Vec<(Instant, usize)>,
    /// What may pass while the provider carries slowly, and when that was last added to.
    ration: u64,
    rationed_at: Instant,
    between_readings: u64,
    truth: Truth,
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
        let party = |side| Party {
            exchange: None,
            side,
            session: 0,
            journal: Restored { channel: ledger, ..Restored::default() },
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
            parties: [party(Side::Provider(offer)), party(Side::Subscriber(Limits { max_price }))],
            air: BTreeMap::new(),
            posted: 0,
            ledger,
            news: Vec::new(),
            ration: 0,
            rationed_at: now,
            between_readings: 0,
            truth: Truth::default(),
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
        self.truth.worth >> 30
    }

    /// Billed bytes the payer sent, those that reached the provider, and those that reached the payer.
    #[must_use]
    pub fn carried(&self) -> [u64; 3] {
        [self.truth.carried.up_sent, self.truth.carried.up, self.truth.carried.down]
    }

    /// What the provider has receipts for, on all channels.
    #[must_use]
    pub fn paid(&self) -> u128 {
        self.truth.paid.values().sum()
    }

    /// The most the payer ever signed and sent, on all channels.
    #[must_use]
    pub fn signed(&self) -> u128 {
        self.truth.sent.values().sum()
    }

    /// How often the provider was started.
    #[must_use]
    pub fn lives(&self) -> u128 {
        self.truth.lives
    }

    /// A full window, in base units, as the provider prints it.
    #[must_use]
    pub fn window(&self) -> u128 {
        self.truth.window
    }

    /// What was carried and is not paid for: the gain of whoever does not pay.
    #[must_use]
    pub fn unpaid(&self) -> u128 {
        self.worth().saturating_sub(self.paid())
    }

    /// The most of it that there may be: in each life of the provider a window on trust, one of receipts that were not
    /// written and what passed before it looked; what payments work off; what is given away each day; and all that more by
    /// what it takes for lost.
    #[must_use]
    pub fn unpaid_max(&self) -> u128 {
        let truth = &self.truth;
        let in_a_life = 2 * truth.window + (truth.unread_max >> 30) + 2;
        let days = self.now.duration_since(self.began).as_secs_f64() / 86_400.0;
        let given = (truth.each_day as f64 * days) as u128;
        let most = in_a_life * truth.lives + self.paid() / 8 + given;
        let taken_for_lost = u128::from(truth.allowance) * self.paid() / 1_000_000;
        (most + taken_for_lost) * 1_000_000 / u128::from(1_000_000 - truth.allowance)
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
        let [Some(provider), Some(_)] = self.parties.each_ref().map(|party| party.exchange.as_ref()) else { return 0 };
        let side = self.parties[PROVIDER].side;
        let Side::Provider(offer) = side else { return 0 };
        let room = BETWEEN_READINGS_MAX - self.between_readings;
        let wanted = bytes.min(room);
        // What the payer sends and the link loses, the provider never sees.
        let passes = if lost && from == PAYER { wanted } else { self.ration(provider.credit(), wanted) };
        let add = |sum: Bytes, more: u64| sum.saturating_add(Bytes::new(more));
        let sent = if from == PAYER { wanted } else { passes };
        let arrives = if lost { 0 } else { passes };
        self.between_readings += sent;
        let [counts, theirs] = [from, 1 - from].map(|who| self.parties[who].counts);
        self.parties[from].counts.sent = add(counts.sent, sent);
        self.parties[1 - from].counts.received = add(theirs.received, arrives);
        let price = if from == PAYER { offer.price_up } else { offer.price_down };
        self.truth.carry(from, sent, arrives, price);
        self.plan_reading(PROVIDER);
        self.plan_reading(PAYER);
        arrives
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
        party.reads_at = None;
        for (_, event) in std::mem::take(&mut party.writing) {
            if self.dice.bool() {
                write(&mut party.journal, event);
            }
        }
        if who == PAYER {
            self.truth.sent_in_this_life.clear();
            self.truth.segment = None;
        } else {
            self.truth.forget(party.journal.held);
        }
    }

    /// The provider asks something else.
    pub fn ask(&mut self, offer: Offer) {
        self.read(PROVIDER);
        self.parties[PROVIDER].side = Side::Provider(offer);
        self.change(PROVIDER, |exchange, now| exchange.handle_side(now, Side::Provider(offer)));
    }

    /// Another limit of the payer.
    pub fn limit(&mut self, max_price: Price) {
        let side = Side::Subscriber(Limits { max_price });
        self.parties[PAYER].side = side;
        self.change(PAYER, |exchange, now| exchange.handle_side(now, side));
    }

    /// The provider is about to redeem, or to end.
    pub fn flush(&mut self) {
        self.change(PROVIDER, Exchange::handle_flush);
    }

    /// What routing says the link loses, parts per million.
    pub fn lose(&mut self, ppm: u32) {
        self.truth.allowance = self.truth.allowance.max(LOSS_MOST_PPM);
        self.change(PROVIDER, |exchange, _| exchange.handle_link_loss(ppm));
    }

    /// Changes what the ledger has. Both hear of it, each in its time.
    pub fn change_ledger(&mut self, change: impl FnOnce(&mut ChannelState)) {
        let Some(channel) = &mut self.ledger else { return };
        change(channel);
        self.spread(PROVIDER);
        self.spread(PAYER);
    }

    /// What the provider's journal has is taken out of the channel.
    pub fn redeem(&mut self) {
        let held = self.parties[PROVIDER].journal.held;
        self.change_ledger(|channel| {
            let held = held.filter(|held| held.channel().nonce == channel.nonce);
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
        self.wait(QUIET);
        let [Some(provider), Some(payer)] = [PROVIDER, PAYER].map(|who| self.snapshot(who)) else {
            panic!("somebody stayed dead");
        };
        let [Side::Provider(offer), Side::Subscriber(limits)] = self.parties.each_ref().map(|party| party.side) else {
            panic!("nobody changed roles");
        };
        let agreeable = offer.price_up.max(offer.price_down) <= limits.max_price;
        if !agreeable || !self.parties.iter().all(|party| party.honest) {
            return;
        }
        assert!(provider.agreed && payer.agreed, "no terms after {QUIET:?}");
        assert_eq!(provider.terms, payer.terms);
        let free = offer.price_up.max(offer.price_down) == Price::FREE;
        if free || self.ledger.is_none_or(|channel| channel.closing) {
            return;
        }
        assert_eq!(payer.owed_by_us, Tokens::ZERO);
        assert_eq!(provider.signed, payer.signed);
        let segment = self.truth.segment.as_ref().expect("terms were agreed on");
        let carried = self.truth.carried;
        let since = |all: u64, then: u64| Bytes::new(all - then);
        let up_sent = since(carried.up_sent, segment.began.up_sent);
        let (down, down_sent) =
            (since(carried.down, segment.began.down), since(carried.down_sent, segment.began.down_sent));
        assert_eq!(payer.ours, Counts { sent: up_sent, received: down });
        // What was lost downwards may look unpaid to a provider that allows for no loss.
        if down == down_sent {
            assert_eq!(provider.owed_to_us, Tokens::ZERO);
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
        self.parties.iter().filter_map(of_party).chain(writes).chain(air).chain(news).min()
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
        self.tell_news();
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

    fn revive(&mut self, who: usize) {
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
            side: party.side,
            session: party.session,
            counts: Counts::ZERO,
            restored: party.journal,
        };
        party.exchange = Some(Exchange::new(setup, self.now));
        if who == PROVIDER {
            self.truth.lives += 1;
            self.truth.unread = 0;
        } else {
            self.truth.payer_read = self.truth.carried;
        }
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
        if who == PAYER {
            self.truth.payer_read = self.truth.carried;
        } else {
            self.truth.unread = 0;
            self.between_readings = 0;
        }
        self.change(who, |exchange, now| exchange.handle_counts(now, counts));
    }

    /// How much of it the provider's datapath carries.
    fn ration(&mut self, credit: Credit, bytes: u64) -> u64 {
        let passed = self.now.duration_since(self.rationed_at);
        self.rationed_at = self.now;
        // In a second all of what is left, or the lifeline; and no more at once than a few packets or a tenth of a second.
        let each_second = match credit {
            Credit::Open => return bytes,
            Credit::Paced { left } => left.get(),
            Credit::Exhausted { .. } => LIFELINE.get(),
        };
        let added = (each_second as f64 * passed.as_secs_f64()) as u64;
        self.ration = (self.ration + added).min(LIFELINE.get().max(each_second / 10));
        let passes = self.ration.min(bytes);
        self.ration -= passes;
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
    }

    fn handle_event(&mut self, who: usize, event: Event) {
        match event {
            Event::Reserve { .. } | Event::Hold(_) => {
                let takes = self.weather.write.mul_f64(self.dice.f64());
                self.parties[who].writing.push((self.now + takes, event));
            }
            Event::NeedChannel { at_least, .. } => {
                let none = ChannelState { nonce: 1, deposit: Tokens::ZERO, redeemed: Tokens::ZERO, closing: false };
                let channel = self.ledger.get_or_insert(none);
                channel.deposit = channel.deposit.max(at_least.min(WALLET));
                self.spread(who);
            }
            Event::LookUpChannel(_) => self.spread(who),
            Event::CloseOffered { .. } => {} // Nobody here closes.
            Event::TermsAgreed(terms) if who == PAYER => {
                let (began, sent) = (self.truth.payer_read, self.truth.sent.clone());
                self.truth.segment = Some(Segment { terms, began, sent });
            }
            // What passes until its next reading the provider does not count.
            Event::TermsAgreed(_) => self.plan_reading(who),
            Event::Alarm(alarm) => self.parties[who].alarms.push(alarm),
        }
    }

    fn send(&mut self, from: usize, bytes: Vec<u8>) {
        let message = Message::decode(&bytes).expect("our own message");
        if let (Message::Receipt(message), true) = (&message, self.parties[PAYER].honest) {
            self.check_signed(message.receipt.channel(), message.receipt.amount());
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
                    | Event::CloseOffered { .. }
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
            if let Some(channel) = self.ledger {
                self.parties[who].journal.channel = Some(channel);
                self.change(who, |exchange, now| exchange.handle_channel(now, channel));
            }
        }
    }

    /// A receipt that an honest payer sends.
    fn check_signed(&mut self, channel: ChannelId, amount: Tokens) {
        assert_eq!((channel.payer, channel.payee), (identity(PAYER).node_id(), identity(PROVIDER).node_id()));
        let ceiling = self.parties[PAYER].journal.ceiling.filter(|(on, _)| *on == channel);
        assert!(ceiling.is_some_and(|(_, ceiling)| amount <= ceiling), "{amount} signed, {ceiling:?} written");
        let deposit = self.parties[PAYER].journal.channel.map(|channel| channel.deposit);
        assert!(deposit.is_some_and(|deposit| amount <= deposit), "{amount} signed of {deposit:?}");
        let most = self.truth.signed_max(channel.nonce, self.parties[PROVIDER].honest);
        assert!(amount.get() <= most, "{amount} signed, where {most} was owed: {:?}", self.truth);
        for sent in [&mut self.truth.sent_in_this_life, &mut self.truth.sent] {
            let highest = sent.entry(channel.nonce).or_default();
            *highest = amount.get().max(*highest);
        }
        assert_eq!(self.truth.sent_in_this_life[&channel.nonce], amount.get(), "an amount went back");
    }

    /// What is true at every moment.
    fn check(&mut self) {
        self.check_provider();
        if self.parties.iter().all(|party| party.honest) {
            for rejected in self.parties.iter_mut().flat_map(|party| party.rejected.drain(..)) {
                // The two hear of a deposit or a new channel at different times; then the receipt comes again.
                let ledger = Misbehaviour::OtherChannel;
                let early = matches!(rejected, Rejected::Misbehaved(Misbehaviour::AboveDeposit { .. }));
                let accused = matches!(rejected, Rejected::Misbehaved(_)) && !early && rejected != ledger.into();
                assert!(!accused, "an honest neighbour was called a cheat: {rejected}");
            }
        }
    }

    fn check_provider(&mut self) {
        let (Some(snapshot), Some(exchange)) = (self.snapshot(PROVIDER), &self.parties[PROVIDER].exchange) else {
            return;
        };
        assert!(snapshot.window <= snapshot.at_risk.unpaid && snapshot.at_risk.unpaid <= snapshot.at_risk.unwritten);
        assert!(snapshot.held <= snapshot.signed);
        self.truth.window = self.truth.window.max(snapshot.at_risk.unwritten.get());
        self.truth.each_day = self.truth.each_day.max(snapshot.at_risk.each_day.get());
        let loss = snapshot.terms.map_or(0, |terms| terms.loss_allowance_ppm);
        self.truth.allowance = self.truth.allowance.max(loss);
        if let Some(best) = exchange.best_receipt().copied() {
            self.check_held(&best);
        }
        let (unpaid, most) = (self.unpaid(), self.unpaid_max());
        if self.parties[PROVIDER].honest {
            assert!(unpaid <= most, "{unpaid} carried and not paid for, where {most} is at risk: {:?}", self.truth);
        }
    }

    fn check_held(&mut self, best: &Receipt) {
        let (nonce, amount) = (best.channel().nonce, best.amount().get());
        let known = self.truth.paid.insert(nonce, amount);
        if known == Some(amount) {
            return;
        }
        self.truth.held += 1;
        if self.truth.held % VERIFIED_AGAIN == 1 {
            assert_eq!(best.into_unverified().verify(&DOMAIN), Ok(*best));
        }
        let parties = ChannelId { payer: identity(PAYER).node_id(), payee: identity(PROVIDER).node_id(), nonce };
        assert_eq!(best.channel(), parties);
        let channel = self.parties[PROVIDER].journal.channel.expect("no receipt is held before a channel is known");
        assert!(nonce <= channel.nonce, "{best:?} on {channel:?}");
        assert!(nonce < channel.nonce || best.amount() <= channel.deposit, "{best:?} on {channel:?}");
        assert!(known.is_none_or(|known| known < amount), "the best receipt went back from {known:?}: {best:?}");
    }
}

impl Truth {
    fn carry(&mut self, from: usize, sent: u64, arrives: u64, price: Price) {
        let carried = &mut self.carried;
        let (all_sent, all) = match from {
            PAYER => (&mut carried.up_sent, &mut carried.up),
            _ => (&mut carried.down_sent, &mut carried.down),
        };
        *all_sent += sent;
        *all += arrives;
        let worth = u128::from(arrives) * u128::from(price.get());
        self.worth += worth;
        // A provider counts what it sends, whatever becomes of it.
        let counts = if from == PAYER { arrives } else { sent };
        self.unread += u128::from(counts) * u128::from(price.get());
        self.unread_max = self.unread_max.max(self.unread);
    }

    /// The provider lost its memory, and what it has not written is not paid.
    fn forget(&mut self, held: Option<Receipt>) {
        let (newest, amount) = held.map_or((0, 0), |held| (held.channel().nonce, held.amount().get()));
        self.paid.retain(|nonce, _| *nonce <= newest);
        if held.is_some() {
            self.paid.insert(newest, amount);
        }
    }

    /// What the payer may have signed on a channel: all it had signed when the segment began, and what was delivered since.
    /// A provider that lies about what it received can at most be believed as far as the payer's own count.
    fn signed_max(&self, nonce: u64, provider_is_honest: bool) -> u128 {
        let Some(segment) = &self.segment else { return 0 };
        let base = segment.sent.get(&nonce).copied().unwrap_or_default();
        let up = if provider_is_honest { self.carried.up - segment.began.up } else { u64::MAX };
        let up = up.min(self.carried.up_sent - segment.began.up_sent);
        let down = self.carried.down - segment.began.down;
        let worth = |bytes: u64, price: Price| (u128::from(bytes) * u128::from(price.get())) >> 30;
        base + worth(up, segment.terms.price_up) + worth(down, segment.terms.price_down)
    }
}

fn write(journal: &mut Restored, event: Event) {
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
        | Event::CloseOffered { .. }
        | Event::TermsAgreed(_)
        | Event::Alarm(_) => {}
    }
}
