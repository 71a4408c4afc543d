//! The interface table (RFC 8966, section 3.2.3).

use crate::authentication::Authentication;
use crate::metric::Cost;
use crate::neighbour::NeighbourId;
use crate::prefix::{IpPrefix, Prefix, PrefixPair};
use crate::price::Price;
use crate::sensing::RttRange;
use crate::seqno::Seqno;
use crate::seqno_request::Wanted;
use crate::trade::Trade;
use crate::views::Destination;
use crate::wire::{AnyPrefix, Interval, Writer};
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Bound;
use std::time::{Duration, Instant};

/// A link's local name, given by whoever owns the links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceId(pub u32);

/// What kind of link it is: decides split horizon and how many neighbours there can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InterfaceKind {
    /// Point to point inside an encrypted tunnel: split horizon.
    Tunnel,
    /// A cable, perhaps with several neighbours who all hear each other: split horizon.
    Wired,
    /// A radio, where neighbours may not hear each other: no split horizon.
    Lossy,
}

/// How a link's cost is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkSensing {
    /// Two of the last three Hellos must arrive, and the cost is what it is (RFC 8966, Appendix A.2.1).
    TwoOutOfThree,
    /// The expected number of transmissions over the last 16 Hellos (RFC 8966, Appendix A.2.2).
    Etx,
    /// Loss there and back, averaged long enough not to wobble. A neighbour whose Hellos fail to come is asked, and is
    /// gone when it does not answer.
    Measured,
}

/// What this speaker asks for sending traffic out through an interface's peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Fee {
    /// Added to the price of every route announced on the interface; where a [`Trade`] is agreed, told in its place.
    pub price: Price,
    /// The tariff it belongs to.
    pub epoch: u16,
}

/// Of whom is not trusted with other people's traffic: its own prefix, and, where nobody else tells a way there, one address that
/// has to be reached in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Only {
    /// Used as it is told. Longer prefixes inside it are not.
    pub own: Prefix,
    /// Prefixes with this address in it are used as if the link cost [`Only::LAST_RESORT`] more.
    pub open: Option<Ipv6Addr>,
}

impl Only {
    /// More than the way of anybody who is trusted.
    pub const LAST_RESORT: u16 = 0x4000;

    /// What the link costs more for this prefix; `None`: it is not used.
    pub(crate) fn surcharge(self, to: IpPrefix) -> Option<u16> {
        match to {
            IpPrefix::V6(to) if to == self.own => Some(0),
            IpPrefix::V6(to) if self.open.is_some_and(|open| to.contains(open)) => Some(Self::LAST_RESORT),
            IpPrefix::V6(_) | IpPrefix::V4(_) => None,
        }
    }
}

/// How an interface is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceConfig {
    /// Our address there; packets leave from it.
    pub link_local: Ipv6Addr,
    /// Our IPv4 address there, the next hop of IPv4 routes we announce; `None`: they are announced with an IPv6 next
    /// hop (RFC 9229).
    pub ipv4: Option<Ipv4Addr>,
    /// Split horizon.
    pub kind: InterfaceKind,
    /// How the cost is found.
    pub sensing: LinkSensing,
    /// Cost of a perfect link.
    pub cost: Cost,
    /// What the round trip adds to the cost; `None`: nothing, and no timestamps are sent.
    pub rtt: Option<RttRange>,
    /// Also send every neighbour scheduled Hellos of its own, for links where multicast is worse than unicast.
    pub unicast_hellos: bool,
    /// Between scheduled multicast Hellos.
    pub hello_interval: Duration,
    /// Between full updates.
    pub update_interval: Duration,
    /// Of the IPv6 packet; at least 1280.
    pub mtu: u16,
    /// What neighbours there pay.
    pub fee: Fee,
    /// How the link bills, where it does so by itself; `None`: prices are paid along the way.
    pub trade: Option<Trade>,
    /// What it costs us to be sent something there, in units of metric: neighbours are told so much more than the
    /// link costs, so that what comes back to us prefers links for which we do not pay.
    pub toll: u16,
    /// Which of the routes that neighbours there tell are used; `None`: all.
    pub only: Option<Only>,
}

impl InterfaceConfig {
    /// Measured, since a tunnel can be a cable or the other side of the world. Hellos are small, so a cut is seen
    /// within 2.4 s; updates are large, and those that matter are triggered.
    #[must_use]
    pub fn tunnel(link_local: Ipv6Addr) -> Self {
        Self {
            link_local,
            ipv4: None,
            kind: InterfaceKind::Tunnel,
            sensing: LinkSensing::Measured,
            cost: Cost::WIRED,
            rtt: Some(RttRange::TUNNEL),
            unicast_hellos: false,
            hello_interval: Duration::from_secs(1),
            update_interval: Duration::from_secs(60),
            mtu: 1280,
            fee: Fee::default(),
            trade: None,
            toll: 0,
            only: None,
        }
    }

    /// The defaults of RFC 8966, Appendix B for wired links.
    #[must_use]
    pub fn wired(link_local: Ipv6Addr) -> Self {
        Self {
            kind: InterfaceKind::Wired,
            sensing: LinkSensing::TwoOutOfThree,
            rtt: None,
            hello_interval: Duration::from_secs(4),
            update_interval: Duration::from_secs(16),
            mtu: 1500,
            ..Self::tunnel(link_local)
        }
    }

    /// The defaults of RFC 8966, Appendix B for wireless links.
    #[must_use]
    pub fn lossy(link_local: Ipv6Addr) -> Self {
        Self { kind: InterfaceKind::Lossy, sensing: LinkSensing::Etx, cost: Cost::WIRELESS, ..Self::wired(link_local) }
    }

    /// How many neighbours an interface may have: a tunnel has one, and a few more addresses while the
    /// peer changes its own. Else more than share a cable or a radio in any mesh.
    pub(crate) fn neighbours_max(&self) -> usize {
        match self.kind {
            InterfaceKind::Tunnel => 4,
            InterfaceKind::Wired | InterfaceKind::Lossy => 64,
        }
    }

    /// Whether a route is kept from the interface it is used through (RFC 8966, section 3.7.4): only
    /// where everybody who hears us hears our next hop too.
    pub(crate) fn split_horizon(&self) -> bool {
        match self.kind {
            InterfaceKind::Tunnel | InterfaceKind::Wired => true,
            InterfaceKind::Lossy => false,
        }
    }

    /// How a prefix is written there: an IPv4 route has an IPv4 next hop where we have such an address, else an IPv6
    /// one (RFC 9229).
    pub(crate) fn encoding_of(&self, prefix: IpPrefix) -> AnyPrefix {
        match (prefix, self.ipv4) {
            (IpPrefix::V6(prefix), _) => AnyPrefix::V6(prefix),
            (IpPrefix::V4(prefix), Some(_)) => AnyPrefix::V4(prefix),
            (IpPrefix::V4(prefix), None) => AnyPrefix::V4ViaV6(prefix),
        }
    }

    /// The next hop of what is announced there.
    pub(crate) fn next_hop_for(&self, prefix: IpPrefix) -> IpAddr {
        match (prefix, self.ipv4) {
            (IpPrefix::V4(_), Some(ipv4)) => IpAddr::V4(ipv4),
            (IpPrefix::V4(_) | IpPrefix::V6(_), _) => IpAddr::V6(self.link_local),
        }
    }

    /// What a neighbour is told that sending to us costs.
    pub(crate) fn told_rxcost(&self, rxcost: Cost) -> Cost {
        if !rxcost.is_finite() {
            return rxcost;
        }
        Cost::new(rxcost.get().saturating_add(self.toll)).min(Cost::WORST)
    }

    /// UDP payload that fits the MTU.
    fn payload_max(&self) -> usize {
        usize::from(self.mtu.max(1280)) - IPV6_AND_UDP_HEADER
    }

    pub(crate) fn hello_interval(&self) -> Interval {
        at_least_one(Interval::from_duration(self.hello_interval))
    }

    pub(crate) fn update_interval(&self) -> Interval {
        at_least_one(Interval::from_duration(self.update_interval))
    }

    /// "3 times the multicast Hello interval" (RFC 8966, Appendix B).
    pub(crate) fn ihu_interval(&self) -> Interval {
        self.hello_interval().times(HELLOS_PER_IHU.into())
    }
}

/// The first Hellos follow each other at this distance, so that a link is up within half a second.
pub(crate) const QUICK_HELLO: Duration = Duration::from_millis(150);
/// A new neighbour, one that just became audible, or one that has begun anew gets a Hello and an IHU this soon.
pub(crate) const HELLO_SOON: Duration = Duration::from_millis(20);
/// Packets of a full update that follow each other without a pause, and the pause: about 5,000 routes a second, without
/// the queue of a slow link running over.
const DUMP_BURST: u8 = 16;
const DUMP_PAUSE: Duration = Duration::from_millis(100);
/// Time for an acknowledgment beside the round trip.
const ANSWER_WITHIN: Duration = Duration::from_millis(200);
const IPV6_AND_UDP_HEADER: usize = 48;
/// An IHU goes with every third Hello.
pub(crate) const HELLOS_PER_IHU: u8 = 3;

/// On the wire, an interval of zero is an error.
fn at_least_one(interval: Interval) -> Interval {
    interval.max(Interval(1))
}

/// Why a prefix waits to be announced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trigger {
    /// Retract it even where split horizon says nothing: the neighbour still holds what we told before.
    pub(crate) poison: bool,
    /// How often a retraction is sent again where nobody acknowledges: it is the one message whose loss costs its
    /// readers most.
    pub(crate) repeats: u8,
    /// How often it was sent without an acknowledgment.
    pub(crate) sent: u8,
}

/// Updates in a packet that was not acknowledged (RFC 8966, section 3.3).
#[derive(Clone, Debug)]
pub(crate) struct Unconfirmed {
    number: u16,
    due: Instant,
    updates: Vec<(PrefixPair, Trigger)>,
}

/// A row of the table, and what waits to be sent there by multicast.
#[derive(Debug)]
pub(crate) struct Interface {
    pub(crate) config: InterfaceConfig,
    pub(crate) authentication: Authentication,
    pub(crate) hello_seqno: Seqno,
    pub(crate) hello_at: Instant,
    /// How many Hellos still follow each other quickly, to get neighbours up.
    pub(crate) quick_hellos: u8,
    /// Hellos until the next IHU goes with one.
    pub(crate) hellos_to_ihu: u8,
    pub(crate) update_at: Instant,
    pub(crate) dumped_at: Option<Instant>,
    /// The next full update is for somebody who asked and knows nothing yet.
    pub(crate) dump_asked: bool,
    /// When the next packets of a full update may follow.
    pub(crate) dump_at: Option<Instant>,
    /// Prefixes to announce at `flush_at`; at most one per known prefix and the bound on foreign ones.
    pub(crate) triggered: BTreeMap<PrefixPair, Trigger>,
    /// Retractions to be sent again at a later flush.
    pub(crate) repeats: BTreeMap<PrefixPair, Trigger>,
    pub(crate) flush_at: Option<Instant>,
    /// Packets not yet acknowledged, oldest first, at most [`Interface::UNCONFIRMED_MAX`].
    unconfirmed: VecDeque<Unconfirmed>,
    /// Of the next packet to be acknowledged; zero is left to questions about presence.
    next_number: u16,
    pub(crate) ready: Ready,
}

/// What [`crate::Speaker::poll_transmit`] sends next.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ready {
    pub(crate) hello: bool,
    /// IHUs go on behind this neighbour.
    pub(crate) ihu: Option<Bound<NeighbourId>>,
    pub(crate) retract_all: bool,
    pub(crate) request_all: bool,
    pub(crate) triggered: bool,
    /// A full update goes on behind this prefix, when [`Interface::dump_at`] allows.
    pub(crate) dump: Option<Bound<PrefixPair>>,
    /// What it tells is to be acknowledged.
    pub(crate) dump_confirmed: bool,
    /// Bounded by [`Interface::REQUESTS_MAX`].
    pub(crate) requests: VecDeque<Wanted>,
    /// Packets of a full update that may be sent at once.
    pub(crate) dump_packets: u8,
}

impl Interface {
    /// Requests that wait for one flush: as many as the default table of pending ones holds, since a cut may take all
    /// prefixes at once. What finds no place is sent again by its own timer.
    const REQUESTS_MAX: usize = 4096;
    /// Prefixes waiting to be announced although unknown here: answers to requests for them.
    pub(crate) const TRIGGERED_UNKNOWN_MAX: usize = 256;
    /// Packets whose acknowledgment is awaited; more than a burst of a full update.
    const UNCONFIRMED_MAX: usize = 64;
    /// An update is sent so often, over 6 s: on a link that loses a fifth, one in 15,000 is not heard.
    const SENT_MAX: u8 = 6;

    /// Starts with a Hello at once and, since our routes of an earlier life may still be in use, with the
    /// retraction of all of them; then asks for everything.
    pub(crate) fn new(
        now: Instant,
        config: InterfaceConfig,
        authentication: Authentication,
        hello_seqno: Seqno,
    ) -> Self {
        Self {
            config,
            authentication,
            hello_seqno,
            hello_at: now + QUICK_HELLO,
            quick_hellos: 2,
            hellos_to_ihu: 0,
            update_at: now + config.update_interval,
            dumped_at: None,
            dump_asked: false,
            dump_at: None,
            triggered: BTreeMap::new(),
            repeats: BTreeMap::new(),
            flush_at: None,
            unconfirmed: VecDeque::new(),
            next_number: 1,
            ready: Ready { hello: true, retract_all: true, request_all: true, ..Ready::default() },
        }
    }

    pub(crate) fn trigger(&mut self, at: Instant, pair: PrefixPair, trigger: Trigger) {
        let waiting = self.triggered.entry(pair).or_default();
        waiting.poison |= trigger.poison;
        waiting.repeats = waiting.repeats.max(trigger.repeats);
        self.flush_by(at);
    }

    pub(crate) fn flush_by(&mut self, at: Instant) {
        self.flush_at = Some(self.flush_at.map_or(at, |flush_at| flush_at.min(at)));
    }

    /// Somebody is to hear us who needs two Hellos for that.
    pub(crate) fn greet(&mut self, now: Instant) {
        self.quick_hellos = self.quick_hellos.max(1);
        self.hello_by(now + HELLO_SOON);
    }

    pub(crate) fn hello_by(&mut self, at: Instant) {
        self.hello_at = self.hello_at.min(at);
    }

    pub(crate) fn request(&mut self, request: Wanted) {
        if self.ready.requests.len() < Self::REQUESTS_MAX {
            self.ready.requests.push_back(request);
        }
    }

    /// An empty packet as large as may be sent.
    pub(crate) fn writer(&self, to: Destination) -> Writer {
        let room = self.config.payload_max().saturating_sub(self.authentication.overhead(to));
        Writer::new(room, self.config.link_local)
    }

    pub(crate) fn expire_flush(&mut self, now: Instant) {
        if self.flush_at.is_some_and(|at| at <= now) {
            self.flush_at = None;
            self.ready.triggered = true;
            for (pair, trigger) in std::mem::take(&mut self.repeats) {
                self.triggered.entry(pair).or_insert(trigger);
            }
        }
        while self.unconfirmed.front().is_some_and(|packet| packet.due <= now)
            && let Some(lost) = self.unconfirmed.pop_front()
        {
            self.send_again(lost);
        }
        if self.dump_at.is_some_and(|at| at <= now) {
            self.dump_at = self.ready.dump.map(|_| now + DUMP_PAUSE);
            self.ready.dump_packets = DUMP_BURST;
        }
    }

    fn send_again(&mut self, lost: Unconfirmed) {
        for (pair, trigger) in lost.updates {
            let sent = trigger.sent + 1;
            if sent < Self::SENT_MAX {
                self.triggered.entry(pair).or_insert(Trigger { sent, ..trigger });
                self.ready.triggered = true;
            }
        }
    }

    /// Awaits an acknowledgment of updates in a packet that is sent now. Under which number.
    pub(crate) fn await_confirmation(
        &mut self,
        now: Instant,
        rtt: Duration,
        updates: Vec<(PrefixPair, Trigger)>,
    ) -> u16 {
        let sent = updates.iter().map(|(_, trigger)| trigger.sent).max().unwrap_or_default();
        let (number, due) = (self.next_number, now + (ANSWER_WITHIN + rtt * 2) * (1 << sent));
        self.next_number = self.next_number.wrapping_add(1).max(1);
        if self.unconfirmed.len() >= Self::UNCONFIRMED_MAX {
            self.unconfirmed.pop_front();
        }
        let place = self.unconfirmed.partition_point(|packet| packet.due <= due);
        self.unconfirmed.insert(place, Unconfirmed { number, due, updates });
        number
    }

    pub(crate) fn confirm(&mut self, number: u16) {
        self.unconfirmed.retain(|packet| packet.number != number);
        if self.unconfirmed.is_empty() {
            self.unconfirmed = VecDeque::new(); // Bursts are rare, and their room not kept.
        }
    }

    /// Retracts everything, and says nothing else.
    pub(crate) fn say_goodbye(&mut self) {
        self.triggered.clear();
        self.ready = Ready { retract_all: true, ..Ready::default() };
    }

    /// A full update starts, unless one is being sent.
    pub(crate) fn start_dump(&mut self, now: Instant) {
        if self.ready.dump.is_none() {
            self.ready.dump_confirmed = std::mem::take(&mut self.dump_asked);
            self.dumped_at = Some(now);
            self.ready.dump = Some(Bound::Unbounded);
            self.ready.dump_packets = DUMP_BURST;
            self.dump_at = Some(now + DUMP_PAUSE);
        }
    }

    pub(crate) fn next_timeout(&self) -> Instant {
        let next = self.hello_at.min(self.update_at);
        let unconfirmed = self.unconfirmed.front().map(|packet| packet.due);
        let others = [self.flush_at, self.dump_at, unconfirmed, self.authentication.poll_timeout()];
        others.into_iter().flatten().fold(next, Instant::min)
    }
}
