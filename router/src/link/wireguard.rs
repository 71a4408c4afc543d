//! WireGuard links: `boringtun`'s noise layer over one UDP socket of ours.
//!
//! [`WireGuard::open`] turns a datagram into an IP packet of a known link, [`WireGuard::carry`] IP packets into trains of
//! datagrams, [`WireGuard::handle_timers`] keeps sessions alive. On the wire it is plain WireGuard: the other end may be
//! the kernel or any client. Endpoints follow authenticated packets (roaming), never unauthenticated ones, and never into the
//! mesh: a link that is reached over links would carry its own packets for ever. A neighbour that is found on several wires is sent
//! to on the best of them, and follows nothing else while one of them works ([`node::ways`]).

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use metering::identity::WireguardKey;
use metering::{link_local, mesh_address};
use mio::net::UdpSocket;
use node::datapath::packet::{
    Class, ControlDatagram, Ecn, IPV6_HEADER_LEN, UDP_HEADER_LEN, control_packet, is_control, parse_control,
};
use node::datapath::{Fib, MAX_LINKS, NextHop, Tally};
use node::ways::{WAY_MESSAGE_LEN, WAYS_PORT, WayView, Ways};
use node::{DropReason, LinkId};
use x25519_dalek::{PublicKey, StaticSecret};

use super::LinkStatus;
use super::train::{DATAGRAMS_MAX, Received, Sent, TRAIN_MAX, TrainSocket};

/// Length of a cookie reply, the one answer that proves nothing about its sender (WireGuard paper, section 5.4.7).
const COOKIE_REPLY_LEN: usize = 64;
/// Room that `Tunn` wants for any message of its own.
const MESSAGE_LEN_MAX: usize = 148;
/// The first bytes of a transport data message (WireGuard paper, section 5.4.6).
const TRANSPORT_DATA: [u8; 4] = [4, 0, 0, 0];
/// The first bytes of a handshake response (section 5.4.3).
const HANDSHAKE_RESPONSE: [u8; 4] = [2, 0, 0, 0];
/// The first bytes of a cookie reply (section 5.4.7).
const COOKIE_REPLY: [u8; 4] = [3, 0, 0, 0];
/// What a transport data message adds to an IP packet.
pub(crate) const OVERHEAD: usize = 32;
/// Handshakes a second before cookies are demanded. A node has at most 128 links, each of which may start one, and each
/// is counted twice: when it comes in and by its peer, which share the limiter so that they share its cookies.
const HANDSHAKES_PER_SECOND: u64 = 256;
/// Strangers a second whose first message is looked at over a mesh: whether they have the key they claim costs four
/// multiplications on the curve.
const STRANGERS_PER_SECOND: u32 = 64;
/// How long a silent peer with a known endpoint is left alone before a fresh attempt. `REKEY_TIMEOUT` is 5 s and
/// boringtun repeats within an attempt by itself; this restarts attempts it has given up.
const RETRY: Duration = Duration::from_secs(5);
/// What a way could not carry is tried again this often: ways change, and anybody can pretend that an MTU is small.
const WAYS_KNOWN_FOR: Duration = Duration::from_secs(60);
/// Length of a packet about a link's ways.
const WAY_PACKET_LEN: usize = IPV6_HEADER_LEN + UDP_HEADER_LEN + WAY_MESSAGE_LEN;
/// What waits in a link's socket should leave it within this time: long enough to keep the link busy until the worker
/// comes by, short enough that a call does not suffer.
const EXIT_TIME: Duration = Duration::from_millis(10);
/// Bounds of what may wait there, in bytes: for 10 Mbit/s, and for more than a gigabit.
const EXIT_ROOM: RangeInclusive<usize> = 12_000..=256 << 10;
/// One is made anew for another way no more often than this.
const EXIT_LASTS: Duration = Duration::from_secs(1);
/// How often `Tunn` timers run. It rounds to seconds; a quarter keeps retries prompt.
pub(crate) const TIMER_INTERVAL: Duration = Duration::from_millis(250);

/// A peer from the configuration.
#[derive(Debug, Clone)]
pub struct PeerConfig {
    /// The link it becomes.
    pub link: LinkId,
    /// Its static public key.
    pub key: WireguardKey,
    /// Where to reach it, if it does not only call us.
    pub endpoint: Option<SocketAddr>,
    /// It runs Waybill, which tells its hosts of congestion met inside the link. Of others nobody knows, so their packets
    /// are to be dropped and not marked (RFC 6040, section 4.3).
    pub tells_congestion: bool,
}

struct Peer {
    tunn: Tunn,
    key: WireguardKey,
    /// Its address inside the link.
    address: Ipv6Addr,
    /// Where it is sent to: of several ways, the one in use.
    endpoint: Option<SocketAddr>,
    /// While there are several.
    ways: Option<Box<Ways>>,
    /// As the owner wrote it.
    configured: Option<SocketAddr>,
    tells_congestion: bool,
    attempted: Option<Instant>,
    /// Of its datagrams, in bytes.
    longest: usize,
    /// `None` on kernels that allow no second socket of an address.
    exit: Option<Exit>,
    /// The system knows no way to the endpoint: the cable is out, the route is gone.
    unreachable: bool,
    /// Authentic datagrams, and those of them that answered a handshake.
    heard: u64,
    answered: u64,
    /// Those that were transport data.
    data: u64,
    /// On the way to this endpoint the kernel lately cut no trains of datagrams so long or longer.
    uncut: Option<(SocketAddr, usize)>,
}

/// The socket a peer's packets leave by: a slow link fills its own and nobody else's. Handshakes and keepalives leave by
/// the one all share, past what waits here.
struct Exit {
    socket: TrainSocket,
    /// What may wait in it: narrow where the way is slow.
    room: usize,
    /// Never narrower.
    narrowest: usize,
    full_since: Option<Instant>,
    /// When it was made.
    made: Instant,
}

/// The peers of all workers.
struct Peers {
    /// The mesh is below: both ends of a session are at their mesh addresses and this port, and nobody is anywhere else.
    over_mesh: Option<u16>,
    secret: StaticSecret,
    public: PublicKey,
    /// Ours inside the links.
    address: Ipv6Addr,
    limiter: Arc<RateLimiter>,
    links: Box<[Mutex<Option<Peer>>]>,
    by_key: Mutex<HashMap<[u8; 32], LinkId>>,
}

impl Peers {
    fn new(secret: [u8; 32], links: usize, over_mesh: Option<u16>) -> Self {
        let secret = StaticSecret::from(secret);
        let public = PublicKey::from(&secret);
        Self {
            over_mesh,
            limiter: Arc::new(RateLimiter::new(&public, HANDSHAKES_PER_SECOND)),
            address: link_local(&WireguardKey(public.to_bytes())),
            secret,
            public,
            links: (0..links).map(|_| Mutex::new(None)).collect(),
            by_key: Mutex::default(),
        }
    }

    /// Locked, if there may be such a link.
    fn lock(&self, link: LinkId) -> Option<MutexGuard<'_, Option<Peer>>> {
        Some(self.links.get(link.index())?.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn by_key(&self) -> MutexGuard<'_, HashMap<[u8; 32], LinkId>> {
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a datagram turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Opened {
    /// An IP packet of this link, in the first bytes of the slot.
    Packet(LinkId, usize),
    /// An authenticated message of this link without a packet: handshake or keepalive.
    Alive(LinkId),
    /// The first message of a handshake with whoever has this key, which is no peer's. Over a mesh, its address proves the key,
    /// and the message that its sender has it, or had it when this was recorded.
    Stranger(WireguardKey),
    /// Nothing that concerns anybody.
    Nothing,
}

/// All WireGuard links, in the hands of one worker. Each worker has its own sockets to receive from; the peers are shared,
/// and each is locked for as long as a batch is sealed or a datagram opened. Two workers meet at a peer only where one sends
/// what the other receives from there.
pub(crate) struct WireGuard {
    peers: Arc<Peers>,
    limiter_reset: Instant,
    ways_forgotten: Instant,
    /// Strangers that were looked at since the limiter was reset.
    strangers: u32,
    socket: TrainSocket,
    packet_len_max: usize,
    /// For what must not be cut in pieces on the way. `None` where a second socket is impossible.
    prober: Option<TrainSocket>,
    train: Train,
}

impl WireGuard {
    /// Binds the sockets of up to `workers` workers. Without `offloads`, each datagram is received and sent alone.
    pub(crate) fn bind(
        secret: [u8; 32],
        listen: SocketAddr,
        packet_len_max: usize,
        offloads: bool,
        workers: usize,
        now: Instant,
    ) -> io::Result<Vec<Self>> {
        let peers = Arc::new(Peers::new(secret, MAX_LINKS, None));
        let handle = |socket: TrainSocket| Self {
            peers: Arc::clone(&peers),
            limiter_reset: now,
            ways_forgotten: now,
            strangers: 0,
            prober: socket.prober().inspect_err(|error| tracing::info!(%error, "no path is probed")).ok(),
            socket,
            packet_len_max,
            train: Train::new(packet_len_max),
        };
        Ok(TrainSocket::bind_all(listen, offloads, workers)?.into_iter().map(handle).collect())
    }

    /// Binds one socket for up to `sessions` sessions that the mesh carries. They share it: what it sends is queued by the
    /// links below.
    pub(crate) fn bind_over_mesh(
        secret: [u8; 32],
        listen: SocketAddr,
        packet_len_max: usize,
        offloads: bool,
        sessions: usize,
        now: Instant,
    ) -> io::Result<Self> {
        Ok(Self {
            peers: Arc::new(Peers::new(secret, sessions, Some(listen.port()))),
            limiter_reset: now,
            ways_forgotten: now,
            strangers: 0,
            socket: TrainSocket::bind(listen, offloads)?,
            prober: None,
            packet_len_max,
            train: Train::new(packet_len_max),
        })
    }

    /// Sends a datagram that belongs to no session.
    pub(crate) fn send_plain(&self, to: SocketAddr, datagram: &[u8]) {
        self.socket.send_one(to, datagram);
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    pub(crate) fn socket(&mut self) -> &mut UdpSocket {
        self.socket.source()
    }

    /// Adds a peer, or changes the endpoint of one that is there.
    pub(crate) fn set_peer(&mut self, now: Instant, config: &PeerConfig) {
        let Some(mut known) = self.peers.lock(config.link) else { return };
        match &mut *known {
            Some(peer) if peer.key == config.key => {
                if let Some(ways) = &mut peer.ways {
                    ways.handle_written(now, config.endpoint);
                    ways.take(now, config.endpoint.unwrap_or(ways.in_use()));
                }
                peer.go_by(now, config.endpoint, &self.socket);
                peer.configured = config.endpoint;
                peer.tells_congestion = config.tells_congestion;
            }
            slot => {
                let tunn = Tunn::new(
                    self.peers.secret.clone(),
                    config.key.0.into(),
                    None,
                    None,
                    config.link.0,
                    Some(Arc::clone(&self.peers.limiter)),
                );
                let peer = Peer {
                    tunn,
                    key: config.key,
                    address: link_local(&config.key),
                    endpoint: config.endpoint,
                    ways: None,
                    configured: config.endpoint,
                    tells_congestion: config.tells_congestion,
                    attempted: None,
                    longest: self.packet_len_max + OVERHEAD,
                    exit: (self.peers.over_mesh.is_none())
                        .then(|| Exit::new(now, &self.socket, self.packet_len_max + OVERHEAD))
                        .flatten(),
                    unreachable: false,
                    heard: 0,
                    answered: 0,
                    data: 0,
                    uncut: None,
                };
                let mut by_key = self.peers.by_key();
                if let Some(old) = slot.replace(peer) {
                    forget_key(&mut by_key, old.key, config.link);
                }
                by_key.insert(config.key.0, config.link);
            }
        }
    }

    /// Forgets a peer and its session.
    pub(crate) fn remove_peer(&mut self, link: LinkId) {
        if let Some(peer) = self.peers.lock(link).and_then(|mut known| known.take()) {
            forget_key(&mut self.peers.by_key(), peer.key, link);
        }
    }

    /// Starts a handshake with a peer whose endpoint is known, beside the session there is, and whether or not another is under way:
    /// that one's first message may be lost, and boringtun would repeat it only after `REKEY_TIMEOUT`, 5 s.
    ///
    /// Where it `starves`, as no data came for long, it goes by another way first, if one answers.
    pub(crate) fn renew(&mut self, now: Instant, link: LinkId, starves: bool) {
        let Some(mut known) = self.peers.lock(link) else { return };
        let Some(peer) = known.as_mut() else { return };
        if let (Some(ways), Some(_)) = (&mut peer.ways, peer.tunn.time_since_last_handshake()) {
            if starves {
                ways.handle_starved(now);
            }
            peer.tell_ways(now, &self.socket, &mut self.train.buffer, &self.peers.address);
        }
        let (Some(endpoint), TunnResult::WriteToNetwork(datagram)) =
            (peer.endpoint, peer.tunn.format_handshake_initiation(&mut self.train.buffer, true))
        else {
            return;
        };
        peer.note(self.socket.send_one(endpoint, datagram));
    }

    /// The same at another place, once: where the peer is only what it answers from there can say.
    pub(crate) fn call(&mut self, link: LinkId, at: SocketAddr) {
        let mut known = self.peers.lock(link);
        let Some(peer) = known.as_deref_mut().and_then(Option::as_mut) else { return };
        if let TunnResult::WriteToNetwork(datagram) =
            peer.tunn.format_handshake_initiation(&mut self.train.buffer, false)
        {
            self.socket.send_one(at, datagram);
        }
    }

    /// The peer with this key is found there, too: another way if it has a session by one.
    pub(crate) fn add_way(&mut self, now: Instant, link: LinkId, key: &WireguardKey, at: SocketAddr) {
        let mut known = self.peers.lock(link);
        let peer = known.as_deref_mut().and_then(Option::as_mut).filter(|peer| peer.key == *key);
        if let Some(peer) = peer.filter(|peer| peer.tunn.time_since_last_handshake().is_some()) {
            peer.add_way(now, at);
        }
    }

    /// Whoever said where the peer is had no right to: it is where it sends from, and nowhere else.
    pub(crate) fn forget_ways(&mut self, link: LinkId) {
        let mut known = self.peers.lock(link);
        if let Some(peer) = known.as_deref_mut().and_then(Option::as_mut) {
            peer.ways = None;
        }
    }

    pub(crate) fn has_peer(&self, link: LinkId) -> bool {
        self.peers.lock(link).is_some_and(|known| known.is_some())
    }

    /// Receives one train into `buffer`, whose length is [`RECEIVE_MAX`](super::train::RECEIVE_MAX).
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        self.socket.receive(buffer)
    }

    /// The link a datagram with a packet says it is of: not to be believed before it is opened.
    pub(crate) fn claimed_link(datagram: &[u8]) -> Option<LinkId> {
        let (kind, rest) = datagram.split_first_chunk()?;
        let index = rest.first_chunk().filter(|_| *kind == TRANSPORT_DATA)?;
        Some(LinkId(u32::from_le_bytes(*index) >> 8))
    }

    /// Opens a datagram. `slot` must be at least as long as the datagram. Answers of the protocol are sent at once. What
    /// comes from where `fib` leads into the mesh is of no link, unless the owner wrote that it is.
    pub(crate) fn open(
        &mut self,
        now: Instant,
        fib: &Fib,
        from: SocketAddr,
        datagram: &[u8],
        slot: &mut [u8],
    ) -> Opened {
        let mut cookie = [0; COOKIE_REPLY_LEN];
        let peers = &self.peers;
        let link = match peers.limiter.verify_packet(Some(from.ip()), datagram, &mut cookie) {
            Ok(Packet::HandshakeInit(init)) => {
                let key =
                    parse_handshake_anon(&peers.secret, &peers.public, &init).ok().map(|half| half.peer_static_public);
                let link = key.and_then(|key| peers.by_key().get(&key).copied());
                if let (Some(key), None) = (key.map(WireguardKey), link) {
                    let is_let_in = match peers.over_mesh {
                        Some(port) => {
                            let looks = from == at_home(&key, port) && self.strangers < STRANGERS_PER_SECOND;
                            self.strangers += u32::from(looks);
                            looks && is_authentic(peers, &key, datagram)
                        }
                        None => !leads_into_mesh(fib, from.ip()),
                    };
                    return if is_let_in { Opened::Stranger(key) } else { Opened::Nothing };
                }
                link
            }
            Ok(Packet::HandshakeResponse(response)) => Some(LinkId(response.receiver_idx >> 8)),
            Ok(Packet::PacketCookieReply(reply)) => Some(LinkId(reply.receiver_idx >> 8)),
            Ok(Packet::PacketData(data)) => Some(LinkId(data.receiver_idx >> 8)),
            Err(TunnResult::WriteToNetwork(cookie)) => {
                self.socket.send_one(from, cookie);
                None
            }
            Err(_) => None,
        };
        let mut known = link.and_then(|link| peers.lock(link));
        let peer = known.as_deref_mut().and_then(Option::as_mut);
        let (Some((link, peer)), true) = (link.zip(peer), slot.len() >= datagram.len().max(MESSAGE_LEN_MAX)) else {
            return Opened::Nothing;
        };
        // Over the mesh nobody roams: a relay could send on what it carries from another address, and have the answers.
        let elsewhere = match peers.over_mesh {
            Some(port) => from != at_home(&peer.key, port),
            None => ![peer.endpoint, peer.configured].contains(&Some(from)) && leads_into_mesh(fib, from.ip()),
        };
        if elsewhere {
            return Opened::Nothing;
        }
        let opened = match peer.tunn.decapsulate(Some(from.ip()), datagram, slot) {
            TunnResult::WriteToTunnelV6(packet, _) | TunnResult::WriteToTunnelV4(packet, _) => {
                let len = packet.len();
                if peer.tells_congestion
                    && peers.over_mesh.is_none()
                    && let Some(message) = about_ways(&slot[..len], &peer.address)
                {
                    // It is not counted as data: that passes only where data does.
                    peer.handle_way_message(now, from, &message);
                    peer.tell_ways(now, &self.socket, &mut self.train.buffer, &peers.address);
                    return Opened::Alive(link);
                }
                Opened::Packet(link, len)
            }
            TunnResult::WriteToNetwork(answer) if answer.len() == COOKIE_REPLY_LEN => {
                self.socket.send_one(from, answer);
                return Opened::Nothing;
            }
            TunnResult::WriteToNetwork(answer) => {
                self.socket.send_one(from, answer);
                while let TunnResult::WriteToNetwork(queued) = peer.tunn.decapsulate(None, &[], &mut self.train.buffer)
                {
                    self.socket.send_one(from, queued);
                }
                Opened::Alive(link)
            }
            // A cookie reply: whoever saw our initiation and knows the peer's public key can have made it.
            TunnResult::Done if datagram.starts_with(&COOKIE_REPLY) => {
                return Opened::Nothing;
            }
            TunnResult::Done => Opened::Alive(link),
            TunnResult::Err(_) => return Opened::Nothing,
        };
        peer.heard += 1;
        peer.answered += u64::from(datagram.starts_with(&HANDSHAKE_RESPONSE));
        peer.data += u64::from(datagram.starts_with(&TRANSPORT_DATA));
        match &mut peer.ways {
            Some(ways) => {
                ways.handle_heard(now, from);
                peer.follow_ways(now, &self.socket);
            }
            None => peer.endpoint = Some(from),
        }
        opened
    }

    /// Seals IP packets and sends them, as many as possible in each call. Fails when there is no session; one is then
    /// being made. When the link's socket is full, it ends before the first packet that finds no room.
    pub(crate) fn carry<'a>(
        &mut self,
        now: Instant,
        link: LinkId,
        packets: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> Carried {
        let mut carried = Carried::default();
        let mut known = self.peers.lock(link);
        let peer = known.as_deref_mut().and_then(Option::as_mut);
        let ready = peer.filter(|peer| peer.tunn.time_since_last_handshake().is_some());
        let Some((peer, endpoint)) = ready.and_then(|peer| peer.endpoint.map(|endpoint| (peer, endpoint))) else {
            carried.lose(DropReason::LinkDown, packets.count() as u64);
            return carried;
        };
        self.train.len_max = peer.exit.as_ref().map_or(TRAIN_MAX, |exit| exit.room.min(TRAIN_MAX));
        for packet in packets {
            let ecn = if peer.tells_congestion { Ecn::of_packet(packet) } else { Ecn::NotCapable };
            let class = Class { ecn, control: is_control(packet) };
            if !self.train.takes(packet.len() + OVERHEAD, class) {
                peer.depart(now, &mut self.train, &self.socket, endpoint, &mut carried);
                if carried.full {
                    return carried;
                }
            }
            let sealed = self.train.place(packet.len()).map(|place| peer.tunn.encapsulate(packet, place));
            let why = match sealed {
                Some(TunnResult::WriteToNetwork(datagram))
                    if datagram.len() == packet.len() + OVERHEAD && datagram[..4] == TRANSPORT_DATA =>
                {
                    self.train.couple(packet.len() + OVERHEAD, packet.len(), class);
                    continue;
                }
                Some(TunnResult::WriteToNetwork(datagram)) => {
                    // There is no session after all, and this begins one.
                    peer.note(self.socket.send_one(endpoint, datagram));
                    DropReason::LinkDown
                }
                Some(_) => DropReason::LinkDown,
                None => DropReason::TooBig,
            };
            // Those before it come first, so that it is known how far this came.
            peer.depart(now, &mut self.train, &self.socket, endpoint, &mut carried);
            if carried.full {
                return carried;
            }
            carried.lose(why, 1);
        }
        peer.depart(now, &mut self.train, &self.socket, endpoint, &mut carried);
        carried
    }

    /// Sends one packet that arrives in one piece or not at all. Nothing is said of its fate: its answer will tell.
    pub(crate) fn probe(&mut self, link: LinkId, packet: &[u8]) {
        let mut known = self.peers.lock(link);
        let peer = known.as_deref_mut().and_then(Option::as_mut);
        let ready = peer.filter(|peer| peer.tunn.time_since_last_handshake().is_some());
        let Some((peer, prober)) = ready.zip(self.prober.as_ref()) else { return };
        if let (Some(endpoint), Some(place)) = (peer.endpoint, self.train.place(packet.len()))
            && let TunnResult::WriteToNetwork(datagram) = peer.tunn.encapsulate(packet, place)
        {
            prober.send_one(endpoint, datagram);
        }
    }

    /// Does something with the socket a link's packets leave by, if it is its own; it stays open meanwhile.
    pub(crate) fn with_exit(&self, link: LinkId, act: impl FnOnce(RawFd)) {
        let known = self.peers.lock(link);
        if let Some(exit) = known.as_deref().and_then(Option::as_ref).and_then(|peer| peer.exit.as_ref()) {
            act(exit.socket.as_raw_fd());
        }
    }

    /// The link's socket has room again. How many bytes it should be given at once.
    pub(crate) fn handle_room(&mut self, now: Instant, link: LinkId) -> usize {
        let mut known = self.peers.lock(link);
        let peer = known.as_deref_mut().and_then(Option::as_mut);
        peer.and_then(|peer| peer.exit.as_mut()).map_or(TRAIN_MAX, |exit| exit.handle_room(now))
    }

    /// Runs the timers of all peers; harmless to call early. One worker's business. An address that was learnt before `fib`
    /// led it into the mesh is forgotten.
    pub(crate) fn handle_timers(&mut self, now: Instant, fib: &Fib) {
        if now.saturating_duration_since(self.limiter_reset) >= Duration::from_secs(1) {
            self.peers.limiter.reset_count();
            (self.limiter_reset, self.strangers) = (now, 0);
        }
        let forget_ways = now >= self.ways_forgotten + WAYS_KNOWN_FOR;
        if forget_ways {
            self.ways_forgotten = now;
        }
        for link in &self.peers.links {
            let mut known = link.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(peer) = known.as_mut() else { continue };
            peer.drop_ways(fib);
            if forget_ways {
                peer.uncut = None;
            }
            match (peer.tunn.update_timers(&mut self.train.buffer), peer.endpoint) {
                (TunnResult::WriteToNetwork(datagram), Some(endpoint)) => {
                    let sent = self.socket.send_one(endpoint, datagram);
                    peer.note(sent);
                }
                (TunnResult::Err(WireGuardError::ConnectionExpired), _) => peer.attempted = None,
                _ => {}
            }
            peer.look_at_ways(now, &self.socket, &mut self.train.buffer, &self.peers.address);
            if peer.tunn.time_since_last_handshake().is_none() {
                initiate(peer, &self.socket, &mut self.train.buffer, now);
            } else if peer.unreachable {
                keep_alive(peer, &self.socket, &mut self.train.buffer);
            }
        }
    }

    /// The ways of each link that has several.
    pub(crate) fn ways(&self) -> impl Iterator<Item = (LinkId, Vec<WayView>)> {
        (0..).map(LinkId).zip(&self.peers.links).filter_map(|(link, known)| {
            let known = known.lock().unwrap_or_else(PoisonError::into_inner);
            Some((link, known.as_ref()?.ways.as_ref()?.views().collect()))
        })
    }

    /// How every WireGuard link stands.
    pub(crate) fn statuses(&self) -> impl Iterator<Item = (LinkId, LinkStatus)> {
        (0..).map(LinkId).zip(&self.peers.links).filter_map(|(link, known)| {
            let known = known.lock().unwrap_or_else(PoisonError::into_inner);
            let peer = known.as_ref()?;
            let last_handshake = peer.tunn.time_since_last_handshake();
            let (up, unreachable) = (last_handshake.is_some(), peer.unreachable);
            let (endpoint, heard, answered, data) = (peer.endpoint, peer.heard, peer.answered, peer.data);
            let status = LinkStatus { up, unreachable, endpoint, last_handshake, heard, answered, data };
            Some((link, status))
        })
    }
}

impl Peer {
    fn add_way(&mut self, now: Instant, at: SocketAddr) {
        let Some(endpoint) = self.endpoint else { return };
        if self.ways.is_some() || at != endpoint {
            let written = self.configured;
            self.ways.get_or_insert_with(|| Box::new(Ways::new(now, endpoint, written))).handle_found(now, at);
        }
    }

    /// A question that comes from elsewhere than where it is sent to shows another way.
    fn handle_way_message(&mut self, now: Instant, from: SocketAddr, message: &[u8]) {
        let endpoint = *self.endpoint.get_or_insert(from);
        let written = self.configured;
        let ways = self.ways.get_or_insert_with(|| Box::new(Ways::new(now, endpoint, written)));
        // What another version may say is left alone.
        let _foreign = ways.handle_message(now, from, message);
    }

    fn follow_ways(&mut self, now: Instant, shared: &TrainSocket) {
        self.go_by(now, self.ways.as_ref().map(|ways| ways.in_use()), shared);
    }

    /// It is sent to there from now on. What waits in the socket for another way is no hindrance to this one; but a neighbour that
    /// moves all the time is not worth a socket each time.
    fn go_by(&mut self, now: Instant, endpoint: Option<SocketAddr>, shared: &TrainSocket) {
        let Some(endpoint) = endpoint.filter(|to| self.endpoint != Some(*to)) else { return };
        (self.endpoint, self.unreachable) = (Some(endpoint), false);
        if self.exit.as_ref().is_some_and(|exit| now.saturating_duration_since(exit.made) >= EXIT_LASTS) {
            self.exit = Exit::new(now, shared, self.longest);
        }
    }

    /// Ways that lead into the mesh are none.
    fn drop_ways(&mut self, fib: &Fib) {
        let may = |at: SocketAddr| self.configured == Some(at) || !leads_into_mesh(fib, at.ip());
        if let Some(ways) = &mut self.ways {
            if !ways.retain(may) {
                self.ways = None;
            }
        } else if self.endpoint.is_some_and(|at| !may(at)) {
            self.endpoint = self.configured;
        }
    }

    fn look_at_ways(&mut self, now: Instant, socket: &TrainSocket, buffer: &mut [u8], ours: &Ipv6Addr) {
        let Some(ways) = &mut self.ways else { return };
        if self.tunn.time_since_last_handshake().is_none() {
            ways.handle_lost();
            ways.forget(now);
        } else {
            if let Some(endpoint) = self.endpoint.filter(|_| self.unreachable) {
                ways.handle_reach(now, endpoint, false);
            }
            ways.handle_timeout(now);
            self.tell_ways(now, socket, buffer, ours);
        }
        self.follow_ways(now, socket);
        self.ways.take_if(|ways| ways.is_one());
    }

    /// Sends what there is to say about the ways, each by its own, past what waits.
    fn tell_ways(&mut self, now: Instant, socket: &TrainSocket, buffer: &mut [u8], ours: &Ipv6Addr) {
        let Some(ways) = &mut self.ways else { return };
        while let Some((to, message)) = ways.poll_transmit() {
            let packet = control_packet(*ours, self.address, WAYS_PORT, &message);
            let TunnResult::WriteToNetwork(datagram) = self.tunn.encapsulate(&packet, buffer) else { continue };
            match socket.send_one(to, datagram) {
                Sent::Taken => ways.handle_reach(now, to, true),
                Sent::Unreachable => ways.handle_reach(now, to, false),
                Sent::Full | Sent::Refused | Sent::Uncut(_) => {}
            }
        }
        self.follow_ways(now, socket);
    }

    /// A full queue says nothing about the way.
    fn note(&mut self, sent: Sent) {
        match sent {
            Sent::Taken => self.unreachable = false,
            Sent::Unreachable => self.unreachable = true,
            Sent::Full | Sent::Refused | Sent::Uncut(_) => {}
        }
    }

    /// Sends the train, whole if the way takes it so, and begins another.
    fn depart(
        &mut self,
        now: Instant,
        train: &mut Train,
        shared: &TrainSocket,
        endpoint: SocketAddr,
        carried: &mut Carried,
    ) {
        if train.tally.packets() == 0 {
            return;
        }
        let socket = self.exit.as_ref().map_or(shared, |exit| &exit.socket);
        let (bytes, stride) = (&train.buffer[..train.len], train.stride);
        let alone = self.uncut.is_some_and(|(to, least)| to == endpoint && stride >= least);
        let (mut taken, mut answer) =
            if alone { (0, Sent::Uncut(stride)) } else { socket.send(endpoint, bytes, stride, train.class) };
        if let Sent::Uncut(least) = answer {
            let known = self.uncut.filter(|(to, _)| *to == endpoint).map_or(least, |(_, known)| known.min(least));
            self.uncut = Some((endpoint, known));
            (taken, answer) = socket.send_each(endpoint, bytes, stride, train.class);
        }
        self.note(answer);
        let all = std::mem::take(&mut train.tally);
        (train.len, train.stride) = (0, 0);
        if answer == Sent::Taken {
            return carried.send(all);
        }
        // All but the last, which was not taken, are of one length.
        carried.send(Tally::of_many(taken as u64, stride - OVERHEAD));
        let rest = all.packets() - taken as u64;
        match (answer, &mut self.exit) {
            (Sent::Full, Some(exit)) => {
                exit.full_since = Some(now);
                carried.full = true;
            }
            (Sent::Unreachable, _) => carried.lose(DropReason::LinkDown, rest),
            (Sent::Taken | Sent::Full | Sent::Refused | Sent::Uncut(_), _) => {
                carried.lose(DropReason::QueueFull, rest);
            }
        }
    }
}

impl Exit {
    /// For datagrams of at most `longest` bytes.
    fn new(now: Instant, shared: &TrainSocket, longest: usize) -> Option<Self> {
        let socket = shared.exit().inspect_err(|error| tracing::info!(%error, "all links share one socket")).ok()?;
        let room = *EXIT_ROOM.end() / 2;
        socket.set_room(room);
        // In a narrower one the kernel refuses for ever what it has to send in fragments.
        let narrowest = longest.clamp(*EXIT_ROOM.start(), room);
        Some(Self { socket, room, narrowest, full_since: None, made: now })
    }

    fn handle_room(&mut self, now: Instant) -> usize {
        if let Some(since) = self.full_since.take() {
            let took = now.saturating_duration_since(since).max(Duration::from_micros(1));
            // Half of what the kernel grants has left, and it grants twice what it is asked for.
            let fitting = (self.room as u128 * EXIT_TIME.as_micros() / took.as_micros().max(1)) as usize;
            let room = fitting.clamp(self.room / 2, self.room * 2).clamp(self.narrowest, *EXIT_ROOM.end());
            if room != self.room {
                self.room = room;
                self.socket.set_room(room);
            }
        }
        self.room
    }
}

/// What became of packets for one link.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Carried {
    /// Sealed and handed to the kernel.
    pub(crate) sent: Tally,
    /// Not: why, and how many. At most a kind each time.
    pub(crate) lost: [Option<(DropReason, u64)>; 3],
    /// How many of the first packets these are.
    pub(crate) done: usize,
    /// The link's socket is full: the others are to be carried later.
    pub(crate) full: bool,
}

impl Carried {
    fn send(&mut self, tally: Tally) {
        self.sent.join(tally);
        self.done += tally.packets() as usize;
    }

    fn lose(&mut self, reason: DropReason, packets: u64) {
        self.done += packets as usize;
        let same = |lost: &&mut Option<(DropReason, u64)>| lost.is_none_or(|(other, _)| other == reason);
        if let Some(lost) = self.lost.iter_mut().find(same) {
            *lost = Some((reason, lost.map_or(0, |(_, packets)| packets) + packets));
        }
    }
}

/// Sealed datagrams of one length, to leave in one call; only the last may be shorter.
struct Train {
    /// Behind the datagrams there is always room for another message.
    buffer: Box<[u8]>,
    len: usize,
    len_max: usize,
    stride: usize,
    /// What all its packets are, and so the train.
    class: Class,
    tally: Tally,
}

/// What a train's buffer needs at most: one jumbo packet, or a train of others.
pub(crate) const TRAIN_ROOM_MAX: usize = 2 * TRAIN_MAX;

impl Train {
    fn new(packet_len_max: usize) -> Self {
        let room = TRAIN_MAX.max(packet_len_max + OVERHEAD) + MESSAGE_LEN_MAX;
        Self {
            buffer: vec![0; room].into_boxed_slice(),
            len: 0,
            len_max: TRAIN_MAX,
            stride: 0,
            class: Class::default(),
            tally: Tally::default(),
        }
    }

    /// Whether a datagram of this length and kind can be coupled.
    fn takes(&self, len: usize, class: Class) -> bool {
        let ended = !self.len.is_multiple_of(self.stride.max(1));
        self.len == 0
            || (!ended
                && class == self.class
                && len <= self.stride
                && self.len + len <= self.len_max
                && self.tally.packets() < DATAGRAMS_MAX as u64)
    }

    /// Where the next datagram is written, if a packet of this length fits.
    fn place(&mut self, packet_len: usize) -> Option<&mut [u8]> {
        self.buffer.get_mut(self.len..).filter(|place| packet_len + OVERHEAD + MESSAGE_LEN_MAX <= place.len())
    }

    /// What was written there is part of the train.
    fn couple(&mut self, len: usize, packet_len: usize, class: Class) {
        self.class = class;
        self.stride = self.stride.max(len);
        self.len += len;
        self.tally.add(packet_len);
    }
}

/// Unless the key is another link's by now: a neighbour may be configured anew before its old link is removed.
fn forget_key(by_key: &mut HashMap<[u8; 32], LinkId>, key: WireguardKey, link: LinkId) {
    if by_key.get(&key.0) == Some(&link) {
        by_key.remove(&key.0);
    }
}

/// The message about the link's ways, if a packet of this neighbour is one. Whoever it is for: the session says that.
fn about_ways(packet: &[u8], theirs: &Ipv6Addr) -> Option<[u8; WAY_MESSAGE_LEN]> {
    // Nearly all packets are told apart by this alone.
    let may_be = packet.len() == WAY_PACKET_LEN && packet[IPV6_HEADER_LEN..].starts_with(&WAYS_PORT.to_be_bytes());
    let ControlDatagram { source, source_port, port, payload, .. } = may_be.then(|| parse_control(packet).ok())??;
    payload.try_into().ok().filter(|_| (source, source_port, port) == (*theirs, WAYS_PORT, WAYS_PORT))
}

/// Where whoever has this key is in the mesh.
fn at_home(key: &WireguardKey, port: u16) -> SocketAddr {
    SocketAddr::new(mesh_address(key).into(), port)
}

/// Whether who sent the first message of a handshake has the key it claims: anybody can seal anybody's public key in one. It is
/// asked of a `Tunn` that is thrown away, so that a stranger costs nothing but time before.
fn is_authentic(peers: &Peers, key: &WireguardKey, datagram: &[u8]) -> bool {
    let mut answer = [0; MESSAGE_LEN_MAX];
    // With a limiter of its own, which one message does not fill: this one has passed ours.
    let mut tunn = Tunn::new(peers.secret.clone(), key.0.into(), None, None, 0, None);
    let opened = tunn.decapsulate(None, datagram, &mut answer);
    matches!(opened, TunnResult::WriteToNetwork(answer) if answer.starts_with(&HANDSHAKE_RESPONSE))
}

/// Whether what is sent there would leave over a link. Only in the range that meshes take their prefixes from: no kernel
/// route is made for another prefix with an endpoint in it, and a neighbour may announce the network that others are reached
/// through.
fn leads_into_mesh(fib: &Fib, to: IpAddr) -> bool {
    match to.to_canonical() {
        IpAddr::V4(to) => fib.leaf_at(to).is_some(),
        IpAddr::V6(to) => to.is_unique_local() && matches!(fib.lookup(to), Some(NextHop::Link(_))),
    }
}

/// Tries whether there is a way again, with an empty packet (WireGuard paper, section 6.5).
fn keep_alive(peer: &mut Peer, socket: &TrainSocket, message: &mut [u8]) {
    if let (Some(endpoint), TunnResult::WriteToNetwork(datagram)) = (peer.endpoint, peer.tunn.encapsulate(&[], message))
    {
        let sent = socket.send_one(endpoint, datagram);
        peer.note(sent);
    }
}

/// Starts a handshake with a peer whose endpoint is known, at most every [`RETRY`]. Where it sent from last comes first, and
/// then where the owner wrote that it is; by all ways at once where there are several, and whichever brings the answer is taken.
fn initiate(peer: &mut Peer, socket: &TrainSocket, message: &mut [u8], now: Instant) {
    if peer.attempted.is_some_and(|at| now.saturating_duration_since(at) < RETRY) {
        return;
    }
    if peer.attempted.is_some() && peer.ways.is_none() {
        peer.endpoint = peer.configured.or(peer.endpoint);
    }
    let Some(endpoint) = peer.endpoint else { return };
    peer.attempted = Some(now);
    if let TunnResult::WriteToNetwork(datagram) = peer.tunn.format_handshake_initiation(message, true) {
        peer.unreachable = socket.send_one(endpoint, datagram) == Sent::Unreachable;
        let others = peer.ways.iter().flat_map(|ways| ways.all()).filter(|at| *at != endpoint);
        others.for_each(|at| {
            let _whichever = socket.send_one(at, datagram);
        });
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's clock starts now")]
mod tests {
    use blake2::digest::consts::U16;
    use blake2::digest::{Digest, KeyInit, Mac};
    use blake2::{Blake2s256, Blake2sMac};
    use node::datapath::FibBuilder;

    use super::super::train::RECEIVE_MAX;
    use super::*;

    const MTU: usize = 1420;
    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn a_leaf_s_own_address_behind_us_is_none_to_reach_it_at() {
        let fib = FibBuilder::default().lead_out([172, 30, 87, 1].into(), LinkId(0)).build(Vec::new());
        for (at, is) in
            [("172.30.87.1", true), ("::ffff:172.30.87.1", true), ("172.30.87.2", false), ("fd00::1", false)]
        {
            assert_eq!(leads_into_mesh(&fib, at.parse().unwrap()), is, "{at}");
        }
    }

    fn secret(byte: u8) -> [u8; 32] {
        [byte; 32]
    }

    fn key(byte: u8) -> WireguardKey {
        WireguardKey(PublicKey::from(&StaticSecret::from(secret(byte))).to_bytes())
    }

    fn node(byte: u8) -> WireGuard {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut all = WireGuard::bind(secret(byte), loopback, MTU + 80, true, 1, Instant::now()).expect("a socket");
        all.remove(0)
    }

    /// Two nodes that know each other; only the first knows where the other is.
    fn pair() -> (WireGuard, WireGuard) {
        let (mut a, mut b) = (node(1), node(2));
        let endpoint = b.local_addr().ok();
        a.set_peer(Instant::now(), &PeerConfig { link: LinkId(3), key: key(2), endpoint, tells_congestion: true });
        b.set_peer(
            Instant::now(),
            &PeerConfig { link: LinkId(5), key: key(1), endpoint: None, tells_congestion: true },
        );
        (a, b)
    }

    /// Opens what has arrived.
    fn opened(node: &mut WireGuard) -> Vec<(LinkId, Vec<u8>)> {
        let (mut train, mut slot) = (vec![0; RECEIVE_MAX], vec![0; 2048]);
        let mut packets = Vec::new();
        while let Ok(received) = node.receive(&mut train) {
            for datagram in train[..received.len].chunks(received.stride) {
                if let Opened::Packet(link, len) =
                    node.open(Instant::now(), &Fib::default(), received.from, datagram, &mut slot)
                {
                    packets.push((link, slot[..len].to_vec()));
                }
            }
        }
        packets
    }

    /// All of them are taken.
    fn sends(node: &mut WireGuard, link: u32, packets: &[Vec<u8>]) {
        let carried = node.carry(Instant::now(), LinkId(link), packets.iter().map(Vec::as_slice));
        assert_eq!((carried.sent.packets(), carried.lost), (packets.len() as u64, [None; 3]));
    }

    #[test]
    fn what_waits_for_one_way_does_not_hinder_another_and_who_moves_all_the_time_costs_no_sockets() {
        let mut a = node(1);
        let (start, link) = (Instant::now(), LinkId(3));
        let at = |port: u16| Some(SocketAddr::from(([127, 0, 0, 1], port)));
        let mut sets = |port, ms| {
            let now = start + Duration::from_millis(ms);
            a.set_peer(now, &PeerConfig { link, key: key(2), endpoint: at(port), tells_congestion: true });
            let known = a.peers.lock(link).unwrap();
            known.as_ref().unwrap().exit.as_ref().unwrap().made
        };
        assert_eq!(sets(1, 0), start);
        for port in 2..100 {
            assert_eq!(sets(port, 999), start, "too soon");
        }
        assert_eq!(sets(99, 1500), start, "the same way");
        assert_eq!(sets(100, 1500), start + Duration::from_millis(1500));
    }

    /// Lets both work until `done`, or fails when patience ends.
    fn until(a: &mut WireGuard, b: &mut WireGuard, mut done: impl FnMut(&mut WireGuard, &mut WireGuard) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(a, b) {
            assert!(Instant::now() < deadline, "it did not happen in {PATIENCE:?}");
            a.handle_timers(Instant::now(), &Fib::default());
            b.handle_timers(Instant::now(), &Fib::default());
            std::thread::yield_now();
        }
    }

    fn is_up(node: &WireGuard) -> bool {
        node.statuses().all(|(_, status)| status.up)
    }

    fn connect(a: &mut WireGuard, b: &mut WireGuard) {
        until(a, b, |a, b| {
            opened(a);
            opened(b);
            is_up(a) && is_up(b)
        });
    }

    fn packet(len: usize) -> Vec<u8> {
        let mut packet = vec![0x5a; len];
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&u16::try_from(len - 40).expect("fits").to_be_bytes());
        packet
    }

    /// Over a mesh of one machine's loopback: what is asked here is what becomes of a datagram, not the way it takes.
    fn over_mesh(byte: u8) -> WireGuard {
        let loopback = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
        WireGuard::bind_over_mesh(secret(byte), loopback, MTU + 80, true, 4, Instant::now()).expect("a socket")
    }

    /// The first message of a handshake.
    fn first_message(byte: u8, to: u8) -> Vec<u8> {
        let mut tunn = Tunn::new(secret(byte).into(), key(to).0.into(), None, None, 1, None);
        let mut message = [0; MESSAGE_LEN_MAX];
        let TunnResult::WriteToNetwork(message) = tunn.format_handshake_initiation(&mut message, true) else {
            panic!("a handshake can always begin")
        };
        message.to_vec()
    }

    /// The same as somebody makes it who has the public keys of both and no secret: its time, which alone needs the secret, is
    /// noise, and its first check, which needs none, is right (WireGuard paper, section 5.4.2).
    fn forged(mut message: Vec<u8>, to: u8) -> Vec<u8> {
        let label: [u8; 32] = Blake2s256::new().chain_update(b"mac1----").chain_update(key(to).0).finalize().into();
        message[100] ^= 1;
        let check = <Blake2sMac<U16> as KeyInit>::new_from_slice(&label).expect("a key").chain_update(&message[..116]);
        message[116..132].copy_from_slice(&check.finalize().into_bytes());
        message
    }

    #[test]
    fn over_the_mesh_a_stranger_is_one_that_has_the_key_it_claims_and_is_where_the_key_says() {
        let mut gateway = over_mesh(2);
        let mut slot = vec![0; 2048];
        let home = at_home(&key(1), 0);
        let mut opens = |message: &[u8], from| gateway.open(Instant::now(), &Fib::default(), from, message, &mut slot);
        let honest = first_message(1, 2);
        assert_eq!(opens(&honest, home), Opened::Stranger(key(1)));
        let moved = SocketAddr::new(home.ip(), 9);
        assert_eq!(opens(&honest, moved), Opened::Nothing, "from another port");
        assert_eq!(opens(&honest, at_home(&key(3), 0)), Opened::Nothing, "from another's address");
        let forged = forged(honest.clone(), 2);
        let Ok(Packet::HandshakeInit(init)) = Tunn::parse_incoming_packet(&forged) else { panic!("it reads as one") };
        let anonymous = parse_handshake_anon(&secret(2).into(), &key(2).0.into(), &init);
        assert!(anonymous.is_ok(), "it says who it is, as the honest one does");
        assert_eq!(opens(&forged, home), Opened::Nothing, "another's public key is no secret");
        let looked = (0..2 * STRANGERS_PER_SECOND).filter(|_| opens(&honest, home) != Opened::Nothing).count();
        assert_eq!(looked as u32, STRANGERS_PER_SECOND - 2, "no more than these in a second");
        gateway.handle_timers(Instant::now() + Duration::from_secs(1), &Fib::default());
        assert_eq!(gateway.open(Instant::now(), &Fib::default(), home, &honest, &mut slot), Opened::Stranger(key(1)));
    }

    /// A relay may send on what it carries from wherever it likes.
    #[test]
    fn over_the_mesh_nobody_roams() {
        let (mut client, mut gateway) = (over_mesh(1), over_mesh(2));
        let (here, there) = (at_home(&key(1), 0), at_home(&key(2), 0));
        let peer = |byte, endpoint| PeerConfig {
            link: LinkId(0),
            key: key(byte),
            endpoint: Some(endpoint),
            tells_congestion: false,
        };
        client.set_peer(Instant::now(), &peer(2, there));
        gateway.set_peer(Instant::now(), &peer(1, here));
        let mut slot = vec![0; 2048];
        let mut tunn = Tunn::new(secret(1).into(), key(2).0.into(), None, None, 0, None);
        let mut message = [0; MESSAGE_LEN_MAX];
        let TunnResult::WriteToNetwork(call) = tunn.format_handshake_initiation(&mut message, true) else {
            panic!("a handshake can always begin")
        };
        let elsewhere = SocketAddr::new(here.ip(), 4000);
        assert_eq!(gateway.open(Instant::now(), &Fib::default(), elsewhere, call, &mut slot), Opened::Nothing);
        assert_eq!(gateway.open(Instant::now(), &Fib::default(), here, call, &mut slot), Opened::Alive(LinkId(0)));
        let endpoint = |of: &WireGuard| of.statuses().next().and_then(|(_, status)| status.endpoint);
        assert_eq!((endpoint(&gateway), endpoint(&client)), (Some(here), Some(there)));
    }

    #[test]
    fn a_handshake_whose_first_message_is_lost_is_made_again_at_once_and_ends_with_data_of_one_side() {
        let (mut a, mut b) = pair();
        connect(&mut a, &mut b);
        let status = |node: &WireGuard| node.statuses().next().expect("a link").1;
        until(&mut a, &mut b, |a, b| {
            opened(a);
            opened(b);
            status(b).data > 0
        });
        let mut lost = false;
        a.renew(Instant::now(), LinkId(3), false);
        until(&mut a, &mut b, |_, b| {
            lost |= b.receive(&mut vec![0; RECEIVE_MAX]).is_ok();
            lost
        });
        let (ours, theirs) = (status(&a), status(&b));
        a.renew(Instant::now(), LinkId(3), false);
        // No timer runs that would repeat it.
        let deadline = Instant::now() + PATIENCE;
        while status(&b).data == theirs.data {
            assert!(Instant::now() < deadline, "no handshake");
            opened(&mut b);
            opened(&mut a);
        }
        assert_eq!((status(&a).answered, status(&a).data), (ours.answered + 1, ours.data));
        assert_eq!(status(&b).heard, theirs.heard + 2, "a message of the handshake and an empty packet");
    }

    #[test]
    fn a_key_that_moves_to_another_link_is_known_there_after_the_old_one_is_gone() {
        let mut a = node(1);
        let peer = |link| PeerConfig { link: LinkId(link), key: key(2), endpoint: None, tells_congestion: true };
        a.set_peer(Instant::now(), &peer(3));
        a.set_peer(Instant::now(), &peer(4));
        a.remove_peer(LinkId(3));
        assert_eq!(a.peers.by_key().get(&key(2).0), Some(&LinkId(4)));
        a.remove_peer(LinkId(4));
        assert!(a.peers.by_key().is_empty());
    }

    #[test]
    fn a_slow_way_narrows_the_socket_and_a_fast_one_widens_it_within_bounds() {
        let exit = |longest| Exit::new(Instant::now(), &node(1).socket, longest).expect("a second socket");
        let mut now = Instant::now();
        for (longest, narrowest) in [(1500, *EXIT_ROOM.start()), (65_000, 65_000)] {
            let mut exit = exit(longest);
            for (drained_in, room) in
                [(Duration::from_secs(1), narrowest), (Duration::from_micros(50), *EXIT_ROOM.end())]
            {
                for _ in 0..10 {
                    exit.full_since = Some(now);
                    now += drained_in;
                    exit.handle_room(now);
                }
                assert_eq!(exit.room, room, "packets of {longest}, {drained_in:?}");
            }
        }
    }

    #[test]
    fn full_size_packets_pass_both_ways_and_the_endpoint_is_learnt() {
        let (mut a, mut b) = pair();
        let carried = a.carry(Instant::now(), LinkId(3), std::iter::repeat_n(&packet(40)[..], 5));
        assert_eq!(carried.lost, [Some((DropReason::LinkDown, 5)), None, None]);
        connect(&mut a, &mut b);
        for len in [40, 1280, MTU] {
            sends(&mut a, 3, &[packet(len)]);
            let mut got = Vec::new();
            until(&mut a, &mut b, |_, b| {
                got.extend(opened(b));
                !got.is_empty()
            });
            assert_eq!(got, [(LinkId(5), packet(len))]);
            sends(&mut b, 5, &[packet(len)]); // Its endpoint is known from what it sent.
            let mut got = Vec::new();
            until(&mut a, &mut b, |a, _| {
                got.extend(opened(a));
                !got.is_empty()
            });
            assert_eq!(got, [(LinkId(3), packet(len))]);
        }
    }

    #[test]
    fn packets_of_all_lengths_arrive_in_order_however_trains_are_made_of_them() {
        let (mut a, mut b) = pair();
        connect(&mut a, &mut b);
        let mut rng = fastrand::Rng::with_seed(12);
        for round in 0..60 {
            let lens = std::iter::repeat_with(|| if rng.u8(..) < 200 { MTU } else { rng.usize(40..=MTU) });
            let sent: Vec<Vec<u8>> = lens.take(1 + round * 2).map(packet).collect();
            sends(&mut a, 3, &sent);
            let mut got = Vec::new();
            until(&mut a, &mut b, |_, b| {
                got.extend(opened(b).into_iter().map(|(_, packet)| packet));
                got.len() >= sent.len()
            });
            assert!(got == sent, "round {round}");
        }
    }

    #[test]
    fn strangers_random_bytes_and_damaged_datagrams_change_nothing() {
        let (mut a, mut b) = pair();
        connect(&mut a, &mut b);
        let endpoint = b.statuses().next().expect("one peer").1.endpoint;
        let mut rng = fastrand::Rng::with_seed(11);
        let mut slot = vec![0; 2048];
        let stranger = SocketAddr::from(([127, 0, 0, 9], 9));
        for round in 0..20_000_u32 {
            let mut datagram = vec![0; rng.usize(0..200)];
            rng.fill(&mut datagram);
            if let Some(kind) = datagram.first_chunk_mut::<4>() {
                *kind = (round % 6).to_le_bytes();
            }
            if let Some(index) = datagram.get_mut(4..8).filter(|_| rng.bool()) {
                index.copy_from_slice(&(5_u32 << 8).to_le_bytes());
            }
            assert_eq!(b.open(Instant::now(), &Fib::default(), stranger, &datagram, &mut slot), Opened::Nothing);
        }
        let mut unknown = node(7);
        unknown.set_peer(
            Instant::now(),
            &PeerConfig { link: LinkId(0), key: key(2), endpoint: b.local_addr().ok(), tells_congestion: true },
        );
        unknown.handle_timers(Instant::now(), &Fib::default());
        until(&mut a, &mut b, |_, b| {
            let mut datagram = vec![0; 2048];
            b.receive(&mut datagram).is_ok_and(|got| {
                b.open(Instant::now(), &Fib::default(), got.from, &datagram[..got.len], &mut slot)
                    == Opened::Stranger(key(7))
            })
        });
        assert_eq!(b.statuses().next().expect("one peer").1.endpoint, endpoint);
        sends(&mut a, 3, &[packet(100)]);
        let mut got = Vec::new();
        until(&mut a, &mut b, |_, b| {
            got.extend(opened(b));
            !got.is_empty()
        });
        assert_eq!(got, [(LinkId(5), packet(100))]);
    }

    /// A datagram of the peer's own session reaches us through the mesh: our kernel delivers it like any other.
    #[test]
    fn an_address_of_the_mesh_is_never_learnt_as_a_way_to_a_neighbour_unless_the_owner_wrote_it() {
        let (mut a, mut b) = pair();
        connect(&mut a, &mut b);
        let prefix = |text: &str| node::Prefix::new(text.parse().expect("an address"), 48).expect("a prefix");
        let fib = FibBuilder::default()
            .own(prefix("fd01::"))
            .route(prefix("fd0a::"), LinkId(5))
            .route(prefix("2001:db8::"), LinkId(5))
            .build(Vec::new());
        let (mut train, mut slot) = (vec![0; RECEIVE_MAX], vec![0; 2048]);
        let mut learns = |a: &mut WireGuard, b: &mut WireGuard, from: &str| {
            let from = from.parse().expect("an address");
            sends(a, 3, &[packet(100)]);
            let mut len = 0;
            until(a, b, |_, b| {
                len = b.receive(&mut train).map_or(0, |received| received.len);
                len > 0
            });
            let taken = b.open(Instant::now(), &fib, from, &train[..len], &mut slot) == Opened::Packet(LinkId(5), 100);
            let learnt = b.statuses().next().is_some_and(|(_, status)| status.endpoint == Some(from));
            assert_eq!(taken, learnt, "{from}");
            learnt
        };
        assert!(!learns(&mut a, &mut b, "[fd0a::1]:51820"));
        // Below the mesh are our own LAN, and a network whose kernel route into the mesh goes when an endpoint is in it.
        for from in ["[fd0b::1]:51820", "[fd01::9]:51820", "[2001:db8::1]:51820"] {
            assert!(learns(&mut a, &mut b, from), "{from}");
        }
        // A neighbour announces afterwards what lies there.
        let learnt = "[fd0b::1]:51820";
        assert!(learns(&mut a, &mut b, learnt));
        b.handle_timers(Instant::now(), &fib);
        assert_eq!(b.statuses().next().and_then(|(_, status)| status.endpoint), learnt.parse().ok());
        let fib_by_then = FibBuilder::default().route(prefix("fd0b::"), LinkId(5)).build(Vec::new());
        b.handle_timers(Instant::now(), &fib_by_then);
        assert_eq!(b.statuses().next().and_then(|(_, status)| status.endpoint), None);
        let endpoint = "[fd0a::1]:51820".parse().ok();
        b.set_peer(Instant::now(), &PeerConfig { link: LinkId(5), key: key(1), endpoint, tells_congestion: true });
        for from in ["10.0.0.1:51820", "[fd0a::1]:51820"] {
            assert!(learns(&mut a, &mut b, from), "{from}");
        }
    }

    /// Somebody who listens on the way and knows b's public key answers a's call while b is away.
    #[test]
    fn a_forged_cookie_moves_no_endpoint() {
        let (mut a, b) = pair();
        let (mut datagram, mut slot) = (vec![0; RECEIVE_MAX], vec![0; 2048]);
        a.handle_timers(Instant::now(), &Fib::default());
        let mut call = Vec::new();
        until(&mut node(8), &mut node(9), |_, _| {
            call = b.receive(&mut datagram).map_or(Vec::new(), |received| datagram[..received.len].to_vec());
            !call.is_empty()
        });
        let stranger = SocketAddr::from(([127, 0, 0, 9], 9));
        let forger = RateLimiter::new(&PublicKey::from(key(2).0), 0);
        let mut cookie = [0; COOKIE_REPLY_LEN];
        let forged = forger.verify_packet(Some(stranger.ip()), &call, &mut cookie);
        let Err(TunnResult::WriteToNetwork(cookie)) = forged else { panic!("a limit of nothing asks for a cookie") };
        assert_eq!(a.open(Instant::now(), &Fib::default(), stranger, cookie, &mut slot), Opened::Nothing);
        assert_eq!(a.statuses().next().and_then(|(_, status)| status.endpoint), b.local_addr().ok());
    }

    #[test]
    fn who_is_not_where_it_sent_from_last_is_looked_for_where_the_owner_wrote() {
        let (mut a, b) = pair();
        let (mut datagram, mut now) = (vec![0; RECEIVE_MAX], Instant::now());
        let elsewhere = node(8).local_addr().ok();
        a.peers.lock(LinkId(3)).expect("a link").as_mut().expect("the peer at b").endpoint = elsewhere;
        let endpoint = |a: &WireGuard| a.statuses().next().and_then(|(_, status)| status.endpoint);
        a.handle_timers(now, &Fib::default());
        assert_eq!(endpoint(&a), elsewhere);
        now += RETRY;
        a.handle_timers(now, &Fib::default());
        assert_eq!(endpoint(&a), b.local_addr().ok());
        until(&mut node(9), &mut node(10), |_, _| b.receive(&mut datagram).is_ok());
    }

    /// A stranger who recorded one initiation of an honest peer and repeats it makes the node ask for cookies; the honest
    /// peer must be able to answer with the one it was given.
    #[test]
    fn a_replayed_initiation_does_not_keep_the_honest_peer_out() {
        let (mut a, mut b) = pair();
        let (mut datagram, mut slot) = (vec![0; 2048], vec![0; 2048]);
        a.handle_timers(Instant::now(), &Fib::default());
        let mut recorded = Vec::new();
        until(&mut node(8), &mut b, |_, b| match b.receive(&mut datagram) {
            Ok(received) => {
                recorded = datagram[..received.len].to_vec();
                true
            }
            Err(_) => false,
        });
        let stranger = SocketAddr::from(([127, 0, 0, 9], 9));
        let mut now = Instant::now();
        let mut tries = 0;
        while !is_up(&a) {
            tries += 1;
            assert!(tries <= 5, "five calls, and no session");
            // A new second at b: its count begins anew, and the flood comes first.
            now += Duration::from_millis(1100);
            b.handle_timers(now, &Fib::default());
            for _ in 0..2 * HANDSHAKES_PER_SECOND {
                b.open(Instant::now(), &Fib::default(), stranger, &recorded, &mut slot);
            }
            let mut known = a.peers.lock(LinkId(3)).expect("a link");
            let peer = known.as_mut().expect("the peer at b");
            let endpoint = peer.endpoint.expect("configured");
            let TunnResult::WriteToNetwork(call) = peer.tunn.format_handshake_initiation(&mut a.train.buffer, true)
            else {
                panic!("a handshake can always begin")
            };
            assert_eq!(a.socket.send_one(endpoint, call), Sent::Taken);
            drop(known);
            let mut answered = false;
            let deadline = Instant::now() + PATIENCE;
            while !answered {
                assert!(Instant::now() < deadline, "no answer");
                while let Ok(received) = b.receive(&mut datagram) {
                    b.open(Instant::now(), &Fib::default(), received.from, &datagram[..received.len], &mut slot);
                }
                while let Ok(received) = a.receive(&mut datagram) {
                    a.open(Instant::now(), &Fib::default(), received.from, &datagram[..received.len], &mut slot);
                    answered = true;
                }
                std::thread::yield_now();
            }
        }
    }
}
