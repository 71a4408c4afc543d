//! What is asked: a method, a path and a query, as one of the questions of the API, or as the problem with them.

use std::collections::BTreeMap;

use hyper::Method;
use metering::{ChannelId, NodeId};

use crate::wire::{
    DEFAULT_PAGE, MAX_PAGE, MAX_PLACES, Name, Problem, read_channel_path, read_count, read_places_query,
};

/// A question that has an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Question {
    About,
    Checkpoint,
    Account(NodeId),
    /// The entry that an account's order of this number made.
    Ordered {
        account: NodeId,
        sequence: u64,
        size: Option<u64>,
    },
    Channels {
        account: NodeId,
        after: Option<ChannelId>,
        limit: usize,
    },
    Pair {
        payer: NodeId,
        payee: NodeId,
    },
    Channel(ChannelId),
    Names {
        after: Option<Name>,
        limit: usize,
    },
    Named(Name),
    Entries {
        from: u64,
        limit: usize,
    },
    Entry {
        number: u64,
        size: Option<u64>,
    },
    Growth {
        old_size: u64,
        size: u64,
    },
    Records {
        places: Vec<Vec<u8>>,
        old_size: u64,
    },
    Request,
    Batch,
    Document,
    Health,
    Metrics,
    Page,
}

impl Question {
    /// Its name in the metrics: one for each line of the API, whatever stands in the path.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::About => "ledger",
            Self::Checkpoint => "checkpoint",
            Self::Account(_) => "account",
            Self::Ordered { .. } => "order",
            Self::Channels { .. } => "channels",
            Self::Pair { .. } => "pair",
            Self::Channel(_) => "channel",
            Self::Names { .. } => "names",
            Self::Named(_) => "name",
            Self::Entries { .. } => "entries",
            Self::Entry { .. } => "entry",
            Self::Growth { .. } => "growth",
            Self::Records { .. } => "records",
            Self::Request => "request",
            Self::Batch => "batch",
            Self::Document => "openapi",
            Self::Health => "health",
            Self::Metrics => "metrics",
            Self::Page => "page",
        }
    }

    /// What it takes out of its owner's rate: a page as much as some questions.
    pub(super) fn cost(&self) -> u32 {
        if let Self::Records { places, .. } = self {
            return 1 + u32::try_from(places.len() / 4).unwrap_or(u32::MAX / 2);
        }
        let (Self::Channels { limit, .. } | Self::Names { limit, .. } | Self::Entries { limit, .. }) = self else {
            return 1;
        };
        1 + u32::try_from(limit / 50).unwrap_or(u32::MAX / 2)
    }

    /// Whether it brings a body.
    pub(super) const fn has_body(&self) -> bool {
        matches!(self, Self::Request | Self::Batch)
    }
}

/// Reads what is asked.
pub(super) fn read(method: &Method, path: &str, query: Option<&str>) -> Result<Question, Problem> {
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let mut query = Query::read(query)?;
    let (question, of) = match segments.as_slice() {
        [""] => (Question::Page, Method::GET),
        ["healthz"] => (Question::Health, Method::GET),
        ["metrics"] => (Question::Metrics, Method::GET),
        ["v1", "openapi.json"] => (Question::Document, Method::GET),
        ["v1", "ledger"] => (Question::About, Method::GET),
        ["v1", "checkpoint"] => (Question::Checkpoint, Method::GET),
        ["v1", "accounts", account] => (Question::Account(read_account(account)?), Method::GET),
        ["v1", "accounts", account, "channels"] => {
            let (account, after, limit) = (read_account(account)?, query.channel("after")?, query.limit()?);
            (Question::Channels { account, after, limit }, Method::GET)
        }
        ["v1", "accounts", account, "orders", sequence] => {
            let (account, sequence) = (read_account(account)?, number("an order's number", sequence)?);
            (Question::Ordered { account, sequence, size: query.number("size")? }, Method::GET)
        }
        ["v1", "channels", payer, payee] => {
            (Question::Pair { payer: read_account(payer)?, payee: read_account(payee)? }, Method::GET)
        }
        ["v1", "channels", payer, payee, nonce] => {
            let (payer, payee, nonce) = (read_account(payer)?, read_account(payee)?, number("the nonce", nonce)?);
            (Question::Channel(ChannelId { payer, payee, nonce }), Method::GET)
        }
        ["v1", "names"] => {
            let (after, limit) = (query.0.remove("after").map(|text| read_name(&text)).transpose()?, query.limit()?);
            (Question::Names { after, limit }, Method::GET)
        }
        ["v1", "names", name] => (Question::Named(read_name(name)?), Method::GET),
        ["v1", "entries"] => {
            let (from, limit) = (query.number("from")?.unwrap_or(0), query.limit()?);
            (Question::Entries { from, limit }, Method::GET)
        }
        ["v1", "entries", entry] => {
            let (number, size) = (number("an entry's number", entry)?, query.number("size")?);
            (Question::Entry { number, size }, Method::GET)
        }
        ["v1", "growth"] => {
            let missing = |name| move || bad(format!("`{name}` is missing"));
            let old_size = query.number("old_size")?.ok_or_else(missing("old_size"))?;
            let size = query.number("size")?.ok_or_else(missing("size"))?;
            (Question::Growth { old_size, size }, Method::GET)
        }
        ["v1", "records"] => {
            let (places, old_size) = (query.places()?, query.number("old_size")?.unwrap_or(0));
            (Question::Records { places, old_size }, Method::GET)
        }
        ["v1", "requests"] => (Question::Request, Method::POST),
        ["v1", "requests", "batch"] => (Question::Batch, Method::POST),
        _ => return Err(Problem::new(404, "NotFound", "there is nothing here; /v1/openapi.json says what there is")),
    };
    let fits = method == of || (of == Method::GET && method == Method::HEAD);
    if !fits {
        return Err(Problem::new(405, "MethodNotAllowed", format!("this is asked with {of}")));
    }
    query.end()?;
    Ok(question)
}

/// How a path that there is can be asked.
pub(super) fn allowed(path: &str) -> &'static str {
    if path.starts_with("/v1/requests") { "POST" } else { "GET, HEAD" }
}

fn bad(detail: impl Into<String>) -> Problem {
    Problem::new(400, "BadRequest", detail)
}

fn read_account(text: &str) -> Result<NodeId, Problem> {
    text.parse().map_err(|error| bad(format!("an account in the path: {error}")))
}

fn read_name(text: &str) -> Result<Name, Problem> {
    text.parse().map_err(|error| bad(format!("a name: {error}")))
}

fn number(what: &str, text: &str) -> Result<u64, Problem> {
    read_count(text).filter(|_| !text.is_empty()).ok_or_else(|| bad(format!("{what} is a number in digits")))
}

/// What stands behind the `?`, each name once.
struct Query(BTreeMap<String, String>);

impl Query {
    fn read(query: Option<&str>) -> Result<Self, Problem> {
        let mut pairs = BTreeMap::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded = unescape(value).ok_or_else(|| bad("the query has an escape that does not read"))?;
            if pairs.insert(name.to_owned(), decoded).is_some() {
                return Err(bad("the query says something twice"));
            }
        }
        Ok(Self(pairs))
    }

    fn number(&mut self, name: &str) -> Result<Option<u64>, Problem> {
        self.0.remove(name).map(|text| number(&format!("`{name}`"), &text)).transpose()
    }

    fn limit(&mut self) -> Result<usize, Problem> {
        let Some(limit) = self.number("limit")? else { return Ok(DEFAULT_PAGE) };
        let limit = usize::try_from(limit).ok().filter(|limit| (1..=MAX_PAGE).contains(limit));
        limit.ok_or_else(|| bad(format!("`limit` is from 1 to {MAX_PAGE}")))
    }

    fn places(&mut self) -> Result<Vec<Vec<u8>>, Problem> {
        let places = self.0.remove("places").and_then(|text| read_places_query(&text));
        let what =
            format!("`places` is 1 to {MAX_PLACES} places of records, each 0x and hexadecimal digits, with commas");
        places.ok_or_else(|| bad(what))
    }

    fn channel(&mut self, name: &str) -> Result<Option<ChannelId>, Problem> {
        let read = |text: String| {
            read_channel_path(&text)
                .ok_or_else(|| bad(format!("`{name}` is a channel, as `next` of the last page has it")))
        };
        self.0.remove(name).map(read).transpose()
    }

    /// What we do not know is not read over: it may be a name that was mistyped.
    fn end(self) -> Result<(), Problem> {
        match self.0.into_keys().next() {
            Some(name) => Err(bad(format!("the query has a `{}`, which means nothing here", name.escape_default()))),
            None => Ok(()),
        }
    }
}

/// Percent escapes (RFC 3986, section 2.1).
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
            let (high, low) = (digit(rest.next())?, digit(rest.next())?);
            bytes.push(u8::try_from(16 * high + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "0x00000000000000000000000000000000000000a1";
    const B: &str = "0x00000000000000000000000000000000000000b0";

    fn asks(path: &str) -> Result<Question, u16> {
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        read(&Method::GET, path, query).map_err(|problem| problem.status)
    }

    #[test]
    fn paths_are_read_to_the_last_letter() {
        let (payer, payee) = (A.parse().unwrap(), B.parse().unwrap());
        let id = ChannelId { payer, payee, nonce: 7 };
        let channels = |after, limit| Ok(Question::Channels { account: payer, after, limit });
        for (path, question) in [
            ("/".to_owned(), Ok(Question::Page)),
            ("/v1/ledger".to_owned(), Ok(Question::About)),
            (format!("/v1/accounts/{A}"), Ok(Question::Account(payer))),
            (format!("/v1/accounts/{A}/channels"), channels(None, DEFAULT_PAGE)),
            (format!("/v1/accounts/{A}/channels?limit=2&after={A}/{B}/7"), channels(Some(id), 2)),
            (format!("/v1/accounts/{A}/channels?after={A}%2f{B}%2F7"), channels(Some(id), DEFAULT_PAGE)),
            (
                format!("/v1/accounts/{A}/orders/3?size=9"),
                Ok(Question::Ordered { account: payer, sequence: 3, size: Some(9) }),
            ),
            (format!("/v1/accounts/{A}/orders/"), Err(400)),
            (format!("/v1/channels/{A}/{B}"), Ok(Question::Pair { payer, payee })),
            (format!("/v1/channels/{A}/{B}/7"), Ok(Question::Channel(id))),
            ("/v1/names".to_owned(), Ok(Question::Names { after: None, limit: DEFAULT_PAGE })),
            (
                "/v1/names?after=roof-3&limit=2".to_owned(),
                Ok(Question::Names { after: "roof-3".parse().ok(), limit: 2 }),
            ),
            ("/v1/names/roof".to_owned(), Ok(Question::Named("roof".parse().unwrap()))),
            ("/v1/names/Roof".to_owned(), Err(400)),
            ("/v1/names/".to_owned(), Err(400)),
            ("/v1/names?after=".to_owned(), Err(400)),
            ("/v1/entries".to_owned(), Ok(Question::Entries { from: 0, limit: DEFAULT_PAGE })),
            ("/v1/entries/5?size=9".to_owned(), Ok(Question::Entry { number: 5, size: Some(9) })),
            ("/v1/growth?old_size=1&size=2".to_owned(), Ok(Question::Growth { old_size: 1, size: 2 })),
            ("/v1/growth?size=2".to_owned(), Err(400)),
            (
                "/v1/records?places=0x0a,0x0bff&old_size=3".to_owned(),
                Ok(Question::Records { places: vec![vec![10], vec![11, 255]], old_size: 3 }),
            ),
            (format!("/v1/records?places={}", vec!["0x0a"; 17].join(",")), Err(400)),
            (format!("/v1/records?places=0x{}", "0a".repeat(65)), Err(400)),
            ("/v1/records?places=0x".to_owned(), Err(400)),
            ("/v1/records?places=".to_owned(), Err(400)),
            ("/v1/records?places=0x0".to_owned(), Err(400)),
            ("/v1/records".to_owned(), Err(400)),
            (format!("/v1/accounts/{A}1"), Err(400)),
            (format!("/v1/channels/{A}/{B}/"), Err(400)),
            (format!("/v1/channels/{A}/{B}/+7"), Err(400)),
            (format!("/v1/channels/{A}/{B}/18446744073709551616"), Err(400)),
            ("/v1/entries?from=-1".to_owned(), Err(400)),
            ("/v1/entries?from=".to_owned(), Err(400)),
            ("/v1/entries?limit=0".to_owned(), Err(400)),
            ("/v1/entries?limit=1001".to_owned(), Err(400)),
            ("/v1/entries?limit=1&limit=2".to_owned(), Err(400)),
            ("/v1/entries?form=1".to_owned(), Err(400)),
            ("/v1/entries?from=%zz".to_owned(), Err(400)),
            ("/v1/entries?from=%".to_owned(), Err(400)),
            ("/v1/entries/".to_owned(), Err(400)),
            ("/v1/ledger/".to_owned(), Err(404)),
            ("/v1".to_owned(), Err(404)),
            ("/..".to_owned(), Err(404)),
            ("//".to_owned(), Err(404)),
            ("/v1/requests".to_owned(), Err(405)),
        ] {
            assert_eq!(asks(&path), question, "{path}");
        }
        assert_eq!(read(&Method::POST, "/v1/requests/batch", None), Ok(Question::Batch));
        assert_eq!(read(&Method::HEAD, "/v1/ledger", None), Ok(Question::About));
        assert_eq!(read(&Method::DELETE, "/v1/ledger", None).unwrap_err().status, 405);
        assert_eq!((allowed("/v1/ledger"), allowed("/v1/requests/batch")), ("GET, HEAD", "POST"));
    }
}
