//! The table of pending seqno requests (RFC 8966, section 3.2.7).

use crate::interface::InterfaceId;
use crate::neighbour::NeighbourId;
use crate::prefix::PrefixPair;
use crate::router_id::RouterId;
use crate::seqno::Seqno;
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

/// A request to send again: what for, and to whom.
pub(crate) type Again = (PrefixPair, RouterId, Seqno, Asked);

/// A request without an answer.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) seqno: Seqno,
    /// Who asked us: they get the answer at once. Empty: only we want it.
    pub(crate) requesters: BTreeSet<InterfaceId>,
    /// Where our own request is repeated; `None` for one only passed on, which its originator repeats.
    pub(crate) asked: Option<Asked>,
    sent_at: Instant,
    resends: u8,
    /// When to repeat it or, without repetitions left, to forget it.
    due: Instant,
}

/// First repetition; RFC 8966, Appendix B suggests 2 s, tunnels are faster.
pub(crate) const RESEND_AFTER: Duration = Duration::from_secs(1);
/// Repetitions, each after twice the time.
const RESENDS: u8 = 3;
/// A request seen twice within it was multiplied by the network; later, its originator repeats it.
const DUPLICATE_WITHIN: Duration = Duration::from_millis(500);
/// How long the interfaces of those who asked are remembered.
const REMEMBER_FOR: Duration = Duration::from_secs(10);

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
        pending.resends = RESENDS;
        pending.due = now + RESEND_AFTER;
        true
    }

    /// Notes a request to be passed on for the neighbour behind `from`. Whether to do so: not if the
    /// same one was sent a moment ago.
    pub(crate) fn relay(
        &mut self,
        now: Instant,
        pair: PrefixPair,
        id: RouterId,
        seqno: Seqno,
        from: InterfaceId,
    ) -> bool {
        let known = self.pending.get(&(pair, id)).is_some_and(|pending| {
            !seqno.is_newer_than(pending.seqno) && now.saturating_duration_since(pending.sent_at) < DUPLICATE_WITHIN
        });
        let Some(pending) = self.slot(now, pair, id, seqno) else {
            return false;
        };
        pending.requesters.insert(from);
        pending.due = pending.due.max(now + if pending.asked.is_some() { Duration::ZERO } else { REMEMBER_FOR });
        if !known {
            pending.renew(now, seqno);
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

    /// Repeats and forgets. Returns what to send again, and when to look next.
    pub(crate) fn sweep(&mut self, now: Instant) -> (Vec<Again>, Option<Instant>) {
        let mut again = Vec::new();
        self.pending.retain(|(pair, id), pending| {
            if pending.due > now {
                return true;
            }
            let (Some(asked), Some(left)) = (pending.asked, pending.resends.checked_sub(1)) else {
                return false;
            };
            pending.resends = left;
            pending.sent_at = now;
            pending.due = now + RESEND_AFTER * (1 << (RESENDS - left));
            again.push((*pair, *id, pending.seqno, asked));
            true
        });
        (again, self.pending.values().map(|pending| pending.due).min())
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
            sent_at: now,
            resends: 0,
            due: now,
        }))
    }
}

impl Pending {
    fn renew(&mut self, now: Instant, seqno: Seqno) {
        self.sent_at = now;
        if seqno.is_newer_than(self.seqno) {
            self.seqno = seqno;
        }
    }
}
