//! What tcpdump saw: a capture made by someone else's tool, and a reader of its file.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::lab::{Background, Host, Lab, secs, until};

/// `LINKTYPE_RAW`, an IP packet without anything before it: what a TUN device carries.
const RAW: u32 = 101;
/// `LINKTYPE_ETHERNET`.
const ETHERNET: u32 = 1;

/// Bytes kept of a packet. The kernel's ring has a slot of this size for each, so that a small one holds many.
const KEPT: &str = "1600";

/// A capture that is being made.
pub(crate) struct Capture {
    tcpdump: Background,
    file: PathBuf,
}

/// The captured packets, in order.
#[derive(Debug)]
pub(crate) struct Captured {
    pub(crate) packets: Vec<Packet>,
}

/// One packet, from the IP header on.
#[derive(Debug)]
pub(crate) struct Packet {
    /// How long it was.
    pub(crate) length: u64,
    /// As much of it as was kept.
    pub(crate) bytes: Vec<u8>,
}

impl Capture {
    /// Captures what passes a device and matches the filter.
    pub(crate) fn start(lab: &Lab, host: &Host, device: &str, filter: &str) -> Self {
        let file = lab.dir().join(format!("{device}-{}.pcap", filter.replace([' ', ':', '/'], "_")));
        let log = file.with_extension("log");
        let _ = fs::remove_file(&log);
        let path = file.to_str().expect("a path of ASCII");
        let mut tcpdump = host.start(
            &log,
            &[
                "tcpdump",
                "-i",
                device,
                "-n",
                "-s",
                KEPT,
                "-B",
                "16384",
                "--immediate-mode",
                "-U",
                "-Z",
                "root",
                "-w",
                path,
                filter,
            ],
        );
        until("capture", secs(10), || match tcpdump.log() {
            log if log.contains("listening on") => Ok(()),
            log if tcpdump.is_running() => Err(log),
            log => panic!("tcpdump ended: {log}"),
        });
        Self { tcpdump, file }
    }

    /// Ends the capture. It has to be whole.
    pub(crate) fn end(mut self) -> Captured {
        let mut length = None;
        until("quiet in the capture", secs(20), || {
            let before = length.replace(fs::metadata(&self.file).map_or(0, |file| file.len()));
            thread::sleep(Duration::from_millis(300));
            if before == length { Ok(()) } else { Err(format!("{length:?} bytes and growing")) }
        });
        self.tcpdump.signal("INT");
        self.tcpdump.ended(secs(10));
        let log = self.tcpdump.log();
        let count = |of: &str| log.lines().find_map(|line| line.strip_suffix(of)?.parse::<u64>().ok());
        let whole = count(" packets captured") == count(" packets received by filter")
            && count(" packets dropped by kernel") == Some(0);
        assert!(whole, "the capture is not whole: {log}");
        Captured { packets: packets(&fs::read(&self.file).expect("tcpdump wrote a file")) }
    }
}

impl Captured {
    /// What all these packets are billed as: each one the length of the WireGuard message that carries it. What is longer
    /// than the MTU passed the device as one, and the link as TCP segments of full size.
    pub(crate) fn billed(&self, mtu: u64) -> u64 {
        let billed = |length: u64| 32 + 16 * length.div_ceil(16);
        let all = self.packets.iter().map(|packet| {
            if packet.length <= mtu {
                return billed(packet.length);
            }
            assert_eq!(packet.bytes[6], 6, "only TCP is longer than the MTU");
            let headers = 40 + u64::from(packet.bytes[52] >> 4) * 4;
            let (payload, size) = (packet.length - headers, mtu - headers);
            let rest = payload % size;
            payload / size * billed(mtu) + if rest > 0 { billed(headers + rest) } else { 0 }
        });
        all.sum()
    }

    /// What the captured UDP datagrams over IPv4 carry.
    pub(crate) fn udp_payloads(&self) -> Vec<Vec<u8>> {
        self.packets.iter().map(|packet| packet.bytes[28..].to_vec()).collect()
    }
}

/// Reads a capture file: 24 bytes of header, then 16 bytes before each packet.
fn packets(file: &[u8]) -> Vec<Packet> {
    let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().expect("four bytes"));
    assert_eq!(word(0), 0xa1b2_c3d4, "a capture file of this machine's byte order");
    let link_header = match word(20) {
        RAW => 0,
        ETHERNET => 14,
        other => panic!("link type {other}"),
    };
    let mut packets = Vec::new();
    let mut at = 24;
    while at < file.len() {
        let (kept, length) = (word(at + 8) as usize, word(at + 12) as usize);
        let bytes = file[at + 16 + link_header..at + 16 + kept].to_vec();
        packets.push(Packet { length: (length - link_header) as u64, bytes });
        at += 16 + kept;
    }
    packets
}
