use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

use metering::identity::WireguardKey;
use node::datapath::packet::control_packet;
use node::datapath::{FibBuilder, LinkEntry, LinkPolicy, Standing};
use x25519_dalek::{PublicKey, StaticSecret};

use super::*;

/// The system's allocator, and how often this thread has asked it for something.
struct Counting;

thread_local! {
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

#[expect(unsafe_code, reason = "an allocator cannot be counted otherwise; all work is left to the system's")]
// SAFETY: every call is passed on unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.with(|asked| asked.set(asked.get() + 1));
        // SAFETY: the caller's promise is handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is handed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MTU: usize = 1420;
const OURS: Ipv6Addr = Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 1);

/// A neighbour: its end of the link, and its prefix `fdNN::/48`.
struct Neighbour {
    wireguard: WireGuard,
    link: LinkId,
    address: Ipv6Addr,
}

/// A relay between two neighbours, and the other end of its own side.
struct Relay {
    worker: Worker,
    inbox: Inbox,
    batch: Batch,
    frame: Vec<u8>,
    neighbours: [Neighbour; 2],
    own_side: UnixDatagram,
    from_worker: tokio::sync::mpsc::Receiver<FromWorker>,
}

fn wireguard(secret: u8, workers: usize) -> (Vec<WireGuard>, WireguardKey) {
    let key = PublicKey::from(&StaticSecret::from([secret; 32])).to_bytes();
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    (WireGuard::bind([secret; 32], loopback, packet_len_max(MTU), true, workers, clock()).unwrap(), WireguardKey(key))
}

impl Relay {
    fn new() -> Self {
        let (mut ours, our_key) = wireguard(1, 1);
        let endpoint = ours[0].local_addr().ok();
        let neighbours = [2_u8, 3].map(|number| {
            let (mut theirs, key) = wireguard(number, 1);
            let mut theirs = theirs.remove(0);
            let link = LinkId(u32::from(number));
            theirs.set_peer(clock(), &PeerConfig { link: LinkId(0), key: our_key, endpoint, tells_congestion: true });
            ours[0].set_peer(clock(), &PeerConfig { link, key, endpoint: None, tells_congestion: true });
            let address = Ipv6Addr::new(0xfd00 + u16::from(number), 0, 0, 0, 0, 0, 0, 1);
            Neighbour { wireguard: theirs, link, address }
        });
        let (own_side, local) = UnixDatagram::pair().unwrap();
        own_side.set_nonblocking(true).unwrap();
        local.set_nonblocking(true).unwrap();
        let (to_control, from_worker) = tokio::sync::mpsc::channel(1);
        let parts = Parts {
            wireguard: ours,
            local: Local::packets(OwnedFd::from(local)),
            local_mtu: MTU,
            address: OURS,
            link_ports: Vec::new(),
            control: to_control,
            meets_strangers: true,
            shared: Arc::new(Shared::new()),
        };
        let mailbox = Mailbox::new().unwrap();
        let inbox = mailbox.inbox.clone();
        let mut worker = Worker::all(mailbox, parts).unwrap().remove(0);
        worker.datapath.set_fib(Arc::new(fib(&neighbours, &LinkPolicy::Mesh)));
        let batch = Batch::new(BATCH, packet_len_max(MTU));
        let mut relay = Self { worker, inbox, batch, frame: vec![0; FRAME_MAX], neighbours, own_side, from_worker };
        relay.until(|relay| relay.neighbours.iter().all(|neighbour| neighbour.is_up()));
        relay
    }

    /// Lets all work until `done`, or fails when patience ends.
    fn until(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        let deadline = clock() + Duration::from_secs(10);
        while !done(self) {
            assert!(clock() < deadline, "it did not happen in 10 s");
            self.neighbours.iter_mut().for_each(|neighbour| drop(neighbour.hear()));
            self.worker.read_udp(clock(), &mut self.batch);
            self.neighbours
                .iter_mut()
                .for_each(|neighbour| neighbour.wireguard.handle_timers(clock(), &Fib::default()));
            std::thread::yield_now();
        }
    }

    /// How often the worker asks for memory while it carries what it finds.
    fn asked(&mut self) -> u64 {
        let before = ASKED.with(Cell::get);
        while self.worker.read_udp(clock(), &mut self.batch) {}
        while self.worker.read_local(clock(), &mut self.batch, &mut self.frame) {}
        ASKED.with(Cell::get) - before
    }
}

impl Neighbour {
    fn is_up(&self) -> bool {
        self.wireguard.statuses().all(|(_, status)| status.up)
    }

    fn send(&mut self, packets: &[Vec<u8>]) {
        let carried = self.wireguard.carry(clock(), LinkId(0), packets.iter().map(Vec::as_slice));
        assert_eq!(carried.sent.packets(), packets.len() as u64);
    }

    /// The packets that have arrived.
    fn hear(&mut self) -> Vec<Vec<u8>> {
        let (mut train, mut slot, mut packets) = (vec![0; RECEIVE_MAX], vec![0; 2048], Vec::new());
        while let Ok(received) = self.wireguard.receive(&mut train) {
            for datagram in train[..received.len].chunks(received.stride) {
                if let Opened::Packet(_, len) =
                    self.wireguard.open(clock(), &Fib::default(), received.from, datagram, &mut slot)
                {
                    packets.push(slot[..len].to_vec());
                }
            }
        }
        packets
    }
}

fn fib(neighbours: &[Neighbour], policy: &LinkPolicy) -> Fib {
    let prefix = |address| node::Prefix::new(address, 48).unwrap();
    let mut links = vec![None; MAX_LINKS];
    let mut fib = FibBuilder::default().own(prefix(OURS));
    for neighbour in neighbours {
        links[neighbour.link.index()] =
            Some(LinkEntry { policy: policy.clone(), standing: Standing::Partner, mtu: MTU });
        fib = fib.route(prefix(neighbour.address), neighbour.link);
    }
    fib.build(links)
}

fn packet(from: Ipv6Addr, to: Ipv6Addr, number: usize) -> Vec<u8> {
    let payload = if number % 7 == 6 { number % 1000 } else { MTU - 48 };
    let mut packet = control_packet(from, to, 7, &vec![number as u8; payload]);
    packet[7] = 64;
    packet
}

#[test]
fn nothing_is_allocated_while_packets_are_carried() {
    let mut relay = Relay::new();
    let [left, right] = [relay.neighbours[0].address, relay.neighbours[1].address];
    for round in 0..50 {
        // Two destinations in turn, so that trains are made anew.
        let relayed: Vec<_> = (0..40).map(|number| packet(left, right, number)).collect();
        let delivered: Vec<_> = (0..20).map(|number| packet(left, OURS, number)).collect();
        let mixed: Vec<_> = relayed.chunks(2).zip(delivered.chunks(1)).flat_map(|(a, b)| [a, b].concat()).collect();
        relay.neighbours[0].send(&mixed);
        let own: Vec<_> = (0..20).map(|number| packet(OURS, right, number)).collect();
        own.iter().for_each(|packet| assert!(relay.own_side.send(packet).is_ok()));
        let (mut there, mut here, mut asked) = (Vec::new(), 0, 0);
        relay.until(|relay| {
            asked += relay.asked();
            there.extend(relay.neighbours[1].hear());
            here += std::iter::from_fn(|| relay.own_side.recv(&mut [0; 2048]).ok()).count();
            there.len() >= 60 && here >= 20
        });
        assert_eq!((there.len(), here), (60, 20), "round {round}");
        let mut from_left = there.iter().filter(|packet| packet[8..24] == left.octets());
        assert!(relayed.iter().all(|sent| from_left.next().is_some_and(|got| got[8..] == sent[8..])), "in order");
        assert!(asked == 0 || round < 5, "asked {asked} times in round {round}");
    }
}

#[test]
fn a_removed_peer_is_down_however_late_the_timer_came_before() {
    let mut relay = Relay::new();
    let link = relay.neighbours[0].link;
    assert!(relay.inbox.set(ToWorker::RemovePeer(link)));
    relay.worker.handle_timers(clock());
    assert!(relay.worker.shared.status(link).up);
    relay.worker.read_orders(clock());
    assert_eq!(relay.worker.shared.status(link), LinkStatus::default());
}

#[test]
fn a_batch_ends_before_a_packet_of_another_link_and_not_before_what_only_says_so() {
    let mut relay = Relay::new();
    let [left, right] = [relay.neighbours[0].address, relay.neighbours[1].address];
    let (mut ingress, mut batch) = (None, Batch::new(BATCH, packet_len_max(MTU)));
    let mut open = |relay: &mut Relay, received: &Received, batch: &mut Batch| {
        relay.worker.open(clock(), received, 0..received.len, &mut ingress, batch);
        (ingress, batch.packets().map(|(_, packet)| packet.to_vec()).collect::<Vec<_>>())
    };
    let arrived = |relay: &mut Relay| {
        let deadline = clock() + Duration::from_secs(10);
        loop {
            assert!(clock() < deadline, "nothing arrived in 10 s");
            if let Ok(received) = relay.worker.wireguard.receive(&mut relay.worker.train) {
                return received;
            }
        }
    };
    let (first, other) = (packet(left, right, 1), packet(right, left, 2));
    relay.neighbours[0].send(std::slice::from_ref(&first));
    let received = arrived(&mut relay);
    assert_eq!(open(&mut relay, &received, &mut batch), (Some(LinkId(2)), vec![first.clone()]));
    let forged = [&[4, 0, 0, 0, 0, 3, 0, 0][..], &[9; 60]].concat();
    relay.worker.train[..forged.len()].copy_from_slice(&forged);
    let claims = Received { len: forged.len(), stride: forged.len(), ..received };
    assert_eq!(open(&mut relay, &claims, &mut batch), (Some(LinkId(2)), vec![first]));
    relay.neighbours[1].send(std::slice::from_ref(&other));
    let received = arrived(&mut relay);
    assert_eq!(open(&mut relay, &received, &mut batch), (Some(LinkId(3)), vec![other]));
}

#[test]
fn a_full_inbox_loses_no_peer() {
    let mut relay = Relay::new();
    let control = |link| ToWorker::Send { link, turn: 0, packet: vec![0; 40] };
    let sent = (0..).take_while(|_| relay.inbox.send(control(LinkId(9)))).count();
    assert_eq!(sent, INBOX);
    let link = LinkId(4);
    let key = WireguardKey([7; 32]);
    assert!(relay.inbox.set(ToWorker::SetPeer(PeerConfig { link, key, endpoint: None, tells_congestion: true })));
    while relay.worker.read_orders(clock()) {}
    assert!(relay.worker.wireguard.statuses().any(|(known, _)| known == link));
}

#[test]
fn of_a_flood_that_is_not_paid_for_little_is_opened_and_short_datagrams_still_are() {
    let mut relay = Relay::new();
    relay.worker.datapath.set_fib(Arc::new(fib(&relay.neighbours, &LinkPolicy::Exhausted)));
    let [left, right] = [relay.neighbours[0].address, relay.neighbours[1].address];
    let dropped = |relay: &Relay, reason| relay.worker.shared.drops.packets(reason);
    let all = |relay: &Relay| dropped(relay, DropReason::Unpaid) + dropped(relay, DropReason::UnpaidFlood);
    let flood: Vec<_> = (0..6).map(|_| packet(left, right, 0)).collect();
    let mut sent = 0;
    while sent < 300 {
        relay.neighbours[0].send(&flood);
        sent += flood.len() as u64;
        relay.until(|relay| all(relay) == sent);
    }
    let opened = dropped(&relay, DropReason::Unpaid);
    let lifeline = (LIFELINE as u64).div_ceil(MTU as u64 + 32);
    assert_eq!(opened, lifeline + (sent - lifeline) / u64::from(ONE_IN), "of {sent}");

    let short = packet(left, right, 13);
    assert!(short.len() < SHORT - 32);
    relay.neighbours[0].send(&[short]);
    relay.until(|relay| all(relay) == sent + 1);
    assert_eq!(dropped(&relay, DropReason::Unpaid), opened + 1);

    relay.worker.handle_timers(clock());
    relay.neighbours[0].send(&flood);
    relay.until(|relay| all(relay) == sent + 7);
    assert_eq!(dropped(&relay, DropReason::Unpaid), opened + 7, "the next interval has its own");
}

#[test]
fn a_receipt_comes_through_whatever_hosts_behind_its_sender_send() {
    let mut relay = Relay::new();
    relay.worker.datapath.set_fib(Arc::new(fib(&relay.neighbours, &LinkPolicy::Exhausted)));
    let [left, right] = [relay.neighbours[0].address, relay.neighbours[1].address];
    let all = |relay: &Relay| {
        let count = |reason| relay.worker.shared.drops.packets(reason);
        count(DropReason::Unpaid) + count(DropReason::UnpaidFlood)
    };
    let flood: Vec<_> = (0..40).map(|number| packet(left, right, 7 * (number % 30) + 6)).collect();
    let mut sent = 0;
    while relay.worker.lifelines[2][1] > 0 {
        relay.neighbours[0].send(&flood);
        sent += flood.len() as u64;
        relay.until(|relay| all(relay) == sent);
    }
    let link_local = |number| Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, number);
    for number in 0..20_usize {
        relay.neighbours[0].send(&[control_packet(link_local(2), link_local(1), 6698, &[number as u8; 300])]);
        let mut heard = None;
        relay.until(|relay| {
            heard = relay.from_worker.try_recv().ok();
            heard.is_some()
        });
        let Some(FromWorker::Control { packet, .. }) = heard else { panic!("no control packet") };
        assert_eq!(packet.last(), Some(&(number as u8)));
    }
    assert!(relay.worker.lifelines[2][0] < LIFELINE, "control packets have a lifeline of their own");
}

#[test]
fn keepalives_of_who_does_not_pay_are_charged_too() {
    let mut relay = Relay::new();
    relay.worker.datapath.set_fib(Arc::new(fib(&relay.neighbours, &LinkPolicy::Exhausted)));
    relay.worker.lifelines[2] = [LIFELINE; 3];
    relay.neighbours[0].wireguard.carry(clock(), LinkId(0), std::iter::repeat_n(&[][..], 60));
    relay.until(|relay| relay.worker.lifelines[2][1] == LIFELINE - 60 * 32);
}

#[test]
fn what_was_for_the_neighbour_before_does_not_go_to_the_one_that_has_its_link() {
    let mut relay = Relay::new();
    let link = relay.neighbours[0].link;
    let link_local = |last: u16| Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, last);
    let hello = |number: u8| control_packet(link_local(1), link_local(2), 6698, &[number; 300]);
    let send = |turn, number| ToWorker::Send { link, turn, packet: hello(number) };
    // The order overtakes: it must not be lost, and the packet may.
    assert!(relay.inbox.send(send(0, 7)));
    assert!(relay.inbox.set(ToWorker::Begin { link, turn: 1 }));
    assert!(relay.inbox.send(send(1, 8)));
    relay.worker.read_orders(clock());
    let mut heard = Vec::new();
    let deadline = clock() + Duration::from_secs(10);
    while heard.is_empty() {
        assert!(clock() < deadline, "nothing is heard");
        heard = relay.neighbours[0].hear();
    }
    assert_eq!(heard, [hello(8)]);
    // And what comes of it says which turn it is of.
    relay.neighbours[0].send(&[control_packet(link_local(2), link_local(1), 6698, &[9; 300])]);
    let mut turn = None;
    relay.until(|relay| {
        if let Ok(FromWorker::Control { turn: said, .. }) = relay.from_worker.try_recv() {
            turn = Some(said);
        }
        turn.is_some()
    });
    assert_eq!(turn, Some(1));
}

#[cfg(feature = "quic")]
#[test]
fn a_flood_of_one_quic_neighbour_leaves_others_their_room_and_its_own_control_packets_some() {
    let Mailbox { inbox, packets, .. } = Mailbox::new().unwrap();
    let link_local = |last: u16| Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, last);
    let (data, hello) = (packet(OURS, OURS, 1), control_packet(link_local(2), link_local(1), 6696, &[0; 60]));
    let taken = |link: u32, packet: &[u8]| {
        let packet = bytes::Bytes::copy_from_slice(packet);
        (0..INBOX).take_while(|_| inbox.packet(LinkId(link), packet.clone())).count()
    };
    let flood = taken(1, &data);
    assert_eq!(flood, INBOX / 2);
    assert!((CONTROL_SHARE / 2..=CONTROL_SHARE).contains(&taken(1, &hello)), "its own");
    assert!(taken(2, &data) >= INBOX / 8);
    assert!(taken(3, &hello) >= INBOX / 8, "whoever else floods");
    // What was read makes room again.
    let shares = Arc::clone(&inbox.shares);
    let read = std::iter::from_fn(|| packets.try_recv().ok()).inspect(|(link, _)| shares.give_back(*link)).count();
    assert!(read <= INBOX);
    assert_eq!(taken(1, &data), INBOX / 2);
}
