//! The ledger's time.

use std::fmt;

/// Seconds since 1970-01-01 UTC, below 2^40 (the year 36812), as a channel's exit time is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(u64);

impl UnixTime {
    /// The last second a ledger can name.
    pub const MAX: Self = Self((1 << 40) - 1);

    /// `seconds` since 1970, or [`UnixTime::MAX`] where a clock says more.
    #[must_use]
    pub const fn from_seconds(seconds: u64) -> Self {
        if seconds > Self::MAX.0 { Self::MAX } else { Self(seconds) }
    }

    /// Seconds since 1970.
    #[must_use]
    pub const fn seconds(self) -> u64 {
        self.0
    }

    /// The time `seconds` later, or [`UnixTime::MAX`].
    #[must_use]
    pub const fn after(self, seconds: u32) -> Self {
        // Below 2^40 + 2^32: the sum cannot wrap.
        Self::from_seconds(self.0 + seconds as u64)
    }
}

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
