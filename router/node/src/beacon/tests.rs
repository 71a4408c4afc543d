use metering::Seed;

use super::*;

const ETH: u32 = 2;
const RADIO: u32 = 3;

#[expect(clippy::disallowed_methods, reason = "the beginning of virtual time")]
fn clock() -> Instant {
    Instant::now()
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn identity(number: u8) -> Identity {
    Identity::new(&Seed::from_bytes([number; 32]))
}

fn address(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, number.into())
}

/// A node that hears on both interfaces.
fn node(now: Instant, number: u8, boot: u64) -> Beacons {
    let mut node = Beacons::new(identity(number), None, (51820, None), boot, number.into());
    node.add_interface(now, ETH, address(number));
    node.add_interface(now, RADIO, address(number));
    while node.poll_transmit().is_some() {}
    node
}

/// Its next beacon on an interface.
fn beacon(node: &mut Beacons, now: Instant, interface: u32) -> Vec<u8> {
    node.send(now, interface);
    std::iter::from_fn(|| node.poll_transmit()).last().expect("a beacon was sent").1
}

fn found(node: &mut Beacons) -> Vec<Found> {
    let events = std::iter::from_fn(|| node.poll_event());
    events.filter_map(|event| if let Event::Found(found) = event { Some(*found) } else { None }).collect()
}

/// A beacon of a card that is all right, with a signature that is not.
fn forged(number: u8, count: u64) -> Vec<u8> {
    let card = NodeCard::decode(&identity(number).card().encode()).expect("a card");
    let source = address(number);
    let signature = [count.to_le_bytes()[0]; 64];
    Beacon { card, community: None, wireguard: 51820, quic: None, count, source, signature }.encode()
}

#[test]
fn a_beacon_is_read_as_it_was_written_and_in_no_other_way() {
    let now = clock();
    let community = Community::new(&[7; 32]);
    for (community, quic) in [(None, None), (community, Some(443)), (Community::new(&[7; 20]), Some(65535))] {
        let mut sender = Beacons::new(identity(1), community, (51820, quic), u64::from(u32::MAX), 1);
        sender.add_interface(now, ETH, address(1));
        let bytes = sender.poll_transmit().expect("it is sent at once").1;
        assert!(LENGTH.contains(&bytes.len()), "{} bytes", bytes.len());
        assert!(bytes.starts_with(&FIRST_BYTES));
        let read = Beacon::decode(&bytes).expect("a beacon");
        assert_eq!((read.encode(), read.community, read.quic), (bytes.clone(), community, quic));
        for cut in 0..bytes.len() {
            assert!(Beacon::decode(&bytes[..cut]).is_err());
        }
        assert!(Beacon::decode(&[&bytes[..], &[0]].concat()).is_err());
    }
    let shortest = Beacons::new(identity(1), None, (1, None), 0, 1);
    assert_eq!(shortest.senders(), 0);
}

#[test]
fn who_is_heard_is_found_and_who_falls_silent_is_lost() {
    let now = clock();
    let (mut us, mut other) = (node(now, 1, 1), node(now, 2, 1));
    let first = beacon(&mut other, now, ETH);
    assert_eq!(us.hear(now, ETH, address(2), &first), Ok(()));
    let first = found(&mut us);
    assert_eq!((first.len(), first[0].card, first[0].address), (1, *identity(2).card(), address(2)));
    assert!(first[0].is_new && first[0].interface == ETH && first[0].wireguard == 51820);
    // Heard again, it is told again, at most each five seconds.
    let mut told = 0;
    for second in 1..=20 {
        let at = now + secs(second);
        let again = beacon(&mut other, at, ETH);
        us.hear(at, ETH, address(2), &again).unwrap_or_else(|why| assert_eq!(why, Ignored::Busy));
        told += found(&mut us).iter().filter(|found| !found.is_new).count();
    }
    assert!((2..=4).contains(&told), "{told}");
    us.handle_timeout(now + secs(60));
    assert_eq!(us.poll_event(), Some(Event::Lost(identity(2).node_id())));
    assert_eq!((us.poll_event(), us.senders()), (None, 1));
    us.handle_timeout(now + secs(200));
    assert_eq!(us.senders(), 0);
}

#[test]
fn a_replayed_beacon_is_ignored_wherever_it_is_replayed() {
    let now = clock();
    let (mut us, mut other) = (node(now, 1, 1), node(now, 2, 1));
    let old = beacon(&mut other, now, ETH);
    assert_eq!(us.hear(now, ETH, address(9), &old), Err(Ignored::Elsewhere), "from another address");
    assert_eq!(us.hear(now, ETH, address(2), &old), Ok(()));
    assert_eq!(us.hear(now, ETH, address(2), &old), Err(Ignored::Replayed), "again");
    for _ in 0..20 {
        other.send(now, ETH);
    }
    let new = beacon(&mut other, now, ETH);
    assert_eq!(us.hear(now + secs(3), ETH, address(2), &new), Ok(()));
    assert_eq!(us.hear(now + secs(6), RADIO, address(2), &old), Err(Ignored::Replayed), "old, on another segment");
    // A restart counts on from a higher number, and what was sent before it is old.
    let mut other = node(now, 2, 2);
    let newer = beacon(&mut other, now, ETH);
    assert_eq!(us.hear(now + secs(9), ETH, address(2), &newer), Ok(()));
    assert_eq!(us.hear(now + secs(12), ETH, address(2), &new), Err(Ignored::Replayed));
}

#[test]
fn nobody_is_believed_without_both_signatures() {
    let now = clock();
    let mut us = node(now, 1, 1);
    assert_eq!(us.hear(now, ETH, address(2), &forged(2, 5)), Err(Ignored::Forged));
    // The TLS key is right, the card nobody's.
    let mut card = identity(2).card().encode();
    let last = card.len() - 10;
    card[last] ^= 1;
    let card = NodeCard::decode(&card).expect("well formed");
    let mut beacon =
        Beacon { card, community: None, wireguard: 1, quic: None, count: 1, source: address(2), signature: [0; 64] };
    beacon.signature = identity(2).sign_with_tls(&beacon.statement());
    assert_eq!(us.hear(now, ETH, address(2), &beacon.encode()), Err(Ignored::Forged));
    assert_eq!((us.senders(), us.poll_event()), (0, None));
    assert_eq!(us.hear(now, ETH, "fd00::1".parse().unwrap(), &beacon.encode()), Err(Ignored::Misfit));
    assert_eq!(us.hear(now, 77, address(2), &beacon.encode()), Err(Ignored::Misfit), "no interface of ours");
    assert_eq!(us.hear(now, ETH, address(2), &[0x88; 290]), Err(Ignored::Malformed));
}

#[test]
fn other_communities_and_our_own_beacons_are_ignored() {
    let now = clock();
    let of = |number: u8, id: u8| {
        let mut node = Beacons::new(identity(number), Community::new(&[id; 20]), (1, None), 1, 1);
        node.add_interface(now, ETH, address(number));
        node
    };
    let (mut us, mut other, mut same) = (of(1, 1), of(2, 2), of(3, 1));
    let bytes = beacon(&mut other, now, ETH);
    assert_eq!(us.hear(now, ETH, address(2), &bytes), Err(Ignored::Foreign));
    let bytes = beacon(&mut same, now, ETH);
    assert_eq!(us.hear(now, ETH, address(3), &bytes), Ok(()));
    let bytes = beacon(&mut us, now, ETH);
    assert_eq!(us.hear(now, ETH, address(1), &bytes), Err(Ignored::Ours));
}

#[test]
fn a_flood_of_forged_beacons_costs_a_bounded_number_of_checks_and_starves_nobody_known() {
    let now = clock();
    let (mut us, mut friend) = (node(now, 1, 1), node(now, 2, 1));
    let bytes = beacon(&mut friend, now, ETH);
    assert_eq!(us.hear(now, ETH, address(2), &bytes), Ok(()));
    let flood: Vec<Vec<u8>> = (0..200).map(|number| forged(3 + number % 50, number.into())).collect();
    let (mut checked, mut heard) = (0, 0);
    // 10,000 a second for ten seconds; the friend's come among them.
    for millisecond in 0..10_000 {
        let at = now + Duration::from_millis(millisecond);
        for ten in 0..10 {
            let bytes = &flood[usize::try_from((millisecond * 10 + ten) % 200).expect("small")];
            let from = Beacon::decode(bytes).expect("well formed").source;
            match us.hear(at, ETH, from, bytes) {
                Err(Ignored::Forged) => checked += 1,
                answer => assert_eq!(answer, Err(Ignored::Busy)),
            }
        }
        if millisecond % 5000 == 2500 {
            let bytes = beacon(&mut friend, at, ETH);
            heard += u32::from(us.hear(at, ETH, address(2), &bytes).is_ok());
        }
    }
    assert!((200..=221).contains(&checked), "{checked} signatures checked");
    assert_eq!((heard, us.senders()), (2, 1));
}

#[test]
fn what_is_forged_in_a_sender_s_name_does_not_use_up_what_it_may_sign() {
    // As many as its own budget would bear, at once and from its own address; then a flood, from another.
    for (source, each_second) in [(address(2), 10), (address(9), 200)] {
        let now = clock();
        let (mut us, mut friend, mut other) = (node(now, 1, 1), node(now, 2, 1), node(now, 3, 1));
        for (number, node) in [(2, &mut friend), (3, &mut other)] {
            assert_eq!(us.hear(now, ETH, address(number), &beacon(node, now, ETH)), Ok(()));
        }
        let (mut checked, mut count) = (0, 2 << 32);
        for second in 0..20 {
            let at = now + secs(second);
            for _ in 0..each_second {
                count += 1;
                let fake = Beacon { source, ..Beacon::decode(&forged(2, count)).expect("well formed") };
                checked += u32::from(us.hear(at, ETH, source, &fake.encode()) == Err(Ignored::Forged));
            }
            if second % 5 == 4 {
                let bytes = beacon(&mut friend, at, ETH);
                assert_eq!(us.hear(at, ETH, address(2), &bytes), Ok(()), "{second} s");
                let bytes = beacon(&mut other, at, ETH);
                assert_eq!(us.hear(at, ETH, address(3), &bytes), Ok(()), "nor anybody else's");
            }
        }
        assert!(checked <= 20 * 20 + 20, "{checked} signatures checked");
    }
}

#[test]
fn a_crowd_with_good_signatures_fills_no_memory_and_drives_nobody_out_who_stays() {
    let now = clock();
    let (mut us, mut friend) = (node(now, 1, 1), node(now, 2, 1));
    for round in 0..3 {
        let at = now + secs(3 * round);
        let bytes = beacon(&mut friend, at, ETH);
        assert_eq!(us.hear(at, ETH, address(2), &bytes), Ok(()));
    }
    let mut believed = 0;
    let began = now + secs(9);
    for number in 0..400_u64 {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&(number + 1000).to_le_bytes());
        let mut one = Beacons::new(Identity::new(&Seed::from_bytes(seed)), None, (1, None), 1, 1);
        one.add_interface(now, ETH, address(200));
        let bytes = one.poll_transmit().expect("sent at once").1;
        let at = began + Duration::from_millis(25 * number);
        believed += u32::from(us.hear(at, ETH, address(200), &bytes).is_ok());
    }
    assert!((200..=221).contains(&believed), "{believed}");
    assert_eq!(us.senders(), SENDERS_MAX);
    assert!(us.senders.contains_key(&identity(2).node_id()));
    assert!(us.events.len() <= QUEUE_MAX);
    // Nobody answers: what is sent follows the clock, whoever was heard.
    let mut sent = 0;
    for tenth in 0..100 {
        us.handle_timeout(began + Duration::from_millis(100 * tenth));
        sent += std::iter::from_fn(|| us.poll_transmit()).count();
    }
    assert!(sent <= 20, "{sent} beacons in ten seconds on two interfaces");
}

#[test]
fn three_are_sent_quickly_and_then_one_each_five_seconds() {
    let began = clock();
    let mut us = Beacons::new(identity(1), None, (51820, None), 1, 7);
    us.add_interface(began, ETH, address(1));
    let mut sent = Vec::new();
    let mut now = began;
    while now < began + secs(60) {
        us.handle_timeout(now);
        let count = std::iter::from_fn(|| us.poll_transmit()).count();
        sent.extend((0..count).map(|_| now.duration_since(began).as_millis()));
        now = us.poll_timeout().expect("there is an interface");
    }
    assert!(sent[2] < 2500, "{sent:?}");
    assert!((12..=18).contains(&sent.len()), "{sent:?}");
    us.remove_interface(ETH);
    assert_eq!(us.poll_timeout(), None);
}

#[test]
fn who_has_just_appeared_is_shown_us_soon() {
    let began = clock();
    let (mut us, mut other) = (node(began, 1, 1), node(began, 2, 1));
    for second in 0..10 {
        us.handle_timeout(began + secs(second));
        while us.poll_transmit().is_some() {}
    }
    let at = began + secs(10);
    let bytes = beacon(&mut other, at, ETH);
    assert_eq!(us.hear(at, ETH, address(2), &bytes), Ok(()));
    let due = us.interfaces[&ETH].due;
    assert!(due <= at + SHOW_EACH, "{:?}", due - at);
}

#[test]
fn a_sender_with_two_cables_is_heard_on_both() {
    let now = clock();
    let (mut us, mut other) = (node(now, 1, 1), node(now, 2, 1));
    let on_eth = beacon(&mut other, now, ETH);
    let on_radio = beacon(&mut other, now, RADIO);
    // The second comes first.
    assert_eq!(us.hear(now, RADIO, address(2), &on_radio), Ok(()));
    assert_eq!(us.hear(now, ETH, address(2), &on_eth), Ok(()));
    let account = identity(2).node_id();
    assert_eq!(us.senders[&account].ways.len(), 2);
    let on: Vec<u32> = found(&mut us).iter().map(|found| found.interface).collect();
    assert_eq!(on, [RADIO, ETH], "each way is told of");
    // The first cable is pulled: the other's beacons say where it is.
    let later = now + secs(6);
    let on_radio = beacon(&mut other, later, RADIO);
    assert_eq!(us.hear(later, RADIO, address(2), &on_radio), Ok(()));
    assert_eq!(found(&mut us)[0].interface, RADIO);
}
