//! Which gateway is used: measured by its answers, weighed with its price and the owner's order, and not left for a
//! small gain.

use std::time::{Duration, Instant};

/// How often a gateway is asked: the one in use while packets pass, the same while none do, and the others.
const IN_USE: Duration = Duration::from_secs(1);
const QUIET: Duration = Duration::from_secs(2);
const STANDBY: Duration = Duration::from_secs(10);
/// One that owes an answer is asked again after this, with a session of its own made beside the old one.
const AGAIN: Duration = Duration::from_millis(500);
/// One that owes an answer for so long...
const PATIENCE: Duration = Duration::from_millis(2000);
/// ...to so many questions is taken for dead.
const QUESTIONS: u32 = 3;
/// How long one that is dead is left alone between two questions: it is found again within a few seconds.
const DEAD: Duration = Duration::from_secs(3);
/// What one place further down in the owner's list is worth, as if the round trip were so much longer.
const PLACE: u64 = 20_000;
/// What a percent of lost answers is worth, likewise; and a gateway twice as dear as the cheapest.
const LOSS_PERCENT: u64 = 10_000;
const TWICE_AS_DEAR: u64 = 100_000;
/// Nobody is dearer than this.
const PRICE_MAX: u64 = 200_000;
/// Another gateway has to be better by this and a fifth...
const BETTER: u64 = 20_000;
/// ...for so long.
const FOR: Duration = Duration::from_secs(30);

/// How one gateway answers.
#[derive(Clone, Debug, Default)]
pub(super) struct Quality {
    sequence: u64,
    asked: Option<Instant>,
    /// The first question that has not been answered since the last answer, and how many there are.
    owing: Option<(Instant, u32)>,
    /// Microseconds, smoothed as TCP does (RFC 6298, section 2).
    rtt_us: Option<u64>,
    /// The last 64 questions, newest last: whether they were answered.
    answers: u64,
    questions: u32,
    asked_at: [Option<(u64, Instant)>; 8],
}

impl Quality {
    /// Whether it is time to ask, and the question's number then. `busy`: it is in use and packets pass.
    pub(super) fn question(&mut self, now: Instant, in_use: bool, busy: bool) -> Option<u64> {
        let wait = match self.owing {
            Some(_) if self.is_dead(now) => DEAD,
            Some(_) => AGAIN,
            None if in_use && busy => IN_USE,
            None if in_use => QUIET,
            None if self.rtt_us.is_none() => IN_USE,
            None => STANDBY,
        };
        if self.asked.is_some_and(|at| now.saturating_duration_since(at) < wait) {
            return None;
        }
        self.asked = Some(now);
        self.owing = Some(self.owing.map_or((now, 1), |(since, count)| (since, count.saturating_add(1))));
        self.sequence += 1;
        self.questions = (self.questions + 1).min(64);
        self.answers <<= 1;
        self.asked_at[self.sequence as usize % 8] = Some((self.sequence, now));
        Some(self.sequence)
    }

    /// An answer came. False: to no question of the last ones.
    pub(super) fn answered(&mut self, now: Instant, sequence: u64) -> bool {
        let slot = &mut self.asked_at[sequence as usize % 8];
        let Some((_, at)) = slot.take_if(|(asked, _)| *asked == sequence) else { return false };
        if self.rtt_us.is_none() {
            // What nobody could answer yet is no loss.
            self.questions = u32::try_from(self.sequence - sequence).map_or(64, |since| (since + 1).min(64));
        }
        self.answers |= 1 << (self.sequence - sequence).min(63);
        self.owing = None;
        let took = u64::try_from(now.saturating_duration_since(at).as_micros()).unwrap_or(u64::MAX);
        self.rtt_us = Some(self.rtt_us.map_or(took, |known| known - known / 8 + took / 8));
        true
    }

    /// Whether it has answered, and does not owe too much.
    pub(super) fn is_alive(&self, now: Instant) -> bool {
        self.rtt_us.is_some() && !self.is_dead(now)
    }

    pub(super) fn is_dead(&self, now: Instant) -> bool {
        self.owing.is_some_and(|(since, questions)| {
            questions >= QUESTIONS && now.saturating_duration_since(since) >= PATIENCE
        })
    }

    /// Whether it owes an answer for longer than a slow way takes: a session beside the old one may help.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        self.owing.is_some_and(|(since, _)| now.saturating_duration_since(since) >= PATIENCE / 2)
    }

    /// Microseconds.
    pub(super) fn rtt_us(&self) -> Option<u64> {
        self.rtt_us
    }

    /// Percent of questions that were not answered; what is still owed is left out.
    pub(super) fn loss_percent(&self) -> u32 {
        let pending = self.owing.map_or(0, |(_, questions)| questions).min(63);
        let settled = self.questions.saturating_sub(pending);
        if settled == 0 {
            return 0;
        }
        let answered = (self.answers >> pending).count_ones().min(settled);
        (settled - answered) * 100 / settled
    }
}

/// What speaks for and against a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// It has given a lease and answers.
    pub(super) usable: bool,
    pub(super) rtt_us: u64,
    pub(super) loss_percent: u32,
    /// What carrying to it costs, in base units per GiB, where that is known.
    pub(super) price: Option<u64>,
}

/// The choice so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Choice {
    current: Option<usize>,
    better: Option<(usize, Instant)>,
    why: &'static str,
}

impl Choice {
    /// The gateway to use, of those in the owner's order.
    pub(super) fn choose(&mut self, now: Instant, candidates: &[Candidate]) -> Option<usize> {
        let cheapest = candidates.iter().filter(|one| one.usable).filter_map(|one| one.price).min();
        let cost = |(place, one): (usize, &Candidate)| cost(place, one, cheapest);
        let all = candidates.iter().enumerate().filter(|(_, one)| one.usable);
        let best = all.min_by_key(|one| cost(*one)).map(|(place, _)| place);
        let current = self.current.filter(|at| candidates.get(*at).is_some_and(|one| one.usable));
        let (Some(best), Some(current)) = (best, current) else {
            if best != self.current {
                self.why = match (best, self.current) {
                    (Some(_), Some(_)) => "the one before does not answer",
                    (Some(_), None) => "it is the best of those that answer",
                    (None, _) => "none answers",
                };
            }
            (self.current, self.better) = (best, None);
            return best;
        };
        let cost_of = |place: usize| cost((place, &candidates[place]));
        let is_better = best != current && cost_of(best) + BETTER + cost_of(current) / 5 < cost_of(current);
        self.better = match self.better {
            Some((other, since)) if is_better && other == best => Some((best, since)),
            _ if is_better => Some((best, now)),
            _ => None,
        };
        if self.better.is_some_and(|(_, since)| now.saturating_duration_since(since) >= FOR) {
            (self.current, self.better) = (Some(best), None);
            self.why = "it has been better for half a minute";
        }
        self.current
    }

    /// Why it is this one, in words.
    pub(super) fn why(&self) -> &'static str {
        self.why
    }
}

/// Microseconds that stand for all that speaks against a gateway.
fn cost(place: usize, one: &Candidate, cheapest: Option<u64>) -> u64 {
    let dearer = one.price.zip(cheapest).map_or(0, |(price, cheapest)| match price.saturating_sub(cheapest) {
        0 => 0,
        more => more.saturating_mul(TWICE_AS_DEAR).checked_div(cheapest).unwrap_or(PRICE_MAX).min(PRICE_MAX),
    });
    let loss = u64::from(one.loss_percent) * LOSS_PERCENT;
    let parts = [one.rtt_us, place as u64 * PLACE, loss, dearer];
    parts.into_iter().fold(0, u64::saturating_add)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's clock starts now")]
mod tests {
    use super::*;

    fn candidate(rtt_ms: u64, price: Option<u64>) -> Candidate {
        Candidate { usable: true, rtt_us: rtt_ms * 1000, loss_percent: 0, price }
    }

    #[test]
    fn a_gateway_that_dies_is_left_within_five_seconds_busy_or_not() {
        let start = Instant::now();
        for busy in [true, false] {
            for offset in 0..20 {
                let (mut quality, mut now) = (Quality::default(), start);
                let dies = start + Duration::from_millis(20_000 + offset * 100);
                while !quality.is_dead(now) {
                    if let Some(sequence) = quality.question(now, true, busy)
                        && now < dies
                    {
                        assert!(quality.answered(now + Duration::from_millis(30), sequence));
                    }
                    now += Duration::from_millis(50);
                }
                let took = now - dies;
                assert!(took < Duration::from_millis(4300), "{took:?}, busy: {busy}");
            }
        }
    }

    #[test]
    fn one_lost_answer_is_no_death_and_counts_as_loss() {
        let (mut quality, mut now) = (Quality::default(), Instant::now());
        for number in 0..500 {
            let sequence = quality.question(now, true, true);
            if let Some(sequence) = sequence.filter(|sequence| sequence % 10 != 0) {
                assert!(quality.answered(now + Duration::from_millis(40), sequence));
                assert!(!quality.answered(now, sequence), "only once");
            }
            assert!(!quality.is_dead(now), "{number}");
            now += Duration::from_millis(100);
        }
        assert!((5..=15).contains(&quality.loss_percent()), "{}", quality.loss_percent());
        assert_eq!(quality.rtt_us(), Some(40_000));
        assert!(!quality.answered(now, 10_000));
    }

    #[test]
    fn what_is_asked_before_there_is_a_way_is_no_loss() {
        let (mut quality, mut now) = (Quality::default(), Instant::now());
        let mut ask = |quality: &mut Quality| {
            now += Duration::from_secs(30);
            (quality.question(now, false, false).expect("it is time"), now)
        };
        for _ in 0..100 {
            ask(&mut quality);
        }
        let (sequence, now) = ask(&mut quality);
        assert!(quality.answered(now, sequence));
        assert_eq!(quality.loss_percent(), 0);
        for _ in 0..2 {
            ask(&mut quality);
        }
        let (sequence, now) = ask(&mut quality);
        assert!(quality.answered(now, sequence));
        assert_eq!(quality.loss_percent(), 50, "two of four since then");
    }

    #[test]
    fn the_owner_s_order_decides_among_alike_and_price_against_it() {
        let now = Instant::now();
        let choose = |candidates: &[Candidate]| Choice::default().choose(now, candidates);
        assert_eq!(choose(&[candidate(20, None), candidate(15, None)]), Some(0));
        assert_eq!(choose(&[candidate(60, None), candidate(15, None)]), Some(1));
        assert_eq!(choose(&[candidate(20, Some(300)), candidate(30, Some(100))]), Some(1));
        assert_eq!(choose(&[candidate(20, Some(110)), candidate(30, Some(100))]), Some(0));
        assert_eq!(choose(&[candidate(20, Some(1)), candidate(30, Some(0))]), Some(1));
        let lossy = Candidate { loss_percent: 8, ..candidate(20, None) };
        assert_eq!(choose(&[lossy, candidate(40, None)]), Some(1));
        assert_eq!(choose(&[]), None);
    }

    #[test]
    fn a_small_or_short_gain_moves_nothing_and_death_moves_at_once() {
        let (mut choice, mut now) = (Choice::default(), Instant::now());
        let both = |first, second| [candidate(first, None), candidate(second, None)];
        assert_eq!(choice.choose(now, &both(30, 50)), Some(0));
        for _ in 0..100 {
            now += Duration::from_secs(1);
            assert_eq!(choice.choose(now, &both(60, 30)), Some(0), "better by less than the margin");
        }
        for (second, seconds) in [(10, 20), (190, 5), (10, 25)] {
            for _ in 0..seconds {
                now += Duration::from_secs(1);
                assert_eq!(choice.choose(now, &both(100, second)), Some(0));
            }
        }
        now += FOR;
        assert_eq!(choice.choose(now, &both(100, 10)), Some(1));
        let dead = [candidate(100, None), Candidate { usable: false, ..candidate(10, None) }];
        assert_eq!(choice.choose(now, &dead), Some(0));
        assert_eq!(choice.why(), "the one before does not answer");
        let none = dead.map(|one| Candidate { usable: false, ..one });
        assert_eq!(choice.choose(now, &none), None);
        assert_eq!(choice.choose(now, &both(100, 10)), Some(1));
    }
}
