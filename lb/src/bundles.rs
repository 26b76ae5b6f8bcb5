//! Bundles: an application's folder as a gzipped tar, named by the SHA-256 of its octets.
//!
//! An upload is written aside as it comes, measured and hashed, then read to see that it unpacks, stays inside its
//! folder and within the limits; only then does it get its name. Nothing is unpacked here: that is the host's work.

mod inspect;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt;

const SUFFIX: &str = ".tar.gz";

/// The directory of bundles.
#[derive(Clone, Debug)]
pub struct Bundles {
    dir: PathBuf,
    /// Bundles that no record names yet, or that are being pushed; they are not removed.
    pinned: Arc<Mutex<HashMap<String, usize>>>,
}

/// A bundle that was received, checked and kept. It is not removed as long as this lives.
#[derive(Debug)]
pub struct Received {
    pub digest: String,
    pub bytes: u64,
    /// What its `steady.toml` says.
    pub exclusive: bool,
    _pin: Pin,
}

#[derive(Debug)]
struct Pin {
    digest: String,
    pinned: Arc<Mutex<HashMap<String, usize>>>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pinned = self.pinned.lock().expect("no holder panics");
        if let Some(count) = pinned.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                pinned.remove(&self.digest);
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    #[error("the bundle has more than {most} octets: make the folder smaller, or raise limits.bundle_bytes_max")]
    TooLarge { most: u64 },
    #[error("the upload broke off: {0}")]
    Broken(String),
    #[error("this is no gzipped tar: {0}; send the folder as tar.gz")]
    Unreadable(String),
    #[error("{path:?} in the bundle {why}")]
    Entry { path: String, why: String },
    #[error("the bundle has no file in it")]
    Empty,
    #[error("{0}")]
    Limit(String),
    #[error("steady.toml: {0}")]
    Manifest(String),
    #[error("the bundle cannot be kept in {}: {source}", dir.display())]
    Disk { dir: PathBuf, source: io::Error },
}

impl BundleError {
    /// The HTTP status that says it.
    pub fn status(&self) -> u16 {
        match self {
            BundleError::TooLarge { .. } => 413,
            BundleError::Broken(_) => 400,
            BundleError::Disk { .. } => 507,
            _ => 422,
        }
    }
}

impl Bundles {
    /// Makes the directory, and removes what an earlier process was writing when it ended.
    pub fn open(dir: PathBuf) -> Result<Bundles, BundleError> {
        let disk = |source| BundleError::Disk { dir: dir.clone(), source };
        std::fs::create_dir_all(&dir).map_err(disk)?;
        for entry in std::fs::read_dir(&dir).map_err(disk)? {
            let path = entry.map_err(disk)?.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                std::fs::remove_file(path).map_err(disk)?;
            }
        }
        Ok(Bundles { dir, pinned: Arc::default() })
    }

    pub fn path(&self, digest: &str) -> PathBuf {
        self.dir.join(format!("{digest}{SUFFIX}"))
    }

    /// Takes an upload in. Memory stays constant whatever its size. `stall`: the longest time in which nothing may come.
    pub async fn receive<E: std::fmt::Display>(
        &self,
        mut body: impl Stream<Item = Result<bytes::Bytes, E>> + Unpin,
        most: u64,
        stall: Duration,
    ) -> Result<Received, BundleError> {
        let stalled = |_| BundleError::Broken(format!("nothing came for {}", steady_sys::text::format_duration(stall)));
        let disk = |source| BundleError::Disk { dir: self.dir.clone(), source };
        let aside = tempfile::Builder::new().prefix("upload-").suffix(".tmp").tempfile_in(&self.dir).map_err(disk)?;
        let mut file = tokio::fs::File::from_std(aside.reopen().map_err(disk)?);
        let mut hash = Sha256::new();
        let mut bytes = 0;
        while let Some(chunk) = tokio::time::timeout(stall, body.next()).await.map_err(stalled)? {
            let chunk = chunk.map_err(|error| BundleError::Broken(error.to_string()))?;
            bytes += chunk.len() as u64;
            if bytes > most {
                return Err(BundleError::TooLarge { most });
            }
            hash.update(&chunk);
            file.write_all(&chunk).await.map_err(disk)?;
        }
        // What was written last may have failed since; only this says so.
        file.flush().await.map_err(disk)?;
        file.sync_all().await.map_err(disk)?;
        let digest: String = hash.finalize().iter().map(|octet| format!("{octet:02x}")).collect();
        let this = self.clone();
        let work = tokio::task::spawn_blocking(move || this.keep(aside, digest, bytes));
        work.await.map_err(|error| BundleError::Broken(error.to_string()))?
    }

    /// Checks what was written aside and gives it its name.
    fn keep(&self, aside: NamedTempFile, digest: String, bytes: u64) -> Result<Received, BundleError> {
        let disk = |source| BundleError::Disk { dir: self.dir.clone(), source };
        inspect::refuse_metadata(aside.reopen().map_err(disk)?)?;
        let exclusive = inspect::inspect(aside.reopen().map_err(disk)?)?;
        *self.pinned.lock().expect("no holder panics").entry(digest.clone()).or_default() += 1;
        let pin = Pin { digest: digest.clone(), pinned: Arc::clone(&self.pinned) };
        aside.persist(self.path(&digest)).map_err(|error| disk(error.error))?;
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(disk)?;
        Ok(Received { digest, bytes, exclusive, _pin: pin })
    }

    /// Every bundle that is not in `used`.
    pub fn unused(&self, used: &HashSet<String>) -> io::Result<HashSet<String>> {
        let mut unused = HashSet::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            unused.extend(name.strip_suffix(SUFFIX).filter(|digest| !used.contains(*digest)).map(str::to_owned));
        }
        Ok(unused)
    }

    /// Removes one bundle unless it is on its way in. Whether it was there.
    pub fn remove(&self, digest: &str) -> io::Result<bool> {
        let pinned = self.pinned.lock().expect("no holder panics");
        if pinned.contains_key(digest) {
            return Ok(false);
        }
        match std::fs::remove_file(self.path(digest)) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Packs files into a bundle, for tests.
#[cfg(test)]
pub(crate) fn pack(files: &[(&str, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (path, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        // `set_path` refuses what a hostile client would write.
        let name = &mut header.as_gnu_mut().unwrap().name;
        name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        builder.append(&header, text.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap().finish().unwrap()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::io::Read;

    use tar::EntryType;

    use super::*;

    async fn receive(bundles: &Bundles, octets: Vec<u8>) -> Result<Received, BundleError> {
        let chunks: Vec<Result<bytes::Bytes, Infallible>> =
            octets.chunks(100).map(|chunk| Ok(bytes::Bytes::copy_from_slice(chunk))).collect();
        bundles.receive(futures_util::stream::iter(chunks), 1 << 20, Duration::from_secs(60)).await
    }

    fn link(path: &str, target: &str, kind: EntryType) -> Vec<u8> {
        let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_entry_type(kind);
        builder.append_link(&mut header, path, target).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        builder.append_data(&mut header, "file", io::empty()).unwrap();
        builder.into_inner().unwrap().finish().unwrap()
    }

    #[tokio::test]
    async fn a_bundle_is_kept_under_the_hash_of_its_octets() {
        let dir = tempfile::tempdir().unwrap();
        let bundles = Bundles::open(dir.path().into()).unwrap();
        let octets = pack(&[("./index.ts", "x"), ("steady.toml", "exclusive = true\n[env]\nA = \"b\"\n")]);
        let received = receive(&bundles, octets.clone()).await.unwrap();
        assert!(received.exclusive);
        assert_eq!(std::fs::read(bundles.path(&received.digest)).unwrap(), octets);
        let expected: String = Sha256::digest(&octets).iter().map(|octet| format!("{octet:02x}")).collect();
        assert_eq!(received.digest, expected);
    }

    #[tokio::test]
    async fn what_leads_out_of_its_folder_is_refused_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let bundles = Bundles::open(dir.path().into()).unwrap();
        for hostile in ["../x", "/etc/passwd", "a/../../x", ".."] {
            let refused = receive(&bundles, pack(&[(hostile, "x")])).await.unwrap_err();
            assert!(matches!(refused, BundleError::Entry { .. }), "{hostile}: {refused}");
        }
        for (path, target, kind) in [
            ("a/l", "../../x", EntryType::Symlink),
            ("l", "/etc", EntryType::Symlink),
            ("a/l", "../x", EntryType::Link),
        ] {
            let refused = receive(&bundles, link(path, target, kind)).await.unwrap_err();
            assert!(matches!(refused, BundleError::Entry { .. }), "{path} -> {target}: {refused}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        receive(&bundles, link("a/b/l", "../../x", EntryType::Symlink)).await.unwrap();
    }

    /// A file of `size` octets, all of which are a hole.
    fn sparse(size: u64) -> Vec<u8> {
        let octal = |text: &mut [u8], number: u64| text.copy_from_slice(format!("{number:011o}\0").as_bytes());
        let mut header = tar::Header::new_gnu();
        header.set_path("hole").unwrap();
        header.set_entry_type(EntryType::GNUSparse);
        header.set_size(0);
        let gnu = header.as_gnu_mut().unwrap();
        if size < 1 << 33 {
            octal(&mut gnu.realsize, size);
            octal(&mut gnu.sparse[0].offset, size);
        } else {
            // What octal digits cannot hold is binary, with the first bit set.
            for text in [&mut gnu.realsize, &mut gnu.sparse[0].offset] {
                text[0] = 0x80;
                text[4..].copy_from_slice(&size.to_be_bytes());
            }
        }
        octal(&mut gnu.sparse[0].numbytes, 0);
        header.set_cksum();
        let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
        builder.append(&header, io::empty()).unwrap();
        builder.into_inner().unwrap().finish().unwrap()
    }

    #[tokio::test]
    async fn a_sparse_file_is_refused_before_its_holes_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let bundles = Bundles::open(dir.path().into()).unwrap();
        // The small one first: taken, it ends.
        for size in [1 << 20, 1 << 60] {
            let refused = receive(&bundles, sparse(size)).await.unwrap_err();
            assert!(refused.to_string().contains("is a sparse file"), "{size}: {refused}");
            assert_eq!(refused.status(), 422);
        }
    }

    #[tokio::test]
    async fn names_and_records_larger_than_any_path_are_refused_before_they_are_read_into_memory() {
        let dir = tempfile::tempdir().unwrap();
        let bundles = Bundles::open(dir.path().into()).unwrap();
        let with = |kind: EntryType, content: &[u8]| {
            let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            let mut builder = tar::Builder::new(gzip);
            for (name, kind, content) in [("record", kind, content), ("file", EntryType::Regular, b"x")] {
                let mut header = tar::Header::new_gnu();
                header.set_entry_type(kind);
                header.set_size(content.len() as u64);
                builder.append_data(&mut header, name, content).unwrap();
            }
            builder.into_inner().unwrap().finish().unwrap()
        };
        let kinds = [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader, EntryType::XGlobalHeader];
        for kind in kinds {
            let refused = receive(&bundles, with(kind, &[b'x'; (64 << 10) + 1])).await.unwrap_err();
            assert!(refused.to_string().contains("has a name or a record of 65537 octets"), "{kind:?}: {refused}");
        }
        receive(&bundles, with(EntryType::GNULongName, &[b'x'; 200])).await.unwrap();
        // The second reading would step elsewhere than the first did.
        let refused = receive(&bundles, with(EntryType::XHeader, b"12 size=512\n")).await.unwrap_err();
        assert!(refused.to_string().contains("PAX record of its size"), "{refused}");
    }

    #[tokio::test]
    async fn a_manifest_that_the_host_would_read_otherwise_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let bundles = Bundles::open(dir.path().into()).unwrap();
        for kind in [EntryType::Symlink, EntryType::Link] {
            for path in ["steady.toml", "./steady.toml"] {
                let refused = receive(&bundles, link(path, "conf/steady.toml", kind)).await.unwrap_err();
                assert!(matches!(refused, BundleError::Entry { .. }) && refused.status() == 422, "{kind:?}: {refused}");
                assert!(refused.to_string().contains("must be a regular file"), "{refused}");
            }
        }
        let mut builder = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
        let text = "exclusive = true\n";
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(EntryType::Continuous);
        header.set_size(text.len() as u64);
        builder.append_data(&mut header, "steady.toml", text.as_bytes()).unwrap();
        let packed = builder.into_inner().unwrap().finish().unwrap();
        assert!(matches!(receive(&bundles, packed).await.unwrap_err(), BundleError::Entry { .. }));
    }

    #[tokio::test]
    async fn a_manifest_in_a_later_part_of_the_gzip_counts_as_it_does_on_the_host() {
        let dir = tempfile::tempdir().unwrap();
        let bundles = Bundles::open(dir.path().into()).unwrap();
        let whole = pack(&[("index.ts", "x"), ("steady.toml", "exclusive = true\n")]);
        let mut tar = Vec::new();
        flate2::read::GzDecoder::new(&whole[..]).read_to_end(&mut tar).unwrap();
        // A header and one block: the file before the manifest.
        let (first, second) = tar.split_at(1024);
        let mut parts = Vec::new();
        for part in [first, second] {
            let mut gzip = flate2::write::GzEncoder::new(&mut parts, flate2::Compression::fast());
            io::Write::write_all(&mut gzip, part).unwrap();
            gzip.finish().unwrap();
        }
        assert!(receive(&bundles, parts).await.unwrap().exclusive);
    }

    #[tokio::test]
    async fn what_is_no_bundle_is_refused_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let bundles = Bundles::open(dir.path().into()).unwrap();
        let whole = pack(&[("index.ts", &"x".repeat(5000))]);
        let mut damaged = whole.clone();
        let tail = damaged.len() - 6;
        damaged[tail] ^= 1;
        for octets in [b"hello".to_vec(), whole[..whole.len() / 2].to_vec(), damaged, Vec::new()] {
            let refused = receive(&bundles, octets).await.unwrap_err();
            assert!(matches!(refused, BundleError::Unreadable(_)), "{refused}");
        }
        assert!(matches!(receive(&bundles, pack(&[])).await.unwrap_err(), BundleError::Empty));
        let manifest = receive(&bundles, pack(&[("steady.toml", "exclusive = 3")])).await.unwrap_err();
        assert!(matches!(manifest, BundleError::Manifest(_)));
        let large = receive(&bundles, vec![0; (1 << 20) + 1]).await.unwrap_err();
        assert_eq!(large.status(), 413);
    }

    #[tokio::test]
    async fn an_upload_of_which_nothing_comes_is_given_up_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let bundles = Bundles::open(dir.path().into()).unwrap();
        let whole = pack(&[("index.ts", "x")]);
        let first: Result<bytes::Bytes, Infallible> = Ok(bytes::Bytes::copy_from_slice(&whole[..10]));
        let body = futures_util::stream::iter([first]).chain(futures_util::stream::pending());
        let given_up = bundles.receive(body, 1 << 20, Duration::from_millis(1)).await.unwrap_err();
        assert_eq!((given_up.status(), &*given_up.to_string()), (400, "the upload broke off: nothing came for 1ms"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_is_used_or_on_its_way_stays() {
        let dir = tempfile::tempdir().unwrap();
        let bundles = Bundles::open(dir.path().into()).unwrap();
        let a = receive(&bundles, pack(&[("a", "a")])).await.unwrap();
        let b = receive(&bundles, pack(&[("b", "b")])).await.unwrap();
        let c = receive(&bundles, pack(&[("c", "c")])).await.unwrap();
        let (a_digest, b_digest) = (a.digest.clone(), b.digest.clone());
        drop((a, b));
        let unused = bundles.unused(&HashSet::from([a_digest.clone()])).unwrap();
        assert_eq!(unused, HashSet::from([b_digest.clone(), c.digest.clone()]));
        assert!(bundles.remove(&b_digest).unwrap() && !bundles.remove(&c.digest).unwrap());
        assert!(bundles.path(&a_digest).exists() && !bundles.path(&b_digest).exists());
        assert!(bundles.path(&c.digest).exists());
    }
}
