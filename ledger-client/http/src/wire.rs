//! The bodies of questions and answers.
//!
//! All paths begin with `/v1`. Amounts and prices are strings of base units, times are seconds since 1970, accounts, hashes
//! and signatures are `0x` and hexadecimal digits, channels are objects of payer, payee and nonce.
//!
//! | question | answer |
//! |---|---|
//! | `GET /v1/ledger` | [`About`] |
//! | `GET /v1/checkpoint` | the log's head as a signed note, in plain text |
//! | `GET /v1/accounts/ACCOUNT` | [`Account`] |
//! | `GET /v1/accounts/ACCOUNT/orders/NUMBER?size=N` | [`Inclusion`] of the entry that it made |
//! | `GET /v1/accounts/ACCOUNT/channels?after=CHANNEL&limit=N` | [`Channels`] |
//! | `GET /v1/channels/PAYER/PAYEE` | [`Pair`] |
//! | `GET /v1/channels/PAYER/PAYEE/NONCE` | [`ChannelRecord`] |
//! | `GET /v1/names?after=NAME&limit=N` | [`Names`] |
//! | `GET /v1/names/NAME` | [`Named`] |
//! | `GET /v1/entries?from=N&limit=N` | [`Entries`] |
//! | `GET /v1/entries/NUMBER?size=N` | [`Inclusion`] |
//! | `GET /v1/growth?old_size=N&size=N` | [`Growth`] |
//! | `GET /v1/records?places=PLACE,...&old_size=N` | [`ProvenRecords`] |
//! | `POST /v1/requests` with a `ledger_core::Request` | [`Done`] |
//! | `POST /v1/requests/batch` with up to [`MAX_BATCH`] of them | [`Outcome`], as many |
//!
//! Anything else than a 200 has a [`Problem`] (RFC 9457) for a body.

pub use ledger_core::name::{Name, Named};
pub use ledger_core::record_tree::Proof;
pub use ledger_core::{Account, ChannelRecord};
use ledger_core::{Entry, EntryError, Event, Genesis, Hash, Head, Refusal, Totals, UnixTime};
use metering::json::{from_text, hex_text, read_hex};
use metering::{ChannelId, LedgerDomain, NodeId};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The most requests in a batch.
pub const MAX_BATCH: usize = 100;

/// The longest body of a question, in bytes: a batch of the longest requests, spaced out by a careful printer.
pub const MAX_BODY_BYTES: usize = 256 * 1024;

/// The most channels, names or entries on a page.
pub const MAX_PAGE: usize = 1000;

/// How many where nobody says.
pub const DEFAULT_PAGE: usize = 100;

/// The most records that are proven at once.
pub const MAX_PLACES: usize = 16;

/// The longest place of a record, in bytes: those of two accounts and a number.
pub const MAX_PLACE_BYTES: usize = 64;

/// The media type of a [`Problem`].
pub const PROBLEM_JSON: &str = "application/problem+json";

/// What ledger this is, and how it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The community's name.
    pub community: String,
    /// What an amount's number stands in front of.
    pub symbol: String,
    /// How many of an amount's digits stand behind the point.
    pub decimals: u8,
    /// Who makes tokens.
    pub treasurer: NodeId,
    /// Seconds between the start of a close and the earliest end of a channel.
    pub close_notice_s: u32,
    /// What signatures are made for.
    pub domain: LedgerDomain,
    /// The public key that signs checkpoints, as a C2SP verifier key.
    pub key: String,
    /// The log's head.
    pub head: Head,
    /// The time of the newest entry.
    pub time: UnixTime,
    /// Where all tokens are.
    pub totals: Totals,
}

/// A page of the channels an account pays or is paid on, in order of their ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Channels {
    /// The page.
    pub channels: Vec<ChannelRecord>,
    /// What to ask for with `after` to get the next page, if there is one.
    pub next: Option<String>,
}

/// A page of the names that somebody has, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// The page.
    pub names: Vec<Named>,
    /// What to ask for with `after` to get the next page, if there is one.
    pub next: Option<Name>,
}

/// What is known of a payer and a payee.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// The highest nonce of their channels, if they ever had one.
    pub latest_nonce: Option<u64>,
}

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EntryRecord {
    /// Its number. The founding has 0.
    pub number: u64,
    /// The encoding that the log is over.
    pub bytes: HexBytes,
    /// The same for people: when.
    pub at: UnixTime,
    /// The same for people: what.
    pub event: Event,
}

/// The encoding of an entry, a place or a value; in JSON, hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HexBytes(pub Vec<u8>);

/// An entry as a client reads it: its encoding says all the rest.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct NumberedBytes {
    /// Its number.
    pub number: u64,
    /// Its encoding.
    pub bytes: HexBytes,
}

/// A page of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entries<E = EntryRecord> {
    /// The entries, in order, without a gap.
    pub entries: Vec<E>,
    /// What to ask for with `from` to get the next page, if there is one yet.
    pub next: Option<u64>,
}

/// The proof that an entry stands in the log (RFC 9162, section 2.1.3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inclusion<E = EntryRecord> {
    /// The entry.
    pub entry: E,
    /// The size of the log that the proof is for.
    pub size: u64,
    /// The hashes, from the leaf's sister up.
    pub proof: Vec<Hash>,
}

/// The proof that the log has only grown (RFC 9162, section 2.1.4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Growth {
    /// From this size.
    pub old_size: u64,
    /// To this.
    pub size: u64,
    /// The hashes.
    pub proof: Vec<Hash>,
}

/// Records, as they are at one head of the log, each proven against the hash of them all that a checkpoint says
/// (`ledger_core::record_tree`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvenRecords {
    /// The checkpoint: a signed note that says the hash of all records.
    pub checkpoint: String,
    /// The proof that its log continues the one of the size that was asked from; empty where none was.
    pub growth: Vec<Hash>,
    /// The records, in the order of the places that were asked for.
    pub records: Vec<ProvenRecord>,
}

/// What stands at a place, or that nothing does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvenRecord {
    /// The place (`ledger_core::place`).
    pub place: HexBytes,
    /// What stands there.
    pub value: Option<HexBytes>,
    /// The hashes beside the way from the root to it.
    pub proof: Proof,
}

/// The answer to a request that was granted: the entry it made, which is on the ledger's disk. The same order again has the
/// same answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done<E = EntryRecord> {
    /// What happened.
    pub entry: E,
}

/// The answer to one request of a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome<E = EntryRecord> {
    /// It was granted.
    Done(E),
    /// A rule forbids it. The others of the batch are not touched by that.
    Refused(Problem),
}

/// Why a question has no answer (RFC 9457).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What kind it is, in a word: the rule's name where a rule forbids it.
    pub title: String,
    /// The status.
    pub status: u16,
    /// What is wrong, and where, in words.
    pub detail: String,
    /// The rule that forbids it, where one does, with its particulars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<Box<Refusal>>,
}

impl Problem {
    /// A problem.
    #[must_use]
    pub fn new(status: u16, title: &str, detail: impl Into<String>) -> Self {
        Self { title: title.to_owned(), status, detail: detail.into(), refusal: None }
    }

    /// A rule forbids it: 409, as the question is well formed and the ledger's state or its rules are against it.
    #[must_use]
    pub fn refused(refusal: Refusal) -> Self {
        let (title, detail) = (refusal.rule().to_owned(), refusal.to_string());
        Self { title, status: 409, detail, refusal: Some(Box::new(refusal)) }
    }
}

impl About {
    /// What was founded, and how it stands.
    #[must_use]
    pub fn new(genesis: &Genesis, key: String, head: Head, time: UnixTime, totals: Totals) -> Self {
        Self {
            community: genesis.community().to_owned(),
            symbol: genesis.symbol().to_owned(),
            decimals: genesis.decimals(),
            treasurer: genesis.treasurer(),
            close_notice_s: genesis.close_notice_s(),
            domain: genesis.domain(),
            key,
            head,
            time,
            totals,
        }
    }
}

impl EntryRecord {
    /// An entry with its number.
    #[must_use]
    pub fn new(number: u64, entry: Entry) -> Self {
        Self { number, bytes: HexBytes(entry.encode()), at: entry.at, event: entry.event }
    }
}

impl NumberedBytes {
    /// The entry.
    ///
    /// # Errors
    /// [`EntryError`]
    pub fn decode(&self) -> Result<Entry, EntryError> {
        Entry::decode(&self.bytes.0)
    }
}

impl Serialize for HexBytes {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex_text(&self.0))
    }
}

impl<'de> Deserialize<'de> for HexBytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from_text(from, "0x and hexadecimal digits", read_hex).map(Self)
    }
}

/// A channel's id in a path or a query: `PAYER/PAYEE/NONCE`.
#[must_use]
pub fn channel_path(channel: &ChannelId) -> String {
    format!("{}/{}/{}", channel.payer, channel.payee, channel.nonce)
}

/// Reads what [`channel_path`] writes.
#[must_use]
pub fn read_channel_path(text: &str) -> Option<ChannelId> {
    let mut parts = text.split('/');
    let (payer, payee) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let nonce = read_count(parts.next()?)?;
    parts.next().is_none().then_some(ChannelId { payer, payee, nonce })
}

/// Places in a query: `PLACE,PLACE`, each in hexadecimal as bodies have it.
#[must_use]
pub fn places_query(places: &[Vec<u8>]) -> String {
    places.iter().map(|place| hex_text(place)).collect::<Vec<_>>().join(",")
}

/// Reads what [`places_query`] writes, where there are 1 to [`MAX_PLACES`] and none is too long.
#[must_use]
pub fn read_places_query(text: &str) -> Option<Vec<Vec<u8>>> {
    let places: Vec<Vec<u8>> = text.split(',').take(MAX_PLACES + 1).map(read_hex).collect::<Option<_>>()?;
    let fit = places.len() <= MAX_PLACES && places.iter().all(|place| (1..=MAX_PLACE_BYTES).contains(&place.len()));
    fit.then_some(places)
}

/// A number in a path or a query: digits and nothing else.
#[must_use]
pub fn read_count(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}
