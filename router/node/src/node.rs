//! The control core of one node.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use babel::{
    Carry, Cost, Destination, Fee, InterfaceConfig, InterfaceId, IpPrefix, LinkSensing, Metric, NeighbourView, Only,
    Policy, Prefix, PrefixPair, RouteView, RouterId, Seqno, Speaker, Trade,
};
use metering::credit::{LEDGER_LINE, LEDGER_LINE_BURST, LIFELINE};
use metering::exchange;
use metering::watch::{PORT as WATCH_PORT, Watch};
use metering::wire::PORT as SETTLEMENT_PORT;
use metering::witness::{PORT as WITNESS_PORT, Witnessing};
use metering::{
    AccountKey, Bytes, ChannelId, ChannelState, Counts, Credit, Exchange, Identity, LedgerDomain, NodeCard, NodeId,
    Price, Receipt, Restored, Role, Setup, Side, Snapshot, SortedMap, SortedSet, Terms, Tokens, WireguardKey,
    link_local, mesh_address, mesh_prefix, watch,
};
use thiserror::Error;

use crate::admission::{ADMISSION_PORT, Admission, AdmissionError, Aside, Expected, Proven};
use crate::datapath::packet::{ControlDatagram, control_packet, parse_control};
use crate::datapath::{Fib, FibBuilder, LinkEntry, LinkPolicy, MAX_LINKS, Meters, Ration, Service, Standing};
use crate::deal::{self, Asking, Deal, Dealing, Prices, Situation};
use crate::path_mtu::{MTU_PORT, NoMessage, PathMtu};
use crate::{DropReason, LinkId};

/// UDP port of Babel (RFC 8966, section 4).
pub const BABEL_PORT: u16 = 6696;
/// For what is carried in one.
const SECOND: Duration = Duration::from_secs(1);
/// Babel's packets are not longer: the shortest MTU of IPv6 (RFC 8200, section 5).
const CONTROL_MTU: u16 = 1280;
/// All nodes of a link (RFC 4291, section 2.7.1): who has shown no WireGuard key has no address yet.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// What is left of a nearly full window is carried in such times, over and over: ever slower, so that a receipt that is
/// late costs speed instead of packets.
const PACE: Duration = Duration::from_millis(800);
/// The time a ration is added for at once, at most, and the longest it can be saved for.
const RATION_MOST: Duration = Duration::from_millis(200);
/// How often settlement learns what links lose.
const LOSSES_INTERVAL: Duration = Duration::from_secs(1);
/// How many neighbours keep copies of our receipts, of whom one may be the payer: the watch fails only if all of them do.
const KEEPERS: usize = 4;
/// What can be saved of a lifeline: one packet of any length, and a few short ones.
const LIFELINE_BURST: Bytes = Bytes::new(4096);
/// What is carried for whoever is no member, in a second, there and back together, and what can be saved of it: enough to become
/// one within moments, and little if it is at our expense.
const VISITOR_RATE: Bytes = Bytes::new(16 << 10);
const VISITOR_BURST: Bytes = Bytes::new(128 << 10);
/// Events that wait for the shell at most: a handful per link. Beyond it the shell has stopped.
const EVENTS_MAX: usize = 16 * MAX_LINKS;

/// What a node is told at its start.
#[derive(Debug, Clone)]
pub struct Config {
    /// Counts the node's starts; durable before the first packet of this one. Names this run in its Babel router-id,
    /// so that nothing from before is mistaken for it.
    pub boot: u64,
    /// Names this run in settlement: above that of every earlier run, so the count of starts is in its upper bits.
    pub session: u64,
    /// Prefixes this node announces besides its own /48.
    pub announce: Vec<Prefix>,
    /// Time between two Hellos on a link.
    pub hello_interval: Duration,
    /// Time between two full Updates on a link.
    pub update_interval: Duration,
    /// How prices take part in choosing routes.
    pub policy: Policy,
    /// What is asked and paid.
    pub prices: Prices,
    /// The ledger receipts are signed for.
    pub domain: LedgerDomain,
    /// Whether neighbours keep copies of our receipts, and we of theirs.
    pub watch: bool,
    /// What is open to neighbours that are no members: where the ledger is served.
    pub open: Vec<Service>,
    /// Seeds jitter; two nodes with equal arguments and seeds do the same for ever.
    pub seed: u64,
}

/// What a link leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A neighbour running Waybill.
    Mesh {
        /// Who it must be.
        card: NodeCard,
        /// What decides what we are to it.
        deal: Deal,
        /// How the link is measured.
        measure: LinkMeasure,
        /// What it may.
        access: Access,
        /// Whether it has to prove its WireGuard key, as the link need not have done so.
        proves: bool,
    },
    /// Whoever has this key: it called us, and nobody named it. It may show its card, and nothing else.
    Stranger {
        /// What the link has proven.
        proven: Proven,
    },
    /// A router that runs another Babel daemon in a stock WireGuard tunnel. It has no card and pays nothing: it is
    /// carried for free, because the owner says so.
    Babel {
        /// How the link is measured.
        measure: LinkMeasure,
    },
    /// A stock WireGuard client with addresses of ours.
    Leaf {
        /// Its addresses.
        prefixes: Vec<Prefix>,
        /// Its IPv4 address, if our own side leads it to the Internet.
        ipv4: Option<Ipv4Addr>,
    },
}

/// What a neighbour may.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Access {
    /// What it pays for, and what is free.
    #[default]
    Full,
    /// It is no member of the community: it may speak with what is open to all ([`Config::open`]) and announce its own
    /// prefix, and nothing is bought or sold.
    Visitor,
}

/// How Babel finds out what a link costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkMeasure {
    /// The cost of the link at its best.
    pub cost: u16,
    /// Whether loss and round trips make it dearer.
    pub sensing: LinkSensing,
    /// Whether the node is to find out how long packets may be: not where the link does so itself, as QUIC.
    pub path_mtu: bool,
}

impl Peer {
    fn measure(&self) -> Option<&LinkMeasure> {
        match self {
            Self::Mesh { measure, .. } | Self::Babel { measure } => Some(measure),
            Self::Leaf { .. } | Self::Stranger { .. } => None,
        }
    }

    fn is_same_node(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Mesh { card, .. }, Self::Mesh { card: other, .. }) => card == other,
            (Self::Babel { .. }, Self::Babel { .. }) => true,
            (Self::Mesh { .. } | Self::Babel { .. } | Self::Leaf { .. } | Self::Stranger { .. }, _) => false,
        }
    }
}

/// A control packet to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// On which link.
    pub link: LinkId,
    /// A whole IPv6 packet.
    pub packet: Vec<u8>,
    /// It must arrive in one piece, or not at all: that is what it is to find out.
    pub uncut: bool,
}

/// What the shell must do or may want to know.
#[derive(Debug, Clone)]
pub enum Event {
    /// The datapath is to use this table.
    Fib(Arc<Fib>),
    /// The neighbour is who it should be. Answer with [`Node::handle_restored`].
    Admitted {
        /// On which link.
        link: LinkId,
        /// The neighbour.
        peer: NodeId,
        /// What we are to it.
        role: Role,
    },
    /// The stranger on a link has shown its card. Say with [`Node::handle_link`] what it is to be.
    Introduced {
        /// On which link.
        link: LinkId,
        /// Who it is.
        card: Box<NodeCard>,
    },
    /// What somebody at the other end of a link did wrong; nothing was done.
    Refused {
        /// On which link.
        link: LinkId,
        /// What it was.
        reason: Refusal,
    },
    /// Settlement with this neighbour wants something done.
    Settlement {
        /// On which link.
        link: LinkId,
        /// The neighbour.
        peer: NodeId,
        /// What.
        event: exchange::Event,
    },
    /// We are something else to this neighbour than before, so another channel matters. Answer with
    /// [`Node::handle_role_restored`].
    Role {
        /// On which link.
        link: LinkId,
        /// The neighbour.
        peer: NodeId,
        /// What we are to it.
        role: Role,
    },
    /// The watch with this neighbour wants something done.
    Watch {
        /// On which link.
        link: LinkId,
        /// The neighbour.
        peer: NodeId,
        /// What.
        event: watch::Event,
    },
    /// A neighbour shows a checkpoint of the ledger that it has accepted, as text. Nobody has looked at it.
    Checkpoint {
        /// On which link.
        link: LinkId,
        /// The neighbour, by its card.
        card: Box<NodeCard>,
        /// The text.
        note: Vec<u8>,
    },
    /// Babel can use the link to this neighbour, or cannot any more.
    Neighbour {
        /// On which link.
        link: LinkId,
        /// Whether it can.
        up: bool,
    },
}

/// Why a control packet was not used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// It is no control packet.
    #[error("not a control packet ({})", _0.name())]
    Packet(DropReason),
    /// It is no Babel packet.
    #[error("not a Babel packet: {0}")]
    Babel(babel::DecodeError),
    /// The neighbour is not who it should be.
    #[error(transparent)]
    Admission(AdmissionError),
    /// A settlement message was not accepted.
    #[error("settlement: {0}")]
    Settlement(exchange::Rejected),
    /// A message of the watch was not accepted.
    #[error("watch: {0}")]
    Watch(watch::Rejected),
    /// It does not say how long packets may be.
    #[error(transparent)]
    PathMtu(NoMessage),
}

/// How a link stands.
#[derive(Debug, Clone)]
pub struct LinkView {
    /// The link.
    pub link: LinkId,
    /// Whether it is up.
    pub up: bool,
    /// The longest packet that may be sent over it, bytes.
    pub mtu: usize,
    /// Whether its neighbour has been admitted.
    pub admitted: bool,
    /// Settlement, once it has begun.
    pub settlement: Option<Snapshot>,
}

/// The control core of one node: routing, admission and settlement with every neighbour.
///
/// Configure links with [`Node::handle_link`], say when they come up and go down, hand in control packets, meters and
/// time. After each `handle_*`, drain [`Node::poll_transmit`] and [`Node::poll_event`]; call [`Node::handle_timeout`]
/// at [`Node::poll_timeout`]. What it decides about data packets leaves it as [`Event::Fib`].
#[derive(Debug)]
pub struct Node {
    config: Config,
    identity: Identity,
    account: AccountKey,
    card: NodeCard,
    ours: Ipv6Addr,
    own: Vec<Prefix>,
    speaker: Speaker,
    links: SortedMap<LinkId, Link>,
    /// As many as the mesh has prefixes.
    routes: BTreeMap<Prefix, Option<LinkId>>,
    /// Whether the table, or only the links in it, differ from the last [`Event::Fib`].
    routes_changed: bool,
    entries: Vec<Option<LinkEntry>>,
    fib: Arc<Fib>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
    metered_at: Option<Instant>,
    losses_told_at: Option<Instant>,
    asking: Asking,
    /// Whether ways that cost money are taken.
    spends: bool,
    /// Receipts on disk that the ledger has not paid, whether their payers are there or not.
    unredeemed: Vec<Receipt>,
}

#[derive(Debug)]
struct Link {
    peer: Peer,
    mtu: usize,
    up: bool,
    admission: Option<Admission>,
    exchange: Option<Exchange>,
    /// Whether what may be saved for speaking with the ledger was given.
    has_ledger_line: bool,
    /// Begins with the exchange.
    watch: Option<Watch>,
    witnessing: Witnessing,
    /// Once the neighbour has been admitted.
    path: Option<PathMtu>,
    /// What being sent something over it costs us, in units of metric.
    toll: u16,
    dealing: Dealing,
    /// Whether the shell was asked what it knows of the channel, and for which session.
    awaited: Option<u64>,
    /// How routing sees the link, and what is told there.
    trade: Option<(Trade, Fee)>,
}

impl Link {
    fn new(peer: Peer, mtu: usize) -> Self {
        Self {
            peer,
            mtu,
            up: false,
            admission: None,
            exchange: None,
            has_ledger_line: false,
            watch: None,
            witnessing: Witnessing::default(),
            path: None,
            toll: 0,
            dealing: Dealing::default(),
            awaited: None,
            trade: None,
        }
    }

    /// Whether its neighbour is our customer.
    fn is_paid_for(&self) -> bool {
        self.exchange.as_ref().is_some_and(|exchange| exchange.side().role() == Role::Provider)
    }

    /// Whether the owners agreed that we pay.
    fn is_agreed_provider(&self) -> bool {
        matches!(self.peer, Peer::Mesh { deal: Deal::Agreed(Side::Subscriber(_)), .. }) && self.is_admitted()
    }

    /// Whether we pay for whatever passes: no route keeps the neighbour from sending to us.
    fn costs(&self) -> bool {
        let Some(exchange) = &self.exchange else { return false };
        let Side::Subscriber(limits) = exchange.side() else { return false };
        exchange.agreed().map_or(limits.max_price, deal::dearer) > Price::FREE
    }

    fn standing(&self, ask: Price) -> Standing {
        match (&self.peer, self.trade) {
            (Peer::Stranger { proven: Proven::Wireguard(key) }, _) => Standing::Visitor(prefix_of(key)),
            (Peer::Stranger { proven: Proven::Tls(_) }, _) => Standing::Guest,
            (Peer::Mesh { access: Access::Visitor, card, .. }, _) => Standing::Visitor(prefix_of(&card.wireguard())),
            (Peer::Mesh { deal, .. }, Some((trade, _))) => deal::standing(*deal, trade, ask),
            (Peer::Mesh { .. } | Peer::Babel { .. } | Peer::Leaf { .. }, _) => Standing::Partner,
        }
    }

    /// Whom of several to ask to keep copies: the lowest first.
    fn keeps_well(&self) -> u8 {
        match self.exchange.as_ref().map(|exchange| exchange.side().role()) {
            Some(Role::Subscriber) => 0,
            Some(Role::Peer) => 1,
            Some(Role::Provider) | None => 2,
        }
    }

    fn is_admitted(&self) -> bool {
        self.admission.as_ref().is_some_and(Admission::is_admitted)
    }

    /// Whether the neighbour may be spoken Babel with: until the shell has said what it knows of a neighbour's account,
    /// the link carries nothing.
    fn may_route(&self) -> bool {
        match &self.peer {
            Peer::Mesh { .. } => self.is_admitted() && self.exchange.is_some(),
            Peer::Babel { .. } => self.up,
            Peer::Leaf { .. } | Peer::Stranger { .. } => false,
        }
    }

    /// Which of the routes that the neighbour announces are used.
    fn only(&self, open: &[Service]) -> Option<Only> {
        match &self.peer {
            Peer::Mesh { card, access: Access::Visitor, .. } => {
                Some(Only { own: prefix_of(&card.wireguard()), open: open.first().map(|(address, _)| *address) })
            }
            Peer::Mesh { .. } | Peer::Babel { .. } | Peer::Leaf { .. } | Peer::Stranger { .. } => None,
        }
    }

    fn is_visitor(&self) -> bool {
        matches!(self.peer, Peer::Mesh { access: Access::Visitor, .. })
    }

    /// The longest packet that may be sent over it.
    fn path_mtu(&self) -> usize {
        self.path.as_ref().map_or(self.mtu, PathMtu::mtu)
    }

    fn policy(&self) -> LinkPolicy {
        match &self.peer {
            Peer::Leaf { prefixes, .. } if self.up => LinkPolicy::Leaf(prefixes.clone()),
            Peer::Babel { .. } if self.up => LinkPolicy::Mesh,
            Peer::Mesh { .. } if self.is_admitted() => match self.exchange.as_ref().map(Exchange::credit) {
                Some(Credit::Open) => LinkPolicy::Mesh,
                Some(Credit::Paced { .. }) => LinkPolicy::Paced,
                Some(Credit::Exhausted { .. }) => LinkPolicy::Exhausted,
                None => LinkPolicy::Closed,
            },
            Peer::Leaf { .. } | Peer::Babel { .. } | Peer::Mesh { .. } | Peer::Stranger { .. } => LinkPolicy::Closed,
        }
    }
}

impl Node {
    /// A node without links.
    pub fn new(now: Instant, identity: &Identity, config: Config) -> Self {
        let key = identity.wireguard_key();
        let (prefix, len) = mesh_prefix(&key);
        let mut own: SortedSet<Prefix> = config.announce.iter().copied().collect();
        own.extend(Prefix::new(prefix, len));
        let router_id = router_id(identity.node_id(), config.boot);
        // The mesh carries plain IPv6, and whoever announces a route must carry its packets.
        let carry = Carry { ipv4: false, source_specific: false };
        let babel = babel::Config { carry, policy: config.policy, ..babel::Config::new(router_id, Seqno(0)) };
        let mut speaker = Speaker::new(now, babel, config.seed);
        for prefix in &own {
            speaker.handle_originate(now, *prefix, Metric::ZERO);
        }
        let mut node = Self {
            identity: identity.clone(),
            account: identity.account().clone(),
            card: *identity.card(),
            ours: link_local(&key),
            own: own.into_iter().collect(),
            speaker,
            links: SortedMap::new(),
            routes: BTreeMap::new(),
            routes_changed: true,
            entries: Vec::new(),
            fib: Arc::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            metered_at: None,
            losses_told_at: None,
            asking: Asking::new(&config.prices),
            spends: true,
            unredeemed: Vec::new(),
            config,
        };
        node.settle(now);
        node
    }

    /// This node's account.
    pub fn id(&self) -> NodeId {
        self.card.account()
    }

    /// This node's address in the mesh.
    pub fn address(&self) -> Ipv6Addr {
        mesh_address(&self.card.wireguard())
    }

    /// The prefixes this node announces.
    pub fn own_prefixes(&self) -> &[Prefix] {
        &self.own
    }

    /// Adds a link, or changes what it leads to. A new link is down until [`Self::handle_link_up`]. Of a known one,
    /// other terms or another cost take effect without interrupting it.
    pub fn handle_link(&mut self, now: Instant, link: LinkId, peer: Peer, mtu: usize) {
        if link.index() >= MAX_LINKS {
            return;
        }
        match self.links.get_mut(&link) {
            Some(known) if known.peer == peer && known.mtu == mtu => {}
            Some(known) if known.mtu == mtu && known.peer.is_same_node(&peer) => {
                let measured_anew = known.peer.measure() != peer.measure();
                known.peer = peer;
                self.speaker.handle_only(now, InterfaceId(link.0), known.only(&self.config.open));
                self.deal(now);
                let unspent = |known: &Link| !known.is_agreed_provider() || !known.costs();
                if !self.spends && !self.links.get(&link).is_some_and(unspent) {
                    self.speaker.handle_interface_down(now, InterfaceId(link.0));
                }
                // Other terms are told as they change; a link that was not to be spent on may be one to use now.
                let restarts = measured_anew || !self.spends;
                if restarts && self.links.get(&link).is_some_and(Link::may_route) {
                    self.start_routing(now, link);
                }
            }
            Some(_) | None => {
                let was_up = self.links.get(&link).is_some_and(|known| known.up);
                self.handle_link_removed(now, link);
                self.routes_changed |= matches!(peer, Peer::Leaf { .. });
                self.links.insert(link, Link::new(peer, mtu));
                if was_up {
                    self.handle_link_up(now, link);
                }
            }
        }
        self.settle(now);
    }

    /// Forgets a link.
    pub fn handle_link_removed(&mut self, now: Instant, link: LinkId) {
        self.handle_link_down(now, link);
        // The highest receipt goes to the journal before the exchange that holds it is forgotten.
        self.with_exchange(now, link, |exchange| exchange.handle_flush(now));
        let removed = self.links.remove(&link);
        self.routes_changed |= removed.is_some_and(|known| matches!(known.peer, Peer::Leaf { .. }));
        self.settle(now);
    }

    /// The link has an authenticated session.
    pub fn handle_link_up(&mut self, now: Instant, link: LinkId) {
        let card = self.card;
        let Some(known) = self.links.get_mut(&link).filter(|known| !known.up) else { return };
        known.up = true;
        match &known.peer {
            Peer::Mesh { card: theirs, proves, .. } => {
                known.admission = Some(Admission::new(&card, theirs.into(), *proves, now));
            }
            Peer::Stranger { proven } => {
                let proves = matches!(proven, Proven::Tls(_));
                known.admission = Some(Admission::new(&card, Expected::stranger(*proven), proves, now));
            }
            Peer::Babel { .. } => self.start_routing(now, link),
            Peer::Leaf { .. } => {}
        }
        self.handle_timeout(now);
    }

    /// The link has no session. Routes over it are lost at once; what was settled stays.
    pub fn handle_link_down(&mut self, now: Instant, link: LinkId) {
        let Some(known) = self.links.get_mut(&link).filter(|known| known.up) else { return };
        known.up = false;
        known.admission = None;
        self.speaker.handle_interface_down(now, InterfaceId(link.0));
        self.settle(now);
    }

    /// The link's owner has no way to the neighbour at the moment, or has one again. Routes over it are lost at once; the
    /// session, who the neighbour is and what was settled stay.
    pub fn handle_link_reach(&mut self, now: Instant, link: LinkId, reachable: bool) {
        let Some(known) = self.links.get(&link).filter(|known| known.up) else { return };
        if !reachable {
            self.speaker.handle_interface_down(now, InterfaceId(link.0));
        } else if known.may_route() {
            self.start_routing(now, link);
        }
        self.settle(now);
    }

    /// The way to the neighbour may be another one, as its address is: how long packets may be is found out anew.
    pub fn handle_way_changed(&mut self, now: Instant, link: LinkId) {
        if let Some(path) = self.links.get_mut(&link).filter(|known| known.up).and_then(|known| known.path.as_mut()) {
            path.handle_way_changed(now);
        }
        self.settle(now);
    }

    /// Nothing has come over the link for a while, although something should have: its neighbour is asked whether it is
    /// there, instead of being waited for.
    pub fn handle_link_silent(&mut self, now: Instant, link: LinkId) {
        self.speaker.handle_interface_doubtful(now, InterfaceId(link.0));
        self.handle_timeout(now);
    }

    /// A control packet, as the datapath's verdict says: the whole IPv6 packet.
    pub fn handle_control(&mut self, now: Instant, link: LinkId, packet: &[u8]) {
        if let Err(reason) = self.control(now, link, packet) {
            self.push_event(Event::Refused { link, reason });
        }
        self.settle(now);
    }

    fn control(&mut self, now: Instant, link: LinkId, packet: &[u8]) -> Result<(), Refusal> {
        let datagram = parse_control(packet).map_err(Refusal::Packet)?;
        let Some(known) = self.links.get_mut(&link).filter(|known| known.up) else {
            return Err(Refusal::Packet(DropReason::LinkDown));
        };
        if datagram.port == BABEL_PORT && matches!(known.peer, Peer::Babel { .. }) {
            return self.babel(now, link, &datagram);
        }
        match (datagram.port, &mut known.admission, &mut known.exchange) {
            (ADMISSION_PORT, Some(admission), _) => {
                let admitted = match (Aside::read(datagram.payload), &known.peer) {
                    (Some(Aside::Asked), _) => {
                        // A stranger is proven it as well, once it has shown who it is: it may wait for it before it proves its own.
                        let card = match &known.peer {
                            Peer::Mesh { card, .. } => Some(card),
                            Peer::Stranger { .. } | Peer::Babel { .. } | Peer::Leaf { .. } => admission.card(),
                        };
                        if let Some(card) = card.copied() {
                            admission.handle_asked(|| self.identity.prove_wireguard(&card));
                        }
                        Ok(false)
                    }
                    (Some(Aside::Proof(proof)), _) => {
                        admission.handle_proof(now, |card| self.identity.has_proven_wireguard(card, proof))
                    }
                    (None, _) => admission.handle_message(now, datagram.payload),
                };
                if admitted.map_err(Refusal::Admission)? {
                    self.admit(now, link);
                }
                Ok(())
            }
            (MTU_PORT, Some(admission), _) if admission.is_admitted() => match &mut known.path {
                Some(path) => path.handle_message(now, datagram.payload, packet.len()).map_err(Refusal::PathMtu),
                None => Ok(()),
            },
            (BABEL_PORT, Some(admission), _) if admission.is_admitted() => self.babel(now, link, &datagram),
            (SETTLEMENT_PORT, Some(admission), Some(exchange)) if admission.is_admitted() => {
                let session = exchange.their_session();
                let taken = exchange.handle_message(now, datagram.payload).map_err(Refusal::Settlement);
                if let Some(watch) = known.watch.as_mut().filter(|_| exchange.their_session() != session) {
                    // It may have lost what it had, though the link has not noticed.
                    watch.handle_met(now);
                }
                taken
            }
            (WATCH_PORT, Some(admission), _) if admission.is_admitted() => match &mut known.watch {
                Some(watch) => watch.handle_message(now, datagram.payload).map_err(Refusal::Watch),
                None => Ok(()),
            },
            (WITNESS_PORT, Some(admission), _) if admission.is_admitted() => {
                if let Peer::Mesh { card, .. } = &known.peer
                    && known.witnessing.hears(now, datagram.payload)
                {
                    let (card, note) = (Box::new(*card), datagram.payload.to_vec());
                    self.push_event(Event::Checkpoint { link, card, note });
                }
                Ok(())
            }
            // Before admission, or before the shell has said what it knows: the neighbour repeats what matters.
            (BABEL_PORT | SETTLEMENT_PORT | MTU_PORT | WATCH_PORT | WITNESS_PORT, Some(_), _) => Ok(()),
            _ => Err(Refusal::Packet(DropReason::UnexpectedControl)),
        }
    }

    fn babel(&mut self, now: Instant, link: LinkId, datagram: &ControlDatagram<'_>) -> Result<(), Refusal> {
        let to = match datagram.destination {
            group if group.is_multicast() => Destination::Multicast,
            address => Destination::Unicast(address),
        };
        if datagram.source_port != BABEL_PORT {
            return Err(Refusal::Packet(DropReason::UnexpectedControl));
        }
        self.speaker
            .handle_packet(now, InterfaceId(link.0), datagram.source, to, datagram.payload)
            .map_err(Refusal::Babel)
    }

    /// The neighbour is who it should be: the shell is asked what it knows of its account. Routing waits for the
    /// answer, for until then the link carries nothing.
    fn admit(&mut self, now: Instant, link: LinkId) {
        let Some(known) = self.links.get_mut(&link) else { return };
        let (card, measure, deal) = match (&known.peer, &known.admission) {
            (Peer::Mesh { card, measure, deal, .. }, _) => (card, measure, deal),
            (Peer::Stranger { .. }, Some(admission)) => {
                if let Some(card) = admission.card().copied() {
                    self.push_event(Event::Introduced { link, card: Box::new(card) });
                }
                return;
            }
            _ => return,
        };
        let (peer, max) = (card.account(), known.mtu);
        let role = known.exchange.as_ref().map_or(deal.first_role(), |exchange| exchange.side().role());
        match &mut known.path {
            Some(path) => path.handle_way_changed(now),
            path @ None => *path = measure.path_mtu.then(|| PathMtu::new(now, max)),
        }
        self.push_event(Event::Admitted { link, peer, role });
    }

    fn start_routing(&mut self, now: Instant, link: LinkId) {
        let may = |known: &&Link| self.spends || !known.is_agreed_provider() || !known.costs();
        let Some(known) = self.links.get(&link).filter(may) else { return };
        let measure = match &known.peer {
            Peer::Mesh { measure, .. } | Peer::Babel { measure } => measure,
            Peer::Leaf { .. } | Peer::Stranger { .. } => return,
        };
        let (trade, fee) = known.trade.map_or((None, Fee::default()), |(trade, fee)| (Some(trade), fee));
        let tunnel = InterfaceConfig::tunnel(self.ours);
        let config = InterfaceConfig {
            cost: Cost::new(measure.cost),
            sensing: measure.sensing,
            rtt: tunnel.rtt.filter(|_| measure.sensing == LinkSensing::Measured),
            hello_interval: self.config.hello_interval,
            update_interval: self.config.update_interval,
            // Of what the mesh needs most, nothing is longer than any way may be.
            mtu: u16::try_from(known.mtu).unwrap_or(u16::MAX).min(CONTROL_MTU),
            fee,
            trade,
            toll: known.toll,
            only: known.only(&self.config.open),
            ..tunnel
        };
        self.speaker.handle_interface_up(now, InterfaceId(link.0), config);
    }

    /// What the shell knows of an admitted neighbour's account, in that role of ours: the answer to [`Event::Admitted`].
    /// Routing begins. A neighbour that was admitted before, in this run, goes on where it stood; `counts` are the link's
    /// counters at this moment.
    pub fn handle_restored(&mut self, now: Instant, link: LinkId, counts: Counts, role: Role, restored: Restored) {
        let Some(known) = self.links.get_mut(&link) else { return };
        if let (Peer::Mesh { card, deal, .. }, None) = (&known.peer, &known.exchange) {
            let side = known.dealing.side(now, *deal, &self.config.prices, self.asking.current(), Situation::NEW);
            // Another role than the shell was asked about: what it knows of that one is asked for next.
            let fits = side.role() == role;
            let restored = if fits { restored } else { Restored::default() };
            let setup = Setup {
                account: self.account.clone(),
                peer: card.account(),
                domain: self.config.domain,
                side,
                session: self.config.session,
                counts,
                restored,
            };
            let (us, peer) = (self.account.node_id(), card.account());
            known.watch = self.config.watch.then(|| Watch::new(us, peer, self.config.domain, now));
            let exchange = known.exchange.insert(Exchange::new(setup, now));
            if !fits {
                exchange.await_restored();
            }
        } else {
            self.take_restored(now, link, role, restored);
            if let Some(watch) = self.links.get_mut(&link).and_then(|known| known.watch.as_mut()) {
                watch.handle_met(now);
            }
        }
        self.deal(now);
        if self.links.get(&link).is_some_and(Link::is_admitted) {
            self.start_routing(now, link);
        }
        self.settle(now);
    }

    /// What the shell knows of the channel that matters now: the answer to [`Event::Role`].
    pub fn handle_role_restored(&mut self, now: Instant, link: LinkId, role: Role, restored: Restored) {
        self.take_restored(now, link, role, restored);
        self.settle(now);
    }

    /// An answer for what we were before is of no use any more; the one for what we are is on its way.
    fn take_restored(&mut self, now: Instant, link: LinkId, role: Role, restored: Restored) {
        let exchange = self.links.get_mut(&link).and_then(|known| known.exchange.as_mut());
        if let Some(exchange) = exchange.filter(|exchange| exchange.side().role() == role) {
            exchange.handle_restored(now, restored);
        }
    }

    /// The owner has other prices: terms and routes follow. What neighbours are to us is told with [`Node::handle_link`].
    pub fn handle_prices(&mut self, now: Instant, policy: Policy, prices: Prices) {
        let upstream = self.speaker.selected(way_out()).map(|route| price_of(&route));
        self.asking.follow(now, &self.config.prices, &prices, upstream);
        (self.config.policy, self.config.prices) = (policy, prices);
        let price_max = if self.spends { policy.price_max } else { babel::Price::ZERO };
        self.speaker.handle_policy(now, Policy { price_max, ..policy });
        self.deal(now);
        self.settle(now);
    }

    /// Whether ways that cost money may be taken. What was carried until now is paid in any case.
    pub fn handle_spending(&mut self, now: Instant, allowed: bool) {
        if self.spends == allowed {
            return;
        }
        self.spends = allowed;
        let policy = self.config.policy;
        let price_max = if allowed { policy.price_max } else { babel::Price::ZERO };
        self.speaker.handle_policy(now, Policy { price_max, ..policy });
        let providers = self.links.iter().filter(|(_, known)| known.is_agreed_provider());
        let providers: Vec<(LinkId, bool)> = providers.map(|(link, known)| (*link, known.costs())).collect();
        for (link, costs) in providers {
            if allowed {
                self.start_routing(now, link);
            } else if costs {
                self.speaker.handle_interface_down(now, InterfaceId(link.0));
            }
        }
        self.settle(now);
    }

    /// What we are to the neighbour on a link, as far as that is settled.
    pub fn role(&self, link: LinkId) -> Option<Role> {
        Some(self.links.get(&link)?.exchange.as_ref()?.side().role())
    }

    /// What we ask of customers at present.
    pub fn ask(&self) -> Price {
        self.asking.current()
    }

    /// Decides what neighbours are to us, and at which price, and tells settlement, routing and the shell.
    fn deal(&mut self, now: Instant) {
        let out = self.speaker.selected(way_out());
        let upstream = out.as_ref().map(price_of);
        let over = out.and_then(|route| route.neighbour).map(|(interface, _)| LinkId(interface.0));
        let costs = upstream.is_some_and(|price| price > Price::FREE);
        let somebody_pays = self.links.values().any(Link::is_paid_for);
        self.asking.look(now, &self.config.prices, upstream, somebody_pays);
        let ask = self.asking.current();
        let mut events = Vec::new();
        for (link, known) in &mut self.links {
            let (Peer::Mesh { card, deal, .. }, Some(exchange)) = (&known.peer, &mut known.exchange) else { continue };
            let situation = Situation {
                needed: costs && over == Some(*link),
                theirs: exchange.their_role(),
                ours: exchange.side().role(),
                owing: exchange.owed() > Tokens::ZERO,
            };
            let side = known.dealing.side(now, *deal, &self.config.prices, ask, situation);
            exchange.handle_side(now, side);
            known.dealing.note_asked(now, exchange.asked(), self.speaker.told(way_out(), InterfaceId(link.0)));
            let ours = exchange.side().role();
            let awaited = exchange.awaits_restored();
            if awaited.is_some() && awaited != known.awaited {
                events.push(Event::Role { link: *link, peer: card.account(), role: ours });
            }
            known.awaited = awaited;
            let trade = known.dealing.trade(*deal, ours, exchange.agreed());
            let fee = deal::fee(*deal, exchange.side(), ask);
            if known.trade != Some((trade, fee)) {
                known.trade = Some((trade, fee));
                self.speaker.handle_trade(now, InterfaceId(link.0), Some(trade), fee);
            }
        }
        for event in events {
            self.push_event(event);
        }
    }

    /// Settles as far as can be without waiting for the next tick: before a redemption, and before a shutdown.
    pub fn handle_flush(&mut self, now: Instant) {
        for exchange in self.links.values_mut().filter_map(|known| known.exchange.as_mut()) {
            exchange.handle_flush(now);
        }
        self.settle(now);
    }

    /// The node is about to end: neighbours are told that nothing is reached through it any more, and given the newest
    /// receipts to keep.
    pub fn handle_goodbye(&mut self, now: Instant) {
        self.tell_watches(now);
        for watch in self.links.values_mut().filter_map(|known| known.watch.as_mut()) {
            watch.handle_flush(now);
        }
        self.speaker.handle_goodbye();
        self.settle(now);
    }

    /// What the datapath has carried so far. To be called often enough that no window fills unseen.
    pub fn handle_meters(&mut self, now: Instant, meters: &Meters) {
        let since = self.metered_at.replace(now).map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let since = since.min(RATION_MOST);
        self.tell_losses(now);
        for (link, known) in &mut self.links {
            if known.is_visitor() {
                meters.add_ration(*link, Ration::Any, share_of(VISITOR_RATE, since, SECOND), VISITOR_BURST);
            }
            if let Some(exchange) = &mut known.exchange {
                let count = meters.read(*link);
                exchange.handle_counts(now, Counts { sent: count.sent, received: count.received });
                ration(meters, *link, exchange.credit(), since);
                let began = std::mem::replace(&mut known.has_ledger_line, true);
                let line = if began { share_of(LEDGER_LINE, since, SECOND) } else { LEDGER_LINE_BURST };
                meters.add_ration(*link, Ration::Open, line, LEDGER_LINE_BURST);
            }
        }
        self.settle(now);
    }

    /// Settlement does not take for owed what the links lose.
    fn tell_losses(&mut self, now: Instant) {
        if self.losses_told_at.is_some_and(|at| now < at + LOSSES_INTERVAL) {
            return;
        }
        self.losses_told_at = Some(now);
        self.tell_watches(now);
        for neighbour in self.speaker.neighbours() {
            let known = self.links.get_mut(&LinkId(neighbour.interface.0));
            if let Some(exchange) = known.and_then(|known| known.exchange.as_mut()) {
                exchange.handle_link_loss(neighbour.lost_ppm);
            }
        }
    }

    /// Says what a few neighbours are to keep: our providers first, who are nearer to the ledger than we are.
    fn tell_watches(&mut self, now: Instant) {
        let mut copies: SortedMap<ChannelId, Receipt> = SortedMap::new();
        let newest = self.links.values().filter_map(|known| known.exchange.as_ref()?.unredeemed());
        for receipt in self.unredeemed.iter().chain(newest) {
            let copy = copies.entry(receipt.channel()).or_insert(*receipt);
            if receipt.amount() > copy.amount() {
                *copy = *receipt;
            }
        }
        // Where there are more than a neighbour keeps, those that most is signed on.
        let mut copies: Vec<Receipt> = copies.into_values().collect();
        copies.sort_by_key(|receipt| std::cmp::Reverse(receipt.amount()));
        copies.truncate(watch::KEPT_MAX);
        let there = self.links.iter().filter(|(_, known)| known.is_admitted());
        let mut keepers: Vec<(bool, u8, LinkId)> = there
            .filter_map(|(link, known)| Some((known.watch.as_ref()?.is_deaf(now), known.keeps_well(), *link)))
            .collect();
        keepers.sort_unstable();
        keepers.truncate(KEEPERS);
        for (link, known) in &mut self.links {
            let wanted = keepers.iter().any(|(.., keeper)| keeper == link);
            if let Some(watch) = &mut known.watch {
                watch.handle_ours(now, copies.iter().copied(), wanted);
            }
        }
    }

    /// The receipts on disk that the ledger has not paid: neighbours keep copies of these too, wherever their payers are.
    pub fn handle_unredeemed(&mut self, receipts: Vec<Receipt>) {
        self.unredeemed = receipts;
    }

    /// Shows an admitted neighbour a checkpoint of the ledger: `false`, where there is none on this link.
    pub fn handle_checkpoint(&mut self, now: Instant, link: LinkId, note: &[u8]) -> bool {
        let Some(known) = self.links.get_mut(&link).filter(|known| known.up && known.is_admitted()) else {
            return false;
        };
        known.witnessing.show(note);
        self.settle(now);
        true
    }

    /// A receipt that is kept for the neighbour on this link is on disk.
    pub fn handle_kept(&mut self, now: Instant, link: LinkId, receipt: Receipt) {
        if let Some(watch) = self.links.get_mut(&link).and_then(|known| known.watch.as_mut()) {
            watch.handle_kept(now, receipt);
        }
        self.settle(now);
    }

    /// What the neighbour on this link last asked to be kept of that channel is not kept.
    pub fn handle_not_kept(&mut self, link: LinkId, channel: &ChannelId) {
        if let Some(watch) = self.links.get_mut(&link).and_then(|known| known.watch.as_mut()) {
            watch.handle_not_kept(channel);
        }
    }

    /// Nothing is kept on that channel for the neighbour on this link any more.
    pub fn handle_forgotten(&mut self, link: LinkId, channel: &ChannelId) {
        if let Some(watch) = self.links.get_mut(&link).and_then(|known| known.watch.as_mut()) {
            watch.forget(channel);
        }
    }

    /// What neighbours say they keep of our receipts.
    pub fn kept(&self) -> impl Iterator<Item = (LinkId, ChannelId, Tokens)> + '_ {
        let watches = self.links.iter().filter_map(|(link, known)| Some((*link, known.watch.as_ref()?)));
        watches.flat_map(|(link, watch)| watch.kept().map(move |(channel, amount)| (link, channel, amount)))
    }

    /// The ledger's view of a channel with this neighbour.
    pub fn handle_channel(&mut self, now: Instant, link: LinkId, channel: ChannelState) {
        self.with_exchange(now, link, |exchange| exchange.handle_channel(now, channel));
    }

    /// The ledger could not be asked for a channel that this neighbour is to be paid on.
    pub fn handle_not_funded(&mut self, now: Instant, link: LinkId) {
        self.with_exchange(now, link, |exchange| exchange.handle_not_funded(now));
    }

    /// Offers the neighbour to end our channel to it at once. `false`: there is none.
    pub fn handle_close(&mut self, now: Instant, link: LinkId) -> bool {
        let exchange = self.links.get_mut(&link).and_then(|known| known.exchange.as_mut());
        let offered = exchange.is_some_and(Exchange::handle_close);
        self.settle(now);
        offered
    }

    /// The ledger did not close the channel that this neighbour offered to close.
    pub fn handle_close_failed(&mut self, now: Instant, link: LinkId) {
        self.with_exchange(now, link, Exchange::handle_close_failed);
    }

    /// The ledger has closed a channel with this neighbour.
    pub fn handle_channel_closed(&mut self, now: Instant, link: LinkId, nonce: u64) {
        self.with_exchange(now, link, |exchange| exchange.handle_channel_closed(now, nonce));
    }

    /// The journal made a ceiling durable: receipts up to it may be signed.
    pub fn handle_reserved(&mut self, now: Instant, link: LinkId, channel: ChannelId, ceiling: Tokens) {
        self.with_exchange(now, link, |exchange| exchange.handle_reserved(now, channel, ceiling));
    }

    /// The journal made a receipt durable: credit is extended on it.
    pub fn handle_held(&mut self, now: Instant, link: LinkId, receipt: &Receipt) {
        let (channel, amount) = (receipt.channel(), receipt.amount());
        self.with_exchange(now, link, |exchange| exchange.handle_held(now, channel, amount));
    }

    fn with_exchange(&mut self, now: Instant, link: LinkId, act: impl FnOnce(&mut Exchange)) {
        if let Some(exchange) = self.links.get_mut(&link).and_then(|known| known.exchange.as_mut()) {
            act(exchange);
        }
        self.settle(now);
    }

    /// Does what is due. Harmless to call early.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.speaker.handle_timeout(now);
        for known in self.links.values_mut() {
            if let Some(admission) = &mut known.admission {
                admission.handle_timeout(now);
            }
            if let Some(exchange) = &mut known.exchange {
                exchange.handle_timeout(now);
            }
            if let Some(watch) = &mut known.watch {
                watch.handle_timeout(now);
            }
            if let Some(path) = known.path.as_mut().filter(|_| known.up) {
                path.handle_timeout(now);
            }
        }
        self.settle(now);
    }

    /// When to call [`Self::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let links = self.links.values().flat_map(|known| {
            let admission = known.admission.as_ref().and_then(Admission::poll_timeout);
            let path = known.path.as_ref().filter(|_| known.up).map(PathMtu::poll_timeout);
            let watch = known.watch.as_ref().and_then(Watch::poll_timeout);
            let exchange = known.exchange.as_ref().and_then(Exchange::poll_timeout);
            admission.into_iter().chain(exchange).chain(watch).chain(path)
        });
        links.chain(self.speaker.poll_timeout()).min()
    }

    /// The next control packet to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The next thing the shell must do or may want to know.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The table of the last [`Event::Fib`].
    pub fn fib(&self) -> &Arc<Fib> {
        &self.fib
    }

    /// Every route Babel knows, used or not.
    pub fn routes(&self) -> impl Iterator<Item = RouteView> {
        self.speaker.routes()
    }

    /// Whether the neighbour on a link has been admitted.
    #[must_use]
    pub fn is_admitted(&self, link: LinkId) -> bool {
        self.links.get(&link).is_some_and(Link::is_admitted)
    }

    /// How often the neighbour on a link says Hello, as it told last.
    #[must_use]
    pub fn hello_interval(&self, link: LinkId) -> Option<Duration> {
        self.neighbours().filter(|view| view.interface.0 == link.0).find_map(|view| view.hello_interval)
    }

    /// Every neighbour Babel hears.
    pub fn neighbours(&self) -> impl Iterator<Item = NeighbourView> {
        self.speaker.neighbours()
    }

    /// Every link.
    pub fn links(&self) -> impl Iterator<Item = LinkView> {
        self.links.iter().map(|(link, known)| LinkView {
            link: *link,
            up: known.up,
            mtu: known.path_mtu(),
            admitted: known.is_admitted() || matches!(known.peer, Peer::Leaf { .. } | Peer::Babel { .. }),
            settlement: known.exchange.as_ref().map(Exchange::snapshot),
        })
    }

    /// The highest receipt of each neighbour that pays us, durable or not.
    pub fn held(&self) -> impl Iterator<Item = Receipt> {
        self.links.values().filter_map(|known| known.exchange.as_ref()?.best_receipt().copied())
    }

    /// Drains the children: packets to send, events to tell, and the table if it has changed.
    fn settle(&mut self, now: Instant) {
        self.deal(now);
        self.drain_links(now);
        self.drain_babel(now);
        self.refresh_fib();
    }

    fn drain_babel(&mut self, now: Instant) {
        while let Some(babel::Transmit { interface, to, payload }) = self.speaker.poll_transmit(now) {
            let to = match to {
                Destination::Multicast => babel::wire::MULTICAST_GROUP,
                Destination::Unicast(address) => address,
            };
            let packet = control_packet(self.ours, to, BABEL_PORT, &payload);
            self.transmits.push_back(Transmit { link: LinkId(interface.0), packet, uncut: false });
        }
        while let Some(event) = self.speaker.poll_event() {
            match event {
                babel::Event::RouteSelected { pair, via, .. } => self.set_route(pair, Some(Some(LinkId(via.0)))),
                babel::Event::RouteLost { pair } => self.set_route(pair, Some(None)),
                babel::Event::RouteForgotten { pair } => self.set_route(pair, None),
                babel::Event::NeighbourUp { interface, .. } => {
                    self.push_event(Event::Neighbour { link: LinkId(interface.0), up: true });
                }
                babel::Event::NeighbourDown { interface, .. } => {
                    self.push_event(Event::Neighbour { link: LinkId(interface.0), up: false });
                }
                // The router-id is new at each start, so the number need not be remembered.
                babel::Event::SeqnoChanged(_) => {}
            }
        }
    }

    /// A route over a link, to nowhere (`Some(None)`), or none at all.
    fn set_route(&mut self, pair: PrefixPair, route: Option<Option<LinkId>>) {
        let PrefixPair { to: IpPrefix::V6(prefix), from: None } = pair else { return };
        self.routes_changed |= match route {
            Some(next_hop) => self.routes.insert(prefix, next_hop) != Some(next_hop),
            None => self.routes.remove(&prefix).is_some(),
        };
    }

    fn drain_links(&mut self, now: Instant) {
        let mut events = Vec::new();
        for (link, known) in &mut self.links {
            // Nobody settles with a stranger.
            let (peer, theirs) = match &known.peer {
                Peer::Mesh { card, .. } => (card.account(), link_local(&card.wireguard())),
                Peer::Stranger { proven: Proven::Wireguard(key) } => (NodeId::default(), link_local(key)),
                Peer::Stranger { proven: Proven::Tls(_) } => (NodeId::default(), ALL_NODES),
                Peer::Babel { .. } | Peer::Leaf { .. } => continue,
            };
            let mut send_as = |port, payload: &[u8], uncut| {
                let packet = control_packet(self.ours, theirs, port, payload);
                self.transmits.push_back(Transmit { link: *link, packet, uncut });
            };
            if let Some(path) = &mut known.path {
                while let Some((payload, uncut)) = path.poll_transmit() {
                    send_as(MTU_PORT, &payload, uncut);
                }
            }
            let mut send = |port, payload: &[u8]| send_as(port, payload, false);
            if let Some(admission) = &mut known.admission {
                while let Some(message) = admission.poll_transmit() {
                    send(ADMISSION_PORT, &message);
                }
            }
            if let Some(exchange) = &mut known.exchange {
                while let Some(message) = exchange.poll_transmit() {
                    if known.up {
                        send(SETTLEMENT_PORT, &message);
                    }
                }
                while let Some(event) = exchange.poll_event() {
                    events.push(Event::Settlement { link: *link, peer, event });
                }
            }
            if let Some(note) = known.witnessing.poll_transmit().filter(|_| known.up) {
                send(WITNESS_PORT, &note);
            }
            if let Some(watch) = &mut known.watch {
                while let Some(message) = watch.poll_transmit() {
                    if known.up {
                        send(WATCH_PORT, &message);
                    }
                }
                while let Some(event) = watch.poll_event() {
                    events.push(Event::Watch { link: *link, peer, event });
                }
            }
        }
        for event in events {
            if let Event::Settlement { link, event: exchange::Event::TermsAgreed(terms), .. } = &event {
                self.set_toll(now, *link, terms);
            }
            self.push_event(event);
        }
    }

    /// A subscriber pays its provider for both directions. The price of what it sends is told with routes; what it is
    /// sent comes by the way that others think best, so they are told that this one costs more.
    fn set_toll(&mut self, now: Instant, link: LinkId, terms: &Terms) {
        let Some(known) = self.links.get_mut(&link) else { return };
        let weight = self.config.policy.weight;
        let pays = !terms.peers && terms.payer == self.card.account();
        let price = if pays { terms.price_down.get() } else { 0 };
        let toll = u128::from(price) * u128::from(weight.metric) / u128::from(weight.per.get());
        known.toll = u16::try_from(toll).unwrap_or(u16::MAX);
        self.speaker.handle_toll(now, InterfaceId(link.0), known.toll);
    }

    fn refresh_fib(&mut self) {
        let entries = self.link_entries();
        if !self.routes_changed && entries == self.entries {
            return;
        }
        let fib =
            if self.routes_changed { self.build_fib(entries.clone()) } else { self.fib.with_links(entries.clone()) };
        self.routes_changed = false;
        self.entries = entries;
        self.fib = Arc::new(fib);
        self.push_event(Event::Fib(Arc::clone(&self.fib)));
    }

    fn link_entries(&self) -> Vec<Option<LinkEntry>> {
        let len = self.links.keys().next_back().map_or(0, |last| last.index() + 1);
        let mut entries = vec![None; len];
        for (link, known) in &self.links {
            let standing = known.standing(self.asking.current());
            // What is not to be spent is not carried either: whoever is paid would decide how much comes.
            let policy = if self.spends || !known.costs() { known.policy() } else { LinkPolicy::Closed };
            entries[link.index()] = Some(LinkEntry { policy, standing, mtu: known.path_mtu() });
        }
        entries
    }

    fn build_fib(&self, entries: Vec<Option<LinkEntry>>) -> Fib {
        let open = FibBuilder::default().open(&self.config.open);
        let mut fib = self.own.iter().fold(open, |fib, prefix| fib.own(*prefix));
        for (link, known) in &self.links {
            if let Peer::Leaf { prefixes, ipv4 } = &known.peer {
                fib = prefixes.iter().fold(fib, |fib, prefix| fib.route(*prefix, *link));
                fib = ipv4.iter().fold(fib, |fib, ipv4| fib.lead_out(*ipv4, *link));
            }
        }
        let routes = self.routes.iter();
        let fib = routes.fold(fib, |fib, (prefix, next_hop)| match next_hop {
            Some(link) => fib.route(*prefix, *link),
            None => fib.unreachable(*prefix),
        });
        fib.build(entries)
    }

    /// Keeps the event; a shell that has stopped listening loses what is not a table, and gets the newest table.
    fn push_event(&mut self, event: Event) {
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}

/// Adds to what may be carried where credit is short, for the time that has passed.
fn ration(meters: &Meters, link: LinkId, credit: Credit, since: Duration) {
    let lifeline = share_of(LIFELINE, since, SECOND);
    let (bytes, most) = match credit {
        Credit::Open => return,
        Credit::Paced { left } => {
            let paced = share_of(left, since, PACE);
            (paced.max(lifeline), share_of(left, RATION_MOST, PACE).max(LIFELINE_BURST))
        }
        Credit::Exhausted { .. } => (lifeline, LIFELINE_BURST),
    };
    meters.add_ration(link, Ration::Any, bytes, most);
}

/// `bytes` for each `whole`, for `part` of it.
fn share_of(bytes: Bytes, part: Duration, whole: Duration) -> Bytes {
    let share = u128::from(bytes.get()) * part.as_micros() / whole.as_micros().max(1);
    Bytes::new(u64::try_from(share).unwrap_or(u64::MAX))
}

/// The /48 of whoever has this key.
fn prefix_of(key: &WireguardKey) -> Prefix {
    let (prefix, len) = mesh_prefix(key);
    Prefix::new(prefix, len).expect("a mesh prefix is one")
}

/// Everybody: where a route to it leads, the mesh ends.
fn way_out() -> PrefixPair {
    Prefix::new(Ipv6Addr::UNSPECIFIED, 0).expect("0 is a length").into()
}

/// What a way costs us; who tells no price asks none.
fn price_of(route: &RouteView) -> Price {
    Price::new(route.price.map_or(0, babel::Price::get).into())
}

/// A router-id for this run of the router: the start of its account and the count of its starts. New at each start, so
/// no neighbour holds a feasibility distance against it (RFC 8966, section 3.5.1).
fn router_id(id: NodeId, boot: u64) -> RouterId {
    let mut bytes = [0; 8];
    bytes[..5].copy_from_slice(&id.0[..5]);
    bytes[5..].copy_from_slice(&boot.to_be_bytes()[5..]);
    RouterId::new(bytes).unwrap_or_else(|| {
        // All zeros and all ones are reserved (RFC 8966, section 4.1.3); no account can be relied on to differ.
        bytes[0] ^= 0x55;
        RouterId::new(bytes).expect("0x55 is neither 0x00 nor 0xff")
    })
}

#[cfg(test)]
mod tests {
    use metering::{Limits, Offer, Seed};

    use super::*;

    const LINK: LinkId = LinkId(0);

    /// A node with one link, and what its shell was asked.
    struct Story {
        node: Node,
        now: Instant,
    }

    fn pays() -> Deal {
        Deal::Agreed(Side::Subscriber(Limits { max_price: Price::new(100) }))
    }

    fn is_paid() -> Deal {
        Deal::Agreed(Side::Provider(Offer { price_up: Price::new(7), price_down: Price::new(7), ..Offer::FREE }))
    }

    fn channel(nonce: u64) -> Restored {
        let deposit = Tokens::new(1000).expect("small");
        let channel = ChannelState { nonce, deposit, redeemed: Tokens::ZERO, closing: false };
        Restored { channel: Some(channel), ..Restored::default() }
    }

    impl Story {
        #[expect(clippy::disallowed_methods, reason = "an Instant has no other origin")]
        fn new(deal: Deal) -> Self {
            let now = Instant::now();
            let [us, _] = [1, 2].map(|seed| Identity::new(&Seed::from_bytes([seed; 32])));
            let config = Config {
                boot: 1,
                session: 1 << 32,
                announce: Vec::new(),
                policy: Policy::default(),
                prices: Prices::default(),
                hello_interval: Duration::from_secs(1),
                update_interval: Duration::from_secs(16),
                domain: LedgerDomain { chain_id: 0, contract: NodeId([9; 20]) },
                watch: false,
                open: Vec::new(),
                seed: 1,
            };
            let mut story = Self { node: Node::new(now, &us, config), now };
            story.agree(deal);
            story
        }

        /// The owner says what the neighbour is.
        fn agree(&mut self, deal: Deal) {
            let card = *Identity::new(&Seed::from_bytes([2; 32])).card();
            let measure = LinkMeasure { cost: 96, sensing: LinkSensing::Measured, path_mtu: false };
            self.node.handle_link(
                self.now,
                LINK,
                Peer::Mesh { card, deal, measure, access: Access::Full, proves: false },
                1420,
            );
        }

        /// For which roles the shell was asked what it knows.
        fn asked(&mut self) -> Vec<Role> {
            let events = std::iter::from_fn(|| self.node.poll_event());
            events.filter_map(|event| if let Event::Role { role, .. } = event { Some(role) } else { None }).collect()
        }

        /// The channel that settlement goes on with.
        fn nonce(&self) -> Option<u64> {
            self.node.links().find_map(|view| view.settlement)?.channel.map(|channel| channel.nonce)
        }
    }

    /// Hands what each of two nodes says to the other, until neither says more.
    fn talk(now: Instant, nodes: [&mut Node; 2]) {
        let [one, other] = nodes;
        for _ in 0..20 {
            one.handle_timeout(now);
            other.handle_timeout(now);
            let there: Vec<Transmit> = std::iter::from_fn(|| one.poll_transmit()).collect();
            let back: Vec<Transmit> = std::iter::from_fn(|| other.poll_transmit()).collect();
            there.iter().for_each(|sent| other.handle_control(now, LINK, &sent.packet));
            back.iter().for_each(|sent| one.handle_control(now, LINK, &sent.packet));
        }
    }

    #[test]
    fn a_stranger_shows_its_card_and_is_what_the_shell_says() {
        let Story { node: mut caller, now } = Story::new(Deal::ByRoutes);
        let [us, them] = [1, 2].map(|seed| Identity::new(&Seed::from_bytes([seed; 32])));
        let mut called = Node::new(now, &them, caller.config.clone());
        called.handle_link(now, LINK, Peer::Stranger { proven: Proven::Wireguard(us.wireguard_key()) }, 1420);
        [&mut caller, &mut called].into_iter().for_each(|node| node.handle_link_up(now, LINK));
        assert_eq!(called.link_entries()[0].as_ref().map(|entry| &entry.policy), Some(&LinkPolicy::Closed));
        talk(now, [&mut caller, &mut called]);
        let events: Vec<Event> = std::iter::from_fn(|| called.poll_event()).collect();
        let card = events
            .iter()
            .find_map(|event| if let Event::Introduced { card, .. } = event { Some(**card) } else { None });
        assert_eq!(card, Some(*us.card()));
        assert!(!events.iter().any(|event| matches!(event, Event::Admitted { .. })), "nobody has said what it is");

        let measure = LinkMeasure { cost: 96, sensing: LinkSensing::Measured, path_mtu: false };
        let peer =
            |access| Peer::Mesh { card: *us.card(), deal: Deal::Agreed(Side::Peer), measure, access, proves: false };
        called.handle_link(now, LINK, peer(Access::Visitor), 1420);
        talk(now, [&mut caller, &mut called]);
        let admitted = std::iter::from_fn(|| called.poll_event()).any(|event| matches!(event, Event::Admitted { .. }));
        assert!(admitted, "it shows its card again");
        called.handle_restored(now, LINK, Counts::ZERO, Role::Peer, Restored::default());
        let standing =
            |node: &Node| node.link_entries()[0].as_ref().map(|entry| (entry.standing, entry.policy.clone()));
        assert_eq!(standing(&called), Some((Standing::Visitor(prefix_of(&us.wireguard_key())), LinkPolicy::Mesh)));
        called.handle_link(now, LINK, peer(Access::Full), 1420);
        assert_eq!(standing(&called), Some((Standing::Partner, LinkPolicy::Mesh)));
    }

    #[test]
    fn a_card_of_another_key_introduces_nobody() {
        let Story { node: mut caller, now } = Story::new(Deal::ByRoutes);
        let [them, other] = [2, 3].map(|seed| Identity::new(&Seed::from_bytes([seed; 32])));
        let mut called = Node::new(now, &them, caller.config.clone());
        called.handle_link(now, LINK, Peer::Stranger { proven: Proven::Wireguard(other.wireguard_key()) }, 1420);
        [&mut caller, &mut called].into_iter().for_each(|node| node.handle_link_up(now, LINK));
        talk(now, [&mut caller, &mut called]);
        let events: Vec<Event> = std::iter::from_fn(|| called.poll_event()).collect();
        let refused = |event: &Event| {
            matches!(event, Event::Refused { reason: Refusal::Admission(AdmissionError::OtherKeys { .. }), .. })
        };
        assert!(events.iter().any(refused), "{events:?}");
        assert!(!events.iter().any(|event| matches!(event, Event::Introduced { .. })));
    }

    #[test]
    fn whoever_has_proven_a_tls_key_shows_a_card_of_that_key_and_no_other() {
        let Story { node: mut caller, now } = Story::new(Deal::ByRoutes);
        let [us, them, other] = [1, 2, 3].map(|seed| Identity::new(&Seed::from_bytes([seed; 32])));
        for (proven, is_it) in [(us.tls_key(), true), (other.tls_key(), false)] {
            let mut called = Node::new(now, &them, caller.config.clone());
            called.handle_link(now, LINK, Peer::Stranger { proven: Proven::Tls(proven) }, 1420);
            caller.handle_link_down(now, LINK);
            [&mut caller, &mut called].into_iter().for_each(|node| node.handle_link_up(now, LINK));
            assert_eq!(called.link_entries()[0].as_ref().map(|entry| &entry.policy), Some(&LinkPolicy::Closed));
            talk(now, [&mut caller, &mut called]);
            let events: Vec<Event> = std::iter::from_fn(|| called.poll_event()).collect();
            let introduced =
                events.iter().any(|event| matches!(event, Event::Introduced { card, .. } if **card == *us.card()));
            assert_eq!(introduced, is_it, "{events:?}");
        }
    }

    #[test]
    fn a_card_with_somebody_else_s_wireguard_key_is_not_let_in_by_quic() {
        let Story { node: caller, now } = Story::new(Deal::ByRoutes);
        let [thief, them, owner] = [1, 2, 3].map(|seed| Identity::new(&Seed::from_bytes([seed; 32])));
        let stolen = NodeCard::sign(thief.account(), owner.wireguard_key(), thief.tls_key());
        let mut called = Node::new(now, &them, caller.config.clone());
        called.handle_link(now, LINK, Peer::Stranger { proven: Proven::Tls(thief.tls_key()) }, 1420);
        called.handle_link_up(now, LINK);
        let mut theirs = Admission::new(&stolen, Expected::from(them.card()), false, now);
        theirs.handle_timeout(now);
        let say = |called: &mut Node, message: &[u8]| {
            let packet = control_packet(link_local(&thief.wireguard_key()), ALL_NODES, ADMISSION_PORT, message);
            called.handle_control(now, LINK, &packet);
            std::iter::from_fn(|| called.poll_event()).collect::<Vec<Event>>()
        };
        let events = say(&mut called, &theirs.poll_transmit().expect("its card"));
        assert!(!events.iter().any(|event| matches!(event, Event::Introduced { .. })), "{events:?}");
        theirs.handle_asked(|| thief.prove_wireguard(them.card()));
        let proof = std::iter::from_fn(|| theirs.poll_transmit()).last().expect("a proof");
        let events = say(&mut called, &proof);
        let refused = |event: &Event| {
            matches!(event, Event::Refused { reason: Refusal::Admission(AdmissionError::OtherKeys { .. }), .. })
        };
        assert!(events.iter().any(refused), "{events:?}");
        assert!(!events.iter().any(|event| matches!(event, Event::Introduced { .. })));
    }

    #[test]
    fn whoever_shows_one_card_after_another_and_proves_nothing_is_sent_away() {
        let Story { node: caller, now } = Story::new(Deal::ByRoutes);
        let [us, them, other] = [1, 2, 3].map(|seed| Identity::new(&Seed::from_bytes([seed; 32])));
        let mut called = Node::new(now, &them, caller.config.clone());
        called.handle_link(now, LINK, Peer::Stranger { proven: Proven::Tls(us.tls_key()) }, 1420);
        called.handle_link_up(now, LINK);
        let cards = [us.card().to_owned(), NodeCard::sign(other.account(), other.wireguard_key(), us.tls_key())];
        let refused = cards.map(|card| {
            let mut theirs = Admission::new(&card, Expected::from(them.card()), false, now);
            theirs.handle_timeout(now);
            let message = theirs.poll_transmit().expect("its card");
            let packet = control_packet(link_local(&us.wireguard_key()), ALL_NODES, ADMISSION_PORT, &message);
            called.handle_control(now, LINK, &packet);
            std::iter::from_fn(|| called.poll_event()).any(|event| matches!(event, Event::Refused { .. }))
        });
        assert_eq!(refused, [false, true]);
    }

    #[test]
    fn a_neighbour_whose_card_is_known_proves_its_wireguard_key_where_the_link_does_not() {
        let Story { node: mut caller, now } = Story::new(Deal::ByRoutes);
        let [us, them, owner] = [1, 2, 3].map(|seed| Identity::new(&Seed::from_bytes([seed; 32])));
        let measure = LinkMeasure { cost: 96, sensing: LinkSensing::Measured, path_mtu: false };
        let mesh = |card: &NodeCard| {
            let (card, deal) = (*card, Deal::Agreed(Side::Peer));
            Peer::Mesh { card, deal, measure, access: Access::Full, proves: true }
        };
        // Both ask, and both answer.
        let mut called = Node::new(now, &them, caller.config.clone());
        caller.handle_link_removed(now, LINK);
        caller.handle_link(now, LINK, mesh(them.card()), 1420);
        called.handle_link(now, LINK, mesh(us.card()), 1420);
        [&mut caller, &mut called].into_iter().for_each(|node| node.handle_link_up(now, LINK));
        talk(now, [&mut caller, &mut called]);
        for node in [&mut caller, &mut called] {
            assert!(std::iter::from_fn(|| node.poll_event()).any(|event| matches!(event, Event::Admitted { .. })));
        }
        // And nothing more is said of it.
        let later = now + Duration::from_secs(60);
        [&mut caller, &mut called].into_iter().for_each(|node| node.handle_timeout(later));
        let admissions =
            std::iter::from_fn(|| caller.poll_transmit()).chain(std::iter::from_fn(|| called.poll_transmit()));
        let is_one =
            |sent: &Transmit| parse_control(&sent.packet).is_ok_and(|datagram| datagram.port == ADMISSION_PORT);
        assert_eq!(admissions.filter(is_one).count(), 0);
        // A beacon may have told a card that names somebody else's key.
        let stolen = NodeCard::sign(us.account(), owner.wireguard_key(), us.tls_key());
        let mut called = Node::new(now, &them, caller.config.clone());
        called.handle_link(now, LINK, mesh(&stolen), 1420);
        called.handle_link_up(now, LINK);
        let mut theirs = Admission::new(&stolen, Expected::from(them.card()), false, now);
        theirs.handle_timeout(now);
        theirs.handle_asked(|| us.prove_wireguard(them.card()));
        for message in std::iter::from_fn(|| theirs.poll_transmit()) {
            let packet = control_packet(link_local(&owner.wireguard_key()), ALL_NODES, ADMISSION_PORT, &message);
            called.handle_control(now, LINK, &packet);
        }
        let events: Vec<Event> = std::iter::from_fn(|| called.poll_event()).collect();
        assert!(events.iter().any(|event| matches!(event, Event::Refused { .. })), "{events:?}");
        assert!(!events.iter().any(|event| matches!(event, Event::Admitted { .. })));
    }

    /// The owner changed the configuration while journal and ledger were being asked.
    #[test]
    fn an_answer_about_another_role_is_not_used_and_the_right_one_is_asked_for() {
        let mut story = Story::new(pays());
        story.node.handle_restored(story.now, LINK, Counts::ZERO, Role::Provider, channel(1));
        assert_eq!((story.node.role(LINK), story.nonce()), (Some(Role::Subscriber), None));
        assert_eq!(story.asked(), [Role::Subscriber]);
        story.node.handle_role_restored(story.now, LINK, Role::Provider, channel(1));
        assert_eq!(story.nonce(), None, "what we were paid by is not what we pay with");
        story.node.handle_role_restored(story.now, LINK, Role::Subscriber, channel(5));
        assert_eq!(story.nonce(), Some(5));
        assert_eq!(story.asked(), []);
    }

    /// What is known of a role may have changed since it was last asked for.
    #[test]
    fn whoever_becomes_the_same_again_before_the_answer_came_asks_again() {
        let mut story = Story::new(pays());
        story.node.handle_restored(story.now, LINK, Counts::ZERO, Role::Subscriber, channel(1));
        assert_eq!((story.asked(), story.nonce()), (vec![], Some(1)));
        for deal in [is_paid(), pays(), is_paid()] {
            story.agree(deal);
        }
        assert_eq!(story.asked(), [Role::Provider, Role::Subscriber, Role::Provider]);
        assert_eq!(story.nonce(), None);
        story.node.handle_role_restored(story.now, LINK, Role::Provider, channel(3));
        assert_eq!(story.nonce(), Some(3));
    }
}
