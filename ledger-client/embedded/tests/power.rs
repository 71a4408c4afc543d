//! What the store survives: power cuts, as a disk sees them.
//!
//! While a ledger works, every write and every sync that SQLite asks of its files is put on a tape. Then the power is cut at any
//! point of it, and again and again: what was synced is on the disk; of what was written since, any part may be, torn at sectors
//! and out of order; and the sectors that were being written at that moment may hold anything. The ledger that comes up must
//! have all that was answered, nothing twice, and pass its audit.
//!
//! CI does a part; before a release `WAYBILL_CUTS=50000 cargo test -p ledger-embedded --test power`.

#![expect(clippy::unwrap_used, reason = "what fails here fails a test")]

use std::collections::BTreeMap;
use std::{env, fs};

use ledger_core::{Command, Genesis, Head, Order, Request, UnixTime};
use ledger_embedded::{Embedded, Error, Verdict};
use metering::{AccountKey, ChannelId, LedgerDomain, NodeId, Receipt, Tokens};
use tape::Op;

const CUTS: usize = 500;
/// What a disk writes whole or not at all.
const SECTOR: usize = 512;
/// What a worse one damages around what it was writing (SQLite's `psow=0` is for those).
const DAMAGED: usize = 4096;
/// How often something is asked while the tape runs: enough for some checkpoints, and so few that opening hashes all entries.
const ASKED: u64 = 260;

#[test]
fn what_was_answered_is_there_after_any_power_cut_and_nothing_twice() {
    let cuts = env::var("WAYBILL_CUTS").map_or(CUTS, |cuts| cuts.parse().unwrap());
    let seed = env::var("WAYBILL_SEED").map_or(1, |seed| seed.parse().unwrap());
    let mut dice = fastrand::Rng::with_seed(seed);
    let work = Work::tape();
    let syncs = work.ops.iter().filter(|op| matches!(op, Op::Sync { .. })).count();
    let mains = work.ops.iter().filter(|op| matches!(op, Op::Write { file, .. } if file == "ledger")).count();
    assert!(mains > 100, "only {mains} writes to the file itself: it was not checkpointed while it worked");
    let mut unanswered = 0;
    for (number, cut) in places(&mut dice, work.ops.len(), cuts).into_iter().enumerate() {
        let (disk, moment) = work.until(cut, true);
        let image = Image::write(&disk.after_cut(&mut dice));
        let told =
            image.check(&moment, number % 10 == 0).unwrap_or_else(|what| panic!("seed {seed}, cut {cut}: {what}"));
        unanswered += u64::from(told > moment.answered.size);
    }
    println!(
        "seed {seed}: {} writes and syncs, {syncs} syncs, {cuts} cuts, {unanswered} with more than was answered",
        work.ops.len()
    );
}

/// The tape, the disk and the checks do see what is lost.
#[test]
fn disk_that_lies_about_what_is_on_it_is_seen_to_lose_answers() {
    let mut dice = fastrand::Rng::with_seed(1);
    let work = Work::tape();
    let lost = places(&mut dice, work.ops.len(), 40).into_iter().filter(|cut| {
        let (disk, moment) = work.until(*cut, false);
        Image::write(&disk.after_cut(&mut dice)).check(&moment, false).is_err()
    });
    assert!(lost.count() > 10);
}

fn places(dice: &mut fastrand::Rng, ops: usize, cuts: usize) -> Vec<usize> {
    (0..cuts).map(|_| dice.usize(0..=ops)).collect()
}

/// A ledger at work, on tape.
struct Work {
    /// The file as it was founded, which is on the disk.
    founded: Vec<u8>,
    first: Head,
    ops: Vec<Op>,
}

/// What had been said at some point of the tape.
struct Moment {
    /// The newest head that an answer stood under.
    answered: Head,
    /// How many requests had been asked.
    asked: u64,
}

impl Work {
    fn tape() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger");
        drop(Embedded::create(&path, &genesis(), clock()).unwrap());
        let founded = fs::read(&path).unwrap();
        tape::begin(directory.path());
        let mut ledger = Embedded::open(&path, clock()).unwrap();
        let first = ledger.head().unwrap();
        for number in 0..ASKED {
            tape::say(Op::Asked);
            let answers = ledger.execute_many(&asked(number)).unwrap();
            assert!(answers.iter().all(Result::is_ok), "{answers:?}");
            tape::say(Op::Answered(ledger.head().unwrap()));
            // The power may be cut while records are hashed, too; sometimes they are behind.
            if number % 5 == 0 {
                ledger.hash_records(7).unwrap();
            }
        }
        Self { founded, first, ops: tape::end() }
    }

    /// The disk and what had been said when the power is cut. An honest disk does what a sync asks.
    fn until(&self, cut: usize, honest: bool) -> (Disk<'_>, Moment) {
        let mut disk =
            Disk { synced: BTreeMap::from([("ledger".to_owned(), self.founded.clone())]), written: Vec::new() };
        let mut moment = Moment { answered: self.first, asked: 0 };
        for op in &self.ops[..cut] {
            match op {
                Op::Asked => moment.asked += 1,
                Op::Answered(head) => moment.answered = *head,
                Op::Sync { file } if honest => disk.sync(file),
                Op::Sync { .. } => {}
                Op::Write { .. } | Op::Truncate { .. } => disk.written.push(op),
            }
        }
        (disk, moment)
    }
}

/// What is on a disk for sure, and what may be.
struct Disk<'t> {
    synced: BTreeMap<String, Vec<u8>>,
    written: Vec<&'t Op>,
}

impl Disk<'_> {
    fn sync(&mut self, synced: &str) {
        self.written.retain(|op| {
            if op.file() != Some(synced) {
                return true;
            }
            apply(self.synced.entry(synced.to_owned()).or_default(), op, |_| true);
            false
        });
    }

    /// The files that are found when the power is back.
    fn after_cut(mut self, dice: &mut fastrand::Rng) -> BTreeMap<String, Vec<u8>> {
        // From nothing to all of it.
        let kept = [0.0, 0.1, 0.5, 0.9, 1.0][dice.usize(0..5)];
        for op in &self.written {
            let Some(file) = op.file() else { continue };
            // All sectors of some writes, or some sectors of each.
            let whole = dice.bool().then(|| dice.f64() < kept);
            let mut keep = |_| whole.unwrap_or_else(|| dice.f64() < kept);
            apply(self.synced.entry(file.to_owned()).or_default(), op, &mut keep);
        }
        if let Some(Op::Write { file, at, bytes }) = self.written.last()
            && dice.u8(0..4) == 0
        {
            let end = (*at as usize + bytes.len()).next_multiple_of(DAMAGED);
            let content = self.synced.entry(file.clone()).or_default();
            let end = end.min(content.len());
            let first = (*at as usize / DAMAGED * DAMAGED).min(end);
            dice.fill(&mut content[first..end]);
        }
        self.synced
    }
}

/// Does to a file what was asked, but for the sectors that do not get there.
fn apply(content: &mut Vec<u8>, op: &Op, mut keep: impl FnMut(usize) -> bool) {
    match op {
        Op::Write { at, bytes, .. } => {
            let (mut at, mut rest) = (*at as usize, &bytes[..]);
            while !rest.is_empty() {
                let length = (SECTOR - at % SECTOR).min(rest.len());
                if keep(at / SECTOR) {
                    content.resize(content.len().max(at + length), 0);
                    content[at..at + length].copy_from_slice(&rest[..length]);
                }
                (at, rest) = (at + length, &rest[length..]);
            }
        }
        Op::Truncate { size, .. } if keep(0) => content.resize(*size as usize, 0),
        Op::Truncate { .. } | Op::Sync { .. } | Op::Asked | Op::Answered(_) => {}
    }
}

struct Image(tempfile::TempDir);

impl Image {
    fn write(files: &BTreeMap<String, Vec<u8>>) -> Self {
        // In memory, where there is such a place: what is synced here has been cut already.
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        for (name, content) in files {
            fs::write(directory.path().join(name), content).unwrap();
        }
        Self(directory)
    }

    /// Opens what is left and says how many entries it has, or what is wrong with it.
    fn check(&self, moment: &Moment, thoroughly: bool) -> Result<u64, String> {
        let mut ledger = Embedded::open(&self.0.path().join("ledger"), clock()).map_err(|error| error.to_string())?;
        ledger.must_continue(&moment.answered).map_err(|error| error.to_string())?;
        let found = ledger.head().map_err(|error| error.to_string())?.size;
        // Who was not answered asks again, and everything has happened once.
        if let Some(last) = moment.asked.checked_sub(1) {
            for request in asked(last) {
                match ledger.execute(&request) {
                    Ok(_) | Err(Error::Refused(_)) => {}
                    Err(error) => return Err(error.to_string()),
                }
            }
        }
        let head = ledger.head().map_err(|error| error.to_string())?.size;
        let expected: u64 = (0..moment.asked).map(at_once).sum();
        if head != 1 + expected {
            return Err(format!("{head} entries after {expected} requests, each asked until it was answered"));
        }
        if thoroughly && !matches!(ledger.audit(), Ok(Verdict::Kept(_))) {
            return Err(format!("{:?}", ledger.audit()));
        }
        Ok(found)
    }
}

/// How many requests stand under a number.
fn at_once(number: u64) -> u64 {
    if number % 20 == 2 { 8 } else { 1 }
}

/// The same requests under the same number, each time: some alone, some many in one transaction.
fn asked(number: u64) -> Vec<Request> {
    let (key, domain) = (AccountKey::from_bytes(&[0xa1; 32]).unwrap(), domain());
    let channel = ChannelId { payer: key.node_id(), payee: NodeId([0xb0; 20]), nonce: 1 };
    let order = |sequence, command| {
        Request::Order(Order::sign(&key, &domain, key.node_id(), sequence, command).into_unverified())
    };
    let receipt = |total: u64| {
        let receipt = Receipt::sign(&key, &domain, channel, tokens(total), [7; 32]);
        Request::Redeem { receipt: receipt.into_unverified() }
    };
    match number {
        0 => vec![order(1, Command::Mint { to: key.node_id(), amount: tokens(1 << 40) })],
        1 => vec![order(2, Command::OpenChannel { payee: channel.payee, deposit: tokens(1 << 30) })],
        _ if at_once(number) > 1 => (0..at_once(number)).map(|more| receipt(number * 8 + more)).collect(),
        _ if number.is_multiple_of(2) => vec![receipt(number * 8)],
        _ => {
            let to = NodeId([number as u8; 20]);
            vec![order(2 + number / 2, Command::Transfer { to, amount: tokens(1) })]
        }
    }
}

fn genesis() -> Genesis {
    let treasurer = AccountKey::from_bytes(&[0xa1; 32]).unwrap().node_id();
    Genesis::new("Hilltop", "HILL", 6, treasurer, UnixTime::from_seconds(1000), [1; 16]).unwrap()
}

fn domain() -> LedgerDomain {
    genesis().domain()
}

fn clock() -> ledger_embedded::Clock {
    Box::new(|| UnixTime::from_seconds(1000))
}

fn tokens(n: u64) -> Tokens {
    Tokens::new(n.into()).unwrap()
}

/// The tape: SQLite's files, with an ear at their writes, cuts and syncs.
#[expect(unsafe_code, reason = "SQLite's file layer is a table of C functions")]
mod tape {
    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::ffi::{CStr, c_int, c_void};
    use std::path::{Path, PathBuf};
    use std::ptr;
    use std::sync::atomic::{AtomicPtr, Ordering};
    use std::sync::{Mutex, Once};

    use ledger_core::Head;
    use rusqlite::ffi;

    /// What happened, in order.
    pub(crate) enum Op {
        Asked,
        Answered(Head),
        Write { file: String, at: u64, bytes: Vec<u8> },
        Truncate { file: String, size: u64 },
        Sync { file: String },
    }

    impl Op {
        pub(crate) fn file(&self) -> Option<&str> {
            match self {
                Self::Write { file, .. } | Self::Truncate { file, .. } | Self::Sync { file } => Some(file),
                Self::Asked | Self::Answered(_) => None,
            }
        }
    }

    struct Tape {
        directory: PathBuf,
        /// The names of open files.
        files: BTreeMap<usize, String>,
        ops: Vec<Op>,
    }

    thread_local! {
        /// Of the test that runs on this thread.
        static TAPE: RefCell<Option<Tape>> = const { RefCell::new(None) };
    }

    /// Puts on tape what this thread does to files in a directory that it opens from now on.
    pub(crate) fn begin(directory: &Path) {
        static REGISTERED: Once = Once::new();
        REGISTERED.call_once(register);
        let tape = Tape { directory: directory.to_owned(), files: BTreeMap::new(), ops: Vec::new() };
        TAPE.set(Some(tape));
    }

    pub(crate) fn say(op: Op) {
        TAPE.with_borrow_mut(|tape| tape.as_mut().unwrap().ops.push(op));
    }

    pub(crate) fn end() -> Vec<Op> {
        TAPE.take().unwrap().ops
    }

    fn note(file: *mut ffi::sqlite3_file, op: impl FnOnce(String) -> Op) {
        TAPE.with_borrow_mut(|tape| {
            if let Some(tape) = tape
                && let Some(name) = tape.files.get(&file.addr())
            {
                let op = op(name.clone());
                tape.ops.push(op);
            }
        });
    }

    static REAL: AtomicPtr<ffi::sqlite3_vfs> = AtomicPtr::new(ptr::null_mut());

    /// Each table of functions for files that SQLite has, with ours in it beside it.
    static METHODS: Mutex<Vec<(usize, &'static ffi::sqlite3_io_methods, &'static ffi::sqlite3_io_methods)>> =
        Mutex::new(Vec::new());

    fn register() {
        // SAFETY: the default file system is there as long as the process; ours is its copy with another way to open, and is
        // never freed.
        unsafe {
            let real = ffi::sqlite3_vfs_find(ptr::null());
            REAL.store(real, Ordering::SeqCst);
            let ours = ffi::sqlite3_vfs { zName: c"tape".as_ptr(), pNext: ptr::null_mut(), xOpen: Some(open), ..*real };
            assert_eq!(ffi::sqlite3_vfs_register(Box::into_raw(Box::new(ours)), 1), ffi::SQLITE_OK);
        }
    }

    unsafe extern "C" fn open(
        _: *mut ffi::sqlite3_vfs,
        path: ffi::sqlite3_filename,
        file: *mut ffi::sqlite3_file,
        flags: c_int,
        out_flags: *mut c_int,
    ) -> c_int {
        let real = REAL.load(Ordering::SeqCst);
        // SAFETY: SQLite's own arguments, for its own file system, which has what it opened in `file`.
        let code = unsafe { (*real).xOpen.unwrap()(real, path, file, flags, out_flags) };
        if code == ffi::SQLITE_OK {
            // SAFETY: an open file has its functions, in a table that stays; only those that we replaced know of ours.
            unsafe { (*file).pMethods = with_ears((*file).pMethods) };
            // SAFETY: SQLite names a file by a C string, or not at all.
            let path = (!path.is_null()).then(|| unsafe { CStr::from_ptr(path) });
            name(file, path.and_then(|path| path.to_str().ok()));
        }
        code
    }

    fn name(file: *mut ffi::sqlite3_file, path: Option<&str>) {
        TAPE.with_borrow_mut(|tape| {
            let Some(tape) = tape else { return };
            tape.files.remove(&file.addr());
            let path = path.map(Path::new).filter(|path| path.parent() == Some(&tape.directory));
            if let Some(name) = path.and_then(Path::file_name) {
                tape.files.insert(file.addr(), name.to_string_lossy().into_owned());
            }
        });
    }

    /// SAFETY: `real` is a table that stays.
    unsafe fn with_ears(real: *const ffi::sqlite3_io_methods) -> *const ffi::sqlite3_io_methods {
        let mut methods = METHODS.lock().unwrap();
        if let Some((_, _, ours)) = methods.iter().find(|(known, ..)| *known == real.addr()) {
            return *ours;
        }
        // SAFETY: as above.
        let real = unsafe { &*real };
        let ours: &'static _ = Box::leak(Box::new(ffi::sqlite3_io_methods {
            xWrite: Some(write),
            xTruncate: Some(truncate),
            xSync: Some(sync),
            ..*real
        }));
        methods.push((ptr::from_ref(real).addr(), real, ours));
        ours
    }

    /// The functions that SQLite gave a file that has ours.
    fn real(file: *mut ffi::sqlite3_file) -> &'static ffi::sqlite3_io_methods {
        // SAFETY: it is open.
        let ours = unsafe { (*file).pMethods };
        let methods = METHODS.lock().unwrap();
        methods.iter().find(|(_, _, known)| ptr::eq(*known, ours)).unwrap().1
    }

    unsafe extern "C" fn write(file: *mut ffi::sqlite3_file, bytes: *const c_void, length: c_int, at: i64) -> c_int {
        // SAFETY: SQLite gives as many bytes as it says.
        let written = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), length as usize) };
        note(file, |file| Op::Write { file, at: at as u64, bytes: written.to_vec() });
        // SAFETY: SQLite's own arguments for its own function.
        unsafe { real(file).xWrite.unwrap()(file, bytes, length, at) }
    }

    unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
        note(file, |file| Op::Truncate { file, size: size as u64 });
        // SAFETY: as above.
        unsafe { real(file).xTruncate.unwrap()(file, size) }
    }

    unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
        // SAFETY: as above.
        let code = unsafe { real(file).xSync.unwrap()(file, flags) };
        note(file, |file| Op::Sync { file });
        code
    }
}
