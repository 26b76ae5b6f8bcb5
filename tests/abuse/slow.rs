//! Clients that are slow on purpose, so that they keep what others need: slow heads, slow bodies, answers that are not read.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use steady_agent::gate::Plane as _;
use steady_lb::snapshot::Settings;
use steady_proxy::Limits;

use crate::frames::*;
use crate::house::{House, Setup};
use crate::siege::{Counter, count, refusal, withstand, withstand_within};
use crate::support::{PATIENCE, eventually};

/// Of each kind.
const ATTACKERS: usize = 200;
/// Those that do not read: connections, and streams of one connection.
const READERS: usize = 32;
const STREAMS: u32 = 100;
/// What an answer that is not taken may hold: at the edge its window, at the host its share of what one batch brings before connections
/// are paused, and as much again while memory for it grows.
const UNTAKEN_BYTES_MAX: i64 = 1 << 20;
const SHORT: Duration = Duration::from_secs(1);
const LATE: Counter = ("clients_late_total", Some("begin"));
/// Between two octets of one who goes on talking.
const DRIP: Duration = Duration::from_millis(20);

/// Time-outs that a test does not have to wait long for. What is not slow on purpose moves all the time.
fn impatient() -> Setup {
    let settings = Settings { header_timeout: SHORT, idle_timeout: SHORT, ..Settings::default() };
    Setup {
        settings,
        limits: Limits { write_stall: SHORT, take_stall: SHORT, ..Limits::default() },
        ..Setup::default()
    }
}

fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// What is said until the end, a reset included.
fn rest(mut stream: TcpStream) -> String {
    let mut heard = Vec::new();
    let _ = stream.read_to_end(&mut heard);
    String::from_utf8_lossy(&heard).into_owned()
}

/// A crowd of connections, each with these octets. All are ended and counted, and told this; but where the machine was so busy
/// that the octets came too late, they were ended for having said nothing.
fn crowd(house: &House, octets: &[u8], told: &str, counted: Counter) {
    let both = || if counted == LATE { count(house, LATE) } else { count(house, counted) + count(house, LATE) };
    let (before, told_before) = (both(), count(house, counted));
    let crowd = (0..ATTACKERS).map(|_| {
        let mut stream = connect(house.plain);
        stream.write_all(octets).unwrap();
        stream
    });
    let crowd: Vec<TcpStream> = crowd.collect();
    let mut answered = 0;
    for stream in crowd {
        let heard = rest(stream);
        assert!(heard.is_empty() || !told.is_empty() && heard.starts_with(told), "{heard:?}");
        answered += u64::from(!heard.is_empty());
    }
    eventually("each is counted", || (both() >= before + ATTACKERS as u64).then_some(()));
    if counted != LATE {
        assert_eq!(answered, count(house, counted) - told_before, "who is refused is told so");
    }
}

#[test]
fn heads_that_do_not_come_are_answered_408_and_their_connections_closed() {
    let counted = refusal("request_timeout");
    for octets in [&b"G"[..], b"GET / HTTP/1.1\r\nHost: echo.localhost\r\nX: "] {
        withstand(impatient, &[counted], |house| crowd(house, octets, "HTTP/1.1 408 ", counted));
    }
}

#[test]
fn a_head_that_drips_gets_no_more_time_than_one_that_does_not_come() {
    withstand(impatient, &[refusal("request_timeout")], |house| {
        let mut stream = connect(house.plain);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: echo.localhost\r\n").unwrap();
        stream.set_nonblocking(true).unwrap();
        let mut heard = [0; 12];
        // Whoever goes on sending is cut off at last, and may not get to read why.
        while stream.peek(&mut heard).is_err() && stream.write_all(b"X: y\r\n").is_ok() {
            std::thread::sleep(DRIP);
        }
    });
}

#[test]
fn connections_that_say_nothing_are_closed_and_counted() {
    withstand(impatient, &[LATE], |house| crowd(house, b"", "", LATE));
}

#[test]
fn bodies_that_do_not_come_are_answered_408_and_free_their_application() {
    let counted = refusal("request_timeout");
    let body = b"POST /sink HTTP/1.1\r\nHost: echo.localhost\r\nContent-Length: 100\r\n\r\nhalf";
    withstand(impatient, &[counted], |house| {
        crowd(house, body, "HTTP/1.1 408 ", counted);
        eventually("the application's connections are free", || {
            (house.agents[0].count("exchanges_open") <= 1).then_some(())
        });
    });
}

#[test]
fn a_body_that_drips_ends_by_the_bound_on_the_whole_exchange() {
    let setup = || {
        let settings = Settings { total_timeout: Some(SHORT), ..Settings::default() };
        Setup { settings, ..impatient() }
    };
    withstand(setup, &[refusal("total_timeout")], |house| {
        let mut stream = connect(house.plain);
        stream.write_all(b"POST /sink HTTP/1.1\r\nHost: echo.localhost\r\nContent-Length: 100000\r\n\r\n").unwrap();
        stream.set_nonblocking(true).unwrap();
        let mut heard = [0; 12];
        while stream.peek(&mut heard).is_err() && stream.write_all(b"x").is_ok() {
            std::thread::sleep(DRIP);
        }
    });
}

#[test]
fn a_body_that_drips_slower_than_it_must_is_answered_408_and_frees_its_application() {
    let limits = Limits { body_rate_min: 1000, body_rate_over: SHORT, ..impatient().limits };
    let setup = || Setup { settings: Settings::default(), limits: limits.clone(), ..impatient() };
    withstand(setup, &[("responses_total", Some("4xx"))], |house| {
        let mut stream = connect(house.plain);
        stream.write_all(b"POST /sink HTTP/1.1\r\nHost: echo.localhost\r\nContent-Length: 100000\r\n\r\n").unwrap();
        stream.set_nonblocking(true).unwrap();
        let mut heard = [0; 12];
        while stream.peek(&mut heard).is_err() && stream.write_all(b"x").is_ok() {
            std::thread::sleep(DRIP);
        }
        let agent = house.agents[0].plane.samples();
        assert_eq!(crate::house::sum(agent, "clients_late_total", Some("send")), 1);
        eventually("the application's connections are free", || {
            (house.agents[0].count("exchanges_open") <= 1).then_some(())
        });
    });
}

#[test]
fn who_does_not_read_an_answer_is_cut_and_holds_a_bounded_part_of_it() {
    let late: Counter = ("clients_late_total", Some("read"));
    withstand_within(READERS as i64 * UNTAKEN_BYTES_MAX, impatient, &[late], |house| {
        let streams: Vec<TcpStream> = (0..READERS).map(|_| connect(house.plain)).collect();
        for mut stream in &streams {
            stream.write_all(b"GET /big/1000000000 HTTP/1.1\r\nHost: echo.localhost\r\n\r\n").unwrap();
        }
        eventually("all are cut", || (house.count("connections_open") == 1).then_some(()));
        streams
    });
}

#[test]
fn who_gives_no_window_for_an_answer_is_cut_and_holds_a_bounded_part_of_it() {
    let late: Counter = ("clients_late_total", Some("read"));
    withstand_within(i64::from(STREAMS) * UNTAKEN_BYTES_MAX, impatient, &[late], |house| {
        let before = count(house, late);
        let mut attacker = Attacker::open(house.plain);
        attacker.say(&setting(4, 1));
        for round in 0..STREAMS {
            attacker.say(&frame(HEADERS, END_HEADERS | END_STREAM, nth(round), &block("GET", "/big/1000000000", &[])));
        }
        eventually("all are cut", || (count(house, late) >= before + u64::from(STREAMS)).then_some(()));
        attacker
    });
}

#[test]
fn however_many_answers_are_not_taken_they_hold_no_more_than_a_bound_and_who_reads_is_not_cut() {
    const ATTACKERS: u32 = 4;
    const WHOLE: u64 = 20_000_000;
    let bodies_bytes_max = 4 << 20;
    let setup = || Setup { limits: Limits { bodies_bytes_max, ..Limits::default() }, ..Setup::default() };
    let cut: Counter = ("bodies_cut_total", None);
    // The host is in this process too, and here it has no bound.
    let most = i64::from(ATTACKERS * STREAMS) * UNTAKEN_BYTES_MAX;
    withstand_within(most, setup, &[cut], |house| {
        let before = count(house, cut);
        let mut reader = connect(house.plain);
        let attackers: Vec<Attacker> = (0..ATTACKERS)
            .map(|_| {
                let mut attacker = Attacker::open(house.plain);
                attacker.say(&setting(4, 1));
                for round in 0..STREAMS {
                    let head = block("GET", "/big/1000000000", &[]);
                    attacker.say(&frame(HEADERS, END_HEADERS | END_STREAM, nth(round), &head));
                }
                attacker
            })
            .collect();
        let request = format!("GET /big/{WHOLE} HTTP/1.1\r\nHost: echo.localhost\r\nConnection: close\r\n\r\n");
        reader.write_all(request.as_bytes()).unwrap();
        let got = std::io::copy(&mut reader, &mut std::io::sink()).expect("the whole answer");
        assert!(got > WHOLE, "{got} octets");
        // Each holds what a stream of a host may have under way; half of the bound may stand.
        let stay = bodies_bytes_max as u64 / 2 / (64 << 10);
        let gone = u64::from(ATTACKERS * STREAMS) - stay;
        eventually("all but a few are cut", || (count(house, cut) >= before + gone).then_some(()));
        assert!(house.count("bodies_bytes") <= bodies_bytes_max as u64 / 2);
        attackers
    });
}
