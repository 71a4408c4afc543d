//! IHU, "I heard you" (RFC 8966, section 4.6.6).

use super::Interval;
use super::address::{AE_WILDCARD, read_address, write_address};
use super::reader::Reader;
use super::sub_tlv::{IhuTimestamp, SubTlvs, encode_ihu_timestamp};
use crate::metric::Cost;
use std::net::IpAddr;

/// "I heard you; sending to me costs this much."
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ihu {
    /// Whom it speaks to; `None`: whoever receives it.
    pub address: Option<IpAddr>,
    /// The sender's cost of receiving from that neighbour.
    pub rxcost: Cost,
    /// The next one follows within it.
    pub interval: Interval,
    /// The echo of the neighbour's Hello timestamp.
    pub timestamp: Option<IhuTimestamp>,
}

impl Ihu {
    pub(super) const TYPE: u8 = 5;

    pub(super) fn encode(self, out: &mut Vec<u8>) {
        let (encoding, octets) = self.address.map_or((AE_WILDCARD, Vec::new()), write_address);
        out.extend([encoding, 0]);
        out.extend(self.rxcost.get().to_be_bytes());
        out.extend(self.interval.0.to_be_bytes());
        out.extend(octets);
        if let Some(timestamp) = self.timestamp {
            encode_ihu_timestamp(timestamp, out);
        }
    }

    pub(super) fn decode(mut body: Reader<'_>) -> Option<Self> {
        let encoding = body.u8()?;
        body.bytes(1)?;
        let rxcost = Cost::new(body.u16()?);
        let interval = Interval(body.u16()?);
        let address = if encoding == AE_WILDCARD { None } else { Some(read_address(encoding, &mut body)?) };
        let subs = SubTlvs::read(&mut body)?;
        let ihu = Self { address, rxcost, interval, timestamp: subs.ihu_timestamp() };
        (!subs.refused && !subs.has_source_prefix() && interval.0 > 0).then_some(ihu)
    }
}
