//! A community's ledger in one SQLite file, shared by the processes of one machine.
//!
//! [`Embedded`] is the type to start from. The rules are those of `ledger_core`, read and written through a transaction;
//! this crate adds none. Every request that is granted is one transaction that changes the tables and appends to the Merkle log; it is on
//! the disk before the call returns.
#![forbid(unsafe_code)]

mod ahead;
mod audit;
mod copy;
mod error;
mod export;
mod file;
mod look;
mod records;
mod seal;
mod transaction;
mod writer;

use std::fmt;
use std::path::{Path, PathBuf};

use ledger_core::merkle::{consistency_proof, inclusion_proof};
use ledger_core::note::{Log, Note, NoteSigner};
use ledger_core::{
    Channel, Command, Entry, ExecuteError, Genesis, Hash, Head, Order, Presented, Records, Refusal, Request, Totals,
    Tree, UnixTime, channel_signer, checkpoint,
};
use metering::{AccountKey, ChannelId, LedgerDomain, NodeId, Tokens};
use rusqlite::{Connection, TransactionBehavior};

pub use audit::{Audit, Difference, Verdict};
pub use copy::{Progress, RestoreError, write_whole};
pub use error::{CreateError, Error};
pub use export::{ExportError, audit_export};
pub use look::Standing;
pub use records::Proven;
pub use writer::{Answers, MAX_COMMIT, MAX_PROOFS_WAITING, MAX_WAITING, WriteError, Writer};

use transaction::Transaction;

/// Where a ledger gets the time from: the shell's clock, or a simulator's.
pub type Clock = Box<dyn Fn() -> UnixTime + Send>;

/// One opened ledger.
///
/// [`Embedded::create`] founds one, [`Embedded::open`] opens it, in as many processes as there are;
/// [`Embedded::execute`], [`Embedded::execute_many`] and [`Embedded::order`] make things happen; the rest only reads. Who
/// may write the file can still do nothing in another's name: every audit checks the signatures. Readers do not wait for
/// writers. A writer waits for another up to [`BUSY_TIMEOUT`]; where many ask one process, a [`Writer`] asks for them all.
pub struct Embedded {
    connection: Connection,
    path: PathBuf,
    genesis: Genesis,
    clock: Clock,
    /// What a person has said the time is.
    accepted: UnixTime,
}

pub use file::BUSY_TIMEOUT;

/// An entry, and where it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Its number in the log.
    pub number: u64,
    /// What happened.
    pub entry: Entry,
}

/// How far the clock may be ahead of the newest entry, in seconds: 400 days. A ledger in use rests for no longer, and a clock
/// that nobody has set stands anywhere. The ledger's time never runs backwards, so an entry of the year 2106 would end every
/// notice that runs, and no later one would ever end.
pub const MAX_REST_S: u32 = 400 * 24 * 60 * 60;

/// The most entries that [`Embedded::entries`] reads at once.
pub const MAX_PAGE: usize = 1000;

impl Embedded {
    /// Founds a ledger in a new file, readable by its owner only, and opens it.
    ///
    /// # Errors
    /// [`CreateError`]; a file that is there already is left as it is.
    pub fn create(path: &Path, genesis: &Genesis, clock: Clock) -> Result<Self, CreateError> {
        file::create(path, genesis)?;
        Ok(Self::open(path, clock)?)
    }

    /// Opens a ledger.
    ///
    /// # Errors
    /// [`Error`] names what the file is where it is not a ledger, and leaves it as it is.
    pub fn open(path: &Path, clock: Clock) -> Result<Self, Error> {
        let mut connection = file::open(path)?;
        let genesis = {
            let transaction = connection.transaction().map_err(|error| Error::sqlite(path, error))?;
            Transaction::begin(&transaction, None)
                .and_then(|begun| begun.check_head())
                .map_err(|fault| fault.at(path))?
        };
        Ok(Self { connection, path: path.to_owned(), genesis, clock, accepted: UnixTime::default() })
    }

    /// Opens a ledger that must be the one receipts for `domain` are good on.
    ///
    /// # Errors
    /// [`Error::OtherLedger`], and as [`Embedded::open`].
    pub fn open_expecting(path: &Path, domain: &LedgerDomain, clock: Clock) -> Result<Self, Error> {
        let ledger = Self::open(path, clock)?;
        let found = ledger.genesis.domain();
        if found == *domain {
            return Ok(ledger);
        }
        let (path, community) = (ledger.path.clone(), ledger.genesis.community().to_owned());
        Err(Error::OtherLedger { path, community, found: found.contract, expected: domain.contract })
    }

    /// Lets the ledger go on after a rest of more than [`MAX_REST_S`]: a person has looked, and this is the time. A clock that
    /// is as far ahead of it is still refused. It is not kept: once there is an entry, nobody has to say it again. To be said
    /// before a [`Writer`] takes the ledger.
    pub const fn accept_time(&mut self, time: UnixTime) {
        self.accepted = time;
    }

    /// What the ledger was founded on.
    #[must_use]
    pub const fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    /// Answers one request. When this returns an entry, it is on the disk. An order that has happened before is answered with
    /// the entry it made.
    ///
    /// # Errors
    /// [`Error::Refused`] names the rule that forbids it, [`Error::ClockAhead`] a clock that is not to be trusted; after any
    /// error nothing has happened.
    pub fn execute(&mut self, request: &Request) -> Result<Entry, Error> {
        let presented = Presented::recover(&self.genesis.domain(), *request);
        let mut answers = self.execute_presented(&[presented])?;
        let answer = answers.pop().expect("one request has one answer");
        answer.map(|recorded| recorded.entry).map_err(Error::Refused)
    }

    /// Answers many requests in one transaction, in order. What the rules refuse is skipped; the rest happens. Each request
    /// has its own answer.
    ///
    /// # Errors
    /// [`Error`]; then none of them has happened.
    pub fn execute_many(&mut self, requests: &[Request]) -> Result<Vec<Result<Entry, Refusal>>, Error> {
        let domain = self.genesis.domain();
        let presented: Vec<_> = requests.iter().map(|request| Presented::recover(&domain, *request)).collect();
        let answers = self.execute_presented(&presented)?;
        Ok(answers.into_iter().map(|answer| answer.map(|recorded| recorded.entry)).collect())
    }

    /// Answers many requests as [`Embedded::execute_many`] does, with what their signatures were found to be before: on as
    /// many cores as there are, and while others write.
    ///
    /// # Errors
    /// [`Error`]; then none of them has happened.
    pub fn execute_presented(&mut self, requests: &[Presented]) -> Result<Vec<Result<Recorded, Refusal>>, Error> {
        let now = (self.clock)();
        self.write(now, |records| requests.iter().map(|request| outcome(records, now, request)).collect())
    }

    /// Signs a command as the account's next order and answers it, in one transaction: processes that share a key do not
    /// take each other's numbers.
    ///
    /// # Errors
    /// As [`Embedded::execute`].
    pub fn order(&mut self, key: &AccountKey, account: NodeId, command: Command) -> Result<Entry, Error> {
        let (now, domain) = ((self.clock)(), self.genesis.domain());
        self.write(now, |records| {
            let sequence = records.sequence(account)?.saturating_add(1);
            let order = Order::sign(key, &domain, account, sequence, command).into_unverified();
            outcome(records, now, &Presented::recover(&domain, Request::Order(order)))
        })?
        .map(|recorded| recorded.entry)
        .map_err(Error::Refused)
    }

    fn write<T>(
        &mut self,
        now: UnixTime,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T, error::Fault>,
    ) -> Result<T, Error> {
        let (path, accepted) = (&self.path, self.accepted);
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(|error| Error::sqlite(path, error))?;
        let done = Transaction::begin(&transaction, Some(&self.genesis)).and_then(|mut records| {
            records.check_own_row()?;
            let newest = records.time();
            if now > newest.max(accepted).after(MAX_REST_S) {
                return Err(error::Fault::ClockAhead { newest, now });
            }
            let (size, done) = (records.head().size, work(&mut records)?);
            records.finish()?;
            Ok((records.head().size > size, done))
        });
        // Where it failed or nothing happened, dropping the transaction rolls it back.
        let (happened, done) = done.map_err(|fault| fault.at(path))?;
        if !happened {
            return Ok(done);
        }
        transaction.commit().map_err(|error| Error::sqlite(path, error))?;
        Ok(done)
    }

    fn read<T>(&mut self, look: impl FnOnce(&Transaction<'_>) -> Result<T, error::Fault>) -> Result<T, Error> {
        let path = &self.path;
        let transaction = self.connection.transaction().map_err(|error| Error::sqlite(path, error))?;
        Transaction::begin(&transaction, Some(&self.genesis))
            .and_then(|records| look(&records))
            .map_err(|fault| fault.at(path))
    }

    /// What an account holds.
    ///
    /// # Errors
    /// [`Error`]
    pub fn balance(&mut self, account: NodeId) -> Result<Tokens, Error> {
        self.read(|records| records.balance(account))
    }

    /// A channel's record.
    ///
    /// # Errors
    /// [`Error`]
    pub fn channel(&mut self, id: ChannelId) -> Result<Option<Channel>, Error> {
        self.read(|records| records.channel(id))
    }

    /// The key that signs receipts on a channel and offers to close it, as the account it would be of: the payer's own, unless
    /// another signed for it when the channel was opened.
    ///
    /// # Errors
    /// [`Error`]
    pub fn channel_signer(&mut self, id: ChannelId) -> Result<NodeId, Error> {
        self.read(|records| match channel_signer(records, id) {
            Ok(signer) => Ok(signer),
            Err(ExecuteError::Records(fault)) => Err(fault),
            Err(error) => Err(error::Fault::Damaged(format!("who signs on a channel: {error}"))),
        })
    }

    /// The channels an account pays or is paid on, closed ones too, in order of their ids.
    ///
    /// # Errors
    /// [`Error`]
    pub fn channels_of(&mut self, account: NodeId) -> Result<Vec<(ChannelId, Channel)>, Error> {
        self.read(|records| records.channels_of(account))
    }

    /// The number of the newest order of an account's that happened: 0, where there was none.
    ///
    /// # Errors
    /// [`Error`]
    pub fn sequence(&mut self, account: NodeId) -> Result<u64, Error> {
        self.read(|records| records.sequence(account))
    }

    /// The number of the entry that an account's order with this sequence made, if it has happened.
    ///
    /// # Errors
    /// [`Error`]
    pub fn order_number(&mut self, account: NodeId, sequence: u64) -> Result<Option<u64>, Error> {
        self.read(|records| records.ordered_number(account, sequence))
    }

    /// The highest nonce of the channels this payer opened for this payee.
    ///
    /// # Errors
    /// [`Error`]
    pub fn latest_nonce(&mut self, payer: NodeId, payee: NodeId) -> Result<Option<u64>, Error> {
        self.read(|records| records.latest_nonce(payer, payee))
    }

    /// Where all tokens are.
    ///
    /// # Errors
    /// [`Error`]
    pub fn totals(&mut self) -> Result<Totals, Error> {
        self.read(|records| Ok(records.totals()))
    }

    /// Size and root of the log.
    ///
    /// # Errors
    /// [`Error`]
    pub fn head(&mut self) -> Result<Head, Error> {
        self.read(|records| Ok(records.head()))
    }

    /// The entries from number `from` on, at most `limit` and at most [`MAX_PAGE`] of them. Entry 0 is the founding.
    ///
    /// # Errors
    /// [`Error`]
    pub fn entries(&mut self, from: u64, limit: usize) -> Result<Vec<Entry>, Error> {
        self.read(|records| records.entries(from, limit.min(MAX_PAGE)))
    }

    /// The entry with this number, and the proof (RFC 9162, section 2.1.3) that it stands in the log as it was at `size`. `None`
    /// where the log has no such entry or never had that size.
    ///
    /// # Errors
    /// [`Error`]
    pub fn prove_entry(&mut self, number: u64, size: u64) -> Result<Option<(Entry, Vec<Hash>)>, Error> {
        self.read(|records| {
            if size > records.head().size {
                return Ok(None);
            }
            let Some(proof) = inclusion_proof(records, size, number)? else {
                return Ok(None);
            };
            Ok(records.entries(number, 1)?.pop().map(|entry| (entry, proof)))
        })
    }

    /// The proof (RFC 9162, section 2.1.4) that the log as it was at `size` continues what it was at `old_size`. `None` unless
    /// `0 < old_size <= size`, and where the log never had that size.
    ///
    /// # Errors
    /// [`Error`]
    pub fn prove_growth(&mut self, old_size: u64, size: u64) -> Result<Option<Vec<Hash>>, Error> {
        self.read(
            |records| {
                if size > records.head().size { Ok(None) } else { consistency_proof(records, old_size, size) }
            },
        )
    }

    /// The log's head, signed, to be published: all in it is on the disk. What was published is to be kept elsewhere, for
    /// [`Embedded::must_continue`].
    ///
    /// # Errors
    /// [`Error::OtherSigner`], and others.
    pub fn checkpoint(&mut self, signer: &NoteSigner<Log>) -> Result<Note, Error> {
        // Another transaction's entries are seen only once its commit is on the disk.
        let head = self.read(|records| records.check_own_row().map(|()| records.head()))?;
        let origin = checkpoint::origin(&self.genesis);
        checkpoint::sign(signer, &origin, &head).map_err(|_| self.other_signer(signer, origin))
    }

    /// The checkpoint that proofs of records are checked against.
    ///
    /// # Errors
    /// [`Error::OtherSigner`]
    pub fn checkpoint_of(&self, proven: &Proven, signer: &NoteSigner<Log>) -> Result<Note, Error> {
        let origin = checkpoint::origin(&self.genesis);
        checkpoint::sign_with_records(signer, &origin, &proven.head, &proven.root)
            .map_err(|_| self.other_signer(signer, origin))
    }

    fn other_signer(&self, signer: &NoteSigner<Log>, origin: String) -> Error {
        Error::OtherSigner { path: self.path.clone(), name: signer.key().name().to_owned(), origin }
    }

    /// Whether the log continues what was published: to be asked before it goes on, for a file that was restored from an old
    /// copy does not, and would tell those who saw more another story.
    ///
    /// # Errors
    /// [`Error::Rewound`], [`Error::Forked`], and others.
    pub fn must_continue(&mut self, published: &Head) -> Result<(), Error> {
        let found = self.read(|records| {
            let size = records.head().size;
            let then = if size < published.size { None } else { Some(Tree::at(records, published.size)?.head()) };
            Ok((size, then))
        })?;
        let (path, published_size) = (self.path.clone(), published.size);
        match found {
            (size, None) => Err(Error::Rewound { path, size, published: published_size }),
            (_, Some(then)) if then != *published => Err(Error::Forked { path, published: published_size }),
            (_, Some(_)) => Ok(()),
        }
    }

    /// Replays the whole log from nothing and compares what comes out with the tables. Reads one state of the file, while
    /// others go on writing.
    ///
    /// # Errors
    /// [`Error`], where the file could not be read. A ledger that is wrong is a [`Verdict::Broken`].
    pub fn audit(&mut self) -> Result<Verdict, Error> {
        self.read(audit::audit)
    }
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").field("path", &self.path).field("genesis", &self.genesis).finish_non_exhaustive()
    }
}

/// A refusal is an answer; anything else ends the transaction.
fn outcome(
    records: &mut Transaction<'_>,
    now: UnixTime,
    request: &Presented,
) -> Result<Result<Recorded, Refusal>, error::Fault> {
    let next = records.head().size;
    match ledger_core::execute_presented(records, now, request) {
        Ok(entry) if records.head().size > next => Ok(Ok(Recorded { number: next, entry })),
        Ok(entry) => again(records, entry).map(Ok),
        Err(ExecuteError::Refused(refusal)) => Ok(Err(refusal)),
        Err(ExecuteError::NotConserved(error)) => Err(error.into()),
        Err(ExecuteError::Unreadable) => Err(error::Fault::damaged("a record does not read")),
        Err(ExecuteError::Records(fault)) => Err(fault),
    }
}

/// An order that has happened before made the entry it is answered with.
fn again(records: &Transaction<'_>, entry: Entry) -> Result<Recorded, error::Fault> {
    let number = match entry.order() {
        Some(order) => records.ordered_number(order.account(), order.seal().sequence)?,
        None => None,
    };
    let number = number.ok_or_else(|| error::Fault::damaged("an answer without an entry"))?;
    Ok(Recorded { number, entry })
}

#[cfg(test)]
mod tests;
