//! MAC authentication (RFC 8967), with the relaxed packet counters of RFC 9467.
//!
//! Whoever has the key of a link may speak there; all others are not heard. Nothing is kept secret, and
//! the holders of a key are not kept apart. A packet is taken once: each carries a counter that only
//! grows, under an index that is drawn anew at each start; and a neighbour whose index is not known must
//! first answer a challenge, to show that it speaks in the present.

mod key;
mod neighbour;
mod nonces;
mod tlv;

#[cfg(test)]
mod captured;
#[cfg(test)]
mod tests;

pub use key::{MacAlgorithm, MacKey, MacKeyError, MacKeys, MacKeysError};
pub(crate) use nonces::Nonces;

use crate::Destination;
use crate::wire::{DecodeError, HEADER, MULTICAST_GROUP, PORT, Packet, Writer};
use neighbour::Neighbour;
use nonces::{NONCE_LEN, Nonce};
use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::time::Instant;
use subtle::ConstantTimeEq;
use thiserror::Error;
use tlv::{NONCE_LEN_MAX, PC_LEN, Preparsed, TLV_HEADER};

/// Why a packet was dropped; each is counted in [`MacCounters`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum MacRefusal {
    /// The sender misbehaved.
    #[error("not a packet: {0}")]
    Malformed(#[from] DecodeError),
    /// The sender does not authenticate.
    #[error("the packet carries no MAC")]
    WithoutMac,
    /// The sender has another key, or the packet was changed or sent to or from another address.
    #[error("the packet carries no MAC of our keys")]
    WrongMac,
    /// The sender misbehaved, with a valid key.
    #[error("the packet carries no packet counter")]
    WithoutPacketCounter,
    /// The sender is new or has restarted, or an old packet was replayed: it is challenged.
    #[error("the sender must answer a challenge first")]
    IndexUnknown,
    /// The packet was duplicated, replayed or overtaken.
    #[error("the packet counter is not higher than before")]
    Replayed,
    /// The sender is new, and there is no room for it.
    #[error("too many neighbours")]
    NeighboursFull,
}

/// Packets dropped by MAC authentication, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MacCounters {
    /// Not packets of Babel.
    pub malformed: u64,
    /// From somebody who does not authenticate.
    pub without_mac: u64,
    /// From somebody with another key, or changed on the way.
    pub wrong_mac: u64,
    /// With a valid MAC, but without a packet counter.
    pub without_packet_counter: u64,
    /// From somebody who must answer a challenge first. A few at each start of a neighbour are normal.
    pub index_unknown: u64,
    /// Duplicated, replayed or overtaken.
    pub replayed: u64,
    /// From new neighbours, for whom there was no room.
    pub neighbours_full: u64,
}

impl MacCounters {
    fn count(&mut self, refusal: MacRefusal) {
        let counter = match refusal {
            MacRefusal::Malformed(_) => &mut self.malformed,
            MacRefusal::WithoutMac => &mut self.without_mac,
            MacRefusal::WrongMac => &mut self.wrong_mac,
            MacRefusal::WithoutPacketCounter => &mut self.without_packet_counter,
            MacRefusal::IndexUnknown => &mut self.index_unknown,
            MacRefusal::Replayed => &mut self.replayed,
            MacRefusal::NeighboursFull => &mut self.neighbours_full,
        };
        *counter = counter.saturating_add(1);
    }
}

/// MAC authentication on one interface: from when it comes up until it goes down.
///
/// Every packet received goes through [`MacState::verify`] before anything else looks at it, every packet
/// to be sent through [`MacState::protect`], with [`MacState::overhead`] octets kept free for it. After
/// each of these calls, and at [`MacState::poll_timeout`], drain [`MacState::poll_transmit`], and send
/// what it gives before other packets: neighbours drop those until a challenge is answered. At
/// [`MacState::poll_timeout`] also call [`MacState::handle_timeout`].
///
/// A caller that takes packets in spite of a refusal has the mode in which authentication is introduced
/// on a running network (RFC 8967, section 5): all still goes through [`MacState::verify`], so that
/// challenges are answered.
///
/// Memory: a neighbour takes a few hundred octets and is remembered only after a valid MAC, for
/// 5 minutes after its last good packet, or for 30 s if it does not answer; there are at most
/// `neighbours_max` of them.
#[derive(Debug)]
pub(crate) struct MacState {
    /// Ours; packets leave from it.
    address: Ipv6Addr,
    keys: MacKeys,
    index: Nonce,
    /// Of the last packet under `index`.
    pc: u32,
    nonces: Nonces,
    neighbours: BTreeMap<Ipv6Addr, Neighbour>,
    neighbours_max: usize,
    counters: MacCounters,
}

impl MacState {
    /// For the interface with this link-local address. It draws a new index, so that what neighbours
    /// remember of an earlier start means nothing: they will challenge us.
    pub(crate) fn new(address: Ipv6Addr, keys: MacKeys, mut nonces: Nonces, neighbours_max: usize) -> Self {
        Self {
            address,
            keys,
            index: nonces.draw(),
            pc: 0,
            nonces,
            neighbours: BTreeMap::new(),
            neighbours_max,
            counters: MacCounters::default(),
        }
    }

    /// Other keys from here on. To change a key, give old and new on every router, then the new alone.
    pub(crate) fn handle_keys(&mut self, keys: MacKeys) {
        self.keys = keys;
    }

    /// The octets that [`MacState::protect`] may add.
    pub(crate) fn overhead(&self, to: Destination) -> usize {
        let challenges = match to {
            Destination::Multicast => 0,
            Destination::Unicast(_) => TLV_HEADER + NONCE_LEN_MAX + TLV_HEADER + NONCE_LEN,
        };
        let macs: usize = self.keys.iter().map(|key| TLV_HEADER + key.mac_len()).sum();
        challenges + TLV_HEADER + PC_LEN + NONCE_LEN + macs
    }

    /// Makes a packet ours (RFC 8967, section 4.2): a packet counter and, to a neighbour, challenges go
    /// behind its body, and a MAC of each key behind that. `packet` is header and body, as
    /// [`Writer::finish`] gives them.
    pub(crate) fn protect(&mut self, now: Instant, to: Destination, mut packet: Vec<u8>) -> Vec<u8> {
        if let Destination::Unicast(address) = to
            && let Some(neighbour) = self.neighbours.get_mut(&address)
        {
            neighbour.write_pending(now, &mut self.nonces, &mut packet);
        }
        self.write_packet_counter(&mut packet);
        fix_body_length(&mut packet);
        self.write_macs(to, &mut packet);
        packet
    }

    /// Whether a packet from `source` to `to` may be believed (RFC 8967, section 4.3). `to` is where it
    /// was really sent: the MAC covers it.
    ///
    /// # Errors
    /// [`MacRefusal`]: it must be dropped. It has been counted, and its sender may have to be challenged.
    pub(crate) fn verify(
        &mut self,
        now: Instant,
        source: Ipv6Addr,
        to: Destination,
        packet: &[u8],
    ) -> Result<(), MacRefusal> {
        let verdict = self.judge(now, source, to, packet);
        if let Err(refusal) = verdict {
            self.counters.count(refusal);
        }
        verdict
    }

    /// A packet that asks or answers a challenge, and the neighbour to send it to; until `None`.
    pub(crate) fn poll_transmit(&mut self, now: Instant) -> Option<(Ipv6Addr, Vec<u8>)> {
        let is_due = |neighbour: &Neighbour| neighbour.pending_at().is_some_and(|due| due <= now);
        let to = self.neighbours.iter().find(|(_, neighbour)| is_due(neighbour)).map(|(address, _)| *address)?;
        let empty = Writer::new(HEADER, self.address).finish();
        Some((to, self.protect(now, Destination::Unicast(to), empty)))
    }

    /// Forgets neighbours that have been silent for long. Harmless to call early.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.neighbours.retain(|_, neighbour| {
            neighbour.expire(now);
            neighbour.is_needed()
        });
    }

    /// When to call [`MacState::handle_timeout`] and [`MacState::poll_transmit`] next.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let due = |neighbour: &Neighbour| [neighbour.pending_at(), neighbour.expires_at()];
        self.neighbours.values().flat_map(due).flatten().min()
    }

    /// The neighbour is gone; should it come back, it is challenged.
    pub(crate) fn forget(&mut self, neighbour: Ipv6Addr) {
        self.neighbours.remove(&neighbour);
    }

    /// Packets dropped.
    pub(crate) fn counters(&self) -> MacCounters {
        self.counters
    }

    fn judge(&mut self, now: Instant, source: Ipv6Addr, to: Destination, packet: &[u8]) -> Result<(), MacRefusal> {
        let body = Packet::parse(packet)?.body();
        let (signed, trailer) = packet.split_at(HEADER + body.len());
        self.check_mac(source, to, signed, trailer)?;
        let found = Preparsed::read(body, to);
        // A challenge beside no counter stays without an answer: nobody who follows the RFC sends it.
        let stamp = found.stamp.ok_or(MacRefusal::WithoutPacketCounter)?;
        let neighbour = self.neighbour(now, source).ok_or(MacRefusal::NeighboursFull)?;
        neighbour.judge(now, to, stamp, found)
    }

    /// One valid MAC is enough. Each key's is made once, however many the packet carries.
    fn check_mac(&self, source: Ipv6Addr, to: Destination, signed: &[u8], trailer: &[u8]) -> Result<(), MacRefusal> {
        let told = || tlv::tlvs(trailer).filter(|(kind, _)| *kind == tlv::MAC).map(|(_, mac)| mac);
        if told().next().is_none() {
            return Err(MacRefusal::WithoutMac);
        }
        let pseudo_header = pseudo_header(source, to);
        let is_valid = |key: &MacKey| {
            let mac = key.mac(&pseudo_header, signed);
            // MACs of different lengths are different.
            told().any(|told| bool::from(told.ct_eq(&mac)))
        };
        self.keys.iter().any(is_valid).then_some(()).ok_or(MacRefusal::WrongMac)
    }

    /// To be called only after the MAC was found valid: an entry may be made here.
    fn neighbour(&mut self, now: Instant, source: Ipv6Addr) -> Option<&mut Neighbour> {
        if !self.neighbours.contains_key(&source) && self.neighbours.len() >= self.neighbours_max {
            self.handle_timeout(now);
            if self.neighbours.len() >= self.neighbours_max {
                return None;
            }
        }
        Some(self.neighbours.entry(source).or_default())
    }

    /// At the counter's end begins a new index, for which neighbours will challenge us once.
    fn write_packet_counter(&mut self, packet: &mut Vec<u8>) {
        self.pc = self.pc.checked_add(1).unwrap_or_else(|| {
            self.index = self.nonces.draw();
            1
        });
        let stamp = [&self.pc.to_be_bytes()[..], &self.index].concat();
        tlv::write(packet, tlv::PACKET_COUNTER, &stamp);
    }

    fn write_macs(&self, to: Destination, packet: &mut Vec<u8>) {
        let pseudo_header = pseudo_header(self.address, to);
        let signed_len = packet.len();
        for key in self.keys.iter() {
            let mac = key.mac(&pseudo_header, &packet[..signed_len]);
            tlv::write(packet, tlv::MAC, &mac);
        }
    }
}

/// The addresses and ports that are signed with a packet but not sent (RFC 8967, section 4.1).
fn pseudo_header(source: Ipv6Addr, to: Destination) -> Vec<u8> {
    let to = match to {
        Destination::Multicast => MULTICAST_GROUP,
        Destination::Unicast(to) => to,
    };
    [&source.octets()[..], &PORT.to_be_bytes(), &to.octets(), &PORT.to_be_bytes()].concat()
}

/// Saturates as [`Writer::finish`] does; a body comes there only if the overhead was not kept free.
fn fix_body_length(packet: &mut [u8]) {
    let body = u16::try_from(packet.len().saturating_sub(HEADER)).unwrap_or(u16::MAX);
    if let Some(length) = packet.get_mut(2..HEADER) {
        length.copy_from_slice(&body.to_be_bytes());
    }
}
