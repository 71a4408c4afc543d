//! Links that live on: an address changes, keys are renewed.

use serde_json::Value;

use crate::lab::{Host, Lab, secs, until};
use crate::router::{PEERS, Router, WIREGUARD_PORT, join, join_at};
use crate::traffic::{Pulse, WebServer, iperf_udp, reachable};

/// WireGuard renews its keys after so long (REKEY_AFTER_TIME of the paper, section 6.1).
const REKEY_AFTER_S: u32 = 120;

#[test]
fn a_router_whose_address_changes_stays_reachable_over_ipv6_and_over_ipv4() {
    let name = "a_router_whose_address_changes_stays_reachable_over_ipv6_and_over_ipv4";
    let Some(mut lab) = Lab::open(name, &["ping", "curl", "python3"]) else { return };
    let [mut r1, mut r2, mut r3] = ["r1", "r2", "r3"].map(|name| Router::new(&mut lab, name));
    lab.cable(&r1.host, &r2.host);
    for (host, device, address) in [(&r1.host, "cable1a", "2001:db8::1/64"), (&r2.host, "cable1b", "2001:db8::2/64")] {
        host.must(&["sh", "-c", &format!("echo 0 > /proc/sys/net/ipv6/conf/{device}/disable_ipv6")]);
        host.must(&["ip", "address", "add", address, "dev", device, "nodad"]);
    }
    join_at(&mut r1, &mut r2, PEERS, ("[2001:db8::1]", "[2001:db8::2]"));
    join(&mut lab, &mut r2, &mut r3, PEERS);
    [&mut r1, &mut r2, &mut r3].into_iter().for_each(Router::start);
    reachable(&r1.host, &r3.address, secs(30));
    let web = WebServer::start(&lab, &r3.host, &r3.address, 30_000_000);
    web.must_fetch(&r1.host);

    let mut outages = Vec::new();
    for (host, device, old, new) in
        [(&r1.host, "cable1a", "2001:db8::1/64", "2001:db8::9/64"), (&r3.host, "cable2b", "10.0.2.2/24", "10.0.2.9/24")]
    {
        let pulse = Pulse::start(&lab, &r1.host, &r3.address);
        until("answers", secs(10), || if pulse.answered() > 3 { Ok(()) } else { Err("none yet".to_owned()) });
        let before = pulse.answered();
        move_to(host, device, old, new);
        until("answers at the new address", secs(30), || {
            let more = pulse.answered() - before;
            if more > 10 { Ok(()) } else { Err(format!("{more} answers")) }
        });
        outages.push(pulse.longest_silence());
    }
    for (router, moved, at) in [(&r2, "r1", "[2001:db8::9]"), (&r2, "r3", "10.0.2.9")] {
        let endpoint = router.neighbour(moved).expect("a neighbour")["endpoint"].clone();
        assert_eq!(endpoint, Value::from(format!("{at}:{WIREGUARD_PORT}")));
    }
    web.must_fetch(&r1.host);
    lab.figures(&format!("outages when an address changes, IPv6 and IPv4: {outages:.1?}"));
    assert!(outages.iter().all(|outage| *outage <= secs(3)), "{outages:?}");
}

/// As when a modem gets another lease.
fn move_to(host: &Host, device: &str, old: &str, new: &str) {
    host.must(&["ip", "address", "delete", old, "dev", device]);
    let mut add = vec!["ip", "address", "add", new, "dev", device];
    add.extend(new.contains("::").then_some("nodad"));
    host.must(&add);
}

#[test]
fn new_keys_under_load_lose_nothing() {
    let Some(mut lab) = Lab::open("new_keys_under_load_lose_nothing", &["ping", "iperf3", "nft"]) else { return };
    let mut line = ["r1", "r2", "r3"].map(|name| Router::new(&mut lab, name));
    let [r1, r2, r3] = &mut line;
    join(&mut lab, r1, r2, PEERS);
    join(&mut lab, r2, r3, PEERS);
    line.iter_mut().for_each(Router::start);
    let [r1, _, r3] = &line;
    reachable(&r1.host, &r3.address, secs(30));
    // A handshake initiation begins with this number (WireGuard paper, section 5.4.2).
    let rule = format!("udp dport {WIREGUARD_PORT} @th,64,32 0x01000000 counter name begun");
    for router in &line {
        router.host.must(&[
            "nft",
            &format!("table inet keys {{ counter begun {{ }}; chain input {{ type filter hook input priority 0; {rule}; }}; }}"),
        ]);
    }
    let unread = unread_datagrams(&r3.host);
    let (there, lost) =
        iperf_udp(&lab, &r1.host, &r3.host, &r3.address, &["-l", "1200", "-b", "60M"], REKEY_AFTER_S + 10);
    // What came to the host and iperf3 did not read in time, where others use the processors too, nobody's keys lost.
    let unread = unread_datagrams(&r3.host) - unread;
    let begun: Vec<u64> = line.iter().map(|router| handshakes(&router.host)).collect();
    lab.figures(&format!(
        "{there} datagrams of 60 Mbit/s while handshakes came in: {begun:?}; {lost} lost, {unread} of them at iperf3"
    ));
    assert!(begun.iter().sum::<u64>() >= 2, "keys were not renewed");
    assert_eq!(lost, unread);
}

/// Datagrams that found a socket's buffer full.
fn unread_datagrams(host: &Host) -> u64 {
    let counters = host.must(&["cat", "/proc/net/snmp6"]);
    let line = counters.lines().find_map(|line| line.strip_prefix("Udp6RcvbufErrors"));
    line.and_then(|count| count.trim().parse().ok()).expect("a counter")
}

fn handshakes(host: &Host) -> u64 {
    let said = host.must(&["nft", "-j", "list", "counter", "inet", "keys", "begun"]);
    let said: Value = serde_json::from_str(&said).expect("nft -j prints JSON");
    let counters = said["nftables"].as_array().into_iter().flatten();
    counters.filter_map(|line| line["counter"]["packets"].as_u64()).sum()
}
