//! The record of one channel.

use metering::Tokens;
use serde::{Deserialize, Serialize};

use crate::UnixTime;

/// Tokens a payer locked that only one payee can redeem, by receipts.
///
/// It is named by its `ChannelId`, never deleted and never reset: what was redeemed once stays redeemed. On a chain it is one
/// storage slot: deposit u96, redeemed u96, exit time u40.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Channel {
    /// All that was ever locked in it.
    pub deposit: Tokens,
    /// All that was ever paid out of it to the payee: the amount of the highest receipt redeemed.
    pub redeemed: Tokens,
    /// How far it is on its way to its end.
    pub phase: Phase,
}

/// How far a channel is on its way to its end. It only moves downwards in this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// In use.
    Open,
    /// The payer has given notice. Receipts are still redeemed.
    Closing {
        /// From when on the payer can take back what is left.
        exit: UnixTime,
    },
    /// What was left went back to the payer. It stays as a record.
    Closed,
}

impl Channel {
    /// A channel with `deposit` locked in it.
    #[must_use]
    pub const fn open(deposit: Tokens) -> Self {
        Self { deposit, redeemed: Tokens::ZERO, phase: Phase::Open }
    }

    /// The tokens in it: neither paid out nor given back.
    #[must_use]
    pub const fn locked(&self) -> Tokens {
        match self.phase {
            Phase::Closed => Tokens::ZERO,
            Phase::Open | Phase::Closing { .. } => self.deposit.saturating_sub(self.redeemed),
        }
    }
}
