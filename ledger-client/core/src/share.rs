//! Shares of a router: who owns what it earns.
//!
//! A router's account issues a number of shares, once, and holds them all at first; from then on, what its channels pay it
//! belongs to the holders. Shares move freely, and each holder takes out what its shares have earned while it held them.
//!
//! No unit is rounded away, whoever claims when. Each unit of revenue that makes up one unit for every share is dealt out
//! at once, to all shares alike; what is left, fewer units than there are shares, waits for the next revenue. So each share
//! has earned a whole number, which is the same for all, and a holder is owed a whole number for each of its shares.

use metering::{NodeId, Tokens};
use serde::{Deserialize, Serialize};

use crate::fact::{Fact, Fields, Reader, kind};

/// The most shares a router has: what waits to be dealt out is always less than as many base units.
pub const MAX_SHARES: u64 = 1_000_000;

/// What a router's shares have earned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// How many shares there are.
    pub shares: u64,
    /// What each of them has earned in all.
    pub per_share: Tokens,
    /// What is left to be dealt out: fewer base units than there are shares.
    pub undealt: Tokens,
}

/// What one account holds of one router.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// How many shares.
    pub shares: u64,
    /// What each share had earned in all when this was written.
    pub seen: Tokens,
    /// What the account had earned by then and not taken out.
    pub owed: Tokens,
}

impl Pool {
    /// A pool that has earned nothing.
    #[must_use]
    pub const fn new(shares: u64) -> Self {
        Self { shares, per_share: Tokens::ZERO, undealt: Tokens::ZERO }
    }

    /// The pool after `revenue`, or `None` beyond what can be counted.
    #[must_use]
    pub fn after(self, revenue: Tokens) -> Option<Self> {
        let (undealt, shares) = (self.undealt.checked_add(revenue)?.get(), u128::from(self.shares));
        let per_share = self.per_share.checked_add(Tokens::new(undealt.checked_div(shares)?)?)?;
        Some(Self { per_share, undealt: Tokens::new(undealt.checked_rem(shares)?)?, ..self })
    }
}

impl Holding {
    /// The holding with all that its shares have earned since it was written, or `None` beyond what can be counted.
    #[must_use]
    pub fn up_to(self, pool: &Pool) -> Option<Self> {
        let each = pool.per_share.checked_sub(self.seen)?.get();
        let earned = Tokens::new(each.checked_mul(u128::from(self.shares))?)?;
        Some(Self { seen: pool.per_share, owed: self.owed.checked_add(earned)?, ..self })
    }
}

impl Fact for Pool {
    /// The router's account.
    type Key = NodeId;

    fn place(router: &NodeId) -> Vec<u8> {
        Fields::of(kind::POOL).account(*router).finish()
    }

    fn encode(&self) -> Vec<u8> {
        Fields::default().number(self.shares).tokens(self.per_share).tokens(self.undealt).finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        let pool = Self { shares: from.number()?, per_share: from.tokens()?, undealt: from.tokens()? };
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
        Fields::default().number(self.shares).tokens(self.seen).tokens(self.owed).finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        let holding = Self { shares: from.number()?, seen: from.tokens()?, owed: from.tokens()? };
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
    fn what_does_not_make_a_unit_for_each_share_waits_and_is_not_lost() {
        let mut story = story(7);
        gives(&mut story, bob, carol, 3);
        let nothing = Refusal::NothingToClaim;
        earns(&mut story, 6);
        assert_eq!(story.refuses(carol, Command::ClaimRevenue { router: id(bob) }), nothing);
        earns(&mut story, 7);
        assert_eq!(claims(&mut story, carol), 3);
        assert_eq!(story.refuses(carol, Command::ClaimRevenue { router: id(bob) }), nothing);
        earns(&mut story, 27);
        assert_eq!((claims(&mut story, carol), claims(&mut story, bob)), (6, 12));
        // 27 = 3 * 7 + 6: the six wait, still locked.
        assert_eq!(story.state.totals().locked, tokens(60 - 27 + 6));
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
        Claim(usize),
    }

    proptest! {
        /// Against every single share, each with an owner and every unit dealt by hand.
        #[test]
        fn every_unit_goes_where_its_share_was(
            shares in 1..60_u64,
            steps in prop::collection::vec(prop_oneof![
                (0..500_u64).prop_map(Step::Earn),
                (0..4_usize, 0..4_usize, 0..30_u64).prop_map(|(from, to, shares)| Step::Give(from, to, shares)),
                (0..4_usize).prop_map(Step::Claim),
            ], 0..80),
        ) {
            let mut pool = Pool::new(shares);
            let mut holdings = [Holding::default(); 4];
            holdings[0].shares = shares;
            let mut owners = vec![0_usize; shares as usize];
            let (mut waiting, mut dealt, mut taken) = (0, [0_u64; 4], [0_u64; 4]);
            for step in steps {
                match step {
                    Step::Earn(revenue) => {
                        pool = pool.after(tokens(revenue.into())).unwrap();
                        waiting += revenue;
                        while waiting >= shares {
                            owners.iter().for_each(|owner| dealt[*owner] += 1);
                            waiting -= shares;
                        }
                    }
                    Step::Give(from, to, number) if from != to && number <= holdings[from].shares => {
                        for holder in [from, to] {
                            holdings[holder] = holdings[holder].up_to(&pool).unwrap();
                        }
                        holdings[from].shares -= number;
                        holdings[to].shares += number;
                        owners.iter_mut().filter(|owner| **owner == from).take(number as usize).for_each(|owner| *owner = to);
                    }
                    Step::Give(..) => {}
                    Step::Claim(who) => {
                        let settled = holdings[who].up_to(&pool).unwrap();
                        taken[who] += settled.owed.get() as u64;
                        holdings[who] = Holding { owed: Tokens::ZERO, ..settled };
                    }
                }
                prop_assert_eq!(pool.undealt, tokens(waiting.into()));
                for who in 0..4 {
                    let owed = holdings[who].up_to(&pool).unwrap().owed.get() as u64;
                    prop_assert_eq!(taken[who] + owed, dealt[who]);
                }
            }
        }
    }
}
