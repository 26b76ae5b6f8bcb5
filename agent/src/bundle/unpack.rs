//! Unpacks a tar.gz that nobody vouches for into a folder that nothing of it can leave.
//!
//! Two passes. [`check`] walks the raw headers and refuses what is not a file, a folder or a link, what is too much, and
//! metadata entries (long names, PAX records) large enough to be an attack on memory. [`unpack`] then writes: paths are
//! relative and plain, nothing is ever written through a link, symbolic links are made last and must lead to a place
//! inside, modes keep no more than "may be executed".

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use flate2::read::MultiGzDecoder;
use tar::{Archive, EntryType};

use crate::config::BundleLimits;

/// Octets of one metadata entry: far above any path that a file system takes.
const METADATA_OCTETS_MAX: u64 = 64 << 10;
/// Folders within folders.
const DEPTH_MAX: usize = 64;

/// Why an archive was refused.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("{path:?} would lie outside its folder")]
    Escapes { path: PathBuf },
    #[error("{path:?} is a {kind}; only files, folders and links are taken")]
    Kind { path: PathBuf, kind: &'static str },
    #[error("{path:?} is there twice, or is a file where a folder is needed")]
    Clash { path: PathBuf },
    #[error("it holds more than {max} files (bundles.files_max)")]
    TooMany { max: u64 },
    #[error("unpacked it is larger than {max} octets (bundles.unpacked_bytes_max)")]
    TooMuch { max: u64 },
    #[error("it holds metadata of {octets} octets; {METADATA_OCTETS_MAX} is the most")]
    Metadata { octets: u64 },
    #[error("it is not a tar.gz that can be read: {0}")]
    Damaged(io::Error),
    #[error("it cannot be written: {0}")]
    Write(io::Error),
}

type Source = io::Take<MultiGzDecoder<BufReader<File>>>;

fn open(archive: File, limits: &BundleLimits) -> Archive<Source> {
    // A header and padding are at most 1 KiB an entry beside its content; metadata entries are counted as files too.
    let most =
        limits.unpacked_bytes_max.saturating_add(limits.files_max.saturating_mul(2 * 1024)).saturating_add(1 << 20);
    Archive::new(MultiGzDecoder::new(BufReader::with_capacity(64 << 10, archive)).take(most))
}

/// Reads the whole archive without writing anything.
pub fn check(archive: File, limits: &BundleLimits) -> Result<(), UnpackError> {
    let mut archive = open(archive, limits);
    let mut totals = Totals::default();
    for entry in archive.entries().map_err(UnpackError::Damaged)?.raw(true) {
        let entry = entry.map_err(UnpackError::Damaged)?;
        let kind = entry.header().entry_type();
        let is_metadata = kind.is_pax_local_extensions()
            || kind.is_pax_global_extensions()
            || kind.is_gnu_longname()
            || kind.is_gnu_longlink();
        if is_metadata && entry.size() > METADATA_OCTETS_MAX {
            return Err(UnpackError::Metadata { octets: entry.size() });
        }
        totals.add(entry.size(), limits)?;
    }
    Ok(())
}

/// Writes the archive's content into `folder`, which exists and is empty. On an error the folder's content is undefined.
pub fn unpack(archive: File, folder: &Path, limits: &BundleLimits) -> Result<(), UnpackError> {
    let root = folder.canonicalize().map_err(UnpackError::Write)?;
    let mut archive = open(archive, limits);
    let mut totals = Totals::default();
    let mut links = Vec::new();
    for entry in archive.entries().map_err(UnpackError::Damaged)? {
        let mut entry = entry.map_err(UnpackError::Damaged)?;
        let named = entry.path().map_err(UnpackError::Damaged)?.into_owned();
        let kind = entry.header().entry_type();
        if kind == EntryType::XGlobalHeader {
            continue;
        }
        refuse_size_records(&mut entry)?;
        let path = plain(&named)?;
        totals.add(entry.size(), limits)?;
        match kind {
            EntryType::Directory => make_folders(&root, &path)?,
            EntryType::Regular | EntryType::Continuous => {
                let executable = entry.header().mode().is_ok_and(|mode| mode & 0o111 != 0);
                let to = new_place(&root, &path)?;
                write_file(&mut entry, &to, executable)?;
            }
            EntryType::Link => {
                let target = plain(&link_name(&entry, &named)?)?;
                let to = new_place(&root, &path)?;
                copy_file(&root, &target, &to, |octets| totals.grow(octets, limits))?;
            }
            EntryType::Symlink => links.push((path, link_name(&entry, &named)?)),
            other => return Err(UnpackError::Kind { path: named, kind: kind_name(other) }),
        }
    }
    make_links(&root, &links)
}

#[derive(Default)]
struct Totals {
    files: u64,
    octets: u64,
}

impl Totals {
    fn add(&mut self, octets: u64, limits: &BundleLimits) -> Result<(), UnpackError> {
        self.files += 1;
        if self.files > limits.files_max {
            return Err(UnpackError::TooMany { max: limits.files_max });
        }
        self.grow(octets, limits)
    }

    fn grow(&mut self, octets: u64, limits: &BundleLimits) -> Result<(), UnpackError> {
        self.octets = self.octets.saturating_add(octets);
        if self.octets > limits.unpacked_bytes_max {
            return Err(UnpackError::TooMuch { max: limits.unpacked_bytes_max });
        }
        Ok(())
    }
}

/// A PAX `size` record would make this pass step differently through the archive than `check` did.
fn refuse_size_records<R: Read>(entry: &mut tar::Entry<'_, R>) -> Result<(), UnpackError> {
    let Some(extensions) = entry.pax_extensions().map_err(UnpackError::Damaged)? else { return Ok(()) };
    for extension in extensions {
        let extension = extension.map_err(UnpackError::Damaged)?;
        if extension.key_bytes() == b"size" {
            return Err(UnpackError::Damaged(io::Error::other("PAX size records are not taken")));
        }
    }
    Ok(())
}

/// The path without `.`; refuses absolute ones and `..`.
fn plain(path: &Path) -> Result<PathBuf, UnpackError> {
    let escapes = || UnpackError::Escapes { path: path.to_owned() };
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return Err(escapes()),
        }
    }
    if plain.components().count() > DEPTH_MAX { Err(escapes()) } else { Ok(plain) }
}

fn link_name<R: Read>(entry: &tar::Entry<'_, R>, named: &Path) -> Result<PathBuf, UnpackError> {
    let target = entry.link_name().map_err(UnpackError::Damaged)?;
    let escapes = || UnpackError::Escapes { path: named.to_owned() };
    target.map(|target| target.into_owned()).filter(|target| !target.as_os_str().is_empty()).ok_or_else(escapes)
}

/// Makes every folder of `path` below `root`. None of them may be anything but a real folder.
fn make_folders(root: &Path, path: &Path) -> Result<(), UnpackError> {
    let mut at = root.to_owned();
    for part in path.components() {
        at.push(part);
        match fs::create_dir(&at) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if !fs::symlink_metadata(&at).map_err(UnpackError::Write)?.is_dir() {
                    return Err(UnpackError::Clash { path: path.to_owned() });
                }
            }
            Err(error) => return Err(UnpackError::Write(error)),
        }
    }
    Ok(())
}

/// Where a new file or link goes: its folders are made, and nothing is there yet.
fn new_place(root: &Path, path: &Path) -> Result<PathBuf, UnpackError> {
    let name: OsString = match path.file_name() {
        Some(name) => name.to_owned(),
        None => return Err(UnpackError::Clash { path: path.to_owned() }),
    };
    let parent = path.parent().unwrap_or(Path::new(""));
    make_folders(root, parent)?;
    Ok(root.join(parent).join(name))
}

fn write_file(from: &mut impl Read, to: &Path, executable: bool) -> Result<(), UnpackError> {
    let mode = if executable { 0o755 } else { 0o644 };
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(mode).open(to).map_err(|error| clash(error, to))?;
    io::copy(from, &mut file).map(drop).map_err(UnpackError::Write)
}

/// A hard link becomes a copy: two names of one file would change together. Its octets are `counted` before they are written.
fn copy_file(
    root: &Path,
    target: &Path,
    to: &Path,
    counted: impl FnOnce(u64) -> Result<(), UnpackError>,
) -> Result<(), UnpackError> {
    let from = root.join(target);
    let clash_here = || UnpackError::Clash { path: target.to_owned() };
    let meta = fs::symlink_metadata(&from).map_err(|_| clash_here())?;
    if !meta.is_file() || to.exists() {
        return Err(clash_here());
    }
    counted(meta.len())?;
    fs::copy(&from, to).map(drop).map_err(UnpackError::Write)
}

/// Links last, so that no file was written through one; then each is followed, chains and all, and must end inside.
fn make_links(root: &Path, links: &[(PathBuf, PathBuf)]) -> Result<(), UnpackError> {
    for (path, target) in links {
        if !stays_inside(path, target) {
            return Err(UnpackError::Escapes { path: path.clone() });
        }
        let at = new_place(root, path)?;
        symlink(target, &at).map_err(|error| clash(error, path))?;
    }
    for (path, _) in links {
        match root.join(path).canonicalize() {
            Ok(real) if !real.starts_with(root) => return Err(UnpackError::Escapes { path: path.clone() }),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => return Err(UnpackError::Escapes { path: path.clone() }),
        }
    }
    Ok(())
}

fn stays_inside(path: &Path, target: &Path) -> bool {
    let mut depth = path.components().count() as i64 - 1;
    for part in target.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir => depth -= 1,
            Component::RootDir | Component::Prefix(_) => return false,
        }
        if depth < 0 {
            return false;
        }
    }
    true
}

fn clash(error: io::Error, path: &Path) -> UnpackError {
    let is_clash = error.kind() == io::ErrorKind::AlreadyExists;
    if is_clash { UnpackError::Clash { path: path.to_owned() } } else { UnpackError::Write(error) }
}

fn kind_name(kind: EntryType) -> &'static str {
    match kind {
        EntryType::Char => "character device",
        EntryType::Block => "block device",
        EntryType::Fifo => "named pipe",
        EntryType::GNUSparse => "sparse file",
        _ => "thing of an unknown kind",
    }
}
