//! Random histories of edges, agents, origins and clients on a simulated network, each from one number.
//!
//! `STEADY_SEED=n` runs that one alone; `STEADY_SEEDS=n` runs the first n instead of the default.

mod world;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use steady_http::Method;
use steady_proxy::{Command, Refusal, Timeouts};
use steady_ring::{Addr, Faults, Time};

use world::client::{Clients, End, Want};
use world::origin::Origin;
use world::peer::Peer;
use world::plan::{Fate, Plan};
use world::policy::{Place, Scene};
use world::{World, config};

/// Runs `history` for many seeds; a failing one says how to repeat it.
fn for_seeds(what: &str, count: u64, history: impl Fn(u64) + std::panic::RefUnwindSafe) {
    if let Some(seed) = std::env::var("STEADY_SEED").ok().and_then(|seed| seed.parse().ok()) {
        return history(seed);
    }
    let count = std::env::var("STEADY_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(count);
    for seed in 0..count {
        if std::panic::catch_unwind(|| history(seed)).is_err() {
            panic!("repeat with: STEADY_SEED={seed} cargo test -p steady-proxy --test histories {what}");
        }
    }
}

struct House {
    world: World,
    rng: fastrand::Rng,
    clients: Rc<RefCell<Peer<Clients>>>,
    origins: Vec<Rc<RefCell<Peer<Origin>>>>,
    /// The scene that each worker began with.
    scenes: Vec<Scene>,
    /// Some worker was told to hold everything for a while, which may be longer than a request may be parked.
    held: bool,
}

fn scene(rng: &mut fastrand::Rng, places: Vec<Place>, timeouts: Timeouts) -> Scene {
    let often = |rng: &mut fastrand::Rng, most: u32| if rng.bool() { 0 } else { rng.u32(0..most) };
    Scene {
        park: often(rng, 300),
        park_for: Duration::from_secs(3),
        ask_for: Duration::from_millis(rng.u64(20..800)),
        live: rng.bool(),
        timeouts,
        ..Scene::to(places)
    }
}

fn timeouts() -> Timeouts {
    Timeouts {
        header: Duration::from_secs(10),
        idle: Duration::from_secs(20),
        stall: Duration::from_secs(30),
        total: None,
    }
}

/// `bodies`: octets that the bodies of a worker may hold together.
fn house(seed: u64, faults: Faults, bodies: usize) -> House {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut world = World::new(seed, faults);
    let mut origins = Vec::new();
    let mut origin_places = Vec::new();
    for index in 0..2 {
        let mut origin = Peer::new(&world.net, steady_http::Limits::default(), Origin::new(rng.u64(..)));
        for is_h2 in [false, true] {
            let addr = world.address();
            origin.listen(world.net.bind(addr), is_h2);
            let key = index * 2 + u64::from(is_h2);
            let place = if is_h2 { Place::h2(key, addr) } else { Place::h1(key, addr) };
            origin_places.push(Place { response_timeout: Duration::from_secs(15), ..place });
        }
        origins.push(world.add(origin));
    }
    let mut scenes = Vec::new();
    let mut agent_places = Vec::new();
    let mut limits = config();
    limits.limits.h1_connections_max = rng.usize(1..8);
    limits.limits.out_bytes_max = rng.usize(2_000..70_000);
    limits.limits.up_out_bytes_max = rng.usize(2_000..70_000);
    limits.limits.held_bytes_max = rng.usize(2_000..70_000);
    limits.limits.bodies_bytes_max = bodies;
    limits.upstream_limits.stream_window = rng.u32(1_000..70_000);
    limits.listeners[0].limits.stream_window = rng.u32(20_000..200_000);
    limits.listeners[0].limits.streams_max = rng.u32(1..40);
    for key in 0..2 {
        let mut scene = scene(&mut rng, origin_places.clone(), timeouts());
        scene.refuse = if rng.bool() { 0 } else { rng.u32(0..300) };
        scene.tell = rng.bool();
        scenes.push(scene.clone());
        let (_, addr) = world.proxy(scene, &limits, rng.u64(..));
        agent_places.push(Place {
            response_timeout: Duration::from_secs(18),
            pings: rng.bool(),
            ..Place::agent(key, addr)
        });
    }
    let mut edges = Vec::new();
    for _ in 0..rng.usize(1..3) {
        let mut scene = scene(&mut rng, agent_places.clone(), timeouts());
        scene.ask = if rng.bool() { 0 } else { rng.u32(0..300) };
        scenes.push(scene.clone());
        let (_, addr) = world.proxy(scene, &limits, rng.u64(..));
        edges.push(Addr::from(addr));
    }
    let clients = Peer::new(&world.net, steady_http::Limits::default(), Clients::new(rng.u64(..), edges));
    let clients = world.add(clients);
    House { world, rng, clients, origins, scenes, held: false }
}

/// A random request. `tame`: nothing breaks by its own plan.
fn want(rng: &mut fastrand::Rng, id: u64, tame: bool) -> Want {
    let mut plan = Plan::plain(id);
    let size = |rng: &mut fastrand::Rng| match rng.u32(0..10) {
        0..4 => 0,
        4..8 => rng.usize(0..3_000),
        8 => rng.usize(0..80_000),
        _ => rng.usize(0..300_000),
    };
    plan.download = size(rng);
    plan.upload = if rng.bool() { 0 } else { size(rng) };
    plan.sized = rng.bool();
    plan.trailers = rng.u32(0..4) == 0;
    plan.interim = rng.u32(0..6) == 0;
    plan.delay = if rng.bool() { 0 } else { rng.u64(0..300) };
    plan.status = *rng.choice(&[200, 200, 200, 200, 204, 304, 404, 500]).unwrap();
    if matches!(plan.status, 204 | 304) {
        plan.download = 0;
    }
    if plan.status != 200 && plan.download == 0 {
        plan.sized = true;
    }
    let fates = [Fate::Close, Fate::Early, Fate::Refuse, Fate::GoAway, Fate::Reset, Fate::Break, Fate::Silent];
    let choices = if tame { 4 } else { 7 };
    plan.fate = if rng.u32(0..3) > 0 { Fate::Answer } else { fates[rng.usize(0..choices)] };
    let at = Time::ZERO + Duration::from_millis(rng.u64(0..2_000));
    let mut want = Want::new(plan, rng.bool(), at);
    if plan.upload == 0 && rng.u32(0..8) == 0 {
        want.method = Method::Head;
        want.plan.fate = if plan.fate == Fate::Early { Fate::Answer } else { plan.fate };
    }
    want.sized = rng.bool();
    want.trailers = rng.bool();
    if rng.u32(0..4) == 0 {
        want.pause = Duration::from_millis(rng.u64(0..20));
    }
    if !tame && rng.u32(0..6) == 0 {
        want.leaves = Some(at + Duration::from_millis(rng.u64(0..800)));
    }
    want
}

impl House {
    /// Sends `count` requests and runs to the last one's end; now and then the workers get another snapshot.
    fn run(&mut self, count: u64, tame: bool) {
        for id in 1..=count {
            let want = want(&mut self.rng, id, tame);
            self.clients.borrow_mut().app.wants.push(want);
        }
        if self.rng.u32(0..3) == 0 {
            self.clients.borrow_mut().app.slow = Duration::from_millis(self.rng.u64(1..30));
        }
        for _ in 0..400 {
            let wait = Duration::from_millis(self.rng.u64(1..500));
            let clients = Rc::clone(&self.clients);
            if self.world.run_until(wait, |_| clients.borrow().app.is_done()) {
                break;
            }
            let worker = self.rng.usize(0..self.scenes.len());
            let mut scene = self.scenes[worker].clone();
            scene.hold = self.rng.u32(0..8) == 0;
            self.held |= scene.hold;
            if self.rng.bool() {
                scene.park = 0;
            }
            let plane = &self.world.proxies[worker].plane;
            plane.publish(Arc::new(scene));
            if !tame && self.rng.u32(0..20) == 0 {
                let odd = self.rng.u64(2..9);
                plane.command(&Command::Inspect(Arc::new(move |listed| listed.ticket.id % odd == 0)));
            }
        }
    }

    /// Whether a worker gave it up because it was parked for too long.
    fn was_parked_out(&self, id: u64) -> bool {
        let refusal = |record: &world::policy::Ended| record.id == id && record.refusal == Some(Refusal::ParkTimeout);
        self.held && self.world.proxies.iter().any(|proxy| proxy.ledger.borrow().records.iter().any(refusal))
    }

    /// What the workers say of one request.
    fn told(&self, id: u64) -> String {
        let records = self.world.proxies.iter().enumerate().flat_map(|(index, proxy)| {
            let records: Vec<_> =
                proxy.ledger.borrow().records.iter().filter(|record| record.id == id).cloned().collect();
            records.into_iter().map(move |record| format!("\nworker {index}: {record:?}"))
        });
        let begun = self.origins.iter().filter(|origin| origin.borrow().app.log.contains(&id)).count();
        records.collect::<String>() + &format!("\nbegun at {begun} origins")
    }

    /// After the last request: no fault was seen, nothing ran twice, everything comes to rest and goes.
    fn check(&mut self) {
        self.world.net.set_faults(Faults::none());
        for (worker, scene) in self.scenes.iter().enumerate() {
            self.world.proxies[worker].plane.publish(Arc::new(Scene { hold: false, ..scene.clone() }));
        }
        let clients = Rc::clone(&self.clients);
        let done = self.world.run_until(Duration::from_secs(60), |_| clients.borrow().app.is_done());
        for want in &clients.borrow().app.wants {
            assert!(want.end.is_some(), "request {} has no end: {:?}", want.plan.id, want.plan);
        }
        assert!(done);
        // Whatever the clients left behind ends by its deadlines.
        self.world.run_for(Duration::from_secs(50));
        self.world.check_quiet();
        let mut begun: HashMap<u64, u32> = HashMap::new();
        for origin in &self.origins {
            let origin = origin.borrow();
            assert_eq!(origin.app.wrong, Vec::<String>::new());
            for &id in &origin.app.log {
                *begun.entry(id).or_default() += 1;
            }
        }
        assert_eq!(clients.borrow().app.wrong, Vec::<String>::new());
        for (id, times) in begun {
            assert_eq!(times, 1, "request {id} was begun more than once");
        }
        self.world.run_for(Duration::from_secs(600));
        self.world.check_gone();
    }
}

#[test]
fn on_a_rough_network_every_request_gets_its_own_whole_answer() {
    for_seeds("on_a_rough", 40, |seed| {
        let mut house = house(seed, Faults::rough(), usize::MAX);
        house.run(30, true);
        house.check();
        let scenes = &house.scenes;
        let may_refuse = scenes.iter().any(|scene| scene.park > 0 || scene.ask > 0 || scene.refuse > 0);
        for want in &house.clients.borrow().app.wants {
            let own = End::Answered(want.plan.status, true);
            let excused = match want.end {
                Some(End::Answered(503, false)) => {
                    may_refuse
                        || house.was_parked_out(want.plan.id)
                        || matches!(want.plan.fate, Fate::Refuse | Fate::GoAway | Fate::Close)
                }
                // An answer that came before the body's end may be cut short with the connection that it came over.
                Some(End::Answered(502, false)) => want.plan.fate == Fate::Close,
                Some(End::Lost(status)) => want.plan.fate == Fate::Early && want.plan.upload > 0 && status > 0,
                _ => false,
            };
            let told = house.told(want.plan.id);
            assert!(want.end == Some(own) || excused, "request {:?} ended by {:?}: {told}", want.plan, want.end);
        }
    });
}

#[test]
fn on_a_harsh_network_every_request_has_one_end_and_nothing_is_left_behind() {
    for_seeds("on_a_harsh", 50, |seed| {
        // In every other history there is less memory for bodies than they want.
        let bodies = if seed % 2 == 0 { usize::MAX } else { 60_000 };
        let mut house = house(seed, Faults::harsh(), bodies);
        house.run(30, false);
        house.check();
    });
}
