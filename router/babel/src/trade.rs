//! Links that bill by themselves: what their price means for routes, and which ways are whose.
//!
//! By default the price of a route is the sum of what each hop on the way asks. Where two neighbours have agreed on a
//! price for their link, whatever the way beyond it, that one counts instead: nobody chooses a route by a price that it
//! does not pay. [`Trade`] says what is agreed, and what follows from it is decided here and nowhere else.

use crate::price::Price;

/// Who pays on a link for what passes in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Payer {
    /// We do.
    Us {
        /// What is agreed on; before that, what is known to be asked at least: the neighbour may tell more.
        price: Price,
        /// Whether it is agreed.
        agreed: bool,
    },
    /// The neighbour does.
    Them,
    /// Nobody does.
    Nobody {
        /// What the neighbour is known to ask at least, should we become its customer.
        at_least: Price,
    },
}

/// How a link bills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Trade {
    /// Who pays.
    pub payer: Payer,
    /// Whether ways that cost money are for those who pay for them only: nobody is led through a customer or a peer to
    /// somewhere else at their expense. Without it the link's owner has said that it carries whatever comes.
    pub guarded: bool,
}

/// Where a route in use comes from, as far as trade is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// It leads out of the mesh, through whoever has a way out.
    pub(crate) is_default: bool,
    /// How the link it is used through bills; `None`: it is our own prefix, or that link's prices are paid along the way.
    pub(crate) trade: Option<Trade>,
}

impl Origin {
    /// Using it costs us money.
    fn is_paid(self) -> bool {
        matches!(self.trade, Some(Trade { payer: Payer::Us { price, .. }, .. }) if price > Price::ZERO)
    }

    /// It leads to, or through, somebody who pays nothing and is to be carried for at nobody's expense.
    const fn is_of_a_guest(self) -> bool {
        matches!(self.trade, Some(Trade { payer: Payer::Nobody { .. }, guarded: true }))
    }
}

impl Trade {
    /// What a route counts that the neighbour told with a price; `None`: it is not used.
    pub(crate) fn counted(self, told: Option<Price>, is_default: bool) -> Option<Price> {
        let told = told.unwrap_or_default();
        let free = told == Price::ZERO;
        match (self.payer, self.guarded) {
            (Payer::Us { price, agreed: true }, _) => Some(price),
            (Payer::Us { price, agreed: false }, _) => Some(told.max(price)),
            (Payer::Them, true) if free => Some(Price::ZERO),
            (Payer::Nobody { .. }, true) if free => Some(Price::ZERO),
            (Payer::Nobody { at_least }, true) if is_default => Some(told.max(at_least)),
            (Payer::Them | Payer::Nobody { .. }, true) => None,
            (Payer::Them | Payer::Nobody { .. }, false) => Some(Price::ZERO),
        }
    }

    /// What the neighbour is told about a route of that origin, where the price of the link is `fee`.
    pub(crate) fn told(self, fee: Price, origin: Origin) -> Price {
        let theirs = if self.guarded { origin.is_default || origin.is_paid() } else { self.payer == Payer::Them };
        if theirs { fee } else { Price::ZERO }
    }

    /// Whether the neighbour is told about a route of that origin at all. Whoever we pay for both directions is not told
    /// that others can be reached through us who would not pay us for it.
    pub(crate) fn shares(self, origin: Origin) -> bool {
        let pays = matches!(self.payer, Payer::Us { price, .. } if price > Price::ZERO);
        !(self.guarded && pays && (origin.is_paid() || origin.is_of_a_guest()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUARDED: bool = true;

    fn trade(payer: Payer, guarded: bool) -> Trade {
        Trade { payer, guarded }
    }

    fn us(price: u32, agreed: bool) -> Payer {
        Payer::Us { price: Price::new(price), agreed }
    }

    fn nobody(at_least: u32) -> Payer {
        Payer::Nobody { at_least: Price::new(at_least) }
    }

    fn counted(payer: Payer, guarded: bool, told: u32, is_default: bool) -> Option<u32> {
        trade(payer, guarded).counted(Some(Price::new(told)), is_default).map(Price::get)
    }

    #[test]
    fn what_is_agreed_counts_whatever_is_told_and_before_that_the_higher_of_told_and_known() {
        for guarded in [true, false] {
            assert_eq!(counted(us(30, true), guarded, 10, false), Some(30));
            assert_eq!(counted(us(30, true), guarded, 50, true), Some(30));
            assert_eq!(counted(us(30, false), guarded, 10, true), Some(30), "it asked more before");
            assert_eq!(counted(us(30, false), guarded, 50, true), Some(50));
        }
        assert_eq!(trade(us(0, false), false).counted(None, false), Some(Price::ZERO));
    }

    #[test]
    fn ways_that_cost_money_are_not_used_through_customers_nor_through_peers_but_to_become_a_customer() {
        assert_eq!(counted(Payer::Them, GUARDED, 1, true), None);
        assert_eq!(counted(Payer::Them, GUARDED, 0, false), Some(0));
        assert_eq!(counted(nobody(0), GUARDED, 1, false), None);
        assert_eq!(counted(nobody(0), GUARDED, 7, true), Some(7));
        assert_eq!(counted(nobody(9), GUARDED, 7, true), Some(9), "it bills more than it tells");
        assert_eq!(counted(nobody(9), GUARDED, 0, false), Some(0));
        for payer in [Payer::Them, nobody(9)] {
            assert_eq!(counted(payer, false, 7, false), Some(0), "the owner carries whatever comes");
        }
    }

    #[test]
    fn customers_are_told_the_price_and_others_only_of_ways_that_cost() {
        let fee = Price::new(25);
        let origin =
            |is_default, payer: Option<Payer>| Origin { is_default, trade: payer.map(|payer| trade(payer, GUARDED)) };
        let told = |payer, guarded, origin| trade(payer, guarded).told(fee, origin).get();
        for payer in [Payer::Them, nobody(0), us(1, true)] {
            assert_eq!(told(payer, GUARDED, origin(true, None)), 25, "the way out");
            assert_eq!(told(payer, GUARDED, origin(false, Some(us(1, true)))), 25, "a way that we pay for");
            assert_eq!(told(payer, GUARDED, origin(false, None)), 0, "ourselves");
            assert_eq!(told(payer, GUARDED, origin(false, Some(Payer::Them))), 0, "our customer");
        }
        assert_eq!(told(Payer::Them, false, origin(false, None)), 25);
        assert_eq!(told(us(1, true), false, origin(true, None)), 0);
        assert_eq!(told(nobody(0), false, origin(true, None)), 0);
    }

    #[test]
    fn whoever_we_pay_is_told_of_us_and_our_customers_only() {
        let origin =
            |payer: Option<Payer>| Origin { is_default: false, trade: payer.map(|payer| trade(payer, GUARDED)) };
        let shares = |payer, guarded, of| trade(payer, guarded).shares(origin(of));
        assert!(shares(us(1, true), GUARDED, None));
        assert!(shares(us(1, true), GUARDED, Some(Payer::Them)));
        assert!(!shares(us(1, true), GUARDED, Some(nobody(0))));
        assert!(!shares(us(1, true), GUARDED, Some(us(1, true))));
        assert!(shares(us(0, true), GUARDED, Some(nobody(0))), "for free, everybody reaches everybody");
        assert!(shares(us(1, true), GUARDED, Some(us(0, true))));
        for payer in [Payer::Them, nobody(0)] {
            assert!(shares(payer, GUARDED, Some(us(1, true))));
            assert!(shares(payer, GUARDED, Some(nobody(0))));
        }
        assert!(shares(us(1, true), false, Some(nobody(0))));
    }
}
