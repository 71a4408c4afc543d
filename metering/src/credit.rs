//! Credit: how far a provider carries on trust.

use crate::meter::Counts;
use crate::terms::Terms;
use crate::{Bytes, Tokens};

/// Carried on trust while it is not yet known what the payer has locked: enough to reach a ledger, not worth stealing.
pub const UNSECURED_WINDOW: Bytes = Bytes::from_mebibytes(1);

/// Whether the datapath may carry for this neighbour. It never concerns routing, receipts, ledger or DNS traffic.
/// What is refused for want of credit must not be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credit {
    /// Carry.
    Open,
    /// Carry nothing until a receipt comes.
    Exhausted {
        /// What was carried and is not covered by a durable receipt.
        unpaid: Tokens,
        /// How much of that was to be risked.
        window: Tokens,
    },
}

/// What a provider knows the payer has locked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Security {
    /// No channel is known.
    Unknown,
    /// A channel with this much above the highest receipt.
    Locked(Tokens),
    /// The payer is leaving with its deposit.
    Closing,
}

/// What the provider's own counts say it is owed in this segment.
///
/// Upstream its received count. Downstream what it sent, less the loss it allows; of the first `answered` bytes of that,
/// which the payer has told its own count for, that count, if it is higher. So of what nobody has told anything about
/// only the allowed share is given away, however long the segment has lasted.
pub(crate) fn earned(terms: &Terms, own: Counts, answered: Bytes, payer: Counts) -> Tokens {
    let expected = |sent: Bytes| sent.saturating_sub(allowed_loss(terms, sent));
    let told = expected(answered).max(payer.received);
    let delivered = told.saturating_add(expected(own.sent.saturating_sub(answered))).min(own.sent);
    let up = terms.price_up.of(own.received).unwrap_or(Tokens::MAX);
    let down = terms.price_down.of(delivered).unwrap_or(Tokens::MAX);
    up.saturating_add(down)
}

/// The window in money: never beyond what is locked and not yet signed away.
pub(crate) fn window(terms: &Terms, security: Security) -> Tokens {
    let window = terms.window_value();
    match security {
        _ if terms.is_free() => window,
        Security::Unknown => window.min(terms.value_of(UNSECURED_WINDOW).saturating_add(ONE)),
        Security::Locked(rest) => window.min(rest),
        Security::Closing => Tokens::ZERO,
    }
}

const ONE: Tokens = Tokens::new(1).expect("1 is below 2^96");

fn allowed_loss(terms: &Terms, sent: Bytes) -> Bytes {
    let lost = u128::from(sent.get()) * u128::from(terms.loss_allowance_ppm) / 1_000_000;
    Bytes::new(u64::try_from(lost).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terms::Offer;
    use crate::{NodeId, Price};

    fn terms(up: u64, down: u64, loss_allowance_ppm: u32) -> Terms {
        Terms {
            peers: false,
            provider: NodeId([1; 20]),
            payer: NodeId([2; 20]),
            price_up: Price::new(up),
            price_down: Price::new(down),
            window: Bytes::from_mebibytes(64),
            loss_allowance_ppm,
            seq: 1,
        }
    }

    fn gibibytes(sent: u64, received: u64) -> Counts {
        Counts { sent: Bytes::new(sent << 30), received: Bytes::new(received << 30) }
    }

    #[test]
    fn allowed_loss_is_not_owed_and_more_is() {
        let terms = terms(0, 1000, 100_000);
        let earned = |received| earned(&terms, gibibytes(100, 0), Bytes::new(100 << 30), gibibytes(0, received)).get();
        assert_eq!(earned(95), 95_000);
        assert_eq!(earned(50), 90_000);
        assert_eq!(earned(200), 100_000);
    }

    #[test]
    fn a_long_time_without_loss_gives_no_credit_for_loss() {
        let terms = terms(0, 1000, 100_000);
        let earned = |sent| earned(&terms, gibibytes(sent, 0), Bytes::new(1000 << 30), gibibytes(0, 1000)).get();
        assert_eq!(earned(1000), 1_000_000);
        assert_eq!(earned(1010), 1_009_000);
    }

    #[test]
    fn what_was_received_is_owed_in_full() {
        let terms = terms(1000, 0, 100_000);
        let lied = gibibytes(0, 0);
        assert_eq!(earned(&terms, gibibytes(0, 10), Bytes::ZERO, lied).get(), 10_000);
    }

    #[test]
    fn window_never_exceeds_what_is_locked() {
        let terms = terms(1 << 20, 1 << 20, 0);
        let full = window(&terms, Security::Locked(Tokens::MAX)).get();
        assert_eq!(full, (1 << 16) + 1);
        assert_eq!(window(&terms, Security::Locked(ONE)), ONE);
        assert_eq!(window(&terms, Security::Closing), Tokens::ZERO);
        assert_eq!(window(&terms, Security::Unknown).get(), (1 << 10) + 1);
    }

    #[test]
    fn what_is_free_needs_no_security() {
        let mut free = terms(0, 0, 0);
        assert_eq!(window(&free, Security::Unknown), Tokens::MAX);
        free.window = Offer::FREE.window;
        assert_eq!(earned(&free, gibibytes(9, 9), Bytes::ZERO, gibibytes(9, 9)), Tokens::ZERO);
    }
}
