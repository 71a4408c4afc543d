//! Route selection (RFC 8966, section 3.6): which of the feasible routes to a prefix is used.
//!
//! Only routes that are feasible, finite and through a usable neighbour come here, so nothing decided
//! here can make a loop, and neither seqno nor feasibility distance are shown. This is where a price
//! can take part.

use crate::metric::Metric;
use crate::price::Price;

/// A route that may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate<K> {
    pub(crate) key: K,
    /// Through the link to the neighbour.
    pub(crate) metric: Metric,
    /// Unknown prices do not exclude a route.
    pub(crate) price: Option<Price>,
    /// In use at present.
    pub(crate) current: bool,
}

/// The candidate with the smallest metric. Among equals the one in use stays, else the cheaper (unknown
/// is dearest), else the first in the order of keys: so the choice does not depend on arrival.
pub(crate) fn choose<K: Ord + Copy>(candidates: impl Iterator<Item = Candidate<K>>) -> Option<K> {
    let rank = |candidate: &Candidate<K>| {
        (candidate.metric, !candidate.current, candidate.price.is_none(), candidate.price, candidate.key)
    };
    candidates.min_by_key(rank).map(|candidate| candidate.key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(key: u8, metric: u16) -> Candidate<u8> {
        Candidate { key, metric: Metric(metric), price: None, current: false }
    }

    #[test]
    fn smallest_metric_wins_and_equals_do_not_displace_the_route_in_use() {
        let current = Candidate { current: true, ..candidate(2, 100) };
        assert_eq!(choose([candidate(1, 100), current].into_iter()), Some(2));
        assert_eq!(choose([candidate(1, 99), current].into_iter()), Some(1));
        assert_eq!(choose([candidate(3, 100), candidate(1, 100)].into_iter()), Some(1));
        assert_eq!(choose::<u8>([].into_iter()), None);
    }

    #[test]
    fn between_equal_metrics_the_cheaper_one_is_used() {
        let dear = Candidate { price: Some(Price::new(9)), ..candidate(1, 100) };
        let cheap = Candidate { price: Some(Price::ZERO), ..candidate(2, 100) };
        assert_eq!(choose([candidate(0, 100), dear, cheap].into_iter()), Some(2));
    }
}
