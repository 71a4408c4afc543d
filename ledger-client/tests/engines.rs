//! What every engine must do, and what only a served one can get wrong.
#![cfg(all(feature = "remote", feature = "serve"))]
#![expect(clippy::unwrap_used, reason = "what fails here fails a test")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Duration;

use ledger_client::server::{self, Server, Settings};
use ledger_client::{
    Abandoned, Channel, Command, Embedded, Error, Genesis, Ledger, LogSigner, Name, Phase, Refusal, Remote, Role,
    Served, Totals, Unavailable, UnixTime, Verdict, checkpoint, system_clock,
};
use ledger_core::fact::Fact;
use ledger_core::name::NameListing;
use ledger_core::record_tree::{Leaf, Proof, root_of};
use ledger_http::wire::{HexBytes, ProvenRecords};
use metering::{AccountKey, Close, NodeId, Receipt, Tokens};
use tempfile::TempDir;
use tokio::sync::oneshot;

const SECRET: [u8; 32] = [0x5e; 32];

fn key(byte: u8) -> AccountKey {
    AccountKey::from_bytes(&[byte; 32]).unwrap()
}

fn tokens(n: u128) -> Tokens {
    Tokens::new(n).unwrap()
}

/// What every engine must do, as its treasurer, Alice and Bob use it.
fn carries_a_channel_from_mint_to_close(
    [treasurer, alices, bobs]: [&mut dyn Ledger; 3],
    [alice_key, bob_key]: [&AccountKey; 2],
) -> Result<(), Error> {
    let (alice, bob) = (alice_key.node_id(), bob_key.node_id());
    treasurer.mint(alice, tokens(100))?;
    let channel = alices.open_channel(bob, tokens(50))?;
    alices.top_up(channel, tokens(10))?;
    assert_eq!(channel.nonce, 1);
    assert_eq!(bobs.latest_nonce(alice, bob)?, Some(1));
    assert_eq!(bobs.channels_of(bob)?, [(channel, Channel::open(tokens(60)))]);

    let domain = bobs.domain();
    let receipt = |total| Receipt::sign(alice_key, &domain, channel, tokens(total), [0; 32]);
    assert_eq!(bobs.redeem(receipt(20))?, tokens(20));
    let again = bobs.redeem(receipt(20)).unwrap_err().refusal();
    assert_eq!(again, Some(Refusal::ReceiptAlreadyRedeemed { amount: tokens(20) }));
    let lower = Refusal::TotalWentBackwards { total: tokens(10), redeemed: tokens(20) };
    let outcomes = bobs.redeem_many(&[receipt(10), receipt(30)])?;
    assert_eq!(outcomes, [Err(lower), Ok(tokens(10))]);

    let by_bob = bobs.start_close(channel).unwrap_err().refusal();
    assert_eq!(by_bob, Some(Refusal::NotPayer { by: bob }));
    let exit = alices.start_close(channel)?;
    let early = alices.finalize(channel).unwrap_err().refusal();
    assert!(matches!(early, Some(Refusal::NoticeNotOver { exit: end, .. }) if end == exit));
    bobs.mutual_close(Close::sign(alice_key, &domain, channel, tokens(40)))?;
    bobs.transfer(alice, tokens(5))?;
    assert_eq!((alices.balance(alice)?, bobs.balance(bob)?), (tokens(65), tokens(35)));
    assert_eq!(bobs.channel(channel)?.map(|channel| channel.phase), Some(Phase::Closed));

    let totals = Totals { minted: tokens(100), held: tokens(100), ..Totals::default() };
    assert_eq!(treasurer.totals()?, totals);
    let head = treasurer.head()?;
    assert_eq!(treasurer.audit()?, Verdict::Kept { head, totals });
    let entries = treasurer.entries(0)?;
    assert_eq!(entries.len() as u64, head.size);
    let told: Vec<&str> = entries.iter().map(|entry| entry.event.name()).collect();
    assert_eq!(
        told,
        [
            "founded",
            "minted",
            "channel-opened",
            "topped-up",
            "redeemed",
            "redeemed",
            "close-started",
            "mutually-closed",
            "transferred"
        ]
    );
    Ok(())
}

fn found(directory: &Path) -> PathBuf {
    let path = directory.join("ledger");
    let genesis = Genesis::new("Hilltop", "HILL", 6, key(0xee).node_id(), system_clock()(), [1; 16]).unwrap();
    Embedded::create(&path, &genesis, system_clock()).unwrap();
    path
}

#[test]
fn embedded_ledger_carries_a_channel_from_mint_to_close() {
    let directory = tempfile::tempdir().unwrap();
    let path = found(directory.path());
    let [treasurer, alice, bob] = [0xee, 0xa1, 0xb0].map(key);
    let open = |key: &AccountKey| Embedded::open(&path, system_clock()).unwrap().signed_by(key.clone());
    let [mut treasurers, mut alices, mut bobs] = [&treasurer, &alice, &bob].map(open);
    let parties: [&mut dyn Ledger; 3] = [&mut treasurers, &mut alices, &mut bobs];
    carries_a_channel_from_mint_to_close(parties, [&alice, &bob]).unwrap();
}

/// A server in a thread of its own.
struct Running {
    address: SocketAddr,
    key: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(ledger: &Path, at: Option<SocketAddr>) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let ledger = ledger.to_owned();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async move {
                let any = at.unwrap_or_else(|| "127.0.0.1:0".parse().unwrap());
                let tls = server::self_signed(&SECRET).unwrap();
                let server =
                    Server::bind(any, Some(tls), &ledger, system_clock, &SECRET, Settings::default()).await.unwrap();
                tell.send((server.address().unwrap(), server.key())).unwrap();
                server.run(async { drop(stopped.await) }).await;
            });
        });
        let (address, key) = told.recv().expect("the server comes up");
        Self { address, key, stop: Some(stop), thread: Some(thread) }
    }

    fn served(&self) -> Served {
        Served {
            address: format!("https://{}", self.address).parse().unwrap(),
            key: self.key.parse().unwrap(),
            founding: None,
            authorities: None,
            clock: || 0,
            patience: Duration::from_secs(10),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().expect("it runs").join().expect("the server ends well");
    }
}

struct Place {
    directory: TempDir,
    running: Option<Running>,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let running = Some(Running::start(&found(directory.path()), None));
        Self { directory, running }
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("it runs")
    }

    fn open(&self, who: &str, key: &AccountKey) -> Remote {
        Remote::open(self.running().served(), &self.directory.path().join(who)).unwrap().signed_by(key.clone())
    }
}

#[test]
fn served_ledger_carries_a_channel_from_mint_to_close() {
    let place = Place::new();
    let [treasurer, alice, bob] = [0xee, 0xa1, 0xb0].map(key);
    let [mut treasurers, mut alices, mut bobs] =
        [("treasurer", &treasurer), ("alice", &alice), ("bob", &bob)].map(|(who, key)| place.open(who, key));
    let parties: [&mut dyn Ledger; 3] = [&mut treasurers, &mut alices, &mut bobs];
    carries_a_channel_from_mint_to_close(parties, [&alice, &bob]).unwrap();
}

#[test]
fn who_does_not_hold_the_ledgers_key_is_not_talked_to() {
    let place = Place::new();
    let mut served = place.running().served();
    let other = ledger_core::note::NoteSigner::<ledger_core::note::Log>::new(served.key.name(), &[0x66; 32]).unwrap();
    served.key = other.key().clone();
    let error = Error::from(Remote::open(served, &place.directory.path().join("eve")).unwrap_err());
    assert!(error.to_string().contains("does not hold the ledger's key"), "{error}");
    assert!(matches!(error, Error::Unavailable(Unavailable { retry: false, .. })));
}

#[test]
fn a_ledger_whose_founding_is_known_need_not_be_there_at_first() {
    let mut place = Place::new();
    let founding = place.open("first", &key(0xee)).entries(0).unwrap()[0].encode();
    let served = place.running().served();
    place.running = None;
    let opened = |served: &Served, who| Remote::open(served.clone(), &place.directory.path().join(who));
    let error = opened(&served, "unfounded").unwrap_err();
    assert!(error.to_string().contains("cannot be reached"), "{error}");
    let known = Served { founding: Some(founding), ..served };
    assert_eq!(opened(&known, "founded").unwrap().genesis().community(), "Hilltop");
    let other = Genesis::new("Hilltop", "HILL", 6, key(0xee).node_id(), system_clock()(), [2; 16]).unwrap();
    let founding = Some(ledger_core::state::founding(&other).encode());
    let error = opened(&Served { founding, ..known }, "other").unwrap_err();
    assert!(error.to_string().contains("is not the one of waybill/0x"), "{error}");
}

#[test]
fn an_order_without_an_answer_happens_once_and_is_answered_after_a_restart() {
    let mut place = Place::new();
    let (treasurer, bob) = (key(0xee), key(0xb0).node_id());
    let mut ours = place.open("treasurer", &treasurer);
    ours.mint(bob, tokens(1)).unwrap();
    let address = place.running().address;
    place.running = None;
    let error = ours.mint(bob, tokens(5)).unwrap_err();
    assert!(matches!(error, Error::Unavailable(Unavailable { retry: true, .. })), "{error}");
    assert!(ours.unanswered().unwrap().is_none(), "nothing was signed, as nobody said which number is next");

    // The order is on the disk and was taken, and its answer was lost.
    drop(ours);
    place.running = Some(Running::start(&place.directory.path().join("ledger"), Some(address)));
    let mut ours = place.open("treasurer", &treasurer);
    ours.mint(bob, tokens(5)).unwrap();
    let taken = ours.entries(2).unwrap().pop().and_then(|entry| entry.order()).unwrap();
    drop(ours);
    let kept = place.directory.path().join("treasurer/unanswered.json");
    std::fs::write(&kept, serde_json::to_vec(&taken).unwrap()).unwrap();
    let mut ours = place.open("treasurer", &treasurer);
    assert_eq!(ours.unanswered().unwrap(), Some(taken));
    ours.mint(bob, tokens(5)).unwrap();
    assert_eq!((ours.balance(bob).unwrap(), ours.unanswered().unwrap()), (tokens(6), None));
    // Another command has it answered first, and then happens.
    std::fs::write(&kept, serde_json::to_vec(&taken).unwrap()).unwrap();
    ours.mint(bob, tokens(7)).unwrap();
    assert_eq!((ours.balance(bob).unwrap(), ours.head().unwrap().size), (tokens(13), 4));
}

/// Who asks for it waits, and then may do something else.
#[test]
fn an_order_that_is_never_answered_is_given_up_at_a_persons_word_and_cannot_happen_after() {
    let place = Place::new();
    let (treasurer, bob) = (key(0xee), key(0xb0).node_id());
    let lie: Lie = |path, body| match path {
        "/v1/requests" => r#"{"title":"BadRequest","status":400,"detail":"no request"}"#.to_owned(),
        _ => body,
    };
    let apart = tempfile::tempdir().unwrap();
    let (_liar, served) = Liar::start(&found(apart.path()), lie);
    let mut ours = Remote::open(served, &apart.path().join("treasurer")).unwrap().signed_by(treasurer.clone());
    assert_eq!(ours.abandon().unwrap(), None, "there is nothing to give up");
    let error = ours.mint(bob, tokens(5)).unwrap_err();
    assert!(error.to_string().ends_with("says: no request"), "{error}");
    let stuck = ours.unanswered().unwrap().unwrap();
    ours.mint(bob, tokens(7)).unwrap_err();
    assert_eq!(ours.unanswered().unwrap(), Some(stuck), "no other is signed before");
    // What this liar calls malformed it has done all the same, and what it proves of that is believed.
    let Some(Abandoned::Happened(entry)) = ours.abandon().unwrap() else { panic!("it has happened") };
    assert_eq!((entry.order(), ours.unanswered().unwrap()), (Some(stuck), None));

    // An honest ledger that never got the order.
    let mut ours = place.open("treasurer", &treasurer);
    let command = Command::Mint { to: bob, amount: tokens(5) };
    let order = ledger_core::Order::sign_with(&treasurer, &ours.domain(), treasurer.node_id(), 1, command, &[]);
    let kept = place.directory.path().join("treasurer/unanswered.json");
    std::fs::write(&kept, serde_json::to_vec(&order.into_unverified()).unwrap()).unwrap();
    let mut other = ours.signed_by(key(0xa1));
    assert!(matches!(other.abandon().unwrap_err(), Error::NoKey), "it is not this account's");
    assert!(kept.exists());
    ours = other.signed_by(treasurer);
    assert_eq!(ours.abandon().unwrap(), Some(Abandoned::Never));
    assert_eq!(ours.unanswered().unwrap(), None);
    let late = ours.request(&ledger_client::Request::Order(order.into_unverified())).unwrap_err().refusal();
    assert!(matches!(late, Some(Refusal::SequenceAlreadyUsed { sequence: 1, .. })), "{late:?}");
    ours.mint(bob, tokens(7)).unwrap();
    assert_eq!(ours.balance(bob).unwrap(), tokens(7));
}

#[test]
fn an_audit_tells_how_far_it_is() {
    let place = Place::new();
    let mut ours = place.open("treasurer", &key(0xee));
    for _ in 0..2 {
        ours.mint(key(0xb0).node_id(), tokens(1)).unwrap();
    }
    let mut told = Vec::new();
    let verdict = ours.audit_telling(|done, of| told.push((done, of))).unwrap();
    assert!(matches!(verdict, Verdict::Kept { .. }), "{verdict:?}");
    assert_eq!(told, [(3, 3)]);
}

/// Each answer is in time, and all together are not.
#[test]
fn a_call_of_many_answers_ends_when_the_time_for_all_is_over() {
    let place = Place::new();
    let mut ours = place.open("treasurer", &key(0xee));
    ours.within(Duration::ZERO);
    let error = ours.channels_of(key(0xee).node_id()).unwrap_err();
    assert!(error.to_string().contains("answers too slowly"), "{error}");
    assert!(matches!(error, Error::Unavailable(Unavailable { retry: true, .. })));
    ours.within(Duration::from_secs(60));
    assert_eq!(ours.channels_of(key(0xee).node_id()).unwrap(), []);
}

#[test]
fn two_who_sign_for_one_account_do_not_take_each_others_numbers() {
    let place = Place::new();
    let (treasurer, bob) = (key(0xee), key(0xb0).node_id());
    let clients = [("here", 1), ("there", 10), ("elsewhere", 100)];
    let clients = clients.map(|(who, amount)| (place.open(who, &treasurer), tokens(amount)));
    std::thread::scope(|scope| {
        for (mut client, amount) in clients {
            scope.spawn(move || (0..5).for_each(|_| client.mint(bob, amount).unwrap()));
        }
    });
    assert_eq!(place.open("here", &treasurer).balance(bob).unwrap(), tokens(555));
}

#[test]
fn one_program_at_a_time_has_what_is_kept_of_a_ledger() {
    let place = Place::new();
    let first = place.open("alice", &key(0xa1));
    let error = Remote::open(place.running().served(), &place.directory.path().join("alice")).unwrap_err();
    assert!(error.to_string().starts_with("another program uses "), "{error}");
    assert!(matches!(Error::from(error), Error::Unavailable(Unavailable { retry: true, .. })));
    drop(first);
    drop(place.open("alice", &key(0xa1)));
}

#[test]
fn a_ledger_that_was_put_back_to_an_older_copy_is_found_out() {
    let mut place = Place::new();
    let (treasurer, bob) = (key(0xee), key(0xb0).node_id());
    let mut ours = place.open("treasurer", &treasurer);
    ours.mint(bob, tokens(1)).unwrap();
    let (address, path) = (place.running().address, place.directory.path().join("ledger"));
    place.running = None;
    let older = std::fs::read(&path).unwrap();
    place.running = Some(Running::start(&path, Some(address)));
    ours.mint(bob, tokens(2)).unwrap();
    place.running = None;
    std::fs::write(&path, older).unwrap();
    place.running = Some(Running::start(&path, Some(address)));
    let error = ours.head().unwrap_err();
    assert!(error.to_string().contains("the log has 2 entries here, and had 3 before"), "{error}");
    // Also after a restart of ours.
    drop(ours);
    let mut ours = place.open("treasurer", &treasurer);
    let error = ours.head().unwrap_err();
    assert!(error.to_string().contains("the log has 2 entries here, and had 3 before"), "{error}");
    // Nothing is ordered of it, as it proves no number.
    let error = ours.mint(bob, tokens(3)).unwrap_err();
    assert!(error.to_string().contains("the log has 2 entries here, and had 3 before"), "{error}");
    // For one that knows no better it goes on from the older copy, and signs that: proof against whoever holds its key.
    place.open("newcomer", &treasurer).mint(bob, tokens(3)).unwrap();
    let error = ours.head().unwrap_err();
    assert!(error.to_string().contains("signed two different pasts of 3 entries"), "{error}");
}

#[test]
fn an_order_that_was_refused_and_is_done_later_is_found_out() {
    let mut place = Place::new();
    let [treasurer, alice] = [0xee, 0xa1].map(key);
    let (bob, carol) = (key(0xb0).node_id(), key(0xca).node_id());
    let mut alices = place.open("alice", &alice);
    let refused = alices.transfer(bob, tokens(5)).unwrap_err().refusal().unwrap();
    assert_eq!(refused.rule(), "InsufficientBalance");
    let kept = std::fs::read(place.directory.path().join("alice/refused.json")).unwrap();
    let [order]: [ledger_core::Order<metering::Unverified>; 1] = serde_json::from_slice(&kept).unwrap();
    place.open("treasurer", &treasurer).mint(alice.node_id(), tokens(10)).unwrap();

    // Whoever has the file does it now.
    let (address, path) = (place.running().address, place.directory.path().join("ledger"));
    place.running = None;
    let mut ledger = ledger_embedded::Embedded::open(&path, system_clock()).unwrap();
    ledger.execute(&ledger_core::Request::Order(order)).unwrap();
    drop(ledger);
    place.running = Some(Running::start(&path, Some(address)));
    let error = alices.transfer(carol, tokens(1)).unwrap_err();
    let said = format!("it refused order 1 of {} and did it later: it has happened", alice.node_id());
    assert!(error.to_string().ends_with(&said), "{error}");
    // It is said once, and what follows has the next number.
    alices.transfer(carol, tokens(1)).unwrap();
    let held = [alice.node_id(), bob, carol].map(|account| alices.balance(account).unwrap());
    assert_eq!(held, [4, 5, 1].map(tokens));

    // Nor is it forgotten: no tokens are locked there until the owner has removed it.
    let error = alices.open_channel(bob, tokens(1)).unwrap_err().to_string();
    assert!(error.starts_with("the ledger did an order after it had refused it; no tokens are locked"), "{error}");
    std::fs::remove_file(place.directory.path().join("alice/refused-and-done.json")).unwrap();

    // One that was refused and whose number another order has is over, and nothing is said.
    alices.transfer(bob, tokens(50)).unwrap_err().refusal().unwrap();
    alices.transfer(bob, tokens(1)).unwrap();
    alices.transfer(bob, tokens(1)).unwrap();
    let refused = || {
        let kept = std::fs::read(place.directory.path().join("alice/refused.json")).unwrap();
        serde_json::from_slice::<Vec<serde_json::Value>>(&kept).unwrap().len()
    };
    assert_eq!(refused(), 0);

    // The same again is the same order, and is good once there is what it takes: also where the power went in between.
    for _ in 0..3 {
        alices.transfer(bob, tokens(50)).unwrap_err().refusal().unwrap();
    }
    assert_eq!(refused(), 1);
    place.open("treasurer", &treasurer).mint(alice.node_id(), tokens(50)).unwrap();
    alices.transfer(bob, tokens(50)).unwrap();
    alices.transfer(bob, tokens(1)).unwrap();
    assert_eq!((refused(), alices.found()), (0, None));

    // Who has been refused very often uses the number up, and goes on.
    let before = alices.account(alice.node_id()).unwrap().sequence;
    for more in 0..40 {
        alices.transfer(bob, tokens(100 + more)).unwrap_err().refusal().unwrap();
    }
    assert_eq!(alices.account(alice.node_id()).unwrap().sequence, before + 1);
    assert_eq!(alices.found(), None);
}

/// What is told of a path, which a liar alters.
type Lie = fn(&str, String) -> String;

/// Somebody with the ledger's key, between it and who asks.
struct Liar {
    address: SocketAddr,
    _running: Running,
}

impl Liar {
    fn start(ledger: &Path, lie: Lie) -> (Self, Served) {
        let running = Running::start(ledger, None);
        let honest = running.served();
        let tls = server::self_signed(&SECRET).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let session = rustls::ServerConnection::new(tls.clone().into()).unwrap();
                let (mut stream, honest) = (rustls::StreamOwned::new(session, stream), honest.clone());
                std::thread::spawn(move || while pass_on(&mut stream, &honest, lie).is_some() {});
            }
        });
        let served = Served { address: format!("https://{address}").parse().unwrap(), ..running.served() };
        (Self { address, _running: running }, served)
    }
}

/// Takes one question, has it answered, alters the answer. Nothing, where the connection has ended.
fn pass_on<S: std::io::Read + std::io::Write>(stream: &mut S, honest: &Served, lie: Lie) -> Option<()> {
    let question = one_message(stream)?;
    let path = question.split(' ').nth(1)?.to_owned();
    let name = rustls::pki_types::ServerName::try_from("127.0.0.1").ok()?;
    let tls = ledger_http::trust::pinned(&metering::TlsKey(*honest.key.public())).ok()?;
    let session = rustls::ClientConnection::new(tls.into(), name).ok()?;
    let host = honest.address.to_string().strip_prefix("https://")?.trim_end_matches('/').to_owned();
    let mut upstream = rustls::StreamOwned::new(session, std::net::TcpStream::connect(host).ok()?);
    std::io::Write::write_all(&mut upstream, question.as_bytes()).ok()?;
    let answer = one_message(&mut upstream)?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let body = lie(&path, body.to_owned());
    let is_length = |line: &&str| line.to_ascii_lowercase().starts_with("content-length");
    let is_problem = usize::from(body.starts_with("{\"title\""));
    let refused = head.replacen("200 OK", "409 Conflict", is_problem).replacen(
        "application/json",
        "application/problem+json",
        is_problem,
    );
    let head: Vec<&str> = refused.lines().filter(|line| !is_length(line)).collect();
    let answer = format!("{}\r\ncontent-length: {}\r\n\r\n{body}", head.join("\r\n"), body.len());
    stream.write_all(answer.as_bytes()).and_then(|()| stream.flush()).ok()
}

/// A head, and a body as long as the head says.
fn one_message(stream: &mut impl std::io::Read) -> Option<String> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            if body.len() >= length.unwrap_or(0) {
                return Some(text);
            }
        }
        let read = stream.read(&mut buffer).ok().filter(|read| *read > 0)?;
        bytes.extend(&buffer[..read]);
    }
}

#[test]
fn what_a_ledger_does_not_prove_is_not_believed() {
    let directory = tempfile::tempdir().unwrap();
    let path = found(directory.path());
    let [treasurer, alice] = [0xee, 0xa1].map(key);
    let bob = key(0xb0).node_id();
    let open = |key: &AccountKey| Embedded::open(&path, system_clock()).unwrap().signed_by(key.clone());
    open(&treasurer).mint(alice.node_id(), tokens(100)).unwrap();
    let channel = open(&alice).open_channel(bob, tokens(60)).unwrap();
    let account = alice.node_id();
    let unproven = "nothing proves what it says of a record";

    type Ask = fn(&mut Remote, NodeId, NodeId) -> Result<(), Error>;
    let balance: Ask = |ledger, alice, _| ledger.balance(alice).map(drop);
    let nonce: Ask = |ledger, alice, bob| ledger.latest_nonce(alice, bob).map(drop);
    let channels: Ask = |ledger, alice, _| ledger.channels_of(alice).map(drop);
    let transfer: Ask = |ledger, _, bob| ledger.transfer(bob, tokens(1));
    let lies: [(&str, Ask, Lie, &str); 9] = [
        // 40 tokens (0x28) become 41.
        ("more", balance, |_, body| body.replace("0000280000", "0000290000"), unproven),
        ("nothing", balance, |_, body| body.replacen("\"0x0000", "null,\"was\":\"0x0000", 1), unproven),
        ("other", balance, |_, body| body.replacen("\"place\":\"0x0a", "\"place\":\"0x0b", 1), unproven),
        ("fewer", balance, |_, body| body.replace("\"records\":[{", "\"records\":[],\"were\":[{"), "other records"),
        ("unsigned", balance, |_, body| body.replace("\\n3\\n", "\\n4\\n"), "signature"),
        (
            "silent",
            balance,
            |path, body| if path.starts_with("/v1/records") { body.replace("records ", "rekords ") } else { body },
            "signature",
        ),
        (
            "hidden",
            nonce,
            |_, body| body.replace("{\"latest_nonce\":1}", "{\"latest_nonce\":null}"),
            "an older channel than the pair's newest",
        ),
        (
            "made up",
            nonce,
            |_, body| body.replace("{\"latest_nonce\":1}", "{\"latest_nonce\":2}"),
            "a channel that it does not have",
        ),
        (
            "renamed",
            channels,
            |path, body| if path.contains("/channels") { body.replace("\"nonce\":1", "\"nonce\":7") } else { body },
            "a channel that it does not have",
        ),
    ];
    for (name, ask, lie, found) in lies {
        let (liar, served) = Liar::start(&path, lie);
        let mut ledger = Remote::open(served, &directory.path().join(name)).unwrap().signed_by(alice.clone());
        let error = ask(&mut ledger, account, bob).unwrap_err().to_string();
        assert!(error.contains(found) && error.contains(&liar.address.to_string()), "{name}: {error}");
    }

    // Passed on as it is, all of it is believed.
    let (_liar, served) = Liar::start(&path, |_, body| body);
    let mut ledger = Remote::open(served, &directory.path().join("honest")).unwrap().signed_by(alice.clone());
    assert_eq!(ledger.balance(account).unwrap(), tokens(40));
    assert_eq!(ledger.latest_nonce(account, bob).unwrap(), Some(1));
    assert_eq!(ledger.channels_of(account).unwrap(), [(channel, Channel::open(tokens(60)))]);
    assert_eq!(ledger.account(bob).unwrap().sequence, 0);
    assert_eq!(ledger.totals().unwrap().minted, tokens(100));
    transfer(&mut ledger, account, bob).unwrap();

    // An order that happened and is denied is shown by the log.
    let denied: Lie = |path, body| {
        if path == "/v1/requests" {
            let used = Refusal::SequenceAlreadyUsed { account: key(0xa1).node_id(), sequence: 3, next: 4 };
            serde_json::to_string(&ledger_http::wire::Problem::refused(used)).unwrap()
        } else {
            body
        }
    };
    let (_liar, served) = Liar::start(&path, denied);
    let mut ledger = Remote::open(served, &directory.path().join("denied")).unwrap().signed_by(alice.clone());
    transfer(&mut ledger, account, bob).unwrap();
    assert_eq!(ledger.balance(bob).unwrap(), tokens(2), "it happened once");
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// Whoever has one of these keys is a member, and its node has a name.
fn named(path: &Path, names: &[(u8, &str)]) {
    let open = |byte| Embedded::open(path, system_clock()).unwrap().signed_by(key(byte));
    let mut treasurer = open(0xee);
    let appointed = treasurer.order(Command::Appoint { role: Role::Issuer, to: key(0xee).node_id() });
    assert!(appointed.is_ok());
    for (byte, text) in names {
        treasurer.order(Command::IssueMembership { to: key(*byte).node_id(), until: UnixTime::MAX }).unwrap();
        open(*byte).claim_name(name(text), [*byte; 32]).unwrap();
    }
}

#[test]
fn names_are_claimed_and_told_alike_by_every_engine() {
    let place = Place::new();
    let path = place.directory.path().join("ledger");
    let many: Vec<(u8, String)> = (1..40).map(|byte| (byte, format!("node-{byte:02}"))).collect();
    named(&path, &many.iter().map(|(byte, text)| (*byte, text.as_str())).collect::<Vec<_>>());
    let mut alice = place.open("alice", &key(0xa1));
    let mut file = Embedded::open(&path, system_clock()).unwrap();
    let stranger = alice.claim_name(name("roof"), [7; 32]).unwrap_err().refusal();
    assert_eq!(stranger, Some(Refusal::NotMember { account: key(0xa1).node_id() }));
    let mut treasurer = place.open("treasurer", &key(0xee));
    treasurer.order(Command::IssueMembership { to: key(0xa1).node_id(), until: UnixTime::MAX }).unwrap();
    let taken = alice.claim_name(name("node-07"), [7; 32]).unwrap_err().refusal();
    assert_eq!(taken, Some(Refusal::NameTaken { account: key(7).node_id() }));
    alice.claim_name(name("roof"), [7; 32]).unwrap();
    let engines: [&mut dyn Ledger; 2] = [&mut alice, &mut file];
    let told = engines.map(|ledger| {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let page = ledger.names(after).unwrap();
            let Some(last) = page.last() else { break };
            after = Some(last.name);
            all.extend(page);
        }
        (all, ledger.named(name("roof")).unwrap(), ledger.named(name("barn")).unwrap())
    });
    assert_eq!(told[0], told[1]);
    let (all, roof, barn) = &told[0];
    assert_eq!((all.len(), roof.map(|holder| holder.account), *barn), (40, Some(key(0xa1).node_id()), None));
    assert_eq!(alice.account(key(0xa1).node_id()).unwrap().name, Some(name("roof")));
    alice.order(Command::ReleaseName { name: name("roof") }).unwrap();
    assert_eq!(alice.named(name("roof")).unwrap(), None);
}

/// A ledger that proves, by its own signature, that the name "roof" of the account of key 1 is another node's.
fn turns_roof_round(path: &str, body: String) -> String {
    if !path.starts_with("/v1/records") {
        return body;
    }
    let told: ProvenRecords = serde_json::from_str(&body).unwrap();
    let value = told.records[0].value.clone().unwrap();
    let mut holder = NameListing::decode(&value.0).unwrap().0.unwrap();
    holder.wireguard[0] ^= 1;
    let (place, value) = (NameListing::place(&name("roof")), NameListing(Some(holder)).encode());
    let root = root_of(&[Leaf::of(&place, &value)]).hash();
    let origin = told.checkpoint.lines().next().unwrap().to_owned();
    let signer = LogSigner::new(&origin, &SECRET).unwrap();
    let head = checkpoint::verify(&told.checkpoint.parse().unwrap(), signer.key()).unwrap();
    let note = checkpoint::sign_with_records(&signer, &origin, &head, &root).unwrap();
    let mut record = told.records[0].clone();
    (record.value, record.proof) = (Some(HexBytes(value)), Proof::default());
    serde_json::to_string(&ProvenRecords { checkpoint: note.to_string(), records: vec![record], ..told }).unwrap()
}

#[test]
fn a_ledger_gives_no_name_to_a_node_that_its_account_has_not_signed_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = found(directory.path());
    named(&path, &[(1, "roof")]);
    let (_liar, served) = Liar::start(&path, turns_roof_round);
    let mut ledger = Remote::open(served, &directory.path().join("asks")).unwrap();
    for told in [ledger.named(name("roof")).map(drop), ledger.names(None).map(drop)] {
        let error = told.unwrap_err().to_string();
        assert!(error.contains("the name roof to a node that its account has not signed for"), "{error}");
    }

    // Nor of names that nobody has, for ever.
    let made_up: Lie = |path, body| if path.starts_with("/v1/names") { body.replace("roof", "barn") } else { body };
    let (_liar, served) = Liar::start(&path, made_up);
    let mut ledger = Remote::open(served, &directory.path().join("made up")).unwrap();
    let error = ledger.names(None).unwrap_err().to_string();
    assert!(error.contains("its names are not those that were asked for"), "{error}");
    assert_eq!(ledger.named(name("roof")).unwrap().map(|holder| holder.account), Some(key(1).node_id()));
}

#[test]
fn batches_are_cut_to_what_a_server_takes() {
    let place = Place::new();
    let [treasurer, alice] = [0xee, 0xa1].map(key);
    place.open("treasurer", &treasurer).mint(alice.node_id(), tokens(1000)).unwrap();
    let mut alices = place.open("alice", &alice);
    let channel = alices.open_channel(NodeId([0xb0; 20]), tokens(500)).unwrap();
    let domain = alices.domain();
    let receipts: Vec<_> =
        (1..=230).map(|total| Receipt::sign(&alice, &domain, channel, tokens(total), [0; 32])).collect();
    let paid = alices.redeem_many(&receipts).unwrap();
    assert_eq!(paid, vec![Ok(tokens(1)); 230]);
    assert!(matches!(alices.audit().unwrap(), Verdict::Kept { head, .. } if head.size == 233));
}

#[test]
fn who_was_shown_another_log_is_found_out_by_comparing_and_no_tokens_are_locked_there() {
    use ledger_client::Comparison;
    use ledger_client::witness::{Difference, NoEvidence, Shown};

    let place = Place::new();
    let [treasurer, alice] = [0xee, 0xa1].map(key);
    let bob = key(0xb0).node_id();
    let mut ours = place.open("treasurer", &treasurer);
    ours.mint(alice.node_id(), tokens(100)).unwrap();
    // The same ledger, from an early copy, shown to somebody else.
    let elsewhere = tempfile::tempdir().unwrap();
    let copy = elsewhere.path().join("ledger");
    Embedded::open(&place.directory.path().join("ledger"), system_clock()).unwrap().backup(&copy, |_| ()).unwrap();
    let other = Running::start(&copy, None);
    let mut theirs = Remote::open(other.served(), &elsewhere.path().join("treasurer")).unwrap().signed_by(treasurer);
    let mut alices = place.open("alice", &alice);
    alices.balance(bob).unwrap();

    // While one has only not heard of what the other has, nothing is wrong, whoever is ahead.
    let early = alices.newest_checkpoint().unwrap();
    theirs.head().unwrap();
    assert_eq!(theirs.compare(&early, "alice").unwrap(), Comparison::Same);
    ours.mint(bob, tokens(1)).unwrap();
    let ahead = ours.newest_checkpoint().unwrap();
    assert_eq!(alices.compare(&ahead, "the treasurer").unwrap(), Comparison::Same);
    assert_eq!(alices.compare(&early, "somebody").unwrap(), Comparison::Same);
    assert_eq!((alices.evidence().unwrap(), theirs.evidence().unwrap()), (None, None));
    // Nor can a neighbour make an alarm of what the ledger has not signed.
    let foreign = ledger_core::note::NoteSigner::new(place.running().served().key.name(), &[9; 32]).unwrap();
    let head = ledger_core::Head { size: 3, root: ledger_core::Hash([7; 32]) };
    let forged = checkpoint::sign(&foreign, foreign.key().name(), &head).unwrap();
    assert_eq!(alices.compare(&forged, "eve").unwrap(), Comparison::Foreign);

    // The other one is shorter than what we were shown.
    let Comparison::Differ(found) = theirs.compare(&ahead, "ours").unwrap() else { panic!("it is not ahead") };
    assert_eq!(found.difference, Difference::Rewound);
    assert_eq!(theirs.evidence().unwrap().unwrap(), *found);
    // It goes on by itself, to the same size.
    theirs.mint(bob, tokens(2)).unwrap();
    let Comparison::Differ(found) = theirs.compare(&ahead, "ours").unwrap() else { panic!("a fork") };
    assert_eq!(found.difference, Difference::Forked);
    let log = place.running().served().key;
    assert_eq!(found.check(&log), Ok(Shown::Fork { size: 3 }));
    assert_eq!(theirs.evidence().unwrap().unwrap(), *found, "the worse is kept");
    let unsigned = ledger_core::note::NoteKey::from_public(log.name(), foreign.key().public()).unwrap();
    assert_eq!(found.check(&unsigned), Err(NoEvidence::Unsigned { number: 1 }));
    // And longer: ours does not continue it.
    theirs.mint(bob, tokens(2)).unwrap();
    let longer = theirs.newest_checkpoint().unwrap();
    for _ in 0..2 {
        ours.mint(bob, tokens(1)).unwrap();
    }
    let Comparison::Differ(found) = alices.compare(&longer, "theirs").unwrap() else { panic!("another log") };
    assert_eq!(found.difference, Difference::Split);
    assert!(matches!(found.check(&log), Ok(Shown::Sizes(_))));

    // A ledger that answers all but this one question does not get out of it.
    let silent: Lie = |path, body| {
        let busy = || ledger_http::wire::Problem::new(503, "Busy", "ask again");
        if path.starts_with("/v1/growth") { serde_json::to_string(&busy()).unwrap() } else { body }
    };
    let (_liar, served) = Liar::start(&copy, silent);
    let mut carols = Remote::open(served, &elsewhere.path().join("carol")).unwrap();
    carols.head().unwrap();
    for _ in 0..2 {
        carols.compare(&ahead, "ours").unwrap_err();
        // Nor by what others show in between.
        let own = carols.newest_checkpoint().unwrap();
        assert_eq!(carols.compare(&own, "bob").unwrap(), Comparison::Same);
    }
    let Comparison::Differ(found) = carols.compare(&ahead, "ours").unwrap() else { panic!("no proof") };
    assert_eq!(found.difference, Difference::Split);

    // Tokens are not locked; what else there is to do goes on, also after a restart.
    drop(alices);
    let mut alices = place.open("alice", &alice);
    let error = alices.open_channel(bob, tokens(5)).unwrap_err();
    let said = "the ledger does not show that its log continues the one that theirs was shown; no tokens are locked";
    assert!(error.to_string().starts_with(said), "{error}");
    alices.transfer(bob, tokens(5)).unwrap();
    std::fs::remove_file(place.directory.path().join("alice/evidence.json")).unwrap();
    alices.open_channel(bob, tokens(5)).unwrap();
}
