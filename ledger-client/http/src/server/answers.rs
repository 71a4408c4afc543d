//! Answers to questions, from the ledger's file.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::body::Bytes;
use ledger_core::note::{Log, NoteSigner};
use ledger_core::{Genesis, Presented, Refusal, Request};
use ledger_embedded::{Embedded, Error, Recorded, SignedChannel, WriteError, Writer};
use serde::Serialize;
use tokio::sync::{Semaphore, oneshot};

use super::routes::Question;
use super::{Declined, Shared, page};
use crate::wire::{
    About, Account, ChannelRecord, Channels, Done, Entries, EntryRecord, Growth, Inclusion, MAX_BATCH, Outcome, Pair,
    Problem, channel_path,
};

const JSON: &str = "application/json";
pub(super) const HTML: &str = "text/html; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// An answer, whatever it is.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) kind: &'static str,
    pub(super) body: Bytes,
    pub(super) retry_after: Option<Duration>,
}

impl Reply {
    fn ok(kind: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status: 200, kind, body: body.into(), retry_after: None }
    }

    fn json(answer: &impl Serialize) -> Result<Self, Declined> {
        let body = serde_json::to_vec(answer);
        body.map(|body| Self::ok(JSON, body)).map_err(|error| {
            tracing::error!(%error, "an answer has no form in JSON");
            Problem::new(500, "InternalError", "the answer cannot be written").into()
        })
    }
}

/// The file, opened several times, and what is signed with the ledger's key.
pub(super) struct Ledger {
    genesis: Genesis,
    signer: NoteSigner<Log>,
    readers: Mutex<Vec<Embedded>>,
    free: Semaphore,
    writer: Writer,
    /// The newest checkpoint that was given out, and of which size: the same head is signed once.
    checkpoint: Mutex<Option<(u64, String)>>,
}

impl Ledger {
    pub(super) fn new(genesis: Genesis, signer: NoteSigner<Log>, readers: Vec<Embedded>, writer: Writer) -> Self {
        let free = Semaphore::new(readers.len());
        Self { genesis, signer, readers: Mutex::new(readers), free, writer, checkpoint: Mutex::default() }
    }

    pub(super) fn key(&self) -> String {
        self.signer.key().to_string()
    }

    pub(super) fn founding(&self) -> Vec<u8> {
        ledger_core::state::founding(&self.genesis).encode()
    }

    /// Asks the file something, on a thread that may wait for the disk.
    async fn read<T: Send + 'static>(
        &self,
        shared: &Arc<Shared>,
        look: impl FnOnce(&mut Embedded) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Declined> {
        let stopped = || Declined::from(Problem::new(503, "Unavailable", "the ledger is being closed"));
        let _free = self.free.acquire().await.map_err(|_| stopped())?;
        let shared = shared.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let readers = || shared.ledger.readers.lock().unwrap_or_else(PoisonError::into_inner);
            let mut reader = readers().pop()?;
            let looked = look(&mut reader);
            readers().push(reader);
            Some(looked)
        });
        looked.await.ok().flatten().ok_or_else(stopped)?.map_err(|error| unusable(&error))
    }

    pub(super) async fn answer(&self, question: &Question, shared: &Arc<Shared>) -> Result<Reply, Declined> {
        match *question {
            Question::About => self.about(shared).await,
            Question::Checkpoint => Ok(Reply::ok(TEXT, self.checkpoint(shared).await?)),
            Question::Account(account) => {
                let found = self.read(shared, move |ledger| ledger.account(account)).await?;
                let ledger_embedded::Account { balance, sequence, signer, membership, roles, registration, shares } =
                    found;
                Reply::json(&Account { account, balance, sequence, signer, membership, roles, registration, shares })
            }
            Question::Channels { account, after, limit } => {
                let page = self.read(shared, move |ledger| ledger.channels_page(account, after, limit)).await?;
                let next = page.last().filter(|_| page.len() == limit).map(|last| channel_path(&last.id));
                Reply::json(&Channels { channels: page.into_iter().map(record).collect(), next })
            }
            Question::Pair { payer, payee } => {
                let latest_nonce = self.read(shared, move |ledger| ledger.latest_nonce(payer, payee)).await?;
                Reply::json(&Pair { latest_nonce })
            }
            Question::Channel(id) => match self.read(shared, move |ledger| ledger.signed_channel(id)).await? {
                Some(channel) => Reply::json(&record(channel)),
                None => Err(Problem::new(404, "UnknownChannel", "this channel was never opened").into()),
            },
            Question::Entries { from, limit } => {
                let page = self.read(shared, move |ledger| ledger.entries(from, limit)).await?;
                let next = (page.len() == limit).then(|| from.saturating_add(limit as u64));
                let entries = (from..).zip(page).map(|(number, entry)| EntryRecord::new(number, entry)).collect();
                Reply::json(&Entries { entries, next })
            }
            Question::Entry { number, size } => {
                let found = self.read(shared, move |ledger| {
                    let size = size.map_or_else(|| ledger.head().map(|head| head.size), Ok)?;
                    Ok(ledger.prove_entry(number, size)?.map(|proven| (size, proven)))
                });
                let Some((size, (entry, proof))) = found.await? else {
                    return Err(Problem::new(404, "UnknownEntry", "the log of this size has no such entry").into());
                };
                Reply::json(&Inclusion { entry: EntryRecord::new(number, entry), size, proof })
            }
            Question::Growth { old_size, size } => {
                let Some(proof) = self.read(shared, move |ledger| ledger.prove_growth(old_size, size)).await? else {
                    return Err(
                        Problem::new(404, "UnknownSize", "the log never grew from one size to the other").into()
                    );
                };
                Reply::json(&Growth { old_size, size, proof })
            }
            Question::Document => Ok(Reply::ok(JSON, Bytes::from_static(include_bytes!("../../openapi.json")))),
            Question::Page => Ok(Reply::ok(HTML, Bytes::from_static(page::TEXT.as_bytes()))),
            Question::Health => {
                let standing = self.read(shared, Embedded::standing).await?;
                Reply::json(&serde_json::json!({ "healthy": true, "size": standing.head.size }))
            }
            Question::Metrics => self.metrics(shared).await,
            Question::Request | Question::Batch => {
                Err(Problem::new(500, "InternalError", "a question with a body was taken for one without").into())
            }
        }
    }

    async fn about(&self, shared: &Arc<Shared>) -> Result<Reply, Declined> {
        let standing = self.read(shared, Embedded::standing).await?;
        let genesis = &self.genesis;
        Reply::json(&About {
            community: genesis.community().to_owned(),
            symbol: genesis.symbol().to_owned(),
            decimals: genesis.decimals(),
            treasurer: genesis.treasurer(),
            close_notice_s: genesis.close_notice_s(),
            domain: genesis.domain(),
            key: self.key(),
            head: standing.head,
            time: standing.time,
            totals: standing.totals,
        })
    }

    async fn checkpoint(&self, shared: &Arc<Shared>) -> Result<String, Declined> {
        let (signer, given) = (self.signer.clone(), self.newest_given().as_ref().map_or(0, |(size, _)| *size));
        let newer = self.read(shared, move |ledger| {
            let size = ledger.head()?.size;
            if size > given { Ok(Some((size, ledger.checkpoint(&signer)?.to_string()))) } else { Ok(None) }
        });
        let newer = newer.await?;
        let mut newest = self.newest_given();
        if newer.as_ref().map(|(size, _)| *size) > newest.as_ref().map(|(size, _)| *size) {
            *newest = newer;
        }
        let note = newest.as_ref().map(|(_, note)| note.clone());
        note.ok_or_else(|| Problem::new(500, "InternalError", "the log has no entry").into())
    }

    fn newest_given(&self) -> MutexGuard<'_, Option<(u64, String)>> {
        self.checkpoint.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn metrics(&self, shared: &Arc<Shared>) -> Result<Reply, Declined> {
        let standing = self.read(shared, Embedded::standing).await?;
        let gauges = [
            ("entries", "Entries of the log.", standing.head.size),
            ("time_seconds", "Time of the newest entry.", standing.time.seconds()),
            ("connections", "Open connections.", shared.gate.taken() as u64),
        ];
        Ok(Reply::ok("text/plain; version=0.0.4; charset=utf-8", shared.metrics.text(&gauges)))
    }

    pub(super) async fn request(&self, request: Request, shared: &Arc<Shared>) -> Result<Reply, Declined> {
        // Some tens of microseconds: less than it takes to hand it to another thread and wait.
        let presented = self.writer.present(request);
        shared.count_signer(&presented)?;
        let mut answers = self.write(vec![presented]).await?;
        match answers.pop() {
            Some(Ok(recorded)) => Reply::json(&Done { entry: entry(recorded) }),
            Some(Err(refusal)) => Err(Problem::refused(refusal).into()),
            None => Err(Problem::new(500, "InternalError", "a request was not answered").into()),
        }
    }

    pub(super) async fn batch(&self, requests: Vec<Request>, shared: &Arc<Shared>) -> Result<Reply, Declined> {
        if requests.is_empty() || requests.len() > MAX_BATCH {
            return Err(Problem::new(400, "BadRequest", format!("a batch has 1 to {MAX_BATCH} requests")).into());
        }
        let writer = self.writer.clone();
        let presented = tokio::task::spawn_blocking(move || {
            requests.into_iter().map(|request| writer.present(request)).collect::<Vec<_>>()
        });
        let presented =
            presented.await.map_err(|_| Problem::new(500, "InternalError", "the signatures were not read"))?;
        presented.iter().try_for_each(|presented| shared.count_signer(presented))?;
        let outcomes: Vec<_> = self.write(presented).await?.into_iter().map(outcome).collect();
        for outcome in &outcomes {
            if let Outcome::Refused(Problem { refusal: Some(refusal), .. }) = outcome {
                shared.metrics.refused(refusal.rule());
            }
        }
        Reply::json(&outcomes)
    }

    async fn write(&self, presented: Vec<Presented>) -> Result<Vec<Result<Recorded, Refusal>>, Declined> {
        let (answer, answered) = oneshot::channel();
        // Who asked may have gone; what it asked happens all the same.
        self.writer.submit(presented, move |answers| drop(answer.send(answers))).map_err(|error| unwritten(&error))?;
        let lost = |_| Problem::new(500, "InternalError", "the ledger's writer has ended");
        answered.await.map_err(lost)?.map_err(|error| unwritten(&error))
    }
}

impl Shared {
    /// Counts a request to the key that signed it, if one did: to what stands in it, another's share could be used up.
    fn count_signer(&self, presented: &Presented) -> Result<(), Declined> {
        presented.signer().map_or(Ok(()), |signer| self.allow(&self.per_key, signer, 1))
    }
}

fn record(SignedChannel { id, signer, channel }: SignedChannel) -> ChannelRecord {
    ChannelRecord { channel: id, signer, record: channel }
}

fn entry(Recorded { number, entry }: Recorded) -> EntryRecord {
    EntryRecord::new(number, entry)
}

fn outcome(answer: Result<Recorded, Refusal>) -> Outcome {
    match answer {
        Ok(recorded) => Outcome::Done(entry(recorded)),
        Err(refusal) => Outcome::Refused(Problem::refused(refusal)),
    }
}

/// The file's own trouble is the operator's to read; who asks is told whether to ask again.
fn unusable(error: &Error) -> Declined {
    if let Error::Busy { .. } = error {
        let wait = Duration::from_secs(1);
        return Declined::later(503, "Busy", "the ledger's file is in use; ask again", wait);
    }
    tracing::error!(%error, "the ledger cannot be used");
    Problem::new(500, "LedgerUnusable", "the ledger's file cannot be used; its operator's log says why").into()
}

fn unwritten(error: &WriteError) -> Declined {
    let wait = Duration::from_secs(1);
    match error {
        WriteError::Failed(error) => unusable(error),
        WriteError::Overloaded => {
            Declined::later(503, "Overloaded", "more is asked than can be written; ask again", wait)
        }
        WriteError::Stopped => Declined::later(503, "Stopping", "the ledger is being closed; ask again", wait),
    }
}
