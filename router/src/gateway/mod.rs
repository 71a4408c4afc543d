//! The Internet through a gateway: a WireGuard session to the gateway's mesh address, end to end, so that relays see
//! only ciphertext.
//!
//! ```text
//!  household                              relay              gateway
//!  LAN --masquerade--> waybill-net0                          waybill-gw0 --masquerade--> uplink
//!                         |                                      |
//!                    client thread  == WireGuard session ==  server thread
//!                         |                                      |
//!                     waybill0 ------ links of the mesh ------ waybill0
//! ```
//!
//! The session is carried by the link code ([`crate::link::wireguard`]) over a UDP socket at the node's own mesh address;
//! what it sends are ordinary packets of the mesh, metered and paid as all others. A client needs no configuration at
//! the gateway: its address in the mesh proves its key. Inside, both sides talk by [messages](node::session) on link-local UDP; the
//! answer is a lease, and how long it takes says how good the gateway is.
//!
//! [`leases`], [`policy`], [`forbidden`] and [`choice`] decide and touch nothing; [`server`] and [`client`] are threads of their
//! own around them ([`carry`]); [`nat`] sets the kernel up and takes back what it did, [`watch`] looks whether it stays so, and
//! [`closed`] keeps a household's packets from leaving by another way.

mod carry;
mod choice;
mod client;
mod closed;
mod forbidden;
mod leases;
mod nat;
mod policy;
mod server;
mod watch;

use std::net::Ipv6Addr;
use std::time::Duration;

use metering::{NodeId, WireguardKey};

pub use client::{Client, Gateway};
pub(crate) use closed::Closed;
pub use leases::Pool;
pub use nat::NatError;
pub(crate) use nat::own_resolver;
pub(crate) use node::session::{CONTACT_LEN_MAX, REFUSE_MAX};
pub use policy::{Caps, Hours, NotCarried};
pub use server::{Left, Server};

/// The UDP port of sessions, at the mesh addresses of both ends.
pub(crate) const PORT: u16 = 51821;
/// The link-local UDP port of [messages](node::session::Message) inside a session.
const CONTROL_PORT: u16 = 6699;
/// What a session adds to a packet: the headers of IPv6, UDP and WireGuard's transport data.
pub(crate) const OVERHEAD: u16 = 40 + 8 + 32;
/// A session that nothing authentic came over for so long is forgotten.
const IDLE: Duration = Duration::from_secs(180);
/// The table of the kernel's routes into the session. What shows in the kernel's tables that something is ours.
const ROUTE_TABLE: u8 = 87;

/// The file of the state directory that says which of the kernel's switches were changed, and what stood in them.
const SWITCHES: &str = "gateway-switches";

/// Where a gateway is inside each of its sessions, and its clients.
const GATEWAY_INSIDE: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const CLIENT_INSIDE: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

/// The IPv6 address of a client inside its sessions: its mesh address, with `fc` for `fd`. So it is the same with every
/// gateway, and no route of the mesh leads there: an answer can come back by the session alone, never in the clear.
#[must_use]
pub fn inner_address(key: &WireguardKey) -> Ipv6Addr {
    let mut octets = metering::mesh_address(key).octets();
    octets[0] = 0xfc;
    octets.into()
}

/// Whether a node may use a gateway, asked by its thread: it must answer at once. A client is known by its WireGuard key,
/// which its address in the mesh proves, and by the account that it showed the card of, which binds that to the key.
pub type MayUse = Box<dyn Fn(&WireguardKey, Option<NodeId>) -> Verdict + Send>;

/// The answer of [`MayUse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may, and this account has caps of its own.
    Known(NodeId),
    /// It may. Keys are free, and each could have another cap: it shares one with all that nobody knows.
    Anybody,
    /// It may not, and is told so.
    Refused,
}
