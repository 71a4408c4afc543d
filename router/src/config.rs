//! The config file of `waybill up`: TOML, read strictly.
//!
//! [`Config::load`] reads a file and reports all its mistakes at once, each with line and column, what is wrong and what
//! is allowed. What only makes sense together with the node's own keys is checked by [`Config::check_identity`].
//! [`OPTIONS`] is the one list of options; `waybill.example.toml` explains them to people, and a test keeps the two equal.

mod reader;
mod value;

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use metering::{Bytes, Identity, NodeCard, NodeId, SortedMap, WireguardKey, mesh_address, mesh_prefix};
use node::{LinkSensing, Prefix};
use thiserror::Error;

use self::reader::{Reader, Span, Spans, Table, integer, list, text, truth};
use crate::cli::Failure;
use crate::gateway::{self, Caps, Gateway, Hours, NotCarried, Pool};
use crate::identity::plain;
use crate::upstream::{DNS_PORT, SERVERS_MAX};

pub use self::reader::Mistake;
pub use self::value::{Amount, AmountError, Endpoint, parse_bytes, parse_duration, parse_prefix};

/// More than any community's file; a larger one is a mistaken path.
const FILE_LEN_MAX: u64 = 1 << 20;

/// The longest path of a Unix socket that every Linux accepts, with room for the suffix it is made under.
const SOCKET_PATH_LEN_MAX: usize = 100;

/// Interfaces on which neighbours are looked for: more than any router has, and a bound for what beacons cost.
const DISCOVERY_INTERFACES_MAX: usize = 16;

/// Addresses at which names are answered, besides the own one.
const NAMES_LISTEN_MAX: usize = 8;

/// Names out there that may have addresses of the house.
const NAMES_PRIVATE_MAX: usize = 16;

/// Everything `waybill up` was told. The parts compare equal when nothing in them changed, so that a reload can
/// leave the others alone.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it was read from.
    pub path: PathBuf,
    /// `[node]`
    pub node: NodeOptions,
    /// `[wireguard]`
    pub wireguard: WireguardOptions,
    /// `[quic]`; without it there are no QUIC links.
    pub quic: Option<QuicOptions>,
    /// `[discovery]`
    pub discovery: DiscoveryOptions,
    /// `[names]`; without it no names are answered.
    pub names: Option<NamesOptions>,
    /// `[routing]`
    pub routing: RoutingOptions,
    /// `[price]`
    pub price: PriceOptions,
    /// `[ledger]`; without it the node carries for free and pays nobody.
    pub ledger: Option<LedgerOptions>,
    /// `[community]`
    pub community: CommunityOptions,
    /// `[gateway]`; without it nobody is led to the Internet.
    pub gateway: Option<GatewayOptions>,
    /// `[internet]`; without it no gateway is used.
    pub internet: Option<InternetOptions>,
    /// `[[peer]]`, in the file's order.
    pub peers: Vec<Peer>,
    /// `[[leaf]]`, in the file's order.
    pub leaves: Vec<Leaf>,
    places: Places,
}

/// `[node]`: this router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeOptions {
    /// What people call this router.
    pub name: String,
    /// The key file.
    pub key_file: PathBuf,
    /// The directory of the journal.
    pub state_dir: PathBuf,
    /// The Unix socket that `waybill status` and its like talk to.
    pub control_socket: PathBuf,
    /// The TUN device.
    pub tun: String,
    /// The largest packet inside the mesh, in bytes.
    pub mtu: u16,
    /// Prefixes announced besides the node's own /48.
    pub announce: Vec<Prefix>,
    /// Whether the kernel is handed many packets at once where it can take them.
    pub offloads: bool,
    /// Threads that carry packets, at most [`WORKERS_MAX`](crate::router::WORKERS_MAX); zero is one for each processor.
    pub workers: usize,
    /// What is logged.
    pub log: LogLevel,
}

/// `[wireguard]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireguardOptions {
    /// The UDP address of WireGuard links.
    pub listen: SocketAddr,
}

/// `[quic]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuicOptions {
    /// The UDP address of QUIC links, dialled and accepted.
    pub listen: SocketAddr,
}

/// `[discovery]`: where neighbours are looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiscoveryOptions {
    /// Interfaces on which beacons are sent and heard, whether they are there or not.
    pub interfaces: Vec<String>,
}

/// `[names]`: where `NAME.mesh` is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamesOptions {
    /// The port at the router's own mesh address, UDP and TCP.
    pub port: u16,
    /// Addresses besides that.
    pub listen: Vec<SocketAddr>,
    /// Whom to ask for names outside of the mesh; empty: the gateway in use, if there is `[internet]`.
    pub upstream: Vec<IpAddr>,
    /// Names out there whose addresses may be of the house, with all below them.
    pub private: Vec<String>,
}

/// `[routing]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoutingOptions {
    /// Time between two Hellos on a link (RFC 8966, section 3.4.1).
    pub hello_interval: Duration,
    /// Time between two full Updates on a link (RFC 8966, section 3.7).
    pub update_interval: Duration,
}

/// `[price]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceOptions {
    /// Tokens asked of subscribers, per GiB, where there is no `fee`.
    pub ask: Amount,
    /// Tokens asked of subscribers, per GiB, on top of what the own way out of the mesh costs.
    pub fee: Option<Amount>,
    /// Tokens paid to providers, per GiB, at most.
    pub max: Amount,
    /// How far to carry on trust before the next receipt.
    pub window: Bytes,
    /// Tokens per GiB for which a route may be one hop longer.
    pub hop_worth: Amount,
    /// Tokens paid to providers in a day, at most.
    pub budget_day: Option<Amount>,
    /// Tokens paid to providers in a month, at most.
    pub budget_month: Option<Amount>,
}

/// `[ledger]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerOptions {
    /// Where the community's ledger is.
    pub place: LedgerPlace,
    /// Tokens locked into a new channel.
    pub deposit: Amount,
    /// Tokens earned from one neighbour before they are redeemed unasked.
    pub redeem_at: Amount,
    /// Whether neighbours keep copies of receipts for each other.
    pub watch: bool,
    /// How it is served to others, if it is.
    pub serve: Option<ServeOptions>,
}

/// `[community]`: for whom this router carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommunityOptions {
    /// Only for members, by the ledger; any member may link.
    pub members_only: bool,
    /// Where others reach this router, for invitations.
    pub endpoint: Option<Endpoint>,
}

/// How this router serves a ledger in a file of its own to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServeOptions {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The ledger's key file: it signs checkpoints, and proves who answers.
    pub key_file: PathBuf,
}

/// Where a ledger is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LedgerPlace {
    /// In an SQLite file of this machine.
    File(PathBuf),
    /// Served by another.
    #[cfg(feature = "ledger-remote")]
    Served(Box<ServedPlace>),
}

/// Where another machine serves a ledger.
#[cfg(feature = "ledger-remote")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedPlace {
    /// Where.
    pub address: ledger_client::Address,
    /// The key it has to hold.
    pub key: ledger_client::LogKey,
    /// Entry 0 of its log; without it the ledger has to be reached at the first start.
    pub founding: Option<Vec<u8>>,
    /// A PEM file of the authorities to believe instead that it is the right server.
    pub authorities: Option<PathBuf>,
}

/// `[gateway]`: others reach the Internet through this router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayOptions {
    /// The interface by which packets leave; without one, whatever the kernel's routes say.
    pub uplink: Option<String>,
    /// The TUN device of sessions.
    pub tun: String,
    /// Out of which clients have their IPv4 addresses.
    pub ipv4_pool: Pool,
    /// Name servers for clients; the first that others can be sent to counts.
    pub dns: Vec<IpAddr>,
    /// Clients at once, at most.
    pub clients_max: u16,
    /// Bytes, at most.
    pub caps: Caps,
    /// When it serves; without hours always.
    pub hours: Option<Hours>,
    /// What is not carried.
    pub refuse: Vec<NotCarried>,
    /// Whom to tell of abuse.
    pub contact: Option<String>,
}

impl GatewayOptions {
    /// Whether the kernel is set up for these as for others: the rest is taken in by a gateway that runs.
    pub(crate) fn is_in_kernel_as(&self, other: &Self) -> bool {
        let rest = |of: &Self| Self { caps: Caps::default(), hours: None, contact: None, ..of.clone() };
        rest(self) == rest(other)
    }
}

/// `[internet]`: this router reaches the Internet through gateways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InternetOptions {
    /// Which, those to be preferred first.
    pub gateways: Vec<Gateway>,
    /// The TUN device packets leave by.
    pub tun: String,
}

/// `[[peer]]`: a neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// What people call it here.
    pub name: String,
    /// Its keys.
    pub card: NodeCard,
    /// Where to find it; without one, it has to find us.
    pub endpoint: Option<Endpoint>,
    /// Where to find it by QUIC, if not at [`QUIC_PORT`] of the same host. See [`Peer::by_quic`].
    pub quic_endpoint: Option<Endpoint>,
    /// What carries the packets.
    pub link: LinkKind,
    /// What it is to us.
    pub role: Role,
    /// Babel's cost of the link at its best.
    pub cost: u16,
    /// How Babel measures it.
    pub sensing: LinkSensing,
}

/// `[[leaf]]`: a stock WireGuard client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// What people call it here.
    pub name: String,
    /// Its public key.
    pub wireguard_key: WireguardKey,
    /// Its addresses, out of our /48; none if it runs Babel.
    pub addresses: Vec<Prefix>,
    /// Its IPv4 address behind this router: what it sends out of the mesh leaves by the sessions of `[internet]`.
    pub ipv4: Option<Ipv4Addr>,
    /// Where to find it; without one, it has to find us.
    pub endpoint: Option<Endpoint>,
    /// Whether it runs a Babel daemon of its own inside the tunnel and announces its prefixes itself.
    pub babel: bool,
    /// Babel's cost of the link at its best.
    pub cost: u16,
}

/// Where neighbours are expected to serve QUIC: networks that block UDP seldom block this port.
pub const QUIC_PORT: u16 = 443;

impl Peer {
    /// Where to dial it for a QUIC connection, if that is known and QUIC may carry the link.
    pub fn by_quic(&self) -> Option<Endpoint> {
        let said = self.quic_endpoint.clone();
        match self.link {
            LinkKind::Wireguard => None,
            LinkKind::Quic => said.or_else(|| self.endpoint.clone()),
            LinkKind::Auto => said.or_else(|| Some(self.endpoint.as_ref()?.at_port(QUIC_PORT))),
        }
    }

    /// Where to find it by WireGuard, if that is known and WireGuard may carry the link.
    pub fn by_wireguard(&self) -> Option<&Endpoint> {
        self.endpoint.as_ref().filter(|_| self.link != LinkKind::Quic)
    }
}

/// What carries a link's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// WireGuard, and QUIC while WireGuard does not pass.
    Auto,
    /// WireGuard over UDP.
    Wireguard,
    /// QUIC datagrams.
    Quic,
}

impl LinkKind {
    /// Its name in the config file and in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Wireguard => "wireguard",
            Self::Quic => "quic",
        }
    }
}

impl Role {
    /// Its name in the config file and in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Provider => "provider",
            Self::Subscriber => "subscriber",
            Self::Peer => "peer",
        }
    }
}

/// What a neighbour is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// What follows from the ways out of the mesh: whoever's way out leads over the link, and costs something, pays.
    Auto,
    /// It carries for us and is paid.
    Provider,
    /// We carry for it and are paid.
    Subscriber,
    /// Neither pays.
    Peer,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// What stops the router.
    Error,
    /// What somebody should look at.
    Warn,
    /// What an operator would tell a friend.
    Info,
    /// Decisions.
    Debug,
    /// Every packet.
    Trace,
}

/// One option of the config file.
#[derive(Clone, Copy, Debug)]
pub struct OptionDoc {
    /// The table it stands in, as written: `[node]`, `[[peer]]`.
    pub table: &'static str,
    /// Its key.
    pub key: &'static str,
    /// What it may be, in words.
    pub allowed: &'static str,
    /// What it is when absent, in TOML.
    pub default: Option<&'static str>,
    /// Whether the table makes no sense without it.
    pub required: bool,
}

/// Every option, in the order of the example file.
pub const OPTIONS: &[OptionDoc] = &[
    required("[node]", "name", NAME),
    optional("[node]", "key_file", PATH, "\"/etc/waybill/key\""),
    optional("[node]", "state_dir", PATH, "\"/var/lib/waybill\""),
    optional("[node]", "control_socket", "an absolute path of at most 100 bytes", "\"/run/waybill/control.sock\""),
    optional("[node]", "tun", DEVICE, "\"waybill0\""),
    optional("[node]", "mtu", "1280 to 65000", "1420"),
    optional("[node]", "announce", "a list of IPv6 prefixes, such as [\"2001:db8:1::/64\"]", "[]"),
    optional("[node]", "offloads", "true or false", "true"),
    optional("[node]", "workers", "0 to 4", "0"),
    optional("[node]", "log", "\"error\", \"warn\", \"info\", \"debug\" or \"trace\"", "\"info\""),
    optional("[wireguard]", "listen", LISTEN, "\"[::]:51820\""),
    required("[quic]", "listen", "an IP address and a port, such as \"[::]:443\""),
    optional("[discovery]", "interfaces", "a list of at most 16 interfaces, such as [\"eth1\", \"mesh0\"]", "[]"),
    optional("[names]", "port", "1 to 65535", "53"),
    optional("[names]", "listen", "a list of at most 8 IP addresses with ports, such as [\"192.0.2.1:53\"]", "[]"),
    optional("[names]", "upstream", "a list of at most 3 IP addresses, such as [\"9.9.9.9\"]", "[]"),
    optional("[names]", "private", "a list of at most 16 names, such as [\"home.example.org\"]", "[]"),
    optional("[routing]", "hello_interval", "a time from \"100ms\" to \"60s\"", "\"1s\""),
    optional("[routing]", "update_interval", "a time from \"100ms\" to \"600s\"", "\"60s\""),
    optional("[price]", "ask", AMOUNT, "\"0\""),
    absent("[price]", "fee", AMOUNT),
    optional("[price]", "max", AMOUNT, "\"0\""),
    optional("[price]", "window", "a size from \"1 MiB\" to \"64 GiB\"", "\"64 MiB\""),
    optional("[price]", "hop_worth", AMOUNT, "\"0\""),
    absent("[price]", "budget_day", AMOUNT),
    absent("[price]", "budget_month", AMOUNT),
    absent("[ledger]", "path", PATH),
    absent("[ledger]", "url", "where the ledger is served, such as \"https://ledger.example:8443\""),
    absent("[ledger]", "key", "the served ledger's key, as `waybill ledger serve` says it"),
    absent("[ledger]", "founding", "the served ledger's founding in hexadecimal, as `waybill ledger serve` says it"),
    absent("[ledger]", "authorities", PATH),
    optional("[ledger]", "deposit", AMOUNT, "\"1\""),
    optional("[ledger]", "redeem_at", AMOUNT, "\"1\""),
    optional("[ledger]", "watch", "true or false", "true"),
    absent("[ledger]", "serve", LISTEN),
    absent("[ledger]", "serve_key", PATH),
    optional("[community]", "members_only", "true or false", "false"),
    absent("[community]", "endpoint", ENDPOINT),
    absent("[gateway]", "uplink", DEVICE),
    optional("[gateway]", "tun", DEVICE, "\"waybill-gw0\""),
    optional("[gateway]", "ipv4_pool", "a private IPv4 prefix of length 8 to 24", "\"100.64.0.0/10\""),
    optional("[gateway]", "dns", "a list of at most 4 IP addresses, such as [\"9.9.9.9\"]", "[]"),
    optional("[gateway]", "clients_max", "1 to 1000", "256"),
    absent("[gateway]", "cap_day", SIZE),
    absent("[gateway]", "cap_month", SIZE),
    absent("[gateway]", "client_cap_day", SIZE),
    absent("[gateway]", "client_cap_month", SIZE),
    absent("[gateway]", "hours", "two times of the day in UTC, such as \"08:00-22:00\""),
    optional(
        "[gateway]",
        "refuse",
        "a list of at most 16 ports, addresses or prefixes, such as [\"tcp/25\", \"198.51.100.0/24\", \"udp/53@192.0.2.1\"]",
        "[]",
    ),
    absent("[gateway]", "contact", "a text of at most 200 bytes, such as \"abuse@example.org\""),
    required("[internet]", "gateways", "a list of 1 to 8 names of [[peer]] tables, or addresses in the mesh"),
    optional("[internet]", "tun", DEVICE, "\"waybill-net0\""),
    required("[[peer]]", "name", NAME),
    required("[[peer]]", "card", "what `waybill key` prints on that router, \"waybill-card1:...\""),
    absent("[[peer]]", "endpoint", ENDPOINT),
    absent("[[peer]]", "quic_endpoint", "an IP address or host name and a port, such as \"mesh.example.org:443\""),
    optional("[[peer]]", "link", "\"auto\", \"wireguard\" or \"quic\"", "\"auto\""),
    optional("[[peer]]", "role", "\"auto\", \"provider\", \"subscriber\" or \"peer\"", "\"auto\""),
    optional("[[peer]]", "cost", "1 to 65534", "96"),
    optional("[[peer]]", "sensing", "\"measured\", \"wired\" or \"lossy\"", "\"measured\""),
    required("[[leaf]]", "name", NAME),
    required("[[leaf]]", "wireguard_key", "what `wg pubkey` prints for it, 44 characters of base64"),
    optional("[[leaf]]", "addresses", "a list of prefixes out of this router's /48 (see `waybill key`)", "[]"),
    absent("[[leaf]]", "ipv4", "a private IPv4 address, such as \"172.30.87.1\""),
    absent("[[leaf]]", "endpoint", ENDPOINT),
    optional("[[leaf]]", "babel", "true or false", "false"),
    optional("[[leaf]]", "cost", "1 to 65534", "96"),
];

const NAME: &str = "1 to 63 letters, digits and hyphens, beginning with a letter or digit, but not with 0x";
const PATH: &str = "an absolute path";
const DEVICE: &str = "1 to 15 letters, digits, hyphens, dots or underscores";
const SIZE: &str = "a size, such as \"50 GiB\"";
const LISTEN: &str = "an IP address and a port, such as \"[::]:51820\"";
const ENDPOINT: &str = "an IP address or host name and a port, such as \"mesh.example.org:51820\"";
const AMOUNT: &str = "an amount of tokens in quotes, such as \"0.25\"";

const fn required(table: &'static str, key: &'static str, allowed: &'static str) -> OptionDoc {
    OptionDoc { table, key, allowed, default: None, required: true }
}

const fn optional(table: &'static str, key: &'static str, allowed: &'static str, default: &'static str) -> OptionDoc {
    OptionDoc { table, key, allowed, default: Some(default), required: false }
}

const fn absent(table: &'static str, key: &'static str, allowed: &'static str) -> OptionDoc {
    OptionDoc { table, key, allowed, default: None, required: false }
}

impl OptionDoc {
    fn of(table: &str) -> impl Iterator<Item = &'static Self> {
        OPTIONS.iter().filter(move |option| option.table == table)
    }

    fn find(table: &str, key: &str) -> &'static Self {
        Self::of(table).find(|option| option.key == key).expect("every option that is read is in OPTIONS")
    }
}

/// Why there is no usable config.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {}", path.display(), plain(cause))]
    Unreadable {
        /// The config file.
        path: PathBuf,
        /// What the operating system said.
        cause: io::Error,
    },
    /// The file is not a config file at all.
    #[error("{} is no config file: {why}", path.display())]
    NotText {
        /// The config file.
        path: PathBuf,
        /// Too large, or not UTF-8.
        why: &'static str,
    },
    /// The file was read, and these things in it are wrong. At least one, in the order of the file.
    #[error("{}", list_mistakes(path, mistakes))]
    Refused {
        /// The config file.
        path: PathBuf,
        /// What is wrong in it.
        mistakes: Vec<Mistake>,
    },
}

fn list_mistakes(path: &Path, mistakes: &[Mistake]) -> String {
    let count = match mistakes.len() {
        1 => "a mistake".to_owned(),
        count => format!("{count} mistakes"),
    };
    let mut message = format!("{} has {count}", path.display());
    for mistake in mistakes {
        message.push_str(&format!("\n  {mistake}"));
    }
    message
}

impl ConfigError {
    /// What the owner can do about it.
    pub fn next_step(&self) -> String {
        match self {
            Self::Unreadable { .. } | Self::NotText { .. } => {
                "name the file with --config; waybill.example.toml explains every option".to_owned()
            }
            Self::Refused { path, .. } => {
                format!("correct it, then try it with `waybill up --config {} --check`", path.display())
            }
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(&error, error.next_step())
    }
}

/// Where the values stand that are checked against the node's own keys.
#[derive(Clone, Debug)]
struct Places {
    text: String,
    internet: Option<Span>,
    names: Option<Span>,
    peers: Vec<Spans>,
    leaves: Vec<Spans>,
}

impl Config {
    /// Reads and checks a config file.
    ///
    /// # Errors
    /// See [`ConfigError`]; all mistakes of the file come at once.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |cause| ConfigError::Unreadable { path: path.to_owned(), cause };
        let not_text = |why| ConfigError::NotText { path: path.to_owned(), why };
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(unreadable)?;
        file.take(FILE_LEN_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if u64::try_from(bytes.len()).is_ok_and(|len| len > FILE_LEN_MAX) {
            return Err(not_text("it is larger than 1 MiB"));
        }
        let text = String::from_utf8(bytes).map_err(|_| not_text("it is not UTF-8 text"))?;
        Self::parse(path, &text)
    }

    /// Checks the text of a config file; `path` is where it came from.
    ///
    /// # Errors
    /// [`ConfigError::Refused`] with all mistakes.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let refused = |mistakes| ConfigError::Refused { path: path.to_owned(), mistakes };
        let (mut reader, mut document) = Reader::new(text).map_err(refused)?;
        let mut table = |heading| reader.table(&mut document, heading);
        let node = table("[node]").unwrap_or_else(|| Table::absent("[node]"));
        let wireguard = table("[wireguard]").unwrap_or_else(|| Table::absent("[wireguard]"));
        let quic = table("[quic]");
        let discovery = table("[discovery]").unwrap_or_else(|| Table::absent("[discovery]"));
        let names = table("[names]");
        let routing = table("[routing]").unwrap_or_else(|| Table::absent("[routing]"));
        let price = table("[price]").unwrap_or_else(|| Table::absent("[price]"));
        let ledger = table("[ledger]");
        let community = table("[community]").unwrap_or_else(|| Table::absent("[community]"));
        let gateway = table("[gateway]");
        let internet = table("[internet]");
        let peers = reader.tables(&mut document, "[[peer]]");
        let leaves = reader.tables(&mut document, "[[leaf]]");
        reader.refuse_rest(document);

        let has_quic = quic.is_some();
        let has_ledger = ledger.is_some();
        let node = read_node(&mut reader, node);
        let wireguard = read_wireguard(&mut reader, wireguard);
        let quic = quic.map(|table| read_quic(&mut reader, table, wireguard.as_ref()));
        let names_place = names.as_ref().map(Table::start);
        let names = names.map(|table| read_names(&mut reader, table));
        let routing = read_routing(&mut reader, routing);
        let price = read_price(&mut reader, price, has_ledger);
        let ledger = ledger.map(|table| read_ledger(&mut reader, table));
        let community = read_community(&mut reader, community, has_ledger);
        let discovery = read_discovery(&mut reader, discovery, wireguard.as_ref(), community.as_ref());
        let peers: Vec<_> = peers.into_iter().filter_map(|table| read_peer(&mut reader, table, has_quic)).collect();
        let leaves: Vec<_> = leaves.into_iter().filter_map(|table| read_leaf(&mut reader, table)).collect();
        let gateway = gateway.map(|table| read_gateway(&mut reader, table, node.as_ref()));
        let internet_place = internet.as_ref().map(Table::start);
        let internet = internet.map(|table| read_internet(&mut reader, table, node.as_ref(), &peers));
        check_names(&mut reader, node.as_ref(), &peers, &leaves);
        check_keys(&mut reader, &peers, &leaves);
        check_leaf_addresses(&mut reader, &leaves);

        let whole = || {
            let (peers, peer_places) = peers.into_iter().unzip();
            let (leaves, leaf_places) = leaves.into_iter().unzip();
            Some(Self {
                path: path.to_owned(),
                node: node?,
                wireguard: wireguard?,
                quic: all_or_none(quic)?,
                discovery: discovery?,
                names: all_or_none(names)?,
                routing: routing?,
                price: price?,
                ledger: all_or_none(ledger)?,
                community: community?,
                gateway: all_or_none(gateway)?,
                internet: all_or_none(internet)?,
                peers,
                leaves,
                places: Places {
                    text: text.to_owned(),
                    internet: internet_place,
                    names: names_place,
                    peers: peer_places,
                    leaves: leaf_places,
                },
            })
        };
        let mistakes = reader.finish();
        match whole() {
            Some(config) if mistakes.is_empty() => Ok(config),
            _ => Err(refused(mistakes)),
        }
    }

    /// The text this was read from.
    pub(crate) fn text(&self) -> &str {
        &self.places.text
    }

    /// Where the leaf of this name stands in the text: from its heading to the end of the line of its last option.
    pub(crate) fn place_of_leaf(&self, name: &str) -> Option<Span> {
        let index = self.leaves.iter().position(|leaf| leaf.name == name)?;
        let (start, end) = self.places.leaves.get(index)?.whole();
        let line_end = self.text().get(end..)?.find('\n').map_or(self.text().len(), |newline| end + newline + 1);
        let line_start = self.text().get(..start)?.rfind('\n').map_or(0, |newline| newline + 1);
        Some(line_start..line_end)
    }

    /// Checks that a router is not at both ends: whoever is a gateway has a way out of its own.
    ///
    /// # Errors
    /// [`ConfigError::Refused`]
    pub fn check_ends(&self) -> Result<(), ConfigError> {
        let (Some(_), Some(at)) = (&self.gateway, &self.places.internet) else { return Ok(()) };
        let mut reader = Reader::resume(&self.places.text);
        reader.mistake(
            at,
            "[internet]: a router with a [gateway] reaches the Internet by its uplink; leave one of both out",
        );
        Err(ConfigError::Refused { path: self.path.clone(), mistakes: reader.finish() })
    }

    /// Checks what depends on the node's own keys: that no neighbour or leaf has them, and that the leaves' addresses
    /// are ours to give.
    ///
    /// # Errors
    /// [`ConfigError::Refused`] with all mistakes.
    pub fn check_identity(&self, identity: &Identity) -> Result<(), ConfigError> {
        let mut reader = Reader::resume(&self.places.text);
        let own_key = identity.wireguard_key();
        for (peer, spans) in self.peers.iter().zip(&self.places.peers) {
            if peer.card.account() == identity.node_id() || peer.card.wireguard() == own_key {
                reader.mistake(spans.of("card"), "[[peer]] card: this is this router's own card");
            }
        }
        for (leaf, spans) in self.leaves.iter().zip(&self.places.leaves) {
            if leaf.wireguard_key == own_key {
                reader.mistake(spans.of("wireguard_key"), "[[leaf]] wireguard_key: this is this router's own key");
            }
            for problem in foreign_addresses(&leaf.addresses, &own_key) {
                reader.mistake(spans.of("addresses"), format!("[[leaf]] addresses: {problem}"));
            }
        }
        let asks_itself =
            |names: &&NamesOptions| names.port == DNS_PORT && names.upstream.contains(&mesh_address(&own_key).into());
        if let (Some(_), Some(at)) = (self.names.as_ref().filter(asks_itself), &self.places.names) {
            reader.mistake(at, "[names] upstream: this router's own address is among them, and it would ask itself");
        }
        let mistakes = reader.finish();
        if mistakes.is_empty() { Ok(()) } else { Err(ConfigError::Refused { path: self.path.clone(), mistakes }) }
    }
}

/// A table that is absent is fine; one that is present but wrong is not.
fn all_or_none<T>(table: Option<Option<T>>) -> Option<Option<T>> {
    match table {
        Some(None) => None,
        Some(read) => Some(read),
        None => Some(None),
    }
}

fn foreign_addresses(addresses: &[Prefix], own_key: &WireguardKey) -> Vec<String> {
    let (address, len) = mesh_prefix(own_key);
    let home = Prefix::new(address, len).expect("a mesh prefix is a /48");
    let own = mesh_address(own_key);
    let mut problems = Vec::new();
    for prefix in addresses {
        if !home.covers(*prefix) {
            problems.push(format!("{prefix} is not part of this router's {home}"));
        } else if prefix.contains(own) {
            problems.push(format!("{prefix} holds this router's own address {own}"));
        }
    }
    problems
}

fn read_node(reader: &mut Reader<'_>, mut table: Table<'_>) -> Option<NodeOptions> {
    let name = reader.option(&mut table, "name", text(name));
    let key_file = reader.option(&mut table, "key_file", text(absolute_path));
    let state_dir = reader.option(&mut table, "state_dir", text(absolute_path));
    let control_socket = reader.option(&mut table, "control_socket", text(socket_path));
    let tun = reader.option(&mut table, "tun", text(device_name));
    let mtu = reader.option(&mut table, "mtu", integer(1280..=65000));
    let announce = reader.option(&mut table, "announce", list(announced_prefix));
    let offloads = reader.option(&mut table, "offloads", truth);
    let workers = reader.option(&mut table, "workers", integer(0..=4));
    let log = reader.option(&mut table, "log", text(log_level));
    reader.refuse_unknown(table);
    Some(NodeOptions {
        name: name?,
        key_file: key_file?,
        state_dir: state_dir?,
        control_socket: control_socket?,
        tun: tun?,
        mtu: mtu?,
        announce: announce?,
        offloads: offloads?,
        workers: workers?.into(),
        log: log?,
    })
}

fn read_wireguard(reader: &mut Reader<'_>, mut table: Table<'_>) -> Option<WireguardOptions> {
    let listen = reader.option(&mut table, "listen", text(listen_address));
    reader.refuse_unknown(table);
    Some(WireguardOptions { listen: listen? })
}

fn read_quic(
    reader: &mut Reader<'_>,
    mut table: Table<'_>,
    wireguard: Option<&WireguardOptions>,
) -> Option<QuicOptions> {
    if !cfg!(feature = "quic") {
        reader.mistake(&table.start(), "[quic]: this waybill was built without QUIC links");
    }
    let listen = reader.option(&mut table, "listen", text(listen_address));
    let spans = reader.refuse_unknown(table);
    let listen = listen?;
    if wireguard.is_some_and(|wireguard| wireguard.listen.port() == listen.port()) {
        let problem = format!("[quic] listen: port {} is WireGuard's already; give QUIC another", listen.port());
        reader.mistake(spans.of("listen"), problem);
    }
    Some(QuicOptions { listen })
}

fn read_discovery(
    reader: &mut Reader<'_>,
    mut table: Table<'_>,
    wireguard: Option<&WireguardOptions>,
    community: Option<&CommunityOptions>,
) -> Option<DiscoveryOptions> {
    let interfaces = reader.option(&mut table, "interfaces", list(device_name));
    let spans = reader.refuse_unknown(table);
    let interfaces = interfaces?;
    if interfaces.len() > DISCOVERY_INTERFACES_MAX {
        reader.mistake(spans.of("interfaces"), "[discovery] interfaces: there are more than 16");
    }
    if !interfaces.is_empty() && community.is_some_and(|community| !community.members_only) {
        let problem = "[discovery] interfaces: only members are let in unasked; set members_only = true in [community]";
        reader.mistake(spans.of("interfaces"), problem);
    }
    if !interfaces.is_empty() && wireguard.is_some_and(|wireguard| wireguard.listen.is_ipv4()) {
        let problem = "[discovery] interfaces: neighbours are met by their IPv6 addresses; listen at \"[::]:51820\" in [wireguard]";
        reader.mistake(spans.of("interfaces"), problem);
    }
    Some(DiscoveryOptions { interfaces })
}

fn read_names(reader: &mut Reader<'_>, mut table: Table<'_>) -> Option<NamesOptions> {
    let port = reader.option(&mut table, "port", integer(1..=65535));
    let listen = reader.option(&mut table, "listen", list(listen_address));
    let upstream = reader.option(&mut table, "upstream", list(str::parse::<IpAddr>));
    let private = reader.option(&mut table, "private", list(outside_name));
    let spans = reader.refuse_unknown(table);
    let (listen, upstream, private) = (listen?, upstream?, private?);
    if listen.len() > NAMES_LISTEN_MAX {
        reader.mistake(spans.of("listen"), "[names] listen: there are more than 8");
    }
    if upstream.len() > SERVERS_MAX {
        reader.mistake(spans.of("upstream"), "[names] upstream: there are more than 3");
    }
    if private.len() > NAMES_PRIVATE_MAX {
        reader.mistake(spans.of("private"), "[names] private: there are more than 16");
    }
    let answers = |server: &&IpAddr| {
        let own = |at: &SocketAddr| at.ip() == **server || at.ip().is_unspecified() && server.is_loopback();
        server.is_unspecified() || listen.iter().any(|at| at.port() == DNS_PORT && own(at))
    };
    if let Some(server) = upstream.iter().find(answers) {
        reader.mistake(
            spans.of("upstream"),
            format!("[names] upstream: {server} is this router, which would ask itself"),
        );
    }
    Some(NamesOptions { port: port?, listen, upstream, private })
}

/// A name, whatever its letters; a point at its end says nothing.
fn outside_name(text: &str) -> Result<String, &'static str> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let fits = name.len() <= 253 && name.split('.').all(|label| (1..=63).contains(&label.len()) && label.is_ascii());
    if fits { Ok(name.to_ascii_lowercase()) } else { Err("this is no name") }
}

fn read_routing(reader: &mut Reader<'_>, mut table: Table<'_>) -> Option<RoutingOptions> {
    let seconds = Duration::from_secs;
    let hello_interval = reader.option(&mut table, "hello_interval", text(|text| interval(text, seconds(60))));
    let update_interval = reader.option(&mut table, "update_interval", text(|text| interval(text, seconds(600))));
    reader.refuse_unknown(table);
    Some(RoutingOptions { hello_interval: hello_interval?, update_interval: update_interval? })
}

fn read_price(reader: &mut Reader<'_>, mut table: Table<'_>, has_ledger: bool) -> Option<PriceOptions> {
    let ask = reader.option(&mut table, "ask", text(str::parse::<Amount>));
    let fee = reader.option(&mut table, "fee", text(str::parse::<Amount>));
    let max = reader.option(&mut table, "max", text(str::parse::<Amount>));
    let window = reader.option(&mut table, "window", text(window));
    let hop_worth = reader.option(&mut table, "hop_worth", text(str::parse::<Amount>));
    let budget_day = reader.option(&mut table, "budget_day", text(str::parse::<Amount>));
    let budget_month = reader.option(&mut table, "budget_month", text(str::parse::<Amount>));
    let spans = reader.refuse_unknown(table);
    if fee.is_some() && ask.as_ref().is_some_and(|ask| !ask.is_zero()) {
        let problem =
            "[price] fee: what is asked is either `ask` or what the own way out costs and `fee`; leave one out";
        reader.mistake(spans.of("fee"), problem);
    }
    for (key, amount) in [("ask", &ask), ("fee", &fee), ("max", &max), ("hop_worth", &hop_worth)] {
        if !has_ledger && amount.as_ref().is_some_and(|amount| !amount.is_zero()) {
            let problem = format!("[price] {key}: without a [ledger] nothing can be paid; add one, or set \"0\"");
            reader.mistake(spans.of(key), problem);
        }
    }
    let (ask, max, window, hop_worth) = (ask?, max?, window?, hop_worth?);
    Some(PriceOptions { ask, fee, max, window, hop_worth, budget_day, budget_month })
}

fn read_ledger(reader: &mut Reader<'_>, mut table: Table<'_>) -> Option<LedgerOptions> {
    let place = read_place(reader, &mut table);
    let deposit = reader.option(&mut table, "deposit", text(positive_amount));
    let redeem_at = reader.option(&mut table, "redeem_at", text(positive_amount));
    let watch = reader.option(&mut table, "watch", truth);
    let is_served = place.as_ref().is_some_and(|place| !matches!(place, LedgerPlace::File(_)));
    let serve = read_serve(reader, &mut table, is_served);
    reader.refuse_unknown(table);
    Some(LedgerOptions { place: place?, deposit: deposit?, redeem_at: redeem_at?, watch: watch?, serve })
}

fn read_serve(reader: &mut Reader<'_>, table: &mut Table<'_>, is_served: bool) -> Option<ServeOptions> {
    let start = table.start();
    let said = ["serve", "serve_key"].map(|key| table.says(key));
    let listen = reader.option(table, "serve", text(str::parse::<SocketAddr>));
    let key_file = reader.option(table, "serve_key", text(absolute_path));
    if said.contains(&true) && !cfg!(feature = "ledger-serve") {
        reader.mistake(&start, "[ledger] serve: this waybill was built without serving ledgers");
    } else if said[0] != said[1] {
        reader.mistake(&start, "[ledger]: `serve` and `serve_key` belong together; give both, or neither");
    } else if said[0] && is_served {
        reader.mistake(&start, "[ledger] serve: only the ledger in a file of this machine, its `path`, can be served");
    }
    Some(ServeOptions { listen: listen?, key_file: key_file? })
}

fn read_community(reader: &mut Reader<'_>, mut table: Table<'_>, has_ledger: bool) -> Option<CommunityOptions> {
    let start = table.start();
    let members_only = reader.option(&mut table, "members_only", truth);
    let endpoint = reader.option(&mut table, "endpoint", text(str::parse::<Endpoint>));
    reader.refuse_unknown(table);
    if members_only == Some(true) && !has_ledger {
        reader.mistake(&start, "[community] members_only: who is a member stands in the ledger; add a [ledger]");
    }
    Some(CommunityOptions { members_only: members_only?, endpoint })
}

fn read_gateway(reader: &mut Reader<'_>, mut table: Table<'_>, node: Option<&NodeOptions>) -> Option<GatewayOptions> {
    let start = table.start();
    let uplink = reader.option(&mut table, "uplink", text(device_name));
    let tun = reader.option(&mut table, "tun", text(device_name));
    let ipv4_pool = reader.option(&mut table, "ipv4_pool", text(str::parse::<Pool>));
    let dns = reader.option(&mut table, "dns", list(str::parse::<IpAddr>));
    let clients_max = reader.option(&mut table, "clients_max", integer(1..=1000));
    let mut cap = |key| reader.option(&mut table, key, text(parse_bytes)).map(|cap| cap.get());
    let caps = Caps {
        day: cap("cap_day"),
        month: cap("cap_month"),
        client_day: cap("client_cap_day"),
        client_month: cap("client_cap_month"),
    };
    let hours = reader.option(&mut table, "hours", text(str::parse::<Hours>));
    let refuse = reader.option(&mut table, "refuse", list(str::parse::<NotCarried>));
    let contact = reader.option(&mut table, "contact", text(contact));
    let spans = reader.refuse_unknown(table);
    check_session_mtu(reader, "[gateway]", &start, node);
    let (dns, refuse) = (dns?, refuse?);
    if refuse.len() > gateway::REFUSE_MAX {
        reader.mistake(
            spans.of("refuse"),
            "[gateway] refuse: this is more than 16; larger prefixes and ranges of ports say the same",
        );
    }
    if !dns.is_empty() && !dns.iter().any(|server| server.is_ipv4() && !server.is_loopback()) {
        let problem = "[gateway] dns: clients can only be sent to an IPv4 address that is not this machine's loopback";
        reader.mistake(spans.of("dns"), problem);
    }
    Some(GatewayOptions {
        uplink,
        tun: tun?,
        ipv4_pool: ipv4_pool?,
        dns,
        clients_max: clients_max?,
        caps,
        hours,
        refuse,
        contact,
    })
}

fn read_internet(
    reader: &mut Reader<'_>,
    mut table: Table<'_>,
    node: Option<&NodeOptions>,
    peers: &[(Peer, Spans)],
) -> Option<InternetOptions> {
    let start = table.start();
    let gateways = reader.option(&mut table, "gateways", list(|text: &str| gateway_of(text, peers)));
    let tun = reader.option(&mut table, "tun", text(device_name));
    let spans = reader.refuse_unknown(table);
    check_session_mtu(reader, "[internet]", &start, node);
    let gateways = gateways?;
    let distinct: metering::SortedSet<Ipv6Addr> = gateways.iter().map(|gateway| gateway.address).collect();
    if !(1..=8).contains(&gateways.len()) || distinct.len() < gateways.len() {
        reader.mistake(spans.of("gateways"), "[internet] gateways: give 1 to 8 gateways, each once");
    }
    Some(InternetOptions { gateways, tun: tun? })
}

/// What a session adds has to fit: inside there is IPv6 too.
fn check_session_mtu(reader: &mut Reader<'_>, heading: &str, at: &Span, node: Option<&NodeOptions>) {
    let least = crate::tun::MTU_MIN + gateway::OVERHEAD;
    if node.is_some_and(|node| node.mtu < least) {
        reader.mistake(at, format!("{heading}: sessions need an mtu of at least {least} in [node]"));
    }
}

fn gateway_of(text: &str, peers: &[(Peer, Spans)]) -> Result<Gateway, &'static str> {
    if let Ok(address) = text.parse::<Ipv6Addr>() {
        let mesh = address.octets()[0] == 0xfd;
        let gateway = Gateway { name: text.to_owned(), address, key: None };
        return if mesh { Ok(gateway) } else { Err("this is no address in the mesh: those begin with fd") };
    }
    let peer = peers.iter().map(|(peer, _)| peer).find(|peer| peer.name == text);
    let peer = peer.ok_or("there is no [[peer]] of this name")?;
    let key = peer.card.wireguard();
    Ok(Gateway { name: text.to_owned(), address: mesh_address(&key), key: Some(key) })
}

fn contact(text: &str) -> Result<String, &'static str> {
    if text.len() > gateway::CONTACT_LEN_MAX || text.chars().any(char::is_control) {
        return Err("this is too long, or not one line of text");
    }
    Ok(text.to_owned())
}

#[cfg(feature = "ledger-remote")]
fn read_place(reader: &mut Reader<'_>, table: &mut Table<'_>) -> Option<LedgerPlace> {
    let start = table.start();
    let said = ["path", "url", "key", "founding", "authorities"].map(|key| table.says(key));
    let path = reader.option(table, "path", text(absolute_path));
    let address = reader.option(table, "url", text(str::parse::<ledger_client::Address>));
    let key = reader.option(table, "key", text(str::parse::<ledger_client::LogKey>));
    let founding = reader.option(table, "founding", text(hexadecimal));
    let authorities = reader.option(table, "authorities", text(absolute_path));
    match said {
        [true, false, false, false, false] => {
            if !cfg!(feature = "ledger-host") {
                let problem = "[ledger] path: this waybill was built without the embedded ledger; give `url` and `key`";
                reader.mistake(&start, problem);
            }
            path.map(LedgerPlace::File)
        }
        [false, true, true, ..] => {
            let served = ServedPlace { address: address?, key: key?, founding, authorities };
            Some(LedgerPlace::Served(Box::new(served)))
        }
        _ => {
            let problem = "[ledger]: give the ledger's `path`, or the `url` and the `key` of one that is served";
            reader.mistake(&start, problem);
            None
        }
    }
}

#[cfg(feature = "ledger-remote")]
fn hexadecimal(text: &str) -> Result<Vec<u8>, &'static str> {
    metering::json::read_hex(text).ok_or("it is no 0x and hexadecimal digits")
}

#[cfg(not(feature = "ledger-remote"))]
fn read_place(reader: &mut Reader<'_>, table: &mut Table<'_>) -> Option<LedgerPlace> {
    reader.mistake(&table.start(), "[ledger]: this waybill was built without a ledger");
    reader.option(table, "path", text(absolute_path)).map(LedgerPlace::File)
}

fn read_peer(reader: &mut Reader<'_>, mut table: Table<'_>, has_quic: bool) -> Option<(Peer, Spans)> {
    let name = reader.option(&mut table, "name", text(name));
    let card = reader.option(&mut table, "card", text(str::parse::<NodeCard>));
    let endpoint = reader.option(&mut table, "endpoint", text(str::parse::<Endpoint>));
    let quic_endpoint = reader.option(&mut table, "quic_endpoint", text(str::parse::<Endpoint>));
    let link = reader.option(&mut table, "link", text(link_kind));
    let role = reader.option(&mut table, "role", text(role));
    let cost = reader.option(&mut table, "cost", integer(1..=65534));
    let sensing = reader.option(&mut table, "sensing", text(sensing));
    let spans = reader.refuse_unknown(table);
    if link == Some(LinkKind::Quic) && !has_quic {
        reader.mistake(spans.of("link"), "[[peer]] link: \"quic\" needs a [quic] table with `listen`");
    }
    let link = link.map(|link| if link == LinkKind::Auto && !has_quic { LinkKind::Wireguard } else { link });
    if quic_endpoint.is_some() && link == Some(LinkKind::Wireguard) {
        let problem = "[[peer]] quic_endpoint: this link is WireGuard's alone; add a [quic] table and leave `link` out";
        reader.mistake(spans.of("quic_endpoint"), problem);
    }
    let peer = Peer {
        name: name?,
        card: card?,
        endpoint,
        quic_endpoint,
        link: link?,
        role: role?,
        cost: cost?,
        sensing: sensing?,
    };
    Some((peer, spans))
}

fn read_leaf(reader: &mut Reader<'_>, mut table: Table<'_>) -> Option<(Leaf, Spans)> {
    let name = reader.option(&mut table, "name", text(name));
    let wireguard_key = reader.option(&mut table, "wireguard_key", text(str::parse::<WireguardKey>));
    let addresses = reader.option(&mut table, "addresses", list(parse_prefix));
    let ipv4 = reader.option(&mut table, "ipv4", text(private_ipv4));
    let endpoint = reader.option(&mut table, "endpoint", text(str::parse::<Endpoint>));
    let babel = reader.option(&mut table, "babel", truth);
    let cost = reader.option(&mut table, "cost", integer(1..=65534));
    let spans = reader.refuse_unknown(table);
    let (named, babel) = (addresses.as_ref().map(|addresses| !addresses.is_empty()), babel?);
    match (named, babel) {
        (Some(false), false) => {
            let problem =
                "[[leaf]] addresses: a leaf without an address cannot be reached; give it one, or babel = true";
            reader.mistake(spans.of("addresses"), problem);
        }
        (Some(true), true) => {
            let problem = "[[leaf]] addresses: a leaf with babel = true announces its prefixes itself; leave them out";
            reader.mistake(spans.of("addresses"), problem);
        }
        (Some(true) | None, false) | (Some(false) | None, true) => {}
    }
    if ipv4.is_some() && babel {
        reader.mistake(spans.of("ipv4"), "[[leaf]] ipv4: a leaf with babel = true is a router; leave it out");
    }
    let leaf =
        Leaf { name: name?, wireguard_key: wireguard_key?, addresses: addresses?, ipv4, endpoint, babel, cost: cost? };
    Some((leaf, spans))
}

/// Nobody's on the Internet (RFC 1918), and not in the range that gateways give of.
fn private_ipv4(text: &str) -> Result<Ipv4Addr, &'static str> {
    let address: Ipv4Addr = text.parse().map_err(|_| "this is no IPv4 address")?;
    if address.is_private() { Ok(address) } else { Err("this address is not private") }
}

fn check_names(reader: &mut Reader<'_>, node: Option<&NodeOptions>, peers: &[(Peer, Spans)], leaves: &[(Leaf, Spans)]) {
    let mut taken: SortedMap<&str, &str> = node.map(|node| (node.name.as_str(), "this router")).into_iter().collect();
    let peers = peers.iter().map(|(peer, spans)| (peer.name.as_str(), "[[peer]]", "another peer", spans));
    let leaves = leaves.iter().map(|(leaf, spans)| (leaf.name.as_str(), "[[leaf]]", "another leaf", spans));
    for (name, heading, what, spans) in peers.chain(leaves) {
        if let Some(owner) = taken.get(name) {
            reader.mistake(spans.of("name"), format!("{heading} name: {owner} is called \"{name}\" already"));
        }
        taken.entry(name).or_insert(what);
    }
}

fn check_keys(reader: &mut Reader<'_>, peers: &[(Peer, Spans)], leaves: &[(Leaf, Spans)]) {
    let mut accounts: SortedMap<NodeId, &str> = SortedMap::new();
    let mut keys: SortedMap<[u8; 32], &str> = SortedMap::new();
    for (peer, spans) in peers {
        let same = accounts.get(&peer.card.account()).or_else(|| keys.get(&peer.card.wireguard().0));
        if let Some(other) = same {
            reader.mistake(spans.of("card"), format!("[[peer]] card: \"{other}\" has the same card or key already"));
        }
        accounts.entry(peer.card.account()).or_insert(&peer.name);
        keys.entry(peer.card.wireguard().0).or_insert(&peer.name);
    }
    for (leaf, spans) in leaves {
        if let Some(other) = keys.get(&leaf.wireguard_key.0) {
            let problem = format!("[[leaf]] wireguard_key: \"{other}\" has the same key already");
            reader.mistake(spans.of("wireguard_key"), problem);
        }
        keys.entry(leaf.wireguard_key.0).or_insert(&leaf.name);
    }
}

/// In the order of their first addresses, two prefixes overlap only if one begins inside the one before it that
/// reaches furthest.
fn check_leaf_addresses(reader: &mut Reader<'_>, leaves: &[(Leaf, Spans)]) {
    let mut all: Vec<(Prefix, &str, &Span)> = Vec::new();
    for (leaf, spans) in leaves {
        all.extend(leaf.addresses.iter().map(|prefix| (*prefix, leaf.name.as_str(), spans.of("addresses"))));
    }
    let mut ipv4: SortedMap<Ipv4Addr, &str> = SortedMap::new();
    for (leaf, spans) in leaves {
        if let Some(owner) = leaf.ipv4.and_then(|address| ipv4.insert(address, &leaf.name)) {
            reader.mistake(spans.of("ipv4"), format!("[[leaf]] ipv4: \"{owner}\" has this address already"));
        }
    }
    all.sort_by_key(|(prefix, _, span)| (*prefix, span.start));
    let mut widest: Option<(Prefix, &str)> = None;
    for (prefix, name, span) in all {
        match widest {
            Some((other, owner)) if other.covers(prefix) => {
                let problem = format!("[[leaf]] addresses: {prefix} of \"{name}\" overlaps {other} of \"{owner}\"");
                reader.mistake(span, problem);
            }
            _ => widest = Some((prefix, name)),
        }
    }
}

/// A name that is also a DNS label and cannot be mistaken for an id.
pub(crate) fn name(text: &str) -> Result<String, &'static str> {
    let fits = (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !text.starts_with('-')
        && !text.starts_with("0x");
    if fits { Ok(text.to_owned()) } else { Err("this cannot be a name") }
}

fn absolute_path(text: &str) -> Result<PathBuf, &'static str> {
    let path = PathBuf::from(text);
    if text.contains('\0') {
        Err("a path holds no zero byte")
    } else if path.is_absolute() {
        Ok(path)
    } else {
        Err("this path does not begin with /")
    }
}

fn socket_path(text: &str) -> Result<PathBuf, &'static str> {
    if text.len() > SOCKET_PATH_LEN_MAX { Err("this path is too long for a socket") } else { absolute_path(text) }
}

/// What Linux accepts as a device's name (`dev_valid_name`), less what a shell would trip over.
fn device_name(text: &str) -> Result<String, &'static str> {
    let fits = (1..=15).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        && !text.starts_with(['-', '.']);
    if fits { Ok(text.to_owned()) } else { Err("this cannot be the name of a device") }
}

fn listen_address(text: &str) -> Result<SocketAddr, &'static str> {
    let address: SocketAddr = text.parse().map_err(|_| "this is not an IP address and a port")?;
    if address.port() == 0 {
        Err("neighbours need a port that stays the same, 1 to 65535")
    } else if address.ip().is_multicast() {
        Err("this is a multicast address")
    } else {
        Ok(address)
    }
}

fn announced_prefix(text: &str) -> Result<Prefix, String> {
    let prefix = parse_prefix(text)?;
    let reserved = [
        (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8),
        (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10),
        (Ipv6Addr::LOCALHOST, 128),
    ];
    let is_reserved = |(address, len)| Prefix::new(address, len).is_some_and(|reserved| reserved.covers(prefix));
    if reserved.into_iter().any(is_reserved) { Err(format!("{prefix} cannot be routed")) } else { Ok(prefix) }
}

fn interval(text: &str, max: Duration) -> Result<Duration, &'static str> {
    let interval = parse_duration(text)?;
    if interval.as_millis() < 100 {
        Err("this is too short")
    } else if interval > max {
        Err("this is too long")
    } else {
        Ok(interval)
    }
}

fn window(text: &str) -> Result<Bytes, &'static str> {
    let window = parse_bytes(text)?;
    if window < Bytes::new(1 << 20) {
        Err("this is too small")
    } else if window > Bytes::new(64 << 30) {
        Err("this is too large")
    } else {
        Ok(window)
    }
}

fn positive_amount(text: &str) -> Result<Amount, &'static str> {
    let amount: Amount = text.parse()?;
    if amount.is_zero() { Err("this must be more than nothing") } else { Ok(amount) }
}

fn log_level(text: &str) -> Result<LogLevel, &'static str> {
    match text {
        "error" => Ok(LogLevel::Error),
        "warn" => Ok(LogLevel::Warn),
        "info" => Ok(LogLevel::Info),
        "debug" => Ok(LogLevel::Debug),
        "trace" => Ok(LogLevel::Trace),
        _ => Err("this is no log level"),
    }
}

fn link_kind(text: &str) -> Result<LinkKind, &'static str> {
    match text {
        "auto" => Ok(LinkKind::Auto),
        "wireguard" => Ok(LinkKind::Wireguard),
        "quic" => Ok(LinkKind::Quic),
        _ => Err("this is no kind of link"),
    }
}

fn sensing(text: &str) -> Result<LinkSensing, &'static str> {
    match text {
        "measured" => Ok(LinkSensing::Measured),
        "wired" => Ok(LinkSensing::TwoOutOfThree),
        "lossy" => Ok(LinkSensing::Etx),
        _ => Err("this is no kind of link sensing"),
    }
}

fn role(text: &str) -> Result<Role, &'static str> {
    match text {
        "auto" => Ok(Role::Auto),
        "provider" => Ok(Role::Provider),
        "subscriber" => Ok(Role::Subscriber),
        "peer" => Ok(Role::Peer),
        _ => Err("this is no role"),
    }
}

#[cfg(test)]
mod tests;
