//! The rules.

use metering::{ChannelId, NodeId, Receipt, Tokens, Unverified};
use thiserror::Error;

use crate::records::NotConserved;
use crate::{Channel, Command, Entry, Event, Genesis, Phase, Records, Refusal, Totals, UnixTime};

/// The largest supply, in base units: SQLite counts in 63 bits. No balance, deposit or total can be larger.
pub const MAX_SUPPLY: u64 = i64::MAX as u64;

/// Why a command did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ExecuteError<E> {
    /// A rule forbids it. Nothing was written.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Tokens were made or lost. The caller throws all writes of this command away.
    #[error(transparent)]
    NotConserved(#[from] NotConserved),
    /// The records could not be reached. The caller throws all writes of this command away.
    #[error("the records cannot be reached")]
    Records(E),
}

/// Carries out one command: authorises it, decides it, books it, checks that no token was made or lost, and appends the
/// entry that says what happened.
///
/// `now` is the shell's clock. The ledger's time never runs backwards: where `now` is before the newest entry, that
/// entry's time is taken, so a clock that fell back to 1970 cannot cut a notice short. A clock that jumps far ahead
/// ends the notices that run, and holds the ledger's time there, so that later notices end late: nothing in a ledger
/// tells a wrong clock from a long rest, so the shell must not trust a clock that was not set.
///
/// # Errors
/// [`ExecuteError`]
pub fn execute<R: Records>(records: &mut R, now: UnixTime, command: &Command) -> Result<Entry, ExecuteError<R::Error>> {
    authorise(records.genesis(), command)?;
    let at = now.max(records.time());
    let event = decide(records, at, command)?;
    book(records, &event)?;
    if !records.totals().conserved() {
        return Err(NotConserved { totals: records.totals() }.into());
    }
    let entry = Entry { at, event };
    records.append(&entry).map_err(ExecuteError::Records)?;
    Ok(entry)
}

/// Whether those who must have agreed to a command have agreed. The one place that decides this.
///
/// A receipt proves itself: the payer's signature, for this ledger, is checked here however it was checked before.
/// The other commands are taken at their word about who gives them: whoever may write the ledger's file speaks for
/// every account ([`Command::principals`]), save that only the treasurer's name mints. Accounts' signatures on
/// commands are checked here, against the same principals, once commands carry them.
fn authorise(genesis: &Genesis, command: &Command) -> Result<(), Refusal> {
    match command {
        Command::Mint { by, .. } if *by != genesis.treasurer() => Err(Refusal::NotTreasurer { by: *by }),
        Command::Redeem { receipt } => match receipt.verify(&genesis.domain()) {
            Ok(_) => Ok(()),
            Err(_) => Err(Refusal::ReceiptSignatureInvalid),
        },
        Command::Mint { .. }
        | Command::Transfer { .. }
        | Command::OpenChannel { .. }
        | Command::TopUp { .. }
        | Command::StartClose { .. }
        | Command::Finalize { .. }
        | Command::MutualClose { .. } => Ok(()),
    }
}

type Decision<R> = Result<Event, ExecuteError<<R as Records>::Error>>;

/// What the rules make of a command. Writes nothing.
fn decide<R: Records>(records: &R, at: UnixTime, command: &Command) -> Decision<R> {
    match *command {
        Command::Mint { by, to, amount } => mint(records, by, to, amount),
        Command::Transfer { from, to, amount } => transfer(records, from, to, amount),
        Command::OpenChannel { payer, payee, deposit } => open_channel(records, payer, payee, deposit),
        Command::TopUp { channel, amount } => top_up(records, channel, amount),
        Command::Redeem { receipt } => redeem(records, receipt),
        Command::StartClose { channel } => start_close(records, at, channel),
        Command::Finalize { channel } => finalize(records, at, channel),
        Command::MutualClose { channel, total } => mutual_close(records, channel, total),
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

fn mutual_close<R: Records>(records: &R, id: ChannelId, total: Tokens) -> Decision<R> {
    let (channel, _) = unclosed(records, id)?;
    let paid = unpaid(&channel, total)?;
    // Both are at most the deposit: `unpaid` has refused the rest.
    let refunded = channel.deposit.saturating_sub(total);
    Ok(Event::MutuallyClosed { channel: id, total, paid, refunded })
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
            credit(records, receipt.channel().payee, paid)
        }
        Event::CloseStarted { channel, exit } => {
            change(records, channel, |_, before| Ok(Channel { phase: Phase::Closing { exit }, ..before }))
        }
        Event::Finalized { channel, refunded } => {
            change(records, channel, |_, before| Ok(Channel { phase: Phase::Closed, ..before }))?;
            credit(records, channel.payer, refunded)
        }
        Event::MutuallyClosed { channel, total, paid, refunded } => {
            change(records, channel, |_, before| Ok(Channel { redeemed: total, phase: Phase::Closed, ..before }))?;
            credit(records, channel.payee, paid)?;
            credit(records, channel.payer, refunded)
        }
    }
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

fn sum(totals: Totals, a: Tokens, b: Tokens) -> Result<Tokens, NotConserved> {
    let supply = |sum: &Tokens| sum.get() <= u128::from(MAX_SUPPLY);
    a.checked_add(b).filter(supply).ok_or(NotConserved { totals })
}

fn difference(totals: Totals, a: Tokens, b: Tokens) -> Result<Tokens, NotConserved> {
    a.checked_sub(b).ok_or(NotConserved { totals })
}

#[cfg(test)]
mod tests {
    use metering::AccountKey;

    use super::*;
    use crate::State;

    const TREASURER: NodeId = NodeId([0xee; 20]);
    const BOB: NodeId = NodeId([0xb0; 20]);
    const CAROL: NodeId = NodeId([0xca; 20]);
    const NOTICE_S: u32 = 100;

    fn alice() -> AccountKey {
        AccountKey::from_bytes(&[0xa1; 32]).unwrap()
    }

    fn tokens(n: u128) -> Tokens {
        Tokens::new(n).unwrap()
    }

    /// A ledger at second 1000 where Alice holds 100 tokens, and what is said to it.
    struct Story {
        state: State,
        now: u64,
        alice: NodeId,
        channel: ChannelId,
    }

    impl Story {
        fn begin() -> Self {
            let founded = UnixTime::from_seconds(1000);
            let genesis = Genesis::new("Hilltop", "HILL", 6, TREASURER, founded).unwrap();
            let state = State::found(genesis.with_close_notice(NOTICE_S));
            let alice = alice().node_id();
            let channel = ChannelId { payer: alice, payee: BOB, nonce: 1 };
            let mut story = Self { state, now: 1000, alice, channel };
            story.does(Command::Mint { by: TREASURER, to: alice, amount: tokens(100) });
            story
        }

        /// The same with a channel of 60 from Alice to Bob.
        fn with_channel() -> Self {
            let mut story = Self::begin();
            story.does(Command::OpenChannel { payer: story.alice, payee: BOB, deposit: tokens(60) });
            story
        }

        fn does(&mut self, command: Command) -> Event {
            self.says(command).unwrap()
        }

        fn refuses(&mut self, command: Command) -> Refusal {
            let before = self.state.head();
            let refusal = self.says(command).unwrap_err();
            assert_eq!(self.state.head(), before, "a refusal leaves no entry");
            refusal
        }

        fn says(&mut self, command: Command) -> Result<Event, Refusal> {
            let now = UnixTime::from_seconds(self.now);
            match self.state.execute(now, &command) {
                Ok(entry) => Ok(entry.event),
                Err(ExecuteError::Refused(refusal)) => Err(refusal),
                Err(ExecuteError::NotConserved(error)) => panic!("{command:?}: {error}"),
                Err(ExecuteError::Records(never)) => match never {},
            }
        }

        fn receipt(&self, total: u128) -> Command {
            let domain = self.state.genesis().domain();
            let receipt = Receipt::sign(&alice(), &domain, self.channel, tokens(total), [7; 32]);
            Command::Redeem { receipt: receipt.into_unverified() }
        }

        fn holds(&self, account: NodeId) -> u128 {
            self.state.balance(account).unwrap().get()
        }

        fn the_channel(&self) -> Channel {
            self.state.channel(self.channel).unwrap().unwrap()
        }
    }

    #[test]
    fn only_the_treasurer_mints() {
        let mut story = Story::begin();
        let mint = |by| Command::Mint { by, to: BOB, amount: tokens(1) };
        assert_eq!(story.refuses(mint(BOB)), Refusal::NotTreasurer { by: BOB });
        story.does(mint(TREASURER));
        assert_eq!(story.holds(BOB), 1);
    }

    #[test]
    fn supply_ends_below_2_to_the_63() {
        let mut story = Story::begin();
        let room = u128::from(MAX_SUPPLY) - 100;
        let mint = |amount| Command::Mint { by: TREASURER, to: BOB, amount: tokens(amount) };
        let refusal = |amount| Refusal::SupplyTooLarge { minted: tokens(100), amount: tokens(amount) };
        assert_eq!(story.refuses(mint(room + 1)), refusal(room + 1));
        assert_eq!(story.refuses(mint(Tokens::MAX.get())), refusal(Tokens::MAX.get()));
        story.does(mint(room));
        story.does(Command::Transfer { from: BOB, to: story.alice, amount: tokens(room) });
        assert_eq!(story.holds(story.alice), u128::from(MAX_SUPPLY));
    }

    #[test]
    fn nobody_spends_more_than_they_hold() {
        let mut story = Story::begin();
        let alice = story.alice;
        let transfer = |amount| Command::Transfer { from: alice, to: BOB, amount: tokens(amount) };
        let open = |deposit| Command::OpenChannel { payer: alice, payee: BOB, deposit: tokens(deposit) };
        let poor = |balance, amount| Refusal::InsufficientBalance {
            account: alice,
            balance: tokens(balance),
            amount: tokens(amount),
        };
        assert_eq!(story.refuses(transfer(101)), poor(100, 101));
        assert_eq!(story.refuses(open(101)), poor(100, 101));
        story.does(open(60));
        assert_eq!(story.refuses(transfer(41)), poor(40, 41));
        assert_eq!(story.refuses(Command::TopUp { channel: story.channel, amount: tokens(41) }), poor(40, 41));
        story.does(transfer(40));
        assert_eq!((story.holds(alice), story.holds(BOB)), (0, 40));
    }

    #[test]
    fn nothing_is_no_amount() {
        let mut story = Story::with_channel();
        let (alice, channel, amount) = (story.alice, story.channel, Tokens::ZERO);
        for command in [
            Command::Mint { by: TREASURER, to: BOB, amount },
            Command::Transfer { from: alice, to: BOB, amount },
            Command::OpenChannel { payer: alice, payee: BOB, deposit: amount },
            Command::TopUp { channel, amount },
        ] {
            assert_eq!(story.refuses(command), Refusal::AmountIsZero);
        }
    }

    #[test]
    fn nobody_pays_oneself() {
        let mut story = Story::begin();
        let (alice, amount) = (story.alice, tokens(1));
        let same = Refusal::SameAccount { account: alice };
        assert_eq!(story.refuses(Command::Transfer { from: alice, to: alice, amount }), same);
        assert_eq!(story.refuses(Command::OpenChannel { payer: alice, payee: alice, deposit: amount }), same);
    }

    #[test]
    fn each_channel_of_a_pair_has_the_next_nonce() {
        let mut story = Story::begin();
        let alice = story.alice;
        for (payee, nonce) in [(BOB, 1), (CAROL, 1), (BOB, 2), (BOB, 3), (CAROL, 2)] {
            let deposit = tokens(1);
            let opened = story.does(Command::OpenChannel { payer: alice, payee, deposit });
            let channel = ChannelId { payer: alice, payee, nonce };
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
        assert_eq!((story.holds(BOB), story.the_channel().locked()), (60, Tokens::ZERO));
    }

    #[test]
    fn receipt_over_nothing_is_redeemed_already() {
        let mut story = Story::with_channel();
        let receipt = story.receipt(0);
        assert_eq!(story.refuses(receipt), Refusal::ReceiptAlreadyRedeemed { amount: Tokens::ZERO });
    }

    #[test]
    fn receipt_is_good_only_on_its_ledger_and_its_channel() {
        let mut story = Story::with_channel();
        let other = story.state.genesis().clone().with_close_notice(NOTICE_S + 1).domain();
        let elsewhere = Receipt::sign(&alice(), &other, story.channel, tokens(5), [7; 32]).into_unverified();
        assert_eq!(story.refuses(Command::Redeem { receipt: elsewhere }), Refusal::ReceiptSignatureInvalid);

        let domain = story.state.genesis().domain();
        let next = ChannelId { nonce: 2, ..story.channel };
        let unopened = Receipt::sign(&alice(), &domain, next, tokens(5), [7; 32]).into_unverified();
        assert_eq!(story.refuses(Command::Redeem { receipt: unopened }), Refusal::UnknownChannel);
    }

    #[test]
    fn altered_receipt_is_worth_nothing() {
        let mut story = Story::with_channel();
        let Command::Redeem { receipt } = story.receipt(5) else { unreachable!() };
        let bytes = receipt.encode();
        let mut refused = 0;
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 1;
            let Ok(receipt) = Receipt::decode(&altered) else {
                continue;
            };
            assert_eq!(story.refuses(Command::Redeem { receipt }), Refusal::ReceiptSignatureInvalid, "byte {at}");
            refused += 1;
        }
        assert!(refused > 140, "most of the receipt is content: {refused}");
        story.does(Command::Redeem { receipt });
    }

    #[test]
    fn top_up_adds_to_what_can_be_redeemed() {
        let mut story = Story::with_channel();
        let receipt = story.receipt(61);
        let refusal = Refusal::TotalExceedsDeposit { total: tokens(61), deposit: tokens(60) };
        assert_eq!(story.refuses(receipt.clone()), refusal);
        story.does(Command::TopUp { channel: story.channel, amount: tokens(1) });
        story.does(receipt);
        assert_eq!((story.holds(story.alice), story.holds(BOB)), (39, 61));
    }

    #[test]
    fn no_deposit_leaves_before_the_notice_ends() {
        let mut story = Story::with_channel();
        let channel = story.channel;
        assert_eq!(story.refuses(Command::Finalize { channel }), Refusal::CloseNotStarted);
        let exit = UnixTime::from_seconds(1100);
        assert_eq!(story.does(Command::StartClose { channel }), Event::CloseStarted { channel, exit });
        assert_eq!(story.refuses(Command::StartClose { channel }), Refusal::CloseAlreadyStarted { exit });
        let top_up = Command::TopUp { channel, amount: tokens(1) };
        assert_eq!(story.refuses(top_up), Refusal::CloseAlreadyStarted { exit });

        story.now = 1099;
        let now = UnixTime::from_seconds(1099);
        assert_eq!(story.refuses(Command::Finalize { channel }), Refusal::NoticeNotOver { exit, now });
        story.now = 1100;
        let refunded = tokens(60);
        assert_eq!(story.does(Command::Finalize { channel }), Event::Finalized { channel, refunded });
        assert_eq!(story.holds(story.alice), 100);
    }

    #[test]
    fn redeeming_stays_open_until_the_channel_has_ended() {
        let mut story = Story::with_channel();
        let channel = story.channel;
        let [first, second, third] = [10, 20, 30].map(|total| story.receipt(total));
        story.does(Command::StartClose { channel });
        story.does(first);
        story.now = 5000;
        story.does(second);
        let refunded = tokens(40);
        assert_eq!(story.does(Command::Finalize { channel }), Event::Finalized { channel, refunded });
        assert_eq!(story.refuses(third), Refusal::ChannelClosed);
        assert_eq!((story.holds(story.alice), story.holds(BOB)), (80, 20));
    }

    #[test]
    fn clock_that_falls_back_cuts_no_notice_short() {
        let mut story = Story::with_channel();
        story.now = 0;
        let exit = UnixTime::from_seconds(1100);
        let started = story.does(Command::StartClose { channel: story.channel });
        assert_eq!(started, Event::CloseStarted { channel: story.channel, exit });
    }

    #[test]
    fn both_together_end_a_channel_at_once() {
        let mut story = Story::with_channel();
        let channel = story.channel;
        let first = story.receipt(10);
        story.does(first);
        let close = |total| Command::MutualClose { channel, total: tokens(total) };
        let backwards = Refusal::TotalWentBackwards { total: tokens(9), redeemed: tokens(10) };
        assert_eq!(story.refuses(close(9)), backwards);
        let exceeds = Refusal::TotalExceedsDeposit { total: tokens(61), deposit: tokens(60) };
        assert_eq!(story.refuses(close(61)), exceeds);
        let closed = story.does(close(25));
        let [total, paid, refunded] = [25, 15, 35].map(tokens);
        assert_eq!(closed, Event::MutuallyClosed { channel, total, paid, refunded });
        assert_eq!((story.holds(story.alice), story.holds(BOB)), (75, 25));
    }

    #[test]
    fn closed_channel_stays_closed_and_on_record() {
        let mut story = Story::with_channel();
        let channel = story.channel;
        let total = tokens(25);
        story.does(Command::MutualClose { channel, total });
        let receipt = story.receipt(30);
        for command in [
            receipt,
            Command::TopUp { channel, amount: tokens(1) },
            Command::StartClose { channel },
            Command::Finalize { channel },
            Command::MutualClose { channel, total },
        ] {
            assert_eq!(story.refuses(command), Refusal::ChannelClosed);
        }
        let record = Channel { deposit: tokens(60), redeemed: total, phase: Phase::Closed };
        assert_eq!(story.the_channel(), record);
        let again = story.does(Command::OpenChannel { payer: story.alice, payee: BOB, deposit: tokens(1) });
        let next = ChannelId { nonce: 2, ..channel };
        assert_eq!(again, Event::ChannelOpened { channel: next, deposit: tokens(1) });
    }

    #[test]
    fn unknown_channel_is_unknown_to_every_command() {
        let mut story = Story::begin();
        let channel = story.channel;
        let receipt = story.receipt(1);
        for command in [
            receipt,
            Command::TopUp { channel, amount: tokens(1) },
            Command::StartClose { channel },
            Command::Finalize { channel },
            Command::MutualClose { channel, total: tokens(1) },
        ] {
            assert_eq!(story.refuses(command), Refusal::UnknownChannel);
        }
    }

    #[test]
    fn those_who_must_agree_are_those_who_lose() {
        let story = Story::with_channel();
        let (alice, channel, amount) = (story.alice, story.channel, tokens(1));
        for (command, principals) in [
            (Command::Mint { by: TREASURER, to: BOB, amount }, vec![TREASURER]),
            (Command::Transfer { from: alice, to: BOB, amount }, vec![alice]),
            (Command::OpenChannel { payer: alice, payee: BOB, deposit: amount }, vec![alice]),
            (Command::TopUp { channel, amount }, vec![alice]),
            (story.receipt(1), vec![]),
            (Command::StartClose { channel }, vec![alice]),
            (Command::Finalize { channel }, vec![]),
            (Command::MutualClose { channel, total: amount }, vec![alice, BOB]),
        ] {
            assert_eq!(command.principals(), principals, "{command:?}");
        }
    }
}
