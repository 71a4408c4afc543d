//! From where somebody calls that nobody wrote down, and how often somebody from there may: one address is to take neither the
//! places nor the time that all have together.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use metering::SortedMap;

/// The most places whose use is remembered.
const KEPT_MAX: usize = 1024;

/// Whose share somebody takes who calls from there: a household has a whole /64 of IPv6. On a wire all have the same, and each is one
/// of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Whence {
    ip: IpAddr,
    /// The interface, of an address that means something on one alone (RFC 4007).
    wire: u32,
}

impl Whence {
    pub(super) fn of(at: SocketAddr) -> Self {
        let wire = match at {
            SocketAddr::V6(at) if at.ip().is_unicast_link_local() => at.scope_id(),
            SocketAddr::V4(_) | SocketAddr::V6(_) => 0,
        };
        let ip = match at.ip().to_canonical() {
            IpAddr::V6(ip) if !ip.is_unicast_link_local() => {
                let [a, b, c, d, ..] = ip.segments();
                Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
            }
            ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
        };
        Self { ip, wire }
    }

    /// All of a wire together, as there addresses are taken as one likes; and a /48, as a customer may have one (RFC 6177).
    fn line(self) -> Self {
        match self.ip {
            IpAddr::V6(ip) => {
                let [a, b, c, ..] = ip.segments();
                Self { ip: Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0).into(), ..self }
            }
            IpAddr::V4(_) => self,
        }
    }
}

impl fmt::Display for Whence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip.fmt(f)
    }
}

/// How often something may be: once each so long, and so many at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) each: Duration,
    pub(super) burst: u32,
}

impl Rate {
    /// When it has rested, if it may be once more.
    fn take(self, rested_at: Instant, now: Instant) -> Option<Instant> {
        let rested_at = rested_at.max(now) + self.each;
        (rested_at <= now + self.each * self.burst).then_some(rested_at)
    }
}

/// What each place, and all together, have used of how often something may be.
#[derive(Debug)]
pub(super) struct Shares {
    of_one: Rate,
    of_all: Rate,
    /// When each has rested. Who has is not kept.
    rested_at: SortedMap<Whence, Instant>,
    all_rested_at: Instant,
}

impl Shares {
    pub(super) fn new(now: Instant, of_one: Rate, of_all: Rate) -> Self {
        Self { of_one, of_all, rested_at: SortedMap::new(), all_rested_at: now }
    }

    /// Whether somebody from there may once more.
    #[cfg(any(feature = "quic", test))]
    pub(super) fn has(&self, now: Instant, from: Whence) -> bool {
        self.next(now, from.line()).is_some()
    }

    /// When this one and all will have rested, if it may once more.
    fn next(&self, now: Instant, line: Whence) -> Option<[Instant; 2]> {
        let of_one = self.rested_at.get(&line).copied().unwrap_or(now);
        Some([self.of_one.take(of_one, now)?, self.of_all.take(self.all_rested_at, now)?])
    }

    /// Whether somebody from there may once more, which is counted then. What one has too much is not taken from all.
    pub(super) fn take(&mut self, now: Instant, from: Whence) -> bool {
        let line = from.line();
        let Some([of_one, of_all]) = self.next(now, line) else { return false };
        if self.rested_at.len() >= KEPT_MAX && !self.rested_at.contains_key(&line) {
            self.rested_at.retain(|_, rested_at| *rested_at > now);
            // As many as this take longer to rest than all of them may come in, unless the rates say otherwise.
            if self.rested_at.len() >= KEPT_MAX {
                return false;
            }
        }
        self.rested_at.insert(line, of_one);
        self.all_rested_at = of_all;
        true
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's clock starts now")]
mod tests {
    use super::*;

    fn of(text: &str) -> Whence {
        Whence::of(SocketAddr::new(text.parse().unwrap(), 1))
    }

    fn on_wire(host: u16, wire: u32) -> Whence {
        Whence::of(std::net::SocketAddrV6::new(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, host), 1, 0, wire).into())
    }

    #[test]
    fn a_household_s_ipv6_is_one_place_and_those_of_a_wire_are_many() {
        assert_eq!(of("2001:db8:1:2::7"), of("2001:db8:1:2:ffff::1"));
        assert_ne!(of("2001:db8:1:2::7"), of("2001:db8:1:3::7"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_ne!(on_wire(1, 3), on_wire(2, 3));
        assert_ne!(on_wire(1, 3), on_wire(1, 4));
    }

    #[test]
    fn who_comes_too_often_is_sent_away_and_takes_nothing_from_others() {
        let now = Instant::now();
        let rate = |ms, burst| Rate { each: Duration::from_millis(ms), burst };
        let mut shares = Shares::new(now, rate(2000, 4), rate(500, 8));
        let came = |shares: &mut Shares, at, from| (0..100).filter(|_| shares.take(at, from)).count();
        assert_eq!(came(&mut shares, now, of("192.0.2.1")), 4);
        assert!(!shares.has(now, of("192.0.2.1")) && shares.has(now, of("2001:db8::1")));
        assert_eq!(
            came(&mut shares, now, of("2001:db8:0:1::1")),
            4,
            "what the first had too much was not taken from all"
        );
        assert_eq!(came(&mut shares, now, of("192.0.2.3")), 0, "all together had eight");
        let later = now + Duration::from_secs(1);
        assert_eq!(came(&mut shares, later, of("2001:db8:0:2::1")), 0, "it is of the same /48");
        let later = now + Duration::from_secs(2);
        assert_eq!(came(&mut shares, later, of("192.0.2.1")), 1);
        assert_eq!(came(&mut shares, later, of("192.0.2.4")), 3);
        // Whoever has rested begins anew; and a wire is one, whatever addresses are taken there.
        let later = now + Duration::from_secs(60);
        let of_wire =
            |shares: &mut Shares, wire| (0..100).filter(|host| shares.take(later, on_wire(*host, wire))).count();
        assert_eq!([of_wire(&mut shares, 3), of_wire(&mut shares, 4)], [4, 4]);
    }

    #[test]
    fn a_crowd_of_places_does_not_fill_the_memory_and_is_forgotten() {
        let now = Instant::now();
        let rate = Rate { each: Duration::from_secs(1), burst: u32::from(u16::MAX) };
        let mut shares = Shares::new(now, rate, rate);
        let crowd = |last: u8| (0..=u8::MAX).map(move |host| of(&format!("192.0.{last}.{host}")));
        let came = (0..8).flat_map(crowd).filter(|from| shares.take(now, *from)).count();
        assert_eq!((came, shares.rested_at.len()), (KEPT_MAX, KEPT_MAX));
        assert!(shares.take(now + Duration::from_secs(1), of("198.51.100.1")));
        assert_eq!(shares.rested_at.len(), 1);
    }
}
