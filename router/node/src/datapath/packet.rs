//! IPv6 headers: what the datapath reads of a packet, and the control packets the control core builds. Of IPv4, which leaves
//! have with the own side alone, no more than it takes to pass it on.

use std::net::{Ipv4Addr, Ipv6Addr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpProtocol, Ipv6Packet, Ipv6Repr, UdpPacket, UdpRepr};

use super::checksum::Sum;
use crate::drop::DropReason;

/// Length of the IPv6 header, without extension headers (RFC 8200, section 3).
pub const IPV6_HEADER_LEN: usize = 40;
/// Length of the UDP header (RFC 768).
pub const UDP_HEADER_LEN: usize = 8;
/// Length of the TCP header, without options (RFC 9293, section 3.1).
pub(super) const TCP_HEADER_LEN: usize = 20;
/// Where its flags stand.
pub(super) const TCP_FLAGS: usize = 13;
pub(super) const FIN: u8 = 0x01;
pub(super) const SYN: u8 = 0x02;
pub(super) const PSH: u8 = 0x08;
pub(super) const ACK: u8 = 0x10;
pub(super) const CWR: u8 = 0x80;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// Hop limit of control packets: they never leave the link (RFC 8966, section 4, asks only for link-local scope).
const CONTROL_HOP_LIMIT: u8 = 1;
/// Length of the IPv4 header, without options (RFC 791, section 3.1), and where its checksum stands.
const IPV4_HEADER_LEN: usize = 20;
const IPV4_CHECKSUM: usize = 10;

/// What the datapath needs to know of an IPv6 packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Source address.
    pub source: Ipv6Addr,
    /// Destination address.
    pub destination: Ipv6Addr,
    /// Hops the packet may still make.
    pub hop_limit: u8,
    /// Length of the whole packet, header included.
    pub len: usize,
}

/// Reads the fixed header and checks the length it states against the bytes there are.
pub fn parse(packet: &[u8]) -> Result<Header, DropReason> {
    match packet.first().map(|first| first >> 4) {
        None => return Err(DropReason::Malformed),
        Some(6) => {}
        Some(_) => return Err(DropReason::NotIpv6),
    }
    let ipv6 = Ipv6Packet::new_checked(packet).map_err(|_| DropReason::Malformed)?;
    Ok(Header {
        source: ipv6.src_addr(),
        destination: ipv6.dst_addr(),
        hop_limit: ipv6.hop_limit(),
        len: ipv6.total_len(),
    })
}

/// What the datapath needs to know of an IPv4 packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ipv4Header {
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// The source port, if it is a UDP packet, and no later fragment of one.
    pub udp_source_port: Option<u16>,
    /// Length of the whole packet, header included.
    pub len: usize,
}

/// Whether it says to be IPv4.
pub fn is_ipv4(packet: &[u8]) -> bool {
    packet.first().is_some_and(|first| first >> 4 == 4)
}

/// Reads an IPv4 header and checks the lengths it states against the bytes there are.
///
/// # Errors
/// [`DropReason::Malformed`]
pub fn parse_ipv4(packet: &[u8]) -> Result<Ipv4Header, DropReason> {
    let malformed = DropReason::Malformed;
    let header: &[u8; IPV4_HEADER_LEN] = packet.first_chunk().filter(|_| is_ipv4(packet)).ok_or(malformed)?;
    let (begin, len) = (ipv4_header_len(packet), usize::from(u16::from_be_bytes([header[2], header[3]])));
    if begin < IPV4_HEADER_LEN || len < begin || len > packet.len() {
        return Err(malformed);
    }
    let [.., a, b, c, d, e, f, g, h] = *header;
    let ports = packet.get(begin..len).and_then(<[u8]>::first_chunk);
    let is_udp = header[9] == UDP && !is_later_fragment(packet);
    Ok(Ipv4Header {
        source: Ipv4Addr::new(a, b, c, d),
        destination: Ipv4Addr::new(e, f, g, h),
        udp_source_port: ports.filter(|_| is_udp).map(|port| u16::from_be_bytes(*port)),
        len,
    })
}

fn ipv4_header_len(packet: &[u8]) -> usize {
    packet.first().map_or(0, |first| usize::from(first & 0xf) * 4)
}

fn is_later_fragment(packet: &[u8]) -> bool {
    packet.get(6..8).is_none_or(|field| u16::from_be_bytes([field[0], field[1]]) & 0x1fff != 0)
}

/// Writes the hop limit. The caller has parsed the packet.
pub(super) fn set_hop_limit(packet: &mut [u8], hop_limit: u8) {
    packet[7] = hop_limit;
}

/// The port a UDP packet comes from, unless the packet is a fragment.
pub(super) fn udp_source_port(packet: &[u8]) -> Option<u16> {
    let port = packet.get(IPV6_HEADER_LEN..)?.first_chunk().filter(|_| packet[6] == UDP)?;
    Some(u16::from_be_bytes(*port))
}

/// The ports of a TCP packet, unless extension headers stand before them.
pub(super) fn tcp_ports(packet: &[u8]) -> Option<(u16, u16)> {
    let [a, b, c, d] = *packet.get(IPV6_HEADER_LEN..)?.first_chunk().filter(|_| packet[6] == TCP)?;
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])))
}

/// Whether it certainly is an ICMPv6 error: of a type below 128 (RFC 4443, section 2.1).
pub(super) fn is_icmp_error(packet: &[u8]) -> bool {
    packet.get(6) == Some(&ICMPV6) && packet.get(IPV6_HEADER_LEN).is_some_and(|kind| *kind < 128)
}

/// A number that all packets of one flow share: of its addresses and protocol, and of the ports of TCP and UDP.
pub(super) fn flow_number(packet: &[u8]) -> u8 {
    let (protocol, addresses, end, whole) = if is_ipv4(packet) {
        // No fragment has ports, that all of a packet wait in one line.
        let whole = packet.get(6..8).is_some_and(|field| field[0] & 0x3f == 0 && field[1] == 0);
        (9, 12..IPV4_HEADER_LEN, ipv4_header_len(packet), whole)
    } else {
        (6, 8..IPV6_HEADER_LEN, IPV6_HEADER_LEN, true)
    };
    let has_ports = whole && matches!(packet.get(protocol), Some(&(TCP | UDP)));
    let ports = packet.get(end..end + 4).filter(|_| has_ports);
    let named = packet.get(protocol..=protocol).into_iter().chain(packet.get(addresses)).chain(ports);
    // FNV-1a (RFC 9923), folded.
    let hash = named.flatten().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    (hash >> 24) as u8 ^ (hash >> 16) as u8
}

/// What a packet says about congestion (RFC 3168, section 5): two bits of its traffic class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ecn {
    /// Its sender does not know of marks.
    #[default]
    NotCapable,
    /// ECT(1).
    Capable1,
    /// ECT(0).
    Capable0,
    /// It met congestion.
    Congested,
}

impl Ecn {
    /// From the last two bits of a traffic class.
    pub fn of_class(class: u8) -> Self {
        match class & 3 {
            0 => Self::NotCapable,
            1 => Self::Capable1,
            2 => Self::Capable0,
            _ => Self::Congested,
        }
    }

    /// What a packet says. What surrounds it in a tunnel says the same (RFC 6040, section 4.1, normal mode).
    pub fn of_packet(packet: &[u8]) -> Self {
        let shift = Self::shift(packet);
        packet.get(1).map_or(Self::NotCapable, |byte| Self::of_class(byte >> shift))
    }

    /// Where it stands in a packet's second byte.
    fn shift(packet: &[u8]) -> u8 {
        if is_ipv4(packet) { 0 } else { 4 }
    }

    /// The last two bits of a traffic class.
    pub fn bits(self) -> u8 {
        self as u8
    }
}

/// What the header around a packet on its link says: the packet's word on congestion, and whether it is one of the node's
/// own control packets (DSCP CS6, "network control", RFC 4594, section 3.1). So the other end can tell those from what
/// hosts send before it has opened anything; hosts cannot write that header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Class {
    /// About congestion.
    pub ecn: Ecn,
    /// Whether it is a control packet.
    pub control: bool,
}

impl Class {
    const CONTROL: u8 = 48 << 2;

    /// From the traffic class of the outer header.
    pub fn of_class(class: u8) -> Self {
        Self { ecn: Ecn::of_class(class), control: class & !3 == Self::CONTROL }
    }

    /// The traffic class.
    pub fn bits(self) -> u8 {
        self.ecn.bits() | if self.control { Self::CONTROL } else { 0 }
    }
}

/// Whether a packet stays on its link, as control packets do and forwarded ones never.
pub fn is_control(packet: &[u8]) -> bool {
    parse(packet)
        .is_ok_and(|Header { destination, .. }| is_link_local(destination) || is_link_local_multicast(destination))
}

/// A packet comes out of a tunnel where what surrounded it said this: it takes over what it met on the way (RFC 6040,
/// section 4.2). False: it has to be dropped, since it met congestion and its sender would not understand a mark.
pub fn take_over_ecn(packet: &mut [u8], outer: Ecn) -> bool {
    let inner = Ecn::of_packet(packet);
    let said = match (inner, outer) {
        (Ecn::NotCapable, Ecn::Congested) => return false,
        (Ecn::Capable0 | Ecn::Capable1, Ecn::Congested) => Ecn::Congested,
        (Ecn::Capable0, Ecn::Capable1) => Ecn::Capable1,
        (inner, _) => inner,
    };
    let shift = Ecn::shift(packet);
    if let (true, Some(byte)) = (said != inner, packet.get_mut(1)) {
        *byte = *byte & !(3 << shift) | said.bits() << shift;
        set_ipv4_checksum(packet);
    }
    true
}

/// Computes the checksum of an IPv4 header; of IPv6 there is none.
fn set_ipv4_checksum(packet: &mut [u8]) {
    let len = ipv4_header_len(packet);
    if let Some(header) = packet.get_mut(..len).filter(|header| is_ipv4(header) && len >= IPV4_HEADER_LEN) {
        let field = IPV4_CHECKSUM..IPV4_CHECKSUM + 2;
        header[field.clone()].fill(0);
        let checksum = Sum::default().add(header).checksum();
        header[field].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// `fe80::/10` (RFC 4291, section 2.5.6).
pub fn is_link_local(address: Ipv6Addr) -> bool {
    address.is_unicast_link_local()
}

/// `ffx2::/16`, multicast that stays on one link (RFC 4291, section 2.7).
pub fn is_link_local_multicast(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xff0f == 0xff02
}

/// A UDP datagram inside a control packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlDatagram<'a> {
    /// The neighbour's link-local address.
    pub source: Ipv6Addr,
    /// Our link-local address, or a link-local multicast group.
    pub destination: Ipv6Addr,
    /// UDP source port.
    pub source_port: u16,
    /// UDP destination port.
    pub port: u16,
    /// What it says.
    pub payload: &'a [u8],
}

/// Builds the IPv6/UDP packet of a control datagram; source and destination port are the same.
pub fn control_packet(source: Ipv6Addr, destination: Ipv6Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    let udp = UdpRepr { src_port: port, dst_port: port };
    let ipv6 = Ipv6Repr {
        src_addr: source,
        dst_addr: destination,
        next_header: IpProtocol::Udp,
        payload_len: UDP_HEADER_LEN + payload.len(),
        hop_limit: CONTROL_HOP_LIMIT,
    };
    let mut packet = vec![0; IPV6_HEADER_LEN + ipv6.payload_len];
    ipv6.emit(&mut Ipv6Packet::new_unchecked(&mut packet[..]));
    udp.emit(
        &mut UdpPacket::new_unchecked(&mut packet[IPV6_HEADER_LEN..]),
        &source.into(),
        &destination.into(),
        payload.len(),
        |bytes| bytes.copy_from_slice(payload),
        &ChecksumCapabilities::default(),
    );
    packet
}

/// Reads a control packet: IPv6 with link-local addresses and UDP as its only next header, checksum right.
pub fn parse_control(packet: &[u8]) -> Result<ControlDatagram<'_>, DropReason> {
    let header = parse(packet)?;
    if !is_link_local(header.source) {
        return Err(DropReason::SourceNotRoutable);
    }
    let next_header = IpProtocol::from(packet[6]);
    if next_header != IpProtocol::Udp {
        return Err(DropReason::UnexpectedControl);
    }
    let bytes = &packet[IPV6_HEADER_LEN..header.len];
    let udp = UdpPacket::new_checked(bytes).map_err(|_| DropReason::Malformed)?;
    let (source, destination) = (header.source, header.destination);
    UdpRepr::parse(&udp, &source.into(), &destination.into(), &ChecksumCapabilities::default())
        .map_err(|_| DropReason::Malformed)?;
    let len = usize::from(udp.len());
    Ok(ControlDatagram {
        source,
        destination,
        source_port: udp.src_port(),
        port: udp.dst_port(),
        payload: &bytes[UDP_HEADER_LEN..len],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    const THEIRS: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

    #[test]
    fn control_packet_is_read_back() {
        let packet = control_packet(OURS, THEIRS, 6696, b"hello");
        let datagram = parse_control(&packet).expect("our own packet");
        assert_eq!(
            datagram,
            ControlDatagram { source: OURS, destination: THEIRS, source_port: 6696, port: 6696, payload: b"hello" }
        );
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_survived() {
        let packet = control_packet(OURS, THEIRS, 6696, b"a longer payload to damage");
        for len in 0..packet.len() {
            assert!(parse_control(&packet[..len]).is_err(), "truncated to {len}");
        }
        for bit in 0..packet.len() * 8 {
            let mut damaged = packet.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            // Flow label, traffic class and hop limit are covered by no checksum; everything else must be noticed.
            if let Ok(datagram) = parse_control(&damaged) {
                assert_eq!(datagram.payload, b"a longer payload to damage", "bit {bit}");
            }
        }
    }

    #[test]
    fn congestion_met_in_a_tunnel_is_told_as_rfc_6040_says() {
        // The rows of figure 4: the inner header; the columns: what the outer one said.
        let table = [
            [Some(0), Some(0), Some(0), None],
            [Some(1), Some(1), Some(1), Some(3)],
            [Some(2), Some(1), Some(2), Some(3)],
            [Some(3), Some(3), Some(3), Some(3)],
        ];
        for (inner, row) in (0..).zip(table) {
            for (outer, expected) in (0..).zip(row) {
                let mut packet = control_packet(OURS, THEIRS, 6696, b"hello");
                packet[0] = 0x6a;
                packet[1] = 0x85 | inner << 4;
                let kept = take_over_ecn(&mut packet, Ecn::of_class(outer));
                let said = kept.then(|| Ecn::of_packet(&packet).bits());
                assert_eq!(said, expected, "inner {inner}, outer {outer}");
                assert_eq!((packet[0], packet[1] & !0x30), (0x6a, 0x85), "and nothing else has changed");
            }
        }
        assert!(take_over_ecn(&mut [], Ecn::Capable0));
    }

    /// A TCP packet over IPv4, its header's checksum right.
    fn over_ipv4(class: u8, identification: u8, port: u8) -> Vec<u8> {
        let head = [0x45, class, 0, 44, 0, identification, 0, 0, 64, TCP, 0, 0, 10, 9, 0, 1, 9, 9, 9, 9];
        let mut packet = [&head[..], &[0, 80, 0, port, identification, 0, 0, 0], &[identification; 16]].concat();
        set_ipv4_checksum(&mut packet);
        packet
    }

    #[test]
    fn congestion_is_told_in_ipv4_too_and_the_header_s_checksum_stays_right() {
        let mut packet = over_ipv4(0xb8 | 2, 1, 9);
        assert!(Sum::default().add(&packet[..20]).folded() == 0xffff && Ecn::of_packet(&packet) == Ecn::Capable0);
        assert!(take_over_ecn(&mut packet, Ecn::Congested));
        assert_eq!(packet, over_ipv4(0xb8 | 3, 1, 9));
        assert!(!take_over_ecn(&mut over_ipv4(0x30, 1, 9), Ecn::Congested), "it would not understand");
        assert!(take_over_ecn(&mut [0x4f, 1], Ecn::Congested), "what is no header is left alone");
    }

    #[test]
    fn packets_of_one_flow_over_ipv4_wait_in_one_line() {
        let numbers = |port| (0..50).map(|at| flow_number(&over_ipv4(0, at, port))).collect::<Vec<_>>();
        assert_eq!(numbers(9), [numbers(9)[0]; 50]);
        assert_ne!(numbers(9)[0], numbers(10)[0]);
        let [mut first, mut later] = [over_ipv4(0, 1, 9), over_ipv4(0, 1, 9)];
        (first[6], later[7], later[23]) = (0x20, 9, 77);
        assert_eq!(flow_number(&first), flow_number(&later), "fragments have no ports");
        for len in 0..30 {
            let _any = flow_number(&vec![0x4f; len]);
        }
    }

    #[test]
    fn a_packet_shorter_than_its_header_says_is_malformed() {
        let mut packet = control_packet(OURS, THEIRS, 1, b"x");
        packet[4..6].copy_from_slice(&1000u16.to_be_bytes());
        assert_eq!(parse(&packet), Err(DropReason::Malformed));
        assert_eq!(parse(&[]), Err(DropReason::Malformed));
        assert_eq!(parse(&[0x45; 60]), Err(DropReason::NotIpv6));
    }
}
