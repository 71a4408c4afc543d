//! The speaker: messages and time in, messages and routes out.

use crate::interface::{Fee, Interface, InterfaceConfig, InterfaceId, InterfaceKind, QUICK_HELLO, Trigger};
use crate::metric::{Cost, Metric};
use crate::neighbour::{Neighbour, NeighbourId};
use crate::pending::{PendingTable, Target};
use crate::prefix::Prefix;
use crate::price::Price;
use crate::route::{Route, RouteTable, Selected, Via, route_expiry};
use crate::router_id::RouterId;
use crate::selection::{self, Candidate};
use crate::seqno::Seqno;
use crate::source::{Distance, GC_TIME, SourceTable};
use crate::wire::{Acknowledgment, AnyPrefix, DecodeError, Hello, Ihu, Packet, RouteRequest, Tlv, Update};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// What a speaker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Its name; keep it and `seqno` together over a restart, or take a new name.
    pub router_id: RouterId,
    /// Where its sequence number starts: at what [`Event::SeqnoChanged`] last told, if the name is kept.
    pub seqno: Seqno,
    /// The unit of all prices; quotes in another one count as unknown.
    pub price_unit: u8,
    /// Sizes of the tables.
    pub limits: Limits,
}

impl Config {
    /// The defaults.
    #[must_use]
    pub fn new(router_id: RouterId, seqno: Seqno) -> Self {
        Self { router_id, seqno, price_unit: 0, limits: Limits::default() }
    }
}

/// Hard limits. A full table refuses what is new and keeps what it has; each refusal is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// On all interfaces together.
    pub neighbours: usize,
    /// Prefixes, each with at most one route per neighbour.
    pub prefixes: usize,
    /// Pairs of prefix and router-id whose feasibility distance is remembered.
    pub sources: usize,
    /// Seqno requests without an answer.
    pub pending: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { neighbours: 256, prefixes: 8192, sources: 16_384, pending: 1024 }
    }
}

/// Where a packet goes, or was sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// [`crate::wire::MULTICAST_GROUP`].
    Multicast,
    /// A link-local address.
    Unicast(Ipv6Addr),
}

/// A packet to send from the interface's link-local address, port 6696, to port 6696.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Out of which interface.
    pub interface: InterfaceId,
    /// To whom.
    pub to: Destination,
    /// The UDP payload.
    pub payload: Vec<u8>,
}

/// What has changed. Events tell the latest state: what changed twice is told once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Packets for the prefix go this way; replaces what was told before.
    RouteSelected {
        /// Where to.
        prefix: Prefix,
        /// Through which interface.
        via: InterfaceId,
        /// To which address there.
        next_hop: Ipv6Addr,
        /// The route's metric.
        metric: Metric,
        /// What the next hop asks; `None`: unknown.
        price: Option<Price>,
    },
    /// The prefix cannot be reached: its packets must be refused, not sent by a shorter prefix.
    RouteLost {
        /// Where to.
        prefix: Prefix,
    },
    /// Babel has nothing to say about the prefix any more: drop the entry. Also told when this speaker
    /// originates the prefix itself.
    RouteForgotten {
        /// Where to.
        prefix: Prefix,
    },
    /// The link to a neighbour can be used.
    NeighbourUp {
        /// Where it is.
        interface: InterfaceId,
        /// Its link-local address.
        address: Ipv6Addr,
    },
    /// The link to a neighbour cannot be used.
    NeighbourDown {
        /// Where it was.
        interface: InterfaceId,
        /// Its link-local address.
        address: Ipv6Addr,
    },
    /// Our sequence number, to be remembered over a restart.
    SeqnoChanged(Seqno),
}

/// A route as people look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteView {
    /// Where to.
    pub prefix: Prefix,
    /// Interface and address of the neighbour who told it; `None`: originated here.
    pub neighbour: Option<(InterfaceId, Ipv6Addr)>,
    /// Where its packets go; `None`: here.
    pub next_hop: Option<Ipv6Addr>,
    /// The originator.
    pub router_id: RouterId,
    /// The originator's sequence number.
    pub seqno: Seqno,
    /// The metric the neighbour told.
    pub refmetric: Metric,
    /// With the cost of the link.
    pub metric: Metric,
    /// What the neighbour asks.
    pub price: Option<Price>,
    /// Whether it may be used without fear of a loop.
    pub feasible: bool,
    /// Whether it is used.
    pub selected: bool,
}

/// A neighbour as people look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourView {
    /// Where it is.
    pub interface: InterfaceId,
    /// Its link-local address.
    pub address: Ipv6Addr,
    /// Which of its last 16 multicast Hellos arrived, newest in the lowest bit.
    pub reach: u16,
    /// Our cost of hearing it.
    pub rxcost: Cost,
    /// Its cost of hearing us.
    pub txcost: Cost,
    /// What the link adds to a metric.
    pub cost: Cost,
}

/// What was received and not used, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets on an interface that is not up.
    pub unknown_interface: u64,
    /// Packets whose source is not a link-local address, or is our own.
    pub foreign_source: u64,
    /// Messages from somebody whose Hello we have not heard.
    pub unknown_neighbour: u64,
    /// Hellos for which the neighbour table had no room.
    pub neighbours_full: u64,
    /// Routes for which the route table had no room.
    pub prefixes_full: u64,
    /// Routes that cannot be announced because the source table had no room.
    pub sources_full: u64,
    /// Updates for prefixes nobody may announce.
    pub unroutable_prefix: u64,
    /// IPv4 and source-specific messages.
    pub not_carried: u64,
}

/// A Babel speaker (RFC 8966).
///
/// Tell it what happens with the `handle_` calls, then drain [`Speaker::poll_transmit`] and
/// [`Speaker::poll_event`], and call [`Speaker::handle_timeout`] at [`Speaker::poll_timeout`].
///
/// ```
/// # use babel::*;
/// # #[expect(clippy::disallowed_methods, reason = "an Instant has no other origin")]
/// # let now = std::time::Instant::now();
/// let name = RouterId::new(*b"waybill1").unwrap();
/// let mut speaker = Speaker::new(Config::new(name, Seqno(1)), 42);
/// let home = Prefix::new("fd12:3456:789a::".parse().unwrap(), 48).unwrap();
/// speaker.handle_originate(now, home, Metric::ZERO);
/// speaker.handle_interface_up(now, InterfaceId(1), InterfaceConfig::tunnel("fe80::1".parse().unwrap()));
/// speaker.handle_timeout(now);
/// let hello = speaker.poll_transmit(now).unwrap();
/// assert_eq!(hello.to, Destination::Multicast);
/// ```
#[derive(Debug)]
pub struct Speaker {
    pub(crate) config: Config,
    pub(crate) seqno: Seqno,
    pub(crate) seqno_changed_at: Option<Instant>,
    /// A change of our seqno that came too soon after the last.
    pub(crate) seqno_due: Option<Instant>,
    pub(crate) rng: fastrand::Rng,
    pub(crate) interfaces: BTreeMap<InterfaceId, Interface>,
    pub(crate) neighbours: BTreeMap<NeighbourId, Neighbour>,
    neighbour_ids: BTreeMap<(InterfaceId, Ipv6Addr), NeighbourId>,
    next_neighbour: u32,
    pub(crate) sources: SourceTable,
    pub(crate) routes: RouteTable,
    pub(crate) pending: PendingTable,
    /// Lower bounds on when anything in the tables falls due.
    routes_due: Option<Instant>,
    sources_due: Option<Instant>,
    pub(crate) pending_due: Option<Instant>,
    changed: Changed,
    pub(crate) counters: Counters,
}

/// What the next events are about; each bounded by a table.
#[derive(Debug, Default)]
struct Changed {
    seqno: bool,
    neighbours: BTreeSet<(InterfaceId, Ipv6Addr)>,
    prefixes: BTreeSet<Prefix>,
}

/// Sweeps over a whole table are at least this far apart, however short a neighbour's intervals are.
const SWEEP_SPACING: Duration = Duration::from_millis(100);
/// A new neighbour, or one that just became audible, gets a Hello and an IHU this soon.
const HELLO_SOON: Duration = Duration::from_millis(20);

impl Speaker {
    /// A speaker without interfaces. Two speakers with the same arguments do the same for ever.
    #[must_use]
    pub fn new(config: Config, rng_seed: u64) -> Self {
        Self {
            config,
            seqno: config.seqno,
            seqno_changed_at: None,
            seqno_due: None,
            rng: fastrand::Rng::with_seed(rng_seed),
            interfaces: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            neighbour_ids: BTreeMap::new(),
            next_neighbour: 0,
            sources: SourceTable::new(config.limits.sources),
            routes: RouteTable::new(config.limits.prefixes),
            pending: PendingTable::new(config.limits.pending),
            routes_due: None,
            sources_due: None,
            pending_due: None,
            changed: Changed::default(),
            counters: Counters::default(),
        }
    }

    /// A link can be used from here on. One of the same name is taken down first.
    pub fn handle_interface_up(&mut self, now: Instant, id: InterfaceId, config: InterfaceConfig) {
        self.handle_interface_down(now, id);
        let hello_seqno = Seqno(self.rng.u16(..));
        self.interfaces.insert(id, Interface::new(now, config, hello_seqno));
    }

    /// A link is gone, as its owner knows: its neighbours and all routes through it are lost at once.
    pub fn handle_interface_down(&mut self, now: Instant, id: InterfaceId) {
        if self.interfaces.remove(&id).is_none() {
            return;
        }
        let gone: Vec<_> =
            self.neighbours.iter().filter(|(_, neighbour)| neighbour.interface == id).map(|(id, _)| *id).collect();
        for neighbour in gone {
            self.remove_neighbour(now, neighbour);
        }
    }

    /// What we ask on an interface from here on; told with the next updates.
    pub fn handle_fee(&mut self, id: InterfaceId, fee: Fee) {
        if let Some(interface) = self.interfaces.get_mut(&id) {
            interface.config.fee = fee;
        }
    }

    /// Announces a prefix of our own. A prefix beyond [`Limits::prefixes`] is counted and refused.
    pub fn handle_originate(&mut self, now: Instant, prefix: Prefix, metric: Metric) {
        let Some(entry) = self.routes.entry(prefix) else {
            self.counters.prefixes_full += 1;
            return;
        };
        entry.origin = Some(metric).filter(|metric| metric.is_finite());
        self.reselect(now, prefix);
        self.routes.forget_if_unused(prefix);
    }

    /// Stops announcing a prefix of our own.
    pub fn handle_withdraw(&mut self, now: Instant, prefix: Prefix) {
        if let Some(entry) = self.routes.get_mut(prefix) {
            entry.origin = None;
            self.reselect(now, prefix);
            self.routes.forget_if_unused(prefix);
        }
    }

    /// A packet from port 6696 of `source`, with the hop limit already checked.
    ///
    /// # Errors
    /// [`DecodeError`]: the packet is not one, and nothing was done.
    pub fn handle_packet(
        &mut self,
        now: Instant,
        from: InterfaceId,
        source: Ipv6Addr,
        to: Destination,
        packet: &[u8],
    ) -> Result<(), DecodeError> {
        let packet = Packet::parse(packet)?;
        let Some(interface) = self.interfaces.get(&from) else {
            self.counters.unknown_interface += 1;
            return Ok(());
        };
        let ours = interface.config.link_local;
        if !source.is_unicast_link_local() || source == ours || matches!(to, Destination::Unicast(to) if to != ours) {
            self.counters.foreign_source += 1;
            return Ok(());
        }
        for tlv in packet.tlvs(source) {
            self.handle_tlv(now, from, source, to, tlv);
        }
        Ok(())
    }

    /// Does what is due. Harmless to call early.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.expire_neighbours(now);
        self.expire_routes(now);
        self.expire_sources(now);
        self.repeat_seqno_requests(now);
        if self.seqno_due.is_some_and(|due| due <= now) {
            self.increase_seqno(now);
        }
        let ids: Vec<_> = self.interfaces.keys().copied().collect();
        for id in ids {
            self.expire_interface(now, id);
        }
    }

    /// When to call [`Speaker::handle_timeout`] next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let interfaces = self.interfaces.values().map(Interface::next_timeout);
        let neighbours = self.neighbours.values().filter_map(Neighbour::next_timeout);
        let tables = [self.routes_due, self.sources_due, self.pending_due, self.seqno_due].into_iter().flatten();
        interfaces.chain(neighbours).chain(tables).min()
    }

    /// The next change, until `None`.
    pub fn poll_event(&mut self) -> Option<Event> {
        if std::mem::take(&mut self.changed.seqno) {
            return Some(Event::SeqnoChanged(self.seqno));
        }
        if let Some((interface, address)) = self.changed.neighbours.pop_first() {
            return Some(self.neighbour_event(interface, address));
        }
        self.changed.prefixes.pop_first().map(|prefix| self.route_event(prefix))
    }

    /// All routes known, used or not.
    pub fn routes(&self) -> impl Iterator<Item = RouteView> {
        self.routes.iter().flat_map(move |(prefix, entry)| {
            let origin = entry.origin.and(entry.selected).map(|selected| self.origin_view(prefix, &selected));
            let told = entry
                .candidates
                .iter()
                .filter_map(move |route| self.route_view(prefix, route, entry.selects(route.neighbour)));
            origin.into_iter().chain(told)
        })
    }

    /// All neighbours known, usable or not.
    pub fn neighbours(&self) -> impl Iterator<Item = NeighbourView> {
        self.neighbours.values().map(|neighbour| NeighbourView {
            interface: neighbour.interface,
            address: neighbour.address,
            reach: neighbour.reach(),
            rxcost: neighbour.rxcost,
            txcost: neighbour.txcost(),
            cost: neighbour.cost,
        })
    }

    /// What was received and not used.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Our sequence number.
    #[must_use]
    pub fn seqno(&self) -> Seqno {
        self.seqno
    }

    fn neighbour_event(&self, interface: InterfaceId, address: Ipv6Addr) -> Event {
        let up = self.neighbour_ids.get(&(interface, address)).is_some_and(|id| self.is_up(*id));
        if up { Event::NeighbourUp { interface, address } } else { Event::NeighbourDown { interface, address } }
    }

    fn route_event(&self, prefix: Prefix) -> Event {
        let entry = self.routes.get(prefix);
        if entry.is_some_and(|entry| entry.held_until.is_some()) {
            return Event::RouteLost { prefix };
        }
        match entry.and_then(|entry| entry.selected) {
            Some(Selected { via: Some(via), metric, price, .. }) => {
                Event::RouteSelected { prefix, via: via.interface, next_hop: via.next_hop, metric, price }
            }
            Some(Selected { via: None, .. }) | None => Event::RouteForgotten { prefix },
        }
    }

    fn origin_view(&self, prefix: Prefix, selected: &Selected) -> RouteView {
        RouteView {
            prefix,
            neighbour: None,
            next_hop: None,
            router_id: self.config.router_id,
            seqno: selected.seqno,
            refmetric: selected.metric,
            metric: selected.metric,
            price: selected.price,
            feasible: true,
            selected: true,
        }
    }

    fn route_view(&self, prefix: Prefix, route: &Route, selected: bool) -> Option<RouteView> {
        let neighbour = self.neighbours.get(&route.neighbour)?;
        Some(RouteView {
            prefix,
            neighbour: Some((neighbour.interface, neighbour.address)),
            next_hop: Some(route.next_hop),
            router_id: route.router_id,
            seqno: route.seqno,
            refmetric: route.refmetric,
            metric: route.refmetric.through(neighbour.cost),
            price: route.price,
            feasible: self.sources.is_feasible(prefix, route.router_id, route.told()),
            selected,
        })
    }
}

/// Messages, one call each.
impl Speaker {
    fn handle_tlv(&mut self, now: Instant, from: InterfaceId, source: Ipv6Addr, to: Destination, tlv: Tlv) {
        if let Tlv::Hello(hello) = &tlv {
            self.handle_hello(now, from, source, hello);
            return;
        }
        let Some(neighbour) = self.neighbour_ids.get(&(from, source)).copied() else {
            self.counters.unknown_neighbour += 1;
            return;
        };
        match tlv {
            Tlv::Hello(_) | Tlv::Acknowledgment(_) => {}
            Tlv::AcknowledgmentRequest(request) => {
                self.send_to(neighbour, Tlv::Acknowledgment(Acknowledgment { opaque: request.opaque }));
            }
            Tlv::Ihu(ihu) => self.handle_ihu(now, neighbour, to, &ihu),
            Tlv::Update(update) => self.handle_update(now, neighbour, &update),
            Tlv::RouteRequest(request) => self.handle_route_request(now, from, &request),
            Tlv::SeqnoRequest(request) => self.handle_seqno_request(now, neighbour, &request),
        }
    }

    fn handle_hello(&mut self, now: Instant, from: InterfaceId, source: Ipv6Addr, hello: &Hello) {
        let Some(id) = self.neighbour_or_new(now, from, source) else {
            self.counters.neighbours_full += 1;
            return;
        };
        let rebooted = self.neighbours.get_mut(&id).is_some_and(|neighbour| neighbour.handle_hello(now, hello));
        if rebooted {
            self.retract_all(now, id);
        }
        self.measure(now, id);
    }

    fn neighbour_or_new(&mut self, now: Instant, from: InterfaceId, source: Ipv6Addr) -> Option<NeighbourId> {
        if let Some(id) = self.neighbour_ids.get(&(from, source)) {
            return Some(*id);
        }
        let here = self.neighbours.values().filter(|neighbour| neighbour.interface == from).count();
        let interface = self.interfaces.get_mut(&from)?;
        if here >= interface.config.neighbours_max() || self.neighbours.len() >= self.config.limits.neighbours {
            return None;
        }
        interface.quick_hellos = interface.quick_hellos.max(1);
        interface.hello_by(now + HELLO_SOON);
        let id = NeighbourId(self.next_neighbour);
        self.next_neighbour = self.next_neighbour.wrapping_add(1);
        self.neighbours.insert(id, Neighbour::new(from, source));
        self.neighbour_ids.insert((from, source), id);
        Some(id)
    }

    fn handle_ihu(&mut self, now: Instant, id: NeighbourId, to: Destination, ihu: &Ihu) {
        let Some(neighbour) = self.neighbours.get_mut(&id) else { return };
        let Some(interface) = self.interfaces.get(&neighbour.interface) else { return };
        let alone = interface.config.kind == InterfaceKind::Tunnel || to != Destination::Multicast;
        let for_us = ihu.address.map_or(alone, |address| address == IpAddr::V6(interface.config.link_local));
        if for_us {
            neighbour.handle_ihu(now, ihu);
            self.measure(now, id);
        }
    }

    fn handle_update(&mut self, now: Instant, neighbour: NeighbourId, update: &Update) {
        let prefix = match (update.prefix, update.source_prefix) {
            (None, None) => return self.retract_all(now, neighbour),
            (Some(AnyPrefix::V6(prefix)), None) => prefix,
            (Some(AnyPrefix::V4(_) | AnyPrefix::V4ViaV6(_)), _) | (_, Some(_)) => {
                self.counters.not_carried += 1;
                return;
            }
        };
        if !prefix.is_routable() {
            self.counters.unroutable_prefix += 1;
            return;
        }
        match (update.router_id, update.next_hop) {
            // Our own announcement comes back: for this neighbour we are the way, so it is none for us.
            (Some(router_id), Some(IpAddr::V6(next_hop)))
                if update.metric.is_finite() && router_id != self.config.router_id =>
            {
                self.learn(now, neighbour, prefix, router_id, next_hop, update);
            }
            _ => self.retract(now, neighbour, prefix),
        }
    }

    fn handle_route_request(&mut self, now: Instant, from: InterfaceId, request: &RouteRequest) {
        match (request.prefix, request.source_prefix) {
            (None, None) => self.dump_soon(now, from),
            (Some(AnyPrefix::V6(prefix)), None) if prefix.is_routable() => self.answer(now, from, prefix),
            _ => self.counters.not_carried += 1,
        }
    }
}

/// Routes.
impl Speaker {
    /// RFC 8966, section 3.5.3, for an update that is not a retraction.
    fn learn(
        &mut self,
        now: Instant,
        neighbour: NeighbourId,
        prefix: Prefix,
        router_id: RouterId,
        next_hop: Ipv6Addr,
        update: &Update,
    ) {
        let told = Distance { seqno: update.seqno, metric: update.metric };
        let feasible = self.sources.is_feasible(prefix, router_id, told);
        if !feasible && self.may_ignore(prefix, neighbour, router_id, told) {
            self.request_newer_seqno(now, prefix, router_id, Target::Neighbour(neighbour));
            return;
        }
        let price = update.quote.filter(|quote| quote.unit == self.config.price_unit).and_then(|quote| quote.price);
        let Some(entry) = self.routes.entry(prefix) else {
            self.counters.prefixes_full += 1;
            return;
        };
        let expires = now + route_expiry(update.interval);
        let route = Route {
            neighbour,
            router_id,
            seqno: update.seqno,
            refmetric: update.metric,
            next_hop,
            price,
            interval: update.interval,
            expires,
            refresh_asked: false,
        };
        match entry.candidate(neighbour) {
            Some(old) => *old = route,
            None => entry.candidates.push(route),
        }
        self.sweep_routes_by(expires - route_expiry(update.interval) / 8);
        self.reselect(now, prefix);
        if !feasible && self.is_wanted(prefix, neighbour, told.metric) {
            self.request_newer_seqno(now, prefix, router_id, Target::Neighbour(neighbour));
        }
    }

    /// "If the entry is currently selected, the update is unfeasible, and its router-id is the entry's,
    /// the update MAY be ignored": the old route leads on without a loop until a newer seqno comes, while
    /// the truth would cut us off. Not if something feasible is better than what the update tells.
    fn may_ignore(&self, prefix: Prefix, neighbour: NeighbourId, router_id: RouterId, told: Distance) -> bool {
        let Some(entry) = self.routes.get(prefix).filter(|entry| entry.selects(neighbour)) else {
            return false;
        };
        let same_source = entry.selected.is_some_and(|selected| selected.router_id == router_id);
        let metric = told.metric.through(self.cost(neighbour));
        same_source && !self.candidates(prefix).any(|candidate| candidate.key != neighbour && candidate.metric < metric)
    }

    /// Whether an unfeasible route would be better than what is in use (RFC 8966, section 3.8.2.2).
    fn is_wanted(&self, prefix: Prefix, neighbour: NeighbourId, told: Metric) -> bool {
        let metric = told.through(self.cost(neighbour));
        metric.is_finite() && self.routes.selected(prefix).is_none_or(|selected| metric < selected.metric)
    }

    fn retract(&mut self, now: Instant, neighbour: NeighbourId, prefix: Prefix) {
        let Some(route) = self.routes.get_mut(prefix).and_then(|entry| entry.candidate(neighbour)) else {
            return;
        };
        if !route.is_retracted() {
            route.refmetric = Metric::INFINITY;
            route.expires = now + route_expiry(route.interval);
            self.reselect(now, prefix);
        }
    }

    fn retract_all(&mut self, now: Instant, neighbour: NeighbourId) {
        for prefix in self.routes.told_by(neighbour) {
            self.retract(now, neighbour, prefix);
        }
    }

    /// Usable routes to a prefix: feasible, not retracted, through a neighbour who is up.
    fn candidates(&self, prefix: Prefix) -> impl Iterator<Item = Candidate<NeighbourId>> {
        self.routes.get(prefix).into_iter().flat_map(move |entry| {
            entry.candidates.iter().map(move |route| (entry, route)).filter_map(move |(entry, route)| {
                let metric = route.refmetric.through(self.cost(route.neighbour));
                let usable = metric.is_finite() && self.sources.is_feasible(prefix, route.router_id, route.told());
                let current = entry.selects(route.neighbour);
                usable.then_some(Candidate { key: route.neighbour, metric, price: route.price, current })
            })
        })
    }

    /// What should be in use.
    fn choose(&self, prefix: Prefix) -> Option<Selected> {
        let entry = self.routes.get(prefix)?;
        if let Some(metric) = entry.origin {
            let (router_id, seqno) = (self.config.router_id, self.seqno);
            return Some(Selected { via: None, router_id, seqno, metric, price: Some(Price::ZERO) });
        }
        let neighbour = selection::choose(self.candidates(prefix))?;
        let route = entry.candidates.iter().find(|route| route.neighbour == neighbour)?;
        let interface = self.neighbours.get(&neighbour)?.interface;
        Some(Selected {
            via: Some(Via { interface, neighbour, next_hop: route.next_hop }),
            router_id: route.router_id,
            seqno: route.seqno,
            metric: route.refmetric.through(self.cost(neighbour)),
            price: route.price,
        })
    }

    /// Selects anew, and tells whom it concerns. To be called after any change to a prefix's routes,
    /// their links or their feasibility.
    pub(crate) fn reselect(&mut self, now: Instant, prefix: Prefix) {
        let after = self.choose(prefix);
        let hold = self.hold_time();
        let Some(entry) = self.routes.get_mut(prefix) else { return };
        let before = std::mem::replace(&mut entry.selected, after);
        let announced = entry.announced;
        let only_ours =
            entry.held_until.is_none() && [before, after].into_iter().flatten().all(|route| route.via.is_none());
        match (before, after) {
            (None, None) => return,
            (Some(before), None) => {
                entry.held_until = Some(now + hold);
                self.sweep_routes_by(now + hold);
                self.route_lost(now, prefix, before);
            }
            (_, Some(after)) => {
                entry.held_until = None;
                if before == Some(after) {
                    return;
                }
                self.route_changed(now, prefix, before, after, announced);
            }
        }
        if after.is_none() || !only_ours {
            self.changed.prefixes.insert(prefix);
        }
    }

    fn route_lost(&mut self, now: Instant, prefix: Prefix, before: Selected) {
        self.trigger_everywhere(now, prefix, Trigger { poison: false, repeats: RETRACTION_REPEATS });
        if before.via.is_some() {
            self.request_newer_seqno(now, prefix, before.router_id, Target::All);
        }
    }

    fn route_changed(
        &mut self,
        now: Instant,
        prefix: Prefix,
        before: Option<Selected>,
        after: Selected,
        announced: Option<Metric>,
    ) {
        let moved = before.is_some_and(|before| before.interface() != after.interface());
        if moved && let Some(interface) = after.interface() {
            self.trigger_urgently(now, interface, prefix, Trigger { poison: true, repeats: 0 });
        }
        if before.is_none_or(|before| before.router_id != after.router_id) {
            self.trigger_everywhere(now, prefix, Trigger::default());
        } else if moved || is_significant(announced, after.metric) {
            self.trigger_later(now, prefix);
        }
        self.answer_requesters(now, prefix, after);
    }

    /// As long as a neighbour may believe our last announcement, if it heard nothing since.
    fn hold_time(&self) -> Duration {
        self.interfaces
            .values()
            .map(|interface| route_expiry(interface.config.update_interval()))
            .max()
            .unwrap_or_default()
    }
}

/// Copies of a retraction behind the first: at 10 % loss, one in a thousand is not heard.
const RETRACTION_REPEATS: u8 = 2;

/// Whether neighbours should hear of a metric before the next full update: a quarter, and a wired link's
/// noise at least.
fn is_significant(announced: Option<Metric>, metric: Metric) -> bool {
    announced.is_none_or(|announced| announced.0.abs_diff(metric.0) >= (announced.0 / 4).max(64))
}

/// Links.
impl Speaker {
    pub(crate) fn cost(&self, neighbour: NeighbourId) -> Cost {
        self.neighbours.get(&neighbour).map_or(Cost::INFINITY, |neighbour| neighbour.cost)
    }

    fn is_up(&self, neighbour: NeighbourId) -> bool {
        self.cost(neighbour).is_finite()
    }

    pub(crate) fn send_to(&mut self, neighbour: NeighbourId, tlv: Tlv) {
        if let Some(neighbour) = self.neighbours.get_mut(&neighbour) {
            neighbour.send(tlv);
        }
    }

    /// Computes a link's cost anew and draws the consequences.
    fn measure(&mut self, now: Instant, id: NeighbourId) {
        let Some(neighbour) = self.neighbours.get_mut(&id) else { return };
        let Some(interface) = self.interfaces.get_mut(&neighbour.interface) else { return };
        let (rxcost, cost) = (neighbour.rxcost, neighbour.cost);
        if !neighbour.measure(&interface.config) {
            return;
        }
        if rxcost.is_finite() != neighbour.rxcost.is_finite() {
            interface.hellos_to_ihu = 0;
            interface.hello_by(now + HELLO_SOON);
        }
        if cost == neighbour.cost {
            return;
        }
        if cost.is_finite() != neighbour.is_up() {
            self.link_changed(now, id);
        }
        for prefix in self.routes.told_by(id) {
            self.reselect(now, prefix);
        }
    }

    /// Who comes up is asked for everything and told everything: it may have asked before it heard us.
    fn link_changed(&mut self, now: Instant, id: NeighbourId) {
        let Some(neighbour) = self.neighbours.get_mut(&id) else { return };
        let interface = neighbour.interface;
        self.changed.neighbours.insert((interface, neighbour.address));
        if neighbour.is_up() {
            neighbour.send(Tlv::RouteRequest(RouteRequest { prefix: None, source_prefix: None }));
            self.dump_soon(now, interface);
        }
    }

    fn remove_neighbour(&mut self, now: Instant, id: NeighbourId) {
        let Some(neighbour) = self.neighbours.remove(&id) else { return };
        let key = (neighbour.interface, neighbour.address);
        self.neighbour_ids.remove(&key);
        if neighbour.is_up() {
            self.changed.neighbours.insert(key);
        }
        for prefix in self.routes.told_by(id) {
            if let Some(entry) = self.routes.get_mut(prefix) {
                entry.candidates.retain(|route| route.neighbour != id);
            }
            self.reselect(now, prefix);
            self.routes.forget_if_unused(prefix);
        }
    }
}

/// Timers.
impl Speaker {
    fn expire_neighbours(&mut self, now: Instant) {
        let due = |neighbour: &Neighbour| neighbour.next_timeout().is_some_and(|at| at <= now);
        let ids: Vec<_> = self.neighbours.iter().filter(|(_, neighbour)| due(neighbour)).map(|(id, _)| *id).collect();
        for id in ids {
            let Some(neighbour) = self.neighbours.get_mut(&id) else { continue };
            neighbour.handle_timeout(now);
            if neighbour.is_silent() {
                self.remove_neighbour(now, id);
            } else {
                self.measure(now, id);
            }
        }
    }

    fn expire_routes(&mut self, now: Instant) {
        if self.routes_due.is_none_or(|due| due > now) {
            return;
        }
        let swept = self.routes.sweep(now);
        self.routes_due = swept.next.map(|next| next.max(now + SWEEP_SPACING));
        self.changed.prefixes.extend(swept.released);
        for (prefix, neighbour) in swept.expiring {
            let prefix = Some(AnyPrefix::V6(prefix));
            self.send_to(neighbour, Tlv::RouteRequest(RouteRequest { prefix, source_prefix: None }));
        }
        for prefix in swept.touched {
            self.reselect(now, prefix);
            self.routes.forget_if_unused(prefix);
        }
    }

    fn expire_sources(&mut self, now: Instant) {
        if self.sources_due.is_none_or(|due| due > now) {
            return;
        }
        let routes = &self.routes;
        let in_use = |prefix, id| routes.selected(prefix).is_some_and(|selected| selected.router_id == id);
        let next = self.sources.collect(now, in_use);
        self.sources_due = next.map(|next| next.max(now + SWEEP_SPACING));
    }

    fn expire_interface(&mut self, now: Instant, id: InterfaceId) {
        let (stretch, early) = (self.rng.u32(85..=100), self.rng.u32(90..=100));
        let Some(interface) = self.interfaces.get_mut(&id) else { return };
        if interface.hello_at <= now {
            let quick = interface.quick_hellos > 0;
            interface.quick_hellos = interface.quick_hellos.saturating_sub(1);
            let pause = if quick { QUICK_HELLO } else { interface.config.hello_interval().as_duration() };
            interface.hello_at = now + pause * early / 100;
            interface.ready.hello = true;
        }
        if interface.update_at <= now {
            interface.update_at = now + interface.config.update_interval().as_duration() * stretch / 100;
            interface.start_dump(now);
        }
        if interface.flush_at.is_some_and(|at| at <= now) {
            interface.flush_at = None;
            interface.ready.triggered = true;
            for (prefix, trigger) in std::mem::take(&mut interface.repeats) {
                interface.triggered.entry(prefix).or_insert(trigger);
            }
        }
    }

    pub(crate) fn sweep_pending_by(&mut self, at: Instant) {
        self.pending_due = Some(self.pending_due.map_or(at, |due| due.min(at)));
    }

    fn sweep_routes_by(&mut self, at: Instant) {
        self.routes_due = Some(self.routes_due.map_or(at, |due| due.min(at)));
    }

    pub(crate) fn collect_sources_by(&mut self, now: Instant) {
        let at = now + GC_TIME;
        self.sources_due = Some(self.sources_due.map_or(at, |due| due.min(at)));
    }

    pub(crate) fn note_seqno_changed(&mut self) {
        self.changed.seqno = true;
    }
}
