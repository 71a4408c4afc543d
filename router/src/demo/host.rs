//! A host behind a node: a `smoltcp` stack whose wire is the node's own side, as a TUN would be.

use std::collections::VecDeque;
use std::io;
use std::net::Ipv6Addr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use portable_atomic::AtomicU64;
use sha2::{Digest, Sha256};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant as Timestamp;
use smoltcp::wire::{HardwareAddress, IpCidr};

/// The port the file is served on.
const PORT: u16 = 80;
/// Bytes in flight at most, per connection: for a small file a small part of it, so that a host has not received all of
/// it before it has read any.
pub(super) fn window(file: u64) -> usize {
    usize::try_from(file / 8).unwrap_or(usize::MAX).clamp(4 << 10, 128 << 10)
}
/// Packets read before the stack gets its turn.
const READ_MAX: usize = 256;
/// The longest wait for packets: how late a host notices that it should stop.
const WAIT: Duration = Duration::from_millis(20);

/// Both ends of a wire that carries IP packets whole: the node's end as a file descriptor, and the host's. A host that
/// sends faster than its node reads waits, as on a cable.
pub(super) fn wire() -> io::Result<(OwnedFd, UnixDatagram)> {
    let (ours, theirs) = UnixDatagram::pair()?;
    ours.set_nonblocking(true)?;
    Ok((ours.into(), theirs))
}

/// How far a download has come; shared with whoever watches.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Bytes received so far.
    pub(super) bytes: AtomicU64,
    /// The download waits at this many bytes while `hold` is set.
    pub(super) hold_at: AtomicU64,
    /// See `hold_at`.
    pub(super) hold: AtomicBool,
    /// Ends the host's thread.
    pub(super) stop: AtomicBool,
}

/// Downloads `len` bytes from `server` and returns their SHA-256, or nothing if told to stop before the end.
pub(super) fn download(
    wire: UnixDatagram,
    mtu: usize,
    own: Ipv6Addr,
    server: Ipv6Addr,
    len: u64,
    progress: &Progress,
) -> Option<[u8; 32]> {
    let mut host = Host::new(wire, mtu, own, window(len));
    let handle = host.add_socket();
    let (mut hash, mut received) = (Sha256::new(), 0_u64);
    while !progress.stop.load(Ordering::Relaxed) {
        host.poll();
        let (interface, socket) = host.socket(handle);
        // Not yet connected, or refused because routing had not converged: (re)try from a fresh local port.
        if !socket.is_open() {
            (hash, received) = (Sha256::new(), 0);
            let port = 49_152 + fastrand::u16(0..16_000);
            if socket.connect(interface.context(), (server, PORT), port).is_err() {
                return None;
            }
        }
        let held = progress.hold.load(Ordering::Relaxed) && received >= progress.hold_at.load(Ordering::Relaxed);
        while socket.can_recv() && !held {
            let taken = socket.recv(|bytes| {
                hash.update(&*bytes);
                (bytes.len(), bytes.len())
            });
            received += taken.unwrap_or(0) as u64;
        }
        progress.bytes.store(received, Ordering::Relaxed);
        if received >= len {
            socket.close();
            host.linger();
            return Some(hash.finalize().into());
        }
        host.wait();
    }
    None
}

/// Serves `file` to whoever connects, on `connections` connections at once, until told to stop.
pub(super) fn serve(
    wire: UnixDatagram,
    mtu: usize,
    own: Ipv6Addr,
    file: &Arc<[u8]>,
    connections: usize,
    stop: &AtomicBool,
) {
    let mut host = Host::new(wire, mtu, own, window(file.len() as u64));
    let mut sessions: Vec<(SocketHandle, usize)> = (0..connections).map(|_| (host.add_socket(), 0)).collect();
    while !stop.load(Ordering::Relaxed) {
        host.poll();
        for (handle, sent) in &mut sessions {
            let (_, socket) = host.socket(*handle);
            if !socket.is_open() {
                *sent = 0;
                // Listening fails only on port 0.
                let _listening = socket.listen(PORT);
            }
            if socket.can_send() && *sent < file.len() {
                *sent += socket.send_slice(&file[*sent..]).unwrap_or(0);
            }
            if *sent == file.len() && socket.may_send() {
                socket.close();
            }
        }
        host.wait();
    }
}

struct Host {
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    window: usize,
    start: Instant,
}

impl Host {
    fn new(socket: UnixDatagram, mtu: usize, own: Ipv6Addr, window: usize) -> Self {
        let mut wire = Wire { socket, mtu, received: VecDeque::new() };
        let mut interface = Interface::new(Config::new(HardwareAddress::Ip), &mut wire, Timestamp::ZERO);
        interface.update_ip_addrs(|addresses| {
            // The list has room for more than one address; an empty one takes the first.
            let _taken = addresses.push(IpCidr::new(own.into(), 64));
        });
        let _taken = interface.routes_mut().add_default_ipv6_route(own);
        Self { wire, interface, sockets: SocketSet::new(Vec::new()), window, start: clock() }
    }

    fn add_socket(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; self.window]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        socket.set_congestion_control(tcp::CongestionControl::Reno);
        self.sockets.add(socket)
    }

    fn socket(&mut self, handle: SocketHandle) -> (&mut Interface, &mut tcp::Socket<'static>) {
        (&mut self.interface, self.sockets.get_mut(handle))
    }

    fn now(&self) -> Timestamp {
        let micros = clock().saturating_duration_since(self.start).as_micros();
        Timestamp::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }

    fn poll(&mut self) {
        let now = self.now();
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
    }

    /// Waits until a packet arrives or the stack has something to do.
    fn wait(&mut self) {
        let delay = self.interface.poll_delay(self.now(), &self.sockets);
        let delay = delay.map_or(WAIT, |delay| Duration::from_micros(delay.total_micros()).min(WAIT));
        self.wire.fill(delay);
    }

    /// Lets the last acknowledgements go out.
    fn linger(&mut self) {
        for _ in 0..5 {
            self.poll();
            self.wait();
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the hosts' one clock")]
fn clock() -> Instant {
    Instant::now()
}

struct Wire {
    socket: UnixDatagram,
    mtu: usize,
    received: VecDeque<Vec<u8>>,
}

impl Wire {
    fn fill(&mut self, wait: Duration) {
        let mut buffer = [0; 2048];
        // A read timeout of zero would wait for ever.
        let waits = self.socket.set_read_timeout(Some(wait.max(Duration::from_micros(1)))).is_ok();
        let mut received = if waits { self.socket.recv(&mut buffer).ok() } else { None };
        if self.socket.set_nonblocking(true).is_err() {
            return;
        }
        while let Some(len) = received {
            self.received.push_back(buffer[..len].to_vec());
            received = (self.received.len() < READ_MAX).then(|| self.socket.recv(&mut buffer).ok()).flatten();
        }
        // If it stays non-blocking the host polls busily, and still works.
        let _blocking = self.socket.set_nonblocking(false);
    }
}

struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct Sending<'a>(&'a UnixDatagram);

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        // A wire may lose packets; TCP repeats them.
        let _sent = self.0.send(&packet);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _now: Timestamp) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        let packet = self.received.pop_front()?;
        Some((Received(packet), Sending(&self.socket)))
    }

    fn transmit(&mut self, _now: Timestamp) -> Option<Self::TxToken<'_>> {
        Some(Sending(&self.socket))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities.checksum = ChecksumCapabilities::default();
        capabilities
    }
}
