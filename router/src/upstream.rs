//! Names outside of the mesh, asked of name servers for the own household and its leaves, and for nobody else.
//!
//! What is asked, what counts as an answer and how long it holds is decided by [`node::upstream`]. Here is who may ask, whom to ask,
//! and what that may cost: each question has a socket of its own, whose port nobody can guess and which hears one server alone, and
//! of both there are a few at a time for a few seconds. One who asks has no more of them than it leaves for others.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use metering::SortedMap;
use node::Prefix;
use node::upstream::{Asked, Cache, TCP_LENGTH_MAX, UDP_LENGTH_MAX, Unfit, is_unwilling};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// Name servers that are asked at most, how long each is waited for, and all of them.
pub(crate) const SERVERS_MAX: usize = 3;
const PATIENCE: Duration = Duration::from_millis(1500);
const PATIENCE_IN_ALL: Duration = Duration::from_secs(4);
/// Questions at a time. What is beyond them fails at once, and is asked again.
const PLACES: usize = 64;
/// Datagrams that are read while waiting for an answer.
const STRAYS_MAX: usize = 16;
/// Where name servers are asked.
pub(crate) const DNS_PORT: u16 = 53;

/// Whom to ask.
pub(crate) enum Servers {
    /// Those that the owner wrote down.
    Written(Vec<IpAddr>),
    /// Those that this says each time: of the gateway in use, or of this machine's own resolver.
    Session(Box<dyn Fn() -> Vec<IpAddr> + Send + Sync>),
}

/// Asks for who may ask. See [`Upstream::place`].
pub(crate) struct Upstream {
    home: Prefix,
    servers: Servers,
    port: u16,
    /// Names whose addresses may be of the house.
    private: Vec<String>,
    /// That somebody's are was told.
    told: AtomicBool,
    /// Whose questions are under way.
    places: Mutex<SortedMap<IpAddr, usize>>,
    cache: Mutex<Known>,
}

/// What was answered, and by which servers: what a gateway's say is forgotten with it.
#[derive(Default)]
struct Known {
    by: Vec<IpAddr>,
    cache: Cache,
}

impl Known {
    /// The cache, while these are asked.
    fn of(&mut self, servers: &[IpAddr]) -> &mut Cache {
        if self.by != servers {
            *self = Self { by: servers.to_vec(), cache: Cache::default() };
        }
        &mut self.cache
    }
}

/// Room for one question, until it is dropped.
pub(crate) struct Place {
    upstream: Arc<Upstream>,
    of: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.upstream.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = places.get_mut(&self.of) {
            *held -= 1;
            if *held == 0 {
                places.remove(&self.of);
            }
        }
    }
}

impl Upstream {
    /// For whoever has an address of `home`, this router's own prefix. Names within `private` may have addresses of the house.
    pub(crate) fn new(home: Prefix, servers: Servers, private: Vec<String>) -> Self {
        let (places, cache) = (Mutex::default(), Mutex::default());
        Self { home, servers, port: DNS_PORT, private, told: AtomicBool::new(false), places, cache }
    }

    /// Whether somebody there is of this household: this machine, its leaves and what has an address of its own prefix, and machines
    /// with private IPv4 addresses, which the mesh does not carry. Others of the mesh ask their own routers.
    pub(crate) fn serves(&self, from: IpAddr) -> bool {
        match from.to_canonical() {
            IpAddr::V4(ip) => ip.is_private() || ip.is_loopback(),
            IpAddr::V6(ip) => self.home.contains(ip) || ip.is_loopback(),
        }
    }

    /// A place for one question of somebody's, if there is any: one has half of them at most, and a second half of the rest.
    pub(crate) fn place(self: &Arc<Self>, from: IpAddr) -> Option<Place> {
        let of = from.to_canonical();
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let free = PLACES - places.values().sum::<usize>();
        if places.get(&of).is_some_and(|held| *held >= free) || free == 0 {
            return None;
        }
        *places.entry(of).or_default() += 1;
        Some(Place { upstream: Arc::clone(self), of })
    }

    /// What whoever asked is to be told, where an answer is known that still holds.
    pub(crate) fn known(&self, asked: &Asked, by_udp: bool) -> Option<Vec<u8>> {
        let servers = self.servers();
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).of(&servers).answer(moment(), asked, by_udp)
    }

    fn servers(&self) -> Vec<IpAddr> {
        match &self.servers {
            Servers::Written(servers) => servers.clone(),
            Servers::Session(servers) => servers(),
        }
    }

    /// Asks, and says what whoever asked is to be told. To be called with a [`Upstream::place`].
    pub(crate) async fn ask(&self, asked: &Asked, by_udp: bool) -> Vec<u8> {
        let servers = self.servers();
        // Of a server that cannot say; another may (RFC 1035, section 7.2).
        let mut unwilling = None;
        let answered = timeout(PATIENCE_IN_ALL, async {
            for server in servers.iter().take(SERVERS_MAX) {
                let at = SocketAddr::new(*server, self.port);
                let Ok(Ok(answer)) = timeout(PATIENCE, converse(at, asked)).await else { continue };
                match asked.screen(answer, &self.private) {
                    Ok(answer) if is_unwilling(&answer) => _ = unwilling.get_or_insert(answer),
                    Ok(answer) => return Some(answer),
                    Err(Unfit::Strange) => {}
                    Err(Unfit::Rebinding) => {
                        if !self.told.swap(true, Ordering::Relaxed) {
                            tracing::warn!(
                                "a name outside of the mesh is said to have an address in here, which is refused: write names that \
                                 do to `private` of [names]"
                            );
                        }
                        return Some(asked.nothing());
                    }
                }
            }
            None
        });
        match answered.await.ok().flatten().or(unwilling) {
            Some(answer) => {
                // Not where others are asked by now.
                if self.servers() == servers {
                    let mut known = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
                    known.of(&servers).keep(moment(), asked, &answer);
                }
                asked.answer(answer, by_udp)
            }
            None => asked.failed(),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the shell's clock, for how long answers hold")]
fn moment() -> Instant {
    Instant::now()
}

/// By UDP, and by TCP what that cut off.
async fn converse(at: SocketAddr, asked: &Asked) -> io::Result<Vec<u8>> {
    let mut number = [0; 2];
    getrandom::fill(&mut number)?;
    let here: IpAddr = if at.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((here, 0)).await?;
    socket.connect(at).await?;
    socket.send(&asked.numbered(number)).await?;
    // What is longer is cut by the kernel, which does not tell.
    let mut buffer = vec![0; UDP_LENGTH_MAX + 1];
    for _ in 0..STRAYS_MAX {
        let len = socket.recv(&mut buffer).await?;
        match asked.check(number, &buffer[..len]) {
            Some(true) if len <= UDP_LENGTH_MAX => {
                buffer.truncate(len);
                return Ok(buffer);
            }
            Some(_) => return by_tcp(at, asked, number).await,
            None => {}
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

async fn by_tcp(at: SocketAddr, asked: &Asked, number: [u8; 2]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(at).await?;
    let question = asked.numbered(number);
    let len = u16::try_from(question.len()).unwrap_or(0).to_be_bytes();
    stream.write_all(&[&len[..], &question].concat()).await?;
    let len = usize::from(stream.read_u16().await?);
    let mut answer = vec![0; Some(len).filter(|len| *len <= TCP_LENGTH_MAX).ok_or(io::ErrorKind::InvalidData)?];
    stream.read_exact(&mut answer).await?;
    if asked.check(number, &answer) == Some(true) { Ok(answer) } else { Err(io::ErrorKind::InvalidData.into()) }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn upstream(servers: Vec<IpAddr>, port: u16) -> Upstream {
        let home = Prefix::new("fd12:3456:789a::".parse().unwrap(), 48).unwrap();
        Upstream { port, ..Upstream::new(home, Servers::Written(servers), Vec::new()) }
    }

    /// What is asked for the addresses of a name.
    fn asked() -> Asked {
        Asked::read(b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x03www\x07example\0\0\x1c\0\x01").unwrap()
    }

    #[test]
    fn the_household_and_its_leaves_are_served_and_the_mesh_is_not() {
        let upstream = upstream(Vec::new(), 53);
        for (from, is) in [
            ("fd12:3456:789a::1", true),
            ("fd12:3456:789a:1eaf::1", true),
            ("192.168.1.7", true),
            ("::ffff:10.0.0.7", true),
            ("127.0.0.1", true),
            ("::1", true),
            ("fd12:3456:789b::1", false),
            ("fe80::1", false),
            ("100.64.0.7", false),
            ("169.254.0.7", false),
            ("198.51.100.7", false),
            ("2001:db8::7", false),
        ] {
            assert_eq!(upstream.serves(from.parse().unwrap()), is, "{from}");
        }
    }

    /// A name server that first answers with what is no answer, then with one that is cut off, and by TCP with all of it.
    #[tokio::test]
    async fn strays_are_passed_over_and_what_is_cut_off_is_asked_for_by_tcp() {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = tcp.local_addr().unwrap();
        let udp = UdpSocket::bind(at).await.unwrap();
        let served = tokio::spawn(async move {
            let mut question = [0; 512];
            let (len, from) = udp.recv_from(&mut question).await.unwrap();
            let mut answer = question[..len].to_vec();
            answer[0] ^= 1;
            answer[2] = 0x81;
            udp.send_to(&answer, from).await.unwrap();
            answer[0] ^= 1;
            answer[2] = 0x83;
            udp.send_to(&answer, from).await.unwrap();
            let (mut stream, _) = tcp.accept().await.unwrap();
            let mut asked = vec![0; stream.read_u16().await.unwrap().into()];
            stream.read_exact(&mut asked).await.unwrap();
            (asked[2], asked[7]) = (0x81, 1);
            let text = 700 - asked.len() - 12;
            asked.extend(b"\xc0\x0c\0\x10\0\x01\0\0\0\x3c");
            asked.extend((text as u16).to_be_bytes());
            asked.resize(700, 7);
            stream.write_all(&[&700_u16.to_be_bytes()[..], &asked].concat()).await.unwrap();
        });
        // Before it stands one that nobody is at.
        let upstream = upstream(vec!["127.0.0.9".parse().unwrap(), at.ip()], at.port());
        let answer = upstream.ask(&asked(), false).await;
        assert_eq!((answer.len(), &answer[..3]), (700, &[0x12, 0x34, 0x81][..]));
        served.await.unwrap();
    }

    #[tokio::test]
    async fn without_an_answer_it_fails_and_places_are_few_and_shared() {
        let upstream = Arc::new(upstream(Vec::new(), 53));
        assert_eq!(upstream.ask(&asked(), true).await, asked().failed());
        assert_eq!(upstream.known(&asked(), true), None, "a failure is not kept");
        let [phone, other]: [IpAddr; 2] = ["192.168.1.7", "192.168.1.8"].map(|at| at.parse().unwrap());
        let all_of = |from: IpAddr| std::iter::from_fn(|| upstream.place(from)).collect::<Vec<_>>();
        let greedy = all_of(phone);
        assert_eq!(greedy.len(), PLACES / 2);
        assert!(upstream.place("::ffff:192.168.1.7".parse().unwrap()).is_none(), "the same phone");
        assert_eq!(all_of(other).len(), PLACES / 4, "and they are given back");
        let others: Vec<_> = (0..=255).flat_map(|last| all_of(Ipv4Addr::new(192, 168, 2, last).into())).collect();
        assert_eq!(greedy.len() + others.len(), PLACES);
        assert!(upstream.place(other).is_none());
        drop(others);
        assert!(all_of(phone).is_empty(), "it has its half");
        drop(greedy);
        assert_eq!(all_of(phone).len(), PLACES / 2);
    }

    /// A name server that answers one question, and never again.
    #[tokio::test]
    async fn what_was_answered_is_told_again_without_asking() {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let at = udp.local_addr().unwrap();
        let served = tokio::spawn(async move {
            let mut question = [0; 512];
            let (len, from) = udp.recv_from(&mut question).await.unwrap();
            let mut answer = question[..len].to_vec();
            (answer[2], answer[7]) = (0x81, 1);
            answer.extend(b"\xc0\x0c\0\x1c\0\x01\0\0\x01\0\0\x10\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07");
            udp.send_to(&answer, from).await.unwrap();
        });
        let upstream = upstream(vec![at.ip()], at.port());
        assert_eq!(upstream.known(&asked(), true), None);
        let answer = upstream.ask(&asked(), true).await;
        served.await.unwrap();
        let known = upstream.known(&asked(), true).unwrap();
        assert_eq!((known.len(), &known[..12], known.last()), (answer.len(), &answer[..12], Some(&7)));
    }

    /// A name server that answers what comes with this code and these records.
    async fn says(at: &str, code: u8, records: &'static [u8]) -> (SocketAddr, tokio::task::JoinHandle<()>) {
        let udp = UdpSocket::bind(at).await.unwrap();
        let at = udp.local_addr().unwrap();
        let served = tokio::spawn(async move {
            let mut question = [0; 512];
            loop {
                let (len, from) = udp.recv_from(&mut question).await.unwrap();
                let mut answer = [&question[..len], records].concat();
                (answer[2], answer[3], answer[7]) = (0x81, 0x80 | code, u8::from(!records.is_empty()));
                udp.send_to(&answer, from).await.unwrap();
            }
        });
        (at, served)
    }

    const OUTSIDE: &[u8] = b"\xc0\x0c\0\x1c\0\x01\0\0\x01\0\0\x10\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07";

    #[tokio::test]
    async fn where_one_server_cannot_say_the_next_is_asked() {
        for (code, records) in [(2, &[][..]), (5, &[]), (0, b"\x01x\0\0\x1c\0\x01\0\0\x01\0\0\x01\x07")] {
            let (first, unwilling) = says("127.0.0.2:0", code, records).await;
            let (second, willing) = says(&format!("127.0.0.3:{}", first.port()), 0, OUTSIDE).await;
            let both = upstream(vec![first.ip(), second.ip()], first.port());
            assert_eq!(both.ask(&asked(), true).await.last(), Some(&7), "{code}");
            let alone = upstream(vec![first.ip()], first.port());
            let failed = if code == 0 { 2 } else { code };
            assert_eq!(alone.ask(&asked(), true).await[3] & 0xf, failed, "it says so itself, or nobody does");
            unwilling.abort();
            willing.abort();
        }
    }

    #[tokio::test]
    async fn an_address_of_the_house_is_told_for_the_owner_s_names_alone_and_not_kept() {
        const INSIDE: &[u8] = b"\xc0\x0c\0\x1c\0\x01\0\0\x01\0\0\x10\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x07";
        let (at, served) = says("127.0.0.1:0", 0, INSIDE).await;
        let refusing = upstream(vec![at.ip()], at.port());
        assert_eq!(refusing.ask(&asked(), true).await, asked().nothing());
        assert_eq!(refusing.known(&asked(), true), None);
        let allowing = Upstream { private: vec!["www.example".to_owned()], ..refusing };
        assert_eq!(allowing.ask(&asked(), true).await.last(), Some(&7));
        served.abort();
    }
}
