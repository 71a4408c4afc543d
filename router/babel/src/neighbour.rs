//! The neighbour table (RFC 8966, section 3.2.4), and whether a neighbour is still there.

use crate::interface::{InterfaceConfig, InterfaceId, LinkSensing};
use crate::metric::Cost;
use crate::sensing::{HelloHistory, Rtt, has_moved, link_cost};
use crate::seqno::Seqno;
use crate::wire::{AcknowledgmentRequest, Hello, Ihu, IhuTimestamp, Interval, Tlv};
use std::collections::VecDeque;
use std::net::Ipv6Addr;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// A neighbour's key inside a speaker; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NeighbourId(NonZeroU32);

impl NeighbourId {
    pub(crate) const FIRST: Self = Self(NonZeroU32::MIN);

    pub(crate) fn next(self) -> Self {
        Self(self.0.checked_add(1).unwrap_or(NonZeroU32::MIN))
    }
}

/// A row of the table.
#[derive(Clone, Debug)]
pub(crate) struct Neighbour {
    pub(crate) interface: InterfaceId,
    pub(crate) address: Ipv6Addr,
    multicast: HelloHistory,
    unicast: HelloHistory,
    txcost: Cost,
    ihu_expires: Option<Instant>,
    /// For so long an IHU holds.
    ihu_hold: Duration,
    rtt: Rtt,
    presence: Presence,
    /// The link's cost in use; routes are measured with it.
    pub(crate) cost: Cost,
    /// What our IHU says.
    pub(crate) rxcost: Cost,
    /// Of our next unicast Hello.
    pub(crate) hello_seqno: Seqno,
    /// Prefixes it told us, retracted ones included.
    pub(crate) routes: usize,
    /// Unicast messages to send at once, at most [`Neighbour::OUTBOX_MAX`].
    pub(crate) outbox: VecDeque<Tlv>,
}

/// What a neighbour's silence leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Silence {
    /// It answers or was not asked.
    None,
    /// So many questions remain without an answer that another way should be made ready.
    Doubtful,
}

impl Neighbour {
    /// Messages waiting for one neighbour, most of them requests that fall due together; more are dropped, their senders
    /// ask again.
    const OUTBOX_MAX: usize = 1024;

    pub(crate) fn new(interface: InterfaceId, address: Ipv6Addr) -> Self {
        Self {
            interface,
            address,
            multicast: HelloHistory::default(),
            unicast: HelloHistory::default(),
            txcost: Cost::INFINITY,
            ihu_expires: None,
            ihu_hold: Duration::ZERO,
            rtt: Rtt::default(),
            presence: Presence::default(),
            cost: Cost::INFINITY,
            rxcost: Cost::INFINITY,
            hello_seqno: Seqno(0),
            routes: 0,
            outbox: VecDeque::new(),
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.cost.is_finite()
    }

    pub(crate) fn txcost(&self) -> Cost {
        self.txcost
    }

    /// The last 16 multicast Hellos, newest in the lowest bit.
    pub(crate) fn reach(&self) -> u16 {
        self.multicast.heard
    }

    /// How often it says Hello, as it told last.
    pub(crate) fn hello_interval(&self) -> Option<Duration> {
        self.multicast.interval().or(self.unicast.interval())
    }

    /// The share of its multicast Hellos that are lost, in parts per million.
    pub(crate) fn lost_ppm(&self) -> u32 {
        self.multicast.lost_ppm()
    }

    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.rtt.get()
    }

    pub(crate) fn echo(&self) -> Option<IhuTimestamp> {
        self.rtt.echo()
    }

    /// A packet came from it: it is there.
    pub(crate) fn handle_sign_of_life(&mut self) {
        if !self.presence.is_asked_for_hearing() {
            self.presence.probing = None;
        }
        self.presence.silent = false;
    }

    /// Whether the neighbour has probably rebooted, and forgotten what it told us.
    pub(crate) fn handle_hello(&mut self, now: Instant, clock: u32, hello: &Hello) -> bool {
        self.rtt.handle_hello(clock, hello);
        let history = if hello.unicast { &mut self.unicast } else { &mut self.multicast };
        history.receive(now, hello.seqno, hello.interval)
    }

    pub(crate) fn handle_ihu(&mut self, now: Instant, clock: u32, ihu: &Ihu, with_hello: bool) {
        self.txcost = ihu.rxcost;
        self.ihu_hold = ihu_hold_time(ihu.interval);
        self.handle_hears_us(now);
        if let Some(echo) = ihu.timestamp.filter(|_| with_hello) {
            self.rtt.handle_echo(clock, echo);
        }
    }

    /// It answered a question, so it hears us and will answer others.
    pub(crate) fn handle_acknowledgment(&mut self, now: Instant) {
        self.presence.answers = true;
        if self.ihu_expires.is_some() || self.presence.is_asked_for_hearing() {
            self.handle_hears_us(now);
        }
    }

    fn handle_hears_us(&mut self, now: Instant) {
        self.ihu_expires = Some(now + self.ihu_hold);
        self.presence.probing = None;
    }

    /// Somebody who knows the link doubts that the neighbour is there.
    pub(crate) fn handle_doubt(&mut self, now: Instant) {
        if self.presence.answers && self.rxcost.is_finite() {
            self.presence.probing.get_or_insert(Probing { next: now, left: PROBES, hears_us: false });
        }
    }

    /// Three IHUs in a row are lost every six minutes on a link that loses a fifth. So whether the neighbour still hears
    /// us is asked before it is taken for granted that it does not.
    fn expire_ihu(&mut self, now: Instant, config: &InterfaceConfig) {
        self.ihu_expires = None;
        if config.sensing == LinkSensing::Measured && self.presence.answers && !self.presence.silent {
            self.presence.probing = Some(Probing { next: now, left: PROBES, hears_us: true });
        } else {
            self.txcost = Cost::INFINITY;
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant, config: &InterfaceConfig) -> Silence {
        let missed = self.multicast.expire(now) | self.unicast.expire(now);
        if missed && config.sensing == LinkSensing::Measured {
            self.handle_doubt(now);
        }
        if self.ihu_expires.is_some_and(|at| at <= now) {
            self.expire_ihu(now, config);
        }
        self.probe(now)
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let probe = self.presence.probing.map(|probing| probing.next);
        [self.multicast.expires, self.unicast.expires, self.ihu_expires, probe].into_iter().flatten().min()
    }

    /// "If the histories are empty, the neighbour entry is flushed" (RFC 8966, section 3.4.1).
    pub(crate) fn is_forgotten(&self) -> bool {
        self.multicast.heard == 0 && self.unicast.heard == 0
    }

    /// Measures the link anew. Whether anything changed.
    pub(crate) fn measure(&mut self, config: &InterfaceConfig) -> bool {
        let before = (self.rxcost, self.cost);
        let rxcost = self.measured_rxcost(config);
        if has_moved(self.rxcost, rxcost) {
            self.rxcost = rxcost;
        }
        let cost = link_cost(config, self.rxcost, self.txcost, self.rtt.get());
        if has_moved(self.cost, cost) {
            self.cost = cost;
        }
        (self.rxcost, self.cost) != before
    }

    /// A neighbour known to answer questions is there until it leaves them unanswered, however many Hellos are lost;
    /// another one must be heard two times out of three.
    fn measured_rxcost(&self, config: &InterfaceConfig) -> Cost {
        if self.presence.silent {
            return Cost::INFINITY;
        }
        let proven = config.sensing == LinkSensing::Measured && self.presence.answers && self.rxcost.is_finite();
        let cost = |history: &HelloHistory| if proven { history.rxcost_if_up(config) } else { history.rxcost(config) };
        cost(&self.multicast).min(cost(&self.unicast))
    }

    pub(crate) fn send(&mut self, tlv: Tlv) {
        if self.outbox.len() < Self::OUTBOX_MAX {
            self.outbox.push_back(tlv);
        }
    }

    /// Asks for a sign of life.
    pub(crate) fn ask_for_acknowledgment(&mut self) {
        let interval = Interval::from_duration(PROBE_SPACING);
        self.send(Tlv::AcknowledgmentRequest(AcknowledgmentRequest { opaque: OPAQUE, interval }));
    }

    fn probe(&mut self, now: Instant) -> Silence {
        let rtt = self.rtt.get().unwrap_or_default();
        let Some(probing) = self.presence.probing.as_mut().filter(|probing| probing.next <= now) else {
            return Silence::None;
        };
        let Some(left) = probing.left.checked_sub(1) else {
            if probing.hears_us {
                self.txcost = Cost::INFINITY;
            } else {
                self.presence.silent = true;
            }
            self.presence.probing = None;
            return Silence::None;
        };
        probing.left = left;
        probing.next = now + if left == 0 { LAST_ANSWER.max(rtt * 3 / 2) } else { PROBE_SPACING };
        self.ask_for_acknowledgment();
        // The first question has had time for its answer.
        let doubtful = left == PROBES / 2 && rtt < PROBE_SPACING;
        if doubtful { Silence::Doubtful } else { Silence::None }
    }
}

/// Whether a neighbour is there, found out by asking it.
///
/// A Hello that fails to come can mean a lost packet or a dead link. Waiting for more of them takes seconds, and on a
/// link that loses a fifth two of three are missing every ten seconds. So the neighbour is asked at once, several times
/// in a row, to acknowledge (RFC 8966, section 3.3, which everybody must answer): with a fifth lost either way, all
/// eight questions fail on a living link once in about 3,500 tries. On a link without loss nothing is sent.
#[derive(Clone, Copy, Debug, Default)]
struct Presence {
    /// It has acknowledged something before.
    answers: bool,
    probing: Option<Probing>,
    /// Nothing has been heard since the questions.
    silent: bool,
}

impl Presence {
    fn is_asked_for_hearing(&self) -> bool {
        self.probing.is_some_and(|probing| probing.hears_us)
    }
}

#[derive(Clone, Copy, Debug)]
struct Probing {
    next: Instant,
    left: u8,
    /// The question is not whether it is there but whether it hears us: only an answer is one.
    hears_us: bool,
}

/// Questions before a neighbour is taken for gone.
const PROBES: u8 = 8;
const PROBE_SPACING: Duration = Duration::from_millis(100);
/// Time for the answer to the last question.
const LAST_ANSWER: Duration = Duration::from_millis(150);
/// Any packet is an answer, so the questions need no numbers.
const OPAQUE: u16 = 0;

/// "3.5 times the advertised IHU interval" (RFC 8966, Appendix B).
fn ihu_hold_time(interval: Interval) -> Duration {
    interval.as_duration() * 7 / 2
}
