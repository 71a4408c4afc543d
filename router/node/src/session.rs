//! What both ends of a session with a gateway say to each other: deterministic CBOR (RFC 8949, section 4.2.1), each an array that
//! begins with the version and the kind. UDP, link-local, inside the session.
//!
//! A client asks again and again: each answer is the whole lease, so that losing one is harmless, and how long it takes
//! says how good the gateway is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use minicbor::decode::Error;
use minicbor::{Decoder, Encoder};

/// The first item of each.
const VERSION: u8 = 1;
/// The longest message there is.
pub const MESSAGE_LEN_MAX: usize = 1024;
/// Name servers in a lease at most.
pub const DNS_MAX: usize = 4;
/// The longest contact, bytes.
pub const CONTACT_LEN_MAX: usize = 200;

/// What is not carried, in a lease: so many at most, and the longest of each, bytes.
pub const REFUSE_MAX: usize = 16;
const REFUSE_LEN_MAX: usize = 64;
/// All of it, so that the message is no longer than one may be. What is more is not told.
const REFUSE_TOLD_MAX: usize = 512;

/// What makes the rest of a line be shown from right to left, or ends the line (UAX 9).
const TURNS: [char; 14] = [
    '\u{61c}', '\u{200e}', '\u{200f}', '\u{2028}', '\u{2029}', '\u{202a}', '\u{202b}', '\u{202c}', '\u{202d}',
    '\u{202e}', '\u{2066}', '\u{2067}', '\u{2068}', '\u{2069}',
];

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Client to gateway: may I, and how?
    Ask {
        /// The answer repeats it.
        sequence: u64,
        /// Who asks: its card, now and then, where the gateway may have to know.
        card: Option<Vec<u8>>,
    },
    /// You may.
    Lease {
        /// Of the question.
        sequence: u64,
        /// What the client has from now on.
        lease: Lease,
    },
    /// You may not, at present.
    Refused {
        /// Of the question.
        sequence: u64,
        /// The reason.
        why: Why,
        /// Whom to ask about it.
        contact: String,
    },
}

/// What a client has of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The client's address inside.
    pub ipv4: Ipv4Addr,
    /// The same of IPv6.
    pub ipv6: Ipv6Addr,
    /// Name servers to ask through the session, at most [`DNS_MAX`].
    pub dns: Vec<IpAddr>,
    /// The longest packet inside, bytes.
    pub mtu: u16,
    /// Bytes left of the caps.
    pub left: Option<u64>,
    /// When the gateway serves, in minutes of the day, UTC.
    pub hours: Option<(u16, u16)>,
    /// Whom to tell of abuse.
    pub contact: String,
    /// What is not carried, for people.
    pub refuse: Vec<String>,
}

impl Lease {
    /// As much of what is not carried as there is room for.
    fn told(&self) -> &[String] {
        let mut len = 0;
        let fits = |one: &&String| {
            len += one.len() + 2;
            len <= REFUSE_TOLD_MAX
        };
        &self.refuse[..self.refuse.iter().take_while(fits).count()]
    }
}

/// Why a gateway does not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Not at this hour.
    Closed,
    /// So much has been carried.
    CapReached,
    /// Not this client.
    NotWelcome,
    /// All addresses are given.
    Full,
    /// A reason that this version does not know.
    Other(u8),
}

impl Why {
    fn number(self) -> u8 {
        match self {
            Self::Closed => 1,
            Self::CapReached => 2,
            Self::NotWelcome => 3,
            Self::Full => 4,
            Self::Other(number) => number,
        }
    }

    /// For people.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Closed => "it is closed at this hour",
            Self::CapReached => "the cap is reached",
            Self::NotWelcome => "it serves members of its community alone, and knows this router as none",
            Self::Full => "it has no address left",
            Self::Other(_) => "it refuses for a reason this version does not know",
        }
    }
}

impl From<u8> for Why {
    fn from(number: u8) -> Self {
        match number {
            1 => Self::Closed,
            2 => Self::CapReached,
            3 => Self::NotWelcome,
            4 => Self::Full,
            other => Self::Other(other),
        }
    }
}

const ASK: u8 = 0;
const LEASE: u8 = 1;
const REFUSED: u8 = 2;

impl Message {
    /// The one encoding.
    ///
    /// # Panics
    /// Never: a vector takes every write.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Encoder::new(Vec::new());
        self.write(&mut to).expect("a vector takes every write");
        to.into_writer()
    }

    /// Reads a message; `None` if it is none, too long, or not in its one encoding.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MESSAGE_LEN_MAX {
            return None;
        }
        let message = read(&mut Decoder::new(bytes)).ok()?;
        (message.encode() == bytes).then_some(message)
    }

    fn write(&self, to: &mut Encoder<Vec<u8>>) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
        match self {
            Self::Ask { sequence, card: None } => to.array(3)?.u8(VERSION)?.u8(ASK)?.u64(*sequence)?.ok(),
            Self::Ask { sequence, card: Some(card) } => {
                to.array(4)?.u8(VERSION)?.u8(ASK)?.u64(*sequence)?.bytes(card)?.ok()
            }
            Self::Lease { sequence, lease } => {
                // An item of its own only where there is something: versions that do not know it read all others.
                let told = lease.told();
                to.array(10 + u64::from(!told.is_empty()))?.u8(VERSION)?.u8(LEASE)?.u64(*sequence)?;
                to.bytes(&lease.ipv4.octets())?.bytes(&lease.ipv6.octets())?;
                to.array(lease.dns.len() as u64)?;
                for server in &lease.dns {
                    match server {
                        IpAddr::V4(server) => to.bytes(&server.octets())?,
                        IpAddr::V6(server) => to.bytes(&server.octets())?,
                    };
                }
                to.u16(lease.mtu)?;
                match lease.left {
                    Some(left) => to.u64(left)?,
                    None => to.null()?,
                };
                match lease.hours {
                    Some((from, until)) => to.array(2)?.u16(from)?.u16(until)?,
                    None => to.null()?,
                };
                to.str(&lease.contact)?;
                if told.is_empty() {
                    return Ok(());
                }
                to.array(told.len() as u64)?;
                told.iter().try_for_each(|one| to.str(one)?.ok())
            }
            Self::Refused { sequence, why, contact } => {
                to.array(5)?.u8(VERSION)?.u8(REFUSED)?.u64(*sequence)?.u8(why.number())?.str(contact)?.ok()
            }
        }
    }
}

fn read(from: &mut Decoder<'_>) -> Result<Message, Error> {
    let len = from.array()?;
    if from.u8()? != VERSION {
        return Err(Error::message("another version"));
    }
    let (kind, sequence) = (from.u8()?, from.u64()?);
    match (kind, len) {
        (ASK, Some(3)) => Ok(Message::Ask { sequence, card: None }),
        (ASK, Some(4)) => Ok(Message::Ask { sequence, card: Some(from.bytes()?.to_vec()) }),
        (LEASE, Some(len @ (10 | 11))) => Ok(Message::Lease { sequence, lease: read_lease(from, len == 11)? }),
        (REFUSED, Some(5)) => {
            Ok(Message::Refused { sequence, why: from.u8()?.into(), contact: line(from, CONTACT_LEN_MAX)? })
        }
        _ => Err(Error::message("another kind")),
    }
}

fn read_lease(from: &mut Decoder<'_>, refuses: bool) -> Result<Lease, Error> {
    let ipv4 = Ipv4Addr::from(octets::<4>(from.bytes()?)?);
    let ipv6 = Ipv6Addr::from(octets::<16>(from.bytes()?)?);
    let servers = from.array()?.filter(|count| *count <= DNS_MAX as u64).ok_or(Error::message("too many"))?;
    let mut dns = Vec::new();
    for _ in 0..servers {
        let bytes = from.bytes()?;
        dns.push(match bytes.len() {
            4 => IpAddr::from(octets::<4>(bytes)?),
            _ => IpAddr::from(octets::<16>(bytes)?),
        });
    }
    let mtu = from.u16()?;
    let left = maybe(from, Decoder::u64)?;
    let hours = maybe(from, |from| match from.array()? {
        Some(2) => Ok((from.u16()?, from.u16()?)),
        _ => Err(Error::message("no two hours")),
    })?;
    let contact = line(from, CONTACT_LEN_MAX)?;
    let count = if refuses { from.array()?.ok_or(Error::message("without an end"))? } else { 0 };
    if count > REFUSE_MAX as u64 {
        return Err(Error::message("too many"));
    }
    let refuse = (0..count).map(|_| line(from, REFUSE_LEN_MAX)).collect::<Result<_, _>>()?;
    Ok(Lease { ipv4, ipv6, dns, mtu, left, hours, contact, refuse })
}

fn maybe<'a, T>(
    from: &mut Decoder<'a>,
    read: impl FnOnce(&mut Decoder<'a>) -> Result<T, Error>,
) -> Result<Option<T>, Error> {
    if from.datatype()? == minicbor::data::Type::Null {
        from.null()?;
        return Ok(None);
    }
    read(from).map(Some)
}

fn octets<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Error> {
    bytes.try_into().map_err(|_| Error::message("an address of another length"))
}

fn line(from: &mut Decoder<'_>, most: usize) -> Result<String, Error> {
    let text = from.str()?;
    // It is shown to people: nothing in it may move their cursor, nor turn what they read around.
    if text.len() > most || text.chars().any(|c| c.is_control() || TURNS.contains(&c)) {
        return Err(Error::message("too long, or not one line"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease() -> Lease {
        Lease {
            ipv4: Ipv4Addr::new(100, 64, 3, 4),
            ipv6: "fc12::7".parse().unwrap(),
            dns: vec!["100.64.0.1".parse().unwrap(), "2001:db8::53".parse().unwrap()],
            mtu: 1340,
            left: Some(1 << 40),
            hours: Some((480, 1320)),
            contact: "abuse@example.org".to_owned(),
            refuse: vec!["tcp/25".to_owned(), "198.51.100.0/24".to_owned()],
        }
    }

    fn all() -> Vec<Message> {
        let bare =
            Lease { dns: Vec::new(), left: None, hours: None, contact: String::new(), refuse: Vec::new(), ..lease() };
        vec![
            Message::Ask { sequence: 0, card: None },
            Message::Ask { sequence: u64::MAX, card: None },
            Message::Ask { sequence: 7, card: Some(vec![5; 200]) },
            Message::Lease { sequence: 7, lease: lease() },
            Message::Lease { sequence: 8, lease: bare },
            Message::Refused { sequence: 9, why: Why::CapReached, contact: "us".to_owned() },
            Message::Refused { sequence: 9, why: Why::Other(200), contact: String::new() },
        ]
    }

    #[test]
    fn each_message_is_read_back() {
        for message in all() {
            let bytes = message.encode();
            assert!(bytes.len() <= 250, "{}", bytes.len());
            assert_eq!(Message::decode(&bytes), Some(message));
        }
        assert_eq!(Message::Ask { sequence: 5, card: None }.encode(), [0x83, 1, 0, 5], "as other programs write it");
    }

    #[test]
    fn what_is_not_carried_is_told_as_far_as_there_is_room() {
        let longest = "tcp/10000-20000@2001:db8:1234:5678:9abc:def0:1234:5678/127".to_owned();
        let full = Lease {
            dns: vec!["2001:db8::53".parse().unwrap(); DNS_MAX],
            contact: "x".repeat(CONTACT_LEN_MAX),
            refuse: vec![longest.clone(); REFUSE_MAX],
            ..lease()
        };
        let bytes = Message::Lease { sequence: u64::MAX, lease: full }.encode();
        let Some(Message::Lease { lease: read, .. }) = Message::decode(&bytes) else { panic!("{}", bytes.len()) };
        assert_eq!(read.refuse, vec![longest; 8]);
        assert!(bytes.len() < MESSAGE_LEN_MAX && lease().refuse.len() == 2);
        let bare = Lease { refuse: Vec::new(), ..lease() };
        assert_eq!(Message::Lease { sequence: 1, lease: bare }.encode()[0], 0x8a, "as versions before read it");
    }

    #[test]
    fn what_is_cut_damaged_random_or_not_deterministic_is_no_message() {
        for message in all() {
            let bytes = message.encode();
            for len in 0..bytes.len() {
                assert_eq!(Message::decode(&bytes[..len]), None);
            }
            assert_eq!(Message::decode(&[&bytes[..], &[0]].concat()), None, "something follows");
            for bit in 0..bytes.len() * 8 {
                let mut damaged = bytes.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                if let Some(read) = Message::decode(&damaged) {
                    assert_eq!(read.encode(), damaged);
                }
            }
        }
        assert_eq!(Message::decode(&[0x83, 1, 0, 0x18, 5]), None, "a longer encoding");
        assert_eq!(Message::decode(&[0x83, 2, 0, 5]), None, "another version");
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..50_000 {
            let mut bytes = vec![0; rng.usize(..120)];
            rng.fill(&mut bytes);
            if let Some(head) = bytes.first_chunk_mut::<3>() {
                *head = [[0x83, 1, 0], [0x84, 1, 0], [0x8a, 1, 1], [0x8b, 1, 1], [0x85, 1, 2]][rng.usize(..5)];
            }
            if let Some(read) = Message::decode(&bytes) {
                assert_eq!(read.encode(), bytes);
            }
        }
        let long = Message::Refused { sequence: 1, why: Why::Full, contact: "x".repeat(CONTACT_LEN_MAX + 1) };
        assert_eq!(Message::decode(&long.encode()), None);
        let colourful = Message::Refused { sequence: 1, why: Why::Full, contact: "\u{1b}[2J".to_owned() };
        assert_eq!(Message::decode(&colourful.encode()), None);
        let turned = Message::Refused { sequence: 1, why: Why::Full, contact: "us\u{202e}gro.elpmaxe".to_owned() };
        assert_eq!(Message::decode(&turned.encode()), None);
    }
}
