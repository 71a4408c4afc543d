//! Ways with less room than a cable that do not say so.

use crate::lab::{Lab, secs, until};
use crate::router::{PEERS, Router, through_a_provider};
use crate::traffic::{WebServer, ping, reachable};

/// Of the narrow part of the way, in bytes: a mobile network's.
const NARROW: &str = "1400";
/// The longest that is tried and fits behind the 60 bytes of headers of WireGuard over IPv4.
const FITS: u64 = 1330;

#[test]
fn how_long_packets_may_be_is_found_out_where_nobody_says_so() {
    let name = "how_long_packets_may_be_is_found_out_where_nobody_says_so";
    let Some(mut lab) = Lab::open(name, &["ping", "curl", "python3", "nft"]) else { return };
    let ([mut r1, mut r2], provider) = through_a_provider(&mut lab, PEERS);
    for (host, device) in [(&provider, "cable2a"), (&r2.host, "cable2b")] {
        host.must(&["ip", "link", "set", device, "mtu", NARROW]);
    }
    [&mut r1, &mut r2].into_iter().for_each(Router::start);
    reachable(&r1.host, &r2.address, secs(30));
    let found = |from: &Router, to: &Router| from.neighbour(to.name).map(|line| line["mtu"].as_u64());
    for (from, to) in [(&r1, &r2), (&r2, &r1)] {
        until("length of packets", secs(20), || match found(from, to)? {
            Some(FITS) => Ok(()),
            other => Err(format!("{}: {other:?}", from.name)),
        });
    }

    for (server, client) in [(&r1, &r2), (&r2, &r1)] {
        WebServer::start(&lab, &server.host, &server.address, 20_000_000).must_fetch(&client.host);
    }
    // A host that did not know sends once what is too long, and is told; after that its kernel cuts.
    let long = ["-s", "1372", "-M", "want"];
    ping(&r1.host, &r2.address, 2, &long).expect("ping runs");
    let pings = ping(&r1.host, &r2.address, 10, &long).expect("ping runs");
    lab.figures(&format!(
        "{FITS} bytes found on a way of {NARROW}; {} of {} long pings answered",
        pings.answered, pings.sent
    ));
    assert!(pings.sent - pings.answered <= 1, "{pings:?}");
}
