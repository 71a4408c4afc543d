//! Vouchers: tokens on paper.
//!
//! An account locks tokens for whoever knows a secret, and prints the secret together with its own signed order. Everybody
//! can check the paper without the ledger: that the issuer promised these tokens for this secret. Whether they are still
//! there only the ledger says. Whoever holds the paper has the secret sign whose account the tokens go to, so who sees
//! the claim on its way cannot turn it round.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use metering::eip712::{self, Word};
use metering::identity::SignatureError;
use metering::{AccountKey, LedgerDomain, NodeId, Signature, Tokens, Unverified, Verified};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::fact::{Fact, Fields, Reader, kind};
use crate::{Command, Entry, Order, Seal, UnixTime};

/// The ledger's record of a voucher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Voucher {
    /// How many tokens.
    pub amount: Tokens,
    /// From when on the issuer can take them back.
    pub until: UnixTime,
    /// Whether they are gone, to the bearer or back.
    pub spent: bool,
}

/// The bearer's word where a voucher's tokens go, signed with its secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim<S = Verified> {
    issuer: NodeId,
    voucher: NodeId,
    to: NodeId,
    signature: Signature,
    state: PhantomData<S>,
}

/// What is printed: the secret, and the order that locked tokens for it.
///
/// Text form: `waybill-voucher1:` and base64url. Whoever reads it can spend it.
#[derive(Clone, PartialEq, Eq)]
pub struct Paper {
    secret: [u8; 32],
    amount: Tokens,
    until: UnixTime,
    /// What locks `amount` for the secret until then.
    order: Order<Unverified>,
}

/// Why a paper is worth nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PaperError {
    /// It does not start with `waybill-voucher1:` and go on in base64url.
    #[error("a voucher starts with `{PREFIX}` and goes on in base64url")]
    NotAVoucher,
    /// Its secret, its order or a character of it is not what was printed.
    #[error("the voucher is damaged or made up")]
    Malformed,
    /// The issuer did not sign it for this ledger.
    #[error("the voucher is not signed by its issuer for this ledger")]
    Forged,
}

const PREFIX: &str = "waybill-voucher1:";

impl Paper {
    /// The paper for a secret whose tokens were locked as this entry says; `None` where it says something else, or is about
    /// another secret. No paper is printed for what did not happen.
    #[must_use]
    pub fn new(secret: [u8; 32], issued: &Entry) -> Option<Self> {
        Self::read(secret, issued.order()?)
    }

    fn read(secret: [u8; 32], order: Order<Unverified>) -> Option<Self> {
        let key = AccountKey::from_bytes(&secret)?;
        let Command::IssueVoucher { voucher, amount, until } = *order.command() else { return None };
        (voucher == key.node_id()).then_some(Self { secret, amount, until, order })
    }

    /// Checks, without the ledger, that the issuer, whose signing key is `signer`, promised the tokens. Says how many, and
    /// from when on it can take them back.
    ///
    /// # Errors
    /// [`PaperError::Forged`]
    pub fn check(&self, domain: &LedgerDomain, signer: NodeId) -> Result<(Tokens, UnixTime), PaperError> {
        self.order.verify(domain, signer).map_err(|_| PaperError::Forged)?;
        Ok((self.amount, self.until))
    }

    /// Who printed it.
    #[must_use]
    pub const fn issuer(&self) -> NodeId {
        self.order.account()
    }

    /// Signs with the secret that the tokens go to an account.
    ///
    /// # Errors
    /// [`PaperError::Malformed`], where the secret is no key.
    pub fn claim(&self, domain: &LedgerDomain, to: NodeId) -> Result<Claim, PaperError> {
        let key = AccountKey::from_bytes(&self.secret).ok_or(PaperError::Malformed)?;
        Ok(Claim::sign(&key, domain, self.issuer(), to))
    }
}

impl fmt::Debug for Paper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Paper").field("order", &self.order).finish_non_exhaustive()
    }
}

impl fmt::Display for Paper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Seal { sequence, signature } = self.order.seal();
        let bytes = Fields::default()
            .bytes(&self.secret)
            .account(self.order.account())
            .number(sequence)
            .tokens(self.amount)
            .number(self.until.seconds())
            .bytes(&signature.0)
            .finish();
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for Paper {
    type Err = PaperError;

    fn from_str(text: &str) -> Result<Self, PaperError> {
        let body = text.strip_prefix(PREFIX).ok_or(PaperError::NotAVoucher)?;
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| PaperError::NotAVoucher)?;
        read_paper(&bytes).filter(|paper| paper.to_string() == text).ok_or(PaperError::Malformed)
    }
}

fn read_paper(bytes: &[u8]) -> Option<Paper> {
    let mut from = Reader(bytes);
    let (secret, issuer, sequence) = (from.bytes()?, from.account()?, from.number()?);
    let (amount, until, signature) = (from.tokens()?, from.time()?, from.signature()?);
    let voucher = AccountKey::from_bytes(&secret)?.node_id();
    let command = Command::IssueVoucher { voucher, amount, until };
    from.end(Paper::read(secret, Order::new(issuer, command, Seal { sequence, signature }))?)
}

impl Claim {
    /// Signs, with a voucher's secret, where its tokens go.
    #[must_use]
    pub fn sign(key: &AccountKey, domain: &LedgerDomain, issuer: NodeId, to: NodeId) -> Self {
        let voucher = key.node_id();
        let signature = key.sign_digest(&digest(domain, issuer, voucher, to));
        Self { issuer, voucher, to, signature, state: PhantomData }
    }

    /// The same claim as any stranger would see it.
    #[must_use]
    pub const fn into_unverified(self) -> Claim<Unverified> {
        Claim::new(self.issuer, self.voucher, self.to, self.signature)
    }
}

impl Claim<Unverified> {
    /// A claim whose signature nobody has checked.
    #[must_use]
    pub const fn new(issuer: NodeId, voucher: NodeId, to: NodeId, signature: Signature) -> Self {
        Self { issuer, voucher, to, signature, state: PhantomData }
    }

    /// Checks that who claims knows the voucher's secret.
    ///
    /// # Errors
    /// [`SignatureError`]
    pub fn verify(self, domain: &LedgerDomain) -> Result<Claim, SignatureError> {
        let Self { issuer, voucher, to, signature, .. } = self;
        signature.verify(&digest(domain, issuer, voucher, to), voucher)?;
        Ok(Claim { issuer, voucher, to, signature, state: PhantomData })
    }
}

impl<S> Claim<S> {
    /// The account whose key signed it for this ledger: the voucher, where it was signed with its secret and not altered.
    ///
    /// # Errors
    /// [`SignatureError`], all but `WrongSigner`.
    pub fn signer(&self, domain: &LedgerDomain) -> Result<NodeId, SignatureError> {
        self.signature.recover(&digest(domain, self.issuer, self.voucher, self.to))
    }

    /// Whose voucher.
    #[must_use]
    pub const fn issuer(&self) -> NodeId {
        self.issuer
    }

    /// Which of that issuer's.
    #[must_use]
    pub const fn voucher(&self) -> NodeId {
        self.voucher
    }

    /// Who gets its tokens.
    #[must_use]
    pub const fn to(&self) -> NodeId {
        self.to
    }

    /// The signature with the voucher's secret.
    #[must_use]
    pub const fn signature(&self) -> Signature {
        self.signature
    }
}

/// What the secret signs.
const KIND: &str = "VoucherClaim(address issuer,address voucher,address to)";

fn digest(domain: &LedgerDomain, issuer: NodeId, voucher: NodeId, to: NodeId) -> Word {
    let words = [issuer, voucher, to].map(eip712::address);
    eip712::digest(&domain.separator(), &eip712::hash_struct(KIND, &words))
}

impl Fact for Voucher {
    /// Whose tokens it was printed on, and the account that its secret is the key of. Nobody but the issuer can take its name.
    type Key = (NodeId, NodeId);

    fn place((issuer, voucher): &(NodeId, NodeId)) -> Vec<u8> {
        Fields::of(kind::VOUCHER).account(*issuer).account(*voucher).finish()
    }

    fn encode(&self) -> Vec<u8> {
        let Self { amount, until, spent } = *self;
        Fields::default().tokens(amount).number(until.seconds()).byte(spent.into()).finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader(bytes);
        let voucher = Self { amount: from.tokens()?, until: from.time()?, spent: from.flag()? };
        from.end(voucher)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::story::{Story, alice, bob, carol, id, poor, tokens};
    use crate::{Event, Hash, Records, Refusal, Request};

    const SECRET: [u8; 32] = [0x5e; 32];

    fn key() -> AccountKey {
        AccountKey::from_bytes(&SECRET).unwrap()
    }

    fn issue(amount: u128) -> Command {
        let until = UnixTime::from_seconds(2000);
        Command::IssueVoucher { voucher: key().node_id(), amount: tokens(amount), until }
    }

    fn claim(story: &Story, to: NodeId) -> Request {
        let domain = story.state.genesis().domain();
        Request::RedeemVoucher { claim: Claim::sign(&key(), &domain, id(alice), to).into_unverified() }
    }

    /// Computed with `eth_account`.
    #[test]
    fn claim_is_what_ethereum_tools_compute() {
        let key = AccountKey::from_bytes(&[0xa1; 32]).unwrap();
        let domain = LedgerDomain { chain_id: 0, contract: NodeId([0xc0; 20]) };
        let digest = digest(&domain, NodeId([0xca; 20]), key.node_id(), NodeId([0xb0; 20]));
        assert_eq!(Hash(digest).to_string(), "0ce554c9bc5c0b6595672047f6a44cdd51284ddd351121131103e43264c33239");
        assert!(include_str!("../../RULEBOOK.md").contains(KIND), "{KIND} is not in RULEBOOK.md");
    }

    #[test]
    fn voucher_pays_its_bearer_once() {
        let mut story = Story::begin();
        story.does(alice, issue(30));
        assert_eq!((story.holds(id(alice)), story.state.totals().locked), (70, tokens(30)));
        let first = claim(&story, id(bob));
        let Event::VoucherRedeemed { amount, .. } = story.makes(first) else { panic!("it pays") };
        assert_eq!((amount, story.holds(id(bob))), (tokens(30), 30));
        assert_eq!(story.rejects(first), Refusal::VoucherAlreadySpent);
        let other = claim(&story, id(carol));
        assert_eq!(story.rejects(other), Refusal::VoucherAlreadySpent);
        assert_eq!(story.state.totals().locked, Tokens::ZERO);
    }

    #[test]
    fn who_sees_a_claim_cannot_turn_it_round() {
        let mut story = Story::begin();
        story.does(alice, issue(30));
        let domain = story.state.genesis().domain();
        let (issuer, voucher) = (id(alice), key().node_id());
        let seen = Claim::sign(&key(), &domain, issuer, id(bob));
        let carols = Claim::sign(&carol(), &domain, issuer, id(carol));
        let (unknown, invalid) = (Refusal::UnknownVoucher, Refusal::ClaimSignatureInvalid);
        for (turned, refusal) in [
            (Claim::new(issuer, voucher, id(carol), seen.signature()), invalid),
            (Claim::new(issuer, voucher, id(carol), carols.signature()), invalid),
            (Claim::new(id(carol), voucher, id(bob), seen.signature()), invalid),
            (
                Claim::sign(&key(), &LedgerDomain { chain_id: 1, ..domain }, issuer, id(carol)).into_unverified(),
                invalid,
            ),
            (carols.into_unverified(), unknown),
            (Claim::sign(&key(), &domain, id(carol), id(bob)).into_unverified(), unknown),
        ] {
            assert_eq!(story.rejects(Request::RedeemVoucher { claim: turned }), refusal);
        }
    }

    #[test]
    fn one_issuers_voucher_does_not_stand_in_anothers_way() {
        let mut story = Story::begin();
        story.does(alice, Command::Transfer { to: id(carol), amount: tokens(1) });
        // Whoever saw Alice's order on its way, before it came.
        story.does(carol, issue(1));
        story.does(alice, issue(30));
        let claim = claim(&story, id(bob));
        story.makes(claim);
        assert_eq!(story.holds(id(bob)), 30);
    }

    #[test]
    fn issuer_takes_back_what_nobody_has_claimed_in_time() {
        let mut story = Story::begin();
        let reclaim = Command::ReclaimVoucher { voucher: key().node_id() };
        assert_eq!(story.refuses(alice, reclaim), Refusal::UnknownVoucher);
        story.does(alice, issue(30));
        story.now = 1999;
        let (until, now) = (UnixTime::from_seconds(2000), UnixTime::from_seconds(1999));
        assert_eq!(story.refuses(alice, reclaim), Refusal::VoucherStillGood { until, now });
        story.now = 2000;
        // Of Bob's own there is none.
        assert_eq!(story.refuses(bob, reclaim), Refusal::UnknownVoucher);
        story.does(alice, reclaim);
        assert_eq!(story.holds(id(alice)), 100);
        let late = claim(&story, id(bob));
        assert_eq!(story.rejects(late), Refusal::VoucherAlreadySpent);
        assert_eq!(story.refuses(alice, reclaim), Refusal::VoucherAlreadySpent);
    }

    #[test]
    fn voucher_that_was_not_taken_back_is_good_after_its_time() {
        let mut story = Story::begin();
        story.does(alice, issue(30));
        story.now = 5000;
        let late = claim(&story, id(bob));
        story.makes(late);
        assert_eq!(story.holds(id(bob)), 30);
    }

    #[test]
    fn voucher_is_printed_on_tokens_that_are_there_and_on_a_fresh_secret() {
        let mut story = Story::begin();
        assert_eq!(story.refuses(alice, issue(0)), Refusal::AmountIsZero);
        assert_eq!(story.refuses(alice, issue(101)), poor(alice, 100, 101));
        assert_eq!(story.refuses(bob, issue(1)), poor(bob, 0, 1));
        story.does(alice, issue(1));
        let exists = Refusal::VoucherExists { voucher: key().node_id() };
        assert_eq!(story.refuses(alice, issue(1)), exists);
        let spent = claim(&story, id(bob));
        story.makes(spent);
        assert_eq!(story.refuses(alice, issue(1)), exists);
    }

    /// The entry that a command of Alice's makes.
    fn entry(story: &mut Story, command: Command) -> Entry {
        let order = story.order(alice, command);
        story.state.execute(UnixTime::from_seconds(1000), &order).unwrap()
    }

    fn paper() -> (Paper, LedgerDomain) {
        let mut story = Story::begin();
        let issued = entry(&mut story, issue(30));
        (Paper::new(SECRET, &issued).unwrap(), story.state.genesis().domain())
    }

    #[test]
    fn paper_is_checked_without_the_ledger_and_claimed_on_it() {
        let (paper, domain) = paper();
        let read: Paper = paper.to_string().parse().unwrap();
        assert_eq!(read, paper);
        assert_eq!(read.issuer(), id(alice));
        assert_eq!(read.check(&domain, id(alice)), Ok((tokens(30), UnixTime::from_seconds(2000))));
        assert_eq!(read.check(&domain, id(bob)), Err(PaperError::Forged));
        assert_eq!(read.check(&LedgerDomain { chain_id: 1, ..domain }, id(alice)), Err(PaperError::Forged));

        let mut story = Story::begin();
        story.does(alice, issue(30));
        let claim = read.claim(&domain, id(bob)).unwrap().into_unverified();
        story.makes(Request::RedeemVoucher { claim });
        assert_eq!(story.holds(id(bob)), 30);
    }

    #[test]
    fn altered_character_of_a_paper_is_noticed() {
        let (paper, domain) = paper();
        let text = paper.to_string();
        assert!(text.len() < 220, "it fits a small QR code: {}", text.len());
        for at in 0..text.len() {
            for letter in ["A", "z"] {
                let mut altered = text.clone();
                altered.replace_range(at..=at, letter);
                let read = altered.parse::<Paper>().and_then(|paper| paper.check(&domain, id(alice)));
                assert!(altered == text || read.is_err(), "character {at}");
            }
        }
        assert_eq!("waybill-voucher2:".parse::<Paper>(), Err(PaperError::NotAVoucher));
        assert_eq!(text[..100].parse::<Paper>(), Err(PaperError::Malformed));
    }

    #[test]
    fn paper_is_printed_for_a_voucher_that_was_issued_for_its_secret_and_for_nothing_else() {
        let mut story = Story::begin();
        let issued = entry(&mut story, issue(30));
        assert!(Paper::new(SECRET, &issued).is_some());
        assert_eq!(Paper::new([0x5f; 32], &issued), None);
        assert_eq!(Paper::new([0; 32], &issued), None);
        let burned = entry(&mut story, Command::Burn { amount: tokens(1) });
        assert_eq!(Paper::new(SECRET, &burned), None);
        assert_eq!(Paper::new(SECRET, &Entry { seal: None, ..issued }), None);
    }

    #[test]
    fn secret_does_not_show_in_debug_output() {
        let shown = format!("{:?}", paper().0);
        assert!(!shown.contains("94, 94") && !shown.contains("5e5e"), "{shown}");
    }
}
