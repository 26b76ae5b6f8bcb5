//! A new process of the edge takes over from the old one: no request is lost, no WebSocket breaks, and one that cannot take over
//! leaves the old one serving.

mod support;

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use serde_json::Value;

use support::http::Conn;
use support::site::{APP, Choice, Site, tell};
use support::up::alive;
use support::websocket::WebSocket;
use support::{eventually, long, on_path, text};

/// The drivers to test; `STEADY_TEST_IO` leaves one.
fn drivers() -> Vec<&'static str> {
    match std::env::var("STEADY_TEST_IO").as_deref() {
        Ok("uring") => vec!["uring"],
        Ok("epoll") => vec!["epoll"],
        _ => vec!["uring", "epoll"],
    }
}

/// Clients that ask over and over, on connections that they keep until the edge says to close them.
struct Clients {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Clients {
    fn start(addr: SocketAddr, clients: usize) -> Clients {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        // Every other one speaks HTTP/2.
        let threads = (0..clients).map(|client| {
            let (stop, answered) = (stop.clone(), answered.clone());
            let ask = if client % 2 == 0 { ask } else { ask_h2 };
            std::thread::spawn(move || ask(addr, client, &stop, &answered))
        });
        let threads = threads.collect();
        Clients { stop, answered, threads }
    }

    /// Waits for so many more answers.
    fn advance(&self, by: usize) {
        let wanted = self.answered.load(Ordering::Relaxed) + by;
        eventually("the clients go on", || (self.answered.load(Ordering::Relaxed) >= wanted).then_some(()));
    }

    /// What went wrong.
    fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    }
}

fn ask(addr: SocketAddr, client: usize, stop: &AtomicBool, answered: &AtomicUsize) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut conn = Conn::open(addr);
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return wrong;
        }
        let body = format!("{client}-{number}");
        let closes = match conn.request("POST", APP, "/request", &[], body.as_bytes()) {
            Ok(reply) => {
                let whole: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
                if reply.status != 200 || whole["length"] != body.len() {
                    wrong.push(format!("{body}: {} {}", reply.status, reply.text()));
                }
                answered.fetch_add(1, Ordering::Relaxed);
                reply.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
            }
            Err(error) => {
                wrong.push(format!("{body}: {error}"));
                true
            }
        };
        if closes {
            conn = Conn::open(addr);
        }
    }
    wrong
}

/// Four requests at once on a connection, over and over, until it says that it takes no more; then on another. One that was sent must be
/// answered: a connection's last word names all that came before it.
fn ask_h2(addr: SocketAddr, client: usize, stop: &AtomicBool, answered: &AtomicUsize) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut wrong = Vec::new();
    runtime.block_on(async {
        while !stop.load(Ordering::Relaxed) {
            let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
            let (send, connection) = h2::client::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            let mut ready = send.ready().await;
            while let (Ok(send), false) = (&mut ready, stop.load(Ordering::Relaxed)) {
                let request = || http::Request::get(format!("http://{APP}/request")).body(()).unwrap();
                let sent: Vec<_> = (0..4).map_while(|_| send.send_request(request(), true).ok()).collect();
                for (answer, _) in sent {
                    match whole(answer).await {
                        Ok((200, length)) if length > 0 => _ = answered.fetch_add(1, Ordering::Relaxed),
                        // Behind the last word, which comes after a second to a client that had no processor: nobody has looked at it,
                        // and it may be asked elsewhere.
                        Err(error) if error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR) => {}
                        other => wrong.push(format!("{client}, over HTTP/2: {other:?}")),
                    }
                }
                ready = match ready {
                    Ok(send) => send.ready().await,
                    error => error,
                };
            }
        }
    });
    wrong
}

/// An answer's status, and the length of its body.
async fn whole(answer: h2::client::ResponseFuture) -> Result<(u16, usize), h2::Error> {
    let (head, mut body) = answer.await?.into_parts();
    let mut length = 0;
    while let Some(data) = body.data().await {
        let data = data?;
        length += data.len();
        body.flow_control().release_capacity(data.len())?;
    }
    Ok((head.status.as_u16(), length))
}

/// A load generator that others wrote, until it is interrupted.
fn wrk(addr: SocketAddr) -> Option<Child> {
    on_path("wrk")?;
    let mut wrk = Command::new("wrk");
    wrk.args(["-t1", "-c8", "-d600s", "--timeout", "60s", "-H", &format!("Host: {APP}"), &format!("http://{addr}/")]);
    Some(wrk.stdout(Stdio::piped()).spawn().unwrap())
}

fn stop_wrk(wrk: Child) {
    tell(wrk.id(), "INT");
    let output = wrk.wait_with_output().unwrap();
    let said = text(&output);
    println!("{said}");
    assert!(!said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
    assert!(said.contains("requests in"), "{said}");
}

/// h2load in rounds over TLS. On a connection that it was told to leave (GOAWAY) it begins nothing elsewhere and calls the rest
/// failed, what it had queued and not sent too. So what counts is that everything that reached the edge was answered: as many
/// answers with 200 as the edge has requests in its log. How many, and what else went wrong.
fn h2load(addr: SocketAddr, stop: Arc<AtomicBool>) -> Option<JoinHandle<(usize, Vec<String>)>> {
    on_path("h2load")?;
    Some(std::thread::spawn(move || {
        let (mut answered, mut wrong) = (0, Vec::new());
        while !stop.load(Ordering::Relaxed) {
            let mut h2load = Command::new("h2load");
            h2load.args(["-n400", "-c2", "-m4", "-H", &format!(":authority: {APP}"), &format!("https://{addr}/")]);
            let said = text(&h2load.output().unwrap());
            let codes = said.lines().find_map(|line| line.strip_prefix("status codes: "));
            let good = codes.and_then(|codes| codes.split_once(" 2xx, 0 3xx, 0 4xx, 0 5xx")?.0.parse::<usize>().ok());
            match good {
                Some(good) if said.contains(" 0 timeout") => answered += good,
                _ => wrong.push(said),
            }
        }
        (answered, wrong)
    }))
}

#[test]
fn upgrades_under_load_lose_no_request_and_break_no_websocket() {
    let upgrades = if long() { 20 } else { 3 };
    for io in drivers() {
        let mut site = Site::start(&Choice::of(io));
        let (http, https, private) = (site.http(), site.https(), site.private());
        let clients = Clients::start(http, 4);
        let wrk = wrk(http);
        let stop = Arc::<AtomicBool>::default();
        let h2load = h2load(https, Arc::clone(&stop));
        // Each outlives two upgrades: a third would end the process that carries it (the test below).
        let mut sockets: Vec<Vec<WebSocket>> = Vec::new();
        for upgrade in 0..upgrades {
            sockets.push((0..2).map(|_| WebSocket::open(http, APP, "/websocket")).collect());
            clients.advance(20);
            let old = site.pid();
            let new = site.upgrade();
            assert_ne!(old, new);
            assert_eq!((site.http(), site.https(), site.private()), (http, https, private));
            clients.advance(20);
            for (at, socket) in sockets.iter_mut().flatten().enumerate() {
                socket.echo(&format!("after upgrade {upgrade}, {at}"));
            }
            if sockets.len() == 2 {
                drop(sockets.remove(0));
            }
        }
        let wrong = clients.stop();
        assert!(wrong.is_empty(), "{io}: {wrong:#?}");
        stop.store(true, Ordering::Relaxed);
        wrk.into_iter().for_each(stop_wrk);
        for (answered, wrong) in h2load.into_iter().map(|thread| thread.join().unwrap()) {
            assert!(wrong.is_empty(), "{io}: {wrong:#?}");
            println!("{io}: h2load had {answered} answers");
            eventually("the log knows of as many requests as were answered", || {
                let log = site.access_log();
                let lines = log.lines().filter(|line| line.contains("\"agent\":\"h2load"));
                let whole = lines.inspect(|line| assert!(line.contains("\"outcome\":\"complete\""), "{line}"));
                (whole.count() == answered).then_some(())
            });
        }
        for socket in sockets.iter_mut().flatten() {
            socket.echo("still here");
        }
        drop(sockets);
        eventually("the old processes end by themselves", || (site.edges() == 1).then_some(()));
        assert!(!site.log().contains("is ended at once"), "{}", site.log());
        assert!(site.metric("steady_lb_connections_accepted_total") > 0.0);
    }
}

#[test]
fn a_process_that_cannot_take_over_leaves_the_old_one_serving_and_says_why() {
    for io in drivers() {
        let choice = Choice::of(io);
        let mut site = Site::start(&choice);
        let (old, http) = (site.pid(), site.http());
        let good = std::fs::read_to_string(site.config()).unwrap();
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = taken.local_addr().unwrap().to_string();
        for (config, words) in [
            (good.replace("workers = 2", "workers = \"two\""), "workers"),
            (good.replace("addr = \"127.0.0.1:0\"\ntls = true", &format!("addr = \"{taken}\"")), "is taken by another"),
            (good.replace("/certs\"", "/nowhere\""), "nowhere"),
        ] {
            std::fs::write(site.config(), config).unwrap();
            let before = site.log().len();
            let new = site.launch(&["--upgrade"]);
            assert_eq!(site.ended(new), Some(1));
            assert!(site.log()[before..].contains(words), "{words}: {}", &site.log()[before..]);
            assert_eq!((site.pid(), site.http(), site.get("/").status), (old, http, 200));
        }
        std::fs::write(site.config(), good).unwrap();
        // One that dies when the old one has stopped writing already.
        let mut fake = Fake::prepared(&site);
        fake.until("held");
        drop(fake);
        eventually("the old process says so", || site.log().contains("this process goes on as before").then_some(()));
        assert_eq!(site.get("/").status, 200);
        site.run(&["deploy", support::repository("tests/apps/fixture").to_str().unwrap(), "--name", "fixture"]);
        // One that says why it gives up.
        let mut fake = Fake::prepared(&site);
        fake.until("held");
        fake.say(r#"{"what":"failed","why":"the moon is wrong"}"#);
        eventually("the old process repeats it", || site.log().contains("the moon is wrong").then_some(()));
        let let_go = |before: usize| {
            eventually("the next one is attended to", || Fake::asking(&site).next().contains("socket").then_some(()));
            eventually("it is let go of", || site.log()[before..].contains("failed before it began").then_some(()));
        };
        let_go(site.log().len());
        // Two at once.
        let first = Fake::prepared(&site);
        let mut second = Fake::asking(&site);
        assert!(second.until("refused").contains("just now"));
        drop((first, second));
        // And then one that can.
        let_go(site.log().len());
        let new = site.upgrade();
        assert_eq!((site.pid(), site.http(), site.get("/").status), (new, http, 200));
        assert_eq!(site.ended(old), Some(0));
    }
}

#[test]
fn a_move_that_is_under_way_is_finished_by_the_process_that_takes_over() {
    for io in drivers() {
        let mut site = Site::with_two_hosts(&Choice::of(io));
        let clients = Clients::start(site.http(), 4);
        clients.advance(20);
        // The old host is not drained before this is answered.
        let mut slow = Conn::open(site.http());
        slow.send(format!("GET /slow?ms=4000 HTTP/1.1\r\nHost: {APP}\r\n\r\n").as_bytes()).unwrap();
        eventually("it is under way", || site.run(&["requests"]).contains("/slow").then_some(()));
        let mover = site.spawn(&["move", "fixture", "--to", "h2"]);
        // On a machine that is very slow it may be over.
        eventually("the move is under way", || {
            (site.metric("steady_lb_workflows_open") == 1.0 || site.app("fixture")["hosts"][0] == "h2").then_some(())
        });
        let old = site.pid();
        assert_ne!(site.upgrade(), old);
        let said = text(&mover.wait_with_output().unwrap());
        println!("{io}: the command that began the move: {said}");
        assert_eq!(slow.reply(false).unwrap().status, 200, "what the old process had is finished");
        eventually("the new process finishes the move", || {
            (site.metric("steady_lb_workflows_open") == 0.0 && site.app("fixture")["hosts"][0] == "h2").then_some(())
        });
        clients.advance(20);
        assert_eq!(clients.stop(), Vec::<String>::new(), "{io}");
        assert_eq!(site.get("/").status, 200);
    }
}

#[test]
fn whoever_scrapes_metrics_during_upgrades_gets_them_whole_each_time() {
    for io in drivers() {
        let mut site = Site::start(&Choice::of(io));
        let private = site.private();
        let (stop, scrapes) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let scraper = {
            let (stop, scrapes) = (Arc::clone(&stop), Arc::clone(&scrapes));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let reply = Conn::open(private).request("GET", "edge", "/metrics", &[], b"");
                    let reply = reply.unwrap_or_else(|error| panic!("a scrape failed: {error}"));
                    let text = reply.text();
                    assert_eq!(reply.status, 200, "{text}");
                    for name in
                        ["steady_lb_info{", "steady_lb_uptime_seconds ", "steady_lb_connections_open{worker=\"0\"}"]
                    {
                        assert!(text.lines().any(|line| line.starts_with(name)), "{name} is not in:\n{text}");
                    }
                    scrapes.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let advance = || {
            let wanted = scrapes.load(Ordering::Relaxed) + 3;
            eventually("scrapes go on", || {
                assert!(!scraper.is_finished(), "the scraper has ended");
                (scrapes.load(Ordering::Relaxed) >= wanted).then_some(())
            });
        };
        let mut begun = Instant::now();
        for _ in 0..3 {
            advance();
            begun = Instant::now();
            site.upgrade();
        }
        advance();
        stop.store(true, Ordering::Relaxed);
        scraper.join().unwrap();
        let uptime = site.metric("steady_lb_uptime_seconds");
        assert!(uptime > 0.0 && uptime <= begun.elapsed().as_secs_f64(), "the new process' own: {uptime}");
    }
}

/// A process that takes over, up to some point.
struct Fake {
    stream: UnixStream,
}

impl Fake {
    fn asking(site: &Site) -> Fake {
        let stream = UnixStream::connect(site.dir().join("upgrade.sock")).unwrap();
        stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
        let mut fake = Fake { stream };
        fake.say(r#"{"what":"take","protocol":1,"version":"fake"}"#);
        fake
    }

    fn prepared(site: &Site) -> Fake {
        let mut fake = Fake::asking(site);
        fake.until("offer");
        fake.say(r#"{"what":"prepared"}"#);
        fake
    }

    fn say(&mut self, message: &str) {
        let octets = [&(message.len() as u32).to_be_bytes(), message.as_bytes()].concat();
        self.stream.write_all(&octets).unwrap();
    }

    /// The next message; its descriptors are dropped by the kernel.
    fn next(&mut self) -> String {
        let mut prefix = [0; 4];
        self.stream.read_exact(&mut prefix).unwrap();
        let mut text = vec![0; u32::from_be_bytes(prefix) as usize];
        self.stream.read_exact(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    fn until(&mut self, what: &str) -> String {
        loop {
            let message = self.next();
            if message.contains(&format!(r#""what":"{what}""#)) {
                return message;
            }
        }
    }
}

#[test]
fn workers_drivers_and_listeners_may_differ_across_an_upgrade() {
    let mut site = Site::start(&Choice { workers: 1, ..Choice::of("epoll") });
    let http = site.http();
    let clients = Clients::start(http, 4);
    for (io, workers) in [("uring", 3), ("epoll", 2), ("uring", 1)] {
        if !drivers().contains(&io) {
            continue;
        }
        site.configure(&Choice { workers, ..Choice::of(io) });
        clients.advance(20);
        site.upgrade();
        clients.advance(20);
        let status: Value = serde_json::from_str(&site.run(&["status", "--json"])).unwrap();
        assert_eq!((&status["io"], &status["workers"]), (&io.into(), &workers.into()));
    }
    assert_eq!(clients.stop(), Vec::<String>::new());
    // A listener goes and another comes.
    let (io, free) = (drivers()[0], std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    site.configure(&Choice { http: free, ..Choice::of(io) });
    let old = site.pid();
    site.upgrade();
    assert_eq!((site.http(), site.get("/").status), (free, 200));
    eventually("the old process ends", || (!alive(old)).then_some(()));
    eventually("nobody listens at the old place", || std::net::TcpStream::connect(http).is_err().then_some(()));
    assert!(site.log().contains("it is not listened on any further"));
}

#[test]
fn with_a_third_upgrade_the_oldest_of_two_that_still_drain_is_ended_at_once() {
    for io in drivers() {
        let mut site = Site::start(&Choice::of(io));
        let mut sockets = Vec::new();
        for _ in 0..2 {
            sockets.push(WebSocket::open(site.http(), APP, "/websocket"));
            site.upgrade();
        }
        sockets.push(WebSocket::open(site.http(), APP, "/websocket"));
        sockets.iter_mut().for_each(|socket| socket.echo("all live"));
        assert_eq!(site.edges(), 3);
        assert_eq!(site.metric("steady_lb_old_processes"), 2.0);
        site.upgrade();
        eventually("the oldest is ended", || (site.edges() == 3).then_some(()));
        assert!(site.log().contains("the oldest is ended at once"), "{}", site.log());
        assert!(sockets.remove(0).is_over());
        sockets.iter_mut().for_each(|socket| socket.echo("still there"));
    }
}

#[test]
fn a_signal_starts_the_program_anew_which_takes_over_and_what_is_left_is_cut_at_its_deadline() {
    for io in drivers() {
        let mut site = Site::start(&Choice { timeouts: "upgrade = \"1s\"".into(), ..Choice::of(io) });
        let old = site.pid();
        let mut socket = WebSocket::open(site.http(), APP, "/websocket");
        tell(old, "USR2");
        eventually("another process is the edge", || (site.pid() != old).then_some(()));
        assert_eq!(site.get("/").status, 200);
        assert_eq!(site.ended(old), Some(0));
        assert!(socket.is_over());
        let new = site.pid();
        tell(new, "TERM");
        eventually("the new one ends too", || (site.edges() == 0).then_some(()));
        assert!(!site.dir().join("ready.json").exists());
    }
}

#[test]
fn a_tls_session_that_the_old_process_began_is_resumed_by_the_new_one() {
    let mut site = Site::start(&Choice::of(drivers()[0]));
    let session = site.dir().join("session.pem");
    let connect = |arguments: &[&str]| {
        let mut openssl = Command::new("openssl");
        openssl.args(["s_client", "-tls1_2", "-servername", APP, "-connect", &site.https().to_string()]);
        text(&openssl.args(arguments).stdin(Stdio::null()).output().unwrap())
    };
    let session = session.to_str().unwrap();
    let first = connect(&["-sess_out", session]);
    assert!(first.contains("New, TLSv1.2"), "{first}");
    // The keys go from process to process: the file is only for restarts.
    std::fs::remove_file(site.dir().join("ticket-keys")).unwrap();
    let before = site.pid();
    site.upgrade();
    assert_ne!(site.pid(), before);
    let connect = |arguments: &[&str]| {
        let mut openssl = Command::new("openssl");
        openssl.args(["s_client", "-tls1_2", "-servername", APP, "-connect", &site.https().to_string()]);
        text(&openssl.args(arguments).stdin(Stdio::null()).output().unwrap())
    };
    let second = connect(&["-sess_in", session]);
    assert!(second.contains("Reused, TLSv1.2"), "{second}");
}

#[test]
fn told_to_stop_an_edge_finishes_what_it_can_until_its_deadline_and_cuts_the_rest() {
    for io in drivers() {
        let mut site = Site::start(&Choice { timeouts: "drain = \"10s\"".into(), ..Choice::of(io) });
        let slow = |site: &Site, ms: u32| {
            let mut conn = Conn::open(site.http());
            let request = format!("GET /slow?ms={ms} HTTP/1.1\r\nHost: {APP}\r\n\r\n");
            conn.send(request.as_bytes()).unwrap();
            conn
        };
        let (mut quick, mut endless) = (slow(&site, 4_000), slow(&site, 100_000));
        eventually("both are under way", || (site.metric("steady_lb_exchanges_open") == 2.0).then_some(()));
        let http = site.http();
        let pid = site.pid();
        tell(pid, "TERM");
        eventually("it accepts no more", || std::net::TcpStream::connect(http).is_err().then_some(()));
        assert!(alive(pid));
        assert_eq!(quick.reply(false).unwrap().status, 200);
        assert_eq!(endless.reply(false).unwrap().status, 503);
        assert_eq!(site.ended(pid), Some(0));
    }
}

/// The process that this one is a child of.
fn parent(pid: u32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
}

#[test]
fn a_process_that_took_over_is_the_supervisor_s_child_and_when_it_dies_another_serves_beside_the_old_one() {
    // Who adopts orphans here, as systemd does elsewhere.
    let shell = Command::new("sh").args(["-c", "sleep 600 >/dev/null 2>&1 & echo $!"]).output().unwrap();
    let orphan: u32 = text(&shell).trim().parse().unwrap();
    let reaper = parent(orphan);
    tell(orphan, "KILL");
    let mut site = Site::start(&Choice::of(drivers()[0]));
    let old = site.pid();
    let mut socket = WebSocket::open(site.http(), APP, "/websocket");
    tell(old, "USR2");
    let new = eventually("another process is the edge", || (site.pid() != old).then(|| site.pid()));
    assert_eq!(parent(new), reaper);
    tell(new, "KILL");
    eventually("it is gone", || steady_sys::kin::Kin::of(new).is_none().then_some(()));
    socket.echo("the old one carries this");
    let next = site.launch(&[]);
    site.wait_for(next);
    assert_eq!(site.get("/").status, 200);
    socket.echo("still");
    assert!(alive(old));
}

#[test]
fn told_to_stop_an_edge_waits_until_its_deadline_for_old_processes_too_and_then_ends_them() {
    let mut site = Site::start(&Choice { timeouts: "drain = \"10s\"".into(), ..Choice::of(drivers()[0]) });
    let old = site.pid();
    let mut quick = Conn::open(site.http());
    quick.send(format!("GET /slow?ms=6000 HTTP/1.1\r\nHost: {APP}\r\n\r\n").as_bytes()).unwrap();
    let mut socket = WebSocket::open(site.http(), APP, "/websocket");
    eventually("both are under way", || (site.metric("steady_lb_exchanges_open") == 2.0).then_some(()));
    let new = site.upgrade();
    tell(new, "TERM");
    assert_eq!(quick.reply(false).unwrap().status, 200);
    assert!(alive(new));
    assert_eq!(site.ended(new), Some(0));
    assert!(socket.is_over());
    assert_eq!(site.ended(old), Some(0));
}

#[test]
fn sockets_that_systemd_opened_are_served_and_those_that_nobody_asked_for_are_named() {
    let mut site = Site::without_edge();
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (http, stray) = (free(), free());
    site.configure(&Choice { http, ..Choice::of(drivers()[0]) });
    if !site.launch_activated(&[http, stray]) {
        support::shout("SKIPPED: socket activation (no systemd-socket-activate on PATH)");
        return;
    }
    // The first connection has it started, and is served.
    let mut first = Conn::open(http);
    assert_eq!(first.request("GET", APP, "/", &[], b"").unwrap().status, 404);
    assert_eq!(site.http(), http);
    let (log, stray) = (site.log(), stray.to_string());
    assert!(log.lines().any(|line| line.contains("not listened on any further") && line.contains(&stray)), "{log}");
    // What was inherited is handed on.
    let old = site.pid();
    site.upgrade();
    assert_ne!(site.pid(), old);
    assert_eq!(Conn::open(http).request("GET", APP, "/", &[], b"").unwrap().status, 404);
}

#[test]
fn a_supervisor_is_told_when_it_serves_and_which_process_is_the_edge() {
    let told = tempfile::tempdir().unwrap();
    let path = told.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(support::PATIENCE)).unwrap();
    let next = || {
        let mut octets = [0; 256];
        let length = socket.recv(&mut octets).unwrap();
        String::from_utf8_lossy(&octets[..length]).into_owned()
    };
    let mut site = Site::without_edge();
    site.configure(&Choice::of(drivers()[0]));
    let old = site.launch_notifying(&path);
    let ready = next();
    assert!(ready.contains(&format!("MAINPID={old}")) && ready.contains("READY=1"), "{ready}");
    tell(old, "USR2");
    let ready = next();
    let new = site.pid();
    assert!(new != old && ready.contains(&format!("MAINPID={new}")) && ready.contains("READY=1"), "{ready}");
    tell(new, "TERM");
    assert_eq!(next(), "STOPPING=1");
}
