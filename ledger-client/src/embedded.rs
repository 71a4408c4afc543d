//! The ledger in an SQLite file of this machine.

use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use ledger_core::enrolment::Code;
use ledger_core::membership::Membership;
use ledger_core::name::{Holder, Name, Named, claim};
use ledger_core::{Account, Channel, Command, Entry, Event, Genesis, Head, Refusal, Request, Totals, UnixTime};
use ledger_embedded::{Audit, Clock, CreateError, Error as FileError, ExportError, MAX_PAGE, Progress, RestoreError};
use metering::{AccountKey, ChannelId, Close, NodeId, Receipt, Tokens};

use crate::{Error, Ledger, Unavailable, Verdict};

/// The machine's clock. One that stands before 1970 counts as 1970; the ledger's time never runs backwards.
#[must_use]
pub fn system_clock() -> Clock {
    Box::new(|| {
        #[expect(clippy::disallowed_methods, reason = "the one place where a ledger's wall time is read")]
        let now = SystemTime::now();
        let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        UnixTime::from_seconds(since_1970.as_secs())
    })
}

/// Random bytes of the machine's, to found a ledger with ([`Genesis::nonce`]).
///
/// # Errors
/// Where the machine has none to give.
pub fn fresh_nonce() -> io::Result<[u8; 16]> {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce)?;
    Ok(nonce)
}

/// A ledger's file, and the account that acts through it.
///
/// [`Embedded::open`] opens one to look; [`Embedded::signed_by`] lets it act, in one account's name.
#[derive(Debug)]
pub struct Embedded {
    file: ledger_embedded::Embedded,
    /// Who acts, and with which key.
    signer: Option<(NodeId, AccountKey)>,
}

impl Embedded {
    /// Founds a ledger in a new file, readable by its owner only, and opens it to look.
    ///
    /// # Errors
    /// [`CreateError`]; a file that is there already is left as it is.
    pub fn create(path: &Path, genesis: &Genesis, clock: Clock) -> Result<Self, CreateError> {
        Ok(Self { file: ledger_embedded::Embedded::create(path, genesis, clock)?, signer: None })
    }

    /// Opens a ledger to look, and to redeem, which needs no more than the receipt.
    ///
    /// # Errors
    /// [`FileError`] names what the file is where it is not a ledger, and leaves it as it is.
    pub fn open(path: &Path, clock: Clock) -> Result<Self, FileError> {
        Ok(Self { file: ledger_embedded::Embedded::open(path, clock)?, signer: None })
    }

    /// The same, acting in the name of this key's account.
    #[must_use]
    pub fn signed_by(self, key: AccountKey) -> Self {
        let account = key.node_id();
        self.acting_for(account, key)
    }

    /// The same, acting in the name of an account that has had another key sign for it.
    #[must_use]
    pub fn acting_for(self, account: NodeId, key: AccountKey) -> Self {
        Self { signer: Some((account, key)), ..self }
    }

    /// Lets the ledger go on after a rest of more than [`ledger_embedded::MAX_REST_S`]: a person has looked, and this is the
    /// time.
    pub const fn accept_time(&mut self, time: UnixTime) {
        self.file.accept_time(time);
    }

    /// All that stands under an account. One that was never heard of has nothing.
    ///
    /// # Errors
    /// As [`Ledger::balance`].
    pub fn account(&mut self, account: NodeId) -> Result<Account, Error> {
        Ok(self.file.account(account)?)
    }

    /// Copies the ledger as it is at this moment to a new file, while others read and write.
    ///
    /// # Errors
    /// [`CreateError`]; a file that is there already is left as it is.
    pub fn backup(&mut self, to: &Path, progress: impl FnMut(Progress)) -> Result<Head, CreateError> {
        self.file.backup(to, progress)
    }

    /// Hashes all records that have changed since that was last done, so that they can be proven: to be done before it is served.
    ///
    /// # Errors
    /// [`ledger_embedded::Error`]
    pub fn hash_records(&mut self, progress: impl FnMut(Progress)) -> Result<(), ledger_embedded::Error> {
        self.file.hash_all_records(progress)
    }

    /// Puts a copy in place, where there is no ledger: audited whole, and a continuation of what was published.
    ///
    /// # Errors
    /// [`RestoreError`]; then there is no new file.
    pub fn restore(
        from: &Path,
        to: &Path,
        published: Option<&Head>,
        progress: impl FnMut(Progress),
    ) -> Result<Audit, RestoreError> {
        let (_, audit) = ledger_embedded::Embedded::restore(from, to, published, system_clock(), progress)?;
        Ok(audit)
    }

    /// Writes the log as text, a line for each entry, while others read and write.
    ///
    /// # Errors
    /// [`ExportError`]
    pub fn export(&mut self, to: &mut impl Write) -> Result<Head, ExportError> {
        self.file.export(to)
    }

    /// Has the account do something, and gives the entry that says so.
    ///
    /// # Errors
    /// As [`Ledger::mint`].
    pub fn order(&mut self, command: Command) -> Result<Entry, Error> {
        let (account, key) = self.signer.as_ref().ok_or(Error::NoKey)?;
        Ok(self.file.order(key, *account, command)?)
    }

    /// Asks for what carries its own proof or needs none.
    ///
    /// # Errors
    /// As [`Ledger::mint`].
    pub fn request(&mut self, request: &Request) -> Result<Entry, Error> {
        Ok(self.file.execute(request)?)
    }
}

impl Ledger for Embedded {
    fn genesis(&self) -> &Genesis {
        self.file.genesis()
    }

    fn balance(&mut self, account: NodeId) -> Result<Tokens, Error> {
        Ok(self.file.balance(account)?)
    }

    fn channel(&mut self, channel: ChannelId) -> Result<Option<Channel>, Error> {
        Ok(self.file.channel(channel)?)
    }

    fn channel_signer(&mut self, channel: ChannelId) -> Result<NodeId, Error> {
        Ok(self.file.channel_signer(channel)?)
    }

    fn channels_of(&mut self, account: NodeId) -> Result<Vec<(ChannelId, Channel)>, Error> {
        Ok(self.file.channels_of(account)?)
    }

    fn latest_nonce(&mut self, payer: NodeId, payee: NodeId) -> Result<Option<u64>, Error> {
        Ok(self.file.latest_nonce(payer, payee)?)
    }

    fn totals(&mut self) -> Result<Totals, Error> {
        Ok(self.file.totals()?)
    }

    fn head(&mut self) -> Result<Head, Error> {
        Ok(self.file.head()?)
    }

    fn entries(&mut self, from: u64) -> Result<Vec<Entry>, Error> {
        Ok(self.file.entries(from, MAX_PAGE)?)
    }

    fn mint(&mut self, to: NodeId, amount: Tokens) -> Result<(), Error> {
        self.order(Command::Mint { to, amount })?;
        Ok(())
    }

    fn memberships(&mut self, accounts: &[NodeId]) -> Result<Vec<Option<Membership>>, Error> {
        accounts.iter().map(|account| Ok(self.file.account(*account)?.membership)).collect()
    }

    fn enrol(&mut self, code: &Code) -> Result<UnixTime, Error> {
        let (account, _) = self.signer.as_ref().ok_or(Error::NoKey)?;
        let entry = self.order(code.enrol(&self.domain(), *account))?;
        let Event::Enrolled { until, .. } = entry.event else { unreachable!("{ANSWERED}") };
        Ok(until)
    }

    fn named(&mut self, name: Name) -> Result<Option<Holder>, Error> {
        // The rules have looked at the claim, and a row is sealed.
        Ok(self.file.named(name)?)
    }

    fn names(&mut self, after: Option<Name>) -> Result<Vec<Named>, Error> {
        Ok(self.file.names(after, MAX_PAGE)?)
    }

    fn claim_name(&mut self, name: Name, wireguard: [u8; 32]) -> Result<(), Error> {
        let (_, key) = self.signer.as_ref().ok_or(Error::NoKey)?;
        let claim = claim(key, &self.domain(), &name, &wireguard);
        self.order(Command::ClaimName { name, wireguard, claim }).map(drop)
    }

    fn transfer(&mut self, to: NodeId, amount: Tokens) -> Result<(), Error> {
        self.order(Command::Transfer { to, amount })?;
        Ok(())
    }

    fn open_channel(&mut self, payee: NodeId, deposit: Tokens) -> Result<ChannelId, Error> {
        let entry = self.order(Command::OpenChannel { payee, deposit })?;
        let Event::ChannelOpened { channel, .. } = entry.event else { unreachable!("{ANSWERED}") };
        Ok(channel)
    }

    fn top_up(&mut self, channel: ChannelId, amount: Tokens) -> Result<(), Error> {
        self.order(Command::TopUp { channel, amount })?;
        Ok(())
    }

    fn redeem(&mut self, receipt: Receipt) -> Result<Tokens, Error> {
        let entry = self.file.execute(&Request::Redeem { receipt: receipt.into_unverified() })?;
        Ok(paid(&entry))
    }

    fn redeem_many(&mut self, receipts: &[Receipt]) -> Result<Vec<Result<Tokens, Refusal>>, Error> {
        let request = |receipt: &Receipt| Request::Redeem { receipt: receipt.into_unverified() };
        let requests: Vec<Request> = receipts.iter().map(request).collect();
        let outcomes = self.file.execute_many(&requests)?;
        Ok(outcomes.into_iter().map(|outcome| outcome.map(|entry| paid(&entry))).collect())
    }

    fn start_close(&mut self, channel: ChannelId) -> Result<UnixTime, Error> {
        let entry = self.order(Command::StartClose { channel })?;
        let Event::CloseStarted { exit, .. } = entry.event else { unreachable!("{ANSWERED}") };
        Ok(exit)
    }

    fn finalize(&mut self, channel: ChannelId) -> Result<Tokens, Error> {
        let entry = self.file.execute(&Request::Finalize { channel })?;
        let Event::Finalized { refunded, .. } = entry.event else { unreachable!("{ANSWERED}") };
        Ok(refunded)
    }

    fn mutual_close(&mut self, close: Close) -> Result<(), Error> {
        self.order(Command::MutualClose { close: close.into_unverified() })?;
        Ok(())
    }

    fn audit(&mut self) -> Result<Verdict, Error> {
        Ok(match self.file.audit()? {
            ledger_embedded::Verdict::Kept(audit) => Verdict::Kept { head: audit.head, totals: audit.totals },
            ledger_embedded::Verdict::Broken(difference) => Verdict::Broken { difference: difference.to_string() },
        })
    }
}

/// The invariant of the rulebook that the `unreachable!`s above rest on.
const ANSWERED: &str = "each request is answered by the event of its own kind";

fn paid(entry: &Entry) -> Tokens {
    let Event::Redeemed { paid, .. } = entry.event else { unreachable!("{ANSWERED}") };
    paid
}

impl From<FileError> for Error {
    fn from(error: FileError) -> Self {
        if let FileError::Refused(refusal) = error {
            return Self::Refused(refusal);
        }
        // Not a full disk: someone has to make room.
        let retry = matches!(error, FileError::Busy { .. });
        Unavailable { retry, reason: Box::new(error) }.into()
    }
}
