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

    /// Date and time of day in UTC, for people: `2026-11-27 10:52:33 UTC`.
    #[must_use]
    pub fn utc(self) -> String {
        let (days, second) = (self.0 / 86_400, self.0 % 86_400);
        let (year, month, day) = date(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
    }
}

/// Year, month and day in the Gregorian calendar, so many days after 1970-01-01. Years are counted from March here, so that
/// the leap day is the last.
const fn date(days: u64) -> (u64, u64, u64) {
    // 719,468 days from 0000-03-01 to 1970-01-01; 146,097 in 400 years.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = 400 * era + year;
    (if month <= 2 { year + 1 } else { year }, month, day)
}

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `date -u -d @seconds` has them.
    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_399, "2000-02-28 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (951_868_800, "2000-03-01 00:00:00 UTC"),
            (1_795_776_753, "2026-11-27 10:52:33 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
            (4_294_967_295, "2106-02-07 06:28:15 UTC"),
        ] {
            assert_eq!(UnixTime::from_seconds(seconds).utc(), expected, "{seconds}");
        }
        assert_eq!(UnixTime::MAX.utc(), "36812-02-20 00:36:15 UTC");
    }
}
