//! The rules.

use metering::{ChannelId, NodeId, Receipt, Tokens, Unverified};
use thiserror::Error;

use crate::records::NotConserved;
use crate::{Channel, Command, Entry, Event, Genesis, Phase, Records, Refusal, Totals, UnixTime};

/// The largest supply, in base units: SQLite counts in 63 bits. No balance, deposit or total can be larger.
pub const MAX_SUPPLY: u64 = i64::MAX as u64;

/// Why a command did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ExecuteError<E> {
    /// A rule forbids it. Nothing was written.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Tokens were made or lost. The caller throws all writes of this command away.
    #[error(transparent)]
    NotConserved(#[from] NotConserved),
    /// The records could not be reached. The caller throws all writes of this command away.
    #[error("the records cannot be reached")]
    Records(E),
}

/// Carries out one command: authorises it, decides it, books it, checks that no token was made or lost, and appends the
/// entry that says what happened.
///
/// `now` is the shell's clock. The ledger's time never runs backwards: where `now` is before the newest entry, that
/// entry's time is taken, so a clock that fell back to 1970 cannot cut a notice short.
///
/// # Errors
/// [`ExecuteError`]
pub fn execute<R: Records>(
    records: &mut R,
    now: UnixTime,
    command: &Command,
) -> Result<Entry, ExecuteError<R::Error>> {
    authorise(records.genesis(), command)?;
    let at = now.max(records.time());
    let event = decide(records, at, command)?;
    book(records, &event)?;
    if !records.totals().conserved() {
        return Err(NotConserved {
            totals: records.totals(),
        }
        .into());
    }
    let entry = Entry { at, event };
    records.append(&entry).map_err(ExecuteError::Records)?;
    Ok(entry)
}

/// Whether those who must have agreed to a command have agreed. The one place that decides this.
///
/// A receipt proves itself: the payer's signature, for this ledger, is checked here however it was checked before.
/// The other commands are taken at their word about who gives them: whoever may write the ledger's file speaks for
/// every account ([`Command::principals`]), save that only the treasurer's name mints. Accounts' signatures on
/// commands are checked here, against the same principals, once commands carry them.
fn authorise(genesis: &Genesis, command: &Command) -> Result<(), Refusal> {
    match command {
        Command::Mint { by, .. } if *by != genesis.treasurer() => {
            Err(Refusal::NotTreasurer { by: *by })
        }
        Command::Redeem { receipt } => match receipt.verify(&genesis.domain()) {
            Ok(_) => Ok(()),
            Err(_) => Err(Refusal::ReceiptSignatureInvalid),
        },
        Command::Mint { .. }
        | Command::Transfer { .. }
        | Command::OpenChannel { .. }
        | Command::TopUp { .. }
        | Command::StartClose { .. }
        | Command::Finalize { .. }
        | Command::MutualClose { .. } => Ok(()),
    }
}

type Decision<R> = Result<Event, ExecuteError<<R as Records>::Error>>;

/// What the rules make of a command. Writes nothing.
fn decide<R: Records>(records: &R, at: UnixTime, command: &Command) -> Decision<R> {
    match *command {
        Command::Mint { by, to, amount } => mint(records, by, to, amount),
        Command::Transfer { from, to, amount } => transfer(records, from, to, amount),
        Command::OpenChannel {
            payer,
            payee,
            deposit,
        } => open_channel(records, payer, payee, deposit),
        Command::TopUp { channel, amount } => top_up(records, channel, amount),
        Command::Redeem { receipt } => redeem(records, receipt),
        Command::StartClose { channel } => start_close(records, at, channel),
        Command::Finalize { channel } => finalize(records, at, channel),
        Command::MutualClose { channel, total } => mutual_close(records, channel, total),
    }
}

fn mint<R: Records>(records: &R, by: NodeId, to: NodeId, amount: Tokens) -> Decision<R> {
    nonzero(amount)?;
    let minted = records.totals().minted;
    match minted.checked_add(amount) {
        Some(supply) if supply.get() <= u128::from(MAX_SUPPLY) => {
            Ok(Event::Minted { by, to, amount })
        }
        _ => Err(Refusal::SupplyTooLarge { minted, amount }.into()),
    }
}

fn transfer<R: Records>(records: &R, from: NodeId, to: NodeId, amount: Tokens) -> Decision<R> {
    nonzero(amount)?;
    different(from, to)?;
    affordable(records, from, amount)?;
    Ok(Event::Transferred { from, to, amount })
}

fn open_channel<R: Records>(
    records: &R,
    payer: NodeId,
    payee: NodeId,
    deposit: Tokens,
) -> Decision<R> {
    nonzero(deposit)?;
    different(payer, payee)?;
    affordable(records, payer, deposit)?;
    let latest = records
        .latest_nonce(payer, payee)
        .map_err(ExecuteError::Records)?;
    let nonce = next_nonce(latest).ok_or(Refusal::NoncesExhausted)?;
    Ok(Event::ChannelOpened {
        channel: ChannelId {
            payer,
            payee,
            nonce,
        },
        deposit,
    })
}

/// The first channel of a pair has nonce 1. SQLite counts in 63 bits.
fn next_nonce(latest: Option<u64>) -> Option<u64> {
    latest
        .unwrap_or(0)
        .checked_add(1)
        .filter(|nonce| *nonce <= i64::MAX as u64)
}

fn top_up<R: Records>(records: &R, id: ChannelId, amount: Tokens) -> Decision<R> {
    nonzero(amount)?;
    let (_, phase) = unclosed(records, id)?;
    match phase {
        Unclosed::Open => affordable(records, id.payer, amount)?,
        Unclosed::Closing { exit } => return Err(Refusal::CloseAlreadyStarted { exit }.into()),
    }
    Ok(Event::ToppedUp {
        channel: id,
        amount,
    })
}

/// Always open: closing, notice or time do not matter, only whether the channel has ended.
fn redeem<R: Records>(records: &R, receipt: Receipt<Unverified>) -> Decision<R> {
    let (channel, _) = unclosed(records, receipt.channel())?;
    if receipt.amount() == channel.redeemed {
        return Err(Refusal::ReceiptAlreadyRedeemed {
            amount: receipt.amount(),
        }
        .into());
    }
    let paid = unpaid(&channel, receipt.amount())?;
    Ok(Event::Redeemed { receipt, paid })
}

fn start_close<R: Records>(records: &R, at: UnixTime, id: ChannelId) -> Decision<R> {
    match unclosed(records, id)? {
        (_, Unclosed::Open) => {
            let exit = at.after(records.genesis().close_notice_s());
            Ok(Event::CloseStarted { channel: id, exit })
        }
        (_, Unclosed::Closing { exit }) => Err(Refusal::CloseAlreadyStarted { exit }.into()),
    }
}

fn finalize<R: Records>(records: &R, at: UnixTime, id: ChannelId) -> Decision<R> {
    match unclosed(records, id)? {
        (_, Unclosed::Open) => Err(Refusal::CloseNotStarted.into()),
        (_, Unclosed::Closing { exit }) if at < exit => {
            Err(Refusal::NoticeNotOver { exit, now: at }.into())
        }
        (channel, Unclosed::Closing { .. }) => Ok(Event::Finalized {
            channel: id,
            refunded: channel.locked(),
        }),
    }
}

fn mutual_close<R: Records>(records: &R, id: ChannelId, total: Tokens) -> Decision<R> {
    let (channel, _) = unclosed(records, id)?;
    let paid = unpaid(&channel, total)?;
    // Both are at most the deposit: `unpaid` has refused the rest.
    let refunded = channel.deposit.saturating_sub(total);
    Ok(Event::MutuallyClosed {
        channel: id,
        total,
        paid,
        refunded,
    })
}

fn nonzero(amount: Tokens) -> Result<(), Refusal> {
    if amount == Tokens::ZERO {
        Err(Refusal::AmountIsZero)
    } else {
        Ok(())
    }
}

fn different(from: NodeId, to: NodeId) -> Result<(), Refusal> {
    if from == to {
        Err(Refusal::SameAccount { account: from })
    } else {
        Ok(())
    }
}

fn affordable<R: Records>(
    records: &R,
    account: NodeId,
    amount: Tokens,
) -> Result<(), ExecuteError<R::Error>> {
    let balance = records.balance(account).map_err(ExecuteError::Records)?;
    if amount > balance {
        return Err(Refusal::InsufficientBalance {
            account,
            balance,
            amount,
        }
        .into());
    }
    Ok(())
}

/// What a cumulative `total` adds to what was redeemed before.
fn unpaid(channel: &Channel, total: Tokens) -> Result<Tokens, Refusal> {
    let Some(paid) = total.checked_sub(channel.redeemed) else {
        return Err(Refusal::TotalWentBackwards {
            total,
            redeemed: channel.redeemed,
        });
    };
    if total > channel.deposit {
        return Err(Refusal::TotalExceedsDeposit {
            total,
            deposit: channel.deposit,
        });
    }
    Ok(paid)
}

/// The phases of a channel in which something can be done with it.
enum Unclosed {
    Open,
    Closing { exit: UnixTime },
}

fn unclosed<R: Records>(
    records: &R,
    id: ChannelId,
) -> Result<(Channel, Unclosed), ExecuteError<R::Error>> {
    let channel = records
        .channel(id)
        .map_err(ExecuteError::Records)?
        .ok_or(Refusal::UnknownChannel)?;
    match channel.phase {
        Phase::Open => Ok((channel, Unclosed::Open)),
        Phase::Closing { exit } => Ok((channel, Unclosed::Closing { exit })),
        Phase::Closed => Err(Refusal::ChannelClosed.into()),
    }
}

type Booked<R> = Result<(), ExecuteError<<R as Records>::Error>>;

/// Writes what an event changes. The amounts are the event's; nothing is decided here.
fn book<R: Records>(records: &mut R, event: &Event) -> Booked<R> {
    match *event {
        Event::Founded(_) => Ok(()),
        Event::Minted { to, amount, .. } => {
            let totals = records.totals();
            records.set_totals(Totals {
                minted: sum(totals, totals.minted, amount)?,
                ..totals
            });
            credit(records, to, amount)
        }
        Event::Transferred { from, to, amount } => {
            debit(records, from, amount)?;
            credit(records, to, amount)
        }
        Event::ChannelOpened { channel, deposit } => {
            debit(records, channel.payer, deposit)?;
            keep(records, channel, Channel::open(deposit))
        }
        Event::ToppedUp { channel, amount } => {
            debit(records, channel.payer, amount)?;
            change(records, channel, |totals, before| {
                Ok(Channel {
                    deposit: sum(totals, before.deposit, amount)?,
                    ..before
                })
            })
        }
        Event::Redeemed { receipt, paid } => {
            let total = receipt.amount();
            change(records, receipt.channel(), |_, before| {
                Ok(Channel {
                    redeemed: total,
                    ..before
                })
            })?;
            credit(records, receipt.channel().payee, paid)
        }
        Event::CloseStarted { channel, exit } => change(records, channel, |_, before| {
            Ok(Channel {
                phase: Phase::Closing { exit },
                ..before
            })
        }),
        Event::Finalized { channel, refunded } => {
            change(records, channel, |_, before| {
                Ok(Channel {
                    phase: Phase::Closed,
                    ..before
                })
            })?;
            credit(records, channel.payer, refunded)
        }
        Event::MutuallyClosed {
            channel,
            total,
            paid,
            refunded,
        } => {
            change(records, channel, |_, before| {
                Ok(Channel {
                    redeemed: total,
                    phase: Phase::Closed,
                    ..before
                })
            })?;
            credit(records, channel.payee, paid)?;
            credit(records, channel.payer, refunded)
        }
    }
}

fn credit<R: Records>(records: &mut R, account: NodeId, amount: Tokens) -> Booked<R> {
    let totals = records.totals();
    let balance = records.balance(account).map_err(ExecuteError::Records)?;
    let held = sum(totals, totals.held, amount)?;
    records
        .set_balance(account, sum(totals, balance, amount)?)
        .map_err(ExecuteError::Records)?;
    records.set_totals(Totals { held, ..totals });
    Ok(())
}

fn debit<R: Records>(records: &mut R, account: NodeId, amount: Tokens) -> Booked<R> {
    let totals = records.totals();
    let balance = records.balance(account).map_err(ExecuteError::Records)?;
    let held = difference(totals, totals.held, amount)?;
    records
        .set_balance(account, difference(totals, balance, amount)?)
        .map_err(ExecuteError::Records)?;
    records.set_totals(Totals { held, ..totals });
    Ok(())
}

fn change<R: Records>(
    records: &mut R,
    id: ChannelId,
    change: impl FnOnce(Totals, Channel) -> Result<Channel, NotConserved>,
) -> Booked<R> {
    let before = records
        .channel(id)
        .map_err(ExecuteError::Records)?
        .ok_or(Refusal::UnknownChannel)?;
    let after = change(records.totals(), before)?;
    keep(records, id, after)
}

/// Writes a channel and moves the total that is locked by what this changes.
fn keep<R: Records>(records: &mut R, id: ChannelId, after: Channel) -> Booked<R> {
    let totals = records.totals();
    let before = records.channel(id).map_err(ExecuteError::Records)?;
    let before = before.map_or(Tokens::ZERO, |channel| channel.locked());
    let locked = sum(
        totals,
        difference(totals, totals.locked, before)?,
        after.locked(),
    )?;
    records
        .set_channel(id, after)
        .map_err(ExecuteError::Records)?;
    records.set_totals(Totals { locked, ..totals });
    Ok(())
}

fn sum(totals: Totals, a: Tokens, b: Tokens) -> Result<Tokens, NotConserved> {
    let supply = |sum: &Tokens| sum.get() <= u128::from(MAX_SUPPLY);
    a.checked_add(b)
        .filter(supply)
        .ok_or(NotConserved { totals })
}

fn difference(totals: Totals, a: Tokens, b: Tokens) -> Result<Tokens, NotConserved> {
    a.checked_sub(b).ok_or(NotConserved { totals })
}
