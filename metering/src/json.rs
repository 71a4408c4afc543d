//! How values stand in JSON: amounts and prices as strings of base units, because a JSON number of many programs ends at
//! 2^53; accounts as EIP-55 writes them; bytes as `0x` and hexadecimal digits.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{ChannelId, Close, NodeId, Price, Receipt, Signature, Tokens, Unverified};

/// `0x` and two digits for each byte.
#[must_use]
pub fn hex_text(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}

/// What [`hex_text`] writes, in digits of either case; `None` for anything else.
#[must_use]
pub fn read_hex(text: &str) -> Option<Vec<u8>> {
    hex::decode(text.strip_prefix("0x")?).ok()
}

/// As [`read_hex`], of exactly `N` bytes.
#[must_use]
pub fn read_hex_array<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text.strip_prefix("0x")?, &mut bytes).ok()?;
    Some(bytes)
}

/// Reads a JSON string with `parse`; `what` says what it had to be.
///
/// # Errors
/// The deserializer's, where it is no string or does not read.
pub fn from_text<'de, D: Deserializer<'de>, T>(
    from: D,
    what: &'static str,
    parse: fn(&str) -> Option<T>,
) -> Result<T, D::Error> {
    struct Text<T>(&'static str, fn(&str) -> Option<T>);
    impl<T> Visitor<'_> for Text<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            (self.1)(text).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
        }
    }
    from.deserialize_str(Text(what, parse))
}

/// For `#[serde(with)]`: 32 bytes in hexadecimal.
pub mod word {
    use super::{Deserializer, Serializer, from_text, hex_text, read_hex_array};

    /// As [`hex_text`].
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<S: Serializer>(bytes: &[u8; 32], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex_text(bytes))
    }

    /// As [`read_hex_array`].
    ///
    /// # Errors
    /// The deserializer's.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 32], D::Error> {
        from_text(from, "0x and 64 hexadecimal digits", read_hex_array)
    }
}

/// A number without sign, point, exponent or leading zeros.
fn read_number<T: FromStr>(text: &str) -> Option<T> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

macro_rules! as_text {
    ($type:ty, $write:expr, $what:literal, $read:expr) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                let write: fn(&$type) -> String = $write;
                to.serialize_str(&write(self))
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                from_text(from, $what, $read)
            }
        }
    };
}

as_text!(NodeId, ToString::to_string, "an account: 0x and 40 hexadecimal digits", |text| text.parse().ok());
as_text!(Signature, |it| hex_text(&it.0), "a signature: 0x and 130 hexadecimal digits", |text| {
    read_hex_array(text).map(Self)
});
as_text!(Tokens, ToString::to_string, "base units below 2^96, in a string of digits", |text| {
    read_number(text).and_then(Self::new)
});
as_text!(Price, |it| it.get().to_string(), "base units per GiB, in a string of digits", |text| {
    read_number(text).map(Self::new)
});

/// A receipt, field by field, with the marker of what has been checked left out.
#[derive(Serialize, Deserialize)]
#[serde(rename = "Receipt", deny_unknown_fields)]
struct ReceiptFields {
    channel: ChannelId,
    amount: Tokens,
    #[serde(with = "word")]
    meter: [u8; 32],
    signature: Signature,
}

/// An offer to close, field by field.
#[derive(Serialize, Deserialize)]
#[serde(rename = "Close", deny_unknown_fields)]
struct CloseFields {
    channel: ChannelId,
    total: Tokens,
    signature: Signature,
}

impl<S> Serialize for Receipt<S> {
    fn serialize<T: Serializer>(&self, to: T) -> Result<T::Ok, T::Error> {
        let (channel, amount) = (self.channel(), self.amount());
        ReceiptFields { channel, amount, meter: self.meter(), signature: self.signature() }.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Receipt<Unverified> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let ReceiptFields { channel, amount, meter, signature } = ReceiptFields::deserialize(from)?;
        Ok(Self { channel, amount, meter, signature, state: PhantomData })
    }
}

impl<S> Serialize for Close<S> {
    fn serialize<T: Serializer>(&self, to: T) -> Result<T::Ok, T::Error> {
        CloseFields { channel: self.channel, total: self.total, signature: self.signature }.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Close<Unverified> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let CloseFields { channel, total, signature } = CloseFields::deserialize(from)?;
        Ok(Self { channel, total, signature, state: PhantomData })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AccountKey, LedgerDomain};

    fn receipt() -> Receipt<Unverified> {
        let key = AccountKey::from_bytes(&[0xa1; 32]).unwrap();
        let domain = LedgerDomain { chain_id: 0, contract: NodeId([0xc0; 20]) };
        let channel = ChannelId { payer: key.node_id(), payee: NodeId([0xb0; 20]), nonce: 3 };
        Receipt::sign(&key, &domain, channel, Tokens::MAX, [7; 32]).into_unverified()
    }

    #[test]
    fn a_receipt_comes_back_as_it_went() {
        let text = serde_json::to_string(&receipt()).unwrap();
        assert!(
            text.contains(r#""nonce":3"#) && text.contains(r#""amount":"79228162514264337593543950335""#),
            "{text}"
        );
        assert_eq!(serde_json::from_str::<Receipt<Unverified>>(&text).unwrap(), receipt());
        let more = text.replace("\"nonce\"", "\"more\":1,\"nonce\"");
        assert!(serde_json::from_str::<Receipt<Unverified>>(&more).is_err(), "what we do not know is not ignored");
    }

    #[test]
    fn amounts_have_one_form() {
        for (text, read) in [
            ("\"0\"", Some(0)),
            ("\"15\"", Some(15)),
            ("\"79228162514264337593543950335\"", Some(Tokens::MAX.get())),
            ("\"79228162514264337593543950336\"", None),
            ("\"015\"", None),
            ("\"+1\"", None),
            ("\"-1\"", None),
            ("\"1.0\"", None),
            ("\"1e3\"", None),
            ("\" 1\"", None),
            ("\"\"", None),
            ("15", None),
        ] {
            assert_eq!(serde_json::from_str::<Tokens>(text).ok().map(Tokens::get), read, "{text}");
        }
    }

    #[test]
    fn what_does_not_read_is_named() {
        let error = serde_json::from_str::<NodeId>("\"0x12\"").unwrap_err().to_string();
        assert!(error.contains("expected an account: 0x and 40 hexadecimal digits"), "{error}");
        assert!(serde_json::from_str::<Signature>("\"0xzz\"").is_err());
        assert_eq!(read_hex("0x0aFF"), Some(vec![10, 255]));
        assert_eq!((read_hex("0aff"), read_hex("0xa")), (None, None));
    }
}
