//! Names inside the mesh: answers questions for `NAME.mesh` over UDP and TCP, without the Internet: from the config file, and then
//! from what the community's ledger said last.
//!
//! What is answered is decided by [`node::names`]. Here are the sockets, and bounds for what strangers may cost: questions are
//! answered in small batches with pauses between them, and of TCP there are a few connections of a few seconds, the oldest of which
//! makes room for another. Nobody on the Internet is answered, wherever this listens: see [`may_ask`], nor whoever else is reached by
//! the way there: see [`Outside`]. Names outside of the mesh are
//! asked of others for the own household: see [`crate::upstream`].

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use metering::SortedSet;
use node::names::{Names, QUESTION_LENGTH_MAX, denies};
use node::upstream::Asked;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::{sleep, timeout};

use crate::config::Config;
use crate::netlink::{DEFAULT_LEN_MAX, FoundRoute, Netlink, RouteNews};
use crate::router::Registered;
use crate::upstream::Upstream;

/// Questions answered before the others' turn, and the pause after so many: at most 6,400 a second.
const BATCH: usize = 64;
const PAUSE: Duration = Duration::from_millis(10);
/// How often an address that cannot be had is tried again: it may come later, or another program may end.
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// How often it is looked whether routes have changed, and after how many times by which interfaces the Internet is reached, even so.
const LOOK_EACH: Duration = Duration::from_secs(5);
const LOOK_AT_LEAST: usize = 60;
/// TCP connections of one address at a time, how long each may take and say nothing, and questions on it.
const CONNECTIONS_MAX: usize = 8;
const CONNECTION_TIME: Duration = Duration::from_secs(5);
const IDLE_TIME: Duration = Duration::from_secs(2);
const QUESTIONS_MAX: usize = 16;

/// What is answered: the owner's own names first, so that nobody's in the community takes their place.
#[derive(Clone)]
pub(crate) struct Zones {
    /// Of the config file.
    pub(crate) own: watch::Receiver<Names>,
    /// Of the ledger.
    pub(crate) community: Registered,
    /// Who asks others for all other names.
    pub(crate) upstream: Option<Arc<Upstream>>,
    /// Who is none of the house.
    pub(crate) outside: Arc<RwLock<Outside>>,
}

/// Who is reached by an interface that leads to the Internet: a provider's network has private addresses, too, and is not the
/// house. Where names are answered at that interface's own address, its owner meant it: the house has one network for both.
#[derive(Debug, Default)]
pub(crate) struct Outside {
    /// Whether what has addresses that begin like this, and like no longer prefix here, is outside; sorted.
    ways: Vec<((u8, IpAddr), bool)>,
    interfaces: SortedSet<u32>,
    /// This machine's own addresses by such interfaces.
    own: Vec<IpAddr>,
}

impl Outside {
    /// By the routes of this machine.
    fn new(routes: &[FoundRoute]) -> Self {
        let leads_out = |route: &&FoundRoute| route.prefix_len <= DEFAULT_LEN_MAX && !route.local;
        let interfaces: SortedSet<u32> = routes.iter().filter(leads_out).filter_map(|route| route.interface).collect();
        let by = |route: &FoundRoute| route.interface.is_some_and(|interface| interfaces.contains(&interface));
        let way = |route: &FoundRoute| ((route.prefix_len, route.destination), !route.local, by(route));
        let mut all: Vec<_> = routes.iter().map(way).collect();
        // Of several routes to one prefix, that to this machine counts first, and then whichever leads out.
        all.sort_unstable_by_key(|(prefix, passes, out)| (*prefix, *passes, !out));
        all.dedup_by_key(|(prefix, ..)| *prefix);
        let ways = all.into_iter().map(|(prefix, passes, out)| (prefix, passes && out)).collect();
        let own = routes.iter().filter(|route| route.local && by(route)).map(|route| route.destination).collect();
        Self { ways, interfaces, own }
    }

    /// Whether whoever asks from there what is answered at this address is outside.
    fn holds(&self, from: SocketAddr, at: IpAddr) -> bool {
        if self.own.contains(&at) {
            return false;
        }
        match from {
            SocketAddr::V6(from) if from.ip().is_unicast_link_local() => self.interfaces.contains(&from.scope_id()),
            SocketAddr::V4(_) | SocketAddr::V6(_) => {
                let from = from.ip().to_canonical();
                let full_len = if from.is_ipv4() { 32 } else { 128 };
                let way = |len| {
                    let prefix = (len, beginning(from, len));
                    let at = self.ways.binary_search_by_key(&prefix, |(prefix, _)| *prefix).ok()?;
                    self.ways.get(at).map(|(_, out)| *out)
                };
                (0..=full_len).rev().find_map(way) == Some(true)
            }
        }
    }
}

/// The first address of the prefix of this length that an address is in.
fn beginning(address: IpAddr, len: u8) -> IpAddr {
    let len = u32::from(len);
    match address {
        IpAddr::V4(ip) => Ipv4Addr::from(u32::from(ip) & !u32::MAX.checked_shr(len).unwrap_or(0)).into(),
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip) & !u128::MAX.checked_shr(len).unwrap_or(0)).into(),
    }
}

/// Looks who is outside whenever routes have changed, for ever.
pub(crate) async fn look_outside(outside: Arc<RwLock<Outside>>) {
    let news = RouteNews::open();
    loop {
        // A table may be long.
        let listed = spawn_blocking(|| Netlink::open().and_then(|mut netlink| netlink.found_routes()));
        match listed.await {
            Ok(Ok(routes)) => *outside.write().unwrap_or_else(PoisonError::into_inner) = Outside::new(&routes),
            Ok(Err(error)) => tracing::debug!(%error, "who is outside stays as it was"),
            Err(_) => return,
        }
        for _ in 0..LOOK_AT_LEAST {
            sleep(LOOK_EACH).await;
            if news.as_ref().map_or(true, RouteNews::drain) {
                break;
            }
        }
    }
}

impl Zones {
    /// Whether somebody is answered at this address.
    fn may_ask(&self, from: SocketAddr, at: IpAddr) -> bool {
        may_ask(from.ip()) && !self.outside.read().unwrap_or_else(PoisonError::into_inner).holds(from, at)
    }

    fn answer(&self, from: IpAddr, question: &[u8]) -> Option<Vec<u8>> {
        let own = self.own.borrow().answer(question)?;
        if denies(&own) { self.community.answer(from, question) } else { Some(own) }
    }

    /// What is to be asked of others, and who does.
    fn elsewhere(&self, from: IpAddr, question: &[u8]) -> Option<(Asked, Arc<Upstream>)> {
        let upstream = self.upstream.as_ref().filter(|upstream| upstream.serves(from))?;
        Some((Asked::read(question)?, Arc::clone(upstream)))
    }
}

/// What this router answers: itself, and the neighbours and leaves of its config file.
pub(crate) fn zone(config: &Config, address: Ipv6Addr) -> Names {
    let mut names = Names::new(&config.node.name, address);
    for peer in &config.peers {
        names.add(&peer.name, &[peer.card.mesh_address()]);
    }
    for leaf in &config.leaves {
        // A whole prefix is no machine.
        let machines = leaf.addresses.iter().filter(|prefix| prefix.len() == 128).map(|prefix| prefix.addr());
        names.add(&leaf.name, &machines.collect::<Vec<_>>());
    }
    names
}

/// Answers at an address, for ever.
pub(crate) async fn serve(at: SocketAddr, names: Zones) {
    let mut told = false;
    let (udp, tcp) = loop {
        match bind(at).await {
            Ok(sockets) => break sockets,
            Err(error) if !told => {
                tracing::warn!(%at, "names cannot be answered here: {error}; it is tried again");
                told = true;
            }
            Err(_) => {}
        }
        sleep(TRY_AGAIN).await;
    };
    tracing::info!(%at, "names are answered");
    let udp = Arc::new(udp);
    tokio::join!(answer_datagrams(&udp, &names, at.ip()), answer_connections(&tcp, &names, at.ip()));
}

async fn bind(at: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    Ok((UdpSocket::bind(at).await?, TcpListener::bind(at).await?))
}

async fn answer_datagrams(socket: &Arc<UdpSocket>, names: &Zones, at: IpAddr) {
    let mut question = [0; QUESTION_LENGTH_MAX + 1];
    let mut batch = 0;
    loop {
        if batch >= BATCH {
            batch = 0;
            sleep(PAUSE).await;
        }
        let (len, from) = match socket.try_recv_from(&mut question) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                batch = 0;
                // Whatever is wrong is seen at the next read.
                let _readable = socket.readable().await;
                continue;
            }
            Err(_) => {
                sleep(PAUSE).await;
                continue;
            }
        };
        batch += 1;
        if !names.may_ask(from, at) {
            continue;
        }
        if let Some((asked, upstream)) = names.elsewhere(from.ip(), &question[..len]) {
            if let Some(answer) = upstream.known(&asked, true) {
                let _full = socket.try_send_to(&answer, from);
                continue;
            }
            let Some(place) = upstream.place(from.ip()) else {
                let _full = socket.try_send_to(&asked.failed(), from);
                continue;
            };
            let socket = Arc::clone(socket);
            tokio::spawn(async move {
                let answer = upstream.ask(&asked, true).await;
                let _full = socket.try_send_to(&answer, from);
                drop(place);
            });
        } else if let Some(answer) = names.answer(from.ip(), &question[..len]) {
            // What has no room is asked again.
            let _full = socket.try_send_to(&answer, from);
        }
    }
}

async fn answer_connections(listener: &TcpListener, names: &Zones, at: IpAddr) {
    let mut places: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        match listener.accept().await {
            Ok((_, from)) if !names.may_ask(from, at) => {}
            Ok((stream, from)) => {
                places.retain(|place| !place.is_finished());
                if places.len() >= CONNECTIONS_MAX
                    && let Some(oldest) = places.pop_front()
                {
                    oldest.abort();
                }
                let answered = timeout(CONNECTION_TIME, answer_connection(stream, from.ip(), names.clone()));
                places.push_back(tokio::spawn(answered).abort_handle());
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// Whether somebody there is answered: from the mesh, from leaves, and from networks of the house, whose addresses are nobody's
/// on the Internet. Whoever listens at all of a router's addresses does not serve strangers who only want a long answer sent
/// to somebody else.
fn may_ask(from: IpAddr) -> bool {
    match from.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            let is_shared = a == 100 && (64..128).contains(&b); // RFC 6598
            ip.is_private() || ip.is_loopback() || ip.is_link_local() || is_shared
        }
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local() || ip.is_loopback(),
    }
}

/// Each message stands after its length (RFC 1035, section 4.2.2).
async fn answer_connection(mut stream: TcpStream, from: IpAddr, names: Zones) -> io::Result<()> {
    for _ in 0..QUESTIONS_MAX {
        let length = usize::from(timeout(IDLE_TIME, stream.read_u16()).await??);
        if length > QUESTION_LENGTH_MAX {
            return Ok(());
        }
        let mut question = vec![0; length];
        stream.read_exact(&mut question).await?;
        let answer = match names.elsewhere(from, &question) {
            Some((asked, upstream)) => Some(match (upstream.known(&asked, false), upstream.place(from)) {
                (Some(known), _) => known,
                (None, Some(_place)) => upstream.ask(&asked, false).await,
                (None, None) => asked.failed(),
            }),
            None => names.answer(from, &question),
        };
        let Some(answer) = answer else { return Ok(()) };
        let mut message = u16::try_from(answer.len()).unwrap_or(0).to_be_bytes().to_vec();
        message.extend(answer);
        stream.write_all(&message).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mesh_and_the_house_are_answered_and_the_internet_is_not() {
        let may = |text: &str| may_ask(text.parse().unwrap());
        for from in
            ["fd53:bcf5:19d6::1", "fe80::1", "::1", "192.168.1.7", "10.0.0.1", "::ffff:172.16.0.9", "100.64.0.1"]
        {
            assert!(may(from), "{from}");
        }
        for from in ["2001:db8::1", "198.51.100.7", "100.128.0.1", "172.32.0.1", "::ffff:8.8.8.8"] {
            assert!(!may(from), "{from}");
        }
    }

    #[test]
    fn whoever_is_reached_by_the_way_to_the_internet_is_not_of_the_house() {
        let route = |text: &str, interface, local| {
            let (destination, len) = text.split_once('/').unwrap();
            let (destination, prefix_len) = (destination.parse().unwrap(), len.parse().unwrap());
            FoundRoute { destination, prefix_len, interface: Some(interface), gateway: None, local }
        };
        let (wan, lan, mesh) = (2, 3, 4);
        let outside = Outside::new(&[
            route("0.0.0.0/0", wan, false),
            route("192.168.100.0/24", wan, false),
            route("192.168.100.2/32", wan, true),
            route("192.168.1.0/24", lan, false),
            route("192.168.1.1/32", lan, true),
            route("fd01::/48", mesh, false),
            route("127.0.0.0/8", 1, true),
        ]);
        let holds = |from: &str, at: &str| outside.holds(from.parse().unwrap(), at.parse().unwrap());
        let all = "0.0.0.0";
        for from in ["192.168.100.7:9", "10.1.2.3:9", "100.64.0.7:9", "[::ffff:192.168.100.7]:9", "[fe80::7%2]:9"] {
            assert!(holds(from, all) && holds(from, "192.168.1.1"), "{from}");
            assert!(!holds(from, "192.168.100.2"), "{from}: the owner says so");
        }
        for from in ["192.168.1.7:9", "192.168.1.1:9", "192.168.100.2:9", "127.0.0.1:9", "[fd01::7]:9", "[fe80::7%3]:9"]
        {
            assert!(!holds(from, all), "{from}");
        }
        assert!(!Outside::default().holds("10.1.2.3:9".parse().unwrap(), all.parse().unwrap()), "no way out at all");
    }

    #[tokio::test]
    async fn idle_clients_do_not_keep_others_from_asking_by_tcp() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let address = "fd53:bcf5:19d6::1".parse().unwrap();
        let (_names, own) = watch::channel(Names::new("roof", address));
        let zone = Zones { own, community: Registered::new("roof", address), upstream: None, outside: Arc::default() };
        let served = tokio::spawn(async move { answer_connections(&listener, &zone, at.ip()).await });
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS_MAX * 2 {
            idle.push(TcpStream::connect(at).await.unwrap());
        }
        // What is the question: A and IN for the name "roof.mesh".
        let question = b"\0\x01\x01\0\0\x01\0\0\0\0\0\0\x04roof\x04mesh\0\0\x1c\0\x01";
        let mut asks = TcpStream::connect(at).await.unwrap();
        asks.write_u16(question.len() as u16).await.unwrap();
        asks.write_all(question).await.unwrap();
        let length = timeout(IDLE_TIME / 2, asks.read_u16()).await.expect("an answer, at once").unwrap();
        assert!(length > 12, "{length}");
        served.abort();
    }
}
