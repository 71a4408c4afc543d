//! Meters: what one end counted, and what both ends' counts together are worth.

use crate::eip712::{Word, keccak256};
use crate::terms::Terms;
use crate::{Bytes, Tokens};

/// What one end of a link counted, in billed bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Handed to the link.
    pub sent: Bytes,
    /// Taken from the link, after authentication.
    pub received: Bytes,
}

/// The counts of one segment: from the moment both ends agreed on terms until they agree again.
///
/// A link's counters go on for as long as the link lives; a meter sees their differences, so a segment starts at zero
/// without anyone resetting a counter that packets are being added to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meter {
    link: Counts,
    segment: Counts,
    restart_at_next_count: bool,
}

/// What the counts of both ends are worth: each direction at the lower of the two counts.
///
/// Upstream that is the provider's received count, capped by what the payer sent; downstream the payer's received
/// count, capped by what the provider sent. `None` when the charge does not fit a [`Tokens`].
#[must_use]
pub fn charge(terms: &Terms, provider: Counts, payer: Counts) -> Option<Tokens> {
    let up = terms.price_up.of(provider.received.min(payer.sent))?;
    let down = terms.price_down.of(payer.received.min(provider.sent))?;
    up.checked_add(down)
}

/// What a receipt's `meter` holds: the segment (by it the terms) and both ends' counts.
///
/// Keccak-256 of `abi.encodePacked(bytes32 segment, uint64 providerSent, uint64 providerReceived, uint64 payerSent,
/// uint64 payerReceived)`.
#[must_use]
pub fn meter_hash(segment: &Word, provider: Counts, payer: Counts) -> Word {
    keccak256(&[
        segment,
        &provider.sent.get().to_be_bytes(),
        &provider.received.get().to_be_bytes(),
        &payer.sent.get().to_be_bytes(),
        &payer.received.get().to_be_bytes(),
    ])
}

impl Counts {
    /// Nothing counted.
    pub const ZERO: Self = Self { sent: Bytes::ZERO, received: Bytes::ZERO };

    /// Both directions together.
    #[must_use]
    pub const fn total(self) -> Bytes {
        self.sent.saturating_add(self.received)
    }

    /// Whether neither count is above `other`'s.
    pub(crate) fn within(self, other: Self) -> bool {
        self.sent <= other.sent && self.received <= other.received
    }
}

impl Meter {
    pub(crate) const fn new(link: Counts) -> Self {
        Self { link, segment: Counts::ZERO, restart_at_next_count: false }
    }

    /// The counts since the segment started.
    pub(crate) const fn counts(&self) -> Counts {
        self.segment
    }

    /// Starts a segment at the latest counts known. The payer does this: see [`Meter::restart_late`].
    pub(crate) const fn restart(&mut self) {
        self.segment = Counts::ZERO;
        self.restart_at_next_count = false;
    }

    /// Starts a segment at the next counts handed in. The provider does this.
    ///
    /// The two ends cannot start at the same packet. With the payer's start before the provider's, every byte the
    /// provider counts is one the payer counts too, so no gap stays between them that would look unpaid for ever; the
    /// bytes between the two starts are nobody's to pay: [`Meter::handle_counts`] says how many they are.
    pub(crate) const fn restart_late(&mut self) {
        self.segment = Counts::ZERO;
        self.restart_at_next_count = true;
    }

    /// What the link's counters rose by since they were last taken.
    pub(crate) const fn since(&self, link: Counts) -> Counts {
        Counts {
            sent: link.sent.saturating_sub(self.link.sent),
            received: link.received.saturating_sub(self.link.received),
        }
    }

    /// Takes the link's counters. One that went back belongs to a new link and starts over. Returns what they rose by if it
    /// is of no segment.
    pub(crate) fn handle_counts(&mut self, link: Counts) -> Counts {
        let more = self.since(link);
        self.link = link;
        if std::mem::take(&mut self.restart_at_next_count) {
            return more;
        }
        self.segment.sent = self.segment.sent.saturating_add(more.sent);
        self.segment.received = self.segment.received.saturating_add(more.received);
        Counts::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(sent: u64, received: u64) -> Counts {
        Counts { sent: Bytes::new(sent), received: Bytes::new(received) }
    }

    #[test]
    fn a_segment_counts_from_its_start_and_survives_a_new_link() {
        let mut meter = Meter::new(counts(1000, 50));
        meter.handle_counts(counts(1500, 60));
        assert_eq!(meter.counts(), counts(500, 10));
        meter.restart();
        meter.handle_counts(counts(1600, 60));
        assert_eq!(meter.counts(), counts(100, 0));
        meter.handle_counts(counts(7, 0));
        meter.handle_counts(counts(20, 5));
        assert_eq!(meter.counts(), counts(113, 5));
    }

    #[test]
    fn the_provider_starts_at_the_counts_after_the_agreement() {
        let mut meter = Meter::new(Counts::ZERO);
        meter.restart_late();
        assert_eq!(meter.handle_counts(counts(900, 900)), counts(900, 900));
        assert_eq!(meter.counts(), Counts::ZERO);
        assert_eq!(meter.handle_counts(counts(901, 902)), Counts::ZERO);
        assert_eq!(meter.counts(), counts(1, 2));
    }

    /// Computed with Python: `keccak(segment + struct.pack(">4Q", 1, 2, 3, 4))`.
    #[test]
    fn the_meter_hash_is_the_packed_encoding() {
        let hash = meter_hash(&[0x11; 32], counts(1, 2), counts(3, 4));
        assert_eq!(hex::encode(hash), "fcc0e371a8b09794f4ba084295c593d7011cf0e4ce7837e89ee98e6e07b1e6c3");
    }
}
