//! `waybill ledger voucher`: tokens on paper.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use ledger_client::{Command, Error, Event, Paper, Request, UnixTime, system_clock};
use metering::{AccountKey, LedgerDomain, NodeId, SortedMap, SortedSet, Tokens};
use serde_json::json;

use super::place::{Acting, Opened, Place, Writing};
use super::refused::{failure_in, said};
use super::{in_base_units, seconds};
use crate::cli::Failure;
use crate::cli::table::Side::{Left, Right};
use crate::cli::table::{Table, money};
use crate::config::Amount;
use crate::control::Unit;
use crate::identity::plain;

#[derive(Debug, Subcommand)]
pub(crate) enum Voucher {
    /// Lock tokens for whoever has a paper, and print the papers
    #[command(
        after_help = "Example:\n  waybill ledger voucher issue --path hilltop.ledger --key shop.key --amount 5 \\\n      \
                            --until 90d --count 20 --out vouchers.txt\n\n\
                            One paper a line. Whoever reads a paper can spend it, once."
    )]
    Issue(Issue),
    /// Say what papers are worth; without a ledger, only whether their issuer signed them
    #[command(after_help = "Examples:\n  waybill ledger voucher check --path hilltop.ledger - < vouchers.txt\n  \
                            waybill ledger voucher check --ledger-id 0x77dD6588E46e4Cd1FCda341df842b103d77c853d - < vouchers.txt\n\n\
                            `waybill ledger show` says a ledger's id.")]
    Check(Check),
    /// Turn papers into tokens of an account
    #[command(after_help = "Example:\n  waybill ledger voucher redeem --path hilltop.ledger - \\\n      \
                            --to 0x89854CD295ba1bfDF4fC877107577271CE3D12C6 < paper.txt\n\n\
                            Nobody's key is needed: the paper is enough.")]
    Redeem(Redeem),
    /// Take back what nobody has redeemed of the account's vouchers in time
    #[command(after_help = "Example:\n  waybill ledger voucher reclaim --path hilltop.ledger --key shop.key")]
    Reclaim(Reclaim),
}

#[derive(Debug, Args)]
pub(crate) struct Issue {
    #[command(flatten)]
    pub(super) acting: Acting,
    /// The key file of the account whose tokens are locked
    #[arg(long, value_name = "FILE")]
    pub(super) key: PathBuf,
    /// How many tokens each voucher is worth, such as 5 or 0.25
    #[arg(long, value_name = "TOKENS")]
    pub(super) amount: Amount,
    /// How long nobody can take the tokens back, such as 90d
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub(super) until: u32,
    /// How many vouchers
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) count: u32,
    /// Write the papers to this new file, readable by its owner only, instead of to standard output
    #[arg(long, value_name = "FILE")]
    pub(super) out: Option<PathBuf>,
    /// Print one JSON object a line, with the paper
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    pub(super) place: Place,
    /// The paper, or - to read papers from standard input, which others on this machine do not see
    #[arg(value_name = "PAPER|-")]
    pub(super) paper: String,
    /// Without a ledger: the id of the one it should be good on
    #[arg(long, value_name = "ID", conflicts_with_all = ["path", "url"])]
    pub(super) ledger_id: Option<NodeId>,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Redeem {
    #[command(flatten)]
    pub(super) writing: Writing,
    /// The paper, or - to read papers from standard input, which others on this machine do not see
    #[arg(value_name = "PAPER|-")]
    pub(super) paper: String,
    /// The account that gets the tokens, as `waybill key` shows it
    #[arg(long, value_name = "ACCOUNT")]
    pub(super) to: NodeId,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Reclaim {
    #[command(flatten)]
    pub(super) acting: Acting,
    /// The key file of the account that issued them
    #[arg(long, value_name = "FILE")]
    pub(super) key: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn execute(command: &Voucher) -> Result<String, Failure> {
    match command {
        Voucher::Issue(arguments) => issue(arguments, &mut io::stdout().lock()),
        Voucher::Check(arguments) => check(arguments),
        Voucher::Redeem(arguments) => redeem(arguments),
        Voucher::Reclaim(arguments) => reclaim(arguments),
    }
}

/// Each paper is out of our hands before the next tokens are locked.
fn issue(arguments: &Issue, out: &mut dyn Write) -> Result<String, Failure> {
    let (_, mut opened) = arguments.acting.open(&arguments.key)?;
    let unit = opened.unit();
    let amount = in_base_units(&arguments.amount, &unit)?;
    let until = system_clock()().after(arguments.until);
    let mut file = arguments.out.as_deref().map(new_file).transpose()?;
    for done in 0..arguments.count {
        let (secret, voucher) = fresh_secret()?;
        let command = Command::IssueVoucher { voucher, amount, until };
        let entry = opened.order(command).map_err(|error| not_issued(&unit, error, amount, done))?;
        let Some(paper) = Paper::new(secret, &entry) else {
            return Err(Failure::new("the ledger answered with another entry", "see `waybill ledger audit`"));
        };
        let line = if arguments.json {
            let (amount, until) = (amount.to_string(), until.seconds());
            let paper = paper.to_string();
            json!({ "unit": unit, "paper": paper, "voucher": voucher.to_string(), "amount": amount, "until": until })
                .to_string()
        } else {
            paper.to_string()
        };
        let written = match &mut file {
            Some(file) => writeln!(file, "{line}").and_then(|()| file.sync_all()),
            None => writeln!(out, "{line}").and_then(|()| out.flush()),
        };
        written.map_err(|error| {
            let cause = format!("a paper of {} cannot be written: {error}", money(amount, &unit));
            Failure::new(cause, format!("after {} `waybill ledger voucher reclaim` takes its tokens back", until.utc()))
        })?;
    }
    let Some(path) = &arguments.out else { return Ok(String::new()) };
    let vouchers = if arguments.count == 1 { "voucher" } else { "vouchers" };
    Ok(format!(
        "issued {} {vouchers} of {} that nobody takes back before {}\nthe papers are in {}: whoever reads one can spend it\n",
        arguments.count,
        money(amount, &unit),
        until.utc(),
        path.display()
    ))
}

fn not_issued(unit: &Unit, error: Error, amount: Tokens, done: u32) -> Failure {
    let before =
        if done == 0 { String::new() } else { format!("; {done} were issued before, and their papers are good") };
    match error {
        Error::Refused(_) | Error::NoKey => {
            let Failure { cause, next } = failure_in(unit, error);
            Failure::new(format!("{cause}{before}"), next)
        }
        Error::Unavailable(unavailable) if unavailable.retry => Failure::new(
            format!("{unavailable}{before}"),
            format!(
                "if {} are missing from `waybill ledger account`, they are locked for a paper that does not exist: \
                 `waybill ledger voucher reclaim` takes them back when the time is over",
                money(amount, unit)
            ),
        ),
        Error::Unavailable(_) => failure_in(unit, error),
    }
}

fn new_file(path: &Path) -> Result<File, Failure> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|error| {
        let next = if error.kind() == io::ErrorKind::AlreadyExists {
            "name a new file with --out: papers are never written over"
        } else {
            "name a file in a directory that exists and may be written to"
        };
        Failure::new(format!("cannot make {}: {}", path.display(), plain(&error)), next)
    })
}

/// A secret of the machine's own, and the account that it is the key of.
pub(super) fn fresh_secret() -> Result<([u8; 32], NodeId), Failure> {
    loop {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)
            .map_err(|error| Failure::new(format!("cannot make random bytes: {error}"), "try again in a moment"))?;
        // One of 2^128 is no key.
        if let Some(key) = AccountKey::from_bytes(&secret) {
            return Ok((secret, key.node_id()));
        }
    }
}

/// What is on the command line, or, where that is `-`, each line of standard input.
pub(super) fn lines_of(argument: &str) -> Result<Vec<String>, Failure> {
    if argument != "-" {
        return Ok(vec![argument.trim().to_owned()]);
    }
    let mut text = String::new();
    io::stdin()
        .lock()
        .take(16 << 20)
        .read_to_string(&mut text)
        .map_err(|error| Failure::new(format!("cannot read standard input: {error}"), "give it text, one a line"))?;
    let lines: Vec<String> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if lines.is_empty() { Err(Failure::new("standard input is empty", "give it text, one a line")) } else { Ok(lines) }
}

fn papers_of(argument: &str) -> Result<Vec<Paper>, Failure> {
    let read = |(at, line): (usize, String)| {
        line.parse::<Paper>()
            .map_err(|error| Failure::new(format!("line {}: {error}", at + 1), "copy it again, to the last character"))
    };
    lines_of(argument)?.into_iter().enumerate().map(read).collect()
}

/// What the log says of some issuers' vouchers.
#[derive(Default)]
struct Log {
    /// The keys that ever signed for an account, besides the one it is named after.
    signers: SortedMap<NodeId, SortedSet<NodeId>>,
    vouchers: SortedMap<(NodeId, NodeId), Record>,
}

#[derive(Clone, Copy)]
struct Record {
    amount: Tokens,
    until: UnixTime,
    became: Became,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Became {
    Unspent,
    Redeemed { to: NodeId, at: UnixTime },
    Reclaimed { at: UnixTime },
}

impl Became {
    const fn word(self) -> &'static str {
        match self {
            Self::Unspent => "unspent",
            Self::Redeemed { .. } => "redeemed",
            Self::Reclaimed { .. } => "taken back",
        }
    }

    fn sentence(self) -> String {
        match self {
            Self::Unspent => "good: nobody has redeemed it".to_owned(),
            Self::Redeemed { to, at } => format!("spent: redeemed for {to} at {}", at.utc()),
            Self::Reclaimed { at } => format!("spent: its issuer took it back at {}", at.utc()),
        }
    }
}

fn read_log(opened: &mut Opened, issuers: &SortedSet<NodeId>) -> Result<Log, Failure> {
    let mut log = Log::default();
    opened.read_log(|entry| {
        let at = entry.at;
        if let Event::VoucherIssued { by, voucher, amount, until } = entry.event
            && issuers.contains(&by)
        {
            log.vouchers.insert((by, voucher), Record { amount, until, became: Became::Unspent });
        } else if let Event::VoucherRedeemed { claim, .. } = entry.event {
            if let Some(record) = log.vouchers.get_mut(&(claim.issuer(), claim.voucher())) {
                record.became = Became::Redeemed { to: claim.to(), at };
            }
        } else if let Event::VoucherReclaimed { by, voucher, .. } = entry.event {
            if let Some(record) = log.vouchers.get_mut(&(by, voucher)) {
                record.became = Became::Reclaimed { at };
            }
        } else if let Event::SignerChanged { account, signer, .. } = entry.event
            && issuers.contains(&account)
        {
            log.signers.entry(account).or_default().insert(signer);
        }
    })?;
    Ok(log)
}

fn check(arguments: &Check) -> Result<String, Failure> {
    let papers = papers_of(&arguments.paper)?;
    let Some(contract) = arguments.ledger_id else { return check_on_ledger(arguments, &papers) };
    let domain = LedgerDomain { chain_id: 0, contract };
    let checked = papers.iter().map(|paper| (paper, paper.check(&domain, paper.issuer()))).collect::<Vec<_>>();
    if arguments.json {
        let line = |(paper, checked): &(&Paper, Result<(Tokens, UnixTime), _>)| {
            let good = checked.as_ref().ok();
            json!({
                "issuer": paper.issuer().to_string(),
                "signed": good.is_some(),
                "amount": good.map(|(amount, _)| amount.to_string()),
                "until": good.map(|(_, until)| until.seconds()),
            })
        };
        return Ok(format!("{:#}\n", json!({ "vouchers": checked.iter().map(line).collect::<Vec<_>>() })));
    }
    let mut table = Table::new(&[("ISSUER", Left), ("BASE UNITS", Right), ("UNTIL", Left), ("", Left)]);
    for (paper, checked) in checked {
        let [amount, until, said] = match checked {
            Ok((amount, until)) => {
                [amount.to_string(), until.utc(), "signed; a ledger says whether it is spent".to_owned()]
            }
            Err(error) => ["-".to_owned(), "-".to_owned(), error.to_string()],
        };
        table.row([paper.issuer().to_string(), amount, until, said]);
    }
    Ok(table.render())
}

fn check_on_ledger(arguments: &Check, papers: &[Paper]) -> Result<String, Failure> {
    if !arguments.place.is_named() {
        let next = "name its file with --path, or its --url and --ledger-key, or, to ask no ledger, its --ledger-id";
        return Err(Failure::new("no ledger is named", next));
    }
    let mut opened = arguments.place.open()?;
    let (unit, domain) = (opened.unit(), opened.ledger().domain());
    let issuers = papers.iter().map(Paper::issuer).collect();
    let log = read_log(&mut opened, &issuers)?;
    let found = |paper: &Paper| {
        let issuer = paper.issuer();
        let later = log.signers.get(&issuer).into_iter().flatten().copied();
        let signed = [issuer].into_iter().chain(later).any(|signer| paper.check(&domain, signer).is_ok());
        let voucher = paper.claim(&domain, issuer).ok()?.voucher();
        log.vouchers.get(&(issuer, voucher)).filter(|_| signed).copied()
    };
    const FORGED: &str = "worthless: its issuer did not issue it on this ledger";
    let lines: Vec<_> = papers.iter().map(|paper| (paper.issuer(), found(paper))).collect();
    if arguments.json {
        let line = |(issuer, record): &(NodeId, Option<Record>)| {
            let (to, at) = match record.map(|record| record.became) {
                Some(Became::Redeemed { to, at }) => (Some(to.to_string()), Some(at.seconds())),
                Some(Became::Reclaimed { at }) => (None, Some(at.seconds())),
                Some(Became::Unspent) | None => (None, None),
            };
            json!({
                "issuer": issuer.to_string(),
                "state": record.map_or("worthless", |record| record.became.word()),
                "amount": record.map(|record| record.amount.to_string()),
                "until": record.map(|record| record.until.seconds()),
                "to": to,
                "at": at,
            })
        };
        let object = json!({ "unit": unit, "vouchers": lines.iter().map(line).collect::<Vec<_>>() });
        return Ok(format!("{object:#}\n"));
    }
    let mut table =
        Table::new(&[("ISSUER", Left), (&format!("WORTH {}", unit.symbol), Right), ("UNTIL", Left), ("", Left)]);
    for (issuer, record) in lines {
        let [amount, until, said] = match record {
            Some(Record { amount, until, became }) => {
                [amount.display(unit.decimals).to_string(), until.utc(), became.sentence()]
            }
            None => ["-".to_owned(), "-".to_owned(), FORGED.to_owned()],
        };
        table.row([issuer.to_string(), amount, until, said]);
    }
    Ok(table.render())
}

fn redeem(arguments: &Redeem) -> Result<String, Failure> {
    let papers = papers_of(&arguments.paper)?;
    let mut opened = arguments.writing.open()?;
    let (unit, domain) = (opened.unit(), opened.ledger().domain());
    let (mut sum, mut paid, mut refused) = (Tokens::ZERO, 0_usize, Vec::new());
    for (at, paper) in papers.iter().enumerate() {
        let claim = paper.claim(&domain, arguments.to).map_err(|error| Failure::new(error, "copy it again"))?;
        match opened.request(&Request::RedeemVoucher { claim: claim.into_unverified() }) {
            Ok(entry) => {
                if let Event::VoucherRedeemed { amount, .. } = entry.event {
                    sum = sum.checked_add(amount).unwrap_or(sum);
                    paid += 1;
                }
            }
            Err(error) if papers.len() == 1 => return Err(failure_in(&unit, error)),
            Err(Error::Refused(refusal)) => refused.push((at + 1, said(&refusal, &unit))),
            Err(error) => {
                let Failure { cause, next } = failure_in(&unit, error);
                let before = format!("; {paid} vouchers, {} in all, were redeemed before", money(sum, &unit));
                return Err(Failure::new(format!("{cause}{before}"), next));
            }
        }
    }
    if paid == 0 {
        let whys: SortedSet<_> = refused.into_iter().map(|(_, why)| why).collect();
        let whys = whys.into_iter().collect::<Vec<_>>().join("; ");
        return Err(Failure::new(
            format!("none of the {} vouchers was redeemed: {whys}", papers.len()),
            "`waybill ledger voucher check` says more of each",
        ));
    }
    let balance = opened.account(arguments.to)?.balance;
    if arguments.json {
        let refused: Vec<_> = refused.iter().map(|(line, why)| json!({ "line": line, "refused": why })).collect();
        let object = json!({
            "unit": unit,
            "to": arguments.to.to_string(),
            "redeemed": paid,
            "amount": sum.to_string(),
            "balance": balance.to_string(),
            "refused": refused,
        });
        return Ok(format!("{object:#}\n"));
    }
    let of = if paid == 1 { "one voucher".to_owned() } else { format!("{paid} vouchers") };
    let mut text =
        format!("redeemed {of}: {} for {}, which holds {}\n", money(sum, &unit), arguments.to, money(balance, &unit));
    for (line, why) in refused {
        text.push_str(&format!("line {line} was not redeemed: {why}\n"));
    }
    Ok(text)
}

fn reclaim(arguments: &Reclaim) -> Result<String, Failure> {
    let (account, mut opened) = arguments.acting.open(&arguments.key)?;
    let unit = opened.unit();
    let log = read_log(&mut opened, &SortedSet::from([account]))?;
    let (unspent, now) = (|record: &Record| record.became == Became::Unspent, system_clock()());
    let (mut sum, mut count) = (Tokens::ZERO, 0_usize);
    let over = log.vouchers.iter().filter(|(_, record)| unspent(record) && record.until <= now);
    for (&(_, voucher), record) in over {
        opened.act(Command::ReclaimVoucher { voucher })?;
        sum = sum.checked_add(record.amount).unwrap_or(sum);
        count += 1;
    }
    let waiting: Vec<&Record> = log.vouchers.values().filter(|record| unspent(record) && record.until > now).collect();
    let next = waiting.iter().map(|record| record.until).min();
    if arguments.json {
        let object = json!({
            "unit": unit,
            "reclaimed": count,
            "amount": sum.to_string(),
            "waiting": waiting.len(),
            "next": next.map(UnixTime::seconds),
        });
        return Ok(format!("{object:#}\n"));
    }
    let taken = match count {
        0 => "there is nothing to take back".to_owned(),
        1 => format!("took {} back from one voucher", money(sum, &unit)),
        _ => format!("took {} back from {count} vouchers", money(sum, &unit)),
    };
    Ok(match next {
        Some(next) => format!("{taken}; {} unspent, the first of them until {}\n", waiting.len(), next.utc()),
        None => format!("{taken}\n"),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::cli::ledger::story::Hilltop;

    #[test]
    fn papers_are_issued_checked_redeemed_and_taken_back() {
        let hilltop = Hilltop::founded();
        let attic = hilltop.account("attic");
        hilltop.mint("attic", "100");
        let path = hilltop.directory.path().join("papers");
        let issue_to = |out: Option<PathBuf>, until, count| {
            let mut said = Vec::new();
            let arguments = Issue {
                acting: Acting::file(&hilltop.path),
                key: hilltop.key("attic"),
                amount: "5".parse().unwrap(),
                until,
                count,
                out,
                json: false,
            };
            let text = issue(&arguments, &mut said).map_err(|failure| failure.to_string())?;
            Ok::<_, String>((String::from_utf8(said).unwrap(), text))
        };
        let (_, text) = issue_to(Some(path.clone()), 3600, 2).unwrap();
        assert!(text.starts_with("issued 2 vouchers of 5.000000 WAY"), "{text}");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(issue_to(Some(path.clone()), 3600, 1).unwrap_err().contains("never written over"));
        let papers = std::fs::read_to_string(&path).unwrap();
        let [first, _] = papers.lines().collect::<Vec<_>>()[..] else { panic!("two papers: {papers}") };

        let check_it = |paper: &str, place, ledger_id| {
            check(&Check { place, paper: paper.to_owned(), ledger_id, json: false })
                .map_err(|failure| failure.to_string())
        };
        let on_file = || Place::file(&hilltop.path);
        assert!(check_it(first, on_file(), None).unwrap().contains("good: nobody has redeemed it"));
        let redeem_it = || {
            let (writing, to) = (Writing::file(&hilltop.path), hilltop.account("roof"));
            redeem(&Redeem { writing, paper: first.to_owned(), to, json: false }).map_err(|failure| failure.to_string())
        };
        assert!(redeem_it().unwrap().contains("redeemed one voucher: 5.000000 WAY"));
        assert!(
            redeem_it().unwrap_err().contains("the voucher is spent (VoucherAlreadySpent)\n  `waybill ledger voucher")
        );
        assert!(check_it(first, on_file(), None).unwrap().contains("spent: redeemed for 0x"));
        let nowhere = || Place::nowhere();
        let offline = check_it(first, nowhere(), Some(hilltop.id())).unwrap();
        assert!(offline.contains("5000000") && offline.contains("signed; "), "{offline}");
        assert!(check_it(first, nowhere(), Some(attic)).unwrap().contains("not signed by its issuer for this ledger"));
        assert!(check_it(first, nowhere(), None).unwrap_err().contains("--ledger-id"));
        assert!(check_it(&first[..40], on_file(), None).unwrap_err().contains("copy it again"));

        let (said, _) = issue_to(None, 0, 1).unwrap();
        assert_eq!(said.lines().count(), 1);
        let taken = reclaim(&Reclaim { acting: Acting::file(&hilltop.path), key: hilltop.key("attic"), json: false });
        let taken = taken.unwrap();
        assert!(taken.starts_with("took 5.000000 WAY back from one voucher; 1 unspent, the first"), "{taken}");
        assert!(issue_to(None, 3600, 19).unwrap_err().contains("18 were issued before"));
    }
}
