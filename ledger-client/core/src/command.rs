//! What can be asked of the ledger.

use metering::{ChannelId, Close, NodeId, Receipt, Signature, Tokens, Unverified};

use crate::voucher::Claim;
use crate::{Order, UnixTime};

/// One thing asked of the ledger. [`crate::rules::execute`] answers with an entry or a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Does what an account commands, signed by it.
    Order(Order<Unverified>),
    /// Pays the payee `amount - already redeemed`, once. Anyone may bring a receipt: it carries the payer's signature, and
    /// can only pay its payee.
    Redeem {
        /// The payer's signed statement.
        receipt: Receipt<Unverified>,
    },
    /// Gives a voucher's tokens to whom its bearer names, once. Anyone may bring a claim: it carries the proof that its author
    /// knows the voucher's secret.
    RedeemVoucher {
        /// The bearer's signed statement.
        claim: Claim<Unverified>,
    },
    /// Gives the payer what is left when the notice is over. Anyone may ask: it can only pay the payer.
    Finalize {
        /// Which.
        channel: ChannelId,
    },
}

/// What only an account can command: the ledger does it for an [`Order`] that the account has signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Makes tokens. The treasurer's alone.
    Mint {
        /// Who gets them.
        to: NodeId,
        /// How many.
        amount: Tokens,
    },
    /// Unmakes tokens of the account's own.
    Burn {
        /// How many.
        amount: Tokens,
    },
    /// Gives tokens of the account's own away.
    Transfer {
        /// Who gets them.
        to: NodeId,
        /// How many.
        amount: Tokens,
    },
    /// Locks tokens of the account's own for one payee, in a channel with the pair's next nonce.
    OpenChannel {
        /// Who alone can redeem them.
        payee: NodeId,
        /// How many.
        deposit: Tokens,
    },
    /// Locks more tokens in an open channel. The payer's alone.
    TopUp {
        /// Which.
        channel: ChannelId,
        /// How many more.
        amount: Tokens,
    },
    /// Gives the payee notice that the payer wants what is left. The payer's alone.
    StartClose {
        /// Which.
        channel: ChannelId,
    },
    /// Ends a channel at once, as its payer has offered: the payee has the offer's total of it, cumulative as in a receipt,
    /// the payer the rest. The payee's alone.
    MutualClose {
        /// The payer's signed offer.
        close: Close<Unverified>,
    },
    /// Locks tokens of the account's own for whoever knows a secret.
    IssueVoucher {
        /// The account that the secret would be the key of. It names the voucher.
        voucher: NodeId,
        /// How many.
        amount: Tokens,
        /// From when on the account can take them back.
        until: UnixTime,
    },
    /// Takes back what nobody has claimed. The voucher's issuer's alone.
    ReclaimVoucher {
        /// Which.
        voucher: NodeId,
    },
    /// Has what the account's channels pay it belong to whoever holds its shares. At first the account holds them all.
    IssueShares {
        /// How many there are, for ever.
        shares: u64,
    },
    /// Gives shares of a router away.
    TransferShares {
        /// Whose revenue they are of.
        router: NodeId,
        /// Who gets them.
        to: NodeId,
        /// How many.
        shares: u64,
    },
    /// Takes out all that the account's shares of a router have earned.
    ClaimRevenue {
        /// Whose revenue.
        router: NodeId,
    },
    /// Has another key sign for the account from the next order on.
    ChangeSigner {
        /// The account that the new key would be of.
        signer: NodeId,
        /// The new key's [`crate::signer::consent`].
        consent: Signature,
    },
}
