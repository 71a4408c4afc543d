//! Prices: told, capped, asked for, and powerless against feasibility.

use super::*;
use crate::policy::{Policy, PriceWeight};
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
