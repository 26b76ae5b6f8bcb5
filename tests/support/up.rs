//! A `steady up` of a test's own: a fresh directory, ports that are free, ended with the test's process whatever becomes of it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

use super::http::{Conn, Reply};
use super::{bun, eventually, steady, text};

/// The shell in between ends `up` when its input ends, which is when the test's process is gone, also by a panic of a shared
/// one; then it removes the directory.
const KEEPER: &str = r#"
base=$1; shift
"$@" >"$base/output" 2>&1 </dev/null & up=$!
echo $up >"$base/pid"
cat >/dev/null
kill $up 2>/dev/null; wait $up; code=$?
[ -e "$base/keep" ] && { echo $code >"$base/code"; exit; }
rm -rf "$base"
"#;

/// Of each daemon's log, shown when a test fails.
const LOG_LINES: usize = 20;

#[derive(Debug)]
pub struct Up {
    base: PathBuf,
    keeper: Child,
    /// The directory outlives this one (see [`Up::kill`]).
    handed_on: bool,
}

impl Up {
    /// Starts with two hosts on free ports and waits until it is ready.
    pub fn start(arguments: &[&str]) -> Up {
        let up = Up::launch(arguments);
        up.wait_ready();
        up
    }

    /// Starts without waiting.
    pub fn launch(arguments: &[&str]) -> Up {
        let base = tempfile::Builder::new().prefix("steady-up-").tempdir().unwrap().keep();
        Up::launch_in(base, arguments)
    }

    /// As [`Up::launch`], in the directory of an earlier one.
    pub fn launch_in(base: PathBuf, arguments: &[&str]) -> Up {
        let path = std::env::var("PATH").unwrap_or_default();
        let path = bun().map_or(path.clone(), |folder| format!("{}:{path}", folder.display()));
        Up::launch_on_path(base, arguments, &path)
    }

    /// As [`Up::launch_in`], with this PATH.
    pub fn launch_on_path(base: PathBuf, arguments: &[&str], path: &str) -> Up {
        // What an earlier one left would be taken for this one's.
        for stale in ["pid", "output", "state/up.json"] {
            let _ = fs::remove_file(base.join(stale));
        }
        let steady = steady();
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, "keeper"]).arg(&base).arg(steady.get_program()).arg("up").arg("--dir");
        keeper.arg(base.join("state"));
        keeper.args(["--http", "127.0.0.1:0", "--https", "127.0.0.1:0", "--private", "127.0.0.1:0"]);
        // Every end-to-end test runs on whichever driver this names; CI runs them on both.
        if let Ok(io) = std::env::var("STEADY_TEST_IO") {
            keeper.args(["--io", &io]);
        }
        keeper.args(arguments).env("PATH", path);
        for (name, value) in steady.get_envs() {
            if value.is_none() {
                keeper.env_remove(name);
            }
        }
        let keeper = keeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let up = Up { base, keeper, handed_on: false };
        eventually("the keeper starts `up`", || up.try_pid());
        up
    }

    pub fn wait_ready(&self) {
        eventually("up.json appears", || {
            assert!(alive(self.pid()), "`up` ended before it was ready:\n{}", self.output());
            self.dir().join("up.json").exists().then_some(())
        });
    }

    pub fn dir(&self) -> PathBuf {
        self.base.join("state")
    }

    /// What `up` has printed.
    pub fn output(&self) -> String {
        fs::read_to_string(self.base.join("output")).unwrap_or_default()
    }

    fn try_pid(&self) -> Option<u32> {
        fs::read_to_string(self.base.join("pid")).ok()?.trim().parse().ok()
    }

    pub fn pid(&self) -> u32 {
        self.try_pid().unwrap()
    }

    /// `up.json` as it is now.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&fs::read(self.dir().join("up.json")).unwrap()).unwrap()
    }

    pub fn addr(&self, which: &str) -> SocketAddr {
        self.json()[which].as_str().unwrap().parse().unwrap()
    }

    pub fn edge_pid(&self) -> u32 {
        self.json()["pids"]["edge"].as_u64().unwrap() as u32
    }

    pub fn agent_pid(&self, host: &str) -> u32 {
        self.json()["pids"]["agents"][host].as_u64().unwrap() as u32
    }

    /// Runs the command against this system.
    pub fn steady(&self, arguments: &[&str]) -> Output {
        steady().args(arguments).arg("--dir").arg(self.dir()).output().unwrap()
    }

    /// As [`Up::steady`]; must succeed.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = self.steady(arguments);
        assert!(output.status.success(), "steady {arguments:?}: {}\n{}", text(&output), self.output());
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    pub fn deploy(&self, folder: &Path, name: &str, host: &str) {
        self.run(&["deploy", folder.to_str().unwrap(), "--name", name, "--host", host]);
    }

    /// The application as the API describes it.
    #[track_caller]
    pub fn app(&self, name: &str) -> Value {
        let apps: Value = serde_json::from_str(&self.run(&["apps", "--json"])).unwrap();
        apps["apps"].as_array().unwrap().iter().find(|app| app["name"] == name).unwrap().clone()
    }

    /// A GET over plain HTTP/1.1 on a connection of its own.
    #[track_caller]
    pub fn get(&self, name: &str, path: &str) -> Reply {
        let mut conn = Conn::open(self.addr("http"));
        conn.request("GET", &format!("{name}.localhost"), path, &[], b"").unwrap()
    }

    /// curl, with a name of `steady.page` and `steady.sh` leading here and the local authority trusted. Its output is the body,
    /// then a line with the status and the version of HTTP.
    pub fn curl(&self, arguments: &[&str]) -> Output {
        let https = self.addr("https");
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "100", "--noproxy", "*", "--cacert"]).arg(self.json()["ca"].as_str().unwrap());
        for domain in ["steady.page", "steady.sh"] {
            for name in ["hello", "clock", "fixture", "nobody"] {
                curl.arg("--resolve").arg(format!("{name}.{domain}:{}:{}", https.port(), https.ip()));
            }
        }
        curl.args(["-w", "\n%{http_code} %{http_version}"]).args(arguments).output().unwrap()
    }

    /// Asks `up` to stop as Ctrl-C does, and waits for it. Its exit code.
    pub fn stop(mut self) -> i32 {
        fs::write(self.base.join("keep"), "").unwrap();
        let dir = self.dir();
        drop(self.keeper.stdin.take());
        eventually("`up` stops", || self.keeper.try_wait().unwrap());
        let code = fs::read_to_string(self.base.join("code")).unwrap().trim().parse().unwrap();
        assert_eq!(processes_of(&dir), Vec::<String>::new(), "processes are left:\n{}", self.output());
        assert!(!dir.join("up.json").exists(), "up.json is left");
        code
    }

    /// Kills `up` itself with -9; what it started is on its own. The directory stays, for [`Up::launch_in`].
    pub fn kill(self) -> PathBuf {
        signal(self.pid(), "KILL");
        self.pause()
    }

    /// Stops `up` as [`Up::stop`] does. The directory stays, for [`Up::launch_in`].
    pub fn pause(mut self) -> PathBuf {
        fs::write(self.base.join("keep"), "").unwrap();
        drop(self.keeper.stdin.take());
        self.keeper.wait().unwrap();
        let base = self.base.clone();
        fs::remove_file(base.join("keep")).unwrap();
        self.handed_on = true;
        base
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("what `up` said:\n{}", self.output());
            for log in ["lb/lb.log", "lb/access.jsonl", "h1/agent.log", "h2/agent.log"] {
                let text = fs::read_to_string(self.dir().join(log)).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                eprintln!("the end of {log}:\n{}\n", lines[lines.len().saturating_sub(LOG_LINES)..].join("\n"));
            }
        }
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
        if !self.handed_on {
            let _ = fs::remove_dir_all(&self.base);
        }
    }
}

/// Sends a signal by its name.
#[track_caller]
pub fn signal(pid: u32, name: &str) {
    assert!(pid > 1);
    let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().unwrap();
    assert!(status.success(), "kill -{name} {pid}");
}

/// Whether a process of that number lives (a zombie does not).
pub fn alive(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with('Z'))
}

/// Every living process that has to do with the directory: its arguments, its working directory or its environment say so.
pub fn processes_of(dir: &Path) -> Vec<String> {
    let dir = dir.to_str().unwrap();
    let mut found = Vec::new();
    for item in fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = item.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let read =
            |name: &str| String::from_utf8_lossy(&fs::read(item.path().join(name)).unwrap_or_default()).into_owned();
        let folder = fs::read_link(item.path().join("cwd")).unwrap_or_default();
        let (line, environment) = (read("cmdline"), read("environ"));
        let ours =
            line.contains(dir) || environment.contains(dir) || folder.to_str().is_some_and(|it| it.contains(dir));
        if ours && alive(pid) && pid != std::process::id() {
            found.push(format!("{pid}: {}", line.replace('\0', " ")));
        }
    }
    found
}
