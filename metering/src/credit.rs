//! Credit: how far a provider carries on trust.
//!
//! Three bounds hold at once, and each answers another way of not paying. The *window* is what may be unpaid in a
//! segment: little for a stranger, more for who has paid lately. *Arrears* are what was unpaid when segments ended,
//! whoever ended them: they stay, so that a payer that begins anew each time its window is full gains one window, and
//! not one each time. And nothing is carried beyond what is locked on the channel.

use std::cmp::Ordering;

use crate::meter::Counts;
use crate::terms::Terms;
use crate::{Bytes, Receipt, Tokens};

/// Carried on trust while it is not yet known what the payer has locked: enough to reach a ledger, not worth stealing.
pub const UNSECURED_WINDOW: Bytes = Bytes::from_mebibytes(1);

/// A payer that has not paid lately gets one part in so many of what may be lost in all: of the default 64 MiB as much as
/// passes at 1 Gbit/s in an eighth of a second, so that reports and receipts keep ahead of a download that begins.
const FIRST: u128 = 4;

/// What of the arrears is forgiven each hour: as much as a payer without a channel may take.
pub const FORGIVEN_EACH_HOUR: Bytes = UNSECURED_WINDOW;

/// The most a link may lose, as routing measures it, before the loss counts as unpaid; terms may allow more.
const LOSS_MOST_PPM: u32 = 250_000;

/// What is carried each second, in both directions together, for whoever has no credit left: enough for a message, a name
/// to be looked up and the ledger, not for a picture. It is counted, and owed, like all else.
pub const LIFELINE: Bytes = Bytes::new(2048);

/// What is carried each second besides, in both directions together, to the ledger and from it, for whoever has little credit
/// or none left: what restores the credit must not wait behind what used it up. It is counted, and owed.
pub const LEDGER_LINE: Bytes = Bytes::new(512);

/// What can be saved of [`LEDGER_LINE`]: tokens are locked, with all that is asked before, without a wait.
pub const LEDGER_LINE_BURST: Bytes = Bytes::new(64 << 10);

/// Each payment works off one part in so many of itself from the arrears.
const WORKS_OFF: u128 = 8;

/// Below one part in so many of the window left, what is carried is paced.
pub(crate) const PACED_PART: u128 = 5;

/// The window grows by so many times what was paid lately: eightfold from one receipt to the next, so that trust keeps
/// ahead of a sender that doubles its speed each round trip.
const GROWS: u128 = 7;

/// Each tick one part in so many of what was paid lately is forgotten: half in less than four minutes.
const FORGETS: u128 = 64;

/// Until terms are agreed on, one part in so many of what may be lost in all is carried: what is counted then is lost
/// for certain, for segments start at zero.
const BEFORE_TERMS: u128 = 16;

/// The grain of money.
const ONE: Tokens = Tokens::new(1).expect("1 is below 2^96");

/// Whether the datapath may carry for this neighbour. It never concerns routing and receipts, and the ledger has a
/// line of its own ([`LEDGER_LINE`]).
/// What is refused for want of credit must not be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credit {
    /// Carry.
    Open,
    /// The window is nearly full: carry slower, so that a receipt that is late costs speed instead of packets.
    Paced {
        /// What may still be carried before the window is full.
        left: Bytes,
    },
    /// Carry at the lifeline's rate until a receipt comes.
    Exhausted {
        /// What was carried and is not covered by a receipt.
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

/// What a payer has earned by paying, and what it has left unpaid. It outlives sessions and segments, and as a
/// [`Standing`] the process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Trust {
    /// What it paid, forgotten by and by.
    paid_lately: Tokens,
    /// What was unpaid when segments ended, and is not worked off.
    arrears: Tokens,
    /// What of the arrears receipts may still come for that were signed before.
    late: Tokens,
    /// Ticks of this hour.
    ticks: u32,
}

/// How a payer stands with its provider: what the journal keeps, so that a provider that is restarted remembers. One that
/// is a little old does no harm: what was unpaid by it is covered by receipts that came since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// What was unpaid when segments ended, and is not worked off.
    pub arrears: Tokens,
    /// What is unpaid in the running segment, or was carried before terms.
    pub unpaid: Tokens,
    /// What it paid, forgotten by and by.
    pub paid_lately: Tokens,
    /// The channel's epoch at that moment; zero without one.
    pub nonce: u64,
    /// What was signed on the channel by then.
    pub signed: Tokens,
}

impl Standing {
    /// All that is not paid.
    #[must_use]
    pub const fn debt(&self) -> Tokens {
        self.arrears.saturating_add(self.unpaid)
    }

    /// Whether a provider that forgot what came on top of `written` would carry clearly more than it should: a quarter of
    /// the present window, for a payer that pays is asked to from an eighth on; but no small part of the `full` one, which
    /// would wear the flash for little.
    #[must_use]
    pub fn outgrew(&self, written: &Self, window: Tokens, full: Tokens) -> bool {
        let more = self.debt().saturating_sub(written.debt());
        more > part(window, 4).max(part(full, 1024))
    }

    /// What is still unpaid of the segment that ran, where `held` is the best receipt there is.
    fn unpaid_after(&self, held: Option<&Receipt>) -> Tokens {
        let since = held.map_or(Tokens::ZERO, |held| match held.channel().nonce.cmp(&self.nonce) {
            Ordering::Less => Tokens::ZERO,
            Ordering::Equal => held.amount().saturating_sub(self.signed),
            Ordering::Greater => held.amount(),
        });
        self.unpaid.saturating_sub(since)
    }
}

/// Ticks from one forgiveness to the next, and how many of them are in an hour.
const FORGIVE_TICKS: u32 = 12;
const FORGIVE_STEPS: u32 = 60;

impl Trust {
    /// Goes on from what the journal knows. Our end broke the segment off, and what is unpaid of it becomes arrears, as
    /// by any other break; a receipt signed before pays for it when the payer shows it.
    pub(crate) fn restored(standing: &Standing, held: Option<&Receipt>) -> Self {
        let mut trust = Self { paid_lately: standing.paid_lately, arrears: standing.arrears, ..Self::default() };
        trust.handle_unpaid(standing.unpaid_after(held));
        trust.handle_break();
        trust
    }

    /// What the journal keeps of it, and of the channel: its epoch, what is signed on it and what is unpaid.
    pub(crate) const fn standing(&self, nonce: u64, signed: Tokens, unpaid: Tokens) -> Standing {
        Standing { arrears: self.arrears, unpaid, paid_lately: self.paid_lately, nonce, signed }
    }

    /// What was unpaid when segments ended, and receipts may still come for that were signed before.
    pub(crate) const fn late(&self) -> Tokens {
        self.late
    }

    /// What was unpaid when segments ended, and is not worked off.
    pub(crate) const fn arrears(&self) -> Tokens {
        self.arrears
    }

    /// The payer paid for something carried.
    pub(crate) fn handle_payment(&mut self, paid: Tokens) {
        self.paid_lately = self.paid_lately.saturating_add(paid);
        self.arrears = self.arrears.saturating_sub(part(paid, WORKS_OFF));
    }

    /// The payer showed a receipt for segments that have ended. It pays for what was written off; beyond that it had been
    /// paid in time, and we forgot the receipt by a restart.
    pub(crate) fn handle_late_payment(&mut self, paid: Tokens) {
        let late = paid.min(self.late);
        self.late = self.late.saturating_sub(late);
        let in_time = part(paid.saturating_sub(late), WORKS_OFF);
        self.arrears = self.arrears.saturating_sub(late).saturating_sub(in_time);
    }

    /// Something was carried that nobody will pay for, because its segment has ended or never began.
    pub(crate) fn handle_unpaid(&mut self, unpaid: Tokens) {
        self.arrears = self.arrears.saturating_add(unpaid);
        self.late = self.late.saturating_add(unpaid);
    }

    /// A segment broke off unpaid: its payer is trusted half as far beyond the first window.
    pub(crate) fn handle_break(&mut self) {
        self.paid_lately = part(self.paid_lately, 2);
    }

    /// Another tick has passed.
    pub(crate) fn tick(&mut self, terms: &Terms) {
        self.paid_lately = self.paid_lately.saturating_sub(part(self.paid_lately, FORGETS));
        self.ticks = (self.ticks + 1) % (FORGIVE_TICKS * FORGIVE_STEPS);
        if self.ticks.is_multiple_of(FORGIVE_TICKS) {
            let minute = u128::from(self.ticks / FORGIVE_TICKS);
            let by = |minute: u128| (forgiven_each_hour(terms).get() * minute).div_ceil(FORGIVE_STEPS.into());
            let step = Tokens::new(by(minute + 1) - by(minute)).unwrap_or(Tokens::MAX);
            self.arrears = self.arrears.saturating_sub(step);
        }
    }

    /// The most that can still be lost, in however many segments, before arrears are worked off or forgiven.
    pub(crate) fn most(&self, terms: &Terms, security: Security) -> Tokens {
        let most = terms.window_value();
        match security {
            _ if terms.is_free() => most,
            Security::Unknown => most.min(one_more(terms.value_of(UNSECURED_WINDOW))).saturating_sub(self.arrears),
            Security::Locked(rest) => most.saturating_sub(self.arrears).min(rest),
            Security::Closing => Tokens::ZERO,
        }
    }

    /// What may be unpaid in this segment, or in what precedes the agreement on terms.
    pub(crate) fn window(&self, terms: &Terms, security: Security, agreed: bool) -> Tokens {
        let most = self.most(terms, security);
        if terms.is_free() {
            return most;
        }
        // Rounded up, so that something is carried while anything may be.
        let of_most = |parts| Tokens::new(most.get().div_ceil(parts)).unwrap_or(most);
        if agreed {
            let first = of_most(FIRST);
            let grown = Tokens::new(self.paid_lately.get() * GROWS).unwrap_or(Tokens::MAX);
            most.min(first.saturating_add(grown))
        } else {
            of_most(BEFORE_TERMS)
        }
    }
}

/// What of the arrears is forgiven each hour, in money: at least one base unit, its grain.
fn forgiven_each_hour(terms: &Terms) -> Tokens {
    terms.value_of(FORGIVEN_EACH_HOUR).max(ONE)
}

/// What [`given_each_day`] and the ledger's line are worth, with the base unit that an hour may be rounded up by.
pub(crate) fn lost_each_day(terms: &Terms) -> Tokens {
    const HOURS: Tokens = Tokens::new(24).expect("24 is below 2^96");
    let to_ledger = Bytes::new(LEDGER_LINE.get() * 86_400 + LEDGER_LINE_BURST.get());
    terms.value_of(given_each_day().saturating_add(to_ledger)).saturating_add(HOURS)
}

/// What a payer that never pays again is carried for each day, once its window is used up, beside what it speaks with the ledger.
#[must_use]
pub const fn given_each_day() -> Bytes {
    Bytes::new(FORGIVEN_EACH_HOUR.get() * 24 + LIFELINE.get() * 86_400)
}

/// One base unit more, the grain of money: at a price so low that a window is worth less than a base unit, nothing could
/// be paid for otherwise.
fn one_more(amount: Tokens) -> Tokens {
    amount.saturating_add(ONE)
}

/// One part in `parts`, rounded down.
fn part(amount: Tokens, parts: u128) -> Tokens {
    Tokens::new(amount.get() / parts).unwrap_or(amount)
}

/// What a payer has told its own count for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Answered {
    /// So much of what the provider sent.
    sent: Bytes,
    /// So much of that counts as delivered at least.
    least: Bytes,
}

impl Answered {
    /// The payer told what it counted of the first `sent` bytes. What may be lost of those that it had not told of before is
    /// settled by what is allowed now: a link that loses less later on makes no debt of what it lost before.
    pub(crate) fn note(&mut self, sent: Bytes, allowance_ppm: u32) {
        let more = sent.saturating_sub(self.sent);
        self.least = self.least.saturating_add(expected(more, allowance_ppm));
        self.sent = self.sent.max(sent);
    }
}

/// What the provider's own counts say it is owed in this segment.
///
/// Upstream its received count. Downstream what it sent, less the loss it allows; of that part which the payer has
/// told its own count for, that count, if it is higher. So of what nobody has told anything about only the allowed
/// share is given away, however long the segment has lasted.
pub(crate) fn earned(terms: &Terms, own: Counts, answered: Answered, payer: Counts, allowance_ppm: u32) -> Tokens {
    let told = answered.least.max(payer.received);
    let untold = expected(own.sent.saturating_sub(answered.sent), allowance_ppm);
    let delivered = told.saturating_add(untold).min(own.sent);
    let up = terms.price_up.of(own.received).unwrap_or(Tokens::MAX);
    let down = terms.price_down.of(delivered).unwrap_or(Tokens::MAX);
    up.saturating_add(down)
}

/// The loss that is not taken for owed: what the terms say, and half as much again as the link is known to lose, for
/// the next packets may fare worse than those it was measured by; but never beyond [`LOSS_MOST_PPM`], or whoever says
/// it received nothing would pay nothing.
pub(crate) fn allowance(terms: &Terms, link_loss_ppm: u32) -> u32 {
    let measured = link_loss_ppm.saturating_add(link_loss_ppm / 2);
    let allowed = terms.loss_allowance_ppm.saturating_add(measured).min(LOSS_MOST_PPM);
    allowed.max(terms.loss_allowance_ppm)
}

/// What arrives of so much at least, with no more than the allowed loss.
fn expected(sent: Bytes, allowance_ppm: u32) -> Bytes {
    let lost = u128::from(sent.get()) * u128::from(allowance_ppm) / 1_000_000;
    sent.saturating_sub(Bytes::new(u64::try_from(lost).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terms::Offer;
    use crate::{ChannelId, Identity, LedgerDomain, NodeId, Price, Seed};

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

    /// With a tenth allowed.
    fn answered(gibibytes: u64) -> Answered {
        let mut answered = Answered::default();
        answered.note(Bytes::new(gibibytes << 30), 100_000);
        answered
    }

    #[test]
    fn what_a_link_lost_before_is_not_owed_when_it_loses_less() {
        let terms = terms(0, 1000, 0);
        let mut answered = Answered::default();
        answered.note(Bytes::new(100 << 30), 250_000);
        let earned = |answered, sent| earned(&terms, gibibytes(sent, 0), answered, gibibytes(0, 75), 0).get();
        assert_eq!((earned(answered, 100), earned(answered, 110)), (75_000, 85_000));
        answered.note(Bytes::new(110 << 30), 0);
        answered.note(Bytes::new(105 << 30), 250_000);
        assert_eq!(earned(answered, 110), 85_000);
    }

    #[test]
    fn allowed_loss_is_not_owed_and_more_is() {
        let terms = terms(0, 1000, 100_000);
        let earned = |received| earned(&terms, gibibytes(100, 0), answered(100), gibibytes(0, received), 100_000).get();
        assert_eq!(earned(95), 95_000);
        assert_eq!(earned(50), 90_000);
        assert_eq!(earned(200), 100_000);
    }

    #[test]
    fn a_long_time_without_loss_gives_no_credit_for_loss() {
        let terms = terms(0, 1000, 100_000);
        let earned = |sent| earned(&terms, gibibytes(sent, 0), answered(1000), gibibytes(0, 1000), 100_000).get();
        assert_eq!(earned(1000), 1_000_000);
        assert_eq!(earned(1010), 1_009_000);
    }

    #[test]
    fn what_was_received_is_owed_in_full() {
        let terms = terms(1000, 0, 100_000);
        let lied = gibibytes(0, 0);
        assert_eq!(earned(&terms, gibibytes(0, 10), answered(0), lied, 100_000).get(), 10_000);
    }

    #[test]
    fn what_a_link_loses_is_allowed_up_to_a_quarter_and_terms_may_allow_more() {
        let allowed = |by_terms, lost| allowance(&terms(0, 1, by_terms), lost);
        assert_eq!(allowed(50_000, 0), 50_000);
        assert_eq!(allowed(50_000, 100_000), 200_000);
        assert_eq!(allowed(50_000, 900_000), 250_000);
        assert_eq!(allowed(400_000, u32::MAX), 400_000);
    }

    #[test]
    fn window_never_exceeds_what_is_locked() {
        let terms = terms(1 << 20, 1 << 20, 0);
        let trust = Trust { paid_lately: Tokens::MAX, ..Trust::default() };
        let window = |security| trust.window(&terms, security, true);
        assert_eq!(window(Security::Locked(Tokens::MAX)).get(), (1 << 16) + 1);
        assert_eq!(window(Security::Locked(ONE)), ONE);
        assert_eq!(window(Security::Closing), Tokens::ZERO);
        assert_eq!(window(Security::Unknown).get(), (1 << 10) + 1);
        let before_terms = trust.window(&terms, Security::Locked(Tokens::MAX), false).get();
        assert_eq!(before_terms, (1 << 12) + 1, "a sixteenth, rounded up");
    }

    #[test]
    fn the_window_grows_by_what_is_paid_and_shrinks_when_nothing_is() {
        let terms = terms(1 << 20, 1 << 20, 0);
        let locked = Security::Locked(Tokens::MAX);
        let mut trust = Trust::default();
        let first = trust.window(&terms, locked, true).get();
        assert_eq!(first, (1 << 14) + 1);
        trust.handle_payment(Tokens::new(1 << 12).unwrap());
        assert_eq!(trust.window(&terms, locked, true).get(), first + 7 * (1 << 12));
        trust.handle_break();
        assert_eq!(trust.window(&terms, locked, true).get(), first + 7 * (1 << 11));
        for _ in 0..1000 {
            trust.tick(&terms);
        }
        assert!(trust.window(&terms, locked, true).get() < first + 500);
    }

    #[test]
    fn whoever_breaks_off_again_and_again_gains_one_window_in_all() {
        let terms = terms(1 << 20, 1 << 20, 0);
        let locked = Security::Locked(Tokens::MAX);
        let mut trust = Trust::default();
        let mut taken = 0;
        for _ in 0..10_000 {
            for agreed in [false, true] {
                let window = trust.window(&terms, locked, agreed);
                taken += window.get();
                trust.handle_unpaid(window);
            }
            trust.handle_break();
        }
        assert_eq!(taken, (1 << 16) + 1);
        // An hour later it is worth another try, for as much as is forgiven each hour.
        for _ in 0..720 {
            trust.tick(&terms);
        }
        let hour = terms.value_of(FORGIVEN_EACH_HOUR).get();
        assert_eq!(trust.most(&terms, locked).get(), hour);
    }

    #[test]
    fn what_is_worth_less_than_a_base_unit_is_not_forgiven_a_unit_each_minute() {
        let terms = terms(1000, 1000, 0);
        let mut trust = Trust::default();
        trust.handle_unpaid(Tokens::new(1000).unwrap());
        for _ in 0..24 * 720 {
            trust.tick(&terms);
        }
        assert_eq!(trust.arrears().get(), 1000 - 24);
    }

    #[test]
    fn arrears_are_worked_off_by_paying() {
        let terms = terms(1 << 20, 1 << 20, 0);
        let mut trust = Trust::default();
        trust.handle_unpaid(Tokens::new(1000).unwrap());
        trust.handle_payment(Tokens::new(4000).unwrap());
        assert_eq!(trust.arrears().get(), 500);
        assert_eq!(trust.most(&terms, Security::Locked(Tokens::MAX)).get(), (1 << 16) + 1 - 500);
        trust.handle_payment(Tokens::MAX);
        assert_eq!(trust.arrears(), Tokens::ZERO);
    }

    #[test]
    fn a_restored_trust_has_forgotten_no_arrears_and_takes_late_receipts_for_what_was_broken_off() {
        let tokens = |n| Tokens::new(n).unwrap();
        let standing =
            Standing { arrears: tokens(100), unpaid: tokens(40), paid_lately: tokens(60), ..Standing::default() };
        let mut trust = Trust::restored(&standing, None);
        assert_eq!((trust.arrears(), trust.late()), (tokens(140), tokens(40)));
        assert_eq!(trust.standing(0, Tokens::ZERO, Tokens::ZERO).paid_lately, tokens(30));
        // Of this receipt 40 were not paid yet; the other 80 had been, before it was forgotten.
        trust.handle_late_payment(tokens(120));
        assert_eq!((trust.arrears(), trust.late()), (tokens(90), Tokens::ZERO));
    }

    #[test]
    fn receipts_since_a_standing_was_written_pay_for_what_was_unpaid_by_it() {
        let account = Identity::new(&Seed::from_bytes([2; 32]));
        let receipt = |nonce, amount| {
            let domain = LedgerDomain { chain_id: 0, contract: NodeId([9; 20]) };
            let channel = ChannelId { payer: account.node_id(), payee: NodeId([1; 20]), nonce };
            Receipt::sign(account.account(), &domain, channel, Tokens::new(amount).unwrap(), [0; 32])
        };
        let [unpaid, signed] = [50, 1000].map(|n| Tokens::new(n).unwrap());
        let standing = Standing { unpaid, signed, nonce: 2, ..Standing::default() };
        let left = |nonce, amount| Trust::restored(&standing, Some(&receipt(nonce, amount))).arrears().get();
        assert_eq!([left(2, 990), left(2, 1020), left(2, 1050)], [50, 30, 0]);
        assert_eq!([left(1, 5000), left(3, 20)], [50, 30], "another channel");
    }

    #[test]
    fn what_is_free_needs_no_security() {
        let mut free = terms(0, 0, 0);
        let trust = Trust { arrears: Tokens::MAX, ..Trust::default() };
        assert_eq!(trust.window(&free, Security::Unknown, false), Tokens::MAX);
        free.window = Offer::FREE.window;
        assert_eq!(earned(&free, gibibytes(9, 9), answered(0), gibibytes(9, 9), 0), Tokens::ZERO);
    }
}
