//! How long a packet may be on a link's way: path MTU discovery by probes (RFC 8899), since ways with less room than a
//! cable (PPPoE, mobile networks, other tunnels) are common and often do not say so.
//!
//! A round sends a probe of each length worth trying, all at once: control packets that must not be cut in pieces on the
//! way. The neighbour answers each that arrives, and the longest that did is how long packets may be; what was not
//! answered is tried twice more, as packets are lost for other reasons too. Until a first round is over, and where nobody
//! answers at all, the link's own MTU stands, and what is too long for the way is cut by the kernel as before.
//!
//! Messages are UDP datagrams inside the link, of five bytes, all numbers big-endian: 1 for a probe or 2 for an answer; the
//! round, 16 bits; the length of the probe's IPv6 packet, 16 bits. A probe is filled up with zeros to that length.

use std::time::{Duration, Instant};

use crate::datapath::packet::{IPV6_HEADER_LEN, UDP_HEADER_LEN};

/// UDP port of probes and answers, inside a link only.
pub const MTU_PORT: u16 = 6699;
/// The shortest that IPv6 allows (RFC 8200, section 5).
const FLOOR: usize = 1280;
/// Lengths worth trying below the link's own MTU: what a tunnel's 60 or 80 bytes of headers leave of PPPoE's 1,492 bytes, of
/// 1,480 in a 6in4 tunnel, of mobile networks' 1,430 and so on.
const LENGTHS: [usize; 12] = [1440, 1432, 1420, 1412, 1400, 1390, 1370, 1350, 1330, 1310, 1295, FLOOR];
/// An answer is awaited for so long.
const PATIENCE: Duration = Duration::from_secs(1);
/// A probe is sent so often.
const TRIES: u8 = 3;
/// Ways change.
const AGAIN_AFTER: Duration = Duration::from_secs(600);
const PROBE: u8 = 1;
const ANSWER: u8 = 2;

/// What is known of one link's way to its neighbour. The way back is the neighbour's business.
#[derive(Debug)]
pub(crate) struct PathMtu {
    /// The link's own MTU.
    max: usize,
    found: Option<usize>,
    /// The least of all ways there were: a new one may have as little.
    least: Option<usize>,
    round: u16,
    /// The longest that was answered in this round.
    best: Option<usize>,
    /// Whether a round is under way, and how often its probes are still to be sent.
    tries: Option<u8>,
    due: Instant,
    /// Payloads to send, and whether they are probes.
    outbox: Vec<(Vec<u8>, bool)>,
}

/// A message is none, or not for this link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the neighbour sent a malformed message about the length of packets")]
pub struct NoMessage;

impl PathMtu {
    /// A first round begins at once.
    pub(crate) fn new(now: Instant, max: usize) -> Self {
        let mut path =
            Self { max, found: None, least: None, round: 0, best: None, tries: None, due: now, outbox: Vec::new() };
        path.handle_way_changed(now);
        path
    }

    /// The longest packet the way takes, as far as is known.
    pub(crate) fn mtu(&self) -> usize {
        self.found.unwrap_or(self.max)
    }

    /// The way may be another one: it is tried again. If one before had less room, no more is taken for granted until this one has
    /// answered, which takes one round trip: links may change to and fro between two ways.
    pub(crate) fn handle_way_changed(&mut self, now: Instant) {
        self.found = self.least.or(self.found);
        self.begin_round(now);
    }

    fn begin_round(&mut self, now: Instant) {
        self.round = self.round.wrapping_add(1);
        (self.best, self.tries, self.due) = (None, Some(TRIES), now);
        self.handle_timeout(now);
    }

    pub(crate) fn poll_timeout(&self) -> Instant {
        self.due
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.due > now {
            return;
        }
        match self.tries {
            Some(0) => self.end_round(now),
            Some(tries) => {
                self.tries = Some(tries - 1);
                self.due = now + PATIENCE;
                let worth = |len: &usize| self.best.is_none_or(|best| *len > best);
                let lengths = LENGTHS.into_iter().filter(|len| *len < self.max).chain([self.max]).filter(worth);
                self.outbox.extend(lengths.map(|len| (probe(self.round, len), true)));
            }
            None => self.begin_round(now),
        }
    }

    fn end_round(&mut self, now: Instant) {
        self.found = self.best.or(self.found);
        self.least = self.least.or(self.found).min(self.found);
        (self.tries, self.due) = (None, now + AGAIN_AFTER);
    }

    /// `packet_len`: of the whole IPv6 packet the message came in.
    pub(crate) fn handle_message(&mut self, now: Instant, payload: &[u8], packet_len: usize) -> Result<(), NoMessage> {
        let (&[kind, a, b, c, d], rest) = payload.split_first_chunk().ok_or(NoMessage)?;
        let (round, len) = (u16::from_be_bytes([a, b]), usize::from(u16::from_be_bytes([c, d])));
        match kind {
            PROBE if len == packet_len => self.outbox.push((message(ANSWER, round, len), false)),
            ANSWER if rest.is_empty() && (FLOOR..=self.max).contains(&len) => {
                if round == self.round && self.tries.is_some() {
                    self.best = self.best.max(Some(len));
                    // More room is used at once; that there is less is known when the round is over.
                    self.found = self.found.map(|found| found.max(len));
                    if len == self.max {
                        self.end_round(now);
                    }
                }
            }
            _ => return Err(NoMessage),
        }
        Ok(())
    }

    /// The next payload to send, and whether it must arrive in one piece or not at all.
    pub(crate) fn poll_transmit(&mut self) -> Option<(Vec<u8>, bool)> {
        self.outbox.pop()
    }
}

fn message(kind: u8, round: u16, len: usize) -> Vec<u8> {
    let [a, b] = round.to_be_bytes();
    // Not more: nothing that is longer is tried or arrives.
    let [c, d] = u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes();
    vec![kind, a, b, c, d]
}

fn probe(round: u16, len: usize) -> Vec<u8> {
    let mut payload = message(PROBE, round, len);
    payload.resize(payload.len().max(len.saturating_sub(IPV6_HEADER_LEN + UDP_HEADER_LEN)), 0);
    payload
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's clock starts now")]
mod tests {
    use super::*;

    const HEADERS: usize = IPV6_HEADER_LEN + UDP_HEADER_LEN;

    /// Two ends of a way that takes packets of up to `room` bytes, and loses what `lost` says.
    struct Way {
        ends: [PathMtu; 2],
        now: Instant,
        room: usize,
    }

    impl Way {
        fn new(room: usize) -> Self {
            let now = Instant::now();
            Self { ends: [PathMtu::new(now, 1420), PathMtu::new(now, 1420)], now, room }
        }

        /// For so many seconds. How many probes were sent.
        fn run(&mut self, seconds: u64, mut lost: impl FnMut() -> bool) -> usize {
            let (end, mut probes) = (self.now + Duration::from_secs(seconds), 0);
            while self.now <= end {
                for from in [0, 1] {
                    self.ends[from].handle_timeout(self.now);
                    while let Some((payload, whole)) = self.ends[from].poll_transmit() {
                        probes += usize::from(whole);
                        let len = HEADERS + payload.len();
                        if (len <= self.room || !whole) && !lost() {
                            self.ends[1 - from].handle_message(self.now, &payload, len).unwrap();
                        }
                    }
                }
                self.now += Duration::from_millis(100);
            }
            probes
        }

        fn mtus(&self) -> [usize; 2] {
            self.ends.each_ref().map(PathMtu::mtu)
        }
    }

    #[test]
    fn the_longest_that_comes_through_is_found_and_less_room_and_more_are_noticed() {
        for (room, found) in [(1500, 1420), (1420, 1420), (1419, 1412), (1412, 1412), (1300, 1295), (1280, 1280)] {
            let mut way = Way::new(room);
            assert_eq!(way.mtus(), [1420; 2], "at first");
            way.run(5, || false);
            assert_eq!(way.mtus(), [found; 2], "room for {room}");
            way.room = 1350;
            way.run(620, || false);
            assert_eq!(way.mtus(), [1350; 2], "less than {room}");
            way.room = 1500;
            way.ends.iter_mut().for_each(|end| end.handle_way_changed(way.now));
            way.run(1, || false);
            assert_eq!(way.mtus(), [1420; 2], "more again");
        }
    }

    #[test]
    fn of_two_ways_the_one_with_less_room_is_thought_of_at_each_change() {
        let mut way = Way::new(1500);
        way.run(5, || false);
        for room in [1400, 1500, 1400, 1500] {
            way.room = room;
            way.ends.iter_mut().for_each(|end| end.handle_way_changed(way.now));
            let before = way.mtus();
            way.run(5, || false);
            assert_eq!(way.mtus(), [room.min(1420); 2]);
            // The first time nobody can know.
            assert!(before == [1400; 2] || room == 1400 && before == [1420; 2], "{before:?}");
            way.run(620, || false);
        }
        way.room = 1400;
        way.ends.iter_mut().for_each(|end| end.handle_way_changed(way.now));
        assert_eq!(way.mtus(), [1400; 2], "at once");
        way.run(620, || false);
        assert_eq!(way.mtus(), [1400; 2]);
    }

    #[test]
    fn a_way_with_room_costs_one_round_of_ten_probes_every_ten_minutes() {
        let mut way = Way::new(1500);
        assert_eq!(way.run(3500, || false), 2 * 6 * 10);
    }

    #[test]
    fn where_nobody_answers_all_stays_as_it_was() {
        let mut way = Way::new(1400);
        way.run(2000, || true);
        assert_eq!(way.mtus(), [1420; 2]);
        way.ends.iter_mut().for_each(|end| end.handle_way_changed(way.now));
        way.run(5, || false);
        way.run(2000, || true);
        assert_eq!(way.mtus(), [1400; 2]);
    }

    #[test]
    fn a_tenth_of_loss_makes_nothing_shorter() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut short = 0;
        for _ in 0..1000 {
            let mut way = Way::new(1500);
            way.run(5, || rng.u8(0..10) == 0);
            short += way.mtus().iter().filter(|mtu| **mtu < 1420).count();
        }
        // All of three probes or their answers: 0.19^3 = 0.7 %.
        assert!(short < 2 * 12, "{short} of 2000");
    }

    #[test]
    fn what_was_not_asked_for_changes_nothing() {
        let (now, mut path) = (Instant::now(), PathMtu::new(Instant::now(), 1420));
        for len in [0, 40, 1279, 1421, 65_535] {
            assert_eq!(path.handle_message(now, &message(ANSWER, 1, len), 53), Err(NoMessage), "{len}");
        }
        for payload in [&[][..], &[1, 0, 1, 5], &[3, 0, 1, 5, 0], &[2, 0, 1, 5, 0, 0], &[1, 0, 1, 5, 1]] {
            assert_eq!(path.handle_message(now, payload, 1280), Err(NoMessage), "{payload:?}");
        }
        assert_eq!(path.handle_message(now, &message(ANSWER, 7, 1300), 53), Ok(()), "another round's");
        path.handle_timeout(now + PATIENCE * 10);
        assert_eq!(path.mtu(), 1420);
    }
}
