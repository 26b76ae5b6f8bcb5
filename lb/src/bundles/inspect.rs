//! Reads a bundle to its end and refuses what a host would refuse, without unpacking anything.
//!
//! Twice. The first reading takes each header as it stands, and refuses what the second would read whole into memory however
//! large it is, or never be done with.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Component, Path, PathBuf};

use flate2::read::MultiGzDecoder;
use tar::{Archive, EntryType};

use super::BundleError;
use crate::limits::{BUNDLE_ENTRIES, BUNDLE_MANIFEST_BYTES, BUNDLE_METADATA_BYTES, BUNDLE_UNPACKED_BYTES};

type Source = Measured<MultiGzDecoder<BufReader<File>>>;

fn open(file: File) -> Archive<Source> {
    Archive::new(Measured { inner: MultiGzDecoder::new(BufReader::new(file)), left: BUNDLE_UNPACKED_BYTES })
}

fn unreadable(error: io::Error) -> BundleError {
    BundleError::Unreadable(error.to_string())
}

/// The first reading.
pub(super) fn refuse_metadata(file: File) -> Result<(), BundleError> {
    for entry in open(file).entries().map_err(unreadable)?.raw(true) {
        let entry = entry.map_err(unreadable)?;
        let refuse = |why: String| {
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            Err(BundleError::Entry { path, why })
        };
        match entry.header().entry_type() {
            EntryType::GNULongName | EntryType::GNULongLink | EntryType::XHeader | EntryType::XGlobalHeader
                if entry.size() > BUNDLE_METADATA_BYTES =>
            {
                let size = entry.size();
                return refuse(format!("has a name or a record of {size} octets; {BUNDLE_METADATA_BYTES} is the most"));
            }
            // A few octets of it stand for holes of any size, which nobody measures.
            EntryType::GNUSparse => return refuse("is a sparse file: pack it as a regular one".into()),
            _ => {}
        }
    }
    Ok(())
}

/// The second reading. Whether the application is exclusive.
pub(super) fn inspect(file: File) -> Result<bool, BundleError> {
    let mut archive = open(file);
    let (mut entries, mut files, mut exclusive) = (0_u64, 0_u64, false);
    for entry in archive.entries().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        entries += 1;
        if entries > BUNDLE_ENTRIES {
            return Err(BundleError::Limit(format!("the bundle has more than {BUNDLE_ENTRIES} entries")));
        }
        let path = entry.path().map_err(unreadable)?.into_owned();
        let refuse = |why: &str| BundleError::Entry { path: path.display().to_string(), why: why.into() };
        let Some(inside) = normal(&path) else { return Err(refuse("leads out of its folder")) };
        // It would have this reading step through the archive otherwise than the one before did.
        for record in entry.pax_extensions().map_err(unreadable)?.into_iter().flatten() {
            if record.map_err(unreadable)?.key_bytes() == b"size" {
                return Err(refuse("has a PAX record of its size: pack it without"));
            }
        }
        match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => files += 1,
            EntryType::Directory => {}
            EntryType::Symlink => {
                let target = entry.link_name().map_err(unreadable)?.ok_or_else(|| refuse("is a link to nothing"))?;
                let parent = inside.parent().unwrap_or(Path::new(""));
                if target.is_absolute() || normal_from(parent, &target).is_none() {
                    return Err(refuse("is a link that leads out of its folder"));
                }
            }
            EntryType::Link => {
                let target = entry.link_name().map_err(unreadable)?.ok_or_else(|| refuse("is a link to nothing"))?;
                if normal(&target).is_none() {
                    return Err(refuse("is a link that leads out of its folder"));
                }
            }
            EntryType::XGlobalHeader => {}
            _ => return Err(refuse("is neither a file, a directory nor a link")),
        }
        if inside == Path::new("steady.toml") {
            // Read here and, from what it unpacked, by the host: both must find the same.
            if entry.header().entry_type() != EntryType::Regular {
                return Err(refuse("must be a regular file: put its text there, not a link to it"));
            }
            exclusive = read_manifest(&mut entry)?;
        }
        io::copy(&mut entry, &mut io::sink()).map_err(unreadable)?;
    }
    // The checksum of the whole stands behind the tar's own end.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(unreadable)?;
    if files == 0 { Err(BundleError::Empty) } else { Ok(exclusive) }
}

/// `exclusive` of a `steady.toml`. The rest is the host's to judge.
fn read_manifest(entry: &mut impl Read) -> Result<bool, BundleError> {
    let mut text = String::new();
    let read = entry.take(BUNDLE_MANIFEST_BYTES + 1).read_to_string(&mut text);
    read.map_err(|error| BundleError::Manifest(error.to_string()))?;
    if text.len() as u64 > BUNDLE_MANIFEST_BYTES {
        return Err(BundleError::Manifest(format!("it has more than {BUNDLE_MANIFEST_BYTES} octets")));
    }
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| BundleError::Manifest(error.to_string()))?;
    match table.get("exclusive") {
        None => Ok(false),
        Some(toml::Value::Boolean(exclusive)) => Ok(*exclusive),
        Some(_) => Err(BundleError::Manifest("exclusive: write true or false".into())),
    }
}

/// The path without `.`; `None` if it is absolute or has `..`.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut inside = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::Normal(part) => inside.push(part),
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(inside)
}

/// Where `target` leads from the directory `parent`; `None` if that is outside.
fn normal_from(parent: &Path, target: &Path) -> Option<PathBuf> {
    let mut inside = parent.to_owned();
    for component in target.components() {
        match component {
            Component::CurDir => {}
            Component::Normal(part) => inside.push(part),
            Component::ParentDir => {
                if !inside.pop() {
                    return None;
                }
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(inside)
}

/// Stops at a bound, so that a small file cannot keep us unpacking for ever.
struct Measured<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Measured<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.left = self
            .left
            .checked_sub(read as u64)
            .ok_or_else(|| io::Error::other(format!("it unpacks to more than {BUNDLE_UNPACKED_BYTES} octets")))?;
        Ok(read)
    }
}
