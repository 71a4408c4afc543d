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
mod budget;
pub(crate) mod clock;
mod closing;
#[cfg(feature = "quic")]
mod fallback;
mod history;
mod keeping;
mod links;
mod members;
mod money;
mod registry;
mod statement;
mod strangers;
#[cfg(test)]
mod stub;
mod whence;
mod witness;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ledger_client::{Channel, Comparison, Ledger, Note};
use metering::exchange;
use metering::{
    ChannelId, ChannelState, Counts, Identity, LedgerDomain, Limits, NodeId, Offer, Price, Receipt, Restored, Snapshot,
    SortedMap, SortedSet, Standing, Tokens,
};
use node::admission::Proven;
use node::datapath::{Fib, LinkCount, MAX_LINKS, Service};
use node::{Access, Event, LinkId, Node, Policy, Prefix, PriceWeight, Prices};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

use crate::carrier::Carrier;
use crate::config::{self, Endpoint, LinkKind, RoutingOptions};
use crate::control::{Refusal, Request, Response, Unit};
use crate::desk::{Desk, DeskThread, Urgency};
use crate::journal::{Journal, JournalError, Opened, Record, Totals};
use crate::link::LinkStatus;
use crate::link::wireguard::WireGuard;
use crate::look_up::LookUps;
use crate::tun::Local;
use crate::worker::{self, FromWorker, Inbox, Mailbox, Shared, ToWorker, WorkerHandle};
use budget::{Budget, News, Span};
use closing::{Closing, Ending};
use history::{DAYS_KEPT, History};
use keeping::{Keeping, Unredeemed, Watched};
use members::{Members, Told};
use money::Redemption;
use registry::Registry;
use strangers::Origin;
use witness::Witness;

pub use budget::BudgetLimits;
pub(crate) use history::{civil, moment, unix_seconds};
#[cfg(feature = "ledger-remote")]
pub(crate) use members::ENROLMENT;
pub use members::Guests;
#[cfg(feature = "ledger-remote")]
pub(crate) use registry::CLAIM;
pub use registry::Registered;
pub(crate) use registry::kept;
pub use strangers::Found;

/// How often meters and link states are read: at 2 Gb/s, 12 MB pass between two looks, a fifth of the default window.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Control packets from the worker that wait for the control task. Beyond it they are dropped and counted.
const CONTROL_QUEUE: usize = 1024;
/// Requests and answers of desks that wait for the control task.
const QUEUE: usize = 256;
/// Neighbours that were found and wait for the control task.
const FOUND_QUEUE: usize = 32;
/// How long after a failed ledger call it is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// How long after a failed write of the journal it is tried again. Until it succeeds, nothing that was received since counts
/// as paid: at 1 Gb/s a default window of credit lasts half a second.
const WRITE_AGAIN: Duration = Duration::from_secs(1);
/// How often the totals per neighbour are written. They are for people; money never rests on them.
const TOTALS_INTERVAL: Duration = Duration::from_secs(300);
/// How often it is looked whether somebody owes clearly more than the journal knows.
const STANDINGS_LOOK: Duration = Duration::from_secs(2);
/// How often that may be written: by neighbours that owe more and more the flash is worn by 6 MiB a day at most, and some
/// writes may come together.
const STANDINGS_INTERVAL: Duration = Duration::from_secs(120);
const STANDINGS_BURST: u32 = 5;
/// How often the days' sums are brought up to date: a day ends as exactly.
const HISTORY_INTERVAL: Duration = Duration::from_secs(60);
/// How often the ledger is asked for the channels that pay us: a payer that leaves gives days of notice.
const CHANNELS_INTERVAL: Duration = Duration::from_secs(600);
/// How often all receipts are redeemed, however little they are worth: what a channel holds is safest in the account.
const REDEEM_INTERVAL: Duration = Duration::from_secs(86_400);
/// When that is done first: a router that is switched off each night redeems too.
const REDEEM_FIRST: Duration = Duration::from_secs(600);
/// How often host names of links that are down are looked up again.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(30);
/// A WireGuard neighbour unheard for this long may have restarted without our endpoint: it is called anew. Babel takes
/// it for lost by then (2 of 3 Hellos).
const SILENCE: Duration = Duration::from_secs(3);
/// The same for somebody else's daemon: babeld and BIRD send a Hello each 4 s.
const FOREIGN_SILENCE: Duration = Duration::from_secs(15);
/// How long two neighbours that cannot do business are waited for before the operator is told: the neighbour repeats what does not
/// fit each 5 s.
const MISFIT_TIME: Duration = Duration::from_secs(15);
/// How often it is called.
const RENEW_INTERVAL: Duration = Duration::from_secs(2);
/// Warnings kept for `waybill status`.
const WARNINGS_MAX: usize = 16;

/// How long a job at the ledger's desk may take: locking tokens takes some fifteen answers, and to each belongs the patience of
/// [`ledger_client::Served`]. What can wait is asked in pieces of a few answers, and one of them may hold up what is urgent.
const URGENT_JOB: Duration = Duration::from_secs(300);
const PATIENT_JOB: Duration = Duration::from_secs(120);
/// How long a whole round of pieces may take. What it did not come to is left to the next one.
const ROUND: Duration = Duration::from_secs(1800);
/// How long a router that stops waits for the ledger, and then for what it told to be written.
const LEDGER_STOPS: Duration = Duration::from_secs(3);
const LAST_WRITES: Duration = Duration::from_secs(1);

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
    /// Whether only members of the community are carried for, and any member may link.
    pub members_only: bool,
    /// What those who are none may reach: where the ledger is served.
    pub open: Vec<Service>,
    /// What is paid.
    pub money: Money,
    /// Where tokens are; without one nothing is paid.
    pub ledger: Option<Box<dyn Ledger>>,
    /// The TUN, or a host's port.
    pub local: Local,
    /// Whether the kernel is handed many datagrams at once where it can take them.
    pub offloads: bool,
    /// Threads that carry packets, 1 to [`WORKERS_MAX`].
    pub workers: usize,
    /// Who looks up names of neighbours where the system's own way to do so needs the links; `None`: the system.
    pub look_ups: Option<LookUps>,
    /// Who wants to use this router's gateway.
    pub guests: Arc<Guests>,
    /// Where the community's names are answered, by what its ledger says; `None`: nowhere.
    pub names: Option<Registered>,
}

/// More gain nothing: the own side is read by one.
pub const WORKERS_MAX: usize = 4;

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
    /// Asked of subscribers; its prices only where there is no `fee`.
    pub offer: Offer,
    /// Asked of subscribers on top of what the own way out of the mesh costs.
    pub fee: Option<Price>,
    /// Paid to providers at most.
    pub limits: Limits,
    /// Spent at most.
    pub budget: BudgetLimits,
    /// Locked into a new channel.
    pub deposit: Tokens,
    /// Redeemed unasked from this much on.
    pub redeem_at: Tokens,
    /// Whether neighbours keep copies of our receipts, and we of theirs; only with a ledger.
    pub watch: bool,
    /// What one more hop may cost per GiB to be worth taking; zero: prices choose no routes.
    /// In base units; routing counts prices in 32 bits.
    pub hop_worth: u32,
}

impl Money {
    /// How prices take part in choosing routes.
    fn policy(&self) -> Policy {
        let weight =
            NonZeroU32::new(self.hop_worth).map_or(PriceWeight::NONE, |per| PriceWeight { metric: HOP_METRIC, per });
        // Routing counts prices in 32 bits: the highest stands for all that are higher.
        let price_max = node::Price::new(u32::try_from(self.limits.max_price.get()).unwrap_or(u32::MAX));
        Policy { weight, price_max, ..Policy::default() }
    }

    fn prices(&self) -> Prices {
        Prices { offer: self.offer, fee: self.fee, limits: self.limits }
    }
}

/// Babel's cost of a link as it is by default.
const HOP_METRIC: u16 = 96;

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
    /// QUIC links are configured, and this program was built without.
    #[error("this build has no QUIC links")]
    NoQuic,
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

/// A request and where its answer goes.
type Asked = (Request, oneshot::Sender<Response>);
type LedgerDesk = Desk<Box<dyn Ledger>>;

/// Other neighbours and leaves, other prices where there are any, and whom to tell when they are taken.
type Reload = (Links, Option<Money>, oneshot::Sender<()>);

/// A running router. [`Router::stop`] ends it in order, [`Router::kill`] as a power cut would.
pub struct Router {
    requests: mpsc::Sender<Asked>,
    reloads: mpsc::Sender<Reload>,
    found: mpsc::Sender<Found>,
    fib: watch::Receiver<Arc<Fib>>,
    endpoints: watch::Receiver<SortedSet<IpAddr>>,
    stop: watch::Sender<bool>,
    control: tokio::task::JoinHandle<()>,
    worker: WorkerHandle,
    journal: DeskThread,
    ledger: Option<DeskThread>,
    wireguard_addr: SocketAddr,
    quic_addr: Option<SocketAddr>,
    address: Ipv6Addr,
    boot: u64,
}

impl Router {
    /// Starts the worker, the links and the control task. To be called inside a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left running then.
    pub async fn start(setup: Setup) -> Result<Self, StartError> {
        let now = clock();
        let links = setup.links.peers.len() + setup.links.leaves.len();
        if links > MAX_LINKS {
            return Err(StartError::TooManyLinks { links });
        }
        std::fs::create_dir_all(&setup.state_dir)
            .map_err(|cause| StartError::StateDir { path: setup.state_dir.clone(), cause })?;
        let (mut journal, opened) = Journal::open(&setup.state_dir.join("journal.sqlite"), &setup.money.domain)?;
        let boot = journal.next_boot()?;
        let secret = *setup.identity.wireguard_secret();
        let packet_len_max = worker::packet_len_max(setup.mtu.into());
        let wireguard = WireGuard::bind(secret, setup.wireguard, packet_len_max, setup.offloads, setup.workers, now)
            .map_err(|cause| StartError::WireGuard { address: setup.wireguard, cause })?;
        let wireguard_addr = wireguard.first().map_or(Ok(setup.wireguard), WireGuard::local_addr);
        let wireguard_addr = wireguard_addr.map_err(StartError::Worker)?;
        let node = Node::new(
            now,
            &setup.identity,
            node::Config {
                boot,
                // If the journal was lost and counts again, the random half tells the runs apart.
                session: boot << 32 | u64::from(fastrand::u32(..)),
                announce: setup.announce,
                hello_interval: setup.routing.hello_interval,
                update_interval: setup.routing.update_interval,
                policy: setup.money.policy(),
                prices: setup.money.prices(),
                domain: setup.money.domain,
                watch: setup.money.watch && setup.ledger.is_some(),
                open: setup.open,
                seed: fastrand::u64(..),
            },
        );
        let address = node.address();
        let shared = Arc::new(Shared::new());
        let mailbox = Mailbox::new().map_err(StartError::Worker)?;
        let inbox = mailbox.inbox.clone();
        let (control_sender, from_worker) = mpsc::channel(CONTROL_QUEUE);
        let callers = control_sender.clone();
        let parts = worker::Parts {
            wireguard,
            local: setup.local,
            local_mtu: setup.mtu.into(),
            address,
            link_ports: std::iter::once(wireguard_addr).chain(setup.quic).map(|at| at.port()).collect(),
            control: control_sender,
            meets_strangers: setup.members_only,
            shared: Arc::clone(&shared),
        };
        let worker = worker::start(&setup.name, mailbox, parts).map_err(StartError::Worker)?;
        let (totals, standings) = (journal.totals().collect(), journal.standings().collect());
        let history = History::new(history::today(), journal.days());
        let spent = journal.days().map(|(day, _, line)| (day, line.spent));
        let budget = Budget::new(setup.money.budget, history::today(), spent);
        let notice_s = setup.ledger.as_ref().map_or(0, |ledger| ledger.genesis().close_notice_s());
        let keeping = Keeping::new(now, notice_s, journal.kept().copied());
        let found = setup.ledger.as_ref().and_then(|ledger| ledger.found());
        let clock_look = clock::Look::open(now, &setup.state_dir);
        let members = Members::open(now, setup.identity.node_id(), &setup.state_dir, setup.members_only);
        members.remind(&setup.guests);
        let server = (setup.name.clone(), address);
        let registry = Registry::open(now, setup.names, server, &setup.state_dir);
        let witness = Witness::new(now, setup.identity.node_id(), &setup.identity.tls_secret(), found);
        let (journal, journal_thread) = Desk::start("journal", journal).map_err(StartError::Worker)?;
        let start = |ledger| Desk::start_with("ledger", ledger, bound_job);
        let (ledger, ledger_thread) = setup.ledger.map(start).transpose().map_err(StartError::Worker)?.unzip();
        let (requests, asked) = mpsc::channel(QUEUE);
        let (reloads, reloaded) = mpsc::channel(1);
        let (found_sender, found) = mpsc::channel(FOUND_QUEUE);
        let (done, finished) = mpsc::channel(QUEUE);
        let (fib_sender, fib) = watch::channel(Arc::clone(node.fib()));
        let (endpoints_sender, endpoints) = watch::channel(SortedSet::new());
        let (stop, stopping) = watch::channel(false);
        let mut control = Control {
            name: setup.name,
            look_ups: setup.look_ups.map(Arc::new),
            guests: setup.guests,
            started: now,
            node,
            shared,
            inbox,
            mtu: setup.mtu.into(),
            identity: setup.identity,
            quic_listen: setup.quic,
            #[cfg(feature = "quic")]
            hello_interval: setup.routing.hello_interval,
            money: setup.money,
            links: SortedMap::new(),
            turns: 0,
            totals,
            journal,
            ledger,
            ledger_reachable: None,
            done,
            fib: fib_sender,
            endpoints: endpoints_sender,
            warnings: VecDeque::new(),
            redemptions: Vec::new(),
            closings: Vec::new(),
            retired: SortedMap::new(),
            resolve_at: now,
            totals_at: now + TOTALS_INTERVAL,
            standings,
            standings_at: now + STANDINGS_LOOK,
            standings_paid_until: now,
            history,
            history_at: now + HISTORY_INTERVAL,
            clock_look,
            budget,
            keeping,
            witness,
            members,
            comers: strangers::Comers::new(now),
            registry,
            channels_at: now + CHANNELS_INTERVAL,
            redeem_at: now + REDEEM_FIRST,
            carrier: Carrier::watch().ok(),
        };
        if opened != Opened::Restored {
            control.doubt_channels();
        }
        if let Opened::SetAside { to, why } = opened {
            control.warn(format!("the journal was damaged ({why}) and set aside as {}", to.display()));
        }
        if let Some(found) = control.witness.found() {
            control.say_evidence(&found);
        }
        let quic_addr = match control.start_quic(callers) {
            Ok(address) => address,
            Err(error) => {
                worker.stop();
                return Err(error);
            }
        };
        control.set_links(now, setup.links);
        control.look_at_unredeemed();
        control.drain(now);
        let control = tokio::spawn(control.run(Inputs { from_worker, asked, reloaded, found, finished, stopping }));
        let (journal, ledger) = (journal_thread, ledger_thread);
        Ok(Self {
            requests,
            reloads,
            found: found_sender,
            fib,
            endpoints,
            stop,
            control,
            worker,
            journal,
            ledger,
            wireguard_addr,
            quic_addr,
            address,
            boot,
        })
    }

    /// Where WireGuard links are served.
    pub fn wireguard_addr(&self) -> SocketAddr {
        self.wireguard_addr
    }

    /// Where QUIC links are served, if they are.
    pub fn quic_addr(&self) -> Option<SocketAddr> {
        self.quic_addr
    }

    /// How often this router has started, by its journal.
    pub fn boot(&self) -> u64 {
        self.boot
    }

    /// The node's address in the mesh.
    pub fn address(&self) -> Ipv6Addr {
        self.address
    }

    /// The forwarding table, as it changes.
    pub fn fib(&self) -> watch::Receiver<Arc<Fib>> {
        self.fib.clone()
    }

    /// Where neighbours are reached below the mesh, as it changes: packets to there must not be sent into the mesh.
    pub fn endpoints(&self) -> watch::Receiver<SortedSet<IpAddr>> {
        self.endpoints.clone()
    }

    /// For whoever finds neighbours below the mesh. Only their cards' signatures are to have been checked.
    pub fn found(&self) -> mpsc::Sender<Found> {
        self.found.clone()
    }

    /// For asking requests from elsewhere: the control socket's server.
    pub fn asker(&self) -> Asker {
        Asker(self.requests.clone())
    }

    /// Answers a request.
    pub async fn ask(&self, request: Request) -> Response {
        self.asker().ask(request).await
    }

    /// Takes other neighbours and leaves, and other prices and budgets where there are any, and returns when it has; links that
    /// did not change go on.
    pub async fn reload(&self, links: Links, money: Option<Money>) {
        let (done, taken) = oneshot::channel();
        // The control task is gone only when the router is stopping.
        if self.reloads.send((links, money, done)).await.is_ok() {
            let _stopping = taken.await;
        }
    }

    /// Ends the router in order: what is signed is settled and written, and everything it made is gone afterwards.
    ///
    /// A ledger that does not answer is waited for a few seconds. Then its thread is left behind with the question it has asked:
    /// what it is told by then is not written down. That is as if the power had gone while it was asked, which ledger and journal
    /// stand: an order is on disk before it is sent, and what was redeemed the ledger says again.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.control.await {
            tracing::error!(%error, "the control task had failed");
        }
        Self::join(self.worker, self.journal, self.ledger).await;
    }

    /// Ends the router as a power cut would: nothing is settled, nothing more is written. QUIC still tells its peers,
    /// unless the runtime the router was started in is shut down first.
    pub async fn kill(self) {
        self.control.abort();
        // An aborted task ends with an error, which is what was asked for.
        let _aborted = self.control.await;
        self.worker.close_quic();
        Self::join(self.worker, self.journal, self.ledger).await;
    }

    async fn join(worker: WorkerHandle, journal: DeskThread, ledger: Option<DeskThread>) {
        let _stopped = tokio::task::spawn_blocking(move || worker.stop()).await;
        if !end_desks(journal, ledger).await {
            tracing::error!("a desk had panicked");
        }
    }
}

/// Ends the desks: the ledger's first, as what it answers is written down. Whether both ended in order, or the ledger's not at all.
async fn end_desks(mut journal: DeskThread, ledger: Option<DeskThread>) -> bool {
    let mut in_order = true;
    if let Some(mut ledger) = ledger {
        ledger.close();
        match ledger.ended(LEDGER_STOPS).await {
            Some(ended) => in_order = ended,
            None => {
                tracing::warn!("the ledger does not answer: the router stops without");
                ledger.abandon();
            }
        }
    }
    if journal.ended(LAST_WRITES).await.is_none() {
        journal.close();
    }
    journal.join().await && in_order
}

/// Each job at the ledger's desk has a bound, whatever it asks.
fn bound_job(ledger: &mut Box<dyn Ledger>, urgency: Urgency) {
    ledger.within(match urgency {
        Urgency::Urgent => URGENT_JOB,
        Urgency::CanWait => PATIENT_JOB,
    });
}

/// Asks a router; clonable, for any task.
#[derive(Clone)]
pub struct Asker(mpsc::Sender<Asked>);

impl Asker {
    /// Answers a request.
    pub async fn ask(&self, request: Request) -> Response {
        let (answer, answered) = oneshot::channel();
        if self.0.send((request, answer)).await.is_ok()
            && let Ok(response) = answered.await
        {
            return response;
        }
        Response::Failed(Refusal { cause: "the router is stopping".to_owned(), next: None })
    }
}

/// What the control task waits for.
struct Inputs {
    from_worker: mpsc::Receiver<FromWorker>,
    asked: mpsc::Receiver<Asked>,
    reloaded: mpsc::Receiver<Reload>,
    found: mpsc::Receiver<Found>,
    finished: mpsc::Receiver<Done>,
    stopping: watch::Receiver<bool>,
}

/// What a desk or a look-up has done.
enum Done {
    /// What was asked for in a role of ours, of a neighbour that was just admitted or to whom we are something else now.
    Restored {
        link: LinkId,
        peer: NodeId,
        role: metering::Role,
        admitted: bool,
        restored: Box<Restored>,
    },
    Reserved {
        link: LinkId,
        channel: ChannelId,
        ceiling: Tokens,
    },
    Held {
        link: LinkId,
        receipt: Receipt,
        redeemed: Tokens,
    },
    Channel {
        link: LinkId,
        channel: ChannelId,
        state: ChannelState,
    },
    Funded {
        link: LinkId,
        channel: ChannelId,
        state: ChannelState,
        left: Tokens,
    },
    /// The ledger could not be asked, or refused.
    NotFunded {
        link: LinkId,
        failed: Box<Self>,
    },
    /// The ledger has closed it.
    Closed {
        link: LinkId,
        channel: ChannelId,
        state: Channel,
    },
    /// The ledger did not close it as its payer offered.
    CloseFailed {
        link: LinkId,
        channel: ChannelId,
        error: String,
    },
    /// A receipt to be kept for a neighbour, on a channel that can pay it.
    Keep {
        link: LinkId,
        receipt: Receipt,
    },
    /// One that is not worth keeping, or cannot be judged.
    NotKept {
        link: LinkId,
        channel: ChannelId,
    },
    /// Receipts kept for neighbours are on disk.
    Kept {
        receipts: Vec<Receipt>,
    },
    /// A neighbour had kept a receipt of ours that can be redeemed.
    Found {
        link: LinkId,
        receipt: Receipt,
    },
    /// Those that were news are on disk.
    Regained {
        news: Vec<(LinkId, Receipt)>,
    },
    /// What the ledger has not paid; `None`, if it cannot be asked.
    Unredeemed {
        unredeemed: Option<Unredeemed>,
    },
    /// The channels that paid us before this start, which found no journal.
    Doubtful {
        channels: SortedSet<ChannelId>,
    },
    /// How the channels stand that are watched for neighbours, and why not all were looked at.
    Watched {
        watched: Vec<(ChannelId, Watched)>,
        failed: Option<String>,
    },
    /// The newest checkpoint that the ledger has shown, and what was found against it.
    Checkpoint {
        note: Option<Note>,
        found: Option<String>,
    },
    /// What a neighbour was shown, held against what we were.
    Compared {
        link: LinkId,
        text: String,
        again: (String, Note),
        compared: Result<Comparison, String>,
    },
    /// What the ledger says of memberships.
    Members {
        told: Result<Told, String>,
    },
    /// Names of the community, or that the ledger could not be asked.
    Registry {
        told: Result<registry::Told, String>,
    },
    /// A write failed that will be tried again.
    WriteFailed(String),
    /// What became of channels that are not used.
    Unused {
        ended: Vec<(ChannelId, Ending)>,
    },
    Resolved {
        link: LinkId,
        endpoint: Endpoint,
        address: SocketAddr,
    },
    Redeemed {
        paid: Vec<(ChannelId, Tokens)>,
    },
    LedgerFailed {
        what: &'static str,
        error: String,
    },
    Warning(String),
}

/// A link, as the shell knows it.
#[derive(Default)]
struct Known {
    name: String,
    /// The neighbour; a leaf has none.
    peer: Option<config::Peer>,
    leaf: Option<config::Leaf>,
    origin: Origin,
    /// When it was met.
    met: Option<Instant>,
    /// Since when it has a session, and has not been admitted.
    waits: Option<Instant>,
    /// Whose places it takes that nobody wrote down: see [`strangers`].
    from: Option<whence::Whence>,
    /// What the neighbour may, and whether anything is bought or sold, as the node was told.
    access: Option<(Access, bool)>,
    status: LinkStatus,
    neighbour_up: bool,
    /// How often the neighbour says Hello, as it told when routing with it began or ended last.
    hello_interval: Option<Duration>,
    last_heard: Option<Instant>,
    /// Since when the two cannot do business, and whether the operator was told: once, for the neighbour chooses the words.
    misfit: Option<(Instant, bool)>,
    renewed: Option<Instant>,
    /// What the link's meters said when it was given to this neighbour, and the how many-th that was of all.
    since: LinkCount,
    turn: u32,
    /// Where the endpoint's name led when it was last looked up, and the one that QUIC dials.
    resolved: Option<SocketAddr>,
    quic_resolved: Option<SocketAddr>,
    /// Where QUIC was last told to dial.
    #[cfg(feature = "quic")]
    dialled: Option<SocketAddr>,
    #[cfg(feature = "quic")]
    fallback: Option<fallback::Fallback>,
    /// It has called us by QUIC.
    #[cfg(feature = "quic")]
    starts_by_quic: bool,
}

impl Known {
    fn endpoint(&self) -> Option<&Endpoint> {
        let peer = self.peer.as_ref().and_then(config::Peer::by_wireguard);
        peer.or_else(|| self.leaf.as_ref()?.endpoint.as_ref())
    }

    /// A client that does not route.
    fn is_leaf(&self) -> bool {
        self.leaf.as_ref().is_some_and(|leaf| !leaf.babel)
    }

    /// Where it is reached below the mesh: as the owner wrote, and from where it sent last. A neighbour chooses what it
    /// sends from, so the latter does not count in the range that meshes take their prefixes from: by sending from an
    /// address of another member, it would take that member out of our kernel.
    fn below(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let address = |at: SocketAddr| at.ip().to_canonical();
        let outside = |ip: &IpAddr| !matches!(ip, IpAddr::V6(ip) if ip.is_unique_local());
        let written = [self.resolved, self.quic_resolved].into_iter().flatten().map(address);
        written.chain(self.status.endpoint.map(address).filter(outside))
    }

    /// After how long it is called anew.
    fn silence(&self) -> Duration {
        if self.leaf.is_some() { FOREIGN_SILENCE } else { SILENCE }
    }

    /// What carries it, by the config.
    fn kind(&self) -> LinkKind {
        self.peer.as_ref().map_or(LinkKind::Wireguard, |peer| peer.link)
    }

    /// Whether QUIC may carry it, or does.
    fn may_go_by_quic(&self) -> bool {
        self.kind() != LinkKind::Wireguard || matches!(self.origin, Origin::Stranger(Proven::Tls(_), _))
    }

    fn wireguard_key(&self) -> Option<metering::WireguardKey> {
        match (&self.peer, &self.leaf, &self.origin) {
            (Some(peer), _, _) => Some(peer.card.wireguard()),
            (None, Some(leaf), _) => Some(leaf.wireguard_key),
            (None, None, Origin::Stranger(Proven::Wireguard(key), _)) => Some(*key),
            (None, None, Origin::Stranger(Proven::Tls(_), _) | Origin::Written | Origin::Met(_)) => None,
        }
    }
}

struct Control {
    name: String,
    started: Instant,
    node: Node,
    shared: Arc<Shared>,
    inbox: Inbox,
    mtu: usize,
    identity: Identity,
    quic_listen: Option<SocketAddr>,
    #[cfg(feature = "quic")]
    hello_interval: Duration,
    money: Money,
    links: SortedMap<LinkId, Known>,
    turns: u32,
    /// Billed bytes per neighbour in all earlier runs.
    totals: SortedMap<NodeId, Totals>,
    journal: Desk<Journal>,
    ledger: Option<LedgerDesk>,
    ledger_reachable: Option<bool>,
    look_ups: Option<Arc<LookUps>>,
    guests: Arc<Guests>,
    done: mpsc::Sender<Done>,
    fib: watch::Sender<Arc<Fib>>,
    endpoints: watch::Sender<SortedSet<IpAddr>>,
    warnings: VecDeque<String>,
    redemptions: Vec<Redemption>,
    closings: Vec<Closing>,
    /// Links that QUIC carried, and when they were removed: what came over them may still be on its way to the worker.
    retired: SortedMap<LinkId, Instant>,
    resolve_at: Instant,
    totals_at: Instant,
    /// How those who pay us stood when that was last handed to the journal.
    standings: SortedMap<NodeId, Standing>,
    standings_at: Instant,
    /// Until when what was written of debts would have lasted, at one write each [`STANDINGS_INTERVAL`].
    standings_paid_until: Instant,
    history: History,
    history_at: Instant,
    clock_look: clock::Look,
    budget: Budget,
    keeping: Keeping,
    witness: Witness,
    members: Members,
    comers: strangers::Comers,
    registry: Registry,
    channels_at: Instant,
    redeem_at: Instant,
    /// `None` where the system does not tell.
    carrier: Option<Carrier>,
}

impl Control {
    async fn run(mut self, mut inputs: Inputs) {
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let timeout = self.node.poll_timeout().unwrap_or_else(|| clock() + LOOK_INTERVAL);
            tokio::select! {
                Some(message) = inputs.from_worker.recv() => self.handle_worker(clock(), message),
                Some(done) = inputs.finished.recv() => self.handle_done(clock(), done),
                Some((request, answer)) = inputs.asked.recv() => self.handle_request(clock(), request, answer),
                Some((links, money, done)) = inputs.reloaded.recv() => {
                    self.handle_reload(clock(), links, money);
                    // Whoever asked may have gone.
                    let _gone = done.send(());
                }
                Some(found) = inputs.found.recv() => self.handle_found_neighbour(clock(), &found),
                _ = look.tick() => self.look(clock()),
                () = tokio::time::sleep_until(timeout.into()) => self.node.handle_timeout(clock()),
                _ = inputs.stopping.wait_for(|stop| *stop) => break,
            }
            self.drain(clock());
        }
        self.finish().await;
    }

    /// Writes what is known at the end of an orderly run.
    async fn finish(&mut self) {
        self.node.handle_meters(clock(), &self.shared.meters);
        self.node.handle_flush(clock());
        self.node.handle_goodbye(clock());
        self.drain(clock());
        self.look_at_history();
        let mut records = self.records_now_and_then();
        records.extend(self.keeping.last_records());
        records.extend(self.node.held().map(|receipt| Record::Held { receipt }));
        match self.journal.ask(move |journal| journal.commit(&records)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last counts were not written"),
            Err(error) => tracing::warn!(%error, "the last counts were not written"),
        }
        #[cfg(feature = "quic")]
        if let Some(quic) = self.shared.quic.swap(None) {
            quic.shutdown().await;
        }
    }

    fn handle_worker(&mut self, now: Instant, message: FromWorker) {
        match message {
            FromWorker::Control { link, turn, packet } => {
                // The link may have been given to another since.
                let Some(known) = self.links.get_mut(&link).filter(|known| known.turn == turn) else { return };
                known.last_heard = Some(now);
                self.node.handle_control(now, link, &packet);
            }
            FromWorker::Stranger { key, from, datagram } => self.handle_stranger(now, key, from, datagram),
            #[cfg(feature = "quic")]
            FromWorker::Caller(caller) => self.handle_caller(now, caller),
        }
    }

    /// Reads what others keep up to date: how links stand, what was carried, which names have moved.
    fn look(&mut self, now: Instant) {
        self.look_at_carriers(now);
        for (link, known) in &mut self.links {
            let status = self.shared.status(*link);
            match (known.status.up, status.up) {
                (false, true) => self.node.handle_link_up(now, *link),
                (true, false) => self.node.handle_link_down(now, *link),
                (true, true) | (false, false) => {}
            }
            if status.up && known.status.unreachable != status.unreachable {
                tracing::info!(node = %self.name, neighbour = %known.name, unreachable = status.unreachable, "way to a neighbour");
                self.node.handle_link_reach(now, *link, !status.unreachable);
            }
            if status.up && known.status.endpoint != status.endpoint {
                self.node.handle_way_changed(now, *link);
            }
            known.status = status;
            let since = |at: Option<Instant>| at.map(|at| now.saturating_duration_since(at));
            let silent = since(known.last_heard).is_some_and(|silence| silence >= known.silence());
            let due = since(known.renewed).is_none_or(|since| since >= RENEW_INTERVAL);
            if status.up && silent && due && !self.shared.by_quic(*link) {
                known.renewed = Some(now);
                self.node.handle_link_silent(now, *link);
                self.inbox.send(ToWorker::Renew { link: *link, starves: true });
            }
        }
        self.tell_endpoints();
        if self.carrier.as_mut().is_some_and(Carrier::was_lost) {
            // Which links it carried is not worth finding out: a neighbour that is there answers at once.
            for (link, _) in self.links.iter().filter(|(_, known)| known.status.up) {
                self.node.handle_link_silent(now, *link);
            }
        }
        self.node.handle_meters(now, &self.shared.meters);
        self.redeem_settled(now);
        self.look_at_closings(now);
        if now >= self.resolve_at {
            self.resolve_at = now + RESOLVE_INTERVAL;
            self.resolve();
        }
        if now >= self.history_at {
            self.history_at = now + HISTORY_INTERVAL;
            self.look_at_history();
        }
        self.look_at_budget(now);
        self.look_at_kept(now);
        self.look_at_checkpoints(now);
        self.look_at_clock(now);
        self.look_at_members(now);
        self.look_at_registry(now);
        if now >= self.channels_at {
            self.channels_at = now + CHANNELS_INTERVAL;
            self.look_at_channels();
            self.look_at_unused();
            self.look_at_unredeemed();
            self.forget_old_channels();
        }
        if now >= self.redeem_at {
            self.redeem_at = now + REDEEM_INTERVAL;
            if self.ledger.is_some() {
                self.redeem(now, None, None);
            }
        }
        if now >= self.totals_at {
            self.write_now_and_then();
        }
        if now >= self.standings_at {
            self.standings_at = now + STANDINGS_LOOK;
            let due = self.standings_paid_until <= now + STANDINGS_INTERVAL * STANDINGS_BURST;
            if due && self.debts_grew() {
                self.standings_paid_until = self.standings_paid_until.max(now) + STANDINGS_INTERVAL;
                self.write_now_and_then();
            }
        }
    }

    /// Whether somebody owes clearly more than the journal knows.
    fn debts_grew(&self) -> bool {
        self.node.links().filter_map(|view| view.settlement).any(|snapshot| {
            let full = snapshot.terms.map_or(Tokens::MAX, |terms| terms.window_value());
            let written = self.standings.get(&snapshot.peer).copied().unwrap_or_default();
            snapshot.standing.outgrew(&written, snapshot.window, full)
        })
    }

    /// Writes the totals, and what goes with them. What fails is written five minutes later.
    fn write_now_and_then(&mut self) {
        let receipts = self.keeping.unwritten(clock());
        let records = self.records_now_and_then();
        self.spawn(self.journal.ask(move |journal| journal.commit(&records)), |answer| match answer {
            Ok(Ok(())) => Some(Done::Kept { receipts }),
            Ok(Err(error)) => Some(Done::Warning(error.to_string())),
            Err(error) => Some(Done::Warning(error.to_string())),
        });
    }

    /// Writes what nothing waits for.
    fn write_down(&self, write: impl FnOnce(&mut Journal) -> Result<(), JournalError> + Send + 'static) {
        self.spawn(self.journal.ask(write), |answer| match answer {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(Done::Warning(error.to_string())),
            Err(error) => Some(Done::Warning(error.to_string())),
        });
    }

    /// The totals, how those stand who pay us, the lines of today, and what is kept for others, about to be written.
    fn records_now_and_then(&mut self) -> Vec<Record> {
        self.totals_at = clock() + TOTALS_INTERVAL;
        let standings = self.standing_records();
        self.standings = standings.iter().filter_map(Record::standing).collect();
        let kept = self.keeping.unwritten(clock()).into_iter().map(|receipt| Record::Kept { receipt }).collect();
        [self.totals_records(), standings, self.history.records(), kept].concat()
    }

    /// Brings the days' sums up to date; a day that has ended is written, and the oldest are forgotten.
    fn look_at_history(&mut self) {
        let today = history::today();
        let ended = self.history.look(today, self.node.links().filter_map(|view| view.settlement));
        if ended.is_empty() {
            return;
        }
        let first = today.saturating_sub(DAYS_KEPT);
        self.write_down(move |journal| journal.commit(&ended).and_then(|()| journal.forget_days(first)));
    }

    /// Compares what was spent, and what is owed, with what may be. It is overdrawn by what the provider has not reported yet
    /// at most, an eighth of a window.
    fn look_at_budget(&mut self, now: Instant) {
        self.look_at_history();
        let owed = self.node.links().filter_map(|view| view.settlement).map(|snapshot| snapshot.owed_by_us);
        let (today, spent) = self.history.spent_today();
        let news = self.budget.look(today, owed.fold(spent, Tokens::saturating_add));
        self.node.handle_spending(now, self.budget.allows());
        let Some(news) = news else { return };
        let said = |span| {
            let (spent, limit) = self.budget.of(span);
            let Unit { symbol, decimals } = &self.money.unit;
            let [spent, limit] = [spent, limit.unwrap_or(Tokens::ZERO)].map(|amount| amount.display(*decimals));
            format!("{spent} of {limit} {symbol} for this {}", if span == Span::Day { "day" } else { "month" })
        };
        match news {
            News::Low(span) => self.warn(format!("the budget runs low: {} are used", said(span))),
            News::Used(span) => self.warn(format!(
                "the budget is used: {}; ways that cost anything are not taken until the next one begins (UTC)",
                said(span)
            )),
            News::Renewed => tracing::info!(node = %self.name, "there is a budget again"),
        }
    }

    /// Asks the ledger how the channels stand that pay us: whoever leaves with its deposit does not tell us.
    fn look_at_channels(&mut self) {
        let settled: Vec<(LinkId, Snapshot)> =
            self.node.links().filter_map(|view| Some((view.link, view.settlement?))).collect();
        for (link, snapshot) in settled {
            if let (Some(channel), metering::Role::Provider) = (snapshot.channel, snapshot.role) {
                self.look_up_later(link, channel);
            }
        }
    }

    fn tell_endpoints(&self) {
        let endpoints: SortedSet<IpAddr> = self.links.values().flat_map(Known::below).collect();
        self.endpoints.send_if_modified(|known| {
            let changed = *known != endpoints;
            *known = endpoints;
            changed
        });
    }

    /// Does what the node asks for, until it asks for nothing.
    fn drain(&mut self, now: Instant) {
        while let Some(node::Transmit { link, packet, uncut }) = self.node.poll_transmit() {
            let turn = self.links.get(&link).map_or(0, |known| known.turn);
            // A full inbox loses a packet, as a link may; everything in it is repeated.
            self.inbox.send(if uncut {
                ToWorker::Probe { link, turn, packet }
            } else {
                ToWorker::Send { link, turn, packet }
            });
        }
        while let Some(event) = self.node.poll_event() {
            self.handle_event(now, event);
        }
    }

    fn handle_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::Fib(fib) => {
                self.shared.fib.store(Arc::clone(&fib));
                self.fib.send_replace(fib);
            }
            Event::Admitted { link, peer, role } => {
                tracing::info!(node = %self.name, neighbour = %self.name_of(link), %peer, "neighbour admitted");
                self.restore(link, peer, role, true);
            }
            Event::Introduced { link, card } => self.handle_introduced(now, link, &card),
            Event::Role { link, peer, role } => {
                tracing::info!(node = %self.name, neighbour = %self.name_of(link), ?role, "we are something else to it");
                self.restore(link, peer, role, false);
            }
            Event::Refused { link, reason } => {
                if let node::Refusal::Packet(reason) = reason {
                    self.shared.drops.count(reason);
                }
                tracing::debug!(node = %self.name, neighbour = %self.name_of(link), %reason, "control packet refused");
                match reason {
                    node::Refusal::Admission(error) => self.handle_not_admitted(now, link, &error),
                    node::Refusal::Settlement(exchange::Rejected::Incompatible(misfit)) => {
                        self.handle_misfit(now, link, misfit);
                    }
                    node::Refusal::Packet(_)
                    | node::Refusal::Babel(_)
                    | node::Refusal::Settlement(exchange::Rejected::Misbehaved(_))
                    | node::Refusal::Watch(_)
                    | node::Refusal::PathMtu(_) => {}
                }
            }
            Event::Neighbour { link, up } => {
                tracing::info!(node = %self.name, neighbour = %self.name_of(link), up, "routing with a neighbour");
                if let Some(known) = self.links.get_mut(&link) {
                    known.neighbour_up = up;
                    known.hello_interval = self.node.hello_interval(link).or(known.hello_interval);
                }
            }
            Event::Settlement { link, peer, event } => self.handle_settlement(now, link, peer, event),
            Event::Watch { link, event, .. } => self.handle_watch(link, event),
            Event::Checkpoint { link, card, note } => self.handle_checkpoint(link, &card, note),
        }
    }

    /// Two honest neighbours cannot do business. While roles follow from routes they do not fit for moments, and prices rise and
    /// fall: the operator hears of what stays.
    fn handle_misfit(&mut self, now: Instant, link: LinkId, misfit: exchange::Incompatibility) {
        let Some(known) = self.links.get_mut(&link) else { return };
        let (since, told) = known.misfit.get_or_insert((now, false));
        if *told || now < *since + MISFIT_TIME {
            return;
        }
        *told = true;
        let name = known.name.clone();
        let Unit { symbol, decimals } = &self.money.unit;
        self.warn(match misfit {
            exchange::Incompatibility::PriceAboveLimit { asked, limit } => {
                let tokens = |price: Price| Tokens::new(price.get().into()).unwrap_or(Tokens::MAX).display(*decimals);
                let (asked, limit) = (tokens(asked), tokens(limit));
                format!("{name} asks {asked} {symbol} per GiB, above the limit of {limit} ([price] max): it carries nothing for us")
            }
            exchange::Incompatibility::Roles { ours, theirs } => format!(
                "{name} takes itself for our {}, and we take ourselves for its {}: nothing is carried until the two owners agree \
                 on `role`",
                role_name(theirs),
                role_name(ours),
            ),
            exchange::Incompatibility::Protocol(error) => format!("{name} speaks another version of settlement: {error}"),
        });
    }

    fn handle_settlement(&mut self, now: Instant, link: LinkId, peer: NodeId, event: exchange::Event) {
        match event {
            exchange::Event::Reserve { channel, ceiling } => {
                let record = Record::Ceiling { channel, amount: ceiling };
                self.write(record, Done::Reserved { link, channel, ceiling });
            }
            exchange::Event::Hold(receipt) => self.hold(link, receipt),
            exchange::Event::NeedChannel { payee, at_least } => self.fund(link, payee, at_least),
            exchange::Event::LookUpChannel(channel) => self.look_up(link, channel),
            exchange::Event::CloseOffered(close) => self.accept_close(now, link, close),
            exchange::Event::TermsAgreed(terms) => {
                if let Some(known) = self.links.get_mut(&link) {
                    known.misfit = None;
                }
                let (up, down) = (terms.price_up, terms.price_down);
                tracing::info!(node = %self.name, neighbour = %self.name_of(link), %up, %down, "terms agreed");
            }
            exchange::Event::Alarm(alarm) => {
                self.warn(format!("{}: {alarm}", self.name_of(link)));
                if matches!(alarm, exchange::Alarm::ChannelClosing { .. }) {
                    self.redeem(now, Some(peer), None);
                }
            }
        }
    }

    fn handle_done(&mut self, now: Instant, done: Done) {
        match done {
            // A reload may have given the link to another neighbour, or the neighbour another role, in the meantime.
            Done::Restored { link, peer, role, admitted, restored } if self.peer_of(link) == Some(peer) => {
                if admitted {
                    let counts = counts(self.shared.meters.read(link));
                    self.node.handle_restored(now, link, counts, role, *restored);
                    self.tell_kept(now, link, peer);
                } else {
                    self.node.handle_role_restored(now, link, role, *restored);
                }
            }
            Done::Reserved { link, channel, ceiling } => self.node.handle_reserved(now, link, channel, ceiling),
            Done::Held { link, receipt, redeemed } => {
                self.node.handle_held(now, link, &receipt);
                let waiting = receipt.amount().saturating_sub(redeemed);
                if self.money.redeem_at > Tokens::ZERO && waiting >= self.money.redeem_at {
                    self.redeem(now, Some(receipt.channel().payer), None);
                }
            }
            Done::Restored { link, .. } => tracing::debug!(link = link.0, "an answer for a neighbour that is gone"),
            Done::Channel { link, channel, state } => {
                self.ledger_reachable = Some(true);
                self.remember_channel(channel, &state);
                if self.parties(link) == Some((channel.payer, channel.payee)) {
                    self.node.handle_channel(now, link, state);
                }
            }
            Done::Funded { link, channel, state, left } => {
                self.look_at_balance(link, &state, left);
                self.handle_done(now, Done::Channel { link, channel, state });
            }
            Done::NotFunded { link, failed } => {
                self.node.handle_not_funded(now, link);
                self.handle_done(now, *failed);
            }
            Done::Closed { link, channel, state } => self.handle_closed(now, link, channel, &state),
            Done::CloseFailed { link, channel, error } => {
                self.node.handle_close_failed(now, link);
                // It may be closed already, and the answer was lost.
                self.look_up(link, channel);
                self.warn(format!("cannot close a channel as {} asks: {error}", self.name_of(link)));
            }
            Done::Unused { ended } => self.handle_unused(ended),
            Done::Keep { link, receipt } if self.peer_of(link) == Some(receipt.channel().payee) => self.keep(receipt),
            Done::Keep { .. } => {}
            Done::NotKept { link, channel } => self.node.handle_not_kept(link, &channel),
            Done::Kept { receipts } => self.handle_kept(now, receipts),
            Done::Found { link, receipt } => self.handle_found(now, link, receipt),
            Done::Regained { news } => self.handle_regained(&news),
            Done::Unredeemed { unredeemed } => self.handle_unredeemed(now, unredeemed),
            Done::Doubtful { channels } => self.keeping.doubt(now, channels),
            Done::Watched { watched, failed } => self.handle_watched(now, watched, failed),
            Done::Resolved { link, endpoint, address } => self.set_endpoint(link, &endpoint, address),
            Done::Redeemed { paid } => {
                self.ledger_reachable = Some(true);
                let changed = !paid.is_empty();
                for (channel, amount) in paid {
                    tracing::info!(node = %self.name, payer = %channel.payer, %amount, "receipt redeemed");
                    self.refresh_channel(channel);
                }
                // What the ledger refuses stays as it was, and is tried again when it is looked at next.
                if changed {
                    self.look_at_unredeemed();
                }
            }
            Done::LedgerFailed { what, error } => {
                self.ledger_reachable = Some(false);
                self.redeem_at = self.redeem_at.min(now + REDEEM_FIRST);
                self.warn(format!("{what}: {error}"));
            }
            Done::Checkpoint { note, found } => self.handle_newest(note, found),
            Done::Compared { link, text, again, compared } => self.handle_compared(now, link, text, again, compared),
            Done::Members { told } => self.handle_members(now, told),
            Done::Registry { told } => self.handle_registry(now, told),
            Done::WriteFailed(error) => {
                self.keeping.rest(now);
                self.warn(error);
            }
            Done::Warning(warning) => self.warn(warning),
        }
    }

    fn name_of(&self, link: LinkId) -> String {
        self.links.get(&link).map_or_else(|| format!("link {}", link.0), |known| known.name.clone())
    }

    fn peer_of(&self, link: LinkId) -> Option<NodeId> {
        self.links.get(&link)?.peer.as_ref().map(|peer| peer.card.account())
    }

    /// Payer and payee on a link, by the roles of this moment.
    fn parties(&self, link: LinkId) -> Option<(NodeId, NodeId)> {
        let (us, peer) = (self.node.id(), self.peer_of(link)?);
        match self.node.role(link)? {
            metering::Role::Subscriber => Some((us, peer)),
            metering::Role::Provider => Some((peer, us)),
            metering::Role::Peer => None,
        }
    }

    fn link_to(&self, peer: NodeId) -> Option<LinkId> {
        let is_it = |known: &Known| known.peer.as_ref().is_some_and(|known| known.card.account() == peer);
        self.links.iter().find(|(_, known)| is_it(known)).map(|(link, _)| *link)
    }

    /// Tells the operator, once for each new thing.
    fn warn(&mut self, warning: String) {
        if self.warnings.contains(&warning) {
            return;
        }
        tracing::warn!(node = %self.name, "{warning}");
        if self.warnings.len() == WARNINGS_MAX {
            self.warnings.pop_front();
        }
        self.warnings.push_back(warning);
    }

    /// Waits elsewhere for an answer, and hands in what it means.
    fn spawn<T: Send + 'static>(
        &self,
        answer: impl Future<Output = T> + Send + 'static,
        meaning: impl FnOnce(T) -> Option<Done> + Send + 'static,
    ) {
        let done = self.done.clone();
        tokio::spawn(async move {
            if let Some(meaning) = meaning(answer.await) {
                // The control task is gone only when the router is stopping.
                let _stopping = done.send(meaning).await;
            }
        });
    }

    /// Writes a record, and hands in what follows from it.
    fn write(&mut self, record: Record, then: Done) {
        let (written, done) = (self.written(vec![record]), self.done.clone());
        tokio::spawn(async move {
            if written.await {
                let _stopping = done.send(then).await;
            }
        });
    }

    /// Resolves once the records are written: what waits for them waits as long. False when the router is stopping.
    ///
    /// All else that is to be written now and then goes with them, for a commit wears the flash by whole sectors anyhow; but not
    /// when the write is tried again, for by then newer lines may be written.
    fn written(&mut self, records: Vec<Record>) -> impl Future<Output = bool> + Send + use<> {
        let (journal, done, receipts) = (self.journal.clone(), self.done.clone(), self.keeping.unwritten(clock()));
        let first = journal.ask(commit([records.clone(), self.records_now_and_then()].concat()));
        async move {
            let mut answer = first.await;
            if matches!(answer, Ok(Ok(()))) && !receipts.is_empty() {
                let _stopping = done.send(Done::Kept { receipts }).await;
            }
            loop {
                let error = match answer {
                    Ok(Ok(())) => return true,
                    Ok(Err(error)) => error.to_string(),
                    Err(error) => error.to_string(),
                };
                if done.send(Done::WriteFailed(error)).await.is_err() {
                    return false;
                }
                tokio::time::sleep(WRITE_AGAIN).await;
                answer = journal.ask(commit(records.clone())).await;
            }
        }
    }
}

const fn role_name(role: metering::Role) -> &'static str {
    match role {
        metering::Role::Provider => "provider",
        metering::Role::Subscriber => "subscriber",
        metering::Role::Peer => "peer",
    }
}

fn commit(records: Vec<Record>) -> impl FnOnce(&mut Journal) -> Result<(), JournalError> + Send + 'static {
    move |journal| journal.commit(&records)
}

fn counts(count: LinkCount) -> Counts {
    Counts { sent: count.sent, received: count.received }
}

#[expect(clippy::disallowed_methods, reason = "the control task's one clock")]
fn clock() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt() -> Receipt {
        let key = metering::AccountKey::from_bytes(&[1; 32]).unwrap();
        let channel = ChannelId { payer: key.node_id(), payee: NodeId([2; 20]), nonce: 1 };
        Receipt::sign(&key, &domain(), channel, Tokens::new(30).unwrap(), [0; 32])
    }

    fn domain() -> LedgerDomain {
        LedgerDomain { chain_id: 0, contract: NodeId([9; 20]) }
    }

    /// A journal's desk, and that of a ledger which waits at its gate before each answer.
    fn desks(path: &std::path::Path) -> (Desk<Journal>, LedgerDesk, stub::Gate, (DeskThread, DeskThread)) {
        let (journal, _) = Journal::open(path, &domain()).unwrap();
        let (journal, journal_thread) = Desk::start("journal", journal).unwrap();
        let (stub, gate) = stub::Stub::behind_a_gate(None);
        let stub: Box<dyn Ledger> = Box::new(stub);
        let (ledger, ledger_thread) = Desk::start_with("ledger", stub, bound_job).unwrap();
        (journal, ledger, gate, (journal_thread, ledger_thread))
    }

    /// The thread that is left behind may be told something later: nobody writes it down.
    #[tokio::test]
    async fn a_router_stops_in_a_few_seconds_whatever_the_ledger_does_and_its_journal_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let (journal, ledger, gate, threads) = desks(&path);
        let id = receipt().channel();
        let asked = ledger.ask(move |ledger| ledger.redeem(receipt()));
        let later = ledger.ask_later(move |ledger| ledger.channel(id));
        gate.asked.recv().unwrap();
        let noting = journal.clone();
        let noted = tokio::spawn(async move {
            let paid = asked.await.unwrap().unwrap();
            noting.ask(commit(vec![Record::Redeemed { channel: id, amount: paid }])).await
        });
        let held = journal.ask(commit(vec![Record::Held { receipt: receipt() }]));
        let began = clock();
        assert!(end_desks(threads.0, Some(threads.1)).await);
        let took = began.elapsed();
        println!("stopped after {took:?}");
        assert!(took < (LEDGER_STOPS + LAST_WRITES) * 2, "{took:?}");
        assert!(held.await.unwrap().is_ok());
        assert!(later.await.is_err(), "it was not asked");
        // The ledger pays after all.
        drop(gate);
        assert!(noted.await.unwrap().is_err(), "the journal takes nothing more");
        drop(journal);
        let (journal, opened) = Journal::open(&path, &domain()).unwrap();
        assert_eq!(opened, Opened::Restored);
        assert_eq!((journal.held_on(&id), journal.redeemed(&id)), (Some(&receipt()), Tokens::ZERO));
    }

    #[tokio::test]
    async fn a_router_that_stops_waits_for_what_a_ledger_is_about_to_pay() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let (journal, ledger, gate, threads) = desks(&path);
        let id = receipt().channel();
        let asked = ledger.ask(move |ledger| ledger.redeem(receipt()));
        gate.asked.recv().unwrap();
        tokio::spawn(async move {
            let paid = asked.await.unwrap().unwrap();
            journal.ask(commit(vec![Record::Redeemed { channel: id, amount: paid }])).await.unwrap().unwrap();
        });
        let ended = tokio::spawn(end_desks(threads.0, Some(threads.1)));
        tokio::task::yield_now().await;
        gate.answer.send(()).unwrap();
        assert!(ended.await.unwrap());
        let (journal, _) = Journal::open(&path, &domain()).unwrap();
        assert_eq!(journal.redeemed(&id), Tokens::new(30).unwrap());
    }

    #[test]
    fn a_neighbour_that_sends_from_a_member_s_address_does_not_take_it_out_of_the_kernel() {
        let at = |text: &str| Some(text.parse::<SocketAddr>().unwrap());
        let below = |resolved, endpoint| {
            let status = LinkStatus { endpoint, ..LinkStatus::default() };
            Known { resolved, status, ..Known::default() }.below().map(|ip| ip.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(below(None, at("[fd53:bcf5:19d6::1]:51820")), [""; 0]);
        assert_eq!(below(None, at("[2001:db8::2]:51820")), ["2001:db8::2"]);
        assert_eq!(below(at("[fd00::7]:51820"), at("[fd53:bcf5:19d6::1]:51820")), ["fd00::7"], "the owner wrote it");
    }
}
