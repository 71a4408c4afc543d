//! The rules.

mod book;
mod channels;
mod community;
mod shares;
mod signers;
mod tokens;
mod vouchers;

use metering::{ChannelId, NodeId, Tokens, Unverified};
use thiserror::Error;

use crate::fact::Fact;
use crate::name::Holder;
use crate::records::NotConserved;
use crate::role::Role;
use crate::{Command, Entry, Event, Order, Presented, Records, Refusal, Request, UnixTime};

use book::book;

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
    let presented = Presented::recover(&records.genesis().domain(), *request);
    execute_presented(records, now, &presented)
}

/// Answers a request as [`execute`] does, with what its signatures were found to be before: the slow part of an answer, for
/// which nobody has to wait who wants to write.
///
/// # Errors
/// [`ExecuteError`]
pub fn execute_presented<R: Records>(
    records: &mut R,
    now: UnixTime,
    presented: &Presented,
) -> Result<Entry, ExecuteError<R::Error>> {
    if let Request::Order(order) = presented.request()
        && let Some(entry) = entry_of(records, order)?
    {
        return Ok(entry);
    }
    perform(records, now, presented)
}

/// The entry that this very order made, if it has happened: the same to the last byte, as two programs may order the same in
/// the same words. Whoever asks changes nothing and learns what the log tells
/// everybody, so the signature is not looked at; nor could it be, where the account has another key since.
fn entry_of<R: Records>(records: &R, order: &Order<Unverified>) -> Result<Option<Entry>, ExecuteError<R::Error>> {
    let (account, sequence) = (order.account(), order.seal().sequence);
    if sequence > records.sequence(account).map_err(ExecuteError::Records)? {
        return Ok(None);
    }
    let same = |entry: &Entry| entry.order() == Some(*order);
    Ok(records.ordered(account, sequence).map_err(ExecuteError::Records)?.filter(same))
}

/// Makes a request happen, once: an order that has happened before is refused.
pub(crate) fn perform<R: Records>(
    records: &mut R,
    now: UnixTime,
    presented: &Presented,
) -> Result<Entry, ExecuteError<R::Error>> {
    authorise(records, presented)?;
    let request = presented.request();
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

/// Whether those who must agree to a request have signed it. The one place that decides this; what was found for another
/// ledger is found again for this one.
fn authorise<R: Records>(records: &R, presented: &Presented) -> Result<(), ExecuteError<R::Error>> {
    let presented = presented.on(&records.genesis().domain());
    match presented.request() {
        Request::Order(order) => {
            next_in_sequence(records, order)?;
            let account = order.account();
            let signer = signers::signer_of(records, account)?;
            presented.signed_by(signer).ok_or(Refusal::OrderSignatureInvalid { account })?;
            entitled(records, &presented, account, order.command())
        }
        Request::Redeem { receipt } => {
            let signer = signers::channel_signer_of(records, receipt.channel())?;
            presented.signed_by(signer).ok_or(Refusal::ReceiptSignatureInvalid)?;
            Ok(())
        }
        Request::RedeemVoucher { claim } => {
            presented.signed_by(claim.voucher()).ok_or(Refusal::ClaimSignatureInvalid)?;
            Ok(())
        }
        // It can only pay the payer.
        Request::Finalize { .. } => Ok(()),
    }
}

fn fact<R: Records, F: Fact>(records: &R, key: &F::Key) -> Result<Option<F>, ExecuteError<R::Error>> {
    let value = records.fact(&F::place(key)).map_err(ExecuteError::Records)?;
    value.map(|value| F::decode(&value).ok_or(ExecuteError::Unreadable)).transpose()
}

fn set_fact<R: Records, F: Fact>(records: &mut R, key: &F::Key, fact: &F) -> Booked<R> {
    records.set_fact(&F::place(key), &fact.encode()).map_err(ExecuteError::Records)
}

/// The key that signs receipts on a channel and offers to close it, as the account it would be of: the one that signed for the
/// payer when the channel was opened.
///
/// # Errors
/// Where the records cannot be reached or read.
pub fn channel_signer<R: Records>(records: &R, channel: ChannelId) -> Result<NodeId, ExecuteError<R::Error>> {
    signers::channel_signer_of(records, channel)
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
fn entitled<R: Records>(
    records: &R,
    presented: &Presented,
    by: NodeId,
    command: &Command,
) -> Result<(), ExecuteError<R::Error>> {
    match command {
        Command::Mint { .. } | Command::Appoint { .. } | Command::Dismiss { .. }
            if by != records.genesis().treasurer() =>
        {
            Err(Refusal::NotTreasurer { by }.into())
        }
        Command::IssueMembership { .. }
        | Command::RevokeMembership { .. }
        | Command::OfferEnrolment { .. }
        | Command::WithdrawEnrolment { .. }
            if !community::has_role(records, Role::Issuer, by)? =>
        {
            Err(Refusal::NotIssuer { by }.into())
        }
        Command::Attest { .. } if !community::has_role(records, Role::Auditor, by)? => {
            Err(Refusal::NotAuditor { by }.into())
        }
        Command::TopUp { channel, .. } | Command::StartClose { channel } if by != channel.payer => {
            Err(Refusal::NotPayer { by }.into())
        }
        Command::MutualClose { close } if by != close.channel().payee => Err(Refusal::NotPayee { by }.into()),
        Command::MutualClose { close } => {
            let signer = signers::channel_signer_of(records, close.channel())?;
            presented.agreed_by(signer).ok_or(Refusal::CloseSignatureInvalid)?;
            Ok(())
        }
        Command::ChangeSigner { signer, .. } => {
            presented.agreed_by(*signer).ok_or(Refusal::ConsentInvalid { signer: *signer })?;
            Ok(())
        }
        Command::Enrol { enrolment, .. } => {
            presented.agreed_by(*enrolment).ok_or(Refusal::EnrolmentClaimInvalid)?;
            Ok(())
        }
        Command::ClaimName { .. } => {
            presented.agreed_by(by).ok_or(Refusal::NameClaimInvalid { account: by })?;
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
        | Command::WithdrawEnrolment { .. }
        | Command::Register { .. }
        | Command::Unregister
        | Command::ReleaseName { .. }
        | Command::Skip
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
        Request::Redeem { receipt } => channels::redeem(records, *receipt),
        Request::RedeemVoucher { claim } => vouchers::redeem(records, *claim),
        Request::Finalize { channel } => channels::finalize(records, at, *channel),
    }
}

/// What the rules make of a command in the name of `by`.
fn obey<R: Records>(records: &R, at: UnixTime, by: NodeId, command: &Command) -> Decision<R> {
    if let Command::Skip | Command::ChangeSigner { .. } | Command::IssueShares { .. } = command {
        community::stands(records, at, by)?;
    }
    match *command {
        Command::Mint { to, amount } => tokens::mint(records, by, to, amount),
        Command::Burn { amount } => tokens::burn(records, by, amount),
        Command::Transfer { to, amount } => tokens::transfer(records, by, to, amount),
        Command::OpenChannel { payee, deposit } => channels::open(records, by, payee, deposit),
        Command::TopUp { channel, amount } => channels::top_up(records, channel, amount),
        Command::StartClose { channel } => channels::start_close(records, at, channel),
        Command::MutualClose { close } => channels::mutual_close(records, close),
        Command::IssueVoucher { voucher, amount, until } => vouchers::issue(records, by, voucher, amount, until),
        Command::ReclaimVoucher { voucher } => vouchers::reclaim(records, at, by, voucher),
        Command::IssueShares { shares } => shares::issue(records, by, shares),
        Command::TransferShares { router, to, shares } => shares::transfer(records, router, by, to, shares),
        Command::ClaimRevenue { router } => shares::claim(records, router, by),
        Command::Appoint { role, to } => community::appoint(records, by, role, to),
        Command::Dismiss { role, from } => community::dismiss(records, by, role, from),
        Command::IssueMembership { to, until } => community::issue::<R>(at, by, to, until),
        Command::RevokeMembership { of } => community::revoke(records, by, of),
        Command::OfferEnrolment { enrolment, until, expires } => {
            community::offer_enrolment(records, at, by, enrolment, until, expires)
        }
        Command::WithdrawEnrolment { issuer, enrolment } => {
            community::withdraw_enrolment(records, by, issuer, enrolment)
        }
        Command::Enrol { issuer, enrolment, claim } => community::enrol(records, at, by, issuer, enrolment, claim),
        Command::Register { registration } => community::register(records, at, by, registration),
        Command::Unregister => community::unregister(records, by),
        Command::ClaimName { name, wireguard, claim } => {
            community::claim_name(records, at, name, Holder { account: by, wireguard, claim })
        }
        Command::ReleaseName { name } => community::release_name(records, by, name),
        Command::Skip => Ok(Event::Skipped { account: by }),
        Command::Attest { head } => community::attest(records, by, head),
        Command::ChangeSigner { signer, consent } => signers::change(records, by, signer, consent),
    }
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

type Booked<R> = Result<(), ExecuteError<<R as Records>::Error>>;

#[cfg(test)]
mod tests {
    use metering::{ChannelId, Close, Receipt};

    use super::*;
    use crate::story::{NOTICE_S, Story, Who, alice, bob, carol, id, poor, tokens, treasurer};
    use crate::{Channel, Order, Phase, Totals};

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
        let last = ChannelId { nonce: i64::MAX as u64, ..story.channel };
        let Ok(()) = story.state.set_channel(last, Channel { phase: Phase::Closed, ..Channel::open(tokens(1)) });
        let open = Command::OpenChannel { payee: id(bob), deposit: tokens(1) };
        assert_eq!(story.refuses(alice, open), Refusal::NoncesExhausted);
        story.does(alice, Command::OpenChannel { payee: id(carol), deposit: tokens(1) });
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
    fn two_who_order_in_the_same_words_are_not_told_the_same() {
        let mut story = Story::begin();
        let domain = story.state.genesis().domain();
        let command = Command::Transfer { to: id(bob), amount: tokens(10) };
        let by =
            |extra| Request::Order(Order::sign_with(&alice(), &domain, id(alice), 1, command, extra).into_unverified());
        let [attic, cellar] = [b"attic", b"cellr"].map(|extra| by(extra));
        story.makes(attic);
        let used = Refusal::SequenceAlreadyUsed { account: id(alice), sequence: 1, next: 2 };
        assert_eq!(story.rejects(cellar), used);
        story.says(attic).unwrap();
        assert_eq!(story.holds(id(bob)), 10);
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

    #[test]
    fn a_key_that_somebody_has_made_fills_no_log() {
        let mut story = Story::begin();
        let consent = crate::signer::consent(&carol(), &story.state.genesis().domain(), id(bob), 1);
        let for_nothing =
            [Command::Skip, Command::IssueShares { shares: 5 }, Command::ChangeSigner { signer: id(carol), consent }];
        for command in for_nothing {
            assert_eq!(story.refuses(bob, command), Refusal::NoStanding { account: id(bob) });
        }
        // One token, a membership or a role is enough; and who has ordered something may go on.
        story.does(alice, Command::Transfer { to: id(bob), amount: tokens(1) });
        story.does(bob, Command::Transfer { to: id(alice), amount: tokens(1) });
        story.does(bob, Command::Skip);
        story.does(treasurer, Command::Appoint { role: Role::Issuer, to: id(carol) });
        story.does(carol, Command::Skip);
    }

    #[test]
    fn who_skips_a_number_gives_up_the_order_that_had_it() {
        let mut story = Story::begin();
        story.does(alice, Command::Transfer { to: id(bob), amount: tokens(1) });
        let order = story.order(bob, Command::Transfer { to: id(carol), amount: tokens(5) });
        assert_eq!(story.rejects(order), poor(bob, 1, 5));
        let totals = story.state.totals();
        assert_eq!(story.does(bob, Command::Skip), Event::Skipped { account: id(bob) });
        assert_eq!(story.state.totals(), totals);
        story.does(alice, Command::Transfer { to: id(bob), amount: tokens(9) });
        let used = Refusal::SequenceAlreadyUsed { account: id(bob), sequence: 1, next: 2 };
        assert_eq!(story.rejects(order), used);
        // An order that happened is not undone by it, and says so.
        story.does(bob, Command::Transfer { to: id(carol), amount: tokens(2) });
        let domain = story.state.genesis().domain();
        let late = Order::sign(&bob(), &domain, id(bob), 2, Command::Skip).into_unverified();
        let used = Refusal::SequenceAlreadyUsed { account: id(bob), sequence: 2, next: 3 };
        assert_eq!(story.rejects(Request::Order(late)), used);
    }
}
