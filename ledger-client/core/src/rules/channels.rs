//! Channels, from their opening to their end.

use metering::{ChannelId, Close, NodeId, Receipt, Tokens, Unverified};

use super::signers::{channel_signer_of, signer_of};
use super::{Decision, ExecuteError, affordable, different, nonzero};
use crate::{Channel, Event, Phase, Records, Refusal, UnixTime};

pub(super) fn open<R: Records>(records: &R, payer: NodeId, payee: NodeId, deposit: Tokens) -> Decision<R> {
    nonzero(deposit)?;
    different(payer, payee)?;
    affordable(records, payer, deposit)?;
    let latest = records.latest_nonce(payer, payee).map_err(ExecuteError::Records)?;
    let nonce = next_nonce(latest).ok_or(Refusal::NoncesExhausted)?;
    Ok(Event::ChannelOpened { channel: ChannelId { payer, payee, nonce }, deposit })
}

/// The first channel of a pair has nonce 1. SQLite counts in 63 bits.
fn next_nonce(latest: Option<u64>) -> Option<u64> {
    latest.unwrap_or(0).checked_add(1).filter(|nonce| *nonce <= i64::MAX as u64)
}

pub(super) fn top_up<R: Records>(records: &R, id: ChannelId, amount: Tokens) -> Decision<R> {
    nonzero(amount)?;
    if let (_, Unclosed::Closing { exit }) = unclosed(records, id)? {
        return Err(Refusal::CloseAlreadyStarted { exit }.into());
    }
    let signer = channel_signer_of(records, id)?;
    if signer != signer_of(records, id.payer)? {
        return Err(Refusal::ChannelSignerChanged { signer }.into());
    }
    affordable(records, id.payer, amount)?;
    Ok(Event::ToppedUp { channel: id, amount })
}

/// Always open: closing, notice or time do not matter, only whether the channel has ended.
pub(super) fn redeem<R: Records>(records: &R, receipt: Receipt<Unverified>) -> Decision<R> {
    let (channel, _) = unclosed(records, receipt.channel())?;
    if receipt.amount() == channel.redeemed {
        return Err(Refusal::ReceiptAlreadyRedeemed { amount: receipt.amount() }.into());
    }
    let paid = unpaid(&channel, receipt.amount())?;
    Ok(Event::Redeemed { receipt, paid })
}

pub(super) fn start_close<R: Records>(records: &R, at: UnixTime, id: ChannelId) -> Decision<R> {
    match unclosed(records, id)? {
        (_, Unclosed::Open) => {
            let exit = at.after(records.genesis().close_notice_s());
            Ok(Event::CloseStarted { channel: id, exit })
        }
        (_, Unclosed::Closing { exit }) => Err(Refusal::CloseAlreadyStarted { exit }.into()),
    }
}

pub(super) fn finalize<R: Records>(records: &R, at: UnixTime, id: ChannelId) -> Decision<R> {
    match unclosed(records, id)? {
        (_, Unclosed::Open) => Err(Refusal::CloseNotStarted.into()),
        (_, Unclosed::Closing { exit }) if at < exit => Err(Refusal::NoticeNotOver { exit, now: at }.into()),
        (channel, Unclosed::Closing { .. }) => Ok(Event::Finalized { channel: id, refunded: channel.locked() }),
    }
}

pub(super) fn mutual_close<R: Records>(records: &R, close: Close<Unverified>) -> Decision<R> {
    let (channel, _) = unclosed(records, close.channel())?;
    let paid = unpaid(&channel, close.total())?;
    // Both are at most the deposit: `unpaid` has refused the rest.
    let refunded = channel.deposit.saturating_sub(close.total());
    Ok(Event::MutuallyClosed { close, paid, refunded })
}

/// What a cumulative `total` adds to what was redeemed before.
fn unpaid(channel: &Channel, total: Tokens) -> Result<Tokens, Refusal> {
    let Some(paid) = total.checked_sub(channel.redeemed) else {
        return Err(Refusal::TotalWentBackwards { total, redeemed: channel.redeemed });
    };
    if total > channel.deposit {
        return Err(Refusal::TotalExceedsDeposit { total, deposit: channel.deposit });
    }
    Ok(paid)
}

/// The phases of a channel in which something can be done with it.
enum Unclosed {
    Open,
    Closing { exit: UnixTime },
}

fn unclosed<R: Records>(records: &R, id: ChannelId) -> Result<(Channel, Unclosed), ExecuteError<R::Error>> {
    let channel = records.channel(id).map_err(ExecuteError::Records)?.ok_or(Refusal::UnknownChannel)?;
    match channel.phase {
        Phase::Open => Ok((channel, Unclosed::Open)),
        Phase::Closing { exit } => Ok((channel, Unclosed::Closing { exit })),
        Phase::Closed => Err(Refusal::ChannelClosed.into()),
    }
}
