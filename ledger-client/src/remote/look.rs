//! Signatures of a page of the log, looked at on all cores while the next page is on its way.

use std::num::NonZero;
use std::thread;

use ledger_core::{Logged, ReplayError};
use metering::LedgerDomain;

type Looked = Result<Logged, ReplayError>;

/// Looks at these entries, and does something else meanwhile that waits more than it works.
pub(super) fn meanwhile<T>(domain: &LedgerDomain, entries: &[Vec<u8>], other: impl FnOnce() -> T) -> (Vec<Looked>, T) {
    let look = |share: &[Vec<u8>]| share.iter().map(|entry| Logged::read(domain, entry)).collect::<Vec<_>>();
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    thread::scope(|scope| {
        let begin = |share| (share, thread::Builder::new().spawn_scoped(scope, move || look(share)));
        let begun: Vec<_> = entries.chunks(entries.len().div_ceil(cores).max(1)).map(begin).collect();
        let other = other();
        // Where there was no thread to be had, this one does it.
        let end = |(share, thread): (_, Result<thread::ScopedJoinHandle<'_, _>, _>)| match thread {
            Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(_) => look(share),
        };
        (begun.into_iter().flat_map(end).collect(), other)
    })
}
