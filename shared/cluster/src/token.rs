//! Join tokens: what a new host is handed, once, to become a member.
//!
//! `steady-join.v1.<sha256 of the authority's certificate>.<secret>`, both in hexadecimal. The fingerprint makes the first
//! contact safe: the host talks to nobody whose certificate that authority did not sign. The edge keeps the secret's hash.

use std::fmt;
use std::str::FromStr;

use crate::{Fingerprint, fingerprint, hex, unhex};

const PREFIX: &str = "steady-join";
const VERSION: &str = "v1";
const SECRET_OCTETS: usize = 32;

/// A token whole, as the host has it.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    authority: Fingerprint,
    secret: [u8; SECRET_OCTETS],
}

/// What is wrong with a text that should be a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    #[error("this is no join token; `steady join-token` makes one (steady-join.v1.…)")]
    NotOne,
    #[error("this join token is of another version of this program")]
    OtherVersion,
    #[error("this join token is cut or changed; copy it again")]
    Damaged,
}

impl JoinToken {
    pub fn new(authority: Fingerprint) -> JoinToken {
        let mut secret = [0; SECRET_OCTETS];
        random(&mut secret);
        JoinToken { authority, secret }
    }

    /// The authority that signed the certificate of every edge of the cluster.
    pub fn authority(&self) -> Fingerprint {
        self.authority
    }

    /// What is sent.
    pub fn secret(&self) -> String {
        hex(&self.secret)
    }

    /// What is stored; see [`hash`].
    pub fn hash(&self) -> Fingerprint {
        hash(&self.secret())
    }
}

/// What an edge keeps of a secret. 256 random bits need no slow hash.
pub fn hash(secret: &str) -> Fingerprint {
    fingerprint(secret.as_bytes())
}

impl FromStr for JoinToken {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<JoinToken, BadToken> {
        let mut parts = text.trim().split('.');
        if parts.next() != Some(PREFIX) {
            return Err(BadToken::NotOne);
        }
        if parts.next() != Some(VERSION) {
            return Err(BadToken::OtherVersion);
        }
        let authority = parts.next().and_then(unhex).ok_or(BadToken::Damaged)?;
        let secret = parts.next().and_then(unhex).ok_or(BadToken::Damaged)?;
        match parts.next() {
            None => Ok(JoinToken { authority, secret }),
            Some(_) => Err(BadToken::Damaged),
        }
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}.{VERSION}.{}.{}", hex(&self.authority), hex(&self.secret))
    }
}

/// Without the secret.
impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({})", hex(&self.authority[..4]))
    }
}

/// Fills with randomness that secrets may be made of.
pub(crate) fn random(octets: &mut [u8]) {
    let provider = steady_proxy::tls::provider();
    provider.secure_random.fill(octets).expect("the kernel has randomness once it has booted");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_was_written_and_does_not_tell_itself_in_logs() {
        let token = JoinToken::new([7; 32]);
        let text = token.to_string();
        assert_eq!(format!(" {text}\n").parse::<JoinToken>().unwrap(), token);
        assert_eq!(text, format!("steady-join.v1.{}.{}", "07".repeat(32), token.secret()));
        assert!(!format!("{token:?}").contains(&token.secret()));
        assert_ne!(JoinToken::new([7; 32]).secret(), token.secret());
    }

    #[test]
    fn a_text_that_is_cut_or_no_token_says_what_to_do() {
        let text = JoinToken::new([7; 32]).to_string();
        for cut in [&text[..text.len() - 1], &text[..text.len() - 65], &format!("{text}.x"), &text.replace("07", "0x")]
        {
            assert_eq!(cut.parse::<JoinToken>(), Err(BadToken::Damaged), "{cut}");
        }
        assert_eq!("hunter2".parse::<JoinToken>(), Err(BadToken::NotOne));
        assert_eq!(text.replace("v1", "v2").parse::<JoinToken>(), Err(BadToken::OtherVersion));
    }
}
