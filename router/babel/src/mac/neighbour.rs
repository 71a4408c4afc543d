//! What is remembered of a neighbour whose packets carry a valid MAC (RFC 8967, section 3.2).

use super::nonces::{Nonce, Nonces};
use super::tlv::{Preparsed, Stamp};
use super::{MacRefusal, tlv};
use crate::Destination;
use std::time::{Duration, Instant};

/// How long a neighbour is remembered after its last good packet: the default of RFC 8967, section 4.4.
pub(super) const EXPIRY: Duration = Duration::from_secs(300);
/// How long an answer may take (RFC 8967, section 4.3.1.1).
pub(super) const CHALLENGE_EXPIRY: Duration = Duration::from_secs(30);
/// Between two challenges to a neighbour, and between two answers to it: the default of RFC 8967,
/// sections 4.3.1.1 and 4.3.1.2.
pub(super) const CHALLENGE_SPACING: Duration = Duration::from_millis(300);

/// One neighbour.
#[derive(Debug, Default)]
pub(super) struct Neighbour {
    /// `None` until it has answered a challenge, and again after a long silence.
    heard: Option<Heard>,
    challenge: Option<Challenge>,
    request: Pending<()>,
    reply: Pending<Vec<u8>>,
}

/// Up to where its packets are old.
///
/// Multicast waits for sleeping radios while unicast does not, so each is counted for itself (RFC 9467,
/// section 3.1). A packet cannot be replayed as one of the other kind: its MAC covers the destination.
#[derive(Debug)]
struct Heard {
    index: Vec<u8>,
    highest_multicast: u32,
    highest_unicast: u32,
    expires: Instant,
}

/// What it was asked, and until when it may answer.
#[derive(Clone, Copy, Debug)]
struct Challenge {
    nonce: Nonce,
    expires: Instant,
}

impl Neighbour {
    /// Whether a packet with a valid MAC is new (RFC 8967, section 4.3), and what must be said to it.
    pub(super) fn judge(
        &mut self,
        now: Instant,
        to: Destination,
        stamp: Stamp<'_>,
        found: Preparsed<'_>,
    ) -> Result<(), MacRefusal> {
        self.expire(now);
        let verdict = self.judge_stamp(now, to, stamp, found);
        // Section 4.3 allows to leave the challenges of replayed packets without an answer.
        if verdict != Err(MacRefusal::Replayed)
            && let Some(nonce) = found.request
        {
            self.reply.set(now, nonce.to_vec());
        }
        verdict
    }

    fn judge_stamp(
        &mut self,
        now: Instant,
        to: Destination,
        stamp: Stamp<'_>,
        found: Preparsed<'_>,
    ) -> Result<(), MacRefusal> {
        if self.challenge.is_some_and(|challenge| found.answers(&challenge.nonce)) {
            self.believe(now, stamp);
            return Ok(());
        }
        match &mut self.heard {
            Some(heard) if heard.index == stamp.index => heard.advance(now, to, stamp.pc),
            _ => {
                self.request.set(now, ());
                Err(MacRefusal::IndexUnknown)
            }
        }
    }

    /// A challenge succeeded: the packet was made after it, so only what carries a higher PC is new. But
    /// under the same index the highest PC never goes back: the answer may have been overtaken by packets
    /// that were accepted, and those must not be accepted again. The RFCs do not ask for this.
    fn believe(&mut self, now: Instant, stamp: Stamp<'_>) {
        let before = self.heard.take().filter(|heard| heard.index == stamp.index);
        let (multicast, unicast) = before.map_or((0, 0), |heard| (heard.highest_multicast, heard.highest_unicast));
        self.heard = Some(Heard {
            index: stamp.index.to_vec(),
            highest_multicast: stamp.pc.max(multicast),
            highest_unicast: stamp.pc.max(unicast),
            expires: now + EXPIRY,
        });
        self.challenge = None;
        self.request.what = None;
    }

    /// Appends what must be said to it and may be said at this time.
    pub(super) fn write_pending(&mut self, now: Instant, nonces: &mut Nonces, out: &mut Vec<u8>) {
        if let Some(nonce) = self.reply.take(now) {
            tlv::write(out, tlv::CHALLENGE_REPLY, &nonce);
        }
        if let Some(()) = self.request.take(now) {
            tlv::write(out, tlv::CHALLENGE_REQUEST, &self.challenge(now, nonces));
        }
    }

    /// A challenge that waits for its reply is repeated as it is. One with another nonce each time could
    /// never be met over a round trip that is longer than their spacing. A reply proves as much: that
    /// the packet was made less than [`CHALLENGE_EXPIRY`] ago.
    fn challenge(&mut self, now: Instant, nonces: &mut Nonces) -> Nonce {
        self.expire(now);
        self.challenge.get_or_insert_with(|| Challenge { nonce: nonces.draw(), expires: now + CHALLENGE_EXPIRY }).nonce
    }

    /// When [`Neighbour::write_pending`] has something to write.
    pub(super) fn pending_at(&self) -> Option<Instant> {
        [self.request.due(), self.reply.due()].into_iter().flatten().min()
    }

    /// Forgets what is too old.
    pub(super) fn expire(&mut self, now: Instant) {
        self.heard.take_if(|heard| heard.expires <= now);
        self.challenge.take_if(|challenge| challenge.expires <= now);
    }

    /// When [`Neighbour::expire`] has something to forget.
    pub(super) fn expires_at(&self) -> Option<Instant> {
        let heard = self.heard.as_ref().map(|heard| heard.expires);
        let challenge = self.challenge.map(|challenge| challenge.expires);
        [heard, challenge].into_iter().flatten().min()
    }

    /// Whether anything is left to remember.
    pub(super) fn is_needed(&self) -> bool {
        self.heard.is_some() || self.challenge.is_some() || self.request.what.is_some() || self.reply.what.is_some()
    }
}

impl Heard {
    fn advance(&mut self, now: Instant, to: Destination, pc: u32) -> Result<(), MacRefusal> {
        let highest = match to {
            Destination::Multicast => &mut self.highest_multicast,
            Destination::Unicast(_) => &mut self.highest_unicast,
        };
        if pc <= *highest {
            return Err(MacRefusal::Replayed);
        }
        *highest = pc;
        self.expires = now + EXPIRY;
        Ok(())
    }
}

/// Something to say, not more often than every [`CHALLENGE_SPACING`]: whoever replays old packets makes
/// us say it. The newest replaces what waits.
#[derive(Debug)]
struct Pending<T> {
    /// With the time from which on it may be said.
    what: Option<(Instant, T)>,
    not_before: Option<Instant>,
}

impl<T> Default for Pending<T> {
    fn default() -> Self {
        Self { what: None, not_before: None }
    }
}

impl<T> Pending<T> {
    fn set(&mut self, now: Instant, what: T) {
        let due = self.not_before.map_or(now, |not_before| not_before.max(now));
        self.what = Some((due, what));
    }

    fn due(&self) -> Option<Instant> {
        self.what.as_ref().map(|(due, _)| *due)
    }

    fn take(&mut self, now: Instant) -> Option<T> {
        let (_, what) = self.what.take_if(|(due, _)| *due <= now)?;
        self.not_before = Some(now + CHALLENGE_SPACING);
        Some(what)
    }
}
