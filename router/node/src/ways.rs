//! The ways of a link: two neighbours may share several wires and radios, and a link goes by the best of them.
//!
//! A link stays one: one session, one account, one Babel interface. Which address its datagrams are sent to is decided here, by
//! each end for itself. Where only one way is known nothing is sent. Else each way is tried now and then by a message that the
//! neighbour answers on the same way: a way that falls silent is left for one that answers, and one that is clearly better for some
//! seconds, by its shortest round trip and by what it loses, is taken. Who leaves a way that has died says so by the one it takes, and
//! the neighbour follows, if that one has answered it as well. Answers do not say that data passes: where none does for some seconds
//! the caller says so, and the way is left alone for a while, and for longer each time. Each change makes the next wait longer, too,
//! as what is measured depends on what is sent.
//!
//! Messages are UDP datagrams inside the link, of five bytes: 1 for a question, 3 for one on a way that was taken because another
//! died, or 2 for the answer to either; and its number, 32 bits, big-endian. They are sealed as all that a link carries, so an
//! answer was made by the neighbour; where it comes from is where the way leads. Ways are heard of by beacons, by a question that
//! comes over a wire, or by whatever else of the neighbour comes from elsewhere; none is taken before it has answered, unless none
//! that is known does. Whoever never answers, as it knows nothing of this, is sent to where it sends from.

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
/// How long an answer is waited for: twice as long as is usual, within these; and where there was none yet.
const PATIENCE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));
const FIRST_PATIENCE: Duration = Duration::from_secs(1);
/// An answer that comes later than that is no loss all the same, within this time.
const LATE: Duration = Duration::from_secs(5);
/// So many in a row unanswered: the way is dead. Of one that loses much anyway, more.
const DEAD: u32 = 3;
/// For so long it is said that a way was left because it died, and so often at most that is believed.
const NEED: Duration = Duration::from_secs(2);
/// An answer so old still says that a way is there.
const FRESH: Duration = Duration::from_millis(2500);
/// What is known of a way counts after so many answers and losses.
const KNOWN: u32 = 8;
/// Round trips remembered: a minute of another way's.
const ROUND_TRIPS: usize = 32;
/// What a way costs besides its round trip: below that, nobody notices a difference.
const FLOOR: Duration = Duration::from_millis(2);
/// A loss of one in eight is as bad as twice the round trip. One or two more than were seen may be chance: that is said against the
/// way that is not in use.
const LOSS_WEIGHT: u32 = 8;
const CHANCE: u32 = 2;
/// Another way is better if it costs less than so much of this one, for so long.
const BETTER: (u32, u32) = (7, 10);
const BETTER_FOR: Duration = Duration::from_secs(5);
/// After a change the link stays where it is for so long, unless the way dies, and twice as long if it has just changed before; and
/// so long is a way left alone on which no data came.
const STAYS: Duration = Duration::from_secs(30);
const STAYS_MAX: Duration = Duration::from_secs(1800);
/// A way that has not answered and was not heard of for so long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(60);
/// Questions answered between two calls of [`Ways::handle_timeout`]: twice what a neighbour asks.
const ANSWERS_MAX: usize = 2 * WAYS_MAX;

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
    /// The one that the owner wrote down: it is never forgotten.
    written: Option<SocketAddr>,
    number: u32,
    /// When the link last went to another, when because one had died, and for how long it stays.
    moved: Option<Instant>,
    fled: Option<Instant>,
    stays: Duration,
    /// Which one is better, and since when.
    better: Option<(SocketAddr, Instant)>,
    /// There is no session: the first way that brings something is taken.
    is_lost: bool,
    answers: usize,
    outbox: VecDeque<Message>,
}

#[derive(Debug)]
struct Way {
    at: SocketAddr,
    /// When it was last heard of, or answered.
    alive: Instant,
    /// What was asked lately and is not answered.
    asked: VecDeque<Asked>,
    asked_at: Option<Instant>,
    answered: Option<Instant>,
    round_trips: VecDeque<Duration>,
    /// The last 64 questions, the newest lowest: 1 is lost; how many there were in all, and are known of.
    lost: u64,
    noted: u64,
    known: u32,
    /// The system has no way there.
    unreachable: bool,
    /// No data came by it: it is left alone until then, and the next time for so long.
    barred: Option<Instant>,
    bar: Duration,
}

#[derive(Debug)]
struct Asked {
    number: u32,
    at: Instant,
    /// Which of all it is, once it counts as lost.
    lost: Option<u64>,
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
            noted: 0,
            known: 0,
            unreachable: false,
            barred: None,
            bar: STAYS,
        }
    }

    /// Questions in a row that were not answered.
    fn missed(&self) -> u32 {
        self.lost.trailing_ones().min(self.known)
    }

    /// More in a row than chance would have it, by what it lost before.
    fn is_dead(&self) -> bool {
        let missed = self.missed();
        let before = (self.lost_of_known() - missed) * LOSS_WEIGHT / (self.known - missed).max(1);
        missed >= DEAD + before
    }

    fn note(&mut self, lost: bool) {
        self.lost = self.lost << 1 | u64::from(lost);
        self.noted += 1;
        self.known = (self.known + 1).min(u64::BITS);
    }

    /// The round trip in the middle of those that are remembered: one that took long says little of the next.
    fn usual(&self) -> Option<Duration> {
        let mut all: Vec<Duration> = self.round_trips.iter().copied().collect();
        all.sort_unstable();
        all.get(all.len() / 2).copied()
    }

    /// Counts what was not answered in time, and forgets what will not be.
    fn wait(&mut self, now: Instant) {
        let patience = self.usual().map_or(FIRST_PATIENCE, |usual| (usual * 2).clamp(PATIENCE.0, PATIENCE.1));
        let age = |asked: &Asked| now.saturating_duration_since(asked.at);
        while let Some(index) = self.asked.iter().position(|asked| asked.lost.is_none() && age(asked) >= patience) {
            self.note(true);
            self.asked[index].lost = Some(self.noted);
        }
        self.asked.retain(|asked| age(asked) < LATE);
    }

    /// Whether that was asked.
    fn handle_answer(&mut self, now: Instant, number: u32) -> bool {
        let index = self.asked.iter().position(|asked| asked.number == number);
        let Some(asked) = index.and_then(|index| self.asked.remove(index)) else { return false };
        if self.round_trips.len() >= ROUND_TRIPS {
            self.round_trips.pop_front();
        }
        self.round_trips.push_back(now.saturating_duration_since(asked.at));
        (self.answered, self.alive, self.unreachable) = (Some(now), now, false);
        match asked.lost {
            Some(noted) => {
                let bit = u32::try_from(self.noted - noted).ok().and_then(|ago| 1_u64.checked_shl(ago));
                self.lost &= !bit.unwrap_or(0);
            }
            None => self.note(false),
        }
        true
    }

    /// Whether the link may go by it.
    fn works(&self, now: Instant) -> bool {
        let is_fresh = self.answered.is_some_and(|at| now.saturating_duration_since(at) < FRESH);
        is_fresh && !self.unreachable && self.missed() == 0 && self.barred.is_none_or(|until| now >= until)
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
    /// Those of a link that goes by this one, of which the owner may have written one down.
    #[must_use]
    pub fn new(now: Instant, in_use: SocketAddr, written: Option<SocketAddr>) -> Self {
        let mut ways = Self {
            ways: vec![Way::new(now, in_use)],
            written: None,
            number: 0,
            moved: None,
            fled: None,
            stays: STAYS,
            better: None,
            is_lost: false,
            answers: ANSWERS_MAX,
            outbox: VecDeque::new(),
        };
        ways.handle_written(now, written);
        ways
    }

    /// The owner wrote this one down, or none.
    pub fn handle_written(&mut self, now: Instant, written: Option<SocketAddr>) {
        self.written = written;
        if let Some(at) = written {
            self.handle_found(now, at);
        }
    }

    /// Where the link's datagrams are sent.
    #[must_use]
    pub fn in_use(&self) -> SocketAddr {
        self.ways[0].at
    }

    /// All of them, the one in use first.
    pub fn all(&self) -> impl Iterator<Item = SocketAddr> {
        self.ways.iter().map(|way| way.at)
    }

    /// Whether there is but one.
    #[must_use]
    pub fn is_one(&self) -> bool {
        self.ways.len() == 1
    }

    /// Somebody trustworthy says that the neighbour is there. Where there are too many ways, the one in use stays, the one that the
    /// owner wrote, and of the others not what was silent longest.
    pub fn handle_found(&mut self, now: Instant, at: SocketAddr) {
        if let Some(way) = self.ways.iter_mut().find(|way| way.at == at) {
            way.alive = now;
            return;
        }
        if self.ways.len() >= WAYS_MAX {
            let others = self.ways.iter().enumerate().skip(1).filter(|(_, way)| Some(way.at) != self.written);
            let oldest = others.min_by_key(|(_, way)| (way.answered, way.alive)).map(|(index, _)| index);
            self.ways.remove(oldest.unwrap_or(1));
        }
        self.ways.push(Way::new(now, at));
    }

    /// Something of the neighbour came from there. Another port of one address is the same way, as NAT has changed its mind. Else
    /// it is one more to be asked; it is taken at once where nothing is known to work.
    pub fn handle_heard(&mut self, now: Instant, from: SocketAddr) {
        if self.ways.iter().all(|way| way.at != from) {
            let same = |way: &&mut Way| Some(way.at) != self.written && without_port(way.at) == without_port(from);
            match self.ways.iter_mut().find(same) {
                Some(way) => way.at = from,
                None => self.handle_found(now, from),
            }
        }
        let current = &self.ways[0];
        if self.is_lost || current.answered.is_none() || current.is_dead() {
            self.is_lost = false;
            self.take(now, from);
        }
    }

    /// The link is to go by this one from now on: the owner, or a beacon while nothing works, says so.
    pub fn take(&mut self, now: Instant, at: SocketAddr) {
        self.handle_found(now, at);
        if let Some(index) = self.ways.iter().position(|way| way.at == at).filter(|index| *index > 0) {
            self.ways.swap(0, index);
            let just_moved = self.moved.is_some_and(|moved| now.saturating_duration_since(moved) < self.stays * 2);
            self.stays = if just_moved { STAYS_MAX.min(self.stays * 2) } else { STAYS };
            (self.moved, self.better) = (Some(now), None);
        }
    }

    fn flee(&mut self, now: Instant, to: SocketAddr) {
        self.take(now, to);
        self.fled = Some(now);
        // It is told at once.
        self.ways[0].asked_at = None;
    }

    /// There is no session any more.
    pub fn handle_lost(&mut self) {
        self.is_lost = true;
    }

    /// Nothing but answers came for some seconds: another way is taken, and this one left alone for a while.
    pub fn handle_starved(&mut self, now: Instant) {
        let Some(best) = self.best(now) else { return };
        let way = &mut self.ways[0];
        way.barred = Some(now + way.bar);
        way.bar = STAYS_MAX.min(way.bar * 2);
        self.flee(now, best);
    }

    /// The system has a way there, or none.
    pub fn handle_reach(&mut self, now: Instant, at: SocketAddr, reachable: bool) {
        if let Some(way) = self.ways.iter_mut().find(|way| way.at == at) {
            way.unreachable = !reachable;
        }
        self.choose(now);
    }

    /// Forgets those that may not be used; false if there is none left.
    pub fn retain(&mut self, may: impl Fn(SocketAddr) -> bool) -> bool {
        if self.ways.iter().any(|way| may(way.at)) {
            self.ways.retain(|way| may(way.at));
            return true;
        }
        false
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
                let Some(left) = self.answers.checked_sub(1) else { return Ok(()) };
                self.answers = left;
                // One end may have ears where the other's beacons are not heard. Nobody is told anything elsewhere than there.
                if is_on_a_wire(from) {
                    self.handle_found(now, from);
                } else if self.ways.iter().all(|way| way.at != from) {
                    return Ok(());
                }
                let rests = self.moved.is_some_and(|moved| now.saturating_duration_since(moved) < NEED);
                let leads = |way: &Way| way.at == from && way.answered.is_some() && !way.unreachable;
                if kind == QUESTION_IN_NEED && !rests && self.ways.iter().any(leads) {
                    self.take(now, from);
                }
                self.outbox.push_back((from, message(ANSWER, number)));
            }
            ANSWER => {
                let way = self.ways.iter_mut().find(|way| way.at == from);
                if way.is_some_and(|way| way.handle_answer(now, number)) {
                    self.choose(now);
                }
            }
            _ => return Err(NoWayMessage),
        }
        Ok(())
    }

    /// Forgets what was not heard of for long.
    pub fn forget(&mut self, now: Instant) {
        let (in_use, written) = (self.in_use(), self.written);
        let stays = |way: &Way| way.at == in_use || Some(way.at) == written;
        self.ways.retain(|way| stays(way) || now.saturating_duration_since(way.alive) < FORGOTTEN);
    }

    /// Asks what is due, and chooses: while there is a session. Harmless to call early.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.answers = ANSWERS_MAX;
        self.forget(now);
        self.ways.iter_mut().for_each(|way| way.wait(now));
        self.choose(now);
        if self.is_one() {
            return;
        }
        let in_need = self.fled.is_some_and(|fled| now.saturating_duration_since(fled) < NEED);
        // Where no way ever answers, nobody is there to be asked in a hurry.
        let answers = self.ways.iter().any(|way| way.answered.is_some());
        let in_doubt = in_need || answers && self.ways[0].missed() > 0;
        for (index, way) in self.ways.iter_mut().enumerate() {
            let each = match index {
                _ if in_doubt || way.known < KNOWN => QUICK_EACH,
                0 if answers => IN_USE_EACH,
                _ => OTHERS_EACH,
            };
            if way.asked_at.is_none_or(|at| now.saturating_duration_since(at) >= each) {
                self.number = self.number.wrapping_add(1);
                way.asked_at = Some(now);
                way.asked.push_back(Asked { number: self.number, at: now, lost: None });
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
            round_trip: way.round_trips.iter().min().copied().filter(|_| !way.is_dead() && !way.unreachable),
            lost_per_mille: u16::try_from(1000 * way.lost_of_known() / way.known.max(1)).unwrap_or(1000),
        })
    }

    /// The best of those that are not in use, if one works.
    fn best(&self, now: Instant) -> Option<SocketAddr> {
        let others = self.ways.iter().skip(1).filter(|way| way.works(now));
        others.min_by_key(|way| (way.cost(CHANCE).is_none(), way.cost(CHANCE))).map(|way| way.at)
    }

    fn choose(&mut self, now: Instant) {
        let Some(at) = self.best(now) else {
            self.better = None;
            return;
        };
        let current = &self.ways[0];
        if current.unreachable || current.is_dead() {
            return self.flee(now, at);
        }
        let other = self.ways.iter().find(|way| way.at == at).and_then(|way| way.cost(CHANCE));
        let is_better = match (current.cost(0), other) {
            (Some(cost), Some(other)) => other * BETTER.1 < cost * BETTER.0,
            _ => false,
        };
        let since = self.better.filter(|(better, _)| *better == at).map_or(now, |(_, since)| since);
        self.better = is_better.then_some((at, since));
        let rests = self.moved.is_some_and(|moved| now.saturating_duration_since(moved) < self.stays);
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

fn without_port(mut at: SocketAddr) -> SocketAddr {
    at.set_port(0);
    at
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's clock starts now")]
mod tests {
    use super::*;

    /// As often as the worker comes by, and what passes the wires meanwhile.
    const TICK: Duration = Duration::from_millis(250);
    const STEP: Duration = Duration::from_millis(1);

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
        ticked: Instant,
        /// What the way in use takes longer, of each: much is sent.
        queue: Option<[Duration; 2]>,
    }

    impl World {
        fn new(wires: &[(u64, u8)]) -> Self {
            let now = Instant::now();
            let wires: Vec<_> =
                (1..).zip(wires).map(|(number, (ms, lost))| (at(number), Duration::from_millis(*ms), *lost)).collect();
            let mut ways = Ways::new(now, wires[0].0, None);
            wires.iter().for_each(|(at, _, _)| ways.handle_found(now, *at));
            Self {
                ways,
                now,
                ticked: now,
                wires,
                back: Vec::new(),
                rng: fastrand::Rng::with_seed(7),
                asked: 0,
                queue: None,
            }
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
            self.now += STEP;
            let now = self.now;
            let (due, later) = std::mem::take(&mut self.back).into_iter().partition(|(at, _)| *at <= now);
            self.back = later;
            for (_, (from, message)) in due as Vec<(Instant, Message)> {
                self.ways.handle_message(now, from, &message).unwrap();
            }
            if now < self.ticked + TICK {
                return;
            }
            self.ticked = now;
            for (wire, _, _) in &self.wires {
                self.ways.handle_found(now, *wire);
            }
            self.ways.handle_timeout(now);
            while let Some((to, bytes)) = self.ways.poll_transmit() {
                self.asked += 1;
                let Some(index) = self.wires.iter().position(|(at, _, _)| *at == to) else { continue };
                let (_, takes, lost) = self.wires[index];
                let queue =
                    self.queue.filter(|_| to == self.ways.in_use()).map_or(Duration::ZERO, |queue| queue[index]);
                if self.rng.u8(0..100) >= lost {
                    let [_, a, b, c, d] = bytes;
                    self.back.push((now + takes + queue, (to, [ANSWER, a, b, c, d])));
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
        for wires in [[(250, 0), (200, 0)], [(100, 0), (100, 3)], [(1, 0), (1, 0)], [(3, 0), (1, 0)], [(2, 2), (2, 1)]]
        {
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
    fn a_way_that_dies_is_left_within_two_seconds_whichever_way_it_dies() {
        let (mut longest, mut all) = (Duration::ZERO, Duration::ZERO);
        for seed in 0..200 {
            let mut world = World::new(&[(5, 0), (80, 0)]);
            world.run(SECOND * 10 + STEP * 7 * seed);
            world.wires[0].2 = 100;
            let took = world.until(2, SECOND * 60);
            (longest, all) = (longest.max(took), all + took);
        }
        assert!(longest < SECOND * 2 && all / 200 < SECOND * 3 / 2, "{longest:?}, {:?} in the mean", all / 200);
        let mut world = World::new(&[(50, 0), (50, 0)]);
        world.run(SECOND * 10);
        world.ways.handle_reach(world.now, at(1), false);
        assert_eq!(world.ways.in_use(), at(2), "at once where the system says so");
    }

    #[test]
    fn slow_ways_are_measured_too_and_late_answers_are_no_losses() {
        let mut world = World::new(&[(700, 0), (900, 0)]);
        world.run(SECOND * 60);
        assert_eq!(world.ways.in_use(), at(1));
        let views: Vec<WayView> = world.ways.views().collect();
        assert!(views.iter().all(|view| view.lost_per_mille == 0 && view.round_trip.is_some()), "{views:?}");
        world.wires[0].2 = 100;
        assert!(world.until(2, SECOND * 60) < SECOND * 8);
        // One that was slow once is not waited for longer from then on.
        let mut world = World::new(&[(5, 0), (5, 0)]);
        world.run(SECOND * 10);
        world.wires[0].1 = Duration::from_millis(1500);
        world.run(SECOND);
        world.wires[0].1 = Duration::from_millis(5);
        world.run(SECOND * 40);
        let by = world.ways.in_use();
        world.wires.iter_mut().filter(|(at, ..)| *at == by).for_each(|wire| wire.2 = 100);
        let other = if by == at(1) { 2 } else { 1 };
        assert!(world.until(other, SECOND * 60) < SECOND * 2);
    }

    #[test]
    fn what_fills_the_way_in_use_does_not_drive_the_link_about() {
        let ms = Duration::from_millis;
        for (queue, most) in [([40, 150], 12), ([15, 150], 12), ([700, 700], 12), ([2000, 2000], 12)] {
            let mut world = World::new(&[(2, 0), (10, 0)]);
            world.queue = Some(queue.map(ms));
            assert!(moves(&mut world, SECOND * 3600) <= most, "{queue:?}");
        }
        // Radios that lose much, both alike.
        for (lost, most) in [(10, 12), (20, 40), (36, 60)] {
            let mut world = World::new(&[(2, lost), (2, lost)]);
            let moves = moves(&mut world, SECOND * 3600);
            assert!(moves <= most, "{moves} moves in an hour where {lost} % are lost");
        }
    }

    fn moves(world: &mut World, time: Duration) -> usize {
        let (end, mut moves, mut before) = (world.now + time, 0, world.ways.in_use());
        while world.now < end {
            world.step();
            if std::mem::replace(&mut before, world.ways.in_use()) != world.ways.in_use() {
                moves += 1;
            }
        }
        moves
    }

    #[test]
    fn a_way_that_answers_and_carries_nothing_is_left_alone_for_longer_each_time() {
        let mut world = World::new(&[(1, 0), (100, 0)]);
        let mut stayed = Vec::new();
        for _ in 0..4 {
            world.run(SECOND * 10);
            assert_eq!(world.ways.in_use(), at(1));
            world.ways.handle_starved(world.now);
            assert_eq!(world.ways.in_use(), at(2), "at once");
            stayed.push(world.until(1, SECOND * 7200));
        }
        assert!(stayed.windows(2).all(|two| two[1] >= two[0] * 3 / 2), "{stayed:?}");
        // Where there is no other, nothing is to be gained.
        let mut world = World::new(&[(1, 0), (100, 100)]);
        world.run(SECOND * 10);
        world.ways.handle_starved(world.now);
        assert_eq!(world.ways.in_use(), at(1));
    }

    #[test]
    fn whoever_never_answers_is_sent_to_where_it_sends_from() {
        let mut world = World::new(&[(1, 100), (1, 100)]);
        world.run(SECOND * 100);
        for number in [2, 1, 2, 1] {
            world.ways.handle_heard(world.now, at(number));
            assert_eq!(world.ways.in_use(), at(number));
        }
        let before = world.asked;
        world.run(SECOND * 100);
        assert!(world.asked - before <= 101, "{}", world.asked - before);
    }

    #[test]
    fn what_the_owner_wrote_is_never_forgotten_and_the_first_to_answer_after_a_lost_session_is_taken() {
        let written: SocketAddr = "203.0.113.1:51820".parse().unwrap();
        let mut world = World::new(&[(1, 0), (1, 0)]);
        world.ways.handle_written(world.now, Some(written));
        for number in 3..100 {
            world.ways.handle_found(world.now, at(number));
        }
        world.run(SECOND * 1000);
        assert_eq!(world.ways.all().filter(|at| *at == written).count(), 1);
        world.ways.handle_heard(world.now, written);
        assert_eq!(world.ways.in_use(), at(1));
        world.ways.handle_lost();
        world.ways.handle_heard(world.now, written);
        assert_eq!(world.ways.in_use(), written);
        // Its NAT gives it another port; the one that was written stays.
        let (far, farther) = ("[2001:db8::7]:7".parse().unwrap(), "[2001:db8::7]:8".parse().unwrap());
        world.ways.handle_heard(world.now, far);
        let ways = world.ways.all().count();
        world.ways.handle_heard(world.now, farther);
        assert_eq!(world.ways.all().count(), ways);
        assert!(world.ways.all().any(|at| at == farther) && world.ways.all().all(|at| at != far));
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
            assert!(took >= SECOND * 25 && took < SECOND * 600, "{took:?}");
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
    fn what_comes_from_elsewhere_is_followed_where_nothing_else_works() {
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
        assert_eq!(world.ways.views().count(), 2);
        assert_eq!(std::iter::from_fn(|| world.ways.poll_transmit()).count(), 0, "nobody is told anything elsewhere");
        world.ways.handle_timeout(world.now);
        while world.ways.poll_transmit().is_some() {}
        for number in 0..1000 {
            world.ways.handle_message(world.now, at(2), &message(QUESTION, number)).unwrap();
        }
        assert_eq!(std::iter::from_fn(|| world.ways.poll_transmit()).count(), ANSWERS_MAX);
    }
}
