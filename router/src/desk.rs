//! A desk: a thread that owns something that blocks (the journal, the ledger) and does what is asked of it, one job after
//! another. What somebody waits for goes before what can wait; long work that can wait is asked for in small pieces, so that
//! others are let in between.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

/// Jobs of one kind waiting at a desk. The control task asks for a handful per neighbour and waits for the answers, so a full
/// desk means a disk that has stopped; whoever asks is then told at once instead of waiting behind it.
const WAITING_MAX: usize = 1024;
/// After so many urgent jobs in a row one that can wait is done: it can wait, but not for ever.
const URGENT_IN_A_ROW: u32 = 8;

type Job<T> = Box<dyn FnOnce(&mut T) + Send>;

/// The desk has too much waiting, or takes no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{desk} is not keeping up")]
pub(crate) struct Overrun {
    desk: &'static str,
}

/// Who waits for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// A neighbour or a person.
    Urgent,
    /// Nobody.
    CanWait,
}

/// A handle on the thread. The thread ends, after the jobs it has taken, when the last handle is dropped.
pub(crate) struct Desk<T> {
    name: &'static str,
    handle: Arc<Handle<T>>,
}

impl<T> Clone for Desk<T> {
    fn clone(&self) -> Self {
        Self { name: self.name, handle: Arc::clone(&self.handle) }
    }
}

impl<T: Send + 'static> Desk<T> {
    /// Starts the thread.
    pub(crate) fn start(name: &'static str, owned: T) -> io::Result<(Self, DeskThread)> {
        Self::start_with(name, owned, |_, _| ())
    }

    /// Starts the thread; `before` is called before each job.
    pub(crate) fn start_with(
        name: &'static str,
        owned: T,
        before: fn(&mut T, Urgency),
    ) -> io::Result<(Self, DeskThread)> {
        let queue = Arc::new(Queue { jobs: Mutex::new(Jobs::default()), changed: Condvar::new() });
        let (tell, ended) = oneshot::channel::<Infallible>();
        let served = Served(Arc::clone(&queue));
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            // Dropped in this order reversed, also by a panic: whoever is told of the end finds nothing open any more.
            let _tell = tell;
            let served = served;
            let mut owned = owned;
            while let Some((urgency, job)) = served.0.next() {
                before(&mut owned, urgency);
                job(&mut owned);
            }
        })?;
        let handle = Arc::new(Handle(Arc::clone(&queue)));
        Ok((Self { name, handle }, DeskThread { ended: Some(ended), thread, queue }))
    }

    /// Hands an urgent job in, now, so that jobs are done in the order of the calls; the future is its answer.
    pub(crate) fn ask<R, F>(&self, job: F) -> impl Future<Output = Result<R, Overrun>> + Send + use<T, R, F>
    where
        R: Send + 'static,
        F: FnOnce(&mut T) -> R + Send + 'static,
    {
        self.hand_in(Urgency::Urgent, job)
    }

    /// The same with a job that can wait: it should not take long, as an urgent one may come at any time.
    pub(crate) fn ask_later<R, F>(&self, job: F) -> impl Future<Output = Result<R, Overrun>> + Send + use<T, R, F>
    where
        R: Send + 'static,
        F: FnOnce(&mut T) -> R + Send + 'static,
    {
        self.hand_in(Urgency::CanWait, job)
    }

    /// The same, as urgent as is said.
    pub(crate) fn hand_in<R, F>(
        &self,
        urgency: Urgency,
        job: F,
    ) -> impl Future<Output = Result<R, Overrun>> + Send + use<T, R, F>
    where
        R: Send + 'static,
        F: FnOnce(&mut T) -> R + Send + 'static,
    {
        let overrun = Overrun { desk: self.name };
        let (answer, answered) = oneshot::channel();
        let job: Job<T> = Box::new(move |owned| {
            // Whoever asked may be gone; the job is done all the same.
            let _gone = answer.send(job(owned));
        });
        let taken = self.handle.0.put(urgency, job);
        async move {
            if !taken {
                return Err(overrun);
            }
            answered.await.map_err(|_| overrun)
        }
    }
}

/// The thread, for whoever ends it.
pub(crate) struct DeskThread {
    /// It is never told anything: its end is the message. `None`: that has come.
    ended: Option<oneshot::Receiver<Infallible>>,
    thread: JoinHandle<()>,
    queue: Arc<dyn End>,
}

impl DeskThread {
    /// Takes no more jobs, and does of those it has taken only the urgent ones: the thread ends after them. Whoever waits for
    /// another is told.
    pub(crate) fn close(&self) {
        self.queue.end(false);
    }

    /// Ends after the job that is being done.
    pub(crate) fn abandon(&self) {
        self.queue.end(true);
    }

    /// Waits for the thread's end. `None`: it has not ended within that time. Else whether it ended in order.
    pub(crate) async fn ended(&mut self, within: Duration) -> Option<bool> {
        if let Some(ended) = &mut self.ended {
            let Ok(Err(_dropped)) = tokio::time::timeout(within, ended).await else { return None };
            self.ended = None;
        }
        Some(!self.queue.panicked())
    }

    /// Waits as long as it takes, and says whether the thread ended in order.
    pub(crate) async fn join(self) -> bool {
        if let Some(ended) = self.ended {
            let Err(_dropped) = ended.await;
        }
        self.thread.join().is_ok()
    }
}

/// What waits at a desk.
struct Queue<T> {
    jobs: Mutex<Jobs<T>>,
    changed: Condvar,
}

struct Jobs<T> {
    urgent: VecDeque<Job<T>>,
    can_wait: VecDeque<Job<T>>,
    in_a_row: u32,
    closed: bool,
    panicked: bool,
}

impl<T> Default for Jobs<T> {
    fn default() -> Self {
        Self { urgent: VecDeque::new(), can_wait: VecDeque::new(), in_a_row: 0, closed: false, panicked: false }
    }
}

impl<T> Queue<T> {
    /// No job is done while it is locked, so nothing is left half changed by a panic.
    fn jobs(&self) -> MutexGuard<'_, Jobs<T>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there was room.
    fn put(&self, urgency: Urgency, job: Job<T>) -> bool {
        let mut jobs = self.jobs();
        let closed = jobs.closed;
        let line = match urgency {
            Urgency::Urgent => &mut jobs.urgent,
            Urgency::CanWait => &mut jobs.can_wait,
        };
        if closed || line.len() >= WAITING_MAX {
            return false;
        }
        line.push_back(job);
        self.changed.notify_one();
        true
    }

    /// Waits for a job. `None`: there will be none.
    fn next(&self) -> Option<(Urgency, Job<T>)> {
        let mut jobs = self.jobs();
        loop {
            if let Some(next) = jobs.take() {
                return Some(next);
            }
            if jobs.closed {
                return None;
            }
            jobs = self.changed.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<T> Jobs<T> {
    fn take(&mut self) -> Option<(Urgency, Job<T>)> {
        let turn = self.urgent.is_empty() || self.in_a_row >= URGENT_IN_A_ROW;
        if let Some(job) = turn.then(|| self.can_wait.pop_front()).flatten() {
            self.in_a_row = 0;
            return Some((Urgency::CanWait, job));
        }
        let job = self.urgent.pop_front()?;
        self.in_a_row = self.in_a_row.saturating_add(1);
        Some((Urgency::Urgent, job))
    }
}

/// How a desk is ended from outside, whatever is on it.
trait End: Send + Sync {
    fn end(&self, at_once: bool);
    fn panicked(&self) -> bool;
}

impl<T> End for Queue<T> {
    fn end(&self, at_once: bool) {
        let dropped = {
            let mut jobs = self.jobs();
            jobs.closed = true;
            let urgent = if at_once { std::mem::take(&mut jobs.urgent) } else { VecDeque::new() };
            (urgent, std::mem::take(&mut jobs.can_wait))
        };
        // What a job holds may be a handle on this desk: not while it is locked.
        drop(dropped);
        self.changed.notify_all();
    }

    fn panicked(&self) -> bool {
        self.jobs().panicked
    }
}

/// The handles' end is the desk's: what was taken is done first.
struct Handle<T>(Arc<Queue<T>>);

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        self.0.jobs().closed = true;
        self.0.changed.notify_all();
    }
}

/// When the thread ends, nobody waits for what was not done.
struct Served<T>(Arc<Queue<T>>);

impl<T> Drop for Served<T> {
    fn drop(&mut self) {
        self.0.jobs().panicked = std::thread::panicking();
        self.0.end(true);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// A desk whose first job lasts until the sender is dropped.
    fn busy(list: Vec<u32>) -> (Desk<Vec<u32>>, DeskThread, mpsc::Sender<()>) {
        let (desk, thread) = Desk::start("test desk", list).expect("a thread");
        let (release, hold) = mpsc::channel::<()>();
        let (begun, begins) = mpsc::channel::<()>();
        drop(desk.ask(move |_| {
            drop(begun);
            let _released = hold.recv();
        }));
        let _begun = begins.recv();
        (desk, thread, release)
    }

    #[tokio::test]
    async fn jobs_are_done_in_the_order_they_were_handed_in() {
        let (desk, thread) = Desk::start("test desk", Vec::new()).expect("a thread");
        let answers: Vec<_> = (0..100)
            .map(|n| {
                desk.ask(move |list: &mut Vec<u32>| {
                    list.push(n);
                    list.clone()
                })
            })
            .collect();
        for (n, answer) in (0..).zip(answers) {
            assert_eq!(answer.await.expect("done"), (0..=n).collect::<Vec<u32>>());
        }
        drop(desk);
        assert!(thread.join().await, "the thread ends with its last handle");
    }

    #[tokio::test]
    async fn what_somebody_waits_for_goes_first_and_what_can_wait_is_done_in_the_end() {
        let (desk, thread, release) = busy(Vec::new());
        for n in 0..2 {
            drop(desk.ask_later(move |list| list.push(100 + n)));
        }
        for n in 1..=20 {
            drop(desk.ask(move |list| list.push(n)));
        }
        drop(release);
        let order = desk.ask_later(|list| list.clone()).await.expect("done");
        let urgent: Vec<u32> = order.iter().copied().filter(|n| *n < 100).collect();
        assert_eq!(urgent, (1..=20).collect::<Vec<u32>>());
        // The first job, which holds the desk, is one in a row.
        assert_eq!(order.iter().position(|n| *n == 100), Some(7));
        assert_eq!(order.iter().position(|n| *n == 101), Some(16));
        drop(desk);
        assert!(thread.join().await);
    }

    #[tokio::test]
    async fn a_desk_that_stands_still_refuses_instead_of_growing() {
        let (desk, _thread, release) = busy(Vec::new());
        let refused = (0..WAITING_MAX + 1).filter(|_| {
            let answer = desk.ask(|_| ());
            let mut answer = std::pin::pin!(answer);
            let waker = std::task::Waker::noop();
            matches!(answer.as_mut().poll(&mut std::task::Context::from_waker(waker)), std::task::Poll::Ready(Err(_)))
        });
        assert_eq!(refused.count(), 1);
        drop(release);
    }

    #[tokio::test]
    async fn a_desk_that_is_closed_does_what_is_urgent_and_drops_what_can_wait() {
        let (desk, mut thread, release) = busy(Vec::new());
        let urgent = desk.ask(|_| "done");
        let can_wait = desk.ask_later(|_| "not done");
        thread.close();
        assert!(can_wait.await.is_err());
        assert!(desk.ask(|_| ()).await.is_err(), "it takes no more");
        assert_eq!(thread.ended(Duration::from_millis(1)).await, None);
        drop(release);
        assert_eq!(urgent.await, Ok("done"));
        assert!(thread.join().await, "while there is a handle");
    }

    #[tokio::test]
    async fn a_desk_that_is_abandoned_does_nothing_more_than_what_it_does() {
        let (desk, mut thread, release) = busy(Vec::new());
        let urgent = desk.ask(|_| ());
        thread.abandon();
        assert!(urgent.await.is_err(), "whoever waits is told at once");
        assert_eq!(thread.ended(Duration::from_millis(1)).await, None, "the job in hand goes on");
        drop(release);
        assert!(thread.join().await);
    }

    #[tokio::test]
    async fn a_job_that_panics_ends_the_desk_and_nobody_waits_for_the_others() {
        let (desk, mut thread, release) = busy(Vec::new());
        let panics = desk.ask(|_| panic!("a job in a test"));
        let after = desk.ask(|_| ());
        drop(release);
        assert!(panics.await.is_err() && after.await.is_err());
        assert_eq!(thread.ended(Duration::from_secs(60)).await, Some(false));
        assert!(!thread.join().await);
    }
}
