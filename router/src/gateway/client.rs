//! The household's side: sessions with all its gateways, one of them in use.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use metering::{Identity, WireguardKey, mesh_address, mesh_prefix};
use node::datapath::packet;
use node::{LinkId, Prefix};

use super::carry::{self, Answers, Running, Side};
use super::choice::{Candidate, Choice, Quality};
use super::closed::{lead_names, put_names};
use super::forbidden::Forbidden;
use super::nat::{ClientRules, Nat};
use super::server::{KEY_ANSWER, KEY_QUESTION, addresses};
use super::watch::{Watch, Watched};
use super::{CLIENT_INSIDE, CONTROL_PORT, GATEWAY_INSIDE, OVERHEAD, PORT, ROUTE_TABLE, SWITCHES, inner_address};
use crate::cli::Failure;
use crate::config::{InternetOptions, NodeOptions};
use crate::control::{InternetGateway, InternetState};
use crate::file;
use crate::link::wireguard::{PeerConfig, WireGuard};
use crate::look_up::RESOLVERS_HEAD;
use crate::netlink::{DEFAULT_LEN_MAX, Family, FoundRoute, Netlink, NetlinkError};
use crate::tun::{MTU_MIN, Tun};
use crate::worker::packet_len_max;
use node::session::{Lease, Message};

/// Packets passed so lately that the gateway's death would be felt.
const BUSY: Duration = Duration::from_secs(10);
/// How often a session beside a silent one is begun, and a key asked for.
const RENEW: Duration = Duration::from_secs(2);
/// How often the state is shown.
const SHOW_INTERVAL: Duration = Duration::from_secs(1);
/// How often the kernel's routes and rules are put where they are already.
const PUT_BACK: Duration = Duration::from_secs(5);
/// One question of so many has our card with it.
const SHOW_CARD_EACH: u64 = 16;
/// How often it is looked again whether the addresses of a lease mean something else here.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// What both threads see: of the ways to all gateways, and of ourselves.
type Prices = Arc<Mutex<Vec<Option<u64>>>>;
type State = Arc<Mutex<InternetState>>;

/// A gateway to use, in the owner's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// What people call it.
    pub name: String,
    /// Its address in the mesh.
    pub address: Ipv6Addr,
    /// Its key; without one, the gateway is asked for it, and its address proves the answer.
    pub key: Option<WireguardKey>,
}

/// A client that runs. [`Client::stop`] ends it and takes everything back.
pub struct Client {
    running: Running,
    watch: Watch,
    state: State,
    prices: Prices,
}

impl Client {
    /// Begins, at the node's own mesh address, which its TUN has to have already. The way out has to be [`super::Closed`]; what is
    /// sent from `link_ports` of UDP goes by no session.
    ///
    /// # Errors
    /// What the system refuses, with the next step; nothing is left then.
    pub fn start(
        options: &InternetOptions,
        identity: &Identity,
        node: &NodeOptions,
        link_ports: &[u16],
    ) -> Result<Self, Failure> {
        let mtu = node.mtu - OVERHEAD;
        let key = identity.wireguard_key();
        let tun = Tun::create_for_both_families(&options.tun, mtu, node.offloads)
            .map_err(|error| Failure::new(&error, error.next_step()))?;
        let refused = |error: NetlinkError| Failure::new(&error, error.next_step());
        let mut netlink = Netlink::open().map_err(refused)?;
        netlink.set_up(tun.index(), mtu.into()).map_err(refused)?;
        netlink.add_address(tun.index(), inner_address(&key), 128).map_err(refused)?;
        let no_session = |error: io::Error| {
            let next = "is another program using the port at the mesh address?";
            Failure::new(format!("cannot open sessions from UDP port {PORT}: {error}"), next)
        };
        let wireguard = WireGuard::bind_over_mesh(
            *identity.wireguard_secret(),
            SocketAddr::new(mesh_address(&key).into(), PORT),
            packet_len_max(mtu.into()),
            node.offloads,
            options.gateways.len(),
            carry::clock(),
        )
        .map_err(no_session)?;
        let local = tun.local().map_err(no_session)?;
        let (address, len) = mesh_prefix(&key);
        let home = Prefix::new(address, len).expect("a mesh prefix is a /48");
        let rules = ClientRules { tun: &options.tun, mesh: &node.tun, home, link_ports };
        let nat = Nat::client(&rules, node.state_dir.join(SWITCHES))
            .map_err(|error| Failure::new(&error, error.next_step()))?;
        let state = Arc::new(Mutex::new(InternetState::default()));
        let prices = Arc::new(Mutex::new(vec![None; options.gateways.len()]));
        let sessions = Sessions::new(options, identity, (&node.state_dir, mtu), tun, (&state, &prices));
        let watch = Watch::start(nat, None, Watched::new(Forbidden::new(&[], None))).map_err(no_session)?;
        let started = sessions.map_err(refused).and_then(|sessions| {
            carry::start("internet", wireguard, local, mtu.into(), Box::new(sessions)).map_err(no_session)
        });
        match started {
            Ok(running) => Ok(Self { running, watch, state, prices }),
            Err(failure) => {
                watch.stop();
                Err(failure)
            }
        }
    }

    /// What it shows to people.
    pub fn state(&self) -> Arc<Mutex<InternetState>> {
        Arc::clone(&self.state)
    }

    /// What carrying to each gateway costs, in base units per GiB, in the owner's order.
    pub fn set_prices(&self, prices: Vec<Option<u64>>) {
        *self.prices.lock().unwrap_or_else(PoisonError::into_inner) = prices;
    }

    /// Lets the kernel lead out what leaves send that have an IPv4 address here, while this runs.
    pub(crate) fn lead_leaves_out(&self) {
        self.watch.lead_leaves_out();
    }

    /// Ends all sessions and takes back what was set in the kernel for them. Blocks for as long as that takes. The way out stays
    /// closed ([`super::Closed`]).
    pub fn stop(self) {
        self.running.stop();
        self.watch.stop();
    }
}

/// One gateway, as the thread of the sessions has it.
struct Known {
    gateway: Gateway,
    quality: Quality,
    lease: Option<Lease>,
    looked: Option<Looked>,
    refused: Option<String>,
    renewed: Option<Instant>,
    sent: u64,
    received: u64,
}

/// What was found when the addresses of a lease were looked at last.
struct Looked {
    at: Instant,
    ipv4: Ipv4Addr,
    dns: Vec<IpAddr>,
    /// The name servers that can be used, or what speaks against the lease.
    usable: Result<Vec<IpAddr>, String>,
}

/// All sessions, in the owner's order, which is also that of their links.
struct Sessions {
    known: Vec<Known>,
    choice: Choice,
    current: Option<usize>,
    since: Option<Instant>,
    ipv6: Ipv6Addr,
    card: Vec<u8>,
    /// The lease's address, as the device has it.
    ipv4: Option<Ipv4Addr>,
    /// The device's MTU: what the mesh leaves here, and at the gateway.
    mtu: u16,
    mtu_max: u16,
    /// When the kernel's routes and rules for the session were put last.
    routed: Option<Instant>,
    busy: Option<Instant>,
    netlink: Netlink,
    tun: Tun,
    resolv_conf: PathBuf,
    resolvers: Vec<IpAddr>,
    state: State,
    prices: Prices,
    show_at: Instant,
    changes: u64,
}

impl Sessions {
    fn new(
        options: &InternetOptions,
        identity: &Identity,
        (state_dir, mtu): (&Path, u16),
        tun: Tun,
        (state, prices): (&State, &Prices),
    ) -> Result<Self, NetlinkError> {
        Ok(Self {
            known: options.gateways.iter().cloned().map(Known::new).collect(),
            choice: Choice::default(),
            current: None,
            since: None,
            ipv6: inner_address(&identity.wireguard_key()),
            card: identity.card().encode(),
            ipv4: None,
            mtu,
            mtu_max: mtu,
            routed: None,
            busy: None,
            netlink: Netlink::open()?,
            tun,
            resolv_conf: state_dir.join("resolv.conf"),
            resolvers: Vec::new(),
            state: Arc::clone(state),
            prices: Arc::clone(prices),
            show_at: carry::clock(),
            changes: 0,
        })
    }

    fn handle_message(&mut self, now: Instant, place: usize, message: Message) {
        let ipv6 = self.ipv6;
        let (netlink, index) = (&mut self.netlink, self.tun.index());
        let Some(known) = self.known.get_mut(place) else { return };
        let (sequence, answer) = match message {
            Message::Lease { sequence, lease } => (sequence, Ok(lease)),
            Message::Refused { sequence, why, contact } => (sequence, Err((why, contact))),
            Message::Ask { .. } => return,
        };
        if !known.quality.answered(now, sequence) {
            return;
        }
        (known.lease, known.refused) = match answer {
            Ok(lease) => match known.check(now, lease, ipv6, || netlink.found_routes(), index) {
                Ok(lease) => (Some(lease), None),
                Err(why) => (None, Some(why)),
            },
            Err((why, contact)) if contact.is_empty() => (None, Some(why.text().to_owned())),
            Err((why, contact)) => (None, Some(format!("{}; ask {contact}", why.text()))),
        };
    }

    /// Picks the gateway to use and makes the kernel's side fit.
    fn choose(&mut self, now: Instant) {
        let prices = self.prices.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let candidates: Vec<Candidate> = (0..)
            .zip(&self.known)
            .map(|(place, known): (usize, _)| Candidate {
                usable: known.lease.is_some() && known.quality.is_alive(now),
                rtt_us: known.quality.rtt_us().unwrap_or(u64::MAX),
                loss_percent: known.quality.loss_percent(),
                price: prices.get(place).copied().flatten(),
            })
            .collect();
        let chosen = self.choice.choose(now, &candidates);
        if chosen != self.current {
            let name = |place: Option<usize>| {
                place.and_then(|place| self.known.get(place)).map_or("none", |known| known.gateway.name.as_str())
            };
            let (gateway, before) = (name(chosen), name(self.current));
            tracing::info!(gateway, before, why = self.choice.why(), "the way to the Internet");
            (self.current, self.since) = (chosen, Some(now));
            self.changes += 1;
            self.show_at = now;
        }
        if let Some(lease) = self.current.and_then(|place| self.known[place].lease.clone()) {
            if let Err(error) = self.take(now, &lease) {
                tracing::warn!(%error, "the lease is not in the kernel");
            }
            if lease.dns != self.resolvers {
                match lead_names(&mut self.netlink, &lease.dns) {
                    Ok(()) => self.write_resolvers(lease.dns),
                    Err(error) => tracing::warn!(%error, "the gateway's name servers are not used"),
                }
            }
        }
    }

    /// Gives the device the lease's address, and leads the Internet there. What does not go there goes nowhere
    /// ([`super::Closed`]), also while no gateway answers: what was meant to be encrypted is not sent in the clear.
    fn take(&mut self, now: Instant, lease: &Lease) -> Result<(), NetlinkError> {
        let index = self.tun.index();
        let mtu = lease.mtu.clamp(MTU_MIN, self.mtu_max);
        if self.mtu != mtu {
            self.netlink.set_up(index, mtu.into())?;
            self.mtu = mtu;
        }
        if self.ipv4 != Some(lease.ipv4) {
            self.netlink.add_address(index, lease.ipv4, 32)?;
            if let Some(old) = self.ipv4.replace(lease.ipv4) {
                self.netlink.delete_address(index, old.into(), 32)?;
                self.routed = None;
            }
        }
        // Others may have taken them away.
        if self.routed.is_none_or(|at| now.saturating_duration_since(at) >= PUT_BACK) {
            for family in Family::BOTH {
                self.netlink.add_route_in(ROUTE_TABLE, family.nowhere(), 0, index)?;
            }
            put_names(&mut self.netlink, &self.resolvers)?;
            self.routed = Some(now);
        }
        Ok(())
    }

    fn write_resolvers(&mut self, resolvers: Vec<IpAddr>) {
        let lines: String = resolvers.iter().map(|server| format!("nameserver {server}\n")).collect();
        let text = format!("{RESOLVERS_HEAD}\n{lines}");
        if let Err(error) = file::replace(&self.resolv_conf, text.as_bytes(), 0o644) {
            tracing::warn!(%error, file = %self.resolv_conf.display(), "name servers are not written down");
        }
        self.resolvers = resolvers;
    }

    fn show(&self, now: Instant) {
        let seconds = |since: Instant| now.saturating_duration_since(since).as_secs();
        let prices = self.prices.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let gateway = |(place, known): (usize, &Known)| InternetGateway {
            name: known.gateway.name.clone(),
            mesh_address: known.gateway.address,
            refuse: known.lease.as_ref().map_or_else(Vec::new, |lease| lease.refuse.clone()),
            in_use: self.current == Some(place),
            answers: known.quality.is_alive(now),
            refused: known.refused.clone(),
            rtt_us: known.quality.rtt_us(),
            loss_percent: known.quality.loss_percent(),
            price: prices.get(place).copied().flatten(),
            ipv4: known.lease.as_ref().map(|lease| lease.ipv4),
            left_bytes: known.lease.as_ref().and_then(|lease| lease.left),
            hours: known.lease.as_ref().and_then(|lease| lease.hours).map(|(from, until)| {
                format!("{:02}:{:02}-{:02}:{:02} UTC", from / 60, from % 60, until / 60, until % 60)
            }),
            contact: known.lease.as_ref().map(|lease| lease.contact.clone()).filter(|contact| !contact.is_empty()),
            sent_bytes: known.sent,
            received_bytes: known.received,
        };
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = InternetState {
            in_use: self.current.and_then(|place| self.known.get(place)).map(|known| known.gateway.name.clone()),
            why: self.choice.why().to_owned(),
            since_s: self.since.map(seconds),
            changes: self.changes,
            tun: self.tun.name().to_owned(),
            ipv4: self.ipv4,
            ipv6: Some(self.ipv6),
            dns: self.resolvers.clone(),
            resolv_conf: self.resolv_conf.display().to_string(),
            gateways: self.known.iter().enumerate().map(gateway).collect(),
        };
    }
}

impl Known {
    fn new(gateway: Gateway) -> Self {
        Self {
            gateway,
            quality: Quality::default(),
            lease: None,
            looked: None,
            refused: None,
            renewed: None,
            sent: 0,
            received: 0,
        }
    }

    /// Looks at what a gateway gives, which is a stranger: it must not take addresses over that mean something else here. Name
    /// servers that do not fit are left out. What routes there are is asked when the lease is another, and now and then.
    fn check(
        &mut self,
        now: Instant,
        mut lease: Lease,
        ipv6: Ipv6Addr,
        routes: impl FnOnce() -> Result<Vec<FoundRoute>, NetlinkError>,
        own_device: u32,
    ) -> Result<Lease, String> {
        const UNUSABLE: &str = "it gives addresses that cannot be used";
        if lease.ipv6 != ipv6 || !is_leasable(lease.ipv4) {
            return Err(UNUSABLE.to_owned());
        }
        let same = |looked: &&Looked| {
            (looked.ipv4, &looked.dns) == (lease.ipv4, &lease.dns)
                && now.saturating_duration_since(looked.at) < LOOK_AGAIN
        };
        if self.looked.as_ref().filter(same).is_none() {
            let mut routes = routes().map_err(|error| format!("its lease cannot be looked at: {error}"))?;
            routes.retain(|route| route.interface != Some(own_device));
            let usable = match in_the_way(&routes, lease.ipv4) {
                Some(FoundRoute { destination, prefix_len, .. }) => Err(format!(
                    "it gives {}, which is in a network of this router's own, {destination}/{prefix_len}: give that another \
                     range, or ask the gateway's owner for another ipv4_pool",
                    lease.ipv4
                )),
                None => Ok(lease.dns.iter().copied().filter(|server| is_name_server(&routes, *server)).collect()),
            };
            self.looked = Some(Looked { at: now, ipv4: lease.ipv4, dns: lease.dns.clone(), usable });
        }
        lease.dns = self.looked.as_ref().map_or(Ok(Vec::new()), |looked| looked.usable.clone())?;
        Ok(lease)
    }
}

/// Whether an address is one that a lease may give: a private one, so that a gateway cannot take a public address over.
fn is_leasable(address: Ipv4Addr) -> bool {
    address.is_private() || is_shared(address)
}

/// Of the range that providers share among their customers (RFC 6598): nobody's own.
fn is_shared(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    a == 100 && b & 0xc0 == 64
}

/// A route that gives an address a meaning here. A provider's network of shared addresses, which the way out of this router
/// begins with, is none of ours; single machines of it are: ourselves, and those that routes lead over.
fn in_the_way(routes: &[FoundRoute], address: Ipv4Addr) -> Option<&FoundRoute> {
    let to = IpAddr::V4(address);
    routes.iter().find(|route| {
        let network = route.prefix_len > DEFAULT_LEN_MAX && (!is_providers(routes, route) || route.prefix_len == 32);
        route.gateway == Some(to) || network && route.holds(to)
    })
}

/// Whether a route leads to a network of shared addresses by an interface that default routes lead to. One that leads over
/// several is any.
fn is_providers(routes: &[FoundRoute], route: &FoundRoute) -> bool {
    let shared = matches!(route.destination, IpAddr::V4(network) if is_shared(network)) && route.prefix_len >= 10;
    let is_default = |other: &&FoundRoute| other.destination.is_ipv4() && other.prefix_len <= DEFAULT_LEN_MAX;
    let mut ways_out = routes.iter().filter(is_default);
    shared && !route.local && ways_out.any(|way| way.interface.is_none() || way.interface == route.interface)
}

/// Whether questions may be sent to a name server by the session: to one on the Internet, or with a private address that
/// means nothing else here. The rule for it leads only questions there, so an address of the provider's network is fine.
fn is_name_server(routes: &[FoundRoute], server: IpAddr) -> bool {
    match server {
        IpAddr::V4(address) if is_shared(address) => {
            let ours = |route: &FoundRoute| route.prefix_len > DEFAULT_LEN_MAX && !is_providers(routes, route);
            !routes.iter().any(|route| ours(route) && route.holds(server))
        }
        IpAddr::V4(address) if address.is_private() => in_the_way(routes, address).is_none(),
        IpAddr::V4(_) | IpAddr::V6(_) => !Forbidden::new(routes, None).holds(server),
    }
}

/// Unique local and link-local addresses, and multicast: no way to the Internet leads there.
fn is_in_mesh(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.octets()[0] >= 0xfc)
}

/// Whether a packet goes to the gateway: from an address of the lease, and out of the mesh; the gateway leads it nowhere but to the
/// Internet. What has another address of this household, as an answer to whoever called it by its provider's, would tell the gateway who it
/// is. A session's own packets come here when the mesh has lost the way to its gateway: sealed again they would come back
/// for ever.
fn is_for_a_session(packet: &[u8], (ipv4, ipv6): (Option<Ipv4Addr>, Ipv6Addr)) -> bool {
    let Some((from, to)) = addresses(packet) else { return false };
    let is_leased = match from {
        IpAddr::V4(from) => ipv4 == Some(from),
        IpAddr::V6(from) => ipv6 == from,
    };
    let is_elsewhere = match to {
        IpAddr::V4(to) => to.is_link_local() || to.is_loopback() || to.is_unspecified(),
        IpAddr::V6(_) => is_in_mesh(to),
    };
    let is_for_all = to.is_multicast() || to == IpAddr::V4(Ipv4Addr::BROADCAST);
    is_leased && !is_for_all && !is_elsewhere
}

impl Side for Sessions {
    fn arrived(&mut self, now: Instant, link: LinkId, packet: &[u8], _answers: &mut Answers) -> bool {
        if packet::is_control(packet) {
            let datagram = packet::parse_control(packet).ok().filter(|datagram| datagram.port == CONTROL_PORT);
            if let Some(message) = datagram.and_then(|datagram| Message::decode(datagram.payload)) {
                self.handle_message(now, link.index(), message);
            }
            return false;
        }
        let ours = addresses(packet).is_some_and(|(_, to)| to == self.ipv6 || self.ipv4.is_some_and(|ipv4| to == ipv4));
        let Some(known) = self.known.get_mut(link.index()).filter(|_| ours) else { return false };
        known.received += packet.len() as u64;
        self.busy = Some(now);
        true
    }

    fn leads(&mut self, now: Instant, packet: &[u8]) -> Option<LinkId> {
        let place = self.current.filter(|_| is_for_a_session(packet, (self.ipv4, self.ipv6)))?;
        self.known.get_mut(place)?.sent += packet.len() as u64;
        self.busy = Some(now);
        Some(LinkId(place as u32))
    }

    fn stranger(&mut self, _now: Instant, _key: WireguardKey) -> Option<LinkId> {
        None
    }

    fn plain(&mut self, from: SocketAddr, datagram: &[u8]) -> Option<Vec<u8>> {
        let key = WireguardKey(datagram.strip_prefix(&KEY_ANSWER)?.try_into().ok()?);
        for known in &mut self.known {
            let gateway = &mut known.gateway;
            if gateway.key.is_none() && from.ip() == gateway.address && mesh_address(&key) == gateway.address {
                gateway.key = Some(key);
                known.renewed = None;
            }
        }
        None
    }

    fn timers(&mut self, now: Instant, wireguard: &mut WireGuard, answers: &mut Answers) {
        let busy = self.busy.is_some_and(|at| now.saturating_duration_since(at) < BUSY);
        for (place, known) in self.known.iter_mut().enumerate() {
            let link = LinkId(place as u32);
            let due = known.renewed.is_none_or(|at| now.saturating_duration_since(at) >= RENEW);
            let endpoint = SocketAddr::new(known.gateway.address.into(), PORT);
            let Some(key) = known.gateway.key else {
                if due {
                    wireguard.send_plain(endpoint, &KEY_QUESTION);
                    known.renewed = Some(now);
                }
                continue;
            };
            if !wireguard.has_peer(link) {
                let peer = PeerConfig { link, key, endpoint: Some(endpoint), tells_congestion: false };
                wireguard.set_peer(now, &peer);
            }
            if due && known.quality.is_silent(now) {
                wireguard.renew(now, link, false);
                known.renewed = Some(now);
            }
            if let Some(sequence) = known.quality.question(now, self.current == Some(place), busy) {
                // A gateway that has forgotten us may have to know again who we are.
                let shows = known.lease.is_none() || sequence.is_multiple_of(SHOW_CARD_EACH);
                let ask = Message::Ask { sequence, card: shows.then(|| self.card.clone()) }.encode();
                answers.push((link, packet::control_packet(CLIENT_INSIDE, GATEWAY_INSIDE, CONTROL_PORT, &ask)));
            }
        }
        self.choose(now);
        if now >= self.show_at {
            self.show_at = now + SHOW_INTERVAL;
            self.show(now);
        }
    }

    fn end(&mut self) {
        // What the file says is true only while the session is there.
        if let Err(error) = file::remove(&self.resolv_conf) {
            tracing::warn!(%error, file = %self.resolv_conf.display(), "name servers are left behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_gives_private_addresses_only() {
        for (address, may) in [("100.64.3.4", true), ("10.0.0.9", true), ("192.168.1.1", true), ("8.8.8.8", false)] {
            assert_eq!(is_leasable(address.parse().unwrap()), may, "{address}");
        }
        assert!(!is_leasable("100.128.0.1".parse().unwrap()) && !is_leasable("127.0.0.1".parse().unwrap()));
    }

    fn route(text: &str, gateway: Option<&str>, local: bool) -> FoundRoute {
        let (destination, len) = text.split_once('/').unwrap();
        let gateway = gateway.map(|text| text.parse().unwrap());
        FoundRoute {
            destination: destination.parse().unwrap(),
            prefix_len: len.parse().unwrap(),
            interface: Some(2),
            gateway,
            local,
        }
    }

    fn lease(ipv4: &str, dns: &[&str]) -> Lease {
        Lease {
            ipv4: ipv4.parse().unwrap(),
            ipv6: "fc12::7".parse().unwrap(),
            dns: dns.iter().map(|text| text.parse().unwrap()).collect(),
            mtu: 1340,
            left: None,
            hours: None,
            contact: String::new(),
            refuse: Vec::new(),
        }
    }

    /// Its LAN is 192.168.1.0/24, and its uplink one of a provider that shares addresses.
    fn household() -> Vec<FoundRoute> {
        vec![
            route("0.0.0.0/0", Some("100.64.0.1"), false),
            route("0.0.0.0/1", Some("100.64.0.1"), false),
            route("192.168.1.1/32", None, true),
            route("192.168.1.0/24", None, false),
            route("10.7.0.0/16", Some("192.168.1.2"), false),
            route("100.64.0.0/10", None, false),
            route("100.70.0.9/32", None, true),
            route("2001:db8:1::/64", None, false),
        ]
    }

    fn checked(known: &mut Known, now: Instant, lease: &Lease) -> Result<Lease, String> {
        known.check(now, lease.clone(), "fc12::7".parse().unwrap(), || Ok(household()), 9)
    }

    fn known() -> Known {
        Known::new(Gateway { name: "roof".to_owned(), address: "fd12::7".parse().unwrap(), key: None })
    }

    #[test]
    fn a_lease_takes_no_address_over_that_means_something_here() {
        let now = carry::clock();
        for (ipv4, may) in [
            ("100.64.3.4", true),
            ("10.8.0.1", true),
            ("192.168.2.1", true),
            ("192.168.1.1", false),
            ("192.168.1.77", false),
            ("192.168.1.2", false),
            ("10.7.9.9", false),
            ("100.64.0.1", false),
            ("100.70.0.9", false),
            ("198.51.100.1", false),
        ] {
            assert_eq!(checked(&mut known(), now, &lease(ipv4, &[])).is_ok(), may, "{ipv4}");
        }
        let said = checked(&mut known(), now, &lease("192.168.1.77", &[])).unwrap_err();
        let wanted = "it gives 192.168.1.77, which is in a network of this router's own, 192.168.1.0/24: give that another \
                      range, or ask the gateway's owner for another ipv4_pool";
        assert_eq!(said, wanted);
        let other = Lease { ipv6: "fc12::8".parse().unwrap(), ..lease("100.64.3.4", &[]) };
        assert!(checked(&mut known(), now, &other).is_err());
    }

    /// Shared addresses are a provider's where the way out begins, and the household's own elsewhere.
    #[test]
    fn a_lan_of_shared_addresses_is_the_household_s_own_and_the_uplink_s_network_is_not() {
        let on = |interface, route: FoundRoute| FoundRoute { interface, ..route };
        let lan = || on(Some(5), route("100.64.3.0/24", None, false));
        let may = |routes: Vec<FoundRoute>, lease: &Lease| {
            known().check(carry::clock(), lease.clone(), lease.ipv6, || Ok(routes), 9)
        };
        let in_lan = lease("100.64.3.4", &["100.64.3.1", "100.64.0.1"]);
        let said = may([household(), vec![lan()]].concat(), &in_lan).unwrap_err();
        assert!(said.contains("100.64.3.0/24: give that another range"), "{said}");
        let beside = lease("100.64.4.4", &["100.64.3.1", "100.64.0.1"]);
        let given = may([household(), vec![lan()]].concat(), &beside).unwrap();
        assert_eq!(given.dns, ["100.64.0.1".parse::<IpAddr>().unwrap()], "the LAN's own name server is another");
        // The whole range, at home: no lease of it can be used.
        assert!(may([household(), vec![on(Some(5), route("100.64.0.0/10", None, false))]].concat(), &beside).is_err());
        // By the uplink all is the provider's, and where it is not known which one that is, too.
        for uplink in [Some(2), None] {
            let default = on(uplink, route("0.0.0.0/0", Some("198.51.100.1"), false));
            let network = route("100.64.3.0/24", None, false);
            assert!(may(vec![default, network], &in_lan).is_ok());
        }
        assert!(may(vec![route("100.64.3.0/24", None, false)], &in_lan).is_err(), "there is no way out");
    }

    #[test]
    fn of_a_lease_s_name_servers_those_that_are_something_else_here_are_left_out_and_it_is_looked_at_now_and_then() {
        let servers = [
            ("100.64.0.1", true),
            ("9.9.9.9", true),
            ("10.8.0.1", true),
            ("2a00::53", true),
            ("100.70.0.9", false),
            ("192.168.1.1", false),
            ("192.168.1.7", false),
            ("127.0.0.1", false),
            ("224.0.0.1", false),
            ("2001:db8:1::1", false),
            ("fd12::1", false),
            ("fe80::1", false),
            ("64:ff9b::c0a8:101", false),
        ];
        for (server, may) in servers {
            let lease = checked(&mut known(), carry::clock(), &lease("100.64.3.4", &[server])).unwrap();
            assert_eq!(lease.dns.len(), usize::from(may), "{server}");
        }
        let (mut known, start) = (known(), carry::clock());
        let given = lease("100.64.3.4", &["192.168.1.1", "9.9.9.9"]);
        let none = || -> Result<Vec<FoundRoute>, NetlinkError> { panic!("it is not asked again so soon") };
        let first = checked(&mut known, start, &given).unwrap();
        assert_eq!(first.dns, ["9.9.9.9".parse::<IpAddr>().unwrap()]);
        let soon = known.check(start + LOOK_AGAIN / 2, given.clone(), given.ipv6, none, 9);
        assert_eq!(soon, Ok(first));
        let later = known.check(start + LOOK_AGAIN, given.clone(), given.ipv6, || Ok(Vec::new()), 9).unwrap();
        assert_eq!(later.dns.len(), 2, "the LAN has another range by then");
    }

    #[test]
    fn a_gateway_gets_what_has_the_lease_s_address_and_is_for_the_internet() {
        let (ipv4, ipv6) = (Ipv4Addr::new(100, 64, 3, 4), "fc12::8".parse::<Ipv6Addr>().unwrap());
        let v4 = |from: Ipv4Addr, to: [u8; 4]| {
            let mut packet = vec![0x45; 20];
            packet[12..16].copy_from_slice(&from.octets());
            packet[16..].copy_from_slice(&to);
            packet
        };
        let v6 = |from: Ipv6Addr, to: &str| {
            let to: Ipv6Addr = to.parse().unwrap();
            [&[0x60; 8][..], &from.octets(), &to.octets()].concat()
        };
        let by_provider = (Ipv4Addr::new(198, 51, 100, 7), "2001:db8::7".parse().unwrap());
        for (packet, is) in [
            (v4(ipv4, [9, 9, 9, 9]), true),
            (v4(ipv4, [10, 8, 0, 1]), true),
            (v4(ipv4, [100, 64, 0, 1]), true),
            (v6(ipv6, "2a00::1"), true),
            (v4(by_provider.0, [9, 9, 9, 9]), false),
            (v6(by_provider.1, "2a00::1"), false),
            (v4(ipv4, [169, 254, 1, 1]), false),
            (v4(ipv4, [239, 255, 255, 250]), false),
            (v4(ipv4, [255; 4]), false),
            (v6(ipv6, "fd49::1"), false),
            (v6(ipv6, "ff02::1"), false),
            (vec![0x45; 12], false),
        ] {
            assert_eq!(is_for_a_session(&packet, (Some(ipv4), ipv6)), is, "{packet:?}");
        }
        assert!(!is_for_a_session(&v4(ipv4, [9, 9, 9, 9]), (None, ipv6)));
    }

    #[test]
    fn what_is_for_the_mesh_never_goes_to_a_gateway() {
        for (address, is) in [("fd49::1", true), ("fe80::1", true), ("ff02::1", true), ("2001:db8::1", false)] {
            assert_eq!(is_in_mesh(address.parse().unwrap()), is, "{address}");
        }
        assert!(!is_in_mesh("198.51.100.1".parse().unwrap()));
    }

    #[test]
    fn addresses_are_read_of_both_kinds_of_packets_and_of_nothing_else() {
        let mut packet = [0x45; 20];
        packet[12..].copy_from_slice(&[10, 0, 0, 1, 192, 0, 2, 1]);
        assert_eq!(addresses(&packet), Some((IpAddr::from([10, 0, 0, 1]), IpAddr::from([192, 0, 2, 1]))));
        assert_eq!(addresses(&packet[..19]), None);
        assert_eq!(addresses(&[0x60; 39]), None);
        assert_eq!(addresses(&[0x55; 60]), None);
        assert_eq!(addresses(&[]), None);
    }
}
