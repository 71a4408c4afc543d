//! Routing as people meet it: a router of another kind in the mesh, and cables that are pulled.

use std::time::Duration;

use crate::lab::{Background, Lab, now, secs, until};
use crate::ledger::Ledger;
use crate::router::{PAYS, PEERS, Router, join, joined, text};
use crate::stock::Stock;
use crate::traffic::{Pings, Pulse, ping, reachable};

/// A babeld that announces its machine's address in the tunnel.
fn babeld(lab: &Lab, stock: &Stock) -> Background {
    let file = |name: &str| lab.dir().join(name);
    let (interface, announce) = (
        format!("interface {} type tunnel hello-interval 1", stock.device),
        format!("redistribute local ip {}/128", stock.address),
    );
    let (pid, state) = (file("babeld.pid"), file("babeld.state"));
    stock.host.start(
        &file("babeld.log"),
        &[
            "babeld",
            "-I",
            text(&pid),
            "-S",
            text(&state),
            "-C",
            &interface,
            "-C",
            &announce,
            "-C",
            "redistribute local deny",
        ],
    )
}

#[test]
fn a_router_with_babeld_in_a_stock_tunnel_is_part_of_the_mesh() {
    let tools = ["ping", "wireguard-go", "wg", "babeld"];
    let Some(mut lab) = Lab::open("a_router_with_babeld_in_a_stock_tunnel_is_part_of_the_mesh", &tools) else {
        return;
    };
    let [mut r1, mut r2] = ["r1", "r2"].map(|name| Router::new(&mut lab, name));
    join(&mut lab, &mut r1, &mut r2, PEERS);
    let stock = Stock::routing(&mut lab, "old", &mut r1);
    r1.start();
    r2.start();
    joined(&r1, &r2);
    let daemon = babeld(&lab, &stock);
    // Both ways: babeld knows r2's prefix, r2 knows babeld's address, and r1 carries between them.
    reachable(&r2.host, &stock.address, secs(30));
    reachable(&stock.host, &r2.address, secs(15));
    let neighbour = until("neighbour", secs(10), || {
        let neighbour = r1.neighbour("old")?;
        if neighbour["rtt_us"].is_u64() { Ok(neighbour) } else { Err(neighbour.to_string()) }
    });
    assert_eq!((neighbour["role"].as_str(), neighbour["state"].as_str()), (Some("babel"), Some("up")));

    daemon.signal("TERM");
    until("route to be gone", secs(15), || {
        let routes = r2.show("routes")?.to_string();
        let known = format!("\"prefix\":\"{}/128\"", stock.address);
        let selected = routes.split('{').any(|route| route.contains(&known) && route.contains("\"selected\":true"));
        if selected { Err(routes) } else { Ok(()) }
    });
    drop(daemon);
    let began = now();
    let _daemon = babeld(&lab, &stock);
    reachable(&r2.host, &stock.address, secs(60));
    lab.figures(&format!(
        "back {:.1} s after babeld's start, its round trip is {} us",
        began.elapsed().as_secs_f64(),
        neighbour["rtt_us"],
    ));
}

/// A cable that is pulled at one end has no carrier at either; the neighbours' daemons are asked and do not answer.
const NOTICED_WITHIN: Duration = Duration::from_secs(2);

#[test]
fn a_pulled_cable_is_noticed_at_once() {
    let Some(mut lab) = Lab::open("a_pulled_cable_is_noticed_at_once", &["ping"]) else { return };
    let mut ring = ["r1", "r2", "r3"].map(|name| Router::new(&mut lab, name));
    let [r1, r2, r3] = &mut ring;
    join(&mut lab, r1, r2, PEERS);
    join(&mut lab, r2, r3, PEERS);
    join(&mut lab, r3, r1, PEERS);
    ring.iter_mut().for_each(Router::start);
    let [r1, r2, r3] = &ring;
    joined(r1, r2);
    joined(r2, r3);
    joined(r3, r1);
    until("direct way", secs(30), || match r1.next_hop(r2)? {
        hop if hop == "r2" => Ok(()),
        hop => Err(hop),
    });
    reachable(&r1.host, &r2.address, secs(10));
    let pulse = Pulse::start(&lab, &r1.host, &r2.address);
    until("pulse", secs(10), || if pulse.answered() > 20 { Ok(()) } else { Err(format!("{}", pulse.answered())) });
    let answered = pulse.answered();
    r1.host.must(&["ip", "link", "set", "cable1a", "down"]);
    until("way around", secs(20), || match r1.next_hop(r2)? {
        hop if hop == "r3" => Ok(()),
        hop => Err(hop),
    });
    until("pulse", secs(20), || {
        if pulse.answered() > answered + 20 { Ok(()) } else { Err(format!("{}", pulse.answered())) }
    });
    let outage = pulse.longest_silence();
    assert!(outage <= NOTICED_WITHIN, "nothing came back for {outage:?}");
    lab.figures(&format!("outage {:.2} s after the cable was pulled", outage.as_secs_f64()));
}

#[test]
fn the_cheaper_way_is_used_although_it_is_longer_and_not_feasible_at_first() {
    let test = "the_cheaper_way_is_used_although_it_is_longer_and_not_feasible_at_first";
    let Some(mut lab) = Lab::open(test, &["ping"]) else { return };
    let ledger = Ledger::create(&lab);
    let mut all = ["r1", "r2", "r3", "r4", "r5"].map(|name| Router::new(&mut lab, name));
    // r1 reaches r3 through r2 for 1 token, or a hop longer through r4 and r5 for a quarter of it.
    for (router, ask) in all.iter_mut().zip(["0", "1", "0", "0.25", "0"]) {
        router.join_community(&ledger, ask);
        router.options.hop_worth = "0.5";
        ledger.mint(router, 20);
    }
    let [r1, r2, r3, r4, r5] = &mut all;
    join(&mut lab, r1, r2, PAYS);
    join(&mut lab, r2, r3, PEERS);
    join(&mut lab, r1, r4, PAYS);
    join(&mut lab, r4, r5, PEERS);
    join(&mut lab, r5, r3, PEERS);
    all.iter_mut().for_each(Router::start);
    let [r1, _, r3, r4, _] = &all;

    reachable(&r1.host, &r3.address, secs(30));
    let began = now();
    until("cheaper way", secs(60), || match r1.next_hop(r3)? {
        hop if hop == "r4" => Ok(()),
        hop => Err(hop),
    });
    let took = began.elapsed();
    until("cheaper way back", secs(60), || match r3.next_hop(r1)? {
        hop if hop == "r5" => Ok(()),
        hop => Err(hop),
    });
    assert_eq!(ping(&r1.host, &r3.address, 20, &[]), Ok(Pings { sent: 20, answered: 20 }));
    // What comes back is paid for too, so r1 told r2 and r4 what it costs to be sent something by them.
    let carried = r4.meter(r1).expect("a meter");
    assert!(carried.received >= 20 * 144 && carried.sent >= 20 * 144, "{carried:?}");
    lab.figures(&format!(
        "moved to the cheaper way after {:.1} s, there and back, no ping lost on it",
        took.as_secs_f64()
    ));
}
