//! Workers: threads that carry packets between the links and the node's own side.
//!
//! ```text
//!            UDP socket (WireGuard)   QUIC tasks     TUN or host port      control task
//!                     |                   | inbox          |                  | inbox
//!                     v                   v                v                  v
//!   wait ---------> open, cut -------> Batch --> Datapath::handle_batch --> per egress:
//!                                         seal+send as trains | write to TUN as frames | to control | counted drop
//!                                            ^  | socket full
//!                                            |  v
//!                                          Waiting: in turns by who sent it
//! ```
//!
//! Each link belongs to one worker, which receives all that comes over it, so that packets of a flow stay in order; the
//! first worker also reads the node's own side and does what the control task asks for. What a worker forwards it sends
//! itself, whomever the next link belongs to.
//!
//! A worker waits in epoll, takes a batch from one ingress, asks the datapath what becomes of it, and does that. What the
//! kernel hands over together, a train of datagrams or a frame of TCP, stays together as far as it goes: one call takes
//! it in, one decision each is made, one call sends it on. Nothing waits for more to come. It shares no lock but that of the
//! neighbour it sends to or receives from: the table comes as a snapshot, counters are read by others, queues are bounded.
//! The TUN is read even while links are full: in its ring of 500 packets a call would wait behind a download, here both take
//! turns.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::AsRawFd;
#[cfg(feature = "quic")]
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
#[cfg(feature = "quic")]
use arc_swap::ArcSwapOption;
use metering::{SortedMap, WireguardKey};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
#[cfg(feature = "quic")]
use node::datapath::packet::is_control;
use node::datapath::packet::take_over_ecn;
use node::datapath::{
    Batch, Datapath, Fib, MAX_LINKS, Meters, Port, QUEUE_ROOM, QUEUES_MAX, Sender, Split, Tally, Verdict, Waiting,
};
use node::ways::WayView;
use node::{DropReason, Drops, LinkId};

use crate::link::LinkStatus;
#[cfg(feature = "quic")]
use crate::link::quic::{QuicLinks, QuicStranger, SendError};
use crate::link::train::{RECEIVE_MAX, Received};
use crate::link::wireguard::{Carried, Opened, PeerConfig, TIMER_INTERVAL, TRAIN_ROOM_MAX, WireGuard};
use crate::tun::{FRAME_MAX, Frame, Local};

/// Packets taken from one ingress before the others get their turn, or a few more: what the kernel joined is not left
/// half done.
const BATCH: usize = 64;
/// Room for the packets of a batch: fewer where they are very long.
const BATCH_ROOM: usize = 512 << 10;
/// What a worker may need for packets on their way: a router has 128 MB for everything.
const BUFFERS_MAX: usize = 2 << 20;
const _: () = assert!(BATCH_ROOM + RECEIVE_MAX + FRAME_MAX + TRAIN_ROOM_MAX + QUEUE_ROOM + QUEUES_MAX <= BUFFERS_MAX);
/// Control packets taken from one link per timer interval, so that a flood on one link does not silence the others: 1,000
/// a second, where the routes of 1,000 nodes fit 40 packets.
const CONTROL_BUDGET: u16 = 250;
/// Bytes opened per timer interval for a neighbour whose packets are not carried: 2 Mbit/s of what is marked as control, and
/// as much each of short and of long datagrams besides, as a network on the way may have wiped the marks off. Enough for all
/// it has to say to be admitted or to pay. Opening costs most of what carrying does, and a flood of what is dropped anyway
/// shall not cost others their share of the processor.
const LIFELINE: usize = 64 << 10;
/// Receipts and Hellos are shorter.
const SHORT: usize = 512;
/// Of what comes beyond the lifeline, one datagram in so many is opened.
const ONE_IN: u32 = 16;
/// Strangers told of per timer interval: whoever forges them is to leave others a chance. Beyond a few more handshakes a second,
/// WireGuard demands cookies of everybody, which nobody gets who forges where it sends from.
const STRANGERS_BUDGET: u8 = 64;
/// The same for a link whose packets are not carried: it has its card to show.
const CONTROL_BUDGET_CLOSED: u16 = 20;
/// Messages waiting for the worker: control packets and packets from QUIC links. Beyond it, the newest is dropped.
pub(crate) const INBOX: usize = 2048;
/// A QUIC link may have as many packets there as are free, which are half where only one has any; and so many control packets more.
#[cfg(feature = "quic")]
const CONTROL_SHARE: usize = 128;

const UDP: Token = Token(0);
const LOCAL: Token = Token(1);
const WAKE: Token = Token(2);
/// Of the first link's socket.
const EXITS: usize = 3;

/// What others ask of the worker.
pub(crate) enum ToWorker {
    /// From here on a link is another neighbour's. What still comes of the one before, or goes to it, has another number.
    Begin { link: LinkId, turn: u32 },
    /// A control packet to send on a link, while it has this turn.
    Send { link: LinkId, turn: u32, packet: Vec<u8> },
    /// The same for one that must not be cut in pieces on the way.
    Probe { link: LinkId, turn: u32, packet: Vec<u8> },
    /// Add a WireGuard peer or change its endpoint.
    SetPeer(PeerConfig),
    /// Add a WireGuard peer who was a stranger, and answer what it called us with.
    Meet { peer: PeerConfig, from: SocketAddr, datagram: Vec<u8> },
    /// Call a WireGuard peer there, once; where the owner wrote that it is stays as it was.
    Call { link: LinkId, at: SocketAddr },
    /// The WireGuard peer with this key is there, too, as it says itself.
    Way { link: LinkId, key: WireguardKey, at: SocketAddr },
    /// Nobody knows where a WireGuard peer is besides where it sends from.
    ForgetWays(LinkId),
    /// Make a new WireGuard session with a peer that has fallen silent, by another way if it starves: if its data does not come.
    Renew { link: LinkId, starves: bool },
    /// Forget a WireGuard peer.
    RemovePeer(LinkId),
}

/// What the worker tells the control task.
#[derive(Debug)]
pub(crate) enum FromWorker {
    /// A control packet of a neighbour, and the link's turn when it came.
    Control { link: LinkId, turn: u32, packet: Vec<u8> },
    /// Somebody whom nobody has named begins a handshake.
    Stranger { key: WireguardKey, from: SocketAddr, datagram: Vec<u8> },
    /// Somebody whom nobody has named has dialled us by QUIC. It comes of QUIC's tasks, by the same queue.
    #[cfg(feature = "quic")]
    Caller(QuicStranger),
}

/// What worker and control side share without waiting for each other.
pub(crate) struct Shared {
    /// The table in force.
    pub(crate) fib: ArcSwap<Fib>,
    /// Written by the workers alone.
    pub(crate) meters: Arc<Meters>,
    /// Written by the workers, and by the control task for the control packets it refuses.
    pub(crate) drops: Arc<Drops>,
    /// The QUIC links, while there are any.
    #[cfg(feature = "quic")]
    pub(crate) quic: ArcSwapOption<QuicLinks>,
    /// Which links are sent by QUIC at present; the control task says so.
    #[cfg(feature = "quic")]
    by_quic: [AtomicBool; MAX_LINKS],
    #[cfg(feature = "quic")]
    quic_status: Mutex<Vec<LinkStatus>>,
    status: Mutex<Vec<LinkStatus>>,
    /// The ways of those links that have several.
    ways: Mutex<SortedMap<LinkId, Vec<WayView>>>,
    /// How often each link was given to a neighbour, as the first worker knows.
    turns: [AtomicU32; MAX_LINKS],
    stop: AtomicBool,
}

impl Shared {
    pub(crate) fn new() -> Self {
        Self {
            fib: ArcSwap::default(),
            meters: Arc::default(),
            drops: Arc::default(),
            #[cfg(feature = "quic")]
            quic: ArcSwapOption::empty(),
            #[cfg(feature = "quic")]
            by_quic: [const { AtomicBool::new(false) }; MAX_LINKS],
            #[cfg(feature = "quic")]
            quic_status: Mutex::new(vec![LinkStatus::default(); MAX_LINKS]),
            status: Mutex::new(vec![LinkStatus::default(); MAX_LINKS]),
            ways: Mutex::default(),
            turns: [const { AtomicU32::new(0) }; MAX_LINKS],
            stop: AtomicBool::new(false),
        }
    }

    /// How a link stands, by what it is sent by: WireGuard as of the worker's last timer, QUIC as of its last event. It is up
    /// while there is a session of either.
    pub(crate) fn status(&self, link: LinkId) -> LinkStatus {
        let wireguard = self.wireguard_status(link);
        #[cfg(feature = "quic")]
        {
            let quic = row(&self.quic_status, link);
            let up = wireguard.up || quic.up;
            LinkStatus { up, ..if self.by_quic(link) { quic } else { wireguard } }
        }
        #[cfg(not(feature = "quic"))]
        wireguard
    }

    /// How a link's WireGuard session stands.
    pub(crate) fn wireguard_status(&self, link: LinkId) -> LinkStatus {
        row(&self.status, link)
    }

    /// The ways of a link, if it has several and WireGuard carries it.
    pub(crate) fn ways(&self, link: LinkId) -> Vec<WayView> {
        let ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        ways.get(&link).filter(|_| !self.by_quic(link)).cloned().unwrap_or_default()
    }

    fn turn(&self, link: LinkId) -> u32 {
        self.turns.get(link.index()).map_or(0, |turn| turn.load(Ordering::Acquire))
    }

    /// Says how a link stands that is not among the worker's own any more.
    fn set_status(&self, link: LinkId, status: LinkStatus) {
        set_row(&self.status, link, status);
    }

    /// Says how a link's QUIC connection stands.
    #[cfg(feature = "quic")]
    pub(crate) fn set_quic_status(&self, link: LinkId, status: LinkStatus) {
        set_row(&self.quic_status, link, status);
    }

    /// Whether a link is sent by QUIC.
    pub(crate) fn by_quic(&self, link: LinkId) -> bool {
        #[cfg(feature = "quic")]
        return self.by_quic.get(link.index()).is_some_and(|by_quic| by_quic.load(Ordering::Relaxed));
        #[cfg(not(feature = "quic"))]
        return link.index() >= MAX_LINKS;
    }

    #[cfg(feature = "quic")]
    pub(crate) fn set_by_quic(&self, link: LinkId, by_quic: bool) {
        if let Some(known) = self.by_quic.get(link.index()) {
            known.store(by_quic, Ordering::Relaxed);
        }
    }
}

fn row(table: &Mutex<Vec<LinkStatus>>, link: LinkId) -> LinkStatus {
    let table = table.lock().unwrap_or_else(PoisonError::into_inner);
    table.get(link.index()).copied().unwrap_or_default()
}

fn set_row(table: &Mutex<Vec<LinkStatus>>, link: LinkId, status: LinkStatus) {
    let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(row) = table.get_mut(link.index()) {
        *row = status;
    }
}

/// A handle on the worker's inbox, for any thread.
#[derive(Clone)]
pub(crate) struct Inbox {
    orders: SyncSender<ToWorker>,
    /// What nobody would repeat. Without a bound of its own: each reading of the configuration brings a few for each link.
    settings: std::sync::mpsc::Sender<ToWorker>,
    /// Packets of QUIC links wait elsewhere, so that a fast one does not crowd out orders and control packets.
    #[cfg(feature = "quic")]
    packets: SyncSender<(LinkId, bytes::Bytes)>,
    #[cfg(feature = "quic")]
    shares: Arc<Shares>,
    waker: Arc<Waker>,
}

/// How many packets of each QUIC link wait, and of all: a neighbour's flood leaves others their room.
#[cfg(feature = "quic")]
struct Shares {
    of: [AtomicUsize; MAX_LINKS],
    all: AtomicUsize,
}

#[cfg(feature = "quic")]
impl Shares {
    fn new() -> Self {
        Self { of: [const { AtomicUsize::new(0) }; MAX_LINKS], all: AtomicUsize::new(0) }
    }

    /// Takes a place for a packet, if there is one for this link.
    fn take(&self, link: LinkId, packet: &[u8]) -> bool {
        let Some(of) = self.of.get(link.index()) else { return false };
        let more = if is_control(packet) { CONTROL_SHARE } else { 0 };
        let free = INBOX.saturating_sub(self.all.load(Ordering::Relaxed));
        let has = of.load(Ordering::Relaxed) < free + more;
        if has {
            of.fetch_add(1, Ordering::Relaxed);
            self.all.fetch_add(1, Ordering::Relaxed);
        }
        has
    }

    fn give_back(&self, link: LinkId) {
        if let Some(of) = self.of.get(link.index()) {
            of.fetch_sub(1, Ordering::Relaxed);
            self.all.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Inbox {
    /// Hands a message over without waiting. False when the inbox is full or the worker has ended.
    pub(crate) fn send(&self, message: ToWorker) -> bool {
        self.orders.try_send(message).is_ok() && self.wake()
    }

    /// Hands over what must not be lost, however full the inbox is. False when the worker has ended.
    pub(crate) fn set(&self, message: ToWorker) -> bool {
        self.settings.send(message).is_ok() && self.wake()
    }

    /// Hands over an IP packet that a QUIC link received.
    #[cfg(feature = "quic")]
    pub(crate) fn packet(&self, link: LinkId, packet: bytes::Bytes) -> bool {
        if !self.shares.take(link, &packet) {
            return false;
        }
        if self.packets.try_send((link, packet)).is_err() {
            self.shares.give_back(link);
            return false;
        }
        self.wake()
    }

    /// A lost wake-up is made good by the worker's next timer.
    fn wake(&self) -> bool {
        self.waker.wake().is_ok()
    }
}

/// What workers are made of.
pub(crate) struct Parts {
    /// One for each worker, and at least one.
    pub(crate) wireguard: Vec<WireGuard>,
    /// The TUN, or a host's port.
    pub(crate) local: Local,
    pub(crate) local_mtu: usize,
    pub(crate) address: std::net::Ipv6Addr,
    /// The UDP ports of all links.
    pub(crate) link_ports: Vec<u16>,
    pub(crate) control: tokio::sync::mpsc::Sender<FromWorker>,
    /// Whether the control task wants to hear of strangers.
    pub(crate) meets_strangers: bool,
    pub(crate) shared: Arc<Shared>,
}

/// The workers. Dropping the handle does not stop them; [`WorkerHandle::stop`] does.
pub(crate) struct WorkerHandle {
    threads: Vec<std::thread::JoinHandle<()>>,
    pub(crate) inbox: Inbox,
    shared: Arc<Shared>,
}

impl WorkerHandle {
    /// Lets go of the QUIC links. They hold what they are held by, so that nobody else would.
    pub(crate) fn close_quic(&self) {
        #[cfg(feature = "quic")]
        self.shared.quic.store(None);
    }

    /// Ends the threads; what they hold is closed when this returns.
    pub(crate) fn stop(self) {
        self.shared.stop.store(true, Ordering::Release);
        // The others stop at their next timer.
        if let Err(error) = self.inbox.waker.wake() {
            tracing::debug!(%error, "the worker will stop at its next timer");
        }
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a worker had panicked");
            }
        }
    }
}

/// The first worker's inbox before the worker exists: QUIC links need it to be made first.
pub(crate) struct Mailbox {
    poll: Poll,
    orders: Receiver<ToWorker>,
    settings: Receiver<ToWorker>,
    #[cfg(feature = "quic")]
    packets: Receiver<(LinkId, bytes::Bytes)>,
    pub(crate) inbox: Inbox,
}

impl Mailbox {
    pub(crate) fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
        let (order_sender, orders) = std::sync::mpsc::sync_channel(INBOX);
        let (setting_sender, settings) = std::sync::mpsc::channel();
        #[cfg(feature = "quic")]
        let (packet_sender, packets) = std::sync::mpsc::sync_channel(INBOX);
        let inbox = Inbox {
            orders: order_sender,
            settings: setting_sender,
            #[cfg(feature = "quic")]
            packets: packet_sender,
            #[cfg(feature = "quic")]
            shares: Arc::new(Shares::new()),
            waker,
        };
        Ok(Self {
            poll,
            orders,
            settings,
            #[cfg(feature = "quic")]
            packets,
            inbox,
        })
    }
}

/// Starts the threads.
pub(crate) fn start(name: &str, mailbox: Mailbox, parts: Parts) -> io::Result<WorkerHandle> {
    let slot = packet_len_max(parts.local_mtu);
    let (inbox, shared) = (mailbox.inbox.clone(), Arc::clone(&parts.shared));
    let workers = Worker::all(mailbox, parts)?;
    let mut handle = WorkerHandle { threads: Vec::new(), inbox, shared };
    for (number, worker) in (1..).zip(workers) {
        let name = if number == 1 { format!("{name} worker") } else { format!("{name} worker {number}") };
        let run = move || worker.run(&mut Batch::new(BATCH.min(BATCH_ROOM / slot), slot), &mut vec![0; FRAME_MAX]);
        match std::thread::Builder::new().name(name).spawn(run) {
            Ok(thread) => handle.threads.push(thread),
            Err(error) => {
                handle.stop();
                return Err(error);
            }
        }
    }
    Ok(handle)
}

/// The longest datagram a link of this MTU can need, WireGuard's overhead and padding included.
pub(crate) fn packet_len_max(mtu: usize) -> usize {
    mtu.next_multiple_of(16) + 64
}

#[expect(clippy::disallowed_methods, reason = "the worker's one clock; read per batch, not per packet")]
fn clock() -> Instant {
    Instant::now()
}

struct Worker {
    poll: Poll,
    /// The first worker's.
    requests: Option<Requests>,
    wireguard: WireGuard,
    local: Local,
    to_control: tokio::sync::mpsc::Sender<FromWorker>,
    /// Strangers that may still be told of in this timer interval; `None`: nobody wants to hear of them.
    strangers: Option<u8>,
    datapath: Datapath,
    waiting: Waiting,
    shared: Arc<Shared>,
    /// What was received last.
    train: Box<[u8]>,
    control_budget: [u16; MAX_LINKS],
    /// Left of [`LIFELINE`]: for control packets, and for short and for long datagrams besides.
    lifelines: [[usize; 3]; MAX_LINKS],
    /// Datagrams beyond it.
    refused: u32,
    timers_at: Instant,
}

/// What others have asked of the workers.
struct Requests {
    orders: Receiver<ToWorker>,
    settings: Receiver<ToWorker>,
    #[cfg(feature = "quic")]
    packets: Receiver<(LinkId, bytes::Bytes)>,
    #[cfg(feature = "quic")]
    shares: Arc<Shares>,
}

/// Which ingresses may hold more packets. Edge-triggered: each is read until it is empty.
#[derive(Default)]
struct Ready {
    udp: bool,
    local: bool,
    inbox: bool,
}

impl Ready {
    fn any(&self) -> bool {
        self.udp || self.local || self.inbox
    }
}

impl Worker {
    /// As many as there are sockets. The first has the mailbox and reads the node's own side.
    fn all(mailbox: Mailbox, parts: Parts) -> io::Result<Vec<Self>> {
        let Mailbox {
            poll,
            orders,
            settings,
            #[cfg_attr(not(feature = "quic"), expect(unused_variables, reason = "only QUIC's packets have shares"))]
            inbox,
            #[cfg(feature = "quic")]
            packets,
        } = mailbox;
        let count = parts.wireguard.len();
        let mut first = Some((
            poll,
            Requests {
                orders,
                settings,
                #[cfg(feature = "quic")]
                packets,
                #[cfg(feature = "quic")]
                shares: Arc::clone(&inbox.shares),
            },
        ));
        let mut workers = Vec::new();
        for mut wireguard in parts.wireguard {
            let (poll, requests) = match first.take() {
                Some((poll, requests)) => (poll, Some(requests)),
                None => (Poll::new()?, None),
            };
            poll.registry().register(wireguard.socket(), UDP, Interest::READABLE)?;
            let local = parts.local.share()?;
            if requests.is_some() {
                poll.registry().register(&mut SourceFd(&local.as_raw_fd()), LOCAL, Interest::READABLE)?;
            }
            let now = clock();
            let (meters, drops) = (Arc::clone(&parts.shared.meters), Arc::clone(&parts.shared.drops));
            workers.push(Self {
                poll,
                requests,
                wireguard,
                local,
                to_control: parts.control.clone(),
                strangers: parts.meets_strangers.then_some(STRANGERS_BUDGET),
                datapath: Datapath::new(parts.address, parts.local_mtu, meters, drops, now)
                    .with_link_ports(parts.link_ports.clone()),
                waiting: Waiting::new(packet_len_max(parts.local_mtu), QUEUE_ROOM / count),
                shared: Arc::clone(&parts.shared),
                train: vec![0; RECEIVE_MAX].into_boxed_slice(),
                control_budget: [CONTROL_BUDGET; MAX_LINKS],
                lifelines: [[LIFELINE; 3]; MAX_LINKS],
                refused: 0,
                timers_at: now,
            });
        }
        Ok(workers)
    }

    fn run(mut self, batch: &mut Batch, frame: &mut [u8]) {
        let mut events = Events::with_capacity(64);
        let mut ready = Ready::default();
        while !self.shared.stop.load(Ordering::Acquire) {
            let wait = if ready.any() { Duration::ZERO } else { self.timers_at.saturating_duration_since(clock()) };
            match self.poll.poll(&mut events, Some(wait)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::error!(%error, "the worker cannot wait for packets and stops");
                    return;
                }
            }
            let now = clock();
            for event in &events {
                match event.token() {
                    UDP => ready.udp = true,
                    LOCAL => ready.local = true,
                    WAKE => ready.inbox = true,
                    Token(exit) => self.send_waiting(now, LinkId((exit - EXITS) as u32)),
                }
            }
            if now >= self.timers_at {
                // The inbox is looked at here too: a wake-up that failed costs a timer interval, not a packet.
                ready.inbox = true;
                self.handle_timers(now);
            }
            self.datapath.set_fib(self.shared.fib.load_full());
            if ready.udp {
                ready.udp = self.read_udp(now, batch);
            }
            if ready.local {
                ready.local = self.read_local(now, batch, frame);
            }
            if ready.inbox {
                ready.inbox = self.read_inbox(now, batch);
            }
        }
    }

    fn handle_timers(&mut self, now: Instant) {
        self.timers_at = now + TIMER_INTERVAL;
        self.control_budget = [CONTROL_BUDGET; MAX_LINKS];
        self.lifelines = [[LIFELINE; 3]; MAX_LINKS];
        self.strangers = self.strangers.map(|_| STRANGERS_BUDGET);
        if self.requests.is_some() {
            self.wireguard.handle_timers(now, self.datapath.fib());
            *self.shared.ways.lock().unwrap_or_else(PoisonError::into_inner) = self.wireguard.ways().collect();
            let mut table = self.shared.status.lock().unwrap_or_else(PoisonError::into_inner);
            for (link, status) in self.wireguard.statuses() {
                if let Some(row) = table.get_mut(link.index()) {
                    *row = status;
                }
            }
        }
        // Should the kernel not say that there is room again.
        for link in self.waiting.links().collect::<Vec<_>>() {
            self.send_waiting(now, link);
        }
    }

    /// Takes about a batch of datagrams; true when there may be more.
    fn read_udp(&mut self, now: Instant, batch: &mut Batch) -> bool {
        batch.clear();
        let (mut ingress, mut taken, mut more) = (None, 0, true);
        while more && taken < BATCH {
            match self.wireguard.receive(&mut self.train) {
                Ok(received) => {
                    taken += 1; // An empty datagram, too, is one.
                    let mut at = 0;
                    while at < received.len {
                        let end = (at + received.stride).min(received.len);
                        self.open(now, &received, at..end, &mut ingress, batch);
                        (at, taken) = (end, taken + 1);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => more = false,
                // ICMP errors about earlier datagrams arrive here; the socket goes on.
                Err(_) => taken += 1,
            }
        }
        self.finish_udp(now, ingress, batch);
        more
    }

    /// Opens a datagram of the train into the batch. A batch has one ingress, and ends before a packet of another link: not
    /// before it has proved to be one, or strangers could end batches.
    fn open(
        &mut self,
        now: Instant,
        received: &Received,
        datagram: Range<usize>,
        ingress: &mut Option<LinkId>,
        batch: &mut Batch,
    ) {
        let claimed = WireGuard::claimed_link(&self.train[datagram.clone()]);
        if batch.is_full() {
            self.finish_udp(now, ingress.take(), batch);
        }
        let kind = if received.class.control { 0 } else { 1 + usize::from(datagram.len() > SHORT) };
        if claimed.is_some_and(|link| !self.may_open(link, kind)) {
            return self.datapath.count_drop(DropReason::UnpaidFlood);
        }
        let datagram_len = datagram.len();
        let bytes = &self.train[datagram.clone()];
        let opened = self.wireguard.open(now, self.datapath.fib(), received.from, bytes, batch.spare());
        match opened {
            Opened::Packet(link, len) => {
                self.charge(link, kind, datagram_len);
                if *ingress != Some(link) && !batch.is_empty() {
                    let before = batch.len();
                    self.finish_udp(now, ingress.take(), batch);
                    batch.bring_forward(before, len);
                }
                if take_over_ecn(&mut batch.spare()[..len], received.class.ecn) {
                    batch.commit(len);
                } else {
                    batch.commit_congested(len);
                }
                *ingress = Some(link);
            }
            Opened::Alive(link) => self.charge(link, kind, datagram_len),
            Opened::Stranger(key) => self.tell_of(key, received.from, datagram),
            Opened::Nothing => {}
        }
    }

    /// Hands a stranger's first message to the control task: it may know the key.
    fn tell_of(&mut self, key: WireguardKey, from: SocketAddr, datagram: Range<usize>) {
        let Some(left) = self.strangers.as_mut().filter(|left| **left > 0) else { return };
        *left -= 1;
        let datagram = self.train[datagram].to_vec();
        if self.to_control.try_send(FromWorker::Stranger { key, from, datagram }).is_err() {
            self.datapath.count_drop(DropReason::QueueFull);
        }
    }

    /// Whether a datagram that says it is of this link is worth opening. Beyond the lifeline a few still are: where marks
    /// are wiped off, a receipt among much else gets its chance however much that is.
    fn may_open(&mut self, link: LinkId, kind: usize) -> bool {
        if self.datapath.carries_for(link) || self.lifeline(link, kind).is_none_or(|left| *left > 0) {
            return true;
        }
        self.refused = self.refused.wrapping_add(1);
        self.refused.is_multiple_of(ONE_IN)
    }

    /// Only for what proved to be the link's own: nobody can use up another's lifeline.
    fn charge(&mut self, link: LinkId, kind: usize, len: usize) {
        if !self.datapath.carries_for(link)
            && let Some(left) = self.lifeline(link, kind)
        {
            *left = left.saturating_sub(len);
        }
    }

    fn lifeline(&mut self, link: LinkId, kind: usize) -> Option<&mut usize> {
        self.lifelines.get_mut(link.index())?.get_mut(kind)
    }

    fn finish_udp(&mut self, now: Instant, ingress: Option<LinkId>, batch: &mut Batch) {
        if let Some(link) = ingress {
            self.carry(now, Port::Link(link), batch);
        }
    }

    /// Takes about a batch of packets; true when there may be more.
    fn read_local(&mut self, now: Instant, batch: &mut Batch, frame: &mut [u8]) -> bool {
        batch.clear();
        let (mut taken, mut more) = (0, true);
        while more && taken < BATCH {
            match self.local.read(frame) {
                Ok(Frame::Packet(packet)) => {
                    taken += 1;
                    if batch.is_full() {
                        self.carry(now, Port::Local, batch);
                    }
                    if !batch.push(packet) {
                        self.datapath.count_drop(DropReason::TooBig);
                    }
                }
                Ok(Frame::Many(split)) => taken += self.cut(now, split, batch),
                Ok(Frame::Strange) => {
                    taken += 1;
                    self.datapath.count_drop(DropReason::NotIpv6);
                }
                // The kernel has a packet that its header cannot describe, and drops it; others may follow.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    taken += 1;
                    self.datapath.count_drop(DropReason::NotIpv6);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Empty, or the device is down or gone: the next readiness event says when to go on.
                Err(_) => more = false,
            }
        }
        self.carry(now, Port::Local, batch);
        more
    }

    /// Cuts a frame into the batch, and into as many more as it takes. How many packets it was.
    fn cut(&mut self, now: Instant, mut split: Split<'_>, batch: &mut Batch) -> usize {
        let mut packets = 0;
        loop {
            if batch.is_full() {
                self.carry(now, Port::Local, batch);
            }
            let Some(len) = split.next_into(batch.spare()) else {
                // Somebody made the device's MTU longer than the mesh's.
                self.datapath.count_drops(DropReason::TooBig, split.left() as u64);
                return packets + split.left();
            };
            batch.commit(len);
            packets += 1;
        }
    }

    fn read_inbox(&mut self, now: Instant, batch: &mut Batch) -> bool {
        let more_orders = self.read_orders(now);
        self.read_quic(now, batch) || more_orders
    }

    fn read_orders(&mut self, now: Instant) -> bool {
        for _ in 0..BATCH {
            let Some(requests) = &self.requests else { return false };
            match requests.settings.try_recv().or_else(|_| requests.orders.try_recv()) {
                Ok(ToWorker::Begin { link, turn }) => {
                    if let Some(known) = self.shared.turns.get(link.index()) {
                        known.store(turn, Ordering::Release);
                    }
                }
                Ok(ToWorker::Send { link, turn, .. } | ToWorker::Probe { link, turn, .. })
                    if turn != self.shared.turn(link) =>
                {
                    self.datapath.count_drop(DropReason::LinkDown);
                }
                Ok(ToWorker::Send { link, packet, .. }) => {
                    self.transmit(now, link, Sender::Control, std::iter::once(&packet[..]));
                }
                Ok(ToWorker::Probe { link, packet, .. }) => self.wireguard.probe(link, &packet),
                Ok(ToWorker::SetPeer(peer)) => self.wireguard.set_peer(now, &peer),
                Ok(ToWorker::Renew { link, starves }) => self.wireguard.renew(now, link, starves),
                Ok(ToWorker::Way { link, key, at }) => self.wireguard.add_way(now, link, &key, at),
                Ok(ToWorker::ForgetWays(link)) => self.wireguard.forget_ways(link),
                Ok(ToWorker::Call { link, at }) => self.wireguard.call(link, at),
                Ok(ToWorker::Meet { peer, from, datagram }) => {
                    self.wireguard.set_peer(now, &peer);
                    // The answer is sent by what opens it.
                    self.wireguard.open(now, self.datapath.fib(), from, &datagram, &mut self.train);
                }
                Ok(ToWorker::RemovePeer(link)) => {
                    self.wireguard.remove_peer(link);
                    // Here, since until now the timer may have written anew how it stands.
                    self.shared.set_status(link, LinkStatus::default());
                    let lost = self.waiting.forget(link);
                    self.datapath.count_drops(DropReason::LinkDown, lost);
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return false,
            }
        }
        true
    }

    #[cfg(feature = "quic")]
    fn read_quic(&mut self, now: Instant, batch: &mut Batch) -> bool {
        for _ in 0..BATCH {
            let Some(requests) = &self.requests else { return false };
            let Ok((link, packet)) = requests.packets.try_recv() else { return false };
            requests.shares.give_back(link);
            // The same lifeline as by WireGuard: of a neighbour whose packets are not carried little is looked at.
            let kind = if is_control(&packet) { 0 } else { 1 + usize::from(packet.len() > SHORT) };
            if !self.may_open(link, kind) {
                self.datapath.count_drop(DropReason::UnpaidFlood);
                continue;
            }
            self.charge(link, kind, packet.len());
            batch.clear();
            if batch.push(&packet) {
                self.carry(now, Port::Link(link), batch);
            } else {
                self.datapath.count_drop(DropReason::TooBig);
            }
        }
        true
    }

    #[cfg(not(feature = "quic"))]
    fn read_quic(&mut self, _now: Instant, _batch: &mut Batch) -> bool {
        false
    }

    /// Decides on the batch and acts on each verdict.
    fn carry(&mut self, now: Instant, ingress: Port, batch: &mut Batch) {
        if batch.is_empty() {
            return;
        }
        self.datapath.handle_batch(now, ingress, batch);
        for port in batch.egresses() {
            self.forward(now, port, ingress, batch.towards(port));
        }
        for (verdict, packet) in batch.packets() {
            if let Verdict::Control(link) = verdict {
                self.control(link, packet);
            }
        }
        for (port, packet) in batch.answers() {
            self.forward(now, port, Port::Local, std::iter::once(packet));
        }
        batch.clear();
    }

    fn forward<'a>(&mut self, now: Instant, port: Port, from: Port, packets: impl Iterator<Item = &'a [u8]> + Clone) {
        match port {
            Port::Link(link) => {
                let sent = self.transmit(now, link, Sender::Port(from), packets);
                self.datapath.count_sent(link, sent);
            }
            Port::Local => {
                let lost = self.local.write(packets);
                self.datapath.count_drops(DropReason::QueueFull, lost);
            }
        }
    }

    /// Sends packets on a link, or lets them wait for it. Those it took.
    fn transmit<'a>(
        &mut self,
        now: Instant,
        link: LinkId,
        from: Sender,
        packets: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> Tally {
        #[cfg(feature = "quic")]
        if self.shared.by_quic(link) {
            return self.transmit_quic(link, from, packets);
        }
        let waits = self.waiting.has(link);
        let carried = if waits { Carried::default() } else { self.wireguard.carry(now, link, packets.clone()) };
        count_lost(&self.datapath, &carried);
        if waits || carried.full {
            for packet in packets.skip(carried.done) {
                let lost = self.waiting.push(now, link, from, packet);
                self.datapath.count_drops(DropReason::QueueFull, lost);
            }
        }
        if carried.full {
            self.wait_for_room(link);
        }
        carried.sent
    }

    /// Should it fail, the timer comes by.
    fn wait_for_room(&mut self, link: LinkId) {
        let (registry, token) = (self.poll.registry(), Token(EXITS + link.index()));
        self.wireguard.with_exit(link, |exit| {
            let _again = registry.register(&mut SourceFd(&exit), token, Interest::WRITABLE);
        });
    }

    /// Sends what waits for a link that has room again.
    fn send_waiting(&mut self, now: Instant, link: LinkId) {
        let registry = self.poll.registry();
        self.wireguard.with_exit(link, |exit| {
            let _unknown = registry.deregister(&mut SourceFd(&exit));
        });
        let room = self.wireguard.handle_room(now, link);
        while self.waiting.has(link) {
            let too_old = self.waiting.take_turns(now, link, room);
            self.datapath.count_drops(DropReason::TooOld, too_old);
            let carried = self.wireguard.carry(now, link, self.waiting.control(link));
            count_lost(&self.datapath, &carried);
            self.waiting.control_left(link, carried.done);
            if carried.full {
                return self.wait_for_room(link);
            }
            let carried = self.wireguard.carry(now, link, self.waiting.leaving(link));
            count_lost(&self.datapath, &carried);
            self.waiting.left(link, carried.done);
            self.datapath.count_sent(link, carried.sent);
            if carried.full {
                return self.wait_for_room(link);
            }
        }
    }

    #[cfg(feature = "quic")]
    fn transmit_quic<'a>(&self, link: LinkId, from: Sender, packets: impl Iterator<Item = &'a [u8]>) -> Tally {
        let quic = self.shared.quic.load();
        let mut sent = Tally::default();
        for packet in packets {
            let taken = quic.as_ref().ok_or(DropReason::LinkDown).and_then(|links| {
                let sent = match from {
                    Sender::Control => links.send_control(link, packet),
                    Sender::Port(_) => links.send(link, packet),
                };
                sent.map_err(|error| match error {
                    SendError::NotConnected => DropReason::LinkDown,
                    SendError::Congested => DropReason::QueueFull,
                    SendError::TooLarge => DropReason::TooBig,
                })
            });
            match taken {
                Ok(()) => sent.add(packet.len()),
                Err(reason) => self.datapath.count_drop(reason),
            }
        }
        sent
    }

    /// Hands a neighbour's control packet to the control task.
    fn control(&mut self, link: LinkId, packet: &[u8]) {
        let Some(budget) = self.control_budget.get_mut(link.index()) else { return };
        let kept = if self.datapath.carries_for(link) { 0 } else { CONTROL_BUDGET - CONTROL_BUDGET_CLOSED };
        let Some(left) = budget.checked_sub(1).filter(|left| *left >= kept) else {
            return self.datapath.count_drop(DropReason::ControlFlood);
        };
        *budget = left;
        let message = FromWorker::Control { link, turn: self.shared.turn(link), packet: packet.to_vec() };
        if self.to_control.try_send(message).is_err() {
            self.datapath.count_drop(DropReason::QueueFull);
        }
    }
}

fn count_lost(datapath: &Datapath, carried: &Carried) {
    for (reason, packets) in carried.lost.into_iter().flatten() {
        datapath.count_drops(reason, packets);
    }
}

#[cfg(test)]
mod tests;
