//! TLS 1.3 with pinned raw public keys (RFC 7250): no certificates, no names, no authorities.
//!
//! Each side presents its Ed25519 key as a bare `SubjectPublicKeyInfo` and accepts only keys it was told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use metering::SortedSet;
use metering::identity::TlsKey;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::crypto::{CryptoError, HmacKey};
use quinn::{ConnectionId, ConnectionIdGenerator};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::tls13::HkdfExpander;
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureScheme,
    SupportedCipherSuite,
};

/// The application protocol both sides must name (RFC 7301).
pub(super) const ALPN: &[u8] = b"waybill/1";

/// Long enough to be unguessable (RFC 9000, section 10.3), short enough to leave room for the packet.
const CONNECTION_ID_LEN: usize = 8;

/// Our own side of every handshake.
pub(super) struct Credentials {
    key: TlsKey,
    certified: Arc<CertifiedKey>,
    provider: Arc<CryptoProvider>,
    prk: Arc<dyn HkdfExpander>,
}

impl Credentials {
    /// `secret` is the Ed25519 seed (RFC 8032, section 5.1.5).
    pub(super) fn new(secret: &[u8; 32]) -> Result<Self, Error> {
        let pkcs8 = TlsKey::pkcs8(secret);
        let signer = ring::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(&pkcs8[..]))?;
        let spki = signer.public_key().map(|spki| spki.to_vec());
        let spki = spki.ok_or(CertificateError::BadEncoding)?;
        let key = TlsKey::from_spki(&spki).ok_or(CertificateError::BadEncoding)?;
        Ok(Self {
            key,
            certified: Arc::new(CertifiedKey::new(vec![spki.into()], signer)),
            provider: Arc::new(provider()),
            prk: extract(secret)?,
        })
    }

    /// The key we present.
    pub(super) const fn key(&self) -> TlsKey {
        self.key
    }

    /// What we dial with: the other side must hold one of the pinned keys.
    pub(super) fn client(&self, pins: &Arc<Pins>) -> Result<quinn::ClientConfig, Error> {
        let resolver = AlwaysResolvesClientRawPublicKeys::new(self.certified.clone());
        let mut config = rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(pins.clone())
            .with_client_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.enable_sni = false;
        config.resumption = Resumption::disabled(); // every handshake proves the key anew
        let crypto = QuicClientConfig::try_from(config).map_err(no_initial_suite)?;
        Ok(quinn::ClientConfig::new(Arc::new(crypto)))
    }

    /// What we answer with: the dialling side must hold one of the pinned keys.
    pub(super) fn server(&self, pins: &Arc<Pins>) -> Result<quinn::ServerConfig, Error> {
        let resolver = AlwaysResolvesServerRawPublicKeys::new(self.certified.clone());
        let mut config = rustls::ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(pins.clone())
            .with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.ignore_client_order = !aes_in_hardware(); // the side without it has the choice
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let crypto = QuicServerConfig::try_from(config).map_err(no_initial_suite)?;
        Ok(quinn::ServerConfig::with_crypto(Arc::new(crypto)))
    }

    /// Makes the tokens of our stateless resets (RFC 9000, section 10.3.2). They follow from the secret: after
    /// a restart we can still tell a neighbour that its connection is gone, and it redials at once.
    pub(super) fn reset_key(&self) -> Arc<dyn HmacKey> {
        Arc::new(ResetKey(self.prk.clone()))
    }

    /// Makes the connection IDs we issue: unpredictable, and never one of before a restart.
    pub(super) fn connection_ids(&self) -> Result<ConnectionIds, Error> {
        let mut start = [0; 16];
        self.provider.secure_random.fill(&mut start)?;
        Ok(ConnectionIds { prk: self.prk.clone(), start, issued: 0 })
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (f.debug_struct("Credentials").field("key", &self.key)).finish_non_exhaustive()
    }
}

/// The keys we accept from the other side, and the last one we did not.
#[derive(Debug)]
pub(super) struct Pins {
    accepted: ArcSwap<SortedSet<TlsKey>>,
    /// Whatever key is proven is accepted.
    open: AtomicBool,
    refused: ArcSwapOption<TlsKey>,
    provider: Arc<CryptoProvider>,
}

impl Pins {
    pub(super) fn new(accepted: impl IntoIterator<Item = TlsKey>) -> Arc<Self> {
        Arc::new(Self {
            accepted: ArcSwap::from_pointee(accepted.into_iter().collect()),
            open: AtomicBool::new(false),
            refused: ArcSwapOption::empty(),
            provider: Arc::new(provider()),
        })
    }

    /// Accepts these from now on, and no others.
    pub(super) fn accept(&self, keys: impl IntoIterator<Item = TlsKey>) {
        self.accepted.store(Arc::new(keys.into_iter().collect()));
    }

    /// Accepts every key from now on: the handshake still proves that the other side holds it.
    pub(super) fn open(&self) {
        self.open.store(true, Ordering::Relaxed);
    }

    /// The last key that was presented and is not pinned.
    pub(super) fn refused(&self) -> Option<TlsKey> {
        self.refused.load().as_deref().copied()
    }

    /// `access_denied` is what the other side reads of a refusal (RFC 8446, section 6.2).
    fn check(&self, presented: &CertificateDer<'_>) -> Result<(), Error> {
        let key = TlsKey::from_spki(presented).ok_or(CertificateError::BadEncoding)?;
        if self.open.load(Ordering::Relaxed) || self.accepted.load().contains(&key) {
            return Ok(());
        }
        self.refused.store(Some(Arc::new(key)));
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn check_signature(
        &self,
        message: &[u8],
        presented: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let spki = SubjectPublicKeyInfoDer::from(presented.as_ref());
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &spki, signature, algorithms)
    }
}

impl ServerCertVerifier for Pins {
    fn verify_server_cert(
        &self,
        presented: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(presented)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _presented: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        presented: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, presented, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Pins {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        presented: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(presented)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _presented: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls13RequiredForQuic.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        presented: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, presented, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// The key at the other end of a connection whose handshake is complete.
pub(super) fn key_of(connection: &quinn::Connection) -> Option<TlsKey> {
    let identity = connection.peer_identity()?;
    let presented = identity.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    TlsKey::from_spki(presented.first()?)
}

/// Connection IDs (RFC 9000, section 5.1): a keyed hash of where we started and how many we issued.
#[derive(Clone)]
pub(super) struct ConnectionIds {
    prk: Arc<dyn HkdfExpander>,
    start: [u8; 16],
    issued: u64,
}

impl ConnectionIdGenerator for ConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        self.issued = self.issued.wrapping_add(1);
        let mut id = [0; CONNECTION_ID_LEN];
        let info: [&[u8]; 3] = [b"waybill quic connection id 1", &self.start, &self.issued.to_be_bytes()];
        expand(&*self.prk, &info, &mut id);
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

struct ResetKey(Arc<dyn HkdfExpander>);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        expand(&*self.0, &[b"waybill quic stateless reset 1", data], signature_out);
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let mut expected = [0; 32];
        self.sign(data, &mut expected);
        if expected[..] == *signature { Ok(()) } else { Err(CryptoError) }
    }
}

/// One key exchange and two ciphers, the one this machine is faster at first: AES-128-GCM takes a fifth of
/// ChaCha20-Poly1305's time where the CPU has instructions for it, and several times as long where not.
fn provider() -> CryptoProvider {
    let mut suites = vec![AES, CHACHA20];
    if !aes_in_hardware() {
        suites.reverse();
    }
    CryptoProvider { cipher_suites: suites, kx_groups: vec![ring::kx_group::X25519], ..ring::default_provider() }
}

const AES: SupportedCipherSuite = ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
const CHACHA20: SupportedCipherSuite = ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256;

fn aes_in_hardware() -> bool {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    return std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

/// HKDF-Extract (RFC 5869) of the TLS secret, for keys that must survive a restart.
fn extract(secret: &[u8; 32]) -> Result<Arc<dyn HkdfExpander>, Error> {
    let suite = AES.tls13().ok_or(PeerIncompatible::Tls13RequiredForQuic)?;
    Ok((suite.hkdf_provider).extract_from_secret(None, secret).into())
}

/// HKDF-Expand (RFC 5869).
fn expand(prk: &dyn HkdfExpander, info: &[&[u8]], output: &mut [u8]) {
    let filled = prk.expand_slice(info, output);
    debug_assert!(filled.is_ok(), "HKDF gives up to 255 hashes");
}

fn no_initial_suite(error: quinn::crypto::rustls::NoInitialCipherSuite) -> Error {
    Error::General(error.to_string())
}

#[cfg(test)]
mod tests {
    use metering::identity::{Identity, Seed};

    use super::*;

    #[test]
    fn the_key_presented_is_the_one_on_the_node_card() {
        let identity = Identity::new(&Seed::from_bytes([7; 32]));
        let credentials = Credentials::new(&identity.tls_secret()).unwrap();
        assert_eq!(credentials.key(), identity.tls_key());
    }

    #[test]
    fn reset_tokens_survive_a_restart_and_connection_ids_do_not() {
        let start = |secret: u8| {
            let credentials = Credentials::new(&[secret; 32]).unwrap();
            let mut token = [0; 32];
            credentials.reset_key().sign(b"an id", &mut token);
            let mut ids = credentials.connection_ids().unwrap();
            (token, [ids.generate_cid(), ids.generate_cid()])
        };
        let ((before, old), (after, new), (other, _)) = (start(1), start(1), start(2));
        assert_eq!(before, after);
        assert_ne!(before, other);
        assert_eq!(SortedSet::from([&old[0][..], &old[1], &new[0], &new[1]]).len(), 4);
    }
}
