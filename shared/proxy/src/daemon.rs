//! What both daemons do around their workers: logging, descriptors, the driver, listeners, and telling that they are ready.

use std::io::{self, IsTerminal, Write};
use std::net::{SocketAddr, TcpListener};
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use steady_ring::{Choice, Chosen};
use tracing_subscriber::{EnvFilter, reload};

/// Connections that may wait to be accepted; the kernel caps it at net.core.somaxconn.
const BACKLOG: u32 = 4096;

/// Changes the level of the log that was started.
type SetLevel = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;
/// A process has one log.
static SET_LEVEL: OnceLock<SetLevel> = OnceLock::new();

/// Overrides the level of the configuration.
const LEVEL_VARIABLE: &str = "STEADY_LOG";
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Checks the level of a log: one of [`LEVELS`], and after it those of modules (`info,steady_proxy=debug`). A filter alone takes any
/// other word for a module, whose lines it lets through and nobody else's.
///
/// # Errors
/// A sentence that says what to write.
pub fn check_level(level: &str) -> Result<String, String> {
    let wrong = || {
        format!(
            "{level:?} is no level: write one of {}, or one and modules after it, such as \"info,steady_proxy=debug\"",
            LEVELS.join(", ")
        )
    };
    let is_level = |part: &str| LEVELS.iter().any(|level| part.eq_ignore_ascii_case(level));
    let has_base = level.split(',').any(|part| is_level(part.trim()));
    let is_known = level.split(',').all(|part| part.contains('=') || is_level(part.trim()));
    if !has_base || !is_known || EnvFilter::builder().parse(level).is_err() {
        return Err(wrong());
    }
    Ok(level.to_owned())
}

/// Starts the daemon's own log, on stderr. `STEADY_LOG` in the environment overrides the level.
pub fn start_log(json: bool, level: &str) {
    let overridden = std::env::var(LEVEL_VARIABLE).ok().map(|text| check_level(&text));
    let filter = EnvFilter::new(overridden.as_ref().and_then(|text| text.as_deref().ok()).unwrap_or(level));
    // A line that cannot be written is lost. It would be told of on stderr, where it could not be written, by a panic.
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).log_internal_errors(false);
    // A second start (in tests) keeps the first.
    if json {
        let builder = builder.json().with_filter_reloading();
        let handle = builder.reload_handle();
        if builder.try_init().is_ok() {
            let _ = SET_LEVEL.set(Box::new(move |level| set_filter(level, |filter| handle.reload(filter))));
        }
    } else {
        let builder = builder.with_ansi(io::stderr().is_terminal()).with_filter_reloading();
        let handle = builder.reload_handle();
        if builder.try_init().is_ok() {
            let _ = SET_LEVEL.set(Box::new(move |level| set_filter(level, |filter| handle.reload(filter))));
        }
    }
    if let Some(Err(why)) = overridden {
        tracing::error!("{LEVEL_VARIABLE} is left out: {why}");
    }
}

fn set_filter(level: &str, reload: impl FnOnce(EnvFilter) -> Result<(), reload::Error>) -> Result<(), String> {
    if std::env::var(LEVEL_VARIABLE).is_ok_and(|text| check_level(&text).is_ok()) {
        return Err(format!("{LEVEL_VARIABLE} in the environment overrides it"));
    }
    let filter = EnvFilter::builder().parse(level).map_err(|error| error.to_string())?;
    reload(filter).map_err(|error| error.to_string())
}

/// Changes the level of the daemon's own log; what stands against it is logged.
pub fn set_log_level(level: &str) {
    if let Some(set) = SET_LEVEL.get()
        && let Err(why) = set(level)
    {
        tracing::error!(level, why, "the level of this log stays as it was");
    }
}

/// The driver of the workers, and why it is not io_uring where that was hoped for.
#[derive(Clone, Debug)]
pub struct Io {
    pub uring: bool,
    /// A sentence, and its label for the metrics.
    pub fallback: Option<(String, &'static str)>,
}

impl Io {
    pub fn name(&self) -> &'static str {
        if self.uring { "uring" } else { "epoll" }
    }

    /// Chooses for so many workers, and says loudly when `auto` had to do without io_uring.
    ///
    /// # Errors
    /// io_uring was asked for and cannot be had: the sentence that says why, and what to do.
    pub fn choose(choice: Choice, workers: usize) -> Result<Io, String> {
        match steady_ring::choose(choice, workers) {
            Ok(Chosen::Uring) => Ok(Io { uring: true, fallback: None }),
            Ok(Chosen::Epoll(None)) => Ok(Io { uring: false, fallback: None }),
            Ok(Chosen::Epoll(Some(why))) => {
                tracing::warn!("serving with epoll, which costs more per request: {why}");
                Ok(Io { uring: false, fallback: Some((why.to_string(), why.label())) })
            }
            Err(why) => Err(why.to_string()),
        }
    }
}

/// As many workers as were asked for; 0: one per core this process may use.
pub fn workers(asked: usize) -> usize {
    match asked {
        0 => std::thread::available_parallelism().map_or(1, NonZero::get),
        asked => asked,
    }
}

/// Takes as many descriptors as the hard limit allows: a connection each.
pub fn raise_descriptors() {
    if let Ok((soft, hard)) = steady_sys::limits::descriptors()
        && soft < hard
        && let Err(error) = steady_sys::limits::set_descriptors(hard)
    {
        tracing::warn!(%error, soft, "the limit of descriptors stays low; raise LimitNOFILE");
    }
}

/// How long an address that is taken is tried again: a process that was killed keeps its listeners until the kernel has taken its
/// ring apart, which comes after its supervisor has heard of its end.
const LEFT_BEHIND: Duration = Duration::from_secs(2);
const LEFT_BEHIND_LOOK: Duration = Duration::from_millis(20);

/// Binds a listener, and returns it with the address it really has (port 0: any free one). Blocks for up to two seconds where
/// the address is taken, for a process that has just been killed to let go of it.
///
/// # Errors
/// A sentence with the address.
pub fn listen(addr: SocketAddr) -> Result<(OwnedFd, SocketAddr), String> {
    listen_within(LEFT_BEHIND, addr, steady_ring::listen_tcp)
}

/// As [`listen`], of IPv6 alone: somebody else listens on IPv4 addresses of that port.
///
/// # Errors
/// A sentence with the address.
pub fn listen_v6_only(addr: SocketAddr) -> Result<(OwnedFd, SocketAddr), String> {
    listen_within(LEFT_BEHIND, addr, steady_ring::listen_tcp_v6_only)
}

fn listen_within(
    patience: Duration,
    addr: SocketAddr,
    open: fn(SocketAddr, u32) -> io::Result<OwnedFd>,
) -> Result<(OwnedFd, SocketAddr), String> {
    let explain = |error: io::Error| match error.kind() {
        io::ErrorKind::AddrInUse => format!("{addr} is taken by another process: stop it, or listen elsewhere"),
        io::ErrorKind::PermissionDenied => {
            format!("{addr} may not be used by this user: ports below 1024 need CAP_NET_BIND_SERVICE")
        }
        _ => format!("cannot listen on {addr}: {error}"),
    };
    let begun = Instant::now();
    let mut told = false;
    let socket = loop {
        match open(addr, BACKLOG) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && begun.elapsed() < patience => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%addr, "taken, perhaps by a process that has just ended: tried again for {patience:?}");
                }
                std::thread::sleep(LEFT_BEHIND_LOOK);
            }
            tried => break tried.map_err(explain)?,
        }
    };
    let listener = TcpListener::from(socket);
    let bound = listener.local_addr().map_err(explain)?;
    Ok((listener.into(), bound))
}

/// The configuration that a daemon was started with, as it was then; in its state directory.
const STARTED_WITH: &str = "started-with.toml";

/// Keeps a copy of the configuration for [`started_with`]. A daemon runs without it, so a failure is only told.
pub fn keep_config(state_dir: &Path, file: &Path) {
    let kept = std::fs::read(file).and_then(|text| write_whole(&state_dir.join(STARTED_WITH), &text));
    if let Err(error) = kept {
        tracing::warn!(%error, "no copy of the configuration is kept; --check will not say what a reload changes");
    }
}

/// Where the configuration is that the daemon of this state directory runs with; `None`: none runs there.
pub fn started_with(state_dir: &Path) -> Option<PathBuf> {
    let file = state_dir.join(STARTED_WITH);
    (state_dir.join("ready.json").exists() && file.exists()).then_some(file)
}

/// What a reload would do, for people: a line for each kind of key that differs from what the daemon was started with.
pub fn say_reload(live: &[&str], restart: &[&str]) {
    if !live.is_empty() {
        println!("  other than when the running daemon was started, in force after SIGHUP: {}", live.join(", "));
    }
    if !restart.is_empty() {
        println!(
            "  other than when the running daemon was started, in force at its next start: {}",
            restart.join(", ")
        );
    }
}

/// Writes `contents` aside, syncs and renames it, so that whoever reads `path` sees all of it or nothing.
///
/// # Errors
/// What the file system says.
pub fn write_whole(path: &Path, contents: &[u8]) -> io::Result<()> {
    let aside = path.with_extension("new");
    let mut file = std::fs::File::create(&aside)?;
    file.write_all(contents)?;
    file.sync_all()?;
    std::fs::rename(&aside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_level_of_a_log_is_one_that_there_is_and_holds_for_the_modules_that_are_not_named() {
        for good in ["off", "error", "warn", "INFO", "debug", "info,steady_proxy=debug", "steady_lb=trace, warn"] {
            assert_eq!(check_level(good).as_deref(), Ok(good));
        }
        for wrong in ["", "warning", "verbose", "info,steady_proxy", "steady_lb=debug", "info,steady_lb=loud"] {
            let told = check_level(wrong).unwrap_err();
            assert!(told.contains("off, error, warn, info, debug, trace"), "{told}");
        }
    }

    #[test]
    fn an_address_that_is_about_to_be_let_go_is_waited_for_and_one_that_is_not_is_refused() {
        let (first, addr) = listen(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let refused = listen_within(Duration::ZERO, addr, steady_ring::listen_tcp).unwrap_err();
        assert!(refused.contains("is taken by another process"), "{refused}");
        std::thread::scope(|scope| {
            let second = scope.spawn(|| listen_within(Duration::from_secs(60), addr, steady_ring::listen_tcp));
            drop(first);
            assert_eq!(second.join().unwrap().unwrap().1, addr);
        });
    }
}
