//! What the end-to-end tests share: a running `steady up`, the command, curl, a small HTTP/1.1 client, Bun.
//!
//! Each test file includes this module and uses a part of it.
#![allow(dead_code)]

pub mod http;
pub mod load;
pub mod site;
pub mod up;
pub mod websocket;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Nothing that a test waits for takes this long on a machine that works, however loaded; a test that meets it has failed.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at something that is observed from outside.
pub const POLL: Duration = Duration::from_millis(20);

/// The command under test.
pub fn steady() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_steady"));
    for name in ["STEADY_DIR", "STEADY_ADDRESS", "STEADY_CA", "STEADY_TOKEN", "STEADY_UP_PID"] {
        command.env_remove(name);
    }
    command
}

/// Looks until `look` gives something. `what` says what never came.
#[track_caller]
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {} s in vain: {what}", PATIENCE.as_secs());
        std::thread::sleep(POLL);
    }
}

pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A file or folder of this repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The folder that holds `bun`: where PATH has it, or fetched once by npm for all tests. `None`, said loudly, when there is
/// neither; with STEADY_REQUIRE_BUN set that is a failure.
pub fn bun() -> Option<&'static Path> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOLDER
        .get_or_init(|| {
            let found = on_path("bun").and_then(|path| path.parent().map(Path::to_owned)).or_else(fetch_bun);
            if found.is_none() {
                let required = std::env::var_os("STEADY_REQUIRE_BUN").is_some_and(|value| !value.is_empty());
                assert!(!required, "STEADY_REQUIRE_BUN is set, but there is no bun and npm could not fetch it");
                shout("SKIPPED: tests of applications on Bun (no bun on PATH, npm cannot fetch it)");
            }
            found
        })
        .as_deref()
}

/// Says it past the test harness, which would keep it to itself.
pub fn shout(what: &str) {
    let _ = std::io::stderr().write_all(format!("\n*** {what} ***\n\n").as_bytes());
}

fn fetch_bun() -> Option<PathBuf> {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bun");
    fs::create_dir_all(&cache).ok()?;
    let lock = File::create(cache.join("lock")).ok()?;
    lock.lock().ok()?;
    let folder = cache.join("node_modules/.bin");
    let works =
        || Command::new(folder.join("bun")).arg("--version").output().is_ok_and(|output| output.status.success());
    if !works() {
        let install = ["install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix"];
        let _ = Command::new("npm").args(install).arg(&cache).arg("bun").current_dir(&cache).output();
    }
    works().then_some(folder)
}

pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Copies a flat folder of this repository and puts `files` over it.
pub fn folder_like(source: &str, files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for item in fs::read_dir(repository(source)).unwrap() {
        let item = item.unwrap();
        if item.file_type().unwrap().is_file() {
            fs::copy(item.path(), dir.path().join(item.file_name())).unwrap();
        }
    }
    for (name, content) in files {
        fs::write(dir.path().join(name), content).unwrap();
    }
    dir
}

/// Whether what takes long is asked for (`.ci/long`).
pub fn long() -> bool {
    std::env::var_os("STEADY_LONG").is_some_and(|value| !value.is_empty())
}
