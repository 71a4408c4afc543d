//! Links that fall back to QUIC while WireGuard is blocked, and return.

use std::thread;
use std::time::Duration;

use crate::lab::{Host, Lab, now, secs, until};
use crate::ledger::Ledger;
use crate::router::{
    Joint, PAYS, PEERS, QUIC_PORT, Router, WIREGUARD_PORT, join, joined, paying_pair, routed, settled,
    through_a_provider,
};
use crate::traffic::{Pings, Pulse, WebServer, mbit_per_s, ping, reachable};

/// What people forgive.
const OUTAGE_MAX: Duration = secs(5);

#[test]
fn a_link_falls_back_to_quic_within_five_seconds_and_returns_and_the_count_goes_on() {
    let name = "a_link_falls_back_to_quic_within_five_seconds_and_returns_and_the_count_goes_on";
    let Some(mut lab) = Lab::open(name, &["ping", "curl", "python3", "nft"]) else { return };
    let ledger = Ledger::create(&lab);
    let [r1, r2] = &mut paying_pair(&mut lab, &ledger, ("1000", 1000), Joint { link: "auto", ..PAYS });
    [&mut *r1, &mut *r2].into_iter().for_each(Router::start);
    joined(r1, r2);
    routed(r1, r2);
    let (r1, r2) = (&*r1, &*r2);
    reachable(&r1.host, &r2.address, secs(20));
    carried_by("wireguard", r1, r2, secs(5));
    let agreed = [r1, r2].map(|router| router.log().matches("terms agreed").count());

    let web = WebServer::start(&lab, &r2.host, &r2.address, 120_000_000);
    let pulse = Pulse::start(&lab, &r1.host, &r2.address);
    let (outage, back, outage_back) = thread::scope(|scope| {
        let download = scope.spawn(|| web.must_fetch_gently(&r1.host));
        pulse.must_be_answered(10);
        block(&[&r1.host, &r2.host]);
        let began = now();
        carried_by("quic", r1, r2, secs(10));
        let switched = began.elapsed();
        pulse.must_be_answered(10);
        let outage = pulse.longest_silence();
        assert!(switched <= OUTAGE_MAX, "{switched:?}");
        // What carries it is shown, and where to.
        let line = r1.neighbour("r2").expect("a neighbour");
        assert_eq!(line["link"], "auto");
        assert!(line["endpoint"].as_str().is_some_and(|at| at.ends_with(&format!(":{QUIC_PORT}"))), "{line}");

        let (lost, began) = (pulse.lost(), now());
        unblock(&[&r1.host, &r2.host]);
        carried_by("wireguard", r1, r2, secs(60));
        let back = began.elapsed();
        pulse.must_be_answered(10);
        let outage_back = Duration::from_millis(200) * (pulse.lost() - lost);
        download.join().expect("the file arrives as it is");
        (outage, back, outage_back)
    });
    drop(pulse);
    let receipt = settled(r1, r2);
    let (ours, theirs) = (r1.meter(r2).expect("a meter"), r2.meter(r1).expect("a meter"));
    let lost = [(ours.sent, theirs.received), (theirs.sent, ours.received)]
        .map(|(sent, received)| sent.checked_sub(received).expect("nothing is received that was not sent"));
    lab.figures(&format!(
        "{outage:?} without answers when WireGuard is blocked; back {back:.1?} after it is not, {outage_back:?} lost then; \
         {} + {} billed bytes, {lost:?} of them lost on the way; signed and held {}",
        ours.sent, ours.received, receipt.amount,
    ));
    assert!(outage <= OUTAGE_MAX, "{outage:?}");
    assert!(outage_back <= secs(1), "{outage_back:?}");
    // The file once, and what the two seconds before the way was changed had in flight.
    assert!(lost.iter().all(|lost| *lost < 4_000_000), "{lost:?}");
    let again = [r1, r2].map(|router| router.log().matches("terms agreed").count());
    assert_eq!(again, agreed, "the link was another one for a moment");
}

#[test]
fn a_link_comes_up_by_quic_where_wireguard_never_passed_and_full_size_packets_pass_whatever_the_way_takes() {
    let name = "a_link_comes_up_by_quic_where_wireguard_never_passed_and_full_size_packets_pass_whatever_the_way_takes";
    let Some(mut lab) = Lab::open(name, &["ping", "curl", "python3", "nft"]) else { return };
    let ([mut r1, mut r2], provider) = through_a_provider(&mut lab, Joint { link: "auto", ..PEERS });
    // Only the second is known to the first.
    r2.options.tables = r2.options.tables.iter().map(|table| without_endpoints(table)).collect();
    block(&[&r1.host, &r2.host]);
    let mut figures = Vec::new();
    for room in ["1500", "1400", "1280"] {
        for (host, device) in [(&provider, "cable2a"), (&r2.host, "cable2b")] {
            host.must(&["ip", "link", "set", device, "mtu", room]);
        }
        let began = now();
        [&mut r1, &mut r2].into_iter().for_each(Router::start);
        joined(&r1, &r2);
        let up = began.elapsed();
        carried_by("quic", &r1, &r2, secs(5));
        reachable(&r1.host, &r2.address, secs(20));
        for (from, to) in [(&r1, &r2), (&r2, &r1)] {
            let full = ping(&from.host, &to.address, 20, &["-s", "1372", "-M", "do"]);
            assert_eq!(full, Ok(Pings { sent: 20, answered: 20 }), "{} on a way of {room}", from.name);
        }
        let web = WebServer::start(&lab, &r2.host, &r2.address, 20_000_000);
        let took = web.must_fetch(&r1.host);
        assert!(took < secs(20), "{took:?} on a way of {room}");
        figures.push(format!("{room}: up after {up:.1?}, {:.0} Mbit/s", mbit_per_s(web.content.bytes, took)));
        drop(web);
        let of_this = lab.dir().join(format!("web-{}", r2.address.replace(':', "_")));
        std::fs::remove_dir_all(&of_this).expect("it is there");
        std::fs::remove_file(of_this.with_extension("log")).expect("it is there");
        if room != "1280" {
            [&mut r1, &mut r2].into_iter().for_each(Router::stop);
        }
    }
    let began = now();
    unblock(&[&r1.host, &r2.host]);
    carried_by("wireguard", &r1, &r2, secs(60));
    let back = began.elapsed();
    // The narrow way is WireGuard's too.
    reachable(&r1.host, &r2.address, secs(20));
    lab.figures(&format!("{}; WireGuard after {back:.1?}", figures.join("; ")));
}

#[test]
fn a_firewall_that_passes_handshakes_and_drops_data_is_gone_round_within_five_seconds() {
    let name = "a_firewall_that_passes_handshakes_and_drops_data_is_gone_round_within_five_seconds";
    let Some(mut lab) = Lab::open(name, &["ping", "nft"]) else { return };
    let [mut r1, mut r2] = ["r1", "r2"].map(|name| Router::new(&mut lab, name));
    join(&mut lab, &mut r1, &mut r2, Joint { link: "auto", ..PEERS });
    [&mut r1, &mut r2].into_iter().for_each(Router::start);
    joined(&r1, &r2);
    reachable(&r1.host, &r2.address, secs(20));
    let pulse = Pulse::start(&lab, &r1.host, &r2.address);
    pulse.must_be_answered(5);
    let began = now();
    // What a datagram begins with: 4, and three bytes of zero.
    let data = format!("udp dport {WIREGUARD_PORT} @th,64,32 0x04000000 drop");
    for router in [&r1, &r2] {
        let table = format!("table inet blocked {{ chain input {{ type filter hook input priority 0; {data}; }}; }}");
        router.host.must(&["nft", &table]);
    }
    carried_by("quic", &r1, &r2, secs(10));
    let switched = began.elapsed();
    pulse.must_be_answered(5);
    let outage = pulse.longest_silence();
    lab.figures(&format!("by QUIC after {switched:.1?}; {outage:.1?} without answers"));
    assert!(switched <= OUTAGE_MAX && outage <= OUTAGE_MAX, "{switched:?} {outage:?}");
}

#[test]
fn quic_neighbours_come_and_go_by_a_reload() {
    let Some(mut lab) = Lab::open("quic_neighbours_come_and_go_by_a_reload", &["ping"]) else { return };
    let [mut r1, mut r2, mut r3] = ["r1", "r2", "r3"].map(|name| Router::new(&mut lab, name));
    join(&mut lab, &mut r1, &mut r2, Joint { link: "quic", ..PEERS });
    [&mut r1, &mut r2].into_iter().for_each(Router::start);
    joined(&r1, &r2);
    let pulse = Pulse::start(&lab, &r1.host, &r2.address);
    join(&mut lab, &mut r1, &mut r3, Joint { link: "quic", ..PEERS });
    r3.start();
    r1.write_config();
    r1.reload();
    joined(&r1, &r3);
    reachable(&r1.host, &r3.address, secs(20));
    r1.options.tables.pop();
    r1.write_config();
    r1.reload();
    until("end of the link", secs(10), || match (r1.neighbour("r3"), r3.neighbour("r1")?) {
        (Err(_), line) if line["state"] == "down" => Ok(()),
        (known, line) => Err(format!("{known:?} {line}")),
    });
    assert_eq!(pulse.lost(), 0, "the other link went on");
    let status = r1.show("status").expect("an answer");
    assert_eq!(status["warnings"], serde_json::json!([]));
}

fn without_endpoints(table: &str) -> String {
    table.lines().filter(|line| !line.contains("endpoint")).fold(String::new(), |text, line| text + line + "\n")
}

/// Waits until both send by this.
pub(crate) fn carried_by(carrier: &str, a: &Router, b: &Router, patience: Duration) {
    until(carrier, patience, || match (a.link_to(b)?, b.link_to(a)?) {
        (a, b) if a["carrier"] == carrier && b["carrier"] == carrier => Ok(()),
        (a, b) => Err(format!("{a} {b}")),
    });
}

/// Drops what WireGuard sends, on its way in.
pub(crate) fn block(hosts: &[&Host]) {
    for host in hosts {
        let rule = format!("udp dport {WIREGUARD_PORT} drop; udp sport {WIREGUARD_PORT} drop");
        let table = format!("table inet blocked {{ chain input {{ type filter hook input priority 0; {rule}; }}; }}");
        host.must(&["nft", &table]);
    }
}

fn unblock(hosts: &[&Host]) {
    for host in hosts {
        host.must(&["nft", "delete table inet blocked"]);
    }
}
