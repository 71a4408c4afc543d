//! What two neighbours owe each other, and the proof of it: units, identity, receipts and the exchange.
//!
//! The crate is pure: bytes and time come in as arguments, what it wants comes out of `poll_*` calls. It knows no
//! routes, sockets, files or clock. Read it in this order: [`units`], [`identity`], [`receipt`], [`meter`], [`terms`],
//! [`credit`], [`wire`], and then [`exchange`], the protocol between two neighbours, and [`watch`]; `PROTOCOL.md` beside this crate
//! says the same byte by byte.
#![forbid(unsafe_code)]

mod allowance;
mod cbor;
pub mod close;
pub mod credit;
pub mod eip712;
pub mod exchange;
pub mod identity;
pub mod json;
pub mod meter;
pub mod receipt;
pub mod sorted;
pub mod terms;
pub mod units;
pub mod watch;
pub mod wire;
pub mod witness;

pub use cbor::DecodeError;
pub use close::Close;
pub use credit::{Credit, Standing};
pub use exchange::{Alarm, AtRisk, ChannelState, Event, Exchange, Limits, Restored, Setup, Side, Snapshot, Sums};
pub use exchange::{Incompatibility, Misbehaviour, Rejected};
pub use identity::{AccountKey, Identity, NodeCard, NodeId, Seed, Signature, TlsKey, WireguardKey};
pub use identity::{link_local, mesh_address, mesh_prefix};
pub use meter::Counts;
pub use receipt::{ChannelId, LedgerDomain, Receipt};
pub use sorted::{SortedMap, SortedSet};
pub use terms::{Offer, Role, Terms};
pub use units::{Bytes, Price, Tokens, billed_length};

/// Marks a signed statement whose signature has been checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verified {}

/// Marks a signed statement as it came off the wire: well formed, and not to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unverified {}
