//! Prices: told, capped, asked for, and powerless against feasibility.

use super::*;
use crate::interface::Fee;
use crate::policy::{Policy, PriceWeight};
use crate::trade::{Payer, Trade};
use std::num::NonZeroU32;

/// A thousand of price weighs as much as a wired hop.
fn priced(policy: Policy) -> Talk {
    let mut talk = Talk::new();
    let per = NonZeroU32::new(1000).unwrap();
    talk.speaker.config.policy = Policy { weight: PriceWeight { metric: 96, per }, ..policy };
    talk
}

fn asks(price: u32) -> Option<Quote> {
    Some(Quote { unit: 0, epoch: 0, price: Some(Price::new(price)) })
}

const TWO_UPDATES_AND_MORE: Duration = Duration::from_secs(151);

#[test]
fn the_cheaper_of_two_feasible_routes_is_used_at_once_when_there_is_none_yet_and_patiently_later() {
    let mut talk = priced(Policy::default());
    talk.tell(LEFT, Update { quote: asks(3000), interval: Interval(60_000), ..update(1, 100) });
    talk.tell(RIGHT, Update { quote: asks(0), interval: Interval(60_000), ..update(1, 150) });
    assert_eq!(talk.way(far()), Some((LEFT, Metric(196))), "a price may be gone again in a moment");
    talk.after(TWO_UPDATES_AND_MORE);
    assert_eq!(talk.way(far()), Some((RIGHT, Metric(246))));
    talk.tell(RIGHT, retraction());
    assert_eq!(talk.way(far()), Some((LEFT, Metric(196))), "lost is lost, whatever the other costs");
}

#[test]
fn a_cheaper_route_that_is_not_feasible_is_asked_for_and_used_when_its_newer_seqno_comes() {
    let mut talk = priced(Policy::default());
    talk.tell(LEFT, Update { quote: asks(3000), interval: Interval(60_000), ..update(1, 100) });
    talk.after(millis(500));
    talk.tell(RIGHT, Update { quote: asks(0), interval: Interval(60_000), ..update(1, 300) });
    talk.hear();
    talk.after(TWO_UPDATES_AND_MORE);
    assert_eq!(talk.way(far()), Some((LEFT, Metric(196))), "price does not make a route feasible");
    let requests = talk.seqno_requests();
    assert!(requests.contains(&(RIGHT, Destination::Unicast(THEM), seqno_request(far(), name(9), 2, 127))));
    assert!(requests.iter().all(|(on, _, _)| *on == RIGHT));
    talk.tell(RIGHT, Update { quote: asks(0), interval: Interval(60_000), ..update(2, 300) });
    assert_eq!(talk.way(far()), Some((RIGHT, Metric(396))));
    talk.after(millis(500));
    assert_eq!(talk.told(LEFT, far()).last(), Some(&Metric(396)), "a longer path is only told with the newer seqno");
}

#[test]
fn what_asks_more_than_the_cap_is_not_used_even_if_there_is_nothing_else_and_what_does_not_say_as_the_policy_says() {
    let cap = Policy { price_max: Price::new(500), ..Policy::default() };
    let mut talk = priced(cap);
    talk.tell(LEFT, Update { quote: asks(501), ..update(1, 100) });
    assert_eq!(talk.way(far()), None);
    talk.tell(LEFT, Update { quote: asks(500), ..update(1, 100) });
    assert_eq!(talk.way(far()), Some((LEFT, Metric(196))));
    for (unknown_price, used) in [(None, None), (Some(Price::ZERO), Some((LEFT, Metric(196))))] {
        let mut talk = priced(Policy { unknown_price, ..cap });
        talk.tell(
            LEFT,
            Update { quote: Some(Quote { unit: 7, epoch: 0, price: Some(Price::ZERO) }), ..update(1, 100) },
        );
        assert_eq!(talk.way(far()), used, "another unit is as good as no price");
    }
}

#[test]
fn a_route_that_becomes_too_dear_is_retracted_and_taken_again_when_it_is_not() {
    let mut talk = priced(Policy { price_max: Price::new(500), ..Policy::default() });
    talk.tell(LEFT, Update { quote: asks(100), ..update(1, 100) });
    talk.after(millis(500));
    talk.hear();
    talk.tell(LEFT, Update { quote: asks(501), ..update(1, 100) });
    assert_eq!(talk.events.last(), Some(&Event::RouteLost { pair: far().into() }));
    talk.after(millis(50));
    assert_eq!(talk.told(RIGHT, far()), [Metric::INFINITY]);
    talk.tell(LEFT, Update { quote: asks(499), ..update(1, 99) });
    assert_eq!(talk.way(far()), Some((LEFT, Metric(195))));
}

#[test]
fn whoever_pays_for_what_it_is_sent_tells_its_neighbour_a_higher_cost_and_uses_the_link_as_before() {
    let mut talk = Talk::new();
    let cost = |talk: &Talk| talk.speaker.neighbours().find(|neighbour| neighbour.interface == LEFT).unwrap().cost;
    let before = cost(&talk);
    talk.heard.clear();
    talk.speaker.handle_toll(talk.now, LEFT, 192);
    talk.after(millis(500));
    let told = talk.heard.iter().filter_map(|(on, _, tlv)| match tlv {
        Tlv::Ihu(ihu) => Some((*on, ihu.rxcost)),
        _ => None,
    });
    assert!(told.clone().any(|told| told == (LEFT, Cost::new(96 + 192))));
    assert!(told.filter(|(on, _)| *on == RIGHT).all(|(_, cost)| cost == Cost::WIRED));
    assert_eq!(cost(&talk), before);
}

#[test]
fn a_price_that_clearly_moves_is_told_before_the_next_full_update_and_a_little_one_is_not() {
    let mut talk = priced(Policy::default());
    talk.tell(LEFT, Update { quote: asks(1000), ..update(1, 100) });
    talk.after(millis(500));
    talk.hear();
    talk.tell(LEFT, Update { quote: asks(1100), ..update(1, 100) });
    talk.after(millis(500));
    assert_eq!(talk.told(RIGHT, far()), []);
    talk.tell(LEFT, Update { quote: asks(1300), ..update(1, 100) });
    talk.after(millis(500));
    assert_eq!(talk.told(RIGHT, far()), [Metric(196)]);
}

/// The price told on an interface about a prefix, last; `None`: nothing finite was.
fn quoted(talk: &mut Talk, on: InterfaceId, prefix: Prefix) -> Option<Option<u32>> {
    let of = |update: Update| (update.prefix == Some(AnyPrefix::V6(prefix))).then_some(update);
    let mut told = talk.hear().into_iter().filter_map(|(at, _, tlv)| match tlv {
        Tlv::Update(update) if at == on => of(update),
        _ => None,
    });
    let last = told.next_back()?;
    last.metric.is_finite().then(|| last.quote.and_then(|quote| quote.price).map(Price::get))
}

fn everybody() -> Prefix {
    Prefix::new(Ipv6Addr::UNSPECIFIED, 0).unwrap()
}

fn default_update(price: u32) -> Update {
    Update { prefix: Some(AnyPrefix::V6(everybody())), quote: asks(price), ..update(1, 100) }
}

fn guarded(payer: Payer) -> Option<Trade> {
    Some(Trade { payer, guarded: true })
}

const FREE: Payer = Payer::Nobody { at_least: Price::ZERO };

fn fee(price: u32) -> Fee {
    Fee { price: Price::new(price), epoch: 0 }
}

#[test]
fn what_is_agreed_for_a_link_counts_instead_of_what_is_told_and_is_told_on_in_place_of_the_sum() {
    let mut talk = priced(Policy { price_max: Price::new(500), ..Policy::default() });
    talk.speaker.handle_trade(talk.now, LEFT, guarded(FREE), fee(900));
    talk.speaker.handle_trade(talk.now, RIGHT, guarded(FREE), fee(300));
    talk.tell(LEFT, default_update(250));
    let price = |talk: &Talk| talk.speaker.selected(everybody()).and_then(|view| view.price).map(Price::get);
    assert_eq!(price(&talk), Some(250));
    let agreed = |price| guarded(Payer::Us { price: Price::new(price), agreed: true });
    talk.speaker.handle_trade(talk.now, LEFT, agreed(280), fee(900));
    assert_eq!(price(&talk), Some(280), "it bills more than it told");
    talk.after(millis(1500));
    assert_eq!(quoted(&mut talk, RIGHT, everybody()), Some(Some(300)));
    talk.speaker.handle_trade(talk.now, RIGHT, guarded(FREE), fee(310));
    talk.after(millis(1500));
    assert_eq!(quoted(&mut talk, RIGHT, everybody()), Some(Some(310)), "another price is told at once");
    talk.speaker.handle_trade(talk.now, LEFT, agreed(501), fee(900));
    assert_eq!(price(&talk), None, "more than we pay");
    talk.after(millis(500));
    assert_eq!(talk.told(RIGHT, everybody()).last(), Some(&Metric::INFINITY));
    talk.speaker.handle_trade(talk.now, LEFT, guarded(Payer::Nobody { at_least: Price::new(400) }), fee(900));
    assert_eq!(price(&talk), Some(400), "what it is known to bill is remembered");
}

/// Whoever tells little, bills much and tells little again draws the traffic to it no sooner for being left at once.
#[test]
fn a_price_rests_after_it_has_moved_the_traffic_though_the_way_was_left_since() {
    let mut talk = priced(Policy::default());
    let agreed = |price| guarded(Payer::Us { price: Price::new(price), agreed: true });
    let bills = |talk: &mut Talk, on, price| talk.speaker.handle_trade(talk.now, on, agreed(price), fee(0));
    let tell = |talk: &mut Talk| {
        for on in [LEFT, RIGHT] {
            talk.tell(on, Update { interval: Interval(60_000), ..default_update(0) });
        }
    };
    let over = |talk: &Talk| talk.way(everybody()).map(|(on, _)| on);
    bills(&mut talk, LEFT, 3000);
    bills(&mut talk, RIGHT, 9000);
    tell(&mut talk);
    assert_eq!(over(&talk), Some(LEFT));
    bills(&mut talk, RIGHT, 100);
    talk.after(TWO_UPDATES_AND_MORE);
    assert_eq!(over(&talk), Some(RIGHT), "the cheaper one");
    bills(&mut talk, RIGHT, 9000);
    assert_eq!(over(&talk), Some(LEFT), "dearer than it was: left at once");
    bills(&mut talk, RIGHT, 100);
    talk.after(TWO_UPDATES_AND_MORE);
    tell(&mut talk);
    assert_eq!(over(&talk), Some(LEFT), "prices rest");
    talk.after(TWO_UPDATES_AND_MORE * 2);
    assert_eq!(over(&talk), Some(RIGHT), "until they have rested");
}

#[test]
fn whoever_is_paid_is_not_told_of_a_peer_and_a_peer_that_pays_nothing_does_not_get_a_way_that_costs() {
    let mut talk = priced(Policy::default());
    talk.speaker.handle_trade(talk.now, LEFT, guarded(FREE), fee(20));
    talk.speaker.handle_trade(talk.now, RIGHT, guarded(FREE), fee(20));
    talk.tell(RIGHT, Update { quote: asks(0), ..update(1, 100) });
    talk.after(millis(1500));
    assert_eq!(quoted(&mut talk, LEFT, far()), Some(Some(0)));
    let us = guarded(Payer::Us { price: Price::new(15), agreed: true });
    talk.speaker.handle_trade(talk.now, LEFT, us, fee(20));
    talk.after(millis(1500));
    assert_eq!(talk.told(LEFT, far()).last(), Some(&Metric::INFINITY), "a peer's traffic would be at our expense");
    talk.speaker.handle_trade(talk.now, RIGHT, guarded(Payer::Them), fee(20));
    talk.after(millis(1500));
    assert_eq!(quoted(&mut talk, LEFT, far()), Some(Some(0)), "a customer's is not");
    talk.tell(RIGHT, Update { quote: asks(7), ..update(1, 90) });
    assert_eq!(talk.way(far()), None, "and a customer is no way to somebody it pays");
}
