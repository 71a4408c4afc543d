//! Packets that wait for a link which is slower than what comes for it.
//!
//! While a link's socket takes everything, nothing waits. Once it is full, packets for it wait here: control packets
//! first, and behind them a queue for each side they came from, which take turns by bytes on the wire (deficit round robin,
//! Shreedhar and Varghese 1995), so that who floods the link makes nobody else wait. Within a queue flows take turns in the
//! same way, so that a download does not make its owner's call wait. What comes from this node's own side gets half of a
//! full link: its owner bought it, and neighbours pay for the rest. All that enters by one worker shares one room, given at
//! the start, and takes turns; workers do not know of each other's packets.
//!
//! The room is a number of places, whatever the length of what is in them. When it is full, the sender who has most places
//! at all links together loses the oldest packet of its longest flow, so that neither many flows nor short packets push others out. A packet that
//! has waited for [`AGE_MAX`] is not sent any more, since its sender should learn that it sends too much while that is news;
//! but who has only a few packets waiting does not send too much, the link is slow.

use std::time::{Duration, Instant};

use metering::units::billed_length;

use super::meter::MAX_LINKS;
use super::packet::flow_number;
use super::{LinkId, Port};

/// Longer waits no packet of a sender who has more than a [`FEW`] waiting: what people on a call notice begins above.
pub const AGE_MAX: Duration = Duration::from_millis(50);
/// Longer waits no control packet, for by then the next of its kind has been made, and nothing else.
const SLOW_AGE_MAX: Duration = Duration::from_secs(1);
/// A call sends as many in 0.6 s: below 1 Mbit/s a link's socket takes as long to have room again.
const FEW: u32 = 32;
/// Control packets of one link: more than the routes of 1,000 nodes need.
const CONTROL_MAX: u32 = 64;
/// Packets whose turn it was, at most: as many as one call hands over.
const LEAVING_MAX: u32 = 64;
/// Room for all packets that wait.
pub const QUEUE_ROOM: usize = 768 << 10;
/// What is needed beside it at most: a queue and a place for each packet of the shortest MTU there is.
pub const QUEUES_MAX: usize = QUEUE_ROOM / 1280 * (size_of::<Queue>() + size_of::<Place>());
/// What surrounds a sealed packet, bytes: IPv6 (RFC 8200) and UDP (RFC 768). What a radio adds nobody tells us.
const OUTER_HEADERS: u32 = 48;
/// A turn: one long packet.
const QUANTUM: u32 = 1600;
const _: () = assert!(billed_length(1500).get() as u32 + OUTER_HEADERS <= QUANTUM);
/// Who can have packets here: all links, and the own side.
const SENDERS: usize = MAX_LINKS + 1;
/// Flows of one queue are told apart by so many lines: those that share one by chance wait for each other.
const FLOWS: usize = 32;

/// Who sends packets over a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// This node's control side: without its packets the link is taken for dead.
    Control,
    /// Whoever is behind this port.
    Port(Port),
}

/// All packets that wait, for all links.
#[derive(Debug)]
pub struct Waiting {
    room: Box<[u8]>,
    places: Box<[Place]>,
    /// Places that hold no packet.
    free: Line,
    /// Those for which something waits.
    links: Vec<Link>,
}

/// A packet's place in the room, as long as the longest packet, and what it knows of itself.
#[derive(Debug, Clone)]
struct Place {
    len: u32,
    since: Option<Instant>,
    next: Option<u32>,
}

/// Places in a row, by their numbers.
#[derive(Debug, Clone, Copy, Default)]
struct Line {
    ends: Option<(u32, u32)>,
    packets: u32,
    bytes: u32,
}

/// What waits for one link.
#[derive(Debug)]
struct Link {
    link: LinkId,
    control: Line,
    /// Whose turn it was: they leave next, in this order.
    leaving: Line,
    /// None is empty.
    queues: Vec<Queue>,
    /// The queue whose turn it is.
    turn: usize,
}

/// What waits for one link and came from one side.
#[derive(Debug)]
struct Queue {
    from: Port,
    flows: [Flow; FLOWS],
    packets: u32,
    /// The flow whose turn it is.
    turn: usize,
    /// Bytes it may put on the wire in its turn.
    deficit: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Flow {
    line: Line,
    deficit: u32,
}

impl Waiting {
    /// Of `room` bytes, for packets of up to `packet_len_max` bytes.
    pub fn new(packet_len_max: usize, room: usize) -> Self {
        let count = (room / packet_len_max.max(1)).max(1);
        let mut waiting = Self {
            room: vec![0; count * packet_len_max].into_boxed_slice(),
            places: vec![Place { len: 0, since: None, next: None }; count].into_boxed_slice(),
            free: Line::default(),
            links: Vec::new(),
        };
        for place in (0..count).filter_map(|place| u32::try_from(place).ok()) {
            waiting.free.push(&mut waiting.places, place);
        }
        waiting
    }

    /// Whether anything waits for the link, so that what comes has to wait behind it.
    pub fn has(&self, link: LinkId) -> bool {
        self.links.iter().any(|other| other.link == link)
    }

    /// Links for which something waits.
    pub fn links(&self) -> impl Iterator<Item = LinkId> {
        self.links.iter().map(|link| link.link)
    }

    /// Takes a packet in, and returns how many were lost for it, which may be itself.
    pub fn push(&mut self, now: Instant, link: LinkId, from: Sender, packet: &[u8]) -> u64 {
        let len_max = self.room.len() / self.places.len();
        let Some(len) = u32::try_from(packet.len()).ok().filter(|_| packet.len() <= len_max) else { return 1 };
        let mut lost = 0;
        if from == Sender::Control && self.link(link).is_some_and(|known| known.control.packets >= CONTROL_MAX) {
            self.control_left(link, 1);
            lost += 1;
        }
        if self.free.ends.is_none() {
            self.lose_of_the_fullest();
            lost += 1;
        }
        let Some(place) = self.free.pop(&mut self.places) else { return lost + 1 };
        let at = place as usize;
        self.places[at] = Place { len, since: Some(now), next: None };
        self.room[at * len_max..][..packet.len()].copy_from_slice(packet);
        let known = self.position(link).unwrap_or_else(|| {
            self.links.push(Link::new(link));
            self.links.len() - 1
        });
        self.links[known].push(&mut self.places, from, packet, place);
        lost
    }

    /// Of all senders at all links, control and those whose turn it was among them.
    fn lose_of_the_fullest(&mut self) {
        let mut held = [0; SENDERS];
        for queue in self.links.iter().flat_map(|link| &link.queues) {
            if let Some(held) = held.get_mut(queue.from.index()) {
                *held += queue.packets;
            }
        }
        let Some(fullest) = self.links.iter_mut().max_by_key(|link| link.fullest(&held)) else { return };
        let link = fullest.link;
        if let Some(place) = fullest.lose(&held, &mut self.places) {
            self.give_back(place);
        }
        self.forget_if_empty(link);
    }

    /// Lets queues take their turns until about `bytes` are to leave. Returns how many packets were too old by then.
    pub fn take_turns(&mut self, now: Instant, link: LinkId, bytes: usize) -> u64 {
        let Some(known) = self.position(link) else { return 0 };
        let (this, places) = (&mut self.links[known], &mut self.places);
        let mut old = this.control.take_old(places, now, SLOW_AGE_MAX);
        // It had its turn: a slow link's socket has not had room since.
        let left_over = this.leaving.take_old(places, now, SLOW_AGE_MAX);
        old.join(places, left_over);
        while (this.leaving.bytes as usize) < bytes && this.leaving.packets < LEAVING_MAX && !this.queues.is_empty() {
            this.turn = if this.turn < this.queues.len() { this.turn } else { 0 };
            let others = (this.queues.len() as u32 - 1).max(1);
            let queue = &mut this.queues[this.turn];
            let Some((flow, first)) = queue.next(places) else {
                this.queues.swap_remove(this.turn);
                continue;
            };
            let charge = places[first as usize].charge();
            let age_max = if queue.packets > FEW { AGE_MAX } else { SLOW_AGE_MAX };
            if places[first as usize].is_old(now, age_max) {
                queue.pop(places, flow);
                old.push(places, first);
            } else if let Some(left) = queue.deficit.checked_sub(charge) {
                queue.flows[flow].deficit -= charge;
                queue.deficit = left;
                queue.pop(places, flow);
                this.leaving.push(places, first);
            } else {
                queue.deficit += if queue.from == Port::Local { QUANTUM * others } else { QUANTUM };
                this.turn += 1;
                continue;
            }
            if queue.packets == 0 {
                this.queues.swap_remove(this.turn);
            }
        }
        let count = u64::from(old.packets);
        self.free.join(&mut self.places, old);
        self.forget_if_empty(link);
        count
    }

    /// Those whose turn it was, in order.
    pub fn leaving(&self, link: LinkId) -> impl Iterator<Item = &[u8]> + Clone {
        self.packets_of(self.link(link).and_then(|link| link.leaving.first()))
    }

    /// Control packets, which need not wait for their turn.
    pub fn control(&self, link: LinkId) -> impl Iterator<Item = &[u8]> + Clone {
        self.packets_of(self.link(link).and_then(|link| link.control.first()))
    }

    fn packets_of(&self, first: Option<u32>) -> impl Iterator<Item = &[u8]> + Clone {
        let len_max = self.room.len() / self.places.len();
        let places = std::iter::successors(first, |place| self.places[*place as usize].next);
        places.map(move |place| &self.room[place as usize * len_max..][..self.places[place as usize].len as usize])
    }

    /// So many of those whose turn it was have left.
    pub fn left(&mut self, link: LinkId, count: usize) {
        self.give_back_first(link, count, |link| &mut link.leaving);
    }

    /// So many of the control packets have left.
    pub fn control_left(&mut self, link: LinkId, count: usize) {
        self.give_back_first(link, count, |link| &mut link.control);
    }

    fn give_back_first(&mut self, link: LinkId, count: usize, line: impl Fn(&mut Link) -> &mut Line) {
        let Some(known) = self.position(link) else { return };
        for _ in 0..count {
            let Some(place) = line(&mut self.links[known]).pop(&mut self.places) else { break };
            self.give_back(place);
        }
        self.forget_if_empty(link);
    }

    /// Nobody is at the link's other end any more. How many packets are lost.
    pub fn forget(&mut self, link: LinkId) -> u64 {
        let Some(known) = self.position(link) else { return 0 };
        let gone = self.links.swap_remove(known);
        let flows = gone.queues.iter().flat_map(|queue| &queue.flows).map(|flow| flow.line);
        let mut lost = 0;
        for line in [gone.control, gone.leaving].into_iter().chain(flows) {
            lost += u64::from(line.packets);
            self.free.join(&mut self.places, line);
        }
        lost
    }

    fn position(&self, link: LinkId) -> Option<usize> {
        self.links.iter().position(|other| other.link == link)
    }

    fn link(&self, link: LinkId) -> Option<&Link> {
        self.position(link).map(|known| &self.links[known])
    }

    fn give_back(&mut self, place: u32) {
        self.free.push(&mut self.places, place);
    }

    fn forget_if_empty(&mut self, link: LinkId) {
        if let Some(known) = self.position(link).filter(|known| self.links[*known].is_empty()) {
            self.links.swap_remove(known);
        }
    }
}

impl Link {
    fn new(link: LinkId) -> Self {
        Self { link, control: Line::default(), leaving: Line::default(), queues: Vec::new(), turn: 0 }
    }

    fn is_empty(&self) -> bool {
        self.queues.is_empty() && [self.control, self.leaving].iter().all(|line| line.ends.is_none())
    }

    fn push(&mut self, places: &mut [Place], from: Sender, packet: &[u8], place: u32) {
        let Sender::Port(from) = from else { return self.control.push(places, place) };
        let known = self.queues.iter().position(|queue| queue.from == from);
        let known = known.unwrap_or_else(|| {
            self.queues.reserve_exact(1);
            self.queues.push(Queue { from, flows: [Flow::default(); FLOWS], packets: 0, turn: 0, deficit: QUANTUM });
            self.queues.len() - 1
        });
        let queue = &mut self.queues[known];
        queue.packets += 1;
        queue.flows[usize::from(flow_number(packet)) % FLOWS].line.push(places, place);
    }

    /// Of those who have places here, who has most at all links together: how many those are, and how many are here.
    fn fullest(&self, held: &[u32; SENDERS]) -> (u32, u32) {
        let queues = self.queues.iter().map(|queue| queue.places(held));
        let lines = [self.control, self.leaving].map(|line| (line.packets, line.packets));
        queues.chain(lines).max().unwrap_or_default()
    }

    /// A packet of whoever has most.
    fn lose(&mut self, held: &[u32; SENDERS], places: &mut [Place]) -> Option<u32> {
        let most = self.fullest(held);
        let Some(known) = self.queues.iter().position(|queue| queue.places(held) == most) else {
            let line = if self.leaving.packets == most.0 { &mut self.leaving } else { &mut self.control };
            return line.pop(places);
        };
        let queue = &mut self.queues[known];
        let flow = (0..FLOWS).max_by_key(|flow| queue.flows[*flow].line.packets)?;
        let place = queue.pop(places, flow);
        if queue.packets == 0 {
            self.queues.swap_remove(known);
        }
        place
    }
}

impl Queue {
    /// How many its sender has at all links, and here.
    fn places(&self, held: &[u32; SENDERS]) -> (u32, u32) {
        (held.get(self.from.index()).copied().unwrap_or(0), self.packets)
    }

    fn pop(&mut self, places: &mut [Place], flow: usize) -> Option<u32> {
        let place = self.flows[flow].line.pop(places)?;
        self.packets -= 1;
        Some(place)
    }

    /// The flow whose turn it is, and its first packet.
    fn next(&mut self, places: &[Place]) -> Option<(usize, u32)> {
        if self.packets == 0 {
            return None;
        }
        loop {
            let flow = &mut self.flows[self.turn];
            match flow.line.first() {
                Some(first) if places[first as usize].charge() <= flow.deficit => return Some((self.turn, first)),
                Some(_) => flow.deficit += QUANTUM,
                None => flow.deficit = QUANTUM,
            }
            self.turn = (self.turn + 1) % FLOWS;
        }
    }
}

impl Place {
    /// Bytes on the wire. By its own length, tiny packets would get three times their share.
    fn charge(&self) -> u32 {
        let billed = billed_length(self.len as usize).get();
        u32::try_from(billed).unwrap_or(u32::MAX).saturating_add(OUTER_HEADERS)
    }

    fn is_old(&self, now: Instant, age_max: Duration) -> bool {
        self.since.is_some_and(|since| now.saturating_duration_since(since) > age_max)
    }
}

impl Line {
    fn first(&self) -> Option<u32> {
        self.ends.map(|(first, _)| first)
    }

    fn push(&mut self, places: &mut [Place], place: u32) {
        let Place { len, next, .. } = &mut places[place as usize];
        *next = None;
        let one = Self { ends: Some((place, place)), packets: 1, bytes: *len };
        self.join(places, one);
    }

    fn pop(&mut self, places: &mut [Place]) -> Option<u32> {
        let (first, last) = self.ends?;
        let place = &mut places[first as usize];
        self.bytes -= place.len;
        self.packets -= 1;
        self.ends = place.next.take().map(|next| (next, last));
        Some(first)
    }

    /// The other behind this one.
    fn join(&mut self, places: &mut [Place], other: Self) {
        let Some((others_first, others_last)) = other.ends else { return };
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.ends = Some(match self.ends {
            Some((first, last)) => {
                places[last as usize].next = Some(others_first);
                (first, others_last)
            }
            None => (others_first, others_last),
        });
    }

    /// Those that have waited for too long; the others stay in order.
    fn take_old(&mut self, places: &mut [Place], now: Instant, age_max: Duration) -> Self {
        let (mut old, mut young) = (Self::default(), Self::default());
        while let Some(place) = self.pop(places) {
            let line = if places[place as usize].is_old(now, age_max) { &mut old } else { &mut young };
            line.push(places, place);
        }
        *self = young;
        old
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's clock starts now")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LINK: LinkId = LinkId(7);

    fn neighbour(number: u32) -> Sender {
        Sender::Port(Port::Link(LinkId(number)))
    }

    /// Packets that leave next, at most about so many bytes: their first bytes.
    fn leave(waiting: &mut Waiting, now: Instant, bytes: usize) -> (Vec<u8>, u64) {
        let lost = waiting.take_turns(now, LINK, bytes);
        let mut packets: Vec<u8> = waiting.control(LINK).map(|packet| packet[0]).collect();
        waiting.control_left(LINK, packets.len());
        let turns: Vec<u8> = waiting.leaving(LINK).map(|packet| packet[0]).collect();
        waiting.left(LINK, turns.len());
        packets.extend(turns);
        (packets, lost)
    }

    #[test]
    fn a_flow_does_not_wait_behind_another_of_its_neighbour() {
        let (mut waiting, now) = (Waiting::new(1500, QUEUE_ROOM), Instant::now());
        let packet = |port: u8, len: usize| {
            let mut packet = vec![0; len];
            (packet[6], packet[43]) = (17, port);
            packet
        };
        let (bulk, call) = (packet(1, 1400), packet(2, 200));
        assert_ne!(usize::from(flow_number(&bulk)) % FLOWS, usize::from(flow_number(&call)) % FLOWS);
        for _ in 0..100 {
            waiting.push(now, LINK, neighbour(1), &bulk);
        }
        waiting.push(now, LINK, neighbour(1), &call);
        waiting.take_turns(now, LINK, 5000);
        let lens: Vec<_> = waiting.leaving(LINK).map(<[u8]>::len).collect();
        assert!(lens[..3].contains(&200), "{lens:?}");
    }

    #[test]
    fn who_floods_a_link_gets_half_of_it_beside_another_and_waits_behind_nobody_alone() {
        let (mut waiting, now) = (Waiting::new(1500, QUEUE_ROOM), Instant::now());
        for _ in 0..400 {
            assert_eq!(waiting.push(now, LINK, neighbour(1), &[1; 1400]), 0);
        }
        for _ in 0..20 {
            assert_eq!(waiting.push(now, LINK, neighbour(2), &[2; 700]), 0);
        }
        let (packets, lost) = leave(&mut waiting, now, 28_000);
        let of = |sender: u8| packets.iter().filter(|packet| **packet == sender).count();
        assert!((9..=12).contains(&of(1)) && (18..=20).contains(&of(2)) && lost == 0, "{packets:?}");
        assert!(packets[..4].contains(&2), "the other does not wait");
        while waiting.has(LINK) {
            let (packets, lost) = leave(&mut waiting, now, 65_000);
            assert!(!packets.is_empty() && lost == 0);
        }
        assert_eq!(waiting.links().count(), 0);
    }

    #[test]
    fn the_own_side_gets_half_of_a_full_link_and_neighbours_share_the_rest() {
        let (mut waiting, now) = (Waiting::new(1500, QUEUE_ROOM), Instant::now());
        for _ in 0..60 {
            for number in 1..=4 {
                waiting.push(now, LINK, neighbour(number), &[number as u8; 1000]);
            }
            waiting.push(now, LINK, Sender::Port(Port::Local), &[9; 1000]);
        }
        let mut packets = leave(&mut waiting, now, 64_000).0;
        packets.extend(leave(&mut waiting, now, 32_000).0);
        let of = |sender: u8| packets.iter().filter(|packet| **packet == sender).count();
        let neighbours: Vec<_> = (1..=4).map(of).collect();
        assert!((44..=52).contains(&of(9)) && neighbours.iter().all(|count| (10..=14).contains(count)), "{packets:?}");
    }

    #[test]
    fn who_sends_tiny_packets_gets_no_more_of_the_wire() {
        let (mut waiting, now) = (Waiting::new(1488, QUEUE_ROOM), Instant::now());
        let (mut tiny, mut long) = (0, 0);
        for _ in 0..50 {
            for port in 0..200 {
                waiting.push(now, LINK, neighbour(1), &packet_of(port, 48));
            }
            for _ in 0..20 {
                waiting.push(now, LINK, neighbour(2), &packet_of(7, 1400));
            }
            waiting.take_turns(now, LINK, 12_000);
            let lens: Vec<usize> = waiting.leaving(LINK).map(<[u8]>::len).collect();
            waiting.left(LINK, lens.len());
            long += lens.iter().filter(|len| **len == 1400).count();
            tiny += lens.iter().filter(|len| **len == 48).count();
        }
        // WireGuard adds 32 bytes and fills up to 16; IPv6 and UDP add 48.
        let (tiny, long) = (tiny * (48 + 80), long * (1408 + 80));
        assert!(tiny.abs_diff(long) < (tiny + long) / 20, "bytes on the wire: {tiny} and {long}");
    }

    #[test]
    fn control_packets_go_first_and_own_order_is_kept() {
        let (mut waiting, now) = (Waiting::new(1500, QUEUE_ROOM), Instant::now());
        for number in 1..=3 {
            waiting.push(now, LINK, Sender::Port(Port::Local), &[number]);
        }
        waiting.push(now, LINK, Sender::Control, &[9]);
        assert_eq!(leave(&mut waiting, now, 1000).0, [9, 1, 2, 3]);
    }

    #[test]
    fn a_full_room_costs_the_fullest_queue_its_oldest_packets() {
        let (mut waiting, now) = (Waiting::new(1500, QUEUE_ROOM), Instant::now());
        let places = (QUEUE_ROOM / 1500) as u64;
        let lost: u64 = (0..1000).map(|_| waiting.push(now, LINK, neighbour(1), &[1; 1000])).sum();
        assert_eq!(lost, 1000 - places);
        assert_eq!(waiting.push(now, LINK, neighbour(2), &[2; 1501]), 1, "longer than any place");
        assert_eq!(waiting.push(now, LINK, neighbour(2), &[2; 100]), 1);
        assert_eq!(leave(&mut waiting, now, 3000).0, [1, 2, 1, 1], "the short one found a place and takes its turn");
    }

    fn packet_of(port: u16, len: usize) -> Vec<u8> {
        let mut packet = vec![0; len];
        packet[6] = 17;
        packet[40..42].copy_from_slice(&port.to_be_bytes());
        packet
    }

    #[test]
    fn neither_many_flows_nor_short_packets_push_another_sender_out() {
        for (flood, link) in [(60, LINK), (1400, LINK), (60, LinkId(8)), (1400, LinkId(8))] {
            let (mut waiting, now) = (Waiting::new(1488, QUEUE_ROOM), Instant::now());
            for port in 0..1000 {
                waiting.push(now, LINK, neighbour(1), &packet_of(port, flood));
            }
            for number in 0..40 {
                waiting.push(now, link, neighbour(2), &packet_of(7, 1300));
                for port in 0..10 {
                    waiting.push(now, LINK, neighbour(1), &packet_of(number * 10 + port, flood));
                }
            }
            let theirs =
                waiting.links.iter().flat_map(|link| &link.queues).filter(|queue| queue.from == Port::Link(LinkId(2)));
            assert_eq!(theirs.map(|queue| queue.packets).sum::<u32>(), 40, "beside a flood of {flood} bytes each");
        }
    }

    #[test]
    fn who_floods_many_links_a_little_each_pushes_nobody_out() {
        let (mut waiting, now) = (Waiting::new(1488, QUEUE_ROOM), Instant::now());
        for port in 0..60 {
            waiting.push(now, LINK, neighbour(2), &packet_of(port, 1300));
        }
        for port in 0..1000 {
            waiting.push(now, LinkId(10 + u32::from(port % 20)), neighbour(1), &packet_of(port, 60));
        }
        assert_eq!(waiting.link(LINK).map(|link| link.queues[0].packets), Some(60));
    }

    #[test]
    fn a_dead_link_holds_no_room_that_another_needs() {
        let (mut waiting, now) = (Waiting::new(1488, QUEUE_ROOM), Instant::now());
        let other = LinkId(9);
        for port in 0..1000 {
            waiting.push(now, LINK, Sender::Control, &packet_of(port, 60));
            waiting.push(now, LINK, neighbour(1), &packet_of(port, 60));
        }
        waiting.take_turns(now, LINK, 65_536);
        assert_eq!(waiting.link(LINK).map(|link| (link.control.packets, link.leaving.packets)), Some((64, 64)));
        for from in [Sender::Control, neighbour(2)] {
            let before = waiting.packets_of(waiting.free.first()).count();
            assert_eq!(waiting.push(now, other, from, &packet_of(1, 900)), u64::from(before == 0));
        }
        assert_eq!((waiting.control(other).count(), waiting.link(other).map(|link| link.queues.len())), (1, Some(1)));
        let mut small = Waiting::new(65_100, QUEUE_ROOM / 4);
        for _ in 0..10 {
            small.push(now, LINK, Sender::Control, &packet_of(1, 60));
        }
        assert_eq!(small.push(now, other, Sender::Control, &packet_of(1, 60)), 1);
        assert_eq!(small.control(other).count(), 1);
    }

    #[test]
    fn what_is_to_leave_grows_old_too_and_so_do_control_packets() {
        let (mut waiting, now) = (Waiting::new(1488, QUEUE_ROOM), Instant::now());
        for port in 0..40 {
            waiting.push(now, LINK, neighbour(1), &packet_of(port, 1400));
            waiting.push(now, LINK, Sender::Control, &packet_of(port, 100));
        }
        waiting.take_turns(now, LINK, 65_536);
        assert_eq!(waiting.take_turns(now + SLOW_AGE_MAX, LINK, 65_536), 0);
        assert_eq!((waiting.leaving(LINK).count(), waiting.control(LINK).count()), (40, 40));
        assert_eq!(waiting.take_turns(now + SLOW_AGE_MAX + Duration::from_millis(1), LINK, 65_536), 80);
        assert!(!waiting.has(LINK));
    }

    #[test]
    fn what_is_old_is_not_sent_unless_few_wait() {
        let (mut waiting, now) = (Waiting::new(1500, QUEUE_ROOM), Instant::now());
        for _ in 0..FEW + 3 {
            waiting.push(now, LINK, neighbour(1), &packet_of(7, 100));
        }
        let left_and_lost = |waiting: &mut Waiting, now| {
            let (left, lost) = leave(waiting, now, 200);
            (left.len(), lost)
        };
        let later = now + AGE_MAX + Duration::from_millis(1);
        assert_eq!(left_and_lost(&mut waiting, later), (2, 3), "all but a few");
        let late = now + SLOW_AGE_MAX + Duration::from_millis(1);
        assert_eq!(left_and_lost(&mut waiting, late), (0, u64::from(FEW) - 2));
        assert!(!waiting.has(LINK));
    }

    /// What a slow link's socket holds, in the kernel's count: a datagram and what it keeps beside it.
    struct Socket {
        bits_per_second: u32,
        /// Bytes on the wire and in the kernel's count, first come first.
        datagrams: std::collections::VecDeque<(u64, u64)>,
        used: u64,
        free_at: Duration,
    }

    impl Socket {
        /// The narrowest there is, and the kernel grants twice.
        const ROOM: u64 = 24_000;

        fn drain(&mut self, at: Duration) {
            while let Some((bytes, used)) = self.datagrams.front() {
                let gone_at = self.free_at + Duration::from_secs(bytes * 8) / self.bits_per_second;
                if gone_at > at {
                    return;
                }
                (self.free_at, self.used) = (gone_at, self.used - used);
                self.datagrams.pop_front();
            }
            self.free_at = at;
        }

        fn takes(&mut self, len: usize) -> bool {
            let fits = self.used < Self::ROOM;
            if fits {
                let used = if len > 500 { 2304 } else { 768 };
                self.datagrams.push_back((len as u64 + 80, used));
                self.used += used;
            }
            fits
        }
    }

    #[test]
    fn a_call_that_fits_its_share_of_a_slow_link_loses_little_beside_a_flood() {
        for kilobits in [2000, 1000, 500, 256] {
            let (mut waiting, start) = (Waiting::new(1488, QUEUE_ROOM), Instant::now());
            let (bits_per_second, datagrams) = (kilobits * 1000, std::collections::VecDeque::new());
            let mut socket = Socket { bits_per_second, datagrams, used: 0, free_at: Duration::ZERO };
            let (mut sent, mut arrived, mut full) = (0, 0, false);
            for ms in 0..60_000 {
                let at = Duration::from_millis(ms);
                let now = start + at;
                socket.drain(at);
                // 5.6 Mbit/s of a neighbour, and the call of another: 200 bytes each 20 ms.
                let flood = (ms % 2 == 0).then(|| (neighbour(1), packet_of(1, 1400)));
                let call = (ms % 20 == 1).then(|| (neighbour(2), packet_of(9, 200)));
                sent += usize::from(call.is_some());
                for (from, packet) in flood.into_iter().chain(call) {
                    waiting.push(now, LINK, from, &packet);
                }
                if full && socket.used >= Socket::ROOM / 2 {
                    continue;
                }
                full = false;
                while waiting.has(LINK) && !full {
                    waiting.take_turns(now, LINK, Socket::ROOM as usize / 2);
                    let lens: Vec<usize> = waiting.leaving(LINK).map(<[u8]>::len).collect();
                    let taken: Vec<usize> = lens.iter().copied().take_while(|len| socket.takes(*len)).collect();
                    arrived += taken.iter().filter(|len| **len == 200).count();
                    full = taken.len() < lens.len();
                    waiting.left(LINK, taken.len());
                }
            }
            assert!(arrived * 100 >= sent * 99, "at {kilobits} kbit/s {arrived} of {sent}");
        }
    }

    proptest! {
        #[test]
        fn every_packet_leaves_or_is_counted_once_and_in_the_order_of_its_sender(
            steps in prop::collection::vec((0_u32..4, 1_usize..1500, 0_u32..3, prop::bool::weighted(0.2)), 1..400),
        ) {
            let (mut waiting, mut now) = (Waiting::new(20_000, QUEUE_ROOM), Instant::now());
            let (mut pushed, mut seen, mut lost) = (0_u64, 0_u64, 0);
            let mut last = [[0_u64; 4]; 3];
            for (from, len, link, leaves) in steps {
                let link = LinkId(link);
                pushed += 1;
                let mut packet = vec![0; len.max(60)];
                packet[44..52].copy_from_slice(&pushed.to_be_bytes());
                packet[52] = u8::try_from(from).unwrap();
                let sender = if from == 3 { Sender::Control } else { neighbour(from) };
                lost += waiting.push(now, link, sender, &packet);
                now += Duration::from_millis(1);
                if leaves {
                    lost += waiting.take_turns(now, link, 4000);
                    let packets: Vec<Vec<u8>> = waiting.leaving(link).take(3).map(<[u8]>::to_vec).collect();
                    let control: Vec<Vec<u8>> = waiting.control(link).take(2).map(<[u8]>::to_vec).collect();
                    waiting.left(link, packets.len());
                    waiting.control_left(link, control.len());
                    for packet in packets.into_iter().chain(control) {
                        let number = u64::from_be_bytes(*packet[44..].first_chunk().unwrap());
                        let before = &mut last[link.index()][usize::from(packet[52])];
                        prop_assert!(*before < number, "overtaken");
                        (*before, seen) = (number, seen + 1);
                    }
                }
            }
            lost += (0..3).map(|link| waiting.forget(LinkId(link))).sum::<u64>();
            prop_assert_eq!(pushed, seen + lost);
            let free = std::iter::successors(waiting.free.first(), |place| waiting.places[*place as usize].next).count();
            prop_assert_eq!((free, waiting.links.len()), (waiting.places.len(), 0));
        }
    }
}
