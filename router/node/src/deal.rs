//! What a neighbour is to us, and at which price.
//!
//! The owner may say it; else it follows from the ways out of the mesh. Whoever's way out leads over a link, and costs
//! something there, becomes the customer on that link: it says so in its `Resume`, and the other end follows. Everybody
//! else is a peer, whom nothing is carried for at our expense. A way that has moved elsewhere leaves the customer one for
//! as long as settling takes, so that what it owes is paid.
//!
//! The price is the owner's, or what our own way out costs us plus a fee. It rises soon and falls slowly, since each
//! change means new terms for every customer.

use std::time::{Duration, Instant};

use babel::{Fee, Payer, Trade};
use metering::{Limits, Offer, Price, Role, Side, Terms};

use crate::datapath::Standing;

/// How long a customer whose way out has moved stays one at least: two reports.
const LINGER: Duration = Duration::from_secs(10);
/// The same at most, while it owes anything.
const LINGER_MOST: Duration = Duration::from_secs(60);
/// How long a price must have been higher before we ask it too.
const RISES_AFTER: Duration = Duration::from_secs(10);
/// The same for a lower one.
const FALLS_AFTER: Duration = Duration::from_secs(120);
/// How long it is remembered what a neighbour asked in terms while it told less with its routes: as long, it gains nothing by
/// that.
const REMEMBERED: Duration = Duration::from_secs(3600);
/// How long the two must differ for that: one who changes its price says so twice, and not at the same moment.
const DIFFERS_FOR: Duration = Duration::from_secs(5);
/// How soon a neighbour can make us something else to it again: each time costs the ledger and the journal a look.
const FOLLOWS_EACH: Duration = Duration::from_secs(1);

/// What decides what a neighbour is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deal {
    /// The owner, who carries whatever comes from there.
    Agreed(Side),
    /// Where the ways out of the mesh lead.
    ByRoutes,
}

impl Deal {
    /// What we are to a neighbour of whom nothing is known yet.
    pub(crate) const fn first_role(self) -> Role {
        match self {
            Self::Agreed(side) => side.role(),
            Self::ByRoutes => Role::Peer,
        }
    }
}

/// What we ask and pay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prices {
    /// Asked of customers; its prices only where there is no [`Prices::fee`].
    pub offer: Offer,
    /// Asked on top of what our own way out costs us.
    pub fee: Option<Price>,
    /// What we pay.
    pub limits: Limits,
}

impl Default for Prices {
    /// Nothing asked, nothing paid.
    fn default() -> Self {
        Self { offer: Offer::FREE, fee: None, limits: Limits { max_price: Price::FREE } }
    }
}

/// The price we ask, which does not follow every move of the one it depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asking {
    current: Price,
    /// Another one, and since when it is wanted.
    wanted: Option<(Price, Instant)>,
}

impl Asking {
    pub(crate) fn new(prices: &Prices) -> Self {
        Self { current: prices.fee.unwrap_or(prices.offer.price_down.max(prices.offer.price_up)), wanted: None }
    }

    pub(crate) const fn current(&self) -> Price {
        self.current
    }

    /// Our way out costs us `upstream`, if there is one. While nobody pays, nobody minds another price.
    pub(crate) fn look(&mut self, now: Instant, prices: &Prices, upstream: Option<Price>, somebody_pays: bool) {
        let (Some(fee), Some(upstream)) = (prices.fee, upstream) else {
            self.wanted = None;
            return;
        };
        let price = Price::new(upstream.get().saturating_add(fee.get()));
        if price == self.current {
            self.wanted = None;
            return;
        }
        let since = match self.wanted {
            Some((wanted, since)) if (wanted > self.current) == (price > self.current) => since,
            _ => now,
        };
        self.wanted = Some((price, since));
        let patience = if price > self.current { RISES_AFTER } else { FALLS_AFTER };
        if !somebody_pays || now >= since + patience {
            (self.current, self.wanted) = (price, None);
        }
    }
}

/// How things stand on a link when it is decided what its neighbour is to us.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Situation {
    /// Our way out leads over the link, and costs something there.
    pub(crate) needed: bool,
    /// What the neighbour takes itself for.
    pub(crate) theirs: Option<Role>,
    /// What we are at present.
    pub(crate) ours: Role,
    /// We owe something.
    pub(crate) owing: bool,
}

impl Situation {
    /// Nothing is known of the neighbour yet.
    pub(crate) const NEW: Self = Self { needed: false, theirs: None, ours: Role::Peer, owing: false };
}

/// What is remembered of one link.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Dealing {
    needed_at: Option<Instant>,
    /// What the neighbour's terms ask at present.
    asking: Option<Price>,
    /// Since when that is clearly more than it tells.
    differs_since: Option<Instant>,
    /// The most it asked while it told less, and when it last did.
    asked: Option<(Price, Instant)>,
    /// When the neighbour last made us something else to it.
    followed_at: Option<Instant>,
}

impl Dealing {
    /// What we are to be.
    pub(crate) fn side(&mut self, now: Instant, deal: Deal, prices: &Prices, ask: Price, situation: Situation) -> Side {
        let offer = || Side::Provider(offer_at(prices, ask));
        match deal {
            Deal::Agreed(Side::Provider(_)) if prices.fee.is_some() => return offer(),
            Deal::Agreed(side) => return side,
            Deal::ByRoutes => {}
        }
        if situation.needed {
            self.needed_at = Some(now);
        }
        let customer = situation.theirs == Some(Role::Subscriber);
        if situation.needed || situation.ours == Role::Subscriber && !customer && self.lingers(now, situation.owing) {
            return Side::Subscriber(prices.limits);
        }
        let follows = if customer { Role::Provider } else { Role::Peer };
        let lately = self.followed_at.is_some_and(|at| now < at + FOLLOWS_EACH);
        if follows != situation.ours && !lately {
            self.followed_at = Some(now);
        }
        match if lately { situation.ours } else { follows } {
            Role::Provider => offer(),
            Role::Peer => Side::Peer,
            Role::Subscriber => Side::Subscriber(prices.limits),
        }
    }

    fn lingers(&self, now: Instant, owing: bool) -> bool {
        let most = if owing { LINGER_MOST } else { LINGER };
        self.needed_at.is_some_and(|at| now < at + most)
    }

    /// Takes note of what the neighbour's terms ask, accepted or not, and of what it tells with its way out.
    pub(crate) fn note_asked(&mut self, now: Instant, asked: Option<Price>, told: Option<babel::Price>) {
        self.asking = asked;
        self.asked = self.asked.filter(|(_, at)| now < *at + REMEMBERED);
        let lie = asked.zip(told).filter(|(asked, told)| {
            let told = u64::from(told.get());
            asked.get() > told.saturating_add(told / 8)
        });
        let Some((asked, _)) = lie else {
            self.differs_since = None;
            return;
        };
        if now >= *self.differs_since.get_or_insert(now) + DIFFERS_FOR {
            let most = self.asked.map_or(asked, |(known, _)| known.max(asked));
            self.asked = Some((most, now));
        }
    }

    /// How routing is to see the link.
    pub(crate) fn trade(&self, deal: Deal, ours: Role, agreed: Option<&Terms>) -> Trade {
        let known = self.asked.map(|(price, _)| price).max(self.asking);
        let at_least = known.map_or(babel::Price::ZERO, in_routing);
        let payer = match (ours, agreed) {
            (Role::Subscriber, Some(terms)) => Payer::Us { price: in_routing(dearer(terms)), agreed: true },
            (Role::Subscriber, None) => Payer::Us { price: at_least, agreed: false },
            (Role::Provider, _) => Payer::Them,
            (Role::Peer, _) => Payer::Nobody { at_least },
        };
        Trade { payer, guarded: deal == Deal::ByRoutes }
    }
}

/// What the neighbour is told that it pays, or would pay as a customer.
pub(crate) fn fee(deal: Deal, side: Side, ask: Price) -> Fee {
    let price = match (deal, side) {
        (Deal::ByRoutes, _) => ask,
        (Deal::Agreed(_), Side::Provider(offer)) => offer.price_up.max(offer.price_down),
        (Deal::Agreed(_), Side::Subscriber(_) | Side::Peer) => Price::FREE,
    };
    Fee { price: in_routing(price), epoch: 0 }
}

/// What passes to and from the neighbour.
pub(crate) fn standing(deal: Deal, trade: Trade, ask: Price) -> Standing {
    match (deal, trade.payer) {
        (Deal::Agreed(_), _) => Standing::Partner,
        (Deal::ByRoutes, Payer::Us { price, agreed }) if price > babel::Price::ZERO || !agreed => Standing::Provider,
        (Deal::ByRoutes, Payer::Nobody { .. }) if ask > Price::FREE => Standing::Guest,
        (Deal::ByRoutes, Payer::Us { .. } | Payer::Them | Payer::Nobody { .. }) => Standing::Partner,
    }
}

pub(crate) fn dearer(terms: &Terms) -> Price {
    terms.price_up.max(terms.price_down)
}

fn offer_at(prices: &Prices, ask: Price) -> Offer {
    if prices.fee.is_some() { Offer { price_up: ask, price_down: ask, ..prices.offer } } else { prices.offer }
}

/// In Babel, the highest price stands for all that are higher.
fn in_routing(price: Price) -> babel::Price {
    babel::Price::new(u32::try_from(price.get()).unwrap_or(u32::MAX))
}
