//! Router-Id (RFC 8966, section 4.6.7): parser state for the Updates behind it.

use super::reader::Reader;
use super::sub_tlv::SubTlvs;
use crate::router_id::RouterId;

pub(super) const TYPE: u8 = 6;

pub(super) fn encode(id: RouterId, out: &mut Vec<u8>) {
    out.extend([0, 0]);
    out.extend(id.octets());
}

/// `None` clears the state: Updates behind a bad Router-Id must not get the one before it. A mandatory
/// sub-TLV does not matter, since it spares the parser state (RFC 8966, section 4.5).
pub(super) fn decode(mut body: Reader<'_>) -> Option<RouterId> {
    body.bytes(2)?;
    let id = RouterId::new(body.array()?)?;
    SubTlvs::read(&mut body)?;
    Some(id)
}
