//! What the tests of the rules have in common: a small ledger, four people, and what they say to it.

use metering::{AccountKey, ChannelId, Close, NodeId, Receipt, Tokens};

use crate::fact::Fact;
use crate::role::{Held, Role};
use crate::{Channel, Command, Event, ExecuteError, Genesis, Order, Records, Refusal, Request, State, UnixTime};

pub(crate) const NOTICE_S: u32 = 100;

/// Somebody, by the function that gives their key.
pub(crate) type Who = fn() -> AccountKey;

pub(crate) fn treasurer() -> AccountKey {
    AccountKey::from_bytes(&[0xee; 32]).unwrap()
}

pub(crate) fn alice() -> AccountKey {
    AccountKey::from_bytes(&[0xa1; 32]).unwrap()
}

pub(crate) fn bob() -> AccountKey {
    AccountKey::from_bytes(&[0xb0; 32]).unwrap()
}

pub(crate) fn carol() -> AccountKey {
    AccountKey::from_bytes(&[0xca; 32]).unwrap()
}

pub(crate) fn id(who: Who) -> NodeId {
    who().node_id()
}

pub(crate) fn tokens(n: u128) -> Tokens {
    Tokens::new(n).unwrap()
}

/// A ledger at second 1000 where Alice holds 100 tokens, and what is said to it.
pub(crate) struct Story {
    pub(crate) state: State,
    pub(crate) now: u64,
    /// The channel from Alice to Bob, opened or not.
    pub(crate) channel: ChannelId,
}

impl Story {
    pub(crate) fn begin() -> Self {
        let founded = UnixTime::from_seconds(1000);
        let genesis = Genesis::new("Hilltop", "HILL", 6, id(treasurer), founded, [1; 16]).unwrap();
        let state = State::found(genesis.with_close_notice(NOTICE_S));
        let channel = ChannelId { payer: id(alice), payee: id(bob), nonce: 1 };
        let mut story = Self { state, now: 1000, channel };
        story.does(treasurer, Command::Mint { to: id(alice), amount: tokens(100) });
        story
    }

    /// The same with a channel of 60 from Alice to Bob.
    pub(crate) fn with_channel() -> Self {
        let mut story = Self::begin();
        story.does(alice, Command::OpenChannel { payee: id(bob), deposit: tokens(60) });
        story
    }

    /// Makes somebody a member for ever.
    pub(crate) fn joins(&mut self, who: Who) {
        if !self.state.facts().contains_key(&Held::place(&(Role::Issuer, id(treasurer)))) {
            self.does(treasurer, Command::Appoint { role: Role::Issuer, to: id(treasurer) });
        }
        self.does(treasurer, Command::IssueMembership { to: id(who), until: UnixTime::MAX });
    }

    /// The command as the next order of somebody's.
    pub(crate) fn order(&self, who: Who, command: Command) -> Request {
        self.order_by(&who(), id(who), command)
    }

    /// The same, signed with another's key.
    pub(crate) fn order_by(&self, key: &AccountKey, account: NodeId, command: Command) -> Request {
        let sequence = self.state.sequence(account).unwrap() + 1;
        let domain = self.state.genesis().domain();
        Request::Order(Order::sign(key, &domain, account, sequence, command).into_unverified())
    }

    pub(crate) fn does(&mut self, who: Who, command: Command) -> Event {
        let order = self.order(who, command);
        self.makes(order)
    }

    pub(crate) fn refuses(&mut self, who: Who, command: Command) -> Refusal {
        let order = self.order(who, command);
        self.rejects(order)
    }

    pub(crate) fn makes(&mut self, request: Request) -> Event {
        self.says(request).unwrap()
    }

    pub(crate) fn rejects(&mut self, request: Request) -> Refusal {
        let before = self.state.head();
        let refusal = self.says(request).unwrap_err();
        assert_eq!(self.state.head(), before, "a refusal leaves no entry");
        refusal
    }

    pub(crate) fn says(&mut self, request: Request) -> Result<Event, Refusal> {
        let now = UnixTime::from_seconds(self.now);
        match self.state.execute(now, &request) {
            Ok(entry) => Ok(entry.event),
            Err(ExecuteError::Refused(refusal)) => Err(refusal),
            Err(error @ (ExecuteError::NotConserved(_) | ExecuteError::Unreadable)) => {
                panic!("{request:?}: {error}")
            }
            Err(ExecuteError::Records(never)) => match never {},
        }
    }

    pub(crate) fn receipt(&self, total: u128) -> Request {
        let domain = self.state.genesis().domain();
        let receipt = Receipt::sign(&alice(), &domain, self.channel, tokens(total), [7; 32]);
        Request::Redeem { receipt: receipt.into_unverified() }
    }

    pub(crate) fn close(&self, total: u128) -> Command {
        let domain = self.state.genesis().domain();
        let close = Close::sign(&alice(), &domain, self.channel, tokens(total));
        Command::MutualClose { close: close.into_unverified() }
    }

    pub(crate) fn holds(&self, account: NodeId) -> u128 {
        self.state.balance(account).unwrap().get()
    }

    pub(crate) fn the_channel(&self) -> Channel {
        self.state.channel(self.channel).unwrap().unwrap()
    }
}

/// The refusal of somebody who holds too little.
pub(crate) fn poor(who: Who, balance: u128, amount: u128) -> Refusal {
    Refusal::InsufficientBalance { account: id(who), balance: tokens(balance), amount: tokens(amount) }
}
