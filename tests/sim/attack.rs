//! Hostile bytes: what an attacker at the other end of a link may send.

use metering::link_local;
use metering::wire::PORT as SETTLEMENT_PORT;
use node::BABEL_PORT;
use node::admission::ADMISSION_PORT;
use node::datapath::packet::control_packet;

use crate::carry::{Cargo, Flight};
use crate::world::{MTU, World};

impl World {
    /// Sends one hostile packet over every wire in both directions; each of another kind, at random.
    pub fn attack(&mut self) {
        for wire in 0..self.wires.len() {
            for from in 0..2 {
                let packet = self.hostile_packet(wire, from);
                self.packets.sent += 1;
                self.send(wire, from, Flight { bytes: packet, cargo: Cargo::Noise });
            }
        }
    }

    fn hostile_packet(&mut self, wire: usize, from: usize) -> Vec<u8> {
        let [source, destination] = [from, 1 - from].map(|end| {
            let station = self.wires[wire].ends[end].station;
            link_local(&self.stations[station.0].identity.wireguard_key())
        });
        let len = self.dice.usize(0..MTU);
        let noise: Vec<u8> = std::iter::repeat_with(|| self.dice.u8(..)).take(len).collect();
        let port = [ADMISSION_PORT, BABEL_PORT, SETTLEMENT_PORT, self.dice.u16(..)][self.dice.usize(0..4)];
        match self.dice.u32(0..6) {
            // No packet at all.
            0 => noise,
            // A datagram of noise.
            1 => control_packet(source, destination, port, &noise),
            // Messages of noise that begin like those of each protocol: a Babel header with the right length, with
            // TLVs nobody knows; CBOR arrays of a known version.
            2 => control_packet(source, destination, BABEL_PORT, &babel(&noise)),
            3 => control_packet(source, destination, port, &[&[0x83, 0x01][..], &noise].concat()),
            // A datagram that ends early, and one with a byte changed on the way.
            4 => {
                let mut packet = control_packet(source, destination, port, &noise);
                packet.truncate(self.dice.usize(0..packet.len()));
                packet
            }
            _ => {
                let mut packet = control_packet(source, destination, port, &noise);
                let at = self.dice.usize(0..packet.len());
                packet[at] ^= 1 << self.dice.u32(0..8);
                packet
            }
        }
    }
}

/// A Babel packet (RFC 8966, section 4.2) whose body is noise.
fn babel(noise: &[u8]) -> Vec<u8> {
    let len = u16::try_from(noise.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&[42, 2][..], &len, noise].concat()
}
