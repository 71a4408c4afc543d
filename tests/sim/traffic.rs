//! What hosts send: numbered UDP packets in IPv6, and what became of them.

use std::net::Ipv6Addr;
use std::time::Duration;

use node::DropReason;
use node::datapath::packet::{IPV6_HEADER_LEN, UDP_HEADER_LEN, control_packet};

use crate::StationId;

/// Hop limit of what hosts send (the default of common systems).
const HOP_LIMIT: u8 = 64;
/// UDP port of simulated hosts.
const PORT: u16 = 4000;
/// ICMPv6 (RFC 8200's next header 58).
const ICMPV6: u8 = 58;
/// The flow's number and the packet's number at the start of each payload.
const NUMBERS_LEN: usize = 12;
/// The shortest packet a host sends.
const LEN_MIN: usize = IPV6_HEADER_LEN + UDP_HEADER_LEN + NUMBERS_LEN;

/// A host that keeps sending to another.
#[derive(Debug, Clone, Copy)]
pub struct Flow {
    /// Behind which station it is.
    pub from: StationId,
    /// Behind which station the other is.
    pub to: StationId,
    /// To an address of the Internet, which the other announces a default route to; else to its mesh address.
    pub internet: bool,
    /// Time between bursts.
    pub every: Duration,
    /// Packets in a burst.
    pub burst: u32,
    /// Length of a packet with its headers, bytes.
    pub len: usize,
}

/// A flow and its packets.
#[derive(Debug)]
pub(crate) struct Conversation {
    pub(crate) flow: Flow,
    pub(crate) source: Ipv6Addr,
    pub(crate) destination: Ipv6Addr,
    pub(crate) stopped: bool,
    /// By number of packet.
    delivered: Vec<bool>,
}

impl Conversation {
    pub(crate) fn new(flow: Flow, source: Ipv6Addr, destination: Ipv6Addr) -> Self {
        Self { flow, source, destination, stopped: false, delivered: Vec::new() }
    }

    /// The next packet.
    pub(crate) fn packet(&mut self, flow: u32) -> Vec<u8> {
        let number = self.delivered.len() as u64;
        self.delivered.push(false);
        let payload = payload(flow, number, self.flow.len.max(LEN_MIN) - IPV6_HEADER_LEN - UDP_HEADER_LEN);
        let mut packet = control_packet(self.source, self.destination, PORT, &payload);
        // The hop limit is in no checksum.
        packet[7] = HOP_LIMIT;
        packet
    }

    pub(crate) fn sent(&self) -> usize {
        self.delivered.len()
    }

    pub(crate) fn delivered(&self) -> usize {
        self.delivered.iter().filter(|delivered| **delivered).count()
    }

    /// Marks a packet as delivered; what is wrong with it, otherwise.
    fn deliver(&mut self, flow: u32, number: u64, body: &[u8]) -> Result<(), String> {
        let index = usize::try_from(number).map_err(|_| format!("packet {number} was never sent"))?;
        let delivered = self.delivered.get_mut(index).ok_or(format!("packet {number} was never sent"))?;
        if std::mem::replace(delivered, true) {
            return Err(format!("packet {number} was delivered twice"));
        }
        if payload(flow, number, body.len()) != body {
            return Err(format!("packet {number} was altered"));
        }
        Ok(())
    }
}

fn payload(flow: u32, number: u64, len: usize) -> Vec<u8> {
    let numbers = flow.to_be_bytes().into_iter().chain(number.to_be_bytes());
    numbers.chain((0_u8..=250).cycle().skip((number % 251) as usize)).take(len).collect()
}

/// What a packet that came out is.
pub(crate) enum Kind {
    /// An ICMPv6 error about one of ours.
    Error,
    /// A packet of a flow.
    Expected,
    /// A packet of a flow that came out elsewhere.
    Strayed,
    /// Neither, and why.
    Wrong(String),
}

/// Reads a packet that came out at a station and marks it as delivered.
pub(crate) fn receive(conversations: &mut [Conversation], at: StationId, packet: &[u8]) -> Kind {
    if packet[6] == ICMPV6 {
        return Kind::Error;
    }
    let body = &packet[(IPV6_HEADER_LEN + UDP_HEADER_LEN).min(packet.len())..];
    let (Some(flow), Some(number)) = (body.first_chunk(), body.get(4..).and_then(<[u8]>::first_chunk)) else {
        return Kind::Wrong("a packet of no flow".to_owned());
    };
    let (flow, number) = (u32::from_be_bytes(*flow), u64::from_be_bytes(*number));
    let Some(conversation) = conversations.get_mut(flow as usize) else {
        return Kind::Wrong(format!("flow {flow} does not exist"));
    };
    match conversation.deliver(flow, number, body) {
        Ok(()) if at != conversation.flow.to => Kind::Strayed,
        Ok(()) => Kind::Expected,
        Err(wrong) => Kind::Wrong(format!("flow {flow}: {wrong}")),
    }
}

/// Every data packet of a world, by what became of it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Packets {
    /// By hosts, or by whoever attacks.
    pub(crate) sent: u64,
    /// ICMPv6 errors that nodes made.
    pub(crate) answers: u64,
    /// To the host it was for.
    pub(crate) delivered: u64,
    /// ICMPv6 errors that came to the host they were for.
    pub(crate) errors: u64,
    /// For a station nobody knew a way to, and taken by the gateway, whose default route contains everybody.
    pub(crate) strayed: u64,
    /// What an attacker sent and a control core or a host took.
    pub(crate) consumed: u64,
    /// By a datapath, for a reason.
    pub(crate) dropped: [u64; DropReason::ALL.len()],
    /// By a wire, or at a station without power.
    pub(crate) lost: u64,
    /// On a wire.
    pub(crate) in_flight: u64,
    /// Handed from one station to the next.
    pub(crate) hops: u64,
    /// Packets that came to a station a second time: the route changed while they were on it.
    pub(crate) returned: u64,
}

impl Packets {
    /// Whether every packet there ever was is somewhere.
    pub(crate) fn conserved(&self) -> bool {
        let dropped: u64 = self.dropped.iter().sum();
        let ended = self.delivered + self.errors + self.strayed + self.consumed + dropped + self.lost;
        self.sent + self.answers == ended + self.in_flight
    }

    pub(crate) fn dropped_for(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }
}
