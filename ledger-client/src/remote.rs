//! The ledger of a community, served by another machine.
//!
//! What a server says is checked: that it holds the key the community was told of, that its log is this ledger's and only
//! grows, that what an order was answered with is what was ordered and stands in the log, that a balance, a channel's record
//! and all else that is kept of an account are as it says, by their proofs against a checkpoint that it has signed (`proven.rs`).
//! Four things are its word: that nothing newer has happened than it shows, which is for those who compare checkpoints; that a
//! list of channels leaves none out; why it refuses; and that the records it signs are what its log makes of them. The last is
//! found out by whoever replays the log ([`Ledger::audit`]), of the records that were believed last and of the newest.
//!
//! The link may go at any moment, and so may the power. An order is on this machine's disk, signed, before it is sent, and
//! stays there until its answer has come: the same order sent again is answered with the entry it made, so nothing is
//! done twice. Until then no other order of the account's is signed, as it would have the same number.
//!
//! A ledger that lies might refuse an order, keep it, and do it later. The next order has the same number, unless the ledger
//! proves that it is used, and by which order; if that is one which was refused, this is found out then and said.
//!
//! Several programs may act for one account, each with a directory of its own: who comes second signs anew, also where both
//! order the same in the same words.

mod compare;
mod look;
mod proven;

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ledger_core::checkpoint::{View, origin, records};
use ledger_core::enrolment::Code;
use ledger_core::membership::Membership;
use ledger_core::merkle::{leaf_hash, verify_inclusion};
use ledger_core::name::{Holder, Name, Named, claim};
use ledger_core::note::{Log, Note, NoteKey};
use ledger_core::place::Overall;
use ledger_core::{
    Channel, Command, Entry, EntryError, Event, Genesis, Hash, Head, Order, Records, Refusal, Request, State, Totals,
    UnixTime,
};
use ledger_http::client::{Address, Client, ClientError, DEFAULT_PATIENCE};
use ledger_http::trust;
use ledger_http::wire::{
    About, ChannelRecord, Channels, Done, Entries, Growth, Inclusion, MAX_BATCH, MAX_PAGE, NumberedBytes, Outcome,
};
use metering::{AccountKey, ChannelId, Close, NodeId, Receipt, SortedMap, SortedSet, TlsKey, Tokens, Unverified};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error as ThisError;

use crate::witness::Comparison;
use crate::{Error, Ledger, Unavailable, Verdict, read_founding};

/// How many entries are asked for at a time: some 100 KB.
const PAGE: usize = 100;

/// The same, where all of the log is asked for: the ledger gives as much of it as it sees fit.
const AUDIT_PAGE: usize = MAX_PAGE;

/// The most channels of one account that are looked at: a relay in a town has as many.
const MAX_CHANNELS: usize = 20_000;

/// Where a ledger is served, and whom to believe.
#[derive(Clone, Debug)]
pub struct Served {
    /// Where.
    pub address: Address,
    /// The ledger's key, as its operator gives it out. Its name is the ledger's own.
    pub key: NoteKey<Log>,
    /// The ledger's founding, entry 0 of its log, where it is known already: the ledger need not be reached at the first
    /// opening then. It is checked against the key's name.
    pub founding: Option<Vec<u8>>,
    /// The authorities to believe, in PEM, where the server has bought a certificate; without, it has to hold `key`.
    pub authorities: Option<Vec<u8>>,
    /// What time a certificate of theirs has to be good for, in seconds since 1970-01-01, UTC.
    pub clock: fn() -> u64,
    /// How long to wait for an answer.
    pub patience: Duration,
}

impl Served {
    /// How long to wait where nothing else is chosen.
    pub const PATIENCE: Duration = DEFAULT_PATIENCE;
}

/// A served ledger, and the account that acts on it.
///
/// [`Remote::open`] keeps what it must remember (the founding, the newest checkpoint, the order that has no answer yet) in
/// a directory of its own.
pub struct Remote {
    client: Client,
    genesis: Genesis,
    view: View,
    kept: Kept,
    signer: Option<(NodeId, AccountKey)>,
    /// How often in a row the ledger gave no answer of what somebody else was shown, by who that is.
    silent: SortedMap<String, u32>,
}

/// What became of an order that was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Abandoned {
    /// It had happened, and this is its entry.
    Happened(Box<Entry>),
    /// It will never happen: its number is used by another.
    Never,
}

/// What is wrong with a served ledger, or with what is kept of it.
#[derive(Debug, ThisError)]
pub enum RemoteError {
    /// It cannot be asked, or does not answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Somebody else answers: whoever has taken the ledger's place does not have its key.
    #[error("the founding that {address} shows is not the one of {name}")]
    OtherLedger {
        /// Who answered.
        address: Address,
        /// Whom we asked for.
        name: String,
    },
    /// Its log does not continue what it was, or does not have what it says.
    #[error("the ledger at {address} contradicts itself: {what}")]
    Contradiction {
        /// Who.
        address: Address,
        /// What it says.
        what: String,
    },
    /// An account has more channels than are looked at: whoever opens one needs nobody's leave.
    #[error("{account} has more than {MAX_CHANNELS} channels")]
    TooManyChannels {
        /// Whose.
        account: NodeId,
    },
    /// What is kept on this machine cannot be read or written.
    #[error("cannot {action} {}: {cause}", path.display())]
    Io {
        /// What was tried: "read", "write".
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the operating system said.
        cause: io::Error,
    },
    /// Another process has what is kept: two would give two orders one number.
    #[error("another program uses {}", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The ledger was found to tell different people different things: no more tokens are locked on it.
    #[error("{what}; no tokens are locked there while {} is there", path.display())]
    Distrusted {
        /// What was found.
        what: String,
        /// The file with the evidence.
        path: PathBuf,
    },
    /// What is kept on this machine does not read.
    #[error("{} does not read: {why}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl From<RemoteError> for Error {
    fn from(error: RemoteError) -> Self {
        if let RemoteError::Client(ClientError::Problem { problem, .. }) = &error
            && let Some(refusal) = &problem.refusal
        {
            return Self::Refused(**refusal);
        }
        let retry = match &error {
            RemoteError::Client(client) => client.may_pass(),
            RemoteError::InUse { .. } => true,
            RemoteError::OtherLedger { .. }
            | RemoteError::Contradiction { .. }
            | RemoteError::TooManyChannels { .. }
            | RemoteError::Distrusted { .. }
            | RemoteError::Io { .. }
            | RemoteError::Damaged { .. } => false,
        };
        Unavailable { retry, reason: Box::new(error) }.into()
    }
}

impl Remote {
    /// Opens what is kept of the ledger in `directory`, or, the first time, makes it and asks for the ledger's founding.
    ///
    /// # Errors
    /// [`RemoteError`]
    pub fn open(served: Served, directory: &Path) -> Result<Self, RemoteError> {
        let Served { address, key, founding, authorities, clock, patience } = served;
        let strange = |why: String| ClientError::Strange { address: address.clone(), why };
        let tls = match &authorities {
            Some(authorities) => trust::vouched_for(authorities, clock),
            None => trust::pinned(&TlsKey(*key.public())),
        };
        let tls = tls.map_err(|error| strange(error.to_string()))?;
        let mut client = Client::new(address.clone(), tls, patience)?;
        let kept = Kept::open(directory)?;
        let genesis = match kept.read(FOUNDING)? {
            Some(bytes) => read_founding(&bytes).ok_or_else(|| kept.damaged(FOUNDING, "it is no founding"))?,
            None => {
                let first = match founding {
                    Some(founding) => founding,
                    None => client.get::<Inclusion<NumberedBytes>>("/v1/entries/0")?.entry.bytes.0,
                };
                let genesis = read_founding(&first).filter(|genesis| origin(genesis) == key.name());
                let other = || RemoteError::OtherLedger { address: address.clone(), name: key.name().to_owned() };
                let genesis = genesis.ok_or_else(other)?;
                kept.write(FOUNDING, &first)?;
                genesis
            }
        };
        let unseen = View::new(&origin(&genesis), key);
        let unseen = unseen.map_err(|_| kept.damaged(FOUNDING, "it is another ledger's"))?;
        let view = match kept.read(CHECKPOINT)? {
            Some(bytes) => {
                let note = String::from_utf8(bytes).ok().and_then(|text| text.parse::<Note>().ok());
                let view = note.and_then(|note| unseen.resume(note).ok());
                view.ok_or_else(|| kept.damaged(CHECKPOINT, "it is no checkpoint of this ledger"))?
            }
            None => unseen,
        };
        Ok(Self { client, genesis, view, kept, signer: None, silent: SortedMap::new() })
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

    /// How the ledger stands: what it was founded on is known, and the rest proven.
    ///
    /// # Errors
    /// [`RemoteError`]
    pub fn about(&mut self) -> Result<About, RemoteError> {
        let Overall { time, totals } = self.overall()?;
        let head = match self.view.head() {
            Some(head) => head,
            None => self.newest()?,
        };
        Ok(About::new(&self.genesis, self.view.key().to_string(), head, time, totals))
    }

    /// The order that was sent and has had no answer, if there is one.
    ///
    /// # Errors
    /// [`RemoteError`], where it cannot be read.
    pub fn unanswered(&self) -> Result<Option<Order<Unverified>>, RemoteError> {
        self.kept.read_json(UNANSWERED)
    }

    /// Signs a command as the account's next order, keeps it, and has the ledger do it. Where an order has had no answer,
    /// that one is sent again first; and if it commands the same, its answer is the answer.
    ///
    /// # Errors
    /// As [`Ledger::mint`].
    pub fn order(&mut self, command: Command) -> Result<Entry, Error> {
        let (account, key) = self.signer.clone().ok_or(Error::NoKey)?;
        if let Some((what, file)) = self.distrust()? {
            if locks(&command) {
                let path = self.kept.directory.join(file);
                return Err(RemoteError::Distrusted { what, path }.into());
            }
            if self.unanswered()?.is_some_and(|order| order.account() == account && locks(order.command())) {
                self.abandon()?;
            }
        }
        let mut tries = 0..MAX_TRIES;
        loop {
            let order = match self.unanswered()? {
                Some(order) => order,
                None => self.sign(&key, account, command)?,
            };
            let is_ours = order.account() == account && *order.command() == command;
            match self.send(order) {
                // Who else signs for the account, with the same key elsewhere, was faster: this order never happens.
                Err(Error::Refused(Refusal::SequenceAlreadyUsed { .. })) if tries.next().is_some() => {}
                Err(error @ Error::Unavailable(_)) => return Err(error),
                answer if is_ours => return answer,
                // What was left from before is settled, one way or the other.
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// Gives up the order that has had no answer, and says what became of it; nothing, where there is none.
    ///
    /// A server that calls an order malformed, and goes on to, keeps the account from ordering anything else. That order may still
    /// be done by whoever has it, as long as its number is free: so the number is used, by [`Command::Skip`]. Until the ledger
    /// proves which order has the number, the order stays where it is.
    ///
    /// # Errors
    /// As [`Ledger::mint`]; [`Error::NoKey`] also where it is another account's order.
    pub fn abandon(&mut self) -> Result<Option<Abandoned>, Error> {
        let Some(order) = self.unanswered()? else { return Ok(None) };
        let (account, key) = self.signer.clone().filter(|(us, _)| *us == order.account()).ok_or(Error::NoKey)?;
        let (domain, sequence) = (self.genesis.domain(), order.seal().sequence);
        let skip = Order::sign_with(&key, &domain, account, sequence, Command::Skip, &[]).into_unverified();
        let made = match self.request(&Request::Order(skip)) {
            Err(Error::Refused(Refusal::SequenceAlreadyUsed { .. })) => self.ordered(account, sequence)?,
            // It may call this one malformed too, and still prove that the number was used.
            Err(error) => self.ordered(account, sequence).map_err(|_| error)?,
            Ok(made) => made,
        };
        let happened = made.order() == Some(order);
        if happened {
            self.forget_refused(order)?;
        }
        self.kept.remove(UNANSWERED)?;
        Ok(Some(if happened { Abandoned::Happened(Box::new(made)) } else { Abandoned::Never }))
    }

    /// Signs a command as the account's next order, by what the ledger proves is the next, and keeps it.
    fn sign(&mut self, key: &AccountKey, account: NodeId, command: Command) -> Result<Order<Unverified>, Error> {
        let used = self.funds(account)?.sequence;
        self.look_for_refused(account, used)?;
        let (domain, mut sequence) = (self.genesis.domain(), used.saturating_add(1));
        let refused: Vec<Order<Unverified>> = self.kept.read_json(REFUSED)?.unwrap_or_default();
        let is_it = |order: &&Order<Unverified>| {
            (order.account(), order.seal().sequence, *order.command()) == (account, sequence, command)
        };
        // What was refused and is wanted again is the same order: were it another, the ledger could do both.
        if let Some(order) = refused.iter().find(is_it) {
            self.kept.write_json(UNANSWERED, order)?;
            return Ok(*order);
        }
        if refused.len() >= MAX_REFUSED {
            // One that uses the number up ends all that have it; then the next number is free.
            let skip = Order::sign_with(key, &domain, account, sequence, Command::Skip, &[]).into_unverified();
            match self.request(&Request::Order(skip)) {
                Ok(_) => {
                    self.look_for_refused(account, sequence)?;
                    sequence = sequence.saturating_add(1);
                }
                // Who may not even do this has nothing that could be done with its orders.
                Err(Error::Refused(_)) => self.kept.write_json(REFUSED, &refused.get(1..))?,
                Err(error) => return Err(error),
            }
        }
        let mut extra = [0; 32];
        getrandom::fill(&mut extra).map_err(|error| RemoteError::Io {
            action: "read",
            path: "the system's randomness".into(),
            cause: error.into(),
        })?;
        let order = Order::sign_with(key, &domain, account, sequence, command, &extra).into_unverified();
        self.kept.write_json(UNANSWERED, &order)?;
        Ok(order)
    }

    /// Whether an order that the ledger had refused has happened all the same: the ones up to this number can no more.
    fn look_for_refused(&mut self, account: NodeId, used: u64) -> Result<(), Error> {
        let refused: Vec<Order<Unverified>> = self.kept.read_json(REFUSED)?.unwrap_or_default();
        let over = |order: &&Order<Unverified>| order.account() == account && order.seal().sequence <= used;
        let numbers: SortedSet<u64> = refused.iter().filter(over).map(|order| order.seal().sequence).collect();
        if numbers.is_empty() {
            return Ok(());
        }
        let mut happened = Vec::new();
        for number in numbers {
            happened.extend(self.ordered(account, number)?.order());
        }
        let left: Vec<_> = refused.iter().filter(|order| !over(order)).collect();
        let done = refused.iter().find(|order| happened.contains(order));
        if let Some(order) = done {
            // Before it is forgotten: whoever is told of it may lose power.
            self.kept.write_json(compare::DONE_LATER, order)?;
        }
        self.kept.write_json(REFUSED, &left)?;
        match done {
            None => Ok(()),
            Some(order) => {
                let number = order.seal().sequence;
                let what = format!("it refused order {number} of {account} and did it later: it has happened");
                Err(self.contradiction(what).into())
            }
        }
    }

    /// Sends an order that is kept, and forgets it when it is answered, one way or the other.
    fn send(&mut self, order: Order<Unverified>) -> Result<Entry, Error> {
        let answer = match self.request(&Request::Order(order)) {
            // By another program with the same key; or by this very order, and the ledger denies it.
            Err(Error::Refused(refusal @ Refusal::SequenceAlreadyUsed { .. })) => {
                let made = self.ordered(order.account(), order.seal().sequence)?;
                if made.order() == Some(order) { Ok(made) } else { Err(Error::Refused(refusal)) }
            }
            Err(Error::Refused(refusal)) => {
                self.remember_refused(order)?;
                Err(Error::Refused(refusal))
            }
            answer => answer,
        };
        if answer.is_ok() {
            // It may have been refused before, and was good now.
            self.forget_refused(order)?;
        }
        if let Ok(_) | Err(Error::Refused(_)) = &answer {
            self.kept.remove(UNANSWERED)?;
        }
        answer
    }

    fn forget_refused(&mut self, order: Order<Unverified>) -> Result<(), RemoteError> {
        let mut refused: Vec<Order<Unverified>> = self.kept.read_json(REFUSED)?.unwrap_or_default();
        let before = refused.len();
        refused.retain(|kept| *kept != order);
        if refused.len() < before { self.kept.write_json(REFUSED, &refused) } else { Ok(()) }
    }

    /// Keeps an order that was refused: what is signed may be done by whoever has it.
    fn remember_refused(&mut self, order: Order<Unverified>) -> Result<(), RemoteError> {
        let mut refused: Vec<Order<Unverified>> = self.kept.read_json(REFUSED)?.unwrap_or_default();
        if !refused.contains(&order) {
            refused.push(order);
            self.kept.write_json(REFUSED, &refused)?;
        }
        Ok(())
    }

    /// Has a request answered, and checks that the answer is one to this request and stands in the log.
    ///
    /// # Errors
    /// As [`Ledger::mint`].
    pub fn request(&mut self, request: &Request) -> Result<Entry, Error> {
        let done: Done<NumberedBytes> = self.client.post("/v1/requests", request).map_err(RemoteError::from)?;
        let head = self.newest()?;
        Ok(self.check(request, &done.entry, &head)?)
    }

    /// Whether an entry is what a request asks for and stands in the log that has this head.
    fn check(&mut self, request: &Request, told: &NumberedBytes, head: &Head) -> Result<Entry, RemoteError> {
        let entry = self.decoded(told)?;
        if entry.request() != Some(*request) {
            return Err(self.contradiction(format!("entry {} is not what was asked for", told.number)));
        }
        let proven: Inclusion<NumberedBytes> =
            self.client.get(&format!("/v1/entries/{}?size={}", told.number, head.size))?;
        if !verify_inclusion(head, told.number, &leaf_hash(&told.bytes.0), &proven.proof) {
            return Err(self.contradiction(format!("nothing proves that entry {} stands in its log", told.number)));
        }
        Ok(entry)
    }

    fn decoded(&self, told: &NumberedBytes) -> Result<Entry, RemoteError> {
        let odd = |error: EntryError| self.contradiction(format!("entry {}: {error}", told.number));
        told.decode().map_err(odd)
    }

    fn contradiction(&self, what: String) -> RemoteError {
        RemoteError::Contradiction { address: self.client.address().clone(), what }
    }

    /// The log's newest head, signed, and proven to continue the one that was seen before.
    fn newest(&mut self) -> Result<Head, RemoteError> {
        let text = self.client.get_text("/v1/checkpoint")?;
        let note: Note = text.parse().map_err(|error| self.contradiction(format!("its checkpoint: {error}")))?;
        let size = note.text().lines().nth(1).and_then(|line| line.parse::<u64>().ok());
        let seen = self.view.head().map_or(0, |head| head.size);
        let proof = match size {
            Some(size) if 0 < seen && seen < size => {
                self.client.get::<Growth>(&format!("/v1/growth?old_size={seen}&size={size}"))?.proof
            }
            _ => Vec::new(),
        };
        self.take(note, &proof)
    }

    /// Takes a checkpoint as the newest one, where it continues the one that was seen before.
    fn take(&mut self, note: Note, growth: &[Hash]) -> Result<Head, RemoteError> {
        let mut view = self.view.clone();
        let head = match view.accept(note.clone(), growth) {
            Ok(head) => head,
            Err(error) => {
                self.keep_contradiction(&error, &note)?;
                return Err(self.contradiction(error.to_string()));
            }
        };
        // Kept before anything rests on it, so that no later answer can be from another past, nor say other records of this one.
        let news = |view: &View| view.newest().map(|note| note.text().to_owned());
        if let Some(newest) = view.newest().filter(|_| news(&view) != news(&self.view)) {
            self.kept.write(CHECKPOINT, newest.to_string().as_bytes())?;
        }
        self.view = view;
        Ok(head)
    }
}

/// Whether a command puts tokens where only the ledger's honesty keeps them.
const fn locks(command: &Command) -> bool {
    matches!(command, Command::OpenChannel { .. } | Command::TopUp { .. } | Command::IssueVoucher { .. })
}

impl Ledger for Remote {
    fn genesis(&self) -> &Genesis {
        &self.genesis
    }

    fn within(&mut self, limit: Duration) {
        self.client.within(limit);
    }

    fn told_time(&self) -> Option<(u64, Instant)> {
        self.client.told_time()
    }

    fn balance(&mut self, account: NodeId) -> Result<Tokens, Error> {
        Ok(self.funds(account)?.balance)
    }

    fn channel(&mut self, channel: ChannelId) -> Result<Option<Channel>, Error> {
        Ok(self.signed_channel(channel)?.map(|(record, _)| record))
    }

    fn channel_signer(&mut self, channel: ChannelId) -> Result<NodeId, Error> {
        Ok(self.signed_channel(channel)?.map_or(channel.payer, |(_, signer)| signer))
    }

    fn channels_of(&mut self, account: NodeId) -> Result<Vec<(ChannelId, Channel)>, Error> {
        let (mut all, mut after): (Vec<ChannelId>, _) = (Vec::new(), String::new());
        loop {
            let path = format!("/v1/accounts/{account}/channels?limit={PAGE}{after}");
            let page: Channels = self.client.get(&path).map_err(RemoteError::from)?;
            // A server that lies could go on for ever.
            let goes_on = page.next.is_none() || !page.channels.is_empty();
            if !goes_on || page.channels.len() > PAGE {
                return Err(self.contradiction("its pages of channels do not end".to_owned()).into());
            }
            if all.len() > MAX_CHANNELS {
                return Err(RemoteError::TooManyChannels { account }.into());
            }
            for ChannelRecord { channel, .. } in page.channels {
                let is_next = all.last().is_none_or(|before| *before < channel);
                if !is_next || (channel.payer != account && channel.payee != account) {
                    return Err(self.contradiction("its pages of channels do not go on".to_owned()).into());
                }
                all.push(channel);
            }
            match page.next {
                Some(next) => after = format!("&after={next}"),
                None => break,
            }
        }
        let records = self.channels(&all)?;
        Ok(all.into_iter().zip(records).collect())
    }

    fn latest_nonce(&mut self, payer: NodeId, payee: NodeId) -> Result<Option<u64>, Error> {
        Ok(self.proven_nonce(payer, payee)?)
    }

    fn totals(&mut self) -> Result<Totals, Error> {
        Ok(self.proven_totals()?)
    }

    fn head(&mut self) -> Result<Head, Error> {
        Ok(self.newest()?)
    }

    fn memberships(&mut self, accounts: &[NodeId]) -> Result<Vec<Option<Membership>>, Error> {
        Ok(self.proven_memberships(accounts)?)
    }

    fn enrol(&mut self, code: &Code) -> Result<UnixTime, Error> {
        let (account, _) = self.signer.as_ref().ok_or(Error::NoKey)?;
        let entry = self.order(code.enrol(&self.genesis.domain(), *account))?;
        let Event::Enrolled { until, .. } = entry.event else { return Err(self.other_kind(&entry)) };
        Ok(until)
    }

    fn named(&mut self, name: Name) -> Result<Option<Holder>, Error> {
        Ok(self.proven_holders(&[name])?.pop().flatten())
    }

    fn names(&mut self, after: Option<Name>) -> Result<Vec<Named>, Error> {
        Ok(self.proven_names(after)?)
    }

    fn claim_name(&mut self, name: Name, wireguard: [u8; 32]) -> Result<(), Error> {
        let (_, key) = self.signer.as_ref().ok_or(Error::NoKey)?;
        let claim = claim(key, &self.genesis.domain(), &name, &wireguard);
        self.order(Command::ClaimName { name, wireguard, claim }).map(drop)
    }

    fn entries(&mut self, from: u64) -> Result<Vec<Entry>, Error> {
        let page: Entries<NumberedBytes> =
            self.client.get(&format!("/v1/entries?from={from}&limit={PAGE}")).map_err(RemoteError::from)?;
        if page.entries.len() > PAGE {
            return Err(self.contradiction("it tells more of its log than was asked for".to_owned()).into());
        }
        (from..)
            .zip(&page.entries)
            .map(|(number, told)| {
                if told.number == number {
                    return Ok(self.decoded(told)?);
                }
                Err(self.contradiction(format!("entry {} stands where {number} belongs", told.number)).into())
            })
            .collect()
    }

    fn mint(&mut self, to: NodeId, amount: Tokens) -> Result<(), Error> {
        self.order(Command::Mint { to, amount }).map(drop)
    }

    fn transfer(&mut self, to: NodeId, amount: Tokens) -> Result<(), Error> {
        self.order(Command::Transfer { to, amount }).map(drop)
    }

    fn open_channel(&mut self, payee: NodeId, deposit: Tokens) -> Result<ChannelId, Error> {
        let entry = self.order(Command::OpenChannel { payee, deposit })?;
        let Event::ChannelOpened { channel, .. } = entry.event else { return Err(self.other_kind(&entry)) };
        Ok(channel)
    }

    fn top_up(&mut self, channel: ChannelId, amount: Tokens) -> Result<(), Error> {
        self.order(Command::TopUp { channel, amount }).map(drop)
    }

    fn redeem(&mut self, receipt: Receipt) -> Result<Tokens, Error> {
        let entry = self.request(&Request::Redeem { receipt: receipt.into_unverified() })?;
        let Event::Redeemed { paid, .. } = entry.event else { return Err(self.other_kind(&entry)) };
        Ok(paid)
    }

    /// In batches: where a later one fails, what the earlier ones did has happened, and asking again says so.
    fn redeem_many(&mut self, receipts: &[Receipt]) -> Result<Vec<Result<Tokens, Refusal>>, Error> {
        let mut paid = Vec::with_capacity(receipts.len());
        for batch in receipts.chunks(MAX_BATCH) {
            let requests: Vec<_> =
                batch.iter().map(|receipt| Request::Redeem { receipt: receipt.into_unverified() }).collect();
            let outcomes: Vec<Outcome<NumberedBytes>> =
                self.client.post("/v1/requests/batch", &requests).map_err(RemoteError::from)?;
            if outcomes.len() != requests.len() {
                return Err(self.contradiction("it did not answer each of a batch".to_owned()).into());
            }
            let head = self.newest()?;
            for (request, outcome) in requests.iter().zip(outcomes) {
                paid.push(match outcome {
                    Outcome::Done(told) => {
                        let entry = self.check(request, &told, &head)?;
                        let Event::Redeemed { paid, .. } = entry.event else { return Err(self.other_kind(&entry)) };
                        Ok(paid)
                    }
                    Outcome::Refused(problem) => match problem.refusal {
                        Some(refusal) => Err(*refusal),
                        None => {
                            return Err(self
                                .contradiction(format!("it refuses without a rule: {}", problem.detail))
                                .into());
                        }
                    },
                });
            }
        }
        Ok(paid)
    }

    fn start_close(&mut self, channel: ChannelId) -> Result<UnixTime, Error> {
        let entry = self.order(Command::StartClose { channel })?;
        let Event::CloseStarted { exit, .. } = entry.event else { return Err(self.other_kind(&entry)) };
        Ok(exit)
    }

    fn finalize(&mut self, channel: ChannelId) -> Result<Tokens, Error> {
        let entry = self.request(&Request::Finalize { channel })?;
        let Event::Finalized { refunded, .. } = entry.event else { return Err(self.other_kind(&entry)) };
        Ok(refunded)
    }

    fn mutual_close(&mut self, close: Close) -> Result<(), Error> {
        self.order(Command::MutualClose { close: close.into_unverified() }).map(drop)
    }

    fn newest_checkpoint(&self) -> Option<Note> {
        self.view.newest().cloned()
    }

    fn compare(&mut self, note: &Note, told_by: &str) -> Result<Comparison, Error> {
        Ok(self.compare_note(note, told_by)?)
    }

    fn found(&self) -> Option<String> {
        match self.distrust() {
            Ok(found) => found.map(|(what, _)| what),
            Err(error) => Some(error.to_string()),
        }
    }

    fn audit(&mut self) -> Result<Verdict, Error> {
        self.audit_telling(|_, _| ())
    }
}

impl Remote {
    /// [`Ledger::audit`], which tells after each page how many entries were replayed, and of how many.
    ///
    /// # Errors
    /// As [`Ledger::audit`].
    pub fn audit_telling(&mut self, mut tell: impl FnMut(u64, u64)) -> Result<Verdict, Error> {
        // What was believed last, and the newest.
        let believed = self.view.head().zip(self.view.newest().and_then(records));
        let (head, signed) = self.signed_records()?;
        let mut state: Option<State> = None;
        let broken = |difference: String| Ok(Verdict::Broken { difference });
        let (domain, mut next) = (self.genesis.domain(), 0);
        let mut page = self.page(next, &head);
        while next < head.size {
            let entries = page?;
            if entries.is_empty() {
                return broken(format!("entry {next} is missing, or more is told than was asked for"));
            }
            let after = next + entries.len() as u64;
            let (looked, following) = look::meanwhile(&domain, &entries, || self.page(after, &head));
            for (entry, logged) in entries.iter().zip(looked) {
                let replayed = match &mut state {
                    None => State::replay_founding(entry).map(|founded| state = Some(founded)),
                    Some(state) => logged.and_then(|logged| state.replay_logged(&logged)),
                };
                if let Err(error) = replayed {
                    return broken(format!("entry {next}: {error}"));
                }
                next += 1;
                if let (Some(state), Some((then, told))) = (&state, believed.filter(|(then, _)| then.size == next))
                    && state.record_root() != told
                {
                    let found = state.record_root();
                    return broken(format!(
                        "all records hash to {found} by the log of {} entries, and it signed {told}",
                        then.size
                    ));
                }
            }
            tell(next, head.size);
            page = following;
        }
        let Some(state) = state else { return broken("entry 0 is missing".to_owned()) };
        if state.head() != head {
            let told = state.head().root;
            return broken(format!("the log's root is {told} over {} entries, and it signed {}", head.size, head.root));
        }
        let found = state.record_root();
        if found != signed {
            return broken(format!("all records hash to {found} by the log, and it signed {signed}"));
        }
        Ok(Verdict::Kept { head, totals: state.totals() })
    }

    /// The log's entries from a number on, encoded, up to this head: none where the ledger tells none or too many.
    fn page(&mut self, from: u64, head: &Head) -> Result<Vec<Vec<u8>>, RemoteError> {
        let limit = head.size.saturating_sub(from).min(AUDIT_PAGE as u64);
        if limit == 0 {
            return Ok(Vec::new());
        }
        let page: Entries<NumberedBytes> = self.client.get(&format!("/v1/entries?from={from}&limit={limit}"))?;
        let entries: Vec<_> = page.entries.into_iter().map(|told| told.bytes.0).collect();
        Ok(if entries.len() as u64 > limit { Vec::new() } else { entries })
    }

    fn other_kind(&self, entry: &Entry) -> Error {
        self.contradiction(format!("it answers with {}", entry.event.name())).into()
    }
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote").field("client", &self.client).finish_non_exhaustive()
    }
}

const FOUNDING: &str = "founding";
const CHECKPOINT: &str = "checkpoint";
const UNANSWERED: &str = "unanswered.json";
const REFUSED: &str = "refused.json";
const LOCK: &str = "lock";

/// How often an order is signed anew where others sign for the same account at the same time.
const MAX_TRIES: u32 = 100;

/// How many orders that were refused are remembered before their number is used up: until then each may still happen.
const MAX_REFUSED: usize = 32;

/// The directory of what must be remembered: small files, each written whole or not at all. One process has it at a time.
struct Kept {
    directory: PathBuf,
    _lock: File,
}

impl Kept {
    fn open(directory: &Path) -> Result<Self, RemoteError> {
        let made = fs::create_dir_all(directory);
        made.map_err(|cause| RemoteError::Io { action: "make", path: directory.to_owned(), cause })?;
        // What is written into a new directory is only as durable as its name. Of those above the ones that may be opened.
        for above in directory.ancestors().skip(1).take(3) {
            let _durable = File::open(above).and_then(|above| above.sync_all());
        }
        let path = directory.join(LOCK);
        let lock =
            File::create(&path).map_err(|cause| RemoteError::Io { action: "write", path: path.clone(), cause })?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { directory: directory.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(RemoteError::InUse { path: directory.to_owned() }),
            Err(TryLockError::Error(cause)) => Err(RemoteError::Io { action: "lock", path, cause }),
        }
    }

    fn damaged(&self, name: &str, why: &str) -> RemoteError {
        RemoteError::Damaged { path: self.directory.join(name), why: why.to_owned() }
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, RemoteError> {
        let path = self.directory.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(RemoteError::Io { action: "read", path, cause }),
        }
    }

    fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, RemoteError> {
        let read = |bytes: Vec<u8>| serde_json::from_slice(&bytes);
        self.read(name)?.map(read).transpose().map_err(|error| self.damaged(name, &error.to_string()))
    }

    fn write_json(&self, name: &str, value: &impl Serialize) -> Result<(), RemoteError> {
        let bytes = serde_json::to_vec(value).map_err(|error| self.damaged(name, &error.to_string()))?;
        self.write(name, &bytes)
    }

    /// Gives a file another name, and overwrites none.
    fn set_aside(&self, name: &str) -> io::Result<()> {
        let aside = (1..100).map(|number| self.directory.join(format!("{name}.{number}"))).find(|path| !path.exists());
        aside.map_or(Ok(()), |aside| fs::rename(self.directory.join(name), aside))
    }

    /// Durable when this returns, and never half written.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), RemoteError> {
        let (path, new) = (self.directory.join(name), self.directory.join(format!("{name}.new")));
        let written = File::create(&new).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.directory)?.sync_all()
        });
        written.map_err(|cause| RemoteError::Io { action: "write", path, cause })
    }

    fn remove(&self, name: &str) -> Result<(), RemoteError> {
        let path = self.directory.join(name);
        match fs::remove_file(&path).and_then(|()| File::open(&self.directory)?.sync_all()) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                Err(RemoteError::Io { action: "remove", path, cause })
            }
            _ => Ok(()),
        }
    }
}
