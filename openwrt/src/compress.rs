//! Deflate, and gzip around it.

use miniz_oxide::deflate::compress_to_vec;

/// The most that the compressor does; a router's flash is dearer than our time.
const LEVEL: u8 = 10;

/// Bare deflate, as apk has it.
pub(crate) fn deflate(content: &[u8]) -> Vec<u8> {
    compress_to_vec(content, LEVEL)
}

/// A gzip file without name and time.
pub(crate) fn gzip(content: &[u8]) -> Vec<u8> {
    // Deflate, no flags, no time, compressed as much as possible, made on Unix.
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 3];
    out.extend_from_slice(&deflate(content));
    out.extend_from_slice(&crc32(content).to_le_bytes());
    #[expect(clippy::cast_possible_truncation, reason = "gzip has the length modulo 2^32")]
    out.extend_from_slice(&(content.len() as u32).to_le_bytes());
    out
}

/// The checksum of gzip (RFC 1952, section 8).
fn crc32(content: &[u8]) -> u32 {
    let mut table = [0_u32; 256];
    for (number, entry) in (0_u32..).zip(table.iter_mut()) {
        *entry = (0..8).fold(number, |rest, _| if rest & 1 == 1 { 0xedb8_8320 ^ (rest >> 1) } else { rest >> 1 });
    }
    !content.iter().fold(!0, |crc, byte| table[usize::from(crc.to_le_bytes()[0] ^ byte)] ^ (crc >> 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_standards() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }
}
