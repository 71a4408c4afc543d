//! Who asks more than its share waits: token buckets, one for each address and one for each account.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use tokio::time::Instant;

/// The most keys whose use is remembered. What nobody has used for a while is forgotten first.
const MAX_KEYS: usize = 16 * 1024;

/// How much may be asked at once, and how soon again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// So many a second, for ever.
    pub per_second: u32,
    /// So many at once.
    pub burst: u32,
}

/// What each key has used of its share.
#[derive(Debug)]
pub(super) struct Limits<K> {
    /// How soon there is one more.
    each: Duration,
    burst: u32,
    /// When each key's bucket is full again, as if nothing came meanwhile.
    full_at: BTreeMap<K, Instant>,
}

impl<K: Ord + Copy> Limits<K> {
    pub(super) fn new(rate: Rate) -> Self {
        let each = Duration::from_secs(1) / rate.per_second.max(1);
        Self { each, burst: rate.burst, full_at: BTreeMap::new() }
    }

    /// So many a day, and as many at once.
    pub(super) fn daily(count: u32) -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self { each: DAY / count.max(1), burst: count, full_at: BTreeMap::new() }
    }

    fn span(&self, count: u32) -> Duration {
        self.each.saturating_mul(count)
    }

    /// How long until there is something in a key's bucket, where there is nothing.
    pub(super) fn wait(&self, key: K, now: Instant) -> Option<Duration> {
        let full_at = self.full_at.get(&key).copied().unwrap_or(now).max(now) + self.span(1);
        let over = full_at.saturating_duration_since(now).saturating_sub(self.span(self.burst));
        (!over.is_zero()).then_some(over)
    }

    /// Takes `cost` out of a key's bucket, or says how long until there is as much.
    pub(super) fn take(&mut self, key: K, cost: u32, now: Instant) -> Result<(), Duration> {
        let full_at = self.full_at.get(&key).copied().unwrap_or(now).max(now) + self.span(cost);
        let over = full_at.saturating_duration_since(now).saturating_sub(self.span(self.burst));
        if !over.is_zero() {
            return Err(over);
        }
        if self.full_at.len() >= MAX_KEYS && !self.full_at.contains_key(&key) {
            self.full_at.retain(|_, full_at| *full_at > now);
            // All are in use: those who used least are forgotten, which gives them no more than a new key would have. Many at
            // once, so that a crowd does not have all of them looked at for each question.
            if self.full_at.len() >= MAX_KEYS {
                let mut times: Vec<Instant> = self.full_at.values().copied().collect();
                times.sort_unstable();
                if let Some(middle) = times.get(times.len() / 2).copied() {
                    self.full_at.retain(|_, full_at| *full_at > middle);
                }
            }
        }
        self.full_at.insert(key, full_at);
        Ok(())
    }
}

/// An address as far as one owner has it: an IPv6 subscriber has a /64, and often more.
pub(super) fn owner(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None if v6.is_loopback() => address,
            None => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_of_keys_is_forgotten_many_at_once_and_those_who_used_most_are_not() {
        let start = Instant::now();
        let mut limits = Limits::new(Rate { per_second: 1, burst: 1000 });
        for key in 0..MAX_KEYS {
            let cost = u32::from(key % 2 == 0) + 1;
            assert_eq!(limits.take(key, cost, start), Ok(()));
        }
        assert_eq!(limits.take(MAX_KEYS, 1, start), Ok(()));
        assert!(limits.full_at.len() < MAX_KEYS / 2 + 2, "{}", limits.full_at.len());
        assert!(limits.full_at.values().all(|full_at| *full_at > start));
    }

    #[test]
    fn burst_then_rate_and_each_key_its_own() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut limits = Limits::new(Rate { per_second: 10, burst: 3 });
        for _ in 0..3 {
            assert_eq!(limits.take('a', 1, at(0)), Ok(()));
        }
        assert_eq!(limits.take('a', 1, at(0)), Err(Duration::from_millis(100)));
        assert_eq!(limits.take('b', 1, at(0)), Ok(()));
        assert_eq!(limits.take('a', 1, at(100)), Ok(()));
        assert_eq!(limits.take('a', 1, at(150)), Err(Duration::from_millis(50)));
        assert_eq!(limits.wait('a', at(150)), Some(Duration::from_millis(50)));
        assert_eq!((limits.wait('a', at(200)), limits.wait('z', at(0))), (None, None));
        // Rested, it has its burst again and not more.
        assert_eq!(limits.take('a', 3, at(10_000)), Ok(()));
        assert!(limits.take('a', 1, at(10_000)).is_err());
        // More than a burst is never to be had.
        assert!(limits.take('c', 4, at(0)).is_err());
    }

    #[test]
    fn strangers_cannot_fill_the_memory() {
        let now = Instant::now();
        let mut limits = Limits::new(Rate { per_second: 1, burst: 1 });
        for key in 0..MAX_KEYS + 100 {
            assert_eq!(limits.take(key, 1, now), Ok(()));
        }
        assert!(limits.full_at.len() <= MAX_KEYS);
    }

    #[test]
    fn a_subscriber_of_ipv6_is_one_owner() {
        let one = owner("2001:db8:1:2::1".parse().unwrap());
        assert_eq!(one, owner("2001:db8:1:2:ffff::1".parse().unwrap()));
        assert_ne!(one, owner("2001:db8:1:3::1".parse().unwrap()));
        assert_eq!(owner("::ffff:192.0.2.1".parse().unwrap()), "192.0.2.1".parse::<IpAddr>().unwrap());
    }
}
