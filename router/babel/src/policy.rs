//! What a community decides about prices.

use crate::metric::Metric;
use crate::price::Price;
use crate::wire::Quote;
use std::num::NonZeroU32;

/// What a price weighs against a metric: `metric` units for each `per` of price. One for a whole community, or its
/// nodes would pull traffic to and fro. Equal steps of either kind may be added along a path in any order, so what is
/// best for a node is made of what is best for its neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PriceWeight {
    /// Units of metric; zero: prices do not matter.
    pub metric: u16,
    /// Units of price.
    pub per: NonZeroU32,
}

impl PriceWeight {
    /// Prices do not matter.
    pub const NONE: Self = Self { metric: 0, per: NonZeroU32::MIN };
}

/// How prices take part in choosing routes. They choose among feasible routes only and never enter a feasibility
/// distance: whatever a neighbour says of its price, true or false, it cannot make a loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The unit of all prices; quotes in another one count as unknown.
    pub price_unit: u8,
    /// What a price weighs.
    pub weight: PriceWeight,
    /// Routes that ask more are kept but not used.
    pub price_max: Price,
    /// What a route without a price counts as, such as one from a speaker that knows no prices; `None`: it is not
    /// used.
    pub unknown_price: Option<Price>,
}

impl Default for Policy {
    /// Every route may be used, and prices do not matter.
    fn default() -> Self {
        Self { price_unit: 0, weight: PriceWeight::NONE, price_max: Price::MAX, unknown_price: Some(Price::ZERO) }
    }
}

/// Metric and price in one number; the smaller the better. In parts of a unit of metric: see [`Policy::units`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Score(u64);

impl Score {
    /// How much better this one is.
    pub(crate) fn gain_over(self, other: Self) -> u64 {
        other.0.saturating_sub(self.0)
    }

    /// A part of the score: a quarter, a tenth.
    pub(crate) fn part(self, of: u64) -> u64 {
        self.0 / of
    }
}

impl Policy {
    /// The price told, if it is in our unit.
    pub(crate) fn price(&self, quote: Option<Quote>) -> Option<Price> {
        quote.filter(|quote| quote.unit == self.price_unit)?.price
    }

    /// `None`: a route that asks this is not used.
    pub(crate) fn score(&self, metric: Metric, price: Option<Price>) -> Option<Score> {
        let price = price.or(self.unknown_price).filter(|price| *price <= self.price_max)?;
        let (metric, price) = (u64::from(metric.0), u64::from(price.get()));
        Some(Score(metric * self.units(1) + price * u64::from(self.weight.metric)))
    }

    /// What so many units of metric are in a score.
    pub(crate) fn units(&self, metric: u64) -> u64 {
        metric * u64::from(self.weight.per.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_is_worth_its_weight_and_neither_a_lie_nor_the_dearest_route_overflows() {
        let weight = PriceWeight { metric: 96, per: NonZeroU32::new(1000).unwrap() };
        let policy = Policy { weight, ..Policy::default() };
        let score = |metric, price| policy.score(Metric(metric), Some(Price::new(price)));
        assert_eq!(score(96, 1000), score(192, 0), "a thousand is as bad as a hop");
        assert!(score(96, 999) < score(192, 0));
        assert_eq!(policy.score(Metric(96), None), score(96, 0));
        let heavy = PriceWeight { metric: u16::MAX, per: NonZeroU32::MAX };
        assert!(Policy { weight: heavy, ..policy }.score(Metric(65_534), Some(Price::MAX)).is_some());
    }

    #[test]
    fn what_asks_too_much_or_does_not_say_is_not_used_if_the_policy_says_so() {
        let policy = Policy { price_max: Price::new(10), unknown_price: None, ..Policy::default() };
        assert!(policy.score(Metric(1), Some(Price::new(10))).is_some());
        assert_eq!(policy.score(Metric(1), Some(Price::new(11))), None);
        assert_eq!(policy.score(Metric(1), None), None);
    }
}
