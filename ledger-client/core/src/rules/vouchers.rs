//! Tokens on paper.

use metering::{NodeId, Tokens, Unverified};

use super::{Decision, ExecuteError, affordable, fact, nonzero};
use crate::voucher::{Claim, Voucher};
use crate::{Event, Records, Refusal, UnixTime};

pub(super) fn issue<R: Records>(
    records: &R,
    by: NodeId,
    voucher: NodeId,
    amount: Tokens,
    until: UnixTime,
) -> Decision<R> {
    nonzero(amount)?;
    affordable(records, by, amount)?;
    // One that was spent too: its secret has been seen.
    if fact::<R, Voucher>(records, &(by, voucher))?.is_some() {
        return Err(Refusal::VoucherExists { voucher }.into());
    }
    Ok(Event::VoucherIssued { by, voucher, amount, until })
}

/// As long as it was not taken back, a voucher is good, also after its time.
pub(super) fn redeem<R: Records>(records: &R, claim: Claim<Unverified>) -> Decision<R> {
    let Voucher { amount, .. } = unspent(records, claim.issuer(), claim.voucher())?;
    Ok(Event::VoucherRedeemed { claim, amount })
}

pub(super) fn reclaim<R: Records>(records: &R, at: UnixTime, by: NodeId, voucher: NodeId) -> Decision<R> {
    let Voucher { amount, until, .. } = unspent(records, by, voucher)?;
    if at < until {
        return Err(Refusal::VoucherStillGood { until, now: at }.into());
    }
    Ok(Event::VoucherReclaimed { by, voucher, amount })
}

pub(super) fn unspent<R: Records>(
    records: &R,
    issuer: NodeId,
    voucher: NodeId,
) -> Result<Voucher, ExecuteError<R::Error>> {
    let found: Voucher = fact(records, &(issuer, voucher))?.ok_or(Refusal::UnknownVoucher)?;
    if found.spent { Err(Refusal::VoucherAlreadySpent.into()) } else { Ok(found) }
}
