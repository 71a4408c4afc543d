//! `waybill leaf`: phones and laptops with a stock WireGuard client, behind this router.
//!
//! A leaf is a `[[leaf]]` table in the config file. `add` and `remove` change that file, all or nothing, and leave everything else in
//! it as it is; then the running router reads it again. A phone's secret key is made, shown once, and kept nowhere.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use metering::{Identity, WireguardKey, mesh_address, mesh_prefix};
use node::datapath::MAX_LINKS;
use serde_json::json;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use super::Failure;
use super::table::{Side, Table};
use crate::config::{self, Config, Endpoint};
use crate::control::{self, Request};
use crate::file::replace as replace_file;
use crate::identity::{self, plain};
use crate::qr::Qr;

/// The subnet of the own /48 that leaves get their addresses from.
pub(super) const SUBNET: u16 = 0x1eaf;
/// Of packets to and from a leaf: what every way of a phone carries (RFC 8200, section 5), whatever its network wraps them in.
const MTU: u16 = 1280;
/// Seconds between packets that keep the way back open, as WireGuard's own pages advise.
const KEEPALIVE_S: u16 = 25;
/// Where leaves that are led to the Internet get their IPv4 addresses from: 254 of a private range that few networks use.
const IPV4_SUBNET: [u8; 3] = [172, 30, 87];
/// What `--internet` comes to.
const ALL_INSIDE: &str =
    "# All that the device sends goes into the tunnel, and to the Internet by this router's gateway.\n";
const NO_GATEWAY: &str = "# All that the device sends goes into the tunnel, but this router uses no gateway, so it reaches the mesh alone: add an \
                          [internet] table to the config file, and start the router again.\n";
const NO_UPLINK: &str = "# All that the device sends goes into the tunnel, but this gateway leads no leaf out without an uplink, so it reaches the mesh \
                         alone: name the interface in `uplink` of [gateway], and start the router again.\n";
const NO_NAMES: &str = "# Nobody answers it for names: add a [names] table to the config file and start the router again, or say --dns ADDRESS.\n";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Let a phone or laptop with a stock WireGuard client in: prints its config, and a QR code of it
    #[command(after_help = "Examples:\n  waybill leaf add phone --endpoint roof.example.org\n  \
                            waybill leaf add phone --endpoint 192.0.2.1:51820 --qr phone.svg\n\n\
                            waybill leaf add phone --endpoint roof.example.org --internet\n\n\
                            The phone's secret key is shown this once and kept nowhere. Without --internet only the mesh \
                            is reached through the tunnel; with it, all that the phone sends takes the way of this \
                            router's household: by the gateways of [internet], or by the uplink of [gateway].")]
    Add(Add),
    /// Show the leaves of this router
    #[command(after_help = "Example:\n  waybill leaf list")]
    List(List),
    /// Let a leaf in no more
    #[command(after_help = "Example:\n  waybill leaf remove phone")]
    Remove(Remove),
}

#[derive(Debug, Args)]
pub(super) struct Add {
    /// What it is called here
    #[arg(value_parser = config::name)]
    name: String,
    #[command(flatten)]
    file: ConfigFile,
    /// Where the leaf reaches this router: an IP address or a host name; the port is [wireguard] listen's unless given
    #[arg(long, value_name = "HOST[:PORT]")]
    endpoint: Option<String>,
    /// The leaf's public key, if it has made one itself; then no secret key and no QR code is printed
    #[arg(long, value_name = "KEY")]
    public_key: Option<WireguardKey>,
    /// Send all of the leaf's traffic into the tunnel, not only what is for the mesh: it reaches the Internet by the gateways of
    /// this router's [internet] table or its own uplink, where it is a gateway, and has an IPv4 address for that
    #[arg(long)]
    internet: bool,
    /// The resolver the leaf asks for names; this router, with --internet and a [names] table
    #[arg(long, value_name = "ADDRESS")]
    dns: Option<IpAddr>,
    /// Write the QR code to this file, an SVG image, too
    #[arg(long, value_name = "FILE.svg", value_parser = svg_file)]
    qr: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    file: ConfigFile,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Remove {
    /// What it is called here
    name: String,
    #[command(flatten)]
    file: ConfigFile,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ConfigFile {
    /// The router's config file
    #[arg(long = "config", value_name = "FILE", default_value = "/etc/waybill/waybill.toml")]
    path: PathBuf,
}

fn svg_file(text: &str) -> Result<PathBuf, &'static str> {
    let path = PathBuf::from(text);
    if path.extension().is_some_and(|extension| extension == "svg") { Ok(path) } else { Err("give a file *.svg") }
}

pub(super) fn execute(command: &Command) -> Result<String, Failure> {
    match command {
        Command::Add(arguments) => add(arguments),
        Command::List(arguments) => list(arguments),
        Command::Remove(arguments) => remove(arguments),
    }
}

fn add(arguments: &Add) -> Result<String, Failure> {
    let held = Held::open(&arguments.file.path)?;
    let Held { config, identity, .. } = &held;
    let taken = "choose another name, or `waybill leaf remove` it first";
    if config.peers.iter().any(|peer| peer.name == arguments.name)
        || config.leaves.iter().any(|leaf| leaf.name == arguments.name)
        || config.node.name == arguments.name
    {
        return Err(Failure::new(format!("\"{}\" is taken in {}", arguments.name, held.path.display()), taken));
    }
    if config.peers.len() + config.leaves.len() >= MAX_LINKS {
        let next = "take some [[peer]] or [[leaf]] tables out of the config file";
        return Err(Failure::new(format!("a router has at most {MAX_LINKS} neighbours and leaves"), next));
    }
    let endpoint = endpoint(arguments.endpoint.as_deref(), config)?;
    let address = free_address(config, identity)?;
    let ipv4 = arguments.internet.then(|| free_ipv4(config)).transpose()?;
    let own_names = || config.names.as_ref().filter(|names| arguments.internet && names.port == 53);
    let dns = arguments.dns.or_else(|| own_names().map(|_| mesh_address(&identity.wireguard_key()).into()));
    let secret = match arguments.public_key {
        Some(_) => None,
        None => Some(fresh_secret()?),
    };
    let key = match (&secret, arguments.public_key) {
        (Some(secret), _) => WireguardKey(PublicKey::from(&StaticSecret::from(**secret)).to_bytes()),
        (None, Some(key)) => key,
        (None, None) => return Err(Failure::new("there is no key", "")),
    };
    let wg_quick = wg_quick(secret.as_deref(), (address, ipv4), dns, &identity.wireguard_key(), &endpoint);
    let qr = secret.as_ref().and_then(|_| Qr::of(&wg_quick).ok());
    if let (Some(file), Some(qr)) = (&arguments.qr, &qr) {
        // It holds a secret: its owner's to read, and in nobody else's file.
        replace_file(file, qr.svg().as_bytes(), 0o600).map_err(|error| cannot("write", file, &error))?;
    }
    let mut text = Zeroizing::new(config.text().to_owned());
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&format!(
        "\n[[leaf]]\nname = \"{}\"\nwireguard_key = \"{key}\"\naddresses = [\"{address}/128\"]\n",
        arguments.name
    ));
    if let Some(ipv4) = ipv4 {
        text.push_str(&format!("ipv4 = \"{ipv4}\"\n"));
    }
    let told = held.replace(&text)?;
    if arguments.json {
        let object = json!({
            "name": arguments.name,
            "address": address.to_string(),
            "ipv4": ipv4.map(|ipv4| ipv4.to_string()),
            "wireguard_key": key.to_string(),
            "endpoint": endpoint.to_string(),
            "config": *wg_quick,
            "running": told.is_running(),
        });
        return Ok(format!("{object:#}\n"));
    }
    let mut shown = format!("# {}: give this to the device; it is shown only now\n{}", arguments.name, *wg_quick);
    match qr {
        Some(qr) => shown.push_str(&format!("\n{}", qr.terminal())),
        None => shown.push_str("\n# Put the secret key that belongs to the public one into the first table.\n"),
    }
    if arguments.internet {
        shown.push_str(match (&config.internet, &config.gateway) {
            (Some(_), _) => ALL_INSIDE,
            (None, Some(gateway)) if gateway.uplink.is_some() => ALL_INSIDE,
            (None, Some(_)) => NO_UPLINK,
            (None, None) => NO_GATEWAY,
        });
        shown.push_str(if dns.is_some() { "" } else { NO_NAMES });
    }
    shown.push_str(&format!("# {}\n", told));
    Ok(shown)
}

fn list(arguments: &List) -> Result<String, Failure> {
    let config = Config::load(&arguments.file.path)?;
    let addresses = |leaf: &config::Leaf| -> Vec<String> {
        let ipv6 = leaf.addresses.iter().map(ToString::to_string);
        ipv6.chain(leaf.ipv4.map(|ipv4| ipv4.to_string())).collect()
    };
    if arguments.json {
        let line = |leaf: &config::Leaf| {
            json!({
                "name": leaf.name,
                "wireguard_key": leaf.wireguard_key.to_string(),
                "addresses": addresses(leaf),
                "babel": leaf.babel,
            })
        };
        let lines: Vec<serde_json::Value> = config.leaves.iter().map(line).collect();
        return Ok(format!("{:#}\n", serde_json::Value::from(lines)));
    }
    let mut table = Table::new(&[("name", Side::Left), ("addresses", Side::Left), ("WireGuard key", Side::Left)]);
    for leaf in &config.leaves {
        let shown = if leaf.babel { "its own, by Babel".to_owned() } else { addresses(leaf).join(", ") };
        table.row([leaf.name.clone(), shown, leaf.wireguard_key.to_string()]);
    }
    Ok(table.render())
}

fn remove(arguments: &Remove) -> Result<String, Failure> {
    let held = Held::open(&arguments.file.path)?;
    let place = held.config.place_of_leaf(&arguments.name).ok_or_else(|| {
        Failure::new(
            format!("{} has no leaf \"{}\"", held.path.display(), arguments.name),
            "`waybill leaf list` shows them",
        )
    })?;
    let text = held.config.text();
    // The empty line that stood before it goes with it.
    let before = text[..place.start].strip_suffix("\n\n").map_or(place.start, |before| before.len() + 1);
    let text = format!("{}{}", &text[..before], &text[place.end..]);
    let others = |config: &Config| -> Vec<config::Leaf> {
        config.leaves.iter().filter(|leaf| leaf.name != arguments.name).cloned().collect()
    };
    let left = Config::parse(&held.path, &text).ok();
    if left.is_none_or(|left| left.leaves != others(&held.config) || left.peers != held.config.peers) {
        let next = "take its table out with an editor, and send the router a SIGHUP";
        return Err(Failure::new(format!("\"{}\" is written so that it cannot be cut out", arguments.name), next));
    }
    let told = held.replace(&text)?;
    if arguments.json {
        return Ok(format!("{:#}\n", json!({ "name": arguments.name, "running": told.is_running() })));
    }
    Ok(format!("{} is removed; {}\n", arguments.name, told))
}

/// Who knows of a changed file.
#[derive(Debug)]
pub(super) enum Told {
    Router,
    Nobody,
    Failed(String),
}

impl Told {
    fn is_running(&self) -> bool {
        matches!(self, Self::Router)
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Router => f.write_str("the running router knows it"),
            Self::Nobody => f.write_str("no router runs here: it holds from the next start on"),
            Self::Failed(why) => write!(f, "the router does not know it yet: {why}; send it a SIGHUP"),
        }
    }
}

/// The config file, for as long as nobody else may change it.
pub(super) struct Held {
    /// The file itself, whatever link led to it.
    path: PathBuf,
    pub(super) config: Config,
    identity: Identity,
    /// Locked.
    folder: File,
}

impl Held {
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        // A link to the file stays a link.
        let path = fs::canonicalize(path).map_err(|error| cannot("read", path, &error))?;
        let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
        let lock = || {
            let folder = File::open(&folder)?;
            folder.lock()?;
            Ok(folder)
        };
        let folder = lock().map_err(|error: io::Error| cannot("lock", &folder, &error))?;
        let config = Config::load(&path)?;
        let identity = identity::load(&config.node.key_file)?;
        config.check_identity(&identity)?;
        Ok(Self { path, config, identity, folder })
    }

    /// Puts a text in the file's place, durably and all at once, if it is a right config, and has a running router read it.
    pub(super) fn replace(&self, text: &str) -> Result<Told, Failure> {
        Config::parse(&self.path, text)?.check_identity(&self.identity)?;
        let beside = self.path.with_extension("toml.new");
        let write = || {
            let before = fs::metadata(&self.path)?;
            let _left = fs::remove_file(&beside);
            let mut file = File::options().write(true).create_new(true).mode(0o600).open(&beside)?;
            if (before.uid(), before.gid()) != (file.metadata()?.uid(), file.metadata()?.gid()) {
                fchown(&file, Some(before.uid()), Some(before.gid()))?;
            }
            file.set_permissions(fs::Permissions::from_mode(before.mode() & 0o7777))?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&beside, &self.path)?;
            self.folder.sync_all()
        };
        write().map_err(|error| {
            let _gone = fs::remove_file(&beside);
            cannot("change", &self.path, &error)
        })?;
        match control::ask(&self.config.node.control_socket, &Request::Reload) {
            Ok(_) => Ok(Told::Router),
            Err(control::AskError::NotRunning { .. }) => Ok(Told::Nobody),
            // The file is changed all the same, and what is shown only once has to be shown.
            Err(error) => Ok(Told::Failed(error.to_string())),
        }
    }
}

fn cannot(action: &str, path: &Path, error: &io::Error) -> Failure {
    let next = "name the file with --config, and run as its owner (usually root)";
    Failure::new(format!("cannot {action} {}: {}", path.display(), plain(error)), next)
}

fn fresh_secret() -> Result<Zeroizing<[u8; 32]>, Failure> {
    let mut secret = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *secret).map_err(|error| Failure::new(format!("no random numbers: {error}"), ""))?;
    // As `wg genkey` clamps them.
    secret[0] &= 248;
    secret[31] = secret[31] & 127 | 64;
    Ok(secret)
}

/// The lowest address of the leaves' subnet that is nobody's.
fn free_address(config: &Config, identity: &Identity) -> Result<Ipv6Addr, Failure> {
    let mut octets = mesh_prefix(&identity.wireguard_key()).0.octets();
    octets[6..8].copy_from_slice(&SUBNET.to_be_bytes());
    let taken = |address: Ipv6Addr| {
        config.leaves.iter().any(|leaf| leaf.addresses.iter().any(|prefix| prefix.contains(address)))
    };
    let mut addresses = (1..=u16::MAX).map(|number| {
        octets[14..].copy_from_slice(&number.to_be_bytes());
        Ipv6Addr::from(octets)
    });
    addresses.find(|address| !taken(*address)).ok_or_else(|| {
        let next = "a [[leaf]] has the whole subnet 1eaf of this router's /48; give it another";
        Failure::new("no address is left for a leaf", next)
    })
}

/// The lowest IPv4 address that no leaf has.
fn free_ipv4(config: &Config) -> Result<Ipv4Addr, Failure> {
    let [a, b, c] = IPV4_SUBNET;
    let mut addresses = (1..=254).map(|number| Ipv4Addr::new(a, b, c, number));
    addresses.find(|address| config.leaves.iter().all(|leaf| leaf.ipv4 != Some(*address))).ok_or_else(|| {
        let next = "write another private one into a [[leaf]] table, as `ipv4`";
        Failure::new("no IPv4 address is left for a leaf", next)
    })
}

/// Where the leaf calls: as the owner says, else where the router listens, if it listens at one address.
fn endpoint(given: Option<&str>, config: &Config) -> Result<Endpoint, Failure> {
    let listen = config.wireguard.listen;
    let Some(given) = given else {
        if listen.ip().is_unspecified() || listen.ip().is_loopback() {
            let next = "say it with --endpoint HOST[:PORT], such as the router's address in the house or its name on the Internet";
            return Err(Failure::new("where the device reaches this router is not known", next));
        }
        return Ok(Endpoint::Address(listen));
    };
    let with_port = match given.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("[{address}]:{}", listen.port()),
        Ok(IpAddr::V4(_)) => format!("{given}:{}", listen.port()),
        Err(_) if given.ends_with(']') || !given.contains(':') => format!("{given}:{}", listen.port()),
        Err(_) => given.to_owned(),
    };
    with_port.parse().map_err(|why| {
        Failure::new(
            format!("--endpoint {given}: {why}"),
            "write it as roof.example.org, 192.0.2.1:51820 or [2001:db8::1]",
        )
    })
}

/// The device's config as `wg-quick` and the WireGuard apps read it.
fn wg_quick(
    secret: Option<&[u8; 32]>,
    (address, ipv4): (Ipv6Addr, Option<Ipv4Addr>),
    dns: Option<IpAddr>,
    router: &WireguardKey,
    endpoint: &Endpoint,
) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(512));
    text.push_str("[Interface]\n");
    if let Some(secret) = secret {
        text.push_str(&format!("PrivateKey = {}\n", *Zeroizing::new(STANDARD.encode(secret))));
    }
    let ipv4_address = ipv4.map_or_else(String::new, |ipv4| format!("{ipv4}/32, "));
    text.push_str(&format!("Address = {ipv4_address}{address}/128\n"));
    if let Some(dns) = dns {
        text.push_str(&format!("DNS = {dns}\n"));
    }
    let allowed = if ipv4.is_some() { "0.0.0.0/0, ::/0" } else { "fd00::/8" };
    text.push_str(&format!(
        "MTU = {MTU}\n\n[Peer]\nPublicKey = {router}\nEndpoint = {endpoint}\nAllowedIPs = {allowed}\n\
         PersistentKeepalive = {KEEPALIVE_S}\n"
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place {
        folder: tempfile::TempDir,
    }

    impl Place {
        fn new(more: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let place = Self { folder };
            let key = place.path("key");
            identity::load_or_create(&key).unwrap();
            let socket = place.path("sock");
            let text = format!(
                "# our roof\n[node]\nname = \"roof\" # the name\nkey_file = \"{}\"\ncontrol_socket = \"{}\"\n{more}",
                key.display(),
                socket.display()
            );
            fs::write(place.path("w.toml"), text).unwrap();
            place
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn text(&self) -> String {
            fs::read_to_string(self.path("w.toml")).unwrap()
        }

        fn file(&self) -> ConfigFile {
            ConfigFile { path: self.path("w.toml") }
        }

        fn add(&self, name: &str, endpoint: Option<&str>) -> Result<serde_json::Value, String> {
            let arguments = Add {
                name: name.to_owned(),
                file: self.file(),
                endpoint: endpoint.map(str::to_owned),
                public_key: None,
                internet: false,
                dns: None,
                qr: Some(self.path("leaf.svg")),
                json: true,
            };
            add(&arguments).map(|text| serde_json::from_str(&text).unwrap()).map_err(|failure| failure.to_string())
        }

        fn remove(&self, name: &str) -> Result<String, String> {
            remove(&Remove { name: name.to_owned(), file: self.file(), json: false })
                .map_err(|failure| failure.to_string())
        }
    }

    #[test]
    fn a_leaf_is_added_and_removed_and_the_rest_of_the_file_stays() {
        let place = Place::new("\n# peers follow\n");
        fs::set_permissions(place.path("w.toml"), fs::Permissions::from_mode(0o640)).unwrap();
        let before = place.text();
        let one = place.add("phone", Some("192.0.2.1")).unwrap();
        let two = place.add("tablet", Some("roof.example.org:5000")).unwrap();
        let address = one["address"].as_str().unwrap();
        assert!(address.ends_with(":1eaf::1") && two["address"].as_str().unwrap().ends_with(":1eaf::2"), "{one}{two}");
        let config = one["config"].as_str().unwrap();
        assert!(
            config.contains("Endpoint = 192.0.2.1:51820\n") && config.contains("AllowedIPs = fd00::/8\n"),
            "{config}"
        );
        assert!(two["config"].as_str().unwrap().contains("Endpoint = roof.example.org:5000\n"));
        let secret = config.lines().find_map(|line| line.strip_prefix("PrivateKey = ")).unwrap();
        assert!(!place.text().contains(secret), "the secret is kept nowhere");
        assert!(place.text().starts_with(&before), "{}", place.text());
        assert_eq!(fs::metadata(place.path("w.toml")).unwrap().mode() & 0o777, 0o640);
        assert_eq!(fs::metadata(place.path("leaf.svg")).unwrap().mode() & 0o777, 0o600);
        let shown = list(&List { file: place.file(), json: false }).unwrap();
        assert!(shown.contains("phone") && shown.contains(two["wireguard_key"].as_str().unwrap()), "{shown}");

        assert_eq!(
            place.remove("phone").unwrap(),
            "phone is removed; no router runs here: it holds from the next start on\n"
        );
        // Its address is free again, and no other is.
        assert_eq!(place.add("laptop", Some("192.0.2.1")).unwrap()["address"], address);
        place.remove("tablet").unwrap();
        place.remove("laptop").unwrap();
        assert_eq!(place.text(), before);
    }

    #[test]
    fn who_sends_all_into_the_tunnel_gets_addresses_of_both_families_and_a_resolver_and_is_told_where_it_ends() {
        let (place, here) = (Place::new(""), Place::new("\n[names]\n\n[internet]\ngateways = [\"fd00::1\"]\n"));
        let add = |place: &Place, name: &str, internet| {
            let (file, endpoint) = (place.file(), Some("192.0.2.1".to_owned()));
            add(&Add {
                name: name.to_owned(),
                file,
                endpoint,
                public_key: None,
                internet,
                dns: None,
                qr: None,
                json: false,
            })
            .unwrap()
        };
        let shown = add(&place, "phone", true);
        assert!(shown.contains("AllowedIPs = 0.0.0.0/0, ::/0\n") && !shown.contains("DNS"), "{shown}");
        assert!(shown.contains(NO_GATEWAY) && shown.contains(NO_NAMES) && !shown.contains(ALL_INSIDE), "{shown}");
        let shown = add(&here, "phone", true);
        let own = mesh_address(&Held::open(&here.path("w.toml")).unwrap().identity.wireguard_key());
        assert!(shown.contains("Address = 172.30.87.1/32, fd") && shown.contains(&format!("DNS = {own}\n")), "{shown}");
        assert!(shown.contains(ALL_INSIDE) && !shown.contains(NO_GATEWAY) && !shown.contains(NO_NAMES), "{shown}");
        let gate = Place::new("\n[gateway]\n");
        assert!(add(&gate, "phone", true).contains(NO_UPLINK));
        let shown = add(&here, "tablet", false);
        assert!([ALL_INSIDE, "DNS", "172.30", "0.0.0.0/0"].iter().all(|text| !shown.contains(text)), "{shown}");
        assert!(add(&here, "laptop", true).contains("Address = 172.30.87.2/32, fd"));
        let listed = list(&List { file: here.file(), json: true }).unwrap();
        assert!(listed.contains("\"172.30.87.2\"") && !listed.contains("172.30.87.3"), "{listed}");
        // What was given once and is free again.
        remove(&Remove { name: "phone".to_owned(), file: here.file(), json: true }).unwrap();
        assert!(add(&here, "phone", true).contains("Address = 172.30.87.1/32, fd"));
    }

    #[test]
    fn what_cannot_be_done_changes_nothing() {
        let place = Place::new("");
        place.add("phone", Some("::1:1")).unwrap();
        let before = place.text();
        let said = place.add("phone", Some("192.0.2.1")).unwrap_err();
        assert!(said.contains("\"phone\" is taken"), "{said}");
        assert!(place.add("roof", Some("192.0.2.1")).unwrap_err().contains("is taken"));
        let said = place.add("tablet", None).unwrap_err();
        assert!(said.contains("--endpoint HOST[:PORT]"), "{said}");
        assert!(place.add("tablet", Some("not a host")).unwrap_err().contains("--endpoint not a host"));
        assert!(place.remove("tablet").unwrap_err().contains("no leaf \"tablet\""));
        assert_eq!(place.text(), before);
    }

    #[test]
    fn comments_and_what_stands_around_a_leaf_stay() {
        let key = "L2DOyEvC8LzHm92vnPNIaH0PiqPBQuSivtb2KkU441Q=";
        let leaf = format!("[[leaf]]\nname = \"old\"\nwireguard_key = \"{key}\"\nbabel = true # a router\n");
        let place = Place::new(&format!("\n{leaf}\n# the price\n[price]\nask = \"0\"\n"));
        let before = place.text();
        place.remove("old").unwrap();
        assert_eq!(place.text(), before.replace(&format!("\n{leaf}"), ""));
        let inline = Place::new("");
        let text = format!("leaf = [{{ name = \"old\", wireguard_key = \"{key}\", babel = true }}]\n{}", inline.text());
        fs::write(inline.path("w.toml"), &text).unwrap();
        let said = inline.remove("old");
        assert!(said.is_ok() || inline.text() == text, "{said:?}");
        assert!(Config::load(&inline.path("w.toml")).is_ok());
    }
}
