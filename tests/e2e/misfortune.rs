//! What happens to a router's disk.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use fastrand::Rng;

use crate::lab::{Lab, secs, until};
use crate::ledger::Ledger;
use crate::router::{PAYS, Router, join, joined, settled, text};
use crate::traffic::{Pings, WebServer, ping, reachable};

/// A payer and its provider, with money that shows every kilobyte.
fn paying_pair(lab: &mut Lab, ledger: &Ledger) -> [Router; 2] {
    let mut pair = ["r1", "r2"].map(|name| Router::new(lab, name));
    for router in &mut pair {
        router.join_community(ledger, "100");
        router.options.deposit = "50";
        ledger.mint(router, 100);
    }
    let [r1, r2] = &mut pair;
    join(lab, r1, r2, PAYS);
    pair
}

#[test]
fn a_damaged_journal_is_set_aside_and_the_neighbour_remembers() {
    let tools = ["ping", "curl", "python3"];
    let Some(mut lab) = Lab::open("a_damaged_journal_is_set_aside_and_the_neighbour_remembers", &tools) else { return };
    let ledger = Ledger::create(&lab);
    let mut pair = paying_pair(&mut lab, &ledger);
    pair.iter_mut().for_each(Router::start);
    let [r1, r2] = &pair;
    reachable(&r1.host, &r2.address, secs(30));
    let web = WebServer::start(&lab, &r2.host, &r2.address, 5_000_000);
    web.must_fetch(&r1.host);
    let mut receipt = settled(r1, r2);
    let mut amounts = vec![receipt.amount];

    // The payee's journal first, then the payer's.
    for damaged in [1, 0] {
        let router = &mut pair[damaged];
        router.kill();
        scramble(&router.state_dir());
        router.start();
        assert_eq!(set_aside(&router.state_dir()).len(), 1, "{:?}", files(&router.state_dir()));
        assert!(router.log().contains("damaged"), "the log does not say it:\n{}", router.log());
        let [r1, r2] = &pair;
        joined(r1, r2);
        until("the receipt from the neighbour", secs(20), || match (r1.signed_for(r2)?, r2.held_from(r1)?) {
            (signed, held) if signed.amount >= receipt.amount && held.amount >= receipt.amount => Ok(()),
            state => Err(format!("{state:?}")),
        });
        reachable(&r1.host, &r2.address, secs(20));
        web.must_fetch(&r1.host);
        let resumed = settled(r1, r2);
        assert_eq!(resumed.nonce, receipt.nonce, "another channel");
        assert!(resumed.amount > receipt.amount, "paid {receipt:?}, then {resumed:?}");
        amounts.push(resumed.amount);
        receipt = resumed;
    }
    let [_, r2] = &pair;
    assert_eq!(r2.redeem() + receipt.redeemed, receipt.amount);
    ledger.audit();
    lab.figures(&format!("cumulative amounts {amounts:?} across a damaged payee's and a damaged payer's journal"));
}

#[test]
fn a_full_disk_is_reported_and_packets_still_pass() {
    let tools = ["ping", "curl", "python3", "mount"];
    let Some(mut lab) = Lab::open("a_full_disk_is_reported_and_packets_still_pass", &tools) else { return };
    let ledger = Ledger::create(&lab);
    let mut pair = paying_pair(&mut lab, &ledger);
    for router in &mut pair {
        let state_dir = router.state_dir();
        fs::create_dir(&state_dir).expect("a new directory");
        // The mount is the router's own: `ip netns exec` runs it in a mount namespace, which ends with it.
        router.start_with(&["sh", "-c", "mount -t tmpfs -o size=1m none \"$0\" && exec \"$@\"", text(&state_dir)]);
    }
    let [r1, r2] = &pair;
    reachable(&r1.host, &r2.address, secs(30));
    let web = WebServer::start(&lab, &r2.host, &r2.address, 10_000_000);
    web.must_fetch(&r1.host);
    let mut receipt = settled(r1, r2);

    for full in [1, 0] {
        let router = &mut pair[full];
        let filler =
            fill(&PathBuf::from(format!("/proc/{}/root{}", router.process().pid(), text(&router.state_dir()))));
        let [r1, r2] = &pair;
        let before = r1.meter(r2).expect("a meter");
        until("report of the full disk", secs(60), || {
            // So slowly that what no journal has a receipt for stays below the window of credit: beyond it nothing passes,
            // rightly, until the disk has room and the write is tried again.
            web.fetch(&r1.host, &["--limit-rate", "10M"])?;
            let status = pair[full].show("status")?;
            let said = format!("{}{}", status["warnings"], pair[full].log()).to_lowercase();
            if said.contains("disk is full") { Ok(()) } else { Err(status.to_string()) }
        });
        assert_eq!(ping(&r1.host, &r2.address, 10, &[]), Ok(Pings { sent: 10, answered: 10 }));
        assert!(r1.meter(r2).expect("a meter").received > before.received, "nothing was carried");

        fs::remove_file(filler).expect("the file is there");
        web.must_fetch(&r1.host);
        let resumed = settled(r1, r2);
        assert_eq!(resumed.nonce, receipt.nonce, "another channel");
        assert!(resumed.amount > receipt.amount, "paid {receipt:?}, then {resumed:?}");
        receipt = resumed;
    }
    lab.figures(&format!(
        "routing went on while the payee's and the payer's disk were full; then {} was paid",
        receipt.amount
    ));
}

/// Overwrites the journal with random bytes; its anchors, which are other files, stay.
fn scramble(state_dir: &Path) {
    let mut random = Rng::with_seed(3);
    let journal: Vec<PathBuf> = files(state_dir)
        .into_iter()
        .filter(|path| !["anchor", "lock", "damaged"].iter().any(|other| text(path).contains(other)))
        .collect();
    assert!(!journal.is_empty(), "no journal in {}", state_dir.display());
    for path in journal {
        let length = fs::metadata(&path).expect("a file").len().max(8192);
        let mut bytes = vec![0; usize::try_from(length).expect("a small file")];
        random.fill(&mut bytes);
        fs::write(&path, bytes).expect("room");
    }
}

fn set_aside(state_dir: &Path) -> Vec<PathBuf> {
    let is_journal = |path: &PathBuf| text(path).contains("damaged") && !text(path).ends_with("-wal");
    files(state_dir).into_iter().filter(is_journal).collect()
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("a directory");
    let mut files: Vec<PathBuf> =
        entries.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_file()).collect();
    files.sort();
    files
}

/// Fills a disk to the last byte.
fn fill(directory: &Path) -> PathBuf {
    let path = directory.join("filler");
    let mut file = fs::File::create(&path).expect("a new file");
    for block in [64 << 10, 4 << 10, 1] {
        while file.write_all(&vec![0; block]).is_ok() {}
    }
    path
}
