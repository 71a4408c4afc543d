//! Two neighbours, one of whom cheats: what it gains, beside what it may gain at most.
//!
//! Each story runs for [`SEEDS`] seeds, or for as many as the variable `CHEAT_SEEDS` says, and prints its worst. The pair itself
//! checks at every step what nobody may break (`tests/sim/pair.rs`); real signatures are made and checked throughout. A gain is
//! what was carried and not paid for, or paid for and not carried, in full windows of the offer at hand.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use ledger_core::records::Records;
use ledger_core::{Channel, Command, Genesis, Order, Request, State, UnixTime};
use metering::credit::given_each_day;
use metering::meter::{Counts, meter_hash};
use metering::wire::{Message, MeterReport, ReceiptMessage, Resume};
use metering::{
    Alarm, Bytes, ChannelId, Identity, LedgerDomain, Misbehaviour, Offer, Price, Receipt, Rejected, Role, Seed, Tokens,
};
use sim::pair::{DOMAIN, PAYER, POLL, PROVIDER, Pair, Weather, identity};

use crate::clock;

/// Of each story, in every build: half a minute in all, nearly all of it signatures.
const SEEDS: u64 = 12;

/// How long a story lasts.
const STORY: Duration = Duration::from_secs(40);

const SECOND: Duration = Duration::from_secs(1);
/// And what comes after it, twice: so many seconds, and so many bytes in each of them.
const LATER_S: u32 = 300;
const TRICKLE: u64 = 1 << 16;

const A_DAY_S: f64 = 86_400.0;

/// The payer pays at most so much for a GiB.
const LIMIT: Price = Price::new(1 << 40);

/// A pair with traffic and chance.
struct Business {
    pair: Pair,
    dice: fastrand::Rng,
    offer: Offer,
    /// From the payer and from the provider, bytes a second.
    rate: [u64; 2],
    /// So many packets are lost, of one.
    lost: f64,
}

/// What came of a story.
struct Outcome {
    /// What the cheat has and did not pay for, or was paid and did not earn, in base units; and the most that may be.
    gain: u128,
    most: u128,
    /// A full window.
    window: u128,
    /// How often the provider was started.
    lives: u128,
    a_day: EachDay,
}

/// What a cheat gains each day.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
enum EachDay {
    /// So much of the price of all that the payer sends and is sent, of one, as in the story.
    Share(f64),
    /// In bytes, minutes after what it gained at first, at [`TRICKLE`] a second.
    Later(f64),
}

impl std::fmt::Display for EachDay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Share(share) => write!(f, "{:.3} % of the price of all it sends and is sent", share * 100.0),
            Self::Later(bytes) => write!(f, "{:.0} MiB a day minutes later", bytes / f64::from(1 << 20)),
        }
    }
}

impl Business {
    /// A fresh pair with a window of a few seconds: who does not pay has used it up within half a story.
    fn new(seed: u64) -> Self {
        let mut dice = fastrand::Rng::with_seed(seed);
        let rate = [dice.u64(1 << 14..1 << 20), dice.u64(1 << 18..1 << 23)];
        let seconds = dice.u64(2..8);
        Self::with(dice, rate, rate.iter().sum::<u64>() * seconds)
    }

    /// A pair as a provider should choose its window, over links and with disks as bad as they get among the honest.
    fn in_bad_weather(seed: u64) -> Self {
        let mut dice = fastrand::Rng::with_seed(seed);
        let mut upto = |most: f64| dice.f64() * most;
        let slowest = Duration::from_secs_f64(0.01 + upto(0.5));
        let weather = Weather {
            lost: upto(0.2),
            twice: upto(0.2),
            delay: [slowest / 20, slowest],
            write: Duration::from_secs_f64(upto(0.3)),
        };
        let lost = upto(0.05);
        let rate = [dice.u64(1 << 14..1 << 20), dice.u64(1 << 18..1 << 23)];
        // Four times two ticks and a round trip, and four MiB.
        let window = rate.iter().sum::<u64>() * 4 * 11 + (4 << 20);
        let mut business = Self::with(dice, rate, window);
        (business.pair.weather, business.lost) = (weather, lost);
        business
    }

    /// Prices at random, and a channel that is never empty. Traffic begins when terms are agreed on.
    fn with(mut dice: fastrand::Rng, rate: [u64; 2], window: u64) -> Self {
        let offer = Offer {
            price_up: Price::new(dice.u64(1 << 20..1 << 24)),
            price_down: Price::new(dice.u64(1 << 20..1 << 26)),
            window: Bytes::new(window),
            loss_allowance_ppm: Offer::DEFAULT_LOSS_ALLOWANCE_PPM,
        };
        let mut pair = Pair::new(dice.u64(..), offer, LIMIT, Tokens::new(1 << 60));
        pair.wait(SECOND);
        Self { pair, dice, offer, rate, lost: 0.0 }
    }

    /// Traffic both ways for so long. `each` is called at each reading of the payer's counters.
    fn run_with(&mut self, time: Duration, mut each: impl FnMut(&mut Pair, &mut fastrand::Rng)) {
        let end = self.pair.now + time;
        while self.pair.now < end {
            for from in [PROVIDER, PAYER] {
                let bytes = self.rate[usize::from(from == PROVIDER)] / 20;
                let lost = self.lost > 0.0 && self.dice.f64() < self.lost;
                self.pair.carry(from, bytes, lost);
            }
            each(&mut self.pair, &mut self.dice);
            self.pair.wait(POLL);
        }
    }

    fn run(&mut self, time: Duration) {
        self.run_with(time, |_, _| {});
    }

    /// The second half of a payer's story, a time after it at [`TRICKLE`] a second, and what came of all of it.
    fn payer_gains(mut self, each: impl FnMut(&mut Pair, &mut fastrand::Rng)) -> Outcome {
        self.run_with(STORY / 2, each);
        let mut later = || {
            let before = self.pair.unpaid();
            for _ in 0..LATER_S {
                self.pair.carry(PROVIDER, TRICKLE, false);
                self.pair.wait(SECOND);
            }
            self.pair.unpaid().saturating_sub(before)
        };
        // First what is left of a window is used up.
        later();
        let gained = later();
        let bytes = (gained << 30) as f64 / self.offer.price_down.get() as f64;
        Outcome { a_day: EachDay::Later(bytes * A_DAY_S / f64::from(LATER_S)), ..self.unpaid() }
    }

    /// What is not paid for.
    fn unpaid(&self) -> Outcome {
        self.gained(self.pair.unpaid(), self.pair.unpaid_max())
    }

    /// What somebody has that should not have it, and the most it may be.
    fn gained(&self, gain: u128, most: u128) -> Outcome {
        let [sent, _, came] = self.pair.carried();
        let price = |price: Price, bytes: u64| price.get() as f64 * bytes as f64 / f64::from(1 << 30);
        let all = price(self.offer.price_up, sent) + price(self.offer.price_down, came);
        let a_day = EachDay::Share(gain as f64 / all.max(1.0));
        Outcome { gain, most, window: self.pair.window(), lives: self.pair.lives(), a_day }
    }

    /// What a payer that has never paid, and whose provider has never died, may have in all: one window, what passed between
    /// two readings, the lifeline and what is forgiven, and what the provider takes for lost.
    fn one_window(&self) -> u128 {
        let dearer = self.offer.price_up.max(self.offer.price_down);
        let worth = |bytes: u64| dearer.of(Bytes::new(bytes)).expect("small").get() + 1;
        let lasts = 2.0 * STORY.as_secs_f64() + 2.0 * f64::from(LATER_S);
        let given = given_each_day().get() as f64 * lasts / A_DAY_S;
        let between = self.rate.iter().sum::<u64>() / 10;
        let counted = u128::from(1_000_000 - self.offer.loss_allowance_ppm);
        (self.pair.window() + worth(given as u64 + between)) * 1_000_000 / counted
    }
}

/// Tells a story for each seed, and prints the worst of what came of it.
fn tell(name: &str, story: impl Fn(u64) -> Outcome) {
    let wanted = std::env::var("CHEAT_SEEDS").ok().map(|seeds| seeds.parse().expect("CHEAT_SEEDS is a number"));
    let fresh = std::env::var("SIM_SEED").ok().map(|seed| seed.parse().expect("SIM_SEED is a number"));
    let (began, seeds) = (clock(), wanted.unwrap_or(SEEDS));
    let (mut windows, mut share, mut each_day, mut worst) = (0.0_f64, 0.0_f64, None::<EachDay>, 0);
    for seed in (0..seeds).chain(fresh) {
        let Outcome { gain, most, window, lives, a_day } = story(seed);
        assert!(gain <= most, "{name}, seed {seed}: {gain} gained, where {most} is the bound");
        let of_window = gain as f64 / (window * lives) as f64;
        if of_window > windows {
            (windows, worst) = (of_window, seed);
        }
        share = share.max(gain as f64 / most.max(1) as f64);
        each_day = each_day.filter(|most| *most >= a_day).or(Some(a_day));
    }
    let each_second = seeds as f64 / began.elapsed().as_secs_f64();
    let each_day = each_day.expect("there is a story");
    println!(
        "{name}: {seeds} seeds, {each_second:.0} a second; at most {windows:.2} windows in a life of the provider (seed {worst}), \
         {:.0} % of the bound; {each_day}",
        share * 100.0,
    );
}

/// The message with its receipt over another amount, signed by the payer for a ledger.
fn signed(message: &ReceiptMessage, domain: &LedgerDomain, channel: ChannelId, amount: u128) -> ReceiptMessage {
    let meter = meter_hash(&message.segment, message.provider, message.payer);
    let amount = Tokens::new(amount).expect("below 2^96");
    let receipt = Receipt::sign(identity(PAYER).account(), domain, channel, amount, meter);
    ReceiptMessage { receipt: receipt.into_unverified(), ..message.clone() }
}

/// What a payer says that counts and does not pay.
fn counts_alone(message: &ReceiptMessage) -> Message {
    Message::MeterReport(MeterReport { segment: message.segment, counts: message.payer })
}

fn without_receipt(resume: &Resume) -> Message {
    Message::Resume(Resume { receipt: None, ..resume.clone() })
}

/// A payer that makes something else of each receipt, and shows none when it resumes.
fn instead(mut make: impl FnMut(&ReceiptMessage) -> Message + 'static) -> Box<dyn FnMut(Message) -> Vec<Message>> {
    Box::new(move |message| match &message {
        Message::Receipt(receipt) => vec![make(receipt)],
        Message::Resume(resume) => vec![without_receipt(resume)],
        Message::Terms(_) | Message::MeterReport(_) | Message::Close(_) => vec![message],
    })
}

/// A payer that crashes at once each so often.
fn crash_loop(every: Duration) -> impl FnMut(&mut Pair, &mut fastrand::Rng) {
    let mut crashed_at = None;
    move |pair, _| {
        let last = *crashed_at.get_or_insert(pair.now);
        if pair.now >= last + every {
            crashed_at = Some(pair.now);
            pair.crash(PAYER, Duration::ZERO);
        }
    }
}

#[test]
fn honest_pairs_settle_whatever_the_weather() {
    tell("honest", |seed| {
        let mut business = Business::in_bad_weather(seed);
        business.run_with(STORY, |pair, dice| {
            if dice.f64() < 0.1 / 20.0 {
                pair.crash(dice.usize(..2), Duration::from_millis(dice.u64(50..3000)));
            }
        });
        business.pair.settle();
        assert_eq!(business.pair.alarms(PROVIDER), [], "seed {seed}");
        // When both lose their memory before a receipt is written, nothing stays paid.
        assert!(business.pair.signed() > 0, "seed {seed}: no business at all");
        business.unpaid()
    });
}

/// Old copies of one side's disk are put back, over and over: what it has forgotten it hears from the other.
#[test]
fn honest_pairs_settle_though_the_disk_of_one_is_put_back_to_an_older_state() {
    tell("put back", |seed| {
        let mut business = Business::in_bad_weather(seed);
        let who = [PROVIDER, PAYER][usize::from(seed % 2 == 1)];
        business.run_with(STORY, |pair, dice| {
            if dice.f64() < 0.05 / 20.0 {
                pair.back_up(who);
            }
            if dice.f64() < 0.1 / 20.0 {
                pair.put_back(who, Duration::from_millis(dice.u64(50..3000)));
            }
        });
        business.pair.settle();
        assert_eq!(business.pair.alarms(PROVIDER), [], "seed {seed}");
        let allowed = |alarm: &Alarm| matches!(alarm, Alarm::ReceiptAboveCeiling { .. });
        assert!(business.pair.alarms(PAYER).iter().all(allowed), "seed {seed}: {:?}", business.pair.alarms(PAYER));
        assert!(business.pair.signed() > 0, "seed {seed}: no business at all");
        business.unpaid()
    });
}

#[test]
fn who_stops_paying_gains_one_window() {
    tell("stops paying", |seed| {
        let mut business = Business::new(seed);
        business.run(STORY / 2);
        business.pair.cheat(PAYER, instead(counts_alone));
        business.run(STORY / 2);
        let one = business.one_window() + business.pair.paid() / 8;
        Outcome { most: one, ..business.payer_gains(|_, _| {}) }
    });
}

#[test]
fn who_signs_too_little_gains_one_window() {
    tell("under-signs", |seed| {
        let mut business = Business::new(seed);
        let share = business.dice.u128(0..95);
        let under = move |message: &ReceiptMessage| {
            let amount = message.receipt.amount().get() * share / 100;
            Message::Receipt(signed(message, &DOMAIN, message.receipt.channel(), amount))
        };
        business.pair.cheat(PAYER, instead(under));
        business.run(STORY / 2);
        business.payer_gains(|_, _| {})
    });
}

#[test]
fn who_begins_anew_each_time_it_owes_gains_one_window() {
    tell("crash-loops", |seed| {
        let mut business = Business::new(seed);
        business.pair.cheat(PAYER, instead(counts_alone));
        let every = Duration::from_millis(business.dice.u64(100..4000));
        business.run_with(STORY / 2, crash_loop(every));
        let one = business.one_window();
        Outcome { most: one, ..business.payer_gains(crash_loop(every)) }
    });
}

/// It accepts terms anew after each reading of the provider's counters, so that all of its traffic falls between the agreement
/// and the reading after it.
#[test]
fn who_agrees_anew_after_each_reading_gains_one_window() {
    tell("agrees anew", |seed| {
        let mut business = Business::new(seed);
        business.pair.cheat(PAYER, Box::new(|_| Vec::new()));
        let mut session = 1 << 40;
        let mut agree = move |pair: &mut Pair, _: &mut fastrand::Rng| {
            session += 1;
            // After the provider has read.
            pair.wait(POLL / 2);
            let echo = pair.snapshot(PROVIDER).and_then(|provider| provider.terms).map_or(0, |terms| terms.seq);
            let resume = Resume { role: Role::Subscriber, session, echo, ask: false, channel: None, receipt: None };
            let _ = pair.tell_hostile(PROVIDER, &Message::Resume(resume).encode());
            let terms = pair.snapshot(PROVIDER).and_then(|provider| provider.terms).expect("a provider has terms");
            let segment = terms.segment(&DOMAIN, session);
            let report = MeterReport { segment, counts: Counts::ZERO };
            let _ = pair.tell_hostile(PROVIDER, &Message::MeterReport(report).encode());
            assert!(pair.snapshot(PROVIDER).is_some_and(|provider| provider.agreed), "the cheat was not even tried");
        };
        business.run_with(STORY / 2, &mut agree);
        let one = business.one_window();
        Outcome { most: one, ..business.payer_gains(agree) }
    });
}

/// Power cuts at the provider, whose disk is slow, and a payer that denies after each what it had signed.
#[test]
fn who_hides_receipts_gains_a_window_or_two_with_each_power_cut_of_the_provider() {
    tell("hides receipts", |seed| {
        let mut business = Business::new(seed);
        business.pair.weather.write = Duration::from_secs_f64(business.dice.f64() * 5.0);
        let hide = |message| match &message {
            Message::Resume(resume) => vec![without_receipt(resume)],
            Message::Receipt(_) | Message::Terms(_) | Message::MeterReport(_) | Message::Close(_) => vec![message],
        };
        business.pair.cheat(PAYER, Box::new(hide));
        let every = SECOND * business.dice.u32(3..20);
        let cut = move |pair: &mut Pair, dice: &mut fastrand::Rng| {
            if dice.f64() < POLL.as_secs_f64() / every.as_secs_f64() {
                pair.crash(PROVIDER, SECOND / 10);
                pair.crash(PAYER, SECOND / 10);
            }
        };
        business.run_with(STORY / 2, cut);
        business.payer_gains(cut)
    });
}

/// Whoever listens, or either of the two, sends again what was said before, to whom it was said.
#[test]
fn who_replays_gains_nothing() {
    tell("replays", |seed| {
        let mut business = Business::new(seed);
        let mut kept = Vec::new();
        let mut replay = |pair: &mut Pair, dice: &mut fastrand::Rng| {
            kept.extend(pair.heard.drain(..));
            if dice.f64() < 0.2 && !kept.is_empty() {
                let (to, bytes) = &kept[dice.usize(..kept.len())];
                let _said = pair.tell(*to, bytes);
            }
        };
        for _ in 0..4 {
            business.run_with(STORY / 4, &mut replay);
            // Each life ends in order: what was carried is reported and paid for.
            business.pair.flush();
            business.pair.wait(SECOND);
            for who in [PROVIDER, PAYER] {
                business.pair.crash(who, SECOND / 10);
            }
            business.pair.wait(SECOND);
        }
        business.pair.settle();
        let pair = &business.pair;
        assert_eq!(pair.paid(), pair.signed(), "seed {seed}");
        assert!(pair.signed() <= pair.worth(), "seed {seed}: more was signed than carried");
        // Each direction of each segment is rounded down.
        business.gained(pair.unpaid(), 2 * 4)
    });
}

/// Receipts by another key, over more than was signed, for another payee, on an older channel; and good ones for another ledger.
#[test]
fn who_forges_or_signs_for_two_ledgers_is_refused_by_name_and_gains_one_window() {
    let other = LedgerDomain { chain_id: 9, ..DOMAIN };
    let stranger = Identity::new(&Seed::from_bytes([7; 32]));
    let stranger_id = stranger.node_id();
    let stranger = Rc::new(stranger);
    for (name, way) in [("signs for two ledgers", 0_u8), ("forges", 1)] {
        tell(name, |seed| {
            let mut business = Business::new(seed);
            let good_there = Rc::new(Cell::new(0_u64));
            let (good, stranger) = (Rc::clone(&good_there), Rc::clone(&stranger));
            let kind = if way == 0 { 0 } else { business.dice.u8(1..5) };
            let forge = move |message: &ReceiptMessage| {
                let (channel, amount) = (message.receipt.channel(), message.receipt.amount().get());
                let forged = match kind {
                    0 => {
                        let elsewhere = signed(message, &other, channel, amount);
                        good.set(good.get() + u64::from(elsewhere.receipt.verify(&other).is_ok()));
                        elsewhere
                    }
                    1 => {
                        let own = ChannelId { payer: stranger_id, ..channel };
                        let (amount, meter) = (message.receipt.amount(), message.receipt.meter());
                        let receipt = Receipt::sign(stranger.account(), &DOMAIN, own, amount, meter);
                        ReceiptMessage { receipt: receipt.into_unverified(), ..message.clone() }
                    }
                    2 => signed(message, &DOMAIN, ChannelId { payee: stranger_id, ..channel }, amount),
                    3 => signed(message, &DOMAIN, ChannelId { nonce: 0, ..channel }, amount),
                    _ => altered_signature(message),
                };
                Message::Receipt(forged)
            };
            business.pair.cheat(PAYER, instead(forge));
            business.run(STORY / 2);
            assert_eq!(business.pair.paid(), 0, "seed {seed}");
            let named = |rejected: &Rejected| match rejected {
                Rejected::Misbehaved(Misbehaviour::ForgedReceipt(_)) => kind == 0 || kind == 4,
                Rejected::Misbehaved(Misbehaviour::OtherChannel) => (1..4).contains(&kind),
                Rejected::Misbehaved(_) | Rejected::Incompatible(_) => false,
            };
            let refused = business.pair.rejected(PROVIDER);
            assert!(!refused.is_empty() && refused.iter().all(named), "seed {seed}: {refused:?}");
            assert_eq!(good_there.get() > 0, kind == 0, "seed {seed}");
            let one = business.one_window();
            Outcome { most: one, ..business.payer_gains(|_, _| {}) }
        });
    }
}

/// The message with one bit of its receipt's signature turned.
fn altered_signature(message: &ReceiptMessage) -> ReceiptMessage {
    let mut bytes = message.receipt.encode();
    let in_the_signature = bytes.len() - 40;
    bytes[in_the_signature] ^= 1;
    ReceiptMessage { receipt: Receipt::decode(&bytes).expect("as long as before"), ..message.clone() }
}

/// A payer may say that it received less than it did: within what the provider takes for lost that is money, and beyond it
/// leads to the end of its credit.
#[test]
fn who_says_it_received_less_gains_what_is_taken_for_lost() {
    tell("received less", |seed| {
        let mut business = Business::new(seed);
        let ppm = business.dice.u64(0..300_000);
        if business.dice.bool() {
            // It loses Hellos on purpose, so that the link seems to be a bad one.
            business.pair.lose(300_000);
        }
        let less = move |message: &ReceiptMessage| {
            let mut message = message.clone();
            let hidden = u128::from(message.payer.received.get()) * u128::from(ppm) / 1_000_000;
            let hidden = Bytes::new(u64::try_from(hidden).expect("less than all"));
            message.payer.received = message.payer.received.saturating_sub(hidden);
            let amount = message.receipt.amount().get();
            let amount = amount - amount * u128::from(ppm) / 1_000_000;
            Message::Receipt(signed(&message, &DOMAIN, message.receipt.channel(), amount))
        };
        business.pair.cheat(PAYER, instead(less));
        business.run(STORY / 2);
        business.payer_gains(|_, _| {})
    });
}

/// What the provider says it carried is believed as far as the payer's own counts go: what was lost on the way to it can be
/// sold, and nothing else.
#[test]
fn a_provider_that_claims_more_gains_what_the_link_lost_upwards() {
    tell("over-claims", |seed| {
        let mut business = Business::new(seed);
        business.lost = business.dice.f64() * 0.2;
        let factor = business.dice.u64(2..1000);
        let claim = move |message| match message {
            Message::MeterReport(mut report) => {
                let more = |count: Bytes| Bytes::new(count.get().saturating_mul(factor));
                report.counts = Counts { sent: more(report.counts.sent), received: more(report.counts.received) };
                vec![Message::MeterReport(report)]
            }
            Message::Resume(_) | Message::Terms(_) | Message::Receipt(_) | Message::Close(_) => vec![message],
        };
        business.pair.cheat(PROVIDER, Box::new(claim));
        business.run(STORY);
        let pair = &business.pair;
        assert!(pair.signed() > 0, "seed {seed}: nothing was paid at all");
        let [up_sent, up, _] = pair.carried();
        let most = business.offer.price_up.of(Bytes::new(up_sent - up)).expect("small").get() + 2;
        let gain = pair.signed().saturating_sub(pair.worth());
        business.gained(gain, most)
    });
}

/// A provider that drops what it takes. Settlement ends at the link: it sees what was handed over and not what became of it
/// behind the provider. So whoever black-holes is paid for each byte that it is sent, for as long as it is sent any, and for
/// none of those that it does not deliver; and a relay that buys from another what it then does not hand on pays for it.
#[test]
fn who_black_holes_is_paid_for_what_it_is_sent_and_for_nothing_it_does_not_deliver() {
    tell("black-holes", |seed| {
        let mut business = Business::new(seed);
        let claim = |message| match message {
            Message::MeterReport(mut report) => {
                report.counts.sent = Bytes::MAX;
                vec![Message::MeterReport(report)]
            }
            Message::Resume(_) | Message::Terms(_) | Message::Receipt(_) | Message::Close(_) => vec![message],
        };
        business.pair.cheat(PROVIDER, Box::new(claim));
        business.rate[1] = 0;
        business.run(STORY);
        let [_, up, down] = business.pair.carried();
        assert_eq!(down, 0);
        // It delivered nothing, so that all it is paid is gain.
        let gain = business.pair.signed();
        assert!(gain > 0, "seed {seed}: the cheat was not even tried");
        let most = business.offer.price_up.of(Bytes::new(up)).expect("small").get();
        // Upstream it bought the answers, which it then dropped.
        let mut upstream = Business::new(seed);
        upstream.rate[0] = 0;
        upstream.run(STORY);
        upstream.pair.settle();
        let paid = upstream.pair.signed();
        assert!(paid + 2 >= upstream.pair.worth(), "seed {seed}: what it dropped it has not paid for");
        business.gained(gain, most)
    });
}

/// An owner of two accounts opens channels between them and signs itself whatever it likes. What it has in all stays what it
/// had.
#[test]
fn who_deals_with_itself_gains_nothing() {
    tell("self-deals", |seed| {
        let mut dice = fastrand::Rng::with_seed(seed);
        let [treasurer, one, two] = [9, 10, 11].map(|seed| Identity::new(&Seed::from_bytes([seed; 32])));
        let founded = Genesis::new("Simulated", "SIM", 6, treasurer.node_id(), UnixTime::from_seconds(0), [0; 16]);
        let mut state = State::found(founded.expect("good names"));
        let domain = state.genesis().domain();
        let minted = Tokens::new(dice.u128(1..1 << 40)).expect("below 2^96");
        let order = |state: &State, by: &Identity, command| {
            let Ok(last) = state.sequence(by.node_id());
            Request::Order(Order::sign(by.account(), &domain, by.node_id(), last + 1, command).into_unverified())
        };
        let mint = order(&state, &treasurer, Command::Mint { to: one.node_id(), amount: minted });
        let _ = state.execute(UnixTime::from_seconds(0), &mint).expect("the treasurer may mint");
        let (mut done, mut most_ever) = (0, 0);
        for step in 0..200_u64 {
            let (payer, payee) = if dice.bool() { (&one, &two) } else { (&two, &one) };
            let nonce = dice.u64(0..4);
            let channel = ChannelId { payer: payer.node_id(), payee: payee.node_id(), nonce };
            let bits = dice.u32(1..42);
            let amount = Tokens::new(dice.u128(0..1 << bits)).expect("below 2^96");
            let request = match dice.u8(0..6) {
                0 => order(&state, payer, Command::OpenChannel { payee: channel.payee, deposit: amount }),
                1 => order(&state, payer, Command::TopUp { channel, amount }),
                2 => order(&state, payer, Command::StartClose { channel }),
                3 => Request::Finalize { channel },
                4 => order(&state, payer, Command::Transfer { to: channel.payee, amount }),
                _ => {
                    let receipt = Receipt::sign(payer.account(), &domain, channel, amount, [0; 32]);
                    Request::Redeem { receipt: receipt.into_unverified() }
                }
            };
            // Two days a step, so that notices end.
            done += u32::from(state.execute(UnixTime::from_seconds(step * 172_800), &request).is_ok());
            let held: u128 = state.balances().values().map(|held| held.get()).sum();
            let locked: u128 = state.channels().values().map(|channel| Channel::locked(channel).get()).sum();
            most_ever = most_ever.max(held + locked);
            assert_eq!(held + locked, minted.get(), "seed {seed}, after {request:?}");
        }
        assert!(done > 5, "seed {seed}: the ledger did {done} things only");
        let gain = most_ever - minted.get();
        // Of the community's tokens.
        let a_day = EachDay::Share(gain as f64 / minted.get() as f64);
        Outcome { gain, most: 0, window: minted.get(), lives: 1, a_day }
    });
}
