//! The route table (RFC 8966, section 3.2.6): for each prefix, what each neighbour told about it, which of it is used,
//! and how far what we told binds us (`source`).

use crate::interface::InterfaceId;
use crate::metric::Metric;
use crate::neighbour::NeighbourId;
use crate::prefix::PrefixPair;
use crate::prefix_map::PrefixMap;
use crate::price::Price;
use crate::router_id::RouterId;
use crate::selection::Pace;
use crate::seqno::Seqno;
use crate::source::{Distance, Originators, Slot, Slots};
use crate::time::Tenths;
use crate::wire::Interval;
use std::net::IpAddr;
use std::ops::Bound;
use std::time::Duration;

/// What a neighbour told about a prefix, as it is kept: small, since there are thousands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    pub(crate) neighbour: NeighbourId,
    pub(crate) expires: Tenths,
    /// `None`: unknown.
    pub(crate) price: Option<Price>,
    pub(crate) seqno: Seqno,
    /// As the neighbour sees it; infinite after a retraction.
    pub(crate) refmetric: Metric,
    pub(crate) interval: Interval,
    originator: Slot,
    /// How often the neighbour was asked to repeat the route, which is about to expire.
    pub(crate) refreshes_asked: u8,
}

/// The same as it is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) neighbour: NeighbourId,
    pub(crate) router_id: RouterId,
    pub(crate) seqno: Seqno,
    pub(crate) metric: Metric,
    /// `None`: the neighbour itself.
    pub(crate) next_hop: Option<IpAddr>,
    pub(crate) price: Option<Price>,
    pub(crate) interval: Interval,
}

impl Told {
    pub(crate) fn distance(&self) -> Distance {
        Distance { seqno: self.seqno, metric: self.metric }
    }
}

impl Route {
    pub(crate) fn told(&self) -> Distance {
        Distance { seqno: self.seqno, metric: self.refmetric }
    }

    pub(crate) fn is_retracted(&self) -> bool {
        !self.refmetric.is_finite()
    }

    /// When the neighbour is to be asked to repeat it; `None`: not any more.
    fn refresh_at(&self) -> Option<Tenths> {
        let may_be_asked = self.refreshes_asked < REFRESHES && !self.is_retracted();
        may_be_asked.then(|| refresh_at(self.expires, self.interval, self.refreshes_asked))
    }

    fn next_timeout(&self) -> Tenths {
        self.refresh_at().unwrap_or(self.expires)
    }
}

/// When an unrefreshed route expires (RFC 8966, Appendix B). 3.5 update intervals survive two lost
/// updates in a row, with half an interval of slack for a late third.
pub(crate) fn route_expiry(interval: Interval) -> Duration {
    interval.as_duration() * 7 / 2
}

/// A route is asked for again so often before it expires. On a link that loses a fifth, three updates in a row and one
/// question or its answer are lost every few node-hours, and a route that has expired is missed until the next update.
const REFRESHES: u8 = 4;

/// When to ask for a route again: an eighth of its life before it expires, and then whenever half of the rest has passed.
pub(crate) fn refresh_at(expires: Tenths, interval: Interval, asked: u8) -> Tenths {
    expires.before(route_expiry(interval) / (8 << asked.min(REFRESHES)))
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

/// Nothing.
impl Default for Announced {
    fn default() -> Self {
        Self { metric: Metric::INFINITY, price: None }
    }
}

/// All about one prefix.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entry {
    /// At most one per neighbour.
    candidates: Box<[Route]>,
    originators: Originators,
    rarities: Option<Box<Rarities>>,
    choice: Option<Choice>,
    /// With an infinite metric: nothing.
    announced: Announced,
}

/// What few prefixes have at any one time.
#[derive(Clone, Debug, Default)]
struct Rarities {
    /// The metric this speaker originates it with.
    origin: Option<Metric>,
    /// Lost; kept as unreachable until nobody can believe in our route any more, so that a shorter
    /// prefix does not lead its packets in a circle (RFC 8966, section 3.5.4).
    held_until: Option<Tenths>,
    pace: Pace,
    /// Third parties that neighbours named.
    next_hops: Vec<(NeighbourId, IpAddr)>,
}

/// [`Selected`] as it is kept.
#[derive(Clone, Copy, Debug)]
struct Choice {
    via: Option<Via>,
    price: Option<Price>,
    seqno: Seqno,
    metric: Metric,
    originator: Slot,
}

impl Choice {
    fn distance(&self) -> Distance {
        Distance { seqno: self.seqno, metric: self.metric }
    }
}

/// What became of a route that was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// The neighbour told nothing about the prefix before.
    New,
    Replaced {
        next_hop_changed: bool,
    },
    /// Too many originators.
    NoRoom,
}

/// What neighbours told.
impl Entry {
    pub(crate) fn candidates(&self) -> &[Route] {
        &self.candidates
    }

    pub(crate) fn candidate(&self, neighbour: NeighbourId) -> Option<&Route> {
        self.candidates.iter().find(|route| route.neighbour == neighbour)
    }

    pub(crate) fn candidate_mut(&mut self, neighbour: NeighbourId) -> Option<&mut Route> {
        self.candidates.iter_mut().find(|route| route.neighbour == neighbour)
    }

    /// In place of what the same neighbour told before.
    pub(crate) fn put(&mut self, told: &Told, expires: Tenths) -> Put {
        let (candidates, choice) = (&self.candidates, self.choice);
        let in_use = || slots_of(candidates, choice);
        let Some(originator) = self.originators.slot(told.router_id, in_use) else { return Put::NoRoom };
        let route = Route {
            neighbour: told.neighbour,
            expires,
            price: told.price,
            seqno: told.seqno,
            refmetric: told.metric,
            interval: told.interval,
            originator,
            refreshes_asked: 0,
        };
        let next_hop_changed = self.next_hop(told.neighbour) != told.next_hop;
        if next_hop_changed {
            self.rarities(|rarities| {
                rarities.next_hops.retain(|(neighbour, _)| *neighbour != told.neighbour);
                rarities.next_hops.extend(told.next_hop.map(|next_hop| (told.neighbour, next_hop)));
            });
        }
        if let Some(old) = self.candidate_mut(told.neighbour) {
            *old = route;
            return Put::Replaced { next_hop_changed };
        }
        self.candidates = self.candidates.iter().copied().chain([route]).collect();
        Put::New
    }

    /// If it repeats what is known, it holds so much longer. `false`: it does not.
    pub(crate) fn put_off(&mut self, told: &Told, expires: Tenths) -> bool {
        let next_hop = self.next_hop(told.neighbour);
        let Self { candidates, originators, .. } = self;
        let Some(route) = candidates.iter_mut().find(|route| route.neighbour == told.neighbour) else { return false };
        let known = Told {
            neighbour: route.neighbour,
            router_id: originators.router_id(route.originator),
            seqno: route.seqno,
            metric: route.refmetric,
            next_hop,
            price: route.price,
            interval: route.interval,
        };
        if known == *told {
            (route.expires, route.refreshes_asked) = (expires, 0);
        }
        known == *told
    }

    pub(crate) fn remove(&mut self, neighbour: NeighbourId) {
        self.retain(|route| route.neighbour != neighbour);
    }

    fn retain(&mut self, mut keep: impl FnMut(&mut Route) -> bool) {
        let mut candidates = std::mem::take(&mut self.candidates).into_vec();
        candidates.retain_mut(&mut keep);
        self.candidates = candidates.into_boxed_slice();
        self.trim();
        if let Some(rarities) = &mut self.rarities {
            let is_known = |neighbour| self.candidates.iter().any(|route| route.neighbour == neighbour);
            rarities.next_hops.retain(|(neighbour, _)| is_known(*neighbour));
        }
    }

    fn trim(&mut self) {
        let (candidates, choice) = (&self.candidates, self.choice);
        self.originators.trim(|| slots_of(candidates, choice));
    }

    /// `None`: the neighbour itself.
    pub(crate) fn next_hop(&self, neighbour: NeighbourId) -> Option<IpAddr> {
        let next_hops = &self.rarities.as_ref()?.next_hops;
        next_hops.iter().find(|(of, _)| *of == neighbour).map(|(_, next_hop)| *next_hop)
    }

    pub(crate) fn originator(&self, route: &Route) -> RouterId {
        self.originators.router_id(route.originator)
    }

    pub(crate) fn is_feasible(&self, id: RouterId, told: Distance) -> bool {
        self.originators.is_feasible(id, told)
    }

    /// The same for a candidate.
    pub(crate) fn is_route_feasible(&self, route: &Route) -> bool {
        self.originators.is_feasible_in(route.originator, route.told())
    }

    pub(crate) fn feasibility(&self, id: RouterId) -> Option<Distance> {
        self.originators.feasibility(id)
    }

    /// Of the source table.
    pub(crate) fn sources(&self) -> impl Iterator<Item = (RouterId, Distance)> {
        self.originators.sources()
    }
}

/// Those that something names.
fn slots_of(candidates: &[Route], choice: Option<Choice>) -> Slots {
    candidates.iter().map(|route| route.originator).chain(choice.map(|choice| choice.originator)).collect()
}

/// What is made of it.
impl Entry {
    pub(crate) fn selected(&self) -> Option<Selected> {
        let choice = self.choice.as_ref()?;
        Some(Selected {
            via: choice.via,
            router_id: self.originators.router_id(choice.originator),
            seqno: choice.seqno,
            metric: choice.metric,
            price: choice.price,
        })
    }

    pub(crate) fn metric_in_use(&self) -> Option<Metric> {
        self.choice.map(|choice| choice.metric)
    }

    /// What is through a neighbour must be one of the candidates.
    pub(crate) fn select(&mut self, selected: Option<Selected>) {
        let candidates = &self.candidates;
        self.choice = selected.and_then(|Selected { via, router_id, seqno, metric, price }| {
            let originator = self.originators.own_slot(router_id, || slots_of(candidates, None))?;
            Some(Choice { via, price, seqno, metric, originator })
        });
    }

    pub(crate) fn announced(&self) -> Option<Announced> {
        Some(self.announced).filter(|announced| announced.metric.is_finite())
    }

    pub(crate) fn origin(&self) -> Option<Metric> {
        self.rarities.as_ref()?.origin
    }

    pub(crate) fn set_origin(&mut self, origin: Option<Metric>) {
        self.rarities(|rarities| rarities.origin = origin);
    }

    pub(crate) fn is_held(&self) -> bool {
        self.held_until().is_some()
    }

    fn held_until(&self) -> Option<Tenths> {
        self.rarities.as_ref()?.held_until
    }

    pub(crate) fn hold(&mut self, until: Option<Tenths>) {
        if self.held_until() != until {
            self.rarities(|rarities| rarities.held_until = until);
        }
    }

    pub(crate) fn pace(&self) -> Pace {
        self.rarities.as_ref().map(|rarities| rarities.pace).unwrap_or_default()
    }

    pub(crate) fn set_pace(&mut self, pace: Pace) {
        if self.rarities.is_some() || !pace.is_idle() {
            self.rarities(|rarities| rarities.pace = pace);
        }
    }

    /// Changes them, and drops them if none is left.
    fn rarities(&mut self, change: impl FnOnce(&mut Rarities)) {
        let rarities = self.rarities.get_or_insert_default();
        change(rarities);
        if rarities.is_empty() {
            self.rarities = None;
        }
    }

    pub(crate) fn selects(&self, neighbour: NeighbourId) -> bool {
        self.selected_neighbour() == Some(neighbour)
    }

    pub(crate) fn selected_neighbour(&self) -> Option<NeighbourId> {
        self.choice.and_then(|choice| choice.via).map(|via| via.neighbour)
    }

    /// Somebody tells of a way, and none may be used.
    pub(crate) fn is_starved(&self) -> bool {
        self.choice.is_none() && self.candidates.iter().any(|route| !route.is_retracted())
    }

    fn is_unused(&self) -> bool {
        self.candidates.is_empty()
            && self.choice.is_none()
            && self.sources().next().is_none()
            && self.rarities.as_ref().is_none_or(|rarities| rarities.origin.is_none() && rarities.held_until.is_none())
    }

    fn next_timeout(&self) -> Option<Tenths> {
        let rare = self.rarities.as_ref().map_or([None, None], |rarities| [rarities.held_until, rarities.pace.due]);
        let own = rare.into_iter().chain([self.originators.next_timeout()]).flatten();
        self.candidates.iter().map(Route::next_timeout).chain(own).min()
    }
}

impl Rarities {
    fn is_empty(&self) -> bool {
        self.origin.is_none() && self.held_until.is_none() && self.pace.is_idle() && self.next_hops.is_empty()
    }
}

/// The table, ordered by prefix.
#[derive(Clone, Debug)]
pub(crate) struct RouteTable {
    rows: PrefixMap<Row>,
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
        Self { rows: PrefixMap::default(), prefixes_max, sources: 0, sources_max }
    }

    pub(crate) fn get(&self, pair: PrefixPair) -> Option<&Entry> {
        self.rows.get(pair).map(|row| row.entry.as_ref())
    }

    pub(crate) fn get_mut(&mut self, pair: PrefixPair) -> Option<&mut Entry> {
        self.rows.get_mut(pair).map(Row::changed)
    }

    /// The entry, for changes that only put off what falls due.
    pub(crate) fn get_to_put_off(&mut self, pair: PrefixPair) -> Option<&mut Entry> {
        self.rows.get_mut(pair).map(|row| row.entry.as_mut())
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The entry, made if there is room.
    pub(crate) fn entry(&mut self, pair: PrefixPair) -> Option<&mut Entry> {
        if self.rows.len() >= self.prefixes_max && self.rows.get(pair).is_none() {
            return None;
        }
        Some(self.rows.entry(pair).changed())
    }

    pub(crate) fn selected(&self, pair: PrefixPair) -> Option<Selected> {
        self.get(pair)?.selected()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (PrefixPair, &Entry)> {
        self.rows.iter().map(|(pair, row)| (pair, row.entry.as_ref()))
    }

    /// What follows in the table's order.
    pub(crate) fn from(&self, start: Bound<PrefixPair>) -> impl Iterator<Item = (PrefixPair, &Entry)> {
        self.rows.from(start).map(|(pair, row)| (pair, row.entry.as_ref()))
    }

    pub(crate) fn forget_if_unused(&mut self, pair: PrefixPair) {
        if self.get(pair).is_some_and(Entry::is_unused) {
            self.rows.remove(pair);
        }
    }

    /// Prefixes about which the neighbour told something.
    pub(crate) fn told_by(&self, neighbour: NeighbourId) -> Vec<PrefixPair> {
        self.iter().filter(|(_, entry)| entry.candidate(neighbour).is_some()).map(|(pair, _)| pair).collect()
    }

    /// Prefixes this speaker originates.
    pub(crate) fn originated(&self) -> Vec<PrefixPair> {
        self.iter().filter(|(_, entry)| entry.origin().is_some()).map(|(pair, _)| pair).collect()
    }

    pub(crate) fn is_feasible(&self, pair: PrefixPair, id: RouterId, told: Distance) -> bool {
        self.get(pair).is_none_or(|entry| entry.is_feasible(id, told))
    }

    pub(crate) fn feasibility(&self, pair: PrefixPair, id: RouterId) -> Option<Distance> {
        self.get(pair)?.feasibility(id)
    }

    /// Whether a route of this originator can be announced: see [`Originators::has_room_for`].
    pub(crate) fn has_room_for_source(&self, entry: &Entry, id: RouterId) -> bool {
        entry.feasibility(id).is_some() || (self.sources < self.sources_max && entry.originators.has_room_for(id))
    }

    /// What is in use is about to be announced: remembers it. Before an update is sent, the feasibility distance is
    /// updated, "except for the node's own routes" (RFC 8966, section 3.7.3).
    pub(crate) fn record_announcement(&mut self, now: Tenths, pair: PrefixPair, believed_for: Duration) {
        let Some(entry) = self.get_to_put_off(pair) else { return };
        let Some(choice) = entry.choice else { return };
        entry.announced = Announced { metric: choice.metric, price: choice.price };
        if choice.via.is_some() {
            let new = entry.originators.record(now, choice.originator, choice.distance(), believed_for);
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
        for (pair, Row { look_at, entry }) in self.rows.iter_mut() {
            if *look_at <= now {
                if entry.next_timeout().is_some_and(|due| due <= now) {
                    self.sources -= sweep_entry(now, pair, entry, &mut swept);
                    unused.extend(entry.is_unused().then_some(pair));
                }
                *look_at = entry.next_timeout().unwrap_or(Tenths::MAX);
            }
            swept.next = swept.next.into_iter().chain(Some(*look_at).filter(|at| *at < Tenths::MAX)).min();
        }
        for pair in unused {
            self.rows.remove(pair);
        }
        swept
    }

    #[cfg(test)]
    pub(crate) fn sources(&self) -> usize {
        let counted = self.iter().map(|(_, entry)| entry.sources().count()).sum();
        assert_eq!(self.sources, counted, "rows of the source table");
        counted
    }
}

/// Returns how many sources were forgotten.
fn sweep_entry(now: Tenths, pair: PrefixPair, entry: &mut Entry, swept: &mut Swept) -> usize {
    let used = entry.selected_neighbour();
    let mut pace = entry.pace();
    let mut touched = pace.due.is_some_and(|due| due <= now);
    if touched {
        pace.due = None;
        entry.set_pace(pace);
    }
    if entry.candidates.iter().any(|route| route.next_timeout() <= now) {
        entry.retain(|route| {
            if route.expires <= now {
                touched = true;
                if route.is_retracted() {
                    swept.dropped.push(route.neighbour);
                    return false;
                }
                route.refmetric = Metric::INFINITY;
                route.expires = now.after(route_expiry(route.interval));
            } else if route.refresh_at().is_some_and(|at| at <= now) {
                route.refreshes_asked += 1;
                swept.expiring.extend((used == Some(route.neighbour)).then_some((pair, route.neighbour)));
            }
            true
        });
    }
    let forgotten = entry.originators.collect(now, entry.choice.map(|choice| choice.originator));
    if forgotten > 0 {
        entry.trim();
    }
    if touched || (forgotten > 0 && entry.is_starved()) {
        swept.touched.push(pair);
    }
    if entry.held_until().is_some_and(|until| until <= now) {
        entry.hold(None);
        swept.released.push(pair);
    }
    forgotten
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefix::Prefix;

    fn told(neighbour: NeighbourId) -> Told {
        Told {
            neighbour,
            router_id: RouterId::new([9; 8]).unwrap(),
            seqno: Seqno(1),
            metric: Metric(96),
            next_hop: None,
            price: None,
            interval: Interval(100),
        }
    }

    #[test]
    fn a_prefix_of_a_large_mesh_takes_so_much_room() {
        assert_eq!((size_of::<Route>(), size_of::<Entry>(), size_of::<Row>()), (20, 80, 16));
    }

    #[test]
    fn a_third_party_is_the_next_hop_until_its_neighbour_says_otherwise_or_is_gone() {
        let (one, other) = (NeighbourId::FIRST, NeighbourId::FIRST.next());
        let third = Some(IpAddr::V6("fe80::3".parse().unwrap()));
        let mut entry = Entry::default();
        let at = Tenths::default();
        assert_eq!(entry.put(&Told { next_hop: third, ..told(one) }, at), Put::New);
        assert_eq!(entry.put(&told(other), at), Put::New);
        assert_eq!((entry.next_hop(one), entry.next_hop(other)), (third, None));
        let said_again = entry.put(&Told { next_hop: third, ..told(one) }, at);
        assert_eq!(said_again, Put::Replaced { next_hop_changed: false });
        assert_eq!(entry.put(&told(one), at), Put::Replaced { next_hop_changed: true });
        assert_eq!(entry.next_hop(one), None);
        entry.put(&Told { next_hop: third, ..told(one) }, at);
        entry.remove(one);
        assert_eq!((entry.next_hop(one), entry.candidates().len()), (None, 1));
    }

    #[test]
    fn a_row_is_swept_when_its_first_timer_ends_also_if_that_came_forward() {
        let pair = PrefixPair::from(Prefix::new("fd00:9::".parse().unwrap(), 48).unwrap());
        let at = |seconds| Tenths::default().after(Duration::from_secs(seconds));
        let mut table = RouteTable::new(10, 10);
        let entry = table.entry(pair).unwrap();
        entry.put(&told(NeighbourId::FIRST), at(1000));
        entry.candidates[0].refreshes_asked = REFRESHES;
        assert_eq!(table.sweep(at(10)).next, Some(at(1000)));
        table.get_mut(pair).unwrap().candidates[0].expires = at(20);
        assert_eq!(table.sweep(at(19)).next, Some(at(20)));
        assert_eq!(table.sweep(at(20)).touched, [pair]);
    }
}
