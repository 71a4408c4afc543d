//! IPv4 routes (RFC 9229) and source-specific ones (RFC 9079): learnt and passed on.

use super::*;
use crate::interface::InterfaceConfig;
use crate::prefix::{IpPrefix, Ipv4Prefix, PrefixPair};
use crate::views::Carry;
use std::net::Ipv4Addr;

const OUR_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const THEIR_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

fn v4() -> Ipv4Prefix {
    Ipv4Prefix::new(Ipv4Addr::new(198, 51, 100, 0), 24).unwrap()
}

/// On the left there is IPv4, on the right there is none.
fn mixed() -> Talk {
    let mut talk = Talk::new();
    let config = InterfaceConfig { ipv4: Some(OUR_V4), ..InterfaceConfig::tunnel(US) };
    talk.speaker.handle_interface_up(talk.now, LEFT, config);
    talk.after(millis(1500));
    talk.hear();
    talk.events.clear();
    talk
}

fn heard_on(talk: &mut Talk, on: InterfaceId) -> Vec<Update> {
    let heard = talk.hear().into_iter().filter(|(interface, _, _)| *interface == on);
    let updates = heard.filter_map(|(_, _, tlv)| match tlv {
        Tlv::Update(update) => Some(update),
        _ => None,
    });
    updates.collect()
}

#[test]
fn an_ipv4_route_is_passed_on_with_the_next_hop_that_the_other_link_has() {
    let mut talk = mixed();
    talk.tell(LEFT, Update { prefix: Some(AnyPrefix::V4(v4())), next_hop: Some(THEIR_V4.into()), ..update(1, 100) });
    let [Event::RouteSelected { pair, via: LEFT, next_hop, .. }] = talk.events[..] else { panic!("{:?}", talk.events) };
    assert_eq!((pair, next_hop), (v4().into(), IpAddr::V4(THEIR_V4)));
    talk.after(millis(500));
    let [passed_on] = heard_on(&mut talk, RIGHT)[..] else { panic!("one update") };
    assert_eq!((passed_on.prefix, passed_on.next_hop), (Some(AnyPrefix::V4ViaV6(v4())), Some(IpAddr::V6(US))));
    assert_eq!((passed_on.metric, passed_on.router_id), (Metric(196), Some(name(9))));
}

#[test]
fn a_v4_via_v6_route_is_passed_on_with_an_ipv4_next_hop_where_there_is_one_and_retracted_under_either_encoding() {
    let mut talk = mixed();
    talk.tell(RIGHT, Update { prefix: Some(AnyPrefix::V4ViaV6(v4())), ..update(1, 100) });
    talk.after(millis(500));
    let [passed_on] = heard_on(&mut talk, LEFT)[..] else { panic!("one update") };
    assert_eq!((passed_on.prefix, passed_on.next_hop), (Some(AnyPrefix::V4(v4())), Some(IpAddr::V4(OUR_V4))));
    talk.tell(RIGHT, Update { prefix: Some(AnyPrefix::V4(v4())), ..retraction() });
    assert_eq!(talk.events.last(), Some(&Event::RouteLost { pair: v4().into() }));
    talk.after(millis(50));
    let [retracted] = heard_on(&mut talk, LEFT)[..] else { panic!("one update") };
    assert_eq!((retracted.prefix, retracted.metric), (Some(AnyPrefix::V4(v4())), Metric::INFINITY));
}

#[test]
fn an_ipv4_next_hop_is_of_no_use_on_a_link_without_ipv4() {
    let mut talk = mixed();
    talk.tell(RIGHT, Update { prefix: Some(AnyPrefix::V4(v4())), next_hop: Some(THEIR_V4.into()), ..update(1, 100) });
    assert_eq!((talk.events.len(), talk.speaker.counters().not_carried), (0, 1));
}

#[test]
fn routes_for_different_sources_live_side_by_side_and_requests_name_them() {
    let mut talk = mixed();
    let home = Prefix::new("fd00:77::".parse().unwrap(), 48).unwrap();
    let from_home = PrefixPair { from: Some(IpPrefix::V6(home)), ..far().into() };
    talk.tell(LEFT, update(1, 100));
    talk.tell(RIGHT, Update { source_prefix: Some(AnyPrefix::V6(home)), ..update(1, 200) });
    assert_eq!(talk.speaker.selected(from_home).map(|route| route.metric), Some(Metric(296)));
    assert_eq!(talk.way(far()), Some((LEFT, Metric(196))));
    talk.after(millis(500));
    assert_eq!(heard_on(&mut talk, LEFT).iter().filter(|update| update.source_prefix.is_some()).count(), 1);
    let request = RouteRequest { prefix: Some(AnyPrefix::V6(far())), source_prefix: Some(AnyPrefix::V6(home)) };
    talk.send(LEFT, Tlv::RouteRequest(request));
    talk.after(millis(50));
    let [answer] = heard_on(&mut talk, LEFT)[..] else { panic!("one update") };
    assert_eq!((answer.source_prefix, answer.metric), (Some(AnyPrefix::V6(home)), Metric(296)));
    talk.tell(RIGHT, Update { source_prefix: Some(AnyPrefix::V6(home)), ..retraction() });
    assert_eq!(talk.speaker.selected(from_home), None);
    assert_eq!(talk.way(far()), Some((LEFT, Metric(196))), "the other one is untouched");
    talk.after(millis(50));
    let requests = talk.seqno_requests();
    assert!(!requests.is_empty() && requests.iter().all(|(_, _, request)| request.source_prefix.is_some()));
}

#[test]
fn what_the_forwarding_plane_cannot_carry_is_neither_learnt_nor_passed_on() {
    let mut talk = mixed();
    talk.speaker.config.carry = Carry { ipv4: false, source_specific: false };
    talk.tell(LEFT, Update { prefix: Some(AnyPrefix::V4(v4())), next_hop: Some(THEIR_V4.into()), ..update(1, 100) });
    let (one, other) = (Some(AnyPrefix::V6(far())), Some(AnyPrefix::V6(ours())));
    talk.tell(LEFT, Update { prefix: one, source_prefix: other, ..update(1, 100) });
    talk.send(LEFT, Tlv::RouteRequest(RouteRequest { prefix: one, source_prefix: other }));
    talk.send(LEFT, Tlv::SeqnoRequest(SeqnoRequest { source_prefix: other, ..seqno_request(far(), name(9), 2, 9) }));
    talk.after(millis(500));
    assert_eq!((talk.events.len(), talk.speaker.counters().not_carried), (0, 4));
    assert_eq!(heard_on(&mut talk, RIGHT), []);
}
