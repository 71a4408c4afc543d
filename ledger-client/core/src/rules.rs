//! The rules.

use metering::{ChannelId, Close, NodeId, Receipt, Signature, Tokens, Unverified};
use thiserror::Error;

use crate::fact::Fact;
use crate::membership::{Enrolment, Membership, secret_hash};
use crate::records::NotConserved;
use crate::registry::{Listing, Registration};
use crate::role::{Held, Role};
use crate::share::{Holding, MAX_SHARES, Pool};
use crate::signer::{ChannelSigner, Signer, verify_consent};
use crate::voucher::{Claim, Voucher};
use crate::{Channel, Command, Entry, Event, Hash, Order, Phase, Records, Refusal, Request, Totals, UnixTime};

/// The largest supply, in base units: SQLite counts in 63 bits. No balance, deposit or total can be larger.
pub const MAX_SUPPLY: u64 = i64::MAX as u64;

/// Why a request did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ExecuteError<E> {
    /// A rule forbids it. Nothing was written.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Tokens were made or lost. The caller throws all writes of this request away.
    #[error(transparent)]
    NotConserved(#[from] NotConserved),
    /// The records hold something that the rules did not write. The caller throws all writes of this request away.
    #[error("a record does not read")]
    Unreadable,
    /// The records could not be reached. The caller throws all writes of this request away.
    #[error("the records cannot be reached")]
    Records(E),
}

/// Answers one request: authorises it, decides it, books it, checks that no token was made or lost, and appends the entry
/// that says what happened. An order that has happened before is answered with the entry it made then.
///
/// `now` is the shell's clock. The ledger's time never runs backwards: where `now` is before the newest entry, that
/// entry's time is taken, so a clock that fell back to 1970 cannot cut a notice short. A clock that jumps far ahead
/// ends the notices that run, and holds the ledger's time there, so that later notices end late: nothing in a ledger
/// tells a wrong clock from a long rest, so the shell must not trust a clock that was not set.
///
/// # Errors
/// [`ExecuteError`]
pub fn execute<R: Records>(records: &mut R, now: UnixTime, request: &Request) -> Result<Entry, ExecuteError<R::Error>> {
    if let Request::Order(order) = request
        && let Some(entry) = entry_of(records, order)?
    {
        return Ok(entry);
    }
    perform(records, now, request)
}

/// The entry that this very order made, if it has happened. Whoever asks changes nothing and learns what the log tells
/// everybody, so the signature is not looked at; nor could it be, where the account has another key since.
fn entry_of<R: Records>(records: &R, order: &Order<Unverified>) -> Result<Option<Entry>, ExecuteError<R::Error>> {
    let (account, sequence) = (order.account(), order.seal().sequence);
    if sequence > records.sequence(account).map_err(ExecuteError::Records)? {
        return Ok(None);
    }
    let domain = records.genesis().domain();
    let same = |entry: &Entry| entry.order().is_some_and(|made| made.digest(&domain) == order.digest(&domain));
    Ok(records.ordered(account, sequence).map_err(ExecuteError::Records)?.filter(same))
}

/// Makes a request happen, once: an order that has happened before is refused.
pub(crate) fn perform<R: Records>(
    records: &mut R,
    now: UnixTime,
    request: &Request,
) -> Result<Entry, ExecuteError<R::Error>> {
    authorise(records, request)?;
    let at = now.max(records.time());
    let event = decide(records, at, request)?;
    book(records, &event)?;
    if !records.totals().conserved() {
        return Err(NotConserved { totals: records.totals() }.into());
    }
    let seal = match request {
        Request::Order(order) => Some(order.seal()),
        Request::Redeem { .. } | Request::RedeemVoucher { .. } | Request::Finalize { .. } => None,
    };
    let entry = Entry { at, event, seal };
    records.append(&entry).map_err(ExecuteError::Records)?;
    Ok(entry)
}

/// Whether those who must agree to a request have signed it. The one place that decides this; a signature is checked here
/// however it was checked before.
fn authorise<R: Records>(records: &R, request: &Request) -> Result<(), ExecuteError<R::Error>> {
    let domain = records.genesis().domain();
    match request {
        Request::Order(order) => {
            next_in_sequence(records, order)?;
            let account = order.account();
            let signer = signer_of(records, account)?;
            order.verify(&domain, signer).map_err(|_| Refusal::OrderSignatureInvalid { account })?;
            entitled(records, account, order.command())
        }
        Request::Redeem { receipt } => {
            let signer = channel_signer_of(records, receipt.channel())?;
            receipt.verify_by(&domain, signer).map_err(|_| Refusal::ReceiptSignatureInvalid)?;
            Ok(())
        }
        Request::RedeemVoucher { claim } => {
            claim.verify(&domain).map_err(|_| Refusal::ClaimSignatureInvalid)?;
            Ok(())
        }
        // It can only pay the payer.
        Request::Finalize { .. } => Ok(()),
    }
}

/// The key that signs an account's orders, as the account it would be of.
fn signer_of<R: Records>(records: &R, account: NodeId) -> Result<NodeId, ExecuteError<R::Error>> {
    Ok(fact::<R, Signer>(records, &account)?.map_or(account, |Signer(signer)| signer))
}

/// The key that signs receipts on a channel and offers to close it: the one that signed for the payer when it was opened.
fn channel_signer_of<R: Records>(records: &R, channel: ChannelId) -> Result<NodeId, ExecuteError<R::Error>> {
    Ok(fact::<R, ChannelSigner>(records, &channel)?.map_or(channel.payer, |ChannelSigner(signer)| signer))
}

fn fact<R: Records, F: Fact>(records: &R, key: &F::Key) -> Result<Option<F>, ExecuteError<R::Error>> {
    let value = records.fact(&F::place(key)).map_err(ExecuteError::Records)?;
    value.map(|value| F::decode(&value).ok_or(ExecuteError::Unreadable)).transpose()
}

fn set_fact<R: Records, F: Fact>(records: &mut R, key: &F::Key, fact: &F) -> Booked<R> {
    records.set_fact(&F::place(key), &fact.encode()).map_err(ExecuteError::Records)
}

fn next_in_sequence<R: Records>(records: &R, order: &Order<Unverified>) -> Result<(), ExecuteError<R::Error>> {
    let (account, sequence) = (order.account(), order.seal().sequence);
    let next = records.sequence(account).map_err(ExecuteError::Records)?.saturating_add(1);
    if sequence < next {
        return Err(Refusal::SequenceAlreadyUsed { account, sequence, next }.into());
    }
    if sequence > next {
        return Err(Refusal::SequenceOutOfOrder { account, sequence, next }.into());
    }
    Ok(())
}

/// Whether an account may command this at all.
fn entitled<R: Records>(records: &R, by: NodeId, command: &Command) -> Result<(), ExecuteError<R::Error>> {
    match command {
        Command::Mint { .. } | Command::Appoint { .. } | Command::Dismiss { .. }
            if by != records.genesis().treasurer() =>
        {
            Err(Refusal::NotTreasurer { by }.into())
        }
        Command::IssueMembership { .. } | Command::RevokeMembership { .. } | Command::OfferEnrolment { .. }
            if !has_role(records, Role::Issuer, by)? =>
        {
            Err(Refusal::NotIssuer { by }.into())
        }
        Command::Attest { .. } if !has_role(records, Role::Auditor, by)? => Err(Refusal::NotAuditor { by }.into()),
        Command::TopUp { channel, .. } | Command::StartClose { channel } if by != channel.payer => {
            Err(Refusal::NotPayer { by }.into())
        }
        Command::MutualClose { close } if by != close.channel().payee => Err(Refusal::NotPayee { by }.into()),
        Command::MutualClose { close } => {
            let signer = channel_signer_of(records, close.channel())?;
            let verified = close.verify_by(&records.genesis().domain(), signer);
            verified.map_err(|_| Refusal::CloseSignatureInvalid)?;
            Ok(())
        }
        Command::ChangeSigner { signer, consent } => {
            let verified = verify_consent(consent, &records.genesis().domain(), by, *signer);
            verified.map_err(|_| Refusal::ConsentInvalid { signer: *signer })?;
            Ok(())
        }
        // Of one's own, or checked above.
        Command::Mint { .. }
        | Command::Burn { .. }
        | Command::Appoint { .. }
        | Command::Dismiss { .. }
        | Command::IssueMembership { .. }
        | Command::RevokeMembership { .. }
        | Command::OfferEnrolment { .. }
        | Command::Enrol { .. }
        | Command::Register { .. }
        | Command::Unregister
        | Command::Attest { .. }
        | Command::IssueShares { .. }
        | Command::TransferShares { .. }
        | Command::ClaimRevenue { .. }
        | Command::IssueVoucher { .. }
        | Command::ReclaimVoucher { .. }
        | Command::Transfer { .. }
        | Command::OpenChannel { .. }
        | Command::TopUp { .. }
        | Command::StartClose { .. } => Ok(()),
    }
}

type Decision<R> = Result<Event, ExecuteError<<R as Records>::Error>>;

/// What the rules make of a request. Writes nothing.
fn decide<R: Records>(records: &R, at: UnixTime, request: &Request) -> Decision<R> {
    match request {
        Request::Order(order) => obey(records, at, order.account(), order.command()),
        Request::Redeem { receipt } => redeem(records, *receipt),
        Request::RedeemVoucher { claim } => redeem_voucher(records, *claim),
        Request::Finalize { channel } => finalize(records, at, *channel),
    }
}

/// What the rules make of a command in the name of `by`.
fn obey<R: Records>(records: &R, at: UnixTime, by: NodeId, command: &Command) -> Decision<R> {
    match *command {
        Command::Mint { to, amount } => mint(records, by, to, amount),
        Command::Burn { amount } => burn(records, by, amount),
        Command::Transfer { to, amount } => transfer(records, by, to, amount),
        Command::OpenChannel { payee, deposit } => open_channel(records, by, payee, deposit),
        Command::TopUp { channel, amount } => top_up(records, channel, amount),
        Command::StartClose { channel } => start_close(records, at, channel),
        Command::MutualClose { close } => mutual_close(records, close),
        Command::IssueVoucher { voucher, amount, until } => issue_voucher(records, by, voucher, amount, until),
        Command::ReclaimVoucher { voucher } => reclaim_voucher(records, at, by, voucher),
        Command::IssueShares { shares } => issue_shares(records, by, shares),
        Command::TransferShares { router, to, shares } => transfer_shares(records, router, by, to, shares),
        Command::ClaimRevenue { router } => claim_revenue(records, router, by),
        Command::Appoint { role, to } => appoint(records, by, role, to),
        Command::Dismiss { role, from } => dismiss(records, by, role, from),
        Command::IssueMembership { to, until } => {
            lasts(at, until)?;
            Ok(Event::MembershipIssued { by, to, until })
        }
        Command::RevokeMembership { of } => {
            member(records, at, of)?;
            Ok(Event::MembershipRevoked { by, of })
        }
        Command::OfferEnrolment { hash, until, expires } => offer_enrolment(records, at, by, hash, until, expires),
        Command::Enrol { secret } => enrol(records, at, by, secret),
        Command::Register { registration } => {
            member(records, at, by)?;
            Ok(Event::Registered { account: by, registration })
        }
        Command::Unregister => unregister(records, by),
        Command::Attest { head } => Ok(Event::Attested { by, head }),
        Command::ChangeSigner { signer, consent } => change_signer(records, by, signer, consent),
    }
}

fn mint<R: Records>(records: &R, by: NodeId, to: NodeId, amount: Tokens) -> Decision<R> {
    nonzero(amount)?;
    let minted = records.totals().minted;
    match minted.checked_add(amount) {
        Some(supply) if supply.get() <= u128::from(MAX_SUPPLY) => Ok(Event::Minted { by, to, amount }),
        _ => Err(Refusal::SupplyTooLarge { minted, amount }.into()),
    }
}

fn transfer<R: Records>(records: &R, from: NodeId, to: NodeId, amount: Tokens) -> Decision<R> {
    nonzero(amount)?;
    different(from, to)?;
    affordable(records, from, amount)?;
    Ok(Event::Transferred { from, to, amount })
}

fn open_channel<R: Records>(records: &R, payer: NodeId, payee: NodeId, deposit: Tokens) -> Decision<R> {
    nonzero(deposit)?;
    different(payer, payee)?;
    affordable(records, payer, deposit)?;
    let latest = records.latest_nonce(payer, payee).map_err(ExecuteError::Records)?;
    let nonce = next_nonce(latest).ok_or(Refusal::NoncesExhausted)?;
    Ok(Event::ChannelOpened { channel: ChannelId { payer, payee, nonce }, deposit })
}

/// The first channel of a pair has nonce 1. SQLite counts in 63 bits.
fn next_nonce(latest: Option<u64>) -> Option<u64> {
    latest.unwrap_or(0).checked_add(1).filter(|nonce| *nonce <= i64::MAX as u64)
}

fn top_up<R: Records>(records: &R, id: ChannelId, amount: Tokens) -> Decision<R> {
    nonzero(amount)?;
    let (_, phase) = unclosed(records, id)?;
    match phase {
        Unclosed::Open => affordable(records, id.payer, amount)?,
        Unclosed::Closing { exit } => return Err(Refusal::CloseAlreadyStarted { exit }.into()),
    }
    Ok(Event::ToppedUp { channel: id, amount })
}

/// Always open: closing, notice or time do not matter, only whether the channel has ended.
fn redeem<R: Records>(records: &R, receipt: Receipt<Unverified>) -> Decision<R> {
    let (channel, _) = unclosed(records, receipt.channel())?;
    if receipt.amount() == channel.redeemed {
        return Err(Refusal::ReceiptAlreadyRedeemed { amount: receipt.amount() }.into());
    }
    let paid = unpaid(&channel, receipt.amount())?;
    Ok(Event::Redeemed { receipt, paid })
}

fn start_close<R: Records>(records: &R, at: UnixTime, id: ChannelId) -> Decision<R> {
    match unclosed(records, id)? {
        (_, Unclosed::Open) => {
            let exit = at.after(records.genesis().close_notice_s());
            Ok(Event::CloseStarted { channel: id, exit })
        }
        (_, Unclosed::Closing { exit }) => Err(Refusal::CloseAlreadyStarted { exit }.into()),
    }
}

fn finalize<R: Records>(records: &R, at: UnixTime, id: ChannelId) -> Decision<R> {
    match unclosed(records, id)? {
        (_, Unclosed::Open) => Err(Refusal::CloseNotStarted.into()),
        (_, Unclosed::Closing { exit }) if at < exit => Err(Refusal::NoticeNotOver { exit, now: at }.into()),
        (channel, Unclosed::Closing { .. }) => Ok(Event::Finalized { channel: id, refunded: channel.locked() }),
    }
}

fn mutual_close<R: Records>(records: &R, close: Close<Unverified>) -> Decision<R> {
    let (channel, _) = unclosed(records, close.channel())?;
    let paid = unpaid(&channel, close.total())?;
    // Both are at most the deposit: `unpaid` has refused the rest.
    let refunded = channel.deposit.saturating_sub(close.total());
    Ok(Event::MutuallyClosed { close, paid, refunded })
}

fn burn<R: Records>(records: &R, by: NodeId, amount: Tokens) -> Decision<R> {
    nonzero(amount)?;
    affordable(records, by, amount)?;
    Ok(Event::Burned { by, amount })
}

fn issue_voucher<R: Records>(records: &R, by: NodeId, voucher: NodeId, amount: Tokens, until: UnixTime) -> Decision<R> {
    nonzero(amount)?;
    affordable(records, by, amount)?;
    // One that was spent too: its secret has been seen.
    if fact::<R, Voucher>(records, &voucher)?.is_some() {
        return Err(Refusal::VoucherExists { voucher }.into());
    }
    Ok(Event::VoucherIssued { by, voucher, amount, until })
}

/// As long as it was not taken back, a voucher is good, also after its time.
fn redeem_voucher<R: Records>(records: &R, claim: Claim<Unverified>) -> Decision<R> {
    let Voucher { amount, .. } = unspent(records, claim.voucher())?;
    Ok(Event::VoucherRedeemed { claim, amount })
}

fn reclaim_voucher<R: Records>(records: &R, at: UnixTime, by: NodeId, voucher: NodeId) -> Decision<R> {
    let Voucher { issuer, amount, until, .. } = unspent(records, voucher)?;
    if by != issuer {
        return Err(Refusal::NotVoucherIssuer { by }.into());
    }
    if at < until {
        return Err(Refusal::VoucherStillGood { until, now: at }.into());
    }
    Ok(Event::VoucherReclaimed { by, voucher, amount })
}

fn unspent<R: Records>(records: &R, voucher: NodeId) -> Result<Voucher, ExecuteError<R::Error>> {
    let found: Voucher = fact(records, &voucher)?.ok_or(Refusal::UnknownVoucher)?;
    if found.spent { Err(Refusal::VoucherAlreadySpent.into()) } else { Ok(found) }
}

fn issue_shares<R: Records>(records: &R, router: NodeId, shares: u64) -> Decision<R> {
    if shares == 0 {
        return Err(Refusal::AmountIsZero.into());
    }
    if shares > MAX_SHARES {
        return Err(Refusal::TooManyShares { shares }.into());
    }
    if fact::<R, Pool>(records, &router)?.is_some() {
        return Err(Refusal::SharesAlreadyIssued.into());
    }
    Ok(Event::SharesIssued { router, shares })
}

fn transfer_shares<R: Records>(records: &R, router: NodeId, from: NodeId, to: NodeId, shares: u64) -> Decision<R> {
    if shares == 0 {
        return Err(Refusal::AmountIsZero.into());
    }
    different(from, to)?;
    let held = holding(records, router, from)?.shares;
    if shares > held {
        return Err(Refusal::InsufficientShares { held, shares }.into());
    }
    Ok(Event::SharesTransferred { router, from, to, shares })
}

fn claim_revenue<R: Records>(records: &R, router: NodeId, by: NodeId) -> Decision<R> {
    match holding(records, router, by)?.owed {
        Tokens::ZERO => Err(Refusal::NothingToClaim.into()),
        amount => Ok(Event::RevenueClaimed { router, by, amount }),
    }
}

/// What an account holds of a router, with all that its shares have earned so far.
fn holding<R: Records>(records: &R, router: NodeId, holder: NodeId) -> Result<Holding, ExecuteError<R::Error>> {
    let pool: Pool = fact(records, &router)?.ok_or(Refusal::UnknownShares)?;
    let found: Option<Holding> = fact(records, &(router, holder))?;
    let totals = records.totals();
    Ok(found.unwrap_or_default().up_to(&pool).ok_or(NotConserved { totals })?)
}

fn has_role<R: Records>(records: &R, role: Role, account: NodeId) -> Result<bool, ExecuteError<R::Error>> {
    Ok(fact::<R, Held>(records, &(role, account))?.is_some_and(|Held(held)| held))
}

fn appoint<R: Records>(records: &R, by: NodeId, role: Role, to: NodeId) -> Decision<R> {
    if has_role(records, role, to)? {
        return Err(Refusal::RoleAlreadyHeld { account: to }.into());
    }
    Ok(Event::Appointed { by, role, to })
}

fn dismiss<R: Records>(records: &R, by: NodeId, role: Role, from: NodeId) -> Decision<R> {
    if !has_role(records, role, from)? {
        return Err(Refusal::RoleNotHeld { account: from }.into());
    }
    Ok(Event::Dismissed { by, role, from })
}

fn lasts(now: UnixTime, until: UnixTime) -> Result<(), Refusal> {
    if until <= now { Err(Refusal::MembershipOver { until, now }) } else { Ok(()) }
}

fn member<R: Records>(records: &R, at: UnixTime, account: NodeId) -> Result<(), ExecuteError<R::Error>> {
    let found: Option<Membership> = fact(records, &account)?;
    if found.is_some_and(|membership| membership.holds_at(at)) {
        Ok(())
    } else {
        Err(Refusal::NotMember { account }.into())
    }
}

fn offer_enrolment<R: Records>(
    records: &R,
    at: UnixTime,
    by: NodeId,
    hash: Hash,
    until: UnixTime,
    expires: UnixTime,
) -> Decision<R> {
    lasts(at, until)?;
    if expires <= at {
        return Err(Refusal::EnrolmentExpired { expires, now: at }.into());
    }
    // One that was used too: its secret has been seen.
    if fact::<R, Enrolment>(records, &hash)?.is_some() {
        return Err(Refusal::EnrolmentExists.into());
    }
    Ok(Event::EnrolmentOffered { by, hash, until, expires })
}

fn enrol<R: Records>(records: &R, at: UnixTime, account: NodeId, secret: [u8; 32]) -> Decision<R> {
    let offer: Enrolment = fact(records, &secret_hash(&secret))?.ok_or(Refusal::UnknownEnrolment)?;
    if offer.used {
        return Err(Refusal::EnrolmentAlreadyUsed.into());
    }
    if offer.expires <= at {
        return Err(Refusal::EnrolmentExpired { expires: offer.expires, now: at }.into());
    }
    let before: Option<Membership> = fact(records, &account)?;
    if before.is_some_and(|membership| membership.revoked) {
        return Err(Refusal::MembershipRevoked { account }.into());
    }
    let until = before.map_or(offer.until, |membership| membership.until.max(offer.until));
    lasts(at, until)?;
    Ok(Event::Enrolled { account, secret, until })
}

fn unregister<R: Records>(records: &R, account: NodeId) -> Decision<R> {
    let listed: Option<Registration> = fact(records, &account)?.and_then(|Listing(listed)| listed);
    if listed.is_none() {
        return Err(Refusal::NotRegistered { account }.into());
    }
    Ok(Event::Unregistered { account })
}

fn change_signer<R: Records>(records: &R, account: NodeId, signer: NodeId, consent: Signature) -> Decision<R> {
    if signer_of(records, account)? == signer {
        return Err(Refusal::SignerUnchanged { signer }.into());
    }
    Ok(Event::SignerChanged { account, signer, consent })
}

fn nonzero(amount: Tokens) -> Result<(), Refusal> {
    if amount == Tokens::ZERO { Err(Refusal::AmountIsZero) } else { Ok(()) }
}

fn different(from: NodeId, to: NodeId) -> Result<(), Refusal> {
    if from == to { Err(Refusal::SameAccount { account: from }) } else { Ok(()) }
}

fn affordable<R: Records>(records: &R, account: NodeId, amount: Tokens) -> Result<(), ExecuteError<R::Error>> {
    let balance = records.balance(account).map_err(ExecuteError::Records)?;
    if amount > balance {
        return Err(Refusal::InsufficientBalance { account, balance, amount }.into());
    }
    Ok(())
}

/// What a cumulative `total` adds to what was redeemed before.
fn unpaid(channel: &Channel, total: Tokens) -> Result<Tokens, Refusal> {
    let Some(paid) = total.checked_sub(channel.redeemed) else {
        return Err(Refusal::TotalWentBackwards { total, redeemed: channel.redeemed });
    };
    if total > channel.deposit {
        return Err(Refusal::TotalExceedsDeposit { total, deposit: channel.deposit });
    }
    Ok(paid)
}

/// The phases of a channel in which something can be done with it.
enum Unclosed {
    Open,
    Closing { exit: UnixTime },
}

fn unclosed<R: Records>(records: &R, id: ChannelId) -> Result<(Channel, Unclosed), ExecuteError<R::Error>> {
    let channel = records.channel(id).map_err(ExecuteError::Records)?.ok_or(Refusal::UnknownChannel)?;
    match channel.phase {
        Phase::Open => Ok((channel, Unclosed::Open)),
        Phase::Closing { exit } => Ok((channel, Unclosed::Closing { exit })),
        Phase::Closed => Err(Refusal::ChannelClosed.into()),
    }
}

type Booked<R> = Result<(), ExecuteError<<R as Records>::Error>>;

/// Writes what an event changes. The amounts are the event's; nothing is decided here.
fn book<R: Records>(records: &mut R, event: &Event) -> Booked<R> {
    match *event {
        Event::Founded(_) => Ok(()),
        Event::Minted { to, amount, .. } => {
            let totals = records.totals();
            records.set_totals(Totals { minted: sum(totals, totals.minted, amount)?, ..totals });
            credit(records, to, amount)
        }
        Event::Transferred { from, to, amount } => {
            debit(records, from, amount)?;
            credit(records, to, amount)
        }
        Event::ChannelOpened { channel, deposit } => {
            debit(records, channel.payer, deposit)?;
            let signer = signer_of(records, channel.payer)?;
            if signer != channel.payer {
                set_fact(records, &channel, &ChannelSigner(signer))?;
            }
            keep(records, channel, Channel::open(deposit))
        }
        Event::ToppedUp { channel, amount } => {
            debit(records, channel.payer, amount)?;
            change(records, channel, |totals, before| {
                Ok(Channel { deposit: sum(totals, before.deposit, amount)?, ..before })
            })
        }
        Event::Redeemed { receipt, paid } => {
            let total = receipt.amount();
            change(records, receipt.channel(), |_, before| Ok(Channel { redeemed: total, ..before }))?;
            earn(records, receipt.channel().payee, paid)
        }
        Event::CloseStarted { channel, exit } => {
            change(records, channel, |_, before| Ok(Channel { phase: Phase::Closing { exit }, ..before }))
        }
        Event::Finalized { channel, refunded } => {
            change(records, channel, |_, before| Ok(Channel { phase: Phase::Closed, ..before }))?;
            credit(records, channel.payer, refunded)
        }
        Event::MutuallyClosed { close, paid, refunded } => {
            let (channel, total) = (close.channel(), close.total());
            change(records, channel, |_, before| Ok(Channel { redeemed: total, phase: Phase::Closed, ..before }))?;
            earn(records, channel.payee, paid)?;
            credit(records, channel.payer, refunded)
        }
        Event::Burned { by, amount } => {
            let totals = records.totals();
            records.set_totals(Totals { burned: sum(totals, totals.burned, amount)?, ..totals });
            debit(records, by, amount)
        }
        Event::VoucherIssued { by, voucher, amount, until } => {
            debit(records, by, amount)?;
            lock(records, amount)?;
            set_fact(records, &voucher, &Voucher { issuer: by, amount, until, spent: false })
        }
        Event::VoucherRedeemed { claim, amount } => {
            spend(records, claim.voucher(), amount)?;
            credit(records, claim.to(), amount)
        }
        Event::VoucherReclaimed { by, voucher, amount } => {
            spend(records, voucher, amount)?;
            credit(records, by, amount)
        }
        Event::SharesIssued { router, shares } => {
            set_fact(records, &router, &Pool::new(shares))?;
            set_fact(records, &(router, router), &Holding { shares, ..Holding::default() })
        }
        Event::SharesTransferred { router, from, to, shares } => {
            let totals = records.totals();
            let (giver, taker) = (holding(records, router, from)?, holding(records, router, to)?);
            let left = giver.shares.checked_sub(shares).ok_or(NotConserved { totals })?;
            let more = taker.shares.checked_add(shares).ok_or(NotConserved { totals })?;
            set_fact(records, &(router, from), &Holding { shares: left, ..giver })?;
            set_fact(records, &(router, to), &Holding { shares: more, ..taker })
        }
        Event::RevenueClaimed { router, by, amount } => {
            let settled = holding(records, router, by)?;
            let owed = difference(records.totals(), settled.owed, amount)?;
            set_fact(records, &(router, by), &Holding { owed, ..settled })?;
            unlock(records, amount)?;
            credit(records, by, amount)
        }
        Event::Appointed { role, to, .. } => set_fact(records, &(role, to), &Held(true)),
        Event::Dismissed { role, from, .. } => set_fact(records, &(role, from), &Held(false)),
        Event::MembershipIssued { to, until, .. } => set_fact(records, &to, &Membership { until, revoked: false }),
        Event::MembershipRevoked { of, .. } => {
            let before: Membership = fact(records, &of)?.ok_or(Refusal::NotMember { account: of })?;
            set_fact(records, &of, &Membership { revoked: true, ..before })
        }
        Event::EnrolmentOffered { hash, until, expires, .. } => {
            set_fact(records, &hash, &Enrolment { until, expires, used: false })
        }
        Event::Enrolled { account, secret, until } => {
            let hash = secret_hash(&secret);
            let offer: Enrolment = fact(records, &hash)?.ok_or(Refusal::UnknownEnrolment)?;
            set_fact(records, &hash, &Enrolment { used: true, ..offer })?;
            set_fact(records, &account, &Membership { until, revoked: false })
        }
        Event::Registered { account, registration } => set_fact(records, &account, &Listing(Some(registration))),
        Event::Unregistered { account } => set_fact(records, &account, &Listing(None)),
        // It is said in the log, and changes nothing.
        Event::Attested { .. } => Ok(()),
        Event::SignerChanged { account, signer, .. } => set_fact(records, &account, &Signer(signer)),
    }
}

/// Gives an account what its channels pay: to the pool of its share holders, where there are any.
fn earn<R: Records>(records: &mut R, payee: NodeId, amount: Tokens) -> Booked<R> {
    let Some(pool) = fact::<R, Pool>(records, &payee)? else {
        return credit(records, payee, amount);
    };
    lock(records, amount)?;
    let totals = records.totals();
    set_fact(records, &payee, &pool.after(amount).ok_or(NotConserved { totals })?)
}

fn credit<R: Records>(records: &mut R, account: NodeId, amount: Tokens) -> Booked<R> {
    let totals = records.totals();
    let balance = records.balance(account).map_err(ExecuteError::Records)?;
    let held = sum(totals, totals.held, amount)?;
    records.set_balance(account, sum(totals, balance, amount)?).map_err(ExecuteError::Records)?;
    records.set_totals(Totals { held, ..totals });
    Ok(())
}

fn debit<R: Records>(records: &mut R, account: NodeId, amount: Tokens) -> Booked<R> {
    let totals = records.totals();
    let balance = records.balance(account).map_err(ExecuteError::Records)?;
    let held = difference(totals, totals.held, amount)?;
    records.set_balance(account, difference(totals, balance, amount)?).map_err(ExecuteError::Records)?;
    records.set_totals(Totals { held, ..totals });
    Ok(())
}

fn change<R: Records>(
    records: &mut R,
    id: ChannelId,
    change: impl FnOnce(Totals, Channel) -> Result<Channel, NotConserved>,
) -> Booked<R> {
    let before = records.channel(id).map_err(ExecuteError::Records)?.ok_or(Refusal::UnknownChannel)?;
    let after = change(records.totals(), before)?;
    keep(records, id, after)
}

/// Writes a channel and moves the total that is locked by what this changes.
fn keep<R: Records>(records: &mut R, id: ChannelId, after: Channel) -> Booked<R> {
    let totals = records.totals();
    let before = records.channel(id).map_err(ExecuteError::Records)?;
    let before = before.map_or(Tokens::ZERO, |channel| channel.locked());
    let locked = sum(totals, difference(totals, totals.locked, before)?, after.locked())?;
    records.set_channel(id, after).map_err(ExecuteError::Records)?;
    records.set_totals(Totals { locked, ..totals });
    Ok(())
}

fn spend<R: Records>(records: &mut R, voucher: NodeId, amount: Tokens) -> Booked<R> {
    let found = unspent(records, voucher)?;
    unlock(records, amount)?;
    set_fact(records, &voucher, &Voucher { spent: true, ..found })
}

fn lock<R: Records>(records: &mut R, amount: Tokens) -> Booked<R> {
    let totals = records.totals();
    records.set_totals(Totals { locked: sum(totals, totals.locked, amount)?, ..totals });
    Ok(())
}

fn unlock<R: Records>(records: &mut R, amount: Tokens) -> Booked<R> {
    let totals = records.totals();
    records.set_totals(Totals { locked: difference(totals, totals.locked, amount)?, ..totals });
    Ok(())
}

fn sum(totals: Totals, a: Tokens, b: Tokens) -> Result<Tokens, NotConserved> {
    let supply = |sum: &Tokens| sum.get() <= u128::from(MAX_SUPPLY);
    a.checked_add(b).filter(supply).ok_or(NotConserved { totals })
}

fn difference(totals: Totals, a: Tokens, b: Tokens) -> Result<Tokens, NotConserved> {
    a.checked_sub(b).ok_or(NotConserved { totals })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Order;
    use crate::story::{NOTICE_S, Story, Who, alice, bob, carol, id, poor, tokens, treasurer};

    #[test]
    fn only_the_treasurer_mints() {
        let mut story = Story::begin();
        let mint = Command::Mint { to: id(bob), amount: tokens(1) };
        assert_eq!(story.refuses(bob, mint), Refusal::NotTreasurer { by: id(bob) });
        story.does(treasurer, mint);
        assert_eq!(story.holds(id(bob)), 1);
    }

    #[test]
    fn supply_ends_below_2_to_the_63() {
        let mut story = Story::begin();
        let room = u128::from(MAX_SUPPLY) - 100;
        let mint = |amount| Command::Mint { to: id(bob), amount: tokens(amount) };
        let refusal = |amount| Refusal::SupplyTooLarge { minted: tokens(100), amount: tokens(amount) };
        assert_eq!(story.refuses(treasurer, mint(room + 1)), refusal(room + 1));
        assert_eq!(story.refuses(treasurer, mint(Tokens::MAX.get())), refusal(Tokens::MAX.get()));
        story.does(treasurer, mint(room));
        story.does(bob, Command::Transfer { to: id(alice), amount: tokens(room) });
        assert_eq!(story.holds(id(alice)), u128::from(MAX_SUPPLY));
    }

    #[test]
    fn nobody_spends_more_than_they_hold() {
        let mut story = Story::begin();
        let transfer = |amount| Command::Transfer { to: id(bob), amount: tokens(amount) };
        let open = |deposit| Command::OpenChannel { payee: id(bob), deposit: tokens(deposit) };
        let poor = |balance, amount| Refusal::InsufficientBalance {
            account: id(alice),
            balance: tokens(balance),
            amount: tokens(amount),
        };
        assert_eq!(story.refuses(alice, transfer(101)), poor(100, 101));
        assert_eq!(story.refuses(alice, open(101)), poor(100, 101));
        story.does(alice, open(60));
        assert_eq!(story.refuses(alice, transfer(41)), poor(40, 41));
        assert_eq!(story.refuses(alice, Command::TopUp { channel: story.channel, amount: tokens(41) }), poor(40, 41));
        story.does(alice, transfer(40));
        assert_eq!((story.holds(id(alice)), story.holds(id(bob))), (0, 40));
    }

    #[test]
    fn everybody_burns_of_their_own_and_what_is_burned_is_gone() {
        let mut story = Story::begin();
        let burn = |amount| Command::Burn { amount: tokens(amount) };
        assert_eq!(story.refuses(alice, burn(101)), poor(alice, 100, 101));
        assert_eq!(story.refuses(alice, burn(0)), Refusal::AmountIsZero);
        story.does(alice, burn(30));
        let totals = Totals { minted: tokens(100), burned: tokens(30), held: tokens(70), locked: Tokens::ZERO };
        assert_eq!((story.holds(id(alice)), story.state.totals()), (70, totals));
        // Making as much again does not make the supply larger than the ledger can ever have counted.
        let mint = |amount| Command::Mint { to: id(alice), amount: tokens(amount) };
        let room = u128::from(MAX_SUPPLY) - 100;
        assert_eq!(story.refuses(treasurer, mint(room + 1)).rule(), "SupplyTooLarge");
        story.does(treasurer, mint(room));
    }

    #[test]
    fn nothing_is_no_amount() {
        let mut story = Story::with_channel();
        let (channel, amount) = (story.channel, Tokens::ZERO);
        for (who, command) in [
            (treasurer as Who, Command::Mint { to: id(bob), amount }),
            (alice, Command::Transfer { to: id(bob), amount }),
            (alice, Command::OpenChannel { payee: id(bob), deposit: amount }),
            (alice, Command::TopUp { channel, amount }),
        ] {
            assert_eq!(story.refuses(who, command), Refusal::AmountIsZero);
        }
    }

    #[test]
    fn nobody_pays_oneself() {
        let mut story = Story::begin();
        let (account, amount) = (id(alice), tokens(1));
        let same = Refusal::SameAccount { account };
        assert_eq!(story.refuses(alice, Command::Transfer { to: account, amount }), same);
        assert_eq!(story.refuses(alice, Command::OpenChannel { payee: account, deposit: amount }), same);
    }

    #[test]
    fn each_channel_of_a_pair_has_the_next_nonce() {
        let mut story = Story::begin();
        for (payee, nonce) in [(bob as Who, 1), (carol, 1), (bob, 2), (bob, 3), (carol, 2)] {
            let (payee, deposit) = (id(payee), tokens(1));
            let opened = story.does(alice, Command::OpenChannel { payee, deposit });
            let channel = ChannelId { payer: id(alice), payee, nonce };
            assert_eq!(opened, Event::ChannelOpened { channel, deposit });
        }
        assert_eq!(next_nonce(Some(i64::MAX as u64)), None);
        assert_eq!(next_nonce(Some(u64::MAX)), None);
    }

    #[test]
    fn receipt_pays_what_was_not_redeemed_before_and_pays_once() {
        let mut story = Story::with_channel();
        for (total, expected) in [
            (25, Ok(25)),
            (25, Err("ReceiptAlreadyRedeemed")),
            (24, Err("TotalWentBackwards")),
            (0, Err("TotalWentBackwards")),
            (40, Ok(15)),
            (61, Err("TotalExceedsDeposit")),
            (60, Ok(20)),
            (60, Err("ReceiptAlreadyRedeemed")),
        ] {
            let receipt = story.receipt(total);
            let paid = story.says(receipt).map(|event| {
                let Event::Redeemed { paid, .. } = event else { panic!("{event:?}") };
                paid.get()
            });
            assert_eq!(paid.map_err(|refusal| refusal.rule()), expected, "total {total}");
        }
        assert_eq!((story.holds(id(bob)), story.the_channel().locked()), (60, Tokens::ZERO));
    }

    #[test]
    fn receipt_over_nothing_is_redeemed_already() {
        let mut story = Story::with_channel();
        let receipt = story.receipt(0);
        assert_eq!(story.rejects(receipt), Refusal::ReceiptAlreadyRedeemed { amount: Tokens::ZERO });
    }

    #[test]
    fn receipt_is_good_only_on_its_ledger_and_its_channel() {
        let mut story = Story::with_channel();
        let other = story.state.genesis().clone().with_close_notice(NOTICE_S + 1).domain();
        let elsewhere = Receipt::sign(&alice(), &other, story.channel, tokens(5), [7; 32]).into_unverified();
        assert_eq!(story.rejects(Request::Redeem { receipt: elsewhere }), Refusal::ReceiptSignatureInvalid);

        let domain = story.state.genesis().domain();
        let next = ChannelId { nonce: 2, ..story.channel };
        let unopened = Receipt::sign(&alice(), &domain, next, tokens(5), [7; 32]).into_unverified();
        assert_eq!(story.rejects(Request::Redeem { receipt: unopened }), Refusal::UnknownChannel);
    }

    #[test]
    fn altered_receipt_is_worth_nothing() {
        let mut story = Story::with_channel();
        let Request::Redeem { receipt } = story.receipt(5) else { unreachable!() };
        let bytes = receipt.encode();
        let mut refused = 0;
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            let Ok(receipt) = Receipt::decode(&altered) else {
                continue;
            };
            assert_eq!(story.rejects(Request::Redeem { receipt }), Refusal::ReceiptSignatureInvalid, "byte {at}");
            refused += 1;
        }
        assert!(refused > 140, "most of the receipt is content: {refused}");
        story.makes(Request::Redeem { receipt });
    }

    #[test]
    fn top_up_adds_to_what_can_be_redeemed() {
        let mut story = Story::with_channel();
        let receipt = story.receipt(61);
        let refusal = Refusal::TotalExceedsDeposit { total: tokens(61), deposit: tokens(60) };
        assert_eq!(story.rejects(receipt), refusal);
        story.does(alice, Command::TopUp { channel: story.channel, amount: tokens(1) });
        story.makes(receipt);
        assert_eq!((story.holds(id(alice)), story.holds(id(bob))), (39, 61));
    }

    #[test]
    fn no_deposit_leaves_before_the_notice_ends() {
        let mut story = Story::with_channel();
        let channel = story.channel;
        assert_eq!(story.rejects(Request::Finalize { channel }), Refusal::CloseNotStarted);
        let exit = UnixTime::from_seconds(1100);
        assert_eq!(story.does(alice, Command::StartClose { channel }), Event::CloseStarted { channel, exit });
        assert_eq!(story.refuses(alice, Command::StartClose { channel }), Refusal::CloseAlreadyStarted { exit });
        let top_up = Command::TopUp { channel, amount: tokens(1) };
        assert_eq!(story.refuses(alice, top_up), Refusal::CloseAlreadyStarted { exit });

        story.now = 1099;
        let now = UnixTime::from_seconds(1099);
        assert_eq!(story.rejects(Request::Finalize { channel }), Refusal::NoticeNotOver { exit, now });
        story.now = 1100;
        let refunded = tokens(60);
        assert_eq!(story.makes(Request::Finalize { channel }), Event::Finalized { channel, refunded });
        assert_eq!(story.holds(id(alice)), 100);
    }

    #[test]
    fn redeeming_stays_open_until_the_channel_has_ended() {
        let mut story = Story::with_channel();
        let channel = story.channel;
        let [first, second, third] = [10, 20, 30].map(|total| story.receipt(total));
        story.does(alice, Command::StartClose { channel });
        story.makes(first);
        story.now = 5000;
        story.makes(second);
        let refunded = tokens(40);
        assert_eq!(story.makes(Request::Finalize { channel }), Event::Finalized { channel, refunded });
        assert_eq!(story.rejects(third), Refusal::ChannelClosed);
        assert_eq!((story.holds(id(alice)), story.holds(id(bob))), (80, 20));
    }

    #[test]
    fn clock_that_falls_back_cuts_no_notice_short() {
        let mut story = Story::with_channel();
        story.now = 0;
        let exit = UnixTime::from_seconds(1100);
        let started = story.does(alice, Command::StartClose { channel: story.channel });
        assert_eq!(started, Event::CloseStarted { channel: story.channel, exit });
    }

    #[test]
    fn payee_ends_a_channel_at_once_as_its_payer_offered() {
        let mut story = Story::with_channel();
        let first = story.receipt(10);
        story.makes(first);
        let backwards = Refusal::TotalWentBackwards { total: tokens(9), redeemed: tokens(10) };
        assert_eq!(story.refuses(bob, story.close(9)), backwards);
        let exceeds = Refusal::TotalExceedsDeposit { total: tokens(61), deposit: tokens(60) };
        assert_eq!(story.refuses(bob, story.close(61)), exceeds);
        let command = story.close(25);
        let Command::MutualClose { close } = command else { unreachable!() };
        let [paid, refunded] = [15, 35].map(tokens);
        assert_eq!(story.does(bob, command), Event::MutuallyClosed { close, paid, refunded });
        assert_eq!((story.holds(id(alice)), story.holds(id(bob))), (75, 25));
    }

    #[test]
    fn closed_channel_stays_closed_and_on_record() {
        let mut story = Story::with_channel();
        let channel = story.channel;
        story.does(bob, story.close(25));
        let receipt = story.receipt(30);
        for request in [
            receipt,
            story.order(alice, Command::TopUp { channel, amount: tokens(1) }),
            story.order(alice, Command::StartClose { channel }),
            Request::Finalize { channel },
            story.order(bob, story.close(25)),
        ] {
            assert_eq!(story.rejects(request), Refusal::ChannelClosed);
        }
        let record = Channel { deposit: tokens(60), redeemed: tokens(25), phase: Phase::Closed };
        assert_eq!(story.the_channel(), record);
        let again = story.does(alice, Command::OpenChannel { payee: id(bob), deposit: tokens(1) });
        let next = ChannelId { nonce: 2, ..channel };
        assert_eq!(again, Event::ChannelOpened { channel: next, deposit: tokens(1) });
    }

    #[test]
    fn unknown_channel_is_unknown_to_every_request() {
        let mut story = Story::begin();
        let channel = story.channel;
        for request in [
            story.receipt(1),
            story.order(alice, Command::TopUp { channel, amount: tokens(1) }),
            story.order(alice, Command::StartClose { channel }),
            Request::Finalize { channel },
            story.order(bob, story.close(1)),
        ] {
            assert_eq!(story.rejects(request), Refusal::UnknownChannel);
        }
    }

    #[test]
    fn nobody_orders_what_is_another_accounts_to_order() {
        let mut story = Story::with_channel();
        let (channel, amount) = (story.channel, tokens(1));
        let close = story.close(5);
        for (who, command, refusal) in [
            (bob as Who, Command::Mint { to: id(bob), amount }, Refusal::NotTreasurer { by: id(bob) }),
            (bob, Command::TopUp { channel, amount }, Refusal::NotPayer { by: id(bob) }),
            (carol, Command::TopUp { channel, amount }, Refusal::NotPayer { by: id(carol) }),
            (bob, Command::StartClose { channel }, Refusal::NotPayer { by: id(bob) }),
            (alice, close, Refusal::NotPayee { by: id(alice) }),
            (carol, close, Refusal::NotPayee { by: id(carol) }),
            // Spending what is another's cannot even be said: an order spends its account's own.
            (bob, Command::Transfer { to: id(carol), amount }, poor(bob, 0, 1)),
            (bob, Command::OpenChannel { payee: id(carol), deposit: amount }, poor(bob, 0, 1)),
        ] {
            assert_eq!(story.refuses(who, command), refusal);
        }
    }

    #[test]
    fn payee_cannot_make_up_the_payers_offer() {
        let mut story = Story::with_channel();
        let Command::MutualClose { close } = story.close(5) else { unreachable!() };
        let bytes = close.encode();
        let mut refused = 0;
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            if let Ok(close) = Close::decode(&altered) {
                let refusal = story.refuses(bob, Command::MutualClose { close });
                let other_payee = Refusal::NotPayee { by: id(bob) };
                assert!(refusal == Refusal::CloseSignatureInvalid || refusal == other_payee, "byte {at}: {refusal}");
                refused += 1;
            }
        }
        assert!(refused > 110, "most of the offer is content: {refused}");
        let elsewhere = story.state.genesis().clone().with_close_notice(NOTICE_S + 1).domain();
        let close = Close::sign(&alice(), &elsewhere, story.channel, tokens(5)).into_unverified();
        assert_eq!(story.refuses(bob, Command::MutualClose { close }), Refusal::CloseSignatureInvalid);
    }

    #[test]
    fn nothing_is_done_in_a_name_without_its_signature() {
        let mut story = Story::with_channel();
        let (account, domain) = (id(alice), story.state.genesis().domain());
        let command = Command::Transfer { to: id(bob), amount: tokens(5) };
        let unsigned = Refusal::OrderSignatureInvalid { account };
        let Request::Order(order) = story.order(alice, command) else { unreachable!() };
        let seal = order.seal();
        let with = |account, command, seal| Request::Order(Order::new(account, command, seal));

        let thief = Order::sign(&bob(), &domain, account, seal.sequence, command).into_unverified();
        assert_eq!(story.rejects(Request::Order(thief)), unsigned);
        let elsewhere = story.state.genesis().clone().with_close_notice(NOTICE_S + 1).domain();
        let elsewhere = Order::sign(&alice(), &elsewhere, account, seal.sequence, command).into_unverified();
        assert_eq!(story.rejects(Request::Order(elsewhere)), unsigned);
        let more = Command::Transfer { to: id(bob), amount: tokens(6) };
        assert_eq!(story.rejects(with(account, more, seal)), unsigned);
        let to_carol = Command::Transfer { to: id(carol), amount: tokens(5) };
        assert_eq!(story.rejects(with(account, to_carol, seal)), unsigned);
        // The treasurer has used one sequence already, as Alice has.
        let by_treasurer = Refusal::OrderSignatureInvalid { account: id(treasurer) };
        assert_eq!(story.rejects(with(id(treasurer), command, seal)), by_treasurer);
        for byte in 0..65 {
            let mut forged = seal;
            forged.signature.0[byte] ^= 1;
            assert_eq!(story.rejects(with(account, command, forged)), unsigned, "byte {byte}");
        }
        story.makes(Request::Order(order));
    }

    #[test]
    fn a_signature_for_one_command_is_none_for_another() {
        let mut story = Story::with_channel();
        let (channel, to, amount) = (story.channel, id(bob), tokens(1));
        // All that Alice can order with the same words, and one that has the words of another.
        let commands = [
            Command::Mint { to, amount },
            Command::Transfer { to, amount },
            Command::OpenChannel { payee: to, deposit: amount },
            Command::TopUp { channel, amount },
            Command::StartClose { channel },
            story.close(1),
        ];
        for signed in commands {
            let Request::Order(order) = story.order(alice, signed) else { unreachable!() };
            for said in commands.into_iter().filter(|said| *said != signed) {
                let order = Request::Order(Order::new(id(alice), said, order.seal()));
                assert_eq!(story.rejects(order), Refusal::OrderSignatureInvalid { account: id(alice) });
            }
        }
    }

    #[test]
    fn orders_of_an_account_happen_in_order_and_once() {
        let mut story = Story::begin();
        let (account, domain) = (id(alice), story.state.genesis().domain());
        let order = |sequence, amount| {
            let command = Command::Transfer { to: id(bob), amount: tokens(amount) };
            Request::Order(Order::sign(&alice(), &domain, account, sequence, command).into_unverified())
        };
        let early = |sequence, next| Refusal::SequenceOutOfOrder { account, sequence, next };
        let used = |sequence, next| Refusal::SequenceAlreadyUsed { account, sequence, next };
        assert_eq!(story.rejects(order(2, 1)), early(2, 1));
        assert_eq!(story.rejects(order(u64::MAX, 1)), early(u64::MAX, 1));
        assert_eq!(story.rejects(order(0, 1)), used(0, 1));
        story.makes(order(1, 1));
        assert_eq!(story.rejects(order(1, 2)), used(1, 2));
        assert_eq!(story.rejects(order(3, 3)), early(3, 2));
        story.makes(order(2, 2));
        story.makes(order(3, 3));
        assert_eq!(story.rejects(order(2, 4)), used(2, 4));
        assert_eq!(story.holds(id(bob)), 6);
    }

    #[test]
    fn order_that_comes_again_is_answered_with_the_entry_it_made() {
        let mut story = Story::begin();
        let open = story.order(alice, Command::OpenChannel { payee: id(bob), deposit: tokens(10) });
        let entry = story.state.execute(UnixTime::from_seconds(1000), &open).unwrap();
        story.does(alice, Command::Transfer { to: id(bob), amount: tokens(90) });
        let head = story.state.head();
        story.now = 2000;
        assert_eq!(story.state.execute(UnixTime::from_seconds(2000), &open), Ok(entry));
        assert_eq!(story.state.head(), head, "it happened once");
        assert_eq!((story.holds(id(alice)), story.holds(id(bob))), (0, 90));
    }

    #[test]
    fn refused_order_stays_good_until_another_has_its_number() {
        let mut story = Story::begin();
        let order = story.order(bob, Command::Transfer { to: id(carol), amount: tokens(5) });
        assert_eq!(story.rejects(order), poor(bob, 0, 5));
        story.does(alice, Command::Transfer { to: id(bob), amount: tokens(9) });
        story.does(bob, Command::Transfer { to: id(carol), amount: tokens(2) });
        let used = Refusal::SequenceAlreadyUsed { account: id(bob), sequence: 1, next: 2 };
        assert_eq!(story.rejects(order), used);
        assert_eq!(story.holds(id(carol)), 2);
    }
}
