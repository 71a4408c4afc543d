//! The TUN device: the door between the kernel's IP stack and the mesh.
//!
//! What the kernel routes into the device is read here; what is written here the kernel receives as if from a wire.
//! One `read` or `write` is one frame, and the constant `FRAMING` alone decides what a frame is: a bare IP packet, with neither
//! packet information nor a virtio-net header in front.

use std::ffi::c_int;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

/// Where Linux offers TUN devices (kernel documentation, networking/tuntap).
const TUN_DEVICE: &str = "/dev/net/tun";

/// What one `read` or `write` carries: `IFF_NO_PI` alone is the bare IP packet. `IFF_VNET_HDR` would belong here.
const FRAMING: c_int = libc::IFF_NO_PI;

/// Refuses a name that any device has already, a persistent TUN device included: it is not ours to take.
const OWNERSHIP: c_int = libc::IFF_TUN_EXCL;

/// `IFNAMSIZ` of `linux/if.h`: an interface name with its closing zero.
const NAME_SIZE: usize = libc::IFNAMSIZ;

/// The smallest MTU an IPv6 link may have (RFC 8200, section 5).
pub const MTU_MIN: u16 = 1280;

/// A TUN device of this process. It exists from [`Tun::create`] until the value is dropped, a crash included: the
/// kernel removes it, its addresses and its routes with the last descriptor.
///
/// It is down when created: `Netlink::set_up` comes next, then addresses and routes, and then packets flow. `read`
/// and `write` never block; they answer `WouldBlock`, and the descriptor is there for a poller to wait on.
#[derive(Debug)]
pub struct Tun {
    file: File,
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
    /// Creates the device `name` with an MTU of `mtu` bytes, down and without addresses.
    pub fn create(name: &str, mtu: u16) -> Result<Self, TunError> {
        Self::create_at(Path::new(TUN_DEVICE), name, mtu)
    }

    fn create_at(device: &Path, name: &str, mtu: u16) -> Result<Self, TunError> {
        let interface = InterfaceName::parse(name)?;
        if mtu < MTU_MIN {
            return Err(TunError::MtuTooSmall { mtu });
        }
        let file = open_device(device, name)?;
        let flags = libc::IFF_TUN | FRAMING | OWNERSHIP;
        interface.request(&file, libc::TUNSETIFF, flags).map_err(|source| attach_error(name, source))?;
        let kernel = |action| move |source| TunError::Kernel { name: name.to_owned(), action, source };
        // Any socket carries the interface ioctls; this one needs no protocol to be configured.
        let socket = UnixDatagram::unbound().map_err(kernel("open a socket"))?;
        interface.request(&socket, libc::SIOCSIFMTU as libc::Ioctl, c_int::from(mtu)).map_err(kernel("set the MTU"))?;
        let index =
            interface.request(&socket, libc::SIOCGIFINDEX as libc::Ioctl, 0).map_err(kernel("ask for its index"))?;
        Ok(Self { file, name: name.to_owned(), index: index.cast_unsigned() })
    }

    /// One frame from the kernel into `buffer`, and its length in bytes. A frame longer than `buffer` is cut off.
    /// `WouldBlock` when there is none.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    /// Hands one frame to the kernel. The kernel refuses what is not an IP packet with `InvalidInput`, and everything
    /// while the device is down with an I/O error (EIO).
    pub fn write(&self, frame: &[u8]) -> io::Result<usize> {
        (&self.file).write(frame)
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

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Tun {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
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
    use std::net::{Ipv6Addr, UdpSocket};
    use std::time::Duration;

    const HERE: Ipv6Addr = Ipv6Addr::new(0xfd57, 0, 0, 0, 0, 0, 0, 1);
    const THERE: Ipv6Addr = Ipv6Addr::new(0xfd58, 0, 0, 0, 0, 0, 0, 2);

    #[test]
    fn names_the_kernel_would_refuse_are_refused_with_the_reason() {
        for name in ["", ".", "..", "a/b", "a b", "a:b", "tun%d", "sixteen-bytes-xy", "b\u{fc}ro", "a\nb"] {
            let error = Tun::create(name, 1420).unwrap_err();
            assert!(matches!(error, TunError::InvalidName { .. }), "{name}: {error}");
            assert!(error.next_step().contains("1 to 15"));
        }
        assert!(InterfaceName::parse("fifteen-bytes-x").is_ok());
        assert!(matches!(Tun::create("waybill0", 1279), Err(TunError::MtuTooSmall { mtu: 1279 })));
    }

    #[test]
    fn a_missing_driver_is_named_with_the_next_step() {
        let error = Tun::create_at(Path::new("/nonexistent/net/tun"), "waybill0", 1420).unwrap_err();
        assert!(matches!(error, TunError::NoDriver { .. }), "{error}");
        assert!(error.next_step().contains("modprobe tun"));

        let error = Tun::create_at(Path::new("/dev/null"), "waybill0", 1420).unwrap_err();
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
        let tun = Tun::create("waybill0", 1420).unwrap();
        assert_eq!(tun.index(), netlink.link_index("waybill0").unwrap());
        assert!(matches!(Tun::create("waybill0", 1420), Err(TunError::NameInUse { .. })));

        assert_eq!(tun.read(&mut [0; 1500]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        netlink.set_up(tun.index(), 1420).unwrap();
        netlink.add_address(tun.index(), HERE, 128).unwrap();
        netlink.add_route(THERE, 48, tun.index(), 1024).unwrap();
        assert_eq!(tun.write(b"\0: no version of IP").unwrap_err().kind(), io::ErrorKind::InvalidInput);

        let socket = UdpSocket::bind((HERE, 4000)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        socket.send_to(b"freight", (THERE, 5000)).unwrap();
        let mut packet = [0; 1500];
        let len = tun.read(&mut packet).unwrap();
        assert_eq!(len, 40 + 8 + 7, "the first packet out of the device is ours: no link-local chatter before it");
        assert_eq!(packet[24..40], THERE.octets());
        assert_eq!(packet[48..55], *b"freight");

        // Turned round, the packet is its own answer, and its checksum still holds.
        packet[8..40].rotate_left(16);
        packet[40..44].rotate_left(2);
        let mut answer = [0; 100];
        let (len, from) = (0..50)
            .find_map(|_| {
                assert_eq!(tun.write(&packet[..len]).unwrap(), len);
                socket.recv_from(&mut answer).ok()
            })
            .unwrap();
        assert_eq!((&answer[..len], from.ip()), (&b"freight"[..], THERE.into()));

        drop(tun);
        assert!(matches!(netlink.link_index("waybill0"), Err(NetlinkError::NoSuchInterface { .. })));
    }
}
