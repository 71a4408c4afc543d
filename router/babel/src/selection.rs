//! Route selection (RFC 8966, section 3.6): which of the routes to a prefix is used, and when another one replaces it.
//!
//! Only what the feasibility condition allows is ever used, so nothing decided here can make a loop: metrics and
//! prices, true or false, only order what is harmless anyway. Of what is better but not feasible the caller is told
//! whom to ask for a newer seqno.
//!
//! A route in use that is lost is replaced at once. One that is merely not the best any more is replaced at once if
//! the other is much better, else when the other has been better for a while: costs of links are noisy, and a price
//! that moves traffic moves the load that made the price. That costs and metrics are smoothed already where they are
//! measured (`sensing`) is why the metric of one moment can be compared here.

use crate::metric::Metric;
use crate::policy::{Policy, Score};
use crate::price::Price;
use crate::time::Tenths;
use std::time::Duration;

/// A finite route through a neighbour who is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate<K> {
    pub(crate) key: K,
    /// Through the link to the neighbour.
    pub(crate) metric: Metric,
    pub(crate) price: Option<Price>,
    pub(crate) feasible: bool,
}

/// What is remembered of a prefix between two decisions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Since when something has been better than the route in use.
    better_since: Option<Tenths>,
    /// When to decide again if nothing happens before.
    pub(crate) due: Option<Tenths>,
    /// When a neighbour was last asked for a newer seqno because its route is cheaper.
    asked_at: Option<Tenths>,
    /// Before this, no price moves the traffic again. `None`: none did, or long ago.
    price_rests_until: Option<Tenths>,
    /// How long the last such rest was, in steps of doubling.
    rests: u8,
    /// Spreads the waiting of many nodes, in percent.
    stretch: u8,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decision<K> {
    /// The route to use.
    pub(crate) used: Option<K>,
    /// Whom to ask for a newer seqno.
    pub(crate) ask: Option<K>,
}

/// Everything a decision depends on beside the routes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment<'a> {
    pub(crate) now: Tenths,
    pub(crate) policy: &'a Policy,
    /// Between full updates: how fast the truth about prices travels.
    pub(crate) update_interval: Duration,
    /// 75 to 125.
    pub(crate) stretch: u8,
}

/// A metric that is clearly better wins after so long: longer than the slowest noise of link sensing on a link that
/// loses a fifth, short against what people notice.
const CLEARLY_BETTER_FOR: Duration = Duration::from_secs(4);
/// A metric that is better at all wins after so long.
const BETTER_FOR: Duration = Duration::from_secs(60);
/// What counts as clearly better, in units of metric, if a tenth of the score is less.
const CLEAR_MARGIN: u64 = 16;
/// What counts as much better, in units of metric, if a quarter of the score is less: half a wired link.
const LARGE_MARGIN: u64 = 48;
/// The same for what only a price makes better.
const PRICE_MARGIN: u64 = 32;
/// After a price has moved the traffic, it rests; twice as long if it moved it back and forth.
const PRICE_REST: Duration = Duration::from_secs(300);
/// A rest grows to 2^6 times 5 minutes, a third of a day.
const RESTS_MAX: u8 = 6;
/// The same neighbour is not asked more often for the same prefix.
const ASK_SPACING: Duration = Duration::from_secs(60);

/// A candidate that the policy allows. Ordered: better first; among equals the one in use stays, else the first
/// in the order of keys, so that the choice does not depend on arrival.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Ranked<K> {
    score: Score,
    challenges: bool,
    metric: Metric,
    key: K,
}

/// Decides which route is to be used, and remembers in `pace` what the next decision needs.
pub(crate) fn decide<K: Ord + Copy>(
    moment: Moment<'_>,
    candidates: impl Iterator<Item = Candidate<K>>,
    current: Option<K>,
    pace: &mut Pace,
) -> Decision<K> {
    let (mut in_use, mut feasible, mut ideal) = (None, None, None);
    for candidate in candidates {
        let Some(score) = moment.policy.score(candidate.metric, candidate.price) else { continue };
        let challenges = current != Some(candidate.key);
        let ranked = Ranked { score, challenges, metric: candidate.metric, key: candidate.key };
        if candidate.feasible {
            keep_better(&mut feasible, ranked);
            in_use = in_use.or((!challenges).then_some(ranked));
        }
        keep_better(&mut ideal, ranked);
    }
    pace.due = None;
    pace.forget(moment.now);
    if in_use.is_none() {
        pace.better_since = None;
    }
    let Some(mut in_use) = in_use.or(feasible) else { return Decision { used: None, ask: None } };
    let better = |one: Option<Ranked<K>>, than: Ranked<K>| one.filter(|one| one.score < than.score);
    if let Some(best) = better(feasible, in_use) {
        let since = pace.begin(moment);
        if pace.is_over(moment, since, in_use, best) {
            pace.moved(moment.now, best.metric >= in_use.metric);
            in_use = best;
        }
    }
    let Some(ideal) = better(ideal, in_use) else {
        pace.better_since = None;
        return Decision { used: Some(in_use.key), ask: None };
    };
    let since = pace.begin(moment);
    let cheaper = better(Some(ideal), feasible.unwrap_or(in_use));
    let ask = cheaper.filter(|cheaper| pace.may_ask(moment, since, in_use, *cheaper)).map(|cheaper| cheaper.key);
    Decision { used: Some(in_use.key), ask }
}

fn keep_better<K: Ord + Copy>(best: &mut Option<Ranked<K>>, other: Ranked<K>) {
    if best.is_none_or(|best| other < best) {
        *best = Some(other);
    }
}

impl Pace {
    /// Nothing is remembered that a later decision needs.
    pub(crate) fn is_idle(&self) -> bool {
        (self.better_since, self.due, self.asked_at, self.price_rests_until) == (None, None, None, None)
    }

    /// Since when something has been better than the route in use: now, if nothing was.
    fn begin(&mut self, moment: Moment<'_>) -> Tenths {
        if self.better_since.is_none() {
            self.stretch = moment.stretch;
        }
        *self.better_since.get_or_insert(moment.now)
    }

    /// Whether `better` has been so for long enough; else when to look again.
    fn is_over<K>(&mut self, moment: Moment<'_>, since: Tenths, in_use: Ranked<K>, better: Ranked<K>) -> bool {
        let mut over_at = since.after(self.patience(moment, in_use.score, better.score, better.metric < in_use.metric));
        if better.metric >= in_use.metric {
            over_at = over_at.max(self.price_rests_until.unwrap_or(over_at));
        }
        if over_at > moment.now {
            self.look_at(over_at);
        }
        over_at <= moment.now
    }

    fn patience(&self, moment: Moment<'_>, in_use: Score, better: Score, by_metric: bool) -> Duration {
        let gain = better.gain_over(in_use);
        let exceeds = |part, margin| gain >= in_use.part(part).max(moment.policy.units(margin));
        if by_metric {
            return match () {
                () if exceeds(4, LARGE_MARGIN) => Duration::ZERO,
                () if exceeds(10, CLEAR_MARGIN) => CLEARLY_BETTER_FOR,
                () => BETTER_FOR,
            };
        }
        let intervals = if exceeds(10, PRICE_MARGIN) { 2 } else { 8 };
        moment.update_interval * intervals * u32::from(self.stretch) / 100
    }

    /// Whether to ask for a newer seqno, with which a cheaper route could be used: as patiently as if it were
    /// feasible. One with a better metric is asked for when it is told, by the speaker.
    fn may_ask<K>(&mut self, moment: Moment<'_>, since: Tenths, in_use: Ranked<K>, cheaper: Ranked<K>) -> bool {
        if cheaper.metric < in_use.metric || !self.is_over(moment, since, in_use, cheaper) {
            return false;
        }
        let again_at = self.asked_at.map(|at| at.after(ASK_SPACING)).filter(|again| *again > moment.now);
        if again_at.is_none() {
            self.asked_at = Some(moment.now);
        }
        self.look_at(again_at.unwrap_or(moment.now.after(ASK_SPACING)));
        again_at.is_none()
    }

    fn look_at(&mut self, at: Tenths) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    fn moved(&mut self, now: Tenths, by_price: bool) {
        (self.better_since, self.due) = (None, None);
        if by_price {
            self.rests = self.price_rests_until.map_or(0, |_| RESTS_MAX.min(self.rests + 1));
            self.price_rests_until = Some(now.after(self.rest()));
        }
    }

    fn rest(&self) -> Duration {
        PRICE_REST * (1 << u32::from(self.rests))
    }

    /// What is over has no effect any more: a rest that lies as far back as it was long, a question that may be asked
    /// again.
    fn forget(&mut self, now: Tenths) {
        if self.price_rests_until.is_some_and(|until| now > until.after(self.rest())) {
            (self.price_rests_until, self.rests) = (None, 0);
        }
        self.asked_at = self.asked_at.filter(|at| at.after(ASK_SPACING) > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::PriceWeight;
    use std::num::NonZeroU32;

    const UPDATES: Duration = Duration::from_secs(60);

    fn policy() -> Policy {
        let weight = PriceWeight { metric: 1, per: NonZeroU32::MIN };
        Policy { weight, price_max: Price::new(1000), ..Policy::default() }
    }

    fn candidate(key: u8, metric: u16, price: u32) -> Candidate<u8> {
        Candidate { key, metric: Metric(metric), price: Some(Price::new(price)), feasible: true }
    }

    fn at(seconds: u64) -> Tenths {
        Tenths::default().after(Duration::from_secs(seconds))
    }

    /// The route used after each second in which these are the candidates.
    struct Play {
        pace: Pace,
        used: Option<u8>,
        second: u64,
        asked: Vec<(u64, u8)>,
    }

    impl Play {
        fn new() -> Self {
            Self { pace: Pace::default(), used: None, second: 1, asked: Vec::new() }
        }

        fn see(&mut self, candidates: &[Candidate<u8>]) -> Option<u8> {
            let policy = policy();
            let moment = Moment { now: at(self.second), policy: &policy, update_interval: UPDATES, stretch: 100 };
            let decision = decide(moment, candidates.iter().copied(), self.used, &mut self.pace);
            self.used = decision.used;
            self.asked.extend(decision.ask.map(|key| (self.second, key)));
            self.used
        }

        /// Looks at the candidates only when that is due, until something is done: when, what is used, who is asked.
        /// `None`: nothing is due any more.
        fn until_it_is_due(&mut self, candidates: &[Candidate<u8>]) -> Option<(u64, u8, Option<u8>)> {
            let (before, asked) = (self.used, self.asked.len());
            while self.used == before && self.asked.len() == asked {
                let due = self.pace.due?;
                self.second = (self.second..).find(|second| at(*second) >= due)?;
                self.see(candidates);
            }
            Some((self.second, self.used?, self.asked.get(asked).map(|(_, key)| *key)))
        }

        /// Seconds until another route is used, if within a day.
        fn until_it_moves(&mut self, candidates: &[Candidate<u8>]) -> Option<u64> {
            let (began, before) = (self.second, self.used);
            while self.second < began + 86_400 {
                if self.see(candidates) != before {
                    return Some(self.second - began);
                }
                self.second += 1;
            }
            None
        }
    }

    #[test]
    fn the_best_score_wins_and_what_is_not_feasible_is_never_used() {
        let mut play = Play::new();
        assert_eq!(play.see(&[candidate(1, 100, 50), candidate(2, 120, 0)]), Some(2));
        let hidden = Candidate { feasible: false, ..candidate(3, 1, 0) };
        assert_eq!(play.see(&[hidden]), None);
        assert_eq!(play.see(&[candidate(4, 1, 1001)]), None, "asks more than we pay");
    }

    #[test]
    fn a_lost_route_is_replaced_at_once_however_much_dearer_the_other_is() {
        let mut play = Play::new();
        play.see(&[candidate(1, 100, 0)]);
        assert_eq!(play.see(&[candidate(2, 100, 900)]), Some(2));
    }

    #[test]
    fn much_better_wins_at_once_clearly_better_soon_and_better_after_a_minute() {
        for (metric, after) in [(700, 0), (800, 4), (900, 4), (901, 60), (999, 60)] {
            let mut play = Play::new();
            play.see(&[candidate(1, 1000, 0)]);
            let moved = play.until_it_moves(&[candidate(1, 1000, 0), candidate(2, metric, 0)]);
            assert_eq!(moved, Some(after), "metric {metric}");
        }
        let mut play = Play::new();
        play.see(&[candidate(2, 1000, 0)]);
        assert_eq!(
            play.until_it_moves(&[candidate(1, 1000, 0), candidate(2, 1000, 0)]),
            None,
            "equals do not displace"
        );
    }

    #[test]
    fn noise_around_equality_moves_nothing() {
        let mut play = Play::new();
        play.see(&[candidate(1, 500, 0)]);
        for round in 0..10_000 {
            play.second += 1;
            let wobble = if round % 3 == 0 { 440 } else { 510 };
            assert_eq!(play.see(&[candidate(1, 500, 0), candidate(2, wobble, 0)]), Some(1));
        }
    }

    #[test]
    fn a_price_waits_two_update_intervals_then_rests_ever_longer_while_it_swings() {
        let mut play = Play::new();
        let (dear, cheap) = (200, 100);
        play.see(&[candidate(1, 100, cheap)]);
        let swings: Vec<_> = (0..4_u8)
            .map(|round| {
                let prices = if round % 2 == 0 { (dear, cheap) } else { (cheap, dear) };
                play.until_it_moves(&[candidate(1, 100, prices.0), candidate(2, 100, prices.1)]).unwrap()
            })
            .collect();
        assert_eq!(swings, [120, 300, 600, 1200]);
        play.second += 100_000;
        let moved = play.until_it_moves(&[candidate(1, 100, dear), candidate(2, 100, cheap)]);
        assert_eq!(moved, Some(120), "long ago is forgotten");
    }

    #[test]
    fn a_cheaper_route_that_is_not_feasible_is_asked_for_once_a_minute_and_used_as_soon_as_it_is() {
        let mut play = Play::new();
        let here = candidate(1, 100, 400);
        play.see(&[here]);
        let cheaper = Candidate { feasible: false, ..candidate(2, 150, 10) };
        for _ in 0..=240 {
            assert_eq!(play.see(&[here, cheaper]), Some(1));
            play.second += 1;
        }
        assert_eq!(play.asked, [(121, 2), (181, 2), (241, 2)]);
        assert_eq!(play.see(&[here, Candidate { feasible: true, ..cheaper }]), Some(2));
    }

    #[test]
    fn a_still_cheaper_route_is_asked_for_after_a_move_and_after_a_loss_though_nothing_is_told_again() {
        let mut play = Play::new();
        let cheapest = Candidate { feasible: false, ..candidate(3, 150, 10) };
        play.see(&[candidate(1, 100, 400)]);
        let all = [candidate(1, 100, 400), candidate(2, 100, 300), cheapest];
        play.see(&all);
        assert_eq!(play.until_it_is_due(&all), Some((121, 2, None)));
        assert_eq!(play.until_it_is_due(&all), Some((421, 2, Some(3))), "when the move has rested");

        let mut play = Play::new();
        play.see(&[candidate(1, 100, 0)]);
        let left = [candidate(2, 100, 300), cheapest];
        play.see(&left);
        assert_eq!(play.until_it_is_due(&left), Some((121, 2, Some(3))));
    }

    #[test]
    fn equal_routes_are_chosen_by_key_whatever_their_order() {
        assert_eq!(Play::new().see(&[candidate(3, 100, 0), candidate(1, 100, 0)]), Some(1));
        assert_eq!(Play::new().see(&[candidate(1, 100, 0), candidate(3, 100, 0)]), Some(1));
    }
}
