//! Neighbours on wires and radios: sends and hears [`node::beacon`]s on the configured interfaces.
//!
//! ```text
//!   /proc/net/if_inet6 ──> interfaces ──┐
//!   a socket for each <──> Beacons ─────┴──> Found ──> control task (router::Router::found)
//! ```
//!
//! One task. Each interface has a socket that hears the group, and one that sends from the interface's link-local address. What has
//! not come over this one link (its hop limit is not 255), or does not begin as a beacon does, the kernel drops by a filter; what is
//! left is read in small batches with pauses between them, and the rest of a flood stays in a small buffer of the kernel.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant};

use metering::{Identity, SortedMap};
use node::beacon::{Beacons, Community, Event, FIRST_BYTES, GROUP, Ignored, LENGTH, PORT};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use crate::router::Found;

/// How often it is looked which interfaces there are, with which addresses.
const LOOK_EACH: Duration = Duration::from_secs(3);
/// Datagrams read of one interface before the others' turn, and the pause after so many: at most 6,400 a second are looked at.
const BATCH: usize = 64;
const PAUSE: Duration = Duration::from_millis(10);
/// What waits in the kernel: the beacons of a crowd.
const RECEIVE_BUFFER: usize = 64 << 10;
/// How often it is told that beacons were ignored, if they were.
const TELL_IGNORED: Duration = Duration::from_secs(60);
/// Where the kernel says which addresses it has.
const ADDRESSES: &str = "/proc/net/if_inet6";
/// Flags there: the address is somebody else's, or not yet known not to be (`linux/if_addr.h`).
const UNUSABLE: u8 = 0x08 | 0x40;

/// What discovery needs to know.
pub(crate) struct Setup {
    /// Names of interfaces, present or not.
    pub(crate) interfaces: Vec<String>,
    pub(crate) identity: Identity,
    pub(crate) community: Option<Community>,
    /// Ports of WireGuard and QUIC links.
    pub(crate) ports: (u16, Option<u16>),
    /// How often this router has started.
    pub(crate) boot: u64,
}

/// One interface, while it is there.
struct Ear {
    name: String,
    address: Ipv6Addr,
    hears: UdpSocket,
    sends: UdpSocket,
}

/// Looks for neighbours until nobody wants to know.
pub(crate) async fn run(setup: Setup, found: mpsc::Sender<Found>) {
    let Setup { interfaces, identity, community, ports, boot } = setup;
    let mut beacons = Beacons::new(identity, community, ports, boot, fastrand::u64(..));
    let mut ears = SortedMap::new();
    let mut refused = SortedMap::new();
    let mut ignored: SortedMap<Ignored, u64> = SortedMap::new();
    let (mut look_at, mut tell_at) = (clock(), clock() + TELL_IGNORED);
    while !found.is_closed() {
        let now = clock();
        if now >= look_at {
            look_at = now + LOOK_EACH;
            look(now, &interfaces, &mut ears, &mut beacons, &mut refused);
        }
        if now >= tell_at {
            tell_at = now + TELL_IGNORED;
            for (why, count) in std::mem::take(&mut ignored) {
                tracing::debug!(count, "beacons ignored: {why}");
            }
        }
        beacons.handle_timeout(now);
        drain(&mut beacons, &ears, &found);
        let due = beacons.poll_timeout().map_or(look_at, |due| due.min(look_at));
        tokio::select! {
            () = tokio::time::sleep_until(due.into()) => {}
            () = found.closed() => {}
            () = readable(&ears) => {
                let read: usize = ears.iter().map(|(index, ear)| hear(*index, ear, &mut beacons, &mut ignored)).sum();
                drain(&mut beacons, &ears, &found);
                if read >= BATCH {
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// Until there is something to read from one of them.
async fn readable(ears: &SortedMap<u32, Ear>) {
    std::future::poll_fn(|context| {
        let ready = ears.values().any(|ear| ear.hears.poll_recv_ready(context).is_ready());
        if ready { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

/// Hears a batch on one interface, and returns how many datagrams that were.
fn hear(index: u32, ear: &Ear, beacons: &mut Beacons, ignored: &mut SortedMap<Ignored, u64>) -> usize {
    let mut buffer = [0; LENGTH_MAX + 1];
    let now = clock();
    for read in 0..BATCH {
        let (len, from) = match ear.hears.try_recv_from(&mut buffer) {
            Ok((len, SocketAddr::V6(from))) => (len, from),
            Ok(_) => continue,
            // An interface that has gone is noticed at the next look.
            Err(_) => return read,
        };
        if let Err(why) = beacons.hear(now, index, *from.ip(), &buffer[..len]) {
            *ignored.entry(why).or_default() += 1;
        }
    }
    BATCH
}

const LENGTH_MAX: usize = *LENGTH.end();

/// Sends what is to be sent, and tells what became known. What has no room is sent and told again in a few seconds.
fn drain(beacons: &mut Beacons, ears: &SortedMap<u32, Ear>, found: &mpsc::Sender<Found>) {
    while let Some((index, bytes)) = beacons.poll_transmit() {
        if let Some(ear) = ears.get(&index) {
            let to = SocketAddrV6::new(GROUP, PORT, 0, index);
            if let Err(error) = ear.sends.try_send_to(&bytes, to.into()) {
                tracing::debug!(interface = ear.name, %error, "a beacon was not sent");
            }
        }
    }
    while let Some(event) = beacons.poll_event() {
        match event {
            Event::Found(seen) => {
                let interface = ears.get(&seen.interface).map_or("", |ear| ear.name.as_str());
                if seen.is_new {
                    tracing::info!(interface, account = %seen.card.account(), "a neighbour's beacon is heard");
                }
                let at = |port| SocketAddrV6::new(seen.address, port, 0, seen.interface).into();
                let (wireguard, quic) = (at(seen.wireguard), seen.quic.map(at));
                let _full = found.try_send(Found { card: seen.card, wireguard, quic });
            }
            Event::Lost(account) => tracing::info!(%account, "a neighbour's beacons are heard no more"),
        }
    }
}

/// Brings the sockets to the interfaces there are.
fn look(
    now: Instant,
    wanted: &[String],
    ears: &mut SortedMap<u32, Ear>,
    beacons: &mut Beacons,
    refused: &mut SortedMap<String, String>,
) {
    let listed = std::fs::read_to_string(ADDRESSES).unwrap_or_default();
    let mut there = link_locals(&listed);
    there.retain(|_, (name, _)| wanted.contains(name));
    ears.retain(|index, ear| {
        let stays =
            there.get(index).is_some_and(|(name, addresses)| *name == ear.name && addresses.contains(&ear.address));
        if !stays {
            tracing::info!(interface = ear.name, "no neighbours are looked for here: the interface is gone");
            beacons.remove_interface(*index);
        }
        stays
    });
    for (index, (name, addresses)) in there {
        if ears.contains_key(&index) {
            continue;
        }
        let Some(address) = addresses.first().copied() else { continue };
        match Ear::open(index, &name, address) {
            Ok(ear) => {
                tracing::info!(interface = name, "neighbours are looked for");
                refused.remove(&name);
                ears.insert(index, ear);
                beacons.add_interface(now, index, address);
            }
            Err(error) => {
                let why = error.to_string();
                if refused.insert(name.clone(), why.clone()).as_ref() != Some(&why) {
                    tracing::warn!(interface = name, "neighbours cannot be looked for: {why}");
                }
            }
        }
    }
    for name in wanted.iter().filter(|name| ears.values().all(|ear| ear.name != **name)) {
        refused.entry(name.clone()).or_insert_with(|| {
            tracing::warn!(
                interface = name,
                "neighbours are looked for once the interface is up and has a link-local address"
            );
            String::new()
        });
    }
}

/// Interfaces by index, with their names and usable link-local addresses, as the kernel lists them.
fn link_locals(listed: &str) -> SortedMap<u32, (String, Vec<Ipv6Addr>)> {
    let mut found: SortedMap<u32, (String, Vec<Ipv6Addr>)> = SortedMap::new();
    for line in listed.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let &[address, index, _, _, flags, name] = fields.as_slice() else { continue };
        let (Ok(address), Ok(index), Ok(flags)) =
            (u128::from_str_radix(address, 16), u32::from_str_radix(index, 16), u8::from_str_radix(flags, 16))
        else {
            continue;
        };
        let address = Ipv6Addr::from(address);
        if address.is_unicast_link_local() && flags & UNUSABLE == 0 {
            found.entry(index).or_insert_with(|| (name.to_owned(), Vec::new())).1.push(address);
        }
    }
    found
}

impl Ear {
    fn open(index: u32, name: &str, address: Ipv6Addr) -> io::Result<Self> {
        let open = || {
            let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
            socket.set_only_v6(true)?;
            socket.set_nonblocking(true)?;
            socket.set_reuse_address(true)?;
            Ok::<_, io::Error>(socket)
        };
        let hears = open()?;
        hears.attach_filter(&filter())?;
        hears.set_recv_buffer_size(RECEIVE_BUFFER)?;
        hears.set_multicast_all_v6(false)?;
        hears.bind_device(Some(name.as_bytes()))?;
        hears.bind(&SocketAddrV6::new(GROUP, PORT, 0, index).into())?;
        hears.join_multicast_v6(&GROUP, index)?;
        let sends = open()?;
        sends.set_multicast_hops_v6(255)?;
        sends.set_multicast_if_v6(index)?;
        sends.set_multicast_loop_v6(false)?;
        sends.bind_device(Some(name.as_bytes()))?;
        sends.bind(&SocketAddrV6::new(address, PORT, 0, index).into())?;
        // It hears nothing: what is sent to it alone is no beacon.
        sends.attach_filter(&[SockFilter::new(RETURN, 0, 0, 0)])?;
        let (hears, sends) = (UdpSocket::from_std(hears.into())?, UdpSocket::from_std(sends.into())?);
        Ok(Self { name: name.to_owned(), address, hears, sends })
    }
}

const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// What the kernel hands over: with the hop limit no router has touched, from fe80::/10, and beginning as a beacon does. A
/// filter of a UDP socket sees the UDP header first, and the IPv6 header below `SKF_NET_OFF`.
fn filter() -> [SockFilter; 8] {
    const ALL: u32 = u32::MAX;
    let load = |size: u32, at: u32| SockFilter::new((libc::BPF_LD | size | libc::BPF_ABS) as u16, 0, 0, at);
    let equals = |value: u32, otherwise: u8| {
        SockFilter::new((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, 0, otherwise, value)
    };
    let network = |at: u32| (libc::SKF_NET_OFF as u32).wrapping_add(at);
    [
        load(libc::BPF_B, network(7)),
        equals(255, 5),
        // The first 16 bits of the source: with an EUI-64, a random or a stable address they are fe80.
        load(libc::BPF_H, network(8)),
        equals(0xfe80, 3),
        load(libc::BPF_H, 8),
        equals(u16::from_be_bytes(FIRST_BYTES).into(), 1),
        SockFilter::new(RETURN, 0, 0, ALL),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}

#[expect(clippy::disallowed_methods, reason = "the one place where discovery reads the clock")]
fn clock() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usable_link_local_addresses_are_found() {
        let listed = "00000000000000000000000000000001 01 80 10 80       lo\n\
                      fd000000000000000000000000000002 04 40 00 82     eth0\n\
                      fe8000000000000000fc00fffe000001 04 40 20 80     eth0\n\
                      fe80000000000000000000000000000b 0b 40 20 c0    mesh0\n\
                      fe80000000000000000000000000000c 0b 40 20 80    mesh0\n\
                      nonsense\n";
        let found = link_locals(listed);
        let address = |text: &str| text.parse::<Ipv6Addr>().expect("an address");
        assert_eq!(found[&4], ("eth0".to_owned(), vec![address("fe80::fc:ff:fe00:1")]));
        assert_eq!(found[&11], ("mesh0".to_owned(), vec![address("fe80::c")]), "one is still being tried");
        assert_eq!(found.len(), 2);
    }
}
