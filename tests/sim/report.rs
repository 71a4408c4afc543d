//! What a run was: numbers for people.

use std::fmt;
use std::time::Duration;

use ledger_core::Refusal;
use metering::{NodeId, Tokens};
use node::{DropReason, LinkId};

use crate::traffic::Packets;
use crate::world::World;
use crate::{StationId, Time, WireId};

/// What was settled, and what else control cores said.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settlement {
    /// Segments that began, counted at both ends.
    pub segments: u64,
    /// Receipts seen on wires that were higher than all before.
    pub signed: u64,
    /// Receipts made durable by payees.
    pub held: u64,
    /// Receipts redeemed.
    pub redeemed: u64,
    /// Times a window was full.
    pub exhausted: u64,
    /// Receipts that came back to a payer whose journal knew no such ceiling.
    pub above_ceiling: u64,
    /// Times a node became something else to a neighbour.
    pub roles: u64,
    /// Control packets refused.
    pub refused: u64,
    /// Times Babel lost a neighbour.
    pub neighbours_lost: u64,
    /// Circles there were, while a restarted node's neighbours had not noticed.
    pub circles: u64,
}

/// A run so far.
#[derive(Debug, Clone)]
pub struct Report {
    seed: u64,
    now: Time,
    steps: u64,
    packets: Packets,
    settlement: Settlement,
    digest: [u8; 32],
}

impl World {
    /// The run so far.
    #[must_use]
    pub fn report(&self) -> Report {
        Report {
            seed: self.seed,
            now: self.now,
            steps: self.steps,
            packets: self.packets.clone(),
            settlement: self.settlement,
            digest: self.digest(),
        }
    }

    /// What was settled.
    #[must_use]
    pub fn settlement(&self) -> Settlement {
        self.settlement
    }

    /// Data packets dropped for a reason by all datapaths.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.packets.dropped_for(reason)
    }

    /// Data packets that wires lost, or stations without power.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.packets.lost
    }

    /// Hands every receipt in a running node's journal to the ledger, after the nodes have settled what they can.
    /// Returns what the ledger refused, and for whom.
    pub fn redeem_all(&mut self) -> Vec<(StationId, Refusal)> {
        for at in self.station_ids() {
            self.with_node(at, |now, running| running.node.handle_flush(now));
        }
        self.run_for(Duration::from_secs(1));
        // What came in answer to the flush goes to the journal, too.
        for at in self.station_ids() {
            self.with_node(at, |now, running| running.node.handle_flush(now));
        }
        self.run_for(Duration::from_secs(1));
        self.station_ids().flat_map(|at| self.redeem(at)).collect()
    }

    fn redeem(&mut self, at: StationId) -> Vec<(StationId, Refusal)> {
        let mut refused = Vec::new();
        if !self.is_running(at) {
            return refused;
        }
        let receipts: Vec<_> = self.stations[at.0].journal.durable.receipts().copied().collect();
        for receipt in receipts {
            let before = self.bank.redeemed(receipt.channel());
            match self.bank.redeem(self.now, &receipt) {
                Ok(paid) => {
                    self.settlement.redeemed += 1;
                    let sum = self.redeemed.entry(receipt.channel().payee).or_default();
                    *sum = sum.saturating_add(paid);
                }
                Err(refusal) => refused.push((at, refusal)),
            }
            self.check(self.bank.redeemed(receipt.channel()) >= before, "what was redeemed shrank");
            self.check_tokens(at);
            self.tell_redeemed(at, receipt.channel());
        }
        refused
    }

    fn tell_redeemed(&mut self, at: StationId, channel: metering::ChannelId) {
        let Some(state) = self.bank.state(channel) else { return };
        let pays = |wire: &usize| {
            self.wires[*wire].ends.iter().any(|end| self.stations[end.station.0].identity.node_id() == channel.payer)
        };
        if let Some(index) = self.stations[at.0].wires.iter().position(pays) {
            let link = LinkId(u32::try_from(index).expect("few wires"));
            self.with_node(at, |now, running| running.node.handle_channel(now, link, state));
        }
    }

    /// What a station was paid for redeemed receipts.
    #[must_use]
    pub fn earned(&self, at: StationId) -> Tokens {
        let id: NodeId = self.stations[at.0].identity.node_id();
        self.redeemed.get(&id).copied().unwrap_or_default()
    }

    /// What all drop counters of a running station say for a reason.
    #[must_use]
    pub fn drop_counter(&self, at: StationId, reason: DropReason) -> u64 {
        self.stations[at.0].running.as_ref().map_or(0, |running| running.drops.packets(reason))
    }

    /// The meters of both ends of a wire, billed bytes: sent by one and received by the other, in both directions.
    #[must_use]
    pub fn metered(&self, wire: WireId) -> [(u64, u64); 2] {
        let count = |end: usize| {
            let end = self.wires[wire.0].ends[end];
            let running = self.stations[end.station.0].running.as_ref();
            running.map(|running| running.counts(end.link)).unwrap_or_default()
        };
        [(count(0).sent.get(), count(1).received.get()), (count(1).sent.get(), count(0).received.get())]
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (packets, settlement) = (&self.packets, &self.settlement);
        let digest: String = self.digest[..6].iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(f, "seed {}, {:?} virtual, {} steps, digest {digest}", self.seed, self.now, self.steps)?;
        write!(f, "  packets: {} sent, {} answers, {} hops", packets.sent, packets.answers, packets.hops)?;
        write!(f, "; {} delivered, {} errors delivered", packets.delivered, packets.errors)?;
        write!(
            f,
            ", {} strayed, {} consumed, {} lost, {} in flight",
            packets.strayed, packets.consumed, packets.lost, packets.in_flight
        )?;
        for reason in DropReason::ALL.iter().filter(|reason| packets.dropped_for(**reason) > 0) {
            write!(f, ", {} {}", packets.dropped_for(*reason), reason.name())?;
        }
        writeln!(f, "; {} came to a station twice", packets.returned)?;
        write!(f, "  settlement: {settlement:?}")
    }
}
