//! A folder as the archive that a deployment sends: the same folder always gives the same octets, whatever the machine,
//! the user and the clock, so that its digest names its content.
//!
//! Entries are sorted by path, owner 0:0, time 0, mode 0644 or 0755 as the file's owner may execute it. Symbolic links are
//! kept as links when they stay inside the folder, and refused otherwise. Left out: [`NEVER`] and what `.steadyignore` says.

mod ignore;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use flate2::{Compression, GzBuilder};
use serde::Deserialize;
use tar::{Builder, EntryType, Header};

use crate::error::Error;
use ignore::Ignore;

/// Never part of an application: version control's own, our state, what an interpreter or a desktop leaves behind.
const NEVER: [&str; 7] = [".git", ".hg", ".svn", ".steady", "__pycache__", ".DS_Store", ".steadyignore"];
/// An application's folder is source and assets; one larger than this is most likely the wrong folder (a home directory).
const FOLDER_BYTES_MAX: u64 = 512 << 20;
/// As above, for many small files.
const FOLDER_FILES_MAX: usize = 100_000;
/// A DNS label (RFC 1035, section 2.3.4).
const NAME_LEN_MAX: usize = 63;

/// A folder, ready to send.
#[derive(Debug)]
pub struct Packed {
    pub name: String,
    /// tar.gz
    pub archive: Vec<u8>,
    pub files: usize,
}

/// What of `steady.toml` matters here; the host reads the rest.
#[derive(Debug, Default, Deserialize)]
struct SteadyToml {
    name: Option<String>,
}

/// Packs `folder`. The name is the one given, else `name` in its `steady.toml`, else the folder's own made into a label.
pub fn pack(folder: &Path, name: Option<&str>) -> Result<Packed, Error> {
    let root = fs::canonicalize(folder).map_err(|error| {
        Error::Usage(format!("cannot deploy {}: {error}; give the application's folder", folder.display()))
    })?;
    if !root.is_dir() {
        return Err(Error::Usage(format!(
            "{} is a file; an application is a folder: give the one that holds it",
            folder.display()
        )));
    }
    let name = app_name(&root, name)?;
    let entries = walk(&root)?;
    if entries.is_empty() {
        return Err(Error::Usage(format!("{} holds nothing to deploy", folder.display())));
    }
    let archive = archive(&root, &entries)
        .map_err(|error| Error::Failed(format!("cannot pack {}: {error}", folder.display())))?;
    let files = entries.iter().filter(|entry| entry.kind != Kind::Folder).count();
    Ok(Packed { name, archive, files })
}

/// Whether `name` may name an application: a DNS label in lower case.
pub fn check_name(name: &str) -> Result<(), Error> {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let ok = !name.is_empty()
        && name.len() <= NAME_LEN_MAX
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-');
    if ok {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "`{name}` cannot name an application: a-z, 0-9 and inner dashes, at most {NAME_LEN_MAX} (it becomes part of a host name)"
    )))
}

fn app_name(root: &Path, given: Option<&str>) -> Result<String, Error> {
    if let Some(name) = given {
        check_name(name)?;
        return Ok(name.to_owned());
    }
    let path = root.join("steady.toml");
    let toml: SteadyToml = match read_if_there(&path)? {
        Some(text) => toml::from_str(&text).map_err(|error| Error::Usage(format!("{}: {error}", path.display())))?,
        None => SteadyToml::default(),
    };
    if let Some(name) = toml.name {
        check_name(&name)?;
        return Ok(name);
    }
    let folder = root.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    label(&folder).ok_or_else(|| {
        Error::Usage(format!("the folder's name `{folder}` gives no application name; say one with --name NAME"))
    })
}

/// A file that need not be there. One that is there and cannot be read is not passed over: what it leaves out would be sent.
fn read_if_there(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            Err(Error::Usage(format!("{} cannot be read: {error}; mend it, or take it away", path.display())))
        }
    }
}

/// A folder's name as a label: lower case, every run of other characters one dash, cut at the label's length.
fn label(text: &str) -> Option<String> {
    let mut label = String::new();
    for character in text.chars() {
        let character = character.to_ascii_lowercase();
        if character.is_ascii_lowercase() || character.is_ascii_digit() {
            label.push(character);
        } else if !label.is_empty() && !label.ends_with('-') {
            label.push('-');
        }
    }
    label.truncate(NAME_LEN_MAX);
    let label = label.trim_end_matches('-');
    (!label.is_empty()).then(|| label.to_owned())
}

#[derive(Debug)]
struct Entry {
    /// Relative to the folder.
    path: PathBuf,
    kind: Kind,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Folder,
    File { executable: bool },
    Link(PathBuf),
}

/// Everything that is part of the application, sorted by path.
fn walk(root: &Path) -> Result<Vec<Entry>, Error> {
    let ignore = read_if_there(&root.join(".steadyignore"))?.map_or_else(Ignore::default, |text| Ignore::parse(&text));
    let mut entries = Vec::new();
    let mut folders = vec![PathBuf::new()];
    let mut total: u64 = 0;
    while let Some(folder) = folders.pop() {
        let absolute = root.join(&folder);
        for item in fs::read_dir(&absolute).map_err(Error::file(&absolute))? {
            let item = item.map_err(Error::file(&absolute))?;
            let path = folder.join(item.file_name());
            let kind = item.file_type().map_err(Error::file(&path))?;
            if NEVER.iter().any(|never| item.file_name() == *never) || ignore.matches(&path, kind.is_dir()) {
                continue;
            }
            let kind = if kind.is_dir() {
                folders.push(path.clone());
                Kind::Folder
            } else if kind.is_symlink() {
                Kind::Link(link(root, &path)?)
            } else if kind.is_file() {
                let metadata = item.metadata().map_err(Error::file(&path))?;
                total += metadata.len();
                Kind::File { executable: metadata.permissions().mode() & 0o100 != 0 }
            } else {
                // A socket or a pipe is what a running program left, not part of it.
                continue;
            };
            entries.push(Entry { path, kind });
            if entries.len() > FOLDER_FILES_MAX || total > FOLDER_BYTES_MAX {
                return Err(Error::Usage(format!(
                    "{} is too large for an application (more than {FOLDER_FILES_MAX} files or {} MiB): is it the right \
                     folder? Name what is not needed in .steadyignore",
                    root.display(),
                    FOLDER_BYTES_MAX >> 20
                )));
            }
        }
    }
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(entries)
}

/// The target of a link that stays inside the folder, judged by its text alone: the host unpacks it elsewhere.
fn link(root: &Path, path: &Path) -> Result<PathBuf, Error> {
    let target = fs::read_link(root.join(path)).map_err(Error::file(path))?;
    let mut depth = path.components().count() as i64 - 1;
    let inside = target.components().all(|component| {
        match component {
            Component::Normal(_) => depth += 1,
            Component::ParentDir => depth -= 1,
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return false,
        }
        depth >= 0
    });
    if inside {
        return Ok(target);
    }
    Err(Error::Usage(format!(
        "{} is a link to {}, outside the folder: copy what it needs into the folder, or name it in .steadyignore",
        path.display(),
        target.display()
    )))
}

fn archive(root: &Path, entries: &[Entry]) -> std::io::Result<Vec<u8>> {
    // No name, no time: the gzip header is the same everywhere.
    let gzip = GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), Compression::default());
    let mut tar = Builder::new(gzip);
    for entry in entries {
        let mut header = Header::new_gnu();
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        match &entry.kind {
            Kind::Folder => {
                header.set_entry_type(EntryType::Directory);
                header.set_mode(0o755);
                tar.append_data(&mut header, &entry.path, std::io::empty())?;
            }
            Kind::Link(target) => {
                header.set_entry_type(EntryType::Symlink);
                header.set_mode(0o777);
                tar.append_link(&mut header, &entry.path, target)?;
            }
            Kind::File { executable } => {
                header.set_entry_type(EntryType::Regular);
                header.set_mode(if *executable { 0o755 } else { 0o644 });
                // Read whole: a file that grows or shrinks meanwhile must not break the archive's frame.
                let content = fs::read(root.join(&entry.path))?;
                header.set_size(content.len() as u64);
                tar.append_data(&mut header, &entry.path, content.as_slice())?;
            }
        }
    }
    let mut bytes = tar.into_inner()?.finish()?;
    bytes.flush()?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::fs::symlink;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        dir
    }

    fn names(packed: &Packed) -> Vec<String> {
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(packed.archive.as_slice()));
        tar.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect()
    }

    #[test]
    fn two_copies_of_a_folder_give_the_same_octets() {
        let files = [("b/x.ts", "1"), ("a.ts", "2"), ("c", "3")];
        let (one, two) = (folder(&files), folder(&[files[2], files[0], files[1]]));
        let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        fs::File::open(two.path().join("c")).unwrap().set_modified(time).unwrap();
        let (one, two) = (pack(one.path(), Some("x")).unwrap(), pack(two.path(), Some("x")).unwrap());
        assert_eq!(one.archive, two.archive);
        assert_eq!(names(&one), ["a.ts", "b", "b/x.ts", "c"]);
        assert_eq!(one.files, 3);
    }

    #[test]
    fn content_and_the_executable_bit_arrive() {
        let dir = folder(&[("run", "#!/bin/sh\n"), ("data", "d")]);
        fs::set_permissions(dir.path().join("run"), fs::Permissions::from_mode(0o700)).unwrap();
        let packed = pack(dir.path(), Some("x")).unwrap();
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(packed.archive.as_slice()));
        let mut seen = Vec::new();
        for entry in tar.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            seen.push((text, entry.header().mode().unwrap()));
        }
        assert_eq!(seen, [("d".to_owned(), 0o644), ("#!/bin/sh\n".to_owned(), 0o755)]);
    }

    #[test]
    fn version_control_and_what_steadyignore_names_are_left_out_and_node_modules_is_not() {
        let dir = folder(&[
            (".git/HEAD", ""),
            ("sub/.git/HEAD", ""),
            ("index.ts", ""),
            ("node_modules/p/index.js", ""),
            ("secret.env", ""),
            (".steadyignore", "*.env\n"),
        ]);
        let packed = pack(dir.path(), Some("x")).unwrap();
        assert_eq!(names(&packed), ["index.ts", "node_modules", "node_modules/p", "node_modules/p/index.js", "sub"]);
    }

    #[test]
    fn what_says_what_is_left_out_is_not_passed_over_when_it_cannot_be_read() {
        for name in [".steadyignore", "steady.toml"] {
            let dir = folder(&[("index.ts", ""), ("secret.env", "")]);
            fs::write(dir.path().join(name), b"*.env\n# caf\xe9\n").unwrap();
            let error = pack(dir.path(), None).unwrap_err();
            assert!(matches!(&error, Error::Usage(text) if text.contains(name)), "{error}");
        }
    }

    #[test]
    fn a_link_inside_the_folder_is_kept_and_one_that_leaves_it_is_refused() {
        let dir = folder(&[("a/b/file", "1")]);
        symlink("../../a", dir.path().join("a/b/up")).unwrap();
        assert!(names(&pack(dir.path(), Some("x")).unwrap()).contains(&"a/b/up".to_owned()));
        for target in ["/etc/passwd", "../outside", "a/../../outside"] {
            let link = dir.path().join("link");
            symlink(target, &link).unwrap();
            let error = pack(dir.path(), Some("x")).unwrap_err();
            assert!(matches!(error, Error::Usage(_)) && error.to_string().contains("outside"), "{target}: {error}");
            fs::remove_file(link).unwrap();
        }
    }

    #[test]
    fn the_name_is_the_one_given_then_steady_toml_s_then_the_folder_s() {
        let dir =
            folder(&[("My Shop (2)/index.ts", ""), ("toml/steady.toml", "name = \"from-toml\"\nexclusive = true\n")]);
        assert_eq!(pack(&dir.path().join("My Shop (2)"), None).unwrap().name, "my-shop-2");
        assert_eq!(pack(&dir.path().join("toml"), None).unwrap().name, "from-toml");
        assert_eq!(pack(&dir.path().join("toml"), Some("given")).unwrap().name, "given");
    }

    #[test]
    fn names_that_are_not_labels_are_refused() {
        for name in ["", "-a", "a-", "A", "a.b", "a_b", "ä", &"a".repeat(64)] {
            assert!(check_name(name).is_err(), "{name}");
        }
        for name in ["a", "0", "a-b", "xn--a", &"a".repeat(63)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        assert_eq!(label("__"), None);
    }

    #[test]
    fn a_file_a_missing_folder_and_an_empty_one_are_named_as_the_user_s_mistake() {
        let dir = folder(&[("file", "")]);
        for path in [dir.path().join("file"), dir.path().join("missing")] {
            assert!(matches!(pack(&path, Some("x")), Err(Error::Usage(_))));
        }
        fs::remove_file(dir.path().join("file")).unwrap();
        assert!(matches!(pack(dir.path(), Some("x")), Err(Error::Usage(_))));
    }
}
