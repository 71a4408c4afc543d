//! What goes wrong: cuts, power failures, old backups, payers that do not pay.

use std::sync::Arc;
use std::time::Duration;

use metering::Tokens;
use node::datapath::{Datapath, Meters};
use node::{Access, Config, Drops, LinkId, LinkMeasure, LinkSensing, Node, Peer, Policy};

use crate::journal::Records;
use crate::station::Running;
use crate::wire::Quality;
use crate::world::{Happening, MTU, World};
use crate::{StationId, Time, WireId};

/// How long a link's handshake takes.
const HANDSHAKE_TIME: Duration = Duration::from_millis(20);
/// How long after a restart a circle may exist. RFC 8966 rules circles out by what each node remembers; a node that
/// forgot may take a route that leads through itself, until its neighbours have noticed.
const FORGETFUL_TIME: Duration = Duration::from_secs(5);

/// Whether the ends of a wire are told that it was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// Both shells report the link as down.
    Told,
    /// Nobody is told; packets vanish.
    Silent,
}

/// A copy of a station's journal. The default is an empty one.
#[derive(Debug, Clone, Default)]
pub struct Backup(Records);

impl World {
    /// Starts a node from what is on its disk.
    pub(crate) fn power_on(&mut self, at: StationId) {
        let (now, seed) = (self.instant(), self.dice.u64(..));
        let random = u64::from(self.dice.u32(..));
        let domain = self.bank.domain();
        self.lives += 1;
        let life = self.lives;
        let station = &mut self.stations[at.0];
        station.journal.durable.boots += 1;
        let boots = station.journal.durable.boots;
        let config = Config {
            boot: u64::from(boots),
            session: u64::from(boots) << 32 | random,
            announce: station.announce.clone(),
            policy: Policy { weight: self.weight, price_max: station.price_max(), ..Policy::default() },
            prices: station.prices,
            hello_interval: Duration::from_secs(1),
            update_interval: Duration::from_secs(16),
            domain,
            watch: true,
            open: Vec::new(),
            seed,
        };
        let (meters, drops) = (Arc::<Meters>::default(), Arc::<Drops>::default());
        let node = Node::new(now, &station.identity, config);
        let datapath = Datapath::new(node.address(), MTU, Arc::clone(&meters), Arc::clone(&drops), now);
        station.running = Some(Running { life, node, datapath, meters, drops, wake_at: None, woken: (Time::ZERO, 0) });
        self.plan_life(at, life);
        let wires = self.stations[at.0].wires.clone();
        for (index, wire) in (0..).zip(wires) {
            self.accounts[wire].lives += u64::from(self.wires[wire].end_of(at, LinkId(index)) == 0);
            self.add_link(at, LinkId(index), wire);
            self.queue.plan(self.now + HANDSHAKE_TIME, Happening::Session { wire });
        }
    }

    fn add_link(&mut self, at: StationId, link: LinkId, wire: usize) {
        let end = self.wires[wire].end_of(at, link);
        let neighbour = self.wires[wire].ends[1 - end].station;
        let card = *self.stations[neighbour.0].identity.card();
        let measure =
            LinkMeasure { cost: self.wires[wire].quality.cost, sensing: LinkSensing::Measured, path_mtu: true };
        let peer = Peer::Mesh { card, deal: self.deal(wire, end), measure, access: Access::Full, proves: true };
        self.with_node(at, |now, running| running.node.handle_link(now, link, peer, MTU));
    }

    /// Both ends of a wire learn of their session, if there is one.
    pub(crate) fn establish(&mut self, wire: usize) {
        let ends = self.wires[wire].ends;
        let run = ends.iter().all(|end| self.stations[end.station.0].running.is_some());
        if !run || !self.wires[wire].whole {
            return;
        }
        for (index, end) in ends.iter().enumerate().filter(|(_, end)| !end.up) {
            self.wires[wire].ends[index].up = true;
            self.with_node(end.station, |now, running| running.node.handle_link_up(now, end.link));
        }
    }

    /// Cuts a wire. What is on it is lost.
    pub fn cut(&mut self, wire: WireId, notice: Notice) {
        self.wires[wire.0].whole = false;
        if notice == Notice::Silent {
            return;
        }
        for (index, end) in self.wires[wire.0].ends.iter().copied().enumerate().collect::<Vec<_>>() {
            self.wires[wire.0].ends[index].up = false;
            self.with_node(end.station, |now, running| running.node.handle_link_down(now, end.link));
        }
    }

    /// Makes a wire whole again.
    pub fn heal(&mut self, wire: WireId) {
        self.wires[wire.0].whole = true;
        self.queue.plan(self.now + HANDSHAKE_TIME, Happening::Session { wire: wire.0 });
    }

    /// Changes how a wire treats packets. What Babel was told of its cost stays.
    pub fn set_quality(&mut self, wire: WireId, quality: Quality) {
        let cost = self.wires[wire.0].quality.cost;
        self.wires[wire.0].quality = Quality { cost, ..quality };
    }

    /// The power of a station fails: what its journal has not written is gone, and nobody is told.
    pub fn crash(&mut self, at: StationId) {
        let station = &mut self.stations[at.0];
        if station.running.take().is_none() {
            return;
        }
        station.journal.crash(&mut self.dice);
        for wire in self.stations[at.0].wires.clone() {
            for end in self.wires[wire].ends.iter_mut().filter(|end| end.station == at) {
                end.up = false;
            }
        }
        self.table_changed(at);
    }

    /// The power of a station comes back.
    pub fn restart(&mut self, at: StationId) {
        if self.is_running(at) {
            return;
        }
        self.forgetful_until = self.now + FORGETFUL_TIME;
        self.queue.plan(self.forgetful_until, Happening::Healed);
        self.power_on(at);
    }

    /// Whether a station has power.
    #[must_use]
    pub fn is_running(&self, at: StationId) -> bool {
        self.stations[at.0].running.is_some()
    }

    /// Copies a station's journal.
    #[must_use]
    pub fn backup(&self, at: StationId) -> Backup {
        Backup(self.stations[at.0].journal.durable.clone())
    }

    /// Puts an old journal on the disk of a station without power.
    pub fn roll_back(&mut self, at: StationId, backup: &Backup) {
        self.check(!self.is_running(at), "a running node's journal cannot be exchanged");
        self.stations[at.0].journal.durable = backup.0.clone();
    }

    /// Nothing that the payer of a wire says about settlement is sent, from here on.
    pub fn cheat(&mut self, wire: WireId) {
        self.wires[wire.0].ends[1].cheats = true;
    }

    /// What the provider of a wire carried for its payer, in money, by what both ends accepted, where one provides by the
    /// owners' agreement.
    #[must_use]
    pub fn carried_worth(&self, wire: WireId) -> Tokens {
        match self.wires[wire.0].bond {
            crate::Bond::Provides(offer) => self.accounts[wire.0].worth(&offer),
            crate::Bond::Peers | crate::Bond::ByRoutes | crate::Bond::Freeloader => Tokens::ZERO,
        }
    }

    /// The highest amount that was seen in a receipt on a wire.
    #[must_use]
    pub fn signed(&self, wire: WireId) -> Tokens {
        self.accounts[wire.0].signed
    }
}
