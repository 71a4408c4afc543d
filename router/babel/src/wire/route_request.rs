//! Route Request (RFC 8966, section 4.6.10).

use super::address::{AE_WILDCARD, AnyPrefix};
use super::reader::Reader;
use super::sub_tlv::{SubTlvs, encode_source_prefix};

/// "Send me an Update for this prefix."
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RouteRequest {
    /// `None`: for all of them.
    pub prefix: Option<AnyPrefix>,
    /// For source-specific routes (RFC 9079).
    pub source_prefix: Option<AnyPrefix>,
}

impl RouteRequest {
    pub(super) const TYPE: u8 = 9;

    pub(super) fn encode(self, out: &mut Vec<u8>) {
        let Some(prefix) = self.prefix else {
            out.extend([AE_WILDCARD, 0]);
            return;
        };
        out.extend([prefix.encoding(), prefix.bits()]);
        out.extend(&prefix.octets()[..prefix.octet_count()]);
        if let Some(source) = self.source_prefix {
            encode_source_prefix(source, out);
        }
    }

    pub(super) fn decode(mut body: Reader<'_>) -> Option<Self> {
        let encoding = body.u8()?;
        let bits = body.u8()?;
        let prefix = match encoding {
            AE_WILDCARD if bits == 0 => None,
            AE_WILDCARD => return None,
            _ => Some(AnyPrefix::read(encoding, bits, 0, None, &mut body)?),
        };
        let subs = SubTlvs::read(&mut body)?;
        let source_prefix = subs.source_prefix(encoding)?;
        (!subs.refused).then_some(Self { prefix, source_prefix })
    }
}
