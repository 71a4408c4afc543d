//! The household's side: sessions with all its gateways, one of them in use.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use metering::{Identity, WireguardKey, mesh_address};
use node::LinkId;
use node::datapath::packet;

use super::carry::{self, Answers, Running, Side};
use super::choice::{Candidate, Choice, Quality};
use super::message::{Lease, Message};
use super::nat::Nat;
use super::server::{KEY_ANSWER, KEY_QUESTION, addresses};
use super::{CLIENT_INSIDE, CONTROL_PORT, GATEWAY_INSIDE, OVERHEAD, PORT, ROUTE_TABLE, inner_address};
use crate::cli::Failure;
use crate::config::{InternetOptions, NodeOptions};
use crate::control::{InternetGateway, InternetState};
use crate::file;
use crate::link::wireguard::{PeerConfig, WireGuard};
use crate::netlink::{Family, Netlink, NetlinkError, Rule};
use crate::tun::{MTU_MIN, Tun};
use crate::worker::packet_len_max;

/// Rules of the kernel's routing, before its own of 32766: neighbours are reached as ever, then all that has a route of
/// its own is, and then everything goes to the gateway.
const TO_NEIGHBOURS: u32 = 8700;
const SPECIFIC: u32 = 8710;
const DEFAULT: u32 = 8720;
const MAIN_TABLE: u8 = 254;
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
/// Packets passed so lately that the gateway's death would be felt.
const BUSY: Duration = Duration::from_secs(10);
/// How often a session beside a silent one is begun, and a key asked for.
const RENEW: Duration = Duration::from_secs(2);
/// How often the state is shown.
const SHOW_INTERVAL: Duration = Duration::from_secs(1);

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
    nat: Nat,
    netlink: Netlink,
    neighbours: BTreeSet<IpAddr>,
    state: State,
    prices: Prices,
}

impl Client {
    /// Begins, at the node's own mesh address, which its TUN has to have already.
    ///
    /// # Errors
    /// What the system refuses, with the next step; nothing is left then.
    pub fn start(options: &InternetOptions, identity: &Identity, node: &NodeOptions) -> Result<Self, Failure> {
        let mtu = node.mtu - OVERHEAD;
        let key = identity.wireguard_key();
        let tun = Tun::create_for_both_families(&options.tun, mtu, node.offloads)
            .map_err(|error| Failure::new(&error, error.next_step()))?;
        let refused = |error: NetlinkError| Failure::new(&error, error.next_step());
        let mut netlink = Netlink::open().map_err(refused)?;
        remove_rules(&mut netlink).map_err(refused)?;
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
        let nat = Nat::client(&options.tun).map_err(|error| Failure::new(&error, error.next_step()))?;
        let state = Arc::new(Mutex::new(InternetState::default()));
        let prices = Arc::new(Mutex::new(vec![None; options.gateways.len()]));
        let sessions = Sessions::new(options, &key, (&node.state_dir, mtu), tun, (&state, &prices));
        let started = sessions.map_err(refused).and_then(|sessions| {
            carry::start("internet", wireguard, local, mtu.into(), Box::new(sessions)).map_err(no_session)
        });
        match started {
            Ok(running) => Ok(Self { running, nat, netlink, neighbours: BTreeSet::new(), state, prices }),
            Err(failure) => {
                nat.end();
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

    /// Neighbours are reached here below the mesh: packets to there must not go to the gateway.
    pub fn set_neighbours(&mut self, neighbours: &BTreeSet<IpAddr>) {
        let rule =
            |to: IpAddr| Rule { priority: TO_NEIGHBOURS, to: Ok(to), table: MAIN_TABLE, without_defaults: false };
        for gone in self.neighbours.difference(neighbours) {
            if let Err(error) = self.netlink.delete_rule(rule(*gone)) {
                tracing::warn!(%error, "a routing rule was not removed");
            }
        }
        for new in neighbours.difference(&self.neighbours) {
            if let Err(error) = self.netlink.add_rule(rule(*new)) {
                tracing::warn!(%error, "a routing rule was not added");
            }
        }
        self.neighbours.clone_from(neighbours);
    }

    /// Ends all sessions and takes back what was set in the kernel. Blocks for as long as that takes.
    pub fn stop(mut self) {
        self.running.stop();
        if let Err(error) = remove_rules(&mut self.netlink) {
            tracing::warn!(%error, "routing rules are left behind");
        }
        self.nat.end();
    }
}

fn remove_rules(netlink: &mut Netlink) -> Result<(), NetlinkError> {
    [TO_NEIGHBOURS, SPECIFIC, DEFAULT].into_iter().try_for_each(|priority| netlink.delete_rules(priority))
}

/// One gateway, as the thread of the sessions has it.
struct Known {
    gateway: Gateway,
    quality: Quality,
    lease: Option<Lease>,
    refused: Option<String>,
    renewed: Option<Instant>,
    sent: u64,
    received: u64,
}

/// All sessions, in the owner's order, which is also that of their links.
struct Sessions {
    known: Vec<Known>,
    choice: Choice,
    current: Option<usize>,
    since: Option<Instant>,
    ipv6: Ipv6Addr,
    /// The lease's address, as the device has it.
    ipv4: Option<Ipv4Addr>,
    /// The device's MTU: what the mesh leaves here, and at the gateway.
    mtu: u16,
    mtu_max: u16,
    routed: bool,
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
        key: &WireguardKey,
        (state_dir, mtu): (&Path, u16),
        tun: Tun,
        (state, prices): (&State, &Prices),
    ) -> Result<Self, NetlinkError> {
        let known = |gateway: &Gateway| Known {
            gateway: gateway.clone(),
            quality: Quality::default(),
            lease: None,
            refused: None,
            renewed: None,
            sent: 0,
            received: 0,
        };
        Ok(Self {
            known: options.gateways.iter().map(known).collect(),
            choice: Choice::default(),
            current: None,
            since: None,
            ipv6: inner_address(key),
            ipv4: None,
            mtu,
            mtu_max: mtu,
            routed: false,
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
            Ok(lease) if lease.ipv6 != ipv6 || !is_leasable(lease.ipv4) => {
                (None, Some("it gives addresses that cannot be used".to_owned()))
            }
            Ok(lease) => (Some(lease), None),
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
            if let Err(error) = self.take(&lease) {
                tracing::warn!(%error, "the lease is not in the kernel");
            }
            if lease.dns != self.resolvers {
                self.write_resolvers(lease.dns);
            }
        }
    }

    /// Gives the device the lease's address, and leads the Internet there. From the first lease on nothing goes out by
    /// another way, also while no gateway answers: what was meant to be encrypted is not sent in the clear.
    fn take(&mut self, lease: &Lease) -> Result<(), NetlinkError> {
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
                self.routed = false;
            }
        }
        if !self.routed {
            for (family, all) in
                FAMILIES.into_iter().zip([IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)])
            {
                self.netlink.add_route_in(ROUTE_TABLE, all, 0, index)?;
                let rule =
                    |priority, table| Rule { priority, to: Err(family), table, without_defaults: table == MAIN_TABLE };
                self.netlink.add_rule(rule(SPECIFIC, MAIN_TABLE))?;
                self.netlink.add_rule(rule(DEFAULT, ROUTE_TABLE))?;
            }
            self.routed = true;
        }
        Ok(())
    }

    fn write_resolvers(&mut self, resolvers: Vec<IpAddr>) {
        let lines: String = resolvers.iter().map(|server| format!("nameserver {server}\n")).collect();
        let text = format!("# Name servers of the gateway in use, written by waybill.\n{lines}");
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

/// Whether an address is one that a lease may give: a private one, so that a gateway cannot take a public address over.
fn is_leasable(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    address.is_private() || (a == 100 && b & 0xc0 == 64)
}

/// Unique local and link-local addresses, and multicast: no way to the Internet leads there.
fn is_in_mesh(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.octets()[0] >= 0xfc)
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
        // A session's own packets come here when the mesh has lost the way to its gateway: sealed again they would come
        // back for ever.
        let place = self.current.filter(|_| !addresses(packet).is_some_and(|(_, to)| is_in_mesh(to)))?;
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
                wireguard.set_peer(&peer);
            }
            if due && known.quality.is_silent(now) {
                wireguard.renew(link);
                known.renewed = Some(now);
            }
            if let Some(sequence) = known.quality.question(now, self.current == Some(place), busy) {
                let ask = Message::Ask { sequence }.encode();
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
