//! Answers to questions, from the ledger's file.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::body::Bytes;
use ledger_core::checkpoint::verify;
use ledger_core::note::{Log, NoteSigner};
use ledger_core::{Entry, Genesis, Presented, Refusal, Request};
use ledger_embedded::{Answers, Embedded, Error, Recorded, WriteError, Writer};
use metering::{ChannelId, NodeId};
use serde::Serialize;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;

use super::limits::Limits;
use super::routes::Question;
use super::{Declined, Shared, page};
use crate::wire::{
    About, Channels, Done, Entries, EntryRecord, Growth, HexBytes, Inclusion, MAX_BATCH, Named, Names, Outcome, Pair,
    Problem, ProvenRecord, ProvenRecords, channel_path,
};

const JSON: &str = "application/json";
pub(super) const HTML: &str = "text/html; charset=utf-8";
/// How much of the log is given out at a time.
const MAX_PAGE_BYTES: usize = 128 * 1024;

/// How much longer than its encoding an entry is in JSON, about.
const JSON_BYTES_A_BYTE: usize = 4;

/// How many channels are given out at a time: some 100 KB.
const MAX_CHANNELS: usize = 250;

/// How many names are given out at a time: some 100 KB.
const MAX_NAMES: usize = 300;

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
    free: Arc<Semaphore>,
    writer: Writer,
    /// Below this all entries' numbers are of entries that were there before.
    known: Mutex<u64>,
    /// The newest checkpoint that was given out, and of which size: the same head is signed once.
    checkpoint: Mutex<Option<(u64, String)>>,
    /// How many wait for a reader.
    waiting: AtomicUsize,
    /// Whether the last request that was to be written could not be.
    failing: AtomicBool,
}

/// The most who wait for a reader. Who comes then is turned away: all that wait hold what they asked in memory.
const MAX_WAITING: usize = 512;

/// Counts one who waits.
struct Waiting<'w>(&'w AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Ledger {
    pub(super) fn new(
        genesis: Genesis,
        signer: NoteSigner<Log>,
        size: u64,
        readers: Vec<Embedded>,
        writer: Writer,
    ) -> Self {
        let free = Arc::new(Semaphore::new(readers.len()));
        let (readers, known) = (Mutex::new(readers), Mutex::new(size));
        Self {
            genesis,
            signer,
            readers,
            free,
            writer,
            known,
            checkpoint: Mutex::default(),
            waiting: AtomicUsize::new(0),
            failing: AtomicBool::new(false),
        }
    }

    /// Whether the log continues a checkpoint that was published. `Err(None)`: the text is none of its.
    pub(super) fn must_continue(&self, text: &str) -> Result<(), Option<Error>> {
        let published = text.parse().ok().and_then(|note| verify(&note, self.signer.key()).ok()).ok_or(None)?;
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        readers.first_mut().map_or(Ok(()), |reader| reader.must_continue(&published)).map_err(Some)
    }

    /// The newest checkpoint that was given out, and its size.
    pub(super) fn newest_published(&self) -> Option<(u64, String)> {
        self.newest_given().clone()
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
        let waiting = Waiting(&self.waiting);
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING {
            let wait = Duration::from_secs(1);
            return Err(Declined::later(503, "Overloaded", "more is asked than can be read; ask again", wait));
        }
        let free = self.free.clone().acquire_owned().await.map_err(|_| stopped())?;
        drop(waiting);
        let shared = shared.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let readers = || shared.ledger.readers.lock().unwrap_or_else(PoisonError::into_inner);
            let mut reader = readers().pop()?;
            let looked = look(&mut reader);
            readers().push(reader);
            // Not before it is back, also where who asked has gone and nobody waits for this.
            drop(free);
            Some(looked)
        });
        looked.await.ok().flatten().ok_or_else(stopped)?.map_err(|error| unusable(&error))
    }

    pub(super) async fn answer(&self, question: &Question, shared: &Arc<Shared>) -> Result<Reply, Declined> {
        match *question {
            Question::About => self.about(shared).await,
            Question::Checkpoint => Ok(Reply::ok(TEXT, self.checkpoint(shared).await?)),
            Question::Account(account) => Reply::json(&self.read(shared, move |ledger| ledger.account(account)).await?),
            Question::Ordered { account, sequence, size } => {
                let found = self.read(shared, move |ledger| {
                    let Some(number) = ledger.order_number(account, sequence)? else { return Ok(None) };
                    let size = size.map_or_else(|| ledger.head().map(|head| head.size), Ok)?;
                    Ok(ledger.prove_entry(number, size)?.map(|(entry, proof)| (number, size, entry, proof)))
                });
                let Some((number, size, entry, proof)) = found.await? else {
                    let what = "the log of this size has no order of this account with this number";
                    return Err(Problem::new(404, "UnknownOrder", what).into());
                };
                Reply::json(&Inclusion { entry: EntryRecord::new(number, entry), size, proof })
            }
            Question::Channels { account, after, limit } => {
                let limit = limit.min(MAX_CHANNELS);
                let page = self.read(shared, move |ledger| ledger.channels_page(account, after, limit)).await?;
                let next = page.last().filter(|_| page.len() == limit).map(|last| channel_path(&last.channel));
                Reply::json(&Channels { channels: page, next })
            }
            Question::Pair { payer, payee } => {
                let latest_nonce = self.read(shared, move |ledger| ledger.latest_nonce(payer, payee)).await?;
                Reply::json(&Pair { latest_nonce })
            }
            Question::Channel(id) => match self.read(shared, move |ledger| ledger.signed_channel(id)).await? {
                Some(channel) => Reply::json(&channel),
                None => Err(Problem::new(404, "UnknownChannel", "this channel was never opened").into()),
            },
            Question::Names { after, limit } => {
                let limit = limit.min(MAX_NAMES);
                let names = self.read(shared, move |ledger| ledger.names(after, limit)).await?;
                let next = names.last().filter(|_| names.len() == limit).map(|last| last.name);
                Reply::json(&Names { names, next })
            }
            Question::Named(name) => match self.read(shared, move |ledger| ledger.named(name)).await? {
                Some(holder) => Reply::json(&Named { name, holder }),
                None => Err(Problem::new(404, "UnknownName", "nobody has this name").into()),
            },
            Question::Entries { from, limit } => {
                let page = self.read(shared, move |ledger| ledger.entries(from, limit)).await?;
                let (full, mut bytes) = (page.len() == limit, 0);
                // The first, and as many more as a slow client takes in reasonable time.
                let fits = |entry: &Entry| {
                    let fitted = bytes <= MAX_PAGE_BYTES;
                    bytes += JSON_BYTES_A_BYTE * entry.encode().len();
                    fitted
                };
                let read = page.len();
                let page: Vec<_> = page.into_iter().take_while(fits).collect();
                let next = (full || page.len() < read).then(|| from.saturating_add(page.len() as u64));
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
            Question::Records { ref places, old_size } => self.records(shared, places.clone(), old_size).await,
            Question::Document => Ok(Reply::ok(JSON, Bytes::from_static(include_bytes!("../../openapi.json")))),
            Question::Page => Ok(Reply::ok(HTML, Bytes::from_static(page::TEXT.as_bytes()))),
            Question::Health => {
                let standing = self.read(shared, Embedded::standing).await?;
                // An empty transaction: whether the writer is there, and may write.
                self.write(Vec::new(), shared).await?;
                if self.failing.load(Ordering::Relaxed) {
                    let wait = Duration::from_secs(10);
                    return Err(Declined::later(503, "Unavailable", "the last request could not be written", wait));
                }
                Reply::json(&serde_json::json!({ "healthy": true, "size": standing.head.size }))
            }
            Question::Metrics => self.metrics(shared).await,
            Question::Request | Question::Batch => {
                Err(Problem::new(500, "InternalError", "a question with a body was taken for one without").into())
            }
        }
    }

    /// By a reader, once the writer has brought the hash of all records up to date where it was behind.
    async fn records(&self, shared: &Arc<Shared>, places: Vec<Vec<u8>>, old_size: u64) -> Result<Reply, Declined> {
        let read = async || {
            let asked = places.clone();
            self.read(shared, move |ledger| ledger.proven_records(&asked)).await
        };
        let lost = |_| Declined::from(Problem::new(500, "InternalError", "the ledger's writer has ended"));
        let mut proven = read().await?;
        if proven.is_none() {
            let (answer, hashed) = oneshot::channel();
            let asked = self.writer.hash_records(move |hashed| drop(answer.send(hashed)));
            asked.map_err(|error| unwritten(&error))?;
            hashed.await.map_err(lost)?.map_err(|error| unwritten(&error))?;
            proven = read().await?;
        }
        let proven = match proven {
            Some(proven) => proven,
            // Others write all the time.
            None => {
                let (answer, answered) = oneshot::channel();
                let asked = self.writer.prove(places.clone(), move |proven| drop(answer.send(proven)));
                asked.map_err(|error| unwritten(&error))?;
                answered.await.map_err(lost)?.map_err(|error| unwritten(&error))?
            }
        };
        let (signer, size) = (self.signer.clone(), proven.head.size);
        let signed = self.read(shared, move |ledger| {
            let note = ledger.checkpoint_of(&proven, &signer)?;
            let growth = if old_size == 0 { Some(Vec::new()) } else { ledger.prove_growth(old_size, size)? };
            Ok((note, growth, proven))
        });
        let (note, growth, proven) = signed.await?;
        let Some(growth) = growth else {
            return Err(Problem::new(404, "UnknownSize", "the log does not have this size yet").into());
        };
        let mut newest = self.newest_given();
        // One that says more of the same size takes the other's place: whoever compares two of them sees what it said.
        if newest.as_ref().is_none_or(|(given, _)| *given <= size) {
            *newest = Some((size, note.to_string()));
        }
        drop(newest);
        let records = places.into_iter().zip(proven.records).map(|(place, (value, proof))| ProvenRecord {
            place: HexBytes(place),
            value: value.map(HexBytes),
            proof,
        });
        let records = records.collect();
        Reply::json(&ProvenRecords { checkpoint: note.to_string(), growth, records })
    }

    async fn about(&self, shared: &Arc<Shared>) -> Result<Reply, Declined> {
        let standing = self.read(shared, Embedded::standing).await?;
        let (head, time, totals) = (standing.head, standing.time, standing.totals);
        Reply::json(&About::new(&self.genesis, self.key(), head, time, totals))
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
        shared.has_room(Counted::of(&presented, self.genesis.treasurer()))?;
        let mut answers = self.write(vec![presented], shared).await?;
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
        // Who has used up its rate holds up nobody else of the batch.
        let treasurer = self.genesis.treasurer();
        let held: Vec<_> =
            presented.iter().map(|presented| shared.has_room(Counted::of(presented, treasurer)).err()).collect();
        let asked: Vec<_> =
            presented.into_iter().zip(&held).filter(|(_, held)| held.is_none()).map(|(one, _)| one).collect();
        let answers = if asked.is_empty() { Vec::new() } else { self.write(asked, shared).await? };
        let mut answers = answers.into_iter();
        let mut outcomes = Vec::with_capacity(held.len());
        for held in held {
            outcomes.push(match held {
                Some(declined) => Outcome::Refused(declined.problem),
                None => match answers.next() {
                    Some(Ok(recorded)) => Outcome::Done(entry(recorded)),
                    Some(Err(refusal)) => {
                        shared.metrics.refused(refusal.rule());
                        Outcome::Refused(Problem::refused(refusal))
                    }
                    None => return Err(Problem::new(500, "InternalError", "a request was not answered").into()),
                },
            });
        }
        Reply::json(&outcomes)
    }

    fn known(&self) -> u64 {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an entry to whom it counts, where it was made now and not before.
    fn count(&self, shared: &Shared, counted: Counted, before: u64, recorded: &Recorded) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        *known = (*known).max(recorded.number.saturating_add(1));
        drop(known);
        if recorded.number < before {
            return;
        }
        // Where others of its orders were on their way at the same time, it may have used a little more than it has.
        match counted {
            Counted::Order { signer, by_treasurer } => {
                let _over = shared.allow(&shared.per_key, signer, 1);
                if !by_treasurer {
                    let _over = shared.allow(&shared.per_day, signer, 1);
                }
            }
            Counted::Receipt(channel) => {
                // Of the channel's own first, which nobody else can use up.
                if shared.allow(&shared.per_channel, channel, 1).is_err() {
                    let _over = shared.allow(&shared.per_day, channel.payee, 1);
                }
            }
            Counted::Nobody => {}
        }
    }

    async fn write(
        &self,
        presented: Vec<Presented>,
        shared: &Arc<Shared>,
    ) -> Result<Vec<Result<Recorded, Refusal>>, Declined> {
        let (answer, answered) = oneshot::channel();
        let treasurer = self.genesis.treasurer();
        let counted = presented.iter().map(|presented| Counted::of(presented, treasurer));
        let (counted, before): (Vec<_>, _) = (counted.collect(), self.known());
        let counting = shared.clone();
        // Who asked may have gone; what it asked happens all the same, and is counted.
        let done = move |answers: Answers| {
            let failed = matches!(&answers, Err(WriteError::Failed(error)) if !matches!(**error, Error::Busy { .. }));
            if failed || !counted.is_empty() {
                counting.ledger.failing.store(failed, Ordering::Relaxed);
            }
            for (counted, answer) in counted.into_iter().zip(answers.iter().flatten()) {
                if let Ok(recorded) = answer {
                    counting.ledger.count(&counting, counted, before, recorded);
                }
            }
            drop(answer.send(answers));
        };
        self.writer.submit(presented, done).map_err(|error| unwritten(&error))?;
        let lost = |_| Problem::new(500, "InternalError", "the ledger's writer has ended");
        answered.await.map_err(lost)?.map_err(|error| unwritten(&error))
    }
}

impl Shared {
    /// Whether those an entry would count to may make another.
    fn has_room(&self, counted: Counted) -> Result<(), Declined> {
        fn wait<K: Ord + Copy>(limits: &Mutex<Limits<K>>, key: K) -> Option<Duration> {
            limits.lock().unwrap_or_else(PoisonError::into_inner).wait(key, Instant::now())
        }
        let (wait, what) = match counted {
            Counted::Order { signer, by_treasurer } => match wait(&self.per_key, signer) {
                None if by_treasurer => (None, ""),
                None => (wait(&self.per_day, signer), "this key has used up what it may order in a day"),
                held => (held, "this key has ordered more than it may at once"),
            },
            Counted::Receipt(channel) => {
                let held = wait(&self.per_channel, channel).and_then(|own| {
                    let of_payee = wait(&self.per_day, channel.payee)?;
                    Some(own.min(of_payee))
                });
                (
                    held,
                    "more receipts of this payee were redeemed than may be in a day; bring the newest of each channel",
                )
            }
            Counted::Nobody => (None, ""),
        };
        wait.map_or(Ok(()), |wait| Err(Declined::later(429, "TooManyRequests", what, wait)))
    }
}

/// To whom an entry counts that a request makes.
#[derive(Clone, Copy, Debug)]
enum Counted {
    /// To the key that signed the order.
    Order { signer: NodeId, by_treasurer: bool },
    /// A receipt stands in the log for all to copy, so it counts to nobody's rate, whoever brings it: see
    /// [`super::Settings::per_day`].
    Receipt(ChannelId),
    /// Whoever signed nothing that reads, and what can be brought only once: a claim, the end of a notice.
    Nobody,
}

impl Counted {
    fn of(presented: &Presented, treasurer: NodeId) -> Self {
        match presented.request() {
            Request::Order(order) => {
                let by_treasurer = order.account() == treasurer;
                presented.signer().map_or(Self::Nobody, |signer| Self::Order { signer, by_treasurer })
            }
            Request::Redeem { receipt } => Self::Receipt(receipt.channel()),
            Request::RedeemVoucher { .. } | Request::Finalize { .. } => Self::Nobody,
        }
    }
}

fn entry(Recorded { number, entry }: Recorded) -> EntryRecord {
    EntryRecord::new(number, entry)
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use ledger_core::{Command, Order, UnixTime};
    use metering::{AccountKey, Tokens};

    use super::super::{Rate, Server, Settings};
    use super::*;

    fn clock() -> ledger_embedded::Clock {
        Box::new(UnixTime::default)
    }

    fn treasurer() -> AccountKey {
        AccountKey::from_bytes(&[0xee; 32]).unwrap()
    }

    async fn served(directory: &tempfile::TempDir, settings: Settings) -> Arc<Shared> {
        let path = directory.path().join("ledger");
        let founder = treasurer().node_id();
        let genesis = Genesis::new("Hilltop", "HILL", 6, founder, UnixTime::default(), [1; 16]).unwrap();
        Embedded::create(&path, &genesis, clock()).unwrap();
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let server = Server::bind(any, None, &path, clock, &[0x5e; 32], settings).await.unwrap();
        server.shared.clone()
    }

    #[tokio::test]
    async fn a_reader_whose_asker_has_gone_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let shared = served(&directory, Settings { readers: 1, ..Settings::default() }).await;
        let (began, begun) = sync_channel::<()>(1);
        let (release, released) = sync_channel::<()>(1);
        let asking = {
            let shared = shared.clone();
            tokio::spawn(async move {
                let slow = shared.ledger.read(&shared, move |_| {
                    began.send(()).expect("the test waits");
                    released.recv().expect("the test goes on");
                    Ok(())
                });
                slow.await.is_ok()
            })
        };
        tokio::task::spawn_blocking(move || begun.recv()).await.unwrap().unwrap();
        // Who asked hangs up; the only reader is still busy with it.
        asking.abort();
        assert!(asking.await.unwrap_err().is_cancelled());
        let mut next = Box::pin(shared.ledger.read(&shared, Embedded::head));
        let waker = std::task::Waker::noop();
        assert!(next.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_pending());
        release.send(()).unwrap();
        assert_eq!(next.await.ok().map(|head| head.size), Some(1));
    }

    #[tokio::test]
    async fn so_many_wait_for_a_reader_and_the_next_is_told_to_come_later() {
        let directory = tempfile::tempdir().unwrap();
        let shared = served(&directory, Settings { readers: 1, ..Settings::default() }).await;
        let (release, released) = sync_channel::<()>(1);
        let busy = {
            let shared = shared.clone();
            tokio::spawn(async move {
                let slow = move |_: &mut Embedded| {
                    released.recv().expect("the test goes on");
                    Ok(())
                };
                shared.ledger.read(&shared, slow).await.is_ok()
            })
        };
        while shared.ledger.free.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let waker = std::task::Waker::noop();
        let mut waiting: Vec<_> =
            (0..MAX_WAITING).map(|_| Box::pin(shared.ledger.read(&shared, Embedded::head))).collect();
        for one in &mut waiting {
            assert!(one.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_pending());
        }
        let declined = shared.ledger.read(&shared, Embedded::head).await.err().unwrap();
        assert_eq!((declined.problem.status, declined.problem.title.as_str()), (503, "Overloaded"));
        // Who hangs up makes room.
        drop(waiting.pop());
        let mut next = Box::pin(shared.ledger.read(&shared, Embedded::head));
        assert!(next.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_pending());
        release.send(()).unwrap();
        assert!(busy.await.unwrap());
        drop(waiting);
        assert!(next.await.is_ok());
    }

    #[tokio::test]
    async fn a_ledger_that_cannot_be_written_is_not_healthy() {
        let directory = tempfile::tempdir().unwrap();
        let shared = served(&directory, Settings::default()).await;
        let status = async |shared: &Arc<Shared>| match shared.ledger.answer(&Question::Health, shared).await {
            Ok(reply) => reply.status,
            Err(declined) => declined.problem.status,
        };
        assert_eq!(status(&shared).await, 200);
        shared.ledger.failing.store(true, Ordering::Relaxed);
        assert_eq!(status(&shared).await, 503);
        let command = Command::Mint { to: NodeId([1; 20]), amount: Tokens::new(1).unwrap() };
        let domain = shared.ledger.genesis.domain();
        let order = Order::sign(&treasurer(), &domain, treasurer().node_id(), 1, command).into_unverified();
        assert!(shared.ledger.request(Request::Order(order), &shared).await.is_ok());
        assert_eq!(status(&shared).await, 200, "what could be written shows that it can");
        shared.ledger.writer.stop();
        assert_eq!(status(&shared).await, 503);
    }

    #[tokio::test]
    async fn an_old_copy_is_served_only_where_a_person_has_decided_so() {
        let directory = tempfile::tempdir().unwrap();
        let (file, published) = (directory.path().join("ledger"), directory.path().join("published"));
        let shared = served(&directory, Settings::default()).await;
        let old = std::fs::read(&file).unwrap();
        drop(shared);
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let bind = async || Server::bind(any, None, &file, clock, &[0x5e; 32], Settings::default()).await.unwrap();
        let server = bind().await.keep_published(&published, false).unwrap();
        let shared = server.shared.clone();
        let command = Command::Mint { to: NodeId([1; 20]), amount: Tokens::new(1).unwrap() };
        let domain = shared.ledger.genesis.domain();
        let order = Order::sign(&treasurer(), &domain, treasurer().node_id(), 1, command).into_unverified();
        assert!(shared.ledger.request(Request::Order(order), &shared).await.is_ok());
        assert_eq!(shared.ledger.checkpoint(&shared).await.ok().map(|note| note.contains("\n2\n")), Some(true));
        // At the end it is written.
        server.run(async {}).await;
        drop(shared);
        assert!(std::fs::read_to_string(&published).unwrap().contains("\n2\n"));
        bind().await.keep_published(&published, false).unwrap();

        for end in ["-wal", "-shm"] {
            let _gone = std::fs::remove_file(directory.path().join(format!("ledger{end}")));
        }
        std::fs::write(&file, old).unwrap();
        let refused = bind().await.keep_published(&published, false).err().unwrap();
        let said = refused.to_string();
        assert!(said.ends_with("has 1 entries, and 2 were published: it is an old copy"), "{said}");
        assert!(bind().await.keep_published(&published, true).is_ok());
        std::fs::write(&published, "something else").unwrap();
        let refused = bind().await.keep_published(&published, false).err().unwrap().to_string();
        assert!(refused.ends_with("it is no checkpoint of this ledger"), "{refused}");
    }

    #[tokio::test]
    async fn what_was_asked_is_counted_though_its_asker_has_gone() {
        let directory = tempfile::tempdir().unwrap();
        let per_key = Rate { per_second: 1, burst: 1 };
        let shared = served(&directory, Settings { per_key, ..Settings::default() }).await;
        let mint = |sequence| {
            let command = Command::Mint { to: NodeId([1; 20]), amount: Tokens::new(1).unwrap() };
            let domain = shared.ledger.genesis.domain();
            let order = Order::sign(&treasurer(), &domain, treasurer().node_id(), sequence, command);
            Request::Order(order.into_unverified())
        };
        let mut asked = Box::pin(shared.ledger.request(mint(1), &shared));
        let waker = std::task::Waker::noop();
        assert!(asked.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_pending());
        drop(asked);
        // This waits behind it in the writer's queue; a refusal counts to nobody.
        let behind = shared.ledger.request(mint(7), &shared).await;
        let title = behind.err().map(|declined| declined.problem.title);
        assert!(
            title == Some("SequenceOutOfOrder".to_owned()) || title == Some("TooManyRequests".to_owned()),
            "{title:?}"
        );
        assert_eq!(shared.ledger.read(&shared, Embedded::head).await.ok().map(|head| head.size), Some(2));
        let next = shared.ledger.request(mint(2), &shared).await;
        assert_eq!(next.err().map(|declined| declined.problem.status), Some(429));
    }
}
