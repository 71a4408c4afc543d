//! Host names of neighbours, looked up past the session that leads to the Internet: the session needs the links, and the links
//! need the addresses.
//!
//! A plain DNS client (RFC 1035) over one UDP socket, whose port the kernel's rules let pass (`crate::gateway`). It asks the
//! name servers that this machine's own way out came with, and nobody else. An answer proves nothing, and need not: a neighbour
//! has to have its key.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// Where name servers are written down: by most systems, and where that names a program on this machine, which asks through
/// the session itself, by systemd and OpenWrt.
const FILES: [&str; 4] = [
    "/etc/resolv.conf",
    "/run/systemd/resolve/resolv.conf",
    "/tmp/resolv.conf.d/resolv.conf.auto",
    "/tmp/resolv.conf.auto",
];
/// What the file begins with that names a gateway's name servers.
pub(crate) const RESOLVERS_HEAD: &str = "# Name servers of the gateway in use, written by waybill.";
/// Name servers that are asked at most, and how long each is waited for.
const SERVERS_MAX: usize = 3;
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest answer of plain DNS.
const ANSWER_MAX: usize = 512;
/// Datagrams that are read while waiting for an answer.
const STRAYS_MAX: usize = 64;
const HEADER_LEN: usize = 12;
const CLASS_IN: u16 = 1;
const A: u16 = 1;
const AAAA: u16 = 28;

/// Who looks up names past the session.
#[derive(Debug)]
pub struct LookUps {
    socket: Mutex<UdpSocket>,
}

impl LookUps {
    /// Takes a socket of [`LookUps::bind`]; to be called where tokio is.
    ///
    /// # Errors
    /// The system's.
    pub fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        Ok(Self { socket: Mutex::new(UdpSocket::from_std(socket)?) })
    }

    /// A socket of a port of its own, for IPv4 and IPv6.
    ///
    /// # Errors
    /// The system's.
    pub fn bind() -> io::Result<std::net::UdpSocket> {
        let socket = std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))
            .or_else(|_| std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }

    /// An address of a host.
    pub(crate) async fn find(&self, host: &str) -> Option<IpAddr> {
        self.ask(host, &servers(|file| fs::read_to_string(file).ok())).await
    }

    async fn ask(&self, host: &str, servers: &[IpAddr]) -> Option<IpAddr> {
        // One question at a time: what comes belongs to it.
        let socket = self.socket.lock().await;
        for server in servers {
            for kind in [A, AAAA] {
                let question = question(fastrand::u16(..), host, kind)?;
                if let Ok(Some(address)) = timeout(PATIENCE, converse(&socket, *server, &question)).await {
                    return Some(address);
                }
            }
        }
        None
    }
}

async fn converse(socket: &UdpSocket, server: IpAddr, question: &[u8]) -> Option<IpAddr> {
    let is_ipv6 = socket.local_addr().ok()?.is_ipv6();
    let to = match server {
        IpAddr::V4(server) if is_ipv6 => server.to_ipv6_mapped().into(),
        IpAddr::V4(_) | IpAddr::V6(_) => server,
    };
    socket.send_to(question, SocketAddr::new(to, 53)).await.ok()?;
    let mut buffer = [0; ANSWER_MAX];
    for _ in 0..STRAYS_MAX {
        let (len, from) = socket.recv_from(&mut buffer).await.ok()?;
        if (from.ip(), from.port()) == (to, 53)
            && let Some(answer) = read(question, &buffer[..len])
        {
            return answer;
        }
    }
    None
}

/// The name servers to ask, by what is in the files.
fn servers(read: impl Fn(&str) -> Option<String>) -> Vec<IpAddr> {
    for file in FILES {
        // A gateway's are asked by its session, which may wait for what is looked up here.
        let text = read(file).filter(|text| !text.starts_with(RESOLVERS_HEAD)).unwrap_or_default();
        let written = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
        let addresses = written.filter_map(|rest| rest.trim().parse::<IpAddr>().ok());
        let far: Vec<IpAddr> =
            addresses.filter(|at| !at.is_loopback() && !at.is_unspecified()).take(SERVERS_MAX).collect();
        if !far.is_empty() {
            return far;
        }
    }
    Vec::new()
}

/// `None` for what is no host name.
fn question(id: u16, host: &str, kind: u16) -> Option<Vec<u8>> {
    let mut bytes = id.to_be_bytes().to_vec();
    // Recursion desired; one question.
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in host.trim_end_matches('.').split('.') {
        let len = u8::try_from(label.len()).ok().filter(|len| (1..=63).contains(len))?;
        bytes.push(len);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend(CLASS_IN.to_be_bytes());
    (bytes.len() <= HEADER_LEN + 255 + 4).then_some(bytes)
}

/// What an answer says to a question; `None` if it is no answer to it.
fn read(question: &[u8], answer: &[u8]) -> Option<Option<IpAddr>> {
    let (asked, kind) = (question.get(HEADER_LEN..)?, question.get(question.len().checked_sub(4)?..)?);
    let header: &[u8; HEADER_LEN] = answer.first_chunk()?;
    let repeats = answer.get(HEADER_LEN..HEADER_LEN + asked.len())?.eq_ignore_ascii_case(asked);
    if header[..2] != question[..2] || header[2] & 0x80 == 0 || header[4..6] != [0, 1] || !repeats {
        return None;
    }
    let mut at = HEADER_LEN + asked.len();
    for _ in 0..u16::from_be_bytes([header[6], header[7]]) {
        let Some((is_meant, next, data)) = record(answer, at, kind) else { break };
        if is_meant {
            let ipv4 = <[u8; 4]>::try_from(data).map(IpAddr::from);
            let found = ipv4.or_else(|_| <[u8; 16]>::try_from(data).map(IpAddr::from));
            // As many bytes as the kind asks for, or it is no address.
            return Some(found.ok().filter(|found| found.is_ipv4() == (kind[..2] == A.to_be_bytes())));
        }
        at = next;
    }
    Some(None)
}

/// The record there: whether it is of this kind and class, where the next one begins, and its data.
fn record<'a>(answer: &'a [u8], at: usize, kind: &[u8]) -> Option<(bool, usize, &'a [u8])> {
    let mut at = at;
    // Its name: labels, and an end or a reference to another place.
    loop {
        match usize::from(*answer.get(at)?) {
            0 => break at += 1,
            len @ 1..=63 => at += 1 + len,
            192..=255 => break at += 2,
            _ => return None,
        }
    }
    let head = answer.get(at..at + 10)?;
    let end = at + 10 + usize::from(u16::from_be_bytes([head[8], head[9]]));
    Some((head[..4] == *kind, end, answer.get(at + 10..end)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer_to(question: &[u8], records: &[(&[u8], u16, &[u8])]) -> Vec<u8> {
        let mut answer = question.to_vec();
        (answer[2], answer[7]) = (0x81, u8::try_from(records.len()).unwrap());
        for (name, kind, data) in records {
            answer.extend(*name);
            answer.extend(kind.to_be_bytes());
            answer.extend([0, 1, 0, 0, 0, 60]);
            answer.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            answer.extend(*data);
        }
        answer
    }

    #[test]
    fn an_address_is_read_behind_an_alias_and_only_of_an_answer_to_the_question() {
        let asked = question(77, "roof.example.org", A).unwrap();
        assert_eq!(asked[12..17], *b"\x04roof");
        let alias: (&[u8], u16, &[u8]) = (&[0xc0, 12], 5, b"\x03dyn\xc0\x11");
        let address: (&[u8], u16, &[u8]) = (b"\x03dyn\xc0\x11", A, &[192, 0, 2, 7]);
        let answer = answer_to(&asked, &[alias, address]);
        assert_eq!(read(&asked, &answer), Some(Some("192.0.2.7".parse().unwrap())));
        assert_eq!(read(&asked, &answer_to(&asked, &[alias])), Some(None));
        assert_eq!(
            read(&asked, &answer_to(&asked, &[(&[0xc0, 12], A, &[1; 16])])),
            Some(None),
            "too long for its kind"
        );
        assert_eq!(read(&question(78, "roof.example.org", A).unwrap(), &answer), None, "another number");
        assert_eq!(read(&question(77, "barn.example.org", A).unwrap(), &answer), None, "another name");
        assert_eq!(read(&asked, &asked), None, "a question");
        let ipv6 = question(1, "ROOF.example.org.", AAAA).unwrap();
        let answer = answer_to(&ipv6, &[(&[0xc0, 12], AAAA, &[0x20; 16])]);
        assert_eq!(read(&ipv6, &answer), Some(Some([0x20; 16].into())));
        for wrong in ["", "a..b", &"x".repeat(64), &"abc.".repeat(70)] {
            assert_eq!(question(1, wrong, A), None, "{wrong}");
        }
    }

    #[test]
    fn hostile_answers_are_survived() {
        let asked = question(77, "roof.example.org", A).unwrap();
        let good = answer_to(&asked, &[(&[0xc0, 12], 5, &[0xc0, 12]), (&[0xc0, 12], A, &[192, 0, 2, 7])]);
        for len in 0..good.len() {
            assert!(!matches!(read(&asked, &good[..len]), Some(Some(_))), "{len}");
        }
        let mut rng = fastrand::Rng::with_seed(4);
        for _ in 0..50_000 {
            let mut bytes = good.clone();
            for _ in 0..rng.usize(1..6) {
                let at = rng.usize(asked.len() - 4..bytes.len());
                bytes[at] = rng.u8(..);
            }
            let _any = read(&asked, &bytes);
        }
    }

    #[test]
    fn a_name_server_on_this_machine_asks_by_the_session_and_the_next_file_counts() {
        let found = |text: &'static str| servers(|file| (file == FILES[0]).then(|| text.to_owned()));
        assert_eq!(found("nameserver 127.0.0.53\n"), [] as [IpAddr; 0]);
        assert_eq!(found("# by hand\nnameserver 192.0.2.1\nnameserver 2001:db8::1\n").len(), 2);
        for first in ["nameserver 127.0.0.1".to_owned(), format!("{RESOLVERS_HEAD}\nnameserver 100.64.0.1\n")] {
            let files = |file: &str| match file {
                "/etc/resolv.conf" => Some(first.clone()),
                "/tmp/resolv.conf.d/resolv.conf.auto" => Some("# Interface wan\nnameserver 192.0.2.9\n".to_owned()),
                _ => None,
            };
            assert_eq!(servers(files), ["192.0.2.9".parse::<IpAddr>().unwrap()]);
        }
    }
}
