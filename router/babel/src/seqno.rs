//! Sequence numbers: RFC 8966, section 3.2.1.

use std::fmt;

/// A sequence number, compared modulo 2^16 (RFC 8966, section 3.2.1).
///
/// Not `Ord`: the comparison is not transitive, so sorting by it would be a bug.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Seqno(pub u16);

impl Seqno {
    /// The sequence number after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    /// "s is less than s' if 0 < ((s' - s) MOD 2^16) < 2^15": whether `self` is the greater of the two.
    #[must_use]
    pub fn is_newer_than(self, other: Self) -> bool {
        self.distance_from(other) > 0
    }

    /// How far `self` lies ahead of `other` (negative: behind), the shorter way round.
    #[must_use]
    pub fn distance_from(self, other: Self) -> i16 {
        self.0.wrapping_sub(other.0).cast_signed()
    }
}

impl fmt::Display for Seqno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn newer_survives_the_wrap() {
        assert!(Seqno(0).is_newer_than(Seqno(0xffff)));
        assert!(!Seqno(0xffff).is_newer_than(Seqno(0)));
        assert!(!Seqno(7).is_newer_than(Seqno(7)));
    }

    #[test]
    fn half_a_circle_apart_neither_is_newer() {
        assert!(!Seqno(0x8000).is_newer_than(Seqno(0)));
        assert!(!Seqno(0).is_newer_than(Seqno(0x8000)));
    }

    proptest! {
        #[test]
        fn comparison_is_antisymmetric_and_follows_next(a: u16, b: u16) {
            let (a, b) = (Seqno(a), Seqno(b));
            prop_assert!(!(a.is_newer_than(b) && b.is_newer_than(a)));
            prop_assert!(a.next().is_newer_than(a));
        }
    }
}
