//! A frame of the kernel's that stands for many packets of one flow, taken apart: what a network card does that offers
//! segmentation of TCP or UDP (`VIRTIO_NET_HDR_GSO_TCPV6` and `..._UDP_L4` of the virtio specification, section 5.1.6).

use super::checksum::Sum;
use super::packet::{CWR, FIN, IPV6_HEADER_LEN, PSH, TCP_FLAGS, TCP_HEADER_LEN, UDP_HEADER_LEN};

/// What the packets of a frame have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

impl Transport {
    /// The IPv6 next header.
    pub(super) fn next_header(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// Where its checksum stands in its header.
    pub fn checksum_offset(self) -> usize {
        match self {
            Self::Tcp => 16,
            Self::Udp => 6,
        }
    }
}

/// Yields the packets of a frame, in order.
#[derive(Debug, Clone)]
pub struct Split<'a> {
    frame: &'a [u8],
    transport: Transport,
    /// Where the TCP or UDP header begins, and where it ends.
    start: usize,
    header_len: usize,
    /// Payload of all packets but the last.
    size: usize,
    at: usize,
}

impl<'a> Split<'a> {
    /// An IPv6 frame whose TCP or UDP header begins at `start`, to be cut into packets of `size` bytes of payload.
    /// `None`: it is not what it is said to be.
    pub fn new(frame: &'a [u8], transport: Transport, start: usize, size: usize) -> Option<Self> {
        // With an extension header between, the destination that the checksum counts may be another one.
        let plain = start == IPV6_HEADER_LEN && *frame.get(6)? == transport.next_header();
        let header = frame.get(start..).filter(|_| plain && frame[0] >> 4 == 6)?;
        let header_len = match transport {
            Transport::Tcp => usize::from(header.get(12)? >> 4) * 4,
            Transport::Udp => UDP_HEADER_LEN,
        };
        let least = if transport == Transport::Tcp { TCP_HEADER_LEN } else { UDP_HEADER_LEN };
        let fits = header_len >= least && header.len() > header_len && size > 0;
        let header_len = start + header_len;
        fits.then_some(Self { frame, transport, start, header_len, size, at: header_len })
    }

    /// Packets that have not been yielded.
    pub fn left(&self) -> usize {
        (self.frame.len() - self.at).div_ceil(self.size)
    }

    /// Writes the next packet into `slot`, checksum and all. Its length; `None` at the end, or if the slot is too short.
    pub fn next_into(&mut self, slot: &mut [u8]) -> Option<usize> {
        let payload = &self.frame[self.at..(self.at + self.size).min(self.frame.len())];
        let packet = slot.get_mut(..self.header_len + payload.len()).filter(|_| !payload.is_empty())?;
        packet[..self.header_len].copy_from_slice(&self.frame[..self.header_len]);
        packet[self.header_len..].copy_from_slice(payload);
        let (first, last) = (self.at == self.header_len, self.at + payload.len() == self.frame.len());
        let offset = (self.at - self.header_len) as u32;
        self.at += payload.len();
        self.finish(packet, offset, first, last);
        Some(packet.len())
    }

    /// What differs from packet to packet.
    fn finish(&self, packet: &mut [u8], offset: u32, first: bool, last: bool) {
        let len = packet.len() - self.start;
        put(packet, 4, packet.len() - IPV6_HEADER_LEN);
        let (start, transport) = (self.start, self.transport);
        match transport {
            Transport::Tcp => {
                if let Some(sequence) = packet[start + 4..].first_chunk_mut() {
                    *sequence = u32::from_be_bytes(*sequence).wrapping_add(offset).to_be_bytes();
                }
                let flags = &mut packet[start + TCP_FLAGS];
                *flags &= if last { !0 } else { !(FIN | PSH) } & if first { !0 } else { !CWR };
            }
            Transport::Udp => put(packet, start + 4, len),
        }
        let field = start + transport.checksum_offset();
        put(packet, field, 0);
        let sum = Sum::default().add_pseudo_header(packet, len, transport.next_header()).add(&packet[start..]);
        let checksum = sum.checksum();
        put(packet, field, if checksum == 0 { 0xffff } else { checksum.into() });
    }
}

/// A 16-bit field; lengths of packets fit.
fn put(packet: &mut [u8], at: usize, value: usize) {
    packet[at..at + 2].copy_from_slice(&(value as u16).to_be_bytes());
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::packet::parse;
    use super::*;
    use smoltcp::wire::{Ipv6Packet, TcpPacket, UdpPacket};

    /// A TCP segment with a timestamp option, checksum right.
    pub(in super::super) fn tcp(port: u16, sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; IPV6_HEADER_LEN + 32];
        packet[..8].copy_from_slice(&[0x60, 0, 0, 0, 0, 0, 6, 64]);
        (packet[8], packet[23], packet[24], packet[39]) = (0xfd, 1, 0xfd, 2);
        packet[40..42].copy_from_slice(&port.to_be_bytes());
        packet[42..44].copy_from_slice(&5001_u16.to_be_bytes());
        packet[44..48].copy_from_slice(&sequence.to_be_bytes());
        packet[48..52].copy_from_slice(&77_u32.to_be_bytes());
        (packet[52], packet[53], packet[54]) = (8 << 4, flags, 2);
        packet[60..64].copy_from_slice(&[1, 1, 8, 10]);
        packet.extend_from_slice(payload);
        let len = packet.len() - IPV6_HEADER_LEN;
        put(&mut packet, 4, len);
        refill(&mut packet);
        packet
    }

    /// Makes the checksum of a TCP segment right again.
    pub(in super::super) fn refill(packet: &mut [u8]) {
        put(packet, 56, 0);
        let len = packet.len() - IPV6_HEADER_LEN;
        let sum = Sum::default().add_pseudo_header(packet, len, 6).add(&packet[40..]).checksum();
        put(packet, 56, sum.into());
    }

    fn all(mut split: Split<'_>) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| {
            let mut slot = [0; 2048];
            split.next_into(&mut slot).map(|len| slot[..len].to_vec())
        })
        .collect()
    }

    #[test]
    fn segments_are_what_the_sender_would_have_sent_alone() {
        let payload: Vec<u8> = (0..3000_u32).map(|n| n as u8).collect();
        let (ack, psh) = (0x10, PSH);
        let frame = tcp(9, u32::MAX - 1000, ack | psh | FIN | CWR, &payload);
        let packets = all(Split::new(&frame, Transport::Tcp, 40, 1348).unwrap());
        let expected = [
            tcp(9, u32::MAX - 1000, ack | CWR, &payload[..1348]),
            tcp(9, 347, ack, &payload[1348..2696]),
            tcp(9, 1695, ack | psh | FIN, &payload[2696..]),
        ];
        assert_eq!(packets, expected);
        for packet in packets {
            let ipv6 = Ipv6Packet::new_checked(&packet[..]).unwrap();
            let segment = TcpPacket::new_checked(ipv6.payload()).unwrap();
            assert!(segment.verify_checksum(&ipv6.src_addr().into(), &ipv6.dst_addr().into()));
        }
    }

    #[test]
    fn datagrams_get_their_own_length_and_checksum() {
        let mut frame = super::super::packet::control_packet(
            "fd01::1".parse().unwrap(),
            "fd02::1".parse().unwrap(),
            4000,
            &[5; 2500],
        );
        frame[46] = 0;
        let mut split = Split::new(&frame, Transport::Udp, 40, 1000).unwrap();
        assert_eq!((split.left(), split.next_into(&mut [0; 1047]), split.left()), (3, None, 3), "a slot too short");
        let packets = all(split);
        assert_eq!(packets.iter().map(Vec::len).collect::<Vec<_>>(), [1048, 1048, 548]);
        for packet in packets {
            let ipv6 = Ipv6Packet::new_checked(&packet[..]).unwrap();
            let datagram = UdpPacket::new_checked(ipv6.payload()).unwrap();
            assert_eq!(usize::from(datagram.len()), ipv6.payload().len());
            assert!(datagram.verify_checksum(&ipv6.src_addr().into(), &ipv6.dst_addr().into()));
        }
    }

    #[test]
    fn what_is_no_frame_is_refused_and_random_bytes_are_survived() {
        let frame = tcp(9, 1, 0x10, &[1; 100]);
        assert!(Split::new(&frame, Transport::Tcp, 39, 50).is_none());
        assert!(Split::new(&frame, Transport::Tcp, 40, 0).is_none());
        assert!(Split::new(&frame[..72], Transport::Tcp, 40, 50).is_none(), "no payload");
        assert!(Split::new(&[], Transport::Udp, 0, 50).is_none());
        let mut rng = fastrand::Rng::with_seed(4);
        for _ in 0..20_000 {
            let len = rng.usize(0..300);
            let mut bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(len).collect();
            bytes.iter_mut().take(1).for_each(|first| *first = 0x60);
            let transport = if rng.bool() { Transport::Tcp } else { Transport::Udp };
            bytes.iter_mut().skip(6).take(1).for_each(|next| *next = transport.next_header());
            let start = if rng.u8(..) < 10 { rng.usize(30..120) } else { 40 };
            let Some(split) = Split::new(&bytes, transport, start, rng.usize(1..200)) else { continue };
            assert!(all(split).iter().all(|packet| parse(packet).is_ok()));
        }
    }
}
