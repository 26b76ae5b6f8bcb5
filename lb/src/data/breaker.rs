//! Who gets no requests for a while: a host that cannot be connected to or on which nothing comes to an end, and an application on one
//! of its hosts that only errs.
//!
//! After so many failures in a row a breaker opens. Once its time is over one request goes through as a trial: it closes the breaker,
//! or opens it for twice as long. Each worker has its own, so that nothing is shared on the way of a request; a worker that sends
//! little to a host learns of its failure later, and control tells all of them when a host is down or back.

use std::collections::HashMap;
use std::time::Duration;

use steady_ring::Time;
use steady_table::HostIndex;

/// A trial that has told nothing after so long is no reason to wait any longer for the next.
const TRIAL_MAX: Duration = Duration::from_secs(5);

/// Applications on hosts that are remembered to fail; beyond it, further ones are not.
const RATED_MAX: usize = 10_000;

/// When breakers open, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Connects in a row that fail until a host is ejected; 0: never.
    pub connect_failures: u32,
    /// Answers in a row that are 5xx, broken or late, until an application is avoided on a host, where it has another; and broken or
    /// late ones of several applications, until their host is ejected. 0: never.
    pub errors: u32,
    /// The first time.
    pub base: Duration,
    /// At most.
    pub max: Duration,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules { connect_failures: 5, errors: 10, base: Duration::from_secs(1), max: Duration::from_secs(10) }
    }
}

/// One thing that may fail.
#[derive(Clone, Debug, Default)]
pub(super) struct Breaker {
    /// In a row, as long as it is closed.
    failures: u32,
    /// How often it has opened in a row.
    opened: u32,
    /// When the last connect failed.
    unconnected: Option<Time>,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Closed,
    Open {
        until: Time,
    },
    Trial {
        since: Time,
    },
}

impl Breaker {
    /// Whether a request may go through now.
    pub(super) fn lets_through(&self, now: Time) -> bool {
        match self.state {
            State::Closed => true,
            State::Open { until } => now >= until,
            State::Trial { since } => now >= since + TRIAL_MAX,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.state != State::Closed
    }

    /// A request goes through; `true`: as a trial.
    pub(super) fn begin(&mut self, now: Time) -> bool {
        let trial = self.is_open();
        if trial {
            self.state = State::Trial { since: now };
        }
        trial
    }

    pub(super) fn succeeded(&mut self) {
        *self = Breaker::default();
    }

    /// A connect failed. All who waited for it are told at one moment, and it failed once. `true`: it opens.
    pub(super) fn not_connected(&mut self, rules: &Rules, now: Time, may_open: bool) -> bool {
        if self.state == State::Closed && self.unconnected.replace(now) == Some(now) {
            return false;
        }
        self.failed(rules.connect_failures, rules, now, may_open)
    }

    /// A request broke or was late, as [so many](Streak::of_host) before it. `true`: it opens.
    pub(super) fn broken(&mut self, streak: u32, rules: &Rules, now: Time, may_open: bool) -> bool {
        match self.state {
            State::Closed => {
                let opens = rules.errors > 0 && streak >= rules.errors && may_open;
                if opens {
                    self.open(rules, now);
                }
                opens
            }
            State::Open { .. } | State::Trial { .. } => self.failed(0, rules, now, may_open),
        }
    }

    /// `true`: it opens, as `may_open` allows, after `most` failures; 0: never, but for a trial.
    pub(super) fn failed(&mut self, most: u32, rules: &Rules, now: Time, may_open: bool) -> bool {
        match self.state {
            // What was sent before it opened.
            State::Open { .. } => return false,
            State::Closed => {
                self.failures = self.failures.saturating_add(1);
                if most == 0 || self.failures < most || !may_open {
                    return false;
                }
            }
            State::Trial { .. } => {}
        }
        self.open(rules, now);
        true
    }

    fn open(&mut self, rules: &Rules, now: Time) {
        let time = rules.base.saturating_mul(1 << self.opened.min(16)).min(rules.max);
        self.opened += 1;
        self.state = State::Open { until: now + time };
    }
}

/// Requests in a row that broke or were late on a host.
#[derive(Clone, Debug, Default)]
pub(super) struct Streak {
    length: u32,
    last: Option<Time>,
    app: Option<u64>,
    of_several: bool,
}

impl Streak {
    /// One more. Those that break at one moment broke with one connection, and are one.
    pub(super) fn grow(&mut self, app: u64, now: Time) {
        self.of_several |= self.app.replace(app).is_some_and(|before| before != app);
        if self.last.replace(now) != Some(now) {
            self.length = self.length.saturating_add(1);
        }
    }

    /// How many, if they tell of the host: what one application alone does is its own fault.
    pub(super) fn of_host(&self) -> u32 {
        if self.of_several { self.length } else { 0 }
    }
}

/// Whether one more of `count` may be ejected: at most half of them are, so that those that are left are not overrun.
pub(super) fn may_eject(ejected: usize, count: usize) -> bool {
    (ejected + 1) * 2 <= count
}

/// Applications that fail on a host and have other hosts.
#[derive(Debug, Default)]
pub(super) struct Rated {
    known: HashMap<(u64, HostIndex), Breaker>,
}

impl Rated {
    pub(super) fn lets_through(&self, app: u64, host: HostIndex, now: Time) -> bool {
        self.known.is_empty() || self.known.get(&(app, host)).is_none_or(|breaker| breaker.lets_through(now))
    }

    pub(super) fn begin(&mut self, app: u64, host: HostIndex, now: Time) -> bool {
        self.known.get_mut(&(app, host)).is_some_and(|breaker| breaker.begin(now))
    }

    pub(super) fn succeeded(&mut self, app: u64, host: HostIndex) {
        if !self.known.is_empty() {
            self.known.remove(&(app, host));
        }
    }

    /// `true`: it is avoided from now on.
    pub(super) fn failed(&mut self, app: u64, host: HostIndex, rules: &Rules, now: Time) -> bool {
        if rules.errors == 0 || (self.known.len() >= RATED_MAX && !self.known.contains_key(&(app, host))) {
            return false;
        }
        self.known.entry((app, host)).or_default().failed(rules.errors, rules, now, true)
    }

    /// Another table is in force: forgets what is about hosts whose number means another now.
    pub(super) fn retain(&mut self, is_same: impl Fn(HostIndex) -> bool) {
        self.known.retain(|&(_, host), _| is_same(host));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules =
        Rules { connect_failures: 3, errors: 2, base: Duration::from_secs(1), max: Duration::from_secs(3) };

    fn at(millis: u64) -> Time {
        Time::ZERO + Duration::from_millis(millis)
    }

    fn fail(breaker: &mut Breaker, millis: u64) -> bool {
        breaker.failed(RULES.connect_failures, &RULES, at(millis), true)
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_a_success_begins_the_count_anew() {
        let mut breaker = Breaker::default();
        assert!(!fail(&mut breaker, 0) && !fail(&mut breaker, 0));
        breaker.succeeded();
        assert!(!fail(&mut breaker, 0) && !fail(&mut breaker, 0) && breaker.lets_through(at(0)));
        assert!(fail(&mut breaker, 0) && !breaker.lets_through(at(999)));
    }

    #[test]
    fn a_connect_that_failed_counts_once_however_many_waited_for_it() {
        let mut breaker = Breaker::default();
        let mut fails = |millis| (0..9).filter(|_| breaker.not_connected(&RULES, at(millis), true)).count();
        assert_eq!([fails(0), fails(1), fails(2)], [0, 0, 1], "it opens with the third");
    }

    #[test]
    fn one_trial_closes_it_or_opens_it_for_twice_as_long_up_to_a_bound() {
        let mut breaker = Breaker::default();
        for _ in 0..3 {
            fail(&mut breaker, 0);
        }
        let mut now = 0;
        for open in [1_000, 2_000, 3_000, 3_000] {
            assert!(!breaker.lets_through(at(now + open - 1)) && breaker.lets_through(at(now + open)));
            now += open;
            assert!(breaker.begin(at(now)));
            assert!(!breaker.lets_through(at(now + 1)), "one at a time");
            assert!(breaker.lets_through(at(now + 5_000)), "a trial that tells nothing is not waited for");
            assert!(fail(&mut breaker, now), "the trial failed");
            assert!(!fail(&mut breaker, now), "what was sent before tells nothing new");
        }
        breaker.begin(at(now + 3_000));
        breaker.succeeded();
        assert!(breaker.lets_through(at(now + 3_000)) && !breaker.begin(at(now + 3_000)));
    }

    #[test]
    fn what_breaks_tells_of_a_host_when_it_is_of_several_applications_and_of_several_moments() {
        let mut streak = Streak::default();
        for millis in 0..9 {
            streak.grow(7, at(millis));
        }
        assert_eq!(streak.of_host(), 0, "one application alone");
        streak.grow(8, at(9));
        assert_eq!(streak.of_host(), 10);
        (0..50).for_each(|app| streak.grow(app, at(9)));
        assert_eq!(streak.of_host(), 10, "one connection carried them all");
    }

    #[test]
    fn what_breaks_opens_it_after_so_many_and_reopens_it_as_a_trial() {
        let mut breaker = Breaker::default();
        assert!(!breaker.broken(1, &RULES, at(0), true) && !breaker.broken(2, &RULES, at(0), false));
        assert!(breaker.broken(2, &RULES, at(0), true) && !breaker.lets_through(at(999)));
        assert!(!breaker.broken(9, &RULES, at(0), true), "what was sent before tells nothing new");
        assert!(breaker.begin(at(1_000)));
        assert!(breaker.broken(0, &RULES, at(1_000), true) && !breaker.lets_through(at(2_999)));
        let never = Rules { errors: 0, ..RULES };
        assert!(!Breaker::default().broken(99, &never, at(0), true));
    }

    #[test]
    fn at_most_half_are_ejected_and_a_breaker_of_zero_never_opens() {
        let mut lone = Breaker::default();
        for _ in 0..100 {
            assert!(!lone.failed(3, &RULES, at(0), may_eject(0, 1)));
            assert!(!Breaker { failures: 99, ..Breaker::default() }.failed(0, &RULES, at(0), true));
        }
        assert!(may_eject(0, 2) && !may_eject(1, 2) && !may_eject(1, 3) && may_eject(1, 4));
    }

    #[test]
    fn an_application_is_avoided_on_one_host_alone_and_forgotten_with_the_host() {
        let mut rated = Rated::default();
        let (app, bad, good) = (7, HostIndex(0), HostIndex(1));
        assert!(!rated.failed(app, bad, &RULES, at(0)) && rated.failed(app, bad, &RULES, at(0)));
        assert!(!rated.lets_through(app, bad, at(1)) && rated.lets_through(app, good, at(1)));
        assert!(rated.lets_through(app + 1, bad, at(1)));
        rated.retain(|host| host != bad);
        assert!(rated.lets_through(app, bad, at(1)));
        rated.failed(app, bad, &RULES, at(0));
        rated.succeeded(app, bad);
        assert!(!rated.failed(app, bad, &RULES, at(0)), "the count began anew");
    }
}
