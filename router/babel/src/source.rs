//! The source table and the feasibility condition (RFC 8966, sections 3.2.5, 3.5.1 and 3.7.3).
//!
//! A source's feasibility distance is the best (seqno, metric) this speaker ever told anyone. Whoever
//! routes through us was told that or something worse; so a neighbour who tells something strictly
//! better cannot be routing through us, and no loop can form. Prices play no part.

use crate::metric::Metric;
use crate::router_id::RouterId;
use crate::seqno::Seqno;
use crate::time::Tenths;
use std::time::Duration;

/// What routes to one source are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Distance {
    pub(crate) seqno: Seqno,
    pub(crate) metric: Metric,
}

impl Distance {
    /// A newer seqno wins; with the same seqno, a smaller metric.
    pub(crate) fn is_better_than(self, other: Self) -> bool {
        self.seqno.is_newer_than(other.seqno) || (self.seqno == other.seqno && self.metric < other.metric)
    }
}

/// A row: an originator of one prefix, and the best distance we told about it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    pub(crate) router_id: RouterId,
    pub(crate) feasibility: Distance,
    expires: Tenths,
}

/// "The source garbage-collection timer has a value on the order of minutes" (RFC 8966, section 3.2.5). Longer where
/// what was told is believed for longer: who still routes through us must not be taken for a way.
pub(crate) const GC_TIME: Duration = Duration::from_secs(180);

/// The table's rows for one prefix: nearly always one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources(Vec<Source>);

impl Sources {
    /// Originators remembered per prefix, so that one that changes its router-id without end fills no
    /// more than its own prefix.
    const MAX: usize = 16;

    pub(crate) fn feasibility(&self, id: RouterId) -> Option<Distance> {
        self.0.iter().find(|source| source.router_id == id).map(|source| source.feasibility)
    }

    /// "An update is feasible if it is a retraction, or no entry exists for its source, or it is strictly
    /// better than the entry's feasibility distance."
    pub(crate) fn is_feasible(&self, id: RouterId, distance: Distance) -> bool {
        !distance.metric.is_finite()
            || self.feasibility(id).is_none_or(|feasibility| distance.is_better_than(feasibility))
    }

    /// Whether a source is known or can be added. One that cannot must not be announced: its feasibility
    /// distance would be forgotten.
    pub(crate) fn has_room_for(&self, id: RouterId) -> bool {
        self.0.len() < Self::MAX || self.feasibility(id).is_some()
    }

    /// Before an update is sent: the feasibility distance becomes the better of the two, and the
    /// garbage-collection timer starts again. Returns whether the source is new.
    pub(crate) fn record(&mut self, now: Tenths, id: RouterId, told: Distance, believed_for: Duration) -> bool {
        let expires = now.after(believed_for.max(GC_TIME));
        let Some(source) = self.0.iter_mut().find(|source| source.router_id == id) else {
            self.0.reserve_exact(1);
            self.0.push(Source { router_id: id, feasibility: told, expires });
            return true;
        };
        source.expires = expires;
        if told.is_better_than(source.feasibility) {
            source.feasibility = told;
        }
        false
    }

    /// Forgets sources whose timer has expired and which the route in use does not need. Returns how many.
    pub(crate) fn collect(&mut self, now: Tenths, in_use: Option<RouterId>) -> usize {
        let before = self.0.len();
        self.0.retain_mut(|source| {
            if source.expires <= now && in_use == Some(source.router_id) {
                source.expires = now.after(GC_TIME);
            }
            source.expires > now
        });
        before - self.0.len()
    }

    pub(crate) fn next_timeout(&self) -> Option<Tenths> {
        self.0.iter().map(|source| source.expires).min()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Source> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn distance(seqno: u16, metric: u16) -> Distance {
        Distance { seqno: Seqno(seqno), metric: Metric(metric) }
    }

    #[test]
    fn newer_seqno_beats_any_metric() {
        assert!(distance(2, 900).is_better_than(distance(1, 1)));
        assert!(!distance(1, 1).is_better_than(distance(2, 900)));
        assert!(distance(1, 1).is_better_than(distance(1, 2)));
        assert!(!distance(1, 2).is_better_than(distance(1, 2)));
    }

    #[test]
    fn a_prefix_with_ever_new_originators_remembers_sixteen_and_forgets_after_three_minutes() {
        let mut sources = Sources::default();
        let start = Tenths::default();
        for id in 1..=16 {
            let id = RouterId::new([id; 8]).unwrap();
            assert!(sources.has_room_for(id) && sources.record(start, id, distance(1, 1), GC_TIME));
        }
        let first = RouterId::new([1; 8]).unwrap();
        assert!(sources.has_room_for(first) && !sources.has_room_for(RouterId::new([17; 8]).unwrap()));
        assert_eq!(sources.collect(start.after(GC_TIME / 2), None), 0);
        assert_eq!(sources.collect(start.after(GC_TIME), Some(first)), 15);
        assert_eq!(sources.feasibility(first), Some(distance(1, 1)));
    }

    proptest! {
        #[test]
        fn what_was_told_is_never_feasible_again_and_the_distance_never_worsens(told in prop::collection::vec((0_u16..100, 0_u16..50), 1..40)) {
            let id = RouterId::new([1; 8]).unwrap();
            let mut sources = Sources::default();
            for (seqno, metric) in told {
                let before = sources.feasibility(id);
                sources.record(Tenths::default(), id, distance(seqno, metric), GC_TIME);
                let after = sources.feasibility(id).unwrap();
                prop_assert!(before.is_none_or(|before| !before.is_better_than(after)));
                prop_assert!(!sources.is_feasible(id, distance(seqno, metric)));
            }
        }

        #[test]
        fn feasibility_is_an_order_of_told_distances_within_half_a_circle_of_seqnos(a in (0_u16..10_000, 0_u16..500), b in (0_u16..10_000, 0_u16..500), c in (0_u16..10_000, 0_u16..500)) {
            let [a, b, c] = [a, b, c].map(|(seqno, metric)| distance(seqno, metric));
            prop_assert!(!(a.is_better_than(b) && b.is_better_than(a)));
            prop_assert!(a == b || a.is_better_than(b) || b.is_better_than(a));
            prop_assert!(!(a.is_better_than(b) && b.is_better_than(c)) || a.is_better_than(c));
        }
    }
}
