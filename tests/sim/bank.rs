//! The one ledger of a world: the rulebook itself, in memory.

use ledger_core::records::Records;
use ledger_core::{Channel, Command, Entry, ExecuteError, Genesis, Order, Phase, Refusal, Request, State, UnixTime};
use metering::{AccountKey, ChannelId, ChannelState, Identity, LedgerDomain, NodeId, Receipt, Tokens};

use crate::Time;

/// What a payer locks at a time, in multiples of what is asked for: so that the ledger is not asked for each window.
const LOCKED_AHEAD: u128 = 8;

/// A ledger, and an independent look at whether it made or lost a token.
#[derive(Debug)]
pub(crate) struct Bank {
    state: State,
    treasurer: AccountKey,
    minted: Tokens,
    /// Bytes of every entry since [`Bank::take_log`] was last asked.
    log: Vec<u8>,
}

impl Bank {
    pub(crate) fn new(treasurer: &Identity) -> Self {
        let treasurer = treasurer.account().clone();
        let founded = UnixTime::from_seconds(0);
        let genesis = Genesis::new("Simulated", "SIM", 6, treasurer.node_id(), founded, [0; 16]).expect("good names");
        Self { state: State::found(genesis), treasurer, minted: Tokens::ZERO, log: Vec::new() }
    }

    pub(crate) fn domain(&self) -> LedgerDomain {
        self.state.genesis().domain()
    }

    pub(crate) fn mint(&mut self, now: Time, to: NodeId, amount: Tokens) {
        let mint = self.order(&self.treasurer, Command::Mint { to, amount });
        self.execute(now, &mint).expect("the treasurer may mint");
        self.minted = self.minted.checked_add(amount).expect("a small supply");
    }

    /// Opens a channel or tops it up, so that `at_least` is in it in all. A payer without the money gets what there is.
    pub(crate) fn fund(
        &mut self,
        now: Time,
        key: &AccountKey,
        payee: NodeId,
        at_least: Tokens,
    ) -> Option<ChannelState> {
        let payer = key.node_id();
        let wanted = Tokens::new(at_least.get().saturating_mul(LOCKED_AHEAD)).unwrap_or(Tokens::MAX);
        let open = self.newest(payer, payee).filter(|(_, channel)| channel.phase == Phase::Open);
        let missing = wanted.saturating_sub(open.map_or(Tokens::ZERO, |(_, channel)| channel.deposit));
        let amount = missing.min(self.balance(payer));
        let command = match open {
            Some((channel, _)) => Command::TopUp { channel, amount },
            None => Command::OpenChannel { payee, deposit: amount },
        };
        // Refused where there is nothing to lock; what there is then is the answer.
        let order = self.order(key, command);
        let _refused = self.execute(now, &order).err();
        self.newest(payer, payee).map(|(id, channel)| state_of(id, &channel))
    }

    /// The newest channel between the two.
    pub(crate) fn newest_state(&self, payer: NodeId, payee: NodeId) -> Option<ChannelState> {
        self.newest(payer, payee).map(|(id, channel)| state_of(id, &channel))
    }

    /// A channel.
    pub(crate) fn state(&self, id: ChannelId) -> Option<ChannelState> {
        self.state.channels().get(&id).map(|channel| state_of(id, channel))
    }

    /// Redeems a receipt; the amount paid, or the rule that forbids it.
    pub(crate) fn redeem(&mut self, now: Time, receipt: &Receipt) -> Result<Tokens, Refusal> {
        let before = self.redeemed(receipt.channel());
        self.execute(now, &Request::Redeem { receipt: receipt.into_unverified() })?;
        let after = self.redeemed(receipt.channel());
        Ok(after.checked_sub(before).expect("what was redeemed only grows"))
    }

    pub(crate) fn redeemed(&self, channel: ChannelId) -> Tokens {
        self.state.channels().get(&channel).map_or(Tokens::ZERO, |channel| channel.redeemed)
    }

    pub(crate) fn balance(&self, account: NodeId) -> Tokens {
        self.state.balances().get(&account).copied().unwrap_or_default()
    }

    /// Minted, held and locked, added up from the records themselves and not from the ledger's running sums.
    pub(crate) fn sums(&self) -> [Tokens; 3] {
        let held = self.state.balances().values().copied();
        let locked = self.state.channels().values().map(Channel::locked);
        let add = |sum: Tokens, next| sum.checked_add(next).expect("at most what was minted");
        [self.minted, held.fold(Tokens::ZERO, add), locked.fold(Tokens::ZERO, add)]
    }

    /// The entries since the last call, as bytes.
    pub(crate) fn take_log(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.log)
    }

    fn newest(&self, payer: NodeId, payee: NodeId) -> Option<(ChannelId, Channel)> {
        let [first, last] = [0, u64::MAX].map(|nonce| ChannelId { payer, payee, nonce });
        self.state.channels().range(first..=last).next_back().map(|(id, channel)| (*id, *channel))
    }

    /// The command as the account's next order.
    fn order(&self, key: &AccountKey, command: Command) -> Request {
        let Ok(last) = self.state.sequence(key.node_id());
        Request::Order(Order::sign(key, &self.domain(), key.node_id(), last + 1, command).into_unverified())
    }

    fn execute(&mut self, now: Time, request: &Request) -> Result<Entry, Refusal> {
        match self.state.execute(UnixTime::from_seconds(now.as_secs()), request) {
            Ok(entry) => {
                self.log.extend(entry.encode());
                Ok(entry)
            }
            Err(ExecuteError::Refused(refusal)) => Err(refusal),
            Err(other) => panic!("the ledger broke: {other:?}"),
        }
    }
}

fn state_of(id: ChannelId, channel: &Channel) -> ChannelState {
    ChannelState {
        nonce: id.nonce,
        deposit: channel.deposit,
        redeemed: channel.redeemed,
        closing: channel.phase != Phase::Open,
    }
}
