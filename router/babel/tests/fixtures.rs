//! What babeld and BIRD really send, captured by `tests/interop/capture`: read, written, read again, and compared with
//! a reader that knows nothing but frames.

use babel::wire::{AnyPrefix, MULTICAST_GROUP, Packet, Tlv, Update, Writer};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::Ipv6Addr;
use std::path::Path;

/// All that the captures show. An assertion on equality, so that new captures say what they add. Type 2 comes from the
/// script: neither daemon sends it.
const SEEN: [&str; 26] = [
    "TLV  2",
    "TLV  3",
    "TLV  4",
    "TLV  5",
    "TLV  6",
    "TLV  7",
    "TLV  8",
    "TLV  9",
    "TLV 10",
    "TLV 16",
    "TLV 17",
    "TLV 18",
    "TLV 19",
    "encoding 0",
    "encoding 1",
    "encoding 2",
    "encoding 3",
    "encoding 4",
    "hello multicast",
    "hello unicast",
    "packet multicast",
    "packet unicast",
    "retraction of all",
    "retraction of one",
    "sub-TLV 128",
    "sub-TLV 3",
];

/// All that the Updates name: a wrong step in decompressing prefixes or in keeping router-ids and next hops adds to it.
const NAMED: [&str; 38] = [
    "next hop 10.1.0.1",
    "next hop 10.1.0.2",
    "next hop 10.2.0.1",
    "next hop 10.2.0.2",
    "next hop 10.3.0.1",
    "next hop 10.3.0.2",
    "next hop 2001:db8::1",
    "prefix 0.0.0.0/0",
    "prefix 10.1.0.1/32",
    "prefix 10.1.0.2/32",
    "prefix 10.2.0.1/32",
    "prefix 10.2.0.2/32",
    "prefix 10.3.0.1/32",
    "prefix 10.3.0.2/32",
    "prefix 198.51.100.0/24",
    "prefix 2001:d00::/24",
    "prefix 2001:db8::/64",
    "prefix 2001:db8::1/128",
    "prefix 2001:db8::200:5eff:fe00:6162/128",
    "prefix 2001:db8:a:1::/64",
    "prefix 2001:db8:a::/48",
    "prefix 2001:db8:a::1/128",
    "prefix 2001:db8:b::/48",
    "prefix 2001:db8:c::1/128",
    "prefix 203.0.113.0/24",
    "prefix 203.0.113.1/32",
    "prefix ::/0",
    "prefix fd00::/8",
    "prefix fd12:3456::/32",
    "router 0000:0000:c000:0261",
    "router 0000:0000:c000:0262",
    "router 0200:5eff:fe00:6162",
    "router 0200:5eff:fe00:6261",
    "router 0200:5eff:fe00:6362",
    "source 10.0.0.0/8",
    "source 2001:db8:5000::/36",
    "source 2001:db8:6000::/36",
    "source fd00::/8",
];

/// One file: how many keys sign its packets, and the packets.
struct Fixture {
    name: String,
    keys: usize,
    packets: Vec<Captured>,
}

struct Captured {
    source: Ipv6Addr,
    destination: Ipv6Addr,
    bytes: Vec<u8>,
}

/// Type and body of a TLV or sub-TLV.
type Frame<'a> = (u8, &'a [u8]);

/// How often something occurs.
type Counts = BTreeMap<String, usize>;

#[test]
fn every_captured_tlv_is_read_once() {
    for fixture in fixtures() {
        for packet in &fixture.packets {
            let messages: Vec<u8> =
                frames(packet.body()).into_iter().map(|(kind, _)| kind).filter(|kind| is_message(*kind)).collect();
            let read: Vec<u8> = packet.tlvs().iter().map(kind).collect();
            assert_eq!(read, messages, "{}: {:02x?}", fixture.name, packet.bytes);
        }
    }
}

#[test]
fn every_captured_sub_tlv_is_read_once() {
    for fixture in fixtures() {
        for packet in &fixture.packets {
            let frames = frames(packet.body());
            let sub_tlvs: Vec<u8> = frames.into_iter().flat_map(sub_tlvs).map(|(kind, _)| kind).collect();
            let read: Vec<u8> = packet.tlvs().iter().filter_map(sub_tlv).collect();
            assert_eq!(read, sub_tlvs, "{}: {:02x?}", fixture.name, packet.bytes);
        }
    }
}

#[test]
fn captured_tlvs_survive_being_written() {
    for fixture in fixtures() {
        for packet in &fixture.packets {
            let tlvs = packet.tlvs();
            let mut writer = Writer::new(usize::from(u16::MAX), packet.source);
            assert!(tlvs.iter().all(|tlv| writer.push(tlv)));
            let written = Captured { bytes: writer.finish(), ..*packet };
            assert_eq!(written.tlvs(), tlvs, "{}: {:02x?}", fixture.name, packet.bytes);
        }
    }
}

#[test]
fn shortened_captures_are_refused_unless_only_the_trailer_suffers() {
    for fixture in fixtures() {
        for packet in &fixture.packets {
            for cut in 0..packet.bytes.len() {
                let whole = cut >= packet.body_end();
                assert_eq!(Packet::parse(&packet.bytes[..cut]).is_ok(), whole, "{}: {cut}", fixture.name);
            }
        }
    }
}

#[test]
fn shortened_bodies_are_read_without_harm() {
    for fixture in fixtures() {
        for packet in &fixture.packets {
            let messages = packet.tlvs().len();
            for cut in 4..packet.body_end() {
                let mut bytes = packet.bytes[..cut].to_vec();
                bytes[2..4].copy_from_slice(&u16::try_from(cut - 4).expect("a length of 16 bits").to_be_bytes());
                if let Ok(shortened) = Packet::parse(&bytes) {
                    assert!(shortened.tlvs(packet.source).count() <= messages, "{}: {cut}", fixture.name);
                }
            }
        }
    }
}

#[test]
fn signed_packets_carry_a_mac_for_each_key_and_nothing_else_behind_their_body() {
    for fixture in fixtures() {
        for packet in &fixture.packets {
            let trailer = frames(&packet.bytes[packet.body_end()..]);
            assert!(trailer.iter().all(|(kind, _)| *kind == 16), "{}: {:02x?}", fixture.name, packet.bytes);
            assert_eq!(trailer.len(), fixture.keys, "{}: {:02x?}", fixture.name, packet.bytes);
        }
    }
}

#[test]
fn the_captures_show_all_that_they_were_made_for() {
    let mut all = Counts::new();
    for fixture in fixtures() {
        let mut counts = Counts::new();
        fixture.packets.iter().for_each(|packet| packet.count(&mut counts));
        println!("{}: {} packets, {counts:?}", fixture.name, fixture.packets.len());
        counts.into_iter().for_each(|(what, count)| *all.entry(what).or_default() += count);
    }
    println!("all: {all:?}");
    assert_eq!(all.keys().collect::<Vec<_>>(), SEEN);
}

#[test]
fn captured_updates_name_what_was_announced_and_nothing_else() {
    let mut named = BTreeSet::new();
    for packet in fixtures().iter().flat_map(|fixture| &fixture.packets) {
        for update in packet.tlvs().into_iter().filter_map(update) {
            named.extend(update.prefix.map(|prefix| format!("prefix {}", text(prefix))));
            named.extend(update.source_prefix.map(|prefix| format!("source {}", text(prefix))));
            // Those of a retraction mean nothing: BIRD sends none, so those of the Update before it remain.
            if update.metric.is_finite() {
                named.extend(update.router_id.map(|id| format!("router {id}")));
                let elsewhere = update.next_hop.filter(|hop| *hop != packet.source);
                named.extend(elsewhere.map(|hop| format!("next hop {hop}")));
            }
        }
    }
    assert_eq!(named.iter().collect::<Vec<_>>(), NAMED);
}

#[test]
fn captured_ihus_speak_to_the_other_end_of_the_cable() {
    for packet in fixtures().iter().flat_map(|fixture| &fixture.packets) {
        // An address ends in two letters: from whom, to whom.
        let mut octets = packet.source.octets();
        octets.swap(14, 15);
        for tlv in packet.tlvs() {
            if let Tlv::Ihu(ihu) = tlv {
                assert_eq!(ihu.address, Some(octets.into()));
            }
        }
    }
}

impl Captured {
    fn body_end(&self) -> usize {
        4 + usize::from(u16::from_be_bytes([self.bytes[2], self.bytes[3]]))
    }

    fn body(&self) -> &[u8] {
        &self.bytes[4..self.body_end()]
    }

    fn tlvs(&self) -> Vec<Tlv> {
        Packet::parse(&self.bytes).expect("what the daemons send is well formed").tlvs(self.source).collect()
    }

    fn count(&self, counts: &mut Counts) {
        let mut add = |what: String| *counts.entry(what).or_default() += 1;
        add(format!("packet {}", if self.destination == MULTICAST_GROUP { "multicast" } else { "unicast" }));
        for frame in [frames(self.body()), frames(&self.bytes[self.body_end()..])].concat() {
            add(format!("TLV {:2}", frame.0));
            encoding(frame).into_iter().for_each(|encoding| add(format!("encoding {encoding}")));
            sub_tlvs(frame).into_iter().for_each(|(kind, _)| add(format!("sub-TLV {kind}")));
        }
        for tlv in self.tlvs() {
            if let Tlv::Hello(hello) = tlv {
                add(format!("hello {}", if hello.unicast { "unicast" } else { "multicast" }));
            }
            if let Some(retraction) = update(tlv).filter(|update| !update.metric.is_finite()) {
                add(format!("retraction of {}", if retraction.prefix.is_none() { "all" } else { "one" }));
            }
        }
    }
}

/// Padding (0, 1), parser state (6, 7) and authentication (16 to 19) are no messages.
fn is_message(kind: u8) -> bool {
    !matches!(kind, 0 | 1 | 6 | 7 | 16..=19)
}

fn kind(tlv: &Tlv) -> u8 {
    match tlv {
        Tlv::AcknowledgmentRequest(_) => 2,
        Tlv::Acknowledgment(_) => 3,
        Tlv::Hello(_) => 4,
        Tlv::Ihu(_) => 5,
        Tlv::Update(_) => 8,
        Tlv::RouteRequest(_) => 9,
        Tlv::SeqnoRequest(_) => 10,
    }
}

/// The type of the sub-TLV that the codec found; the captures have no TLV with two.
fn sub_tlv(tlv: &Tlv) -> Option<u8> {
    match tlv {
        Tlv::Hello(hello) => hello.timestamp.map(|_| 3),
        Tlv::Ihu(ihu) => ihu.timestamp.map(|_| 3),
        Tlv::Update(update) => update.source_prefix.map(|_| 128),
        Tlv::RouteRequest(request) => request.source_prefix.map(|_| 128),
        Tlv::SeqnoRequest(request) => request.source_prefix.map(|_| 128),
        Tlv::AcknowledgmentRequest(_) | Tlv::Acknowledgment(_) => None,
    }
}

fn update(tlv: Tlv) -> Option<Update> {
    if let Tlv::Update(update) = tlv { Some(update) } else { None }
}

fn text(prefix: AnyPrefix) -> String {
    match prefix {
        AnyPrefix::V6(prefix) => prefix.to_string(),
        AnyPrefix::V4(prefix) | AnyPrefix::V4ViaV6(prefix) => format!("{}/{}", prefix.addr(), prefix.len()),
    }
}

/// Pad1 is a lone octet; everything else has a type, a length and a body.
fn frames(mut bytes: &[u8]) -> Vec<Frame<'_>> {
    let mut frames = Vec::new();
    while let [kind, rest @ ..] = bytes {
        let (start, length) = if *kind == 0 { (0, 0) } else { (1, usize::from(rest[0])) };
        frames.push((*kind, &rest[start..start + length]));
        bytes = &rest[start + length..];
    }
    frames
}

/// The address encoding of those TLVs that have one.
fn encoding((kind, body): Frame<'_>) -> Option<u8> {
    matches!(kind, 5 | 7..=10).then(|| body[0])
}

/// What follows the fixed part and the address of a TLV (RFC 8966, section 4.6).
fn sub_tlvs((kind, body): Frame<'_>) -> Vec<Frame<'_>> {
    let octets = |bits: u8| usize::from(bits).div_ceil(8);
    let address = |encoding: u8| [0, 4, 16, 8][usize::from(encoding)];
    let fixed = match kind {
        2 | 4 => 6,
        3 => 2,
        5 => 6 + address(body[0]),
        6 => 10,
        7 => 2 + address(body[0]),
        8 => 10 + octets(body[2]) - usize::from(body[3]),
        9 => 2 + octets(body[1]),
        10 => 14 + octets(body[1]),
        _ => body.len(),
    };
    frames(&body[fixed..])
}

fn fixtures() -> Vec<Fixture> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    let mut names: Vec<_> =
        fs::read_dir(folder).expect("the fixtures").map(|entry| entry.expect("a file").path()).collect();
    names.sort();
    assert!(!names.is_empty());
    names.iter().map(|name| fixture(name)).collect()
}

fn fixture(path: &Path) -> Fixture {
    let text = fs::read_to_string(path).expect("a fixture is text");
    let keys = text.lines().filter(|line| line.starts_with("# key: ")).count();
    let packets: Vec<Captured> = text.lines().filter(|line| !line.starts_with('#')).map(captured).collect();
    let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
    assert!(!packets.is_empty(), "{name}");
    Fixture { name, keys, packets }
}

/// `SECONDS SOURCE DESTINATION HEX`.
fn captured(line: &str) -> Captured {
    let fields: Vec<&str> = line.split(' ').collect();
    let [_, source, destination, hex] = fields[..] else { panic!("{line}") };
    let octet = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("two hexadecimal digits");
    Captured {
        source: source.parse().expect("an IPv6 address"),
        destination: destination.parse().expect("an IPv6 address"),
        bytes: (0..hex.len()).step_by(2).map(octet).collect(),
    }
}
