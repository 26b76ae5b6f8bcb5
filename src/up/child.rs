//! A daemon as a child process: started, waited for until it says where it listens, and ended.
//!
//! A daemon that is ready writes `ready.json` into its state directory; the process number in it tells this start's file from
//! an earlier one's.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::Deserialize;
use steady_sys::kin::Kin;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout_at};

use crate::error::Error;
use crate::parent;
use crate::up::place::Recorded;

/// A daemon binds its ports and maps its table in well under a second; a machine that builds something meanwhile may take
/// a few.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
const READY_POLL: Duration = Duration::from_millis(10);
/// Of a daemon's own log, the end that says why it gave up.
const LAST_WORDS_LINES: usize = 8;
const LAST_WORDS_BYTES: usize = 4096;
const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

/// How to start one daemon; the same at every restart.
#[derive(Clone, Debug)]
pub struct Spec {
    /// `edge`, or the host's name.
    pub name: String,
    /// `lb` or `agent`.
    pub role: &'static str,
    pub state_dir: PathBuf,
}

/// A daemon that runs.
#[derive(Debug)]
pub struct Running {
    pub process: Child,
    pub kin: Kin,
}

/// A process and what people call it.
pub type Named = (String, Kin);

/// `ready.json`, of either daemon.
#[derive(Clone, Debug, Deserialize)]
pub struct Ready {
    pid: u32,
    #[serde(default)]
    pub listeners: Vec<Listener>,
    pub private: Option<SocketAddr>,
    pub data: Option<SocketAddr>,
    pub control: Option<SocketAddr>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Listener {
    pub addr: SocketAddr,
    pub tls: bool,
}

impl Spec {
    pub fn config(&self) -> PathBuf {
        self.state_dir.join(format!("{}.toml", self.role))
    }

    /// The daemon's own log: what it writes to stdout and stderr.
    pub fn log(&self) -> PathBuf {
        self.state_dir.join(format!("{}.log", self.role))
    }

    fn ready_json(&self) -> PathBuf {
        self.state_dir.join("ready.json")
    }

    /// Starts the daemon. It runs in a process group of its own, so that Ctrl-C reaches only `up`, which then stops things in
    /// order. Call it on the main thread (see [`parent::lead`]).
    pub fn spawn(&self, program: &Path) -> Result<Running, Error> {
        let _ = fs::remove_file(self.ready_json());
        let path = self.log();
        let log = fs::OpenOptions::new().create(true).append(true).open(&path).map_err(Error::file(&path))?;
        let stderr = log.try_clone().map_err(Error::file(&path))?;
        let mut command = std::process::Command::new(program);
        command.arg(self.role).arg("--config").arg(self.config());
        command.stdin(Stdio::null()).stdout(log).stderr(stderr);
        parent::lead(&mut command);
        let mut command = Command::from(command);
        let process = command
            .process_group(0)
            .spawn()
            .map_err(|error| Error::Failed(format!("cannot start {}: {error}", program.display())))?;
        let kin = process.id().and_then(Kin::of);
        let kin = kin.ok_or_else(|| Error::Failed(self.gone("ended at once")))?;
        Ok(Running { process, kin })
    }

    /// Waits until the daemon says where it listens.
    pub async fn ready(&self, running: &mut Running) -> Result<Ready, Error> {
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            if let Some(ready) = self.read_ready(running.kin.pid) {
                return Ok(ready);
            }
            if let Ok(Some(status)) = running.process.try_wait() {
                return Err(Error::Failed(self.gone(&format!("did not start ({})", describe(status)))));
            }
            if Instant::now() > deadline {
                return Err(Error::Failed(self.gone(&format!("was not ready within {} s", READY_TIMEOUT.as_secs()))));
            }
            sleep(READY_POLL).await;
        }
    }

    fn read_ready(&self, pid: u32) -> Option<Ready> {
        let ready: Ready = serde_json::from_slice(&fs::read(self.ready_json()).ok()?).ok()?;
        (ready.pid == pid).then_some(ready)
    }

    pub fn recorded(&self, kin: Kin) -> Recorded {
        Recorded { name: self.name.clone(), pid: kin.pid, started: kin.started }
    }

    /// What became of it, with its last words.
    fn gone(&self, what: &str) -> String {
        let words = last_words(&self.log());
        let words = if words.is_empty() { String::new() } else { format!(":\n{words}") };
        format!("{} {what}; its log is {}{words}", self.name, self.log().display())
    }
}

/// Ends processes that stop by themselves on SIGTERM, those that do not within `grace` by SIGKILL. Returns those that had to
/// be killed.
pub async fn end(children: &[Named], grace: Duration) -> Vec<String> {
    let deadline = Instant::now() + grace;
    for (_, kin) in children {
        let _ = kin.signal(SIGTERM);
    }
    let mut killed = Vec::new();
    for (name, kin) in children {
        if timeout_at(deadline, ended(*kin)).await.is_ok() {
            continue;
        }
        if kin.signal(SIGKILL).unwrap_or(false) {
            killed.push(name.clone());
        }
        let _ = timeout_at(Instant::now() + READY_TIMEOUT, ended(*kin)).await;
    }
    killed
}

async fn ended(kin: Kin) {
    while kin.is_alive() {
        sleep(READY_POLL).await;
    }
}

/// `exit status: 1`, `signal 9`.
pub fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

fn last_words(path: &Path) -> String {
    let content = fs::read(path).unwrap_or_default();
    let tail = &content[content.len().saturating_sub(LAST_WORDS_BYTES)..];
    let text = String::from_utf8_lossy(tail);
    let lines: Vec<&str> = text.lines().collect();
    let shown = &lines[lines.len().saturating_sub(LAST_WORDS_LINES)..];
    shown.iter().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}
