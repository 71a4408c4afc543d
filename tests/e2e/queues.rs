//! Slow cables beside fast ones: who waits for whom, and for how long.

use std::time::Duration;

use crate::lab::{Background, Lab, secs, until};
use crate::router::{PEERS, Router, join};
use crate::traffic::{iperf, reachable, round_trips};

/// What the slow cable carries.
const SLOW_MBIT: f64 = 20.0;
/// How long a call of the flooder's own may wait, in the middle.
const OWN_MAX: Duration = Duration::from_millis(100);

#[test]
fn a_flood_into_a_slow_cable_slows_neither_other_cables_nor_other_neighbours() {
    let name = "a_flood_into_a_slow_cable_slows_neither_other_cables_nor_other_neighbours";
    let Some(mut lab) = Lab::open(name, &["ping", "tc", "iperf3"]) else { return };
    let mut all = ["hub", "flooder", "other", "slow", "fast"].map(|name| Router::new(&mut lab, name));
    let [hub, others @ ..] = &mut all;
    others.iter_mut().for_each(|other| join(&mut lab, hub, other, PEERS));
    all.iter_mut().for_each(Router::start);
    let [hub, flooder, other, slow, fast] = &all;
    for (from, to) in [(flooder, slow), (other, slow), (flooder, fast)] {
        reachable(&from.host, &to.address, secs(30));
    }
    // A radio with a long queue, as radios have.
    let rate = format!("{SLOW_MBIT}mbit");
    hub.host
        .must(&["tc", "qdisc", "add", "dev", "cable3a", "root", "tbf", "rate", &rate, "burst", "32k", "limit", "4m"]);
    let rate = |from: &Router, to: &Router, seconds| iperf(&lab, &from.host, &to.host, &to.address, seconds) / 1e6;
    let megabits = |from, to| rate(from, to, 4);
    // Of few packets a second, a stream of TCP takes seconds to find its share.
    let share = |from, to| rate(from, to, 12);
    let alone = megabits(flooder, fast);
    let idle = round_trips(&other.host, &slow.address, 40);

    let theirs = flood(&lab, flooder, slow, 1);
    let beside = round_trips(&other.host, &slow.address, 40);
    let mut own = round_trips(&flooder.host, &slow.address, 40);
    let (past, into) = (megabits(other, fast), share(other, slow));
    drop(theirs);
    // One flow in 32 shares its line with the flood, by its port, and waits as long as a packet may. Three of three do not.
    for _ in 0..2 {
        if own.0 >= OWN_MAX {
            let again = flood(&lab, flooder, slow, 1);
            own = round_trips(&flooder.host, &slow.address, 40);
            drop(again);
        }
    }
    let theirs = flood(&lab, flooder, slow, 40);
    let (beside_many, into_many) = (round_trips(&other.host, &slow.address, 40), share(other, slow));
    drop(theirs);
    // Now from the hub's own side, and a call of its own household beside it.
    let mut own_flood = flood(&lab, hub, slow, 1);
    let mut at_home = round_trips(&hub.host, &slow.address, 40);
    for _ in 0..2 {
        if at_home.0 >= OWN_MAX {
            drop(own_flood);
            own_flood = flood(&lab, hub, slow, 1);
            at_home = round_trips(&hub.host, &slow.address, 40);
        }
    }
    let past_home = share(other, slow);
    drop(own_flood);

    let drops = ["queue-full", "too-old"].map(|reason| (reason, hub.drops(reason)));
    lab.figures(&format!(
        "into a cable of {SLOW_MBIT} Mbit/s goes a flood of 100 Mbit/s; beside it {past:.0} of {alone:.0} Mbit/s to another \
         neighbour, {into:.1} Mbit/s into the same cable from another neighbour, pings there {beside:.1?} instead of \
         {idle:.1?} (median and worst), pings of the flooder {own:.1?}; \
         beside 40 flows of it {beside_many:.1?} and {into_many:.1} Mbit/s for the other neighbour; \
         beside a flood of the hub's own {at_home:.1?} for its own pings, {past_home:.1} Mbit/s for the other neighbour; \
         dropped {drops:?}"
    ));
    assert!(past > alone / 4.0, "the flood slows another cable");
    assert!(into > SLOW_MBIT / 4.0, "a neighbour does not get its share of the slow cable");
    assert!(beside.0 < Duration::from_millis(40), "a neighbour waits behind the flood");
    assert!(at_home.0 < OWN_MAX, "the hub's own pings wait behind its own flood");
    assert!(past_home > SLOW_MBIT / 4.0, "the hub's own side leaves a neighbour nothing");
    assert!(beside_many.0 < Duration::from_millis(40), "a neighbour waits behind many flows");
    assert!(into_many > SLOW_MBIT / 4.0, "many flows leave a neighbour less than its share");
    assert!(own.0 < OWN_MAX, "the flooder's pings wait behind its flood");
}

/// A hundred megabits a second of UDP in so many flows, until it is dropped.
fn flood(lab: &Lab, from: &Router, to: &Router, flows: u32) -> (Background, Background) {
    let port = "5202";
    let server = to.host.start(
        &lab.dir().join(format!("flood-of-{}-{flows}-server.log", from.name)),
        &["iperf3", "-s", "-1", "-p", port, "-B", &to.address, "--forceflush"],
    );
    until("iperf3 server", secs(10), || {
        if server.log().contains("Server listening") { Ok(()) } else { Err(server.log()) }
    });
    let (rate, count) = (format!("{}K", 100_000 / flows), flows.to_string());
    let line = ["iperf3", "-c", &to.address, "-p", port, "-u", "-l", "1200", "-t", "60", "--forceflush"];
    let line = [&line[..], &["-b", &rate, "-P", &count]].concat();
    let client = from.host.start(&lab.dir().join(format!("flood-of-{}-{flows}.log", from.name)), &line);
    until("flood", secs(10), || if client.log().contains("Mbits/sec") { Ok(()) } else { Err(client.log()) });
    (server, client)
}
