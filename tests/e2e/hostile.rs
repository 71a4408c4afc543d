//! Nonsense and lies from the network.

use std::iter;

use fastrand::Rng;
use metering::{WireguardKey, link_local};

use crate::capture::Capture;
use crate::lab::{Lab, secs, until};
use crate::router::{Joint, PEERS, QUIC_PORT, Router, WIREGUARD_PORT, join, joined};
use crate::stock::Stock;
use crate::traffic::{Pings, Pulse, ping, reachable, send_datagrams};

/// Hostile datagrams for each port.
const DATAGRAMS: usize = 10_000;
const PER_SECOND: u32 = 4000;

/// What they may cost in memory: queues and tables are bounded.
const RSS_GROWTH_KIB_MAX: u64 = 8 << 10;

/// Link-local ports of Babel (RFC 8966) and of what two neighbours say to each other about cards and receipts.
const CONTROL_PORTS: [u16; 3] = [6696, 6697, 6698];

#[test]
fn random_truncated_and_replayed_datagrams_on_the_link_ports_change_nothing() {
    let tools = ["ping", "python3", "tcpdump"];
    let test = "random_truncated_and_replayed_datagrams_on_the_link_ports_change_nothing";
    let Some(mut lab) = Lab::open(test, &tools) else { return };
    let [mut r1, mut r2, mut r3] = ["r1", "r2", "r3"].map(|name| Router::new(&mut lab, name));
    join(&mut lab, &mut r1, &mut r2, PEERS);
    join(&mut lab, &mut r1, &mut r3, Joint { link: "quic", ..PEERS });
    let stranger = lab.host("stranger");
    let (r1_at, _) = lab.cable(&r1.host, &stranger);
    // What honest neighbours say, from the first handshake on, is what truncation and replay begin with.
    let wireguard =
        Capture::start(&lab, &r1.host, "cable1a", &format!("ip dst 10.0.1.1 and udp dst port {WIREGUARD_PORT}"));
    let quic = Capture::start(&lab, &r1.host, "cable2a", &format!("ip dst 10.0.2.1 and udp dst port {QUIC_PORT}"));
    for router in [&mut r1, &mut r2, &mut r3] {
        router.start();
    }
    joined(&r1, &r2);
    joined(&r1, &r3);
    reachable(&r2.host, &r3.address, secs(20));
    let seen = [(WIREGUARD_PORT, wireguard.end().udp_payloads()), (QUIC_PORT, quic.end().udp_payloads())];

    let endpoints = [&r2, &r3].map(|router| r1.neighbour(router.name).expect("a neighbour")["endpoint"].clone());
    let pulses = [&r2, &r3].map(|router| Pulse::start(&lab, &r1.host, &router.address));
    let rss_before = r1.process().rss_kib();
    let mut random = Rng::with_seed(7);
    for (port, seen) in &seen {
        let datagrams: Vec<Vec<u8>> = iter::repeat_with(|| garble(&mut random, seen)).take(DATAGRAMS).collect();
        let (from_stranger, from_neighbour) = datagrams.split_at(DATAGRAMS / 2);
        send_datagrams(&stranger, (&r1_at, *port), 0, PER_SECOND, from_stranger);
        send_datagrams(&r2.host, ("10.0.1.1", *port), 0, PER_SECOND, from_neighbour);
    }
    let rss_after = r1.process().rss_kib();

    assert!(r1.process().is_running(), "r1 is gone");
    for (router, pulse) in [&r2, &r3].into_iter().zip(&pulses) {
        let answered = pulse.answered();
        until("further answers", secs(10), || {
            if pulse.answered() > answered + 5 { Ok(()) } else { Err("none".to_owned()) }
        });
        assert!(pulse.longest_silence() <= secs(1), "{} was silent for {:?}", router.name, pulse.longest_silence());
    }
    let endpoints_after = [&r2, &r3].map(|router| r1.neighbour(router.name).expect("a neighbour")["endpoint"].clone());
    assert_eq!(endpoints_after, endpoints, "a replay moved a neighbour");
    let grown = rss_after.saturating_sub(rss_before);
    assert!(grown <= RSS_GROWTH_KIB_MAX, "r1 grew from {rss_before} to {rss_after} KiB");
    lab.figures(&format!(
        "{DATAGRAMS} hostile datagrams each on WireGuard's and QUIC's port: {} and {} of {} and {} pings lost, +{grown} KiB",
        pulses[0].lost(),
        pulses[1].lost(),
        pulses[0].answered(),
        pulses[1].answered(),
    ));
}

#[test]
fn a_leaf_that_speaks_the_control_protocols_is_not_heard() {
    let tools = ["ping", "python3", "wireguard-go", "wg"];
    let Some(mut lab) = Lab::open("a_leaf_that_speaks_the_control_protocols_is_not_heard", &tools) else { return };
    let [mut r1, mut r2] = ["r1", "r2"].map(|name| Router::new(&mut lab, name));
    join(&mut lab, &mut r1, &mut r2, PEERS);
    let leaf = Stock::new(&mut lab, "leaf", &mut r1);
    r1.start();
    r2.start();
    joined(&r1, &r2);
    reachable(&leaf.host, &r2.address, secs(20));
    leaf.host.must(&["ip", "-6", "address", "add", "fe80::2/64", "dev", &leaf.device, "nodad"]);

    let routes_before = prefixes(&r1);
    let drops_before = all_drops(&r1);
    let rss_before = r1.process().rss_kib();
    let pulse = Pulse::start(&lab, &r2.host, &r1.address);
    let key: WireguardKey = r1.wireguard_key.parse().expect("a key");
    let addresses =
        [format!("{}%{}", link_local(&key), leaf.device), format!("ff02::1:6%{}", leaf.device), r1.address.clone()];
    let mut random = Rng::with_seed(11);
    let mut sent = 0;
    for (address, port) in addresses.iter().flat_map(|address| CONTROL_PORTS.map(|port| (address, port))) {
        let nonsense = iter::repeat_with(|| garble(&mut random, &[babel_lie(1, &r2.prefix), vec![0x83, 0, 0]]));
        let mut datagrams: Vec<Vec<u8>> = nonsense.take(DATAGRAMS / 9).collect();
        datagrams.extend((0..50).map(|seqno| babel_lie(seqno, &r2.prefix)));
        sent += datagrams.len();
        send_datagrams(&leaf.host, (address, port), port, PER_SECOND, &datagrams);
    }

    let (dropped, rss_after) = (all_drops(&r1) - drops_before, r1.process().rss_kib());
    assert_eq!(prefixes(&r1), routes_before, "the leaf changed the routes");
    assert_eq!(r1.next_hop(&r2).as_deref(), Ok("r2"));
    assert_eq!(pulse.lost(), 0);
    assert_eq!(ping(&leaf.host, &r2.address, 20, &[]), Ok(Pings { sent: 20, answered: 20 }));
    let grown = rss_after.saturating_sub(rss_before);
    assert!(grown <= RSS_GROWTH_KIB_MAX, "r1 grew from {rss_before} to {rss_after} KiB");
    // What is sent to its mesh address is an ordinary packet for an ordinary closed port.
    let control = sent * 2 / 3;
    assert!(dropped >= control as u64, "{dropped} dropped of {control}");
    lab.figures(&format!("{sent} control datagrams from a leaf: {dropped} dropped and counted, +{grown} KiB"));
}

/// Random bytes, or something honest cut short, damaged or whole.
fn garble(random: &mut Rng, honest: &[Vec<u8>]) -> Vec<u8> {
    let mut datagram = match random.u8(0..4) {
        0 => {
            let mut bytes = vec![0; random.usize(0..1472)];
            random.fill(&mut bytes);
            bytes
        }
        _ => honest[random.usize(0..honest.len())].clone(),
    };
    match random.u8(0..3) {
        0 => datagram.truncate(random.usize(0..=datagram.len())),
        1 if !datagram.is_empty() => {
            let at = random.usize(0..datagram.len());
            datagram[at] ^= 1 << random.u8(0..8);
        }
        _ => {}
    }
    datagram
}

/// A well-formed Babel packet (RFC 8966, section 4) that offers the way to somebody else's /48 at no cost.
fn babel_lie(seqno: u16, prefix: &str) -> Vec<u8> {
    let groups = prefix.split(':').map(|group| u16::from_str_radix(group, 16).expect("a group of an address"));
    let [high, low] = seqno.to_be_bytes();
    let mut body = vec![4, 6, 0, 0, high, low, 0, 100]; // Hello, every second
    body.extend([5, 6, 0, 0, 0, 96, 0, 100]); // IHU to everybody
    body.extend([6, 10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 1]); // Router-Id
    body.extend([8, 16, 2, 0, 48, 0, 0, 100, 0xff, low, 0, 0]); // Update, metric 0
    body.extend(groups.flat_map(u16::to_be_bytes));
    let mut packet = vec![42, 2, 0, u8::try_from(body.len()).expect("a short packet")];
    packet.extend(body);
    packet
}

fn prefixes(router: &Router) -> Vec<String> {
    let answer = router.show("routes").unwrap_or_else(|error| panic!("{error}"));
    let lines = answer["routes"].as_array().unwrap_or_else(|| panic!("{answer}"));
    let mut prefixes: Vec<String> =
        lines.iter().map(|line| format!("{} via {}", line["prefix"], line["via"])).collect();
    prefixes.sort();
    prefixes
}

fn all_drops(router: &Router) -> u64 {
    let status = router.show("status").unwrap_or_else(|error| panic!("{error}"));
    let drops = status["drops"].as_object().unwrap_or_else(|| panic!("{status}"));
    drops.values().filter_map(serde_json::Value::as_u64).sum()
}
