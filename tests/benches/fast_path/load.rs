//! Loads: TCP streams by iperf3, and datagrams at a steady rate.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv6Addr, UdpSocket};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::lab::{Background, Lab, now, secs, until};
use crate::line::Node;

/// TCP streams between two machines.
#[derive(Clone, Copy)]
pub(crate) struct Tcp {
    pub(crate) flows: u32,
    pub(crate) way: Way,
    /// Of each flow; without it, as fast as it goes.
    pub(crate) mbit_per_s: Option<u32>,
    pub(crate) seconds: u32,
}

/// Which way bytes flow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the machine that connects.
    There,
    /// To it.
    Back,
    /// Both at once: as many flows again.
    Both,
}

/// What receivers counted.
#[derive(Clone, Copy)]
pub(crate) struct Received {
    pub(crate) gbytes: f64,
    pub(crate) gbit_per_s: f64,
}

/// What a load brought and what it cost.
pub(crate) struct Carried {
    pub(crate) received: Received,
    /// Seconds of processor time of each machine's program.
    pub(crate) nodes_cpu_s: Vec<f64>,
    /// Seconds of processor time of everything there is.
    pub(crate) machine_cpu_s: f64,
}

/// A load that runs beside a measurement.
pub(crate) struct Running {
    client: Background,
    _server: Background,
    tcp: Tcp,
}

impl Way {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::There => "there",
            Self::Back => "back",
            Self::Both => "both ways",
        }
    }
}

impl Tcp {
    /// One stream, as fast as it goes.
    pub(crate) fn stream(seconds: u32) -> Self {
        Self { flows: 1, way: Way::There, mbit_per_s: None, seconds }
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, lab: &Lab, from: &Node, to: &Node) -> Received {
        self.start(lab, from, to).ended()
    }

    /// Starts it.
    pub(crate) fn start(&self, lab: &Lab, from: &Node, to: &Node) -> Running {
        let (server_log, client_log) = (new_log(lab, "iperf3-server"), new_log(lab, "iperf3-client"));
        let server = to.host.start(&server_log, &["iperf3", "-s", "-1", "-B", &to.address, "--forceflush"]);
        until("iperf3 server", secs(10), || match server.log().contains("Server listening") {
            true => Ok(()),
            false => Err(server.log()),
        });
        let (flows, seconds) = (self.flows.to_string(), self.seconds.to_string());
        let mut line = vec!["iperf3", "-J", "-c", &to.address, "-P", &flows, "-t", &seconds];
        match self.way {
            Way::There => {}
            Way::Back => line.push("-R"),
            Way::Both => line.push("--bidir"),
        }
        let rate = self.mbit_per_s.map(|rate| format!("{rate}M"));
        if let Some(rate) = &rate {
            line.extend(["-b", rate]);
        }
        Running { client: from.host.start(&client_log, &line), _server: server, tcp: *self }
    }
}

impl Running {
    /// Waits for its end. An error of iperf3's is in what it printed.
    pub(crate) fn ended(mut self) -> Received {
        self.client.ended(secs(u64::from(self.tcp.seconds) + 20));
        let said = self.client.log();
        let report: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("iperf3: {error}: {said}"));
        let sum = |way: &str, what: &str| {
            let sum = report["end"][way][what].as_f64();
            sum.filter(|sum| *sum > 0.0).unwrap_or_else(|| panic!("iperf3 has no {way} {what}: {said}"))
        };
        let both = |what| {
            let back = if self.tcp.way == Way::Both { sum("sum_received_bidir_reverse", what) } else { 0.0 };
            sum("sum_received", what) + back
        };
        Received { gbytes: both("bytes") / 1e9, gbit_per_s: both("bits_per_second") / 1e9 }
    }
}

/// A log nothing was written to yet: [`crate::lab::Host::start`] appends.
pub(crate) fn new_log(lab: &Lab, name: &str) -> PathBuf {
    let log = lab.dir().join(name);
    let _ = fs::remove_file(&log);
    log
}

impl Carried {
    /// Seconds of processor time per gigabyte, of the programs on some machines.
    pub(crate) fn cpu_s_per_gb(&self, nodes: impl IntoIterator<Item = usize>) -> f64 {
        nodes.into_iter().map(|at| self.nodes_cpu_s[at]).sum::<f64>() / self.received.gbytes
    }

    /// The same of everything there is, iperf3 and other people's work included.
    pub(crate) fn machine_cpu_s_per_gb(&self) -> f64 {
        self.machine_cpu_s / self.received.gbytes
    }
}

/// The word behind which the bench's own program sends datagrams, in the namespace it is started in.
pub(crate) const SEND: &str = "send-datagrams";

/// The port nobody listens on: the kernel counts what arrives, so that no program has to keep up.
const PORT: u16 = 9;

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
        let payload_len = self.packet_len - 48; // the headers of IPv6 and UDP
        let words = [per_s.to_string(), seconds.to_string(), payload_len.to_string()];
        let said = self.from.host.must(&[bench, SEND, &self.to.address, &words[0], &words[1], &words[2]]);
        let mut numbers = said.split_whitespace();
        let sent = numbers.next().and_then(|sent| sent.parse().ok()).expect("the sender prints a number");
        let seconds = numbers.next().and_then(|seconds| seconds.parse().ok()).expect("the sender prints its time");
        // What waits in queues behind the last one arrives within this time, or is late for any use.
        thread::sleep(Duration::from_millis(200));
        Delivery { sent, arrived: self.arrived() - before, seconds }
    }

    fn arrived(&self) -> u64 {
        let listed = self.to.host.must(&["nft", "-j", "list", "table", "inet", "arrived"]);
        let listed: Value = serde_json::from_str(&listed).expect("nft -j prints JSON");
        let counter = listed["nftables"].as_array().into_iter().flatten().find_map(|entry| {
            entry["rule"]["expr"].as_array()?.iter().find_map(|part| part["counter"]["packets"].as_u64())
        });
        counter.expect("the rule has a counter")
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
