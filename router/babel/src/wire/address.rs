//! Address encodings (RFC 8966, section 4.1.4; RFC 9229, section 4).

use super::reader::Reader;
use crate::prefix::{IpPrefix, Ipv4Prefix, Prefix};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// No address: a wildcard.
pub(super) const AE_WILDCARD: u8 = 0;
/// An IPv4 address.
pub(super) const AE_IPV4: u8 = 1;
/// An IPv6 address.
pub(super) const AE_IPV6: u8 = 2;
/// An IPv6 link-local address, of which the last eight octets are sent.
pub(super) const AE_LINK_LOCAL: u8 = 3;
/// An IPv4 prefix with an IPv6 next hop (RFC 9229).
pub(super) const AE_V4_VIA_V6: u8 = 4;

/// A prefix of any kind an Update or a request can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AnyPrefix {
    /// IPv6, address encoding 2.
    V6(Prefix),
    /// IPv4 with an IPv4 next hop, address encoding 1.
    V4(Ipv4Prefix),
    /// IPv4 with an IPv6 next hop, address encoding 4 (RFC 9229).
    V4ViaV6(Ipv4Prefix),
}

impl AnyPrefix {
    /// The prefix alone.
    #[must_use]
    pub fn prefix(self) -> IpPrefix {
        match self {
            Self::V6(prefix) => IpPrefix::V6(prefix),
            Self::V4(prefix) | Self::V4ViaV6(prefix) => IpPrefix::V4(prefix),
        }
    }

    pub(super) fn encoding(self) -> u8 {
        match self {
            Self::V6(_) => AE_IPV6,
            Self::V4(_) => AE_IPV4,
            Self::V4ViaV6(_) => AE_V4_VIA_V6,
        }
    }

    /// Length in bits.
    pub(super) fn bits(self) -> u8 {
        match self {
            Self::V6(prefix) => prefix.len(),
            Self::V4(prefix) | Self::V4ViaV6(prefix) => prefix.len(),
        }
    }

    /// The address, padded with zeros to 16 octets.
    pub(super) fn octets(self) -> [u8; 16] {
        match self {
            Self::V6(prefix) => prefix.addr().octets(),
            Self::V4(prefix) | Self::V4ViaV6(prefix) => {
                let mut octets = [0; 16];
                octets[..4].copy_from_slice(&prefix.addr().octets());
                octets
            }
        }
    }

    /// How many octets hold the prefix.
    pub(super) fn octet_count(self) -> usize {
        octet_count(self.bits())
    }

    /// Reads `bits` bits, the first `omitted` octets taken from `default` instead of the wire.
    pub(super) fn read(
        encoding: u8,
        bits: u8,
        omitted: usize,
        default: Option<[u8; 16]>,
        reader: &mut Reader<'_>,
    ) -> Option<Self> {
        let count = octet_count(bits);
        if count > 16 || omitted > count {
            return None;
        }
        let mut octets = [0; 16];
        if omitted > 0 {
            octets[..omitted].copy_from_slice(&default?[..omitted]);
        }
        octets[omitted..count].copy_from_slice(reader.bytes(count - omitted)?);
        Self::from_octets(encoding, octets, bits)
    }

    fn from_octets(encoding: u8, octets: [u8; 16], bits: u8) -> Option<Self> {
        let v4 = Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]);
        match encoding {
            AE_IPV6 => Prefix::new(Ipv6Addr::from(octets), bits).map(Self::V6),
            AE_IPV4 => Ipv4Prefix::new(v4, bits).map(Self::V4),
            AE_V4_VIA_V6 => Ipv4Prefix::new(v4, bits).map(Self::V4ViaV6),
            _ => None,
        }
    }
}

fn octet_count(bits: u8) -> usize {
    usize::from(bits).div_ceil(8)
}

/// Reads an address (not a prefix): encodings 1, 2 and 3.
pub(super) fn read_address(encoding: u8, reader: &mut Reader<'_>) -> Option<IpAddr> {
    match encoding {
        AE_IPV4 => reader.array::<4>().map(IpAddr::from),
        AE_IPV6 => reader.array::<16>().map(IpAddr::from),
        AE_LINK_LOCAL => {
            let interface_id = u64::from_be_bytes(reader.array()?);
            Some(Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(interface_id)).into())
        }
        _ => None,
    }
}

/// The shortest encoding of an address, and its octets.
pub(super) fn write_address(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(v4) => (AE_IPV4, v4.octets().to_vec()),
        IpAddr::V6(v6) if v6.to_bits() >> 64 == 0xfe80 << 48 => (AE_LINK_LOCAL, v6.octets()[8..].to_vec()),
        IpAddr::V6(v6) => (AE_IPV6, v6.octets().to_vec()),
    }
}
