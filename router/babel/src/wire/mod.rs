//! The packet format of RFC 8966, section 4: bytes to TLVs and back.
//!
//! [`Packet::parse`] checks the frame of a whole packet, [`Packet::tlvs`] walks it and applies the
//! parser state (router-id, next hop, default prefix), so that each [`Tlv`] it yields is complete
//! in itself. [`Writer`] does the reverse. Router-Id and Next Hop TLVs therefore never show.
//!
//! Known: types 0 to 10, address encodings 0 to 4, sub-TLVs 0, 1, 3, 117 (price) and 128. Of the
//! others, TLVs are skipped, sub-TLVs are ignored or, if mandatory (128 and above), make their TLV
//! ignored - but not its effect on the parser state (RFC 8966, section 4.5).

mod acknowledgment;
mod address;
mod hello;
mod ihu;
mod next_hop;
mod packet;
mod reader;
mod route_request;
mod router_id;
mod seqno_request;
mod sub_tlv;
mod update;
mod writer;

#[cfg(test)]
pub(crate) mod tests;

pub use acknowledgment::{Acknowledgment, AcknowledgmentRequest};
pub use address::AnyPrefix;
pub use hello::Hello;
pub use ihu::Ihu;
pub use packet::{DecodeError, Packet, Tlv, Tlvs};
#[cfg(feature = "mac")]
pub(crate) use packet::{HEADER, split_tlv};
pub use route_request::RouteRequest;
pub use seqno_request::SeqnoRequest;
pub use sub_tlv::{HelloTimestamp, IhuTimestamp, PRICE_SUB_TLV, Quote};
pub use update::Update;
pub use writer::Writer;

use std::net::Ipv6Addr;
use std::time::Duration;

/// The UDP port, at both ends (RFC 8966, section 4).
pub const PORT: u16 = 6696;
/// The multicast group (RFC 8966, section 4).
pub const MULTICAST_GROUP: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 6);

/// A time between messages, in centiseconds (RFC 8966, section 4.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Interval(pub u16);

impl Interval {
    /// The nearest interval that is not shorter, at most 655.35 s.
    #[must_use]
    pub fn from_duration(duration: Duration) -> Self {
        Self(u16::try_from(duration.as_millis().div_ceil(10)).unwrap_or(u16::MAX))
    }

    /// As a duration.
    #[must_use]
    pub fn as_duration(self) -> Duration {
        Duration::from_millis(10) * u32::from(self.0)
    }

    /// This many intervals, at most the longest that fits.
    #[must_use]
    pub fn times(self, factor: u16) -> Self {
        Self(self.0.saturating_mul(factor))
    }
}
