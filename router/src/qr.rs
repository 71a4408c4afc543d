//! QR codes (ISO/IEC 18004) of texts: for a phone's camera, from a terminal or from paper.
//!
//! [`Qr::of`] makes the smallest code that holds the text as bytes; [`Qr::terminal`] and [`Qr::svg`] show it.

use std::fmt::Write as _;

use thiserror::Error;

/// The most bytes a code holds: version 40 at the lowest correction.
pub const TEXT_LEN_MAX: usize = 2953;

/// Light modules around the code: four are demanded on paper, two are enough on a screen.
const MARGIN_ON_PAPER: usize = 4;
const MARGIN_ON_SCREEN: i32 = 2;

/// Correction codewords of each block, and blocks, by version from 1 on (table 9 of the standard).
struct Level {
    /// In the format bits.
    bits: u32,
    correction: [u8; 40],
    blocks: [u8; 40],
}

/// Restores 7 % of damage: enough on a screen.
const LOW: Level = Level {
    bits: 1,
    correction: [
        7, 10, 15, 20, 26, 18, 20, 24, 30, 18, 20, 24, 26, 30, 22, 24, 28, 30, 28, 28, 28, 28, 30, 30, 26, 28, 30, 30,
        30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30, 30,
    ],
    blocks: [
        1, 1, 1, 1, 1, 2, 2, 2, 2, 4, 4, 4, 4, 4, 6, 6, 6, 6, 7, 8, 8, 9, 9, 10, 12, 12, 12, 13, 14, 15, 16, 17, 18,
        19, 19, 20, 21, 22, 24, 25,
    ],
};

/// Restores 15 %.
const MEDIUM: Level = Level {
    bits: 0,
    correction: [
        10, 16, 26, 18, 24, 16, 18, 22, 22, 26, 30, 22, 22, 24, 24, 28, 28, 26, 26, 26, 26, 28, 28, 28, 28, 28, 28, 28,
        28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    ],
    blocks: [
        1, 1, 1, 2, 2, 4, 4, 4, 5, 5, 5, 8, 9, 9, 10, 10, 11, 13, 14, 16, 17, 17, 18, 20, 21, 23, 25, 26, 28, 29, 31,
        33, 35, 37, 38, 40, 43, 45, 47, 49,
    ],
};

/// No code holds the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a QR code holds {TEXT_LEN_MAX} bytes, and the text has {len}")]
pub struct TooLong {
    /// Bytes of the text.
    pub len: usize,
}

/// A code: a square of dark and light modules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qr {
    size: usize,
    dark: Vec<bool>,
    /// Finder patterns and the like, which no mask changes.
    fixed: Vec<bool>,
}

impl Qr {
    /// The smallest code of this text; where there is room for it, with the higher of two corrections.
    ///
    /// # Errors
    /// [`TooLong`]
    pub fn of(text: &str) -> Result<Self, TooLong> {
        let data = text.as_bytes();
        let fits = |version: usize, level: &Level| bits(version, data.len()) <= 8 * level.data_len(version);
        let version = (1..=40).find(|version| fits(*version, &LOW)).ok_or(TooLong { len: data.len() })?;
        let level = if fits(version, &MEDIUM) { &MEDIUM } else { &LOW };
        let size = 17 + 4 * version;
        let mut code = Self { size, dark: vec![false; size * size], fixed: vec![false; size * size] };
        code.draw_patterns(version);
        code.draw_codewords(&corrected(&codewords(version, data, level.data_len(version)), version, level));
        let masked = (0..8).map(|mask| {
            let mut masked = code.clone();
            masked.apply_mask(mask);
            masked.draw_format(level, mask);
            masked
        });
        Ok(masked.min_by_key(Self::penalty).expect("there are eight masks"))
    }

    /// Modules on a side, margin excluded.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Whether the module in this column and row, from 0, is dark. Around the code all are light.
    #[must_use]
    pub fn is_dark(&self, x: i32, y: i32) -> bool {
        match (usize::try_from(x), usize::try_from(y)) {
            (Ok(x), Ok(y)) if x < self.size && y < self.size => self.dark[y * self.size + x],
            _ => false,
        }
    }

    /// For a terminal: a line of half blocks for each two rows of modules, white on black whatever the terminal's colours are.
    #[must_use]
    pub fn terminal(&self) -> String {
        let end = i32::try_from(self.size).unwrap_or(i32::MAX) + MARGIN_ON_SCREEN;
        let mut text = String::new();
        for y in (-MARGIN_ON_SCREEN..end).step_by(2) {
            text.push_str("\u{1b}[97;40m");
            for x in -MARGIN_ON_SCREEN..end {
                // Below the last row there is nothing to see.
                text.push(match (self.is_dark(x, y), y + 1 >= end || self.is_dark(x, y + 1)) {
                    (true, true) => ' ',
                    (true, false) => '▄',
                    (false, true) => '▀',
                    (false, false) => '█',
                });
            }
            text.push_str("\u{1b}[0m\n");
        }
        text
    }

    /// An SVG image, of any size without loss.
    #[must_use]
    pub fn svg(&self) -> String {
        let side = self.size + 2 * MARGIN_ON_PAPER;
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {side} {side}\" shape-rendering=\"crispEdges\">\n\
             <rect width=\"{side}\" height=\"{side}\" fill=\"#fff\"/>\n<path d=\""
        );
        for (y, row) in self.dark.chunks(self.size).enumerate() {
            for (x, _) in row.iter().enumerate().filter(|(_, dark)| **dark) {
                let _infallible = write!(text, "M{} {}h1v1h-1z", x + MARGIN_ON_PAPER, y + MARGIN_ON_PAPER);
            }
        }
        text.push_str("\"/>\n</svg>\n");
        text
    }

    fn fix(&mut self, x: usize, y: usize, dark: bool) {
        self.dark[y * self.size + x] = dark;
        self.fixed[y * self.size + x] = true;
    }

    fn draw_patterns(&mut self, version: usize) {
        for i in 0..self.size {
            self.fix(6, i, i % 2 == 0);
            self.fix(i, 6, i % 2 == 0);
        }
        let far = self.size - 7;
        for (left, top) in [(0, 0), (far, 0), (0, far)] {
            self.draw_finder(left, top);
        }
        let positions = alignments(version, self.size);
        let last = positions.len().saturating_sub(1);
        for (i, x) in positions.iter().enumerate() {
            for (j, y) in positions.iter().enumerate() {
                // Finders are in three of the corners.
                if ![(0, 0), (0, last), (last, 0)].contains(&(i, j)) {
                    for (dx, dy) in (0..5).flat_map(|dx| (0..5).map(move |dy| (dx, dy))) {
                        self.fix(x + dx - 2, y + dy - 2, dx.abs_diff(2).max(dy.abs_diff(2)) != 1);
                    }
                }
            }
        }
        // Reserved; what stands there depends on the mask.
        self.draw_format(&LOW, 0);
        if version >= 7 {
            let version = u32::try_from(version).unwrap_or(0);
            let bits = version << 12 | remainder(version, 12, 0x1f25);
            for i in 0..18 {
                let (a, b) = (self.size - 11 + i % 3, i / 3);
                self.fix(a, b, bits >> i & 1 == 1);
                self.fix(b, a, bits >> i & 1 == 1);
            }
        }
    }

    /// A finder pattern of 7 by 7 modules with the light border inside the code.
    fn draw_finder(&mut self, left: usize, top: usize) {
        for (dx, dy) in (0..9).flat_map(|dx| (0..9).map(move |dy| (dx, dy))) {
            let (Some(x), Some(y)) = ((left + dx).checked_sub(1), (top + dy).checked_sub(1)) else { continue };
            if x < self.size && y < self.size {
                let ring = usize::abs_diff(dx, 4).max(usize::abs_diff(dy, 4));
                self.fix(x, y, ring != 2 && ring != 4);
            }
        }
    }

    fn draw_format(&mut self, level: &Level, mask: u32) {
        let data = level.bits << 3 | mask;
        let bits = (data << 10 | remainder(data, 10, 0x537)) ^ 0x5412;
        let size = self.size;
        for i in 0..15 {
            let dark = bits >> i & 1 == 1;
            // Both copies; the timing patterns in column 6 and row 6 are passed over.
            match i {
                0..6 => self.fix(8, i, dark),
                6 | 7 => self.fix(8, i + 1, dark),
                8 => self.fix(7, 8, dark),
                _ => self.fix(14 - i, 8, dark),
            }
            if i < 8 { self.fix(size - 1 - i, 8, dark) } else { self.fix(8, size - 15 + i, dark) }
        }
        self.fix(8, size - 8, true);
    }

    /// In columns of two from the right, up and down in turn.
    fn draw_codewords(&mut self, codewords: &[u8]) {
        let mut bits = codewords.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1));
        let mut upward = true;
        let mut right = self.size - 1;
        loop {
            for step in 0..self.size {
                let y = if upward { self.size - 1 - step } else { step };
                for x in [right, right - 1] {
                    if !self.fixed[y * self.size + x] {
                        // Where no bits are left, light ones fill.
                        self.dark[y * self.size + x] = bits.next().unwrap_or(false);
                    }
                }
            }
            upward = !upward;
            right = match right {
                1 => return,
                8 => 5,
                _ => right - 2,
            };
        }
    }

    fn apply_mask(&mut self, mask: u32) {
        for (i, (dark, _)) in self.dark.iter_mut().zip(&self.fixed).enumerate().filter(|(_, (_, fixed))| !**fixed) {
            let (x, y) = (i % self.size, i / self.size);
            *dark ^= match mask {
                0 => (x + y) % 2 == 0,
                1 => y % 2 == 0,
                2 => x % 3 == 0,
                3 => (x + y) % 3 == 0,
                4 => (x / 3 + y / 2) % 2 == 0,
                5 => x * y % 2 + x * y % 3 == 0,
                6 => (x * y % 2 + x * y % 3) % 2 == 0,
                _ => ((x + y) % 2 + x * y % 3) % 2 == 0,
            };
        }
    }

    /// How hard the code is to read (section 7.8.3): runs, squares, what looks like a finder, and more of one colour.
    fn penalty(&self) -> usize {
        let at = |x: usize, y: usize| self.dark[y * self.size + x];
        let mut penalty = 0;
        for i in 0..self.size {
            penalty += line_penalty((0..self.size).map(|j| at(j, i))) + line_penalty((0..self.size).map(|j| at(i, j)));
        }
        for (x, y) in (1..self.size).flat_map(|x| (1..self.size).map(move |y| (x, y))) {
            let square = [at(x, y), at(x - 1, y), at(x, y - 1), at(x - 1, y - 1)];
            penalty += if square.iter().all(|dark| *dark == square[0]) { 3 } else { 0 };
        }
        let dark = self.dark.iter().filter(|dark| **dark).count();
        penalty + (20 * dark).abs_diff(10 * self.dark.len()) / self.dark.len() * 10
    }
}

fn line_penalty(line: impl Iterator<Item = bool>) -> usize {
    let (mut run, mut before, mut penalty) = (0, None, 0);
    let mut last_eleven = 0_u32;
    for (place, dark) in line.enumerate() {
        run = if before == Some(dark) { run + 1 } else { 1 };
        before = Some(dark);
        penalty += match run {
            5 => 3,
            6.. => 1,
            _ => 0,
        };
        last_eleven = (last_eleven << 1 | u32::from(dark)) & 0x7ff;
        penalty += if place >= 10 && [0x05d, 0x5d0].contains(&last_eleven) { 40 } else { 0 };
    }
    penalty
}

impl Level {
    fn of_version(table: &[u8; 40], version: usize) -> usize {
        table[version - 1].into()
    }

    /// Codewords for data.
    fn data_len(&self, version: usize) -> usize {
        let correction = Self::of_version(&self.correction, version) * Self::of_version(&self.blocks, version);
        raw_len(version) - correction
    }
}

/// Codewords of both kinds.
fn raw_len(version: usize) -> usize {
    let mut modules = (16 * version + 128) * version + 64;
    if version >= 2 {
        let alignments = version / 7 + 2;
        modules -= (25 * alignments - 10) * alignments - 55;
        modules -= if version >= 7 { 36 } else { 0 };
    }
    modules / 8
}

fn alignments(version: usize, size: usize) -> Vec<usize> {
    if version == 1 {
        return Vec::new();
    }
    let count = version / 7 + 2;
    let step = (8 * version + 3 * count + 5) / (4 * count - 4) * 2;
    let from_the_end = (0..count - 1).map(|i| size - 7 - i * step);
    [6].into_iter().chain(from_the_end.rev()).collect()
}

/// Bits of a text: the mode, the length and the bytes.
fn bits(version: usize, len: usize) -> usize {
    4 + length_bits(version) + 8 * len
}

fn length_bits(version: usize) -> usize {
    if version < 10 { 8 } else { 16 }
}

/// The text's codewords, filled up to all there is room for.
fn codewords(version: usize, data: &[u8], len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 3);
    let (mut held, mut bits) = (0_u32, 0);
    let mut put = |value: usize, count: usize| {
        held = held << count | u32::try_from(value).unwrap_or(0);
        bits += count;
        while bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits & 0xff) as u8);
        }
        held &= 0xff;
    };
    put(4, 4);
    put(data.len(), length_bits(version));
    data.iter().for_each(|byte| put((*byte).into(), 8));
    // The end, which fills the last byte too.
    put(0, 4);
    bytes.truncate(len);
    while bytes.len() < len {
        let filled = (bytes.len() - data.len()) % 2 == (2 + length_bits(version) / 16) % 2;
        bytes.push(if filled { 0xec } else { 0x11 });
    }
    bytes
}

/// Cut into blocks, each with its correction, and interleaved.
fn corrected(data: &[u8], version: usize, level: &Level) -> Vec<u8> {
    let count = Level::of_version(&level.blocks, version);
    let correction_len = Level::of_version(&level.correction, version);
    let (short, longer) = (data.len() / count, data.len() % count);
    let divisor = divisor(correction_len);
    let mut rest = data;
    let mut blocks: Vec<(&[u8], Vec<u8>)> = Vec::new();
    for i in 0..count {
        let (block, after) = rest.split_at(short + usize::from(i >= count - longer));
        rest = after;
        blocks.push((block, correction(block, &divisor)));
    }
    let data = (0..=short).flat_map(|i| blocks.iter().filter_map(move |(data, _)| data.get(i)));
    let correction = (0..correction_len).flat_map(|i| blocks.iter().map(move |(_, correction)| &correction[i]));
    data.chain(correction).copied().collect()
}

/// The product of `x - 2^i` for each i below the degree, without its first coefficient, which is 1.
fn divisor(degree: usize) -> Vec<u8> {
    let mut divisor = vec![0; degree];
    divisor[degree - 1] = 1;
    let mut root = 1;
    for _ in 0..degree {
        for i in 0..degree {
            divisor[i] = product(divisor[i], root) ^ divisor.get(i + 1).copied().unwrap_or(0);
        }
        root = product(root, 2);
    }
    divisor
}

/// What is left of the data, as a polynomial, over the divisor.
fn correction(data: &[u8], divisor: &[u8]) -> Vec<u8> {
    let mut rest = vec![0; divisor.len()];
    for byte in data {
        let factor = byte ^ rest[0];
        rest.rotate_left(1);
        rest[divisor.len() - 1] = 0;
        rest.iter_mut().zip(divisor).for_each(|(rest, coefficient)| *rest ^= product(*coefficient, factor));
    }
    rest
}

/// In the field of 2^8 elements modulo x^8 + x^4 + x^3 + x^2 + 1.
fn product(a: u8, b: u8) -> u8 {
    let twice = |value: u8| value << 1 ^ if value & 0x80 == 0 { 0 } else { 0x1d };
    (0..8).rev().fold(0, |sum, bit| twice(sum) ^ if b >> bit & 1 == 1 { a } else { 0 })
}

/// The remainder of a binary polynomial, for the code of the format and of the version.
fn remainder(data: u32, degree: u32, generator: u32) -> u32 {
    (0..degree).fold(data, |rest, _| (rest << 1) ^ ((rest >> (degree - 1) & 1) * generator))
}

#[cfg(test)]
mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    fn text(len: usize) -> String {
        (0..len).map(|i| char::from(b'!' + u8::try_from(i * 7 % 90).expect("below 90"))).collect()
    }

    /// What this was when another's decoder (zxing-cpp 3.1) read each of them, as SVG and as text, and found the text.
    #[test]
    fn codes_of_every_version_are_those_that_were_read() {
        let mut hash = Sha256::new();
        for version in 1..=40 {
            let most = LOW.data_len(version) - if version < 10 { 2 } else { 3 };
            let code = Qr::of(&text(most)).expect("it fits");
            assert_eq!(code.size(), 17 + 4 * version);
            hash.update(code.svg());
            let less = Qr::of(&text(most * 3 / 4)).expect("it fits");
            hash.update(less.terminal());
        }
        assert_eq!(hex::encode(hash.finalize()), "bf64888443801854439e365deb87a68d32f867b010eb5b8beadc93408df5d9c1");
    }

    #[test]
    fn what_no_code_holds_is_refused() {
        assert_eq!(Qr::of(&text(TEXT_LEN_MAX)).expect("it fits").size(), 177);
        assert_eq!(Qr::of(&text(TEXT_LEN_MAX + 1)), Err(TooLong { len: TEXT_LEN_MAX + 1 }));
        assert_eq!(Qr::of("").expect("it fits").size(), 21);
    }

    #[test]
    fn a_terminal_shows_two_rows_of_modules_in_a_line() {
        let shown = Qr::of("fd00::1").expect("it fits").terminal();
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines.len(), (21 + 2 * 2_usize).div_ceil(2));
        assert_eq!(lines[0], format!("\u{1b}[97;40m{}\u{1b}[0m", "█".repeat(25)));
        assert_eq!(lines[12], format!("\u{1b}[97;40m{}\u{1b}[0m", "▀".repeat(25)));
    }
}
