//! Serves a ledger's SQLite file: one writer, some readers, and as many who ask as there are places.
//!
//! ```text
//! sockets --> gate --> TLS --> HTTP/1.1 --> limits --> routes --+--> readers (SQLite, one transaction each)
//!                                                               '--> signatures --> the writer (group commit) --> disk
//! ```
//!
//! It decides nothing: what may happen is in `ledger_core`'s rules. Nobody logs in; an order carries its account's signature.
//! Everything that a stranger can make it hold is bounded: connections ([`Places`]), what they ask in a second ([`Rate`]),
//! bytes ([`crate::wire::MAX_BODY_BYTES`]), time ([`Settings::patience`]), and what waits for the disk.

mod answers;
mod gate;
mod limits;
mod metrics;
mod page;
mod routes;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY, RETRY_AFTER,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use ledger_core::UnixTime;
use ledger_core::checkpoint::origin;
use ledger_core::note::{Log, NoteKeyError, NoteSigner};
use ledger_embedded::{Clock, Embedded, Error as LedgerError, Writer};
use metering::{ChannelId, NodeId};
use rustls::ServerConfig;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;

use crate::wire::{MAX_BODY_BYTES, PROBLEM_JSON, Problem};
use answers::{Ledger, Reply};
use gate::{Gate, Place};
use limits::{Limits, owner};
use metrics::Metrics;
use routes::Question;

pub use gate::Places;
pub use limits::Rate;

/// How much a server lets itself be asked. [`Settings::default`] is for a community's ledger on a small machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How many may be connected. With TLS, each that asks little takes less than 64 KiB: `tests/served` looks.
    pub places: Places,
    /// How much one address may ask: a question counts one, a batch as many as are in it.
    pub per_owner: Rate,
    /// How many entries the orders of one key may make. What anybody may bring, and what has happened before, counts to nobody:
    /// it stands in the log for all to copy.
    pub per_key: Rate,
    /// How many entries one account may make in a day, and as many at once: the log keeps them for ever, and this is what one
    /// account can have of the disk. A receipt counts to its payee, who decides how many receipts it redeems; but each channel
    /// has [`RECEIPTS_A_DAY`] besides, so that a payer which redeems old receipts of its payee one by one, to use its share
    /// up, cannot keep it from redeeming the last one before a notice is over, on any channel. The treasurer has no such limit. Who
    /// has many accounts has many shares: the rate of its addresses holds it back, and the members who let it in.
    pub per_day: u32,
    /// Whether everybody may read the metrics, or this machine alone.
    pub open_metrics: bool,
    /// How long a question may take to arrive, an answer to be taken, and a connection to be quiet.
    pub patience: Duration,
    /// How many readers of the file there are.
    pub readers: usize,
    /// What a person has said the time is, where the ledger has rested for long: see [`Embedded::accept_time`].
    pub accepted: UnixTime,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            places: Places { total: 1000, per_owner: 200 },
            per_owner: Rate { per_second: 200, burst: 2000 },
            per_key: Rate { per_second: 100, burst: 1000 },
            per_day: 20_000,
            open_metrics: false,
            patience: Duration::from_secs(30),
            readers: 4,
            accepted: UnixTime::default(),
        }
    }
}

/// How many receipts of each channel are taken in a day, whatever its payee has used of its share: one an hour.
pub const RECEIPTS_A_DAY: u32 = 24;

/// Why a ledger is not served.
#[derive(Debug, Error)]
pub enum ServeError {
    /// Its file cannot be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The key cannot sign under the ledger's name.
    #[error(transparent)]
    Key(#[from] NoteKeyError),
    /// The newest checkpoint that was published cannot be kept beside the ledger, or does not read.
    #[error("cannot use {}: {why}", path.display())]
    Published {
        /// The file that it is kept in.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The address cannot be listened at.
    #[error("cannot listen at {address}: {cause}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the operating system said.
        cause: io::Error,
    },
}

/// A ledger about to be served.
pub struct Server {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    writer: Writer,
    published: Option<PathBuf>,
}

/// How often the newest checkpoint that was given out is written, where it is kept.
pub const PUBLISH_EACH: Duration = Duration::from_secs(10);

/// What all connections share.
struct Shared {
    ledger: Ledger,
    gate: Arc<Gate>,
    per_owner: Mutex<Limits<IpAddr>>,
    per_key: Mutex<Limits<NodeId>>,
    per_day: Mutex<Limits<NodeId>>,
    per_channel: Mutex<Limits<ChannelId>>,
    open_metrics: bool,
    metrics: Metrics,
    patience: Duration,
}

impl Server {
    /// Opens the file at `path` and listens at `address`, with TLS (see [`crate::trust`]) or, on this machine alone, without.
    /// `clock` tells the ledger's time; `secret` is the ledger's key, an Ed25519 seed (RFC 8032, section 5.1.5).
    ///
    /// # Errors
    /// [`ServeError`]
    pub async fn bind(
        address: SocketAddr,
        tls: Option<ServerConfig>,
        path: &Path,
        clock: impl Fn() -> Clock,
        secret: &[u8; 32],
        settings: Settings,
    ) -> Result<Self, ServeError> {
        let open = || Embedded::open(path, clock());
        let mut ledger = open()?;
        let size = ledger.head()?.size;
        ledger.accept_time(settings.accepted);
        let genesis = ledger.genesis().clone();
        let signer = NoteSigner::<Log>::new(&origin(&genesis), secret)?;
        let readers = (0..settings.readers.max(1)).map(|_| open()).collect::<Result<_, _>>()?;
        let listen = |cause| ServeError::Listen { address, cause };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let writer = Writer::start(ledger)?;
        let shared = Shared {
            ledger: Ledger::new(genesis, signer, size, readers, writer.clone()),
            gate: Gate::new(settings.places),
            per_owner: Mutex::new(Limits::new(settings.per_owner)),
            per_key: Mutex::new(Limits::new(settings.per_key)),
            per_day: Mutex::new(Limits::daily(settings.per_day)),
            per_channel: Mutex::new(Limits::daily(RECEIPTS_A_DAY)),
            open_metrics: settings.open_metrics,
            metrics: Metrics::default(),
            patience: settings.patience,
        };
        let tls = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
        Ok(Self { listener, tls, shared: Arc::new(shared), writer, published: None })
    }

    /// The same, which keeps the newest checkpoint that it has given out in a file, each [`PUBLISH_EACH`] and at the end. Where
    /// the file is there already, the ledger must continue what is in it, unless a person has decided to go on (`anyway`): a
    /// copy that was put back would tell those who saw more another story. It guards best in another place than the ledger.
    ///
    /// # Errors
    /// [`ServeError::Published`]; [`ServeError::Ledger`] where the ledger is an old copy, or another.
    pub fn keep_published(self, path: &Path, anyway: bool) -> Result<Self, ServeError> {
        let unusable = |why: String| ServeError::Published { path: path.to_owned(), why };
        match std::fs::read_to_string(path) {
            Ok(text) if !anyway => self.shared.ledger.must_continue(&text).map_err(|error| match error {
                Some(error) => ServeError::Ledger(error),
                None => unusable("it is no checkpoint of this ledger".to_owned()),
            })?,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(unusable(error.to_string())),
        }
        Ok(Self { published: Some(path.to_owned()), ..self })
    }

    /// Where it listens: the port, where it was asked for any.
    ///
    /// # Errors
    /// Where the operating system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The public half of the ledger's key, as a C2SP verifier key: what members are told.
    #[must_use]
    pub fn key(&self) -> String {
        self.shared.ledger.key()
    }

    /// The ledger's founding, entry 0 of its log.
    #[must_use]
    pub fn founding(&self) -> Vec<u8> {
        self.shared.ledger.founding()
    }

    /// Serves until `stop`: then takes no new connection, answers what was asked, and closes the file.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        let Self { listener, tls, shared, writer, published } = self;
        let mut publishing = tokio::time::interval(PUBLISH_EACH);
        let mut written = 0;
        // Whoever holds a receiver is connected.
        let (stopping, stopped) = watch::channel(false);
        let mut stop = pin!(stop);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = publishing.tick(), if published.is_some() => {
                    written = publish(published.as_deref(), &shared, written).await;
                    continue;
                }
                () = &mut stop => break,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Too many files are open, or who knocked has gone.
                    tracing::warn!(%error, "a connection could not be taken");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let owner = owner(peer.ip());
            match shared.gate.enter(owner) {
                Some(place) => {
                    let (tls, shared, stopped) = (tls.clone(), shared.clone(), stopped.clone());
                    tokio::spawn(async move { connected(stream, tls, &shared, owner, place, stopped).await });
                }
                None => shared.metrics.turned_away(),
            }
        }
        drop((listener, stopped));
        stopping.send_replace(true);
        let _late = timeout(shared.patience, stopping.closed()).await;
        publish(published.as_deref(), &shared, written).await;
        // The file is closed by the writer's thread, which answers what waits before.
        let _ended = tokio::task::spawn_blocking(move || writer.stop()).await;
    }
}

/// Writes the newest checkpoint that was given out, where it is newer than the one of this size, and says of which size the
/// written one is.
async fn publish(path: Option<&Path>, shared: &Arc<Shared>, written: u64) -> u64 {
    let (Some(path), Some((size, note))) = (path, shared.ledger.newest_published()) else { return written };
    if size <= written {
        return written;
    }
    let file = path.to_owned();
    let kept = tokio::task::spawn_blocking(move || ledger_embedded::write_whole(&file, note.as_bytes())).await;
    match kept {
        Ok(Ok(())) => size,
        failed => {
            let path = path.display();
            tracing::warn!(%path, ?failed, "the newest checkpoint is not kept");
            written
        }
    }
}

async fn connected(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    shared: &Arc<Shared>,
    owner: IpAddr,
    place: Place,
    stopped: watch::Receiver<bool>,
) {
    // Answers are small, and each is waited for.
    let _unset = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_read_timeout(Some(shared.patience));
    stream.set_write_timeout(Some(shared.patience));
    let stream = Box::pin(stream);
    let Some(tls) = tls else {
        return converse(stream, shared, owner, place, stopped).await;
    };
    let handshake = timeout(shared.patience, tls.accept(stream));
    let accepted = tokio::select! {
        accepted = handshake => accepted,
        () = place.needed() => return,
    };
    // A client that does not know our key, a scanner, or one who is slow: its own log says which.
    if let Ok(Ok(stream)) = accepted {
        converse(stream, shared, owner, place, stopped).await;
    }
}

async fn converse<S>(stream: S, shared: &Arc<Shared>, owner: IpAddr, place: Place, mut stopped: watch::Receiver<bool>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let place = &place;
    let service = service_fn(move |request| async move {
        let response = respond(request, shared, owner, place).await;
        place.quiet();
        Ok::<_, std::convert::Infallible>(response)
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(shared.patience).max_buf_size(16 * 1024);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let grace = tokio::select! {
        _ended = connection.as_mut() => return,
        // Its last answer is written as far as it was taken. To wait for the rest would let a crowd keep more places than
        // there are.
        () = place.needed() => Duration::ZERO,
        _stopped = stopped.wait_for(|stopped| *stopped) => shared.patience,
    };
    connection.as_mut().graceful_shutdown();
    let _ended = timeout(grace, connection).await;
}

/// One question and its answer. Its place is kept for who asks from when the question is there, and not before.
async fn respond(
    request: Request<Incoming>,
    shared: &Arc<Shared>,
    owner: IpAddr,
    place: &Place,
) -> Response<Full<Bytes>> {
    let began = Instant::now();
    let is_head = request.method() == Method::HEAD;
    let allowed = routes::allowed(request.uri().path());
    let read = || routes::read(request.method(), request.uri().path(), request.uri().query());
    let (name, answered) = match shared.allow(&shared.per_owner, owner, 1).and_then(|()| Ok(read()?)) {
        Ok(question) => (question.name(), answer(&question, request, shared, owner, place).await),
        Err(declined) => ("none", Err(declined)),
    };
    let reply = answered.unwrap_or_else(|refused| {
        if let Some(refusal) = &refused.problem.refusal {
            shared.metrics.refused(refusal.rule());
        }
        refused.into_reply()
    });
    shared.metrics.answered(name, reply.status, began.elapsed());
    into_response(reply, is_head, allowed)
}

/// A problem, and when to ask again.
struct Declined {
    problem: Problem,
    retry_after: Option<Duration>,
}

impl From<Problem> for Declined {
    fn from(problem: Problem) -> Self {
        Self { problem, retry_after: None }
    }
}

impl Declined {
    fn later(status: u16, title: &str, detail: &str, wait: Duration) -> Self {
        Self { problem: Problem::new(status, title, detail), retry_after: Some(wait) }
    }

    fn into_reply(self) -> Reply {
        let body = serde_json::to_vec(&self.problem).unwrap_or_default();
        Reply { status: self.problem.status, kind: PROBLEM_JSON, body: body.into(), retry_after: self.retry_after }
    }
}

async fn answer(
    question: &Question,
    request: Request<Incoming>,
    shared: &Arc<Shared>,
    owner: IpAddr,
    place: &Place,
) -> Result<Reply, Declined> {
    // One was counted as the question came.
    shared.allow(&shared.per_owner, owner, question.cost() - 1)?;
    if *question == Question::Metrics && !shared.open_metrics && !owner.is_loopback() {
        return Err(Problem::new(403, "Forbidden", "the metrics are for the ledger's own machine").into());
    }
    if !question.has_body() {
        place.busy();
        return shared.ledger.answer(question, shared).await;
    }
    let is_json = |value: &HeaderValue| {
        let kind = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default();
        kind.trim().eq_ignore_ascii_case("application/json")
    };
    if !request.headers().get(CONTENT_TYPE).is_some_and(is_json) {
        return Err(Problem::new(415, "UnsupportedMediaType", "the body is to be application/json").into());
    }
    let body = read_body(request, shared.patience).await?;
    place.busy();
    let read = |error: serde_json::Error| Problem::new(400, "BadRequest", format!("the body does not read: {error}"));
    if *question == Question::Request {
        let request = serde_json::from_slice(&body).map_err(read)?;
        return shared.ledger.request(request, shared).await;
    }
    let requests: Vec<_> = serde_json::from_slice(&body).map_err(read)?;
    shared.allow(&shared.per_owner, owner, u32::try_from(requests.len()).unwrap_or(u32::MAX).saturating_sub(1))?;
    shared.ledger.batch(requests, shared).await
}

async fn read_body(request: Request<Incoming>, patience: Duration) -> Result<Bytes, Declined> {
    let too_long = || Problem::new(413, "ContentTooLarge", format!("a body has at most {MAX_BODY_BYTES} bytes"));
    // What says beforehand that it is too long is not read at all.
    if hyper::body::Body::size_hint(request.body()).lower() > MAX_BODY_BYTES as u64 {
        return Err(too_long().into());
    }
    let read = Limited::new(request.into_body(), MAX_BODY_BYTES).collect();
    match timeout(patience, read).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Err(too_long().into()),
        Ok(Err(_)) => Err(Problem::new(400, "BadRequest", "the body ended early").into()),
        Err(_) => Err(Problem::new(408, "RequestTimeout", "the body took too long to arrive").into()),
    }
}

impl Shared {
    fn allow<K: Ord + Copy>(&self, limits: &Mutex<Limits<K>>, key: K, cost: u32) -> Result<(), Declined> {
        let taken = limits.lock().unwrap_or_else(PoisonError::into_inner).take(key, cost, Instant::now());
        taken.map_err(|wait| Declined::later(429, "TooManyRequests", "this is more than one may ask at once", wait))
    }
}

fn into_response(reply: Reply, is_head: bool, allowed: &'static str) -> Response<Full<Bytes>> {
    let Reply { status, kind, body, retry_after } = reply;
    let length = body.len();
    let mut response = Response::new(Full::new(if is_head { Bytes::new() } else { body }));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    if is_head {
        headers.insert(hyper::header::CONTENT_LENGTH, length.into());
    }
    if status == 405 {
        headers.insert(ALLOW, HeaderValue::from_static(allowed));
    }
    if kind == answers::HTML {
        headers.insert(CONTENT_SECURITY_POLICY, page::policy());
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    }
    if let Some(wait) = retry_after {
        headers.insert(RETRY_AFTER, (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).into());
    }
    response
}
