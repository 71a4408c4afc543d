//! Four routers in a ring, and the one that carries the traffic loses power.

use std::thread;

use crate::lab::{Lab, secs, until};
use crate::ledger::Ledger;
use crate::line::conserved;
use crate::router::{Joint, PAYS, Router, join, settled};
use crate::traffic::{Pulse, WebServer, reachable};

/// How long traffic may take to find the other way around.
const HEALED_WITHIN_S: u64 = 10;

#[test]
fn a_ring_heals_when_the_relay_dies_and_no_token_is_lost_or_made() {
    let tools = ["ping", "curl", "python3"];
    let Some(mut lab) = Lab::open("a_ring_heals_when_the_relay_dies_and_no_token_is_lost_or_made", &tools) else {
        return;
    };
    let ledger = Ledger::create(&lab);
    let mut ring = ["r1", "r2", "r3", "r4"].map(|name| Router::new(&mut lab, name));
    for (router, ask) in ring.iter_mut().zip(["0", "1", "0.5", "1"]) {
        router.join_community(&ledger, ask);
        ledger.mint(router, 20);
    }
    let [r1, r2, r3, r4] = &mut ring;
    let detour = Joint { cost: 200, ..PAYS };
    join(&mut lab, r1, r2, PAYS);
    join(&mut lab, r2, r3, PAYS);
    join(&mut lab, r1, r4, detour);
    join(&mut lab, r4, r3, detour);
    ring.iter_mut().for_each(Router::start);
    let [r1, r2, r3, r4] = &mut ring;

    reachable(&r1.host, &r3.address, secs(30));
    until("way through r2", secs(30), || ways_through(r2, r1, r3));
    let web = WebServer::start(&lab, &r3.host, &r3.address, 60_000_000);
    web.must_fetch(&r1.host);
    let before = (settled(r1, r2), settled(r2, r3));
    // Totals are written with receipts, every few minutes; what is redeemed is written.
    assert!(r2.redeem() > 0);
    let counted_before = (r2.meter(r1).expect("a meter"), r2.meter(r3).expect("a meter"));

    // A download is under way when r2 dies; it comes to its end by the other way.
    let pulse = Pulse::start(&lab, &r1.host, &r3.address);
    let fetched = thread::scope(|scope| {
        let download = scope.spawn(|| web.fetch(&r1.host, &["--limit-rate", "5M"]));
        thread::sleep(secs(3));
        r2.kill();
        download.join().expect("curl's thread ends")
    });
    let (arrived, _) = fetched.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(arrived, web.content);
    assert_eq!(r1.next_hop(r3).as_deref(), Ok("r4"));
    let outage = pulse.longest_silence();
    assert!(outage <= secs(HEALED_WITHIN_S), "nothing came back for {outage:?}");

    // r2 comes back, knows what it was owed, and carries on where it stopped.
    r2.start();
    let lost = pulse.lost();
    until("way through r2 again", secs(60), || ways_through(r2, r1, r3));
    reachable(&r1.host, &r3.address, secs(10));
    let lost_at_return = pulse.lost() - lost;
    drop(pulse);
    web.must_fetch(&r1.host);
    let after = (settled(r1, r2), settled(r2, r3));
    let counted_after = (r2.meter(r1).expect("a meter"), r2.meter(r3).expect("a meter"));
    for (before, after) in [(before.0, after.0), (before.1, after.1)] {
        assert_eq!(after.nonce, before.nonce, "another channel");
        assert!(after.amount > before.amount, "paid {before:?}, then {after:?}");
    }
    for (before, after) in [(counted_before.0, counted_after.0), (counted_before.1, counted_after.1)] {
        assert!(after.sent > before.sent && after.received > before.received, "{before:?}, then {after:?}");
    }

    let settlements =
        [(&*r1, &*r2), (&*r2, &*r3), (&*r1, &*r4), (&*r4, &*r3)].map(|(payer, payee)| settled(payer, payee));
    let owed: u128 = settlements.iter().map(|receipt| receipt.amount - receipt.redeemed).sum();
    let redeemed: u128 = ring.iter().map(Router::redeem).sum();
    assert_eq!(redeemed, owed);
    conserved(&ledger, &ring);
    lab.figures(&format!(
        "outage {:.1} s after kill -9 of the relay, {lost_at_return} pings lost at its return, {redeemed} base units redeemed",
        outage.as_secs_f64(),
    ));
}

/// There and back.
fn ways_through(relay: &Router, a: &Router, b: &Router) -> Result<(), String> {
    let next_hops = (a.next_hop(b)?, b.next_hop(a)?);
    let there_and_back = next_hops == (relay.name.to_owned(), relay.name.to_owned());
    if there_and_back { Ok(()) } else { Err(format!("the ways go through {next_hops:?}")) }
}
