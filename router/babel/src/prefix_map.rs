//! A map ordered by prefix.

use crate::prefix::{IpPrefix, Prefix, PrefixPair};
use std::collections::BTreeMap;
use std::ops::Bound;

/// A map whose keys take half the room where they are IPv6 prefixes and not source-specific, as nearly all are. Those
/// come first in its order, all others follow.
#[derive(Clone, Debug)]
pub(crate) struct PrefixMap<V> {
    plain: Pages<V>,
    others: BTreeMap<PrefixPair, V>,
}

impl<V> Default for PrefixMap<V> {
    fn default() -> Self {
        Self { plain: Pages::default(), others: BTreeMap::new() }
    }
}

/// The key among the plain ones, or `None`.
fn plain(pair: PrefixPair) -> Option<Prefix> {
    match pair {
        PrefixPair { to: IpPrefix::V6(prefix), from: None } => Some(prefix),
        PrefixPair { to: IpPrefix::V4(_), .. } | PrefixPair { from: Some(_), .. } => None,
    }
}

impl<V> PrefixMap<V> {
    pub(crate) fn len(&self) -> usize {
        self.plain.len() + self.others.len()
    }

    pub(crate) fn get(&self, pair: PrefixPair) -> Option<&V> {
        match plain(pair) {
            Some(prefix) => self.plain.get(prefix),
            None => self.others.get(&pair),
        }
    }

    pub(crate) fn get_mut(&mut self, pair: PrefixPair) -> Option<&mut V> {
        match plain(pair) {
            Some(prefix) => self.plain.get_mut(prefix),
            None => self.others.get_mut(&pair),
        }
    }

    /// The value, made if there is none.
    pub(crate) fn entry(&mut self, pair: PrefixPair) -> &mut V
    where
        V: Default,
    {
        match plain(pair) {
            Some(prefix) => self.plain.entry(prefix),
            None => self.others.entry(pair).or_default(),
        }
    }

    pub(crate) fn remove(&mut self, pair: PrefixPair) -> Option<V> {
        match plain(pair) {
            Some(prefix) => self.plain.remove(prefix),
            None => self.others.remove(&pair),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (PrefixPair, &V)> {
        self.from(Bound::Unbounded)
    }

    /// Those from a key on.
    pub(crate) fn from(&self, start: Bound<PrefixPair>) -> impl Iterator<Item = (PrefixPair, &V)> {
        let (first_plain, first_other) = match start {
            Bound::Unbounded => (Some(Bound::Unbounded), Bound::Unbounded),
            Bound::Included(pair) => {
                plain(pair).map_or((None, start), |key| (Some(Bound::Included(key)), Bound::Unbounded))
            }
            Bound::Excluded(pair) => {
                plain(pair).map_or((None, start), |key| (Some(Bound::Excluded(key)), Bound::Unbounded))
            }
        };
        let plain = first_plain.into_iter().flat_map(|first| self.plain.from(first));
        let others = self.others.range((first_other, Bound::Unbounded)).map(|(pair, value)| (*pair, value));
        plain.map(|(prefix, value)| (PrefixPair::from(prefix), value)).chain(others)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (PrefixPair, &mut V)> {
        let plain = self.plain.iter_mut().map(|(prefix, value)| (PrefixPair::from(prefix), value));
        plain.chain(self.others.iter_mut().map(|(pair, value)| (*pair, value)))
    }
}

/// A sorted list in pages, each as large as what it holds: the nodes of a B-tree, whose size is fixed, stay a third empty.
#[derive(Clone, Debug)]
struct Pages<V> {
    pages: Vec<Page<V>>,
    len: usize,
}

/// Never empty.
#[derive(Clone, Debug)]
struct Page<V> {
    keys: Vec<Prefix>,
    values: Vec<V>,
}

/// Where a prefix is: its page, and its place there. [`Err`]: where it would be.
type Place = Result<(usize, usize), (usize, usize)>;

impl<V> Default for Pages<V> {
    fn default() -> Self {
        Self { pages: Vec::new(), len: 0 }
    }
}

impl<V> Pages<V> {
    /// A page that grew to this is cut into two.
    const PAGE_MAX: usize = 128;

    fn len(&self) -> usize {
        self.len
    }

    fn find(&self, prefix: Prefix) -> Place {
        let after = self.pages.partition_point(|page| page.keys.first().is_some_and(|first| *first <= prefix));
        let number = after.saturating_sub(1);
        let place = self.pages.get(number).map_or(Err(0), |page| page.keys.binary_search(&prefix));
        place.map(|place| (number, place)).map_err(|place| (number, place))
    }

    fn get(&self, prefix: Prefix) -> Option<&V> {
        let (page, place) = self.find(prefix).ok()?;
        Some(&self.pages[page].values[place])
    }

    fn get_mut(&mut self, prefix: Prefix) -> Option<&mut V> {
        let (page, place) = self.find(prefix).ok()?;
        Some(&mut self.pages[page].values[place])
    }

    fn entry(&mut self, prefix: Prefix) -> &mut V
    where
        V: Default,
    {
        let (page, place) = match self.find(prefix) {
            Ok(place) => place,
            Err((page, place)) => self.insert(prefix, page, place),
        };
        &mut self.pages[page].values[place]
    }

    /// Returns where it is then.
    fn insert(&mut self, prefix: Prefix, number: usize, place: usize) -> (usize, usize)
    where
        V: Default,
    {
        if self.pages.is_empty() {
            self.pages.push(Page { keys: Vec::new(), values: Vec::new() });
        }
        let page = &mut self.pages[number];
        page.make_room();
        self.len += 1;
        page.keys.insert(place, prefix);
        page.values.insert(place, V::default());
        if page.keys.len() < Self::PAGE_MAX {
            return (number, place);
        }
        let half = Self::PAGE_MAX / 2;
        let upper = page.split_off(half);
        self.pages.insert(number + 1, upper);
        if place < half { (number, place) } else { (number + 1, place - half) }
    }

    fn remove(&mut self, prefix: Prefix) -> Option<V> {
        let (number, place) = self.find(prefix).ok()?;
        let page = &mut self.pages[number];
        self.len -= 1;
        page.keys.remove(place);
        let value = page.values.remove(place);
        if page.keys.is_empty() {
            self.pages.remove(number);
        } else {
            page.give_back_room();
        }
        Some(value)
    }

    fn from(&self, start: Bound<Prefix>) -> impl Iterator<Item = (Prefix, &V)> {
        let first = match start {
            Bound::Unbounded => (0, 0),
            Bound::Included(prefix) => self.find(prefix).unwrap_or_else(|place| place),
            Bound::Excluded(prefix) => self.find(prefix).map_or_else(|place| place, |(page, place)| (page, place + 1)),
        };
        let pages = self.pages.iter().enumerate().skip(first.0);
        pages.flat_map(move |(number, page)| {
            let skipped = if number == first.0 { first.1 } else { 0 };
            page.keys.iter().copied().zip(&page.values).skip(skipped)
        })
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = (Prefix, &mut V)> {
        self.pages.iter_mut().flat_map(|page| page.keys.iter().copied().zip(&mut page.values))
    }
}

impl<V> Page<V> {
    /// For one more, and an eighth, instead of as much again.
    fn make_room(&mut self) {
        if self.keys.len() == self.keys.capacity() {
            let more = 1 + self.keys.len() / 8;
            self.keys.reserve_exact(more);
            self.values.reserve_exact(more);
        }
    }

    /// Half of it may be empty, not more: whoever fills pages and leaves one key in each leaves no more than that behind.
    fn give_back_room(&mut self) {
        if self.keys.len() < self.keys.capacity() / 2 {
            self.keys.shrink_to_fit();
            self.values.shrink_to_fit();
        }
    }

    fn split_off(&mut self, at: usize) -> Self {
        let upper = Self { keys: self.keys.split_off(at), values: self.values.split_off(at) };
        self.keys.shrink_to_fit();
        self.values.shrink_to_fit();
        upper
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefix::Ipv4Prefix;
    use proptest::prelude::*;

    fn pairs() -> impl Strategy<Value = PrefixPair> {
        let address = |number: u8| std::net::Ipv6Addr::from([number; 16]);
        (0_u8..=255, 0_u8..5).prop_map(move |(number, kind)| {
            let home = Prefix::new(address(number), 48).unwrap();
            match kind {
                0..=2 => home.into(),
                3 => PrefixPair { from: Some(Prefix::DEFAULT.into()), ..home.into() },
                _ => Ipv4Prefix::new([number; 4].into(), 24).unwrap().into(),
            }
        })
    }

    #[test]
    fn a_page_of_which_one_key_is_left_keeps_no_room_for_more() {
        let mut pages = Pages::default();
        let prefix = |number: u16| Prefix::new(std::net::Ipv6Addr::new(0xfd00, number, 0, 0, 0, 0, 0, 0), 48).unwrap();
        for number in 0..10_000 {
            *pages.entry(prefix(number)) = number;
        }
        for number in (0..10_000).filter(|number| number % 40 != 0) {
            assert_eq!(pages.remove(prefix(number)), Some(number));
        }
        let room: usize = pages.pages.iter().map(|page| page.keys.capacity() + page.values.capacity()).sum();
        assert!(pages.len() == 250 && room <= 4 * pages.len() + 4 * pages.pages.len(), "room for {room}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_is_a_map_and_from_each_key_on_come_all_that_follow_it(
            steps in prop::collection::vec((pairs(), prop::option::weighted(0.7, any::<u8>())), 0..600),
        ) {
            let (mut map, mut model) = (PrefixMap::default(), std::collections::HashMap::new());
            for (pair, value) in steps {
                match value {
                    Some(value) => {
                        *map.entry(pair) = value;
                        model.insert(pair, value);
                    }
                    None => prop_assert_eq!(map.remove(pair), model.remove(&pair)),
                }
                prop_assert_eq!((map.get(pair), map.len()), (model.get(&pair), model.len()));
            }
            let all: Vec<_> = map.iter().map(|(pair, value)| (pair, *value)).collect();
            prop_assert_eq!(all.iter().copied().collect::<std::collections::HashMap<_, _>>(), model);
            prop_assert!(all.iter().map(|(pair, _)| (plain(*pair).is_none(), *pair)).is_sorted());
            for (at, (pair, _)) in all.iter().enumerate().step_by(7) {
                let from = |start| map.from(start).map(|(pair, value)| (pair, *value)).collect::<Vec<_>>();
                prop_assert_eq!(&from(Bound::Included(*pair)), &all[at..]);
                prop_assert_eq!(&from(Bound::Excluded(*pair)), &all[at + 1..]);
            }
            prop_assert_eq!(map.iter_mut().map(|(pair, value)| (pair, *value)).collect::<Vec<_>>(), all);
        }
    }
}
