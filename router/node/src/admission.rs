//! Who is at the other end of a link: each side shows its [`NodeCard`], and nothing is relayed before it has been
//! checked against the key the link itself has proven.
//!
//! One message, over link-local UDP: deterministic CBOR `[1, card, heard]`, where `heard` says whether the sender has
//! already accepted the receiver's card. Each side repeats it every [`REPEAT`] until the other has heard it, and answers
//! a message that has not heard it. Losing, repeating and reordering messages is harmless.
//!
//! Whoever comes by QUIC, or may, has proven the TLS key of its card and no other, and its addresses follow from the WireGuard key.
//! So it is asked for that too, `[2]`, be it a stranger or a neighbour whose card is known, and answers `[3, proof]` ([`Identity::prove_wireguard`](metering::Identity::prove_wireguard)):
//! nobody gets the addresses of another by a card that names that one's key.

use std::time::{Duration, Instant};

use metering::Unverified;
use metering::identity::{NodeCard, NodeId, TlsKey, WireguardKey};
use minicbor::{Decoder, Encoder};

/// UDP port of admission messages, inside a link only.
pub const ADMISSION_PORT: u16 = 6697;
/// Time between repetitions. The link is up when the first is sent, so few are ever lost.
const REPEAT: Duration = Duration::from_secs(1);
/// Which message in a row is answered of a neighbour that has heard us: it would say nothing if it knew that it was heard. Not each,
/// as two could answer each other for ever.
const ANSWERED_EACH: u8 = 2;
/// How often a proof is looked at: not as often as a message asks for one, which may be early.
const PROOF_EACH: Duration = Duration::from_millis(500);
/// The version of the message.
const VERSION: u8 = 1;
/// Asks for a proof of the WireGuard key.
const ASK: [u8; 2] = [0x81, 2];
/// What a proof begins with: an array of two, the first 3, the second of 32 bytes.
const PROOF: [u8; 4] = [0x82, 3, 0x58, 32];

/// The key that somebody nobody has named has proven to hold, by the link it calls on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proven {
    /// By a WireGuard handshake.
    Wireguard(WireguardKey),
    /// By a TLS handshake, on a QUIC link.
    Tls(TlsKey),
}

/// What a link must prove: the keys its cryptography authenticated, and the account the configuration names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expected {
    /// The neighbour's account; `None`: whose the key is.
    pub account: Option<NodeId>,
    /// The WireGuard key the card must bind; `None`: any.
    pub wireguard: Option<WireguardKey>,
    /// The TLS key the card must bind; `None`: any.
    pub tls: Option<TlsKey>,
}

impl Expected {
    /// Somebody nobody has named: the card must be of the key that the link has proven.
    pub fn stranger(proven: Proven) -> Self {
        let (wireguard, tls) = match proven {
            Proven::Wireguard(key) => (Some(key), None),
            Proven::Tls(key) => (None, Some(key)),
        };
        Self { account: None, wireguard, tls }
    }

    fn is_bound_by(&self, card: &NodeCard<Unverified>) -> bool {
        self.wireguard.is_none_or(|key| key == card.wireguard()) && self.tls.is_none_or(|tls| tls == card.tls())
    }
}

impl From<&NodeCard> for Expected {
    fn from(card: &NodeCard) -> Self {
        Self { account: Some(card.account()), wireguard: Some(card.wireguard()), tls: Some(card.tls()) }
    }
}

/// Why a neighbour is not admitted.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum AdmissionError {
    /// The neighbour misbehaved: the message is no admission message.
    #[error("the neighbour sent a malformed admission message")]
    Malformed,
    /// The neighbour is incompatible.
    #[error("the neighbour speaks admission version {version}, we speak {VERSION}")]
    Version {
        /// The version it speaks.
        version: u8,
    },
    /// The neighbour misbehaved: its account did not sign this card.
    #[error("the neighbour's card is not signed by its account")]
    Signature,
    /// The neighbour is somebody else than the configuration names.
    #[error("the card is of account {found}, the configuration names {expected}")]
    OtherAccount {
        /// Whose card it is.
        found: NodeId,
        /// Whose it should be.
        expected: NodeId,
    },
    /// The neighbour misbehaved: the card binds other keys than the ones this link has proven.
    #[error("the card of {account} binds other keys than this link uses")]
    OtherKeys {
        /// Whose card it is.
        account: NodeId,
    },
}

/// The admission of one link, both ways.
#[derive(Debug)]
pub(crate) struct Admission {
    ours: Vec<u8>,
    expected: Expected,
    admitted: bool,
    heard: bool,
    repeat_at: Option<Instant>,
    /// The card that was accepted, and as it came, so that a repeated one costs no signature check.
    accepted: Option<(NodeCard, Vec<u8>)>,
    outbox: Option<Vec<u8>>,
    /// The neighbour's card is good, and its WireGuard key still to be proven.
    unproven: bool,
    /// The question for that, or the answer to it; and the answer once it is known.
    aside: Option<Vec<u8>>,
    proof: Option<[u8; 32]>,
    /// When one of the neighbour's is looked at next.
    proof_at: Instant,
    /// Messages of a neighbour that we have heard and that has heard us, since the last of ours.
    unanswered: u8,
}

/// What is said about the WireGuard key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aside<'a> {
    /// The neighbour wants a proof.
    Asked,
    /// This is one.
    Proof(&'a [u8; 32]),
}

impl<'a> Aside<'a> {
    pub(crate) fn read(message: &'a [u8]) -> Option<Self> {
        if message == ASK {
            return Some(Self::Asked);
        }
        message.strip_prefix(&PROOF)?.try_into().ok().map(Self::Proof)
    }
}

impl Admission {
    /// `proves`: the link does not prove the neighbour's WireGuard key, so that it has to do so itself.
    pub(crate) fn new(ours: &NodeCard, expected: Expected, proves: bool, now: Instant) -> Self {
        Self {
            ours: ours.encode(),
            expected,
            admitted: false,
            heard: false,
            repeat_at: Some(now),
            accepted: None,
            outbox: None,
            unproven: proves,
            aside: None,
            proof: None,
            proof_at: now,
            unanswered: 0,
        }
    }

    /// Whether the neighbour has been admitted.
    pub(crate) fn is_admitted(&self) -> bool {
        self.admitted
    }

    /// The neighbour's card, once it is admitted.
    pub(crate) fn card(&self) -> Option<&NodeCard> {
        self.accepted.as_ref().map(|(card, _)| card)
    }

    /// Takes a message; true when it has just admitted the neighbour.
    pub(crate) fn handle_message(&mut self, now: Instant, message: &[u8]) -> Result<bool, AdmissionError> {
        let (card, heard_by_them) = decode(message)?;
        // Each costs a check of its signature, so there is one in an admission: anybody could sign the same again in another way.
        match &self.accepted {
            Some((_, accepted)) if accepted == card => {}
            Some((accepted, _)) => {
                let shown = NodeCard::<Unverified>::decode(card).map_err(|_| AdmissionError::Malformed)?;
                let keys = (accepted.account(), accepted.wireguard(), accepted.tls());
                if (shown.account(), shown.wireguard(), shown.tls()) != keys {
                    return Err(AdmissionError::OtherKeys { account: shown.account() });
                }
            }
            None => self.accepted = Some((self.check(card)?, card.to_vec())),
        }
        let was_heard = self.heard;
        self.heard |= heard_by_them;
        if self.unproven {
            self.aside = Some(ASK.to_vec());
            return Ok(false);
        }
        let first = !std::mem::replace(&mut self.admitted, true);
        self.unanswered += u8::from(was_heard && !first);
        if !heard_by_them || first || self.unanswered >= ANSWERED_EACH {
            self.outbox = Some(self.message());
            self.unanswered = 0;
        }
        self.repeat_at = if self.heard { None } else { Some(now + REPEAT) };
        Ok(first)
    }

    /// The neighbour wants a proof of our WireGuard key. It is made once.
    pub(crate) fn handle_asked(&mut self, prove: impl FnOnce() -> [u8; 32]) {
        let proof = self.proof.get_or_insert_with(prove);
        self.aside = Some([&PROOF[..], &*proof].concat());
    }

    /// Takes a proof of the neighbour's; true when it has just admitted it. What nobody asked for is not looked at, nor more than one
    /// in a while: each costs a key agreement. An honest one is asked for again.
    pub(crate) fn handle_proof(
        &mut self,
        now: Instant,
        is_good: impl FnOnce(&NodeCard) -> bool,
    ) -> Result<bool, AdmissionError> {
        let waits = !self.unproven || now < self.proof_at;
        let Some((card, _)) = self.accepted.as_ref().filter(|_| !waits) else { return Ok(false) };
        self.proof_at = now + PROOF_EACH;
        if !is_good(card) {
            return Err(AdmissionError::OtherKeys { account: card.account() });
        }
        (self.unproven, self.admitted) = (false, true);
        self.outbox = Some(self.message());
        if self.heard {
            self.repeat_at = None;
        }
        Ok(true)
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.repeat_at.is_some_and(|at| at <= now) {
            self.outbox = Some(self.message());
            self.repeat_at = Some(now + REPEAT);
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.repeat_at
    }

    pub(crate) fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.outbox.take().or_else(|| self.aside.take())
    }

    /// Checks what is said before the signature under it: the check costs, and anybody's card is well signed.
    fn check(&self, card: &[u8]) -> Result<NodeCard, AdmissionError> {
        let card = NodeCard::<Unverified>::decode(card).map_err(|_| AdmissionError::Malformed)?;
        let found = card.account();
        if let Some(expected) = self.expected.account.filter(|expected| *expected != found) {
            return Err(AdmissionError::OtherAccount { found, expected });
        }
        if !self.expected.is_bound_by(&card) {
            return Err(AdmissionError::OtherKeys { account: found });
        }
        card.verify().map_err(|_| AdmissionError::Signature)
    }

    fn message(&self) -> Vec<u8> {
        let mut message = Vec::new();
        let mut encoder = Encoder::new(&mut message);
        let encoded = encoder
            .array(3)
            .and_then(|encoder| encoder.u8(VERSION))
            .and_then(|encoder| encoder.bytes(&self.ours))
            .and_then(|encoder| encoder.bool(self.admitted));
        debug_assert!(encoded.is_ok(), "writing to a Vec cannot fail");
        message
    }
}

/// The card, unchecked, and whether ours was heard.
fn decode(message: &[u8]) -> Result<(&[u8], bool), AdmissionError> {
    let mut decoder = Decoder::new(message);
    let malformed = |_| AdmissionError::Malformed;
    if decoder.array().map_err(malformed)? != Some(3) {
        return Err(AdmissionError::Malformed);
    }
    let version = decoder.u8().map_err(malformed)?;
    if version != VERSION {
        return Err(AdmissionError::Version { version });
    }
    let card = decoder.bytes().map_err(malformed)?;
    let heard = decoder.bool().map_err(malformed)?;
    if decoder.position() != message.len() {
        return Err(AdmissionError::Malformed);
    }
    Ok((card, heard))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test's clock starts now")]
mod tests {
    use metering::identity::{Identity, Seed};

    use super::*;

    fn identity(byte: u8) -> Identity {
        Identity::new(&Seed::from_bytes([byte; 32]))
    }

    fn pair(now: Instant) -> (Admission, Admission) {
        let (a, b) = (identity(1), identity(2));
        (Admission::new(a.card(), b.card().into(), false, now), Admission::new(b.card(), a.card().into(), false, now))
    }

    #[test]
    fn two_honest_nodes_admit_each_other_and_fall_silent() {
        let now = Instant::now();
        let (mut a, mut b) = pair(now);
        a.handle_timeout(now);
        let hello = a.poll_transmit().expect("a speaks first");
        assert!(b.handle_message(now, &hello).expect("valid"));
        let answer = b.poll_transmit().expect("b answers");
        assert!(a.handle_message(now, &answer).expect("valid"));
        let last = a.poll_transmit().expect("a says it has heard");
        assert!(!b.handle_message(now, &last).expect("valid"));
        assert_eq!((a.poll_timeout(), b.poll_timeout()), (None, None));
        assert!(a.poll_transmit().is_none() && b.poll_transmit().is_none());
    }

    #[test]
    fn a_restarted_neighbour_is_answered() {
        let now = Instant::now();
        let (mut a, mut b) = pair(now);
        b.handle_timeout(now);
        a.handle_message(now, &b.poll_transmit().expect("message")).expect("valid");
        a.heard = true;
        a.repeat_at = None;
        a.outbox = None;
        let (_, mut reborn) = pair(now);
        reborn.handle_timeout(now);
        assert!(!a.handle_message(now, &reborn.poll_transmit().expect("message")).expect("valid"));
        assert!(reborn.handle_message(now, &a.poll_transmit().expect("answer")).expect("valid"));
    }

    #[test]
    fn whoever_has_not_heard_the_last_message_is_answered_and_nobody_answers_for_ever() {
        let mut now = Instant::now();
        let (mut a, mut b) = pair(now);
        a.handle_timeout(now);
        b.handle_message(now, &a.poll_transmit().expect("a speaks first")).expect("valid");
        a.handle_message(now, &b.poll_transmit().expect("b answers")).expect("valid");
        a.poll_transmit().expect("a says that it has heard, which is lost");
        assert!(a.poll_timeout().is_none() && b.poll_timeout().is_some());
        let mut said = 0;
        while b.poll_timeout().is_some() {
            now += REPEAT;
            b.handle_timeout(now);
            a.handle_message(now, &b.poll_transmit().expect("it repeats")).expect("valid");
            if let Some(message) = a.poll_transmit() {
                b.handle_message(now, &message).expect("valid");
            }
            said += 1;
            assert!(said <= 3, "one a second for ever");
        }
        // A message that comes twice ends as well.
        let (mut to_a, mut to_b) = (vec![b.message(); 9], Vec::new());
        for _ in 0..9 {
            for message in to_a.drain(..) {
                a.handle_message(now, &message).expect("valid");
                to_b.extend(a.poll_transmit());
            }
            for message in to_b.drain(..) {
                b.handle_message(now, &message).expect("valid");
                to_a.extend(b.poll_transmit());
            }
        }
        assert!(to_a.is_empty(), "{}", to_a.len());
    }

    #[test]
    fn wrong_proofs_are_looked_at_now_and_then_and_a_right_one_after_them_is() {
        let mut now = Instant::now();
        let (a, b) = (identity(1), identity(2));
        let mut a = Admission::new(a.card(), b.card().into(), true, now);
        let b = Admission::new(b.card(), identity(1).card().into(), false, now);
        a.handle_message(now, &b.message()).expect("valid");
        let mut looked_at = 0;
        for _ in 0..1000 {
            now += Duration::from_millis(10);
            let _wrong = a.handle_proof(now, |_| {
                looked_at += 1;
                false
            });
        }
        assert!((10..=20).contains(&looked_at), "{looked_at}");
        assert_eq!(a.handle_proof(now + PROOF_EACH, |_| true), Ok(true));
    }

    #[test]
    fn wrong_cards_are_refused_by_name() {
        let now = Instant::now();
        let (mut a, _) = pair(now);
        let mut stranger = Admission::new(identity(3).card(), identity(1).card().into(), false, now);
        stranger.handle_timeout(now);
        let message = stranger.poll_transmit().expect("message");
        assert!(matches!(a.handle_message(now, &message), Err(AdmissionError::OtherAccount { .. })));
        let other_keys = NodeCard::sign(identity(2).account(), WireguardKey([9; 32]), identity(2).tls_key());
        let mut thief = Admission::new(&other_keys, identity(1).card().into(), false, now);
        thief.handle_timeout(now);
        let message = thief.poll_transmit().expect("message");
        assert!(matches!(a.handle_message(now, &message), Err(AdmissionError::OtherKeys { .. })));
        assert!(!a.is_admitted());
    }

    #[test]
    fn damaged_messages_never_admit() {
        let now = Instant::now();
        let (a, mut b) = pair(now);
        let message = a.message();
        for len in 0..message.len() {
            assert!(b.handle_message(now, &message[..len]).is_err());
        }
        for bit in 0..(message.len() - 1) * 8 {
            let mut damaged = message.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(b.handle_message(now, &damaged).is_err(), "bit {bit}");
        }
        assert!(!b.is_admitted());
    }
}
