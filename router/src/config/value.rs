//! The values a person writes: sizes, times, amounts, prefixes, endpoints.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use metering::units::ParseTokensError;
use metering::{Bytes, Tokens};
use node::Prefix;
use thiserror::Error;

/// An amount of tokens as a person writes it: "0.25".
///
/// It stays decimal text until the ledger says how many decimals its token has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Amount(String);

/// Why a decimal amount has no equal in base units.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AmountError {
    /// It has more decimals than the token.
    #[error("{amount} has more than the {decimals} decimals of this community's token")]
    TooFine {
        /// The amount as written.
        amount: String,
        /// The token's decimals.
        decimals: u8,
    },
    /// It is more than a ledger can hold.
    #[error("{amount} is more than a ledger can hold")]
    TooLarge {
        /// The amount as written.
        amount: String,
    },
}

impl Amount {
    /// Zero.
    pub fn zero() -> Self {
        Self("0".to_owned())
    }

    /// Whether it is zero, whatever the decimals.
    pub fn is_zero(&self) -> bool {
        self.0.bytes().all(|digit| matches!(digit, b'0' | b'.'))
    }

    /// The amount in base units of a token with this many decimals; exact or refused.
    ///
    /// # Errors
    /// See [`AmountError`].
    pub fn in_base_units(&self, decimals: u8) -> Result<Tokens, AmountError> {
        Tokens::parse_decimal(&self.0, decimals).map_err(|error| match error {
            ParseTokensError::TooManyDecimals { decimals } => AmountError::TooFine { amount: self.0.clone(), decimals },
            ParseTokensError::TooLarge | ParseTokensError::NotANumber => {
                AmountError::TooLarge { amount: self.0.clone() } // it is a number: `from_str` saw to that
            }
        })
    }
}

impl FromStr for Amount {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(fraction) {
            return Err("this is not a decimal number");
        }
        if whole.len() > 20 || fraction.len() > 18 {
            return Err("this number has too many digits");
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads an IPv6 prefix, such as "fd12:3456:789a::/48".
///
/// # Errors
/// Says what is wrong with the text.
pub fn parse_prefix(text: &str) -> Result<Prefix, String> {
    let not_a_prefix = || "this is not an IPv6 prefix".to_owned();
    let (address, len) = text.split_once('/').ok_or_else(not_a_prefix)?;
    let address: Ipv6Addr = address.parse().map_err(|_| not_a_prefix())?;
    let len: u8 = digits(len).ok_or_else(not_a_prefix)?;
    let prefix = Prefix::new(address, len).ok_or_else(|| "the length is above 128".to_owned())?;
    if prefix.addr() == address {
        Ok(prefix)
    } else {
        Err(format!("there are bits behind the length; {prefix} would be without"))
    }
}

/// Where a neighbour can be reached over the network below the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A fixed address.
    Address(SocketAddr),
    /// A name to be resolved, again and again: a home's address changes.
    Name {
        /// The host name.
        host: String,
        /// The UDP port.
        port: u16,
    },
}

impl Endpoint {
    /// Another port of the same host.
    pub(crate) fn at_port(&self, port: u16) -> Self {
        match self {
            Self::Address(address) => Self::Address(SocketAddr::new(address.ip(), port)),
            Self::Name { host, .. } => Self::Name { host: host.clone(), port },
        }
    }
}

impl FromStr for Endpoint {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = text.rsplit_once(':').ok_or("the port is missing")?;
        let port = digits(port).filter(|port| *port != 0).ok_or("the port is not a number from 1 to 65535")?;
        if let Ok(address) = text.parse::<SocketAddr>() {
            let unusable = address.ip().is_unspecified() || address.ip().is_multicast();
            return if unusable { Err("nobody can be reached at this address") } else { Ok(Self::Address(address)) };
        }
        if host.contains(':') || host.parse::<IpAddr>().is_ok() {
            return Err("an IPv6 address stands in brackets before the port");
        }
        if is_host_name(host) {
            Ok(Self::Name { host: host.to_owned(), port })
        } else {
            Err("this is neither an IP address nor a host name")
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// Labels of letters, digits and hyphens (RFC 1123, section 2.1); an all-numeric last label is a mistyped address.
fn is_host_name(host: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let last = host.rsplit('.').next().unwrap_or_default();
    host.len() <= 253 && host.split('.').all(is_label) && !last.bytes().all(|byte| byte.is_ascii_digit())
}

/// Reads a size: "64 MiB", "64MiB", "1500 B", "1500".
///
/// # Errors
/// Says what is wrong with the text.
pub fn parse_bytes(text: &str) -> Result<Bytes, &'static str> {
    let (number, unit) = split_unit(text).ok_or("this is not a size")?;
    let factor: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" | "KB" | "MB" | "GB" | "TB" => {
            return Err("sizes count in powers of two: KiB, MiB, GiB or TiB");
        }
        _ => return Err("the unit is not one of B, KiB, MiB, GiB, TiB"),
    };
    number.checked_mul(factor).map(Bytes::new).ok_or("this size is too large")
}

/// Reads a time span: "500ms", "4s", "1 min", "2 h", "90d".
///
/// # Errors
/// Says what is wrong with the text.
pub fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    let (number, unit) = split_unit(text).ok_or("this is not a time span")?;
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" => return Err("the unit is missing: ms, s, min, h or d"),
        _ => return Err("the unit is not one of ms, s, min, h, d"),
    };
    number.checked_mul(milliseconds).map(Duration::from_millis).ok_or("this time span is too long")
}

/// "64 MiB" is 64 and "MiB".
fn split_unit(text: &str) -> Option<(u64, &str)> {
    let end = text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    Some((digits(number)?, unit.trim()))
}

/// A number written in digits only: no sign, no spaces.
fn digits<T: FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_become_base_units_exactly_or_not_at_all() {
        let units =
            |text: &str, decimals| text.parse::<Amount>().unwrap().in_base_units(decimals).map(|tokens| tokens.get());
        assert_eq!(units("0.25", 6), Ok(250_000));
        assert_eq!(units("1", 0), Ok(1));
        assert_eq!(units("007.10", 2), Ok(710));
        assert_eq!(units("1.500000000", 1), Ok(15), "trailing zeros say nothing");
        let too_fine = units("0.125", 2).unwrap_err();
        assert_eq!(too_fine.to_string(), "0.125 has more than the 2 decimals of this community's token");
        let too_large = units("99999999999999999999", 18).unwrap_err();
        assert_eq!(too_large.to_string(), "99999999999999999999 is more than a ledger can hold");
        assert!(matches!(units("1", 200), Err(AmountError::TooLarge { .. })));
    }

    #[test]
    fn only_plain_decimals_are_amounts() {
        for text in ["", ".", ".5", "5.", "-1", "+1", "1e3", "1,5", "1.2.3", "١", " 1"] {
            assert!(text.parse::<Amount>().is_err(), "{text:?}");
        }
        assert!("0.000".parse::<Amount>().unwrap().is_zero());
        assert!(!"0.001".parse::<Amount>().unwrap().is_zero());
    }

    #[test]
    fn prefixes_know_what_they_cover() {
        let prefix = parse_prefix;
        let home = prefix("fd12:3456:789a::/48").unwrap();
        let lan = prefix("fd12:3456:789a:1::/64").unwrap();
        assert!(home.covers(lan) && !lan.covers(home));
        assert!(prefix("::/0").unwrap().covers(home));
        assert_eq!(home.to_string(), "fd12:3456:789a::/48");
        assert_eq!(prefix("fd00::1/64").unwrap_err(), "there are bits behind the length; fd00::/64 would be without");
        assert_eq!(prefix("fd00::/129").unwrap_err(), "the length is above 128");
        for text in ["fd00::", "10.0.0.0/8", "fd00::/", "fd00::/+8", "fd00::/64/64", ""] {
            assert_eq!(prefix(text).unwrap_err(), "this is not an IPv6 prefix", "{text:?}");
        }
    }

    #[test]
    fn endpoints_are_addresses_or_names() {
        for text in ["192.0.2.1:51820", "[2001:db8::1]:443", "mesh.example.org:51820", "router_1:9"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        for (text, why) in [
            ("mesh.example.org", "the port is missing"),
            ("mesh.example.org:0", "the port is not a number from 1 to 65535"),
            ("mesh.example.org:70000", "the port is not a number from 1 to 65535"),
            ("2001:db8::1:443", "an IPv6 address stands in brackets before the port"),
            ("0.0.0.0:51820", "nobody can be reached at this address"),
            ("[ff02::1]:51820", "nobody can be reached at this address"),
            ("192.0.2.300:51820", "this is neither an IP address nor a host name"),
            ("two words:1", "this is neither an IP address nor a host name"),
            (":51820", "this is neither an IP address nor a host name"),
        ] {
            assert_eq!(text.parse::<Endpoint>(), Err(why), "{text:?}");
        }
    }

    #[test]
    fn sizes_and_times_need_units_everybody_reads_alike() {
        assert_eq!(parse_bytes("64 MiB"), Ok(Bytes::new(64 << 20)));
        assert_eq!(parse_bytes("64MiB"), Ok(Bytes::new(64 << 20)));
        assert_eq!(parse_bytes("1500"), Ok(Bytes::new(1500)));
        assert_eq!(parse_bytes("64 MB"), Err("sizes count in powers of two: KiB, MiB, GiB or TiB"));
        assert_eq!(parse_bytes("99999999 TiB"), Err("this size is too large"));
        assert_eq!(parse_bytes("-1"), Err("this is not a size"));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2 min"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("4"), Err("the unit is missing: ms, s, min, h or d"));
        assert_eq!(parse_duration("99999999999999999 h"), Err("this time span is too long"));
    }
}
