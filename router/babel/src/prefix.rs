//! Prefixes: what routes lead to.

use std::cmp::Ordering;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// An IPv6 prefix; the bits behind its length are zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix {
    addr: Ipv6Addr,
    len: u8,
}

/// By address, then length. Tables are ordered by it, so it compares numbers and not, as [`Ipv6Addr`] does, segments.
impl Ord for Prefix {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.addr.to_bits(), self.len).cmp(&(other.addr.to_bits(), other.len))
    }
}

impl PartialOrd for Prefix {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Prefix {
    /// The default route.
    pub const DEFAULT: Self = Self { addr: Ipv6Addr::UNSPECIFIED, len: 0 };

    /// Masks `addr` to `len` bits. `None` if `len` exceeds 128.
    #[must_use]
    pub fn new(addr: Ipv6Addr, len: u8) -> Option<Self> {
        let host_bits = 128_u32.checked_sub(u32::from(len))?;
        let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
        Some(Self { addr: Ipv6Addr::from_bits(addr.to_bits() & mask), len })
    }

    /// The first address.
    #[must_use]
    pub fn addr(self) -> Ipv6Addr {
        self.addr
    }

    /// Length in bits, 0 to 128.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a prefix is never empty; len is its usual name")]
    pub fn len(self) -> u8 {
        self.len
    }

    /// Whether `addr` lies in the prefix.
    #[must_use]
    pub fn contains(self, addr: Ipv6Addr) -> bool {
        Self::new(addr, self.len) == Some(self)
    }

    /// Whether all of `other` lies in the prefix.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.len <= other.len && self.contains(other.addr)
    }

    /// Whether a neighbour may announce it: not link-local, multicast, loopback, unspecified or
    /// IPv4-mapped addresses, which have no meaning beyond one link or one host.
    #[must_use]
    pub fn is_routable(self) -> bool {
        let bits = self.addr.to_bits();
        let within = |top: u128, len: u32| u32::from(self.len) >= len && bits >> (128 - len) == top;
        !within(0xff, 8) && !within(0xfe80 >> 6, 10) && !within(0xffff, 96) && !within(0, 96)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An IPv4 prefix; the bits behind its length are zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ipv4Prefix {
    addr: Ipv4Addr,
    len: u8,
}

impl Ipv4Prefix {
    /// Masks `addr` to `len` bits. `None` if `len` exceeds 32.
    #[must_use]
    pub fn new(addr: Ipv4Addr, len: u8) -> Option<Self> {
        let host_bits = 32_u32.checked_sub(u32::from(len))?;
        let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
        Some(Self { addr: Ipv4Addr::from_bits(addr.to_bits() & mask), len })
    }

    /// The first address.
    #[must_use]
    pub fn addr(self) -> Ipv4Addr {
        self.addr
    }

    /// Length in bits, 0 to 32.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a prefix is never empty; len is its usual name")]
    pub fn len(self) -> u8 {
        self.len
    }
}

impl Ipv4Prefix {
    /// The default route.
    pub const DEFAULT: Self = Self { addr: Ipv4Addr::UNSPECIFIED, len: 0 };

    /// Whether a neighbour may announce it: see [`Prefix::is_routable`].
    #[must_use]
    pub fn is_routable(self) -> bool {
        let bits = self.addr.to_bits();
        let within = |top: u32, len: u32| u32::from(self.len) >= len && bits >> (32 - len) == top;
        !within(127, 8) && !within(0, 8) && !within(0xa9fe, 16) && !within(0xe, 4) && !within(u32::MAX, 32)
    }
}

impl fmt::Display for Ipv4Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

impl fmt::Debug for Ipv4Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A prefix of either family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpPrefix {
    /// IPv6.
    V6(Prefix),
    /// IPv4, whatever its next hop's family (RFC 9229).
    V4(Ipv4Prefix),
}

impl IpPrefix {
    /// Whether a neighbour may announce it: see [`Prefix::is_routable`].
    #[must_use]
    pub fn is_routable(self) -> bool {
        match self {
            Self::V6(prefix) => prefix.is_routable(),
            Self::V4(prefix) => prefix.is_routable(),
        }
    }

    /// Length in bits.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a prefix is never empty; len is its usual name")]
    pub fn len(self) -> u8 {
        match self {
            Self::V6(prefix) => prefix.len(),
            Self::V4(prefix) => prefix.len(),
        }
    }

    /// Whether it is everybody: the way out of the mesh.
    #[must_use]
    pub fn is_default(self) -> bool {
        self.len() == 0
    }
}

impl From<Prefix> for IpPrefix {
    fn from(prefix: Prefix) -> Self {
        Self::V6(prefix)
    }
}

impl From<Ipv4Prefix> for IpPrefix {
    fn from(prefix: Ipv4Prefix) -> Self {
        Self::V4(prefix)
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V6(prefix) => prefix.fmt(f),
            Self::V4(prefix) => prefix.fmt(f),
        }
    }
}

impl fmt::Debug for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a route is for: packets to one prefix and, if it is source-specific (RFC 9079), only those from another.
/// A packet takes the longest `to` that fits it, and among those the longest `from` (RFC 9079, section 4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PrefixPair {
    /// Where packets go.
    pub to: IpPrefix,
    /// Where they come from, of the same family and longer than zero; `None`: anywhere.
    pub from: Option<IpPrefix>,
}

impl PrefixPair {
    /// Whether a neighbour may announce it.
    #[must_use]
    pub fn is_routable(self) -> bool {
        self.to.is_routable() && self.from.is_none_or(IpPrefix::is_routable)
    }
}

impl<P: Into<IpPrefix>> From<P> for PrefixPair {
    fn from(prefix: P) -> Self {
        Self { to: prefix.into(), from: None }
    }
}

impl fmt::Display for PrefixPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to.fmt(f)?;
        self.from.map_or(Ok(()), |from| write!(f, " from {from}"))
    }
}

impl fmt::Debug for PrefixPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        let (addr, len) = text.split_once('/').unwrap();
        Prefix::new(addr.parse().unwrap(), len.parse().unwrap()).unwrap()
    }

    #[test]
    fn bits_behind_the_length_are_cleared() {
        assert_eq!(prefix("fd12:3456:789a:bcde::1/48"), prefix("fd12:3456:789a::/48"));
        assert_eq!(prefix("::1/0"), Prefix::DEFAULT);
        assert_eq!(prefix("fd00::1/128").addr(), "fd00::1".parse::<Ipv6Addr>().unwrap());
        assert_eq!(Prefix::new(Ipv6Addr::LOCALHOST, 129), None);
        assert_eq!(Ipv4Prefix::new(Ipv4Addr::LOCALHOST, 33), None);
    }

    #[test]
    fn only_prefixes_that_mean_the_same_everywhere_are_routable() {
        for yes in ["::/0", "fd00::/8", "2001:db8::/32", "64:ff9b::/96", "fd00::1/128"] {
            assert!(prefix(yes).is_routable(), "{yes}");
        }
        for no in ["fe80::/10", "fe80::1/128", "ff00::/8", "ff02::1:6/128", "::1/128", "::/128", "::ffff:1.2.3.0/120"] {
            assert!(!prefix(no).is_routable(), "{no}");
        }
    }

    #[test]
    fn the_same_holds_for_ipv4() {
        let v4 = |text: &str| {
            let (addr, len) = text.split_once('/').unwrap();
            Ipv4Prefix::new(addr.parse().unwrap(), len.parse().unwrap()).unwrap()
        };
        for yes in ["0.0.0.0/0", "10.0.0.0/8", "192.0.2.1/32", "128.0.0.0/1"] {
            assert!(v4(yes).is_routable(), "{yes}");
        }
        for no in ["127.0.0.1/32", "0.0.0.0/8", "169.254.1.0/24", "224.0.0.0/4", "255.255.255.255/32"] {
            assert!(!v4(no).is_routable(), "{no}");
        }
    }

    #[test]
    fn a_pair_is_as_small_as_two_prefixes_and_prints_as_people_write_it() {
        let home = prefix("fd00:1::/48");
        let pair = PrefixPair { from: Some(prefix("fd00:2::/48").into()), ..home.into() };
        assert_eq!(size_of::<PrefixPair>(), 36);
        assert_eq!(
            (pair.to_string(), PrefixPair::from(home).to_string()),
            ("fd00:1::/48 from fd00:2::/48".into(), "fd00:1::/48".into())
        );
    }
}
