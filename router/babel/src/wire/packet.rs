//! The packet (RFC 8966, section 4.2) and the walk over its TLVs.

use super::acknowledgment::{Acknowledgment, AcknowledgmentRequest};
use super::hello::Hello;
use super::ihu::Ihu;
use super::reader::Reader;
use super::route_request::RouteRequest;
use super::seqno_request::SeqnoRequest;
use super::update::{State, Update};
use super::{next_hop, router_id};
use std::net::Ipv6Addr;
use thiserror::Error;

pub(super) const MAGIC: u8 = 42;
pub(super) const VERSION: u8 = 2;
pub(crate) const HEADER: usize = 4;
const PAD1: u8 = 0;

/// Why a packet was refused as a whole; nothing of it was acted upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The neighbour misbehaved: shorter than a header.
    #[error("packet of {len} octets is shorter than a header")]
    TooShort {
        /// Octets received.
        len: usize,
    },
    /// The neighbour misbehaved: not a Babel packet.
    #[error("packet starts with {found}, not with Babel's 42")]
    NotBabel {
        /// The first octet.
        found: u8,
    },
    /// The neighbour is incompatible.
    #[error("packet has version {found}, this speaker knows 2")]
    Version {
        /// The second octet.
        found: u8,
    },
    /// The neighbour misbehaved, or the packet was cut short.
    #[error("packet claims a body of {claimed} octets but holds {available}")]
    BodyTooLong {
        /// From the header.
        claimed: usize,
        /// Behind the header.
        available: usize,
    },
    /// The neighbour misbehaved: a TLV reaches behind the body's end.
    #[error("the TLV at octet {at} of the body reaches behind its end")]
    TlvTooLong {
        /// Offset in the body.
        at: usize,
    },
}

/// A packet whose frame has been checked.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    body: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Checks header, body length and the frame of every TLV. What follows the body, the trailer, is
    /// ignored: only MAC TLVs may be there (RFC 8967).
    ///
    /// # Errors
    /// [`DecodeError`]: the packet must be dropped.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let [magic, version, high, low, rest @ ..] = bytes else {
            return Err(DecodeError::TooShort { len: bytes.len() });
        };
        if *magic != MAGIC {
            return Err(DecodeError::NotBabel { found: *magic });
        }
        if *version != VERSION {
            return Err(DecodeError::Version { found: *version });
        }
        let claimed = usize::from(u16::from_be_bytes([*high, *low]));
        let Some(body) = rest.get(..claimed) else {
            return Err(DecodeError::BodyTooLong { claimed, available: rest.len() });
        };
        check_frames(body)?;
        Ok(Self { body })
    }

    /// Behind the header and before the trailer.
    #[cfg(feature = "mac")]
    pub(crate) fn body(self) -> &'a [u8] {
        self.body
    }

    /// The TLVs that are known and well formed, in order. `source` is the packet's source address, the
    /// default next hop.
    #[must_use]
    pub fn tlvs(self, source: Ipv6Addr) -> Tlvs<'a> {
        Tlvs { rest: self.body, state: State::new(source) }
    }
}

fn check_frames(body: &[u8]) -> Result<(), DecodeError> {
    let mut rest = body;
    while !rest.is_empty() {
        let at = body.len() - rest.len();
        let (_, _, behind) = split_tlv(rest).ok_or(DecodeError::TlvTooLong { at })?;
        rest = behind;
    }
    Ok(())
}

/// Type, body and what follows.
pub(crate) fn split_tlv(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (kind, rest) = bytes.split_first()?;
    if *kind == PAD1 {
        return Some((PAD1, &[], rest));
    }
    let (length, rest) = rest.split_first()?;
    let (body, behind) = rest.split_at_checked(usize::from(*length))?;
    Some((*kind, body, behind))
}

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tlv {
    /// Type 2.
    AcknowledgmentRequest(AcknowledgmentRequest),
    /// Type 3.
    Acknowledgment(Acknowledgment),
    /// Type 4.
    Hello(Hello),
    /// Type 5.
    Ihu(Ihu),
    /// Type 8, completed by types 6 and 7 before it.
    Update(Update),
    /// Type 9.
    RouteRequest(RouteRequest),
    /// Type 10.
    SeqnoRequest(SeqnoRequest),
}

/// The walk over a packet's TLVs; malformed and unknown ones are skipped.
#[derive(Clone, Debug)]
pub struct Tlvs<'a> {
    rest: &'a [u8],
    state: State,
}

impl Iterator for Tlvs<'_> {
    type Item = Tlv;

    fn next(&mut self) -> Option<Tlv> {
        loop {
            let (kind, body, rest) = split_tlv(self.rest)?;
            self.rest = rest;
            if let Some(tlv) = decode(kind, Reader::new(body), &mut self.state) {
                return Some(tlv);
            }
        }
    }
}

fn decode(kind: u8, body: Reader<'_>, state: &mut State) -> Option<Tlv> {
    match kind {
        AcknowledgmentRequest::TYPE => AcknowledgmentRequest::decode(body).map(Tlv::AcknowledgmentRequest),
        Acknowledgment::TYPE => Acknowledgment::decode(body).map(Tlv::Acknowledgment),
        Hello::TYPE => Hello::decode(body).map(Tlv::Hello),
        Ihu::TYPE => Ihu::decode(body).map(Tlv::Ihu),
        router_id::TYPE => {
            state.apply_router_id(body);
            None
        }
        next_hop::TYPE => {
            state.apply_next_hop(body);
            None
        }
        Update::TYPE => Update::decode(body, state).map(Tlv::Update),
        RouteRequest::TYPE => RouteRequest::decode(body).map(Tlv::RouteRequest),
        SeqnoRequest::TYPE => SeqnoRequest::decode(body).map(Tlv::SeqnoRequest),
        _ => None,
    }
}
