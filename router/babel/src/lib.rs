//! Babel, the loop-avoiding distance-vector routing protocol of RFC 8966, as a pure state machine.
//!
//! Start at [`Speaker`]. It has no socket, clock or task: it takes packets and the time, and is asked
//! what it wants.
//!
//! # What is done, section by section
//!
//! RFC 8966, the protocol:
//!
//! | section | what is done |
//! |---|---|
//! | 2.4, 3.5.1 feasibility | as written; a lower metric or a newer seqno than anything told, per source |
//! | 3.1 transmission, jitter | link-local multicast on UDP; acknowledgments, directed requests and questions by unicast. Urgent messages wait 10 to 50 ms, other triggered updates 200 to 400 ms, periodic ones vary by 15 % |
//! | 3.2 tables | `interface`, `neighbour`, `source`, `route`, `pending`; each with a hard limit and a policy when full ([`Limits`]) |
//! | 3.3 acknowledgments | answered at once; asked for with triggered updates on tunnels, which are sent again until acknowledged; elsewhere retractions are repeated |
//! | 3.4.1 Hellos | scheduled multicast ones sent always, unicast ones where configured; both histories kept; unscheduled ones understood |
//! | 3.4.2 IHU | with every third Hello and whenever reachability changes; expire after 3.5 intervals |
//! | 3.4.3, Appendix A link cost | [`LinkSensing`], per link: 2-out-of-3, ETX, or measured: loss averaged over 64 Hellos, and a neighbour whose Hello fails to come is asked instead of waited for |
//! | 3.5.2 metric | additive; a link costs at least 1 |
//! | 3.5.3 updates | learnt, refreshed, expired; the unfeasible update of the selected neighbour is ignored, as allowed, unless something feasible is better |
//! | 3.5.4 hold time | a lost prefix is announced as unreachable, and is so here, until nobody can believe in it |
//! | 3.6 selection | among feasible routes the smallest metric + weight * price ([`Policy`]), with patience that grows as the gain shrinks (Appendix A.3 asks for hysteresis) |
//! | 3.7 updates | periodic (paced), triggered, urgent; split horizon except on radios |
//! | 3.8.1 requests received | wildcard and specific route requests; seqno requests answered, or passed on with one hop less, once, and repeated on each hop until answered |
//! | 3.8.2 requests sent | starvation, unfeasible routes that are wanted, routes about to expire; and ahead of a loss, while a silent neighbour is asked. Half of the table of requests is kept for our own |
//! | 4 encoding | all TLVs, address encodings and sub-TLVs; parser state and prefix compression both ways; unknown ones skipped, the mandatory bit obeyed ([`wire`]) |
//! | Appendix B | the values of the RFC on wires and radios; on tunnels Hellos each second and full updates each minute |
//! | Appendix D stubs | not done: every speaker here carries for others |
//! | Appendix E (RFC 6126) | not done: nobody is left who speaks it |
//!
//! And beside it:
//!
//! | | what is done |
//! |---|---|
//! | RFC 8967 MAC, RFC 9467 | HMAC-SHA256 and BLAKE2s, several keys at once (feature `mac`, [`Speaker::handle_interface_up`]'s authenticated twin); for plain wires, since encrypted tunnels need none |
//! | RFC 8968 DTLS | not done: a link that wants secrecy is a tunnel here |
//! | RFC 9079 source-specific | learnt, selected and passed on ([`PrefixPair`]); what a packet takes is the forwarding plane's business |
//! | RFC 9229 v4-via-v6 | learnt and passed on, with the next hop that each link has |
//! | RFC 9616 round trips | timestamps in Hello and IHU, smoothed, mapped to cost ([`RttRange`]) |
//! | prices | an optional sub-TLV that others ignore ([`Price`], [`wire::Quote`]); capped, weighed, and without power over feasibility |
//!
//! Whoever announces a route must carry its packets, so [`Carry`] switches off the families that a forwarding plane
//! does not have.
//!
//! # Why a price cannot make a loop
//!
//! A loop needs a node that uses a neighbour which, step by step, uses that node. Feasibility excludes it: a route is
//! used only if its (seqno, metric) is strictly better than anything its user ever told, and both are told as they are
//! used. Prices are not part of that pair. They choose among routes that are all safe, so the worst a false price can do
//! is to attract traffic or to drive it away, within the cap and the patience of [`Policy`].
//!
//! The other side of it: the cheaper way is often longer, hence unfeasible, and would never be used. It is asked for a
//! newer seqno, and used when that comes by it; so a longer path is only ever announced with a newer seqno, and nobody
//! downstream starves.
//!
//! Prices do not swing for ever: a price that moved by less than an eighth waits for the next full update, a cheaper
//! route must stay so for two update intervals, and after each move by price comes a rest that doubles while the traffic
//! is moved to and fro. Fees are not rounded, since what is told is what neighbours are billed by.
//!
//! By default a price is the sum of what the hops ask. A link that bills by itself says so with [`Trade`]: then routes
//! through it count what is agreed there, whatever is told, and ways that cost money are kept from those who do not pay.

#![forbid(unsafe_code)]

mod authentication;
mod interface;
#[cfg(feature = "mac")]
mod mac;
mod metric;
mod neighbour;
mod pending;
mod policy;
mod prefix;
mod prefix_map;
mod price;
mod route;
mod router_id;
mod selection;
mod sensing;
mod seqno;
mod seqno_request;
mod source;
mod speaker;
mod time;
mod trade;
mod update;
mod views;
pub mod wire;

#[cfg(test)]
mod conversation;

pub use interface::{Fee, InterfaceConfig, InterfaceId, InterfaceKind, LinkSensing, Only};
#[cfg(feature = "mac")]
pub use mac::{MacAlgorithm, MacCounters, MacKey, MacKeyError, MacKeys, MacKeysError};
pub use metric::{Cost, Metric};
pub use policy::{Policy, PriceWeight};
pub use prefix::{IpPrefix, Ipv4Prefix, Prefix, PrefixPair};
pub use price::Price;
pub use router_id::RouterId;
pub use sensing::RttRange;
pub use seqno::Seqno;
pub use speaker::Speaker;
pub use trade::{Payer, Trade};
pub use views::{
    Carry, Config, Counters, Destination, Event, Limits, NeighbourView, RouteView, SourceView, Transmit, Usage,
};
pub use wire::DecodeError;
