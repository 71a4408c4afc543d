//! Shares of a router: who owns what it earns.
//!
//! A router's account issues a number of shares, once, and holds them all at first; from then on, what its channels pay it
//! belongs to the holders. Shares move freely, and each holder takes out what its shares have earned while it held them.
//!
//! No unit is rounded away and none is stuck, whoever claims when. A unit of revenue is as many parts as there are shares,
//! and each share earns one part of it: so what a holder's shares have earned is counted exactly. A holder takes out whole
//! units. What it has beyond them, always less than one, stays with its shares: who gives its last share away gives it too.
//! So who holds all shares takes out all that nobody else is owed, to the last unit.

use metering::{NodeId, Tokens};
use serde::{Deserialize, Serialize};

use crate::fact::{Fact, Fields, Reader, kind};

/// The most shares a router has. So few that parts are counted in 128 bits whatever it earns: 2^20 shares of 2^96 units.
/// However many there are, and however few decimals the token has, a holder waits for less than one base unit.
pub const MAX_SHARES: u64 = 1_000_000;

/// What a router's shares have earned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// How many shares there are, and so how many parts make a unit.
    pub shares: u64,
    /// All that the router has earned since it issued them, and so how many parts each share has.
    pub earned: Tokens,
}

/// What one account holds of one router.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// How many shares.
    pub shares: u64,
    /// What the router had earned when this was written.
    pub seen: Tokens,
    /// What the account had earned by then and not taken out, in whole units.
    pub owed: Tokens,
    /// What it had earned beyond that, in parts: fewer than make a unit.
    pub parts: u64,
}

impl Pool {
    /// A pool that has earned nothing.
    #[must_use]
    pub const fn new(shares: u64) -> Self {
        Self { shares, earned: Tokens::ZERO }
    }

    /// The pool after `revenue`, or `None` beyond what can be counted.
    #[must_use]
    pub fn after(self, revenue: Tokens) -> Option<Self> {
        Some(Self { earned: self.earned.checked_add(revenue)?, ..self })
    }
}

impl Holding {
    /// The holding with all that its shares have earned since it was written, or `None` beyond what can be counted.
    #[must_use]
    pub fn up_to(self, pool: &Pool) -> Option<Self> {
        let each = pool.earned.checked_sub(self.seen)?.get();
        Self { seen: pool.earned, ..self }.with_parts(each.checked_mul(u128::from(self.shares))?, pool)
    }

    /// What is left of the holding, and what the taker's becomes, when it gives shares of the pool away; both have all that
    /// they have earned so far. `None` where it has fewer.
    #[must_use]
    pub fn give(self, taker: Self, shares: u64, pool: &Pool) -> Option<(Self, Self)> {
        let left = self.shares.checked_sub(shares)?;
        let taker = Self { shares: taker.shares.checked_add(shares)?, ..taker };
        if left > 0 {
            return Some((Self { shares: left, ..self }, taker));
        }
        Some((Self { shares: 0, parts: 0, ..self }, taker.with_parts(self.parts.into(), pool)?))
    }

    fn with_parts(self, parts: u128, pool: &Pool) -> Option<Self> {
        let (parts, unit) = (parts.checked_add(self.parts.into())?, u128::from(pool.shares));
        let owed = self.owed.checked_add(Tokens::new(parts.checked_div(unit)?)?)?;
        Some(Self { owed, parts: parts.checked_rem(unit)?.try_into().ok()?, ..self })
    }
}

impl Fact for Pool {
    /// The router's account.
    type Key = NodeId;

    fn place(router: &NodeId) -> Vec<u8> {
        Fields::of(kind::POOL).account(*router).finish()
    }

    fn encode(&self) -> Vec<u8> {
        Fields::default().number(self.shares).tokens(self.earned).finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        let pool = Self { shares: from.number()?, earned: from.tokens()? };
        from.end(pool)
    }
}

impl Fact for Holding {
    /// The router's account and the holder's.
    type Key = (NodeId, NodeId);

    fn place((router, holder): &(NodeId, NodeId)) -> Vec<u8> {
        Fields::of(kind::HOLDING).account(*router).account(*holder).finish()
    }

    fn encode(&self) -> Vec<u8> {
        Fields::default().number(self.shares).tokens(self.seen).tokens(self.owed).number(self.parts).finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        let (shares, seen) = (from.number()?, from.tokens()?);
        let holding = Self { shares, seen, owed: from.tokens()?, parts: from.number()? };
        from.end(holding)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::story::{Story, Who, alice, bob, carol, id, tokens};
    use crate::{Command, Event, Records, Refusal};

    /// Bob is the router, which Alice pays; he has issued shares.
    fn story(shares: u64) -> Story {
        let mut story = Story::with_channel();
        story.joins(bob);
        story.does(bob, Command::IssueShares { shares });
        story
    }

    fn earns(story: &mut Story, total: u128) {
        let receipt = story.receipt(total);
        story.makes(receipt);
    }

    fn gives(story: &mut Story, from: Who, to: Who, shares: u64) {
        story.does(from, Command::TransferShares { router: id(bob), to: id(to), shares });
    }

    fn claims(story: &mut Story, who: Who) -> u128 {
        let claimed = story.does(who, Command::ClaimRevenue { router: id(bob) });
        let Event::RevenueClaimed { amount, .. } = claimed else { panic!("{claimed:?}") };
        amount.get()
    }

    #[test]
    fn what_a_router_earns_is_its_share_holders() {
        let mut story = story(10);
        gives(&mut story, bob, alice, 3);
        gives(&mut story, bob, carol, 2);
        earns(&mut story, 40);
        assert_eq!((story.holds(id(bob)), story.state.totals().locked), (0, tokens(60)));
        assert_eq!([bob, alice, carol].map(|who: Who| claims(&mut story, who)), [20, 12, 8]);
        assert_eq!([bob, alice, carol].map(|who: Who| story.holds(id(who))), [20, 52, 8]);
    }

    #[test]
    fn what_does_not_make_a_unit_waits_and_is_not_lost() {
        let mut story = story(7);
        gives(&mut story, bob, carol, 3);
        let nothing = Refusal::NothingToClaim;
        // Three sevenths of two, and then of nine and a bit.
        earns(&mut story, 2);
        assert_eq!(story.refuses(carol, Command::ClaimRevenue { router: id(bob) }), nothing);
        assert_eq!(claims(&mut story, bob), 1);
        earns(&mut story, 10);
        assert_eq!((claims(&mut story, carol), claims(&mut story, bob)), (4, 4));
        assert_eq!(story.refuses(carol, Command::ClaimRevenue { router: id(bob) }), nothing);
        // 30 sevenths and 40 make 10: the two sevenths and the five that wait are one unit, still locked.
        assert_eq!(story.state.totals().locked, tokens(60 - 10 + 1));
        earns(&mut story, 14);
        assert_eq!((claims(&mut story, carol), claims(&mut story, bob)), (2, 3));
        assert_eq!(story.state.totals().locked, tokens(60 - 14));
    }

    #[test]
    fn who_holds_all_shares_takes_out_all_to_the_last_unit() {
        let mut story = story(1_000_000);
        earns(&mut story, 1);
        assert_eq!(claims(&mut story, bob), 1);
        for (who, shares) in [(carol as Who, 333_333), (alice, 500_000)] {
            gives(&mut story, bob, who, shares);
        }
        earns(&mut story, 8);
        assert_eq!((claims(&mut story, carol), claims(&mut story, alice)), (2, 3));
        for (who, shares) in [(alice as Who, 500_000), (bob, 166_667)] {
            gives(&mut story, who, carol, shares);
        }
        // A whole unit is the giver's, and the rest of one went along with its last share.
        assert_eq!((claims(&mut story, bob), claims(&mut story, carol)), (1, 1));
        assert_eq!(story.state.totals().locked, tokens(60 - 8));
    }

    #[test]
    fn who_keeps_a_share_keeps_its_part_of_a_unit() {
        let mut story = story(4);
        gives(&mut story, bob, carol, 2);
        earns(&mut story, 1);
        gives(&mut story, carol, alice, 1);
        earns(&mut story, 3);
        assert_eq!((claims(&mut story, carol), claims(&mut story, bob)), (1, 1));
        let nothing = Refusal::NothingToClaim;
        assert_eq!(story.refuses(alice, Command::ClaimRevenue { router: id(bob) }), nothing);
    }

    #[test]
    fn who_sells_keeps_what_was_earned_and_who_buys_has_what_comes() {
        let mut story = story(4);
        earns(&mut story, 8);
        gives(&mut story, bob, carol, 4);
        earns(&mut story, 20);
        assert_eq!((claims(&mut story, bob), claims(&mut story, carol)), (8, 12));
        gives(&mut story, carol, bob, 1);
        gives(&mut story, carol, alice, 3);
        earns(&mut story, 24);
        assert_eq!((claims(&mut story, bob), claims(&mut story, alice)), (1, 3));
    }

    #[test]
    fn revenue_of_a_close_by_agreement_is_the_share_holders_too() {
        let mut story = story(2);
        gives(&mut story, bob, carol, 1);
        story.does(bob, story.close(10));
        assert_eq!((story.holds(id(bob)), claims(&mut story, carol), claims(&mut story, bob)), (0, 5, 5));
    }

    #[test]
    fn router_without_shares_earns_for_itself_and_keeps_what_it_has() {
        let mut story = Story::with_channel();
        earns(&mut story, 10);
        story.joins(bob);
        story.does(bob, Command::IssueShares { shares: 2 });
        gives(&mut story, bob, carol, 2);
        assert_eq!(story.holds(id(bob)), 10);
        // What is given to it is its own, and no revenue.
        story.does(alice, Command::Transfer { to: id(bob), amount: tokens(5) });
        assert_eq!(story.holds(id(bob)), 15);
        assert_eq!(story.refuses(carol, Command::ClaimRevenue { router: id(bob) }), Refusal::NothingToClaim);
    }

    #[test]
    fn shares_are_issued_once_and_nobody_gives_more_than_they_hold() {
        let mut story = Story::with_channel();
        let (router, shares) = (id(bob), MAX_SHARES + 1);
        let none = Refusal::UnknownShares;
        assert_eq!(story.refuses(bob, Command::TransferShares { router, to: id(carol), shares: 1 }), none);
        assert_eq!(story.refuses(bob, Command::ClaimRevenue { router }), none);
        assert_eq!(story.refuses(bob, Command::IssueShares { shares: 5 }), Refusal::NoStanding { account: router });
        story.joins(bob);
        assert_eq!(story.refuses(bob, Command::IssueShares { shares }), Refusal::TooManyShares { shares });
        assert_eq!(story.refuses(bob, Command::IssueShares { shares: 0 }), Refusal::AmountIsZero);
        story.does(bob, Command::IssueShares { shares: 5 });
        assert_eq!(story.refuses(bob, Command::IssueShares { shares: 5 }), Refusal::SharesAlreadyIssued);
        let transfer = |shares, to: Who| Command::TransferShares { router, to: id(to), shares };
        let insufficient = |held, shares| Refusal::InsufficientShares { held, shares };
        assert_eq!(story.refuses(bob, transfer(6, carol)), insufficient(5, 6));
        assert_eq!(story.refuses(carol, transfer(1, bob)), insufficient(0, 1));
        assert_eq!(story.refuses(bob, transfer(0, carol)), Refusal::AmountIsZero);
        assert_eq!(story.refuses(bob, transfer(1, bob)), Refusal::SameAccount { account: id(bob) });
        gives(&mut story, bob, carol, 5);
        assert_eq!(story.refuses(bob, transfer(1, carol)), insufficient(0, 1));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Earn(u64),
        Give(usize, usize, u64),
        GiveAll(usize, usize),
        Claim(usize),
    }

    proptest! {
        /// Against every single share, each with an owner who gets a part of every unit by hand.
        #[test]
        fn no_unit_is_lost_or_made_and_who_ends_up_with_all_shares_leaves_nothing(
            shares in 1..60_u64,
            steps in prop::collection::vec(prop_oneof![
                (0..500_u64).prop_map(Step::Earn),
                (0..4_usize, 0..4_usize, 0..30_u64).prop_map(|(from, to, shares)| Step::Give(from, to, shares)),
                (0..4_usize, 0..4_usize).prop_map(|(from, to)| Step::GiveAll(from, to)),
                (0..4_usize).prop_map(Step::Claim),
            ], 0..80),
            last in 0..4_usize,
        ) {
            let mut hands = Hands::new(shares);
            for step in steps {
                hands.take(step);
            }
            (0..4).for_each(|from| hands.take(Step::GiveAll(from, last)));
            (0..4).for_each(|who| hands.take(Step::Claim(who)));
            prop_assert_eq!(hands.taken.iter().sum::<u64>(), hands.earned);
        }
    }

    /// A router's shares among four holders, as the rules keep them and once more by hand.
    struct Hands {
        pool: Pool,
        holdings: [Holding; 4],
        owners: Vec<usize>,
        /// What each has beyond whole units, and in all, in parts.
        parts: [u64; 4],
        taken: [u64; 4],
        earned: u64,
    }

    impl Hands {
        fn new(shares: u64) -> Self {
            let mut holdings = [Holding::default(); 4];
            holdings[0].shares = shares;
            let owners = vec![0; shares as usize];
            Self { pool: Pool::new(shares), holdings, owners, parts: [0; 4], taken: [0; 4], earned: 0 }
        }

        fn take(&mut self, step: Step) {
            let held = |hands: &Self, who| hands.owners.iter().filter(|owner| **owner == who).count() as u64;
            match step {
                Step::Earn(revenue) => {
                    self.pool = self.pool.after(tokens(revenue.into())).unwrap();
                    self.earned += revenue;
                    self.owners.iter().for_each(|owner| self.parts[*owner] += revenue);
                }
                Step::GiveAll(from, to) => self.take(Step::Give(from, to, held(self, from))),
                Step::Give(from, to, number) if from != to && number > 0 && number <= held(self, from) => {
                    let [giver, taker] = [from, to].map(|who| self.holdings[who].up_to(&self.pool).unwrap());
                    let (giver, taker) = giver.give(taker, number, &self.pool).unwrap();
                    (self.holdings[from], self.holdings[to]) = (giver, taker);
                    let given = self.owners.iter_mut().filter(|owner| **owner == from).take(number as usize);
                    given.for_each(|owner| *owner = to);
                    if held(self, from) == 0 {
                        let rest = self.parts[from] % self.pool.shares;
                        self.parts[from] -= rest;
                        self.parts[to] += rest;
                    }
                }
                Step::Give(_, _, number) => {
                    let [giver, taker] = [Holding::default(); 2];
                    assert!(number == 0 || giver.give(taker, number, &self.pool).is_none());
                }
                Step::Claim(who) => {
                    let settled = self.holdings[who].up_to(&self.pool).unwrap();
                    let units = settled.owed.get() as u64;
                    self.taken[who] += units;
                    self.parts[who] -= units * self.pool.shares;
                    self.holdings[who] = Holding { owed: Tokens::ZERO, ..settled };
                }
            }
            for who in 0..4 {
                let settled = self.holdings[who].up_to(&self.pool).unwrap();
                assert_eq!(settled.shares, held(self, who));
                assert_eq!(settled.owed.get() as u64 * self.pool.shares + settled.parts, self.parts[who]);
                assert!(settled.parts < self.pool.shares);
            }
        }
    }

    #[test]
    fn most_shares_that_earn_the_most_are_counted() {
        let pool = Pool::new(MAX_SHARES).after(Tokens::MAX).unwrap();
        let all = Holding { shares: MAX_SHARES, ..Holding::default() }.up_to(&pool).unwrap();
        assert_eq!((all.owed, all.parts), (Tokens::MAX, 0));
        let one = Holding { shares: 1, ..Holding::default() }.up_to(&pool).unwrap();
        assert_eq!(one.owed.get() * u128::from(MAX_SHARES) + u128::from(one.parts), Tokens::MAX.get());
        assert_eq!(pool.after(tokens(1)), None);
    }
}
