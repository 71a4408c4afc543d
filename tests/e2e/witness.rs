//! Witnessing: neighbours show each other what a served ledger has shown them, and find out where it tells two stories.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::lab::{Lab, here, now, secs, until};
use crate::ledger::Ledger;
use crate::router::{PEERS, Router, join, joined, text};

/// A file of what a router keeps of its served ledger.
fn kept(router: &Router, name: &str) -> Option<PathBuf> {
    let places = fs::read_dir(router.state_dir()).ok()?.flatten().map(|entry| entry.path());
    let of_ledger =
        places.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("waybill-0x")));
    of_ledger.map(|path| path.join(name)).find(|path| path.exists())
}

/// How many entries the newest checkpoint has that the ledger has shown to a router.
fn seen(router: &Router) -> Result<u64, String> {
    let path = kept(router, "checkpoint").ok_or_else(|| format!("{} has seen no checkpoint", router.name))?;
    let note = fs::read_to_string(&path).map_err(|error| error.to_string())?;
    note.lines().nth(1).and_then(|size| size.parse().ok()).ok_or(note)
}

fn sees(router: &Router, size: u64) -> Result<(), String> {
    let seen = seen(router)?;
    if seen == size { Ok(()) } else { Err(format!("{} has seen {seen} entries, not {size}", router.name)) }
}

/// What a router has found against its ledger.
fn found(router: &Router) -> Result<String, String> {
    let status = router.show("status")?;
    status["ledger_distrusted"].as_str().map(str::to_owned).ok_or_else(|| status.to_string())
}

fn finds(router: &Router, what: &str) {
    let found = until(&format!("doubt of {}", router.name), secs(40), || found(router));
    assert_eq!(found, what, "{}", router.name);
}

fn trusts(router: &Router) {
    let status = router.show("status").unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(status["ledger_distrusted"], Value::Null, "{status}");
    assert_eq!(kept(router, "evidence.json"), None);
    assert!(!router.log().contains("ERROR"), "{}", router.log());
}

/// A ledger, and two neighbours with some tokens on it.
fn neighbours(lab: &mut Lab, names: [&'static str; 2]) -> (Ledger, [Router; 2]) {
    let ledger = Ledger::create(lab);
    let [mut one, mut other] = names.map(|name| Router::new(lab, name));
    for router in [&mut one, &mut other] {
        router.join_community(&ledger, "0");
        ledger.mint(router, 20);
    }
    join(lab, &mut one, &mut other, PEERS);
    (ledger, [one, other])
}

/// An operator copies the ledger's file and goes on with both, each served to one router under the same key.
#[test]
fn neighbours_find_out_a_ledger_that_tells_each_another_story() {
    let name = "neighbours_find_out_a_ledger_that_tells_each_another_story";
    let Some(mut lab) = Lab::open(name, &[]) else { return };
    let (ledger, [mut left, mut right]) = neighbours(&mut lab, ["left", "right"]);
    let other = ledger.copied(&lab, "other.ledger");
    ledger.mint(&left, 1);
    other.mint(&left, 2);
    let mut to_left = ledger.serve(&lab, &left.host, "::1");
    let to_right = other.serve(&lab, &right.host, "::1");
    assert_eq!(to_left.key, to_right.key);
    left.options.served = Some(to_left.config.clone());
    right.options.served = Some(to_right.config.clone());

    // Both logs are of one size: whoever sees both signatures has proof.
    let began = now();
    left.start();
    right.start();
    let by_right = "the ledger has signed two different logs: right was shown another one";
    finds(&left, by_right);
    finds(&right, "the ledger has signed two different logs: left was shown another one");
    let fork_after = began.elapsed();
    let compare = |router: &Router| {
        let evidence = kept(router, "evidence.json").expect("evidence");
        router.host.run(&[text(&router.waybill), "ledger", "compare", text(&evidence), "--ledger-key", &to_left.key])
    };
    for router in [&left, &right] {
        let verdict = compare(router).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(verdict, "a fork is proven: this key has signed two different checkpoints of 4 entries");
    }
    let shown = here(&[text(&left.waybill), "status", "--socket", text(&left.control_socket())]);
    assert!(shown.contains("NOT TRUSTED") && shown.contains(by_right), "{shown}");
    let errors = |router: &Router| router.log().lines().filter(|line| line.contains("ERROR")).count();
    assert_eq!(errors(&left), 1, "it is said once: {}", left.log());
    // It outlives the router, and is said again.
    left.kill();
    left.start();
    assert_eq!(found(&left).as_deref(), Ok(by_right));
    assert_eq!(errors(&left), 2, "{}", left.log());

    // The owner has removed what was found. Of two sizes the ledger itself does not show that one continues the other.
    for router in [&mut left, &mut right] {
        router.stop();
        let evidence = kept(router, "evidence.json").expect("evidence");
        fs::remove_dir_all(evidence.parent().expect("a directory")).expect("what was kept of the ledger");
    }
    to_left.process.signal("KILL");
    to_left.process.ended(secs(5));
    ledger.mint(&left, 1);
    let longer = ledger.serve(&lab, &left.host, "::1");
    assert_eq!(longer.key, to_left.key);
    let began = now();
    left.start();
    right.start();
    finds(&left, "the ledger does not show that its log continues the one that right was shown");
    finds(&right, "the ledger shows fewer entries than left was shown before");
    let sizes_after = began.elapsed();
    let unproven = compare(&left).expect_err("two sizes show nothing by themselves");
    assert!(unproven.contains("nothing is shown: this key has signed a log of 5 entries and one of 4"), "{unproven}");
    lab.figures(&format!(
        "two logs of one size were found out by both routers {:.1} s after their start, two of different sizes {:.1} s after",
        fork_after.as_secs_f64(),
        sizes_after.as_secs_f64(),
    ));
}

/// A ledger is killed, goes on, hangs, and comes back, while one router is behind the other.
#[test]
fn neighbours_raise_no_alarm_while_an_honest_ledger_is_killed_restarted_and_hangs() {
    let name = "neighbours_raise_no_alarm_while_an_honest_ledger_is_killed_restarted_and_hangs";
    let Some(mut lab) = Lab::open(name, &[]) else { return };
    let (ledger, [mut near, mut far]) = neighbours(&mut lab, ["near", "far"]);
    for router in [&mut near, &mut far] {
        router.options.log = Some("debug");
    }
    let mut served = ledger.serve(&lab, &near.host, &near.address);
    for router in [&mut near, &mut far] {
        router.options.served = Some(served.config.clone());
    }
    near.start();
    far.start();
    joined(&near, &far);
    for router in [&near, &far] {
        until("a wallet", secs(60), || router.show("wallet"));
        sees(router, 3).unwrap_or_else(|error| panic!("{error}"));
    }

    // It is killed and goes on. Who is behind hears of it from its neighbour, and asks.
    served.process.signal("KILL");
    served.process.ended(secs(5));
    ledger.mint(&far, 1);
    served = ledger.serve(&lab, &near.host, &near.address);
    near.kill();
    near.start();
    for router in [&near, &far] {
        until("the fourth entry", secs(90), || sees(router, 4));
        trusts(router);
    }

    // It goes on, and hangs when the one that is behind wants to ask it.
    far.kill();
    served.process.signal("KILL");
    served.process.ended(secs(5));
    ledger.mint(&far, 1);
    let served = ledger.serve(&lab, &near.host, &near.address);
    until("the fifth entry", secs(30), || near.show("wallet").and_then(|_| sees(&near, 5)));
    served.process.signal("STOP");
    far.start();
    let not_compared = "a neighbour's checkpoint was not compared";
    until("a comparison without an answer", secs(120), || {
        if far.log().contains(not_compared) { Ok(()) } else { sees(&far, 5).and(Err("it was compared".to_owned())) }
    });
    sees(&far, 4).unwrap_or_else(|error| panic!("{error}"));
    for router in [&near, &far] {
        trusts(router);
    }
    served.process.signal("CONT");
    until("the fifth entry", secs(60), || far.show("wallet").and_then(|_| sees(&far, 5)));
    for router in [&near, &far] {
        trusts(router);
    }
}
