//! Numbers with types: billed bytes, tokens, and the price that turns one into the other.

use std::fmt;

use thiserror::Error;

/// Billed bytes: what [`billed_length`] gives for each packet, summed.
///
/// A `u64`, because a 32-bit router's `usize` ends at 4 GiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(u64);

/// An amount of the community's token, in base units, below 2^96 (what a channel on the ledger can hold).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tokens(u128);

/// Base units of token per GiB (2^30 billed bytes). 0 is free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Price(u64);

/// Billed length of a packet whose inner IP length is `ip_len`: the WireGuard transport-data message that carries it.
///
/// 16 bytes of header, the packet padded to 16, and a 16-byte tag. The same number is billed on a QUIC link, so a
/// packet costs the same whatever carries it.
#[must_use]
pub const fn billed_length(ip_len: usize) -> Bytes {
    // Lossless: no target has a usize above 64 bits. Saturation keeps absurd lengths from wrapping to cheap ones.
    Bytes((ip_len as u64).div_ceil(16).saturating_mul(16).saturating_add(32))
}

impl Bytes {
    /// No bytes.
    pub const ZERO: Self = Self(0);
    /// The largest count.
    pub const MAX: Self = Self(u64::MAX);

    /// A count of `bytes`.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// A count of `mebibytes` times 2^20.
    #[must_use]
    pub const fn from_mebibytes(mebibytes: u32) -> Self {
        Self((mebibytes as u64) << 20)
    }

    /// The count as a plain number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The sum, or `None` above [`Bytes::MAX`].
    #[must_use]
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// The sum, or [`Bytes::MAX`].
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, or zero when `other` is larger.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

/// For people: `512 B`, `1.5 MiB`. Rounded down, so the text never shows more than was counted.
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        if self.0 < 1024 {
            return f.pad(&format!("{} B", self.0));
        }
        let step = (self.0.ilog2() / 10) as usize;
        let shift = 10 * step;
        // The remainder is below 2^60, so ten times it fits.
        let tenths = ((self.0 & ((1 << shift) - 1)) * 10) >> shift;
        f.pad(&format!("{}.{tenths} {}", self.0 >> shift, UNITS[step - 1]))
    }
}

impl Tokens {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// The largest amount: 2^96 - 1 base units.
    pub const MAX: Self = Self((1 << 96) - 1);

    /// An amount of `base_units`, or `None` from 2^96 on.
    #[must_use]
    pub const fn new(base_units: u128) -> Option<Self> {
        if base_units <= Self::MAX.0 { Some(Self(base_units)) } else { None }
    }

    /// The base units as a plain number.
    #[must_use]
    pub const fn get(self) -> u128 {
        self.0
    }

    /// The sum, or `None` above [`Tokens::MAX`].
    #[must_use]
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        // Both are below 2^96: the sum of the inner numbers cannot wrap.
        Self::new(self.0 + other.0)
    }

    /// The difference, or `None` below zero.
    #[must_use]
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(difference) => Some(Self(difference)),
            None => None,
        }
    }

    /// The sum, or [`Tokens::MAX`]. For bounds and displays; what is paid is added with `checked_add`.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        match self.checked_add(other) {
            Some(sum) => sum,
            None => Self::MAX,
        }
    }

    /// The difference, or nothing when `other` is larger.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// The amount as a 96-bit big-endian integer, as it stands on the wire.
    #[must_use]
    pub fn to_be_bytes12(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes.copy_from_slice(&self.0.to_be_bytes()[4..]);
        bytes
    }

    /// The amount of a 96-bit big-endian integer.
    #[must_use]
    pub fn from_be_bytes12(bytes: [u8; 12]) -> Self {
        let mut wide = [0; 16];
        wide[4..].copy_from_slice(&bytes);
        Self(u128::from_be_bytes(wide))
    }

    /// Displays whole tokens of a token with `decimals` decimals: `1.250000`.
    pub fn display(self, decimals: u8) -> impl fmt::Display {
        DecimalTokens { amount: self, decimals }
    }

    /// Reads whole tokens, as a person writes them, of a token with `decimals` decimals: `1.25`, `3`, `.5`.
    ///
    /// # Errors
    /// [`ParseTokensError`] names what is wrong; a digit beyond the token's last decimal is refused, not rounded.
    pub fn parse_decimal(text: &str, decimals: u8) -> Result<Self, ParseTokensError> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        if whole.is_empty() && fraction.is_empty()
            || !(whole.bytes().chain(fraction.bytes())).all(|byte| byte.is_ascii_digit())
        {
            return Err(ParseTokensError::NotANumber);
        }
        let fraction = fraction.trim_end_matches('0');
        if fraction.len() > usize::from(decimals) {
            return Err(ParseTokensError::TooManyDecimals { decimals });
        }
        let padding = usize::from(decimals) - fraction.len();
        whole
            .bytes()
            .chain(fraction.bytes())
            .map(|digit| digit - b'0')
            .chain(std::iter::repeat_n(0, padding))
            .try_fold(Self::ZERO, |sum, digit| Self::new(sum.0 * 10 + u128::from(digit)))
            .ok_or(ParseTokensError::TooLarge)
    }
}

/// Why a text is not an amount of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ParseTokensError {
    /// Something other than digits with at most one point.
    #[error("an amount is written in digits with at most one point, like 1.25")]
    NotANumber,
    /// A digit smaller than the token's base unit.
    #[error("this token has only {decimals} decimals")]
    TooManyDecimals {
        /// How many it has.
        decimals: u8,
    },
    /// 2^96 base units or more.
    #[error("an amount must be below 2^96 base units")]
    TooLarge,
}

/// The integer of base units.
impl fmt::Display for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

struct DecimalTokens {
    amount: Tokens,
    decimals: u8,
}

impl fmt::Display for DecimalTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = usize::from(self.decimals);
        let digits = format!("{:0>width$}", self.amount.0, width = decimals + 1);
        let (whole, fraction) = digits.split_at(digits.len() - decimals);
        if decimals == 0 { f.pad(whole) } else { f.pad(&format!("{whole}.{fraction}")) }
    }
}

impl Price {
    /// Free.
    pub const FREE: Self = Self(0);

    /// `base_units` per GiB.
    #[must_use]
    pub const fn new(base_units: u64) -> Self {
        Self(base_units)
    }

    /// The base units per GiB as a plain number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// What `bytes` cost, rounded down; `None` from 2^96 base units on.
    ///
    /// Rounding happens on a cumulative count, so it never adds up: asking for a count twice as large gives twice the
    /// money, up to one base unit.
    #[must_use]
    pub const fn of(self, bytes: Bytes) -> Option<Tokens> {
        Tokens::new((self.0 as u128 * bytes.0 as u128) >> 30)
    }

    /// The sum of two prices: what a relay asks that adds its own fee to its upstream's price.
    #[must_use]
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }
}

/// The integer of base units per GiB.
impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn billed_length_is_the_wireguard_transport_message() {
        let lengths = [(0, 32), (1, 48), (16, 48), (17, 64), (40, 80), (1280, 1312), (1420, 1456)];
        for (ip, billed) in lengths {
            assert_eq!(billed_length(ip), Bytes::new(billed), "{ip}");
        }
        assert_eq!(billed_length(usize::MAX), Bytes::MAX);
    }

    #[test]
    fn bytes_read_well_and_never_round_up() {
        let texts = [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536 << 10, "1.5 MiB"), (u64::MAX, "15.9 EiB")];
        for (count, text) in texts {
            assert_eq!(Bytes::new(count).to_string(), text);
        }
        assert_eq!(format!("{:>8}|{:<8}|", Bytes::new(7), Bytes::new(7)), "     7 B|7 B     |");
    }

    #[test]
    fn tokens_stay_below_two_to_the_96() {
        assert_eq!(Tokens::new(1 << 96), None);
        assert_eq!(Tokens::MAX.checked_add(Tokens(1)), None);
        assert_eq!(Tokens::ZERO.checked_sub(Tokens(1)), None);
        assert_eq!(Tokens::MAX.to_be_bytes12(), [0xff; 12]);
    }

    #[test]
    fn tokens_read_and_write_as_people_write_money() {
        let token = |text| Tokens::parse_decimal(text, 6);
        assert_eq!(token("1.25"), Ok(Tokens(1_250_000)));
        assert_eq!(token(".5"), Ok(Tokens(500_000)));
        assert_eq!(token("7"), Ok(Tokens(7_000_000)));
        assert_eq!(token("1.2500000"), Ok(Tokens(1_250_000)));
        assert_eq!(token("0.0000001"), Err(ParseTokensError::TooManyDecimals { decimals: 6 }));
        for wrong in ["", ".", "-1", "1e6", "1.2.3", " 1", "1,5", "٣"] {
            assert_eq!(token(wrong), Err(ParseTokensError::NotANumber), "{wrong}");
        }
        assert_eq!(token(&"9".repeat(400)), Err(ParseTokensError::TooLarge));
        assert_eq!(Tokens(1_250_000).display(6).to_string(), "1.250000");
        assert_eq!(Tokens(5).display(6).to_string(), "0.000005");
        assert_eq!(Tokens(5).display(0).to_string(), "5");
        assert_eq!(format!("{:>6}", Tokens(5).display(1)), "   0.5");
    }

    #[test]
    fn price_rounds_down_and_reports_overflow() {
        assert_eq!(Price::new(1000).of(Bytes::new(1 << 30)), Some(Tokens(1000)));
        assert_eq!(Price::new(1000).of(Bytes::new((1 << 30) - 1)), Some(Tokens(999)));
        assert_eq!(Price::FREE.of(Bytes::MAX), Some(Tokens::ZERO));
        assert_eq!(Price::new(u64::MAX).of(Bytes::MAX), None);
    }

    proptest! {
        #[test]
        fn decimal_text_round_trips(amount in 0..1_u128 << 96, decimals in 0_u8..=30) {
            let amount = Tokens(amount);
            prop_assert_eq!(Tokens::parse_decimal(&amount.display(decimals).to_string(), decimals), Ok(amount));
            prop_assert_eq!(Tokens::from_be_bytes12(amount.to_be_bytes12()), amount);
        }

        #[test]
        fn splitting_a_count_never_costs_more(price in 0..1_u64 << 40, a in 0..1_u64 << 50, b in 0..1_u64 << 50) {
            let price = Price::new(price);
            let whole = price.of(Bytes::new(a + b)).unwrap().get();
            let parts = price.of(Bytes::new(a)).unwrap().get() + price.of(Bytes::new(b)).unwrap().get();
            prop_assert!(parts <= whole && whole <= parts + 1);
        }
    }
}
