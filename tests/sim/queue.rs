//! What is going to happen, in order of time.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use crate::Time;

/// Things that will happen. Two at the same time happen in the order in which they were planned.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    heap: BinaryHeap<Reverse<Entry<T>>>,
    planned: u64,
}

#[derive(Debug)]
struct Entry<T> {
    at: Time,
    number: u64,
    what: T,
}

impl<T> Queue<T> {
    pub(crate) fn new() -> Self {
        Self { heap: BinaryHeap::new(), planned: 0 }
    }

    pub(crate) fn plan(&mut self, at: Time, what: T) {
        self.heap.push(Reverse(Entry { at, number: self.planned, what }));
        self.planned += 1;
    }

    /// The next thing, if it happens at `until` or before.
    pub(crate) fn next_until(&mut self, until: Time) -> Option<(Time, T)> {
        if self.heap.peek()?.0.at > until {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| (entry.at, entry.what))
    }

    /// Everything planned, in no order.
    pub(crate) fn planned(&self) -> impl Iterator<Item = &T> {
        self.heap.iter().map(|Reverse(entry)| &entry.what)
    }
}

impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Entry<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn things_happen_by_time_and_then_as_planned() {
        let mut queue = Queue::new();
        for (at, what) in [(3, 'd'), (1, 'a'), (2, 'b'), (2, 'c'), (9, 'z')] {
            queue.plan(Time::from_secs(at), what);
        }
        let happened: String =
            std::iter::from_fn(|| queue.next_until(Time::from_secs(3))).map(|(_, what)| what).collect();
        assert_eq!(happened, "abcd");
        assert_eq!(queue.planned().collect::<Vec<_>>(), [&'z']);
    }
}
