//! Two neighbours on virtual time, over a link that loses, repeats, delays and reorders, with journals that are slow
//! and crashes that take back what they had not written.

use std::collections::BTreeMap;

use super::*;
use crate::{Bytes, Identity, Seed};

const DOMAIN: LedgerDomain = LedgerDomain { chain_id: 0, contract: NodeId([0xc0; 20]) };

/// How often a shell reads its counters.
const POLL: Duration = Duration::from_millis(50);

/// How often a shell writes how payers stand; sooner when that has changed clearly, and it looks so often.
const STANDINGS: Duration = Duration::from_secs(300);
const STANDINGS_LOOK: Duration = Duration::from_secs(2);

const PROVIDER: usize = 0;
const PAYER: usize = 1;

/// What a run is made of.
#[derive(Clone, Debug)]
struct Plan {
    seed: u64,
    sides: [Side; 2],
    /// Payer to provider and provider to payer, bytes a second.
    rate: [u64; 2],
    message_loss: f64,
    packet_loss: f64,
    duplicates: f64,
    delay: [Duration; 2],
    /// How long the journal takes, at most.
    journal: Duration,
    /// Crashes a second, of either side.
    crashes: f64,
    /// Whether the payer's messages reach the provider once terms are agreed.
    payer_is_silent: bool,
    /// Whether the payer signs nothing at all.
    payer_signs_nothing: bool,
    /// Whether there is a channel from the start.
    channel: bool,
}

impl Plan {
    fn quiet(seed: u64) -> Self {
        Self {
            seed,
            sides: paid(offer(1 << 20, 64)),
            rate: [1 << 18, 1 << 20],
            message_loss: 0.0,
            packet_loss: 0.0,
            duplicates: 0.0,
            delay: [Duration::from_millis(10); 2],
            journal: Duration::from_millis(20),
            crashes: 0.0,
            payer_is_silent: false,
            payer_signs_nothing: false,
            channel: true,
        }
    }

    /// Anything an honest pair may meet. In all so much may be unpaid as four times what the design says for a window: two
    /// ticks and a round trip at full rate.
    fn rough(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut upto = |most: f64| rng.f64() * most;
        let slowest = Duration::from_secs_f64(0.001 + upto(2.0) * upto(1.0));
        let rate = [upto(2e6) as u64, upto(2e7) as u64 + 1000];
        let seconds = 2.0 * TICK.as_secs_f64() + 2.0 * slowest.as_secs_f64();
        let window = 4 * ((rate[0] + rate[1]) as f64 * seconds) as u64 + (4 << 20);
        let offer = Offer {
            price_up: Price::new(upto(1e6) as u64),
            price_down: Price::new(upto(1e7) as u64 + 1),
            window: Bytes::new(window),
            loss_allowance_ppm: Offer::DEFAULT_LOSS_ALLOWANCE_PPM,
        };
        Self {
            sides: paid(offer),
            rate,
            message_loss: upto(0.2),
            packet_loss: upto(0.2),
            duplicates: upto(0.2),
            delay: [slowest / 20, slowest],
            journal: Duration::from_secs_f64(upto(0.2)),
            crashes: upto(0.1),
            channel: upto(1.0) < 0.8,
            ..Self::quiet(seed)
        }
    }
}

fn offer(price: u64, window_mib: u32) -> Offer {
    Offer {
        price_up: Price::new(price),
        price_down: Price::new(price),
        window: Bytes::from_mebibytes(window_mib),
        loss_allowance_ppm: 0,
    }
}

fn paid(offer: Offer) -> [Side; 2] {
    let max_price = Price::new(1 << 40);
    [Side::Provider(offer), Side::Subscriber(Limits { max_price })]
}

fn identity(who: usize) -> Identity {
    Identity::new(&Seed::from_bytes([who as u8 + 1; 32]))
}

/// One side: a process that may be dead, and a journal that outlives it.
struct Party {
    exchange: Option<Exchange>,
    counts: Counts,
    session: u64,
    journal: Restored,
    /// Writes begun and not finished: when they will be, and what for.
    writing: Vec<(Instant, Event)>,
    revives_at: Instant,
    alarms: Vec<Alarm>,
    rejected: Vec<Rejected>,
    agreed: Vec<Terms>,
    /// Totals of offers to close.
    offered: Vec<Tokens>,
    written_off: Tokens,
    /// Whether it cannot lock what its exchange asks for.
    wallet_is_empty: bool,
    /// When it asked a ledger that is out of its reach, as it is until then.
    asked_in_vain: Vec<Instant>,
    ledger_is_back_at: Instant,
}

enum Delivery {
    Message(Vec<u8>),
    Packet(u64),
}

struct World {
    plan: Plan,
    rng: fastrand::Rng,
    now: Instant,
    began: Instant,
    parties: [Party; 2],
    air: BTreeMap<(Instant, u64), (usize, Delivery)>,
    posted: u64,
    /// The ledger's record, and who will hear of it when.
    ledger: Option<ChannelState>,
    next_nonce: u64,
    news: Vec<(Instant, usize)>,
    /// The truth: what reached the provider, and the payer.
    delivered: [u64; 2],
    crashes: [u64; 2],
    /// How much of its rate the traffic has reached, as TCP would: it begins slowly, and anew when it was stopped.
    ramp: f64,
    /// What may pass while the provider paces.
    ration: u64,
    /// Bytes that credit kept from passing.
    refused: u64,
    highest_sent: Tokens,
    /// The channel it was sent on.
    sent_nonce: u64,
    /// Of the payer's present life.
    last_sent: Tokens,
    traffic: bool,
    messages: u64,
    message_bytes: u64,
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "any origin will do; nothing else reads the clock")]
    fn new(plan: Plan) -> Self {
        let now = Instant::now();
        let ledger = plan.channel.then_some(ChannelState {
            nonce: 1,
            deposit: Tokens::new(1 << 40).unwrap(),
            redeemed: Tokens::ZERO,
            closing: false,
        });
        let party = || Party {
            exchange: None,
            counts: Counts::ZERO,
            session: 0,
            journal: Restored { channel: ledger, ..Restored::default() },
            writing: Vec::new(),
            revives_at: now,
            alarms: Vec::new(),
            rejected: Vec::new(),
            agreed: Vec::new(),
            offered: Vec::new(),
            written_off: Tokens::ZERO,
            wallet_is_empty: false,
            asked_in_vain: Vec::new(),
            ledger_is_back_at: now,
        };
        let mut world = Self {
            rng: fastrand::Rng::with_seed(plan.seed),
            now,
            began: now,
            parties: [party(), party()],
            air: BTreeMap::new(),
            posted: 0,
            ledger,
            next_nonce: 1,
            news: Vec::new(),
            delivered: [0; 2],
            crashes: [0; 2],
            ramp: 0.0,
            ration: 0,
            refused: 0,
            highest_sent: Tokens::ZERO,
            sent_nonce: 0,
            last_sent: Tokens::ZERO,
            traffic: true,
            messages: 0,
            message_bytes: 0,
            plan,
        };
        world.revive_the_dead();
        world
    }

    fn terms(&self) -> Option<Terms> {
        self.parties[PAYER].agreed.last().copied()
    }

    fn of(&self, who: usize) -> &Exchange {
        self.parties[who].exchange.as_ref().expect("alive")
    }

    fn change(&mut self, who: usize, act: impl FnOnce(&mut Exchange, Instant)) {
        let now = self.now;
        if let Some(exchange) = &mut self.parties[who].exchange {
            act(exchange, now);
        }
        self.drain(who);
    }

    fn run(&mut self, seconds: f64) -> &mut Self {
        let end = self.now + Duration::from_secs_f64(seconds);
        while self.now < end {
            self.now += POLL;
            self.revive_the_dead();
            self.deliver();
            self.finish_writes();
            self.tell_news();
            self.carry();
            self.crash_someone();
            for who in [PROVIDER, PAYER] {
                let counts = self.parties[who].counts;
                let lost = (self.plan.packet_loss * 1e6) as u32;
                self.change(who, |exchange, now| {
                    exchange.handle_link_loss(lost);
                    exchange.handle_counts(now, counts);
                    if exchange.poll_timeout().is_some_and(|at| at <= now) {
                        exchange.handle_timeout(now);
                        assert!(exchange.poll_timeout().is_none_or(|at| at > now));
                    }
                });
            }
            self.write_standing();
            self.check();
        }
        self
    }

    fn write_standing(&mut self) {
        let is_time =
            |interval: Duration| self.now.duration_since(self.began).as_millis().is_multiple_of(interval.as_millis());
        let party = &mut self.parties[PROVIDER];
        let (true, Some(exchange)) = (is_time(STANDINGS_LOOK), &party.exchange) else { return };
        let snapshot = exchange.snapshot();
        let full = snapshot.terms.map_or(Tokens::MAX, |terms| terms.window_value());
        if is_time(STANDINGS) || snapshot.standing.outgrew(&party.journal.standing, snapshot.window, full) {
            party.journal.standing = snapshot.standing;
        }
    }

    fn revive_the_dead(&mut self) {
        for who in [PROVIDER, PAYER] {
            let party = &mut self.parties[who];
            if party.exchange.is_none() && party.revives_at <= self.now {
                party.session += 1;
                party.counts = Counts::ZERO;
                let setup = Setup {
                    account: identity(who).account().clone(),
                    peer: identity(1 - who).node_id(),
                    domain: DOMAIN,
                    side: self.plan.sides[who],
                    session: party.session,
                    counts: Counts::ZERO,
                    restored: party.journal,
                };
                party.exchange = Some(Exchange::new(setup, self.now));
                self.drain(who);
            }
        }
    }

    fn crash_someone(&mut self) {
        if self.rng.f64() >= self.plan.crashes * POLL.as_secs_f64() {
            return;
        }
        let who = self.rng.usize(..2);
        let both = self.rng.u8(..8) == 0;
        self.crash(who);
        if both {
            self.crash(1 - who);
        }
    }

    /// Kills a process. A write begun may have reached the disk without anybody hearing of it.
    fn crash(&mut self, who: usize) {
        let party = &mut self.parties[who];
        let Some(exchange) = party.exchange.take() else { return };
        party.written_off = party.written_off.saturating_add(exchange.snapshot().written_off);
        self.crashes[who] += 1;
        if who == PAYER {
            self.last_sent = Tokens::ZERO;
        }
        party.revives_at = self.now + Duration::from_millis(self.rng.u64(50..3000));
        for (_, event) in std::mem::take(&mut party.writing) {
            if self.rng.bool() {
                write(&mut party.journal, event);
            }
        }
    }

    /// One poll interval's worth of packets, each way, while both live and the provider gives credit.
    fn carry(&mut self) {
        let alive = self.parties.iter().all(|party| party.exchange.is_some());
        if !alive || !self.traffic {
            self.ramp = 0.0;
            return;
        }
        self.add_ration();
        // Doubled each round trip of the link, or each tenth of a second.
        let round_trip = (self.plan.delay[0] + self.plan.delay[1]).max(Duration::from_millis(100));
        self.ramp = (self.ramp * 2_f64.powf(POLL.as_secs_f64() / round_trip.as_secs_f64())).clamp(0.01, 1.0);
        for (from, rate) in [(PAYER, self.plan.rate[0]), (PROVIDER, self.plan.rate[1])] {
            let bytes = (rate as f64 * self.ramp) as u64 * POLL.as_millis() as u64 / 1000;
            for share in [bytes / 3, bytes - bytes / 3] {
                let counts = self.parties[from].counts;
                let share = if from == PROVIDER { self.pass(share) } else { share };
                if share == 0 {
                    continue;
                }
                self.parties[from].counts.sent = counts.sent.saturating_add(Bytes::new(share));
                if self.rng.f64() >= self.plan.packet_loss {
                    self.post(1 - from, Delivery::Packet(share));
                }
            }
        }
    }

    fn add_ration(&mut self) {
        let added = match self.of(PROVIDER).credit() {
            Credit::Open => return,
            Credit::Paced { left } => left.get() / 16,
            Credit::Exhausted { .. } => LIFELINE.get() * POLL.as_millis() as u64 / 1000,
        };
        self.ration = (self.ration + added).min((4 * added).max(4096));
    }

    /// How much of it the provider's datapath carries.
    fn pass(&mut self, bytes: u64) -> u64 {
        if self.of(PROVIDER).credit() == Credit::Open {
            return bytes;
        }
        let passes = self.ration.min(bytes);
        self.ration -= passes;
        self.refused += bytes - passes;
        passes
    }

    fn post(&mut self, to: usize, what: Delivery) {
        let [least, most] = self.plan.delay;
        let delay = least + (most - least).mul_f64(self.rng.f64());
        self.posted += 1;
        self.air.insert((self.now + delay, self.posted), (to, what));
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.air.first_entry() {
            if entry.key().0 > self.now {
                return;
            }
            let (to, what) = entry.remove();
            let now = self.now;
            if self.parties[to].exchange.is_none() {
                continue;
            }
            let what = match what {
                Delivery::Packet(bytes) if to == PROVIDER => Delivery::Packet(self.pass(bytes)),
                Delivery::Packet(_) | Delivery::Message(_) => what,
            };
            let party = &mut self.parties[to];
            let Some(exchange) = &mut party.exchange else { continue };
            match what {
                Delivery::Packet(bytes) => {
                    party.counts.received = party.counts.received.saturating_add(Bytes::new(bytes));
                    self.delivered[to] += bytes;
                }
                Delivery::Message(bytes) => {
                    if let Err(rejected) = exchange.handle_message(now, &bytes) {
                        party.rejected.push(rejected);
                    }
                    self.drain(to);
                }
            }
        }
    }

    fn finish_writes(&mut self) {
        for who in [PROVIDER, PAYER] {
            let party = &mut self.parties[who];
            let (done, rest) = std::mem::take(&mut party.writing).into_iter().partition(|(at, _)| *at <= self.now);
            party.writing = rest;
            let done: Vec<(Instant, Event)> = done;
            for (_, event) in done {
                write(&mut self.parties[who].journal, event);
                self.change(who, |exchange, now| match event {
                    Event::Reserve { channel, ceiling } => exchange.handle_reserved(now, channel, ceiling),
                    Event::Hold(receipt) => exchange.handle_held(now, receipt.channel(), receipt.amount()),
                    Event::NeedChannel { .. }
                    | Event::LookUpChannel(_)
                    | Event::CloseOffered(_)
                    | Event::TermsAgreed(_)
                    | Event::Alarm(_) => {
                        panic!("{event:?} is not a write")
                    }
                });
            }
        }
    }

    fn tell_news(&mut self) {
        let (due, later) = self.news.iter().partition(|(at, _)| *at <= self.now);
        self.news = later;
        let due: Vec<(Instant, usize)> = due;
        for (_, who) in due {
            if let Some(channel) = self.ledger {
                self.parties[who].journal.channel = Some(channel);
                self.change(who, |exchange, now| exchange.handle_channel(now, channel));
            }
        }
    }

    fn drain(&mut self, who: usize) {
        let now = self.now;
        let mut sent = Vec::new();
        let mut events = Vec::new();
        if let Some(exchange) = &mut self.parties[who].exchange {
            sent.extend(std::iter::from_fn(|| exchange.poll_transmit()));
            events.extend(std::iter::from_fn(|| exchange.poll_event()));
        }
        for message in sent {
            self.watch(who, &message);
            self.messages += 1;
            self.message_bytes += message.len() as u64;
            let agreed = !self.parties[PAYER].agreed.is_empty();
            let silent = who == PAYER && self.plan.payer_is_silent && agreed;
            if silent && self.of(PROVIDER).segment().is_some() || self.rng.f64() < self.plan.message_loss {
                continue;
            }
            if self.rng.f64() < self.plan.duplicates {
                self.post(1 - who, Delivery::Message(message.clone()));
            }
            self.post(1 - who, Delivery::Message(message));
        }
        for event in events {
            match event {
                Event::Reserve { .. } if self.plan.payer_signs_nothing => {}
                Event::Reserve { .. } | Event::Hold(_) => {
                    let delay = self.plan.journal.mul_f64(self.rng.f64());
                    self.parties[who].writing.push((now + delay, event));
                }
                Event::NeedChannel { .. } if self.parties[who].wallet_is_empty => {}
                Event::NeedChannel { .. } if now < self.parties[who].ledger_is_back_at => {
                    self.parties[who].asked_in_vain.push(now);
                    self.change(who, Exchange::handle_not_funded);
                }
                Event::NeedChannel { at_least, .. } => {
                    self.ledger = self.ledger.filter(|known| !known.closing);
                    let channel = self.ledger.get_or_insert(ChannelState {
                        nonce: self.next_nonce,
                        deposit: Tokens::ZERO,
                        redeemed: Tokens::ZERO,
                        closing: false,
                    });
                    channel.deposit = channel.deposit.max(at_least);
                    self.hear_of_it(who);
                }
                Event::LookUpChannel(_) => self.hear_of_it(who),
                Event::CloseOffered(close) => self.parties[who].offered.push(close.total()),
                Event::TermsAgreed(terms) => self.parties[who].agreed.push(terms),
                Event::Alarm(alarm) => self.parties[who].alarms.push(alarm),
            }
        }
    }

    fn hear_of_it(&mut self, who: usize) {
        let delay = Duration::from_millis(self.rng.u64(1..1000));
        self.news.push((self.now + delay, who));
    }

    /// The outside witness of every message: no receipt above the durable ceiling, none above the deposit.
    fn watch(&mut self, who: usize, message: &[u8]) {
        assert!(message.len() < 400, "{} bytes", message.len());
        let Ok(Message::Receipt(message)) = Message::decode(message) else { return };
        assert_eq!(who, PAYER);
        let receipt = message.receipt.verify(&DOMAIN).unwrap();
        let ceiling = self.parties[PAYER].journal.ceiling;
        assert!(ceiling.is_some_and(|(_, ceiling)| receipt.amount() <= ceiling));
        assert!(receipt.amount() <= self.ledger.unwrap().deposit);
        if receipt.channel().nonce > self.sent_nonce {
            // Amounts are those of a channel.
            self.sent_nonce = receipt.channel().nonce;
            (self.highest_sent, self.last_sent) = (Tokens::ZERO, Tokens::ZERO);
        }
        self.highest_sent = self.highest_sent.max(receipt.amount());
        assert!(receipt.amount() >= self.last_sent, "an amount went back");
        self.last_sent = receipt.amount();
    }

    /// What is true at every moment.
    fn check(&self) {
        let seed = self.plan.seed;
        if let (Some(terms), Some(_)) = (self.terms(), self.ledger) {
            let worth = self.worth_of_deliveries(&terms);
            assert!(self.highest_sent <= worth, "seed {seed}: signed above what was delivered");
        }
        for party in &self.parties {
            assert_eq!(party.rejected, [], "seed {seed}");
        }
    }

    /// Nobody lost more than the printed bound: what may be unpaid in all; in each life of the provider what may be
    /// unwritten, and a quarter of a window with what passes until it is seen that so much is unpaid; what payments work
    /// off; and what is given away each hour. Returns what was lost.
    fn check_loss(&self) -> u128 {
        let seed = self.plan.seed;
        let terms = self.parties[PROVIDER].exchange.as_ref().and_then(Exchange::terms).unwrap();
        let paid = self.of(PROVIDER).snapshot().signed;
        let lost = self.worth_of_deliveries(&terms).saturating_sub(paid).get();
        let lives = u128::from(self.crashes[PROVIDER] + 1);
        let hours = self.now.duration_since(self.began).as_secs_f64() / 3600.0;
        let given = terms.value_of(credit::given_each_day()).get() as f64 * hours / 24.0;
        // Before the first reading of the counters nothing is known of what passed.
        let unseen = STANDINGS_LOOK.as_secs() * (self.plan.rate[0] + self.plan.rate[1]);
        let unseen = terms.value_of(Bytes::new(unseen)).get();
        let window = terms.window_value().get();
        let in_each_life = unwritten_most(&terms).get() + window / 4 + unseen;
        let bound = window + in_each_life * lives + paid.get() / 8 + given as u128 + 1;
        assert!(lost <= bound, "seed {seed}: lost {lost}, at most {bound}");
        lost
    }

    fn worth_of_deliveries(&self, terms: &Terms) -> Tokens {
        let up = terms.price_up.of(Bytes::new(self.delivered[PROVIDER])).unwrap();
        let down = terms.price_down.of(Bytes::new(self.delivered[PAYER])).unwrap();
        up.checked_add(down).unwrap()
    }
}

fn write(journal: &mut Restored, event: Event) {
    match event {
        Event::Reserve { channel, ceiling } => {
            let known = journal.ceiling.filter(|(known, _)| *known == channel);
            let highest = known.map_or(ceiling, |(_, known)| known.max(ceiling));
            journal.ceiling = Some((channel, highest));
        }
        Event::Hold(receipt) => {
            if journal.held.is_none_or(|held| held.amount() <= receipt.amount()) {
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

/// `HONEST_SEEDS` says how many.
fn seeds() -> std::ops::Range<u64> {
    0..std::env::var("HONEST_SEEDS").map_or(500, |seeds| seeds.parse().unwrap())
}

#[test]
fn an_honest_pair_agrees_carries_and_is_paid_to_the_last_unit() {
    let mut world = World::new(Plan::quiet(1));
    world.traffic = false;
    world.run(1.0);
    world.traffic = true;
    world.run(60.0);
    world.traffic = false;
    world.run(12.0);
    let (provider, payer) = (world.of(PROVIDER).snapshot(), world.of(PAYER).snapshot());
    assert!(provider.agreed && payer.agreed);
    assert_eq!((provider.owed_to_us, payer.owed_by_us), (Tokens::ZERO, Tokens::ZERO));
    assert_eq!(provider.signed, payer.signed);
    assert_eq!(provider.ours.received, payer.ours.sent);
    let charge = charge(&provider.terms.unwrap(), provider.ours, payer.ours);
    assert_eq!(Some(payer.signed), charge);
    assert!(payer.signed > Tokens::ZERO);
    world.change(PROVIDER, Exchange::handle_flush);
    world.run(1.0);
    assert_eq!(world.of(PROVIDER).snapshot().held, payer.signed);
}

#[test]
fn honest_neighbours_over_bad_links_with_crashes_never_lose_throttle_or_overpay() {
    let mut crashes = 0;
    for seed in seeds() {
        let mut world = World::new(Plan::rough(seed));
        honest_life(&mut world);
        for party in &world.parties {
            assert_eq!(party.alarms, [], "seed {seed}: {:?}", world.plan);
        }
        let (provider, payer) = (world.of(PROVIDER).snapshot(), world.of(PAYER).snapshot());
        assert!(provider.agreed && payer.agreed, "seed {seed}");
        assert_eq!(payer.owed_by_us, Tokens::ZERO, "seed {seed}");
        assert_eq!(provider.signed, payer.signed, "seed {seed}");
        // Nothing is ever slowed while both live; around a crash, on the worst links, a hundredth at most.
        let carried = world.delivered[PROVIDER] + world.delivered[PAYER];
        let most = if world.crashes == [0, 0] { 0 } else { carried / 100 };
        assert!(world.refused <= most, "seed {seed}: {} of {carried} refused: {:?}", world.refused, world.plan);
        world.check_loss();
        crashes += world.crashes.iter().sum::<u64>();
    }
    assert!(crashes > 500, "only {crashes} crashes: the runs prove little");
}

/// One pair in a thousand: packets that were on their way when the provider asked last are signed for without being asked, that
/// receipt is lost, and what it is over the provider takes for lost and does not ask for.
#[test]
fn a_last_receipt_that_is_lost_comes_again_without_traffic() {
    let mut world = World::new(Plan::rough(956));
    honest_life(&mut world);
    let [provider, payer] = [PROVIDER, PAYER].map(|who| world.of(who).snapshot());
    assert_eq!(provider.signed, payer.signed);
}

/// Terms, a minute of traffic, and a quiet time in which nobody dies and, in the end, no message is lost.
fn honest_life(world: &mut World) {
    world.traffic = false;
    world.run(12.0);
    world.traffic = true;
    world.run(60.0);
    world.traffic = false;
    world.plan.crashes = 0.0;
    world.run(10.0);
    world.plan.message_loss = 0.0;
    world.run(25.0);
}

#[test]
fn a_link_that_stops_losing_makes_no_debt_of_what_it_lost() {
    let sides = paid(Offer { loss_allowance_ppm: Offer::DEFAULT_LOSS_ALLOWANCE_PPM, ..offer(1 << 20, 8) });
    let mut world = World::new(Plan { sides, packet_loss: 0.15, rate: [1 << 16, 1 << 20], ..Plan::quiet(31) });
    world.run(300.0);
    world.plan.packet_loss = 0.0;
    world.run(60.0);
    assert_eq!(world.parties[PROVIDER].alarms, []);
    assert_eq!(world.refused, 0);
}

/// Each payer ends its life every two seconds, and pays in between.
#[test]
fn a_payer_that_dies_every_two_seconds_is_neither_throttled_nor_a_loss_beyond_the_bound() {
    for seed in 0..5 {
        let mut world = World::new(Plan { rate: [1 << 18, 1_250_000], ..Plan::quiet(seed) });
        for _ in 0..300 {
            world.run(2.0);
            world.crash(PAYER);
            world.parties[PAYER].revives_at = world.now + Duration::from_millis(100);
        }
        assert_eq!(world.parties[PROVIDER].alarms, [], "seed {seed}");
        assert_eq!(world.refused, 0, "seed {seed}");
        world.check_loss();
    }
}

/// It signs nothing, and begins a new session whenever it likes: at best when the window is nearly full.
#[test]
fn a_payer_that_begins_anew_each_time_gains_one_window_in_all_and_a_little_each_hour() {
    let mut most = 0;
    for seed in 0..12 {
        let every = 0.5 + seed as f64 / 3.0;
        let mut world = World::new(Plan { payer_signs_nothing: true, rate: [1 << 18, 1 << 23], ..Plan::quiet(seed) });
        for _ in 0..600 {
            world.run(every);
            world.crash(PAYER);
            world.parties[PAYER].revives_at = world.now;
        }
        assert_eq!(world.highest_sent, Tokens::ZERO);
        let taken = world.check_loss();
        most = most.max(taken);
    }
    let window = offer(1 << 20, 64).window.get() >> 10;
    assert!(most > u128::from(window) / 2, "the cheat was not even tried: {most}");
}

/// All of its traffic falls between an agreement and the provider's first reading of its counters after it.
#[test]
fn a_payer_that_agrees_anew_after_each_reading_gains_one_window_in_all() {
    let mut forger = Forger { world: World::new(Plan::quiet(34)) };
    forger.world.run(0.1);
    forger.world.crash(PAYER);
    forger.world.parties[PAYER].revives_at += Duration::from_secs(1_000_000);
    let mut counts = forger.world.parties[PROVIDER].counts;
    let (mut taken, mut bursts) = (0, 0);
    for session in 10..10_000 {
        let echo = forger.world.of(PROVIDER).session;
        let resume = Resume { role: Role::Subscriber, session, echo, ask: false, channel: None, receipt: None };
        assert_eq!(forger.tell(PROVIDER, Message::Resume(resume)), Ok(()));
        let segment = forger.world.of(PROVIDER).terms().unwrap().segment(&DOMAIN, session);
        let report = MeterReport { segment, counts: Counts::ZERO };
        assert_eq!(forger.tell(PROVIDER, Message::MeterReport(report)), Ok(()));
        assert!(forger.world.of(PROVIDER).snapshot().agreed);
        if forger.world.of(PROVIDER).credit() == Credit::Open {
            taken += 100_000;
            bursts += 1;
            counts.received = counts.received.saturating_add(Bytes::new(100_000));
        }
        forger.world.now += POLL;
        forger.world.change(PROVIDER, |exchange, now| exchange.handle_counts(now, counts));
    }
    let window = offer(1 << 20, 64).window.get();
    assert!(taken > window / 2, "the cheat was not even tried: {taken}");
    // What each burst is worth is rounded down to a base unit, here of a KiB.
    assert!(taken <= window + 100_000 + bursts * 1024, "{taken}");
}

/// It signs nothing, and its provider loses power again and again.
#[test]
fn a_provider_that_is_restarted_remembers_who_has_not_paid() {
    for seed in 0..5 {
        let mut world = World::new(Plan { payer_signs_nothing: true, rate: [1 << 18, 1 << 22], ..Plan::quiet(seed) });
        for _ in 0..60 {
            world.run(10.0);
            world.crash(PROVIDER);
        }
        world.run(10.0);
        let snapshot = world.of(PROVIDER).snapshot();
        let window = snapshot.terms.unwrap().window_value();
        let carried = u128::from(world.delivered[PROVIDER] + world.delivered[PAYER]);
        let lifeline = u128::from((LIFELINE.get() + credit::FORGIVEN_EACH_HOUR.get() / 3600) * 700);
        // Sixty deaths: one window, and in each life that fills a part of it what is forgotten of the last two seconds.
        let most = 2 * u128::from(offer(1 << 20, 64).window.get()) + lifeline;
        assert!(carried <= most, "seed {seed}: {carried} carried, at most {most}");
        assert!(snapshot.arrears.get() > window.get() / 2, "seed {seed}: {:?}", snapshot.standing);
    }
}

/// A journal that lags behind by minutes accuses nobody: the receipts say what was paid.
#[test]
fn a_provider_that_is_restarted_holds_nothing_against_a_payer_that_paid() {
    for seed in 0..20 {
        let mut world = World::new(Plan::quiet(seed));
        world.run(31.0);
        let standing = world.of(PROVIDER).snapshot().standing;
        assert!(standing.unpaid > Tokens::ZERO && standing.paid_lately > Tokens::ZERO, "{standing:?}");
        world.parties[PROVIDER].journal.standing = standing;
        world.run(seed as f64);
        world.traffic = false;
        world.run(12.0);
        world.crash(PROVIDER);
        // Until the terms are agreed on anew.
        world.run(5.0);
        world.traffic = true;
        world.run(30.0);
        let snapshot = world.of(PROVIDER).snapshot();
        assert_eq!((snapshot.arrears, snapshot.written_off), (Tokens::ZERO, Tokens::ZERO), "seed {seed}");
        assert_eq!(world.refused, 0, "seed {seed}");
    }
}

#[test]
fn a_payer_who_stops_paying_gets_one_window() {
    let mut world = World::new(Plan { payer_is_silent: true, ..Plan::quiet(3) });
    world.run(300.0);
    let window = offer(1 << 20, 64).window.get() / 4;
    let lifeline = LIFELINE.get() * 300;
    let batch = (world.plan.rate[0] + world.plan.rate[1]) / 10;
    let carried = world.delivered[PROVIDER] + world.delivered[PAYER];
    // Beyond the window: the lifeline, what was carried while the terms were agreed on, and between two readings.
    assert!(carried >= window * 9 / 10 && carried <= window + lifeline + 3 * batch, "{carried}");
    let alarms = &world.parties[PROVIDER].alarms;
    assert!(matches!(alarms.as_slice(), [Alarm::Exhausted { .. }]), "{alarms:?}");
    world.plan.payer_is_silent = false;
    world.run(TICK.as_secs_f64());
    assert_eq!(world.of(PROVIDER).credit(), Credit::Open);
}

/// 2 Gb/s, counters read each 50 ms, a journal that takes up to 50 ms: the window never fills.
#[test]
fn a_fast_link_with_a_64_mebibyte_window_never_stalls() {
    let mut world = World::new(Plan { rate: [0, 250_000_000], journal: Duration::from_millis(50), ..Plan::quiet(4) });
    world.traffic = false;
    world.run(2.0);
    world.traffic = true;
    world.run(60.0);
    assert_eq!(world.parties[PROVIDER].alarms, []);
    assert!(world.delivered[PAYER] > 14_700_000_000);
    let ppm = world.message_bytes * 1_000_000 / world.delivered[PAYER];
    assert!(ppm < 50, "settlement took {ppm} ppm");
}

#[test]
fn traffic_that_flows_while_terms_are_agreed_on_leaves_no_gap_that_looks_unpaid() {
    let mut world =
        World::new(Plan { sides: paid(offer(1 << 20, 2048)), rate: [250_000_000, 250_000_000], ..Plan::quiet(18) });
    world.run(10.0);
    world.traffic = false;
    world.run(12.0);
    assert_eq!(world.of(PROVIDER).snapshot().owed_to_us, Tokens::ZERO);
    assert_eq!(world.parties[PROVIDER].alarms, []);
}

/// The budget of the design: under 0.1 % at 10 Mb/s.
#[test]
fn settlement_costs_little_on_a_slow_link() {
    let mut world = World::new(Plan { rate: [0, 1_250_000], ..Plan::quiet(5) });
    world.run(300.0);
    let ppm = world.message_bytes * 1_000_000 / world.delivered[PAYER];
    assert!(ppm < 1000, "{ppm} ppm in {} messages", world.messages);
}

#[test]
fn a_payer_that_forgot_everything_resumes_at_the_receipt_the_provider_holds() {
    let mut world = World::new(Plan::quiet(6));
    world.run(33.0);
    let before = world.of(PAYER).snapshot().signed;
    world.crash(PAYER);
    world.parties[PAYER].journal = Restored { channel: world.ledger, ..Restored::default() };
    world.parties[PAYER].session = 0;
    world.run(40.0);
    let alarms = &world.parties[PAYER].alarms;
    let [Alarm::ReceiptAboveCeiling { amount, ceiling: Tokens::ZERO }] = alarms.as_slice() else {
        panic!("{alarms:?}");
    };
    assert_eq!(*amount, before);
    assert!(world.of(PAYER).snapshot().signed > before);
    assert_eq!(world.of(PROVIDER).credit(), Credit::Open);
}

#[test]
fn a_payer_that_lost_count_of_its_sessions_goes_on_from_the_number_the_provider_knows() {
    let mut world = World::new(Plan::quiet(19));
    world.crash(PAYER);
    world.parties[PAYER].session = 10;
    world.run(5.0);
    world.crash(PAYER);
    world.parties[PAYER].session = 0;
    world.run(4.0);
    assert_eq!(world.of(PAYER).session, 12);
    assert!(world.of(PAYER).snapshot().agreed && world.of(PROVIDER).snapshot().agreed);
}

#[test]
fn a_late_resume_of_an_earlier_life_or_moment_changes_nothing() {
    let mut world = World::new(Plan::quiet(25));
    world.crash(PAYER);
    world.parties[PAYER].session = 10;
    world.run(5.0);
    let mut forger = Forger { world };
    let before = forger.world.of(PROVIDER).snapshot();
    for (session, echo) in [(10, 1), (11, 0)] {
        let late = Resume { role: Role::Subscriber, session, echo, ask: true, channel: None, receipt: None };
        assert_eq!(forger.tell(PROVIDER, Message::Resume(late)), Ok(()));
        assert_eq!(forger.world.of(PROVIDER).snapshot(), before);
        assert!(forger.world.of(PROVIDER).synced());
    }
}

#[test]
fn an_earlier_life_that_knew_us_does_not_vouch_for_the_present_one() {
    let mut forger = Forger { world: World::new(Plan::quiet(27)) };
    for (session, echo) in [(11, 0), (10, 1)] {
        let resume = Resume { role: Role::Subscriber, session, echo, ask: true, channel: None, receipt: None };
        assert_eq!(forger.tell(PROVIDER, Message::Resume(resume)), Ok(()));
        assert!(!forger.world.of(PROVIDER).synced());
    }
}

#[test]
fn the_provider_counts_from_the_first_reading_after_the_agreement() {
    let mut world = World::new(Plan::quiet(26));
    for _ in 0..20 {
        world.now += POLL;
        world.deliver();
    }
    assert!(world.of(PROVIDER).snapshot().agreed);
    for (reading, counted) in [(5, 0), (7, 2)] {
        let counts = Counts { sent: Bytes::new(reading), received: Bytes::new(reading) };
        world.change(PROVIDER, |exchange, now| exchange.handle_counts(now, counts));
        assert_eq!(world.of(PROVIDER).snapshot().ours.sent, Bytes::new(counted));
    }
}

#[test]
fn a_provider_restored_from_an_old_journal_gets_its_receipt_back() {
    let mut world = World::new(Plan::quiet(7));
    world.run(33.0);
    let before = world.of(PAYER).snapshot().signed;
    world.crash(PROVIDER);
    world.parties[PROVIDER].journal.held = None;
    world.traffic = false;
    world.run(10.0);
    let [provider, payer] = [PROVIDER, PAYER].map(|who| world.of(who).snapshot().signed);
    assert_eq!(provider, payer);
    assert!(provider >= before);
    assert_eq!(world.parties[PAYER].alarms, []);
}

#[test]
fn a_receipt_that_a_neighbour_had_kept_is_where_both_go_on_that_had_forgotten_it() {
    let mut world = World::new(Plan::quiet(7));
    world.run(33.0);
    let kept = *world.of(PROVIDER).best_receipt().unwrap();
    world.traffic = false;
    world.crash(PROVIDER);
    world.crash(PAYER);
    world.parties[PROVIDER].journal.held = None;
    world.run(10.0);
    assert_eq!(world.of(PROVIDER).best_receipt(), None);
    world.traffic = true;
    world.run(10.0);
    world.traffic = false;
    world.run(6.0);
    let forgotten = world.of(PROVIDER).snapshot().signed;
    assert!(Tokens::ZERO < forgotten && forgotten < kept.amount(), "{forgotten}");

    for _ in 0..2 {
        let restored = Restored { held: Some(kept), ..Restored::default() };
        world.change(PROVIDER, |provider, now| provider.handle_restored(now, restored));
    }
    assert_eq!(world.of(PROVIDER).best_receipt(), Some(&kept));
    world.traffic = true;
    world.run(20.0);
    world.traffic = false;
    world.run(10.0);
    let [provider, payer] = [PROVIDER, PAYER].map(|who| world.of(who).snapshot());
    assert_eq!(provider.signed, payer.signed);
    assert!(provider.signed > kept.amount());
    assert_eq!(provider.owed_to_us, Tokens::ZERO);
    assert!(matches!(provider.credit, Credit::Open));
}

#[test]
fn a_receipt_on_a_replaced_channel_alarms_nobody_though_the_ledger_is_out_of_reach() {
    let mut world = World::new(Plan::quiet(17));
    world.run(33.0);
    world.crash(PAYER);
    let (channel, ceiling) = world.parties[PAYER].journal.ceiling.unwrap();
    let next = ChannelId { nonce: 2, ..channel };
    world.parties[PAYER].journal = Restored { ceiling: Some((next, ceiling)), ..Restored::default() };
    world.ledger = None;
    world.traffic = false;
    world.run(10.0);
    assert!(world.of(PAYER).snapshot().agreed);
    assert_eq!(world.parties[PAYER].alarms, []);
}

#[test]
fn what_the_ledger_paid_out_is_the_base_when_both_forgot_their_receipts() {
    let mut world = World::new(Plan::quiet(14));
    world.run(33.0);
    let redeemed = world.of(PAYER).snapshot().signed;
    let channel = ChannelState { redeemed, ..world.ledger.unwrap() };
    world.ledger = Some(channel);
    for who in [PROVIDER, PAYER] {
        world.crash(who);
        world.parties[who].journal = Restored { channel: Some(channel), ..Restored::default() };
    }
    world.run(33.0);
    let provider = world.of(PROVIDER).snapshot();
    assert!(provider.signed.get() > redeemed.get() * 3 / 2);
    assert!(provider.owed_to_us < redeemed);
    assert_eq!(provider.credit, Credit::Open);
}

#[test]
fn a_channel_is_asked_for_opened_noticed_and_topped_up_before_it_is_empty() {
    let mut world =
        World::new(Plan { channel: false, sides: paid(offer(1 << 20, 2)), rate: [0, 1 << 18], ..Plan::quiet(8) });
    world.traffic = false;
    world.run(8.0);
    let first = world.ledger.unwrap().deposit;
    assert_eq!(world.of(PROVIDER).snapshot().deposit, first);
    world.traffic = true;
    world.run(120.0);
    assert!(world.ledger.unwrap().deposit > first);
    assert_eq!(world.parties[PROVIDER].alarms, []);
}

#[test]
fn another_price_is_another_segment_and_paid_on_top() {
    let mut world = World::new(Plan::quiet(9));
    world.run(30.0);
    let before = world.of(PAYER).snapshot().signed;
    let dearer = Side::Provider(offer(1 << 24, 64));
    world.change(PROVIDER, |exchange, now| exchange.handle_side(now, dearer));
    world.run(30.0);
    let after = world.of(PAYER).snapshot();
    assert_eq!(after.terms.unwrap().price_down, Price::new(1 << 24));
    assert!(after.signed.get() > 8 * before.get());
    let agreed = &world.parties[PROVIDER].agreed;
    assert_eq!(agreed.len(), 2);
    assert!(agreed[0].seq < agreed[1].seq);
}

#[test]
fn what_was_carried_before_another_price_is_paid_but_for_a_moment_s_worth() {
    let mut world = World::new(Plan::quiet(31));
    world.run(14.9);
    let owed = world.of(PROVIDER).snapshot().owed_to_us;
    world.change(PROVIDER, |exchange, now| exchange.handle_side(now, Side::Provider(offer((1 << 20) + 1, 64))));
    assert_eq!(world.of(PROVIDER).snapshot().terms.unwrap().price_down, Price::new(1 << 20), "it waits to be paid");
    world.run(1.5);
    let after = world.of(PROVIDER).snapshot();
    assert_eq!(after.terms.unwrap().price_down, Price::new((1 << 20) + 1));
    assert!(after.written_off.get() * 8 < owed.get(), "{} of {owed}", after.written_off);
}

#[test]
fn a_payer_that_signs_nothing_does_not_put_off_another_price() {
    let mut world = World::new(Plan { payer_signs_nothing: true, ..Plan::quiet(32) });
    world.run(14.9);
    world.change(PROVIDER, |exchange, now| exchange.handle_side(now, Side::Provider(offer(1 << 24, 64))));
    world.run(2.0);
    assert_eq!(world.of(PROVIDER).snapshot().terms.unwrap().price_down, Price::new(1 << 24));
}

#[test]
fn whoever_was_the_payer_before_takes_a_lower_nonce_of_the_other_direction_and_knows_its_own_again() {
    let mut world = World::new(Plan::quiet(33));
    world.ledger = Some(ChannelState { nonce: 7, ..world.ledger.unwrap() });
    world.news = vec![(world.now, PAYER), (world.now, PROVIDER)];
    world.run(20.0);
    let turned = [world.plan.sides[1], world.plan.sides[0]];
    let there_and_back = [turned, world.plan.sides];
    world.traffic = false;
    world.run(8.0);
    let (before, ceiling) =
        (world.highest_sent, world.of(PAYER).purse.ceiling_on(world.of(PAYER).channel_id().unwrap()));
    let first = ChannelState { nonce: 1, ..world.ledger.unwrap() };
    for (sides, channel) in there_and_back.into_iter().zip([first, world.ledger.unwrap()]) {
        let waits_until = world.now + Duration::from_secs(3);
        let held = world.parties[PROVIDER].journal.held.filter(|held| held.channel().nonce == channel.nonce);
        for who in [PROVIDER, PAYER] {
            world.change(who, |exchange, now| exchange.handle_side(now, sides[who]));
        }
        for _ in 0..200 {
            world.now += POLL;
            world.deliver();
            world.finish_writes();
            for who in [PROVIDER, PAYER] {
                world.change(who, |exchange, now| {
                    exchange.handle_timeout(now);
                    // Journal and ledger take their time: nothing is agreed on before they answer.
                    if exchange.side() == sides[who] && now < waits_until {
                        assert!(exchange.awaits_restored().is_some() && !exchange.snapshot().agreed);
                        assert_eq!(exchange.poll_transmit(), None, "it says nothing either");
                    }
                    if exchange.side() == sides[who] && exchange.channel.is_none() && now >= waits_until {
                        let held = held.filter(|_| who == PROVIDER);
                        exchange.handle_restored(now, Restored { channel: Some(channel), held, ..Restored::default() });
                    }
                });
            }
        }
        assert!([PROVIDER, PAYER].iter().all(|who| world.of(*who).snapshot().agreed));
        assert!([PROVIDER, PAYER].iter().all(|who| world.of(*who).channel.unwrap().nonce == channel.nonce));
    }
    let provider = world.of(PROVIDER).snapshot();
    assert_eq!((provider.signed, provider.held), (before, before), "what was held is known again");
    assert!(ceiling >= before);
    let of_roles = |why: &Rejected| matches!(why, Rejected::Incompatible(Incompatibility::Roles { .. }));
    for who in [PROVIDER, PAYER] {
        let rejected = std::mem::take(&mut world.parties[who].rejected);
        assert!(rejected.iter().all(of_roles), "{rejected:?}");
    }
    world.traffic = true;
    world.run(20.0);
    assert!(world.of(PROVIDER).snapshot().signed > before, "and business goes on");
}

#[test]
fn the_receipt_that_answers_a_flush_goes_to_the_journal_at_once() {
    let mut world = World::new(Plan::quiet(29));
    world.run(14.0);
    world.traffic = false;
    // What is on its way arrives; no report is due.
    world.run(0.5);
    let before = world.of(PROVIDER).snapshot();
    assert!(before.owed_to_us > Tokens::ZERO);
    world.change(PROVIDER, Exchange::handle_flush);
    world.run(1.0);
    let after = world.of(PROVIDER).snapshot();
    assert!(after.signed > before.signed);
    assert_eq!((after.owed_to_us, after.held), (Tokens::ZERO, after.signed));
}

#[test]
fn what_sums_compare_was_counted_at_about_the_same_time() {
    let mut world = World::new(Plan::quiet(30));
    for _ in 0..80 {
        world.run(0.25);
        let [provider, payer] = [PROVIDER, PAYER].map(|who| world.of(who).snapshot());
        let apart = |a: Bytes, b: Bytes| a.saturating_sub(b).max(b.saturating_sub(a)).get();
        let a_fifth_of_a_second = (world.plan.rate[0] + world.plan.rate[1]) / 5;
        for sums in [provider.sums, payer.sums] {
            assert!(apart(sums.ours.sent, sums.theirs.received) < a_fifth_of_a_second, "{sums:?}");
            assert!(apart(sums.ours.received, sums.theirs.sent) < a_fifth_of_a_second, "{sums:?}");
        }
    }
}

#[test]
fn sums_go_on_over_segments_and_are_what_was_signed() {
    let mut world = World::new(Plan::quiet(28));
    world.run(30.0);
    world.change(PROVIDER, |exchange, now| exchange.handle_side(now, Side::Provider(offer(1 << 22, 64))));
    world.run(30.0);
    world.traffic = false;
    world.run(12.0);
    let [provider, payer] = [PROVIDER, PAYER].map(|who| world.of(who).snapshot());
    assert_eq!((provider.sums.segments, payer.sums.segments), (2, 2));
    assert_eq!((provider.sums.earned, payer.sums.spent), (provider.signed, payer.signed));
    // The payer's segments begin a little earlier.
    let (sent, received) = (provider.sums.ours.sent, payer.sums.ours.received);
    assert!(sent <= received && received.saturating_sub(sent) < Bytes::new(200_000), "{sent}, {received}");
    assert!(provider.sums.ours.sent > provider.ours.sent && provider.sums.theirs.sent > provider.theirs.sent);
}

#[test]
fn the_next_channel_starts_at_zero_and_the_last_receipt_of_the_old_one_is_kept() {
    let mut world = World::new(Plan::quiet(10));
    world.run(33.0);
    let old = world.of(PAYER).snapshot().signed;
    let next = ChannelState { nonce: 2, ..world.ledger.unwrap() };
    world.ledger = Some(next);
    world.news = vec![(world.now, PAYER), (world.now, PROVIDER)];
    world.run(1.0);
    assert_eq!(world.parties[PROVIDER].journal.held.unwrap().amount(), old);
    world.parties[PROVIDER].journal.held = None;
    (world.highest_sent, world.last_sent) = (Tokens::ZERO, Tokens::ZERO);
    world.run(20.0);
    let payer = world.of(PAYER).snapshot();
    assert_eq!(payer.channel.unwrap().nonce, 2);
    assert!(payer.signed > Tokens::ZERO && payer.signed < old);
    assert_eq!(world.of(PROVIDER).credit(), Credit::Open);
}

/// A journal may finish its writes in another order than it was given them.
#[test]
fn a_write_for_somebody_else_or_the_other_direction_changes_nothing() {
    let mut world = World::new(Plan::quiet(7));
    world.run(12.0);
    let channel = world.of(PAYER).channel_id().unwrap();
    let others = ChannelId { payee: NodeId([7; 20]), nonce: 99, ..channel };
    let back = ChannelId { payer: channel.payee, payee: channel.payer, nonce: 99 };
    for wrong in [others, back] {
        world.change(PAYER, |payer, now| payer.handle_reserved(now, wrong, Tokens::MAX));
        world.change(PROVIDER, |provider, now| provider.handle_held(now, wrong, Tokens::MAX));
    }
    world.run(20.0);
    world.traffic = false;
    world.run(10.0);
    let [provider, payer] = [PROVIDER, PAYER].map(|who| world.of(who).snapshot());
    assert_eq!((provider.signed, provider.owed_to_us), (payer.signed, Tokens::ZERO));
    assert!(provider.held > Tokens::ZERO || provider.signed > Tokens::ZERO);
}

#[test]
fn what_the_ledger_has_paid_or_closed_is_not_for_others_to_keep() {
    let mut world = World::new(Plan::quiet(7));
    world.run(33.0);
    world.traffic = false;
    world.run(10.0);
    let best = *world.of(PROVIDER).best_receipt().unwrap();
    assert_eq!(world.of(PROVIDER).unredeemed(), Some(&best));
    let channel = world.of(PROVIDER).channel.unwrap();
    let less = ChannelState { redeemed: Tokens::new(1).unwrap(), ..channel };
    world.change(PROVIDER, |provider, now| provider.handle_channel(now, less));
    assert_eq!(world.of(PROVIDER).unredeemed(), Some(&best));
    let all = ChannelState { redeemed: best.amount(), ..channel };
    world.change(PROVIDER, |provider, now| provider.handle_channel(now, all));
    assert_eq!(world.of(PROVIDER).unredeemed(), None);
    // A start after the ledger has closed the channel, with the receipt still on disk.
    let held = Restored { held: Some(best), ..Restored::default() };
    let party = world.parties[PROVIDER].exchange.as_mut().unwrap();
    party.channel = None;
    party.handle_restored(world.now, held);
    assert_eq!((party.best_receipt(), party.unredeemed()), (Some(&best), None));
}

/// Each new channel is a row of the journal and a commit.
#[test]
fn a_payer_that_opens_channel_after_channel_is_followed_seldom() {
    let mut world = World::new(Plan::quiet(7));
    world.run(3.0);
    let (payer, payee) = (identity(PAYER).node_id(), identity(PROVIDER).node_id());
    let began = world.now;
    let mut asked = 0;
    world.change(PROVIDER, |provider, _| while provider.poll_event().is_some() {});
    for nonce in 2..602 {
        let exchange = world.parties[PROVIDER].exchange.as_mut().unwrap();
        exchange.request_look_up(began + Duration::from_secs(nonce), ChannelId { payer, payee, nonce });
        asked += std::iter::from_fn(|| exchange.poll_event()).count();
    }
    assert_eq!(asked, 8 + 10);
}

#[test]
fn a_late_write_of_a_replaced_channel_takes_nothing_from_the_new_one() {
    let mut world = World::new(Plan::quiet(32));
    world.run(33.0);
    let old = world.of(PAYER).channel_id().unwrap();
    world.ledger = Some(ChannelState { nonce: 2, ..world.ledger.unwrap() });
    world.news = vec![(world.now, PAYER), (world.now, PROVIDER)];
    world.run(1.0);
    (world.highest_sent, world.last_sent) = (Tokens::ZERO, Tokens::ZERO);
    world.change(PROVIDER, Exchange::handle_flush);
    world.run(10.0);
    let [held, signed] = [world.of(PROVIDER).snapshot().held, world.of(PAYER).snapshot().signed];
    assert!(held > Tokens::ZERO && signed > Tokens::ZERO);
    let much = Tokens::new(1 << 40).unwrap();
    world.change(PAYER, |payer, now| payer.handle_reserved(now, old, much));
    world.change(PROVIDER, |provider, now| provider.handle_held(now, old, much));
    assert_eq!(world.of(PROVIDER).snapshot().held, held);
    world.run(10.0);
    assert!(world.of(PAYER).snapshot().signed.get() > signed.get() * 3 / 2);
}

#[test]
fn a_deposit_bounds_what_is_signed_though_more_is_written_and_owed() {
    let mut world = World::new(Plan::quiet(33));
    let small = Tokens::new(10_000).unwrap();
    world.ledger = world.ledger.map(|channel| ChannelState { deposit: small, ..channel });
    let (payer, payee) = (identity(PAYER).node_id(), identity(PROVIDER).node_id());
    for party in &mut world.parties {
        party.journal.channel = world.ledger;
        party.journal.ceiling = Some((ChannelId { payer, payee, nonce: 1 }, Tokens::MAX));
    }
    for who in [PROVIDER, PAYER] {
        world.crash(who);
    }
    world.parties[PAYER].wallet_is_empty = true;
    world.run(60.0);
    let payer = world.of(PAYER).snapshot();
    assert!(payer.owed_by_us > Tokens::ZERO);
    assert_eq!((payer.signed, world.highest_sent), (small, small));
}

#[test]
fn a_ledger_that_could_not_be_asked_is_asked_soon_again() {
    let mut world = World::new(Plan { channel: false, ..Plan::quiet(41) });
    world.parties[PAYER].ledger_is_back_at = world.began + Duration::from_secs(20);
    world.run(21.0);
    let asked = &world.parties[PAYER].asked_in_vain;
    let waits: Vec<f64> = asked.windows(2).map(|two| (two[1] - two[0]).as_secs_f64()).collect();
    assert_eq!(waits, [0.5, 1.0, 2.0, 4.0, 5.0, 5.0], "and ever later, until it is as if nothing had failed");
    world.run(10.0);
    assert_eq!(world.ledger.map(|channel| channel.nonce), Some(1));
    assert!(world.of(PROVIDER).snapshot().signed > Tokens::ZERO);
    // What fails later is asked for at once again, too.
    world.parties[PAYER].asked_in_vain.clear();
    world.parties[PAYER].ledger_is_back_at = world.now + Duration::from_secs(600);
    world.run(600.0);
    let asked = &world.parties[PAYER].asked_in_vain;
    assert!(asked.len() > 3 && asked[1] - asked[0] < Duration::from_secs(2), "{}", asked.len());
}

#[test]
fn peers_and_free_providers_count_and_owe_nothing() {
    let free = offer(0, 1);
    for sides in [[Side::Peer; 2], paid(free)] {
        let mut world = World::new(Plan { sides, channel: false, ..Plan::quiet(11) });
        world.run(60.0);
        for who in [PROVIDER, PAYER] {
            let snapshot = world.of(who).snapshot();
            assert!(snapshot.agreed && snapshot.credit == Credit::Open);
            assert_eq!((snapshot.owed_by_us, snapshot.owed_to_us), (Tokens::ZERO, Tokens::ZERO));
            assert!(snapshot.theirs.total() > Bytes::from_mebibytes(40));
        }
        assert_eq!(world.ledger, None);
    }
}

#[test]
fn a_channel_ends_by_agreement_with_what_is_signed_and_the_next_one_waits_for_something_to_be_owed() {
    let mut world = World::new(Plan { message_loss: 0.3, ..Plan::quiet(34) });
    world.run(20.0);
    world.traffic = false;
    world.run(20.0);
    let signed = world.of(PAYER).snapshot().signed;
    assert!(signed > Tokens::ZERO && world.of(PAYER).snapshot().owed_by_us == Tokens::ZERO);
    world.change(PAYER, |exchange, _| assert!(exchange.handle_close()));
    world.run(30.0);
    let offered = std::mem::take(&mut world.parties[PROVIDER].offered);
    assert!(!offered.is_empty() && offered.len() <= 6, "again each tick: {offered:?}");
    assert!(offered.iter().all(|total| *total == signed));
    // The ledger has closed it.
    (world.ledger, world.next_nonce) = (None, 2);
    for who in [PROVIDER, PAYER] {
        world.parties[who].journal = Restored::default();
        world.change(who, |exchange, now| exchange.handle_channel_closed(now, 1));
    }
    world.highest_sent = Tokens::ZERO;
    world.last_sent = Tokens::ZERO;
    world.run(30.0);
    assert_eq!(world.ledger, None, "nothing is locked before something is owed");
    assert!([PROVIDER, PAYER].iter().all(|who| world.of(*who).snapshot().agreed));
    world.traffic = true;
    world.run(20.0);
    assert!(world.ledger.is_some() && world.of(PROVIDER).snapshot().signed > Tokens::ZERO);
}

/// The ledger takes its time, and the payer goes on as if nothing were: what it signs on top is worth nothing.
#[test]
fn nothing_is_carried_for_receipts_beyond_an_offer_to_close() {
    let mut world = World::new(Plan::quiet(36));
    world.run(20.0);
    let id = world.of(PAYER).channel_id().unwrap();
    let total = world.of(PROVIDER).till.best_on(id);
    let close = Close::sign(identity(PAYER).account(), &DOMAIN, id, total);
    let offer = Message::Close(close.into_unverified()).encode();
    world.change(PROVIDER, |exchange, now| assert_eq!(exchange.handle_message(now, &offer), Ok(())));
    assert!(matches!(world.of(PROVIDER).credit(), Credit::Exhausted { .. }));
    let carried = world.delivered;
    world.run(60.0);
    assert_eq!(world.parties[PROVIDER].offered, [total]);
    assert_eq!(world.of(PROVIDER).till.best_on(id), total, "no receipt beyond it");
    let more = world.delivered[PAYER] - carried[PAYER];
    // What was on its way, and the lifeline.
    let on_its_way = (world.plan.rate[0] + world.plan.rate[1]) / 10;
    assert!(more < LIFELINE.get() * 65 + on_its_way, "{more} bytes for nothing");
    // The ledger refused: business goes on.
    world.change(PROVIDER, |exchange, _| exchange.handle_close_failed());
    world.run(30.0);
    assert!(world.of(PROVIDER).till.best_on(id) > total);
    assert_eq!(world.of(PROVIDER).credit(), Credit::Open);
}

#[test]
fn a_channel_that_closes_by_notice_is_followed_by_another_when_something_is_owed() {
    let mut world = World::new(Plan::quiet(37));
    world.run(20.0);
    world.traffic = false;
    world.run(10.0);
    world.change(PAYER, |exchange, _| assert!(exchange.handle_close()));
    let closing = ChannelState { closing: true, ..world.ledger.unwrap() };
    for who in [PROVIDER, PAYER] {
        world.change(who, |exchange, now| exchange.handle_channel(now, closing));
    }
    (world.ledger, world.next_nonce) = (Some(closing), 2);
    (world.highest_sent, world.last_sent) = (Tokens::ZERO, Tokens::ZERO);
    world.run(20.0);
    assert_eq!(world.ledger, Some(closing), "nothing is owed");
    world.traffic = true;
    world.run(60.0);
    assert_eq!(world.of(PROVIDER).channel.map(|channel| channel.nonce), Some(2));
    assert!(world.of(PROVIDER).snapshot().signed > Tokens::ZERO);
}

/// It asks its journal for what it may sign, and its payee for what it has signed.
#[test]
fn a_payer_that_was_restarted_offers_to_close_when_it_knows_again_what_it_signed() {
    let mut world = World::new(Plan::quiet(40));
    world.run(20.0);
    world.traffic = false;
    world.run(10.0);
    let signed = world.of(PROVIDER).snapshot().signed;
    assert!(signed > Tokens::ZERO);
    world.crash(PAYER);
    world.parties[PAYER].revives_at = world.now;
    world.revive_the_dead();
    world.change(PAYER, |exchange, _| assert!(exchange.handle_close()));
    world.run(20.0);
    assert_eq!(world.parties[PROVIDER].offered, [signed]);
}

/// It was a peer when the provider's first Resume came, of which a peer takes no receipt; and the second one is lost.
#[test]
fn a_payer_that_was_restarted_agrees_on_nothing_before_it_knows_again_what_it_signed() {
    let mut world = World::new(Plan::quiet(46));
    world.run(20.0);
    world.traffic = false;
    world.run(10.0);
    let (now, channel) = (world.now, world.ledger);
    let signed = world.of(PROVIDER).snapshot().signed;
    assert!(signed > Tokens::ZERO);
    let setup = Setup {
        account: identity(PAYER).account().clone(),
        peer: identity(PROVIDER).node_id(),
        domain: DOMAIN,
        side: Side::Peer,
        session: 9,
        counts: Counts::ZERO,
        restored: Restored::default(),
    };
    let mut payer = Exchange::new(setup, now);
    let provider = world.parties[PROVIDER].exchange.as_mut().expect("alive");
    let misfit = payer.handle_message(now, &provider.resume().encode());
    assert!(matches!(misfit, Err(Rejected::Incompatible(Incompatibility::Roles { .. }))), "{misfit:?}");
    payer.handle_side(now, world.plan.sides[PAYER]);
    payer.handle_restored(now, Restored { channel, ..Restored::default() });
    let mut resumes_lost = 0;
    for round in 0..8_u32 {
        let at = now + RETRY * round;
        for exchange in [&mut payer, &mut *provider] {
            exchange.handle_timeout(at);
        }
        while let Some(message) = payer.poll_transmit() {
            provider.handle_message(at, &message).expect("an honest message");
        }
        while let Some(message) = provider.poll_transmit() {
            if matches!(Message::decode(&message), Ok(Message::Resume(_))) && round < 4 {
                resumes_lost += 1;
            } else {
                payer.handle_message(at, &message).expect("an honest message");
            }
            assert!(
                !payer.snapshot().agreed || payer.snapshot().signed == signed,
                "it would sign for less than is held"
            );
        }
    }
    assert!(payer.snapshot().agreed && resumes_lost > 1, "{resumes_lost} lost");
}

/// The payer has opened another channel before either has heard that the ledger closed the first.
#[test]
fn a_channel_that_follows_one_that_was_to_be_closed_is_paid_on_and_can_be_closed() {
    let mut world = World::new(Plan::quiet(41));
    world.run(20.0);
    for nonce in [2, 3] {
        world.traffic = false;
        world.run(10.0);
        let signed = world.of(PROVIDER).snapshot().signed;
        assert!(signed > Tokens::ZERO, "nothing was signed on channel {}", nonce - 1);
        world.change(PAYER, |exchange, _| assert!(exchange.handle_close()));
        world.run(5.0);
        assert_eq!(world.parties[PROVIDER].offered.pop(), Some(signed));
        world.ledger = Some(ChannelState { nonce, ..world.ledger.unwrap() });
        for who in [PAYER, PROVIDER] {
            world.hear_of_it(who);
        }
        world.run(5.0);
        for who in [PAYER, PROVIDER] {
            world.change(who, |exchange, now| exchange.handle_channel_closed(now, nonce - 1));
        }
        world.traffic = true;
        world.run(20.0);
    }
    assert!(world.of(PROVIDER).snapshot().signed > Tokens::ZERO);
}

#[test]
fn an_offer_to_close_that_is_too_low_forged_or_of_the_wrong_side_is_refused_by_name() {
    let mut world = World::new(Plan::quiet(35));
    world.run(20.0);
    let id = world.of(PAYER).channel_id().unwrap();
    let held = world.of(PROVIDER).till.best_on(id);
    let offer = |who: usize, id: ChannelId, total: Tokens| {
        let close = Close::sign(identity(who).account(), &DOMAIN, id, total);
        Message::Close(close.into_unverified()).encode()
    };
    let now = world.now;
    let mut refused = |to: usize, message: &[u8]| {
        world.parties[to].exchange.as_mut().expect("alive").handle_message(now, message).unwrap_err()
    };
    let low = held.checked_sub(Tokens::new(1).unwrap()).unwrap();
    assert_eq!(refused(PROVIDER, &offer(PAYER, id, low)), Misbehaviour::CloseTooLow { total: low, held }.into());
    assert!(matches!(
        refused(PROVIDER, &offer(PAYER, id, Tokens::MAX)),
        Rejected::Misbehaved(Misbehaviour::AboveDeposit { .. })
    ));
    let turned = ChannelId { payer: id.payee, payee: id.payer, ..id };
    assert_eq!(refused(PROVIDER, &offer(PROVIDER, turned, held)), Misbehaviour::OtherChannel.into());
    assert_eq!(refused(PAYER, &offer(PAYER, id, held)), Misbehaviour::WrongRole(Role::Subscriber).into());
    let mut forged = offer(PAYER, id, held);
    let place = forged.len() - 40;
    forged[place] ^= 1;
    assert!(matches!(refused(PROVIDER, &forged), Rejected::Misbehaved(Misbehaviour::ForgedClose(_))));
    world.change(PROVIDER, |exchange, _| assert!(exchange.poll_event().is_none()));
}

#[test]
fn a_closing_channel_is_not_carried_for() {
    let mut world = World::new(Plan::quiet(12));
    world.run(10.0);
    let closing = ChannelState { closing: true, ..world.ledger.unwrap() };
    world.change(PROVIDER, |exchange, now| exchange.handle_channel(now, closing));
    assert!(matches!(world.of(PROVIDER).credit(), Credit::Exhausted { .. }));
    let alarms = &world.parties[PROVIDER].alarms;
    assert_eq!(alarms[0], Alarm::ChannelClosing { nonce: 1 });
}

#[test]
fn the_worst_case_can_be_said_in_a_sentence() {
    let mut world = World::new(Plan::quiet(13));
    world.run(10.0);
    assert_eq!(
        world.of(PROVIDER).snapshot().worst_case(6, "WAY"),
        "with this neighbour you can lose at most 0.065537 WAY carried on trust (0.065537 at once), 0.327685 of receipts \
         not yet written if the power fails, and 0.240664 a day after that"
    );
    assert_eq!(
        world.of(PAYER).snapshot().worst_case(6, "WAY"),
        "with this neighbour you can lose nothing you have carried or paid for"
    );
}

#[test]
fn receipts_the_journal_has_not_written_extend_no_credit() {
    let mut world = World::new(Plan::quiet(15));
    world.run(1.0);
    world.plan.journal = Duration::from_secs(1_000_000);
    world.run(600.0);
    let snapshot = world.of(PROVIDER).snapshot();
    assert!(snapshot.signed > snapshot.held);
    assert!(matches!(snapshot.credit, Credit::Exhausted { .. }));
    // One window on trust, and five of receipts that are not written.
    let windows = 6 * offer(1 << 20, 64).window.get();
    let lifeline = LIFELINE.get() * 600;
    let batch = (world.plan.rate[0] + world.plan.rate[1]) / 10;
    let carried = world.delivered[PROVIDER] + world.delivered[PAYER];
    assert!(carried <= windows + lifeline + 3 * batch, "{carried}");
}

#[test]
fn roles_can_change_sides() {
    let mut world = World::new(Plan::quiet(16));
    world.run(33.0);
    let old = world.of(PROVIDER).snapshot().signed;
    let sides = [world.plan.sides[1], world.plan.sides[0]];
    for who in [PROVIDER, PAYER] {
        world.change(who, |exchange, now| exchange.handle_side(now, sides[who]));
    }
    world.traffic = false;
    world.ledger = None;
    for _ in 0..100 {
        world.now += POLL;
        world.deliver();
        world.finish_writes();
        for who in [PROVIDER, PAYER] {
            world.change(who, |exchange, now| {
                exchange.handle_timeout(now);
                if exchange.side() == sides[who] {
                    exchange.handle_restored(now, Restored::default());
                }
            });
        }
    }
    let held = world.parties[PROVIDER].journal.held.unwrap().amount();
    assert!(held >= old && held == world.highest_sent, "{held} of {}, {old} before", world.highest_sent);
    let [former, payee] = [PROVIDER, PAYER].map(|who| world.of(who).snapshot());
    assert!(former.agreed && payee.agreed);
    assert_eq!((former.role, payee.role), (Role::Subscriber, Role::Provider));
    assert_eq!((former.channel, payee.channel), (None, None));
}

#[test]
fn what_comes_late_after_a_change_of_roles_is_nobody_s_fault() {
    let mut world = World::new(Plan::quiet(38));
    world.run(20.0);
    let id = world.of(PAYER).channel_id().unwrap();
    let close = Close::sign(identity(PAYER).account(), &DOMAIN, id, world.highest_sent);
    let segment = world.of(PAYER).segment().unwrap();
    let terms = TermsMessage { payer_session: world.of(PAYER).session, terms: segment.terms.into_unverified() };
    let Some(Message::Receipt(receipt)) = world.of(PAYER).counts_message() else { panic!("nothing was signed") };
    let late = [
        (PROVIDER, Message::Receipt(receipt.clone())),
        (PROVIDER, Message::Close(close.into_unverified())),
        (PAYER, Message::Terms(terms.clone())),
    ];
    world.traffic = false;
    let sides = [world.plan.sides[1], world.plan.sides[0]];
    for who in [PROVIDER, PAYER] {
        world.change(who, |exchange, now| exchange.handle_side(now, sides[who]));
    }
    for _ in 0..100 {
        world.now += POLL;
        world.deliver();
        for who in [PROVIDER, PAYER] {
            world.change(who, |exchange, now| {
                exchange.handle_timeout(now);
                if exchange.side() == sides[who] {
                    exchange.handle_restored(now, Restored::default());
                }
            });
        }
    }
    let now = world.now;
    let session = world.of(PAYER).session;
    let running = world.of(PROVIDER).segment().unwrap().id;
    let mut tell = |who: usize, message: &Message| {
        world.parties[who].exchange.as_mut().expect("alive").handle_message(now, &message.encode())
    };
    for (who, message) in late {
        assert_eq!(tell(who, &message), Ok(()), "{message:?}");
    }
    // Made for what runs at present, it is no accident.
    let present = Message::Receipt(ReceiptMessage { segment: running, ..receipt });
    assert_eq!(tell(PROVIDER, &present), Err(Misbehaviour::WrongRole(Role::Subscriber).into()));
    let present = Message::Terms(TermsMessage { payer_session: session, ..terms });
    assert_eq!(tell(PAYER, &present), Err(Misbehaviour::WrongRole(Role::Provider).into()));
}

/// It was asked about another role, so that its shell brings later what matters in this one.
#[test]
fn whoever_waits_to_be_told_what_is_known_says_nothing_and_learns_how_its_payer_stands() {
    let mut world = World::new(Plan::quiet(42));
    world.run(20.0);
    let now = world.now;
    let resume = world.of(PAYER).resume().encode();
    let receipt = world.of(PROVIDER).till.best().copied();
    let standing = Standing { arrears: Tokens::new(7000).unwrap(), nonce: 1, ..Standing::default() };
    let restored = Restored { channel: world.ledger, held: receipt, standing, ..Restored::default() };
    let setup = Setup {
        account: identity(PROVIDER).account().clone(),
        peer: identity(PAYER).node_id(),
        domain: DOMAIN,
        side: world.plan.sides[PROVIDER],
        session: 9,
        counts: Counts::ZERO,
        restored: Restored::default(),
    };
    let mut exchange = Exchange::new(setup, now);
    exchange.await_restored();
    assert_eq!(exchange.awaits_restored(), Some(9));
    assert_eq!(exchange.handle_message(now, &resume), Ok(()));
    exchange.handle_timeout(now + RETRY);
    assert_eq!(exchange.poll_transmit(), None);
    assert_eq!(exchange.their_role(), Some(Role::Subscriber), "that much it hears");
    exchange.handle_restored(now, restored);
    assert_eq!(exchange.awaits_restored(), None);
    assert!(exchange.poll_transmit().is_some());
    let snapshot = exchange.snapshot();
    assert_eq!((snapshot.arrears, snapshot.written_off), (standing.arrears, Tokens::ZERO));
    assert_eq!(snapshot.signed, receipt.unwrap().amount());
    // Later its own memory is newer than the journal's.
    exchange.handle_restored(now, Restored { standing: Standing::default(), ..restored });
    assert_eq!(exchange.snapshot().arrears, standing.arrears);
}

#[test]
fn a_neighbour_that_began_anew_as_something_that_does_not_fit_is_told_so_once() {
    let mut world = World::new(Plan::quiet(43));
    world.run(14.0);
    let unpaid = world.of(PROVIDER).snapshot().owed_to_us;
    let now = world.now;
    let session = world.of(PAYER).session;
    let resume = |session, ask| Resume { role: Role::Peer, session, echo: 0, ask, channel: None, receipt: None };
    let provider = world.parties[PROVIDER].exchange.as_mut().expect("alive");
    let mut tell = |resume: Resume| {
        let told = provider.handle_message(now, &Message::Resume(resume).encode());
        assert!(matches!(told, Err(Rejected::Incompatible(Incompatibility::Roles { .. }))), "{told:?}");
        let said = std::iter::from_fn(|| provider.poll_transmit()).count();
        (said, provider.snapshot().agreed)
    };
    assert_eq!(tell(resume(session - 1, false)), (0, true), "late, and it does not ask");
    assert_eq!(tell(resume(session - 1, true)), (1, true), "it has lost count of its sessions");
    assert_eq!(tell(resume(session + 1, true)), (1, false), "what ran with it is over");
    assert_eq!(tell(resume(session + 1, true)), (0, false), "or the two would never be silent");
    assert_eq!(provider.their_role(), Some(Role::Peer));
    assert!(unpaid > Tokens::ZERO && provider.snapshot().written_off >= unpaid);
}

#[test]
fn another_role_ends_the_wish_to_close_and_what_was_asked() {
    let mut world = World::new(Plan::quiet(44));
    world.run(14.0);
    let (channel, payer) = (world.ledger, world.plan.sides[PAYER]);
    let exchange = world.parties[PAYER].exchange.as_mut().expect("alive");
    assert!(exchange.handle_close() && exchange.asked() == Some(Price::new(1 << 20)));
    exchange.handle_side(world.now, Side::Peer);
    assert_eq!((exchange.asked(), exchange.snapshot().channel), (None, None));
    exchange.handle_side(world.now, payer);
    exchange.handle_restored(world.now, Restored { channel, ..Restored::default() });
    exchange.handle_timeout(world.now + TICK);
    let said: Vec<Vec<u8>> = std::iter::from_fn(|| exchange.poll_transmit()).collect();
    let offers = said.iter().filter(|bytes| matches!(Message::decode(bytes), Ok(Message::Close(_)))).count();
    assert_eq!((said.is_empty(), offers), (false, 0));
}

/// The ledger takes its time, and the payer shows what it signed meanwhile.
#[test]
fn a_receipt_beyond_a_taken_offer_is_not_taken_from_a_resume_either() {
    let mut world = World::new(Plan::quiet(45));
    world.run(20.0);
    let id = world.of(PAYER).channel_id().unwrap();
    let total = world.of(PROVIDER).till.best_on(id);
    let close = Close::sign(identity(PAYER).account(), &DOMAIN, id, total);
    let offer = Message::Close(close.into_unverified()).encode();
    let now = world.now;
    let more =
        Receipt::sign(identity(PAYER).account(), &DOMAIN, id, total.saturating_add(Tokens::new(9).unwrap()), [7; 32]);
    let Message::Resume(resume) = world.of(PAYER).resume() else { panic!("something else") };
    let resume = Resume { receipt: Some(more.into_unverified()), ..resume };
    let resume = Message::Resume(resume).encode();
    let exchange = world.parties[PROVIDER].exchange.as_mut().expect("alive");
    assert_eq!(exchange.handle_message(now, &offer), Ok(()));
    assert_eq!(exchange.handle_message(now, &resume), Ok(()));
    assert_eq!(exchange.till.best_on(id), total);
    exchange.handle_close_failed();
    assert_eq!(exchange.handle_message(now, &resume), Ok(()));
    assert_eq!(exchange.till.best_on(id), more.amount(), "the ledger refused, and it counts");
}

/// Whoever could choose the moment at which its provider becomes something else would have all of its traffic there.
#[test]
fn what_passes_between_a_reading_and_a_change_of_role_or_price_is_added_to_the_arrears() {
    for next in [Side::Peer, Side::Provider(offer(1 << 10, 64))] {
        let mut world = World::new(Plan::quiet(39));
        world.run(14.9);
        let at = world.now + LEAVE_WITHIN;
        world.change(PROVIDER, |exchange, now| {
            exchange.handle_side(now, next);
            exchange.handle_timeout(at);
            assert_eq!(exchange.side(), next);
        });
        let written_off = world.of(PROVIDER).snapshot().written_off;
        let mut counts = world.parties[PROVIDER].counts;
        for (mebibytes, base_units) in [(3, 3 << 10), (5, 3 << 10)] {
            counts.sent = counts.sent.saturating_add(Bytes::from_mebibytes(mebibytes));
            world.change(PROVIDER, |exchange, _| exchange.handle_counts(at, counts));
            let more = world.of(PROVIDER).snapshot().written_off.saturating_sub(written_off);
            assert_eq!(more.get(), base_units, "once, at the price it was carried at");
        }
    }
}

/// A pair in the middle of business, and a hand that writes messages in the payer's or the provider's name.
struct Forger {
    world: World,
}

impl Forger {
    fn new() -> Self {
        let mut world = World::new(Plan::quiet(20));
        world.run(12.0);
        world.air.clear();
        Self { world }
    }

    /// The next honest receipt message, as if the payer had counted all the provider reported.
    fn next(&self) -> ReceiptMessage {
        let provider = self.world.of(PROVIDER);
        let reported = provider.till.reported;
        let segment = provider.segment().unwrap();
        let payer = Counts {
            sent: reported.received.max(segment.theirs.sent),
            received: reported.sent.max(segment.theirs.received),
        };
        let charge = charge(segment.terms.terms(), reported, payer).unwrap();
        let message = ReceiptMessage {
            segment: segment.id,
            payer,
            provider: reported,
            receipt: provider.best_receipt().unwrap().into_unverified(),
        };
        signed(message, PAYER, &DOMAIN, provider.channel_id().unwrap(), charge)
    }

    fn tell(&mut self, who: usize, message: Message) -> Result<(), Rejected> {
        let now = self.world.now;
        let exchange = self.world.parties[who].exchange.as_mut().unwrap();
        let told = exchange.handle_message(now, &message.encode());
        while exchange.poll_transmit().is_some() {}
        while exchange.poll_event().is_some() {}
        told
    }

    fn misbehaviour(&mut self, message: ReceiptMessage) -> Misbehaviour {
        let before = self.world.of(PROVIDER).snapshot();
        let told = self.tell(PROVIDER, Message::Receipt(message));
        assert_eq!(self.world.of(PROVIDER).snapshot(), before);
        match told {
            Err(Rejected::Misbehaved(misbehaviour)) => misbehaviour,
            other => panic!("{other:?}"),
        }
    }
}

/// The message with a receipt over `amount` in it that fits its counts.
fn signed(
    message: ReceiptMessage,
    by: usize,
    domain: &LedgerDomain,
    channel: ChannelId,
    amount: Tokens,
) -> ReceiptMessage {
    let meter = meter_hash(&message.segment, message.provider, message.payer);
    let receipt = Receipt::sign(identity(by).account(), domain, channel, amount, meter);
    ReceiptMessage { receipt: receipt.into_unverified(), ..message }
}

#[test]
fn an_honest_receipt_is_taken_once_and_a_replay_changes_nothing() {
    let mut forger = Forger::new();
    forger.world.change(PROVIDER, Exchange::handle_flush);
    let message = Message::Receipt(forger.next());
    let before = forger.world.of(PROVIDER).snapshot();
    assert_eq!(forger.tell(PROVIDER, message.clone()), Ok(()));
    let paid = forger.world.of(PROVIDER).snapshot();
    assert!(paid.signed > before.signed && paid.owed_to_us < before.owed_to_us);
    assert_eq!(forger.tell(PROVIDER, message), Ok(()));
    assert_eq!(forger.world.of(PROVIDER).snapshot(), paid);
    let honest = forger.next();
    let less = Tokens::new(paid.signed.get() - 1).unwrap();
    let late = signed(honest.clone(), PAYER, &DOMAIN, honest.receipt.channel(), less);
    assert_eq!(forger.tell(PROVIDER, Message::Receipt(late)), Ok(()));
    assert_eq!(forger.world.of(PROVIDER).snapshot(), paid);
}

#[test]
fn a_receipt_that_a_resume_brings_first_pays_for_its_segment_all_the_same() {
    let mut forger = Forger::new();
    let message = forger.next();
    let (amount, receipt) = (message.receipt.amount(), message.receipt);
    forger.world.change(PROVIDER, |provider, _| {
        let reported = provider.till.reported;
        provider.till = Till::new(None);
        provider.till.reported = reported;
    });
    let provider = forger.world.of(PROVIDER);
    let (session, echo, channel) = (provider.their_session, provider.session, provider.their_channel);
    let resume = Resume { role: Role::Subscriber, session, echo, ask: false, channel, receipt: Some(receipt) };
    assert_eq!(forger.tell(PROVIDER, Message::Resume(resume)), Ok(()));
    assert_eq!(forger.world.of(PROVIDER).till.paid(), Tokens::ZERO, "nobody has said what it is for");
    assert_eq!(forger.tell(PROVIDER, Message::Receipt(message)), Ok(()));
    assert_eq!(forger.world.of(PROVIDER).till.paid(), amount);
}

/// As from a payer that starts at a base the provider has forgotten.
#[test]
fn a_receipt_far_above_its_counts_pays_for_them_and_for_nothing_later() {
    let mut forger = Forger::new();
    forger.world.change(PROVIDER, Exchange::handle_flush);
    let honest = forger.next();
    let channel = honest.receipt.channel();
    let more = honest.receipt.amount().saturating_add(Tokens::new(1_000_000).unwrap());
    let generous = signed(honest, PAYER, &DOMAIN, channel, more);
    assert_eq!(forger.tell(PROVIDER, Message::Receipt(generous)), Ok(()));
    assert_eq!(forger.world.of(PROVIDER).snapshot().signed, more);
    let mut counts = forger.world.parties[PROVIDER].counts;
    counts.received = counts.received.saturating_add(Bytes::from_mebibytes(10));
    forger.world.change(PROVIDER, |exchange, now| exchange.handle_counts(now, counts));
    assert!(forger.world.of(PROVIDER).snapshot().owed_to_us.get() >= 10 << 10);
}

#[test]
fn a_payer_who_signs_little_after_a_restart_has_paid_little() {
    let mut forger = Forger::new();
    forger.world.run(13.0);
    forger.world.crash(PAYER);
    forger.world.traffic = false;
    forger.world.run(4.0);
    let mut counts = forger.world.parties[PROVIDER].counts;
    counts.received = counts.received.saturating_add(Bytes::from_mebibytes(10));
    forger.world.change(PROVIDER, |exchange, now| {
        exchange.handle_counts(now, counts);
        exchange.handle_flush(now);
    });
    let before = forger.world.of(PROVIDER).snapshot();
    assert!(before.agreed && before.owed_to_us.get() >= 10 << 10);
    let a_second = u128::from(forger.world.plan.rate[0] + forger.world.plan.rate[1]) >> 10;
    let unpaid_at_the_crash = before.written_off.get();
    assert!(a_second < unpaid_at_the_crash && unpaid_at_the_crash < 5 * a_second);
    let honest = forger.next();
    let little = before.signed.saturating_add(Tokens::new(1).unwrap());
    let little = signed(honest.clone(), PAYER, &DOMAIN, honest.receipt.channel(), little);
    assert_eq!(forger.tell(PROVIDER, Message::Receipt(little)), Ok(()));
    let after = forger.world.of(PROVIDER).snapshot();
    assert_eq!(after.owed_to_us.get() + 1, before.owed_to_us.get());
}

#[test]
fn every_cheat_of_a_payer_is_refused_by_name() {
    let mut forger = Forger::new();
    forger.world.change(PROVIDER, Exchange::handle_flush);
    let honest = forger.next();
    let (channel, amount) = (honest.receipt.channel(), honest.receipt.amount());
    let sign = |channel, amount| signed(honest.clone(), PAYER, &DOMAIN, channel, amount);

    let mut forged = honest.clone();
    let own = ChannelId { payer: identity(7).node_id(), ..channel };
    forged.receipt = signed(honest.clone(), 7, &DOMAIN, own, amount).receipt;
    assert_eq!(forger.misbehaviour(forged), Misbehaviour::OtherChannel);

    let chain = LedgerDomain { chain_id: 9, ..DOMAIN };
    let elsewhere = signed(honest.clone(), PAYER, &chain, channel, amount);
    let refused = forger.misbehaviour(elsewhere);
    assert!(matches!(refused, Misbehaviour::ForgedReceipt(SignatureError::WrongSigner { .. })));

    let mut bytes = Message::Receipt(honest.clone()).encode();
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    let Ok(Message::Receipt(altered)) = Message::decode(&bytes) else { panic!() };
    assert!(matches!(forger.misbehaviour(altered), Misbehaviour::ForgedReceipt(_)));

    let old = sign(ChannelId { nonce: 0, ..channel }, amount);
    assert_eq!(forger.misbehaviour(old), Misbehaviour::OtherChannel);
    let other = sign(ChannelId { payee: identity(7).node_id(), ..channel }, amount);
    assert_eq!(forger.misbehaviour(other), Misbehaviour::OtherChannel);

    let bounced = forger.misbehaviour(sign(channel, Tokens::MAX));
    let deposit = forger.world.ledger.unwrap().deposit;
    assert_eq!(bounced, Misbehaviour::AboveDeposit { amount: Tokens::MAX, deposit });

    let mut moved = honest.clone();
    moved.payer.sent = moved.payer.sent.saturating_sub(Bytes::new(1));
    assert_eq!(forger.misbehaviour(moved), Misbehaviour::MeterMismatch);

    let mut invented = honest.clone();
    invented.provider.sent = invented.provider.sent.saturating_add(Bytes::new(1 << 40));
    let invented = signed(invented, PAYER, &DOMAIN, channel, amount);
    assert_eq!(forger.misbehaviour(invented), Misbehaviour::CountsNeverReported);

    let theirs = forger.world.of(PROVIDER).segment().unwrap().theirs;
    let crossed = MeterReport {
        segment: honest.segment,
        counts: Counts { sent: Bytes::ZERO, received: theirs.received.saturating_add(Bytes::new(1)) },
    };
    let told = forger.tell(PROVIDER, Message::MeterReport(crossed));
    assert_eq!(told, Err(Misbehaviour::CountsWentBack.into()));
}

#[test]
fn a_receipt_of_an_ended_segment_or_an_unknown_channel_pays_for_nothing() {
    let mut forger = Forger::new();
    forger.world.change(PROVIDER, Exchange::handle_flush);
    let honest = forger.next();
    let before = forger.world.of(PROVIDER).snapshot();
    let mut ended = honest.clone();
    ended.segment = [9; 32];
    assert_eq!(forger.tell(PROVIDER, Message::Receipt(ended)), Ok(()));
    let channel = ChannelId { nonce: 2, ..honest.receipt.channel() };
    let unknown = signed(honest.clone(), PAYER, &DOMAIN, channel, honest.receipt.amount());
    assert_eq!(forger.tell(PROVIDER, Message::Receipt(unknown)), Ok(()));
    assert_eq!(forger.world.of(PROVIDER).snapshot(), before);
}

#[test]
fn a_payer_who_signs_half_is_cut_off_within_a_window() {
    let mut forger = Forger::new();
    let window = forger.world.terms().unwrap().window_value();
    let mut counts = forger.world.parties[PROVIDER].counts;
    for _ in 0..10_000 {
        counts.sent = counts.sent.saturating_add(Bytes::new(100_000));
        forger.world.parties[PROVIDER].counts = counts;
        forger.world.now += POLL;
        forger.world.change(PROVIDER, |provider, now| provider.handle_counts(now, counts));
        forger.world.finish_writes();
        let full = forger.next();
        let half = Tokens::new(full.receipt.amount().get() / 2).unwrap();
        let half = signed(full.clone(), PAYER, &DOMAIN, full.receipt.channel(), half);
        let now = forger.world.now;
        let told = Message::Receipt(half).encode();
        forger.world.change(PROVIDER, |provider, _| provider.handle_message(now, &told).unwrap());
        if let Credit::Exhausted { unpaid, window: limit } = forger.world.of(PROVIDER).credit() {
            assert!(limit <= window);
            assert!(unpaid.get() <= limit.get() + 200);
            return;
        }
    }
    panic!("half was good enough");
}

#[test]
fn a_provider_who_claims_more_than_it_carried_is_paid_for_what_we_counted() {
    let mut forger = Forger::new();
    let segment = forger.world.of(PAYER).segment().unwrap();
    let greedy = MeterReport { segment: segment.id, counts: Counts { sent: Bytes::MAX, received: Bytes::MAX } };
    let terms = *segment.terms.terms();
    assert_eq!(forger.tell(PAYER, Message::MeterReport(greedy)), Ok(()));
    let payer = forger.world.of(PAYER).snapshot();
    let up = terms.price_up.of(payer.ours.sent).unwrap();
    let down = terms.price_down.of(payer.ours.received).unwrap();
    assert!(payer.signed <= up.checked_add(down).unwrap());
}

#[test]
fn terms_are_taken_only_from_the_provider_for_this_ledger_session_and_price() {
    let mut world = World::new(Plan::quiet(21));
    world.run(1.0);
    let good = world.terms().unwrap();
    let fresh = || {
        let mut world = World::new(Plan::quiet(22));
        let now = world.now;
        let Message::Resume(resume) = world.parties[PROVIDER].exchange.as_ref().unwrap().resume() else { panic!() };
        let payer = world.parties[PAYER].exchange.as_mut().unwrap();
        payer.handle_message(now, &Message::Resume(Resume { echo: 1, ..resume }).encode()).unwrap();
        Forger { world }
    };
    let tell = |terms: SignedTerms| {
        let terms = terms.into_unverified();
        let mut forger = fresh();
        let told = forger.tell(PAYER, Message::Terms(TermsMessage { payer_session: 1, terms }));
        (told, forger.world.of(PAYER).snapshot().agreed)
    };
    let sign = |terms: Terms, by: usize, domain: &LedgerDomain| {
        let provider = identity(by).node_id();
        Terms { provider, ..terms }.sign(identity(by).account(), domain)
    };

    assert_eq!(tell(sign(good, PROVIDER, &DOMAIN)), (Ok(()), true));
    assert_eq!(tell(sign(Terms { seq: 9, ..good }, PROVIDER, &DOMAIN)), (Ok(()), false));
    let (told, agreed) = tell(sign(good, 7, &DOMAIN));
    assert_eq!((told, agreed), (Err(Misbehaviour::OtherTerms.into()), false));
    let other = LedgerDomain { chain_id: 9, ..DOMAIN };
    let (told, _) = tell(sign(good, PROVIDER, &other));
    assert!(matches!(told, Err(Rejected::Misbehaved(Misbehaviour::ForgedTerms(_)))));
    let asked = Price::new(1 << 41);
    let (told, _) = tell(sign(Terms { price_up: asked, ..good }, PROVIDER, &DOMAIN));
    let limit = Price::new(1 << 40);
    assert_eq!(told, Err(Incompatibility::PriceAboveLimit { asked, limit }.into()));
}

#[test]
fn roles_and_versions_that_do_not_fit_are_named() {
    let mut world = World::new(Plan { sides: [Side::Provider(offer(1, 1)), Side::Peer], ..Plan::quiet(23) });
    world.now += POLL * 4;
    world.deliver();
    let clash = Incompatibility::Roles { ours: Role::Provider, theirs: Role::Peer };
    assert_eq!(world.parties[PROVIDER].rejected[0], clash.into());
    let now = world.now;
    let provider = world.parties[PROVIDER].exchange.as_mut().unwrap();
    let newer = MessageError::Unknown { version: 2, kind: 0 };
    let told = provider.handle_message(now, &[0x83, 2, 0, 0]);
    assert_eq!(told, Err(Incompatibility::Protocol(newer).into()));
    let length = 1201;
    let told = provider.handle_message(now, &vec![0; length]);
    let long = Misbehaviour::Malformed(MessageError::TooLong { length });
    assert_eq!(told, Err(long.into()));
}

#[test]
fn noise_and_damaged_messages_do_no_harm() {
    let mut forger = Forger::new();
    let mut rng = fastrand::Rng::with_seed(24);
    let messages: Vec<Vec<u8>> = [PROVIDER, PAYER]
        .into_iter()
        .flat_map(|who| {
            let exchange = forger.world.of(who);
            [Some(exchange.resume()), exchange.counts_message()]
        })
        .flatten()
        .chain([Message::Receipt(forger.next())])
        .map(|message| message.encode())
        .collect();
    let before = forger.world.of(PAYER).snapshot().signed;
    for round in 0..20_000 {
        let mut bytes = rng.choice(&messages).unwrap().clone();
        for _ in 0..rng.usize(1..4) {
            let i = rng.usize(..bytes.len());
            bytes[i] = rng.u8(..);
        }
        bytes.truncate(bytes.len() - rng.usize(..2) * rng.usize(..bytes.len()));
        forger.world.now += Duration::from_millis(1);
        let now = forger.world.now;
        let exchange = forger.world.parties[round % 2].exchange.as_mut().unwrap();
        let _ = exchange.handle_message(now, &bytes);
        exchange.handle_timeout(now);
        assert!(std::iter::from_fn(|| exchange.poll_transmit()).count() <= 3);
        assert!(std::iter::from_fn(|| exchange.poll_event()).count() <= 4);
    }
    let payer = forger.world.of(PAYER).snapshot();
    let worth = forger.world.worth_of_deliveries(&forger.world.terms().unwrap());
    assert!(payer.signed >= before && payer.signed <= worth);
}

#[test]
fn a_receipt_on_a_channel_no_ledger_has_shown_is_not_held() {
    let mut world = World::new(Plan { channel: false, ..Plan::quiet(5) });
    let (payer, payee) = (identity(PAYER).node_id(), identity(PROVIDER).node_id());
    world.change(PROVIDER, |provider, now| {
        while provider.poll_event().is_some() {}
        for nonce in [1, u64::MAX] {
            let channel = ChannelId { payer, payee, nonce };
            let receipt = Receipt::sign(identity(PAYER).account(), &DOMAIN, channel, Tokens::MAX, [0; 32]);
            let resume = Resume {
                role: Role::Subscriber,
                session: 7,
                echo: provider.session,
                ask: false,
                channel: None,
                receipt: Some(receipt.into_unverified()),
            };
            provider.handle_message(now, &Message::Resume(resume).encode()).unwrap();
        }
        assert_eq!(provider.best_receipt(), None);
        assert!(std::iter::from_fn(|| provider.poll_event()).all(|event| !matches!(event, Event::Hold(_))));
    });
}

#[test]
fn a_window_beyond_reason_does_not_decide_what_the_payer_locks() {
    let wide = Offer { window: Bytes::new(1 << 50), ..offer(1 << 20, 64) };
    let sides = [Side::Provider(wide), Plan::quiet(6).sides[1]];
    let mut world = World::new(Plan { channel: false, sides, ..Plan::quiet(6) });
    world.run(5.0);
    let locked = world.ledger.map_or(Tokens::ZERO, |channel| channel.deposit);
    // Four windows of 256 MiB at 2^20 base units per GiB, the dearer direction, and what is owed.
    let dearer = wide.price_up.max(wide.price_down);
    let bound = dearer.of(Bytes::from_mebibytes(5 * 256)).unwrap();
    assert!(Tokens::ZERO < locked && locked <= bound, "{locked} locked, of {bound} at most");
}
