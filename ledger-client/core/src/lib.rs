//! The rulebook of a community's ledger: what may happen to tokens, and what has happened.
//!
//! A [`Request`] goes in; out comes one [`Entry`], which says what happened, or one named [`Refusal`]. [`rules::execute`]
//! is the only way: it checks who asks, decides, books, checks that no token was made or lost, and appends the entry to a
//! Merkle log. Nothing is done in an account's name without its signature: a [`Command`] is taken as an [`Order`], and
//! the entry keeps the signature, so that whoever replays the log checks every one of them. The rules see accounts and
//! channels through [`Records`], so the SQLite store and the in-memory [`State`] of an auditor run the same ones.
//!
//! The crate is pure: no clock, file or randomness. Read it in this order: [`genesis`], [`channel`], [`voucher`], [`share`], [`signer`], [`role`],
//! [`membership`], [`registry`], [`name`], [`shown`], [`command`],
//! [`order`], [`presented`], [`rules`], [`refusal`], [`entry`], [`merkle`], [`state`], [`place`], [`record_tree`], [`note`], [`checkpoint`].
#![forbid(unsafe_code)]

pub mod channel;
pub mod checkpoint;
pub mod command;
pub mod enrolment;
pub mod entry;
pub mod fact;
pub mod genesis;
mod json;
pub mod membership;
pub mod merkle;
pub mod name;
pub mod note;
pub mod order;
pub mod place;
pub mod presented;
pub mod record_tree;
pub mod records;
pub mod refusal;
pub mod registry;
pub mod role;
pub mod rules;
pub mod share;
pub mod shown;
pub mod signer;
pub mod state;
#[cfg(test)]
mod story;
pub mod sums;
mod time;
pub mod voucher;

pub use channel::{Channel, Phase};
pub use command::{Command, Request};
pub use entry::{Entry, EntryError, Event};
pub use genesis::{Genesis, GenesisError};
pub use merkle::{Hash, Head, Tree};
pub use order::{Order, Seal};
pub use presented::{Logged, Presented};
pub use records::{Records, Totals};
pub use refusal::Refusal;
pub use rules::{ExecuteError, MAX_SUPPLY, channel_signer, execute, execute_presented};
pub use shown::{Account, ChannelRecord};
pub use state::{ReplayError, State};
pub use sums::Sums;
pub use time::UnixTime;
