//! Interfaces, addresses and routes of the kernel, asked for over rtnetlink (`man 7 rtnetlink`).
//!
//! The calls are synchronous: the kernel answers a request before the sending call returns, so there is nothing to
//! wait for. Of the kernel's answers only the few fields used here are read, each with its bounds checked: a newer
//! kernel's unknown attributes pass by.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

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

/// Changes that are taken in at once: more than a socket holds.
const NEWS_MAX: usize = 10_000;

/// Routes of one family that are read at most.
const FOUND_ROUTES_MAX: usize = 100_000;

/// What a message is about (`linux/rtnetlink.h`).
const NEW_LINK: u16 = libc::RTM_NEWLINK;
const DELETE_LINK: u16 = libc::RTM_DELLINK;
/// Bytes of a message before what it is about, and of a link's own header.
const HEADER_LEN: usize = 16;
const LINK_HEADER_LEN: usize = 16;
/// The kernel numbers attributes with the lower bits: the others say how they are written.
const ATTRIBUTE_MASK: u16 = 0x3fff;
const NO_SCOPE: u8 = libc::RT_SCOPE_NOWHERE;
/// How an interface chooses addresses by itself, and that it does not (`linux/if_link.h`).
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
/// How a rule leads on (`linux/fib_rules.h`).
const TO_TABLE: u8 = 1;
const GOTO: u8 = 2;

/// Attributes of a route (`linux/rtnetlink.h`).
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
/// A next machine of the other family, behind the number of the family.
const RTA_VIA: u16 = 18;
/// One of several ways before its attributes: `struct rtnexthop`.
const WAY_HEADER_LEN: usize = 8;
/// Attributes of a rule (`linux/fib_rules.h`).
const FRA_DST: u16 = 1;
const FRA_SRC: u16 = 2;
const FRA_IIFNAME: u16 = 3;
const FRA_GOTO: u16 = 4;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_OIFNAME: u16 = 17;
const FRA_L3MDEV: u16 = 19;
const FRA_UID_RANGE: u16 = 20;
const FRA_PROTOCOL: u16 = 21;
const FRA_IP_PROTO: u16 = 22;
const FRA_SPORT_RANGE: u16 = 23;
const FRA_DPORT_RANGE: u16 = 24;
/// Flags of a rule: it is for all other packets; the rule it leads to is not there.
const FIB_RULE_INVERT: u32 = 2;
const FIB_RULE_UNRESOLVED: u32 = 4;

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
/// The table that the kernel's own rules ask, and that of this machine's addresses (`linux/rtnetlink.h`).
pub const MAIN_TABLE: u8 = 254;
const LOCAL_TABLE: u8 = 255;
/// Prefixes no longer than this are taken for default routes: two or more that cover all are a way to hide a default route, or
/// to make it weigh more, and no network in use is so large.
pub const DEFAULT_LEN_MAX: u8 = 7;
/// A request that adds, and replaces nothing.
const EXCLUSIVELY: u16 = libc::NLM_F_EXCL as u16;
const CREATE: u16 = libc::NLM_F_CREATE as u16;
const REPLACE: u16 = libc::NLM_F_REPLACE as u16;
const ACKNOWLEDGE: u16 = libc::NLM_F_ACK as u16;
const LIST: u16 = libc::NLM_F_DUMP as u16;
/// The tables changed while they were listed.
const INTERRUPTED: u16 = libc::NLM_F_DUMP_INTR as u16;

/// A routing rule: which table is asked for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Rules are asked in this order, the lowest first; the main table's own is 32766.
    pub priority: u32,
    /// For which packets.
    pub of: Selector,
    /// The table that is asked.
    pub table: u8,
    /// Routes of the table whose prefix has no more bits than this are left out: with 0, its default routes.
    pub without: Option<u8>,
}

/// Which packets a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Selector {
    /// All of a family.
    All(Family),
    /// Those to this address and this port, by UDP or TCP.
    To(IpAddr, Transport, u16),
    /// UDP of this machine's own programs from this port; and what comes to it, where the kernel looks whether a way leads
    /// back (`rp_filter`). For that, some other rule has to make it look at ports, such as [`Selector::From`].
    Own(Family, u16),
    /// UDP from this port, passing packets as well.
    From(Family, u16),
}

/// What carries a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
}

/// One of the two kinds of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The address that is none, as the destination of a default route has it.
    #[must_use]
    pub fn nowhere(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Self::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }
}

impl Rule {
    fn message(self, kind: u16) -> Message {
        let (family, to) = match self.of {
            Selector::All(family) | Selector::Own(family, _) | Selector::From(family, _) => (family, None),
            Selector::To(to, ..) => (if to.is_ipv4() { Family::V4 } else { Family::V6 }, Some(to)),
        };
        let header =
            About { prefix_len: to.map_or(0, full_len), table: self.table, kind: TO_TABLE, ..About::of(family) };
        let mut message = our_rule(kind, header, self.priority);
        let udp = |transport| if transport == Transport::Udp { libc::IPPROTO_UDP } else { libc::IPPROTO_TCP };
        let mut port = |of: u16, transport, port: u16| {
            message.push(FRA_IP_PROTO, &[udp(transport) as u8]);
            // From this one to this one.
            message.push(of, &[port.to_ne_bytes(), port.to_ne_bytes()].concat());
        };
        match self.of {
            Selector::All(_) => {}
            Selector::To(to, transport, asked) => {
                port(FRA_DPORT_RANGE, transport, asked);
                message.push_address(FRA_DST, to);
            }
            Selector::From(_, from) => port(FRA_SPORT_RANGE, Transport::Udp, from),
            Selector::Own(_, from) => {
                port(FRA_SPORT_RANGE, Transport::Udp, from);
                message.push(FRA_IIFNAME, b"lo\0");
            }
        }
        if let Some(len) = self.without {
            message.push_number(FRA_SUPPRESS_PREFIXLEN, len.into());
        }
        message
    }
}

/// How long the prefix is that is one address.
fn full_len(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// A routing rule that somebody else made, and that leads somewhere.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FoundRule {
    /// Which packets it knows.
    pub family: Family,
    /// When it is asked.
    pub priority: u32,
    /// For which of them it is, in the words of `ip rule`; nothing: for all.
    pub of: String,
    /// Where it leads.
    pub leads: Leads,
}

/// Where a [`FoundRule`] leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leads {
    /// To this table, but for its routes whose prefix has no more bits than `without`.
    Table {
        /// The table's number.
        table: u32,
        /// [`Rule::without`].
        without: Option<u32>,
    },
    /// To the table of whichever device of the kernel's VRF it came from.
    OfDevice,
    /// To the first rule with at least this priority; those before are left out.
    Rule(u32),
}

/// A route that the kernel has, whoever made it, in its main or its local table. One with several ways is one for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundRoute {
    /// The destination's first address.
    pub destination: IpAddr,
    /// How many bits of it count.
    pub prefix_len: u8,
    /// The interface it leads to, where it is one.
    pub interface: Option<u32>,
    /// The next machine on the way; `None`: the destination is on the wire itself.
    pub gateway: Option<IpAddr>,
    /// It leads to this machine itself: an address of ours.
    pub local: bool,
}

impl FoundRoute {
    /// Whether an address is in its prefix.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        self.destination.is_ipv4() == address.is_ipv4() && {
            let (shift, bits) = (host_bits(address, self.prefix_len), |address| bits(address));
            bits(self.destination).checked_shr(shift).unwrap_or(0) == bits(address).checked_shr(shift).unwrap_or(0)
        }
    }
}

/// An address as a number.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// How many bits a prefix of this length leaves to hosts.
fn host_bits(address: IpAddr, prefix_len: u8) -> u32 {
    let all = if address.is_ipv4() { 32 } else { 128 };
    u32::from(prefix_len).abs_diff(all)
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
    /// Somebody has a route to the same prefix, and it is not ours to replace.
    #[error("cannot route {destination}/{prefix_len}: there is a route to {taken} already, and it is not ours")]
    RouteTaken {
        /// The prefix that was asked for.
        destination: IpAddr,
        /// How many bits of it count.
        prefix_len: u8,
        /// What is there, as `ip route` shows it.
        taken: String,
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
            Self::RouteTaken { .. } => {
                "a gateway's clients need addresses that nobody here has: set another ipv4_pool in [gateway], or take \
                 that route away; `ip route` and `ip -6 route` show it"
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
        let mut message = link(libc::RTM_GETLINK, 0, 0);
        message.push(libc::IFLA_IFNAME, &[name.as_bytes(), &[0]].concat());
        let mut index = None;
        let asked = self.request(message, 0, |payload| {
            index = payload.first_chunk::<LINK_HEADER_LEN>().and_then(|header| number(&header[4..8]));
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
        let mut settings = link(libc::RTM_SETLINK, index, 0);
        settings.push_number(libc::IFLA_MTU, mtu);
        let none = attribute(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE]);
        settings.push(libc::IFLA_AF_SPEC, &attribute(libc::AF_INET6 as u16, &none));
        self.acknowledged(settings, 0)
            .map_err(|failure| failure.during(format!("set up interface {index} with an MTU of {mtu}")))?;
        // In one message with the rest, the kernel would bring the interface up first and choose an address.
        self.acknowledged(link(libc::RTM_SETLINK, index, libc::IFF_UP as u32), 0)
            .map_err(|failure| failure.during(format!("bring interface {index} up")))
    }

    /// Gives an interface an address without duplicate address detection: it is derived from a key. Adding it again
    /// changes nothing. The kernel adds a route for its prefix by itself. Sockets can bind to it at once; packets for
    /// it are accepted some milliseconds later, for the kernel leaves its own route to a work queue.
    pub fn add_address(&mut self, index: u32, address: impl Into<IpAddr>, prefix_len: u8) -> Result<(), NetlinkError> {
        let address = address.into();
        let message = address_message(libc::RTM_NEWADDR, index, address, prefix_len);
        self.acknowledged(message, CREATE | REPLACE)
            .map_err(|failure| failure.during(format!("add {address}/{prefix_len} to interface {index}")))
    }

    /// Takes an address from an interface; one that is not there is no error.
    pub fn delete_address(&mut self, index: u32, address: IpAddr, prefix_len: u8) -> Result<(), NetlinkError> {
        match self.acknowledged(address_message(libc::RTM_DELADDR, index, address, prefix_len), 0) {
            Err(Failure::Errno(e)) if matches!(e.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => Ok(()),
            done => done.map_err(|failure| failure.during(format!("take {address} from interface {index}"))),
        }
    }

    /// Routes a prefix of either family into an interface, in a table of our own. A route to it that is there is replaced.
    pub fn add_route_in(
        &mut self,
        table: u8,
        destination: IpAddr,
        prefix_len: u8,
        index: u32,
    ) -> Result<(), NetlinkError> {
        self.new_route(route_in(NEW, table, destination, prefix_len, index), REPLACE)
            .map_err(|failure| failure.during(format!("route {destination}/{prefix_len} to interface {index}")))
    }

    /// Routes a prefix of either family into an interface, in the main table. Nothing of others is replaced or hidden: fails
    /// with [`NetlinkError::RouteTaken`] where there is a route to this prefix or a part of it, and where a larger network is
    /// on a wire here.
    pub fn claim_route(&mut self, destination: IpAddr, prefix_len: u8, index: u32) -> Result<(), NetlinkError> {
        let prefix = FoundRoute { destination, prefix_len, interface: Some(index), gateway: None, local: false };
        let others = self.found_routes()?;
        let in_the_way = |other: &&FoundRoute| {
            let part = prefix.holds(other.destination) && other.prefix_len >= prefix_len;
            let around = other.holds(destination) && other.gateway.is_none() && other.prefix_len > DEFAULT_LEN_MAX;
            other.interface != Some(index) && (part || around)
        };
        let taken = |other: String| NetlinkError::RouteTaken { destination, prefix_len, taken: other };
        if let Some(other) = others.iter().find(in_the_way) {
            return Err(taken(format!("{}/{}", other.destination, other.prefix_len)));
        }
        match self.new_route(route_in(NEW, MAIN_TABLE, destination, prefix_len, index), EXCLUSIVELY) {
            Err(Failure::Errno(e)) if e.raw_os_error() == Some(libc::EEXIST) => Err(taken("the same".to_owned())),
            done => done.map_err(|failure| failure.during(format!("route {destination}/{prefix_len} to {index}"))),
        }
    }

    /// Takes back what [`Netlink::claim_route`] did. A route that is not there is no error.
    pub fn release_route(&mut self, destination: IpAddr, prefix_len: u8, index: u32) -> Result<(), NetlinkError> {
        match self.acknowledged(route_in(DELETE, MAIN_TABLE, destination, prefix_len, index), 0) {
            Err(Failure::Errno(e)) if matches!(e.raw_os_error(), Some(libc::ESRCH | libc::ENODEV | libc::ENOENT)) => {
                Ok(())
            }
            done => done.map_err(|failure| failure.during(format!("delete the route to {destination}/{prefix_len}"))),
        }
    }

    /// Makes whatever no other route of a table leads anywhere unreachable: programs are told at once.
    pub fn close_table(&mut self, table: u8) -> Result<(), NetlinkError> {
        Family::BOTH.into_iter().try_for_each(|family| {
            self.new_route(unreachable(NEW, table, family), REPLACE)
                .map_err(|failure| failure.during(format!("close table {table}")))
        })
    }

    /// Takes back what [`Netlink::close_table`] did.
    pub fn open_table(&mut self, table: u8) -> Result<(), NetlinkError> {
        Family::BOTH.into_iter().try_for_each(|family| match self.acknowledged(unreachable(DELETE, table, family), 0) {
            Err(Failure::Errno(e)) if matches!(e.raw_os_error(), Some(libc::ESRCH | libc::ENOENT)) => Ok(()),
            done => done.map_err(|failure| failure.during(format!("open table {table}"))),
        })
    }

    fn new_route(&mut self, message: Message, flags: u16) -> Result<(), Failure> {
        self.acknowledged(message, CREATE | flags)
    }

    /// Adds a rule that says which table is asked, before the system's own rules. One that is there already stays.
    pub fn add_rule(&mut self, rule: Rule) -> Result<(), NetlinkError> {
        match self.acknowledged(rule.message(libc::RTM_NEWRULE), CREATE | EXCLUSIVELY) {
            Err(Failure::Errno(e)) if e.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            done => done.map_err(|failure| failure.during("add a routing rule".to_owned())),
        }
    }

    /// Takes back what [`Netlink::add_rule`] did. False: there was no such rule.
    pub fn delete_rule(&mut self, rule: Rule) -> Result<bool, NetlinkError> {
        self.delete_rule_message(rule.message(libc::RTM_DELRULE))
    }

    /// Takes away all rules of ours of this priority, whatever they say: a crash leaves them behind.
    pub fn delete_rules(&mut self, priority: u32) -> Result<(), NetlinkError> {
        for family in Family::BOTH {
            let message = our_rule(libc::RTM_DELRULE, About::of(family), priority);
            for _ in 0..RULES_MAX {
                if !self.delete_rule_message(message.clone())? {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Whether there are rules of ours of this priority.
    pub fn has_rules(&mut self, priority: u32) -> Result<bool, NetlinkError> {
        let mut found = false;
        for family in Family::BOTH {
            let each = |payload: &[u8]| found |= is_our_rule(payload, priority);
            self.request(Message::about(libc::RTM_GETRULE, About::of(family)), LIST, each)
                .map_err(|failure| failure.during("list the routing rules".to_owned()))?;
        }
        Ok(found)
    }

    /// The rules that others made, of at most this priority, which is the order they are asked in.
    pub fn found_rules(&mut self, priority: u32) -> Result<Vec<FoundRule>, NetlinkError> {
        let mut rules = Vec::new();
        for family in Family::BOTH {
            let each = |payload: &[u8]| {
                let rule = found_rule(payload, family).filter(|rule| rule.priority <= priority);
                rules.extend(rule.filter(|_| rules.len() < RULES_MAX));
            };
            self.request(Message::about(libc::RTM_GETRULE, About::of(family)), LIST, each)
                .map_err(|failure| failure.during("list the routing rules".to_owned()))?;
        }
        Ok(rules)
    }

    /// Which tables have default routes ([`DEFAULT_LEN_MAX`]) that lead somewhere: each with the length of its prefix.
    pub fn default_routes(&mut self) -> Result<Vec<(Family, u32, u8)>, NetlinkError> {
        let mut found = Vec::new();
        for family in Family::BOTH {
            let of_family = |(table, len)| (family, table, len);
            found.extend(self.dump(family, default_route)?.into_iter().map(of_family));
        }
        Ok(found)
    }

    fn delete_rule_message(&mut self, message: Message) -> Result<bool, NetlinkError> {
        match self.acknowledged(message, 0) {
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
        let header = About { kind: libc::RTN_UNICAST, ..our_route_header(destination.into(), prefix_len) };
        self.acknowledged(route(NEW, header, destination.into(), index, metric), CREATE | REPLACE)
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
        let header = About { scope: NO_SCOPE, ..our_route_header(destination.into(), prefix_len) };
        match self.acknowledged(route(DELETE, header, destination.into(), index, metric), 0) {
            Err(Failure::Errno(e)) if matches!(e.raw_os_error(), Some(libc::ESRCH | libc::ENODEV | libc::ENOENT)) => {
                Ok(())
            }
            done => done.map_err(|failure| failure.during(format!("delete the route to {destination}/{prefix_len}"))),
        }
    }

    /// Our routes into an interface, in order.
    pub fn routes(&mut self, index: u32) -> Result<Vec<KernelRoute>, NetlinkError> {
        let mut routes = self.dump(Family::V6, |payload| our_route(payload, index))?;
        routes.sort_unstable();
        Ok(routes)
    }

    /// All routes of both families in the main and the local table, whoever made them; at most so many as
    /// [`FOUND_ROUTES_MAX`], and more are an error: this is no router of the Internet's core.
    pub fn found_routes(&mut self) -> Result<Vec<FoundRoute>, NetlinkError> {
        let mut routes = self.dump(Family::V4, found_route)?;
        routes.extend(self.dump(Family::V6, found_route)?);
        Ok(routes)
    }

    fn dump<T, I: IntoIterator<Item = T>>(
        &mut self,
        family: Family,
        read: impl Fn(&[u8]) -> I,
    ) -> Result<Vec<T>, NetlinkError> {
        let action = || "list the routes".to_owned();
        for _ in 0..DUMP_ATTEMPTS {
            let message = Message::about(libc::RTM_GETROUTE, About::of(family));
            let (mut routes, mut too_many) = (Vec::new(), false);
            let listed = self.request(message, LIST, |payload| {
                too_many |= routes.len() >= FOUND_ROUTES_MAX;
                routes.extend(read(payload).into_iter().take(FOUND_ROUTES_MAX - routes.len()));
            });
            match listed {
                Ok(()) if too_many => {
                    let source = io::Error::other(format!("there are more than {FOUND_ROUTES_MAX}"));
                    return Err(Failure::Exchange(source).during(action()));
                }
                Ok(()) => return Ok(routes),
                Err(Failure::Interrupted) => {}
                Err(failure) => return Err(failure.during(action())),
            }
        }
        Err(Failure::Interrupted.during(action()))
    }

    fn acknowledged(&mut self, message: Message, flags: u16) -> Result<(), Failure> {
        self.request(message, flags | ACKNOWLEDGE, |_| {})
    }

    /// Sends one request and hands each answering message's payload to `each`, until the kernel has said it all.
    fn request(&mut self, message: Message, flags: u16, mut each: impl FnMut(&[u8])) -> Result<(), Failure> {
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send(&message.bytes(flags, self.sequence), 0).map_err(Failure::Exchange)?;

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

/// Hears that routes, addresses or interfaces have changed.
#[derive(Debug)]
pub struct RouteNews(Socket);

impl RouteNews {
    /// Begins to hear.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        let groups = libc::RTMGRP_LINK
            | libc::RTMGRP_IPV4_IFADDR
            | libc::RTMGRP_IPV4_ROUTE
            | libc::RTMGRP_IPV6_IFADDR
            | libc::RTMGRP_IPV6_ROUTE;
        socket.bind(&SocketAddr::new(0, groups as u32))?;
        socket.set_non_blocking(true)?;
        Ok(Self(socket))
    }

    /// Takes in what has been heard. Whether it was anything: what there was no room for is something, too.
    pub fn drain(&self) -> bool {
        let (mut buffer, mut heard) = ([0; 64], false);
        for _ in 0..NEWS_MAX {
            match self.0.recv(&mut &mut buffer[..], 0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                _ => heard = true,
            }
        }
        heard
    }
}

const NEW: u16 = libc::RTM_NEWROUTE;
const DELETE: u16 = libc::RTM_DELROUTE;

/// A request: its kind, and what comes behind the header of all messages.
#[derive(Clone, Debug)]
struct Message {
    kind: u16,
    payload: Vec<u8>,
}

impl Message {
    fn about(kind: u16, header: About) -> Self {
        Self { kind, payload: header.bytes().to_vec() }
    }

    fn push(&mut self, kind: u16, value: &[u8]) {
        self.payload.extend_from_slice(&attribute(kind, value));
    }

    fn push_number(&mut self, kind: u16, value: u32) {
        self.push(kind, &value.to_ne_bytes());
    }

    fn push_address(&mut self, kind: u16, address: IpAddr) {
        match address {
            IpAddr::V4(address) => self.push(kind, &address.octets()),
            IpAddr::V6(address) => self.push(kind, &address.octets()),
        }
    }

    /// As it is sent (`struct nlmsghdr`); from the port that the kernel knows us by.
    fn bytes(&self, flags: u16, sequence: u32) -> Vec<u8> {
        let len = (HEADER_LEN + self.payload.len()) as u32;
        let flags = libc::NLM_F_REQUEST as u16 | flags;
        let mut bytes = len.to_ne_bytes().to_vec();
        bytes.extend_from_slice(&self.kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&sequence.to_ne_bytes());
        bytes.extend_from_slice(&0_u32.to_ne_bytes());
        bytes.extend_from_slice(&self.payload);
        bytes
    }
}

/// An attribute with its length and kind before it, filled up to four bytes. All of ours are short.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = (4 + value.len() as u16).to_ne_bytes().to_vec();
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// What a route or a rule says before its attributes: `struct rtmsg`, which `struct fib_rule_hdr` is like.
#[derive(Clone, Copy, Debug, Default)]
struct About {
    family: u8,
    /// Of the destination.
    prefix_len: u8,
    source_len: u8,
    table: u8,
    /// Who made a route.
    protocol: u8,
    scope: u8,
    /// Of a route its type, of a rule its action.
    kind: u8,
    flags: u32,
}

impl About {
    fn of(family: Family) -> Self {
        let family = if family == Family::V4 { libc::AF_INET } else { libc::AF_INET6 };
        Self { family: family as u8, ..Self::default() }
    }

    fn bytes(self) -> [u8; 12] {
        let Self { family, prefix_len, source_len, table, protocol, scope, kind, flags } = self;
        let [a, b, c, d] = flags.to_ne_bytes();
        [family, prefix_len, source_len, 0, table, protocol, scope, kind, a, b, c, d]
    }

    /// What it is and its attributes, in an answer.
    fn read(payload: &[u8]) -> Option<(Self, Attributes<'_>)> {
        let (header, rest) = payload.split_first_chunk::<12>()?;
        let [family, prefix_len, source_len, _, table, protocol, scope, kind, flags @ ..] = *header;
        let flags = u32::from_ne_bytes(flags);
        Some((Self { family, prefix_len, source_len, table, protocol, scope, kind, flags }, Attributes(rest)))
    }
}

/// The attributes of an answer, each with its kind; they end where one of them cannot be read.
#[derive(Clone, Copy, Debug)]
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let [a, b, c, d] = *self.0.first_chunk::<4>()?;
        let len = usize::from(u16::from_ne_bytes([a, b]));
        let value = self.0.get(4..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([c, d]) & ATTRIBUTE_MASK, value))
    }
}

/// A message about an interface (`struct ifinfomsg`) that sets these of its flags.
fn link(kind: u16, index: u32, flags: u32) -> Message {
    let payload = [0, index, flags, flags].map(u32::to_ne_bytes).concat();
    Message { kind, payload }
}

/// One about an address (`struct ifaddrmsg`). Nobody else has it: it is not looked for.
fn address_message(kind: u16, index: u32, address: IpAddr, prefix_len: u8) -> Message {
    let (family, flags) = if address.is_ipv4() { (libc::AF_INET, 0) } else { (libc::AF_INET6, libc::IFA_F_NODAD) };
    let mut payload = vec![family as u8, prefix_len, flags as u8, 0];
    payload.extend_from_slice(&index.to_ne_bytes());
    let mut message = Message { kind, payload };
    message.push_address(libc::IFA_ADDRESS, address);
    message.push_address(libc::IFA_LOCAL, address);
    message
}

/// A rule of ours.
fn our_rule(kind: u16, header: About, priority: u32) -> Message {
    let mut message = Message::about(kind, header);
    message.push_number(FRA_PRIORITY, priority);
    message.push(FRA_PROTOCOL, &[ROUTE_PROTOCOL]);
    message
}

/// A route of ours in the main table.
fn our_route_header(destination: IpAddr, prefix_len: u8) -> About {
    let family = if destination.is_ipv4() { Family::V4 } else { Family::V6 };
    About { prefix_len, table: MAIN_TABLE, protocol: ROUTE_PROTOCOL, ..About::of(family) }
}

/// A route of either family, in a table of one's choice, with the kernel's usual metric.
fn route_in(kind: u16, table: u8, destination: IpAddr, prefix_len: u8, index: u32) -> Message {
    let scope = if destination.is_ipv4() { libc::RT_SCOPE_LINK } else { libc::RT_SCOPE_UNIVERSE };
    let header = About { table, scope, kind: libc::RTN_UNICAST, ..our_route_header(destination, prefix_len) };
    route(kind, header, destination, index, 0)
}

fn route(kind: u16, header: About, destination: IpAddr, index: u32, metric: u32) -> Message {
    let mut message = Message::about(kind, header);
    let destination = match destination {
        IpAddr::V6(destination) => masked(destination, header.prefix_len).into(),
        IpAddr::V4(_) => destination,
    };
    message.push_address(RTA_DST, destination);
    message.push_number(RTA_OIF, index);
    message.push_number(RTA_PRIORITY, metric);
    message
}

/// A default route that leads nowhere, behind all others.
fn unreachable(kind: u16, table: u8, family: Family) -> Message {
    let header = About { table, kind: libc::RTN_UNREACHABLE, ..our_route_header(family.nowhere(), 0) };
    let mut message = Message::about(kind, header);
    message.push_address(RTA_DST, family.nowhere());
    message.push_number(RTA_PRIORITY, u32::MAX);
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
    let (header, attributes) = About::read(payload)?;
    if header.protocol != ROUTE_PROTOCOL || header.table != MAIN_TABLE {
        return None;
    }
    let mut route = KernelRoute { destination: Ipv6Addr::UNSPECIFIED, prefix_len: header.prefix_len, metric: 0 };
    let mut leads_here = false;
    for attribute in attributes {
        match attribute {
            (RTA_DST, value) => route.destination = Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?),
            (RTA_OIF, value) => leads_here = u32::from_ne_bytes(value.try_into().ok()?) == index,
            (RTA_PRIORITY, value) => route.metric = u32::from_ne_bytes(value.try_into().ok()?),
            _ => {}
        }
    }
    leads_here.then_some(route)
}

/// Any route of a listing that leads somewhere, or to this machine itself, by each of its ways.
fn found_route(payload: &[u8]) -> Vec<FoundRoute> {
    let mut routes = Vec::new();
    let Some((About { family, prefix_len, table, kind, .. }, attributes)) = About::read(payload) else { return routes };
    let local = matches!(kind, libc::RTN_LOCAL | libc::RTN_ANYCAST);
    let passes = !matches!(kind, libc::RTN_BROADCAST | libc::RTN_MULTICAST);
    if !(table == MAIN_TABLE && passes || table == LOCAL_TABLE && local) {
        return routes;
    }
    let family = if i32::from(family) == libc::AF_INET { Family::V4 } else { Family::V6 };
    let next = |(kind, value): (u16, &[u8])| match kind {
        RTA_GATEWAY => address(value),
        RTA_VIA => address(value.get(2..)?),
        _ => None,
    };
    let mut route = FoundRoute { destination: family.nowhere(), prefix_len, interface: None, gateway: None, local };
    let mut ways: &[u8] = &[];
    for (kind, value) in attributes {
        match kind {
            RTA_DST => match address(value).filter(|address| address.is_ipv4() == route.destination.is_ipv4()) {
                Some(destination) => route.destination = destination,
                None => return routes,
            },
            RTA_OIF => route.interface = number(value),
            RTA_MULTIPATH => ways = value,
            _ => route.gateway = next((kind, value)).or(route.gateway),
        }
    }
    while let Some([a, b, _, _, index @ ..]) = ways.first_chunk::<WAY_HEADER_LEN>().copied()
        && let len = usize::from(u16::from_ne_bytes([a, b]))
        && let Some(own) = ways.get(WAY_HEADER_LEN..len)
    {
        let gateway = Attributes(own).find_map(next);
        routes.push(FoundRoute { interface: Some(u32::from_ne_bytes(index)), gateway, ..route });
        ways = ways.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
    if routes.is_empty() {
        routes.push(route);
    }
    routes
}

/// The table and the length of a default route that leads somewhere.
fn default_route(payload: &[u8]) -> Option<(u32, u8)> {
    let (header, mut attributes) = About::read(payload)?;
    let table = attributes.find(|(kind, _)| *kind == RTA_TABLE).and_then(|(_, value)| number(value));
    let leads = header.kind == libc::RTN_UNICAST && header.prefix_len <= DEFAULT_LEN_MAX;
    leads.then_some((table.unwrap_or(header.table.into()), header.prefix_len))
}

/// A rule of a listing that is not ours and leads somewhere.
fn found_rule(payload: &[u8], family: Family) -> Option<FoundRule> {
    let (header, attributes) = About::read(payload)?;
    let (mut priority, mut table, mut without, mut target) = (0, header.table.into(), None, None);
    let (mut of, mut of_device, mut mark) = (String::new(), false, None);
    if header.flags & FIB_RULE_INVERT != 0 {
        of.push_str(" not");
    }
    for (kind, value) in attributes {
        let name = || String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned();
        match kind {
            FRA_PROTOCOL if value == [ROUTE_PROTOCOL] => return None,
            FRA_PRIORITY => priority = number(value)?,
            FRA_TABLE => table = number(value)?,
            FRA_SUPPRESS_PREFIXLEN => without = number(value).filter(|len| *len != u32::MAX),
            FRA_GOTO => target = number(value),
            FRA_L3MDEV => of_device = value != [0],
            FRA_SRC => of.push_str(&format!(" from {}/{}", address(value)?, header.source_len)),
            FRA_DST => of.push_str(&format!(" to {}/{}", address(value)?, header.prefix_len)),
            FRA_IIFNAME => of.push_str(&format!(" iif {}", name())),
            FRA_OIFNAME => of.push_str(&format!(" oif {}", name())),
            FRA_FWMARK => mark = number(value),
            FRA_FWMASK => {
                if let (Some(mark), Some(mask)) = (mark, number(value)) {
                    of.push_str(&format!(" fwmark {mark:#x}/{mask:#x}"));
                }
            }
            FRA_UID_RANGE => of.push_str(" of some users"),
            FRA_IP_PROTO => of.push_str(" of one protocol"),
            _ => {}
        }
    }
    let leads = match (header.kind, target) {
        (GOTO, Some(target)) if header.flags & FIB_RULE_UNRESOLVED == 0 => Leads::Rule(target),
        (TO_TABLE, _) if of_device => Leads::OfDevice,
        (TO_TABLE, _) if table != u32::from(LOCAL_TABLE) => Leads::Table { table, without },
        _ => return None,
    };
    Some(FoundRule { family, priority, of: of.trim_start().to_owned(), leads })
}

fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_ne_bytes)
}

fn address(value: &[u8]) -> Option<IpAddr> {
    let ipv4 = <[u8; 4]>::try_from(value).map(IpAddr::from);
    ipv4.or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from)).ok()
}

/// Whether a rule of a listing is ours, and of this priority.
fn is_our_rule(payload: &[u8], priority: u32) -> bool {
    let Some((_, attributes)) = About::read(payload) else { return false };
    let wanted = [(FRA_PRIORITY, &priority.to_ne_bytes()[..]), (FRA_PROTOCOL, &[ROUTE_PROTOCOL])];
    wanted.into_iter().all(|wanted| { attributes }.any(|other| other == wanted))
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
        let (message, rest) = Answer::first(datagram).ok_or_else(unreadable)?;
        datagram = rest;
        if message.sequence != sequence {
            continue;
        }
        *interrupted |= message.flags & INTERRUPTED != 0;
        match i32::from(message.kind) {
            // What could not be listed to its end says so here; where there was no listing nothing stands behind it.
            libc::NLMSG_DONE if message.payload.len() < 4 => return Ok(Progress::Done),
            libc::NLMSG_DONE | libc::NLMSG_ERROR => {
                let code = message.payload.first_chunk().copied().map(i32::from_ne_bytes).ok_or_else(unreadable)?;
                return match code {
                    0 => Ok(Progress::Done),
                    code => Err(Failure::Errno(io::Error::from_raw_os_error(code.checked_abs().unwrap_or(i32::MAX)))),
                };
            }
            _ => each(message.payload),
        }
        if flags & (LIST | ACKNOWLEDGE) == 0 {
            return Ok(Progress::Done);
        }
    }
    Ok(Progress::More)
}

/// One message of the kernel.
struct Answer<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

impl<'a> Answer<'a> {
    /// The first one of a datagram, and what comes behind it.
    fn first(datagram: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let header = datagram.first_chunk::<HEADER_LEN>()?;
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *header;
        let len = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).ok()?;
        let payload = datagram.get(HEADER_LEN..len)?;
        let rest = datagram.get(len.next_multiple_of(4)..).unwrap_or_default();
        let kind = u16::from_ne_bytes([k0, k1]);
        let (flags, sequence) = (u16::from_ne_bytes([f0, f1]), u32::from_ne_bytes([s0, s1, s2, s3]));
        Some((Self { kind, flags, sequence, payload }, rest))
    }
}

/// Whether the kernel says of itself that an interface cannot carry anything, or is gone.
pub(crate) fn is_loss(message: &[u8]) -> bool {
    let Some((message, _)) = Answer::first(message) else { return false };
    let Some(header) = message.payload.first_chunk::<LINK_HEADER_LEN>() else { return false };
    let flags = number(&header[8..12]).unwrap_or(0);
    message.kind == DELETE_LINK || message.kind == NEW_LINK && flags & libc::IFF_LOWER_UP as u32 == 0
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
            let mut each = |payload: &[u8]| {
                assert_eq!(our_route(payload, 1), None);
                let _ = (found_rule(payload, Family::V4), default_route(payload));
            };
            let _ = read_answer(&datagram, 7, LIST, &mut false, &mut each);
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
    fn a_route_that_was_claimed_is_released_and_a_network_here_is_not_claimed_of() {
        if !in_own_namespace(
            "netlink::tests::a_route_that_was_claimed_is_released_and_a_network_here_is_not_claimed_of",
        ) {
            return;
        }
        let mut netlink = Netlink::open().unwrap();
        let tun = Tun::create("waybill0", 1420, true).unwrap();
        let lan = Tun::create("lan0", 1420, true).unwrap();
        netlink.set_up(tun.index(), 1420).unwrap();
        netlink.set_up(lan.index(), 1420).unwrap();
        ip("address add 172.30.88.1/24 dev lan0");
        let [free, taken] = ["172.30.87.1", "172.30.88.7"].map(|text| text.parse::<IpAddr>().unwrap());
        netlink.claim_route(free, 32, tun.index()).unwrap();
        assert!(ip("route show dev waybill0").contains("172.30.87.1 proto"));
        let error = netlink.claim_route(taken, 32, tun.index()).unwrap_err();
        assert!(matches!(error, NetlinkError::RouteTaken { .. }), "{error}");
        for _ in 0..2 {
            netlink.release_route(free, 32, tun.index()).unwrap();
        }
        assert_eq!(ip("route show dev waybill0"), "");
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
            let rule = Rule { priority: 8710, of: Selector::All(family), table: MAIN_TABLE, without: Some(7) };
            netlink.add_rule(rule).unwrap();
            netlink.add_rule(rule).unwrap();
            let shown = ip(&format!("{table} rule"));
            assert!(shown.contains("8710:\tfrom all lookup main suppress_prefixlength 7"), "{shown}");
        }
        let to = |text: &str| Rule {
            priority: 8700,
            of: Selector::To(text.parse().unwrap(), Transport::Udp, 53),
            table: 87,
            without: None,
        };
        for text in ["192.0.2.9", "198.51.100.1", "2001:db8::9"] {
            netlink.add_rule(to(text)).unwrap();
        }
        assert!(ip("-6 rule").contains("8700:\tfrom all to 2001:db8::9 ipproto udp dport 53 lookup 87"));
        for family in Family::BOTH {
            netlink
                .add_rule(Rule { priority: 8701, of: Selector::Own(family, 51820), table: MAIN_TABLE, without: None })
                .unwrap();
            netlink
                .add_rule(Rule {
                    priority: 8702,
                    of: Selector::From(family, 51820),
                    table: MAIN_TABLE,
                    without: Some(7),
                })
                .unwrap();
        }
        let shown = ip("-4 rule");
        assert!(shown.contains("8701:\tfrom all iif lo ipproto udp sport 51820 lookup main proto"), "{shown}");
        assert!(
            shown.contains("8702:\tfrom all ipproto udp sport 51820 lookup main suppress_prefixlength 7"),
            "{shown}"
        );
        assert!(netlink.has_rules(8702).unwrap() && !netlink.has_rules(8703).unwrap());
        ip("rule add priority 8703 lookup main");
        assert!(!netlink.has_rules(8703).unwrap(), "others' are not ours");
        ip("rule del priority 8703");
        assert!(netlink.delete_rule(to("192.0.2.9")).unwrap());
        assert!(!netlink.delete_rule(to("192.0.2.9")).unwrap());
        for priority in [8700, 8701, 8702, 8710] {
            netlink.delete_rules(priority).unwrap();
        }
        assert!(!ip("-4 rule").contains("87") && !ip("-6 rule").contains("87"));
        netlink.delete_address(tun.index(), address, 32).unwrap();
        netlink.delete_address(tun.index(), address, 32).unwrap();
        assert!(!ip("-4 address show dev waybill0").contains("inet"));
    }

    #[test]
    fn a_closed_table_leads_nowhere_and_a_route_of_others_is_neither_replaced_nor_hidden() {
        if !in_own_namespace(
            "netlink::tests::a_closed_table_leads_nowhere_and_a_route_of_others_is_neither_replaced_nor_hidden",
        ) {
            return;
        }
        let mut netlink = Netlink::open().unwrap();
        for _ in 0..2 {
            netlink.close_table(87).unwrap();
        }
        let tun = Tun::create("waybill0", 1420, true).unwrap();
        let other = Tun::create("waybill1", 1420, true).unwrap();
        netlink.set_up(tun.index(), 1420).unwrap();
        netlink.set_up(other.index(), 1420).unwrap();
        for family in Family::BOTH {
            netlink.add_route_in(87, family.nowhere(), 0, tun.index()).unwrap();
        }
        for family in ["-4", "-6"] {
            let shown = ip(&format!("{family} route show table 87"));
            assert!(shown.starts_with("default dev waybill0") && shown.contains("unreachable default"), "{shown}");
        }
        netlink.open_table(87).unwrap();
        assert!(!ip("-4 route show table 87").contains("unreachable"));

        let claim =
            |netlink: &mut Netlink, text: &str, len| netlink.claim_route(text.parse().unwrap(), len, tun.index());
        for (there, taken) in [
            ("100.64.0.0/10 dev waybill1", true),
            ("100.64.0.0/10 dev waybill1 metric 100", true),
            ("100.64.7.0/24 dev waybill1", true),
            ("100.0.0.0/8 dev waybill1", true),
            ("0.0.0.0/1 dev waybill1", false),
            ("default dev waybill1", false),
            ("10.0.0.0/8 dev waybill1", false),
        ] {
            ip(&format!("route add {there}"));
            let claimed = claim(&mut netlink, "100.64.0.0", 10);
            assert_eq!(matches!(claimed, Err(NetlinkError::RouteTaken { .. })), taken, "{there}: {claimed:?}");
            let network = there.split(" metric").next().unwrap();
            assert!(ip("route").contains(network), "it stays: {there}");
            ip(&format!("route del {there}"));
            if claimed.is_ok() {
                ip("route del 100.64.0.0/10 dev waybill0");
            }
        }
        ip("address add 100.64.0.9/24 dev waybill1");
        let error = claim(&mut netlink, "100.64.0.0", 10).unwrap_err();
        assert!(error.next_step().contains("ipv4_pool"), "{error}");
        ip("-6 route add fc00::/8 dev waybill1");
        assert!(matches!(claim(&mut netlink, "fc00::", 8), Err(NetlinkError::RouteTaken { .. })));
        let news = RouteNews::open().unwrap();
        assert!(!news.drain());
        for (network, ways) in [
            ("default", "nexthop via 192.0.2.1 dev waybill0 onlink nexthop via 192.0.2.2 dev waybill1 onlink"),
            ("-6 default", "nexthop via fe80::1 dev waybill0 nexthop via fe80::2 dev waybill1"),
            ("198.51.100.0/24", "via inet6 fe80::1 dev waybill1"),
        ] {
            let (family, network) = network.split_once(' ').unwrap_or(("-4", network));
            ip(&format!("{family} route add {network} {ways}"));
            assert!(news.drain() && !news.drain(), "{network}");
        }
        let found = netlink.found_routes().unwrap();
        for family in Family::BOTH {
            let default = |route: &&FoundRoute| route.prefix_len == 0 && route.destination == family.nowhere();
            let ways: Vec<_> = found.iter().filter(default).map(|route| (route.interface, route.gateway)).collect();
            let next = |last: u8| match family {
                Family::V4 => Some(IpAddr::from([192, 0, 2, last])),
                Family::V6 => format!("fe80::{last}").parse().ok(),
            };
            assert_eq!(ways, [(Some(tun.index()), next(1)), (Some(other.index()), next(2))], "{family:?}");
        }
        let by_other_family =
            found.iter().find(|route| route.holds("198.51.100.7".parse().unwrap()) && route.prefix_len > 0);
        assert_eq!(by_other_family.and_then(|route| route.gateway), Some("fe80::1".parse().unwrap()));
        let ours = found.iter().find(|route| route.local && route.holds("100.64.0.9".parse().unwrap()));
        assert!(ours.is_some_and(|route| route.interface == Some(other.index())), "{found:?}");
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
