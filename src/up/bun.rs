//! Bun: from PATH, or fetched once by npm into the state directory.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::error::Error;
use crate::up::place::make_private;

/// A slow network may take minutes; a hung one must not hold `up` for ever.
const FETCH_TIMEOUT: Duration = Duration::from_secs(600);
const VERSION_TIMEOUT: Duration = Duration::from_secs(20);
/// Of npm's complaint, as much as says what is wrong.
const COMPLAINT_LINES_MAX: usize = 6;

/// Where Bun is, or will be.
#[derive(Debug)]
pub enum Bun {
    /// It is there; its version.
    Found { path: PathBuf, version: String },
    /// npm can fetch it to this path.
    Fetchable { path: PathBuf },
    /// Neither Bun nor npm.
    Missing,
}

impl Bun {
    /// Looks on PATH, then for one fetched earlier.
    pub async fn look(dir: &Path) -> Bun {
        let fetched = fetched_path(dir);
        for path in on_path("bun").into_iter().chain([fetched.clone()]) {
            if let Some(version) = version(&path).await {
                return Bun::Found { path, version };
            }
        }
        if on_path("npm").is_some() { Bun::Fetchable { path: fetched } } else { Bun::Missing }
    }

    /// What the agents are told to run; nothing may be there yet.
    pub fn path(&self) -> PathBuf {
        match self {
            Bun::Found { path, .. } | Bun::Fetchable { path } => path.clone(),
            Bun::Missing => PathBuf::from("bun"),
        }
    }
}

/// Fetches Bun into `dir/bun`; its version. Dropped, it ends npm.
pub async fn fetch(dir: &Path) -> Result<String, Error> {
    let prefix = dir.join("bun");
    make_private(&prefix)?;
    let npm = Command::new("npm")
        .args(["install", "--no-audit", "--no-fund", "--no-progress", "--loglevel=error", "--prefix"])
        .arg(&prefix)
        .arg("bun")
        .current_dir(&prefix)
        .stdin(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(FETCH_TIMEOUT, npm)
        .await
        .map_err(|_| unavailable(&format!("npm did not finish in {} s", FETCH_TIMEOUT.as_secs())))?
        .map_err(|error| unavailable(&format!("cannot run npm: {error}")))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = complaint.lines().take(COMPLAINT_LINES_MAX).collect();
        return Err(unavailable(&format!("npm failed: {}", lines.join("\n    "))));
    }
    let path = fetched_path(dir);
    match version(&path).await {
        Some(version) => Ok(version),
        None => Err(unavailable(&format!("npm fetched it, but {} does not run here", path.display()))),
    }
}

/// The first executable file of that name on PATH.
pub fn on_path(name: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let path = std::env::var_os("PATH")?;
    let executable = |file: &PathBuf| {
        std::fs::metadata(file).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(executable)
}

fn fetched_path(dir: &Path) -> PathBuf {
    dir.join("bun/node_modules/.bin/bun")
}

fn unavailable(why: &str) -> Error {
    Error::Failed(format!("{why}\n    Install Bun (https://bun.sh) or put it on PATH, then start again"))
}

async fn version(path: &Path) -> Option<String> {
    let run = Command::new(path).arg("--version").stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(VERSION_TIMEOUT, run).await.ok()?.ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}
