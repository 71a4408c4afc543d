//! The store is tried as the processes of a machine use it: through files, several at once, and with faults.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use ledger_core::checkpoint::{View, ViewError};
use ledger_core::membership;
use ledger_core::merkle::{leaf_hash, verify_inclusion};
use ledger_core::name;
use ledger_core::registry::{Registration, Station};
use ledger_core::role::Role;
use ledger_core::signer::consent;
use ledger_core::voucher::Claim;
use ledger_core::{Event, Phase, State};
use metering::{Close, Price, Receipt};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

mod copies;
mod faults;
mod records;
mod writing;

type Who = fn() -> AccountKey;

fn treasurer() -> AccountKey {
    AccountKey::from_bytes(&[0xee; 32]).unwrap()
}

fn alice() -> AccountKey {
    AccountKey::from_bytes(&[0xa1; 32]).unwrap()
}

fn bob() -> AccountKey {
    AccountKey::from_bytes(&[0xb0; 32]).unwrap()
}

fn carol() -> AccountKey {
    AccountKey::from_bytes(&[0xca; 32]).unwrap()
}

fn id(who: Who) -> NodeId {
    who().node_id()
}

/// Has somebody order it.
fn order(ledger: &mut Embedded, who: Who, command: Command) -> Entry {
    ledger.order(&who(), id(who), command).unwrap()
}

fn tokens(n: u128) -> Tokens {
    Tokens::new(n).unwrap()
}

fn genesis() -> Genesis {
    Genesis::new("Hilltop", "HILL", 6, id(treasurer), UnixTime::from_seconds(1000), [1; 16]).unwrap()
}

/// A directory with one ledger in it, whose clock the test turns.
struct Place {
    directory: TempDir,
    now: Arc<AtomicU64>,
}

impl Place {
    /// A ledger where Alice holds 40 tokens and has locked 60 for Bob.
    fn new() -> (Self, Embedded) {
        let place = Self { directory: tempfile::tempdir().unwrap(), now: Arc::new(1000.into()) };
        let mut ledger = Embedded::create(&place.path(), &genesis(), place.clock()).unwrap();
        mint(&mut ledger, id(alice), 100);
        order(&mut ledger, alice, open_channel(60));
        (place, ledger)
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("ledger")
    }

    fn clock(&self) -> Clock {
        let now = Arc::clone(&self.now);
        Box::new(move || UnixTime::from_seconds(now.load(Ordering::Relaxed)))
    }

    fn open(&self) -> Result<Embedded, Error> {
        Embedded::open(&self.path(), self.clock())
    }

    /// Does to the file what its owner can do by hand.
    fn by_hand(&self, sql: &str) {
        Connection::open(self.path()).unwrap().execute_batch(sql).unwrap();
    }

    /// What a crash at this moment would leave: a copy of the file and its write-ahead log.
    fn crash_image(&self) -> Self {
        let image = Self { directory: tempfile::tempdir().unwrap(), now: Arc::clone(&self.now) };
        for name in ["ledger", "ledger-wal"] {
            let _ = fs::copy(self.directory.path().join(name), image.directory.path().join(name));
        }
        image
    }
}

fn channel() -> ChannelId {
    ChannelId { payer: id(alice), payee: id(bob), nonce: 1 }
}

fn mint(ledger: &mut Embedded, to: NodeId, amount: u128) {
    order(ledger, treasurer, Command::Mint { to, amount: tokens(amount) });
}

fn open_channel(deposit: u128) -> Command {
    Command::OpenChannel { payee: id(bob), deposit: tokens(deposit) }
}

fn redeem(total: u128) -> Request {
    let receipt = Receipt::sign(&alice(), &genesis().domain(), channel(), tokens(total), [7; 32]);
    Request::Redeem { receipt: receipt.into_unverified() }
}

fn paid(outcome: Result<Entry, Refusal>) -> Result<u128, &'static str> {
    outcome.map_err(|refusal| refusal.rule()).map(|entry| {
        let Event::Redeemed { paid, .. } = entry.event else { panic!("{entry:?}") };
        paid.get()
    })
}

fn audited(ledger: &mut Embedded) -> Audit {
    match ledger.audit().unwrap() {
        Verdict::Kept(audit) => audit,
        Verdict::Broken(difference) => panic!("{difference}"),
    }
}

#[test]
fn what_one_process_does_the_others_see_and_a_new_one_finds() {
    let (place, mut first) = Place::new();
    let mut second = place.open().unwrap();
    first.execute(&redeem(25)).unwrap();
    assert_eq!(second.balance(id(bob)).unwrap(), tokens(25));
    order(&mut second, bob, Command::Transfer { to: id(carol), amount: tokens(5) });
    assert_eq!(first.balance(id(carol)).unwrap(), tokens(5));
    let head = first.head().unwrap();
    drop((first, second));

    let mut third = place.open().unwrap();
    assert_eq!(third.head().unwrap(), head);
    assert_eq!(third.channel(channel()).unwrap().unwrap().redeemed, tokens(25));
    let totals = Totals { minted: tokens(100), held: tokens(65), locked: tokens(35), ..Totals::default() };
    assert_eq!(third.totals().unwrap(), totals);
    assert_eq!(audited(&mut third), Audit { head, totals, accounts: 3, channels: 1 });
}

#[test]
fn receipt_is_redeemed_once_also_after_opening_again() {
    let (place, mut ledger) = Place::new();
    ledger.execute(&redeem(25)).unwrap();
    drop(ledger);
    let mut ledger = place.open().unwrap();
    let refused = ledger.execute(&redeem(25)).unwrap_err();
    assert!(matches!(refused, Error::Refused(Refusal::ReceiptAlreadyRedeemed { .. })), "{refused}");
    assert_eq!(
        refused.to_string(),
        "the ledger refuses it (ReceiptAlreadyRedeemed): a receipt over 25 was redeemed before"
    );
    let refused = ledger.execute(&redeem(24)).unwrap_err();
    assert!(matches!(refused, Error::Refused(Refusal::TotalWentBackwards { .. })), "{refused}");
    assert_eq!(ledger.balance(id(bob)).unwrap(), tokens(25));
}

#[test]
fn who_can_write_the_file_and_has_no_key_moves_no_token() {
    let (place, mut ledger) = Place::new();
    let thief = |ledger: &mut Embedded, command| ledger.order(&carol(), id(alice), command).unwrap_err();
    let refused = thief(&mut ledger, Command::Transfer { to: id(carol), amount: tokens(1) });
    assert!(matches!(refused, Error::Refused(Refusal::OrderSignatureInvalid { .. })), "{refused}");
    let head = ledger.head().unwrap();
    // By hand, with a seal of Alice's that is there.
    order(&mut ledger, alice, Command::Transfer { to: id(bob), amount: tokens(1) });
    let made = ledger.entries(head.size, 1).unwrap().remove(0);
    let event = Event::Transferred { from: id(alice), to: id(carol), amount: tokens(1) };
    let forged = Entry { event, ..made }.encode();
    let hex: String = forged.iter().map(|byte| format!("{byte:02x}")).collect();
    place.by_hand(&format!("UPDATE entry SET entry = x'{hex}' WHERE number = {}", head.size));
    let Verdict::Broken(difference) = ledger.audit().unwrap() else { panic!("a forged entry passes") };
    assert!(difference.to_string().contains("entry 3: the rules forbid it (OrderSignatureInvalid)"), "{difference}");
}

#[test]
fn order_that_comes_again_is_answered_as_the_first_time_also_after_opening_again() {
    let (place, mut ledger) = Place::new();
    let command = Command::Transfer { to: id(carol), amount: tokens(5) };
    let sequence = ledger.sequence(id(alice)).unwrap() + 1;
    let order = Order::sign(&alice(), &genesis().domain(), id(alice), sequence, command).into_unverified();
    let first = ledger.execute(&Request::Order(order)).unwrap();
    let head = ledger.head().unwrap();
    drop(ledger);
    place.now.store(2000, Ordering::Relaxed);
    let mut ledger = place.open().unwrap();
    assert_eq!(ledger.execute(&Request::Order(order)).unwrap(), first);
    assert_eq!(ledger.head().unwrap(), head);
    assert_eq!(ledger.balance(id(carol)).unwrap(), tokens(5));

    let other = Command::Transfer { to: id(carol), amount: tokens(6) };
    let other = Order::sign(&alice(), &genesis().domain(), id(alice), sequence, other).into_unverified();
    let refused = ledger.execute(&Request::Order(other)).unwrap_err();
    assert!(matches!(refused, Error::Refused(Refusal::SequenceAlreadyUsed { next: 3, .. })), "{refused}");
}

#[test]
fn answer_says_where_in_the_log_the_entry_stands() {
    let (_place, mut ledger) = Place::new();
    let (domain, size) = (genesis().domain(), ledger.head().unwrap().size);
    let sequence = ledger.sequence(id(alice)).unwrap() + 1;
    let gift = Command::Transfer { to: id(carol), amount: tokens(5) };
    let gift = Request::Order(Order::sign(&alice(), &domain, id(alice), sequence, gift).into_unverified());
    let asked = [redeem(1), gift, redeem(1), redeem(2), gift].map(|request| Presented::recover(&domain, request));
    let answers = ledger.execute_presented(&asked).unwrap();
    let numbers: Vec<_> = answers.iter().map(|answer| answer.as_ref().ok().map(|recorded| recorded.number)).collect();
    assert_eq!(numbers, [Some(size), Some(size + 1), None, Some(size + 2), Some(size + 1)]);
    for recorded in answers.into_iter().flatten() {
        assert_eq!(ledger.entries(recorded.number, 1).unwrap(), [recorded.entry]);
    }
}

#[test]
fn processes_that_share_a_key_do_not_take_each_others_numbers() {
    let (place, mut ledger) = Place::new();
    thread::scope(|scope| {
        for _ in 0..4 {
            let mut own = place.open().unwrap();
            scope.spawn(move || {
                for _ in 0..10 {
                    order(&mut own, alice, Command::Transfer { to: id(carol), amount: tokens(1) });
                }
            });
        }
    });
    assert_eq!(ledger.sequence(id(alice)).unwrap(), 41);
    assert_eq!(ledger.balance(id(carol)).unwrap(), tokens(40));
    audited(&mut ledger);
}

#[test]
fn new_key_and_voucher_are_kept_across_openings_and_audited() {
    let (place, mut ledger) = Place::new();
    let secret = AccountKey::from_bytes(&[0x5e; 32]).unwrap();
    let (voucher, until) = (secret.node_id(), UnixTime::from_seconds(2000));
    order(&mut ledger, alice, Command::IssueVoucher { voucher, amount: tokens(15), until });
    let sequence = ledger.sequence(id(alice)).unwrap() + 1;
    let consent = consent(&carol(), &genesis().domain(), id(alice), sequence);
    order(&mut ledger, alice, Command::ChangeSigner { signer: id(carol), consent });
    drop(ledger);

    let mut ledger = place.open().unwrap();
    let transfer = Command::Transfer { to: id(bob), amount: tokens(5) };
    let refused = ledger.order(&alice(), id(alice), transfer).unwrap_err();
    assert!(matches!(refused, Error::Refused(Refusal::OrderSignatureInvalid { .. })), "{refused}");
    ledger.order(&carol(), id(alice), transfer).unwrap();
    let claim = Request::RedeemVoucher {
        claim: Claim::sign(&secret, &genesis().domain(), id(alice), id(bob)).into_unverified(),
    };
    ledger.execute(&claim).unwrap();
    let refused = ledger.execute(&claim).unwrap_err();
    assert!(matches!(refused, Error::Refused(Refusal::VoucherAlreadySpent)), "{refused}");
    assert_eq!(ledger.balance(id(bob)).unwrap(), tokens(20));
    audited(&mut ledger);

    let unspent =
        "UPDATE fact SET value = CAST(substr(value, 1, length(value) - 1) || x'00' AS BLOB) WHERE length(value) > 20";
    place.by_hand(unspent);
    let Verdict::Broken(difference) = ledger.audit().unwrap() else { panic!("a voucher comes back") };
    assert!(difference.to_string().starts_with("the record under 03"), "{difference}");
    place.by_hand("UPDATE fact SET value = x'05' WHERE length(value) > 20");
    let refused = ledger.execute(&claim).unwrap_err();
    assert!(refused.to_string().ends_with(" was changed"), "{refused}");
}

#[test]
fn bad_receipt_among_many_is_skipped_and_the_rest_is_paid() {
    let (_place, mut ledger) = Place::new();
    let before = ledger.head().unwrap().size;
    let outcomes = ledger.execute_many(&[10, 30, 20, 61, 30, 60].map(redeem)).unwrap();
    let expected =
        [Ok(10), Ok(20), Err("TotalWentBackwards"), Err("TotalExceedsDeposit"), Err("ReceiptAlreadyRedeemed"), Ok(30)];
    assert_eq!(outcomes.into_iter().map(paid).collect::<Vec<_>>(), expected);
    assert_eq!(ledger.head().unwrap().size, before + 3);
    audited(&mut ledger);
}

#[test]
fn notice_runs_by_the_clock_across_openings() {
    let (place, mut ledger) = Place::new();
    let closing = channel();
    order(&mut ledger, alice, Command::StartClose { channel: closing });
    drop(ledger);
    let exit = 1000 + u64::from(genesis().close_notice_s());
    place.now.store(exit - 1, Ordering::Relaxed);
    let mut ledger = place.open().unwrap();
    let refused = ledger.execute(&Request::Finalize { channel: closing }).unwrap_err();
    assert!(matches!(refused, Error::Refused(Refusal::NoticeNotOver { .. })), "{refused}");
    let phase = ledger.channel(closing).unwrap().unwrap().phase;
    assert_eq!(phase, Phase::Closing { exit: UnixTime::from_seconds(exit) });
    place.now.store(exit, Ordering::Relaxed);
    ledger.execute(&Request::Finalize { channel: closing }).unwrap();
    assert_eq!(ledger.channel(closing).unwrap().unwrap().phase, Phase::Closed);
    assert_eq!(ledger.balance(id(alice)).unwrap(), tokens(100));
    audited(&mut ledger);
}

#[test]
fn clock_that_is_far_ahead_of_the_newest_entry_is_not_taken_for_the_time() {
    let (place, mut ledger) = Place::new();
    let (head, ahead) = (ledger.head().unwrap(), 4_294_967_295);
    place.now.store(ahead, Ordering::Relaxed);
    let transfer = Command::Transfer { to: id(bob), amount: tokens(1) };
    for refused in [
        ledger.execute(&redeem(5)).unwrap_err(),
        ledger.execute_many(&[redeem(5)]).unwrap_err(),
        ledger.order(&alice(), id(alice), transfer).unwrap_err(),
    ] {
        assert!(matches!(refused, Error::ClockAhead { .. }), "{refused}");
        let path = place.path();
        assert_eq!(
            refused.to_string(),
            format!(
                "the clock says 2106-02-07 06:28:15 UTC, and the newest entry of {} is of 1970-01-01 00:16:40 UTC: \
                 set the clock, or accept the time if it is right",
                path.display()
            )
        );
    }
    assert_eq!(ledger.head().unwrap(), head, "it can be looked at, and nothing has happened");
    let last = 1000 + u64::from(MAX_REST_S);
    place.now.store(last + 1, Ordering::Relaxed);
    assert!(matches!(ledger.execute(&redeem(5)), Err(Error::ClockAhead { .. })));
    place.now.store(last, Ordering::Relaxed);
    assert_eq!(ledger.execute(&redeem(5)).unwrap().at, UnixTime::from_seconds(last));
}

#[test]
fn ledger_goes_on_after_a_long_rest_once_a_person_has_said_the_time() {
    let (place, mut ledger) = Place::new();
    let mut other = place.open().unwrap();
    let (now, wrong) = (1_795_776_753, 4_294_967_295);
    ledger.accept_time(UnixTime::from_seconds(now));
    place.now.store(wrong, Ordering::Relaxed);
    assert!(matches!(ledger.execute(&redeem(5)), Err(Error::ClockAhead { .. })));
    place.now.store(now + 60, Ordering::Relaxed);
    assert!(matches!(other.execute(&redeem(5)), Err(Error::ClockAhead { .. })));
    ledger.execute(&redeem(5)).unwrap();
    // There is an entry of this time: the others need not be told.
    other.execute(&redeem(6)).unwrap();
    audited(&mut other);
}

#[test]
fn first_entry_after_the_founding_is_by_a_clock_that_fits_it() {
    let place = Place { directory: tempfile::tempdir().unwrap(), now: Arc::new(4_294_967_295.into()) };
    let mut ledger = Embedded::create(&place.path(), &genesis(), place.clock()).unwrap();
    let mint = Command::Mint { to: id(alice), amount: tokens(1) };
    assert!(matches!(ledger.order(&treasurer(), id(treasurer), mint), Err(Error::ClockAhead { .. })));
    place.now.store(2000, Ordering::Relaxed);
    order(&mut ledger, treasurer, mint);
}

#[test]
fn channels_are_listed_for_both_ends() {
    let (_place, mut ledger) = Place::new();
    order(&mut ledger, alice, open_channel(1));
    order(&mut ledger, alice, Command::Transfer { to: id(carol), amount: tokens(5) });
    order(&mut ledger, carol, Command::OpenChannel { payee: id(alice), deposit: tokens(5) });
    let [alice, bob, carol] = [id(alice), id(bob), id(carol)];
    let mut listed = |account| -> Vec<_> {
        let channels = ledger.channels_of(account).unwrap();
        channels.into_iter().map(|(id, channel)| (id.payer, id.payee, id.nonce, channel.deposit.get())).collect()
    };
    let mut all = vec![(alice, bob, 1, 60), (alice, bob, 2, 1), (carol, alice, 1, 5)];
    all.sort();
    assert_eq!(listed(alice), all);
    assert_eq!(listed(bob), [(alice, bob, 1, 60), (alice, bob, 2, 1)]);
    assert_eq!(listed(carol), [(carol, alice, 1, 5)]);
    assert_eq!(ledger.latest_nonce(alice, bob).unwrap(), Some(2));
    assert_eq!(ledger.latest_nonce(bob, alice).unwrap(), None);
    assert_eq!(ledger.channel(ChannelId { nonce: u64::MAX, ..channel() }).unwrap(), None);
}

#[test]
fn log_is_read_in_pages_and_gives_the_root() {
    let (_place, mut ledger) = Place::new();
    for total in 1..=10 {
        ledger.execute(&redeem(total)).unwrap();
    }
    let mut log = Vec::new();
    loop {
        let page = ledger.entries(log.len() as u64, 4).unwrap();
        assert!(page.len() <= 4);
        if page.is_empty() {
            break;
        }
        log.extend(page);
    }
    assert_eq!(log[0].event, Event::Founded(genesis()));
    let mut tree = Tree::default();
    log.iter().for_each(|entry| drop(tree.append(leaf_hash(&entry.encode()))));
    assert_eq!(tree.size(), 13);
    assert_eq!(ledger.head().unwrap(), tree.head());
    assert_eq!(ledger.entries(u64::MAX, usize::MAX).unwrap(), []);
}

#[test]
fn many_processes_redeeming_at_once_pay_each_token_once() {
    let (place, mut ledger) = Place::new();
    order(&mut ledger, alice, Command::TopUp { channel: channel(), amount: tokens(40) });
    let paid: u128 = thread::scope(|scope| {
        let work = |first: u128| {
            let mut own = place.open().unwrap();
            move || -> u128 {
                let totals = (0..25).map(|n| first + 4 * n);
                totals.filter_map(|total| own.execute(&redeem(total)).ok()).map(|entry| paid(Ok(entry)).unwrap()).sum()
            }
        };
        let threads = [1, 2, 3, 4].map(|first| scope.spawn(work(first)));
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(paid, 100);
    assert_eq!(ledger.balance(id(bob)).unwrap(), tokens(100));
    audited(&mut ledger);
}

#[test]
fn full_disk_is_named_and_leaves_nothing_half_written() {
    let (_place, mut ledger) = Place::new();
    let pages: i64 = ledger.connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    ledger.connection.query_row(&format!("PRAGMA max_page_count = {}", pages + 1), [], |_| Ok(())).unwrap();
    let full = loop {
        let before = (ledger.head().unwrap(), ledger.totals().unwrap());
        let to = NodeId([before.0.size as u8; 20]);
        if let Err(error) = ledger.order(&treasurer(), id(treasurer), Command::Mint { to, amount: tokens(1) }) {
            assert_eq!((ledger.head().unwrap(), ledger.totals().unwrap()), before);
            break error;
        }
    };
    assert!(matches!(full, Error::DiskFull { .. }), "{full}");
    audited(&mut ledger);

    ledger.connection.query_row("PRAGMA max_page_count = 100000", [], |_| Ok(())).unwrap();
    mint(&mut ledger, id(carol), 1);
    audited(&mut ledger);
}

#[test]
fn writer_that_waits_too_long_is_told_so() {
    let (place, mut ledger) = Place::new();
    let mut other = place.open().unwrap();
    other.connection.busy_timeout(std::time::Duration::from_millis(20)).unwrap();
    let writing = ledger.connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    let busy = other.execute(&redeem(5)).unwrap_err();
    assert!(matches!(busy, Error::Busy { .. }), "{busy}");
    assert_eq!(other.balance(id(bob)).unwrap(), Tokens::ZERO, "readers do not wait");
    drop(writing);
    other.execute(&redeem(5)).unwrap();
}

#[test]
fn durability_is_asserted_when_opening() {
    let (place, ledger) = Place::new();
    let text = |name| ledger.connection.pragma_query_value(None, name, |row| row.get::<_, String>(0)).unwrap();
    let number = |name| ledger.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(text("journal_mode"), "wal");
    assert_eq!((number("synchronous"), number("page_size")), (2, 1024));
    drop(ledger);

    place.by_hand("PRAGMA journal_mode = DELETE; PRAGMA page_size = 4096; VACUUM;");
    let refused = place.open().unwrap_err();
    assert!(refused.to_string().ends_with("page_size=4096, which would not survive a power cut"), "{refused}");
}

#[test]
fn ledger_is_private_and_any_path_will_do() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place { directory: tempfile::tempdir().unwrap(), now: Arc::new(1000.into()) };
    let path = place.directory.path().join("a b?mode=ro#%41é'\\");
    let mut ledger = Embedded::create(&path, &genesis(), place.clock()).unwrap();
    mint(&mut ledger, id(bob), 1);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    drop(ledger);
    let names: Vec<_> = fs::read_dir(place.directory.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(names, [path]);
}

#[test]
fn creating_never_replaces_a_file() {
    let (place, ledger) = Place::new();
    drop(ledger);
    let before = fs::read(place.path()).unwrap();
    let refused = Embedded::create(&place.path(), &genesis(), place.clock()).unwrap_err();
    assert!(matches!(refused, CreateError::Exists { .. }), "{refused}");
    assert_eq!(fs::read(place.path()).unwrap(), before);

    let nowhere = place.directory.path().join("missing/ledger");
    let refused = Embedded::create(&nowhere, &genesis(), place.clock()).unwrap_err();
    assert!(matches!(refused, CreateError::Failed(Error::Missing { .. })), "{refused}");
}

/// Whoever opens a file by other means than SQLite, and closes it, takes the locks of his whole process from it.
#[test]
fn opening_a_ledger_again_takes_no_locks_from_those_that_have_it_open() {
    let (place, first) = Place::new();
    let locks = || {
        let inode = fs::metadata(place.path()).unwrap().ino();
        let all = fs::read_to_string("/proc/locks").unwrap();
        all.lines().filter(|line| line.contains(&format!(":{inode} "))).count()
    };
    assert!(locks() > 0, "an open ledger is locked against being tidied up");
    drop(place.open().unwrap());
    assert!(locks() > 0, "the lock of the first is gone");
    drop(first);
    assert_eq!(locks(), 0);
}

#[test]
fn file_that_is_no_ledger_is_named_and_left_as_it_is() {
    let (place, ledger) = Place::new();
    drop(ledger);
    let ours = fs::read(place.path()).unwrap();
    let mut newer = ours.clone();
    newer[60..64].copy_from_slice(&6_u32.to_be_bytes());
    let mut older = ours.clone();
    older[60..64].copy_from_slice(&3_u32.to_be_bytes());
    let foreign = place.directory.path().join("foreign");
    let other = Connection::open(&foreign).unwrap();
    other.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (x); INSERT INTO t VALUES (1);").unwrap();
    let foreign_bytes = fs::read(&foreign).unwrap();
    for (bytes, expected) in [
        (&b"hello"[..], "is not a Waybill ledger"),
        (&[0xff; 4096], "is not a Waybill ledger"),
        (&foreign_bytes, "is not a Waybill ledger"),
        (&ours[..99], "is damaged"),
        (&ours[..1024], "is damaged"),
        (&ours[..ours.len() - 1024], "is damaged"),
        (&[], "is empty: creating the ledger was interrupted"),
        (&newer, "has format 6, and this program knows 5"),
        (&older, "has format 3, and this program reads 4 and newer"),
    ] {
        fs::write(place.path(), bytes).unwrap();
        let refused: Result<(), _> = place.open().and_then(|mut ledger| match ledger.audit()? {
            Verdict::Kept(audit) => panic!("{audit:?}"),
            Verdict::Broken(difference) => Err(Error::damaged(&place.path(), difference.to_string())),
        });
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains(expected), "{refused}, not {expected}");
        assert_eq!(fs::read(place.path()).unwrap(), bytes, "{expected}");
    }
    drop(other);
    fs::remove_file(place.path()).unwrap();
    assert!(matches!(place.open().unwrap_err(), Error::Missing { .. }));
    assert!(!place.path().exists(), "opening creates nothing");
    fs::create_dir(place.path()).unwrap();
    assert!(matches!(place.open().unwrap_err(), Error::Io { .. } | Error::Denied { .. }));
}

#[test]
fn ledger_of_the_format_before_names_is_taken_on_and_its_program_is_told_so() {
    let (place, ledger) = Place::new();
    drop(ledger);
    place.by_hand("PRAGMA user_version = 4");
    let mut ledger = place.open().unwrap();
    let format: i64 = ledger.connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(format, 5);
    claim_name(&mut ledger, alice, "roof").unwrap();
    audited(&mut ledger);
    drop(ledger);
    audited(&mut place.open().unwrap());
}

/// Makes somebody a member, and claims a name for its node.
fn claim_name(ledger: &mut Embedded, who: Who, text: &str) -> Result<Entry, Error> {
    if ledger.account(id(treasurer)).unwrap().roles.is_empty() {
        order(ledger, treasurer, Command::Appoint { role: Role::Issuer, to: id(treasurer) });
    }
    order(ledger, treasurer, Command::IssueMembership { to: id(who), until: UnixTime::MAX });
    let (name, wireguard) = (text.parse().unwrap(), [7; 32]);
    let claim = name::claim(&who(), &genesis().domain(), &name, &wireguard);
    ledger.order(&who(), id(who), Command::ClaimName { name, wireguard, claim })
}

#[test]
fn names_are_listed_page_by_page_and_found_by_name_and_by_account() {
    let (place, mut ledger) = Place::new();
    for (who, text) in [(alice as Who, "roof"), (bob, "attic"), (carol, "attic-2")] {
        claim_name(&mut ledger, who, text).unwrap();
    }
    let name = |text: &str| text.parse::<name::Name>().unwrap();
    let texts = |page: Vec<name::Named>| page.iter().map(|named| named.name.to_string()).collect::<Vec<_>>();
    assert_eq!(texts(ledger.names(None, 10).unwrap()), ["attic", "attic-2", "roof"]);
    assert_eq!(texts(ledger.names(None, 2).unwrap()), ["attic", "attic-2"]);
    assert_eq!(texts(ledger.names(Some(name("attic")), 10).unwrap()), ["attic-2", "roof"]);
    assert_eq!(texts(ledger.names(Some(name("attic-1")), 1).unwrap()), ["attic-2"]);
    let found = ledger.named(name("roof")).unwrap().unwrap();
    assert_eq!(found.account, id(alice));
    assert_eq!(found.verify(&genesis().domain(), &name("roof")), Ok(()));
    assert_eq!(ledger.account(id(alice)).unwrap().name, Some(name("roof")));
    assert_eq!(ledger.named(name("barn")).unwrap(), None);
    order(&mut ledger, alice, Command::ReleaseName { name: name("roof") });
    assert_eq!((ledger.named(name("roof")).unwrap(), ledger.account(id(alice)).unwrap().name), (None, None));
    assert_eq!(texts(ledger.names(None, 10).unwrap()), ["attic", "attic-2"]);
    audited(&mut ledger);
    // What the disk has changed is not given out.
    place.by_hand(
        "UPDATE fact SET value = CAST(x'00' || substr(value, 2) AS BLOB) WHERE place = CAST(x'0d' || 'attic' AS BLOB)",
    );
    for told in [ledger.names(None, 10).map(drop), ledger.named(name("attic")).map(drop)] {
        assert!(told.unwrap_err().to_string().contains("the record under 0d6174746963 was changed"));
    }
}

#[test]
fn other_ledger_than_expected_is_refused() {
    let (place, ledger) = Place::new();
    let domain = ledger.genesis().domain();
    drop(ledger);
    assert!(Embedded::open_expecting(&place.path(), &domain, place.clock()).is_ok());
    let other = genesis().with_close_notice(1).domain();
    let refused = Embedded::open_expecting(&place.path(), &other, place.clock()).unwrap_err();
    assert!(matches!(&refused, Error::OtherLedger { community, .. } if community == "Hilltop"), "{refused}");
}

#[test]
fn damage_that_opening_can_see_is_refused() {
    for (sql, expected) in [
        ("UPDATE ledger SET held = held + 1", "100 minted, but 41 held, 60 locked and 0 burned"),
        ("UPDATE ledger SET root = zeroblob(32)", "the log's root does not fit its peaks"),
        ("UPDATE ledger SET peaks = x'00'", "a peak is cut short"),
        ("UPDATE subtree SET root = zeroblob(32) WHERE number = 0", "the log up to entry 1 is not what was appended"),
        ("DELETE FROM subtree", "the log up to entry 1 is not what was appended"),
        ("UPDATE entry SET entry = x'00' WHERE number = 1", "the log up to entry 1 is not what was appended"),
        ("UPDATE entry SET entry = x'00' WHERE number = 2", "the newest entries do not have the log's root"),
        ("UPDATE ledger SET size = 4", "the log's size does not fit its peaks"),
        ("UPDATE ledger SET genesis = x'00'", "the genesis does not read"),
        ("DELETE FROM ledger", "the ledger's own row is missing"),
        ("DELETE FROM entry WHERE number = 2", "the log's last entry is not the one its size says"),
        ("DELETE FROM entry WHERE number = 0", "entry 0 is not the ledger's founding"),
        ("DROP TABLE entry", "its tables are not those of format 5"),
        (
            "CREATE TRIGGER gift AFTER UPDATE ON account BEGIN UPDATE account SET balance = 9; END",
            "its tables are not those of format 5",
        ),
    ] {
        let (place, ledger) = Place::new();
        drop(ledger);
        place.by_hand(sql);
        let refused = place.open().unwrap_err();
        assert!(matches!(refused, Error::Damaged { .. }), "{sql}: {refused:?}");
        assert!(refused.to_string().ends_with(expected), "{sql}: {refused}");
    }
}

#[test]
fn row_that_the_disk_has_changed_is_noticed_when_it_is_read_and_when_the_ledger_is_opened() {
    for (sql, expected) in [
        ("UPDATE account SET balance = 41 WHERE balance = 40", format!("the balance of {} was changed", id(alice))),
        ("UPDATE account SET seal = zeroblob(8) WHERE balance = 40", format!("the balance of {}", id(alice))),
        ("UPDATE channel SET redeemed = 1", format!("channel 1 of {} for {} was changed", id(alice), id(bob))),
        ("UPDATE channel SET closed = 1", format!("channel 1 of {}", id(alice))),
        ("UPDATE fact SET value = CAST(x'00' || substr(value, 2) AS BLOB)", "the record under 01".into()),
        ("UPDATE ordered SET sequence = 9 WHERE sequence = 2", format!("order 9 of {} was changed", id(alice))),
        ("UPDATE ordered SET entry = 1 WHERE sequence = 2", format!("order 2 of {} was changed", id(alice))),
        ("UPDATE ledger SET time = time + 1", "the ledger's own row is not what was written".into()),
    ] {
        let (place, mut ledger) = Place::new();
        let next = ledger.sequence(id(alice)).unwrap() + 1;
        let consent = consent(&carol(), &genesis().domain(), id(alice), next);
        order(&mut ledger, alice, Command::ChangeSigner { signer: id(carol), consent });
        place.by_hand(sql);
        let close = Close::sign(&alice(), &genesis().domain(), channel(), tokens(60)).into_unverified();
        // One of them reads the row.
        let answers = [
            ledger.order(&carol(), id(alice), Command::Transfer { to: id(carol), amount: tokens(1) }),
            ledger.order(&bob(), id(bob), Command::MutualClose { close }),
        ];
        let refused: Vec<_> = answers.into_iter().filter_map(Result::err).map(|error| error.to_string()).collect();
        assert!(refused.iter().any(|told| told.contains(&expected)), "{sql}: {refused:?}");
        drop(ledger);
        // There are as many orders as entries: opening does not look at them all.
        let opened = place.open().map_err(|error| error.to_string());
        assert!(sql.contains("ordered") || opened.is_err_and(|told| told.contains(&expected)), "{sql}");
    }
}

#[test]
fn vanished_row_is_noticed_when_the_ledger_is_opened() {
    let (place, ledger) = Place::new();
    drop(ledger);
    place.by_hand("DELETE FROM account WHERE balance = 40");
    let refused = place.open().unwrap_err().to_string();
    assert!(refused.ends_with("the accounts, channels and vouchers do not add up to the totals"), "{refused}");
}

#[test]
fn counts_that_a_tidying_hand_leaves_do_no_harm() {
    let (place, mut ledger) = Place::new();
    ledger.execute(&redeem(5)).unwrap();
    drop(ledger);
    place.by_hand("ANALYZE");
    let mut ledger = place.open().unwrap();
    ledger.execute(&redeem(6)).unwrap();
    audited(&mut ledger);
    drop(ledger);
    let disguised =
        "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = 'CREATE TABLE sqlite_stat1(tbl,idx,more)'
        WHERE name = 'sqlite_stat1'";
    place.by_hand(disguised);
    assert!(matches!(place.open().unwrap_err(), Error::Damaged { .. }));
}

#[test]
fn long_log_is_looked_at_from_its_end_when_opened_and_whole_by_an_audit() {
    let (place, mut ledger) = Place::new();
    mint(&mut ledger, id(alice), 2_000);
    order(&mut ledger, alice, Command::TopUp { channel: channel(), amount: tokens(2_000) });
    let receipts: Vec<Request> = (1..=1_200).map(redeem).collect();
    assert!(ledger.execute_many(&receipts).unwrap().iter().all(Result::is_ok));
    drop(ledger);
    let mut ledger = place.open().unwrap();
    let size = ledger.head().unwrap().size;
    place.by_hand("UPDATE entry SET entry = x'00' WHERE number = 5");
    drop(ledger);
    let mut ledger = place.open().unwrap();
    let Verdict::Broken(difference) = ledger.audit().unwrap() else { panic!("an entry is gone") };
    assert_eq!(difference.to_string(), "entry 5: not a well-formed entry");
    drop(ledger);
    place.by_hand(&format!("UPDATE entry SET entry = x'00' WHERE number = {}", size - 1_000));
    let refused = place.open().unwrap_err().to_string();
    assert!(refused.contains("is not what was appended"), "{refused}");
}

#[test]
fn audit_names_the_first_thing_that_was_altered() {
    let [alice, bob] = [id(alice), id(bob)];
    for (sql, expected) in [
        (
            "UPDATE account SET balance = balance + 7 WHERE balance = 40",
            format!("account {alice} holds 47, and by the log 40"),
        ),
        (
            "INSERT INTO account SELECT payee, 9, seal FROM channel WHERE true ON CONFLICT DO UPDATE SET balance = 9",
            format!("account {bob} holds 9, and by the log 25"),
        ),
        ("DELETE FROM account WHERE balance = 25", format!("account {bob} holds 0, and by the log 25")),
        ("UPDATE channel SET redeemed = 10", format!("channel 1 of {alice} for {bob} is ")),
        ("DELETE FROM channel", format!("channel 1 of {alice} for {bob} is None")),
        ("UPDATE ledger SET held = held - 1, minted = minted - 1", "the totals are ".into()),
        ("UPDATE ledger SET time = time + 1", "the ledger's time is 1001, and by the log 1000".into()),
        ("UPDATE entry SET entry = x'8000' WHERE number = 2", "entry 2: not a well-formed entry".into()),
        (
            "UPDATE entry SET entry = (SELECT entry FROM entry WHERE number = 3) WHERE number = 1",
            "entry 1: the rules forbid it (UnknownChannel)".into(),
        ),
        (
            "UPDATE ordered SET entry = 1 WHERE entry = 2",
            format!("the file is damaged: order 1 of {alice} was changed"),
        ),
        ("DELETE FROM ordered WHERE entry = 2", format!("entry 2 was made by order 1 of {alice}")),
        (
            "UPDATE subtree SET root = zeroblob(32) WHERE number = 1",
            "the log up to entry 3 is not what was appended".into(),
        ),
        ("INSERT INTO subtree VALUES (3, zeroblob(32))", "the table has 4 subtrees, and the log 3".into()),
        (
            "INSERT INTO ordered SELECT account, 2, 2, seal FROM ordered WHERE entry = 2",
            "the table has 3 orders".into(),
        ),
        ("DELETE FROM entry WHERE number = 2", "entry 2 is missing".into()),
        (
            "INSERT INTO entry SELECT 99, entry FROM entry WHERE number = 3",
            "entry 4 is beyond the end of the log".into(),
        ),
    ] {
        let (place, mut ledger) = Place::new();
        ledger.execute(&redeem(25)).unwrap();
        // From a process of its own, while the ledger stays open.
        place.by_hand(sql);
        let Verdict::Broken(difference) = ledger.audit().unwrap() else { panic!("{sql}") };
        assert!(difference.to_string().starts_with(&expected), "{sql}: {difference}");
    }
}

#[test]
fn history_written_anew_has_another_root() {
    let (place, mut ledger) = Place::new();
    // Two that are as good the other way round: neither waits for the other.
    order(&mut ledger, alice, Command::Transfer { to: id(bob), amount: tokens(1) });
    order(&mut ledger, treasurer, Command::Mint { to: id(bob), amount: tokens(2) });
    place.by_hand(
        "UPDATE entry SET number = 99 WHERE number = 3; UPDATE entry SET number = 3 WHERE number = 4;
         UPDATE entry SET number = 4 WHERE number = 99;
         UPDATE ordered SET entry = 7 - entry WHERE entry IN (3, 4);",
    );
    let verdict = ledger.audit().unwrap();
    assert_eq!(verdict, Verdict::Broken(Difference::Rewritten { number: 3 }));
    drop(ledger);
    let refused = place.open().unwrap_err().to_string();
    assert!(refused.ends_with("the log up to entry 3 is not what was appended"), "{refused}");
}

#[test]
fn history_written_anew_with_its_hashes_has_another_root() {
    let (place, mut ledger) = Place::new();
    order(&mut ledger, alice, Command::Transfer { to: id(bob), amount: tokens(1) });
    let Verdict::Kept(kept) = ledger.audit().unwrap() else { panic!("sound") };
    place.by_hand("UPDATE ledger SET root = zeroblob(32)");
    let Verdict::Broken(difference) = ledger.audit().unwrap() else { panic!("{kept:?}") };
    assert!(matches!(difference, Difference::Root { log, .. } if log == kept.head), "{difference}");
}

fn signer() -> NoteSigner<Log> {
    NoteSigner::new(&checkpoint::origin(&genesis()), &[7; 32]).unwrap()
}

#[test]
fn client_that_keeps_one_checkpoint_checks_all_that_follows() {
    let (_place, mut ledger) = Place::new();
    let mut view = View::new(&checkpoint::origin(&genesis()), signer().key().clone()).unwrap();
    for total in 1..=40 {
        ledger.execute(&redeem(total)).unwrap();
        if total % 3 > 0 {
            continue;
        }
        let note = ledger.checkpoint(&signer()).unwrap();
        let size = ledger.head().unwrap().size;
        let proof = match view.head() {
            Some(seen) => ledger.prove_growth(seen.size, size).unwrap().unwrap(),
            None => Vec::new(),
        };
        let head = view.accept(note.to_string().parse().unwrap(), &proof).unwrap();
        for number in [0, size / 2, size - 1] {
            let (entry, proof) = ledger.prove_entry(number, size).unwrap().unwrap();
            assert!(verify_inclusion(&head, number, &leaf_hash(&entry.encode()), &proof), "{number} of {size}");
        }
    }
    let stranger = NoteSigner::new("example.com/valley", &[7; 32]).unwrap();
    let refused = ledger.checkpoint(&stranger).unwrap_err();
    assert!(matches!(&refused, Error::OtherSigner { name, .. } if name == "example.com/valley"), "{refused}");
    let size = ledger.head().unwrap().size;
    assert_eq!(ledger.prove_entry(size, size).unwrap(), None);
    assert_eq!(ledger.prove_entry(0, size + 1).unwrap(), None);
    assert_eq!(ledger.prove_growth(0, size).unwrap(), None);
    assert_eq!(ledger.prove_growth(1, size + 1).unwrap(), None);
}

#[test]
fn old_copy_that_goes_on_is_a_fork_that_is_refused_at_home_and_seen_abroad() {
    let (place, mut ledger) = Place::new();
    ledger.execute(&redeem(1)).unwrap();
    let copy = place.crash_image();
    ledger.execute(&redeem(2)).unwrap();
    let mut view = View::new(&checkpoint::origin(&genesis()), signer().key().clone()).unwrap();
    let published = view.accept(ledger.checkpoint(&signer()).unwrap(), &[]).unwrap();
    ledger.must_continue(&published).unwrap();
    ledger.execute(&redeem(3)).unwrap();
    ledger.must_continue(&published).unwrap();

    let mut restored = copy.open().unwrap();
    let refused = restored.must_continue(&published).unwrap_err();
    assert!(matches!(refused, Error::Rewound { size: 4, published: 5, .. }), "{refused}");
    assert!(matches!(view.accept(restored.checkpoint(&signer()).unwrap(), &[]), Err(ViewError::Shorter { .. })));
    restored.execute(&redeem(10)).unwrap();
    let refused = restored.must_continue(&published).unwrap_err();
    assert!(matches!(refused, Error::Forked { published: 5, .. }), "{refused}");
    assert!(matches!(view.accept(restored.checkpoint(&signer()).unwrap(), &[]), Err(ViewError::Forked(_))));
    restored.execute(&redeem(11)).unwrap();
    let proof = restored.prove_growth(5, 6).unwrap().unwrap();
    let told = view.accept(restored.checkpoint(&signer()).unwrap(), &proof);
    assert!(matches!(told, Err(ViewError::Unproven { .. })), "{told:?}");
}

/// Anything that can be asked, not signed yet.
#[derive(Clone, Debug)]
enum Ask {
    Order(Who, Command),
    /// Somebody attests what the log was so many entries ago, or something else.
    Attest(Who, u64, bool),
    /// The order before, once more.
    Again,
    Open(Request),
}

/// What is asked among three accounts and three channels, in small numbers so that it often fits.
fn ask() -> impl Strategy<Value = Ask> {
    let who = || prop::sample::select(vec![alice as Who, bob, carol]);
    let amount = || (0..40_u128).prop_map(tokens);
    let secret = || (1..4_u8).prop_map(|n| AccountKey::from_bytes(&[n; 32]).unwrap());
    let ids = || (1..4_u64).prop_map(|nonce| ChannelId { nonce, ..channel() });
    prop_oneof![
        (who(), amount()).prop_map(|(to, amount)| Ask::Order(treasurer, Command::Mint { to: id(to), amount })),
        (who(), who(), amount())
            .prop_map(|(from, to, amount)| Ask::Order(from, Command::Transfer { to: id(to), amount })),
        amount().prop_map(|deposit| Ask::Order(alice, Command::OpenChannel { payee: id(bob), deposit })),
        (ids(), amount()).prop_map(|(channel, amount)| Ask::Order(alice, Command::TopUp { channel, amount })),
        (ids(), amount()).prop_map(|(channel, total)| {
            let receipt = Receipt::sign(&alice(), &genesis().domain(), channel, total, [0; 32]);
            Ask::Open(Request::Redeem { receipt: receipt.into_unverified() })
        }),
        ids().prop_map(|channel| Ask::Order(alice, Command::StartClose { channel })),
        ids().prop_map(|channel| Ask::Open(Request::Finalize { channel })),
        (ids(), amount()).prop_map(|(channel, total)| {
            let close = Close::sign(&alice(), &genesis().domain(), channel, total).into_unverified();
            Ask::Order(bob, Command::MutualClose { close })
        }),
        (who(), amount()).prop_map(|(by, amount)| Ask::Order(by, Command::Burn { amount })),
        (who(), secret(), amount(), (0..2_000_000_u64)).prop_map(|(by, secret, amount, until)| {
            let until = UnixTime::from_seconds(until);
            Ask::Order(by, Command::IssueVoucher { voucher: secret.node_id(), amount, until })
        }),
        (who(), secret(), who()).prop_map(|(issuer, secret, to)| {
            let claim = Claim::sign(&secret, &genesis().domain(), id(issuer), id(to)).into_unverified();
            Ask::Open(Request::RedeemVoucher { claim })
        }),
        (who(), secret())
            .prop_map(|(by, secret)| { Ask::Order(by, Command::ReclaimVoucher { voucher: secret.node_id() }) }),
        (who(), 0..9_u64).prop_map(|(router, shares)| Ask::Order(router, Command::IssueShares { shares })),
        (who(), who(), who(), 0..6_u64).prop_map(|(router, from, to, shares)| {
            Ask::Order(from, Command::TransferShares { router: id(router), to: id(to), shares })
        }),
        (who(), who()).prop_map(|(router, by)| Ask::Order(by, Command::ClaimRevenue { router: id(router) })),
        who().prop_map(|to| Ask::Order(treasurer, Command::Appoint { role: Role::Issuer, to: id(to) })),
        (who(), who(), (0..2_000_000_u64)).prop_map(|(by, to, until)| {
            Ask::Order(by, Command::IssueMembership { to: id(to), until: UnixTime::from_seconds(until) })
        }),
        (who(), secret()).prop_map(|(by, secret)| {
            let (enrolment, until) = (secret.node_id(), UnixTime::MAX);
            Ask::Order(by, Command::OfferEnrolment { enrolment, until, expires: until })
        }),
        (who(), who(), secret()).prop_map(|(by, issuer, secret)| {
            Ask::Order(by, Command::WithdrawEnrolment { issuer: id(issuer), enrolment: secret.node_id() })
        }),
        (who(), who(), secret()).prop_map(|(by, issuer, secret)| {
            let claim = membership::claim(&secret, &genesis().domain(), id(issuer), id(by));
            Ask::Order(by, Command::Enrol { issuer: id(issuer), enrolment: secret.node_id(), claim })
        }),
        (who(), who()).prop_map(|(by, of)| Ask::Order(by, Command::RevokeMembership { of: id(of) })),
        (who(), 0..9_u64).prop_map(|(by, price)| {
            let (station, price) = (Station::Router, Price::new(price));
            let registration = Registration { station, price_up: price, price_down: price, terms: [0; 32] };
            Ask::Order(by, Command::Register { registration })
        }),
        (who(), prop::sample::select(vec!["roof", "attic", "barn"])).prop_map(|(by, text)| {
            let (name, wireguard) = (text.parse().unwrap(), [7; 32]);
            let claim = name::claim(&by(), &genesis().domain(), &name, &wireguard);
            Ask::Order(by, Command::ClaimName { name, wireguard, claim })
        }),
        (who(), prop::sample::select(vec!["roof", "attic", "barn"]))
            .prop_map(|(by, text)| Ask::Order(by, Command::ReleaseName { name: text.parse().unwrap() })),
        who().prop_map(|who| Ask::Order(who, Command::Skip)),
        who().prop_map(|to| Ask::Order(treasurer, Command::Appoint { role: Role::Auditor, to: id(to) })),
        (who(), 0..90_u64, any::<bool>()).prop_map(|(by, back, lie)| Ask::Attest(by, back, lie)),
        Just(Ask::Again),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn tables_do_what_the_rules_in_memory_do(batches in prop::collection::vec(prop::collection::vec(ask(), 1..30), 1..8)) {
        let place = Place { directory: tempfile::tempdir().unwrap(), now: Arc::new(1000.into()) };
        let mut ledger = Embedded::create(&place.path(), &genesis(), place.clock()).unwrap();
        let mut state = State::found(genesis());
        let mut last = Request::Finalize { channel: channel() };
        for batch in batches {
            // Long enough that a notice is over two batches later.
            let now = place.now.fetch_add(200_000, Ordering::Relaxed) + 200_000;
            let (mut requests, mut expected) = (Vec::new(), Vec::new());
            for ask in batch {
                let next = |who: Who, command| {
                    let Ok(sequence) = state.sequence(id(who));
                    let order = Order::sign(&who(), &genesis().domain(), id(who), sequence + 1, command);
                    Request::Order(order.into_unverified())
                };
                let request = match ask {
                    Ask::Order(who, command) => next(who, command),
                    Ask::Attest(who, back, lie) => {
                        let size = state.head().size.saturating_sub(back);
                        let Ok(root) = state.root_at(size);
                        let head = Head { size, root: root.filter(|_| !lie).unwrap_or(Hash([1; 32])) };
                        next(who, Command::Attest { head })
                    }
                    Ask::Open(request) => request,
                    Ask::Again => last,
                };
                requests.push(request);
                expected.push(state.execute(UnixTime::from_seconds(now), &request).map_err(|error| {
                    let ExecuteError::Refused(refusal) = error else { panic!("{error:?}") };
                    refusal
                }));
                last = request;
            }
            let presented: Vec<_> =
                requests.iter().map(|request| Presented::recover(&genesis().domain(), *request)).collect();
            let answers = ledger.execute_presented(&presented).unwrap();
            prop_assert_eq!(
                answers.into_iter().map(|answer| answer.map(|recorded| recorded.entry)).collect::<Vec<_>>(),
                expected
            );
            prop_assert_eq!(ledger.head().unwrap(), state.head());
            prop_assert_eq!(ledger.totals().unwrap(), state.totals());
            prop_assert_eq!(ledger.prove_records(&[]).unwrap().root, state.record_root());
        }
        audited(&mut ledger);
    }
}

/// Pages of one length, one behind the other, against all of them.
#[test]
fn pages_of_channels_leave_none_out_and_repeat_none() {
    let (_place, mut ledger) = Place::new();
    let everybody = [alice as Who, bob, carol];
    for (round, payer) in (0..3).flat_map(|round| everybody.map(|payer| (round, payer))) {
        order(&mut ledger, treasurer, Command::Mint { to: id(payer), amount: tokens(10) });
        for payee in everybody.into_iter().filter(|payee| id(*payee) != id(payer)) {
            if round < 2 || id(payee) == id(bob) {
                order(&mut ledger, payer, Command::OpenChannel { payee: id(payee), deposit: tokens(1) });
            }
        }
    }
    for who in everybody {
        let all = ledger.channels_of(id(who)).unwrap();
        assert!(all.len() > 8, "{}", all.len());
        for limit in 1..=all.len() + 1 {
            let (mut paged, mut after) = (Vec::new(), None);
            loop {
                let page = ledger.channels_page(id(who), after, limit).unwrap();
                assert!(page.len() <= limit);
                let Some(last) = page.last() else { break };
                after = Some(last.channel);
                paged.extend(page.iter().map(|found| (found.channel, found.record)));
            }
            assert_eq!(paged, all, "pages of {limit}");
        }
        // Wherever a page begins, also where no channel is.
        for start in everybody.map(id).into_iter().flat_map(|payer| everybody.map(|payee| (payer, id(payee)))) {
            for nonce in [0, 1, 2, 9, u64::MAX] {
                let after = ChannelId { payer: start.0, payee: start.1, nonce };
                let page = ledger.channels_page(id(who), Some(after), 100).unwrap();
                let behind: Vec<_> = all.iter().filter(|(id, _)| *id > after).copied().collect();
                assert_eq!(page.iter().map(|found| (found.channel, found.record)).collect::<Vec<_>>(), behind);
            }
        }
    }
}

#[test]
fn account_has_all_that_stands_under_it() {
    let (_place, mut ledger) = Place::new();
    let stranger = ledger.account(NodeId([9; 20])).unwrap();
    assert_eq!((stranger.balance, stranger.sequence, stranger.signer), (Tokens::ZERO, 0, NodeId([9; 20])));
    assert_eq!((stranger.membership, stranger.registration, stranger.shares), (None, None, None));
    assert_eq!(stranger.name, None);
    let until = UnixTime::from_seconds(99_999);
    order(&mut ledger, treasurer, Command::Appoint { role: Role::Issuer, to: id(alice) });
    order(&mut ledger, alice, Command::IssueMembership { to: id(bob), until });
    order(&mut ledger, bob, Command::IssueShares { shares: 7 });
    let alices = ledger.account(id(alice)).unwrap();
    assert_eq!((alices.roles, alices.sequence), (vec![Role::Issuer], ledger.sequence(id(alice)).unwrap()));
    let bobs = ledger.account(id(bob)).unwrap();
    assert_eq!(bobs.membership.map(|membership| membership.until), Some(until));
    assert_eq!(bobs.shares.map(|pool| pool.shares), Some(7));
    let standing = ledger.standing().unwrap();
    assert_eq!((standing.head, standing.totals), (ledger.head().unwrap(), ledger.totals().unwrap()));
}
