//! What can be asked of the ledger.

use metering::json::word;
use metering::{ChannelId, Close, NodeId, Receipt, Signature, Tokens, Unverified};
use serde::{Deserialize, Serialize};

use crate::name::Name;
use crate::registry::Registration;
use crate::role::Role;
use crate::voucher::Claim;
use crate::{Head, Order, UnixTime};

/// One thing asked of the ledger. [`crate::rules::execute`] answers with an entry or a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
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
    /// Locks more tokens in an open channel whose receipts the account's present key signs. The payer's alone.
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
        /// The account that the secret would be the key of. Together with the issuer it names the voucher.
        voucher: NodeId,
        /// How many.
        amount: Tokens,
        /// From when on the account can take them back.
        until: UnixTime,
    },
    /// Takes back what nobody has claimed of a voucher of the account's own.
    ReclaimVoucher {
        /// Which.
        voucher: NodeId,
    },
    /// Has what the account's channels pay it belong to whoever holds its shares. At first the account holds them all.
    IssueShares {
        /// How many there are, for ever.
        shares: u64,
    },
    /// Gives shares of a router away. What they have earned stays the account's, but for its part of a unit, which goes along
    /// with its last share.
    TransferShares {
        /// Whose revenue they are of.
        router: NodeId,
        /// Who gets them.
        to: NodeId,
        /// How many.
        shares: u64,
    },
    /// Takes out all that the account's shares of a router have earned, in whole units.
    ClaimRevenue {
        /// Whose revenue.
        router: NodeId,
    },
    /// Gives an account a role. The treasurer's alone.
    Appoint {
        /// Which.
        role: Role,
        /// Whom.
        to: NodeId,
    },
    /// Takes a role away. The treasurer's alone.
    Dismiss {
        /// Which.
        role: Role,
        /// From whom.
        from: NodeId,
    },
    /// Takes an account into the community, or lets it stay for longer or shorter. An issuer's alone.
    IssueMembership {
        /// Whom.
        to: NodeId,
        /// When it ends.
        until: UnixTime,
    },
    /// Puts an account out of the community. An issuer's alone.
    RevokeMembership {
        /// Whom.
        of: NodeId,
    },
    /// Offers a membership to the first account that a secret signs for. An issuer's alone.
    OfferEnrolment {
        /// The account that the secret would be the key of. Together with the issuer it names the enrolment.
        enrolment: NodeId,
        /// When the membership ends.
        until: UnixTime,
        /// When the offer ends.
        expires: UnixTime,
    },
    /// Takes an offer back that nobody has taken, whoever made it. An issuer's alone.
    WithdrawEnrolment {
        /// Whose offer.
        issuer: NodeId,
        /// Which of that issuer's.
        enrolment: NodeId,
    },
    /// Takes an offer: the account becomes a member.
    Enrol {
        /// Whose offer.
        issuer: NodeId,
        /// Which of that issuer's.
        enrolment: NodeId,
        /// The secret's [`crate::membership::claim`] for the account.
        claim: Signature,
    },
    /// Says in public what the account runs, and on what terms, in place of what it said before. A member's alone.
    Register {
        /// What and on what terms.
        registration: Registration,
    },
    /// Takes back what the account said it runs.
    Unregister,
    /// Takes a name of the mesh for the account's node. A member's alone, and one for each.
    ClaimName {
        /// Which.
        name: Name,
        /// The node's WireGuard key: its address follows from it.
        #[serde(with = "word")]
        wireguard: [u8; 32],
        /// The [`crate::name::claim`] of the key that the account is named after.
        claim: Signature,
    },
    /// Gives a name up, or, for an issuer, takes it back from whoever has it.
    ReleaseName {
        /// Which.
        name: Name,
    },
    /// States that the account has replayed the log up to a head that it had, and found that every rule was kept. An auditor's
    /// alone.
    Attest {
        /// Up to where.
        head: Head,
    },
    /// Does nothing but use its sequence up: another order with this number, refused before and kept by somebody, can never
    /// happen.
    Skip,
    /// Has another key sign for the account from the next order on.
    ChangeSigner {
        /// The account that the new key would be of.
        signer: NodeId,
        /// The new key's [`crate::signer::consent`] to this order.
        consent: Signature,
    },
}
