//! The payer's side of the money: what was signed, and what may be.

use std::time::{Duration, Instant};

use super::{ChannelState, Event};
use crate::meter::{Counts, charge, meter_hash};
use crate::terms::Terms;
use crate::wire::ReceiptMessage;
use crate::{AccountKey, Bytes, ChannelId, LedgerDomain, Receipt, Tokens};

/// How far ahead of need an amount is made durable: one write of the journal per half a step, not per receipt. At 10 Mbit/s
/// that is each half hour.
const RESERVE_STEP: Bytes = Bytes::from_mebibytes(4096);

/// The window we lock tokens for at most: the provider names the window, and must not decide with it how much of our
/// account is locked for it alone.
const FUNDED_WINDOW_MAX: Bytes = Bytes::from_mebibytes(256);

/// How often a missing or nearly empty channel is asked for.
const NEED_INTERVAL: Duration = Duration::from_secs(5);

/// How soon at first, when the ledger could not be asked; each time after twice as long.
const NEED_AGAIN: Duration = Duration::from_millis(500);

/// The payer's book for one provider.
#[derive(Debug)]
pub(super) struct Purse {
    /// The highest receipt known to carry our signature.
    pub(super) signed: Option<Receipt>,
    /// What the journal has: no receipt above it is signed.
    ceiling: Option<(ChannelId, Tokens)>,
    /// What the journal was asked for.
    requested: Option<(ChannelId, Tokens)>,
    /// What was owed on the channel before this segment.
    base: Option<(ChannelId, Tokens)>,
    /// This segment's latest receipt, as it is sent.
    pub(super) latest: Option<ReceiptMessage>,
    needed_at: Option<Instant>,
    /// When it is asked for again, after it could not be had, and how often it could not.
    again_at: Option<Instant>,
    not_funded: u32,
}

/// What a receipt is made for.
pub(super) struct Claim<'a> {
    pub(super) terms: &'a Terms,
    pub(super) segment: [u8; 32],
    pub(super) provider: Counts,
    pub(super) payer: Counts,
}

impl Purse {
    pub(super) const fn new(ceiling: Option<(ChannelId, Tokens)>) -> Self {
        Self {
            signed: None,
            ceiling,
            requested: ceiling,
            base: None,
            latest: None,
            needed_at: None,
            again_at: None,
            not_funded: 0,
        }
    }

    pub(super) fn end_segment(&mut self) {
        self.base = None;
        self.latest = None;
    }

    /// What is signed on `channel`.
    pub(super) fn signed_on(&self, channel: ChannelId) -> Tokens {
        let signed = self.signed.filter(|receipt| receipt.channel() == channel);
        signed.map_or(Tokens::ZERO, |receipt| receipt.amount())
    }

    /// What is signed for this segment.
    pub(super) fn paid(&self) -> Tokens {
        let paid = |(channel, base)| self.signed_on(channel).saturating_sub(base);
        self.base.map_or(Tokens::ZERO, paid)
    }

    /// What may be signed on `channel`.
    pub(super) fn ceiling_on(&self, channel: ChannelId) -> Tokens {
        amount_on(self.ceiling, channel)
    }

    /// The newest channel the journal knows of.
    pub(super) fn newest_nonce(&self) -> Option<u64> {
        self.ceiling.map(|(channel, _)| channel.nonce)
    }

    /// What was owed on the channel when the segment began: the highest amount that anyone can prove. From the first
    /// call in a segment it stays.
    fn base_on(&mut self, channel: ChannelId, redeemed: Tokens) -> Tokens {
        let proven = self.signed_on(channel).max(redeemed);
        match self.base {
            Some((known, base)) if known == channel => base,
            _ => {
                self.base = Some((channel, proven));
                proven
            }
        }
    }

    /// What is owed on the channel in all, if both counts are true; `None` when it fits no channel.
    pub(super) fn owed(&mut self, channel: ChannelId, redeemed: Tokens, claim: &Claim<'_>) -> Option<Tokens> {
        let charge = charge(claim.terms, claim.provider, claim.payer)?;
        self.base_on(channel, redeemed).checked_add(charge)
    }

    /// Adopts a receipt that carries our signature and is higher than any we remember.
    pub(super) fn adopt(&mut self, receipt: Receipt) {
        let newer =
            |known: Receipt| (known.channel().nonce, known.amount()) < (receipt.channel().nonce, receipt.amount());
        if self.signed.is_none_or(newer) {
            self.signed = Some(receipt);
        }
    }

    /// The journal made `ceiling` durable. It may be done with one for a channel that was replaced later than with one for
    /// the newest.
    pub(super) fn handle_reserved(&mut self, channel: ChannelId, ceiling: Tokens) {
        if self.ceiling.map(|(known, ceiling)| (known.nonce, ceiling)) < Some((channel.nonce, ceiling)) {
            self.ceiling = Some((channel, ceiling));
        }
    }

    /// Asks the journal for room above `owed`, once half of the last step is used.
    pub(super) fn reserve(
        &mut self,
        channel: ChannelId,
        deposit: Tokens,
        terms: &Terms,
        owed: Tokens,
    ) -> Option<Event> {
        let window = terms.window_value().min(terms.value_of(FUNDED_WINDOW_MAX));
        let step = terms.value_of(RESERVE_STEP).max(window.saturating_add(window));
        let half = Tokens::new(step.get() / 2).unwrap_or(step);
        let requested = amount_on(self.requested, channel);
        let ceiling = owed.saturating_add(step).min(deposit);
        if owed.saturating_add(half) <= requested || ceiling <= requested {
            return None;
        }
        self.requested = Some((channel, ceiling));
        Some(Event::Reserve { channel, ceiling })
    }

    /// Asks for a channel, or for more in it, two windows before service would suffer.
    pub(super) fn need_channel(
        &mut self,
        now: Instant,
        terms: &Terms,
        channel: Option<&ChannelState>,
        owed: Tokens,
    ) -> Option<Tokens> {
        let window = terms.window_value().min(terms.value_of(FUNDED_WINDOW_MAX));
        let two = window.saturating_add(window);
        // A channel that is closing is followed by another one, on which nothing is owed yet.
        let channel = channel.filter(|channel| !channel.closing);
        let owed = channel.map_or(Tokens::ZERO, |_| owed);
        let deposit = channel.map_or(Tokens::ZERO, |channel| channel.deposit);
        let recently = |at: Instant| now < at + NEED_INTERVAL;
        let enough = deposit.saturating_sub(owed) >= two;
        if terms.is_free() || enough || self.needed_at.is_some_and(recently) {
            return None;
        }
        self.needed_at = Some(now);
        Some(owed.saturating_add(two).saturating_add(two))
    }

    /// The ledger could not be asked for it: soon again, for it may have been out of reach for a moment only, and what can be
    /// carried until then is little.
    pub(super) fn note_not_funded(&mut self, now: Instant) {
        let wait = NEED_AGAIN * (1 << self.not_funded.min(8));
        self.not_funded = self.not_funded.saturating_add(1);
        self.again_at = Some(now + wait.min(NEED_INTERVAL));
    }

    /// The ledger has answered.
    pub(super) fn note_funded(&mut self) {
        (self.again_at, self.not_funded) = (None, 0);
    }

    /// When the channel is asked for again that could not be had.
    pub(super) const fn again_at(&self) -> Option<Instant> {
        self.again_at
    }

    /// Whether it is to be asked for again now.
    pub(super) fn is_again(&mut self, now: Instant) -> bool {
        let again = self.again_at.take_if(|at| *at <= now).is_some();
        if again {
            self.needed_at = None;
        }
        again
    }

    /// Signs what is owed, up to the durable ceiling and the deposit. Returns whether there is a new receipt.
    pub(super) fn sign(
        &mut self,
        key: &AccountKey,
        domain: &LedgerDomain,
        channel: ChannelId,
        deposit: Tokens,
        owed: Tokens,
        claim: &Claim<'_>,
    ) -> bool {
        let amount = owed.min(self.ceiling_on(channel)).min(deposit);
        if amount <= self.signed_on(channel) {
            return false;
        }
        let meter = meter_hash(&claim.segment, claim.provider, claim.payer);
        let receipt = Receipt::sign(key, domain, channel, amount, meter);
        self.signed = Some(receipt);
        self.latest = Some(ReceiptMessage {
            segment: claim.segment,
            payer: claim.payer,
            provider: claim.provider,
            receipt: receipt.into_unverified(),
        });
        true
    }
}

fn amount_on(known: Option<(ChannelId, Tokens)>, channel: ChannelId) -> Tokens {
    match known {
        Some((known, amount)) if known == channel => amount,
        _ => Tokens::ZERO,
    }
}
