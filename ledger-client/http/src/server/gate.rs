//! How many may be connected: when all places are taken, who has been quiet longest gives its place up.
//!
//! So a crowd of idle connections keeps nobody out, and the memory of all connections together is bounded.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// How many connections there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// In all.
    pub total: usize,
    /// From one address, or one /64 of IPv6.
    pub per_owner: usize,
}

/// All places.
#[derive(Debug)]
pub(super) struct Gate {
    places: Places,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    /// A number that grows with each change, to tell who has been quiet longest.
    turn: u64,
    taken: usize,
    of: BTreeMap<IpAddr, usize>,
    /// Who is connected and asks nothing, since when, and how to tell it to go.
    quiet: BTreeMap<u64, Arc<Notify>>,
}

/// One taken place. It is given back when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    gate: Arc<Gate>,
    owner: IpAddr,
    state: Mutex<State>,
    leave: Arc<Notify>,
}

#[derive(Debug)]
enum State {
    /// Since this turn.
    Quiet(u64),
    Busy,
    /// Its place was given away while it was quiet: it goes, and is nobody's to send away a second time.
    Leaving,
}

impl Gate {
    pub(super) fn new(places: Places) -> Arc<Self> {
        Arc::new(Self { places, inside: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        // Nothing panics with the lock held.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for who has just connected; none, where its owner has too many, or all are taken by who is being answered.
    pub(super) fn enter(self: &Arc<Self>, owner: IpAddr) -> Option<Place> {
        let mut inside = self.lock();
        let of_owner = inside.of.get(&owner).copied().unwrap_or(0);
        if of_owner >= self.places.per_owner {
            return None;
        }
        if inside.taken >= self.places.total {
            let (_, leave) = inside.quiet.pop_first()?;
            leave.notify_one();
        }
        inside.taken += 1;
        inside.of.insert(owner, of_owner + 1);
        let leave = Arc::new(Notify::new());
        let turn = inside.now_quiet(&leave);
        drop(inside);
        Some(Place { gate: self.clone(), owner, state: Mutex::new(State::Quiet(turn)), leave })
    }

    /// How many are connected.
    pub(super) fn taken(&self) -> usize {
        self.lock().taken
    }
}

impl Inside {
    fn now_quiet(&mut self, leave: &Arc<Notify>) -> u64 {
        self.turn += 1;
        self.quiet.insert(self.turn, leave.clone());
        self.turn
    }
}

impl Place {
    /// A question has come, whole.
    pub(super) fn busy(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Quiet(turn) = *state {
            let was_there = self.gate.lock().quiet.remove(&turn).is_some();
            *state = if was_there { State::Busy } else { State::Leaving };
        }
    }

    /// It is answered, or has not come.
    pub(super) fn quiet(&self) {
        self.busy();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Busy = *state {
            *state = State::Quiet(self.gate.lock().now_quiet(&self.leave));
        }
    }

    /// Waits until this place is needed for another.
    pub(super) async fn needed(&self) {
        self.leave.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.busy();
        let mut inside = self.gate.lock();
        inside.taken -= 1;
        if let Some(count) = inside.of.get_mut(&self.owner) {
            *count -= 1;
            if *count == 0 {
                inside.of.remove(&self.owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn told_to_go(place: &Place) -> bool {
        let mut needed = std::pin::pin!(place.needed());
        let waker = std::task::Waker::noop();
        needed.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_ready()
    }

    #[test]
    fn who_has_been_quiet_longest_makes_room() {
        let gate = Gate::new(Places { total: 2, per_owner: 9 });
        let first = gate.enter(ip(1)).unwrap();
        let second = gate.enter(ip(2)).unwrap();
        first.busy();
        first.quiet();
        let third = gate.enter(ip(3)).unwrap();
        assert!(!told_to_go(&first) && told_to_go(&second));
        drop(second);
        first.busy();
        third.busy();
        assert!(gate.enter(ip(4)).is_none(), "nobody who is being answered is told to go");
        drop(first);
        assert!(gate.enter(ip(4)).is_some());
        third.quiet();
        third.quiet();
        assert_eq!(gate.lock().quiet.len(), 1);
        drop(third);
        assert_eq!((gate.taken(), gate.lock().quiet.len()), (0, 0));
    }

    #[test]
    fn who_is_on_its_way_out_is_not_sent_away_for_a_second_time() {
        let gate = Gate::new(Places { total: 2, per_owner: 9 });
        let (first, second) = (gate.enter(ip(1)).unwrap(), gate.enter(ip(2)).unwrap());
        let third = gate.enter(ip(3)).unwrap();
        // The first is told to go in the moment in which it asks.
        first.busy();
        first.quiet();
        let fourth = gate.enter(ip(4)).unwrap();
        assert!(told_to_go(&first) && told_to_go(&second));
        drop((first, second));
        assert_eq!(gate.taken(), 2);
        drop((third, fourth));
        assert_eq!(gate.taken(), 0);
    }

    #[test]
    fn one_owner_has_its_share_of_places() {
        let gate = Gate::new(Places { total: 9, per_owner: 2 });
        let (one, _two) = (gate.enter(ip(1)).unwrap(), gate.enter(ip(1)).unwrap());
        assert!(gate.enter(ip(1)).is_none());
        assert!(gate.enter(ip(2)).is_some());
        drop(one);
        assert!(gate.enter(ip(1)).is_some());
    }
}
