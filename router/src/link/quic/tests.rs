//! Conversations on loopback between real endpoints, some through a path that drops what we tell it to.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::AtomicUsize;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;

use super::*;

const LINK_MTU: usize = 1420;

/// Nodes have numbers; a node's link to node `n` is `LinkId(n)`.
struct Node {
    links: Arc<QuicLinks>,
    events: mpsc::UnboundedReceiver<(LinkId, QuicEvent)>,
}

fn secret(node: u8) -> Zeroizing<[u8; 32]> {
    Zeroizing::new([node; 32])
}

fn key(node: u8) -> TlsKey {
    Credentials::new(&secret(node)).unwrap().key()
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn config(node: u8, listen: SocketAddr, peers: &[(u8, Option<SocketAddr>)]) -> QuicConfig {
    let peer = |&(peer, dial): &(u8, Option<SocketAddr>)| QuicPeer { link: LinkId(peer.into()), key: key(peer), dial };
    QuicConfig { listen, tls_secret: secret(node), peers: peers.iter().map(peer).collect(), link_mtu: LINK_MTU }
}

impl Node {
    fn start(node: u8, listen: SocketAddr, peers: &[(u8, Option<SocketAddr>)]) -> Self {
        Self::configured(config(node, listen, peers))
    }

    fn configured(config: QuicConfig) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let sink = move |link, event| {
            let _ = sender.send((link, event));
        };
        let links = QuicLinks::start(config, sink).unwrap();
        Self { links: Arc::new(links), events }
    }

    fn address(&self) -> SocketAddr {
        self.links.local_addr()
    }

    fn counters(&self, peer: u8) -> QuicCounters {
        self.links.counters(LinkId(peer.into())).unwrap()
    }

    fn send(&self, peer: u8, packet: &[u8]) -> Result<(), SendError> {
        self.links.send(LinkId(peer.into()), packet)
    }

    async fn event(&mut self, seconds: u64) -> Option<QuicEvent> {
        let event = timeout(Duration::from_secs(seconds), self.events.recv()).await;
        event.ok().map(|event| event.unwrap().1)
    }

    async fn expect_up(&mut self, seconds: u64) {
        let event = self.event(seconds).await;
        assert!(matches!(event, Some(QuicEvent::Up { .. })), "{event:?}");
    }

    async fn expect_down(&mut self, seconds: u64) -> String {
        loop {
            match self.event(seconds).await {
                Some(QuicEvent::Down { reason }) => return reason,
                Some(QuicEvent::Up { .. } | QuicEvent::Packet(_)) => {}
                None => panic!("not down after {seconds} s"),
            }
        }
    }

    async fn expect_packet(&mut self) -> Bytes {
        loop {
            match self.event(5).await {
                Some(QuicEvent::Packet(packet)) => return packet,
                Some(QuicEvent::Up { .. }) => {}
                other => panic!("{other:?} where a packet was expected"),
            }
        }
    }

    /// Everything that arrives until a second passes without anything.
    async fn drain(&mut self) -> Vec<Bytes> {
        let mut packets = Vec::new();
        while let Some(event) = self.event(1).await {
            if let QuicEvent::Packet(packet) = event {
                packets.push(packet);
            }
        }
        packets
    }
}

/// Node 1 has dialled node 2.
async fn pair() -> (Node, Node) {
    let mut two = Node::start(2, loopback(0), &[(1, None)]);
    let mut one = Node::start(1, loopback(0), &[(2, Some(two.address()))]);
    one.expect_up(5).await;
    two.expect_up(5).await;
    (one, two)
}

/// A packet that can be told from others.
fn packet(number: usize, len: usize) -> Vec<u8> {
    let mut packet = vec![number as u8; len];
    packet[..8].copy_from_slice(&(number as u64).to_be_bytes());
    packet
}

#[tokio::test]
async fn packets_of_every_size_pass_both_ways_from_the_first_moment() {
    let (mut one, mut two) = pair().await;
    let sent: Vec<_> = (0..100).map(|n| packet(n, if n % 2 == 0 { LINK_MTU } else { 40 })).collect();
    for packet in &sent {
        one.send(2, packet).unwrap();
        two.send(1, packet).unwrap();
    }
    for node in [&mut one, &mut two] {
        let mut received = node.drain().await;
        received.sort();
        assert_eq!(received, sent);
    }
    let counters = one.counters(2);
    assert!(counters.messages_sent > 0, "the path MTU starts small: {counters:?}");
    assert_eq!(counters.datagrams_sent + counters.messages_sent, 100);
    assert_eq!(counters.datagrams_received + counters.messages_received, 100);
    assert_eq!(one.send(2, &[0; LINK_MTU + 1]), Err(SendError::TooLarge));
    assert_eq!(one.send(2, &[]), Err(SendError::TooLarge));
    assert_eq!(one.send(3, &[0; 40]), Err(SendError::NotConnected));
}

#[tokio::test]
async fn one_socket_serves_ipv4_and_ipv6() {
    let mut two = Node::start(2, (Ipv6Addr::UNSPECIFIED, 0).into(), &[(1, None), (3, None)]);
    let port = two.address().port();
    let mut one = Node::start(1, loopback(0), &[(2, Some(loopback(port)))]);
    one.expect_up(5).await;
    let remote = one.address();
    assert_eq!(two.event(5).await, Some(QuicEvent::Up { remote }));
    let six = (Ipv6Addr::LOCALHOST, port).into();
    let mut three = Node::start(3, (Ipv6Addr::LOCALHOST, 0).into(), &[(2, Some(six))]);
    three.expect_up(5).await;
    two.expect_up(5).await;
    three.send(2, &packet(1, LINK_MTU)).unwrap();
    assert_eq!(two.expect_packet().await, packet(1, LINK_MTU));
}

#[tokio::test]
async fn full_size_packets_become_datagrams_once_the_path_is_known() {
    let (one, mut two) = pair().await;
    let grown = async {
        while one.counters(2).datagram_max < Some(LINK_MTU) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(5), grown).await.unwrap();
    let before = one.counters(2);
    one.send(2, &packet(1, LINK_MTU)).unwrap();
    assert_eq!(two.expect_packet().await, packet(1, LINK_MTU));
    assert_eq!(one.counters(2).messages_sent, before.messages_sent);
    assert_eq!(one.counters(2).datagrams_sent, before.datagrams_sent + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_packet_of_a_burst_is_delivered_or_counted_as_dropped() {
    const PACKETS: usize = 10_000;
    let (one, mut two) = pair().await;
    let sender = one.links.clone();
    let burst = move || (0..PACKETS).filter(|&n| sender.send(LinkId(2), &packet(n, 1100)).is_ok()).count();
    let accepted = std::thread::spawn(burst); // a worker, outside the runtime
    let delivered = two.drain().await.len() as u64;
    let accepted = accepted.join().unwrap() as u64;

    let (sent, received) = (one.counters(2), two.counters(1));
    println!("{delivered} delivered; sender {sent:?}; receiver {received:?}");
    assert_eq!(accepted + sent.congested, PACKETS as u64);
    assert_eq!(sent.datagrams_sent, accepted);
    assert_eq!(received.datagrams_received, delivered);
    let missing = accepted - delivered - received.overflowed;
    assert!(missing <= sent.lost, "{missing} missing, {} lost", sent.lost);
    assert!(delivered > 500);
}

/// Nothing leaves meanwhile: the runtime has but this thread.
#[tokio::test]
async fn control_packets_find_room_in_a_congested_link() {
    let (one, _two) = pair().await;
    let taken = (0..10_000).take_while(|n| one.send(2, &packet(*n, 1100)).is_ok()).count();
    assert!((500..5_000).contains(&taken), "{taken} taken");
    for n in 0..40 {
        assert_eq!(one.send(2, &packet(n, 100)), Err(SendError::Congested));
        assert_eq!(one.links.send_control(LinkId(2), &packet(n, 1100)), Ok(()));
    }
}

#[tokio::test]
async fn a_neighbour_with_another_key_is_refused_and_the_reason_names_both() {
    let mut two = Node::start(2, loopback(0), &[(1, None)]);
    let mut one = Node::start(1, loopback(0), &[(3, Some(two.address()))]);
    assert_eq!(one.event(2).await, None);
    let failure = one.counters(3).failure.unwrap();
    assert!(failure.contains(&key(2).to_string()), "{failure}");
    assert!(failure.contains(&key(3).to_string()), "{failure}");
    assert_eq!(one.send(3, &[0; 40]), Err(SendError::NotConnected));
    assert_eq!(two.event(1).await, None);
    assert!(two.links.strangers() > 0);
}

/// A node that meets strangers, and those who wait there.
async fn hospitable(node: u8) -> (Node, mpsc::UnboundedReceiver<QuicStranger>) {
    let host = Node::start(node, loopback(0), &[]);
    let (sender, strangers) = mpsc::unbounded_channel();
    host.links.meet_strangers(move |stranger| {
        let _ = sender.send(stranger);
    });
    (host, strangers)
}

#[tokio::test]
async fn a_stranger_has_proven_its_key_and_waits_for_a_link_of_its_own() {
    let (mut two, mut strangers) = hospitable(2).await;
    let mut one = Node::start(1, loopback(0), &[(2, Some(two.address()))]);
    let stranger = timeout(Duration::from_secs(5), strangers.recv()).await.unwrap().unwrap();
    assert_eq!((stranger.key, stranger.remote), (key(1), one.address()));
    assert_eq!(one.event(0).await, None, "nobody has let it in yet");
    two.links.adopt(LinkId(7), stranger).unwrap();
    one.expect_up(5).await;
    two.expect_up(5).await;
    one.send(2, &packet(1, 200)).unwrap();
    assert_eq!(two.expect_packet().await, packet(1, 200));
    two.links.send(LinkId(7), &packet(2, 200)).unwrap();
    assert_eq!(one.expect_packet().await, packet(2, 200));

    // It turns out to be whom link 9 leads to.
    two.links.renumber(LinkId(7), LinkId(9));
    assert!(matches!(two.events.recv().await, Some((LinkId(9), QuicEvent::Up { .. }))));
    one.send(2, &packet(3, 200)).unwrap();
    assert_eq!(two.events.recv().await, Some((LinkId(9), QuicEvent::Packet(packet(3, 200).into()))));
    assert_eq!(two.links.heard(LinkId(7)), None);
    // A neighbour gets what a stranger does not: messages by the dozen.
    let taken = || (0..100).filter(|n| one.send(2, &packet(*n, LINK_MTU)).is_ok()).count();
    let all = async {
        while taken() < 100 {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(10), all).await.unwrap();
    assert_eq!(two.links.strangers(), 0);
}

#[tokio::test]
async fn a_stranger_for_whom_there_is_no_place_is_told_so() {
    let (two, mut strangers) = hospitable(2).await;
    let one = Node::start(1, loopback(0), &[(2, Some(two.address()))]);
    timeout(Duration::from_secs(5), strangers.recv()).await.unwrap().unwrap().refuse();
    let told = async {
        while !one.counters(2).failure.is_some_and(|why| why.contains("no place for strangers")) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(5), told).await.unwrap();
}

#[tokio::test]
async fn a_stranger_who_dials_is_refused_and_told_so() {
    let mut two = Node::start(2, loopback(0), &[(1, None)]);
    let mut three = Node::start(3, loopback(0), &[(2, Some(two.address()))]);
    assert_eq!(three.event(2).await, None, "up only after the welcome");
    let failure = three.counters(2).failure.unwrap();
    assert!(failure.contains("refused our key"), "{failure}");
    assert_eq!(two.event(1).await, None);
    assert!(two.links.strangers() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_dialling_at_once_ends_with_one_connection_and_never_a_down() {
    for round in 0..5 {
        let ports = [0; 2].map(|_| bind(loopback(0)).unwrap()); // both at once, so that they differ
        let ports = ports.map(|socket| socket.local_addr().unwrap());
        let mut one = Node::start(1, ports[0], &[(2, Some(ports[1]))]);
        let mut two = Node::start(2, ports[1], &[(1, Some(ports[0]))]);
        one.expect_up(5).await;
        two.expect_up(5).await;
        sleep(SUPERSEDE_TIME * 3 / 2).await;
        for (node, peer) in [(&one, 2), (&two, 1)] {
            let connections = node.links.links.load()[&LinkId(peer)].connections.borrow().len();
            assert_eq!(connections, 1, "round {round}");
        }
        one.send(2, &packet(1, LINK_MTU)).unwrap();
        two.send(1, &packet(2, LINK_MTU)).unwrap();
        assert_eq!(two.expect_packet().await, packet(1, LINK_MTU)); // panics on a Down
        assert_eq!(one.expect_packet().await, packet(2, LINK_MTU));
    }
}

/// A node with threads of its own, which can be killed: nothing is said to anyone.
fn mortal(node: u8, listen: SocketAddr, peers: &[(u8, Option<SocketAddr>)]) -> (Runtime, Node) {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let inside = runtime.enter();
    let node = Node::start(node, listen, peers);
    drop(inside);
    (runtime, node)
}

fn kill((runtime, node): (Runtime, Node)) {
    runtime.shutdown_timeout(Duration::from_secs(1));
    drop(node);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_neighbour_that_only_listens_is_redialled_within_seconds_of_its_restart() {
    let two = mortal(2, loopback(0), &[(1, None)]);
    let address = two.1.address();
    let mut one = Node::start(1, loopback(0), &[(2, Some(address))]);
    one.expect_up(5).await;
    tokio::task::spawn_blocking(|| kill(two)).await.unwrap();
    let mut two = Node::start(2, address, &[(1, None)]);
    one.send(2, &packet(0, 1000)).unwrap(); // into the old connection; the answer is a stateless reset
    assert_eq!(one.expect_down(7).await, "the peer has restarted");
    one.expect_up(5).await;
    two.expect_up(1).await;
    one.send(2, &packet(1, LINK_MTU)).unwrap();
    assert_eq!(two.expect_packet().await, packet(1, LINK_MTU));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_neighbour_that_dials_again_takes_over_the_link_at_once() {
    for (dialler, listener) in [(2, 1), (1, 2)] {
        let mut stays = Node::start(listener, loopback(0), &[(dialler, None)]);
        let killed = mortal(dialler, loopback(0), &[(listener, Some(stays.address()))]);
        stays.expect_up(5).await;
        tokio::task::spawn_blocking(|| kill(killed)).await.unwrap();
        let mut again = Node::start(dialler, loopback(0), &[(listener, Some(stays.address()))]);
        stays.expect_up(3).await; // without a Down
        again.expect_up(3).await;
        stays.send(dialler, &packet(1, LINK_MTU)).unwrap();
        assert_eq!(again.expect_packet().await, packet(1, LINK_MTU));
    }
}

#[tokio::test]
async fn a_shutdown_is_told_to_the_neighbour_and_the_link_comes_back_with_it() {
    let (mut one, mut two) = pair().await;
    let address = two.address();
    two.links.shutdown().await;
    assert_eq!(two.expect_down(1).await, "closed by this node");
    assert_eq!(one.expect_down(1).await, "the peer has shut down");
    assert_eq!(two.send(1, &[0; 40]), Err(SendError::NotConnected));
    drop(two);
    sleep(Duration::from_millis(50)).await; // the runtime lets go of the socket
    let mut two = Node::start(2, address, &[(1, None)]);
    one.expect_up(10).await;
    two.expect_up(1).await;
}

#[tokio::test]
async fn garbage_on_the_port_is_harmless() {
    let (one, mut two) = pair().await;
    let stranger = UdpSocket::bind(loopback(0)).unwrap();
    let mut rng = fastrand::Rng::with_seed(1);
    for round in 0..2000 {
        let mut garbage = vec![0; if round == 0 { 1 } else { rng.usize(0..=1472) }];
        rng.fill(&mut garbage);
        if round % 2 == 1 {
            // A long header of version 1: the way in to an Initial.
            let header = [0xc0 | rng.u8(..) & 0x3f, 0, 0, 0, 1, 8];
            let len = header.len().min(garbage.len());
            garbage[..len].copy_from_slice(&header[..len]);
        }
        stranger.send_to(&garbage, two.address()).unwrap();
    }
    sleep(Duration::from_millis(200)).await;
    one.send(2, &packet(1, LINK_MTU)).unwrap();
    assert_eq!(two.expect_packet().await, packet(1, LINK_MTU));
}

/// A UDP path between node 1 (whoever speaks first) and a server, which drops datagrams beyond `mtu` bytes of payload.
/// Closed (0), it drops all.
async fn path(server: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let mtu = Arc::new(AtomicUsize::new(usize::MAX));
    let near = tokio::net::UdpSocket::bind(loopback(0)).await.unwrap();
    let far = tokio::net::UdpSocket::bind(loopback(0)).await.unwrap();
    let (address, limit) = (near.local_addr().unwrap(), mtu.clone());
    tokio::spawn(async move {
        let (mut client, mut out, mut back) = (None, [0; 2048], [0; 2048]);
        loop {
            tokio::select! {
                got = near.recv_from(&mut out) => {
                    let (len, from) = got.unwrap();
                    client = Some(from);
                    if len <= limit.load(Relaxed) { let _ = far.send_to(&out[..len], server).await; }
                }
                got = far.recv_from(&mut back) => {
                    let (len, _) = got.unwrap();
                    if let Some(client) = client && len <= limit.load(Relaxed) {
                        let _ = near.send_to(&back[..len], client).await;
                    }
                }
            }
        }
    });
    (address, mtu)
}

#[tokio::test]
async fn full_size_packets_pass_where_the_path_takes_only_1280_bytes() {
    let mut two = Node::start(2, loopback(0), &[(1, None)]);
    let (address, mtu) = path(two.address()).await;
    mtu.store(1280 - 48, Relaxed);
    let mut one = Node::start(1, loopback(0), &[(2, Some(address))]);
    one.expect_up(5).await;
    two.expect_up(5).await;
    for number in 0..300 {
        one.send(2, &packet(number, LINK_MTU)).unwrap();
        two.send(1, &packet(number, LINK_MTU)).unwrap();
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(two.drain().await.len(), 300);
    assert_eq!(one.drain().await.len(), 300);
    assert!(one.counters(2).datagram_max < Some(1280), "{:?}", one.counters(2));
}

#[tokio::test]
async fn a_path_that_shrinks_is_noticed_and_full_size_packets_pass_again() {
    let mut two = Node::start(2, loopback(0), &[(1, None)]);
    let (address, mtu) = path(two.address()).await;
    let mut one = Node::start(1, loopback(0), &[(2, Some(address))]);
    one.expect_up(5).await;
    two.expect_up(5).await;
    while one.counters(2).datagram_max < Some(LINK_MTU) {
        sleep(Duration::from_millis(10)).await;
    }
    mtu.store(1280 - 48, Relaxed);
    let began = Instant::now();
    while two.counters(1).messages_received == 0 {
        one.send(2, &packet(1, LINK_MTU)).unwrap();
        one.send(2, &packet(2, 40)).unwrap(); // a link is never without small packets: Hellos, acknowledgements
        sleep(Duration::from_millis(20)).await;
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", one.counters(2));
    }
}

#[tokio::test]
async fn a_silent_neighbour_is_down_within_twenty_seconds_and_back_when_the_path_is() {
    let mut two = Node::start(2, loopback(0), &[(1, None)]);
    let (address, mtu) = path(two.address()).await;
    let mut one = Node::start(1, loopback(0), &[(2, Some(address))]);
    one.expect_up(5).await;
    two.expect_up(5).await;
    mtu.store(0, Relaxed);
    let reason = one.expect_down(21).await; // 15 s after the last packet sent in vain, at most 5 s into the silence
    assert_eq!(reason, "nothing heard for 15 s");
    mtu.store(usize::MAX, Relaxed);
    one.expect_up(10).await;
}

/// A neighbour with a good key and bad manners: plain quinn.
async fn rude(node: u8, server: SocketAddr, pinned: u8) -> (Endpoint, Connection) {
    let (endpoint, connection) = connected(node, server, pinned, TransportConfig::default()).await;
    connection.accept_uni().await.unwrap();
    (endpoint, connection)
}

/// After the handshake, before the welcome.
async fn connected(node: u8, server: SocketAddr, pinned: u8, limits: TransportConfig) -> (Endpoint, Connection) {
    let credentials = Credentials::new(&secret(node)).unwrap();
    let endpoint = Endpoint::client(loopback(0)).unwrap();
    let mut client = credentials.client(&Pins::new([key(pinned)])).unwrap();
    client.transport_config(Arc::new(limits));
    let connection = endpoint.connect_with(client, server, "waybill").unwrap().await.unwrap();
    (endpoint, connection)
}

#[tokio::test]
async fn whoever_takes_no_welcome_is_not_kept_be_it_a_stranger_or_a_neighbour() {
    let (two, mut strangers) = hospitable(2).await;
    for known in [false, true] {
        if known {
            two.links.set_peer(&QuicPeer { link: LinkId(1), key: key(1), dial: None }).unwrap();
        }
        let mut limits = TransportConfig::default();
        limits.max_concurrent_uni_streams(VarInt::from_u32(0)).keep_alive_interval(Some(Duration::from_secs(1)));
        let (_endpoint, waiting) = connected(1, two.address(), 2, limits).await;
        if !known {
            let stranger = timeout(Duration::from_secs(5), strangers.recv()).await.unwrap().unwrap();
            two.links.adopt(LinkId(7), stranger).unwrap();
        }
        // Sooner than a handshake would be given up.
        timeout(Duration::from_secs(2), waiting.closed()).await.expect("it is not waited for");
    }
}

#[tokio::test]
async fn endless_and_unending_messages_are_bounded() {
    let mut two = Node::start(2, loopback(0), &[(1, None)]);
    let (_endpoint, rude) = rude(1, two.address(), 2).await;
    two.expect_up(5).await;

    let mut endless = rude.open_uni().await.unwrap();
    let flood = async {
        for _ in 0..1 << 16 {
            endless.write_all(&[0xff; 1 << 16]).await?; // 4 GiB in all
        }
        Ok::<_, WriteError>(())
    };
    let stopped = timeout(Duration::from_secs(5), flood).await.expect("refused, not stalled");
    assert!(matches!(stopped, Err(WriteError::Stopped(_))), "{stopped:?}");

    let mut unending = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(200), rude.open_uni()).await {
        let mut stream = stream.unwrap();
        stream.write_all(b"to be continued").await.unwrap();
        unending.push(stream);
        assert!(unending.len() < 3000);
    }
    let held = rude.stats().frame_tx.stream;
    assert!(held >= 1000, "{held}");
    assert!(two.counters(1).refused > 0);

    rude.send_datagram(Bytes::from_static(b"still welcome")).unwrap();
    assert_eq!(two.expect_packet().await, "still welcome");
    sleep(MESSAGE_TIME).await; // the unending ones are given up
    drop(unending);
    let opened = timeout(Duration::from_secs(2), rude.open_uni()).await;
    let mut next = opened.unwrap().unwrap();
    next.write_all(b"whole").await.unwrap();
    next.finish().unwrap();
    assert_eq!(two.expect_packet().await, "whole");
}

#[tokio::test]
async fn a_neighbour_that_dials_again_and_again_holds_at_most_two_connections() {
    for (dialler, listener) in [(1, 2), (2, 1)] {
        let two = Node::start(listener, loopback(0), &[(dialler, None)]);
        let mut held = Vec::new();
        for _ in 0..20 {
            held.push(rude(dialler, two.address(), listener).await);
        }
        sleep(SUPERSEDE_TIME * 3 / 2).await;
        let connections = two.links.links.load()[&LinkId(dialler.into())].connections.borrow().len();
        assert!(connections <= 2, "{connections}");
        assert!(two.links.endpoint.open_connections() <= 4);
    }
}

#[tokio::test]
async fn a_configuration_that_cannot_work_is_refused() {
    let start = |config| QuicLinks::start(config, |_, _| {}).map(|_| ());
    let own = start(config(1, loopback(0), &[(1, None)]));
    assert!(matches!(own, Err(QuicError::OwnKey { .. })));
    let twice = start(config(1, loopback(0), &[(2, None), (2, None)]));
    assert!(matches!(twice, Err(QuicError::DuplicatePeer { .. })));
    let mut small = config(1, loopback(0), &[]);
    small.link_mtu = 1279;
    assert!(matches!(start(small), Err(QuicError::LinkMtu { mtu: 1279 })));
    let taken = bind(loopback(0)).unwrap();
    let busy = start(config(1, taken.local_addr().unwrap(), &[]));
    assert!(matches!(busy, Err(QuicError::Bind { .. })));
    let outside = std::thread::spawn(move || start(config(1, loopback(0), &[])));
    assert!(matches!(outside.join().unwrap(), Err(QuicError::NoRuntime)));
}

#[test]
fn pauses_double_to_half_a_minute_and_jitter() {
    let mut backoff = Backoff::new(fastrand::Rng::with_seed(1));
    let pauses: Vec<_> = (0..8).map(|_| backoff.pause().as_millis()).collect();
    for (pause, planned) in pauses.iter().zip([1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]) {
        assert!((planned * 3 / 4..=planned * 5 / 4).contains(pause), "{pauses:?}");
    }
    assert!(pauses.iter().all(|&pause| pause <= 30_000));
    backoff.reset();
    assert!(backoff.pause() <= Duration::from_millis(1250));
}

/// A measurement, QUIC link against plain UDP on loopback, when asked for:
/// `WAYBILL_BENCH=1 cargo test --release -p waybill quic_throughput -- --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quic_throughput() {
    if std::env::var_os("WAYBILL_BENCH").is_none() {
        println!("skipped: quic_throughput: a measurement; set WAYBILL_BENCH=1");
        return;
    }
    for (len, name) in [(LINK_MTU, "datagrams"), (1440, "messages")] {
        let sized = |node, peers: &[_]| QuicConfig { link_mtu: len, ..config(node, loopback(0), peers) };
        let mut two = Node::configured(sized(2, &[(1, None)]));
        let mut one = Node::configured(sized(1, &[(2, Some(two.address()))]));
        one.expect_up(5).await;
        two.expect_up(5).await;
        sleep(Duration::from_secs(1)).await; // path MTU discovery
        let sender = one.links.clone();
        let began = Instant::now();
        let feeder = std::thread::spawn(move || {
            let packet = packet(0, len);
            let mut accepted = 0_u64;
            while began.elapsed() < Duration::from_secs(3) {
                match sender.send(LinkId(2), &packet) {
                    Ok(()) => accepted += 1,
                    Err(_) => std::thread::sleep(Duration::from_micros(200)),
                }
            }
            accepted
        });
        let delivered = two.drain().await.len();
        let accepted = feeder.join().unwrap();
        let rate = (delivered * len * 8) as f64 / 3e9;
        println!("QUIC, {name} of {len}: {rate:.2} Gbit/s, {delivered} of {accepted} delivered");
        println!("  {:?}\n  {:?}", one.counters(2), two.counters(1));
    }
    println!("plain UDP: {:.2} Gbit/s", plain_udp());
}

/// One send and one receive call per packet, for three seconds.
fn plain_udp() -> f64 {
    let receiver = bind(loopback(0)).unwrap();
    receiver.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let sender = bind(loopback(0)).unwrap();
    sender.connect(receiver.local_addr().unwrap()).unwrap();
    let receiving = std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        std::iter::from_fn(|| receiver.recv(&mut buffer).ok()).sum::<usize>()
    });
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        let _ = sender.send(&[0; LINK_MTU]);
    }
    receiving.join().unwrap() as f64 * 8.0 / 3e9
}

#[tokio::test]
async fn neighbours_come_move_and_go_while_others_are_served() {
    let (mut one, mut two) = pair().await;
    let mut three = Node::start(3, loopback(0), &[]);
    let peer = |node: u8, dial| QuicPeer { link: LinkId(node.into()), key: key(node), dial };
    assert!(matches!(one.links.set_peer(&peer(1, None)), Err(QuicError::OwnKey { .. })));
    // At first where nobody answers, then where it is.
    let nowhere = UdpSocket::bind(loopback(0)).unwrap();
    three.links.set_peer(&peer(1, Some(nowhere.local_addr().unwrap()))).unwrap();
    assert_eq!(three.event(1).await, None);
    one.links.set_peer(&peer(3, None)).unwrap();
    three.links.set_peer(&peer(1, Some(one.address()))).unwrap();
    three.expect_up(5).await;
    one.expect_up(5).await;
    one.send(3, &packet(1, LINK_MTU)).unwrap();
    assert_eq!(three.expect_packet().await, packet(1, LINK_MTU));
    assert_eq!(three.links.heard(LinkId(1)), Some((true, 1)));

    // Removed, it is refused, and its number may be another's: nothing comes from the one that had it before.
    one.links.remove_peer(LinkId(3));
    assert_eq!(one.send(3, &packet(1, 40)), Err(SendError::NotConnected));
    three.expect_down(5).await;
    let refused = async {
        while !three.counters(1).failure.is_some_and(|why| why.contains("refused our key")) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(10), refused).await.unwrap();
    assert_eq!(one.event(1).await, None);
    one.send(2, &packet(2, LINK_MTU)).unwrap();
    assert_eq!(two.expect_packet().await, packet(2, LINK_MTU));
}

#[tokio::test]
async fn a_link_that_is_not_needed_is_closed_and_dialled_again_when_it_is() {
    let (mut one, mut two) = pair().await;
    one.links.hang_up(LinkId(2));
    one.expect_down(1).await;
    two.expect_down(1).await;
    assert_eq!(one.event(2).await, None, "it dials nobody");
    let dial = Some(two.address());
    one.links.set_peer(&QuicPeer { link: LinkId(2), key: key(2), dial }).unwrap();
    one.expect_up(2).await;
    two.expect_up(2).await;
}
