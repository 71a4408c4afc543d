//! Next hops of the destinations seen last, so that a flow is looked up once and not with each packet.

use std::net::Ipv6Addr;

use super::fib::{Fib, NextHop};

/// A power of two: flows through a village's gateway at one moment. 8 KiB.
const PLACES: usize = 256;

/// What one worker remembers of one snapshot. Of two destinations with the same place, the later one stays: that costs a
/// lookup, whoever chose the addresses.
#[derive(Debug)]
pub(super) struct Destinations(Box<[Option<(Ipv6Addr, NextHop)>]>);

impl Default for Destinations {
    fn default() -> Self {
        Self(vec![None; PLACES].into_boxed_slice())
    }
}

impl Destinations {
    /// To be called whenever the snapshot is another one.
    pub(super) fn forget(&mut self) {
        self.0.fill(None);
    }

    /// [`Fib::lookup`] of the same snapshot as before.
    pub(super) fn lookup(&mut self, fib: &Fib, address: Ipv6Addr) -> Option<NextHop> {
        let place = self.0.get_mut(place(address))?;
        if let Some((known, next_hop)) = place
            && *known == address
        {
            return Some(*next_hop);
        }
        let next_hop = fib.lookup(address)?;
        *place = Some((address, next_hop));
        Some(next_hop)
    }
}

/// The upper half of an address tells communities and nodes apart, the lower one hosts.
fn place(address: Ipv6Addr) -> usize {
    let bits = address.to_bits();
    let mixed = ((bits >> 64) as u64 ^ bits as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as usize % PLACES
}

#[cfg(test)]
mod tests {
    use super::super::LinkId;
    use super::super::fib::FibBuilder;
    use super::*;
    use babel::Prefix;

    #[test]
    fn says_what_the_table_says_also_after_it_has_changed() {
        let mut rng = fastrand::Rng::with_seed(2);
        let mut destinations = Destinations::default();
        for round in 0..10 {
            let prefix = |n: u32| Prefix::new(Ipv6Addr::from_bits(0xfd << 120 | u128::from(n) << 80), 48).unwrap();
            let fib = (0..600).fold(FibBuilder::default(), |fib, n| fib.route(prefix(n), LinkId(n * 7 % (5 + round))));
            let fib = fib.build(Vec::new());
            destinations.forget();
            for _ in 0..5_000 {
                let address =
                    Ipv6Addr::from_bits(0xfd << 120 | u128::from(rng.u32(0..700)) << 80 | u128::from(rng.u8(..)));
                assert_eq!(destinations.lookup(&fib, address), fib.lookup(address), "{address}");
            }
        }
    }
}
