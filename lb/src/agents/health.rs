//! Whether hosts are there. Those of the configuration are asked once a second (with jitter); those that registered report by
//! themselves, and are judged by when they last did. What it means is decided by [`Health`], which does no I/O.
//!
//! ```text
//!            answer                     answer
//!        ┌────────────┐        ┌───────────────────────┐
//!        ▼            │        ▼                       │
//!       Up ──3 failures──▶ Suspected ──down_after, and its──▶ Down
//!         or suspect_after     ▲      data port refuses        │
//!                              └──── its data port answers ────┘
//! ```
//!
//! A host that is silent on its control side but takes connections on its data port is only preferred less: [`HostState::Down`]
//! makes the workers answer 502 at once, which silence alone must not do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::channel::{Open, Slot};
use super::client::{AppStatus, HostInfo, data_port_answers};
use super::{HostHandle, Hosts};
use crate::limits::{HEALTH_ANSWER, HEALTH_FAILURES};
use crate::snapshot::HostState;

/// What one look at a host found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    Answered,
    /// Its agent's API did not answer; whether its data port took a connection.
    Silent {
        data_port: bool,
    },
}

/// The state of one host, from one look to the next.
#[derive(Clone, Copy, Debug)]
pub struct Health {
    state: HostState,
    failures: u32,
    silent_since: Option<Instant>,
}

impl Health {
    /// Of a host that was never asked.
    pub fn new() -> Health {
        Health { state: HostState::Suspected, failures: 0, silent_since: None }
    }

    pub fn state(&self) -> HostState {
        self.state
    }

    /// Takes in what was found at `now`.
    pub fn observe(&mut self, look: Look, now: Instant, down_after: Duration) -> HostState {
        match look {
            Look::Answered => self.answered(),
            Look::Silent { data_port } => {
                self.failures = self.failures.saturating_add(1);
                let since = *self.silent_since.get_or_insert(now);
                if self.state == HostState::Up && self.failures < HEALTH_FAILURES {
                    return HostState::Up;
                }
                self.silent(data_port, now.saturating_duration_since(since) >= down_after)
            }
        }
    }

    /// It gave a sign of life.
    pub fn answered(&mut self) -> HostState {
        *self = Health { state: HostState::Up, failures: 0, silent_since: None };
        self.state
    }

    /// It has been silent for too long to be up. `long`: for `down_after`.
    pub fn silent(&mut self, data_port: bool, long: bool) -> HostState {
        self.state = match self.state {
            _ if data_port => HostState::Suspected,
            HostState::Down => HostState::Down,
            HostState::Up | HostState::Suspected if long => HostState::Down,
            HostState::Up | HostState::Suspected => HostState::Suspected,
        };
        self.state
    }
}

/// Tells silence of hosts from a pause of this process (it was stopped, or its machine was): after one, what hosts said meanwhile
/// lies unread, and whoever looks before it has been read would suspect them all.
#[derive(Clone, Copy, Debug, Default)]
struct Pauses {
    late: bool,
}

impl Pauses {
    /// Takes in how long a sleep of `every` took. Whether the next look is to wait for one more: not twice in a row, as a process
    /// that is always late must judge hosts too.
    fn slept(&mut self, took: Duration, every: Duration) -> bool {
        self.late = !self.late && took > every * 2;
        self.late
    }
}

impl Default for Health {
    fn default() -> Self {
        Health::new()
    }
}

/// What the watch tells. By the time it is heard another handle may have the name: [`Hosts::state`] says what holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostEvent {
    /// It changed its state.
    State { host: String, state: HostState },
    /// It answers again, or for the first time, or its agent is another process than before: compare what it has with what
    /// it should have. `claims`: what it has, where it said so with its registration.
    Returned { host: String, claims: Option<Vec<AppStatus>> },
}

/// How the watch is paced; read before each look, so that it can change while running.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub every: Duration,
    /// Of a host that registered: without a report.
    pub suspect_after: Duration,
    pub down_after: Duration,
}

/// Watches one host until another handle takes its place or nobody listens any more. What was found of a handle that was
/// replaced meanwhile is not told.
pub async fn watch(
    hosts: Arc<Hosts>,
    handle: Arc<HostHandle>,
    pace: impl Fn() -> Pace + Send + 'static,
    events: mpsc::Sender<HostEvent>,
) {
    if let Some(slot) = handle.slot.clone() {
        return watch_registered(hosts, handle, slot, pace, events).await;
    }
    let mut health = Health::new();
    while hosts.is_current(&handle) && !events.is_closed() {
        let Pace { every, down_after, .. } = pace();
        let (look, returned) = look(&handle).await;
        if !hosts.is_current(&handle) {
            return;
        }
        let before = health.state();
        let state = health.observe(look, Instant::now(), down_after);
        handle.set_live(|live| live.state = state);
        let host = handle.record.name.clone();
        if state != before && events.send(HostEvent::State { host: host.clone(), state }).await.is_err() {
            return;
        }
        if (returned || (state == HostState::Up && before != state))
            && events.send(HostEvent::Returned { host, claims: None }).await.is_err()
        {
            return;
        }
        // Jitter keeps the hosts of many edges from being asked at the same moments.
        tokio::time::sleep(every.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
    }
}

/// As [`watch`], of a host that reports by itself.
async fn watch_registered(
    hosts: Arc<Hosts>,
    handle: Arc<HostHandle>,
    slot: Arc<Slot>,
    pace: impl Fn() -> Pace + Send + 'static,
    events: mpsc::Sender<HostEvent>,
) {
    let begun = Instant::now();
    let mut health = Health::new();
    let mut open = slot.subscribe();
    let mut announced = 0;
    let (mut pauses, mut paused) = (Pauses::default(), false);
    while hosts.is_current(&handle) && !events.is_closed() {
        let pace = pace();
        let new = open.borrow_and_update().clone().filter(|open| open.number != announced);
        let heard = slot.heard();
        let before = health.state();
        let state = if heard.is_some_and(|heard| heard.elapsed() <= pace.suspect_after) {
            health.answered()
        } else if paused {
            before
        } else {
            let data_port = data_port_answers(&handle.record.addr).await;
            health.silent(data_port, heard.unwrap_or(begun).elapsed() >= pace.down_after)
        };
        if !hosts.is_current(&handle) {
            return;
        }
        handle.set_live(|live| {
            (live.state, live.seen) = (state, heard);
            if let Some(open) = &new {
                live.info = Some(HostInfo::of(&open.registration));
            }
        });
        let host = || handle.record.name.clone();
        if state != before && events.send(HostEvent::State { host: host(), state }).await.is_err() {
            return;
        }
        let claims = new.map(|open: Arc<Open>| {
            announced = open.number;
            open.registration.apps.clone()
        });
        if (claims.is_some() || (state == HostState::Up && before != state))
            && events.send(HostEvent::Returned { host: host(), claims }).await.is_err()
        {
            return;
        }
        let asleep = Instant::now();
        tokio::select! {
            () = tokio::time::sleep(pace.every) => {}
            // The slot is ours.
            _ = open.changed() => {}
        }
        paused = pauses.slept(asleep.elapsed(), pace.every);
    }
}

/// Asks once. The flag: its agent was started anew since the last answer.
async fn look(handle: &HostHandle) -> (Look, bool) {
    match handle.client.host(HEALTH_ANSWER).await {
        Ok(info) => {
            let mut restarted = false;
            handle.set_live(|live| {
                restarted = live.info.as_ref().is_some_and(|known| known.started_at != info.started_at);
                live.seen = Some(Instant::now());
                live.info = Some(info);
            });
            (Look::Answered, restarted)
        }
        Err(error) => {
            tracing::debug!(host = handle.record.name, %error, "a health check failed");
            (Look::Silent { data_port: data_port_answers(&handle.record.addr).await }, false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOWN_AFTER: Duration = Duration::from_secs(10);
    const DEAD: Look = Look::Silent { data_port: false };
    const MUTE: Look = Look::Silent { data_port: true };

    /// Feeds a look a second and gives the state after each.
    fn states(health: &mut Health, begin: Instant, looks: &[Look]) -> Vec<HostState> {
        let at = |second: usize| begin + Duration::from_secs(second as u64);
        looks.iter().enumerate().map(|(second, look)| health.observe(*look, at(second), DOWN_AFTER)).collect()
    }

    #[test]
    fn a_host_is_suspected_after_three_failures_and_down_after_ten_seconds() {
        let mut health = Health::new();
        let begin = Instant::now();
        let mut looks = vec![Look::Answered];
        looks.extend([DEAD; 11]);
        let seen = states(&mut health, begin, &looks);
        use HostState::{Down, Suspected, Up};
        assert_eq!(seen[..4], [Up, Up, Up, Suspected]);
        assert_eq!(seen[10..], [Suspected, Down]);
    }

    #[test]
    fn a_host_whose_data_port_answers_is_never_down() {
        let mut health = Health::new();
        let seen = states(&mut health, Instant::now(), &[MUTE; 100]);
        assert!(seen.iter().all(|state| *state == HostState::Suspected));
    }

    #[test]
    fn after_a_pause_of_this_process_hosts_have_one_look_more_to_be_heard_and_not_for_ever() {
        let (mut pauses, every) = (Pauses::default(), Duration::from_secs(1));
        let mut slept = |ms| pauses.slept(Duration::from_millis(ms), every);
        assert!(!slept(1_000) && !slept(1_900) && !slept(3), "as long as asked, or woken sooner");
        assert!(slept(60_000), "stopped for a minute");
        assert!(!slept(60_000), "who is always late does judge");
        assert!(slept(60_000) && !slept(1_000));
    }

    #[test]
    fn a_host_that_is_down_comes_back_by_either_port() {
        let begin = Instant::now();
        let mut health = Health::new();
        states(&mut health, begin, &[DEAD; 12]);
        assert_eq!(health.state(), HostState::Down);
        let later = begin + Duration::from_secs(60);
        assert_eq!(health.observe(MUTE, later, DOWN_AFTER), HostState::Suspected);
        assert_eq!(health.observe(Look::Answered, later, DOWN_AFTER), HostState::Up);
        assert_eq!(health.observe(DEAD, later, DOWN_AFTER), HostState::Up, "one failure is none");
    }

    #[tokio::test]
    async fn what_is_found_of_a_host_at_an_address_that_it_has_left_meanwhile_is_not_told() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = crate::cluster::Cluster::open(dir.path(), "edge", std::time::SystemTime::now()).unwrap();
        let store = Arc::new(crate::store::sqlite::SqliteStore::open(&dir.path().join("store.db")).unwrap());
        let (stream, faults) = (dir.path().join("stream"), Default::default());
        let streams = crate::agents::orders::Streams { dir: stream, edge: "edge".into(), store, faults };
        let hosts = Arc::new(Hosts::new(cluster.private_client(), streams));
        let agent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let token_file = dir.path().join("token");
        std::fs::write(&token_file, "agent-token-of-the-test\n").unwrap();
        let old = crate::store::HostRecord {
            name: "h1".into(),
            // Nobody is there: it is down once its agent is silent.
            addr: format!("unix:{}", dir.path().join("none").display()),
            control: agent.local_addr().unwrap().to_string(),
            token_file: token_file.display().to_string(),
        };
        let handle = hosts.put(old.clone()).unwrap().unwrap();
        let pace = || Pace { every: Duration::ZERO, suspect_after: Duration::ZERO, down_after: Duration::ZERO };
        let (told, mut events) = mpsc::channel(16);
        let watching = tokio::spawn(watch(Arc::clone(&hosts), handle, pace, told));
        let (asked, _) = agent.accept().await.unwrap();
        // A look before this one may have taken too long to read the token.
        while events.try_recv().is_ok() {}
        hosts.put(crate::store::HostRecord { addr: "127.0.0.1:9".into(), ..old }).unwrap().unwrap();
        drop((asked, agent));
        assert_eq!(events.recv().await, None);
        watching.await.unwrap();
        assert_eq!(hosts.state("h1"), HostState::Suspected);
    }
}
