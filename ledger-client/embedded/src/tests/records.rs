//! The hash of all records, and what is proven by it.

use std::sync::mpsc::channel as answers;

use ledger_core::fact::Fact;
use ledger_core::membership::Membership;
use ledger_core::place::{Funds, Overall};
use ledger_core::registry::Listing;

use super::*;

fn places() -> Vec<Vec<u8>> {
    let accounts = [alice as Who, bob, carol, treasurer].map(id);
    let funds = accounts.iter().map(Funds::place);
    let others = [Overall::place(&()), Channel::place(&channel()), Membership::place(&id(bob)), vec![], vec![99, 1]];
    funds.chain(others).collect()
}

/// Whether all of it is shown, and nothing else by the same proofs.
fn check(proven: &Proven, places: &[Vec<u8>]) {
    assert_eq!(proven.records.len(), places.len());
    for (place, (value, proof)) in places.iter().zip(&proven.records) {
        assert!(proof.shows(&proven.root, place, value.as_deref()), "{place:?}");
        assert!(!proof.shows(&proven.root, place, Some(b"something else")), "{place:?}");
    }
}

fn hashed(place: &Place) -> i64 {
    Connection::open(place.path()).unwrap().query_row("SELECT size FROM hashed", [], |row| row.get(0)).unwrap()
}

#[test]
fn a_record_is_proven_as_it_is_and_one_that_is_not_there_too() {
    let (place, mut ledger) = Place::new();
    assert_eq!(ledger.proven_records(&places()).unwrap(), None, "nobody has hashed anything yet");
    let proven = ledger.prove_records(&places()).unwrap();
    check(&proven, &places());
    assert_eq!(proven.head, ledger.head().unwrap());
    let value = |at: usize| proven.records[at].0.as_deref();
    assert_eq!(value(0).and_then(Funds::decode), Some(Funds { balance: tokens(40), sequence: 1 }));
    assert_eq!(value(1), None, "Bob has nothing and has done nothing");
    assert_eq!(value(4).and_then(Overall::decode).unwrap().totals, ledger.totals().unwrap());
    assert_eq!(value(5).and_then(<Channel as Fact>::decode), Some(Channel::open(tokens(60))));
    assert_eq!((value(6), value(7), value(8)), (None, None, None));

    ledger.execute(&redeem(25)).unwrap();
    assert_eq!(ledger.proven_records(&places()).unwrap(), None, "it is behind by one entry");
    let later = ledger.prove_records(&places()).unwrap();
    check(&later, &places());
    assert_eq!(later.records[1].0.as_deref().and_then(Funds::decode).unwrap().balance, tokens(25));
    assert_eq!(ledger.proven_records(&places()).unwrap(), Some(later.clone()));
    let note = ledger.checkpoint_of(&later, &signer()).unwrap();
    assert_eq!(checkpoint::verify(&note, signer().key()), Ok(later.head));
    assert_eq!(checkpoint::records(&note), Some(later.root));
    audited(&mut ledger);
    drop(ledger);
    assert_eq!(place.open().unwrap().proven_records(&places()).unwrap(), Some(later));
}

#[test]
fn what_is_far_behind_is_followed_in_steps_and_ends_as_if_done_at_once() {
    let (place, mut ledger) = Place::new();
    mint(&mut ledger, id(alice), 2_000);
    order(&mut ledger, alice, Command::TopUp { channel: channel(), amount: tokens(2_000) });
    let receipts: Vec<Request> = (1..=1_500).map(redeem).collect();
    assert!(ledger.execute_many(&receipts).unwrap().iter().all(Result::is_ok));
    let mut steps = 0;
    while ledger.hash_records(300).unwrap() {
        steps += 1;
        // It may be read and written in between.
        assert_eq!(hashed(&place), 300 * steps);
        assert_eq!(ledger.proven_records(&places()).unwrap(), None);
    }
    assert_eq!(steps, 5);
    let stepwise = ledger.proven_records(&places()).unwrap().unwrap();
    let size = ledger.head().unwrap().size;
    place.by_hand("DELETE FROM tile; DELETE FROM hashed");
    let mut told = Vec::new();
    ledger.hash_all_records(|progress| told.push(progress)).unwrap();
    // Three accounts, a channel and the totals; then all of the log.
    assert_eq!(told, [Progress { done: 0, of: 5 }, Progress { done: size, of: size }]);
    assert_eq!(ledger.proven_records(&places()).unwrap(), Some(stepwise.clone()));
    place.by_hand("UPDATE hashed SET size = 0");
    assert_eq!(ledger.proven_records(&places()).unwrap(), None, "the row is not what was written");
    assert_eq!(ledger.prove_records(&places()).unwrap(), stepwise);
    audited(&mut ledger);
}

#[test]
fn tile_that_was_changed_is_made_anew_where_it_is_needed_and_named_by_an_audit() {
    for sql in [
        "UPDATE tile SET slots = zeroblob(4) WHERE prefix = x'00'",
        "UPDATE tile SET slots = x'ff' WHERE prefix = x'00'",
        "DELETE FROM tile",
        "UPDATE hashed SET root = zeroblob(32)",
        "DELETE FROM hashed",
    ] {
        let (place, mut ledger) = Place::new();
        let before = ledger.prove_records(&places()).unwrap();
        place.by_hand(sql);
        let Verdict::Broken(difference) = ledger.audit().unwrap() else { panic!("{sql}") };
        assert!(matches!(difference, Difference::File { .. }), "{sql}: {difference}");
        assert_eq!(ledger.proven_records(&places()).unwrap(), None, "{sql}");
        assert_eq!(ledger.prove_records(&places()).unwrap(), before, "{sql}");
        audited(&mut ledger);
    }
    let (place, mut ledger) = Place::new();
    ledger.prove_records(&places()).unwrap();
    place.by_hand("INSERT INTO tile SELECT x'0455', slots FROM tile LIMIT 1");
    let Verdict::Broken(difference) = ledger.audit().unwrap() else { panic!("a tile too many") };
    assert!(matches!(difference, Difference::Tiles { .. }), "{difference}");
}

/// A row that the disk has changed keeps only those from an answer who ask for it, and has nothing hashed anew.
#[test]
fn a_damaged_row_is_not_taken_for_damaged_hashes() {
    let (place, mut ledger) = Place::new();
    ledger.prove_records(&places()).unwrap();
    let tiles = || -> i64 {
        let file = Connection::open(place.path()).unwrap();
        file.query_row("SELECT total(length(slots)) FROM tile", [], |row| row.get::<_, f64>(0)).unwrap() as i64
    };
    place.by_hand("UPDATE account SET balance = balance + 1 WHERE balance = 40");
    let before = tiles();
    let asked = [Funds::place(&id(alice))];
    for _ in 0..2 {
        assert!(matches!(ledger.proven_records(&asked), Err(Error::Damaged { .. })));
        assert!(matches!(ledger.prove_records(&asked), Err(Error::Damaged { .. })));
    }
    assert_eq!(tiles(), before);
    let other = [Channel::place(&channel())];
    assert!(ledger.proven_records(&other).unwrap().is_some());

    // Nothing is proven beside a head that is not what was written.
    place.by_hand("UPDATE ledger SET root = zeroblob(32)");
    assert!(matches!(ledger.proven_records(&other), Err(Error::Damaged { .. })));
    assert!(matches!(ledger.prove_records(&other), Err(Error::Damaged { .. })));
}

/// Whoever writes the file can write its hashes too, and then the audit alone tells.
#[test]
fn hashes_of_other_records_are_a_difference() {
    let (_place, mut ledger) = Place::new();
    ledger.execute(&redeem(25)).unwrap();
    let size = ledger.head().unwrap().size;
    ledger
        .write_beside(|records| {
            let leaf = ledger_core::record_tree::Leaf::of(&Listing::place(&id(bob)), b"");
            let root = ledger_core::record_tree::update(
                records,
                ledger_core::record_tree::Subtree::Empty,
                &[(leaf.key, leaf.value)].into(),
            )?;
            records.set_hashed(size, &root)
        })
        .unwrap();
    let Verdict::Broken(difference) = ledger.audit().unwrap() else { panic!("a lie") };
    assert!(matches!(difference, Difference::Records { .. }), "{difference}");
}

#[test]
fn a_writer_proves_between_its_commits_and_keeps_up_by_itself() {
    let (place, mut ledger) = Place::new();
    mint(&mut ledger, id(alice), 5_000);
    order(&mut ledger, alice, Command::TopUp { channel: channel(), amount: tokens(5_000) });
    let mut reader = place.open().unwrap();
    let writer = Writer::start(ledger).unwrap();
    let (send, told) = answers();
    writer.hash_records(move |answer| drop(send.send(answer))).unwrap();
    told.recv().unwrap().unwrap();
    assert!(reader.proven_records(&places()).unwrap().is_some());
    let (send, proven) = answers();
    writer.prove(places(), move |answer| drop(send.send(answer))).unwrap();
    let proven = proven.recv().unwrap().unwrap();
    check(&proven, &places());
    assert_eq!(reader.proven_records(&places()).unwrap(), Some(proven));
    for first in (0..1_200).step_by(100) {
        let receipts = (1..=100).map(|n| writer.present(redeem(first + n))).collect();
        assert!(writer.execute(receipts).unwrap().iter().all(Result::is_ok));
    }
    writer.stop();
    assert!(hashed(&place) > 1_024, "{}", hashed(&place));
    let stopped = writer.prove(places(), |_| panic!("it has stopped"));
    assert!(matches!(stopped, Err(WriteError::Stopped)));
}
