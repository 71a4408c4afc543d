//! What each day with each neighbour came to, from the sums that settlement keeps: for people who ask what they pay for,
//! and for what they may spend. Money never rests on it; what a power cut takes is what the last minutes counted.

use std::time::SystemTime;

use metering::{NodeId, Snapshot, SortedMap, Tokens};

use crate::journal::{Day, Record};

/// How many days are kept.
pub(super) const DAYS_KEPT: u32 = 400;

/// Days that a clock may go back to: of a router that runs for years, the last few.
const KEPT_MAX: usize = 4;

/// The days, as far as they are not yet past.
#[derive(Debug)]
pub(super) struct History {
    day: u32,
    /// What this day has come to, with each neighbour.
    today: SortedMap<NodeId, Day>,
    /// Other days that a clock which is set may lead to: the journal's newest, and those there were since the start. A line
    /// is written as a whole, so whoever forgot what a day had come to would take it away.
    kept: SortedMap<u32, SortedMap<NodeId, Day>>,
    /// What the sums of each neighbour were when they were last looked at.
    seen: SortedMap<NodeId, Day>,
}

impl History {
    /// Goes on where the journal ends.
    pub(super) fn new(day: u32, known: impl Iterator<Item = (u32, NodeId, Day)>) -> Self {
        let mut kept: SortedMap<u32, SortedMap<NodeId, Day>> = SortedMap::new();
        for (known, peer, line) in known {
            // Oldest first: of the days other than this one, the newest stays.
            kept.retain(|kept, _| *kept == day || *kept == known);
            kept.entry(known).or_default().insert(peer, line);
        }
        let today = kept.remove(&day).unwrap_or_default();
        Self { day, today, kept, seen: SortedMap::new() }
    }

    /// Adds what came on top since the last call. A clock that is set back a little does not open yesterday again.
    /// Returns the lines of the day that has ended, if one has.
    pub(super) fn look(&mut self, now: u32, settled: impl Iterator<Item = Snapshot>) -> Vec<Record> {
        let set_back = now < self.day && self.day - now <= 1;
        let mut ended = Vec::new();
        for snapshot in settled {
            let sums = sums_of(&snapshot);
            let seen = self.seen.insert(snapshot.peer, sums).unwrap_or_default();
            // An exchange that began anew counts from zero.
            let began_anew = sums.segments < seen.segments
                || sums.ours.sent < seen.ours.sent
                || sums.ours.received < seen.ours.received;
            let seen = if began_anew { Day::default() } else { seen };
            let line = self.today.entry(snapshot.peer).or_default();
            let paid_late = seen.written_off.saturating_sub(sums.written_off);
            *line = line.plus(sums.since(seen)).with_late_payment(paid_late);
        }
        if now != self.day && !set_back {
            ended = self.records();
            let today = self.kept.remove(&now).unwrap_or_default();
            self.kept.insert(self.day, std::mem::replace(&mut self.today, today));
            self.day = now;
            while self.kept.len() > KEPT_MAX {
                self.kept.pop_first();
            }
        }
        ended
    }

    /// The lines of today.
    pub(super) fn records(&self) -> Vec<Record> {
        let used = self.today.iter().filter(|(_, line)| **line != Day::default());
        used.map(|(peer, line)| Record::Day { day: self.day, peer: *peer, line: *line }).collect()
    }

    /// Today, and what we have signed for with everybody.
    pub(super) fn spent_today(&self) -> (u32, Tokens) {
        let spent = self.today.values().fold(Tokens::ZERO, |sum, line| sum.saturating_add(line.spent));
        (self.day, spent)
    }

    /// Today, and what it has come to with each neighbour.
    pub(super) fn lines(&self) -> (u32, Vec<(NodeId, Day)>) {
        let used = self.today.iter().filter(|(_, line)| **line != Day::default());
        (self.day, used.map(|(peer, line)| (*peer, *line)).collect())
    }

    /// Today, and what it has come to with a neighbour.
    pub(super) fn today(&self, peer: NodeId) -> (u32, Day) {
        (self.day, self.today.get(&peer).copied().unwrap_or_default())
    }
}

fn sums_of(snapshot: &Snapshot) -> Day {
    Day {
        segments: snapshot.sums.segments,
        ours: snapshot.sums.ours,
        theirs: snapshot.sums.theirs,
        earned: snapshot.sums.earned,
        spent: snapshot.sums.spent,
        written_off: snapshot.written_off,
        paid_late: Tokens::ZERO,
    }
}

/// Days since 1970-01-01, UTC, by the system's clock.
pub(super) fn today() -> u32 {
    u32::try_from(unix_seconds() / 86_400).unwrap_or(u32::MAX)
}

/// Seconds since 1970-01-01, UTC, by the system's clock.
#[expect(clippy::disallowed_methods, reason = "the shell's clock; people count days by it")]
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A moment in seconds since 1970-01-01 UTC, for people: `2026-11-26 18:44`.
pub(crate) fn moment(seconds: u64) -> String {
    let (year, month, day) = civil(u32::try_from(seconds / 86_400).unwrap_or(u32::MAX));
    let (hour, minute) = (seconds / 3600 % 24, seconds / 60 % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}")
}

/// The year, month and day of the month of a day since 1970-01-01, by the civil calendar.
pub(crate) fn civil(day: u32) -> (u64, u64, u64) {
    // Counted from 0000-03-01, so that a leap day ends a year; 146,097 days are 400 years.
    let days = u64::from(day) + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day_of_month = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (400 * era + year_of_era + u64::from(month <= 2), month, day_of_month)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use metering::{
        AccountKey, Bytes, Counts, Exchange, Identity, LedgerDomain, Limits, Price, Restored, Seed, Setup, Side,
    };

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "an exchange wants a moment to begin at")]
    fn snapshot() -> Snapshot {
        let [us, peer] = [1, 2].map(|n| Identity::new(&Seed::from_bytes([n; 32])));
        let account: AccountKey = us.account().clone();
        let setup = Setup {
            account,
            peer: peer.node_id(),
            domain: LedgerDomain { chain_id: 0, contract: NodeId([0; 20]) },
            side: Side::Subscriber(Limits { max_price: Price::FREE }),
            session: 1,
            counts: Counts::ZERO,
            restored: Restored::default(),
        };
        Exchange::new(setup, Instant::now()).snapshot()
    }

    fn sums(segments: u64, sent: u64, signed: u128) -> Snapshot {
        let mut snapshot = snapshot();
        snapshot.sums.segments = segments;
        snapshot.sums.ours.sent = Bytes::new(sent);
        snapshot.sums.spent = Tokens::new(signed).expect("small");
        snapshot
    }

    fn line(records: &[Record]) -> (u32, u64, u128) {
        let [Record::Day { day, line, .. }] = records else { panic!("{records:?}") };
        (*day, line.ours.sent.get(), line.spent.get())
    }

    #[test]
    fn sums_are_split_by_days_and_go_on_after_a_restart_of_either() {
        let mut history = History::new(10, std::iter::empty());
        assert_eq!(history.look(10, [sums(1, 100, 5)].into_iter()), []);
        assert_eq!(line(&history.records()), (10, 100, 5));
        assert_eq!(line(&history.look(11, [sums(1, 130, 6)].into_iter())), (10, 130, 6));
        assert_eq!(history.look(11, [sums(1, 150, 9)].into_iter()), []);
        assert_eq!(line(&history.records()), (11, 20, 3));
        // The neighbour was removed and came again: its sums begin anew.
        history.look(11, [sums(0, 0, 0)].into_iter());
        history.look(11, [sums(1, 9, 2)].into_iter());
        // And once more, before anybody looked.
        history.look(11, [sums(1, 7, 1)].into_iter());
        assert_eq!(line(&history.records()), (11, 36, 6));
        let known = history.records().into_iter().map(|record| {
            let Record::Day { day, peer, line } = record else { panic!("{record:?}") };
            (day, peer, line)
        });
        let mut again = History::new(11, known);
        again.look(11, [sums(1, 3, 0)].into_iter());
        assert_eq!(line(&again.records()), (11, 39, 6));
    }

    #[test]
    fn what_is_paid_late_is_written_off_no_more_on_the_same_day_and_said_on_the_next() {
        let owing = |written_off| {
            let written_off = Tokens::new(written_off).expect("small");
            [Snapshot { written_off, ..sums(1, 1, 0) }].into_iter()
        };
        let off = |records: &[Record]| {
            let [Record::Day { line, .. }] = records else { panic!("{records:?}") };
            (line.written_off.get(), line.paid_late.get())
        };
        let mut history = History::new(10, std::iter::empty());
        history.look(10, owing(9));
        assert_eq!(off(&history.records()), (9, 0));
        history.look(10, owing(5));
        assert_eq!(off(&history.records()), (5, 0));
        assert_eq!(off(&history.look(11, owing(6))), (6, 0));
        history.look(11, owing(2));
        assert_eq!(off(&history.records()), (0, 4));
    }

    #[test]
    fn a_clock_set_back_a_day_does_not_open_yesterday_again_and_one_that_was_wrong_by_years_is_believed() {
        let mut history = History::new(10, std::iter::empty());
        history.look(10, [sums(1, 1, 0)].into_iter());
        assert_eq!(history.look(9, [sums(1, 2, 0)].into_iter()), []);
        assert_eq!(line(&history.records()), (10, 2, 0));
        assert_eq!(line(&history.look(2, [sums(1, 3, 0)].into_iter())), (10, 3, 0));
        assert_eq!(history.records(), []);
    }

    #[test]
    fn a_day_that_a_clock_goes_back_to_has_not_forgotten_what_it_came_to() {
        let mut history = History::new(10, std::iter::empty());
        history.look(10, [sums(1, 5, 1)].into_iter());
        assert_eq!(line(&history.look(12, [sums(1, 6, 1)].into_iter())), (10, 6, 1));
        assert_eq!(line(&history.look(10, [sums(1, 8, 1)].into_iter())), (12, 2, 0));
        assert_eq!(line(&history.records()), (10, 6, 1));
        history.look(10, [sums(1, 9, 2)].into_iter());
        assert_eq!(line(&history.records()), (10, 7, 2));
        // A router without a clock of its own starts in 1970, and finds the time later.
        let day = |day: u32, sent: u64| {
            let line = Day { ours: Counts { sent: Bytes::new(sent), received: Bytes::ZERO }, ..Day::default() };
            (day, snapshot().peer, line)
        };
        let mut again = History::new(0, [day(0, 1), day(9, 7), day(10, 100)].into_iter());
        again.look(10, [sums(1, 3, 0)].into_iter());
        again.look(10, [sums(1, 5, 0)].into_iter());
        assert_eq!(line(&again.records()), (10, 102, 0));
    }
}
