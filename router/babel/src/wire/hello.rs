//! Hello (RFC 8966, section 4.6.5).

use super::Interval;
use super::reader::Reader;
use super::sub_tlv::{HelloTimestamp, SubTlvs, encode_hello_timestamp};
use crate::seqno::Seqno;

/// "I am here, and will say so again within the interval."
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hello {
    /// Counted apart from the multicast ones.
    pub unicast: bool,
    /// One more than that of the Hello before.
    pub seqno: Seqno,
    /// `None`: unscheduled, the next one may come at any time.
    pub interval: Option<Interval>,
    /// For measuring the round trip.
    pub timestamp: Option<HelloTimestamp>,
}

const UNICAST: u16 = 0x8000;

impl Hello {
    pub(super) const TYPE: u8 = 4;

    pub(super) fn encode(self, out: &mut Vec<u8>) {
        out.extend(if self.unicast { UNICAST } else { 0 }.to_be_bytes());
        out.extend(self.seqno.0.to_be_bytes());
        out.extend(self.interval.map_or(0, |interval| interval.0).to_be_bytes());
        if let Some(timestamp) = self.timestamp {
            encode_hello_timestamp(timestamp, out);
        }
    }

    pub(super) fn decode(mut body: Reader<'_>) -> Option<Self> {
        let flags = body.u16()?;
        let seqno = Seqno(body.u16()?);
        let interval = Some(Interval(body.u16()?)).filter(|interval| interval.0 > 0);
        let subs = SubTlvs::read(&mut body)?;
        let hello = Self { unicast: flags & UNICAST != 0, seqno, interval, timestamp: subs.hello_timestamp() };
        (!subs.refused && !subs.has_source_prefix()).then_some(hello)
    }
}
