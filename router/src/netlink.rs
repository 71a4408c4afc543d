//! Interfaces, addresses and routes of the kernel, asked for over rtnetlink (`man 7 rtnetlink`).
//!
//! The calls are synchronous: the kernel answers a request before the sending call returns, so there is nothing to
//! wait for. Of the kernel's answers only the few fields used here are read, each with its bounds checked: a newer
//! kernel's unknown attributes pass by.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use netlink_packet_core::{
    ErrorBuffer, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REPLACE, NLM_F_REQUEST, NLMSG_DONE,
    NLMSG_ERROR, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkMessage, LinkMessageBuffer,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMessageBuffer, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use socket2::SockRef;

/// Who installed a route, as the kernel remembers it (`rtm_protocol`; `ip route` shows it). A number of our own, not
/// Babel's 42: a babeld on the same machine flushes its own routes, and we ours. Unassigned in
/// `linux/rtnetlink.h` and in iproute2's `rt_protos`; 87 is a `W`.
pub const ROUTE_PROTOCOL: u8 = 87;

/// More than the kernel puts into one answer (`NLMSG_GOODSIZE` and the 32 KiB cap of a dump).
const ANSWER_MAX: usize = 64 * 1024;

/// The kernel answers at once; longer means that an answer was lost.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a listing is taken again because routes changed while the kernel wrote it.
const DUMP_ATTEMPTS: usize = 8;

/// Attributes of a route in the kernel's answer (`linux/rtnetlink.h`).
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_PRIORITY: u16 = 6;

/// A conversation with the kernel about interfaces, addresses and routes.
///
/// What was added to an interface goes when the interface goes; for a TUN device of ours nothing is left behind.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// More rules of one priority than a router has links.
const RULES_MAX: usize = 1024;

/// A routing rule: which table is asked for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Rules are asked in this order, the lowest first; the main table's own is 32766.
    pub priority: u32,
    /// For packets to this address alone, or for all of its family.
    pub to: Result<IpAddr, Family>,
    /// The table that is asked.
    pub table: u8,
    /// Whether the table's default routes are left out.
    pub without_defaults: bool,
}

/// One of the two kinds of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Rule {
    fn message(self) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = match self.to {
            Ok(IpAddr::V4(_)) | Err(Family::V4) => AddressFamily::Inet,
            Ok(IpAddr::V6(_)) | Err(Family::V6) => AddressFamily::Inet6,
        };
        message.header.table = self.table;
        message.header.action = RuleAction::ToTable;
        message.attributes.push(RuleAttribute::Priority(self.priority));
        message.attributes.push(RuleAttribute::Protocol(RouteProtocol::from(ROUTE_PROTOCOL)));
        if let Ok(to) = self.to {
            message.header.dst_len = if to.is_ipv4() { 32 } else { 128 };
            message.attributes.push(RuleAttribute::Destination(to));
        }
        if self.without_defaults {
            message.attributes.push(RuleAttribute::SuppressPrefixLen(0));
        }
        message
    }
}

/// A route of the kernel's main table that carries [`ROUTE_PROTOCOL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelRoute {
    /// The destination's first address.
    pub destination: Ipv6Addr,
    /// How many bits of it count.
    pub prefix_len: u8,
    /// The kernel's metric; a lower one is preferred.
    pub metric: u32,
}

/// Why the kernel's tables are not as asked for.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// There is no netlink socket to be had.
    #[error("cannot open a netlink socket: {source}")]
    Socket {
        /// The kernel's answer.
        source: io::Error,
    },
    /// No interface has this name.
    #[error("there is no interface `{name}`")]
    NoSuchInterface {
        /// The name that was asked for.
        name: String,
    },
    /// The process may not change interfaces, addresses or routes.
    #[error("cannot {action}: permission denied")]
    PermissionDenied {
        /// What was asked for.
        action: String,
    },
    /// IPv6 is switched off, in the kernel or for this interface.
    #[error("cannot {action}: IPv6 is switched off")]
    Ipv6Disabled {
        /// What was asked for.
        action: String,
    },
    /// Anything else the kernel refused.
    #[error("cannot {action}: {source}")]
    Refused {
        /// What was asked for.
        action: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The exchange with the kernel itself failed.
    #[error("cannot {action}: the exchange with the kernel failed: {source}")]
    Exchange {
        /// What was asked for.
        action: String,
        /// Of which kind: timed out, or an answer that is none.
        source: io::Error,
    },
}

impl NetlinkError {
    /// What the person at the keyboard can do about it: one line, to print below the error.
    #[must_use]
    pub fn next_step(&self) -> &'static str {
        match self {
            Self::Socket { .. } => "the kernel needs CONFIG_NET, and the sandbox AF_NETLINK",
            Self::NoSuchInterface { .. } => "`ip link` lists the interfaces there are",
            Self::PermissionDenied { .. } => {
                "the router needs CAP_NET_ADMIN; start it with `service waybill start`, or run it as root"
            }
            Self::Ipv6Disabled { .. } => {
                "the mesh is IPv6: set net.ipv6.conf.all.disable_ipv6 and net.ipv6.conf.default.disable_ipv6 to 0 \
                 with `sysctl -w`, and start without `ipv6.disable=1`"
            }
            Self::Refused { .. } | Self::Exchange { .. } => "this is unexpected; `dmesg` may say more",
        }
    }

    fn from_errno(action: impl Into<String>, source: io::Error) -> Self {
        let action = action.into();
        match source.raw_os_error() {
            Some(libc::EPERM) => Self::PermissionDenied { action },
            // addrconf answers EACCES for an interface with disable_ipv6 set, and only then.
            Some(libc::EACCES | libc::EAFNOSUPPORT) => Self::Ipv6Disabled { action },
            _ => Self::Refused { action, source },
        }
    }
}

impl Netlink {
    /// Opens the conversation; needs no privilege yet.
    pub fn open() -> Result<Self, NetlinkError> {
        let opened = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            SockRef::from(&socket).set_read_timeout(Some(ANSWER_TIMEOUT))?;
            Ok(Self { socket, sequence: 0 })
        };
        opened().map_err(|source| NetlinkError::Socket { source })
    }

    /// The index of the interface `name`.
    pub fn link_index(&mut self, name: &str) -> Result<u32, NetlinkError> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let mut index = None;
        let asked = self.request(RouteNetlinkMessage::GetLink(message), 0, |payload| {
            index = LinkMessageBuffer::new_checked(payload).ok().map(|link| link.link_index());
        });
        // ERANGE is the kernel's answer to a name that is too long to be one.
        let missing = || NetlinkError::NoSuchInterface { name: name.to_owned() };
        match asked {
            Ok(()) => index.ok_or_else(missing),
            Err(Failure::Errno(e)) if matches!(e.raw_os_error(), Some(libc::ENODEV | libc::ERANGE | libc::EINVAL)) => {
                Err(missing())
            }
            Err(failure) => Err(failure.during(format!("look up interface `{name}`"))),
        }
    }

    /// Gives an interface its MTU in bytes and brings it up, without any address of the kernel's own choosing: a
    /// link-local address on the TUN would answer in our place, and its router solicitations would be read as freight.
    pub fn set_up(&mut self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        let mut settings = link(index);
        settings.attributes.push(LinkAttribute::Mtu(mtu));
        settings.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![
            AfSpecInet6::AddrGenMode(In6AddrGenMode::None),
        ])]));
        self.acknowledged(RouteNetlinkMessage::SetLink(settings), 0)
            .map_err(|failure| failure.during(format!("set up interface {index} with an MTU of {mtu}")))?;
        // In one message with the rest, the kernel would bring the interface up first and choose an address.
        let mut up = link(index);
        up.header.flags = LinkFlags::Up;
        up.header.change_mask = LinkFlags::Up;
        self.acknowledged(RouteNetlinkMessage::SetLink(up), 0)
            .map_err(|failure| failure.during(format!("bring interface {index} up")))
    }

    /// Gives an interface an address without duplicate address detection: it is derived from a key. Adding it again
    /// changes nothing. The kernel adds a route for its prefix by itself. Sockets can bind to it at once; packets for
    /// it are accepted some milliseconds later, for the kernel leaves its own route to a work queue.
    pub fn add_address(&mut self, index: u32, address: impl Into<IpAddr>, prefix_len: u8) -> Result<(), NetlinkError> {
        let address = address.into();
        let mut message = address_message(index, address, prefix_len);
        if address.is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        self.acknowledged(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
            .map_err(|failure| failure.during(format!("add {address}/{prefix_len} to interface {index}")))
    }

    /// Takes an address from an interface; one that is not there is no error.
    pub fn delete_address(&mut self, index: u32, address: IpAddr, prefix_len: u8) -> Result<(), NetlinkError> {
        match self.acknowledged(RouteNetlinkMessage::DelAddress(address_message(index, address, prefix_len)), 0) {
            Err(Failure::Errno(e)) if matches!(e.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => Ok(()),
            done => done.map_err(|failure| failure.during(format!("take {address} from interface {index}"))),
        }
    }

    /// Routes a prefix of either family into an interface, in a table of its own or in the main one (254).
    pub fn add_route_in(
        &mut self,
        table: u8,
        destination: IpAddr,
        prefix_len: u8,
        index: u32,
    ) -> Result<(), NetlinkError> {
        let mut message = match destination {
            IpAddr::V6(destination) => route(destination, prefix_len, index, 0),
            IpAddr::V4(destination) => {
                let mut message = route(Ipv6Addr::UNSPECIFIED, prefix_len, index, 0);
                message.header.address_family = AddressFamily::Inet;
                message.attributes[0] = RouteAttribute::Destination(RouteAddress::Inet(destination));
                message
            }
        };
        message.header.table = table;
        message.header.scope = if destination.is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
        message.header.kind = RouteType::Unicast;
        self.acknowledged(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
            .map_err(|failure| failure.during(format!("route {destination}/{prefix_len} to interface {index}")))
    }

    /// Adds a rule that says which table is asked, before the system's own rules. One that is there already stays.
    pub fn add_rule(&mut self, rule: Rule) -> Result<(), NetlinkError> {
        match self.acknowledged(RouteNetlinkMessage::NewRule(rule.message()), NLM_F_CREATE | libc::NLM_F_EXCL as u16) {
            Err(Failure::Errno(e)) if e.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            done => done.map_err(|failure| failure.during("add a routing rule".to_owned())),
        }
    }

    /// Takes back what [`Netlink::add_rule`] did. False: there was no such rule.
    pub fn delete_rule(&mut self, rule: Rule) -> Result<bool, NetlinkError> {
        self.delete_rule_message(rule.message())
    }

    /// Takes away all rules of ours of this priority, whatever they say: a crash leaves them behind.
    pub fn delete_rules(&mut self, priority: u32) -> Result<(), NetlinkError> {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RuleMessage::default();
            message.header.family = family;
            message.attributes.push(RuleAttribute::Priority(priority));
            message.attributes.push(RuleAttribute::Protocol(RouteProtocol::from(ROUTE_PROTOCOL)));
            for _ in 0..RULES_MAX {
                if !self.delete_rule_message(message.clone())? {
                    break;
                }
            }
        }
        Ok(())
    }

    fn delete_rule_message(&mut self, message: RuleMessage) -> Result<bool, NetlinkError> {
        match self.acknowledged(RouteNetlinkMessage::DelRule(message), 0) {
            Ok(()) => Ok(true),
            Err(Failure::Errno(e)) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EAFNOSUPPORT)) => Ok(false),
            Err(failure) => Err(failure.during("take a routing rule away".to_owned())),
        }
    }

    /// Routes a prefix into an interface; a lower `metric` is preferred, 0 means the kernel's default of 1024. A
    /// route of the same prefix and metric is replaced, whoever made it and wherever it led.
    pub fn add_route(
        &mut self,
        destination: Ipv6Addr,
        prefix_len: u8,
        index: u32,
        metric: u32,
    ) -> Result<(), NetlinkError> {
        let mut message = route(destination, prefix_len, index, metric);
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        self.acknowledged(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
            .map_err(|failure| failure.during(format!("route {destination}/{prefix_len} to interface {index}")))
    }

    /// Takes back what [`Netlink::add_route`] did with the same arguments. A route that is not there, or is not ours,
    /// is no error: what was wanted is so.
    pub fn delete_route(
        &mut self,
        destination: Ipv6Addr,
        prefix_len: u8,
        index: u32,
        metric: u32,
    ) -> Result<(), NetlinkError> {
        let mut message = route(destination, prefix_len, index, metric);
        message.header.scope = RouteScope::NoWhere;
        match self.acknowledged(RouteNetlinkMessage::DelRoute(message), 0) {
            Err(Failure::Errno(e)) if matches!(e.raw_os_error(), Some(libc::ESRCH | libc::ENODEV | libc::ENOENT)) => {
                Ok(())
            }
            done => done.map_err(|failure| failure.during(format!("delete the route to {destination}/{prefix_len}"))),
        }
    }

    /// Our routes into an interface, in order.
    pub fn routes(&mut self, index: u32) -> Result<Vec<KernelRoute>, NetlinkError> {
        let action = || format!("list the routes of interface {index}");
        for _ in 0..DUMP_ATTEMPTS {
            let mut message = RouteMessage::default();
            message.header.address_family = AddressFamily::Inet6;
            let mut routes = Vec::new();
            let listed = self.request(RouteNetlinkMessage::GetRoute(message), NLM_F_DUMP, |payload| {
                routes.extend(our_route(payload, index));
            });
            match listed {
                Ok(()) => {
                    routes.sort_unstable();
                    return Ok(routes);
                }
                Err(Failure::Interrupted) => {}
                Err(failure) => return Err(failure.during(action())),
            }
        }
        Err(Failure::Interrupted.during(action()))
    }

    fn acknowledged(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), Failure> {
        self.request(message, flags | NLM_F_ACK, |_| {})
    }

    /// Sends one request and hands each answering message's payload to `each`, until the kernel has said it all.
    fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), Failure> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map_err(Failure::Exchange)?;

        let mut buffer = vec![0; ANSWER_MAX];
        let mut interrupted = false;
        loop {
            let len = self.socket.recv(&mut &mut buffer[..], 0).map_err(Failure::Exchange)?;
            match read_answer(&buffer[..len], self.sequence, flags, &mut interrupted, &mut each)? {
                Progress::More => {}
                Progress::Done if interrupted => return Err(Failure::Interrupted),
                Progress::Done => return Ok(()),
            }
        }
    }
}

fn link(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

fn address_message(index: u32, address: IpAddr, prefix_len: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.prefix_len = prefix_len;
    message.header.index = index;
    message.attributes.push(AddressAttribute::Address(address));
    message.attributes.push(AddressAttribute::Local(address));
    message
}

fn route(destination: Ipv6Addr, prefix_len: u8, index: u32, metric: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet6;
    message.header.destination_prefix_length = prefix_len;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
    message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet6(masked(destination, prefix_len))));
    message.attributes.push(RouteAttribute::Oif(index));
    message.attributes.push(RouteAttribute::Priority(metric));
    message
}

/// The prefix alone: kernels refuse a destination with bits beyond it.
fn masked(address: Ipv6Addr, prefix_len: u8) -> Ipv6Addr {
    let host_bits = 128_u32.saturating_sub(u32::from(prefix_len));
    let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
    Ipv6Addr::from_bits(address.to_bits() & mask)
}

/// One route of a listing, if it is ours and leads into this interface.
fn our_route(payload: &[u8], index: u32) -> Option<KernelRoute> {
    let message = RouteMessageBuffer::new_checked(payload).ok()?;
    if message.protocol() != ROUTE_PROTOCOL || message.table() != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let mut route =
        KernelRoute { destination: Ipv6Addr::UNSPECIFIED, prefix_len: message.destination_prefix_length(), metric: 0 };
    let mut leads_here = false;
    for attribute in message.attributes().map_while(Result::ok) {
        match (attribute.kind(), attribute.value()) {
            (RTA_DST, value) => route.destination = Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?),
            (RTA_OIF, value) => leads_here = u32::from_ne_bytes(value.try_into().ok()?) == index,
            (RTA_PRIORITY, value) => route.metric = u32::from_ne_bytes(value.try_into().ok()?),
            _ => {}
        }
    }
    leads_here.then_some(route)
}

/// Why a request failed, before it is known by name what it was for.
enum Failure {
    /// The kernel refused.
    Errno(io::Error),
    /// The kernel's tables changed while it listed them.
    Interrupted,
    /// No answer, or one that cannot be read.
    Exchange(io::Error),
}

impl Failure {
    fn during(self, action: String) -> NetlinkError {
        match self {
            Self::Errno(source) => NetlinkError::from_errno(action, source),
            Self::Interrupted => {
                let source = io::Error::new(io::ErrorKind::Interrupted, "the tables kept changing");
                NetlinkError::Exchange { action, source }
            }
            Self::Exchange(source) => NetlinkError::Exchange { action, source },
        }
    }
}

enum Progress {
    More,
    Done,
}

/// Reads the messages of one datagram. A listing ends with `NLMSG_DONE`, a change with its acknowledgement, and a
/// plain question with its answer. Answers to an earlier request, one that timed out, are passed over.
fn read_answer(
    mut datagram: &[u8],
    sequence: u32,
    flags: u16,
    interrupted: &mut bool,
    each: &mut impl FnMut(&[u8]),
) -> Result<Progress, Failure> {
    let unreadable = || Failure::Exchange(io::Error::new(io::ErrorKind::InvalidData, "an answer that is none"));
    while !datagram.is_empty() {
        let message = NetlinkBuffer::new_checked(datagram).map_err(|_| unreadable())?;
        let len = (message.length() as usize).next_multiple_of(4).min(datagram.len());
        datagram = &datagram[len..];
        if message.sequence_number() != sequence {
            continue;
        }
        *interrupted |= message.flags() & NLM_F_DUMP_INTR != 0;
        match message.message_type() {
            NLMSG_DONE => return Ok(Progress::Done),
            NLMSG_ERROR => {
                let answer = ErrorBuffer::new_checked(message.payload()).map_err(|_| unreadable())?;
                return match answer.code() {
                    None => Ok(Progress::Done),
                    Some(code) => {
                        Err(Failure::Errno(io::Error::from_raw_os_error(code.get().checked_abs().unwrap_or(i32::MAX))))
                    }
                };
            }
            _ => each(message.payload()),
        }
        if flags & (NLM_F_DUMP | NLM_F_ACK) == 0 {
            return Ok(Progress::Done);
        }
    }
    Ok(Progress::More)
}

/// For tests that change the kernel's tables: runs the test `name` (its full path) again in a network namespace of its
/// own and answers `false` when that run has passed; answers `true` inside it. Where namespaces cannot be had, the
/// test is skipped with a line that says so.
#[cfg(test)]
pub(crate) fn in_own_namespace(name: &str) -> bool {
    rerun_in_namespace(name, "--net", "")
}

/// As [`in_own_namespace`], with other namespaces and a shell command to prepare them.
#[cfg(test)]
pub(crate) fn rerun_in_namespace(name: &str, namespaces: &str, prepare: &str) -> bool {
    use std::process::Command;
    const MARK: &str = "WAYBILL_TEST_IN_NAMESPACE";
    if std::env::var_os(MARK).is_some_and(|inner| inner == name) {
        return true;
    }
    let possible = Command::new("unshare").args([namespaces, "true"]).output();
    if !possible.is_ok_and(|output| output.status.success()) {
        println!("skipped {name}: no namespaces here (they need root and `unshare`)");
        return false;
    }
    let output = Command::new("unshare")
        .args([namespaces, "sh", "-c", &format!("{prepare}\nexec \"$0\" --exact \"$1\" --nocapture")])
        .arg(std::env::current_exe().unwrap())
        .arg(name)
        .env(MARK, name)
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && printed.contains("1 passed"),
        "{name} failed in its namespace:\n{printed}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tun::Tun;
    use std::process::Command;

    fn ip(args: &str) -> String {
        let output = Command::new("ip").args(args.split(' ')).output().unwrap();
        assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn prefix(n: u16) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 0, n, 0, 0, 0, 0, 0)
    }

    #[test]
    fn a_prefix_is_routed_without_its_host_bits() {
        let address: Ipv6Addr = "fd00:1:2:3::9".parse().unwrap();
        assert_eq!(masked(address, 48), "fd00:1:2::".parse::<Ipv6Addr>().unwrap());
        assert_eq!(masked(address, 0), Ipv6Addr::UNSPECIFIED);
        assert_eq!(masked(address, 128), address);
    }

    #[test]
    fn hostile_answers_are_refused_without_a_panic() {
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..20_000 {
            let mut datagram = vec![0; rng.usize(..200)];
            rng.fill(&mut datagram);
            if datagram.len() >= 16 {
                let len = u32::try_from(rng.usize(..=datagram.len())).unwrap();
                datagram[..4].copy_from_slice(&len.to_ne_bytes());
                datagram[4..6].copy_from_slice(&rng.u16(..6).to_ne_bytes());
                datagram[8..12].copy_from_slice(&7_u32.to_ne_bytes());
            }
            let mut each = |payload: &[u8]| assert_eq!(our_route(payload, 1), None);
            let _ = read_answer(&datagram, 7, NLM_F_DUMP, &mut false, &mut each);
        }
    }

    #[test]
    fn the_interface_has_our_address_and_none_of_the_kernels_own() {
        if !in_own_namespace("netlink::tests::the_interface_has_our_address_and_none_of_the_kernels_own") {
            return;
        }
        let mut netlink = Netlink::open().unwrap();
        assert!(matches!(netlink.link_index("waybill0"), Err(NetlinkError::NoSuchInterface { .. })));
        assert!(matches!(netlink.link_index("a-name-that-is-too-long"), Err(NetlinkError::NoSuchInterface { .. })));
        let tun = Tun::create("waybill0", 1420, true).unwrap();
        netlink.set_up(tun.index(), 1400).unwrap();
        let address: Ipv6Addr = "fd57:1::1".parse().unwrap();
        netlink.add_address(tun.index(), address, 64).unwrap();
        netlink.add_address(tun.index(), address, 64).unwrap();

        let shown = ip("-6 addr show dev waybill0");
        assert!(shown.contains("mtu 1400") && shown.contains("UP"), "{shown}");
        assert!(shown.contains("inet6 fd57:1::1/64"), "{shown}");
        assert!(!shown.contains("fe80") && !shown.contains("tentative"), "{shown}");
    }

    #[test]
    fn routes_are_replaced_listed_and_deleted_and_those_of_others_stay() {
        if !in_own_namespace("netlink::tests::routes_are_replaced_listed_and_deleted_and_those_of_others_stay") {
            return;
        }
        let mut netlink = Netlink::open().unwrap();
        let tun = Tun::create("waybill0", 1420, true).unwrap();
        let other = Tun::create("waybill1", 1420, true).unwrap();
        netlink.set_up(tun.index(), 1420).unwrap();
        netlink.set_up(other.index(), 1420).unwrap();

        // 2,000 routes are more than one answer of the kernel holds.
        for n in 0..2000 {
            netlink.add_route(prefix(n), 48, tun.index(), 100).unwrap();
        }
        netlink.add_route(prefix(7), 48, tun.index(), 100).unwrap();
        netlink.add_route(prefix(9), 48, other.index(), 100).unwrap();
        ip("-6 route add fd01::/48 dev waybill0 proto static");
        let listed = netlink.routes(tun.index()).unwrap();
        assert_eq!(listed.len(), 1999);
        assert_eq!(listed[7], KernelRoute { destination: prefix(7), prefix_len: 48, metric: 100 });
        assert_eq!(netlink.routes(other.index()).unwrap()[0].destination, prefix(9), "it was moved, not doubled");

        for route in listed {
            netlink.delete_route(route.destination, route.prefix_len, tun.index(), route.metric).unwrap();
            netlink.delete_route(route.destination, route.prefix_len, tun.index(), route.metric).unwrap();
        }
        netlink.delete_route("fd01::".parse().unwrap(), 48, tun.index(), 1024).unwrap();
        assert_eq!(netlink.routes(tun.index()).unwrap(), []);
        assert!(ip("-6 route").contains("fd01::/48 dev waybill0 proto static"));

        let index = tun.index();
        drop(tun);
        netlink.delete_route(prefix(7), 48, index, 100).unwrap();
        let error = netlink.add_route(prefix(7), 48, index, 100).unwrap_err();
        assert!(matches!(error, NetlinkError::Refused { .. }), "{error}");
    }

    #[test]
    fn rules_and_tables_of_both_families_come_and_go() {
        if !in_own_namespace("netlink::tests::rules_and_tables_of_both_families_come_and_go") {
            return;
        }
        let mut netlink = Netlink::open().unwrap();
        let tun = Tun::create("waybill0", 1420, true).unwrap();
        netlink.set_up(tun.index(), 1420).unwrap();
        let address: IpAddr = "100.64.7.7".parse().unwrap();
        netlink.add_address(tun.index(), address, 32).unwrap();
        assert!(ip("-4 address show dev waybill0").contains("inet 100.64.7.7/32"));
        for (to, family, table) in [("0.0.0.0", Family::V4, "-4"), ("::", Family::V6, "-6")] {
            netlink.add_route_in(87, to.parse().unwrap(), 0, tun.index()).unwrap();
            assert!(ip(&format!("{table} route show table 87")).starts_with("default dev waybill0"));
            let rule = Rule { priority: 8710, to: Err(family), table: 254, without_defaults: true };
            netlink.add_rule(rule).unwrap();
            netlink.add_rule(rule).unwrap();
            let shown = ip(&format!("{table} rule"));
            assert!(shown.contains("8710:\tfrom all lookup main suppress_prefixlength 0"), "{shown}");
        }
        let to =
            |text: &str| Rule { priority: 8700, to: Ok(text.parse().unwrap()), table: 254, without_defaults: false };
        for text in ["192.0.2.9", "198.51.100.1", "2001:db8::9"] {
            netlink.add_rule(to(text)).unwrap();
        }
        assert!(ip("-6 rule").contains("8700:\tfrom all to 2001:db8::9 lookup main"));
        assert!(netlink.delete_rule(to("192.0.2.9")).unwrap());
        assert!(!netlink.delete_rule(to("192.0.2.9")).unwrap());
        for priority in [8700, 8710] {
            netlink.delete_rules(priority).unwrap();
        }
        assert!(!ip("-4 rule").contains("87") && !ip("-6 rule").contains("87"));
        netlink.delete_address(tun.index(), address, 32).unwrap();
        netlink.delete_address(tun.index(), address, 32).unwrap();
        assert!(!ip("-4 address show dev waybill0").contains("inet"));
    }

    #[test]
    fn switched_off_ipv6_and_missing_privilege_are_named() {
        if !in_own_namespace("netlink::tests::switched_off_ipv6_and_missing_privilege_are_named") {
            return;
        }
        let mut netlink = Netlink::open().unwrap();
        let tun = Tun::create("waybill0", 1420, true).unwrap();
        std::fs::write("/proc/sys/net/ipv6/conf/waybill0/disable_ipv6", "1").unwrap();
        netlink.set_up(tun.index(), 1420).unwrap();
        let error = netlink.add_address(tun.index(), prefix(1), 64).unwrap_err();
        assert!(matches!(error, NetlinkError::Ipv6Disabled { .. }), "{error}");
        assert!(error.next_step().contains("disable_ipv6"));

        let error = NetlinkError::from_errno("add a route", io::Error::from_raw_os_error(libc::EPERM));
        assert!(error.next_step().contains("CAP_NET_ADMIN"));
    }
}
