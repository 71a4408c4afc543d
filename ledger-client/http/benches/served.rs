//! What a served ledger does in a second: 64 clients over HTTPS, each with a connection of its own, in this process too.
//!
//! `cargo bench -p ledger-http --all-features`; add `--features ledger-embedded/fast-signatures` for libsecp256k1.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use ledger_core::{Command, Genesis, Order, Request as Asked, UnixTime};
use ledger_embedded::{Clock, Embedded};
use ledger_http::server::{Places, Rate, Server, Settings};
use ledger_http::trust;
use metering::{AccountKey, ChannelId, NodeId, Receipt, TlsKey, Tokens};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

const CLIENTS: u64 = 64;
const SECRET: [u8; 32] = [0x5e; 32];

/// How many clients there are, how many questions each asks, and of how many receipts each is. More batches at once than 40
/// are turned away: they would wait for longer than anybody waits.
const RUNS: [(&str, usize, u64, u64); 2] = [("one at a time", 64, 250, 1), ("100 at a time", 16, 40, 100)];

fn main() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("ledger");
    let treasurer = AccountKey::from_bytes(&[0xee; 32]).expect("a key");
    let genesis = Genesis::new("Bench", "TOK", 6, treasurer.node_id(), UnixTime::from_seconds(1), [1; 16]);
    let genesis = genesis.expect("good names");
    let mut ledger = Embedded::create(&path, &genesis, clock()).expect("a ledger");
    let payers: Vec<AccountKey> = (0..CLIENTS).map(payer).collect();
    for payer in &payers {
        let mint = Command::Mint { to: payer.node_id(), amount: tokens(1 << 40) };
        ledger.order(&treasurer, treasurer.node_id(), mint).expect("it is allowed");
        let open = Command::OpenChannel { payee: NodeId([0xb0; 20]), deposit: tokens(1 << 39) };
        ledger.order(payer, payer.node_id(), open).expect("it is allowed");
    }
    drop(ledger);

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
    runtime.block_on(async {
        let unlimited = Rate { per_second: u32::MAX, burst: u32::MAX };
        let settings = Settings {
            places: Places { total: 1000, per_owner: 1000 },
            per_owner: unlimited,
            per_key: unlimited,
            per_day: u32::MAX,
            ..Settings::default()
        };
        let tls = trust::self_signed(&SECRET).expect("a certificate");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = Server::bind(any, Some(tls), &path, clock, &SECRET, settings).await.expect("a server");
        let address = server.address().expect("an address");
        tokio::spawn(server.run(std::future::pending()));
        let mut signed = 0;
        for (how, clients, questions, at_once) in RUNS {
            let bodies: Vec<Vec<Bytes>> = payers
                .iter()
                .take(clients)
                .map(|payer| (0..questions).map(|n| body(payer, &genesis, signed + n * at_once, at_once)).collect())
                .collect();
            signed += questions * at_once;
            let what = format!("receipts redeemed {how} by {clients} clients over HTTPS");
            run(&what, address, bodies, at_once, "redeemed").await;
        }
        let bodies = payers.iter().map(|payer| orders(payer, &genesis)).collect();
        run(&format!("orders by {CLIENTS} clients over HTTPS"), address, bodies, 1, "transferred").await;
    });
}

/// All clients ask at the same time, each its questions one behind the other. `event` is what each answer has to tell of.
async fn run(what: &str, address: SocketAddr, bodies: Vec<Vec<Bytes>>, at_once: u64, event: &'static str) {
    let path = if at_once == 1 { "/v1/requests" } else { "/v1/requests/batch" };
    let mut clients = Vec::new();
    for bodies in bodies {
        clients.push((connect(address).await, bodies));
    }
    let began = now();
    let asking = clients.into_iter().map(|(mut connection, bodies)| {
        tokio::spawn(async move {
            let mut times = Vec::new();
            for body in bodies {
                let asked = now();
                let answer = post(&mut connection, path, body).await;
                assert_eq!(answer.matches(&format!("{{\"{event}\":")).count() as u64, at_once, "{answer}");
                times.push(asked.elapsed());
            }
            times
        })
    });
    let mut times = Vec::new();
    for client in asking.collect::<Vec<_>>() {
        times.extend(client.await.expect("no panic"));
    }
    report(what, times, began.elapsed(), at_once);
}

/// Orders, which have numbers: each client signs its next.
fn orders(payer: &AccountKey, genesis: &Genesis) -> Vec<Bytes> {
    let order = |n: u64| {
        let command = Command::Transfer { to: NodeId([0xca; 20]), amount: tokens(1) };
        let order = Order::sign(payer, &genesis.domain(), payer.node_id(), n + 2, command);
        serde_json::to_vec(&Asked::Order(order.into_unverified())).expect("JSON").into()
    };
    (0..100).map(order).collect()
}

fn report(what: &str, mut times: Vec<Duration>, took: Duration, at_once: u64) {
    times.sort_unstable();
    let rate = times.len() as f64 * at_once as f64 / took.as_secs_f64();
    let slow = times[times.len() * 99 / 100];
    println!("{what}: {rate:.0} a second, half answered in {:.1?}, 99 of 100 in {slow:.1?}", times[times.len() / 2]);
}

/// Receipts of this payer's over one unit more each, as the body of a question.
fn body(payer: &AccountKey, genesis: &Genesis, before: u64, at_once: u64) -> Bytes {
    let channel = ChannelId { payer: payer.node_id(), payee: NodeId([0xb0; 20]), nonce: 1 };
    let redeem = |n: u64| {
        let total = tokens(u128::from(before + n + 1));
        let receipt = Receipt::sign(payer, &genesis.domain(), channel, total, [7; 32]).into_unverified();
        Asked::Redeem { receipt }
    };
    let body = if at_once == 1 {
        serde_json::to_vec(&redeem(0))
    } else {
        serde_json::to_vec(&(0..at_once).map(redeem).collect::<Vec<_>>())
    };
    body.expect("JSON").into()
}

async fn connect(address: SocketAddr) -> SendRequest<Full<Bytes>> {
    let signer = ledger_core::note::NoteSigner::<ledger_core::note::Log>::new("x", &SECRET).expect("a key");
    let config = trust::pinned(&TlsKey(*signer.key().public())).expect("TLS 1.3");
    let stream = TcpStream::connect(address).await.expect("a connection");
    stream.set_nodelay(true).expect("a socket");
    let name = address.ip().into();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("the ledger's key");
    let (sender, connection) = handshake(TokioIo::new(stream)).await.expect("HTTP");
    tokio::spawn(connection);
    sender
}

async fn post(connection: &mut SendRequest<Full<Bytes>>, path: &str, body: Bytes) -> String {
    let question = Request::post(path).header("host", "bench").header("content-type", "application/json");
    let answer = connection.send_request(question.body(Full::new(body)).expect("a question")).await.expect("an answer");
    let body = answer.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8(body.into()).expect("text")
}

fn payer(n: u64) -> AccountKey {
    let mut secret = [0xa1; 32];
    secret[..8].copy_from_slice(&n.to_be_bytes());
    AccountKey::from_bytes(&secret).expect("a key")
}

fn tokens(n: u128) -> Tokens {
    Tokens::new(n).expect("an amount")
}

fn clock() -> Clock {
    Box::new(UnixTime::default)
}

#[expect(clippy::disallowed_methods, reason = "a bench measures time")]
fn now() -> Instant {
    Instant::now()
}
