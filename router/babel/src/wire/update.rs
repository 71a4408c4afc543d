//! Update (RFC 8966, section 4.6.9), with prefix compression against the parser state.

use super::address::{AE_IPV4, AE_IPV6, AE_V4_VIA_V6, AE_WILDCARD, AnyPrefix};
use super::reader::Reader;
use super::sub_tlv::{Quote, SubTlvs, encode_source_prefix};
use super::{Interval, next_hop, router_id};
use crate::metric::Metric;
use crate::router_id::RouterId;
use crate::seqno::Seqno;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// "I have a route to this prefix", or with an infinite metric: "I have none".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Update {
    /// `None`, always with an infinite metric: retracts all that the sender announced.
    pub prefix: Option<AnyPrefix>,
    /// The next one follows within it.
    pub interval: Interval,
    /// The originator's sequence number.
    pub seqno: Seqno,
    /// Of the route as the sender sees it.
    pub metric: Metric,
    /// The originator. Only a retraction may have none.
    pub router_id: Option<RouterId>,
    /// Where to send packets. Only a retraction may have none.
    pub next_hop: Option<IpAddr>,
    /// For source-specific routes (RFC 9079).
    pub source_prefix: Option<AnyPrefix>,
    /// What the sender asks for carrying.
    pub quote: Option<Quote>,
}

const SETS_DEFAULT_PREFIX: u8 = 0x80;
const ROUTER_ID_FROM_PREFIX: u8 = 0x40;

/// What earlier TLVs of a packet mean for later ones (RFC 8966, section 4.5). The same on both sides.
#[derive(Clone, Copy, Debug)]
pub(super) struct State {
    router_id: Option<RouterId>,
    next_hop_v4: Option<Ipv4Addr>,
    next_hop_v6: Option<Ipv6Addr>,
    default_v6: Option<[u8; 16]>,
    default_v4: Option<[u8; 16]>,
    /// RFC 9229, section 4.1: distinct from that of plain IPv4.
    default_v4_via_v6: Option<[u8; 16]>,
}

impl State {
    /// "If there is no Next Hop TLV, the next hop is the network-layer source address of the packet."
    pub(super) fn new(source: Ipv6Addr) -> Self {
        Self {
            router_id: None,
            next_hop_v4: None,
            next_hop_v6: Some(source),
            default_v6: None,
            default_v4: None,
            default_v4_via_v6: None,
        }
    }

    pub(super) fn apply_router_id(&mut self, body: Reader<'_>) {
        self.router_id = router_id::decode(body);
    }

    pub(super) fn apply_next_hop(&mut self, body: Reader<'_>) {
        match next_hop::decode(body) {
            Some(IpAddr::V4(v4)) => self.next_hop_v4 = Some(v4),
            Some(IpAddr::V6(v6)) => self.next_hop_v6 = Some(v6),
            None => (self.next_hop_v4, self.next_hop_v6) = (None, None),
        }
    }

    fn default_prefix(&mut self, encoding: u8) -> &mut Option<[u8; 16]> {
        match encoding {
            AE_IPV4 => &mut self.default_v4,
            AE_V4_VIA_V6 => &mut self.default_v4_via_v6,
            _ => &mut self.default_v6,
        }
    }

    fn next_hop_for(&self, prefix: AnyPrefix) -> Option<IpAddr> {
        match prefix {
            AnyPrefix::V4(_) => self.next_hop_v4.map(IpAddr::V4),
            AnyPrefix::V6(_) | AnyPrefix::V4ViaV6(_) => self.next_hop_v6.map(IpAddr::V6),
        }
    }
}

impl Update {
    pub(super) const TYPE: u8 = 8;

    pub(super) fn decode(mut body: Reader<'_>, state: &mut State) -> Option<Self> {
        let encoding = body.u8()?;
        let flags = body.u8()?;
        let bits = body.u8()?;
        let omitted = usize::from(body.u8()?);
        let interval = Interval(body.u16()?);
        let seqno = Seqno(body.u16()?);
        let metric = Metric(body.u16()?);
        let prefix = match encoding {
            AE_WILDCARD if bits == 0 && omitted == 0 && !metric.is_finite() => None,
            AE_IPV4 | AE_IPV6 | AE_V4_VIA_V6 => {
                let default = *state.default_prefix(encoding);
                Some(AnyPrefix::read(encoding, bits, omitted, default, &mut body)?)
            }
            _ => return None,
        };
        if let Some(prefix) = prefix {
            apply_flags(flags, prefix, state);
        }
        let subs = SubTlvs::read(&mut body)?;
        let source_prefix = subs.source_prefix(encoding)?;
        let (router_id, next_hop) = match prefix {
            None => (None, None),
            Some(prefix) => (state.router_id, state.next_hop_for(prefix)),
        };
        let complete = !metric.is_finite() || (router_id.is_some() && next_hop.is_some());
        let update = Self { prefix, interval, seqno, metric, router_id, next_hop, source_prefix, quote: subs.quote() };
        (!subs.refused && complete && interval.0 > 0).then_some(update)
    }

    /// Appends the TLVs that bring `state` to what this Update needs. The caller frames each of them.
    pub(super) fn encode_state(&self, state: &mut State, mut frame: impl FnMut(u8, &dyn Fn(&mut Vec<u8>))) {
        if let Some(id) = self.router_id
            && state.router_id != Some(id)
        {
            frame(router_id::TYPE, &|out| router_id::encode(id, out));
            state.router_id = Some(id);
        }
        if let (Some(prefix), Some(hop)) = (self.prefix, self.next_hop)
            && state.next_hop_for(prefix) != Some(hop)
        {
            frame(next_hop::TYPE, &|out| next_hop::encode(hop, out));
            match hop {
                IpAddr::V4(v4) => state.next_hop_v4 = Some(v4),
                IpAddr::V6(v6) => state.next_hop_v6 = Some(v6),
            }
        }
    }

    /// Each prefix becomes the default of the next, which shares most with it when they come sorted.
    pub(super) fn encode(&self, state: &mut State, out: &mut Vec<u8>) {
        let Some(prefix) = self.prefix else {
            out.extend([AE_WILDCARD, 0, 0, 0]);
            self.encode_numbers(out);
            return;
        };
        let octets = prefix.octets();
        let count = prefix.octet_count();
        let default = state.default_prefix(prefix.encoding()).replace(octets);
        let shared = default.map_or(0, |default| shared_octets(&default[..count], &octets[..count]));
        let omitted = u8::try_from(shared).unwrap_or(0);
        out.extend([prefix.encoding(), SETS_DEFAULT_PREFIX, prefix.bits(), omitted]);
        self.encode_numbers(out);
        out.extend(&octets[usize::from(omitted)..count]);
        if let Some(source) = self.source_prefix {
            encode_source_prefix(source, out);
        }
        if let Some(quote) = self.quote {
            quote.encode(out);
        }
    }

    fn encode_numbers(&self, out: &mut Vec<u8>) {
        out.extend(self.interval.0.to_be_bytes());
        out.extend(self.seqno.0.to_be_bytes());
        out.extend(self.metric.0.to_be_bytes());
    }
}

fn apply_flags(flags: u8, prefix: AnyPrefix, state: &mut State) {
    let octets = prefix.octets();
    if flags & SETS_DEFAULT_PREFIX != 0 {
        *state.default_prefix(prefix.encoding()) = Some(octets);
    }
    if flags & ROUTER_ID_FROM_PREFIX != 0 {
        let mut id = [0; 8];
        match prefix {
            AnyPrefix::V6(_) => id.copy_from_slice(&octets[8..]),
            AnyPrefix::V4(_) | AnyPrefix::V4ViaV6(_) => id[4..].copy_from_slice(&octets[..4]),
        }
        state.router_id = RouterId::new(id);
    }
}

fn shared_octets(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
