//! A network of speakers on virtual time: links with loss, delay and cuts, nodes that come and go, ask prices and lie
//! about them. It knows the library from outside only, as a router does.
//!
//! Build one with [`World::new`], then let time pass with [`World::run`] and change links and nodes in between. What
//! must hold at every instant is checked when it could have changed, and a violation panics with the seed:
//!
//! - no forwarding loop: on every change of a FIB its prefix is followed from the changed node (loops after a restart,
//!   which RFC 8966 allows, are counted and timed);
//! - announced is selected: every Update in a packet is the route in use at that moment;
//! - no feasibility distance worsens before it may be forgotten, and what is used is better than it;
//! - tables are bounded, and the FIB made of events is the table of selected routes;
//! - a timer that fires does something.
//!
//! The same plan makes the same run, byte for byte: compare [`World::hash`].

use babel::wire::{AnyPrefix, Packet, Quote, Tlv, Update, Writer};
use babel::{
    Config, Cost, Destination, Event, Fee, InterfaceConfig, InterfaceId, Metric, Policy, Prefix, PrefixPair, Price,
    RouterId, Seqno, Speaker, Transmit,
};
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

/// What a world is made of beside its graph.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// How links are run; cost, fee and addresses are each link's own.
    pub(crate) interface: InterfaceConfig,
    pub(crate) policy: Policy,
    /// Packets lost on every link, in thousandths.
    pub(crate) loss: u32,
    /// Shortest and longest way of a packet, in milliseconds; a wide range reorders.
    pub(crate) delay_ms: (u64, u64),
    /// One node in so many announces its prefix; the others are behind one that announces a shorter one for them all.
    pub(crate) announcers: usize,
    /// Packets are checked one in so many, and what they told is kept only if all are; whole tables are checked after one
    /// step in so many times the number of nodes, since what changes in them is checked as it changes.
    pub(crate) sample: u64,
}

impl Plan {
    /// Tunnels without loss, and everything is checked.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed,
            interface: InterfaceConfig::tunnel(Ipv6Addr::UNSPECIFIED),
            policy: Policy::default(),
            loss: 0,
            delay_ms: (1, 5),
            announcers: 1,
            sample: 1,
        }
    }
}

/// A link between two nodes; its number is the interface's name at both ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    pub(crate) ends: [usize; 2],
    pub(crate) interface: InterfaceConfig,
    /// What each end asks for carrying away what comes from the other.
    fees: [u32; 2],
    /// Packets lost on the way to each end, in thousandths.
    pub(crate) loss: [u32; 2],
    pub(crate) delay_ms: (u64, u64),
    /// Packets pass.
    whole: bool,
    /// Each end's interface is up.
    up: [bool; 2],
}

impl Link {
    pub(crate) fn other_end(&self, end: usize) -> usize {
        self.ends[usize::from(self.ends[0] == end)]
    }

    fn side(&self, end: usize) -> usize {
        usize::from(self.ends[1] == end)
    }
}

/// What a node tells of prices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Honesty {
    /// Its fee on top of what it was told.
    Honest,
    /// Anything, another one in each Update, in any unit.
    Lies,
}

#[derive(Debug)]
struct Node {
    /// `None`: switched off.
    speaker: Option<Speaker>,
    /// How often it was switched on.
    lives: u8,
    born: Instant,
    /// The earliest visit in the queue.
    visit: Option<Instant>,
    links: Vec<usize>,
    honesty: Honesty,
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) packets: u64,
    /// IPv6 and UDP headers included.
    pub(crate) bytes: u64,
    /// FIB entries that were set to another link, set or removed.
    pub(crate) moves: u64,
    pub(crate) found: u64,
    pub(crate) lost: u64,
    /// Neighbours taken for gone although the link was whole.
    pub(crate) false_downs: u64,
    /// In the packets that were looked at.
    pub(crate) seqno_requests: u64,
    pub(crate) loop_checks: u64,
    /// Loops through a node that forgot everything a moment ago, and the longest time one lasted.
    pub(crate) loops_after_restart: u64,
    pub(crate) loop_lasted: Duration,
}

/// The best that a node told about a prefix, as the packets said it: its feasibility distance.
#[derive(Clone, Copy, Debug)]
struct Told {
    life: u16,
    seqno: Seqno,
    metric: Metric,
    at: Instant,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) plan: Plan,
    pub(crate) links: Vec<Link>,
    pub(crate) tally: Tally,
    pub(crate) rng: fastrand::Rng,
    /// The node of whose prefix everything said is printed: `SIM_TRACE`.
    traced: Option<usize>,
    start: Instant,
    nodes: Vec<Node>,
    queue: BinaryHeap<Due>,
    queued: u64,
    flights: Vec<Flight>,
    landed: Vec<u32>,
    steps: u64,
    hash: u64,
    /// Row by row per prefix: by which link each node reaches it.
    fib: Vec<Hop>,
    told: Vec<Option<Told>>,
    /// Loops through somebody who forgot everything.
    loops: Vec<(usize, usize, Instant)>,
    /// Which part of the network each node is in, while no link or node changes.
    parts: Option<Vec<usize>>,
    /// The pair that did not reach each other when last asked.
    gap: (usize, usize),
}

/// A FIB entry: the number of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hop(u32);

impl Hop {
    const NONE: Self = Self(u32::MAX);
    const HERE: Self = Self(u32::MAX - 1);

    fn via(link: usize) -> Self {
        Self(u32::try_from(link).expect("links are counted in 32 bits"))
    }

    fn link(self) -> Option<usize> {
        (self < Self::HERE).then_some(self.0 as usize)
    }
}

impl PartialOrd for Hop {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.0.cmp(&other.0))
    }
}

#[derive(Debug, Default)]
struct Flight {
    to: usize,
    link: usize,
    multicast: bool,
    payload: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// Call on a node.
    Visit(u32),
    /// A packet arrives.
    Land(u32),
}

/// Ordered so that the first due is the greatest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Due {
    at: Instant,
    order: u64,
    what: What,
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// For so long a route told to a node's earlier self can be believed: 3.5 update intervals.
const FORGOTTEN_AFTER: u32 = 4;
/// Feasibility distances are kept for three minutes at least.
const KEPT: Duration = Duration::from_secs(179);

/// The prefix of a node.
pub(crate) fn home(node: usize) -> Prefix {
    Prefix::new(Ipv6Addr::from_bits(0xfd << 120 | (node as u128 + 1) << 80), 48).expect("48 bits")
}

/// The node of a prefix.
fn homed(pair: PrefixPair) -> usize {
    let babel::IpPrefix::V6(prefix) = pair.to else { panic!("{pair}: nobody has IPv4 here") };
    ((prefix.addr().to_bits() >> 80) & 0xffff_ffff) as usize - 1
}

fn link_local(node: usize, link: usize) -> Ipv6Addr {
    Ipv6Addr::from_bits(0xfe80 << 112 | (node as u128 + 1) << 32 | (link as u128 + 1))
}

fn name(node: usize, life: u8) -> RouterId {
    let [a, b, c, d] = u32::try_from(node).expect("few nodes").to_be_bytes();
    RouterId::new([2, life, 0, 0, a, b, c, d]).expect("it starts with 2")
}

/// The node and the life of a name.
fn named(router_id: RouterId) -> (usize, u8) {
    let [_, life, _, _, a, b, c, d] = router_id.octets();
    (u32::from_be_bytes([a, b, c, d]) as usize, life)
}

/// Making and changing.
impl World {
    /// Nodes with a prefix each and links between them, all switched on at once.
    pub(crate) fn new(plan: Plan, nodes: usize, ends: &[(usize, usize)]) -> Self {
        let mut world = Self::dark(plan, nodes, ends);
        (0..nodes).for_each(|node| world.power_on(node));
        world
    }

    /// The same, with all nodes switched off.
    pub(crate) fn dark(plan: Plan, nodes: usize, ends: &[(usize, usize)]) -> Self {
        #[expect(clippy::disallowed_methods, reason = "an Instant has no other origin")]
        let start = Instant::now();
        let node = |index| Node {
            speaker: None,
            lives: 0,
            born: start,
            visit: None,
            links: (0..ends.len()).filter(|link| ends[*link].0 == index || ends[*link].1 == index).collect(),
            honesty: Honesty::Honest,
        };
        let nodes: Vec<_> = (0..nodes).map(node).collect();
        let entries = nodes.len() * nodes.len();
        Self {
            now: start,
            plan,
            links: ends.iter().map(|(a, b)| plan.link([*a, *b])).collect(),
            tally: Tally::default(),
            rng: fastrand::Rng::with_seed(plan.seed),
            traced: std::env::var("SIM_TRACE").ok().and_then(|node| node.parse().ok()),
            start,
            nodes,
            queue: BinaryHeap::new(),
            queued: 0,
            flights: Vec::new(),
            landed: Vec::new(),
            steps: 0,
            hash: 0,
            fib: vec![Hop::NONE; entries],
            told: if plan.sample == 1 { vec![None; entries] } else { Vec::new() },
            loops: Vec::new(),
            parts: None,
            gap: (0, 0),
        }
    }

    /// A node starts, or starts again, under a new name and without any memory.
    pub(crate) fn power_on(&mut self, node: usize) {
        self.power_off(node);
        let (now, life) = (self.now, self.nodes[node].lives);
        let config = Config { policy: self.plan.policy, ..Config::new(name(node, life), Seqno(self.rng.u16(..))) };
        let mut speaker = Speaker::new(now, config, self.rng.u64(..));
        if self.announces(node) {
            speaker.handle_originate(now, home(node), Metric::ZERO);
        }
        let this = &mut self.nodes[node];
        (this.speaker, this.lives, this.born, this.visit) = (Some(speaker), life.wrapping_add(1), now, None);
        if self.announces(node) {
            self.set_hop(node, node, Hop::HERE);
        }
        for link in self.nodes[node].links.clone() {
            let side = self.links[link].side(node);
            if self.links[link].up[side] {
                self.bring_up(node, link);
            }
        }
        self.drain(node);
    }

    fn announces(&self, node: usize) -> bool {
        node.is_multiple_of(self.plan.announcers)
    }

    /// A node is gone without a word.
    pub(crate) fn power_off(&mut self, node: usize) {
        self.parts = None;
        if self.nodes[node].speaker.take().is_none() {
            return;
        }
        for prefix in 0..self.nodes.len() {
            let entry = self.entry(prefix, node);
            self.fib[entry] = Hop::NONE;
            self.told.get_mut(entry).into_iter().for_each(|told| *told = None);
        }
        self.review_loops();
    }

    pub(crate) fn is_on(&self, node: usize) -> bool {
        self.nodes[node].speaker.is_some()
    }

    /// Both ends know that the link is there, with the interface it has by now.
    pub(crate) fn plug(&mut self, link: usize) {
        self.set_whole(link, true);
        for side in 0..2 {
            self.plug_side(link, side);
        }
    }

    pub(crate) fn plug_side(&mut self, link: usize, side: usize) {
        self.parts = None;
        self.links[link].up[side] = true;
        let node = self.links[link].ends[side];
        if self.is_on(node) {
            self.bring_up(node, link);
            self.drain(node);
        }
    }

    /// Both ends know that the link is gone.
    pub(crate) fn unplug(&mut self, link: usize) {
        for side in 0..2 {
            self.unplug_side(link, side);
        }
    }

    /// The link is cut, and one end knows.
    pub(crate) fn unplug_side(&mut self, link: usize, side: usize) {
        self.set_whole(link, false);
        self.links[link].up[side] = false;
        let (now, node) = (self.now, self.links[link].ends[side]);
        if let Some(speaker) = &mut self.nodes[node].speaker {
            speaker.handle_interface_down(now, InterfaceId(link as u32));
            self.drain(node);
        }
    }

    /// Packets pass or vanish; nobody is told.
    pub(crate) fn set_whole(&mut self, link: usize, whole: bool) {
        self.parts = None;
        self.links[link].whole = whole;
    }

    /// What an end of a link asks from here on.
    pub(crate) fn set_fee(&mut self, link: usize, side: usize, price: u32) {
        self.links[link].fees[side] = price;
        let node = self.links[link].ends[side];
        if let Some(speaker) = &mut self.nodes[node].speaker {
            speaker.handle_fee(InterfaceId(link as u32), Fee { price: Price::new(price), epoch: 0 });
        }
    }

    pub(crate) fn set_honesty(&mut self, node: usize, honesty: Honesty) {
        self.nodes[node].honesty = honesty;
    }

    fn bring_up(&mut self, node: usize, link: usize) {
        let Link { interface, fees, .. } = self.links[link];
        let fee = Fee { price: Price::new(fees[self.links[link].side(node)]), epoch: 0 };
        let config = InterfaceConfig { link_local: link_local(node, link), fee, ..interface };
        let (now, id) = (self.now, InterfaceId(link as u32));
        if let Some(speaker) = &mut self.nodes[node].speaker {
            speaker.handle_interface_up(now, id, config);
        }
    }
}

impl Plan {
    fn link(&self, ends: [usize; 2]) -> Link {
        Link {
            ends,
            interface: self.interface,
            fees: [0; 2],
            loss: [self.loss; 2],
            delay_ms: self.delay_ms,
            whole: true,
            up: [true; 2],
        }
    }
}

/// Time.
impl World {
    pub(crate) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.step(end) {}
        self.now = end;
    }

    /// Runs until every node reaches every other that it can, as packets would travel. How long it took.
    pub(crate) fn run_until_whole(&mut self, limit: Duration) -> Option<Duration> {
        self.run_until(limit, Self::is_whole)
    }

    /// Runs until something holds. How long it took.
    pub(crate) fn run_until(&mut self, limit: Duration, mut holds: impl FnMut(&mut Self) -> bool) -> Option<Duration> {
        let (start, end) = (self.now, self.now + limit);
        while !holds(self) {
            if !self.step(end) {
                self.now = end;
                return None;
            }
        }
        Some(self.now - start)
    }

    /// The next packet or timer not after `end`.
    fn step(&mut self, end: Instant) -> bool {
        while let Some(due) = self.queue.peek().copied().filter(|due| due.at <= end) {
            self.queue.pop();
            self.now = self.now.max(due.at);
            let done = match due.what {
                What::Visit(node) => self.visit(node as usize, due.at),
                What::Land(flight) => self.land(flight),
            };
            if done {
                self.steps += 1;
                return true;
            }
        }
        false
    }

    /// Calls on a node whose time has come; a visit that was put off or brought forward is none.
    fn visit(&mut self, node: usize, at: Instant) -> bool {
        if self.nodes[node].visit != Some(at) {
            return false;
        }
        self.nodes[node].visit = None;
        let now = self.now;
        let Some(speaker) = &mut self.nodes[node].speaker else { return false };
        if speaker.poll_timeout().is_none_or(|next| next > now) {
            self.schedule(node);
            return false;
        }
        speaker.handle_timeout(now);
        self.drain(node);
        let next = self.nodes[node].speaker.as_ref().and_then(Speaker::poll_timeout);
        assert!(next.is_none_or(|next| next > now), "{}: node {node}: a timer fired and did nothing", self.when());
        true
    }

    fn land(&mut self, flight: u32) -> bool {
        self.landed.push(flight);
        let Flight { to, link, multicast, payload } = std::mem::take(&mut self.flights[flight as usize]);
        if !self.links[link].whole || self.nodes[to].speaker.is_none() {
            return false;
        }
        let source = link_local(self.links[link].other_end(to), link);
        let destination = if multicast { Destination::Multicast } else { Destination::Unicast(link_local(to, link)) };
        let (now, from) = (self.now, InterfaceId(link as u32));
        if let Some(speaker) = &mut self.nodes[to].speaker {
            speaker.handle_packet(now, from, source, destination, &payload).expect("speakers write packets");
        }
        self.drain(to);
        true
    }

    fn drain(&mut self, node: usize) {
        let now = self.now;
        let poll = |world: &mut Self| world.nodes[node].speaker.as_mut().and_then(|s| s.poll_transmit(now));
        while let Some(transmit) = poll(self) {
            self.send(node, transmit);
        }
        while let Some(event) = self.nodes[node].speaker.as_mut().and_then(Speaker::poll_event) {
            self.apply(node, event);
        }
        if self.steps.is_multiple_of(self.plan.sample * self.nodes.len() as u64) {
            self.check_tables(node);
        }
        self.schedule(node);
    }

    fn schedule(&mut self, node: usize) {
        let this = &mut self.nodes[node];
        let Some(next) = this.speaker.as_ref().and_then(Speaker::poll_timeout) else { return };
        if this.visit.is_none_or(|visit| next < visit) {
            this.visit = Some(next);
            self.enqueue(next, What::Visit(node as u32));
        }
    }

    fn enqueue(&mut self, at: Instant, what: What) {
        self.queued += 1;
        self.queue.push(Due { at, order: self.queued, what });
    }

    fn send(&mut self, node: usize, mut transmit: Transmit) {
        let link = transmit.interface.0 as usize;
        assert!(transmit.payload.len() <= 1232, "{}: too large", self.when());
        if self.tally.packets.is_multiple_of(self.plan.sample) {
            self.check_packet(node, link, &transmit.payload);
        }
        if self.nodes[node].honesty == Honesty::Lies {
            transmit.payload = self.with_lies(link_local(node, link), &transmit.payload);
        }
        self.tally.packets += 1;
        self.tally.bytes += transmit.payload.len() as u64 + 48;
        self.digest(link, &transmit.payload);
        let to = self.links[link].other_end(node);
        let side = self.links[link].side(to);
        let lost = self.rng.u32(0..1000) < self.links[link].loss[side];
        if let Some(prefix) = self.traced {
            self.trace(prefix, node, link, &transmit.payload, lost);
        }
        if lost {
            return;
        }
        let (shortest, longest) = self.links[link].delay_ms;
        let at = self.now + Duration::from_micros(self.rng.u64(shortest * 1000..=longest * 1000));
        let multicast = transmit.to == Destination::Multicast;
        self.take_off(at, Flight { to, link, multicast, payload: transmit.payload });
    }

    fn take_off(&mut self, at: Instant, flight: Flight) {
        let slot = self.landed.pop().unwrap_or_else(|| {
            self.flights.push(Flight::default());
            self.flights.len() as u32 - 1
        });
        self.flights[slot as usize] = flight;
        self.enqueue(at, What::Land(slot));
    }

    /// Prints what is said of a prefix.
    fn trace(&self, prefix: usize, node: usize, link: usize, payload: &[u8], lost: bool) {
        let about = AnyPrefix::V6(home(prefix));
        for tlv in Packet::parse(payload).expect("speakers write packets").tlvs(link_local(node, link)) {
            let said = match tlv {
                Tlv::Update(update) if update.prefix.is_none_or(|prefix| prefix == about) => {
                    format!(
                        "update {} {} {:?}",
                        update.seqno,
                        update.metric,
                        update.quote.and_then(|quote| quote.price)
                    )
                }
                Tlv::SeqnoRequest(request) if request.prefix == about => {
                    format!("request {} within {}", request.seqno, request.hop_count)
                }
                Tlv::RouteRequest(request) if request.prefix.is_none_or(|prefix| prefix == about) => "request".into(),
                Tlv::Update(_)
                | Tlv::Hello(_)
                | Tlv::Ihu(_)
                | Tlv::RouteRequest(_)
                | Tlv::SeqnoRequest(_)
                | Tlv::Acknowledgment(_)
                | Tlv::AcknowledgmentRequest(_) => continue,
            };
            let to = self.links[link].other_end(node);
            let fate = if lost || !self.passes(link) { ", lost" } else { "" };
            println!("{:?} {node} to {to} on {link}: {said}{fate}", self.elapsed());
        }
    }

    fn digest(&mut self, link: usize, payload: &[u8]) {
        let mut mix = |word: u64| self.hash = (self.hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
        mix(self.now.duration_since(self.start).as_nanos() as u64);
        mix(link as u64);
        for chunk in payload.chunks(8) {
            mix(chunk.iter().fold(0, |word, octet| word << 8 | u64::from(*octet)));
        }
    }

    /// The packet with other prices, some in a unit nobody knows.
    fn with_lies(&mut self, source: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
        let mut writer = Writer::new(1232, source);
        for mut tlv in Packet::parse(payload).expect("speakers write packets").tlvs(source) {
            if let Tlv::Update(update) = &mut tlv {
                update.quote = update.quote.map(|_| self.a_lie());
            }
            assert!(writer.push(&tlv), "a lie is as long as the truth");
        }
        writer.finish()
    }

    fn a_lie(&mut self) -> Quote {
        let price = match self.rng.u8(0..8) {
            0 => None,
            1 => Some(Price::MAX),
            2 => Some(Price::ZERO),
            _ => Some(Price::new(self.rng.u32(0..5000))),
        };
        Quote { unit: u8::from(self.rng.u8(0..8) == 0), epoch: 0, price }
    }
}

/// Looking.
impl World {
    pub(crate) fn speaker(&self, node: usize) -> &Speaker {
        self.nodes[node].speaker.as_ref().expect("it is on")
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Of everything sent, and when.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// By which link a node reaches another.
    pub(crate) fn way(&self, from: usize, to: usize) -> Option<usize> {
        self.fib[self.entry(to, from)].link()
    }

    /// Loops there are at this moment, all through somebody who started again.
    pub(crate) fn loops_now(&self) -> usize {
        self.loops.len()
    }

    /// Whether packets arrive.
    pub(crate) fn delivers(&self, from: usize, to: usize) -> bool {
        let mut at = from;
        for _ in 0..self.nodes.len() {
            match self.fib[self.entry(to, at)].link() {
                _ if at == to => return self.is_on(to),
                Some(link) if self.passes(link) => at = self.links[link].other_end(at),
                Some(_) | None => return false,
            }
        }
        false
    }

    /// Whether everybody reaches everybody in the same part of the network.
    pub(crate) fn is_whole(&mut self) -> bool {
        let (from, to) = self.gap;
        let parts = self.parts();
        if parts[from] == parts[to] && self.is_on(from) && !self.delivers(from, to) {
            self.parts = Some(parts);
            return false;
        }
        let gap = self.find_gap(&parts);
        self.parts = Some(parts);
        self.gap = gap.unwrap_or(self.gap);
        gap.is_none()
    }

    fn find_gap(&self, parts: &[usize]) -> Option<(usize, usize)> {
        let all = || (0..self.nodes.len()).filter(|node| self.is_on(*node));
        let mut arrives = vec![None; self.nodes.len()];
        for to in all().filter(|to| self.announces(*to)) {
            arrives.fill(None);
            arrives[to] = Some(true);
            let gap = all().find(|from| parts[*from] == parts[to] && !self.arrives(*from, to, &mut arrives));
            if let Some(from) = gap {
                return Some((from, to));
            }
        }
        None
    }

    /// [`World::delivers`], with what is known of nodes on the way.
    fn arrives(&self, from: usize, to: usize, known: &mut [Option<bool>]) -> bool {
        let (mut at, mut path) = (from, Vec::new());
        let arrives = loop {
            if let Some(known) = known[at] {
                break known;
            }
            let way = self.fib[self.entry(to, at)].link().filter(|link| self.passes(*link));
            let Some(link) = way.filter(|_| path.len() < self.nodes.len()) else { break false };
            path.push(at);
            at = self.links[link].other_end(at);
        };
        path.into_iter().for_each(|node| known[node] = Some(arrives));
        known[from] = Some(arrives);
        arrives
    }

    /// Whether a link carries packets both ways between nodes that know of it.
    pub(crate) fn passes(&self, link: usize) -> bool {
        let Link { ends, whole, up, loss, .. } = self.links[link];
        whole && up == [true; 2] && ends.iter().all(|end| self.is_on(*end)) && loss.iter().all(|loss| *loss < 1000)
    }

    /// The least node of the part of the network that each node is in.
    fn parts(&mut self) -> Vec<usize> {
        self.parts.take().unwrap_or_else(|| {
            let mut parts: Vec<_> = (0..self.nodes.len()).collect();
            let mut changed = true;
            while std::mem::take(&mut changed) {
                for link in (0..self.links.len()).filter(|link| self.passes(*link)) {
                    let [a, b] = self.links[link].ends;
                    let least = parts[a].min(parts[b]);
                    changed |= parts[a] != parts[b];
                    (parts[a], parts[b]) = (least, least);
                }
            }
            parts
        })
    }

    /// The cost of a link as the node at one end measures it.
    pub(crate) fn cost(&self, node: usize, link: usize) -> Cost {
        let id = InterfaceId(link as u32);
        let here = self.speaker(node).neighbours().filter(|neighbour| neighbour.interface == id);
        here.map(|neighbour| neighbour.cost).min().unwrap_or(Cost::INFINITY)
    }

    /// What a node asks from the other end of a link.
    pub(crate) fn fee(&self, node: usize, link: usize) -> u32 {
        self.links[link].fees[self.links[link].side(node)]
    }

    /// The first selected route that is not the best there is, by what the policy makes of metrics and prices.
    pub(crate) fn find_stray(&self) -> Option<Stray> {
        let costs = |(number, link): (usize, &Link)| link.ends.map(|end| self.cost_if_on(end, number));
        let costs: Vec<_> = self.links.iter().enumerate().map(costs).collect();
        (0..self.nodes.len()).filter(|to| self.is_on(*to)).find_map(|to| self.find_stray_to(to, &costs))
    }

    fn cost_if_on(&self, node: usize, link: usize) -> Option<u16> {
        let cost = self.passes(link).then(|| self.cost(node, link)).filter(|cost| cost.is_finite());
        cost.map(Cost::get)
    }

    fn find_stray_to(&self, to: usize, costs: &[[Option<u16>; 2]]) -> Option<Stray> {
        let best = self.best_scores(to, costs);
        (0..self.nodes.len()).filter(|node| self.is_on(*node)).find_map(|from| {
            let used = self.speaker(from).selected(home(to)).map(|route| {
                let price = route.price.or(self.plan.policy.unknown_price).unwrap_or(Price::MAX);
                self.score(route.metric.0.into(), price.get().into())
            });
            (used != best[from]).then_some(Stray { from, to, used, best: best[from] })
        })
    }

    fn score(&self, metric: u64, price: u64) -> u64 {
        let weight = self.plan.policy.weight;
        metric * u64::from(weight.per.get()) + price * u64::from(weight.metric)
    }

    /// Dijkstra's algorithm from the destination. A node pays the fee of its next hop on the link between them.
    fn best_scores(&self, to: usize, costs: &[[Option<u16>; 2]]) -> Vec<Option<u64>> {
        let mut best = vec![None; self.nodes.len()];
        let mut reached = BinaryHeap::from([(std::cmp::Reverse(0_u64), to)]);
        while let Some((std::cmp::Reverse(score), node)) = reached.pop() {
            if best[node].is_some() {
                continue;
            }
            best[node] = Some(score);
            for link in &self.nodes[node].links {
                let buyer = self.links[*link].other_end(node);
                if let Some(cost) = costs[*link][self.links[*link].side(buyer)] {
                    let step = self.score(cost.into(), self.fee(node, *link).into());
                    reached.push((std::cmp::Reverse(score + step), buyer));
                }
            }
        }
        best
    }

    /// Which world, and when: what a message begins with.
    pub(crate) fn when(&self) -> String {
        format!("seed {}, after {:?}", self.plan.seed, self.elapsed())
    }

    fn entry(&self, prefix: usize, node: usize) -> usize {
        prefix * self.nodes.len() + node
    }
}

/// A route in use that is not the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stray {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) used: Option<u64>,
    pub(crate) best: Option<u64>,
}

/// Checks.
impl World {
    fn apply(&mut self, node: usize, event: Event) {
        match event {
            Event::RouteSelected { pair, via, .. } => {
                self.check_feasible(node, pair);
                self.set_hop(homed(pair), node, Hop::via(via.0 as usize));
            }
            Event::RouteLost { pair } => self.set_hop(homed(pair), node, Hop::NONE),
            Event::RouteForgotten { pair } => {
                let hop = if homed(pair) == node { Hop::HERE } else { Hop::NONE };
                self.set_hop(homed(pair), node, hop);
            }
            Event::NeighbourDown { interface, .. } => {
                self.tally.false_downs += u64::from(self.passes(interface.0 as usize));
            }
            Event::NeighbourUp { .. } | Event::SeqnoChanged(_) => {}
        }
    }

    fn set_hop(&mut self, prefix: usize, node: usize, hop: Hop) {
        let entry = self.entry(prefix, node);
        let before = std::mem::replace(&mut self.fib[entry], hop);
        match (before.link(), hop.link()) {
            (Some(before), Some(after)) if before != after => self.tally.moves += 1,
            (None, Some(_)) => self.tally.found += 1,
            (Some(_), None) => self.tally.lost += 1,
            (Some(_), Some(_)) | (None, None) => return,
        }
        self.check_loops(prefix, node);
        self.review_loops();
    }

    /// A loop that a change made leads through the node that changed.
    ///
    /// Two cases are counted and not taken for errors. Who starts again forgets what it told. And a node that comes back
    /// under a new name is a second originator of its prefix: "Babel may occasionally create a transient routing loop for
    /// this particular prefix" (RFC 8966, section 2), when some still go by the old name.
    fn check_loops(&mut self, prefix: usize, node: usize) {
        self.tally.loop_checks += 1;
        let Some(nodes) = self.find_loop(prefix, node) else { return };
        let names: Vec<_> = nodes.iter().filter_map(|node| self.name_used(*node, prefix)).collect();
        let two_names = self.is_reborn(prefix) && names.iter().any(|name| *name != names[0]);
        let excused = two_names || nodes.iter().any(|node| self.is_reborn(*node));
        assert!(excused, "{}: packets to {prefix} turn in a circle: {nodes:?}, {names:?}", self.when());
        self.tally.loops_after_restart += 1;
        self.loops.push((prefix, node, self.now));
    }

    fn is_reborn(&self, node: usize) -> bool {
        let Node { lives, born, .. } = self.nodes[node];
        lives > 1 && self.now < born + self.plan.interface.update_interval * FORGOTTEN_AFTER
    }

    fn name_used(&self, node: usize, prefix: usize) -> Option<RouterId> {
        let route = self.nodes[node].speaker.as_ref()?.selected(home(prefix));
        route.map(|route| route.router_id)
    }

    fn find_loop(&self, prefix: usize, node: usize) -> Option<Vec<usize>> {
        let (mut at, mut steps) = (node, 0);
        while let Some(link) = self.fib[self.entry(prefix, at)].link() {
            at = self.links[link].other_end(at);
            steps += 1;
            if at == node {
                return Some(self.path(prefix, node, steps));
            }
            if steps > self.nodes.len() {
                return None; // Into a loop that is known already.
            }
        }
        None
    }

    fn path(&self, prefix: usize, from: usize, steps: usize) -> Vec<usize> {
        let next = |at: &usize| self.fib[self.entry(prefix, *at)].link().map(|link| self.links[link].other_end(*at));
        std::iter::successors(Some(from), next).take(steps).collect()
    }

    fn review_loops(&mut self) {
        for index in (0..self.loops.len()).rev() {
            let (prefix, node, since) = self.loops[index];
            if self.find_loop(prefix, node).is_none() {
                self.loops.swap_remove(index);
                self.tally.loop_lasted = self.tally.loop_lasted.max(self.now - since);
            }
        }
    }

    /// What is used is better than everything told while it counts.
    fn check_feasible(&self, node: usize, pair: PrefixPair) {
        let route = self.speaker(node).selected(pair).expect("an event tells of the latest state");
        assert!(route.feasible, "{}: node {node} uses what is not feasible: {route:?}", self.when());
        let Some(told) = self.told.get(self.entry(homed(pair), node)).copied().flatten() else { return };
        let counts = u16::from(named(route.router_id).1) == told.life && self.now < told.at + KEPT;
        let better =
            route.seqno.is_newer_than(told.seqno) || (route.seqno == told.seqno && route.refmetric < told.metric);
        assert!(better || !counts, "{}: node {node} told {told:?} and uses {route:?}", self.when());
    }

    fn check_packet(&mut self, node: usize, link: usize, payload: &[u8]) {
        let source = link_local(node, link);
        for tlv in Packet::parse(payload).expect("speakers write packets").tlvs(source) {
            match tlv {
                Tlv::Update(update) if update.metric.is_finite() => self.check_announcement(node, &update),
                Tlv::SeqnoRequest(_) => self.tally.seqno_requests += 1,
                Tlv::Update(_)
                | Tlv::Hello(_)
                | Tlv::Ihu(_)
                | Tlv::RouteRequest(_)
                | Tlv::Acknowledgment(_)
                | Tlv::AcknowledgmentRequest(_) => {}
            }
        }
    }

    /// Announced equals selected: nothing else may move a feasibility distance.
    fn check_announcement(&mut self, node: usize, update: &Update) {
        let Some(AnyPrefix::V6(prefix)) = update.prefix else { panic!("{}: {update:?}", self.when()) };
        let selected = self.speaker(node).selected(prefix).expect("what is announced is selected");
        let announced = (update.seqno, update.metric, update.router_id);
        assert_eq!(announced, (selected.seqno, selected.metric, Some(selected.router_id)), "{}", self.when());
        if selected.neighbour.is_some() {
            self.check_distance(node, prefix, selected.router_id, update);
        }
    }

    /// The feasibility distance is at least as good as what was told just now and before.
    fn check_distance(&mut self, node: usize, prefix: Prefix, router_id: RouterId, update: &Update) {
        let row = self.speaker(node).source(prefix, router_id).expect("what is told is remembered");
        let worse =
            |seqno: Seqno, metric| seqno.is_newer_than(row.seqno) || (seqno == row.seqno && metric < row.metric);
        assert!(!worse(update.seqno, update.metric), "{}: node {node}: {row:?}, {update:?}", self.when());
        let entry = self.entry(homed(prefix.into()), node);
        let (life, at) = (named(router_id).1.into(), self.now);
        if let Some(told) = self.told.get_mut(entry) {
            let before = told.filter(|told| told.life == life && at < told.at + KEPT);
            *told = Some(Told { life, seqno: row.seqno, metric: row.metric, at });
            let worsened = before.is_some_and(|before| worse(before.seqno, before.metric));
            assert!(!worsened, "{}: node {node} told {before:?}, remembers {row:?}", self.when());
        }
    }

    /// Tables are bounded, and the events told all of them.
    fn check_tables(&self, node: usize) {
        let (speaker, limits) = (self.speaker(node), babel::Limits::default());
        let usage = speaker.usage();
        let within = usage.neighbours <= limits.neighbours && usage.prefixes <= limits.prefixes;
        assert!(within && usage.sources <= limits.sources && usage.pending <= limits.pending, "{usage:?}");
        for route in speaker.routes().filter(|route| route.selected) {
            let via = route.neighbour.map_or(Hop::HERE, |(link, _)| Hop::via(link.0 as usize));
            assert_eq!(self.fib[self.entry(homed(route.pair), node)], via, "{}: {route:?}", self.when());
            assert!(via == Hop::HERE || (route.feasible && route.metric.is_finite()), "{}: {route:?}", self.when());
        }
    }
}
