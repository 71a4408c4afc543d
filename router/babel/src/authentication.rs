//! What proves that an interface's packets come from its neighbours: nothing where the link itself is authenticated, as
//! in an encrypted tunnel; MACs (RFC 8967, feature `mac`) on a plain cable or radio.

use crate::views::Destination;
use std::net::Ipv6Addr;
use std::time::Instant;

#[cfg(feature = "mac")]
use crate::mac::{MacCounters, MacKeys, MacState, Nonces};

/// Of one interface.
#[derive(Debug, Default)]
pub(crate) struct Authentication {
    #[cfg(feature = "mac")]
    mac: Option<Box<MacState>>,
}

#[cfg(feature = "mac")]
impl Authentication {
    pub(crate) fn by_mac(address: Ipv6Addr, keys: MacKeys, seed: [u8; 32], neighbours_max: usize) -> Self {
        let mac = MacState::new(address, keys, Nonces::new(seed), neighbours_max);
        Self { mac: Some(Box::new(mac)) }
    }

    pub(crate) fn handle_keys(&mut self, keys: MacKeys) {
        if let Some(mac) = &mut self.mac {
            mac.handle_keys(keys);
        }
    }

    pub(crate) fn counters(&self) -> Option<MacCounters> {
        self.mac.as_ref().map(|mac| mac.counters())
    }

    /// Octets to be kept free in a packet.
    pub(crate) fn overhead(&self, to: Destination) -> usize {
        self.mac.as_ref().map_or(0, |mac| mac.overhead(to))
    }

    pub(crate) fn protect(&mut self, now: Instant, to: Destination, packet: Vec<u8>) -> Vec<u8> {
        match &mut self.mac {
            Some(mac) => mac.protect(now, to, packet),
            None => packet,
        }
    }

    /// Whether a packet may be believed.
    pub(crate) fn admits(&mut self, now: Instant, source: Ipv6Addr, to: Destination, packet: &[u8]) -> bool {
        self.mac.as_mut().is_none_or(|mac| mac.verify(now, source, to, packet).is_ok())
    }

    /// Challenges, which go before all else.
    pub(crate) fn poll_transmit(&mut self, now: Instant) -> Option<(Ipv6Addr, Vec<u8>)> {
        self.mac.as_mut()?.poll_transmit(now)
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if let Some(mac) = &mut self.mac {
            mac.handle_timeout(now);
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.mac.as_ref()?.poll_timeout()
    }

    pub(crate) fn forget(&mut self, neighbour: Ipv6Addr) {
        if let Some(mac) = &mut self.mac {
            mac.forget(neighbour);
        }
    }
}

#[cfg(not(feature = "mac"))]
#[expect(clippy::unused_self, reason = "the same calls as with MACs")]
impl Authentication {
    pub(crate) fn overhead(&self, _to: Destination) -> usize {
        0
    }

    pub(crate) fn protect(&mut self, _now: Instant, _to: Destination, packet: Vec<u8>) -> Vec<u8> {
        packet
    }

    pub(crate) fn admits(&mut self, _now: Instant, _source: Ipv6Addr, _to: Destination, _packet: &[u8]) -> bool {
        true
    }

    pub(crate) fn poll_transmit(&mut self, _now: Instant) -> Option<(Ipv6Addr, Vec<u8>)> {
        None
    }

    pub(crate) fn handle_timeout(&mut self, _now: Instant) {}

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    pub(crate) fn forget(&mut self, _neighbour: Ipv6Addr) {}
}
