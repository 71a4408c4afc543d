//! A small Babel daemon for Linux: the `babel` library with sockets, a clock and the kernel's routing tables.
//!
//! The tests run it beside other people's daemons. It shows what a shell around the library has to do, and keeps
//! nothing over a restart.
//!
//! ```text
//!   two sockets per interface     netlink: a link or an address changed     signals
//!               |                              |                               |
//!               v                              v                               v
//!             wait ----------------------> hand in -------------------------> drain
//!                                                                               |
//!                       packets to the sockets, routes to `ip -batch`, the state to the status file
//! ```
//!
//! SIGTERM: says goodbye and takes its routes out of the kernel. SIGUSR1 withdraws what it announces, SIGUSR2
//! announces it again.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::num::NonZeroU32;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs};

use babel::wire::{MULTICAST_GROUP, PORT};
use babel::{
    Config, Cost, Destination, Event, Fee, InterfaceConfig, InterfaceId, IpPrefix, Ipv4Prefix, MacAlgorithm, MacKey,
    MacKeys, Metric, Policy, Prefix, PrefixPair, Price, PriceWeight, RouterId, Seqno, Speaker,
};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use netlink_sys::protocols::NETLINK_ROUTE;
use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use socket2::{Domain, Protocol, Socket, Type};

const USAGE: &str = "speaker --interface NAME[,OPTION]... [--interface ...]
    interface options: tunnel (default) | wired | lossy, cost=N, hello=MS, update=MS, rtt, unicast, fee=N,
                       hmac-sha256=HEX, blake2s128=HEX (only packets with a MAC of these keys are believed)
    --announce 'PREFIX [from PREFIX]'   may be repeated
    --price-weight METRIC/PER --price-max N
    --id HEX16      keep this router-id (default: a new one at each start)
    --no-install    leave the kernel's routes alone
    --status PATH   keep the state there, as JSON";

/// Who installed a route, as the kernel remembers it (`rtm_protocol`). Unassigned, and nobody else's in the tests.
const ROUTE_PROTOCOL: &str = "196";
/// The kernel's metric of our routes. One for all: there is one route to a prefix.
const ROUTE_METRIC: &str = "1024";
/// Internetwork control (RFC 2474), as the common daemons send: ahead of traffic.
const TRAFFIC_CLASS: u32 = 0xc0;
/// What does not change the routes shows in the status file within this time.
const STATUS_INTERVAL: Duration = Duration::from_millis(500);
/// Packets taken from one socket before the others get their turn.
const BATCH: usize = 64;
/// `RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR` of `linux/rtnetlink.h`.
const LINKS_AND_ADDRESSES: u32 = 0x1 | 0x10 | 0x100;

/// One for everything: whatever wakes us, we look everywhere. There are few places to look at.
const ANY: Token = Token(0);

fn main() -> ExitCode {
    let outcome = Options::parse(env::args().skip(1)).and_then(Daemon::start).and_then(Daemon::run);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Daemon {
    options: Options,
    speaker: Speaker,
    ports: Vec<Port>,
    poll: Poll,
    signals: Signals,
    kernel: netlink_sys::Socket,
    status_due: Instant,
}

/// What we were told since we last looked. A signal also ends the wait, unless it comes in the moment before: then it
/// is seen when the status is due.
#[derive(Default)]
struct Signals {
    end: Arc<AtomicBool>,
    withdraw: Arc<AtomicBool>,
    announce: Arc<AtomicBool>,
}

/// An interface of the machine, there or not.
struct Port {
    id: InterfaceId,
    name: String,
    /// Without the addresses, which come with the link.
    config: InterfaceConfig,
    keys: Option<MacKeys>,
    open: Option<OpenPort>,
}

struct OpenPort {
    link: Link,
    /// Bound to our address: sends everything, receives what is for us alone.
    unicast: UdpSocket,
    /// Bound to the group: receives what is for everybody.
    multicast: UdpSocket,
}

/// What the kernel says of an interface that can be used.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Link {
    index: u32,
    link_local: Ipv6Addr,
    ipv4: Option<Ipv4Addr>,
}

impl Daemon {
    fn start(options: Options) -> Result<Self, String> {
        let signals = Signals::take().map_err(|error| format!("cannot take signals: {error}"))?;
        let kernel = link_changes().map_err(|error| format!("cannot listen to netlink: {error}"))?;
        let poll = Poll::new().map_err(|error| format!("cannot poll: {error}"))?;
        let registered = poll.registry().register(&mut SourceFd(&kernel.as_raw_fd()), ANY, Interest::READABLE);
        registered.map_err(|error| format!("cannot poll: {error}"))?;
        let seqno = Seqno(fastrand::u16(..));
        let config = Config { policy: options.policy, ..Config::new(options.router_id, seqno) };
        let speaker = Speaker::new(now(), config, fastrand::u64(..));
        let named = options.interfaces.iter().cloned();
        let port = |(id, (name, config, keys))| Port { id: InterfaceId(id), name, config, keys, open: None };
        let ports = (1..).zip(named).map(port).collect();
        Ok(Self { options, speaker, ports, poll, signals, kernel, status_due: now() })
    }

    fn run(mut self) -> Result<(), String> {
        flush_kernel(&self.options);
        self.announce();
        self.look_at_links();
        while !self.signals.end.load(Ordering::Relaxed) {
            let more = self.receive();
            self.speaker.handle_timeout(now());
            self.transmit();
            self.tell();
            self.wait(more)?;
            if self.link_changed() {
                self.look_at_links();
            }
            if self.signals.withdraw.swap(false, Ordering::Relaxed) {
                self.withdraw();
            }
            if self.signals.announce.swap(false, Ordering::Relaxed) {
                self.announce();
            }
        }
        self.speaker.handle_goodbye();
        self.transmit();
        flush_kernel(&self.options);
        Ok(())
    }

    fn wait(&mut self, more: bool) -> Result<(), String> {
        let due = self.speaker.poll_timeout().map_or(self.status_due, |due| due.min(self.status_due));
        let patience = if more { Duration::ZERO } else { due.saturating_duration_since(now()) };
        match self.poll.poll(&mut Events::with_capacity(16), Some(patience)) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(format!("cannot poll: {error}")),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Hands in what has arrived. Whether there is more.
    fn receive(&mut self) -> bool {
        let mut more = false;
        for port in &self.ports {
            let Some(open) = &port.open else { continue };
            let to_us = Destination::Unicast(open.link.link_local);
            for (socket, to) in [(&open.unicast, to_us), (&open.multicast, Destination::Multicast)] {
                more |= receive(&mut self.speaker, port.id, socket, to);
            }
        }
        more
    }

    fn transmit(&mut self) {
        while let Some(transmit) = self.speaker.poll_transmit(now()) {
            let port = self.ports.iter().find(|port| port.id == transmit.interface);
            let Some(open) = port.and_then(|port| port.open.as_ref()) else { continue };
            open.send(transmit.to, &transmit.payload);
        }
    }

    fn announce(&mut self) {
        for pair in &self.options.announced {
            self.speaker.handle_originate(now(), *pair, Metric::ZERO);
        }
    }

    fn withdraw(&mut self) {
        for pair in &self.options.announced {
            self.speaker.handle_withdraw(now(), *pair);
        }
    }
}

/// What the kernel tells.
impl Daemon {
    /// Whether the kernel told of a link or an address, or of so many that some were lost. What it was, we look up.
    fn link_changed(&self) -> bool {
        let mut changed = false;
        let mut buffer = Vec::with_capacity(16 * 1024);
        loop {
            buffer.clear();
            match self.kernel.recv(&mut buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return changed,
                Ok(_) | Err(_) => changed = true,
            }
        }
    }

    fn look_at_links(&mut self) {
        for port in &mut self.ports {
            let link = look(&port.name);
            if port.open.as_ref().map(|open| open.link) == link {
                continue;
            }
            log(&format!("{} is {}", port.name, if link.is_some() { "up" } else { "down" }));
            port.open = link.and_then(|link| match OpenPort::new(link, &self.poll) {
                Ok(open) => Some(open),
                Err(error) => {
                    log(&format!("cannot open {}: {error}", port.name));
                    None
                }
            });
            match &port.open {
                Some(OpenPort { link: Link { link_local, ipv4, .. }, .. }) => {
                    let config = InterfaceConfig { link_local: *link_local, ipv4: *ipv4, ..port.config };
                    match port.keys.clone() {
                        Some(keys) => {
                            let speaker = &mut self.speaker;
                            speaker.handle_authenticated_interface_up(now(), port.id, config, keys, random());
                        }
                        None => self.speaker.handle_interface_up(now(), port.id, config),
                    }
                }
                None => self.speaker.handle_interface_down(now(), port.id),
            }
        }
    }
}

impl OpenPort {
    fn new(link: Link, poll: &Poll) -> io::Result<Self> {
        let (unicast, multicast) = (bind(link.link_local, link.index)?, bind(MULTICAST_GROUP, link.index)?);
        for socket in [&unicast, &multicast] {
            poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), ANY, Interest::READABLE)?;
        }
        Ok(Self { link, unicast, multicast })
    }

    /// A packet that cannot be sent is a lost packet.
    fn send(&self, to: Destination, payload: &[u8]) {
        let address = match to {
            Destination::Multicast => MULTICAST_GROUP,
            Destination::Unicast(address) => address,
        };
        let to = SocketAddrV6::new(address, PORT, 0, self.link.index);
        if let Err(error) = self.unicast.send_to(payload, to) {
            log(&format!("cannot send to {to}: {error}"));
        }
    }
}

fn bind(address: Ipv6Addr, index: u32) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    socket.set_only_v6(true)?;
    socket.set_reuse_address(true)?;
    socket.set_multicast_if_v6(index)?;
    socket.set_multicast_hops_v6(1)?;
    socket.set_multicast_loop_v6(false)?;
    socket.set_unicast_hops_v6(1)?;
    socket.set_tclass_v6(TRAFFIC_CLASS)?;
    if address.is_multicast() {
        socket.join_multicast_v6(&address, index)?;
    }
    socket.bind(&SocketAddrV6::new(address, PORT, 0, index).into())?;
    Ok(socket.into())
}

/// Whether there is more.
fn receive(speaker: &mut Speaker, id: InterfaceId, socket: &UdpSocket, to: Destination) -> bool {
    let mut buffer = [0; 65_536];
    for _ in 0..BATCH {
        let (length, from) = match socket.recv_from(&mut buffer) {
            Ok((length, SocketAddr::V6(from))) if from.port() == PORT => (length, from),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            // Somebody else's packet, or the answer to one of ours that did not arrive.
            Ok(_) | Err(_) => continue,
        };
        if let Err(error) = speaker.handle_packet(now(), id, *from.ip(), to, &buffer[..length]) {
            log(&format!("a packet from {from} is none: {error}"));
        }
    }
    true
}

/// Looks at an interface. `None`: there is none, it is down, without a carrier or without a link-local address.
fn look(name: &str) -> Option<Link> {
    let output = Command::new("ip").args(["-j", "address", "show", "dev", name]).stderr(Stdio::null()).output().ok()?;
    let shown: Value = serde_json::from_slice(&output.stdout).ok()?;
    let link = shown.as_array()?.iter().find(|link| link["ifindex"].is_u64())?;
    link["flags"].as_array()?.iter().find(|flag| *flag == "LOWER_UP")?;
    // A tentative address cannot be bound yet; the kernel tells when it can.
    let usable = link["addr_info"].as_array()?.iter().filter(|entry| entry["tentative"] != true);
    let addresses: Vec<IpAddr> = usable.filter_map(|entry| entry["local"].as_str()?.parse().ok()).collect();
    Some(Link {
        index: u32::try_from(link["ifindex"].as_u64()?).ok()?,
        link_local: addresses.iter().find_map(|address| match address {
            IpAddr::V6(address) if address.is_unicast_link_local() => Some(*address),
            IpAddr::V6(_) | IpAddr::V4(_) => None,
        })?,
        ipv4: addresses.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        }),
    })
}

fn link_changes() -> io::Result<netlink_sys::Socket> {
    let mut socket = netlink_sys::Socket::new(NETLINK_ROUTE)?;
    socket.bind(&netlink_sys::SocketAddr::new(0, LINKS_AND_ADDRESSES))?;
    socket.set_non_blocking(true)?;
    Ok(socket)
}

impl Signals {
    fn take() -> io::Result<Self> {
        let signals = Self::default();
        let flags = [
            (SIGINT, &signals.end),
            (SIGTERM, &signals.end),
            (SIGUSR1, &signals.withdraw),
            (SIGUSR2, &signals.announce),
        ];
        for (signal, flag) in flags {
            signal_hook::flag::register(signal, Arc::clone(flag))?;
        }
        Ok(signals)
    }
}

/// What we tell.
impl Daemon {
    /// Events into the kernel and the log, the state into the status file.
    fn tell(&mut self) {
        let mut changes = String::new();
        let mut changed = false;
        while let Some(event) = self.speaker.poll_event() {
            changed = true;
            changes += &self.tell_event(event);
        }
        if self.options.install {
            change_kernel(&[], &changes);
        }
        if changed || self.status_due <= now() {
            self.status_due = now() + STATUS_INTERVAL;
            self.write_status();
        }
    }

    /// A line for the log, and one for `ip` if it concerns the kernel.
    fn tell_event(&self, event: Event) -> String {
        let (line, change) = match event {
            Event::RouteSelected { pair, via, next_hop, metric, .. } => {
                let (name, family) = (self.name(via), if next_hop.is_ipv4() { "inet" } else { "inet6" });
                let way = format!("via {family} {next_hop} dev {name} onlink");
                (format!("{pair} goes to {next_hop} on {name}, metric {metric}"), format!("replace {pair} {way}"))
            }
            Event::RouteLost { pair } => (format!("{pair} is lost"), format!("replace unreachable {pair}")),
            Event::RouteForgotten { pair } => (format!("{pair} is forgotten"), format!("del {pair}")),
            Event::NeighbourUp { interface, address } => {
                (format!("neighbour {address} on {} is up", self.name(interface)), String::new())
            }
            Event::NeighbourDown { interface, address } => {
                (format!("neighbour {address} on {} is down", self.name(interface)), String::new())
            }
            Event::SeqnoChanged(seqno) => (format!("our seqno is {}", seqno.0), String::new()),
        };
        log(&line);
        if change.is_empty() {
            return change;
        }
        format!("route {change} proto {ROUTE_PROTOCOL} metric {ROUTE_METRIC}\n")
    }

    fn name(&self, id: InterfaceId) -> &str {
        self.ports.iter().find(|port| port.id == id).map_or("?", |port| &port.name)
    }

    /// A reader sees the old state or this one, never half of it.
    fn write_status(&self) {
        let Some(path) = &self.options.status else { return };
        let draft = path.with_extension("draft");
        let written = fs::write(&draft, self.status().to_string()).and_then(|()| fs::rename(&draft, path));
        if let Err(error) = written {
            log(&format!("cannot write {}: {error}", path.display()));
        }
    }

    fn status(&self) -> Value {
        let neighbours = self.speaker.neighbours().map(|neighbour| {
            json!({
                "interface": self.name(neighbour.interface),
                "address": neighbour.address.to_string(),
                "reach": neighbour.reach,
                "rxcost": neighbour.rxcost.get(),
                "txcost": neighbour.txcost.get(),
                "cost": neighbour.cost.get(),
                "rtt_us": neighbour.rtt.map(|rtt| rtt.as_micros() as u64),
            })
        });
        let routes = self.speaker.routes().map(|route| {
            json!({
                "to": route.pair.to.to_string(),
                "from": route.pair.from.map(|from| from.to_string()),
                "interface": route.neighbour.map(|(interface, _)| self.name(interface)),
                "neighbour": route.neighbour.map(|(_, address)| address.to_string()),
                "next_hop": route.next_hop.map(|next_hop| next_hop.to_string()),
                "router_id": route.router_id.to_string(),
                "seqno": route.seqno.0,
                "refmetric": route.refmetric.0,
                "metric": route.metric.0,
                "price": route.price.map(Price::get),
                "feasible": route.feasible,
                "selected": route.selected,
            })
        });
        json!({
            "router_id": self.options.router_id.to_string(),
            "neighbours": neighbours.collect::<Vec<Value>>(),
            "routes": routes.collect::<Vec<Value>>(),
            "counters": format!("{:?}", self.speaker.counters()),
        })
    }
}

/// Routes an earlier life may have left behind, or this one.
fn flush_kernel(options: &Options) {
    if options.install {
        for family in ["-4", "-6"] {
            change_kernel(&[family], &format!("route flush proto {ROUTE_PROTOCOL}\n"));
        }
    }
}

/// Waits for `ip`: the next changes must not overtake these. One that is refused, such as a route on an interface that
/// has just gone, does not keep the rest; `ip` says so in the log.
fn change_kernel(options: &[&str], changes: &str) {
    if changes.is_empty() {
        return;
    }
    let outcome = Command::new("ip").args(options).args(["-force", "-batch", "-"]).stdin(Stdio::piped()).spawn();
    let outcome = outcome.and_then(|mut child| {
        child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(changes.as_bytes()))?;
        child.wait()
    });
    if let Err(error) = outcome {
        log(&format!("cannot run ip: {error}"));
    }
}

struct Options {
    announced: Vec<PrefixPair>,
    interfaces: Vec<(String, InterfaceConfig, Option<MacKeys>)>,
    policy: Policy,
    router_id: RouterId,
    install: bool,
    status: Option<PathBuf>,
}

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            announced: Vec::new(),
            interfaces: Vec::new(),
            policy: Policy::default(),
            router_id: new_router_id(),
            install: true,
            status: None,
        };
        while let Some(word) = words.next() {
            if word == "--no-install" {
                options.install = false;
                continue;
            }
            let value = words.next().ok_or_else(|| format!("{word} without a value\n{USAGE}"))?;
            options.set(&word, &value).ok_or_else(|| format!("cannot understand {word} {value}\n{USAGE}"))?;
        }
        if options.interfaces.is_empty() {
            return Err(format!("no interface\n{USAGE}"));
        }
        Ok(options)
    }

    fn set(&mut self, word: &str, value: &str) -> Option<()> {
        match word {
            "--announce" => self.announced.push(pair(value)?),
            "--interface" => self.interfaces.push(interface(value)?),
            "--price-max" => self.policy.price_max = Price::new(value.parse().ok()?),
            "--price-weight" => {
                let (metric, per) = value.split_once('/')?;
                self.policy.weight = PriceWeight { metric: metric.parse().ok()?, per: per.parse::<NonZeroU32>().ok()? };
            }
            "--id" => self.router_id = RouterId::new(u64::from_str_radix(value, 16).ok()?.to_be_bytes())?,
            "--status" => self.status = Some(value.into()),
            _ => return None,
        }
        Some(())
    }
}

/// A new name at each start: our seqno is not kept (RFC 8966, section 4.1.3).
fn new_router_id() -> RouterId {
    RouterId::new(fastrand::u64(1..u64::MAX).to_be_bytes()).expect("neither all zeros nor all ones")
}

fn pair(text: &str) -> Option<PrefixPair> {
    match text.split_once(" from ") {
        None => Some(prefix(text)?.into()),
        Some((to, from)) => Some(PrefixPair { to: prefix(to)?, from: Some(prefix(from)?) }),
    }
}

fn prefix(text: &str) -> Option<IpPrefix> {
    let (address, len) = text.split_once('/')?;
    let len = len.parse().ok()?;
    match address.parse().ok()? {
        IpAddr::V6(address) => Prefix::new(address, len).map(IpPrefix::V6),
        IpAddr::V4(address) => Ipv4Prefix::new(address, len).map(IpPrefix::V4),
    }
}

fn interface(text: &str) -> Option<(String, InterfaceConfig, Option<MacKeys>)> {
    let mut words = text.split(',');
    let name = words.next()?.to_owned();
    let mut keys = Vec::new();
    let tunnel = InterfaceConfig::tunnel(Ipv6Addr::UNSPECIFIED);
    let mut config = tunnel;
    for word in words {
        let (word, value) = word.split_once('=').unwrap_or((word, "0"));
        let algorithm = match word {
            "hmac-sha256" => Some(MacAlgorithm::HmacSha256),
            "blake2s128" => Some(MacAlgorithm::Blake2s128),
            _ => None,
        };
        if let Some(algorithm) = algorithm {
            keys.push(MacKey::new(algorithm, &octets(value)?).ok()?);
            continue;
        }
        let value: u32 = value.parse().ok()?;
        match word {
            "tunnel" => config = tunnel,
            "wired" => config = InterfaceConfig::wired(Ipv6Addr::UNSPECIFIED),
            "lossy" => config = InterfaceConfig::lossy(Ipv6Addr::UNSPECIFIED),
            "cost" => config.cost = Cost::new(u16::try_from(value).ok()?),
            "hello" => config.hello_interval = Duration::from_millis(value.into()),
            "update" => config.update_interval = Duration::from_millis(value.into()),
            "rtt" => config.rtt = tunnel.rtt,
            "unicast" => config.unicast_hellos = true,
            "fee" => config.fee = Fee { price: Price::new(value), epoch: 1 },
            _ => return None,
        }
    }
    let keys = (!keys.is_empty()).then(|| MacKeys::new(keys).ok());
    keys.map_or(Some((name.clone(), config, None)), |keys| Some((name, config, Some(keys?))))
}

fn octets(hex: &str) -> Option<Vec<u8>> {
    let pairs = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok());
    pairs.collect()
}

/// From the system: what MACs need must never come again.
fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    let read = fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.expect("the system has random numbers");
    bytes
}

/// The time goes with each line, to be compared with what others saw.
fn log(line: &str) {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock, for people")]
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    println!("{:.3} {line}", since_epoch.as_secs_f64());
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
fn now() -> Instant {
    Instant::now()
}
