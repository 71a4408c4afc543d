//! Where a gateway's clients are not let: whatever is not the Internet, and the owner's own networks.
//!
//! The kernel's rules say the same, but others may take them away, and they do not know which networks are the owner's. So
//! every packet is asked about here as well, before the kernel has it.

use std::net::IpAddr;

use crate::netlink::{DEFAULT_LEN_MAX, FoundRoute};

/// What no way through the Internet leads to (the registries of special-purpose addresses: RFC 6890 and after it), and
/// multicast. Addresses for documentation are left out: nobody has them, but laboratories.
pub(super) const NOT_THE_INTERNET_V4: [&str; 12] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.31.196.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "224.0.0.0/3",
];
/// The same of IPv6: all but global unicast addresses, and so the prefixes of NAT64 (`64:ff9b::/96`, `64:ff9b:1::/48`), which lead
/// to any IPv4 address, private ones as well; and of those the ones that hold an IPv4 address: Teredo and 6to4.
pub(super) const NOT_THE_INTERNET_V6: [&str; 8] =
    ["::/3", "4000::/2", "8000::/2", "c000::/2", "2001::/32", "2001:2::/48", "2001:10::/28", "2002::/16"];

/// Ranges of addresses, as numbers, in order and apart from each other.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ranges(Vec<(u128, u128)>);

/// Where nobody is let.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Forbidden {
    ipv4: Ranges,
    ipv6: Ranges,
}

impl Forbidden {
    /// By the routes of this machine: its own addresses, and the networks it has a route of their own to. With an uplink, those
    /// that are reached by that are the Internet: the owner said so.
    pub(super) fn new(routes: &[FoundRoute], uplink: Option<u32>) -> Self {
        let special = NOT_THE_INTERNET_V4.iter().chain(&NOT_THE_INTERNET_V6).filter_map(|text| parse(text));
        let own = routes.iter().filter(|route| {
            let elsewhere = uplink.is_none_or(|uplink| route.interface != Some(uplink));
            route.local || route.prefix_len > DEFAULT_LEN_MAX && elsewhere
        });
        let all: Vec<(IpAddr, u8)> = special.chain(own.map(|route| (route.destination, route.prefix_len))).collect();
        let of = |ipv4: bool| {
            let ranges = all.iter().filter(|(address, _)| address.is_ipv4() == ipv4);
            Ranges::new(ranges.map(|(address, len)| range(*address, *len)).collect())
        };
        Self { ipv4: of(true), ipv6: of(false) }
    }

    /// Whether packets to there go no further.
    pub(super) fn holds(&self, to: IpAddr) -> bool {
        let ranges = if to.is_ipv4() { &self.ipv4 } else { &self.ipv6 };
        ranges.hold(number(to))
    }
}

impl Ranges {
    fn new(mut all: Vec<(u128, u128)>) -> Self {
        all.sort_unstable();
        let mut apart: Vec<(u128, u128)> = Vec::new();
        for (first, last) in all {
            match apart.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => apart.push((first, last)),
            }
        }
        Self(apart)
    }

    fn hold(&self, number: u128) -> bool {
        let at = self.0.partition_point(|(first, _)| *first <= number);
        at.checked_sub(1).and_then(|at| self.0.get(at)).is_some_and(|(_, last)| number <= *last)
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The first and the last address of a prefix.
fn range(address: IpAddr, len: u8) -> (u128, u128) {
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let hosts = u128::MAX.checked_shr(128 - bits + u32::from(len)).unwrap_or(0);
    let first = number(address) & !hosts;
    (first, first | hosts)
}

fn parse(text: &str) -> Option<(IpAddr, u8)> {
    let (address, len) = text.split_once('/')?;
    Some((address.parse().ok()?, len.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(text: &str, interface: u32, local: bool) -> FoundRoute {
        let (destination, prefix_len) = parse(text).unwrap();
        FoundRoute { destination, prefix_len, interface: Some(interface), gateway: None, local }
    }

    fn holds(forbidden: &Forbidden, text: &str) -> bool {
        forbidden.holds(text.parse().unwrap())
    }

    #[test]
    fn what_is_not_the_internet_is_closed_whatever_the_routes_say() {
        for uplink in [None, Some(2)] {
            let forbidden = Forbidden::new(&[], uplink);
            for closed in [
                "0.0.0.0",
                "10.1.2.3",
                "100.64.0.1",
                "127.0.0.1",
                "169.254.169.254",
                "172.31.0.1",
                "192.168.1.1",
                "198.19.0.1",
                "224.0.0.1",
                "255.255.255.255",
                "::",
                "::1",
                "::ffff:192.168.1.1",
                "64:ff9b::c0a8:101",
                "64:ff9b:1::c0a8:101",
                "100::1",
                "2001::1",
                "2002:c0a8:101::1",
                "4000::1",
                "fc00::1",
                "fd12::1",
                "fe80::1",
                "ff02::1",
            ] {
                assert!(holds(&forbidden, closed), "{closed}");
            }
            for open in [
                "1.1.1.1",
                "9.9.9.9",
                "172.32.0.1",
                "198.51.100.80",
                "223.255.255.255",
                "2001:4860::1",
                "2a00::1",
                "3fff:ffff::1",
            ] {
                assert!(!holds(&forbidden, open), "{open}");
            }
        }
    }

    #[test]
    fn the_owner_s_networks_are_closed_with_global_addresses_too_and_an_uplink_is_the_internet() {
        let routes = [
            route("0.0.0.0/0", 2, false),
            route("128.0.0.0/1", 2, false),
            route("2000::/3", 2, false),
            route("203.0.113.9/32", 2, true),
            route("203.0.113.0/24", 2, false),
            route("198.51.100.0/24", 3, false),
            route("2a00:1:2:3::/64", 3, false),
            route("2a00:1:2:4::/64", 2, false),
        ];
        let with = Forbidden::new(&routes, Some(2));
        let without = Forbidden::new(&routes, None);
        for own in ["203.0.113.9", "198.51.100.7", "2a00:1:2:3::80"] {
            assert!(holds(&with, own) && holds(&without, own), "{own}");
        }
        for there in ["203.0.113.10", "2a00:1:2:4::80"] {
            assert!(!holds(&with, there) && holds(&without, there), "{there}");
        }
        for far in ["9.9.9.9", "198.51.101.1", "2a00:1:2:5::1"] {
            assert!(!holds(&with, far) && !holds(&without, far), "{far}");
        }
    }

    #[test]
    fn ranges_are_joined_and_searched_at_their_ends() {
        let ranges =
            Ranges::new(vec![(5, 9), (1, 2), (10, 12), (6, 7), (u128::MAX - 1, u128::MAX), (u128::MAX, u128::MAX)]);
        assert_eq!(ranges.0, [(1, 2), (5, 12), (u128::MAX - 1, u128::MAX)]);
        let held: Vec<u128> = (0..20).filter(|number| ranges.hold(*number)).collect();
        assert_eq!(held, [1, 2, 5, 6, 7, 8, 9, 10, 11, 12]);
        assert!(ranges.hold(u128::MAX) && !ranges.hold(u128::MAX - 2));
        assert_eq!(range("10.1.2.3".parse().unwrap(), 8), (0x0a00_0000, 0x0aff_ffff));
        assert_eq!(range("::".parse().unwrap(), 0), (0, u128::MAX));
        assert_eq!(range("::5".parse().unwrap(), 128), (5, 5));
    }
}
