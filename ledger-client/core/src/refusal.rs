//! The rules, each under the name a refusal gives it.

use metering::{NodeId, Tokens};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{MAX_SUPPLY, UnixTime};

/// The rule that a command would have broken. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum Refusal {
    /// Nothing is done in an account's name that it did not sign for this ledger.
    #[error("the order is not signed by {account} for this ledger")]
    OrderSignatureInvalid {
        /// In whose name.
        account: NodeId,
    },
    /// Another order of the account's has this number, and happened.
    #[error("{account} has used {sequence} for another order; its next is {next}")]
    SequenceAlreadyUsed {
        /// In whose name.
        account: NodeId,
        /// The order's number.
        sequence: u64,
        /// The account's next number.
        next: u64,
    },
    /// An account's orders happen in order, without a gap.
    #[error("{account} has not used {next} yet, and this order is {sequence}")]
    SequenceOutOfOrder {
        /// In whose name.
        account: NodeId,
        /// The order's number.
        sequence: u64,
        /// The account's next number.
        next: u64,
    },
    /// Only the payer adds to a channel or gives notice.
    #[error("{by} is not the payer of this channel")]
    NotPayer {
        /// Who asked.
        by: NodeId,
    },
    /// Only the payee takes the payer's offer to close.
    #[error("{by} is not the payee of this channel")]
    NotPayee {
        /// Who asked.
        by: NodeId,
    },
    /// The payer did not sign this offer to close for this ledger.
    #[error("the offer to close is not signed by the channel's payer for this ledger")]
    CloseSignatureInvalid,
    /// The new key has not agreed to sign for the account.
    #[error("{signer} has not signed that it signs for the account")]
    ConsentInvalid {
        /// The account that the new key would be of.
        signer: NodeId,
    },
    /// The account has this key already.
    #[error("{signer} signs for the account already")]
    SignerUnchanged {
        /// The account that the key is of.
        signer: NodeId,
    },
    /// A secret is for one of an account's vouchers.
    #[error("there is a voucher {voucher} of this account's already")]
    VoucherExists {
        /// Which.
        voucher: NodeId,
    },
    /// The account named as the issuer has issued no voucher for this secret.
    #[error("there is no such voucher")]
    UnknownVoucher,
    /// Who claims a voucher's tokens does not know its secret, or not on this ledger.
    #[error("the claim is not signed with the voucher's secret for this ledger")]
    ClaimSignatureInvalid,
    /// A voucher pays once.
    #[error("the voucher is spent")]
    VoucherAlreadySpent,
    /// No voucher is taken back before the time its paper names.
    #[error("the voucher is good until {until}, and it is {now}")]
    VoucherStillGood {
        /// Until when.
        until: UnixTime,
        /// When it was asked.
        now: UnixTime,
    },
    /// A router's shares are issued once.
    #[error("the account has issued its shares already")]
    SharesAlreadyIssued,
    /// More shares than parts of a unit are counted in: see [`crate::share::MAX_SHARES`].
    #[error("{shares} shares are more than {}", crate::share::MAX_SHARES)]
    TooManyShares {
        /// How many were asked for.
        shares: u64,
    },
    /// This account has issued no shares.
    #[error("there are no shares of this router")]
    UnknownShares,
    /// Nobody gives more shares than they hold.
    #[error("{held} shares are held, not {shares}")]
    InsufficientShares {
        /// How many there are to give.
        held: u64,
        /// How many were asked for.
        shares: u64,
    },
    /// The account's shares have earned no whole unit since the last time.
    #[error("there is nothing to take out")]
    NothingToClaim,
    /// Only an issuer takes members in and puts them out.
    #[error("{by} is not an issuer of this ledger")]
    NotIssuer {
        /// Who asked.
        by: NodeId,
    },
    /// Only an auditor attests.
    #[error("{by} is not an auditor of this ledger")]
    NotAuditor {
        /// Who asked.
        by: NodeId,
    },
    /// The account has this role.
    #[error("{account} has this role already")]
    RoleAlreadyHeld {
        /// Whose.
        account: NodeId,
    },
    /// The account has not this role.
    #[error("{account} does not have this role")]
    RoleNotHeld {
        /// Whose.
        account: NodeId,
    },
    /// The account does not belong to the community, or no longer.
    #[error("{account} is not a member")]
    NotMember {
        /// Who.
        account: NodeId,
    },
    /// Whoever makes a key has an account, and could fill the log for nothing: what costs nothing is done for those who have
    /// ordered something before, hold tokens, have a role or are members.
    #[error("{account} holds nothing and is no member")]
    NoStanding {
        /// Who.
        account: NodeId,
    },
    /// A membership that ends before it begins.
    #[error("the membership would end at {until}, and it is {now}")]
    MembershipOver {
        /// When it would end.
        until: UnixTime,
        /// When it was asked.
        now: UnixTime,
    },
    /// An issuer has put the account out: only an issuer takes it in again.
    #[error("{account} was put out of the community")]
    MembershipRevoked {
        /// Who.
        account: NodeId,
    },
    /// A secret is for one of an issuer's enrolments.
    #[error("there is an enrolment of this issuer's for this secret already")]
    EnrolmentExists,
    /// The issuer has offered nothing for this secret.
    #[error("there is no such enrolment")]
    UnknownEnrolment,
    /// Who enrols does not know the enrolment's secret, or not for this account and ledger.
    #[error("the claim is not signed with the enrolment's secret for this account and ledger")]
    EnrolmentClaimInvalid,
    /// A secret enrols once.
    #[error("the enrolment was taken before")]
    EnrolmentAlreadyUsed,
    /// An issuer has taken the offer back.
    #[error("the enrolment was withdrawn")]
    EnrolmentWithdrawn,
    /// The offer has ended.
    #[error("the enrolment ended at {expires}, and it is {now}")]
    EnrolmentExpired {
        /// When it ended.
        expires: UnixTime,
        /// When it was asked.
        now: UnixTime,
    },
    /// The account has said nothing that it could take back.
    #[error("{account} is not in the registry")]
    NotRegistered {
        /// Who.
        account: NodeId,
    },
    /// The key that the account is named after has not signed that the name is its node's.
    #[error("the claim to the name is not signed by the key that {account} is named after, for this ledger")]
    NameClaimInvalid {
        /// Who asked.
        account: NodeId,
    },
    /// One name for each account: it costs nothing.
    #[error("{account} has a name already")]
    NameAlreadyHeld {
        /// Whose.
        account: NodeId,
    },
    /// First come, first served, as long as who came first is a member, and for [`crate::name::KEPT_S`] longer.
    #[error("{account} has this name")]
    NameTaken {
        /// Who came first.
        account: NodeId,
    },
    /// Nobody has the name.
    #[error("nobody has this name")]
    UnknownName,
    /// A name is given up by whoever has it, or taken back by an issuer.
    #[error("{by} neither has this name nor is an issuer of this ledger")]
    NotNameHolder {
        /// Who asked.
        by: NodeId,
    },
    /// Nobody has replayed what is not there yet.
    #[error("the log has fewer than {size} entries")]
    HeadBeyondLog {
        /// Of how many the head is.
        size: u64,
    },
    /// Whoever replayed this replayed another log.
    #[error("the log had another root when it had {size} entries")]
    HeadDiffers {
        /// Of how many entries the head is.
        size: u64,
    },
    /// Nothing to mint, transfer or lock.
    #[error("the amount is zero")]
    AmountIsZero,
    /// Only the treasurer mints.
    #[error("{by} is not the treasurer of this ledger")]
    NotTreasurer {
        /// Who asked.
        by: NodeId,
    },
    /// A supply that the store cannot count: see [`MAX_SUPPLY`].
    #[error("{minted} base units exist and {amount} more would pass {MAX_SUPPLY}")]
    SupplyTooLarge {
        /// The supply as it is.
        minted: Tokens,
        /// What should be added.
        amount: Tokens,
    },
    /// Nobody pays oneself: it would move nothing and look like income.
    #[error("{account} would pay itself")]
    SameAccount {
        /// Both ends.
        account: NodeId,
    },
    /// Nobody spends more than they hold.
    #[error("{account} holds {balance}, not {amount}")]
    InsufficientBalance {
        /// Whose.
        account: NodeId,
        /// What it holds, in base units.
        balance: Tokens,
        /// What is needed, in base units.
        amount: Tokens,
    },
    /// The pair has used all 2^63 nonces.
    #[error("this pair of accounts has no channel number left")]
    NoncesExhausted,
    /// No channel was opened under this id.
    #[error("there is no such channel")]
    UnknownChannel,
    /// The channel has ended.
    #[error("the channel is closed")]
    ChannelClosed,
    /// Notice was given before; a channel that ends takes no deposit and no second notice.
    #[error("the channel is closing, with its end at {exit}")]
    CloseAlreadyStarted {
        /// When its notice is over.
        exit: UnixTime,
    },
    /// A channel ends by notice or by agreement, not before.
    #[error("no notice was given for this channel")]
    CloseNotStarted,
    /// Receipts on the channel need a key that the account has given up: who holds it would spend what is added.
    #[error("receipts on this channel are signed by {signer}, which does not sign for the payer")]
    ChannelSignerChanged {
        /// The account that the channel's key is of.
        signer: NodeId,
    },
    /// No deposit leaves before the notice ends.
    #[error("the notice ends at {exit}, and it is {now}")]
    NoticeNotOver {
        /// When it ends.
        exit: UnixTime,
        /// When it was asked.
        now: UnixTime,
    },
    /// The payer did not sign this receipt for this ledger.
    #[error("the receipt is not signed by the channel's payer for this ledger")]
    ReceiptSignatureInvalid,
    /// Nothing is redeemed twice.
    #[error("a receipt over {amount} was redeemed before")]
    ReceiptAlreadyRedeemed {
        /// The receipt's amount, which is all that was redeemed so far.
        amount: Tokens,
    },
    /// Amounts are cumulative: a lower one is older.
    #[error("{redeemed} is redeemed already, more than this total of {total}")]
    TotalWentBackwards {
        /// What was asked for.
        total: Tokens,
        /// All that was redeemed so far.
        redeemed: Tokens,
    },
    /// A channel pays only what was locked in it.
    #[error("the total of {total} is more than the deposit of {deposit}")]
    TotalExceedsDeposit {
        /// What was asked for.
        total: Tokens,
        /// What was locked.
        deposit: Tokens,
    },
}

impl Refusal {
    /// The rule's name, for programs.
    #[must_use]
    pub const fn rule(&self) -> &'static str {
        match self {
            Self::OrderSignatureInvalid { .. } => "OrderSignatureInvalid",
            Self::SequenceAlreadyUsed { .. } => "SequenceAlreadyUsed",
            Self::SequenceOutOfOrder { .. } => "SequenceOutOfOrder",
            Self::NotPayer { .. } => "NotPayer",
            Self::NotPayee { .. } => "NotPayee",
            Self::CloseSignatureInvalid => "CloseSignatureInvalid",
            Self::ConsentInvalid { .. } => "ConsentInvalid",
            Self::SignerUnchanged { .. } => "SignerUnchanged",
            Self::VoucherExists { .. } => "VoucherExists",
            Self::UnknownVoucher => "UnknownVoucher",
            Self::ClaimSignatureInvalid => "ClaimSignatureInvalid",
            Self::VoucherAlreadySpent => "VoucherAlreadySpent",
            Self::VoucherStillGood { .. } => "VoucherStillGood",
            Self::SharesAlreadyIssued => "SharesAlreadyIssued",
            Self::TooManyShares { .. } => "TooManyShares",
            Self::UnknownShares => "UnknownShares",
            Self::InsufficientShares { .. } => "InsufficientShares",
            Self::NothingToClaim => "NothingToClaim",
            Self::NotIssuer { .. } => "NotIssuer",
            Self::NotAuditor { .. } => "NotAuditor",
            Self::RoleAlreadyHeld { .. } => "RoleAlreadyHeld",
            Self::RoleNotHeld { .. } => "RoleNotHeld",
            Self::NotMember { .. } => "NotMember",
            Self::NoStanding { .. } => "NoStanding",
            Self::MembershipOver { .. } => "MembershipOver",
            Self::MembershipRevoked { .. } => "MembershipRevoked",
            Self::EnrolmentExists => "EnrolmentExists",
            Self::UnknownEnrolment => "UnknownEnrolment",
            Self::EnrolmentClaimInvalid => "EnrolmentClaimInvalid",
            Self::EnrolmentAlreadyUsed => "EnrolmentAlreadyUsed",
            Self::EnrolmentWithdrawn => "EnrolmentWithdrawn",
            Self::EnrolmentExpired { .. } => "EnrolmentExpired",
            Self::NotRegistered { .. } => "NotRegistered",
            Self::NameClaimInvalid { .. } => "NameClaimInvalid",
            Self::NameAlreadyHeld { .. } => "NameAlreadyHeld",
            Self::NameTaken { .. } => "NameTaken",
            Self::UnknownName => "UnknownName",
            Self::NotNameHolder { .. } => "NotNameHolder",
            Self::HeadBeyondLog { .. } => "HeadBeyondLog",
            Self::HeadDiffers { .. } => "HeadDiffers",
            Self::AmountIsZero => "AmountIsZero",
            Self::NotTreasurer { .. } => "NotTreasurer",
            Self::SupplyTooLarge { .. } => "SupplyTooLarge",
            Self::SameAccount { .. } => "SameAccount",
            Self::InsufficientBalance { .. } => "InsufficientBalance",
            Self::NoncesExhausted => "NoncesExhausted",
            Self::UnknownChannel => "UnknownChannel",
            Self::ChannelClosed => "ChannelClosed",
            Self::CloseAlreadyStarted { .. } => "CloseAlreadyStarted",
            Self::CloseNotStarted => "CloseNotStarted",
            Self::ChannelSignerChanged { .. } => "ChannelSignerChanged",
            Self::NoticeNotOver { .. } => "NoticeNotOver",
            Self::ReceiptSignatureInvalid => "ReceiptSignatureInvalid",
            Self::ReceiptAlreadyRedeemed { .. } => "ReceiptAlreadyRedeemed",
            Self::TotalWentBackwards { .. } => "TotalWentBackwards",
            Self::TotalExceedsDeposit { .. } => "TotalExceedsDeposit",
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn rulebook_says_when_each_refusal_is_given() {
        let rulebook = include_str!("../../RULEBOOK.md");
        let names = include_str!("refusal.rs").lines().filter_map(|line| line.trim().strip_prefix("Self::"));
        let names: Vec<&str> = names.filter_map(|line| line.strip_suffix("\",")?.split('"').nth(1)).collect();
        assert!(names.len() > 40, "{names:?}");
        for name in names {
            assert!(rulebook.contains(&format!("`{name}`")), "{name} is not in RULEBOOK.md");
        }
    }
}
