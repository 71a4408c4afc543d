//! A community's ledger, whichever engine keeps it.
//!
//! [`Ledger`] is the trait to program against. With the feature `embedded` (the default), [`Embedded`] keeps it in an
//! SQLite file of this machine.
#![forbid(unsafe_code)]

#[cfg(feature = "embedded")]
mod embedded;

use std::error::Error as StdError;
use std::fmt;

use metering::{ChannelId, LedgerDomain, NodeId, Receipt, Tokens};
use thiserror::Error;

#[cfg(feature = "embedded")]
pub use embedded::system_clock;
pub use ledger_core::{
    Channel, Entry, Event, Genesis, GenesisError, Head, Phase, Refusal, Totals, UnixTime,
};
#[cfg(feature = "embedded")]
pub use ledger_embedded::{Clock, CreateError, Embedded};

/// A ledger: accounts, channels, and the log of what happened to them.
///
/// When a call that changes something returns, the change is durable; after an error nothing has changed. Amounts are
/// in base units of the token that [`Ledger::genesis`] names.
///
/// Accounts do not sign commands yet: who may open the ledger's file may speak for every account, and the ledger takes
/// it from the names given here. Receipts are signed, and their signatures are checked by the ledger itself.
pub trait Ledger: Send {
    /// What the ledger was founded on.
    fn genesis(&self) -> &Genesis;

    /// What receipts are signed for to be good on this ledger.
    fn domain(&self) -> LedgerDomain {
        self.genesis().domain()
    }

    /// What an account holds: nothing, where it was never heard of.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; so in all calls below that only read.
    fn balance(&mut self, account: NodeId) -> Result<Tokens, Error>;

    /// A channel's record, or `None` where it was never opened.
    ///
    /// # Errors
    /// As [`Ledger::balance`].
    fn channel(&mut self, channel: ChannelId) -> Result<Option<Channel>, Error>;

    /// The channels an account pays or is paid on, closed ones too, in order of their ids.
    ///
    /// # Errors
    /// As [`Ledger::balance`].
    fn channels_of(&mut self, account: NodeId) -> Result<Vec<(ChannelId, Channel)>, Error>;

    /// The highest nonce of the channels this payer opened for this payee. Nonces start at 1.
    ///
    /// # Errors
    /// As [`Ledger::balance`].
    fn latest_nonce(&mut self, payer: NodeId, payee: NodeId) -> Result<Option<u64>, Error>;

    /// Where all tokens are.
    ///
    /// # Errors
    /// As [`Ledger::balance`].
    fn totals(&mut self) -> Result<Totals, Error>;

    /// Size and root of the log.
    ///
    /// # Errors
    /// As [`Ledger::balance`].
    fn head(&mut self) -> Result<Head, Error>;

    /// A page of the log: the entries from number `from` on, none past its end. Entry 0 is the founding. Ask again from
    /// where the page ended.
    ///
    /// # Errors
    /// As [`Ledger::balance`].
    fn entries(&mut self, from: u64) -> Result<Vec<Entry>, Error>;

    /// Makes `amount` for `to`. Only in the treasurer's name.
    ///
    /// # Errors
    /// [`Error::Refused`] names the rule that forbids it; [`Error::Unavailable`] as above. So in all calls below.
    fn mint(&mut self, by: NodeId, to: NodeId, amount: Tokens) -> Result<(), Error>;

    /// Gives `amount` of what `from` holds to `to`.
    ///
    /// # Errors
    /// As [`Ledger::mint`].
    fn transfer(&mut self, from: NodeId, to: NodeId, amount: Tokens) -> Result<(), Error>;

    /// Locks `deposit` of what `payer` holds for `payee`, in the pair's next channel.
    ///
    /// # Errors
    /// As [`Ledger::mint`].
    fn open_channel(
        &mut self,
        payer: NodeId,
        payee: NodeId,
        deposit: Tokens,
    ) -> Result<ChannelId, Error>;

    /// Locks `amount` more in an open channel.
    ///
    /// # Errors
    /// As [`Ledger::mint`].
    fn top_up(&mut self, channel: ChannelId, amount: Tokens) -> Result<(), Error>;

    /// Pays the payee the receipt's amount less all that was redeemed before, and returns what that was.
    ///
    /// # Errors
    /// As [`Ledger::mint`]. The same receipt again is [`Refusal::ReceiptAlreadyRedeemed`], a lower one
    /// [`Refusal::TotalWentBackwards`].
    fn redeem(&mut self, receipt: Receipt) -> Result<Tokens, Error>;

    /// Redeems many receipts, in order, each with its own answer: what was paid or why not. One that is stale or bad is
    /// skipped and does not undo the others.
    ///
    /// # Errors
    /// [`Error::Unavailable`]; then none was redeemed.
    fn redeem_many(&mut self, receipts: &[Receipt]) -> Result<Vec<Result<Tokens, Refusal>>, Error>;

    /// Gives the payee notice that the payer wants what is left, and returns when the notice is over.
    ///
    /// # Errors
    /// As [`Ledger::mint`].
    fn start_close(&mut self, channel: ChannelId) -> Result<UnixTime, Error>;

    /// Gives the payer what is left when the notice is over, and returns how much that was.
    ///
    /// # Errors
    /// As [`Ledger::mint`].
    fn finalize(&mut self, channel: ChannelId) -> Result<Tokens, Error>;

    /// Ends the channel at once, in both names: the payee has `total` of it, cumulative as in a receipt, and the payer
    /// gets the rest back.
    ///
    /// # Errors
    /// As [`Ledger::mint`].
    fn mutual_close(&mut self, channel: ChannelId, total: Tokens) -> Result<(), Error>;

    /// Replays the whole log by the rules and compares what comes out with what the ledger says: whether every rule held.
    ///
    /// # Errors
    /// [`Error::Unavailable`], where it could not be read.
    fn audit(&mut self) -> Result<Verdict, Error>;
}

/// What an audit found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every rule held.
    Kept {
        /// Size and root of the log that was replayed.
        head: Head,
        /// Where all tokens are.
        totals: Totals,
    },
    /// Something is wrong.
    Broken {
        /// The first thing that is, in words.
        difference: String,
    },
}

/// Why the ledger did not do or say what it was asked. Nothing has changed.
#[derive(Debug, Error)]
pub enum Error {
    /// A rule forbids it: ask for something else.
    #[error("the ledger refuses it ({}): {_0}", _0.rule())]
    Refused(Refusal),
    /// The ledger cannot be reached or used.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl Error {
    /// The rule that forbids it, if that is the reason.
    #[must_use]
    pub const fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Refused(refusal) => Some(*refusal),
            Self::Unavailable(_) => None,
        }
    }
}

/// Why the ledger cannot be reached or used: the engine's reason, and who can do something about it.
#[derive(Debug)]
pub struct Unavailable {
    /// Whether the same call may succeed later without anyone's help.
    pub retry: bool,
    /// The engine's reason, which is what this error prints.
    pub reason: Box<dyn StdError + Send + Sync>,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl StdError for Unavailable {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.reason.source()
    }
}
