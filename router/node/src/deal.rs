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

    /// The owner has other prices: what is asked changes with them at once. `upstream`: what our way out costs us, if there is
    /// one; without, what it did is still counted.
    pub(crate) fn follow(&mut self, now: Instant, old: &Prices, new: &Prices, upstream: Option<Price>) {
        let before = self.current.get();
        *self = Self::new(new);
        if let (Some(old), Some(new)) = (old.fee, new.fee) {
            self.current = Price::new(before.saturating_sub(old.get()).saturating_add(new.get()));
        }
        self.look(now, new, upstream, false);
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

#[cfg(test)]
mod tests {
    use metering::{Bytes, NodeId};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A link that follows the ways out, and the clock.
    struct Story {
        now: Instant,
        dealing: Dealing,
        ours: Role,
    }

    /// Asks 7, and 2 more than its own way out costs.
    fn prices() -> Prices {
        let offer = Offer { price_up: Price::new(7), price_down: Price::new(7), ..Offer::FREE };
        Prices { offer, fee: Some(Price::new(2)), limits: Limits { max_price: Price::new(1000) } }
    }

    impl Story {
        #[expect(clippy::disallowed_methods, reason = "an Instant has no other origin")]
        fn new() -> Self {
            Self { now: Instant::now(), dealing: Dealing::default(), ours: Role::Peer }
        }

        fn after(&mut self, pause: Duration) -> &mut Self {
            self.now += pause;
            self
        }

        /// What we become where our way out leads over the link or not, where the neighbour takes itself for something, and
        /// where we owe something or not.
        fn becomes(&mut self, needed: bool, theirs: Option<Role>, owing: bool) -> Role {
            let situation = Situation { needed, theirs, ours: self.ours, owing };
            let side = self.dealing.side(self.now, Deal::ByRoutes, &prices(), Price::new(12), situation);
            if let Side::Provider(offer) = side {
                assert_eq!(
                    (offer.price_up, offer.price_down),
                    (Price::new(12), Price::new(12)),
                    "what it asks at present"
                );
            }
            self.ours = side.role();
            self.ours
        }

        /// The neighbour asks so much in terms, and tells so much with its routes.
        fn hears(&mut self, asked: Option<u64>, told: u32) {
            self.dealing.note_asked(self.now, asked.map(Price::new), Some(babel::Price::new(told)));
        }

        /// What a peer counts its way out at, at least.
        fn at_least(&self) -> u32 {
            let payer = self.dealing.trade(Deal::ByRoutes, Role::Peer, None).payer;
            let Payer::Nobody { at_least } = payer else { panic!("{payer:?}") };
            at_least.get()
        }
    }

    fn agreed(up: u64, down: u64) -> Terms {
        Terms {
            peers: false,
            provider: NodeId([1; 20]),
            payer: NodeId([2; 20]),
            price_up: Price::new(up),
            price_down: Price::new(down),
            window: Bytes::from_mebibytes(1),
            loss_allowance_ppm: 0,
            seq: 1,
        }
    }

    #[test]
    fn what_is_asked_follows_the_owner_at_once() {
        let now = Story::new().now;
        let fee = |fee| Prices { fee: Some(Price::new(fee)), ..Prices::default() };
        let offer = Offer { price_up: Price::new(7), price_down: Price::new(7), ..Offer::FREE };
        let fixed = Prices { offer, ..Prices::default() };
        let mut asking = Asking::new(&fee(5));
        asking.look(now, &fee(5), Some(Price::new(10)), false);
        assert_eq!(asking.current(), Price::new(15));
        asking.follow(now, &fee(5), &fee(6), None);
        assert_eq!(asking.current(), Price::new(16), "the way out costs what it did");
        asking.look(now, &fee(6), Some(Price::new(10)), true);
        assert_eq!(asking.current(), Price::new(16));
        asking.follow(now, &fee(6), &fixed, Some(Price::new(10)));
        assert_eq!(asking.current(), Price::new(7));
        asking.follow(now, &fixed, &fee(3), Some(Price::new(10)));
        assert_eq!(asking.current(), Price::new(13), "nothing is sold for less than it costs");
    }

    #[test]
    fn whoever_needs_the_link_pays_and_the_other_end_follows() {
        let mut payer = Story::new();
        assert_eq!(payer.becomes(false, None, false), Role::Peer);
        assert_eq!(payer.becomes(true, Some(Role::Peer), false), Role::Subscriber);
        let mut payee = Story::new();
        assert_eq!(payee.becomes(false, Some(Role::Subscriber), false), Role::Provider);
        assert_eq!(payee.after(SECOND * 2).becomes(false, Some(Role::Peer), false), Role::Peer);
        // Where both need it, both would pay: the first to need it no more follows.
        assert_eq!(payee.becomes(true, Some(Role::Subscriber), false), Role::Subscriber);
        assert_eq!(payee.after(SECOND * 2).becomes(false, Some(Role::Subscriber), false), Role::Provider);
    }

    #[test]
    fn a_customer_whose_way_has_moved_stays_one_for_two_reports_and_for_a_minute_while_it_owes() {
        for (owing, stays) in [(false, LINGER), (true, LINGER_MOST)] {
            let mut story = Story::new();
            assert_eq!(story.becomes(true, Some(Role::Peer), false), Role::Subscriber);
            assert_eq!(story.after(stays - SECOND).becomes(false, Some(Role::Provider), owing), Role::Subscriber);
            assert_eq!(story.after(SECOND).becomes(false, Some(Role::Provider), owing), Role::Peer);
        }
        // It does not linger where it is to be paid.
        let mut story = Story::new();
        assert_eq!(story.becomes(true, Some(Role::Peer), false), Role::Subscriber);
        assert_eq!(story.after(SECOND).becomes(false, Some(Role::Subscriber), true), Role::Provider);
    }

    #[test]
    fn a_neighbour_makes_us_something_else_once_a_second_at_most() {
        let mut story = Story::new();
        let mut changes = 0;
        for step in 0..100 {
            let before = story.ours;
            let theirs = if step % 2 == 0 { Role::Subscriber } else { Role::Peer };
            changes += u32::from(story.becomes(false, Some(theirs), false) != before);
            story.after(SECOND / 10);
        }
        assert!((5..=11).contains(&changes), "{changes} in ten seconds");
        // What we need ourselves waits for nobody.
        assert_eq!(story.becomes(true, Some(Role::Peer), false), Role::Subscriber);
    }

    #[test]
    fn what_the_owners_agreed_on_is_not_for_routes_to_change() {
        let mut story = Story::new();
        let payer = Side::Subscriber(prices().limits);
        let situation = Situation { needed: true, theirs: Some(Role::Subscriber), ..Situation::NEW };
        let mut side = |deal| story.dealing.side(story.now, deal, &prices(), Price::new(12), situation);
        for agreed in [payer, Side::Peer] {
            assert_eq!(side(Deal::Agreed(agreed)), agreed);
        }
        let Side::Provider(offer) = side(Deal::Agreed(Side::Provider(prices().offer))) else { panic!("a provider") };
        assert_eq!(offer.price_up, Price::new(12), "with a fee, its price follows its own way out");
    }

    #[test]
    fn a_price_rises_after_ten_seconds_and_falls_after_two_minutes() {
        for (upstream, patience) in [(20, RISES_AFTER), (3, FALLS_AFTER)] {
            let mut story = Story::new();
            let mut asking = Asking::new(&prices());
            asking.look(story.now, &prices(), Some(Price::new(8)), false);
            assert_eq!(asking.current(), Price::new(10), "nobody pays, nobody minds");
            let mut look = |pause, upstream| {
                story.after(pause);
                asking.look(story.now, &prices(), Some(Price::new(upstream)), true);
                asking.current().get()
            };
            assert_eq!(look(SECOND, upstream), 10);
            assert_eq!(look(patience - SECOND, upstream), 10);
            assert_eq!(look(SECOND, 8), 10, "it was for a moment only");
            assert_eq!(look(SECOND, upstream), 10);
            assert_eq!(look(patience, upstream), upstream + 2);
        }
    }

    #[test]
    fn whoever_asks_more_than_it_tells_is_taken_at_what_it_asked_for_an_hour() {
        let mut story = Story::new();
        story.hears(Some(40), 11);
        assert_eq!(story.at_least(), 40, "its terms lie here");
        story.after(DIFFERS_FOR).hears(Some(40), 11);
        story.after(SECOND).hears(None, 11);
        assert_eq!(story.at_least(), 40, "they do not any more");
        story.after(REMEMBERED - SECOND * 2).hears(Some(11), 11);
        assert_eq!(story.at_least(), 40);
        story.after(SECOND).hears(Some(11), 11);
        assert_eq!(story.at_least(), 11);
    }

    #[test]
    fn whoever_changes_its_price_is_not_taken_for_a_liar() {
        let mut story = Story::new();
        story.hears(Some(20), 11);
        story.after(DIFFERS_FOR - SECOND).hears(Some(20), 20);
        story.after(SECOND).hears(Some(20), 11);
        story.after(SECOND).hears(Some(20), 18);
        story.after(SECOND * 60).hears(Some(20), 18);
        story.after(SECOND).hears(None, 18);
        assert_eq!(story.at_least(), 0, "never by an eighth for so long");
    }

    #[test]
    fn routing_counts_what_is_agreed_on_and_before_that_what_is_known_to_be_asked() {
        let mut story = Story::new();
        story.hears(Some(40), 11);
        let payer = |ours, terms: Option<&Terms>| story.dealing.trade(Deal::ByRoutes, ours, terms).payer;
        let price = babel::Price::new;
        let terms = agreed(15, 9);
        assert_eq!(payer(Role::Subscriber, Some(&terms)), Payer::Us { price: price(15), agreed: true });
        assert_eq!(payer(Role::Subscriber, None), Payer::Us { price: price(40), agreed: false });
        assert_eq!(payer(Role::Provider, Some(&terms)), Payer::Them);
        assert_eq!(payer(Role::Peer, None), Payer::Nobody { at_least: price(40) });
        let beyond = agreed(u64::MAX, 0);
        assert_eq!(payer(Role::Subscriber, Some(&beyond)), Payer::Us { price: price(u32::MAX), agreed: true });
        assert!(story.dealing.trade(Deal::ByRoutes, Role::Peer, None).guarded);
        assert!(
            !story.dealing.trade(Deal::Agreed(Side::Peer), Role::Peer, None).guarded,
            "its owner carries whatever comes"
        );
    }

    #[test]
    fn a_peer_is_a_guest_where_carrying_costs_and_whoever_is_paid_a_provider() {
        let (ask, free) = (Price::new(12), Price::FREE);
        let of = |deal, payer, ask| standing(deal, Trade { payer, guarded: true }, ask);
        let us = |price, agreed| Payer::Us { price: babel::Price::new(price), agreed };
        let nobody = Payer::Nobody { at_least: babel::Price::ZERO };
        assert_eq!(of(Deal::ByRoutes, nobody, ask), Standing::Guest);
        assert_eq!(of(Deal::ByRoutes, nobody, free), Standing::Partner);
        assert_eq!(of(Deal::ByRoutes, us(15, true), ask), Standing::Provider);
        assert_eq!(of(Deal::ByRoutes, us(0, false), ask), Standing::Provider, "it is not known yet what it asks");
        assert_eq!(of(Deal::ByRoutes, us(0, true), ask), Standing::Partner);
        assert_eq!(of(Deal::ByRoutes, Payer::Them, ask), Standing::Partner);
        for payer in [nobody, us(15, true), Payer::Them] {
            assert_eq!(of(Deal::Agreed(Side::Peer), payer, ask), Standing::Partner, "the owner's word");
        }
    }

    #[test]
    fn neighbours_by_routes_are_told_the_price_and_others_what_was_agreed() {
        let told = |deal, side| fee(deal, side, Price::new(12)).price.get();
        let payer = Side::Subscriber(prices().limits);
        for side in [Side::Peer, payer, Side::Provider(prices().offer)] {
            assert_eq!(told(Deal::ByRoutes, side), 12);
        }
        let dearer_down = Offer { price_down: Price::new(9), ..prices().offer };
        for (side, price) in [(Side::Provider(dearer_down), 9), (payer, 0), (Side::Peer, 0)] {
            assert_eq!(told(Deal::Agreed(side), side), price);
        }
    }
}
