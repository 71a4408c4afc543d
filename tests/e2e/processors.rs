//! Routers with other processors than this machine's, in one mesh with it. What runs them is the caller's (tests/README.md).

use std::path::PathBuf;

use crate::lab::{Lab, now, secs};
use crate::ledger::Ledger;
use crate::line::conserved;
use crate::router::{Joint, PAYS, Router, join, joined, settled};
use crate::traffic::{WebServer, ping, reachable};

/// Names of the routers in the middle, as many as there are programs.
const MIDDLE: [&str; 6] = ["m1", "m2", "m3", "m4", "m5", "m6"];

/// The bytes of the file that all of them carry.
const FILE: u64 = 4_000_000;

/// A house pays through a line of relays, each of which is another program, to a gateway that keeps the ledger. Links are WireGuard's
/// and QUIC's in turn. A program is a path in `WAYBILL_OTHERS`, which has colons between them.
#[test]
fn relays_of_other_processors_carry_are_paid_and_redeem() {
    let name = "relays_of_other_processors_carry_are_paid_and_redeem";
    let others = std::env::var("WAYBILL_OTHERS").unwrap_or_default();
    let others: Vec<PathBuf> = others.split(':').filter(|path| !path.is_empty()).map(PathBuf::from).collect();
    if others.is_empty() {
        crate::lab::say(&format!("skipped: {name}: WAYBILL_OTHERS names no program"));
        return;
    }
    assert!(others.len() <= MIDDLE.len(), "no more than {} programs at a time", MIDDLE.len());
    let Some(mut lab) = Lab::open(name, &["ping", "curl", "python3"]) else { return };
    let ledger = Ledger::create(&lab);
    let names = ["house"].into_iter().chain(MIDDLE.into_iter().take(others.len())).chain(["gateway"]);
    let mut line: Vec<Router> = names.map(|name| Router::new(&mut lab, name)).collect();
    for (index, router) in line.iter_mut().enumerate() {
        router.join_community(&ledger, ["0", "1", "0.9", "0.8", "0.7", "0.6", "0.5", "0.4"][index]);
        ledger.mint(router, 20);
    }
    for (router, program) in line.iter_mut().skip(1).zip(others) {
        router.waybill = program;
    }
    for index in 1..line.len() {
        let (before, after) = line.split_at_mut(index);
        let joint = Joint { link: if index % 2 == 0 { "quic" } else { "wireguard" }, ..PAYS };
        join(&mut lab, before.last_mut().expect("one before"), after.first_mut().expect("one after"), joint);
    }
    let gateway = line.last().expect("a line has an end");
    let served = ledger.serve(&lab, &gateway.host, &gateway.address);
    line.iter_mut().for_each(|router| router.options.served = Some(served.config.clone()));
    line.iter_mut().for_each(Router::start);
    line.windows(2).for_each(|pair| joined(&pair[0], &pair[1]));

    let [house, .., gateway] = &line[..] else { panic!("a line has two ends") };
    reachable(&house.host, &gateway.address, secs(60));
    let pings = ping(&house.host, &gateway.address, 20, &[]).unwrap_or_else(|error| panic!("{error}"));
    assert!(pings.answered >= 19, "{pings:?}");
    let web = WebServer::start(&lab, &gateway.host, &gateway.address, FILE);
    let began = now();
    web.must_fetch(&house.host);
    let took = began.elapsed();

    let mut paid = Vec::new();
    for pair in line.windows(2) {
        let (payer, payee) = (&pair[0], &pair[1]);
        let receipt = settled(payer, payee);
        let carried = payee.meter(payer).expect("a meter");
        assert!(carried.sent > FILE, "{} carried {carried:?} for {}", payee.name, payer.name);
        assert!(receipt.amount > 0, "{} paid {receipt:?}", payer.name);
        let before = payee.wallet().0;
        // And a little more: asking the ledger is traffic too.
        let redeemed = payee.redeem();
        assert!(redeemed + receipt.redeemed >= receipt.amount, "{redeemed} {receipt:?}");
        assert!(payee.wallet().0 >= before + redeemed, "{} has {:?}", payee.name, payee.wallet());
        paid.push(receipt.amount);
    }
    conserved(&ledger, &line);
    line.iter_mut().for_each(Router::stop);
    lab.figures(&format!("{} relays, {FILE} bytes in {:.1} s, paid {paid:?}", line.len() - 2, took.as_secs_f64()));
}
