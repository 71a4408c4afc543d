//! A whole ledger in memory: what an auditor rebuilds from the log, and what the rules are tested on.

use std::collections::BTreeMap;
use std::convert::Infallible;

use metering::{ChannelId, NodeId, Tokens};
use thiserror::Error;

use crate::records::NotConserved;
use crate::rules::{ExecuteError, execute};
use crate::{
    Channel, Command, Entry, EntryError, Event, Genesis, Head, Records, Refusal, Totals, Tree,
    UnixTime, merkle,
};

/// All accounts and channels of a ledger, and the head of its log.
///
/// [`State::found`] begins one; [`State::execute`] makes things happen; [`State::replay`] checks that what a log says
/// happened by the rules.
#[derive(Clone, Debug)]
pub struct State {
    genesis: Genesis,
    time: UnixTime,
    totals: Totals,
    balances: BTreeMap<NodeId, Tokens>,
    channels: BTreeMap<ChannelId, Channel>,
    tree: Tree,
}

/// Why a log cannot be what happened.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReplayError {
    /// An entry does not read.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// The log does not begin with a founding, or has a second one.
    #[error("a log has one founding, at its beginning")]
    Founding,
    /// The rules forbid it.
    #[error("the rules forbid it ({}): {refusal}", refusal.rule())]
    Refused {
        /// Which.
        refusal: Refusal,
    },
    /// The rules give another outcome.
    #[error("by the rules it would be {expected:?}")]
    Differs {
        /// What it should say.
        expected: Box<Entry>,
    },
    /// The rules themselves made or lost tokens.
    #[error(transparent)]
    NotConserved(#[from] NotConserved),
}

impl State {
    /// A ledger with its founding as the only entry.
    #[must_use]
    pub fn found(genesis: Genesis) -> Self {
        let mut state = Self {
            time: genesis.founded(),
            totals: Totals::default(),
            balances: BTreeMap::new(),
            channels: BTreeMap::new(),
            tree: Tree::default(),
            genesis,
        };
        let founding = founding(&state.genesis);
        state.tree.append(merkle::leaf_hash(&founding.encode()));
        state
    }

    /// The ledger that begins with this encoded entry.
    ///
    /// # Errors
    /// [`ReplayError`], where it is no founding.
    pub fn replay_founding(entry: &[u8]) -> Result<Self, ReplayError> {
        let entry = Entry::decode(entry)?;
        let Event::Founded(genesis) = &entry.event else {
            return Err(ReplayError::Founding);
        };
        if entry == founding(genesis) {
            Ok(Self::found(genesis.clone()))
        } else {
            Err(ReplayError::Founding)
        }
    }

    /// Checks that the next encoded entry of the log is what the rules make of it, and lets it happen.
    ///
    /// # Errors
    /// [`ReplayError`]; the state is not to be used further.
    pub fn replay(&mut self, entry: &[u8]) -> Result<(), ReplayError> {
        let entry = Entry::decode(entry)?;
        let command = entry.event.command().ok_or(ReplayError::Founding)?;
        let expected = execute(self, entry.at, &command).map_err(|error| match error {
            ExecuteError::Refused(refusal) => ReplayError::Refused { refusal },
            ExecuteError::NotConserved(error) => error.into(),
            ExecuteError::Records(never) => match never {},
        })?;
        if expected == entry {
            Ok(())
        } else {
            Err(ReplayError::Differs {
                expected: Box::new(expected),
            })
        }
    }

    /// Carries out one command, as [`execute`] does.
    ///
    /// # Errors
    /// [`ExecuteError`]
    pub fn execute(
        &mut self,
        now: UnixTime,
        command: &Command,
    ) -> Result<Entry, ExecuteError<Infallible>> {
        execute(self, now, command)
    }

    /// Size and root of the log.
    #[must_use]
    pub fn head(&self) -> Head {
        self.tree.head()
    }

    /// All accounts that ever held something, in order.
    #[must_use]
    pub const fn balances(&self) -> &BTreeMap<NodeId, Tokens> {
        &self.balances
    }

    /// All channels that were ever opened, in order.
    #[must_use]
    pub const fn channels(&self) -> &BTreeMap<ChannelId, Channel> {
        &self.channels
    }
}

/// Entry 0 of a ledger.
#[must_use]
pub fn founding(genesis: &Genesis) -> Entry {
    Entry {
        at: genesis.founded(),
        event: Event::Founded(genesis.clone()),
    }
}

impl Records for State {
    type Error = Infallible;

    fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    fn time(&self) -> UnixTime {
        self.time
    }

    fn totals(&self) -> Totals {
        self.totals
    }

    fn balance(&self, account: NodeId) -> Result<Tokens, Infallible> {
        Ok(self.balances.get(&account).copied().unwrap_or_default())
    }

    fn channel(&self, id: ChannelId) -> Result<Option<Channel>, Infallible> {
        Ok(self.channels.get(&id).copied())
    }

    fn latest_nonce(&self, payer: NodeId, payee: NodeId) -> Result<Option<u64>, Infallible> {
        let [first, last] = [0, u64::MAX].map(|nonce| ChannelId {
            payer,
            payee,
            nonce,
        });
        Ok(self
            .channels
            .range(first..=last)
            .next_back()
            .map(|(id, _)| id.nonce))
    }

    fn set_totals(&mut self, totals: Totals) {
        self.totals = totals;
    }

    fn set_balance(&mut self, account: NodeId, balance: Tokens) -> Result<(), Infallible> {
        self.balances.insert(account, balance);
        Ok(())
    }

    fn set_channel(&mut self, id: ChannelId, channel: Channel) -> Result<(), Infallible> {
        self.channels.insert(id, channel);
        Ok(())
    }

    fn append(&mut self, entry: &Entry) -> Result<(), Infallible> {
        self.time = entry.at;
        self.tree.append(merkle::leaf_hash(&entry.encode()));
        Ok(())
    }
}
