//! Who owns what a router earns.

use metering::{NodeId, Tokens};

use super::{Decision, ExecuteError, different, fact};
use crate::records::NotConserved;
use crate::share::{Holding, MAX_SHARES, Pool};
use crate::{Event, Records, Refusal};

pub(super) fn issue<R: Records>(records: &R, router: NodeId, shares: u64) -> Decision<R> {
    if shares == 0 {
        return Err(Refusal::AmountIsZero.into());
    }
    if shares > MAX_SHARES {
        return Err(Refusal::TooManyShares { shares }.into());
    }
    if fact::<R, Pool>(records, &router)?.is_some() {
        return Err(Refusal::SharesAlreadyIssued.into());
    }
    Ok(Event::SharesIssued { router, shares })
}

pub(super) fn transfer<R: Records>(records: &R, router: NodeId, from: NodeId, to: NodeId, shares: u64) -> Decision<R> {
    if shares == 0 {
        return Err(Refusal::AmountIsZero.into());
    }
    different(from, to)?;
    let held = holding(records, router, from)?.shares;
    if shares > held {
        return Err(Refusal::InsufficientShares { held, shares }.into());
    }
    Ok(Event::SharesTransferred { router, from, to, shares })
}

pub(super) fn claim<R: Records>(records: &R, router: NodeId, by: NodeId) -> Decision<R> {
    match holding(records, router, by)?.owed {
        Tokens::ZERO => Err(Refusal::NothingToClaim.into()),
        amount => Ok(Event::RevenueClaimed { router, by, amount }),
    }
}

/// What an account holds of a router, with all that its shares have earned so far.
pub(super) fn holding<R: Records>(
    records: &R,
    router: NodeId,
    holder: NodeId,
) -> Result<Holding, ExecuteError<R::Error>> {
    let pool = pool(records, router)?;
    let found: Option<Holding> = fact(records, &(router, holder))?;
    let totals = records.totals();
    Ok(found.unwrap_or_default().up_to(&pool).ok_or(NotConserved { totals })?)
}

pub(super) fn pool<R: Records>(records: &R, router: NodeId) -> Result<Pool, ExecuteError<R::Error>> {
    Ok(fact(records, &router)?.ok_or(Refusal::UnknownShares)?)
}
