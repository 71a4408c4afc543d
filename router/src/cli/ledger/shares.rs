//! `waybill ledger shares`: who owns what a router earns.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use ledger_client::{Command, Event, Fact, Holding, Pool, Records};
use metering::{NodeId, SortedSet, Tokens};
use serde_json::json;

use super::place::{Acting, Place};
use crate::cli::Failure;
use crate::cli::table::Side::{Left, Right};
use crate::cli::table::{Table, facts, money};

#[derive(Debug, Subcommand)]
pub(crate) enum Shares {
    /// Have what a router earns belong to whoever holds its shares: at first to its own account
    #[command(
        after_help = "Example:\n  waybill ledger shares issue --path hilltop.ledger --key roof.key --shares 100\n\n\
                            Once, and for ever: nobody can change how many there are."
    )]
    Issue(Issue),
    /// Give shares away; what they have earned so far stays the giver's
    #[command(
        after_help = "Example:\n  waybill ledger shares give --path hilltop.ledger --key roof.key --shares 25 \\\n      \
                            --to 0x89854CD295ba1bfDF4fC877107577271CE3D12C6\n\n\
                            Shares of another's router are given with --router."
    )]
    Give(Give),
    /// Take out what the account's shares have earned
    #[command(after_help = "Example:\n  waybill ledger shares claim --path hilltop.ledger --key attic.key \\\n      \
                            --router 0x89854CD295ba1bfDF4fC877107577271CE3D12C6")]
    Claim(Claim),
    /// Show who holds a router's shares, and what each can take out
    #[command(after_help = "Example:\n  waybill ledger shares show --path hilltop.ledger \\\n      \
                            0x89854CD295ba1bfDF4fC877107577271CE3D12C6\n\n\
                            It replays the whole log, so that nobody's word is needed.")]
    Show(Show),
}

#[derive(Debug, Args)]
pub(crate) struct Issue {
    #[command(flatten)]
    acting: Acting,
    /// The router's key file
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// How many, for ever
    #[arg(long, value_name = "N")]
    shares: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Give {
    #[command(flatten)]
    acting: Acting,
    /// The key file of the account that gives
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Whose shares they are, where it is not the account's own
    #[arg(long, value_name = "ACCOUNT")]
    router: Option<NodeId>,
    /// How many
    #[arg(long, value_name = "N")]
    shares: u64,
    /// The account that gets them, as `waybill key` shows it
    #[arg(long, value_name = "ACCOUNT")]
    to: NodeId,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Claim {
    #[command(flatten)]
    acting: Acting,
    /// The key file of the account that holds them
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Whose shares they are, where it is not the account's own
    #[arg(long, value_name = "ACCOUNT")]
    router: Option<NodeId>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    #[command(flatten)]
    place: Place,
    /// The router's account
    #[arg(value_name = "ROUTER")]
    router: NodeId,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn execute(command: &Shares) -> Result<String, Failure> {
    match command {
        Shares::Issue(arguments) => issue(arguments),
        Shares::Give(arguments) => give(arguments),
        Shares::Claim(arguments) => claim(arguments),
        Shares::Show(arguments) => show(arguments),
    }
}

fn issue(Issue { acting, key, shares, json }: &Issue) -> Result<String, Failure> {
    let (router, mut opened) = acting.open(key)?;
    opened.act(Command::IssueShares { shares: *shares })?;
    if *json {
        return Ok(format!("{:#}\n", json!({ "router": router.to_string(), "shares": shares })));
    }
    Ok(format!("{router} has {shares} shares and holds them all; what it earns from here on is their holders'\n"))
}

fn give(Give { acting, key, router, shares, to, json }: &Give) -> Result<String, Failure> {
    let (account, mut opened) = acting.open(key)?;
    let router = router.unwrap_or(account);
    opened.act(Command::TransferShares { router, to: *to, shares: *shares })?;
    if *json {
        let [router, from, to] = [router, account, *to].map(|id| id.to_string());
        return Ok(format!("{:#}\n", json!({ "router": router, "from": from, "to": to, "shares": shares })));
    }
    Ok(format!("gave {shares} shares of {router} to {to}\n"))
}

fn claim(Claim { acting, key, router, json }: &Claim) -> Result<String, Failure> {
    let (account, mut opened) = acting.open(key)?;
    let router = router.unwrap_or(account);
    let entry = opened.act(Command::ClaimRevenue { router })?;
    let amount = if let Event::RevenueClaimed { amount, .. } = entry.event { amount } else { Tokens::ZERO };
    let (unit, balance) = (opened.unit(), opened.account(account)?.balance);
    if *json {
        let object = json!({
            "unit": unit,
            "router": router.to_string(),
            "by": account.to_string(),
            "amount": amount.to_string(),
            "balance": balance.to_string(),
        });
        return Ok(format!("{object:#}\n"));
    }
    Ok(format!("took out {} of {router}; {account} holds {}\n", money(amount, &unit), money(balance, &unit)))
}

fn show(Show { place, router, json }: &Show) -> Result<String, Failure> {
    let mut opened = place.open()?;
    let unit = opened.unit();
    let mut holders = SortedSet::from([*router]);
    let state = opened.replay(|entry| {
        if let Event::SharesTransferred { router: of, to, .. } = entry.event
            && of == *router
        {
            holders.insert(to);
        }
    })?;
    let Ok(pool) = state.fact(&Pool::place(router));
    let Some(pool) = pool.and_then(|bytes| Pool::decode(&bytes)) else {
        let next = "it issues some with `waybill ledger shares issue`";
        return Err(Failure::new(format!("{router} has issued no shares"), next));
    };
    let holding = |holder: &NodeId| {
        let Ok(found) = state.fact(&Holding::place(&(*router, *holder)));
        let holding = Holding::decode(&found?)?.up_to(&pool)?;
        (holding.shares > 0 || holding.owed > Tokens::ZERO).then_some((*holder, holding))
    };
    let holdings: Vec<(NodeId, Holding)> = holders.iter().filter_map(holding).collect();
    if *json {
        let line = |(holder, holding): &(NodeId, Holding)| json!({ "holder": holder.to_string(), "shares": holding.shares, "owed": holding.owed.to_string() });
        let object = json!({
            "unit": unit,
            "router": router.to_string(),
            "shares": pool.shares,
            "earned": pool.earned.to_string(),
            "holders": holdings.iter().map(line).collect::<Vec<_>>(),
        });
        return Ok(format!("{object:#}\n"));
    }
    let mut text = facts(&[
        ("router", router.to_string()),
        ("shares", pool.shares.to_string()),
        ("earned", format!("{} since they were issued", money(pool.earned, &unit))),
    ]);
    let mut table =
        Table::new(&[("HOLDER", Left), ("SHARES", Right), (&format!("TO TAKE OUT {}", unit.symbol), Right)]);
    for (holder, Holding { shares, owed, .. }) in holdings {
        table.row([holder.to_string(), shares.to_string(), owed.display(unit.decimals).to_string()]);
    }
    text.push('\n');
    text.push_str(&table.render());
    Ok(text)
}

#[cfg(test)]
mod tests {
    use ledger_client::Ledger;
    use metering::Receipt;

    use super::*;
    use crate::cli::ledger::story::Hilltop;
    use crate::identity;

    #[test]
    fn shares_are_issued_given_and_claimed() {
        let hilltop = Hilltop::founded();
        let acting = || Acting::file(&hilltop.path);
        let (router, holder) = (hilltop.account("roof"), hilltop.account("attic"));
        let shown = || show(&Show { place: Place::file(&hilltop.path), router, json: false });
        assert!(shown().unwrap_err().to_string().contains("shares issue"));
        hilltop.mint("roof", "1");
        let key = hilltop.key("roof");
        issue(&Issue { acting: acting(), key: key.clone(), shares: 4, json: false }).unwrap();
        let gives =
            |shares| give(&Give { acting: acting(), key: key.clone(), router: None, shares, to: holder, json: false });
        gives(1).unwrap();
        assert!(gives(4).unwrap_err().to_string().contains("(InsufficientShares)"));
        let claims =
            || claim(&Claim { acting: acting(), key: hilltop.key("attic"), router: Some(router), json: false });
        assert!(claims().unwrap_err().to_string().contains("(NothingToClaim)"));

        hilltop.mint("payer", "8");
        let [four, eight] = [4_000_000, 8_000_000].map(|units| Tokens::new(units).unwrap());
        let mut ledger = hilltop.opened("payer");
        let channel = ledger.open_channel(router, eight).unwrap();
        let payer = identity::load(&hilltop.key("payer")).unwrap();
        ledger.redeem(Receipt::sign(payer.account(), &ledger.domain(), channel, four, [0; 32])).unwrap();
        let text = shown().unwrap();
        assert!(text.contains("earned  4.000000 WAY") && text.contains("1         1.000000\n"), "{text}");
        assert!(claims().unwrap().starts_with("took out 1.000000 WAY of "));
    }
}
