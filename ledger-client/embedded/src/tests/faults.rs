//! What the store survives: processes that are killed, writes that are torn, bits that flip.
//!
//! CI does a part; before a release `WAYBILL_KILLS=500 WAYBILL_FLIPS=all cargo test -p ledger-embedded faults` does all.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::{self, Child};
use std::sync::Mutex;
use std::time::Duration;
use std::{env, fs, thread};

use ledger_core::merkle::leaf_hash;

use super::*;

/// Where the child of the test below finds its ledger; without it, the child has nothing to do.
const CHILD_PATH: &str = "WAYBILL_TEST_LEDGER";

/// How often one ledger's writer is killed, before a new one is begun: an audit replays all of it.
const KILLS_A_LEDGER: u32 = 20;

/// Alice's `sequence`-th order, always the same: one token for Carol.
fn gift(sequence: u64) -> Request {
    let command = Command::Transfer { to: id(carol), amount: tokens(1) };
    Request::Order(Order::sign(&alice(), &genesis().domain(), id(alice), sequence, command).into_unverified())
}

fn told(entry: &Entry) -> String {
    leaf_hash(&entry.encode()).to_string()
}

/// Two writers at once: one orders singly, the other redeems in batches. Both say what they are about to ask, and what they
/// were answered.
#[test]
fn child_works_until_it_is_killed() {
    let Some(path) = env::var_os(CHILD_PATH) else { return };
    let open = || Embedded::open(path.as_ref(), Box::new(UnixTime::default)).unwrap();
    // One line at a time, behind a line break that ends what the test harness has begun.
    let say = Mutex::new(());
    let says = |words: &str| {
        let _one_at_a_time = say.lock().unwrap();
        println!("\n{words}");
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut ledger = open();
            for sequence in ledger.sequence(id(alice)).unwrap() + 1.. {
                says(&format!("asks {sequence}"));
                let entry = ledger.execute(&gift(sequence)).unwrap();
                says(&format!("answered {}", told(&entry)));
            }
        });
        scope.spawn(|| {
            let redeemed = open().channel(channel()).unwrap().unwrap().redeemed.get();
            let writer = Writer::start(open()).unwrap();
            for first in (redeemed + 1..).step_by(8) {
                // The kill may come while records are hashed, too.
                writer.hash_records(drop).unwrap();
                let receipts = (first..first + 8).map(|total| writer.present(redeem(total))).collect();
                for outcome in writer.execute(receipts).unwrap() {
                    says(&format!("answered {}", told(&outcome.unwrap().entry)));
                }
            }
        });
    });
}

/// What somebody outside has heard a killed child say.
#[derive(Default)]
struct Witness {
    asked: Option<u64>,
    answered: BTreeSet<String>,
}

impl Witness {
    /// Listens until the child is dead, which is after `patience`.
    fn hear(mut child: Child, patience: Duration) -> Self {
        let said = BufReader::new(child.stdout.take().unwrap());
        let listener = thread::spawn(move || {
            let mut witness = Self::default();
            for line in said.lines().map_while(Result::ok) {
                if let Some(sequence) = line.strip_prefix("asks ") {
                    witness.asked = sequence.parse().ok().or(witness.asked);
                }
                // A word cut short by the kill was not said.
                witness
                    .answered
                    .extend(line.strip_prefix("answered ").filter(|hash| hash.len() == 64).map(str::to_owned));
            }
            witness
        });
        thread::sleep(patience);
        child.kill().unwrap();
        child.wait().unwrap();
        listener.join().unwrap()
    }
}

#[test]
fn writers_that_are_killed_lose_nothing_they_were_answered_and_do_nothing_twice() {
    let kills = env::var("WAYBILL_KILLS").map_or(KILLS_A_LEDGER, |kills| kills.parse().unwrap());
    let seed = env::var("WAYBILL_SEED").map_or(1, |seed| seed.parse().unwrap());
    let mut dice = fastrand::Rng::with_seed(seed);
    let (mut done, mut answered) = (0, 0);
    while done < kills {
        let rounds = KILLS_A_LEDGER.min(kills - done);
        answered += kill_repeatedly(&mut dice, rounds);
        done += rounds;
    }
    println!("seed {seed}: {kills} kills, {answered} answers kept");
    assert!(answered > u64::from(kills), "{answered} answers in {kills} lives: nothing was tried");
}

/// Returns how many answers were heard, all of which were kept.
fn kill_repeatedly(dice: &mut fastrand::Rng, rounds: u32) -> u64 {
    let (place, mut ledger) = Place::new();
    mint(&mut ledger, id(alice), 2_000_000);
    order(&mut ledger, alice, Command::TopUp { channel: channel(), amount: tokens(1_000_000) });
    let before = ledger.sequence(id(alice)).unwrap();
    let (mut seen, mut answered) = (ledger.head().unwrap(), 0);
    // In every second round another process has the ledger open, and so keeps the write-ahead log in use.
    let mut other = Some(ledger);
    for round in 0..rounds {
        let child = process::Command::new(env::current_exe().unwrap())
            .args(["--exact", "tests::faults::child_works_until_it_is_killed", "--nocapture"])
            .env(CHILD_PATH, place.path())
            .stdout(process::Stdio::piped())
            .stderr(process::Stdio::null())
            .spawn()
            .unwrap();
        let witness = Witness::hear(child, Duration::from_micros(dice.u64(0..120_000)));
        let mut recovered = place.open().unwrap();
        recovered.must_continue(&seen).unwrap();
        let found = entries_from(&mut recovered, seen.size);
        for hash in &witness.answered {
            assert_eq!(found.get(hash), Some(&1), "{hash} was answered");
        }
        answered += witness.answered.len() as u64;
        // Whoever was not answered asks again, and is answered now.
        if let Some(sequence) = witness.asked {
            recovered.execute(&gift(sequence)).unwrap();
        }
        let orders = recovered.sequence(id(alice)).unwrap() - before;
        assert_eq!(recovered.balance(id(carol)).unwrap(), tokens(orders.into()), "one token an order");
        let redeemed = recovered.channel(channel()).unwrap().unwrap().redeemed;
        assert_eq!(recovered.balance(id(bob)).unwrap(), redeemed);
        seen = recovered.head().unwrap();
        if round + 1 == rounds {
            audited(&mut recovered);
        }
        other = if round % 2 == 1 { Some(recovered) } else { None };
    }
    drop(other);
    answered
}

/// The entries from a number on, by their hashes, and how often each is there.
fn entries_from(ledger: &mut Embedded, mut from: u64) -> BTreeMap<String, u32> {
    let mut found = BTreeMap::new();
    loop {
        let page = ledger.entries(from, MAX_PAGE).unwrap();
        if page.is_empty() {
            return found;
        }
        from += page.len() as u64;
        page.iter().for_each(|entry| *found.entry(told(entry)).or_default() += 1);
    }
}

#[test]
fn writer_that_is_killed_leaves_no_trace() {
    let (place, mut ledger) = Place::new();
    ledger.execute(&redeem(5)).unwrap();
    let head = ledger.head().unwrap();
    // So small a cache that pages of the open transaction reach the write-ahead log.
    ledger.connection.execute_batch("PRAGMA cache_size = 1").unwrap();

    let transaction = ledger.connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    let mut records = Transaction::begin(&transaction, Some(&ledger.genesis)).unwrap();
    for total in 6..60 {
        let presented = Presented::recover(&genesis().domain(), redeem(total));
        outcome(&mut records, UnixTime::from_seconds(1000), &presented).unwrap().unwrap();
    }
    records.finish().unwrap();
    let image = place.crash_image();
    drop(records);
    drop(transaction);
    assert_eq!(ledger.head().unwrap(), head);
    ledger.execute(&redeem(7)).unwrap();

    let mut recovered = image.open().unwrap();
    assert_eq!(recovered.head().unwrap(), head);
    assert_eq!(recovered.balance(id(bob)).unwrap(), tokens(5));
    audited(&mut recovered);
    recovered.execute(&redeem(6)).unwrap();
}

#[test]
fn what_was_answered_survives_a_crash() {
    let (place, mut ledger) = Place::new();
    for total in 1..=60 {
        ledger.execute(&redeem(total)).unwrap();
        if total % 10 == 0 {
            let mut recovered = place.crash_image().open().unwrap();
            assert_eq!(recovered.balance(id(bob)).unwrap(), tokens(total));
            assert_eq!(recovered.head().unwrap(), ledger.head().unwrap());
        }
    }
}

/// A power cut tears what was being written: the write-ahead log ends anywhere, or in bytes that nobody wrote.
#[test]
fn torn_write_ahead_log_is_read_up_to_the_last_whole_commit() {
    let (place, mut ledger) = Place::new();
    let log = place.directory.path().join("ledger-wal");
    let length = || usize::try_from(fs::metadata(&log).unwrap().len()).unwrap();
    let mut commits = vec![(length(), ledger.head().unwrap())];
    for total in 1..=5 {
        ledger.execute(&redeem(total)).unwrap();
        commits.push((length(), ledger.head().unwrap()));
    }
    let image = place.crash_image();
    drop(ledger);
    let (main, log) = (fs::read(image.path()).unwrap(), fs::read(image.directory.path().join("ledger-wal")).unwrap());
    let (first, end) = (commits[0].0, log.len());
    let mut dice = fastrand::Rng::with_seed(1);
    let around = commits.iter().flat_map(|(length, _)| [length - 1, *length, (length + 1).min(end)]);
    for cut in around.chain((first..end).step_by(1_499)).filter(|cut| (first..=end).contains(cut)) {
        let mut garbage = log.clone();
        dice.fill(&mut garbage[cut..]);
        for torn in [log[..cut].to_vec(), [&log[..cut], &vec![0; end - cut]].concat(), garbage] {
            let torn_place = Place { directory: tempfile::tempdir().unwrap(), now: Arc::clone(&image.now) };
            fs::write(torn_place.path(), &main).unwrap();
            fs::write(torn_place.directory.path().join("ledger-wal"), torn).unwrap();
            let mut recovered = torn_place.open().unwrap();
            let head = recovered.head().unwrap();
            let kept = commits.iter().position(|(_, known)| *known == head).expect("one of the commits");
            let whole = commits.iter().rposition(|(length, _)| *length <= cut).unwrap();
            // A commit is filled up to the end of a sector (`psow=0`): cut there, it is whole all the same.
            assert!(kept == whole || kept == whole + 1, "cut at {cut} of {end}: commit {kept}, not {whole}");
            audited(&mut recovered);
        }
    }
}

/// The first page counts pages that have not reached the file, and are in the write-ahead log.
#[test]
fn power_cut_within_a_checkpoint_leaves_a_ledger_that_opens() {
    let (place, mut ledger) = Place::new();
    for total in 1..=60 {
        ledger.execute(&redeem(total)).unwrap();
    }
    let (image, head) = (place.crash_image(), ledger.head().unwrap());
    ledger.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let (before, after) = (fs::read(image.path()).unwrap(), fs::read(place.path()).unwrap());
    assert!(before.len() < after.len());
    fs::write(image.path(), [&after[..1024], &before[1024..]].concat()).unwrap();
    let mut recovered = image.open().unwrap();
    assert_eq!(recovered.head().unwrap(), head);
    audited(&mut recovered);
}

/// The pages around the one that was being written hold anything; all of them are in the write-ahead log.
#[test]
fn power_cut_that_damages_the_first_page_leaves_a_ledger_that_opens() {
    let (place, mut ledger) = Place::new();
    for total in 1..=5 {
        ledger.execute(&redeem(total)).unwrap();
    }
    let (image, head) = (place.crash_image(), ledger.head().unwrap());
    let mut main = fs::read(image.path()).unwrap();
    main[..4096].fill(0xa5);
    fs::write(image.path(), &main).unwrap();
    let mut recovered = image.open().unwrap();
    assert_eq!(recovered.head().unwrap(), head);
    audited(&mut recovered);
    drop(recovered);
    // Another program's log is left alone, and its file too.
    let log = image.directory.path().join("ledger-wal");
    for (file, beside) in [(&main[..], &[0xff; 4096][..]), (b"hello", b"")] {
        fs::write(image.path(), file).unwrap();
        fs::write(&log, beside).unwrap();
        let refused = image.open().unwrap_err();
        assert!(matches!(refused, Error::NotALedger { .. }), "{refused}");
        assert_eq!((&fs::read(image.path()).unwrap()[..], &fs::read(&log).unwrap()[..]), (file, beside));
    }
}

#[test]
fn flipped_bit_is_found_or_changes_nothing() {
    let (place, mut ledger) = Place::new();
    let (voucher, until) = (NodeId([0x5e; 20]), UnixTime::from_seconds(2000));
    order(&mut ledger, alice, Command::IssueVoucher { voucher, amount: tokens(5), until });
    for total in 1..=3 {
        ledger.execute(&redeem(total)).unwrap();
    }
    let sound = audited(&mut ledger);
    drop(ledger);
    let bytes = fs::read(place.path()).unwrap();
    let bits = bytes.len() * 8;
    let steps = match env::var("WAYBILL_FLIPS").as_deref() {
        Ok("all") => bits,
        Ok(flips) => flips.parse().unwrap(),
        Err(_) => 400,
    };
    let mut found = 0;
    // A step that is coprime to the number of bits visits all kinds of places, and all places in the end.
    for step in 0..steps {
        let bit = step * 7919 % bits;
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(place.path(), &flipped).unwrap();
        match place.open().and_then(|mut ledger| ledger.audit()) {
            Ok(Verdict::Kept(audit)) => assert_eq!(audit, sound, "bit {bit}"),
            Ok(Verdict::Broken(_)) | Err(_) => found += 1,
        }
        for name in ["ledger-wal", "ledger-shm"] {
            let _ = fs::remove_file(place.directory.path().join(name));
        }
    }
    println!("{steps} of {bits} bits flipped, {found} found");
    // The rest stands in bytes of pages that hold nothing.
    assert!(found > steps / 4, "{found} of {steps}");
}
