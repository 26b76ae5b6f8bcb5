//! The whole data path in one thread: clients, edges and agents under their real policies, applications, moves; on a
//! simulated network, with a virtual clock, from one number.
//!
//! `STEADY_SEED=n` runs that history alone; `STEADY_SEEDS=n` runs the first n instead of the default:
//! `STEADY_SEEDS=10000 cargo test --release -p steady --test simulation`.

mod edge;
mod host;
mod house;
mod ledger;
mod moves;
#[path = "../../shared/proxy/tests/world/mod.rs"]
mod world;

use std::time::Duration;

use house::{House, Weather};
use steady_http::Method;
use steady_ring::{Faults, Time};
use world::client::{End, Want};
use world::plan::{Fate, Plan};

/// Runs `history` for many seeds; a failing one says how to repeat it.
fn for_seeds(what: &str, count: u64, history: impl Fn(u64) + std::panic::RefUnwindSafe) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("STEADY_SEED") {
        return history(seed);
    }
    for seed in 0..number("STEADY_SEEDS").unwrap_or(count) {
        if std::panic::catch_unwind(|| history(seed)).is_err() {
            panic!("repeat with: STEADY_SEED={seed} cargo test -p steady --test simulation {what}");
        }
    }
}

/// A random request.
fn want(rng: &mut fastrand::Rng, id: u64, weather: Weather) -> Want {
    let mut plan = Plan::plain(id);
    let size = |rng: &mut fastrand::Rng| match rng.u32(0..10) {
        0..4 => 0,
        4..8 => rng.usize(0..3_000),
        8 => rng.usize(0..80_000),
        _ => rng.usize(0..200_000),
    };
    plan.download = size(rng);
    plan.upload = if rng.bool() { 0 } else { size(rng) };
    plan.sized = rng.bool();
    plan.trailers = rng.u32(0..4) == 0;
    plan.interim = rng.u32(0..6) == 0;
    plan.delay = if rng.bool() { 0 } else { rng.u64(0..300) };
    if weather == Weather::Breaks {
        let fates = [Fate::Answer, Fate::Answer, Fate::Answer, Fate::Early, Fate::Close, Fate::Reset, Fate::Break];
        plan.fate = *rng.choice(&fates).expect("there are some");
    }
    let at = Time::ZERO + Duration::from_millis(rng.u64(0..4_000));
    let mut want = Want::new(plan, rng.bool(), at);
    let specs = house::specs();
    want.authority = specs[rng.usize(0..specs.len())].authority;
    if plan.upload == 0 && rng.u32(0..8) == 0 {
        want.method = Method::Head;
        want.plan.fate = if plan.fate == Fate::Early { Fate::Answer } else { plan.fate };
    }
    want.sized = rng.bool();
    want.trailers = rng.bool();
    if rng.u32(0..4) == 0 {
        want.pause = Duration::from_millis(rng.u64(0..20));
    }
    if rng.u32(0..12) == 0 {
        want.leaves = Some(at + Duration::from_millis(rng.u64(0..800)));
    }
    want
}

impl House {
    /// Sends `count` requests through the seed's weather, then lets everything come to rest.
    fn history(&mut self, count: u64, weather: Weather) {
        for id in 1..=count {
            let want = want(&mut self.rng, id, weather);
            self.clients.app.wants.push(want);
        }
        if self.rng.u32(0..3) == 0 {
            self.clients.app.slow = Duration::from_millis(self.rng.u64(1..30));
        }
        self.run_until(Duration::from_secs(6), |_| false);
        self.calm_down();
        let done = self.run_until(Duration::from_secs(400), |house| house.clients.app.is_done());
        for want in &self.clients.app.wants {
            assert!(
                want.end.is_some(),
                "request {} has no end: {:?}\n{}",
                want.plan.id,
                want.plan,
                self.told(want.plan.id)
            );
        }
        assert!(done);
        assert!(self.run_until(Duration::from_secs(120), House::is_at_rest), "a move does not end");
        // Whatever the clients left behind ends by its deadlines.
        self.run_until(Duration::from_secs(130), |_| false);
        self.check_quiet();
        self.run_until(Duration::from_secs(600), |_| false);
        self.check_gone();
    }

    /// The house's day, and what became of one request.
    fn told(&self, id: u64) -> String {
        let mut text: String = self.ledger.told.iter().map(|(at, what)| format!("{at} {what}\n")).collect();
        text += &format!("begun: {:?}\n", self.ledger.begun.get(&id));
        if let Some(want) = self.clients.app.wants.iter().find(|want| want.plan.id == id) {
            let Want { authority, at, ended, is_h2, .. } = want;
            text += &format!("for {authority} (HTTP/2: {is_h2}) at {at}, ended at {ended}\n");
        }
        text
    }
}

#[test]
fn moves_swaps_and_successors_lose_no_request_and_run_none_twice() {
    for_seeds("moves_swaps", 60, |seed| {
        let mut house = House::new(seed, Faults::rough(), Weather::Works);
        house.history(40, Weather::Works);
        for want in &house.clients.app.wants {
            let id = want.plan.id;
            let excused = match want.end {
                Some(End::Left) => true,
                // HTTP/1.1 has no word for "ask no more": a connection that was idle for long is closed while the next request
                // is on its way. It was not begun, and the client may send it again (RFC 9112 §9.5).
                Some(End::Lost(0)) => !want.is_h2 && !house.ledger.begun.contains_key(&id),
                _ => house.ledger.struck.contains(&id),
            };
            let own = Some(End::Answered(want.plan.status, true));
            assert!(want.end == own || excused, "{:?} ended by {:?}:\n{}", want.plan, want.end, house.told(id));
        }
    });
}

#[test]
fn whatever_breaks_every_request_has_one_end_and_nothing_is_left_behind() {
    for_seeds("whatever_breaks", 60, |seed| {
        let mut house = House::new(seed, Faults::harsh(), Weather::Breaks);
        house.history(40, Weather::Breaks);
    });
}
