//! What a household and a gateway say to each other, from anybody: what is read has one encoding, is bounded, and is one line
//! where people read it.

use std::net::Ipv4Addr;

use node::session::{CONTACT_LEN_MAX, DNS_MAX, Lease, MESSAGE_LEN_MAX, Message, REFUSE_MAX, Why};

use crate::pair::{PAYER, identity};

/// One message.
///
/// # Panics
/// If it is read and is more than a message may be.
pub fn session(bytes: &[u8]) {
    let Some(message) = Message::decode(bytes) else { return };
    assert!(bytes.len() <= MESSAGE_LEN_MAX && message.encode() == bytes);
    let lines = match message {
        Message::Ask { card, .. } => {
            assert!(card.is_none_or(|card| card.len() < bytes.len()));
            Vec::new()
        }
        Message::Lease { lease: Lease { dns, contact, refuse, .. }, .. } => {
            assert!(dns.len() <= DNS_MAX && refuse.len() <= REFUSE_MAX);
            [refuse, vec![contact]].concat()
        }
        Message::Refused { why, contact, .. } => {
            assert!(!why.text().is_empty());
            vec![contact]
        }
    };
    let one_line = |line: &String| line.len() <= CONTACT_LEN_MAX && !line.contains(['\n', '\u{1b}', '\u{202e}']);
    assert!(lines.iter().all(one_line), "{lines:?}");
}

/// What real ends say, to begin with.
#[must_use]
pub fn session_examples() -> Vec<Vec<u8>> {
    let lease = Lease {
        ipv4: Ipv4Addr::new(100, 64, 3, 4),
        ipv6: Ipv4Addr::new(192, 0, 2, 7).to_ipv6_mapped(),
        dns: vec![Ipv4Addr::new(192, 0, 2, 1).into(), Ipv4Addr::new(192, 0, 2, 2).to_ipv6_mapped().into()],
        mtu: 1340,
        left: Some(1 << 40),
        hours: Some((480, 1320)),
        contact: "abuse@example.org".to_owned(),
        refuse: vec!["tcp/25".to_owned(), "198.51.100.0/24".to_owned()],
    };
    let bare = Lease { dns: Vec::new(), left: None, hours: None, refuse: Vec::new(), ..lease.clone() };
    let card = Some(identity(PAYER).card().encode());
    let messages = [
        Message::Ask { sequence: 7, card: None },
        Message::Ask { sequence: u64::MAX, card },
        Message::Lease { sequence: 7, lease },
        Message::Lease { sequence: 300, lease: bare },
        Message::Refused { sequence: 9, why: Why::CapReached, contact: "us".to_owned() },
        Message::Refused { sequence: 9, why: Why::Other(200), contact: String::new() },
    ];
    messages.iter().map(Message::encode).collect()
}
