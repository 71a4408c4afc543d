//! Deterministic CBOR (RFC 8949, section 4.2.1): one statement has one encoding.

use std::convert::Infallible;

use minicbor::{Decoder, Encoder, decode, encode};
use thiserror::Error;

/// Why bytes are not a statement. The sender misbehaved, or speaks another version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Not CBOR, cut short, or of another shape.
    #[error("not a well-formed {what}")]
    Malformed {
        /// What was expected.
        what: &'static str,
    },
    /// The same statement has another, shorter or ordered, encoding; or bytes follow it.
    #[error("a {what} in an encoding that is not the deterministic one")]
    NotDeterministic {
        /// What was expected.
        what: &'static str,
    },
}

/// A statement with a CBOR encoding.
pub(crate) trait Statement: Sized {
    /// Its name in errors.
    const WHAT: &'static str;

    /// Appends the encoding.
    fn write(&self, to: &mut Writer) -> Result<(), encode::Error<Infallible>>;

    /// Reads one, leniently: [`decode_statement`] compares it with what [`Statement::write`] gives.
    fn read(from: &mut Decoder<'_>) -> Result<Self, decode::Error>;
}

/// CBOR being written.
pub(crate) type Writer = Encoder<Vec<u8>>;

/// The one encoding of a statement.
pub(crate) fn encode_statement<S: Statement>(statement: &S) -> Vec<u8> {
    let mut to = Encoder::new(Vec::new());
    statement.write(&mut to).expect("a vector takes every write and no statement makes an error of its own");
    to.into_writer()
}

/// Decodes, encodes again and compares, so that one statement never has two encodings.
pub(crate) fn decode_statement<S: Statement>(bytes: &[u8]) -> Result<S, DecodeError> {
    let what = S::WHAT;
    let statement = S::read(&mut Decoder::new(bytes)).map_err(|_| DecodeError::Malformed { what })?;
    if encode_statement(&statement) == bytes { Ok(statement) } else { Err(DecodeError::NotDeterministic { what }) }
}

/// Reads the head of an array that must hold `length` items.
pub(crate) fn array(from: &mut Decoder<'_>, length: u64) -> Result<(), decode::Error> {
    match from.array()? {
        Some(actual) if actual == length => Ok(()),
        _ => Err(decode::Error::message("an array of another length")),
    }
}

/// Reads a byte string of exactly `N` bytes.
pub(crate) fn bytes<const N: usize>(from: &mut Decoder<'_>) -> Result<[u8; N], decode::Error> {
    from.bytes()?.try_into().map_err(|_| decode::Error::message("a byte string of another length"))
}
