//! Waybill's router: the shell around the pure cores.

pub mod link;
