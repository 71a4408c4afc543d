//! The source table and the feasibility condition (RFC 8966, sections 3.2.5, 3.5.1 and 3.7.3).
//!
//! A source's feasibility distance is the best (seqno, metric) this speaker ever told anyone. Whoever
//! routes through us was told that or something worse; so a neighbour who tells something strictly
//! better cannot be routing through us, and no loop can form. Prices play no part.

use crate::metric::Metric;
use crate::prefix::Prefix;
use crate::router_id::RouterId;
use crate::seqno::Seqno;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

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

#[derive(Clone, Copy, Debug)]
struct Source {
    feasibility: Distance,
    expires: Instant,
}

/// "The source garbage-collection timer has a value on the order of minutes" (RFC 8966, section 3.2.5).
pub(crate) const GC_TIME: Duration = Duration::from_secs(180);

/// The table.
#[derive(Clone, Debug)]
pub(crate) struct SourceTable {
    sources: BTreeMap<(Prefix, RouterId), Source>,
    sources_max: usize,
}

impl SourceTable {
    /// Originators remembered per prefix, so that one that changes its router-id without end fills no
    /// more than its own prefix.
    const PER_PREFIX_MAX: usize = 16;

    pub(crate) fn new(sources_max: usize) -> Self {
        Self { sources: BTreeMap::new(), sources_max }
    }

    pub(crate) fn feasibility(&self, prefix: Prefix, id: RouterId) -> Option<Distance> {
        self.sources.get(&(prefix, id)).map(|source| source.feasibility)
    }

    /// "An update is feasible if it is a retraction, or no entry exists for its source, or it is strictly
    /// better than the entry's feasibility distance."
    pub(crate) fn is_feasible(&self, prefix: Prefix, id: RouterId, distance: Distance) -> bool {
        !distance.metric.is_finite()
            || self.feasibility(prefix, id).is_none_or(|feasibility| distance.is_better_than(feasibility))
    }

    /// Whether a source is known or can be added. One that cannot must not be announced: its feasibility
    /// distance would be forgotten.
    pub(crate) fn has_room_for(&self, prefix: Prefix, id: RouterId) -> bool {
        self.sources.contains_key(&(prefix, id))
            || (self.sources.len() < self.sources_max && self.of_prefix(prefix) < Self::PER_PREFIX_MAX)
    }

    fn of_prefix(&self, prefix: Prefix) -> usize {
        let (Some(first), Some(last)) =
            (RouterId::new([0, 0, 0, 0, 0, 0, 0, 1]), RouterId::new([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe]))
        else {
            return 0;
        };
        self.sources.range((prefix, first)..=(prefix, last)).count()
    }

    /// Before an update is sent: the feasibility distance becomes the better of the two, and the
    /// garbage-collection timer starts again.
    pub(crate) fn record(&mut self, now: Instant, prefix: Prefix, id: RouterId, told: Distance) {
        let expires = now + GC_TIME;
        let source = self.sources.entry((prefix, id)).or_insert(Source { feasibility: told, expires });
        source.expires = expires;
        if told.is_better_than(source.feasibility) {
            source.feasibility = told;
        }
    }

    /// Forgets sources whose timer has expired and which no route in use needs. Returns when the next
    /// one expires.
    pub(crate) fn collect(&mut self, now: Instant, in_use: impl Fn(Prefix, RouterId) -> bool) -> Option<Instant> {
        self.sources.retain(|(prefix, id), source| {
            if source.expires <= now && in_use(*prefix, *id) {
                source.expires = now + GC_TIME;
            }
            source.expires > now
        });
        self.sources.values().map(|source| source.expires).min()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.sources.len()
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

    proptest! {
        #[test]
        fn what_was_told_is_never_feasible_again_and_the_distance_never_worsens(told in prop::collection::vec((0_u16..100, 0_u16..50), 1..40)) {
            #[expect(clippy::disallowed_methods, reason = "an Instant has no other origin")]
            let now = Instant::now();
            let id = RouterId::new([1; 8]).unwrap();
            let mut table = SourceTable::new(10);
            for (seqno, metric) in told {
                let before = table.feasibility(Prefix::DEFAULT, id);
                table.record(now, Prefix::DEFAULT, id, distance(seqno, metric));
                let after = table.feasibility(Prefix::DEFAULT, id).unwrap();
                prop_assert!(before.is_none_or(|before| !before.is_better_than(after)));
                prop_assert!(!table.is_feasible(Prefix::DEFAULT, id, distance(seqno, metric)));
            }
        }
    }
}
