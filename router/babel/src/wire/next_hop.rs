//! Next Hop (RFC 8966, section 4.6.8): parser state for the Updates behind it.

use super::address::{read_address, write_address};
use super::reader::Reader;
use super::sub_tlv::SubTlvs;
use std::net::IpAddr;

pub(super) const TYPE: u8 = 7;

pub(super) fn encode(address: IpAddr, out: &mut Vec<u8>) {
    let (encoding, octets) = write_address(address);
    out.extend([encoding, 0]);
    out.extend(octets);
}

/// `None` clears the state, as for a bad Router-Id.
pub(super) fn decode(mut body: Reader<'_>) -> Option<IpAddr> {
    let encoding = body.u8()?;
    body.bytes(1)?;
    let address = read_address(encoding, &mut body)?;
    SubTlvs::read(&mut body)?;
    Some(address)
}
