//! `waybill community` and `waybill invite`: a community from nothing, and who is in it.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use ledger_client::Fact;
use ledger_client::{
    Address, Code, Command, Embedded, Event, Genesis, Ledger, LogKey, LogSigner, Membership, Name, Records, Role,
    checkpoint, fresh_nonce, system_clock,
};
use metering::{NodeId, SortedSet, mesh_address};
use serde_json::json;

use super::place::{Opened, Place};
use super::vouchers::fresh_secret;
use super::{failure, seconds, with_sources};
use crate::cli::Failure;
use crate::cli::join::{NAMES_PORT, Places, is_free, machine_name, names_table, node_table, quic_table, quoted};
use crate::cli::table::{Side, Table, facts};
use crate::config::{Amount, Config, Endpoint, LedgerPlace, QUIC_PORT};
use crate::file;
use crate::identity::{self, KeyFileError};
use crate::invite::{HOSTS_MAX, Host, Invite};
use crate::qr::Qr;

/// How long the founder's own router is a member.
const FOUNDER_S: u32 = 10 * 365 * 86_400;

#[derive(Debug, Subcommand)]
pub(crate) enum Community {
    /// Found a community: its ledger, its keys, and the config of this router, which serves the ledger
    #[command(
        after_help = "Example:\n  waybill community create Hilltop --symbol WAY --endpoint roof.example.org:51820\n\n\
                      Then run this router with `waybill up`, and invite others with `waybill invite`."
    )]
    Create(Box<Create>),
    /// List the members
    #[command(after_help = "Example:\n  waybill community members")]
    Members(Members),
    /// Put a member out: all routers cut it off within half a minute
    #[command(after_help = "Example:\n  waybill community revoke 0x52908400098527886E0F7030069857D2E4169EE7")]
    Revoke(Revoke),
    /// Take an account in, or renew its membership
    #[command(
        after_help = "Example:\n  waybill community renew 0x52908400098527886E0F7030069857D2E4169EE7 --until 365d"
    )]
    Renew(Renew),
    /// Take an invitation back that nobody has used
    #[command(after_help = "Example:\n  waybill community withdraw - < invitation.txt")]
    Withdraw(Withdraw),
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// What people call the community
    community: String,
    /// What its tokens are called
    #[arg(long, value_name = "SYMBOL", default_value = "WAY")]
    symbol: String,
    /// How many digits of an amount stand behind the point
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u8).range(..=9))]
    decimals: u8,
    /// What people call this router; the machine's name without it
    #[arg(long)]
    name: Option<String>,
    /// Where others reach this router, for invitations
    #[arg(long, value_name = "HOST:PORT")]
    endpoint: Option<Endpoint>,
    /// Where the ledger listens
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:8443")]
    listen: SocketAddr,
    /// Tokens per GiB that this router asks
    #[arg(long, value_name = "AMOUNT", default_value = "0")]
    ask: Amount,
    /// The most tokens per GiB that this router pays, and those it invites are told to; what it asks without it
    #[arg(long, value_name = "AMOUNT")]
    max: Option<Amount>,
    #[command(flatten)]
    places: Places,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The config of a router of the community, and the issuer's key.
#[derive(Debug, Args)]
pub(crate) struct Here {
    /// The config file of a router of the community
    #[arg(long, value_name = "FILE", default_value = "/etc/waybill/waybill.toml")]
    config: PathBuf,
    /// The key file of an issuer; issuer.key beside the config without it
    #[arg(long, value_name = "FILE")]
    issuer: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Inviting {
    #[command(flatten)]
    here: Here,
    /// How long the membership lasts, from this moment
    #[arg(long, value_name = "TIME", default_value = "365d", value_parser = seconds)]
    until: u32,
    /// How long the invitation is good
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = seconds)]
    expires: u32,
    /// Where others reach this router; `endpoint` in [community] without it
    #[arg(long, value_name = "HOST:PORT")]
    endpoint: Option<Endpoint>,
    /// Also write it as a QR code, for a screen or for paper
    #[arg(long, value_name = "FILE.svg")]
    qr: Option<PathBuf>,
    /// Where the ledger is reached; the mesh address of this router, if it serves it, without
    #[arg(long, value_name = "URL")]
    ledger_url: Option<Address>,
}

#[derive(Debug, Args)]
pub(crate) struct Members {
    #[command(flatten)]
    here: Here,
}

#[derive(Debug, Args)]
pub(crate) struct Revoke {
    /// Who, as `waybill community members` shows it
    account: NodeId,
    #[command(flatten)]
    here: Here,
}

#[derive(Debug, Args)]
pub(crate) struct Renew {
    /// Who, as `waybill key` shows it
    account: NodeId,
    /// How long the membership lasts, from this moment
    #[arg(long, value_name = "TIME", default_value = "365d", value_parser = seconds)]
    until: u32,
    #[command(flatten)]
    here: Here,
}

#[derive(Debug, Args)]
pub(crate) struct Withdraw {
    /// The invitation, or - to read it from standard input
    #[arg(value_name = "CODE|-")]
    code: String,
    #[command(flatten)]
    here: Here,
}

pub(crate) fn community(command: &Community) -> Result<String, Failure> {
    match command {
        Community::Create(arguments) => create(arguments),
        Community::Members(arguments) => members(&arguments.here),
        Community::Revoke(Revoke { account, here }) => {
            let (_, mut opened) = here.open_as_issuer()?;
            opened.act(Command::RevokeMembership { of: *account })?;
            let sentence =
                format!("{account} is put out; routers cut it off within half a minute, and its tokens stay its own");
            Ok(answer(here.json, &json!({ "account": account.to_string(), "revoked": true }), &sentence))
        }
        Community::Renew(Renew { account, until, here }) => {
            let until = system_clock()().after(*until);
            let (_, mut opened) = here.open_as_issuer()?;
            opened.act(Command::IssueMembership { to: *account, until })?;
            let object = json!({ "account": account.to_string(), "until": until.seconds() });
            Ok(answer(here.json, &object, &format!("{account} is a member until {}", until.utc())))
        }
        Community::Withdraw(Withdraw { code, here }) => {
            let invite = crate::cli::join::read_invite(code)?;
            let (_, mut opened) = here.open_as_issuer()?;
            let (issuer, enrolment) = (invite.code.issuer(), invite.code.enrolment());
            opened.act(Command::WithdrawEnrolment { issuer, enrolment })?;
            let object = json!({ "issuer": issuer.to_string(), "enrolment": enrolment.to_string() });
            Ok(answer(here.json, &object, "the invitation is withdrawn: nobody joins by it"))
        }
    }
}

fn answer(json: bool, object: &serde_json::Value, sentence: &str) -> String {
    if json { format!("{object:#}\n") } else { format!("{sentence}\n") }
}

/// The files of a new community, none of which may be there.
struct Files {
    config: PathBuf,
    treasurer: PathBuf,
    issuer: PathBuf,
    ledger_key: PathBuf,
    ledger: PathBuf,
}

impl Files {
    fn of(Places { directory, state, .. }: &Places) -> Self {
        Self {
            config: directory.join("waybill.toml"),
            treasurer: directory.join("treasurer.key"),
            issuer: directory.join("issuer.key"),
            ledger_key: directory.join("ledger.key"),
            ledger: state.join("community.ledger"),
        }
    }

    fn all(&self) -> [&PathBuf; 5] {
        [&self.config, &self.treasurer, &self.issuer, &self.ledger_key, &self.ledger]
    }
}

/// The two directories, made if they are not there, for as long as no other command may make a community in them.
fn hold(Places { directory, state, .. }: &Places) -> Result<Vec<File>, Failure> {
    let mut held = Vec::new();
    for path in [directory, state] {
        let next = "run it as root, or name directories with --directory and --state";
        let cannot = |error: io::Error| Failure::new(format!("cannot make {}: {error}", path.display()), next);
        fs::create_dir_all(path).map_err(cannot)?;
        if held.is_empty() || fs::canonicalize(directory).ok() != fs::canonicalize(state).ok() {
            let folder = File::open(path).map_err(cannot)?;
            folder.try_lock().map_err(|_| {
                let cause = format!("another command works in {} at this moment", path.display());
                Failure::new(cause, "wait until it has ended; if it makes a community, invite from there")
            })?;
            held.push(folder);
        }
    }
    Ok(held)
}

fn create(arguments: &Create) -> Result<String, Failure> {
    let _held = hold(&arguments.places)?;
    let files = Files::of(&arguments.places);
    if let Some(there) = files.all().into_iter().find(|path| path.exists()) {
        let cause = format!("{} is there already", there.display());
        // The config is written last.
        return Err(if files.config.exists() {
            Failure::new(cause, "this machine has a community; name another --directory and --state for a second one")
        } else {
            let next = "if an earlier `community create` was cut short, move away what it left; keys of a community that lives \
                        are not to be lost";
            Failure::new(cause, next)
        });
    }
    let made = found(arguments, &files);
    if made.is_err() {
        // Nothing half made stays: these were not there before.
        for path in files.all() {
            let _gone = fs::remove_file(path);
        }
        for end in ["-wal", "-shm"] {
            let mut beside = files.ledger.clone().into_os_string();
            beside.push(end);
            let _gone = fs::remove_file(beside);
        }
    }
    made
}

fn found(arguments: &Create, files: &Files) -> Result<String, Failure> {
    let Create { community, symbol, decimals, name, endpoint, listen, ask, max, places, json } = arguments;
    let directory = &places.directory;
    let max = max.as_ref().unwrap_or(ask);
    let name = name.clone().unwrap_or_else(machine_name);
    let absolute = |path: &Path| -> Result<String, Failure> {
        let path = std::path::absolute(path).map_err(|error| Failure::new(error, "name another directory"))?;
        quoted(&path.to_string_lossy())
    };
    let mut text = format!(
        "# The founder of {community}, as `waybill community create` wrote it. waybill.example.toml explains every option.\n\
         {node}\n[community]\nmembers_only = true\n",
        node = node_table(&name, places)?,
        community = community.replace(char::is_control, " "),
    );
    if let Some(endpoint) = endpoint {
        text.push_str(&format!("endpoint = \"{endpoint}\"\n"));
    }
    text.push_str(&format!(
        "\n[ledger]\npath = {}\nserve = \"{listen}\"\nserve_key = {}\n\n[price]\nask = \"{ask}\"\nmax = \"{max}\"\n{}{}",
        absolute(&files.ledger)?,
        absolute(&files.ledger_key)?,
        quic_table(),
        names_table(is_free(NAMES_PORT)),
    ));
    Config::parse(&files.config, &text)?;
    let clock = system_clock();
    let nonce = fresh_nonce()
        .map_err(|error| Failure::new(format!("cannot make random bytes: {error}"), "try again in a moment"))?;
    let [treasurer, issuer, ledger_key] =
        [&files.treasurer, &files.issuer, &files.ledger_key].map(|path| identity::load_or_create(path));
    let (treasurer, issuer, ledger_key) = (treasurer?, issuer?, ledger_key?);
    let own = identity::load_or_create(&directory.join("key"))?;
    let genesis = Genesis::new(community, symbol, *decimals, treasurer.node_id(), clock(), nonce)
        .map_err(|error| Failure::new(error, "see `waybill community create --help`"))?;
    let ledger = Embedded::create(&files.ledger, &genesis, clock).map_err(|error| {
        Failure::new(
            format!("cannot create {}: {}", files.ledger.display(), with_sources(&error)),
            "look whether there is space left",
        )
    })?;
    let mut ledger = ledger.signed_by(treasurer.account().clone());
    ledger.order(Command::Appoint { role: Role::Issuer, to: issuer.node_id() }).map_err(failure)?;
    let mut ledger = ledger.signed_by(issuer.account().clone());
    let until = system_clock()().after(FOUNDER_S);
    ledger.order(Command::IssueMembership { to: own.node_id(), until }).map_err(failure)?;
    let called: Option<Name> = name.to_ascii_lowercase().parse().ok();
    if let Some(called) = called {
        ledger.signed_by(own.account().clone()).claim_name(called, own.wireguard_key().0).map_err(failure)?;
    }
    let not_written = |error| {
        Failure::new(format!("cannot write {}: {error}", files.config.display()), "look whether there is space left")
    };
    file::replace(&files.config, text.as_bytes(), 0o644).map_err(not_written)?;
    let key = log_key(&genesis, &ledger_key.tls_secret())?;
    if *json {
        let object = json!({
            "community": community, "symbol": symbol, "decimals": decimals, "config": files.config,
            "name": name, "account": own.node_id().to_string(), "mesh_address": own.card().mesh_address().to_string(),
            "treasurer": treasurer.node_id().to_string(), "issuer": issuer.node_id().to_string(),
            "ledger_key": key.to_string(), "claims": called,
        });
        return Ok(format!("{object:#}\n"));
    }
    let mut said = facts(&[
        ("community", format!("{community}, whose tokens are {symbol}")),
        ("router", format!("{name}, {}", own.node_id())),
        (
            "mesh name",
            called.map_or_else(|| "none: `waybill names claim` takes one".to_owned(), |name| format!("{name}.mesh")),
        ),
        ("config", files.config.display().to_string()),
        ("treasurer", files.treasurer.display().to_string()),
        ("issuer", files.issuer.display().to_string()),
        ("ledger", format!("{}, served at {listen}", files.ledger.display())),
    ]);
    let config = files.config.display();
    said.push_str(&format!(
        "Run it:      waybill up --config {config}\n\
         Invite:      waybill invite --config {config}\n\
         Make tokens: waybill ledger mint --path {} --treasurer {} --to ACCOUNT --amount 100\n\
         Keep a copy of the treasurer's key elsewhere, and take it off this machine when tokens are made: who has it makes tokens.\n",
        files.ledger.display(),
        files.treasurer.display(),
    ));
    Ok(said)
}

/// The key by which a ledger is known whose server has this secret.
fn log_key(genesis: &Genesis, secret: &[u8; 32]) -> Result<LogKey, Failure> {
    let signer = LogSigner::new(&checkpoint::origin(genesis), secret);
    Ok(signer.map_err(|error| Failure::new(error, "name another key file"))?.key().clone())
}

impl Here {
    fn load(&self) -> Result<(Config, LedgerPlace), Failure> {
        let config = Config::load(&self.config)?;
        let place = config.ledger.as_ref().map(|ledger| ledger.place.clone());
        let place = place.ok_or_else(|| {
            Failure::new(
                format!("{} names no ledger", self.config.display()),
                "name the config of a router of the community",
            )
        })?;
        Ok((config, place))
    }

    fn open(&self) -> Result<Opened, Failure> {
        Place::of(&self.load()?.1).open()
    }

    fn open_as_issuer(&self) -> Result<(NodeId, Opened), Failure> {
        let (config, place) = self.load()?;
        let beside = || config.path.parent().unwrap_or(Path::new(".")).join("issuer.key");
        let file = self.issuer.clone().unwrap_or_else(beside);
        let key = identity::load(&file).map_err(|error| {
            let KeyFileError::Missing { .. } = error else { return error.into() };
            // One that is made here is nobody's whom the ledger knows.
            let next = "only an issuer does this: name its key file with --issuer; `waybill community create` made the first, and \
                        `waybill ledger appoint` makes others";
            Failure::new(format!("there is no issuer's key {}", file.display()), next)
        })?;
        Ok((key.node_id(), Place::of(&place).open_for(key.node_id(), key.account())?))
    }
}

/// `waybill invite`
pub(crate) fn invite(arguments: &Inviting) -> Result<String, Failure> {
    let Inviting { here, until, expires, endpoint, qr, ledger_url } = arguments;
    let (config, place) = here.load()?;
    let own = identity::load(&config.node.key_file)?;
    let (issuer, mut opened) = here.open_as_issuer()?;
    let genesis = opened.ledger().genesis().clone();
    let founding = opened.ledger().entries(0).map_err(failure)?.first().map(ledger_client::Entry::encode);
    let founding = founding.ok_or_else(|| Failure::new("the ledger has no founding", "see `waybill ledger audit`"))?;
    let (key, address) = match &place {
        LedgerPlace::Served(place) => (place.key.clone(), Some(place.address.clone())),
        LedgerPlace::File(_) => {
            let serve = config.ledger.as_ref().and_then(|ledger| ledger.serve.as_ref()).ok_or_else(|| {
                let next = "set `serve` and `serve_key` in [ledger], so that a newcomer can reach it";
                Failure::new("this router does not serve its ledger", next)
            })?;
            let url = format!("https://[{}]:{}", mesh_address(&own.wireguard_key()), serve.listen.port());
            (log_key(&genesis, &identity::load(&serve.key_file)?.tls_secret())?, url.parse().ok())
        }
    };
    let address = ledger_url.clone().or(address).expect("a mesh address and a port are an address");
    let endpoint = endpoint.clone().or_else(|| config.community.endpoint.clone());
    // Who joins looks for QUIC at the usual port unasked.
    let quic_port = config.quic.as_ref().map(|quic| quic.listen.port()).filter(|port| *port != QUIC_PORT);
    let host = |endpoint: &Endpoint| Host {
        card: *own.card(),
        endpoint: endpoint.clone(),
        quic: quic_port.map(|port| endpoint.at_port(port)),
    };
    let hosts: Vec<Host> = endpoint.iter().map(host).take(HOSTS_MAX).collect();
    let now = system_clock()();
    let (until, expires) = (now.after(*until), now.after(*expires));
    let (secret, enrolment) = fresh_secret()?;
    let code = Code::new(secret, issuer).ok_or_else(|| Failure::new("the secret is no key", "try again"))?;
    let dearer = |a: &Amount, b: &Amount| {
        let units = |amount: &Amount| amount.in_base_units(genesis.decimals()).ok();
        if units(a) >= units(b) { a.clone() } else { b.clone() }
    };
    let max = dearer(&config.price.max, &config.price.ask);
    let hop_worth = config.price.hop_worth.clone();
    let invite = Invite { founding, genesis, address, key, code, hosts, max, hop_worth };
    let code =
        Qr::of(&invite.to_string()).map_err(|error| Failure::new(error, "name a shorter endpoint or ledger URL"))?;
    opened.act(Command::OfferEnrolment { enrolment, until, expires })?;
    if let Some(path) = qr {
        file::replace(path, code.svg().as_bytes(), 0o600).map_err(|error| {
            let cause = format!("cannot write {}: {error}; the invitation is {invite}", path.display());
            Failure::new(cause, "name another file next time")
        })?;
    }
    if here.json {
        let object = json!({
            "invitation": invite.to_string(),
            "link": invite.link(),
            "enrolment": enrolment.to_string(),
            "issuer": issuer.to_string(),
            "until": until.seconds(),
            "expires": expires.seconds(),
        });
        return Ok(format!("{object:#}\n"));
    }
    // For people, beside what a program takes.
    let mut notes =
        format!("one router joins by it until {}; it is a member until {} then\n", expires.utc(), until.utc());
    if endpoint.is_none() {
        notes.push_str("it names no address to call: the newcomer has to be on a wire or radio with a member, or give --endpoint\n");
    }
    if !matches!(invite.address.ip(), Some(IpAddr::V6(ip)) if ip.is_unique_local()) {
        notes.push_str("the ledger has no address in the mesh: the newcomer has to reach it some other way, as members lead it there alone\n");
    }
    let _unheard = io::stderr().lock().write_all(notes.as_bytes());
    // A program gets the code alone.
    let shown =
        if io::stdout().is_terminal() { format!("\n{}\n{}\n", invite.link(), code.terminal()) } else { String::new() };
    Ok(format!("{invite}\n{shown}"))
}

fn members(here: &Here) -> Result<String, Failure> {
    let mut opened = here.open()?;
    let mut accounts = SortedSet::new();
    let state = opened.replay(|entry| {
        if let Event::MembershipIssued { to: account, .. }
        | Event::MembershipRevoked { of: account, .. }
        | Event::Enrolled { account, .. } = &entry.event
        {
            accounts.insert(*account);
        }
    })?;
    let now = system_clock()();
    let mut table = Table::new(&[("ACCOUNT", Side::Left), ("MEMBER", Side::Left), ("UNTIL", Side::Left)]);
    let mut objects = Vec::new();
    for account in accounts {
        let Ok(fact) = state.fact(&Membership::place(&account));
        let Some(membership) = fact.and_then(|fact| Membership::decode(&fact)) else { continue };
        let member = membership.holds_at(now);
        let said = match (member, membership.revoked) {
            (true, _) => "yes",
            (false, true) => "put out",
            (false, false) => "ended",
        };
        table.row([account.to_string(), said.to_owned(), membership.until.utc()]);
        objects.push(json!({
            "account": account.to_string(), "member": member, "revoked": membership.revoked, "until": membership.until.seconds(),
        }));
    }
    Ok(if here.json { format!("{:#}\n", serde_json::Value::from(objects)) } else { table.render() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_communities_are_not_made_in_one_place_at_the_same_moment() {
        let home = tempfile::tempdir().unwrap();
        let of = |directory: &str, state: &str| Places {
            directory: home.path().join(directory),
            state: home.path().join(state),
            socket: home.path().join("control.sock"),
        };
        let first = hold(&of("etc", "state")).unwrap();
        assert_eq!(first.len(), 2);
        assert!(hold(&of("etc", "state")).is_err() && hold(&of("other", "state")).is_err());
        drop(first);
        assert!(hold(&of("etc", "state")).is_ok());
        assert_eq!(hold(&of("one", "one")).unwrap().len(), 1);
    }

    #[test]
    fn whoever_is_no_issuer_is_not_told_to_make_a_key_that_nobody_knows() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let arguments = Create {
            community: "Hilltop".to_owned(),
            symbol: "WAY".to_owned(),
            decimals: 6,
            name: Some("roof".to_owned()),
            endpoint: None,
            listen: "[::]:8443".parse().unwrap(),
            ask: "0.25".parse().unwrap(),
            max: None,
            places: Places { directory: path("etc"), state: path("state"), socket: path("sock") },
            json: false,
        };
        create(&arguments).unwrap();
        let here = Here { config: path("etc/waybill.toml"), issuer: None, json: false };
        assert!(here.open_as_issuer().is_ok());
        let price = Config::load(&here.config).unwrap().price;
        assert_eq!(price.max.to_string(), "0.25", "whoever asks something may meet somebody who does");
        fs::remove_file(path("etc/issuer.key")).unwrap();
        let said = here.open_as_issuer().err().unwrap().to_string();
        assert!(said.contains("--issuer") && !said.contains("waybill key"), "{said}");
    }
}
