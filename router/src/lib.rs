//! Waybill's router: the shell around the pure cores.
pub mod journal;
pub mod netlink;
pub mod tun;
