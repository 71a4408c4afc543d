//! A desk: a thread that owns something that blocks (the journal, the ledger) and does what is asked of it, in order.

use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

/// Jobs waiting at a desk. The control task asks for a handful per neighbour and waits for the answers, so a full desk
/// means a disk that has stopped; whoever asks is then told at once instead of waiting behind it.
const WAITING_MAX: usize = 1024;

type Job<T> = Box<dyn FnOnce(&mut T) + Send>;

/// The desk has too much waiting, or its thread has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{desk} is not keeping up")]
pub(crate) struct Overrun {
    desk: &'static str,
}

/// A handle on the thread. The thread ends, after the jobs it has taken, when the last handle is dropped.
pub(crate) struct Desk<T> {
    name: &'static str,
    jobs: SyncSender<Job<T>>,
}

impl<T> Clone for Desk<T> {
    fn clone(&self) -> Self {
        Self { name: self.name, jobs: self.jobs.clone() }
    }
}

impl<T: Send + 'static> Desk<T> {
    /// Starts the thread. Joining it waits for the jobs it has taken.
    pub(crate) fn start(name: &'static str, mut owned: T) -> io::Result<(Self, JoinHandle<()>)> {
        let (jobs, waiting) = sync_channel::<Job<T>>(WAITING_MAX);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            while let Ok(job) = waiting.recv() {
                job(&mut owned);
            }
        })?;
        Ok((Self { name, jobs }, thread))
    }

    /// Hands a job in, now, so that jobs are done in the order of the calls; the future is its answer.
    pub(crate) fn ask<R, F>(&self, job: F) -> impl Future<Output = Result<R, Overrun>> + Send + use<T, R, F>
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
        let taken = self.jobs.try_send(job);
        async move {
            taken.map_err(|_| overrun)?;
            answered.await.map_err(|_| overrun)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        thread.join().expect("the thread ends with its last handle");
    }

    #[tokio::test]
    async fn a_desk_that_stands_still_refuses_instead_of_growing() {
        let (release, hold) = std::sync::mpsc::channel::<()>();
        let (desk, _thread) = Desk::start("test desk", hold).expect("a thread");
        let _first = desk.ask(|hold| hold.recv());
        let refused = (0..WAITING_MAX + 2).filter(|_| {
            let answer = desk.ask(|_| ());
            let mut answer = std::pin::pin!(answer);
            let waker = std::task::Waker::noop();
            matches!(answer.as_mut().poll(&mut std::task::Context::from_waker(waker)), std::task::Poll::Ready(Err(_)))
        });
        assert!(refused.count() >= 1);
        drop(release);
    }
}
