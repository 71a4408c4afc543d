//! The TUN device: the door between the kernel's IP stack and the mesh.
//!
//! What the kernel routes into the device is read here; what is written here the kernel receives as if from a wire.
//! Where the kernel can, one read or write is a frame of many packets ([`frames`]); else it is one bare IP packet.

mod frames;

use std::ffi::c_int;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use crate::link::train::keeps_trains;

/// Where Linux offers TUN devices (kernel documentation, networking/tuntap).
const TUN_DEVICE: &str = "/dev/net/tun";

pub(crate) use frames::{FRAME_MAX, Frame};
pub use frames::{Framing, Local};

/// What the device may leave to us: checksums, and cutting frames of TCP and UDP into packets. A kernel may know less.
const OFFLOADS: libc::c_uint = libc::TUN_F_CSUM | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
const UDP_OFFLOADS: libc::c_uint = OFFLOADS | libc::TUN_F_USO4 | libc::TUN_F_USO6;

/// Refuses a name that any device has already, a persistent TUN device included: it is not ours to take.
const OWNERSHIP: c_int = libc::IFF_TUN_EXCL;

/// `IFNAMSIZ` of `linux/if.h`: an interface name with its closing zero.
const NAME_SIZE: usize = libc::IFNAMSIZ;

/// The smallest MTU an IPv6 link may have (RFC 8200, section 5).
pub const MTU_MIN: u16 = 1280;

/// A TUN device of this process. It exists from [`Tun::create`] until the value is dropped, a crash included: the
/// kernel removes it, its addresses and its routes with the last descriptor.
///
/// It is down when created: `Netlink::set_up` comes next, then addresses and routes, and then packets flow through
/// [`Tun::local`], which never blocks.
#[derive(Debug)]
pub struct Tun {
    file: File,
    framing: Framing,
    name: String,
    index: u32,
}

/// Why there is no TUN device.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// The name cannot be an interface name.
    #[error("`{name}` cannot be an interface name: {why}")]
    InvalidName {
        /// The name that was asked for.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The MTU is below what IPv6 needs.
    #[error("an MTU of {mtu} is too small for IPv6")]
    MtuTooSmall {
        /// The MTU that was asked for, in bytes.
        mtu: u16,
    },
    /// The kernel offers no TUN devices, or the device node is missing.
    #[error("cannot open {device}: {source}")]
    NoDriver {
        /// The device node.
        device: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The process may not open the node or create a device.
    #[error("cannot create the TUN device `{name}`: permission denied")]
    PermissionDenied {
        /// The name that was asked for.
        name: String,
    },
    /// Another interface has the name.
    #[error("cannot create the TUN device `{name}`: an interface of this name exists")]
    NameInUse {
        /// The name that was asked for.
        name: String,
    },
    /// Anything else the kernel refused.
    #[error("cannot create the TUN device `{name}`: {action}: {source}")]
    Kernel {
        /// The name that was asked for.
        name: String,
        /// The call that failed.
        action: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl TunError {
    /// What the person at the keyboard can do about it: one or two lines, to print below the error.
    #[must_use]
    pub fn next_step(&self) -> String {
        match self {
            Self::InvalidName { .. } => {
                format!("choose 1 to {} letters, digits, `-`, `_` or `.`, such as `waybill0`", NAME_SIZE - 1)
            }
            Self::MtuTooSmall { .. } => format!("choose an MTU of {MTU_MIN} or more"),
            Self::NoDriver { device, .. } => format!(
                "load the driver with `modprobe tun` (OpenWrt: install kmod-tun); in a container, pass {device} in, \
                 or make it: `mkdir -p /dev/net && mknod {device} c 10 200`"
            ),
            Self::PermissionDenied { .. } => {
                "the router needs CAP_NET_ADMIN; start it with `service waybill start`, or run it as root".to_owned()
            }
            Self::NameInUse { name } => format!(
                "another waybill may be running: stop it, or choose another name; a left-over device goes with \
                 `ip link delete {name}`"
            ),
            Self::Kernel { .. } => "this is unexpected; `dmesg` may say more".to_owned(),
        }
    }
}

impl Tun {
    /// Creates the device `name` with an MTU of `mtu` bytes, down and without addresses. With `offloads`, it carries many
    /// packets at once where the kernel can.
    pub fn create(name: &str, mtu: u16, offloads: bool) -> Result<Self, TunError> {
        // What does not turn around lengths of datagrams does not turn around those of frames.
        Self::create_at(Path::new(TUN_DEVICE), name, mtu, offloads && keeps_trains())
    }

    /// The same for a device that carries IPv4 beside IPv6: the kernel cuts all UDP itself, as frames are taken apart for
    /// IPv6 only, and it leaves frames of UDP to a device for both families or for none.
    pub fn create_for_both_families(name: &str, mtu: u16, offloads: bool) -> Result<Self, TunError> {
        let tun = Self::create(name, mtu, offloads)?;
        if tun.framing == Framing::Bare {
            return Ok(tun);
        }
        let taken = hand_over(&tun.file, OFFLOADS);
        tracing::debug!(name, taken, "the kernel cuts UDP");
        Ok(Self { framing: Framing::Frames { udp: false }, ..tun })
    }

    fn create_at(device: &Path, name: &str, mtu: u16, offloads: bool) -> Result<Self, TunError> {
        let interface = InterfaceName::parse(name)?;
        if mtu < MTU_MIN {
            return Err(TunError::MtuTooSmall { mtu });
        }
        let file = open_device(device, name)?;
        let attach =
            |framing| interface.request(&file, libc::TUNSETIFF, libc::IFF_TUN | libc::IFF_NO_PI | OWNERSHIP | framing);
        let with_header = if offloads { libc::IFF_VNET_HDR } else { 0 };
        let attached = attach(with_header);
        let bare = !offloads || attached.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::InvalidInput);
        let attached = if offloads && bare { attach(0) } else { attached };
        attached.map_err(|source| attach_error(name, source))?;
        let framing = if bare { Framing::Bare } else { take_over(&file) };
        let kernel = |action| move |source| TunError::Kernel { name: name.to_owned(), action, source };
        // Any socket carries the interface ioctls; this one needs no protocol to be configured.
        let socket = UnixDatagram::unbound().map_err(kernel("open a socket"))?;
        interface.request(&socket, libc::SIOCSIFMTU as libc::Ioctl, c_int::from(mtu)).map_err(kernel("set the MTU"))?;
        let index =
            interface.request(&socket, libc::SIOCGIFINDEX as libc::Ioctl, 0).map_err(kernel("ask for its index"))?;
        Ok(Self { file, framing, name: name.to_owned(), index: index.cast_unsigned() })
    }

    /// A second handle on the device, to carry its packets.
    ///
    /// # Errors
    /// This process has too many descriptors.
    pub fn local(&self) -> io::Result<Local> {
        Ok(Local::new(self.file.as_fd().try_clone_to_owned()?, self.framing))
    }

    /// The interface's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The interface's index, as netlink wants it.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }
}

/// Takes over from the kernel what it leaves to us.
fn take_over(file: &File) -> Framing {
    let udp = hand_over(file, UDP_OFFLOADS);
    if !udp && !hand_over(file, OFFLOADS) {
        tracing::info!("the kernel hands over one packet at a time: this TUN device has no offloads");
    }
    Framing::Frames { udp }
}

/// Whether the kernel leaves just these to us from here on.
fn hand_over(file: &File, offloads: libc::c_uint) -> bool {
    #[expect(unsafe_code, reason = "the standard library has no ioctl")]
    // SAFETY: the descriptor is open, and this request's argument is a number, not an address.
    let answer = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads)) };
    answer == 0
}

fn open_device(device: &Path, name: &str) -> Result<File, TunError> {
    // The standard library adds O_CLOEXEC.
    let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(device);
    opened.map_err(|source| match source.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => {
            TunError::NoDriver { device: device.display().to_string(), source }
        }
        Some(libc::EACCES | libc::EPERM) => TunError::PermissionDenied { name: name.to_owned() },
        _ => TunError::Kernel { name: name.to_owned(), action: "open the driver", source },
    })
}

fn attach_error(name: &str, source: io::Error) -> TunError {
    let name = name.to_owned();
    match source.raw_os_error() {
        Some(libc::EBUSY) => TunError::NameInUse { name },
        Some(libc::EACCES | libc::EPERM) => TunError::PermissionDenied { name },
        _ => TunError::Kernel { name, action: "attach to the driver", source },
    }
}

/// A name the kernel accepts for an interface, padded with zeros.
struct InterfaceName([u8; NAME_SIZE]);

impl InterfaceName {
    /// `dev_valid_name` of the kernel, and no `%`, which the kernel would fill in with a number.
    fn parse(name: &str) -> Result<Self, TunError> {
        let refuse = |why| Err(TunError::InvalidName { name: name.to_owned(), why });
        if name.is_empty() {
            return refuse("it is empty");
        }
        if name.len() >= NAME_SIZE {
            return refuse("it is longer than 15 bytes");
        }
        if name == "." || name == ".." {
            return refuse("it is a directory's name");
        }
        if !name.bytes().all(|b| b.is_ascii_graphic() && !b"/:%".contains(&b)) {
            return refuse("it holds a space, `/`, `:`, `%` or another character outside ASCII");
        }
        let mut padded = [0; NAME_SIZE];
        padded[..name.len()].copy_from_slice(name.as_bytes());
        Ok(Self(padded))
    }

    /// One ioctl about this interface: `value` goes in, what the kernel left in its place comes out.
    fn request(&self, file: &impl AsRawFd, request: libc::Ioctl, value: c_int) -> io::Result<c_int> {
        let mut ifreq = InterfaceRequest { name: self.0, value: [0; 24] };
        ifreq.put(request, value);
        #[expect(unsafe_code, reason = "the standard library has no ioctl")]
        // SAFETY: the descriptor is open, and the three requests made here read and write one `struct ifreq`, which
        // `InterfaceRequest` covers in full.
        let answer = unsafe { libc::ioctl(file.as_raw_fd(), request, &raw mut ifreq) };
        if answer < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(ifreq.integer())
    }
}

/// `struct ifreq` of `linux/if.h` as plain bytes: the name, and a union of which the first bytes are used. The union
/// is 24 bytes with 64-bit pointers and 16 with 32-bit ones; the longer suits both.
#[repr(C, align(8))]
struct InterfaceRequest {
    name: [u8; NAME_SIZE],
    value: [u8; 24],
}

impl InterfaceRequest {
    /// `ifr_flags`, for `TUNSETIFF`, is 16 bits wide; `ifr_mtu` and `ifr_ifindex` are an `int`.
    fn put(&mut self, request: libc::Ioctl, value: c_int) {
        if request == libc::TUNSETIFF {
            self.value[..2].copy_from_slice(&(value as u16).to_ne_bytes());
        } else {
            self.value[..4].copy_from_slice(&value.to_ne_bytes());
        }
    }

    fn integer(&self) -> c_int {
        let [a, b, c, d, ..] = self.value;
        c_int::from_ne_bytes([a, b, c, d])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{Netlink, NetlinkError, in_own_namespace};
    use std::io::{Read, Write};
    use std::net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket};
    use std::time::Duration;

    const HERE: Ipv6Addr = Ipv6Addr::new(0xfd57, 0, 0, 0, 0, 0, 0, 1);
    const THERE: Ipv6Addr = Ipv6Addr::new(0xfd58, 0, 0, 0, 0, 0, 0, 2);

    #[test]
    fn names_the_kernel_would_refuse_are_refused_with_the_reason() {
        for name in ["", ".", "..", "a/b", "a b", "a:b", "tun%d", "sixteen-bytes-xy", "b\u{fc}ro", "a\nb"] {
            let error = Tun::create(name, 1420, true).unwrap_err();
            assert!(matches!(error, TunError::InvalidName { .. }), "{name}: {error}");
            assert!(error.next_step().contains("1 to 15"));
        }
        assert!(InterfaceName::parse("fifteen-bytes-x").is_ok());
        assert!(matches!(Tun::create("waybill0", 1279, true), Err(TunError::MtuTooSmall { mtu: 1279 })));
    }

    #[test]
    fn a_missing_driver_is_named_with_the_next_step() {
        let error = Tun::create_at(Path::new("/nonexistent/net/tun"), "waybill0", 1420, true).unwrap_err();
        assert!(matches!(error, TunError::NoDriver { .. }), "{error}");
        assert!(error.next_step().contains("modprobe tun"));

        let error = Tun::create_at(Path::new("/dev/null"), "waybill0", 1420, true).unwrap_err();
        assert!(matches!(error, TunError::Kernel { action: "attach to the driver", .. }), "{error}");
    }

    #[test]
    fn a_refused_attachment_is_named_by_its_cause() {
        let refused = |errno| attach_error("waybill0", io::Error::from_raw_os_error(errno));
        assert!(refused(libc::EPERM).next_step().contains("CAP_NET_ADMIN"));
        assert!(matches!(refused(libc::EBUSY), TunError::NameInUse { .. }));
    }

    #[test]
    fn packets_pass_both_ways_and_the_device_goes_with_its_descriptor() {
        if !in_own_namespace("tun::tests::packets_pass_both_ways_and_the_device_goes_with_its_descriptor") {
            return;
        }
        let mut netlink = Netlink::open().unwrap();
        let tun = Tun::create("waybill0", 1420, true).unwrap();
        assert_eq!(tun.index(), netlink.link_index("waybill0").unwrap());
        assert!(matches!(Tun::create("waybill0", 1420, true), Err(TunError::NameInUse { .. })));

        let mut local = tun.local().unwrap();
        assert_eq!(local.read(&mut [0; 100]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        set_up(&mut netlink, &tun);
        assert_eq!(local.write([&b"\0: no version of IP"[..]].into_iter()), 1, "the kernel does not take it");

        let socket = UdpSocket::bind((HERE, 4000)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        socket.send_to(b"freight", (THERE, 5000)).unwrap();
        let mut buffer = vec![0; FRAME_MAX];
        let Frame::Packet(packet) = local.read(&mut buffer).unwrap() else { panic!("one packet") };
        let mut packet = packet.to_vec();
        assert_eq!(
            packet.len(),
            40 + 8 + 7,
            "the first packet out of the device is ours: no link-local chatter before it"
        );
        assert_eq!(packet[24..40], THERE.octets());
        assert_eq!(packet[48..55], *b"freight");

        // Turned round, the packet is its own answer, and its checksum still holds.
        packet[8..40].rotate_left(16);
        packet[40..44].rotate_left(2);
        let mut answer = [0; 100];
        let (len, from) = (0..50)
            .find_map(|_| {
                assert_eq!(local.write([&packet[..]].into_iter()), 0);
                socket.recv_from(&mut answer).ok()
            })
            .unwrap();
        assert_eq!((&answer[..len], from.ip()), (&b"freight"[..], THERE.into()));

        drop((tun, local));
        assert!(matches!(netlink.link_index("waybill0"), Err(NetlinkError::NoSuchInterface { .. })));
    }

    fn set_up(netlink: &mut Netlink, tun: &Tun) {
        netlink.set_up(tun.index(), 1420).unwrap();
        netlink.add_address(tun.index(), HERE, 128).unwrap();
        netlink.add_route(THERE, 48, tun.index(), 1024).unwrap();
    }

    /// Reads what the kernel has for us: packets with source and destination exchanged, and whether they came together.
    fn mirrored(local: &Local) -> (Vec<Vec<u8>>, bool) {
        let (mut packets, mut together) = (Vec::new(), false);
        let mut buffer = vec![0; FRAME_MAX];
        while packets.len() < 64
            && let Ok(frame) = local.read(&mut buffer)
        {
            match frame {
                Frame::Packet(packet) => packets.push(packet.to_vec()),
                Frame::Many(mut split) => {
                    let mut slot = [0; 1420];
                    packets.extend(std::iter::from_fn(|| split.next_into(&mut slot).map(|len| slot[..len].to_vec())));
                    together = true;
                }
                Frame::Strange => panic!("a frame we do not understand"),
            }
        }
        packets.iter_mut().for_each(|packet| packet[8..40].rotate_left(16));
        (packets, together)
    }

    /// A client on this machine calls an address beyond the device; mirrored, its call reaches a server on this machine.
    #[test]
    fn streams_pass_a_mirror_in_frames_and_packet_by_packet() {
        if !in_own_namespace("tun::tests::streams_pass_a_mirror_in_frames_and_packet_by_packet") {
            return;
        }
        const LEN: usize = 20 << 20;
        let text = |at: usize| (at / 7 + at % 253) as u8;
        for offloads in [true, false] {
            let mut netlink = Netlink::open().unwrap();
            let tun = Tun::create("waybill0", 1420, offloads).unwrap();
            let mut local = tun.local().unwrap();
            set_up(&mut netlink, &tun);
            let listener = TcpListener::bind((HERE, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            let client = std::thread::spawn(move || {
                let mut stream = TcpStream::connect((THERE, port)).unwrap();
                stream.write_all(&(0..LEN).map(text).collect::<Vec<_>>()).unwrap();
            });
            let server = std::thread::spawn(move || {
                let mut received = Vec::new();
                listener.accept().unwrap().0.read_to_end(&mut received).unwrap();
                received
            });
            let (mut frames, mut waited) = (0, 0);
            while !server.is_finished() {
                let (packets, together) = mirrored(&local);
                waited = if packets.is_empty() { waited + 1 } else { 0 };
                assert!(waited < 100_000, "nothing moves any more");
                if packets.is_empty() {
                    std::thread::sleep(Duration::from_micros(100));
                }
                frames += u32::from(together);
                local.write(packets.iter().map(Vec::as_slice));
            }
            client.join().unwrap();
            let received = server.join().unwrap();
            assert!(received.len() == LEN && received.iter().enumerate().all(|(at, byte)| *byte == text(at)));
            assert_eq!(frames > 0, offloads, "{frames} frames");
        }
    }
}
