//! `waybill ledger redeem`: receipts that a router has written to a file.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use ledger_client::Refusal;
use metering::{ChannelId, LedgerDomain, Receipt, SortedSet, Tokens, Unverified};
use serde_json::json;

use super::place::Writing;
use super::{failure, unit};
use crate::cli::Failure;
use crate::cli::table::Side::{Left, Right};
use crate::cli::table::Table;
use crate::control::Receipts;

#[derive(Debug, Args)]
pub(crate) struct RedeemFile {
    #[command(flatten)]
    writing: Writing,
    /// What `waybill receipts --json` wrote
    #[arg(long, value_name = "FILE")]
    receipts: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// A file of receipts is longer only if it is none: a router has a few hundred channels.
const RECEIPTS_FILE_MAX: u64 = 16 << 20;

/// What became of one receipt of the file.
struct Brought {
    /// What it says, if it can be read.
    receipt: Option<Receipt<Unverified>>,
    paid: Result<Tokens, String>,
}

pub(super) fn redeem(arguments: &RedeemFile) -> Result<String, Failure> {
    let file = read_receipts(&arguments.receipts)?;
    let mut opened = arguments.writing.open()?;
    let ledger = opened.ledger();
    let (unit, domain) = (unit(ledger.genesis()), ledger.domain());
    let read: Vec<Result<Receipt, Box<Brought>>> = file.iter().map(|text| read_receipt(text, &domain)).collect();
    let good: Vec<Receipt> = read.iter().filter_map(|read| read.as_ref().ok()).copied().collect();
    let mut answers = ledger.redeem_many(&good).map_err(failure)?.into_iter();
    let brought: Vec<Brought> = read
        .into_iter()
        .map(|read| match read {
            Err(bad) => *bad,
            Ok(receipt) => {
                let answer = answers.next().expect("there is an answer to each receipt");
                Brought { receipt: Some(receipt.into_unverified()), paid: answer.map_err(|refusal| refused(&refusal)) }
            }
        })
        .collect();
    let whys: SortedSet<&str> =
        brought.iter().filter_map(|line| line.paid.as_ref().err()).map(String::as_str).collect();
    let useless = brought.iter().all(|line| line.paid.is_err()) && !whys.contains(REDEEMED_BEFORE);
    if useless && !brought.is_empty() {
        let whys = whys.into_iter().collect::<Vec<_>>().join("; ");
        return Err(Failure::new(
            format!("none of the {} receipts in {} was redeemed: {whys}", brought.len(), arguments.receipts.display()),
            "`waybill ledger show` says which ledger this is; newer receipts come from `waybill receipts --json`",
        ));
    }
    if arguments.json {
        let line = |Brought { receipt, paid }: &Brought| {
            json!({
                "payer": receipt.map(|receipt| receipt.channel().payer.to_string()),
                "payee": receipt.map(|receipt| receipt.channel().payee.to_string()),
                "nonce": receipt.map(|receipt| receipt.channel().nonce.to_string()),
                "amount": receipt.map(|receipt| receipt.amount().to_string()),
                "paid": paid.as_ref().ok().map(ToString::to_string),
                "refused": paid.as_ref().err(),
            })
        };
        let object = json!({ "unit": unit, "receipts": brought.iter().map(line).collect::<Vec<_>>() });
        return Ok(format!("{object:#}\n"));
    }
    if brought.is_empty() {
        return Ok("There are no receipts in the file that could be redeemed: only those are in it that are on the router's disk.\n"
            .to_owned());
    }
    let mut table =
        Table::new(&[("PAYEE", Left), ("PAYER", Left), ("CHANNEL", Right), (&format!("PAID {}", unit.symbol), Right)]);
    for Brought { receipt, paid } in brought {
        let of = |part: &dyn Fn(ChannelId) -> String| receipt.map_or("-".to_owned(), |receipt| part(receipt.channel()));
        let paid = paid.map_or_else(|why| format!("no: {why}"), |paid| paid.display(unit.decimals).to_string());
        table.row([
            of(&|channel| channel.payee.to_string()),
            of(&|channel| channel.payer.to_string()),
            of(&|channel| channel.nonce.to_string()),
            paid,
        ]);
    }
    Ok(table.render())
}

const REDEEMED_BEFORE: &str = "redeemed before";

fn refused(refusal: &Refusal) -> String {
    let before = matches!(refusal, Refusal::ReceiptAlreadyRedeemed { .. } | Refusal::TotalWentBackwards { .. });
    if before { REDEEMED_BEFORE.to_owned() } else { format!("{refusal} ({})", refusal.rule()) }
}

fn read_receipt(text: &str, domain: &LedgerDomain) -> Result<Receipt, Box<Brought>> {
    let bad = |why: &str| Box::new(Brought { receipt: None, paid: Err(why.to_owned()) });
    let bytes = unhex(text).ok_or_else(|| bad("not hexadecimal"))?;
    let receipt = Receipt::decode(&bytes).map_err(|error| bad(&error.to_string()))?;
    let not_here = "not signed for this ledger, or altered".to_owned();
    receipt.verify(domain).map_err(|_| Box::new(Brought { receipt: Some(receipt), paid: Err(not_here) }))
}

/// The texts of all receipts in a file that `waybill receipts --json` wrote.
fn read_receipts(path: &Path) -> Result<Vec<String>, Failure> {
    let bad =
        |why: String, next: &str| Failure::new(format!("cannot read receipts from {}: {why}", path.display()), next);
    let anew = "write it anew with `waybill receipts --json`";
    let file = File::open(path).map_err(|error| bad(error.to_string(), "name the file with --receipts"))?;
    let mut text = String::new();
    // Not by its length: a pipe says that it has none.
    file.take(RECEIPTS_FILE_MAX + 1).read_to_string(&mut text).map_err(|error| bad(error.to_string(), anew))?;
    if u64::try_from(text.len()).is_ok_and(|length| length > RECEIPTS_FILE_MAX) {
        return Err(bad("too long for a file of receipts".to_owned(), anew));
    }
    let file: Receipts = serde_json::from_str(&text).map_err(|error| bad(error.to_string(), anew))?;
    let own = file.receipts.into_iter().filter_map(|line| line.receipt);
    Ok(own.chain(file.keeping.into_iter().map(|line| line.receipt)).collect())
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    };
    text.as_bytes().chunks(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_is_read_and_nothing_else() {
        assert_eq!(unhex("00fFa5"), Some(vec![0, 0xff, 0xa5]));
        for bad in ["0", "0g", "+1", "é0"] {
            assert_eq!(unhex(bad), None);
        }
    }
}
