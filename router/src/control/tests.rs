use std::thread;

use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use super::*;

struct Daemon {
    runtime: Runtime,
    directory: TempDir,
    path: PathBuf,
}

fn answer(request: Request) -> Response {
    match request {
        Request::Redeem { neighbour: Some(name) } => Response::Failed(Refusal {
            cause: format!("there is no neighbour {name}"),
            next: Some("see `waybill neighbours`".to_owned()),
        }),
        Request::Wallet => Response::Wallet(wallet()),
        Request::Neighbours => Response::Neighbours(Vec::new()),
        Request::Status
        | Request::Gateway
        | Request::Internet
        | Request::Routes
        | Request::Meters
        | Request::Receipts
        | Request::Redeem { neighbour: None }
        | Request::Reload
        | Request::Why { .. }
        | Request::Close { .. }
        | Request::Statement { .. }
        | Request::Shutdown => Response::Done,
    }
}

fn wallet() -> Wallet {
    Wallet {
        unit: Unit { symbol: "WAY".to_owned(), decimals: 6 },
        community: "Hilltop".to_owned(),
        account: NodeId([1; 20]),
        balance: Tokens::MAX,
        locked_in_channels: Tokens::new(1 << 53).unwrap().checked_add(Tokens::new(1).unwrap()).unwrap(),
        earned_unredeemed: Tokens::ZERO,
        channels: vec![WalletChannel {
            neighbour: "roof".to_owned(),
            channel: ChannelId { payer: NodeId([1; 20]), payee: NodeId([2; 20]), nonce: u64::MAX },
            direction: Direction::WePay,
            deposit: Tokens::MAX,
            redeemed: Tokens::ZERO,
            exit_time_s: None,
        }],
    }
}

/// A daemon that answers until it is dropped.
fn daemon() -> Daemon {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/control.sock");
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let socket = ControlSocket::bind(&path).unwrap();
    runtime.spawn(async move { socket.serve(async |request| answer(request)).await });
    Daemon { runtime, directory, path }
}

/// Sends raw bytes and returns all that comes back.
fn say(path: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = stream.write_all(bytes); // the daemon may hang up first
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    text
}

#[test]
fn a_question_gets_its_answer() {
    let daemon = daemon();
    assert_eq!(ask(&daemon.path, &Request::Neighbours).unwrap(), Response::Neighbours(Vec::new()));
    assert_eq!(ask(&daemon.path, &Request::Wallet).unwrap(), Response::Wallet(wallet()));
    let refused = ask(&daemon.path, &Request::Redeem { neighbour: Some("x".to_owned()) }).unwrap_err();
    assert_eq!(Failure::from(refused).to_string(), "error: there is no neighbour x\n  see `waybill neighbours`");
}

#[test]
fn one_client_may_ask_many_questions() {
    let daemon = daemon();
    let said = say(&daemon.path, b"{\"request\":\"reload\"}\n{\"request\":\"neighbours\"}\n");
    assert_eq!(said, "{\"answer\":\"done\"}\n{\"answer\":\"neighbours\",\"value\":[]}\n");
}

#[test]
fn amounts_are_strings_so_that_no_unit_is_lost() {
    let json = serde_json::to_string(&wallet()).unwrap();
    assert!(json.contains("\"balance\":\"79228162514264337593543950335\""), "{json}");
    assert!(json.contains("\"locked_in_channels\":\"9007199254740993\""), "{json}");
    assert!(json.contains("\"nonce\":\"18446744073709551615\""), "{json}");
    assert_eq!(serde_json::from_str::<Wallet>(&json).unwrap(), wallet());
    let broken = json.replace("79228162514264337593543950335", "79228162514264337593543950336");
    assert!(serde_json::from_str::<Wallet>(&broken).is_err(), "2^96 is no amount");
    let broken = json.replace("\"9007199254740993\"", "9007199254740993");
    assert!(serde_json::from_str::<Wallet>(&broken).is_err(), "a number is no amount");
}

#[test]
fn what_is_no_request_is_answered_by_name_and_hung_up_on() {
    let daemon = daemon();
    for bytes in [
        &b"\n"[..],
        b"hello\n",
        b"{\"request\":\"fly\"}\n",
        b"{\"request\":\"redeem\",\"neighbor\":\"roof\"}\n", // would redeem from everybody
        b"{\"request\":\"redeem\",\"neighbour\":7}\n",
        b"\xff\xfe\n",
    ] {
        let said = say(&daemon.path, &[bytes, b"{\"request\":\"reload\"}\n"].concat());
        assert!(said.starts_with("{\"answer\":\"failed\",\"value\":{\"cause\":\"this is no request: "), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    assert!(say(&daemon.path, b"{\"request\":\"status\"}").contains("a line of at most"), "no newline, no request");
    let endless = vec![b'['; 1 << 20];
    let said = say(&daemon.path, &endless);
    assert!(said.is_empty() || said.contains("at most 65,536 bytes"), "{said}");
    assert!(ask(&daemon.path, &Request::Reload).is_ok(), "the daemon is well");
}

#[test]
fn many_clients_take_turns() {
    let daemon = daemon();
    let idle: Vec<_> = (0..CLIENTS_MAX - 1).map(|_| UnixStream::connect(&daemon.path).unwrap()).collect();
    let path = &daemon.path;
    thread::scope(|scope| {
        for _ in 0..3 * CLIENTS_MAX {
            scope.spawn(move || ask(path, &Request::Wallet).unwrap());
        }
    });
    drop(idle);
}

#[test]
fn only_the_owner_can_connect_and_nothing_is_left_behind() {
    let daemon = daemon();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(&daemon.path), 0o600);
    assert_eq!(mode(daemon.path.parent().unwrap()) & 0o007, 0);
    let Daemon { runtime, directory, path } = daemon;
    drop(runtime);
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
    drop(directory);
}

#[test]
fn a_socket_left_behind_is_replaced_and_one_in_use_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    drop(UnixListener::bind(&path).unwrap()); // the file stays, nobody listens
    let first = ControlSocket::bind(&path).unwrap();
    let second = ControlSocket::bind(&path).unwrap_err();
    assert!(matches!(second, BindError::InUse { .. }), "{second}");
    assert!(path.exists());

    fs::remove_file(&path).unwrap();
    let successor = ControlSocket::bind(&path).unwrap();
    drop(first);
    assert!(path.exists(), "the successor's socket is not the first one's to remove");
    drop(successor);
    assert!(!path.exists());
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    fs::write(&path, "precious").unwrap();
    let error = ControlSocket::bind(&path).unwrap_err();
    assert_eq!(error.to_string(), format!("{} is not a socket", path.display()));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    let error = ControlSocket::bind(Path::new("/proc/waybill/control.sock")).unwrap_err();
    assert!(matches!(error, BindError::Io { .. }), "{error}");
}

#[test]
fn a_silent_or_absent_or_foreign_daemon_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("control.sock");
    let patience = Duration::from_millis(50);
    let fails = |path: &Path| {
        let failure = Failure::from(ask_within(patience, path, &Request::Status).unwrap_err());
        failure.to_string().replace(&path.display().to_string(), "SOCKET")
    };
    assert_eq!(
        fails(&path),
        "error: no waybill is running at SOCKET\n  \
         start it with `waybill up --config FILE`, or name its socket with --socket PATH"
    );
    let listener = UnixListener::bind(&path).unwrap();
    assert!(fails(&path).starts_with("error: the waybill at SOCKET does not answer\n"));
    let foreigner = thread::spawn(move || {
        listener.accept().unwrap(); // the silent question from before
        listener.accept().unwrap().0.write_all(b"HTTP/1.1 400 Bad Request\n").unwrap();
    });
    let failure = fails(&path);
    assert!(failure.contains("does not understand"), "{failure}");
    foreigner.join().unwrap();
    drop(fs::remove_file(&path));
    fs::write(&path, "").unwrap();
    assert!(fails(&path).starts_with("error: no waybill is running at SOCKET\n"));
}

/// All answers with their names; the compiler misses those that are forgotten here.
macro_rules! names {
    ($($variant:ident $name:literal,)*) => {
        const NAMES: &[&str] = &[$($name),*];
        fn name(response: &Response) -> &'static str {
            match response {
                $(Response::$variant { .. } => $name,)*
            }
        }
    };
}
names! {
    Status "status", Neighbours "neighbours", Routes "routes", Meters "meters", Why "why", Statement "statement",
    Receipts "receipts", Redeemed "redeemed", Closed "closed", Wallet "wallet", Gateway "gateway", Internet "internet",
    Reloaded "reloaded", Done "done", Failed "failed",
}

#[test]
fn every_answer_is_read_by_its_name() {
    let read = |json: &str| serde_json::from_str::<Response>(json).map_err(|error| error.to_string());
    for name in NAMES.iter().filter(|name| **name != "done") {
        let refused = read(&format!("{{\"answer\":\"{name}\",\"value\":0}}")).unwrap_err();
        assert!(!refused.contains("is called"), "{name}: {refused}");
        assert!(read(&format!("{{\"answer\":\"{name}\"}}")).unwrap_err().contains("value"), "{name}");
    }
    let refusal = Refusal { cause: "c".to_owned(), next: None };
    let all = [
        Response::Neighbours(Vec::new()),
        Response::Wallet(wallet()),
        Response::Gateway(Box::default()),
        Response::Internet(Box::default()),
        Response::Reloaded(Reloaded::default()),
        Response::Done,
        Response::Failed(refusal),
    ];
    for response in all {
        let json = serde_json::to_string(&response).unwrap();
        assert!(json.starts_with(&format!("{{\"answer\":\"{}\"", name(&response))), "{json}");
        // What a later daemon adds is passed over.
        let longer = format!("{},\"more\":[1,{{}}]}}", json.strip_suffix('}').unwrap());
        assert_eq!((read(&json), read(&longer)), (Ok(response.clone()), Ok(response)));
    }
    for none in
        ["{}", "[]", "{\"value\":[],\"answer\":\"neighbours\"}", "{\"answer\":\"tea\",\"value\":0}", "{\"answer\":1}"]
    {
        assert!(read(none).is_err(), "{none}");
    }
}
