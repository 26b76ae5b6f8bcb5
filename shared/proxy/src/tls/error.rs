//! What can go wrong with TLS, and whose doing it was.

/// Who is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The peer broke the protocol or a limit.
    PeerMisbehaved,
    /// The peer is sound, but we have nothing in common: version, suite, ALPN.
    PeerIncompatible,
    /// The peer refused us and said so in an alert.
    PeerRefused,
    /// Our configuration or our use of this module.
    Ours,
}

impl Fault {
    /// A metric's label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Fault::PeerMisbehaved => "peer_misbehaved",
            Fault::PeerIncompatible => "peer_incompatible",
            Fault::PeerRefused => "peer_refused",
            Fault::Ours => "ours",
        }
    }
}

/// Why a connection's TLS ended.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
    #[error("ClientHello refused: {0}")]
    Hello(#[from] HelloError),
    #[error("not a TLS record")]
    BadRecord,
    #[error("the handshake took more than {} octets", super::HANDSHAKE_OCTETS_MAX)]
    HandshakeTooLong,
    #[error("an unfinished handshake message took more than {} octets", super::HELD_OCTETS_MAX)]
    HeldTooLong,
    #[error("the keys of this connection are used up")]
    KeysExhausted,
    #[error("application data was sent before the handshake was complete")]
    NotReady,
    #[error("this connection's TLS has ended")]
    Over,
    #[error("rustls reported a state that this version does not have")]
    Unexpected,
}

impl TlsError {
    /// The peer's certificate is missing, or not one that is wanted here.
    pub fn is_certificate(&self) -> bool {
        use rustls::Error;
        matches!(self, TlsError::Rustls(Error::NoCertificatesPresented | Error::InvalidCertificate(_)))
    }

    pub fn fault(&self) -> Fault {
        use rustls::Error;
        match self {
            TlsError::Rustls(error) => match error {
                Error::InappropriateMessage { .. }
                | Error::InappropriateHandshakeMessage { .. }
                | Error::InvalidEncryptedClientHello(_)
                | Error::InvalidMessage(_)
                | Error::UnsupportedNameType
                | Error::DecryptError
                | Error::PeerMisbehaved(_)
                | Error::PeerSentOversizedRecord => Fault::PeerMisbehaved,
                Error::NoCertificatesPresented
                | Error::PeerIncompatible(_)
                | Error::InvalidCertificate(_)
                | Error::InvalidCertRevocationList(_)
                | Error::NoApplicationProtocol => Fault::PeerIncompatible,
                Error::AlertReceived(_) => Fault::PeerRefused,
                _ => Fault::Ours,
            },
            TlsError::Hello(HelloError::PeerAlert(_)) => Fault::PeerRefused,
            TlsError::Hello(_) | TlsError::BadRecord | TlsError::HandshakeTooLong | TlsError::HeldTooLong => {
                Fault::PeerMisbehaved
            }
            TlsError::KeysExhausted | TlsError::NotReady | TlsError::Over | TlsError::Unexpected => Fault::Ours,
        }
    }
}

/// What our own reading of a ClientHello refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    #[error("not a TLS handshake")]
    NotTls,
    #[error("the peer sent alert {0}")]
    PeerAlert(u8),
    #[error("the first message is not a ClientHello")]
    NotHello,
    #[error("longer than {} octets", super::hello::HELLO_OCTETS_MAX)]
    TooLong,
    #[error("split over more than {} records", super::hello::HELLO_RECORDS_MAX)]
    TooManyRecords,
    #[error("more than {} octets came before a certificate was chosen", super::hello::PARKED_OCTETS_MAX)]
    TooMuchBehind,
    #[error("malformed")]
    Malformed,
    #[error("the server name is not a host name")]
    BadServerName,
}

impl HelloError {
    /// What to tell the peer; `None`: nothing.
    pub fn alert(self) -> Option<Alert> {
        match self {
            HelloError::PeerAlert(_) => None,
            HelloError::NotTls | HelloError::Malformed => Some(Alert::DecodeError),
            HelloError::NotHello | HelloError::TooManyRecords | HelloError::TooMuchBehind => {
                Some(Alert::UnexpectedMessage)
            }
            HelloError::TooLong | HelloError::BadServerName => Some(Alert::IllegalParameter),
        }
    }
}

/// Fatal alerts that can be sent before there are keys (RFC 8446 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Alert {
    UnexpectedMessage = 10,
    HandshakeFailure = 40,
    IllegalParameter = 47,
    DecodeError = 50,
    InternalError = 80,
    /// No certificate for this name, and there will be none.
    UnrecognizedName = 112,
}

impl Alert {
    /// As a plaintext record.
    pub fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[21, 3, 3, 0, 2, 2, self as u8]);
    }
}
