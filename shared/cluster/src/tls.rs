//! TLS between members: configurations for rustls, made of an [`Identity`]. TLS 1.3 alone: both sides are ours.
//!
//! A change of certificate or trust is another configuration: connections that are open keep theirs to their end, new ones
//! take the new. Sessions are resumed within one configuration only, so that nothing outlives a change of trust.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::ResolvesClientCert;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, Error, RootCertStore, ServerConfig, SignatureScheme};
use steady_proxy::tls::{TicketKeys, provider};

use crate::verify::{OnlyRole, Pinned};
use crate::{Fingerprint, Identity, Role};

/// What hosts' data ports speak.
pub const H2: &[u8] = b"h2";
/// What the private ports speak.
pub const HTTP1: &[u8] = b"http/1.1";

/// One certificate, whatever is asked for.
#[derive(Debug)]
struct Own(Arc<CertifiedKey>);

impl ResolvesServerCert for Own {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl ResolvesClientCert for Own {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// For a host's data port: edges of the cluster and nobody else; HTTP/2.
pub fn data_server(identity: &Identity) -> Result<Arc<ServerConfig>, Error> {
    let chain = WebPkiClientVerifier::builder_with_provider(identity.roots(), provider()).build();
    let chain = chain.map_err(|error| Error::General(error.to_string()))?;
    server(identity, Arc::new(OnlyRole { chain, role: Role::Edge }), H2)
}

/// For a private port: members show their certificate, others come without one and prove themselves otherwise; HTTP/1.1.
pub fn private_server(identity: &Identity) -> Result<Arc<ServerConfig>, Error> {
    let chain =
        WebPkiClientVerifier::builder_with_provider(identity.roots(), provider()).allow_unauthenticated().build();
    server(identity, chain.map_err(|error| Error::General(error.to_string()))?, HTTP1)
}

fn server(identity: &Identity, clients: Arc<dyn ClientCertVerifier>, alpn: &[u8]) -> Result<Arc<ServerConfig>, Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(Arc::new(Own(identity.certified())));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer =
        Arc::new(TicketKeys::in_memory(SystemTime::now()).map_err(|error| Error::General(error.to_string()))?);
    config.send_tls13_tickets = 1;
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(Arc::new(config))
}

/// Towards hosts' data ports. The name to ask for is [`Member::server_name`](crate::Member::server_name).
pub fn data_client(identity: &Identity) -> Result<Arc<ClientConfig>, Error> {
    client(identity, H2)
}

/// Towards private ports, as a member.
pub fn private_client(identity: &Identity) -> Result<Arc<ClientConfig>, Error> {
    client(identity, HTTP1)
}

fn client(identity: &Identity, alpn: &[u8]) -> Result<Arc<ClientConfig>, Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(identity.roots())
        .with_client_cert_resolver(Arc::new(Own(identity.certified())));
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(Arc::new(config))
}

/// Towards an edge's private port, with nothing but the fingerprint of its authority and no certificate of our own.
pub fn first_contact(authority: Fingerprint) -> Result<Arc<ClientConfig>, Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned::new(authority)))
        .with_no_client_auth();
    config.alpn_protocols = vec![HTTP1.to_vec()];
    Ok(Arc::new(config))
}

/// Towards an edge's private port, trusting the authorities of a PEM file: for people's commands.
///
/// # Errors
/// When the text is no PEM, or has no certificate that can be an authority's.
pub fn client_trusting(pem: &str) -> Result<Arc<ClientConfig>, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.map_err(|error| Error::General(error.to_string()))?)?;
    }
    if roots.is_empty() {
        return Err(Error::General("there is none in it".to_owned()));
    }
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![HTTP1.to_vec()];
    Ok(Arc::new(config))
}
