//! What the store does in a second, and what it writes: `cargo bench -p ledger-embedded --bench store`.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ledger_core::{Command, Genesis, Order, Presented, Request, UnixTime};
use ledger_embedded::{Embedded, Writer};
use metering::{AccountKey, ChannelId, Receipt, Tokens};

/// How many of each kind are timed.
const REQUESTS: u64 = 1_000;
const BATCH: usize = 100;
const CLIENTS: usize = 64;
/// Who present batches, beside the writer's own thread.
const PRESENTERS: usize = 2;
/// How many requests go through a writer.
const WRITTEN: usize = 40_000;

fn main() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut bench = Bench::new(&directory.path().join("ledger"));

    let (single, bytes) = bench.redeem(REQUESTS, 1);
    println!(
        "receipts redeemed singly, each durable: {single:.0} a second, {bytes} bytes to the write-ahead log for each"
    );
    println!("orders signed and done singly, each durable: {:.0} a second", bench.order(REQUESTS));
    let (batches, _) = bench.redeem(REQUESTS * 5, BATCH);
    println!("receipts redeemed {BATCH} at a time: {batches:.0} a second");
    let recovered = bench.recover(REQUESTS);
    println!("signatures looked at on one core: {recovered:.0} a second");
    println!(
        "receipts redeemed {BATCH} at a time, looked at before: {:.0} a second",
        bench.redeem_presented(REQUESTS * 20)
    );
    println!("receipts redeemed singly by {CLIENTS} clients of a writer: {}", bench.write(CLIENTS, 1, Kind::Receipts));
    println!("orders done singly for {CLIENTS} clients of a writer: {}", bench.write(CLIENTS, 1, Kind::Orders));
    println!(
        "receipts redeemed {BATCH} at a time by {PRESENTERS} clients: {}",
        bench.write(PRESENTERS, BATCH, Kind::Receipts)
    );
}

/// What is asked of a writer.
#[derive(Clone, Copy)]
enum Kind {
    Receipts,
    Orders,
}

struct Bench {
    ledger: Embedded,
    path: std::path::PathBuf,
    payer: AccountKey,
    channel: ChannelId,
    redeemed: u64,
}

impl Bench {
    fn new(path: &Path) -> Self {
        let payer = AccountKey::from_bytes(&[0xa1; 32]).expect("a key");
        let payee = AccountKey::from_bytes(&[0xb0; 32]).expect("a key").node_id();
        let genesis =
            Genesis::new("Bench", "TOK", 6, payer.node_id(), UnixTime::from_seconds(1), [1; 16]).expect("good names");
        let mut ledger = Embedded::create(path, &genesis, Box::new(UnixTime::default)).expect("a ledger");
        for command in [
            Command::Mint { to: payer.node_id(), amount: tokens(1 << 50) },
            Command::OpenChannel { payee, deposit: tokens(1 << 49) },
        ] {
            ledger.order(&payer, payer.node_id(), command).expect("it is allowed");
        }
        let channel = ChannelId { payer: payer.node_id(), payee, nonce: 1 };
        Self { ledger, path: path.to_owned(), payer, channel, redeemed: 0 }
    }

    fn receipts(&mut self, count: u64) -> Vec<Request> {
        let domain = self.ledger.genesis().domain();
        let first = self.redeemed + 1;
        self.redeemed += count;
        let receipt = |total: u64| Receipt::sign(&self.payer, &domain, self.channel, tokens(total.into()), [7; 32]);
        (first..first + count).map(|total| Request::Redeem { receipt: receipt(total).into_unverified() }).collect()
    }

    /// Receipts a second, and bytes that a commit writes to the log.
    fn redeem(&mut self, count: u64, batch: usize) -> (f64, u64) {
        let receipts = self.receipts(count);
        let log = self.path.with_file_name("ledger-wal");
        let length = || fs::metadata(&log).map_or(0, |metadata| metadata.len());
        // The log is written from its beginning again after a thousand pages; what it grows by before that tells.
        let (mut written, mut commits, mut before) = (0, 0, length());
        let took = timed(|| {
            for batch in receipts.chunks(batch) {
                let outcomes = self.ledger.execute_many(batch).expect("a ledger");
                assert!(outcomes.iter().all(Result::is_ok));
                let after = length();
                written += after.saturating_sub(before);
                commits += u64::from(after > before);
                before = after;
            }
        });
        (count as f64 / took.as_secs_f64(), written / commits.max(1))
    }

    /// Orders a second.
    fn order(&mut self, count: u64) -> f64 {
        let (account, domain) = (self.payer.node_id(), self.ledger.genesis().domain());
        let first = self.ledger.sequence(account).expect("a ledger") + 1;
        let order = |sequence| {
            let command = Command::Transfer { to: self.channel.payee, amount: tokens(1) };
            Request::Order(Order::sign(&self.payer, &domain, account, sequence, command).into_unverified())
        };
        let orders: Vec<Request> = (first..first + count).map(order).collect();
        let took = timed(|| {
            for order in &orders {
                self.ledger.execute(order).expect("it is allowed");
            }
        });
        count as f64 / took.as_secs_f64()
    }

    /// Signatures a second, on one core.
    fn recover(&mut self, count: u64) -> f64 {
        let domain = self.ledger.genesis().domain();
        let receipts = self.receipts(count);
        self.redeemed -= count;
        let took = timed(|| {
            for receipt in &receipts {
                std::hint::black_box(Presented::recover(&domain, *receipt));
            }
        });
        count as f64 / took.as_secs_f64()
    }

    /// Receipts a second, for the one who writes.
    fn redeem_presented(&mut self, count: u64) -> f64 {
        let domain = self.ledger.genesis().domain();
        let receipts: Vec<_> =
            self.receipts(count).into_iter().map(|receipt| Presented::recover(&domain, receipt)).collect();
        let took = timed(|| {
            for batch in receipts.chunks(BATCH) {
                assert!(self.ledger.execute_presented(batch).expect("a ledger").iter().all(Result::is_ok));
            }
        });
        count as f64 / took.as_secs_f64()
    }

    /// What many clients get out of one writer, each with an account and a channel of its own.
    fn write(&mut self, clients: usize, batch: usize, kind: Kind) -> String {
        let domain = self.ledger.genesis().domain();
        let each = WRITTEN / clients;
        let requests: Vec<Vec<Request>> = (0..clients)
            .map(|client| {
                let key = AccountKey::from_bytes(&[client as u8 + 1; 32]).expect("a key");
                self.asks(&key, kind, each)
            })
            .collect();
        let commits = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&commits);
        // The clock is asked once in a transaction.
        let clock = Box::new(move || UnixTime::from_seconds(counted.fetch_add(1, Ordering::Relaxed)));
        let writer = Writer::start(Embedded::open(&self.path, clock).expect("a ledger")).expect("a thread");
        let mut patience: Vec<Duration> = Vec::new();
        let ask_all = |requests: &[Request]| {
            let ask = |batch: &[Request]| {
                timed(|| {
                    let presented = batch.iter().map(|request| Presented::recover(&domain, *request)).collect();
                    assert!(writer.execute(presented).expect("a ledger").iter().all(Result::is_ok));
                })
            };
            requests.chunks(batch).map(ask).collect::<Vec<_>>()
        };
        let took = timed(|| {
            thread::scope(|scope| {
                let threads: Vec<_> = requests.iter().map(|requests| scope.spawn(|| ask_all(requests))).collect();
                patience.extend(threads.into_iter().flat_map(|thread| thread.join().expect("no panic")));
            });
        });
        writer.stop();
        patience.sort_unstable();
        let percentile = |percent: usize| patience[(patience.len() - 1) * percent / 100].as_secs_f64() * 1e3;
        let commits = commits.load(Ordering::Relaxed).max(1) as f64;
        format!(
            "{:.0} a second, {:.1} in a commit, answered in {:.1} ms (half), {:.1} ms (99 of 100), {:.1} ms (all)",
            (each * clients) as f64 / took.as_secs_f64(),
            (each * clients) as f64 / commits,
            percentile(50),
            percentile(99),
            percentile(100),
        )
    }

    /// What one client asks, signed and not looked at.
    fn asks(&mut self, key: &AccountKey, kind: Kind, count: usize) -> Vec<Request> {
        let (domain, account, payee) = (self.ledger.genesis().domain(), key.node_id(), self.channel.payee);
        let mint = Command::Mint { to: account, amount: tokens(1 << 40) };
        self.ledger.order(&self.payer, self.payer.node_id(), mint).expect("it is allowed");
        match kind {
            Kind::Receipts => {
                let deposit = tokens(count as u128);
                self.ledger.order(key, account, Command::OpenChannel { payee, deposit }).expect("it is allowed");
                let nonce = self.ledger.latest_nonce(account, payee).expect("a ledger").expect("it was opened");
                let channel = ChannelId { payer: account, payee, nonce };
                let receipt = |total: usize| Receipt::sign(key, &domain, channel, tokens(total as u128), [7; 32]);
                (1..=count).map(|total| Request::Redeem { receipt: receipt(total).into_unverified() }).collect()
            }
            Kind::Orders => {
                let next = self.ledger.sequence(account).expect("a ledger") + 1;
                let command = Command::Transfer { to: payee, amount: tokens(1) };
                let order = |sequence| Order::sign(key, &domain, account, sequence, command).into_unverified();
                (next..next + count as u64).map(|sequence| Request::Order(order(sequence))).collect()
            }
        }
    }
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
