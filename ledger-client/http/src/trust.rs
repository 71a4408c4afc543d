//! Whom a client takes for the ledger: one pinned Ed25519 key, or whoever a file of certificate authorities vouches for.
//!
//! The ledger's key signs checkpoints, and where no certificate was bought it is the TLS key too, in a certificate that it
//! signs itself. The three uses cannot be taken for each other: what TLS 1.3 has a server sign begins with 64 spaces
//! (RFC 8446, section 4.4.3), a certificate with an ASN.1 sequence, a checkpoint with its origin.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use metering::TlsKey;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, PeerIncompatible, SignatureScheme};
use sha2::{Digest, Sha256};

/// The protocol both sides name (RFC 7301).
pub(crate) const ALPN: &[u8] = b"http/1.1";

/// The hash of the key, as `curl --pinnedpubkey` takes it (RFC 7469, section 2.4).
#[must_use]
pub fn pin_text(key: &TlsKey) -> String {
    format!("sha256//{}", STANDARD.encode(Sha256::digest(key.spki())))
}

/// How a client dials a ledger whose TLS key is `key`, whatever its certificate says besides.
///
/// # Errors
/// [`Error`], where TLS 1.3 cannot be had.
pub fn pinned(key: &TlsKey) -> Result<ClientConfig, Error> {
    let provider = Arc::new(ring::default_provider());
    let pin = Pin { spki: key.spki(), provider: provider.clone() };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(pin))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// Whether a certificate is refused because it is not valid yet: the clock may be wrong.
pub(crate) fn is_early(error: &Error) -> bool {
    let early = |error: &CertificateError| {
        matches!(error, CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. })
    };
    matches!(error, Error::InvalidCertificate(error) if early(error))
}

#[derive(Debug)]
struct Pin {
    spki: Vec<u8>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        presented: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if ParsedCertificate::try_from(presented)?.subject_public_key_info().as_ref() == self.spki {
            return Ok(ServerCertVerified::assertion());
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _presented: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::ServerDoesNotSupportTls12Or13.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        presented: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, presented, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// The TLS side of a server that has bought no certificate.
#[cfg(feature = "server")]
mod own {
    use rcgen::{CertificateParams, DnType, KeyPair};
    use rustls::ServerConfig;
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};

    use super::{ALPN, Arc, CertificateDer, TLS13, TlsKey, ring};

    /// Why a server has no TLS.
    #[derive(Debug, thiserror::Error)]
    pub enum TlsError {
        /// The certificate could not be made.
        #[error("cannot make a certificate: {_0}")]
        Certificate(#[from] rcgen::Error),
        /// The certificate's file or its key's does not read.
        #[error("the certificate or its key does not read as PEM: {_0}")]
        Pem(#[from] rustls::pki_types::pem::Error),
        /// Key and certificate do not go together, or are of a kind that cannot be used.
        #[error("the certificate or its key cannot be used: {_0}")]
        Unusable(#[from] rustls::Error),
    }

    /// A certificate that the ledger's own key has signed, for clients that pin it. `secret` is the Ed25519 seed
    /// (RFC 8032, section 5.1.5).
    ///
    /// # Errors
    /// [`TlsError`]
    pub fn self_signed(secret: &[u8; 32]) -> Result<ServerConfig, TlsError> {
        let pkcs8 = TlsKey::pkcs8(secret);
        let pair = KeyPair::try_from(&PrivatePkcs8KeyDer::from(&pkcs8[..]))?;
        let mut parameters = CertificateParams::new(vec!["waybill-ledger".to_owned()])?;
        parameters.distinguished_name.push(DnType::CommonName, "waybill-ledger");
        let certificate = parameters.self_signed(&pair)?;
        let key = PrivatePkcs8KeyDer::from(pkcs8.to_vec());
        configured(vec![certificate.der().clone()], key.into())
    }

    /// A certificate that was bought, both in PEM.
    ///
    /// # Errors
    /// [`TlsError`]
    pub fn certified(chain: &[u8], key: &[u8]) -> Result<ServerConfig, TlsError> {
        let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>()?;
        configured(chain, PrivateKeyDer::from_pem_slice(key)?)
    }

    fn configured(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<ServerConfig, TlsError> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13])?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(config)
    }
}

#[cfg(feature = "server")]
pub use own::{TlsError, certified, self_signed};

/// How a client dials a ledger that has bought a certificate: `authorities` are the ones it believes, in PEM, and `clock` says what
/// time certificates have to be good for, in seconds since 1970-01-01, UTC.
///
/// # Errors
/// [`Error`], where none of them reads.
pub fn vouched_for(authorities: &[u8], clock: fn() -> u64) -> Result<ClientConfig, Error> {
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(CertificateDer::pem_slice_iter(authorities).flatten());
    if added == 0 {
        return Err(Error::General("no certificate of an authority reads".to_owned()));
    }
    let mut config = ClientConfig::builder_with_details(Arc::new(ring::default_provider()), Arc::new(Clock(clock)))
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

/// What time certificates have to be good for.
#[derive(Debug)]
struct Clock(fn() -> u64);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs((self.0)())))
    }
}

#[cfg(all(test, feature = "server"))]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
    use rustls::{ClientConnection, ServerConnection};

    use super::*;

    fn pem(what: &str, der: &[u8]) -> String {
        format!("-----BEGIN {what}-----\n{}\n-----END {what}-----\n", STANDARD.encode(der))
    }

    /// An authority, and a certificate of its for 2026-03 with its key.
    fn bought() -> Result<(String, rustls::ServerConfig), TlsError> {
        let key = |seed: u8| TlsKey::pkcs8(&[seed; 32]);
        let pair = |seed| KeyPair::try_from(&key(seed)[..]);
        let mut authority = CertificateParams::new(Vec::new())?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = authority.self_signed(&pair(1)?)?;
        let mut own = CertificateParams::new(vec!["ledger.example".to_owned()])?;
        (own.not_before, own.not_after) = (date_time_ymd(2026, 3, 1), date_time_ymd(2026, 4, 1));
        let own = own.signed_by(&pair(2)?, &Issuer::new(authority, pair(1)?))?;
        let server = certified(pem("CERTIFICATE", own.der()).as_bytes(), pem("PRIVATE KEY", &key(2)).as_bytes())?;
        Ok((pem("CERTIFICATE", root.der()), server))
    }

    #[test]
    fn a_certificate_has_to_be_good_at_the_time_that_the_caller_s_clock_says() {
        let (authorities, server) = bought().expect("a certificate");
        let at = |clock: fn() -> u64| -> Result<(), Error> {
            let config = vouched_for(authorities.as_bytes(), clock)?;
            let mut client = ClientConnection::new(config.into(), "ledger.example".try_into().unwrap())?;
            let mut server = ServerConnection::new(Arc::new(server.clone()))?;
            while client.is_handshaking() {
                let mut wire = Vec::new();
                client.write_tls(&mut wire).unwrap();
                server.read_tls(&mut &wire[..]).unwrap();
                server.process_new_packets()?;
                wire.clear();
                while server.wants_write() {
                    server.write_tls(&mut wire).unwrap();
                }
                client.read_tls(&mut &wire[..]).unwrap();
                client.process_new_packets()?;
            }
            Ok(())
        };
        assert!(is_early(&at(|| 0).unwrap_err()), "a router that begins in 1970");
        assert!(is_early(&at(|| 1_772_323_199).unwrap_err()), "2026-02-28");
        assert_eq!(at(|| 1_772_323_200), Ok(()));
        assert_eq!(at(|| 1_775_001_599), Ok(()));
        assert!(!is_early(&at(|| 1_775_001_601).unwrap_err()), "it has ended");
    }
}
