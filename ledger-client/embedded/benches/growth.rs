//! What a ledger costs that has grown long: half of its entries make an account each, half redeem receipts.
//!
//! `WAYBILL_ENTRIES=1000000 cargo bench -p ledger-embedded --bench growth`

use std::path::Path;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use ledger_core::fact::Fact;
use ledger_core::merkle::{leaf_hash, verify_inclusion};
use ledger_core::place::Funds;
use ledger_core::{Command, Genesis, Order, Presented, Request, State, UnixTime};
use ledger_embedded::{Embedded, Verdict, audit_export};
use metering::{AccountKey, ChannelId, LedgerDomain, NodeId, Receipt, Tokens};

const ENTRIES: u64 = 20_000;
/// How many entries are written in one transaction while it grows.
const AT_ONCE: u64 = 2_000;
/// How many of each question are timed.
const ASKED: u64 = 1_000;

fn main() {
    let entries = env::var("WAYBILL_ENTRIES").map_or(ENTRIES, |entries| entries.parse().expect("a number of entries"));
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("ledger");
    let founding = Founding::new();
    let mut ledger = founding.found(&path);
    let mut hashing = Duration::ZERO;
    let grown = timed(|| hashing = founding.grow(&mut ledger, entries));
    let size = ledger.head().expect("a ledger").size;
    println!(
        "{size} entries written in {:.0} s, signed and looked at on two cores; in {:.0} s of it records hashed",
        grown.as_secs_f64(),
        hashing.as_secs_f64()
    );
    drop(ledger);

    let bytes = fs::metadata(&path).expect("a file").len();
    println!("file: {:.1} MB, {} bytes an entry", bytes as f64 / 1e6, bytes / size);
    let open = timed(|| drop(Embedded::open(&path, clock()).expect("a ledger")));
    println!("opened in {:.1} ms", open.as_secs_f64() * 1e3);
    let mut ledger = Embedded::open(&path, clock()).expect("a ledger");
    ask(&mut ledger, size);

    let mut log = Vec::new();
    let export = timed(|| assert_eq!(ledger.export(&mut log).expect("a ledger").size, size));
    println!(
        "exported at {:.0} entries a second, {:.1} MB",
        size as f64 / export.as_secs_f64(),
        log.len() as f64 / 1e6
    );
    let copy = directory.path().join("copy");
    let backup = timed(|| assert_eq!(ledger.backup(&copy, |_| ()).expect("a copy").size, size));
    println!("backed up, to the disk, in {:.2} s", backup.as_secs_f64());
    let mut verdict = None;
    let audit = timed(|| verdict = ledger.audit().ok());
    println!("audited at {:.0} entries a second", size as f64 / audit.as_secs_f64());
    assert!(matches!(verdict, Some(Verdict::Kept(_))), "{verdict:?}");
    let one_by_one = timed(|| {
        let text = std::str::from_utf8(&log).expect("hexadecimal digits");
        let mut entries = text.lines().map(|line| hex::decode(line).expect("hexadecimal digits"));
        let mut state = State::replay_founding(&entries.next().expect("a founding")).expect("a founding");
        entries.for_each(|entry| drop(state.replay(&entry).expect("the rules allow it")));
    });
    println!("its export replayed on one core at {:.0} entries a second", size as f64 / one_by_one.as_secs_f64());
    let mut exported = None;
    let audit = timed(|| exported = audit_export(&log[..]).ok());
    println!("its export audited at {:.0} entries a second", size as f64 / audit.as_secs_f64());
    assert_eq!(exported, verdict);
}

/// Times what a node and a client ask.
fn ask(ledger: &mut Embedded, size: u64) {
    let head = ledger.head().expect("a ledger");
    let each = |what: &str, took: Duration| println!("{what}: {:.0} us", took.as_secs_f64() * 1e6 / ASKED as f64);
    let some = |n: u64| n * 7919 % (size - 1);
    let balances = timed(|| {
        for n in 0..ASKED {
            let held = ledger.balance(fresh(some(n) / 2)).expect("a ledger");
            assert!(held != Tokens::ZERO || some(n) + 8 > size);
        }
    });
    each("a balance read", balances);
    let proofs = timed(|| {
        for n in 0..ASKED {
            let (entry, proof) = ledger.prove_entry(some(n), size).expect("a ledger").expect("an entry");
            assert!(verify_inclusion(&head, some(n), &leaf_hash(&entry.encode()), &proof));
        }
    });
    each("an entry proven, and the proof checked", proofs);
    let records = timed(|| {
        for n in 0..ASKED {
            let place = Funds::place(&fresh(some(n) / 2));
            let mut proven =
                ledger.proven_records(std::slice::from_ref(&place)).expect("a ledger").expect("up to date");
            let (value, proof) = proven.records.pop().expect("a record");
            assert!(proof.shows(&proven.root, &place, value.as_deref()));
        }
    });
    each("a record proven, and the proof checked", records);
    let growths = timed(|| {
        for n in 0..ASKED {
            assert!(ledger.prove_growth(1 + some(n), size).expect("a ledger").is_some());
        }
    });
    each("growth proven", growths);
}

/// Who founds it, mints in it and pays in it.
struct Founding {
    key: AccountKey,
    channel: ChannelId,
    domain: LedgerDomain,
    genesis: Genesis,
}

impl Founding {
    fn new() -> Self {
        let key = AccountKey::from_bytes(&[0xa1; 32]).expect("a key");
        let payer = key.node_id();
        let genesis = Genesis::new("Bench", "TOK", 6, payer, UnixTime::from_seconds(1), [1; 16]).expect("good names");
        let channel = ChannelId { payer, payee: NodeId([0xb0; 20]), nonce: 1 };
        Self { key, channel, domain: genesis.domain(), genesis }
    }

    fn found(&self, path: &Path) -> Embedded {
        let mut ledger = Embedded::create(path, &self.genesis, clock()).expect("a ledger");
        for command in [
            Command::Mint { to: self.channel.payer, amount: tokens(1 << 50) },
            Command::OpenChannel { payee: self.channel.payee, deposit: tokens(1 << 49) },
        ] {
            ledger.order(&self.key, self.channel.payer, command).expect("it is allowed");
        }
        ledger
    }

    /// Says how long of it records were hashed.
    fn grow(&self, ledger: &mut Embedded, entries: u64) -> Duration {
        let mut hashing = Duration::ZERO;
        for first in (0..entries / 2).step_by(AT_ONCE as usize / 2) {
            let (middle, end) = (first + AT_ONCE / 4, first + AT_ONCE / 2);
            let presented = thread::scope(|scope| {
                let later = scope.spawn(|| self.present(middle..end));
                let mut presented = self.present(first..middle);
                presented.extend(later.join().expect("no panic"));
                presented
            });
            let answers = ledger.execute_presented(&presented).expect("a ledger");
            assert!(answers.iter().all(Result::is_ok));
            hashing += timed(|| while ledger.hash_records(u64::MAX).expect("a ledger") {});
        }
        hashing
    }

    /// For each number a new account, and a receipt.
    fn present(&self, numbers: std::ops::Range<u64>) -> Vec<Presented> {
        let both = |number: u64| {
            let mint = Command::Mint { to: fresh(number), amount: tokens(1) };
            let order = Order::sign(&self.key, &self.domain, self.channel.payer, number + 3, mint).into_unverified();
            let total = tokens(u128::from(number) + 1);
            let receipt = Receipt::sign(&self.key, &self.domain, self.channel, total, [7; 32]).into_unverified();
            [Request::Order(order), Request::Redeem { receipt }]
        };
        numbers.flat_map(both).map(|request| Presented::recover(&self.domain, request)).collect()
    }
}

/// An account that nobody has the key of.
fn fresh(number: u64) -> NodeId {
    let hash = leaf_hash(&number.to_be_bytes());
    NodeId(std::array::from_fn(|at| hash.0[at]))
}

fn clock() -> ledger_embedded::Clock {
    Box::new(UnixTime::default)
}

fn tokens(n: u128) -> Tokens {
    Tokens::new(n).expect("a small amount")
}

fn timed(work: impl FnOnce()) -> Duration {
    #[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
    let began = Instant::now();
    work();
    began.elapsed()
}
