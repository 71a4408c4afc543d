//! The watch: a neighbour keeps a router's receipts, gives them back when they are lost, and redeems them when it is away.

use std::fs;

use crate::lab::{Lab, now, secs, until};
use crate::ledger::{Ledger, TOKEN, base_units};
use crate::line::conserved;
use crate::router::{PAYS, PEERS, Router, join, joined, settled};
use crate::traffic::{WebServer, reachable};

const FILE: u64 = 20_000_000;

/// A payer leaves with its deposit while its payee lies broken on a roof, whose disk was lost before: the payee is paid all that
/// was signed, by a neighbour that is paid nothing for it.
#[test]
fn a_neighbour_redeems_for_a_router_that_is_away_and_gives_back_what_it_lost() {
    let name = "a_neighbour_redeems_for_a_router_that_is_away_and_gives_back_what_it_lost";
    let Some(mut lab) = Lab::open(name, &["ping", "curl", "python3"]) else { return };
    let ledger = Ledger::create_with_notice(&lab, "20s");
    let mut routers = ["payer", "payee", "keeper"].map(|name| Router::new(&mut lab, name));
    for router in &mut routers {
        router.join_community(&ledger, "1");
        ledger.mint(router, 20);
    }
    let [payer, payee, keeper] = &mut routers;
    join(&mut lab, payer, payee, PAYS);
    join(&mut lab, payee, keeper, PEERS);
    routers.iter_mut().for_each(Router::start);
    let [payer, payee, keeper] = &mut routers;
    reachable(&payer.host, &payee.address, secs(30));
    joined(payee, keeper);
    let web = WebServer::start(&lab, &payee.host, &payee.address, FILE);
    web.must_fetch(&payer.host);
    let signed = settled(payer, payee);

    // Whoever stops in order leaves its newest receipts with others.
    payee.stop();
    until("a copy", secs(10), || keeps(keeper, signed.amount, None));
    payer.kill();
    keeper.stop();
    keeper.start();
    keeps(keeper, signed.amount, Some(true)).unwrap_or_else(|error| panic!("not on its disk: {error}"));

    fs::remove_dir_all(payee.state_dir()).expect("a disk to lose");
    payee.start();
    let began = now();
    until("the receipt again", secs(30), || {
        let held = payee.held_from(payer)?;
        if held.amount == signed.amount { Ok(()) } else { Err(format!("{held:?}")) }
    });
    let regained = began.elapsed();
    payee.warned("keeper had kept receipts that this router had lost; they are here again").unwrap();
    until("a keeper", secs(30), || {
        let receipts = payee.show("receipts")?;
        let by = &receipts["receipts"][0]["kept_by"][0];
        let all = by["neighbour"] == "keeper" && base_units(&by["amount"]) == Some(signed.amount);
        if all { Ok(()) } else { Err(format!("{receipts}")) }
    });

    // Once more, so soon that the keeper's link does not notice.
    payee.kill();
    fs::remove_dir_all(payee.state_dir()).expect("a disk to lose");
    payee.start();
    until("the receipt once more", secs(30), || {
        let held = payee.held_from(payer)?;
        if held.amount == signed.amount { Ok(()) } else { Err(format!("{held:?}")) }
    });

    payee.kill();
    payer.start();
    let noticed = now();
    let answer = payer.close(payee).unwrap_or_else(|error| panic!("{error}"));
    assert!(answer["notice_until"].as_u64().is_some(), "{answer}");
    let redeemed = "redeemed for payee, which had not: a payer is closing its channel";
    until("redemption", secs(20), || keeper.warned(redeemed));
    let redeemed_after = noticed.elapsed();
    assert_eq!(keeper.wallet(), (20 * TOKEN, 0), "it is paid nothing for it");
    payee.start();
    assert_eq!(payee.wallet().0, 20 * TOKEN + signed.amount);
    assert_eq!(payee.redeem(), 0);

    // By hand, from a stick: anybody may bring a receipt.
    until("an end of the old channel", secs(60), || match payer.close(payee) {
        Ok(answer) if base_units(&answer["refunded"]).is_some() => Ok(()),
        Ok(answer) => Err(answer.to_string()),
        Err(error) => Err(error),
    });
    reachable(&payer.host, &payee.address, secs(30));
    web.must_fetch(&payer.host);
    let second = settled(payer, payee);
    assert!(second.nonce > 1, "{second:?}");
    payee.stop();
    payee.start();
    let stick = lab.dir().join("receipts.json");
    let receipts = payee.show("receipts").unwrap_or_else(|error| panic!("{error}"));
    fs::write(&stick, receipts.to_string()).expect("room on a stick");
    assert_eq!(ledger.redeem(&stick).into_iter().flatten().sum::<u128>(), second.amount);
    assert_eq!(ledger.redeem(&stick).into_iter().flatten().sum::<u128>(), 0, "once");
    assert_eq!(payee.wallet().0, 20 * TOKEN + signed.amount + second.amount);
    lab.figures(&format!(
        "given back {regained:.1?} after a start without a disk; redeemed {redeemed_after:.1?} after a notice of 20 s"
    ));
    conserved(&ledger, &routers);
}

/// Whether a router keeps one receipt over so much, and perhaps whether it is on its disk.
fn keeps(keeper: &Router, amount: u128, on_disk: Option<bool>) -> Result<(), String> {
    let receipts = keeper.show("receipts")?;
    let kept = &receipts["keeping"][0];
    let is_it = kept["payee"] == "payee" && base_units(&kept["amount"]) == Some(amount);
    let is_there = on_disk.is_none_or(|there| kept["durable"] == there);
    if is_it && is_there { Ok(()) } else { Err(format!("{receipts}")) }
}
