//! One writer for many who ask: what waits while a commit is on its way to the disk becomes the next one.
//!
//! ```text
//! asking threads and tasks --execute, submit--> the queue --everything that waits--> the writer's thread --one commit--> disk
//!                          <-------------- each its own answers, after the commit ---------------'
//! ```
//!
//! Between commits the same thread brings the hash of all records up to date, where somebody wants a record proven
//! ([`Writer::prove`]) or much has happened since.

use std::collections::VecDeque;
use std::fmt;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use ledger_core::{Presented, Refusal, Request};
use metering::LedgerDomain;
use thiserror::Error;

use crate::records::MAX_BEHIND;
use crate::{Embedded, Error, Proven, Recorded};

/// The most requests that wait. What comes then waits outside ([`Writer::execute`]) or is turned away ([`Writer::submit`]).
pub const MAX_WAITING: usize = 4096;

/// The most requests in one transaction, unless one caller alone asks for more: so many are booked in some tens of
/// milliseconds, and nobody waits for much longer than two transactions.
pub const MAX_COMMIT: usize = 512;

/// What a request was answered, each request with its own; or why none of them has happened.
pub type Answers = Result<Vec<Result<Recorded, Refusal>>, WriteError>;

/// The most who wait for a proof. Who comes then is turned away.
pub const MAX_PROOFS_WAITING: usize = 64;

/// Why a writer has not answered. Nothing has happened.
#[derive(Clone, Debug, Error)]
pub enum WriteError {
    /// The transaction failed, with all that was in it.
    #[error(transparent)]
    Failed(Arc<Error>),
    /// More is asked than the disk takes: the caller asks again later.
    #[error("too many wait already")]
    Overloaded,
    /// The writer was stopped before it came to this.
    #[error("the ledger's writer has stopped")]
    Stopped,
}

/// A ledger that a thread of its own writes, for all who have this handle or a copy of it.
///
/// [`Writer::start`] it, look at signatures with [`Writer::present`] on the asking thread, and ask with [`Writer::execute`]
/// where one may wait or with [`Writer::submit`] where not; [`Writer::stop`] it at the end. An answer is given when it is on
/// the disk. When the last handle is gone, what was asked is still answered.
#[derive(Clone)]
pub struct Writer {
    handle: Arc<Handle>,
}

struct Handle {
    queue: Arc<Queue>,
    domain: LedgerDomain,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Queue {
    waiting: Mutex<Waiting>,
    /// Something waits, or the writer is to stop.
    asked: Condvar,
    /// There is room again, or there never will be.
    room: Condvar,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    /// How many requests are in them.
    requests: usize,
    proofs: Vec<ProofJob>,
    stopped: bool,
}

/// What one caller asks in one go.
struct Job {
    requests: Vec<Presented>,
    answer: Box<dyn FnOnce(Answers) + Send>,
}

/// What one caller wants proven: by itself, once the hash of all records is up to date, or by the writer.
enum ProofJob {
    Hashed(Box<dyn FnOnce(Result<(), WriteError>) + Send>),
    Proven { places: Vec<Vec<u8>>, answer: Box<dyn FnOnce(Result<Proven, WriteError>) + Send> },
}

impl Writer {
    /// Has a new thread write this ledger.
    ///
    /// # Errors
    /// [`Error::Io`], where there is no thread to be had.
    pub fn start(ledger: Embedded) -> Result<Self, Error> {
        let (domain, path) = (ledger.genesis().domain(), ledger.path.clone());
        let queue = Arc::new(Queue { waiting: Mutex::default(), asked: Condvar::new(), room: Condvar::new() });
        let ours = Arc::clone(&queue);
        let thread = thread::Builder::new().name("ledger-writer".into()).spawn(move || write(ledger, &ours));
        let thread = Mutex::new(Some(thread.map_err(|source| Error::Io { path, source })?));
        Ok(Self { handle: Arc::new(Handle { queue, domain, thread }) })
    }

    /// Finds who signed a request: the slow part of an answer, done by whoever calls this.
    #[must_use]
    pub fn present(&self, request: Request) -> Presented {
        Presented::recover(&self.handle.domain, request)
    }

    /// Has requests answered in one transaction, in order, and waits for the answers; before that, for room in the queue.
    ///
    /// # Errors
    /// [`WriteError::Failed`] and [`WriteError::Stopped`].
    pub fn execute(&self, requests: Vec<Presented>) -> Answers {
        let queue = &self.handle.queue;
        let (send, answered) = sync_channel(1);
        // Who asks waits for it, so it is taken.
        let answer = Box::new(move |answers| drop(send.send(answers)));
        let no_room = |waiting: &mut Waiting| !waiting.stopped && !waiting.has_room(requests.len());
        let waiting = queue.room.wait_while(queue.lock(), no_room).unwrap_or_else(PoisonError::into_inner);
        queue.take(waiting, Job { requests, answer })?;
        answered.recv().unwrap_or(Err(WriteError::Stopped))
    }

    /// Has requests answered in one transaction, in order, and does not wait: `answer` is called from the writer's thread,
    /// which it must not hold up, once they are on the disk. Where this is an error, or the writer dies, it is dropped
    /// without being called.
    ///
    /// # Errors
    /// [`WriteError::Overloaded`] and [`WriteError::Stopped`].
    pub fn submit(
        &self,
        requests: Vec<Presented>,
        answer: impl FnOnce(Answers) + Send + 'static,
    ) -> Result<(), WriteError> {
        let queue = &self.handle.queue;
        let waiting = queue.lock();
        if !waiting.stopped && !waiting.has_room(requests.len()) {
            return Err(WriteError::Overloaded);
        }
        queue.take(waiting, Job { requests, answer: Box::new(answer) })
    }

    /// Has the hash of all records brought up to date, once for all who wait: for who found it behind the log
    /// ([`Embedded::proven_records`]) and asks again then. Does not wait: `answer` is called as in [`Writer::submit`].
    ///
    /// # Errors
    /// [`WriteError::Overloaded`] and [`WriteError::Stopped`].
    pub fn hash_records(&self, answer: impl FnOnce(Result<(), WriteError>) + Send + 'static) -> Result<(), WriteError> {
        self.push_proof(ProofJob::Hashed(Box::new(answer)))
    }

    /// Has what stands at these places proven by the writer, as of a head that is not older than this call: for who found the
    /// hash behind again, because others write all the time.
    ///
    /// # Errors
    /// As [`Writer::hash_records`].
    pub fn prove(
        &self,
        places: Vec<Vec<u8>>,
        answer: impl FnOnce(Result<Proven, WriteError>) + Send + 'static,
    ) -> Result<(), WriteError> {
        self.push_proof(ProofJob::Proven { places, answer: Box::new(answer) })
    }

    fn push_proof(&self, job: ProofJob) -> Result<(), WriteError> {
        let queue = &self.handle.queue;
        let mut waiting = queue.lock();
        if waiting.stopped {
            return Err(WriteError::Stopped);
        }
        if waiting.proofs.len() >= MAX_PROOFS_WAITING {
            return Err(WriteError::Overloaded);
        }
        waiting.proofs.push(job);
        queue.asked.notify_one();
        Ok(())
    }

    /// Takes no more requests, answers those that wait, and returns when the file is closed. Not to be called from an
    /// answer's callback, which would wait for itself.
    pub fn stop(&self) {
        self.handle.queue.stop();
        let thread = self.handle.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A writer that panicked has closed the file too, and has said why.
        let _ = thread.map(JoinHandle::join);
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("domain", &self.handle.domain).finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.queue.stop();
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics with the lock held that leaves it half changed.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, mut waiting: MutexGuard<'_, Waiting>, job: Job) -> Result<(), WriteError> {
        if waiting.stopped {
            return Err(WriteError::Stopped);
        }
        waiting.requests += job.requests.len();
        waiting.jobs.push_back(job);
        self.asked.notify_one();
        Ok(())
    }

    fn stop(&self) {
        self.lock().stopped = true;
        self.asked.notify_one();
        self.room.notify_all();
    }

    /// Waits until something is asked and gives as much as fits one transaction, and all who want a proof; nothing, when the
    /// writer is to stop and nobody waits.
    fn next(&self) -> (Vec<Job>, Vec<ProofJob>) {
        let idle = |waiting: &mut Waiting| waiting.jobs.is_empty() && waiting.proofs.is_empty() && !waiting.stopped;
        let mut waiting = self.asked.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        let (mut jobs, mut requests) = (Vec::new(), 0);
        while let Some(job) = waiting.jobs.front() {
            let after = requests + job.requests.len();
            if after > MAX_COMMIT && !jobs.is_empty() {
                break;
            }
            requests = after;
            jobs.extend(waiting.jobs.pop_front());
        }
        waiting.requests -= requests;
        let proofs = std::mem::take(&mut waiting.proofs);
        self.room.notify_all();
        (jobs, proofs)
    }
}

impl Waiting {
    /// Whoever asks for more than there ever is room for has the queue to itself.
    fn has_room(&self, requests: usize) -> bool {
        self.jobs.is_empty() || self.requests + requests <= MAX_WAITING
    }
}

/// Stops the queue when the writer ends, however it ends, and lets go of those who wait.
struct Ending<'q>(&'q Queue);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.stop();
        // Each callback is dropped, with the queue free, and who waits for it learns of that.
        let mut waiting = self.0.lock();
        let left = (std::mem::take(&mut waiting.jobs), std::mem::take(&mut waiting.proofs));
        drop(waiting);
        drop(left);
    }
}

/// The writer's thread.
fn write(mut ledger: Embedded, queue: &Queue) {
    let ending = Ending(queue);
    let mut behind = 0;
    loop {
        let (jobs, proofs) = queue.next();
        if jobs.is_empty() && proofs.is_empty() {
            break;
        }
        if !jobs.is_empty() {
            behind += answer(&mut ledger, jobs);
        }
        if behind >= MAX_BEHIND || !proofs.is_empty() {
            behind = 0;
            prove(&mut ledger, proofs);
        }
    }
    // Who asks after this finds a stopped queue, and a file that is closed.
    drop(ledger);
    drop(ending);
}

/// Brings the hash of all records up to date, for all who wait at once, and proves what the writer itself is to prove.
fn prove(ledger: &mut Embedded, proofs: Vec<ProofJob>) {
    let hashed = loop {
        match ledger.hash_records(u64::MAX) {
            Ok(true) => {}
            Ok(false) => break Ok(()),
            Err(error) => break Err(WriteError::Failed(Arc::new(error))),
        }
    };
    for proof in proofs {
        match proof {
            ProofJob::Hashed(answer) => answer(hashed.clone()),
            ProofJob::Proven { places, answer } => {
                answer(ledger.prove_records(&places).map_err(|error| WriteError::Failed(Arc::new(error))));
            }
        }
    }
}

/// Answers what was asked, and says how many requests had an answer that was no refusal.
fn answer(ledger: &mut Embedded, jobs: Vec<Job>) -> u64 {
    let requests: Vec<Presented> = jobs.iter().flat_map(|job| &job.requests).copied().collect();
    match ledger.execute_presented(&requests) {
        Ok(answers) => {
            let done = answers.iter().filter(|answer| answer.is_ok()).count() as u64;
            let mut answers = answers.into_iter();
            for job in jobs {
                let own = answers.by_ref().take(job.requests.len()).collect();
                (job.answer)(Ok(own));
            }
            done
        }
        // One damaged row keeps only those from writing who need it.
        Err(Error::Damaged { .. }) if jobs.len() > 1 => jobs.into_iter().map(|job| answer(ledger, vec![job])).sum(),
        Err(error) => {
            let error = Arc::new(error);
            jobs.into_iter().for_each(|job| (job.answer)(Err(WriteError::Failed(Arc::clone(&error)))));
            0
        }
    }
}
