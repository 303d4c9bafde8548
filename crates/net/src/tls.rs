//! TLS 1.3 with raw public keys (RFC 7250): on every QUIC connection both sides prove the Ed25519
//! identity key of a node, and nothing else counts; names and dates in TLS mean nothing.
//!
//! Key exchange is X25519MLKEM768, or X25519; records are AES-256-GCM or ChaCha20-Poly1305
//! (identity.md §5). QUIC's Initial packets alone are AES-128-GCM, under keys that anybody can
//! derive (RFC 9001 §5.2). No session is resumed: each connection judges the key anew.
//!
//! On TCP it is another matter: see [`tcp_client_config`].

use std::fmt;
use std::sync::Arc;

use identity::{IdentityKey, IdentityPublic};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible,
    SignatureScheme,
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer,
    UnixTime,
};

/// What every dial passes as server name: it is not sent and has no meaning.
pub const SERVER_NAME: &str = "crabmesh.invalid";

/// Decides whether the holder of a key may be connected to at all, before anything else is said.
pub trait KeyVerifier: Send + Sync {
    /// Whether to go on with this peer, who will have proved that it holds the key.
    fn verify(&self, key: &IdentityPublic) -> bool;
}

/// Goes on with anybody who holds its key; what they may do is decided later, by what they prove.
#[derive(Clone, Copy, Debug)]
pub struct AnyKey;

/// Goes on with one peer only.
#[derive(Clone, Copy, Debug)]
pub struct OnlyKey(pub IdentityPublic);

impl KeyVerifier for AnyKey {
    fn verify(&self, _: &IdentityPublic) -> bool {
        true
    }
}

impl KeyVerifier for OnlyKey {
    fn verify(&self, key: &IdentityPublic) -> bool {
        *key == self.0
    }
}

impl<F: Fn(&IdentityPublic) -> bool + Send + Sync> KeyVerifier for F {
    fn verify(&self, key: &IdentityPublic) -> bool {
        self(key)
    }
}

/// A QUIC client that proves `key` and goes on with a server whose key `verifier` accepts. Its
/// transport is quinn's default: [`crate::endpoint`] has those that fit.
pub fn client_config(
    key: &IdentityKey,
    alpn: &[u8],
    verifier: Arc<dyn KeyVerifier>,
) -> Result<quinn::ClientConfig, TlsError> {
    let config = raw_client(key, alpn, verifier)?;
    let quic = QuicClientConfig::with_initial(Arc::new(config), initial_suite()?)
        .map_err(|_| TlsError::NoInitialSuite)?;
    Ok(quinn::ClientConfig::new(Arc::new(quic)))
}

fn raw_client(
    key: &IdentityKey,
    alpn: &[u8],
    verifier: Arc<dyn KeyVerifier>,
) -> Result<rustls::ClientConfig, TlsError> {
    let resolver = AlwaysResolvesClientRawPublicKeys::new(certified(key)?);
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(RawKeys(verifier)))
        .with_client_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![alpn.to_vec()];
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// A QUIC server that proves `key` and goes on with a client whose key `verifier` accepts. Its
/// transport is quinn's default: [`crate::endpoint`] has those that fit.
pub fn server_config(
    key: &IdentityKey,
    alpn: &[u8],
    verifier: Arc<dyn KeyVerifier>,
) -> Result<quinn::ServerConfig, TlsError> {
    let config = raw_server(key, alpn, verifier)?;
    let quic = QuicServerConfig::with_initial(Arc::new(config), initial_suite()?)
        .map_err(|_| TlsError::NoInitialSuite)?;
    Ok(quinn::ServerConfig::with_crypto(Arc::new(quic)))
}

fn raw_server(
    key: &IdentityKey,
    alpn: &[u8],
    verifier: Arc<dyn KeyVerifier>,
) -> Result<rustls::ServerConfig, TlsError> {
    let resolver = AlwaysResolvesServerRawPublicKeys::new(certified(key)?);
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(RawKeys(verifier)))
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![alpn.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// The key that the peer of a QUIC connection has proved.
pub fn peer_key(connection: &quinn::Connection) -> Option<IdentityPublic> {
    let shown = connection.peer_identity()?;
    let chain = shown.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    match chain.as_slice() {
        [only] => public_of(only),
        _ => None,
    }
}

/// Thirty-two bytes that only the two ends of this QUIC connection know (RFC 8446 §7.5).
pub fn exporter(connection: &quinn::Connection, label: &[u8], context: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    connection
        .export_keying_material(&mut bytes, label, context)
        .expect("32 bytes are within the exporter's limit of 255 hashes");
    bytes
}

/// TLS over TCP, the server's side: a self-signed certificate made now and thrown away with the
/// process.
pub fn tcp_server_config(alpn: &[u8]) -> Result<Arc<rustls::ServerConfig>, TlsError> {
    let made = rcgen::generate_simple_self_signed([SERVER_NAME.to_owned()])?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    tcp_server_config_with(alpn, vec![made.cert.der().clone()], key)
}

/// TLS over TCP, the server's side, with a certificate that the operator configured.
pub fn tcp_server_config_with(
    alpn: &[u8],
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<rustls::ServerConfig>, TlsError> {
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![alpn.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// TLS over TCP, the client's side. **It accepts any certificate of anybody.**
///
/// On networks without UDP a proxy often ends TLS and shows a certificate of its own, so this
/// layer only gets us through: it proves nothing and hides nothing from such a proxy. Who is who
/// is proved one layer up, by the link's challenge ([`wire::link::Transcript`]), and what the
/// link relays is WireGuard's ciphertext. Never use it for anything else.
pub fn tcp_client_config(alpn: &[u8]) -> Result<Arc<rustls::ClientConfig>, TlsError> {
    let provider = provider();
    let algorithms = provider.signature_verification_algorithms;
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(algorithms)))
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Why a TLS configuration could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The key or the suites do not suit rustls.
    #[error("tls could not be configured")]
    Config(#[from] Error),
    /// The self-signed certificate could not be made.
    #[error("a self-signed certificate could not be made")]
    Certificate(#[from] rcgen::Error),
    /// The cryptography lacks QUIC's suite for Initial packets.
    #[error("no cipher suite for quic's initial packets")]
    NoInitialSuite,
}

/// Accepts raw Ed25519 keys, as the verifier inside says; used by both sides.
struct RawKeys(Arc<dyn KeyVerifier>);

impl RawKeys {
    fn judge(&self, shown: &CertificateDer<'_>, more: &[CertificateDer<'_>]) -> Result<(), Error> {
        let key = match more {
            [] => {
                public_of(shown).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?
            }
            _ => return Err(Error::InvalidCertificate(CertificateError::BadEncoding)),
        };
        match self.0.verify(&key) {
            true => Ok(()),
            false => Err(Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            )),
        }
    }

    fn signature(
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let spki = SubjectPublicKeyInfoDer::from(shown.as_ref());
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature_with_raw_key(message, &spki, signed, &algorithms)
    }
}

impl ServerCertVerifier for RawKeys {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(end_entity, intermediates)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOfferedOrEnabled,
        ))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for RawKeys {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(end_entity, intermediates)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOfferedOrEnabled,
        ))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl fmt::Debug for RawKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RawKeys")
    }
}

/// Takes any X.509 certificate whose holder signs the handshake.
#[derive(Debug)]
struct AnyCertificate(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOfferedOrEnabled,
        ))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

fn provider() -> CryptoProvider {
    use aws_lc_rs::{cipher_suite, kx_group};
    CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519],
        ..aws_lc_rs::default_provider()
    }
}

fn initial_suite() -> Result<rustls::quic::Suite, TlsError> {
    aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256
        .tls13()
        .and_then(rustls::Tls13CipherSuite::quic_suite)
        .ok_or(TlsError::NoInitialSuite)
}

fn certified(key: &IdentityKey) -> Result<Arc<CertifiedKey>, TlsError> {
    let der = key.to_pkcs8_v1_der();
    let signer = aws_lc_rs::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(der.as_slice()))?;
    let spki = CertificateDer::from(spki_of(&key.public()));
    Ok(Arc::new(CertifiedKey::new(vec![spki], signer)))
}

/// The key as SubjectPublicKeyInfo (RFC 8410 §4): for Ed25519 there is exactly one encoding.
fn spki_of(key: &IdentityPublic) -> Vec<u8> {
    [&SPKI_PREFIX[..], &key.0].concat()
}

fn public_of(spki: &[u8]) -> Option<IdentityPublic> {
    let key = spki.strip_prefix(&SPKI_PREFIX)?;
    key.try_into().ok().map(IdentityPublic)
}

/// SEQUENCE { SEQUENCE { OID 1.3.101.112 }, BIT STRING of 32 bytes }.
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2A, 0x30, 0x05, 0x06, 0x03, 0x2B, 0x65, 0x70, 0x03, 0x21, 0x00,
];

#[cfg(test)]
mod tests {
    use rustls::{CipherSuite, ClientConnection, NamedGroup, ServerConnection};

    use super::*;

    fn key(seed: u8) -> IdentityKey {
        IdentityKey::generate([seed; 32])
    }

    /// Runs a handshake in memory; both ends, or the first error.
    fn handshake(
        client: rustls::ClientConfig,
        server: rustls::ServerConfig,
    ) -> Result<(ClientConnection, ServerConnection), Error> {
        let name = ServerName::try_from(SERVER_NAME).expect("a name");
        let mut client = ClientConnection::new(Arc::new(client), name)?;
        let mut server = ServerConnection::new(Arc::new(server))?;
        for _ in 0..6 {
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire).expect("a vector");
            }
            let mut bytes = wire.as_slice();
            while !bytes.is_empty() {
                server.read_tls(&mut bytes).expect("a slice");
                server.process_new_packets()?;
            }
            let mut wire = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut wire).expect("a vector");
            }
            let mut bytes = wire.as_slice();
            while !bytes.is_empty() {
                client.read_tls(&mut bytes).expect("a slice");
                client.process_new_packets()?;
            }
        }
        Ok((client, server))
    }

    #[test]
    fn both_sides_prove_their_key_under_ml_kem_and_aes_256() {
        let (a, b) = (key(1), key(2));
        let client = raw_client(&a, b"t", Arc::new(OnlyKey(b.public()))).expect("client");
        let server = raw_server(&b, b"t", Arc::new(OnlyKey(a.public()))).expect("server");

        let (client, server) = handshake(client, server).expect("each accepts the other");
        let group = client
            .negotiated_key_exchange_group()
            .map(|group| group.name());
        assert_eq!(group, Some(NamedGroup::X25519MLKEM768));
        let suite = server.negotiated_cipher_suite().map(|suite| suite.suite());
        assert_eq!(suite, Some(CipherSuite::TLS13_AES_256_GCM_SHA384));
        let shown = server.peer_certificates().expect("a key");
        assert_eq!(public_of(&shown[0]), Some(a.public()));
    }

    #[test]
    fn another_key_is_refused_on_either_side() {
        let (a, b, stranger) = (key(1), key(2), key(3));
        let refused = |client_wants: &IdentityKey, server_wants: &IdentityKey| {
            let client = raw_client(&a, b"t", Arc::new(OnlyKey(client_wants.public())));
            let server = raw_server(&b, b"t", Arc::new(OnlyKey(server_wants.public())));
            handshake(client.expect("client"), server.expect("server")).is_err()
        };

        assert!(refused(&stranger, &a));
        assert!(refused(&b, &stranger));
        assert!(!refused(&b, &a));
    }

    #[test]
    fn an_x509_certificate_is_no_raw_key() {
        let a = key(1);
        let client = raw_client(&a, b"t", Arc::new(AnyKey)).expect("client");
        let server = tcp_server_config(b"t").expect("server");
        let server = Arc::try_unwrap(server).expect("the only one");
        assert!(handshake(client, server).is_err());
    }

    #[test]
    fn only_the_one_encoding_of_an_ed25519_key_is_read() {
        let spki = spki_of(&key(1).public());
        assert_eq!(spki.len(), 44);
        assert_eq!(public_of(&spki), Some(key(1).public()));
        assert_eq!(public_of(&spki[..43]), None);
        let mut longer = spki.clone();
        longer.push(0);
        assert_eq!(public_of(&longer), None);
        let mut other = spki;
        other[8] = 0x71; // Ed448
        assert_eq!(public_of(&other), None);
    }
}
