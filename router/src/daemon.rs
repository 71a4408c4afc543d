//! `waybill up`: one router on a TUN device.
//!
//! ```text
//!   SIGTERM, SIGHUP        control socket
//!          |                     |
//!          v                     v
//!        main task ------> router::Router ------> FIB ------> kernel routes (netlink)
//! ```
//!
//! The kernel sends into the TUN what a route of ours covers, and nothing else: each prefix Babel selects becomes one
//! kernel route. A default route is not put into the kernel; the Internet is reached through a gateway session
//! ([`crate::gateway`]), whose thread this starts and stops.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ledger_client::Ledger;
#[cfg(feature = "ledger-remote")]
use ledger_client::Remote;
#[cfg(feature = "ledger-host")]
use ledger_client::{Embedded, system_clock};
use metering::{Identity, LedgerDomain, Limits, NodeId, Offer, Price, Tokens, WireguardKey};
use node::Prefix;
use node::beacon::Community;
use node::datapath::{Fib, NextHop, Service};
use node::names::Names;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::Metadata;
use tracing_subscriber::fmt::writer::MakeWriterExt;

use crate::cli::Failure;
use crate::config::{Amount, Config, LedgerPlace, LogLevel};
use crate::control::{
    ClientSessions, ControlSocket, GatewayState, InternetState, Refusal, Request, Response, ServerSessions, Unit,
};
use crate::discovery;
use crate::gateway::{self, Closed};
#[cfg(feature = "ledger-serve")]
use crate::hosting::Hosted;
use crate::identity;
use crate::look_up::LookUps;
use crate::names::{self, Zones};
use crate::netlink::{Netlink, NetlinkError};
use crate::router::{BudgetLimits, Guests, Links, Money, Registered, Router, Setup, StartError, WORKERS_MAX};
use crate::tun::Tun;
#[cfg(feature = "ledger-remote")]
use crate::{config::ServedPlace, served::served};

/// Decimals of amounts in the config file where no ledger says otherwise; only price 0 makes sense then.
const DECIMALS_WITHOUT_LEDGER: u8 = 6;
/// Metric of kernel routes into the mesh: behind the machine's own routes (Linux's default for IPv6 is 1024).
const ROUTE_METRIC: u32 = 2048;

/// How often the prices of ways to several gateways are looked at.
const PRICES_INTERVAL: Duration = Duration::from_secs(10);
/// How often it is looked whether the way out is still closed but for sessions.
const CLOSED_INTERVAL: Duration = Duration::from_secs(5);

/// Runs the router until it is told to stop, and leaves nothing behind. With `[internet]`, the way out is closed but for
/// sessions from here on, and opened again when the router was told to stop.
///
/// # Errors
/// What kept it from starting, with the next step.
pub fn up(config: Config, identity: Identity) -> Result<(), Failure> {
    start_log(config.node.log);
    let socket = ControlSocket::bind(&config.node.control_socket)?;
    if config.internet.is_none() {
        Closed::end_left();
        return run(&config, identity, &socket, None, None).map_err(|(failure, _)| failure);
    }
    let look_ups = LookUps::bind().map_err(|error| Failure::new(format!("cannot open a socket: {error}"), ""))?;
    let look_ups_port = look_ups.local_addr().map_err(|error| Failure::new(error, ""))?.port();
    let quic = config.quic.as_ref().map(|quic| quic.listen.port());
    let own = [Some(config.wireguard.listen.port()), quic, Some(look_ups_port)];
    let own: Vec<u16> = own.into_iter().flatten().filter(|port| *port > 0).collect();
    let mut closed = Closed::begin(&own).map_err(|error| Failure::new(&error, error.next_step()))?;
    match run(&config, identity, &socket, Some(look_ups), Some(&mut closed)) {
        Ok(()) => closed.end(),
        Err((failure, Started(true))) => {
            closed.stay();
            return Err(failure);
        }
        Err((failure, Started(false))) => {
            closed.failed();
            return Err(failure);
        }
    }
    Ok(())
}

/// Whether the router had started when it ended.
#[derive(Clone, Copy)]
struct Started(bool);

impl From<Failure> for (Failure, Started) {
    fn from(failure: Failure) -> Self {
        (failure, Started(false))
    }
}

fn run(
    config: &Config,
    identity: Identity,
    socket: &ControlSocket,
    look_ups: Option<UdpSocket>,
    mut closed: Option<&mut Closed>,
) -> Result<(), (Failure, Started)> {
    let ledger = open_ledger(config, &identity)?;
    let open = ledger_services(config, &identity);
    #[cfg(feature = "ledger-serve")]
    let _hosted = hosted(config)?;
    let money = money(config, ledger.as_deref())?;
    let tun = Tun::create(&config.node.tun, config.node.mtu, config.node.offloads)
        .map_err(|error| Failure::new(&error, error.next_step()))?;
    let local = tun.local().map_err(|error| Failure::new(error, ""))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        Failure::new(format!("cannot start: {error}"), "the system is out of memory or descriptors")
    })?;
    let beacons = discovery::Setup {
        interfaces: config.discovery.interfaces.clone(),
        identity: identity.clone(),
        community: config.ledger.as_ref().and_then(|_| Community::new(&money.domain.contract.0)),
        ports: (config.wireguard.listen.port(), config.quic.as_ref().map(|quic| quic.listen.port())),
        boot: 0,
    };
    let keys = config.gateway.is_some() || config.internet.is_some();
    let keys = keys.then(|| identity.clone());
    let guests = Arc::new(Guests::default());
    let registered = Registered::new(&config.node.name, identity.card().mesh_address());
    runtime.block_on(async {
        let setup = Setup {
            name: config.node.name.clone(),
            identity,
            state_dir: config.node.state_dir.clone(),
            mtu: config.node.mtu,
            announce: announced(config),
            wireguard: config.wireguard.listen,
            quic: config.quic.as_ref().map(|quic| quic.listen),
            routing: config.routing,
            links: links(config),
            money,
            ledger,
            local,
            offloads: config.node.offloads,
            workers: workers(config.node.workers),
            members_only: config.community.members_only,
            open,
            guests: Arc::clone(&guests),
            names: config.names.as_ref().map(|_| registered.clone()),
            look_ups: look_ups.map(LookUps::new).transpose().map_err(|error| Failure::new(error, ""))?,
        };
        let router = Router::start(setup).await.map_err(Failure::from)?;
        // A port that the system chose is known by now.
        if let Some(closed) = &mut closed {
            link_ports(&router)
                .into_iter()
                .try_for_each(|port| closed.pass(port))
                .map_err(|error| Failure::new(&error, error.next_step()))?;
        }
        if !beacons.interfaces.is_empty() {
            tokio::spawn(discovery::run(discovery::Setup { boot: router.boot(), ..beacons }, router.found()));
        }
        let (names, zone) = watch::channel(names::zone(config, router.address()));
        if let Some(options) = &config.names {
            let ours = SocketAddr::new(router.address().into(), options.port);
            for at in options.listen.iter().copied().chain([ours]) {
                tokio::spawn(names::serve(at, Zones { own: zone.clone(), community: registered.clone() }));
            }
        }
        let mesh_alone = config.internet.is_some();
        let kernel = KernelRoutes::new(tun.index(), config.node.mtu, router.address(), mesh_alone);
        let kernel = kernel.map_err(|error| Failure::new(&error, error.next_step()));
        // The sessions' sockets are at the address that the TUN has by now.
        let ready = kernel
            .and_then(|kernel| Ok((kernel, Sessions::start(config, keys.as_ref(), &guests, &link_ports(&router))?)));
        let ended = match ready {
            Ok((kernel, sessions)) => {
                let ended = serve(config, &router, socket, kernel, (&names, &sessions), closed).await;
                sessions.stop();
                ended.map_err(|failure| (failure, Started(true)))
            }
            Err(failure) => Err(failure.into()),
        };
        router.stop().await;
        ended
    })
}

/// The UDP ports that links send from.
fn link_ports(router: &Router) -> Vec<u16> {
    std::iter::once(router.wireguard_addr()).chain(router.quic_addr()).map(|at| at.port()).collect()
}

/// What this router announces besides its own /48: a gateway offers the Internet.
fn announced(config: &Config) -> Vec<Prefix> {
    let mut announced = config.node.announce.clone();
    if let Some(internet) = Prefix::new(Ipv6Addr::UNSPECIFIED, 0).filter(|all| !announced.contains(all))
        && config.gateway.is_some()
    {
        announced.push(internet);
    }
    announced
}

/// Gateway sessions: of others with us, or ours with others.
#[derive(Default)]
struct Sessions {
    gateway: Option<gateway::Server>,
    internet: Option<gateway::Client>,
}

impl Sessions {
    fn start(
        config: &Config,
        identity: Option<&Identity>,
        guests: &Arc<Guests>,
        ports: &[u16],
    ) -> Result<Self, Failure> {
        let Some(identity) = identity else { return Ok(Self::default()) };
        let us = identity.node_id();
        let gateway = |options| gateway::Server::start(options, identity, &config.node, may_use(config, us, guests));
        let internet = |options| gateway::Client::start(options, identity, &config.node, ports);
        Ok(Self {
            gateway: config.gateway.as_ref().map(gateway).transpose()?,
            internet: config.internet.as_ref().map(internet).transpose()?,
        })
    }

    fn shown(&self) -> Shown {
        Shown {
            gateway: self.gateway.as_ref().map(gateway::Server::state),
            internet: self.internet.as_ref().map(gateway::Client::state),
        }
    }

    fn stop(self) {
        if let Some(gateway) = self.gateway {
            gateway.stop();
        }
        if let Some(internet) = self.internet {
            internet.stop();
        }
    }
}

/// Who may use the gateway, and whose caps are its own: neighbours that the owner wrote down, and members of a community where
/// only those are carried for. Where that is no condition, anybody may.
fn may_use(config: &Config, us: NodeId, guests: &Arc<Guests>) -> gateway::MayUse {
    let written: BTreeMap<WireguardKey, NodeId> =
        config.peers.iter().map(|peer| (peer.card.wireguard(), peer.card.account())).collect();
    let (members_only, guests) = (config.community.members_only, Arc::clone(guests));
    // As with links: a router that is no member itself bars nobody its owner wrote down.
    Box::new(move |key, shown| {
        let account = written.get(key).copied().or(shown);
        match account {
            Some(account) if members_only && guests.is_member(account) => gateway::Verdict::Known(account),
            Some(account) if written.contains_key(key) && !(members_only && guests.is_member(us)) => {
                gateway::Verdict::Known(account)
            }
            _ if members_only => gateway::Verdict::Refused,
            Some(_) | None => gateway::Verdict::Anybody,
        }
    })
}

/// What they show to people.
#[derive(Clone)]
struct Shown {
    gateway: Option<Arc<Mutex<GatewayState>>>,
    internet: Option<Arc<Mutex<InternetState>>>,
}

impl Shown {
    fn gateway(&self) -> Response {
        let absent = || absent("this router is no gateway", "add a [gateway] table to its config file");
        let state = self.gateway.as_ref().map(|state| state.lock().unwrap_or_else(PoisonError::into_inner).clone());
        state.map_or_else(absent, |state| Response::Gateway(Box::new(state)))
    }

    /// The router's answer, with what it does not know.
    fn with_sessions(&self, answer: Response) -> Response {
        let Response::Status(mut status) = answer else { return answer };
        let gateway = self.gateway.as_ref().map(|state| state.lock().unwrap_or_else(PoisonError::into_inner));
        let internet = self.internet.as_ref().map(|state| state.lock().unwrap_or_else(PoisonError::into_inner));
        status.gateway = gateway.as_deref().map(ServerSessions::from);
        status.internet = internet.as_deref().map(ClientSessions::from);
        Response::Status(status)
    }

    fn internet(&self) -> Response {
        let absent = || absent("this router uses no gateway", "add an [internet] table to its config file");
        let state = self.internet.as_ref().map(|state| state.lock().unwrap_or_else(PoisonError::into_inner).clone());
        state.map_or_else(absent, |state| Response::Internet(Box::new(state)))
    }
}

fn absent(cause: &str, next: &str) -> Response {
    Response::Failed(Refusal { cause: cause.to_owned(), next: Some(next.to_owned()) })
}

/// What the ways to the gateways cost, where the routing table says so.
async fn prices(router: &Router, gateways: &[gateway::Gateway]) -> Vec<Option<u64>> {
    let Response::Routes(table) = router.ask(Request::Routes).await else { return vec![None; gateways.len()] };
    let price = |gateway: &gateway::Gateway| {
        let home = Prefix::new(gateway.address, 48)?.to_string();
        table.routes.iter().find(|route| route.selected && route.prefix == home)?.price
    };
    gateways.iter().map(price).collect()
}

/// What a client of the control socket may order, and where it is told that it is done, or begun.
struct Order {
    stop: bool,
    done: oneshot::Sender<Response>,
}

/// How long a router that stops still answers: whoever ordered it is to hear so.
const LAST_ANSWERS: Duration = Duration::from_millis(200);

/// Answers, follows the table and waits for signals, until it is time to stop.
async fn serve(
    config: &Config,
    router: &Router,
    socket: &ControlSocket,
    mut kernel: KernelRoutes,
    (names, sessions): (&watch::Sender<Names>, &Sessions),
    mut closed: Option<&mut Closed>,
) -> Result<(), Failure> {
    let no_signals = |error: io::Error| Failure::new(format!("cannot receive signals: {error}"), "");
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(no_signals)?;
    let (orders, mut ordered) = mpsc::channel(1);
    let (asker, shown) = (router.asker(), sessions.shown());
    let answers = socket.serve(move |request| {
        let (orders, asker, shown) = (orders.clone(), asker.clone(), shown.clone());
        async move {
            let stop = match request {
                Request::Gateway => return shown.gateway(),
                Request::Internet => return shown.internet(),
                Request::Reload => false,
                Request::Shutdown => true,
                Request::Status => {
                    let answer = asker.ask(request).await;
                    return shown.with_sessions(answer);
                }
                Request::Neighbours
                | Request::Routes
                | Request::Meters
                | Request::Why { .. }
                | Request::Statement { .. }
                | Request::Receipts
                | Request::Redeem { .. }
                | Request::Close { .. }
                | Request::Wallet => return asker.ask(request).await,
            };
            let (done, answer) = oneshot::channel();
            let stopping = || absent("the router is stopping", "start it again with `waybill up`");
            if orders.send(Order { stop, done }).await.is_err() {
                return stopping();
            }
            answer.await.unwrap_or_else(|_| stopping())
        }
    });
    let mut answers = std::pin::pin!(answers);
    let (mut fib, mut endpoints) = (router.fib(), router.endpoints());
    tracing::info!(
        name = %config.node.name,
        address = %router.address(),
        tun = %config.node.tun,
        wireguard = %router.wireguard_addr(),
        "waybill is up"
    );
    kernel.follow(&fib.borrow_and_update().clone(), &endpoints.borrow_and_update().clone());
    let mut prices_due = tokio::time::interval(PRICES_INTERVAL);
    let mut closed_due = tokio::time::interval(CLOSED_INTERVAL);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {
                let _logged = reload(config, router, names).await;
            }
            Some(Order { stop, done }) = ordered.recv() => {
                let answer = if stop { Response::Done } else { reload(config, router, names).await };
                // Whoever asked may have gone.
                let _gone = done.send(answer);
                if stop {
                    let _ended = tokio::time::timeout(LAST_ANSWERS, &mut answers).await;
                    break;
                }
            }
            Ok(()) = fib.changed() => kernel.follow(&fib.borrow_and_update().clone(), &endpoints.borrow().clone()),
            Ok(()) = endpoints.changed() => {
                kernel.follow(&fib.borrow().clone(), &endpoints.borrow_and_update().clone());
            }
            _ = closed_due.tick() => {
                if let Some(closed) = &mut closed {
                    closed.look();
                }
            }
            _ = prices_due.tick() => {
                if let (Some(internet), Some(options)) = (&sessions.internet, &config.internet)
                    && options.gateways.len() > 1
                {
                    internet.set_prices(prices(router, &options.gateways).await);
                }
            }
            ended = &mut answers => {
                return ended.map_err(|error| Failure::new(format!("the control socket failed: {error}"), ""));
            }
        }
    }
    tracing::info!(name = %config.node.name, "waybill stops");
    Ok(())
}

/// Reads the file again, and says when the links are as it says. A file with mistakes changes nothing; options that need a restart
/// are named.
async fn reload(running: &Config, router: &Router, names: &watch::Sender<Names>) -> Response {
    let config = match read_again(running) {
        Ok(config) => config,
        Err(failure) => {
            tracing::error!("the configuration is kept as it was: {failure}");
            let cause = format!("the configuration is kept as it was: {failure}");
            return absent(&cause, "correct the file, and reload again");
        }
    };
    let fixed = [
        ("[node]", config.node == running.node),
        ("[wireguard]", config.wireguard == running.wireguard),
        ("[quic]", config.quic == running.quic),
        ("[discovery]", config.discovery == running.discovery),
        ("[names]", config.names == running.names),
        ("[routing]", config.routing == running.routing),
        ("[price]", config.price == running.price),
        ("[ledger]", config.ledger == running.ledger),
        ("[community]", config.community == running.community),
        ("[gateway]", config.gateway == running.gateway),
        ("[internet]", config.internet == running.internet),
    ];
    for (table, _) in fixed.iter().filter(|(_, same)| !same) {
        tracing::warn!("{table} has changed: that takes effect at the next start");
    }
    names.send_replace(names::zone(&config, router.address()));
    router.reload(links(&config)).await;
    Response::Done
}

/// The file as it stands, checked as at the start: a leaf's addresses have to be ours to give.
fn read_again(running: &Config) -> Result<Config, Failure> {
    let config = Config::load(&running.path)?;
    config.check_identity(&identity::load(&running.node.key_file)?)?;
    Ok(config)
}

fn links(config: &Config) -> Links {
    Links { peers: config.peers.clone(), leaves: config.leaves.clone() }
}

#[cfg_attr(
    not(feature = "ledger-remote"),
    expect(unused_variables, reason = "without a ledger nothing is signed for one")
)]
fn open_ledger(config: &Config, identity: &Identity) -> Result<Option<Box<dyn Ledger>>, Failure> {
    let Some(options) = &config.ledger else { return Ok(None) };
    match &options.place {
        #[cfg(feature = "ledger-host")]
        LedgerPlace::File(path) => {
            let ledger = Embedded::open(path, system_clock()).map_err(|error| {
                let next = "make it with `waybill ledger create`, or correct [ledger] path in the config file";
                Failure::new(format!("cannot open the ledger: {error}"), next)
            })?;
            Ok(Some(Box::new(ledger.signed_by(identity.account().clone()))))
        }
        #[cfg(not(feature = "ledger-host"))]
        LedgerPlace::File(_) => {
            Err(Failure::new("this build cannot host a ledger", "leave `path` in [ledger] out of the config file"))
        }
        #[cfg(feature = "ledger-remote")]
        LedgerPlace::Served(place) => {
            let ServedPlace { address, key, founding, authorities } = place.as_ref();
            let served = served(address, key, founding.as_deref(), authorities.as_deref())?;
            let state = config.node.state_dir.join(key.name().replace('/', "-"));
            let ledger = Remote::open(served, &state).map_err(|error| {
                let next = "without `founding` in [ledger] it has to be reached at the first start; `waybill ledger serve` says both";
                Failure::new(format!("cannot use the ledger: {error}"), next)
            })?;
            Ok(Some(Box::new(ledger.signed_by(identity.account().clone()))))
        }
    }
}

/// What is open to those who are no members: where the ledger is served, in the mesh.
fn ledger_services(config: &Config, identity: &Identity) -> Vec<Service> {
    let Some(ledger) = &config.ledger else { return Vec::new() };
    match &ledger.place {
        LedgerPlace::File(_) => {
            let port = ledger.serve.as_ref().map(|serve| serve.listen.port());
            port.map(|port| (metering::mesh_address(&identity.wireguard_key()), port)).into_iter().collect()
        }
        #[cfg(feature = "ledger-remote")]
        LedgerPlace::Served(place) => {
            let address = place.address.ip().and_then(in_mesh);
            address.map(|address| (address, place.address.port())).into_iter().collect()
        }
    }
}

#[cfg(feature = "ledger-remote")]
fn in_mesh(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V6(address) if address.is_unique_local() => Some(address),
        IpAddr::V6(_) | IpAddr::V4(_) => None,
    }
}

/// Serves the ledger to others, where the owner says so.
#[cfg(feature = "ledger-serve")]
fn hosted(config: &Config) -> Result<Option<Hosted>, Failure> {
    let options = config.ledger.as_ref().and_then(|ledger| Some((&ledger.place, ledger.serve.as_ref()?)));
    match options {
        Some((LedgerPlace::File(path), options)) => Hosted::start(path, options).map(Some),
        Some((LedgerPlace::Served(_), _)) | None => Ok(None),
    }
}

fn money(config: &Config, ledger: Option<&dyn Ledger>) -> Result<Money, Failure> {
    let (unit, domain) = match ledger {
        Some(ledger) => {
            let genesis = ledger.genesis();
            (Unit { symbol: genesis.symbol().to_owned(), decimals: genesis.decimals() }, genesis.domain())
        }
        None => (
            Unit { symbol: String::new(), decimals: DECIMALS_WITHOUT_LEDGER },
            LedgerDomain { chain_id: 0, contract: NodeId([0; 20]) },
        ),
    };
    let tokens = |option: &str, amount: &Amount| -> Result<Tokens, Failure> {
        amount
            .in_base_units(unit.decimals)
            .map_err(|error| Failure::new(format!("{option} in {}: {error}", config.path.display()), ""))
    };
    let price = |option: &str, amount: &Amount| -> Result<Price, Failure> {
        let tokens = tokens(option, amount)?;
        let price = u64::try_from(tokens.get())
            .map_err(|_| Failure::new(format!("{option} in {} is too large", config.path.display()), ""))?;
        Ok(Price::new(price))
    };
    let ask = price("ask in [price]", &config.price.ask)?;
    let budget = |option: &str, amount: Option<&Amount>| amount.map(|amount| tokens(option, amount)).transpose();
    let (deposit, redeem_at) = match &config.ledger {
        Some(ledger) => {
            (tokens("deposit in [ledger]", &ledger.deposit)?, tokens("redeem_at in [ledger]", &ledger.redeem_at)?)
        }
        None => (Tokens::ZERO, Tokens::ZERO),
    };
    // A price that silently chooses nothing would be worse than a refusal.
    let hop_worth = u32::try_from(tokens("hop_worth in [price]", &config.price.hop_worth)?.get()).map_err(|_| {
        let most =
            format!("routing counts prices up to {} base units per GiB; set a smaller hop_worth, or \"0\"", u32::MAX);
        Failure::new(format!("hop_worth in [price] in {} is too large", config.path.display()), most)
    })?;
    Ok(Money {
        offer: Offer {
            price_up: ask,
            price_down: ask,
            window: config.price.window,
            loss_allowance_ppm: Offer::DEFAULT_LOSS_ALLOWANCE_PPM,
        },
        fee: config.price.fee.as_ref().map(|fee| price("fee in [price]", fee)).transpose()?,
        limits: Limits { max_price: price("max in [price]", &config.price.max)? },
        budget: BudgetLimits {
            day: budget("budget_day in [price]", config.price.budget_day.as_ref())?,
            month: budget("budget_month in [price]", config.price.budget_month.as_ref())?,
        },
        hop_worth,
        unit,
        domain,
        deposit,
        redeem_at,
        watch: config.ledger.as_ref().is_some_and(|ledger| ledger.watch),
    })
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let next = match &error {
            StartError::WireGuard { .. } => "is another program using the port? set another listen in [wireguard]",
            #[cfg(feature = "quic")]
            StartError::Quic(_) => "is another program using the port? set another listen in [quic]",
            StartError::NoQuic => "leave [quic] out of the config file, or use a build with the feature `quic`",
            StartError::Journal(error) => return Self::new(error, error.next_step()),
            StartError::StateDir { .. } => "set a state_dir in [node] that this user may make",
            StartError::Worker(_) => "the system is out of memory or descriptors",
            StartError::TooManyLinks { .. } => "take some [[peer]] or [[leaf]] tables out of the config file",
        };
        Self::new(&error, next)
    }
}

pub(crate) fn start_log(level: LogLevel) {
    let level = match level {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Trace => tracing::Level::TRACE,
    };
    // The noise library warns of each repeated handshake: a neighbour that is away is no operator's business.
    let wanted = move |event: &Metadata<'_>| level >= tracing::Level::DEBUG || !event.target().starts_with("boringtun");
    let writer = io::stderr.with_filter(wanted);
    // A second start in one process keeps the first one's log.
    let _kept = tracing_subscriber::fmt().with_max_level(level).with_writer(writer).with_ansi(false).try_init();
}

/// The kernel's routes into the TUN: what the table sends over links.
struct KernelRoutes {
    netlink: Netlink,
    index: u32,
    /// Where the Internet is reached by sessions, whoever announces a part of it does not get its packets.
    mesh_alone: bool,
    installed: BTreeSet<Prefix>,
    /// Left out, since a neighbour is reached through them.
    refused: BTreeSet<Prefix>,
}

impl KernelRoutes {
    fn new(index: u32, mtu: u16, address: Ipv6Addr, mesh_alone: bool) -> Result<Self, NetlinkError> {
        let mut netlink = Netlink::open()?;
        netlink.add_address(index, address, 128)?;
        netlink.set_up(index, mtu.into())?;
        Ok(Self { netlink, index, mesh_alone, installed: BTreeSet::new(), refused: BTreeSet::new() })
    }

    /// Brings the kernel's routes to the table's. What the kernel refuses is tried again with the next table. A prefix
    /// with a neighbour's endpoint in it is left out: the link's own packets would be led into the mesh, and the link
    /// would die of it.
    fn follow(&mut self, fib: &Arc<Fib>, endpoints: &BTreeSet<IpAddr>) {
        let takes = |prefix: Prefix| prefix.len() > 0 && (!self.mesh_alone || is_of_the_mesh(prefix));
        let over_links =
            fib.routes().filter(|(prefix, next_hop)| matches!(next_hop, NextHop::Link(_)) && takes(*prefix));
        let (refused, wanted): (BTreeSet<Prefix>, BTreeSet<Prefix>) =
            over_links.map(|(prefix, _)| prefix).partition(|prefix| holds_any_of(*prefix, endpoints));
        for prefix in refused.difference(&self.refused) {
            tracing::warn!(%prefix, "no kernel route into the mesh: a neighbour is reached through this prefix");
        }
        self.refused = refused;
        for prefix in self.installed.difference(&wanted).copied().collect::<Vec<_>>() {
            match self.netlink.delete_route(prefix.addr(), prefix.len(), self.index, ROUTE_METRIC) {
                Ok(()) => {
                    self.installed.remove(&prefix);
                }
                Err(error) => tracing::warn!(%error, "a kernel route was not removed"),
            }
        }
        for prefix in wanted.difference(&self.installed).copied().collect::<Vec<_>>() {
            match self.netlink.add_route(prefix.addr(), prefix.len(), self.index, ROUTE_METRIC) {
                Ok(()) => {
                    self.installed.insert(prefix);
                }
                Err(error) => tracing::warn!(%error, "a kernel route was not added"),
            }
        }
    }
}

/// Whether it is in the range that meshes take their prefixes from (RFC 4193).
fn is_of_the_mesh(prefix: Prefix) -> bool {
    prefix.len() >= 8 && prefix.addr().octets()[0] == 0xfd
}

fn holds_any_of(prefix: Prefix, addresses: &BTreeSet<IpAddr>) -> bool {
    addresses.iter().any(|address| matches!(address, IpAddr::V6(address) if prefix.contains(*address)))
}

/// As many as the owner wants, else one for each processor.
fn workers(wanted: usize) -> usize {
    let processors = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (if wanted == 0 { processors() } else { wanted }).clamp(1, WORKERS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_internet_is_not_of_the_mesh() {
        let prefix = |text: &str, len| Prefix::new(text.parse().unwrap(), len).unwrap();
        assert!(is_of_the_mesh(prefix("fd12:3456:789a::", 48)) && is_of_the_mesh(prefix("fd00::", 8)));
        assert!(
            ![("2000::", 3), ("8000::", 1), ("::", 1), ("fc00::", 7), ("2001:db8::", 32)]
                .iter()
                .any(|(text, len)| is_of_the_mesh(prefix(text, *len)))
        );
    }

    #[test]
    fn a_gateway_is_for_members_where_those_alone_are_carried_for_and_else_for_anybody() {
        let identity = |number| Identity::new(&metering::Seed::from_bytes([number; 32]));
        let [us, roof, far, other] = [0, 1, 2, 3].map(identity);
        let config = |community: &str| {
            let text =
                format!("[node]\nname = \"attic\"\n{community}[[peer]]\nname = \"roof\"\ncard = \"{}\"\n", roof.card());
            Config::parse(std::path::Path::new("waybill.toml"), &text).unwrap()
        };
        let guests = Arc::new(Guests::default());
        let known = |of: &Identity| gateway::Verdict::Known(of.node_id());
        let open = may_use(&config(""), us.node_id(), &guests);
        let asks = |may_use: &gateway::MayUse, of: &Identity| may_use(&of.wireguard_key(), Some(of.node_id()));
        assert_eq!(open(&roof.wireguard_key(), None), known(&roof), "its card is in the file");
        assert_eq!(open(&far.wireguard_key(), None), gateway::Verdict::Anybody);
        assert_eq!(asks(&open, &far), gateway::Verdict::Anybody, "accounts are as free as keys");

        let community =
            "[community]\nmembers_only = true\n[ledger]\npath = \"/var/lib/waybill/ledger\"\ndeposit = \"5\"\n";
        let closed = may_use(&config(community), us.node_id(), &guests);
        assert_eq!(asks(&closed, &roof), known(&roof), "a router that is no member bars no neighbour");
        assert_eq!(asks(&closed, &far), gateway::Verdict::Refused);
        guests.let_in(us.node_id());
        assert_eq!(asks(&closed, &roof), gateway::Verdict::Refused);
        for of in [&roof, &far] {
            guests.let_in(of.node_id());
            assert_eq!(asks(&closed, of), known(of));
        }
        assert_eq!(closed(&roof.wireguard_key(), Some(other.node_id())), known(&roof), "what the file says counts");
        assert_eq!(asks(&closed, &other), gateway::Verdict::Refused);
        assert_eq!(closed(&far.wireguard_key(), None), gateway::Verdict::Refused, "it has not shown its card");
    }

    #[test]
    fn a_prefix_with_a_neighbour_s_endpoint_in_it_is_known() {
        let prefix = |text: &str, len| Prefix::new(text.parse().unwrap(), len).unwrap();
        let endpoints = ["2001:db8:ff::3", "192.0.2.1"].map(|text| text.parse().unwrap()).into();
        assert!(holds_any_of(prefix("2001:db8:ff::", 64), &endpoints));
        assert!(!holds_any_of(prefix("2001:db8:fe::", 64), &endpoints));
        assert!(!holds_any_of(prefix("::", 96), &endpoints), "IPv4 is another network");
    }
}
