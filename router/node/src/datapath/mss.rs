//! The maximum segment size that TCP's SYN asks for (RFC 9293, section 3.7.1), lowered to what the mesh carries.
//!
//! A LAN behind the router has a longer MTU than the mesh. Its hosts would learn that from Packet Too Big, if everything
//! between let it through; a connection that never asks for longer segments does not depend on it.

use super::packet::{IPV6_HEADER_LEN, SYN, TCP_FLAGS, TCP_HEADER_LEN};
use super::split::Transport;

const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;
/// Signs the other options too (RFC 5925).
const AUTHENTICATION: u8 = 29;

/// Lowers the size in a SYN to what fits a packet of `mtu` bytes. Everything else stays as it is.
pub(super) fn clamp(packet: &mut [u8], mtu: usize) {
    let next_header = packet.get(6).copied();
    let Some(tcp) = packet.get_mut(IPV6_HEADER_LEN..).filter(|tcp| tcp.len() >= TCP_HEADER_LEN) else { return };
    if next_header != Some(Transport::Tcp.next_header()) || tcp[TCP_FLAGS] & SYN == 0 {
        return;
    }
    let most = u16::try_from(mtu.saturating_sub(IPV6_HEADER_LEN + TCP_HEADER_LEN)).unwrap_or(u16::MAX);
    let Some(at) = size_option(tcp) else { return };
    let asked = u16::from_be_bytes([tcp[at], tcp[at + 1]]);
    if asked > most {
        tcp[at..at + 2].copy_from_slice(&most.to_be_bytes());
        // An option may begin at an odd place; then its bytes count in the other order.
        let counted = |size: u16| if at % 2 == 0 { size } else { size.swap_bytes() };
        let field = Transport::Tcp.checksum_offset();
        let sum = u16::from_be_bytes([tcp[field], tcp[field + 1]]);
        let sum = updated(sum, counted(asked), counted(most));
        tcp[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Where the size stands.
fn size_option(tcp: &[u8]) -> Option<usize> {
    let end = usize::from(tcp[12] >> 4) * 4;
    let options = tcp.get(..end)?;
    let (mut at, mut size) = (TCP_HEADER_LEN, None);
    while let Some(kind) = options.get(at) {
        match *kind {
            END => break,
            AUTHENTICATION => return None,
            NO_OPERATION => at += 1,
            MAXIMUM_SEGMENT_SIZE if options.get(at + 1..at + 4)?[0] == 4 => {
                (at, size) = (at + 4, size.or(Some(at + 2)))
            }
            _ => at += usize::from(*options.get(at + 1)?).max(2),
        }
    }
    size
}

/// A checksum after one of its words has changed (RFC 1624, equation 3).
fn updated(checksum: u16, before: u16, after: u16) -> u16 {
    let sum = u32::from(!checksum) + u32::from(!before) + u32::from(after);
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::super::split::tests::{refill, tcp};
    use super::*;

    /// A SYN with these options, padded.
    fn syn(options: &[u8]) -> Vec<u8> {
        let mut packet = tcp(9, 1, SYN, &[]);
        packet.truncate(60);
        packet.extend_from_slice(options);
        packet.resize(60 + options.len().next_multiple_of(4), END);
        packet[52] = (((packet.len() - 40) / 4) << 4) as u8;
        let len = packet.len() - 40;
        packet[4..6].copy_from_slice(&(len as u16).to_be_bytes());
        refill(&mut packet);
        packet
    }

    #[test]
    fn a_larger_size_is_lowered_and_a_smaller_one_stays() {
        for odd in [&[][..], &[NO_OPERATION], &[3, 3, 7], &[8, 10, 1, 2, 3, 4, 5, 6, 7, 8, NO_OPERATION]] {
            let with = |size: u16| syn(&[odd, &[MAXIMUM_SEGMENT_SIZE, 4], &size.to_be_bytes(), &[4, 2]].concat());
            for size in [1440, 1361, 65_535] {
                let mut packet = with(size);
                clamp(&mut packet, 1420);
                assert_eq!(packet, with(1360), "{size}, checksum and all");
            }
            for size in [1360, 536, 0] {
                let mut packet = with(size);
                clamp(&mut packet, 1420);
                assert_eq!(packet, with(size));
            }
        }
    }

    #[test]
    fn what_is_no_syn_or_says_nothing_stays_as_it_is() {
        let size = [MAXIMUM_SEGMENT_SIZE, 4, 0xff, 0xff];
        let mut data = syn(&size);
        data[53] = 0x10;
        let signed = syn(&[&size[..], &[29, 4, 1, 1]].concat());
        for packet in
            [data, signed, syn(&[]), syn(&[END, 2, 4, 0xff, 0xff]), syn(&[2, 3, 0xff]), syn(&[9, 0]), vec![0x60; 50]]
        {
            let mut clamped = packet.clone();
            clamp(&mut clamped, 1420);
            assert_eq!(clamped, packet);
        }
    }

    #[test]
    fn random_options_are_survived_and_the_checksum_stays_right() {
        let mut rng = fastrand::Rng::with_seed(8);
        for _ in 0..50_000 {
            let options: Vec<u8> = (0..rng.usize(0..40)).map(|_| rng.u8(0..10)).collect();
            let mut packet = syn(&options);
            clamp(&mut packet, rng.usize(0..1500));
            let clamped = packet.clone();
            refill(&mut packet);
            // Zero and its complement are the same number.
            let sums = [&clamped[56..58], &packet[56..58]].map(|sum| u16::from_be_bytes([sum[0], sum[1]]) % 0xffff);
            assert_eq!(sums[0], sums[1]);
            packet.truncate(rng.usize(0..packet.len()));
            clamp(&mut packet, 100);
        }
    }
}
