//! One edge and one host as processes of a test's own, as systemd would run them, so that the edge can be replaced.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use super::http::{Conn, Reply};
use super::up::{alive, processes_of, signal};
use super::{eventually, repository, steady, text};

pub const APP: &str = "fixture.localhost";

/// What of an edge's configuration tests choose.
#[derive(Clone, Debug)]
pub struct Choice {
    pub io: &'static str,
    pub workers: usize,
    /// Under `[timeouts]`.
    pub timeouts: String,
    /// `[[listen]]` for http; port 0: any free one.
    pub http: SocketAddr,
    /// `[private]`.
    pub private: SocketAddr,
}

impl Choice {
    pub fn of(io: &'static str) -> Choice {
        Choice {
            io,
            workers: 2,
            timeouts: String::new(),
            http: ([127, 0, 0, 1], 0).into(),
            private: ([127, 0, 0, 1], 0).into(),
        }
    }
}

#[derive(Debug)]
pub struct Site {
    base: PathBuf,
    /// h1, h2 …
    agents: Vec<Child>,
    /// Those that this test started; others may have been started by them.
    edges: Vec<Child>,
}

impl Site {
    /// The same with two hosts; the fixture is on h1.
    pub fn with_two_hosts(choice: &Choice) -> Site {
        let mut site = Site::without_edge();
        site.add_host();
        site.begin("", choice);
        site
    }

    /// Starts a host and an edge, and deploys the fixture.
    pub fn start(choice: &Choice) -> Site {
        Site::start_after("", choice)
    }

    /// The same; the edge's shell says `before` first.
    pub fn start_after(before: &str, choice: &Choice) -> Site {
        let mut site = Site::without_edge();
        site.begin(before, choice);
        site
    }

    fn begin(&mut self, before: &str, choice: &Choice) {
        self.configure(choice);
        let pid = self.launch_after(before, &[]);
        self.wait_for(pid);
        let up = format!("\nsteady_lb_hosts{{state=\"up\"}} {}\n", self.agents.len());
        eventually("the edge sees its hosts", || self.metrics().contains(&up).then_some(()));
        let folder = repository("tests/apps/fixture");
        self.run(&["deploy", folder.to_str().unwrap(), "--name", "fixture", "--host", "h1"]);
    }

    /// An application as the edge shows it.
    pub fn app(&self, name: &str) -> Value {
        let apps: Value = serde_json::from_str(&self.run(&["apps", "--json"])).unwrap();
        apps["apps"].as_array().unwrap().iter().find(|app| app["name"] == name).unwrap().clone()
    }

    /// A command against the edge, under way.
    pub fn spawn(&self, arguments: &[&str]) -> Child {
        let mut command = steady();
        command.args(arguments).arg("--address").arg(self.private().to_string());
        command.arg("--token-file").arg(self.dir().join("token")).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// A host alone.
    pub fn without_edge() -> Site {
        let base = tempfile::Builder::new().prefix("steady-site-").tempdir().unwrap().keep();
        for dir in ["lb", "certs"] {
            fs::create_dir(base.join(dir)).unwrap();
        }
        certificate(&base.join("certs"));
        let mut site = Site { base, agents: Vec::new(), edges: Vec::new() };
        site.add_host();
        site
    }

    /// One more host, for the edges that are configured after it.
    pub fn add_host(&mut self) {
        self.add_host_with("");
    }

    /// The same, with this behind its configuration.
    pub fn add_host_with(&mut self, more: &str) {
        let name = format!("h{}", self.agents.len() + 1);
        let (base, dir) = (&self.base, self.base.join(&name));
        fs::create_dir(&dir).unwrap();
        let file = base.join(format!("{name}.toml"));
        let config = format!(
            "name = {name:?}\nstate_dir = {dir:?}\nworkers = 1\nio = \"epoll\"\n[data]\naddr = \"127.0.0.1:0\"\n[control]\naddr = \
             \"127.0.0.1:0\"\n{more}"
        );
        fs::write(&file, config).unwrap();
        let mut command = steady();
        command.args(["agent", "--config"]).arg(&file);
        let agent = start_after("", base, &name, &command);
        self.agents.push(agent);
        eventually("the host is ready", || dir.join("ready.json").exists().then_some(()));
    }

    pub fn host_ready(&self, name: &str) -> Value {
        serde_json::from_slice(&fs::read(self.base.join(name).join("ready.json")).unwrap()).unwrap()
    }

    pub fn dir(&self) -> PathBuf {
        self.base.join("lb")
    }

    pub fn config(&self) -> PathBuf {
        self.base.join("lb.toml")
    }

    /// Writes the edge's configuration.
    pub fn configure(&self, choice: &Choice) {
        let Choice { io, workers, timeouts, http, private } = choice;
        let hosts = (1..=self.agents.len()).map(|number| {
            let name = format!("h{number}");
            let ready = self.host_ready(&name);
            let token = self.base.join(&name).join("token");
            let (data, control) = (&ready["data"], &ready["control"]);
            format!("[[host]]\nname = {name:?}\naddr = {data}\ncontrol = {control}\ntoken_file = {token:?}\n")
        });
        let hosts: String = hosts.collect();
        let base = self.base.display();
        let config = format!(
            r#"
state_dir = "{base}/lb"
workers = {workers}
io = "{io}"
domains = ["localhost"]
[[listen]]
addr = "{http}"
[[listen]]
addr = "127.0.0.1:0"
tls = true
[tls]
dir = "{base}/certs"
[private]
addr = "{private}"
{hosts}
[timeouts]
{timeouts}
[limits]
# A client that has no processor for a second is not to be cut.
leave = "20s"
[health]
suspect_after = "60s"
down_after = "120s"
[log]
access = "{base}/access.jsonl"
"#,
        );
        fs::write(self.config(), config).unwrap();
    }

    /// Starts an edge process, and does not wait.
    pub fn launch(&mut self, arguments: &[&str]) -> u32 {
        self.launch_after("", arguments)
    }

    /// The same, by a shell that says `before` first (`ulimit -n 100;`).
    pub fn launch_after(&mut self, before: &str, arguments: &[&str]) -> u32 {
        let mut command = steady();
        command.args(["lb", "--config"]).arg(self.config()).args(arguments);
        let child = start_after(before, &self.base, "lb", &command);
        let pid = child.id();
        self.edges.push(child);
        pid
    }

    /// Starts an edge process once somebody connects to one of these addresses, as systemd's socket units do. `false`: the tool
    /// for it is not there.
    pub fn launch_activated(&mut self, addrs: &[SocketAddr]) -> bool {
        if super::on_path("systemd-socket-activate").is_none() {
            return false;
        }
        let edge = steady();
        let mut command = Command::new("systemd-socket-activate");
        for addr in addrs {
            command.arg("-l").arg(addr.to_string());
        }
        command.arg(edge.get_program()).args(["lb", "--config"]).arg(self.config());
        for (name, _) in edge.get_envs() {
            command.env_remove(name);
        }
        let child = start(&self.base, "lb", command);
        self.edges.push(child);
        eventually("it listens", || self.log().contains("Listening on").then_some(()));
        true
    }

    /// Starts an edge process that says to this socket how it is.
    pub fn launch_notifying(&mut self, socket: &Path) -> u32 {
        let mut command = steady();
        command.args(["lb", "--config"]).arg(self.config()).env("NOTIFY_SOCKET", socket);
        let child = start(&self.base, "lb", command);
        let pid = child.id();
        self.edges.push(child);
        pid
    }

    /// Has a new process take over; its number.
    #[track_caller]
    pub fn upgrade(&mut self) -> u32 {
        let pid = self.launch(&["--upgrade"]);
        self.wait_for(pid);
        pid
    }

    /// Has no file of a process grow any further, as on a full disk, or (`false`) again as it likes.
    #[track_caller]
    pub fn fill(pid: u32, full: bool) {
        let size = if full { "--fsize=1:unlimited" } else { "--fsize=unlimited:unlimited" };
        let status = Command::new("prlimit").arg("--pid").arg(pid.to_string()).arg(size).status().unwrap();
        assert!(status.success(), "{size}");
    }

    pub fn agent_pid(&self) -> u32 {
        self.agents[0].id()
    }

    /// Where the agent answers.
    pub fn agent_metric(&self, name: &str) -> f64 {
        let addr: SocketAddr = self.host_ready("h1")["control"].as_str().unwrap().parse().unwrap();
        sum(&Conn::open(addr).request("GET", "agent", "/metrics", &[], b"").unwrap().text(), name)
    }

    /// Runs the command against the edge, whatever comes of it.
    pub fn try_run(&self, arguments: &[&str]) -> Output {
        let mut command = steady();
        command.args(arguments).arg("--address").arg(self.private().to_string());
        command.arg("--token-file").arg(self.dir().join("token")).output().unwrap()
    }

    /// Until this process says that it is the edge.
    #[track_caller]
    pub fn wait_for(&mut self, pid: u32) {
        eventually("the edge is ready", || {
            let mut edges = self.edges.iter_mut();
            if let Some(child) = edges.find(|child| child.id() == pid)
                && let Some(status) = child.try_wait().unwrap()
            {
                panic!("the edge ended ({status}):\n{}", self.log());
            }
            (self.try_ready().is_some_and(|ready| ready["pid"] == pid)).then_some(())
        });
    }

    /// The end of a process that this test started: its exit code.
    #[track_caller]
    pub fn ended(&mut self, pid: u32) -> Option<i32> {
        let child = self.edges.iter_mut().find(|child| child.id() == pid).expect("one that this test started");
        eventually("the process ends", || child.try_wait().unwrap()).code()
    }

    fn try_ready(&self) -> Option<Value> {
        serde_json::from_slice(&fs::read(self.dir().join("ready.json")).ok()?).ok()
    }

    #[track_caller]
    pub fn ready(&self) -> Value {
        eventually("it says where it listens", || self.try_ready())
    }

    pub fn pid(&self) -> u32 {
        self.ready()["pid"].as_u64().unwrap() as u32
    }

    fn listener(&self, tls: bool) -> SocketAddr {
        let ready = self.ready();
        let mut all = ready["listeners"].as_array().unwrap().iter();
        all.find(|listener| listener["tls"] == tls).unwrap()["addr"].as_str().unwrap().parse().unwrap()
    }

    pub fn http(&self) -> SocketAddr {
        self.listener(false)
    }

    pub fn https(&self) -> SocketAddr {
        self.listener(true)
    }

    pub fn private(&self) -> SocketAddr {
        self.ready()["private"].as_str().unwrap().parse().unwrap()
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Reply {
        Conn::open(self.http()).request("GET", APP, path, &[], b"").unwrap()
    }

    /// Runs the command against the edge; must succeed.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> String {
        // A process that has just taken over says that it serves before its control side does.
        let output = eventually("the control side has begun", || {
            let output = self.try_run(arguments);
            (!text(&output).contains("the control side is not there yet")).then_some(output)
        });
        assert!(output.status.success(), "steady {arguments:?}: {}\n{}", text(&output), self.log());
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    pub fn metrics(&self) -> String {
        Conn::open(self.private()).request("GET", "edge", "/metrics", &[], b"").unwrap().text()
    }

    /// The sum of a metric over its labels.
    #[track_caller]
    pub fn metric(&self, name: &str) -> f64 {
        sum(&self.metrics(), name)
    }

    /// What the edge's processes said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.base.join("lb.log")).unwrap_or_default()
    }

    pub fn access_log(&self) -> String {
        fs::read_to_string(self.base.join("access.jsonl")).unwrap_or_default()
    }

    /// Edges that live, this one and those that drain.
    pub fn edges(&self) -> usize {
        let config = self.config();
        processes_of(&self.base).iter().filter(|line| line.contains(config.to_str().unwrap())).count()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("what the edge's processes said:\n{}", self.log());
            for at in [&["requests"][..], &["requests", "--at", "h1"]] {
                if let Some(ready) = self.try_ready() {
                    let mut command = steady();
                    command.args(at).args(["--address", ready["private"].as_str().unwrap_or_default()]);
                    let output = command.arg("--token-file").arg(self.dir().join("token")).output();
                    eprintln!("{at:?}: {}", output.map_or_else(|error| error.to_string(), |output| text(&output)));
                }
            }
        }
        for line in processes_of(&self.base) {
            let pid: u32 = line.split(':').next().unwrap().parse().unwrap();
            if alive(pid) {
                let _ = Command::new("kill").arg("-KILL").arg(pid.to_string()).stderr(Stdio::null()).status();
            }
        }
        for child in self.edges.iter_mut().chain(&mut self.agents) {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.base);
    }
}

/// Starts it behind a shell that has it see a file that may not grow as an error, so that a test can fill its disk
/// ([`Site::fill`]), and that says `before` first.
fn start_after(before: &str, base: &Path, log: &str, command: &Command) -> Child {
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("trap '' XFSZ; {before} exec \"$0\" \"$@\"")]);
    shell.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    start(base, log, shell)
}

fn start(base: &Path, log: &str, mut command: Command) -> Child {
    let log = File::options().append(true).create(true).open(base.join(format!("{log}.log"))).unwrap();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    // Should this test be killed, the first of them ends with it.
    steady_sys::process::lead_session_and_die_with_parent(&mut command).spawn().unwrap()
}

fn sum(metrics: &str, name: &str) -> f64 {
    let lines = metrics
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' ')));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

fn certificate(dir: &Path) {
    let made = rcgen::generate_simple_self_signed(vec!["*.localhost".to_owned()]).unwrap();
    fs::write(dir.join("site.crt"), made.cert.pem()).unwrap();
    fs::write(dir.join("site.key"), made.signing_key.serialize_pem()).unwrap();
}

/// Sends a signal to a process of the site.
#[track_caller]
pub fn tell(pid: u32, name: &str) {
    signal(pid, name);
}
