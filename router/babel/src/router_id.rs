//! Router-ids: RFC 8966, section 4.1.3.

use std::fmt;

/// The name of a Babel speaker: eight octets, neither all zeros nor all ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouterId([u8; 8]);

impl RouterId {
    /// `None` for the two values RFC 8966, section 4.1.3 forbids.
    #[must_use]
    pub fn new(octets: [u8; 8]) -> Option<Self> {
        (octets != [0; 8] && octets != [0xff; 8]).then_some(Self(octets))
    }

    /// Stands where there is none.
    pub(crate) const NOBODY: Self = Self([0; 8]);

    /// The octets on the wire.
    #[must_use]
    pub fn octets(self) -> [u8; 8] {
        self.0
    }
}

impl fmt::Display for RouterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, pair) in self.0.chunks(2).enumerate() {
            let colon = if i == 0 { "" } else { ":" };
            write!(f, "{colon}{:02x}{:02x}", pair[0], pair[1])?;
        }
        Ok(())
    }
}

impl fmt::Debug for RouterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_zeros_and_all_ones_are_no_router_ids() {
        assert_eq!(RouterId::new([0; 8]), None);
        assert_eq!(RouterId::new([0xff; 8]), None);
    }

    #[test]
    fn text_is_four_groups_as_babeld_prints_it() {
        let id = RouterId::new([2, 0, 0x5e, 0xff, 0xfe, 0, 0, 1]).unwrap();
        assert_eq!(id.to_string(), "0200:5eff:fe00:0001");
    }
}
