//! What the ledger keeps besides accounts and channels: one value under one key, as a store sees it. In the same form
//! accounts and channels are hashed and proven ([`crate::place`]), though a store keeps them otherwise.

use metering::{NodeId, Signature, Tokens};

use crate::UnixTime;

/// Something that is kept under a key of its own. Nothing is ever taken away, only written over.
pub trait Fact: Sized {
    /// What it is about.
    type Key;

    /// The key as a store keeps it: a byte for the kind of fact, then what it is about.
    fn place(key: &Self::Key) -> Vec<u8>;
    /// The value as a store keeps it. It has one encoding.
    fn encode(&self) -> Vec<u8>;
    /// Reads a value; `None` where the bytes are none.
    fn decode(bytes: &[u8]) -> Option<Self>;
}

/// The first byte of each kind's keys. Never reused.
pub(crate) mod kind {
    pub(crate) const SIGNER: u8 = 1;
    pub(crate) const CHANNEL_SIGNER: u8 = 2;
    pub(crate) const VOUCHER: u8 = 3;
    pub(crate) const POOL: u8 = 4;
    pub(crate) const HOLDING: u8 = 5;
    pub(crate) const ROLE: u8 = 6;
    pub(crate) const MEMBERSHIP: u8 = 7;
    pub(crate) const ENROLMENT: u8 = 8;
    pub(crate) const LISTING: u8 = 9;
    pub(crate) const FUNDS: u8 = 10;
    pub(crate) const CHANNEL: u8 = 11;
    pub(crate) const OVERALL: u8 = 12;
    pub(crate) const NAME: u8 = 13;
    pub(crate) const OWN_NAME: u8 = 14;
}

/// A key or value of fixed-length fields, being written.
#[derive(Default)]
pub(crate) struct Fields(Vec<u8>);

impl Fields {
    pub(crate) fn of(kind: u8) -> Self {
        Self(vec![kind])
    }

    pub(crate) fn byte(mut self, byte: u8) -> Self {
        self.0.push(byte);
        self
    }

    pub(crate) fn account(mut self, id: NodeId) -> Self {
        self.0.extend(id.0);
        self
    }

    pub(crate) fn tokens(mut self, amount: Tokens) -> Self {
        self.0.extend(amount.to_be_bytes12());
        self
    }

    pub(crate) fn number(mut self, number: u64) -> Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// The same, being read.
pub(crate) struct Reader<'b>(pub(crate) &'b [u8]);

impl Reader<'_> {
    pub(crate) fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        self.bytes().map(|[byte]| byte)
    }

    pub(crate) fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    pub(crate) fn account(&mut self) -> Option<NodeId> {
        self.bytes().map(NodeId)
    }

    pub(crate) fn tokens(&mut self) -> Option<Tokens> {
        self.bytes().map(Tokens::from_be_bytes12)
    }

    pub(crate) fn number(&mut self) -> Option<u64> {
        self.bytes().map(u64::from_be_bytes)
    }

    pub(crate) fn time(&mut self) -> Option<UnixTime> {
        self.number().map(UnixTime::from_seconds)
    }

    pub(crate) fn signature(&mut self) -> Option<Signature> {
        self.bytes().map(Signature)
    }

    /// Gives what was read, if nothing is left.
    pub(crate) fn end<T>(self, read: T) -> Option<T> {
        self.0.is_empty().then_some(read)
    }
}
