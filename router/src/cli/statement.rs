//! `waybill statement`: a month for each household, from the same counts that receipts are signed for.
//!
//! What the month cost the community is shared here and not in the daemon: it is people's arithmetic, about money the
//! router never sees.

mod csv;
mod page;
mod share;

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use metering::{Bytes, NodeId, Tokens};
use serde::Serialize;

use super::table::Side::{Left, Right};
use super::table::{Table, amount, harmless, money};
use super::{Ask, Failure};
use crate::control::{self, Household, Request, Response, Statement, Unit};
use crate::identity::plain;
use share::{Terms, apportion};

/// What [`super::Command::Statement`] takes.
#[derive(Debug, Args)]
pub(super) struct StatementArguments {
    /// The month, such as 2026-11; the present one without it
    #[arg(long, value_name = "YYYY-MM", value_parser = month)]
    month: Option<String>,
    /// What the month cost the community, to be shared by the households: 120 or 87.50
    #[arg(long, value_name = "AMOUNT")]
    cost: Option<String>,
    /// What the cost is in, such as EUR, with two decimals; the ledger's token without it
    #[arg(long, value_name = "NAME", requires = "cost")]
    currency: Option<String>,
    /// How much of the cost all households share equally, in percent; the rest is shared by bytes carried. 50 without it
    #[arg(long, value_name = "PERCENT", requires = "cost", conflicts_with = "fee",
          value_parser = clap::value_parser!(u8).range(0..=100))]
    equal_share: Option<u8>,
    /// What each household pays in any case, instead of an equal share; the rest is shared by bytes carried
    #[arg(long, value_name = "AMOUNT", requires = "cost")]
    fee: Option<String>,
    /// Write a table for spreadsheets (RFC 4180) to this file; - is standard output
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write a page to print or to send, one HTML file, to this file
    #[arg(long, value_name = "FILE")]
    page: Option<PathBuf>,
    #[command(flatten)]
    ask: Ask,
}

fn month(text: &str) -> Result<String, &'static str> {
    let is_month = text.len() == 7
        && text.char_indices().all(|(at, letter)| if at == 4 { letter == '-' } else { letter.is_ascii_digit() });
    if is_month { Ok(text.to_owned()) } else { Err("a month is written as 2026-11") }
}

pub(super) fn statement(arguments: &StatementArguments) -> Result<String, Failure> {
    let request = Request::Statement { month: arguments.month.clone() };
    let Response::Statement(answer) = control::ask(&arguments.ask.socket, &request)? else {
        return Err(Failure::new("the daemon answered another question", "it may be of another version: restart it"));
    };
    let shared = Shared::new(*answer, arguments)?;
    let mut written = String::new();
    if let Some(file) = &arguments.page {
        write(file, &page::page(&shared))?;
        written.push_str(&format!("The page is in {}.\n", file.display()));
    }
    match &arguments.csv {
        Some(file) if file == Path::new("-") => return Ok(csv::csv(&shared)),
        Some(file) => {
            write(file, &csv::csv(&shared))?;
            written.push_str(&format!("The table is in {}.\n", file.display()));
        }
        None => {}
    }
    if arguments.ask.json {
        let mut text = serde_json::to_string_pretty(&shared).expect("a statement has string keys only");
        text.push('\n');
        return Ok(text);
    }
    let text = as_text(&shared);
    Ok(if written.is_empty() { text } else { format!("{text}\n{written}") })
}

fn write(file: &Path, text: &str) -> Result<(), Failure> {
    fs::write(file, text).map_err(|cause| {
        let cause = format!("cannot write {}: {}", file.display(), plain(&cause));
        Failure::new(cause, "name a file in a directory that is there and may be written")
    })
}

/// A statement with what each household bears of the cost.
#[derive(Debug, Serialize)]
struct Shared {
    #[serde(flatten)]
    statement: Statement,
    /// `None` where no cost was named.
    cost: Option<Cost>,
}

/// What the month cost, and who bears it.
#[derive(Debug, Serialize)]
struct Cost {
    unit: Unit,
    #[serde(serialize_with = "digits")]
    total: Tokens,
    #[serde(serialize_with = "digits")]
    equal_part: Tokens,
    #[serde(serialize_with = "digits")]
    by_bytes_part: Tokens,
    shares: Vec<Share>,
}

/// What one household bears.
#[derive(Debug, Serialize)]
struct Share {
    neighbour: String,
    #[serde(serialize_with = "digits")]
    id: NodeId,
    carried_bytes: u64,
    #[serde(serialize_with = "digits")]
    equal: Tokens,
    #[serde(serialize_with = "digits")]
    by_bytes: Tokens,
    #[serde(serialize_with = "digits")]
    in_all: Tokens,
}

/// As everywhere in JSON: a string, so that no reader rounds it.
fn digits<S: serde::Serializer>(value: &impl std::fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

impl Shared {
    fn new(statement: Statement, arguments: &StatementArguments) -> Result<Self, Failure> {
        let Some(cost) = &arguments.cost else { return Ok(Self { statement, cost: None }) };
        let unit = match &arguments.currency {
            Some(name) => Unit { symbol: harmless(name), decimals: 2 },
            None if statement.unit.symbol.is_empty() => {
                return Err(Failure::new(
                    "this router has no ledger, so a cost needs a currency",
                    "say what it is in, such as --currency EUR",
                ));
            }
            None => statement.unit.clone(),
        };
        let parse = |text: &str| {
            Tokens::parse_decimal(text, unit.decimals).map_err(|error| {
                let next = format!("write it as 87.50, with at most {} digits after the point", unit.decimals);
                Failure::new(format!("{text} is no amount: {error}"), next)
            })
        };
        let total = parse(cost)?;
        let terms = match &arguments.fee {
            Some(fee) => Terms::Fee(parse(fee)?),
            None => Terms::EqualPercent(arguments.equal_share.unwrap_or(50)),
        };
        let sharing: Vec<&Household> = statement.households.iter().filter(|household| household.shares()).collect();
        if sharing.is_empty() {
            let next = "see `waybill neighbours`, or name another --month";
            return Err(Failure::new(format!("nobody was carried for in {}", statement.month), next));
        }
        let count = sharing.len() as u128;
        let Some(equal_part) = terms.equal_part(total, count) else {
            let next = "name a lower --fee, or a higher --cost";
            return Err(Failure::new(format!("a fee of {count} households is more than the whole cost"), next));
        };
        let by_bytes_part = total.saturating_sub(equal_part);
        let carried: Vec<u64> = sharing.iter().map(|household| household.carried().get()).collect();
        let equal = apportion(equal_part, &vec![1; sharing.len()]);
        let by_bytes = apportion(by_bytes_part, &carried);
        let shares = sharing.iter().zip(&carried).zip(equal.into_iter().zip(by_bytes));
        let shares = shares.map(|((household, carried), (equal, by_bytes))| Share {
            neighbour: household.neighbour.clone(),
            id: household.id,
            carried_bytes: *carried,
            equal,
            by_bytes,
            in_all: equal.saturating_add(by_bytes),
        });
        let shares = shares.collect();
        Ok(Self { statement, cost: Some(Cost { unit, total, equal_part, by_bytes_part, shares }) })
    }

    fn share(&self, household: &Household) -> Option<&Share> {
        self.cost.as_ref()?.shares.iter().find(|share| share.id == household.id)
    }
}

impl Household {
    /// Whether it bears a part of the cost: whoever carries for us has costs of its own.
    fn shares(&self) -> bool {
        self.role != crate::config::Role::Provider.name()
    }

    /// What was carried for it, both ways, as settlement would bill it: what arrived from it, and of what was sent to it
    /// what it says it received, but never less than three quarters. Who reports little does not pay little.
    fn carried(&self) -> Bytes {
        let sent = self.sent_bytes.get();
        let least = sent - sent / 4;
        let arrived = self.reported_received_bytes.get().clamp(least, sent);
        self.received_bytes.saturating_add(Bytes::new(arrived))
    }
}

/// Above the tables, in words.
fn heading(shared: &Shared) -> String {
    let Statement { name, month, is_over, .. } = &shared.statement;
    let so_far = if *is_over { "" } else { ", so far" };
    format!("Statement of {} for {}{so_far}", harmless(name), harmless(month))
}

fn cost_in_words(cost: &Cost) -> String {
    format!(
        "The month cost {}: {} shared equally, {} by bytes carried.",
        money(cost.total, &cost.unit),
        amount(cost.equal_part, &cost.unit),
        amount(cost.by_bytes_part, &cost.unit)
    )
}

fn as_text(shared: &Shared) -> String {
    let mut text = format!("{}\n", heading(shared));
    if shared.statement.households.is_empty() {
        text.push_str("Nothing was counted in this month.\n  See `waybill neighbours` for who is linked.\n");
        return text;
    }
    let unit = &shared.statement.unit;
    let mut table = Table::new(&[
        ("HOUSEHOLD", Left),
        ("ROLE", Left),
        ("DAYS", Right),
        ("SENT TO IT", Right),
        ("IT RECEIVED", Right),
        ("IT SENT", Right),
        ("RECEIVED", Right),
        ("CARRIED", Right),
        ("IT PAID", Right),
        ("WE PAID", Right),
        ("UNPAID", Right),
    ]);
    for household in &shared.statement.households {
        table.row([
            household.neighbour.clone(),
            household.role.clone(),
            household.days.to_string(),
            household.sent_bytes.to_string(),
            household.reported_received_bytes.to_string(),
            household.reported_sent_bytes.to_string(),
            household.received_bytes.to_string(),
            household.carried().to_string(),
            amount(household.earned, unit),
            amount(household.spent, unit),
            amount(household.written_off, unit),
        ]);
    }
    text.push_str(&format!("\n{}", table.render()));
    if let Some(cost) = &shared.cost {
        text.push_str(&format!("\n{}\n\n", cost_in_words(cost)));
        let mut table = Table::new(&[
            ("HOUSEHOLD", Left),
            ("CARRIED", Right),
            ("EQUALLY", Right),
            ("BY BYTES", Right),
            (&format!("SHARE {}", cost.unit.symbol), Right),
        ]);
        for share in &cost.shares {
            table.row([
                share.neighbour.clone(),
                Bytes::new(share.carried_bytes).to_string(),
                amount(share.equal, &cost.unit),
                amount(share.by_bytes, &cost.unit),
                amount(share.in_all, &cost.unit),
            ]);
        }
        text.push_str(&table.render());
    }
    text.push_str("\nBytes are billed bytes, counted while terms were agreed on.");
    if !unit.symbol.is_empty() {
        text.push_str(&format!(" What was paid is in {}.", unit.symbol));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests;
