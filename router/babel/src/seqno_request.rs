//! Requests: sent, answered, passed on (RFC 8966, section 3.8).

use crate::interface::{InterfaceConfig, InterfaceId, Trigger};
use crate::neighbour::NeighbourId;
use crate::pending::{Asked, Direction, RESEND_AFTER};
use crate::prefix::PrefixPair;
use crate::route::Selected;
use crate::router_id::RouterId;
use crate::seqno::Seqno;
use crate::speaker::{Speaker, pair};
use crate::wire::{RouteRequest, SeqnoRequest, Tlv};
use std::time::{Duration, Instant};

/// How far our own requests go: farther than a mesh is wide, less than for ever.
pub(crate) const HOP_COUNT: u8 = 127;
/// Our seqno changes no faster, or a neighbour could drive it once around before the network forgets.
const SEQNO_SPACING: Duration = Duration::from_millis(100);

/// A seqno request before it is written for an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) pair: PrefixPair,
    pub(crate) router_id: RouterId,
    pub(crate) seqno: Seqno,
    pub(crate) hop_count: u8,
}

impl Wanted {
    pub(crate) fn to_wire(self, config: &InterfaceConfig) -> SeqnoRequest {
        SeqnoRequest {
            prefix: config.encoding_of(self.pair.to),
            seqno: self.seqno,
            hop_count: self.hop_count,
            router_id: self.router_id,
            source_prefix: self.pair.from.map(|from| config.encoding_of(from)),
        }
    }
}

impl Speaker {
    /// Asks for a route that may be used again: one newer than anything we told about the source.
    pub(crate) fn request_newer_seqno(&mut self, now: Instant, pair: PrefixPair, router_id: RouterId, asked: Asked) {
        let Some(feasibility) = self.routes.feasibility(pair, router_id) else {
            return; // Nothing told: any route is feasible already.
        };
        let seqno = feasibility.seqno.next();
        if self.pending.want(now, pair, router_id, seqno, asked) {
            self.send_seqno_request(now, Wanted { pair, router_id, seqno, hop_count: HOP_COUNT }, asked);
        }
        self.sweep_pending_by(now + RESEND_AFTER);
    }

    pub(crate) fn repeat_seqno_requests(&mut self, now: Instant) {
        if self.pending_due.is_none_or(|due| due > now) {
            return;
        }
        let (again, next) = self.pending.sweep(now, &self.routes);
        self.pending_due = next;
        for (wanted, direction) in again {
            match direction {
                Direction::Ours(asked) => self.send_seqno_request(now, wanted, asked),
                Direction::AwayFrom(requester) => self.pass_on_again(now, wanted, requester),
            }
        }
    }

    fn pass_on_again(&mut self, now: Instant, wanted: Wanted, requester: NeighbourId) {
        if let Some(to) = self.way_for_request(wanted.pair, requester) {
            self.pending.note_way(wanted, to);
            self.send_seqno_request(now, wanted, Asked::Neighbour(to));
        }
    }

    /// RFC 8966, section 3.8.1.2.
    pub(crate) fn handle_seqno_request(&mut self, now: Instant, from: NeighbourId, request: &SeqnoRequest) {
        let pair = pair(request.prefix, request.source_prefix);
        if !self.carries(pair) {
            self.counters.not_carried += 1;
            return;
        }
        let Some(interface) = self.neighbours.get(&from).map(|neighbour| neighbour.interface) else {
            return;
        };
        match self.routes.selected(pair) {
            Some(selected) if answers(&selected, request) => self.answer(now, interface, pair),
            Some(selected) if selected.via.is_none() => self.increase_seqno(now),
            Some(_) | None => self.pass_on(now, from, interface, pair, request),
        }
    }

    /// One more, and not more: what the requester wants is one ahead of what it knows.
    pub(crate) fn increase_seqno(&mut self, now: Instant) {
        if let Some(changed_at) = self.seqno_changed_at
            && now < changed_at + SEQNO_SPACING
        {
            self.seqno_due = Some(changed_at + SEQNO_SPACING);
            return;
        }
        self.seqno_due = None;
        self.seqno_changed_at = Some(now);
        self.seqno = self.seqno.next();
        self.note_seqno_changed();
        for pair in self.routes.originated() {
            self.reselect(now, pair);
            self.trigger_everywhere(now, pair, Trigger::default());
        }
    }

    /// A route came into use: whoever asked for it hears of it at once.
    pub(crate) fn answer_requesters(&mut self, now: Instant, pair: PrefixPair, selected: Selected) {
        let Some(pending) = self.pending.satisfy(pair, selected.router_id, selected.seqno) else {
            return;
        };
        for interface in pending.requesters {
            self.answer(now, interface, pair);
        }
    }

    /// "Forwards the request to a neighbour that advertises the prefix and is not the one it came from."
    /// The neighbour in use comes first, since only its answer will be selected, and only what is
    /// selected may be announced.
    fn pass_on(
        &mut self,
        now: Instant,
        from: NeighbourId,
        interface: InterfaceId,
        pair: PrefixPair,
        request: &SeqnoRequest,
    ) {
        let Some(hop_count) = request.hop_count.checked_sub(1).filter(|left| *left > 0) else {
            return;
        };
        let Some(to) = self.way_for_request(pair, from) else { return };
        let wanted = Wanted { pair, router_id: request.router_id, seqno: request.seqno, hop_count };
        if !self.pending.has_room_for(wanted, from, self.neighbours.len()) {
            self.counters.requests_full += 1;
            return;
        }
        if self.pending.relay(now, wanted, interface, from, to) {
            self.send_seqno_request(now, wanted, Asked::Neighbour(to));
        }
        self.sweep_pending_by(now + RESEND_AFTER);
    }

    fn way_for_request(&self, pair: PrefixPair, from: NeighbourId) -> Option<NeighbourId> {
        let entry = self.routes.get(pair)?;
        let ways = entry.candidates().iter().filter(|route| route.neighbour != from);
        let usable = ways.map(|route| (route.refmetric.through(self.cost_to(route.neighbour, pair)), route.neighbour));
        let rank = |(metric, neighbour): &(_, NeighbourId)| (!entry.selects(*neighbour), *metric, *neighbour);
        usable.filter(|(metric, _)| metric.is_finite()).min_by_key(rank).map(|(_, neighbour)| neighbour)
    }

    /// To all, with the retraction that explains it; to one, at once.
    fn send_seqno_request(&mut self, now: Instant, request: Wanted, asked: Asked) {
        match asked {
            Asked::Neighbour(neighbour) => {
                if let Some(config) = self.config_at(neighbour) {
                    self.send_to(neighbour, Tlv::SeqnoRequest(request.to_wire(&config)));
                }
            }
            Asked::All => {
                let at = now + self.urgent_delay();
                for interface in self.interfaces.values_mut() {
                    interface.request(request);
                    interface.flush_by(at);
                }
            }
        }
    }

    /// Asks a neighbour to repeat a route.
    pub(crate) fn request_route(&mut self, neighbour: NeighbourId, pair: PrefixPair) {
        if let Some(config) = self.config_at(neighbour) {
            let prefix = Some(config.encoding_of(pair.to));
            let source_prefix = pair.from.map(|from| config.encoding_of(from));
            self.send_to(neighbour, Tlv::RouteRequest(RouteRequest { prefix, source_prefix }));
        }
    }

    fn config_at(&self, neighbour: NeighbourId) -> Option<InterfaceConfig> {
        let neighbour = self.neighbours.get(&neighbour)?;
        self.interfaces.get(&neighbour.interface).map(|interface| interface.config)
    }
}

/// "If the requested router-id is different, or the requested seqno is no greater than the entry's."
fn answers(selected: &Selected, request: &SeqnoRequest) -> bool {
    selected.router_id != request.router_id || !request.seqno.is_newer_than(selected.seqno)
}
