//! What was carried, per link: written by the workers that carried it, read by the control side.

use metering::units::{Bytes, billed_length};
use portable_atomic::{AtomicU64, Ordering};

use super::LinkId;

/// The most links one node can have.
pub const MAX_LINKS: usize = 128;

/// One direction-pair of a link's counters.
#[derive(Debug, Default)]
struct Row {
    sent_bytes: AtomicU64,
    sent_packets: AtomicU64,
    received_bytes: AtomicU64,
    received_packets: AtomicU64,
    rations: [AtomicU64; 2],
}

/// What a ration is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ration {
    /// Whatever is carried.
    Any,
    /// What is open to all: the ledger.
    Open,
}

/// Billed bytes and packets per link and direction, since the start of the process.
///
/// Only data packets count: routing and settlement packets are never billed, and nothing is counted before the
/// link's cryptography has authenticated it. *Received* counts what an open link brought from a source that may use it,
/// whether or not it could be carried on; *sent* what was sealed and handed to the link.
///
/// Beside them each link has *rations*: what may be carried, both ways together, where credit is short. The control
/// side adds to them as time passes, and workers take from them, so that no worker needs a clock for it.
#[derive(Debug)]
pub struct Meters(Box<[Row]>);

/// Packets that are counted together: a counter is touched once for a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    billed: u64,
    packets: u64,
}

impl Tally {
    /// One IP packet of `ip_len` bytes.
    pub fn of(ip_len: usize) -> Self {
        Self::of_many(1, ip_len)
    }

    /// Packets of `ip_len` bytes each.
    pub fn of_many(packets: u64, ip_len: usize) -> Self {
        Self { billed: billed_length(ip_len).get() * packets, packets }
    }

    /// One more.
    pub fn add(&mut self, ip_len: usize) {
        self.billed += billed_length(ip_len).get();
        self.packets += 1;
    }

    /// Those of the other too.
    pub fn join(&mut self, other: Self) {
        self.billed += other.billed;
        self.packets += other.packets;
    }

    /// How many packets.
    pub fn packets(self) -> u64 {
        self.packets
    }
}

/// A reading of one link's counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkCount {
    /// Billed bytes sent to the neighbour (DESIGN section 7, "billed length").
    pub sent: Bytes,
    /// Packets sent to the neighbour.
    pub sent_packets: u64,
    /// Billed bytes received from the neighbour.
    pub received: Bytes,
    /// Packets received from the neighbour.
    pub received_packets: u64,
}

impl Default for Meters {
    fn default() -> Self {
        Self((0..MAX_LINKS).map(|_| Row::default()).collect())
    }
}

impl Meters {
    /// Counts packets sent on `link`.
    pub fn add_sent(&self, link: LinkId, tally: Tally) {
        if let Some(row) = self.0.get(link.index()) {
            row.sent_bytes.add(tally.billed, Ordering::Relaxed);
            row.sent_packets.add(tally.packets, Ordering::Relaxed);
        }
    }

    /// Counts packets received from `link`.
    pub fn add_received(&self, link: LinkId, tally: Tally) {
        if let Some(row) = self.0.get(link.index()) {
            row.received_bytes.add(tally.billed, Ordering::Relaxed);
            row.received_packets.add(tally.packets, Ordering::Relaxed);
        }
    }

    /// Adds `bytes` to a ration of `link`, up to `most`.
    pub fn add_ration(&self, link: LinkId, of: Ration, bytes: Bytes, most: Bytes) {
        if let Some(row) = self.0.get(link.index()) {
            let added = |ration: u64| Some(ration.saturating_add(bytes.get()).min(most.get()));
            // It never says no.
            let _before = row.rations[of as usize].fetch_update(Ordering::Relaxed, Ordering::Relaxed, added);
        }
    }

    /// Takes what a packet of `ip_len` bytes is billed from a ration of `link`, if there is as much.
    pub fn take_ration(&self, link: LinkId, of: Ration, ip_len: usize) -> bool {
        let take = |ration: u64| ration.checked_sub(billed_length(ip_len).get());
        let row = self.0.get(link.index());
        row.is_some_and(|row| row.rations[of as usize].fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok())
    }

    /// The counters of `link`.
    pub fn read(&self, link: LinkId) -> LinkCount {
        self.0.get(link.index()).map_or_else(LinkCount::default, |row| LinkCount {
            sent: Bytes::new(row.sent_bytes.load(Ordering::Relaxed)),
            sent_packets: row.sent_packets.load(Ordering::Relaxed),
            received: Bytes::new(row.received_bytes.load(Ordering::Relaxed)),
            received_packets: row.received_packets.load(Ordering::Relaxed),
        })
    }
}
