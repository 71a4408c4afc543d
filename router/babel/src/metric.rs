//! Costs of links and metrics of routes: RFC 8966, sections 2.1 and 3.5.2.

use std::fmt;

/// The cost of one link in one direction. Never zero: a route's metric must strictly grow at each
/// hop, or feasibility would not exclude loops (RFC 8966, section 3.5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cost(u16);

impl Cost {
    /// The link cannot be used.
    pub const INFINITY: Self = Self(u16::MAX);
    /// The most a link can cost that can be used.
    pub(crate) const WORST: Self = Self(u16::MAX - 1);
    /// What RFC 8966, Appendix B and the common daemons give a wired link.
    pub const WIRED: Self = Self(96);
    /// What RFC 8966, Appendix B gives a perfect wireless link.
    pub const WIRELESS: Self = Self(256);

    /// A cost as told on the wire; zero becomes one.
    #[must_use]
    pub fn new(cost: u16) -> Self {
        Self(if cost == 0 { 1 } else { cost })
    }

    /// The number on the wire.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }

    /// Whether the link can be used.
    #[must_use]
    pub fn is_finite(self) -> bool {
        self != Self::INFINITY
    }

    /// So much more, of a link that can be used.
    pub(crate) fn plus(self, more: u16) -> Self {
        if self.is_finite() { Self(self.0.saturating_add(more).min(Self::WORST.0)) } else { self }
    }
}

/// The metric of a route: the sum of its links' costs, saturating at infinity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Metric(pub u16);

impl Metric {
    /// The metric of a prefix one is connected to.
    pub const ZERO: Self = Self(0);
    /// Unreachable; an update with it is a retraction.
    pub const INFINITY: Self = Self(u16::MAX);

    /// The metric of the route through a link of this cost.
    #[must_use]
    pub fn through(self, cost: Cost) -> Self {
        Self(self.0.saturating_add(cost.0))
    }

    /// Whether the route can be used.
    #[must_use]
    pub fn is_finite(self) -> bool {
        self != Self::INFINITY
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Metric(self.0).fmt(f)
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_finite() { self.0.fmt(f) } else { f.write_str("infinite") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metric_saturates_at_infinity() {
        assert_eq!(Metric(65_500).through(Cost::WIRED), Metric::INFINITY);
        assert_eq!(Metric::ZERO.through(Cost::INFINITY), Metric::INFINITY);
    }

    #[test]
    fn no_link_is_free() {
        assert!(Metric(7).through(Cost::new(0)) > Metric(7));
    }
}
