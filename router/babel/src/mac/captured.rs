//! Packets of babeld 1.12.1 and BIRD 2.0.12 (Debian 12), for tests.
//!
//! The two spoke to each other over a veth pair between two network namespaces, whose ends had the
//! hardware addresses 02:00:00:00:00:0a and ...:0b. Recorded with `tcpdump -i va udp port 6696`; below
//! are the UDP payloads: of each daemon and algorithm one sent by multicast, and all of the challenge
//! that followed.
//!
//! babeld's configuration, and another time with `blake2s128`; `value` is [`KEY`] in hexadecimal:
//!
//! ```text
//! key id k type hmac-sha256 value 77617962696c6c2d696e7465726f702d6d61632d7368617265642d6b65792d31
//! interface va type wired hello-interval 1 update-interval 4 key k
//! redistribute ip fd00:a::/32 allow
//! ```
//!
//! BIRD's, and another time with `blake2s128`:
//!
//! ```text
//! router id 10.0.0.2;
//! protocol device {}
//! protocol static { ipv6 { }; route fd00:b::/48 unreachable; }
//! protocol babel { ipv6 { import all; export all; };
//!  interface "vb" { type wired; hello interval 1 s; update interval 4 s;
//!   authentication mac; password "waybill-interop-mac-shared-key-1" { algorithm hmac sha256; }; };
//! }
//! ```

use super::tests::{octets, start};
use super::*;

const KEY: &[u8] = b"waybill-interop-mac-shared-key-1";
const BABELD: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 0xa);
const BIRD: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 0xb);

struct Captured {
    algorithm: MacAlgorithm,
    from: Ipv6Addr,
    to: Destination,
    packet: &'static str,
}

const CAPTURED: [Captured; 10] = [
    Captured {
        algorithm: MacAlgorithm::HmacSha256,
        from: BABELD,
        to: Destination::Multicast,
        packet: "
            2a02005a04060000bf090064080a00000000ffffd232ffff060a000004d884e04758e1e7081a028080000190d2320000
            fd00000a000000000000000000000001080a028040080190d232000009020000110c000000024d13da734d927fbb1020
            6e829082ca1baa13023c933abeda46b0298b19dbfbe7ca1cdaa019189ab5c846",
    },
    Captured {
        algorithm: MacAlgorithm::HmacSha256,
        from: BABELD,
        to: Destination::Unicast(BIRD),
        packet: "
            2a0200241208c6e3156fad54cf60130af97544f1e0c84e7b9ff1110c000000034d13da734d927fbb10206f778a94ef99
            52213138a2137ee8a3969304dd9756dd6a6e0284a4c40af082ae",
    },
    Captured {
        algorithm: MacAlgorithm::HmacSha256,
        from: BIRD,
        to: Destination::Multicast,
        packet: "
            2a02005c0406000000010064080a0000000001900001ffff09020000060a0000000000000a0000020810028030000190
            00010000fd00000b0000112400000001e4eed6784e0a3da77b7d0f15e00413936849669226f0f60f1f3a15f380fea6c0
            102041c852283f93c4f84c6d1e640c1ef66f39aba71a47f183d1c68586fec01fa4be",
    },
    Captured {
        algorithm: MacAlgorithm::HmacSha256,
        from: BIRD,
        to: Destination::Unicast(BABELD),
        packet: "
            2a020032120af97544f1e0c84e7b9ff1112400000002e4eed6784e0a3da77b7d0f15e00413936849669226f0f60f1f3a
            15f380fea6c01020d984e8e1cc98b72507d78e700f3084030cde26d36bdbd0f41d7c69164240e331",
    },
    Captured {
        algorithm: MacAlgorithm::HmacSha256,
        from: BIRD,
        to: Destination::Unicast(BABELD),
        packet: "
            2a0200301308c6e3156fad54cf60112400000003e4eed6784e0a3da77b7d0f15e00413936849669226f0f60f1f3a15f3
            80fea6c010203efe562683f2876c425f4d2b4a8a2b206c066c95251e730867369f5e0cae6d0d",
    },
    Captured {
        algorithm: MacAlgorithm::Blake2s128,
        from: BABELD,
        to: Destination::Multicast,
        packet: "
            2a02005a04060000a0e10064080a00000000ffffd233ffff060a0000c45fd7a0330e7da1081a028080000190d2330000
            fd00000a000000000000000000000001080a028040080190d233000009020000110c000000023281147cb22b0ff71010
            847f381e23b4df6887c4a3cc71121b0f",
    },
    Captured {
        algorithm: MacAlgorithm::Blake2s128,
        from: BABELD,
        to: Destination::Unicast(BIRD),
        packet: "
            2a02002412087eaacd84ffaf3aae130a2080dce85517d5e62087110c000000033281147cb22b0ff7101071e143d34bea
            15133cfe9811df489e64",
    },
    Captured {
        algorithm: MacAlgorithm::Blake2s128,
        from: BIRD,
        to: Destination::Multicast,
        packet: "
            2a02005c0406000000010064080a0000000001900001ffff09020000060a0000000000000a0000020810028030000190
            00010000fd00000b00001124000000015578ba1bdb2eb66e826bc47f1e4fe1a21482a61959b9faeea08fc71fb07b6ce6
            10104edc91bfa69b2918a7e1c8d84bf0b111",
    },
    Captured {
        algorithm: MacAlgorithm::Blake2s128,
        from: BIRD,
        to: Destination::Unicast(BABELD),
        packet: "
            2a020032120a2080dce85517d5e620871124000000025578ba1bdb2eb66e826bc47f1e4fe1a21482a61959b9faeea08f
            c71fb07b6ce61010b06c2450815c005feed9fb30340610e7",
    },
    Captured {
        algorithm: MacAlgorithm::Blake2s128,
        from: BIRD,
        to: Destination::Unicast(BABELD),
        packet: "
            2a02003013087eaacd84ffaf3aae1124000000035578ba1bdb2eb66e826bc47f1e4fe1a21482a61959b9faeea08fc71f
            b07b6ce610108f8d433a307b511d7a0ecc6b0fdb87ac",
    },
];

impl Captured {
    fn octets(&self) -> Vec<u8> {
        octets(self.packet)
    }

    /// Somebody who has the key and has never met the sender.
    fn receiver(&self) -> MacState {
        let address = if self.from == BABELD { BIRD } else { BABELD };
        let key = MacKey::new(self.algorithm, KEY).unwrap();
        MacState::new(address, key.into(), Nonces::new([1; 32]), 8)
    }

    fn body(packet: &[u8]) -> &[u8] {
        Packet::parse(packet).unwrap().body()
    }
}

#[test]
fn the_macs_of_babeld_and_bird_are_ours() {
    for captured in &CAPTURED {
        let (mut receiver, packet) = (captured.receiver(), captured.octets());
        let (signed, trailer) = packet.split_at(HEADER + Captured::body(&packet).len());
        assert_eq!(receiver.check_mac(captured.from, captured.to, signed, trailer), Ok(()));
        let mac = receiver.keys.iter().next().unwrap().mac(&pseudo_header(captured.from, captured.to), signed);
        assert_eq!(trailer[..2], [tlv::MAC, u8::try_from(mac.len()).unwrap()]);
        assert_eq!(trailer[2..], mac);
        let first = receiver.verify(start(), captured.from, captured.to, &packet);
        assert_eq!(first, Err(MacRefusal::IndexUnknown), "a valid MAC, and the sender is not known");
    }
}

#[test]
fn the_macs_of_babeld_and_bird_are_for_their_addresses_and_every_bit_of_their_packets() {
    for captured in &CAPTURED {
        let (mut receiver, packet) = (captured.receiver(), captured.octets());
        let mut refused = |from, to, packet: &[u8]| {
            assert!(
                receiver.verify(start(), from, to, packet).is_err_and(|refusal| refusal != MacRefusal::IndexUnknown)
            );
        };
        refused(Ipv6Addr::LOCALHOST, captured.to, &packet);
        refused(captured.from, Destination::Unicast(Ipv6Addr::LOCALHOST), &packet);
        for bit in 0..packet.len() * 8 {
            let mut changed = packet.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            refused(captured.from, captured.to, &changed);
        }
    }
}

#[test]
fn the_challenges_of_babeld_and_bird_are_read() {
    for [_, babeld, _, bird, reply] in CAPTURED.as_chunks().0 {
        let [from_babeld, from_bird, reply_of_bird] = [babeld, bird, reply].map(Captured::octets);
        let from_babeld = Preparsed::read(Captured::body(&from_babeld), babeld.to);
        let from_bird = Preparsed::read(Captured::body(&from_bird), bird.to);
        let reply_of_bird = Preparsed::read(Captured::body(&reply_of_bird), reply.to);
        assert!(from_babeld.answers(from_bird.request.unwrap()));
        assert!(reply_of_bird.answers(from_babeld.request.unwrap()));
        assert!(!reply_of_bird.answers(from_bird.request.unwrap()));
        assert_eq!([from_babeld, from_bird, reply_of_bird].map(|found| found.stamp.unwrap().pc), [3, 2, 3]);
    }
}

#[test]
fn babeld_and_bird_are_challenged_and_answered() {
    for captured in CAPTURED.iter().filter(|captured| captured.to != Destination::Multicast) {
        let mut receiver = captured.receiver();
        let _ = receiver.verify(start(), captured.from, captured.to, &captured.octets());
        let (to, packet) = receiver.poll_transmit(start()).unwrap();
        let said = Preparsed::read(Captured::body(&packet), Destination::Unicast(to));
        let packet_of_theirs = captured.octets();
        let asked = Preparsed::read(Captured::body(&packet_of_theirs), captured.to).request;
        assert_eq!(to, captured.from);
        assert!(said.request.is_some() && asked.is_none_or(|nonce| said.answers(nonce)));
    }
}
