//! The shell's part: wakes the control core, sends what it wants sent, writes the journal, asks the ledger.

use std::time::Duration;

use babel::wire::PRICE_SUB_TLV;
use metering::credit::LIFELINE;
use metering::exchange::{Alarm, Event as SettlementEvent};
use metering::watch::Event as WatchEvent;
use metering::wire::{Message, PORT as SETTLEMENT_PORT};
use metering::{Bytes, ChannelId, Limits, NodeId, Restored, Role, Side, Snapshot, Standing, Tokens};
use node::datapath::packet::{control_packet, parse_control};
use node::{BABEL_PORT, Deal, Event, LinkId, Transmit};

use crate::carry::{Cargo, Flight};
use crate::journal::Write;
use crate::station::Running;
use crate::wire::Bond;
use crate::world::{Happening, METERS_INTERVAL, World};
use crate::{StationId, Time, WireId};

/// How long the disk takes.
const WRITE_TIME: Duration = Duration::from_millis(15);
/// How long the ledger takes.
const LEDGER_TIME: Duration = Duration::from_millis(200);
/// Wakes at one and the same time after which a node counts as spinning.
const WAKES_MAX: u32 = 100;

/// What is asked of the ledger.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LedgerJob {
    /// What is known of a neighbour, in a role of ours: one that was just admitted, or to whom we are something else now.
    Restore { peer: NodeId, role: Role, admitted: bool },
    /// A channel with at least this deposit.
    Fund(NodeId, Tokens),
    /// A channel's record.
    LookUp(ChannelId),
}

impl World {
    pub(crate) fn handle_control(&mut self, at: StationId, link: LinkId, packet: &[u8]) {
        self.with_node(at, |now, running| running.node.handle_control(now, link, packet));
    }

    pub(crate) fn wake(&mut self, at: StationId, life: u64) {
        let time = self.now;
        let Some(running) = self.stations[at.0].life(life).filter(|running| running.wake_at == Some(time)) else {
            return;
        };
        running.wake_at = None;
        running.woken = if running.woken.0 == time { (time, running.woken.1 + 1) } else { (time, 1) };
        let calm = running.woken.1 < WAKES_MAX;
        self.check(calm, "a node asks to be woken again and again at one time");
        self.with_node(at, |now, running| running.node.handle_timeout(now));
    }

    pub(crate) fn show_meters(&mut self, at: StationId, life: u64) {
        if self.stations[at.0].life(life).is_none() {
            return;
        }
        self.queue.plan(self.now + METERS_INTERVAL, Happening::Meters { station: at, life });
        self.with_node(at, |now, running| running.node.handle_meters(now, &running.meters));
        self.check_money(at);
    }

    /// Does something with a node, and then what it wants.
    pub(crate) fn with_node(&mut self, at: StationId, act: impl FnOnce(std::time::Instant, &mut Running)) {
        let now = self.instant();
        let Some(running) = &mut self.stations[at.0].running else { return };
        act(now, running);
        self.drain(at);
    }

    fn drain(&mut self, at: StationId) {
        while let Some(running) = &mut self.stations[at.0].running {
            if let Some(Transmit { link, packet, .. }) = running.node.poll_transmit() {
                self.send_control(at, link, packet);
            } else if let Some(event) = running.node.poll_event() {
                self.handle_event(at, event);
            } else {
                break;
            }
        }
        self.plan_wake(at);
    }

    fn plan_wake(&mut self, at: StationId) {
        let Some(due) = self.stations[at.0].running.as_ref().and_then(|running| running.node.poll_timeout()) else {
            return;
        };
        let due = self.time_of(due).max(self.now);
        let Some(running) = &mut self.stations[at.0].running else { return };
        if running.wake_at.is_none_or(|planned| due < planned) {
            running.wake_at = Some(due);
            self.queue.plan(due, Happening::Wake { station: at, life: running.life });
        }
    }

    fn send_control(&mut self, at: StationId, link: LinkId, packet: Vec<u8>) {
        let wire = self.stations[at.0].wires[link.index()];
        let end = self.wires[wire].end_of(at, link);
        if !self.wires[wire].ends[end].up {
            return;
        }
        let packet = self.stations[at.0].tells.map_or_else(|| packet.clone(), |price| with_price(&packet, price));
        let settles = parse_control(&packet).ok().filter(|datagram| datagram.port == SETTLEMENT_PORT);
        if let Some(datagram) = settles {
            if self.wires[wire].ends[end].cheats {
                return;
            }
            self.watch_receipt(wire, datagram.payload);
        }
        if self.wires[wire].repeats() {
            self.send(wire, end, Flight { bytes: packet.clone(), cargo: Cargo::Control });
        }
        self.send(wire, end, Flight { bytes: packet, cargo: Cargo::Control });
    }

    /// No receipt may be above what both ends saw delivered.
    fn watch_receipt(&mut self, wire: usize, message: &[u8]) {
        let (Ok(Message::Receipt(message)), Bond::Provides(offer)) = (Message::decode(message), self.wires[wire].bond)
        else {
            return;
        };
        let (amount, worth) = (message.receipt.amount(), self.accounts[wire].worth(&offer));
        self.check(amount <= worth, format_args!("a receipt over {amount}, but {worth} was delivered on wire {wire}"));
        let signed = &mut self.accounts[wire].signed;
        if amount > *signed {
            *signed = amount;
            self.settlement.signed += 1;
        }
    }

    fn handle_event(&mut self, at: StationId, event: Event) {
        match event {
            Event::Fib(fib) => {
                if let Some(running) = &mut self.stations[at.0].running {
                    running.datapath.set_fib(fib);
                }
                self.table_changed(at);
            }
            Event::Admitted { link, peer, role } => {
                self.ask_ledger(at, link, LedgerJob::Restore { peer, role, admitted: true });
            }
            Event::Role { link, peer, role } => {
                self.settlement.roles += 1;
                self.ask_ledger(at, link, LedgerJob::Restore { peer, role, admitted: false });
            }
            Event::Settlement { link, peer: _, event } => self.handle_settlement(at, link, event),
            Event::Watch { link, event, .. } => self.handle_watch(at, link, event),
            Event::Refused { .. } => self.settlement.refused += 1,
            Event::Introduced { .. } => {}
            // Ledgers of simulated routers show them nothing.
            Event::Checkpoint { .. } => {}
            Event::Neighbour { up, .. } => self.settlement.neighbours_lost += u64::from(!up),
        }
    }

    fn handle_settlement(&mut self, at: StationId, link: LinkId, event: SettlementEvent) {
        match event {
            SettlementEvent::Reserve { channel, ceiling } => self.write(at, Write::Ceiling(link, channel, ceiling)),
            SettlementEvent::Hold(receipt) => self.write(at, Write::Held(link, receipt)),
            SettlementEvent::NeedChannel { payee, at_least } => {
                self.ask_ledger(at, link, LedgerJob::Fund(payee, at_least));
            }
            SettlementEvent::LookUpChannel(channel) => self.ask_ledger(at, link, LedgerJob::LookUp(channel)),
            SettlementEvent::TermsAgreed(_) => self.settlement.segments += 1,
            SettlementEvent::CloseOffered(_) => {} // Nobody here closes.
            SettlementEvent::Alarm(Alarm::ReceiptAboveCeiling { .. }) => self.settlement.above_ceiling += 1,
            SettlementEvent::Alarm(Alarm::Exhausted { .. }) => self.settlement.exhausted += 1,
            SettlementEvent::Alarm(Alarm::ChannelClosing { .. }) => {}
        }
    }

    fn handle_watch(&mut self, at: StationId, link: LinkId, event: WatchEvent) {
        match event {
            // A keeper here writes at once, and forgets in a power cut.
            WatchEvent::Keep(receipt) => {
                self.with_node(at, |now, running| running.node.handle_kept(now, link, receipt))
            }
            // Nobody here loses more than a write, which its payer knows of.
            WatchEvent::Found(_) => {}
        }
    }

    /// Follows the ways from a station whose table has changed.
    pub(crate) fn table_changed(&mut self, at: StationId) {
        let Self { stations, wires, ways, .. } = self;
        let station = &stations[at.0];
        let fib = station.running.as_ref().map(|running| running.datapath.fib());
        let neighbour = |link: LinkId| {
            let index = station.wires[link.index()];
            (wires[index].ends[1 - wires[index].end_of(at, link)].station, WireId(index))
        };
        let circle = ways.change(at, fib, neighbour);
        let routes: Vec<u8> = fib
            .into_iter()
            .flat_map(node::datapath::Fib::routes)
            .flat_map(|(prefix, next_hop)| format!("{prefix} {next_hop:?};").into_bytes())
            .collect();
        self.note(b't', at, &routes);
        if let Some((destination, stations)) = circle {
            self.settlement.circles += 1;
            let excused = self.now < self.forgetful_until;
            self.check(excused, format_args!("packets to {destination} turn in a circle: {stations:?}"));
        }
    }

    pub(crate) fn check_healed(&self) {
        let still_forgetful = self.now < self.forgetful_until;
        self.check(still_forgetful || self.ways.circles() == 0, "a circle outlives the restart that made it");
    }

    fn write(&mut self, at: StationId, write: Write) {
        let station = &mut self.stations[at.0];
        let Some(life) = station.running.as_ref().map(|running| running.life) else { return };
        station.journal.begin(write);
        self.queue.plan(self.now + WRITE_TIME, Happening::Written { station: at, life });
    }

    pub(crate) fn finish_write(&mut self, at: StationId, life: u64) {
        let station = &mut self.stations[at.0];
        if station.life(life).is_none() {
            return;
        }
        match station.journal.finish() {
            Some(Write::Ceiling(link, channel, ceiling)) => {
                self.with_node(at, |now, running| running.node.handle_reserved(now, link, channel, ceiling));
            }
            Some(Write::Held(link, receipt)) => {
                self.settlement.held += 1;
                self.with_node(at, |now, running| running.node.handle_held(now, link, &receipt));
            }
            None => {}
        }
    }

    fn ask_ledger(&mut self, at: StationId, link: LinkId, job: LedgerJob) {
        let Some(life) = self.stations[at.0].running.as_ref().map(|running| running.life) else { return };
        self.queue.plan(self.now + LEDGER_TIME, Happening::Ledger { station: at, life, link, job });
    }

    /// The ledger does what it was asked, whoever still waits for the answer.
    pub(crate) fn answer_ledger(&mut self, at: StationId, life: u64, link: LinkId, job: LedgerJob) {
        let us = self.stations[at.0].identity.account();
        let channel = match job {
            LedgerJob::Restore { peer, role, admitted } => return self.restore(at, life, link, peer, role, admitted),
            LedgerJob::Fund(payee, at_least) => self.bank.fund(self.now, us, payee, at_least),
            LedgerJob::LookUp(channel) => self.bank.state(channel),
        };
        self.check_tokens(at);
        if let (Some(channel), true) = (channel, self.stations[at.0].life(life).is_some()) {
            self.with_node(at, |now, running| running.node.handle_channel(now, link, channel));
        }
    }

    fn restore(&mut self, at: StationId, life: u64, link: LinkId, peer: NodeId, role: Role, admitted: bool) {
        let us = self.stations[at.0].identity.node_id();
        let pays = role != Role::Provider;
        let (payer, payee) = if pays { (us, peer) } else { (peer, us) };
        let channel = self.bank.newest_state(payer, payee);
        let station = &mut self.stations[at.0];
        let records = &station.journal.durable;
        let restored = Restored {
            channel,
            ceiling: records.ceiling(payer, payee).filter(|_| pays),
            held: records.held(payer, payee).filter(|_| !pays),
            standing: Standing::default(),
        };
        if station.life(life).is_some() {
            self.with_node(at, |now, running| {
                if admitted {
                    running.node.handle_restored(now, link, running.counts(link), role, restored);
                } else {
                    running.node.handle_role_restored(now, link, role, restored);
                }
            });
        }
    }

    /// What decides what this end is to the other.
    pub(crate) fn deal(&self, wire: usize, end: usize) -> Deal {
        Deal::Agreed(match (self.wires[wire].bond, end) {
            (Bond::ByRoutes, _) | (Bond::Freeloader, 0) => return Deal::ByRoutes,
            (Bond::Peers, _) | (Bond::Freeloader, _) => Side::Peer,
            (Bond::Provides(offer), 0) => Side::Provider(offer),
            (Bond::Provides(offer), _) => Side::Subscriber(Limits { max_price: offer.price_up.max(offer.price_down) }),
        })
    }

    /// Every token is somewhere, and only those that were minted.
    pub(crate) fn check_tokens(&mut self, at: StationId) {
        let log = self.bank.take_log();
        self.note(b'l', at, &log);
        let [minted, held, locked] = self.bank.sums();
        let conserved = held.checked_add(locked) == Some(minted);
        self.check(conserved, format_args!("{minted} minted, but {held} held and {locked} locked"));
    }

    /// No neighbour owes a provider more than the window, the lifeline, and what was carried since the control core last
    /// looked.
    fn check_money(&mut self, at: StationId) {
        let Some(running) = &self.stations[at.0].running else { return };
        let settlements: Vec<(LinkId, Snapshot)> =
            running.node.links().filter_map(|view| Some((view.link, view.settlement?))).collect();
        for (link, snapshot) in settlements {
            let wire = self.stations[at.0].wires[link.index()];
            if !matches!(self.wires[wire].bond, Bond::Provides(_)) {
                continue; // What was carried at which price is not known from outside.
            }
            let account = &mut self.accounts[wire];
            let Some(terms) = snapshot.terms.filter(|terms| snapshot.role == Role::Provider && !terms.is_free()) else {
                continue;
            };
            account.unseen = Tokens::ZERO;
            let lifeline = terms.value_of(Bytes::new(LIFELINE.get() * (self.now.as_secs() + 1)));
            let bound = terms.window_value().saturating_add(account.unseen_max).saturating_add(lifeline);
            let owed = snapshot.owed_to_us;
            self.check(owed <= bound, format_args!("{owed} is owed on wire {wire}, where {bound} was to be risked"));
            let (held, worth) = (snapshot.held, self.accounts[wire].worth(&terms.offer()));
            self.check(held <= worth, format_args!("{held} is held on wire {wire}, but {worth} was delivered"));
            let unsigned = worth.saturating_sub(self.accounts[wire].signed);
            let bound = self.accounts[wire].unsigned_max(&terms.offer(), self.now);
            let text = format_args!("{unsigned} of {worth} on wire {wire} was never signed for, more than {bound}");
            self.check(unsigned <= bound, text);
        }
    }

    /// When what was planned for a station's life begins.
    pub(crate) fn plan_life(&mut self, at: StationId, life: u64) {
        let first = METERS_INTERVAL.mul_f64(self.dice.f64());
        let first: Time = self.now + first;
        self.queue.plan(first, Happening::Meters { station: at, life });
    }
}

/// The packet with another price in each price sub-TLV of each Update that asks one.
fn with_price(packet: &[u8], price: u32) -> Vec<u8> {
    let Some(datagram) = parse_control(packet).ok().filter(|datagram| datagram.port == BABEL_PORT) else {
        return packet.to_vec();
    };
    let mut payload = datagram.payload.to_vec();
    // A quote begins with its type, its length, its version and flags, and its unit.
    let quote = [PRICE_SUB_TLV, 8, 0, 0];
    let places: Vec<usize> =
        payload.windows(12).enumerate().filter(|(_, at)| at.starts_with(&quote)).map(|(at, _)| at).collect();
    for at in places {
        let told = &mut payload[at + 6..at + 10];
        if told != [0; 4] {
            told.copy_from_slice(&price.to_be_bytes());
        }
    }
    control_packet(datagram.source, datagram.destination, datagram.port, &payload)
}
