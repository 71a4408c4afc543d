//! Traffic, made and measured by other people's tools.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::lab::{Background, Host, Lab, now, said, secs, until};

/// Ports of the servers below.
const HTTP_PORT: &str = "8080";

/// Sends datagrams as they are; Python, because it is on every machine the tests install themselves on.
const SEND_DATAGRAMS: &str = include_str!("send_datagrams.py");

/// What a file is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
}

/// What arrived of what `ping` sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pings {
    pub(crate) sent: u32,
    pub(crate) answered: u32,
}

/// A file of random bytes and the server that offers it.
pub(crate) struct WebServer {
    server: Background,
    url: String,
    pub(crate) content: Content,
}

/// A `ping` that goes on, to see for how long nothing came back.
pub(crate) struct Pulse {
    ping: Background,
    interval: Duration,
}

/// Sends `count` pings, ten a second, with what `more` options ask for.
pub(crate) fn ping(from: &Host, to: &str, count: u32, more: &[&str]) -> Result<Pings, String> {
    let (count, deadline) = (count.to_string(), (count / 10 + 5).to_string());
    let mut line = vec!["ping", "-6", "-q", "-i", "0.1", "-W", "2", "-c", &count, "-w", &deadline];
    line.extend(more);
    line.push(to);
    let output = from.bounded(secs(60), line[0]).args(&line[1..]).output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let numbers = text.lines().find(|line| line.contains("packets transmitted")).map(|line| {
        let mut words = line.split(' ').filter_map(|word| word.parse::<u32>().ok());
        (words.next(), words.next())
    });
    match numbers {
        Some((Some(sent), Some(answered))) => Ok(Pings { sent, answered }),
        Some(_) | None => Err(format!("{line:?}: {text}{}", String::from_utf8_lossy(&output.stderr))),
    }
}

/// Round trips of so many pings, twenty a second: the median and the worst. A lost one took a second.
pub(crate) fn round_trips(from: &Host, to: &str, count: u32) -> (Duration, Duration) {
    let count_text = count.to_string();
    let line = ["ping", "-6", "-n", "-i", "0.05", "-W", "1", "-c", &count_text, to];
    let output = from.bounded(secs(60), line[0]).args(&line[1..]).output().expect("ping starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let times = text.lines().filter_map(|line| line.split_once("time=")?.1.split(' ').next()?.parse::<f64>().ok());
    let mut times: Vec<_> = times.map(|ms| Duration::from_secs_f64(ms / 1000.0)).collect();
    times.resize(times.len().max(count as usize), secs(1));
    times.sort_unstable();
    (times[times.len() / 2], times[times.len() - 1])
}

/// Waits until a ping is answered: there is a way there and back.
pub(crate) fn reachable(from: &Host, to: &str, patience: Duration) {
    until(&format!("answer from {to}"), patience, || match ping(from, to, 1, &[])? {
        Pings { answered: 0, .. } => Err("no answer".to_owned()),
        Pings { .. } => Ok(()),
    });
}

impl WebServer {
    /// Offers a file of random bytes at an address of `host`.
    pub(crate) fn start(lab: &Lab, host: &Host, address: &str, bytes: u64) -> Self {
        let dir = lab.dir().join(format!("web-{}", address.replace(':', "_")));
        fs::create_dir(&dir).expect("a new directory");
        let content = write_random(&dir.join("file"), bytes);
        let log = dir.with_extension("log");
        let directory = dir.to_str().expect("a path of ASCII");
        let line = ["python3", "-u", "-m", "http.server", HTTP_PORT, "--bind", address, "--directory", directory];
        let mut server = host.start(&log, &line);
        until("web server", secs(20), || match server.log().contains("Serving HTTP") {
            true => Ok(()),
            false if server.is_running() => Err("starting".to_owned()),
            false => Err(format!("it ended: {}", server.log())),
        });
        Self { server, url: format!("http://[{address}]:{HTTP_PORT}/file"), content }
    }

    /// Downloads the file with curl and takes its hash as it comes; `more` are options of curl.
    pub(crate) fn fetch(&self, from: &Host, more: &[&str]) -> Result<(Content, Duration), String> {
        let line = ["curl", "-sSfg", "--connect-timeout", "10", &self.url];
        let began = now();
        // 5 MB/s is less than what any of them reaches.
        let mut command = from.bounded(secs(120 + self.content.bytes / 5_000_000), line[0]);
        command.args(&line[1..]).args(more).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        let content = content_of(child.stdout.take().expect("stdout is piped"))?;
        let output = child.wait_with_output().map_err(|error| error.to_string())?;
        said(&line, &output)?;
        Ok((content, began.elapsed()))
    }

    /// Downloads the file, which has to arrive as it is, and returns how long that took.
    pub(crate) fn must_fetch(&self, from: &Host) -> Duration {
        self.must_fetch_with(from, &[])
    }

    /// Downloads the file at 4 MB/s, so that no queue on the way overflows: what is sent once is carried once.
    pub(crate) fn must_fetch_gently(&self, from: &Host) {
        self.must_fetch_with(from, &["--limit-rate", "4M"]);
    }

    fn must_fetch_with(&self, from: &Host, more: &[&str]) -> Duration {
        let (arrived, took) = self.fetch(from, more).unwrap_or_else(|error| panic!("{error}\n{}", self.server.log()));
        assert_eq!(arrived, self.content, "another file arrived than was sent");
        took
    }
}

impl Pulse {
    /// Pings five times a second.
    pub(crate) fn start(lab: &Lab, from: &Host, to: &str) -> Self {
        let log = lab.dir().join(format!("ping-{}.log", to.replace(':', "_")));
        let _ = fs::remove_file(&log);
        let ping = from.start(&log, &["ping", "-6", "-n", "-i", "0.2", to]);
        Self { ping, interval: Duration::from_millis(200) }
    }

    fn answers(&self) -> Vec<u32> {
        let number = |line: &str| line.split_once("icmp_seq=")?.1.split(' ').next()?.parse().ok();
        let log = self.ping.log();
        log.lines().filter(|line| line.contains("bytes from")).filter_map(number).collect()
    }

    /// How many pings were answered.
    pub(crate) fn answered(&self) -> usize {
        self.answers().len()
    }

    /// Waits for so many more answers.
    pub(crate) fn must_be_answered(&self, more: usize) {
        let before = self.answered();
        until("answers", secs(20), || match self.answered() - before {
            seen if seen >= more => Ok(()),
            seen => Err(format!("{seen}")),
        });
    }

    /// The longest time without an answer, as far as pings have been answered since.
    pub(crate) fn longest_silence(&self) -> Duration {
        let answers = self.answers();
        let lost = answers.windows(2).map(|pair| pair[1].saturating_sub(pair[0]).saturating_sub(1));
        self.interval * lost.max().unwrap_or(0)
    }

    /// How many pings between the first and the last answer went without one.
    pub(crate) fn lost(&self) -> u32 {
        let answers = self.answers();
        answers.windows(2).map(|pair| pair[1].saturating_sub(pair[0]).saturating_sub(1)).sum()
    }
}

/// Runs iperf3 for so many seconds and returns bits per second, as the receiver counted.
pub(crate) fn iperf(lab: &Lab, from: &Host, to: &Host, address: &str, seconds: u32) -> f64 {
    let report = iperf_report(lab, from, to, address, &[], seconds);
    report["end"]["sum_received"]["bits_per_second"].as_f64().unwrap_or_else(|| panic!("no rate in {report}"))
}

/// Runs iperf3 over UDP for so many seconds, and returns how many datagrams were sent and how many were lost.
pub(crate) fn iperf_udp(lab: &Lab, from: &Host, to: &Host, address: &str, more: &[&str], seconds: u32) -> (u64, u64) {
    let report = iperf_report(lab, from, to, address, &[&["-u"], more].concat(), seconds);
    let count = |name: &str| report["end"]["sum"][name].as_u64().unwrap_or_else(|| panic!("no {name} in {report}"));
    (count("packets"), count("lost_packets"))
}

fn iperf_report(lab: &Lab, from: &Host, to: &Host, address: &str, more: &[&str], seconds: u32) -> Value {
    // Where packets are lost, the one that begins a UDP stream may be: iperf3 gives up then, and has measured nothing.
    let reports = (0..4).find_map(|_| match try_iperf(lab, from, to, address, more, seconds) {
        Err(error) if error.contains("unable to read from stream socket") => None,
        report => Some(report.unwrap_or_else(|error| panic!("{error}"))),
    });
    reports.expect("one of four streams begins")
}

fn try_iperf(lab: &Lab, from: &Host, to: &Host, address: &str, more: &[&str], seconds: u32) -> Result<Value, String> {
    let log = lab.dir().join("iperf3.log");
    let _ = fs::remove_file(&log);
    let server = to.start(&log, &["iperf3", "-s", "-1", "-B", address, "--forceflush"]);
    until("iperf3 server", secs(10), || {
        if server.log().contains("Server listening") { Ok(()) } else { Err(server.log()) }
    });
    let text = seconds.to_string();
    let mut line = vec!["iperf3", "-c", address, "-t", &text, "-J"];
    line.extend(more);
    let output = from.bounded(secs(u64::from(seconds) + 30), line[0]).args(&line[1..]).output().expect("iperf3 starts");
    let report: Value = serde_json::from_str(&said(&line, &output)?).expect("iperf3 -J prints JSON");
    match report["error"].as_str() {
        Some(error) => Err(error.to_owned()),
        None => Ok(report),
    }
}

/// Sends UDP datagrams to a port, so many a second.
pub(crate) fn send_datagrams(from: &Host, to: (&str, u16), from_port: u16, rate: u32, datagrams: &[Vec<u8>]) {
    let (address, port) = to;
    let line = ["python3", "-c", SEND_DATAGRAMS, address, &port.to_string(), &from_port.to_string(), &rate.to_string()];
    let mut command = from.bounded(secs(120), line[0]);
    command.args(&line[1..]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("python3 starts");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    for datagram in datagrams {
        let length = u16::try_from(datagram.len()).expect("a datagram");
        let written = stdin.write_all(&length.to_be_bytes()).and_then(|()| stdin.write_all(datagram));
        if written.is_err() {
            break; // it ended early, and says below why
        }
    }
    drop(stdin);
    let output = child.wait_with_output().expect("python3 ends");
    assert!(output.status.success(), "sending to {address}: {}", String::from_utf8_lossy(&output.stderr));
}

fn write_random(path: &Path, bytes: u64) -> Content {
    let mut random = fastrand::Rng::with_seed(bytes);
    let mut file = File::create(path).expect("a new file");
    let mut hash = Sha256::new();
    let mut left = bytes;
    let mut block = vec![0; 1 << 20];
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
        random.fill(&mut block[..part]);
        hash.update(&block[..part]);
        file.write_all(&block[..part]).expect("room for the file");
        left -= part as u64;
    }
    Content { bytes, sha256: hexadecimal(&hash.finalize()) }
}

fn content_of(mut source: impl std::io::Read) -> Result<Content, String> {
    let mut hash = Sha256::new();
    let mut bytes = 0;
    let mut block = vec![0; 1 << 16];
    loop {
        match source.read(&mut block).map_err(|error| error.to_string())? {
            0 => return Ok(Content { bytes, sha256: hexadecimal(&hash.finalize()) }),
            count => {
                hash.update(&block[..count]);
                bytes += count as u64;
            }
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Megabits per second.
pub(crate) fn mbit_per_s(bytes: u64, took: Duration) -> f64 {
    bytes as f64 * 8e-6 / took.as_secs_f64()
}
