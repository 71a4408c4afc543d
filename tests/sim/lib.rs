//! A whole mesh in one process, on virtual time.
//!
//! The nodes are the real ones: [`node::Node`] decides, [`node::datapath::Datapath`] carries, with real bytes. What is
//! simulated is around them: wires ([`Quality`]), the shell with its journal, one ledger, hosts that send ([`Flow`]), and
//! time. Build a [`World`] from a seed, connect stations, [`World::start`] it, and let time pass with
//! [`World::run_for`]. Two runs with equal seeds and calls are equal bit for bit ([`World::digest`]).
//!
//! The world checks at every step, from outside:
//! - packets: sent = delivered + dropped by a reason + lost + on a wire, and what is delivered is what was sent, once;
//! - no forwarding loop, whenever any table changes; and no packet that ran out of hops;
//! - tokens: minted = held + locked, at each change on the ledger, and nothing redeemed ever shrinks;
//! - no receipt above what both ends of its wire saw delivered; no neighbour owing more than its window.
//!
//! What fails prints the seed and how to run it again.

#![forbid(unsafe_code)]

mod attack;
mod bank;
mod carry;
mod control;
mod faults;
pub mod fuzz;
mod journal;
pub mod pair;
mod queue;
mod report;
mod station;
mod traffic;
mod watch;
mod wire;
mod world;

pub use faults::{Backup, Notice};
pub use report::{Report, Settlement};
pub use traffic::Flow;
pub use wire::{Bond, Quality};
pub use world::World;

/// Virtual time since the beginning of the world.
pub type Time = std::time::Duration;

/// A station of a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StationId(pub usize);

/// A wire of a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WireId(pub usize);

/// A flow of a world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId(pub usize);
