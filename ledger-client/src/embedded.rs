//! The ledger in an SQLite file of this machine.

use std::time::{Duration, SystemTime};

use ledger_core::{Channel, Command, Entry, Event, Genesis, Head, Refusal, Totals, UnixTime};
use ledger_embedded::{Clock, Embedded, MAX_PAGE};
use metering::{ChannelId, NodeId, Receipt, Tokens};

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

impl Ledger for Embedded {
    fn genesis(&self) -> &Genesis {
        self.genesis()
    }

    fn balance(&mut self, account: NodeId) -> Result<Tokens, Error> {
        Ok(self.balance(account)?)
    }

    fn channel(&mut self, channel: ChannelId) -> Result<Option<Channel>, Error> {
        Ok(self.channel(channel)?)
    }

    fn channels_of(&mut self, account: NodeId) -> Result<Vec<(ChannelId, Channel)>, Error> {
        Ok(self.channels_of(account)?)
    }

    fn latest_nonce(&mut self, payer: NodeId, payee: NodeId) -> Result<Option<u64>, Error> {
        Ok(self.latest_nonce(payer, payee)?)
    }

    fn totals(&mut self) -> Result<Totals, Error> {
        Ok(self.totals()?)
    }

    fn head(&mut self) -> Result<Head, Error> {
        Ok(self.head()?)
    }

    fn entries(&mut self, from: u64) -> Result<Vec<Entry>, Error> {
        Ok(self.entries(from, MAX_PAGE)?)
    }

    fn mint(&mut self, by: NodeId, to: NodeId, amount: Tokens) -> Result<(), Error> {
        self.execute(&Command::Mint { by, to, amount })?;
        Ok(())
    }

    fn transfer(&mut self, from: NodeId, to: NodeId, amount: Tokens) -> Result<(), Error> {
        self.execute(&Command::Transfer { from, to, amount })?;
        Ok(())
    }

    fn open_channel(&mut self, payer: NodeId, payee: NodeId, deposit: Tokens) -> Result<ChannelId, Error> {
        let entry = self.execute(&Command::OpenChannel { payer, payee, deposit })?;
        let Event::ChannelOpened { channel, .. } = entry.event else { unreachable!("{ANSWERED}") };
        Ok(channel)
    }

    fn top_up(&mut self, channel: ChannelId, amount: Tokens) -> Result<(), Error> {
        self.execute(&Command::TopUp { channel, amount })?;
        Ok(())
    }

    fn redeem(&mut self, receipt: Receipt) -> Result<Tokens, Error> {
        let entry = self.execute(&Command::Redeem { receipt: receipt.into_unverified() })?;
        Ok(paid(&entry))
    }

    fn redeem_many(&mut self, receipts: &[Receipt]) -> Result<Vec<Result<Tokens, Refusal>>, Error> {
        let command = |receipt: &Receipt| Command::Redeem { receipt: receipt.into_unverified() };
        let commands: Vec<Command> = receipts.iter().map(command).collect();
        let outcomes = self.execute_many(&commands)?;
        Ok(outcomes.into_iter().map(|outcome| outcome.map(|entry| paid(&entry))).collect())
    }

    fn start_close(&mut self, channel: ChannelId) -> Result<UnixTime, Error> {
        let entry = self.execute(&Command::StartClose { channel })?;
        let Event::CloseStarted { exit, .. } = entry.event else { unreachable!("{ANSWERED}") };
        Ok(exit)
    }

    fn finalize(&mut self, channel: ChannelId) -> Result<Tokens, Error> {
        let entry = self.execute(&Command::Finalize { channel })?;
        let Event::Finalized { refunded, .. } = entry.event else { unreachable!("{ANSWERED}") };
        Ok(refunded)
    }

    fn mutual_close(&mut self, channel: ChannelId, total: Tokens) -> Result<(), Error> {
        self.execute(&Command::MutualClose { channel, total })?;
        Ok(())
    }

    fn audit(&mut self) -> Result<Verdict, Error> {
        Ok(match self.audit()? {
            ledger_embedded::Verdict::Kept(audit) => Verdict::Kept { head: audit.head, totals: audit.totals },
            ledger_embedded::Verdict::Broken(difference) => Verdict::Broken { difference: difference.to_string() },
        })
    }
}

/// The invariant of the rulebook that the `unreachable!`s above rest on.
const ANSWERED: &str = "each command is answered by the event of its own kind";

fn paid(entry: &Entry) -> Tokens {
    let Event::Redeemed { paid, .. } = entry.event else { unreachable!("{ANSWERED}") };
    paid
}

impl From<ledger_embedded::Error> for Error {
    fn from(error: ledger_embedded::Error) -> Self {
        use ledger_embedded::Error as E;
        if let E::Refused(refusal) = error {
            return Self::Refused(refusal);
        }
        // Not a full disk: someone has to make room.
        let retry = matches!(error, E::Busy { .. });
        Unavailable { retry, reason: Box::new(error) }.into()
    }
}
