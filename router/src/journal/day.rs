//! A day with one neighbour: what both sides counted, and what came of it.

use metering::{Bytes, Counts, Tokens};

/// What one day with one neighbour came to. Sums; each counts up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Day {
    /// Agreements on terms: one on a quiet day.
    pub segments: u64,
    /// Billed bytes by our count, while terms were agreed on.
    pub ours: Counts,
    /// Billed bytes as the neighbour reported them, of the same time.
    pub theirs: Counts,
    /// What the neighbour signed for.
    pub earned: Tokens,
    /// What we signed for.
    pub spent: Tokens,
    /// What it owed when an agreement ended, less what it paid of that later the same day.
    pub written_off: Tokens,
    /// What it paid of what had been written off on earlier days. Those days stay as they are.
    pub paid_late: Tokens,
}

impl Day {
    const LEN: usize = 5 * 8 + 4 * 12;
    /// Up to version 2 of the journal nothing was known of late payments.
    const LEN_BEFORE: usize = Self::LEN - 12;

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let counts = |a: Counts, b: Counts| Counts {
            sent: a.sent.saturating_add(b.sent),
            received: a.received.saturating_add(b.received),
        };
        Self {
            segments: self.segments.saturating_add(other.segments),
            ours: counts(self.ours, other.ours),
            theirs: counts(self.theirs, other.theirs),
            earned: self.earned.saturating_add(other.earned),
            spent: self.spent.saturating_add(other.spent),
            written_off: self.written_off.saturating_add(other.written_off),
            paid_late: self.paid_late.saturating_add(other.paid_late),
        }
    }

    /// What came on top of `before`; nothing where a sum began anew.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        let counts = |a: Counts, b: Counts| Counts {
            sent: a.sent.saturating_sub(b.sent),
            received: a.received.saturating_sub(b.received),
        };
        Self {
            segments: self.segments.saturating_sub(before.segments),
            ours: counts(self.ours, before.ours),
            theirs: counts(self.theirs, before.theirs),
            earned: self.earned.saturating_sub(before.earned),
            spent: self.spent.saturating_sub(before.spent),
            written_off: self.written_off.saturating_sub(before.written_off),
            paid_late: self.paid_late.saturating_sub(before.paid_late),
        }
    }

    /// A late receipt paid so much of what had been written off, today as far as that goes.
    #[must_use]
    pub fn with_late_payment(self, paid: Tokens) -> Self {
        let of_earlier_days = paid.saturating_sub(self.written_off);
        Self {
            written_off: self.written_off.saturating_sub(paid),
            paid_late: self.paid_late.saturating_add(of_earlier_days),
            ..self
        }
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        let numbers = [
            self.segments,
            self.ours.sent.get(),
            self.ours.received.get(),
            self.theirs.sent.get(),
            self.theirs.received.get(),
        ];
        let amounts = [self.earned, self.spent, self.written_off, self.paid_late];
        let numbers = numbers.iter().flat_map(|number| number.to_be_bytes());
        numbers.chain(amounts.iter().flat_map(|amount| amount.to_be_bytes12())).collect()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != Self::LEN && bytes.len() != Self::LEN_BEFORE {
            return None;
        }
        let (numbers, amounts) = bytes.split_at(5 * 8);
        let number = |at: usize| Some(u64::from_be_bytes(numbers.get(8 * at..8 * at + 8)?.try_into().ok()?));
        let amount = |at: usize| Some(Tokens::from_be_bytes12(amounts.get(12 * at..12 * at + 12)?.try_into().ok()?));
        let bytes = |at: usize| number(at).map(Bytes::new);
        Some(Self {
            segments: number(0)?,
            ours: Counts { sent: bytes(1)?, received: bytes(2)? },
            theirs: Counts { sent: bytes(3)?, received: bytes(4)? },
            earned: amount(0)?,
            spent: amount(1)?,
            written_off: amount(2)?,
            paid_late: if amounts.len() == 4 * 12 { amount(3)? } else { Tokens::ZERO },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_read_as_it_was_written_and_other_lengths_are_refused() {
        let counts = |n| Counts { sent: Bytes::new(n), received: Bytes::new(u64::MAX - n) };
        let tokens = |n| Tokens::new(n).unwrap();
        let day = Day {
            segments: 3,
            ours: counts(1),
            theirs: counts(2),
            earned: tokens(7),
            spent: Tokens::MAX,
            written_off: tokens(9),
            paid_late: tokens(11),
        };
        let bytes = day.to_bytes();
        assert_eq!(bytes.len(), Day::LEN);
        assert_eq!(Day::from_bytes(&bytes), Some(day));
        assert_eq!(Day::from_bytes(&bytes[1..]), None);
        let before = Day::from_bytes(&bytes[..Day::LEN_BEFORE]);
        assert_eq!(before, Some(Day { paid_late: Tokens::ZERO, ..day }), "as version 2 wrote it");
        assert_eq!(day.since(day), Day::default());
        assert_eq!(Day::default().plus(day), day);
    }

    #[test]
    fn a_late_payment_first_pays_for_the_same_day() {
        let tokens = |n| Tokens::new(n).unwrap();
        let day = Day { written_off: tokens(9), ..Day::default() };
        let after =
            |paid| (day.with_late_payment(tokens(paid)).written_off, day.with_late_payment(tokens(paid)).paid_late);
        assert_eq!(after(4), (tokens(5), Tokens::ZERO));
        assert_eq!(after(12), (Tokens::ZERO, tokens(3)));
    }
}
