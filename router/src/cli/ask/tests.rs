use std::net::Ipv6Addr;

use metering::{Bytes, ChannelId, NodeId, Tokens};

use super::*;
use crate::control::{
    KeptBy, KeptLine, Meter, ReceiptLine, Redeemed, Refusal, Route, TermsLine, Unit, WalletChannel, Way, WhyDay,
};

fn way() -> Unit {
    Unit { symbol: "WAY".to_owned(), decimals: 6 }
}

fn free() -> Unit {
    Unit { symbol: String::new(), decimals: 0 }
}

fn tokens(base_units: u128) -> Tokens {
    Tokens::new(base_units).unwrap()
}

fn channel(nonce: u64) -> ChannelId {
    ChannelId { payer: NodeId([1; 20]), payee: NodeId([2; 20]), nonce }
}

fn a_status() -> Status {
    Status {
        name: "attic".to_owned(),
        id: NodeId([0x11; 20]),
        mesh_address: "fd71:e4c7:228b::1".parse::<Ipv6Addr>().unwrap(),
        prefix: "fd71:e4c7:228b::/48".to_owned(),
        version: "0.1.0".to_owned(),
        uptime_s: 100_000,
        links_up: 2,
        links: 3,
        routes: 17,
        unit: way(),
        owed_by_us: tokens(250_000),
        owed_to_us: tokens(1_250_000),
        value_at_risk: tokens(500_000),
        drops: [("no route".to_owned(), 12), ("hop limit".to_owned(), 3)].into(),
        ledger_reachable: Some(true),
        ledger_distrusted: None,
        membership: None,
        gateway: None,
        internet: None,
        warnings: vec!["the journal was damaged and set aside".to_owned()],
    }
}

#[test]
fn status_reads_like_a_report() {
    assert_eq!(
        status(&a_status()),
        "name          attic
account       0x1111111111111111111111111111111111111111
mesh address  fd71:e4c7:228b::1
prefix        fd71:e4c7:228b::/48
running       waybill 0.1.0, for 1 d 3 h
links         2 of 3 up
routes        17
ledger        reachable
owed by us    0.250000 WAY
owed to us    1.250000 WAY
at risk       0.500000 WAY at most
dropped       15 packets: 3 hop limit, 12 no route
warning: the journal was damaged and set aside
"
    );
}

#[test]
fn without_a_ledger_status_does_not_talk_of_money() {
    let text =
        status(&Status { ledger_reachable: None, unit: free(), drops: [].into(), warnings: Vec::new(), ..a_status() });
    assert!(text.contains("ledger        none: this router carries for free\ndropped       no packet\n"), "{text}");
    assert!(!text.contains("owed"), "{text}");
}

#[test]
fn neighbours_are_listed_with_what_is_known_of_them() {
    let roof = Neighbour {
        name: "roof".to_owned(),
        id: NodeId([0x22; 20]),
        link: "wireguard".to_owned(),
        carrier: "wireguard".to_owned(),
        endpoint: Some("[2001:db8::2]:51820".to_owned()),
        state: LinkState::Up,
        role: "provider".to_owned(),
        cost: Some(96),
        rtt_us: Some(12_340),
        last_heard_s: Some(2),
        mtu: 1420,
        admitted: true,
        visitor: false,
        met: false,
        ways: [("[2001:db8::2]:51820", true, Some(12_000), 0), ("[fe80::2%3]:51820", false, Some(31_000), 15)]
            .map(|(at, in_use, rtt_us, lost_per_mille)| Way { endpoint: at.to_owned(), in_use, rtt_us, lost_per_mille })
            .into(),
    };
    let barn = Neighbour {
        name: "old-barn".to_owned(),
        id: NodeId([0x33; 20]),
        link: "quic".to_owned(),
        carrier: "quic".to_owned(),
        endpoint: None,
        state: LinkState::Connecting,
        role: "subscriber".to_owned(),
        cost: None,
        rtt_us: None,
        last_heard_s: None,
        mtu: 1420,
        admitted: false,
        visitor: false,
        met: true,
        ways: Vec::new(),
    };
    let (link, carrier) = ("auto".to_owned(), "quic".to_owned());
    let ways = Vec::new();
    let stranger = Neighbour { name: "new".to_owned(), admitted: false, link, carrier, ways, ..roof.clone() };
    let leaf = Neighbour { name: "phone".to_owned(), id: NodeId([0; 20]), role: "leaf".to_owned(), ..barn.clone() };
    assert_eq!(
        neighbours(&[roof, barn, stranger, leaf]),
        "NAME      ACCOUNT      LINK         STATE             ROLE        COST      RTT     HEARD  ENDPOINT
roof      0x2222…2222  wireguard    up                provider      96  12.3 ms   2 s ago  [2001:db8::2]:51820
                       or by                                            31.0 ms  2 % lost  [fe80::2%3]:51820
old-barn  0x3333…3333  quic         connecting        subscriber     -        -     never  -
new       0x2222…2222  quic (auto)  up, not admitted  provider      96  12.3 ms   2 s ago  [2001:db8::2]:51820
phone     -            quic         connecting        leaf           -        -     never  -
"
    );
}

#[test]
fn routes_show_which_one_packets_take() {
    let route = |via: Option<&str>, metric, price, selected| Route {
        prefix: "fd71:e4c7:228b::/48".to_owned(),
        via: via.map(str::to_owned),
        metric,
        price,
        router_id: "02:00:00:00:00:00:00:01".to_owned(),
        selected,
    };
    let answer = Routes {
        unit: way(),
        routes: vec![
            route(None, 0, Some(0), true),
            route(Some("roof"), 192, Some(250_000), false),
            route(Some("old-router"), 300, None, false),
            route(Some("barn"), u16::MAX, Some(u64::MAX), false),
        ],
    };
    assert_eq!(
        routes(&answer),
        "   PREFIX               VIA               METRIC            WAY PER GiB  FROM
>  fd71:e4c7:228b::/48  this router            0                   free  02:00:00:00:00:00:00:01
   fd71:e4c7:228b::/48  roof                 192               0.250000  02:00:00:00:00:00:00:01
   fd71:e4c7:228b::/48  old-router           300                unknown  02:00:00:00:00:00:00:01
   fd71:e4c7:228b::/48  barn         unreachable  18446744073709.551615  02:00:00:00:00:00:00:01

> packets take this route
"
    );
}

#[test]
fn meters_show_both_counts_and_the_most_that_can_be_lost() {
    let answer = Meters {
        unit: way(),
        meters: vec![Meter {
            neighbour: "roof".to_owned(),
            id: NodeId([2; 20]),
            role: "provider".to_owned(),
            sent_bytes: Bytes::new(1 << 20),
            received_bytes: Bytes::new(3 << 30),
            reported_sent_bytes: Some(Bytes::new(3 << 30)),
            reported_received_bytes: None,
            owed_by_us: tokens(750_000),
            owed_to_us: Tokens::ZERO,
            signed: tokens(700_000),
            receipts_signed: 3,
            receipts_verified: 0,
            value_at_risk: tokens(50_000),
            sentence: "with this neighbour you can lose at most 0.050000 WAY".to_owned(),
        }],
    };
    assert_eq!(
        meters(&answer),
        "NEIGHBOUR  ROLE         SENT  RECEIVED  THEY SENT  THEY RECEIVED  OWED BY US  OWED TO US    SIGNED
roof       provider  1.0 MiB   3.0 GiB    3.0 GiB              -    0.750000    0.000000  0.700000

Amounts are in WAY. Bytes are billed bytes; THEY columns are what the neighbour reports.
roof: with this neighbour you can lose at most 0.050000 WAY
"
    );
}

fn reasons(role: &str, terms: Option<TermsLine>, days: Vec<WhyDay>) -> Why {
    Why {
        unit: way(),
        neighbour: "roof".to_owned(),
        id: NodeId([2; 20]),
        role: role.to_owned(),
        terms,
        arrears: Tokens::ZERO,
        window: Tokens::ZERO,
        sentence: "with this neighbour you can lose nothing you have carried or paid for".to_owned(),
        days,
    }
}

#[test]
fn why_shows_both_sides_counts_what_was_lost_and_what_was_signed() {
    let terms = TermsLine { agreed: true, price_up: 250_000, price_down: 500_000, loss_allowance_ppm: 50_000 };
    let day = WhyDay {
        day: "2026-11-26".to_owned(),
        sent_bytes: Bytes::new(1 << 20),
        reported_received_bytes: Bytes::new(1 << 19),
        reported_sent_bytes: Bytes::new(3 << 30),
        received_bytes: Bytes::new(3 << 30),
        earned: Tokens::ZERO,
        spent: tokens(1_500_122),
        written_off: Tokens::ZERO,
        paid_late: Tokens::ZERO,
        agreements: 1,
    };
    assert_eq!(
        why(&reasons("provider", Some(terms.clone()), vec![day.clone()])),
        "roof is your provider. You pay roof 0.250000 WAY per GiB sent and 0.500000 WAY per GiB received, for what arrived by both sides' counts.
with this neighbour you can lose nothing you have carried or paid for

DAY            SENT  THEY RECEIVED    LOST  THEY SENT  RECEIVED   LOST    EARNED     SPENT  WRITTEN OFF
2026-11-26  1.0 MiB      512.0 KiB  50.0 %    3.0 GiB   3.0 GiB  0.0 %  0.000000  1.500122     0.000000

Bytes are billed bytes, counted while terms were agreed on; THEY columns are what the neighbour reports. Amounts are in WAY.
"
    );
    let late = why(&reasons("subscriber", None, vec![WhyDay { paid_late: tokens(20), ..day }]));
    assert!(
        late.contains(
            "\nOn 2026-11-26 roof paid 0.000020 WAY late, of what earlier days show as written off: those lines stay as \
             they were.\n\nBytes are"
        ),
        "{late}"
    );
    let free = TermsLine { price_up: 0, price_down: 0, ..terms };
    let text = why(&reasons("peer", Some(free), Vec::new()));
    assert!(text.starts_with("roof is your peer: nobody pays, both count.\n"), "{text}");
    let mut owing = reasons("subscriber", None, Vec::new());
    owing.arrears = tokens(20);
    let text = why(&owing);
    assert!(text.starts_with("Nothing is agreed on with roof yet.\nroof left 0.000020 WAY unpaid"), "{text}");
}

#[test]
fn receipts_show_what_would_survive_a_power_cut() {
    let by = |(name, amount): &(&str, u128)| KeptBy { neighbour: (*name).to_owned(), amount: tokens(*amount) };
    let line = |direction, durable, kept: &[(&str, u128)]| ReceiptLine {
        neighbour: "roof".to_owned(),
        channel: channel(3),
        direction,
        amount: tokens(1_500_000),
        durable: tokens(durable),
        redeemed: tokens(1_000_000),
        kept_by: kept.iter().map(by).collect(),
        receipt: None,
    };
    let answer = Receipts {
        unit: way(),
        receipts: vec![
            line(Direction::WePay, 2_000_000, &[]),
            ReceiptLine { amount: Tokens::ZERO, ..line(Direction::WePay, 2_000_000, &[]) },
            line(Direction::WeArePaid, 1_500_000, &[("barn", 1_500_000), ("mill", 900_000)]),
            line(Direction::WeArePaid, 1_500_000, &[]),
        ],
        keeping: vec![KeptLine {
            payee: "barn".to_owned(),
            payer: "mill".to_owned(),
            channel: channel(4),
            amount: tokens(700_000),
            durable: false,
            receipt: String::new(),
        }],
    };
    assert_eq!(
        receipts(&answer),
        "NEIGHBOUR  DIRECTION    CHANNEL        SIGNED WAY   ON DISK  REDEEMED  KEPT BY
roof       we pay             3          1.500000  2.000000  1.000000  -
roof       we pay             3  at most 2.000000  2.000000  1.000000  -
roof       we are paid        3          1.500000  1.500000  1.000000  barn, mill (0.900000)
roof       we are paid        3          1.500000  1.500000  1.000000  nobody yet

KEPT FOR  SIGNED BY  CHANNEL  SIGNED WAY  ON DISK
barn      mill             4    0.700000  soon
"
    );
}

#[test]
fn redemption_and_wallet_show_tokens() {
    let answer = RedeemedReceipts {
        unit: way(),
        redeemed: vec![Redeemed { neighbour: "barn".to_owned(), channel: channel(1), paid: tokens(2_000_000) }],
    };
    assert_eq!(redeemed(&answer), "NEIGHBOUR  CHANNEL  PAID WAY\nbarn             1  2.000000\n");
    let answer = Wallet {
        unit: way(),
        community: "Hilltop".to_owned(),
        account: NodeId([0x11; 20]),
        balance: tokens(10_000_000),
        locked_in_channels: tokens(1_000_000),
        earned_unredeemed: tokens(5),
        channels: vec![WalletChannel {
            neighbour: "roof".to_owned(),
            channel: channel(1),
            direction: Direction::WeArePaid,
            deposit: tokens(1_000_000),
            redeemed: Tokens::ZERO,
            exit_time_s: Some(1),
        }],
    };
    assert_eq!(
        wallet(&answer),
        "community  Hilltop
account    0x1111111111111111111111111111111111111111
balance    10.000000 WAY
locked     1.000000 WAY in channels to providers
earned     0.000005 WAY not redeemed yet

NEIGHBOUR  DIRECTION    CHANNEL  DEPOSIT WAY  REDEEMED  STATE
roof       we are paid        1     1.000000  0.000000  closing
"
    );
}

#[test]
fn empty_tables_say_what_to_do_next() {
    let empty = [
        neighbours(&[]),
        routes(&Routes { unit: way(), routes: Vec::new() }),
        meters(&Meters { unit: way(), meters: Vec::new() }),
        receipts(&Receipts { unit: way(), receipts: Vec::new(), keeping: Vec::new() }),
        redeemed(&RedeemedReceipts { unit: way(), redeemed: Vec::new() }),
    ];
    for text in empty {
        assert!(text.lines().count() == 2 && text.lines().nth(1).unwrap().starts_with("  "), "{text}");
    }
}

#[test]
fn json_is_the_answer_alone() {
    let json = as_json(&Response::Status(Box::new(a_status())));
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["owed_to_us"], "1250000");
    assert_eq!(value["unit"]["decimals"], 6);
    assert_eq!(value["drops"]["no route"], 12);
    assert_eq!(serde_json::from_value::<Status>(value).unwrap(), a_status());
    assert_eq!(as_json(&Response::Neighbours(Vec::new())), "[]\n");
    assert_eq!(as_text(&Response::Failed(Refusal { cause: "a\u{7}b".to_owned(), next: None })), "a\u{fffd}b");
}

#[test]
fn a_channel_s_end_says_what_came_back_or_when_it_will() {
    let answer = |refunded, notice_until| Closed {
        unit: way(),
        neighbour: "roof".to_owned(),
        channel: channel(3),
        refunded,
        notice_until,
    };
    assert_eq!(
        closed(&answer(Some(tokens(1_500_000)), None)),
        "The channel 3 to roof has ended: 1.500000 WAY came back.\n  The next one is opened when something is owed again.\n"
    );
    // Computed with Python's `datetime`.
    assert_eq!(
        closed(&answer(None, Some(1_795_718_640))),
        "roof does not answer, so notice was given on channel 3.\n  What is left comes back by itself after 2026-11-26 \
         18:44 UTC.\n"
    );
}
