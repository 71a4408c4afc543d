//! What a speaker is told at its start, what it tells, and how its tables look from outside.

use crate::interface::InterfaceId;
use crate::metric::{Cost, Metric};
use crate::policy::Policy;
use crate::prefix::PrefixPair;
use crate::price::Price;
use crate::router_id::RouterId;
use crate::seqno::Seqno;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

/// What a speaker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Its name; keep it and `seqno` together over a restart, or take a new name.
    pub router_id: RouterId,
    /// Where its sequence number starts: at what [`Event::SeqnoChanged`] last told, if the name is kept.
    pub seqno: Seqno,
    /// How prices take part in choosing routes.
    pub policy: Policy,
    /// Which routes are learnt and passed on beside plain IPv6 ones.
    pub carry: Carry,
    /// Sizes of the tables.
    pub limits: Limits,
}

impl Config {
    /// The defaults.
    #[must_use]
    pub fn new(router_id: RouterId, seqno: Seqno) -> Self {
        Self { router_id, seqno, policy: Policy::default(), carry: Carry::default(), limits: Limits::default() }
    }
}

/// Which routes are learnt and passed on beside plain IPv6 ones. Whoever announces a route must carry its packets, so
/// switch off what the forwarding plane cannot do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carry {
    /// IPv4 routes, with IPv4 and with IPv6 next hops (RFC 9229).
    pub ipv4: bool,
    /// Source-specific routes (RFC 9079).
    pub source_specific: bool,
}

impl Default for Carry {
    fn default() -> Self {
        Self { ipv4: true, source_specific: true }
    }
}

/// Hard limits. A full table refuses what is new and keeps what it has; each refusal is counted. Half of the prefixes go
/// to whoever tells them first; of the other half every neighbour has its equal share, so that none can shut out
/// the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// On all interfaces together.
    pub neighbours: usize,
    /// Prefixes, each with at most one route per neighbour.
    pub prefixes: usize,
    /// Pairs of prefix and router-id whose feasibility distance is remembered.
    pub sources: usize,
    /// Seqno requests without an answer; half of them our own.
    pub pending: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { neighbours: 256, prefixes: 8192, sources: 16_384, pending: 4096 }
    }
}

/// Where a packet goes, or was sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// [`crate::wire::MULTICAST_GROUP`].
    Multicast,
    /// A link-local address.
    Unicast(Ipv6Addr),
}

/// A packet to send from the interface's link-local address, port 6696, to port 6696.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Out of which interface.
    pub interface: InterfaceId,
    /// To whom.
    pub to: Destination,
    /// The UDP payload.
    pub payload: Vec<u8>,
}

/// What has changed. Events tell the latest state: what changed twice is told once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Packets for the prefix go this way; replaces what was told before.
    RouteSelected {
        /// Where to, and perhaps from where.
        pair: PrefixPair,
        /// Through which interface.
        via: InterfaceId,
        /// To which address there.
        next_hop: IpAddr,
        /// The route's metric.
        metric: Metric,
        /// What the next hop asks; `None`: unknown.
        price: Option<Price>,
    },
    /// The prefix cannot be reached: its packets must be refused, not sent by a shorter prefix.
    RouteLost {
        /// Where to, and perhaps from where.
        pair: PrefixPair,
    },
    /// Babel has nothing to say about the prefix any more: drop the entry. Also told when this speaker
    /// originates the prefix itself.
    RouteForgotten {
        /// Where to, and perhaps from where.
        pair: PrefixPair,
    },
    /// The link to a neighbour can be used.
    NeighbourUp {
        /// Where it is.
        interface: InterfaceId,
        /// Its link-local address.
        address: Ipv6Addr,
    },
    /// The link to a neighbour cannot be used.
    NeighbourDown {
        /// Where it was.
        interface: InterfaceId,
        /// Its link-local address.
        address: Ipv6Addr,
    },
    /// Our sequence number, to be remembered over a restart.
    SeqnoChanged(Seqno),
}

/// A route as people look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteView {
    /// Where to, and perhaps from where.
    pub pair: PrefixPair,
    /// Interface and address of the neighbour who told it; `None`: originated here.
    pub neighbour: Option<(InterfaceId, Ipv6Addr)>,
    /// Where its packets go; `None`: here.
    pub next_hop: Option<IpAddr>,
    /// The originator.
    pub router_id: RouterId,
    /// The originator's sequence number.
    pub seqno: Seqno,
    /// The metric the neighbour told.
    pub refmetric: Metric,
    /// With the cost of the link.
    pub metric: Metric,
    /// What the neighbour asks.
    pub price: Option<Price>,
    /// Whether it may be used without fear of a loop.
    pub feasible: bool,
    /// Whether it is used.
    pub selected: bool,
}

/// A neighbour as people look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeighbourView {
    /// Where it is.
    pub interface: InterfaceId,
    /// Its link-local address.
    pub address: Ipv6Addr,
    /// Which of its last 16 multicast Hellos arrived, newest in the lowest bit.
    pub reach: u16,
    /// How often it says Hello, as it told last (RFC 8966, section 4.6.5).
    pub hello_interval: Option<Duration>,
    /// The share of its multicast Hellos that are lost, averaged over about the last 64, in parts per million.
    pub lost_ppm: u32,
    /// Our cost of hearing it.
    pub rxcost: Cost,
    /// Its cost of hearing us.
    pub txcost: Cost,
    /// What the link adds to a metric.
    pub cost: Cost,
    /// The smoothed round trip, where it is measured.
    pub rtt: Option<Duration>,
}

/// A row of the source table as people look at it: the best we ever told about an originator's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceView {
    /// Where to, and perhaps from where.
    pub pair: PrefixPair,
    /// The originator.
    pub router_id: RouterId,
    /// The feasibility distance's sequence number.
    pub seqno: Seqno,
    /// The feasibility distance's metric.
    pub metric: Metric,
}

/// How full the tables are; see [`Limits`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Of [`Limits::neighbours`].
    pub neighbours: usize,
    /// Of [`Limits::prefixes`].
    pub prefixes: usize,
    /// Routes to them, used or not.
    pub routes: usize,
    /// Of [`Limits::sources`].
    pub sources: usize,
    /// Of [`Limits::pending`].
    pub pending: usize,
}

/// What was received and not used, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets on an interface that is not up.
    pub unknown_interface: u64,
    /// Packets whose source is not a link-local address, or is our own.
    pub foreign_source: u64,
    /// Packets on an authenticated interface that nobody with the key sent just now.
    pub not_authentic: u64,
    /// Messages from somebody whose Hello we have not heard.
    pub unknown_neighbour: u64,
    /// Hellos for which the neighbour table had no room.
    pub neighbours_full: u64,
    /// Routes for which the route table had no room.
    pub prefixes_full: u64,
    /// Routes that cannot be announced because the source table had no room.
    pub sources_full: u64,
    /// Seqno requests that were not passed on because their neighbour has too many under way.
    pub requests_full: u64,
    /// Updates for prefixes nobody may announce.
    pub unroutable_prefix: u64,
    /// Messages about routes that [`Carry`] excludes, or whose next hop is of a family we do not have there.
    pub not_carried: u64,
}
