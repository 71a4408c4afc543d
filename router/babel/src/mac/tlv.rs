//! The TLVs of RFC 8967, section 6. All are a string of octets; the packet counter has a number before.

use crate::Destination;
use crate::wire::split_tlv;

pub(super) const MAC: u8 = 16;
pub(super) const PACKET_COUNTER: u8 = 17;
pub(super) const CHALLENGE_REQUEST: u8 = 18;
pub(super) const CHALLENGE_REPLY: u8 = 19;

/// Type and length.
pub(super) const TLV_HEADER: usize = 2;
/// The number in a packet counter, before the index.
pub(super) const PC_LEN: usize = 4;
/// RFC 8967, section 6.2.
const INDEX_LEN_MAX: usize = 32;
/// RFC 8967, section 6.3.
pub(super) const NONCE_LEN_MAX: usize = 192;

/// The pair of index and packet counter (PC) that makes a packet the only one of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp<'a> {
    pub(super) pc: u32,
    pub(super) index: &'a [u8],
}

impl<'a> Stamp<'a> {
    fn decode(body: &'a [u8]) -> Option<Self> {
        let (pc, index) = body.split_first_chunk::<PC_LEN>()?;
        (index.len() <= INDEX_LEN_MAX).then(|| Self { pc: u32::from_be_bytes(*pc), index })
    }
}

/// What the first look into a body finds (RFC 8967, section 4.3); all else is ignored there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Preparsed<'a> {
    body: &'a [u8],
    /// Of several, the first.
    pub(super) stamp: Option<Stamp<'a>>,
    /// The nonce of a Challenge Request, of several the last. One sent by multicast is ignored, or one
    /// replayed packet would make everybody answer.
    pub(super) request: Option<&'a [u8]>,
}

impl<'a> Preparsed<'a> {
    pub(super) fn read(body: &'a [u8], to: Destination) -> Self {
        let mut found = Self { body, stamp: None, request: None };
        for (kind, body) in tlvs(body) {
            match kind {
                PACKET_COUNTER => found.stamp = found.stamp.or_else(|| Stamp::decode(body)),
                CHALLENGE_REQUEST if to != Destination::Multicast && body.len() <= NONCE_LEN_MAX => {
                    found.request = Some(body);
                }
                _ => {}
            }
        }
        found
    }

    /// Whether there is a Challenge Reply with this nonce.
    pub(super) fn answers(&self, nonce: &[u8]) -> bool {
        tlvs(self.body).any(|(kind, body)| kind == CHALLENGE_REPLY && body == nonce)
    }
}

/// Types and bodies, up to the first TLV that is cut short.
pub(super) fn tlvs(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (kind, body, rest) = split_tlv(bytes)?;
        bytes = rest;
        Some((kind, body))
    })
}

/// Appends a TLV. None written here comes near 255 octets.
pub(super) fn write(out: &mut Vec<u8>, kind: u8, body: &[u8]) {
    out.extend([kind, u8::try_from(body.len()).unwrap_or(u8::MAX)]);
    out.extend(body);
}
