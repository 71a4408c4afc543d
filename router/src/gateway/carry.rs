//! The thread that carries a node's sessions: between one UDP socket over the mesh and one TUN.
//!
//! It waits in epoll, opens what has come, asks its [`Side`] what becomes of it, and writes that. What the kernel hands
//! over together stays together as far as it goes, as in [`crate::worker`].

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use metering::WireguardKey;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use node::LinkId;
use node::datapath::Fib;

use crate::link::train::RECEIVE_MAX;
use crate::link::wireguard::{Opened, PeerConfig, TIMER_INTERVAL, WireGuard};
use crate::tun::{FRAME_MAX, Frame, Local};
use crate::worker::packet_len_max;

const UDP: Token = Token(0);
const LOCAL: Token = Token(1);
const WAKE: Token = Token(2);
/// Packets taken from one side before the other gets its turn.
const BATCH: usize = 64;
/// Trains taken likewise.
const TRAINS: usize = 16;
/// The first byte of a question outside of any session: no message of WireGuard begins so.
pub(super) const PLAIN: u8 = b'W';

/// What the thread asks of whoever has the sessions: a gateway, or a client.
pub(super) trait Side: Send {
    /// A packet came over a session. Whether it is for the TUN.
    fn arrived(&mut self, now: Instant, link: LinkId, packet: &[u8], answers: &mut Answers) -> bool;
    /// The session a packet out of the TUN belongs to; none: it goes nowhere.
    fn leads(&mut self, now: Instant, packet: &[u8]) -> Option<LinkId>;
    /// Somebody whose address proves this key wants a session. Where it is to be known.
    fn stranger(&mut self, now: Instant, key: WireguardKey) -> Option<LinkId>;
    /// A datagram outside of any session, and its answer.
    fn plain(&mut self, from: SocketAddr, datagram: &[u8]) -> Option<Vec<u8>>;
    /// Four times a second.
    fn timers(&mut self, now: Instant, wireguard: &mut WireGuard, answers: &mut Answers);
    /// At the end.
    fn end(&mut self);
}

/// Packets to send that do not come from the TUN.
pub(super) type Answers = Vec<(LinkId, Vec<u8>)>;

/// A thread that runs until [`Running::stop`].
pub(super) struct Running {
    thread: JoinHandle<()>,
    stop: Arc<AtomicBool>,
    waker: Arc<Waker>,
}

impl Running {
    /// Ends the thread; what it holds is closed when this returns.
    pub(super) fn stop(self) {
        self.stop.store(true, Ordering::Release);
        if let Err(error) = self.waker.wake() {
            tracing::debug!(%error, "the sessions end at their next timer");
        }
        if self.thread.join().is_err() {
            tracing::error!("the thread of sessions had panicked");
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the thread's one clock; read per turn, not per packet")]
pub(super) fn clock() -> Instant {
    Instant::now()
}

/// Starts the thread. `mtu` is the TUN's.
pub(super) fn start(
    name: &str,
    mut wireguard: WireGuard,
    local: Local,
    mtu: usize,
    side: Box<dyn Side>,
) -> io::Result<Running> {
    let poll = Poll::new()?;
    let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
    poll.registry().register(wireguard.socket(), UDP, Interest::READABLE)?;
    poll.registry().register(&mut SourceFd(&local.as_raw_fd()), LOCAL, Interest::READABLE)?;
    let stop = Arc::new(AtomicBool::new(false));
    let carrier = Carrier {
        wireguard,
        local,
        side,
        train: vec![0; RECEIVE_MAX].into_boxed_slice(),
        frame: vec![0; FRAME_MAX].into_boxed_slice(),
        pile: Pile { slot: packet_len_max(mtu), ..Pile::default() },
        answers: Vec::new(),
        timers_at: clock(),
    };
    let stopping = Arc::clone(&stop);
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || carrier.run(poll, &stopping))?;
    Ok(Running { thread, stop, waker })
}

struct Carrier {
    wireguard: WireGuard,
    local: Local,
    side: Box<dyn Side>,
    train: Box<[u8]>,
    frame: Box<[u8]>,
    pile: Pile,
    answers: Answers,
    timers_at: Instant,
}

/// Packets on their way, each with its session.
#[derive(Default)]
struct Pile {
    bytes: Vec<u8>,
    packets: Vec<(LinkId, Range<usize>)>,
    /// Room for one.
    slot: usize,
}

impl Pile {
    fn clear(&mut self) {
        self.packets.clear();
    }

    fn is_full(&self) -> bool {
        self.packets.len() >= BATCH
    }

    /// Where the next packet is written.
    fn spare(&mut self, len: usize) -> &mut [u8] {
        let start = self.packets.last().map_or(0, |(_, range)| range.end);
        let end = start + self.slot.max(len);
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        &mut self.bytes[start..end]
    }

    /// What was written there is the next packet.
    fn commit(&mut self, link: LinkId, len: usize) {
        let start = self.packets.last().map_or(0, |(_, range)| range.end);
        self.packets.push((link, start..start + len));
    }

    fn packets(&self) -> impl Iterator<Item = &[u8]> {
        self.packets.iter().map(|(_, range)| &self.bytes[range.clone()])
    }
}

impl Carrier {
    fn run(mut self, mut poll: Poll, stop: &AtomicBool) {
        let mut events = Events::with_capacity(8);
        let (mut udp, mut local) = (true, true);
        while !stop.load(Ordering::Acquire) {
            let idle = self.timers_at.saturating_duration_since(clock());
            match poll.poll(&mut events, Some(if udp || local { Duration::ZERO } else { idle })) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::error!(%error, "sessions cannot wait for packets and stop");
                    break;
                }
            }
            for event in &events {
                udp |= event.token() == UDP;
                local |= event.token() == LOCAL;
            }
            let now = clock();
            if now >= self.timers_at {
                self.timers_at = now + TIMER_INTERVAL;
                self.wireguard.handle_timers(now, &Fib::default());
                self.side.timers(now, &mut self.wireguard, &mut self.answers);
            }
            if udp {
                udp = self.read_udp(now);
            }
            if local {
                local = self.read_local(now);
            }
            for (link, packet) in std::mem::take(&mut self.answers) {
                self.wireguard.carry(now, link, std::iter::once(&packet[..]));
            }
        }
        self.side.end();
    }

    /// Whether there may be more.
    fn read_udp(&mut self, now: Instant) -> bool {
        for _ in 0..TRAINS {
            let received = match self.wireguard.receive(&mut self.train) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                // ICMP errors about earlier datagrams arrive here; the socket goes on.
                Err(_) => continue,
            };
            let mut at = 0;
            while at < received.len {
                let end = (at + received.stride).min(received.len);
                self.open(now, received.from, at..end);
                at = end;
            }
            self.deliver();
        }
        true
    }

    fn open(&mut self, now: Instant, from: SocketAddr, datagram: Range<usize>) {
        let datagram = &self.train[datagram];
        if datagram.first() == Some(&PLAIN) {
            if let Some(answer) = self.side.plain(from, datagram) {
                self.wireguard.send_plain(from, &answer);
            }
            return;
        }
        let fib = Fib::default();
        let mut opened = self.wireguard.open(now, &fib, from, datagram, self.pile.spare(datagram.len()));
        if let Opened::Stranger(key) = opened {
            let Some(link) = self.side.stranger(now, key) else { return };
            self.wireguard.set_peer(now, &PeerConfig { link, key, endpoint: None, tells_congestion: false });
            opened = self.wireguard.open(now, &fib, from, datagram, self.pile.spare(datagram.len()));
        }
        if let Opened::Packet(link, len) = opened {
            let packet = &self.pile.spare(len)[..len];
            if self.side.arrived(now, link, packet, &mut self.answers) {
                self.pile.commit(link, len);
            }
        }
        if self.pile.is_full() {
            self.deliver();
        }
    }

    fn deliver(&mut self) {
        self.local.write(self.pile.packets());
        self.pile.clear();
    }

    /// Whether there may be more.
    fn read_local(&mut self, now: Instant) -> bool {
        let mut more = true;
        while more && !self.pile.is_full() {
            match self.local.read(&mut self.frame) {
                Ok(Frame::Packet(packet)) => {
                    if let Some(link) = self.side.leads(now, packet) {
                        self.pile.spare(packet.len())[..packet.len()].copy_from_slice(packet);
                        self.pile.commit(link, packet.len());
                    }
                }
                Ok(Frame::Many(mut split)) => {
                    while let Some(len) = split.next_into(self.pile.spare(0)) {
                        let packet = &self.pile.spare(len)[..len];
                        if let Some(link) = self.side.leads(now, packet) {
                            self.pile.commit(link, len);
                        }
                    }
                }
                Ok(Frame::Strange) => {}
                Err(error) => more = error.kind() == io::ErrorKind::Interrupted,
            }
        }
        let Pile { bytes, packets, .. } = &self.pile;
        for run in packets.chunk_by(|(one, _), (other, _)| one == other) {
            if let Some((link, _)) = run.first() {
                // What the socket does not take is lost, as on any wire that is full.
                self.wireguard.carry(now, *link, run.iter().map(|(_, range)| &bytes[range.clone()]));
            }
        }
        self.pile.clear();
        more
    }
}
