//! Babel, the loop-avoiding distance-vector routing protocol of RFC 8966, as a pure state machine.
//!
//! Start at [`Speaker`]. It has no socket, clock or task: it takes packets and the time, and is asked
//! what it wants.
//!
//! What is done, by section of RFC 8966:
//!
//! | section | |
//! |---|---|
//! | 3.1 transmission, jitter | multicast on UDP, except acknowledgments and directed requests; urgent messages wait 10 to 50 ms |
//! | 3.2 tables | `interface`, `neighbour`, `source`, `route`, `pending`; each with a hard limit ([`Limits`]) |
//! | 3.3 acknowledgments | answered at once; asked for with triggered updates on tunnels, which are sent again until acknowledged; elsewhere retractions are repeated |
//! | 3.4 link sensing | scheduled multicast Hellos sent, both histories kept; IHU; 2-out-of-3 and ETX |
//! | 3.5 routes | feasibility, source table, hold time; an unfeasible update from the selected neighbour is ignored if nothing feasible is better |
//! | 3.6 selection | smallest metric; the seam for prices |
//! | 3.7 updates | periodic, triggered, urgent; split horizon except on radios |
//! | 3.8 requests | route and seqno requests, sent, answered, passed on and repeated on each hop |
//! | 4 encoding | all of it, and the timestamps of RFC 9616; see [`wire`] |
//!
//! Not done, and why: IPv4 prefixes (encodings 1 and 4) and source-specific routes (RFC 9079) are
//! parsed but not used or passed on, because whoever announces a route must carry its packets, and the
//! mesh carries plain IPv6 only. MAC authentication (RFC 8967) is not spoken, because links are
//! encrypted; the feature `mac` has it ready for links that are not.

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
mod update;
mod views;
pub mod wire;

#[cfg(test)]
mod conversation;

pub use interface::{Fee, InterfaceConfig, InterfaceId, InterfaceKind, LinkSensing};
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
pub use views::{
    Carry, Config, Counters, Destination, Event, Limits, NeighbourView, RouteView, SourceView, Transmit, Usage,
};
pub use wire::DecodeError;
