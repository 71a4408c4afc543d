//! The Internet checksum (RFC 1071) of TCP and UDP over IPv6 (RFC 8200, section 8.1), computed over whole words.

/// Where an IPv6 header ends and what follows begins.
const ADDRESSES: std::ops::Range<usize> = 8..40;

/// A one's complement sum in progress. Wide enough for every packet there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sum(u64);

impl Sum {
    /// Adds bytes; all but the last part of what is summed must be of even length.
    pub(super) fn add(self, bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<4>();
        let whole: u64 = words.iter().map(|word| u64::from(u32::from_be_bytes(*word))).sum();
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        Self(self.0 + whole + u64::from(u32::from_be_bytes(last)))
    }

    /// Adds the pseudo-header of an upper-layer packet of `len` bytes. `ipv6` begins with the IPv6 header.
    pub(super) fn add_pseudo_header(self, ipv6: &[u8], len: usize, next_header: u8) -> Self {
        let Self(sum) = self.add(ipv6.get(ADDRESSES).unwrap_or_default());
        Self(sum + len as u64 + u64::from(next_header))
    }

    /// The sum in 16 bits, not complemented.
    pub(super) fn folded(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    /// What stands in the packet.
    pub(super) fn checksum(self) -> u16 {
        !self.folded()
    }
}

/// Finishes a checksum that the kernel has left to the device: the field holds the pseudo-header's sum, and everything
/// from `start` on is to be summed. `offset` is the field's place behind `start`. False if they point outside.
pub fn complete(packet: &mut [u8], start: usize, offset: usize) -> bool {
    let Some(checked) = packet.get(start..) else { return false };
    let checksum = Sum::default().add(checked).checksum();
    // Zero would say that there is none (RFC 768), and is the same number as its complement.
    let checksum = if checksum == 0 { 0xffff } else { checksum };
    let Some(field) = packet.get_mut(start + offset..).and_then(|rest| rest.first_chunk_mut()) else { return false };
    *field = checksum.to_be_bytes();
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, two bytes at a time.
    fn slowly(bytes: &[u8]) -> u16 {
        let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        let sum = bytes.chunks(2).map(word).fold(0, |sum, word| {
            let sum = sum + word;
            (sum & 0xffff) + (sum >> 16)
        });
        sum as u16
    }

    #[test]
    fn agrees_with_the_definition_at_every_length() {
        let mut rng = fastrand::Rng::with_seed(1);
        let bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(1500).collect();
        for len in 0..bytes.len() {
            assert_eq!(Sum::default().add(&bytes[..len]).folded(), slowly(&bytes[..len]), "{len} bytes");
        }
        let full = vec![0xff; 65_535];
        assert_eq!(Sum::default().add(&full).folded(), slowly(&full));
    }

    #[test]
    fn a_field_outside_the_packet_is_refused() {
        assert!(!complete(&mut [0; 48], 49, 0));
        assert!(!complete(&mut [0; 48], 40, 7));
        assert!(complete(&mut [0; 48], 40, 6));
    }
}
