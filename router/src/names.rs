//! Names inside the mesh: answers questions for `NAME.mesh` over UDP and TCP, from the config file and without the Internet.
//!
//! What is answered is decided by [`node::names`]. Here are the sockets, and bounds for what strangers may cost: questions are
//! answered in small batches with pauses between them, and of TCP there are a few connections of a few seconds.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use node::names::{Names, QUESTION_LENGTH_MAX};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use crate::config::Config;

/// Questions answered before the others' turn, and the pause after so many: at most 6,400 a second.
const BATCH: usize = 64;
const PAUSE: Duration = Duration::from_millis(10);
/// How often an address that cannot be had is tried again: it may come later, or another program may end.
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// TCP connections of one address at a time, how long each may take, and questions on it.
const CONNECTIONS_MAX: usize = 8;
const CONNECTION_TIME: Duration = Duration::from_secs(5);
const QUESTIONS_MAX: usize = 16;

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
pub(crate) async fn serve(at: SocketAddr, names: watch::Receiver<Names>) {
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
    tokio::join!(answer_datagrams(&udp, &names), answer_connections(&tcp, &names));
}

async fn bind(at: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    Ok((UdpSocket::bind(at).await?, TcpListener::bind(at).await?))
}

async fn answer_datagrams(socket: &UdpSocket, names: &watch::Receiver<Names>) {
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
        let answer = names.borrow().answer(&question[..len]);
        if let Some(answer) = answer {
            // What has no room is asked again.
            let _full = socket.try_send_to(&answer, from);
        }
    }
}

async fn answer_connections(listener: &TcpListener, names: &watch::Receiver<Names>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let names = names.clone();
                tokio::spawn(async move {
                    let _ended = timeout(CONNECTION_TIME, answer_connection(stream, names)).await;
                    drop(place);
                });
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// Each message stands after its length (RFC 1035, section 4.2.2).
async fn answer_connection(mut stream: TcpStream, names: watch::Receiver<Names>) -> io::Result<()> {
    for _ in 0..QUESTIONS_MAX {
        let length = usize::from(stream.read_u16().await?);
        if length > QUESTION_LENGTH_MAX {
            return Ok(());
        }
        let mut question = vec![0; length];
        stream.read_exact(&mut question).await?;
        let answer = names.borrow().answer(&question);
        let Some(answer) = answer else { return Ok(()) };
        let mut message = u16::try_from(answer.len()).unwrap_or(0).to_be_bytes().to_vec();
        message.extend(answer);
        stream.write_all(&message).await?;
    }
    Ok(())
}
