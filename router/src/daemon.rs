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

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ledger_client::Ledger;
#[cfg(feature = "ledger-remote")]
use ledger_client::Remote;
#[cfg(feature = "ledger-host")]
use ledger_client::{Embedded, system_clock};
use metering::{Identity, LedgerDomain, Limits, NodeId, Offer, Price, SortedMap, SortedSet, Tokens, WireguardKey};
use node::Prefix;
use node::beacon::Community;
use node::datapath::{Fib, NextHop, Service};
use node::names::Names;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::Metadata;
use tracing_subscriber::fmt::writer::MakeWriterExt;

use crate::cli::Failure;
use crate::config::{Amount, Config, LedgerPlace, LogLevel};
use crate::control::{
    ClientSessions, ControlSocket, GatewayState, InternetState, Refusal, Reloaded, Request, Response, ServerSessions,
    Unit,
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
use crate::upstream::{DNS_PORT, Servers, Upstream};
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
/// sessions from here on, and opened again when the router was told to stop, at whatever point of its start.
///
/// # Errors
/// What kept it from starting, with the next step.
pub fn up(config: Config, identity: Identity) -> Result<(), Failure> {
    start_log(config.node.log);
    let socket = ControlSocket::bind(&config.node.control_socket)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        Failure::new(format!("cannot start: {error}"), "the system is out of memory or descriptors")
    })?;
    // Before anything that somebody has to take back.
    let mut signals = Signals::take(&runtime)?;
    if config.internet.is_none() {
        Closed::end_left();
        let ended = run(&config, identity, (&runtime, &mut signals), &socket, None, None);
        return ended.map_err(|(failure, _)| failure);
    }
    let look_ups = LookUps::bind().map_err(|error| Failure::new(format!("cannot open a socket: {error}"), ""))?;
    let look_ups_port = look_ups.local_addr().map_err(|error| Failure::new(error, ""))?.port();
    let quic = config.quic.as_ref().map(|quic| quic.listen.port());
    let own = [Some(config.wireguard.listen.port()), quic, Some(look_ups_port)];
    let own: Vec<u16> = own.into_iter().flatten().filter(|port| *port > 0).collect();
    let mut closed = Closed::begin(&own).map_err(|error| Failure::new(&error, error.next_step()))?;
    match run(&config, identity, (&runtime, &mut signals), &socket, Some(look_ups), Some(&mut closed)) {
        Ok(()) => closed.end(),
        Err((failure, Started(started))) => {
            // Told to stop, it would have opened the way out.
            let told = runtime.block_on(tokio::time::timeout(TOLD, signals.stop())).is_ok();
            match (told, started) {
                (true, _) => closed.end(),
                (false, true) => closed.stay(),
                (false, false) => closed.failed(),
            }
            return Err(failure);
        }
    }
    Ok(())
}

/// A signal that has come is known after so long.
const TOLD: Duration = Duration::from_millis(1);

/// What the system tells the router.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// From here on none of them ends the process.
    fn take(runtime: &Runtime) -> Result<Self, Failure> {
        let _inside = runtime.enter();
        let take = |kind| signal(kind).map_err(|error| Failure::new(format!("cannot receive signals: {error}"), ""));
        Ok(Self {
            terminate: take(SignalKind::terminate())?,
            interrupt: take(SignalKind::interrupt())?,
            hangup: take(SignalKind::hangup())?,
        })
    }

    /// Returns when it is told to stop.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
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
    (runtime, signals): (&Runtime, &mut Signals),
    socket: &ControlSocket,
    look_ups: Option<UdpSocket>,
    mut closed: Option<&mut Closed>,
) -> Result<(), (Failure, Started)> {
    let Some(ledger) = runtime.block_on(opened_ledger(config, &identity, signals))? else { return Ok(()) };
    asks_others(config)?;
    let open = ledger_services(config, &identity);
    #[cfg(feature = "ledger-serve")]
    let _hosted = hosted(config)?;
    let money = money(config, ledger.as_deref())?;
    let unit = (money.unit.clone(), money.domain);
    let tun = Tun::create(&config.node.tun, config.node.mtu, config.node.offloads)
        .map_err(|error| Failure::new(&error, error.next_step()))?;
    let local = tun.local().map_err(|error| Failure::new(error, ""))?;
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
            links: links(config, false),
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
        let mesh_alone = config.internet.is_some();
        let kernel = KernelRoutes::new(tun.index(), config.node.mtu, router.address(), mesh_alone);
        let kernel = kernel.map_err(|error| Failure::new(&error, error.next_step()));
        // The sessions' sockets are at the address that the TUN has by now.
        let ports = link_ports(&router);
        let ready = kernel.and_then(|kernel| Ok((kernel, Sessions::start(config, keys.as_ref(), &guests, ports)?)));
        let ended = match ready {
            Ok((kernel, mut sessions)) => {
                let (names, own) = watch::channel(names::zone(config, router.address()));
                let (community, outside) = (registered.clone(), Arc::default());
                let zones = Zones { own, community, upstream: None, outside };
                answer_names(config, router.address(), &sessions, zones);
                if config.leaves.iter().any(|leaf| leaf.ipv4.is_some()) {
                    router.reload(links(config, sessions.lead(config)), None).await;
                }
                let ended =
                    serve(config, &router, (socket, signals), kernel, (&names, &mut sessions, &unit), closed).await;
                sessions.stop();
                ended.map_err(|failure| (failure, Started(true)))
            }
            Err(failure) => Err(failure.into()),
        };
        router.stop().await;
        ended
    })
}

/// Begins to answer for names, where the owner says so.
fn answer_names(config: &Config, address: Ipv6Addr, sessions: &Sessions<'_>, zones: Zones) {
    let (Some(options), Some(home)) = (&config.names, Prefix::new(address, 48)) else { return };
    let shown = Arc::clone(&sessions.shown);
    let of_session = move || {
        let internet = shown.lock().unwrap_or_else(PoisonError::into_inner).internet.clone();
        let state = internet.as_ref().map(|state| state.lock().unwrap_or_else(PoisonError::into_inner));
        state.map_or_else(Vec::new, |state| state.dns.clone())
    };
    // What answers there is this router itself.
    let listen = options.listen.clone();
    let is_another = move |server: &IpAddr| listen.iter().all(|at| at.ip() != *server || at.port() != DNS_PORT);
    let servers = match (&options.upstream[..], &config.internet, &config.gateway) {
        ([], Some(_), _) => Some(Servers::Session(Box::new(of_session))),
        // A gateway's household asks whom its clients ask.
        ([], None, Some(gateway)) if gateway.dns.is_empty() => {
            let own = move || gateway::own_resolver().filter(&is_another).into_iter().collect();
            Some(Servers::Session(Box::new(own)))
        }
        ([], None, Some(gateway)) => Some(Servers::Written(gateway.dns.iter().copied().filter(is_another).collect())),
        ([], None, None) => None,
        (written, ..) => Some(Servers::Written(written.to_vec())),
    };
    // This router's own resolver knows the house, too: as OpenWrt calls it, and as RFC 8375 does.
    let of_house = options.upstream.is_empty()
        && config.internet.is_none()
        && config.gateway.as_ref().is_some_and(|gateway| gateway.dns.is_empty());
    let mut private = options.private.clone();
    private.extend(["lan", "home.arpa"].into_iter().filter(|_| of_house).map(ToOwned::to_owned));
    let zones = Zones { upstream: servers.map(|servers| Arc::new(Upstream::new(home, servers, private))), ..zones };
    tokio::spawn(names::look_outside(Arc::clone(&zones.outside)));
    let ours = SocketAddr::new(address.into(), options.port);
    for at in options.listen.iter().copied().chain([ours]) {
        tokio::spawn(names::serve(at, zones.clone()));
    }
}

/// Checks that no name server to be asked is this router itself, at an address that it has by whichever interface.
fn asks_others(config: &Config) -> Result<(), Failure> {
    let Some(options) = &config.names else { return Ok(()) };
    let everywhere = options.listen.iter().any(|at| at.ip().is_unspecified() && at.port() == DNS_PORT);
    // Nothing but an own address can be bound to.
    let is_own = |server: &&IpAddr| everywhere && UdpSocket::bind((**server, 0)).is_ok();
    options.upstream.iter().find(is_own).map_or(Ok(()), |server| {
        Err(Failure::new(
            format!("[names] upstream: {server} is this router, which would ask itself"),
            "name another server, or let names be answered at fewer addresses with `listen`",
        ))
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
struct Sessions<'a> {
    keys: Option<&'a Identity>,
    guests: &'a Arc<Guests>,
    /// Those that the links send from.
    ports: Vec<u16>,
    gateway: Option<gateway::Server>,
    /// Of the gateway before.
    left: gateway::Left,
    internet: Option<gateway::Client>,
    shown: Arc<Mutex<Shown>>,
}

impl<'a> Sessions<'a> {
    fn start(
        config: &Config,
        keys: Option<&'a Identity>,
        guests: &'a Arc<Guests>,
        ports: Vec<u16>,
    ) -> Result<Self, Failure> {
        let mut sessions = Self {
            keys,
            guests,
            ports,
            gateway: None,
            left: gateway::Left::default(),
            internet: None,
            shown: Arc::default(),
        };
        sessions.begin(config)?;
        Ok(sessions)
    }

    /// Starts what the file wants and does not run, and shows what runs.
    fn begin(&mut self, config: &Config) -> Result<(), Failure> {
        let begun = self.try_begin(config);
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        shown.gateway = self.gateway.as_ref().map(gateway::Server::state);
        shown.internet = self.internet.as_ref().map(gateway::Client::state);
        begun
    }

    fn try_begin(&mut self, config: &Config) -> Result<(), Failure> {
        let Some(identity) = self.keys else { return Ok(()) };
        if let (None, Some(options)) = (&self.gateway, &config.gateway) {
            let may_use = may_use(config, identity.node_id(), self.guests);
            self.gateway = Some(gateway::Server::start(options, identity, &config.node, may_use, &self.left)?);
        }
        if let (None, Some(options)) = (&self.internet, &config.internet) {
            self.internet = Some(gateway::Client::start(options, identity, &config.node, &self.ports)?);
        }
        Ok(())
    }

    /// Makes them as the file has them by now; `running` is what they follow. What the kernel has to know makes them begin
    /// anew; the way out stays closed meanwhile. Whether there are such tables at all is for the next start. What does not work is said,
    /// and what was there begins once more.
    fn change(&mut self, running: &mut Config, config: &Config) -> Result<(), String> {
        let before = running.clone();
        running.peers.clone_from(&config.peers);
        if let (Some(old), Some(new)) = (&mut running.gateway, &config.gateway) {
            if !old.is_in_kernel_as(new)
                && let Some(gateway) = self.gateway.take()
            {
                self.left = gateway.stop();
            }
            old.clone_from(new);
        }
        if let (Some(old), Some(new)) = (&mut running.internet, &config.internet)
            && old != new
        {
            old.clone_from(new);
            if let Some(internet) = self.internet.take() {
                internet.stop();
            }
        }
        if let (Some(gateway), Some(options), Some(identity)) = (&self.gateway, &running.gateway, self.keys) {
            gateway.change(options.clone(), may_use(running, identity.node_id(), self.guests));
        }
        self.begin(running).map_err(|failure| {
            *running = before;
            match self.begin(running) {
                Ok(()) => format!("the sessions go on as they were: {failure}"),
                Err(worse) => {
                    format!("the sessions do not run, neither by the file nor as they were: {failure}; {worse}")
                }
            }
        })
    }

    /// Tells a gateway which leaves of the file it leads out. Whether any are, by these sessions or by it.
    fn lead(&self, config: &Config) -> bool {
        let Some(gateway) =
            self.gateway.as_ref().filter(|_| config.gateway.as_ref().is_some_and(|own| own.uplink.is_some()))
        else {
            return self.internet.is_some();
        };
        let led = config.leaves.iter().filter(|leaf| leaf.ipv4.is_some());
        gateway.lead(led.flat_map(|leaf| leaf.addresses.iter().copied()).collect());
        true
    }

    fn stop(self) {
        if let Some(gateway) = self.gateway {
            let _left = gateway.stop();
        }
        if let Some(internet) = self.internet {
            internet.stop();
        }
    }
}

/// Who may use the gateway, and whose caps are its own: neighbours that the owner wrote down, and members of a community where
/// only those are carried for. Where that is no condition, anybody may.
fn may_use(config: &Config, us: NodeId, guests: &Arc<Guests>) -> gateway::MayUse {
    let written: SortedMap<WireguardKey, NodeId> =
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
#[derive(Clone, Default)]
struct Shown {
    gateway: Option<Arc<Mutex<GatewayState>>>,
    internet: Option<Arc<Mutex<InternetState>>>,
    /// What leads packets past the sessions.
    past: Vec<String>,
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
        status.warnings.extend_from_slice(&self.past);
        status.warnings.extend(gateway.as_ref().and_then(|state| state.clash.clone()));
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
    (socket, signals): (&ControlSocket, &mut Signals),
    mut kernel: KernelRoutes,
    (names, sessions, unit): (&watch::Sender<Names>, &mut Sessions<'_>, &(Unit, LedgerDomain)),
    mut closed: Option<&mut Closed>,
) -> Result<(), Failure> {
    let mut running = config.clone();
    let (orders, mut ordered) = mpsc::channel(1);
    let (asker, shown) = (router.asker(), Arc::clone(&sessions.shown));
    let answers = socket.serve(move |request| {
        let shown = shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (orders, asker) = (orders.clone(), asker.clone());
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
    follow(&mut kernel, sessions, &fib.borrow_and_update().clone(), &endpoints.borrow_and_update().clone());
    let mut prices_due = tokio::time::interval(PRICES_INTERVAL);
    let mut closed_due = tokio::time::interval(CLOSED_INTERVAL);
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
            _ = signals.hangup.recv() => {
                let _logged = reload(&mut running, router, (names, sessions, unit)).await;
                follow(&mut kernel, sessions, &fib.borrow_and_update().clone(), &endpoints.borrow().clone());
            }
            Some(Order { stop, done }) = ordered.recv() => {
                let answer = if stop { Response::Done } else { reload(&mut running, router, (names, sessions, unit)).await };
                follow(&mut kernel, sessions, &fib.borrow_and_update().clone(), &endpoints.borrow().clone());
                // Whoever asked may have gone.
                let _gone = done.send(answer);
                if stop {
                    let _ended = tokio::time::timeout(LAST_ANSWERS, &mut answers).await;
                    break;
                }
            }
            Ok(()) = fib.changed() => {
                follow(&mut kernel, sessions, &fib.borrow_and_update().clone(), &endpoints.borrow().clone());
            }
            Ok(()) = endpoints.changed() => {
                follow(&mut kernel, sessions, &fib.borrow().clone(), &endpoints.borrow_and_update().clone());
            }
            _ = closed_due.tick() => {
                if let Some(closed) = &mut closed {
                    closed.look();
                    let past = closed.past().to_vec();
                    sessions.shown.lock().unwrap_or_else(PoisonError::into_inner).past = past;
                }
            }
            _ = prices_due.tick() => {
                if let (Some(internet), Some(options)) = (&sessions.internet, &running.internet)
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

/// Brings the kernel to the table. Sessions that began anew are told of leaves, too.
fn follow(kernel: &mut KernelRoutes, sessions: &Sessions<'_>, fib: &Arc<Fib>, endpoints: &SortedSet<IpAddr>) {
    kernel.follow(fib, endpoints);
    if kernel.follow_leaves(fib)
        && let Some(internet) = &sessions.internet
    {
        internet.lead_leaves_out();
    }
}

/// Reads the file again, and says when links and sessions are as it says. A file with mistakes changes nothing; options that need
/// a restart are named.
async fn reload(
    running: &mut Config,
    router: &Router,
    (names, sessions, (unit, domain)): (&watch::Sender<Names>, &mut Sessions<'_>, &(Unit, LedgerDomain)),
) -> Response {
    let read = read_again(running).and_then(|config| {
        // Prices are of the ledger that is in use: those of another one wait for the next start, as it does.
        let mut priced = running.clone();
        if running.ledger == config.ledger {
            priced.price.clone_from(&config.price);
        }
        Ok((money_in(&priced, unit.clone(), *domain)?, priced.price, config))
    });
    let (money, price, config) = match read {
        Ok(read) => read,
        Err(failure) => {
            tracing::error!("the configuration is kept as it was: {failure}");
            let cause = format!("the configuration is kept as it was: {failure}");
            return absent(&cause, "correct the file, and reload again");
        }
    };
    names.send_replace(names::zone(&config, router.address()));
    // Leaves are not led out while the sessions begin anew: there are no rules for what they send meanwhile.
    let same_gateway = match (&running.gateway, &config.gateway) {
        (Some(old), Some(new)) => old.is_in_kernel_as(new),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    };
    let stays = same_gateway && running.internet == config.internet;
    router.reload(links(&config, stays && sessions.lead(&config)), Some(money)).await;
    running.price = price;
    let changed = sessions.change(running, &config);
    if !stays {
        router.reload(links(&config, sessions.lead(&config)), None).await;
    }
    if let Err(cause) = changed {
        tracing::error!("{cause}");
        return absent(&cause, "correct the file, and reload again");
    }
    let at_next_start = differences(running, &config);
    for table in &at_next_start {
        tracing::warn!("{table} has changed: that takes effect at the next start");
    }
    Response::Reloaded(Reloaded { at_next_start })
}

/// The tables that are others in the file than those the router runs by.
fn differences(running: &Config, config: &Config) -> Vec<String> {
    let tables = [
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
    tables.into_iter().filter(|(_, same)| !same).map(|(table, _)| table.to_owned()).collect()
}

/// The file as it stands, checked as at the start: a leaf's addresses have to be ours to give.
fn read_again(running: &Config) -> Result<Config, Failure> {
    let config = Config::load(&running.path)?;
    config.check_ends()?;
    config.check_identity(&identity::load(&running.node.key_file)?)?;
    Ok(config)
}

/// Leaves are led to the Internet by the sessions that run, or by the gateway that this router is, or not at all: without them it
/// would be in the clear.
fn links(config: &Config, sessions: bool) -> Links {
    let mut leaves = config.leaves.clone();
    for leaf in leaves.iter_mut().filter(|_| !sessions) {
        leaf.ipv4 = None;
    }
    Links { peers: config.peers.clone(), leaves }
}

/// Opens the ledger, which may have to be reached for that; `None`: the router is told to stop first.
async fn opened_ledger(
    config: &Config,
    identity: &Identity,
    signals: &mut Signals,
) -> Result<Option<Option<Box<dyn Ledger>>>, Failure> {
    if config.ledger.is_none() {
        return Ok(Some(None));
    }
    let (done, opened) = oneshot::channel();
    let (config, identity) = (config.clone(), identity.clone());
    // Nobody waits for it where the router is told to stop.
    let open = move || drop(done.send(open_ledger(&config, &identity)));
    let thread = std::thread::Builder::new().name("ledger".to_owned()).spawn(open);
    thread.map_err(|error| Failure::new(format!("cannot start: {error}"), "the system is out of memory"))?;
    tokio::select! {
        opened = opened => opened.unwrap_or_else(|_| Err(Failure::new("opening the ledger had panicked", ""))).map(Some),
        () = signals.stop() => Ok(None),
    }
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
            let served =
                served(address, key, founding.as_deref(), authorities.as_deref(), Some(&config.node.state_dir))?;
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
    money_in(config, unit, domain)
}

/// The amounts of the file in base units of a ledger's token.
fn money_in(config: &Config, unit: Unit, domain: LedgerDomain) -> Result<Money, Failure> {
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
    installed: SortedSet<Prefix>,
    /// Left out, since a neighbour is reached through them.
    refused: SortedSet<Prefix>,
    /// IPv4 addresses of leaves, and those that mean something else here.
    leaves: SortedSet<Ipv4Addr>,
    leaves_refused: SortedSet<Ipv4Addr>,
}

impl KernelRoutes {
    fn new(index: u32, mtu: u16, address: Ipv6Addr, mesh_alone: bool) -> Result<Self, NetlinkError> {
        let mut netlink = Netlink::open()?;
        netlink.add_address(index, address, 128)?;
        netlink.set_up(index, mtu.into())?;
        Ok(Self {
            netlink,
            index,
            mesh_alone,
            installed: SortedSet::new(),
            refused: SortedSet::new(),
            leaves: SortedSet::new(),
            leaves_refused: SortedSet::new(),
        })
    }

    /// Brings the kernel's routes to the table's. What the kernel refuses is tried again with the next table. A prefix
    /// with a neighbour's endpoint in it is left out: the link's own packets would be led into the mesh, and the link
    /// would die of it.
    fn follow(&mut self, fib: &Arc<Fib>, endpoints: &SortedSet<IpAddr>) {
        let takes = |prefix: Prefix| prefix.len() > 0 && (!self.mesh_alone || is_of_the_mesh(prefix));
        let over_links =
            fib.routes().filter(|(prefix, next_hop)| matches!(next_hop, NextHop::Link(_)) && takes(*prefix));
        let (refused, wanted): (SortedSet<Prefix>, SortedSet<Prefix>) =
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

    /// Brings the kernel's routes to leaves by IPv4 to the table's; an address that is somebody else's here gets none. Whether
    /// there is any leaf to be led out.
    fn follow_leaves(&mut self, fib: &Arc<Fib>) -> bool {
        let wanted: SortedSet<Ipv4Addr> = fib.leaves_ipv4().collect();
        for address in self.leaves.difference(&wanted).copied().collect::<Vec<_>>() {
            match self.netlink.release_route(address.into(), 32, self.index) {
                Ok(()) => {
                    self.leaves.remove(&address);
                }
                Err(error) => tracing::warn!(%error, "a kernel route was not removed"),
            }
        }
        self.leaves_refused.retain(|address| wanted.contains(address));
        for address in wanted.difference(&self.leaves).copied().collect::<Vec<_>>() {
            match self.netlink.claim_route(address.into(), 32, self.index) {
                Ok(()) => {
                    self.leaves.insert(address);
                    self.leaves_refused.remove(&address);
                }
                Err(error) if self.leaves_refused.insert(address) => {
                    tracing::warn!(%error, "no answers by IPv4 reach a leaf: set another `ipv4` in its [[leaf]] table");
                }
                Err(_) => {}
            }
        }
        !wanted.is_empty()
    }
}

/// Whether it is in the range that meshes take their prefixes from (RFC 4193).
fn is_of_the_mesh(prefix: Prefix) -> bool {
    prefix.len() >= 8 && prefix.addr().octets()[0] == 0xfd
}

fn holds_any_of(prefix: Prefix, addresses: &SortedSet<IpAddr>) -> bool {
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

    /// The ledger's machine does not answer, so the start takes long; the way out is closed by then.
    #[test]
    #[cfg(feature = "ledger-remote")]
    fn who_is_told_to_stop_while_it_starts_opens_the_way_out() {
        use std::process::Command;
        if !crate::netlink::in_own_namespace("daemon::tests::who_is_told_to_stop_while_it_starts_opens_the_way_out") {
            return;
        }
        let run = |line: &str| {
            let mut words = line.split(' ');
            let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        let wait = |what: &str, is: &dyn Fn() -> bool| {
            for _ in 0..400 {
                if is() {
                    return;
                }
                std::thread::park_timeout(Duration::from_millis(25));
            }
            panic!("{what}");
        };
        for line in ["link set lo up", "link add up0 type veth peer name up1", "link set up0 up", "link set up1 up"] {
            run(&format!("ip {line}"));
        }
        // Whoever is asked for has this link-layer address, and is not there.
        run("ip address add 192.0.2.9/24 dev up0");
        run("ip neigh add 192.0.2.1 lladdr 02:00:00:00:00:01 dev up0");
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path().display();
        let key =
            "waybill/0x4cce1f8662CCe6C3316de3a7A811962d93c0E204+9a3d7f86+Ae9auckDfeH6//W/cYKf3fEf9YAS2g6aFTW6p22PaC0A";
        let text = format!(
            "[node]\nname = \"attic\"\nkey_file = \"{at}/key\"\nstate_dir = \"{at}\"\ncontrol_socket = \"{at}/socket\"\n\
             [ledger]\nurl = \"https://192.0.2.1:8443\"\nkey = \"{key}\"\n[internet]\ngateways = [\"fd00::1\"]\n"
        );
        let rules = || run("ip rule") + &run("ip -6 rule");
        let before = rules();
        let start = || {
            let config = Config::parse(std::path::Path::new("waybill.toml"), &text).unwrap();
            let identity = Identity::new(&metering::Seed::from_bytes([1; 32]));
            std::thread::spawn(move || up(config, identity).map_err(|failure| failure.to_string()))
        };
        let router = start();
        wait("the way out is closed", &|| rules().contains("8720"));
        assert!(!router.is_finished());
        run(&format!("kill -TERM {}", std::process::id()));
        wait("it ends", &|| router.is_finished());
        assert_eq!(router.join().unwrap(), Ok(()));
        assert_eq!(rules(), before, "an end in order");
    }

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
