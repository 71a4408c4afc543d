//! Many flows at once over cables that lose packets and cut trains apart, through routers with and without offloads.

use std::thread;

use crate::lab::{Host, Lab, secs};
use crate::router::{PEERS, Router, WIREGUARD_PORT, join};
use crate::traffic::{WebServer, iperf_udp, reachable};

/// Bytes of each download, unless `LOSSY_BYTES` says otherwise.
const FILE: u64 = 40_000_000;
/// Datagrams of a call beside the downloads: size and rate of spoken words.
const CALL: [&str; 4] = ["-l", "200", "-b", "400k"];

#[test]
fn many_flows_over_lossy_cables_arrive_whole_and_are_counted_as_they_arrived() {
    let name = "many_flows_over_lossy_cables_arrive_whole_and_are_counted_as_they_arrived";
    let Some(mut lab) = Lab::open(name, &["ping", "curl", "python3", "nft", "tc", "iperf3"]) else { return };
    let size = std::env::var("LOSSY_BYTES").map_or(FILE, |bytes| bytes.parse().expect("LOSSY_BYTES is a number"));
    let mut line = ["r1", "r2", "r3", "r4"].map(|name| Router::new(&mut lab, name));
    line[2].options.without_offloads = true;
    let [r1, r2, r3, r4] = &mut line;
    join(&mut lab, r1, r2, PEERS);
    join(&mut lab, r2, r3, PEERS);
    join(&mut lab, r3, r4, PEERS);
    line.iter_mut().for_each(Router::start);
    let [r1, r2, r3, r4] = &line;
    reachable(&r1.host, &r4.address, secs(30));
    let there = WebServer::start(&lab, &r4.host, &r4.address, size);
    let back = WebServer::start(&lab, &r1.host, &r1.address, size);
    // The first cable carries whole trains of the relay beside it; the others cut them apart and lose one packet in a
    // hundred, and in one of them some overtake others.
    for (host, cable) in [(&r2.host, "cable2a"), (&r3.host, "cable2b"), (&r3.host, "cable3a"), (&r4.host, "cable3b")] {
        host.must(&["ip", "link", "set", cable, "gso_max_segs", "1"]);
    }
    [&r3.host, &r4.host].into_iter().for_each(lose_one_in_a_hundred);
    hold_up_some(&r3.host, "cable2b");

    let call = thread::scope(|scope| {
        for (server, client) in [(&there, &r1.host), (&back, &r4.host), (&there, &r2.host), (&back, &r3.host)] {
            scope.spawn(move || server.must_fetch(client));
        }
        iperf_udp(&lab, &r1.host, &r4.host, &r4.address, &CALL, 10)
    });

    let mut lost = Vec::new();
    for (a, b) in [(r1, r2), (r2, r3), (r3, r4)] {
        for (from, to) in [(a, b), (b, a)] {
            let (sent, received) = (from.meter(to).expect("a meter").sent, to.meter(from).expect("a meter").received);
            lost.push(sent.checked_sub(received).expect("nothing is received that was not sent"));
        }
    }
    let [_, _, there_r3, back_r2, there_r4, back_r3] = lost[..] else { panic!("{lost:?}") };
    assert_eq!(lost[..2], [0, 0], "a cable that loses nothing");
    for (lost, at) in [(there_r3, "r3 from r2"), (there_r4, "r4 from r3"), (back_r3, "r3 from r4")] {
        assert!(lost > 0, "nothing was lost on the way to {at}");
    }
    assert_eq!(back_r2, 0, "r2 loses nothing");
    let drops: Vec<u64> = line.iter().map(|router| router.drops("queue-full")).collect();
    lab.figures(&format!(
        "4 downloads of {size} bytes each, a call of which {} of {} datagrams were lost; {lost:?} billed bytes lost on the way, \
         {drops:?} packets dropped",
        call.1, call.0,
    ));
}

fn lose_one_in_a_hundred(host: &Host) {
    let rule = format!("udp dport {WIREGUARD_PORT} numgen random mod 100 < 1 drop");
    host.must(&[
        "nft",
        &format!("table inet loss {{ chain input {{ type filter hook input priority 0; {rule}; }}; }}"),
    ]);
}

/// One packet in a hundred that comes in takes a detour over a slow cable: those behind it overtake it.
fn hold_up_some(host: &Host, cable: &str) {
    let address = host.must(&["cat", &format!("/sys/class/net/{cable}/address")]);
    host.must(&["ip", "link", "add", "slow", "type", "veth", "peer", "name", "late"]);
    host.must(&["ip", "link", "set", "late", "address", address.trim()]);
    host.must(&[
        "tc", "qdisc", "add", "dev", "slow", "root", "tbf", "rate", "5mbit", "burst", "3000", "limit", "20000",
    ]);
    // What arrives late arrives by another cable than its sender is reached by.
    for conf in ["all", "late"] {
        host.must(&["sh", "-c", &format!("echo 0 > /proc/sys/net/ipv4/conf/{conf}/rp_filter")]);
    }
    for cable in ["slow", "late"] {
        host.must(&["ip", "link", "set", cable, "up"]);
    }
    let rule = format!("udp dport {WIREGUARD_PORT} numgen random mod 100 < 1 fwd to \"slow\"");
    host.must(&[
        "nft",
        &format!("table netdev disorder {{ chain ingress {{ type filter hook ingress device \"{cable}\" priority 0; {rule}; }}; }}"),
    ]);
}
