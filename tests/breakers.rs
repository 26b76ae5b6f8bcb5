//! Hosts that cannot be connected to or on which all breaks, and applications that only err on one of their hosts, get no requests for a while.

mod house;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use house::fake::{Act, Fake};
use house::{House, Setup, placed};
use steady_lb::data::Rules;
use steady_lb::snapshot::{HostState, Settings};
use steady_table::{Endpoint, HostIndex};
use support::http::Conn;
use support::{PATIENCE, eventually};

/// Breakers open after three, and stay open until a test has seen that they are.
fn rules() -> Rules {
    Rules { connect_failures: 3, errors: 3, base: PATIENCE * 10, max: PATIENCE * 10 }
}

fn setup(uring: bool, breaker: Rules) -> Setup {
    Setup { uring, agents: 2, settings: Settings { breaker, ..Settings::default() }, ..Setup::default() }
}

fn status(house: &House) -> u16 {
    Conn::open(house.plain).request("GET", "echo.localhost", "/", &[], b"").unwrap().status
}

/// An address that refuses, and that nobody else gets meanwhile.
fn refusing() -> (tokio::runtime::Runtime, tokio::net::TcpSocket) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    (runtime, socket)
}

#[test]
fn a_host_that_refuses_is_ejected_and_back_after_a_trial_that_succeeds() {
    for uring in [true, false] {
        let (runtime, socket) = refusing();
        let breaker = Rules { base: Duration::from_millis(50), max: Duration::from_millis(50), ..rules() };
        let mut house = House::build(setup(uring, breaker));
        house.hosts[0] = socket.local_addr().unwrap();
        house.route(vec![placed("echo", 0, 1)]);
        eventually("a request is refused without a connect", || {
            assert_eq!(status(&house), 502);
            (house.count("breaker_refused_total") > 0).then_some(())
        });
        eventually("trials fail", || {
            assert_eq!(status(&house), 502);
            (house.count("breaker_trials_total") > 1).then_some(())
        });
        assert!(house.count_of("ejections_total", "host") > 1, "each trial that failed opened it again");
        let listener = runtime.block_on(async { socket.listen(64).unwrap().into_std().unwrap() });
        let fake = Fake::on(listener, |_| Act::Answer(200));
        eventually("it serves again", || (status(&house) == 200).then_some(()));
        let refused = house.count("breaker_refused_total");
        for _ in 0..20 {
            assert_eq!(status(&house), 200);
        }
        assert_eq!(house.count("breaker_refused_total"), refused);
        assert!(fake.seen().len() > 20);
    }
}

#[test]
fn a_host_that_control_saw_come_back_needs_no_trial() {
    let (runtime, socket) = refusing();
    let mut house = House::build(setup(true, rules()));
    house.hosts[0] = socket.local_addr().unwrap();
    house.route(vec![placed("echo", 0, 1)]);
    eventually("it is ejected", || {
        assert_eq!(status(&house), 502);
        (house.count("breaker_refused_total") > 0).then_some(())
    });
    let listener = runtime.block_on(async { socket.listen(64).unwrap().into_std().unwrap() });
    let _fake = Fake::on(listener, |_| Act::Answer(200));
    assert_eq!(status(&house), 502, "its time is not over");
    for (state, expected) in [(HostState::Down, 502), (HostState::Up, 200)] {
        let routes = house.build_table(house.contents(vec![placed("echo", 0, 1)]));
        house.publish_with(
            Arc::new(routes),
            &Settings { breaker: rules(), ..Settings::default() },
            &[state, HostState::Up],
        );
        assert_eq!(status(&house), expected);
    }
}

#[test]
fn breakers_are_switched_off_while_running_and_the_last_of_two_hosts_is_never_ejected() {
    let (_runtime, [first, second]) = {
        let ((runtime, first), (_, second)) = (refusing(), refusing());
        (runtime, [first, second])
    };
    let mut house = House::build(setup(true, Rules { connect_failures: 0, ..rules() }));
    house.hosts = [&first, &second].map(|socket| socket.local_addr().unwrap()).to_vec();
    let both = [placed("echo", 0, 1), placed("other", 1, 1)];
    house.route(both.to_vec());
    for _ in 0..10 {
        assert_eq!(status(&house), 502);
    }
    assert_eq!(house.count("ejections_total"), 0);
    let routes = house.build_table(house.contents(both.to_vec()));
    house.publish_with(Arc::new(routes), &Settings { breaker: rules(), ..Settings::default() }, &[HostState::Up; 2]);
    for _ in 0..10 {
        assert_eq!(status(&house), 502);
        let other = Conn::open(house.plain).request("GET", "other.localhost", "/", &[], b"").unwrap();
        assert_eq!(other.status, 502);
    }
    assert_eq!(house.count("ejections_total"), 1);
}

#[test]
fn an_application_that_errs_on_one_host_is_served_by_the_other_until_it_has_recovered() {
    for uring in [true, false] {
        let is_ill = Arc::new(AtomicBool::new(true));
        let ill = Arc::clone(&is_ill);
        let fake = Fake::start(move |_| Act::Answer(if ill.load(Ordering::Relaxed) { 500 } else { 200 }));
        let breaker = Rules { base: Duration::from_secs(1), ..rules() };
        let mut house = House::build(setup(uring, breaker));
        house.hosts[0] = fake.addr;
        house.agents[1].set(house.ready("echo", 1));
        let endpoint = |host| Endpoint { host: HostIndex(host), weight: 1, version: 1 };
        let app = steady_table::App { endpoints: vec![endpoint(0), endpoint(1)], ..placed("echo", 0, 1) };
        house.route(vec![app]);
        let mut errors = 0;
        eventually("it is avoided there", || {
            errors += u32::from(status(&house) == 500);
            (house.count_of("ejections_total", "app") == 1).then_some(())
        });
        assert_eq!(errors, 3, "three in a row");
        let (before, trials) = (fake.seen().len(), house.count("breaker_trials_total"));
        for _ in 0..30 {
            status(&house);
        }
        let tried = house.count("breaker_trials_total") - trials;
        assert_eq!((fake.seen().len() - before) as u64, tried, "nothing but trials goes there");
        is_ill.store(false, Ordering::Relaxed);
        let recovered = fake.seen().len();
        eventually("it is used again", || {
            status(&house);
            (fake.seen().len() > recovered + 5).then_some(())
        });
    }
}

#[test]
fn an_application_that_errs_on_more_than_half_of_its_hosts_is_avoided_on_none() {
    let ill = [(); 2].map(|()| Fake::start(|_| Act::Answer(500)));
    let mut house = House::build(Setup { agents: 3, ..setup(true, rules()) });
    (house.hosts[0], house.hosts[1]) = (ill[0].addr, ill[1].addr);
    house.agents[2].set(house.ready("echo", 1));
    let endpoint = |host| Endpoint { host: HostIndex(host), weight: 1, version: 1 };
    let app = steady_table::App { endpoints: [0, 1, 2].map(endpoint).to_vec(), ..placed("echo", 0, 1) };
    house.route(vec![app]);
    eventually("it has erred on both", || {
        status(&house);
        (house.count_of("ejections_total", "app") == 2).then_some(())
    });
    let before = [ill[0].seen().len(), ill[1].seen().len()];
    eventually("both are used all the same, so that the third is not overrun", || {
        status(&house);
        let since = [0, 1].map(|host| ill[host].seen().len() - before[host]);
        since.iter().all(|&requests| requests > 5).then_some(())
    });
}

#[test]
fn a_host_on_which_requests_of_several_applications_break_is_ejected_and_one_on_which_those_of_one_do_is_not() {
    for uring in [true, false] {
        let fake = Fake::start(|_| Act::ReadThenBreak(0));
        let mut house = House::build(setup(uring, rules()));
        house.hosts[0] = fake.addr;
        house.route(vec![placed("echo", 0, 1), placed("other", 0, 1)]);
        for _ in 0..20 {
            assert_eq!(status(&house), 502);
        }
        assert_eq!((house.count("ejections_total"), fake.seen().len()), (0, 20), "one application's own fault");
        let other = Conn::open(house.plain).request("GET", "other.localhost", "/", &[], b"").unwrap();
        assert_eq!(other.status, 502);
        assert_eq!(house.count_of("ejections_total", "host"), 1);
        assert_eq!(status(&house), 502);
        assert_eq!((house.count("breaker_refused_total"), fake.seen().len()), (1, 21), "it gets no more");
    }
}
