//! The state directory of one `up`: what lies where, who holds it, and what the last one left running.
//!
//! ```text
//! up.lock          held (flock) by the running `up`; its process number inside
//! up.json          where everything is, for as long as it runs
//! children.json    the daemons that run, as pid and start time, so that the next `up` can end what this one left
//! ca.pem, ca.key   the local authority; certs/ what it signed for the edge
//! bun/             Bun, when it had to be fetched
//! examples/        the sample applications, to look at, change and deploy
//! lb/, h1/, h2/…   a daemon each: configuration, state, token, logs
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use steady_sys::kin::Kin;

use crate::error::Error;

/// A daemon that outlives its `up` got SIGTERM from the kernel already; this long it may take to drain.
const LEFTOVER_GRACE: Duration = Duration::from_secs(3);
const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

/// A state directory that this process holds.
#[derive(Debug)]
pub struct Place {
    dir: PathBuf,
    lock: File,
}

/// A daemon on record.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Recorded {
    pub name: String,
    pub pid: u32,
    pub started: u64,
}

impl Drop for Place {
    /// Unlocks, where closing would not do: a child that was forked elsewhere and has not come to its exec has the file open too.
    fn drop(&mut self) {
        let _ = self.lock.unlock();
    }
}

impl Recorded {
    fn kin(&self) -> Kin {
        Kin { pid: self.pid, started: self.started }
    }
}

impl Place {
    /// Makes `dir` where it is missing and takes hold of it. Another `up` that holds it is a conflict that names it.
    pub fn hold(dir: &Path) -> Result<Place, Error> {
        make_private(dir)?;
        let dir = fs::canonicalize(dir).map_err(Error::file(dir))?;
        let path = dir.join("up.lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(Error::file(&path))?;
        if let Err(refused) = lock.try_lock() {
            return Err(match refused {
                fs::TryLockError::Error(source) => Error::File { path, source },
                fs::TryLockError::WouldBlock => held(&dir, &mut lock),
            });
        }
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(Error::file(&path))?;
        Ok(Place { dir, lock })
    }

    /// Ends what a killed `up` left running, and forgets what it said. The names of those that were found.
    pub fn end_leftovers(&self) -> Result<Vec<String>, Error> {
        let _ = fs::remove_file(self.up_json());
        let recorded: Vec<Recorded> =
            fs::read(self.children_json()).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        let left: Vec<Recorded> = recorded.into_iter().filter(|child| child.kin().is_alive()).collect();
        let deadline = Instant::now() + LEFTOVER_GRACE;
        for child in &left {
            child.kin().signal(SIGTERM).map_err(|error| stuck(child, &error))?;
        }
        for child in &left {
            while child.kin().is_alive() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
            child.kin().signal(SIGKILL).map_err(|error| stuck(child, &error))?;
            while child.kin().is_alive() {
                if Instant::now() > deadline + LEFTOVER_GRACE {
                    return Err(Error::Failed(format!(
                        "{} (process {}) of an earlier `up` does not end even when killed; look at it with: ps {}",
                        child.name, child.pid, child.pid
                    )));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(left.into_iter().map(|child| child.name).collect())
    }

    /// Records the daemons that run now.
    pub fn record(&self, children: &[Recorded]) -> Result<(), Error> {
        let text = serde_json::to_vec(children).map_err(|error| Error::Failed(error.to_string()))?;
        write_aside(&self.children_json(), &text)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn up_json(&self) -> PathBuf {
        self.dir.join("up.json")
    }

    fn children_json(&self) -> PathBuf {
        self.dir.join("children.json")
    }
}

fn held(dir: &Path, lock: &mut File) -> Error {
    let mut text = String::new();
    let _ = lock.read_to_string(&mut text);
    let who = match text.trim() {
        "" => "another `steady up`".to_owned(),
        pid => format!("another `steady up` (process {pid})"),
    };
    Error::Conflict(format!(
        "{who} holds {}.\n  Use it:               steady status --dir {}\n  Stop it:              Ctrl-C where it runs, \
         or kill {}\n  Start a second one:   steady up --dir OTHER --http 127.0.0.1:0 --https 127.0.0.1:0 --private \
         127.0.0.1:0",
        dir.display(),
        dir.display(),
        if text.trim().is_empty() { "PID" } else { text.trim() },
    ))
}

fn stuck(child: &Recorded, error: &std::io::Error) -> Error {
    Error::Failed(format!("cannot end {} (process {}) of an earlier `up`: {error}", child.name, child.pid))
}

/// A directory that only its owner may look into: tokens and keys live below.
pub fn make_private(dir: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(Error::file(dir))
}

/// Writes a file whole or not at all: aside, then renamed over.
pub fn write_aside(path: &Path, content: &[u8]) -> Result<(), Error> {
    write_aside_mode(path, content, 0o644)
}

/// As [`write_aside`], with the permissions that the file has from its first moment.
pub fn write_aside_mode(path: &Path, content: &[u8], mode: u32) -> Result<(), Error> {
    use std::os::unix::fs::OpenOptionsExt;
    let aside = path.with_added_extension("new");
    let _ = fs::remove_file(&aside);
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&aside)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
        .and_then(|()| fs::rename(&aside, path))
        .map_err(Error::file(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::CommandExt;

    #[test]
    fn a_directory_is_held_once_and_the_second_holder_learns_who_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = Place::hold(dir.path()).unwrap();
        let error = Place::hold(dir.path()).unwrap_err();
        assert!(matches!(error, Error::Conflict(_)));
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        Place::hold(dir.path()).unwrap();
    }

    #[test]
    fn leftovers_are_ended_and_a_process_that_only_has_the_number_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::hold(dir.path()).unwrap();
        // One that heeds SIGTERM and one that does not.
        let mut mild = std::process::Command::new("sleep").arg("600").process_group(0).spawn().unwrap();
        let mut stubborn = std::process::Command::new("sh")
            .args(["-c", "trap '' TERM; echo; exec sleep 600"])
            .process_group(0)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut newline = [0];
        stubborn.stdout.take().unwrap().read_exact(&mut newline).unwrap();
        let mut stranger = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let record = |name: &str, pid: u32, offset: u64| Recorded {
            name: name.to_owned(),
            pid,
            started: Kin::of(pid).unwrap().started + offset,
        };
        let children =
            [record("mild", mild.id(), 0), record("stubborn", stubborn.id(), 0), record("stranger", stranger.id(), 1)];
        place.record(&children).unwrap();
        // Zombies count as ended: this test is their parent.
        assert_eq!(place.end_leftovers().unwrap(), ["mild", "stubborn"]);
        mild.wait().unwrap();
        stubborn.wait().unwrap();
        assert!(stranger.try_wait().unwrap().is_none());
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }

    #[test]
    fn a_file_written_aside_replaces_the_old_one_with_its_own_permissions() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        write_aside_mode(&path, b"one", 0o600).unwrap();
        write_aside_mode(&path, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
