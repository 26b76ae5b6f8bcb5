//! A model of the control side's moves: the steps of `docs/moves.md` with pauses from the seed, undone or forced where the
//! seed says so. The real workflow has tests of its own; here it is the requests that are looked at.

use std::time::Duration;

use steady_agent::gate::Role;
use steady_ring::Time;

use crate::house::House;

#[derive(Clone, Debug)]
pub struct Move {
    pub app: usize,
    from: usize,
    to: usize,
    old_generation: u64,
    generation: u64,
    step: Step,
    /// Not before this.
    pub at: Time,
    /// Requests are cut then.
    deadline: Option<Time>,
    /// The seed lets it fail before it only goes on.
    undo: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Prepare,
    Route,
    ActivateEarly,
    Drain,
    Drained,
    Activate,
    Settle,
    Forget,
    Undo,
    Unsettle,
    Over,
}

impl Move {
    pub fn begin(house: &mut House, app: usize, to: usize) -> Move {
        let generation = house.next_generation(app);
        let old_generation = house.places[app].generation;
        let from = house.places[app].host;
        let undo = house.rng.u32(0..4) == 0;
        let what = format!(
            "move {app} from {from} ({old_generation}) to {to} ({generation}){}",
            if undo { ", undone" } else { "" }
        );
        house.ledger.tell(house.net.now(), what);
        let at = house.net.now();
        Move { app, from, to, old_generation, generation, step: Step::Prepare, at, deadline: None, undo }
    }

    pub fn is_over(&self) -> bool {
        self.step == Step::Over
    }

    /// Takes the next step if its time has come and what it waits for is there.
    pub fn turn(&mut self, house: &mut House) -> bool {
        let now = house.net.now();
        if now < self.at {
            return false;
        }
        let before = self.step;
        self.step = self.next(house);
        if self.step == before {
            // Nothing tells the model that it may go on: it looks again.
            self.at = now + Duration::from_millis(house.rng.u64(1..20));
            return false;
        }
        house.ledger.tell(now, format!("move {}: {before:?} is done", self.app));
        self.at = now + Duration::from_millis(if house.rng.bool() { 0 } else { house.rng.u64(1..300) });
        true
    }

    fn next(&mut self, house: &mut House) -> Step {
        let (app, exclusive) = (self.app, house.specs[self.app].exclusive);
        match self.step {
            Step::Prepare => {
                if !house.hosts[self.to].runs() {
                    return Step::Prepare;
                }
                house.hosts[self.to].put(app, Role::Incoming, self.generation);
                if !exclusive && !house.hosts[self.to].is_ready(app) {
                    return Step::Prepare;
                }
                house.places[app].moving = Some((self.to, self.generation));
                house.publish();
                Step::Route
            }
            Step::Route if !house.is_settled() => Step::Route,
            Step::Route if self.undo => {
                house.places[app].moving = None;
                house.publish();
                Step::Undo
            }
            Step::Route => {
                if exclusive {
                    Step::Drain
                } else {
                    Step::ActivateEarly
                }
            }
            Step::ActivateEarly => {
                if !house.hosts[self.to].runs() {
                    return Step::ActivateEarly;
                }
                house.hosts[self.to].put(app, Role::Owner, self.generation);
                Step::Drain
            }
            Step::Drain => {
                if !house.hosts[self.from].runs() {
                    return Step::Drain;
                }
                house.hosts[self.from].put(app, Role::Draining, self.old_generation);
                self.deadline = Some(house.net.now() + house.drain_time);
                Step::Drained
            }
            Step::Drained => self.drained(house),
            Step::Activate => {
                if !house.hosts[self.to].runs() {
                    return Step::Activate;
                }
                house.own(app, self.to);
                house.hosts[self.to].put(app, Role::Owner, self.generation);
                Step::Settle
            }
            Step::Settle => {
                let place = &mut house.places[app];
                (place.host, place.generation, place.moving) = (self.to, self.generation, None);
                house.publish();
                Step::Forget
            }
            Step::Forget if !house.is_settled() => Step::Forget,
            Step::Forget => {
                house.hosts[self.from].forget(app);
                house.ledger.moves += 1;
                Step::Over
            }
            Step::Undo if !house.is_settled() => Step::Undo,
            Step::Undo => Step::Unsettle,
            Step::Unsettle => {
                house.hosts[self.to].forget(app);
                house.ledger.undone += 1;
                Step::Over
            }
            Step::Over => Step::Over,
        }
    }

    /// The old host finishes what it has begun; what it has not finished by the deadline is cut.
    fn drained(&mut self, house: &mut House) -> Step {
        let (app, now) = (self.app, house.net.now());
        if !house.hosts[self.from].runs() {
            return Step::Drain;
        }
        if !house.hosts[self.from].is_drained(app) {
            if self.deadline.is_some_and(|deadline| deadline <= now) {
                let cut = house.hosts[self.from].cut(app);
                house.ledger.cut += cut.len() as u64;
                house.ledger.struck.extend(cut);
            }
            return Step::Drained;
        }
        let left = house.hosts[self.from].stop(app);
        house.ledger.stopped(left, "a drained application was stopped with requests under way");
        if house.specs[app].exclusive { Step::Activate } else { Step::Settle }
    }
}
