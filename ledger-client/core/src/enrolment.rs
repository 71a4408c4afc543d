//! An enrolment's code: what an issuer hands to a newcomer, on paper or in a message.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use metering::{AccountKey, LedgerDomain, NodeId};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::Command;
use crate::fact::{Fields, Reader};
use crate::membership;

/// The secret of an enrolment, and whose offer it is.
///
/// Text form: `waybill-enrolment1:` and base64url. Whoever reads it can enrol, once. Until when, the ledger says.
#[derive(Clone, PartialEq, Eq)]
pub struct Code {
    secret: [u8; 32],
    issuer: NodeId,
    enrolment: NodeId,
}

/// Why a code is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum CodeError {
    /// It does not start with `waybill-enrolment1:`.
    #[error("an enrolment code starts with `{PREFIX}`")]
    NotACode,
    /// A character of it is not what was written down.
    #[error("the enrolment code is not whole, or has a wrong character")]
    Malformed,
}

const PREFIX: &str = "waybill-enrolment1:";

impl Code {
    /// The code for a secret of an issuer's; `None` where the secret is no key.
    #[must_use]
    pub fn new(secret: [u8; 32], issuer: NodeId) -> Option<Self> {
        let enrolment = AccountKey::from_bytes(&secret)?.node_id();
        Some(Self { secret, issuer, enrolment })
    }

    /// Whose offer it is.
    #[must_use]
    pub const fn issuer(&self) -> NodeId {
        self.issuer
    }

    /// Which of that issuer's: the account that the secret is the key of.
    #[must_use]
    pub const fn enrolment(&self) -> NodeId {
        self.enrolment
    }

    /// What an account commands to be enrolled by it.
    #[must_use]
    pub fn enrol(&self, domain: &LedgerDomain, account: NodeId) -> Command {
        let key = AccountKey::from_bytes(&self.secret).expect("a code is made of a secret that is a key");
        let claim = membership::claim(&key, domain, self.issuer, account);
        Command::Enrol { issuer: self.issuer, enrolment: self.enrolment, claim }
    }

    /// The secret, the issuer, and four bytes that tell a code which was copied wrongly: 56 in all.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let check = check(&self.fields().finish());
        self.fields().bytes(&check).finish()
    }

    /// What [`Self::to_bytes`] gave.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        read(bytes).filter(|code| code.to_bytes() == bytes)
    }

    fn fields(&self) -> Fields {
        Fields::default().bytes(&self.secret).account(self.issuer)
    }
}

/// What tells a code that was copied wrongly: nothing else in it does, as any 32 bytes are a secret.
fn check(fields: &[u8]) -> [u8; 4] {
    let [a, b, c, d, ..] = <[u8; 32]>::from(Sha256::new().chain_update(PREFIX).chain_update(fields).finalize());
    [a, b, c, d]
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { secret: _, issuer, enrolment } = self;
        f.debug_struct("Code").field("issuer", issuer).field("enrolment", enrolment).finish_non_exhaustive()
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(self.to_bytes()))
    }
}

impl FromStr for Code {
    type Err = CodeError;

    fn from_str(text: &str) -> Result<Self, CodeError> {
        let body = text.strip_prefix(PREFIX).ok_or(CodeError::NotACode)?;
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| CodeError::Malformed)?;
        Self::from_bytes(&bytes).filter(|code| code.to_string() == text).ok_or(CodeError::Malformed)
    }
}

fn read(bytes: &[u8]) -> Option<Code> {
    let mut from = Reader(bytes);
    let (secret, issuer, _check) = (from.bytes()?, from.account()?, from.bytes::<4>()?);
    from.end(Code::new(secret, issuer)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code() -> Code {
        Code::new([0x5e; 32], NodeId([0xb0; 20])).unwrap()
    }

    /// Written by Python's `hashlib` and `base64`.
    #[test]
    fn text_is_that_of_the_rulebook() {
        let text = code().to_string();
        assert!(include_str!("../../RULEBOOK.md").contains(&text), "{text} is not in RULEBOOK.md");
        assert_eq!(text.parse(), Ok(code()));
    }

    #[test]
    fn code_with_any_other_character_is_none() {
        let text = code().to_string();
        for at in PREFIX.len()..text.len() {
            let mut other = text.clone();
            other.replace_range(at..=at, if text[at..].starts_with('A') { "B" } else { "A" });
            assert_eq!(other.parse::<Code>(), Err(CodeError::Malformed), "{other}");
        }
        assert_eq!(text[..text.len() - 4].parse::<Code>(), Err(CodeError::Malformed));
        assert_eq!("waybill-voucher1:AAAA".parse::<Code>(), Err(CodeError::NotACode));
    }

    #[test]
    fn code_does_not_show_its_secret_to_who_debugs() {
        let shown = format!("{:?}", code());
        assert!(!shown.contains("94") && shown.contains("issuer"), "{shown}");
    }
}
