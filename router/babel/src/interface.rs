//! The interface table (RFC 8966, section 3.2.3).

use crate::metric::Cost;
use crate::prefix::Prefix;
use crate::price::Price;
use crate::seqno::Seqno;
use crate::wire::{Interval, SeqnoRequest};
use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv6Addr;
use std::ops::Bound;
use std::time::{Duration, Instant};

/// A link's local name, given by whoever owns the links.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceId(pub u32);

/// What kind of link it is: decides link sensing and split horizon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InterfaceKind {
    /// Point to point inside an encrypted tunnel: 2-out-of-3, split horizon.
    Tunnel,
    /// A cable, perhaps with several neighbours who all hear each other: 2-out-of-3, split horizon.
    Wired,
    /// A radio, where neighbours may not hear each other: ETX, no split horizon.
    Lossy,
}

/// What this speaker asks for sending traffic out through an interface's peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Fee {
    /// Added to the price of every route announced on the interface.
    pub price: Price,
    /// The tariff it belongs to.
    pub epoch: u16,
}

/// How an interface is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceConfig {
    /// Our address there; packets leave from it.
    pub link_local: Ipv6Addr,
    /// Link sensing and split horizon.
    pub kind: InterfaceKind,
    /// Cost of a perfect link.
    pub cost: Cost,
    /// Between scheduled multicast Hellos.
    pub hello_interval: Duration,
    /// Between full updates.
    pub update_interval: Duration,
    /// Of the IPv6 packet; at least 1280.
    pub mtu: u16,
    /// What neighbours there pay.
    pub fee: Fee,
}

impl InterfaceConfig {
    /// Hellos are small, so a cut is seen in 2.5 s; updates are large, and those that matter are triggered.
    #[must_use]
    pub fn tunnel(link_local: Ipv6Addr) -> Self {
        Self {
            link_local,
            kind: InterfaceKind::Tunnel,
            cost: Cost::WIRED,
            hello_interval: Duration::from_secs(1),
            update_interval: Duration::from_secs(60),
            mtu: 1280,
            fee: Fee::default(),
        }
    }

    /// The defaults of RFC 8966, Appendix B for wired links.
    #[must_use]
    pub fn wired(link_local: Ipv6Addr) -> Self {
        Self {
            kind: InterfaceKind::Wired,
            hello_interval: Duration::from_secs(4),
            update_interval: Duration::from_secs(16),
            mtu: 1500,
            ..Self::tunnel(link_local)
        }
    }

    /// The defaults of RFC 8966, Appendix B for wireless links.
    #[must_use]
    pub fn lossy(link_local: Ipv6Addr) -> Self {
        Self { kind: InterfaceKind::Lossy, cost: Cost::WIRELESS, ..Self::wired(link_local) }
    }

    /// How many neighbours an interface may have: a tunnel has one, and a few more addresses while the
    /// peer changes its own. Else so many that an IHU for each fits into one packet.
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

    /// UDP payload that fits the MTU.
    pub(crate) fn payload_max(&self) -> usize {
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
    /// How often a retraction is sent again: it is the one message whose loss costs its readers most.
    pub(crate) repeats: u8,
}

/// A row of the table, and what waits to be sent there by multicast.
#[derive(Clone, Debug)]
pub(crate) struct Interface {
    pub(crate) config: InterfaceConfig,
    pub(crate) hello_seqno: Seqno,
    pub(crate) hello_at: Instant,
    /// How many Hellos still follow each other quickly, to get neighbours up.
    pub(crate) quick_hellos: u8,
    /// Hellos until the next IHU goes with one.
    pub(crate) hellos_to_ihu: u8,
    pub(crate) update_at: Instant,
    pub(crate) dumped_at: Option<Instant>,
    /// Prefixes to announce at `flush_at`; at most one per known prefix and the bound on foreign ones.
    pub(crate) triggered: BTreeMap<Prefix, Trigger>,
    /// Retractions to be sent again at a later flush.
    pub(crate) repeats: BTreeMap<Prefix, Trigger>,
    pub(crate) flush_at: Option<Instant>,
    pub(crate) ready: Ready,
}

/// What [`crate::Speaker::poll_transmit`] sends next.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ready {
    pub(crate) hello: bool,
    pub(crate) ihu: bool,
    pub(crate) retract_all: bool,
    pub(crate) request_all: bool,
    pub(crate) triggered: bool,
    /// A full update goes on behind this prefix.
    pub(crate) dump: Option<Bound<Prefix>>,
    /// Bounded by [`Interface::REQUESTS_MAX`].
    pub(crate) requests: VecDeque<SeqnoRequest>,
}

impl Interface {
    /// Requests that wait for one flush; what finds no place is sent again by its own timer.
    pub(crate) const REQUESTS_MAX: usize = 256;
    /// Prefixes waiting to be announced although unknown here: answers to requests for them.
    pub(crate) const TRIGGERED_UNKNOWN_MAX: usize = 256;

    /// Starts with a Hello at once and, since our routes of an earlier life may still be in use, with the
    /// retraction of all of them; then asks for everything.
    pub(crate) fn new(now: Instant, config: InterfaceConfig, hello_seqno: Seqno) -> Self {
        Self {
            config,
            hello_seqno,
            hello_at: now + QUICK_HELLO,
            quick_hellos: 2,
            hellos_to_ihu: 0,
            update_at: now + config.update_interval,
            dumped_at: None,
            triggered: BTreeMap::new(),
            repeats: BTreeMap::new(),
            flush_at: None,
            ready: Ready { hello: true, retract_all: true, request_all: true, ..Ready::default() },
        }
    }

    pub(crate) fn trigger(&mut self, at: Instant, prefix: Prefix, trigger: Trigger) {
        let waiting = self.triggered.entry(prefix).or_default();
        waiting.poison |= trigger.poison;
        waiting.repeats = waiting.repeats.max(trigger.repeats);
        self.flush_by(at);
    }

    pub(crate) fn flush_by(&mut self, at: Instant) {
        self.flush_at = Some(self.flush_at.map_or(at, |flush_at| flush_at.min(at)));
    }

    pub(crate) fn hello_by(&mut self, at: Instant) {
        self.hello_at = self.hello_at.min(at);
    }

    pub(crate) fn request(&mut self, request: SeqnoRequest) {
        if self.ready.requests.len() < Self::REQUESTS_MAX {
            self.ready.requests.push_back(request);
        }
    }

    pub(crate) fn next_timeout(&self) -> Instant {
        let next = self.hello_at.min(self.update_at);
        self.flush_at.map_or(next, |flush_at| next.min(flush_at))
    }
}
