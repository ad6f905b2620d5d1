//! TLS between nodes: 1.3 only, both sides with a certificate of this fleet's authority, a node's usage, and a place in
//! the list of members. Who joins has no certificate yet: that is another protocol (by ALPN) with a configuration of
//! its own, so that nobody without a certificate gets past the handshake of the first.

use super::authority::fingerprint;
use super::certificate::{self, Statement, Usage};
use super::identity::Identity;
use super::roster::Roster;
use ferry_model::error::{Error as FerryError, Kind, Result};
use ferry_model::ids::Hash;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    ServerConfig, SignatureScheme,
};
use std::sync::Arc;

/// Application protocol between nodes.
pub const PEER: &[u8] = b"ferry/1";

/// The same between nodes for what is to be read and written without a detour: see [`crate::peers`].
pub const PEER_DIRECT: &[u8] = b"ferry-direct/1";

/// Application protocol of a host that joins.
pub const JOIN: &[u8] = b"ferry-join/1";

/// Application protocol of the API.
pub const HTTP: &[u8] = b"http/1.1";

/// The configurations of a node.
#[derive(Clone)]
pub struct Tls {
    /// Towards peers.
    pub client: Arc<ClientConfig>,
    /// Towards peers, by [`PEER_DIRECT`] where the peer knows it.
    pub client_direct: Arc<ClientConfig>,
    /// For peers.
    pub server: Arc<ServerConfig>,
    /// For hosts that join; only of use on the authority's node.
    pub joining: Arc<ServerConfig>,
    /// For operators, who speak HTTP.
    pub api: Arc<ServerConfig>,
}

impl Tls {
    /// The configurations of the node that is `identity`, among `roster`.
    pub fn new(identity: &Identity, roster: &Arc<Roster>) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(identity.authority().clone()).map_err(|cause| unable(&cause))?;
        let roots = Arc::new(roots);

        let inner = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone());
        let inner = inner.build().map_err(|cause| unable(&cause))?;
        let verifier = Arc::new(PeerAsServer { inner, roster: roster.clone() });
        let client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13]);
        let client =
            client.map_err(|cause| unable(&cause))?.dangerous().with_custom_certificate_verifier(verifier);
        let mut client = client
            .with_client_auth_cert(identity.chain(), identity.key()?)
            .map_err(|cause| unable(&cause))?;
        client.alpn_protocols = vec![PEER.to_vec()];
        client.resumption = rustls::client::Resumption::disabled();
        let mut direct = client.clone();
        direct.alpn_protocols = vec![PEER_DIRECT.to_vec(), PEER.to_vec()];

        let inner = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
        let inner = inner.build().map_err(|cause| unable(&cause))?;
        let verifier = |check| Arc::new(PeerAsClient { inner: inner.clone(), roster: roster.clone(), check });
        let server = || {
            let builder = ServerConfig::builder_with_provider(provider.clone());
            builder.with_protocol_versions(&[&rustls::version::TLS13]).map_err(|cause| unable(&cause))
        };
        let finish = |builder: rustls::ConfigBuilder<ServerConfig, rustls::server::WantsServerCert>,
                      alpn: &[&[u8]]| {
            let config = builder.with_single_cert(identity.chain(), identity.key()?);
            let mut config = config.map_err(|cause| unable(&cause))?;
            config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
            // Unread tickets make a closing sender reset the connection, and the tail is lost.
            config.send_tls13_tickets = 0;
            Ok::<_, FerryError>(Arc::new(config))
        };
        Ok(Self {
            client: Arc::new(client),
            client_direct: Arc::new(direct),
            server: finish(
                server()?.with_client_cert_verifier(verifier(present_node)),
                &[PEER_DIRECT, PEER],
            )?,
            joining: finish(server()?.with_no_client_auth(), &[JOIN])?,
            api: finish(server()?.with_client_cert_verifier(verifier(present_operator)), &[HTTP])?,
        })
    }
}

/// The configuration of a joiner, who knows nothing but the fingerprint in its token. It sends nothing, not even the
/// name that it looks for, before the authority's node has shown that it is the one.
pub fn joiner(expected: Hash) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13]);
    let verifier = Arc::new(AuthorityByFingerprint { expected, provider });
    let config =
        config.map_err(|cause| unable(&cause))?.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = config.with_no_client_auth();
    config.alpn_protocols = vec![JOIN.to_vec()];
    config.enable_sni = false;
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

fn unable(cause: &(dyn std::error::Error + 'static)) -> FerryError {
    FerryError::from_source(Kind::Unable, cause).context("Connections to peers cannot be secured")
}

/// What a certificate says, once its chain is verified; an error that ends the handshake if it is no present node's.
fn present_node(certificate: &CertificateDer<'_>, roster: &Roster) -> Result<Statement, Error> {
    let said = certificate::read(certificate)
        .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
    if !said.usage.is_node() {
        return Err(Error::InvalidCertificate(CertificateError::InvalidPurpose));
    }
    if !roster.admits(&said.name, &said.serial) {
        return Err(Error::InvalidCertificate(CertificateError::Revoked));
    }
    Ok(said)
}

/// As [`present_node`], for an operator.
fn present_operator(certificate: &CertificateDer<'_>, roster: &Roster) -> Result<Statement, Error> {
    let said = certificate::read(certificate)
        .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
    if said.usage != Usage::Operator {
        return Err(Error::InvalidCertificate(CertificateError::InvalidPurpose));
    }
    if !roster.admits_operator(&said.name, &said.serial) {
        return Err(Error::InvalidCertificate(CertificateError::Revoked));
    }
    Ok(said)
}

macro_rules! signatures_as_inner {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.inner.verify_tls12_signature(message, certificate, signature)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.inner.verify_tls13_signature(message, certificate, signature)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.inner.supported_verify_schemes()
        }
    };
}

#[derive(Debug)]
struct PeerAsServer {
    inner: Arc<WebPkiServerVerifier>,
    roster: Arc<Roster>,
}

impl ServerCertVerifier for PeerAsServer {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.inner.verify_server_cert(certificate, chain, name, ocsp, now)?;
        present_node(certificate, &self.roster)?;
        Ok(verified)
    }

    signatures_as_inner!();
}

#[derive(Debug)]
struct PeerAsClient {
    inner: Arc<dyn ClientCertVerifier>,
    roster: Arc<Roster>,
    /// Who may come in: the rest of the handshake is the same for nodes and operators.
    check: fn(&CertificateDer<'_>, &Roster) -> Result<Statement, Error>,
}

impl ClientCertVerifier for PeerAsClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(certificate, chain, now)?;
        (self.check)(certificate, &self.roster)?;
        Ok(verified)
    }

    signatures_as_inner!();
}

/// The configuration of an operator, who shows `chain` and believes nodes of the fleet of `authority`: the one that is named in
/// the connection, or any of them.
pub fn operator(
    authority: &CertificateDer<'static>,
    chain: Vec<CertificateDer<'static>>,
    key: rustls::pki_types::PrivateKeyDer<'static>,
    any_node: bool,
) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone()).map_err(|cause| unable(&cause))?;
    let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let inner = inner.build().map_err(|cause| unable(&cause))?;
    let config =
        ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]);
    let config = config
        .map_err(|cause| unable(&cause))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(NodeOfFleet { inner, any_node }));
    let mut config = config.with_client_auth_cert(chain, key).map_err(|cause| unable(&cause))?;
    config.alpn_protocols = vec![HTTP.to_vec()];
    config.enable_sni = false;
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

#[derive(Debug)]
struct NodeOfFleet {
    inner: Arc<WebPkiServerVerifier>,
    any_node: bool,
}

impl ServerCertVerifier for NodeOfFleet {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let said = certificate::read(certificate)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        // An operator's certificate cannot play a node: it has another usage and another kind of name.
        if !said.usage.is_node() {
            return Err(Error::InvalidCertificate(CertificateError::InvalidPurpose));
        }
        let own = certificate::server_name(&said.name);
        let own = own.map_err(|_| Error::InvalidCertificate(CertificateError::NotValidForName))?;
        let name = if self.any_node { &own } else { name };
        self.inner.verify_server_cert(certificate, chain, name, ocsp, now)
    }

    signatures_as_inner!();
}

#[derive(Debug)]
struct AuthorityByFingerprint {
    expected: Hash,
    provider: Arc<rustls::crypto::CryptoProvider>,
}

impl ServerCertVerifier for AuthorityByFingerprint {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let root = chain.iter().find(|candidate| fingerprint(candidate) == self.expected);
        let root = root.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(root.clone().into_owned())?;
        let inner =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone()).build();
        let inner = inner.map_err(|_| Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let said = certificate::read(certificate)
            .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        // Any member can show the authority's certificate; only the authority's own node may be told the secret.
        if said.usage != Usage::Authority {
            return Err(Error::InvalidCertificate(CertificateError::InvalidPurpose));
        }
        let name = certificate::server_name(&said.name);
        let name = name.map_err(|_| Error::InvalidCertificate(CertificateError::NotValidForName))?;
        inner.verify_server_cert(certificate, chain, &name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
