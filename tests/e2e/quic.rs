//! Two routers joined by QUIC, over an Ethernet of 1500 bytes.

use crate::lab::{Lab, secs};
use crate::router::{Joint, PEERS, Router, join, joined};
use crate::traffic::{Pings, WebServer, mbit_per_s, ping, reachable};

#[test]
fn full_size_packets_and_files_pass_a_quic_link() {
    let tools = ["ping", "curl", "python3"];
    let Some(mut lab) = Lab::open("full_size_packets_and_files_pass_a_quic_link", &tools) else { return };
    let [mut r1, mut r2] = ["r1", "r2"].map(|name| Router::new(&mut lab, name));
    join(&mut lab, &mut r1, &mut r2, Joint { link: "quic", ..PEERS });
    r1.start();
    r2.start();
    joined(&r1, &r2);
    let line = r1.neighbour("r2").expect("a neighbour");
    assert_eq!(line["link"], "quic");

    // 40 bytes of IPv6, 8 of ICMPv6 and 1372 of payload are 1420, which may not be fragmented.
    reachable(&r1.host, &r2.address, secs(20));
    let full = ["-s", "1372", "-M", "do"];
    for (from, to) in [(&r1, &r2), (&r2, &r1)] {
        assert_eq!(ping(&from.host, &to.address, 20, &full), Ok(Pings { sent: 20, answered: 20 }));
    }
    let too_long = ping(&r1.host, &r2.address, 2, &["-s", "1373", "-M", "do"]);
    assert!(!too_long.is_ok_and(|pings| pings.answered > 0), "a packet of 1421 bytes passed");

    let web = WebServer::start(&lab, &r2.host, &r2.address, 50_000_000);
    let took = web.must_fetch(&r1.host);
    lab.figures(&format!(
        "1420-byte packets pass both ways; 50 MB at {:.0} Mbit/s",
        mbit_per_s(web.content.bytes, took)
    ));
}
