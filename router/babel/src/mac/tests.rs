//! Packets of other implementations, conversations between two routers, and what an attacker may try.

use super::neighbour::{CHALLENGE_EXPIRY, CHALLENGE_SPACING, EXPIRY};
use super::*;
use crate::wire::tests::any_tlv;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::time::Duration;

const LEFT: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const RIGHT: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
const NEIGHBOURS_MAX: usize = 8;

pub(super) fn octets(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|digit| !digit.is_ascii_whitespace()).collect();
    let octet = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(octet).collect()
}

fn key(algorithm: MacAlgorithm, octets: &[u8]) -> MacKey {
    MacKey::new(algorithm, octets).unwrap()
}

fn hmac(octets: &[u8]) -> MacKey {
    key(MacAlgorithm::HmacSha256, octets)
}

fn router(address: Ipv6Addr, seed: u8, keys: impl Into<MacKeys>) -> MacState {
    MacState::new(address, keys.into(), Nonces::new([seed; 32]), NEIGHBOURS_MAX)
}

pub(super) fn start() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "an Instant has no other origin")]
    Instant::now()
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A packet whose body says something that can be told from all else.
fn message(text: u64) -> Vec<u8> {
    packet(&[&[1, 8], &text.to_be_bytes()[..]].concat())
}

fn packet(body: &[u8]) -> Vec<u8> {
    let mut packet = [&[42, 2, 0, 0], body].concat();
    fix_body_length(&mut packet);
    packet
}

/// A valid MAC on a body that no router would write.
fn signed(by: &MacState, to: Destination, body: &[u8]) -> Vec<u8> {
    let mut packet = packet(body);
    by.write_macs(to, &mut packet);
    packet
}

fn tlv(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    tlv::write(&mut out, kind, body);
    out
}

/// The nonces in a packet's TLVs of a kind.
fn nonces_in(packet: &[u8], kind: u8) -> Vec<Vec<u8>> {
    let body = Packet::parse(packet).unwrap().body();
    tlv::tlvs(body).filter(|(found, _)| *found == kind).map(|(_, nonce)| nonce.to_vec()).collect()
}

/// Two routers on a link, and the time.
struct Link {
    now: Instant,
    left: MacState,
    right: MacState,
}

impl Link {
    /// They have not met.
    fn with(left: impl Into<MacKeys>, right: impl Into<MacKeys>) -> Self {
        Self { now: start(), left: router(LEFT, 1, left), right: router(RIGHT, 2, right) }
    }

    /// They have met.
    fn new() -> Self {
        let mut link = Self::with(hmac(b"secret"), hmac(b"secret"));
        link.meet();
        link
    }

    fn after(&mut self, duration: Duration) {
        self.now += duration;
        for router in [&mut self.left, &mut self.right] {
            router.handle_timeout(self.now);
        }
    }

    fn left_says(&mut self, to: Destination) -> Vec<u8> {
        self.left.protect(self.now, to, message(1))
    }

    fn right_hears(&mut self, to: Destination, packet: &[u8]) -> Result<(), MacRefusal> {
        self.right.verify(self.now, LEFT, to, packet)
    }

    fn multicast(&mut self) -> Result<(), MacRefusal> {
        let packet = self.left_says(Destination::Multicast);
        self.right_hears(Destination::Multicast, &packet)
    }

    fn unicast(&mut self) -> Result<(), MacRefusal> {
        let packet = self.left_says(Destination::Unicast(RIGHT));
        self.right_hears(Destination::Unicast(RIGHT), &packet)
    }

    /// For a second challenges and their answers go back and forth without loss; then nothing is left to say.
    fn settle(&mut self) {
        for _ in 0..10 {
            if let Some((to, packet)) = self.right.poll_transmit(self.now) {
                assert_eq!(to, LEFT);
                let _ = self.left.verify(self.now, RIGHT, Destination::Unicast(to), &packet);
            }
            if let Some((to, packet)) = self.left.poll_transmit(self.now) {
                assert_eq!(to, RIGHT);
                let _ = self.right_hears(Destination::Unicast(to), &packet);
            }
            self.after(millis(100));
        }
        assert_eq!((self.left.poll_transmit(self.now), self.right.poll_transmit(self.now)), (None, None));
    }

    fn meet(&mut self) {
        assert_eq!(self.multicast(), Err(MacRefusal::IndexUnknown));
        self.settle();
        assert_eq!(self.multicast(), Ok(()));
    }
}

#[test]
fn two_routers_who_meet_challenge_each_other_once() {
    let mut link = Link::with(hmac(b"secret"), hmac(b"secret"));
    assert_eq!(link.multicast(), Err(MacRefusal::IndexUnknown));
    let (to, challenge) = link.right.poll_transmit(link.now).unwrap();
    assert_eq!((to, link.right.poll_transmit(link.now)), (LEFT, None));
    assert_eq!(nonces_in(&challenge, tlv::CHALLENGE_REQUEST).len(), 1);

    assert_eq!(
        link.left.verify(link.now, RIGHT, Destination::Unicast(LEFT), &challenge),
        Err(MacRefusal::IndexUnknown)
    );
    let (to, answer) = link.left.poll_transmit(link.now).unwrap();
    assert_eq!(to, RIGHT);
    assert_eq!(nonces_in(&answer, tlv::CHALLENGE_REPLY), nonces_in(&challenge, tlv::CHALLENGE_REQUEST));
    assert_eq!(nonces_in(&answer, tlv::CHALLENGE_REQUEST).len(), 1);

    assert_eq!(link.right_hears(Destination::Unicast(RIGHT), &answer), Ok(()));
    let (_, answer_of_right) = link.right.poll_transmit(link.now).unwrap();
    assert_eq!(link.left.verify(link.now, RIGHT, Destination::Unicast(LEFT), &answer_of_right), Ok(()));
    assert_eq!((link.left.poll_transmit(link.now), link.right.poll_transmit(link.now)), (None, None));
    assert_eq!((link.multicast(), link.unicast()), (Ok(()), Ok(())));
}

#[test]
fn challenges_ride_on_a_packet_that_goes_to_the_neighbour_anyway() {
    let mut link = Link::with(hmac(b"secret"), hmac(b"secret"));
    let _ = link.multicast();
    let hello = link.right.protect(link.now, Destination::Multicast, message(1));
    assert_eq!(nonces_in(&hello, tlv::CHALLENGE_REQUEST).len(), 0, "never by multicast");
    let update = link.right.protect(link.now, Destination::Unicast(LEFT), message(2));
    assert_eq!(nonces_in(&update, tlv::CHALLENGE_REQUEST).len(), 1);
    assert_eq!(link.right.poll_transmit(link.now), None);
    assert!(Packet::parse(&update).unwrap().body().starts_with(&message(2)[HEADER..]));
}

#[test]
fn a_packet_is_taken_once() {
    let mut link = Link::new();
    for to in [Destination::Multicast, Destination::Unicast(RIGHT)] {
        let packet = link.left_says(to);
        assert_eq!(link.right_hears(to, &packet), Ok(()));
        assert_eq!(link.right_hears(to, &packet), Err(MacRefusal::Replayed));
    }
    assert_eq!(link.right.counters().replayed, 2);
}

#[test]
fn multicast_that_waited_for_a_sleeping_radio_is_not_taken_for_a_replay() {
    let mut link = Link::new();
    let multicast = link.left_says(Destination::Multicast);
    assert_eq!((link.unicast(), link.unicast()), (Ok(()), Ok(())));
    assert_eq!(link.right_hears(Destination::Multicast, &multicast), Ok(()));
    assert_eq!(link.right_hears(Destination::Multicast, &multicast), Err(MacRefusal::Replayed));
    assert_eq!(link.right_hears(Destination::Unicast(RIGHT), &multicast), Err(MacRefusal::WrongMac));
}

#[test]
fn what_was_said_before_our_restart_is_not_believed_after_it() {
    let mut link = Link::new();
    let (old, unheard) = (link.left_says(Destination::Multicast), link.left_says(Destination::Multicast));
    assert_eq!(link.right_hears(Destination::Multicast, &old), Ok(()));
    link.right = router(RIGHT, 3, hmac(b"secret"));
    for packet in [&old, &unheard] {
        assert_eq!(link.right_hears(Destination::Multicast, packet), Err(MacRefusal::IndexUnknown));
    }
    link.settle();
    for packet in [&old, &unheard] {
        assert_eq!(link.right_hears(Destination::Multicast, packet), Err(MacRefusal::Replayed));
    }
    assert_eq!(link.multicast(), Ok(()));
}

#[test]
fn a_neighbour_that_restarts_answers_a_challenge_and_its_old_packets_are_worth_nothing() {
    let mut link = Link::new();
    let old = link.left_says(Destination::Multicast);
    link.left = router(LEFT, 3, hmac(b"secret"));
    link.meet();
    assert_eq!(link.right_hears(Destination::Multicast, &old), Err(MacRefusal::IndexUnknown));
    assert_eq!(link.multicast(), Ok(()), "a replay does not disturb those who have met");
    link.settle();
    assert_eq!((link.multicast(), link.unicast()), (Ok(()), Ok(())));
}

#[test]
fn an_old_answer_meets_no_new_challenge() {
    let mut link = Link::with(hmac(b"secret"), hmac(b"secret"));
    let _ = link.multicast();
    let (_, challenge) = link.right.poll_transmit(link.now).unwrap();
    let _ = link.left.verify(link.now, RIGHT, Destination::Unicast(LEFT), &challenge);
    let (to, answer) = link.left.poll_transmit(link.now).unwrap();
    assert_eq!(link.right_hears(Destination::Unicast(to), &answer), Ok(()));
    link.right.forget(LEFT);
    assert_eq!(link.right_hears(Destination::Unicast(to), &answer), Err(MacRefusal::IndexUnknown));
    assert!(link.right.poll_transmit(link.now).is_some());
    assert_eq!(link.right_hears(Destination::Unicast(to), &answer), Err(MacRefusal::IndexUnknown));
}

#[test]
fn an_answer_after_thirty_seconds_is_too_late() {
    let mut link = Link::with(hmac(b"secret"), hmac(b"secret"));
    let answer_after = |link: &mut Link, wait| {
        let _ = link.multicast();
        let (_, challenge) = link.right.poll_transmit(link.now).unwrap();
        link.after(wait);
        let _ = link.left.verify(link.now, RIGHT, Destination::Unicast(LEFT), &challenge);
        let (to, answer) = link.left.poll_transmit(link.now).unwrap();
        link.right_hears(Destination::Unicast(to), &answer)
    };
    assert_eq!(answer_after(&mut link, CHALLENGE_EXPIRY), Err(MacRefusal::IndexUnknown));
    assert_eq!(answer_after(&mut link, CHALLENGE_EXPIRY - millis(1)), Ok(()));
}

#[test]
fn an_answer_that_was_overtaken_does_not_open_the_door_to_what_overtook_it() {
    let mut link = Link::new();
    let of_an_earlier_start = router(LEFT, 3, hmac(b"secret")).protect(link.now, Destination::Multicast, message(9));
    let _ = link.right_hears(Destination::Multicast, &of_an_earlier_start);
    let (_, challenge) = link.right.poll_transmit(link.now).unwrap();
    let _ = link.left.verify(link.now, RIGHT, Destination::Unicast(LEFT), &challenge);
    link.after(CHALLENGE_SPACING);
    let (_, answer) = link.left.poll_transmit(link.now).unwrap();
    let both = [Destination::Multicast, Destination::Unicast(RIGHT)];
    let later = both.map(|to| (to, link.left_says(to)));
    assert_eq!(later.each_ref().map(|(to, packet)| link.right_hears(*to, packet)), [Ok(()), Ok(())]);
    assert_eq!(link.right_hears(Destination::Unicast(RIGHT), &answer), Ok(()));
    let again = later.each_ref().map(|(to, packet)| link.right_hears(*to, packet));
    assert_eq!(again, [Err(MacRefusal::Replayed), Err(MacRefusal::Replayed)]);
}

#[test]
fn who_has_answered_is_not_asked_again() {
    let mut link = Link::with(hmac(b"secret"), hmac(b"secret"));
    let _ = link.multicast();
    let (_, challenge) = link.right.poll_transmit(link.now).unwrap();
    let _ = (link.multicast(), link.left.verify(link.now, RIGHT, Destination::Unicast(LEFT), &challenge));
    assert_eq!(link.right.poll_timeout(), Some(link.now + CHALLENGE_SPACING), "it would be asked again");
    let (_, answer) = link.left.poll_transmit(link.now).unwrap();
    assert_eq!(link.right_hears(Destination::Unicast(RIGHT), &answer), Ok(()));
    link.after(CHALLENGE_SPACING);
    let (_, only_reply) = link.right.poll_transmit(link.now).unwrap();
    assert_eq!(nonces_in(&only_reply, tlv::CHALLENGE_REQUEST).len(), 0);
}

#[test]
fn challenges_and_answers_are_300_ms_apart_however_often_they_are_provoked() {
    let mut link = Link::with(hmac(b"secret"), hmac(b"secret"));
    let (mut requests, mut replies) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        let packet = link.left_says(Destination::Multicast);
        let _ = link.right_hears(Destination::Multicast, &packet);
        if let Some((_, packet)) = link.right.poll_transmit(link.now) {
            requests.push(link.now);
            for _ in 0..3 {
                let _ = link.left.verify(link.now, RIGHT, Destination::Unicast(LEFT), &packet);
            }
        }
        if let Some((_, packet)) = link.left.poll_transmit(link.now)
            && !nonces_in(&packet, tlv::CHALLENGE_REPLY).is_empty()
        {
            replies.push(link.now);
        }
        link.after(millis(10));
    }
    for times in [requests, replies] {
        assert_eq!(times.len(), 4, "in one second");
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= CHALLENGE_SPACING));
    }
}

#[test]
fn a_challenge_that_came_too_soon_is_answered_when_it_may_be() {
    let mut link = Link::new();
    let ask = |link: &mut Link, nonce: u8| {
        let request = tlv(tlv::CHALLENGE_REQUEST, &[nonce; 10]);
        let asking = link.left.protect(link.now, Destination::Unicast(RIGHT), packet(&request));
        assert_eq!(link.right_hears(Destination::Unicast(RIGHT), &asking), Ok(()));
        nonces_in(&asking, tlv::CHALLENGE_REQUEST)
    };
    link.after(CHALLENGE_SPACING);
    let first = ask(&mut link, 1);
    let (_, reply) = link.right.poll_transmit(link.now).unwrap();
    assert_eq!(nonces_in(&reply, tlv::CHALLENGE_REPLY), first);
    link.after(millis(100));
    let second = ask(&mut link, 2);
    assert_eq!(link.right.poll_transmit(link.now), None);
    assert_eq!(link.right.poll_timeout(), Some(link.now + millis(200)));
    link.after(millis(200));
    let (_, reply) = link.right.poll_transmit(link.now).unwrap();
    assert_eq!(nonces_in(&reply, tlv::CHALLENGE_REPLY), second);
}

#[test]
fn routers_meet_over_a_round_trip_that_is_longer_than_the_spacing_of_challenges() {
    let mut link = Link::with(hmac(b"secret"), hmac(b"secret"));
    let mut challenges = Vec::new();
    for _ in 0..5 {
        let _ = link.multicast();
        challenges.extend(link.right.poll_transmit(link.now));
        link.after(CHALLENGE_SPACING);
    }
    assert_eq!(challenges.len(), 5);
    let (_, first) = &challenges[0];
    let _ = link.left.verify(link.now, RIGHT, Destination::Unicast(LEFT), first);
    let (_, answer) = link.left.poll_transmit(link.now).unwrap();
    assert_eq!(link.right_hears(Destination::Unicast(RIGHT), &answer), Ok(()));
}

#[test]
fn a_challenge_to_everybody_is_not_answered() {
    let mut link = Link::new();
    let request = packet(&tlv(tlv::CHALLENGE_REQUEST, &[7; 10]));
    let asking = link.left.protect(link.now, Destination::Multicast, request);
    assert_eq!(link.right_hears(Destination::Multicast, &asking), Ok(()));
    assert_eq!(link.right.poll_transmit(link.now), None);
}

#[test]
fn a_replayed_challenge_is_not_answered() {
    let mut link = Link::new();
    link.after(CHALLENGE_SPACING);
    let request = packet(&tlv(tlv::CHALLENGE_REQUEST, &[7; 10]));
    let asking = link.left.protect(link.now, Destination::Unicast(RIGHT), request);
    assert_eq!(link.right_hears(Destination::Unicast(RIGHT), &asking), Ok(()));
    assert!(link.right.poll_transmit(link.now).is_some());
    link.after(CHALLENGE_SPACING);
    assert_eq!(link.right_hears(Destination::Unicast(RIGHT), &asking), Err(MacRefusal::Replayed));
    assert_eq!(link.right.poll_transmit(link.now), None);
}

#[test]
fn nonces_of_0_to_192_octets_are_echoed_and_longer_ones_ignored() {
    for (len, answered) in [(0, true), (1, true), (192, true), (193, false), (255, false)] {
        let mut link = Link::new();
        link.after(CHALLENGE_SPACING);
        let nonce = vec![7; len];
        let asking =
            link.left.protect(link.now, Destination::Unicast(RIGHT), packet(&tlv(tlv::CHALLENGE_REQUEST, &nonce)));
        assert_eq!(link.right_hears(Destination::Unicast(RIGHT), &asking), Ok(()));
        let reply = link.right.poll_transmit(link.now).map(|(_, reply)| nonces_in(&reply, tlv::CHALLENGE_REPLY));
        assert_eq!(reply, answered.then(|| vec![nonce]));
    }
}

#[test]
fn another_key_or_none_is_refused_and_leaves_no_trace() {
    let mut link = Link::with(hmac(b"secret"), hmac(b"secre!"));
    assert_eq!((link.multicast(), link.unicast()), (Err(MacRefusal::WrongMac), Err(MacRefusal::WrongMac)));
    assert_eq!(link.right_hears(Destination::Multicast, &message(1)), Err(MacRefusal::WithoutMac));
    assert_eq!(
        link.right_hears(Destination::Multicast, b"hello"),
        Err(MacRefusal::Malformed(DecodeError::NotBabel { found: b'h' }))
    );
    assert_eq!(
        (link.right.neighbours.len(), link.right.poll_transmit(link.now), link.right.poll_timeout()),
        (0, None, None)
    );
    let counters = MacCounters { malformed: 1, without_mac: 1, wrong_mac: 2, ..MacCounters::default() };
    assert_eq!(link.right.counters(), counters);
}

#[test]
fn the_algorithms_do_not_take_each_other_for_themselves() {
    let mut link = Link::with(key(MacAlgorithm::Blake2s128, b"secret"), hmac(b"secret"));
    assert_eq!(link.multicast(), Err(MacRefusal::WrongMac));
    let mut link = Link::with(key(MacAlgorithm::Blake2s128, b"secret"), key(MacAlgorithm::Blake2s128, b"secret"));
    link.meet();
}

#[test]
fn a_mac_that_is_cut_short_or_changed_is_refused() {
    let mut link = Link::new();
    let packet = link.left_says(Destination::Multicast);
    let (signed, mac) = packet.split_at(packet.len() - 34);
    for len in 0..32 {
        let shortened = [signed, &tlv(tlv::MAC, &mac[2..2 + len])].concat();
        assert_eq!(link.right_hears(Destination::Multicast, &shortened), Err(MacRefusal::WrongMac));
    }
    for cut in 1..=34 {
        assert_eq!(
            link.right_hears(Destination::Multicast, &packet[..packet.len() - cut]),
            Err(MacRefusal::WithoutMac)
        );
    }
    for octet in 2..34 {
        let mut changed = mac.to_vec();
        changed[octet] ^= 0x80;
        assert_eq!(link.right_hears(Destination::Multicast, &[signed, &changed].concat()), Err(MacRefusal::WrongMac));
    }
    assert_eq!(link.right_hears(Destination::Multicast, &packet), Ok(()));
}

/// The trailer is not signed: whoever stands between may put there what he likes.
#[test]
fn what_else_is_in_the_trailer_does_not_matter() {
    let mut link = Link::new();
    let false_counter = tlv(tlv::PACKET_COUNTER, &[0xff; 20]);
    let false_challenge = tlv(tlv::CHALLENGE_REQUEST, &[1]);
    let before_and_behind: [(&[u8], &[u8]); 7] = [
        (&[], &[16, 200, 1]),
        (&[], &[0xff]),
        (&[0, 0], &[]),
        (&tlv(99, &[1, 2, 3]), &[]),
        (&tlv(tlv::MAC, &[9; 32]), &tlv(tlv::MAC, &[])),
        (&false_counter, &[]),
        (&false_challenge, &false_challenge),
    ];
    for (before, behind) in before_and_behind {
        let packet = link.left_says(Destination::Unicast(RIGHT));
        let (signed, mac) = packet.split_at(packet.len() - 34);
        let packet = [signed, before, mac, behind].concat();
        assert_eq!(link.right_hears(Destination::Unicast(RIGHT), &packet), Ok(()));
        assert_eq!(link.right.poll_transmit(link.now), None);
    }
    let packet = link.left_says(Destination::Unicast(RIGHT));
    let (signed, mac) = packet.split_at(packet.len() - 34);
    let behind_a_broken_frame = [signed, &[99, 200], mac].concat();
    assert_eq!(link.right_hears(Destination::Unicast(RIGHT), &behind_a_broken_frame), Err(MacRefusal::WithoutMac));
}

#[test]
fn a_mac_in_the_body_is_none() {
    let mut link = Link::new();
    let packet = link.left_says(Destination::Multicast);
    let all_body = self::packet(&packet[HEADER..]);
    assert_eq!(link.right_hears(Destination::Multicast, &all_body), Err(MacRefusal::WithoutMac));
}

#[test]
fn a_packet_without_counter_or_with_an_overlong_index_is_refused() {
    let mut link = Link::new();
    for body in [&[][..], &tlv(tlv::PACKET_COUNTER, &[1, 2, 3]), &tlv(tlv::PACKET_COUNTER, &[9; 37])] {
        let packet = signed(&link.left, Destination::Multicast, body);
        assert_eq!(link.right_hears(Destination::Multicast, &packet), Err(MacRefusal::WithoutPacketCounter));
    }
    assert_eq!(link.right.counters().without_packet_counter, 3);
}

#[test]
fn of_two_counters_the_first_counts() {
    let mut link = Link::new();
    let old = tlv(tlv::PACKET_COUNTER, &[&[0, 0, 0, 1][..], &link.left.index].concat());
    let new = tlv(tlv::PACKET_COUNTER, &[&[0, 0, 1, 0][..], &link.left.index].concat());
    let packet = signed(&link.left, Destination::Multicast, &[&old[..], &new].concat());
    assert_eq!(link.right_hears(Destination::Multicast, &packet), Err(MacRefusal::Replayed));
    let packet = signed(&link.left, Destination::Multicast, &[&new[..], &old].concat());
    assert_eq!(link.right_hears(Destination::Multicast, &packet), Ok(()));
}

/// RFC 8967, section 6.2, allows an empty index.
#[test]
fn a_neighbour_with_stable_storage_and_an_empty_index_is_served() {
    let mut link = Link::with(hmac(b"secret"), hmac(b"secret"));
    let counter = |pc: u32| tlv(tlv::PACKET_COUNTER, &pc.to_be_bytes());
    let first = signed(&link.left, Destination::Multicast, &counter(1));
    assert_eq!(link.right_hears(Destination::Multicast, &first), Err(MacRefusal::IndexUnknown));
    let (_, challenge) = link.right.poll_transmit(link.now).unwrap();
    let reply = tlv(tlv::CHALLENGE_REPLY, &nonces_in(&challenge, tlv::CHALLENGE_REQUEST)[0]);
    let answer = signed(&link.left, Destination::Unicast(RIGHT), &[reply, counter(2)].concat());
    assert_eq!(link.right_hears(Destination::Unicast(RIGHT), &answer), Ok(()));
    assert_eq!(link.right_hears(Destination::Multicast, &first), Err(MacRefusal::Replayed));
    let third = signed(&link.left, Destination::Multicast, &counter(3));
    assert_eq!(link.right_hears(Destination::Multicast, &third), Ok(()));
}

#[test]
fn a_counter_at_its_end_takes_a_new_index() {
    let mut link = Link::new();
    let index = link.left.index;
    link.left.pc = u32::MAX - 1;
    assert_eq!(link.multicast(), Ok(()));
    assert_eq!((link.left.pc, link.left.index), (u32::MAX, index));
    link.meet();
    assert_ne!(link.left.index, index);
    assert_eq!((link.multicast(), link.unicast()), (Ok(()), Ok(())));
}

#[test]
fn a_key_is_changed_without_a_packet_lost() {
    let (old, new) = (hmac(b"old"), key(MacAlgorithm::Blake2s128, b"new"));
    let both = MacKeys::new(vec![old.clone(), new.clone()]).unwrap();
    let mut link = Link::with(old.clone(), old);
    link.meet();
    link.right.handle_keys(both.clone());
    assert_eq!(link.multicast(), Ok(()));
    link.left.handle_keys(both);
    assert_eq!(link.multicast(), Ok(()));
    link.right.handle_keys(new.clone().into());
    assert_eq!(link.multicast(), Ok(()));
    link.left.handle_keys(new.into());
    assert_eq!(link.multicast(), Ok(()));
    assert_eq!(link.right.counters(), MacCounters { index_unknown: 1, ..MacCounters::default() });
}

#[test]
fn a_neighbour_silent_for_five_minutes_is_forgotten() {
    let mut link = Link::new();
    link.after(EXPIRY - millis(1));
    assert_eq!(link.multicast(), Ok(()));
    let old = link.left_says(Destination::Multicast);
    assert_eq!(link.right.poll_timeout(), Some(link.now + EXPIRY));
    link.after(EXPIRY);
    assert_eq!((link.right.neighbours.len(), link.right.poll_timeout()), (0, None));
    assert_eq!(link.right_hears(Destination::Multicast, &old), Err(MacRefusal::IndexUnknown));
    link.settle();
    assert_eq!(link.right_hears(Destination::Multicast, &old), Err(MacRefusal::Replayed));
}

/// RFC 8967, section 4.4, demands it of challenges that are not answered.
#[test]
fn replays_do_not_keep_a_neighbour_in_memory() {
    let mut link = Link::new();
    let of_an_earlier_start = router(LEFT, 3, hmac(b"secret")).protect(link.now, Destination::Multicast, message(9));
    let duplicate = link.left_says(Destination::Multicast);
    assert_eq!(link.right_hears(Destination::Multicast, &duplicate), Ok(()));
    let met_at = link.now;
    while link.now - met_at < EXPIRY {
        assert_eq!(link.right_hears(Destination::Multicast, &of_an_earlier_start), Err(MacRefusal::IndexUnknown));
        assert_eq!(link.right_hears(Destination::Multicast, &duplicate), Err(MacRefusal::Replayed));
        assert!(link.right.poll_transmit(link.now).is_some());
        link.after(Duration::from_secs(10));
    }
    assert_eq!(link.right_hears(Destination::Multicast, &duplicate), Err(MacRefusal::IndexUnknown));
}

#[test]
fn strangers_leave_no_state_however_many_they_are() {
    let mut link = Link::new();
    for host in 0..10_000_u16 {
        let source = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 1, host);
        let packet = router(source, 9, hmac(b"guess")).protect(link.now, Destination::Multicast, message(1));
        assert_eq!(link.right.verify(link.now, source, Destination::Multicast, &packet), Err(MacRefusal::WrongMac));
    }
    let of_left = link.left_says(Destination::Multicast);
    let elsewhere = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 1, 1);
    assert_eq!(link.right.verify(link.now, elsewhere, Destination::Multicast, &of_left), Err(MacRefusal::WrongMac));
    assert_eq!(link.right.neighbours.len(), 1);
}

#[test]
fn a_holder_of_the_key_with_many_addresses_fills_the_table_and_moves_nobody_out() {
    let mut link = Link::new();
    for host in 0..100_u16 {
        let source = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 1, host);
        let packet = router(source, 9, hmac(b"secret")).protect(link.now, Destination::Multicast, message(1));
        assert!(link.right.verify(link.now, source, Destination::Multicast, &packet).is_err());
        let _ = link.right.poll_transmit(link.now);
    }
    assert_eq!(link.right.neighbours.len(), NEIGHBOURS_MAX);
    assert_eq!(link.right.counters().neighbours_full, 93);
    assert_eq!(link.multicast(), Ok(()));
    link.now += CHALLENGE_EXPIRY;
    let source = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 2, 1);
    let packet = router(source, 9, hmac(b"secret")).protect(link.now, Destination::Multicast, message(1));
    let verdict = link.right.verify(link.now, source, Destination::Multicast, &packet);
    assert_eq!(verdict, Err(MacRefusal::IndexUnknown), "those who do not answer make room");
}

#[test]
fn neither_key_nor_secret_is_printed() {
    let printed = format!("{:?}", router(LEFT, 0x5e, hmac(b"secret")));
    assert!(printed.contains("keys: MacKeys([MacKey { algorithm: HmacSha256, .. }])"), "{printed}");
    assert!(printed.contains("nonces: Nonces { .. }"), "{printed}");
}

/// What an attacker on the link does, and what happens to the routers meanwhile.
#[derive(Clone, Debug)]
enum Step {
    /// A router says something; the attacker has it and may deliver it or not.
    Speak {
        left: bool,
        unicast: bool,
    },
    /// The challenges and answers that wait are said, likewise.
    Challenge {
        left: bool,
    },
    /// The same, and for once all of it arrives, there and back.
    Meet,
    /// A packet recorded before is delivered to whom it was sent, from whom it was sent.
    Deliver {
        packet: prop::sample::Index,
    },
    /// The same with a changed octet or addresses.
    Forge {
        packet: prop::sample::Index,
        octet: prop::sample::Index,
        change: u8,
    },
    Wait {
        millis: u64,
    },
    Restart {
        left: bool,
    },
    /// The counter comes near its end.
    Wrap {
        left: bool,
    },
    Forget {
        left: bool,
    },
}

fn any_step() -> impl Strategy<Value = Step> {
    let (left, packet) = (any::<bool>, any::<prop::sample::Index>);
    prop_oneof![
        5 => (left(), any::<bool>()).prop_map(|(left, unicast)| Step::Speak { left, unicast }),
        5 => left().prop_map(|left| Step::Challenge { left }),
        3 => Just(Step::Meet),
        10 => packet().prop_map(|packet| Step::Deliver { packet }),
        2 => (packet(), packet(), 1..=255_u8).prop_map(|(packet, octet, change)| Step::Forge { packet, octet, change }),
        3 => (0..1_000_u64).prop_map(|millis| Step::Wait { millis }),
        1 => (0..400_000_u64).prop_map(|millis| Step::Wait { millis }),
        1 => left().prop_map(|left| Step::Restart { left }),
        1 => left().prop_map(|left| Step::Wrap { left }),
        1 => left().prop_map(|left| Step::Forget { left }),
    ]
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Recorded {
    from: Ipv6Addr,
    /// `None`: to everybody.
    to: Option<Ipv6Addr>,
    packet: Vec<u8>,
}

/// A link on which nothing arrives but by the attacker's hand.
struct Attack {
    link: Link,
    said: u64,
    starts: u8,
    recorded: Vec<Recorded>,
    taken: BTreeSet<Recorded>,
}

impl Attack {
    fn new() -> Self {
        let link = Link::with(hmac(b"secret"), hmac(b"secret"));
        Self { link, said: 0, starts: 2, recorded: Vec::new(), taken: BTreeSet::new() }
    }

    fn router(&mut self, left: bool) -> (&mut MacState, Ipv6Addr) {
        if left { (&mut self.link.left, RIGHT) } else { (&mut self.link.right, LEFT) }
    }

    fn step(&mut self, step: &Step) {
        let now = self.link.now;
        match *step {
            Step::Speak { left, unicast } => {
                self.said += 1;
                let message = message(self.said);
                let (router, peer) = self.router(left);
                let to = if unicast { Destination::Unicast(peer) } else { Destination::Multicast };
                let (from, packet) = (router.address, router.protect(now, to, message));
                self.recorded.push(Recorded { from, to: unicast.then_some(peer), packet });
            }
            Step::Challenge { left } => {
                let (router, _) = self.router(left);
                let from = router.address;
                let said: Vec<_> = std::iter::from_fn(|| router.poll_transmit(now)).collect();
                let said = said.into_iter().map(|(to, packet)| Recorded { from, to: Some(to), packet });
                self.recorded.extend(said);
            }
            Step::Meet => {
                for left in [false, true, false, true] {
                    let known = self.recorded.len();
                    self.step(&Step::Challenge { left });
                    self.recorded.clone()[known..].iter().for_each(|recorded| self.deliver_once(recorded));
                }
            }
            Step::Deliver { packet } if !self.recorded.is_empty() => {
                self.deliver_once(&packet.get(&self.recorded).clone());
            }
            Step::Forge { packet, octet, change } if !self.recorded.is_empty() => {
                let recorded = packet.get(&self.recorded).clone();
                let mut changed = recorded.clone();
                changed.packet[octet.index(recorded.packet.len())] ^= change;
                let elsewhere =
                    Recorded { to: if recorded.to.is_some() { None } else { Some(RIGHT) }, ..recorded.clone() };
                let reflected = Recorded { from: if recorded.from == LEFT { RIGHT } else { LEFT }, ..recorded };
                for forged in [changed, elsewhere, reflected] {
                    assert!(self.deliver(&forged).is_err_and(|refusal| {
                        matches!(refusal, MacRefusal::Malformed(_) | MacRefusal::WithoutMac | MacRefusal::WrongMac)
                    }));
                }
            }
            Step::Deliver { .. } | Step::Forge { .. } => {}
            Step::Wait { millis: wait } => self.link.after(millis(wait)),
            Step::Restart { left } => {
                self.starts += 1;
                let seed = self.starts;
                let (router, peer) = self.router(left);
                *router = self::router(if peer == LEFT { RIGHT } else { LEFT }, seed, hmac(b"secret"));
            }
            Step::Wrap { left } => self.router(left).0.pc = u32::MAX - 1,
            Step::Forget { left } => {
                let (router, peer) = self.router(left);
                router.forget(peer);
            }
        }
    }

    fn deliver_once(&mut self, recorded: &Recorded) {
        if self.deliver(recorded).is_ok() {
            assert!(self.taken.insert(recorded.clone()), "taken twice");
        }
    }

    fn deliver(&mut self, recorded: &Recorded) -> Result<(), MacRefusal> {
        let now = self.link.now;
        let to = recorded.to.map_or(Destination::Multicast, Destination::Unicast);
        let (router, _) = self.router(recorded.from != LEFT);
        router.verify(now, recorded.from, to, &recorded.packet)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn whatever_is_replayed_no_packet_is_taken_twice_and_none_that_was_not_sent(steps in prop::collection::vec(any_step(), 1..150)) {
        let mut attack = Attack::new();
        for step in &steps {
            attack.step(step);
            prop_assert!(attack.link.left.neighbours.len() <= 1 && attack.link.right.neighbours.len() <= 1);
        }
        // And when the attacker leaves, the two find each other again; a counter near its end comes to it.
        for _ in 0..4 {
            attack.link.settle();
            let _ = attack.link.multicast();
        }
        attack.link.settle();
        prop_assert_eq!((attack.link.multicast(), attack.link.unicast()), (Ok(()), Ok(())));
    }
}

proptest! {
    #[test]
    fn what_is_protected_says_the_same_and_is_not_longer_than_promised(
        tlvs in prop::collection::vec(any_tlv(), 0..20),
        keys in prop::collection::vec(any::<bool>(), 1..=MacKeys::MAX),
        unicast in any::<bool>(),
        nonce in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let keys = keys.into_iter().map(|hmac| if hmac { MacAlgorithm::HmacSha256 } else { MacAlgorithm::Blake2s128 });
        let keys = MacKeys::new(keys.map(|algorithm| key(algorithm, b"secret")).collect()).unwrap();
        let mut link = Link::with(keys.clone(), keys);
        let asking = signed(&link.left, Destination::Unicast(RIGHT), &[tlv(tlv::CHALLENGE_REQUEST, &nonce), tlv(tlv::PACKET_COUNTER, &[0; 12])].concat());
        let _ = link.right_hears(Destination::Unicast(RIGHT), &asking);

        let mut writer = Writer::new(10_000, RIGHT);
        prop_assert!(tlvs.iter().all(|tlv| writer.push(tlv)));
        let plain = writer.finish();
        let to = if unicast { Destination::Unicast(LEFT) } else { Destination::Multicast };
        let overhead = link.right.overhead(to);
        let protected = link.right.protect(link.now, to, plain.clone());
        prop_assert!(protected.len() <= plain.len() + overhead);
        let read = |packet: &[u8]| Packet::parse(packet).unwrap().tlvs(RIGHT).collect::<Vec<_>>();
        prop_assert_eq!(read(&plain), read(&protected));
        prop_assert_eq!(link.left.verify(link.now, RIGHT, to, &protected), Err(MacRefusal::IndexUnknown));
    }

    #[test]
    fn any_bytes_are_refused_without_harm_or_trace(body in prop::collection::vec(any::<u8>(), 0..200), trailer in prop::collection::vec(any::<u8>(), 0..80)) {
        let mut link = Link::with(hmac(b"secret"), hmac(b"secret"));
        let framed = [packet(&body), trailer, tlv(tlv::MAC, &[0; 32])].concat();
        for bytes in [&body, &framed] {
            prop_assert!(link.right_hears(Destination::Multicast, bytes).is_err());
        }
        prop_assert_eq!(link.right.neighbours.len(), 0);
    }

    #[test]
    fn whatever_a_holder_of_the_key_signs_does_no_harm(packets in prop::collection::vec(prop::collection::vec((15..21_u8, prop::collection::vec(0..3_u8, 0..210)), 0..6), 0..20), unicast in any::<bool>()) {
        let mut link = Link::new();
        let to = if unicast { Destination::Unicast(RIGHT) } else { Destination::Multicast };
        for tlvs in packets {
            let body: Vec<u8> = tlvs.iter().flat_map(|(kind, body)| tlv(*kind, body)).collect();
            let packet = signed(&link.left, to, &body);
            let _ = link.right_hears(to, &packet);
            let sent = link.right.poll_transmit(link.now);
            prop_assert!(sent.is_none_or(|(_, packet)| packet.len() <= HEADER + link.right.overhead(Destination::Unicast(LEFT))));
            prop_assert!(link.right.neighbours.len() <= 1);
            link.after(millis(100));
        }
    }
}
