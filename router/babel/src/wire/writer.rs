//! Packets, written TLV by TLV up to a size.

use super::acknowledgment::{Acknowledgment, AcknowledgmentRequest};
use super::hello::Hello;
use super::ihu::Ihu;
use super::packet::{HEADER, MAGIC, Tlv, VERSION};
use super::route_request::RouteRequest;
use super::seqno_request::SeqnoRequest;
use super::update::{State, Update};
use std::net::Ipv6Addr;

/// Collects TLVs into one packet. Call [`Writer::push`] until it says `false`, then [`Writer::finish`].
#[derive(Clone, Debug)]
pub struct Writer {
    bytes: Vec<u8>,
    limit: usize,
    /// Octets kept free below the limit.
    aside: usize,
    state: State,
}

impl Writer {
    /// A packet of at most `limit` octets, to be sent from `source`.
    #[must_use]
    pub fn new(limit: usize, source: Ipv6Addr) -> Self {
        // The body length has 16 bits.
        let limit = limit.min(HEADER + usize::from(u16::MAX));
        Self { bytes: vec![MAGIC, VERSION, 0, 0], limit, aside: 0, state: State::new(source) }
    }

    /// Keeps room for what will be known only when the rest is written; zero gives it back.
    pub(crate) fn set_aside(&mut self, octets: usize) {
        self.aside = octets;
    }

    /// Appends a TLV, with Router-Id and Next Hop before it where an Update needs them. `false`: it does
    /// not fit and nothing was written.
    #[must_use]
    pub fn push(&mut self, tlv: &Tlv) -> bool {
        let (length, state) = (self.bytes.len(), self.state);
        self.append(tlv);
        if self.bytes.len() + self.aside <= self.limit {
            return true;
        }
        self.bytes.truncate(length);
        self.state = state;
        false
    }

    /// Whether it holds no TLV.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.len() <= HEADER
    }

    /// The packet, the UDP payload.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        let body = u16::try_from(self.bytes.len() - HEADER).unwrap_or(u16::MAX);
        self.bytes[2..HEADER].copy_from_slice(&body.to_be_bytes());
        self.bytes
    }

    fn append(&mut self, tlv: &Tlv) {
        let out = &mut self.bytes;
        match tlv {
            Tlv::AcknowledgmentRequest(request) => framed(out, AcknowledgmentRequest::TYPE, |out| request.encode(out)),
            Tlv::Acknowledgment(acknowledgment) => framed(out, Acknowledgment::TYPE, |out| acknowledgment.encode(out)),
            Tlv::Hello(hello) => framed(out, Hello::TYPE, |out| hello.encode(out)),
            Tlv::Ihu(ihu) => framed(out, Ihu::TYPE, |out| ihu.encode(out)),
            Tlv::Update(update) => {
                update.encode_state(&mut self.state, |kind, write| framed(out, kind, write));
                framed(out, Update::TYPE, |out| update.encode(&mut self.state, out));
            }
            Tlv::RouteRequest(request) => framed(out, RouteRequest::TYPE, |out| request.encode(out)),
            Tlv::SeqnoRequest(request) => framed(out, SeqnoRequest::TYPE, |out| request.encode(out)),
        }
    }
}

/// Type, length, body. No TLV written here comes near 255 octets.
fn framed(out: &mut Vec<u8>, kind: u8, write: impl FnOnce(&mut Vec<u8>)) {
    out.extend([kind, 0]);
    let start = out.len();
    write(out);
    out[start - 1] = u8::try_from(out.len() - start).unwrap_or(u8::MAX);
}
