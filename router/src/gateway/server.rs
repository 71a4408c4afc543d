//! The gateway's side: who has a session, with which addresses, and how much it may use.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use metering::{Identity, WireguardKey};
use node::LinkId;
use node::datapath::packet;

use super::carry::{self, Answers, Running, Side};
use super::leases::Leases;
use super::message::{Lease, Message, Why};
use super::nat::{GatewayRules, Nat, own_resolver};
use super::policy::{Moment, Usage};
use super::{CLIENT_INSIDE, CONTROL_PORT, GATEWAY_INSIDE, IDLE, MayUse, OVERHEAD, PORT, Verdict, inner_address};
use crate::cli::Failure;
use crate::config::{GatewayOptions, NodeOptions};
use crate::control::{GatewayClient, GatewayState};
use crate::file;
use crate::link::wireguard::WireGuard;
use crate::netlink::Netlink;
use crate::router::{civil, unix_seconds};
use crate::tun::Tun;
use crate::worker::packet_len_max;

/// Where the main table is among the kernel's.
const MAIN_TABLE: u8 = 254;
/// A client that was silent for so long makes room for another when all places are taken.
const MAKES_ROOM: Duration = Duration::from_secs(30);
/// How often what was used is written down. A power cut forgets no more than that.
const WRITE_INTERVAL: Duration = Duration::from_secs(3600);
/// How often policy is looked at and the state is shown.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A question for our key, as long as its answer so that nobody is flooded with answers to what they did not ask.
pub(super) const KEY_QUESTION: [u8; 40] = *b"Waybill gateway, which is your key?.....";
/// The beginning of its answer; the key follows.
pub(super) const KEY_ANSWER: [u8; 8] = *b"W is key";

/// A gateway that runs. [`Server::stop`] ends it and takes everything back.
pub struct Server {
    running: Running,
    nat: Nat,
    state: Arc<Mutex<GatewayState>>,
}

impl Server {
    /// Starts serving, at the node's own mesh address, which its TUN has to have already.
    ///
    /// # Errors
    /// What the system refuses, with the next step; nothing is left then.
    pub fn start(
        options: &GatewayOptions,
        identity: &Identity,
        node: &NodeOptions,
        may_use: MayUse,
    ) -> Result<Self, Failure> {
        let mtu = node.mtu - OVERHEAD;
        let tun = Tun::create_for_both_families(&options.tun, mtu, node.offloads)
            .map_err(|error| Failure::new(&error, error.next_step()))?;
        let set_up = || {
            let mut netlink = Netlink::open()?;
            netlink.set_up(tun.index(), mtu.into())?;
            let pool = options.ipv4_pool;
            netlink.add_address(tun.index(), pool.gateway(), 32)?;
            netlink.add_route_in(MAIN_TABLE, pool.network().into(), pool.prefix_len(), tun.index())?;
            netlink.add_route_in(MAIN_TABLE, Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0).into(), 8, tun.index())
        };
        set_up().map_err(|error: crate::netlink::NetlinkError| Failure::new(&error, error.next_step()))?;
        let no_session = |error: io::Error| {
            let next = "is another program using the port at the mesh address?";
            Failure::new(format!("cannot serve sessions on UDP port {PORT}: {error}"), next)
        };
        let wireguard = WireGuard::bind_over_mesh(
            *identity.wireguard_secret(),
            SocketAddr::new(metering::mesh_address(&identity.wireguard_key()).into(), PORT),
            packet_len_max(mtu.into()),
            node.offloads,
            options.clients_max.into(),
            carry::clock(),
        )
        .map_err(no_session)?;
        let local = tun.local().map_err(no_session)?;
        let resolver = options.dns.iter().copied().find(IpAddr::is_ipv4).or_else(own_resolver);
        if resolver.is_none() {
            tracing::warn!("clients get no name server: set dns in [gateway] to one that they can be sent to");
        }
        let rules = GatewayRules {
            tun: &options.tun,
            mesh: &node.tun,
            uplink: options.uplink.as_deref(),
            pool: options.ipv4_pool,
            dns: resolver,
        };
        let nat = Nat::gateway(&rules, node.state_dir.join("gateway-switches"))
            .map_err(|error| Failure::new(&error, error.next_step()))?;
        let state = Arc::new(Mutex::new(GatewayState::default()));
        let key = identity.wireguard_key();
        let mut table = Table::new(options.clone(), key, resolver, mtu, &node.state_dir, &state);
        (table.may_use, table.tun) = (may_use, Some(tun));
        match carry::start("gateway", wireguard, local, mtu.into(), Box::new(table)) {
            Ok(running) => Ok(Self { running, nat, state }),
            Err(error) => {
                nat.end();
                Err(no_session(error))
            }
        }
    }

    /// What it shows to people.
    pub fn state(&self) -> Arc<Mutex<GatewayState>> {
        Arc::clone(&self.state)
    }

    /// Ends all sessions and takes back what was set in the kernel. Blocks for as long as that takes.
    pub fn stop(self) {
        self.running.stop();
        self.nat.end();
    }
}

/// A client that has a session.
struct Client {
    key: WireguardKey,
    ipv4: Ipv4Addr,
    ipv6: Ipv6Addr,
    since: Instant,
    heard: Instant,
    /// Bytes from it, and to it.
    sent: u64,
    received: u64,
    /// What it sent with an address that is not its own, packets.
    spoofed: u64,
    /// Not counted against the caps yet.
    uncounted: u64,
    /// Why it is not served at present.
    refused: Option<Why>,
}

/// All clients, as the thread of the sessions has them.
struct Table {
    options: GatewayOptions,
    key: WireguardKey,
    dns: Vec<IpAddr>,
    mtu: u16,
    clients: Vec<Option<Client>>,
    by_address: HashMap<IpAddr, LinkId>,
    leases: Leases,
    usage: Usage,
    usage_file: PathBuf,
    write_at: Instant,
    look_at: Instant,
    state: Arc<Mutex<GatewayState>>,
    /// Strangers that found no place.
    turned_away: u64,
    /// Clients to forget: the link code is told at the next timer.
    forget: Vec<LinkId>,
    may_use: MayUse,
    /// The device exists as long as this.
    tun: Option<Tun>,
}

impl Table {
    fn new(
        options: GatewayOptions,
        key: WireguardKey,
        resolver: Option<IpAddr>,
        mtu: u16,
        state_dir: &Path,
        state: &Arc<Mutex<GatewayState>>,
    ) -> Self {
        let usage_file = state_dir.join("gateway-usage");
        let text = fs::read_to_string(&usage_file).unwrap_or_default();
        let now = carry::clock();
        Self {
            key,
            dns: resolver.map(|_| options.ipv4_pool.gateway().into()).into_iter().collect(),
            mtu,
            clients: (0..options.clients_max).map(|_| None).collect(),
            by_address: HashMap::new(),
            leases: Leases::new(options.ipv4_pool),
            usage: Usage::from_text(&text).unwrap_or_else(|| Usage::new(moment())),
            usage_file,
            write_at: now + WRITE_INTERVAL,
            look_at: now,
            state: Arc::clone(state),
            turned_away: 0,
            forget: Vec::new(),
            options,
            may_use: Box::new(|_| Verdict::Welcome),
            tun: None,
        }
    }

    fn client(&mut self, link: LinkId) -> Option<&mut Client> {
        self.clients.get_mut(link.index())?.as_mut()
    }

    /// A place for another client: a free one, or that of whoever was silent for long.
    fn place(&mut self, now: Instant) -> Option<LinkId> {
        let links = || (0..).map(LinkId);
        if let Some((link, _)) = links().zip(&self.clients).find(|(_, client)| client.is_none()) {
            return Some(link);
        }
        let all = links().zip(&self.clients).filter_map(|(link, client)| Some((link, client.as_ref()?.heard)));
        let (link, heard) = all.min_by_key(|(_, heard)| *heard)?;
        if now.saturating_duration_since(heard) < MAKES_ROOM {
            return None;
        }
        self.remove(link);
        Some(link)
    }

    fn remove(&mut self, link: LinkId) {
        self.count(link);
        if let Some(client) = self.clients.get_mut(link.index()).and_then(Option::take) {
            self.by_address.remove(&client.ipv4.into());
            self.by_address.remove(&client.ipv6.into());
            self.leases.release(client.ipv4);
        }
    }

    /// Counts what a client has used since the last time.
    fn count(&mut self, link: LinkId) {
        if let Some(client) = self.clients.get_mut(link.index()).and_then(Option::as_mut) {
            let bytes = std::mem::take(&mut client.uncounted);
            if bytes > 0 {
                self.usage.add(&client.key, bytes);
            }
        }
    }

    /// Why a client is not served at present, and what it has left.
    fn standing(&self, key: &WireguardKey, minute: u16) -> (Option<Why>, Option<u64>) {
        let left = self.usage.left(key, &self.options.caps);
        let why = if (self.may_use)(key) != Verdict::Welcome {
            Some(Why::NotWelcome)
        } else if self.options.hours.is_some_and(|hours| !hours.hold(minute)) {
            Some(Why::Closed)
        } else if left == Some(0) {
            Some(Why::CapReached)
        } else {
            None
        };
        (why, left)
    }

    fn answer(&mut self, link: LinkId, payload: &[u8]) -> Option<Vec<u8>> {
        let Message::Ask { sequence } = Message::decode(payload)? else { return None };
        self.count(link);
        let client = self.clients.get(link.index())?.as_ref()?;
        let (why, left) = self.standing(&client.key, moment().minute);
        let contact = self.options.contact.clone().unwrap_or_default();
        let message = match why {
            Some(why) => Message::Refused { sequence, why, contact },
            None => Message::Lease {
                sequence,
                lease: Lease {
                    ipv4: client.ipv4,
                    ipv6: client.ipv6,
                    dns: self.dns.clone(),
                    mtu: self.mtu,
                    left,
                    hours: self.options.hours.map(|hours| (hours.from, hours.until)),
                    contact,
                },
            },
        };
        Some(packet::control_packet(GATEWAY_INSIDE, CLIENT_INSIDE, CONTROL_PORT, &message.encode()))
    }

    fn look(&mut self, now: Instant) {
        let moment = moment();
        self.usage.handle_time(moment);
        let mut shown = Vec::new();
        for link in (0..self.clients.len() as u32).map(LinkId) {
            self.count(link);
            let Some(client) = self.clients.get(link.index()).and_then(Option::as_ref) else { continue };
            if now.saturating_duration_since(client.heard) >= IDLE {
                self.remove(link);
                self.forget.push(link);
                continue;
            }
            let (why, left) = self.standing(&client.key, moment.minute);
            shown.push(GatewayClient {
                mesh_address: metering::mesh_address(&client.key),
                ipv4: client.ipv4,
                ipv6: client.ipv6,
                since_s: now.saturating_duration_since(client.since).as_secs(),
                heard_s: now.saturating_duration_since(client.heard).as_secs(),
                sent_bytes: client.sent,
                received_bytes: client.received,
                spoofed_packets: client.spoofed,
                left_bytes: left,
                refused: why.map(|why| why.text().to_owned()),
            });
            if let Some(client) = self.client(link) {
                client.refused = why;
            }
        }
        let caps = &self.options.caps;
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = GatewayState {
            mesh_address: Some(metering::mesh_address(&self.key)),
            pool: format!("{}/{}", self.options.ipv4_pool.network(), self.options.ipv4_pool.prefix_len()),
            dns: self.dns.clone(),
            hours: self.options.hours.map(|hours| hours.to_string()),
            open: self.options.hours.is_none_or(|hours| hours.hold(moment.minute)),
            left_bytes: self.usage.left_of_all(caps),
            contact: self.options.contact.clone(),
            clients_max: self.options.clients_max,
            turned_away: self.turned_away,
            clients: shown,
        };
    }

    fn write(&self) {
        if let Err(error) = file::replace(&self.usage_file, self.usage.to_text().as_bytes(), 0o600) {
            tracing::warn!(%error, file = %self.usage_file.display(), "what clients used is not written down");
        }
    }
}

impl Side for Table {
    fn arrived(&mut self, now: Instant, link: LinkId, packet: &[u8], answers: &mut Answers) -> bool {
        let Some(client) = self.client(link) else { return false };
        client.heard = now;
        if packet::is_control(packet) {
            let asked = packet::parse_control(packet).ok().filter(|datagram| datagram.port == CONTROL_PORT);
            let answer = asked.and_then(|datagram| self.answer(link, datagram.payload));
            answers.extend(answer.map(|answer| (link, answer)));
            return false;
        }
        if !addresses(packet).is_some_and(|(from, _)| from == client.ipv4 || from == client.ipv6) {
            client.spoofed += 1;
            return false;
        }
        // What is not carried is not counted either: it would use up what there is for all.
        if client.refused.is_some() {
            return false;
        }
        client.sent += packet.len() as u64;
        client.uncounted += packet.len() as u64;
        true
    }

    fn leads(&mut self, _now: Instant, packet: &[u8]) -> Option<LinkId> {
        let (_, to) = addresses(packet)?;
        let link = *self.by_address.get(&to)?;
        let client = self.client(link).filter(|client| client.refused.is_none())?;
        client.received += packet.len() as u64;
        client.uncounted += packet.len() as u64;
        Some(link)
    }

    fn stranger(&mut self, now: Instant, key: WireguardKey) -> Option<LinkId> {
        let Some(link) = self.place(now) else {
            self.turned_away += 1;
            return None;
        };
        let ipv4 = self.leases.lease(&key)?;
        let (refused, _) = self.standing(&key, moment().minute);
        let ipv6 = inner_address(&key);
        let client =
            Client { key, ipv4, ipv6, since: now, heard: now, sent: 0, received: 0, spoofed: 0, uncounted: 0, refused };
        self.by_address.insert(ipv4.into(), link);
        self.by_address.insert(ipv6.into(), link);
        self.forget.retain(|gone| *gone != link);
        *self.clients.get_mut(link.index())? = Some(client);
        Some(link)
    }

    fn plain(&mut self, _from: SocketAddr, datagram: &[u8]) -> Option<Vec<u8>> {
        (datagram == KEY_QUESTION).then(|| [&KEY_ANSWER[..], &self.key.0].concat())
    }

    fn timers(&mut self, now: Instant, wireguard: &mut WireGuard, _answers: &mut Answers) {
        if now >= self.look_at {
            self.look_at = now + LOOK_INTERVAL;
            self.look(now);
        }
        for link in std::mem::take(&mut self.forget) {
            wireguard.remove_peer(link);
        }
        if now >= self.write_at {
            self.write_at = now + WRITE_INTERVAL;
            self.write();
        }
    }

    fn end(&mut self) {
        for link in (0..self.clients.len() as u32).map(LinkId) {
            self.count(link);
        }
        self.write();
    }
}

/// Source and destination of an IP packet.
pub(super) fn addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match packet.first()? >> 4 {
        4 => {
            let (from, to) = (packet.get(12..16)?, packet.get(16..20)?);
            Some((<[u8; 4]>::try_from(from).ok()?.into(), <[u8; 4]>::try_from(to).ok()?.into()))
        }
        6 => {
            let (from, to) = (packet.get(8..24)?, packet.get(24..40)?);
            Some((<[u8; 16]>::try_from(from).ok()?.into(), <[u8; 16]>::try_from(to).ok()?.into()))
        }
        _ => None,
    }
}

/// This moment by the system's clock.
fn moment() -> Moment {
    let seconds = unix_seconds();
    let day = u32::try_from(seconds / 86_400).unwrap_or(u32::MAX);
    let (year, month, _) = civil(day);
    Moment { day, month: u32::try_from(year * 12 + month).unwrap_or(u32::MAX), minute: (seconds / 60 % 1440) as u16 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::Caps;

    fn key(number: u8) -> WireguardKey {
        WireguardKey([number; 32])
    }

    fn table(clients_max: u16, caps: Caps) -> (Table, tempfile::TempDir) {
        let options = GatewayOptions {
            uplink: None,
            tun: "waybill-gw0".to_owned(),
            ipv4_pool: "100.64.0.0/10".parse().unwrap(),
            dns: Vec::new(),
            clients_max,
            caps,
            hours: None,
            contact: Some("abuse@example.org".to_owned()),
        };
        let directory = tempfile::tempdir().unwrap();
        let state = Arc::default();
        (Table::new(options, key(0), None, 1340, directory.path(), &state), directory)
    }

    /// An IPv6 packet of a hundred bytes.
    fn packet(from: Ipv6Addr, to: Ipv6Addr) -> Vec<u8> {
        let mut packet = vec![0; 100];
        (packet[0], packet[5]) = (0x60, 60);
        packet[8..24].copy_from_slice(&from.octets());
        packet[24..40].copy_from_slice(&to.octets());
        packet
    }

    fn asks(table: &mut Table, now: Instant, link: LinkId) -> Option<Message> {
        let ask = Message::Ask { sequence: 9 }.encode();
        let ask = packet::control_packet(CLIENT_INSIDE, GATEWAY_INSIDE, CONTROL_PORT, &ask);
        let mut answers = Answers::new();
        assert!(!table.arrived(now, link, &ask, &mut answers), "it is not for the kernel");
        let (to, answer) = answers.pop()?;
        assert_eq!(to, link);
        Message::decode(packet::parse_control(&answer).ok()?.payload)
    }

    const OUT: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

    #[test]
    fn a_client_sends_from_its_own_addresses_and_gets_what_is_for_them() {
        let (mut table, _directory) = table(4, Caps::default());
        let (now, mut none) = (carry::clock(), Answers::new());
        let links = [1, 2].map(|number| table.stranger(now, key(number)).unwrap());
        let Some(Message::Lease { sequence: 9, lease }) = asks(&mut table, now, links[0]) else { panic!("a lease") };
        assert_eq!((lease.ipv6, lease.mtu, lease.left), (inner_address(&key(1)), 1340, None));
        let other = inner_address(&key(2));
        assert!(table.arrived(now, links[0], &packet(lease.ipv6, OUT), &mut none));
        for spoofed in [other, metering::mesh_address(&key(1)), OUT] {
            assert!(!table.arrived(now, links[0], &packet(spoofed, OUT), &mut none), "{spoofed}");
        }
        assert!(!table.arrived(now, links[0], &[], &mut none) && !table.arrived(now, LinkId(99), &[1], &mut none));
        assert_eq!(table.leads(now, &packet(OUT, other)), Some(links[1]));
        assert_eq!(table.leads(now, &packet(OUT, OUT)), None);
        table.look(now);
        let state = table.state.lock().unwrap().clone();
        let first = &state.clients[0];
        assert_eq!((first.sent_bytes, first.received_bytes, first.spoofed_packets), (100, 0, 4));
        assert_eq!(state.clients[1].received_bytes, 100);
        assert_eq!(table.plain(SocketAddr::from(([1; 16], 1)), &KEY_QUESTION).unwrap()[8..], key(0).0);
        assert_eq!(table.plain(SocketAddr::from(([1; 16], 1)), b"Which?"), None);
    }

    #[test]
    fn who_has_used_its_cap_is_told_so_and_carried_no_further_after_a_restart_too() {
        let caps = Caps { client_day: Some(250), ..Caps::default() };
        let (mut first, directory) = table(4, caps);
        let (now, mut none) = (carry::clock(), Answers::new());
        let link = first.stranger(now, key(1)).unwrap();
        let own = inner_address(&key(1));
        for left in [150, 50, 0] {
            assert!(first.arrived(now, link, &packet(own, OUT), &mut none));
            first.look(now);
            assert_eq!(first.state.lock().unwrap().clients[0].left_bytes, Some(left));
        }
        assert!(!first.arrived(now, link, &packet(own, OUT), &mut none));
        assert_eq!(first.leads(now, &packet(OUT, own)), None);
        let refused = |table: &mut Table, link| match asks(table, now, link) {
            Some(Message::Refused { why, contact, .. }) => (why, contact),
            other => panic!("{other:?}"),
        };
        let said = (Why::CapReached, "abuse@example.org".to_owned());
        assert_eq!(refused(&mut first, link), said);
        let other = first.stranger(now, key(2)).unwrap();
        assert!(first.arrived(now, other, &packet(inner_address(&key(2)), OUT), &mut none), "each has its own cap");
        first.end();
        let options = first.options.clone();
        let state = Arc::default();
        let mut again = Table::new(options, key(0), None, 1340, directory.path(), &state);
        let link = again.stranger(now, key(1)).unwrap();
        assert_eq!(refused(&mut again, link), said);
    }

    #[test]
    fn who_may_not_use_it_is_told_so() {
        let (mut table, _directory) = table(2, Caps::default());
        table.may_use = Box::new(|key| if *key == WireguardKey([1; 32]) { Verdict::Refused } else { Verdict::Welcome });
        let (now, mut none) = (carry::clock(), Answers::new());
        let links = [1, 2].map(|number| table.stranger(now, key(number)).unwrap());
        let answers = links.map(|link| asks(&mut table, now, link));
        assert!(matches!(answers[0], Some(Message::Refused { why: Why::NotWelcome, .. })));
        assert!(matches!(answers[1], Some(Message::Lease { .. })));
        assert!(!table.arrived(now, links[0], &packet(inner_address(&key(1)), OUT), &mut none));
        assert!(table.arrived(now, links[1], &packet(inner_address(&key(2)), OUT), &mut none));
    }

    #[test]
    fn places_are_bounded_and_those_of_the_silent_are_given_to_others() {
        let (mut table, _directory) = table(2, Caps::default());
        let start = carry::clock();
        let [first, second] = [1, 2].map(|number| table.stranger(start, key(number)).unwrap());
        let mut now = start + MAKES_ROOM / 2;
        asks(&mut table, now, second);
        assert_eq!(table.stranger(now, key(3)), None);
        assert_eq!(table.turned_away, 1);
        now = start + MAKES_ROOM;
        assert_eq!(table.stranger(now, key(3)), Some(first));
        assert_eq!(table.leads(now, &packet(OUT, inner_address(&key(1)))), None);
        assert_eq!(table.leads(now, &packet(OUT, inner_address(&key(3)))), Some(first));
        assert_eq!(table.stranger(now, key(4)), None);
        now += IDLE;
        table.look(now);
        assert!(table.state.lock().unwrap().clients.is_empty() && table.by_address.is_empty());
        assert_eq!(table.forget, [first, second]);
        assert_eq!(table.stranger(now, key(5)), Some(first));
        assert_eq!(table.forget, [second], "the new one is not forgotten");
    }

    #[test]
    fn hostile_packets_are_survived() {
        let (mut table, _directory) = table(2, Caps::default());
        let (now, mut answers) = (carry::clock(), Answers::new());
        let link = table.stranger(now, key(1)).unwrap();
        let mut rng = fastrand::Rng::with_seed(5);
        for _ in 0..20_000 {
            let mut packet = vec![0; rng.usize(..120)];
            rng.fill(&mut packet);
            if let Some(first) = packet.first_mut() {
                *first = [0x45, 0x60][rng.usize(..2)];
            }
            assert!(!table.arrived(now, link, &packet, &mut answers));
            assert_eq!(table.leads(now, &packet), None);
        }
        assert!(answers.is_empty());
    }
}
