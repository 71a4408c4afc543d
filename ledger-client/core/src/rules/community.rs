//! Roles, memberships, the registry and names.

use metering::{NodeId, Signature, Tokens};

use super::{Decision, ExecuteError, fact};
use crate::membership::{Enrolment, Membership, Offer};
use crate::name::{self, Holder, Name, NameListing, OwnName};
use crate::registry::{Listing, Registration};
use crate::role::{Held, Role};
use crate::{Event, Head, Records, Refusal, UnixTime};

pub(super) fn has_role<R: Records>(records: &R, role: Role, account: NodeId) -> Result<bool, ExecuteError<R::Error>> {
    Ok(fact::<R, Held>(records, &(role, account))?.is_some_and(|Held(held)| held))
}

pub(super) fn appoint<R: Records>(records: &R, by: NodeId, role: Role, to: NodeId) -> Decision<R> {
    if has_role(records, role, to)? {
        return Err(Refusal::RoleAlreadyHeld { account: to }.into());
    }
    Ok(Event::Appointed { by, role, to })
}

pub(super) fn dismiss<R: Records>(records: &R, by: NodeId, role: Role, from: NodeId) -> Decision<R> {
    if !has_role(records, role, from)? {
        return Err(Refusal::RoleNotHeld { account: from }.into());
    }
    Ok(Event::Dismissed { by, role, from })
}

pub(super) fn issue<R: Records>(at: UnixTime, by: NodeId, to: NodeId, until: UnixTime) -> Decision<R> {
    lasts(at, until)?;
    Ok(Event::MembershipIssued { by, to, until })
}

/// Whoever it is, also who is no member: it keeps out who has a secret.
pub(super) fn revoke<R: Records>(records: &R, by: NodeId, of: NodeId) -> Decision<R> {
    if fact::<R, Membership>(records, &of)?.is_some_and(|membership| membership.revoked) {
        return Err(Refusal::MembershipRevoked { account: of }.into());
    }
    Ok(Event::MembershipRevoked { by, of })
}

pub(super) fn offer_enrolment<R: Records>(
    records: &R,
    at: UnixTime,
    by: NodeId,
    enrolment: NodeId,
    until: UnixTime,
    expires: UnixTime,
) -> Decision<R> {
    lasts(at, until)?;
    if expires <= at {
        return Err(Refusal::EnrolmentExpired { expires, now: at }.into());
    }
    // One that was taken or withdrawn too: its secret has been given away.
    if fact::<R, Enrolment>(records, &(by, enrolment))?.is_some() {
        return Err(Refusal::EnrolmentExists.into());
    }
    Ok(Event::EnrolmentOffered { by, enrolment, until, expires })
}

pub(super) fn withdraw_enrolment<R: Records>(
    records: &R,
    by: NodeId,
    issuer: NodeId,
    enrolment: NodeId,
) -> Decision<R> {
    offered(records, issuer, enrolment)?;
    Ok(Event::EnrolmentWithdrawn { by, issuer, enrolment })
}

pub(super) fn enrol<R: Records>(
    records: &R,
    at: UnixTime,
    account: NodeId,
    issuer: NodeId,
    enrolment: NodeId,
    claim: Signature,
) -> Decision<R> {
    let offer = offered(records, issuer, enrolment)?;
    if offer.expires <= at {
        return Err(Refusal::EnrolmentExpired { expires: offer.expires, now: at }.into());
    }
    if !has_role(records, Role::Issuer, issuer)? {
        return Err(Refusal::NotIssuer { by: issuer }.into());
    }
    let before: Option<Membership> = fact(records, &account)?;
    if before.is_some_and(|membership| membership.revoked) {
        return Err(Refusal::MembershipRevoked { account }.into());
    }
    let until = before.map_or(offer.until, |membership| membership.until.max(offer.until));
    lasts(at, until)?;
    Ok(Event::Enrolled { account, issuer, enrolment, claim, until })
}

pub(super) fn register<R: Records>(
    records: &R,
    at: UnixTime,
    account: NodeId,
    registration: Registration,
) -> Decision<R> {
    member(records, at, account)?;
    Ok(Event::Registered { account, registration })
}

pub(super) fn unregister<R: Records>(records: &R, account: NodeId) -> Decision<R> {
    let listed: Option<Registration> = fact(records, &account)?.and_then(|Listing(listed)| listed);
    if listed.is_none() {
        return Err(Refusal::NotRegistered { account }.into());
    }
    Ok(Event::Unregistered { account })
}

pub(super) fn claim_name<R: Records>(records: &R, at: UnixTime, name: Name, claimed: Holder) -> Decision<R> {
    let Holder { account, wireguard, claim } = claimed;
    member(records, at, account)?;
    if let Some(OwnName(Some(_))) = fact(records, &account)? {
        return Err(Refusal::NameAlreadyHeld { account }.into());
    }
    let before = holder(records, name)?.map(|holder| holder.account);
    if let Some(holder) = before
        && name::keeps(fact(records, &holder)?, at)
    {
        return Err(Refusal::NameTaken { account: holder }.into());
    }
    Ok(Event::NameClaimed { account, name, wireguard, claim, before })
}

pub(super) fn release_name<R: Records>(records: &R, by: NodeId, name: Name) -> Decision<R> {
    let account = holder(records, name)?.ok_or(Refusal::UnknownName)?.account;
    if by != account && !has_role(records, Role::Issuer, by)? {
        return Err(Refusal::NotNameHolder { by }.into());
    }
    Ok(Event::NameReleased { by, account, name })
}

fn holder<R: Records>(records: &R, name: Name) -> Result<Option<Holder>, ExecuteError<R::Error>> {
    Ok(fact(records, &name)?.and_then(|NameListing(holder)| holder))
}

/// An offer that nobody has taken or withdrawn.
pub(super) fn offered<R: Records>(
    records: &R,
    issuer: NodeId,
    enrolment: NodeId,
) -> Result<Enrolment, ExecuteError<R::Error>> {
    let found: Enrolment = fact(records, &(issuer, enrolment))?.ok_or(Refusal::UnknownEnrolment)?;
    match found.offer {
        Offer::Open => Ok(found),
        Offer::Taken => Err(Refusal::EnrolmentAlreadyUsed.into()),
        Offer::Withdrawn => Err(Refusal::EnrolmentWithdrawn.into()),
    }
}

/// What the log is not, nobody attests: who compares an auditor's head with theirs must not have to look it up.
pub(super) fn attest<R: Records>(records: &R, by: NodeId, head: Head) -> Decision<R> {
    match records.root_at(head.size).map_err(ExecuteError::Records)? {
        None => Err(Refusal::HeadBeyondLog { size: head.size }.into()),
        Some(root) if root != head.root => Err(Refusal::HeadDiffers { size: head.size }.into()),
        Some(_) => Ok(Event::Attested { by, head }),
    }
}

/// Whether an account is more than a key that somebody has made.
pub(super) fn stands<R: Records>(records: &R, at: UnixTime, account: NodeId) -> Result<(), ExecuteError<R::Error>> {
    let acted = records.sequence(account).map_err(ExecuteError::Records)? > 0;
    let holds = records.balance(account).map_err(ExecuteError::Records)? != Tokens::ZERO;
    let known = acted
        || holds
        || account == records.genesis().treasurer()
        || has_role(records, Role::Issuer, account)?
        || has_role(records, Role::Auditor, account)?
        || member(records, at, account).is_ok();
    if known { Ok(()) } else { Err(Refusal::NoStanding { account }.into()) }
}

fn lasts(now: UnixTime, until: UnixTime) -> Result<(), Refusal> {
    if until <= now { Err(Refusal::MembershipOver { until, now }) } else { Ok(()) }
}

fn member<R: Records>(records: &R, at: UnixTime, account: NodeId) -> Result<(), ExecuteError<R::Error>> {
    let found: Option<Membership> = fact(records, &account)?;
    if found.is_some_and(|membership| membership.holds_at(at)) {
        Ok(())
    } else {
        Err(Refusal::NotMember { account }.into())
    }
}
