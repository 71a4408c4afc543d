//! Asks a served ledger, over one connection that is made anew when it breaks.
//!
//! A [`Client`] blocks its thread, and no call lasts longer than its patience, nor all of them together longer than
//! [`Client::within`] allows. It believes only that it talks to the
//! ledger's key; what an answer says is for its caller to check. Every question of the API may be asked twice without harm,
//! so one that fell with a connection is asked once more.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, DATE, HOST, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use crate::wire::Problem;

/// The longest answer that is read: a page of the longest entries.
const MAX_ANSWER_BYTES: usize = 8 * 1024 * 1024;

/// How long a call may take, where nothing else is chosen: a link over several radios is slow, and not that slow.
pub const DEFAULT_PATIENCE: Duration = Duration::from_secs(20);

/// Where a ledger is served: `https://ledger.example`, `https://[fd00::1]:8443/hilltop`. Plain `http` is only for this machine:
/// anywhere else, who sits between could read and answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    tls: bool,
    host: String,
    port: u16,
    prefix: String,
}

/// Why a text is no address of a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AddressError {
    /// Not `https://HOST:PORT`.
    #[error("a ledger's address is written like https://ledger.example:8443")]
    Malformed,
    /// `http` to another machine.
    #[error("plain http is only for a ledger of this machine (127.0.0.1 or [::1]); use https")]
    Plain,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let uri: Uri = text.parse().map_err(|_| AddressError::Malformed)?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(AddressError::Malformed),
        };
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'));
        let (authority, None) = (authority.ok_or(AddressError::Malformed)?, uri.query()) else {
            return Err(AddressError::Malformed);
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if !tls && !host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()) {
            return Err(AddressError::Plain);
        }
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Self { tls, host, port, prefix: uri.path().trim_end_matches('/').to_owned() })
    }
}

impl Address {
    /// Whether the connection is encrypted.
    #[must_use]
    pub const fn is_encrypted(&self) -> bool {
        self.tls
    }

    /// The address it names, unless it names a host.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// The port of TCP.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.prefix)
    }
}

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody is there, or the connection broke twice. Whether the question arrived is not known.
    #[error("the ledger at {address} cannot be reached: {cause}")]
    Unreachable {
        /// Where.
        address: Address,
        /// What the operating system or TLS said.
        cause: io::Error,
    },
    /// Its certificate is not valid yet, by the clock here. Nothing was asked.
    #[error(
        "the certificate at {address} is not valid yet by the clock of this machine, which may be wrong (`date`, NTP): {cause}"
    )]
    Early {
        /// Where.
        address: Address,
        /// What TLS said.
        cause: Box<rustls::Error>,
    },
    /// Who answers has another key than the ledger's, or a certificate nobody vouches for. Nothing was asked.
    #[error("what answers at {address} does not hold the ledger's key: {cause}")]
    Impostor {
        /// Where.
        address: Address,
        /// What TLS said.
        cause: rustls::Error,
    },
    /// Nothing came in time. Whether the question arrived is not known.
    #[error("the ledger at {address} has not answered within {} s", patience.as_secs())]
    Silent {
        /// Where.
        address: Address,
        /// How long we waited.
        patience: Duration,
    },
    /// It does answer, and so slowly that the time for all that was to be asked is over. Whether the last question arrived is not
    /// known.
    #[error("the ledger at {address} answers too slowly: not all was told within {} s", limit.as_secs())]
    Slow {
        /// Where.
        address: Address,
        /// How long all answers together might take.
        limit: Duration,
    },
    /// It did not answer a moment ago, and is left alone for a while. Nothing was asked.
    #[error("the ledger at {address} did not answer a moment ago; it is asked again in {} s", wait.as_secs() + 1)]
    Resting {
        /// Where.
        address: Address,
        /// How long it is left alone from now on.
        wait: Duration,
    },
    /// It answered that it does not answer.
    #[error("the ledger at {address} says: {}", problem.detail)]
    Problem {
        /// Where.
        address: Address,
        /// Why.
        problem: Box<Problem>,
        /// When to ask again, if it said so.
        retry_after: Option<Duration>,
    },
    /// What answered is no ledger, or one of another version.
    #[error("what answers at {address} is not a ledger we understand: {why}")]
    Strange {
        /// Where.
        address: Address,
        /// What is odd.
        why: String,
    },
}

impl ClientError {
    /// Whether the same question may be answered later without anyone's help.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Early { .. }
            | Self::Silent { .. }
            | Self::Slow { .. }
            | Self::Resting { .. } => true,
            Self::Problem { problem, .. } => matches!(problem.status, 408 | 429 | 502..=504),
            Self::Impostor { .. } | Self::Strange { .. } => false,
        }
    }
}

/// How long a ledger that did not answer is left alone: at first, and at most. Who asks waits with its thread, and what it
/// has to do besides must not wait behind a ledger that is away.
const REST: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));

/// What fails within so long, for want of a route or because nobody listens, has cost its thread nothing: it rests for
/// [`SHORT_REST`], and no longer for its having failed before.
const AT_ONCE: Duration = Duration::from_millis(50);
const SHORT_REST: Duration = Duration::from_millis(250);

/// One ledger, asked.
pub struct Client {
    address: Address,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    patience: Duration,
    /// There until it is dropped.
    runtime: Option<Runtime>,
    connection: Option<SendRequest<Full<Bytes>>>,
    /// Until when it is left alone, and for how long that was.
    resting: Option<(Instant, Duration)>,
    /// When all that is asked has to be answered, and how long that was.
    bound: Option<(Instant, Duration)>,
    /// What the server's clock said, in seconds since 1970, and when.
    told_time: Option<(u64, std::time::Instant)>,
}

/// Whoever drops it may be among tasks itself, as a router is that does not start: nothing is waited for.
impl Drop for Client {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Client {
    /// A client of the ledger at `address`, dialled as `tls` says (see [`crate::trust`]). Nothing is sent yet.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`], where this machine gives no socket to wait with.
    pub fn new(address: Address, tls: ClientConfig, patience: Duration) -> Result<Self, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|cause| ClientError::Unreachable { address: address.clone(), cause })?;
        let name = ServerName::try_from(address.host.clone()).map_err(|_| {
            let why = format!("{} is no name of a server", address.host);
            ClientError::Strange { address: address.clone(), why }
        })?;
        let tls = address.tls.then(|| (TlsConnector::from(Arc::new(tls)), name));
        Ok(Self {
            address,
            tls,
            patience,
            runtime: Some(runtime),
            connection: None,
            resting: None,
            bound: None,
            told_time: None,
        })
    }

    /// Where it asks.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// What the clock of the server said when it last answered, in seconds since 1970, and when that was. `None`: it has not, or has
    /// not proven who it is.
    #[must_use]
    pub const fn told_time(&self) -> Option<(u64, std::time::Instant)> {
        self.told_time
    }

    /// Bounds how long all questions from now on may take together, until this is called again.
    pub fn within(&mut self, limit: Duration) {
        self.bound = Instant::now().checked_add(limit).map(|end| (end, limit));
    }

    /// Asks a question that has an answer in JSON.
    ///
    /// # Errors
    /// [`ClientError`]
    pub fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, ClientError> {
        let answer = self.ask(&Method::GET, path, Bytes::new())?;
        self.read(&answer)
    }

    /// Asks a question that has an answer in plain text.
    ///
    /// # Errors
    /// [`ClientError`]
    pub fn get_text(&mut self, path: &str) -> Result<String, ClientError> {
        let answer = self.ask(&Method::GET, path, Bytes::new())?;
        String::from_utf8(answer.into()).map_err(|_| self.strange("an answer that is no text".to_owned()))
    }

    /// Asks a question with a body.
    ///
    /// # Errors
    /// [`ClientError`]
    pub fn post<T: DeserializeOwned>(&mut self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        let body =
            serde_json::to_vec(body).map_err(|error| self.strange(format!("a question that has no form: {error}")))?;
        let answer = self.ask(&Method::POST, path, body.into())?;
        self.read(&answer)
    }

    fn read<T: DeserializeOwned>(&self, answer: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(answer).map_err(|error| self.strange(error.to_string()))
    }

    fn strange(&self, why: String) -> ClientError {
        ClientError::Strange { address: self.address.clone(), why }
    }

    fn ask(&mut self, method: &Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        let now = Instant::now();
        if let Some((until, _)) = self.resting
            && now < until
        {
            return Err(ClientError::Resting { address: self.address.clone(), wait: until - now });
        }
        let left = self.bound.map(|(end, limit)| (end.saturating_duration_since(now), limit));
        if let Some((Duration::ZERO, limit)) = left {
            return Err(ClientError::Slow { address: self.address.clone(), limit });
        }
        let patience = left.map_or(self.patience, |(left, _)| left.min(self.patience));
        let mut answered = self.ask_now(method, path, body, patience);
        if let (Err(ClientError::Silent { .. }), Some((left, limit))) = (&answered, left)
            && left < self.patience
        {
            // It was given less time than it has to answer: that it is away does not follow.
            answered = Err(ClientError::Slow { address: self.address.clone(), limit });
        }
        let was_away = matches!(&answered, Err(ClientError::Unreachable { .. } | ClientError::Silent { .. }));
        self.resting = was_away.then(|| {
            let ended = Instant::now();
            let rest = if ended - now < AT_ONCE {
                SHORT_REST
            } else {
                self.resting.map_or(REST.0, |(_, rest)| (rest * 2).clamp(REST.0, REST.1))
            };
            (ended + rest, rest)
        });
        answered
    }

    fn ask_now(&mut self, method: &Method, path: &str, body: Bytes, patience: Duration) -> Result<Bytes, ClientError> {
        let Self { address, tls, runtime, connection, .. } = self;
        let asked = runtime.as_ref().expect("it is taken when the client is dropped").block_on(async {
            let asking = async {
                // A connection that has been kept may have ended without a word.
                if let Some(kept) = connection.take()
                    && let Ok(answered) = exchange(kept, address, method, path, &body).await
                {
                    return Ok(answered);
                }
                let fresh = dial(address, tls.as_ref()).await?;
                exchange(fresh, address, method, path, &body).await
            };
            timeout(patience, asking).await
        });
        let unreachable = |cause: io::Error| {
            let address = address.clone();
            match cause.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
                Some(inner) if crate::trust::is_early(inner) => {
                    ClientError::Early { address, cause: Box::new(inner.clone()) }
                }
                Some(inner @ rustls::Error::InvalidCertificate(_)) => {
                    ClientError::Impostor { address, cause: inner.clone() }
                }
                _ => ClientError::Unreachable { address, cause },
            }
        };
        let (kept, answer) = match asked {
            Ok(answered) => answered.map_err(unreachable)?,
            Err(_) => return Err(ClientError::Silent { address: address.clone(), patience }),
        };
        *connection = Some(kept);
        // Only a server that has proven who it is.
        if let (Some(date), Some(_)) = (answer.date, tls) {
            self.told_time = Some((date, Instant::now().into_std()));
        }
        match answer {
            Answer { status: StatusCode::OK, body, .. } => Ok(body),
            Answer { status, body, retry_after, .. } => {
                let Ok(problem) = serde_json::from_slice::<Problem>(&body) else {
                    return Err(self.strange(format!("it answers {status}")));
                };
                let problem = Box::new(Problem { status: status.as_u16(), ..problem });
                Err(ClientError::Problem { address: self.address.clone(), problem, retry_after })
            }
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("address", &self.address).finish_non_exhaustive()
    }
}

struct Answer {
    status: StatusCode,
    retry_after: Option<Duration>,
    /// Seconds since 1970.
    date: Option<u64>,
    body: Bytes,
}

/// A moment as servers write it, such as `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, section 5.6.7), in seconds since 1970.
fn seconds_of(date: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = date.split_once(", ")?.1.split(' ');
    let day: u64 = words.next()?.parse().ok().filter(|day| (1..=31).contains(day))?;
    let name = words.next()?;
    let month = MONTHS.iter().position(|month| *month == name)? as u64;
    let year = words.next()?.parse().ok().filter(|year| (1970..=9999).contains(year))?;
    let mut clock = words.next()?.split(':').map(|part| part.parse::<u64>().ok().filter(|part| *part <= 60));
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    if clock.next().is_some() || hour > 23 || words.next()? != "GMT" {
        return None;
    }
    // Days since 0000-03-01, so that a leap day ends a year.
    let (years, month): (u64, u64) = if month < 2 { (year - 1, month + 10) } else { (year, month - 2) };
    let days: u64 = years * 365 + years / 4 - years / 100 + years / 400 + (153 * month + 2) / 5 + day - 1;
    Some((days.checked_sub(719_468)? * 24 + hour) * 3600 + minute * 60 + second)
}

async fn dial(
    address: &Address,
    tls: Option<&(TlsConnector, ServerName<'static>)>,
) -> io::Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
    stream.set_nodelay(true)?;
    let Some((connector, name)) = tls else {
        return start(stream).await;
    };
    start(connector.connect(name.clone(), stream).await?).await
}

async fn start<S>(stream: S) -> io::Result<SendRequest<Full<Bytes>>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // It ends with the sender, and says nothing that the sender's calls do not say.
    tokio::spawn(async move {
        let _ended = connection.await;
    });
    Ok(sender)
}

async fn exchange(
    mut connection: SendRequest<Full<Bytes>>,
    address: &Address,
    method: &Method,
    path: &str,
    body: &Bytes,
) -> io::Result<(SendRequest<Full<Bytes>>, Answer)> {
    connection.ready().await.map_err(io::Error::other)?;
    let mut question = Request::builder()
        .method(method)
        .uri(format!("{}{path}", address.prefix))
        .header(HOST, address.authority())
        .header(USER_AGENT, concat!("waybill/", env!("CARGO_PKG_VERSION")));
    if method == Method::POST {
        question = question.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    let question = question.body(Full::new(body.clone())).map_err(io::Error::other)?;
    let answer = connection.send_request(question).await.map_err(io::Error::other)?;
    let status = answer.status();
    let seconds = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let date = answer.headers().get(DATE).and_then(|value| seconds_of(value.to_str().ok()?));
    let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await.map_err(io::Error::other)?;
    Ok((connection, Answer { status, retry_after: seconds.map(Duration::from_secs), date, body: body.to_bytes() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with Python's `email.utils`.
    #[test]
    fn a_server_s_date_is_read_and_what_is_none_is_not() {
        for (date, seconds) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Tue, 29 Feb 2028 23:59:59 GMT", 1_835_481_599),
            ("Sat, 28 Nov 2026 16:09:53 GMT", 1_795_882_193),
        ] {
            assert_eq!(seconds_of(date), Some(seconds), "{date}");
        }
        for none in [
            "",
            "Sun, 06 Nov 1994",
            "Sun, 06 Nov 1994 08:49:37",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 06 Nov 1994 08:49 GMT",
            "Sun, 06 Nov 1994 24:49:37 GMT",
            "Sun, 06 Nov 99999999999 08:49:37 GMT",
            "Sun, 32 Nov 1994 08:49:37 GMT",
            "Wed, 31 Dec 1969 23:59:59 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
        ] {
            assert_eq!(seconds_of(none), None, "{none}");
        }
    }

    #[test]
    fn it_may_be_dropped_among_tasks() {
        let address = "http://127.0.0.1:1".parse().unwrap();
        let tls = crate::trust::pinned(&metering::TlsKey([0; 32])).unwrap();
        let client = Client::new(address, tls, Duration::from_millis(50)).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async { drop(client) });
    }

    /// Its thread has other things to do.
    #[test]
    fn who_did_not_answer_is_left_alone_for_a_while_and_then_asked_again() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let tls = crate::trust::pinned(&metering::TlsKey([0; 32])).unwrap();
        let mut client = Client::new(address, tls, Duration::from_millis(50)).unwrap();
        // It takes connections and says nothing.
        let mut ask = || client.get::<u8>("/").unwrap_err();
        assert!(matches!(ask(), ClientError::Silent { .. }));
        let ClientError::Resting { wait, .. } = ask() else { panic!("it was asked at once") };
        assert!(wait <= REST.0);
        let began = Instant::now();
        while matches!(ask(), ClientError::Resting { .. }) {
            assert!(began.elapsed() < REST.1, "it is never asked again");
            std::thread::yield_now();
        }
        let ClientError::Resting { wait, .. } = ask() else { panic!("it was asked at once") };
        assert!(wait > REST.0, "the second rest is longer: {wait:?}");
        drop(listener);
    }

    /// Whoever has no way yet has one soon.
    #[test]
    fn who_cannot_be_reached_at_once_is_asked_again_soon_however_often_that_was_so() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let tls = crate::trust::pinned(&metering::TlsKey([0; 32])).unwrap();
        let mut client = Client::new(format!("http://{port}").parse().unwrap(), tls, Duration::from_secs(5)).unwrap();
        let (began, mut asked) = (Instant::now(), 0);
        while asked < 4 {
            let error = client.get::<u8>("/").unwrap_err();
            if let ClientError::Resting { wait, .. } = error {
                assert!(wait <= SHORT_REST, "{wait:?}");
            } else {
                assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
                asked += 1;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "it is never asked again");
            std::thread::yield_now();
        }
    }

    /// One that always says a little would keep its caller for ever.
    #[test]
    fn who_answers_slowly_is_asked_no_more_when_the_time_for_all_is_over() {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let tls = crate::trust::pinned(&metering::TlsKey([0; 32])).unwrap();
        let mut client = Client::new(address, tls, DEFAULT_PATIENCE).unwrap();
        // It answers one question, and then no more.
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = [0; 1024];
            let _some = stream.read(&mut question).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n7").unwrap();
            (stream, listener)
        });
        client.within(DEFAULT_PATIENCE);
        assert_eq!(client.get::<u8>("/").unwrap(), 7);
        let _open = server.join().unwrap();
        let limit = Duration::from_millis(50);
        client.within(limit);
        let slow = |error: ClientError| matches!(error, ClientError::Slow { limit: told, .. } if told == limit);
        let began = Instant::now();
        assert!(slow(client.get::<u8>("/").unwrap_err()));
        assert!(began.elapsed() < DEFAULT_PATIENCE);
        assert!(slow(client.get::<u8>("/").unwrap_err()), "the time for all is over, and no rest began");
        assert!(ClientError::Slow { address: client.address().clone(), limit }.may_pass());
    }

    #[test]
    fn addresses_are_https_or_of_this_machine() {
        for (text, shown) in [
            ("https://ledger.example", Ok("https://ledger.example:443")),
            ("https://ledger.example/", Ok("https://ledger.example:443")),
            ("https://[fd00::1]:8443/hilltop/", Ok("https://[fd00::1]:8443/hilltop")),
            ("http://127.0.0.1:8080", Ok("http://127.0.0.1:8080")),
            ("http://[::1]:8080", Ok("http://[::1]:8080")),
            ("http://ledger.example", Err(AddressError::Plain)),
            ("http://192.0.2.1", Err(AddressError::Plain)),
            ("ftp://ledger.example", Err(AddressError::Malformed)),
            ("ledger.example", Err(AddressError::Malformed)),
            ("https://user@ledger.example", Err(AddressError::Malformed)),
            ("https://ledger.example/?a=b", Err(AddressError::Malformed)),
            ("", Err(AddressError::Malformed)),
        ] {
            assert_eq!(text.parse::<Address>().map(|address| address.to_string()), shown.map(str::to_owned), "{text}");
        }
    }
}
