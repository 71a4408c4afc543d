//! The source table and the feasibility condition (RFC 8966, sections 3.2.5, 3.5.1 and 3.7.3).
//!
//! A source's feasibility distance is the best (seqno, metric) this speaker ever told anyone. Whoever
//! routes through us was told that or something worse; so a neighbour who tells something strictly
//! better cannot be routing through us, and no loop can form. Prices play no part.

use crate::metric::Metric;
use crate::router_id::RouterId;
use crate::seqno::Seqno;
use crate::time::Tenths;
use std::num::NonZeroU8;
use std::time::Duration;

/// What routes to one source are compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Distance {
    pub(crate) seqno: Seqno,
    pub(crate) metric: Metric,
}

impl Distance {
    /// A newer seqno wins; with the same seqno, a smaller metric.
    pub(crate) fn is_better_than(self, other: Self) -> bool {
        self.seqno.is_newer_than(other.seqno) || (self.seqno == other.seqno && self.metric < other.metric)
    }
}

/// "The source garbage-collection timer has a value on the order of minutes" (RFC 8966, section 3.2.5). Longer where
/// what was told is believed for longer: who still routes through us must not be taken for a way.
pub(crate) const GC_TIME: Duration = Duration::from_secs(180);

/// Who originates one prefix, as far as we were told: nearly always one. Those that we told others of are the source
/// table's rows for the prefix.
#[derive(Clone, Debug)]
pub(crate) struct Originators {
    /// Kept here and not on the heap, as there is one for each prefix.
    first: Originator,
    /// Boxed, since there are none.
    #[expect(clippy::box_collection, reason = "a third of a vector's size")]
    others: Option<Box<Vec<Originator>>>,
}

/// An originator's place among those of its prefix: what routes name it by, at an eighth of a router-id's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(NonZeroU8);

#[derive(Clone, Copy, Debug)]
struct Originator {
    router_id: RouterId,
    /// The best distance we told about it.
    feasibility: Distance,
    /// `None`: we told nothing, or everybody has forgotten it.
    expires: Option<Tenths>,
}

impl Originator {
    fn new(router_id: RouterId) -> Self {
        Self { router_id, feasibility: Distance { seqno: Seqno(0), metric: Metric::INFINITY }, expires: None }
    }
}

impl Default for Originators {
    fn default() -> Self {
        Self { first: Originator::new(RouterId::NOBODY), others: None }
    }
}

impl Slot {
    const FIRST: Self = Self(NonZeroU8::MIN);

    fn new(position: usize) -> Option<Self> {
        Some(Self(Self::FIRST.0.checked_add(u8::try_from(position).ok()?)?))
    }

    fn position(self) -> usize {
        usize::from(self.0.get() - 1)
    }
}

/// Some of the slots.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Slots([u64; 4]);

impl Slots {
    fn contains(&self, slot: Slot) -> bool {
        self.0[slot.position() / 64] >> (slot.position() % 64) & 1 == 1
    }
}

impl FromIterator<Slot> for Slots {
    fn from_iter<I: IntoIterator<Item = Slot>>(slots: I) -> Self {
        let mut set = Self::default();
        for slot in slots {
            set.0[slot.position() / 64] |= 1 << (slot.position() % 64);
        }
        set
    }
}

/// Names.
impl Originators {
    const SLOTS: usize = 255;

    pub(crate) fn router_id(&self, slot: Slot) -> RouterId {
        self.get(slot).map_or(RouterId::NOBODY, |originator| originator.router_id)
    }

    /// The originator's slot, made if it has none: `None` when as many as there can be are `in_use`.
    pub(crate) fn slot(&mut self, id: RouterId, in_use: impl FnOnce() -> Slots) -> Option<Slot> {
        self.slot_below(Self::SLOTS - 1, id, in_use)
    }

    /// The same for this speaker itself, for which the last one is kept.
    pub(crate) fn own_slot(&mut self, id: RouterId, in_use: impl FnOnce() -> Slots) -> Option<Slot> {
        self.slot_below(Self::SLOTS, id, in_use)
    }

    fn slot_below(&mut self, end: usize, id: RouterId, in_use: impl FnOnce() -> Slots) -> Option<Slot> {
        let places = || self.iter().zip((0..end).map_while(Slot::new));
        if let Some((_, slot)) = places().find(|(originator, _)| originator.router_id == id) {
            return Some(slot);
        }
        let in_use = in_use();
        let free = places().find(|(originator, slot)| originator.expires.is_none() && !in_use.contains(*slot));
        if let Some((_, slot)) = free {
            *self.get_mut(slot)? = Originator::new(id);
            return Some(slot);
        }
        let position = Some(self.iter().count()).filter(|position| *position < end)?;
        self.others.get_or_insert_default().push(Originator::new(id));
        Slot::new(position)
    }

    /// Gives back the room of the last slots, as far as none of them is `in_use` or a source.
    pub(crate) fn trim(&mut self, in_use: impl FnOnce() -> Slots) {
        let Some(others) = &mut self.others else { return };
        let in_use = in_use();
        let is_free = |(place, originator): (usize, &Originator)| {
            originator.expires.is_none() && Slot::new(place + 1).is_none_or(|slot| !in_use.contains(slot))
        };
        let free = others.iter().enumerate().rev().take_while(|last| is_free(*last)).count();
        others.truncate(others.len() - free);
        if others.is_empty() {
            self.others = None;
        } else if others.len() < others.capacity() / 2 {
            others.shrink_to_fit();
        }
    }

    fn get(&self, slot: Slot) -> Option<&Originator> {
        match slot.position().checked_sub(1) {
            None => Some(&self.first),
            Some(place) => self.others.as_ref()?.get(place),
        }
    }

    fn get_mut(&mut self, slot: Slot) -> Option<&mut Originator> {
        match slot.position().checked_sub(1) {
            None => Some(&mut self.first),
            Some(place) => self.others.as_mut()?.get_mut(place),
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Originator> {
        std::iter::once(&self.first).chain(self.others.iter().flat_map(|others| others.iter()))
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Originator> {
        std::iter::once(&mut self.first).chain(self.others.iter_mut().flat_map(|others| others.iter_mut()))
    }
}

/// Sources.
impl Originators {
    /// Sources remembered per prefix, so that one that changes its router-id without end fills no more than its own
    /// prefix.
    const SOURCES_MAX: usize = 16;

    pub(crate) fn feasibility(&self, id: RouterId) -> Option<Distance> {
        self.sources().find(|(source, _)| *source == id).map(|(_, feasibility)| feasibility)
    }

    /// "An update is feasible if it is a retraction, or no entry exists for its source, or it is strictly
    /// better than the entry's feasibility distance."
    pub(crate) fn is_feasible(&self, id: RouterId, distance: Distance) -> bool {
        !distance.metric.is_finite()
            || self.feasibility(id).is_none_or(|feasibility| distance.is_better_than(feasibility))
    }

    /// The same for what was told about the originator in a slot, without a search.
    pub(crate) fn is_feasible_in(&self, slot: Slot, distance: Distance) -> bool {
        let source = self.get(slot).filter(|originator| originator.expires.is_some());
        !distance.metric.is_finite() || source.is_none_or(|source| distance.is_better_than(source.feasibility))
    }

    /// Whether a source is known or can be added. One that cannot must not be announced: its feasibility
    /// distance would be forgotten.
    pub(crate) fn has_room_for(&self, id: RouterId) -> bool {
        self.sources().count() < Self::SOURCES_MAX || self.feasibility(id).is_some()
    }

    /// Before an update about the originator is sent: the feasibility distance becomes the better of the two, and the
    /// garbage-collection timer starts again. Returns whether the source is new.
    pub(crate) fn record(&mut self, now: Tenths, slot: Slot, told: Distance, believed_for: Duration) -> bool {
        let Some(source) = self.get_mut(slot) else { return false };
        let known = source.expires.is_some();
        source.expires = Some(now.after(believed_for.max(GC_TIME)));
        if !known || told.is_better_than(source.feasibility) {
            source.feasibility = told;
        }
        !known
    }

    /// Forgets sources whose timer has expired and which the route in use does not need. Returns how many.
    pub(crate) fn collect(&mut self, now: Tenths, in_use: Option<Slot>) -> usize {
        let mut forgotten = 0;
        for (originator, slot) in self.iter_mut().zip((0..).map_while(Slot::new)) {
            if originator.expires.is_none_or(|expires| expires > now) {
                continue;
            }
            let needed = in_use == Some(slot);
            originator.expires = needed.then(|| now.after(GC_TIME));
            forgotten += usize::from(!needed);
        }
        forgotten
    }

    pub(crate) fn next_timeout(&self) -> Option<Tenths> {
        self.iter().filter_map(|source| source.expires).min()
    }

    pub(crate) fn sources(&self) -> impl Iterator<Item = (RouterId, Distance)> {
        let sources = self.iter().filter(|originator| originator.expires.is_some());
        sources.map(|source| (source.router_id, source.feasibility))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn distance(seqno: u16, metric: u16) -> Distance {
        Distance { seqno: Seqno(seqno), metric: Metric(metric) }
    }

    #[test]
    fn newer_seqno_beats_any_metric() {
        assert!(distance(2, 900).is_better_than(distance(1, 1)));
        assert!(!distance(1, 1).is_better_than(distance(2, 900)));
        assert!(distance(1, 1).is_better_than(distance(1, 2)));
        assert!(!distance(1, 2).is_better_than(distance(1, 2)));
    }

    fn id(number: u8) -> RouterId {
        RouterId::new([number; 8]).unwrap()
    }

    #[test]
    fn a_prefix_with_ever_new_originators_remembers_sixteen_and_forgets_after_three_minutes() {
        let mut originators = Originators::default();
        let start = Tenths::default();
        for number in 1..=16 {
            assert!(originators.has_room_for(id(number)));
            let slot = originators.slot(id(number), Slots::default).unwrap();
            assert!(originators.record(start, slot, distance(1, 1), GC_TIME));
        }
        assert!(originators.has_room_for(id(1)) && !originators.has_room_for(id(17)));
        let first = originators.slot(id(1), Slots::default);
        assert_eq!(originators.collect(start.after(GC_TIME / 2), None), 0);
        assert_eq!(originators.collect(start.after(GC_TIME), first), 15);
        assert_eq!(originators.feasibility(id(1)), Some(distance(1, 1)));
    }

    fn all() -> Slots {
        (0..255).filter_map(Slot::new).collect()
    }

    #[test]
    fn a_slot_keeps_its_originator_while_it_is_in_use_or_a_source() {
        let mut originators = Originators::default();
        let one = originators.slot(id(1), Slots::default).unwrap();
        originators.record(Tenths::default(), one, distance(1, 1), GC_TIME);
        let two = originators.slot(id(2), Slots::default).unwrap();
        let three = originators.slot(id(3), || [two].into_iter().collect()).unwrap();
        assert_eq!([one, two, three].map(|slot| originators.router_id(slot)), [id(1), id(2), id(3)]);
        assert_eq!(originators.slot(id(2), all), Some(two));
        assert_eq!(originators.slot(id(4), || [three].into_iter().collect()), Some(two), "nobody names it any more");
        assert_eq!(originators.router_id(two), id(4));
    }

    #[test]
    fn there_are_slots_for_254_originators_at_once_and_one_is_always_left_for_ourselves() {
        let mut originators = Originators::default();
        let foreign = |number: u16| {
            let [high, low] = number.to_be_bytes();
            RouterId::new([1, high, low, 0, 0, 0, 0, 0]).unwrap()
        };
        let first = originators.slot(foreign(1), Slots::default);
        let others = (2..=300).filter_map(|number| originators.slot(foreign(number), all));
        assert_eq!(first.into_iter().chain(others).count(), 254);
        let own = originators.own_slot(id(9), all).expect("one is left");
        // Ours is withdrawn, and everybody else stays.
        let but_ours = || (0..254).filter_map(Slot::new).collect();
        assert_eq!(originators.slot(foreign(301), but_ours), None);
        assert_eq!(originators.own_slot(id(8), but_ours), Some(own));
        assert_eq!(size_of::<Originators>(), 24);
    }

    #[test]
    fn room_of_slots_nobody_names_is_given_back() {
        let mut originators = Originators::default();
        let slots: Vec<_> = (1..=100).filter_map(|number| originators.slot(id(number), all)).collect();
        originators.record(Tenths::default(), slots[7], distance(1, 1), GC_TIME);
        originators.trim(|| [slots[20]].into_iter().collect());
        assert_eq!(originators.router_id(slots[20]), id(21));
        assert_eq!(
            (originators.router_id(slots[21]), originators.others.as_ref().unwrap().capacity() < 60),
            (RouterId::NOBODY, true)
        );
        originators.trim(Slots::default);
        assert_eq!(originators.router_id(slots[7]), id(8), "a source");
        originators.collect(Tenths::default().after(GC_TIME), None);
        originators.trim(Slots::default);
        assert!(originators.others.is_none());
    }

    proptest! {
        #[test]
        fn what_was_told_is_never_feasible_again_and_the_distance_never_worsens(told in prop::collection::vec((0_u16..100, 0_u16..50), 1..40)) {
            let mut originators = Originators::default();
            let slot = originators.slot(id(1), Slots::default).unwrap();
            for (seqno, metric) in told {
                let before = originators.feasibility(id(1));
                originators.record(Tenths::default(), slot, distance(seqno, metric), GC_TIME);
                let after = originators.feasibility(id(1)).unwrap();
                prop_assert!(before.is_none_or(|before| !before.is_better_than(after)));
                prop_assert!(!originators.is_feasible(id(1), distance(seqno, metric)));
                prop_assert!(!originators.is_feasible_in(slot, distance(seqno, metric)));
            }
        }

        #[test]
        fn feasibility_is_an_order_of_told_distances_within_half_a_circle_of_seqnos(a in (0_u16..10_000, 0_u16..500), b in (0_u16..10_000, 0_u16..500), c in (0_u16..10_000, 0_u16..500)) {
            let [a, b, c] = [a, b, c].map(|(seqno, metric)| distance(seqno, metric));
            prop_assert!(!(a.is_better_than(b) && b.is_better_than(a)));
            prop_assert!(a == b || a.is_better_than(b) || b.is_better_than(a));
            prop_assert!(!(a.is_better_than(b) && b.is_better_than(c)) || a.is_better_than(c));
        }
    }
}
