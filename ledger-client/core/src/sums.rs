//! Where all tokens are, added up from every record anew.

use std::collections::BTreeMap;

use metering::{NodeId, Tokens};

use crate::fact::{Fact, Reader, kind};
use crate::share::{Holding, Pool};
use crate::voucher::Voucher;
use crate::{Channel, Totals};

/// What the records of a ledger add up to, to be compared with its running [`Totals`]: every balance, channel and fact is
/// added once, the facts in the order of their places. A ledger has fewer than 2^64 of each, and each is below 2^63, so no
/// sum is too large.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    held: u128,
    locked: u128,
    /// Routers with shares, and what their holders have earned beyond whole units, in parts.
    pools: BTreeMap<NodeId, (Pool, u128)>,
}

impl Sums {
    /// Adds what an account holds.
    pub fn add_balance(&mut self, balance: Tokens) {
        self.held = self.held.saturating_add(balance.get());
    }

    /// Adds what is in a channel.
    pub fn add_channel(&mut self, channel: &Channel) {
        self.locked = self.locked.saturating_add(channel.locked().get());
    }

    /// Adds what is locked by a fact, if it is one that locks something. `None` where it does not read.
    #[must_use]
    pub fn add_fact(&mut self, place: &[u8], value: &[u8]) -> Option<()> {
        let mut place = Reader(place);
        match place.byte()? {
            kind::VOUCHER => {
                let voucher = Voucher::decode(value)?;
                let left = if voucher.spent { Tokens::ZERO } else { voucher.amount };
                self.locked = self.locked.saturating_add(left.get());
            }
            // Its place is before those of its holdings.
            kind::POOL => drop(self.pools.insert(place.account()?, (Pool::decode(value)?, 0))),
            kind::HOLDING => {
                let (pool, parts) = self.pools.get_mut(&place.account()?)?;
                let settled = Holding::decode(value)?.up_to(pool)?;
                *parts = parts.saturating_add(settled.parts.into());
                self.locked = self.locked.saturating_add(settled.owed.get());
            }
            _ => {}
        }
        Some(())
    }

    /// Whether this is what the running totals say, once all is added.
    #[must_use]
    pub fn fit(&self, totals: &Totals) -> bool {
        // The parts of all of a router's holders make whole units, for it has earned whole units.
        let undrawn = self.pools.values().try_fold(self.locked, |sum, (pool, parts)| {
            let shares = u128::from(pool.shares);
            (parts.checked_rem(shares)? == 0).then_some(sum.saturating_add(parts.checked_div(shares)?))
        });
        (self.held, undrawn) == (totals.held.get(), Some(totals.locked.get()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::story::{Story, alice, bob, carol, id, tokens};
    use crate::{Command, Records, UnixTime};

    fn sums(story: &Story) -> Sums {
        let mut sums = Sums::default();
        story.state.balances().values().for_each(|balance| sums.add_balance(*balance));
        story.state.channels().values().for_each(|channel| sums.add_channel(channel));
        story.state.facts().iter().for_each(|(place, value)| sums.add_fact(place, value).unwrap());
        sums
    }

    #[test]
    fn records_add_up_to_the_running_totals() {
        let mut story = Story::with_channel();
        story.joins(bob);
        story.does(bob, Command::IssueShares { shares: 7 });
        story.does(bob, Command::TransferShares { router: id(bob), to: id(carol), shares: 3 });
        let (voucher, until) = (carol().node_id(), UnixTime::from_seconds(2000));
        story.does(alice, Command::IssueVoucher { voucher, amount: tokens(5), until });
        for total in [2, 12, 13, 40] {
            let receipt = story.receipt(total);
            story.makes(receipt);
            assert!(sums(&story).fit(&story.state.totals()), "{total}");
        }
        story.does(carol, Command::ClaimRevenue { router: id(bob) });
        let totals = story.state.totals();
        assert!(sums(&story).fit(&totals));
        assert!(!sums(&story).fit(&Totals { held: tokens(1), ..totals }));
        assert!(!sums(&story).fit(&Totals { locked: tokens(1), ..totals }));
    }
}
