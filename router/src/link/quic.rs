//! QUIC links: IP packets to neighbours that WireGuard does not reach (RFC 9000, RFC 9221).
//!
//! A packet travels as one DATAGRAM frame; one larger than the path allows travels as a message: a unidirectional
//! stream of its own, ended by its FIN, so that no packet waits for another. Keys are pinned on both sides (`tls`).
//!
//! ```text
//! accept ──── one answer per incoming connection ──┐
//! dial ────── one per peer, while it has an address ┴── Link::carry: datagrams and messages ──> sink
//! send (any thread) ──> Link::send ──> the link's active connection
//! ```
//!
//! Both sides may dial, and a restarted peer dials while its old connection still seems alive, so a link may have
//! two connections for a moment. The newest is always the active one; the side with the lower key, and only that
//! side, closes the others. As one side decides, the two never close each other's choice.
//!
//! Where strangers are met ([`QuicLinks::meet_strangers`]), whoever dials with a key that is no peer's is handed over as a
//! [`QuicStranger`] once it has proven to hold that key, and waits for a place: nothing is read of it before, and
//! whoever takes no message from us is not waited for.

mod tls;
mod transport;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use metering::SortedMap;
use metering::identity::TlsKey;
use portable_atomic::{AtomicU64, Ordering::Relaxed};
use quinn::{
    ClientConfig, Connection, ConnectionError, Endpoint, EndpointConfig, Incoming, RecvStream, SendDatagramError,
    TokioRuntime, TransportConfig, TransportErrorCode, VarInt, WriteError,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use zeroize::Zeroizing;

use self::tls::{Credentials, Pins};
use super::LinkId;
use super::train::canonical;

/// Of the datagrams that may wait to be sent, this many bytes are for control packets: more than the routes of 1,000 nodes
/// need. Without Hellos a full link would be taken for dead, and without receipts for unpaid.
const CONTROL_ROOM: usize = 64 << 10;

/// How long one dial may take, a Retry and lost packets included.
const DIAL_TIME: Duration = Duration::from_secs(10);

/// How long a peer may take from its validated Initial to the end of the handshake.
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);

/// Handshakes in progress with peers that dialled us. Beyond it, they are ignored and dial again.
const HANDSHAKES_MAX: usize = 64;

/// Bytes of early packets kept for one connection not yet accepted; ours fit a few Initials.
const EARLY_BYTES: u64 = 16 << 10;

/// How long a message may take to arrive: an IP packet older than this is of no use.
const MESSAGE_TIME: Duration = Duration::from_secs(2);

/// How long two connections of one link live side by side: a few round trips.
const SUPERSEDE_TIME: Duration = Duration::from_secs(1);

/// How long `shutdown` waits for peers to acknowledge the close.
const SHUTDOWN_TIME: Duration = Duration::from_secs(3);

/// First and longest pause between two dials.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Connected for this long, a link has proved itself: the next pause is the first again.
const PROVEN: Duration = Duration::from_secs(30);

/// IPv6 requires this much of every link (RFC 8200, section 5).
const LINK_MTU_MIN: usize = 1280;

/// As much as a jumbo frame carries.
const LINK_MTU_MAX: usize = 9000;

/// What we ask the system to buffer per direction: bursts arrive while the runtime is elsewhere.
const SOCKET_BUFFER: usize = 2 << 20;

/// Application error codes (RFC 9000, section 20.2).
const CLOSE_SHUTDOWN: VarInt = VarInt::from_u32(0);
const CLOSE_SUPERSEDED: VarInt = VarInt::from_u32(1);
const RESET_CONGESTED: VarInt = VarInt::from_u32(2);
const CLOSE_NOT_NEEDED: VarInt = VarInt::from_u32(3);
const CLOSE_NO_PLACE: VarInt = VarInt::from_u32(4);

/// TLS alerts (RFC 8446, section 6.2): the key presented is not a pinned one; no common ALPN protocol.
const ACCESS_DENIED: u8 = 49;
const NO_APPLICATION_PROTOCOL: u8 = 120;

/// What QUIC links are made from.
#[derive(Debug)]
pub struct QuicConfig {
    /// The UDP socket of all links; `[::]` serves IPv4 as well.
    pub listen: SocketAddr,
    /// Our Ed25519 seed.
    pub tls_secret: Zeroizing<[u8; 32]>,
    /// The neighbours, one link each. [`QuicLinks::set_peer`] adds others.
    pub peers: Vec<QuicPeer>,
    /// The largest IP packet of a link, in bytes; 1280 to 9000.
    ///
    /// Over a path of 1500 bytes a datagram carries 1434 (IPv4) or 1414 (IPv6); larger packets travel as messages, which
    /// cost about twice as much.
    pub link_mtu: usize,
}

/// A neighbour to link with.
#[derive(Clone, Debug)]
pub struct QuicPeer {
    /// The link's number; one peer, one link.
    pub link: LinkId,
    /// The Ed25519 key of the neighbour's node card.
    pub key: TlsKey,
    /// Where to dial it; without an address it has to dial us.
    pub dial: Option<SocketAddr>,
}

/// What happens on a link, in order: `Up`, packets, ..., `Down`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuicEvent {
    /// Both keys are verified and packets flow. Comes again, without a `Down`, when a newer connection takes over.
    Up {
        /// The peer's UDP address.
        remote: SocketAddr,
    },
    /// An IP packet from the neighbour: authentic, 1 to `link_mtu` bytes, otherwise unchecked.
    Packet(Bytes),
    /// No connection is left. A link with an address is dialled again by itself.
    Down {
        /// For the operator.
        reason: String,
    },
}

/// Somebody who has dialled us and holds a key that is no peer's. It waits for [`QuicLinks::adopt`].
#[derive(Debug)]
pub struct QuicStranger {
    /// The key it has proven to hold.
    pub key: TlsKey,
    /// Where it dials from. It has shown that it receives there.
    pub remote: SocketAddr,
    connection: Connection,
}

impl QuicStranger {
    /// There is no place for it; it is told so, and dials again.
    pub fn refuse(self) {
        self.connection.close(CLOSE_NO_PLACE, b"no place for strangers at the moment");
    }
}

/// Why links cannot start.
#[derive(Debug, thiserror::Error)]
pub enum QuicError {
    /// The socket cannot be had.
    #[error("cannot listen on UDP {address} for QUIC links: {source}")]
    Bind {
        /// What was asked for.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// The TLS library refuses our key or its own settings.
    #[error("cannot set up TLS for QUIC links: {0}")]
    Tls(#[from] rustls::Error),
    /// Two peers share a link number or a key.
    #[error("QUIC peer {key} is listed twice, or its link {link:?} is")]
    DuplicatePeer {
        /// The second one's link.
        link: LinkId,
        /// The second one's key.
        key: TlsKey,
    },
    /// A peer has our own key.
    #[error("QUIC peer {key} is this node itself")]
    OwnKey {
        /// Our key.
        key: TlsKey,
    },
    /// No useful link MTU.
    #[error("a QUIC link's MTU is {LINK_MTU_MIN} to {LINK_MTU_MAX}, not {mtu}")]
    LinkMtu {
        /// What was asked for, in bytes.
        mtu: usize,
    },
    /// We were called from outside tokio.
    #[error("QUIC links must be started inside a tokio runtime")]
    NoRuntime,
}

/// Why a packet was not sent. The caller counts it as a dropped packet; only `Congested` is counted here too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// There is no such link, or it is down.
    #[error("the link is down")]
    NotConnected,
    /// The send buffer is full; the newest packet is the one dropped.
    #[error("the link is congested")]
    Congested,
    /// Beyond the link's MTU, or empty.
    #[error("the packet does not fit the link's MTU")]
    TooLarge,
}

/// What a link has done, for status. The counts go on over reconnects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuicCounters {
    /// The peer's UDP address, while the link is up.
    pub remote: Option<SocketAddr>,
    /// Smoothed round-trip time, while the link is up.
    pub rtt: Option<Duration>,
    /// The largest packet that travels as a datagram, in bytes, while the link is up.
    pub datagram_max: Option<usize>,
    /// Packets handed to QUIC as datagrams.
    pub datagrams_sent: u64,
    /// Packets received as datagrams.
    pub datagrams_received: u64,
    /// Packets sent as messages because no datagram was large enough.
    pub messages_sent: u64,
    /// Packets received as messages.
    pub messages_received: u64,
    /// Packets `send` refused as `Congested`.
    pub congested: u64,
    /// Datagrams that arrived and were dropped because they were not read in time; those about to be read count in.
    pub overflowed: u64,
    /// Packets received that were empty or beyond our MTU, and messages that broke off or came too late.
    pub refused: u64,
    /// QUIC packets of ours that the path lost. Those of messages were sent again.
    pub lost: u64,
    /// Why the last dial failed or the last connection ended, while the link is down.
    pub failure: Option<String>,
}

/// The QUIC links of a node: one UDP socket, one link per peer.
///
/// `start` it inside a tokio runtime; `send` packets from any thread; what arrives goes to the sink; `shutdown` at the
/// end tells the peers. Dropping it stops everything, too, but the peers learn of it by chance. The runtime lets go of the
/// socket a moment after the drop.
pub struct QuicLinks {
    endpoint: Endpoint,
    local_addr: SocketAddr,
    links: Arc<ArcSwap<Table>>,
    strangers: Arc<Strangers>,
    closing: watch::Sender<bool>,
    /// The lock also keeps changes of the links in order.
    tasks: Mutex<JoinSet<()>>,
    parts: Parts,
}

type Table = SortedMap<LinkId, Arc<Link>>;

/// Who dials us and is no peer.
#[derive(Default)]
struct Strangers {
    /// Whom to tell, if they are met.
    tell: OnceLock<Box<dyn Fn(QuicStranger) + Send + Sync>>,
    refused: AtomicU64,
}

/// What further links are made of.
struct Parts {
    runtime: Handle,
    credentials: Credentials,
    transport: Arc<TransportConfig>,
    /// The keys that may dial us.
    pins: Arc<Pins>,
    link_mtu: usize,
    sink: Sink,
}

impl QuicLinks {
    /// Binds the socket, answers and dials.
    ///
    /// `sink` is called from tokio tasks and must not block; events of one link come in order.
    ///
    /// # Errors
    /// Says which part of the configuration cannot work, or that the socket cannot be had.
    pub fn start(
        config: QuicConfig,
        sink: impl Fn(LinkId, QuicEvent) + Send + Sync + 'static,
    ) -> Result<Self, QuicError> {
        if !(LINK_MTU_MIN..=LINK_MTU_MAX).contains(&config.link_mtu) {
            return Err(QuicError::LinkMtu { mtu: config.link_mtu });
        }
        let runtime = Handle::try_current().map_err(|_| QuicError::NoRuntime)?;
        let credentials = Credentials::new(&config.tls_secret)?;
        for (number, QuicPeer { link, key, .. }) in config.peers.iter().enumerate() {
            if config.peers[..number].iter().any(|other| other.link == *link || other.key == *key) {
                return Err(QuicError::DuplicatePeer { link: *link, key: *key });
            }
        }
        let transport = transport::config(config.link_mtu as u32);
        let pins = Pins::new([]);

        let mut server = credentials.server(&pins)?;
        server
            .transport_config(transport::narrow(config.link_mtu as u32))
            .max_incoming(HANDSHAKES_MAX)
            .incoming_buffer_size(EARLY_BYTES)
            .incoming_buffer_size_total(EARLY_BYTES * HANDSHAKES_MAX as u64);
        let mut ours = EndpointConfig::new(credentials.reset_key());
        let ids = credentials.connection_ids()?;
        ours.cid_generator(move || Box::new(ids.clone()));
        let bound = bind(config.listen).and_then(|socket| {
            let local_addr = socket.local_addr()?;
            let endpoint = Endpoint::new(ours, Some(server), socket, Arc::new(TokioRuntime))?;
            Ok((endpoint, local_addr))
        });
        let (endpoint, local_addr) = bound.map_err(|source| QuicError::Bind { address: config.listen, source })?;

        let (closing, _) = watch::channel(false);
        let (links, strangers) = (Arc::<ArcSwap<Table>>::default(), Arc::<Strangers>::default());
        let mut tasks = JoinSet::new();
        tasks.spawn_on(accept(endpoint.clone(), links.clone(), strangers.clone()), &runtime);
        let parts = Parts { runtime, credentials, transport, pins, link_mtu: config.link_mtu, sink: Arc::new(sink) };
        let started = Self { endpoint, local_addr, links, strangers, closing, tasks: Mutex::new(tasks), parts };
        for peer in &config.peers {
            started.set_peer(peer)?;
        }
        Ok(started)
    }

    /// Adds a neighbour, or changes where one is dialled that is there. A link that had its number or its key before is removed.
    ///
    /// # Errors
    /// [`QuicError::OwnKey`], or that the TLS library refuses.
    pub fn set_peer(&self, peer: &QuicPeer) -> Result<(), QuicError> {
        self.place(peer).map(|link| link.widen())
    }

    /// From now on, whoever proves a key that is no peer's is told of here. `tell` is called from tokio tasks and must not block.
    pub fn meet_strangers(&self, tell: impl Fn(QuicStranger) + Send + Sync + 'static) {
        if self.strangers.tell.set(Box::new(tell)).is_ok() {
            self.parts.pins.open();
        }
    }

    /// Gives a stranger a link of its own. Where its key is a peer's by now, it is that one's connection instead.
    ///
    /// # Errors
    /// [`QuicError::OwnKey`], or that the TLS library refuses.
    pub fn adopt(&self, link: LinkId, stranger: QuicStranger) -> Result<(), QuicError> {
        let QuicStranger { key, connection, .. } = stranger;
        let link = match find(&self.links.load(), key) {
            Some(known) => known,
            None => self.place(&QuicPeer { link, key, dial: None })?,
        };
        if welcome(&connection) {
            let carried = async move {
                link.carry(connection).await;
            };
            let mut tasks = lock(&self.tasks);
            while tasks.try_join_next().is_some() {}
            tasks.spawn_on(carried, &self.parts.runtime);
        }
        Ok(())
    }

    /// A link goes on under another number, with its connections: two have turned out to be with one neighbour. What had that
    /// number before is removed.
    pub fn renumber(&self, from: LinkId, to: LinkId) {
        let _in_order = lock(&self.tasks);
        let mut table = Table::clone(&self.links.load());
        let Some(link) = table.remove(&from) else { return };
        link.id.store(to.0, Ordering::Release);
        if let Some(old) = table.insert(to, link.clone()) {
            old.end();
        }
        self.parts.pins.accept(table.values().map(|link| link.key));
        self.links.store(Arc::new(table));
        link.widen();
        let _in_order = link.connections.borrow();
        if let Some(active) = link.active.load().as_deref() {
            link.tell(QuicEvent::Up { remote: remote(active) });
        }
    }

    fn place(&self, peer: &QuicPeer) -> Result<Arc<Link>, QuicError> {
        let QuicPeer { link: id, key, dial } = *peer;
        let Parts { runtime, credentials, transport, pins, link_mtu, sink } = &self.parts;
        let own = credentials.key();
        if key == own {
            return Err(QuicError::OwnKey { key });
        }
        let mut tasks = lock(&self.tasks);
        let mut table = Table::clone(&self.links.load());
        if let Some(link) = table.get(&id).filter(|link| link.key == key) {
            link.set_dial(dial);
            return Ok(link.clone());
        }
        let pinned = Pins::new([key]);
        let mut client = credentials.client(&pinned)?;
        client.transport_config(transport.clone());
        table.retain(|known, link| {
            let stays = *known != id && link.key != key;
            if !stays {
                link.end();
            }
            stays
        });
        let link = Arc::new(Link::new(id, key, own < key, *link_mtu, sink.clone()));
        link.set_dial(dial);
        table.insert(id, link.clone());
        pins.accept(table.values().map(|link| link.key));
        self.links.store(Arc::new(table));
        while tasks.try_join_next().is_some() {}
        let dialler = Dialler { endpoint: self.endpoint.clone(), link: link.clone(), client, pins: pinned };
        tasks.spawn_on(dialler.run(self.closing.subscribe()), runtime);
        Ok(link)
    }

    /// Forgets a neighbour and closes its connections. Nothing more comes from it, not even a `Down`.
    pub fn remove_peer(&self, link: LinkId) {
        let _in_order = lock(&self.tasks);
        let mut table = Table::clone(&self.links.load());
        if let Some(link) = table.remove(&link) {
            self.parts.pins.accept(table.values().map(|link| link.key));
            self.links.store(Arc::new(table));
            link.end();
        }
    }

    /// Closes the connections of a link that is not needed for now, and dials no more. It stays open to whoever dials us.
    pub fn hang_up(&self, link: LinkId) {
        if let Some(link) = self.links.load().get(&link) {
            link.set_dial(None);
            link.close(CLOSE_NOT_NEEDED, b"not needed");
        }
    }

    /// Whether a link is up, and how many packets have come over it so far; `None` if there is no such link.
    #[must_use]
    pub fn heard(&self, link: LinkId) -> Option<(bool, u64)> {
        let links = self.links.load();
        let link = links.get(&link)?;
        let counts = &link.counts;
        let packets = counts.datagrams_received.load(Relaxed) + counts.messages_received.load(Relaxed);
        Some((link.active.load().is_some(), packets))
    }

    /// Where the socket is bound; the port is the real one where 0 was asked for.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Sends one IP packet to that neighbour. For any thread; never blocks, keeps no packet that QUIC does not take.
    ///
    /// # Errors
    /// Says why the packet is dropped.
    pub fn send(&self, link: LinkId, packet: &[u8]) -> Result<(), SendError> {
        let links = self.links.load();
        let link = links.get(&link).ok_or(SendError::NotConnected)?;
        link.send(packet, CONTROL_ROOM)
    }

    /// The same for a control packet, for which room is kept free however much else is to be sent.
    ///
    /// # Errors
    /// Says why the packet is dropped.
    pub fn send_control(&self, link: LinkId, packet: &[u8]) -> Result<(), SendError> {
        let links = self.links.load();
        let link = links.get(&link).ok_or(SendError::NotConnected)?;
        link.send(packet, 0)
    }

    /// What the link has done; `None` if there is no such link.
    #[must_use]
    pub fn counters(&self, link: LinkId) -> Option<QuicCounters> {
        self.links.load().get(&link).map(|link| link.counters())
    }

    /// How many have dialled us and failed to prove a pinned key, or any where strangers are met.
    #[must_use]
    pub fn strangers(&self) -> u64 {
        self.strangers.refused.load(Relaxed)
    }

    /// Closes all links, tells the peers, and waits until they know or have had the time to. Links go `Down`.
    pub async fn shutdown(&self) {
        self.closing.send_replace(true);
        self.endpoint.close(CLOSE_SHUTDOWN, b"shutting down");
        let mut tasks = std::mem::take(&mut *lock(&self.tasks));
        let ended = async {
            while tasks.join_next().await.is_some() {}
            self.endpoint.wait_idle().await;
        };
        if timeout(SHUTDOWN_TIME, ended).await.is_err() {
            tracing::debug!("not all QUIC peers acknowledged the close");
        }
    }
}

impl Drop for QuicLinks {
    fn drop(&mut self) {
        self.endpoint.close(CLOSE_SHUTDOWN, b"shutting down");
    }
}

impl std::fmt::Debug for QuicLinks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let links = self.links.load();
        (f.debug_struct("QuicLinks").field("local_addr", &self.local_addr))
            .field("links", &links.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

type Sink = Arc<dyn Fn(LinkId, QuicEvent) + Send + Sync>;

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        socket.set_only_v6(false)?;
    }
    // The system may grant less, which costs throughput and nothing else.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Answers whoever dials, until the endpoint closes.
async fn accept(endpoint: Endpoint, links: Arc<ArcSwap<Table>>, strangers: Arc<Strangers>) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let mut answers = JoinSet::new();
    loop {
        tokio::select! {
            incoming = endpoint.accept() => {
                let Some(incoming) = incoming else { break };
                if !incoming.remote_address_validated() {
                    // A Retry costs us no state, and a spoofed source never answers it (RFC 9000, section 8.1.2).
                    let _ = incoming.retry();
                } else if let Ok(slot) = handshakes.clone().try_acquire_owned() {
                    let (links, strangers) = (links.clone(), strangers.clone());
                    answers.spawn(async move {
                        let answered = answer(incoming, &links).await;
                        drop(slot);
                        match (answered, strangers.tell.get()) {
                            (Some(Answered::Known(link, connection)), _) => { link.carry(connection).await; }
                            (Some(Answered::Stranger(stranger)), Some(tell)) => tell(stranger),
                            (Some(Answered::Stranger(_)) | None, _) => { strangers.refused.fetch_add(1, Relaxed); }
                        }
                    });
                } else {
                    incoming.ignore();
                }
            }
            Some(_) = answers.join_next() => {}
        }
    }
    while answers.join_next().await.is_some() {}
}

/// Whoever has dialled us and proven a key.
enum Answered {
    Known(Arc<Link>, Connection),
    Stranger(QuicStranger),
}

/// The handshake as a server, a peer's up to the welcome; `None` if the other side fails it.
async fn answer(incoming: Incoming, links: &ArcSwap<Table>) -> Option<Answered> {
    let from = incoming.remote_address();
    let handshake = async {
        let connection = incoming.await?;
        let Some(key) = tls::key_of(&connection) else { return Ok(None) };
        let Some(link) = find(&links.load(), key) else {
            let remote = remote(&connection);
            return Ok(Some(Answered::Stranger(QuicStranger { key, remote, connection })));
        };
        // Before the welcome, so that the neighbour knows its limits by then.
        link.give_room(&connection);
        let welcomed = welcome(&connection);
        Ok::<_, ConnectionError>(welcomed.then_some(Answered::Known(link, connection)))
    };
    match timeout(HANDSHAKE_TIME, handshake).await {
        Ok(Ok(answered)) => answered,
        Ok(Err(error)) => {
            tracing::debug!(remote = %from, %error, "QUIC handshake refused");
            None
        }
        Err(_) => None,
    }
}

fn find(table: &Table, key: TlsKey) -> Option<Arc<Link>> {
    table.values().find(|link| link.key == key).cloned()
}

/// An empty message, sent as the first. In TLS 1.3 a client is done before the server has looked at its key; only the
/// welcome tells it that it was let in. By the end of the handshake it has said how many streams it takes, so nobody is
/// waited for: whoever takes none could have itself kept for ever. `false`: the connection has ended.
fn welcome(connection: &Connection) -> bool {
    match at_once(connection.open_uni()) {
        Some(Ok(mut stream)) => {
            let _ = stream.finish(); // fails only on a stream already ended
            true
        }
        Some(Err(_)) | None => {
            connection.close(CLOSE_NO_PLACE, b"it takes no messages");
            false
        }
    }
}

/// Keeps one peer dialled, while it has an address.
struct Dialler {
    endpoint: Endpoint,
    link: Arc<Link>,
    client: ClientConfig,
    pins: Arc<Pins>,
}

impl Dialler {
    async fn run(self, mut closing: watch::Receiver<bool>) {
        let mut dial = self.link.dial.subscribe();
        let mut backoff = Backoff::new(fastrand::Rng::new());
        loop {
            let address = *dial.borrow_and_update();
            if self.link.ended.load(Ordering::Acquire) {
                return;
            }
            let dialled = tokio::select! {
                () = closed(&mut closing) => return,
                _ = dial.changed() => {
                    backoff.reset();
                    continue;
                }
                dialled = self.connect(address) => dialled,
            };
            match dialled {
                Ok(connection) => {
                    if self.link.carry(connection).await >= PROVEN {
                        backoff.reset();
                    }
                }
                Err(reason) => self.link.failed(reason),
            }
            tokio::select! {
                () = closed(&mut closing) => return,
                _ = dial.changed() => backoff.reset(),
                () = sleep(backoff.pause()) => {}
            }
        }
    }

    /// Dials once the link has no connection; without an address, never.
    async fn connect(&self, address: Option<SocketAddr>) -> Result<Connection, String> {
        let Some(address) = address else { return std::future::pending().await };
        self.link.idle().await;
        self.dial(address).await
    }

    /// The handshake as a client, up to the welcome.
    async fn dial(&self, address: SocketAddr) -> Result<Connection, String> {
        let handshake = async {
            let connecting = (self.endpoint)
                .connect_with(self.client.clone(), address, "waybill")
                .map_err(|error| format!("cannot dial {address}: {error}"))?;
            let connection = connecting.await.map_err(|error| self.blame(address, &error))?;
            let welcome = connection.accept_uni().await;
            welcome.map_err(|error| self.blame(address, &error))?;
            Ok(connection)
        };
        let dialled = timeout(DIAL_TIME, handshake).await;
        dialled.unwrap_or_else(|_| Err(format!("no answer from {address}")))
    }

    /// Who must act.
    fn blame(&self, address: SocketAddr, error: &ConnectionError) -> String {
        let pinned = self.link.key;
        let (ours, theirs) = alerts(error);
        if ours == Some(ACCESS_DENIED) {
            let presented = self.pins.refused().map(|key| key.to_string());
            let presented = presented.unwrap_or_else(|| "another key".into());
            return format!("{address} has {presented}, not the configured key {pinned}");
        }
        if theirs == Some(ACCESS_DENIED) {
            return format!("{address} refused our key: it has to list this node as a peer");
        }
        if ours.or(theirs) == Some(NO_APPLICATION_PROTOCOL) {
            return format!("{address} does not speak {}", tls::ALPN.escape_ascii());
        }
        format!("cannot link with {address}: {}", describe(error))
    }
}

/// The TLS alert that we sent, or that they did (RFC 9001, section 4.8).
fn alerts(error: &ConnectionError) -> (Option<u8>, Option<u8>) {
    let alert = |code| {
        let known = [ACCESS_DENIED, NO_APPLICATION_PROTOCOL];
        known.into_iter().find(|&alert| code == TransportErrorCode::crypto(alert))
    };
    match error {
        ConnectionError::TransportError(error) => (alert(error.code), None),
        ConnectionError::ConnectionClosed(close) => (None, alert(close.error_code)),
        ConnectionError::VersionMismatch
        | ConnectionError::ApplicationClosed(_)
        | ConnectionError::Reset
        | ConnectionError::TimedOut
        | ConnectionError::LocallyClosed
        | ConnectionError::CidsExhausted => (None, None),
    }
}

/// Returns when the links shut down or are gone.
async fn closed(closing: &mut watch::Receiver<bool>) {
    let _ = closing.wait_for(|closing| *closing).await; // an error: the sender is gone
}

/// Why a connection ended, in words for the operator. What the peer wrote is shortened.
fn describe(error: &ConnectionError) -> String {
    match error {
        ConnectionError::TimedOut => {
            format!("nothing heard for {} s", transport::IDLE_TIMEOUT_MS / 1000)
        }
        ConnectionError::Reset => "the peer has restarted".into(),
        ConnectionError::ApplicationClosed(close) if close.error_code == CLOSE_SHUTDOWN => {
            "the peer has shut down".into()
        }
        ConnectionError::ApplicationClosed(close) if close.error_code == CLOSE_NO_PLACE => {
            "the peer does not know us, and has no place for strangers at the moment".into()
        }
        ConnectionError::LocallyClosed => "closed by this node".into(),
        ConnectionError::VersionMismatch
        | ConnectionError::TransportError(_)
        | ConnectionError::ConnectionClosed(_)
        | ConnectionError::ApplicationClosed(_)
        | ConnectionError::CidsExhausted => error.to_string().chars().take(200).collect(),
    }
}

/// The pauses between dials: doubling, with jitter so that a village does not redial in step after a power cut.
struct Backoff {
    next: Duration,
    rng: fastrand::Rng,
}

impl Backoff {
    const fn new(rng: fastrand::Rng) -> Self {
        Self { next: BACKOFF_MIN, rng }
    }

    /// The next pause: 75 to 125 % of the plan, never beyond `BACKOFF_MAX`.
    fn pause(&mut self) -> Duration {
        let pause = self.next * self.rng.u32(75..=125) / 100;
        self.next = BACKOFF_MAX.min(self.next * 2);
        BACKOFF_MAX.min(pause)
    }

    const fn reset(&mut self) {
        self.next = BACKOFF_MIN;
    }
}

/// One peer and its connections.
struct Link {
    /// Its number at present.
    id: AtomicU32,
    key: TlsKey,
    /// It is with a neighbour, and not with a stranger.
    wide: AtomicBool,
    /// Our key is the lower one: of several connections it is we who close all but the newest.
    arbiter: bool,
    mtu: usize,
    sink: Sink,
    /// Where to dial it at present.
    dial: watch::Sender<Option<SocketAddr>>,
    /// It is not among the links any more.
    ended: AtomicBool,
    /// What `send` uses.
    active: ArcSwapOption<Connection>,
    /// All connections whose packets we read, the newest last. The lock also keeps `Up` and `Down` in order.
    connections: watch::Sender<Vec<Connection>>,
    counts: Counts,
    failure: ArcSwapOption<String>,
}

#[derive(Default)]
struct Counts {
    datagrams_sent: AtomicU64,
    datagrams_received: AtomicU64,
    messages_sent: AtomicU64,
    messages_received: AtomicU64,
    congested: AtomicU64,
    refused: AtomicU64,
    /// Of connections that have ended: datagrams that arrived, and packets that were lost.
    arrived: AtomicU64,
    lost: AtomicU64,
}

impl Link {
    fn new(id: LinkId, key: TlsKey, arbiter: bool, mtu: usize, sink: Sink) -> Self {
        Self {
            id: AtomicU32::new(id.0),
            key,
            wide: AtomicBool::new(false),
            arbiter,
            mtu,
            sink,
            dial: watch::Sender::new(None),
            ended: AtomicBool::new(false),
            active: ArcSwapOption::empty(),
            connections: watch::Sender::new(Vec::new()),
            counts: Counts::default(),
            failure: ArcSwapOption::empty(),
        }
    }

    fn set_dial(&self, address: Option<SocketAddr>) {
        self.dial.send_if_modified(|dial| std::mem::replace(dial, address) != address);
    }

    /// It is with a neighbour from here on.
    fn widen(&self) {
        if !self.wide.swap(true, Ordering::AcqRel) {
            self.connections.borrow().iter().for_each(transport::widen);
        }
    }

    fn give_room(&self, connection: &Connection) {
        if self.wide.load(Ordering::Acquire) {
            transport::widen(connection);
        }
    }

    fn number(&self) -> LinkId {
        LinkId(self.id.load(Ordering::Acquire))
    }

    fn close(&self, code: VarInt, reason: &[u8]) {
        for connection in &*self.connections.borrow() {
            connection.close(code, reason);
        }
    }

    /// Wakes and ends whoever dials, and lets nobody in.
    fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.dial.send_replace(None);
        self.close(CLOSE_SHUTDOWN, b"no neighbours any more");
    }

    /// Leaves `free` bytes of what may wait to others.
    fn send(&self, packet: &[u8], free: usize) -> Result<(), SendError> {
        if packet.is_empty() || packet.len() > self.mtu {
            return Err(SendError::TooLarge);
        }
        let active = self.active.load();
        let connection = active.as_deref().ok_or(SendError::NotConnected)?;
        if connection.datagram_send_buffer_space() < free {
            return Err(self.congested());
        }
        let datagram = connection.send_datagram_wait(Bytes::copy_from_slice(packet));
        match at_once(datagram) {
            Some(Ok(())) => {
                self.counts.datagrams_sent.fetch_add(1, Relaxed);
                Ok(())
            }
            Some(Err(SendDatagramError::TooLarge | SendDatagramError::UnsupportedByPeer)) => {
                self.send_message(connection, packet)
            }
            Some(Err(SendDatagramError::ConnectionLost(_) | SendDatagramError::Disabled)) => {
                Err(SendError::NotConnected)
            }
            None => Err(self.congested()),
        }
    }

    /// The packet on a stream of its own. It is taken whole or not at all.
    fn send_message(&self, connection: &Connection, packet: &[u8]) -> Result<(), SendError> {
        let mut stream = match at_once(connection.open_uni()) {
            Some(Ok(stream)) => stream,
            Some(Err(_)) => return Err(SendError::NotConnected),
            None => return Err(self.congested()),
        };
        match at_once(stream.write(packet)) {
            Some(Ok(written)) if written == packet.len() => {
                let _ = stream.finish(); // fails only on a stream already ended
                self.counts.messages_sent.fetch_add(1, Relaxed);
                Ok(())
            }
            Some(Err(WriteError::ConnectionLost(_))) => Err(SendError::NotConnected),
            Some(Ok(_) | Err(_)) | None => {
                let _ = stream.reset(RESET_CONGESTED);
                Err(self.congested())
            }
        }
    }

    fn congested(&self) -> SendError {
        self.counts.congested.fetch_add(1, Relaxed);
        SendError::Congested
    }

    /// Returns when the link has no connection.
    async fn idle(&self) {
        let mut connections = self.connections.subscribe();
        let _ = connections.wait_for(Vec::is_empty).await; // the sender is `self`
    }

    /// Hands on what arrives, until the connection ends; says how long it lived.
    async fn carry(&self, connection: Connection) -> Duration {
        let began = Instant::now();
        self.enter(&connection);
        let reading = async { tokio::join!(self.read_datagrams(&connection), self.read_messages(&connection)) };
        let (error, ()) = tokio::select! {
            ended = reading => ended,
            never = self.supersede(&connection) => match never {},
        };
        self.leave(&connection, describe(&error));
        began.elapsed()
    }

    /// The newest connection is the active one. The one before it is kept for a while, as the two sides may have seen
    /// them arrive in different order.
    fn enter(&self, connection: &Connection) {
        self.connections.send_modify(|connections| {
            let older = connections.len().saturating_sub(1);
            close_superseded(&connections[..older]);
            connections.push(connection.clone());
            self.give_room(connection);
            if self.ended.load(Ordering::Acquire) {
                connection.close(CLOSE_SHUTDOWN, b"no neighbours any more");
            } else {
                self.activate(connection);
            }
        });
    }

    /// The arbiter closes what came before this connection, once both sides had the time to take it up.
    async fn supersede(&self, connection: &Connection) -> Infallible {
        if self.arbiter {
            sleep(SUPERSEDE_TIME).await;
            let connections = self.connections.borrow();
            let id = connection.stable_id();
            let older = connections.iter().position(|other| other.stable_id() == id);
            close_superseded(&connections[..older.unwrap_or(0)]);
        }
        std::future::pending().await
    }

    fn leave(&self, connection: &Connection, reason: String) {
        let stats = connection.stats();
        self.counts.arrived.fetch_add(stats.frame_rx.datagram, Relaxed);
        self.counts.lost.fetch_add(stats.path.lost_packets, Relaxed);
        self.connections.send_modify(|connections| {
            connections.retain(|other| other.stable_id() != connection.stable_id());
            let active = self.active.load();
            if active.as_deref().is_some_and(|active| active.stable_id() == connection.stable_id()) {
                match connections.iter().rfind(|other| other.close_reason().is_none()) {
                    Some(other) => self.activate(other),
                    None => self.active.store(None),
                }
            }
            if connections.is_empty() {
                let link = self.number().0;
                // Strangers come and go as they like, also many a second.
                if self.wide.load(Ordering::Acquire) {
                    tracing::info!(link, %reason, "QUIC connection ended");
                } else {
                    tracing::debug!(link, %reason, "a stranger's QUIC connection ended");
                }
                self.failed(reason.clone());
                self.tell(QuicEvent::Down { reason });
            }
        });
    }

    fn activate(&self, connection: &Connection) {
        let remote = remote(connection);
        tracing::debug!(link = self.number().0, %remote, "QUIC link up");
        self.active.store(Some(Arc::new(connection.clone())));
        self.failure.store(None);
        self.tell(QuicEvent::Up { remote });
    }

    /// Whoever has the link's number by now is not told of this one.
    fn tell(&self, event: QuicEvent) {
        if !self.ended.load(Ordering::Acquire) {
            (self.sink)(self.number(), event);
        }
    }

    fn failed(&self, reason: String) {
        tracing::debug!(link = self.number().0, reason, "QUIC link not up");
        self.failure.store(Some(Arc::new(reason)));
    }

    async fn read_datagrams(&self, connection: &Connection) -> ConnectionError {
        loop {
            match connection.read_datagram().await {
                Ok(packet) => self.deliver(packet, &self.counts.datagrams_received),
                Err(error) => return error,
            }
        }
    }

    /// As many messages at once as QUIC lets the peer open, each no longer than the link's MTU.
    async fn read_messages(&self, connection: &Connection) {
        let mut arriving = JoinSet::new();
        loop {
            tokio::select! {
                opened = connection.accept_uni() => match opened {
                    Ok(stream) => { arriving.spawn(read_message(stream, self.mtu)); }
                    Err(_) => return,
                },
                Some(read) = arriving.join_next() => match read {
                    Ok(Some(packet)) => self.deliver(packet, &self.counts.messages_received),
                    Ok(None) | Err(_) => { self.counts.refused.fetch_add(1, Relaxed); }
                },
            }
        }
    }

    fn deliver(&self, packet: Bytes, count: &AtomicU64) {
        let fits = !packet.is_empty() && packet.len() <= self.mtu;
        let count = if fits { count } else { &self.counts.refused };
        count.fetch_add(1, Relaxed);
        if fits {
            self.tell(QuicEvent::Packet(packet));
        }
    }

    fn counters(&self) -> QuicCounters {
        let active = self.active.load();
        let active = active.as_deref();
        let stats = active.map(Connection::stats).unwrap_or_default();
        let counts = &self.counts;
        let arrived = counts.arrived.load(Relaxed) + stats.frame_rx.datagram;
        QuicCounters {
            remote: active.map(remote),
            rtt: active.map(Connection::rtt),
            datagram_max: active.and_then(Connection::max_datagram_size),
            datagrams_sent: counts.datagrams_sent.load(Relaxed),
            datagrams_received: counts.datagrams_received.load(Relaxed),
            messages_sent: counts.messages_sent.load(Relaxed),
            messages_received: counts.messages_received.load(Relaxed),
            congested: counts.congested.load(Relaxed),
            overflowed: arrived.saturating_sub(counts.datagrams_received.load(Relaxed)),
            refused: counts.refused.load(Relaxed),
            lost: counts.lost.load(Relaxed) + stats.path.lost_packets,
            failure: self.failure.load().as_deref().cloned(),
        }
    }
}

/// The peer's address, IPv4 as such where our socket is an IPv6 one.
fn remote(connection: &Connection) -> SocketAddr {
    canonical(connection.remote_address())
}

fn close_superseded(connections: &[Connection]) {
    for connection in connections {
        connection.close(CLOSE_SUPERSEDED, b"a newer connection took over");
    }
}

/// One message, if it is whole, in time and no longer than `mtu`. What is dropped, QUIC stops.
async fn read_message(mut stream: RecvStream, mtu: usize) -> Option<Bytes> {
    let read = timeout(MESSAGE_TIME, stream.read_to_end(mtu)).await;
    read.ok()?.ok().map(Bytes::from)
}

/// What the future yields without waiting.
fn at_once<F: Future>(future: F) -> Option<F::Output> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// A panic elsewhere leaves nothing half done behind this lock.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
