//! What an event changes. The amounts are the event's; nothing is decided here.

use metering::{ChannelId, NodeId, Tokens};

use super::community::offered;
use super::shares::{holding, pool};
use super::signers::signer_of;
use super::vouchers::unspent;
use super::{Booked, ExecuteError, MAX_SUPPLY, fact, set_fact};
use crate::membership::{Enrolment, Membership, Offer};
use crate::name::{Holder, NameListing, OwnName};
use crate::records::NotConserved;
use crate::registry::Listing;
use crate::role::Held;
use crate::share::{Holding, Pool};
use crate::signer::{ChannelSigner, Signer};
use crate::voucher::Voucher;
use crate::{Channel, Event, Phase, Records, Refusal, Totals};

/// Writes what an event changes. The amounts are the event's; nothing is decided here.
pub(super) fn book<R: Records>(records: &mut R, event: &Event) -> Booked<R> {
    match *event {
        Event::Founded(_) => Ok(()),
        Event::Minted { to, amount, .. } => {
            let totals = records.totals();
            records.set_totals(Totals { minted: sum(totals, totals.minted, amount)?, ..totals });
            credit(records, to, amount)
        }
        Event::Transferred { from, to, amount } => {
            debit(records, from, amount)?;
            credit(records, to, amount)
        }
        Event::ChannelOpened { channel, deposit } => {
            debit(records, channel.payer, deposit)?;
            let signer = signer_of(records, channel.payer)?;
            if signer != channel.payer {
                set_fact(records, &channel, &ChannelSigner(signer))?;
            }
            keep(records, channel, Channel::open(deposit))
        }
        Event::ToppedUp { channel, amount } => {
            debit(records, channel.payer, amount)?;
            change(records, channel, |totals, before| {
                Ok(Channel { deposit: sum(totals, before.deposit, amount)?, ..before })
            })
        }
        Event::Redeemed { receipt, paid } => {
            let total = receipt.amount();
            change(records, receipt.channel(), |_, before| Ok(Channel { redeemed: total, ..before }))?;
            earn(records, receipt.channel().payee, paid)
        }
        Event::CloseStarted { channel, exit } => {
            change(records, channel, |_, before| Ok(Channel { phase: Phase::Closing { exit }, ..before }))
        }
        Event::Finalized { channel, refunded } => {
            change(records, channel, |_, before| Ok(Channel { phase: Phase::Closed, ..before }))?;
            credit(records, channel.payer, refunded)
        }
        Event::MutuallyClosed { close, paid, refunded } => {
            let (channel, total) = (close.channel(), close.total());
            change(records, channel, |_, before| Ok(Channel { redeemed: total, phase: Phase::Closed, ..before }))?;
            earn(records, channel.payee, paid)?;
            credit(records, channel.payer, refunded)
        }
        Event::Burned { by, amount } => {
            let totals = records.totals();
            records.set_totals(Totals { burned: sum(totals, totals.burned, amount)?, ..totals });
            debit(records, by, amount)
        }
        Event::VoucherIssued { by, voucher, amount, until } => {
            debit(records, by, amount)?;
            lock(records, amount)?;
            set_fact(records, &(by, voucher), &Voucher { amount, until, spent: false })
        }
        Event::VoucherRedeemed { claim, amount } => {
            spend(records, claim.issuer(), claim.voucher(), amount)?;
            credit(records, claim.to(), amount)
        }
        Event::VoucherReclaimed { by, voucher, amount } => {
            spend(records, by, voucher, amount)?;
            credit(records, by, amount)
        }
        Event::SharesIssued { router, shares } => {
            set_fact(records, &router, &Pool::new(shares))?;
            set_fact(records, &(router, router), &Holding { shares, ..Holding::default() })
        }
        Event::SharesTransferred { router, from, to, shares } => {
            let (totals, pool) = (records.totals(), pool(records, router)?);
            let (giver, taker) = (holding(records, router, from)?, holding(records, router, to)?);
            let (giver, taker) = giver.give(taker, shares, &pool).ok_or(NotConserved { totals })?;
            set_fact(records, &(router, from), &giver)?;
            set_fact(records, &(router, to), &taker)
        }
        Event::RevenueClaimed { router, by, amount } => {
            let settled = holding(records, router, by)?;
            let owed = difference(records.totals(), settled.owed, amount)?;
            set_fact(records, &(router, by), &Holding { owed, ..settled })?;
            unlock(records, amount)?;
            credit(records, by, amount)
        }
        Event::Appointed { role, to, .. } => set_fact(records, &(role, to), &Held(true)),
        Event::Dismissed { role, from, .. } => set_fact(records, &(role, from), &Held(false)),
        Event::MembershipIssued { to, until, .. } => set_fact(records, &to, &Membership { until, revoked: false }),
        Event::MembershipRevoked { of, .. } => {
            let before: Membership = fact(records, &of)?.unwrap_or_default();
            set_fact(records, &of, &Membership { revoked: true, ..before })?;
            match fact(records, &of)? {
                Some(Listing(Some(_))) => set_fact(records, &of, &Listing(None)),
                None | Some(Listing(None)) => Ok(()),
            }
        }
        Event::EnrolmentOffered { by, enrolment, until, expires } => {
            set_fact(records, &(by, enrolment), &Enrolment { until, expires, offer: Offer::Open })
        }
        Event::EnrolmentWithdrawn { issuer, enrolment, .. } => {
            let found = offered(records, issuer, enrolment)?;
            set_fact(records, &(issuer, enrolment), &Enrolment { offer: Offer::Withdrawn, ..found })
        }
        Event::Enrolled { account, issuer, enrolment, until, .. } => {
            let found = offered(records, issuer, enrolment)?;
            set_fact(records, &(issuer, enrolment), &Enrolment { offer: Offer::Taken, ..found })?;
            set_fact(records, &account, &Membership { until, revoked: false })
        }
        Event::Registered { account, registration } => set_fact(records, &account, &Listing(Some(registration))),
        Event::Unregistered { account } => set_fact(records, &account, &Listing(None)),
        Event::NameClaimed { account, name, wireguard, claim, before } => {
            if let Some(before) = before {
                set_fact(records, &before, &OwnName(None))?;
            }
            set_fact(records, &name, &NameListing(Some(Holder { account, wireguard, claim })))?;
            set_fact(records, &account, &OwnName(Some(name)))
        }
        Event::NameReleased { account, name, .. } => {
            set_fact(records, &name, &NameListing(None))?;
            set_fact(records, &account, &OwnName(None))
        }
        // It is said in the log, and changes nothing.
        Event::Attested { .. } | Event::Skipped { .. } => Ok(()),
        Event::SignerChanged { account, signer, .. } => set_fact(records, &account, &Signer(signer)),
    }
}

/// Gives an account what its channels pay: to the pool of its share holders, where there are any.
fn earn<R: Records>(records: &mut R, payee: NodeId, amount: Tokens) -> Booked<R> {
    let Some(pool) = fact::<R, Pool>(records, &payee)? else {
        return credit(records, payee, amount);
    };
    lock(records, amount)?;
    let totals = records.totals();
    set_fact(records, &payee, &pool.after(amount).ok_or(NotConserved { totals })?)
}

fn credit<R: Records>(records: &mut R, account: NodeId, amount: Tokens) -> Booked<R> {
    let totals = records.totals();
    let balance = records.balance(account).map_err(ExecuteError::Records)?;
    let held = sum(totals, totals.held, amount)?;
    records.set_balance(account, sum(totals, balance, amount)?).map_err(ExecuteError::Records)?;
    records.set_totals(Totals { held, ..totals });
    Ok(())
}

fn debit<R: Records>(records: &mut R, account: NodeId, amount: Tokens) -> Booked<R> {
    let totals = records.totals();
    let balance = records.balance(account).map_err(ExecuteError::Records)?;
    let held = difference(totals, totals.held, amount)?;
    records.set_balance(account, difference(totals, balance, amount)?).map_err(ExecuteError::Records)?;
    records.set_totals(Totals { held, ..totals });
    Ok(())
}

fn change<R: Records>(
    records: &mut R,
    id: ChannelId,
    change: impl FnOnce(Totals, Channel) -> Result<Channel, NotConserved>,
) -> Booked<R> {
    let before = records.channel(id).map_err(ExecuteError::Records)?.ok_or(Refusal::UnknownChannel)?;
    let after = change(records.totals(), before)?;
    keep(records, id, after)
}

/// Writes a channel and moves the total that is locked by what this changes.
fn keep<R: Records>(records: &mut R, id: ChannelId, after: Channel) -> Booked<R> {
    let totals = records.totals();
    let before = records.channel(id).map_err(ExecuteError::Records)?;
    let before = before.map_or(Tokens::ZERO, |channel| channel.locked());
    let locked = sum(totals, difference(totals, totals.locked, before)?, after.locked())?;
    records.set_channel(id, after).map_err(ExecuteError::Records)?;
    records.set_totals(Totals { locked, ..totals });
    Ok(())
}

fn spend<R: Records>(records: &mut R, issuer: NodeId, voucher: NodeId, amount: Tokens) -> Booked<R> {
    let found = unspent(records, issuer, voucher)?;
    unlock(records, amount)?;
    set_fact(records, &(issuer, voucher), &Voucher { spent: true, ..found })
}

fn lock<R: Records>(records: &mut R, amount: Tokens) -> Booked<R> {
    let totals = records.totals();
    records.set_totals(Totals { locked: sum(totals, totals.locked, amount)?, ..totals });
    Ok(())
}

fn unlock<R: Records>(records: &mut R, amount: Tokens) -> Booked<R> {
    let totals = records.totals();
    records.set_totals(Totals { locked: difference(totals, totals.locked, amount)?, ..totals });
    Ok(())
}

fn sum(totals: Totals, a: Tokens, b: Tokens) -> Result<Tokens, NotConserved> {
    let supply = |sum: &Tokens| sum.get() <= u128::from(MAX_SUPPLY);
    a.checked_add(b).filter(supply).ok_or(NotConserved { totals })
}

fn difference(totals: Totals, a: Tokens, b: Tokens) -> Result<Tokens, NotConserved> {
    a.checked_sub(b).ok_or(NotConserved { totals })
}
