//! Memberships: who belongs to the community, and until when.
//!
//! An issuer takes an account in by name, or offers an enrolment to whoever knows a secret: it puts the account that the
//! secret is the key of on the ledger, hands the secret over on paper, and the first account that the secret has signed
//! for is a member. Who sees that signature on its way, the ledger's operator too, cannot turn it round.

use metering::eip712::{self, Word};
use metering::identity::SignatureError;
use metering::{AccountKey, LedgerDomain, NodeId, Signature};
use serde::{Deserialize, Serialize};

use crate::UnixTime;
use crate::fact::{Fact, Fields, Reader, kind};

/// An account's membership.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// When it ends.
    pub until: UnixTime,
    /// Whether an issuer has put the account out, also one that never was a member.
    pub revoked: bool,
}

impl Membership {
    /// Whether the account is a member at that time.
    #[must_use]
    pub fn holds_at(&self, now: UnixTime) -> bool {
        !self.revoked && now < self.until
    }
}

/// An issuer's offer to whoever knows a secret. It is good as long as its issuer is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enrolment {
    /// When the membership ends that it gives.
    pub until: UnixTime,
    /// When the offer ends.
    pub expires: UnixTime,
    /// What has become of it.
    pub offer: Offer,
}

/// What has become of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// It waits for the secret.
    Open,
    /// An account was enrolled by it.
    Taken,
    /// An issuer has taken it back.
    Withdrawn,
}

/// Signs with an enrolment's secret that it enrols an account: the `EnrolmentClaim`.
#[must_use]
pub fn claim(secret: &AccountKey, domain: &LedgerDomain, issuer: NodeId, account: NodeId) -> Signature {
    secret.sign_digest(&digest(domain, issuer, secret.node_id(), account))
}

/// Checks that who enrols an account knows the enrolment's secret.
///
/// # Errors
/// [`SignatureError`]
pub fn verify_claim(
    claim: &Signature,
    domain: &LedgerDomain,
    issuer: NodeId,
    enrolment: NodeId,
    account: NodeId,
) -> Result<(), SignatureError> {
    claim.verify(&digest(domain, issuer, enrolment, account), enrolment)
}

/// The account whose key claimed an enrolment for `account`: the enrolment, where it was signed with its secret.
///
/// # Errors
/// [`SignatureError`], all but `WrongSigner`.
pub fn claimed_by(
    claim: &Signature,
    domain: &LedgerDomain,
    issuer: NodeId,
    enrolment: NodeId,
    account: NodeId,
) -> Result<NodeId, SignatureError> {
    claim.recover(&digest(domain, issuer, enrolment, account))
}

/// What the secret signs.
const KIND: &str = "EnrolmentClaim(address issuer,address enrolment,address account)";

fn digest(domain: &LedgerDomain, issuer: NodeId, enrolment: NodeId, account: NodeId) -> Word {
    let words = [issuer, enrolment, account].map(eip712::address);
    eip712::digest(&domain.separator(), &eip712::hash_struct(KIND, &words))
}

impl Fact for Membership {
    type Key = NodeId;

    fn place(account: &NodeId) -> Vec<u8> {
        Fields::of(kind::MEMBERSHIP).account(*account).finish()
    }

    fn encode(&self) -> Vec<u8> {
        Fields::default().number(self.until.seconds()).byte(self.revoked.into()).finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        let membership = Self { until: from.time()?, revoked: from.flag()? };
        from.end(membership)
    }
}

impl Fact for Enrolment {
    /// The issuer's account, and the one that the secret is the key of.
    type Key = (NodeId, NodeId);

    fn place((issuer, enrolment): &(NodeId, NodeId)) -> Vec<u8> {
        Fields::of(kind::ENROLMENT).account(*issuer).account(*enrolment).finish()
    }

    fn encode(&self) -> Vec<u8> {
        let Self { until, expires, offer } = *self;
        let offer = match offer {
            Offer::Open => 0,
            Offer::Taken => 1,
            Offer::Withdrawn => 2,
        };
        Fields::default().number(until.seconds()).number(expires.seconds()).byte(offer).finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        let (until, expires) = (from.time()?, from.time()?);
        let offer = match from.byte()? {
            0 => Offer::Open,
            1 => Offer::Taken,
            2 => Offer::Withdrawn,
            _ => return None,
        };
        from.end(Self { until, expires, offer })
    }
}

#[cfg(test)]
mod tests {
    use metering::Price;

    use super::*;
    use crate::registry::{Listing, Registration, Station};
    use crate::role::Role;
    use crate::story::{Story, Who, alice, bob, carol, id, treasurer};
    use crate::{Command, Event, Hash, Records, Refusal};

    fn secret() -> AccountKey {
        AccountKey::from_bytes(&[0x5e; 32]).unwrap()
    }

    fn at(seconds: u64) -> UnixTime {
        UnixTime::from_seconds(seconds)
    }

    fn appoint(who: Who) -> Command {
        Command::Appoint { role: Role::Issuer, to: id(who) }
    }

    /// Bob is an issuer.
    fn story() -> Story {
        let mut story = Story::begin();
        story.does(treasurer, appoint(bob));
        story
    }

    fn is_member(story: &Story, who: Who) -> bool {
        let Ok(fact) = story.state.fact(&Membership::place(&id(who)));
        fact.is_some_and(|fact| Membership::decode(&fact).unwrap().holds_at(at(story.now)))
    }

    fn offer(until: u64, expires: u64) -> Command {
        Command::OfferEnrolment { enrolment: secret().node_id(), until: at(until), expires: at(expires) }
    }

    fn withdraw(issuer: Who) -> Command {
        Command::WithdrawEnrolment { issuer: id(issuer), enrolment: secret().node_id() }
    }

    /// Takes an issuer's offer for somebody, who knows the secret.
    fn enrol(story: &Story, issuer: Who, who: Who) -> Command {
        let claim = claim(&secret(), &story.state.genesis().domain(), id(issuer), id(who));
        Command::Enrol { issuer: id(issuer), enrolment: secret().node_id(), claim }
    }

    /// Computed with `eth_account`.
    #[test]
    fn claim_is_what_ethereum_tools_compute() {
        let key = AccountKey::from_bytes(&[0xa1; 32]).unwrap();
        let domain = LedgerDomain { chain_id: 0, contract: NodeId([0xc0; 20]) };
        let (issuer, account) = (NodeId([0xb0; 20]), NodeId([0xca; 20]));
        let digest = digest(&domain, issuer, key.node_id(), account);
        assert_eq!(Hash(digest).to_string(), "bd4d1bf7f720cbcf9635a84dc4748c44bf82f25dde064ee62a342a785eda10fd");
        let claim = claim(&key, &domain, issuer, account);
        assert_eq!(verify_claim(&claim, &domain, issuer, key.node_id(), account), Ok(()));
        assert!(include_str!("../../RULEBOOK.md").contains(KIND), "{KIND} is not in RULEBOOK.md");
    }

    #[test]
    fn issuer_takes_members_in_until_a_time_and_longer_if_asked() {
        let mut story = story();
        let issue = |until| Command::IssueMembership { to: id(carol), until: at(until) };
        let over = Refusal::MembershipOver { until: at(1000), now: at(1000) };
        assert_eq!(story.refuses(bob, issue(1000)), over);
        story.does(bob, issue(1500));
        assert!(is_member(&story, carol));
        story.now = 1500;
        assert!(!is_member(&story, carol));
        story.does(bob, issue(2000));
        assert!(is_member(&story, carol));
    }

    #[test]
    fn issuer_puts_out_and_only_an_issuer_takes_in_again() {
        let mut story = story();
        let revoke = Command::RevokeMembership { of: id(carol) };
        let revoked = Refusal::MembershipRevoked { account: id(carol) };
        story.does(bob, Command::IssueMembership { to: id(carol), until: at(2000) });
        assert_eq!(story.refuses(carol, revoke), Refusal::NotIssuer { by: id(carol) });
        story.does(bob, revoke);
        assert!(!is_member(&story, carol));
        assert_eq!(story.refuses(bob, revoke), revoked);
        // A secret that was still in a drawer does not undo it.
        story.does(bob, offer(3000, 2500));
        let enrol = enrol(&story, bob, carol);
        assert_eq!(story.refuses(carol, enrol), revoked);
        story.does(bob, Command::IssueMembership { to: id(carol), until: at(2000) });
        assert!(is_member(&story, carol));
    }

    #[test]
    fn who_never_was_a_member_or_is_none_any_more_can_be_put_out_too() {
        let mut story = story();
        story.does(bob, Command::IssueMembership { to: id(carol), until: at(1500) });
        story.does(bob, offer(3000, 2500));
        story.now = 1500;
        for who in [carol as Who, alice] {
            story.does(bob, Command::RevokeMembership { of: id(who) });
            let enrol = enrol(&story, bob, who);
            assert_eq!(story.refuses(who, enrol), Refusal::MembershipRevoked { account: id(who) });
        }
        let enrol = enrol(&story, bob, treasurer);
        story.does(treasurer, enrol);
    }

    #[test]
    fn who_is_put_out_leaves_the_registry() {
        let mut story = story();
        let listed = |story: &Story| {
            let Ok(fact) = story.state.fact(&Listing::place(&id(carol)));
            fact.and_then(|fact| Listing::decode(&fact).unwrap().0)
        };
        story.does(bob, Command::IssueMembership { to: id(carol), until: at(2000) });
        let price = Price::new(5);
        let registration =
            Registration { station: Station::Router, price_up: price, price_down: price, terms: [0; 32] };
        story.does(carol, Command::Register { registration });
        assert_eq!(listed(&story), Some(registration));
        let before = story.state.head().size;
        story.does(bob, Command::RevokeMembership { of: id(carol) });
        assert_eq!((listed(&story), story.state.head().size), (None, before + 1));
        assert_eq!(story.refuses(carol, Command::Unregister), Refusal::NotRegistered { account: id(carol) });
        // Who comes back registers anew.
        story.does(bob, Command::IssueMembership { to: id(carol), until: at(2000) });
        assert_eq!(listed(&story), None);
    }

    #[test]
    fn first_to_show_the_secret_is_a_member_and_nobody_after() {
        let mut story = story();
        let [carols, alices] = [carol as Who, alice].map(|who| enrol(&story, bob, who));
        assert_eq!(story.refuses(carol, carols), Refusal::UnknownEnrolment);
        assert_eq!(story.refuses(alice, offer(3000, 2000)), Refusal::NotIssuer { by: id(alice) });
        story.does(bob, offer(3000, 2000));
        assert_eq!(story.refuses(bob, offer(3000, 2000)), Refusal::EnrolmentExists);
        let Command::Enrol { issuer, enrolment, claim } = carols else { unreachable!() };
        let enrolled = story.does(carol, carols);
        assert_eq!(enrolled, Event::Enrolled { account: id(carol), issuer, enrolment, claim, until: at(3000) });
        assert!(is_member(&story, carol));
        assert_eq!(story.refuses(alice, alices), Refusal::EnrolmentAlreadyUsed);
        assert_eq!(story.refuses(bob, offer(3000, 2000)), Refusal::EnrolmentExists);
    }

    #[test]
    fn who_sees_an_enrolment_on_its_way_cannot_turn_it_round() {
        let mut story = story();
        story.does(bob, offer(3000, 2000));
        let domain = story.state.genesis().domain();
        let (issuer, enrolment) = (id(bob), secret().node_id());
        let seen = claim(&secret(), &domain, issuer, id(carol));
        for claim in [
            seen,
            // By another secret, for another issuer's offer, and on another ledger.
            claim(&alice(), &domain, issuer, id(alice)),
            claim(&secret(), &domain, id(alice), id(alice)),
            claim(&secret(), &LedgerDomain { chain_id: 1, ..domain }, issuer, id(alice)),
        ] {
            let turned = Command::Enrol { issuer, enrolment, claim };
            assert_eq!(story.refuses(alice, turned), Refusal::EnrolmentClaimInvalid);
        }
        story.does(carol, Command::Enrol { issuer, enrolment, claim: seen });
    }

    #[test]
    fn one_issuers_offer_does_not_stand_in_anothers_way() {
        let mut story = story();
        story.does(treasurer, appoint(alice));
        // Whoever saw Bob's offer on its way, or knows that it comes.
        story.does(alice, offer(1001, 1001));
        story.does(bob, offer(3000, 2000));
        let enrol = enrol(&story, bob, carol);
        let Event::Enrolled { until, .. } = story.does(carol, enrol) else { panic!("she is enrolled") };
        assert_eq!(until, at(3000));
    }

    #[test]
    fn any_issuer_withdraws_an_offer_that_nobody_has_taken() {
        let mut story = story();
        assert_eq!(story.refuses(alice, withdraw(bob)), Refusal::NotIssuer { by: id(alice) });
        assert_eq!(story.refuses(bob, withdraw(bob)), Refusal::UnknownEnrolment);
        story.does(bob, offer(3000, 2000));
        story.does(treasurer, appoint(alice));
        let withdrawn = Event::EnrolmentWithdrawn { by: id(alice), issuer: id(bob), enrolment: secret().node_id() };
        assert_eq!(story.does(alice, withdraw(bob)), withdrawn);
        let carols = enrol(&story, bob, carol);
        assert_eq!(story.refuses(carol, carols), Refusal::EnrolmentWithdrawn);
        assert_eq!(story.refuses(bob, withdraw(bob)), Refusal::EnrolmentWithdrawn);
        // Its secret has been given away: it is for no other offer of his.
        assert_eq!(story.refuses(bob, offer(3000, 2000)), Refusal::EnrolmentExists);
        story.does(alice, offer(3000, 2000));
        let carols = enrol(&story, alice, carol);
        story.does(carol, carols);
        assert_eq!(story.refuses(bob, withdraw(alice)), Refusal::EnrolmentAlreadyUsed);
    }

    #[test]
    fn offers_of_who_is_no_issuer_any_more_enrol_nobody() {
        let mut story = story();
        story.does(bob, offer(3000, 2000));
        story.does(treasurer, Command::Dismiss { role: Role::Issuer, from: id(bob) });
        let enrol = enrol(&story, bob, carol);
        assert_eq!(story.refuses(carol, enrol), Refusal::NotIssuer { by: id(bob) });
        story.does(treasurer, appoint(bob));
        story.does(carol, enrol);
    }

    #[test]
    fn offer_ends_and_what_it_gives_ends() {
        let mut story = story();
        let expired = |expires, now| Refusal::EnrolmentExpired { expires: at(expires), now: at(now) };
        let over = |until, now| Refusal::MembershipOver { until: at(until), now: at(now) };
        assert_eq!(story.refuses(bob, offer(3000, 1000)), expired(1000, 1000));
        assert_eq!(story.refuses(bob, offer(1000, 2000)), over(1000, 1000));
        story.does(bob, offer(1500, 2000));
        let enrol = enrol(&story, bob, carol);
        story.now = 1500;
        assert_eq!(story.refuses(carol, enrol), over(1500, 1500));
        story.now = 2000;
        assert_eq!(story.refuses(carol, enrol), expired(2000, 2000));
    }

    #[test]
    fn enrolling_never_shortens_a_membership() {
        let mut story = story();
        story.does(bob, Command::IssueMembership { to: id(carol), until: at(5000) });
        story.does(bob, offer(3000, 2000));
        let enrol = enrol(&story, bob, carol);
        let Event::Enrolled { until, .. } = story.does(carol, enrol) else { panic!("she is enrolled") };
        assert_eq!(until, at(5000));
    }
}
