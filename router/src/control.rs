//! The control socket: how `waybill status` and its like ask a running daemon.
//!
//! A Unix stream socket, mode 0600. Each request is one line of JSON, each answer another, in order:
//!
//! ```text
//! {"request":"status"}
//! {"answer":"status","value":{"name":"attic","id":"0x52908400098527886E0F7030069857D2E4169EE7", ...}}
//! {"request":"redeem","neighbour":"roof"}
//! {"answer":"failed","value":{"cause":"the ledger is unreachable","next":"try again later"}}
//! ```
//!
//! Money never loses a unit: an amount is a string of decimal digits that counts base units ("1250000"), because JSON
//! readers commonly keep numbers as 64-bit floats. What a base unit is stands beside it once per answer, as
//! [`Unit`]. Bytes, packets and seconds are numbers.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, DirBuilder, Permissions};
use std::future::Future;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use metering::{Bytes, ChannelId, NodeId, Tokens};
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::cli::Failure;
use crate::identity::plain;

/// The longest request line a daemon reads, newline included.
const REQUEST_LEN_MAX: u64 = 64 << 10;
/// The longest answer line a client reads: a routing table of 100,000 lines fits.
const ANSWER_LEN_MAX: u64 = 32 << 20;
/// Clients served at once; more wait in the socket's backlog.
const CLIENTS_MAX: usize = 16;
/// How long either side waits for the other to read or write.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a client waits for the answer to a request that needs the ledger.
const PATIENCE_WITH_LEDGER: Duration = Duration::from_secs(60);
/// How long a client may think between two requests: a person's `socat` session, not a leak.
const IDLE: Duration = Duration::from_secs(60);

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How is this router?
    Status,
    /// Who is linked to it?
    Neighbours,
    /// Where do packets go?
    Routes,
    /// What was carried for whom?
    Meters,
    /// What came of each day with a neighbour, and why?
    Why {
        /// The neighbour, by name or id.
        neighbour: String,
        /// How many days, the last of them today.
        days: u32,
    },
    /// What did a month come to with each household?
    Statement {
        /// The month, such as "2026-11"; the present one without it.
        #[serde(default)]
        month: Option<String>,
    },
    /// Which receipts are held?
    Receipts,
    /// Turn receipts into tokens.
    Redeem {
        /// The neighbour that signed them, by name or id; all neighbours without one.
        #[serde(default)]
        neighbour: Option<String>,
    },
    /// End the channel to a neighbour that is paid.
    Close {
        /// The neighbour, by name or id.
        neighbour: String,
    },
    /// What does this router own?
    Wallet,
    /// Whom does this router lead to the Internet?
    Gateway,
    /// Which gateway leads this router to the Internet?
    Internet,
    /// Read the config file again.
    Reload,
    /// Stop the daemon.
    Shutdown,
}

/// What a daemon answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "answer", content = "value", rename_all = "snake_case")]
pub enum Response {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Neighbours`].
    Neighbours(Vec<Neighbour>),
    /// To [`Request::Routes`].
    Routes(Routes),
    /// To [`Request::Meters`].
    Meters(Meters),
    /// To [`Request::Why`].
    Why(Box<Why>),
    /// To [`Request::Statement`].
    Statement(Box<Statement>),
    /// To [`Request::Receipts`].
    Receipts(Receipts),
    /// To [`Request::Redeem`].
    Redeemed(RedeemedReceipts),
    /// To [`Request::Close`].
    Closed(Closed),
    /// To [`Request::Wallet`].
    Wallet(Wallet),
    /// To [`Request::Gateway`].
    Gateway(Box<GatewayState>),
    /// To [`Request::Internet`].
    Internet(Box<InternetState>),
    /// To [`Request::Reload`].
    Reloaded(Reloaded),
    /// To [`Request::Shutdown`]: it is begun.
    Done,
    /// To any request: it was not done.
    Failed(Refusal),
}

/// Its name comes first, as daemons write it. Derived code would read the value before the name as well, and be twice as long.
impl<'de> Deserialize<'de> for Response {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ReadResponse)
    }
}

struct ReadResponse;

impl<'de> Visitor<'de> for ReadResponse {
    type Value = Response;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an answer, its name first")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Response, A::Error> {
        use Response as R;
        let name = match map.next_entry::<String, String>()? {
            Some((key, name)) if key == "answer" => name,
            Some(_) | None => return Err(A::Error::custom("an answer has its name first")),
        };
        if name != "done" && map.next_key::<String>()?.as_deref() != Some("value") {
            return Err(A::Error::missing_field("value"));
        }
        let response = match &*name {
            "status" => R::Status(map.next_value()?),
            "neighbours" => R::Neighbours(map.next_value()?),
            "routes" => R::Routes(map.next_value()?),
            "meters" => R::Meters(map.next_value()?),
            "why" => R::Why(map.next_value()?),
            "statement" => R::Statement(map.next_value()?),
            "receipts" => R::Receipts(map.next_value()?),
            "redeemed" => R::Redeemed(map.next_value()?),
            "closed" => R::Closed(map.next_value()?),
            "wallet" => R::Wallet(map.next_value()?),
            "gateway" => R::Gateway(map.next_value()?),
            "internet" => R::Internet(map.next_value()?),
            "reloaded" => R::Reloaded(map.next_value()?),
            "done" => R::Done,
            "failed" => R::Failed(map.next_value()?),
            _ => return Err(A::Error::custom(format_args!("no answer is called `{name}`"))),
        };
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(response)
    }
}

/// The file was read again, and is in effect but for this.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Tables that have changed, and take effect at the next start.
    pub at_next_start: Vec<String>,
}

/// A gateway to the Internet, and its clients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayState {
    /// Where clients find it.
    pub mesh_address: Option<Ipv6Addr>,
    /// The IPv4 prefix that clients have their addresses of.
    pub pool: String,
    /// A network that this router has come to be in, with addresses of the pool.
    #[serde(default)]
    pub clash: Option<String>,
    /// The name servers that clients get.
    pub dns: Vec<IpAddr>,
    /// When it serves; `None`: always.
    pub hours: Option<String>,
    /// Whether it serves at this hour.
    pub open: bool,
    /// Bytes that all clients together may still use; `None`: as many as they like.
    pub left_bytes: Option<u64>,
    /// Whom to tell of abuse.
    pub contact: Option<String>,
    /// What its owner does not carry, as the config file says it.
    #[serde(default)]
    pub refuse: Vec<String>,
    /// Packets since the start that were not carried for that reason; who sent them was told.
    #[serde(default)]
    pub not_carried: u64,
    /// Clients it takes at most.
    pub clients_max: u16,
    /// Handshakes refused since the start, as all places were taken.
    pub turned_away: u64,
    /// Packets refused since the start that would have begun a flow more than a client may have.
    #[serde(default)]
    pub flows_over: u64,
    /// How often the kernel's rules were put back since the start, as another program had taken them away.
    #[serde(default)]
    pub rules_put_back: u64,
    /// Those with a session.
    pub clients: Vec<GatewayClient>,
}

/// A client with a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayClient {
    /// Where it is in the mesh.
    pub mesh_address: Ipv6Addr,
    /// Its IPv4 address inside the session.
    pub ipv4: Ipv4Addr,
    /// Its IPv6 address inside the session.
    pub ipv6: Ipv6Addr,
    /// Seconds since the session began.
    pub since_s: u64,
    /// Seconds since it was heard.
    pub heard_s: u64,
    /// Bytes it sent, IP headers included.
    pub sent_bytes: u64,
    /// Bytes it received, likewise.
    pub received_bytes: u64,
    /// Its account, if it has shown its card.
    #[serde(default)]
    pub account: Option<NodeId>,
    /// Packets it sent from addresses that are not its own.
    pub spoofed_packets: u64,
    /// Packets it sent to where nobody is let: private networks, and the gateway's own.
    #[serde(default)]
    pub forbidden_packets: u64,
    /// Bytes it may still use; `None`: as many as it likes.
    pub left_bytes: Option<u64>,
    /// Why it is not served at present.
    pub refused: Option<String>,
}

/// The way to the Internet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InternetState {
    /// The gateway in use.
    pub in_use: Option<String>,
    /// Why it is this one.
    pub why: String,
    /// Seconds since it is in use.
    pub since_s: Option<u64>,
    /// How often the gateway in use has changed since the start.
    pub changes: u64,
    /// The device packets leave by.
    pub tun: String,
    /// The address of the lease.
    pub ipv4: Option<Ipv4Addr>,
    /// The IPv6 address inside all sessions.
    pub ipv6: Option<Ipv6Addr>,
    /// The gateway's name servers.
    pub dns: Vec<IpAddr>,
    /// The file they are written to.
    pub resolv_conf: String,
    /// All gateways, in the owner's order.
    pub gateways: Vec<InternetGateway>,
}

/// One gateway that may be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InternetGateway {
    /// Its name, or address.
    pub name: String,
    /// Where it is in the mesh.
    pub mesh_address: Ipv6Addr,
    /// What its owner does not carry, if it said so.
    #[serde(default)]
    pub refuse: Vec<String>,
    /// Whether packets take it.
    pub in_use: bool,
    /// Whether it answers.
    pub answers: bool,
    /// Why it does not serve us, if it said so.
    pub refused: Option<String>,
    /// Round-trip time in microseconds.
    pub rtt_us: Option<u64>,
    /// Percent of questions without an answer, of the last 64.
    pub loss_percent: u32,
    /// Base units per GiB of the route to it, where that is known.
    #[serde(with = "text_option")]
    pub price: Option<u64>,
    /// The IPv4 address it gives us.
    pub ipv4: Option<Ipv4Addr>,
    /// Bytes we may still use; `None`: as many as we like, or no answer.
    pub left_bytes: Option<u64>,
    /// When it serves.
    pub hours: Option<String>,
    /// Whom to tell of abuse.
    pub contact: Option<String>,
    /// Bytes sent by it, IP headers included.
    pub sent_bytes: u64,
    /// Bytes received, likewise.
    pub received_bytes: u64,
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The cause, in words.
    pub cause: String,
    /// What to do about it.
    pub next: Option<String>,
}

/// What an amount counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// The token's symbol; empty without a ledger.
    pub symbol: String,
    /// How many of an amount's last digits stand behind the point.
    pub decimals: u8,
}

/// How the router is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The node's name.
    pub name: String,
    /// Its account.
    #[serde(with = "text")]
    pub id: NodeId,
    /// Its address in the mesh.
    pub mesh_address: Ipv6Addr,
    /// Its /48.
    pub prefix: String,
    /// The program's version.
    pub version: String,
    /// Seconds since the daemon started.
    pub uptime_s: u64,
    /// Links over which packets pass.
    pub links_up: u32,
    /// Links configured or accepted.
    pub links: u32,
    /// Prefixes with a selected route.
    pub routes: u32,
    /// What the amounts below count.
    pub unit: Unit,
    /// Owed by us to all providers, not yet signed for.
    #[serde(with = "text")]
    pub owed_by_us: Tokens,
    /// Owed to us by all subscribers, not yet signed for.
    #[serde(with = "text")]
    pub owed_to_us: Tokens,
    /// The most we can lose if every neighbour cheats at once.
    #[serde(with = "text")]
    pub value_at_risk: Tokens,
    /// Packets dropped since the start, by reason; reasons that never happened are left out.
    pub drops: BTreeMap<String, u64>,
    /// Whether the ledger answers; `None` without a ledger.
    pub ledger_reachable: Option<bool>,
    /// What was found against the ledger, if anything was: it has told two stories, and no more tokens are locked on it.
    #[serde(default)]
    pub ledger_distrusted: Option<String>,
    /// Whether it is a member of the community; `None` where only that is no condition.
    #[serde(default)]
    pub membership: Option<MembershipState>,
    /// Whom it leads to the Internet; `None`: it is no gateway.
    #[serde(default)]
    pub gateway: Option<ServerSessions>,
    /// How it is led there itself; `None`: not by gateways.
    #[serde(default)]
    pub internet: Option<ClientSessions>,
    /// What somebody should look at.
    pub warnings: Vec<String>,
}

/// Sessions of others with this router, in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerSessions {
    /// Clients with a session.
    pub clients: u32,
    /// Clients it takes at most.
    pub clients_max: u16,
    /// Those of them that are served at present.
    pub served: u32,
    /// Whether it serves at this hour.
    pub open: bool,
    /// What its owner does not carry.
    #[serde(default)]
    pub refuse: Vec<String>,
}

/// This router's sessions with gateways, in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientSessions {
    /// The gateway in use; `None`: nothing leaves for the Internet.
    pub in_use: Option<String>,
    /// Seconds since it is so.
    pub since_s: Option<u64>,
    /// Gateways that answer and serve.
    pub ready: u32,
    /// Gateways of the owner's list.
    pub gateways: u32,
    /// Where none is in use: which refuse this router, and why.
    #[serde(default)]
    pub refused: Vec<String>,
}

impl From<&GatewayState> for ServerSessions {
    fn from(state: &GatewayState) -> Self {
        let served = state.clients.iter().filter(|client| client.refused.is_none()).count();
        Self {
            clients: state.clients.len() as u32,
            clients_max: state.clients_max,
            served: served as u32,
            open: state.open,
            refuse: state.refuse.clone(),
        }
    }
}

impl From<&InternetState> for ClientSessions {
    fn from(state: &InternetState) -> Self {
        let ready = state.gateways.iter().filter(|gateway| gateway.answers && gateway.refused.is_none()).count();
        let refused = state.gateways.iter().filter(|_| state.in_use.is_none());
        let refused = refused.filter_map(|gateway| Some(format!("{}: {}", gateway.name, gateway.refused.as_ref()?)));
        Self {
            in_use: state.in_use.clone(),
            since_s: state.since_s,
            ready: ready as u32,
            gateways: state.gateways.len() as u32,
            refused: refused.collect(),
        }
    }
}

/// A router's own membership.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipState {
    /// Whether it is a member at present.
    pub member: bool,
    /// When that ends, or ended, in seconds since 1970-01-01 UTC.
    pub until: Option<u64>,
    /// What it waits for, in words.
    pub waits: Option<String>,
}

/// One link to a neighbour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Its name in our config.
    pub name: String,
    /// Its account.
    #[serde(with = "text")]
    pub id: NodeId,
    /// What may carry the link: "wireguard", "quic", or "auto" for QUIC while WireGuard does not pass.
    pub link: String,
    /// What carries it at present: "wireguard" or "quic".
    pub carrier: String,
    /// Where its packets come from at present.
    pub endpoint: Option<String>,
    /// Whether packets pass.
    pub state: LinkState,
    /// What it is to us: "provider", "subscriber" or "peer".
    pub role: String,
    /// Babel's cost of the link; `None` while it is unusable.
    pub cost: Option<u16>,
    /// Round-trip time in microseconds, where it is measured.
    pub rtt_us: Option<u64>,
    /// The longest packet that may be sent to it, bytes.
    pub mtu: usize,
    /// Seconds since anything authentic came from it; `None` if nothing ever did.
    pub last_heard_s: Option<u64>,
    /// Whether its card was checked, so that its packets are relayed.
    pub admitted: bool,
    /// Whether it is no member of the community, and reaches the ledger alone.
    #[serde(default)]
    pub visitor: bool,
    /// Whether it was met, and stands in no config.
    #[serde(default)]
    pub met: bool,
    /// The wires and radios it was found on, the one in use first; empty unless there are several.
    #[serde(default)]
    pub ways: Vec<Way>,
}

/// One of several wires or radios that lead to a neighbour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Way {
    /// Where its packets go by it.
    pub endpoint: String,
    /// Whether the link goes by it at present.
    pub in_use: bool,
    /// The shortest of the last round trips, in microseconds; `None`: it does not answer.
    pub rtt_us: Option<u64>,
    /// Of a thousand questions, how many were not answered lately.
    pub lost_per_mille: u16,
}

/// Whether packets pass over a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkState {
    /// Nothing was heard yet, or not for long.
    Down,
    /// Keys are being agreed.
    Connecting,
    /// Packets pass.
    Up,
}

/// The routing table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Routes {
    /// What the prices count.
    pub unit: Unit,
    /// Each prefix's routes, the selected one first.
    pub routes: Vec<Route>,
}

/// One route to a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where it leads.
    pub prefix: String,
    /// The neighbour it goes through; `None` is this router itself.
    pub via: Option<String>,
    /// Babel's metric; 65535 is unreachable.
    pub metric: u16,
    /// Base units per GiB, in all; `None`: a router on the way does not say, such as one that runs another daemon.
    #[serde(with = "text_option")]
    pub price: Option<u64>,
    /// The router it was announced by, in Babel's notation.
    pub router_id: String,
    /// Whether packets take it.
    pub selected: bool,
}

/// What was carried for whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meters {
    /// What the amounts count.
    pub unit: Unit,
    /// One for each neighbour.
    pub meters: Vec<Meter>,
}

/// The count kept with one neighbour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meter {
    /// Its name in our config.
    pub neighbour: String,
    /// Its account.
    #[serde(with = "text")]
    pub id: NodeId,
    /// What it is to us: "provider", "subscriber" or "peer".
    pub role: String,
    /// Billed bytes we sent it, by our count.
    #[serde(with = "bytes")]
    pub sent_bytes: Bytes,
    /// Billed bytes we received from it, by our count.
    #[serde(with = "bytes")]
    pub received_bytes: Bytes,
    /// Billed bytes it sent us, by its newest report.
    #[serde(with = "bytes_option")]
    pub reported_sent_bytes: Option<Bytes>,
    /// Billed bytes it received from us, by its newest report.
    #[serde(with = "bytes_option")]
    pub reported_received_bytes: Option<Bytes>,
    /// Owed by us and not signed for yet.
    #[serde(with = "text")]
    pub owed_by_us: Tokens,
    /// Owed to us and not signed for yet.
    #[serde(with = "text")]
    pub owed_to_us: Tokens,
    /// Signed for, by whoever of the two pays.
    #[serde(with = "text")]
    pub signed: Tokens,
    /// Receipts signed by us since the daemon started.
    pub receipts_signed: u64,
    /// Receipts of the neighbour found right since the daemon started.
    pub receipts_verified: u64,
    /// The most we can lose to this neighbour.
    #[serde(with = "text")]
    pub value_at_risk: Tokens,
    /// The same for people: "with this neighbour you can lose at most ...".
    pub sentence: String,
}

/// What came of each day with a neighbour, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// What the amounts count.
    pub unit: Unit,
    /// Its name in our config.
    pub neighbour: String,
    /// Its account.
    #[serde(with = "text")]
    pub id: NodeId,
    /// What it is to us: "provider", "subscriber" or "peer".
    pub role: String,
    /// The terms agreed on, or asked; `None` while there are none.
    pub terms: Option<TermsLine>,
    /// Owed to us for agreements that have ended, and shortening its credit until it is worked off.
    #[serde(with = "text")]
    pub arrears: Tokens,
    /// Carried for it on trust at most, at present, in money.
    #[serde(with = "text")]
    pub window: Tokens,
    /// The worst case for people: "with this neighbour you can lose at most ...".
    pub sentence: String,
    /// The days on which anything was counted, newest first.
    pub days: Vec<WhyDay>,
}

/// What was agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TermsLine {
    /// Whether both sides know of them.
    pub agreed: bool,
    /// Base units per GiB of what the payer sends.
    #[serde(with = "text")]
    pub price_up: u64,
    /// Base units per GiB of what the payer receives.
    #[serde(with = "text")]
    pub price_down: u64,
    /// Parts per million that may be lost before it counts as unpaid.
    pub loss_allowance_ppm: u32,
}

/// One day with a neighbour. Bytes are billed bytes, counted while terms were agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyDay {
    /// The day, UTC: "2026-11-26".
    pub day: String,
    /// What we sent, by our count.
    #[serde(with = "bytes")]
    pub sent_bytes: Bytes,
    /// What it received of that, by its report.
    #[serde(with = "bytes")]
    pub reported_received_bytes: Bytes,
    /// What it sent, by its report.
    #[serde(with = "bytes")]
    pub reported_sent_bytes: Bytes,
    /// What we received of that, by our count.
    #[serde(with = "bytes")]
    pub received_bytes: Bytes,
    /// What it signed for.
    #[serde(with = "text")]
    pub earned: Tokens,
    /// What we signed for.
    #[serde(with = "text")]
    pub spent: Tokens,
    /// What it owed when an agreement ended, and did not pay later the same day.
    #[serde(with = "text")]
    pub written_off: Tokens,
    /// What it paid of what was written off on earlier days.
    #[serde(with = "text")]
    pub paid_late: Tokens,
    /// Agreements that began.
    pub agreements: u64,
}

/// What a month came to with each household.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// What was paid counts this.
    pub unit: Unit,
    /// The router's name.
    pub name: String,
    /// Its account.
    #[serde(with = "text")]
    pub id: NodeId,
    /// The month, UTC: "2026-11".
    pub month: String,
    /// Whether the month is over: until then it is what it came to so far.
    pub is_over: bool,
    /// Each neighbour with which anything was counted, by name.
    pub households: Vec<Household>,
}

/// A month with one neighbour. Bytes are billed bytes, counted while terms were agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Household {
    /// Its name in our config, or its id.
    pub neighbour: String,
    /// Its account.
    #[serde(with = "text")]
    pub id: NodeId,
    /// What it is to us at present: "provider", "subscriber", "peer", or "gone".
    pub role: String,
    /// Days on which anything was counted.
    pub days: u32,
    /// What we sent, by our count.
    #[serde(with = "bytes")]
    pub sent_bytes: Bytes,
    /// What it received of that, by its report.
    #[serde(with = "bytes")]
    pub reported_received_bytes: Bytes,
    /// What it sent, by its report.
    #[serde(with = "bytes")]
    pub reported_sent_bytes: Bytes,
    /// What we received of that, by our count.
    #[serde(with = "bytes")]
    pub received_bytes: Bytes,
    /// What it signed for.
    #[serde(with = "text")]
    pub earned: Tokens,
    /// What we signed for.
    #[serde(with = "text")]
    pub spent: Tokens,
    /// What it owed when agreements ended, and has not paid.
    #[serde(with = "text")]
    pub written_off: Tokens,
}

/// The receipts this router holds and has signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipts {
    /// What the amounts count.
    pub unit: Unit,
    /// The newest of each channel.
    pub receipts: Vec<ReceiptLine>,
    /// What is kept for neighbours.
    pub keeping: Vec<KeptLine>,
}

/// The newest receipt of one channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptLine {
    /// The other party's name in our config.
    pub neighbour: String,
    /// The channel it draws on.
    #[serde(with = "channel")]
    pub channel: ChannelId,
    /// Which way the tokens go.
    pub direction: Direction,
    /// The cumulative amount signed.
    #[serde(with = "text")]
    pub amount: Tokens,
    /// How much of it survives a power cut: the amount on disk (for a payer: the ceiling on disk).
    #[serde(with = "text")]
    pub durable: Tokens,
    /// How much of it was redeemed.
    #[serde(with = "text")]
    pub redeemed: Tokens,
    /// What neighbours keep of it, in case this router is away or loses it.
    pub kept_by: Vec<KeptBy>,
    /// Where we are paid: the receipt itself as far as it is on disk, in hexadecimal. Whoever brings it to the ledger
    /// redeems it for us (`waybill ledger redeem`).
    pub receipt: Option<String>,
}

/// What a neighbour keeps of a receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptBy {
    /// Its name in our config.
    pub neighbour: String,
    /// The amount that it has on disk.
    #[serde(with = "text")]
    pub amount: Tokens,
}

/// A receipt kept for a neighbour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptLine {
    /// Whom it pays: the name in our config.
    pub payee: String,
    /// Who signed it: the name in our config, or the account.
    pub payer: String,
    /// The channel it draws on.
    #[serde(with = "channel")]
    pub channel: ChannelId,
    /// The cumulative amount signed.
    #[serde(with = "text")]
    pub amount: Tokens,
    /// Whether it is on our disk.
    pub durable: bool,
    /// The receipt itself, in hexadecimal.
    pub receipt: String,
}

/// Which way the tokens of a channel go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From us to the neighbour.
    WePay,
    /// From the neighbour to us.
    WeArePaid,
}

/// What redeeming brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedeemedReceipts {
    /// What the amounts count.
    pub unit: Unit,
    /// Each receipt that was redeemed.
    pub redeemed: Vec<Redeemed>,
}

/// One redeemed receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redeemed {
    /// The payer's name in our config.
    pub neighbour: String,
    /// Its channel.
    #[serde(with = "channel")]
    pub channel: ChannelId,
    /// What came into our account.
    #[serde(with = "text")]
    pub paid: Tokens,
}

/// How a channel of ours ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closed {
    /// What amounts count.
    pub unit: Unit,
    /// The payee's name in our config.
    pub neighbour: String,
    /// The channel.
    #[serde(with = "channel")]
    pub channel: ChannelId,
    /// What came back, where it has ended.
    #[serde(with = "text_option")]
    pub refunded: Option<Tokens>,
    /// When what is left can come back, in seconds since 1970-01-01 UTC, where notice was given.
    pub notice_until: Option<u64>,
}

/// What the router owns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wallet {
    /// What the amounts count.
    pub unit: Unit,
    /// The community's name.
    pub community: String,
    /// The account.
    #[serde(with = "text")]
    pub account: NodeId,
    /// Free to spend.
    #[serde(with = "text")]
    pub balance: Tokens,
    /// Ours, but locked into channels to providers: deposits less what was redeemed.
    #[serde(with = "text")]
    pub locked_in_channels: Tokens,
    /// Signed for by subscribers, not redeemed yet.
    #[serde(with = "text")]
    pub earned_unredeemed: Tokens,
    /// Every channel we are a party of.
    pub channels: Vec<WalletChannel>,
}

/// One channel on the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalletChannel {
    /// The other party's name in our config, or its id.
    pub neighbour: String,
    /// The channel.
    #[serde(with = "channel")]
    pub channel: ChannelId,
    /// Which way the tokens go.
    pub direction: Direction,
    /// Locked into it, ever.
    #[serde(with = "text")]
    pub deposit: Tokens,
    /// Paid out of it.
    #[serde(with = "text")]
    pub redeemed: Tokens,
    /// Seconds since 1970 after which the payer may take back the rest, if it asked to.
    pub exit_time_s: Option<u64>,
}

/// A number or id as a string, so that no JSON reader rounds it.
mod text {
    use std::fmt::Display;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::FromText;

    pub(super) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, T: FromText, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        let text = String::deserialize(deserializer)?;
        T::from_text(&text).ok_or_else(|| D::Error::custom(format_args!("not {}: {text:?}", T::EXPECTED)))
    }
}

/// What stands in JSON as a string.
trait FromText: Sized {
    const EXPECTED: &'static str;
    fn from_text(text: &str) -> Option<Self>;
}

impl FromText for NodeId {
    const EXPECTED: &'static str = "an account";
    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl FromText for Tokens {
    const EXPECTED: &'static str = "an amount in base units";
    fn from_text(text: &str) -> Option<Self> {
        Self::parse_decimal(text, 0).ok()
    }
}

impl FromText for u64 {
    const EXPECTED: &'static str = "a price in base units per GiB";
    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

mod bytes {
    use metering::Bytes;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(value.get())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        u64::deserialize(deserializer).map(Bytes::new)
    }
}

mod text_option {
    use super::FromText;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
    use std::fmt::Display;

    pub(super) fn serialize<T: Display, S: Serializer>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        value.as_ref().map(ToString::to_string).serialize(serializer)
    }

    pub(super) fn deserialize<'de, T: FromText, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        let value = |text: String| {
            T::from_text(&text).ok_or_else(|| de::Error::custom(format_args!("not {}: {text:?}", T::EXPECTED)))
        };
        text.map(value).transpose()
    }
}

mod bytes_option {
    use metering::Bytes;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Option<Bytes>, serializer: S) -> Result<S::Ok, S::Error> {
        value.map(Bytes::get).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Bytes>, D::Error> {
        Option::<u64>::deserialize(deserializer).map(|count| count.map(Bytes::new))
    }
}

mod channel {
    use metering::{ChannelId, NodeId};
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct Channel {
        #[serde(with = "super::text")]
        payer: NodeId,
        #[serde(with = "super::text")]
        payee: NodeId,
        #[serde(with = "super::text")]
        nonce: u64,
    }

    pub(super) fn serialize<S: Serializer>(value: &ChannelId, serializer: S) -> Result<S::Ok, S::Error> {
        Channel { payer: value.payer, payee: value.payee, nonce: value.nonce }.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ChannelId, D::Error> {
        let Channel { payer, payee, nonce } = Channel::deserialize(deserializer)?;
        Ok(ChannelId { payer, payee, nonce })
    }
}

/// Why there is no control socket to serve.
#[derive(Debug, Error)]
pub enum BindError {
    /// Another daemon answers on it.
    #[error("another waybill is running: it answers on {}", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket stands in its place.
    #[error("{} is not a socket", path.display())]
    NotASocket {
        /// What stands there.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot open the control socket {}: {}", path.display(), plain(cause))]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the operating system said.
        cause: io::Error,
    },
}

impl BindError {
    /// What the owner can do about it.
    pub fn next_step(&self) -> String {
        match self {
            Self::InUse { .. } => {
                "stop it first, or give this one another control_socket, key_file and state_dir in [node]".to_owned()
            }
            Self::NotASocket { .. } => "move it away, or set another control_socket in [node]".to_owned(),
            Self::Io { .. } => "run as root, or set a control_socket in [node] that this user may create".to_owned(),
        }
    }
}

impl From<BindError> for Failure {
    fn from(error: BindError) -> Self {
        Self::new(&error, error.next_step())
    }
}

/// The daemon's end of the control socket. Dropping it removes the socket from the file system.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl ControlSocket {
    /// Opens the socket: mode 0600, in a directory made with mode 0750 where it is missing.
    ///
    /// A socket left behind by a daemon that was killed is replaced.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let io_error = |cause| BindError::Io { path: path.to_owned(), cause };
        if let Some(directory) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o750).create(directory).map_err(io_error)?;
        }
        refuse_what_is_in_use(path)?;
        // Made beside its place and moved there closed: nobody else can connect to it at any moment.
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(".new");
        let fresh = PathBuf::from(fresh);
        let _ = fs::remove_file(&fresh);
        let listener = UnixListener::bind(&fresh).map_err(io_error)?;
        let moved = fs::set_permissions(&fresh, Permissions::from_mode(0o600))
            .and_then(|()| fs::metadata(&fresh))
            .and_then(|metadata| fs::rename(&fresh, path).map(|()| metadata.ino()));
        match moved {
            Ok(inode) => Ok(Self { listener, path: path.to_owned(), inode }),
            Err(cause) => {
                let _ = fs::remove_file(&fresh);
                Err(io_error(cause))
            }
        }
    }

    /// Answers clients until the future is dropped. To be called inside a tokio runtime with I/O and time.
    ///
    /// `handle` is called with one request at a time per client, for up to 16 clients at once.
    ///
    /// # Errors
    /// When the socket cannot be handed to the runtime. A client's errors end that client only.
    pub async fn serve<H, F>(&self, handle: H) -> io::Result<()>
    where
        H: Fn(Request) -> F + Send + Sync + 'static,
        F: Future<Output = Response> + Send,
    {
        let listener = self.listener.try_clone()?;
        listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        let handle = Arc::new(handle);
        let places = Arc::new(Semaphore::new(CLIENTS_MAX));
        let mut clients = tokio::task::JoinSet::new(); // aborts its tasks when it is dropped
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return Ok(());
            };
            while clients.try_join_next().is_some() {}
            match listener.accept().await {
                Ok((stream, _)) => {
                    let handle = Arc::clone(&handle);
                    clients.spawn(async move {
                        let _ = converse(stream, &*handle).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the control socket accepts no client");
                    tokio::time::sleep(Duration::from_millis(100)).await; // out of file descriptors: wait for some
                }
            }
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn refuse_what_is_in_use(path: &Path) -> Result<(), BindError> {
    use std::os::unix::fs::FileTypeExt;
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => {
            return Err(BindError::Io { path: path.to_owned(), cause });
        }
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(BindError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match connect(path, PATIENCE) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()), // nobody listens: left behind
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(BindError::Io { path: path.to_owned(), cause: error })
        }
        Ok(_) | Err(_) => Err(BindError::InUse { path: path.to_owned() }),
    }
}

/// Answers one client until it hangs up, thinks too long or sends what is no request.
async fn converse<H, F>(stream: tokio::net::UnixStream, handle: &H) -> io::Result<()>
where
    H: Fn(Request) -> F,
    F: Future<Output = Response>,
{
    let (read, mut write) = stream.into_split();
    let mut read = tokio::io::BufReader::new(read);
    loop {
        let mut line = Vec::new();
        let mut bounded = (&mut read).take(REQUEST_LEN_MAX);
        let Ok(result) = timeout(IDLE, bounded.read_until(b'\n', &mut line)).await else {
            return Ok(());
        };
        if result? == 0 {
            return Ok(());
        }
        let request = parse_request(&line);
        let hang_up = request.is_err();
        let response = match request {
            Ok(request) => handle(request).await,
            Err(refusal) => Response::Failed(refusal),
        };
        let mut answer = serde_json::to_vec(&response)?;
        answer.push(b'\n');
        if timeout(PATIENCE, write.write_all(&answer)).await.is_err() || hang_up {
            return Ok(());
        }
    }
}

fn parse_request(line: &[u8]) -> Result<Request, Refusal> {
    let cause = if line.last() == Some(&b'\n') {
        match serde_json::from_slice(line) {
            Ok(request) => return Ok(request),
            Err(error) => format!("this is no request: {error}"),
        }
    } else {
        "this is no request: a line of at most 65,536 bytes was expected".to_owned()
    };
    Err(Refusal { cause, next: Some("write one JSON object per line, such as {\"request\":\"status\"}".to_owned()) })
}

/// Why a daemon gave no answer.
#[derive(Debug, Error)]
pub enum AskError {
    /// Nobody listens.
    #[error("no waybill is running at {}", path.display())]
    NotRunning {
        /// The socket.
        path: PathBuf,
    },
    /// The socket belongs to somebody else.
    #[error("this user may not talk to the waybill at {}", path.display())]
    NotAllowed {
        /// The socket.
        path: PathBuf,
    },
    /// Nothing came in time.
    #[error("the waybill at {} does not answer", path.display())]
    NoAnswer {
        /// The socket.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot talk to the waybill at {}: {}", path.display(), plain(cause))]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the operating system said.
        cause: io::Error,
    },
    /// What came is no answer to the question.
    #[error("the waybill at {} gave an answer this program does not understand", path.display())]
    NotUnderstood {
        /// The socket.
        path: PathBuf,
    },
    /// The daemon says no.
    #[error("{}", refusal.cause)]
    Refused {
        /// In the daemon's words.
        refusal: Refusal,
    },
}

impl AskError {
    fn from_io(path: &Path, cause: io::Error) -> Self {
        use io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied, TimedOut, WouldBlock};
        let path = path.to_owned();
        let is = |kinds: &[io::ErrorKind]| kinds.contains(&cause.kind());
        if is(&[NotFound, ConnectionRefused]) {
            Self::NotRunning { path }
        } else if is(&[PermissionDenied]) {
            Self::NotAllowed { path }
        } else if is(&[WouldBlock, TimedOut]) {
            Self::NoAnswer { path }
        } else {
            Self::Io { path, cause }
        }
    }

    /// What the person can do about it.
    pub fn next_step(&self) -> String {
        match self {
            Self::NotRunning { .. } => {
                "start it with `waybill up --config FILE`, or name its socket with --socket PATH".to_owned()
            }
            Self::NotAllowed { .. } => "run this as the user the daemon runs as (usually root)".to_owned(),
            Self::NoAnswer { .. } => {
                "it may be starting, stopping or overloaded: try again, then read its log".to_owned()
            }
            Self::Io { .. } => "name the socket with --socket PATH".to_owned(),
            Self::NotUnderstood { .. } => "the daemon may be of another version: restart it".to_owned(),
            Self::Refused { refusal } => refusal.next.clone().unwrap_or_default(),
        }
    }
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        Self::new(&error, error.next_step())
    }
}

/// Asks the daemon at the socket. Blocks for five seconds at most for each step; [`Request::Redeem`] and [`Request::Close`]
/// for a minute.
///
/// # Errors
/// See [`AskError`]; [`Response::Failed`] is turned into [`AskError::Refused`].
pub fn ask(path: &Path, request: &Request) -> Result<Response, AskError> {
    let with_ledger = matches!(request, Request::Redeem { .. } | Request::Close { .. });
    let patience = if with_ledger { PATIENCE_WITH_LEDGER } else { PATIENCE };
    ask_within(patience, path, request)
}

fn ask_within(patience: Duration, path: &Path, request: &Request) -> Result<Response, AskError> {
    let fail = |cause| AskError::from_io(path, cause);
    let mut stream = connect(path, patience).map_err(fail)?;
    let mut line = serde_json::to_vec(request).map_err(|error| fail(error.into()))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(fail)?;
    let mut answer = Vec::new();
    BufReader::new(stream.take(ANSWER_LEN_MAX)).read_until(b'\n', &mut answer).map_err(fail)?;
    match serde_json::from_slice(&answer) {
        Ok(Response::Failed(refusal)) => Err(AskError::Refused { refusal }),
        Ok(response) => Ok(response),
        Err(_) if answer.is_empty() => Err(AskError::NoAnswer { path: path.to_owned() }),
        Err(_) => Err(AskError::NotUnderstood { path: path.to_owned() }),
    }
}

/// Connects, and waits no longer than `patience` for this and any later step. Linux applies the write timeout to a
/// listener whose backlog is full, too.
fn connect(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    socket.set_write_timeout(Some(patience))?;
    socket.set_read_timeout(Some(patience))?;
    socket.connect(&socket2::SockAddr::unix(path)?)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests;
