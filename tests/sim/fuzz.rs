//! What the fuzz targets in `tests/fuzz` run, and what `tests/fuzz_corpora.rs` runs again in every build: any bytes in,
//! nothing but a panic comes out.

mod beacon;
mod control;
mod ledger;
mod names;
mod session;
mod settlement;

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use babel::wire::{Packet, Tlv, Writer};
use babel::{
    Config, Cost, Destination, Fee, InterfaceConfig, InterfaceId, Limits, Metric, Policy, Prefix, PrefixPair, Price,
    PriceWeight, RouterId, Seqno, Speaker,
};

pub use beacon::{beacon, beacon_examples};
pub use control::{control, control_examples};
pub use ledger::{ledger_entry, ledger_json, ledger_note, ledger_paper, ledger_rules};
pub use names::{names, names_examples};
pub use session::{session, session_examples};
pub use settlement::{exchange, metering_wire};

use crate::pair::start;

const US: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// So small that they fill up.
const LIMITS: Limits = Limits { neighbours: 5, prefixes: 12, sources: 12, pending: 4 };
/// Packets and events that one step may lead to: a full update of twelve prefixes on three interfaces is far below.
const ANSWERS_MAX: usize = 1000;

/// A packet from anybody: what is read is what is written and read again.
///
/// # Panics
/// If it is not.
pub fn babel_tlv(bytes: &[u8]) {
    let Ok(packet) = Packet::parse(bytes) else { return };
    let tlvs: Vec<Tlv> = packet.tlvs(US).collect();
    let mut writer = Writer::new(usize::from(u16::MAX), US);
    // Compression may be lost by the way: what was one full packet can be more than one.
    let written = tlvs.iter().take_while(|tlv| writer.push(tlv)).count();
    let bytes = writer.finish();
    let again: Vec<Tlv> = Packet::parse(&bytes).expect("our own packet").tlvs(US).collect();
    let meant: Vec<Tlv> = tlvs[..written].iter().copied().map(without_state).collect();
    let found: Vec<Tlv> = again.into_iter().map(without_state).collect();
    assert_eq!(found, meant);
}

/// Retractions without router-id or next hop take what the packet before them says; it means nothing there.
fn without_state(tlv: Tlv) -> Tlv {
    let Tlv::Update(update) = tlv else { return tlv };
    if update.metric.is_finite() {
        return tlv;
    }
    Tlv::Update(babel::wire::Update { router_id: None, next_hop: None, ..update })
}

/// Anything at any time: whatever comes, tables stay bounded, what is used is feasible, feasibility distances do not
/// worsen, and the speaker comes to rest.
///
/// # Panics
/// If one of these does not hold.
pub fn babel_state(bytes: &[u8]) {
    let mut play = Play::new();
    let mut rest = bytes;
    while let Some(step) = Step::read(&mut rest) {
        play.step(step);
        play.check();
    }
}

enum Step<'a> {
    Wait(Duration),
    Packet { interface: InterfaceId, source: Ipv6Addr, to: Destination, body: &'a [u8] },
    Up(InterfaceId, u8),
    Down(InterfaceId),
    Doubt(InterfaceId),
    Fee(InterfaceId, u8),
    Originate(u8),
    Withdraw(u8),
}

impl<'a> Step<'a> {
    /// The bytes are read as steps, so that small changes to them are small changes to the play.
    fn read(rest: &mut &'a [u8]) -> Option<Self> {
        let [kind, number, behind @ ..] = *rest else { return None };
        *rest = behind;
        let interface = InterfaceId(u32::from(number % 3));
        Some(match kind % 16 {
            0 => Self::Wait(Duration::from_millis(u64::from(*number) * 7)),
            1 => Self::Wait(Duration::from_secs(u64::from(*number))),
            2 => Self::Up(interface, number / 3),
            3 => Self::Down(interface),
            4 => Self::Doubt(interface),
            5 => Self::Fee(interface, number / 3),
            6 => Self::Originate(number % 4),
            7 => Self::Withdraw(number % 4),
            _ => {
                let length = usize::from(*behind.first()?).min(behind.len() - 1);
                let (body, behind) = behind[1..].split_at(length);
                *rest = behind;
                let source = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, u16::from(number / 3 % 8));
                let to = if kind % 2 == 0 { Destination::Multicast } else { Destination::Unicast(US) };
                Self::Packet { interface, source, to, body }
            }
        })
    }
}

struct Play {
    now: Instant,
    speaker: Speaker,
    distances: BTreeMap<(PrefixPair, RouterId), (Seqno, Metric)>,
}

impl Play {
    fn new() -> Self {
        let now = start();
        let name = RouterId::new(*b"fuzzfuzz").expect("a router-id");
        let weight = PriceWeight { metric: 96, per: std::num::NonZeroU32::MIN };
        let policy = Policy { weight, price_max: Price::new(1 << 31), ..Policy::default() };
        let config = Config { limits: LIMITS, policy, ..Config::new(name, Seqno(0xfff0)) };
        let mut speaker = Speaker::new(now, config, 1);
        speaker.handle_originate(now, home(0), Metric::ZERO);
        speaker.handle_interface_up(now, InterfaceId(0), InterfaceConfig::tunnel(US));
        speaker.handle_interface_up(now, InterfaceId(1), InterfaceConfig::lossy(US));
        Self { now, speaker, distances: BTreeMap::new() }
    }

    fn step(&mut self, step: Step<'_>) {
        let now = self.now;
        match step {
            Step::Wait(pause) => self.wait(pause),
            Step::Packet { interface, source, to, body } => {
                let length = u16::try_from(body.len()).expect("at most 255");
                let packet = [&[42, 2][..], &length.to_be_bytes(), body].concat();
                let _ = self.speaker.handle_packet(now, interface, source, to, &packet);
            }
            Step::Up(interface, kind) => self.speaker.handle_interface_up(now, interface, config(kind)),
            Step::Down(interface) => self.speaker.handle_interface_down(now, interface),
            Step::Doubt(interface) => self.speaker.handle_interface_doubtful(now, interface),
            Step::Fee(interface, price) => {
                let price = Price::new(u32::from(price) << 25);
                self.speaker.handle_fee(interface, Fee { price, epoch: 1 });
            }
            Step::Originate(number) => self.speaker.handle_originate(now, home(number), Metric(number.into())),
            Step::Withdraw(number) => self.speaker.handle_withdraw(now, home(number)),
        }
        self.drain();
    }

    fn wait(&mut self, pause: Duration) {
        let end = self.now + pause;
        while let Some(at) = self.speaker.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.speaker.handle_timeout(self.now);
            self.drain();
            self.check();
            let next = self.speaker.poll_timeout();
            assert!(next.is_none_or(|next| next > self.now), "a timer fired and did nothing");
        }
        self.now = end;
    }

    fn drain(&mut self) {
        let mut answers = 0;
        while let Some(transmit) = self.speaker.poll_transmit(self.now) {
            assert!(transmit.payload.len() <= 1452);
            Packet::parse(&transmit.payload).expect("our own packet");
            answers += 1;
            assert!(answers < ANSWERS_MAX, "no end of packets");
        }
        while self.speaker.poll_event().is_some() {
            answers += 1;
            assert!(answers < ANSWERS_MAX, "no end of events");
        }
    }

    fn check(&mut self) {
        let usage = self.speaker.usage();
        assert!(usage.neighbours <= LIMITS.neighbours && usage.prefixes <= LIMITS.prefixes, "{usage:?}");
        assert!(usage.sources <= LIMITS.sources && usage.pending <= LIMITS.pending, "{usage:?}");
        assert!(usage.routes <= LIMITS.prefixes * LIMITS.neighbours, "{usage:?}");
        for route in self.speaker.routes().filter(|route| route.selected && route.neighbour.is_some()) {
            assert!(route.feasible && route.metric.is_finite(), "{route:?}");
        }
        let mut distances = BTreeMap::new();
        for source in self.speaker.sources() {
            let key = (source.pair, source.router_id);
            let (seqno, metric) = (source.seqno, source.metric);
            if let Some((before, least)) = self.distances.get(&key) {
                let kept = seqno == *before && metric <= *least;
                assert!(kept || seqno.is_newer_than(*before), "a feasibility distance worsened: {source:?}");
            }
            distances.insert(key, (seqno, metric));
        }
        self.distances = distances;
    }
}

fn config(kind: u8) -> InterfaceConfig {
    let config = match kind % 3 {
        0 => InterfaceConfig::tunnel(US),
        1 => InterfaceConfig::wired(US),
        _ => InterfaceConfig::lossy(US),
    };
    let ipv4 = (kind & 8 != 0).then_some(std::net::Ipv4Addr::new(192, 0, 2, 1));
    InterfaceConfig { ipv4, unicast_hellos: kind & 16 != 0, cost: Cost::new(u16::from(kind) << 2), ..config }
}

fn home(number: u8) -> Prefix {
    Prefix::new(Ipv6Addr::new(0xfd00, number.into(), 0, 0, 0, 0, 0, 0), 48).expect("48 bits")
}
