//! Speakers that share a key (RFC 8967), and others on the same cable.

use super::*;
use crate::mac::{MacAlgorithm, MacKey, MacKeys};

/// Two speakers on one cable, and everything that was said on it.
struct Cable {
    now: Instant,
    ends: [Speaker; 2],
    said: Vec<(usize, Destination, Vec<u8>)>,
}

const CABLE: InterfaceId = InterfaceId(1);
const ADDRESSES: [Ipv6Addr; 2] = [US, THEM];

fn keys(secret: &[u8]) -> MacKeys {
    MacKey::new(MacAlgorithm::HmacSha256, secret).unwrap().into()
}

impl Cable {
    /// With these keys at either end.
    fn between(left: MacKeys, right: MacKeys) -> Self {
        let now = start();
        let mut number = 0;
        let ends = [left, right].map(|keys| {
            number += 1;
            let mut speaker = Speaker::new(now, Config::new(name(number), Seqno(1)), number.into());
            speaker.handle_originate(now, subnet_of(number), Metric::ZERO);
            let config = InterfaceConfig::wired(ADDRESSES[usize::from(number) - 1]);
            speaker.handle_authenticated_interface_up(now, CABLE, config, keys, [number; 32]);
            speaker
        });
        Self { now, ends, said: Vec::new() }
    }

    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        self.deliver();
        while let Some(at) = self.ends.iter().filter_map(Speaker::poll_timeout).min().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            for speaker in &mut self.ends {
                speaker.handle_timeout(at);
            }
            self.deliver();
        }
        self.now = end;
    }

    /// Until nobody has anything to say.
    fn deliver(&mut self) {
        for from in [0, 1].into_iter().cycle().take(64) {
            while let Some(transmit) = self.ends[from].poll_transmit(self.now) {
                assert!(transmit.payload.len() <= 1452);
                let to = &mut self.ends[1 - from];
                to.handle_packet(self.now, CABLE, ADDRESSES[from], transmit.to, &transmit.payload).unwrap();
                self.said.push((from, transmit.to, transmit.payload));
            }
        }
    }

    fn knows(&self, end: usize) -> bool {
        let other = u8::try_from(2 - end).unwrap();
        self.ends[end].selected(subnet_of(other)).is_some()
    }
}

fn subnet_of(number: u8) -> Prefix {
    Prefix::new(Ipv6Addr::new(0xfd00, u16::from(number), 0, 0, 0, 0, 0, 0), 48).unwrap()
}

#[test]
fn who_shares_a_key_is_heard_after_one_challenge_each_way() {
    let mut cable = Cable::between(keys(b"ours"), keys(b"ours"));
    cable.run(Duration::from_secs(10));
    assert!(cable.knows(0) && cable.knows(1));
    for speaker in &cable.ends {
        let counters = speaker.mac_counters(CABLE).unwrap();
        assert_eq!((counters.wrong_mac, counters.replayed), (0, 0));
        assert!(counters.index_unknown < 5, "{counters:?}");
    }
}

#[test]
fn who_has_another_key_is_not_heard_and_a_new_key_comes_in_without_a_gap() {
    let mut cable = Cable::between(keys(b"ours"), keys(b"theirs"));
    cable.run(Duration::from_secs(20));
    assert!(!cable.knows(0) && !cable.knows(1));
    assert_eq!(cable.ends[0].neighbours().count(), 0);
    assert!(cable.ends[0].counters().not_authentic > 0);
    let both = || {
        let both = [&b"ours"[..], b"theirs"].map(|secret| MacKey::new(MacAlgorithm::HmacSha256, secret).unwrap());
        MacKeys::new(both.to_vec()).unwrap()
    };
    cable.ends[0].handle_keys(CABLE, both());
    cable.run(Duration::from_secs(20));
    assert!(cable.knows(0) && cable.knows(1));
}

#[test]
fn what_was_said_before_a_restart_moves_nobody_after_it() {
    let mut cable = Cable::between(keys(b"ours"), keys(b"ours"));
    cable.run(Duration::from_secs(10));
    let recorded = std::mem::take(&mut cable.said);
    let config = InterfaceConfig::wired(US);
    cable.ends[0].handle_authenticated_interface_up(cable.now, CABLE, config, keys(b"ours"), [9; 32]);
    for (_, to, packet) in recorded.iter().filter(|(from, _, _)| *from == 1) {
        cable.ends[0].handle_packet(cable.now, CABLE, THEM, *to, packet).unwrap();
    }
    assert_eq!(cable.ends[0].neighbours().count(), 0, "a recording does not answer challenges");
    cable.run(Duration::from_secs(10));
    assert!(cable.knows(0) && cable.knows(1), "the living do");
}
