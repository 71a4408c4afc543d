//! Prices of routes, as carried in the price sub-TLV of Update.

use std::fmt;
use std::num::NonZeroU32;

/// What carrying a gigabyte towards a prefix costs, in the smallest step of the community's unit.
/// Sums saturate: a price that does not fit stays the highest known one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Price(NonZeroU32); // One more than the price, so that an unknown one takes no extra room in a route.

impl Price {
    /// Carried for nothing.
    pub const ZERO: Self = Self(NonZeroU32::MIN);
    /// The highest price; one more is the wire's "unknown".
    pub const MAX: Self = Self(NonZeroU32::MAX);

    /// Values beyond [`Price::MAX`] become it.
    #[must_use]
    pub fn new(price: u32) -> Self {
        Self(NonZeroU32::MIN.saturating_add(price))
    }

    /// The number on the wire.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0.get() - 1
    }

    /// This price plus what one more hop asks.
    #[must_use]
    pub fn plus(self, fee: Self) -> Self {
        Self(self.0.saturating_add(fee.get()))
    }

    /// Whether the two differ by more than an eighth of the larger: enough to tell neighbours before the next full
    /// update.
    pub(crate) fn is_far_from(self, other: Self) -> bool {
        self.get().abs_diff(other.get()) > self.max(other).get() / 8
    }
}

impl Default for Price {
    fn default() -> Self {
        Self::ZERO
    }
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

impl fmt::Debug for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Price({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn price_saturates_below_unknown() {
        assert_eq!(Price::MAX.get(), u32::MAX - 1);
        assert_eq!(Price::new(u32::MAX), Price::MAX);
        assert_eq!(Price::MAX.plus(Price::new(1)), Price::MAX);
        assert_eq!(Price::new(2).plus(Price::new(3)), Price::new(5));
        assert_eq!(Price::ZERO.plus(Price::ZERO).get(), 0);
    }

    #[test]
    fn an_unknown_price_takes_no_extra_room() {
        assert_eq!(size_of::<Option<Price>>(), 4);
    }

    #[test]
    fn a_tariff_that_moves_by_a_tenth_is_not_far_and_one_that_appears_is() {
        assert!(!Price::new(100).is_far_from(Price::new(110)));
        assert!(Price::new(100).is_far_from(Price::new(120)));
        assert!(Price::new(1).is_far_from(Price::ZERO));
        assert!(!Price::ZERO.is_far_from(Price::ZERO));
    }
}
