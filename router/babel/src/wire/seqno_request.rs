//! Seqno Request (RFC 8966, section 4.6.11).

use super::address::AnyPrefix;
use super::reader::Reader;
use super::sub_tlv::{SubTlvs, encode_source_prefix};
use crate::router_id::RouterId;
use crate::seqno::Seqno;

/// "Send me an Update for this prefix with this sequence number, or pass the request on."
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeqnoRequest {
    /// The prefix.
    pub prefix: AnyPrefix,
    /// The smallest useful sequence number.
    pub seqno: Seqno,
    /// How many nodes may still see it; never zero.
    pub hop_count: u8,
    /// Whose sequence number.
    pub router_id: RouterId,
    /// For source-specific routes (RFC 9079).
    pub source_prefix: Option<AnyPrefix>,
}

impl SeqnoRequest {
    pub(super) const TYPE: u8 = 10;

    pub(super) fn encode(self, out: &mut Vec<u8>) {
        out.extend([self.prefix.encoding(), self.prefix.bits()]);
        out.extend(self.seqno.0.to_be_bytes());
        out.extend([self.hop_count, 0]);
        out.extend(self.router_id.octets());
        out.extend(&self.prefix.octets()[..self.prefix.octet_count()]);
        if let Some(source) = self.source_prefix {
            encode_source_prefix(source, out);
        }
    }

    pub(super) fn decode(mut body: Reader<'_>) -> Option<Self> {
        let encoding = body.u8()?;
        let bits = body.u8()?;
        let seqno = Seqno(body.u16()?);
        let hop_count = body.u8()?;
        body.bytes(1)?;
        let router_id = RouterId::new(body.array()?)?;
        let prefix = AnyPrefix::read(encoding, bits, 0, None, &mut body)?;
        let subs = SubTlvs::read(&mut body)?;
        let source_prefix = subs.source_prefix(encoding)?;
        (!subs.refused && hop_count > 0).then_some(Self { prefix, seqno, hop_count, router_id, source_prefix })
    }
}
