//! Wires: plain links that delay, lose, reorder and repeat what is sent on them.

use std::time::Duration;

use metering::Offer;
use node::LinkId;

use crate::{StationId, Time};

/// How long packets may wait for a wire with a rate before the rest is lost.
const BACKLOG_MAX: Duration = Duration::from_millis(200);

/// How a wire treats packets.
#[derive(Debug, Clone, Copy)]
pub struct Quality {
    /// How long every packet takes.
    pub delay: Duration,
    /// How much longer a packet may take; more than the distance between two packets reorders them.
    pub jitter: Duration,
    /// Packets lost of a million.
    pub loss_ppm: u32,
    /// Control packets that arrive twice of a million. Data never does: a link's replay window sees to that.
    pub repeat_ppm: u32,
    /// What Babel is told that it costs.
    pub cost: u16,
    /// Bytes a second, if there is a limit.
    pub rate: Option<u64>,
}

impl Quality {
    /// Two milliseconds and nothing lost.
    pub const GOOD: Self = Self {
        delay: Duration::from_millis(2),
        jitter: Duration::ZERO,
        loss_ppm: 0,
        repeat_ppm: 0,
        cost: 96,
        rate: None,
    };

    /// A long radio link on a windy day: 5 to 20 ms, packets reordered, one in a hundred lost or repeated.
    pub const POOR: Self = Self {
        delay: Duration::from_millis(5),
        jitter: Duration::from_millis(15),
        loss_ppm: 10_000,
        repeat_ppm: 10_000,
        cost: 96,
        rate: Some(4 << 20),
    };
}

/// What the two ends are to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bond {
    /// Neither pays.
    Peers,
    /// The first end provides to the second.
    Provides(Offer),
    /// What they are to each other follows from where their ways out of the mesh lead, at the prices of the stations.
    ByRoutes,
    /// The same at the first end; the second takes itself for a peer wherever its packets go.
    Freeloader,
}

/// One end of a wire.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End {
    pub(crate) station: StationId,
    pub(crate) link: LinkId,
    /// Whether the shell there takes the session for established.
    pub(crate) up: bool,
    /// Whether settlement datagrams from here are thrown away: a payer that does not pay.
    pub(crate) cheats: bool,
}

/// A wire between two stations, and what it will do to packets: its own dice, so that a busy wire elsewhere changes
/// nothing here.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) ends: [End; 2],
    pub(crate) bond: Bond,
    pub(crate) quality: Quality,
    pub(crate) whole: bool,
    dice: fastrand::Rng,
    busy_until: [Time; 2],
}

impl Wire {
    pub(crate) fn new(ends: [End; 2], bond: Bond, quality: Quality, seed: u64) -> Self {
        let dice = fastrand::Rng::with_seed(seed);
        Self { ends, bond, quality, whole: true, dice, busy_until: [Time::ZERO; 2] }
    }

    /// When a packet sent from one end arrives at the other, or `None` when it is lost.
    pub(crate) fn send(&mut self, now: Time, from: usize, len: usize) -> Option<Time> {
        let lost = self.dice.u32(0..1_000_000) < self.quality.loss_ppm;
        let jitter = self.quality.jitter.mul_f64(self.dice.f64());
        if lost || !self.whole {
            return None;
        }
        let sent = match self.quality.rate {
            Some(rate) => {
                let begins = self.busy_until[from].max(now);
                if begins - now > BACKLOG_MAX {
                    return None;
                }
                self.busy_until[from] = begins + Duration::from_secs_f64(len as f64 / rate as f64);
                self.busy_until[from]
            }
            None => now,
        };
        Some(sent + self.quality.delay + jitter)
    }

    /// Whether a control packet arrives a second time.
    pub(crate) fn repeats(&mut self) -> bool {
        self.dice.u32(0..1_000_000) < self.quality.repeat_ppm
    }

    /// Which end a link of a station is.
    pub(crate) fn end_of(&self, station: StationId, link: LinkId) -> usize {
        usize::from((self.ends[0].station, self.ends[0].link) != (station, link))
    }
}
