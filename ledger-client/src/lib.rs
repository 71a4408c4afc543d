//! A community's ledger, whichever engine keeps it.
//!
//! [`Ledger`] is the trait to program against. With the feature `embedded` (the default), [`Embedded`] keeps it in an
//! SQLite file of this machine, and signs what an account orders. With `remote`, [`Remote`] acts on one that another machine
//! serves, and with `serve` this machine is the one ([`server`]).
#![forbid(unsafe_code)]

#[cfg(feature = "embedded")]
mod embedded;
#[cfg(feature = "remote")]
mod remote;
pub mod witness;

use std::error::Error as StdError;
use std::fmt;
use std::time::{Duration, Instant};

use metering::{ChannelId, Close, LedgerDomain, NodeId, Receipt, Tokens};
use thiserror::Error;

#[cfg(feature = "embedded")]
pub use embedded::{Embedded, fresh_nonce, system_clock};
pub use ledger_core::checkpoint;
pub use ledger_core::enrolment::Code;
pub use ledger_core::fact::Fact;
pub use ledger_core::membership::Membership;
pub use ledger_core::name::{Holder, Name, NameError, Named, keeps};
pub use ledger_core::note::Note;
pub use ledger_core::registry::Registration;
pub use ledger_core::role::Role;
pub use ledger_core::share::{Holding, Pool};
pub use ledger_core::signer::consent;
pub use ledger_core::voucher::Paper;
pub use ledger_core::{
    Account, Channel, Command, Entry, Event, Genesis, GenesisError, Head, Phase, Refusal, Request, Totals, UnixTime,
};
pub use ledger_core::{Records, State};
#[cfg(feature = "embedded")]
pub use ledger_embedded::{
    Audit, Clock, CreateError, Error as EmbeddedError, ExportError, Progress, RestoreError, Verdict as FileVerdict,
    audit_export,
};
#[cfg(feature = "remote")]
pub use ledger_http::client::{Address, AddressError};
#[cfg(feature = "serve")]
pub use ledger_http::trust::pin_text;
#[cfg(feature = "remote")]
pub use remote::{Abandoned, Remote, RemoteError, Served};

pub use witness::{Comparison, Evidence, WitnessKey};

/// Serving a ledger's file to others.
#[cfg(feature = "serve")]
pub mod server {
    pub use ledger_http::server::{Places, Rate, ServeError, Server, Settings};
    pub use ledger_http::trust::{TlsError, certified, self_signed};
}

/// The public key of a ledger: it signs checkpoints, and is named after the ledger.
pub type LogKey = ledger_core::note::NoteKey<ledger_core::note::Log>;

/// What a ledger's founding, entry 0 of its log, says; `None`: it is none.
#[must_use]
pub fn read_founding(bytes: &[u8]) -> Option<Genesis> {
    let Event::Founded(genesis) = Entry::decode(bytes).ok()?.event else { return None };
    Some(genesis)
}

/// What signs checkpoints in a ledger's name.
pub type LogSigner = ledger_core::note::NoteSigner<ledger_core::note::Log>;

/// A ledger: accounts, channels, and the log of what happened to them.
///
/// When a call that changes something returns, the change is durable; after an error nothing has changed. Amounts are
/// in base units of the token that [`Ledger::genesis`] names.
///
/// It acts in the name of one account, with that account's key: what needs an order is signed here, and the ledger checks
/// every signature and keeps it in its log. What carries its own proof (a receipt) or can harm nobody (the end of a notice)
/// needs no account. Without a key it can only look, redeem and finalize; the rest is [`Error::NoKey`].
pub trait Ledger: Send {
    /// What the ledger was founded on.
    fn genesis(&self) -> &Genesis;

    /// What receipts are signed for to be good on this ledger.
    fn domain(&self) -> LedgerDomain {
        self.genesis().domain()
    }

    /// Bounds how long all calls from now on may take together, until this is called again. What a ledger on another machine has
    /// not answered by then is [`Error::Unavailable`], as if it were away; one in a file of this machine keeps nobody waiting.
    fn within(&mut self, limit: Duration) {
        let _nobody_waits = limit;
    }

    /// What the clock of whoever serves the ledger said when it last answered, in seconds since 1970, and when that was; `None`: it
    /// has not, or the ledger is a file of this machine and has its clock.
    fn told_time(&self) -> Option<(u64, Instant)> {
        None
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

    /// The key that signs receipts on a channel and offers to close it, as the account it would be of: the payer's own, unless
    /// another signed for it when the channel was opened.
    ///
    /// # Errors
    /// As [`Ledger::balance`].
    fn channel_signer(&mut self, channel: ChannelId) -> Result<NodeId, Error>;

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

    /// Which of these accounts are members, or were, in their order.
    ///
    /// # Errors
    /// As [`Ledger::balance`].
    fn memberships(&mut self, accounts: &[NodeId]) -> Result<Vec<Option<Membership>>, Error>;

    /// Becomes a member by a code. Until when.
    ///
    /// # Errors
    /// As [`Ledger::mint`].
    fn enrol(&mut self, code: &Code) -> Result<UnixTime, Error>;

    /// Who has a name, as far as the account itself has signed that it is its node's; whether it is a member still is another
    /// question.
    ///
    /// # Errors
    /// As [`Ledger::balance`].
    fn named(&mut self, name: Name) -> Result<Option<Holder>, Error>;

    /// A page of the names that somebody has, in order: those behind `after`, each as [`Ledger::named`] has it, and none past the
    /// last.
    ///
    /// # Errors
    /// As [`Ledger::balance`].
    fn names(&mut self, after: Option<Name>) -> Result<Vec<Named>, Error>;

    /// Takes a name for the node with this WireGuard key.
    ///
    /// # Errors
    /// As [`Ledger::mint`].
    fn claim_name(&mut self, name: Name, wireguard: [u8; 32]) -> Result<(), Error>;

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

    /// Makes `amount` for `to`. The treasurer's alone.
    ///
    /// # Errors
    /// [`Error::Refused`] names the rule that forbids it; [`Error::NoKey`]; [`Error::Unavailable`] as above. So in all
    /// calls below.
    fn mint(&mut self, to: NodeId, amount: Tokens) -> Result<(), Error>;

    /// Gives `amount` of what the account holds to `to`.
    ///
    /// # Errors
    /// As [`Ledger::mint`].
    fn transfer(&mut self, to: NodeId, amount: Tokens) -> Result<(), Error>;

    /// Locks `deposit` of what the account holds for `payee`, in the pair's next channel.
    ///
    /// # Errors
    /// As [`Ledger::mint`].
    fn open_channel(&mut self, payee: NodeId, deposit: Tokens) -> Result<ChannelId, Error>;

    /// Locks `amount` more in an open channel that the account pays on.
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

    /// Gives the payee notice that the account, which pays on the channel, wants what is left, and returns when the notice is over.
    ///
    /// # Errors
    /// As [`Ledger::mint`].
    fn start_close(&mut self, channel: ChannelId) -> Result<UnixTime, Error>;

    /// Gives the payer what is left when the notice is over, and returns how much that was.
    ///
    /// # Errors
    /// As [`Ledger::mint`].
    fn finalize(&mut self, channel: ChannelId) -> Result<Tokens, Error>;

    /// Ends a channel that the account is paid on at once, as its payer has offered: the payee has the offer's total of it,
    /// cumulative as in a receipt, and the payer gets the rest back.
    ///
    /// # Errors
    /// As [`Ledger::mint`].
    fn mutual_close(&mut self, close: Close) -> Result<(), Error>;

    /// The newest checkpoint that a served ledger has shown here and that was accepted. None where this machine has the
    /// ledger itself, and nobody shows it anything.
    fn newest_checkpoint(&self) -> Option<Note> {
        None
    }

    /// Holds a checkpoint that somebody else was shown against what this ledger shows here. Evidence against the ledger is
    /// kept on this machine's disk until somebody removes it; while it is there, nothing locks tokens on the ledger.
    ///
    /// # Errors
    /// As [`Ledger::balance`].
    fn compare(&mut self, note: &Note, told_by: &str) -> Result<Comparison, Error> {
        let _nothing_is_shown = (note, told_by);
        Ok(Comparison::Same)
    }

    /// What was found against the ledger, in words, if anything was: it has told two stories, or done what it had refused.
    fn found(&self) -> Option<String> {
        None
    }

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
    /// The ledger was opened without an account's key, only to look: we misused it.
    #[error("this takes an account's key, and the ledger was opened without one")]
    NoKey,
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
            Self::NoKey | Self::Unavailable(_) => None,
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

#[cfg(feature = "embedded")]
#[cfg(test)]
mod tests {
    use metering::AccountKey;

    use super::*;

    fn key(byte: u8) -> AccountKey {
        AccountKey::from_bytes(&[byte; 32]).unwrap()
    }

    fn tokens(n: u128) -> Tokens {
        Tokens::new(n).unwrap()
    }

    /// Routers sign and check receipts with the key that an account is named after: on such a channel they would be worth nothing.
    #[test]
    fn a_channel_says_whose_signature_its_receipts_need() {
        let directory = tempfile::tempdir().unwrap();
        let [treasurer, old, new, bob] = [0xee, 0xa1, 0xa2, 0xb0].map(key);
        let alice = old.node_id();
        let genesis = Genesis::new("Hilltop", "HILL", 6, treasurer.node_id(), system_clock()(), [1; 16]).unwrap();
        let path = directory.path().join("ledger");
        let mut ledger = Embedded::create(&path, &genesis, system_clock()).unwrap().signed_by(treasurer);
        ledger.mint(alice, tokens(100)).unwrap();
        let mut ledger = ledger.signed_by(old.clone());
        let before = ledger.open_channel(bob.node_id(), tokens(10)).unwrap();
        // Her first order opened a channel.
        let consent = consent(&new, &genesis.domain(), alice, 2);
        ledger.order(Command::ChangeSigner { signer: new.node_id(), consent }).unwrap();
        let mut ledger = ledger.acting_for(alice, new.clone());
        let after = ledger.open_channel(bob.node_id(), tokens(10)).unwrap();
        assert_eq!(ledger.channel_signer(before).unwrap(), alice);
        assert_eq!(ledger.channel_signer(after).unwrap(), new.node_id());
        let receipt = |channel| Receipt::sign(&old, &genesis.domain(), channel, tokens(5), [0; 32]);
        assert_eq!(ledger.redeem(receipt(before)).unwrap(), tokens(5));
        assert_eq!(ledger.redeem(receipt(after)).unwrap_err().refusal(), Some(Refusal::ReceiptSignatureInvalid));
    }

    #[test]
    fn who_opens_a_ledger_without_a_key_orders_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let genesis = Genesis::new("Hilltop", "HILL", 6, key(1).node_id(), system_clock()(), [1; 16]).unwrap();
        let mut ledger = Embedded::create(&directory.path().join("ledger"), &genesis, system_clock()).unwrap();
        let error = ledger.mint(key(1).node_id(), tokens(1)).unwrap_err();
        assert!(matches!(error, Error::NoKey), "{error}");
        assert_eq!(ledger.head().unwrap().size, 1);
    }

    #[test]
    fn ledger_that_is_not_there_says_so_in_one_line() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("ledger");
        let error = Error::from(Embedded::open(&missing, system_clock()).unwrap_err());
        assert_eq!(error.to_string(), format!("there is no ledger at {}", missing.display()));
        assert!(matches!(error, Error::Unavailable(Unavailable { retry: false, .. })));
    }
}
