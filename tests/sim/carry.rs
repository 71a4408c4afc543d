//! The data packet's way: what `router/src/worker.rs` does with sockets, done with wires.

use metering::{Bytes, billed_length};
use node::datapath::{Port, Tally, Verdict};
use node::{DropReason, LinkId};

use crate::StationId;
use crate::traffic::{self, Kind};
use crate::wire::Bond;
use crate::world::{BATCH, Happening, World};

/// A packet on its way.
#[derive(Debug, Clone)]
pub(crate) struct Flight {
    pub(crate) bytes: Vec<u8>,
    pub(crate) cargo: Cargo,
}

/// What is counted of a packet.
#[derive(Debug, Clone)]
pub(crate) enum Cargo {
    /// From control core to control core.
    Control,
    /// Sent by a host, or an ICMPv6 error; with the stations it came by.
    Data(Vec<StationId>),
    /// Sent by an attacker; counted like data, and fit for nobody.
    Noise,
}

impl Flight {
    pub(crate) fn data(bytes: Vec<u8>) -> Self {
        Self { bytes, cargo: Cargo::Data(Vec::new()) }
    }

    pub(crate) fn is_data(&self) -> bool {
        match self.cargo {
            Cargo::Data(_) | Cargo::Noise => true,
            Cargo::Control => false,
        }
    }
}

impl World {
    /// A host hands its station a burst.
    pub(crate) fn send_burst(&mut self, flow: usize) {
        let conversation = &mut self.conversations[flow];
        let (from, burst, every) = (conversation.flow.from, conversation.flow.burst, conversation.flow.every);
        if conversation.stopped {
            return;
        }
        self.queue.plan(self.now + every, Happening::Send { flow });
        if self.stations[from.0].running.is_none() {
            return;
        }
        let number = u32::try_from(flow).expect("few flows");
        let conversation = &mut self.conversations[flow];
        let flights: Vec<Flight> = (0..burst).map(|_| Flight::data(conversation.packet(number))).collect();
        self.packets.sent += u64::from(burst);
        for batch in flights.chunks(BATCH) {
            self.carry(from, Port::Local, batch);
        }
    }

    /// A packet comes out of a wire.
    pub(crate) fn arrive(&mut self, wire: usize, end: usize, flight: Flight) {
        self.packets.in_flight -= u64::from(flight.is_data());
        let at = self.wires[wire].ends[end];
        if !self.wires[wire].whole || self.stations[at.station.0].running.is_none() {
            self.packets.lost += u64::from(flight.is_data());
            return;
        }
        self.note(b'p', at.station, &flight.bytes);
        self.carry(at.station, Port::Link(at.link), &[flight]);
    }

    /// The datapath decides on packets from one ingress, and its verdicts are carried out.
    fn carry(&mut self, at: StationId, ingress: Port, flights: &[Flight]) {
        let now = self.instant();
        let Self { batch, stations, .. } = self;
        let Some(running) = &mut stations[at.0].running else { return };
        batch.clear();
        let fits = flights.iter().all(|flight| batch.push(&flight.bytes));
        let metered = running.metered(ingress);
        running.datapath.handle_batch(now, ingress, batch);
        let accepted = running.metered(ingress).saturating_sub(metered);
        let decided: Vec<(Verdict, Vec<u8>)> =
            batch.packets().map(|(verdict, packet)| (verdict, packet.to_vec())).collect();
        let answers: Vec<(Port, Vec<u8>)> = batch.answers().map(|(port, packet)| (port, packet.to_vec())).collect();
        self.check(fits, "a packet is too long for the link it is on");
        if let Port::Link(link) = ingress {
            self.count_accepted(at, link, accepted);
        }
        for ((verdict, bytes), flight) in decided.into_iter().zip(flights) {
            self.obey(at, verdict, Flight { bytes, cargo: flight.cargo.clone() });
        }
        for (port, bytes) in answers {
            self.packets.answers += 1;
            self.forward(at, port, Flight::data(bytes));
        }
    }

    fn obey(&mut self, at: StationId, verdict: Verdict, flight: Flight) {
        match verdict {
            Verdict::Forward(port) => self.forward(at, port, flight),
            Verdict::Control(link) => {
                self.packets.consumed += u64::from(flight.is_data());
                self.handle_control(at, link, &flight.bytes);
            }
            Verdict::Drop(reason) => self.count_drop(reason, &flight),
        }
    }

    fn forward(&mut self, at: StationId, port: Port, flight: Flight) {
        match port {
            Port::Link(link) => self.transmit(at, link, flight),
            Port::Local => self.deliver(at, &flight),
        }
    }

    fn transmit(&mut self, at: StationId, link: LinkId, mut flight: Flight) {
        let wire = self.stations[at.0].wires[link.index()];
        let end = self.wires[wire].end_of(at, link);
        let Some(running) = &self.stations[at.0].running else { return };
        if !self.wires[wire].ends[end].up {
            running.datapath.count_drop(DropReason::LinkDown);
            self.count_drop(DropReason::LinkDown, &flight);
            return;
        }
        let len = flight.bytes.len();
        running.datapath.count_sent(link, Tally::of(len));
        self.count_provided(wire, end, billed_length(len));
        if let Cargo::Data(trail) = &mut flight.cargo {
            self.packets.returned += u64::from(trail.contains(&at));
            trail.push(at);
        }
        self.send(wire, end, flight);
    }

    /// Puts a packet on a wire.
    pub(crate) fn send(&mut self, wire: usize, from: usize, flight: Flight) {
        let is_data = flight.is_data();
        match self.wires[wire].send(self.now, from, flight.bytes.len()) {
            Some(at) => {
                self.packets.in_flight += u64::from(is_data);
                self.packets.hops += u64::from(is_data);
                self.queue.plan(at, Happening::Arrive { wire, end: 1 - from, flight });
            }
            None => self.packets.lost += u64::from(is_data),
        }
    }

    fn deliver(&mut self, at: StationId, flight: &Flight) {
        if matches!(flight.cargo, Cargo::Noise) {
            self.packets.consumed += 1;
            return;
        }
        match traffic::receive(&mut self.conversations, at, &flight.bytes) {
            Kind::Expected => self.packets.delivered += 1,
            Kind::Strayed => {
                self.packets.strayed += 1;
                self.check(at == StationId(0), "a packet came out at a station that it was not for");
            }
            Kind::Error => self.packets.errors += 1,
            Kind::Wrong(what) => self.check(false, &what),
        }
    }

    fn count_drop(&mut self, reason: DropReason, flight: &Flight) {
        if flight.is_data() {
            self.packets.dropped[reason as usize] += 1;
        }
        let may_circle = self.now < self.forgetful_until;
        self.check(reason != DropReason::HopLimit || may_circle, "a packet ran out of hops");
    }

    /// A station took packets of its neighbour's: delivered, as far as money is concerned.
    fn count_accepted(&mut self, at: StationId, link: LinkId, bytes: Bytes) {
        let wire = self.stations[at.0].wires[link.index()];
        let end = self.wires[wire].end_of(at, link);
        let accepted = &mut self.accounts[wire].accepted[end];
        *accepted = accepted.saturating_add(bytes);
        self.count_provided(wire, end, bytes);
    }

    /// A provider counted packets of its payer's, in either direction.
    fn count_provided(&mut self, wire: usize, end: usize, bytes: Bytes) {
        if let (Bond::Provides(offer), 0) = (self.wires[wire].bond, end) {
            self.accounts[wire].count(&offer, bytes);
        }
    }
}
