//! What is billed is what arrived: the meters against a capture made by tcpdump.

use crate::capture::Capture;
use crate::lab::{Lab, secs, until};
use crate::ledger::{Ledger, TOKEN};
use crate::router::{Meter, PAYS, Router, TUN, joined, paying_pair, routed, settled};
use crate::traffic::{WebServer, ping, send_datagrams};

/// Tokens per GiB: so dear that a base unit is about a byte, and a miscounted packet shows in the money.
const ASK: u128 = 1000;

/// The longest packet, in bytes, and the payload of a datagram that fills it.
const MTU: usize = 1420;
const PAYLOAD_MAX: usize = MTU - 48;

#[test]
fn what_is_billed_is_what_tcpdump_saw_arrive() {
    let tools = ["ping", "curl", "python3", "tcpdump"];
    let Some(mut lab) = Lab::open("what_is_billed_is_what_tcpdump_saw_arrive", &tools) else { return };
    let ledger = Ledger::create(&lab);
    let [r1, r2] = &mut paying_pair(&mut lab, &ledger, ("1000", 1000), PAYS);
    r1.start();
    r2.start();
    joined(r1, r2);
    routed(r1, r2);
    until("channel", secs(30), || if r1.wallet().1 > 0 { Ok(()) } else { Err("nothing is locked".to_owned()) });
    let before = (r1.meter(r2).expect("a meter"), r2.meter(r1).expect("a meter"));

    let up = Capture::start(&lab, &r2.host, TUN, &format!("ip6 dst {}", r2.address));
    let down = Capture::start(&lab, &r1.host, TUN, &format!("ip6 dst {}", r1.address));
    // Every length from the shortest datagram to the longest, both ways; then longer ones, which travel in fragments; then
    // other people's protocols.
    let datagrams: Vec<Vec<u8>> = (0..=PAYLOAD_MAX).map(|length| vec![0x5a; length]).collect();
    send_datagrams(&r1.host, (&r2.address, 9), 0, 1000, &datagrams);
    send_datagrams(&r2.host, (&r1.address, 9), 0, 1000, &datagrams);
    send_datagrams(&r1.host, (&r2.address, 9), 0, 100, &[vec![1; 1373], vec![2; 4000], vec![3; 9000]]);
    ping(&r2.host, &r1.address, 10, &["-s", "1000"]).expect("ping runs");
    let web = WebServer::start(&lab, &r2.host, &r2.address, 5_000_000);
    web.must_fetch(&r1.host);

    let receipt = settled(r1, r2);
    let (up, down) = (up.end(), down.end());
    let (up_billed, down_billed) = (up.billed(MTU as u64), down.billed(MTU as u64));
    let after = (r1.meter(r2).expect("a meter"), r2.meter(r1).expect("a meter"));
    let counted = |before: Meter, after: Meter| (after.sent - before.sent, after.received - before.received);
    let (r1_counted, r2_counted) = (counted(before.0, after.0), counted(before.1, after.1));
    assert!(
        up.packets.len() > datagrams.len() && down.packets.len() > datagrams.len(),
        "the capture missed the traffic"
    );
    assert_eq!(r2_counted, (down_billed, up_billed), "the payee's count (sent, received)");
    assert_eq!(r1_counted, (up_billed, down_billed), "the payer's count (sent, received)");

    // And the money is the price of it: nothing was carried before both agreed on the terms.
    assert_eq!(before, (Meter::default(), Meter::default()), "something was carried before the test began");
    let price = |bytes: u64| (u128::from(bytes) * ASK * TOKEN) >> 30;
    assert_eq!(receipt.amount, price(up_billed) + price(down_billed));

    // Both can say what the day came to, and say the same.
    let day = |router: &Router, neighbour: &Router| {
        let why = router.why(neighbour).expect("an answer");
        let days = why["days"].as_array().expect("days");
        assert!(!days.is_empty(), "{why}");
        let sum = |name: &str| -> u128 { days.iter().map(|day| amount(&day[name])).sum() };
        ["sent_bytes", "reported_received_bytes", "reported_sent_bytes", "received_bytes", "earned", "spent"].map(sum)
    };
    let [there, back] = [up_billed, down_billed].map(u128::from);
    assert_eq!(day(r1, r2), [there, there, back, back, 0, receipt.amount]);
    assert_eq!(day(r2, r1), [back, back, there, there, receipt.amount, 0]);
    lab.figures(&format!(
        "{} packets up, {} down; billed {} + {} bytes = {} base units, exactly what tcpdump saw",
        up.packets.len(),
        down.packets.len(),
        up_billed,
        down_billed,
        receipt.amount,
    ));
}

/// A number, or a string of digits, which amounts are.
fn amount(value: &serde_json::Value) -> u128 {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    text.parse().unwrap_or_else(|_| panic!("no number: {value}"))
}
