//! `waybill names claim` and its like: names that hold in the whole community, because its ledger has them.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use ledger_client::{Command, Holder, Membership, Name, Named, Refusal, UnixTime, keeps, system_clock};
use metering::{Identity, NodeId};
use serde_json::{Value, json};

use super::place::{Opened, Place};
use super::refused::{failure, failure_in};
use crate::cli::Failure;
use crate::cli::table::{Side, Table, facts};
use crate::config::Config;
use crate::identity;

#[derive(Debug, Subcommand)]
pub(crate) enum OfCommunity {
    /// Take a name for this router that holds in the whole community: first come, first served, and one for each member
    #[command(after_help = "Example:\n  waybill names claim roof\n\n\
                            It costs nothing. Routers with a [names] table answer for it within a few minutes.")]
    Claim(OfName),
    /// Give this router's name up; for an issuer, take any name back
    #[command(
        after_help = "Examples:\n  waybill names release roof\n  waybill names release roof --issuer /etc/waybill/issuer.key"
    )]
    Release(Release),
    /// Show whose a name is, by the ledger
    #[command(after_help = "Example:\n  waybill names show roof")]
    Show(OfName),
    /// List all names of the community, by the ledger
    #[command(after_help = "Example:\n  waybill names list")]
    List(Here),
}

#[derive(Debug, Args)]
pub(crate) struct OfName {
    /// The name, without .mesh: small letters, digits and hyphens
    name: Name,
    #[command(flatten)]
    here: Here,
}

#[derive(Debug, Args)]
pub(crate) struct Release {
    #[command(flatten)]
    of: OfName,
    /// The key file of an issuer, who takes back what should not be
    #[arg(long, value_name = "FILE")]
    issuer: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Here {
    /// The router's config file
    #[arg(long, value_name = "FILE", default_value = "/etc/waybill/waybill.toml")]
    config: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Here {
    fn load(&self) -> Result<(Config, Place), Failure> {
        let config = Config::load(&self.config)?;
        let place = config.ledger.as_ref().map(|ledger| Place::of(&ledger.place));
        let none = || {
            let cause = format!("{} names no ledger, and the community's names are in it", self.config.display());
            Failure::new(cause, "name the config of a router of the community with --config")
        };
        Ok((config, place.ok_or_else(none)?))
    }

    fn open(&self) -> Result<Opened, Failure> {
        self.load()?.1.open()
    }

    /// Opens it to act with the router's key, or with another.
    fn open_with(&self, key: Option<&Path>) -> Result<(Identity, Opened), Failure> {
        let (config, place) = self.load()?;
        let key = identity::load(key.unwrap_or(&config.node.key_file))?;
        let opened = place.open_for(key.node_id(), key.account())?;
        Ok((key, opened))
    }
}

pub(crate) fn execute(command: &OfCommunity) -> Result<String, Failure> {
    match command {
        OfCommunity::Claim(arguments) => claim(arguments),
        OfCommunity::Release(arguments) => release(arguments),
        OfCommunity::Show(OfName { name, here }) => show(*name, here),
        OfCommunity::List(here) => list(here),
    }
}

fn claim(OfName { name, here }: &OfName) -> Result<String, Failure> {
    let (key, mut opened) = here.open_with(None)?;
    let (account, wireguard) = (key.node_id(), key.wireguard_key().0);
    if let Err(error) = opened.ledger().claim_name(*name, wireguard) {
        let has = match error.refusal() {
            Some(Refusal::NameAlreadyHeld { .. }) => opened.account(account)?.name,
            Some(_) | None => return Err(failure_in(&opened.unit(), error)),
        };
        match has {
            Some(has) if has == *name => {}
            Some(has) => {
                let cause = format!("this router is called {has}.mesh, and a member has one name (NameAlreadyHeld)");
                return Err(Failure::new(cause, format!("give that one up first: `waybill names release {has}`")));
            }
            None => return Err(failure_in(&opened.unit(), error)),
        }
    }
    let address = key.card().mesh_address();
    let object = json!({ "name": name, "account": account.to_string(), "address": address.to_string() });
    Ok(answer(here.json, &object, &format!("{name}.mesh is this router, {address}")))
}

fn release(Release { of: OfName { name, here }, issuer }: &Release) -> Result<String, Failure> {
    let (key, mut opened) = here.open_with(issuer.as_deref())?;
    opened.act(Command::ReleaseName { name: *name })?;
    let object = json!({ "name": name, "by": key.node_id().to_string(), "released": true });
    Ok(answer(here.json, &object, &format!("{name}.mesh is nobody's, and whoever claims it first has it")))
}

fn show(name: Name, here: &Here) -> Result<String, Failure> {
    let mut opened = here.open()?;
    let found = opened.ledger().named(name).map_err(failure)?;
    let Some(holder) = found else {
        let next =
            format!("take it with `waybill names claim {name}`; `waybill names list` shows those that are taken");
        return Err(Failure::new(format!("nobody in the community has the name {name}"), next));
    };
    let lines = Line::all(&mut opened, &[Named { name, holder }])?;
    let text = |line: &Line| {
        facts(&[
            ("name", format!("{}.mesh", line.name)),
            ("account", line.account.to_string()),
            ("address", line.address.clone()),
            ("member", line.member().to_owned()),
        ])
    };
    Ok(lines
        .first()
        .map(|line| if here.json { format!("{:#}\n", line.object()) } else { text(line) })
        .unwrap_or_default())
}

fn list(here: &Here) -> Result<String, Failure> {
    let mut opened = here.open()?;
    let (mut lines, mut after) = (Vec::new(), None);
    loop {
        let page = opened.ledger().names(after).map_err(failure)?;
        let Some(last) = page.last() else { break };
        after = Some(last.name);
        lines.extend(Line::all(&mut opened, &page)?);
    }
    if here.json {
        return Ok(format!("{:#}\n", lines.iter().map(Line::object).collect::<Value>()));
    }
    let mut table = Table::new(&["NAME", "ACCOUNT", "ADDRESS", "MEMBER"].map(|title| (title, Side::Left)));
    for line in lines {
        let member = line.member().to_owned();
        table.row([format!("{}.mesh", line.name), line.account.to_string(), line.address, member]);
    }
    Ok(table.render())
}

/// What people are told of a name.
struct Line {
    name: Name,
    account: NodeId,
    address: String,
    membership: Option<Membership>,
    now: UnixTime,
}

impl Line {
    fn all(opened: &mut Opened, page: &[Named]) -> Result<Vec<Self>, Failure> {
        let accounts: Vec<NodeId> = page.iter().map(|named| named.holder.account).collect();
        let memberships = opened.ledger().memberships(&accounts).map_err(failure)?;
        let now = system_clock()();
        let line = |(Named { name, holder }, membership): (&Named, _)| {
            let Holder { account, .. } = *holder;
            Self { name: *name, account, address: holder.address().to_string(), membership, now }
        };
        Ok(page.iter().zip(memberships).map(line).collect())
    }

    fn holds(&self) -> bool {
        self.membership.is_some_and(|membership| membership.holds_at(self.now))
    }

    fn member(&self) -> &'static str {
        match (self.holds(), self.membership.is_some_and(|membership| membership.revoked)) {
            (true, _) => "yes",
            (false, true) => "put out: whoever claims it has it",
            (false, false) if keeps(self.membership, self.now) => "ended: kept for 30 days",
            (false, false) => "ended long ago: whoever claims it has it",
        }
    }

    fn object(&self) -> Value {
        json!({
            "name": self.name, "account": self.account.to_string(), "address": self.address, "member": self.holds(),
        })
    }
}

fn answer(json: bool, object: &Value, sentence: &str) -> String {
    if json { format!("{object:#}\n") } else { format!("{sentence}\n") }
}

#[cfg(test)]
mod tests {
    use ledger_client::Role;

    use super::*;
    use crate::cli::ledger::story::Hilltop;

    /// The config of somebody's router.
    fn here(hilltop: &Hilltop, who: &str, json: bool) -> Here {
        let config = hilltop.directory.path().join(format!("{who}.toml"));
        let text = format!(
            "[node]\nname = \"{who}\"\nkey_file = {:?}\n\n[ledger]\npath = {:?}\n",
            hilltop.key(who),
            hilltop.path
        );
        std::fs::write(&config, text).unwrap();
        Here { config, json }
    }

    fn named(hilltop: &Hilltop, who: &str, name: &str) -> OfName {
        OfName { name: name.parse().unwrap(), here: here(hilltop, who, false) }
    }

    fn said(answer: Result<String, Failure>) -> String {
        answer.map_err(|failure| failure.to_string()).unwrap_or_else(|said| said)
    }

    #[test]
    fn a_member_claims_a_name_and_everybody_else_is_told_why_not() {
        let hilltop = Hilltop::founded();
        let claims = |who: &str, name: &str| said(claim(&named(&hilltop, who, name)));
        assert!(
            claims("attic", "roof").contains("(NotMember)\n  an issuer takes it in first"),
            "{}",
            claims("attic", "roof")
        );
        let mut treasurer = hilltop.opened("treasurer");
        treasurer.order(Command::Appoint { role: Role::Issuer, to: hilltop.account("ida") }).unwrap();
        let mut ida = hilltop.opened("ida");
        for who in ["attic", "barn"] {
            ida.order(Command::IssueMembership { to: hilltop.account(who), until: UnixTime::MAX }).unwrap();
        }
        let attic = identity::load(&hilltop.key("attic")).unwrap();
        let address = attic.card().mesh_address().to_string();
        assert_eq!(claims("attic", "roof"), format!("roof.mesh is this router, {address}\n"));
        assert_eq!(claims("attic", "roof"), format!("roof.mesh is this router, {address}\n"), "once more");
        let other = claims("attic", "loft");
        assert!(other.contains("this router is called roof.mesh") && other.contains("names release roof"), "{other}");
        let taken = claims("barn", "roof");
        assert!(taken.contains(&format!("{} has this name (NameTaken)\n  choose another", attic.node_id())), "{taken}");

        let shown = said(show("roof".parse().unwrap(), &here(&hilltop, "barn", false)));
        assert!(shown.contains(&address) && shown.contains("yes"), "{shown}");
        let object: Value = serde_json::from_str(&said(list(&here(&hilltop, "barn", true)))).unwrap();
        let expected = json!({
            "name": "roof", "account": attic.node_id().to_string(), "address": address, "member": true
        });
        assert_eq!(object, json!([expected]));
        let nobody = said(show("barn".parse().unwrap(), &here(&hilltop, "barn", false)));
        assert!(nobody.contains("nobody in the community has the name barn\n  take it with"), "{nobody}");

        let releases = |who: &str, issuer: Option<&str>| {
            said(release(&Release { of: named(&hilltop, who, "roof"), issuer: issuer.map(|who| hilltop.key(who)) }))
        };
        let not_theirs = releases("barn", None);
        assert!(not_theirs.contains("(NotNameHolder)\n  only whoever has it"), "{not_theirs}");
        ida.order(Command::RevokeMembership { of: hilltop.account("attic") }).unwrap();
        assert!(said(list(&here(&hilltop, "barn", false))).contains("put out: whoever claims it"));
        assert!(releases("barn", Some("ida")).contains("roof.mesh is nobody's"));
        assert!(releases("barn", Some("ida")).contains("(UnknownName)\n  `waybill names list`"));
        assert!(claims("barn", "roof").starts_with("roof.mesh is this router"));
    }

    #[test]
    fn a_router_without_a_ledger_is_told_where_names_are() {
        let hilltop = Hilltop::founded();
        let config = hilltop.directory.path().join("alone.toml");
        std::fs::write(&config, format!("[node]\nname = \"alone\"\nkey_file = {:?}\n", hilltop.key("alone"))).unwrap();
        let told = said(list(&Here { config, json: false }));
        assert!(told.contains("names no ledger") && told.contains("--config"), "{told}");
    }
}
