//! `waybill ledger mint`, `transfer`, `burn` and `account`: who holds how much.

use std::path::PathBuf;

use clap::Args;
use ledger_client::{Abandoned, Channel, Phase};
use metering::{ChannelId, NodeId};
use serde_json::json;

use super::place::{Acting, Opened, Place};
use super::{failure, failure_in, in_base_units, unit};
use crate::cli::Failure;
use crate::cli::table::Side::{Left, Right};
use crate::cli::table::{Table, facts, money};
use crate::config::Amount;

#[derive(Debug, Args)]
pub(crate) struct Mint {
    #[command(flatten)]
    pub(super) acting: Acting,
    /// The treasurer's key file
    #[arg(long, value_name = "FILE")]
    pub(super) treasurer: PathBuf,
    /// The account that gets them, as `waybill key` shows it
    #[arg(long, value_name = "ACCOUNT")]
    pub(super) to: NodeId,
    /// How many tokens, such as 100 or 0.25
    #[arg(long, value_name = "TOKENS")]
    pub(super) amount: Amount,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Transfer {
    #[command(flatten)]
    acting: Acting,
    /// The key file of the account that gives
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The account that gets them, as `waybill key` shows it
    #[arg(long, value_name = "ACCOUNT")]
    to: NodeId,
    /// How many tokens, such as 100 or 0.25
    #[arg(long, value_name = "TOKENS")]
    amount: Amount,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Abandon {
    #[command(flatten)]
    acting: Acting,
    /// The key file of the account whose order it is
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Give it up
    #[arg(long)]
    yes: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Shows the order that has had no answer, and gives it up where that is wanted.
pub(super) fn abandon(Abandon { acting, key, yes, json }: &Abandon) -> Result<String, Failure> {
    let (_, opened) = acting.open(key)?;
    let Opened::Served(mut served) = opened else {
        let next = "name the served ledger with --url and --ledger-key";
        return Err(Failure::new("a ledger in a file of this machine leaves no order without an answer", next));
    };
    let Some(order) = served.unanswered().map_err(|error| failure(error.into()))? else {
        let none = if *json { "{ \"order\": null }\n" } else { "every order has had its answer\n" };
        return Ok(none.to_owned());
    };
    let described = |outcome: &str| {
        let number = order.seal().sequence;
        let object =
            json!({ "order": number, "account": order.account(), "command": order.command(), "outcome": outcome });
        format!("{object:#}\n")
    };
    let command = serde_json::to_string(order.command()).map_err(|error| Failure::new(error, ""))?;
    let shown = format!("order {} of {}: {command}\n", order.seal().sequence, order.account());
    if !yes && *json {
        return Ok(described("unanswered"));
    }
    if !yes {
        return Ok(format!("{shown}it has had no answer; add --yes to give it up\n"));
    }
    Ok(match served.abandon().map_err(failure)? {
        Some(Abandoned::Happened(_)) if *json => described("happened"),
        Some(Abandoned::Never) | None if *json => described("never"),
        Some(Abandoned::Happened(entry)) => format!("{shown}it had happened: {}\n", entry.event.name()),
        Some(Abandoned::Never) | None => format!("{shown}it is given up and will never happen\n"),
    })
}

#[derive(Debug, Args)]
pub(crate) struct Burn {
    #[command(flatten)]
    acting: Acting,
    /// The key file of the account
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// How many tokens, such as 100 or 0.25
    #[arg(long, value_name = "TOKENS")]
    amount: Amount,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct OfAccount {
    #[command(flatten)]
    place: Place,
    /// Which, as `waybill key` shows it
    #[arg(long, value_name = "ACCOUNT")]
    of: NodeId,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn mint(arguments: &Mint) -> Result<String, Failure> {
    let (_, mut opened) = arguments.acting.open(&arguments.treasurer)?;
    let ledger = opened.ledger();
    let unit = unit(ledger.genesis());
    let amount = in_base_units(&arguments.amount, &unit)?;
    ledger.mint(arguments.to, amount).map_err(|error| failure_in(&unit, error))?;
    let balance = ledger.balance(arguments.to).map_err(failure)?;
    if arguments.json {
        let object = json!({
            "unit": unit,
            "to": arguments.to.to_string(),
            "minted": amount.to_string(),
            "balance": balance.to_string(),
        });
        return Ok(format!("{object:#}\n"));
    }
    let (minted, held) = (money(amount, &unit), money(balance, &unit));
    Ok(format!("minted {minted} for {}, which holds {held}\n", arguments.to))
}

pub(super) fn transfer(arguments: &Transfer) -> Result<String, Failure> {
    let (account, mut opened) = arguments.acting.open(&arguments.key)?;
    let ledger = opened.ledger();
    let unit = unit(ledger.genesis());
    let amount = in_base_units(&arguments.amount, &unit)?;
    ledger.transfer(arguments.to, amount).map_err(|error| failure_in(&unit, error))?;
    let left = ledger.balance(account).map_err(failure)?;
    if arguments.json {
        let object = json!({
            "unit": unit,
            "from": account.to_string(),
            "to": arguments.to.to_string(),
            "amount": amount.to_string(),
            "balance": left.to_string(),
        });
        return Ok(format!("{object:#}\n"));
    }
    Ok(format!("gave {} to {}; {} are left\n", money(amount, &unit), arguments.to, money(left, &unit)))
}

pub(super) fn burn(arguments: &Burn) -> Result<String, Failure> {
    let (account, mut opened) = arguments.acting.open(&arguments.key)?;
    let unit = unit(opened.ledger().genesis());
    let amount = in_base_units(&arguments.amount, &unit)?;
    opened.act(ledger_client::Command::Burn { amount })?;
    let left = opened.ledger().balance(account).map_err(failure)?;
    if arguments.json {
        let object = json!({ "unit": unit, "burned": amount.to_string(), "balance": left.to_string() });
        return Ok(format!("{object:#}\n"));
    }
    Ok(format!("burned {}; {} are left\n", money(amount, &unit), money(left, &unit)))
}

pub(super) fn account(arguments: &OfAccount) -> Result<String, Failure> {
    let mut opened = arguments.place.open()?;
    let ledger = opened.ledger();
    let unit = unit(ledger.genesis());
    let balance = ledger.balance(arguments.of).map_err(failure)?;
    let channels = ledger.channels_of(arguments.of).map_err(failure)?;
    if arguments.json {
        let line = |(id, channel): &(ChannelId, Channel)| json!({ "channel": id, "record": channel });
        let object = json!({
            "unit": unit,
            "account": arguments.of.to_string(),
            "balance": balance.to_string(),
            "channels": channels.iter().map(line).collect::<Vec<_>>(),
        });
        return Ok(format!("{object:#}\n"));
    }
    let mut text = facts(&[("account", arguments.of.to_string()), ("holds", money(balance, &unit))]);
    if channels.is_empty() {
        return Ok(text);
    }
    let mut table = Table::new(&[
        ("PAYER", Left),
        ("PAYEE", Left),
        ("CHANNEL", Right),
        (&format!("DEPOSIT {}", unit.symbol), Right),
        ("REDEEMED", Right),
        ("STATE", Left),
    ]);
    for (id, Channel { deposit, redeemed, phase }) in channels {
        let state = match phase {
            Phase::Open => "open".to_owned(),
            Phase::Closing { exit } => format!("ends at {exit}"),
            Phase::Closed => "closed".to_owned(),
        };
        let [deposit, redeemed] = [deposit, redeemed].map(|amount| amount.display(unit.decimals).to_string());
        table.row([id.payer.to_string(), id.payee.to_string(), id.nonce.to_string(), deposit, redeemed, state]);
    }
    text.push('\n');
    text.push_str(&table.render());
    Ok(text)
}
