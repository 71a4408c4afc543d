//! The messages two neighbours exchange, each one datagram. `PROTOCOL.md` has them byte by byte.

use std::convert::Infallible;

use minicbor::data::Type;
use minicbor::{Decoder, decode, encode};

use crate::cbor::{self, DecodeError, Statement, Writer, decode_statement, encode_statement};
use crate::eip712::Word;
use crate::meter::Counts;
use crate::terms::{Role, SignedTerms};
use crate::{Bytes, Close, Receipt, Tokens, Unverified};

/// The link-local UDP port of the exchange.
pub const PORT: u16 = 6698;

/// The longest datagram there is; a longer one is refused unread. It fits any link that carries IPv6.
pub const MESSAGE_LENGTH_MAX: usize = 1200;

/// The version of the protocol, the first item of every message.
pub const VERSION: u8 = 1;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Who I am, whom I take you for, and the highest receipt I know. Sent on every (re)connect, both ways, and when
    /// what one side knows of the channel changes.
    Resume(Resume),
    /// Provider to payer: what I ask.
    Terms(TermsMessage),
    /// What I counted. The payer's first one in a segment accepts the terms.
    MeterReport(MeterReport),
    /// Payer to provider: what I counted, what you said you counted, and what I owe for it.
    Receipt(ReceiptMessage),
    /// Payer to provider: let us end the channel at once, with so much of it for you.
    Close(Close<Unverified>),
}

/// See [`Message::Resume`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    /// What the sender is on this link.
    pub role: Role,
    /// The sender's session. It rises with every restart, change of terms and change of channel.
    pub session: u64,
    /// The receiver's session as far as the sender knows; 0 for unknown.
    pub echo: u64,
    /// Whether an answer is wanted: the sender does not know whether the receiver knows its session.
    pub ask: bool,
    /// The channel's nonce and deposit, as the sender's ledger has it.
    pub channel: Option<ChannelNote>,
    /// The highest receipt the sender signed, or holds.
    pub receipt: Option<Receipt<Unverified>>,
}

/// What one side knows of a channel, to be looked up by the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelNote {
    /// The channel's epoch.
    pub nonce: u64,
    /// What is locked in it.
    pub deposit: Tokens,
}

/// See [`Message::Terms`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TermsMessage {
    /// The payer's session as the provider knows it.
    pub payer_session: u64,
    /// The terms.
    pub terms: SignedTerms<Unverified>,
}

/// See [`Message::MeterReport`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeterReport {
    /// The segment counted in.
    pub segment: Word,
    /// The sender's counts.
    pub counts: Counts,
}

/// See [`Message::Receipt`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptMessage {
    /// The segment counted in.
    pub segment: Word,
    /// The payer's own counts.
    pub payer: Counts,
    /// The provider's counts as it reported them.
    pub provider: Counts,
    /// The receipt; its meter is the hash of all the above.
    pub receipt: Receipt<Unverified>,
}

/// Why bytes are not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Longer than [`MESSAGE_LENGTH_MAX`].
    #[error("a message of {length} bytes; the longest has {MESSAGE_LENGTH_MAX}")]
    TooLong {
        /// Its length.
        length: usize,
    },
    /// Another version of the protocol, or a kind of message this one does not know.
    #[error("version {version} of the exchange, message {kind}: not known here")]
    Unknown {
        /// Its version.
        version: u8,
        /// Its kind.
        kind: u8,
    },
    /// Not a message at all.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl Message {
    /// The one encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_statement(self)
    }

    /// Reads a message.
    ///
    /// # Errors
    /// [`MessageError`]
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        if bytes.len() > MESSAGE_LENGTH_MAX {
            return Err(MessageError::TooLong { length: bytes.len() });
        }
        match decode_statement(bytes) {
            Ok(message) => Ok(message),
            Err(error) => match version_and_kind(bytes) {
                Some((version, kind)) if version != VERSION || kind > CLOSE => {
                    Err(MessageError::Unknown { version, kind })
                }
                _ => Err(error.into()),
            },
        }
    }
}

const RESUME: u8 = 0;
const TERMS: u8 = 1;
const METER_REPORT: u8 = 2;
const RECEIPT: u8 = 3;
const CLOSE: u8 = 4;

fn version_and_kind(bytes: &[u8]) -> Option<(u8, u8)> {
    let mut from = Decoder::new(bytes);
    from.array().ok()??;
    Some((from.u8().ok()?, from.u8().ok()?))
}

impl Statement for Message {
    const WHAT: &'static str = "message";

    fn write(&self, to: &mut Writer) -> Result<(), encode::Error<Infallible>> {
        match self {
            Self::Resume(resume) => {
                head(to, RESUME, 6)?
                    .u8(role_number(resume.role))?
                    .u64(resume.session)?
                    .u64(resume.echo)?
                    .bool(resume.ask)?;
                optional(to, resume.channel.as_ref())?;
                optional(to, resume.receipt.as_ref())
            }
            Self::Terms(message) => {
                head(to, TERMS, 2)?.u64(message.payer_session)?;
                message.terms.write(to)
            }
            Self::MeterReport(report) => {
                head(to, METER_REPORT, 2)?.bytes(&report.segment)?;
                report.counts.write(to)
            }
            Self::Receipt(message) => {
                head(to, RECEIPT, 4)?.bytes(&message.segment)?;
                message.payer.write(to)?;
                message.provider.write(to)?;
                message.receipt.write(to)
            }
            Self::Close(close) => {
                head(to, CLOSE, 1)?;
                close.write(to)
            }
        }
    }

    fn read(from: &mut Decoder<'_>) -> Result<Self, decode::Error> {
        let length = from.array()?;
        let version = from.u8()?;
        let kind = from.u8()?;
        match (version, kind, length) {
            (VERSION, RESUME, Some(8)) => Ok(Self::Resume(Resume {
                role: role(from.u8()?)?,
                session: from.u64()?,
                echo: from.u64()?,
                ask: from.bool()?,
                channel: read_optional(from)?,
                receipt: read_optional(from)?,
            })),
            (VERSION, TERMS, Some(4)) => {
                Ok(Self::Terms(TermsMessage { payer_session: from.u64()?, terms: SignedTerms::read(from)? }))
            }
            (VERSION, METER_REPORT, Some(4)) => {
                Ok(Self::MeterReport(MeterReport { segment: cbor::bytes(from)?, counts: Counts::read(from)? }))
            }
            (VERSION, RECEIPT, Some(6)) => Ok(Self::Receipt(ReceiptMessage {
                segment: cbor::bytes(from)?,
                payer: Counts::read(from)?,
                provider: Counts::read(from)?,
                receipt: Receipt::read(from)?,
            })),
            (VERSION, CLOSE, Some(3)) => Ok(Self::Close(Close::read(from)?)),
            _ => Err(decode::Error::message("no such message")),
        }
    }
}

/// Writes the array's head, version and kind of a message with `fields` further items.
fn head(to: &mut Writer, kind: u8, fields: u64) -> Result<&mut Writer, encode::Error<Infallible>> {
    to.array(2 + fields)?.u8(VERSION)?.u8(kind)
}

fn optional<S: Statement>(to: &mut Writer, statement: Option<&S>) -> Result<(), encode::Error<Infallible>> {
    match statement {
        Some(statement) => statement.write(to),
        None => to.null().map(|_| ()),
    }
}

fn read_optional<S: Statement>(from: &mut Decoder<'_>) -> Result<Option<S>, decode::Error> {
    if from.datatype()? == Type::Null { from.null().map(|()| None) } else { S::read(from).map(Some) }
}

const fn role_number(role: Role) -> u8 {
    match role {
        Role::Provider => 0,
        Role::Subscriber => 1,
        Role::Peer => 2,
    }
}

fn role(number: u8) -> Result<Role, decode::Error> {
    match number {
        0 => Ok(Role::Provider),
        1 => Ok(Role::Subscriber),
        2 => Ok(Role::Peer),
        _ => Err(decode::Error::message("no such role")),
    }
}

impl Statement for Counts {
    const WHAT: &'static str = "counts";

    fn write(&self, to: &mut Writer) -> Result<(), encode::Error<Infallible>> {
        to.array(2)?.u64(self.sent.get())?.u64(self.received.get())?;
        Ok(())
    }

    fn read(from: &mut Decoder<'_>) -> Result<Self, decode::Error> {
        cbor::array(from, 2)?;
        Ok(Self { sent: Bytes::new(from.u64()?), received: Bytes::new(from.u64()?) })
    }
}

impl Statement for ChannelNote {
    const WHAT: &'static str = "channel";

    fn write(&self, to: &mut Writer) -> Result<(), encode::Error<Infallible>> {
        to.array(2)?.u64(self.nonce)?.bytes(&self.deposit.to_be_bytes12())?;
        Ok(())
    }

    fn read(from: &mut Decoder<'_>) -> Result<Self, decode::Error> {
        cbor::array(from, 2)?;
        Ok(Self { nonce: from.u64()?, deposit: Tokens::from_be_bytes12(cbor::bytes(from)?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Identity, Seed};
    use crate::meter::{charge, meter_hash};
    use crate::terms::Terms;
    use crate::{ChannelId, LedgerDomain, NodeId, Price, watch};

    const DOMAIN: LedgerDomain = LedgerDomain { chain_id: 31337, contract: NodeId([0xc0; 20]) };

    fn payer() -> Identity {
        Identity::new(&Seed::from_bytes(std::array::from_fn(|i| i as u8)))
    }

    fn provider() -> Identity {
        Identity::new(&Seed::from_bytes([7; 32]))
    }

    fn terms() -> Terms {
        Terms {
            peers: false,
            provider: provider().node_id(),
            payer: payer().node_id(),
            price_up: Price::new(1_000_000),
            price_down: Price::new(2_000_000),
            window: Bytes::from_mebibytes(64),
            loss_allowance_ppm: 50_000,
            seq: 0x1_0000_0002,
        }
    }

    const PAYER_SESSION: u64 = 0x3_0000_0004;

    fn receipt_message() -> ReceiptMessage {
        let segment = terms().segment(&DOMAIN, PAYER_SESSION);
        let counts = |sent: u64, received: u64| Counts { sent: Bytes::new(sent), received: Bytes::new(received) };
        let (provider, payer_counts) = (counts(3 << 30, 1 << 30), counts(1 << 30, 2 << 30));
        let channel = ChannelId { payer: payer().node_id(), payee: terms().provider, nonce: 3 };
        let amount = charge(&terms(), provider, payer_counts).unwrap();
        let meter = meter_hash(&segment, provider, payer_counts);
        let receipt = Receipt::sign(payer().account(), &DOMAIN, channel, amount, meter);
        ReceiptMessage { segment, payer: payer_counts, provider, receipt: receipt.into_unverified() }
    }

    fn examples() -> [Message; 6] {
        let receipt = receipt_message();
        let first =
            Resume { role: Role::Subscriber, session: PAYER_SESSION, echo: 0, ask: true, channel: None, receipt: None };
        let answer = Resume {
            role: Role::Provider,
            session: terms().seq,
            echo: PAYER_SESSION,
            ask: false,
            channel: Some(ChannelNote { nonce: 3, deposit: Tokens::new(10_000_000).unwrap() }),
            receipt: Some(receipt.receipt),
        };
        let terms = TermsMessage {
            payer_session: PAYER_SESSION,
            terms: terms().sign(provider().account(), &DOMAIN).into_unverified(),
        };
        let report = MeterReport { segment: receipt.segment, counts: receipt.provider };
        [
            Message::Resume(first),
            Message::Resume(answer),
            Message::Terms(terms),
            Message::MeterReport(report),
            Message::Receipt(receipt),
            Message::Close(close().into_unverified()),
        ]
    }

    fn close() -> Close {
        let receipt = receipt_message().receipt;
        Close::sign(payer().account(), &DOMAIN, receipt.channel(), receipt.amount())
    }

    /// `PROTOCOL.md` is enough to write another implementation from; its examples are these.
    #[test]
    fn the_examples_of_the_specification_are_what_is_sent() {
        let page: String = include_str!("../PROTOCOL.md").split_whitespace().collect();
        let amount = receipt_message().receipt.amount();
        assert_eq!(amount, Tokens::new(1_000_000 + 2 * 2_000_000).unwrap());
        let facts = [
            ("terms digest", terms().digest(&DOMAIN).to_vec()),
            ("segment", terms().segment(&DOMAIN, PAYER_SESSION).to_vec()),
            ("meter", receipt_message().receipt.meter().to_vec()),
        ];
        let keep = watch::Message::Keep(receipt_message().receipt).encode();
        let messages = examples().map(|message| ("message", message.encode()));
        for (what, bytes) in facts.into_iter().chain(messages).chain([("message of the watch", keep)]) {
            let text = hex::encode(&bytes);
            assert!(page.contains(&text), "the page lacks this {what}:\n{text}");
        }
    }

    #[test]
    fn every_message_is_read_back_and_none_is_read_cut_short_or_with_a_tail() {
        for message in examples() {
            let bytes = message.encode();
            assert_eq!(Message::decode(&bytes), Ok(message));
            for end in 0..bytes.len() {
                assert!(Message::decode(&bytes[..end]).is_err());
            }
            let longer = [bytes.as_slice(), &[0]].concat();
            let what = "message";
            let error = DecodeError::NotDeterministic { what };
            assert_eq!(Message::decode(&longer), Err(error.into()));
        }
    }

    #[test]
    fn versions_and_kinds_not_known_are_told_from_noise() {
        let unknown = |version, kind| Err(MessageError::Unknown { version, kind });
        assert_eq!(Message::decode(&[0x82, 2, 0]), unknown(2, 0));
        assert_eq!(Message::decode(&[0x82, 1, 5]), unknown(1, 5));
        let malformed = DecodeError::Malformed { what: "message" };
        for noise in [[].as_slice(), &[0xff], &[0x82, 1], &[0x84, 1, 2, 0x40, 0]] {
            assert_eq!(Message::decode(noise), Err(malformed.into()));
        }
    }

    /// A billion nested arrays, a string of 2^63 bytes, an endless array: refused without reading on.
    #[test]
    fn heads_that_promise_much_cost_nothing() {
        for bomb in [
            [0x9f; 1000].as_slice(),
            &[0x81; 1000],
            &[0x84, 1, 2, 0x5b, 0x7f, 255, 255, 255, 255, 255, 255, 255],
            &[0x9b, 255, 255, 255, 255, 255, 255, 255, 255, 1, 0],
        ] {
            assert!(Message::decode(bomb).is_err());
        }
    }
}
