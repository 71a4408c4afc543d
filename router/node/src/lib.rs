//! One Waybill node, pure: it takes bytes and time and is asked what it wants.
//!
//! Two halves. [`datapath`] decides what becomes of each data packet; workers, simulator and benches call it. [`Node`]
//! is the control core: it speaks Babel, admits neighbours, settles with them, and turns what it learns into the
//! [`datapath::Fib`] that the datapath obeys. Neither knows a socket, a clock, a file or a task.

#![forbid(unsafe_code)]

pub mod admission;
pub mod beacon;
pub mod datapath;
mod deal;
mod drop;
pub mod names;
mod node;
mod path_mtu;
pub mod session;
pub mod upstream;
pub mod ways;

pub use babel::{LinkSensing, NeighbourView, Policy, Prefix, PrefixPair, Price, PriceWeight};
pub use datapath::LinkId;
pub use deal::{Deal, Prices};
pub use drop::{DropReason, Drops};

pub use node::{Access, BABEL_PORT, Config, Event, LinkMeasure, LinkView, Node, Peer, Refusal, Transmit};
pub use path_mtu::{MTU_PORT, NoMessage};
