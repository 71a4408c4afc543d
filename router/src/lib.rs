//! Waybill's router: the shell around the pure cores. It owns sockets, clock, disk and threads, and decides nothing
//! about a packet, a route or a debt by itself.
//!
//! Start at [`router`]: a running router and its tasks. `waybill up` ([`daemon`]) runs one on a TUN, `waybill demo`
//! ([`demo`]) several in one process.

mod carrier;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
#[cfg(feature = "ledger-host")]
pub mod demo;
mod desk;
mod discovery;
pub mod fault;
mod file;
pub mod gateway;
#[cfg(feature = "ledger-serve")]
mod hosting;
pub mod identity;
#[cfg(feature = "ledger-remote")]
pub mod invite;
pub mod journal;
pub mod link;
mod look_up;
mod names;
pub mod netlink;
pub mod qr;
pub mod router;
#[cfg(feature = "ledger-remote")]
mod served;
pub mod tun;
mod upstream;
mod worker;
