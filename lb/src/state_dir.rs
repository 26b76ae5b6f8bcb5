//! The directory that an edge keeps its state in: made with mode 0700, and held by one process at a time.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A held directory; let go of when this is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct StateDir {
    dir: PathBuf,
    lock: File,
}

#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    #[error("{} is held by process {holder}: stop it, or give this one another state_dir", dir.display())]
    Held { dir: PathBuf, holder: String },
    #[error("{} cannot be used: {source}; check its owner and mode", path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl StateDir {
    pub fn hold(dir: &Path) -> Result<StateDir, StateDirError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| StateDirError::Io { path, source }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at(dir))?;
        let path = dir.join("lock");
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let mut lock = open.map_err(at(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Only for people: one that cannot be read is simply not named.
                let _ = lock.read_to_string(&mut holder);
                let holder =
                    if holder.trim().is_empty() { "of an unknown number".into() } else { holder.trim().to_owned() };
                return Err(StateDirError::Held { dir: dir.to_owned(), holder });
            }
            Err(TryLockError::Error(source)) => return Err(at(&path)(source)),
        }
        let state = StateDir { dir: dir.to_owned(), lock };
        state.sign().map_err(at(&path))?;
        Ok(state)
    }

    /// Takes the directory from the process that holds it and gave its lock, which is not let go of in between: it belongs to
    /// whoever has the open file. [`sign`](Self::sign) it once that process has let go.
    pub fn inherit(dir: &Path, lock: OwnedFd) -> StateDir {
        StateDir { dir: dir.to_owned(), lock: lock.into() }
    }

    /// Names this process as the holder, for people.
    pub fn sign(&self) -> io::Result<()> {
        let mut lock = &self.lock;
        lock.set_len(0)?;
        lock.seek(SeekFrom::Start(0))?;
        writeln!(lock, "{}", std::process::id())
    }

    pub fn lock(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_told_who_the_first_is_and_gets_it_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let first = StateDir::hold(&path).unwrap();
        let refused = StateDir::hold(&path).unwrap_err().to_string();
        assert!(refused.contains(&format!("held by process {}", std::process::id())), "{refused}");
        drop(first);
        StateDir::hold(&path).unwrap();
    }

    #[test]
    fn a_directory_whose_lock_was_handed_on_is_held_until_the_last_holder_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let first = StateDir::hold(&path).unwrap();
        let second = StateDir::inherit(&path, first.lock().try_clone_to_owned().unwrap());
        drop(first);
        StateDir::hold(&path).unwrap_err();
        second.sign().unwrap();
        drop(second);
        StateDir::hold(&path).unwrap();
    }
}
