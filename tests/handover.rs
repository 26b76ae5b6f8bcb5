//! What workers do with requests for an application that moves, without the control sides that move it: probes, waiting,
//! fallbacks, what is sent again and what is not, and how every wait ends.

mod house;
mod support;

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use house::fake::{Act, Fake, Seen};
use house::{House, Setup, app, h2c, moving, placed};
use steady_agent::gate::{self, Plane as _, Process, Role};
use steady_lb::snapshot::Settings;
use support::http::{Conn, Reply};
use support::{PATIENCE, eventually};

/// `echo` moves from the first host, which is at `old`, to the second.
fn house(uring: bool, workers: usize, settings: Settings, old: Option<SocketAddr>) -> House {
    let mut house = House::build(Setup { uring, workers, settings, agents: 2, ..Setup::default() });
    if let Some(old) = old {
        house.hosts[0] = old;
    }
    house
}

/// No probe and no parked request ends by time.
fn patient() -> Settings {
    Settings { probe_timeout: PATIENCE, park_timeout: PATIENCE, ..Settings::default() }
}

fn post(addr: SocketAddr, path: &str, body: Vec<u8>) -> JoinHandle<Reply> {
    let path = path.to_owned();
    std::thread::spawn(move || Conn::open(addr).request("POST", "echo.localhost", &path, &[], &body).unwrap())
}

/// So many requests, each over a connection of its own.
fn burst(addr: SocketAddr, requests: usize) -> Vec<JoinHandle<Reply>> {
    (0..requests).map(|at| post(addr, &format!("/{at}"), vec![b'x'; at])).collect()
}

fn parked(house: &House, requests: u64) {
    eventually("all requests are parked", || (house.count("parked") == requests).then_some(()));
}

#[track_caller]
fn all_by_old(answers: Vec<JoinHandle<Reply>>) {
    for answer in answers {
        let reply = answer.join().unwrap();
        assert_eq!((reply.status, reply.text().as_str()), (200, "old host"));
    }
}

/// Every one was answered by the origin, which is behind the new host alone.
#[track_caller]
fn all_by_new(answers: Vec<JoinHandle<Reply>>) {
    for answer in answers {
        let reply = answer.join().unwrap();
        assert!(reply.status == 200 && reply.text().starts_with("POST /"), "{reply:?}");
    }
}

fn live_when_released(seen: &Seen) -> Act {
    if seen.probe { Act::Later(&Act::Answer(200)) } else { Act::Answer(200) }
}

#[test]
fn a_burst_waits_behind_one_probe_and_live_holds_for_those_that_waited() {
    for uring in [true, false] {
        let fake = Fake::start(live_when_released);
        let house = house(uring, 1, patient(), Some(fake.addr));
        house.route(vec![moving("echo")]);
        let answers = burst(house.plain, 20);
        parked(&house, 20);
        eventually("the probe is there", || (fake.probes() == 1).then_some(()));
        assert_eq!(house.count("questions_total"), 1);
        fake.release();
        all_by_old(answers);
        let seen = fake.seen();
        assert_eq!(seen.len(), 21);
        assert!(seen.iter().all(|seen| seen.generation == "1"), "{seen:?}");
        assert_eq!(house.count_of("move_verdicts_total", "live"), 1);
        // Whoever comes later asks anew.
        all_by_old(burst(house.plain, 1));
        assert_eq!((fake.probes(), house.count("move_probes_total")), (2, 2));
        assert_eq!(house.count("move_fallbacks_total"), 0);
    }
}

#[test]
fn each_worker_asks_once() {
    let fake = Fake::start(live_when_released);
    let house = house(true, 2, patient(), Some(fake.addr));
    house.route(vec![moving("echo")]);
    let answers = burst(house.plain, 40);
    parked(&house, 40);
    let asked = house.count("questions_total");
    assert!((1..=2).contains(&asked), "{asked} probes by two workers");
    eventually("all probes are there", || (fake.probes() as u64 == asked).then_some(()));
    fake.release();
    all_by_old(answers);
    assert_eq!(house.count("questions_total"), asked);
}

#[test]
fn not_live_is_final_and_everything_goes_to_the_new_host() {
    const NO: Act = Act::Answer(421);
    for uring in [true, false] {
        let fake = Fake::start(|_| Act::Later(&NO));
        let house = house(uring, 1, patient(), Some(fake.addr));
        house.agents[1].set(house.ready("echo", 2));
        house.route(vec![moving("echo")]);
        let answers = burst(house.plain, 20);
        parked(&house, 20);
        fake.release();
        all_by_new(answers);
        all_by_new(burst(house.plain, 5));
        assert_eq!(fake.seen().len(), 1, "one probe, no request, no second probe");
        assert_eq!(house.count_of("move_verdicts_total", "not_live"), 1);
        assert_eq!(house.count("move_fallbacks_total"), 25);
        assert_eq!(house.origin.seen().len(), 25);
    }
}

#[test]
fn silence_and_a_host_that_is_gone_are_not_live() {
    for uring in [true, false] {
        // Accepts nothing, says nothing: the kernel's queue takes the connection.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        // Below those that anybody is given, and nobody listens there.
        let gone = "127.0.0.1:1".parse().unwrap();
        let mut dying = Fake::start(|_| Act::Later(&Act::Answer(200)));
        for old in [silent.local_addr().unwrap(), gone, dying.addr] {
            let settings = Settings { probe_timeout: Duration::from_millis(300), ..patient() };
            let house = house(uring, 1, if old == dying.addr { patient() } else { settings }, Some(old));
            house.agents[1].set(house.ready("echo", 2));
            house.route(vec![moving("echo")]);
            let answers = burst(house.plain, 10);
            if old == dying.addr {
                parked(&house, 10);
                eventually("the probe is there", || (dying.probes() == 1).then_some(()));
                dying.die();
            }
            all_by_new(answers);
            assert_eq!(house.count_of("move_verdicts_total", "not_live"), 1);
            assert_eq!(house.count("questions_total"), 1);
        }
    }
}

#[test]
fn an_agent_answers_a_probe_by_what_it_is_to_the_application() {
    use Role::{Absent, Draining, Incoming, Owner};
    let house = house(true, 1, patient(), None);
    house.agents[1].set(house.ready("echo", 2));
    let cases = [
        (Owner, 1, house.process(), true),
        // Asleep is live: a request would wake it.
        (Owner, 1, Process::Cold, true),
        (Owner, 0, house.process(), false),
        (Incoming, 1, Process::Cold, false),
        (Draining, 1, house.process(), false),
        (Absent, 2, Process::Cold, false),
    ];
    for (at, (role, generation, process, live)) in cases.into_iter().enumerate() {
        house.agents[0].set(app("echo", role, generation, process.clone()));
        house.route(vec![placed("other", 0, at as u64)]);
        house.route(vec![moving("echo")]);
        let (was_live, was_not) =
            (house.count_of("move_verdicts_total", "live"), house.count_of("move_verdicts_total", "not_live"));
        let answer = post(house.plain, "/", Vec::new());
        eventually("a verdict", || {
            let now = (
                house.count_of("move_verdicts_total", "live") - was_live,
                house.count_of("move_verdicts_total", "not_live") - was_not,
            );
            (now != (0, 0)).then(|| assert_eq!(now, (u64::from(live), u64::from(!live)), "{role:?} {process:?}"))
        });
        house.agents[0].set(house.ready("echo", 1));
        assert_eq!(answer.join().unwrap().status, 200, "{role:?}");
    }
}

#[test]
fn an_incoming_host_keeps_requests_until_it_is_the_owner_and_starts_nothing() {
    for uring in [true, false] {
        let fake = Fake::start(|_| Act::Answer(421));
        let house = house(uring, 1, patient(), Some(fake.addr));
        house.agents[1].set(app("echo", Role::Incoming, 2, Process::Cold));
        house.route(vec![moving("echo")]);
        let answers = burst(house.plain, 20);
        let at_agent = || house.agents[1].plane.parked("echo");
        eventually("all wait at the new host", || (at_agent() == 20).then_some(()));
        assert!(house.agents[1].notices.lock().unwrap().try_recv().is_err(), "nobody may be woken here");
        assert_eq!(house.origin.seen().len(), 0);
        // Their time there is the agent's to bound, whatever the edge's table says meanwhile.
        house.route(vec![placed("echo", 1, 2)]);
        assert_eq!(at_agent(), 20);
        // Now it owns the application and may start it; then it is ready.
        house.agents[1].set(app("echo", Role::Owner, 2, Process::Cold));
        let woken = gate::Notice::Wake { app: "echo".into() };
        assert_eq!(house.agents[1].notices.lock().unwrap().try_recv(), Ok(woken));
        assert!(house.agents[1].notices.lock().unwrap().try_recv().is_err(), "woken once");
        house.agents[1].set(house.ready("echo", 2));
        all_by_new(answers);
        assert_eq!((at_agent(), house.origin.seen().len()), (0, 20));
    }
}

#[test]
fn what_the_old_host_refuses_is_sent_to_the_new_one_once_with_its_whole_body() {
    for uring in [true, false] {
        for refusal in [Act::Refuse, Act::RefuseStream] {
            let fake = Fake::start(move |seen| if seen.probe { Act::Answer(200) } else { refusal });
            let house = house(uring, 1, patient(), Some(fake.addr));
            house.agents[1].set(house.ready("echo", 2));
            house.route(vec![moving("echo")]);
            // Nothing, a little, all that is kept, and more than is sent before the request is accepted.
            for (at, size) in [0, 5, 60_000, 65_536, 65_537, 1_000_000].into_iter().enumerate() {
                house.route(vec![placed("other", 0, at as u64)]);
                house.route(vec![moving("echo")]);
                let body: Vec<u8> = (0..size).map(house::origin::pattern).collect();
                let reply = post(house.plain, &format!("/{size}"), body.clone()).join().unwrap();
                let mut expected = format!("POST /{size} HTTP/1.1|{size}").into_bytes();
                expected.extend(body.iter().rev());
                assert_eq!((reply.status, reply.body == expected), (200, true), "{refusal:?}, {size} octets");
                let runs = house.origin.seen().iter().filter(|(asked, _)| *asked == format!("POST /{size}")).count();
                assert_eq!(runs, 1, "{refusal:?}, {size} octets");
            }
            assert_eq!(house.count("retries_total"), 6, "{refusal:?}");
        }
    }
}

#[test]
fn a_stream_that_the_host_refuses_is_tried_again_at_once_where_nothing_moves() {
    for uring in [true, false] {
        let first = std::sync::atomic::AtomicBool::new(true);
        let fake = Fake::start(move |_| {
            if first.swap(false, std::sync::atomic::Ordering::Relaxed) { Act::RefuseStream } else { Act::Answer(200) }
        });
        let house = house(uring, 1, patient(), Some(fake.addr));
        house.route(vec![placed("echo", 0, 1)]);
        all_by_old(vec![post(house.plain, "/", b"body".to_vec())]);
        assert_eq!(house.count("parked_total"), 0);
    }
}

#[test]
fn what_has_begun_or_was_answered_is_never_sent_again() {
    const BIG: usize = 1_000_000;
    for uring in [true, false] {
        for (act, body, status) in [
            // The application's own refusals are answers.
            (Act::Answer(503), 10, 503),
            (Act::Answer(421), 10, 421),
            // More was taken than is kept: it has begun.
            (Act::ReadThenBreak(200_000), BIG, 502),
            (Act::ReadThenBreak(0), 0, 502),
        ] {
            let fake = Fake::start(move |seen| if seen.probe { Act::Answer(200) } else { act });
            let house = house(uring, 1, patient(), Some(fake.addr));
            house.agents[1].set(house.ready("echo", 2));
            house.route(vec![moving("echo")]);
            let mut stream = TcpStream::connect(house.plain).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let head = format!("POST / HTTP/1.1\r\nHost: echo.localhost\r\nContent-Length: {body}\r\n\r\n");
            let mut reader = stream.try_clone().unwrap();
            let sender = std::thread::spawn(move || {
                // The answer may come, and the connection end, before all of it is sent.
                let _ = stream.write_all(&[head.as_bytes(), &vec![b'x'; body]].concat());
                stream
            });
            let mut line = [0; 12];
            std::io::Read::read_exact(&mut reader, &mut line).unwrap();
            assert_eq!(String::from_utf8_lossy(&line), format!("HTTP/1.1 {status}"), "{act:?}");
            drop(reader);
            drop(sender.join());
            assert_eq!(house.origin.seen().len(), 0, "{act:?}");
            assert_eq!(house.count("retries_total"), 0, "{act:?}");
        }
    }
}

#[test]
fn an_edge_that_is_behind_waits_for_the_next_table_and_one_that_is_ahead_for_the_agent() {
    for uring in [true, false] {
        let house = house(uring, 1, patient(), None);
        house.agents[1].set(house.ready("echo", 2));
        for role in [Role::Absent, Role::Draining] {
            house.agents[0].set(app("echo", role, 2, Process::Cold));
            house.route(vec![placed("echo", 0, 1)]);
            let answers = burst(house.plain, 10);
            parked(&house, 10);
            house.route(vec![placed("echo", 1, 2)]);
            all_by_new(answers);
        }
        house.agents[0].forget("echo");
        house.route(vec![placed("echo", 0, 1)]);
        let answers = burst(house.plain, 3);
        parked(&house, 3);
        house.route(vec![placed("echo", 1, 2)]);
        all_by_new(answers);
        // The agent is behind.
        house.route(vec![placed("echo", 1, 3)]);
        let answers = burst(house.plain, 10);
        eventually("all wait at the agent", || (house.agents[1].plane.parked("echo") == 10).then_some(()));
        house.agents[1].set(house.ready("echo", 3));
        all_by_new(answers);
        // An owner that is ahead serves.
        house.agents[1].set(house.ready("echo", 9));
        all_by_new(burst(house.plain, 1));
    }
}

#[test]
fn a_wait_that_is_too_long_ends_with_503_and_retry_after() {
    let short = Duration::from_millis(200);
    for uring in [true, false] {
        let house = house(uring, 1, Settings { park_timeout: short, ..patient() }, None);
        let check = |answers: Vec<JoinHandle<Reply>>| {
            for answer in answers {
                let reply = answer.join().unwrap();
                assert_eq!(reply.status, 503, "{reply:?}");
                assert!(reply.header("retry-after").is_some() && reply.text().contains("park_timeout"), "{reply:?}");
            }
        };
        // At the edge: for a table that does not come.
        house.agents[0].set(app("echo", Role::Absent, 2, Process::Cold));
        house.route(vec![placed("echo", 0, 1)]);
        check(burst(house.plain, 5));
        // At the agent: for a process, for a generation.
        let starting = app("echo", Role::Owner, 1, Process::Starting);
        house.agents[0].set(gate::App { queue_wait: short, ..starting });
        check(burst(house.plain, 5));
        house.agents[0].set(gate::App { queue_wait: short, ..house.ready("echo", 1) });
        house.route(vec![placed("echo", 0, 5)]);
        check(burst(house.plain, 5));
        assert_eq!((house.count("parked"), house.agents[0].plane.parked("echo")), (0, 0));
        assert_eq!(house.origin.seen().len(), 0);
    }
}

#[test]
fn past_the_queue_s_bound_a_request_is_refused_at_once_and_a_client_that_leaves_makes_room() {
    for uring in [true, false] {
        let house = house(uring, 1, patient(), None);
        let starting = app("echo", Role::Owner, 1, Process::Starting);
        house.agents[0].set(gate::App { queue_max: 3, ..starting });
        house.route(vec![placed("echo", 0, 1)]);
        let queued = |requests| {
            let plane = &house.agents[0].plane;
            eventually("so many are queued", || (plane.parked("echo") == requests).then_some(()));
        };
        let addr = house.plain;
        let overflow = move || {
            let reply = post(addr, "/", Vec::new()).join().unwrap();
            assert_eq!(reply.status, 503, "{reply:?}");
            assert!(reply.header("retry-after").is_some() && reply.text().contains("queue_full"), "{reply:?}");
        };
        let answers = burst(house.plain, 2);
        queued(2);
        // A third comes and leaves.
        h2c::runtime().block_on(async {
            let conn = h2c::H2c::open(house.plain).await;
            let queued = async {
                while house.agents[0].plane.parked("echo") < 3 {
                    tokio::time::sleep(support::POLL).await;
                }
            };
            let asking = conn.ask("GET", "echo.localhost", "/", b"");
            let full = async {
                queued.await;
                tokio::task::spawn_blocking(overflow).await.unwrap();
            };
            tokio::select! {
                answer = asking => panic!("{answer:?}"),
                () = full => {}
            }
        });
        queued(2);
        let last = burst(house.plain, 1);
        queued(3);
        overflow();
        house.agents[0].set(house.ready("echo", 1));
        all_by_new(answers);
        all_by_new(last);
    }
}

#[test]
fn a_queue_at_the_agent_outlasts_the_edge_s_response_timeout_and_who_leaves_over_http_1_1_makes_room() {
    let short = Duration::from_secs(2);
    for uring in [true, false] {
        let house = house(uring, 1, Settings { response_timeout: short, ..patient() }, None);
        house.agents[0].set(app("echo", Role::Owner, 1, Process::Starting));
        house.route(vec![placed("echo", 0, 1)]);
        let queued = |requests| {
            let plane = &house.agents[0].plane;
            eventually("so many are queued", || (plane.parked("echo") == requests).then_some(()));
            eventually("the edge knows", || (house.count("upstream_parked") == requests).then_some(()));
        };
        let mut leaver = Conn::open(house.plain);
        leaver.send(b"GET / HTTP/1.1\r\nHost: echo.localhost\r\n\r\n").unwrap();
        queued(1);
        drop(leaver);
        queued(0);
        house.agents[0]
            .set(gate::App { queue_wait: short + short / 2, ..app("echo", Role::Owner, 1, Process::Starting) });
        for answer in burst(house.plain, 3) {
            let reply = answer.join().unwrap();
            assert!(reply.status == 503 && reply.text().contains("park_timeout"), "{reply:?}");
            assert!(reply.header("steady-parked").is_none() && reply.header("retry-after").is_some(), "{reply:?}");
        }
    }
}

#[test]
fn a_client_that_leaves_the_edge_s_parking_place_frees_it() {
    for uring in [true, false] {
        let fake = Fake::start(live_when_released);
        let house = house(uring, 1, patient(), Some(fake.addr));
        house.route(vec![moving("echo")]);
        let mut leavers: Vec<_> = (0..10).map(|_| Conn::open(house.plain)).collect();
        for leaver in &mut leavers {
            leaver.send(b"POST / HTTP/1.1\r\nHost: echo.localhost\r\nContent-Length: 5\r\n\r\n").unwrap();
        }
        parked(&house, 10);
        let stays = burst(house.plain, 1);
        parked(&house, 11);
        drop(leavers);
        parked(&house, 1);
        fake.release();
        all_by_old(stays);
        assert_eq!(fake.seen().iter().filter(|seen| !seen.probe).count(), 1, "who left is not sent on");
        // Those who all leave do not leave the question behind.
        assert_eq!(house.count("parked"), 0);
    }
}
