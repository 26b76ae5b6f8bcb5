//! Removing folders that an application could write. It runs as the agent's user, and may leave folders there that their
//! owner may not change (Go's module cache is such); these are opened up first.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// What the owner of a folder needs to remove what is in it.
const OWNERS: u32 = 0o700;

/// Removes what is at `path`; of a link the link itself. That nothing is there is as well. Blocking.
pub fn remove(path: &Path) -> io::Result<()> {
    match try_remove(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_all(path);
            try_remove(path)
        }
        result => result,
    }
}

fn try_remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Removes a tree; where that fails, moves it into the folder `aside` under a name that begins with `name`, for somebody to
/// remove later. On an error it is where it was, if not whole. Blocking.
pub fn remove_or_set_aside(tree: &Path, aside: &Path, name: &str) -> io::Result<()> {
    let Err(error) = remove(tree) else { return Ok(()) };
    // Why it is still there says more than why it cannot be moved.
    let moved = set_aside(tree, aside, name)
        .map_err(|_| io::Error::new(error.kind(), format!("{}: {error}", tree.display())))?;
    tracing::warn!(%error, path = %moved.display(), "files cannot be removed; that is tried again at the next start");
    Ok(())
}

/// Moves a tree into the folder `aside`; to where.
pub fn set_aside(tree: &Path, aside: &Path, name: &str) -> io::Result<std::path::PathBuf> {
    // A folder that goes to another one is written to.
    open(tree);
    let mut number = 0;
    loop {
        let to = aside.join(format!("{name}.{number}"));
        if fs::symlink_metadata(&to).is_err() {
            return fs::rename(tree, &to).map(|()| to);
        }
        number += 1;
    }
}

/// Has its owner read, change and enter a folder, as far as that can be had. A link is left as it is.
fn open(folder: &Path) -> bool {
    match fs::symlink_metadata(folder) {
        Ok(found) if found.is_dir() => {
            if found.mode() & OWNERS != OWNERS {
                // Where it fails, what needs it says so.
                let _ = fs::set_permissions(folder, Permissions::from_mode(found.mode() & 0o7777 | OWNERS));
            }
            true
        }
        _ => false,
    }
}

/// As [`open`], with every folder below.
fn open_all(folder: &Path) {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        if open(&folder)
            && let Ok(entries) = fs::read_dir(&folder)
        {
            let below = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            folders.extend(below.map(|entry| entry.path()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    /// As an application may leave it; the innermost is in two that nothing may be removed from.
    fn tree(at: &Path) {
        fs::create_dir_all(at.join("cache/module")).unwrap();
        fs::write(at.join("cache/module/file"), "text").unwrap();
        for folder in ["cache/module", "cache", ""] {
            set_mode(&at.join(folder), 0o555);
        }
    }

    #[test]
    fn a_tree_of_folders_that_nothing_may_be_removed_from_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("tree");
        tree(&at);
        remove(&at).unwrap();
        assert!(!at.exists());
        remove(&at).unwrap();
    }

    #[test]
    fn such_a_tree_is_set_aside_beside_others_of_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let aside = dir.path().join("aside");
        fs::create_dir(&aside).unwrap();
        for number in 0..2 {
            let at = dir.path().join("tree");
            tree(&at);
            let to = set_aside(&at, &aside, "shop").unwrap();
            assert_eq!(to, aside.join(format!("shop.{number}")));
            assert!(to.join("cache/module/file").exists() && !at.exists());
        }
        remove(&aside).unwrap();
    }

    #[test]
    fn folders_are_opened_to_their_owner_and_what_links_lead_to_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (at, outside) = (dir.path().join("tree"), dir.path().join("outside"));
        tree(&at);
        fs::create_dir(&outside).unwrap();
        set_mode(&outside, 0o555);
        set_mode(&at, 0o755);
        std::os::unix::fs::symlink(&outside, at.join("link")).unwrap();
        set_mode(&at, 0o555);
        open_all(&at);
        for folder in ["", "cache", "cache/module"] {
            assert_eq!(mode(&at.join(folder)), 0o755, "{folder}");
        }
        assert_eq!(mode(&outside), 0o555);
        remove(&at.join("link")).unwrap();
        assert!(outside.exists() && !at.join("link").exists());
    }
}
