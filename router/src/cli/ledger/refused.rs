//! What went wrong, in words of people, and what they can do about it.

use ledger_client::{EmbeddedError, Error, Refusal, RemoteError};

use super::with_sources;
use crate::cli::Failure;
use crate::cli::table::money;
use crate::control::Unit;

/// The failure, with amounts in the ledger's token.
pub(super) fn failure_in(unit: &Unit, error: Error) -> Failure {
    match error.refusal() {
        Some(refusal) => Failure::new(said(&refusal, unit), next_step(&refusal)),
        None => failure(error),
    }
}

/// The failure, where no amount is in it.
pub(super) fn failure(error: Error) -> Failure {
    let next = match &error {
        Error::Refused(refusal) => next_step(refusal),
        Error::Unavailable(unavailable) if clock_is_ahead(unavailable.reason.as_ref()) => CLOCK_IS_AHEAD,
        Error::Unavailable(unavailable) if unavailable.retry => "try again in a moment",
        Error::NoKey => "name the key file of the account that this is done for",
        Error::Unavailable(unavailable) => match unavailable.reason.downcast_ref() {
            Some(remote) => served_step(remote),
            None => "name the ledger's file with --path; `waybill ledger create` makes a new one",
        },
    };
    Failure::new(with_sources(&error), next)
}

/// What to do where a served ledger, or what is kept of it here, cannot be used.
const fn served_step(error: &RemoteError) -> &'static str {
    match error {
        RemoteError::Client(_) => "see whether --url is right; if it is, tell whoever serves the ledger",
        RemoteError::OtherLedger { .. } => "name the --url and the --ledger-key that `waybill ledger serve` says there",
        RemoteError::Contradiction { .. } => {
            "do not pay or accept anything on it until other members have compared what they see"
        }
        RemoteError::TooManyChannels { .. } => "name the other end of the channel that is meant",
        RemoteError::Distrusted { .. } => {
            "show that file to others of the community; remove it once you trust the ledger again"
        }
        RemoteError::InUse { .. } => "wait for the other program, or name another directory with --state",
        RemoteError::Io { .. } => "name a directory that may be written to with --state",
        RemoteError::Damaged { .. } => "move that file away, or name another directory with --state",
    }
}

const CLOCK_IS_AHEAD: &str = "look at `date`; if it is right, do the same with --accept-time; if not, set the clock first: an entry \
                              that is too late ends every notice, and can never be taken back";

fn clock_is_ahead(reason: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    reason.downcast_ref().is_some_and(|error| matches!(error, EmbeddedError::ClockAhead { .. }))
}

/// What the rule says, with amounts and times as people write them, and the rule's name for whoever looks it up.
pub(super) fn said(refusal: &Refusal, unit: &Unit) -> String {
    #[expect(clippy::wildcard_enum_match_arm, reason = "most rules have no amount or time in their words")]
    let words = match refusal {
        Refusal::InsufficientBalance { account, balance, amount } => {
            format!("{account} holds {}, not {}", money(*balance, unit), money(*amount, unit))
        }
        Refusal::OrderSignatureInvalid { account } => format!("this key does not sign for {account} on this ledger"),
        Refusal::VoucherStillGood { until, now } => {
            format!("the voucher is good until {}, and it is {}", until.utc(), now.utc())
        }
        Refusal::MembershipOver { until, now } => {
            format!("the membership would end at {}, and it is {}", until.utc(), now.utc())
        }
        Refusal::EnrolmentExpired { expires, now } => {
            format!("the enrolment ended at {}, and it is {}", expires.utc(), now.utc())
        }
        other => other.to_string(),
    };
    format!("{words} ({})", refusal.rule())
}

#[expect(clippy::wildcard_enum_match_arm, reason = "most rules say by themselves what to do")]
fn next_step(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::OrderSignatureInvalid { .. } => {
            "name the key file that signs for it; `waybill ledger member show` says so where it was changed"
        }
        Refusal::NotTreasurer { .. } => {
            "only the key the ledger was created with does this; name its file with --treasurer"
        }
        Refusal::NotIssuer { .. } => {
            "only an issuer does this; the treasurer makes one with `waybill ledger appoint --role issuer`"
        }
        Refusal::NotMember { .. } => {
            "an issuer takes it in first: `waybill community renew`, or an invitation and `waybill join`"
        }
        Refusal::NameTaken { .. } => "choose another one; `waybill names list` shows those that are taken",
        Refusal::UnknownName => "`waybill names list` shows those that somebody has",
        Refusal::NotNameHolder { .. } => {
            "only whoever has it gives it up, and an issuer takes it back, with --issuer; `waybill names show` says whose it is"
        }
        Refusal::NoStanding { .. } => "let it be taken in as a member first, or be given a token",
        Refusal::InsufficientBalance { .. } => "take less, or get some first; see `waybill ledger account`",
        Refusal::AmountIsZero => "name an amount of at least one unit",
        Refusal::SameAccount { .. } => "name another account with --to",
        Refusal::UnknownVoucher => "see with `waybill ledger show` whether this is the ledger that it was issued on",
        Refusal::VoucherAlreadySpent => "`waybill ledger voucher check` says when, and whose account it went to",
        Refusal::VoucherStillGood { .. } => "wait until then; with the paper it can be redeemed before",
        Refusal::MembershipOver { .. } => "name a time to come with --until, such as 365d",
        Refusal::MembershipRevoked { .. } => "only an issuer takes it in again, with `waybill ledger member add`",
        Refusal::UnknownEnrolment => {
            "see with `waybill ledger show` whether this is the community that the code is for"
        }
        Refusal::EnrolmentAlreadyUsed | Refusal::EnrolmentWithdrawn | Refusal::EnrolmentExpired { .. } => {
            "ask an issuer for another code"
        }
        Refusal::EnrolmentClaimInvalid => "the code is for another community, or another key; ask an issuer for one",
        Refusal::SharesAlreadyIssued | Refusal::UnknownShares | Refusal::InsufficientShares { .. } => {
            "see who holds what with `waybill ledger shares show`"
        }
        Refusal::NothingToClaim => "wait until the router was paid; see `waybill ledger shares show`",
        Refusal::SignerUnchanged { .. } => "nothing is left to do: this key signs for the account",
        _ => "nothing was changed; see `waybill ledger show`",
    }
}

#[cfg(test)]
mod tests {
    use ledger_client::UnixTime;
    use metering::{NodeId, Tokens};

    use super::*;

    #[test]
    fn refusal_is_said_in_tokens_and_dates() {
        let unit = Unit { symbol: "WAY".to_owned(), decimals: 2 };
        let [balance, amount] = [150, 200].map(|units| Tokens::new(units).unwrap());
        let poor = Refusal::InsufficientBalance { account: NodeId([7; 20]), balance, amount };
        assert!(said(&poor, &unit).ends_with("holds 1.50 WAY, not 2.00 WAY (InsufficientBalance)"));
        let good = Refusal::VoucherStillGood { until: UnixTime::from_seconds(86_400), now: UnixTime::default() };
        assert!(said(&good, &unit).starts_with("the voucher is good until 1970-01-02 00:00:00 UTC"));
    }
}
