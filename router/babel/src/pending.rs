//! The table of pending seqno requests (RFC 8966, section 3.2.7).

use crate::interface::InterfaceId;
use crate::neighbour::NeighbourId;
use crate::prefix::PrefixPair;
use crate::route::{Entry, RouteTable};
use crate::router_id::RouterId;
use crate::seqno::Seqno;
use crate::seqno_request::{HOP_COUNT, Wanted};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Whom a request went to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// All neighbours: any of them may know another way.
    All,
    /// The one with the route that is wanted.
    Neighbour(NeighbourId),
}

/// A request to send again, and where to.
pub(crate) type Again = (Wanted, Direction);

/// Where a request goes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Our own one: whom we asked.
    Ours(Asked),
    /// One passed on for this neighbour: where the way leads by then.
    AwayFrom(NeighbourId),
}

/// A request without an answer.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) seqno: Seqno,
    /// Who asked us: they get the answer at once. Empty: only we want it.
    pub(crate) requesters: BTreeSet<InterfaceId>,
    /// Where our own request is repeated; `None` for one only passed on.
    pub(crate) asked: Option<Asked>,
    /// Where another's request is repeated. Its originator does so too, but over several links that lose a tenth, hardly
    /// one in three requests and its answer come through unless each hop sees to its own (RFC 8966, section 3.2.7).
    passed: Option<Passed>,
    sent_at: Instant,
    pause: Duration,
    resends: u8,
    /// When to repeat it or, without repetitions left, to forget it.
    due: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Passed {
    from: NeighbourId,
    to: NeighbourId,
    hop_count: u8,
}

/// First repetition; RFC 8966, Appendix B suggests 2 s, tunnels are faster.
pub(crate) const RESEND_AFTER: Duration = Duration::from_millis(500);
/// A prefix that stays starved is asked for this often.
const PAUSE_MAX: Duration = Duration::from_secs(8);
/// Repetitions, each after twice the time up to the longest pause: for half a minute.
const RESENDS: u8 = 6;
/// The same where nobody tells of a way: who has one will tell of it soon, asked or not.
const RESENDS_TO_ALL: u8 = 2;
/// The same for requests of others.
const PASSED_RESENDS: u8 = 3;
/// A request seen twice within it was multiplied by the network; later, its originator repeats it.
const DUPLICATE_WITHIN: Duration = Duration::from_millis(500);

/// The table.
#[derive(Clone, Debug)]
pub(crate) struct PendingTable {
    pending: BTreeMap<(PrefixPair, RouterId), Pending>,
    pending_max: usize,
}

impl PendingTable {
    pub(crate) fn new(pending_max: usize) -> Self {
        Self { pending: BTreeMap::new(), pending_max }
    }

    /// Notes a request of our own. Whether it is to be sent: not if one as good is under way.
    pub(crate) fn want(&mut self, now: Instant, pair: PrefixPair, id: RouterId, seqno: Seqno, asked: Asked) -> bool {
        let Some(pending) = self.slot(now, pair, id, seqno) else {
            return false;
        };
        let under_way = pending.asked.is_some() && !seqno.is_newer_than(pending.seqno);
        if under_way && (pending.asked == Some(asked) || pending.asked == Some(Asked::All)) {
            return false;
        }
        pending.renew(now, seqno);
        pending.asked = Some(asked);
        pending.resends = if asked == Asked::All { RESENDS_TO_ALL } else { RESENDS };
        pending.due = now + RESEND_AFTER;
        true
    }

    /// Whether a neighbour's request may be noted. Half of the table is ours; half of the rest goes to whoever asks first,
    /// and the last quarter is shared, so that no neighbour can keep out the requests of others.
    pub(crate) fn has_room_for(&self, wanted: Wanted, from: NeighbourId, neighbours: usize) -> bool {
        let others_max = self.pending_max / 2;
        if self.pending.contains_key(&(wanted.pair, wanted.router_id)) || self.pending.len() < others_max / 2 {
            return true;
        }
        let others = || self.pending.values().filter(|pending| pending.asked.is_none());
        let its = others().filter(|pending| pending.passed.is_some_and(|passed| passed.from == from)).count();
        let others = others().count();
        others < others_max / 2 || (others < others_max && its < others_max / 2 / neighbours.max(1))
    }

    /// Notes a request to be passed on for a neighbour. Whether to do so at once: not if the same one went the same way a
    /// moment ago. One that went another way may have met the cut that it is about. One of our own may end before it is
    /// answered, and a neighbour need not ask again: babeld passes a request on once in 65 s.
    pub(crate) fn relay(
        &mut self,
        now: Instant,
        wanted: Wanted,
        interface: InterfaceId,
        from: NeighbourId,
        to: NeighbourId,
    ) -> bool {
        let Wanted { pair, router_id, seqno, hop_count } = wanted;
        let known = self.pending.get(&(pair, router_id)).is_some_and(|pending| {
            !seqno.is_newer_than(pending.seqno)
                && pending.went_to(to)
                && now.saturating_duration_since(pending.sent_at) < DUPLICATE_WITHIN
        });
        let Some(pending) = self.slot(now, pair, router_id, seqno) else {
            return false;
        };
        pending.requesters.insert(interface);
        let passed = Passed { from, to, hop_count };
        pending.passed.get_or_insert(passed);
        if !known {
            pending.renew(now, seqno);
            pending.passed = Some(passed);
            if pending.asked.is_none() {
                pending.resends = PASSED_RESENDS;
                pending.due = now + RESEND_AFTER;
            }
        }
        !known
    }

    /// A route with this seqno is in use: the request, if it answers one.
    pub(crate) fn satisfy(&mut self, pair: PrefixPair, id: RouterId, seqno: Seqno) -> Option<Pending> {
        let pending = self.pending.get(&(pair, id))?;
        if pending.seqno.is_newer_than(seqno) {
            return None;
        }
        self.pending.remove(&(pair, id))
    }

    /// The neighbour that was asked told this seqno: what we wanted for ourselves is here, whether or not it is used.
    pub(crate) fn heard(&mut self, pair: PrefixPair, id: RouterId, seqno: Seqno, from: NeighbourId) {
        let answered = |pending: &Pending| {
            pending.asked == Some(Asked::Neighbour(from))
                && pending.requesters.is_empty()
                && !pending.seqno.is_newer_than(seqno)
        };
        if self.pending.get(&(pair, id)).is_some_and(answered) {
            self.pending.remove(&(pair, id));
        }
    }

    /// Repeats and forgets. A lost prefix that was found again by another way needs no request of ours; one that is
    /// starved we ask for until it is not, as the request or its answer may be lost on any hop every time. Returns
    /// what to send again, and when to look next.
    pub(crate) fn sweep(&mut self, now: Instant, routes: &RouteTable) -> (Vec<Again>, Option<Instant>) {
        let mut again = Vec::new();
        self.pending.retain(|(pair, id), pending| {
            if pending.due > now {
                return true;
            }
            if routes.selected(*pair).is_some() {
                pending.asked = pending.asked.filter(|asked| *asked != Asked::All);
            }
            let is_starved = || pending.asked.is_some() && routes.get(*pair).is_some_and(Entry::is_starved);
            let left = pending.resends.checked_sub(1).or_else(|| is_starved().then_some(0));
            let (Some((direction, hop_count)), Some(left)) = (pending.direction(), left) else {
                return false;
            };
            pending.resends = left;
            pending.sent_at = now;
            pending.pause = (pending.pause * 2).min(PAUSE_MAX);
            pending.due = now + pending.pause;
            again.push((Wanted { pair: *pair, router_id: *id, seqno: pending.seqno, hop_count }, direction));
            true
        });
        (again, self.pending.values().map(|pending| pending.due).min())
    }

    /// A request that is passed on again takes this way by now.
    pub(crate) fn note_way(&mut self, wanted: Wanted, to: NeighbourId) {
        let pending = self.pending.get_mut(&(wanted.pair, wanted.router_id));
        if let Some(passed) = pending.and_then(|pending| pending.passed.as_mut()) {
            passed.to = to;
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.pending.len()
    }

    fn slot(&mut self, now: Instant, pair: PrefixPair, id: RouterId, seqno: Seqno) -> Option<&mut Pending> {
        if self.pending.len() >= self.pending_max && !self.pending.contains_key(&(pair, id)) {
            return None;
        }
        Some(self.pending.entry((pair, id)).or_insert_with(|| Pending {
            seqno,
            requesters: BTreeSet::new(),
            asked: None,
            passed: None,
            pause: RESEND_AFTER,
            sent_at: now,
            resends: 0,
            due: now,
        }))
    }
}

impl Pending {
    fn direction(&self) -> Option<(Direction, u8)> {
        let passed = self.passed.map(|passed| (Direction::AwayFrom(passed.from), passed.hop_count));
        self.asked.map(|asked| (Direction::Ours(asked), HOP_COUNT)).or(passed)
    }

    fn went_to(&self, to: NeighbourId) -> bool {
        let ours = self.asked.is_some_and(|asked| asked == Asked::All || asked == Asked::Neighbour(to));
        ours || self.passed.is_some_and(|passed| passed.to == to)
    }

    fn renew(&mut self, now: Instant, seqno: Seqno) {
        (self.sent_at, self.pause) = (now, RESEND_AFTER);
        if seqno.is_newer_than(self.seqno) {
            self.seqno = seqno;
        }
    }
}
