//! Whether a neighbour is there, and what the way to it costs.

use super::*;
use crate::interface::LinkSensing;

const DOWN: Event = Event::NeighbourDown { interface: LEFT, address: THEM };

impl Talk {
    fn is_up(&self, on: InterfaceId) -> bool {
        self.speaker.neighbours().any(|neighbour| neighbour.interface == on && neighbour.cost.is_finite())
    }

    /// Time passes without Hellos. How often the neighbour on the left was asked whether it is there.
    fn without_hellos(&mut self, duration: Duration, answers: bool) -> usize {
        self.acknowledges = answers;
        self.asked.clear();
        self.after_silent(duration);
        self.asked.iter().filter(|on| **on == LEFT).count()
    }
}

/// The last Hello has just come.
fn greeted() -> Talk {
    let mut talk = Talk::new();
    talk.greet();
    talk
}

#[test]
fn a_new_neighbour_is_asked_once_to_acknowledge() {
    let mut talk = Talk::with(Limits::default());
    talk.after(millis(1500));
    talk.asked.sort_unstable();
    assert_eq!(talk.asked, [LEFT, RIGHT]);
}

#[test]
fn a_neighbour_whose_hello_fails_to_come_is_asked_eight_times_and_gone_if_it_does_not_answer() {
    let mut talk = greeted();
    assert_eq!(talk.without_hellos(millis(1490), false), 0);
    assert_eq!(talk.without_hellos(millis(800), false), 8);
    assert!(talk.is_up(LEFT));
    talk.without_hellos(millis(100), false);
    assert!(!talk.is_up(LEFT) && talk.events.contains(&DOWN));
}

#[test]
fn a_neighbour_that_answers_stays_while_its_hellos_are_lost_and_one_question_is_enough() {
    let mut talk = greeted();
    let asked = talk.without_hellos(Duration::from_secs(9), true);
    assert!(talk.is_up(LEFT) && !talk.events.contains(&DOWN));
    assert!((7..=9).contains(&asked), "{asked} questions for as many Hellos");
}

#[test]
fn any_packet_is_an_answer() {
    let mut talk = greeted();
    talk.without_hellos(millis(1900), false);
    talk.tell(LEFT, update(1, 100));
    assert_eq!(talk.without_hellos(millis(500), false), 0);
    assert!(talk.is_up(LEFT));
}

#[test]
fn a_neighbour_that_never_acknowledged_is_judged_by_its_hellos_alone() {
    let mut talk = Talk::with(Limits::default());
    talk.acknowledges = false;
    talk.after(millis(1500));
    assert_eq!(talk.without_hellos(millis(2480), false), 0);
    assert!(talk.is_up(LEFT));
    talk.without_hellos(millis(30), false);
    assert!(!talk.is_up(LEFT));
}

#[test]
fn a_link_whose_owner_doubts_is_found_out_within_a_second() {
    let mut talk = greeted();
    talk.speaker.handle_interface_doubtful(talk.now, LEFT);
    assert_eq!(talk.without_hellos(millis(840), false), 8);
    assert!(talk.is_up(LEFT));
    talk.without_hellos(millis(20), false);
    assert!(!talk.is_up(LEFT));
    assert!(talk.is_up(RIGHT), "the other one is not asked");
}

#[test]
fn while_a_neighbour_does_not_answer_the_next_best_is_made_ready_and_takes_over_at_once() {
    let mut talk = greeted();
    talk.tell(LEFT, update(1, 100));
    talk.after(millis(500));
    talk.tell(RIGHT, update(1, 300));
    talk.hear();
    talk.acknowledges = false;
    talk.speaker.handle_interface_doubtful(talk.now, LEFT);
    talk.after_silent(millis(400));
    let requests = talk.seqno_requests();
    assert_eq!(requests, [(RIGHT, Destination::Unicast(THEM), seqno_request(far(), name(9), 2, 127))]);
    talk.tell(RIGHT, update(2, 300));
    assert_eq!(talk.way(far()), Some((LEFT, Metric(196))), "there is still hope");
    talk.after_silent(millis(460));
    assert!(!talk.is_up(LEFT));
    assert_eq!(talk.way(far()), Some((RIGHT, Metric(396))));
    assert!(!talk.events.contains(&Event::RouteLost { pair: far().into() }), "never without a route");
    talk.after(Duration::from_secs(3));
    assert_eq!(talk.seqno_requests(), [], "it was answered");
}

#[test]
fn the_round_trip_is_measured_between_hellos_and_costs_what_is_above_its_range() {
    let mut talk = Talk::new();
    talk.heard.clear();
    talk.after_silent(millis(3000));
    let hello = |(_, _, tlv): &(_, _, Tlv)| match tlv {
        Tlv::Hello(hello) => hello.timestamp,
        _ => None,
    };
    let ours = talk.heard.iter().rev().find_map(hello).unwrap();
    let sent_at = talk.epoch_micros();
    talk.after_silent(millis(150));
    let (theirs, rxcost, interval) = (70_000_000, Cost::WIRED, Interval(300));
    let waited = talk.epoch_micros().wrapping_sub(ours.0) - 65_000;
    let echo = IhuTimestamp { origin_us: ours.0, receive_us: theirs - waited };
    let mut writer = Writer::new(1232, THEM);
    talk.hellos += 3;
    let hello = Hello {
        unicast: false,
        seqno: Seqno(talk.hellos),
        interval: Some(Interval(100)),
        timestamp: Some(HelloTimestamp(theirs)),
    };
    assert!(writer.push(&Tlv::Hello(hello)));
    assert!(writer.push(&Tlv::Ihu(Ihu { address: None, rxcost, interval, timestamp: Some(echo) })));
    talk.speaker.handle_packet(talk.now, LEFT, THEM, Destination::Multicast, &writer.finish()).unwrap();
    assert!(sent_at >= ours.0);
    let left = talk.speaker.neighbours().find(|neighbour| neighbour.interface == LEFT).unwrap();
    assert_eq!(left.rtt, Some(millis(65)));
    assert!(left.cost >= Cost::new(96 + 75), "half of 150 above a wired link: {}", left.cost);
    talk.heard.clear();
    talk.after_silent(millis(3500));
    let echoed = talk.heard.iter().find_map(|(on, _, tlv)| match tlv {
        Tlv::Ihu(ihu) if *on == LEFT => ihu.timestamp,
        _ => None,
    });
    assert_eq!(echoed.map(|echo| echo.origin_us), Some(theirs), "we echo theirs");
}

impl Talk {
    fn epoch_micros(&self) -> u32 {
        self.speaker.epoch.micros(self.now)
    }
}

#[test]
fn unicast_hellos_are_sent_where_they_are_configured_beside_multicast_ones() {
    let mut talk = Talk::new();
    let config = InterfaceConfig { unicast_hellos: true, ..InterfaceConfig::wired(US) };
    talk.speaker.handle_interface_up(talk.now, LEFT, config);
    talk.greet();
    talk.heard.clear();
    talk.after(Duration::from_secs(13));
    let seqnos = |unicast: bool| {
        let hellos = talk.heard.iter().filter_map(move |(on, to, tlv)| match tlv {
            Tlv::Hello(hello) if *on == LEFT && hello.unicast == unicast => {
                assert_eq!(*to == Destination::Unicast(THEM), unicast);
                Some(hello.seqno)
            }
            _ => None,
        });
        hellos.collect::<Vec<Seqno>>()
    };
    let (unicast, multicast) = (seqnos(true), seqnos(false));
    assert!(unicast.len() >= 3 && multicast.len() >= 3, "{unicast:?} {multicast:?}");
    assert!(unicast.windows(2).all(|pair| pair[0].next() == pair[1]));
}

#[test]
fn a_wired_neighbour_is_not_asked() {
    let mut talk = Talk::new();
    let config = InterfaceConfig { sensing: LinkSensing::TwoOutOfThree, ..InterfaceConfig::tunnel(US) };
    talk.speaker.handle_interface_up(talk.now, LEFT, config);
    talk.after(millis(1500));
    assert_eq!(talk.without_hellos(millis(2600), false), 0);
    assert!(!talk.is_up(LEFT));
}
