//! The codec as a whole: bytes by hand, round trips, and everything a stranger may send.

use super::*;
use crate::metric::{Cost, Metric};
use crate::prefix::{Ipv4Prefix, Prefix};
use crate::price::Price;
use crate::router_id::RouterId;
use crate::seqno::Seqno;
use proptest::prelude::*;
use std::net::IpAddr;

const SOURCE: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

fn packet(body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![42, 2];
    bytes.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes
}

fn decode(body: &[u8]) -> Vec<Tlv> {
    Packet::parse(&packet(body)).unwrap().tlvs(SOURCE).collect()
}

fn encode(tlvs: &[Tlv]) -> Vec<u8> {
    let mut writer = Writer::new(65_535, SOURCE);
    assert!(tlvs.iter().all(|tlv| writer.push(tlv)));
    writer.finish()
}

fn prefix(text: &str, len: u8) -> AnyPrefix {
    AnyPrefix::V6(Prefix::new(text.parse().unwrap(), len).unwrap())
}

fn update(prefix: AnyPrefix) -> Update {
    Update {
        prefix: Some(prefix),
        interval: Interval(1600),
        seqno: Seqno(0x0102),
        metric: Metric(96),
        router_id: RouterId::new(*b"waybill1"),
        next_hop: Some(IpAddr::V6(SOURCE)),
        source_prefix: None,
        quote: None,
    }
}

const ROUTER_ID: [u8; 12] = [6, 10, 0, 0, b'w', b'a', b'y', b'b', b'i', b'l', b'l', b'1'];
/// fd12:3456:789a::/48, nothing omitted, becomes the default prefix.
const UPDATE: [u8; 18] = [8, 16, 2, 0x80, 48, 0, 6, 0x40, 1, 2, 0, 96, 0xfd, 0x12, 0x34, 0x56, 0x78, 0x9a];

#[test]
fn hello_and_ihu_byte_by_byte() {
    let hello = Hello { unicast: false, seqno: Seqno(0x1234), interval: Some(Interval(100)), timestamp: None };
    let address = Some("fe80::a:b:c:d".parse().unwrap());
    let ihu = Ihu { address, rxcost: Cost::WIRED, interval: Interval(300), timestamp: None };
    let tlvs = [Tlv::Hello(hello), Tlv::Ihu(ihu)];
    let body = [4, 6, 0, 0, 0x12, 0x34, 0, 100, 5, 14, 3, 0, 0, 96, 1, 44, 0, 10, 0, 11, 0, 12, 0, 13];
    assert_eq!(encode(&tlvs), packet(&body));
    assert_eq!(decode(&body), tlvs);
}

#[test]
fn requests_byte_by_byte() {
    let prefix = prefix("fd12::", 16);
    let router_id = RouterId::new(*b"waybill1").unwrap();
    let tlvs = [
        Tlv::RouteRequest(RouteRequest { prefix: None, source_prefix: None }),
        Tlv::RouteRequest(RouteRequest { prefix: Some(prefix), source_prefix: None }),
        Tlv::SeqnoRequest(SeqnoRequest { prefix, seqno: Seqno(7), hop_count: 64, router_id, source_prefix: None }),
    ];
    let mut body = vec![9, 2, 0, 0, 9, 4, 2, 16, 0xfd, 0x12, 10, 16, 2, 16, 0, 7, 64, 0];
    body.extend(*b"waybill1");
    body.extend([0xfd, 0x12]);
    assert_eq!(encode(&tlvs), packet(&body));
    assert_eq!(decode(&body), tlvs);
}

#[test]
fn later_updates_leave_out_the_router_id_and_what_they_share_with_the_prefix_before() {
    let tlvs =
        [prefix("fd12:3456:789a::", 48), prefix("fd12:3456:7a00::", 48)].map(|prefix| Tlv::Update(update(prefix)));
    let mut body = ROUTER_ID.to_vec();
    body.extend(UPDATE);
    body.extend([8, 12, 2, 0x80, 48, 4, 6, 0x40, 1, 2, 0, 96, 0x7a, 0]);
    assert_eq!(encode(&tlvs), packet(&body));
    assert_eq!(decode(&body), tlvs);
}

#[test]
fn unknown_tlvs_and_padding_are_skipped_and_the_trailer_is_not_read() {
    let mut body = vec![0, 0, 1, 3, 9, 9, 9, 200, 2, 1, 1];
    body.extend(ROUTER_ID);
    body.extend(UPDATE);
    let mut bytes = packet(&body);
    bytes.extend([16, 200, 1]);
    let tlvs: Vec<_> = Packet::parse(&bytes).unwrap().tlvs(SOURCE).collect();
    assert_eq!(tlvs, [Tlv::Update(update(prefix("fd12:3456:789a::", 48)))]);
}

#[test]
fn a_mandatory_sub_tlv_hides_its_update_but_not_the_default_prefix_it_sets() {
    let mut body = ROUTER_ID.to_vec();
    body.extend(UPDATE);
    body.extend([240, 1, 7]);
    body[13] += 3;
    body.extend([8, 10, 2, 0, 48, 6, 6, 0x40, 1, 2, 0, 96]);
    assert_eq!(decode(&body), [Tlv::Update(update(prefix("fd12:3456:789a::", 48)))]);
    body[30] = 112;
    assert_eq!(decode(&body).len(), 2, "the same sub-TLV, not mandatory");
}

#[test]
fn after_a_bad_router_id_updates_are_not_attributed_to_the_one_before() {
    let mut body = ROUTER_ID.to_vec();
    body.extend([6, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    body.extend(UPDATE);
    assert_eq!(decode(&body), []);
}

#[test]
fn router_id_can_come_from_the_prefix() {
    let body = [
        8, 26, 2, 0x40, 128, 0, 6, 0x40, 1, 2, 0, 96, 0xfd, 0, 0, 0, 0, 0, 0, 0, b'w', b'a', b'y', b'b', b'i', b'l',
        b'l', b'1',
    ];
    let [Tlv::Update(found)] = decode(&body)[..] else { panic!("one update") };
    assert_eq!(found.router_id, RouterId::new(*b"waybill1"));
}

#[test]
fn impossible_fields_hide_their_message() {
    let cases: [&[u8]; 8] = [
        &[4, 5, 0, 0, 0, 1, 0],
        &[5, 6, 7, 0, 0, 96, 1, 44],
        &[5, 6, 0, 0, 0, 96, 0, 0],
        &[8, 10, 2, 0, 8, 1, 6, 64, 0, 1, 0xff, 0xff],
        &[8, 10, 0, 0, 0, 0, 6, 64, 0, 1, 0, 96],
        &[8, 11, 2, 0, 129, 0, 6, 64, 0, 1, 0xff, 0xff, 0xfd],
        &[9, 2, 2, 8],
        &[10, 14, 2, 0, 0, 7, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1],
    ];
    for body in cases {
        assert_eq!(decode(body), [], "{body:?}");
    }
}

#[test]
fn packets_of_others_are_refused_by_name() {
    let refused = |bytes: &[u8]| Packet::parse(bytes).unwrap_err();
    assert_eq!(refused(&[42, 2, 0]), DecodeError::TooShort { len: 3 });
    assert_eq!(refused(&[41, 2, 0, 0]), DecodeError::NotBabel { found: 41 });
    assert_eq!(refused(&[42, 3, 0, 0]), DecodeError::Version { found: 3 });
    assert_eq!(refused(&[42, 2, 0, 9, 0]), DecodeError::BodyTooLong { claimed: 9, available: 1 });
    assert_eq!(refused(&packet(&[0, 4, 6, 0])), DecodeError::TlvTooLong { at: 1 });
}

#[test]
fn a_full_packet_takes_nothing_more_and_stays_whole() {
    let mut writer = Writer::new(60, SOURCE);
    assert!(writer.push(&Tlv::Update(update(prefix("fd12:3456:789a::", 48)))));
    let other = Update { router_id: RouterId::new(*b"waybill2"), ..update(prefix("2001:db8::", 128)) };
    assert!(!writer.push(&Tlv::Update(other)), "the Router-Id fits, the Update does not");
    let third = prefix("fd12:3456:7a00::", 48);
    assert!(writer.push(&Tlv::Update(update(third))));
    let bytes = writer.finish();
    let tlvs: Vec<_> = Packet::parse(&bytes).unwrap().tlvs(SOURCE).collect();
    assert_eq!(tlvs.len(), 2);
    assert_eq!(tlvs[1], Tlv::Update(update(third)));
}

fn any_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<[u8; 16]>().prop_map(IpAddr::from),
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<u64>().prop_map(|id| IpAddr::V6(Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(id)))),
    ]
}

fn any_prefix_of(kind: u8) -> impl Strategy<Value = AnyPrefix> {
    (any::<[u8; 16]>(), 1..=128_u8).prop_map(move |(octets, len)| {
        let v4 = Ipv4Prefix::new([octets[0], octets[1], octets[2], octets[3]].into(), len.div_ceil(4)).unwrap();
        match kind {
            0 => AnyPrefix::V4(v4),
            1 => AnyPrefix::V4ViaV6(v4),
            _ => AnyPrefix::V6(Prefix::new(octets.into(), len).unwrap()),
        }
    })
}

/// A prefix and perhaps a source prefix of the same kind.
fn any_prefixes() -> impl Strategy<Value = (AnyPrefix, Option<AnyPrefix>)> {
    (0..4_u8).prop_flat_map(|kind| (any_prefix_of(kind), prop::option::of(any_prefix_of(kind))))
}

fn any_router_id() -> impl Strategy<Value = RouterId> {
    (1..5_u8).prop_map(|id| RouterId::new([id; 8]).unwrap())
}

fn any_quote() -> impl Strategy<Value = Option<Quote>> {
    let quote = (any::<u8>(), any::<u16>(), prop::option::of(any::<u32>().prop_map(Price::new)));
    prop::option::of(quote.prop_map(|(unit, epoch, price)| Quote { unit, epoch, price }))
}

fn any_update() -> impl Strategy<Value = Update> {
    let numbers = (1..=u16::MAX, any::<u16>(), prop_oneof![any::<u16>(), Just(u16::MAX)]);
    (any_prefixes(), numbers, any_router_id(), any::<[u8; 16]>(), any_quote()).prop_map(
        |((prefix, source_prefix), (interval, seqno, metric), id, hop, quote)| {
            let v4 = IpAddr::from([hop[0], hop[1], hop[2], hop[3]]);
            let hop = if matches!(prefix, AnyPrefix::V4(_)) { v4 } else { IpAddr::from(hop) };
            let finite = metric != u16::MAX;
            Update {
                prefix: Some(prefix),
                interval: Interval(interval),
                seqno: Seqno(seqno),
                metric: Metric(metric),
                router_id: finite.then_some(id),
                next_hop: finite.then_some(hop),
                source_prefix,
                quote,
            }
        },
    )
}

pub(crate) fn any_tlv() -> impl Strategy<Value = Tlv> {
    let interval = || (1..=u16::MAX).prop_map(Interval);
    prop_oneof![
        (any::<u16>(), interval())
            .prop_map(|(opaque, interval)| Tlv::AcknowledgmentRequest(AcknowledgmentRequest { opaque, interval })),
        any::<u16>().prop_map(|opaque| Tlv::Acknowledgment(Acknowledgment { opaque })),
        (
            any::<bool>(),
            any::<u16>(),
            prop::option::of(interval()),
            prop::option::of(any::<u32>().prop_map(HelloTimestamp))
        )
            .prop_map(|(unicast, seqno, interval, timestamp)| Tlv::Hello(Hello {
                unicast,
                seqno: Seqno(seqno),
                interval,
                timestamp
            })),
        (prop::option::of(any_address()), any::<u16>(), interval(), prop::option::of(any::<(u32, u32)>())).prop_map(
            |(address, rxcost, interval, timestamp)| {
                let timestamp = timestamp.map(|(origin_us, receive_us)| IhuTimestamp { origin_us, receive_us });
                Tlv::Ihu(Ihu { address, rxcost: Cost::new(rxcost), interval, timestamp })
            }
        ),
        any_update().prop_map(Tlv::Update),
        interval().prop_map(|interval| {
            let retract_all = Update {
                prefix: None,
                router_id: None,
                next_hop: None,
                metric: Metric::INFINITY,
                interval,
                ..update(prefix("::", 0))
            };
            Tlv::Update(retract_all)
        }),
        Just(Tlv::RouteRequest(RouteRequest { prefix: None, source_prefix: None })),
        any_prefixes().prop_map(|(prefix, source_prefix)| Tlv::RouteRequest(RouteRequest {
            prefix: Some(prefix),
            source_prefix
        })),
        (any_prefixes(), any::<u16>(), 1..=255_u8, any_router_id()).prop_map(
            |((prefix, source_prefix), seqno, hop_count, router_id)| {
                Tlv::SeqnoRequest(SeqnoRequest { prefix, seqno: Seqno(seqno), hop_count, router_id, source_prefix })
            }
        ),
    ]
}

/// A retraction is read with the router-id and next hop of the Updates before it, which mean nothing.
fn without_state(tlv: Tlv) -> Tlv {
    if let Tlv::Update(update) = tlv
        && !update.metric.is_finite()
    {
        return Tlv::Update(Update { router_id: None, next_hop: None, ..update });
    }
    tlv
}

proptest! {
    #[test]
    fn what_is_written_is_read(tlvs in prop::collection::vec(any_tlv(), 0..30)) {
        let bytes = encode(&tlvs);
        let read: Vec<_> = Packet::parse(&bytes).unwrap().tlvs(SOURCE).map(without_state).collect();
        prop_assert_eq!(&read, &tlvs);
        prop_assert_eq!(encode(&read), bytes);
    }

    #[test]
    fn every_shortened_packet_is_refused_and_every_shortened_body_is_read_without_harm(tlvs in prop::collection::vec(any_tlv(), 1..8)) {
        let bytes = encode(&tlvs);
        for cut in 0..bytes.len() {
            prop_assert!(Packet::parse(&bytes[..cut]).is_err());
        }
        for cut in 4..bytes.len() {
            if let Ok(packet) = Packet::parse(&packet(&bytes[4..cut])) {
                prop_assert!(packet.tlvs(SOURCE).count() <= tlvs.len());
            }
        }
    }

    #[test]
    fn any_bytes_are_read_without_harm(body in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(packet) = Packet::parse(&packet(&body)) {
            let _ = packet.tlvs(SOURCE).count();
        }
    }

    #[test]
    fn any_tlv_bodies_are_read_without_harm(tlvs in prop::collection::vec((2..12_u8, prop::collection::vec(prop_oneof![0..6_u8, any::<u8>()], 0..40)), 0..10)) {
        let mut body = Vec::new();
        for (kind, bytes) in tlvs {
            body.extend([kind, u8::try_from(bytes.len()).unwrap()]);
            body.extend(bytes);
        }
        let _ = decode(&body);
    }
}
