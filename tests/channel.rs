//! Edges and hosts find each other, whatever starts or dies in whatever order, and lose or repeat nothing of what they say:
//! real processes. STEADY_LONG=1 runs a hundred rounds, and holds convergence to the 5 s that are promised.

mod support;

use std::collections::HashSet;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::http::Conn;
use support::{eventually, long, steady};

/// What every order of starting promises.
const PROMISED: Duration = Duration::from_secs(5);

/// Where an edge is: its configuration, its state and its log have this name.
#[derive(Clone, Copy)]
struct Place {
    name: &'static str,
    http: SocketAddr,
    private: SocketAddr,
}

/// An edge and one host on ports that stay theirs, as processes that a test starts, stops and kills. A second edge has a place of
/// its own, and nothing in it until the store is brought there.
struct Pair {
    dir: tempfile::TempDir,
    at: Place,
    other: Place,
    control: SocketAddr,
    edge: Option<Child>,
    agent: Option<Child>,
}

/// A port that nobody else is given while its daemon is dead: from below those that the kernel hands out (32768 and on).
fn free() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let place = std::process::id().wrapping_mul(97) + NEXT.fetch_add(1, Ordering::Relaxed);
        let addr = SocketAddr::from(([127, 0, 0, 1], 10_000 + (place % 20_000) as u16));
        if TcpListener::bind(addr).is_ok() {
            return addr;
        }
    }
}

impl Pair {
    /// Nothing runs yet. `faults` goes into both configurations; the host's seed list begins with an address at which
    /// nobody is, and has both edges.
    fn new(faults: &str) -> Pair {
        let dir = tempfile::tempdir().unwrap();
        let (data, control) = (free(), free());
        let path = |name: &str| dir.path().join(name).display().to_string();
        for name in ["lb", "lb2", "h1"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        let [at, other] = ["lb", "lb2"].map(|name| Place { name, http: free(), private: free() });
        for Place { name, http, private } in [at, other] {
            let edge = format!(
                "state_dir = {:?}\ndomains = [\"localhost\"]\nworkers = 1\nio = {:?}\n[[listen]]\naddr = \"{http}\"\n\
                 [private]\naddr = \"{private}\"\n[cluster]\nname = {name:?}\n[log]\nlevel = \"info,steady_lb=debug,steady_agent=debug\"\n\
                 [timeouts]\ndrain = \"1s\"\n{faults}",
                path(name),
                io(),
            );
            fs::write(dir.path().join(format!("{name}.toml")), edge).unwrap();
        }
        let agent = format!(
            "name = \"h1\"\nstate_dir = {:?}\nworkers = 1\nio = {:?}\n[data]\naddr = \"{data}\"\n[control]\naddr = \"{control}\"\n\
             [join]\nedges = [\"{}\", \"{}\", \"{}\"]\ntoken_file = {:?}\n[log]\nlevel = \"info,steady_lb=debug,steady_agent=debug\"\n{faults}",
            path("h1"),
            io(),
            free(),
            at.private,
            other.private,
            path("join-token"),
        );
        fs::write(dir.path().join("h1.toml"), agent).unwrap();
        Pair { dir, at, other, control, edge: None, agent: None }
    }

    fn spawn(&self, role: &str, name: &str) -> Child {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log(name)).unwrap();
        let config = self.dir.path().join(format!("{name}.toml"));
        // The signal of a file that may not grow is ignored, so that the write fails as on a full disk.
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_steady")]);
        command.args([role, "--config"]).arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // Through a process whose file may grow when that of the daemon may not; it ends with the daemon.
        let mut copies = Command::new("cat").stdin(child.stderr.take().unwrap()).stdout(log).spawn().unwrap();
        std::thread::spawn(move || copies.wait());
        child
    }

    fn log(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.log"))
    }

    fn start_edge(&mut self) {
        self.edge = Some(self.spawn("lb", self.at.name));
    }

    fn signal_agent(&self, number: i32) {
        signal(self.agent.as_ref().unwrap(), number);
    }

    fn start_agent(&mut self) {
        self.agent = Some(self.spawn("agent", "h1"));
    }

    fn kill_edge(&mut self) {
        kill(self.edge.take());
    }

    /// The edge dies, and its store goes on at the other one; what was in its streams stays behind.
    fn turn_to_the_other_edge(&mut self) {
        self.kill_edge();
        std::mem::swap(&mut self.at, &mut self.other);
        let [from, to] = [self.other, self.at].map(|place| self.dir.path().join(place.name));
        let stays = |name: &str| ["stream", "lock", "ready.json"].contains(&name) || name.ends_with(".sock");
        copy(&from, &to, &stays);
        self.start_edge();
    }

    fn kill_agent(&mut self) {
        kill(self.agent.take());
    }

    /// A command against this edge.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = steady();
        command.arg("--address").arg(format!("http://{}", self.at.private));
        command.arg("--token-file").arg(self.dir.path().join(self.at.name).join("token")).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let output = self.command(arguments).output().unwrap();
        let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    fn write_token(&self) {
        let token = eventually("the edge makes a join token", || self.run(&["join-token"]).ok());
        fs::write(self.dir.path().join("join-token"), token).unwrap();
    }

    /// The private port's answer.
    fn ask(&self, path: &str) -> Option<Value> {
        let token = fs::read_to_string(self.dir.path().join(self.at.name).join("token")).ok()?;
        let bearer = format!("Bearer {}", token.trim());
        let answer = Conn::try_open(self.at.private)
            .ok()?
            .request("GET", "edge", path, &[("authorization", &bearer)], b"")
            .ok()?;
        serde_json::from_str(&answer.text()).ok()
    }

    fn host_is(&self, state: &str) -> Option<()> {
        (self.ask("/v1/hosts/h1")?["state"] == state).then_some(())
    }

    fn serves(&self, app: &str) -> Option<()> {
        let answer =
            Conn::try_open(self.at.http).ok()?.request("GET", &format!("{app}.localhost"), "/", &[], b"").ok()?;
        (answer.status == 200).then_some(())
    }

    /// Edge, host and application are all there; how long that took.
    fn converged(&mut self, app: &str) -> Duration {
        let begun = Instant::now();
        eventually("the host is up and the application answers", || {
            self.supervise();
            self.host_is("up").and_then(|()| self.serves(app))
        });
        begun.elapsed()
    }

    /// Starts again what has ended, as systemd does: a listener of a killed process lives on until the kernel has torn its
    /// ring down, and whoever wants its port before that ends.
    fn supervise(&mut self) {
        let ended = |child: &mut Option<Child>| child.as_mut().is_some_and(|it| it.try_wait().unwrap().is_some());
        if ended(&mut self.edge) {
            self.start_edge();
        }
        if ended(&mut self.agent) {
            self.start_agent();
        }
    }

    /// A system that runs, with an application.
    fn running(faults: &str) -> Pair {
        let mut pair = Pair::new(faults);
        pair.start_edge();
        pair.write_token();
        pair.start_agent();
        eventually("the host is up", || pair.host_is("up"));
        let app = app(pair.dir.path());
        pair.deploy(&app, "shop");
        pair
    }

    /// A host that has no processor for three seconds is suspected, and gets nothing until it was heard again.
    #[track_caller]
    fn deploy(&self, folder: &Path, name: &str) {
        let folder = folder.display().to_string();
        eventually("it is deployed", || self.run(&["deploy", &folder, "--name", name]).ok());
    }

    /// Everything that hosts told.
    fn events(&self) -> Vec<Value> {
        let answer = eventually("the edge answers", || self.ask("/v1/events?limit=10000"));
        answer["events"].as_array().unwrap().clone()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in ["lb", "lb2", "h1"] {
                let log = fs::read_to_string(self.log(name)).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(60).collect();
                eprintln!("--- {name}\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
            }
        }
        // The agent first: its applications end with it.
        for child in [self.agent.take(), self.edge.take()].into_iter().flatten() {
            kill(Some(child));
        }
    }
}

/// Copies a directory over another, but for what stays.
fn copy(from: &Path, to: &Path, stays: &dyn Fn(&str) -> bool) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (name, kind) = (entry.file_name(), entry.file_type().unwrap());
        if stays(name.to_str().unwrap()) {
            continue;
        }
        if kind.is_dir() {
            copy(&entry.path(), &to.join(name), stays);
        } else if kind.is_file() {
            fs::copy(entry.path(), to.join(name)).unwrap();
        }
    }
}

fn kill(child: Option<Child>) {
    if let Some(mut child) = child {
        signal(&child, libc::SIGKILL);
        child.wait().unwrap();
    }
}

#[allow(unsafe_code, reason = "kill(2) has no safe form in std")]
fn signal(child: &Child, signal: i32) {
    // SAFETY: a child that was not waited for has its number to itself.
    unsafe { libc::kill(child.id() as i32, signal) };
}

fn io() -> String {
    std::env::var("STEADY_TEST_IO").unwrap_or_else(|_| "auto".to_owned())
}

/// A program that answers, and ends when it is asked to.
fn app(dir: &Path) -> PathBuf {
    let folder = dir.join("shop");
    fs::create_dir_all(&folder).unwrap();
    let program = "import os, http.server as s\n\
                   class H(s.BaseHTTPRequestHandler):\n\
                   \x20def do_GET(self):\n\
                   \x20 if self.path == '/die': os._exit(7)\n\
                   \x20 self.send_response(200); self.send_header('content-length', '2'); self.end_headers(); self.wfile.write(b'ok')\n\
                   \x20def log_message(self, *a): pass\n\
                   s.ThreadingHTTPServer(('127.0.0.1', int(os.environ['PORT'])), H).serve_forever()\n";
    fs::write(folder.join("main.py"), program).unwrap();
    fs::write(folder.join("steady.toml"), "command = [\"python3\", \"main.py\"]\n").unwrap();
    folder
}

fn told_within(what: &str, took: Duration) {
    println!("{what}: {} ms", took.as_millis());
    if long() {
        assert!(took <= PROMISED, "{what} took {took:?}");
    }
}

#[test]
fn whatever_starts_last_everybody_finds_everybody() {
    let mut pair = Pair::running("");
    told_within("first start", pair.converged("shop"));
    for order in ["agent edge", "edge agent"] {
        pair.kill_edge();
        pair.kill_agent();
        for part in order.split(' ') {
            match part {
                "edge" => pair.start_edge(),
                _ => pair.start_agent(),
            }
            // Long enough for the first to have tried in vain.
            std::thread::sleep(Duration::from_millis(300));
        }
        told_within(&format!("all anew, {order}"), pair.converged("shop"));
    }
    pair.kill_edge();
    pair.start_edge();
    told_within("the edge anew", pair.converged("shop"));
    pair.kill_agent();
    pair.start_agent();
    told_within("the agent anew", pair.converged("shop"));
}

/// Has no file of a process grow any further, as on a full disk, or again as it likes.
fn fill(child: &Child, full: bool) {
    let size = if full { "--fsize=1:unlimited" } else { "--fsize=unlimited:unlimited" };
    let status = Command::new("prlimit").arg("--pid").arg(child.id().to_string()).arg(size).status().unwrap();
    assert!(status.success(), "{size}");
}

#[test]
fn a_host_whose_disk_was_full_takes_orders_and_tells_what_it_is_when_there_is_room_without_a_restart() {
    let mut pair = Pair::running("");
    pair.converged("shop");
    let crashes = |pair: &Pair| pair.events().iter().filter(|event| event["event"] == "crashed").count();
    let ends = |pair: &Pair| fs::read_to_string(pair.log("lb")).unwrap().matches("event=Disconnected").count();
    for round in 1..3 {
        let before = ends(&pair);
        fill(pair.agent.as_ref().unwrap(), true);
        // Its end is an event, which goes to the log.
        let _ = Conn::open(pair.at.http).request("GET", "shop.localhost", "/die", &[], b"");
        // It cannot say so itself: what it prints goes to a file too.
        eventually("its log cannot be written, and the stream ends", || (ends(&pair) > before).then_some(()));
        fill(pair.agent.as_ref().unwrap(), false);
        eventually("what happened meanwhile is told", || (crashes(&pair) >= round).then_some(()));
        pair.deploy(&pair.dir.path().join("shop"), "shop");
    }
}

#[test]
fn a_host_that_is_there_before_its_edge_and_its_token_joins_when_they_come() {
    let mut pair = Pair::new("");
    pair.start_agent();
    pair.start_edge();
    fs::write(pair.dir.path().join("join-token"), "steady-join.v1.00\n").unwrap();
    eventually("it says what is wrong with its token", || {
        fs::read_to_string(pair.log("h1"))
            .ok()?
            .contains("this join token is cut or changed; copy it again")
            .then_some(())
    });
    let other = format!("steady-join.v1.{}.{}", "0".repeat(64), "0".repeat(64));
    fs::write(pair.dir.path().join("join-token"), other).unwrap();
    eventually("it does not trust an edge that its token does not name", || {
        fs::read_to_string(pair.log("h1")).ok()?.contains("UnknownIssuer").then_some(())
    });
    let good = eventually("the edge gives a token", || pair.run(&["join-token"]).ok());
    let secret = good.trim().rsplit('.').next().unwrap();
    fs::write(pair.dir.path().join("join-token"), good.replace(secret, &"0".repeat(64))).unwrap();
    eventually("the edge refuses a secret that it never gave", || {
        fs::read_to_string(pair.log("h1")).ok()?.contains("the join token is unknown").then_some(())
    });
    fs::write(pair.dir.path().join("join-token"), good).unwrap();
    let begun = Instant::now();
    eventually("the host is up", || pair.host_is("up"));
    told_within("from the token to a host that is up", begun.elapsed());
}

/// Numbers from a seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// The value of a field in a line of a log: `name=value`, or `name: value` inside a structure.
fn field<'l>(line: &'l str, name: &str) -> Option<&'l str> {
    let rest = line.split_once(&format!("{name}=")).or_else(|| line.split_once(&format!("{name}: ")))?.1;
    rest.split([' ', ',', '}', ')']).next()
}

/// One deployment under way while something dies or stands still; then all must be well again.
fn round(pair: &mut Pair, number: u64, dice: &mut Dice) {
    let folder = pair.dir.path().join("shop");
    fs::write(folder.join("round"), number.to_string()).unwrap();
    let deploy = pair.command(&["deploy", &folder.display().to_string(), "--name", "shop"]);
    let mut deploy = { deploy }.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(dice.below(600)));
    let what = dice.below(5);
    let pause = Duration::from_millis(dice.below(if long() { 9000 } else { 1500 }));
    match what {
        0 => {
            pair.kill_edge();
            pair.start_edge();
        }
        1 => {
            pair.kill_agent();
            pair.start_agent();
        }
        2 => {
            pair.kill_edge();
            pair.kill_agent();
            pair.start_agent();
            pair.start_edge();
        }
        _ => {
            let stopped = if what == 3 { pair.edge.as_ref() } else { pair.agent.as_ref() }.unwrap();
            signal(stopped, libc::SIGSTOP);
            std::thread::sleep(pause);
            signal(stopped, libc::SIGCONT);
        }
    }
    // It may have failed: whoever it spoke to may be dead.
    while deploy.try_wait().unwrap().is_none() {
        pair.supervise();
        std::thread::sleep(support::POLL);
    }
    let what = ["edge killed", "agent killed", "both killed", "edge stopped", "agent stopped"][what as usize];
    println!("round {number}: {what}; well again after {} ms", pair.converged("shop").as_millis());
}

/// Nothing that was kept is missing on the other side, and nothing is there twice.
fn assert_nothing_lost_or_repeated(pair: &mut Pair) {
    let folder = pair.dir.path().join("shop");
    fs::write(folder.join("round"), "last").unwrap();
    let deployed = eventually("a deployment succeeds", || {
        pair.supervise();
        pair.run(&["deploy", &folder.display().to_string(), "--name", "shop"]).ok()
    });
    assert!(!deployed.is_empty());
    // Events: by the process that they tell of.
    let key = |event: &Value| format!("{} {} {}", event["event"], event["instance"], event["cut"]).replace('"', "");
    let kept: HashSet<String> = fs::read_to_string(pair.log("h1"))
        .unwrap()
        .lines()
        .filter(|line| line.contains("an event is kept") && line.contains("AppEvent"))
        .map(|line| {
            let part = |name| field(line, name).unwrap_or_else(|| panic!("{name} in {line}"));
            format!("{} {} {}", part("kind").to_lowercase(), part("instance"), part("cut"))
        })
        .collect();
    let found = eventually("the edge has every event that the host kept", || {
        let found: Vec<String> = pair.events().iter().map(key).collect();
        kept.iter().all(|event| found.contains(event)).then_some(found)
    });
    let mut seen = HashSet::new();
    let twice: Vec<&String> =
        found.iter().filter(|event| !event.starts_with("drained") && !seen.insert(*event)).collect();
    assert!(twice.is_empty(), "applied twice: {twice:?}");
    assert!(kept.len() > 3, "{kept:?}");
    // Orders: positions on the edge's side, a count that is stored with the cursor on the host's.
    let (taken, withdrawn) = eventually("the host has taken every order, none twice", || {
        // What the edge says comes through another process, so it may be behind.
        let log = fs::read_to_string(pair.log("lb")).unwrap();
        let positions = log.lines().filter(|line| line.contains("an order is kept"));
        let last: u64 = positions.filter_map(|line| field(line, "position")?.parse().ok()).max()?;
        let withdrawn = log.lines().filter(|line| line.contains("an order is withdrawn")).count() as u64;
        let text = Conn::try_open(pair.control).ok()?.request("GET", "agent", "/metrics", &[], b"").ok()?.text();
        let line = text.lines().find(|line| line.starts_with("steady_agent_orders_total"))?;
        let taken: u64 = line.rsplit(' ').next()?.parse().ok()?;
        (taken == last.checked_sub(withdrawn)?).then_some((taken, withdrawn))
    });
    println!("{} events, {taken} orders ({withdrawn} withdrawn), none lost, none twice", found.len());
}

fn rounds(faults: &str, seed: u64) {
    let mut pair = Pair::running(faults);
    let mut dice = Dice(seed);
    for number in 0..if long() { 100 } else { 4 } {
        round(&mut pair, number, &mut dice);
    }
    assert_nothing_lost_or_repeated(&mut pair);
}

#[test]
fn edges_and_hosts_that_are_killed_or_stopped_lose_nothing_and_do_nothing_twice() {
    rounds("", 1);
}

#[test]
fn nor_do_they_when_one_frame_in_ten_is_lost_on_both_legs() {
    rounds("[faults]\nlose_sent_one_in = 10\nlose_received_one_in = 10\nseed = 7\n", 2);
}

/// The application as its host has it.
fn held(pair: &Pair) -> Option<Value> {
    pair.ask("/v1/hosts/h1/apps/shop").filter(|app| app["role"] == "owner" && app["state"] == "ready")
}

#[test]
fn a_host_whose_edge_dies_turns_to_another_of_its_list_and_does_what_the_store_there_says() {
    let mut pair = Pair::running("");
    pair.converged("shop");
    let before = eventually("the application is ready", || held(&pair));
    let told = |pair: &Pair| pair.events().len();
    let known = told(&pair);
    // The store is all that the other edge has of the first: what the host is told follows from it.
    pair.turn_to_the_other_edge();
    told_within("another edge", pair.converged("shop"));
    let after = eventually("the host has said what it has", || held(&pair));
    for what in ["pid", "generation", "version", "started_at"] {
        assert_eq!(before[what], after[what], "{what}: nothing was started again");
    }
    assert_eq!(told(&pair), known, "nor told again");
    // This edge can have things done, by a stream of its own.
    let folder = pair.dir.path().join("shop");
    fs::write(folder.join("round"), "at the other").unwrap();
    pair.deploy(&folder, "shop");
    pair.deploy(&folder, "cart");
    assert!(eventually("the new version is ready", || held(&pair))["version"].as_u64() >= Some(2));
    // An order that its host does not hear, for the edge dies with it: what was to come of it is in the store.
    pair.signal_agent(libc::SIGSTOP);
    let kept = |pair: &Pair| {
        let log = fs::read_to_string(pair.log(pair.at.name)).unwrap();
        log.lines().filter(|line| line.contains("an order is kept")).count()
    };
    let orders = kept(&pair);
    let mut unheard = pair.command(&["rm", "cart"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually("the order is kept", || (kept(&pair) > orders).then_some(()));
    pair.turn_to_the_other_edge();
    pair.signal_agent(libc::SIGCONT);
    unheard.wait().unwrap();
    told_within("the first edge again", pair.converged("shop"));
    eventually("the other application is gone from store and host", || {
        let (apps, held) = (pair.ask("/v1/apps")?, pair.ask("/v1/hosts/h1/apps")?);
        let names = |list: &Value| {
            let list = list["apps"].as_array().unwrap();
            list.iter().map(|app| app["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        (names(&apps) == ["shop"] && names(&held) == ["shop"]).then_some(())
    });
    assert_nothing_lost_or_repeated(&mut pair);
}
