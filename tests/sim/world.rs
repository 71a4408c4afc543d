//! The world: its stations and wires, its time, and what happens next.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use metering::{Identity, Limits, NodeId, Offer, Price, Role, Seed, Snapshot, Tokens};
use node::datapath::{Batch, LinkPolicy, NextHop};
use node::{LinkId, Prefix, PriceWeight, Prices};
use sha2::{Digest, Sha256};

use crate::bank::Bank;
use crate::carry::Flight;
use crate::control::LedgerJob;
use crate::journal::Journal;
use crate::queue::Queue;
use crate::report::Settlement;
use crate::station::Station;
use crate::traffic::{Conversation, Flow, Packets};
use crate::watch::{Account, Ways};
use crate::wire::{Bond, End, Quality, Wire};
use crate::{FlowId, StationId, Time, WireId};

/// The largest packet on a link: what a WireGuard tunnel over a 1500-byte network carries.
pub(crate) const MTU: usize = 1420;
/// How often the shell shows the control core what was carried.
pub(crate) const METERS_INTERVAL: Duration = Duration::from_millis(50);
/// Packets in one batch, as in the worker.
pub(crate) const BATCH: usize = 64;
/// What every station is given at its founding, base units.
const PURSE: Tokens = Tokens::new(1_000_000_000_000).expect("below 2^96");
/// The address a gateway answers for: one of the documentation addresses (RFC 3849).
pub(crate) const INTERNET: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// What is planned.
#[derive(Debug)]
pub(crate) enum Happening {
    /// A packet comes out of a wire at this end.
    Arrive { wire: usize, end: usize, flight: Flight },
    /// Both ends of a wire have a session.
    Session { wire: usize },
    /// A node asked to be woken.
    Wake { station: StationId, life: u64 },
    /// The control core is shown the meters.
    Meters { station: StationId, life: u64 },
    /// The oldest write of the journal is done.
    Written { station: StationId, life: u64 },
    /// The ledger answers.
    Ledger { station: StationId, life: u64, link: LinkId, job: LedgerJob },
    /// A host sends a burst.
    Send { flow: usize },
    /// By now what a restarted node forgot must do no harm any more.
    Healed,
}

/// A mesh. See the crate's page.
#[derive(Debug)]
pub struct World {
    pub(crate) seed: u64,
    base: Instant,
    pub(crate) now: Time,
    pub(crate) steps: u64,
    pub(crate) queue: Queue<Happening>,
    pub(crate) dice: fastrand::Rng,
    pub(crate) stations: Vec<Station>,
    pub(crate) wires: Vec<Wire>,
    pub(crate) accounts: Vec<Account>,
    pub(crate) conversations: Vec<Conversation>,
    pub(crate) packets: Packets,
    pub(crate) ways: Ways,
    /// Until when a circle may exist: a node that forgot its feasibility distances has just restarted.
    pub(crate) forgetful_until: Time,
    pub(crate) bank: Bank,
    pub(crate) redeemed: BTreeMap<NodeId, Tokens>,
    pub(crate) settlement: Settlement,
    pub(crate) weight: PriceWeight,
    pub(crate) lives: u64,
    pub(crate) batch: Batch,
    pub(crate) digest: Sha256,
}

impl World {
    /// A world without stations.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        #[expect(clippy::disallowed_methods, reason = "an Instant has no zero; only differences to this one are used")]
        let base = Instant::now();
        Self {
            seed,
            base,
            now: Time::ZERO,
            steps: 0,
            queue: Queue::new(),
            dice: fastrand::Rng::with_seed(seed),
            stations: Vec::new(),
            wires: Vec::new(),
            accounts: Vec::new(),
            conversations: Vec::new(),
            packets: Packets::default(),
            ways: Ways::default(),
            forgetful_until: Time::ZERO,
            bank: Bank::new(&identity(seed, u64::MAX)),
            redeemed: BTreeMap::new(),
            settlement: Settlement::default(),
            weight: PriceWeight::NONE,
            lives: 0,
            batch: Batch::new(BATCH, MTU + 64),
            digest: Sha256::new(),
        }
    }

    /// A line: each station provides to the next, the first is the gateway.
    #[must_use]
    pub fn line(seed: u64, stations: usize, offer: Offer, quality: Quality) -> Self {
        let mut world = Self::new(seed);
        let ids = world.stations(stations);
        for pair in ids.windows(2) {
            world.connect(pair[0], pair[1], Bond::Provides(offer), quality);
        }
        world.start();
        world
    }

    /// A ring of peers.
    #[must_use]
    pub fn ring(seed: u64, stations: usize, quality: Quality) -> Self {
        let mut world = Self::new(seed);
        let ids = world.stations(stations);
        for (index, id) in ids.iter().enumerate() {
            world.connect(*id, ids[(index + 1) % stations], Bond::Peers, quality);
        }
        world.start();
        world
    }

    /// A diamond: a gateway (0), two relays (1, 2), and a household (3) that both provide to. Wires in this order: 0-1,
    /// 0-2, 1-3, 2-3.
    #[must_use]
    pub fn diamond(seed: u64, offer: Offer, quality: Quality) -> Self {
        let mut world = Self::new(seed);
        let ids = world.stations(4);
        for (provider, payer) in [(0, 1), (0, 2), (1, 3), (2, 3)] {
            world.connect(ids[provider], ids[payer], Bond::Provides(offer), quality);
        }
        world.start();
        world
    }

    /// A tree that grew at random from a gateway, in which each station provides to those below it; and as many more
    /// wires between peers, at random, as `chords` says. Costs differ from wire to wire.
    #[must_use]
    pub fn random(seed: u64, stations: usize, chords: usize, offer: Offer, quality: Quality) -> Self {
        let mut world = Self::new(seed);
        let ids = world.stations(stations);
        for station in 1..stations {
            // Near the youngest, so that the tree is some hops deep.
            let above = world.dice.usize(station.saturating_sub(8)..station);
            let quality = Quality { cost: world.dice.u16(64..=192), ..quality };
            world.connect(ids[above], ids[station], Bond::Provides(offer), quality);
        }
        for _ in 0..chords {
            let (a, b) = (world.dice.usize(0..stations), world.dice.usize(0..stations));
            let quality = Quality { cost: world.dice.u16(64..=192), ..quality };
            if a != b && !world.are_connected(ids[a], ids[b]) {
                world.connect(ids[a], ids[b], Bond::Peers, quality);
            }
        }
        world.start();
        world
    }

    /// Adds stations; the first of a world is its gateway and announces the Internet.
    pub fn stations(&mut self, count: usize) -> Vec<StationId> {
        (0..count).map(|_| self.station()).collect()
    }

    fn station(&mut self) -> StationId {
        let id = StationId(self.stations.len());
        let identity = identity(self.seed, id.0 as u64);
        self.bank.mint(self.now, identity.node_id(), PURSE);
        let everything = Prefix::new(Ipv6Addr::UNSPECIFIED, 0);
        let announce = everything.filter(|_| id.0 == 0).into_iter().collect();
        let (wires, journal) = (Vec::new(), Journal::default());
        let prices = Prices { limits: Limits { max_price: Price::new(u64::MAX) }, ..Prices::default() };
        self.stations.push(Station { identity, announce, prices, tells: None, wires, journal, running: None });
        id
    }

    /// Puts a wire between two stations; if there is a provider, it is the first. Before [`World::start`].
    pub fn connect(&mut self, a: StationId, b: StationId, bond: Bond, quality: Quality) -> WireId {
        let wire = self.wires.len();
        let ends = [a, b].map(|id| {
            let wires = &mut self.stations[id.0].wires;
            wires.push(wire);
            let link = LinkId(u32::try_from(wires.len() - 1).expect("few wires"));
            End { station: id, link, up: false, cheats: false }
        });
        let seed = self.dice.u64(..);
        self.wires.push(Wire::new(ends, bond, quality, seed));
        self.accounts.push(Account::default());
        WireId(wire)
    }

    /// What a station asks and pays on wires whose roles follow from routes. Before [`World::start`].
    pub fn set_prices(&mut self, at: StationId, prices: Prices) {
        self.stations[at.0].prices = prices;
    }

    /// What prices weigh in choosing routes. Before [`World::start`].
    pub fn set_weight(&mut self, weight: PriceWeight) {
        self.weight = weight;
    }

    /// A station tells its neighbours this price with its routes, whatever it bills.
    pub fn tell_price(&mut self, at: StationId, price: u32) {
        self.stations[at.0].tells = Some(price);
    }

    /// Whether a station may take ways that cost money: its owner's budget is used, or there again.
    pub fn allow_spending(&mut self, at: StationId, allowed: bool) {
        self.with_node(at, |now, running| running.node.handle_spending(now, allowed));
    }

    /// A second way out of the mesh. Before [`World::start`].
    pub fn offer_internet(&mut self, at: StationId) {
        self.stations[at.0].announce.extend(Prefix::new(Ipv6Addr::UNSPECIFIED, 0));
    }

    /// What a station is to its neighbour on a wire.
    #[must_use]
    pub fn role(&self, at: StationId, wire: WireId) -> Option<Role> {
        self.settled(at, wire).map(|snapshot| snapshot.role)
    }

    /// How settlement with the neighbour on a wire stands.
    #[must_use]
    pub fn settled(&self, at: StationId, wire: WireId) -> Option<Snapshot> {
        let running = self.stations[at.0].running.as_ref()?;
        let end = self.wires[wire.0].ends.iter().find(|end| end.station == at)?;
        running.node.links().find(|view| view.link == end.link)?.settlement
    }

    /// What a station asks of its customers.
    #[must_use]
    pub fn ask(&self, at: StationId) -> Option<Price> {
        Some(self.stations[at.0].running.as_ref()?.node.ask())
    }

    /// Over which wire a station's packets leave the mesh.
    #[must_use]
    pub fn way_out(&self, at: StationId) -> Option<WireId> {
        let fib = self.stations[at.0].running.as_ref()?.datapath.fib();
        match fib.lookup(INTERNET)? {
            NextHop::Link(link) => Some(WireId(self.stations[at.0].wires[link.index()])),
            NextHop::Local | NextHop::Unreachable => None,
        }
    }

    fn are_connected(&self, a: StationId, b: StationId) -> bool {
        let [a, b] = [a, b].map(|id| &self.stations[id.0].wires);
        a.iter().any(|wire| b.contains(wire))
    }

    /// Starts every node and every wire.
    pub fn start(&mut self) {
        let mut destinations: Vec<Ipv6Addr> = self.stations.iter().map(Station::address).collect();
        destinations.push(INTERNET);
        self.ways = Ways::new(destinations, self.stations.len());
        for index in 0..self.stations.len() {
            self.power_on(StationId(index));
        }
    }

    /// Every station.
    pub fn station_ids(&self) -> impl Iterator<Item = StationId> + use<> {
        (0..self.stations.len()).map(StationId)
    }

    /// Every wire.
    pub fn wire_ids(&self) -> impl Iterator<Item = WireId> + use<> {
        (0..self.wires.len()).map(WireId)
    }

    /// The world's dice, for scenarios: the same throws for the same seed.
    pub fn dice(&mut self) -> &mut fastrand::Rng {
        &mut self.dice
    }

    /// Virtual time passed.
    #[must_use]
    pub fn now(&self) -> Time {
        self.now
    }

    pub(crate) fn instant(&self) -> Instant {
        self.base + self.now
    }

    pub(crate) fn time_of(&self, instant: Instant) -> Time {
        instant.saturating_duration_since(self.base)
    }

    /// Lets time pass.
    pub fn run_for(&mut self, duration: Duration) {
        let until = self.now + duration;
        while let Some((at, what)) = self.queue.next_until(until) {
            self.now = at;
            self.steps += 1;
            self.happen(what);
            self.check(self.packets.conserved(), "a packet was lost without a reason, or made from nothing");
        }
        self.now = until;
        self.check_in_flight();
    }

    /// Lets time pass until every station can send to every other and to the Internet, in steps of 100 ms; how long it
    /// took, or `None` when `limit` passed first.
    pub fn run_until_connected(&mut self, limit: Duration) -> Option<Duration> {
        let began = self.now;
        while !self.is_connected() {
            if self.now - began >= limit {
                return None;
            }
            self.run_for(Duration::from_millis(100));
        }
        Some(self.now - began)
    }

    /// Whether the tables lead from every running station to every other and to the Internet, over wires that are whole
    /// and open at both ends.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        let carries: Vec<bool> = self.wire_ids().map(|wire| self.carries(wire)).collect();
        let running: Vec<StationId> = self.station_ids().filter(|id| self.is_running(*id)).collect();
        let internet = self.is_running(StationId(0)).then_some(self.stations.len());
        running.iter().all(|from| {
            let mut destinations = running.iter().map(|to| to.0).chain(internet);
            destinations.all(|to| self.ways.leads(*from, to, |wire| carries[wire.0]))
        })
    }

    fn carries(&self, wire: WireId) -> bool {
        let is_open = |end: &End| {
            let running = self.stations[end.station.0].running.as_ref();
            let entry = running.and_then(|running| running.datapath.fib().link(end.link));
            end.up && entry.is_some_and(|entry| entry.policy == LinkPolicy::Mesh)
        };
        self.wires[wire.0].whole && self.wires[wire.0].ends.iter().all(is_open)
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Arrive { wire, end, flight } => self.arrive(wire, end, flight),
            Happening::Session { wire } => self.establish(wire),
            Happening::Wake { station, life } => self.wake(station, life),
            Happening::Meters { station, life } => self.show_meters(station, life),
            Happening::Written { station, life } => self.finish_write(station, life),
            Happening::Ledger { station, life, link, job } => self.answer_ledger(station, life, link, job),
            Happening::Send { flow } => self.send_burst(flow),
            Happening::Healed => self.check_healed(),
        }
    }

    /// A host begins to send.
    pub fn flow(&mut self, flow: Flow) -> FlowId {
        let [from, to] = [flow.from, flow.to].map(|id| self.stations[id.0].address());
        let (source, destination) = if flow.internet { (from, INTERNET) } else { (from, to) };
        self.conversations.push(Conversation::new(flow, source, destination));
        let id = self.conversations.len() - 1;
        let first = flow.every.mul_f64(self.dice.f64());
        self.queue.plan(self.now + first, Happening::Send { flow: id });
        FlowId(id)
    }

    /// Hosts fall silent.
    pub fn stop_flows(&mut self) {
        for conversation in &mut self.conversations {
            conversation.stopped = true;
        }
    }

    /// Packets sent and delivered of a flow.
    #[must_use]
    pub fn progress(&self, flow: FlowId) -> (usize, usize) {
        let conversation = &self.conversations[flow.0];
        (conversation.sent(), conversation.delivered())
    }

    /// Sends one packet from every running station to every other, and returns how many did not arrive within `wait`,
    /// and of how many.
    pub fn probe_all_pairs(&mut self, wait: Duration) -> (usize, usize) {
        let running: Vec<StationId> = self.station_ids().filter(|id| self.is_running(*id)).collect();
        let mut probes = Vec::new();
        for (from, to) in running.iter().flat_map(|from| running.iter().map(|to| (*from, *to))) {
            if from != to {
                let every = Duration::from_millis(500);
                let flow = Flow { from, to, internet: false, every, burst: 1, len: 200 };
                probes.push(self.flow(flow));
            }
        }
        self.run_for(Duration::from_millis(500));
        for probe in &probes {
            self.conversations[probe.0].stopped = true;
        }
        self.run_for(wait);
        let arrived = |probe: &&FlowId| self.progress(**probe).1 > 0;
        (probes.len() - probes.iter().filter(arrived).count(), probes.len())
    }

    /// SHA-256 over every packet at every hop, every forwarding table and every ledger entry, in order and with its
    /// time.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        self.digest.clone().finalize().into()
    }

    pub(crate) fn note(&mut self, kind: u8, station: StationId, what: &[u8]) {
        let nanos = u64::try_from(self.now.as_nanos()).unwrap_or(u64::MAX);
        self.digest.update(nanos.to_be_bytes());
        self.digest.update([kind]);
        self.digest.update((station.0 as u64).to_be_bytes());
        self.digest.update((what.len() as u64).to_be_bytes());
        self.digest.update(what);
    }

    /// Ends the run when something that must always be true is not.
    #[track_caller]
    pub(crate) fn check(&self, holds: bool, what: impl Display) {
        assert!(holds, "at {:?} of virtual time: {what}\n{}", self.now, self.report());
    }

    fn check_in_flight(&self) {
        let is_data = |what: &&Happening| matches!(what, Happening::Arrive { flight, .. } if flight.is_data());
        let planned = self.queue.planned().filter(is_data).count() as u64;
        self.check(planned == self.packets.in_flight, "the wires hold other packets than were counted");
    }
}

/// Says how to see a failure again.
impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the seed was {0}: SIM_SEED={0} cargo test -p sim --test scenarios", self.seed);
        }
    }
}

fn identity(seed: u64, number: u64) -> Identity {
    let digest = Sha256::new().chain_update(seed.to_be_bytes()).chain_update(number.to_be_bytes()).finalize();
    Identity::new(&Seed::from_bytes(digest.into()))
}
