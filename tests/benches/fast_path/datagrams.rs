//! Datagrams at a steady rate: sent by the bench's own program in the sender's namespace, counted by the receiver's kernel.

use std::io::ErrorKind;
use std::net::{Ipv6Addr, UdpSocket};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::lab::now;
use crate::line::Node;

/// The word behind which the bench's own program sends datagrams, in the namespace it is started in.
pub(crate) const SEND: &str = "send-datagrams";

/// The port nobody listens on: the kernel counts what arrives, so that no program has to keep up.
const PORT: u16 = 9;

/// Of IPv6 and UDP.
const HEADERS_LEN: usize = 48;

/// How many datagrams of a late sender follow each other at once: what is due after the kernel's shortest sleep.
const BURST: f64 = 64.0;

/// A rate no sender reaches.
pub(crate) const FLOOD: f64 = 1e9;

/// Datagrams of one length.
pub(crate) struct Datagrams<'a> {
    pub(crate) from: &'a Node,
    pub(crate) to: &'a Node,
    /// Bytes of an IPv6 packet.
    pub(crate) packet_len: usize,
}

/// How many were sent and how many arrived.
#[derive(Clone, Copy)]
pub(crate) struct Delivery {
    pub(crate) sent: u64,
    pub(crate) arrived: u64,
    pub(crate) seconds: f64,
}

impl Delivery {
    pub(crate) fn loss(&self) -> f64 {
        1.0 - self.arrived as f64 / self.sent as f64
    }

    pub(crate) fn arrived_per_s(&self) -> f64 {
        self.arrived as f64 / self.seconds
    }

    pub(crate) fn sent_per_s(&self) -> f64 {
        self.sent as f64 / self.seconds
    }
}

impl<'a> Datagrams<'a> {
    /// Gets both machines ready.
    pub(crate) fn new(from: &'a Node, to: &'a Node, packet_len: usize) -> Self {
        let rule = format!("udp dport {PORT} ip6 daddr {} counter drop", to.address);
        let table = format!("table inet arrived {{ chain input {{ type filter hook input priority 0; {rule}; }}; }}");
        to.host.must(&["nft", &format!("table inet arrived; delete table inet arrived; {table}")]);
        Self { from, to, packet_len }
    }

    /// Sends so many a second.
    pub(crate) fn send(&self, per_s: f64, seconds: f64) -> Delivery {
        let before = self.arrived();
        let bench = std::env::current_exe().expect("a running program has a path");
        let bench = bench.to_str().expect("a path of ASCII");
        let words = [per_s.to_string(), seconds.to_string(), self.payload_len().to_string()];
        let said = self.from.host.must(&[bench, SEND, &self.to.address, &words[0], &words[1], &words[2]]);
        let mut numbers = said.split_whitespace();
        let sent = numbers.next().and_then(|sent| sent.parse().ok()).expect("the sender prints a number");
        let seconds = numbers.next().and_then(|seconds| seconds.parse().ok()).expect("the sender prints its time");
        // What waits in queues behind the last one arrives within this time, or is late for any use.
        thread::sleep(Duration::from_millis(200));
        Delivery { sent, arrived: self.arrived() - before, seconds }
    }

    fn payload_len(&self) -> usize {
        self.packet_len - HEADERS_LEN
    }

    /// The kernel counts datagrams that came joined as one packet, with all their payloads behind one pair of headers.
    fn arrived(&self) -> u64 {
        let listed = self.to.host.must(&["nft", "-j", "list", "table", "inet", "arrived"]);
        let listed: Value = serde_json::from_str(&listed).expect("nft -j prints JSON");
        let counter = listed["nftables"].as_array().into_iter().flatten().find_map(|entry| {
            entry["rule"]["expr"].as_array()?.iter().find_map(|part| {
                let counted = |what| part["counter"][what].as_u64();
                Some((counted("packets")?, counted("bytes")?))
            })
        });
        let (packets, bytes) = counter.expect("the rule has a counter");
        (bytes - packets * HEADERS_LEN as u64) / self.payload_len() as u64
    }
}

/// What the bench does behind [`SEND`]: sends at a steady rate, and prints how many went out and in how many seconds.
///
/// What it cannot send in time is not made up for later: a sender slower than the rate asked for sends what it can.
pub(crate) fn send_datagrams(words: &[String]) -> Result<String, String> {
    let [to, per_s, seconds, payload_len] = words else { return Err(format!("{SEND}: {words:?}")) };
    let number = |word: &String| word.parse::<f64>().map_err(|error| format!("{word}: {error}"));
    let (per_s, seconds) = (number(per_s)?, number(seconds)?);
    let to: Ipv6Addr = to.parse().map_err(|error| format!("{to}: {error}"))?;
    let payload = vec![0x5a; payload_len.parse().map_err(|error| format!("{payload_len}: {error}"))?];
    let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).map_err(|error| error.to_string())?;
    socket.connect((to, PORT)).map_err(|error| error.to_string())?;
    let began = now();
    let mut sent = 0;
    let mut due = 0.0;
    let mut last = 0.0;
    loop {
        let at = began.elapsed().as_secs_f64();
        if at >= seconds {
            return Ok(format!("{sent} {at}"));
        }
        due = (due + (at - last) * per_s).min(BURST);
        last = at;
        if due < 1.0 {
            thread::sleep(Duration::from_micros(20));
        }
        while due >= 1.0 {
            match socket.send(&payload) {
                Ok(_) => sent += 1,
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(format!("sending to {to}: {error}")),
            }
            due -= 1.0;
        }
    }
}
