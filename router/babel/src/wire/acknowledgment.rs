//! Acknowledgment Request and Acknowledgment (RFC 8966, sections 4.6.3 and 4.6.4).

use super::Interval;
use super::reader::Reader;
use super::sub_tlv::SubTlvs;

/// "Send an Acknowledgment within the interval."
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AcknowledgmentRequest {
    /// To be echoed.
    pub opaque: u16,
    /// The longest useful delay.
    pub interval: Interval,
}

impl AcknowledgmentRequest {
    pub(super) const TYPE: u8 = 2;
    /// With its type and length.
    pub(crate) const OCTETS: usize = 8;

    pub(super) fn encode(self, out: &mut Vec<u8>) {
        out.extend([0, 0]);
        out.extend(self.opaque.to_be_bytes());
        out.extend(self.interval.0.to_be_bytes());
    }

    pub(super) fn decode(mut body: Reader<'_>) -> Option<Self> {
        body.bytes(2)?;
        let request = Self { opaque: body.u16()?, interval: Interval(body.u16()?) };
        let subs = SubTlvs::read(&mut body)?;
        (!subs.refused && !subs.has_source_prefix() && request.interval.0 > 0).then_some(request)
    }
}

/// The answer to an [`AcknowledgmentRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Acknowledgment {
    /// The request's.
    pub opaque: u16,
}

impl Acknowledgment {
    pub(super) const TYPE: u8 = 3;

    pub(super) fn encode(self, out: &mut Vec<u8>) {
        out.extend(self.opaque.to_be_bytes());
    }

    pub(super) fn decode(mut body: Reader<'_>) -> Option<Self> {
        let acknowledgment = Self { opaque: body.u16()? };
        let subs = SubTlvs::read(&mut body)?;
        (!subs.refused && !subs.has_source_prefix()).then_some(acknowledgment)
    }
}
