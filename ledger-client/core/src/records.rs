//! What the rules read and write.

use metering::{ChannelId, NodeId, Tokens};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Channel, Entry, Genesis, Hash, UnixTime};

/// The accounts, channels and log of one ledger, as the rules see them.
///
/// A store only keeps what it is given; it decides and adds nothing. After an error the caller throws all writes of the
/// command away.
pub trait Records {
    /// Why the records cannot be reached.
    type Error;

    /// What the ledger was founded on.
    fn genesis(&self) -> &Genesis;
    /// When the newest entry happened.
    fn time(&self) -> UnixTime;
    /// The running totals.
    fn totals(&self) -> Totals;
    /// What an account holds: nothing, where it was never heard of.
    ///
    /// # Errors
    /// Where the records cannot be reached; so in all below.
    fn balance(&self, account: NodeId) -> Result<Tokens, Self::Error>;
    /// The number of the newest order of an account's that happened: 0, where there was none.
    ///
    /// # Errors
    /// As above.
    fn sequence(&self, account: NodeId) -> Result<u64, Self::Error>;
    /// The entry that an account's order made, where these records keep it.
    ///
    /// # Errors
    /// As above.
    fn ordered(&self, account: NodeId, sequence: u64) -> Result<Option<Entry>, Self::Error>;
    /// What is kept under a key, as [`crate::fact::Fact`] encodes both.
    ///
    /// # Errors
    /// As above.
    fn fact(&self, place: &[u8]) -> Result<Option<Vec<u8>>, Self::Error>;
    /// A channel's record.
    ///
    /// # Errors
    /// As above.
    fn channel(&self, id: ChannelId) -> Result<Option<Channel>, Self::Error>;
    /// The highest nonce of the channels this payer opened for this payee.
    ///
    /// # Errors
    /// As above.
    fn latest_nonce(&self, payer: NodeId, payee: NodeId) -> Result<Option<u64>, Self::Error>;
    /// The root of the log as it was when it had so many entries; `None` where it has fewer.
    ///
    /// # Errors
    /// As above.
    fn root_at(&self, size: u64) -> Result<Option<Hash>, Self::Error>;

    /// Keeps the running totals.
    fn set_totals(&mut self, totals: Totals);
    /// Keeps a balance.
    ///
    /// # Errors
    /// As above.
    fn set_balance(&mut self, account: NodeId, balance: Tokens) -> Result<(), Self::Error>;
    /// Keeps a value under a key.
    ///
    /// # Errors
    /// As above.
    fn set_fact(&mut self, place: &[u8], value: &[u8]) -> Result<(), Self::Error>;
    /// Keeps a channel's record.
    ///
    /// # Errors
    /// As above.
    fn set_channel(&mut self, id: ChannelId, channel: Channel) -> Result<(), Self::Error>;
    /// Appends to the log. The entry's time becomes the newest, and its order, if it has one, its account's newest.
    ///
    /// # Errors
    /// As above.
    fn append(&mut self, entry: &Entry) -> Result<(), Self::Error>;
}

/// Where all tokens are. Kept as running sums: `held` moves with each write of a balance and `locked` with each write of
/// a channel, voucher or pool, so a rule that books one side only shows at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// All that was ever minted.
    pub minted: Tokens,
    /// All that was ever unmade.
    pub burned: Tokens,
    /// The sum of all balances.
    pub held: Tokens,
    /// The sum of what is locked in channels and vouchers, and of what shares have earned and nobody has taken out.
    pub locked: Tokens,
}

impl Totals {
    /// Whether every token that was minted and not burned is somewhere, and no other.
    #[must_use]
    pub fn conserved(&self) -> bool {
        let sum = self.held.checked_add(self.locked).and_then(|kept| kept.checked_add(self.burned));
        sum == Some(self.minted)
    }
}

/// Tokens were made or lost: a bug in the rules, or a store that someone else wrote to. Nothing may be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "{} minted, but {} held, {} locked and {} burned",
    totals.minted, totals.held, totals.locked, totals.burned
)]
pub struct NotConserved {
    /// As they would have been.
    pub totals: Totals,
}
