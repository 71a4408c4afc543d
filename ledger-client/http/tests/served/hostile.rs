//! People who mean harm, and people whose line is bad, which looks the same.

use std::io::{BufRead, BufReader};
use std::process::{Command as Program, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ledger_core::{Command, Order, Request, Seal};
use ledger_http::server::{Places, Rate, Settings};
use ledger_http::wire::MAX_BODY_BYTES;
use metering::{ChannelId, LedgerDomain, Receipt, Signature};

use crate::place::{Place, SIZE, Wire, id, key, settings, tokens};

const JSON_POST: &str = "POST /v1/requests HTTP/1.1\r\nhost: ledger\r\ncontent-type: application/json\r\n";

fn transfer() -> Command {
    Command::Transfer { to: id(0xb0), amount: tokens(1) }
}

#[expect(clippy::disallowed_methods, reason = "the server lives in the world's time")]
fn now() -> Instant {
    Instant::now()
}

/// That it took as long as the server has patience, and not much more.
fn about_as_long_as_patience(began: Instant) {
    let took = began.elapsed();
    let patience = settings().patience;
    assert!(took + Duration::from_millis(200) > patience && took < patience * 5, "{took:?}");
}

fn says(place: &Place, request: &Request) -> (u16, String) {
    place.post("/v1/requests", request).problem()
}

#[test]
fn a_body_that_says_it_is_too_long_is_not_read() {
    let place = Place::plain(settings());
    let mut wire = place.connect();
    wire.send(format!("{JSON_POST}content-length: {}\r\n\r\n", MAX_BODY_BYTES + 1)).unwrap();
    assert_eq!(wire.answer().unwrap().problem(), (413, "ContentTooLarge".to_owned()));
    let mut wire = place.connect();
    wire.send(format!("{JSON_POST}content-length: 99999999999999999999999\r\n\r\n")).unwrap();
    assert_eq!(wire.answer().unwrap().status, 400);
}

#[test]
fn a_body_that_turns_out_too_long_is_read_no_further() {
    let place = Place::plain(settings());
    let mut wire = place.connect();
    wire.send(format!("{JSON_POST}transfer-encoding: chunked\r\n\r\n")).unwrap();
    let chunk = format!("4000\r\n{}\r\n", " ".repeat(0x4000));
    for _ in 0..MAX_BODY_BYTES / 0x4000 + 1 {
        wire.send(&chunk).unwrap();
    }
    assert_eq!(wire.answer().unwrap().problem(), (413, "ContentTooLarge".to_owned()));
}

#[test]
fn a_body_that_dribbles_is_waited_for_as_long_as_there_is_patience() {
    let place = Place::plain(settings());
    let mut wire = place.connect();
    let began = now();
    wire.send(format!("{JSON_POST}content-length: 1000\r\n\r\n")).unwrap();
    let answer = dribble(&place, wire);
    assert_eq!(answer.map(|answer| answer.problem()), Some((408, "RequestTimeout".to_owned())));
    about_as_long_as_patience(began);
}

#[test]
fn a_head_that_dribbles_is_waited_for_as_long_as_there_is_patience() {
    let place = Place::plain(settings());
    let mut wire = place.connect();
    let began = now();
    wire.send("GET /v1/ledger HTTP/1.1\r\nhost: ledger\r\nx: ").unwrap();
    let answer = dribble(&place, wire);
    assert!(answer.is_none_or(|answer| answer.status == 408));
    about_as_long_as_patience(began);
}

/// Sends a byte each half second, more often than anybody calls it quiet, until the server has had enough.
fn dribble(place: &Place, wire: Wire) -> Option<crate::place::Answer> {
    let sender = wire.twin();
    let dribbling = std::thread::spawn(move || {
        let mut sender = sender;
        while sender.send("a").is_ok() {
            std::thread::sleep(Duration::from_millis(500));
        }
    });
    let mut wire = wire;
    let answer = wire.answer();
    wire.hang_up();
    dribbling.join().unwrap();
    assert_eq!(place.get("/healthz").status, 200);
    answer
}

#[test]
fn who_never_reads_its_answers_loses_its_place() {
    let place = Place::plain(settings());
    let mut wire = place.connect();
    let asked = "GET /v1/openapi.json HTTP/1.1\r\nhost: ledger\r\n\r\n".repeat(200);
    // 20 MB of answers. The questions may not all be taken either.
    let _refused = wire.send(asked);
    assert_eq!(place.metric("waybill_ledger_connections"), 2);
    let began = now();
    while place.metric("waybill_ledger_connections") > 1 {
        assert!(began.elapsed() < settings().patience * 10, "it keeps its place");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn half_a_handshake_is_waited_for_as_long_as_there_is_patience() {
    let place = Place::with_tls(settings());
    let began = now();
    let mut wires: Vec<Wire> = ["", "\x16\x03\x01\x02\x00\x01\x00", "GET / HTTP/1.1\r\n\r\n"]
        .into_iter()
        .map(|start| {
            let mut wire = place.connect();
            wire.send(start).unwrap();
            wire
        })
        .collect();
    // What is not TLS is answered with an alert at once.
    wires.pop().unwrap().ended();
    assert!(began.elapsed() < settings().patience);
    wires.iter_mut().for_each(Wire::ended);
    about_as_long_as_patience(began);
}

#[test]
fn garbage_behind_a_question_ends_the_connection_behind_its_answer() {
    let place = Place::plain(settings());
    for garbage in
        [&b"\x00\xff\xfe\r\n\r\n"[..], b"GET /\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"]
    {
        let mut wire = place.connect();
        wire.send([b"GET /v1/ledger HTTP/1.1\r\nhost: ledger\r\n\r\n", garbage].concat()).unwrap();
        assert_eq!(wire.answer().unwrap().status, 200);
        assert!(wire.answer().is_none_or(|answer| (400..=505).contains(&answer.status)), "{garbage:?}");
        wire.ended();
    }
    // Two lengths are how one request is smuggled behind another.
    let mut wire = place.connect();
    wire.send(format!("{JSON_POST}content-length: 2\r\ncontent-length: 3\r\n\r\n{{}}")).unwrap();
    assert_eq!(wire.answer().unwrap().status, 400);
    let mut wire = place.connect();
    wire.send(format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(20_000))).unwrap_or_default();
    assert!(wire.answer().is_none_or(|answer| answer.status == 431));
    assert_eq!(place.get("/healthz").status, 200);
}

#[test]
fn forged_and_foreign_orders_are_refused_by_name_and_change_nothing() {
    let place = Place::plain(settings());
    let next = place.get(&format!("/v1/accounts/{}", id(0xa1))).json()["sequence"].as_u64().unwrap() + 1;
    let other = LedgerDomain { contract: id(0x0f), ..place.domain };
    let foreign = Request::Order(Order::sign(&key(0xa1), &other, id(0xa1), next, transfer()).into_unverified());
    let by_another =
        Request::Order(Order::sign(&key(0xb0), &place.domain, id(0xa1), next, transfer()).into_unverified());
    let noise = Seal { sequence: next, signature: Signature([0xff; 65]) };
    let noise = Request::Order(Order::new(id(0xa1), transfer(), noise));
    for forged in [foreign, by_another, noise] {
        assert_eq!(says(&place, &forged), (409, "OrderSignatureInvalid".to_owned()));
    }
    assert_eq!(says(&place, &place.order(0xa1, next + 1, transfer())), (409, "SequenceOutOfOrder".to_owned()));
    assert_eq!(says(&place, &place.order(0xa1, 1, transfer())), (409, "SequenceAlreadyUsed".to_owned()));
    assert_eq!(says(&place, &place.order(0xa1, u64::MAX, transfer())), (409, "SequenceOutOfOrder".to_owned()));
    assert_eq!(place.size(), SIZE);
}

#[test]
fn a_replayed_order_has_the_answer_it_had_and_happens_once() {
    let place = Place::plain(settings());
    let order = place.order(0xee, 5, Command::Skip);
    let first = place.post("/v1/requests", &order);
    assert_eq!(first.status, 200, "{first:?}");
    let batch = place.post("/v1/requests/batch", &vec![order; 100]).json();
    assert!(batch.as_array().unwrap().iter().all(|outcome| outcome["done"] == first.json()["entry"]), "{batch}");
    assert_eq!(place.size(), SIZE + 1);
}

#[test]
fn bodies_that_are_no_requests_are_told_so() {
    let place = Place::plain(settings());
    let order = place.order(0xa1, 1, transfer());
    let bad = (400, "BadRequest".to_owned());
    assert_eq!(place.post("/v1/requests/batch", &vec![order; 101]).problem(), bad);
    assert_eq!(place.post("/v1/requests/batch", &Vec::<Request>::new()).problem(), bad);
    assert_eq!(place.post("/v1/requests/batch", &order).problem(), bad);
    assert_eq!(place.post("/v1/requests", &vec![order]).problem(), bad);
    let deep = "[".repeat(100_000);
    for body in ["", "{", "null", "{\"order\":{}}", "\u{0}", &deep] {
        assert_eq!(place.connect().post("/v1/requests", body.as_bytes()).problem(), bad, "{:.20}", body);
    }
    let mut wire = place.connect();
    wire.send("POST /v1/requests HTTP/1.1\r\nhost: ledger\r\ncontent-length: 2\r\n\r\n{}").unwrap();
    assert_eq!(wire.answer().unwrap().problem(), (415, "UnsupportedMediaType".to_owned()));
    assert_eq!(place.size(), SIZE);
}

#[test]
fn who_asks_too_much_waits_and_others_do_not() {
    let slow = Rate { per_second: 1, burst: 5 };
    let place = Place::plain(Settings { per_owner: slow, ..settings() });
    let [one, other] = ["127.0.0.1", "127.0.0.2"].map(|address| address.parse().unwrap());
    let mut wire = Wire::from(one, place.address);
    let declined = (0..50).map(|_| wire.get("/v1/ledger")).find(|answer| answer.status != 200).unwrap();
    assert_eq!(declined.problem(), (429, "TooManyRequests".to_owned()));
    assert!(declined.head.contains("\r\nretry-after: 1\r\n"), "{}", declined.head);
    assert_eq!(Wire::from(other, place.address).get("/v1/ledger").status, 200);
    let batch = vec![place.order(0xa1, 1, transfer()); 50];
    let batch = serde_json::to_vec(&batch).unwrap();
    assert_eq!(Wire::from(other, place.address).post("/v1/requests/batch", &batch).status, 429);
    assert_eq!(place.size(), SIZE);
}

#[test]
fn a_key_that_has_too_much_done_waits_and_others_do_not() {
    let slow = Rate { per_second: 1, burst: 3 };
    let place = Place::plain(Settings { per_key: slow, ..settings() });
    // Alice has made 34 orders.
    let mut statuses = (35..55).map(|next| place.post("/v1/requests", &place.order(0xa1, next, transfer())).status);
    assert!(statuses.any(|status| status == 429));
    assert_eq!(says(&place, &place.order(0xb0, 1, transfer())).0, 409);
}

/// All orders and receipts stand in the log with their signatures.
#[test]
fn who_copies_what_others_have_signed_uses_up_nothing_of_theirs() {
    let slow = Rate { per_second: 1, burst: 3 };
    let place = Place::plain(Settings { per_key: slow, ..settings() });
    let mint = place.order(0xee, 1, Command::Mint { to: id(0xa1), amount: tokens(90_000_000) });
    let channel = ChannelId { payer: id(0xa1), payee: id(0xb0), nonce: 1 };
    let receipt = Receipt::sign(&key(0xa1), &place.domain, channel, tokens(1_250_000), [0; 32]).into_unverified();
    let redeem = Request::Redeem { receipt };
    for _ in 0..20 {
        assert_eq!(place.post("/v1/requests", &mint).status, 200, "it happened before");
        assert_eq!(says(&place, &redeem), (409, "ReceiptAlreadyRedeemed".to_owned()));
        assert_eq!(place.post("/v1/requests/batch", &vec![mint; 50]).status, 200);
    }
    assert_eq!(place.size(), SIZE);
    assert_eq!(place.post("/v1/requests", &place.order(0xa1, 35, transfer())).status, 200);
    assert_eq!(place.post("/v1/requests", &place.order(0xee, 5, Command::Skip)).status, 200);
}

#[test]
fn one_of_a_batch_who_has_used_up_its_rate_holds_up_nobody_else() {
    let slow = Rate { per_second: 1, burst: 3 };
    let place = Place::plain(Settings { per_key: slow, ..settings() });
    let used_up = (35..38).map(|next| place.order(0xa1, next, transfer()));
    used_up.for_each(|order| assert_eq!(place.post("/v1/requests", &order).status, 200));
    let batch = vec![place.order(0xa1, 38, transfer()), place.order(0xee, 5, Command::Skip)];
    let answer = place.post("/v1/requests/batch", &batch);
    assert_eq!(answer.status, 200);
    let outcomes: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(outcomes[0]["refused"]["status"], 429, "{outcomes}");
    assert!(outcomes[1]["done"]["event"]["skipped"].is_object(), "{outcomes}");
}

#[test]
fn an_account_fills_so_much_of_the_log_in_a_day_and_keeps_nobody_from_redeeming() {
    let place = Place::plain(Settings { per_day: 3, ..settings() });
    let mut orders = (35..45).map(|next| place.post("/v1/requests", &place.order(0xa1, next, transfer())));
    let declined = orders.find(|answer| answer.status != 200).unwrap();
    assert_eq!((declined.problem(), place.size()), ((429, "TooManyRequests".to_owned()), SIZE + 3));
    // A third of a day.
    assert!(declined.head.contains("\r\nretry-after: 288"), "{}", declined.head);
    let skips = (5..15).map(|next| place.post("/v1/requests", &place.order(0xee, next, Command::Skip)).status);
    assert_eq!(skips.collect::<Vec<_>>(), [200; 10], "the treasurer makes as many as it likes");

    // The payer redeems old receipts of its payee one by one.
    let redeem = |nonce, total| {
        let channel = ChannelId { payer: id(0xa1), payee: id(0xb0), nonce };
        let receipt = Receipt::sign(&key(0xa1), &place.domain, channel, tokens(total), [0; 32]).into_unverified();
        place.post("/v1/requests", &Request::Redeem { receipt }).status
    };
    let taken = (1..100).take_while(|more| redeem(1, 1_250_000 + more) == 200).count();
    assert_eq!(taken, 24 + 3, "the channel's own, and the payee's");
    // Its other channel has its own too.
    let taken = (1..100).take_while(|total| redeem(2, *total) == 200).count();
    assert_eq!(taken, 24);
    assert_eq!(place.get("/healthz").status, 200);
}

/// Who looks at this process's memory does so alone.
static MEMORY: Mutex<()> = Mutex::new(());

/// What this process has in memory, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Lets this process open so many files; says how many it may.
fn may_open(files: u64) -> u64 {
    let pid = std::process::id().to_string();
    let _refused = Program::new("prlimit").args(["--pid", &pid, &format!("--nofile={files}")]).output();
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    line.split_whitespace().nth(3).unwrap().parse().unwrap()
}

#[test]
fn ten_thousand_who_say_nothing_keep_nobody_out() {
    let _alone = MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
    // Both ends are in this process.
    let crowd = usize::try_from(may_open(40_000).saturating_sub(1_000) / 2).unwrap().min(10_000);
    let places = Places { total: crowd, per_owner: usize::MAX };
    let place = Place::plain(Settings { places, patience: Duration::from_secs(120), ..settings() });
    assert_eq!(place.get("/healthz").status, 200);
    let before = resident();
    let mut idle: Vec<Wire> = Vec::new();
    while idle.len() < crowd {
        idle.push(place.connect());
    }
    let began = now();
    while place.metric("waybill_ledger_connections") < crowd as u64 {
        assert!(began.elapsed() < Duration::from_secs(60), "they are not all let in");
    }
    let each = resident().saturating_sub(before) / crowd as u64;
    let mut slowest = Duration::ZERO;
    for _ in 0..100 {
        let began = now();
        assert_eq!(place.get("/v1/ledger").status, 200);
        slowest = slowest.max(began.elapsed());
    }
    println!("{crowd} idle connections: {each} bytes each; a new client waits {slowest:?} at most");
    assert!(each < 32 * 1024, "{each} bytes for each connection");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    assert!(place.metric("waybill_ledger_connections") <= crowd as u64);
    // The first who came has made room.
    idle[0].ended();
}

#[test]
fn who_has_to_make_room_does_so_at_once() {
    let places = Places { total: 10, per_owner: usize::MAX };
    let place = Place::plain(Settings { places, patience: Duration::from_secs(60), ..settings() });
    let mut crowd: Vec<Wire> = Vec::new();
    for _ in 0..100 {
        let mut wire = place.connect();
        // Half a head, or answers that nobody reads: no end of a conversation to wait for.
        if crowd.len().is_multiple_of(2) {
            wire.send("GET /v1/ledger HTTP/1.1\r\nhost: led").unwrap();
        } else {
            let _refused = wire.send("GET /v1/openapi.json HTTP/1.1\r\nhost: ledger\r\n\r\n".repeat(100));
        }
        crowd.push(wire);
    }
    let began = now();
    while place.metric("waybill_ledger_connections") > 10 {
        assert!(began.elapsed() < Duration::from_secs(10), "more are connected than there are places");
    }
    crowd[0].ended();
}

#[test]
fn questions_that_do_not_arrive_keep_nobody_out() {
    let places = Places { total: 4, per_owner: usize::MAX };
    let place = Place::plain(Settings { places, patience: Duration::from_secs(60), ..settings() });
    let mut crowd: Vec<Wire> = (0..4).map(|_| place.connect()).collect();
    for wire in &mut crowd {
        // The server says when it begins to wait for the body.
        wire.send(format!("{JSON_POST}expect: 100-continue\r\ncontent-length: 1000\r\n\r\n")).unwrap();
        assert_eq!(wire.answer().unwrap().status, 100);
    }
    assert_eq!(place.get("/v1/ledger").status, 200);
    crowd[0].ended();
}

/// Connects so often, with TLS, asks once, and says so when all are answered.
const CROWD: &str = r#"
import socket, ssl, sys
port, count = int(sys.argv[1]), int(sys.argv[2])
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
crowd = []
for _ in range(count):
    connection = context.wrap_socket(socket.create_connection(("127.0.0.1", port)))
    connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: ledger\r\n\r\n")
    assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    crowd.append(connection)
print("connected", flush=True)
sys.stdin.read()
"#;

#[test]
fn a_connection_takes_the_memory_that_settings_say() {
    const COUNT: usize = 1000;
    let _alone = MEMORY.lock().unwrap_or_else(PoisonError::into_inner);
    let places = Places { total: COUNT + 1, per_owner: usize::MAX };
    let place = Place::with_tls(Settings { places, patience: Duration::from_secs(120), ..settings() });
    let before = resident();
    let crowd = Program::new("python3")
        .args(["-c", CROWD, &place.address.port().to_string(), &COUNT.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut crowd) = crowd else {
        println!("skipped: a_connection_takes_the_memory_that_settings_say: no python3");
        return;
    };
    let mut said = String::new();
    BufReader::new(crowd.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
    let each = resident().saturating_sub(before) / COUNT as u64;
    drop(crowd.stdin.take());
    crowd.wait().unwrap();
    assert_eq!(said, "connected\n");
    println!("{COUNT} connections with TLS that have asked once: {each} bytes each");
    assert!(each < 64 * 1024, "{each} bytes for each connection");
}
