//! The demo's mesh: nodes, links, hosts and ledger.

use std::fmt;
use std::fs;
use std::net::{Ipv6Addr, SocketAddr};
use std::ops::Deref;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use ledger_client::{Embedded, Genesis, Ledger, Totals, UnixTime, Verdict, fresh_nonce, system_clock};
use metering::{
    Bytes, ChannelId, Identity, Limits, NodeCard, NodeId, Offer, Price, Seed, SortedMap, Tokens, mesh_prefix,
};
use node::datapath::NextHop;
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;

use super::host::{self, Progress};
use super::{CUT_AT_PERCENT, File, reached};
use crate::cli::{DemoOptions, Failure};
use crate::config::{Endpoint, LinkKind, Peer, Role, RoutingOptions};
use crate::control::{LinkState, Meter, Receipts, Request, Response, Unit};
use crate::router::{BudgetLimits, Links, Money, Router, Setup};
use crate::tun::Local;

/// The token of the demo's community: six decimals, as most.
pub(super) const DECIMALS: u8 = 6;
pub(super) const SYMBOL: &str = "WAY";
/// What each household and relay starts with, 10 WAY.
const GRANT: Tokens = Tokens::new(10_000_000).expect("below 2^96");
/// Locked into each channel, 1 WAY.
const DEPOSIT: Tokens = Tokens::new(1_000_000).expect("below 2^96");
/// What the gateway asks per GiB: 0.10 WAY.
const GATEWAY_PRICE: Price = Price::new(100_000);
/// What a relay asks per GiB: 0.25 WAY, out of which it pays the gateway.
const RELAY_PRICE: Price = Price::new(250_000);
/// Carried on trust: small, so that many receipts are exchanged for a small file.
const WINDOW: Bytes = Bytes::from_mebibytes(8);
/// The largest packet: what WireGuard leaves of 1500 bytes over IPv6.
const MTU: u16 = 1420;

/// A node of the demo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Name {
    Gateway,
    Relay(u8),
    Household(u8),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway => f.write_str("gateway"),
            Self::Relay(number) => write!(f, "relay-{number}"),
            Self::Household(number) => write!(f, "household-{number}"),
        }
    }
}

impl Name {
    pub(super) fn role(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Relay(_) => "relay",
            Self::Household(_) => "household",
        }
    }

    /// What the node asks of its subscribers.
    pub(super) fn price(self) -> Price {
        match self {
            Self::Gateway => GATEWAY_PRICE,
            Self::Relay(_) => RELAY_PRICE,
            Self::Household(_) => Price::FREE,
        }
    }
}

/// A link of the demo: who subscribes to whom, over what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Link {
    pub(super) subscriber: Name,
    pub(super) provider: Name,
    pub(super) quic: bool,
}

impl Link {
    pub(super) fn kind(self) -> &'static str {
        if self.quic { "quic" } else { "wireguard" }
    }

    fn other(self, name: Name) -> Option<Name> {
        match name {
            name if name == self.subscriber => Some(self.provider),
            name if name == self.provider => Some(self.subscriber),
            _ => None,
        }
    }
}

/// Billed bytes and receipts of one node with one neighbour, over all its runs.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Carried {
    pub(super) bytes: u64,
    pub(super) signed: u64,
    pub(super) verified: u64,
}

struct Node {
    identity: Identity,
    router: Option<Router>,
    /// What the router's tasks run on.
    power: Option<Power>,
    wireguard: Option<SocketAddr>,
    quic: Option<SocketAddr>,
    /// The host's end of the node's own side, until a host takes it.
    wire: Option<UnixDatagram>,
    /// What earlier runs had carried.
    before: SortedMap<Name, Carried>,
}

/// A node's runtime. Dropping it is a power cut: its tasks end wherever they are.
struct Power(Option<Runtime>);

impl Drop for Power {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Deref for Power {
    type Target = Runtime;

    fn deref(&self) -> &Runtime {
        self.0.as_ref().expect("a runtime is there until it is dropped")
    }
}

/// Nodes, links, ledger, and the directory they live in.
pub(super) struct Mesh {
    nodes: SortedMap<Name, Node>,
    pub(super) links: Vec<Link>,
    pub(super) file: File,
    ledger: Embedded,
    directory: Directory,
}

/// A directory of our own, removed at the end.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        // What cannot be removed is in the system's temporary directory, which is cleaned anyway.
        let _left = fs::remove_dir_all(&self.0);
    }
}

impl Mesh {
    /// Makes keys, ledger and file from the seed, and starts every node.
    pub(super) async fn start(options: DemoOptions) -> Result<Self, Failure> {
        let directory = make_directory()?;
        let relays = [Name::Relay(1), Name::Relay(2)];
        let households: Vec<Name> = (1..=options.households).map(Name::Household).collect();
        let mut links: Vec<Link> = vec![
            Link { subscriber: relays[0], provider: Name::Gateway, quic: false },
            Link { subscriber: relays[1], provider: Name::Gateway, quic: cfg!(feature = "quic") },
        ];
        links.extend(
            households.iter().flat_map(|household| {
                relays.map(|relay| Link { subscriber: *household, provider: relay, quic: false })
            }),
        );
        let identity = |name: Name| Identity::new(&Seed::from_bytes(derive(options.seed, &name.to_string())));
        let names = [Name::Gateway].into_iter().chain(relays).chain(households.iter().copied());
        let nodes: SortedMap<Name, Node> = names.map(|name| (name, Node::new(identity(name)))).collect();
        let treasurer = Identity::new(&Seed::from_bytes(derive(options.seed, "treasurer")));
        let mut ledger = found_ledger(&directory.0, &treasurer)?;
        for node in nodes.iter().filter(|(name, _)| **name != Name::Gateway).map(|(_, node)| node) {
            ledger.mint(node.identity.node_id(), GRANT).map_err(|error| Failure::new(error, ""))?;
        }
        let mut bytes = vec![0; usize::try_from(options.bytes.get()).unwrap_or(usize::MAX)];
        fastrand::Rng::with_seed(options.seed).fill(&mut bytes);
        let mut mesh = Self { nodes, links, file: bytes.into(), ledger, directory };
        // Providers first: subscribers call them.
        for name in [Name::Gateway].into_iter().chain(relays).chain(households) {
            mesh.start_node(name).await?;
        }
        Ok(mesh)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = Name> + use<'_> {
        self.nodes.keys().copied()
    }

    pub(super) fn id(&self, name: Name) -> NodeId {
        self.nodes[&name].identity.node_id()
    }

    /// What a node began with.
    pub(super) fn granted(&self, name: Name) -> Tokens {
        if name == Name::Gateway { Tokens::ZERO } else { GRANT }
    }

    async fn start_node(&mut self, name: Name) -> Result<(), Failure> {
        let (local, wire) = host::wire().map_err(|error| Failure::new(format!("cannot make a wire: {error}"), ""))?;
        let setup = self.setup(name, local)?;
        let no_runtime = |error: std::io::Error| Failure::new(format!("cannot start: {error}"), "");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let power = Power(Some(runtime.map_err(no_runtime)?));
        let started = power.spawn(Router::start(setup)).await;
        let router = started.map_err(|error| Failure::new(format!("cannot start: {error}"), ""))??;
        if let Some(node) = self.nodes.get_mut(&name) {
            node.power = Some(power);
            node.wireguard = Some(router.wireguard_addr());
            node.quic = router.quic_addr();
            node.router = Some(router);
            node.wire = Some(wire);
        }
        Ok(())
    }

    fn setup(&self, name: Name, local: std::os::fd::OwnedFd) -> Result<Setup, Failure> {
        let node = &self.nodes[&name];
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let has_quic = self.links.iter().any(|link| link.quic && link.other(name).is_some());
        let price = name.price();
        let ledger = Embedded::open(&ledger_path(&self.directory.0), system_clock());
        Ok(Setup {
            name: name.to_string(),
            identity: node.identity.clone(),
            state_dir: self.directory.0.join(name.to_string()),
            mtu: MTU,
            announce: Vec::new(),
            // A node that comes back is found where it was.
            wireguard: node.wireguard.unwrap_or(any),
            // The relay that has a QUIC link dials: nobody needs to find it.
            quic: has_quic.then_some(any),
            routing: RoutingOptions {
                hello_interval: Duration::from_secs(1),
                update_interval: Duration::from_secs(60),
            },
            links: Links { peers: self.peers(name), leaves: Vec::new() },
            money: Money {
                unit: unit(),
                domain: self.ledger.genesis().domain(),
                offer: Offer { price_up: price, price_down: price, window: WINDOW, ..Offer::FREE },
                fee: None,
                limits: Limits { max_price: RELAY_PRICE },
                budget: BudgetLimits::default(),
                deposit: DEPOSIT,
                redeem_at: Tokens::ZERO,
                watch: true,
                hop_worth: 0,
            },
            look_ups: None,
            guests: Arc::default(),
            names: None,
            ledger: Some(Box::new(
                ledger.map_err(|error| Failure::new(error, ""))?.signed_by(node.identity.account().clone()),
            )),
            local: Local::packets(local),
            offloads: true,
            workers: 1,
            members_only: false,
            open: Vec::new(),
        })
    }

    fn peers(&self, name: Name) -> Vec<Peer> {
        let peers = self.links.iter().filter_map(|link| {
            let other = link.other(name)?;
            let provider = (other == link.provider).then_some(&self.nodes[&other]);
            let address = provider.and_then(|provider| if link.quic { provider.quic } else { provider.wireguard });
            Some(Peer {
                name: other.to_string(),
                card: *self.card(other),
                endpoint: address.map(Endpoint::Address),
                quic_endpoint: None,
                link: if link.quic { LinkKind::Quic } else { LinkKind::Wireguard },
                role: if other == link.provider { Role::Provider } else { Role::Subscriber },
                cost: 96,
                sensing: node::LinkSensing::Measured,
            })
        });
        peers.collect()
    }

    fn card(&self, name: Name) -> &NodeCard {
        self.nodes[&name].identity.card()
    }

    /// Asks one node; a node without power answers nothing.
    pub(super) async fn ask(&self, name: Name, request: Request) -> Response {
        match &self.nodes[&name].router {
            Some(router) => router.ask(request).await,
            None => Response::Done,
        }
    }

    async fn meters(&self, name: Name) -> Vec<Meter> {
        let Response::Meters(meters) = self.ask(name, Request::Meters).await else { return Vec::new() };
        meters.meters
    }

    /// Whether every link is up and every household's packets would reach the gateway.
    pub(super) async fn is_formed(&self) -> bool {
        for name in self.names() {
            let Response::Neighbours(neighbours) = self.ask(name, Request::Neighbours).await else { return false };
            if neighbours.iter().any(|neighbour| neighbour.state != LinkState::Up) {
                return false;
            }
            let agreed = self.meters(name).await.iter().all(|meter| meter.reported_sent_bytes.is_some());
            if !agreed || (name != Name::Gateway && self.next_hop(name).is_none()) {
                return false;
            }
        }
        true
    }

    /// The neighbour that a node's packets for the gateway go to.
    fn next_hop(&self, name: Name) -> Option<Name> {
        let router = self.nodes[&name].router.as_ref()?;
        let fib = router.fib();
        let next_hop = fib.borrow().lookup(self.address(Name::Gateway))?;
        // Links have the order of the configured peers.
        let order: Vec<Name> = self.links.iter().filter_map(|link| link.other(name)).collect();
        match next_hop {
            NextHop::Link(link) => order.get(link.index()).copied(),
            NextHop::Local | NextHop::Unreachable => None,
        }
    }

    pub(super) fn has_power(&self, name: Name) -> bool {
        self.nodes[&name].router.is_some()
    }

    /// A node's mesh address.
    fn address(&self, name: Name) -> Ipv6Addr {
        self.card(name).mesh_address()
    }

    /// A host's address in a node's LAN, subnet 1 of its /48.
    fn host_address(&self, name: Name) -> Ipv6Addr {
        let (prefix, _) = mesh_prefix(&self.nodes[&name].identity.wireguard_key());
        Ipv6Addr::from_bits(prefix.to_bits() | 1 << 64 | 2)
    }

    /// Lets every household download the file from the host behind the gateway.
    pub(super) fn download(&mut self) -> Download {
        let server = self.host_address(Name::Gateway);
        let stop = Arc::new(AtomicBool::new(false));
        let (file, connections) = (Arc::clone(&self.file), self.nodes.len());
        let served = self.take_wire(Name::Gateway).map(|wire| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || host::serve(wire, MTU.into(), server, &file, connections, &stop))
        });
        let households: Vec<Name> = self.names().filter(|name| name.role() == "household").collect();
        let len = self.file.len() as u64;
        let clients = households.into_iter().filter_map(|name| {
            let (wire, own) = (self.take_wire(name)?, self.host_address(name));
            let progress = Arc::new(Progress::default());
            progress.hold_at.store(len / 100 * CUT_AT_PERCENT, Ordering::Relaxed);
            progress.hold.store(true, Ordering::Relaxed);
            let watched = Arc::clone(&progress);
            let thread = std::thread::spawn(move || host::download(wire, MTU.into(), own, server, len, &watched));
            Some(Client { name, progress, thread })
        });
        Download { clients: clients.collect(), server: served, stop }
    }

    fn take_wire(&mut self, name: Name) -> Option<UnixDatagram> {
        self.nodes.get_mut(&name)?.wire.take()
    }

    /// The relay that most was carried through.
    pub(super) async fn busiest_relay(&self) -> Name {
        let mut busiest = (0, Name::Relay(1));
        for relay in [Name::Relay(1), Name::Relay(2)] {
            let bytes = self.carried(relay).await.values().map(|carried| carried.bytes).sum();
            busiest = busiest.max((bytes, relay));
        }
        busiest.1
    }

    /// Takes a node's power: nothing is settled, nobody is told.
    pub(super) async fn cut(&mut self, name: Name) {
        let carried = self.carried(name).await;
        if let Some(node) = self.nodes.get_mut(&name) {
            node.before = carried;
            node.power = None;
            if let Some(router) = node.router.take() {
                router.kill().await;
            }
        }
    }

    /// Gives it power again: same keys, same journal, same address.
    pub(super) async fn restart(&mut self, name: Name) -> Result<(), Failure> {
        self.start_node(name).await
    }

    /// Whether no household sends by this relay.
    pub(super) async fn avoids(&self, relay: Name) -> bool {
        let households = self.names().filter(|name| name.role() == "household");
        households.map(|household| self.next_hop(household)).all(|next| next.is_some_and(|next| next != relay))
    }

    /// What a node carried with each neighbour, over all its runs.
    pub(super) async fn carried(&self, name: Name) -> SortedMap<Name, Carried> {
        let mut all = self.nodes[&name].before.clone();
        let meters = self.meters(name).await;
        for other in self.links.iter().filter_map(|link| link.other(name)) {
            let carried = all.entry(other).or_default();
            if let Some(meter) = meters.iter().find(|meter| meter.neighbour == other.to_string()) {
                carried.bytes += meter.sent_bytes.get() + meter.received_bytes.get();
                carried.signed += meter.receipts_signed;
                carried.verified += meter.receipts_verified;
            }
        }
        all
    }

    /// Owed to a node and not signed for, and signed to it so far.
    pub(super) async fn claims(&self, name: Name) -> (Tokens, Tokens) {
        let sum = |sum: Tokens, amount: Tokens| sum.saturating_add(amount);
        let meters = self.meters(name).await;
        let earning = meters.iter().filter(|meter| meter.role == Role::Subscriber.name());
        let owed = earning.clone().map(|meter| meter.owed_to_us).fold(Tokens::ZERO, sum);
        (owed, earning.map(|meter| meter.signed).fold(Tokens::ZERO, sum))
    }

    /// What providers still count as owed, once every payer has signed for all it received and every receipt is on
    /// disk; `None` before that. Asking for a redemption makes nodes settle.
    pub(super) async fn unsigned(&self) -> Option<Tokens> {
        let (mut settled, mut owed) = (true, Tokens::ZERO);
        for name in self.names() {
            self.ask(name, Request::Redeem { neighbour: None }).await;
            let meters = self.meters(name).await;
            settled &=
                meters.iter().all(|meter| meter.reported_sent_bytes.is_some() && meter.owed_by_us == Tokens::ZERO);
            owed = meters.iter().fold(owed, |owed, meter| owed.saturating_add(meter.owed_to_us));
            settled &= self
                .receipts(name)
                .await
                .is_some_and(|receipts| receipts.receipts.iter().all(|receipt| receipt.durable >= receipt.amount));
        }
        settled.then_some(owed)
    }

    pub(super) async fn receipts(&self, name: Name) -> Option<Receipts> {
        let Response::Receipts(receipts) = self.ask(name, Request::Receipts).await else { return None };
        Some(receipts)
    }

    pub(super) fn totals(&mut self) -> Result<Totals, Failure> {
        self.ledger.totals().map_err(|error| Failure::new(error, ""))
    }

    pub(super) fn balance(&mut self, account: NodeId) -> Result<Tokens, Failure> {
        self.ledger.balance(account).map_err(|error| Failure::new(error, ""))
    }

    /// What was locked and redeemed on the channels of an account, by channel.
    pub(super) fn channels(&mut self, account: NodeId) -> Result<Vec<(ChannelId, ledger_client::Channel)>, Failure> {
        self.ledger.channels_of(account).map_err(|error| Failure::new(error, ""))
    }

    /// What an audit of the whole log finds.
    pub(super) fn audit(&mut self) -> Result<Option<String>, Failure> {
        match Ledger::audit(&mut self.ledger) {
            Ok(Verdict::Kept { .. }) => Ok(None),
            Ok(Verdict::Broken { difference }) => Ok(Some(difference)),
            Err(error) => Err(Failure::new(error, "")),
        }
    }

    pub(super) async fn stop(self) {
        for node in self.nodes.into_values() {
            if let Some(router) = node.router {
                router.stop().await;
            }
        }
    }
}

impl Node {
    fn new(identity: Identity) -> Self {
        Self { identity, router: None, power: None, wireguard: None, quic: None, wire: None, before: SortedMap::new() }
    }
}

/// The downloads in progress.
pub(super) struct Download {
    pub(super) clients: Vec<Client>,
    server: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

/// One household's download.
pub(super) struct Client {
    pub(super) name: Name,
    progress: Arc<Progress>,
    thread: JoinHandle<Option<[u8; 32]>>,
}

impl Client {
    /// Bytes received.
    pub(super) fn reached(&self) -> u64 {
        reached(&self.progress.bytes)
    }
}

impl Download {
    /// How far each has come.
    pub(super) fn each(&self) -> Vec<u64> {
        self.clients.iter().map(Client::reached).collect()
    }

    /// How far the slowest has come.
    pub(super) fn least(&self) -> u64 {
        self.clients.iter().map(Client::reached).min().unwrap_or(0)
    }

    /// Bytes received by all.
    pub(super) fn total(&self) -> u64 {
        self.clients.iter().map(Client::reached).sum()
    }

    /// Whether every household received, or holds all of the file, what was not under way to it at `then`.
    pub(super) fn is_past(&self, then: &[u64], file: u64) -> bool {
        let target = |then: u64| then.saturating_add(host::window(file) as u64).saturating_add(1).min(file);
        self.each().iter().zip(then).all(|(bytes, then)| *bytes >= target(*then))
    }

    /// Whether all wait for [`Self::go_on`].
    pub(super) fn is_waiting(&self) -> bool {
        self.clients.iter().all(|client| client.reached() >= reached(&client.progress.hold_at))
    }

    pub(super) fn go_on(&self) {
        for client in &self.clients {
            client.progress.hold.store(false, Ordering::Relaxed);
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        self.clients.iter().all(|client| client.thread.is_finished())
    }

    /// Ends the hosts. The SHA-256 of what each household received, or nothing where it did not finish.
    pub(super) fn finish(self) -> Vec<(Name, Option<[u8; 32]>)> {
        self.stop.store(true, Ordering::Relaxed);
        let hashes = self.clients.into_iter().map(|client| {
            client.progress.stop.store(true, Ordering::Relaxed);
            (client.name, client.thread.join().unwrap_or(None))
        });
        let hashes = hashes.collect();
        if self.server.is_some_and(|server| server.join().is_err()) {
            tracing::error!("the host behind the gateway had panicked");
        }
        hashes
    }
}

pub(super) fn unit() -> Unit {
    Unit { symbol: SYMBOL.to_owned(), decimals: DECIMALS }
}

/// 32 bytes of the seed's for one purpose.
fn derive(seed: u64, purpose: &str) -> [u8; 32] {
    Sha256::new().chain_update("waybill demo").chain_update(seed.to_be_bytes()).chain_update(purpose).finalize().into()
}

fn make_directory() -> Result<Directory, Failure> {
    let name = format!("waybill-demo-{}-{:08x}", std::process::id(), fastrand::u32(..));
    let path = std::env::temp_dir().join(name);
    fs::create_dir(&path).map_err(|error| {
        Failure::new(format!("cannot make {}: {error}", path.display()), "set TMPDIR to a directory you can write to")
    })?;
    Ok(Directory(path))
}

fn ledger_path(directory: &Path) -> PathBuf {
    directory.join("ledger.sqlite")
}

fn found_ledger(directory: &Path, treasurer: &Identity) -> Result<Embedded, Failure> {
    let now = system_clock()();
    let nonce = fresh_nonce().map_err(|error| Failure::new(error, ""))?;
    let founded = UnixTime::from_seconds(now.seconds());
    let genesis = Genesis::new("demo valley", SYMBOL, DECIMALS, treasurer.node_id(), founded, nonce);
    let genesis = genesis.map_err(|error| Failure::new(error, ""))?;
    let ledger = Embedded::create(&ledger_path(directory), &genesis, system_clock());
    Ok(ledger.map_err(|error| Failure::new(error, ""))?.signed_by(treasurer.account().clone()))
}
