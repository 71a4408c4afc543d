//! Making tokens, unmaking them and giving them away.

use metering::{NodeId, Tokens};

use super::{Decision, MAX_SUPPLY, affordable, different, nonzero};
use crate::{Event, Records, Refusal};

pub(super) fn mint<R: Records>(records: &R, by: NodeId, to: NodeId, amount: Tokens) -> Decision<R> {
    nonzero(amount)?;
    let minted = records.totals().minted;
    match minted.checked_add(amount) {
        Some(supply) if supply.get() <= u128::from(MAX_SUPPLY) => Ok(Event::Minted { by, to, amount }),
        _ => Err(Refusal::SupplyTooLarge { minted, amount }.into()),
    }
}

pub(super) fn transfer<R: Records>(records: &R, from: NodeId, to: NodeId, amount: Tokens) -> Decision<R> {
    nonzero(amount)?;
    different(from, to)?;
    affordable(records, from, amount)?;
    Ok(Event::Transferred { from, to, amount })
}

pub(super) fn burn<R: Records>(records: &R, by: NodeId, amount: Tokens) -> Decision<R> {
    nonzero(amount)?;
    affordable(records, by, amount)?;
    Ok(Event::Burned { by, amount })
}
