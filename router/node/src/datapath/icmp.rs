//! ICMPv6 errors about packets we could not carry (RFC 4443).

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv6DstUnreachable, Icmpv6Packet, Icmpv6Repr, Icmpv6TimeExceeded, IpProtocol, Ipv6Packet, Ipv6Repr,
};

use super::Port;
use super::meter::MAX_LINKS;
use super::packet::{Header, IPV6_HEADER_LEN, is_link_local};
use crate::drop::DropReason;

/// Hop limit of the errors we send (RFC 4443 leaves it to the node; 64 is the IANA default).
const HOP_LIMIT: u8 = 64;
/// No error is longer than the minimum IPv6 MTU (RFC 4443, section 2.4 (c)).
const ERROR_LEN_MAX: usize = 1280;
/// An ICMPv6 error's header: type, code, checksum and 32 bits of its own.
const ICMP_HEADER_LEN: usize = 8;
/// Errors of one budget a second, and at once (RFC 4443, section 2.4 (f) requires a limit; Linux's default is of this order).
const ERRORS_PER_SECOND: u32 = 100;

/// The limits on how many errors we send: of the packets of one ingress no errors are used up by another's, and Packet Too
/// Big, without which connections stall, has a limit of its own beside all other errors.
#[derive(Debug)]
pub(super) struct Budgets(Box<[[Budget; 2]]>);

impl Budgets {
    pub(super) fn new(now: Instant) -> Self {
        // The last one is the own side's.
        Self(vec![[Budget::new(now); 2]; MAX_LINKS + 1].into_boxed_slice())
    }

    pub(super) fn take(&mut self, now: Instant, ingress: Port, reason: DropReason) -> bool {
        let kind = usize::from(reason == DropReason::TooBig);
        self.0.get_mut(ingress.index()).is_some_and(|budgets| budgets[kind].take(now))
    }
}

#[derive(Debug, Clone, Copy)]
struct Budget {
    left: u32,
    refilled: Instant,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self { left: ERRORS_PER_SECOND, refilled: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.refilled) >= Duration::from_secs(1) {
            *self = Self::new(now);
        }
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }
}

/// The error that answers a packet dropped for `reason`, or nothing where none may be sent: for other reasons, about
/// ICMPv6 errors, multicast or sourceless packets (RFC 4443, section 2.4 (e)), or beyond the budget, which `allowed` asks
/// last.
pub(super) fn answer(
    allowed: impl FnOnce() -> bool,
    from: Ipv6Addr,
    header: &Header,
    packet: &[u8],
    reason: DropReason,
    mtu: usize,
) -> Option<Vec<u8>> {
    let source = header.source;
    let silent = source.is_multicast() || source.is_unspecified() || source.is_loopback() || is_link_local(source);
    if silent || header.destination.is_multicast() || is_icmp_error(packet) {
        return None;
    }
    let original = Ipv6Repr {
        src_addr: header.source,
        dst_addr: header.destination,
        next_header: IpProtocol::from(packet[6]),
        hop_limit: header.hop_limit,
        payload_len: header.len - IPV6_HEADER_LEN,
    };
    let quoted = header.len.min(ERROR_LEN_MAX - IPV6_HEADER_LEN - ICMP_HEADER_LEN);
    let data = &packet[IPV6_HEADER_LEN..quoted];
    let error = match reason {
        DropReason::NoRoute => {
            Icmpv6Repr::DstUnreachable { reason: Icmpv6DstUnreachable::NoRoute, header: original, data }
        }
        DropReason::AtOurExpense | DropReason::NotAMember => {
            Icmpv6Repr::DstUnreachable { reason: Icmpv6DstUnreachable::AdminProhibit, header: original, data }
        }
        DropReason::HopLimit => {
            Icmpv6Repr::TimeExceeded { reason: Icmpv6TimeExceeded::HopLimitExceeded, header: original, data }
        }
        DropReason::TooBig => {
            Icmpv6Repr::PktTooBig { mtu: u32::try_from(mtu).unwrap_or(u32::MAX), header: original, data }
        }
        DropReason::Malformed
        | DropReason::NotIpv6
        | DropReason::SourceNotRoutable
        | DropReason::SourceSpoofed
        | DropReason::SourceNotAllowed
        | DropReason::SourceNotOurs
        | DropReason::DestinationNotRoutable
        | DropReason::LinkInMesh
        | DropReason::NotAdmitted
        | DropReason::Unpaid
        | DropReason::LinkDown
        | DropReason::QueueFull
        | DropReason::Congestion
        | DropReason::ControlFlood
        | DropReason::TooOld
        | DropReason::UnpaidFlood
        | DropReason::UnexpectedControl => return None,
    };
    allowed().then(|| emit(from, header.source, &error))
}

/// Whether the packet is itself an ICMPv6 error, type below 128, or hides its protocol behind an extension header.
fn is_icmp_error(packet: &[u8]) -> bool {
    let next_header = IpProtocol::from(packet[6]);
    if next_header == IpProtocol::Icmpv6 {
        return packet.get(IPV6_HEADER_LEN).is_none_or(|kind| *kind < 128);
    }
    next_header != IpProtocol::Tcp && next_header != IpProtocol::Udp
}

fn emit(from: Ipv6Addr, to: Ipv6Addr, error: &Icmpv6Repr<'_>) -> Vec<u8> {
    let ipv6 = Ipv6Repr {
        src_addr: from,
        dst_addr: to,
        next_header: IpProtocol::Icmpv6,
        payload_len: error.buffer_len(),
        hop_limit: HOP_LIMIT,
    };
    let mut packet = vec![0; IPV6_HEADER_LEN + ipv6.payload_len];
    ipv6.emit(&mut Ipv6Packet::new_unchecked(&mut packet[..]));
    let mut icmp = Icmpv6Packet::new_unchecked(&mut packet[IPV6_HEADER_LEN..]);
    error.emit(&from, &to, &mut icmp, &ChecksumCapabilities::default());
    packet
}
