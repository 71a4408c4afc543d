//! Time as the large tables keep it.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// A time in tenths of a second since the speaker's start: a quarter of an [`Instant`], which counts where there are
/// thousands of routes. Lasts 13 years, then stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tenths(NonZeroU32); // One more than their number, so that a time that is not set takes no extra room.

const TENTH: Duration = Duration::from_millis(100);

impl Tenths {
    /// Never.
    pub(crate) const MAX: Self = Self(NonZeroU32::MAX);

    /// Those that are too many are [`Tenths::MAX`].
    fn new(tenths: u32) -> Self {
        Self(NonZeroU32::MIN.saturating_add(tenths))
    }

    /// This much later, rounded up.
    pub(crate) fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(tenths_in(duration)))
    }

    /// This much earlier, rounded to the earlier side; not before the start.
    pub(crate) fn before(self, duration: Duration) -> Self {
        Self::new((self.0.get() - 1).saturating_sub(tenths_in(duration)))
    }
}

/// The speaker's start.
impl Default for Tenths {
    fn default() -> Self {
        Self::new(0)
    }
}

/// Rounded up. Without a division of 128 bits, since each update counts a time.
fn tenths_in(duration: Duration) -> u32 {
    let begun = duration.subsec_nanos().div_ceil(TENTH.subsec_nanos());
    let tenths = duration.as_secs().saturating_mul(10).saturating_add(begun.into());
    u32::try_from(tenths).unwrap_or(u32::MAX)
}

/// When the speaker started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Epoch(Instant);

impl Epoch {
    pub(crate) fn new(start: Instant) -> Self {
        Self(start)
    }

    /// The last tenth that has begun.
    pub(crate) fn tenths(self, now: Instant) -> Tenths {
        let age = now.saturating_duration_since(self.0);
        let tenths =
            age.as_secs().saturating_mul(10).saturating_add((age.subsec_nanos() / TENTH.subsec_nanos()).into());
        Tenths::new(u32::try_from(tenths).unwrap_or(u32::MAX))
    }

    /// The first tenth that is not before `at`.
    pub(crate) fn tenths_from(self, at: Instant) -> Tenths {
        Tenths::default().after(at.saturating_duration_since(self.0))
    }

    pub(crate) fn instant(self, at: Tenths) -> Instant {
        self.0 + TENTH * (at.0.get() - 1)
    }

    /// Microseconds of our clock, modulo 2^32, as timestamps carry them (RFC 9616, section 4).
    pub(crate) fn micros(self, now: Instant) -> u32 {
        let micros = now.saturating_duration_since(self.0).as_micros();
        u32::try_from(micros & u128::from(u32::MAX)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_at_a_tenth_is_due_when_its_instant_comes_and_not_before() {
        #[expect(clippy::disallowed_methods, reason = "an Instant has no other origin")]
        let start = Instant::now();
        let epoch = Epoch::new(start);
        let due = epoch.tenths_from(start + Duration::from_millis(1234));
        assert_eq!(epoch.instant(due), start + Duration::from_millis(1300));
        assert!(due > epoch.tenths(start + Duration::from_millis(1299)));
        assert!(due <= epoch.tenths(start + Duration::from_millis(1300)));
        assert_eq!(due.before(Duration::from_millis(250)), epoch.tenths(start + Duration::from_millis(1000)));
    }
}
