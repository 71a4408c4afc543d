//! Sub-TLVs (RFC 8966, section 4.4): Pad1, PadN, Timestamp (RFC 9616), Source Prefix (RFC 9079) and
//! the price.

use super::address::AnyPrefix;
use super::reader::Reader;
use crate::price::Price;

const PAD1: u8 = 0;
const PADN: u8 = 1;
const TIMESTAMP: u8 = 3;
/// The type of the price sub-TLV: experimental (112 to 126), not mandatory, so that speakers without
/// it read the Update as if it were not there.
pub const PRICE_SUB_TLV: u8 = 117;
const SOURCE_PREFIX: u8 = 128;
/// The highest bit of a type: who does not know it must ignore the whole TLV.
const MANDATORY: u8 = 0x80;

/// When a Hello was sent, in microseconds of its sender's own clock (RFC 9616, section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HelloTimestamp(pub u32);

/// The echo of a Hello's timestamp in an IHU (RFC 9616, section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IhuTimestamp {
    /// The timestamp of the neighbour's last Hello, in its clock.
    pub origin_us: u32,
    /// When that Hello arrived, in the sender's clock.
    pub receive_us: u32,
}

/// What a speaker asks for carrying traffic towards the prefix of an Update.
///
/// On the wire 8 octets: `version:4 flags:4 | unit:8 | epoch:16 | price:32`; price 0xffffffff means
/// unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Quote {
    /// The community's unit; prices in different units are not added.
    pub unit: u8,
    /// The speaker's tariff: a price is owed at the last quoted epoch.
    pub epoch: u16,
    /// `None`: a hop behind does not say.
    pub price: Option<Price>,
}

/// The only version of the price sub-TLV.
const PRICE_VERSION: u8 = 0;
const PRICE_UNKNOWN: u32 = u32::MAX;

impl Quote {
    pub(super) fn encode(self, out: &mut Vec<u8>) {
        out.extend([PRICE_SUB_TLV, 8, PRICE_VERSION << 4, self.unit]);
        out.extend(self.epoch.to_be_bytes());
        out.extend(self.price.map_or(PRICE_UNKNOWN, Price::get).to_be_bytes());
    }

    /// A version or length of the future is as good as no price.
    fn decode(body: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(body);
        let version = reader.u8()? >> 4;
        let quote = Self { unit: reader.u8()?, epoch: reader.u16()?, price: known(reader.u32()?) };
        (version == PRICE_VERSION).then_some(quote)
    }
}

fn known(price: u32) -> Option<Price> {
    (price != PRICE_UNKNOWN).then(|| Price::new(price))
}

/// The sub-TLVs of one TLV, as far as known.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SubTlvs<'a> {
    timestamp: Option<&'a [u8]>,
    source_prefix: Option<&'a [u8]>,
    price: Option<&'a [u8]>,
    /// One is unknown and mandatory: the TLV must be ignored.
    pub(super) refused: bool,
}

impl<'a> SubTlvs<'a> {
    /// Walks what follows a TLV's fixed part. `None` if a length points behind the TLV's end.
    pub(super) fn read(reader: &mut Reader<'a>) -> Option<Self> {
        let mut found = Self::default();
        while !reader.is_empty() {
            let kind = reader.u8()?;
            if kind == PAD1 {
                continue;
            }
            let length = reader.u8()?;
            let body = reader.bytes(usize::from(length))?;
            found.keep(kind, body);
        }
        Some(found)
    }

    fn keep(&mut self, kind: u8, body: &'a [u8]) {
        match kind {
            PADN => {}
            TIMESTAMP => self.timestamp = Some(body),
            PRICE_SUB_TLV => self.price = Some(body),
            SOURCE_PREFIX if self.source_prefix.is_none() => self.source_prefix = Some(body),
            _ => self.refused |= kind & MANDATORY != 0,
        }
    }

    pub(super) fn hello_timestamp(&self) -> Option<HelloTimestamp> {
        Reader::new(self.timestamp?).u32().map(HelloTimestamp)
    }

    pub(super) fn ihu_timestamp(&self) -> Option<IhuTimestamp> {
        let mut reader = Reader::new(self.timestamp?);
        Some(IhuTimestamp { origin_us: reader.u32()?, receive_us: reader.u32()? })
    }

    pub(super) fn quote(&self) -> Option<Quote> {
        Quote::decode(self.price?)
    }

    /// The source prefix, in the encoding of the TLV. The outer `None` means: present but malformed
    /// or not allowed here, so the TLV must be ignored (RFC 9079, section 5.1).
    pub(super) fn source_prefix(&self, encoding: u8) -> Option<Option<AnyPrefix>> {
        let Some(body) = self.source_prefix else {
            return Some(None);
        };
        let mut reader = Reader::new(body);
        let bits = reader.u8().filter(|bits| *bits > 0)?;
        let prefix = AnyPrefix::read(encoding, bits, 0, None, &mut reader)?;
        reader.is_empty().then_some(Some(prefix))
    }

    /// Whether a TLV that cannot be source-specific carries a source prefix all the same.
    pub(super) fn has_source_prefix(&self) -> bool {
        self.source_prefix.is_some()
    }
}

pub(super) fn encode_hello_timestamp(timestamp: HelloTimestamp, out: &mut Vec<u8>) {
    out.extend([TIMESTAMP, 4]);
    out.extend(timestamp.0.to_be_bytes());
}

pub(super) fn encode_ihu_timestamp(timestamp: IhuTimestamp, out: &mut Vec<u8>) {
    out.extend([TIMESTAMP, 8]);
    out.extend(timestamp.origin_us.to_be_bytes());
    out.extend(timestamp.receive_us.to_be_bytes());
}

pub(super) fn encode_source_prefix(prefix: AnyPrefix, out: &mut Vec<u8>) {
    let count = prefix.octet_count();
    out.extend([SOURCE_PREFIX, 1 + small(count), prefix.bits()]);
    out.extend(&prefix.octets()[..count]);
}

/// A length that is at most 17 by construction.
fn small(length: usize) -> u8 {
    u8::try_from(length).unwrap_or(u8::MAX - 1)
}
