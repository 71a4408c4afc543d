//! Prices of routes, as carried in the price sub-TLV of Update.

use std::fmt;

/// What carrying a gigabyte towards a prefix costs, in the smallest step of the community's unit.
/// Sums saturate: a price that does not fit stays the highest known one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Price(u32);

impl Price {
    /// Carried for nothing.
    pub const ZERO: Self = Self(0);
    /// The highest price; one more is the wire's "unknown".
    pub const MAX: Self = Self(u32::MAX - 1);

    /// Values beyond [`Price::MAX`] become it.
    #[must_use]
    pub fn new(price: u32) -> Self {
        Self(price).min(Self::MAX)
    }

    /// The number on the wire.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }

    /// This price plus what one more hop asks.
    #[must_use]
    pub fn plus(self, fee: Self) -> Self {
        Self::new(self.0.saturating_add(fee.0))
    }
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn price_saturates_below_unknown() {
        assert_eq!(Price::new(u32::MAX), Price::MAX);
        assert_eq!(Price::MAX.plus(Price::new(1)), Price::MAX);
        assert_eq!(Price::new(2).plus(Price::new(3)), Price::new(5));
    }
}
