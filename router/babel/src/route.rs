//! The route table (RFC 8966, section 3.2.6): for each prefix, what each neighbour told about it, which of it is used,
//! and how far what we told binds us (`source`).

use crate::interface::InterfaceId;
use crate::metric::Metric;
use crate::neighbour::NeighbourId;
use crate::prefix::PrefixPair;
use crate::price::Price;
use crate::router_id::RouterId;
use crate::selection::Pace;
use crate::seqno::Seqno;
use crate::source::{Distance, Sources};
use crate::time::Tenths;
use crate::wire::Interval;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// What a neighbour told about a prefix.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) neighbour: NeighbourId,
    pub(crate) router_id: RouterId,
    pub(crate) seqno: Seqno,
    /// As the neighbour sees it; infinite after a retraction.
    pub(crate) refmetric: Metric,
    /// `None`: the neighbour itself. Kept apart since a third party is rare, and large.
    pub(crate) next_hop: Option<Box<IpAddr>>,
    /// `None`: unknown.
    pub(crate) price: Option<Price>,
    pub(crate) interval: Interval,
    /// The neighbour was asked to repeat the route, which is about to expire.
    pub(crate) refresh_asked: bool,
    pub(crate) expires: Tenths,
}

impl Route {
    pub(crate) fn told(&self) -> Distance {
        Distance { seqno: self.seqno, metric: self.refmetric }
    }

    pub(crate) fn is_retracted(&self) -> bool {
        !self.refmetric.is_finite()
    }

    /// When to ask for it again: an eighth of its life before it expires.
    pub(crate) fn refresh_at(&self) -> Tenths {
        self.expires.before(route_expiry(self.interval) / 8)
    }

    fn next_timeout(&self) -> Tenths {
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
}

impl Selected {
    pub(crate) fn distance(&self) -> Distance {
        Distance { seqno: self.seqno, metric: self.metric }
    }

    pub(crate) fn interface(&self) -> Option<InterfaceId> {
        self.via.map(|via| via.interface)
    }
}

/// What neighbours were told last: what a change is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Announced {
    pub(crate) metric: Metric,
    pub(crate) price: Option<Price>,
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
    pub(crate) held_until: Option<Tenths>,
    pub(crate) announced: Option<Announced>,
    pub(crate) sources: Sources,
    pub(crate) pace: Pace,
}

impl Entry {
    pub(crate) fn candidate(&mut self, neighbour: NeighbourId) -> Option<&mut Route> {
        self.candidates.iter_mut().find(|route| route.neighbour == neighbour)
    }

    pub(crate) fn selects(&self, neighbour: NeighbourId) -> bool {
        self.selected_neighbour() == Some(neighbour)
    }

    pub(crate) fn selected_neighbour(&self) -> Option<NeighbourId> {
        self.selected.and_then(|selected| selected.via).map(|via| via.neighbour)
    }

    /// Somebody tells of a way, and none may be used.
    pub(crate) fn is_starved(&self) -> bool {
        self.selected.is_none() && self.candidates.iter().any(|route| !route.is_retracted())
    }

    fn is_unused(&self) -> bool {
        self.origin.is_none()
            && self.candidates.is_empty()
            && self.selected.is_none()
            && self.held_until.is_none()
            && self.sources.is_empty()
    }

    fn next_timeout(&self) -> Option<Tenths> {
        let own = [self.held_until, self.sources.next_timeout(), self.pace.due].into_iter().flatten();
        self.candidates.iter().map(Route::next_timeout).chain(own).min()
    }
}

/// The table, ordered by prefix.
#[derive(Clone, Debug)]
pub(crate) struct RouteTable {
    rows: BTreeMap<PrefixPair, Row>,
    prefixes_max: usize,
    /// Rows of the source tables of all entries.
    sources: usize,
    sources_max: usize,
}

#[derive(Clone, Debug, Default)]
struct Row {
    /// Nothing falls due before: most rows can be passed over without a look at their entries. Zero after a change.
    look_at: Tenths,
    /// Boxed, since a search reads the keys alone, and nodes of a B-tree are a third empty.
    entry: Box<Entry>,
}

/// What a sweep over the table found.
#[derive(Debug, Default)]
pub(crate) struct Swept {
    /// To be selected anew.
    pub(crate) touched: Vec<PrefixPair>,
    /// The time of holding them is over.
    pub(crate) released: Vec<PrefixPair>,
    /// To be asked for again.
    pub(crate) expiring: Vec<(PrefixPair, NeighbourId)>,
    /// Retracted routes that are gone.
    pub(crate) dropped: Vec<NeighbourId>,
    pub(crate) next: Option<Tenths>,
}

impl Row {
    fn changed(&mut self) -> &mut Entry {
        self.look_at = Tenths::default();
        &mut self.entry
    }
}

impl RouteTable {
    pub(crate) fn new(prefixes_max: usize, sources_max: usize) -> Self {
        Self { rows: BTreeMap::new(), prefixes_max, sources: 0, sources_max }
    }

    pub(crate) fn get(&self, pair: PrefixPair) -> Option<&Entry> {
        self.rows.get(&pair).map(|row| row.entry.as_ref())
    }

    pub(crate) fn get_mut(&mut self, pair: PrefixPair) -> Option<&mut Entry> {
        self.rows.get_mut(&pair).map(Row::changed)
    }

    /// The entry, for changes that only put off what falls due.
    pub(crate) fn get_to_put_off(&mut self, pair: PrefixPair) -> Option<&mut Entry> {
        self.rows.get_mut(&pair).map(|row| row.entry.as_mut())
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The entry, made if there is room.
    pub(crate) fn entry(&mut self, pair: PrefixPair) -> Option<&mut Entry> {
        if self.rows.len() >= self.prefixes_max && !self.rows.contains_key(&pair) {
            return None;
        }
        Some(self.rows.entry(pair).or_default().changed())
    }

    pub(crate) fn selected(&self, pair: PrefixPair) -> Option<Selected> {
        self.get(pair)?.selected
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (PrefixPair, &Entry)> {
        self.rows.iter().map(|(pair, row)| (*pair, row.entry.as_ref()))
    }

    pub(crate) fn range(
        &self,
        range: impl std::ops::RangeBounds<PrefixPair>,
    ) -> impl Iterator<Item = (PrefixPair, &Entry)> {
        self.rows.range(range).map(|(pair, row)| (*pair, row.entry.as_ref()))
    }

    pub(crate) fn forget_if_unused(&mut self, pair: PrefixPair) {
        if self.get(pair).is_some_and(Entry::is_unused) {
            self.rows.remove(&pair);
        }
    }

    /// Prefixes about which the neighbour told something.
    pub(crate) fn told_by(&self, neighbour: NeighbourId) -> Vec<PrefixPair> {
        let told = |entry: &Entry| entry.candidates.iter().any(|route| route.neighbour == neighbour);
        self.iter().filter(|(_, entry)| told(entry)).map(|(pair, _)| pair).collect()
    }

    /// Prefixes this speaker originates.
    pub(crate) fn originated(&self) -> Vec<PrefixPair> {
        self.iter().filter(|(_, entry)| entry.origin.is_some()).map(|(pair, _)| pair).collect()
    }

    pub(crate) fn is_feasible(&self, pair: PrefixPair, id: RouterId, told: Distance) -> bool {
        self.get(pair).is_none_or(|entry| entry.sources.is_feasible(id, told))
    }

    pub(crate) fn feasibility(&self, pair: PrefixPair, id: RouterId) -> Option<Distance> {
        self.get(pair)?.sources.feasibility(id)
    }

    /// Whether a route of this originator can be announced: see [`Sources::has_room_for`].
    pub(crate) fn has_room_for_source(&self, entry: &Entry, id: RouterId) -> bool {
        entry.sources.feasibility(id).is_some() || (self.sources < self.sources_max && entry.sources.has_room_for(id))
    }

    /// What is in use is about to be announced: remembers it. Before an update is sent, the feasibility distance is
    /// updated, "except for the node's own routes" (RFC 8966, section 3.7.3).
    pub(crate) fn record_announcement(&mut self, now: Tenths, pair: PrefixPair, believed_for: Duration) {
        let Some(entry) = self.get_to_put_off(pair) else { return };
        let Some(selected) = entry.selected else { return };
        entry.announced = Some(Announced { metric: selected.metric, price: selected.price });
        if selected.via.is_some() {
            let new = entry.sources.record(now, selected.router_id, selected.distance(), believed_for);
            if new {
                self.sources += 1;
                self.get_mut(pair);
            }
        }
    }

    /// Expires routes: a finite one becomes a retraction and waits once more, a retracted one goes.
    pub(crate) fn sweep(&mut self, now: Tenths) -> Swept {
        let mut swept = Swept::default();
        let mut unused = Vec::new();
        for (pair, Row { look_at, entry }) in &mut self.rows {
            if *look_at <= now {
                if entry.next_timeout().is_some_and(|due| due <= now) {
                    self.sources -= sweep_entry(now, *pair, entry, &mut swept);
                    unused.extend(entry.is_unused().then_some(*pair));
                }
                *look_at = entry.next_timeout().unwrap_or(Tenths::MAX);
            }
            swept.next = swept.next.into_iter().chain(Some(*look_at).filter(|at| *at < Tenths::MAX)).min();
        }
        for pair in unused {
            self.rows.remove(&pair);
        }
        swept
    }

    #[cfg(test)]
    pub(crate) fn sources(&self) -> usize {
        let counted = self.rows.values().map(|row| row.entry.sources.iter().count()).sum();
        assert_eq!(self.sources, counted, "rows of the source table");
        counted
    }
}

/// Returns how many sources were forgotten.
fn sweep_entry(now: Tenths, pair: PrefixPair, entry: &mut Entry, swept: &mut Swept) -> usize {
    let used = entry.selected_neighbour();
    let mut touched = entry.pace.due.is_some_and(|due| due <= now);
    entry.pace.due = entry.pace.due.filter(|due| *due > now);
    entry.candidates.retain_mut(|route| {
        if route.expires <= now {
            touched = true;
            if route.is_retracted() {
                swept.dropped.push(route.neighbour);
                return false;
            }
            route.refmetric = Metric::INFINITY;
            route.expires = now.after(route_expiry(route.interval));
        } else if !route.refresh_asked && !route.is_retracted() && route.refresh_at() <= now {
            route.refresh_asked = true;
            swept.expiring.extend((used == Some(route.neighbour)).then_some((pair, route.neighbour)));
        }
        true
    });
    let originator = entry.selected.map(|selected| selected.router_id);
    let forgotten = entry.sources.collect(now, originator);
    if touched || (forgotten > 0 && entry.is_starved()) {
        swept.touched.push(pair);
    }
    if entry.held_until.is_some_and(|until| until <= now) {
        entry.held_until = None;
        swept.released.push(pair);
    }
    forgotten
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefix::Prefix;

    fn route(expires: Tenths) -> Route {
        Route {
            neighbour: NeighbourId(1),
            router_id: RouterId::new([9; 8]).unwrap(),
            seqno: Seqno(1),
            refmetric: Metric(96),
            next_hop: None,
            price: None,
            interval: Interval(100),
            refresh_asked: true,
            expires,
        }
    }

    #[test]
    fn a_row_is_swept_when_its_first_timer_ends_also_if_that_came_forward() {
        let pair = PrefixPair::from(Prefix::new("fd00:9::".parse().unwrap(), 48).unwrap());
        let at = |seconds| Tenths::default().after(Duration::from_secs(seconds));
        let mut table = RouteTable::new(10, 10);
        table.entry(pair).unwrap().candidates.push(route(at(1000)));
        assert_eq!(table.sweep(at(10)).next, Some(at(1000)));
        table.get_mut(pair).unwrap().candidates[0].expires = at(20);
        assert_eq!(table.sweep(at(19)).next, Some(at(20)));
        assert_eq!(table.sweep(at(20)).touched, [pair]);
    }
}
