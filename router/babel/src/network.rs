//! A small network of speakers on virtual time, for tests: links with loss and delay, and everything
//! that must hold at every instant checked after every step.

use crate::interface::{InterfaceConfig, InterfaceId};
use crate::metric::{Cost, Metric};
use crate::prefix::{Prefix, PrefixPair};
use crate::router_id::RouterId;
use crate::seqno::Seqno;
use crate::source::Distance;
use crate::speaker::Speaker;
use crate::views::{Config, Destination, Event, Transmit};
use crate::wire::{AnyPrefix, Packet, Tlv};
use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

/// Prefix, link to the next hop.
type Fib = BTreeMap<PrefixPair, InterfaceId>;

struct Node {
    speaker: Speaker,
    fib: Fib,
    incarnation: u8,
}

/// A link between two nodes; its number is the interface's name at both ends.
#[derive(Clone, Copy)]
struct Link {
    ends: [usize; 2],
    /// Packets pass.
    whole: bool,
    cost: u16,
}

impl Link {
    fn other_end(&self, end: usize) -> usize {
        self.ends[usize::from(self.ends[0] == end)]
    }
}

struct Flight {
    to: usize,
    link: usize,
    source: Ipv6Addr,
    destination: Destination,
    payload: Vec<u8>,
}

pub(crate) struct Network {
    pub(crate) now: Instant,
    start: Instant,
    rng: fastrand::Rng,
    nodes: Vec<Node>,
    links: Vec<Link>,
    flights: BTreeMap<(Instant, u64), Flight>,
    sent: u64,
    pub(crate) bytes: u64,
    /// Packets lost, in percent.
    pub(crate) loss: u32,
    /// The longest delay of a packet; more than the time between two packets reorders them.
    pub(crate) delay_ms: u64,
    /// FD of each (node, prefix, router-id), to see that it never worsens.
    distances: BTreeMap<(usize, PrefixPair, RouterId), Distance>,
    /// Whether loops are errors (not while a node that forgot everything restarts).
    pub(crate) check_loops: bool,
}

pub(crate) fn home(node: usize) -> Prefix {
    let bits = 0xfd << 120 | (node as u128 + 1) << 80;
    Prefix::new(Ipv6Addr::from_bits(bits), 48).unwrap()
}

fn link_local(node: usize, link: usize) -> Ipv6Addr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, node as u16 + 1, 0, link as u16 + 1)
}

fn name(node: usize, incarnation: u8) -> RouterId {
    RouterId::new([2, incarnation, 0, 0, 0, 0, (node >> 8) as u8, node as u8]).unwrap()
}

impl Network {
    /// Nodes with a prefix each and tunnels between them, all switched on at once.
    pub(crate) fn new(seed: u64, nodes: usize, ends: &[(usize, usize)]) -> Self {
        #[expect(clippy::disallowed_methods, reason = "an Instant has no other origin")]
        let start = Instant::now();
        let mut network = Self {
            now: start,
            start,
            rng: fastrand::Rng::with_seed(seed),
            nodes: Vec::new(),
            links: Vec::new(),
            flights: BTreeMap::new(),
            sent: 0,
            bytes: 0,
            loss: 0,
            delay_ms: 5,
            distances: BTreeMap::new(),
            check_loops: true,
        };
        for node in 0..nodes {
            let node = network.boot(node, 0);
            network.nodes.push(node);
        }
        for (a, b) in ends {
            network.links.push(Link { ends: [*a, *b], whole: true, cost: 96 });
            network.plug(network.links.len() - 1);
        }
        network
    }

    pub(crate) fn ring(seed: u64, nodes: usize) -> Self {
        let ends: Vec<_> = (0..nodes).map(|node| (node, (node + 1) % nodes)).collect();
        Self::new(seed, nodes, &ends)
    }

    fn boot(&mut self, index: usize, incarnation: u8) -> Node {
        let config = Config::new(name(index, incarnation), Seqno(self.rng.u16(..)));
        let mut speaker = Speaker::new(self.now, config, self.rng.u64(..));
        speaker.handle_originate(self.now, home(index), Metric::ZERO);
        Node { speaker, fib: Fib::new(), incarnation }
    }

    pub(crate) fn speaker(&self, node: usize) -> &Speaker {
        &self.nodes[node].speaker
    }

    /// Both ends know that the link is there.
    pub(crate) fn plug(&mut self, link: usize) {
        self.links[link].whole = true;
        for node in self.links[link].ends {
            self.switch_on(node, link);
            self.drain(node);
        }
    }

    fn switch_on(&mut self, node: usize, link: usize) {
        let cost = Cost::new(self.links[link].cost);
        let config = InterfaceConfig { cost, ..InterfaceConfig::tunnel(link_local(node, link)) };
        let (now, id) = (self.now, InterfaceId(link as u32));
        self.nodes[node].speaker.handle_interface_up(now, id, config);
    }

    /// Both ends know that the link is gone.
    pub(crate) fn unplug(&mut self, link: usize) {
        self.links[link].whole = false;
        for node in self.links[link].ends {
            let now = self.now;
            self.nodes[node].speaker.handle_interface_down(now, InterfaceId(link as u32));
            self.drain(node);
        }
    }

    /// Packets pass or vanish; nobody is told.
    pub(crate) fn set_whole(&mut self, link: usize, whole: bool) {
        self.links[link].whole = whole;
    }

    /// A node forgets everything, and comes back at once under a new name.
    pub(crate) fn restart(&mut self, node: usize) {
        let incarnation = self.nodes[node].incarnation + 1;
        self.nodes[node] = self.boot(node, incarnation);
        self.distances.retain(|(of, _, _), _| *of != node);
        for link in 0..self.links.len() {
            if self.links[link].ends.contains(&node) {
                self.switch_on(node, link);
            }
        }
        self.drain(node);
    }

    pub(crate) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.step(end) {}
        self.now = end;
    }

    /// Runs until every node reaches every prefix, as packets would travel. How long it took.
    pub(crate) fn run_until_whole(&mut self, limit: Duration) -> Option<Duration> {
        let (start, end) = (self.now, self.now + limit);
        while !self.is_whole() {
            if !self.step(end) {
                return None;
            }
        }
        Some(self.now - start)
    }

    /// Runs until the two ends of a link use it for each other. How long it took.
    fn run_until_short(&mut self, link: usize, limit: Duration) -> Option<Duration> {
        let (start, end) = (self.now, self.now + limit);
        let [a, b] = self.links[link].ends;
        let uses = |network: &Self, from: usize, to| {
            network.nodes[from].fib.get(&home(to).into()) == Some(&InterfaceId(link as u32))
        };
        while !(uses(self, a, b) && uses(self, b, a)) {
            if !self.step(end) {
                return None;
            }
        }
        Some(self.now - start)
    }

    /// The next packet or timer not after `end`.
    fn step(&mut self, end: Instant) -> bool {
        let flight = self.flights.first_key_value().map(|((at, _), _)| *at);
        let timer = self.nodes.iter().enumerate().filter_map(|(node, n)| Some((n.speaker.poll_timeout()?, node))).min();
        match (flight, timer) {
            (Some(at), timer) if at <= end && timer.is_none_or(|(timer, _)| at <= timer) => self.land(),
            (_, Some((at, node))) if at <= end => {
                self.now = self.now.max(at);
                let now = self.now;
                self.nodes[node].speaker.handle_timeout(now);
                self.drain(node);
                let next = self.nodes[node].speaker.poll_timeout();
                assert!(next.is_none_or(|next| next > now), "node {node}: a timer fired and did nothing");
            }
            _ => return false,
        }
        true
    }

    fn land(&mut self) {
        let ((at, _), flight) = self.flights.pop_first().unwrap();
        self.now = self.now.max(at);
        if !self.links[flight.link].whole || self.rng.u32(0..100) < self.loss {
            return;
        }
        let (now, to) = (self.now, flight.to);
        let from = InterfaceId(flight.link as u32);
        self.nodes[to].speaker.handle_packet(now, from, flight.source, flight.destination, &flight.payload).unwrap();
        self.drain(to);
    }

    fn drain(&mut self, node: usize) {
        while let Some(transmit) = self.nodes[node].speaker.poll_transmit(self.now) {
            self.send(node, transmit);
        }
        while let Some(event) = self.nodes[node].speaker.poll_event() {
            apply(&mut self.nodes[node].fib, event);
        }
        self.check(node);
    }

    fn send(&mut self, node: usize, transmit: Transmit) {
        assert!(transmit.payload.len() <= 1232);
        self.bytes += transmit.payload.len() as u64 + 48;
        let link = transmit.interface.0 as usize;
        let to = self.links[link].other_end(node);
        self.check_announcements(node, link_local(node, link), &transmit.payload);
        let at = self.now + Duration::from_millis(self.rng.u64(1..=self.delay_ms));
        self.sent += 1;
        let flight =
            Flight { to, link, source: link_local(node, link), destination: transmit.to, payload: transmit.payload };
        self.flights.insert((at, self.sent), flight);
    }

    /// Whether packets arrive. Panics if they turn in a circle, were the cut links whole.
    fn delivers(&self, from: usize, to: usize) -> bool {
        let (mut at, mut passes) = (from, true);
        for _ in 0..=self.nodes.len() {
            if at == to {
                return passes;
            }
            let Some(link) = self.nodes[at].fib.get(&home(to).into()).map(|id| self.links[id.0 as usize]) else {
                return false;
            };
            passes &= link.whole;
            at = link.other_end(at);
        }
        let after = self.now - self.start;
        assert!(!self.check_loops, "packets from {from} to {to} turn in a circle after {after:?}");
        false
    }

    pub(crate) fn is_whole(&self) -> bool {
        let all = 0..self.nodes.len();
        all.clone().all(|from| all.clone().all(|to| self.delivers(from, to)))
    }

    /// Announced equals selected: nothing else may move a feasibility distance.
    fn check_announcements(&self, node: usize, source: Ipv6Addr, payload: &[u8]) {
        let speaker = &self.nodes[node].speaker;
        for tlv in Packet::parse(payload).unwrap().tlvs(source) {
            let Tlv::Update(update) = tlv else { continue };
            let (Some(AnyPrefix::V6(prefix)), true) = (update.prefix, update.metric.is_finite()) else { continue };
            let selected = speaker.routes.selected(prefix.into()).unwrap();
            assert_eq!((selected.seqno, selected.metric), (update.seqno, update.metric));
            assert_eq!(Some(selected.router_id), update.router_id);
        }
    }

    /// What must hold at every instant (after a step of this node).
    fn check(&mut self, node: usize) {
        let speaker = &self.nodes[node].speaker;
        let limits = speaker.config.limits;
        assert!(speaker.routes.len() <= limits.prefixes && speaker.routes.sources() <= limits.sources);
        assert!(speaker.neighbours.len() <= limits.neighbours && speaker.pending.len() <= limits.pending);
        for route in speaker.routes() {
            assert!(
                !route.selected || route.neighbour.is_none() || (route.feasible && route.metric.is_finite()),
                "{route:?}"
            );
        }
        for (pair, entry) in speaker.routes.iter() {
            let Some(selected) = entry.selected.filter(|selected| selected.via.is_some()) else { continue };
            let Some(feasibility) = entry.sources.feasibility(selected.router_id) else { continue };
            let before = self.distances.insert((node, pair, selected.router_id), feasibility);
            assert!(
                before.is_none_or(|before| !before.is_better_than(feasibility)),
                "node {node}: FD of {pair} worsened"
            );
        }
        for to in 0..self.nodes.len() {
            self.delivers(node, to);
        }
    }
}

fn apply(fib: &mut Fib, event: Event) {
    match event {
        Event::RouteSelected { pair, via, .. } => {
            fib.insert(pair, via);
        }
        Event::RouteLost { pair } | Event::RouteForgotten { pair } => {
            fib.remove(&pair);
        }
        Event::NeighbourUp { .. } | Event::NeighbourDown { .. } | Event::SeqnoChanged(_) => {}
    }
}

/// A connected graph: a random tree and some links more.
fn random_graph(rng: &mut fastrand::Rng, nodes: usize) -> Vec<(usize, usize)> {
    let mut ends: Vec<_> = (1..nodes).map(|node| (rng.usize(0..node), node)).collect();
    for _ in 0..nodes {
        let (a, b) = (rng.usize(0..nodes), rng.usize(0..nodes));
        if a != b {
            ends.push((a, b));
        }
    }
    ends
}

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn two_nodes_find_each_other_within_a_second() {
    let mut network = Network::new(1, 2, &[(0, 1)]);
    assert!(network.run_until_whole(MINUTE).unwrap() < Duration::from_secs(1));
}

#[test]
fn a_line_learns_both_ends_and_loses_what_is_cut_off() {
    let mut network = Network::new(2, 5, &[(0, 1), (1, 2), (2, 3), (3, 4)]);
    assert!(network.run_until_whole(MINUTE).unwrap() < Duration::from_secs(2));
    network.unplug(1);
    network.run(Duration::from_secs(2));
    assert!(network.delivers(0, 1) && !network.delivers(0, 2));
    let lost = network.speaker(0).routes().filter(|route| route.selected).count();
    assert_eq!(lost, 2, "node 0 reaches itself and node 1");
    network.plug(1);
    assert!(network.run_until_whole(MINUTE).unwrap() < Duration::from_secs(2));
}

#[test]
fn a_diamond_moves_to_the_other_side() {
    for seed in 0..20 {
        let mut network = Network::new(seed, 4, &[(0, 1), (0, 2), (1, 3), (2, 3)]);
        network.run_until_whole(MINUTE).unwrap();
        network.run(MINUTE);
        network.unplug(2);
        let took = network.run_until_whole(MINUTE).unwrap();
        assert!(took < Duration::from_secs(1), "seed {seed}: {took:?}");
    }
}

#[test]
fn a_ring_of_eight_heals_within_three_seconds_of_silence_and_one_of_a_signal() {
    let (mut silent, mut told, mut back) = (Vec::new(), Vec::new(), Vec::new());
    for seed in 0..20 {
        let mut network = Network::ring(seed, 8);
        network.run_until_whole(MINUTE).unwrap();
        network.run(MINUTE + Duration::from_millis(137) * seed as u32);
        network.set_whole(3, false);
        silent.push(network.run_until_whole(MINUTE).unwrap());
        network.run(MINUTE);
        network.set_whole(3, true);
        back.push(network.run_until_short(3, MINUTE).unwrap());
        network.run(MINUTE);
        network.unplug(6);
        told.push(network.run_until_whole(MINUTE).unwrap());
    }
    let worst = |took: &[Duration]| took.iter().copied().max().unwrap();
    println!("worst of 20: silent {:?}, told {:?}, back {:?}", worst(&silent), worst(&told), worst(&back));
    assert!(worst(&silent) <= Duration::from_secs(3));
    assert!(worst(&told) <= Duration::from_secs(1));
    assert!(worst(&back) <= Duration::from_secs(10));
}

#[test]
fn an_idle_ring_speaks_less_than_278_bytes_per_node_and_second() {
    let mut network = Network::ring(1, 8);
    network.run(MINUTE * 2);
    let before = network.bytes;
    network.run(MINUTE * 10);
    let per_node = (network.bytes - before) / 600 / 8;
    println!("{per_node} B/s per node, IPv6 and UDP headers included");
    assert!(per_node < 278);
}

#[test]
fn random_graphs_heal_after_every_change_and_never_make_a_loop() {
    for seed in 0..40 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let nodes = rng.usize(3..16);
        let graph = random_graph(&mut rng, nodes);
        let mut network = Network::new(seed, nodes, &graph);
        network.delay_ms = rng.u64(1..200);
        network.loss = rng.u32(0..30);
        for link in 0..graph.len() {
            network.links[link].cost = rng.u16(1..1000);
            network.plug(link);
        }
        for _ in 0..10 {
            network.run(Duration::from_millis(rng.u64(0..20_000)));
            let link = rng.usize(0..graph.len());
            match rng.u32(0..4) {
                0 => network.set_whole(link, false),
                1 => network.set_whole(link, true),
                2 => network.unplug(link),
                _ => {
                    network.links[link].cost = rng.u16(1..1000);
                    network.plug(link);
                }
            }
        }
        network.loss = 0;
        (0..graph.len()).for_each(|link| network.plug(link));
        assert!(network.run_until_whole(MINUTE * 5).is_some(), "seed {seed}");
        network.run(Duration::from_secs(20));
        assert!(network.is_whole(), "seed {seed}");
    }
}

#[test]
fn under_lasting_loss_everybody_is_reached_again_and_again() {
    for seed in 0..10 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let graph = random_graph(&mut rng, 10);
        let mut network = Network::new(seed, 10, &graph);
        network.loss = 10;
        network.delay_ms = 50;
        for _ in 0..10 {
            assert!(network.run_until_whole(MINUTE * 2).is_some(), "seed {seed}");
            network.run(Duration::from_secs(13));
        }
    }
}

#[test]
fn a_node_that_restarts_is_found_again() {
    for seed in 0..20 {
        let mut network = Network::ring(seed, 6);
        network.run_until_whole(MINUTE).unwrap();
        network.check_loops = false;
        network.loss = 5;
        network.restart(2);
        network.run(Duration::from_millis(300));
        assert!(network.run_until_whole(MINUTE).unwrap() < Duration::from_secs(20), "seed {seed}");
    }
}

#[test]
fn same_seed_same_run() {
    let run = || {
        let mut network = Network::ring(7, 6);
        network.loss = 20;
        network.run(MINUTE * 2);
        (network.bytes, network.sent)
    };
    assert_eq!(run(), run());
}
