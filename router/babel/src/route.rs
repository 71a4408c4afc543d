//! The route table (RFC 8966, section 3.2.6): for each prefix, what each neighbour told about it, and
//! which of it is used.

use crate::interface::InterfaceId;
use crate::metric::Metric;
use crate::neighbour::NeighbourId;
use crate::prefix::Prefix;
use crate::price::Price;
use crate::router_id::RouterId;
use crate::seqno::Seqno;
use crate::source::Distance;
use crate::wire::Interval;
use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

/// What a neighbour told about a prefix.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) neighbour: NeighbourId,
    pub(crate) router_id: RouterId,
    pub(crate) seqno: Seqno,
    /// As the neighbour sees it; infinite after a retraction.
    pub(crate) refmetric: Metric,
    pub(crate) next_hop: Ipv6Addr,
    /// `None`: unknown.
    pub(crate) price: Option<Price>,
    pub(crate) interval: Interval,
    pub(crate) expires: Instant,
    /// The neighbour was asked to repeat the route, which is about to expire.
    pub(crate) refresh_asked: bool,
}

impl Route {
    pub(crate) fn told(&self) -> Distance {
        Distance { seqno: self.seqno, metric: self.refmetric }
    }

    pub(crate) fn is_retracted(&self) -> bool {
        !self.refmetric.is_finite()
    }

    /// When to ask for it again: an eighth of its life before it expires.
    fn refresh_at(&self) -> Instant {
        self.expires.checked_sub(route_expiry(self.interval) / 8).unwrap_or(self.expires)
    }

    fn next_timeout(&self) -> Instant {
        if self.refresh_asked || self.is_retracted() { self.expires } else { self.refresh_at() }
    }
}

/// When an unrefreshed route expires (RFC 8966, Appendix B). 3.5 update intervals survive two lost
/// updates in a row, with half an interval of slack for a late third.
pub(crate) fn route_expiry(interval: Interval) -> Duration {
    interval.as_duration() * 7 / 2
}

/// The way to a prefix that is in use, and what is told to neighbours about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Selected {
    /// `None`: this speaker originates the prefix.
    pub(crate) via: Option<Via>,
    pub(crate) router_id: RouterId,
    pub(crate) seqno: Seqno,
    pub(crate) metric: Metric,
    pub(crate) price: Option<Price>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Via {
    pub(crate) interface: InterfaceId,
    pub(crate) neighbour: NeighbourId,
    pub(crate) next_hop: Ipv6Addr,
}

impl Selected {
    pub(crate) fn distance(&self) -> Distance {
        Distance { seqno: self.seqno, metric: self.metric }
    }

    pub(crate) fn interface(&self) -> Option<InterfaceId> {
        self.via.map(|via| via.interface)
    }
}

/// All about one prefix.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entry {
    /// The metric this speaker originates it with.
    pub(crate) origin: Option<Metric>,
    /// At most one per neighbour.
    pub(crate) candidates: Vec<Route>,
    pub(crate) selected: Option<Selected>,
    /// Lost; kept as unreachable until nobody can believe in our route any more, so that a shorter
    /// prefix does not lead its packets in a circle (RFC 8966, section 3.5.4).
    pub(crate) held_until: Option<Instant>,
    /// The metric last announced: what a new one is compared with.
    pub(crate) announced: Option<Metric>,
}

impl Entry {
    pub(crate) fn candidate(&mut self, neighbour: NeighbourId) -> Option<&mut Route> {
        self.candidates.iter_mut().find(|route| route.neighbour == neighbour)
    }

    pub(crate) fn selects(&self, neighbour: NeighbourId) -> bool {
        self.selected.and_then(|selected| selected.via).is_some_and(|via| via.neighbour == neighbour)
    }

    fn is_unused(&self) -> bool {
        self.origin.is_none() && self.candidates.is_empty() && self.selected.is_none() && self.held_until.is_none()
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.candidates.iter().map(Route::next_timeout).chain(self.held_until).min()
    }
}

/// The table, ordered by prefix.
#[derive(Clone, Debug)]
pub(crate) struct RouteTable {
    entries: BTreeMap<Prefix, Entry>,
    prefixes_max: usize,
}

/// What a sweep over the table found.
#[derive(Debug, Default)]
pub(crate) struct Swept {
    /// Their routes changed.
    pub(crate) touched: Vec<Prefix>,
    /// The time of holding them is over.
    pub(crate) released: Vec<Prefix>,
    /// To be asked for again.
    pub(crate) expiring: Vec<(Prefix, NeighbourId)>,
    pub(crate) next: Option<Instant>,
}

impl RouteTable {
    pub(crate) fn new(prefixes_max: usize) -> Self {
        Self { entries: BTreeMap::new(), prefixes_max }
    }

    pub(crate) fn get(&self, prefix: Prefix) -> Option<&Entry> {
        self.entries.get(&prefix)
    }

    pub(crate) fn get_mut(&mut self, prefix: Prefix) -> Option<&mut Entry> {
        self.entries.get_mut(&prefix)
    }

    /// The entry, made if there is room.
    pub(crate) fn entry(&mut self, prefix: Prefix) -> Option<&mut Entry> {
        if self.entries.len() >= self.prefixes_max && !self.entries.contains_key(&prefix) {
            return None;
        }
        Some(self.entries.entry(prefix).or_default())
    }

    pub(crate) fn selected(&self, prefix: Prefix) -> Option<Selected> {
        self.entries.get(&prefix)?.selected
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Prefix, &Entry)> {
        self.entries.iter().map(|(prefix, entry)| (*prefix, entry))
    }

    pub(crate) fn range(&self, range: impl std::ops::RangeBounds<Prefix>) -> impl Iterator<Item = (Prefix, &Entry)> {
        self.entries.range(range).map(|(prefix, entry)| (*prefix, entry))
    }

    pub(crate) fn forget_if_unused(&mut self, prefix: Prefix) {
        if self.entries.get(&prefix).is_some_and(Entry::is_unused) {
            self.entries.remove(&prefix);
        }
    }

    /// Prefixes about which the neighbour told something.
    pub(crate) fn told_by(&self, neighbour: NeighbourId) -> Vec<Prefix> {
        let told = |entry: &Entry| entry.candidates.iter().any(|route| route.neighbour == neighbour);
        self.entries.iter().filter(|(_, entry)| told(entry)).map(|(prefix, _)| *prefix).collect()
    }

    /// Prefixes this speaker originates.
    pub(crate) fn originated(&self) -> Vec<Prefix> {
        self.entries.iter().filter(|(_, entry)| entry.origin.is_some()).map(|(prefix, _)| *prefix).collect()
    }

    /// Expires routes: a finite one becomes a retraction and waits once more, a retracted one goes.
    pub(crate) fn sweep(&mut self, now: Instant) -> Swept {
        let mut swept = Swept::default();
        for (prefix, entry) in &mut self.entries {
            sweep_entry(now, *prefix, entry, &mut swept);
            swept.next = swept.next.into_iter().chain(entry.next_timeout()).min();
        }
        for prefix in &swept.released {
            self.forget_if_unused(*prefix);
        }
        swept
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

fn sweep_entry(now: Instant, prefix: Prefix, entry: &mut Entry, swept: &mut Swept) {
    let candidates = entry.candidates.len();
    entry.candidates.retain(|route| route.expires > now || !route.is_retracted());
    let mut touched = entry.candidates.len() != candidates;
    let used = entry.selected.and_then(|selected| selected.via).map(|via| via.neighbour);
    for route in &mut entry.candidates {
        if route.expires <= now {
            route.refmetric = Metric::INFINITY;
            route.expires = now + route_expiry(route.interval);
            touched = true;
        } else if !route.refresh_asked && !route.is_retracted() && route.refresh_at() <= now {
            route.refresh_asked = true;
            swept.expiring.extend((used == Some(route.neighbour)).then_some((prefix, route.neighbour)));
        }
    }
    if touched {
        swept.touched.push(prefix);
    }
    if entry.held_until.is_some_and(|until| until <= now) {
        entry.held_until = None;
        swept.released.push(prefix);
    }
}
