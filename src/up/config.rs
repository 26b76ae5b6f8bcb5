//! The daemons' configuration files, as `up` writes them (`docs/configuration.md` describes every key).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::UpArgs;
use crate::error::Error;
use crate::up::place::write_aside;

/// The domains whose names are applications' names. `localhost` needs no DNS in browsers and curl.
pub const DOMAINS: [&str; 3] = ["steady.page", "steady.sh", "localhost"];
/// How long requests in flight may still take when something moves or stops. Short: somebody waits at the keyboard, and an
/// open page (server-sent events, a WebSocket) would use all of it.
const DRAIN: &str = "5s";
/// From SIGTERM to SIGKILL for an application, for the same reason.
const APP_STOP_TIMEOUT: &str = "5s";

#[derive(Debug, Serialize)]
pub struct Lb {
    state_dir: PathBuf,
    workers: u16,
    io: &'static str,
    domains: [&'static str; 3],
    private: Private,
    tls: Tls,
    timeouts: Timeouts,
    log: LbLog,
    listen: Vec<Listen>,
    host: Vec<Host>,
}

#[derive(Debug, Serialize)]
struct Private {
    addr: SocketAddr,
    token_file: PathBuf,
}

#[derive(Debug, Serialize)]
struct Tls {
    dir: PathBuf,
}

#[derive(Debug, Serialize)]
struct Timeouts {
    drain: &'static str,
}

#[derive(Debug, Serialize)]
struct LbLog {
    access: PathBuf,
}

#[derive(Debug, Serialize)]
struct Listen {
    addr: SocketAddr,
    tls: bool,
}

/// A host as the edge knows it.
#[derive(Clone, Debug, Serialize)]
pub struct Host {
    pub name: String,
    pub addr: SocketAddr,
    pub control: SocketAddr,
    /// In the clear.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
}

/// Where the edge listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    pub http: SocketAddr,
    pub https: SocketAddr,
    pub private: SocketAddr,
}

impl Lb {
    pub fn new(dir: &Path, state_dir: &Path, args: &UpArgs, edge: Edge, host: Vec<Host>) -> Lb {
        Lb {
            state_dir: state_dir.to_owned(),
            workers: args.workers,
            io: args.io.as_str(),
            domains: DOMAINS,
            private: Private { addr: edge.private, token_file: state_dir.join("token") },
            tls: Tls { dir: dir.join("certs") },
            timeouts: Timeouts { drain: DRAIN },
            log: LbLog { access: state_dir.join("access.jsonl") },
            listen: vec![Listen { addr: edge.http, tls: false }, Listen { addr: edge.https, tls: true }],
            host,
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Agent {
    name: String,
    state_dir: PathBuf,
    workers: u16,
    io: &'static str,
    data: Data,
    control: Control,
    #[serde(skip_serializing_if = "Option::is_none")]
    join: Option<Join>,
    apps: Apps,
    log: AgentLog,
}

#[derive(Debug, Serialize)]
struct Data {
    addr: SocketAddr,
}

#[derive(Debug, Serialize)]
struct Control {
    addr: SocketAddr,
    token_file: PathBuf,
}

/// The cluster that the hosts join.
#[derive(Clone, Debug, Serialize)]
pub struct Join {
    pub edges: [SocketAddr; 1],
    pub token_file: PathBuf,
}

#[derive(Debug, Serialize)]
struct Apps {
    bun: PathBuf,
    stop_timeout: &'static str,
}

#[derive(Debug, Serialize)]
struct AgentLog {
    requests: PathBuf,
}

impl Agent {
    pub fn new(
        name: &str,
        state_dir: &Path,
        args: &UpArgs,
        data: SocketAddr,
        control: SocketAddr,
        join: Option<Join>,
        bun: &Path,
    ) -> Agent {
        Agent {
            name: name.to_owned(),
            state_dir: state_dir.to_owned(),
            workers: args.workers,
            io: args.io.as_str(),
            data: Data { addr: data },
            control: Control { addr: control, token_file: state_dir.join("token") },
            join,
            apps: Apps { bun: bun.to_owned(), stop_timeout: APP_STOP_TIMEOUT },
            log: AgentLog { requests: state_dir.join("requests.jsonl") },
        }
    }
}

/// Writes a daemon's file whole.
pub fn write(path: &Path, config: &impl Serialize) -> Result<(), Error> {
    let body = toml::to_string(config)
        .map_err(|error| Error::Failed(format!("cannot write {} as TOML: {error}", path.display())))?;
    let text = format!("# Written by `steady up` at every start: changes made here are lost.\n\n{body}");
    write_aside(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn args() -> UpArgs {
        match crate::cli::Cli::parse_from(["steady", "up", "--workers", "3", "--io", "epoll"]).command {
            crate::cli::Command::Up(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_edge_s_file_names_its_listeners_and_hosts_as_the_page_describes() {
        let addr = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let host = Host { name: "h1".into(), addr: addr(1), control: addr(2), token_file: None };
        let edge = Edge { http: addr(80), https: addr(443), private: addr(9900) };
        let lb = Lb::new(Path::new("/s"), Path::new("/s/lb"), &args(), edge, vec![host]);
        let table: toml::Table = toml::to_string(&lb).unwrap().parse().unwrap();
        assert_eq!(table["workers"].as_integer(), Some(3));
        assert_eq!(table["io"].as_str(), Some("epoll"));
        assert_eq!(table["listen"][1]["tls"].as_bool(), Some(true));
        assert_eq!(table["private"]["token_file"].as_str(), Some("/s/lb/token"));
        assert_eq!(table["host"][0]["control"].as_str(), Some("127.0.0.1:2"));
        assert_eq!(table["tls"]["dir"].as_str(), Some("/s/certs"));
    }

    #[test]
    fn a_host_s_file_names_its_ports_and_its_bun() {
        let addr = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let agent = Agent::new("h2", Path::new("/s/h2"), &args(), addr(0), addr(7), None, Path::new("/b/bun"));
        let table: toml::Table = toml::to_string(&agent).unwrap().parse().unwrap();
        assert_eq!(table["data"]["addr"].as_str(), Some("127.0.0.1:0"));
        assert_eq!(table["control"]["addr"].as_str(), Some("127.0.0.1:7"));
        assert_eq!(table["apps"]["bun"].as_str(), Some("/b/bun"));
    }
}
