//! `waybill ledger`: what a community's treasurer, its members and its auditors do with the ledger, in its file or where it
//! is served.

#[cfg(feature = "ledger-serve")]
pub(crate) mod community;
mod compare;
mod copies;
mod money;
pub(super) mod named;
mod people;
mod place;
mod receipts;
mod refused;
#[cfg(feature = "ledger-serve")]
mod serve;
mod shares;
#[cfg(test)]
mod story;
mod vouchers;

use std::error::Error as StdError;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use ledger_client::{CreateError, Embedded, Genesis, Head, Ledger, Totals, Verdict, fresh_nonce, system_clock};
use metering::Tokens;
use serde_json::json;

use super::Failure;
use super::table::{facts, money};
use crate::config::{Amount, parse_duration};
use crate::control::Unit;
use crate::identity;

use place::{Opened, Place};
use refused::{failure, failure_in};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Found a community: make its ledger's file
    #[command(after_help = "Example:\n  waybill ledger create --path hilltop.ledger --community Hilltop \\\n      \
                      --symbol WAY --treasurer treasurer.key")]
    Create(Create),
    /// Make tokens for an account, in the treasurer's name
    #[command(
        after_help = "Example:\n  waybill ledger mint --path hilltop.ledger --treasurer treasurer.key \\\n      \
                      --to 0x89854CD295ba1bfDF4fC877107577271CE3D12C6 --amount 100"
    )]
    Mint(money::Mint),
    /// Redeem receipts for whom they pay, from a file that `waybill receipts --json` wrote
    #[command(after_help = "Example:\n  waybill receipts --json > receipts.json\n  \
                      waybill ledger redeem --path hilltop.ledger --receipts receipts.json\n\n\
                      A receipt pays its payee, whoever brings it: nobody's key is needed. Receipts that the router keeps \
                      for neighbours are redeemed too.")]
    Redeem(receipts::RedeemFile),
    /// Show the community, its token and where all tokens are
    #[command(after_help = "Example:\n  waybill ledger show --path hilltop.ledger")]
    Show(Look),
    /// Give up an order that a served ledger never answers
    #[command(
        after_help = "Example:\n  waybill ledger abandon --url https://ledger.example:8443 --ledger-key KEY --key attic.key\n\n\
                            Shows the order. With --yes it is given up: its number is used for nothing, so that it cannot happen \
                            later, and the account can order something else."
    )]
    Abandon(money::Abandon),
    /// Replay the whole log and check that every rule was kept
    #[command(after_help = "Examples:\n  waybill ledger audit --path hilltop.ledger\n  \
                            waybill ledger audit --export hilltop.log\n\n\
                            The exit code is 1 if anything is wrong.")]
    Audit(Audit),
    /// Give the account's tokens away
    #[command(after_help = "Example:\n  waybill ledger transfer --path hilltop.ledger --key attic.key \\\n      \
                      --to 0x89854CD295ba1bfDF4fC877107577271CE3D12C6 --amount 2.50\n\n\
                      Where no answer comes, ask the same again: it happens once.")]
    Transfer(money::Transfer),
    /// Unmake tokens of the account's own
    #[command(after_help = "Example:\n  waybill ledger burn --path hilltop.ledger --key attic.key --amount 2.50")]
    Burn(money::Burn),
    /// Show what stands under an account
    #[command(after_help = "Example:\n  waybill ledger account --path hilltop.ledger \\\n      \
                            --of 0x89854CD295ba1bfDF4fC877107577271CE3D12C6")]
    Account(money::OfAccount),
    /// Vouchers: tokens on paper
    #[command(subcommand, disable_help_subcommand = true)]
    Voucher(vouchers::Voucher),
    /// Members of the community
    #[command(subcommand, disable_help_subcommand = true)]
    Member(people::Member),
    /// Codes by which people become members
    #[command(subcommand, disable_help_subcommand = true)]
    Enrol(people::Enrol),
    /// Have an account do something for the community
    #[command(
        after_help = "Example:\n  waybill ledger appoint --path hilltop.ledger --treasurer treasurer.key --role issuer \\\n      \
                            --to 0x89854CD295ba1bfDF4fC877107577271CE3D12C6"
    )]
    Appoint(people::Appoint),
    /// Have an account do that no more
    #[command(
        after_help = "Example:\n  waybill ledger dismiss --path hilltop.ledger --treasurer treasurer.key --role issuer \\\n      \
                            --from 0x89854CD295ba1bfDF4fC877107577271CE3D12C6"
    )]
    Dismiss(people::Dismiss),
    /// Shares of what a router earns
    #[command(subcommand, disable_help_subcommand = true)]
    Shares(shares::Shares),
    /// Have another key sign for an account
    #[command(after_help = "Example:\n  waybill key --file new.key\n  \
                            waybill ledger rotate --path hilltop.ledger --key attic.key --new-key new.key \\\n      \
                            --account 0x89854CD295ba1bfDF4fC877107577271CE3D12C6\n\n\
                            The account keeps its name and its tokens. Channels opened before keep the old key: \
                            keep both key files until they are closed.")]
    Rotate(people::Rotate),
    /// Copy the ledger's file while it is in use
    #[command(
        after_help = "Example:\n  waybill ledger backup --path hilltop.ledger --to /mnt/stick/hilltop-2026-11-27.ledger"
    )]
    Backup(copies::Backup),
    /// Put a copy in place of a ledger that is lost
    #[command(
        after_help = "Example:\n  waybill ledger restore --from /mnt/stick/hilltop-2026-11-27.ledger --path hilltop.ledger\n\n\
                            The copy is audited first. With --published it must also have all that people were told of."
    )]
    Restore(copies::Restore),
    /// Write the log as text, for whoever wants to audit it
    #[command(after_help = "Example:\n  waybill ledger export --path hilltop.ledger --out hilltop.log\n  \
                            waybill ledger audit --export hilltop.log")]
    Export(copies::Export),
    /// Look whether two checkpoints prove that a ledger has told two stories; neither ledger nor router is asked
    #[command(after_help = "Examples:\n  waybill ledger compare evidence.json --ledger-key \"$key\"\n  \
                            waybill ledger compare ours.note theirs.note --ledger-key \"$key\"\n\n\
                            The exit code is 0 where a fork is proven, 1 where nothing is shown.")]
    Compare(compare::Compare),
    /// Serve the ledger to the community, over HTTPS
    #[command(after_help = "Example:\n  waybill key --file ledger.key\n  \
                            waybill ledger serve --path hilltop.ledger --key ledger.key\n\n\
                            Routers reach it with `url` and `key` in the [ledger] table of their config, people with --url and \
                            --ledger-key.")]
    #[cfg(feature = "ledger-serve")]
    Serve(serve::Serve),
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// The ledger's file, to be made
    #[arg(long, value_name = "FILE")]
    path: PathBuf,
    /// The community's name
    #[arg(long, value_name = "NAME")]
    community: String,
    /// What its token is called, as it stands behind an amount
    #[arg(long, value_name = "SYMBOL")]
    symbol: String,
    /// How many digits of an amount stand behind the point
    #[arg(long, value_name = "N", default_value_t = 6)]
    decimals: u8,
    /// The treasurer's key file; only this account will make tokens
    #[arg(long, value_name = "FILE")]
    treasurer: PathBuf,
    /// How long who is paid has to redeem, once who pays gives notice to close a channel
    #[arg(long, value_name = "TIME", default_value = "72h", value_parser = close_notice)]
    close_notice: u32,
    /// Allow a notice of less than an hour, for tests: routers look each few minutes, and who pays runs with the rest meanwhile
    #[arg(long)]
    short_notice: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The shortest notice that is good for more than a test: a router looks at its channels each ten minutes, and may have been started
/// anew or have had no link to the ledger when notice was given.
const NOTICE_LEAST_S: u32 = 3600;

fn entries(count: u64) -> String {
    if count == 1 { "one entry".to_owned() } else { format!("{count} entries") }
}

/// Whole seconds.
fn seconds(text: &str) -> Result<u32, String> {
    u32::try_from(parse_duration(text)?.as_secs()).map_err(|_| "this is longer than a ledger can wait".to_owned())
}

/// Whole seconds, at least one.
fn close_notice(text: &str) -> Result<u32, String> {
    let seconds = seconds(text)?;
    if seconds == 0 { Err("at least a second, and days are better".to_owned()) } else { Ok(seconds) }
}

#[derive(Debug, Args)]
pub(super) struct Look {
    #[command(flatten)]
    place: Place,
    /// Print one JSON object; amounts are strings that count base units
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Audit {
    #[command(flatten)]
    place: Place,
    /// What `waybill ledger export` wrote, or - for standard input; no ledger is needed then
    #[arg(long, value_name = "FILE|-", conflicts_with_all = ["path", "url"])]
    export: Option<PathBuf>,
    /// Print one JSON object; amounts are strings that count base units
    #[arg(long)]
    json: bool,
}

pub(super) fn execute(command: &Command) -> Result<String, Failure> {
    match command {
        Command::Create(arguments) => create(arguments),
        Command::Mint(arguments) => money::mint(arguments),
        Command::Redeem(arguments) => receipts::redeem(arguments),
        Command::Show(arguments) => show(arguments),
        Command::Abandon(arguments) => money::abandon(arguments),
        Command::Audit(arguments) => audit(arguments),
        Command::Transfer(arguments) => money::transfer(arguments),
        Command::Burn(arguments) => money::burn(arguments),
        Command::Account(arguments) => money::account(arguments),
        Command::Voucher(command) => vouchers::execute(command),
        Command::Member(command) => people::member(command),
        Command::Enrol(command) => people::enrol(command),
        Command::Appoint(arguments) => people::appoint(arguments),
        Command::Dismiss(arguments) => people::dismiss(arguments),
        Command::Shares(command) => shares::execute(command),
        Command::Rotate(arguments) => people::rotate(arguments),
        Command::Backup(arguments) => copies::backup(arguments),
        Command::Restore(arguments) => copies::restore(arguments),
        Command::Export(arguments) => copies::export(arguments),
        Command::Compare(arguments) => compare::compare(arguments),
        #[cfg(feature = "ledger-serve")]
        Command::Serve(arguments) => serve::serve(arguments),
    }
}

fn create(arguments: &Create) -> Result<String, Failure> {
    let Create { path, community, symbol, decimals, treasurer, close_notice, short_notice, json } = arguments;
    if *close_notice < NOTICE_LEAST_S && !short_notice {
        return Err(Failure::new(
            "with a notice of less than an hour, who pays takes its deposit back before who is paid has redeemed",
            "choose a longer --close-notice, such as the usual 72h; for a test, add --short-notice",
        ));
    }
    let treasurer = identity::load(treasurer)?.node_id();
    let clock = system_clock();
    let nonce = fresh_nonce()
        .map_err(|error| Failure::new(format!("cannot make random bytes: {error}"), "try again in a moment"))?;
    let genesis = Genesis::new(community, symbol, *decimals, treasurer, clock(), nonce)
        .map_err(|error| Failure::new(error, "see `waybill ledger create --help`"))?
        .with_close_notice(*close_notice);
    let mut ledger = Embedded::create(path, &genesis, clock).map_err(|error| match error {
        CreateError::Exists { .. } => {
            Failure::new(&error, "name another file, or look at it with `waybill ledger show`")
        }
        CreateError::Failed(error) => Failure::new(
            format!("cannot create {}: {}", path.display(), with_sources(&error)),
            "look whether its directory exists, may be written to and has space left",
        ),
    })?;
    describe(&mut ledger, &path.display().to_string(), *json)
}

fn in_base_units(amount: &Amount, unit: &Unit) -> Result<Tokens, Failure> {
    let counted = amount.in_base_units(unit.decimals);
    counted.map_err(|error| Failure::new(error, "see the token's decimals with `waybill ledger show`"))
}

fn show(arguments: &Look) -> Result<String, Failure> {
    describe(arguments.place.open()?.ledger(), &arguments.place.name(), arguments.json)
}

fn audit(arguments: &Audit) -> Result<String, Failure> {
    if let Some(export) = &arguments.export {
        return copies::audit(export).map(|(unit, head, totals)| kept(arguments.json, &unit, head, totals));
    }
    let mut opened = arguments.place.open()?;
    let unit = opened.unit();
    let verdict = match &mut opened {
        Opened::File(file) => file.audit(),
        Opened::Served(served) => served.audit_telling(copies::counted()),
    };
    match verdict.map_err(failure)? {
        Verdict::Kept { head, totals } => Ok(kept(arguments.json, &unit, head, totals)),
        Verdict::Broken { difference } => Err(Failure::new(
            format!("the ledger {} is broken: {difference}", arguments.place.name()),
            "stop using it, keep the file, and go back to the last copy that passes `waybill ledger audit`",
        )),
    }
}

fn kept(json: bool, unit: &Unit, head: Head, totals: Totals) -> String {
    if json {
        return format!("{:#}\n", audited(unit, head, totals));
    }
    let burned = match totals.burned {
        Tokens::ZERO => String::new(),
        burned => format!(" + {} burned", money(burned, unit)),
    };
    format!(
        "every rule was kept in all {} entries: {} minted = {} held + {} locked{burned}\n",
        head.size,
        money(totals.minted, unit),
        money(totals.held, unit),
        money(totals.locked, unit),
    )
}

fn audited(unit: &Unit, head: Head, totals: Totals) -> serde_json::Value {
    json!({
        "unit": unit,
        "entries": head.size,
        "root": head.root.to_string(),
        "minted": totals.minted.to_string(),
        "burned": totals.burned.to_string(),
        "held": totals.held.to_string(),
        "locked": totals.locked.to_string(),
        "conserved": totals.conserved(),
    })
}

fn describe(ledger: &mut dyn Ledger, place: &str, json: bool) -> Result<String, Failure> {
    let totals = ledger.totals().map_err(failure)?;
    let head = ledger.head().map_err(failure)?;
    let genesis = ledger.genesis();
    let unit = unit(genesis);
    if json {
        let mut object = audited(&unit, head, totals);
        object["path"] = place.into();
        object["community"] = genesis.community().into();
        object["treasurer"] = genesis.treasurer().to_string().into();
        object["ledger"] = genesis.domain().contract.to_string().into();
        object["close_notice_s"] = genesis.close_notice_s().into();
        return Ok(format!("{object:#}\n"));
    }
    Ok(facts(&[
        ("ledger", place.to_owned()),
        ("community", genesis.community().to_owned()),
        ("token", format!("{}, {} decimals", unit.symbol, unit.decimals)),
        ("treasurer", genesis.treasurer().to_string()),
        ("ledger id", genesis.domain().contract.to_string()),
        ("minted", money(totals.minted, &unit)),
        ("burned", money(totals.burned, &unit)),
        ("held", money(totals.held, &unit)),
        ("locked", format!("{} in channels, vouchers and revenue nobody has taken out", money(totals.locked, &unit))),
        ("log", format!("{} {}", head.size, if head.size == 1 { "entry" } else { "entries" })),
        ("root", head.root.to_string()),
    ]))
}

fn unit(genesis: &Genesis) -> Unit {
    Unit { symbol: genesis.symbol().to_owned(), decimals: genesis.decimals() }
}

/// The error and what caused it, down to what the operating system said.
fn with_sources(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use metering::NodeId;

    use super::place::{Acting, Writing};
    use super::*;

    fn key(path: &Path) -> NodeId {
        identity::load_or_create(path).unwrap().node_id()
    }

    #[test]
    fn a_treasurer_founds_mints_and_audits() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hilltop.ledger");
        let treasurer = directory.path().join("treasurer.key");
        let create_with = |close_notice, short_notice| {
            execute(&Command::Create(Create {
                path: path.clone(),
                community: "Hilltop".to_owned(),
                symbol: "WAY".to_owned(),
                decimals: 6,
                treasurer: treasurer.clone(),
                close_notice,
                short_notice,
                json: false,
            }))
        };
        let create = || create_with(3600, false);
        let failure = create().unwrap_err().to_string();
        assert!(failure.contains("`waybill key --file "), "{failure}");
        key(&treasurer);
        let failure = create_with(3599, false).unwrap_err().to_string();
        assert!(failure.contains("less than an hour") && failure.contains("--short-notice"), "{failure}");
        assert!(!path.exists());
        create_with(1, true).unwrap();
        std::fs::remove_file(&path).unwrap();
        let founded = create().unwrap();
        assert!(founded.contains("\ntoken      WAY, 6 decimals\n"), "{founded}");
        assert!(create().unwrap_err().to_string().contains("exists already\n  name another file"));

        let to = key(&directory.path().join("attic.key"));
        let mint = |treasurer: &Path, amount: &str, json| {
            execute(&Command::Mint(money::Mint {
                acting: Acting::file(&path),
                treasurer: treasurer.to_owned(),
                to,
                amount: amount.parse().unwrap(),
                json,
            }))
        };
        assert_eq!(
            mint(&treasurer, "100", false).unwrap(),
            format!("minted 100.000000 WAY for {to}, which holds 100.000000 WAY\n")
        );
        let json: serde_json::Value = serde_json::from_str(&mint(&treasurer, "0.25", true).unwrap()).unwrap();
        assert_eq!((&json["minted"], &json["balance"]), (&"250000".into(), &"100250000".into()));
        let failure = mint(&treasurer, "0.0000001", false).unwrap_err().to_string();
        assert!(failure.contains("more than the 6 decimals"), "{failure}");
        let failure = mint(&directory.path().join("attic.key"), "1", false).unwrap_err().to_string();
        assert!(failure.contains("(NotTreasurer)") && failure.contains("\n  only the key"), "{failure}");

        let look = |json| Look { place: Place::file(&path), json };
        assert_eq!(
            execute(&Command::Audit(Audit { place: Place::file(&path), export: None, json: false })).unwrap(),
            "every rule was kept in all 3 entries: 100.250000 WAY minted = 100.250000 WAY held + 0.000000 WAY locked\n"
        );
        let shown: serde_json::Value = serde_json::from_str(&execute(&Command::Show(look(true))).unwrap()).unwrap();
        assert_eq!(shown["minted"], "100250000");
        assert_eq!(shown["conserved"], true);
        assert_eq!(shown["unit"]["symbol"], "WAY");
    }

    #[test]
    fn a_person_says_that_the_clock_is_right_after_a_long_rest() {
        let hilltop = story::Hilltop::founded_at(ledger_client::UnixTime::from_seconds(1000));
        let mint = |accept_time| {
            let writing = Writing { accept_time, ..Writing::file(&hilltop.path) };
            execute(&Command::Mint(money::Mint {
                acting: Acting { writing, account: None },
                treasurer: hilltop.key("treasurer"),
                to: hilltop.account("attic"),
                amount: "1".parse().unwrap(),
                json: false,
            }))
        };
        let failure = mint(false).unwrap_err().to_string();
        assert!(failure.contains("the clock says 20") && failure.contains("with --accept-time"), "{failure}");
        mint(true).unwrap();
        mint(false).unwrap();
    }

    #[test]
    fn a_file_that_is_no_ledger_is_named_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        let show = || execute(&Command::Show(Look { place: Place::file(&path), json: false })).unwrap_err().to_string();
        assert!(show().starts_with("error: there is no ledger at "), "{}", show());
        std::fs::write(&path, "precious").unwrap();
        assert!(show().contains("is not a Waybill ledger\n  name the ledger's file"), "{}", show());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }
}
