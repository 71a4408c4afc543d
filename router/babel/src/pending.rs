//! The table of pending seqno requests (RFC 8966, section 3.2.7).

use crate::interface::InterfaceId;
use crate::neighbour::NeighbourId;
use crate::prefix::Prefix;
use crate::router_id::RouterId;
use crate::seqno::Seqno;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Whom a request went to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// All neighbours: any of them may know another way.
    All,
    /// The one with the route that is wanted.
    Neighbour(NeighbourId),
}

/// A request to send again: what for, and to whom.
pub(crate) type Again = (Prefix, RouterId, Seqno, Target);

/// A request without an answer.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) seqno: Seqno,
    /// Who asked us: they get the answer at once. Empty: only we want it.
    pub(crate) requesters: BTreeSet<InterfaceId>,
    /// Where our own request is repeated; `None` for one only passed on, which its originator repeats.
    pub(crate) target: Option<Target>,
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
    pending: BTreeMap<(Prefix, RouterId), Pending>,
    pending_max: usize,
}

impl PendingTable {
    pub(crate) fn new(pending_max: usize) -> Self {
        Self { pending: BTreeMap::new(), pending_max }
    }

    /// Notes a request of our own. Whether it is to be sent: not if one as good is under way.
    pub(crate) fn want(&mut self, now: Instant, prefix: Prefix, id: RouterId, seqno: Seqno, target: Target) -> bool {
        let Some(pending) = self.slot(now, prefix, id, seqno) else {
            return false;
        };
        let under_way = pending.target.is_some() && !seqno.is_newer_than(pending.seqno);
        if under_way && (pending.target == Some(target) || pending.target == Some(Target::All)) {
            return false;
        }
        pending.renew(now, seqno);
        pending.target = Some(target);
        pending.resends = RESENDS;
        pending.due = now + RESEND_AFTER;
        true
    }

    /// Notes a request to be passed on for the neighbour behind `from`. Whether to do so: not if the
    /// same one was sent a moment ago.
    pub(crate) fn relay(
        &mut self,
        now: Instant,
        prefix: Prefix,
        id: RouterId,
        seqno: Seqno,
        from: InterfaceId,
    ) -> bool {
        let known = self.pending.get(&(prefix, id)).is_some_and(|pending| {
            !seqno.is_newer_than(pending.seqno) && now.saturating_duration_since(pending.sent_at) < DUPLICATE_WITHIN
        });
        let Some(pending) = self.slot(now, prefix, id, seqno) else {
            return false;
        };
        pending.requesters.insert(from);
        pending.due = pending.due.max(now + if pending.target.is_some() { Duration::ZERO } else { REMEMBER_FOR });
        if !known {
            pending.renew(now, seqno);
        }
        !known
    }

    /// A route with this seqno is in use: the request, if it answers one.
    pub(crate) fn satisfy(&mut self, prefix: Prefix, id: RouterId, seqno: Seqno) -> Option<Pending> {
        let pending = self.pending.get(&(prefix, id))?;
        if pending.seqno.is_newer_than(seqno) {
            return None;
        }
        self.pending.remove(&(prefix, id))
    }

    /// Repeats and forgets. Returns what to send again, and when to look next.
    pub(crate) fn sweep(&mut self, now: Instant) -> (Vec<Again>, Option<Instant>) {
        let mut again = Vec::new();
        self.pending.retain(|(prefix, id), pending| {
            if pending.due > now {
                return true;
            }
            let (Some(target), Some(left)) = (pending.target, pending.resends.checked_sub(1)) else {
                return false;
            };
            pending.resends = left;
            pending.sent_at = now;
            pending.due = now + RESEND_AFTER * (1 << (RESENDS - left));
            again.push((*prefix, *id, pending.seqno, target));
            true
        });
        (again, self.pending.values().map(|pending| pending.due).min())
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.pending.len()
    }

    fn slot(&mut self, now: Instant, prefix: Prefix, id: RouterId, seqno: Seqno) -> Option<&mut Pending> {
        if self.pending.len() >= self.pending_max && !self.pending.contains_key(&(prefix, id)) {
            return None;
        }
        Some(self.pending.entry((prefix, id)).or_insert_with(|| Pending {
            seqno,
            requesters: BTreeSet::new(),
            target: None,
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
