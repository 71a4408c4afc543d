//! Copies, and the log alone.

use std::path::Path;

use super::*;

fn names(place: &Place) -> Vec<String> {
    let entries = fs::read_dir(place.directory.path()).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn restore(place: &Place, from: &Path, published: Option<&Head>) -> Result<(Embedded, Audit), RestoreError> {
    Embedded::restore(from, &place.directory.path().join("restored"), published, place.clock(), |_| ())
}

#[test]
fn backup_is_the_ledger_as_it_was_and_is_restored_beside_it() {
    let (place, mut ledger) = Place::new();
    ledger.execute(&redeem(25)).unwrap();
    let (head, copy) = (ledger.head().unwrap(), place.directory.path().join("copy"));
    let mut told = Vec::new();
    assert_eq!(ledger.backup(&copy, |progress| told.push(progress)).unwrap(), head);
    assert!(told.last().is_some_and(|last| last.done == last.of && last.of > 0), "{told:?}");
    assert_eq!(names(&place), ["copy", "ledger", "ledger-shm", "ledger-wal"]);
    ledger.execute(&redeem(26)).unwrap();

    let before = fs::read(&copy).unwrap();
    let (mut restored, audit) = restore(&place, &copy, Some(&head)).unwrap();
    assert_eq!(audit.head, head);
    assert_eq!(restored.balance(id(bob)).unwrap(), tokens(25));
    restored.execute(&redeem(27)).unwrap();
    audited(&mut restored);
    assert_eq!(fs::read(&copy).unwrap(), before, "the copy stays as it is");
    drop((ledger, restored));
    assert_eq!(names(&place), ["copy", "ledger", "restored"]);
}

#[test]
fn backup_is_taken_while_others_write() {
    let (place, mut ledger) = Place::new();
    mint(&mut ledger, id(alice), 100_000);
    order(&mut ledger, alice, Command::TopUp { channel: channel(), amount: tokens(100_000) });
    let receipts: Vec<_> = (1..=2_000).map(redeem).collect();
    ledger.execute_many(&receipts).unwrap();
    let copy = place.directory.path().join("copy");
    let (mut other, head) = (place.open().unwrap(), ledger.head().unwrap());
    let mut written = 0;
    // Another connection writes between the steps, and they do not begin anew.
    let copied = ledger.backup(&copy, |progress| {
        if progress.done < progress.of {
            other.execute(&redeem(2_001 + written)).unwrap();
            written += 1;
        }
    });
    assert!(written > 0, "it took more than one step");
    assert_eq!(copied.unwrap(), head);
    assert_eq!(ledger.head().unwrap().size, head.size + written as u64);
    assert_eq!(restore(&place, &copy, Some(&head)).unwrap().1.head, head);
}

#[test]
fn copy_replaces_nothing_and_leaves_no_half_file() {
    let (place, mut ledger) = Place::new();
    let copy = place.directory.path().join("copy");
    fs::write(&copy, "mine").unwrap();
    assert!(matches!(ledger.backup(&copy, |_| ()), Err(CreateError::Exists { .. })));
    assert!(matches!(
        restore(&place, &place.directory.path().join("nothing"), None),
        Err(RestoreError::Failed(Error::Missing { .. }))
    ));
    assert_eq!(fs::read(&copy).unwrap(), b"mine");
    // It appears while the copy is on its way.
    let late = place.directory.path().join("late");
    let refused = ledger.backup(&late, |_| fs::write(&late, "theirs").unwrap());
    assert!(matches!(refused, Err(CreateError::Exists { .. })), "{refused:?}");
    assert_eq!(fs::read(&late).unwrap(), b"theirs");
    fs::remove_file(&copy).unwrap();
    ledger.backup(&copy, |_| ()).unwrap();
    for end in ["", "-wal"] {
        let left = place.directory.path().join(format!("restored{end}"));
        fs::write(&left, "left behind").unwrap();
        let refused = restore(&place, &copy, None).map(|_| end).unwrap_err();
        assert!(matches!(&refused, RestoreError::Exists { path } if *path == left), "{refused}");
        fs::remove_file(left).unwrap();
    }
    let panicking = std::panic::AssertUnwindSafe(|| {
        ledger.backup(&place.directory.path().join("half"), |_| panic!("half way, as is meant"))
    });
    std::panic::catch_unwind(panicking).unwrap_err();
    assert_eq!(names(&place), ["copy", "late", "ledger", "ledger-shm", "ledger-wal"]);
}

#[test]
fn copy_that_is_wrong_or_old_is_not_restored() {
    let (place, mut ledger) = Place::new();
    ledger.execute(&redeem(25)).unwrap();
    let copy = place.directory.path().join("copy");
    let old = ledger.backup(&copy, |_| ()).unwrap();
    ledger.execute(&redeem(26)).unwrap();
    let new = ledger.head().unwrap();
    let refused = restore(&place, &copy, Some(&new)).map(|_| "old").unwrap_err();
    let expected =
        format!("{} has {} entries, and {} were published: it is an old copy", copy.display(), old.size, new.size);
    assert_eq!(refused.to_string(), expected);
    let forked = Head { root: new.root, ..old };
    assert!(matches!(restore(&place, &copy, Some(&forked)), Err(RestoreError::Failed(Error::Forked { .. }))));
    // A log that is right, and a table that opens and is not.
    Connection::open(&copy).unwrap().execute_batch("UPDATE ordered SET entry = 1 WHERE entry = 2").unwrap();
    let refused = restore(&place, &copy, None).map(|_| "wrong").unwrap_err();
    assert!(matches!(refused, RestoreError::Broken { .. }), "{refused}");
    assert!(!names(&place).iter().any(|name| name.contains("restored")), "{:?}", names(&place));
}

/// As `cp` takes one of a ledger that nobody has open, whose newest entries are in the log beside it.
#[test]
fn copy_with_a_write_ahead_log_is_restored_with_it() {
    let (place, mut ledger) = Place::new();
    ledger.execute(&redeem(25)).unwrap();
    let image = place.crash_image();
    let (_, audit) = restore(&image, &image.path(), None).unwrap();
    assert_eq!(audit.head, ledger.head().unwrap());
}

#[test]
fn exported_log_tells_an_auditor_all_that_the_file_does() {
    let (place, mut ledger) = Place::new();
    for total in 1..=20 {
        ledger.execute(&redeem(total)).unwrap();
    }
    let mut log = Vec::new();
    let head = ledger.export(&mut log).unwrap();
    assert_eq!(head, ledger.head().unwrap());
    assert_eq!(audit_export(&log[..]).unwrap(), ledger.audit().unwrap());
    // By the words of RULEBOOK.md.
    let lines: Vec<_> = std::str::from_utf8(&log).unwrap().lines().collect();
    assert_eq!(lines.len() as u64, head.size);
    let mut tree = Tree::default();
    lines.iter().for_each(|line| drop(tree.append(leaf_hash(&hex::decode(line).unwrap()))));
    assert_eq!(tree.head(), head);

    // An entry that the rules forbid is the same difference in both.
    place.by_hand("UPDATE entry SET entry = (SELECT entry FROM entry WHERE number = 3) WHERE number = 1");
    let mut log = Vec::new();
    ledger.export(&mut log).unwrap();
    assert_eq!(audit_export(&log[..]).unwrap(), ledger.audit().unwrap());
    place.by_hand("DELETE FROM entry WHERE number = 7");
    assert!(matches!(ledger.export(&mut Vec::new()), Err(ExportError::Failed(Error::Damaged { .. }))));
}

#[test]
fn log_that_is_cut_or_endless_is_broken_at_its_line() {
    let (_place, mut ledger) = Place::new();
    let mut log = Vec::new();
    ledger.export(&mut log).unwrap();
    let broken = |log: &[u8]| match audit_export(log).unwrap() {
        Verdict::Broken(difference) => difference.to_string(),
        Verdict::Kept(audit) => panic!("{audit:?}"),
    };
    assert_eq!(broken(&log[..log.len() - 1]), "entry 2: not a well-formed entry");
    assert_eq!(broken(&[&log[..], b"\n"].concat()), "entry 3: not a well-formed entry");
    assert_eq!(broken(&[&log[..], b"0g\n"].concat()), "entry 3: not a well-formed entry");
    assert_eq!(
        broken(&log[log.iter().position(|byte| *byte == b'\n').unwrap() + 1..]),
        "entry 0: a log has one founding, at its beginning"
    );
    assert_eq!(broken(b""), "entry 0 is missing");
    // However long the line is, a part of it is enough to tell.
    let endless = std::io::BufReader::new(std::io::repeat(b'8'));
    assert!(matches!(audit_export(endless).unwrap(), Verdict::Broken(Difference::Entry { number: 0, .. })));
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    assert!(matches!(ledger.export(&mut Full), Err(ExportError::Write(_))));
}
