//! Beacons from anybody: what is read has one encoding, and whatever is heard, what is kept, told and sent is bounded.

use std::net::Ipv6Addr;
use std::time::Duration;

use node::beacon::{Beacon, Beacons, Community};

use crate::pair::{PAYER, PROVIDER, identity, start};

const US: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const ETH: u32 = 1;

/// A pause of so many tenths of a second, and then a datagram.
///
/// # Panics
/// If more comes of it than may.
pub fn beacon(bytes: &[u8]) {
    let Some((pause, datagram)) = bytes.split_first() else { return };
    let source = Beacon::decode(datagram).map_or(US, |beacon| {
        assert_eq!(beacon.encode(), datagram);
        beacon.source
    });
    let mut beacons = Beacons::new(identity(PAYER).clone(), None, (51820, None), 1, 1);
    beacons.add_interface(start(), ETH, US);
    let now = start() + Duration::from_millis(100 * u64::from(*pause));
    for _ in 0..2 {
        // The same twice is believed once.
        let _ignored = beacons.hear(now, ETH, source, datagram);
    }
    beacons.handle_timeout(now);
    assert!(std::iter::from_fn(|| beacons.poll_event()).count() <= 1);
    assert!(std::iter::from_fn(|| beacons.poll_transmit()).count() <= 2);
    assert!(beacons.senders() <= 1);
}

/// What real nodes send, to begin with.
#[must_use]
pub fn beacon_examples() -> Vec<Vec<u8>> {
    let communities = [None, Community::new(&[7; 20]), Community::new(&[9; 32])];
    let mut examples = Vec::new();
    for (community, quic) in communities.into_iter().flat_map(|community| [(community, None), (community, Some(443))]) {
        let mut sender = Beacons::new(identity(PROVIDER).clone(), community, (51820, quic), 7, 1);
        sender.add_interface(start(), ETH, US);
        examples.extend(sender.poll_transmit().map(|(_, bytes)| [&[3], &bytes[..]].concat()));
    }
    examples
}
