//! Conversations with one speaker, for tests: what is said to it, what it must say back and when.
#![expect(clippy::wildcard_enum_match_arm, reason = "a test names the messages it waits for")]

mod families;
mod links;
mod prices;
#[cfg(feature = "mac")]
mod secrets;

use crate::interface::{Fee, InterfaceConfig, InterfaceId, Only};
use crate::metric::{Cost, Metric};
use crate::prefix::Prefix;
use crate::price::Price;
use crate::router_id::RouterId;
use crate::seqno::Seqno;
use crate::speaker::Speaker;
use crate::views::{Config, Destination, Event, Limits};
use crate::wire::tests::any_tlv;
use crate::wire::{
    Acknowledgment, AcknowledgmentRequest, AnyPrefix, Hello, HelloTimestamp, Ihu, IhuTimestamp, Interval, Packet,
    Quote, RouteRequest, SeqnoRequest, Tlv, Update, Writer,
};
use proptest::prelude::*;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

const LEFT: InterfaceId = InterfaceId(1);
const RIGHT: InterfaceId = InterfaceId(2);
const US: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const THEM: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

struct Talk {
    speaker: Speaker,
    now: Instant,
    hellos: u16,
    heard: Vec<(InterfaceId, Destination, Tlv)>,
    events: Vec<Event>,
    /// The neighbours answer acknowledgment requests.
    acknowledges: bool,
    /// Whom we asked whether it is there.
    asked: Vec<InterfaceId>,
}

fn our_name() -> RouterId {
    RouterId::new(*b"ourselfs").unwrap()
}

fn name(id: u8) -> RouterId {
    RouterId::new([id; 8]).unwrap()
}

fn ours() -> Prefix {
    Prefix::new("fd00:1::".parse().unwrap(), 48).unwrap()
}

fn far() -> Prefix {
    Prefix::new("fd00:9::".parse().unwrap(), 48).unwrap()
}

/// "I reach `far` of name 9."
fn update(seqno: u16, metric: u16) -> Update {
    Update {
        prefix: Some(AnyPrefix::V6(far())),
        interval: Interval(6000),
        seqno: Seqno(seqno),
        metric: Metric(metric),
        router_id: Some(name(9)),
        next_hop: Some(IpAddr::V6(THEM)),
        source_prefix: None,
        quote: None,
    }
}

fn retraction() -> Update {
    Update { router_id: None, next_hop: None, ..update(1, u16::MAX) }
}

fn seqno_request(prefix: Prefix, id: RouterId, seqno: u16, hop_count: u8) -> SeqnoRequest {
    SeqnoRequest { prefix: AnyPrefix::V6(prefix), seqno: Seqno(seqno), hop_count, router_id: id, source_prefix: None }
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn start() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "an Instant has no other origin")]
    Instant::now()
}

impl Talk {
    fn with(limits: Limits) -> Self {
        let now = start();
        let config = Config { limits, ..Config::new(our_name(), Seqno(100)) };
        let mut speaker = Speaker::new(now, config, 1);
        speaker.handle_originate(now, ours(), Metric::ZERO);
        for interface in [LEFT, RIGHT] {
            speaker.handle_interface_up(now, interface, InterfaceConfig::tunnel(US));
        }
        Self { speaker, now, hellos: 0, heard: Vec::new(), events: Vec::new(), acknowledges: true, asked: Vec::new() }
    }

    /// A neighbour is up on either side, and the greetings are over.
    fn new() -> Self {
        let mut talk = Self::with(Limits::default());
        talk.after(millis(1500));
        talk.hear();
        talk
    }

    fn send(&mut self, from: InterfaceId, tlv: Tlv) {
        let mut writer = Writer::new(1232, THEM);
        assert!(writer.push(&tlv));
        self.speaker.handle_packet(self.now, from, THEM, Destination::Multicast, &writer.finish()).unwrap();
        self.drain();
    }

    fn tell(&mut self, from: InterfaceId, update: Update) {
        self.send(from, Tlv::Update(update));
    }

    fn greet(&mut self) {
        self.hellos += 1;
        for interface in [LEFT, RIGHT] {
            let hello =
                Hello { unicast: false, seqno: Seqno(self.hellos), interval: Some(Interval(100)), timestamp: None };
            self.send(interface, Tlv::Hello(hello));
            self.send(
                interface,
                Tlv::Ihu(Ihu {
                    address: Some(IpAddr::V6(US)),
                    rxcost: Cost::WIRED,
                    interval: Interval(300),
                    timestamp: None,
                }),
            );
        }
    }

    /// Time passes; the neighbours greet twice a second.
    fn after(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            let pause = end.duration_since(self.now).min(millis(500));
            self.after_silent(pause);
            self.greet();
        }
    }

    fn after_silent(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(at) = self.speaker.poll_timeout().filter(|at| *at <= end) {
            self.now = at;
            self.speaker.handle_timeout(at);
            self.drain();
            assert!(self.speaker.poll_timeout().is_none_or(|next| next > at));
        }
        self.now = end;
    }

    fn drain(&mut self) {
        while let Some(transmit) = self.speaker.poll_transmit(self.now) {
            let packet = Packet::parse(&transmit.payload).unwrap();
            for tlv in packet.tlvs(US) {
                match tlv {
                    Tlv::AcknowledgmentRequest(request) => {
                        let is_question = transmit.to != Destination::Multicast;
                        self.asked.extend(is_question.then_some(transmit.interface));
                        self.acknowledge(transmit.interface, request.opaque);
                    }
                    tlv => self.heard.push((transmit.interface, transmit.to, tlv)),
                }
            }
        }
        while let Some(event) = self.speaker.poll_event() {
            self.events.push(event);
        }
    }

    fn acknowledge(&mut self, on: InterfaceId, opaque: u16) {
        let mut writer = Writer::new(1232, THEM);
        assert!(writer.push(&Tlv::Acknowledgment(Acknowledgment { opaque })));
        if self.acknowledges {
            let to = Destination::Unicast(US);
            self.speaker.handle_packet(self.now, on, THEM, to, &writer.finish()).unwrap();
        }
    }

    /// What was said since the last time, Hellos and IHUs left out.
    fn hear(&mut self) -> Vec<(InterfaceId, Destination, Tlv)> {
        let mut heard = std::mem::take(&mut self.heard);
        heard.retain(|(_, _, tlv)| !matches!(tlv, Tlv::Hello(_) | Tlv::Ihu(_)));
        heard
    }

    /// Metrics told about `prefix` since the last time.
    fn told(&mut self, on: InterfaceId, prefix: Prefix) -> Vec<Metric> {
        let heard = self.hear().into_iter().filter(|(interface, _, _)| *interface == on);
        heard
            .filter_map(|(_, _, tlv)| match tlv {
                Tlv::Update(update) if update.prefix == Some(AnyPrefix::V6(prefix)) => Some(update.metric),
                _ => None,
            })
            .collect()
    }

    fn seqno_requests(&mut self) -> Vec<(InterfaceId, Destination, SeqnoRequest)> {
        let requests = self.hear().into_iter().filter_map(|(interface, to, tlv)| match tlv {
            Tlv::SeqnoRequest(request) => Some((interface, to, request)),
            _ => None,
        });
        requests.collect()
    }

    fn way(&self, prefix: Prefix) -> Option<(InterfaceId, Metric)> {
        let selected = self.speaker.routes().find(|route| route.pair == prefix.into() && route.selected)?;
        Some((selected.neighbour?.0, selected.metric))
    }
}

#[test]
fn unfeasible_update_does_not_replace_selected_route() {
    let mut talk = Talk::new();
    talk.tell(LEFT, update(1, 100));
    talk.after(millis(500));
    assert_eq!(talk.way(far()), Some((LEFT, Metric(196))));
    talk.tell(RIGHT, update(1, 196));
    assert_eq!(talk.way(far()), Some((LEFT, Metric(196))), "no better than what we told");
    talk.send(LEFT, Tlv::Update(retraction()));
    assert_eq!(talk.way(far()), None, "it may lead back to us");
    talk.tell(RIGHT, update(2, 500));
    assert_eq!(talk.way(far()), Some((RIGHT, Metric(596))), "a newer seqno is feasible with any metric");
}

#[test]
fn what_was_told_counts_for_as_long_as_it_may_be_believed() {
    let mut talk = Talk::new();
    let update_interval = Duration::from_secs(300);
    for interface in [LEFT, RIGHT] {
        let config = InterfaceConfig { update_interval, ..InterfaceConfig::tunnel(US) };
        talk.speaker.handle_interface_up(talk.now, interface, config);
    }
    talk.after(millis(1500));
    talk.tell(LEFT, update(1, 100));
    talk.after(millis(500));
    talk.tell(LEFT, retraction());
    talk.after(update_interval * 3);
    talk.tell(RIGHT, update(1, 300));
    assert_eq!(talk.way(far()), None, "it may lead back to us: RIGHT may not have heard the retraction");
    talk.after(update_interval);
    talk.tell(RIGHT, update(1, 300));
    assert_eq!(talk.way(far()), Some((RIGHT, Metric(396))));
}

#[test]
fn a_route_is_told_where_it_came_from_only_on_a_radio_whose_neighbours_may_not_hear_each_other() {
    for (config, told) in
        [(InterfaceConfig::tunnel(US), false), (InterfaceConfig::wired(US), false), (InterfaceConfig::lossy(US), true)]
    {
        let mut talk = Talk::new();
        talk.speaker.handle_interface_up(talk.now, LEFT, config);
        talk.after(Duration::from_secs(5));
        talk.tell(LEFT, update(1, 100));
        assert!(talk.way(far()).is_some_and(|(via, _)| via == LEFT), "{:?}", config.kind);
        talk.hear();
        talk.after(Duration::from_secs(20));
        let metrics = talk.told(LEFT, far());
        assert_eq!(metrics.iter().any(|metric| metric.is_finite()), told, "{:?}: {metrics:?}", config.kind);
    }
}

#[test]
fn whoever_ends_retracts_everything_and_says_no_more() {
    let mut talk = Talk::new();
    talk.tell(LEFT, update(1, 100));
    talk.speaker.handle_goodbye();
    talk.drain();
    let heard = talk.hear();
    for interface in [LEFT, RIGHT] {
        let here: Vec<_> = heard.iter().filter(|(on, _, _)| *on == interface).map(|(_, _, tlv)| *tlv).collect();
        let [Tlv::Update(Update { prefix: None, metric: Metric::INFINITY, .. })] = here[..] else { panic!("{here:?}") };
    }
}

#[test]
fn a_feasible_alternative_takes_over_at_once() {
    let mut talk = Talk::new();
    talk.tell(LEFT, update(1, 100));
    talk.tell(RIGHT, update(1, 150));
    talk.after(millis(500));
    talk.tell(LEFT, retraction());
    assert_eq!(talk.way(far()), Some((RIGHT, Metric(246))));
}

#[test]
fn a_lost_route_is_retracted_at_once_and_a_newer_seqno_asked_for() {
    let mut talk = Talk::new();
    talk.tell(LEFT, update(7, 100));
    talk.after(millis(500));
    talk.hear();
    talk.tell(LEFT, retraction());
    assert_eq!(talk.events.last(), Some(&Event::RouteLost { pair: far().into() }));
    talk.after(millis(50));
    let heard = talk.hear();
    for interface in [LEFT, RIGHT] {
        let here: Vec<_> = heard
            .iter()
            .filter(|(on, to, _)| *on == interface && *to == Destination::Multicast)
            .map(|(_, _, tlv)| *tlv)
            .collect();
        let [Tlv::Update(first), Tlv::SeqnoRequest(second)] = here[..] else { panic!("{here:?}") };
        assert_eq!((first.prefix, first.metric), (Some(AnyPrefix::V6(far())), Metric::INFINITY));
        assert_eq!((second.router_id, second.seqno), (name(9), Seqno(8)));
    }
    talk.after(millis(900));
    assert_eq!(talk.told(RIGHT, far()), [], "it was acknowledged");
}

#[test]
fn what_is_lost_and_found_before_anybody_heard_is_taken_back_from_where_it_leads_by_then() {
    let mut talk = Talk::new();
    talk.tell(LEFT, update(7, 100));
    talk.after(millis(500));
    talk.hear();
    talk.tell(LEFT, retraction());
    talk.tell(RIGHT, update(8, 300));
    assert_eq!(talk.way(far()), Some((RIGHT, Metric(396))));
    talk.after(millis(50));
    assert_eq!(talk.told(RIGHT, far()), [Metric::INFINITY]);
}

#[test]
fn what_is_not_acknowledged_is_told_again_until_it_is() {
    let mut talk = Talk::new();
    talk.tell(LEFT, update(7, 100));
    talk.after(millis(500));
    talk.acknowledges = false;
    talk.tell(LEFT, retraction());
    talk.hear();
    talk.after(millis(500));
    assert_eq!(talk.told(RIGHT, far()), [Metric::INFINITY; 2], "at once, and 200 ms later");
    talk.acknowledges = true;
    talk.after(Duration::from_secs(5));
    assert_eq!(talk.told(RIGHT, far()), [Metric::INFINITY], "after 400 ms more");
}

#[test]
fn what_is_never_acknowledged_is_told_six_times_and_then_only_with_everything() {
    let mut talk = Talk::new();
    talk.acknowledges = false;
    talk.after(Duration::from_secs(15));
    talk.hear();
    talk.tell(LEFT, update(7, 100));
    talk.after(Duration::from_secs(30));
    assert_eq!(talk.told(RIGHT, far()), [Metric(196); 6]);
}

#[test]
fn the_full_update_for_somebody_new_is_acknowledged_too() {
    let mut talk = Talk::with(Limits::default());
    talk.acknowledges = false;
    talk.after(Duration::from_secs(5));
    let told = talk.told(RIGHT, ours());
    assert!(told.len() >= 4 && told.iter().all(|metric| *metric == Metric::ZERO), "{told:?}");
}

#[test]
fn a_request_is_repeated_twice_where_nobody_tells_of_a_way() {
    let mut talk = Talk::new();
    talk.tell(LEFT, update(7, 100));
    talk.after(millis(500));
    talk.tell(LEFT, retraction());
    talk.after(Duration::from_secs(60));
    let requests = talk.seqno_requests();
    assert_eq!(requests.iter().filter(|(on, _, _)| *on == RIGHT).count(), 3);
    talk.after(Duration::from_secs(180));
    assert_eq!(talk.seqno_requests(), [], "nobody tells of any way");
}

#[test]
fn while_a_neighbour_tells_of_a_way_that_may_not_be_used_a_newer_seqno_is_asked_for() {
    let mut talk = Talk::new();
    talk.tell(LEFT, update(7, 100));
    talk.after(millis(500));
    talk.tell(LEFT, retraction());
    talk.after(millis(500));
    talk.tell(RIGHT, update(7, 300));
    talk.after(Duration::from_secs(100));
    talk.hear();
    talk.after(Duration::from_secs(64));
    let requests = talk.seqno_requests();
    assert_eq!(requests.iter().filter(|(on, _, _)| *on == RIGHT).count(), 8, "every 8 s");
    assert_eq!(talk.way(far()), None);
}

#[test]
fn a_request_of_another_is_repeated_on_its_way_until_it_is_answered() {
    let mut talk = Talk::new();
    talk.tell(RIGHT, update(7, 100));
    talk.after(millis(500));
    talk.hear();
    talk.send(LEFT, Tlv::SeqnoRequest(seqno_request(far(), name(9), 8, 64)));
    talk.after(millis(1600));
    let passed = (RIGHT, Destination::Unicast(THEM), seqno_request(far(), name(9), 8, 63));
    assert_eq!(talk.seqno_requests(), [passed; 3], "at once, after 0.5 s and after 1 s more");
    talk.tell(RIGHT, update(8, 100));
    talk.after(Duration::from_secs(60));
    assert_eq!(talk.seqno_requests(), []);
}

#[test]
fn a_request_that_met_a_cut_is_passed_on_where_the_way_leads_by_then() {
    let mut talk = Talk::new();
    let third = InterfaceId(3);
    talk.speaker.handle_interface_up(talk.now, third, InterfaceConfig::tunnel(US));
    talk.after(millis(1500));
    let mut greet = |hello| {
        let hello = Hello { unicast: false, seqno: Seqno(hello), interval: Some(Interval(1000)), timestamp: None };
        talk.send(third, Tlv::Hello(hello));
    };
    greet(1);
    greet(2);
    let ihu = Ihu { address: None, rxcost: Cost::WIRED, interval: Interval(3000), timestamp: None };
    talk.send(third, Tlv::Ihu(ihu));
    talk.tell(LEFT, update(7, 100));
    talk.tell(RIGHT, update(7, 150));
    talk.hear();
    talk.send(third, Tlv::SeqnoRequest(seqno_request(far(), name(9), 8, 64)));
    talk.tell(LEFT, retraction());
    talk.hear();
    talk.after(millis(600));
    let ways: Vec<_> = talk.seqno_requests().into_iter().map(|(on, to, request)| (on, to, request.hop_count)).collect();
    assert_eq!(ways, [(RIGHT, Destination::Unicast(THEM), 63)]);
}

#[test]
fn a_worse_metric_of_the_selected_neighbour_keeps_the_route_until_a_newer_seqno_comes() {
    let mut talk = Talk::new();
    talk.tell(LEFT, update(1, 100));
    talk.after(millis(500));
    talk.hear();
    talk.tell(LEFT, update(1, 900));
    assert_eq!(talk.way(far()), Some((LEFT, Metric(196))));
    assert_eq!(talk.seqno_requests(), [(LEFT, Destination::Unicast(THEM), seqno_request(far(), name(9), 2, 127))]);
    talk.tell(LEFT, update(2, 900));
    assert_eq!(talk.way(far()), Some((LEFT, Metric(996))));
}

#[test]
fn a_worse_metric_of_the_selected_neighbour_yields_to_a_feasible_route_that_is_better() {
    let mut talk = Talk::new();
    talk.tell(LEFT, update(1, 100));
    talk.tell(RIGHT, update(1, 150));
    talk.after(millis(500));
    talk.tell(LEFT, update(1, 900));
    assert_eq!(talk.way(far()), Some((RIGHT, Metric(246))));
}

#[test]
fn a_selected_neighbour_that_changes_to_another_originator_is_believed() {
    let mut talk = Talk::new();
    talk.tell(LEFT, update(1, 100));
    talk.after(millis(500));
    talk.hear();
    talk.tell(LEFT, Update { router_id: Some(name(8)), ..update(40, 700) });
    assert_eq!(talk.way(far()), Some((LEFT, Metric(796))));
    talk.after(millis(50));
    assert_eq!(talk.told(RIGHT, far()), [Metric(796)], "urgent");
}

#[test]
fn a_request_for_a_newer_seqno_of_ours_increases_it_by_one() {
    let mut talk = Talk::new();
    talk.send(LEFT, Tlv::SeqnoRequest(seqno_request(ours(), our_name(), 100, 1)));
    assert_eq!(talk.speaker.seqno(), Seqno(100), "what it has is good enough");
    talk.send(LEFT, Tlv::SeqnoRequest(seqno_request(ours(), our_name(), 130, 1)));
    assert_eq!(talk.speaker.seqno(), Seqno(101));
    assert_eq!(talk.events.last(), Some(&Event::SeqnoChanged(Seqno(101))));
    talk.hear();
    talk.after(millis(50));
    assert_eq!(talk.told(LEFT, ours()), [Metric::ZERO]);
}

#[test]
fn a_flood_of_requests_moves_our_seqno_ten_times_a_second_at_most() {
    let mut talk = Talk::new();
    for seqno in 101..1101 {
        talk.after_silent(millis(1));
        talk.send(LEFT, Tlv::SeqnoRequest(seqno_request(ours(), our_name(), seqno, 1)));
    }
    let moved = talk.speaker.seqno().distance_from(Seqno(100));
    assert!((9..=11).contains(&moved), "{moved}");
}

#[test]
fn a_request_for_another_is_passed_on_once_and_its_answer_comes_back() {
    let mut talk = Talk::new();
    talk.tell(RIGHT, update(1, 100));
    talk.after(millis(500));
    talk.hear();
    let request = seqno_request(far(), name(9), 2, 64);
    talk.send(LEFT, Tlv::SeqnoRequest(request));
    talk.send(LEFT, Tlv::SeqnoRequest(request));
    let passed_on = SeqnoRequest { hop_count: 63, ..request };
    assert_eq!(talk.seqno_requests(), [(RIGHT, Destination::Unicast(THEM), passed_on)]);
    talk.tell(RIGHT, update(2, 100));
    talk.after(millis(50));
    assert_eq!(talk.told(LEFT, far()), [Metric(196)]);
}

#[test]
fn a_request_for_another_that_looks_like_an_echo_of_ours_is_passed_on_a_little_later() {
    let mut talk = Talk::new();
    talk.tell(LEFT, update(7, 100));
    talk.after(millis(500));
    talk.tell(LEFT, retraction());
    talk.after(millis(60));
    let of_ours = talk.seqno_requests();
    assert!(of_ours.iter().all(|(_, to, request)| *to == Destination::Multicast && request.seqno == Seqno(8)));
    // What is found needs no request of ours any more; who asks us by then does so once, as babeld does.
    talk.tell(RIGHT, update(7, 90));
    let request = seqno_request(far(), name(9), 8, 64);
    talk.send(LEFT, Tlv::SeqnoRequest(request));
    assert_eq!(talk.seqno_requests(), []);
    talk.after(millis(600));
    let passed_on = SeqnoRequest { hop_count: 63, ..request };
    assert_eq!(talk.seqno_requests(), [(RIGHT, Destination::Unicast(THEM), passed_on)]);
}

#[test]
fn a_request_ends_after_its_last_hop_and_does_not_go_back() {
    let mut talk = Talk::new();
    talk.tell(RIGHT, update(1, 100));
    talk.after(millis(500));
    talk.hear();
    talk.send(LEFT, Tlv::SeqnoRequest(seqno_request(far(), name(9), 2, 1)));
    talk.send(RIGHT, Tlv::SeqnoRequest(seqno_request(far(), name(9), 2, 64)));
    assert_eq!(talk.seqno_requests(), []);
}

#[test]
fn a_flood_of_requests_for_others_leaves_room_for_ours_and_ends_though_the_prefix_is_starved() {
    let mut talk = Talk::with(Limits { pending: 64, ..Limits::default() });
    let other =
        Update { prefix: Some(AnyPrefix::V6(Prefix::new("fd00:8::".parse().unwrap(), 48).unwrap())), ..update(1, 90) };
    talk.after(millis(1500));
    talk.tell(RIGHT, other);
    talk.tell(RIGHT, update(1, 100));
    talk.after(millis(500));
    talk.tell(RIGHT, retraction());
    talk.tell(LEFT, update(1, 300));
    for id in 20..255 {
        talk.send(RIGHT, Tlv::SeqnoRequest(seqno_request(far(), name(id), 9, 64)));
    }
    let noted = talk.speaker.usage().pending;
    assert!((16..=26).contains(&noted), "{noted} of 64");
    assert!(talk.speaker.counters().requests_full > 200);
    talk.hear();
    talk.tell(RIGHT, Update { prefix: other.prefix, ..retraction() });
    talk.after(millis(60));
    assert!(talk.seqno_requests().iter().any(|(_, _, request)| Some(request.prefix) == other.prefix), "ours is sent");
    for _ in 0..60 {
        talk.after(millis(1000));
        talk.tell(LEFT, update(1, 300));
    }
    assert!(talk.speaker.selected(far()).is_none(), "starved");
    assert_eq!(talk.speaker.usage().pending, 1, "ours alone");
}

#[test]
fn acknowledgment_requests_are_answered_at_once() {
    let mut talk = Talk::new();
    talk.send(LEFT, Tlv::AcknowledgmentRequest(AcknowledgmentRequest { opaque: 77, interval: Interval(10) }));
    assert_eq!(talk.hear(), [(LEFT, Destination::Unicast(THEM), Tlv::Acknowledgment(Acknowledgment { opaque: 77 }))]);
}

#[test]
fn route_requests_are_answered_with_the_route_or_its_absence() {
    let mut talk = Talk::new();
    talk.send(LEFT, Tlv::RouteRequest(RouteRequest { prefix: Some(AnyPrefix::V6(far())), source_prefix: None }));
    talk.after(millis(50));
    assert_eq!(talk.told(LEFT, far()), [Metric::INFINITY]);
    talk.after(millis(1000));
    talk.hear();
    talk.send(LEFT, Tlv::RouteRequest(RouteRequest { prefix: None, source_prefix: None }));
    assert_eq!(talk.told(LEFT, ours()), [Metric::ZERO]);
    talk.send(LEFT, Tlv::RouteRequest(RouteRequest { prefix: None, source_prefix: None }));
    assert_eq!(talk.told(LEFT, ours()), [], "not twice in a second");
    talk.after(millis(1000));
    assert_eq!(talk.told(LEFT, ours()), [Metric::ZERO]);
}

#[test]
fn a_neighbour_that_comes_up_is_told_everything_without_asking() {
    let mut talk = Talk::with(Limits::default());
    talk.after_silent(Duration::from_secs(5));
    talk.hear();
    talk.greet();
    talk.greet();
    assert_eq!(talk.told(LEFT, ours()), [Metric::ZERO]);
}

#[test]
fn what_nobody_may_announce_is_refused() {
    let mut talk = Talk::new();
    let prefix = |text: &str, len| Some(AnyPrefix::V6(Prefix::new(text.parse().unwrap(), len).unwrap()));
    talk.tell(LEFT, Update { prefix: prefix("fe80::", 10), ..update(1, 1) });
    talk.tell(LEFT, Update { prefix: prefix("ff02::1:6", 128), ..update(1, 1) });
    talk.tell(LEFT, Update { router_id: Some(our_name()), ..update(1, 1) });
    assert_eq!(talk.speaker.routes().count(), 1, "ours");
    assert_eq!(talk.speaker.counters().unroutable_prefix, 2);
}

#[test]
fn strangers_are_not_believed() {
    let mut talk = Talk::with(Limits::default());
    talk.tell(LEFT, update(1, 1));
    assert_eq!(talk.speaker.routes().count(), 1);
    assert_eq!(talk.speaker.counters().unknown_neighbour, 1);
    let hello = Hello { unicast: false, seqno: Seqno(1), interval: Some(Interval(100)), timestamp: None };
    let mut writer = Writer::new(1232, THEM);
    assert!(writer.push(&Tlv::Hello(hello)));
    let global = "fd00::1".parse().unwrap();
    talk.speaker.handle_packet(talk.now, LEFT, global, Destination::Multicast, &writer.finish()).unwrap();
    assert_eq!((talk.speaker.neighbours().count(), talk.speaker.counters().foreign_source), (0, 1));
}

#[test]
fn a_tunnel_with_many_addresses_behind_it_fills_four_places() {
    let mut talk = Talk::with(Limits::default());
    for host in 2..100_u16 {
        let hello = Hello { unicast: false, seqno: Seqno(1), interval: None, timestamp: None };
        let mut writer = Writer::new(1232, THEM);
        assert!(writer.push(&Tlv::Hello(hello)));
        let source = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, host);
        talk.speaker.handle_packet(talk.now, LEFT, source, Destination::Multicast, &writer.finish()).unwrap();
    }
    assert_eq!((talk.speaker.neighbours().count(), talk.speaker.counters().neighbours_full), (4, 94));
    talk.after_silent(Duration::from_secs(120));
    assert_eq!(talk.speaker.neighbours().count(), 0, "unscheduled Hellos do not keep them for ever");
}

#[test]
fn a_route_is_asked_for_again_then_expires_and_is_held_before_it_is_forgotten() {
    let mut talk = Talk::new();
    talk.tell(LEFT, Update { interval: Interval(1000), ..update(1, 100) });
    talk.after(millis(30_000));
    assert_eq!(talk.way(far()), Some((LEFT, Metric(196))));
    talk.hear();
    talk.after(millis(1500));
    let again = Tlv::RouteRequest(RouteRequest { prefix: Some(AnyPrefix::V6(far())), source_prefix: None });
    let again = (LEFT, Destination::Unicast(THEM), again);
    assert!(talk.hear().contains(&again));
    talk.after(millis(4000));
    assert_eq!(talk.hear().iter().filter(|heard| **heard == again).count(), 3, "an answer may be lost");
    assert_eq!(talk.events.last(), Some(&Event::RouteLost { pair: far().into() }));
    talk.after(Duration::from_secs(211));
    assert_eq!(talk.events.last(), Some(&Event::RouteForgotten { pair: far().into() }));
    assert_eq!(talk.speaker.routes.len(), 1, "ours");
}

#[test]
fn feasibility_is_forgotten_when_nobody_can_believe_the_last_announcement_any_more() {
    let mut talk = Talk::new();
    talk.tell(LEFT, update(1, 100));
    talk.after(Duration::from_secs(1));
    talk.tell(LEFT, retraction());
    talk.after(Duration::from_secs(200));
    assert_eq!(talk.speaker.routes.sources(), 1);
    talk.tell(RIGHT, update(1, 300));
    assert_eq!(talk.way(far()), None);
    talk.after(Duration::from_secs(20));
    assert_eq!(talk.way(far()), Some((RIGHT, Metric(396))), "at once, without another update");
}

#[test]
fn of_a_neighbour_that_may_announce_its_own_alone_nothing_else_is_used_until_it_may_more() {
    let mut talk = Talk::new();
    let own = |prefix| Only { own: prefix, open: None };
    talk.tell(LEFT, update(1, 100));
    assert_eq!(talk.way(far()), Some((LEFT, Metric(196))));
    talk.speaker.handle_only(talk.now, LEFT, Some(own(Prefix::new(far().addr(), 32).unwrap())));
    talk.after(millis(100));
    assert_eq!(talk.way(far()), None, "not even what is a part of its own");
    talk.tell(LEFT, update(2, 90));
    talk.tell(RIGHT, update(2, 300));
    assert_eq!(talk.way(far()), Some((RIGHT, Metric(396))));
    talk.speaker.handle_only(talk.now, LEFT, Some(own(far())));
    talk.after(millis(100));
    assert_eq!(talk.way(far()), Some((LEFT, Metric(186))), "what it told meanwhile is not forgotten");
}

/// Else two members that do not know each other yet would never hear from the ledger that they are.
#[test]
fn what_has_to_be_reached_in_any_case_is_reached_by_whoever_tells_the_way_if_nobody_better_does() {
    let mut talk = Talk::new();
    let only = Only { own: ours(), open: Some(far().addr()) };
    talk.speaker.handle_only(talk.now, LEFT, Some(only));
    talk.tell(LEFT, update(1, 100));
    talk.after(millis(100));
    assert_eq!(talk.way(far()), Some((LEFT, Metric(196 + Only::LAST_RESORT))));
    talk.tell(RIGHT, update(1, 5000));
    talk.after(millis(100));
    assert_eq!(talk.way(far()), Some((RIGHT, Metric(5096))));
    talk.speaker.handle_only(talk.now, LEFT, None);
    talk.after(Duration::from_secs(1));
    assert_eq!(talk.way(far()), Some((LEFT, Metric(196))));
}

#[test]
fn a_link_signal_loses_its_routes_at_once_and_silence_after_two_and_a_half_seconds() {
    let mut talk = Talk::new();
    talk.tell(LEFT, update(1, 100));
    talk.speaker.handle_interface_down(talk.now, LEFT);
    talk.drain();
    assert!(talk.events.contains(&Event::RouteLost { pair: far().into() }));
    assert!(talk.events.contains(&Event::NeighbourDown { interface: LEFT, address: THEM }));
    talk.events.clear();
    talk.acknowledges = false;
    talk.after_silent(millis(2300));
    assert_eq!(talk.events, []);
    talk.after_silent(millis(200));
    assert_eq!(talk.events, [Event::NeighbourDown { interface: RIGHT, address: THEM }]);
}

#[test]
fn a_neighbour_whose_ihus_stay_away_is_asked_whether_it_hears_us() {
    let mut talk = Talk::new();
    let hello_for = |talk: &mut Talk, seconds| {
        for _ in 0..seconds {
            talk.after_silent(Duration::from_secs(1));
            talk.hellos += 1;
            let hello =
                Hello { unicast: false, seqno: Seqno(talk.hellos), interval: Some(Interval(100)), timestamp: None };
            [LEFT, RIGHT].into_iter().for_each(|on| talk.send(on, Tlv::Hello(hello)));
        }
    };
    talk.events.clear();
    hello_for(&mut talk, 30);
    assert_eq!(talk.events, [], "it acknowledges, so it hears us");
    talk.acknowledges = false;
    hello_for(&mut talk, 13);
    let down = |interface| Event::NeighbourDown { interface, address: THEM };
    assert!(talk.events.contains(&down(LEFT)) && talk.events.contains(&down(RIGHT)), "{:?}", talk.events);
}

#[test]
fn a_route_is_not_told_to_where_it_came_from_and_is_taken_back_there_after_a_move() {
    let mut talk = Talk::new();
    talk.tell(LEFT, update(1, 100));
    talk.after(millis(500));
    let heard = talk.hear();
    let told = |on| heard.iter().filter(|(at, _, tlv)| *at == on && matches!(tlv, Tlv::Update(_))).count();
    assert_eq!((told(LEFT), told(RIGHT)), (0, 1));
    talk.tell(RIGHT, update(1, 10));
    talk.after(millis(500));
    assert_eq!(talk.told(RIGHT, far()), [Metric::INFINITY]);
}

#[test]
fn our_fee_is_added_to_the_price_and_the_unknown_stays_unknown() {
    let mut talk = Talk::new();
    talk.speaker.handle_fee(RIGHT, Fee { price: Price::new(5), epoch: 3 });
    let quoted = |talk: &mut Talk| {
        talk.after(millis(500));
        let mut quotes = talk.hear().into_iter().filter_map(|(on, _, tlv)| match tlv {
            Tlv::Update(update) if on == RIGHT => update.quote,
            _ => None,
        });
        quotes.next_back()
    };
    let quote = |price| Some(Quote { unit: 0, epoch: 8, price });
    talk.tell(LEFT, Update { quote: quote(Some(Price::new(20))), ..update(1, 100) });
    assert_eq!(quoted(&mut talk), Some(Quote { unit: 0, epoch: 3, price: Some(Price::new(25)) }));
    let Some(Event::RouteSelected { price, .. }) = talk.events.last() else { panic!("selected") };
    assert_eq!(*price, Some(Price::new(20)), "what the next hop asks");
    talk.tell(LEFT, Update { router_id: Some(name(8)), quote: quote(Some(Price::MAX)), ..update(1, 100) });
    assert_eq!(quoted(&mut talk).unwrap().price, Some(Price::MAX));
    talk.tell(LEFT, Update { router_id: Some(name(7)), ..update(1, 100) });
    assert_eq!(quoted(&mut talk).unwrap().price, None);
}

/// One of many.
fn subnet(number: u16) -> Option<AnyPrefix> {
    Prefix::new(Ipv6Addr::new(0xfd00, 0x100 + number, 0, 0, 0, 0, 0, 0), 48).map(AnyPrefix::V6)
}

#[test]
fn full_tables_refuse_what_is_new_and_keep_what_they_have() {
    let mut talk = Talk::with(Limits { prefixes: 8, ..Limits::default() });
    talk.after(millis(1500));
    talk.tell(LEFT, update(1, 100));
    for number in 0..10 {
        talk.tell(LEFT, Update { prefix: subnet(number), ..update(1, 100) });
    }
    assert_eq!((talk.speaker.routes.len(), talk.speaker.counters().prefixes_full), (4, 8));
    assert_eq!(talk.way(far()), Some((LEFT, Metric(196))));
}

#[test]
fn a_neighbour_that_fills_the_table_leaves_the_others_their_share() {
    let mut talk = Talk::with(Limits { prefixes: 8, ..Limits::default() });
    talk.after(millis(1500));
    for number in 0..10 {
        talk.tell(LEFT, Update { prefix: subnet(number), ..update(1, 100) });
    }
    for number in 10..20 {
        talk.tell(RIGHT, Update { prefix: subnet(number), ..update(1, 100) });
    }
    let told_by = |on| talk.speaker.routes().filter(|route| route.neighbour.is_some_and(|(id, _)| id == on)).count();
    assert_eq!((told_by(LEFT), told_by(RIGHT)), (3, 2));
}

#[test]
fn an_originator_that_changes_its_name_without_end_fills_sixteen_sources() {
    let mut talk = Talk::new();
    for id in 1..=100 {
        talk.tell(LEFT, Update { router_id: Some(name(id)), ..update(1, 100) });
        talk.after(millis(100));
    }
    assert_eq!(talk.speaker.routes.sources(), 16);
    assert!(talk.speaker.counters().sources_full > 0);
}

#[test]
fn a_claim_that_finds_no_room_ends_the_one_before_and_our_own_prefix_always_has_room() {
    let mut talk = Talk::with(Limits::default());
    let neighbour =
        |number: u16| (InterfaceId(10 + u32::from(number) / 64), Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 1, number));
    for interface in 10..14 {
        talk.speaker.handle_interface_up(talk.now, InterfaceId(interface), InterfaceConfig::wired(US));
    }
    let tell = |talk: &mut Talk, number, tlvs: &[Tlv]| {
        let (on, address) = neighbour(number);
        let mut writer = Writer::new(1232, address);
        assert!(tlvs.iter().all(|tlv| writer.push(tlv)));
        talk.speaker.handle_packet(talk.now, on, address, Destination::Multicast, &writer.finish()).unwrap();
        talk.drain();
    };
    let claim = |number: u16, id: u16, metric: u16| {
        let [high, low] = id.to_be_bytes();
        let router_id = RouterId::new([1, 0, 0, 0, 0, 0, high, low]);
        let next_hop = Some(IpAddr::V6(neighbour(number).1));
        Tlv::Update(Update { router_id, next_hop, ..update(1, metric) })
    };
    for number in 0..254 {
        let hello = |seqno| {
            Tlv::Hello(Hello { unicast: false, seqno: Seqno(seqno), interval: Some(Interval(6000)), timestamp: None })
        };
        let ihu = Ihu { address: Some(IpAddr::V6(US)), rxcost: Cost::WIRED, interval: Interval(6000), timestamp: None };
        tell(&mut talk, number, &[hello(1), hello(2), Tlv::Ihu(ihu), claim(number, number, 100 + number)]);
    }
    let used = |talk: &Talk| talk.speaker.selected(far()).map(|route| (route.neighbour, route.metric));
    assert_eq!(used(&talk), Some((Some(neighbour(0)), Metric(196))));
    tell(&mut talk, 0, &[claim(0, 300, 60_000)]);
    assert_eq!(talk.speaker.counters().prefixes_full, 1);
    assert_eq!(used(&talk), Some((Some(neighbour(1)), Metric(197))), "neighbour 0 does not claim 100 any more");

    talk.speaker.handle_originate(talk.now, far(), Metric::ZERO);
    assert_eq!(used(&talk), Some((None, Metric::ZERO)));
    talk.speaker.handle_withdraw(talk.now, far());
    tell(&mut talk, 0, &[claim(0, 301, 60_000)]);
    talk.speaker.handle_originate(talk.now, far(), Metric::ZERO);
    assert_eq!(used(&talk), Some((None, Metric::ZERO)), "nobody took our place");
}

#[test]
fn a_neighbour_that_reboots_is_believed_only_anew() {
    let mut talk = Talk::new();
    talk.tell(LEFT, update(1, 100));
    let hello = Hello { unicast: false, seqno: Seqno(30_000), interval: Some(Interval(100)), timestamp: None };
    talk.send(LEFT, Tlv::Hello(hello));
    assert_eq!(talk.way(far()), None);
}

#[test]
fn what_neighbours_tell_a_way_to_cost_is_the_lowest_of_those_on_the_interface() {
    let mut talk = Talk::new();
    let third = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 3);
    let tell = |talk: &mut Talk, from: Ipv6Addr, told: Option<u32>, metric: u16| {
        let mut writer = Writer::new(1232, from);
        let hello = Hello { unicast: false, seqno: Seqno(1), interval: Some(Interval(100)), timestamp: None };
        let quote = told.map(|price| Quote { unit: 0, epoch: 1, price: Some(Price::new(price)) });
        assert!(writer.push(&Tlv::Hello(hello)));
        assert!(writer.push(&Tlv::Update(Update { quote, next_hop: Some(IpAddr::V6(from)), ..update(1, metric) })));
        talk.speaker.handle_packet(talk.now, LEFT, from, Destination::Multicast, &writer.finish()).unwrap();
    };
    let told = |talk: &Talk, on| talk.speaker.told(far(), on).map(Price::get);
    assert_eq!(told(&talk, LEFT), None, "nobody reaches it");
    tell(&mut talk, third, Some(30), 100);
    assert_eq!(told(&talk, LEFT), Some(30));
    tell(&mut talk, THEM, Some(20), 200);
    assert_eq!((told(&talk, LEFT), told(&talk, RIGHT)), (Some(20), None));
    talk.tell(LEFT, retraction());
    assert_eq!(told(&talk, LEFT), Some(30), "who told less does not reach it any more");
}

/// It has forgotten us: without two Hellos and an IHU it does not use the link, and the next IHU may be far.
#[test]
fn a_neighbour_that_reboots_hears_of_us_at_once() {
    for wait in [300, 1300, 2600, 3900] {
        let mut talk = Talk::new();
        talk.after(Duration::from_secs(20) + millis(wait));
        talk.heard.clear();
        let hello = Hello { unicast: false, seqno: Seqno(30_000), interval: Some(Interval(400)), timestamp: None };
        talk.send(LEFT, Tlv::Hello(hello));
        talk.after_silent(millis(200));
        let heard =
            |wanted: fn(&Tlv) -> bool| talk.heard.iter().filter(|(on, _, tlv)| *on == LEFT && wanted(tlv)).count();
        assert!(heard(|tlv| matches!(tlv, Tlv::Hello(_))) >= 2, "{wait} ms: {:?}", talk.heard);
        assert!(heard(|tlv| matches!(tlv, Tlv::Ihu(_))) >= 1, "{wait} ms: {:?}", talk.heard);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Packet(u8, Vec<Tlv>),
    Bytes(u8, Vec<u8>),
    Up(u8),
    Down(u8),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..5_000_u64).prop_map(Step::Wait),
        1 => (0..400_000_u64).prop_map(Step::Wait),
        9 => (any::<u8>(), prop::collection::vec(any_tlv(), 1..10)).prop_map(|(from, tlvs)| Step::Packet(from, tlvs)),
        2 => (any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(from, bytes)| Step::Bytes(from, bytes)),
        1 => (0..3_u8).prop_map(Step::Up),
        1 => (0..3_u8).prop_map(Step::Down),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn whatever_is_sent_tables_stay_bounded_and_the_selected_route_feasible(steps in prop::collection::vec(any_step(), 1..60)) {
        let limits = Limits { neighbours: 6, prefixes: 20, sources: 20, pending: 5 };
        let mut talk = Talk::with(limits);
        for step in steps {
            match step {
                Step::Wait(pause) => talk.after_silent(millis(pause)),
                Step::Packet(from, tlvs) => {
                    let mut writer = Writer::new(65_000, THEM);
                    let hello = Hello { unicast: false, seqno: Seqno(talk.hellos), interval: Some(Interval(500)), timestamp: None };
                    talk.hellos += 1;
                    let _ = writer.push(&Tlv::Hello(hello));
                    let _ = writer.push(&Tlv::Ihu(Ihu { address: None, rxcost: Cost::WIRED, interval: Interval(900), timestamp: None }));
                    tlvs.iter().for_each(|tlv| assert!(writer.push(tlv)));
                    let source = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, u16::from(from >> 4));
                    talk.speaker.handle_packet(talk.now, InterfaceId(u32::from(from % 3)), source, Destination::Multicast, &writer.finish()).unwrap();
                    talk.drain();
                }
                Step::Bytes(from, bytes) => {
                    let _ = talk.speaker.handle_packet(talk.now, InterfaceId(u32::from(from % 3)), THEM, Destination::Multicast, &bytes);
                }
                Step::Up(id) => talk.speaker.handle_interface_up(talk.now, InterfaceId(id.into()), InterfaceConfig::lossy(US)),
                Step::Down(id) => talk.speaker.handle_interface_down(talk.now, InterfaceId(id.into())),
            }
            talk.drain();
            let speaker = &talk.speaker;
            prop_assert!(speaker.neighbours().count() <= limits.neighbours && speaker.routes.len() <= limits.prefixes);
            prop_assert!(speaker.routes.sources() <= limits.sources && speaker.pending.len() <= limits.pending);
            prop_assert!(speaker.routes().all(|route| !route.selected || (route.feasible && route.metric.is_finite())));
            talk.heard.clear();
        }
    }
}
