//! Waybill's router: the shell around the pure cores.

pub mod cli;
pub mod config;
pub mod control;
pub mod identity;
