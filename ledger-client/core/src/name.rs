//! Names of the mesh: `NAME.mesh` is the node of the member that has claimed NAME.
//!
//! A name costs nothing, so there is one for each account, and it takes a standing membership. It is kept while its holder is a
//! member and for [`KEPT_S`] after a membership has run out, because people renew late and nobody else shall have their name by
//! then. Who was put out keeps nothing: an issuer has decided that, and whoever comes first has the name. A name that is an
//! insult or another's is taken back by an issuer, who can put its holder out as well: no new power.
//!
//! The node's WireGuard key stands beside the name, as its address in the mesh follows from the key; and the account's own
//! [`claim`] that the two belong together, so that whoever looks a name up need not believe the ledger that it does.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use metering::eip712::{self, Word};
use metering::identity::SignatureError;
use metering::json::{from_text, word};
use metering::{AccountKey, LedgerDomain, NodeId, Signature, WireguardKey, mesh_address};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::UnixTime;
use crate::fact::{Fact, Fields, Reader, kind};
use crate::membership::Membership;

/// The longest name, in bytes: it is said aloud.
pub const MAX_NAME_BYTES: usize = 32;

/// How long after its holder's membership has run out a name is kept for it, in seconds: 30 days.
pub const KEPT_S: u32 = 30 * 24 * 60 * 60;

/// A name: 1 to [`MAX_NAME_BYTES`] small letters a to z, digits and hyphens (RFC 1123, section 2.1). No hyphen is its first or
/// last character, or both its third and fourth, where other alphabets are encoded (RFC 5890, section 2.3.1): two names that look alike
/// are one. Nor is it digits alone, which some programs take for an address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name([u8; MAX_NAME_BYTES]);

/// Why a text is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// Empty or too long.
    #[error("a name has 1 to {MAX_NAME_BYTES} characters")]
    Length,
    /// Another character, a capital letter too.
    #[error("a name has small letters a to z, digits and hyphens")]
    Character,
    /// A hyphen where there is none.
    #[error("a name does not begin or end with a hyphen, nor has it two as its third and fourth character")]
    Hyphen,
    /// Nothing but digits.
    #[error("a name has at least one letter")]
    Digits,
}

impl Name {
    /// As it is written, without `.mesh`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(MAX_NAME_BYTES);
        // Made of ASCII alone.
        std::str::from_utf8(&self.0[..end]).unwrap_or_default()
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let bytes = text.as_bytes();
        if bytes.is_empty() || bytes.len() > MAX_NAME_BYTES {
            return Err(NameError::Length);
        }
        if !bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-') {
            return Err(NameError::Character);
        }
        if bytes.starts_with(b"-") || bytes.ends_with(b"-") || bytes.get(2..4) == Some(b"--") {
            return Err(NameError::Hyphen);
        }
        if bytes.iter().all(u8::is_ascii_digit) {
            return Err(NameError::Digits);
        }
        let mut name = [0; MAX_NAME_BYTES];
        name[..bytes.len()].copy_from_slice(bytes);
        Ok(Self(name))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({})", self.as_str())
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from_text(from, "a name of the mesh: small letters, digits and hyphens", |text| text.parse().ok())
    }
}

/// Who has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The account.
    pub account: NodeId,
    /// Its node's WireGuard key.
    #[serde(with = "word")]
    pub wireguard: [u8; 32],
    /// The account's [`claim`].
    pub claim: Signature,
}

impl Holder {
    /// Where the node is.
    #[must_use]
    pub fn address(&self) -> Ipv6Addr {
        mesh_address(&WireguardKey(self.wireguard))
    }

    /// Whether the account itself has put the name to this node.
    ///
    /// # Errors
    /// [`SignatureError`]
    pub fn verify(&self, domain: &LedgerDomain, name: &Name) -> Result<(), SignatureError> {
        self.claim.verify(&digest(domain, name, self.account, &self.wireguard), self.account)
    }
}

/// A name and who has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// The name.
    pub name: Name,
    /// Who has it.
    #[serde(flatten)]
    pub holder: Holder,
}

/// Signs that a name is that of the node with this WireGuard key: the `NameClaim`, by the key that an account is named after,
/// whichever signs its orders.
#[must_use]
pub fn claim(key: &AccountKey, domain: &LedgerDomain, name: &Name, wireguard: &[u8; 32]) -> Signature {
    key.sign_digest(&digest(domain, name, key.node_id(), wireguard))
}

/// The account whose key claimed a name for `account`: that one, where the claim is good.
///
/// # Errors
/// [`SignatureError`], all but `WrongSigner`.
pub fn claimed_by(
    claim: &Signature,
    domain: &LedgerDomain,
    name: &Name,
    account: NodeId,
    wireguard: &[u8; 32],
) -> Result<NodeId, SignatureError> {
    claim.recover(&digest(domain, name, account, wireguard))
}

/// What the account signs.
const KIND: &str = "NameClaim(string name,address account,bytes32 wireguard)";

fn digest(domain: &LedgerDomain, name: &Name, account: NodeId, wireguard: &[u8; 32]) -> Word {
    let words = [eip712::text(name.as_str()), eip712::address(account), *wireguard];
    eip712::digest(&domain.separator(), &eip712::hash_struct(KIND, &words))
}

/// Whether a membership keeps its holder's name at this time.
#[must_use]
pub fn keeps(membership: Option<Membership>, at: UnixTime) -> bool {
    membership.is_some_and(|membership| !membership.revoked && at < membership.until.after(KEPT_S))
}

/// What the registry has under a name; nothing once it was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameListing(pub Option<Holder>);

/// The name that an account has; none once it was given up or went to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnName(pub Option<Name>);

/// What the places of all names begin with, and what follows the last of them.
#[must_use]
pub fn all_names() -> [Vec<u8>; 2] {
    [kind::NAME, kind::NAME + 1].map(|kind| vec![kind])
}

/// The name at this place, if it is one of a name.
#[must_use]
pub fn name_at(place: &[u8]) -> Option<Name> {
    let name = place.strip_prefix(&[kind::NAME])?;
    std::str::from_utf8(name).ok()?.parse().ok()
}

impl Fact for NameListing {
    type Key = Name;

    fn place(name: &Name) -> Vec<u8> {
        Fields::of(kind::NAME).bytes(name.as_str().as_bytes()).finish()
    }

    fn encode(&self) -> Vec<u8> {
        let Some(Holder { account, wireguard, claim }) = self.0 else { return Vec::new() };
        Fields::default().account(account).bytes(&wireguard).bytes(&claim.0).finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self(None));
        }
        let mut from = Reader(bytes);
        let holder = Holder { account: from.account()?, wireguard: from.bytes()?, claim: from.signature()? };
        from.end(Self(Some(holder)))
    }
}

impl Fact for OwnName {
    type Key = NodeId;

    fn place(account: &NodeId) -> Vec<u8> {
        Fields::of(kind::OWN_NAME).account(*account).finish()
    }

    fn encode(&self) -> Vec<u8> {
        self.0.map(|name| name.as_str().as_bytes().to_vec()).unwrap_or_default()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() {
            return Some(Self(None));
        }
        Some(Self(Some(std::str::from_utf8(bytes).ok()?.parse().ok()?)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::role::Role;
    use crate::story::{Story, Who, alice, bob, carol, id, treasurer};
    use crate::{Command, Event, Hash, Records, Refusal};

    const KEY: [u8; 32] = [0x4a; 32];

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn take(story: &Story, who: Who, text: &str) -> Command {
        let claim = claim(&who(), &story.state.genesis().domain(), &name(text), &KEY);
        Command::ClaimName { name: name(text), wireguard: KEY, claim }
    }

    fn give_up(text: &str) -> Command {
        Command::ReleaseName { name: name(text) }
    }

    fn holder(story: &Story, text: &str) -> Option<NodeId> {
        let Ok(fact) = story.state.fact(&NameListing::place(&name(text)));
        let holder = fact.and_then(|fact| NameListing::decode(&fact).unwrap().0)?;
        assert_eq!(holder.verify(&story.state.genesis().domain(), &name(text)), Ok(()));
        Some(holder.account)
    }

    fn own(story: &Story, who: Who) -> Option<String> {
        let Ok(fact) = story.state.fact(&OwnName::place(&id(who)));
        Some(OwnName::decode(&fact?).unwrap().0?.to_string())
    }

    fn issue(story: &mut Story, who: Who, until: u64) {
        story.does(bob, Command::IssueMembership { to: id(who), until: UnixTime::from_seconds(until) });
    }

    /// Bob is an issuer; Alice and Carol are members until second 2000.
    fn story() -> Story {
        let mut story = Story::begin();
        story.does(treasurer, Command::Appoint { role: Role::Issuer, to: id(bob) });
        issue(&mut story, alice, 2000);
        issue(&mut story, carol, 2000);
        story
    }

    #[test]
    fn names_are_small_letters_digits_and_hyphens_within() {
        for text in ["a", "roof", "roof-3", "3roof", "1-2", "a-b--c", &"x".repeat(32)] {
            assert_eq!(name(text).as_str(), text);
        }
        let error = |text: &str| text.parse::<Name>().unwrap_err();
        for text in ["", &"x".repeat(33)] {
            assert_eq!(error(text), NameError::Length, "{text}");
        }
        for text in ["Roof", "ro of", "roof.mesh", "ro_of", "dach\u{e4}", "\0", "a\0"] {
            assert_eq!(error(text), NameError::Character, "{text}");
        }
        for text in ["-roof", "roof-", "-", "xn--roof", "ab--c"] {
            assert_eq!(error(text), NameError::Hyphen, "{text}");
        }
        assert_eq!(error("1234"), NameError::Digits);
    }

    proptest! {
        #[test]
        fn a_name_is_what_it_was_read_from_and_so_are_its_records(text in "[a-z0-9-]{0,34}", more in prop::collection::vec(any::<u8>(), 0..140)) {
            if let Ok(name) = text.parse::<Name>() {
                prop_assert_eq!(name.as_str(), &text);
                prop_assert_eq!(name_at(&NameListing::place(&name)), Some(name));
                let own = OwnName(Some(name));
                prop_assert_eq!(OwnName::decode(&own.encode()), Some(own));
                prop_assert_eq!(serde_json::from_str::<Name>(&serde_json::to_string(&name).unwrap()).unwrap(), name);
            }
            // Whatever reads has one encoding.
            prop_assert!(NameListing::decode(&more).is_none_or(|read| read.encode() == more));
            prop_assert!(OwnName::decode(&more).is_none_or(|read| read.encode() == more));
            prop_assert!(name_at(&more).is_none_or(|read| NameListing::place(&read) == more));
        }
    }

    /// Computed with `eth_account`.
    #[test]
    fn claim_is_what_ethereum_tools_compute() {
        let key = AccountKey::from_bytes(&[0xa1; 32]).unwrap();
        let domain = LedgerDomain { chain_id: 0, contract: NodeId([0xc0; 20]) };
        let digest = digest(&domain, &name("roof-3"), key.node_id(), &KEY);
        assert_eq!(Hash(digest).to_string(), "d8e9a87b144b49694f2f83a1631ffe668aba03d68d4566c13e994c0c341a2914");
        let holder =
            Holder { account: key.node_id(), wireguard: KEY, claim: claim(&key, &domain, &name("roof-3"), &KEY) };
        assert_eq!(holder.verify(&domain, &name("roof-3")), Ok(()));
        assert!(holder.verify(&domain, &name("roof-4")).is_err());
        assert!(holder.verify(&LedgerDomain { chain_id: 1, ..domain }, &name("roof-3")).is_err());
        assert!(Holder { wireguard: [0x4b; 32], ..holder }.verify(&domain, &name("roof-3")).is_err());
        assert!(Holder { account: NodeId([1; 20]), ..holder }.verify(&domain, &name("roof-3")).is_err());
        assert!(include_str!("../../RULEBOOK.md").contains(KIND), "{KIND} is not in RULEBOOK.md");
    }

    #[test]
    fn first_member_to_claim_a_name_has_it_and_has_no_other() {
        let mut story = story();
        let roof = take(&story, treasurer, "roof");
        assert_eq!(story.refuses(treasurer, roof), Refusal::NotMember { account: id(treasurer) });
        let [alices, carols, other] =
            [(alice as Who, "roof"), (carol, "roof"), (alice, "attic")].map(|(who, text)| take(&story, who, text));
        assert_eq!(story.refuses(carol, give_up("roof")), Refusal::UnknownName);
        let Event::NameClaimed { account, before: None, .. } = story.does(alice, alices) else { panic!("it is hers") };
        assert_eq!(
            (account, holder(&story, "roof"), own(&story, alice)),
            (id(alice), Some(id(alice)), Some("roof".into()))
        );
        assert_eq!(story.refuses(carol, carols), Refusal::NameTaken { account: id(alice) });
        assert_eq!(story.refuses(alice, alices), Refusal::NameAlreadyHeld { account: id(alice) });
        assert_eq!(story.refuses(alice, other), Refusal::NameAlreadyHeld { account: id(alice) });
        assert_eq!(story.refuses(carol, give_up("roof")), Refusal::NotNameHolder { by: id(carol) });
        story.does(alice, give_up("roof"));
        assert_eq!((holder(&story, "roof"), own(&story, alice)), (None, None));
        assert_eq!(story.refuses(alice, give_up("roof")), Refusal::UnknownName);
        story.does(carol, carols);
        story.does(alice, other);
        assert_eq!((holder(&story, "roof"), holder(&story, "attic")), (Some(id(carol)), Some(id(alice))));
    }

    #[test]
    fn nobody_claims_with_another_key_or_for_another_node_or_ledger() {
        let mut story = story();
        let invalid = Refusal::NameClaimInvalid { account: id(alice) };
        let domain = story.state.genesis().domain();
        for claim in [
            claim(&carol(), &domain, &name("roof"), &KEY),
            claim(&alice(), &domain, &name("attic"), &KEY),
            claim(&alice(), &domain, &name("roof"), &[0x4b; 32]),
            claim(&alice(), &LedgerDomain { chain_id: 1, ..domain }, &name("roof"), &KEY),
        ] {
            let command = Command::ClaimName { name: name("roof"), wireguard: KEY, claim };
            assert_eq!(story.refuses(alice, command), invalid);
        }
        let roof = take(&story, alice, "roof");
        story.does(alice, roof);
    }

    #[test]
    fn a_name_outlives_its_holders_membership_by_thirty_days() {
        let mut story = story();
        let alices = take(&story, alice, "roof");
        story.does(alice, alices);
        story.now = 2000 + u64::from(KEPT_S) - 1;
        let later = 2000 + 2 * u64::from(KEPT_S);
        issue(&mut story, carol, later);
        let carols = take(&story, carol, "roof");
        assert_eq!(story.refuses(carol, carols), Refusal::NameTaken { account: id(alice) });
        story.now += 1;
        let Event::NameClaimed { before, .. } = story.does(carol, carols) else { panic!("it is hers") };
        assert_eq!((before, holder(&story, "roof")), (Some(id(alice)), Some(id(carol))));
        assert_eq!((own(&story, alice), own(&story, carol)), (None, Some("roof".into())));
        // Who comes back takes another.
        issue(&mut story, alice, later);
        assert_eq!(story.refuses(alice, alices), Refusal::NameTaken { account: id(carol) });
        let attic = take(&story, alice, "attic");
        story.does(alice, attic);
    }

    #[test]
    fn who_comes_back_late_has_its_name_while_nobody_took_it() {
        let mut story = story();
        let alices = take(&story, alice, "roof");
        story.does(alice, alices);
        story.now = 2000 + 2 * u64::from(KEPT_S);
        // Also no member gives up what it has.
        let later = story.now + 1000;
        issue(&mut story, alice, later);
        issue(&mut story, carol, later);
        let carols = take(&story, carol, "roof");
        assert_eq!(story.refuses(carol, carols), Refusal::NameTaken { account: id(alice) });
        story.now += 1000;
        story.does(alice, give_up("roof"));
    }

    #[test]
    fn who_is_put_out_keeps_no_name_and_an_issuer_takes_one_back() {
        let mut story = story();
        let [alices, carols] = [alice as Who, carol].map(|who| take(&story, who, "roof"));
        story.does(alice, alices);
        story.does(bob, Command::RevokeMembership { of: id(alice) });
        assert_eq!(holder(&story, "roof"), Some(id(alice)), "until somebody wants it");
        story.does(carol, carols);
        assert_eq!((holder(&story, "roof"), own(&story, alice)), (Some(id(carol)), None));
        let released = Event::NameReleased { by: id(bob), account: id(carol), name: name("roof") };
        assert_eq!(story.does(bob, give_up("roof")), released);
        assert_eq!((holder(&story, "roof"), own(&story, carol)), (None, None));
        // It is nobody's, and whoever comes first has it.
        story.does(carol, carols);
    }

    #[test]
    fn an_account_with_another_key_claims_with_the_one_it_is_named_after() {
        let mut story = story();
        let other = AccountKey::from_bytes(&[0xa9; 32]).unwrap();
        let domain = story.state.genesis().domain();
        let Ok(last) = story.state.sequence(id(alice));
        let consent = crate::signer::consent(&other, &domain, id(alice), last + 1);
        story.does(alice, Command::ChangeSigner { signer: other.node_id(), consent });
        let roof = take(&story, alice, "roof");
        let order = story.order_by(&other, id(alice), roof);
        story.makes(order);
        assert_eq!(holder(&story, "roof"), Some(id(alice)));
    }
}
