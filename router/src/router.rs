//! A running router: what `waybill up` starts once and `waybill demo` several times.
//!
//! ```text
//!                 FIB, control packets
//!   worker thread <--------------------  control task  <---- requests (control socket, demo)
//!   (worker.rs)   -------------------->  (control.rs's answers, node::Node)
//!        ^          control packets        |        ^
//!        | packets                         | jobs   | what was done
//!   QUIC tasks                             v        |
//!   (link/quic.rs)                    journal desk, ledger desk (threads)
//! ```
//!
//! The control task owns the [`Node`]; everybody else talks to it by bounded channels. It waits, hands in, drains,
//! sends. Nothing in it blocks: the journal and the ledger sit at desks of their own.

mod answers;

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ledger_client::Ledger;
use metering::exchange::{self, Alarm};
use metering::{
    ChannelId, ChannelState, Counts, Identity, LedgerDomain, Limits, NodeId, Offer, Price, Receipt, Restored, Side,
    Tokens, mesh_address,
};
use node::datapath::{Fib, MAX_LINKS};
use node::{Event, LinkId, Node, Peer, Prefix};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

use crate::config::{self, LinkKind, Role, RoutingOptions};
use crate::control::{Request, Response, Unit};
use crate::desk::{Desk, Overrun};
use crate::journal::{Journal, JournalError, Opened, Record};
use crate::link::LinkStatus;
use crate::link::wireguard::{PeerConfig, WireGuard};
use crate::worker::{self, FromWorker, Inbox, Mailbox, Shared, ToWorker, WorkerHandle};

/// How often meters and link states are read: at 2 Gb/s, 12 MB pass between two looks, a fifth of the default window.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Control packets from the worker that wait for the control task. Beyond it they are dropped and counted.
const CONTROL_QUEUE: usize = 1024;
/// Requests and answers of desks that wait for the control task.
const QUEUE: usize = 256;
/// How long after a failed write or ledger call it is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// How often the totals per neighbour are written. They are for people; money never rests on them.
const TOTALS_INTERVAL: Duration = Duration::from_secs(300);
/// How often host names of links that are down are looked up again.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(30);
/// Warnings kept for `waybill status`.
const WARNINGS_MAX: usize = 16;

/// What a router is made of.
pub struct Setup {
    /// What people call it.
    pub name: String,
    /// Its keys.
    pub identity: Identity,
    /// Where the journal is.
    pub state_dir: PathBuf,
    /// The largest IP packet inside the mesh, bytes.
    pub mtu: u16,
    /// Prefixes announced besides the own /48.
    pub announce: Vec<Prefix>,
    /// The UDP address of WireGuard links.
    pub wireguard: SocketAddr,
    /// The UDP address of QUIC links.
    pub quic: Option<SocketAddr>,
    /// Babel's intervals.
    pub routing: RoutingOptions,
    /// Its neighbours and leaves.
    pub links: Links,
    /// What is paid.
    pub money: Money,
    /// Where tokens are; without one nothing is paid.
    pub ledger: Option<Box<dyn Ledger>>,
    /// The TUN, or a host's port.
    pub local: OwnedFd,
}

/// Neighbours and leaves, as configured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Links {
    /// Neighbours.
    pub peers: Vec<config::Peer>,
    /// Stock WireGuard clients.
    pub leaves: Vec<config::Leaf>,
}

/// What is asked, paid and locked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Money {
    /// What amounts count.
    pub unit: Unit,
    /// The ledger receipts are signed for.
    pub domain: LedgerDomain,
    /// Asked of subscribers.
    pub offer: Offer,
    /// Paid to providers at most.
    pub limits: Limits,
    /// Locked into a new channel.
    pub deposit: Tokens,
    /// Redeemed unasked from this much on.
    pub redeem_at: Tokens,
}

/// Why a router does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The WireGuard socket cannot be had.
    #[error("cannot listen on UDP {address} for WireGuard links: {cause}")]
    WireGuard {
        /// What was asked for.
        address: SocketAddr,
        /// The system's answer.
        cause: io::Error,
    },
    /// QUIC links cannot start.
    #[cfg(feature = "quic")]
    #[error(transparent)]
    Quic(#[from] crate::link::quic::QuicError),
    /// The journal cannot be opened.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The state directory cannot be made.
    #[error("cannot make the state directory {}: {cause}", path.display())]
    StateDir {
        /// The directory.
        path: PathBuf,
        /// The system's answer.
        cause: io::Error,
    },
    /// The system gives no thread or no event queue.
    #[error("cannot start a worker: {0}")]
    Worker(io::Error),
    /// There is room for 128 links.
    #[error("{links} links are configured; a router has at most {MAX_LINKS}")]
    TooManyLinks {
        /// How many.
        links: usize,
    },
}

/// What the owner is told.
type Asked = (Request, oneshot::Sender<Response>);

/// A running router. [`Router::stop`] ends it in order, [`Router::kill`] as a power cut would.
pub struct Router {
    requests: mpsc::Sender<Asked>,
    reloads: mpsc::Sender<Links>,
    fib: watch::Receiver<Arc<Fib>>,
    stop: watch::Sender<bool>,
    control: tokio::task::JoinHandle<()>,
    worker: WorkerHandle,
    desks: Vec<JoinHandle<()>>,
    wireguard_addr: SocketAddr,
    quic_addr: Option<SocketAddr>,
    address: Ipv6Addr,
}
