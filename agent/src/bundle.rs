//! Folders that were sent here, by the SHA-256 of the tar.gz that carried them.
//!
//! A bundle arrives as a stream into a temporary file, bounded and hashed as it comes; when the digest is right it is
//! checked whole ([`unpack`]), unpacked beside its place, synced, and renamed to `bundles/DIGEST`. Whoever needs one holds
//! it ([`Held`]); what nobody has held for a while is collected.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use sha2::{Digest as _, Sha256};
use steady_sys::process::sync_file_system;

use crate::config::BundleLimits;
use crate::records::Digest;
use crate::tree;

pub mod unpack;

/// Why a bundle was not taken.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("it is larger than {max} octets (bundles.bytes_max)")]
    TooLarge { max: u64 },
    #[error("its SHA-256 is {found}, not {wanted}: send what you have hashed")]
    OtherDigest { found: String, wanted: String },
    #[error("{0}")]
    Unpack(#[from] unpack::UnpackError),
    #[error("the transfer broke off: {0}")]
    Transfer(String),
    #[error("it cannot be stored: {0}")]
    Store(#[from] io::Error),
}

/// The bundles of this host. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Bundles {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    incoming: PathBuf,
    limits: BundleLimits,
    /// How many hold each. Also guards every rename in and out of `dir`.
    holders: Mutex<HashMap<Digest, usize>>,
}

/// Keeps a bundle from being collected.
#[derive(Debug)]
pub struct Held {
    inner: Arc<Inner>,
    digest: Digest,
}

impl Held {
    pub fn folder(&self) -> PathBuf {
        self.inner.dir.join(self.digest.as_str())
    }

    pub fn digest(&self) -> &Digest {
        &self.digest
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut holders = self.inner.holders.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = holders.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                holders.remove(&self.digest);
            }
        }
    }
}

impl Bundles {
    /// Opens the store in `state_dir`, and removes what an earlier agent left half done or could not remove.
    pub fn open(state_dir: &Path, limits: BundleLimits) -> io::Result<Self> {
        let dir = state_dir.join("bundles");
        let incoming = state_dir.join("incoming");
        fs::create_dir_all(&dir)?;
        fs::create_dir_all(&incoming)?;
        for entry in fs::read_dir(&incoming)? {
            let path = entry?.path();
            // It takes room and nothing else: no reason to start nothing.
            if let Err(error) = tree::remove(&path) {
                tracing::warn!(%error, path = %path.display(), "what an earlier agent left cannot be removed; remove it");
            }
        }
        Ok(Self { inner: Arc::new(Inner { dir, incoming, limits, holders: Mutex::default() }) })
    }

    pub fn has(&self, digest: &Digest) -> bool {
        self.inner.dir.join(digest.as_str()).is_dir()
    }

    /// Whether it is here; then it is as young as if it had just come, for whoever asks is about to want it.
    pub fn renew(&self, digest: &Digest) -> bool {
        // Under the lock of whoever collects: it is gone by now, or it stays for the grace.
        let _guard = self.inner.holders.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = File::open(self.inner.dir.join(digest.as_str()));
        folder.is_ok_and(|folder| match folder.set_modified(SystemTime::now()) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, digest = digest.as_str(), "a bundle's time cannot be set; it may be collected");
                true
            }
        })
    }

    /// Holds a bundle; `None` when it is not here.
    pub fn hold(&self, digest: &Digest) -> Option<Held> {
        let mut holders = self.inner.holders.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.has(digest) {
            return None;
        }
        *holders.entry(digest.clone()).or_default() += 1;
        Some(Held { inner: Arc::clone(&self.inner), digest: digest.clone() })
    }

    /// Takes a bundle from a stream. When this returns `Ok` it is whole, checked, and survives a power cut. A bundle that
    /// is here already is not read again.
    pub async fn put<S, E>(&self, digest: &Digest, body: S) -> Result<(), BundleError>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
        E: std::fmt::Display,
    {
        if self.renew(digest) {
            return Ok(());
        }
        let archive = self.receive(digest, body).await?;
        let inner = Arc::clone(&self.inner);
        let digest = digest.clone();
        tokio::task::spawn_blocking(move || inner.place(&digest, archive.path())).await.map_err(io::Error::other)?
    }

    /// Streams the archive into a temporary file, checking size and digest.
    async fn receive<S, E>(&self, digest: &Digest, mut body: S) -> Result<tempfile::NamedTempFile, BundleError>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
        E: std::fmt::Display,
    {
        let max = self.inner.limits.bytes_max;
        let mut file = Some(tempfile::NamedTempFile::new_in(&self.inner.incoming)?);
        let mut hash = Sha256::new();
        let mut received: u64 = 0;
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|error| BundleError::Transfer(error.to_string()))?;
            received += piece.len() as u64;
            if received > max {
                return Err(BundleError::TooLarge { max });
            }
            let Some(mut to) = file.take() else { break };
            // Hash and disk are both too slow for the control thread.
            let work = tokio::task::spawn_blocking(move || {
                hash.update(&piece);
                let written = to.write_all(&piece);
                (to, hash, written)
            });
            let (to, hash_so_far, written) = work.await.map_err(io::Error::other)?;
            written?;
            (file, hash) = (Some(to), hash_so_far);
        }
        let found = hex(&hash.finalize());
        if found != digest.as_str() {
            return Err(BundleError::OtherDigest { found, wanted: digest.as_str().to_owned() });
        }
        file.ok_or_else(|| BundleError::Store(io::Error::other("the temporary file is gone")))
    }

    /// Removes a tree of an application; where that fails it is at least not in its place any more, and goes at the next start.
    /// `name`: of no other tree at this moment. Blocking.
    pub fn discard(&self, tree: &Path, name: &str) -> io::Result<()> {
        tree::remove_or_set_aside(tree, &self.inner.incoming, name)
    }

    /// Removes every bundle that nobody holds and that is older than `grace`. One that cannot be removed is told of, and keeps
    /// none of the others. Blocking. Returns how many went.
    pub fn collect(&self, grace: Duration, now: SystemTime) -> io::Result<usize> {
        let mut collected = 0;
        for entry in fs::read_dir(&self.inner.dir)? {
            let entry = entry?;
            let Some(digest) = entry.file_name().to_str().and_then(Digest::parse) else { continue };
            let removed = match self.inner.take_out(&entry, &digest, grace, now) {
                Ok(None) => continue,
                Ok(Some(aside)) => tree::remove(&aside),
                Err(error) => Err(error),
            };
            match removed {
                Ok(()) => collected += 1,
                Err(error) => tracing::warn!(%error, digest = digest.as_str(), "an unused bundle cannot be removed"),
            }
        }
        Ok(collected)
    }
}

impl Inner {
    /// Takes a bundle out of its place, if it is old and nobody holds it; to where. Needs no room on the disk: it may be full.
    fn take_out(
        &self,
        entry: &fs::DirEntry,
        digest: &Digest,
        grace: Duration,
        now: SystemTime,
    ) -> io::Result<Option<PathBuf>> {
        let holders = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        let modified = entry.metadata()?.modified()?;
        let is_young = now.duration_since(modified).map_or(true, |age| age < grace);
        if is_young || holders.contains_key(digest) {
            return Ok(None);
        }
        tree::set_aside(&entry.path(), &self.incoming, digest.as_str()).map(Some)
    }

    fn place(&self, digest: &Digest, archive: &Path) -> Result<(), BundleError> {
        let aside = tempfile::tempdir_in(&self.incoming)?;
        let folder = aside.path().join("bundle");
        fs::create_dir(&folder)?;
        unpack::check(File::open(archive)?, &self.limits)?;
        unpack::unpack(File::open(archive)?, &folder, &self.limits)?;
        sync_file_system(&File::open(&folder)?)?;
        let place = self.dir.join(digest.as_str());
        let _guard = self.holders.lock().unwrap_or_else(PoisonError::into_inner);
        // Two uploads of the same bundle: the first has won, and they are equal.
        if !place.is_dir() {
            fs::rename(&folder, &place)?;
            File::open(&self.dir)?.sync_all()?;
        }
        Ok(())
    }
}

/// Octets as lower-case hexadecimal.
pub fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
