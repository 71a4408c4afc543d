//! A ledger that one machine of the mesh serves to all others, over the mesh itself.

use crate::lab::{Lab, now, secs, until};
use crate::ledger::Ledger;
use crate::line::conserved;
use crate::router::{PAYS, Router, join, settled};
use crate::traffic::{WebServer, reachable};

/// A house pays a relay, and the relay a gateway, where the ledger is. It dies under traffic and comes back.
#[test]
fn routers_that_reach_their_ledger_over_the_mesh_pay_and_are_paid_also_when_it_was_away() {
    let name = "routers_that_reach_their_ledger_over_the_mesh_pay_and_are_paid_also_when_it_was_away";
    let Some(mut lab) = Lab::open(name, &["ping", "curl", "python3"]) else { return };
    let ledger = Ledger::create(&lab);
    let mut line = ["house", "relay", "gateway"].map(|name| Router::new(&mut lab, name));
    for (router, ask) in line.iter_mut().zip(["0", "1", "0.5"]) {
        router.join_community(&ledger, ask);
        ledger.mint(router, 20);
    }
    let [house, relay, gateway] = &mut line;
    join(&mut lab, house, relay, PAYS);
    join(&mut lab, relay, gateway, PAYS);
    let served = ledger.serve(&lab, &gateway.host, &gateway.address);
    line.iter_mut().for_each(|router| router.options.served = Some(served.config.clone()));
    line.iter_mut().for_each(Router::start);
    let [house, relay, gateway] = &line;

    reachable(&house.host, &gateway.address, secs(30));
    let web = WebServer::start(&lab, &gateway.host, &gateway.address, 50_000_000);
    // It begins before any channel is open: what opens them has to pass beside it.
    let began = web.must_fetch(&house.host);
    assert!(began < secs(30), "the ledger was reached too late: {began:?}");
    let first = [settled(house, relay), settled(relay, gateway)];
    assert!(first.iter().all(|receipt| receipt.amount > 0), "{first:?}");

    // As a power cut. Nobody needs it to carry and to sign.
    let mut served = served;
    served.process.signal("KILL");
    served.process.ended(secs(5));
    web.must_fetch(&house.host);
    let second = [settled(house, relay), settled(relay, gateway)];
    assert!(second.iter().zip(first).all(|(later, earlier)| later.amount > earlier.amount), "{first:?} {second:?}");

    let back = now();
    let served = ledger.serve(&lab, &gateway.host, &gateway.address);
    for (payee, receipt) in [(relay, second[0]), (gateway, second[1])] {
        let before = payee.wallet().0;
        let redeemed = until("what was signed while it was away", secs(60), || match payee.redeem() {
            0 => Err(format!("{} redeemed nothing", payee.name)),
            redeemed => Ok(redeemed),
        });
        // And a little more: asking the ledger is traffic too.
        assert!(redeemed + receipt.redeemed >= receipt.amount, "{redeemed} {receipt:?}");
        assert_eq!(payee.wallet().0, before + redeemed);
    }
    let back = back.elapsed();

    // Another client, and anybody with curl.
    let audit =
        served.command(&house.host, &lab.dir().join("audit"), &["audit"]).unwrap_or_else(|error| panic!("{error}"));
    assert!(audit.starts_with("every rule was kept in all "), "{audit}");
    let account = format!("{}/v1/accounts/{}", served.url, relay.id);
    let line_of_curl: Vec<&str> =
        ["curl", "-sSfg"].into_iter().chain(served.curl.split(' ')).chain([&*account]).collect();
    let said: serde_json::Value = serde_json::from_str(&house.host.must(&line_of_curl)).expect("an account in JSON");
    assert_eq!(said["balance"], relay.wallet().0.to_string());
    let other_key = "sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let refused = house.host.run(&["curl", "-sSfgk", "--pinnedpubkey", other_key, &account]);
    assert!(refused.is_err(), "curl believes any key: {refused:?}");
    conserved(&ledger, &line);
    lab.figures(&format!(
        "house and relay pay with the ledger two hops away; {:?} base units, for 50 MB in {:.1} s with no channel at first; {:?} more \
         without it; redeemed {:.1} s after it is back",
        first.map(|receipt| receipt.amount),
        began.as_secs_f64(),
        [0, 1].map(|hop| second[hop].amount - first[hop].amount),
        back.as_secs_f64(),
    ));
}
