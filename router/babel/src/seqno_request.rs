//! Seqno requests: sent, answered, passed on (RFC 8966, section 3.8).

use crate::interface::{InterfaceId, Trigger};
use crate::neighbour::NeighbourId;
use crate::pending::{RESEND_AFTER, Target};
use crate::prefix::Prefix;
use crate::route::Selected;
use crate::router_id::RouterId;
use crate::seqno::Seqno;
use crate::speaker::Speaker;
use crate::wire::{AnyPrefix, SeqnoRequest, Tlv};
use std::time::{Duration, Instant};

/// How far our own requests go: farther than a mesh is wide, less than for ever.
const HOP_COUNT: u8 = 127;
/// Our seqno changes no faster, or a neighbour could drive it once around before the network forgets.
const SEQNO_SPACING: Duration = Duration::from_millis(100);

impl Speaker {
    /// Asks for a route that may be used again: one newer than anything we told about the source.
    pub(crate) fn request_newer_seqno(&mut self, now: Instant, prefix: Prefix, router_id: RouterId, target: Target) {
        let Some(feasibility) = self.sources.feasibility(prefix, router_id) else {
            return; // Nothing told: any route is feasible already.
        };
        let seqno = feasibility.seqno.next();
        if self.pending.want(now, prefix, router_id, seqno, target) {
            self.send_seqno_request(now, own_request(prefix, router_id, seqno), target);
        }
        self.sweep_pending_by(now + RESEND_AFTER);
    }

    pub(crate) fn repeat_seqno_requests(&mut self, now: Instant) {
        if self.pending_due.is_none_or(|due| due > now) {
            return;
        }
        let (again, next) = self.pending.sweep(now);
        self.pending_due = next;
        for (prefix, router_id, seqno, target) in again {
            if self.is_still_wanted(prefix, target) {
                self.send_seqno_request(now, own_request(prefix, router_id, seqno), target);
            }
        }
    }

    /// RFC 8966, section 3.8.1.2.
    pub(crate) fn handle_seqno_request(&mut self, now: Instant, from: NeighbourId, request: &SeqnoRequest) {
        let (AnyPrefix::V6(prefix), None) = (request.prefix, request.source_prefix) else {
            self.counters.not_carried += 1;
            return;
        };
        let Some(interface) = self.neighbours.get(&from).map(|neighbour| neighbour.interface) else {
            return;
        };
        match self.routes.selected(prefix) {
            Some(selected) if answers(&selected, request) => self.answer(now, interface, prefix),
            Some(selected) if selected.via.is_none() => self.increase_seqno(now),
            Some(_) | None => self.pass_on(now, from, interface, prefix, request),
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
        for prefix in self.routes.originated() {
            self.reselect(now, prefix);
            self.trigger_everywhere(now, prefix, Trigger::default());
        }
    }

    /// A route came into use: whoever asked for it hears of it at once.
    pub(crate) fn answer_requesters(&mut self, now: Instant, prefix: Prefix, selected: Selected) {
        let Some(pending) = self.pending.satisfy(prefix, selected.router_id, selected.seqno) else {
            return;
        };
        for interface in pending.requesters {
            self.answer(now, interface, prefix);
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
        prefix: Prefix,
        request: &SeqnoRequest,
    ) {
        let Some(hop_count) = request.hop_count.checked_sub(1).filter(|left| *left > 0) else {
            return;
        };
        let Some(to) = self.way_for_request(prefix, from) else { return };
        if self.pending.relay(now, prefix, request.router_id, request.seqno, interface) {
            self.send_to(to, Tlv::SeqnoRequest(SeqnoRequest { hop_count, ..*request }));
        }
        self.sweep_pending_by(now + RESEND_AFTER);
    }

    fn way_for_request(&self, prefix: Prefix, from: NeighbourId) -> Option<NeighbourId> {
        let entry = self.routes.get(prefix)?;
        let ways = entry.candidates.iter().filter(|route| route.neighbour != from);
        let usable = ways.map(|route| (route.refmetric.through(self.cost(route.neighbour)), route.neighbour));
        let rank = |(metric, neighbour): &(_, NeighbourId)| (!entry.selects(*neighbour), *metric, *neighbour);
        usable.filter(|(metric, _)| metric.is_finite()).min_by_key(rank).map(|(_, neighbour)| neighbour)
    }

    /// To all, with the retraction that explains it; to one, at once.
    fn send_seqno_request(&mut self, now: Instant, request: SeqnoRequest, target: Target) {
        match target {
            Target::Neighbour(neighbour) => self.send_to(neighbour, Tlv::SeqnoRequest(request)),
            Target::All => {
                let at = now + self.urgent_delay();
                for interface in self.interfaces.values_mut() {
                    interface.request(request);
                    interface.flush_by(at);
                }
            }
        }
    }

    /// A lost prefix that was found again by another way needs no request.
    fn is_still_wanted(&self, prefix: Prefix, target: Target) -> bool {
        target != Target::All || self.routes.selected(prefix).is_none()
    }
}

fn own_request(prefix: Prefix, router_id: RouterId, seqno: Seqno) -> SeqnoRequest {
    SeqnoRequest { prefix: AnyPrefix::V6(prefix), seqno, hop_count: HOP_COUNT, router_id, source_prefix: None }
}

/// "If the requested router-id is different, or the requested seqno is no greater than the entry's."
fn answers(selected: &Selected, request: &SeqnoRequest) -> bool {
    selected.router_id != request.router_id || !request.seqno.is_newer_than(selected.seqno)
}
