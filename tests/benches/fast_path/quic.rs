//! QUIC links, and what quinn itself does on the same cable: a stream as fast as it goes, and datagrams.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, SignatureScheme};

use crate::contender::Contender;
use crate::lab::{now, secs, until};
use crate::line::{Line, Node};
use crate::load::{Tcp, new_log};
use crate::report::Figures;
use crate::router::{Joint, PEERS, text};

/// The word behind which the bench's own program takes what quinn sends it, and the one behind which it sends.
pub(crate) const TAKE: &str = "quinn-take";
pub(crate) const SEND: &str = "quinn-send";

/// Where it takes it, beside the routers' ports.
const PORT: u16 = 4434;
const BLOCK: usize = 1 << 20;

/// A line of two over a QUIC link, and quinn between the same two machines.
pub(crate) fn quic(contender: &Contender, seconds: u32, figures: &mut Figures) {
    let line = Line::joined(contender, 2, Joint { link: "quic", ..PEERS });
    let tcp = line.carry(&Tcp::stream(seconds));
    figures.add("TCP over a QUIC link, Gb/s", tcp.received.gbit_per_s);
    figures.add("TCP over a QUIC link, both ends' CPU-s/GB", tcp.cpu_s_per_gb([0, 1]));
    for kind in ["stream", "datagrams"] {
        let gbit_per_s = by_quinn(&line, kind, seconds);
        figures.add(format!("quinn itself, {kind}, Gb/s"), gbit_per_s);
        figures.add(format!("link / quinn's {kind}"), tcp.received.gbit_per_s / gbit_per_s);
    }
    drop(line);
    let wireguard = Line::new(contender, 2).carry(&Tcp::stream(seconds));
    figures.add("TCP over a WireGuard link, Gb/s", wireguard.received.gbit_per_s);
    figures.add("QUIC link / WireGuard link", tcp.received.gbit_per_s / wireguard.received.gbit_per_s);
}

fn by_quinn(line: &Line, kind: &str, seconds: u32) -> f64 {
    let bench = std::env::current_exe().expect("a running program has a path");
    let at = format!("10.0.1.2:{PORT}");
    let (to, from): (&Node, &Node) = (line.last(), line.first());
    let mut taker = to.host.start(&new_log(&line.lab, "quinn-take"), &[text(&bench), TAKE, &at]);
    until("quinn", secs(10), || if taker.log().contains("ready") { Ok(()) } else { Err(taker.log()) });
    from.host.must(&[text(&bench), SEND, &at, kind, &seconds.to_string()]);
    taker.ended(secs(20));
    let log = taker.log();
    let rate = log.lines().find_map(|line| line.strip_prefix("Gb/s ")?.parse().ok());
    rate.unwrap_or_else(|| panic!("quinn took nothing: {log}"))
}

/// Takes one connection's bytes and says how fast they came.
pub(crate) fn take(words: &[String]) -> Result<String, String> {
    let at: SocketAddr = words.first().and_then(|at| at.parse().ok()).ok_or("an address is missing")?;
    inside(async move {
        let provider = Arc::new(ring::default_provider());
        let key = metering::TlsKey::pkcs8(&[1; 32]);
        let signer = ring::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(&key[..])).map_err(said)?;
        let spki = signer.public_key().ok_or("an Ed25519 key has a public half")?.to_vec();
        let certified = Arc::new(CertifiedKey::new(vec![spki.into()], signer));
        let tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(said)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(certified)));
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).map_err(said)?));
        // The sender's goodbye may be lost among its datagrams.
        let mut transport = quinn::TransportConfig::default();
        transport.max_idle_timeout(Some(Duration::from_secs(3).try_into().map_err(said)?));
        config.transport_config(Arc::new(transport));
        let endpoint = quinn::Endpoint::server(config, at).map_err(said)?;
        println!("ready");
        let connection = endpoint.accept().await.ok_or("closed")?.await.map_err(said)?;
        let began = now();
        let stream = async {
            let (mut bytes, mut took) = (0, Duration::ZERO);
            if let Ok(mut stream) = connection.accept_uni().await {
                let mut block = vec![0; BLOCK];
                while let Ok(Some(len)) = stream.read(&mut block).await {
                    (bytes, took) = (bytes + len, began.elapsed());
                }
            }
            (bytes, took)
        };
        let datagrams = async {
            let (mut bytes, mut took) = (0, Duration::ZERO);
            while let Ok(datagram) = connection.read_datagram().await {
                (bytes, took) = (bytes + datagram.len(), began.elapsed());
            }
            (bytes, took)
        };
        let (stream, datagrams) = tokio::join!(stream, datagrams);
        let (bytes, took) = stream.max(datagrams);
        Ok(format!("Gb/s {}", bytes as f64 * 8e-9 / took.as_secs_f64()))
    })
}

/// Sends as fast as it goes.
pub(crate) fn send(words: &[String]) -> Result<String, String> {
    let [at, kind, seconds] = words else { return Err("an address, a kind and seconds are asked for".to_owned()) };
    let at: SocketAddr = at.parse().map_err(said)?;
    let time = secs(seconds.parse().map_err(said)?);
    let datagrams = kind == "datagrams";
    inside(async move {
        let provider = Arc::new(ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(said)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            .with_no_client_auth();
        let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).map_err(said)?));
        let endpoint = quinn::Endpoint::client(SocketAddr::from(([0; 4], 0))).map_err(said)?;
        let connection = endpoint.connect_with(config, at, "quinn").map_err(said)?.await.map_err(said)?;
        let began = now();
        if datagrams {
            while began.elapsed() < time {
                let len = connection.max_datagram_size().ok_or("no datagrams")?;
                connection.send_datagram_wait(vec![0; len].into()).await.map_err(said)?;
            }
        } else {
            let (mut stream, block) = (connection.open_uni().await.map_err(said)?, vec![0; BLOCK]);
            while began.elapsed() < time {
                stream.write_all(&block).await.map_err(said)?;
            }
            stream.finish().map_err(said)?;
            stream.stopped().await.map_err(said)?;
        }
        connection.close(0_u32.into(), b"");
        endpoint.wait_idle().await;
        Ok(String::new())
    })
}

fn inside(work: impl Future<Output = Result<String, String>>) -> Result<String, String> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(said)?;
    runtime.block_on(work)
}

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Believes whoever answers: nothing is sent that is worth hiding.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _presented: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _presented: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        presented: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let spki = rustls::pki_types::SubjectPublicKeyInfoDer::from(presented.as_ref());
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature_with_raw_key(message, &spki, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
