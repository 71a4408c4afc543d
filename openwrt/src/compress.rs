//! Deflate, and gzip around it.

use std::num::NonZeroU64;

use zopfli::{Format, Options};

/// How often the compressor tries each block anew, with what it learned from the time before. A router's flash is dearer than our
/// time: of a program of 6 MB for MIPS, five tries save 3 % against zlib.
const TRIES: NonZeroU64 = NonZeroU64::new(5).expect("not zero");

/// Bare deflate, as apk has it.
pub(crate) fn deflate(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let options = Options { iteration_count: TRIES, ..Options::default() };
    zopfli::compress(options, Format::Deflate, content, &mut out).expect("memory takes all that is written");
    out
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
    fn what_is_compressed_is_smaller_and_comes_back() {
        let text = "a router's flash is dearer than our time\n".repeat(500);
        let small = deflate(text.as_bytes());
        assert!(small.len() < text.len() / 50, "{}", small.len());
        assert_eq!(miniz_oxide::inflate::decompress_to_vec(&small).unwrap(), text.as_bytes());
        assert_eq!(miniz_oxide::inflate::decompress_to_vec(&deflate(b"")).unwrap(), b"");
    }

    #[test]
    fn the_checksum_is_the_standards() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }
}
