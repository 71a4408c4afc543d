//! Strangers who begin handshakes, of QUIC or WireGuard, thousands a second, from addresses that are not theirs.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Child, Stdio};
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use boringtun::noise::{Tunn, TunnResult};
use quinn::crypto::rustls::QuicClientConfig;
use serde_json::Value;
use x25519_dalek::{PublicKey, StaticSecret};

use crate::lab::{Host, Lab, now, secs, until};
use crate::ledger::Ledger;
use crate::router::{Joint, PAYS, QUIC_PORT, Router, WIREGUARD_PORT, joined, paying_pair, settled};
use crate::traffic::{iperf, reachable};

/// A second. Of so many bytes each, that is 100 Mbit/s.
const RATE: u32 = 10_000;
const SECONDS: u32 = 2;
/// Different ones, again and again.
const HANDSHAKES: usize = 100;
/// With so many of each kind.
const ROUNDS: usize = 3;
/// What the flood may cost in memory: nothing is kept of a handshake before the sender has shown that it hears us.
const RSS_GROWTH_KIB_MAX: u64 = 8 << 10;

/// Sends as root from any address; Python, because it is on every machine the tests install themselves on.
const SPOOF_DATAGRAMS: &str = include_str!("spoof_datagrams.py");

#[test]
fn a_flood_of_handshakes_from_spoofed_addresses_leaves_a_paying_quic_link_at_work() {
    let name = "a_flood_of_handshakes_from_spoofed_addresses_leaves_a_paying_quic_link_at_work";
    flooded(name, "quic", QUIC_PORT, |_| initials(), 0.25);
}

/// All of them have the right first MAC, which takes nothing but the router's public key.
#[test]
fn a_flood_of_initiations_from_spoofed_addresses_leaves_a_paying_wireguard_link_at_work() {
    let name = "a_flood_of_initiations_from_spoofed_addresses_leaves_a_paying_wireguard_link_at_work";
    flooded(name, "wireguard", WIREGUARD_PORT, |router| initiations(&router.wireguard_key), 0.8);
}

/// The same flood at a port nobody listens on takes the same time of the machine: the ratio is what answering costs. Who is honest
/// and begins in the midst of it is let in.
fn flooded(
    name: &'static str,
    link: &'static str,
    port: u16,
    handshakes: impl FnOnce(&Router) -> Vec<Vec<u8>>,
    keeps: f64,
) {
    let Some(mut lab) = Lab::open(name, &["ping", "iperf3", "python3", "nft"]) else { return };
    let ledger = Ledger::create(&lab);
    let [r1, r2] = &mut paying_pair(&mut lab, &ledger, ("1", 1000), Joint { link, ..PAYS });
    let stranger = lab.host("stranger");
    let (at, to_stranger) = lab.cable(&r2.host, &stranger);
    // Answers find their way to whoever was named, which they would not behind a filter of sources.
    r2.host.must(&["ip", "route", "add", "default", "via", &to_stranger]);
    let count = format!("udp sport {port} counter name answers");
    stranger.must(&[
        "nft",
        &format!("table inet seen {{ counter answers {{ }}; chain prerouting {{ type filter hook prerouting priority 0; {count}; }}; }}"),
    ]);
    [&mut *r1, &mut *r2].into_iter().for_each(Router::start);
    joined(r1, r2);
    reachable(&r1.host, &r2.address, secs(20));
    let handshakes = handshakes(r2);
    iperf(&lab, &r1.host, &r2.host, &r2.address, 1);

    let rss_before = r2.process().rss_kib();
    let (mut rates, mut sent) = ([Vec::new(), Vec::new()], 0);
    for _ in 0..ROUNDS {
        for (at_port, rates) in [9, port].into_iter().zip(&mut rates) {
            let flood = flood(&stranger, &at, at_port, &handshakes);
            rates.push(iperf(&lab, &r1.host, &r2.host, &r2.address, SECONDS) / 1e6);
            let output = flood.wait_with_output().expect("python3 ends");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let count: u64 = String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number");
            sent += if at_port == port { count } else { 0 };
        }
    }
    let grown = r2.process().rss_kib().saturating_sub(rss_before);
    let [beside, under] = rates.each_ref().map(|rates| {
        let mut sorted = rates.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[ROUNDS / 2]
    });
    let answers = answers(&stranger);
    let receipt = settled(r1, r2);
    r1.kill();
    let flood = flood(&stranger, &at, port, &handshakes);
    r1.start();
    let began = now();
    reachable(&r1.host, &r2.address, secs(10));
    let back = began.elapsed();
    assert!(flood.wait_with_output().expect("python3 ends").status.success());
    lab.figures(&format!(
        "{sent} handshakes at {RATE}/s, {answers} answers; {under:.0} Mbit/s under the flood, {beside:.0} beside one at another \
         port (x{:.2}): {rates:.0?}; +{grown} KiB; a router that starts in the midst of it is there after {:.1} s",
        under / beside,
        back.as_secs_f64(),
    ));
    assert!(answers * 2 > sent, "{answers} of {sent} were taken for handshakes");
    assert!(under > beside * keeps, "{rates:?}");
    assert!(grown <= RSS_GROWTH_KIB_MAX, "+{grown} KiB");
    assert!(receipt.amount > 0);
    let line = r2.neighbour("r1").expect("a neighbour");
    assert_eq!(line["state"], "up");
}

/// First datagrams of so many honest handshakes, caught before they went anywhere.
fn initials() -> Vec<Vec<u8>> {
    let catcher = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    catcher.set_read_timeout(Some(secs(5))).expect("a time");
    let to = catcher.local_addr().expect("an address");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("a suite")));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let _inside = runtime.enter();
    let endpoint = quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).expect("a socket");
    let (mut caught, mut known, mut buffer) = (Vec::new(), BTreeSet::new(), [0; 2048]);
    while caught.len() < HANDSHAKES {
        let connecting = endpoint.connect_with(config.clone(), to, "nobody").expect("a dial");
        until("Initial", secs(10), || {
            let len = catcher.recv(&mut buffer).map_err(|error| error.to_string())?;
            // A long header of an Initial, and behind version and length the connection's name (RFC 9000, section 17.2.2).
            let is_initial = len >= 1200 && buffer[0] & 0xf0 == 0xc0;
            let id = buffer[6..6 + usize::from(buffer[5]).min(20)].to_vec();
            if !is_initial || !known.insert(id) {
                return Err("another".to_owned());
            }
            caught.push(buffer[..len].to_vec());
            Ok(())
        });
        drop(connecting);
    }
    caught
}

/// Of as many who know the router's key and are known to nobody.
fn initiations(to: &str) -> Vec<Vec<u8>> {
    let to: [u8; 32] = BASE64_STANDARD.decode(to).expect("base64").try_into().expect("a key");
    let each = |number: usize| {
        let mut secret = [7; 32];
        secret[..8].copy_from_slice(&number.to_le_bytes());
        let secret = StaticSecret::from(secret);
        let mut buffer = [0; 148];
        let mut tunnel = Tunn::new(secret, PublicKey::from(to), None, None, 0, None);
        let TunnResult::WriteToNetwork(initiation) = tunnel.format_handshake_initiation(&mut buffer, false) else {
            panic!("a new tunnel begins a handshake");
        };
        initiation.to_vec()
    };
    (0..HANDSHAKES).map(each).collect()
}

fn flood(from: &Host, to: &str, port: u16, datagrams: &[Vec<u8>]) -> Child {
    let (port, rate, seconds) = (port.to_string(), RATE.to_string(), (SECONDS + 1).to_string());
    let mut command = from.bounded(secs(60), "python3");
    command.args(["-c", SPOOF_DATAGRAMS, to, &port, &rate, &seconds]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("python3 starts");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    for datagram in datagrams {
        let length = u16::try_from(datagram.len()).expect("a datagram");
        stdin.write_all(&length.to_be_bytes()).and_then(|()| stdin.write_all(datagram)).expect("python3 reads");
    }
    child
}

fn answers(host: &Host) -> u64 {
    let said = host.must(&["nft", "-j", "list", "counter", "inet", "seen", "answers"]);
    let said: Value = serde_json::from_str(&said).expect("nft -j prints JSON");
    let counters = said["nftables"].as_array().into_iter().flatten();
    counters.filter_map(|line| line["counter"]["packets"].as_u64()).sum()
}
