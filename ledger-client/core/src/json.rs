//! How orders, claims, times and hashes stand in JSON. The rest derives it, in the words of these types.

use metering::json::{from_text, hex_text, read_hex_array};
use metering::{NodeId, Signature, Unverified};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::voucher::Claim;
use crate::{Command, Hash, Order, Seal, UnixTime};

/// An order, with its seal beside the rest.
#[derive(Serialize, Deserialize)]
#[serde(rename = "Order", deny_unknown_fields)]
struct OrderFields {
    account: NodeId,
    sequence: u64,
    command: Command,
    signature: Signature,
}

impl<S> Serialize for Order<S> {
    fn serialize<T: Serializer>(&self, to: T) -> Result<T::Ok, T::Error> {
        let Seal { sequence, signature } = self.seal();
        OrderFields { account: self.account(), sequence, command: *self.command(), signature }.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Order<Unverified> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let OrderFields { account, sequence, command, signature } = OrderFields::deserialize(from)?;
        Ok(Self::new(account, command, Seal { sequence, signature }))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename = "Claim", deny_unknown_fields)]
struct ClaimFields {
    issuer: NodeId,
    voucher: NodeId,
    to: NodeId,
    signature: Signature,
}

impl<S> Serialize for Claim<S> {
    fn serialize<T: Serializer>(&self, to: T) -> Result<T::Ok, T::Error> {
        let (issuer, voucher, to_account) = (self.issuer(), self.voucher(), self.to());
        ClaimFields { issuer, voucher, to: to_account, signature: self.signature() }.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Claim<Unverified> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let ClaimFields { issuer, voucher, to, signature } = ClaimFields::deserialize(from)?;
        Ok(Self::new(issuer, voucher, to, signature))
    }
}

/// Seconds since 1970.
impl Serialize for UnixTime {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(self.seconds())
    }
}

impl<'de> Deserialize<'de> for UnixTime {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let seconds = u64::deserialize(from)?;
        let time = Self::from_seconds(seconds);
        // What is signed is what was said: no time is moved into the range.
        if time.seconds() == seconds { Ok(time) } else { Err(D::Error::custom("a time is below 2^40 seconds")) }
    }
}

/// For `#[serde(serialize_with)]`: bytes in hexadecimal.
pub(crate) fn hex<S: Serializer>(bytes: &[u8; 16], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&hex_text(bytes))
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex_text(&self.0))
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from_text(from, "a hash: 0x and 64 hexadecimal digits", read_hex_array).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::story::{Story, alice, bob, id};
    use crate::{Records, Refusal, Request};
    use metering::Tokens;

    #[test]
    fn a_request_comes_back_as_it_went_and_nothing_is_read_over() {
        let story = Story::with_channel();
        let transfer = Command::Transfer { to: id(bob), amount: Tokens::new(5).unwrap() };
        let name = "roof".parse().unwrap();
        let claim = crate::name::claim(&alice(), &story.state.genesis().domain(), &name, &[7; 32]);
        let claim = Command::ClaimName { name, wireguard: [7; 32], claim };
        for request in [
            story.order(alice, transfer),
            story.order(bob, story.close(5)),
            story.order(alice, Command::Unregister),
            story.order(alice, Command::Skip),
            story.order(alice, Command::ReleaseName { name: "roof".parse().unwrap() }),
            story.order(alice, claim),
            story.receipt(7),
            Request::Finalize { channel: story.channel },
        ] {
            let text = serde_json::to_string(&request).unwrap();
            assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request, "{text}");
            for (at, _) in text.match_indices('{') {
                let more = format!("{}\"more\":1,{}", &text[..=at], &text[at + 1..]);
                assert!(serde_json::from_str::<Request>(&more).is_err(), "{more}");
            }
        }
    }

    #[test]
    fn an_order_reads_like_what_was_signed() {
        let story = Story::begin();
        let order = story.order(alice, Command::Transfer { to: id(bob), amount: Tokens::new(5).unwrap() });
        let value = serde_json::to_value(order).unwrap();
        assert_eq!(value["order"]["account"], id(alice).to_string());
        assert_eq!(value["order"]["sequence"], 1);
        assert_eq!(value["order"]["command"]["transfer"]["amount"], "5");
        let founding = serde_json::to_value(story.state.genesis()).unwrap();
        assert_eq!(founding["nonce"], format!("0x{}", "01".repeat(16)));
    }

    #[test]
    fn a_refusal_comes_back_as_it_went_under_the_name_of_its_rule() {
        let now = UnixTime::from_seconds(5);
        for refusal in [
            Refusal::UnknownChannel,
            Refusal::NotMember { account: id(bob) },
            Refusal::NameTaken { account: id(bob) },
            Refusal::NoticeNotOver { exit: UnixTime::MAX, now },
        ] {
            let text = serde_json::to_string(&refusal).unwrap();
            assert!(text.contains(refusal.rule()), "{text}");
            assert_eq!(serde_json::from_str::<Refusal>(&text).unwrap(), refusal);
        }
    }

    #[test]
    fn times_beyond_the_ledgers_are_refused_and_not_moved() {
        assert_eq!(serde_json::from_str::<UnixTime>("1099511627775").unwrap(), UnixTime::MAX);
        assert!(serde_json::from_str::<UnixTime>("1099511627776").is_err());
        assert!(serde_json::from_str::<UnixTime>("-1").is_err());
    }
}
