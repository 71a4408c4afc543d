//! How often a neighbour may make us do something that costs us more than it.

use std::time::{Duration, Instant};

/// So many at once, and one more after each interval.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    left: u32,
    most: u32,
    each: Duration,
    /// Until when what is left has been counted.
    counted: Instant,
}

impl Allowance {
    pub(crate) const fn new(most: u32, each: Duration, now: Instant) -> Self {
        Self { left: most, most, each, counted: now }
    }

    /// Takes one, if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.counted).as_nanos() / self.each.as_nanos().max(1);
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        self.counted += self.each * passed;
        self.left = self.left.saturating_add(passed).min(self.most);
        let taken = self.left.checked_sub(1);
        self.left = taken.unwrap_or(0);
        taken.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_at_once_and_one_more_after_each_interval() {
        #[expect(clippy::disallowed_methods, reason = "the beginning of virtual time")]
        let began = Instant::now();
        let second = Duration::from_secs(1);
        let mut allowance = Allowance::new(3, 10 * second, began);
        let mut taken = |at: u32| (0..100).filter(|_| allowance.take(began + second * at)).count();
        assert_eq!([taken(0), taken(9), taken(10), taken(25), taken(30)], [3, 0, 1, 1, 1]);
        assert_eq!(taken(1_000_000), 3, "no more is saved");
        assert_eq!(taken(5), 0, "a clock that goes back gives nothing");
    }
}
