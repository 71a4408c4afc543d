//! A stock WireGuard client as a leaf.

use crate::lab::{Lab, secs, until};
use crate::router::{PEERS, Router, join, joined};
use crate::stock::Stock;
use crate::traffic::{Pings, WebServer, mbit_per_s, ping, reachable};

#[test]
fn a_stock_wireguard_client_is_a_leaf_and_speaks_only_for_itself() {
    let tools = ["ping", "curl", "python3", "wireguard-go", "wg"];
    let Some(mut lab) = Lab::open("a_stock_wireguard_client_is_a_leaf_and_speaks_only_for_itself", &tools) else {
        return;
    };
    let [mut r1, mut r2] = ["r1", "r2"].map(|name| Router::new(&mut lab, name));
    join(&mut lab, &mut r1, &mut r2, PEERS);
    let leaf = Stock::new(&mut lab, "leaf", &mut r1);
    r1.start();
    r2.start();
    joined(&r1, &r2);

    reachable(&leaf.host, &r1.address, secs(15));
    let handshake = leaf.host.must(&["wg", "show", &leaf.device, "latest-handshakes"]);
    assert!(!handshake.ends_with("\t0"), "no handshake: {handshake}");
    let all = Ok(Pings { sent: 20, answered: 20 });
    assert_eq!(ping(&leaf.host, &r1.address, 20, &[]), all);
    assert_eq!(ping(&r1.host, &leaf.address, 20, &[]), all);
    reachable(&leaf.host, &r2.address, secs(15));
    assert_eq!(ping(&leaf.host, &r2.address, 20, &[]), all);

    let down = WebServer::start(&lab, &r1.host, &r1.address, 100_000_000);
    let up = WebServer::start(&lab, &leaf.host, &leaf.address, 100_000_000);
    let (took_down, took_up) = (down.must_fetch(&leaf.host), up.must_fetch(&r1.host));

    // With another address of the mesh, and with one of the router's /48 that was not given to it, nothing passes.
    let forged = [format!("{}:1::3", r1.prefix), "fd00:bad::1".to_owned(), r2.address.clone()];
    for source in &forged {
        let before = r1.drops("source-not-allowed");
        leaf.host.must(&["ip", "-6", "address", "add", &format!("{source}/128"), "dev", &leaf.device, "nodad"]);
        let pings = ping(&leaf.host, &r1.address, 10, &["-I", source]);
        let pings = pings.expect("ping may use its own address");
        assert_eq!(pings.answered, 0, "{source} was answered");
        until("count of what was dropped", secs(5), || match r1.drops("source-not-allowed") - before {
            dropped if dropped >= u64::from(pings.sent) => Ok(()),
            dropped => Err(format!("{dropped} dropped of {pings:?}")),
        });
        leaf.host.must(&["ip", "-6", "address", "del", &format!("{source}/128"), "dev", &leaf.device]);
    }
    assert_eq!(ping(&leaf.host, &r1.address, 10, &[]), Ok(Pings { sent: 10, answered: 10 }));
    lab.figures(&format!(
        "100 MB to the leaf at {:.0} Mbit/s, from it at {:.0} Mbit/s; {} forged sources dropped",
        mbit_per_s(down.content.bytes, took_down),
        mbit_per_s(up.content.bytes, took_up),
        forged.len(),
    ));
}
