//! A clock that is wrong: money, routes and credit do not hang on it.

use std::fs;
use std::path::Path;

use crate::lab::{Lab, here, now, secs};
use crate::ledger::{Ledger, base_units};
use crate::line::conserved;
use crate::router::{PAYS, Router, join, settled, text};
use crate::traffic::{WebServer, reachable};

const FILE: u64 = 50_000_000;

/// Under downloads the clock of both routers is set forward by a day, back by one, and back by another.
#[test]
fn a_clock_set_forward_and_back_by_a_day_costs_nothing() {
    let name = "a_clock_set_forward_and_back_by_a_day_costs_nothing";
    let Some(mut lab) = Lab::open(name, &["ping", "curl", "python3", "faketime"]) else { return };
    let ledger = Ledger::create(&lab);
    let mut pair = ["payer", "provider"].map(|name| Router::new(&mut lab, name));
    let clock = lab.dir().join("clock");
    set(&clock, 0);
    // What the `faketime` command would preload; it has no option to read the time from a file.
    let library = here(&["sh", "-c", "faketime -m -f +0d sh -c 'echo $LD_PRELOAD'"]);
    let preload = format!("LD_PRELOAD={}", library.trim());
    let from = format!("FAKETIME_TIMESTAMP_FILE={}", text(&clock));
    let words = ["env", &preload, &from, "FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1"];
    for router in &mut pair {
        router.join_community(&ledger, "1");
        router.options.deposit = "10";
        ledger.mint(router, 20);
    }
    let [payer, provider] = &mut pair;
    join(&mut lab, payer, provider, PAYS);
    pair.iter_mut().for_each(|router| router.start_with(&words));
    let [payer, provider] = &pair;
    reachable(&payer.host, &provider.address, secs(30));
    let web = WebServer::start(&lab, &provider.host, &provider.address, FILE);
    web.must_fetch(&payer.host);
    let first = settled(payer, provider);
    // Slower than the cable: only who waits for credit takes longer.
    let fetch = || {
        let began = now();
        web.fetch(&payer.host, &["--limit-rate", "20M"]).expect("a download");
        began.elapsed()
    };
    let before = fetch();

    // A stranger's first download may have been ahead of its receipts.
    let refused = provider.drops("unpaid");

    let mut slowest = before;
    for days in [1, 0, -1, 0] {
        set(&clock, days);
        let began = now();
        // Longer than a tick, so that reports, receipts and the days' sums are made by the new clock.
        while began.elapsed() < secs(7) {
            slowest = slowest.max(fetch());
        }
        for (router, other) in [(payer, provider), (provider, payer)] {
            // Whoever asks has the days' sums made now.
            router.why(other).unwrap_or_else(|error| panic!("{error}"));
        }
    }
    let last = settled(payer, provider);
    assert_eq!(last.nonce, first.nonce, "another channel");
    assert_eq!(provider.drops("unpaid"), refused, "packets were refused");
    assert!(slowest < before + secs(1), "{slowest:?}, where {before:?} was usual");
    for (router, other, key) in [(payer, provider, "spent"), (provider, payer, "earned")] {
        let why = router.why(other).unwrap_or_else(|error| panic!("{error}"));
        let days = why["days"].as_array().expect("days");
        assert!(days.len() >= 2, "the clock was not changed: {why}");
        let sum: u128 = days.iter().map(|day| base_units(&day[key]).expect("an amount")).sum();
        assert_eq!(sum, last.amount, "{why}");
    }
    lab.figures(&format!(
        "the clock a day forward and back, twice: {} base units signed, none lost; 50 MB took {before:.1?}, {slowest:.1?} \
         at worst",
        last.amount
    ));
    conserved(&ledger, &pair);
}

/// Sets the routers' clock so many days off the true one.
fn set(clock: &Path, days: i32) {
    fs::write(clock, format!("{days:+}d\n")).expect("room for a line");
}
