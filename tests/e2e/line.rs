//! Four routers in a line: one's subscriber is the next one's provider's customer, down to the one that has the file.

use crate::lab::{Lab, secs, until};
use crate::ledger::{Ledger, TOKEN};
use crate::router::{PAYS, Router, join, settled};
use crate::traffic::{Pings, WebServer, iperf, mbit_per_s, ping, reachable};

#[test]
fn a_line_of_four_carries_traffic_and_every_hop_is_paid() {
    let tools = ["ping", "curl", "iperf3", "python3"];
    let Some(mut lab) = Lab::open("a_line_of_four_carries_traffic_and_every_hop_is_paid", &tools) else { return };
    let ledger = Ledger::create(&lab);
    let mut line = ["r1", "r2", "r3", "r4"].map(|name| Router::new(&mut lab, name));
    for (router, ask) in line.iter_mut().zip(["0", "1", "0.8", "0.5"]) {
        router.join_community(&ledger, ask);
        ledger.mint(router, 20);
    }
    let [r1, r2, r3, r4] = &mut line;
    join(&mut lab, r1, r2, PAYS);
    join(&mut lab, r2, r3, PAYS);
    join(&mut lab, r3, r4, PAYS);
    line.iter_mut().for_each(Router::start);
    let [r1, r2, r3, r4] = &line;

    reachable(&r1.host, &r4.address, secs(30));
    assert_eq!(ping(&r1.host, &r4.address, 20, &[]), Ok(Pings { sent: 20, answered: 20 }));
    let web = WebServer::start(&lab, &r4.host, &r4.address, 200_000_000);
    let took = web.must_fetch(&r1.host);
    let rate = iperf(&lab, &r1.host, &r4.host, &r4.address, 10);

    let hops = [(r1, r2), (r2, r3), (r3, r4)];
    let mut paid = Vec::new();
    for (payer, payee) in hops {
        let receipt = settled(payer, payee);
        let carried = payee.meter(payer).expect("a meter");
        assert!(carried.sent > web.content.bytes, "{} carried {carried:?} for {}", payee.name, payer.name);
        assert!(receipt.amount > 0, "{} paid {receipt:?}", payer.name);
        // What a receipt says comes into the account, and nothing else does.
        let before = payee.wallet().0;
        assert_eq!(payee.redeem() + receipt.redeemed, receipt.amount);
        assert_eq!(payee.wallet().0, before + receipt.amount - receipt.redeemed);
        paid.push(receipt.amount);
    }
    conserved(&ledger, &line);
    let loss = lost_on_the_way(hops);
    lab.figures(&format!(
        "200 MB in {:.1} s ({:.0} Mbit/s), iperf3 {:.0} Mbit/s, paid {paid:?} base units, {loss} billed bytes lost",
        took.as_secs_f64(),
        mbit_per_s(web.content.bytes, took),
        rate / 1e6,
    ));
}

/// Billed bytes that were sent and did not arrive, both directions of all hops.
fn lost_on_the_way(hops: [(&Router, &Router); 3]) -> u64 {
    let lost = |from: &Router, to: &Router| {
        let (sent, received) = (from.meter(to).expect("a meter").sent, to.meter(from).expect("a meter").received);
        sent.checked_sub(received).expect("nothing is received that was not sent")
    };
    hops.iter().map(|(a, b)| lost(a, b) + lost(b, a)).sum()
}

/// Once everything is redeemed, the routers' wallets and the ledger add up to what was minted.
pub(crate) fn conserved(ledger: &Ledger, routers: &[Router]) {
    let totals = ledger.audit();
    assert_eq!(totals.minted, 20 * TOKEN * routers.len() as u128);
    until("wallets that show what the ledger holds", secs(10), || {
        let wallets: Vec<(u128, u128)> = routers.iter().map(Router::wallet).collect();
        let held: u128 = wallets.iter().map(|(held, _)| held).sum();
        let locked: u128 = wallets.iter().map(|(_, locked)| locked).sum();
        if (held, locked) == (totals.held, totals.locked) { Ok(()) } else { Err(format!("{wallets:?}, {totals:?}")) }
    });
}
