//! What may be spent: a sum for each day and one for each month, UTC. When it is used, ways that cost money are not taken
//! until the next day or month begins; what was carried before that is paid.

use metering::{SortedMap, Tokens};

use super::history::{DAYS_KEPT, civil};

/// The owner's limits; `None`: there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BudgetLimits {
    /// In a day.
    pub day: Option<Tokens>,
    /// In a month.
    pub month: Option<Tokens>,
}

/// What a span of time has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Span {
    Day,
    Month,
}

/// What the owner is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Four fifths are used.
    Low(Span),
    /// All is used.
    Used(Span),
    /// There is something again.
    Renewed,
}

/// Days that are kept: as many as the journal keeps of one neighbour.
const DAYS_MAX: usize = DAYS_KEPT as usize;

/// What was spent, and whether more may be.
#[derive(Debug)]
pub(super) struct Budget {
    limits: BudgetLimits,
    /// Other days, and what each came to: a clock that is set may lead to another month.
    earlier: SortedMap<u32, Tokens>,
    today: (u32, Tokens),
    told: Option<News>,
}

impl Budget {
    /// Goes on from what other days came to.
    pub(super) fn new(limits: BudgetLimits, today: u32, days: impl Iterator<Item = (u32, Tokens)>) -> Self {
        let mut earlier = SortedMap::new();
        for (day, spent) in days.filter(|(day, _)| *day != today) {
            let sum: &mut Tokens = earlier.entry(day).or_default();
            *sum = sum.saturating_add(spent);
        }
        Self { limits, earlier, today: (today, Tokens::ZERO), told: None }
    }

    /// The owner has other limits, for which what was spent until now counts.
    pub(super) const fn set(&mut self, limits: BudgetLimits) {
        self.limits = limits;
    }

    /// This day has come to so much, what is owed included. What is new about it; and whether ways that cost money may be
    /// taken is what [`Budget::allows`] says from here on.
    pub(super) fn look(&mut self, today: u32, spent: Tokens) -> Option<News> {
        if today != self.today.0 {
            let (day, spent) = self.today;
            self.earlier.insert(day, spent);
            self.earlier.remove(&today);
            while self.earlier.len() > DAYS_MAX {
                self.earlier.pop_first();
            }
        }
        self.today = (today, spent);
        let news = self.state();
        if news == self.told {
            return None;
        }
        let renewed = matches!(self.told, Some(News::Used(_))) && !matches!(news, Some(News::Used(_)));
        self.told = news;
        if renewed { Some(News::Renewed) } else { news }
    }

    /// Whether ways that cost money may be taken.
    pub(super) const fn allows(&self) -> bool {
        !matches!(self.told, Some(News::Used(_)))
    }

    /// What was spent in a span, and the limit, if there is one.
    pub(super) fn of(&self, span: Span) -> (Tokens, Option<Tokens>) {
        let today = self.today.1;
        match span {
            Span::Day => (today, self.limits.day),
            Span::Month => {
                let this = self.earlier.iter().filter(|(day, _)| month(**day) == month(self.today.0));
                (this.fold(today, |sum, (_, spent)| sum.saturating_add(*spent)), self.limits.month)
            }
        }
    }

    fn state(&self) -> Option<News> {
        let used = |span, fifths: u128| {
            let (spent, limit) = self.of(span);
            limit.is_some_and(|limit| spent.get() * 5 >= limit.get() * fifths).then_some(span)
        };
        let any = |fifths| used(Span::Month, fifths).or_else(|| used(Span::Day, fifths));
        any(5).map(News::Used).or_else(|| any(4).map(News::Low))
    }
}

/// The year and month of a day since 1970-01-01.
fn month(day: u32) -> (u64, u64) {
    let (year, month, _) = civil(day);
    (year, month)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(amount: u128) -> Tokens {
        Tokens::new(amount).unwrap()
    }

    /// 2026-11-26.
    const TODAY: u32 = 20_783;

    fn budget(day: Option<u128>, month: Option<u128>, days: &[(u32, u128)]) -> Budget {
        let limits = BudgetLimits { day: day.map(tokens), month: month.map(tokens) };
        Budget::new(limits, TODAY, days.iter().map(|(day, spent)| (*day, tokens(*spent))))
    }

    #[test]
    fn other_limits_count_from_what_was_spent() {
        let limits = |day| BudgetLimits { day, month: None };
        let mut budget = Budget::new(limits(Some(tokens(100))), 20_000, std::iter::empty());
        assert_eq!(budget.look(20_000, tokens(100)), Some(News::Used(Span::Day)));
        budget.set(limits(Some(tokens(200))));
        assert_eq!((budget.look(20_000, tokens(100)), budget.allows()), (Some(News::Renewed), true));
        budget.set(limits(Some(tokens(50))));
        assert_eq!((budget.look(20_000, tokens(100)), budget.allows()), (Some(News::Used(Span::Day)), false));
        budget.set(limits(None));
        assert_eq!((budget.look(20_000, tokens(100)), budget.allows()), (Some(News::Renewed), true));
        // What is spent without a limit counts for one that comes later.
        assert_eq!(budget.look(20_001, tokens(30)), None);
        budget.set(BudgetLimits { day: None, month: Some(tokens(130)) });
        assert_eq!(budget.look(20_001, tokens(30)), Some(News::Used(Span::Month)));
    }

    /// Computed with Python's `datetime`.
    #[test]
    fn months_are_those_of_the_calendar() {
        let same = |a: u32, b: u32| month(a) == month(b);
        assert_eq!(month(0), (1970, 1));
        assert!(same(TODAY, TODAY - 25) && !same(TODAY, TODAY - 26), "November begins at 20758");
        assert!(same(TODAY, TODAY + 4) && !same(TODAY, TODAY + 5));
        assert_eq!(month(19_782), (2024, 2), "2024-02-29");
        assert_eq!(month(19_783), (2024, 3));
        assert_eq!(month(47_540), (2100, 2), "2100-02-28");
        assert_eq!(month(47_541), (2100, 3), "no leap year");
    }

    #[test]
    fn a_day_s_budget_warns_is_used_and_is_there_again_the_next_day() {
        let mut budget = budget(Some(100), None, &[]);
        assert_eq!(budget.look(TODAY, tokens(79)), None);
        assert_eq!(budget.look(TODAY, tokens(80)), Some(News::Low(Span::Day)));
        assert_eq!(budget.look(TODAY, tokens(99)), None);
        assert!(budget.allows());
        assert_eq!(budget.look(TODAY, tokens(100)), Some(News::Used(Span::Day)));
        assert_eq!(budget.look(TODAY, tokens(107)), None);
        assert!(!budget.allows());
        assert_eq!(budget.look(TODAY + 1, tokens(0)), Some(News::Renewed));
        assert!(budget.allows());
    }

    #[test]
    fn a_month_s_budget_counts_its_days_and_not_those_of_others() {
        let days = [(TODAY - 26, 1000), (TODAY - 25, 30), (TODAY - 1, 20), (TODAY - 1, 25), (TODAY, 5000)];
        let mut budget = budget(Some(100), Some(100), &days);
        assert_eq!(budget.look(TODAY, tokens(4)), None);
        assert_eq!(budget.of(Span::Month), (tokens(79), Some(tokens(100))));
        assert_eq!(budget.look(TODAY, tokens(10)), Some(News::Low(Span::Month)));
        assert_eq!(budget.look(TODAY, tokens(25)), Some(News::Used(Span::Month)));
        assert_eq!(budget.look(TODAY + 4, tokens(0)), None, "it is still November");
        assert!(!budget.allows());
        assert_eq!(budget.look(TODAY + 5, tokens(0)), Some(News::Renewed));
        assert_eq!(budget.of(Span::Month), (Tokens::ZERO, Some(tokens(100))));
    }

    /// A router without a clock chip wakes in another month, and is told the time later.
    #[test]
    fn a_clock_that_is_set_to_another_day_or_month_and_back_forgets_nothing_and_counts_nothing_twice() {
        let days = [(TODAY - 41, 5), (TODAY - 40, 95), (TODAY - 1, 30)];
        let mut budget = budget(None, Some(100), &days);
        let month = |budget: &Budget| budget.of(Span::Month).0;
        budget.look(TODAY, tokens(20));
        assert_eq!(month(&budget), tokens(50));
        // October, where it goes on from what that month had come to; then the day before, which is looked at again.
        assert_eq!(budget.look(TODAY - 40, tokens(90)), Some(News::Low(Span::Month)));
        assert_eq!(month(&budget), tokens(95));
        budget.look(TODAY - 1, tokens(31));
        assert_eq!(month(&budget), tokens(51), "30 of it were known before");
        budget.look(TODAY, tokens(20));
        assert_eq!(month(&budget), tokens(51), "today once");
        assert_eq!(budget.look(TODAY, tokens(69)), Some(News::Used(Span::Month)));
        assert!(!budget.allows());
        assert_eq!(budget.look(TODAY - 40, tokens(0)), Some(News::Renewed), "all of it fell on that day");
        for day in 0..4 * u32::try_from(DAYS_MAX).unwrap() {
            budget.look(TODAY + day, tokens(1));
        }
        assert!(budget.earlier.len() <= DAYS_MAX);
    }

    #[test]
    fn nothing_is_spent_where_the_budget_is_nothing_and_everything_where_there_is_none() {
        let mut nothing = budget(Some(0), None, &[]);
        nothing.look(TODAY, Tokens::ZERO);
        assert!(!nothing.allows());
        let mut everything = budget(None, None, &[]);
        assert_eq!(everything.look(TODAY, Tokens::MAX), None);
        assert!(everything.allows());
    }
}
