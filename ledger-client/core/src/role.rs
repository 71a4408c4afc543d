//! Roles: what the treasurer has others do.

use metering::NodeId;
use serde::{Deserialize, Serialize};

use crate::fact::{Fact, Fields, Reader, kind};

/// What an account may do besides what everybody may. The treasurer is named by the genesis and appoints the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Takes members in and puts them out.
    Issuer,
    /// States in the log that it has replayed it.
    Auditor,
}

impl Role {
    /// The number that stands for it in the log and in what is signed. Never reused.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Issuer => 1,
            Self::Auditor => 2,
        }
    }

    /// The role with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Issuer),
            2 => Some(Self::Auditor),
            _ => None,
        }
    }
}

/// Whether an account has a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held(pub bool);

impl Fact for Held {
    type Key = (Role, NodeId);

    fn place((role, account): &(Role, NodeId)) -> Vec<u8> {
        Fields::of(kind::ROLE).byte(role.number()).account(*account).finish()
    }

    fn encode(&self) -> Vec<u8> {
        vec![self.0.into()]
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        let held = from.flag()?;
        from.end(Self(held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::story::{Story, alice, bob, carol, id, tokens, treasurer};
    use crate::{Command, Event, Head, Refusal, UnixTime};

    #[test]
    fn only_the_treasurer_appoints_and_dismisses() {
        let mut story = Story::begin();
        let appoint = Command::Appoint { role: Role::Issuer, to: id(bob) };
        let dismiss = Command::Dismiss { role: Role::Issuer, from: id(bob) };
        for command in [appoint, dismiss] {
            assert_eq!(story.refuses(alice, command), Refusal::NotTreasurer { by: id(alice) });
        }
        assert_eq!(story.refuses(treasurer, dismiss), Refusal::RoleNotHeld { account: id(bob) });
        story.does(treasurer, appoint);
        assert_eq!(story.refuses(treasurer, appoint), Refusal::RoleAlreadyHeld { account: id(bob) });
        let issue = Command::IssueMembership { to: id(alice), until: UnixTime::MAX };
        story.does(bob, issue);
        story.does(treasurer, dismiss);
        assert_eq!(story.refuses(bob, issue), Refusal::NotIssuer { by: id(bob) });
    }

    #[test]
    fn one_role_gives_none_of_the_other() {
        let mut story = Story::begin();
        story.does(treasurer, Command::Appoint { role: Role::Auditor, to: id(carol) });
        let issue = Command::IssueMembership { to: id(alice), until: UnixTime::MAX };
        assert_eq!(story.refuses(carol, issue), Refusal::NotIssuer { by: id(carol) });
        // The treasurer too has only the roles it has given itself.
        assert_eq!(story.refuses(treasurer, issue), Refusal::NotIssuer { by: id(treasurer) });
        let attest = Command::Attest { head: story.state.head() };
        assert_eq!(story.refuses(bob, attest), Refusal::NotAuditor { by: id(bob) });
        story.does(carol, attest);
    }

    #[test]
    fn auditor_attests_what_the_log_is_or_was_and_nothing_else() {
        let mut story = Story::begin();
        let mut heads = vec![story.state.head()];
        story.does(treasurer, Command::Appoint { role: Role::Auditor, to: id(carol) });
        for _ in 0..9 {
            heads.push(story.state.head());
            story.does(alice, Command::Transfer { to: id(bob), amount: tokens(1) });
        }
        for head in heads.iter().copied() {
            assert_eq!(story.does(carol, Command::Attest { head }), Event::Attested { by: id(carol), head });
            let other = Head { size: head.size + 1, ..head };
            let differs = Refusal::HeadDiffers { size: other.size };
            assert_eq!(story.refuses(carol, Command::Attest { head: other }), differs);
        }
        let size = story.state.head().size + 1;
        let ahead = Command::Attest { head: Head { size, ..story.state.head() } };
        assert_eq!(story.refuses(carol, ahead), Refusal::HeadBeyondLog { size });
        let far = Command::Attest { head: Head { size: u64::MAX, ..story.state.head() } };
        assert_eq!(story.refuses(carol, far), Refusal::HeadBeyondLog { size: u64::MAX });
    }

    #[test]
    fn roles_have_numbers() {
        for role in [Role::Issuer, Role::Auditor] {
            assert_eq!(Role::from_number(role.number()), Some(role));
        }
        assert_eq!(Role::from_number(0), None);
    }
}
