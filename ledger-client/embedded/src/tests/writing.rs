//! One writer for many who ask.

use std::sync::mpsc::{Receiver, channel as answers};

use super::*;

/// Has it ask without waiting, and gives where the answer will be.
fn submit(writer: &Writer, requests: Vec<Presented>) -> Result<Receiver<Answers>, WriteError> {
    let (send, receive) = answers();
    writer.submit(requests, move |answers| drop(send.send(answers)))?;
    Ok(receive)
}

/// Has a writer hang in its first answer, to `first`, until something is done.
fn while_busy(writer: &Writer, first: Request, work: impl FnOnce()) {
    let (begun, has_begun) = answers();
    let (go, may_go) = answers::<()>();
    let hang = move |answers: Answers| {
        begun.send(answers).unwrap();
        // Until the other end is gone.
        let _ = may_go.recv();
    };
    writer.submit(vec![writer.present(first)], hang).unwrap();
    assert!(has_begun.recv().unwrap().unwrap()[0].is_ok());
    work();
    drop(go);
}

#[test]
fn many_who_ask_at_once_are_answered_each_with_their_own() {
    let (place, ledger) = Place::new();
    let writer = Writer::start(ledger).unwrap();
    let paid: u128 = thread::scope(|scope| {
        let work = |first: u128| {
            let writer = writer.clone();
            move || -> u128 {
                let mut sum = 0;
                for total in (first..=60).step_by(8) {
                    let answers =
                        writer.execute(vec![writer.present(redeem(total)), writer.present(redeem(61))]).unwrap();
                    let [first, second] = answers.try_into().unwrap();
                    assert_eq!(second.unwrap_err().rule(), "TotalExceedsDeposit");
                    sum += paid(first.map(|recorded| recorded.entry)).unwrap_or_default();
                }
                sum
            }
        };
        let threads: Vec<_> = (1..=8).map(|first| scope.spawn(work(first))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(paid, 60);
    writer.stop();
    let mut ledger = place.open().unwrap();
    assert_eq!(ledger.balance(id(bob)).unwrap(), tokens(60));
    audited(&mut ledger);
}

#[test]
fn what_waits_while_a_commit_is_on_its_way_is_the_next_one() {
    let (place, ledger) = Place::new();
    drop(ledger);
    // The clock is asked once in a transaction.
    let asked = Arc::new(AtomicU64::new(1000));
    let clock = Arc::clone(&asked);
    let clock = Box::new(move || UnixTime::from_seconds(clock.fetch_add(1, Ordering::Relaxed)));
    let writer = Writer::start(Embedded::open(&place.path(), clock).unwrap()).unwrap();
    let mut waiting = Vec::new();
    while_busy(&writer, redeem(1), || {
        waiting.extend((2..=60).map(|total| submit(&writer, vec![writer.present(redeem(total))]).unwrap()));
    });
    let answers = waiting.into_iter().map(|answer| answer.recv().unwrap().unwrap().remove(0).unwrap());
    let numbers: Vec<_> = answers.map(|recorded| recorded.number).collect();
    assert_eq!(numbers, (4..63).collect::<Vec<_>>(), "in the order in which they were asked");
    assert_eq!(asked.load(Ordering::Relaxed), 1002);
}

#[test]
fn who_asks_for_more_than_there_is_room_for_waits_or_is_told_so() {
    let (_place, ledger) = Place::new();
    let writer = Writer::start(ledger).unwrap();
    let known = writer.present(redeem(1));
    let mut waiting = Vec::new();
    thread::scope(|scope| {
        while_busy(&writer, redeem(1), || {
            for _ in 0..MAX_WAITING / MAX_COMMIT {
                waiting.push(submit(&writer, vec![known; MAX_COMMIT]).unwrap());
            }
            let full = submit(&writer, vec![known]).unwrap_err();
            assert!(matches!(full, WriteError::Overloaded), "{full}");
            scope.spawn(|| assert!(writer.execute(vec![writer.present(redeem(2))]).unwrap()[0].is_ok()));
        });
    });
    let answers: Vec<_> = waiting.into_iter().flat_map(|answer| answer.recv().unwrap().unwrap()).collect();
    assert_eq!(answers.len(), MAX_WAITING);
    assert!(
        answers.iter().all(|answer| answer.as_ref().is_err()),
        "they were answered in front of the one that waited"
    );
}

#[test]
fn transaction_that_fails_answers_all_that_were_in_it_and_the_next_ones_go_on() {
    let (place, ledger) = Place::new();
    let pages: i64 = ledger.connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
    ledger.connection.query_row(&format!("PRAGMA max_page_count = {}", pages + 4), [], |_| Ok(())).unwrap();
    let writer = Writer::start(ledger).unwrap();
    let mint = |number: u8| {
        let command = Command::Mint { to: NodeId([number; 20]), amount: tokens(1) };
        let order = Order::sign(&treasurer(), &genesis().domain(), id(treasurer), 1 + u64::from(number), command);
        writer.present(Request::Order(order.into_unverified()))
    };
    let mut waiting = Vec::new();
    while_busy(&writer, redeem(1), || {
        waiting.push(submit(&writer, (1..=100).map(mint).collect()).unwrap());
        waiting.push(submit(&writer, vec![writer.present(redeem(2))]).unwrap());
    });
    for answer in waiting {
        let failed = answer.recv().unwrap().unwrap_err();
        assert!(matches!(&failed, WriteError::Failed(error) if matches!(**error, Error::DiskFull { .. })), "{failed}");
    }
    assert!(writer.execute(vec![writer.present(redeem(2))]).unwrap()[0].is_ok());
    writer.stop();
    let mut ledger = place.open().unwrap();
    assert_eq!(ledger.balance(id(bob)).unwrap(), tokens(2));
    audited(&mut ledger);
}

#[test]
fn damaged_row_stops_only_those_who_need_it() {
    let (place, mut ledger) = Place::new();
    let (voucher, until) = (bob().node_id(), UnixTime::from_seconds(2000));
    order(&mut ledger, alice, Command::IssueVoucher { voucher, amount: tokens(5), until });
    place.by_hand("UPDATE fact SET value = x'05' WHERE length(value) > 20");
    let writer = Writer::start(ledger).unwrap();
    let claim = Claim::sign(&bob(), &genesis().domain(), id(alice), id(carol)).into_unverified();
    let mut waiting = Vec::new();
    while_busy(&writer, redeem(1), || {
        for request in [redeem(2), Request::RedeemVoucher { claim }, redeem(3)] {
            waiting.push(submit(&writer, vec![writer.present(request)]).unwrap());
        }
    });
    let happened: Vec<_> = waiting.into_iter().map(|answer| answer.recv().unwrap().is_ok()).collect();
    assert_eq!(happened, [true, false, true]);
}

#[test]
fn writer_that_is_stopped_answers_those_who_wait_and_nobody_after() {
    let (place, ledger) = Place::new();
    let writer = Writer::start(ledger).unwrap();
    let mut waiting = Vec::new();
    while_busy(&writer, redeem(1), || {
        waiting.extend((2..=9).map(|total| submit(&writer, vec![writer.present(redeem(total))]).unwrap()));
    });
    writer.stop();
    assert!(waiting.into_iter().all(|answer| answer.try_recv().unwrap().unwrap()[0].is_ok()));
    let late = writer.present(redeem(10));
    assert!(matches!(writer.execute(vec![late]), Err(WriteError::Stopped)));
    assert!(matches!(submit(&writer, vec![late]), Err(WriteError::Stopped)));
    assert!(!place.directory.path().join("ledger-wal").exists(), "the file is closed");
    let mut ledger = place.open().unwrap();
    assert_eq!(ledger.balance(id(bob)).unwrap(), tokens(9));
}

#[test]
fn what_was_asked_is_answered_when_the_last_handle_is_gone() {
    let (_place, ledger) = Place::new();
    let writer = Writer::start(ledger).unwrap();
    let answer = submit(&writer, vec![writer.present(redeem(1))]).unwrap();
    drop(writer);
    assert!(answer.recv().unwrap().unwrap()[0].is_ok());
}

#[test]
fn who_waits_for_a_writer_that_dies_is_told_so() {
    let (_place, ledger) = Place::new();
    let writer = Writer::start(ledger).unwrap();
    let request = writer.present(redeem(1));
    writer.submit(vec![request], |_| panic!("this answer kills the writer, and is meant to")).unwrap();
    let told = writer.execute(vec![request]).unwrap_err();
    assert!(matches!(told, WriteError::Stopped), "{told}");
    writer.stop();
    assert!(matches!(submit(&writer, vec![request]), Err(WriteError::Stopped)));
}
