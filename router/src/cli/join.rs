//! `waybill join`: from an invitation to a router that is a member.

use std::fs;
use std::io::{self, Read};
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::Args;
use ledger_client::Name;
use metering::NodeId;
use metering::json::hex_text;
use serde_json::json;
use socket2::{Domain, Socket, Type};

use super::Failure;
use super::leaf::Held;
use super::table::facts;
use crate::config::{Amount, Config, LedgerPlace};
use crate::control::{self, Request};
use crate::invite::{Host, Invite, InviteError};
use crate::router::{CLAIM, ENROLMENT};
use crate::{file, identity};

/// What a router is called whose machine has no usable name.
const NAMELESS: &str = "router";

#[derive(Debug, Args)]
pub(crate) struct Join {
    /// The invitation, as text or link, or - to read it from standard input, which others on this machine do not see
    #[arg(value_name = "CODE|-")]
    code: String,
    /// What people call this router, and the name it claims in the mesh; the machine's name without it
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    places: Places,
    /// Tokens per GiB paid to providers at most; what the invitation says without it
    #[arg(long, value_name = "AMOUNT")]
    max: Option<Amount>,
    /// Run the router then, as `waybill up` does
    #[arg(long)]
    up: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Where a new router has its things.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub(super) struct Places {
    /// The directory of config and keys
    #[arg(long, value_name = "DIR", default_value = "/etc/waybill")]
    pub(super) directory: PathBuf,
    /// The directory of what the router remembers, and of the ledger where it is founded
    #[arg(long, value_name = "DIR", default_value = "/var/lib/waybill")]
    pub(super) state: PathBuf,
    /// Where `waybill status` and its like find the router
    #[arg(long, value_name = "PATH", default_value = "/run/waybill/control.sock")]
    pub(super) socket: PathBuf,
}

/// What was done, and whether the router is to run.
pub(super) struct Joined {
    pub(super) said: String,
    pub(super) up: Option<PathBuf>,
}

/// Reads the invitation, makes key and config, and leaves the code where the router takes it.
pub(super) fn join(arguments: &Join) -> Result<Joined, Failure> {
    let invite = read_invite(&arguments.code)?;
    let path = arguments.places.directory.join("waybill.toml");
    let fresh = !path.try_exists().map_err(|error| cannot("read", &path, &error))?;
    if fresh {
        write_config(arguments, &path, &invite)?;
    }
    let mut config = Config::load(&path)?;
    check_ledger(&config, &invite)?;
    let identity = identity::load_or_create(&config.node.key_file)?;
    let peers = peer_tables(&invite.hosts, Some(&config), Some(identity.node_id()));
    if !peers.is_empty() {
        add_peers(&path, &invite, identity.node_id())?;
        config = Config::load(&path)?;
    }
    fs::create_dir_all(&config.node.state_dir).map_err(|error| cannot("make", &config.node.state_dir, &error))?;
    let code = config.node.state_dir.join(ENROLMENT);
    file::leave(&code, format!("{}\n", invite.code).as_bytes()).map_err(|error| cannot("write", &code, &error))?;
    let called = want_name(arguments, fresh, &config)?;
    // One that runs takes the code now; else it does so when it starts.
    let runs = !arguments.up && control::ask(&config.node.control_socket, &Request::Reload).is_ok();
    let next = match (runs, arguments.up) {
        (true, _) => "The router takes the code as soon as it reaches the ledger: see `waybill status`.".to_owned(),
        (false, true) => "The router starts, and takes the code as soon as it reaches the ledger.".to_owned(),
        (false, false) => format!("Run it:  waybill up --config {}", path.display()),
    };
    let genesis = &invite.genesis;
    let said = if arguments.json {
        let object = json!({
            "community": genesis.community(),
            "symbol": genesis.symbol(),
            "name": config.node.name,
            "claims": called.as_ref().ok(),
            "account": identity.node_id().to_string(),
            "mesh_address": identity.card().mesh_address().to_string(),
            "config": path,
            "new": fresh,
            "ledger": invite.address.to_string(),
            "max": config.price.max.to_string(),
            "names": config.names.is_some(),
            "running": runs,
        });
        format!("{object:#}\n")
    } else {
        let new = if fresh { " (new)" } else { "" };
        facts(&[
            ("community", format!("{}, whose tokens are {}", genesis.community(), genesis.symbol())),
            ("router", format!("{}, {}", config.node.name, identity.node_id())),
            ("mesh address", identity.card().mesh_address().to_string()),
            (
                "names",
                match &config.names {
                    Some(names) => {
                        let leads_on = config.internet.is_some() || !names.upstream.is_empty();
                        let others = if leads_on { " and others" } else { "" };
                        let at = identity.card().mesh_address();
                        format!("NAME.mesh{others}: ask {at}, port {}", names.port)
                    }
                    None if !fresh => "not answered: the config has no [names]".to_owned(),
                    None => format!(
                        "not answered: another program has port 53. Write `[names]` and `port = 1053`, and let that one ask \
                     {}, port 1053, for `mesh` (dnsmasq: server=/mesh/{}#1053)",
                        identity.card().mesh_address(),
                        identity.card().mesh_address()
                    ),
                },
            ),
            ("mesh name", called.map_or_else(|why| why, |name| format!("{name}.mesh, if nobody else has it"))),
            ("config", format!("{}{new}", path.display())),
            ("ledger", invite.address.to_string()),
            ("pays at most", format!("{} {} per GiB: `max` in [price]", config.price.max, genesis.symbol())),
        ]) + &next
            + "\n"
    };
    Ok(Joined { said, up: arguments.up.then_some(path) })
}

/// Leaves the name that the router claims once it is a member, or says why it claims none.
fn want_name(arguments: &Join, fresh: bool, config: &Config) -> Result<Result<Name, String>, Failure> {
    let Some(name) = arguments.name.as_ref().or(fresh.then_some(&config.node.name)) else {
        return Ok(Err("as before: `waybill names` changes it".to_owned()));
    };
    let name: Name = match name.to_ascii_lowercase().parse() {
        Ok(name) => name,
        Err(error) => return Ok(Err(format!("none: {error}; take one with `waybill names claim`"))),
    };
    let path = config.node.state_dir.join(CLAIM);
    file::leave(&path, format!("{name}\n").as_bytes()).map_err(|error| cannot("write", &path, &error))?;
    Ok(Ok(name))
}

pub(super) fn read_invite(code: &str) -> Result<Invite, Failure> {
    let text = match code {
        "-" => {
            let mut text = String::new();
            io::stdin().take(16 << 10).read_to_string(&mut text).map_err(|error| {
                Failure::new(format!("cannot read standard input: {error}"), "give it the invitation's text")
            })?;
            text
        }
        code => code.to_owned(),
    };
    text.parse().map_err(|error| {
        let next = match error {
            InviteError::NotAnInvite | InviteError::Malformed => "copy it again, to the last character",
            InviteError::EnrolmentAlone => {
                "ask for a code of `waybill invite`, or take this one with `waybill ledger enrol take`"
            }
            InviteError::Senseless(_) => "ask for another one",
        };
        Failure::new(error, next)
    })
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::new(
        format!("cannot {what} {}: {}", path.display(), identity::plain(error)),
        "run it as root, or name directories with --directory, --state and --socket that this user may write to",
    )
}

/// A router is in one community: money of two is not mixed.
fn check_ledger(config: &Config, invite: &Invite) -> Result<(), Failure> {
    let is_it = match config.ledger.as_ref().map(|ledger| &ledger.place) {
        Some(LedgerPlace::Served(place)) => place.key == invite.key,
        Some(LedgerPlace::File(_)) | None => false,
    };
    if is_it && config.community.members_only {
        return Ok(());
    }
    let why = if is_it { "does not say `members_only = true` in [community]" } else { "is of another ledger" };
    Err(Failure::new(
        format!("{} {why}: this invitation is to {}", config.path.display(), invite.genesis.community()),
        "correct it, or name another --directory, --state and --socket, and join there",
    ))
}

/// Adds the invitation's neighbours to a config that is there already; all else in it stays as it is.
fn add_peers(path: &Path, invite: &Invite, own: NodeId) -> Result<(), Failure> {
    let held = Held::open(path)?;
    let mut text = held.config.text().to_owned();
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&peer_tables(&invite.hosts, Some(&held.config), Some(own)));
    held.replace(&text).map(drop)
}

fn write_config(arguments: &Join, path: &Path, invite: &Invite) -> Result<(), Failure> {
    let name = arguments.name.clone().unwrap_or_else(machine_name);
    let max = arguments.max.as_ref().unwrap_or(&invite.max);
    let directory = &arguments.places.directory;
    let mut text = format!(
        "# A member of {community}, as `waybill join` wrote it. waybill.example.toml explains every option.\n\
         {node}\n[community]\nmembers_only = true\n\n\
         [ledger]\nurl = \"{url}\"\nkey = \"{key}\"\nfounding = \"{founding}\"\n\n\
         [price]\nmax = \"{max}\"\nhop_worth = \"{hop_worth}\"\n{quic}{names}",
        community = invite.genesis.community().replace(char::is_control, " "),
        node = node_table(&name, &arguments.places)?,
        url = invite.address,
        key = invite.key,
        founding = hex_text(&invite.founding),
        hop_worth = invite.hop_worth,
        quic = quic_table(),
        names = names_table(is_free(NAMES_PORT)),
    );
    text.push_str(&peer_tables(&invite.hosts, None, None));
    // What is wrong in it is said before anything is written.
    Config::parse(path, &text)?;
    fs::create_dir_all(directory).map_err(|error| cannot("make", directory, &error))?;
    file::replace(path, text.as_bytes(), 0o644).map_err(|error| cannot("write", path, &error))
}

/// The tables of the invitation's neighbours that a config has not yet, under names that nobody has there.
fn peer_tables(hosts: &[Host], config: Option<&Config>, own: Option<NodeId>) -> String {
    let mut text = String::new();
    let has_quic = config.map_or(cfg!(feature = "quic"), |config| config.quic.is_some());
    let peers = config.map_or(&[][..], |config| &config.peers);
    let leaves = config.map_or(&[][..], |config| &config.leaves);
    for Host { card, endpoint, quic } in hosts {
        let is_it = |account: NodeId| account == card.account();
        if peers.iter().any(|peer| is_it(peer.card.account())) || own.is_some_and(is_it) {
            continue;
        }
        let account = card.account().to_string();
        // One that is called so on purpose may have found a key whose account begins as another's.
        let is_free = |name: &String| {
            let taken = peers.iter().map(|peer| &peer.name).chain(leaves.iter().map(|leaf| &leaf.name));
            !taken.into_iter().any(|taken| taken == name) && !text.contains(&format!("\"{name}\""))
        };
        let mut names = (10..=account.len()).filter_map(|to| Some(format!("member-{}", account.get(2..to)?)));
        let Some(name) = names.find(is_free) else { continue };
        let quic =
            quic.as_ref().filter(|_| has_quic).map(|quic| format!("quic_endpoint = \"{quic}\"\n")).unwrap_or_default();
        text.push_str(&format!("\n[[peer]]\nname = \"{name}\"\ncard = \"{card}\"\nendpoint = \"{endpoint}\"\n{quic}"));
    }
    text
}

/// Links fall back to QUIC where WireGuard is blocked.
pub(super) fn quic_table() -> &'static str {
    if cfg!(feature = "quic") { "\n[quic]\nlisten = \"[::]:443\"\n" } else { "" }
}

/// The port of name servers.
pub(super) const NAMES_PORT: u16 = 53;
/// An address that no machine has.
const ANY_IN_MESH: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, NAMES_PORT);

/// Names are answered where nobody else does so.
pub(super) fn names_table(is_free: bool) -> &'static str {
    if is_free { "\n[names]\n" } else { "" }
}

/// Whether a port can be had at an address that nobody else listens at; whoever listens at all of them, as dnsmasq may, leaves none.
pub(super) fn is_free(port: u16) -> bool {
    let bind = |kind| {
        let socket = Socket::new(Domain::IPV6, kind, None)?;
        socket.set_freebind_v6(true)?;
        socket.bind(&SocketAddr::from((ANY_IN_MESH, port)).into())
    };
    let taken = |bound: io::Result<()>| bound.is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse);
    ![Type::DGRAM, Type::STREAM].into_iter().any(|kind| taken(bind(kind)))
}

/// The table of a new config that says where this router has its things.
pub(super) fn node_table(name: &str, Places { directory, state, socket }: &Places) -> Result<String, Failure> {
    let mut text = format!("[node]\nname = {}\n", quoted(name)?);
    for (key, path) in [("key_file", &directory.join("key")), ("state_dir", state), ("control_socket", socket)] {
        let path = std::path::absolute(path).map_err(|error| cannot("find", path, &error))?;
        let shown =
            path.to_str().ok_or_else(|| Failure::new(format!("{} is no text", path.display()), "name another"))?;
        text.push_str(&format!("{key} = {}\n", quoted(shown)?));
    }
    Ok(text)
}

/// As TOML has it.
pub(super) fn quoted(text: &str) -> Result<String, Failure> {
    if text.chars().any(|c| c.is_control() || c == '"' || c == '\\') {
        return Err(Failure::new(format!("{text} has characters that no config file takes"), "choose another name"));
    }
    Ok(format!("\"{text}\""))
}

/// The machine's name, as far as it is one for a router.
pub(super) fn machine_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let label = name.trim().split('.').next().unwrap_or_default();
    let good = |name: &&str| {
        (1..=63).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !name.starts_with('-')
            && !name.starts_with("0x")
    };
    Some(label).filter(good).unwrap_or(NAMELESS).to_owned()
}

#[cfg(test)]
mod tests {
    use metering::{Identity, Seed};

    use super::*;

    #[test]
    fn names_are_answered_unless_another_program_has_the_port_of_all_addresses() {
        for (at, free) in [(Ipv6Addr::UNSPECIFIED, false), (Ipv6Addr::LOCALHOST, true)] {
            let other = std::net::UdpSocket::bind((at, 0)).unwrap();
            assert_eq!(is_free(other.local_addr().unwrap().port()), free, "{at}");
        }
        for is_free in [true, false] {
            let text = format!("[node]\nname = \"attic\"\n{}{}", quic_table(), names_table(is_free));
            assert_eq!(Config::parse(Path::new("waybill.toml"), &text).unwrap().names.is_some(), is_free);
        }
    }

    #[test]
    fn an_invitation_s_neighbours_are_added_once_to_a_config_that_is_there_under_names_of_their_own() {
        let card = |seed: u8| *Identity::new(&Seed::from_bytes([seed; 32])).card();
        let host = |seed: u8| Host {
            card: card(seed),
            endpoint: "192.0.2.1:51820".parse().unwrap(),
            quic: Some("192.0.2.1:4433".parse().unwrap()),
        };
        let (hosts, short) = ([host(3), host(4)], &card(4).account().to_string()[2..10]);
        let text = format!(
            "[node]\nname = \"attic\"\n\n[quic]\nlisten = \"[::]:443\"\n\n[[peer]]\nname = \"roof\"\ncard = \"{}\"\n\n[[peer]]\n\
             name = \"member-{short}\"\ncard = \"{}\"\n",
            card(3),
            card(5)
        );
        let parse =
            |text: &str| Config::parse(Path::new("waybill.toml"), text).unwrap_or_else(|error| panic!("{error}"));
        let config = parse(&text);
        assert_eq!(
            peer_tables(&hosts, Some(&config), Some(card(4).account())),
            "",
            "one is there, the other is this one"
        );
        let added = parse(&(text + &peer_tables(&hosts, Some(&config), None)));
        let names: Vec<&str> = added.peers.iter().map(|peer| peer.name.as_str()).collect();
        let [roof, other, new] = names[..] else { panic!("{names:?}") };
        assert_eq!((roof, other), ("roof", &*format!("member-{short}")));
        assert!(new.starts_with(other) && new.len() > other.len(), "{new}");
        assert_eq!(added.peers[2].quic_endpoint, Some("192.0.2.1:4433".parse().unwrap()));
        assert_eq!(peer_tables(&hosts, Some(&added), None), "");
    }
}
