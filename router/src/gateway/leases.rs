//! Which IPv4 address a client has inside its session.
//!
//! It follows from a hash of the client's key, so that it is the same at every gateway with the same pool, and after a
//! restart. Where two clients meet at one address, whoever came later has the next free one.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::str::FromStr;

use metering::WireguardKey;
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

    /// Where a key's address is looked for first, and where next.
    fn place(self, key: &WireguardKey, attempt: u32) -> Ipv4Addr {
        let hash = Sha256::new().chain_update(b"waybill lease v1").chain_update(key.0).finalize();
        let first = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]) % self.hosts();
        let host = (u64::from(first) + u64::from(attempt)) % u64::from(self.hosts());
        (self.network + 2 + host as u32).into()
    }
}

/// Who has which address.
#[derive(Debug)]
pub(super) struct Leases {
    pool: Pool,
    by_address: BTreeMap<Ipv4Addr, WireguardKey>,
}

impl Leases {
    pub(super) fn new(pool: Pool) -> Self {
        Self { pool, by_address: BTreeMap::new() }
    }

    /// The address of a client; the same until it is given back. `None` when all are taken.
    pub(super) fn lease(&mut self, key: &WireguardKey) -> Option<Ipv4Addr> {
        let taken = u32::try_from(self.by_address.len()).unwrap_or(u32::MAX);
        let attempts = 0..=taken.min(self.pool.hosts() - 1);
        let mut places = attempts.map(|attempt| self.pool.place(key, attempt));
        let address = places.find(|place| self.by_address.get(place).is_none_or(|owner| owner == key))?;
        self.by_address.insert(address, *key);
        Some(address)
    }

    /// Gives an address back.
    pub(super) fn release(&mut self, address: Ipv4Addr) {
        self.by_address.remove(&address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let (mut one, mut other) = (Leases::new(pool("100.64.0.0/10")), Leases::new(pool("100.64.0.0/10")));
        for number in 0..256 {
            let address = one.lease(&key(number)).unwrap();
            assert_eq!(one.lease(&key(number)), Some(address), "asked again");
            assert_eq!(other.lease(&key(number)), Some(address));
            assert_eq!(u32::from(address) >> 22, u32::from(Ipv4Addr::new(100, 64, 0, 0)) >> 22);
        }
        let address = one.lease(&key(3)).unwrap();
        one.release(address);
        assert_eq!(one.lease(&key(3)), Some(address));
    }

    #[test]
    fn every_address_is_given_once_and_then_there_are_none() {
        let mut leases = Leases::new(pool("10.9.8.0/24"));
        let given: std::collections::BTreeSet<Ipv4Addr> =
            (0..253).map(|number| leases.lease(&key(number)).unwrap()).collect();
        assert_eq!(given.len(), 253);
        assert_eq!(leases.lease(&key(1000)), None);
        for never in ["10.9.8.0", "10.9.8.1", "10.9.8.255"] {
            assert!(!given.contains(&never.parse().unwrap()), "{never}");
        }
        leases.release("10.9.8.77".parse().unwrap());
        assert_eq!(leases.lease(&key(1000)), Some("10.9.8.77".parse().unwrap()));
    }

    #[test]
    fn a_pool_is_a_private_prefix() {
        assert_eq!(pool("100.64.0.0/10").gateway(), Ipv4Addr::new(100, 64, 0, 1));
        for wrong in ["", "100.64.0.0", "100.64.0.0/33", "100.64.0.1/10", "8.0.0.0/8", "fd00::/8", "10.0.0.0/25", "/8"]
        {
            assert!(wrong.parse::<Pool>().is_err(), "{wrong}");
        }
    }
}
