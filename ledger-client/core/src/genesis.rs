//! How a community's ledger begins.

use metering::{LedgerDomain, NodeId};
use serde::Serialize;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::{Hash, UnixTime};

/// What a ledger is founded on. It is entry 0 of the log and never changes.
///
/// Its hash names the ledger in every receipt ([`Genesis::domain`]), so a receipt is worth nothing on another ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Genesis {
    community: String,
    symbol: String,
    decimals: u8,
    treasurer: NodeId,
    close_notice_s: u32,
    founded: UnixTime,
}

/// How long a payee has to redeem once the payer starts to close, where nothing else is chosen: three days, so that a
/// router that is off over a weekend comes back in time.
pub const DEFAULT_CLOSE_NOTICE_S: u32 = 3 * 24 * 60 * 60;

/// The longest name of a community, in characters.
pub const MAX_COMMUNITY_CHARS: usize = 64;
/// The longest symbol of a token, in characters.
pub const MAX_SYMBOL_CHARS: usize = 12;
/// The most decimals of a token: with more, a supply below 2^63 base units ends at nine whole tokens.
pub const MAX_DECIMALS: u8 = 18;

impl Genesis {
    /// A ledger for `community`, whose token is called `symbol` and shown with `decimals` decimals, where only
    /// `treasurer` mints, founded at `founded` with [`DEFAULT_CLOSE_NOTICE_S`].
    ///
    /// Two communities of one treasurer with the same names are told apart by the second they were founded in.
    ///
    /// # Errors
    /// [`GenesisError`] names what a name or number must be.
    pub fn new(
        community: &str,
        symbol: &str,
        decimals: u8,
        treasurer: NodeId,
        founded: UnixTime,
    ) -> Result<Self, GenesisError> {
        if !is_name(community, MAX_COMMUNITY_CHARS) {
            return Err(GenesisError::Community);
        }
        if !is_name(symbol, MAX_SYMBOL_CHARS) || symbol.contains(' ') {
            return Err(GenesisError::Symbol);
        }
        if decimals > MAX_DECIMALS {
            return Err(GenesisError::Decimals { decimals });
        }
        Ok(Self {
            community: community.to_owned(),
            symbol: symbol.to_owned(),
            decimals,
            treasurer,
            close_notice_s: DEFAULT_CLOSE_NOTICE_S,
            founded,
        })
    }

    /// The same with another close notice.
    #[must_use]
    pub fn with_close_notice(self, seconds: u32) -> Self {
        Self { close_notice_s: seconds, ..self }
    }

    /// The community's name.
    #[must_use]
    pub fn community(&self) -> &str {
        &self.community
    }

    /// The token's name, as it stands behind an amount.
    #[must_use]
    pub fn symbol(&self) -> &str {
        &self.symbol
    }

    /// How many of an amount's digits stand behind the point.
    #[must_use]
    pub const fn decimals(&self) -> u8 {
        self.decimals
    }

    /// The only account that mints.
    #[must_use]
    pub const fn treasurer(&self) -> NodeId {
        self.treasurer
    }

    /// Seconds between the start of a close and the earliest end of the channel.
    #[must_use]
    pub const fn close_notice_s(&self) -> u32 {
        self.close_notice_s
    }

    /// When the ledger was founded. No entry is older.
    #[must_use]
    pub const fn founded(&self) -> UnixTime {
        self.founded
    }

    /// The hash that names this ledger: SHA-256 over a label and the CBOR form.
    #[must_use]
    pub fn hash(&self) -> Hash {
        let digest = Sha256::new().chain_update(b"waybill genesis 1\0").chain_update(self.encode());
        Hash(digest.finalize().into())
    }

    /// The EIP-712 domain of receipts on this ledger: chain 0, and the first 20 bytes of the hash as the contract.
    #[must_use]
    pub fn domain(&self) -> LedgerDomain {
        let mut contract = [0; 20];
        contract.copy_from_slice(&self.hash().0[..20]);
        LedgerDomain { chain_id: 0, contract: NodeId(contract) }
    }
}

/// Printable text without line breaks or odd spaces: it is shown in tables and on receipts.
fn is_name(text: &str, max_chars: usize) -> bool {
    let odd = |c: char| c.is_control() || (c.is_whitespace() && c != ' ');
    !text.is_empty() && text.trim() == text && text.chars().count() <= max_chars && !text.chars().any(odd)
}

/// Why a ledger cannot be founded like this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum GenesisError {
    /// The community's name is empty, too long, or not printable.
    #[error("a community's name has 1 to {MAX_COMMUNITY_CHARS} printable characters, no space at either end")]
    Community,
    /// The token's symbol is empty, too long, or not printable.
    #[error("a token's symbol has 1 to {MAX_SYMBOL_CHARS} printable characters, no space")]
    Symbol,
    /// More decimals than [`MAX_DECIMALS`].
    #[error("a token has at most {MAX_DECIMALS} decimals, not {decimals}")]
    Decimals {
        /// How many were asked for.
        decimals: u8,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn genesis(community: &str, symbol: &str, decimals: u8, founded: u64) -> Result<Genesis, GenesisError> {
        Genesis::new(community, symbol, decimals, NodeId([7; 20]), UnixTime::from_seconds(founded))
    }

    #[test]
    fn names_are_short_and_printable() {
        let long = "x".repeat(65);
        for community in ["", " Hilltop", "Hilltop\n", "Hill\u{2028}top", "Hill\u{0}top", &long] {
            assert_eq!(genesis(community, "HILL", 6, 0), Err(GenesisError::Community), "{community:?}");
        }
        for symbol in ["", "A B", "THIRTEENCHARS", "A\tB"] {
            assert_eq!(genesis("Hilltop", symbol, 6, 0), Err(GenesisError::Symbol), "{symbol:?}");
        }
        assert_eq!(genesis("Hilltop", "HILL", 19, 0), Err(GenesisError::Decimals { decimals: 19 }));
        assert!(genesis("Kołobrzeg sieć", "zł", 18, 0).is_ok());
    }

    #[test]
    fn every_choice_gives_another_domain() {
        let base = genesis("Hilltop", "HILL", 6, 100).unwrap();
        let others = [
            genesis("Hilltop2", "HILL", 6, 100).unwrap(),
            genesis("Hilltop", "HIL", 6, 100).unwrap(),
            genesis("Hilltop", "HILL", 7, 100).unwrap(),
            genesis("Hilltop", "HILL", 6, 101).unwrap(),
            base.clone().with_close_notice(60),
        ];
        for other in &others {
            assert_ne!(other.domain().contract, base.domain().contract, "{other:?}");
        }
        assert_eq!(base.domain().chain_id, 0);
    }
}
