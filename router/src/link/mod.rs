//! Links: encrypted sessions with one neighbour each. Two kinds behind the same calls.

use std::net::SocketAddr;
use std::time::Duration;

#[cfg(feature = "quic")]
pub mod quic;
pub(crate) mod train;
pub mod wireguard;

pub use node::LinkId;

/// How a link stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkStatus {
    /// Whether there is a session.
    pub up: bool,
    /// Whether this machine has no way to the endpoint at the moment, as the system says.
    pub unreachable: bool,
    /// Where the neighbour was last heard from, or is expected.
    pub endpoint: Option<SocketAddr>,
    /// WireGuard: the age of the session's keys.
    pub last_handshake: Option<Duration>,
    /// WireGuard: how many authentic datagrams came, and how many of our handshakes were answered; both from zero again when
    /// the neighbour is set anew.
    pub heard: u64,
    /// See there.
    pub answered: u64,
    /// Those of the first that were transport data, a keepalive's empty packet too: a firewall may pass handshakes and not these.
    pub data: u64,
}
