//! Link sensing (RFC 8966, section 3.4 and Appendix A; RFC 9616): what a link costs, and whether it is there.
//!
//! Costs decide which way traffic goes, so they must follow the link and not its noise: what is told and used moves
//! only when what is measured has moved clearly away from it.

use crate::interface::{InterfaceConfig, LinkSensing};
use crate::metric::Cost;
use crate::seqno::Seqno;
use crate::wire::{Hello, HelloTimestamp, IhuTimestamp, Interval};
use std::time::{Duration, Instant};

/// The cost of sending to a neighbour: what it says (2-out-of-3, RFC 8966, Appendix A.2.1), or the expected number of
/// transmissions there and back (ETX, Appendix A.2.2) and what the round trip adds (RFC 9616, section 3.3).
pub(crate) fn link_cost(config: &InterfaceConfig, rxcost: Cost, txcost: Cost, rtt: Option<Duration>) -> Cost {
    if !rxcost.is_finite() || !txcost.is_finite() {
        return Cost::INFINITY;
    }
    let base = config.cost;
    let cost = match config.sensing {
        LinkSensing::TwoOutOfThree => txcost,
        LinkSensing::Etx | LinkSensing::Measured => scaled(base, [txcost.max(base), rxcost.max(base)], [base, base]),
    };
    let penalty = config.rtt.zip(rtt).map_or(0, |(range, rtt)| range.penalty(rtt));
    Cost::new(cost.get().saturating_add(penalty).min(Cost::WORST.get()))
}

/// `base * (over[0] / under[0]) * (over[1] / under[1])`, saturating below infinity: an expensive link is still one.
fn scaled(base: Cost, over: [Cost; 2], under: [Cost; 2]) -> Cost {
    let wide = |cost: Cost| u64::from(cost.get());
    let cost = wide(base) * wide(over[0]) * wide(over[1]) / (wide(under[0]) * wide(under[1]));
    Cost::new(u16::try_from(cost).unwrap_or(u16::MAX)).min(Cost::WORST)
}

/// Whether a measured cost has moved so far from the one in use that it replaces it: an eighth, and a little at
/// least. Neither infinity waits.
pub(crate) fn has_moved(in_use: Cost, measured: Cost) -> bool {
    if !in_use.is_finite() || !measured.is_finite() {
        return in_use != measured;
    }
    in_use.get().abs_diff(measured.get()) >= (in_use.get() / 8).max(8)
}

/// What a round trip adds to a link's cost (RFC 9616, section 3.3): nothing up to `min`, all of `penalty` from `max`
/// on, in proportion between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RttRange {
    /// As good as none.
    pub min: Duration,
    /// As bad as any.
    pub max: Duration,
    /// Added to the cost at most.
    pub penalty: u16,
}

impl RttRange {
    /// The values RFC 9616, section 4 recommends.
    pub const TUNNEL: Self = Self { min: Duration::from_millis(10), max: Duration::from_millis(120), penalty: 150 };

    fn penalty(&self, rtt: Duration) -> u16 {
        let span = self.max.saturating_sub(self.min).as_micros().max(1);
        let above = rtt.saturating_sub(self.min).as_micros().min(span);
        u16::try_from(u128::from(self.penalty) * above / span).unwrap_or(self.penalty)
    }
}

/// The smoothed round trip to a neighbour, and what is needed to measure the next one (RFC 9616, section 3.2).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rtt {
    /// The neighbour's last timestamped Hello: its clock, our clock at its arrival.
    heard: Option<(HelloTimestamp, u32)>,
    smoothed_us: Option<u32>,
}

impl Rtt {
    /// Weights of an old and a new sample: 214/256 is the 0.836 of RFC 9616, section 4.
    const KEPT: u64 = 214;
    /// An echo older than this is of another life (RFC 9616, section 3.2: "a few minutes").
    const SAMPLE_MAX_US: u32 = 180_000_000;

    /// A Hello with its sender's clock; `clock` is ours at its arrival.
    pub(crate) fn handle_hello(&mut self, clock: u32, hello: &Hello) {
        if let Some(timestamp) = hello.timestamp {
            self.heard = Some((timestamp, clock));
        }
    }

    /// The echo of our own Hello, in the same packet as a Hello of the neighbour: "(t2 - t1) - (t2' - t1')". Either
    /// difference is of one clock, so the clocks need not agree.
    pub(crate) fn handle_echo(&mut self, clock: u32, echo: IhuTimestamp) {
        let Some((sent, _)) = self.heard else { return };
        let ours = clock.wrapping_sub(echo.origin_us);
        let theirs = sent.0.wrapping_sub(echo.receive_us);
        if ours > Self::SAMPLE_MAX_US || theirs > ours {
            return; // A clock was set, or a timestamp was invented.
        }
        let (sample, kept) = (u64::from(ours - theirs), Self::KEPT);
        let smoothed = self.smoothed_us.map_or(sample, |old| (u64::from(old) * kept + sample * (256 - kept)) / 256);
        self.smoothed_us = u32::try_from(smoothed).ok();
    }

    /// What our next IHU echoes.
    pub(crate) fn echo(&self) -> Option<IhuTimestamp> {
        self.heard.map(|(timestamp, receive_us)| IhuTimestamp { origin_us: timestamp.0, receive_us })
    }

    pub(crate) fn get(&self) -> Option<Duration> {
        self.smoothed_us.map(|us| Duration::from_micros(us.into()))
    }
}

/// Which of a neighbour's last Hellos arrived (RFC 8966, Appendix A.1).
#[derive(Clone, Debug, Default)]
pub(crate) struct HelloHistory {
    /// Newest in the lowest bit.
    pub(crate) heard: u16,
    /// How many bits mean anything, at most 16.
    known: u8,
    expected: Option<Seqno>,
    /// The last one told.
    interval: Option<Interval>,
    pub(crate) expires: Option<Instant>,
    loss: Loss,
}

const HISTORY: u8 = 16;

impl Interval {
    /// Somebody who only sends unscheduled Hellos is expected as often as RFC 8966, Appendix B lets
    /// others speak, so that it does not stay for ever.
    const UNSCHEDULED: Self = Self(400);
}

impl HelloHistory {
    /// The one told last.
    pub(crate) fn interval(&self) -> Option<Duration> {
        self.interval.map(Interval::as_duration)
    }

    /// Whether the history had to start over.
    pub(crate) fn receive(&mut self, now: Instant, seqno: Seqno, interval: Option<Interval>) -> bool {
        let restarted = self.expected.is_some_and(|expected| !self.align(seqno.distance_from(expected)));
        self.shift(true);
        self.expected = Some(seqno.next());
        let unscheduled = self.expires.is_none().then_some(Interval::UNSCHEDULED);
        if let Some(interval) = interval.or(unscheduled) {
            self.interval = Some(interval);
            self.expires = Some(now + hello_hold_time(interval));
        }
        restarted
    }

    /// "If the two differ by more than 16, the sending node has probably rebooted and lost its sequence
    /// number; the whole history is flushed. Else if the received one is smaller, the sending node has
    /// increased its Hello interval without our noticing; undo history. Else some Hellos were lost."
    /// `false` in the first case.
    fn align(&mut self, ahead: i16) -> bool {
        let distance = ahead.unsigned_abs();
        if distance > u16::from(HISTORY) {
            (self.heard, self.known, self.loss) = (0, 0, Loss::default());
        } else if ahead < 0 {
            self.heard = self.heard.checked_shr(distance.into()).unwrap_or(0);
            self.known = self.known.saturating_sub(u8::try_from(distance).unwrap_or(HISTORY));
        } else {
            (0..distance).for_each(|_| self.shift(false));
        }
        distance <= u16::from(HISTORY)
    }

    /// Three lost in a row are silence, which is not averaged into the loss of a link that speaks.
    fn shift(&mut self, heard: bool) {
        if heard || self.heard & 0b11 != 0 {
            self.loss.count(!heard);
        }
        self.heard = self.heard << 1 | u16::from(heard);
        self.known = HISTORY.min(self.known + 1);
    }

    /// Counts what should have come by now as missed, and returns whether anything was. However late, a full history
    /// is the most there is.
    pub(crate) fn expire(&mut self, now: Instant) -> bool {
        let Some(interval) = self.interval else { return false };
        let mut missed = false;
        for _ in 0..HISTORY {
            let Some(expires) = self.expires.filter(|at| *at <= now) else {
                return missed;
            };
            missed = true;
            self.shift(false);
            self.expected = self.expected.map(Seqno::next);
            self.expires = (self.heard != 0).then(|| expires + interval.as_duration());
        }
        self.expires = self.expires.map(|at| at.max(now + interval.as_duration()));
        missed
    }

    /// The share of the neighbour's Hellos that are lost, in parts per million.
    pub(crate) fn lost_ppm(&self) -> u32 {
        self.loss.ppm()
    }

    /// The cost of hearing the neighbour; infinite while too few of its Hellos arrive.
    pub(crate) fn rxcost(&self, config: &InterfaceConfig) -> Cost {
        let heard = |of_last: u16| (self.heard & of_last).count_ones();
        let up = match config.sensing {
            LinkSensing::TwoOutOfThree | LinkSensing::Measured => heard(0b111) >= 2,
            LinkSensing::Etx => heard(0b111) >= 1 && heard(u16::MAX) >= 2,
        };
        if up { self.rxcost_if_up(config) } else { Cost::INFINITY }
    }

    /// The same, if it is known that the neighbour is there. Infinite if none of the last 16 arrived.
    pub(crate) fn rxcost_if_up(&self, config: &InterfaceConfig) -> Cost {
        if self.heard == 0 {
            return Cost::INFINITY;
        }
        match config.sensing {
            LinkSensing::TwoOutOfThree => config.cost,
            LinkSensing::Etx => self.expected_transmissions(config.cost),
            LinkSensing::Measured => self.loss.stretch(config.cost),
        }
    }

    fn expected_transmissions(&self, base: Cost) -> Cost {
        let sent = Cost::new(self.known.into());
        let heard = Cost::new(u16::try_from(self.heard.count_ones()).unwrap_or(1));
        scaled(base, [sent, heard], [heard, heard])
    }
}

/// "A node expects a Hello within 1.5 times the advertised interval" (RFC 8966, Appendix A.1).
fn hello_hold_time(interval: Interval) -> Duration {
    interval.as_duration() * 3 / 2
}

/// The share of Hellos that are lost, averaged over about the last 64: 16 would wobble by a tenth and more on a link
/// that steadily loses a tenth.
#[derive(Clone, Copy, Debug)]
struct Loss {
    /// In parts of 65,536.
    lost: u32,
    samples: u32,
}

impl Default for Loss {
    /// A link is taken for good until it shows otherwise: as if it had not lost any of 16.
    fn default() -> Self {
        Self { lost: 0, samples: 16 }
    }
}

impl Loss {
    const ALL: u32 = 1 << 16;
    const SAMPLES_MAX: u32 = 64;

    fn count(&mut self, lost: bool) {
        self.samples = Self::SAMPLES_MAX.min(self.samples + 1);
        let sample = if lost { Self::ALL } else { 0 };
        self.lost = (self.lost * (self.samples - 1) + sample) / self.samples;
    }

    fn ppm(&self) -> u32 {
        u32::try_from(u64::from(self.lost) * 1_000_000 / u64::from(Self::ALL)).unwrap_or(1_000_000)
    }

    /// The expected number of transmissions times `base`.
    fn stretch(&self, base: Cost) -> Cost {
        let arrive = (Self::ALL - self.lost).max(Self::ALL / 16);
        let cost = u64::from(base.get()) * u64::from(Self::ALL) / u64::from(arrive);
        Cost::new(u16::try_from(cost).unwrap_or(u16::MAX)).min(Cost::WORST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Interval = Interval(100);

    fn heard(now: Instant, seqnos: &[u16]) -> HelloHistory {
        let mut history = HelloHistory::default();
        for seqno in seqnos {
            history.receive(now, Seqno(*seqno), Some(SECOND));
        }
        history
    }

    fn start() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "an Instant has no other origin")]
        Instant::now()
    }

    fn tunnel() -> InterfaceConfig {
        InterfaceConfig::tunnel("fe80::1".parse().unwrap())
    }

    fn wired() -> InterfaceConfig {
        InterfaceConfig::wired("fe80::1".parse().unwrap())
    }

    #[test]
    fn two_hellos_of_the_last_three_make_a_link() {
        let now = start();
        assert_eq!(heard(now, &[1]).rxcost(&wired()), Cost::INFINITY);
        assert_eq!(heard(now, &[1, 2]).rxcost(&wired()), Cost::WIRED);
        assert_eq!(heard(now, &[1, 2, 4]).rxcost(&wired()), Cost::WIRED);
        assert_eq!(heard(now, &[1, 2, 5]).rxcost(&wired()), Cost::INFINITY);
    }

    #[test]
    fn a_cut_link_is_down_after_two_and_a_half_intervals() {
        let now = start();
        let mut history = heard(now, &[1, 2, 3]);
        history.expire(now + Duration::from_millis(2400));
        assert_eq!(history.rxcost(&wired()), Cost::WIRED);
        history.expire(now + Duration::from_millis(2500));
        assert_eq!(history.rxcost(&wired()), Cost::INFINITY);
    }

    #[test]
    fn silence_for_a_year_empties_the_history_in_one_step() {
        let now = start();
        let mut history = heard(now, &[1, 2, 3]);
        history.expire(now + Duration::from_secs(31_536_000));
        assert_eq!((history.heard, history.expires), (0, None));
    }

    #[test]
    fn a_repeated_hello_counts_once_and_a_reboot_starts_over() {
        let now = start();
        assert_eq!(heard(now, &[1, 2, 2, 2]).heard, 0b11);
        assert_eq!(heard(now, &[1, 2, 900]).heard, 0b1);
        assert_eq!(heard(now, &[0xffff, 0, 1]).heard, 0b111);
    }

    #[test]
    fn a_radio_that_loses_half_costs_twice() {
        let now = start();
        let radio = InterfaceConfig::lossy("fe80::1".parse().unwrap());
        let rxcost = heard(now, &[1, 3, 5, 7, 9, 11, 13, 15, 17]).rxcost(&radio);
        assert_eq!(rxcost, Cost::new(512));
        assert_eq!(link_cost(&radio, rxcost, Cost::new(512), None), Cost::new(1024));
        assert_eq!(link_cost(&radio, Cost::new(256), Cost::new(256), None), Cost::new(256));
    }

    #[test]
    fn a_tunnel_that_steadily_loses_hellos_costs_more_and_its_cost_stands_still() {
        for percent in [1, 5, 10, 20] {
            let (now, mut rng) = (start(), fastrand::Rng::with_seed(percent));
            let mut history = HelloHistory::default();
            let (mut in_use, mut moves) = (Cost::WIRED, 0);
            for round in 0..20_000_u16 {
                if rng.u64(0..100) >= percent {
                    history.receive(now, Seqno(round), Some(SECOND));
                }
                let measured = history.rxcost_if_up(&tunnel());
                if round > 200 && has_moved(in_use, measured) {
                    (in_use, moves) = (measured, moves + 1);
                }
            }
            let expected = 96 * 100 / (100 - u16::try_from(percent).unwrap());
            let lost = u64::from(history.lost_ppm());
            assert!(lost.abs_diff(percent * 10_000) <= 100_000, "{percent} %: {lost} ppm");
            assert!(in_use.get().abs_diff(expected) <= 20, "{percent} %: {in_use} against {expected}");
            assert!(moves <= 20_000 / 200, "{percent} %: {moves} moves in 20,000 Hellos");
        }
    }

    #[test]
    fn a_round_trip_costs_nothing_below_its_range_and_no_more_than_all_above() {
        let range = RttRange::TUNNEL;
        let penalty = |ms| range.penalty(Duration::from_millis(ms));
        assert_eq!([penalty(0), penalty(10), penalty(65), penalty(120), penalty(5000)], [0, 0, 75, 150, 150]);
        let tunnel = tunnel();
        let far = Some(Duration::from_secs(1));
        assert_eq!(link_cost(&tunnel, Cost::WIRED, Cost::WIRED, far), Cost::new(96 + 150));
        assert_eq!(link_cost(&tunnel, Cost::WIRED, Cost::new(65_500), far), Cost::WORST, "dear, but there");
    }

    #[test]
    fn round_trips_are_measured_between_clocks_that_do_not_agree() {
        let hello =
            |clock| Hello { unicast: false, seqno: Seqno(1), interval: None, timestamp: Some(HelloTimestamp(clock)) };
        let mut rtt = Rtt::default();
        // We sent at 1,000 of ours. It arrived at u32::MAX - 4 of theirs, which answers 95 later; 40,000 of ours.
        rtt.handle_hello(40_000, &hello(90));
        rtt.handle_echo(40_000, IhuTimestamp { origin_us: 1_000, receive_us: u32::MAX - 4 });
        assert_eq!(rtt.get(), Some(Duration::from_micros(39_000 - 95)));
        assert_eq!(rtt.echo(), Some(IhuTimestamp { origin_us: 90, receive_us: 40_000 }));
        rtt.handle_echo(40_000, IhuTimestamp { origin_us: 40_001, receive_us: 0 });
        assert_eq!(rtt.get(), Some(Duration::from_micros(38_905)), "an echo from the future is not used");
    }
}
