//! The speaker: messages and time in, messages and routes out.

use crate::authentication::Authentication;
use crate::interface::{
    Fee, HELLO_SOON, Interface, InterfaceConfig, InterfaceId, InterfaceKind, LinkSensing, Only, QUICK_HELLO, Trigger,
};
#[cfg(feature = "mac")]
use crate::mac::{MacCounters, MacKeys};
use crate::metric::{Cost, Metric};
use crate::neighbour::{Neighbour, NeighbourId, Silence};
use crate::pending::{Asked, PendingTable};
use crate::policy::Policy;
use crate::prefix::{IpPrefix, PrefixPair};
use crate::price::Price;
use crate::route::{Announced, Entry, Put, Route, RouteTable, Selected, Told, Via, refresh_at, route_expiry};
use crate::router_id::RouterId;
use crate::selection::{self, Candidate, Moment};
use crate::seqno::Seqno;
use crate::source::Distance;
use crate::time::{Epoch, Tenths};
use crate::trade::Trade;
use crate::views::{Config, Counters, Destination, Event, NeighbourView, RouteView, SourceView, Usage};
use crate::wire::{Acknowledgment, AnyPrefix, DecodeError, Hello, Ihu, Packet, RouteRequest, Tlv, Update};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

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
/// let mut speaker = Speaker::new(now, Config::new(name, Seqno(1)), 42);
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
    pub(crate) epoch: Epoch,
    pub(crate) seqno: Seqno,
    pub(crate) seqno_changed_at: Option<Instant>,
    /// A change of our seqno that came too soon after the last.
    pub(crate) seqno_due: Option<Instant>,
    pub(crate) rng: fastrand::Rng,
    pub(crate) interfaces: BTreeMap<InterfaceId, Interface>,
    pub(crate) neighbours: BTreeMap<NeighbourId, Neighbour>,
    neighbour_ids: BTreeMap<(InterfaceId, Ipv6Addr), NeighbourId>,
    next_neighbour: NeighbourId,
    pub(crate) routes: RouteTable,
    pub(crate) pending: PendingTable,
    /// Lower bounds on when anything in the tables falls due.
    routes_due: Option<Instant>,
    /// Routes are not swept before.
    sweeps_from: Option<Instant>,
    pub(crate) pending_due: Option<Instant>,
    changed: Changed,
    pub(crate) counters: Counters,
}

/// What the next events are about; each bounded by a table.
#[derive(Debug, Default)]
struct Changed {
    seqno: bool,
    neighbours: BTreeSet<(InterfaceId, Ipv6Addr)>,
    pairs: BTreeSet<PrefixPair>,
}

/// Where a packet came from, and when.
#[derive(Clone, Copy, Debug)]
struct Arrival {
    now: Instant,
    interface: InterfaceId,
    source: Ipv6Addr,
    to: Destination,
    /// A timestamped Hello stood in the packet before.
    with_hello: bool,
}

/// Sweeps over a whole table are at least this far apart, however short a neighbour's intervals are...
const SWEEP_SPACING: Duration = Duration::from_millis(100);
/// ...and the larger the table, the farther: a thousand routes are swept once a second. What they wait for was set in
/// tenths of minutes.
const SWEEP_SPACING_PER_ROUTE: Duration = Duration::from_millis(1);
const SWEEP_SPACING_MAX: Duration = Duration::from_secs(2);

impl Speaker {
    /// A speaker without interfaces. Two speakers with the same arguments do the same for ever.
    #[must_use]
    pub fn new(now: Instant, config: Config, rng_seed: u64) -> Self {
        Self {
            config,
            epoch: Epoch::new(now),
            seqno: config.seqno,
            seqno_changed_at: None,
            seqno_due: None,
            rng: fastrand::Rng::with_seed(rng_seed),
            interfaces: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            neighbour_ids: BTreeMap::new(),
            next_neighbour: NeighbourId::FIRST,
            routes: RouteTable::new(config.limits.prefixes, config.limits.sources),
            pending: PendingTable::new(config.limits.pending),
            routes_due: None,
            sweeps_from: None,
            pending_due: None,
            changed: Changed::default(),
            counters: Counters::default(),
        }
    }

    /// A link can be used from here on. One of the same name is taken down first.
    pub fn handle_interface_up(&mut self, now: Instant, id: InterfaceId, config: InterfaceConfig) {
        self.bring_up(now, id, config, Authentication::default());
    }

    /// The same for a link that is not encrypted, where only packets with a MAC of one of these keys are believed
    /// (RFC 8967). The seed must come from a good source of randomness and never be used again: from it are made the
    /// index and the nonces by which neighbours tell this run from an older one.
    #[cfg(feature = "mac")]
    pub fn handle_authenticated_interface_up(
        &mut self,
        now: Instant,
        id: InterfaceId,
        config: InterfaceConfig,
        keys: MacKeys,
        seed: [u8; 32],
    ) {
        let authentication = Authentication::by_mac(config.link_local, keys, seed, config.neighbours_max());
        self.bring_up(now, id, config, authentication);
    }

    /// Other keys for an authenticated interface. To change a key without a gap, give every router the old and the new
    /// one, then the new one alone.
    #[cfg(feature = "mac")]
    pub fn handle_keys(&mut self, id: InterfaceId, keys: MacKeys) {
        if let Some(interface) = self.interfaces.get_mut(&id) {
            interface.authentication.handle_keys(keys);
        }
    }

    /// Packets that an authenticated interface refused.
    #[cfg(feature = "mac")]
    #[must_use]
    pub fn mac_counters(&self, id: InterfaceId) -> Option<MacCounters> {
        self.interfaces.get(&id)?.authentication.counters()
    }

    fn bring_up(&mut self, now: Instant, id: InterfaceId, config: InterfaceConfig, authentication: Authentication) {
        self.handle_interface_down(now, id);
        let hello_seqno = Seqno(self.rng.u16(..));
        self.interfaces.insert(id, Interface::new(now, config, authentication, hello_seqno));
    }

    /// A link is gone, as its owner knows: its neighbours and all routes through it are lost at once.
    pub fn handle_interface_down(&mut self, now: Instant, id: InterfaceId) {
        if self.interfaces.remove(&id).is_none() {
            return;
        }
        for neighbour in self.neighbours_on(id) {
            self.remove_neighbour(now, neighbour);
        }
    }

    /// The link's owner doubts that anybody is at its other end, such as when a tunnel's keepalives stay away. The
    /// neighbours that are known to answer are asked, and are gone within a second if they do not.
    pub fn handle_interface_doubtful(&mut self, now: Instant, id: InterfaceId) {
        for neighbour in self.neighbours_on(id) {
            if let Some(neighbour) = self.neighbours.get_mut(&neighbour) {
                neighbour.handle_doubt(now);
            }
        }
    }

    fn neighbours_on(&self, id: InterfaceId) -> Vec<NeighbourId> {
        let here = self.neighbours.iter().filter(|(_, neighbour)| neighbour.interface == id);
        here.map(|(id, _)| *id).collect()
    }

    /// What we ask on an interface from here on; told with the next updates.
    pub fn handle_fee(&mut self, id: InterfaceId, fee: Fee) {
        if let Some(interface) = self.interfaces.get_mut(&id) {
            interface.config.fee = fee;
        }
    }

    /// How prices take part in choosing from here on. Every route is weighed anew.
    pub fn handle_policy(&mut self, now: Instant, policy: Policy) {
        if self.config.policy == policy {
            return;
        }
        self.config.policy = policy;
        let neighbours: Vec<NeighbourId> = self.neighbours.keys().copied().collect();
        let pairs: BTreeSet<PrefixPair> = neighbours.into_iter().flat_map(|id| self.routes.told_by(id)).collect();
        for pair in pairs {
            self.reselect(now, pair);
        }
    }

    /// How a link bills from here on, and what we ask there. Routes through it are weighed anew at once, without patience if
    /// they are clearly dearer than was told: whoever bills more than it tells does not keep what that brought it.
    pub fn handle_trade(&mut self, now: Instant, id: InterfaceId, trade: Option<Trade>, fee: Fee) {
        let Some(interface) = self.interfaces.get_mut(&id) else { return };
        let before = std::mem::replace(&mut interface.config.trade, trade);
        let fee_before = std::mem::replace(&mut interface.config.fee, fee);
        if fee_before != fee {
            self.dump_soon(now, id);
        }
        if before == trade {
            return;
        }
        for neighbour in self.neighbours_on(id) {
            for pair in self.routes.told_by(neighbour) {
                self.weigh_anew(now, pair, neighbour, before);
            }
        }
        // Who pays decides what is told.
        self.dump_soon(now, id);
    }

    /// A link by which a prefix may be reached bills in another way.
    fn weigh_anew(&mut self, now: Instant, pair: PrefixPair, neighbour: NeighbourId, before: Option<Trade>) {
        let Some(entry) = self.routes.get(pair) else { return };
        let selected = entry.selects(neighbour);
        let told = entry.candidate(neighbour).and_then(|route| route.price);
        let counted = |trade: Option<Trade>| match trade {
            Some(trade) => trade.counted(told, pair.to.is_default()),
            None => told,
        };
        let dearer = match (counted(before), counted(self.trade_with(neighbour))) {
            (Some(before), Some(after)) => after > before && after.is_far_from(before),
            _ => false,
        };
        if selected && dearer {
            self.reselect_afresh(now, pair);
        } else {
            self.reselect(now, pair);
        }
        if selected && self.routes.get(pair).is_some_and(|entry| entry.selects(neighbour)) {
            self.trigger_everywhere(now, pair, Trigger::default());
        }
    }

    /// Which routes that are told on an interface are used from here on: see [`InterfaceConfig::only`].
    pub fn handle_only(&mut self, now: Instant, id: InterfaceId, only: Option<Only>) {
        let Some(interface) = self.interfaces.get_mut(&id).filter(|interface| interface.config.only != only) else {
            return;
        };
        interface.config.only = only;
        for neighbour in self.neighbours_on(id) {
            for pair in self.routes.told_by(neighbour) {
                self.reselect(now, pair);
            }
        }
    }

    /// What it costs us to be sent something on an interface from here on: see [`InterfaceConfig::toll`].
    pub fn handle_toll(&mut self, now: Instant, id: InterfaceId, toll: u16) {
        if let Some(interface) = self.interfaces.get_mut(&id).filter(|interface| interface.config.toll != toll) {
            interface.config.toll = toll;
            interface.hellos_to_ihu = 0;
            interface.hello_by(now + HELLO_SOON);
        }
    }

    /// The speaker is about to end: neighbours are told, so that they do not have to find out. Drain
    /// [`Speaker::poll_transmit`] once more, then drop it.
    pub fn handle_goodbye(&mut self) {
        for interface in self.interfaces.values_mut() {
            interface.say_goodbye();
        }
    }

    /// Announces a prefix of our own. A prefix beyond [`crate::Limits::prefixes`] is counted and refused.
    pub fn handle_originate(&mut self, now: Instant, pair: impl Into<PrefixPair>, metric: Metric) {
        let pair = pair.into();
        let Some(entry) = self.routes.entry(pair) else {
            self.counters.prefixes_full += 1;
            return;
        };
        entry.set_origin(Some(metric).filter(|metric| metric.is_finite()));
        self.reselect(now, pair);
        self.routes.forget_if_unused(pair);
    }

    /// Stops announcing a prefix of our own.
    pub fn handle_withdraw(&mut self, now: Instant, pair: impl Into<PrefixPair>) {
        let pair = pair.into();
        if let Some(entry) = self.routes.get_mut(pair) {
            entry.set_origin(None);
            self.reselect(now, pair);
            self.routes.forget_if_unused(pair);
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
        let bytes = packet;
        let packet = Packet::parse(bytes)?;
        let Some(interface) = self.interfaces.get_mut(&from) else {
            self.counters.unknown_interface += 1;
            return Ok(());
        };
        let ours = interface.config.link_local;
        if !source.is_unicast_link_local() || source == ours || matches!(to, Destination::Unicast(to) if to != ours) {
            self.counters.foreign_source += 1;
            return Ok(());
        }
        if !interface.authentication.admits(now, source, to, bytes) {
            self.counters.not_authentic += 1;
            return Ok(());
        }
        if let Some(neighbour) = self.neighbour_at(from, source).and_then(|id| self.neighbours.get_mut(&id)) {
            neighbour.handle_sign_of_life();
        }
        let mut arrival = Arrival { now, interface: from, source, to, with_hello: false };
        for tlv in packet.tlvs(source) {
            arrival.with_hello |= matches!(tlv, Tlv::Hello(Hello { timestamp: Some(_), .. }));
            self.handle_tlv(arrival, tlv);
        }
        Ok(())
    }

    /// Does what is due. Harmless to call early.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.expire_neighbours(now);
        self.sweep_routes(now);
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
        let tables = [self.routes_due, self.pending_due, self.seqno_due].into_iter().flatten();
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
        self.changed.pairs.pop_first().map(|pair| self.route_event(pair))
    }

    /// All routes known, used or not.
    pub fn routes(&self) -> impl Iterator<Item = RouteView> {
        self.routes.iter().flat_map(move |(pair, entry)| {
            let origin = entry.origin().and(entry.selected()).map(|selected| self.origin_view(pair, &selected));
            let told = entry.candidates().iter().filter_map(move |route| self.route_view(pair, entry, route));
            origin.into_iter().chain(told)
        })
    }

    /// All neighbours known, usable or not.
    pub fn neighbours(&self) -> impl Iterator<Item = NeighbourView> {
        self.neighbours.values().map(|neighbour| NeighbourView {
            interface: neighbour.interface,
            address: neighbour.address,
            reach: neighbour.reach(),
            hello_interval: neighbour.hello_interval(),
            lost_ppm: neighbour.lost_ppm(),
            rxcost: neighbour.rxcost,
            txcost: neighbour.txcost(),
            cost: neighbour.cost,
            rtt: neighbour.rtt(),
        })
    }

    /// The source table.
    pub fn sources(&self) -> impl Iterator<Item = SourceView> {
        self.routes.iter().flat_map(|(pair, entry)| {
            entry.sources().map(move |(router_id, Distance { seqno, metric })| SourceView {
                pair,
                router_id,
                seqno,
                metric,
            })
        })
    }

    /// One row of the source table.
    #[must_use]
    pub fn source(&self, pair: impl Into<PrefixPair>, router_id: RouterId) -> Option<SourceView> {
        let pair = pair.into();
        let Distance { seqno, metric } = self.routes.feasibility(pair, router_id)?;
        Some(SourceView { pair, router_id, seqno, metric })
    }

    /// The route in use to a prefix.
    #[must_use]
    pub fn selected(&self, pair: impl Into<PrefixPair>) -> Option<RouteView> {
        let pair = pair.into();
        let entry = self.routes.get(pair)?;
        let selected = entry.selected()?;
        let Some(via) = selected.via else { return Some(self.origin_view(pair, &selected)) };
        self.route_view(pair, entry, entry.candidate(via.neighbour)?)
    }

    /// How full the tables are.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let (mut routes, mut sources) = (0, 0);
        for (_, entry) in self.routes.iter() {
            routes += entry.candidates().len();
            sources += entry.sources().count();
        }
        let (neighbours, prefixes) = (self.neighbours.len(), self.routes.len());
        Usage { neighbours, prefixes, routes, sources, pending: self.pending.len() }
    }

    /// The price that neighbours on an interface told with a prefix, the lowest of them; `None`: nobody there reaches it, or
    /// says what that costs.
    #[must_use]
    pub fn told(&self, pair: impl Into<PrefixPair>, on: InterfaceId) -> Option<Price> {
        let entry = self.routes.get(pair.into())?;
        let here = |route: &&Route| self.neighbours.get(&route.neighbour).is_some_and(|known| known.interface == on);
        let told = entry.candidates().iter().filter(|route| !route.is_retracted()).filter(here);
        told.filter_map(|route| route.price).min()
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
        let up = self.neighbour_at(interface, address).is_some_and(|id| self.cost(id).is_finite());
        if up { Event::NeighbourUp { interface, address } } else { Event::NeighbourDown { interface, address } }
    }

    fn route_event(&self, pair: PrefixPair) -> Event {
        let entry = self.routes.get(pair);
        if entry.is_some_and(Entry::is_held) {
            return Event::RouteLost { pair };
        }
        match self.selected(pair) {
            Some(RouteView { neighbour: Some((via, _)), next_hop: Some(next_hop), metric, price, .. }) => {
                Event::RouteSelected { pair, via, next_hop, metric, price }
            }
            Some(_) | None => Event::RouteForgotten { pair },
        }
    }

    fn origin_view(&self, pair: PrefixPair, selected: &Selected) -> RouteView {
        RouteView {
            pair,
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

    fn route_view(&self, pair: PrefixPair, entry: &Entry, route: &Route) -> Option<RouteView> {
        let neighbour = self.neighbours.get(&route.neighbour)?;
        let router_id = entry.originator(route);
        Some(RouteView {
            pair,
            neighbour: Some((neighbour.interface, neighbour.address)),
            next_hop: Some(entry.next_hop(route.neighbour).unwrap_or(IpAddr::V6(neighbour.address))),
            router_id,
            seqno: route.seqno,
            refmetric: route.refmetric,
            metric: route.refmetric.through(self.cost_to(route.neighbour, pair)),
            price: self.counted(pair, route.neighbour, route.price).unwrap_or(route.price),
            feasible: entry.is_route_feasible(route),
            selected: entry.selects(route.neighbour),
        })
    }
}

/// Messages, one call each.
impl Speaker {
    fn handle_tlv(&mut self, arrival: Arrival, tlv: Tlv) {
        if let Tlv::Hello(hello) = &tlv {
            self.handle_hello(arrival, hello);
            return;
        }
        let Some(neighbour) = self.neighbour_at(arrival.interface, arrival.source) else {
            self.counters.unknown_neighbour += 1;
            return;
        };
        match tlv {
            Tlv::Hello(_) => {}
            Tlv::AcknowledgmentRequest(request) => {
                self.send_to(neighbour, Tlv::Acknowledgment(Acknowledgment { opaque: request.opaque }));
            }
            Tlv::Acknowledgment(answer) => {
                if let Some(neighbour) = self.neighbours.get_mut(&neighbour) {
                    neighbour.handle_acknowledgment(arrival.now);
                }
                if let Some(interface) = self.interfaces.get_mut(&arrival.interface) {
                    interface.confirm(answer.opaque);
                }
            }
            Tlv::Ihu(ihu) => self.handle_ihu(arrival, neighbour, &ihu),
            Tlv::Update(update) => self.handle_update(arrival.now, neighbour, &update),
            Tlv::RouteRequest(request) => self.handle_route_request(arrival.now, arrival.interface, &request),
            Tlv::SeqnoRequest(request) => self.handle_seqno_request(arrival.now, neighbour, &request),
        }
    }

    fn handle_hello(&mut self, arrival: Arrival, hello: &Hello) {
        let now = arrival.now;
        let clock = self.epoch.micros(now);
        let Some(id) = self.neighbour_or_new(now, arrival.interface, arrival.source) else {
            self.counters.neighbours_full += 1;
            return;
        };
        let rebooted = self.neighbours.get_mut(&id).is_some_and(|neighbour| neighbour.handle_hello(now, clock, hello));
        if rebooted {
            self.retract_all(now, id);
            // It has forgotten us too, and hears of us in an IHU interval otherwise.
            if let Some(interface) = self.interfaces.get_mut(&arrival.interface) {
                interface.hellos_to_ihu = 0;
                interface.greet(now);
            }
        }
        self.measure(now, id);
    }

    fn neighbour_at(&self, interface: InterfaceId, address: Ipv6Addr) -> Option<NeighbourId> {
        self.neighbour_ids.get(&(interface, address)).copied()
    }

    fn neighbour_or_new(&mut self, now: Instant, from: InterfaceId, source: Ipv6Addr) -> Option<NeighbourId> {
        if let Some(id) = self.neighbour_at(from, source) {
            return Some(id);
        }
        let here = self.neighbours_on(from).len();
        let interface = self.interfaces.get_mut(&from)?;
        if here >= interface.config.neighbours_max() || self.neighbours.len() >= self.config.limits.neighbours {
            return None;
        }
        interface.greet(now);
        let id = self.next_neighbour;
        self.next_neighbour = id.next();
        self.neighbours.insert(id, Neighbour::new(from, source));
        self.neighbour_ids.insert((from, source), id);
        Some(id)
    }

    fn handle_ihu(&mut self, arrival: Arrival, id: NeighbourId, ihu: &Ihu) {
        let (now, clock) = (arrival.now, self.epoch.micros(arrival.now));
        let Some(neighbour) = self.neighbours.get_mut(&id) else { return };
        let Some(interface) = self.interfaces.get(&neighbour.interface) else { return };
        let alone = interface.config.kind == InterfaceKind::Tunnel || arrival.to != Destination::Multicast;
        let for_us = ihu.address.map_or(alone, |address| address == IpAddr::V6(interface.config.link_local));
        if for_us {
            neighbour.handle_ihu(now, clock, ihu, arrival.with_hello);
            self.measure(now, id);
        }
    }

    fn handle_update(&mut self, now: Instant, neighbour: NeighbourId, update: &Update) {
        let Some(prefix) = update.prefix else {
            return self.retract_all(now, neighbour);
        };
        let pair = pair(prefix, update.source_prefix);
        if !self.carries(pair) {
            self.counters.not_carried += 1;
            return;
        }
        if !pair.is_routable() {
            self.counters.unroutable_prefix += 1;
            return;
        }
        match (update.router_id, update.next_hop) {
            // Our own announcement comes back: for this neighbour we are the way, so it is none for us.
            (Some(router_id), Some(next_hop)) if update.metric.is_finite() && router_id != self.config.router_id => {
                if next_hop.is_ipv4() && !self.has_ipv4(neighbour) {
                    self.counters.not_carried += 1;
                    return;
                }
                let here = self.neighbours.get(&neighbour).map(|neighbour| IpAddr::V6(neighbour.address));
                let told = Told {
                    neighbour,
                    router_id,
                    seqno: update.seqno,
                    metric: update.metric,
                    next_hop: Some(next_hop).filter(|next_hop| Some(*next_hop) != here),
                    price: self.config.policy.price(update.quote),
                    interval: update.interval,
                };
                self.learn(now, pair, told);
            }
            _ => self.retract(now, neighbour, pair),
        }
    }

    fn handle_route_request(&mut self, now: Instant, from: InterfaceId, request: &RouteRequest) {
        let Some(prefix) = request.prefix else {
            return self.dump_soon(now, from);
        };
        let pair = pair(prefix, request.source_prefix);
        if self.carries(pair) && pair.is_routable() {
            self.answer(now, from, pair);
        } else {
            self.counters.not_carried += 1;
        }
    }

    pub(crate) fn carries(&self, pair: PrefixPair) -> bool {
        let family = match pair.to {
            IpPrefix::V6(_) => true,
            IpPrefix::V4(_) => self.config.carry.ipv4,
        };
        family && (pair.from.is_none() || self.config.carry.source_specific)
    }

    /// A next hop of a family we do not have on the link cannot be used (RFC 9229, section 2.2).
    fn has_ipv4(&self, neighbour: NeighbourId) -> bool {
        let interface = self.neighbours.get(&neighbour).and_then(|neighbour| self.interfaces.get(&neighbour.interface));
        interface.is_some_and(|interface| interface.config.ipv4.is_some())
    }
}

/// What an Update or a request is about. IPv4 prefixes are the same whatever their next hops (RFC 9229, section 2).
pub(crate) fn pair(prefix: AnyPrefix, source_prefix: Option<AnyPrefix>) -> PrefixPair {
    PrefixPair { to: prefix.prefix(), from: source_prefix.map(AnyPrefix::prefix) }
}

/// Routes.
impl Speaker {
    /// RFC 8966, section 3.5.3, for an update that is not a retraction.
    fn learn(&mut self, now: Instant, pair: PrefixPair, told: Told) {
        let Told { neighbour, router_id, .. } = told;
        let expires = self.epoch.tenths_from(now + route_expiry(told.interval));
        if self.hear_again(pair, &told, expires) {
            return;
        }
        let feasible = self.routes.is_feasible(pair, router_id, told.distance());
        if !feasible && self.may_ignore(pair, &told) {
            self.request_newer_seqno(now, pair, router_id, Asked::Neighbour(neighbour));
            return;
        }
        if !self.keep(pair, &told, expires) {
            self.counters.prefixes_full += 1;
            // What the neighbour told before does not hold any more.
            return self.retract(now, neighbour, pair);
        }
        self.sweep_routes_by(self.epoch.instant(refresh_at(expires, told.interval, 0)));
        self.pending.heard(pair, router_id, told.seqno, neighbour);
        self.reselect(now, pair);
        if !feasible && self.is_wanted(pair, &told) {
            self.request_newer_seqno(now, pair, router_id, Asked::Neighbour(neighbour));
        }
    }

    /// Nearly every update repeats the one before: only its time is new, unless something lacks a newer seqno.
    fn hear_again(&mut self, pair: PrefixPair, told: &Told, expires: Tenths) -> bool {
        let metric = told.metric.through(self.cost_to(told.neighbour, pair));
        let Some(entry) = self.routes.get_to_put_off(pair) else { return false };
        let Some(in_use) = entry.metric_in_use() else { return false };
        let is_wanted = entry.selects(told.neighbour) || metric < in_use;
        if is_wanted && !entry.is_feasible(told.router_id, told.distance()) {
            return false;
        }
        entry.put_off(told, expires)
    }

    /// Puts a route into the table, in place of what the same neighbour told before. `false`: there is no room.
    fn keep(&mut self, pair: PrefixPair, told: &Told, expires: Tenths) -> bool {
        let has_room = self.routes.get(pair).is_some() || self.may_tell_more(told.neighbour);
        let Some(neighbour) = self.neighbours.get_mut(&told.neighbour) else { return false };
        let Some(entry) = has_room.then(|| self.routes.entry(pair)).flatten() else { return false };
        match entry.put(told, expires) {
            Put::NoRoom => return false,
            Put::New => neighbour.routes += 1,
            Put::Replaced { next_hop_changed } => {
                if next_hop_changed && entry.selects(told.neighbour) {
                    self.changed.pairs.insert(pair);
                }
            }
        }
        true
    }

    /// Whether a neighbour may bring a prefix that nobody told yet: see [`crate::Limits`].
    fn may_tell_more(&self, neighbour: NeighbourId) -> bool {
        let half = self.config.limits.prefixes / 2;
        let told = self.neighbours.get(&neighbour).map_or(0, |neighbour| neighbour.routes);
        self.routes.len() < half || told < half / self.neighbours.len().max(1)
    }

    /// "If the entry is currently selected, the update is unfeasible, and its router-id is the entry's,
    /// the update MAY be ignored": the old route leads on without a loop until a newer seqno comes, while
    /// the truth would cut us off. Not if something feasible is better than what the update tells.
    fn may_ignore(&self, pair: PrefixPair, told: &Told) -> bool {
        let Some(entry) = self.routes.get(pair).filter(|entry| entry.selects(told.neighbour)) else {
            return false;
        };
        let same_source = entry.selected().is_some_and(|selected| selected.router_id == told.router_id);
        let metric = told.metric.through(self.cost_to(told.neighbour, pair));
        let better = |other: Candidate<_>| other.feasible && other.key != told.neighbour && other.metric < metric;
        same_source && !self.candidates(pair).any(better)
    }

    /// Whether an unfeasible route would be better than what is in use (RFC 8966, section 3.8.2.2).
    fn is_wanted(&self, pair: PrefixPair, told: &Told) -> bool {
        let metric = told.metric.through(self.cost_to(told.neighbour, pair));
        let usable = metric.is_finite() && self.counted(pair, told.neighbour, told.price).is_some();
        usable && self.routes.selected(pair).is_none_or(|selected| metric < selected.metric)
    }

    fn retract(&mut self, now: Instant, neighbour: NeighbourId, pair: PrefixPair) {
        let epoch = self.epoch;
        let Some(route) = self.routes.get_mut(pair).and_then(|entry| entry.candidate_mut(neighbour)) else {
            return;
        };
        if !route.is_retracted() {
            route.refmetric = Metric::INFINITY;
            route.expires = epoch.tenths_from(now + route_expiry(route.interval));
            let expires = epoch.instant(route.expires);
            self.sweep_routes_by(expires);
            self.reselect(now, pair);
        }
    }

    fn retract_all(&mut self, now: Instant, neighbour: NeighbourId) {
        for pair in self.routes.told_by(neighbour) {
            self.retract(now, neighbour, pair);
        }
    }

    /// Routes to a prefix that are not retracted, through neighbours who are up, and that may be used at the price they
    /// count.
    fn candidates(&self, pair: PrefixPair) -> impl Iterator<Item = Candidate<NeighbourId>> {
        self.routes.get(pair).into_iter().flat_map(move |entry| {
            entry.candidates().iter().filter_map(move |route| {
                let metric = route.refmetric.through(self.cost_to(route.neighbour, pair));
                let feasible = entry.is_route_feasible(route);
                let price = self.counted(pair, route.neighbour, route.price).filter(|_| metric.is_finite())?;
                Some(Candidate { key: route.neighbour, metric, price, feasible })
            })
        })
    }

    /// What a route counts that a neighbour told with a price, by how the link to it bills: the outer `None` is for one
    /// that may not be used, the inner one for an unknown price.
    #[expect(clippy::option_option, reason = "two questions, two answers")]
    fn counted(&self, pair: PrefixPair, neighbour: NeighbourId, told: Option<Price>) -> Option<Option<Price>> {
        let config = self.config_with(neighbour);
        if config.and_then(|config| config.only).is_some_and(|only| only.surcharge(pair.to).is_none()) {
            return None;
        }
        match config.and_then(|config| config.trade) {
            None => Some(told),
            Some(trade) => trade.counted(told, pair.to.is_default()).map(Some),
        }
    }

    /// What the link to a neighbour costs on the way to a prefix.
    pub(crate) fn cost_to(&self, neighbour: NeighbourId, pair: PrefixPair) -> Cost {
        let cost = self.cost(neighbour);
        let only = self.config_with(neighbour).and_then(|config| config.only);
        match only.map(|only| only.surcharge(pair.to)) {
            None | Some(Some(0)) => cost,
            Some(Some(more)) => cost.plus(more),
            Some(None) => Cost::INFINITY,
        }
    }

    fn trade_with(&self, neighbour: NeighbourId) -> Option<Trade> {
        self.config_with(neighbour)?.trade
    }

    fn config_with(&self, neighbour: NeighbourId) -> Option<&InterfaceConfig> {
        let interface = self.neighbours.get(&neighbour)?.interface;
        Some(&self.interfaces.get(&interface)?.config)
    }

    /// What should be in use. Asks for a newer seqno where a cheaper route lacks only that. Of what is in use at present
    /// `keeps` says whether it is given up reluctantly.
    fn choose(&mut self, now: Instant, pair: PrefixPair, keeps: bool) -> Option<Selected> {
        let entry = self.routes.get(pair)?;
        if let Some(metric) = entry.origin() {
            let (router_id, seqno) = (self.config.router_id, self.seqno);
            return Some(Selected { via: None, router_id, seqno, metric, price: Some(Price::ZERO) });
        }
        let mut pace = entry.pace();
        let current = entry.selected_neighbour().filter(|_| keeps);
        let stretch = self.rng.u8(75..=125);
        let moment = Moment {
            now: self.epoch.tenths(now),
            policy: &self.config.policy,
            update_interval: self.update_interval(),
            stretch,
        };
        let decision = selection::decide(moment, self.candidates(pair), current, &mut pace);
        let selected = decision.used.and_then(|neighbour| self.selected_through(pair, neighbour));
        if let Some(neighbour) = decision.ask {
            self.ask_for_cheaper(now, pair, neighbour);
        }
        if let Some(due) = pace.due {
            self.sweep_routes_by(self.epoch.instant(due));
        }
        if let Some(entry) = self.routes.get_mut(pair) {
            entry.set_pace(pace);
        }
        selected
    }

    fn selected_through(&self, pair: PrefixPair, neighbour: NeighbourId) -> Option<Selected> {
        let entry = self.routes.get(pair)?;
        let route = entry.candidate(neighbour)?;
        let interface = self.neighbours.get(&neighbour)?.interface;
        Some(Selected {
            via: Some(Via { interface, neighbour }),
            router_id: entry.originator(route),
            seqno: route.seqno,
            metric: route.refmetric.through(self.cost_to(neighbour, pair)),
            price: self.counted(pair, neighbour, route.price)?,
        })
    }

    fn ask_for_cheaper(&mut self, now: Instant, pair: PrefixPair, neighbour: NeighbourId) {
        let originator = |entry: &Entry| entry.candidate(neighbour).map(|route| entry.originator(route));
        if let Some(router_id) = self.routes.get(pair).and_then(originator) {
            self.request_newer_seqno(now, pair, router_id, Asked::Neighbour(neighbour));
        }
    }

    /// The longest time between full updates on any interface.
    fn update_interval(&self) -> Duration {
        self.interfaces.values().map(|interface| interface.config.update_interval).max().unwrap_or_default()
    }

    /// Selects anew, and tells whom it concerns. To be called after any change to a prefix's routes,
    /// their links or their feasibility.
    pub(crate) fn reselect(&mut self, now: Instant, pair: PrefixPair) {
        let after = self.choose(now, pair, true);
        self.select(now, pair, after);
    }

    /// The same without patience.
    fn reselect_afresh(&mut self, now: Instant, pair: PrefixPair) {
        let after = self.choose(now, pair, false);
        self.select(now, pair, after);
    }

    fn select(&mut self, now: Instant, pair: PrefixPair, after: Option<Selected>) {
        let Some(entry) = self.routes.get_mut(pair) else { return };
        let before = entry.selected();
        entry.select(after);
        let announced = entry.announced();
        let only_ours = !entry.is_held() && [before, after].into_iter().flatten().all(|route| route.via.is_none());
        match (before, after) {
            (None, None) => return,
            (Some(before), None) => self.route_lost(now, pair, before),
            (_, Some(after)) => {
                entry.hold(None);
                if before == Some(after) {
                    return;
                }
                self.route_changed(now, pair, before, after, announced);
            }
        }
        if after.is_none() || !only_ours {
            self.changed.pairs.insert(pair);
        }
    }

    fn route_lost(&mut self, now: Instant, pair: PrefixPair, before: Selected) {
        let until = now + self.hold_time();
        if let Some(entry) = self.routes.get_mut(pair) {
            entry.hold(Some(self.epoch.tenths_from(until)));
            self.sweep_routes_by(until);
        }
        self.trigger_everywhere(now, pair, Trigger { repeats: RETRACTION_REPEATS, ..Trigger::default() });
        if before.via.is_some() {
            self.request_newer_seqno(now, pair, before.router_id, Asked::All);
        }
    }

    fn route_changed(
        &mut self,
        now: Instant,
        pair: PrefixPair,
        before: Option<Selected>,
        after: Selected,
        announced: Option<Announced>,
    ) {
        let moved = before.is_none_or(|before| before.interface() != after.interface());
        if moved
            && announced.is_some()
            && let Some(interface) = after.interface()
        {
            self.trigger_urgently(now, interface, pair, Trigger { poison: true, ..Trigger::default() });
        }
        if before.is_none_or(|before| before.router_id != after.router_id) {
            self.trigger_everywhere(now, pair, Trigger::default());
        } else if moved || is_significant(announced, &after) {
            self.trigger_later(now, pair);
        }
        self.answer_requesters(now, pair, after);
    }

    /// As long as a neighbour may believe our last announcement, if it heard nothing since.
    pub(crate) fn hold_time(&self) -> Duration {
        self.interfaces
            .values()
            .map(|interface| route_expiry(interface.config.update_interval()))
            .max()
            .unwrap_or_default()
    }
}

/// Copies of a retraction behind the first: at 10 % loss, one in a thousand is not heard.
const RETRACTION_REPEATS: u8 = 2;

/// Whether neighbours should hear of a change before the next full update: a quarter of the metric, and a wired link's
/// noise at least; or a price that has clearly moved.
fn is_significant(announced: Option<Announced>, selected: &Selected) -> bool {
    let Some(announced) = announced else { return true };
    let metric = announced.metric.0;
    let moved = match (announced.price, selected.price) {
        (Some(before), Some(after)) => before.is_far_from(after),
        (before, after) => before != after,
    };
    moved || metric.abs_diff(selected.metric.0) >= (metric / 4).max(64)
}

/// Links.
impl Speaker {
    pub(crate) fn cost(&self, neighbour: NeighbourId) -> Cost {
        self.neighbours.get(&neighbour).map_or(Cost::INFINITY, |neighbour| neighbour.cost)
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
        for pair in self.routes.told_by(id) {
            self.reselect(now, pair);
        }
    }

    /// Who comes up is asked for everything and told everything: it may have asked before it heard us. And it is
    /// asked to acknowledge, to learn whether it does.
    fn link_changed(&mut self, now: Instant, id: NeighbourId) {
        let Some(neighbour) = self.neighbours.get_mut(&id) else { return };
        let Some(interface) = self.interfaces.get(&neighbour.interface) else { return };
        let name = neighbour.interface;
        self.changed.neighbours.insert((name, neighbour.address));
        if neighbour.is_up() {
            neighbour.send(Tlv::RouteRequest(RouteRequest { prefix: None, source_prefix: None }));
            if interface.config.sensing == LinkSensing::Measured {
                neighbour.ask_for_acknowledgment();
            }
            self.dump_soon(now, name);
        }
    }

    fn remove_neighbour(&mut self, now: Instant, id: NeighbourId) {
        let Some(neighbour) = self.neighbours.remove(&id) else { return };
        let key = (neighbour.interface, neighbour.address);
        self.neighbour_ids.remove(&key);
        if let Some(interface) = self.interfaces.get_mut(&neighbour.interface) {
            interface.authentication.forget(neighbour.address);
        }
        if neighbour.is_up() {
            self.changed.neighbours.insert(key);
        }
        for pair in self.routes.told_by(id) {
            if let Some(entry) = self.routes.get_mut(pair) {
                entry.remove(id);
            }
            self.reselect(now, pair);
            self.routes.forget_if_unused(pair);
        }
    }

    /// A neighbour does not answer: where it is the only feasible way, the next best neighbour is asked for a newer
    /// seqno while there is still hope, so that the way through it can be used the moment the hope is given up.
    fn prepare_for_loss(&mut self, now: Instant, id: NeighbourId) {
        let mut asked = 0;
        for pair in self.routes.told_by(id) {
            if asked == PREPARED_MAX {
                return;
            }
            let Some(entry) = self.routes.get(pair).filter(|entry| entry.selects(id)) else { continue };
            let Some(router_id) = entry.selected().map(|selected| selected.router_id) else { continue };
            let others = || self.candidates(pair).filter(|candidate| candidate.key != id);
            if others().any(|candidate| candidate.feasible) {
                continue;
            }
            if let Some(next_best) = others().min_by_key(|candidate| (candidate.metric, candidate.key)) {
                self.request_newer_seqno(now, pair, router_id, Asked::Neighbour(next_best.key));
                asked += 1;
            }
        }
    }
}

/// Requests sent ahead of a loss: more would be a burden on the network for what may be a false alarm.
const PREPARED_MAX: usize = 64;

/// Timers.
impl Speaker {
    fn expire_neighbours(&mut self, now: Instant) {
        let due = |neighbour: &Neighbour| neighbour.next_timeout().is_some_and(|at| at <= now);
        let ids: Vec<_> = self.neighbours.iter().filter(|(_, neighbour)| due(neighbour)).map(|(id, _)| *id).collect();
        for id in ids {
            let Some(neighbour) = self.neighbours.get_mut(&id) else { continue };
            let Some(interface) = self.interfaces.get(&neighbour.interface) else { continue };
            let silence = neighbour.handle_timeout(now, &interface.config);
            if neighbour.is_forgotten() {
                self.remove_neighbour(now, id);
                continue;
            }
            self.measure(now, id);
            if silence == Silence::Doubtful {
                self.prepare_for_loss(now, id);
            }
        }
    }

    fn sweep_routes(&mut self, now: Instant) {
        if self.routes_due.is_none_or(|due| due > now) {
            return;
        }
        let swept = self.routes.sweep(self.epoch.tenths(now));
        let size = u32::try_from(self.routes.len()).unwrap_or(u32::MAX);
        let spacing = SWEEP_SPACING_PER_ROUTE.saturating_mul(size).clamp(SWEEP_SPACING, SWEEP_SPACING_MAX);
        self.sweeps_from = Some(now + spacing);
        self.routes_due = None;
        swept.next.into_iter().for_each(|next| self.sweep_routes_by(self.epoch.instant(next)));
        self.changed.pairs.extend(swept.released);
        for neighbour in swept.dropped {
            if let Some(neighbour) = self.neighbours.get_mut(&neighbour) {
                neighbour.routes = neighbour.routes.saturating_sub(1);
            }
        }
        for (pair, neighbour) in swept.expiring {
            self.request_route(neighbour, pair);
        }
        for pair in swept.touched {
            self.reselect(now, pair);
            self.routes.forget_if_unused(pair);
        }
    }

    fn expire_interface(&mut self, now: Instant, id: InterfaceId) {
        let (stretch, early) = (self.rng.u32(85..=100), self.rng.u32(90..=100));
        let Some(interface) = self.interfaces.get_mut(&id) else { return };
        let hello = interface.hello_at <= now;
        if hello {
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
        interface.expire_flush(now);
        interface.authentication.handle_timeout(now);
        if hello && interface.config.unicast_hellos {
            self.greet_each_neighbour(id);
        }
    }

    fn greet_each_neighbour(&mut self, id: InterfaceId) {
        let Some(interval) = self.interfaces.get(&id).map(|interface| interface.config.hello_interval()) else {
            return;
        };
        for neighbour in self.neighbours.values_mut().filter(|neighbour| neighbour.interface == id) {
            let seqno = neighbour.hello_seqno;
            neighbour.hello_seqno = seqno.next();
            neighbour.send(Tlv::Hello(Hello { unicast: true, seqno, interval: Some(interval), timestamp: None }));
        }
    }

    pub(crate) fn sweep_pending_by(&mut self, at: Instant) {
        self.pending_due = Some(self.pending_due.map_or(at, |due| due.min(at)));
    }

    fn sweep_routes_by(&mut self, at: Instant) {
        let at = self.sweeps_from.map_or(at, |earliest| earliest.max(at));
        self.routes_due = Some(self.routes_due.map_or(at, |due| due.min(at)));
    }

    pub(crate) fn sweep_sources_by(&mut self, at: Instant) {
        self.sweep_routes_by(at);
    }

    pub(crate) fn note_seqno_changed(&mut self) {
        self.changed.seqno = true;
    }
}
