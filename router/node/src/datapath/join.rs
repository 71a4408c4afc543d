//! Packets of one flow that follow each other, joined into one frame for the kernel: what a network card does that
//! offers to receive many packets as one. The kernel takes them apart again where a reader needs them apart.
//!
//! Only what the sender could have cut apart itself is joined: equal headers, payloads that continue each other, all of
//! one length but the last. The checksum of each packet is verified before, since the kernel will not see it.

use std::ops::Range;

use super::checksum::Sum;
use super::packet::{ACK, IPV6_HEADER_LEN, PSH, TCP_FLAGS, TCP_HEADER_LEN, UDP_HEADER_LEN};
use super::split::Transport;

/// Packets in one frame at most.
pub const JOINED_MAX: usize = 64;
/// A TCP header with all its options.
const TCP_HEADER_MAX: usize = 60;
const HEADERS_MAX: usize = IPV6_HEADER_LEN + TCP_HEADER_MAX;
/// The longest IPv6 payload without a jumbo option.
const PAYLOAD_MAX: usize = 65_535;
/// Fields of the headers that may differ from packet to packet: the IPv6 payload length...
const IPV6_LEN: Range<usize> = 4..6;
/// ...the sequence number, the flags, of which PSH may, and the checksum...
const TCP_SEQUENCE: Range<usize> = 44..48;
const TCP_CHECKSUM: Range<usize> = 56..58;
/// ...or UDP's length and checksum.
const UDP_LEN: Range<usize> = 44..46;
const UDP_CHECKSUM: Range<usize> = 46..48;

/// A frame in the making.
#[derive(Debug, Clone)]
pub struct Join<'a> {
    transport: Transport,
    headers: [u8; HEADERS_MAX],
    headers_len: usize,
    /// Payload of all packets but the last.
    size: usize,
    payloads: [&'a [u8]; JOINED_MAX],
    count: usize,
    len: usize,
    next_sequence: u32,
    /// The last packet was short or asked to be pushed: nothing may follow it.
    ended: bool,
}

/// A packet that may be part of a frame.
struct Part<'a> {
    transport: Transport,
    headers: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Join<'a> {
    /// A frame that begins with this packet; `None` if nothing may be joined to it. UDP only where the kernel takes
    /// frames of it.
    pub fn begin(packet: &'a [u8], with_udp: bool) -> Option<Self> {
        let part = part(packet).filter(|part| with_udp || part.transport == Transport::Tcp)?;
        let mut headers = [0; HEADERS_MAX];
        headers.get_mut(..part.headers.len())?.copy_from_slice(part.headers);
        let mut join = Self {
            transport: part.transport,
            headers,
            headers_len: part.headers.len(),
            size: part.payload.len(),
            payloads: [&[]; JOINED_MAX],
            count: 0,
            len: 0,
            next_sequence: sequence(part.headers),
            ended: false,
        };
        join.append(&part);
        Some(join)
    }

    /// Adds the packet if it continues the frame.
    pub fn push(&mut self, packet: &'a [u8]) -> bool {
        let fits = !self.ended && self.count < JOINED_MAX;
        let Some(part) = part(packet).filter(|part| fits && self.continues(part)) else { return false };
        self.append(&part);
        true
    }

    /// Packets in the frame.
    pub fn count(&self) -> usize {
        self.count
    }

    /// What its packets are.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// The length of all payloads but the last.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The frame's headers, with the length of all and the sum of the pseudo-header for a checksum.
    pub fn headers(&mut self) -> &[u8] {
        let Self { transport, headers_len, len, .. } = *self;
        let upper = headers_len - IPV6_HEADER_LEN + len;
        self.put(IPV6_LEN, upper as u16);
        let sum = Sum::default().add_pseudo_header(&self.headers, upper, transport.next_header()).folded();
        match transport {
            Transport::Tcp => self.put(TCP_CHECKSUM, sum),
            Transport::Udp => {
                self.put(UDP_LEN, upper as u16);
                self.put(UDP_CHECKSUM, sum);
            }
        }
        &self.headers[..headers_len]
    }

    /// What follows the headers, in order.
    pub fn payloads(&self) -> &[&'a [u8]] {
        &self.payloads[..self.count]
    }

    fn put(&mut self, field: Range<usize>, value: u16) {
        self.headers[field].copy_from_slice(&value.to_be_bytes());
    }

    fn continues(&self, part: &Part<'_>) -> bool {
        let room = PAYLOAD_MAX - (self.headers_len - IPV6_HEADER_LEN) - self.len;
        part.transport == self.transport
            && part.payload.len() <= self.size.min(room)
            && part.headers.len() == self.headers_len
            && self.agrees_with(part.headers)
    }

    /// Equal but for the fields that must differ.
    fn agrees_with(&self, other: &[u8]) -> bool {
        let own = &self.headers[..self.headers_len];
        let equal = |range: Range<usize>| own[range.clone()] == other[range];
        if !equal(0..IPV6_LEN.start) || !equal(IPV6_LEN.end..TCP_SEQUENCE.start) {
            return false;
        }
        match self.transport {
            Transport::Tcp => {
                let flags = IPV6_HEADER_LEN + TCP_FLAGS;
                sequence(other) == self.next_sequence
                    && equal(TCP_SEQUENCE.end..flags)
                    && equal(flags + 1..TCP_CHECKSUM.start)
                    && equal(TCP_CHECKSUM.end..self.headers_len)
            }
            Transport::Udp => true,
        }
    }

    fn append(&mut self, part: &Part<'a>) {
        let len = part.payload.len();
        self.payloads[self.count] = part.payload;
        self.count += 1;
        self.len += len;
        self.next_sequence = self.next_sequence.wrapping_add(len as u32);
        self.ended = len < self.size;
        if self.transport == Transport::Tcp {
            let flags = IPV6_HEADER_LEN + TCP_FLAGS;
            let pushed = part.headers[flags] & PSH;
            self.headers[flags] |= pushed;
            self.ended |= pushed != 0;
        }
    }
}

fn sequence(headers: &[u8]) -> u32 {
    headers[TCP_SEQUENCE].first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// The packet's parts, if it is TCP or UDP with a payload, nothing special and a right checksum.
fn part(packet: &[u8]) -> Option<Part<'_>> {
    let transport = match packet.get(6).filter(|_| packet[0] >> 4 == 6)? {
        6 => Transport::Tcp,
        17 => Transport::Udp,
        _ => return None,
    };
    let upper = packet.get(IPV6_HEADER_LEN..)?;
    let header_len = match transport {
        // A segment with any other flag is left alone.
        Transport::Tcp if upper.len() >= TCP_HEADER_LEN && upper[TCP_FLAGS] & !PSH == ACK => {
            usize::from(upper[12] >> 4) * 4
        }
        Transport::Udp if upper.len() > UDP_HEADER_LEN && packet[UDP_CHECKSUM] != [0, 0] => UDP_HEADER_LEN,
        Transport::Tcp | Transport::Udp => return None,
    };
    let (headers, payload) = packet.split_at_checked(IPV6_HEADER_LEN + header_len)?;
    let plain = match transport {
        Transport::Tcp => header_len >= TCP_HEADER_LEN,
        Transport::Udp => upper[4..6] == (upper.len() as u16).to_be_bytes(),
    };
    let sum = Sum::default().add_pseudo_header(packet, upper.len(), transport.next_header()).add(upper);
    (plain && !payload.is_empty() && sum.folded() == 0xffff).then_some(Part { transport, headers, payload })
}

#[cfg(test)]
mod tests {
    use super::super::checksum::complete;
    use super::super::packet::FIN;
    use super::super::packet::control_packet;
    use super::super::split::Split;
    use super::super::split::tests::{refill, tcp};
    use super::*;

    /// Joins all, then takes apart what was joined.
    fn there_and_back(packets: &[Vec<u8>]) -> Option<Vec<Vec<u8>>> {
        let mut join = Join::begin(&packets[0], true)?;
        for packet in &packets[1..] {
            if !join.push(packet) {
                return None;
            }
        }
        let mut frame = join.headers().to_vec();
        join.payloads().iter().for_each(|payload| frame.extend_from_slice(payload));
        let mut whole = frame.clone();
        assert!(complete(&mut whole, 40, join.transport().checksum_offset()));
        assert!(part(&whole).is_some(), "the sum of the pseudo-header was right");
        let mut split = Split::new(&frame, join.transport(), 40, join.size()).expect("a frame");
        let mut slot = [0; 2048];
        Some(std::iter::from_fn(|| split.next_into(&mut slot).map(|len| slot[..len].to_vec())).collect())
    }

    fn stream(lens: &[usize]) -> Vec<Vec<u8>> {
        let mut sequence = u32::MAX - 3000;
        let segment = |len: &usize| {
            let packet = tcp(9, sequence, ACK, &vec![*len as u8; *len]);
            sequence = sequence.wrapping_add(*len as u32);
            packet
        };
        lens.iter().map(segment).collect()
    }

    #[test]
    fn what_is_joined_and_taken_apart_is_the_same() {
        for lens in [&[1348; 40][..], &[1348, 1348, 17], &[1], &[500, 500]] {
            let packets = stream(lens);
            assert_eq!(there_and_back(&packets), Some(packets));
        }
        let datagram = |len| control_packet("fd01::1".parse().unwrap(), "fd02::1".parse().unwrap(), 7, &vec![9; len]);
        let packets = [datagram(1200), datagram(1200), datagram(3)];
        assert_eq!(there_and_back(&packets), Some(packets.to_vec()));
    }

    #[test]
    fn a_frame_ends_with_a_short_or_a_pushed_packet() {
        let packets = stream(&[1000, 999, 1000]);
        assert_eq!(there_and_back(&packets), None);
        let mut pushed = stream(&[1000, 1000, 1000]);
        pushed[1][53] |= PSH;
        refill(&mut pushed[1]);
        assert_eq!(there_and_back(&pushed[..2]), Some(pushed[..2].to_vec()));
        assert_eq!(there_and_back(&pushed), None);
        assert_eq!(there_and_back(&stream(&[1000, 1001])), None, "and none that follows is longer");
    }

    #[test]
    fn nothing_is_joined_that_differs_anywhere_else_or_is_damaged() {
        let packets = stream(&[1000, 1000]);
        for byte in (0..packets[1].len()).filter(|byte| !(4..6).contains(byte)) {
            let mut other = packets.clone();
            other[1][byte] ^= 0x40;
            assert!(there_and_back(&other).is_none(), "damaged at {byte}");
            if byte < 72 && !TCP_CHECKSUM.contains(&byte) {
                refill(&mut other[1]);
                assert!(there_and_back(&other).is_none(), "differs at {byte}");
            }
        }
        for flags in [ACK | FIN, ACK | 0x80, 0x02, ACK | 0x20, 0] {
            assert!(Join::begin(&tcp(9, 1, flags, &[1; 10]), true).is_none(), "flags {flags:#x}");
        }
        assert!(Join::begin(&tcp(9, 1, ACK, &[]), true).is_none(), "an empty acknowledgment");
    }

    #[test]
    fn udp_is_left_alone_where_the_kernel_takes_no_frames_of_it() {
        let packet = control_packet("fd01::1".parse().unwrap(), "fd02::1".parse().unwrap(), 7, &[9; 100]);
        assert!(Join::begin(&packet, false).is_none());
        assert!(Join::begin(&packet, true).is_some());
    }

    #[test]
    fn no_frame_is_longer_than_a_header_can_say() {
        let packets = stream(&[1400; 50]);
        let mut join = Join::begin(&packets[0], true).unwrap();
        let joined = packets[1..].iter().take_while(|packet| join.push(packet)).count();
        assert_eq!(joined, 45, "46 segments of 1,400 bytes and a header");
    }

    #[test]
    fn random_bytes_are_survived() {
        let mut rng = fastrand::Rng::with_seed(5);
        for _ in 0..20_000 {
            let mut bytes = stream(&[rng.usize(1..60)]).remove(0);
            for _ in 0..rng.usize(0..4) {
                let at = rng.usize(0..bytes.len());
                bytes[at] = rng.u8(..);
            }
            bytes.truncate(rng.usize(0..=bytes.len()));
            if let Some(mut join) = Join::begin(&bytes, true) {
                assert!(join.headers().len() <= bytes.len());
            }
        }
    }
}
