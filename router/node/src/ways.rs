//! The ways of a link: two neighbours may share several wires and radios, and a link goes by the best of them.
//!
//! A link stays one: one session, one account, one Babel interface. Which address its datagrams are sent to is decided here, by
//! each end for itself. Where only one way is known nothing is sent. Else each way is tried now and then by a message that the
//! neighbour answers on the same way: a way whose last three were not answered is left at once if another one answers, and one that
//! is clearly better for some seconds, by its shortest round trip and by what it loses, is taken. Who leaves a dead way says so, and
//! the neighbour follows: what one end's questions do not come back from, the other's do not either.
//!
//! Messages are UDP datagrams inside the link, of five bytes: 1 for a question, 3 for one on a way that was taken because another
//! died, or 2 for the answer to either; and its number, 32 bits, big-endian.
//! They are sealed as all that a link carries, so an answer was made by the neighbour; where it comes from is where the way leads.
//! Ways are heard of by beacons, or by a question that comes over one. One that leads nowhere costs a message every two seconds, for
//! a minute after it was last heard of.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// UDP port of questions and answers, inside a link only.
pub const WAYS_PORT: u16 = 6703;
/// Length of a message.
pub const WAY_MESSAGE_LEN: usize = 5;
const QUESTION: u8 = 1;
const ANSWER: u8 = 2;
const QUESTION_IN_NEED: u8 = 3;

/// Ways of one link: more wires than two houses share.
const WAYS_MAX: usize = 6;
/// How often the one in use is tried, and the others; and all, while a way is new or the one in use has not answered.
const IN_USE_EACH: Duration = Duration::from_millis(500);
const OTHERS_EACH: Duration = Duration::from_secs(2);
const QUICK_EACH: Duration = Duration::from_millis(200);
/// How long an answer is waited for: twice the longest of the last ones took, within these.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(300), Duration::from_secs(1));
/// So many in a row unanswered: the way is dead. A radio that loses a fifth of them there or back does so every half minute, and
/// then the other one is no worse a choice.
const DEAD: u32 = 3;
/// For so long it is said that a way was left because it died, and so often at most that is believed.
const NEED: Duration = Duration::from_secs(2);
/// An answer so old still says that a way is there.
const FRESH: Duration = Duration::from_millis(2500);
/// What is known of a way counts after so many answers and losses.
const KNOWN: u32 = 8;
/// Round trips remembered: half a minute of another way's.
const ROUND_TRIPS: usize = 16;
/// What a way costs besides its round trip: below that, nobody notices a difference.
const FLOOR: Duration = Duration::from_millis(2);
/// A loss of one in eight is as bad as twice the round trip. One or two more than were seen may be chance: that is said against the
/// way that is not in use.
const LOSS_WEIGHT: u32 = 8;
const CHANCE: u32 = 2;
/// Another way is better if it costs less than so much of this one, for so long.
const BETTER: (u32, u32) = (7, 10);
const BETTER_FOR: Duration = Duration::from_secs(5);
/// After a change the link stays where it is for so long, unless the way dies: what is measured depends on what is sent.
const STAYS: Duration = Duration::from_secs(30);
/// A way that has not answered and was not heard of for so long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// What a message to send says, and to which address.
pub type Message = (SocketAddr, [u8; WAY_MESSAGE_LEN]);

/// It is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the neighbour sent a malformed message about the link's ways")]
pub struct NoWayMessage;

/// What is known of a way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WayView {
    /// Where it leads.
    pub at: SocketAddr,
    /// Whether the link goes by it.
    pub in_use: bool,
    /// The shortest of the last round trips; none: it does not answer.
    pub round_trip: Option<Duration>,
    /// Of a thousand questions, how many were not answered lately.
    pub lost_per_mille: u16,
}

/// The ways of one link. Say what is heard of, what comes in, and the time a few times a second; then drain
/// [`Ways::poll_transmit`], and send by [`Ways::in_use`].
#[derive(Debug)]
pub struct Ways {
    /// The first is in use.
    ways: Vec<Way>,
    number: u32,
    /// When the link last went to another, and when because one had died.
    moved: Option<Instant>,
    fled: Option<Instant>,
    /// Which one is better, and since when.
    better: Option<(SocketAddr, Instant)>,
    outbox: VecDeque<Message>,
}

#[derive(Debug)]
struct Way {
    at: SocketAddr,
    /// When it was last heard of, or answered.
    alive: Instant,
    /// What was asked and is not answered yet.
    asked: VecDeque<(u32, Instant)>,
    asked_at: Option<Instant>,
    answered: Option<Instant>,
    round_trips: VecDeque<Duration>,
    /// The last 64 questions, the newest lowest: 1 is lost; and how many are known of.
    lost: u64,
    known: u32,
    /// The system has no way there.
    unreachable: bool,
}

impl Way {
    fn new(now: Instant, at: SocketAddr) -> Self {
        Self {
            at,
            alive: now,
            asked: VecDeque::new(),
            asked_at: None,
            answered: None,
            round_trips: VecDeque::new(),
            lost: 0,
            known: 0,
            unreachable: false,
        }
    }

    /// Questions in a row that were not answered.
    fn missed(&self) -> u32 {
        self.lost.trailing_ones().min(self.known)
    }

    fn note(&mut self, lost: bool) {
        self.lost = self.lost << 1 | u64::from(lost);
        self.known = (self.known + 1).min(u64::BITS);
    }

    fn patience(&self) -> Duration {
        let longest = self.round_trips.iter().max().copied().unwrap_or_default();
        (longest * 2).clamp(PATIENCE.0, PATIENCE.1)
    }

    fn is_fresh(&self, now: Instant) -> bool {
        !self.unreachable && self.answered.is_some_and(|at| now.saturating_duration_since(at) < FRESH)
    }

    fn lost_of_known(&self) -> u32 {
        let mask = u64::MAX.checked_shl(self.known).map_or(u64::MAX, |above| !above);
        (self.lost & mask).count_ones()
    }

    /// What a packet costs by it, if so many more were lost than it seems; none: that is not known.
    fn cost(&self, chance: u32) -> Option<Duration> {
        let round_trip = self.round_trips.iter().min().filter(|_| self.known >= KNOWN && !self.unreachable)?;
        let base = *round_trip + FLOOR;
        Some(base + base * LOSS_WEIGHT * (self.lost_of_known() + chance) / self.known)
    }
}

impl Ways {
    /// Those of a link that goes by this one.
    #[must_use]
    pub fn new(now: Instant, in_use: SocketAddr) -> Self {
        Self {
            ways: vec![Way::new(now, in_use)],
            number: 0,
            moved: None,
            fled: None,
            better: None,
            outbox: VecDeque::new(),
        }
    }

    /// Where the link's datagrams are sent.
    #[must_use]
    pub fn in_use(&self) -> SocketAddr {
        self.ways[0].at
    }

    /// Whether there is but one.
    #[must_use]
    pub fn is_one(&self) -> bool {
        self.ways.len() == 1
    }

    /// Somebody trustworthy says that the neighbour is there. Where there are too many ways, the one in use stays, and what was
    /// silent longest goes.
    pub fn handle_found(&mut self, now: Instant, at: SocketAddr) {
        if let Some(way) = self.ways.iter_mut().find(|way| way.at == at) {
            way.alive = now;
            return;
        }
        if self.ways.len() >= WAYS_MAX {
            let others = self.ways.iter().enumerate().skip(1);
            let oldest = others.min_by_key(|(_, way)| (way.answered, way.alive)).map(|(index, _)| index);
            self.ways.remove(oldest.unwrap_or(1));
        }
        self.ways.push(Way::new(now, at));
    }

    /// Something of the neighbour came from there. It roams if the way in use is in doubt.
    pub fn handle_heard(&mut self, now: Instant, from: SocketAddr) {
        if self.ways.iter().any(|way| way.at == from) {
            return;
        }
        self.handle_found(now, from);
        if self.ways[0].missed() > 0 {
            self.take(now, from);
        }
    }

    /// The link is to go by this one from now on: the owner, or a beacon while nothing works, says so.
    pub fn take(&mut self, now: Instant, at: SocketAddr) {
        self.handle_found(now, at);
        if let Some(index) = self.ways.iter().position(|way| way.at == at).filter(|index| *index > 0) {
            self.ways.swap(0, index);
            (self.moved, self.better) = (Some(now), None);
        }
    }

    /// Nothing comes by any of them: the next is tried, in turn.
    pub fn handle_silence(&mut self) {
        self.ways.rotate_left(1);
        self.better = None;
    }

    /// The system has a way there, or none.
    pub fn handle_reach(&mut self, now: Instant, at: SocketAddr, reachable: bool) {
        if let Some(way) = self.ways.iter_mut().find(|way| way.at == at) {
            way.unreachable = !reachable;
        }
        self.choose(now);
    }

    /// A message of the neighbour, and where it came from.
    ///
    /// # Errors
    /// [`NoWayMessage`]
    pub fn handle_message(&mut self, now: Instant, from: SocketAddr, payload: &[u8]) -> Result<(), NoWayMessage> {
        let &[kind, a, b, c, d] = payload else { return Err(NoWayMessage) };
        let number = u32::from_be_bytes([a, b, c, d]);
        match kind {
            QUESTION | QUESTION_IN_NEED => {
                // One end may have ears where the other's beacons are not heard.
                if is_on_a_wire(from) {
                    self.handle_found(now, from);
                }
                let rests = self.moved.is_some_and(|moved| now.saturating_duration_since(moved) < NEED);
                let leads = self.ways.iter().any(|way| way.at == from && way.answered.is_some() && !way.unreachable);
                if kind == QUESTION_IN_NEED && leads && !rests {
                    self.take(now, from);
                }
                if self.outbox.len() < 4 * WAYS_MAX {
                    self.outbox.push_back((from, message(ANSWER, number)));
                }
            }
            ANSWER => {
                let Some(way) = self.ways.iter_mut().find(|way| way.at == from) else { return Ok(()) };
                let Some(index) = way.asked.iter().position(|(asked, _)| *asked == number) else { return Ok(()) };
                let Some((_, asked)) = way.asked.remove(index) else { return Ok(()) };
                if way.round_trips.len() >= ROUND_TRIPS {
                    way.round_trips.pop_front();
                }
                way.round_trips.push_back(now.saturating_duration_since(asked));
                (way.answered, way.alive, way.unreachable) = (Some(now), now, false);
                way.note(false);
                self.choose(now);
            }
            _ => return Err(NoWayMessage),
        }
        Ok(())
    }

    /// Asks what is due, and chooses. Harmless to call early.
    pub fn handle_timeout(&mut self, now: Instant) {
        for way in &mut self.ways {
            let patience = way.patience();
            while way.asked.front().is_some_and(|(_, asked)| now.saturating_duration_since(*asked) >= patience) {
                way.asked.pop_front();
                way.note(true);
            }
        }
        self.choose(now);
        let mut index = 0;
        self.ways.retain(|way| {
            index += 1;
            index == 1 || now.saturating_duration_since(way.alive) < FORGOTTEN
        });
        if self.is_one() {
            return;
        }
        let in_need = self.fled.is_some_and(|fled| now.saturating_duration_since(fled) < NEED);
        let in_doubt = in_need || self.ways[0].missed() > 0;
        for (index, way) in self.ways.iter_mut().enumerate() {
            let each = match index {
                _ if in_doubt || way.known < KNOWN => QUICK_EACH,
                0 => IN_USE_EACH,
                _ => OTHERS_EACH,
            };
            if way.asked_at.is_none_or(|at| now.saturating_duration_since(at) >= each) {
                self.number = self.number.wrapping_add(1);
                way.asked_at = Some(now);
                way.asked.push_back((self.number, now));
                let kind = if in_need && index == 0 { QUESTION_IN_NEED } else { QUESTION };
                self.outbox.push_back((way.at, message(kind, self.number)));
            }
        }
    }

    /// The next message to send, by that way and no other.
    pub fn poll_transmit(&mut self) -> Option<Message> {
        self.outbox.pop_front()
    }

    /// What is known of each, the one in use first.
    pub fn views(&self) -> impl Iterator<Item = WayView> {
        self.ways.iter().enumerate().map(|(index, way)| WayView {
            at: way.at,
            in_use: index == 0,
            round_trip: way.round_trips.iter().min().copied().filter(|_| way.missed() < DEAD && !way.unreachable),
            lost_per_mille: u16::try_from(1000 * way.lost_of_known() / way.known.max(1)).unwrap_or(1000),
        })
    }

    fn choose(&mut self, now: Instant) {
        let (current, others) = self.ways.split_at(1);
        let current = &current[0];
        let works = |way: &&Way| way.is_fresh(now) && way.missed() == 0;
        let cheapest = |way: &&Way| (way.cost(CHANCE).is_none(), way.cost(CHANCE));
        let best = others.iter().filter(works).min_by_key(cheapest);
        let Some(best) = best else {
            self.better = None;
            return;
        };
        let at = best.at;
        if current.unreachable || current.missed() >= DEAD {
            self.take(now, at);
            self.fled = Some(now);
            self.ways[0].asked_at = None;
            return;
        }
        let is_better = match (current.cost(0), best.cost(CHANCE)) {
            (Some(cost), Some(other)) => other * BETTER.1 < cost * BETTER.0,
            _ => false,
        };
        let since = self.better.filter(|(better, _)| *better == at).map_or(now, |(_, since)| since);
        self.better = is_better.then_some((at, since));
        let rests = self.moved.is_some_and(|moved| now.saturating_duration_since(moved) < STAYS);
        if is_better && !rests && now.saturating_duration_since(since) >= BETTER_FOR {
            self.take(now, at);
        }
    }
}

fn message(kind: u8, number: u32) -> [u8; WAY_MESSAGE_LEN] {
    let [a, b, c, d] = number.to_be_bytes();
    [kind, a, b, c, d]
}

/// Whether an address is of one wire or radio alone: others a question does not bring.
fn is_on_a_wire(at: SocketAddr) -> bool {
    matches!(at.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local())
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's clock starts now")]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(50);

    fn at(number: u8) -> SocketAddr {
        format!("[fe80::{number}%{number}]:51820").parse().unwrap()
    }

    /// One end; the other answers what a way lets pass, after the way's time.
    struct World {
        ways: Ways,
        now: Instant,
        /// Of each way: the round trip, and how many of a hundred messages are lost, there or back.
        wires: Vec<(SocketAddr, Duration, u8)>,
        back: Vec<(Instant, Message)>,
        rng: fastrand::Rng,
        asked: usize,
    }

    impl World {
        fn new(wires: &[(u64, u8)]) -> Self {
            let now = Instant::now();
            let wires: Vec<_> =
                (1..).zip(wires).map(|(number, (ms, lost))| (at(number), Duration::from_millis(*ms), *lost)).collect();
            let mut ways = Ways::new(now, wires[0].0);
            wires.iter().for_each(|(at, _, _)| ways.handle_found(now, *at));
            Self { ways, now, wires, back: Vec::new(), rng: fastrand::Rng::with_seed(7), asked: 0 }
        }

        /// Runs for so long, or until the link goes by this way. How long it took.
        fn until(&mut self, number: u8, most: Duration) -> Duration {
            let began = self.now;
            while self.ways.in_use() != at(number) && self.now < began + most {
                self.step();
            }
            self.now - began
        }

        fn run(&mut self, time: Duration) {
            let end = self.now + time;
            while self.now < end {
                self.step();
            }
        }

        fn step(&mut self) {
            self.now += TICK;
            for (wire, _, _) in &self.wires {
                self.ways.handle_found(self.now, *wire);
            }
            let now = self.now;
            let (due, later) = std::mem::take(&mut self.back).into_iter().partition(|(at, _)| *at <= now);
            self.back = later;
            for (_, (from, message)) in due as Vec<(Instant, Message)> {
                self.ways.handle_message(now, from, &message).unwrap();
            }
            self.ways.handle_timeout(now);
            while let Some((to, bytes)) = self.ways.poll_transmit() {
                self.asked += 1;
                let Some((_, takes, lost)) = self.wires.iter().find(|(at, _, _)| *at == to) else { continue };
                if self.rng.u8(0..100) >= *lost {
                    let [_, a, b, c, d] = bytes;
                    self.back.push((now + *takes, (to, [ANSWER, a, b, c, d])));
                }
            }
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_link_with_one_way_says_nothing() {
        let mut world = World::new(&[(1, 0)]);
        world.run(SECOND * 100);
        assert_eq!((world.asked, world.ways.is_one()), (0, true));
    }

    #[test]
    fn the_better_way_is_taken_and_a_little_better_one_is_not() {
        let mut world = World::new(&[(300, 0), (10, 0)]);
        let took = world.until(2, SECOND * 60);
        assert!(took > BETTER_FOR && took < SECOND * 10, "{took:?}");
        // The clock of this test goes by 50 ms: what is shorter looks so long.
        for wires in [[(250, 0), (200, 0)], [(100, 0), (100, 3)], [(1, 0), (1, 0)]] {
            let mut world = World::new(&wires);
            world.run(SECOND * 200);
            assert_eq!(world.ways.in_use(), at(1), "{wires:?}");
        }
    }

    #[test]
    fn one_that_loses_is_left_for_one_that_does_not_and_takes_a_little_longer() {
        let mut world = World::new(&[(100, 25), (150, 0)]);
        world.run(SECOND * 60);
        assert_eq!(world.ways.in_use(), at(2));
        let lost: Vec<u16> = world.ways.views().map(|view| view.lost_per_mille).collect();
        assert!(lost[0] == 0 && lost[1] > 80, "{lost:?}");
    }

    #[test]
    fn a_way_that_dies_is_left_within_a_second_and_a_half_whichever_way_it_dies() {
        for seed in 0..50 {
            let mut world = World::new(&[(50, 0), (50, 0)]);
            world.run(SECOND * 10 + TICK * seed);
            world.wires[0].2 = 100;
            let took = world.until(2, SECOND * 60);
            assert!(took <= SECOND * 3 / 2, "{took:?}");
        }
        let mut world = World::new(&[(50, 0), (50, 0)]);
        world.run(SECOND * 10);
        world.ways.handle_reach(world.now, at(1), false);
        assert_eq!(world.ways.in_use(), at(2), "at once where the system says so");
    }

    #[test]
    fn who_leaves_a_dead_way_takes_the_neighbour_along_and_nobody_is_led_about() {
        let mut world = World::new(&[(50, 0), (50, 0)]);
        world.run(SECOND * 40);
        // The other end of it. What it is told comes a moment after the way has died, before it has missed anything itself.
        let now = world.now;
        world.ways.handle_reach(now, at(1), false);
        assert_eq!(world.ways.in_use(), at(2));
        world.ways.handle_timeout(now);
        let told: Vec<Message> = std::iter::from_fn(|| world.ways.poll_transmit()).collect();
        let (to, in_need) = told.iter().find(|(_, message)| message[0] == QUESTION_IN_NEED).unwrap();
        assert_eq!(*to, at(2));
        let mut other = World::new(&[(50, 0), (50, 0)]);
        other.run(SECOND * 40);
        other.ways.handle_message(other.now, at(2), in_need).unwrap();
        assert_eq!(other.ways.in_use(), at(2), "at once");
        other.ways.handle_message(other.now, at(1), in_need).unwrap();
        assert_eq!(other.ways.in_use(), at(2), "not twice at once");
        other.now += NEED;
        other.ways.handle_message(other.now, at(7), in_need).unwrap();
        assert_eq!(other.ways.in_use(), at(2), "not where nothing was ever answered");
        // It says so for a while and then no more.
        world.run(NEED);
        assert!(world.ways.fled.is_some());
        world.now += NEED;
        world.ways.handle_timeout(world.now);
        assert!(std::iter::from_fn(|| world.ways.poll_transmit()).all(|(_, message)| message[0] == QUESTION));
    }

    #[test]
    fn one_that_comes_back_and_is_better_is_taken_again_but_not_at_once() {
        let mut world = World::new(&[(50, 0), (300, 0)]);
        world.run(SECOND * 10);
        for _ in 0..5 {
            world.wires[0].2 = 100;
            assert!(world.until(2, SECOND * 10) < SECOND * 2);
            world.wires[0].2 = 0;
            let took = world.until(1, SECOND * 200);
            assert!(took >= SECOND * 25 && took < SECOND * 100, "{took:?}");
        }
    }

    #[test]
    fn where_no_way_answers_nothing_changes() {
        let mut world = World::new(&[(1, 100), (1, 100), (1, 100)]);
        world.run(SECOND * 300);
        assert_eq!(world.ways.in_use(), at(1));
        assert!(world.ways.views().all(|view| view.round_trip.is_none() && view.lost_per_mille == 1000));
    }

    #[test]
    fn two_good_ways_cost_a_few_messages_a_second_and_no_change() {
        let mut world = World::new(&[(1, 1), (1, 1)]);
        world.run(SECOND * 20);
        let before = (world.asked, world.ways.in_use());
        world.run(SECOND * 1000);
        assert_eq!(world.ways.in_use(), before.1);
        let each = (world.asked - before.0) as f64 / 1000.0;
        assert!((2.0..3.2).contains(&each), "{each} a second");
    }

    #[test]
    fn a_way_that_was_made_up_is_forgotten_and_drives_nobody_out() {
        let mut world = World::new(&[(50, 0), (50, 0)]);
        world.run(SECOND * 10);
        for number in 3..100 {
            world.ways.handle_found(world.now, at(number));
            world.ways.handle_message(world.now, at(number), &message(QUESTION, 1)).unwrap();
            world.ways.handle_heard(world.now, at(number));
            world.step();
            assert!(world.ways.views().count() <= WAYS_MAX);
        }
        assert_eq!(world.ways.in_use(), at(1));
        assert!(world.ways.views().any(|view| view.at == at(2)), "what answers stays");
        world.run(FORGOTTEN + SECOND);
        assert_eq!(world.ways.views().count(), 2);
    }

    #[test]
    fn whoever_is_in_doubt_follows_what_it_hears_from_elsewhere() {
        let mut world = World::new(&[(50, 0), (50, 100)]);
        world.run(SECOND * 10);
        world.ways.handle_heard(world.now, at(9));
        assert_eq!(world.ways.in_use(), at(1));
        world.wires[0].2 = 100;
        world.run(SECOND * 2);
        world.ways.handle_heard(world.now, at(8));
        assert_eq!(world.ways.in_use(), at(8));
    }

    #[test]
    fn what_is_no_message_is_refused_and_what_was_not_asked_changes_nothing() {
        let mut world = World::new(&[(50, 0), (50, 0)]);
        for payload in [&[][..], &[1, 0, 0, 0], &[1, 0, 0, 0, 0, 0], &[0, 0, 0, 0, 0], &[4, 0, 0, 0, 1]] {
            assert_eq!(world.ways.handle_message(world.now, at(1), payload), Err(NoWayMessage), "{payload:?}");
        }
        for number in 0..100 {
            world.ways.handle_message(world.now, at(2), &message(ANSWER, number)).unwrap();
        }
        assert!(world.ways.views().all(|view| view.round_trip.is_none()));
        for number in 0..1000 {
            world.ways.handle_message(world.now, "192.0.2.1:1".parse().unwrap(), &message(QUESTION, number)).unwrap();
        }
        assert_eq!(world.ways.views().count(), 2, "a question from elsewhere than a wire is answered and no more");
        assert!(std::iter::from_fn(|| world.ways.poll_transmit()).count() <= 4 * WAYS_MAX);
    }
}
