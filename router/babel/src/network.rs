//! A small network of speakers on virtual time, for tests: links with loss and delay, and everything
//! that must hold at every instant checked after every step.

use crate::interface::{InterfaceConfig, InterfaceId};
use crate::metric::Metric;
use crate::prefix::Prefix;
use crate::router_id::RouterId;
use crate::seqno::Seqno;
use crate::source::Distance;
use crate::speaker::{Config, Destination, Event, Speaker, Transmit};
use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

/// Prefix, link to the next hop.
type Fib = BTreeMap<Prefix, InterfaceId>;

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
    distances: BTreeMap<(usize, Prefix, RouterId), Distance>,
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
            network.links.push(Link { ends: [*a, *b], whole: true });
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
        let mut speaker = Speaker::new(config, self.rng.u64(..));
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
            let config = InterfaceConfig::tunnel(link_local(node, link));
            let now = self.now;
            self.nodes[node].speaker.handle_interface_up(now, InterfaceId(link as u32), config);
            self.drain(node);
        }
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
                let config = InterfaceConfig::tunnel(link_local(node, link));
                let now = self.now;
                self.nodes[node].speaker.handle_interface_up(now, InterfaceId(link as u32), config);
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
        let to = self.links[link].ends.into_iter().find(|end| *end != node).unwrap();
        let at = self.now + Duration::from_millis(self.rng.u64(1..=self.delay_ms));
        self.sent += 1;
        let flight =
            Flight { to, link, source: link_local(node, link), destination: transmit.to, payload: transmit.payload };
        self.flights.insert((at, self.sent), flight);
    }

    fn next_hop(&self, node: usize, prefix: Prefix) -> Option<usize> {
        let link = self.nodes[node].fib.get(&prefix)?;
        self.links[link.0 as usize].ends.into_iter().find(|end| *end != node)
    }

    /// Where packets for a prefix end: at their destination, or stuck (`false`). Panics if they turn in a circle.
    fn delivers(&self, from: usize, to: usize) -> bool {
        let mut at = from;
        for _ in 0..=self.nodes.len() {
            if at == to {
                return true;
            }
            let Some(next) = self.next_hop(at, home(to)) else { return false };
            let link = self.nodes[at].fib[&home(to)];
            if !self.links[link.0 as usize].whole {
                return false;
            }
            at = next;
        }
        assert!(!self.check_loops, "packets from {from} to {to} turn in a circle after {:?}", self.now - self.start);
        false
    }

    pub(crate) fn is_whole(&self) -> bool {
        let all = 0..self.nodes.len();
        all.clone().all(|from| all.clone().all(|to| self.delivers(from, to)))
    }

    /// What must hold at every instant (after a step of this node).
    fn check(&mut self, node: usize) {
        let speaker = &self.nodes[node].speaker;
        let limits = speaker.config.limits;
        assert!(speaker.routes.len() <= limits.prefixes && speaker.sources.len() <= limits.sources);
        assert!(speaker.neighbours.len() <= limits.neighbours && speaker.pending.len() <= limits.pending);
        for route in speaker.routes() {
            assert!(
                !route.selected || route.neighbour.is_none() || (route.feasible && route.metric.is_finite()),
                "{route:?}"
            );
        }
        for (prefix, entry) in speaker.routes.iter() {
            let Some(selected) = entry.selected.filter(|selected| selected.via.is_some()) else { continue };
            let Some(feasibility) = speaker.sources.feasibility(prefix, selected.router_id) else { continue };
            let before = self.distances.insert((node, prefix, selected.router_id), feasibility);
            assert!(
                before.is_none_or(|before| !before.is_better_than(feasibility)),
                "node {node}: FD of {prefix} worsened"
            );
        }
        for to in 0..self.nodes.len() {
            self.delivers(node, to);
        }
    }
}

fn apply(fib: &mut Fib, event: Event) {
    match event {
        Event::RouteSelected { prefix, via, .. } => {
            fib.insert(prefix, via);
        }
        Event::RouteLost { prefix } | Event::RouteForgotten { prefix } => {
            fib.remove(&prefix);
        }
        Event::NeighbourUp { .. } | Event::NeighbourDown { .. } | Event::SeqnoChanged(_) => {}
    }
}

#[test]
fn two_nodes_find_each_other_within_a_second() {
    let mut network = Network::new(1, 2, &[(0, 1)]);
    let took = network.run_until_whole(Duration::from_secs(5));
    println!("{took:?}");
    assert!(took.unwrap() < Duration::from_secs(1));
}

#[test]
fn a_ring_of_eight_heals() {
    let mut network = Network::ring(1, 8);
    println!("cold {:?}", network.run_until_whole(Duration::from_secs(10)).unwrap());
    network.run(Duration::from_secs(30));
    network.set_whole(3, false);
    println!("silent {:?}", network.run_until_whole(Duration::from_secs(10)).unwrap());
    network.run(Duration::from_secs(30));
    network.set_whole(3, true);
    network.run(Duration::from_secs(30));
    network.unplug(4);
    println!("told {:?}", network.run_until_whole(Duration::from_secs(10)).unwrap());
}
