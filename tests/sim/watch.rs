//! What is watched from outside while a world runs: loops, and what was carried for whom.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;
use std::time::Duration;

use metering::credit::given_each_day;
use metering::{Bytes, Offer, Tokens};
use node::LinkId;
use node::datapath::{Fib, NextHop};

use crate::{StationId, WireId};

/// Where each station would send a packet for each destination.
#[derive(Debug, Default)]
pub(crate) struct Ways {
    destinations: Vec<Ipv6Addr>,
    /// By destination, by station.
    next: Vec<Vec<Step>>,
    /// Destinations whose packets turn in a circle.
    looping: BTreeSet<usize>,
}

/// What a station does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Nothing: no route.
    Stuck,
    /// It has arrived.
    Arrived,
    /// It goes on, over a wire.
    To(StationId, WireId),
}

impl Ways {
    pub(crate) fn new(destinations: Vec<Ipv6Addr>, stations: usize) -> Self {
        let next = vec![vec![Step::Stuck; stations]; destinations.len()];
        Self { destinations, next, looping: BTreeSet::new() }
    }

    /// A station has another table, or none. A change can only close a circle through the station itself, so the ways
    /// from there are followed. Returns the stations of a circle that was not there before.
    pub(crate) fn change(
        &mut self,
        at: StationId,
        fib: Option<&Fib>,
        neighbour: impl Fn(LinkId) -> (StationId, WireId),
    ) -> Option<(Ipv6Addr, Vec<StationId>)> {
        let mut found = None;
        for index in 0..self.destinations.len() {
            let destination = self.destinations[index];
            let step = match fib.and_then(|fib| fib.lookup(destination)) {
                Some(NextHop::Link(link)) => {
                    let (station, wire) = neighbour(link);
                    Step::To(station, wire)
                }
                Some(NextHop::Local) => Step::Arrived,
                Some(NextHop::Unreachable) | None => Step::Stuck,
            };
            if std::mem::replace(&mut self.next[index][at.0], step) == step {
                continue;
            }
            match circle(&self.next[index], at) {
                Some(circle) if self.looping.insert(index) => found = Some((destination, circle)),
                Some(_) => {}
                None => self.review(index),
            }
        }
        found
    }

    /// Whether a circle that was there has been opened.
    fn review(&mut self, index: usize) {
        let next = &self.next[index];
        if self.looping.contains(&index) && (0..next.len()).all(|from| circle(next, StationId(from)).is_none()) {
            self.looping.remove(&index);
        }
    }

    /// How many destinations cannot be reached safely.
    pub(crate) fn circles(&self) -> usize {
        self.looping.len()
    }

    /// Whether a packet from one station comes to the destination of this number, over wires that carry.
    pub(crate) fn leads(&self, from: StationId, destination: usize, carries: impl Fn(WireId) -> bool) -> bool {
        let next = &self.next[destination];
        let mut at = from;
        for _ in 0..next.len() {
            match next[at.0] {
                Step::To(station, wire) if carries(wire) => at = station,
                Step::To(..) | Step::Stuck => return false,
                Step::Arrived => return true,
            }
        }
        false
    }
}

/// The stations of the circle that a packet at `from` comes back to `from` by.
fn circle(next: &[Step], from: StationId) -> Option<Vec<StationId>> {
    let mut path = vec![from];
    let mut at = from;
    while let Step::To(station, _) = next[at.0] {
        if station == from {
            return Some(path);
        }
        if path.len() > next.len() {
            return None;
        }
        path.push(station);
        at = station;
    }
    None
}

/// What was carried and paid on one wire whose first end provides to the second, as seen from outside.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Account {
    /// Billed bytes that either end accepted from the other, by end.
    pub(crate) accepted: [Bytes; 2],
    /// The highest amount in a receipt that was seen on the wire.
    pub(crate) signed: Tokens,
    /// Lives of the provider: what it knows of a payer's arrears ends with it.
    pub(crate) lives: u64,
    /// What the provider counted since its control core last looked, in money.
    pub(crate) unseen: Tokens,
    /// The most that ever was.
    pub(crate) unseen_max: Tokens,
}

impl Account {
    /// What both ends would call delivered, in money: the most a payer may ever sign.
    pub(crate) fn worth(&self, offer: &Offer) -> Tokens {
        let up = offer.price_up.of(self.accepted[0]).unwrap_or(Tokens::MAX);
        let down = offer.price_down.of(self.accepted[1]).unwrap_or(Tokens::MAX);
        up.saturating_add(down)
    }

    /// The most that may have been delivered and never signed for, after so long: in each life of the provider one full
    /// window, with what passed before the control core looked; what was worked off by paying; what is given away each
    /// day; and the loss that the provider does not take for owed.
    pub(crate) fn unsigned_max(&self, offer: &Offer, age: Duration) -> Tokens {
        let value = |bytes: Bytes| offer.price_up.max(offer.price_down).of(bytes).unwrap_or(Tokens::MAX);
        let in_a_life = value(offer.window).saturating_add(self.unseen_max).saturating_add(self.unseen_max);
        let given = value(given_each_day()).get() * u128::from(age.as_secs() + 60) / 86_400;
        let lost = in_a_life.get().saturating_mul(u128::from(self.lives)) + self.signed.get() / 8 + given + 1;
        let counted = u128::from(1_000_000 - offer.loss_allowance_ppm);
        Tokens::new(lost.saturating_mul(1_000_000) / counted).unwrap_or(Tokens::MAX)
    }

    /// The provider counted packets, in either direction.
    pub(crate) fn count(&mut self, offer: &Offer, bytes: Bytes) {
        const ROUNDING: Tokens = Tokens::new(1).expect("1 is below 2^96");
        let value = offer.price_up.max(offer.price_down).of(bytes).unwrap_or(Tokens::MAX);
        self.unseen = self.unseen.saturating_add(value).saturating_add(ROUNDING);
        self.unseen_max = self.unseen_max.max(self.unseen);
    }
}

#[cfg(test)]
mod tests {
    use node::datapath::FibBuilder;

    use super::*;

    #[test]
    fn a_circle_is_found_when_it_closes_and_forgotten_when_it_opens() {
        let destination = Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 1);
        let prefix = node::Prefix::new(destination, 48).expect("48 is a length");
        let fib = |to: u32| FibBuilder::default().route(prefix, LinkId(to)).build(Vec::new());
        let mut ways = Ways::new(vec![destination], 4);
        let neighbour = |link: LinkId| (StationId(link.index()), WireId(0));
        for (at, to) in [(0, 1), (1, 2), (2, 3)] {
            assert_eq!(ways.change(StationId(at), Some(&fib(to)), neighbour), None);
        }
        let closed = ways.change(StationId(2), Some(&fib(1)), neighbour);
        assert_eq!(closed, Some((destination, vec![StationId(2), StationId(1)])));
        assert_eq!((ways.circles(), ways.leads(StationId(0), 0, |_| true)), (1, false));
        assert_eq!(ways.change(StationId(1), None, neighbour), None);
        assert_eq!(ways.circles(), 0);
    }
}
