//! `waybill ledger member`, `enrol`, `appoint`, `dismiss` and `rotate`: who belongs to the community, who does what for it, and
//! whose key signs for whom.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use ledger_client::{Code, Command, Event, Role, UnixTime, consent, system_clock};
use metering::NodeId;
use serde_json::json;

use super::place::{Acting, Place, Writing};
use super::seconds;
use super::vouchers::{fresh_secret, lines_of};
use crate::cli::Failure;
use crate::cli::table::facts;
use crate::identity;

#[derive(Debug, Subcommand)]
pub(crate) enum Member {
    /// Take an account into the community, or say anew until when it belongs to it
    #[command(
        after_help = "Example:\n  waybill ledger member add --path hilltop.ledger --issuer issuer.key \\\n      \
                            --of 0x89854CD295ba1bfDF4fC877107577271CE3D12C6 --until 365d"
    )]
    Add(Add),
    /// Put an account out of the community; its tokens stay its own
    #[command(
        after_help = "Example:\n  waybill ledger member remove --path hilltop.ledger --issuer issuer.key \\\n      \
                            --of 0x89854CD295ba1bfDF4fC877107577271CE3D12C6"
    )]
    Remove(Remove),
    /// Show whether an account belongs to the community, and what it does for it
    #[command(after_help = "Example:\n  waybill ledger member show --path hilltop.ledger \\\n      \
                            0x89854CD295ba1bfDF4fC877107577271CE3D12C6")]
    Show(Show),
}

#[derive(Debug, Args)]
pub(crate) struct Add {
    #[command(flatten)]
    acting: Acting,
    /// The key file of an issuer
    #[arg(long, value_name = "FILE")]
    issuer: PathBuf,
    /// Who is taken in, as `waybill key` shows it
    #[arg(long, value_name = "ACCOUNT")]
    of: NodeId,
    /// For how long, from this moment, such as 365d
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    until: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Remove {
    #[command(flatten)]
    acting: Acting,
    /// The key file of an issuer
    #[arg(long, value_name = "FILE")]
    issuer: PathBuf,
    /// Who is put out, as `waybill key` shows it
    #[arg(long, value_name = "ACCOUNT")]
    of: NodeId,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    #[command(flatten)]
    place: Place,
    /// Who, as `waybill key` shows it
    #[arg(value_name = "ACCOUNT")]
    account: NodeId,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Enrol {
    /// Make a code that takes whoever has it into the community, once
    #[command(
        after_help = "Example:\n  waybill ledger enrol offer --path hilltop.ledger --issuer issuer.key \\\n      \
                            --until 365d --expires 7d\n\n\
                            Hand it over so that nobody else reads it: the first who takes it is the member."
    )]
    Offer(Offer),
    /// Become a member by a code
    #[command(after_help = "Example:\n  waybill ledger enrol take --path hilltop.ledger - --key attic.key < code.txt")]
    Take(Take),
    /// Take a code back that nobody has used
    #[command(
        after_help = "Example:\n  waybill ledger enrol withdraw --path hilltop.ledger - --issuer issuer.key < code.txt"
    )]
    Withdraw(Withdraw),
}

#[derive(Debug, Args)]
pub(crate) struct Offer {
    #[command(flatten)]
    acting: Acting,
    /// The key file of an issuer
    #[arg(long, value_name = "FILE")]
    issuer: PathBuf,
    /// How long the membership lasts, from this moment, such as 365d
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    until: u32,
    /// How long the code is good, such as 7d
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = seconds)]
    expires: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Take {
    #[command(flatten)]
    acting: Acting,
    /// The code, or - to read it from standard input, which others on this machine do not see
    #[arg(value_name = "CODE|-")]
    code: String,
    /// The key file of the account that becomes a member
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Withdraw {
    #[command(flatten)]
    acting: Acting,
    /// The code, or - to read it from standard input, which others on this machine do not see
    #[arg(value_name = "CODE|-")]
    code: String,
    /// The key file of an issuer: the code's own or any other
    #[arg(long, value_name = "FILE")]
    issuer: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// A role, on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Task {
    /// Takes members in and puts them out
    Issuer,
    /// States in the log that it has replayed it
    Auditor,
}

impl Task {
    const fn role(self) -> Role {
        match self {
            Self::Issuer => Role::Issuer,
            Self::Auditor => Role::Auditor,
        }
    }

    /// With its article.
    const fn word(self) -> &'static str {
        match self {
            Self::Issuer => "an issuer",
            Self::Auditor => "an auditor",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Appoint {
    #[command(flatten)]
    acting: Acting,
    /// The treasurer's key file
    #[arg(long, value_name = "FILE")]
    treasurer: PathBuf,
    /// What it does for the community
    #[arg(long)]
    role: Task,
    /// Who, as `waybill key` shows it
    #[arg(long, value_name = "ACCOUNT")]
    to: NodeId,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Dismiss {
    #[command(flatten)]
    acting: Acting,
    /// The treasurer's key file
    #[arg(long, value_name = "FILE")]
    treasurer: PathBuf,
    /// What it does no more
    #[arg(long)]
    role: Task,
    /// Who, as `waybill key` shows it
    #[arg(long, value_name = "ACCOUNT")]
    from: NodeId,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Rotate {
    #[command(flatten)]
    writing: Writing,
    /// The account; it keeps its name
    #[arg(long, value_name = "ACCOUNT")]
    account: NodeId,
    /// The file of the key that signs for it
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The file of the key that is to sign for it, as `waybill key --file` makes it
    #[arg(long, value_name = "FILE")]
    new_key: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// One JSON object for programs, or a sentence for people.
fn answer(json: bool, object: &serde_json::Value, sentence: &str) -> String {
    if json { format!("{object:#}\n") } else { format!("{sentence}\n") }
}

pub(super) fn member(command: &Member) -> Result<String, Failure> {
    match command {
        Member::Add(arguments) => add(arguments),
        Member::Remove(arguments) => remove(arguments),
        Member::Show(arguments) => show(arguments),
    }
}

fn add(Add { acting, issuer, of, until, json }: &Add) -> Result<String, Failure> {
    let until = system_clock()().after(*until);
    let (_, mut opened) = acting.open(issuer)?;
    opened.act(Command::IssueMembership { to: *of, until })?;
    let object = json!({ "account": of.to_string(), "until": until.seconds() });
    Ok(answer(*json, &object, &format!("{of} is a member until {}", until.utc())))
}

fn remove(Remove { acting, issuer, of, json }: &Remove) -> Result<String, Failure> {
    let (_, mut opened) = acting.open(issuer)?;
    opened.act(Command::RevokeMembership { of: *of })?;
    let sentence = format!("{of} is put out; its tokens and channels stay its own, and `member add` takes it in again");
    Ok(answer(*json, &json!({ "account": of.to_string(), "revoked": true }), &sentence))
}

fn show(Show { place, account, json }: &Show) -> Result<String, Failure> {
    let (mut opened, now) = (place.open()?, system_clock()());
    let found = opened.account(*account)?;
    let treasurer = opened.ledger().genesis().treasurer() == *account;
    let member = found.membership.is_some_and(|membership| membership.holds_at(now));
    let said = match found.membership {
        None => "no".to_owned(),
        Some(membership) if membership.revoked => "no: put out by an issuer".to_owned(),
        Some(membership) if member => format!("until {}", membership.until.utc()),
        Some(membership) => format!("no: it ended at {}", membership.until.utc()),
    };
    if *json {
        let object = json!({
            "account": account.to_string(),
            "member": member,
            "until": found.membership.map(|membership| membership.until.seconds()),
            "revoked": found.membership.is_some_and(|membership| membership.revoked),
            "treasurer": treasurer,
            "roles": found.roles,
            "registration": found.registration,
            "name": found.name,
            "signer": found.signer.to_string(),
        });
        return Ok(format!("{object:#}\n"));
    }
    let mut roles: Vec<&str> = if treasurer { vec!["treasurer"] } else { Vec::new() };
    roles.extend(found.roles.iter().map(|role| match role {
        Role::Issuer => "issuer",
        Role::Auditor => "auditor",
    }));
    let roles = if roles.is_empty() { "none".to_owned() } else { roles.join(", ") };
    let mut lines = vec![("account", account.to_string()), ("member", said), ("roles", roles)];
    if let Some(name) = found.name {
        lines.push(("its name", format!("{name}.mesh")));
    }
    if found.signer != *account {
        lines.push(("its key", format!("{}, not the one it is named after", found.signer)));
    }
    Ok(facts(&lines))
}

pub(super) fn enrol(command: &Enrol) -> Result<String, Failure> {
    match command {
        Enrol::Offer(arguments) => offer(arguments),
        Enrol::Take(arguments) => take(arguments),
        Enrol::Withdraw(arguments) => withdraw(arguments),
    }
}

fn offer(Offer { acting, issuer, until, expires, json }: &Offer) -> Result<String, Failure> {
    let now = system_clock()();
    let (until, expires) = (now.after(*until), now.after(*expires));
    let (issuer, mut opened) = acting.open(issuer)?;
    let (secret, enrolment) = fresh_secret()?;
    let code = Code::new(secret, issuer).ok_or_else(|| Failure::new("the secret is no key", "try again"))?;
    opened.act(Command::OfferEnrolment { enrolment, until, expires })?;
    let object = json!({
        "code": code.to_string(),
        "issuer": issuer.to_string(),
        "enrolment": enrolment.to_string(),
        "until": until.seconds(),
        "expires": expires.seconds(),
    });
    Ok(answer(*json, &object, &code.to_string()))
}

fn read_code(text: &str) -> Result<Code, Failure> {
    let [line] = &lines_of(text)?[..] else {
        return Err(Failure::new("there is more than one line", "give it one code"));
    };
    line.parse().map_err(|error| Failure::new(error, "copy it again, to the last character"))
}

fn take(Take { acting, code, key, json }: &Take) -> Result<String, Failure> {
    let code = read_code(code)?;
    let (account, mut opened) = acting.open(key)?;
    let domain = opened.ledger().domain();
    let entry = opened.act(code.enrol(&domain, account))?;
    let until = if let Event::Enrolled { until, .. } = entry.event { until } else { UnixTime::default() };
    let object = json!({ "account": account.to_string(), "until": until.seconds() });
    Ok(answer(*json, &object, &format!("{account} is a member until {}", until.utc())))
}

fn withdraw(Withdraw { acting, code, issuer, json }: &Withdraw) -> Result<String, Failure> {
    let code = read_code(code)?;
    let (_, mut opened) = acting.open(issuer)?;
    opened.act(Command::WithdrawEnrolment { issuer: code.issuer(), enrolment: code.enrolment() })?;
    let object = json!({ "issuer": code.issuer().to_string(), "enrolment": code.enrolment().to_string() });
    Ok(answer(*json, &object, "the code is withdrawn: nobody is enrolled by it"))
}

pub(super) fn appoint(Appoint { acting, treasurer, role, to, json }: &Appoint) -> Result<String, Failure> {
    let (_, mut opened) = acting.open(treasurer)?;
    opened.act(Command::Appoint { role: role.role(), to: *to })?;
    let object = json!({ "account": to.to_string(), "role": role.role(), "held": true });
    Ok(answer(*json, &object, &format!("{to} is {}", role.word())))
}

pub(super) fn dismiss(Dismiss { acting, treasurer, role, from, json }: &Dismiss) -> Result<String, Failure> {
    let (_, mut opened) = acting.open(treasurer)?;
    opened.act(Command::Dismiss { role: role.role(), from: *from })?;
    let object = json!({ "account": from.to_string(), "role": role.role(), "held": false });
    Ok(answer(*json, &object, &format!("{from} is {} no more", role.word())))
}

pub(super) fn rotate(Rotate { writing, account, key, new_key, json }: &Rotate) -> Result<String, Failure> {
    let new = identity::load(new_key)?;
    let acting = Acting { writing: writing.clone(), account: Some(*account) };
    let (_, mut opened) = acting.open(key)?;
    let (signer, domain) = (new.node_id(), opened.ledger().domain());
    let sequence = opened.account(*account)?.sequence.saturating_add(1);
    let consent = consent(new.account(), &domain, *account, sequence);
    opened.act(Command::ChangeSigner { signer, consent })?;
    let object = json!({ "account": account.to_string(), "signer": signer.to_string() });
    let sentence = format!(
        "the key in {} signs for {account} from here on, with --account {account}\n\
         channels opened before keep the old key, and take no more deposit: keep both key files until they are closed",
        new_key.display()
    );
    Ok(answer(*json, &object, &sentence))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ledger::story::Hilltop;

    fn said<T>(hilltop: &Hilltop, run: impl FnOnce(Acting) -> Result<T, Failure>) -> Result<T, String> {
        run(Acting::file(&hilltop.path)).map_err(|failure| failure.to_string())
    }

    fn shown(hilltop: &Hilltop, who: &str) -> String {
        show(&Show { place: Place::file(&hilltop.path), account: hilltop.account(who), json: false }).unwrap()
    }

    #[test]
    fn an_appointed_issuer_takes_members_in_and_puts_them_out() {
        let hilltop = Hilltop::founded();
        let of = hilltop.account("attic");
        let adds =
            |json| said(&hilltop, |acting| add(&Add { acting, issuer: hilltop.key("ida"), of, until: 86_400, json }));
        assert!(adds(false).unwrap_err().contains("(NotIssuer)\n  only an issuer"));
        let appoint_her = |treasurer: &str| {
            let (treasurer, to, role) = (hilltop.key(treasurer), hilltop.account("ida"), Task::Issuer);
            said(&hilltop, |acting| appoint(&Appoint { acting, treasurer, role, to, json: false }))
        };
        assert!(appoint_her("ida").unwrap_err().contains("(NotTreasurer)"));
        assert!(appoint_her("treasurer").unwrap().ends_with(" is an issuer\n"));
        assert!(adds(false).unwrap().contains(" is a member until 20"));
        let json: serde_json::Value = serde_json::from_str(&adds(true).unwrap()).unwrap();
        assert_eq!(json["account"], of.to_string());
        assert!(shown(&hilltop, "attic").contains("member   until 20"), "{}", shown(&hilltop, "attic"));
        assert!(shown(&hilltop, "ida").contains("roles    issuer"));
        said(&hilltop, |acting| remove(&Remove { acting, issuer: hilltop.key("ida"), of, json: false })).unwrap();
        assert!(shown(&hilltop, "attic").contains("no: put out by an issuer"));
        let (treasurer, from, role) = (hilltop.key("treasurer"), hilltop.account("ida"), Task::Issuer);
        said(&hilltop, |acting| dismiss(&Dismiss { acting, treasurer, role, from, json: false })).unwrap();
        assert!(adds(false).unwrap_err().contains("(NotIssuer)"));
    }

    #[test]
    fn a_code_enrols_once_and_can_be_withdrawn() {
        let hilltop = Hilltop::founded();
        let (treasurer, to) = (hilltop.key("treasurer"), hilltop.account("ida"));
        said(&hilltop, |acting| appoint(&Appoint { acting, treasurer, role: Task::Issuer, to, json: false })).unwrap();
        let offers = || {
            let (issuer, until, expires) = (hilltop.key("ida"), 86_400, 3600);
            said(&hilltop, |acting| offer(&Offer { acting, issuer, until, expires, json: false })).unwrap()
        };
        let takes = |code: &str, who: &str| {
            let (code, key) = (code.to_owned(), hilltop.key(who));
            said(&hilltop, |acting| take(&Take { acting, code, key, json: false }))
        };
        let code = offers();
        assert!(code.starts_with("waybill-enrolment1:"), "{code}");
        assert!(takes(&code[..50], "attic").unwrap_err().contains("copy it again"));
        assert!(takes(&code, "attic").unwrap().contains("is a member until"));
        assert!(takes(&code, "roof").unwrap_err().contains("(EnrolmentAlreadyUsed)\n  ask an issuer"));
        let code = offers();
        let issuer = hilltop.key("ida");
        said(&hilltop, |acting| withdraw(&Withdraw { acting, code: code.clone(), issuer, json: false })).unwrap();
        assert!(takes(&code, "roof").unwrap_err().contains("(EnrolmentWithdrawn)"));
    }

    #[test]
    fn an_account_whose_key_was_changed_acts_with_the_new_one_alone() {
        let hilltop = Hilltop::founded();
        hilltop.mint("attic", "10");
        let account = hilltop.account("attic");
        let writing = Writing::file(&hilltop.path);
        let (key, new_key) = (hilltop.key("attic"), hilltop.key("new"));
        let text = rotate(&Rotate { writing, account, key, new_key, json: false }).unwrap();
        assert!(text.contains("keep both key files until they are closed"), "{text}");
        assert!(shown(&hilltop, "attic").contains("not the one it is named after"));
        let burns = |who: &str| {
            let acting = Acting { account: Some(account), ..Acting::file(&hilltop.path) };
            let (_, mut opened) = acting.open(&hilltop.key(who)).unwrap();
            opened
                .act(Command::Burn { amount: metering::Tokens::new(1).unwrap() })
                .map_err(|failure| failure.to_string())
        };
        assert!(burns("attic").unwrap_err().contains("(OrderSignatureInvalid)"));
        burns("new").unwrap();
    }
}
