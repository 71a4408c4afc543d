//! A ledger with something in it, a server in a thread of its own, and a client that sends bytes as it is told.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use ledger_core::registry::{Registration, Station};
use ledger_core::role::Role;
use ledger_core::{Command, Genesis, Order, Request, UnixTime};
use ledger_embedded::{Clock, Embedded};
use ledger_http::server::{Places, Rate, Server, Settings};
use ledger_http::trust;
use metering::{AccountKey, ChannelId, LedgerDomain, NodeId, Price, Receipt, Tokens};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::oneshot;

const SECRET: [u8; 32] = [0x5e; 32];

/// Panics in the server's threads. Tokio catches them, so that nobody else would see them.
static PANICS: AtomicUsize = AtomicUsize::new(0);

pub(crate) fn key(byte: u8) -> AccountKey {
    AccountKey::from_bytes(&[byte; 32]).unwrap()
}

pub(crate) fn id(byte: u8) -> NodeId {
    key(byte).node_id()
}

pub(crate) fn tokens(n: u128) -> Tokens {
    Tokens::new(n).unwrap()
}

fn clock() -> Clock {
    Box::new(|| {
        let since = SystemTime::UNIX_EPOCH.elapsed().expect("the clock is right");
        UnixTime::from_seconds(since.as_secs())
    })
}

/// A ledger whose founder means harm, with an entry of most kinds.
fn found(path: &Path) {
    let community = "Hill<img src=x onerror=alert(1)>";
    let genesis = Genesis::new(community, "H<b>", 6, id(0xee), clock()(), [1; 16]).unwrap();
    let domain = genesis.domain();
    let mut ledger = Embedded::create(path, &genesis, clock()).unwrap();
    let [treasurer, alice, bob] = [0xee, 0xa1, 0xb0].map(key);
    let until = UnixTime::from_seconds(clock()().seconds() + 1_000_000);
    let channel = ChannelId { payer: id(0xa1), payee: id(0xb0), nonce: 1 };
    let registration = Registration {
        station: Station::Gateway,
        price_up: Price::new(100),
        price_down: Price::new(150),
        terms: [7; 32],
    };
    let name = "attic".parse().unwrap();
    let claim = ledger_core::name::claim(&bob, &domain, &name, &[7; 32]);
    for (who, command) in [
        (&treasurer, Command::Mint { to: id(0xa1), amount: tokens(90_000_000) }),
        (&treasurer, Command::Mint { to: id(0xb0), amount: tokens(10_000_000) }),
        (&treasurer, Command::Appoint { role: Role::Issuer, to: id(0xee) }),
        (&treasurer, Command::IssueMembership { to: id(0xb0), until }),
        (&bob, Command::Register { registration }),
        (&bob, Command::ClaimName { name, wireguard: [7; 32], claim }),
        (&bob, Command::IssueShares { shares: 100 }),
        (&bob, Command::TransferShares { router: id(0xb0), to: id(0xa1), shares: 40 }),
        (&alice, Command::OpenChannel { payee: id(0xb0), deposit: tokens(20_000_000) }),
        (&alice, Command::OpenChannel { payee: id(0xb0), deposit: tokens(3_000_000) }),
        (&alice, Command::IssueVoucher { voucher: id(0x77), amount: tokens(5_000_000), until }),
    ] {
        ledger.order(who, who.node_id(), command).unwrap();
    }
    let receipt = Receipt::sign(&alice, &domain, channel, tokens(1_250_000), [0; 32]).into_unverified();
    ledger.execute(&Request::Redeem { receipt }).unwrap();
    for amount in 1..=30 {
        ledger.order(&alice, id(0xa1), Command::Transfer { to: id(0xb0), amount: tokens(amount) }).unwrap();
    }
    ledger.order(&alice, id(0xa1), Command::StartClose { channel }).unwrap();
}

/// How many entries [`found`] makes.
pub(crate) const SIZE: u64 = 44;

/// What a test lets a server be asked: much, and with little patience.
pub(crate) fn settings() -> Settings {
    let plenty = Rate { per_second: 1_000_000, burst: 1_000_000 };
    Settings {
        places: Places { total: 100, per_owner: 100 },
        per_owner: plenty,
        per_key: plenty,
        per_day: 1_000_000,
        patience: Duration::from_secs(2),
        readers: 2,
        ..Settings::default()
    }
}

/// A served ledger.
pub(crate) struct Place {
    pub(crate) address: SocketAddr,
    pub(crate) domain: LedgerDomain,
    path: PathBuf,
    settings: Settings,
    running: Option<Running>,
    _directory: TempDir,
}

struct Running {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(path: &Path, at: SocketAddr, settings: Settings, tls: bool) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let file = path.to_owned();
        let thread = std::thread::spawn(move || {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            let runtime = builder.worker_threads(2).thread_name("server").enable_all().build().unwrap();
            runtime.block_on(async move {
                let tls = tls.then(|| trust::self_signed(&SECRET).unwrap());
                let server = Server::bind(at, tls, &file, clock, &SECRET, settings).await.unwrap();
                tell.send(server.address().unwrap()).unwrap();
                server.run(async { drop(stopped.await) }).await;
            });
        });
        let address = told.recv().expect("the server comes up");
        Self { address, stop: Some(stop), thread: Some(thread) }
    }
}

impl Place {
    pub(crate) fn plain(settings: Settings) -> Self {
        Self::start(settings, false)
    }

    pub(crate) fn with_tls(settings: Settings) -> Self {
        Self::start(settings, true)
    }

    fn start(settings: Settings, tls: bool) -> Self {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let other = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                if std::thread::current().name() == Some("server") {
                    PANICS.fetch_add(1, Ordering::Relaxed);
                }
                other(panic);
            }));
        });
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger");
        found(&path);
        let domain = Embedded::open(&path, clock()).unwrap().genesis().domain();
        let running = Running::start(&path, "127.0.0.1:0".parse().unwrap(), settings, tls);
        let address = running.address;
        Self { address, domain, path, settings, running: Some(running), _directory: directory }
    }

    /// Stops the server, lets its file be changed, and serves it again at the same address, in plain HTTP.
    pub(crate) fn tamper(&mut self, change: impl FnOnce(&Path)) {
        self.running = None;
        change(&self.path);
        self.running = Some(Running::start(&self.path, self.address, self.settings, false));
    }

    pub(crate) fn connect(&self) -> Wire {
        Wire::to(self.address)
    }

    /// A question without a body, on a connection of its own.
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.connect().get(path)
    }

    /// A question with a body, on a connection of its own.
    pub(crate) fn post(&self, path: &str, body: &impl serde::Serialize) -> Answer {
        self.connect().post(path, &serde_json::to_vec(body).unwrap())
    }

    /// An order as its account would sign it.
    pub(crate) fn order(&self, who: u8, sequence: u64, command: Command) -> Request {
        Request::Order(Order::sign(&key(who), &self.domain, id(who), sequence, command).into_unverified())
    }

    /// A gauge or counter of the server's.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = self.get("/metrics").text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    /// How many entries the file has, whatever the server says.
    pub(crate) fn size(&self) -> u64 {
        Embedded::open(&self.path, clock()).unwrap().head().unwrap().size
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().expect("it runs").join();
        if !std::thread::panicking() {
            ended.expect("the server ends well");
            assert_eq!(PANICS.load(Ordering::Relaxed), 0, "panics in the server");
        }
    }
}

/// A connection to a server, byte by byte.
pub(crate) struct Wire(TcpStream);

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Wire {
    pub(crate) fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    /// From another of this machine's addresses.
    pub(crate) fn from(source: IpAddr, address: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let stream = runtime.block_on(async {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind((source, 0).into()).unwrap();
            socket.connect(address).await.unwrap().into_std().unwrap()
        });
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self(stream)
    }

    /// The same connection, for another thread.
    pub(crate) fn twin(&self) -> Self {
        Self(self.0.try_clone().unwrap())
    }

    pub(crate) fn hang_up(&self) {
        let _gone = self.0.shutdown(Shutdown::Both);
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.0.write_all(bytes.as_ref())
    }

    pub(crate) fn get(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: ledger\r\n\r\n")).unwrap();
        self.answer().expect("an answer")
    }

    pub(crate) fn post(&mut self, path: &str, body: &[u8]) -> Answer {
        let head = format!("POST {path} HTTP/1.1\r\nhost: ledger\r\ncontent-type: application/json\r\n");
        self.send([format!("{head}content-length: {}\r\n\r\n", body.len()).as_bytes(), body].concat()).unwrap();
        self.answer().expect("an answer")
    }

    /// The next answer; `None`, where the server ends the connection first.
    pub(crate) fn answer(&mut self) -> Option<Answer> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            match self.0.read(&mut byte) {
                Ok(0) => return None,
                Ok(_) => head.push(byte[0]),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no answer within 30 s: {error}"),
            }
        }
        let head = String::from_utf8(head).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
        self.0.read_exact(&mut body).unwrap();
        Some(Answer { status, head, body })
    }

    /// Waits until the server ends the connection; what it says until then is dropped.
    pub(crate) fn ended(&mut self) {
        let mut more = [0; 64 * 1024];
        loop {
            match self.0.read(&mut more) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return,
                Err(error) => panic!("the connection does not end: {error}"),
            }
        }
    }
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The status, the kind of problem, and that it comes as one.
    pub(crate) fn problem(&self) -> (u16, String) {
        assert!(self.head.contains("content-type: application/problem+json\r\n"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{problem}");
        (self.status, problem["title"].as_str().unwrap().to_owned())
    }
}
