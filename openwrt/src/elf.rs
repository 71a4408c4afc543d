//! Programs without what no kernel reads: section headers, and what lies behind the last segment. On MIPS that is half a megabyte
//! that `strip` leaves there, a line for each function.

/// Where the fields of an ELF header are, for one width of addresses.
struct Layout {
    program_headers: usize,
    section_headers: usize,
    sizes: usize,
    segment_offset: usize,
    segment_size: usize,
    width: usize,
}

const NARROW: Layout = Layout {
    program_headers: 0x1c,
    section_headers: 0x20,
    sizes: 0x28,
    segment_offset: 0x04,
    segment_size: 0x10,
    width: 4,
};
const WIDE: Layout = Layout {
    program_headers: 0x20,
    section_headers: 0x28,
    sizes: 0x34,
    segment_offset: 0x08,
    segment_size: 0x20,
    width: 8,
};

/// The same program, shorter; what is no program stays as it is.
#[must_use]
pub fn trimmed(program: Vec<u8>) -> Vec<u8> {
    match end_of_segments(&program) {
        Some((end, layout)) => cut(program, end, layout),
        None => program,
    }
}

fn end_of_segments(program: &[u8]) -> Option<(usize, &'static Layout)> {
    let layout = match program.strip_prefix(b"\x7fELF")?.first()? {
        1 => &NARROW,
        2 => &WIDE,
        _ => return None,
    };
    let little = *program.get(5)? == 1;
    let number = |at: usize, width: usize| {
        let bytes = program.get(at..at.checked_add(width)?)?;
        let digits = bytes.iter().map(|byte| u64::from(*byte));
        let value = if little {
            digits.rev().fold(0, |sum, digit| sum << 8 | digit)
        } else {
            digits.fold(0, |sum, digit| sum << 8 | digit)
        };
        usize::try_from(value).ok()
    };
    let first = number(layout.program_headers, layout.width)?;
    // Size and count of the program headers come second and third.
    let (size, count) = (number(layout.sizes + 2, 2)?, number(layout.sizes + 4, 2)?);
    let mut end = first.checked_add(size.checked_mul(count)?)?;
    for each in 0..count {
        let at = first + each * size;
        let offset = number(at.checked_add(layout.segment_offset)?, layout.width)?;
        end = end.max(offset.checked_add(number(at.checked_add(layout.segment_size)?, layout.width)?)?);
    }
    (count > 0 && end <= program.len()).then_some((end, layout))
}

fn cut(mut program: Vec<u8>, end: usize, layout: &Layout) -> Vec<u8> {
    program.truncate(end);
    program[layout.section_headers..layout.section_headers + layout.width].fill(0);
    // How many section headers there are, and which has their names.
    program[layout.sizes + 8..layout.sizes + 12].fill(0);
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A header, one segment that ends at byte 100, and 28 bytes more.
    fn program(wide: bool, little: bool) -> Vec<u8> {
        let layout = if wide { WIDE } else { NARROW };
        let mut program = vec![0xaa; 128];
        program[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 1 + u8::from(wide), 2 - u8::from(little)]);
        let mut put = |at: usize, width: usize, value: u64| {
            let bytes = if little { value.to_le_bytes() } else { value.to_be_bytes() };
            let bytes = if little { &bytes[..width] } else { &bytes[8 - width..] };
            program[at..at + width].copy_from_slice(bytes);
        };
        put(layout.program_headers, layout.width, 64);
        put(layout.sizes + 2, 2, 32);
        put(layout.sizes + 4, 2, 1);
        put(64 + layout.segment_offset, layout.width, 0);
        put(64 + layout.segment_size, layout.width, 120);
        program
    }

    #[test]
    fn what_lies_behind_the_last_segment_goes() {
        for (wide, little) in [(false, false), (false, true), (true, true)] {
            let before = program(wide, little);
            let after = trimmed(before.clone());
            assert_eq!(after.len(), 120);
            let (headers, count) = if wide { (0x28..0x30, 0x3c..0x40) } else { (0x20..0x24, 0x30..0x34) };
            assert!(after[headers.clone()].iter().chain(&after[count.clone()]).all(|byte| *byte == 0));
            for (at, byte) in after.iter().enumerate() {
                assert!(headers.contains(&at) || count.contains(&at) || *byte == before[at], "byte {at}");
            }
        }
    }

    #[test]
    fn what_is_no_program_or_a_broken_one_stays() {
        let mut beyond = program(true, true);
        beyond.truncate(100);
        for content in [b"#!/bin/sh\n".to_vec(), b"\x7fELF".to_vec(), b"\x7fELF\x02\x01".to_vec(), beyond, Vec::new()] {
            assert_eq!(trimmed(content.clone()), content);
        }
    }
}
