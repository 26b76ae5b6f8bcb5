//! The token of the private port: in a file that only its owner reads, made when it is not there.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use arc_swap::ArcSwap;
use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};

/// Random octets of a token: as many as the hash that it is compared by.
const OCTETS: usize = 32;
/// A token that people made themselves has at least this many characters.
const SHORTEST: usize = 16;

#[derive(Debug)]
pub struct Token {
    file: PathBuf,
    /// Compared by hash: the time that takes says nothing about the token.
    hash: ArcSwap<[u8; 32]>,
}

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("the token file {} cannot be {what}: {source}", file.display())]
    Io { file: PathBuf, what: &'static str, source: io::Error },
    #[error("the token file {} can be read by others (mode {mode:o}): chmod 600 it, and replace the token", file.display())]
    Open { file: PathBuf, mode: u32 },
    #[error("the token in {} has fewer than {SHORTEST} characters: remove the file to have one made", file.display())]
    Short { file: PathBuf },
    #[error("no randomness for a token")]
    NoRandomness,
}

impl Token {
    /// Reads the file, or makes it.
    pub fn open(file: &Path) -> Result<Token, TokenError> {
        let hash = match read(file) {
            Err(TokenError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                make(file)?;
                read(file)?
            }
            read => read?,
        };
        Ok(Token { file: file.to_owned(), hash: ArcSwap::from_pointee(hash) })
    }

    pub fn file(&self) -> &Path {
        &self.file
    }

    pub fn reload(&self) -> Result<(), TokenError> {
        self.hash.store(std::sync::Arc::new(read(&self.file)?));
        Ok(())
    }

    /// Whether a request carries it.
    pub fn admits(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(value), None) = (values.next(), values.next()) else { return false };
        let Some((scheme, token)) = value.to_str().ok().and_then(|value| value.split_once(' ')) else { return false };
        let given: [u8; 32] = Sha256::digest(token.trim().as_bytes()).into();
        let differ = given.iter().zip(self.hash.load().iter()).fold(0, |differ, (a, b)| differ | (a ^ b));
        scheme.eq_ignore_ascii_case("bearer") && std::hint::black_box(differ) == 0
    }
}

fn read(file: &Path) -> Result<[u8; 32], TokenError> {
    let failed = |source| TokenError::Io { file: file.to_owned(), what: "read", source };
    let mode = fs::metadata(file).map_err(failed)?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(TokenError::Open { file: file.to_owned(), mode });
    }
    let text = fs::read_to_string(file).map_err(failed)?;
    let token = text.trim();
    if token.len() < SHORTEST {
        return Err(TokenError::Short { file: file.to_owned() });
    }
    Ok(Sha256::digest(token.as_bytes()).into())
}

/// Writes a new one aside and gives it its name, so that no reader finds half of it.
fn make(file: &Path) -> Result<(), TokenError> {
    let mut octets = [0; OCTETS];
    rustls::crypto::aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut octets)
        .map_err(|_| TokenError::NoRandomness)?;
    let text: String = octets.iter().map(|octet| format!("{octet:02x}")).collect();
    let failed = |source| TokenError::Io { file: file.to_owned(), what: "made", source };
    let aside = file.with_extension(format!("new-{}", std::process::id()));
    let _ = fs::remove_file(&aside);
    let mut opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside).map_err(failed)?;
    writeln!(opened, "{text}").and_then(|()| opened.sync_all()).map_err(failed)?;
    fs::rename(&aside, file).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn bearer(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())])
    }

    #[test]
    fn a_token_is_made_for_its_owner_alone_and_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        let token = Token::open(&file).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&file).unwrap();
        assert_eq!(text.trim().len(), 2 * OCTETS);
        assert!(token.admits(&bearer(&format!("Bearer {}", text.trim()))));
        assert!(Token::open(&file).unwrap().admits(&bearer(&format!("bearer {}", text.trim()))));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn nothing_but_the_token_is_let_in() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        let token = Token::open(&file).unwrap();
        let text = fs::read_to_string(&file).unwrap().trim().to_owned();
        assert!(!token.admits(&HeaderMap::new()));
        for wrong in [format!("Basic {text}"), text.clone(), format!("Bearer {}", &text[1..]), "Bearer ".into()] {
            assert!(!token.admits(&bearer(&wrong)), "{wrong}");
        }
        let mut twice = bearer(&format!("Bearer {text}"));
        twice.append(header::AUTHORIZATION, "Bearer x".parse().unwrap());
        assert!(!token.admits(&twice));
    }

    #[test]
    fn a_token_that_others_can_read_or_guess_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        fs::write(&file, "x".repeat(40)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Token::open(&file), Err(TokenError::Open { mode: 0o644, .. })));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        Token::open(&file).unwrap();
        fs::write(&file, "short").unwrap();
        assert!(matches!(Token::open(&file), Err(TokenError::Short { .. })));
    }
}
