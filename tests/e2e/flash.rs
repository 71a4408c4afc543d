//! What a router writes, for flash wears by it: as the disk below its file system counts, with all that the file system adds.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::disk::Disk;
use crate::lab::{Lab, now, say, secs, until};
use crate::ledger::{Ledger, base_units};
use crate::router::{PAYS, Router, join, settled};
use crate::traffic::{WebServer, mbit_per_s, reachable};

/// Bytes a router may write a day.
const BUDGET: u64 = 10 << 20;

/// A household, a relay that is paid by it and pays a provider, and 10 Mbit/s through them. `FLASH_MINUTES` says for how
/// long, at least six, for some of it is written each five; without it nothing is measured, for so long nobody waits each time.
#[test]
fn a_busy_day_is_within_the_flash_budget() {
    let tools = ["ping", "curl", "python3", "mkfs.ext4", "findmnt"];
    let Ok(minutes) = std::env::var("FLASH_MINUTES") else {
        return say("skipped: a_busy_day_is_within_the_flash_budget: takes seven minutes; FLASH_MINUTES=6 runs it");
    };
    let minutes: u64 = minutes.parse().expect("FLASH_MINUTES is a number");
    let Some(mut lab) = Lab::open("a_busy_day_is_within_the_flash_budget", &tools) else { return };
    let ledger = Ledger::create(&lab);
    let mut line = ["household", "relay", "provider"].map(|name| Router::new(&mut lab, name));
    for router in &mut line {
        router.join_community(&ledger, "1");
        router.options.deposit = "100";
        ledger.mint(router, 1000);
    }
    let disks = line.each_ref().map(|router| Disk::ext4(&lab, router));
    let [household, relay, provider] = &mut line;
    join(&mut lab, household, relay, PAYS);
    join(&mut lab, relay, provider, PAYS);
    line.iter_mut().for_each(Router::start);
    let [household, relay, provider] = &line;
    reachable(&household.host, &provider.address, secs(30));
    let web = WebServer::start(&lab, &provider.host, &provider.address, 50_000_000);

    let wanting = AtomicBool::new(true);
    let (written, carried, took) = thread::scope(|scope| {
        let download = scope.spawn(|| {
            while wanting.load(Ordering::Relaxed) {
                // The headers of packets are billed too: 10 Mbit/s in all.
                web.fetch(&household.host, &["--limit-rate", "1080k"]).expect("a download");
            }
        });
        // What is written once, at the start and for the first channel, is no part of a day.
        thread::sleep(secs(60));
        let look = || (disks.each_ref().map(Disk::written), relay.meter(household).expect("a meter").sent);
        let (began, before) = (now(), look());
        thread::sleep(secs(60 * minutes));
        let (after, took) = (look(), began.elapsed());
        wanting.store(false, Ordering::Relaxed);
        download.join().expect("curl's thread ends");
        ([0, 1, 2].map(|n| after.0[n] - before.0[n]), after.1 - before.1, took)
    });
    let a_day = |bytes: u64| (bytes as f64 * 86_400.0 / took.as_secs_f64()) as u64;
    let rate = mbit_per_s(carried, took);
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    for (router, bytes) in line.iter().zip(written) {
        lab.figures(&format!(
            "{}: its disk took {bytes} bytes in {:.0} s at {rate:.1} Mbit/s, times 86,400 s: {:.1} MiB a day of {:.0}",
            router.name,
            took.as_secs_f64(),
            mib(a_day(bytes)),
            mib(BUDGET),
        ));
    }
    assert!(rate > 9.0, "{rate} Mbit/s is no busy day");
    for (router, bytes) in line.iter().zip(written) {
        assert!(bytes > 0, "{} wrote nothing: that is not what was to be measured", router.name);
        assert!(a_day(bytes) <= BUDGET, "{} writes {} bytes a day", router.name, a_day(bytes));
    }
}

/// Two households at a provider: one has downloaded a little, which would be written four minutes later.
#[test]
fn what_one_neighbour_s_receipts_cause_to_be_written_takes_the_others_along() {
    let tools = ["ping", "curl", "python3"];
    let name = "what_one_neighbour_s_receipts_cause_to_be_written_takes_the_others_along";
    let Some(mut lab) = Lab::open(name, &tools) else { return };
    let ledger = Ledger::create(&lab);
    let mut routers = ["provider", "little", "much"].map(|name| Router::new(&mut lab, name));
    for router in &mut routers {
        router.join_community(&ledger, "1");
        ledger.mint(router, 100);
    }
    let [provider, little, much] = &mut routers;
    join(&mut lab, little, provider, PAYS);
    join(&mut lab, much, provider, PAYS);
    routers.iter_mut().for_each(Router::start);
    let [provider, little, much] = &routers;
    reachable(&little.host, &provider.address, secs(30));
    reachable(&much.host, &provider.address, secs(30));
    let web = WebServer::start(&lab, &provider.host, &provider.address, 10_000_000);
    web.must_fetch(&little.host);
    let began = now();
    let signed = settled(little, provider).amount;
    // What is durable at present, of what little has signed.
    let durable = || -> Result<u128, String> {
        let answer = provider.show("receipts")?;
        let mut lines = answer["receipts"].as_array().into_iter().flatten();
        let line = lines.find(|line| line["neighbour"] == little.name);
        line.and_then(|line| base_units(&line["durable"])).ok_or_else(|| answer.to_string())
    };
    let before = durable().expect("a receipt");
    assert!(before < signed, "{before} of {signed} is written already: that proves nothing");
    // Five windows: some of it is written for its own sake.
    for _ in 0..35 {
        web.must_fetch(&much.host);
    }
    until("the receipt on disk", secs(20), || match durable()? {
        written if written >= signed => Ok(()),
        written => Err(format!("{written} of {signed} is written")),
    });
    let took = began.elapsed();
    lab.figures(&format!("a receipt over {signed} was written after {took:.1?}, with another neighbour's"));
    assert!(took < secs(200), "{took:?}: it may have been written by itself");
}
