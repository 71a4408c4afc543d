//! Memberships: who belongs to the community, and until when.
//!
//! An issuer takes an account in by name, or offers an enrolment to whoever knows a secret: it puts the secret's hash on the
//! ledger, hands the secret over on paper, and the first account to show it is a member. The ledger's operator sees the
//! secret as it is shown; an issuer that does not trust the operator takes members in by name.

use metering::NodeId;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::fact::{Fact, Fields, Reader, kind};
use crate::{Hash, UnixTime};

/// An account's membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// When it ends.
    pub until: UnixTime,
    /// Whether an issuer has ended it before.
    pub revoked: bool,
}

impl Membership {
    /// Whether the account is a member at that time.
    #[must_use]
    pub fn holds_at(&self, now: UnixTime) -> bool {
        !self.revoked && now < self.until
    }
}

/// An offer to whoever knows a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enrolment {
    /// When the membership ends that it gives.
    pub until: UnixTime,
    /// When the offer ends.
    pub expires: UnixTime,
    /// Whether it was taken.
    pub used: bool,
}

/// What stands on the ledger for a secret until somebody shows it: its SHA-256.
#[must_use]
pub fn secret_hash(secret: &[u8; 32]) -> Hash {
    Hash(Sha256::digest(secret).into())
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
    /// The secret's hash.
    type Key = Hash;

    fn place(hash: &Hash) -> Vec<u8> {
        Fields::of(kind::ENROLMENT).bytes(&hash.0).finish()
    }

    fn encode(&self) -> Vec<u8> {
        let Self { until, expires, used } = *self;
        Fields::default().number(until.seconds()).number(expires.seconds()).byte(used.into()).finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        let enrolment = Self { until: from.time()?, expires: from.time()?, used: from.flag()? };
        from.end(enrolment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::role::Role;
    use crate::story::{Story, Who, alice, bob, carol, id, treasurer};
    use crate::{Command, Event, Records, Refusal};

    const SECRET: [u8; 32] = [0x5e; 32];

    fn at(seconds: u64) -> UnixTime {
        UnixTime::from_seconds(seconds)
    }

    /// Bob is an issuer.
    fn story() -> Story {
        let mut story = Story::begin();
        story.does(treasurer, Command::Appoint { role: Role::Issuer, to: id(bob) });
        story
    }

    fn is_member(story: &Story, who: Who) -> bool {
        let Ok(fact) = story.state.fact(&Membership::place(&id(who)));
        fact.is_some_and(|fact| Membership::decode(&fact).unwrap().holds_at(at(story.now)))
    }

    fn offer(until: u64, expires: u64) -> Command {
        Command::OfferEnrolment { hash: secret_hash(&SECRET), until: at(until), expires: at(expires) }
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
        let no_member = Refusal::NotMember { account: id(carol) };
        assert_eq!(story.refuses(bob, revoke), no_member);
        story.does(bob, Command::IssueMembership { to: id(carol), until: at(2000) });
        assert_eq!(story.refuses(carol, revoke), Refusal::NotIssuer { by: id(carol) });
        story.does(bob, revoke);
        assert!(!is_member(&story, carol));
        assert_eq!(story.refuses(bob, revoke), no_member);
        // A secret that was still in a drawer does not undo it.
        story.does(bob, offer(3000, 2500));
        let enrol = Command::Enrol { secret: SECRET };
        assert_eq!(story.refuses(carol, enrol), Refusal::MembershipRevoked { account: id(carol) });
        story.does(bob, Command::IssueMembership { to: id(carol), until: at(2000) });
        assert!(is_member(&story, carol));
        story.now = 2000;
        assert_eq!(story.refuses(bob, revoke), no_member);
    }

    #[test]
    fn first_to_show_the_secret_is_a_member_and_nobody_after() {
        let mut story = story();
        let enrol = Command::Enrol { secret: SECRET };
        assert_eq!(story.refuses(carol, enrol), Refusal::UnknownEnrolment);
        assert_eq!(story.refuses(alice, offer(3000, 2000)), Refusal::NotIssuer { by: id(alice) });
        story.does(bob, offer(3000, 2000));
        assert_eq!(story.refuses(bob, offer(3000, 2000)), Refusal::EnrolmentExists);
        let enrolled = story.does(carol, enrol);
        assert_eq!(enrolled, Event::Enrolled { account: id(carol), secret: SECRET, until: at(3000) });
        assert!(is_member(&story, carol));
        assert_eq!(story.refuses(alice, enrol), Refusal::EnrolmentAlreadyUsed);
        assert_eq!(story.refuses(bob, offer(3000, 2000)), Refusal::EnrolmentExists);
    }

    #[test]
    fn offer_ends_and_what_it_gives_ends() {
        let mut story = story();
        let expired = |expires, now| Refusal::EnrolmentExpired { expires: at(expires), now: at(now) };
        let over = |until, now| Refusal::MembershipOver { until: at(until), now: at(now) };
        assert_eq!(story.refuses(bob, offer(3000, 1000)), expired(1000, 1000));
        assert_eq!(story.refuses(bob, offer(1000, 2000)), over(1000, 1000));
        story.does(bob, offer(1500, 2000));
        let enrol = Command::Enrol { secret: SECRET };
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
        let enrolled = story.does(carol, Command::Enrol { secret: SECRET });
        assert_eq!(enrolled, Event::Enrolled { account: id(carol), secret: SECRET, until: at(5000) });
    }
}
