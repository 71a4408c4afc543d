//! Which IPv4 address a client has inside its session.
//!
//! It follows from a hash of the client's key, so that it is the same at every gateway with the same pool, and after a
//! restart. Where two clients meet at one address, whoever came later has the next free one. One that was given back rests for a
//! while before anybody else has it.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::time::{Duration, Instant};

use metering::{NodeId, WireguardKey};
use sha2::{Digest, Sha256};

/// The IPv4 addresses a gateway gives. The first host is the gateway's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    network: u32,
    len: u8,
}

impl FromStr for Pool {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, len) = text.split_once('/').ok_or("this has no length, such as /10")?;
        let address: Ipv4Addr = address.parse().map_err(|_| "this is no IPv4 prefix")?;
        let len: u8 = len.parse().map_err(|_| "this is no IPv4 prefix")?;
        if !(8..=24).contains(&len) {
            return Err("a pool's length is 8 to 24");
        }
        let network = u32::from(address);
        if network & Self::host_mask(len) != 0 {
            return Err("this has bits beyond its length");
        }
        let private = address.is_private() || (address.octets()[0] == 100 && address.octets()[1] & 0xc0 == 64);
        if private { Ok(Self { network, len }) } else { Err("this is not a private range") }
    }
}

impl Pool {
    fn host_mask(len: u8) -> u32 {
        u32::MAX >> len
    }

    /// Its first address, which is nobody's.
    #[must_use]
    pub fn network(self) -> Ipv4Addr {
        self.network.into()
    }

    /// How many bits all its addresses share.
    #[must_use]
    pub fn prefix_len(self) -> u8 {
        self.len
    }

    /// The gateway's own address.
    #[must_use]
    pub fn gateway(self) -> Ipv4Addr {
        (self.network + 1).into()
    }

    /// Addresses that can be given: without the network's, the gateway's and the last.
    fn hosts(self) -> u32 {
        Self::host_mask(self.len) - 2
    }

    /// Where a key's address is looked for: first and next and so on, until all have been seen.
    fn places(self, key: &WireguardKey) -> impl Iterator<Item = Ipv4Addr> {
        let hash = Sha256::new().chain_update(b"waybill lease v1").chain_update(key.0).finalize();
        let first = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]) % self.hosts();
        let host = move |attempt: u32| (u64::from(first) + u64::from(attempt)) % u64::from(self.hosts());
        (0..self.hosts()).map(move |attempt| (self.network + 2 + host(attempt) as u32).into())
    }
}

/// Addresses that rest at most: beyond them, the one that rested longest is as if nobody had had it.
const RESTING_MAX: usize = 65_536;
/// Which part of a pool may rest for one account, so that nobody who comes again and again with other keys takes all of it from
/// others, and how many at least.
const OF_ONE_PART: u32 = 32;
const OF_ONE_LEAST: u32 = 4;

/// Who has which address, and who had it: what was begun from an address may get answers for as long as the kernel remembers,
/// and those are not for whoever has it next. Its old owner may have it again at once.
#[derive(Clone, Debug)]
pub(super) struct Leases {
    pool: Pool,
    /// How long an address rests.
    rest: Duration,
    by_address: BTreeMap<Ipv4Addr, Holder>,
    resting: VecDeque<(Instant, Ipv4Addr)>,
}

#[derive(Clone, Debug)]
struct Holder {
    key: WireguardKey,
    /// The account it was given back for.
    account: Option<NodeId>,
    /// It is not given back.
    held: bool,
    /// When it was given back last, after something was begun from it.
    used: Option<Instant>,
}

impl Leases {
    pub(super) fn new(pool: Pool, rest: Duration) -> Self {
        Self { pool, rest, by_address: BTreeMap::new(), resting: VecDeque::new() }
    }

    /// For a gateway that begins anew: those of its addresses that it has in this pool, too, are as they were.
    pub(super) fn again(mut self, pool: Pool, rest: Duration) -> Self {
        let has = |address: &Ipv4Addr| u32::from(*address) & !Pool::host_mask(pool.len) == pool.network;
        let is_given = |address: &Ipv4Addr| has(address) && ![pool.network(), pool.gateway()].contains(address);
        self.by_address.retain(|address, _| is_given(address));
        self.resting.retain(|(_, address)| is_given(address));
        Self { pool, rest, ..self }
    }

    /// The address of a client; the same until it is given back. `None` when all are taken, or rest.
    pub(super) fn lease(&mut self, now: Instant, key: &WireguardKey) -> Option<Ipv4Addr> {
        let rested = |since: Instant| now.saturating_duration_since(since) >= self.rest;
        let is_free = |place: &Ipv4Addr| {
            let others = |holder: &Holder| !holder.held && holder.used.is_none_or(rested);
            self.by_address.get(place).is_none_or(|holder| holder.key == *key || others(holder))
        };
        let address = self.pool.places(key).take(self.by_address.len() + 1).find(is_free)?;
        let used = self.by_address.get(&address).filter(|holder| holder.key == *key).and_then(|holder| holder.used);
        self.by_address.insert(address, Holder { key: *key, account: None, held: true, used });
        Some(address)
    }

    /// Gives an address back. One that nothing was begun from since it was given does not rest for that. Where more rest for
    /// this account than may, the one that rested longest is as if nobody had had it: the late answers are its own.
    pub(super) fn release(&mut self, now: Instant, address: Ipv4Addr, used: bool, account: Option<NodeId>) {
        let Some(holder) = self.by_address.get_mut(&address) else { return };
        (holder.held, holder.account) = (false, account);
        holder.used = if used { Some(now) } else { holder.used };
        let Some(since) = holder.used else {
            self.by_address.remove(&address);
            return;
        };
        self.resting.push_back((since, address));
        let most = (self.pool.hosts() / OF_ONE_PART).max(OF_ONE_LEAST) as usize;
        if account.is_some() && self.resting.len() > most {
            let its = self.by_address.iter().filter(|(_, holder)| !holder.held && holder.account == account);
            let oldest = its.clone().min_by_key(|(_, holder)| holder.used).map(|(address, _)| *address);
            if let Some(oldest) = oldest.filter(|_| its.count() > most) {
                self.by_address.remove(&oldest);
            }
        }
        while self.resting.len() > RESTING_MAX {
            // One that was taken again meanwhile is no longer the one that rested.
            let Some((since, first)) = self.resting.pop_front() else { break };
            if self.by_address.get(&first).is_some_and(|holder| !holder.held && holder.used == Some(since)) {
                self.by_address.remove(&first);
            }
        }
    }

    /// How long an address rests.
    pub(super) const fn rest(&self) -> Duration {
        self.rest
    }

    /// How many rest.
    #[cfg(test)]
    pub(super) fn resting(&self) -> usize {
        self.by_address.values().filter(|holder| !holder.held).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::carry::clock;

    const REST: Duration = Duration::from_secs(7200);

    fn leases(text: &str) -> Leases {
        Leases::new(pool(text), REST)
    }

    fn pool(text: &str) -> Pool {
        text.parse().unwrap()
    }

    fn key(number: u16) -> WireguardKey {
        let mut key = [7; 32];
        key[..2].copy_from_slice(&number.to_be_bytes());
        WireguardKey(key)
    }

    #[test]
    fn a_client_has_the_same_address_at_every_gateway_and_after_a_restart() {
        let now = clock();
        let (mut one, mut other) = (leases("100.64.0.0/10"), leases("100.64.0.0/10"));
        for number in 0..256 {
            let address = one.lease(now, &key(number)).unwrap();
            assert_eq!(one.lease(now, &key(number)), Some(address), "asked again");
            assert_eq!(other.lease(now, &key(number)), Some(address));
            assert_eq!(u32::from(address) >> 22, u32::from(Ipv4Addr::new(100, 64, 0, 0)) >> 22);
        }
        let address = one.lease(now, &key(3)).unwrap();
        one.release(now, address, true, None);
        assert_eq!(one.lease(now, &key(3)), Some(address));
    }

    #[test]
    fn every_address_is_given_once_and_then_there_are_none() {
        let now = clock();
        let mut leases = leases("10.9.8.0/24");
        let given: std::collections::BTreeSet<Ipv4Addr> =
            (0..253).map(|number| leases.lease(now, &key(number)).unwrap()).collect();
        assert_eq!(given.len(), 253);
        assert_eq!(leases.lease(now, &key(1000)), None);
        for never in ["10.9.8.0", "10.9.8.1", "10.9.8.255"] {
            assert!(!given.contains(&never.parse().unwrap()), "{never}");
        }
        leases.release(now, "10.9.8.77".parse().unwrap(), true, None);
        assert_eq!(leases.lease(now, &key(1000)), None, "it rests");
        assert_eq!(leases.lease(now + REST, &key(1000)), Some("10.9.8.77".parse().unwrap()));
    }

    #[test]
    fn what_was_given_back_is_its_old_owner_s_at_once_and_others_after_a_rest() {
        let (mut leases, now) = (leases("10.9.8.0/24"), clock());
        let owners: Vec<u16> = (0..253).collect();
        let given: Vec<Ipv4Addr> = owners.iter().map(|number| leases.lease(now, &key(*number)).unwrap()).collect();
        leases.release(now, given[9], true, None);
        assert_eq!(leases.lease(now, &key(9)), Some(given[9]));
        assert_eq!(leases.lease(now + REST, &key(1000)), None, "it is taken again");
        leases.release(now + REST, given[9], true, None);
        assert_eq!(leases.lease(now + REST + REST / 2, &key(1000)), None);
        assert_eq!(leases.lease(now + REST + REST, &key(1000)), Some(given[9]));
        assert_eq!(leases.lease(now + REST + REST, &key(9)), None);
    }

    #[test]
    fn what_nothing_was_begun_from_does_not_rest_unless_it_rested_before() {
        let (mut leases, now) = (leases("10.9.8.0/24"), clock());
        let given: Vec<Ipv4Addr> = (0..253).map(|number| leases.lease(now, &key(number)).unwrap()).collect();
        leases.release(now, given[9], false, None);
        assert_eq!(leases.lease(now, &key(1000)), Some(given[9]), "at once");
        leases.release(now, given[8], true, None);
        assert_eq!(leases.lease(now, &key(8)), Some(given[8]));
        leases.release(now + REST / 2, given[8], false, None);
        assert_eq!(leases.lease(now + REST / 2, &key(1001)), None, "what was begun from it before is not forgotten");
        assert_eq!(leases.lease(now + REST, &key(1001)), Some(given[8]));
    }

    #[test]
    fn a_gateway_that_begins_anew_knows_which_addresses_rest() {
        let (mut leases, now) = (leases("10.9.0.0/16"), clock());
        let address = leases.lease(now, &key(1)).unwrap();
        leases.release(now, address, true, None);
        let [a, b, c, _] = address.octets();
        let within: Pool = pool(&format!("{a}.{b}.{c}.0/24"));
        let mut again = leases.again(within, REST);
        assert_eq!(again.resting(), 1);
        let given: Vec<Ipv4Addr> = (2..=300).filter_map(|number| again.lease(now, &key(number))).collect();
        assert_eq!((given.len(), given.contains(&address)), (252, false), "it rests still");
        assert_eq!(again.lease(now, &key(1)), Some(address), "but for its owner");
        assert_eq!(again.again(pool("10.8.0.0/16"), REST).resting(), 0, "others are nobody's");
    }

    #[test]
    fn what_rests_is_bounded() {
        let (mut leases, now) = (leases("100.64.0.0/10"), clock());
        for number in 0..RESTING_MAX as u32 + 500 {
            let mut owner = [1; 32];
            owner[..4].copy_from_slice(&number.to_be_bytes());
            let address = leases.lease(now, &WireguardKey(owner)).unwrap();
            leases.release(now, address, true, None);
        }
        assert!(leases.resting.len() <= RESTING_MAX && leases.by_address.len() <= RESTING_MAX);
    }

    #[test]
    fn a_pool_is_a_private_prefix() {
        assert_eq!(pool("100.64.0.0/10").gateway(), Ipv4Addr::new(100, 64, 0, 1));
        for wrong in ["", "100.64.0.0", "100.64.0.0/33", "100.64.0.1/10", "8.0.0.0/8", "fd00::/8", "10.0.0.0/25", "/8"]
        {
            assert!(wrong.parse::<Pool>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn one_account_s_resting_addresses_are_a_small_part_of_a_pool() {
        let (mut leases, start) = (leases("10.9.8.0/24"), clock());
        let [mine, others] =
            [1, 2].map(|seed| metering::Identity::new(&metering::Seed::from_bytes([seed; 32])).node_id());
        let other = leases.lease(start, &key(9999)).unwrap();
        leases.release(start, other, true, Some(others));
        let mut given = Vec::new();
        for number in 0..600_u16 {
            let now = start + Duration::from_secs(number.into());
            let address = leases.lease(now, &key(number)).unwrap();
            leases.release(now, address, true, Some(mine));
            given.push(address);
            assert!(leases.resting() <= 1 + 7, "{number}");
        }
        let now = start + Duration::from_secs(600);
        let free: Vec<Ipv4Addr> = (1000..1300).filter_map(|number| leases.lease(now, &key(number))).collect();
        assert_eq!(free.len(), 253 - 8, "all others are free");
        assert!(given[593..].iter().all(|address| !free.contains(address)), "the last rest");
        assert_eq!(leases.lease(now, &key(9999)), Some(other), "nobody else loses one for it");
    }
}
