//! How rustls is set up, in one place for every connection of ours.

use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, ProducesTickets, ResolvesServerCert};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// Tickets sent after a full TLS 1.3 handshake. Ours are stateless and can be used more than once, so that a second one
/// buys nothing; a client that wants more asks for it (RFC 9149), and rustls caps that.
const TICKETS_PER_HANDSHAKE: usize = 1;

/// aws-lc-rs with rustls' defaults, built once a process.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())).clone()
}

/// TLS 1.2 and 1.3 towards clients. `alpn` in our order of preference; a client that offers none of them is refused, one
/// that offers no ALPN at all is not. Without a `ticketer` no session is ever resumed. Early data (0-RTT) is off: a replay
/// would run twice. No session is kept in memory, so that workers share nothing but the ticket keys.
pub fn server_config(
    resolver: Arc<dyn ResolvesServerCert>,
    ticketer: Option<Arc<dyn ProducesTickets>>,
    alpn: &[&[u8]],
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = if ticketer.is_some() { TICKETS_PER_HANDSHAKE } else { 0 };
    if let Some(ticketer) = ticketer {
        config.ticketer = ticketer;
    }
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.max_early_data_size = 0;
    config.max_fragment_size = None;
    Ok(config)
}

/// TLS 1.2 and 1.3 towards servers that `roots` vouch for, without a certificate of our own.
pub fn client_config(roots: RootCertStore, alpn: &[&[u8]]) -> Result<ClientConfig, rustls::Error> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.enable_early_data = false;
    Ok(config)
}
