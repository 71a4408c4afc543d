//! The gateway's side: who has a session, with which addresses, and how much it may use.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use metering::{Identity, NodeCard, NodeId, SortedMap, WireguardKey};
use node::datapath::packet;
use node::{LinkId, Prefix};

use super::carry::{self, Answers, Running, Side};
use super::forbidden::Forbidden;
use super::leases::Leases;
use super::nat::{GatewayRules, Nat, own_resolver};
use super::policy::{ANYBODY, Moment, Usage};
use super::watch::{Watch, Watched, Ways};
use super::{
    CLIENT_INSIDE, CONTROL_PORT, GATEWAY_INSIDE, IDLE, MayUse, OVERHEAD, PORT, SWITCHES, Verdict, inner_address,
};
use crate::cli::Failure;
use crate::config::{GatewayOptions, NodeOptions};
use crate::control::{GatewayClient, GatewayState};
use crate::file;
use crate::link::wireguard::WireGuard;
use crate::netlink::{Netlink, NetlinkError};
use crate::router::{civil, unix_seconds};
use crate::tun::Tun;
use crate::worker::packet_len_max;
use node::session::{Lease, Message, Why};

/// A client that was silent for so long makes room for another when all places are taken; and so does one that is refused for
/// a while, however much it says.
const MAKES_ROOM: Duration = Duration::from_secs(30);
const REFUSED_MAKES_ROOM: Duration = Duration::from_secs(10);
/// Those that have begun a handshake and have not sent anything in its session: no more than these wait, each for so long, and
/// makes room for another after a while. A recorded first message can be sent by anybody.
const WAITING_MAX: usize = 32;
const WAITS: Duration = Duration::from_secs(10);
const WAITS_LEAST: Duration = Duration::from_secs(2);
/// How often a place is looked for, for one that waits.
const TRY_EACH: Duration = Duration::from_millis(250);
/// Sessions of one account at a time: its router, one that takes its place, and two more. Keys are free, also a member's.
const OF_ONE_MAX: usize = 4;
/// An address that was given back rests until the kernel has forgotten what was begun from it; where that is not known, as
/// long as it remembers an idle TCP connection by itself.
const REMEMBERS: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_established";
const REMEMBERS_USUALLY_S: u64 = 432_000;
/// What writing down what was used may cost the flash in a day, bytes, of the 10 MiB that a router's may; and what a write
/// costs beside the file itself. It follows how often it is written, and so how much a power cut forgets: some ten minutes.
const WRITTEN_A_DAY: u64 = 2 << 20;
const WRITE_COSTS: u64 = 12 << 10;
/// No account's card is looked at sooner after the last one: a signature is much work.
const CARD_INTERVAL: Duration = Duration::from_secs(2);
/// How often policy is looked at and the state is shown.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A question for our key, as long as its answer so that nobody is flooded with answers to what they did not ask.
pub(super) const KEY_QUESTION: [u8; 40] = *b"Waybill gateway, which is your key?.....";
/// The beginning of its answer; the key follows.
pub(super) const KEY_ANSWER: [u8; 8] = *b"W is key";

/// A gateway that runs. [`Server::stop`] ends it and takes everything back.
pub struct Server {
    running: Running,
    watch: Watch,
    state: Arc<Mutex<GatewayState>>,
    changes: Changes,
    left: Left,
}

/// What one gateway leaves for the next: which addresses rest.
#[derive(Clone, Debug, Default)]
pub struct Left(Arc<Mutex<Option<Leases>>>);

/// What the owner has changed, until the thread of the sessions takes it in.
type Changes = Arc<Mutex<Option<(GatewayOptions, MayUse)>>>;

impl Server {
    /// Starts serving, at the node's own mesh address, which its TUN has to have already. `before`: what [`Server::stop`] of the
    /// one before it left, if there was one.
    ///
    /// # Errors
    /// What the system refuses, with the next step; nothing is left then.
    pub fn start(
        options: &GatewayOptions,
        identity: &Identity,
        node: &NodeOptions,
        may_use: MayUse,
        before: &Left,
    ) -> Result<Self, Failure> {
        let mtu = node.mtu - OVERHEAD;
        let tun = Tun::create_for_both_families(&options.tun, mtu, node.offloads)
            .map_err(|error| Failure::new(&error, error.next_step()))?;
        let mut ways = Ways {
            netlink: Netlink::open().map_err(|error| Failure::new(&error, error.next_step()))?,
            uplink: options.uplink.clone(),
            pool: options.ipv4_pool,
            tun: tun.index(),
        };
        let mut set_up = || {
            let netlink = &mut ways.netlink;
            netlink.set_up(tun.index(), mtu.into())?;
            let pool = options.ipv4_pool;
            netlink.add_address(tun.index(), pool.gateway(), 32)?;
            netlink.claim_route(pool.network().into(), pool.prefix_len(), tun.index())?;
            netlink.claim_route(Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0).into(), 8, tun.index())?;
            ways.look()
        };
        let (forbidden, _) = set_up().map_err(|error: NetlinkError| Failure::new(&error, error.next_step()))?;
        let no_session = |error: io::Error| {
            let next = "is another program using the port at the mesh address?";
            Failure::new(format!("cannot serve sessions on UDP port {PORT}: {error}"), next)
        };
        let wireguard = WireGuard::bind_over_mesh(
            *identity.wireguard_secret(),
            SocketAddr::new(metering::mesh_address(&identity.wireguard_key()).into(), PORT),
            packet_len_max(mtu.into()),
            node.offloads,
            usize::from(options.clients_max) + WAITING_MAX,
            carry::clock(),
        )
        .map_err(no_session)?;
        let local = tun.local().map_err(no_session)?;
        let resolver = options.dns.iter().copied().find(IpAddr::is_ipv4).or_else(own_resolver);
        if resolver.is_none() {
            tracing::warn!("clients get no name server: set dns in [gateway] to one that they can be sent to");
        }
        let (own, len) = metering::mesh_prefix(&identity.wireguard_key());
        let own = Prefix::new(own, len);
        let rules = GatewayRules {
            tun: &options.tun,
            mesh: &node.tun,
            uplink: options.uplink.as_deref(),
            pool: options.ipv4_pool,
            announced: own.into_iter().chain(node.announce.iter().copied().filter(|prefix| prefix.len() > 0)).collect(),
            dns: resolver,
            refuse: &options.refuse,
        };
        let nat = Nat::gateway(&rules, node.state_dir.join(SWITCHES))
            .map_err(|error| Failure::new(&error, error.next_step()))?;
        let state = Arc::new(Mutex::new(GatewayState::default()));
        let key = identity.wireguard_key();
        let mut table = Table::new(options.clone(), key, resolver, mtu, &node.state_dir, &state);
        table.watched = Watched::new(forbidden);
        let watch = Watch::start(nat, Some(ways), Arc::clone(&table.watched)).map_err(no_session)?;
        (table.may_use, table.tun) = (may_use, Some(tun));
        table.goes_on(before);
        let left = table.left.clone();
        let changes = Arc::clone(&table.changes);
        match carry::start("gateway", wireguard, local, mtu.into(), Box::new(table)) {
            Ok(running) => Ok(Self { running, watch, state, changes, left }),
            Err(error) => {
                watch.stop();
                Err(no_session(error))
            }
        }
    }

    /// What it shows to people.
    pub fn state(&self) -> Arc<Mutex<GatewayState>> {
        Arc::clone(&self.state)
    }

    /// Takes other options in within a second or so; what the kernel is set up for has to be the same. Sessions go on.
    pub(crate) fn change(&self, options: GatewayOptions, may_use: MayUse) {
        *self.changes.lock().unwrap_or_else(PoisonError::into_inner) = Some((options, may_use));
    }

    /// Has this router's own leaves with these addresses led out by the uplink, as clients are; counted against nobody.
    pub(crate) fn lead(&self, leaves: Vec<Prefix>) {
        self.watch.lead(leaves);
    }

    /// Ends all sessions and takes back what was set in the kernel. Blocks for as long as that takes. What is left is for the next
    /// one.
    pub fn stop(self) -> Left {
        self.running.stop();
        self.watch.stop();
        self.left
    }
}

/// Somebody who has begun a handshake.
struct Waiting {
    key: WireguardKey,
    who: Who,
    since: Instant,
    /// It has sent something, and found no place; and when a place was looked for last: that costs more than a packet.
    turned_away: bool,
    tried: Option<Instant>,
}

impl Waiting {
    fn may_try(&mut self, now: Instant) -> bool {
        let may = self.tried.is_none_or(|at| now.saturating_duration_since(at) >= TRY_EACH);
        if may {
            self.tried = Some(now);
        }
        may
    }
}

/// Who somebody has shown to be.
#[derive(Clone, Copy, Default)]
struct Who {
    /// Its account, if it showed its card.
    account: Option<NodeId>,
    /// When it last showed one.
    shown: Option<Instant>,
}

impl Who {
    /// Looks at a card. The first that is of its key counts: a node has one account.
    fn take_card(&mut self, now: Instant, key: WireguardKey, card: &[u8]) {
        let lately = |at| now.saturating_duration_since(at) < CARD_INTERVAL;
        if self.account.is_some() || self.shown.is_some_and(lately) {
            return;
        }
        self.shown = Some(now);
        let card = NodeCard::decode(card).ok().filter(|card| card.wireguard() == key);
        self.account = card.and_then(|card| card.verify().ok()).map(|card| card.account());
    }
}

/// How somebody stands with the gateway.
struct Standing {
    verdict: Verdict,
    /// Why it is not served at present.
    why: Option<Why>,
    /// Bytes it may still use.
    left: Option<u64>,
}

/// A client that has a session.
struct Client {
    key: WireguardKey,
    who: Who,
    /// It has caps of its own. While it speaks and is served, nobody without makes it lose its place.
    is_known: bool,
    ipv4: Ipv4Addr,
    ipv6: Ipv6Addr,
    since: Instant,
    heard: Instant,
    /// Bytes from it, and to it.
    sent: u64,
    received: u64,
    /// What it sent with an address that is not its own, packets.
    spoofed: u64,
    /// What it sent to where nobody is let, packets.
    forbidden: u64,
    /// Not counted against the caps yet.
    uncounted: u64,
    /// Since when it is not served.
    refused: Option<Instant>,
}

impl Client {
    /// Takes in how it stands by now.
    fn stands(&mut self, now: Instant, standing: &Standing) {
        self.is_known = matches!(standing.verdict, Verdict::Known(_));
        self.refused = standing.why.map(|_| self.refused.unwrap_or(now));
    }

    /// Whether it makes room, at once for those that are `welcome`: known, and served.
    fn makes_room(&self, now: Instant, welcome: bool) -> bool {
        let for_so_long = |since, most| now.saturating_duration_since(since) >= most;
        for_so_long(self.heard, MAKES_ROOM)
            || self.refused.is_some_and(|since| for_so_long(since, REFUSED_MAKES_ROOM))
            || welcome && !self.is_known
    }
}

/// All clients, as the thread of the sessions has them.
struct Table {
    options: GatewayOptions,
    key: WireguardKey,
    dns: Vec<IpAddr>,
    mtu: u16,
    /// A place for each client, and for those that wait.
    clients: Vec<Option<Client>>,
    waiting: SortedMap<LinkId, Waiting>,
    by_address: HashMap<IpAddr, LinkId>,
    leases: Leases,
    usage: Usage,
    usage_file: PathBuf,
    /// When it was written last, and what it was.
    written: (Instant, Usage),
    look_at: Instant,
    watched: Arc<Watched>,
    forbidden: Arc<Forbidden>,
    state: Arc<Mutex<GatewayState>>,
    /// Strangers that found no place.
    turned_away: u64,
    /// Clients to forget: the link code is told at the next timer.
    forget: Vec<LinkId>,
    may_use: MayUse,
    changes: Changes,
    left: Left,
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
        let usage = Usage::from_text(&text).unwrap_or_else(|| Usage::new(moment()));
        let rest = fs::read_to_string(REMEMBERS).ok().and_then(|text| text.trim().parse().ok());
        let watched = Watched::new(Forbidden::new(&[], None));
        Self {
            key,
            dns: resolver.map(|_| options.ipv4_pool.gateway().into()).into_iter().collect(),
            mtu,
            clients: (0..usize::from(options.clients_max) + WAITING_MAX).map(|_| None).collect(),
            waiting: SortedMap::new(),
            by_address: HashMap::new(),
            leases: Leases::new(options.ipv4_pool, Duration::from_secs(rest.unwrap_or(REMEMBERS_USUALLY_S))),
            written: (now, usage.clone()),
            usage,
            usage_file,
            look_at: now,
            forbidden: watched.forbidden(),
            watched,
            state: Arc::clone(state),
            turned_away: 0,
            forget: Vec::new(),
            options,
            may_use: Box::new(|_, _| Verdict::Anybody),
            changes: Arc::default(),
            left: Left::default(),
            tun: None,
        }
    }

    /// Takes what another gateway of this router left. Where this one does not come to run, it is left for the next.
    fn goes_on(&mut self, before: &Left) {
        self.left = before.clone();
        if let Some(leases) = before.0.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            self.leases = leases.again(self.options.ipv4_pool, self.leases.rest());
        }
    }

    fn client(&mut self, link: LinkId) -> Option<&mut Client> {
        self.clients.get_mut(link.index())?.as_mut()
    }

    /// A place for somebody to wait in: a free one, or that of whoever waited for a while.
    fn place(&mut self, now: Instant) -> Option<LinkId> {
        if self.waiting.len() >= WAITING_MAX {
            let (link, waiting) = self.waiting.iter().min_by_key(|(_, waiting)| waiting.since)?;
            if now.saturating_duration_since(waiting.since) < WAITS_LEAST {
                return None;
            }
            let link = *link;
            self.waiting.remove(&link);
            return Some(link);
        }
        let mut links = (0..).map(LinkId).zip(&self.clients);
        links.find(|(link, client)| client.is_none() && !self.waiting.contains_key(link)).map(|(link, _)| link)
    }

    /// Whoever waited has sent something in its session, and so it is there: it becomes a client, if there is room.
    fn admit(&mut self, now: Instant, link: LinkId) -> bool {
        let Some((key, who)) = self.waiting.get(&link).map(|waiting| (waiting.key, waiting.who)) else { return false };
        let standing = self.standing(&key, who.account, moment().minute);
        let Some(ipv4) = self.room(now, &key, &standing) else {
            if let Some(waiting) = self.waiting.get_mut(&link)
                && !std::mem::replace(&mut waiting.turned_away, true)
            {
                self.turned_away += 1;
            }
            return false;
        };
        self.waiting.remove(&link);
        let ipv6 = inner_address(&key);
        let mut client = Client {
            key,
            who,
            is_known: false,
            ipv4,
            ipv6,
            since: now,
            heard: now,
            sent: 0,
            received: 0,
            spoofed: 0,
            forbidden: 0,
            uncounted: 0,
            refused: None,
        };
        client.stands(now, &standing);
        self.by_address.insert(ipv4.into(), link);
        self.by_address.insert(ipv6.into(), link);
        if let Some(place) = self.clients.get_mut(link.index()) {
            *place = Some(client);
        }
        true
    }

    /// Takes an address for one more client, if there is a place and an address: a free one, or that of whoever makes room.
    fn room(&mut self, now: Instant, key: &WireguardKey, standing: &Standing) -> Option<Ipv4Addr> {
        let welcome = standing.why.is_none() && matches!(standing.verdict, Verdict::Known(_));
        let mut same = Vec::new();
        if let Verdict::Known(account) = standing.verdict {
            same = self.of_account(account);
        }
        if same.len() >= OF_ONE_MAX {
            // One that is silent makes room for another of its own.
            let goes =
                same.into_iter().find(|link| self.client(*link).is_some_and(|client| client.makes_room(now, false)))?;
            self.remove(now, goes);
            self.forget.push(goes);
        }
        let has_place = self.clients.iter().flatten().count() < self.options.clients_max.into();
        if let Some(ipv4) = has_place.then(|| self.leases.lease(now, key)).flatten() {
            return Some(ipv4);
        }
        let all = (0..).map(LinkId).zip(&self.clients).filter_map(|(link, client)| Some((link, client.as_ref()?)));
        // Where addresses are missing, one that would rest is none more.
        let goes = all.filter(|(_, client)| client.makes_room(now, welcome) && (!has_place || client.sent == 0));
        let is_used = |client: &Client| client.refused.is_none() && !client.makes_room(now, false);
        let order = |client: &Client| (is_used(client), client.is_known, client.heard);
        let (link, _) = goes.min_by_key(|(_, client)| order(client))?;
        self.remove(now, link);
        self.forget.push(link);
        self.leases.lease(now, key)
    }

    /// The sessions of an account that has caps of its own, by when they began.
    fn of_account(&self, account: NodeId) -> Vec<LinkId> {
        let all = (0..).map(LinkId).zip(&self.clients).filter_map(|(link, client)| Some((link, client.as_ref()?)));
        let is_its = |client: &Client| (self.may_use)(&client.key, client.who.account) == Verdict::Known(account);
        let mut same: Vec<(Instant, LinkId)> =
            all.filter(|(_, client)| is_its(client)).map(|(link, client)| (client.since, link)).collect();
        same.sort_unstable();
        same.into_iter().map(|(_, link)| link).collect()
    }

    fn remove(&mut self, now: Instant, link: LinkId) {
        self.count(link);
        if let Some(client) = self.clients.get_mut(link.index()).and_then(Option::take) {
            self.by_address.remove(&client.ipv4.into());
            self.by_address.remove(&client.ipv6.into());
            let account = match (self.may_use)(&client.key, client.who.account) {
                Verdict::Known(account) => Some(account),
                Verdict::Anybody | Verdict::Refused => None,
            };
            self.leases.release(now, client.ipv4, client.sent > 0, account);
        }
    }

    /// Counts what a client has used since the last time.
    fn count(&mut self, link: LinkId) {
        if let Some(client) = self.clients.get_mut(link.index()).and_then(Option::as_mut) {
            let bytes = std::mem::take(&mut client.uncounted);
            if bytes > 0 {
                let (key, account) = (client.key, client.who.account);
                self.usage.add(&whose((self.may_use)(&key, account)), bytes);
            }
        }
    }

    /// How a client stands, or somebody who would be one.
    fn standing(&self, key: &WireguardKey, account: Option<NodeId>, minute: u16) -> Standing {
        let verdict = (self.may_use)(key, account);
        let left = self.usage.left(&whose(verdict), &self.options.caps);
        let why = if verdict == Verdict::Refused {
            Some(Why::NotWelcome)
        } else if self.options.hours.is_some_and(|hours| !hours.hold(minute)) {
            Some(Why::Closed)
        } else if left == Some(0) {
            Some(Why::CapReached)
        } else {
            None
        };
        Standing { verdict, why, left }
    }

    /// Reads a question and looks at the card that is shown with it.
    fn asked(&mut self, now: Instant, link: LinkId, payload: &[u8]) -> Option<u64> {
        let Message::Ask { sequence, card } = Message::decode(payload)? else { return None };
        let mut none = None;
        let waits = self.waiting.get_mut(&link).map(|waiting| (&mut waiting.who, waiting.key, &mut waiting.tried));
        let client = self.clients.get_mut(link.index()).and_then(Option::as_mut);
        let (who, key, tried) = waits.or(client.map(|client| (&mut client.who, client.key, &mut none)))?;
        if let Some(card) = card {
            let before = who.account;
            who.take_card(now, key, &card);
            // Whoever has just shown who it is does not wait for that.
            *tried = tried.filter(|_| who.account == before);
        }
        Some(sequence)
    }

    fn answer(&mut self, link: LinkId, sequence: u64) -> Vec<u8> {
        let contact = self.options.contact.clone().unwrap_or_default();
        self.count(link);
        let minute = moment().minute;
        let message = match self.clients.get(link.index()).and_then(Option::as_ref) {
            None => {
                let waits = self.waiting.get(&link).map(|waiting| (waiting.key, waiting.who.account));
                let why = waits.and_then(|(key, account)| self.standing(&key, account, minute).why);
                Message::Refused { sequence, why: why.unwrap_or(Why::Full), contact }
            }
            Some(client) => match self.standing(&client.key, client.who.account, minute) {
                Standing { why: Some(why), .. } => Message::Refused { sequence, why, contact },
                Standing { left, .. } => Message::Lease {
                    sequence,
                    lease: Lease {
                        ipv4: client.ipv4,
                        ipv6: client.ipv6,
                        dns: self.dns.clone(),
                        mtu: self.mtu,
                        left,
                        hours: self.options.hours.map(|hours| (hours.from, hours.until)),
                        contact,
                        refuse: self.options.refuse.iter().map(ToString::to_string).collect(),
                    },
                },
            },
        };
        packet::control_packet(GATEWAY_INSIDE, CLIENT_INSIDE, CONTROL_PORT, &message.encode())
    }

    fn look(&mut self, now: Instant) {
        let moment = moment();
        self.usage.handle_time(moment);
        let changed = self.changes.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((options, may_use)) = changed {
            (self.options, self.may_use) = (options, may_use);
        }
        self.forbidden = self.watched.forbidden();
        let over: Vec<LinkId> = self
            .waiting
            .iter()
            .filter(|(_, waiting)| now.saturating_duration_since(waiting.since) >= WAITS)
            .map(|(link, _)| *link)
            .collect();
        for link in over {
            self.waiting.remove(&link);
            self.forget.push(link);
        }
        self.look_at_accounts(now);
        let mut shown = Vec::new();
        for link in (0..self.clients.len() as u32).map(LinkId) {
            self.count(link);
            let Some(client) = self.clients.get(link.index()).and_then(Option::as_ref) else { continue };
            if now.saturating_duration_since(client.heard) >= IDLE {
                self.remove(now, link);
                self.forget.push(link);
                continue;
            }
            let standing = self.standing(&client.key, client.who.account, moment.minute);
            shown.push(GatewayClient {
                mesh_address: metering::mesh_address(&client.key),
                ipv4: client.ipv4,
                ipv6: client.ipv6,
                since_s: now.saturating_duration_since(client.since).as_secs(),
                heard_s: now.saturating_duration_since(client.heard).as_secs(),
                sent_bytes: client.sent,
                received_bytes: client.received,
                account: client.who.account,
                spoofed_packets: client.spoofed,
                forbidden_packets: client.forbidden,
                left_bytes: standing.left,
                refused: standing.why.map(|why| why.text().to_owned()),
            });
            if let Some(client) = self.client(link) {
                client.stands(now, &standing);
            }
        }
        let caps = &self.options.caps;
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = GatewayState {
            mesh_address: Some(metering::mesh_address(&self.key)),
            pool: format!("{}/{}", self.options.ipv4_pool.network(), self.options.ipv4_pool.prefix_len()),
            clash: self.watched.clash(),
            dns: self.dns.clone(),
            hours: self.options.hours.map(|hours| hours.to_string()),
            open: self.options.hours.is_none_or(|hours| hours.hold(moment.minute)),
            left_bytes: self.usage.left_of_all(caps),
            contact: self.options.contact.clone(),
            refuse: self.options.refuse.iter().map(ToString::to_string).collect(),
            not_carried: self.watched.not_carried(),
            clients_max: self.options.clients_max,
            turned_away: self.turned_away,
            flows_over: self.watched.flows_over(),
            rules_put_back: self.watched.put_back(),
            clients: shown,
        };
    }

    /// Whose account is known only since its card was shown may have more sessions than one may: the latest of them end.
    fn look_at_accounts(&mut self, now: Instant) {
        let mut of: SortedMap<NodeId, Vec<(Instant, LinkId)>> = SortedMap::new();
        for (link, client) in (0..).map(LinkId).zip(&self.clients) {
            if let Some(client) = client
                && let Verdict::Known(account) = (self.may_use)(&client.key, client.who.account)
            {
                of.entry(account).or_default().push((client.since, link));
            }
        }
        for mut same in of.into_values().filter(|same| same.len() > OF_ONE_MAX) {
            same.sort_unstable();
            for (_, link) in same.drain(OF_ONE_MAX..) {
                self.turned_away += 1;
                self.remove(now, link);
                self.forget.push(link);
            }
        }
    }

    /// Writes down what was used, when it is time and there is something to write.
    fn write(&mut self, now: Instant, at_once: bool) {
        let (at, before) = &self.written;
        let text = self.usage.to_text();
        if *before == self.usage || !at_once && now.saturating_duration_since(*at) < write_interval(text.len()) {
            return;
        }
        self.written = (now, self.usage.clone());
        if let Err(error) = file::replace(&self.usage_file, text.as_bytes(), 0o600) {
            tracing::warn!(%error, file = %self.usage_file.display(), "what clients used is not written down");
        }
    }
}

impl Side for Table {
    fn arrived(&mut self, now: Instant, link: LinkId, packet: &[u8], answers: &mut Answers) -> bool {
        let asked = packet::is_control(packet).then(|| packet::parse_control(packet).ok()).flatten();
        let asked = asked.filter(|datagram| datagram.port == CONTROL_PORT);
        let sequence = asked.and_then(|datagram| self.asked(now, link, datagram.payload));
        if self.waiting.get_mut(&link).is_some_and(|waiting| waiting.may_try(now)) {
            self.admit(now, link);
        }
        if let Some(client) = self.client(link) {
            client.heard = now;
        }
        if packet::is_control(packet) {
            answers.extend(sequence.map(|sequence| (link, self.answer(link, sequence))));
            return false;
        }
        let gateway = IpAddr::V4(self.options.ipv4_pool.gateway());
        let forbidden = Arc::clone(&self.forbidden);
        let Some(client) = self.client(link) else { return false };
        let from = |from: &IpAddr| *from == client.ipv4 || *from == client.ipv6;
        let Some((_, to)) = addresses(packet).filter(|(source, _)| from(source)) else {
            client.spoofed += 1;
            return false;
        };
        let is_let = if to == gateway { is_for_gateway(packet) } else { !forbidden.holds(to) };
        if !is_let {
            client.forbidden += 1;
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
        self.forget.retain(|gone| *gone != link);
        self.waiting.insert(link, Waiting { key, who: Who::default(), since: now, turned_away: false, tried: None });
        Some(link)
    }

    fn plain(&mut self, _from: SocketAddr, datagram: &[u8]) -> Option<Vec<u8>> {
        (datagram == KEY_QUESTION).then(|| [&KEY_ANSWER[..], &self.key.0].concat())
    }

    fn timers(&mut self, now: Instant, wireguard: &mut WireGuard, _answers: &mut Answers) {
        if now >= self.look_at {
            self.look_at = now + LOOK_INTERVAL;
            self.look(now);
            self.write(now, false);
        }
        for link in std::mem::take(&mut self.forget) {
            wireguard.remove_peer(link);
        }
    }

    fn end(&mut self) {
        let now = carry::clock();
        for link in (0..self.clients.len() as u32).map(LinkId) {
            self.remove(now, link);
        }
        self.write(now, true);
        *self.left.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.leases.clone());
    }
}

/// Whose caps a client's use counts against: a member may have any number of keys, and all that are none share one.
fn whose(verdict: Verdict) -> WireguardKey {
    match verdict {
        Verdict::Anybody | Verdict::Refused => ANYBODY,
        Verdict::Known(account) => {
            let mut name = [0; 32];
            name[12..].copy_from_slice(&account.0);
            WireguardKey(name)
        }
    }
}

/// How long what was used is not written again, by the file's length.
fn write_interval(len: usize) -> Duration {
    Duration::from_secs(86_400 * (len as u64 + WRITE_COSTS) / WRITTEN_A_DAY)
}

/// Whether an IPv4 packet asks what may be asked of the gateway itself: a name, or whether it is there.
fn is_for_gateway(packet: &[u8]) -> bool {
    const ICMP: u8 = 1;
    const TCP: u8 = 6;
    const UDP: u8 = 17;
    let head = usize::from(packet[0] & 0x0f) * 4;
    let is_first = packet.get(6..8).is_some_and(|at| u16::from_be_bytes([at[0], at[1]]) & 0x1fff == 0);
    let port = packet.get(head + 2..head + 4);
    match packet.get(9) {
        Some(&ICMP) => true,
        Some(&(TCP | UDP)) => is_first && port == Some(&[0, 53]),
        _ => false,
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
            refuse: vec!["tcp/25".parse().unwrap()],
            contact: Some("abuse@example.org".to_owned()),
        };
        let directory = tempfile::tempdir().unwrap();
        let state = Arc::default();
        let mut table = Table::new(options, key(0), None, 1340, directory.path(), &state);
        table.may_use = known();
        (table, directory)
    }

    /// Each key is another member's.
    fn known() -> MayUse {
        Box::new(|key, _| Verdict::Known(NodeId(*key.0.first_chunk().unwrap())))
    }

    /// It begins a handshake, and sends its first question in the session.
    fn joins(table: &mut Table, now: Instant, number: u8) -> LinkId {
        let link = table.stranger(now, key(number)).unwrap();
        assert!(asks(table, now, link).is_some());
        link
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
        let ask = Message::Ask { sequence: 9, card: None }.encode();
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
        let links = [1, 2].map(|number| joins(&mut table, now, number));
        let Some(Message::Lease { sequence: 9, lease }) = asks(&mut table, now, links[0]) else { panic!("a lease") };
        assert_eq!((lease.ipv6, lease.mtu, lease.left), (inner_address(&key(1)), 1340, None));
        assert_eq!(lease.refuse, ["tcp/25"]);
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
        let link = joins(&mut first, now, 1);
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
        let other = joins(&mut first, now, 2);
        assert!(first.arrived(now, other, &packet(inner_address(&key(2)), OUT), &mut none), "each has its own cap");
        first.end();
        let options = first.options.clone();
        let state = Arc::default();
        let mut again = Table::new(options, key(0), None, 1340, directory.path(), &state);
        again.may_use = known();
        let link = joins(&mut again, now, 1);
        assert_eq!(refused(&mut again, link), said);
    }

    #[test]
    fn who_is_known_has_a_cap_for_all_its_keys_and_those_that_nobody_knows_share_one() {
        let (mut table, _directory) = table(8, Caps { client_day: Some(250), ..Caps::default() });
        let member = Identity::new(&metering::Seed::from_bytes([7; 32]));
        let account = member.node_id();
        let by_key = WireguardKey([1; 32]);
        table.may_use = Box::new(move |key, shown| match shown {
            _ if *key == by_key => Verdict::Known(account),
            Some(shown) if shown == account => Verdict::Known(account),
            Some(_) | None => Verdict::Anybody,
        });
        let (mut now, mut answers) = (carry::clock(), Answers::new());
        let send = |table: &mut Table, now, link, key: &WireguardKey| {
            table.arrived(now, link, &packet(inner_address(key), OUT), &mut Answers::new())
        };
        for number in 10..13 {
            let link = joins(&mut table, now, number);
            assert!(send(&mut table, now, link, &key(number)));
            table.look(now);
        }
        let fresh = joins(&mut table, now, 13);
        assert!(!send(&mut table, now, fresh, &key(13)), "another key is no other cap");
        // A member shows its card: one of another key, and one that is not signed, say nothing.
        let own = member.wireguard_key();
        let link = table.stranger(now, own).unwrap();
        let mut damaged = member.card().encode();
        damaged.last_mut().into_iter().for_each(|byte| *byte ^= 1);
        let other = Identity::new(&metering::Seed::from_bytes([8; 32])).card().encode();
        for (card, taken) in [(other, false), (damaged, false), (member.card().encode(), true), (vec![], true)] {
            let ask = Message::Ask { sequence: 1, card: Some(card.clone()) }.encode();
            let ask = packet::control_packet(CLIENT_INSIDE, GATEWAY_INSIDE, CONTROL_PORT, &ask);
            table.arrived(now, link, &ask, &mut answers);
            assert_eq!(table.client(link).unwrap().who.account.is_some(), taken);
            // Again at once: no signature is looked at so soon.
            now += CARD_INTERVAL;
        }
        table.look(now);
        for _ in 0..2 {
            assert!(send(&mut table, now, link, &own));
        }
        let by_key = joins(&mut table, now, 1);
        assert!(send(&mut table, now, by_key, &key(1)));
        table.look(now);
        assert!(!send(&mut table, now, by_key, &key(1)), "its other router has the same cap");
        assert_eq!(table.state.lock().unwrap().clients.iter().filter(|one| one.account == Some(account)).count(), 1);
    }

    #[test]
    fn what_is_used_is_written_some_times_an_hour_however_much_there_is_to_write() {
        let (mut table, _directory) = table(2, Caps::default());
        let start = table.written.0;
        let link = joins(&mut table, start, 1);
        let (mut writes, mut now) = (0, start);
        while now < start + Duration::from_secs(86_400) {
            let before = table.written.0;
            table.arrived(now, link, &packet(inner_address(&key(1)), OUT), &mut Answers::new());
            table.count(link);
            table.write(now, false);
            writes += u64::from(table.written.0 != before);
            now += Duration::from_secs(60);
        }
        assert!((100..=170).contains(&writes), "{writes}");
        table.write(now, false);
        let before = table.written.0;
        table.write(now + Duration::from_secs(86_400), false);
        assert_eq!(table.written.0, before, "there is nothing new");
        let many = write_interval(4096 * 80).as_secs();
        assert!((86_400 / many) * (4096 * 80) < 3 << 20, "{many}");
    }

    #[test]
    fn nothing_goes_to_the_gateway_s_own_networks_and_of_itself_only_what_clients_may_ask() {
        let (mut table, _directory) = table(2, Caps::default());
        let now = carry::clock();
        let link = joins(&mut table, now, 1);
        let own = table.client(link).unwrap().ipv4;
        let udp = |to: [u8; 4], kind: u8, port: u16| {
            let mut packet = vec![0; 28];
            (packet[0], packet[9]) = (0x45, kind);
            packet[12..16].copy_from_slice(&own.octets());
            packet[16..20].copy_from_slice(&to);
            packet[22..24].copy_from_slice(&port.to_be_bytes());
            packet
        };
        let gateway = [100, 64, 0, 1];
        let mut later = udp(gateway, 17, 53);
        later[7] = 1;
        for (what, packet, passes) in [
            ("a far one", udp([9, 9, 9, 9], 17, 443), true),
            ("a name", udp(gateway, 17, 53), true),
            ("a long answer's name", udp(gateway, 6, 53), true),
            ("an echo", udp(gateway, 1, 0), true),
            ("its web page", udp(gateway, 6, 80), false),
            ("a piece of something", later, false),
            ("a protocol without ports", udp(gateway, 47, 53), false),
            ("its LAN", udp([192, 168, 1, 1], 17, 53), false),
            ("another client", udp([100, 64, 7, 7], 17, 53), false),
        ] {
            assert_eq!(table.arrived(now, link, &packet, &mut Answers::new()), passes, "{what}");
        }
        let own = inner_address(&key(1));
        for to in ["64:ff9b::c0a8:101", "64:ff9b:1::c0a8:101", "fd12::1", "::ffff:10.0.0.1"] {
            let packet = packet(own, to.parse().unwrap());
            assert!(!table.arrived(now, link, &packet, &mut Answers::new()), "{to}");
        }
        table.look(now);
        assert_eq!(table.state.lock().unwrap().clients[0].forbidden_packets, 9);
    }

    #[test]
    fn what_the_owner_changes_is_in_effect_for_sessions_that_go_on() {
        let (mut table, _directory) = table(2, Caps::default());
        let now = carry::clock();
        let [first, second] = [1, 2].map(|number| joins(&mut table, now, number));
        let caps = Caps { client_day: Some(150), ..Caps::default() };
        let options = GatewayOptions { caps, contact: Some("us".to_owned()), ..table.options.clone() };
        let may_use: MayUse =
            Box::new(|key, _| if key.0[0] == 2 { Verdict::Refused } else { Verdict::Known(NodeId([key.0[0]; 20])) });
        *table.changes.lock().unwrap() = Some((options, may_use));
        table.look(now);
        let Some(Message::Lease { lease, .. }) = asks(&mut table, now, first) else { panic!("a lease") };
        assert_eq!((lease.left, lease.contact.as_str()), (Some(150), "us"));
        let refused = Message::Refused { sequence: 9, why: Why::NotWelcome, contact: "us".to_owned() };
        assert_eq!(asks(&mut table, now, second), Some(refused));
        assert_eq!(table.state.lock().unwrap().contact.as_deref(), Some("us"));
    }

    #[test]
    fn one_member_has_four_places_however_many_keys_it_makes() {
        let (mut table, _directory) = table(16, Caps::default());
        let (one, other) = (NodeId([1; 20]), NodeId([2; 20]));
        // Of the first, keys from ten to nineteen; what nobody knows, until its card is shown, is refused.
        table.may_use = Box::new(move |key, shown| match key.0[0] {
            10..20 => Verdict::Known(one),
            20..30 => Verdict::Known(other),
            _ => shown.map_or(Verdict::Refused, Verdict::Known),
        });
        let mut now = carry::clock();
        let clients = |table: &Table| table.clients.iter().flatten().count();
        let links: Vec<LinkId> = (10..14).map(|number| joins(&mut table, now, number)).collect();
        let fifth = joins(&mut table, now, 14);
        assert!(table.client(fifth).is_none());
        assert_eq!(
            asks(&mut table, now, fifth),
            Some(Message::Refused { sequence: 9, why: Why::Full, contact: "abuse@example.org".to_owned() })
        );
        let others = joins(&mut table, now, 20);
        assert!(table.client(others).is_some() && clients(&table) == 5, "another member has its own");
        // One that is silent makes room.
        now += MAKES_ROOM;
        for link in links.iter().skip(1) {
            assert!(asks(&mut table, now, *link).is_some());
        }
        let sixth = joins(&mut table, now, 15);
        assert!(table.client(sixth).is_some() && table.client(links[0]).is_none());
        // Whose it is is known only once they are clients.
        let late: Vec<LinkId> = (30..36).map(|number| joins(&mut table, now, number)).collect();
        assert_eq!(clients(&table), 11);
        for link in &late {
            table.client(*link).unwrap().who.account = Some(other);
        }
        table.look(now);
        assert_eq!(clients(&table), 8);
        assert!(table.client(others).is_some(), "the latest end");
    }

    #[test]
    fn a_gateway_that_begins_anew_gives_nobody_an_address_that_rests() {
        let (mut first, directory) = table(300, Caps::default());
        first.options.ipv4_pool = "10.9.8.0/24".parse().unwrap();
        first.leases = Leases::new(first.options.ipv4_pool, Duration::from_secs(7200));
        let now = carry::clock();
        let link = joins(&mut first, now, 1);
        let used = first.client(link).unwrap().ipv4;
        assert!(first.arrived(now, link, &packet(inner_address(&key(1)), OUT), &mut Answers::new()));
        first.end();
        let left = first.left.clone();
        let mut again = Table::new(first.options.clone(), key(0), None, 1340, directory.path(), &Arc::default());
        again.goes_on(&left);
        let given: Vec<_> = (2..=255).filter_map(|number| again.leases.lease(now, &key(number))).collect();
        assert_eq!((given.len(), given.contains(&used)), (252, false));
        assert_eq!(again.leases.lease(now, &key(1)), Some(used), "its owner has it again");
    }

    /// A first message can be recorded and sent again by anybody: its owner does not answer what comes of it.
    #[test]
    fn who_only_begins_a_handshake_takes_no_place_and_waits_for_a_while() {
        let (mut table, _directory) = table(2, Caps::default());
        let start = carry::clock();
        let client = joins(&mut table, start, 1);
        let begun: Vec<LinkId> =
            (0..WAITING_MAX as u8).map(|number| table.stranger(start, key(100 + number)).unwrap()).collect();
        assert_eq!(table.stranger(start, key(2)), None, "so many wait already");
        assert_eq!((table.turned_away, table.waiting.len()), (1, WAITING_MAX));
        table.look(start);
        assert_eq!(table.state.lock().unwrap().clients.len(), 1, "none of them is a client");
        let mut now = start + WAITS_LEAST;
        let other = joins(&mut table, now, 2);
        assert!(begun.contains(&other) && other != client);
        table.look(now);
        assert_eq!(table.state.lock().unwrap().clients.len(), 2);
        now = start + WAITS;
        table.look(now);
        assert!(table.waiting.is_empty());
        assert_eq!(table.forget.len(), WAITING_MAX - 1);
        assert!(!table.forget.contains(&client) && !table.forget.contains(&other));
    }

    #[test]
    fn who_may_not_use_it_is_told_so() {
        let (mut table, _directory) = table(2, Caps::default());
        table.may_use =
            Box::new(|key, _| if *key == WireguardKey([1; 32]) { Verdict::Refused } else { Verdict::Anybody });
        let (now, mut none) = (carry::clock(), Answers::new());
        let links = [1, 2].map(|number| joins(&mut table, now, number));
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
        let [first, second] = [1, 2].map(|number| joins(&mut table, start, number));
        let mut now = start + MAKES_ROOM / 2;
        asks(&mut table, now, second);
        let third = table.stranger(now, key(3)).unwrap();
        for _ in 0..2 {
            let full = Message::Refused { sequence: 9, why: Why::Full, contact: "abuse@example.org".to_owned() };
            assert_eq!(asks(&mut table, now, third), Some(full), "and is told so");
            assert!(!table.arrived(now, third, &packet(inner_address(&key(3)), OUT), &mut Answers::new()));
        }
        assert_eq!(table.turned_away, 1);
        now = start + MAKES_ROOM;
        assert!(matches!(asks(&mut table, now, third), Some(Message::Lease { .. })), "the first one was silent");
        assert_eq!(table.leads(now, &packet(OUT, inner_address(&key(1)))), None);
        assert_eq!(table.leads(now, &packet(OUT, inner_address(&key(3)))), Some(third));
        assert_eq!(table.forget, [first]);
        let fourth = table.stranger(now, key(4)).unwrap();
        assert!(matches!(asks(&mut table, now, fourth), Some(Message::Refused { why: Why::Full, .. })));
        now += IDLE;
        table.look(now);
        assert!(table.state.lock().unwrap().clients.is_empty() && table.by_address.is_empty());
        assert!([first, second, third].iter().all(|link| table.forget.contains(link)));
        let fifth = joins(&mut table, now, 5);
        assert!(!table.forget.contains(&fifth), "the new one is not forgotten");
    }

    /// Strangers ask without end, each with a key of its own.
    #[test]
    fn the_refused_and_the_unknown_make_room_for_who_is_known_and_the_refused_soon_for_all() {
        let (mut table, _directory) = table(2, Caps::default());
        let start = carry::clock();
        let member = Identity::new(&metering::Seed::from_bytes([7; 32]));
        let account = member.node_id();
        table.may_use = Box::new(move |key, shown| match (key.0[0], shown) {
            (_, Some(shown)) if shown == account => Verdict::Known(account),
            (200.., _) => Verdict::Refused,
            _ => Verdict::Anybody,
        });
        let [first, second] = [200, 201].map(|number| joins(&mut table, start, number));
        let mut now = start + REFUSED_MAKES_ROOM / 2;
        let third = table.stranger(now, key(3)).unwrap();
        assert!(matches!(asks(&mut table, now, third), Some(Message::Refused { why: Why::Full, .. })));
        let fourth = table.stranger(now, key(202)).unwrap();
        assert!(matches!(asks(&mut table, now, fourth), Some(Message::Refused { why: Why::NotWelcome, .. })));
        now = start + REFUSED_MAKES_ROOM;
        assert!(asks(&mut table, now, first).is_some(), "its questions keep no place");
        assert!(matches!(asks(&mut table, now, third), Some(Message::Lease { .. })));
        assert!(table.client(second).is_none() || table.client(first).is_none());
        assert_eq!(table.leases.resting(), 0, "nothing was begun from its address");
        // Both places are taken by those that nobody knows, and they use them.
        let fifth = table.stranger(now, key(5)).unwrap();
        assert!(matches!(asks(&mut table, now, fifth), Some(Message::Lease { .. })));
        assert!(table.arrived(now, third, &packet(inner_address(&key(3)), OUT), &mut Answers::new()));
        let sixth = table.stranger(now, key(6)).unwrap();
        assert!(matches!(asks(&mut table, now, sixth), Some(Message::Refused { why: Why::Full, .. })));
        // A place is not looked for with each packet.
        for (later, tried) in [(1, now), (249, now), (250, now + TRY_EACH)] {
            let later = now + Duration::from_millis(later);
            table.arrived(later, sixth, &packet(inner_address(&key(6)), OUT), &mut Answers::new());
            assert_eq!(table.waiting[&sixth].tried, Some(tried));
        }
        let link = table.stranger(now, member.wireguard_key()).unwrap();
        assert!(matches!(asks(&mut table, now, link), Some(Message::Refused { why: Why::Full, .. })), "no card yet");
        let ask = Message::Ask { sequence: 1, card: Some(member.card().encode()) }.encode();
        let ask = packet::control_packet(CLIENT_INSIDE, GATEWAY_INSIDE, CONTROL_PORT, &ask);
        table.arrived(now, link, &ask, &mut Answers::new());
        assert!(table.client(link).is_some_and(|client| client.is_known), "it shows its card and has a place, at once");
        assert_eq!(table.clients.iter().flatten().count(), 2);
        // Nobody unknown takes that one away.
        for number in 20..25 {
            let link = table.stranger(now, key(number)).unwrap();
            asks(&mut table, now, link);
        }
        assert!(table.client(link).is_some());
    }

    #[test]
    fn where_addresses_are_missing_who_is_refused_and_used_none_gives_its_own() {
        let (mut table, _directory) = table(300, Caps::default());
        table.leases = Leases::new("10.9.8.0/24".parse().unwrap(), Duration::from_secs(7200));
        let start = carry::clock();
        table.may_use = Box::new(|key, _| if key.0[0] == 255 { Verdict::Anybody } else { Verdict::Refused });
        for number in 1..=253 {
            joins(&mut table, start, number);
        }
        let link = table.stranger(start, key(255)).unwrap();
        assert!(matches!(asks(&mut table, start, link), Some(Message::Refused { why: Why::Full, .. })));
        assert!(matches!(asks(&mut table, start + REFUSED_MAKES_ROOM, link), Some(Message::Lease { .. })));
    }

    #[test]
    fn hostile_packets_are_survived() {
        let (mut table, _directory) = table(2, Caps::default());
        let (now, mut answers) = (carry::clock(), Answers::new());
        let link = joins(&mut table, now, 1);
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
