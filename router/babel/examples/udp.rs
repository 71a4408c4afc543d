//! A speaker on one real interface, to be watched beside other Babel daemons.
//!
//! `udp LINK_LOCAL SCOPE_ID PREFIX LEN [wired]` announces PREFIX/LEN, speaks on UDP port 6696 of the
//! interface and prints what it learns. It changes no kernel route. Needs no privilege.
#![expect(clippy::print_stdout, reason = "printing is its purpose")]

use babel::wire::{MULTICAST_GROUP, PORT};
use babel::{Config, Destination, InterfaceConfig, InterfaceId, Metric, Prefix, RouterId, Seqno, Speaker};
use std::error::Error;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant};

const INTERFACE: InterfaceId = InterfaceId(1);

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [link_local, scope, addr, len, kind @ ..] = arguments.as_slice() else {
        return Err("usage: udp LINK_LOCAL SCOPE_ID PREFIX LEN [wired]".into());
    };
    let (link_local, scope): (Ipv6Addr, u32) = (link_local.parse()?, scope.parse()?);
    let prefix = Prefix::new(addr.parse()?, len.parse()?).ok_or("a length is at most 128")?;
    let config = if kind.is_empty() { InterfaceConfig::tunnel(link_local) } else { InterfaceConfig::wired(link_local) };

    let socket = UdpSocket::bind(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, PORT, 0, 0))?;
    socket.join_multicast_v6(&MULTICAST_GROUP, scope)?;
    socket.set_multicast_loop_v6(false)?;
    let octets = link_local.octets();
    let name = RouterId::new(*octets.last_chunk().ok_or("an address has 16 octets")?).ok_or("a bad router-id")?;
    let mut speaker = Speaker::new(Config::new(name, Seqno(1)), u64::from(scope));
    speaker.handle_originate(now(), prefix, Metric::ZERO);
    speaker.handle_interface_up(now(), INTERFACE, config);
    loop {
        speaker.handle_timeout(now());
        drain(&mut speaker, &socket, scope)?;
        receive(&mut speaker, &socket, link_local)?;
        drain(&mut speaker, &socket, scope)?;
    }
}

/// Waits for one packet, or until a timer is due.
fn receive(speaker: &mut Speaker, socket: &UdpSocket, link_local: Ipv6Addr) -> Result<(), Box<dyn Error>> {
    let wait = speaker.poll_timeout().map_or(Duration::from_secs(1), |at| at.saturating_duration_since(now()));
    socket.set_read_timeout(Some(wait.max(Duration::from_millis(1))))?;
    let mut buffer = vec![0; 65_536];
    let Ok((length, SocketAddr::V6(from))) = socket.recv_from(&mut buffer) else {
        return Ok(());
    };
    if *from.ip() != link_local
        && let Err(error) =
            speaker.handle_packet(now(), INTERFACE, *from.ip(), Destination::Multicast, &buffer[..length])
    {
        println!("refused: {error}");
    }
    Ok(())
}

fn drain(speaker: &mut Speaker, socket: &UdpSocket, scope: u32) -> std::io::Result<()> {
    while let Some(transmit) = speaker.poll_transmit(now()) {
        let to = match transmit.to {
            Destination::Multicast => MULTICAST_GROUP,
            Destination::Unicast(address) => address,
        };
        socket.send_to(&transmit.payload, SocketAddrV6::new(to, PORT, 0, scope))?;
    }
    while let Some(event) = speaker.poll_event() {
        println!("{event:?}");
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the one place where this program reads the clock")]
fn now() -> Instant {
    Instant::now()
}
