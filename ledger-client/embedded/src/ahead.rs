//! A log's entries, whose signatures are looked at on all cores, a page ahead of whoever replays them.

use std::num::NonZero;
use std::thread::{self, JoinHandle};
use std::{mem, vec};

use ledger_core::{Logged, ReplayError};
use metering::LedgerDomain;

/// How many entries are looked at while those before them are replayed: some tens of milliseconds of work, and below a
/// megabyte.
const PAGE: usize = 512;

/// The fewest entries that are worth a thread.
const WORTH_A_THREAD: usize = 32;

/// An entry's encoding, and what it is if it reads.
type Looked = (Vec<u8>, Result<Logged, ReplayError>);

/// Goes over the entries of a log behind its founding, as `entries` encodes them. Where that ends with an error, so does
/// this, after all entries before it.
pub(crate) struct Ahead<I, E> {
    domain: LedgerDomain,
    /// None when it has ended.
    entries: Option<I>,
    error: Option<E>,
    /// The page that is being looked at, in order.
    next: Vec<Share>,
    ready: vec::IntoIter<Looked>,
}

/// What one core does of a page.
enum Share {
    Done(Vec<Looked>),
    Begun(JoinHandle<Vec<Looked>>),
}

impl<E, I: Iterator<Item = Result<Vec<u8>, E>>> Ahead<I, E> {
    pub(crate) fn new(domain: LedgerDomain, entries: I) -> Self {
        Self { domain, entries: Some(entries), error: None, next: Vec::new(), ready: Vec::new().into_iter() }
    }

    /// Reads a page; an empty one is the end.
    fn page(&mut self) -> Vec<Vec<u8>> {
        let mut page = Vec::new();
        while page.len() < PAGE
            && let Some(entries) = &mut self.entries
        {
            match entries.next() {
                Some(Ok(entry)) => page.push(entry),
                Some(Err(error)) => (self.entries, self.error) = (None, Some(error)),
                None => self.entries = None,
            }
        }
        page
    }

    /// Has a page looked at, each core its share.
    fn begin(&self, mut page: Vec<Vec<u8>>) -> Vec<Share> {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let size = page.len().div_ceil(cores).max(WORTH_A_THREAD);
        let mut shares = Vec::new();
        while !page.is_empty() {
            let rest = page.split_off(size.min(page.len()));
            shares.push(Share::begin(self.domain, mem::replace(&mut page, rest)));
        }
        shares
    }
}

impl<E, I: Iterator<Item = Result<Vec<u8>, E>>> Iterator for Ahead<I, E> {
    type Item = Result<Looked, E>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(looked) = self.ready.next() {
                return Some(Ok(looked));
            }
            let (before, page) = (mem::take(&mut self.next), self.page());
            self.next = self.begin(page);
            if before.is_empty() && self.next.is_empty() {
                return self.error.take().map(Err);
            }
            self.ready = before.into_iter().flat_map(Share::end).collect::<Vec<_>>().into_iter();
        }
    }
}

impl Share {
    fn begin(domain: LedgerDomain, entries: Vec<Vec<u8>>) -> Self {
        if entries.len() < WORTH_A_THREAD {
            return Self::Done(look(&domain, entries));
        }
        // Where there is no thread to be had, the one that asks has to do.
        let copy = entries.clone();
        let begun = thread::Builder::new().name("ledger-audit".into()).spawn(move || look(&domain, copy));
        begun.map_or_else(|_| Self::Done(look(&domain, entries)), Self::Begun)
    }

    fn end(self) -> Vec<Looked> {
        match self {
            Self::Done(looked) => looked,
            Self::Begun(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        }
    }
}

fn look(domain: &LedgerDomain, entries: Vec<Vec<u8>>) -> Vec<Looked> {
    entries
        .into_iter()
        .map(|entry| (Logged::read(domain, &entry), entry))
        .map(|(logged, entry)| (entry, logged))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::iter;

    use ledger_core::{Entry, EntryError, Event, UnixTime};
    use metering::{AccountKey, ChannelId, NodeId, Receipt, Tokens};

    use super::*;

    const DOMAIN: LedgerDomain = LedgerDomain { chain_id: 0, contract: NodeId([7; 20]) };

    fn looked(entries: Vec<Result<Vec<u8>, &'static str>>) -> Vec<Result<Looked, &'static str>> {
        Ahead::new(DOMAIN, entries.into_iter()).collect()
    }

    #[test]
    fn all_entries_come_once_and_in_order_however_many_there_are() {
        let number = |n: usize| n.to_be_bytes().to_vec();
        for count in [0, 1, WORTH_A_THREAD, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE + WORTH_A_THREAD + 1] {
            let expected: Vec<_> = (0..count).map(|n| Ok((number(n), Err(EntryError::Malformed.into())))).collect();
            assert!(looked((0..count).map(|n| Ok(number(n))).collect()) == expected, "{count} entries");
        }
    }

    #[test]
    fn who_signed_is_found_for_each_entry_of_a_page() {
        let entry = |total: u64| {
            let key = AccountKey::from_bytes(&[(total % 3 + 1) as u8; 32]).unwrap();
            let channel = ChannelId { payer: key.node_id(), payee: NodeId([9; 20]), nonce: 1 };
            let total = Tokens::new(total.into()).unwrap();
            let receipt = Receipt::sign(&key, &DOMAIN, channel, total, [0; 32]).into_unverified();
            Entry { at: UnixTime::default(), event: Event::Redeemed { receipt, paid: total }, seal: None }.encode()
        };
        let entries: Vec<_> = (1..=3 * WORTH_A_THREAD as u64).map(entry).collect();
        for (entry, found) in entries.iter().zip(looked(entries.iter().cloned().map(Ok).collect())) {
            assert_eq!(found, Ok((entry.clone(), Logged::read(&DOMAIN, entry))));
        }
    }

    #[test]
    fn error_comes_behind_what_was_before_it_and_ends_it_all() {
        for before in [0, 1, PAGE - 1, PAGE, 2 * PAGE + 7] {
            let mut rest = iter::repeat_n(Ok(vec![1]), before).chain([Err("gone"), Ok(vec![2])]);
            let found = looked(rest.by_ref().collect());
            assert_eq!(found.len(), before + 1);
            assert_eq!(found.last(), Some(&Err("gone")));
            assert!(found[..before].iter().all(Result::is_ok));
        }
    }
}
