//! Packets that wait for a link which is slower than what comes for it.
//!
//! While a link's socket takes everything, nothing waits. Once it is full, packets for it wait here: control packets
//! first, and behind them a queue for each side they came from, which take turns by bytes (deficit round robin, Shreedhar
//! and Varghese 1995), so that who floods the link makes nobody else wait. Within a queue flows take turns in the same way,
//! so that a download does not make its owner's call wait. What comes from this node's own side gets half of a full link:
//! its owner bought it, and neighbours pay for the rest. All share one room, given at the start; when it is full the
//! longest line loses its oldest packet, and a packet that has waited for [`AGE_MAX`] is not sent any more, since its sender
//! should learn that it sends too much while that is news.

use std::time::{Duration, Instant};

use super::packet::flow_number;
use super::{LinkId, Port};

/// Longer waits no packet: what people on a call notice begins above.
pub const AGE_MAX: Duration = Duration::from_millis(50);
/// Room for all packets that wait.
pub const QUEUE_ROOM: usize = 1 << 20;
/// A turn: one long packet.
const QUANTUM: usize = 1500;
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
    links: Vec<Link>,
    /// How many packets wait.
    packets: usize,
}

/// A packet's place in the room, as long as the longest packet, and what it knows of itself.
#[derive(Debug, Clone)]
struct Place {
    len: usize,
    since: Option<Instant>,
    next: Option<u32>,
}

/// Places in a row, by their numbers.
#[derive(Debug, Clone, Copy, Default)]
struct Line {
    ends: Option<(u32, u32)>,
    bytes: usize,
}

/// What waits for one link.
#[derive(Debug)]
struct Link {
    link: LinkId,
    control: Line,
    /// Whose turn it was: they leave next, in this order.
    leaving: Line,
    queues: Vec<Queue>,
    /// The queue whose turn it is.
    turn: usize,
}

/// What waits for one link and came from one side.
#[derive(Debug)]
struct Queue {
    from: Port,
    flows: [Flow; FLOWS],
    /// The flow whose turn it is.
    turn: usize,
    /// Bytes it may send in its turn.
    deficit: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct Flow {
    line: Line,
    deficit: usize,
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
            packets: 0,
        };
        for place in (0..count).filter_map(|place| u32::try_from(place).ok()) {
            waiting.free.push(&mut waiting.places, place);
        }
        waiting
    }

    /// Whether anything waits for the link, so that what comes has to wait behind it.
    pub fn has(&self, link: LinkId) -> bool {
        self.packets > 0 && self.links.iter().any(|other| other.link == link && !other.is_empty())
    }

    /// Links for which something waits.
    pub fn links(&self) -> impl Iterator<Item = LinkId> {
        self.links.iter().filter(|link| !link.is_empty()).map(|link| link.link)
    }

    /// Takes a packet in, and returns how many were lost for it: of the longest queue, which may be its own.
    pub fn push(&mut self, now: Instant, link: LinkId, from: Sender, packet: &[u8]) -> u64 {
        let len_max = self.room.len() / self.places.len();
        let lost = if self.free.ends.is_none() { self.lose_of_the_longest() } else { 0 };
        let place = if packet.len() <= len_max { self.free.pop(&mut self.places) } else { None };
        let Some(place) = place else { return lost + 1 };
        let at = place as usize;
        self.places[at] = Place { len: packet.len(), since: Some(now), next: None };
        self.room[at * len_max..][..packet.len()].copy_from_slice(packet);
        self.packets += 1;
        let known = self.links.iter().position(|other| other.link == link);
        let known = known.unwrap_or_else(|| {
            self.links.push(Link {
                link,
                control: Line::default(),
                leaving: Line::default(),
                queues: Vec::new(),
                turn: 0,
            });
            self.links.len() - 1
        });
        self.links[known].line(from, packet).push(&mut self.places, place);
        lost
    }

    fn lose_of_the_longest(&mut self) -> u64 {
        let flows = self.links.iter_mut().flat_map(|link| &mut link.queues).flat_map(|queue| &mut queue.flows);
        let Some(longest) = flows.max_by_key(|flow| flow.line.bytes) else { return 0 };
        let Some(place) = longest.line.pop(&mut self.places) else { return 0 };
        self.give_back(place);
        1
    }

    /// Lets queues take their turns until about `bytes` are to leave. Returns how many packets were too old by then.
    pub fn take_turns(&mut self, now: Instant, link: LinkId, bytes: usize) -> u64 {
        let mut lost = 0;
        while let Some(known) = self.links.iter().position(|other| other.link == link) {
            let Link { leaving, queues, turn, .. } = &mut self.links[known];
            if leaving.bytes >= bytes || queues.is_empty() {
                break;
            }
            *turn = if *turn < queues.len() { *turn } else { 0 };
            let others = (queues.len() - 1).max(1);
            let queue = &mut queues[*turn];
            let Some((flow, first)) = queue.next(&self.places) else {
                queues.swap_remove(*turn);
                continue;
            };
            let Place { len, since, .. } = self.places[first as usize];
            if since.is_some_and(|since| now.saturating_duration_since(since) > AGE_MAX) {
                queue.flows[flow].line.pop(&mut self.places);
                self.give_back(first);
                lost += 1;
            } else if let Some(left) = queue.deficit.checked_sub(len) {
                let flow = &mut queue.flows[flow];
                flow.deficit -= len;
                flow.line.pop(&mut self.places);
                queue.deficit = left;
                leaving.push(&mut self.places, first);
            } else {
                queue.deficit += if queue.from == Port::Local { QUANTUM * others } else { QUANTUM };
                *turn += 1;
            }
        }
        lost
    }

    /// Those whose turn it was, in order.
    pub fn leaving(&self, link: LinkId) -> impl Iterator<Item = &[u8]> + Clone {
        self.packets_of(self.link(link).and_then(|link| link.leaving.first()))
    }

    /// Control packets, which need not wait for their turn.
    pub fn control(&self, link: LinkId) -> impl Iterator<Item = &[u8]> + Clone {
        self.packets_of(self.link(link).and_then(|link| link.control.first()))
    }

    fn link(&self, link: LinkId) -> Option<&Link> {
        self.links.iter().find(|other| other.link == link)
    }

    fn packets_of(&self, first: Option<u32>) -> impl Iterator<Item = &[u8]> + Clone {
        let len_max = self.room.len() / self.places.len();
        let places = std::iter::successors(first, |place| self.places[*place as usize].next);
        places.map(move |place| &self.room[place as usize * len_max..][..self.places[place as usize].len])
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
        let Some(known) = self.links.iter().position(|other| other.link == link) else { return };
        for _ in 0..count {
            let Some(place) = line(&mut self.links[known]).pop(&mut self.places) else { return };
            self.give_back(place);
        }
    }

    /// Nobody is at the link's other end any more. How many packets are lost.
    pub fn forget(&mut self, link: LinkId) -> u64 {
        let Some(known) = self.links.iter().position(|other| other.link == link) else { return 0 };
        let mut gone = self.links.swap_remove(known);
        let mut lost = 0;
        let flows = gone.queues.iter_mut().flat_map(|queue| &mut queue.flows).map(|flow| &mut flow.line);
        for line in [&mut gone.control, &mut gone.leaving].into_iter().chain(flows) {
            while let Some(place) = line.pop(&mut self.places) {
                self.give_back(place);
                lost += 1;
            }
        }
        lost
    }

    fn give_back(&mut self, place: u32) {
        self.packets -= 1;
        self.free.push(&mut self.places, place);
    }
}

impl Link {
    fn is_empty(&self) -> bool {
        let lines = [&self.control, &self.leaving];
        lines.into_iter().all(|line| line.ends.is_none()) && self.queues.iter().all(Queue::is_empty)
    }

    fn line(&mut self, from: Sender, packet: &[u8]) -> &mut Line {
        let Sender::Port(from) = from else { return &mut self.control };
        let known = self.queues.iter().position(|queue| queue.from == from);
        let known = known.unwrap_or_else(|| {
            self.queues.push(Queue { from, flows: [Flow::default(); FLOWS], turn: 0, deficit: QUANTUM });
            self.queues.len() - 1
        });
        &mut self.queues[known].flows[usize::from(flow_number(packet)) % FLOWS].line
    }
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.flows.iter().all(|flow| flow.line.ends.is_none())
    }

    /// The flow whose turn it is, and its first packet.
    fn next(&mut self, places: &[Place]) -> Option<(usize, u32)> {
        if self.is_empty() {
            return None;
        }
        loop {
            let flow = &mut self.flows[self.turn];
            match flow.line.first() {
                Some(first) if places[first as usize].len <= flow.deficit => {
                    return Some((self.turn, first));
                }
                Some(_) => flow.deficit += QUANTUM,
                None => flow.deficit = QUANTUM,
            }
            self.turn = (self.turn + 1) % FLOWS;
        }
    }
}

impl Line {
    fn first(&self) -> Option<u32> {
        self.ends.map(|(first, _)| first)
    }

    fn push(&mut self, places: &mut [Place], place: u32) {
        self.bytes += places[place as usize].len;
        places[place as usize].next = None;
        self.ends = Some(match self.ends {
            Some((first, last)) => {
                places[last as usize].next = Some(place);
                (first, place)
            }
            None => (place, place),
        });
    }

    fn pop(&mut self, places: &mut [Place]) -> Option<u32> {
        let (first, last) = self.ends?;
        let place = &mut places[first as usize];
        self.bytes -= place.len;
        self.ends = place.next.take().map(|next| (next, last));
        Some(first)
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
        for _ in 0..600 {
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
        let (packets, _) = leave(&mut waiting, now, 96_000);
        let of = |sender: u8| packets.iter().filter(|packet| **packet == sender).count();
        let neighbours: Vec<_> = (1..=4).map(of).collect();
        assert!((44..=52).contains(&of(9)) && neighbours.iter().all(|count| (10..=14).contains(count)), "{packets:?}");
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
    fn a_full_room_costs_the_longest_queue_its_oldest_packets() {
        let (mut waiting, now) = (Waiting::new(1500, QUEUE_ROOM), Instant::now());
        let places = (QUEUE_ROOM / 1500) as u64;
        let lost: u64 = (0..1000).map(|_| waiting.push(now, LINK, neighbour(1), &[1; 1000])).sum();
        assert_eq!(lost, 1000 - places);
        assert_eq!(waiting.push(now, LINK, neighbour(2), &[2; 100]), 1);
        assert_eq!(leave(&mut waiting, now, 3000).0, [1, 2, 1, 1], "the short one found a place and takes its turn");
        assert_eq!(waiting.push(now, LINK, neighbour(2), &[2; 1501]), 1, "longer than any place");
    }

    #[test]
    fn what_is_old_is_not_sent() {
        let (mut waiting, now) = (Waiting::new(1500, QUEUE_ROOM), Instant::now());
        waiting.push(now, LINK, neighbour(1), &[1; 100]);
        waiting.push(now + AGE_MAX, LINK, neighbour(1), &[2; 100]);
        assert_eq!(leave(&mut waiting, now + AGE_MAX + Duration::from_millis(1), 1000), (vec![2], 1));
        assert!(!waiting.has(LINK));
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
            prop_assert_eq!((free, waiting.packets), (waiting.places.len(), 0));
        }
    }
}
