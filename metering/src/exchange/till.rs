//! The payee's side of the money: what was earned, and the receipts that cover it.

use std::time::{Duration, Instant};

use crate::meter::Counts;
use crate::{ChannelId, Receipt, Tokens};

/// A receipt is made durable at this age at the latest; before that, when enough of them wait.
const HOLD_AGE: Duration = Duration::from_secs(240);

/// So many full windows of receipts may be unwritten before that costs credit. Each write wears the flash by 8 to 17 KiB,
/// however little it says; at 10 Mbit/s and the default window of 64 MiB there are 400 a day, of 10 MiB that there may be.
pub(super) const UNWRITTEN_WINDOWS: u128 = 5;

/// So many wait before they are made durable: what comes meanwhile has one more.
const HOLD_WINDOWS: u128 = 4;

/// The payee's book for one payer.
#[derive(Debug)]
pub(super) struct Till {
    /// The highest receipt verified.
    best: Option<Receipt>,
    /// What was covered on the channel before this segment; set by the segment's first receipt.
    base: Option<Tokens>,
    /// What `best` pays for in this segment.
    paid: Tokens,
    /// The receipt the journal is writing.
    holding: Option<Receipt>,
    /// The highest amount the journal has.
    durable: Option<(ChannelId, Tokens)>,
    hold_at: Option<Instant>,
    /// The counts of the last report, and when it was made.
    pub(super) reported: Counts,
    pub(super) reported_at: Option<Instant>,
    pub(super) reported_earned: Tokens,
    /// Those counts of ours that the latest receipt of the segment was signed for.
    pub(super) signed_for: Counts,
}

impl Till {
    pub(super) fn new(held: Option<Receipt>) -> Self {
        Self {
            best: held,
            base: None,
            paid: Tokens::ZERO,
            holding: None,
            durable: held.map(|receipt| (receipt.channel(), receipt.amount())),
            hold_at: None,
            reported: Counts::ZERO,
            reported_at: None,
            reported_earned: Tokens::ZERO,
            signed_for: Counts::ZERO,
        }
    }

    pub(super) fn end_segment(&mut self) {
        self.base = None;
        self.paid = Tokens::ZERO;
        self.reported = Counts::ZERO;
        self.reported_at = None;
        self.reported_earned = Tokens::ZERO;
        self.signed_for = Counts::ZERO;
    }

    /// The highest receipt verified, durable or not.
    pub(super) const fn best(&self) -> Option<&Receipt> {
        self.best.as_ref()
    }

    /// What is covered on `channel`.
    pub(super) fn best_on(&self, channel: ChannelId) -> Tokens {
        let best = self.best.filter(|receipt| receipt.channel() == channel);
        best.map_or(Tokens::ZERO, |receipt| receipt.amount())
    }

    /// What is covered on `channel` by a durable receipt.
    pub(super) fn durable_on(&self, channel: ChannelId) -> Tokens {
        match self.durable {
            Some((known, amount)) if known == channel => amount,
            _ => Tokens::ZERO,
        }
    }

    /// What receipts pay for in this segment, durable or not.
    pub(super) const fn paid(&self) -> Tokens {
        self.paid
    }

    /// What of the best receipt the journal does not have yet.
    pub(super) fn unwritten(&self) -> Tokens {
        let unwritten = |best: Receipt| best.amount().saturating_sub(self.durable_on(best.channel()));
        self.best.map_or(Tokens::ZERO, unwritten)
    }

    /// Adopts a verified receipt higher than `best`.
    pub(super) fn adopt(&mut self, now: Instant, receipt: Receipt) {
        self.best = Some(receipt);
        self.hold_at.get_or_insert(now + HOLD_AGE);
    }

    /// Adopts a verified receipt of this segment, made for a charge of `charge`.
    ///
    /// It pays for what its amount rises above the base, and never for more than its own counts are worth: a payer
    /// that starts from a higher base than ours pays off that base, not this segment.
    pub(super) fn adopt_payment(&mut self, now: Instant, receipt: Receipt, redeemed: Tokens, charge: Tokens) {
        self.fix_base(receipt.channel(), redeemed);
        self.paid = self.paid.max(self.worth(receipt.amount(), charge));
        self.adopt(now, receipt);
    }

    /// From here on, what is covered on `channel` is of earlier segments, and what comes on top is of this one.
    pub(super) fn fix_base(&mut self, channel: ChannelId, redeemed: Tokens) {
        let covered = self.best_on(channel).max(redeemed);
        self.base.get_or_insert(covered);
    }

    /// What a receipt of `amount` for a charge of `charge` pays for in this segment.
    fn worth(&self, amount: Tokens, charge: Tokens) -> Tokens {
        self.base.map_or(charge, |base| amount.saturating_sub(base).min(charge))
    }

    /// Whether the best receipt is known only from a resume, without the counts it was made for, and pays for more.
    pub(super) fn is_underrated(&self, receipt: ChannelId, amount: Tokens, charge: Tokens) -> bool {
        amount == self.best_on(receipt) && self.base.is_some() && self.worth(amount, charge) > self.paid
    }

    /// The receipt to make durable: when four full windows wait, one is old enough, or `flush` asks.
    pub(super) fn hold(&mut self, now: Instant, window: Tokens, flush: bool) -> Option<Receipt> {
        let best = self.best?;
        if flush {
            self.hold_at = Some(now);
        }
        let waiting = self.unwritten();
        let many = waiting.get() >= window.get().saturating_mul(HOLD_WINDOWS);
        let due = self.hold_at.is_some_and(|at| at <= now);
        if waiting == Tokens::ZERO {
            self.hold_at = None;
        }
        if self.holding.is_some() || waiting == Tokens::ZERO || !(many || due) {
            return None;
        }
        self.holding = Some(best);
        self.hold_at = None;
        Some(best)
    }

    /// Takes back what the journal has of the channel, after another was of interest.
    pub(super) fn restore(&mut self, held: Receipt) {
        if self.best_on(held.channel()) < held.amount() {
            self.best = Some(held);
        }
        if self.durable_on(held.channel()) < held.amount() {
            self.durable = Some((held.channel(), held.amount()));
        }
    }

    /// Leaves the channel, which another has replaced. Its best receipt is returned if the journal may not have it.
    pub(super) fn retire(&mut self) -> Option<Receipt> {
        self.holding = None;
        self.hold_at = None;
        let best = self.best.take()?;
        (self.durable_on(best.channel()) < best.amount()).then_some(best)
    }

    /// When [`Till::hold`] is due.
    pub(super) const fn hold_at(&self) -> Option<Instant> {
        if self.holding.is_some() { None } else { self.hold_at }
    }

    /// The journal made the receipt of `amount` durable. It may be done with one of a channel that was replaced later than
    /// with one of the newest.
    pub(super) fn handle_held(&mut self, now: Instant, channel: ChannelId, amount: Tokens) {
        if self.durable.map(|(known, amount)| (known.nonce, amount)) <= Some((channel.nonce, amount)) {
            self.durable = Some((channel, amount));
        }
        let covers = |receipt: Receipt| receipt.channel() == channel && receipt.amount() <= amount;
        if self.best.is_some_and(covers) {
            self.holding = None;
            self.hold_at = None;
        } else if self.holding.is_some_and(covers) {
            self.holding = None;
            self.hold_at.get_or_insert(now + HOLD_AGE);
        }
    }
}
