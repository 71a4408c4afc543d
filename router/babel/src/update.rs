//! Sending: what is announced, when, and in which packet (RFC 8966, sections 3.1 and 3.7).

use crate::interface::{HELLOS_PER_IHU, Interface, InterfaceId, InterfaceKind, LinkSensing, Trigger};
use crate::metric::Metric;
use crate::prefix::PrefixPair;
use crate::route::{Entry, Selected};
use crate::source::GC_TIME;
use crate::speaker::Speaker;
use crate::trade::Origin;
use crate::views::{Destination, Transmit};
use crate::wire::{
    AcknowledgmentRequest, AnyPrefix, Hello, HelloTimestamp, Ihu, Interval, Quote, RouteRequest, Tlv, Update, Writer,
};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::ops::Bound;
use std::time::{Duration, Instant};

/// "Urgent" waits this long, so that what belongs together travels together.
const URGENT_MS: std::ops::RangeInclusive<u64> = 10..=50;
/// A triggered update that is not urgent.
const TRIGGERED_MS: std::ops::RangeInclusive<u64> = 200..=400;
/// Full updates on request are no closer together.
const DUMP_SPACING: Duration = Duration::from_secs(1);
/// What an acknowledgment request says; tunnels answer at once.
const ACKNOWLEDGED_WITHIN: Interval = Interval(10);

/// Routes of a full update that are looked up together: about as many as a packet holds.
const DUMP_BATCH: usize = 32;

/// When.
impl Speaker {
    pub(crate) fn urgent_delay(&mut self) -> Duration {
        Duration::from_millis(self.rng.u64(URGENT_MS))
    }

    pub(crate) fn trigger_everywhere(&mut self, now: Instant, pair: PrefixPair, trigger: Trigger) {
        let at = now + self.urgent_delay();
        for interface in self.interfaces.values_mut() {
            interface.trigger(at, pair, trigger);
        }
    }

    pub(crate) fn trigger_urgently(&mut self, now: Instant, id: InterfaceId, pair: PrefixPair, trigger: Trigger) {
        let at = now + self.urgent_delay();
        if let Some(interface) = self.interfaces.get_mut(&id) {
            interface.trigger(at, pair, trigger);
        }
    }

    pub(crate) fn trigger_later(&mut self, now: Instant, pair: PrefixPair) {
        let at = now + self.later_delay();
        for interface in self.interfaces.values_mut() {
            interface.trigger(at, pair, Trigger::default());
        }
    }

    fn later_delay(&mut self) -> Duration {
        Duration::from_millis(self.rng.u64(TRIGGERED_MS))
    }

    /// Answers a request: with our route, or with a retraction if there is none.
    pub(crate) fn answer(&mut self, now: Instant, id: InterfaceId, pair: PrefixPair) {
        let known = self.routes.get(pair).is_some();
        let waiting = self.interfaces.get(&id).map_or(0, |interface| interface.triggered.len());
        if known || waiting < Interface::TRIGGERED_UNKNOWN_MAX {
            self.trigger_urgently(now, id, pair, Trigger::default());
        }
    }

    /// Answers a wildcard request: a full update, and who we hear.
    pub(crate) fn dump_soon(&mut self, now: Instant, id: InterfaceId) {
        let Some(interface) = self.interfaces.get_mut(&id) else { return };
        interface.dump_asked = true;
        match interface.dumped_at.map(|at| at + DUMP_SPACING).filter(|next| *next > now) {
            Some(next) => interface.update_at = interface.update_at.min(next),
            None => {
                interface.ready.ihu = Some(Bound::Unbounded);
                interface.start_dump(now);
            }
        }
    }
}

/// What.
impl Speaker {
    /// What an interface is told about a prefix; `None`: nothing.
    fn announcement(
        &self,
        interface: &Interface,
        id: InterfaceId,
        pair: PrefixPair,
        selected: Option<Selected>,
        poison: bool,
    ) -> Option<Update> {
        let Some(selected) = selected else {
            return Some(self.retraction(interface, Some(pair)));
        };
        if selected.interface() == Some(id) && interface.config.split_horizon() {
            return poison.then(|| self.retraction(interface, Some(pair)));
        }
        if interface.config.trade.is_some_and(|trade| !trade.shares(self.origin_of(pair, &selected))) {
            return Some(self.retraction(interface, Some(pair)));
        }
        Some(self.advertisement(interface, pair, &selected))
    }

    fn advertisement(&self, interface: &Interface, pair: PrefixPair, selected: &Selected) -> Update {
        let fee = interface.config.fee;
        let price = match interface.config.trade {
            None => selected.price.map(|price| price.plus(fee.price)),
            Some(trade) => Some(trade.told(fee.price, self.origin_of(pair, selected))),
        };
        Update {
            prefix: Some(interface.config.encoding_of(pair.to)),
            interval: interface.config.update_interval(),
            seqno: selected.seqno,
            metric: selected.metric,
            router_id: Some(selected.router_id),
            next_hop: Some(interface.config.next_hop_for(pair.to)),
            source_prefix: source_of(interface, Some(pair)),
            quote: Some(Quote { unit: self.config.policy.price_unit, epoch: fee.epoch, price }),
        }
    }

    fn origin_of(&self, pair: PrefixPair, selected: &Selected) -> Origin {
        let via = selected.interface().and_then(|id| self.interfaces.get(&id));
        Origin { is_default: pair.to.is_default(), trade: via.and_then(|interface| interface.config.trade) }
    }

    fn retraction(&self, interface: &Interface, pair: Option<PrefixPair>) -> Update {
        Update {
            prefix: pair.map(|pair| interface.config.encoding_of(pair.to)),
            interval: interface.config.update_interval(),
            seqno: self.seqno,
            metric: Metric::INFINITY,
            router_id: None,
            next_hop: None,
            source_prefix: source_of(interface, pair),
            quote: None,
        }
    }

    /// Writes the announcement, and remembers that it was made.
    fn announce(&mut self, now: Instant, id: InterfaceId, pair: PrefixPair, poison: bool, writer: &mut Writer) -> Said {
        let Some(interface) = self.interfaces.get(&id) else { return Said::Nothing };
        let entry = self.routes.get(pair);
        let selected = entry.and_then(Entry::selected);
        let Some(update) = self.announcement(interface, id, pair, selected, poison) else {
            return Said::Nothing;
        };
        if !entry.is_none_or(|entry| self.has_room_for_source(entry, &update)) {
            self.counters.sources_full += 1;
            return Said::Nothing;
        }
        if !writer.push(&Tlv::Update(update)) {
            return Said::NoRoom;
        }
        if update.metric.is_finite() {
            self.remember_announced(now, pair);
        }
        Said::Update
    }

    fn has_room_for_source(&self, entry: &Entry, update: &Update) -> bool {
        let theirs = update.router_id.filter(|id| *id != self.config.router_id);
        theirs.is_none_or(|id| self.routes.has_room_for_source(entry, id))
    }

    fn remember_announced(&mut self, now: Instant, pair: PrefixPair) {
        let believed_for = self.hold_time();
        self.routes.record_announcement(self.epoch.tenths_from(now), pair, believed_for);
        self.sweep_sources_by(now + GC_TIME);
    }
}

/// What became of an announcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    /// It stands in the packet.
    Update,
    /// There is nothing to say there.
    Nothing,
    /// The packet is full.
    NoRoom,
}

/// The source prefix of a source-specific route, as it is written there.
fn source_of(interface: &Interface, pair: Option<PrefixPair>) -> Option<AnyPrefix> {
    pair?.from.map(|from| interface.config.encoding_of(from))
}

/// In which packet.
impl Speaker {
    /// The next packet, until `None`. To be drained after every `handle_` call.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        self.challenge(now).or_else(|| self.unicast_packet(now)).or_else(|| self.multicast_packet(now))
    }

    /// What neighbours need before they believe anything else.
    fn challenge(&mut self, now: Instant) -> Option<Transmit> {
        self.interfaces.iter_mut().find_map(|(id, interface)| {
            let (to, payload) = interface.authentication.poll_transmit(now)?;
            Some(Transmit { interface: *id, to: Destination::Unicast(to), payload })
        })
    }

    fn unicast_packet(&mut self, now: Instant) -> Option<Transmit> {
        let neighbour = self.neighbours.values_mut().find(|neighbour| !neighbour.outbox.is_empty())?;
        let interface = self.interfaces.get_mut(&neighbour.interface)?;
        let to = Destination::Unicast(neighbour.address);
        let mut writer = interface.writer(to);
        while neighbour.outbox.front().is_some_and(|tlv| writer.push(tlv)) {
            neighbour.outbox.pop_front();
        }
        if neighbour.outbox.is_empty() {
            neighbour.outbox = VecDeque::new(); // A rush is rare, and its room not kept.
        }
        let payload = interface.authentication.protect(now, to, writer.finish());
        Some(Transmit { interface: neighbour.interface, to, payload })
    }

    fn multicast_packet(&mut self, now: Instant) -> Option<Transmit> {
        let ids: Vec<_> = self.interfaces.keys().copied().collect();
        ids.into_iter().find_map(|id| {
            let to = Destination::Multicast;
            let mut writer = self.interfaces.get(&id)?.writer(to);
            self.write_packet(now, id, &mut writer);
            if writer.is_empty() {
                return None;
            }
            let interface = self.interfaces.get_mut(&id)?;
            let payload = interface.authentication.protect(now, to, writer.finish());
            Some(Transmit { interface: id, to, payload })
        })
    }

    /// As much as fits of what is ready: link sensing, then what is urgent, then the full update.
    fn write_packet(&mut self, now: Instant, id: InterfaceId, writer: &mut Writer) {
        self.write_hello(now, id, writer);
        let confirmer = self.confirmer(id);
        let mut said = Vec::new();
        writer.set_aside(confirmer.map_or(0, |_| AcknowledgmentRequest::OCTETS));
        let _ = self.write_ihus(id, writer)
            && self.write_wildcards(id, writer)
            && self.write_triggered(now, id, writer, &mut said)
            && self.write_requests(id, writer)
            && self.write_dump(now, id, writer, &mut said);
        writer.set_aside(0);
        match confirmer {
            Some(rtt) => self.ask_to_confirm(now, id, rtt, said, writer),
            None => self.repeat_retractions(now, id, said),
        }
    }

    /// The round trip to the neighbour who is asked to acknowledge what matters. Only where there is one: of several,
    /// anybody's acknowledgment would stand for all.
    fn confirmer(&self, id: InterfaceId) -> Option<Duration> {
        let config = &self.interfaces.get(&id)?.config;
        if config.kind != InterfaceKind::Tunnel || config.sensing != LinkSensing::Measured {
            return None;
        }
        let mut here = self.neighbours.values().filter(|neighbour| neighbour.interface == id && neighbour.is_up());
        let only = here.next()?;
        here.next().is_none().then(|| only.rtt().unwrap_or_default())
    }

    /// Triggered updates tell of what would else be wrong for as long as a whole update interval, hop by hop. So does
    /// the full update for somebody new.
    fn ask_to_confirm(
        &mut self,
        now: Instant,
        id: InterfaceId,
        rtt: Duration,
        said: Vec<(PrefixPair, Trigger)>,
        writer: &mut Writer,
    ) {
        let Some(interface) = self.interfaces.get_mut(&id).filter(|_| !said.is_empty()) else { return };
        let opaque = interface.await_confirmation(now, rtt, said);
        let request = AcknowledgmentRequest { opaque, interval: ACKNOWLEDGED_WITHIN };
        let _ = writer.push(&Tlv::AcknowledgmentRequest(request));
    }

    fn write_hello(&mut self, now: Instant, id: InterfaceId, writer: &mut Writer) {
        let Some(interface) = self.interfaces.get_mut(&id) else { return };
        if std::mem::take(&mut interface.ready.hello) {
            let hello = Hello {
                unicast: false,
                seqno: interface.hello_seqno,
                interval: Some(interface.config.hello_interval()),
                timestamp: interface.config.rtt.map(|_| HelloTimestamp(self.epoch.micros(now))),
            };
            let _ = writer.push(&Tlv::Hello(hello));
            interface.hello_seqno = interface.hello_seqno.next();
            if interface.hellos_to_ihu == 0 {
                interface.ready.ihu = Some(Bound::Unbounded);
            }
            interface.hellos_to_ihu = interface.hellos_to_ihu.checked_sub(1).unwrap_or(HELLOS_PER_IHU - 1);
        }
    }

    /// One for each neighbour, as many as fit: echoes of timestamps are of use in the Hello's packet only.
    fn write_ihus(&mut self, id: InterfaceId, writer: &mut Writer) -> bool {
        let Some(interface) = self.interfaces.get_mut(&id) else { return true };
        let Some(from) = interface.ready.ihu else { return true };
        let here = self.neighbours.range((from, Bound::Unbounded)).filter(|(_, neighbour)| neighbour.interface == id);
        for (name, neighbour) in here {
            let address = Some(IpAddr::V6(neighbour.address));
            let interval = interface.config.ihu_interval();
            let timestamp = interface.config.rtt.and(neighbour.echo());
            let rxcost = interface.config.told_rxcost(neighbour.rxcost);
            if !writer.push(&Tlv::Ihu(Ihu { address, rxcost, interval, timestamp })) {
                return false;
            }
            interface.ready.ihu = Some(Bound::Excluded(*name));
        }
        interface.ready.ihu = None;
        true
    }

    fn write_wildcards(&mut self, id: InterfaceId, writer: &mut Writer) -> bool {
        let Some(interface) = self.interfaces.get(&id) else { return true };
        let retraction = self.retraction(interface, None);
        let Some(interface) = self.interfaces.get_mut(&id) else { return true };
        if interface.ready.retract_all && writer.push(&Tlv::Update(retraction)) {
            interface.ready.retract_all = false;
        }
        let request = RouteRequest { prefix: None, source_prefix: None };
        if interface.ready.request_all && writer.push(&Tlv::RouteRequest(request)) {
            interface.ready.request_all = false;
        }
        !interface.ready.retract_all && !interface.ready.request_all
    }

    /// `false`: the packet is full and more is to come.
    fn write_triggered(
        &mut self,
        now: Instant,
        id: InterfaceId,
        writer: &mut Writer,
        said: &mut Vec<(PrefixPair, Trigger)>,
    ) -> bool {
        while let Some((pair, trigger)) = self.next_triggered(id) {
            match self.announce(now, id, pair, trigger.poison, writer) {
                Said::Update => said.push((pair, trigger)),
                Said::Nothing => {}
                Said::NoRoom => return false,
            }
            if let Some(interface) = self.interfaces.get_mut(&id) {
                interface.triggered.remove(&pair);
            }
        }
        true
    }

    fn next_triggered(&mut self, id: InterfaceId) -> Option<(PrefixPair, Trigger)> {
        let interface = self.interfaces.get_mut(&id).filter(|interface| interface.ready.triggered)?;
        let first = interface.triggered.first_key_value().map(|(pair, trigger)| (*pair, *trigger));
        interface.ready.triggered = first.is_some() || !interface.ready.requests.is_empty();
        first
    }

    /// Where nobody acknowledges.
    fn repeat_retractions(&mut self, now: Instant, id: InterfaceId, said: Vec<(PrefixPair, Trigger)>) {
        let again = |(pair, trigger): (PrefixPair, Trigger)| {
            let repeats = trigger.repeats.checked_sub(1).filter(|_| self.routes.selected(pair).is_none())?;
            Some((pair, Trigger { repeats, ..trigger }))
        };
        let repeats: Vec<_> = said.into_iter().filter_map(again).collect();
        if repeats.is_empty() {
            return;
        }
        let at = now + self.later_delay();
        if let Some(interface) = self.interfaces.get_mut(&id) {
            interface.repeats.extend(repeats);
            interface.flush_by(at);
        }
    }

    fn write_requests(&mut self, id: InterfaceId, writer: &mut Writer) -> bool {
        let Some(interface) = self.interfaces.get_mut(&id).filter(|interface| interface.ready.triggered) else {
            return true;
        };
        while let Some(request) = interface.ready.requests.front() {
            if !writer.push(&Tlv::SeqnoRequest(request.to_wire(&interface.config))) {
                return false;
            }
            interface.ready.requests.pop_front();
        }
        interface.ready.requests = VecDeque::new();
        interface.ready.triggered = false;
        true
    }

    fn write_dump(
        &mut self,
        now: Instant,
        id: InterfaceId,
        writer: &mut Writer,
        said: &mut Vec<(PrefixPair, Trigger)>,
    ) -> bool {
        while let Some(from) = self.next_of_dump(id) {
            let has_something = |(_, entry): &(_, &Entry)| entry.metric_in_use().is_some() || entry.is_held();
            let rest = self.routes.from(from).filter(has_something).map(|(pair, _)| Some(pair));
            // Behind the last one comes the end of the update.
            let some: Vec<_> = rest.chain([None]).take(DUMP_BATCH).collect();
            for next in some {
                let outcome = next.map_or(Said::Nothing, |pair| self.announce(now, id, pair, false, writer));
                let Some(interface) = self.interfaces.get_mut(&id) else { return true };
                if outcome == Said::NoRoom {
                    interface.ready.dump_packets -= 1;
                    return false;
                }
                if interface.ready.dump_confirmed && outcome == Said::Update {
                    said.extend(next.map(|pair| (pair, Trigger::default())));
                }
                interface.ready.dump = next.map(Bound::Excluded);
            }
        }
        true
    }

    fn next_of_dump(&self, id: InterfaceId) -> Option<Bound<PrefixPair>> {
        self.interfaces.get(&id).filter(|interface| interface.ready.dump_packets > 0)?.ready.dump
    }
}
