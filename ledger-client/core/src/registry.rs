//! The registry: which members run routers and gateways, and on what terms.
//!
//! It binds nobody: what two neighbours agree on is between them (`metering`'s terms). It is where a newcomer finds whom
//! to ask, and what they have said in public.

use metering::json::word;
use metering::{NodeId, Price};
use serde::{Deserialize, Serialize};

use crate::fact::{Fact, Fields, Reader, kind};

/// What somebody runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Station {
    /// Carries for its neighbours.
    Router,
    /// Carries out of the mesh.
    Gateway,
}

/// What a member says of what it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// What.
    pub station: Station,
    /// What it asks for what it takes from a neighbour.
    pub price_up: Price,
    /// What it asks for what it brings to a neighbour.
    pub price_down: Price,
    /// The SHA-256 of its terms in words, kept elsewhere; all zeros where there are none.
    #[serde(with = "word")]
    pub terms: [u8; 32],
}

impl Station {
    /// The number that stands for it in the log and in what is signed. Never reused.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Router => 1,
            Self::Gateway => 2,
        }
    }

    /// The station with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Router),
            2 => Some(Self::Gateway),
            _ => None,
        }
    }
}

/// What the registry has under an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listing(pub Option<Registration>);

impl Fact for Listing {
    type Key = NodeId;

    fn place(account: &NodeId) -> Vec<u8> {
        Fields::of(kind::LISTING).account(*account).finish()
    }

    fn encode(&self) -> Vec<u8> {
        let Some(Registration { station, price_up, price_down, terms }) = self.0 else { return Vec::new() };
        let fields = Fields::default().byte(station.number());
        fields.number(price_up.get()).number(price_down.get()).bytes(&terms).finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self(None));
        }
        let mut from = Reader(bytes);
        let registration = Registration {
            station: Station::from_number(from.byte()?)?,
            price_up: Price::new(from.number()?),
            price_down: Price::new(from.number()?),
            terms: from.bytes()?,
        };
        from.end(Self(Some(registration)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::role::Role;
    use crate::story::{Story, alice, bob, id, treasurer};
    use crate::{Command, Records, Refusal, UnixTime};

    fn listed(story: &Story) -> Option<Registration> {
        let Ok(fact) = story.state.fact(&Listing::place(&id(bob)));
        fact.and_then(|fact| Listing::decode(&fact).unwrap().0)
    }

    #[test]
    fn member_is_listed_with_its_newest_terms_until_it_takes_them_back() {
        let mut story = Story::begin();
        story.does(treasurer, Command::Appoint { role: Role::Issuer, to: id(alice) });
        let registration = Registration {
            station: Station::Router,
            price_up: Price::new(5),
            price_down: Price::new(6),
            terms: [7; 32],
        };
        let register = Command::Register { registration };
        assert_eq!(story.refuses(bob, register), Refusal::NotMember { account: id(bob) });
        story.does(alice, Command::IssueMembership { to: id(bob), until: UnixTime::from_seconds(2000) });
        assert_eq!(story.refuses(bob, Command::Unregister), Refusal::NotRegistered { account: id(bob) });
        story.does(bob, register);
        assert_eq!(listed(&story), Some(registration));
        let dearer = Registration { station: Station::Gateway, price_up: Price::new(8), ..registration };
        story.does(bob, Command::Register { registration: dearer });
        assert_eq!(listed(&story), Some(dearer));
        story.now = 2000;
        assert_eq!(story.refuses(bob, register), Refusal::NotMember { account: id(bob) });
        // Who is no member any more can still take back what it said.
        story.does(bob, Command::Unregister);
        assert_eq!(listed(&story), None);
        assert_eq!(story.refuses(bob, Command::Unregister), Refusal::NotRegistered { account: id(bob) });
    }

    #[test]
    fn stations_have_numbers() {
        for station in [Station::Router, Station::Gateway] {
            assert_eq!(Station::from_number(station.number()), Some(station));
        }
        assert_eq!(Station::from_number(3), None);
    }
}
