//! What can be asked of the ledger.

use metering::{ChannelId, NodeId, Receipt, Tokens, Unverified};

/// One thing asked of the ledger. [`crate::rules::execute`] answers with an entry or a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Makes tokens. The treasurer's alone.
    Mint {
        /// Who asks.
        by: NodeId,
        /// Who gets them.
        to: NodeId,
        /// How many.
        amount: Tokens,
    },
    /// Gives tokens away.
    Transfer {
        /// Who gives.
        from: NodeId,
        /// Who gets them.
        to: NodeId,
        /// How many.
        amount: Tokens,
    },
    /// Locks tokens for one payee, in a channel with the pair's next nonce.
    OpenChannel {
        /// Whose tokens.
        payer: NodeId,
        /// Who alone can redeem them.
        payee: NodeId,
        /// How many.
        deposit: Tokens,
    },
    /// Locks more tokens in an open channel.
    TopUp {
        /// Which.
        channel: ChannelId,
        /// How many more.
        amount: Tokens,
    },
    /// Pays the payee `amount - already redeemed`, once. Anyone may bring a receipt: it can only pay its payee.
    Redeem {
        /// The payer's signed statement.
        receipt: Receipt<Unverified>,
    },
    /// Gives the payee notice that the payer wants what is left.
    StartClose {
        /// Which.
        channel: ChannelId,
    },
    /// Gives the payer what is left when the notice is over. Anyone may ask: it can only pay the payer.
    Finalize {
        /// Which.
        channel: ChannelId,
    },
    /// Ends the channel at once: the payee has `total` of it, cumulative as in a receipt, the payer the rest.
    MutualClose {
        /// Which.
        channel: ChannelId,
        /// All that the payee ever gets out of this channel.
        total: Tokens,
    },
}

impl Command {
    /// The accounts in whose name this is done, and who must all have agreed. None where the command carries its own
    /// proof or can harm nobody.
    #[must_use]
    pub fn principals(&self) -> Vec<NodeId> {
        match self {
            Self::Mint { by, .. } => vec![*by],
            Self::Transfer { from, .. } => vec![*from],
            Self::OpenChannel { payer, .. } => vec![*payer],
            Self::TopUp { channel, .. } | Self::StartClose { channel } => vec![channel.payer],
            Self::MutualClose { channel, .. } => vec![channel.payer, channel.payee],
            Self::Redeem { .. } | Self::Finalize { .. } => Vec::new(),
        }
    }
}
