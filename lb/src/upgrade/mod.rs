//! How a new process of an edge takes the place of the old one without losing a connection. `docs/decisions/upgrade.md` has
//! the order and its reasons.
//!
//! ```text
//!   new (`Taking`)                       old (`Desk`, `Heir`)
//!   take              ──────────────▶
//!                     ◀──────────────    its listening sockets, the lock of the state directory
//!   configuration, certificates, logs:
//!   all that can fail
//!   prepared          ──────────────▶    the writer of the table finishes its commit and rests
//!                     ◀──────────────    held: ticket keys
//!   maps the table, its workers accept
//!   serving           ──────────────▶    stops accepting, closes API, store and table
//!                     ◀──────────────    yours
//!   opens table, store and API           carries what it has until it is done (`linger`)
//! ```
//!
//! Until *serving* the old process is the edge: whatever becomes of the new one, it goes on. From then on the new one is.

mod linger;
mod new;
mod old;
mod sockets;
pub mod wire;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use steady_proxy::tls::TicketKeys;
use steady_sys::pidfd;
use steady_sys::process::spawn_orphan;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub use linger::Lingering;
pub use new::{Elders, TakeError, Taking};
pub use old::{Desk, Heir, Offer};
pub use sockets::Inherited;

/// What `steady up` says of itself to its children. Their edge is not replaced behind its back.
const OF_UP: &str = "STEADY_UP_PID";

/// What a process brings that can be replaced, or that replaces another.
#[derive(Debug, Default)]
pub struct Parts {
    /// The process that this one takes over from.
    pub taking: Option<Taking>,
    /// The listener of the private port, where it was inherited.
    pub private: Option<std::net::TcpListener>,
    /// What the next process gets; `None`: this one cannot be replaced.
    pub offer: Option<Arc<Offer>>,
    pub tickets: Option<Arc<TicketKeys>>,
    pub elders: Arc<Elders>,
    pub successor: Option<Successor>,
}

/// How the new process is started when the old one is told to (SIGUSR2).
#[derive(Clone, Debug)]
pub struct Successor {
    program: OsString,
    config: PathBuf,
}

impl Successor {
    /// The program that this process was started as, at the path it had: whatever is there when it is needed is the new one.
    pub fn of_this(config: &Path) -> Option<Successor> {
        let program = std::env::args_os().next()?;
        let path = Path::new(&program);
        // A bare name is looked for in PATH each time.
        let program =
            if path.components().count() > 1 { std::path::absolute(path).ok()?.into_os_string() } else { program };
        Some(Successor { program, config: config.to_owned() })
    }

    /// Starts it, and says when it has ended; then this process goes on. It is not this one's child: a supervisor that adopts it hears of
    /// its end also while this process still carries what it has.
    pub fn start(&self) {
        if std::env::var_os(OF_UP).is_some() {
            tracing::error!("not replaced: {}", old::BELONGS_TO_UP);
            return;
        }
        let mut command = Command::new(&self.program);
        command.arg("lb").arg("--config").arg(&self.config).arg("--upgrade").stdin(Stdio::null());
        for name in crate::systemd::ACTIVATION {
            command.env_remove(name);
        }
        let program = Path::new(&self.program).display();
        match spawn_orphan(&mut command) {
            Ok(pid) => {
                tracing::info!(pid, %program, "a new process is started to take over");
                // Where it takes over this task ends with the runtime, before the new one ends.
                tokio::spawn(async move {
                    match ended(pid).await {
                        Ok(()) => tracing::error!(pid, "the new process has ended; this one goes on"),
                        Err(error) => tracing::error!(pid, %error, "the new process cannot be waited for"),
                    }
                });
            }
            Err(error) => tracing::error!(%error, %program, "no new process can be started; this one goes on"),
        }
    }
}

/// Returns when the process that was just started has ended.
async fn ended(pid: u32) -> io::Result<()> {
    let fd = match pidfd::open(pid) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
        opened => opened?,
    };
    // The constructor that replaces this one has its caller vouch that the descriptor stays the same; an OwnedFd's does.
    #[allow(deprecated)]
    let fd = AsyncFd::with_interest(fd, Interest::READABLE)?;
    fd.readable().await.map(drop)
}
