//! The neighbour table and link sensing (RFC 8966, sections 3.2.4 and 3.4, Appendix A).

use crate::interface::{InterfaceConfig, InterfaceId, InterfaceKind};
use crate::metric::Cost;
use crate::seqno::Seqno;
use crate::wire::{Hello, Ihu, Interval, Tlv};
use std::collections::VecDeque;
use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

/// A neighbour's key inside a speaker; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NeighbourId(pub(crate) u32);

/// A row of the table.
#[derive(Clone, Debug)]
pub(crate) struct Neighbour {
    pub(crate) interface: InterfaceId,
    pub(crate) address: Ipv6Addr,
    multicast: HelloHistory,
    unicast: HelloHistory,
    txcost: Cost,
    ihu_expires: Option<Instant>,
    /// The link's cost as last computed; routes are measured with it.
    pub(crate) cost: Cost,
    /// What our IHU says.
    pub(crate) rxcost: Cost,
    /// Unicast messages to send at once, at most [`Neighbour::OUTBOX_MAX`].
    pub(crate) outbox: VecDeque<Tlv>,
}

impl Neighbour {
    /// Messages waiting for one neighbour; more are dropped, their senders ask again.
    const OUTBOX_MAX: usize = 64;

    pub(crate) fn new(interface: InterfaceId, address: Ipv6Addr) -> Self {
        Self {
            interface,
            address,
            multicast: HelloHistory::default(),
            unicast: HelloHistory::default(),
            txcost: Cost::INFINITY,
            ihu_expires: None,
            cost: Cost::INFINITY,
            rxcost: Cost::INFINITY,
            outbox: VecDeque::new(),
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.cost.is_finite()
    }

    pub(crate) fn txcost(&self) -> Cost {
        self.txcost
    }

    /// The last 16 multicast Hellos, newest in the lowest bit.
    pub(crate) fn reach(&self) -> u16 {
        self.multicast.heard
    }

    /// Whether the neighbour has probably rebooted, and forgotten what it told us.
    pub(crate) fn handle_hello(&mut self, now: Instant, hello: &Hello) -> bool {
        let history = if hello.unicast { &mut self.unicast } else { &mut self.multicast };
        history.receive(now, hello.seqno, hello.interval)
    }

    pub(crate) fn handle_ihu(&mut self, now: Instant, ihu: &Ihu) {
        self.txcost = ihu.rxcost;
        self.ihu_expires = Some(now + ihu_hold_time(ihu.interval));
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.multicast.expire(now);
        self.unicast.expire(now);
        if self.ihu_expires.is_some_and(|at| at <= now) {
            self.ihu_expires = None;
            self.txcost = Cost::INFINITY;
        }
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        [self.multicast.expires, self.unicast.expires, self.ihu_expires].into_iter().flatten().min()
    }

    /// "If the histories are empty, the neighbour entry is flushed" (RFC 8966, section 3.4.1).
    pub(crate) fn is_silent(&self) -> bool {
        self.multicast.heard == 0 && self.unicast.heard == 0
    }

    /// Measures the link anew. Whether anything changed.
    pub(crate) fn measure(&mut self, config: &InterfaceConfig) -> bool {
        let before = (self.rxcost, self.cost);
        self.rxcost = self.multicast.rxcost(config).min(self.unicast.rxcost(config));
        self.cost = link_cost(config, self.rxcost, self.txcost);
        (self.rxcost, self.cost) != before
    }

    pub(crate) fn send(&mut self, tlv: Tlv) {
        if self.outbox.len() < Self::OUTBOX_MAX {
            self.outbox.push_back(tlv);
        }
    }
}

/// "3.5 times the advertised IHU interval" (RFC 8966, Appendix B).
fn ihu_hold_time(interval: Interval) -> Duration {
    interval.as_duration() * 7 / 2
}

/// The cost of sending to a neighbour: what it says (2-out-of-3, RFC 8966, Appendix A.2.1), or the
/// expected number of transmissions there and back (ETX, Appendix A.2.2).
fn link_cost(config: &InterfaceConfig, rxcost: Cost, txcost: Cost) -> Cost {
    if !rxcost.is_finite() || !txcost.is_finite() {
        return Cost::INFINITY;
    }
    match config.kind {
        InterfaceKind::Tunnel | InterfaceKind::Wired => txcost,
        InterfaceKind::Lossy => {
            let base = config.cost;
            scaled(base, [txcost.max(base), rxcost.max(base)], [base, base])
        }
    }
}

/// `base * (over[0] / under[0]) * (over[1] / under[1])`, saturating.
fn scaled(base: Cost, over: [Cost; 2], under: [Cost; 2]) -> Cost {
    let wide = |cost: Cost| u64::from(cost.get());
    let cost = wide(base) * wide(over[0]) * wide(over[1]) / (wide(under[0]) * wide(under[1]));
    Cost::new(u16::try_from(cost).unwrap_or(u16::MAX))
}

/// Which of a neighbour's last Hellos arrived (RFC 8966, Appendix A.1).
#[derive(Clone, Debug, Default)]
struct HelloHistory {
    /// Newest in the lowest bit.
    heard: u16,
    /// How many bits mean anything, at most 16.
    known: u8,
    expected: Option<Seqno>,
    /// The last one told.
    interval: Option<Interval>,
    expires: Option<Instant>,
}

const HISTORY: u8 = 16;

impl Interval {
    /// Somebody who only sends unscheduled Hellos is expected as often as RFC 8966, Appendix B lets
    /// others speak, so that it does not stay for ever.
    const UNSCHEDULED: Self = Self(400);
}

impl HelloHistory {
    /// Whether the history had to start over.
    fn receive(&mut self, now: Instant, seqno: Seqno, interval: Option<Interval>) -> bool {
        let restarted = self.expected.is_some_and(|expected| !self.align(seqno.distance_from(expected)));
        self.shift(true);
        self.expected = Some(seqno.next());
        let unscheduled = self.expires.is_none().then_some(Interval::UNSCHEDULED);
        if let Some(interval) = interval.or(unscheduled) {
            self.interval = Some(interval);
            self.expires = Some(now + hello_hold_time(interval));
        }
        restarted
    }

    /// "If the two differ by more than 16, the sending node has probably rebooted and lost its sequence
    /// number; the whole history is flushed. Else if the received one is smaller, the sending node has
    /// increased its Hello interval without our noticing; undo history. Else some Hellos were lost."
    /// `false` in the first case.
    fn align(&mut self, ahead: i16) -> bool {
        let distance = ahead.unsigned_abs();
        if distance > u16::from(HISTORY) {
            (self.heard, self.known) = (0, 0);
        } else if ahead < 0 {
            self.heard = self.heard.checked_shr(distance.into()).unwrap_or(0);
            self.known = self.known.saturating_sub(u8::try_from(distance).unwrap_or(HISTORY));
        } else {
            (0..distance).for_each(|_| self.shift(false));
        }
        distance <= u16::from(HISTORY)
    }

    fn shift(&mut self, heard: bool) {
        self.heard = self.heard << 1 | u16::from(heard);
        self.known = HISTORY.min(self.known + 1);
    }

    /// Counts what should have come by now as missed. However late, a full history is the most there is.
    fn expire(&mut self, now: Instant) {
        let Some(interval) = self.interval else { return };
        for _ in 0..HISTORY {
            let Some(expires) = self.expires.filter(|at| *at <= now) else {
                return;
            };
            self.shift(false);
            self.expected = self.expected.map(Seqno::next);
            self.expires = (self.heard != 0).then(|| expires + interval.as_duration());
        }
        self.expires = self.expires.map(|at| at.max(now + interval.as_duration()));
    }

    fn rxcost(&self, config: &InterfaceConfig) -> Cost {
        let heard = |of_last: u16| (self.heard & of_last).count_ones();
        match config.kind {
            InterfaceKind::Tunnel | InterfaceKind::Wired if heard(0b111) >= 2 => config.cost,
            InterfaceKind::Lossy if heard(0b111) >= 1 && heard(u16::MAX) >= 2 => {
                self.expected_transmissions(config.cost)
            }
            InterfaceKind::Tunnel | InterfaceKind::Wired | InterfaceKind::Lossy => Cost::INFINITY,
        }
    }

    fn expected_transmissions(&self, base: Cost) -> Cost {
        let sent = Cost::new(self.known.into());
        let heard = Cost::new(u16::try_from(self.heard.count_ones()).unwrap_or(1));
        scaled(base, [sent, heard], [heard, heard])
    }
}

/// "A node expects a Hello within 1.5 times the advertised interval" (RFC 8966, Appendix A.1).
fn hello_hold_time(interval: Interval) -> Duration {
    interval.as_duration() * 3 / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Interval = Interval(100);

    fn heard(now: Instant, seqnos: &[u16]) -> HelloHistory {
        let mut history = HelloHistory::default();
        for seqno in seqnos {
            history.receive(now, Seqno(*seqno), Some(SECOND));
        }
        history
    }

    fn start() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "an Instant has no other origin")]
        Instant::now()
    }

    fn tunnel() -> InterfaceConfig {
        InterfaceConfig::tunnel("fe80::1".parse().unwrap())
    }

    #[test]
    fn two_hellos_of_the_last_three_make_a_link() {
        let now = start();
        assert_eq!(heard(now, &[1]).rxcost(&tunnel()), Cost::INFINITY);
        assert_eq!(heard(now, &[1, 2]).rxcost(&tunnel()), Cost::WIRED);
        assert_eq!(heard(now, &[1, 2, 4]).rxcost(&tunnel()), Cost::WIRED);
        assert_eq!(heard(now, &[1, 2, 5]).rxcost(&tunnel()), Cost::INFINITY);
    }

    #[test]
    fn a_cut_link_is_down_after_two_and_a_half_intervals() {
        let now = start();
        let mut history = heard(now, &[1, 2, 3]);
        history.expire(now + Duration::from_millis(2400));
        assert_eq!(history.rxcost(&tunnel()), Cost::WIRED);
        history.expire(now + Duration::from_millis(2500));
        assert_eq!(history.rxcost(&tunnel()), Cost::INFINITY);
    }

    #[test]
    fn silence_for_a_year_empties_the_history_in_one_step() {
        let now = start();
        let mut history = heard(now, &[1, 2, 3]);
        history.expire(now + Duration::from_secs(31_536_000));
        assert_eq!((history.heard, history.expires), (0, None));
    }

    #[test]
    fn a_repeated_hello_counts_once_and_a_reboot_starts_over() {
        let now = start();
        assert_eq!(heard(now, &[1, 2, 2, 2]).heard, 0b11);
        assert_eq!(heard(now, &[1, 2, 900]).heard, 0b1);
        assert_eq!(heard(now, &[0xffff, 0, 1]).heard, 0b111);
    }

    #[test]
    fn a_radio_that_loses_half_costs_twice() {
        let now = start();
        let radio = InterfaceConfig::lossy("fe80::1".parse().unwrap());
        let rxcost = heard(now, &[1, 3, 5, 7, 9, 11, 13, 15, 17]).rxcost(&radio);
        assert_eq!(rxcost, Cost::new(512));
        assert_eq!(link_cost(&radio, rxcost, Cost::new(512)), Cost::new(1024));
        assert_eq!(link_cost(&radio, Cost::new(256), Cost::new(256)), Cost::new(256));
    }
}
