//! Datagrams in trains: one call hands the kernel, or takes from it, up to 64 datagrams of one size for or from one
//! address (UDP segmentation and receive offload, `UDP_SEGMENT` and `UDP_GRO` of udp(7)).
//!
//! Where the kernel or a network card offers less, the same calls carry one datagram at a time.

use std::io::{self, ErrorKind, IoSlice};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::OnceLock;

use libc::c_int;
use mio::net::UdpSocket;
use node::datapath::packet::Class;
use socket2::{Domain, MaybeUninitSlice, MsgHdr, MsgHdrMut, Protocol, SockAddr, SockFilter, SockRef, Socket, Type};

/// Datagrams in one train at most: 64 (`UDP_MAX_SEGMENTS` of the kernel), and one less for kernels before 5.16, which count
/// the headers too.
pub(crate) const DATAGRAMS_MAX: usize = 63;
/// Bytes in one train at most: one UDP datagram's worth, whatever the headers.
pub(crate) const TRAIN_MAX: usize = 65_000;
/// Room for any train the kernel hands out.
pub(crate) const RECEIVE_MAX: usize = 65_536;
/// Asked of the kernel for each direction; it may grant less.
const SOCKET_BUFFER: usize = 4 << 20;
/// Kernels from the first to before the second damage trains whose datagrams are all of one length.
const DAMAGING_KERNELS: [(u32, u32, u32); 2] = [(7, 0, 0), (7, 1, 5)];

/// A UDP socket that sends and receives trains.
#[derive(Debug)]
pub(crate) struct TrainSocket {
    socket: UdpSocket,
    /// Of the socket's own family: where the kernel writes whom a train is from.
    unspecified: SockAddr,
    is_v6: bool,
    /// Whether the kernel cuts trains apart.
    cuts: bool,
    /// Whether the kernel is to join what it receives.
    joins: bool,
    /// How many sockets of this address receive.
    receivers: usize,
}

/// What was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) from: SocketAddr,
    /// Bytes of all datagrams.
    pub(crate) len: usize,
    /// The length of each datagram but the last, which may be shorter.
    pub(crate) stride: usize,
    /// What their IP headers say.
    pub(crate) class: Class,
}

/// What the kernel did with datagrams. One that is lost later is the network's business and the peer's timers'.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It took them.
    Taken,
    /// The socket's queue is full; it will say when it takes more.
    Full,
    /// It took them not, for another reason.
    Refused,
    /// It knows no way.
    Unreachable,
    /// On this way it cuts no trains of datagrams so long or longer; nothing was sent.
    Uncut(usize),
}

impl TrainSocket {
    /// Binds one for each of `count` workers, or fewer where the kernel allows no more. What belongs to a link arrives at
    /// the socket of that number, counted around; first messages of strangers at the first.
    pub(crate) fn bind_all(listen: SocketAddr, offloads: bool, count: usize) -> io::Result<Vec<Self>> {
        let mut first = Self::bind(listen, offloads)?;
        let others: io::Result<Vec<_>> = (1..count).map(|_| first.sibling(true)).collect();
        let others = others.and_then(|others| {
            first.receivers = count;
            if count > 1 { first.steer().map(|()| others) } else { Ok(others) }
        });
        let others = others.unwrap_or_else(|error| {
            tracing::info!(%error, "one worker receives for all");
            first.receivers = 1;
            Vec::new()
        });
        let receivers = first.receivers;
        let others = others.into_iter().map(|other| Self { receivers, ..other });
        Ok(std::iter::once(first).chain(others).collect())
    }

    /// Binds it. `[::]` serves IPv4 as well; a kernel without IPv6 gets `0.0.0.0`. Without `offloads` no train is longer
    /// than one datagram.
    pub(crate) fn bind(listen: SocketAddr, offloads: bool) -> io::Result<Self> {
        let socket = bind(listen).or_else(|error| match listen.ip() {
            IpAddr::V6(ip) if ip.is_unspecified() => bind((Ipv4Addr::UNSPECIFIED, listen.port()).into()),
            IpAddr::V4(_) | IpAddr::V6(_) => Err(error),
        })?;
        let socket = UdpSocket::from_std(socket.into());
        let is_v6 = socket.local_addr()?.is_ipv6();
        let nobody = if is_v6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
        let damages = is_damaging(&kernel_release());
        // A kernel that does not know the option would send a train as one long datagram. Zero changes nothing.
        let keeps = offloads && keeps_trains();
        let cuts = keeps && !damages && set_option(&socket, libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok();
        if offloads && !cuts {
            let damages = damages || !keeps;
            let why = if damages { "damages datagrams that are sent together" } else { "cuts no trains apart" };
            tracing::warn!("this kernel {why}: each datagram is sent alone");
        }
        let unspecified = SocketAddr::new(nobody, 0).into();
        let bound = Self { socket, unspecified, is_v6, cuts, joins: keeps, receivers: 1 };
        bound.ask_for_more();
        Ok(bound)
    }

    /// That the kernel joins what it receives, and tells what happened to it on the way.
    fn ask_for_more(&self) {
        if self.joins
            && let Err(error) = set_option(&self.socket, libc::SOL_UDP, libc::UDP_GRO, 1)
        {
            tracing::info!(%error, "the kernel does not join datagrams it receives");
        }
        let told = SockRef::from(&self.socket);
        let tells = told.set_recv_tos_v4(true).and(if self.is_v6 { told.set_recv_tclass_v6(true) } else { Ok(()) });
        if let Err(error) = tells {
            tracing::info!(%error, "the kernel does not tell of congestion on the way");
        }
    }

    /// Another socket of the same address that only sends: its queue is its own, and what arrives is for those bound before.
    pub(crate) fn exit(&self) -> io::Result<Self> {
        let exit = self.sibling(false)?;
        self.steer()?;
        Ok(exit)
    }

    fn sibling(&self, receives: bool) -> io::Result<Self> {
        let first = SockRef::from(&self.socket);
        // Only now, so that another program on this port is an error when the first is bound.
        first.set_reuse_port(true)?;
        let listen = self.local_addr()?;
        let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
        if self.is_v6 {
            socket.set_only_v6(first.only_v6()?)?;
        }
        socket.set_nonblocking(true)?;
        socket.set_reuse_port(true)?;
        if receives {
            let _clipped = socket.set_recv_buffer_size(SOCKET_BUFFER);
        } else {
            // Of a broadcast the kernel gives each socket of the port a copy, whoever was to receive; nobody would ever read
            // this one's. A filter that keeps no byte drops it.
            socket.attach_filter(&[SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0)])?;
        }
        socket.bind(&listen.into())?;
        let (socket, unspecified) = (UdpSocket::from_std(socket.into()), self.unspecified.clone());
        let Self { is_v6, cuts, joins, receivers, .. } = *self;
        let sibling = Self { socket, unspecified, is_v6, cuts, joins, receivers };
        // Also of those that only send: before the kernel joins datagrams it looks at any of the sockets, and asks no
        // program which.
        sibling.ask_for_more();
        Ok(sibling)
    }

    /// Of all sockets that share the address, those bound first receive, each for its own links
    /// (`SO_ATTACH_REUSEPORT_CBPF` of socket(7)).
    fn steer(&self) -> io::Result<()> {
        let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
        let equal = |k, jt| libc::sock_filter { jt, ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, k) };
        let byte = |at| statement(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, at);
        // A receiver index is little-endian, and its upper three bytes are the link (WireGuard paper, section 5.4). What is
        // too short ends the program, with 0.
        let mut program = [
            byte(0),
            equal(4, 3), // data: its receiver stands at 4
            equal(3, 2), // a cookie: likewise
            equal(2, 3), // a response: at 8
            statement(libc::BPF_RET | libc::BPF_K, 0),
            byte(5),
            statement(libc::BPF_JMP | libc::BPF_JA, 1),
            byte(9),
            statement(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, self.receivers as u32),
            statement(libc::BPF_RET | libc::BPF_A, 0),
        ];
        let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        let size = size_of::<libc::sock_fprog>() as libc::socklen_t;
        #[expect(unsafe_code, reason = "no library of ours knows this option")]
        // SAFETY: the descriptor is open; the kernel reads one `sock_fprog` and as many instructions as it says, and copies
        // them.
        let answer = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_REUSEPORT_CBPF,
                (&raw const program).cast(),
                size,
            )
        };
        if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// An exit for datagrams that are as long as the way takes or are lost (`IP_PMTUDISC_PROBE` of ip(7)).
    pub(crate) fn prober(&self) -> io::Result<Self> {
        let exit = self.exit()?;
        set_option(&exit.socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)?;
        if self.is_v6 {
            set_option(&exit.socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)?;
        }
        Ok(exit)
    }

    /// How many bytes wait in the socket at most, about.
    pub(crate) fn set_room(&self, bytes: usize) {
        let _clipped = SockRef::from(&self.socket).set_send_buffer_size(bytes);
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    pub(crate) fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// For the poller.
    pub(crate) fn source(&mut self) -> &mut UdpSocket {
        &mut self.socket
    }

    /// Receives one train into `buffer` of [`RECEIVE_MAX`] bytes.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        let (mut from, mut control) = (self.unspecified.clone(), Aligned([0; 64]));
        let mut buffers = [MaybeUninitSlice::new(uninit(buffer))];
        let mut message =
            MsgHdrMut::new().with_addr(&mut from).with_buffers(&mut buffers).with_control(uninit(&mut control.0));
        let len = SockRef::from(&self.socket).recvmsg(&mut message, 0)?;
        let control_len = message.control_len().min(control.0.len());
        let from = from.as_socket().ok_or(ErrorKind::InvalidData)?;
        let Told { stride, class } = told(&control.0[..control_len]);
        let from = canonical(from);
        Ok(Received { from, len, stride: stride.unwrap_or(len), class })
    }

    /// Sends datagrams of `stride` bytes, the last of which may be shorter. How many the kernel took, and its last answer.
    pub(crate) fn send(&self, to: SocketAddr, train: &[u8], stride: usize, class: Class) -> (usize, Sent) {
        if train.len() <= stride || !self.cuts {
            return self.send_each(to, train, stride, class);
        }
        match self.send_message(to, train, Some(stride), class) {
            Sent::Taken => (train.len().div_ceil(stride.max(1)), Sent::Taken),
            sent @ (Sent::Full | Sent::Refused | Sent::Unreachable | Sent::Uncut(_)) => (0, sent),
        }
    }

    /// The same, one by one. The first answer that is not good ends it.
    pub(crate) fn send_each(&self, to: SocketAddr, train: &[u8], stride: usize, class: Class) -> (usize, Sent) {
        let mut taken = 0;
        for datagram in train.chunks(stride.max(1)) {
            match self.send_message(to, datagram, None, class) {
                Sent::Taken => taken += 1,
                sent @ (Sent::Full | Sent::Refused | Sent::Unreachable | Sent::Uncut(_)) => return (taken, sent),
            }
        }
        (taken, Sent::Taken)
    }

    /// A message of the socket's own, without marks.
    pub(crate) fn send_one(&self, to: SocketAddr, datagram: &[u8]) -> Sent {
        self.send_message(to, datagram, None, Class::default())
    }

    fn send_message(&self, to: SocketAddr, bytes: &[u8], stride: Option<usize>, class: Class) -> Sent {
        let mut control = Control::new();
        if let Some(stride) = stride {
            control.push(libc::SOL_UDP, libc::UDP_SEGMENT, &(stride as u16).to_ne_bytes());
        }
        if class != Class::default() {
            let (level, kind) =
                if to.is_ipv4() { (libc::IPPROTO_IP, libc::IP_TOS) } else { (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) };
            control.push(level, kind, &c_int::from(class.bits()).to_ne_bytes());
        }
        let address = SockAddr::from(match to {
            SocketAddr::V4(v4) if self.is_v6 => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
            SocketAddr::V4(_) | SocketAddr::V6(_) => to,
        });
        let buffers = [IoSlice::new(bytes)];
        let message = MsgHdr::new().with_addr(&address).with_buffers(&buffers);
        let message = if control.len == 0 { message } else { message.with_control(&control.bytes.0[..control.len]) };
        let Err(error) = SockRef::from(&self.socket).sendmsg(&message, 0) else { return Sent::Taken };
        match (error.kind(), error.raw_os_error(), stride) {
            (ErrorKind::WouldBlock, ..) => Sent::Full,
            (ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown | ErrorKind::HostUnreachable, ..) => {
                Sent::Unreachable
            }
            // The device of this way computes no checksums (udp_send_skb of the kernel).
            (_, Some(libc::EIO), Some(_)) => Sent::Uncut(0),
            // Longer than the way's MTU; alone they are sent in fragments.
            (_, Some(libc::EINVAL | libc::EMSGSIZE), Some(stride)) => Sent::Uncut(stride),
            // An old kernel knows no class that comes with a datagram, and qemu hands on one that it has not turned around.
            (_, Some(libc::EINVAL), None) if class != Class::default() => {
                self.send_message(to, bytes, None, Class::default())
            }
            _ => Sent::Refused,
        }
    }
}

/// Whether two datagrams that are sent to this machine itself as a train arrive as two. What stands for a kernel (qemu for a program
/// of another processor, a sandbox) may take all options and then hand on lengths that it should have turned around. Where that cannot
/// be found out, the kernel is taken at its word.
pub(crate) fn keeps_trains() -> bool {
    static KEEPS: OnceLock<bool> = OnceLock::new();
    *KEEPS.get_or_init(|| try_train().unwrap_or(true))
}

fn try_train() -> io::Result<bool> {
    let socket = UdpSocket::from_std(bind((Ipv4Addr::LOCALHOST, 0).into())?.into());
    let (to, unspecified) = (socket.local_addr()?, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into());
    let alone = TrainSocket { socket, unspecified, is_v6: false, cuts: true, joins: true, receivers: 1 };
    alone.ask_for_more();
    if alone.send_message(to, &[1, 2], Some(1), Class::default()) != Sent::Taken {
        return Err(ErrorKind::Unsupported.into());
    }
    alone.receive(&mut vec![0; RECEIVE_MAX]).map(|received| received.stride == 1)
}

/// An IPv4 address in IPv6's clothes as what it is. A link-local one keeps the number of its interface, for without it nobody
/// could be answered there.
pub(super) fn canonical(from: SocketAddr) -> SocketAddr {
    match from.ip().to_canonical() {
        ip @ IpAddr::V4(_) => SocketAddr::new(ip, from.port()),
        IpAddr::V6(_) => from,
    }
}

fn bind(listen: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
    if listen.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    // Best effort: the kernel clips these to its own limits.
    let _clipped = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _clipped = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.bind(&listen.into())?;
    Ok(socket)
}

/// `struct cmsghdr` of socket(2): a length, a level and a type, and then the data, all in the machine's own order.
const CONTROL_HEADER: usize = size_of::<usize>() + 2 * size_of::<c_int>();
/// The next one begins at a multiple of this.
const CONTROL_ALIGN: usize = size_of::<usize>();

/// Some C libraries read control messages as what they are.
#[repr(align(8))]
struct Aligned<const N: usize>([u8; N]);

/// Control messages to send along.
struct Control {
    bytes: Aligned<{ 2 * (CONTROL_HEADER + CONTROL_ALIGN) }>,
    len: usize,
}

impl Control {
    fn new() -> Self {
        Self { bytes: Aligned([0; 2 * (CONTROL_HEADER + CONTROL_ALIGN)]), len: 0 }
    }

    /// At most two, of at most [`CONTROL_ALIGN`] bytes of data.
    fn push(&mut self, level: c_int, kind: c_int, data: &[u8]) {
        let len = CONTROL_HEADER + data.len();
        let fields = [&len.to_ne_bytes()[..], &level.to_ne_bytes(), &kind.to_ne_bytes(), data];
        let bytes = fields.into_iter().flatten();
        self.bytes.0[self.len..].iter_mut().zip(bytes).for_each(|(place, byte)| *place = *byte);
        self.len += CONTROL_HEADER + CONTROL_ALIGN;
    }
}

/// What the kernel tells of what it has received.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    /// The length of the datagrams it has joined, if it has.
    stride: Option<usize>,
    class: Class,
}

fn told(control: &[u8]) -> Told {
    let (mut told, mut rest) = (Told::default(), Some(control));
    while let Some(message) = rest.and_then(first_message) {
        let data = message.data;
        let number = data.first_chunk().map(|bytes| c_int::from_ne_bytes(*bytes));
        match (message.level, message.kind) {
            (libc::SOL_UDP, libc::UDP_GRO) => {
                told.stride = number.and_then(|size| usize::try_from(size).ok()).filter(|size| *size > 0);
            }
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                told.class = number.map_or(told.class, |class| Class::of_class(class as u8));
            }
            // IPv4 has it in one byte.
            (libc::IPPROTO_IP, libc::IP_TOS) => {
                told.class = data.first().map_or(told.class, |class| Class::of_class(*class));
            }
            _ => {}
        }
        rest = message.rest;
    }
    told
}

/// A control message, and what follows it.
struct ControlMessage<'a> {
    level: c_int,
    kind: c_int,
    /// With its padding.
    data: &'a [u8],
    rest: Option<&'a [u8]>,
}

fn first_message(control: &[u8]) -> Option<ControlMessage<'_>> {
    let (len, rest) = control.split_first_chunk()?;
    let (level, rest) = rest.split_first_chunk()?;
    let (kind, rest) = rest.split_first_chunk()?;
    let len = usize::from_ne_bytes(*len).max(CONTROL_HEADER).checked_next_multiple_of(CONTROL_ALIGN)?;
    Some(ControlMessage {
        level: c_int::from_ne_bytes(*level),
        kind: c_int::from_ne_bytes(*kind),
        data: rest.get(..len - CONTROL_HEADER).unwrap_or(rest),
        rest: control.get(len..),
    })
}

/// The kernel's version, such as `6.1.0-13-amd64`.
fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default()
}

fn is_damaging(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    let version = (next(), next(), next());
    (DAMAGING_KERNELS[0]..DAMAGING_KERNELS[1]).contains(&version)
}

fn set_option(socket: &impl AsFd, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    let size = size_of::<c_int>() as libc::socklen_t;
    #[expect(unsafe_code, reason = "no library of ours knows this option")]
    // SAFETY: the descriptor is open, and the kernel reads one `int` from where one is.
    let answer = unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, (&raw const value).cast(), size) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The same bytes, for a kernel that overwrites them.
fn uninit(bytes: &mut [u8]) -> &mut [MaybeUninit<u8>] {
    let (start, len) = (bytes.as_mut_ptr().cast(), bytes.len());
    #[expect(unsafe_code, reason = "what `recvmsg` of socket2 wants")]
    // SAFETY: the same place and lifetime; the kernel writes bytes, and nobody else writes anything.
    unsafe {
        std::slice::from_raw_parts_mut(start, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::in_own_namespace;
    use node::datapath::packet::Ecn;
    use std::time::Duration;

    fn socket(address: IpAddr, offloads: bool) -> (TrainSocket, SocketAddr) {
        let socket = TrainSocket::bind(SocketAddr::new(address, 0), offloads).expect("a socket on loopback");
        let address = socket.local_addr().expect("bound");
        (socket, address)
    }

    /// Everything that arrives until so many bytes did: the datagrams, and in how many trains they came.
    fn receive(socket: &TrainSocket, len: usize, class: Class) -> (Vec<Vec<u8>>, usize) {
        let (mut buffer, mut datagrams, mut trains) = (vec![0; RECEIVE_MAX], Vec::new(), 0);
        let mut waited = 0;
        while datagrams.iter().map(Vec::len).sum::<usize>() < len {
            match socket.receive(&mut buffer) {
                Ok(received) => {
                    assert_eq!(received.class, class);
                    let train = buffer[..received.len].chunks(received.stride);
                    datagrams.extend(train.map(<[u8]>::to_vec));
                    trains += 1;
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    waited += 1;
                    assert!(waited < 5_000, "{} datagrams arrived", datagrams.len());
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
        (datagrams, trains)
    }

    /// Datagrams of 1,200 bytes that differ, and a short one.
    fn train(count: usize) -> Vec<u8> {
        (0..count * 1200 + 7).map(|at| (at / 1200 + at % 251) as u8).collect()
    }

    #[test]
    fn a_real_kernel_keeps_trains() {
        assert!(try_train().expect("loopback and its options"));
    }

    #[test]
    fn a_train_arrives_datagram_by_datagram_with_and_without_offloads() {
        for address in [IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::LOCALHOST)] {
            for (sends, receives) in [(true, true), (true, false), (false, true), (false, false)] {
                let ((here, from), (there, to)) = (socket(address, sends), socket(address, receives));
                let (ecn, control) = (if sends { Ecn::Congested } else { Ecn::Capable0 }, receives);
                let (train, class) = (train(40), Class { ecn, control });
                assert_eq!(here.send(to, &train, 1200, class), (41, Sent::Taken));
                let (datagrams, trains) = receive(&there, train.len(), class);
                assert_eq!(datagrams, train.chunks(1200).map(<[u8]>::to_vec).collect::<Vec<_>>());
                assert_eq!(trains == 1, sends && receives && here.cuts, "in {trains} trains");
                let mut buffer = [0; 10];
                let back = there;
                assert_eq!(back.send_one(from, b"thanks"), Sent::Taken);
                let received = (0..5_000).find_map(|_| {
                    std::thread::sleep(Duration::from_millis(1));
                    here.receive(&mut buffer).ok()
                });
                assert_eq!(received, Some(Received { from: to, len: 6, stride: 6, class: Class::default() }));
            }
        }
    }

    /// Whether the kernel joins what arrives at the socket's address, as far as this socket is asked.
    fn joins(socket: &TrainSocket) -> bool {
        let (mut value, mut size) = (0 as c_int, size_of::<c_int>() as libc::socklen_t);
        #[expect(unsafe_code, reason = "no library of ours knows this option")]
        // SAFETY: the descriptor is open, and the kernel writes one `int` where one is.
        let answer = unsafe {
            libc::getsockopt(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_GRO, (&raw mut value).cast(), &raw mut size)
        };
        answer == 0 && value != 0
    }

    #[test]
    fn an_exit_sends_from_the_same_address_and_receives_nothing_and_nobody_else_gets_the_port() {
        for address in [IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::LOCALHOST), Ipv6Addr::UNSPECIFIED.into()]
        {
            let (first, at) = socket(address, true);
            let exits = [first.exit().expect("an exit"), first.prober().expect("another")];
            exits.iter().for_each(|exit| assert_eq!(joins(exit), joins(&first)));
            let to = if address.is_unspecified() { SocketAddr::new(Ipv6Addr::LOCALHOST.into(), at.port()) } else { at };
            let (other, _) = socket(to.ip(), true);
            for exit in &exits {
                assert_eq!(exit.send_one(other.local_addr().expect("bound"), b"out"), Sent::Taken);
                receive(&other, 3, Class::default());
            }
            for _ in 0..50 {
                let (other, _) = socket(to.ip(), true); // A new port each time, so that hashing would spread them.
                assert_eq!(other.send_one(to, b"in"), Sent::Taken);
                receive(&first, 2, Class::default());
            }
            assert!(TrainSocket::bind(at, true).is_err(), "two programs on one port");
        }
    }

    #[test]
    fn what_is_sent_to_everybody_does_not_stay_in_sockets_that_nobody_reads() {
        for address in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
            let (first, at) = socket(address, true);
            let exits = [first.exit().expect("an exit"), first.prober().expect("another")];
            let (other, _) = socket(Ipv4Addr::LOCALHOST.into(), true);
            SockRef::from(&other.socket).set_broadcast(true).expect("allowed to all");
            let everybody = SocketAddr::from(([127, 255, 255, 255], at.port()));
            // Once the second is here, all have had the first.
            for _ in 0..2 {
                assert_eq!(other.send_one(everybody, b"hear"), Sent::Taken);
                receive(&first, 4, Class::default());
            }
            for exit in &exits {
                let nothing = exit.receive(&mut [0; 10]).map_err(|error| error.kind());
                assert_eq!(nothing, Err(ErrorKind::WouldBlock), "{address}");
            }
        }
    }

    #[test]
    fn each_worker_receives_what_belongs_to_its_links_and_the_first_what_is_nobodys() {
        let listen = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 0);
        let receivers = TrainSocket::bind_all(listen, true, 3).expect("three sockets");
        let to = receivers[0].local_addr().expect("bound");
        let _exits = [receivers[0].exit().expect("an exit"), receivers[1].exit().expect("another")];
        for link in 0..20_u32 {
            let index = (link << 8 | 5).to_le_bytes();
            let own = (link % 3) as usize;
            let messages: [(Vec<u8>, usize); 5] = [
                ([&[4, 0, 0, 0][..], &index, &[0; 40]].concat(), own),
                ([&[3, 0, 0, 0][..], &index, &[0; 40]].concat(), own),
                ([&[2, 0, 0, 0, 9, 9, 9, 9][..], &index, &[0; 40]].concat(), own),
                ([&[1, 0, 0, 0][..], &index, &[0; 140]].concat(), 0),
                (vec![4], 0),
            ];
            for (message, at) in messages {
                let (other, _) = socket(to.ip(), true);
                assert_eq!(other.send_one(to, &message), Sent::Taken);
                assert_eq!(receive(&receivers[at], message.len(), Class::default()).0, [message]);
            }
        }
    }

    #[test]
    fn datagrams_longer_than_the_way_takes_are_not_cut_and_go_in_fragments_alone() {
        if !in_own_namespace(
            "link::train::tests::datagrams_longer_than_the_way_takes_are_not_cut_and_go_in_fragments_alone",
        ) {
            return;
        }
        let ip =
            |args: &str| assert!(std::process::Command::new("ip").args(args.split(' ')).status().unwrap().success());
        ip("link set lo mtu 1280");
        ip("link set lo up");
        let address = Ipv6Addr::LOCALHOST.into();
        let ((here, _), (there, to)) = (socket(address, true), socket(address, true));
        let long = train(3);
        assert_eq!(here.send(to, &long, 1240, Class::default()), (0, Sent::Uncut(1240)));
        assert!(here.cuts, "other ways are not concerned");
        assert_eq!(here.send_each(to, &long, 1240, Class::default()), (3, Sent::Taken));
        assert_eq!(here.send(to, &long, 1200, Class::default()), (4, Sent::Taken));
        let (datagrams, _) = receive(&there, 2 * long.len(), Class::default());
        let lens: Vec<_> = datagrams.iter().map(Vec::len).collect();
        assert_eq!(lens, [1240, 1240, 1127, 1200, 1200, 1200, 7]);
    }

    #[test]
    fn who_sends_from_a_link_local_address_is_answered() {
        if !in_own_namespace("link::train::tests::who_sends_from_a_link_local_address_is_answered") {
            return;
        }
        const INDEX: u32 = 77;
        for args in [
            &format!("link add cable index {INDEX} type veth peer name end"),
            "link set lo up",
            // Or the kernel makes it a second one, and may prefer that.
            "link set cable addrgenmode none",
            "link set cable up",
            "link set end up",
            "address add fe80::1/64 dev cable nodad",
        ] {
            assert!(std::process::Command::new("ip").args(args.split(' ')).status().unwrap().success());
        }
        let ((here, at), (there, to)) =
            (socket(Ipv6Addr::UNSPECIFIED.into(), true), socket(Ipv6Addr::UNSPECIFIED.into(), true));
        let on_cable = |at: SocketAddr| format!("[fe80::1%{INDEX}]:{}", at.port()).parse().expect("an address");
        let mut buffer = [0; 20];
        let received = (0..5_000).find_map(|tries| {
            // Until the kernel knows the address as its own, what is for it goes out on the cable.
            if tries % 50 == 0 {
                assert_eq!(here.send_one(on_cable(to), b"who is there"), Sent::Taken);
            }
            std::thread::sleep(Duration::from_millis(1));
            there.receive(&mut buffer).ok()
        });
        assert_eq!(received.map(|received| received.from), Some(on_cable(at)));
        assert_eq!(there.send_one(on_cable(at), b"I"), Sent::Taken);
        receive(&here, 1, Class::default());
    }

    #[test]
    fn control_messages_are_read_whatever_they_say() {
        let messages = |messages: &[(c_int, c_int, &[u8])]| {
            let mut control = Control::new();
            messages.iter().for_each(|(level, kind, data)| control.push(*level, *kind, data));
            control.bytes.0[..control.len].to_vec()
        };
        let gro = (libc::SOL_UDP, libc::UDP_GRO, &1452_i32.to_ne_bytes()[..]);
        let class = (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &3_i32.to_ne_bytes()[..]);
        let both = messages(&[gro, class]);
        assert_eq!(told(&both), Told { stride: Some(1452), class: Class { ecn: Ecn::Congested, control: false } });
        assert_eq!(
            told(&messages(&[(libc::IPPROTO_IP, libc::IP_TOS, &[0xc2]), gro])).class,
            Class { ecn: Ecn::Capable0, control: true }
        );
        assert_eq!(told(&messages(&[(libc::SOL_UDP, 1, &[9; 5])])), Told::default());
        assert_eq!(told(&messages(&[(libc::SOL_UDP, libc::UDP_GRO, &[0xff; 4])])).stride, None);
        for len in 0..CONTROL_HEADER + 4 {
            assert_eq!(told(&both[..len]), Told::default(), "{len} bytes");
        }
        for len in [0, 1, usize::MAX, usize::MAX / 2] {
            let mut strange = both.clone();
            strange[..size_of::<usize>()].copy_from_slice(&len.to_ne_bytes());
            told(&strange);
        }
    }

    #[test]
    fn kernels_that_damage_trains_are_known() {
        for (release, damaging) in [
            ("6.18.44", false),
            ("7.0.0-rc1", true),
            ("7.1.4", true),
            ("7.1.5-amd64\n", false),
            ("7.2", false),
            ("", false),
        ] {
            assert_eq!(is_damaging(release), damaging, "{release}");
        }
    }
}
