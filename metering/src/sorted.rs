//! Maps and sets for what a router keeps a few hundred of: one piece of memory, sorted by key.
//!
//! They are asked and iterated as the standard library's `BTreeMap` and `BTreeSet` are, in the order of the keys. A look-up halves
//! the piece, putting something in or taking it out moves what comes after: a few microseconds among thousands. What may have
//! tens of thousands of rows, or is filled by strangers in an order of their choosing without a bound, belongs into a `BTreeMap`.
//! They are here for the flash of routers: each kind of `BTreeMap` costs 5 kB of a program, and Waybill would have some seventy.

use std::borrow::Borrow;
use std::fmt;
use std::iter::FusedIterator;
use std::ops::{Bound, Index, RangeBounds};

/// A map sorted by key.
#[derive(Clone, PartialEq, Eq)]
pub struct SortedMap<K, V> {
    rows: Vec<(K, V)>,
}

impl<K, V> SortedMap<K, V> {
    /// A map with nothing in it, which takes no memory yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { rows: Vec::new() }
    }

    /// How many keys it has.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// All of it, by key.
    #[must_use]
    pub fn iter(&self) -> Iter<'_, K, V> {
        Iter(self.rows.iter())
    }

    /// All of it, by key; the values can be changed.
    pub fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = (&K, &mut V)> + ExactSizeIterator {
        self.rows.iter_mut().map(|(key, value)| (&*key, value))
    }

    /// The keys in their order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &K> + ExactSizeIterator + Clone {
        self.rows.iter().map(|(key, _)| key)
    }

    /// The values in the order of their keys.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &V> + ExactSizeIterator + Clone {
        self.rows.iter().map(|(_, value)| value)
    }

    /// The same, to change them.
    pub fn values_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut V> + ExactSizeIterator {
        self.rows.iter_mut().map(|(_, value)| value)
    }

    /// The keys, and nothing of the values.
    pub fn into_keys(self) -> impl DoubleEndedIterator<Item = K> + ExactSizeIterator {
        self.rows.into_iter().map(|(key, _)| key)
    }

    /// The values in the order of their keys, and nothing of these.
    pub fn into_values(self) -> impl DoubleEndedIterator<Item = V> + ExactSizeIterator {
        self.rows.into_iter().map(|(_, value)| value)
    }

    /// The smallest key and its value.
    #[must_use]
    pub fn first_key_value(&self) -> Option<(&K, &V)> {
        self.rows.first().map(|(key, value)| (key, value))
    }

    /// The largest key and its value.
    #[must_use]
    pub fn last_key_value(&self) -> Option<(&K, &V)> {
        self.rows.last().map(|(key, value)| (key, value))
    }

    /// Takes the smallest key out.
    pub fn pop_first(&mut self) -> Option<(K, V)> {
        if self.rows.is_empty() { None } else { Some(self.rows.remove(0)) }
    }

    /// Takes the largest key out.
    pub fn pop_last(&mut self) -> Option<(K, V)> {
        self.rows.pop()
    }

    /// Takes everything out.
    pub fn clear(&mut self) {
        self.rows.clear();
    }

    /// Keeps what `keep` says true to.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &mut V) -> bool) {
        self.rows.retain_mut(|(key, value)| keep(key, value));
    }
}

impl<K: Ord, V> SortedMap<K, V> {
    /// The row of this key, or where it would be.
    fn find<Q: Ord + ?Sized>(&self, key: &Q) -> Result<usize, usize>
    where
        K: Borrow<Q>,
    {
        self.rows.binary_search_by(|(each, _)| each.borrow().cmp(key))
    }

    /// The value of a key.
    #[must_use]
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.find(key).ok().map(|at| &self.rows[at].1)
    }

    /// The same, to change it.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.find(key).ok().map(|at| &mut self.rows[at].1)
    }

    /// Whether it has this key.
    #[must_use]
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.find(key).is_ok()
    }

    /// Gives a key a value, and back the one it had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        match self.find(&key) {
            Ok(at) => Some(std::mem::replace(&mut self.rows[at].1, value)),
            Err(at) => {
                self.rows.insert(at, (key, value));
                None
            }
        }
    }

    /// Takes a key out, and gives its value.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.remove_entry(key).map(|(_, value)| value)
    }

    /// Takes a key out, and gives both.
    pub fn remove_entry<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<(K, V)>
    where
        K: Borrow<Q>,
    {
        self.find(key).ok().map(|at| self.rows.remove(at))
    }

    /// The place of a key, to put something there if nothing is.
    pub fn entry(&mut self, key: K) -> Entry<'_, K, V> {
        Entry { at: self.find(&key), key, map: self }
    }

    /// What lies between two keys, by key.
    pub fn range<Q: Ord + ?Sized>(&self, range: impl RangeBounds<Q>) -> Iter<'_, K, V>
    where
        K: Borrow<Q>,
    {
        let place = |bound: Bound<&Q>, after: bool| match bound {
            Bound::Unbounded => None,
            Bound::Included(key) => Some(self.find(key).map_or_else(|at| at, |at| at + usize::from(after))),
            Bound::Excluded(key) => Some(self.find(key).map_or_else(|at| at, |at| at + usize::from(!after))),
        };
        let from = place(range.start_bound(), false).unwrap_or(0);
        let to = place(range.end_bound(), true).unwrap_or(self.rows.len());
        // Who asks for what lies between a key and a smaller one gets nothing.
        Iter(self.rows.get(from..to).unwrap_or_default().iter())
    }
}

impl<K, V> Default for SortedMap<K, V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SortedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

impl<K: Ord + Borrow<Q>, Q: Ord + ?Sized, V> Index<&Q> for SortedMap<K, V> {
    type Output = V;

    /// # Panics
    ///
    /// Where the map does not have the key.
    fn index(&self, key: &Q) -> &V {
        match self.get(key) {
            Some(value) => value,
            None => panic!("no such key"),
        }
    }
}

impl<K: Ord, V> Extend<(K, V)> for SortedMap<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, rows: I) {
        for (key, value) in rows {
            // What comes in order, as most does, moves nothing.
            self.insert(key, value);
        }
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for SortedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(rows: I) -> Self {
        let mut map = Self::new();
        map.extend(rows);
        map
    }
}

impl<K: Ord, V, const N: usize> From<[(K, V); N]> for SortedMap<K, V> {
    fn from(rows: [(K, V); N]) -> Self {
        Self::from_iter(rows)
    }
}

impl<K, V> IntoIterator for SortedMap<K, V> {
    type Item = (K, V);
    type IntoIter = std::vec::IntoIter<(K, V)>;

    fn into_iter(self) -> Self::IntoIter {
        self.rows.into_iter()
    }
}

impl<'a, K, V> IntoIterator for &'a SortedMap<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Iter<'a, K, V> {
        self.iter()
    }
}

impl<'a, K, V> IntoIterator for &'a mut SortedMap<K, V> {
    type Item = (&'a K, &'a mut V);
    type IntoIter = IterMut<'a, K, V>;

    fn into_iter(self) -> IterMut<'a, K, V> {
        IterMut(self.rows.iter_mut())
    }
}

/// Rows of a [`SortedMap`], by key.
pub struct Iter<'a, K, V>(std::slice::Iter<'a, (K, V)>);

impl<K, V> Clone for Iter<'_, K, V> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|(key, value)| (key, value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl<K, V> DoubleEndedIterator for Iter<'_, K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.0.next_back().map(|(key, value)| (key, value))
    }
}

impl<K, V> ExactSizeIterator for Iter<'_, K, V> {}
impl<K, V> FusedIterator for Iter<'_, K, V> {}

/// Rows of a [`SortedMap`], by key, with values that can be changed.
pub struct IterMut<'a, K, V>(std::slice::IterMut<'a, (K, V)>);

impl<'a, K, V> Iterator for IterMut<'a, K, V> {
    type Item = (&'a K, &'a mut V);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|(key, value)| (&*key, value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

/// The place of a key in a [`SortedMap`], with something there or not.
pub struct Entry<'a, K, V> {
    at: Result<usize, usize>,
    key: K,
    map: &'a mut SortedMap<K, V>,
}

impl<'a, K, V> Entry<'a, K, V> {
    /// What is there; where nothing is, what `value` makes is put there first.
    pub fn or_insert_with(self, value: impl FnOnce() -> V) -> &'a mut V {
        let at = match self.at {
            Ok(at) => at,
            Err(at) => {
                self.map.rows.insert(at, (self.key, value()));
                at
            }
        };
        &mut self.map.rows[at].1
    }

    /// The same with a value that is there already.
    pub fn or_insert(self, value: V) -> &'a mut V {
        self.or_insert_with(|| value)
    }

    /// The same with the value that its kind has by default.
    pub fn or_default(self) -> &'a mut V
    where
        V: Default,
    {
        self.or_insert_with(V::default)
    }

    /// Changes what is there, if something is.
    #[must_use]
    pub fn and_modify(self, change: impl FnOnce(&mut V)) -> Self {
        if let Ok(at) = self.at {
            change(&mut self.map.rows[at].1);
        }
        self
    }
}

/// A sorted set.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SortedSet<T> {
    members: Vec<T>,
}

impl<T> SortedSet<T> {
    /// A set with nothing in it, which takes no memory yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { members: Vec::new() }
    }

    /// How many are in it.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// All of it, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, T> {
        self.members.iter()
    }

    /// The smallest.
    #[must_use]
    pub fn first(&self) -> Option<&T> {
        self.members.first()
    }

    /// The largest.
    #[must_use]
    pub fn last(&self) -> Option<&T> {
        self.members.last()
    }

    /// Takes everything out.
    pub fn clear(&mut self) {
        self.members.clear();
    }

    /// Keeps what `keep` says true to.
    pub fn retain(&mut self, keep: impl FnMut(&T) -> bool) {
        self.members.retain(keep);
    }
}

impl<T: Ord> SortedSet<T> {
    /// Whether it is in it.
    #[must_use]
    pub fn contains<Q: Ord + ?Sized>(&self, member: &Q) -> bool
    where
        T: Borrow<Q>,
    {
        self.members.binary_search_by(|each| each.borrow().cmp(member)).is_ok()
    }

    /// Puts it in: true if it was not in it.
    pub fn insert(&mut self, member: T) -> bool {
        match self.members.binary_search(&member) {
            Ok(_) => false,
            Err(at) => {
                self.members.insert(at, member);
                true
            }
        }
    }

    /// Takes it out: true if it was in it.
    pub fn remove<Q: Ord + ?Sized>(&mut self, member: &Q) -> bool
    where
        T: Borrow<Q>,
    {
        let found = self.members.binary_search_by(|each| each.borrow().cmp(member));
        if let Ok(at) = found {
            self.members.remove(at);
        }
        found.is_ok()
    }

    /// What is in it and not in `other`, in order.
    pub fn difference<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a T> {
        self.members.iter().filter(|member| !other.contains(*member))
    }
}

impl<T> Default for SortedSet<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: fmt::Debug> fmt::Debug for SortedSet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self).finish()
    }
}

impl<T: Ord> Extend<T> for SortedSet<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, members: I) {
        for member in members {
            self.insert(member);
        }
    }
}

impl<T: Ord> FromIterator<T> for SortedSet<T> {
    fn from_iter<I: IntoIterator<Item = T>>(members: I) -> Self {
        let mut set = Self::new();
        set.extend(members);
        set
    }
}

impl<T: Ord, const N: usize> From<[T; N]> for SortedSet<T> {
    fn from(members: [T; N]) -> Self {
        Self::from_iter(members)
    }
}

impl<T> IntoIterator for SortedSet<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.members.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a SortedSet<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.members.iter()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::{SortedMap, SortedSet};

    /// One thing done to a map or set.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Insert(u8, u16),
        Remove(u8),
        Default(u8),
        Modify(u8),
        PopFirst,
        PopLast,
        Keep(u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (any::<u8>(), any::<u16>()).prop_map(|(key, value)| Step::Insert(key % 32, value)),
            any::<u8>().prop_map(|key| Step::Remove(key % 32)),
            any::<u8>().prop_map(|key| Step::Default(key % 32)),
            any::<u8>().prop_map(|key| Step::Modify(key % 32)),
            Just(Step::PopFirst),
            Just(Step::PopLast),
            (1_u16..5).prop_map(Step::Keep),
        ]
    }

    proptest! {
        #[test]
        fn a_map_does_what_the_standard_library_does(steps in prop::collection::vec(step(), 0..80), from in 0_u8..33, len in 0_u8..33) {
            let (mut ours, mut theirs) = (SortedMap::new(), BTreeMap::new());
            for step in steps {
                match step {
                    Step::Insert(key, value) => prop_assert_eq!(ours.insert(key, value), theirs.insert(key, value)),
                    Step::Remove(key) => prop_assert_eq!(ours.remove(&key), theirs.remove(&key)),
                    Step::Default(key) => prop_assert_eq!(*ours.entry(key).or_default(), *theirs.entry(key).or_default()),
                    Step::Modify(key) => {
                        let ours = *ours.entry(key).and_modify(|value| *value ^= 1).or_insert(7);
                        prop_assert_eq!(ours, *theirs.entry(key).and_modify(|value| *value ^= 1).or_insert(7));
                    }
                    Step::PopFirst => prop_assert_eq!(ours.pop_first(), theirs.pop_first()),
                    Step::PopLast => prop_assert_eq!(ours.pop_last(), theirs.pop_last()),
                    Step::Keep(nth) => {
                        ours.retain(|_, value| !value.is_multiple_of(nth));
                        theirs.retain(|_, value| !value.is_multiple_of(nth));
                    }
                }
                prop_assert!(ours.iter().eq(theirs.iter()) && ours.iter().rev().eq(theirs.iter().rev()));
                prop_assert_eq!((ours.len(), ours.first_key_value(), ours.last_key_value()),
                    (theirs.len(), theirs.first_key_value(), theirs.last_key_value()));
                for key in 0..33 {
                    prop_assert_eq!((ours.get(&key), ours.contains_key(&key)), (theirs.get(&key), theirs.contains_key(&key)));
                }
                let to = from.saturating_add(len);
                prop_assert!(ours.range(from..to).eq(theirs.range(from..to)));
                prop_assert!(ours.range(from..=to).eq(theirs.range(from..=to)));
                prop_assert!(ours.range(from..).eq(theirs.range(from..)) && ours.range(..to).eq(theirs.range(..to)));
            }
            prop_assert!(ours.keys().eq(theirs.keys()) && ours.values().eq(theirs.values()));
            prop_assert!(theirs.clone().into_iter().rev().collect::<SortedMap<_, _>>() == ours);
            prop_assert!(ours.into_iter().eq(theirs));
        }

        #[test]
        fn a_set_does_what_the_standard_library_does(steps in prop::collection::vec((any::<bool>(), 0_u8..32), 0..80), other: BTreeSet<u8>) {
            let (mut ours, mut theirs) = (SortedSet::new(), BTreeSet::new());
            for (puts, member) in steps {
                if puts {
                    prop_assert_eq!(ours.insert(member), theirs.insert(member));
                } else {
                    prop_assert_eq!(ours.remove(&member), theirs.remove(&member));
                }
                prop_assert_eq!(ours.contains(&member), theirs.contains(&member));
                prop_assert!(ours.iter().eq(&theirs));
                prop_assert_eq!((ours.first(), ours.last(), ours.len()), (theirs.first(), theirs.last(), theirs.len()));
            }
            let another: SortedSet<u8> = other.iter().rev().copied().collect();
            prop_assert!(ours.difference(&another).eq(theirs.difference(&other)));
        }
    }

    #[test]
    #[expect(clippy::reversed_empty_ranges, reason = "that is what is asked")]
    fn between_a_key_and_a_smaller_one_is_nothing() {
        let map = SortedMap::from([(1, 'a'), (3, 'b')]);
        assert_eq!((map.range(3..1).count(), map.range(9..).count()), (0, 0));
    }
}
