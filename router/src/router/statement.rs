//! The month's statement: what the days with each neighbour came to together.

use metering::{NodeId, SortedMap};
use tokio::sync::oneshot;

use super::answers::{date, name_in};
use super::{Control, Known};
use crate::control::{Household, Refusal, Response, Statement};
use crate::journal::Day;

/// The days of a month, as days since 1970-01-01: the first, and the one after the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Month {
    first: u32,
    end: u32,
}

impl Month {
    /// Of a text such as "2026-11".
    fn parse(text: &str) -> Option<Self> {
        let (year, month) = text.split_once('-')?;
        let digits = |text: &str, len| text.len() == len && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = |text: &str| text.parse::<u32>().ok();
        let (year, month) =
            if digits(year, 4) && digits(month, 2) { (number(year)?, number(month)?) } else { return None };
        if year < 1970 || !(1..=12).contains(&month) {
            return None;
        }
        let (next_year, next_month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
        Some(Self { first: first_day(year, month), end: first_day(next_year, next_month) })
    }
}

/// Days from 1970-01-01 to the first of a month of the Gregorian calendar.
fn first_day(year: u32, month: u32) -> u32 {
    // Counted from March, so that a leap day ends a year; 719,468 days are before 1970.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 - 719_468
}

impl Control {
    /// What a month came to with each neighbour; the present one without a name.
    pub(super) fn statement(&mut self, month: Option<String>, answer: oneshot::Sender<Response>) {
        self.look_at_history();
        let (today, lines_of_today) = self.history.lines();
        let text = month.unwrap_or_else(|| date(today)[..7].to_owned());
        let Some(month) = Month::parse(&text) else {
            let next = Some("name it by year and month, such as 2026-11".to_owned());
            let _gone = answer.send(Response::Failed(Refusal { cause: format!("{text} is no month"), next }));
            return;
        };
        let roles: SortedMap<NodeId, &'static str> =
            self.links.iter().filter_map(|(link, known)| Some((known.named()?.0, self.role(*link, known)))).collect();
        let names: SortedMap<NodeId, String> = self.links.values().filter_map(Known::named).collect();
        let mut statement = Statement {
            unit: self.money.unit.clone(),
            name: self.name.clone(),
            id: self.node.id(),
            month: text,
            is_over: today >= month.end,
            households: Vec::new(),
        };
        let lines_of_today: Vec<(NodeId, Day)> = lines_of_today.into_iter().filter(|_| month.holds(today)).collect();
        let earlier = self.journal.ask(move |journal| -> Vec<(NodeId, Day)> {
            let of_month = journal.days().filter(|(day, ..)| *day != today && month.holds(*day));
            of_month.map(|(_, peer, line)| (peer, line)).collect()
        });
        tokio::spawn(async move {
            let response = match earlier.await {
                Ok(mut lines) => {
                    lines.extend(lines_of_today);
                    statement.households = households(&lines, &names, &roles);
                    Response::Statement(Box::new(statement))
                }
                Err(error) => Response::Failed(Refusal { cause: error.to_string(), next: None }),
            };
            let _gone = answer.send(response);
        });
    }
}

impl Month {
    fn holds(self, day: u32) -> bool {
        (self.first..self.end).contains(&day)
    }
}

const PROVIDER: &str = "provider";

/// One line for each neighbour, by name.
fn households(
    lines: &[(NodeId, Day)],
    names: &SortedMap<NodeId, String>,
    roles: &SortedMap<NodeId, &'static str>,
) -> Vec<Household> {
    let mut sums: SortedMap<NodeId, (u32, Day)> = SortedMap::new();
    for (peer, line) in lines {
        let (days, sum) = sums.entry(*peer).or_default();
        (*days, *sum) = (*days + 1, sum.plus(*line));
    }
    let mut households: Vec<Household> = sums
        .into_iter()
        .map(|(peer, (days, sum))| Household {
            neighbour: name_in(names, peer),
            id: peer,
            // Of those that are gone, whoever was paid was a provider.
            role: (*roles.get(&peer).unwrap_or(if sum.spent > sum.earned { &PROVIDER } else { &"gone" })).to_owned(),
            days,
            sent_bytes: sum.ours.sent,
            reported_received_bytes: sum.theirs.received,
            reported_sent_bytes: sum.theirs.sent,
            received_bytes: sum.ours.received,
            earned: sum.earned,
            spent: sum.spent,
            written_off: sum.written_off.saturating_sub(sum.paid_late),
        })
        .collect();
    households.sort_by(|a, b| (&a.neighbour, a.id).cmp(&(&b.neighbour, b.id)));
    households
}

#[cfg(test)]
mod tests {
    use metering::{Bytes, Counts, Tokens};

    use super::*;

    #[test]
    fn months_begin_and_end_on_their_days() {
        let month = |text: &str| Month::parse(text).map(|month| (date(month.first), date(month.end)));
        let dates = |first: &str, end: &str| Some((first.to_owned(), end.to_owned()));
        assert_eq!(month("2026-11"), dates("2026-11-01", "2026-12-01"));
        assert_eq!(month("2026-12"), dates("2026-12-01", "2027-01-01"));
        assert_eq!(month("2000-02"), dates("2000-02-01", "2000-03-01"));
        assert_eq!(Month::parse("2024-02").map(|month| month.end - month.first), Some(29));
        assert_eq!(month("1970-01"), dates("1970-01-01", "1970-02-01"));
        for wrong in
            ["", "2026", "2026-13", "2026-00", "26-11", "2026-1", "1969-12", "2026-11-01", "+026-11", "2026-1é"]
        {
            assert_eq!(month(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn days_are_added_up_for_each_neighbour_and_one_that_is_gone_keeps_its_id() {
        let [roof, barn] = [1, 2].map(|n| NodeId([n; 20]));
        let tokens = |amount| Tokens::new(amount).expect("small");
        let day = |sent, written_off, paid_late| Day {
            ours: Counts { sent: Bytes::new(sent), received: Bytes::new(1) },
            written_off: tokens(written_off),
            paid_late: tokens(paid_late),
            ..Day::default()
        };
        let lines = [(barn, day(1, 0, 0)), (roof, day(10, 9, 0)), (roof, day(20, 0, 4))];
        let names = [(roof, "roof".to_owned())].into();
        let households = households(&lines, &names, &[(roof, "peer")].into());
        let line = |at: usize| {
            let household = &households[at];
            (household.neighbour.as_str(), household.role.as_str(), household.days, household.sent_bytes.get())
        };
        let id = barn.to_string();
        assert_eq!([line(0), line(1)], [(id.as_str(), "gone", 1, 1), ("roof", "peer", 2, 30)]);
        assert_eq!(households[1].written_off, tokens(5), "some of it was paid late");
    }
}
