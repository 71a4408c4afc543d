//! What happens to a router's disk.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use fastrand::Rng;

use crate::disk::Disk;
use crate::lab::{Lab, secs, until};
use crate::ledger::{Ledger, TOKEN};
use crate::router::{PAYS, Router, joined, paying_pair, settled, text};
use crate::traffic::{WebServer, ping, reachable};

/// A payer and its provider, with money that shows every kilobyte.
fn dear_pair(lab: &mut Lab, ledger: &Ledger) -> [Router; 2] {
    let mut pair = paying_pair(lab, ledger, ("100", 100), PAYS);
    pair.iter_mut().for_each(|router| router.options.deposit = "50");
    pair
}

#[test]
fn a_damaged_journal_is_set_aside_and_the_neighbour_remembers() {
    let tools = ["ping", "curl", "python3"];
    let Some(mut lab) = Lab::open("a_damaged_journal_is_set_aside_and_the_neighbour_remembers", &tools) else { return };
    let ledger = Ledger::create(&lab);
    let mut pair = dear_pair(&mut lab, &ledger);
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
fn a_full_disk_stops_neither_packets_nor_payment() {
    let tools = ["ping", "curl", "python3", "mount"];
    let Some(mut lab) = Lab::open("a_full_disk_stops_neither_packets_nor_payment", &tools) else { return };
    let ledger = Ledger::create(&lab);
    let mut pair = dear_pair(&mut lab, &ledger);
    let disks = pair.each_ref().map(|router| Disk::in_memory(router, "2m"));
    pair.iter_mut().for_each(Router::start);
    let [r1, r2] = &pair;
    reachable(&r1.host, &r2.address, secs(30));
    let web = WebServer::start(&lab, &r2.host, &r2.address, 50_000_000);
    web.must_fetch(&r1.host);
    let before = settled(r1, r2);

    // The first download may have been faster than trust grew.
    let refused = r2.drops("unpaid");
    // Filled under a download, to the last byte, by another file.
    let wanting = AtomicBool::new(true);
    let (fillers, carried) = thread::scope(|scope| {
        let download = scope.spawn(|| {
            while wanting.load(Ordering::Relaxed) {
                web.fetch(&r1.host, &["--limit-rate", "20M"]).expect("a download");
            }
        });
        thread::sleep(secs(1));
        let fillers = disks.each_ref().map(Disk::fill);
        let began = r1.meter(r2).expect("a meter").received;
        let (mut signed, mut received) = (r1.signed_for(r2).expect("a receipt").amount, began);
        for tick in 1..=FULL_TICKS {
            // Two ticks of settlement: in each pair of them something is signed.
            thread::sleep(secs(10));
            let (now_signed, now_received) =
                (r1.signed_for(r2).expect("a receipt").amount, r1.meter(r2).expect("a meter").received);
            assert!(now_signed > signed, "nothing was signed in interval {tick}");
            assert!(now_received > received + 10_000_000, "{} bytes in interval {tick}", now_received - received);
            (signed, received) = (now_signed, now_received);
        }
        wanting.store(false, Ordering::Relaxed);
        download.join().expect("curl's thread ends");
        (fillers, received - began)
    });
    assert_eq!(r2.drops("unpaid"), refused, "packets were refused");
    for router in &pair {
        let said = format!("{}{}", router.show("status").expect("a status")["warnings"], router.log());
        assert!(!said.contains("disk is full"), "{}: {said}", router.name);
    }
    let full = settled(r1, r2);
    // More than five windows: they were written, or credit had ended.
    assert!(carried > 6 * (64 << 20), "{carried} bytes");
    assert_eq!(full.nonce, before.nonce, "another channel");

    // Power fails while the disks are full: both start, and go on.
    pair.iter_mut().for_each(Router::kill);
    pair.iter_mut().for_each(Router::start);
    let [r1, r2] = &pair;
    reachable(&r1.host, &r2.address, secs(30));
    let resumed = settled(r1, r2);
    // Both have forgotten what was not written: at most five windows, at 100 tokens per GiB.
    let bound = (5 * (64 << 20) * 100 * TOKEN) >> 30;
    assert!(resumed.amount + bound >= full.amount && resumed.nonce == full.nonce, "{full:?}, then {resumed:?}");
    web.must_fetch(&r1.host);
    // So do they after an orderly end.
    pair.iter_mut().for_each(Router::stop);
    pair.iter_mut().for_each(Router::start);
    let [r1, r2] = &pair;
    reachable(&r1.host, &r2.address, secs(30));
    web.must_fetch(&r1.host);
    let still_full = settled(r1, r2);

    // And when there is room again.
    fillers.iter().for_each(|filler| fs::remove_file(filler).expect("the file is there"));
    pair.iter_mut().for_each(Router::kill);
    pair.iter_mut().for_each(Router::start);
    let [r1, r2] = &pair;
    reachable(&r1.host, &r2.address, secs(30));
    web.must_fetch(&r1.host);
    let after = settled(r1, r2);
    assert!(after.amount + bound > still_full.amount && after.nonce == full.nonce, "{still_full:?}, then {after:?}");
    assert_eq!(r2.redeem() + after.redeemed, after.amount);
    ledger.audit();
    lab.figures(&format!(
        "{} MB carried and paid on two disks filled to the last byte, no packet refused; of {} signed {} were left after \
         both lost power at once, {bound} may be lost; {} after an orderly end and another power cut",
        carried / 1_000_000,
        full.amount,
        resumed.amount,
        after.amount,
    ));
}

/// Intervals of ten seconds under full disks.
const FULL_TICKS: u32 = 3;

#[test]
fn a_disk_that_fails_is_reported_bounds_credit_and_lets_pings_pass() {
    let tools = ["ping", "curl", "python3", "mkfs.ext4", "findmnt"];
    let Some(mut lab) = Lab::open("a_disk_that_fails_is_reported_bounds_credit_and_lets_pings_pass", &tools) else {
        return;
    };
    let ledger = Ledger::create(&lab);
    let mut pair = dear_pair(&mut lab, &ledger);
    let disk = Disk::ext4(&lab, &pair[1]);
    let switch = format!("/sys/fs/ext4/{}/trigger_fs_error", disk.device());
    if !Path::new(&switch).exists() {
        return lab.figures("skipped: this kernel cannot make an ext4 fail");
    }
    pair.iter_mut().for_each(Router::start);
    let [r1, r2] = &pair;
    reachable(&r1.host, &r2.address, secs(30));
    let web = WebServer::start(&lab, &r2.host, &r2.address, 50_000_000);
    web.must_fetch(&r1.host);
    let written = settled(r1, r2);
    let sent = || r2.meter(r1).expect("a meter").sent;
    let before = sent();
    fs::write(&switch, "1").expect("the switch works");
    let status = until("the end of credit", secs(60), || {
        // It takes a second, unless nothing more is carried.
        let arrived = web.fetch(&r1.host, &["--max-time", "6"]);
        let status = r2.show("status")?;
        let is_told = status["warnings"].to_string().contains("journal");
        if is_told && arrived.is_err() {
            Ok(status)
        } else {
            Err(format!("{} bytes were carried; {status}", sent() - before))
        }
    });
    let carried = sent() - before;
    assert!(r2.drops("unpaid") > 0, "{status}");
    // Five windows of receipts that are not written, one on trust, and what was carried between two looks.
    assert!(carried <= 7 * (64 << 20), "{carried} bytes were carried");
    assert!(ping(&r1.host, &r2.address, 10, &[]).expect("ping runs").answered > 0);
    lab.figures(&format!(
        "{} MB were carried after {} was written and the disk failed",
        carried / 1_000_000,
        written.amount
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
