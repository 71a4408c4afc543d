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
    #[serde(serialize_with = "crate::json::hex")]
    nonce: [u8; 16],
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
    /// `nonce` is random: it alone tells two communities apart that were founded with the same words in the same second, so
    /// that a receipt of the one is worth nothing on the other.
    ///
    /// # Errors
    /// [`GenesisError`] names what a name or number must be.
    pub fn new(
        community: &str,
        symbol: &str,
        decimals: u8,
        treasurer: NodeId,
        founded: UnixTime,
        nonce: [u8; 16],
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
            nonce,
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

    /// What tells it from a ledger that is the same in all else.
    #[must_use]
    pub const fn nonce(&self) -> &[u8; 16] {
        &self.nonce
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

/// Printable text without line breaks, odd spaces and what does not show: it is shown in tables and on receipts, and two names
/// that look the same are the same.
fn is_name(text: &str, max_chars: usize) -> bool {
    let unseen = |c: char| UNSEEN.iter().any(|(first, last)| (*first..=*last).contains(&c));
    let odd = |c: char| c.is_control() || (c.is_whitespace() && c != ' ') || unseen(c);
    !text.is_empty() && text.trim() == text && text.chars().count() <= max_chars && !text.chars().any(odd)
}

/// Characters that have no picture of their own, or turn round how others are written, first and last of each range: those
/// of category Cf and those that Unicode says to ignore where they are not known (`Default_Ignorable_Code_Point`), both of
/// Unicode 16. The table is the rule, whatever a later Unicode says.
const UNSEEN: &[(char, char)] = &[
    ('\u{ad}', '\u{ad}'),
    ('\u{34f}', '\u{34f}'),
    ('\u{600}', '\u{605}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{6dd}', '\u{6dd}'),
    ('\u{70f}', '\u{70f}'),
    ('\u{890}', '\u{891}'),
    ('\u{8e2}', '\u{8e2}'),
    ('\u{115f}', '\u{1160}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{180b}', '\u{180f}'),
    ('\u{200b}', '\u{200f}'),
    ('\u{202a}', '\u{202e}'),
    ('\u{2060}', '\u{206f}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{fe00}', '\u{fe0f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{fff0}', '\u{fffb}'),
    ('\u{110bd}', '\u{110bd}'),
    ('\u{110cd}', '\u{110cd}'),
    ('\u{13430}', '\u{1343f}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0000}', '\u{e0fff}'),
];

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
    use crate::State;
    use crate::state::founding;

    fn genesis(community: &str, symbol: &str, decimals: u8, founded: u64) -> Result<Genesis, GenesisError> {
        Genesis::new(community, symbol, decimals, NodeId([7; 20]), UnixTime::from_seconds(founded), [1; 16])
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
    fn names_have_no_character_that_does_not_show() {
        for (what, odd) in [
            ("zero-width space", '\u{200b}'),
            ("zero-width joiner", '\u{200d}'),
            ("right-to-left mark", '\u{200f}'),
            ("right-to-left override", '\u{202e}'),
            ("first isolate", '\u{2066}'),
            ("last isolate", '\u{2069}'),
            ("Arabic letter mark", '\u{61c}'),
            ("soft hyphen", '\u{ad}'),
            ("byte order mark", '\u{feff}'),
            ("language tag", '\u{e0001}'),
            ("variation selector", '\u{fe0f}'),
            ("Hangul filler", '\u{3164}'),
            ("next line", '\u{85}'),
            ("no-break space", '\u{a0}'),
            ("ideographic space", '\u{3000}'),
        ] {
            assert_eq!(genesis(&format!("Hill{odd}top"), "HILL", 6, 0), Err(GenesisError::Community), "{what}");
            assert_eq!(genesis("Hilltop", &format!("HI{odd}LL"), 6, 0), Err(GenesisError::Symbol), "{what}");
        }
        for script in ["Ελλάδα", "Село", "भारत", "שלום", "سلام", "村の網", "마을"] {
            assert!(genesis(script, "HILL", 6, 0).is_ok(), "{script}");
        }
        assert!(UNSEEN.is_sorted_by(|before, after| before.1 < after.0 && after.0 <= after.1), "{UNSEEN:?}");
    }

    #[test]
    fn communities_founded_with_the_same_words_in_the_same_second_are_two() {
        let founded = |nonce| {
            let genesis = Genesis::new("Hilltop", "HILL", 6, NodeId([7; 20]), UnixTime::from_seconds(100), nonce);
            genesis.unwrap().domain().contract
        };
        assert_ne!(founded([1; 16]), founded([2; 16]));
        assert_eq!(founded([1; 16]), founded([1; 16]));
    }

    /// Computed with Python's `hashlib` from the bytes that RFC 8949 says.
    #[test]
    fn founding_is_named_as_the_rulebook_says() {
        let genesis = genesis("Hilltop", "HILL", 6, 100).unwrap();
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let root = State::found(genesis.clone()).head().root.to_string();
        let entry = hex(&founding(&genesis).encode());
        let (field, contract) = (hex(&genesis.encode()), hex(&genesis.domain().contract.0));
        assert_eq!(contract, "77dd6588e46e4cd1fcda341df842b103d77c853d");
        assert_eq!(root, "9cbbec5881ed5e2415220713e1fe6c5bc62f3ef5e1f25455a709de226438bff2");
        assert_eq!(entry, format!("83186400{field}"));
        for said in [field, contract, root] {
            assert!(include_str!("../../RULEBOOK.md").contains(&said), "{said} is not in RULEBOOK.md");
        }
    }

    #[test]
    fn rulebook_has_all_characters_that_names_have_not() {
        let rulebook = include_str!("../../RULEBOOK.md").replace('\n', " ");
        let number = |c: char| format!("{:04X}", u32::from(c));
        let ranges = UNSEEN.iter().map(|(first, last)| match first == last {
            true => number(*first),
            false => format!("{}-{}", number(*first), number(*last)),
        });
        let ranges = ranges.collect::<Vec<_>>().join(", ");
        assert!(rulebook.contains(&ranges), "{ranges} are not in RULEBOOK.md");
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
