//! Invitations: all that a newcomer has to know, in one code.
//!
//! Text form: `waybill-invite1:` and base64url of deterministic CBOR (RFC 8949, section 4.2.1) with four bytes of its SHA-256
//! behind. Whoever reads it can become a member, once. It names the ledger's key and founding, so that nobody between can lead the
//! newcomer into another community, and neighbours with their keys, so that a link can be made before anything else works.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ledger_client::{Address, Code, Genesis, LogKey, checkpoint, read_founding};
use metering::{NodeCard, Unverified};
use minicbor::{Decoder, Encoder};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::config::{Amount, Endpoint};

/// What the code begins with.
const PREFIX: &str = "waybill-invite1:";
/// Bytes that tell a code which was copied wrongly.
const CHECK_LEN: usize = 4;
/// Neighbours in one invitation: what a QR code holds.
pub(crate) const HOSTS_MAX: usize = 3;
/// The longest code that is read, in characters: a QR code holds 2,953.
const TEXT_LEN_MAX: usize = 2953;
/// The longest text in it.
const FIELD_LEN_MAX: usize = 255;

/// A neighbour to call first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    /// Who it is.
    pub(crate) card: NodeCard,
    /// Where WireGuard reaches it.
    pub(crate) endpoint: Endpoint,
    /// Where QUIC does, if not at the usual port of the same host. Codes of before have none.
    pub(crate) quic: Option<Endpoint>,
}

/// An invitation to a community.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Invite {
    /// Entry 0 of the ledger's log.
    pub(crate) founding: Vec<u8>,
    /// What it says.
    pub(crate) genesis: Genesis,
    /// Where the ledger is served.
    pub(crate) address: Address,
    /// The key of whoever serves it.
    pub(crate) key: LogKey,
    /// What makes a member of the newcomer.
    pub(crate) code: Code,
    /// Whom to call first.
    pub(crate) hosts: Vec<Host>,
    /// Tokens per GiB paid to providers at most, as most members do.
    pub(crate) max: Amount,
    /// What one hop may cost, the same on all routers of a community.
    pub(crate) hop_worth: Amount,
}

/// Why a code is no invitation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum InviteError {
    /// There is no `waybill-invite1:` in it.
    #[error("an invitation has `{PREFIX}` in it")]
    NotAnInvite,
    /// It is another kind of code.
    #[error("this is the code of an enrolment alone: it says not where the community is")]
    EnrolmentAlone,
    /// A character of it is not what was written down.
    #[error("the invitation is not whole, or has a wrong character")]
    Malformed,
    /// It is whole, and says what makes no sense.
    #[error("whoever made this invitation made a mistake: {0}")]
    Senseless(&'static str),
}

impl Invite {
    /// The same as a link, for a page or a message: what stands behind `#` is not sent to any server.
    #[cfg(any(test, feature = "ledger-serve"))]
    pub(crate) fn link(&self) -> String {
        format!("waybill://join#{self}")
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = Encoder::new(&mut bytes);
        let encoded = (|| {
            encoder.array(7)?.bytes(&self.founding)?.bytes(self.key.public())?.str(&self.address.to_string())?;
            encoder.bytes(&self.code.to_bytes())?.array(self.hosts.len() as u64)?;
            for Host { card, endpoint, quic } in &self.hosts {
                let items = 2 + u64::from(quic.is_some());
                encoder.array(items)?.bytes(&card.encode())?.str(&endpoint.to_string())?;
                if let Some(quic) = quic {
                    encoder.str(&quic.to_string())?;
                }
            }
            encoder.str(&self.max.to_string())?.str(&self.hop_worth.to_string())?.ok()
        })();
        debug_assert!(encoded.is_ok(), "writing to a Vec cannot fail");
        bytes
    }
}

fn check(body: &[u8]) -> [u8; CHECK_LEN] {
    let [a, b, c, d, ..] = <[u8; 32]>::from(Sha256::new().chain_update(PREFIX).chain_update(body).finalize());
    [a, b, c, d]
}

impl fmt::Display for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.encode();
        bytes.extend(check(&bytes));
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for Invite {
    type Err = InviteError;

    /// Reads the code, or a link that ends in one.
    fn from_str(text: &str) -> Result<Self, InviteError> {
        let text = text.trim();
        let Some((_, body)) = text.rsplit_once(PREFIX) else {
            let alone = text.starts_with("waybill-enrolment1:");
            return Err(if alone { InviteError::EnrolmentAlone } else { InviteError::NotAnInvite });
        };
        if body.len() > TEXT_LEN_MAX {
            return Err(InviteError::Malformed);
        }
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| InviteError::Malformed)?;
        let (body, sum) = bytes.split_last_chunk::<CHECK_LEN>().ok_or(InviteError::Malformed)?;
        if check(body) != *sum {
            return Err(InviteError::Malformed);
        }
        let invite = read(body)?;
        if invite.encode() == body { Ok(invite) } else { Err(InviteError::Malformed) }
    }
}

/// Reads any bytes as a code, and as what is inside of one that is whole. Whether they are a good one inside.
///
/// # Panics
/// If what is read is not the one text of what it says, or has characters that mean something in a config file.
#[cfg(any(test, feature = "fuzz"))]
pub fn bears(bytes: &[u8]) -> bool {
    let _any = String::from_utf8_lossy(bytes).parse::<Invite>();
    let whole = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode([bytes, &check(bytes)].concat()));
    let Ok(invite) = whole.parse::<Invite>() else { return false };
    let Invite { address, key, hosts, max, hop_worth, .. } = &invite;
    let endpoints = hosts.iter().flat_map(|host| [Some(&host.endpoint), host.quic.as_ref()]).flatten();
    let mut said = vec![address.to_string(), key.to_string(), max.to_string(), hop_worth.to_string()];
    said.extend(endpoints.map(ToString::to_string));
    let harmless = |said: &String| !said.contains(|c: char| c.is_control() || ['"', '\\'].contains(&c));
    assert!(said.iter().all(harmless) && hosts.len() <= HOSTS_MAX, "{said:?}");
    assert!(invite.to_string() == whole && whole.len() <= PREFIX.len() + TEXT_LEN_MAX, "{whole}");
    true
}

fn read(body: &[u8]) -> Result<Invite, InviteError> {
    use InviteError::Senseless;
    let malformed = |_| InviteError::Malformed;
    let mut decoder = Decoder::new(body);
    if decoder.array().map_err(malformed)? != Some(7) {
        return Err(InviteError::Malformed);
    }
    let founding = decoder.bytes().map_err(malformed)?.to_vec();
    let genesis = read_founding(&founding).ok_or(Senseless("it holds no founding of a ledger"))?;
    let public = decoder.bytes().map_err(malformed)?.try_into().map_err(|_| InviteError::Malformed)?;
    let key = LogKey::from_public(&checkpoint::origin(&genesis), public);
    let key = key.map_err(|_| Senseless("it holds no key of a ledger"))?;
    let address = text(&mut decoder)?.parse().map_err(|_| Senseless("it names no address of a ledger"))?;
    let code = Code::from_bytes(decoder.bytes().map_err(malformed)?).ok_or(Senseless("it holds no enrolment"))?;
    let mut hosts = Vec::new();
    let count = decoder.array().map_err(malformed)?.filter(|count| *count <= HOSTS_MAX as u64);
    for _ in 0..count.ok_or(Senseless("it names too many neighbours"))? {
        let items = decoder.array().map_err(malformed)?.filter(|items| (2..=3).contains(items));
        let items = items.ok_or(InviteError::Malformed)?;
        let card = NodeCard::<Unverified>::decode(decoder.bytes().map_err(malformed)?);
        let card = card.ok().and_then(|card| card.verify().ok()).ok_or(Senseless("a neighbour's card is not good"))?;
        let place = |said: &str| said.parse().map_err(|_| Senseless("a neighbour's address is none"));
        let endpoint = place(text(&mut decoder)?)?;
        let quic = if items == 3 { Some(place(text(&mut decoder)?)?) } else { None };
        hosts.push(Host { card, endpoint, quic });
    }
    let amount = |said: Result<&str, InviteError>| said?.parse().map_err(|_| Senseless("an amount in it is none"));
    let (max, hop_worth) = (amount(text(&mut decoder))?, amount(text(&mut decoder))?);
    if decoder.position() != body.len() {
        return Err(InviteError::Malformed);
    }
    Ok(Invite { founding, genesis, address, key, code, hosts, max, hop_worth })
}

/// A text that goes into a config file, between quotes.
fn text<'a>(decoder: &mut Decoder<'a>) -> Result<&'a str, InviteError> {
    let text = decoder.str().map_err(|_| InviteError::Malformed)?;
    let harmless = text.len() <= FIELD_LEN_MAX
        && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\');
    if harmless { Ok(text) } else { Err(InviteError::Senseless("a text in it has strange characters")) }
}

#[cfg(test)]
mod tests {
    use ledger_client::{Entry, Event, UnixTime};
    use metering::{Identity, NodeId, Seed};

    use super::*;

    fn invite() -> Invite {
        let genesis =
            Genesis::new("Hilltop", "WAY", 6, NodeId([9; 20]), UnixTime::from_seconds(1_000_000), [1; 16]).unwrap();
        let entry = Entry { at: UnixTime::from_seconds(1_000_000), event: Event::Founded(genesis.clone()), seal: None };
        let signer = ledger_client::LogSigner::new(&checkpoint::origin(&genesis), &[7; 32]).unwrap();
        let host = *Identity::new(&Seed::from_bytes([3; 32])).card();
        Invite {
            founding: entry.encode(),
            genesis,
            address: "https://[fd5b:976c:5dd7:0:7943:c8be:4302:cb5a]:8443".parse().unwrap(),
            key: signer.key().clone(),
            code: Code::new([0x5e; 32], NodeId([0xb0; 20])).unwrap(),
            hosts: vec![Host { card: host, endpoint: "roof.example.org:51820".parse().unwrap(), quic: None }],
            max: "0.25".parse().unwrap(),
            hop_worth: "0".parse().unwrap(),
        }
    }

    #[test]
    fn what_is_written_is_read_alone_or_at_the_end_of_a_link() {
        let invite = invite();
        let text = invite.to_string();
        assert_eq!(text.parse(), Ok(invite.clone()));
        assert_eq!(format!("  {text}\n").parse(), Ok(invite.clone()));
        assert_eq!(invite.link().parse(), Ok(invite.clone()));
        assert_eq!(format!("https://hilltop.example/join#{text}").parse(), Ok(invite.clone()));
        let mut two = invite.clone();
        let card = *Identity::new(&Seed::from_bytes([4; 32])).card();
        let [endpoint, quic] = ["192.0.2.1:51820", "192.0.2.1:4433"].map(|at| at.parse().unwrap());
        two.hosts.push(Host { card, endpoint, quic: Some(quic) });
        assert_eq!(two.to_string().parse(), Ok(two));
        assert!(text.len() < 1000, "{} characters are too much for a QR code that a phone reads well", text.len());
    }

    #[test]
    fn a_code_with_any_other_character_or_of_another_kind_is_none() {
        let text = invite().to_string();
        for at in PREFIX.len()..text.len() {
            let mut other = text.clone();
            other.replace_range(at..=at, if text[at..].starts_with('A') { "B" } else { "A" });
            assert!(other.parse::<Invite>().is_err(), "{other}");
            assert!(text[..at].parse::<Invite>().is_err());
        }
        assert_eq!("hello".parse::<Invite>(), Err(InviteError::NotAnInvite));
        assert_eq!("waybill-enrolment1:AAAA".parse::<Invite>(), Err(InviteError::EnrolmentAlone));
        assert_eq!(format!("{PREFIX}{}", "A".repeat(TEXT_LEN_MAX + 1)).parse::<Invite>(), Err(InviteError::Malformed));
    }

    /// What fuzzing has found, and mutants of it and of a good one.
    #[test]
    fn what_is_whole_and_means_harm_does_not_get_into_a_config() {
        let mut rng = fastrand::Rng::with_seed(7);
        let corpus = include_str!("../../tests/fuzz/corpus/invite.txt").lines().map(|line| hex::decode(line).unwrap());
        let bodies: Vec<Vec<u8>> = corpus.chain([invite().encode()]).collect();
        assert!(bodies.iter().filter(|body| bears(body)).count() > 1, "no good ones");
        for _ in 0..20_000 {
            let mut other = bodies[rng.usize(..bodies.len())].clone();
            for _ in 0..rng.usize(1..4).min(other.len()) {
                let at = rng.usize(..other.len());
                other[at] = rng.u8(..);
            }
            other.truncate(rng.usize(other.len() / 2..=other.len()));
            bears(&other);
        }
    }
}
