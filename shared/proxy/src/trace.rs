//! Following single requests closely: switched on while running, for a while and for so many, and off by itself.
//!
//! Control holds the [`Tracer`] and starts traces; every policy has it too and asks it about each request that it routes. While
//! there is no trace, that is one load of a flag that nobody writes. A request that a trace chooses gets a [`Story`], to
//! which its policy adds what happens; when the request is over, the story is handed to the trace's sink as one line of JSON.
//!
//! Everything is bounded: traces at once, requests of a trace, octets of a line, lines that wait for a slow reader; what does
//! not fit is counted.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwap;
use serde::Deserialize;
use steady_http::{Head, Name};
use steady_ring::Time;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::log::json;
use crate::policy::{AttemptEnd, Decision, Record, Reply};

/// Traces at once, of one daemon: each one is compared with every request while it runs.
pub const TRACES_MAX: usize = 8;
/// Requests of one trace. Their lines are for people; each one under way costs at most a line's octets.
pub const REQUESTS_MAX: u32 = 1000;
/// How long a trace can be asked for: a forgotten one must not go on for ever.
pub const TIME_MAX: Duration = Duration::from_secs(3600);
/// A story that grows past this drops what happens from there on, and says so.
const STORY_OCTETS_MAX: usize = 16 * 1024;

/// Lines that wait for a slow reader.
const LINES_MAX: usize = 256;
/// What a trace that does not say gets.
const REQUESTS: u32 = 100;
const TIME: Duration = Duration::from_secs(60);

/// Takes a line (without its end); `false`: it has no room.
type Sink = Box<dyn Fn(Vec<u8>) -> bool + Send + Sync>;

/// A trace as the private API asks for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ask {
    pub app: Option<String>,
    pub id: Option<String>,
    pub client: Option<IpAddr>,
    /// A duration, `60s`.
    #[serde(rename = "for")]
    pub time: Option<String>,
    pub requests: Option<u32>,
}

impl Ask {
    /// The order that it means, and for how long.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn order(self) -> Result<(Order, Duration), String> {
        let time = self.time.as_deref().map(steady_sys::text::parse_duration).transpose();
        let time = time.map_err(|error| format!("for: {error}"))?.unwrap_or(TIME);
        let requests = self.requests.unwrap_or(REQUESTS);
        if requests == 0 || requests > REQUESTS_MAX {
            return Err(format!("requests is {requests}, and must be 1 to {REQUESTS_MAX}"));
        }
        if time.is_zero() || time > TIME_MAX {
            return Err(format!("for is {time:?}, and must be more than 0 and at most {} s", TIME_MAX.as_secs()));
        }
        Ok((Order { subject: self.app, id: self.id, client: self.client, requests }, time))
    }
}

/// A trace and its lines. Dropping it ends the trace.
#[derive(Debug)]
pub struct Follower {
    running: Running,
    lines: mpsc::Receiver<Vec<u8>>,
    until: Instant,
    requests: u32,
    told: u32,
    over: bool,
}

impl Follower {
    /// Starts a trace. `None`: there are [`TRACES_MAX`] already. Call it within a runtime.
    pub fn start(tracer: &Arc<Tracer>, order: Order, time: Duration) -> Option<Follower> {
        let requests = order.requests;
        let (sender, lines) = mpsc::channel(LINES_MAX);
        let running = tracer.start(order, Box::new(move |line| sender.try_send(line).is_ok()))?;
        Some(Follower { running, lines, until: Instant::now() + time, requests, told: 0, over: false })
    }

    /// The next line with its end: a request that is over; at last one that says that this is all.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        if self.over {
            return None;
        }
        let dropped = self.running.dropped();
        if u64::from(self.told) + dropped < u64::from(self.requests)
            && let Ok(Some(mut line)) = timeout_at(self.until, self.lines.recv()).await
        {
            self.told += 1;
            line.push(b'\n');
            return Some(line);
        }
        self.over = true;
        let dropped = self.running.dropped();
        Some(format!("{{\"done\":true,\"requests\":{},\"dropped\":{dropped}}}\n", self.told).into_bytes())
    }
}

/// Which requests are followed: those for which all hold that are set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// What they are for, see [`Policy::subject`](crate::Policy::subject).
    pub subject: Option<String>,
    /// The request's id.
    pub id: Option<String>,
    /// The client's address.
    pub client: Option<IpAddr>,
    /// So many, then no more.
    pub requests: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Tracer {
    on: AtomicBool,
    traces: ArcSwap<Vec<Arc<Trace>>>,
}

struct Trace {
    order: Order,
    left: AtomicU32,
    dropped: AtomicU64,
    sink: Sink,
}

impl std::fmt::Debug for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Trace({:?})", self.order)
    }
}

/// A trace that goes on until this is dropped. Requests that it has begun to follow are followed to their end.
#[derive(Debug)]
struct Running {
    tracer: Arc<Tracer>,
    trace: Arc<Trace>,
}

impl Running {
    /// Lines that the sink had no room for.
    fn dropped(&self) -> u64 {
        self.trace.dropped.load(Relaxed)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tracer.change(|traces| traces.retain(|trace| !Arc::ptr_eq(trace, &self.trace)));
    }
}

impl Tracer {
    /// Starts a trace. `None`: there are [`TRACES_MAX`] already.
    fn start(self: &Arc<Self>, order: Order, sink: Sink) -> Option<Running> {
        let left = AtomicU32::new(order.requests.min(REQUESTS_MAX));
        let trace = Arc::new(Trace { order, left, dropped: AtomicU64::new(0), sink });
        let mut added = false;
        self.change(|traces| {
            added = traces.len() < TRACES_MAX;
            if added {
                traces.push(Arc::clone(&trace));
            }
        });
        added.then(|| Running { tracer: Arc::clone(self), trace })
    }

    fn change(&self, mut change: impl FnMut(&mut Vec<Arc<Trace>>)) {
        self.traces.rcu(|traces| {
            let mut next = Vec::clone(traces);
            change(&mut next);
            next
        });
        // A request that is routed between the two is not followed, or is compared with nothing.
        self.on.store(!self.traces.load().is_empty(), Relaxed);
    }

    /// The beginning of a story, if a trace wants this request.
    #[inline]
    pub fn begin(&self, subject: &[u8], head: &Head, peer: Option<SocketAddr>, now: Time) -> Option<Box<Story>> {
        if !self.on.load(Relaxed) {
            return None;
        }
        self.begin_traced(subject, head, peer, now)
    }

    #[cold]
    fn begin_traced(&self, subject: &[u8], head: &Head, peer: Option<SocketAddr>, now: Time) -> Option<Box<Story>> {
        let traces = self.traces.load();
        let trace = traces.iter().find(|trace| trace.takes(subject, head, peer))?;
        Some(Box::new(Story::new(Arc::clone(trace), subject, head, peer, now)))
    }
}

impl Trace {
    fn takes(&self, subject: &[u8], head: &Head, peer: Option<SocketAddr>) -> bool {
        let is = |wanted: &Option<String>, value: &[u8]| wanted.as_ref().is_none_or(|it| it.as_bytes() == value);
        is(&self.order.subject, subject)
            && is(&self.order.id, head.get(Name::XRequestId).unwrap_or_default())
            && self.order.client.is_none_or(|ip| peer.is_some_and(|peer| peer.ip().to_canonical() == ip))
            && self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

/// What has happened to one request so far.
#[derive(Debug)]
pub struct Story {
    trace: Arc<Trace>,
    begun: Time,
    /// When the last event happened.
    last: Time,
    out: Vec<u8>,
    events: usize,
    cut_short: bool,
}

impl Story {
    fn new(trace: Arc<Trace>, subject: &[u8], head: &Head, peer: Option<SocketAddr>, now: Time) -> Story {
        let mut out = Vec::with_capacity(1024);
        out.extend_from_slice(b"{\"id\":");
        json::string(&mut out, head.get(Name::XRequestId).unwrap_or_default());
        for (name, text) in [
            (&b",\"app\":"[..], subject),
            (b",\"method\":", head.method_bytes()),
            (b",\"authority\":", head.authority()),
            (b",\"path\":", &head.path()[..head.path().len().min(1024)]),
        ] {
            out.extend_from_slice(name);
            json::string(&mut out, text);
        }
        if let Some(peer) = peer {
            // Writing to memory does not fail.
            let _ = write!(out, ",\"client\":\"{peer}\"");
        }
        field_names(&mut out, head);
        out.extend_from_slice(b",\"events\":[");
        Story { trace, begun: now, last: now, out, events: 0, cut_short: false }
    }

    /// Adds something that happened: its own members are appended by `more`, each with a comma before it.
    fn event(&mut self, what: &str, now: Time, more: impl FnOnce(&mut Vec<u8>)) {
        if self.out.len() > STORY_OCTETS_MAX {
            self.cut_short = true;
            return;
        }
        self.last = now;
        let comma = if self.events > 0 { "," } else { "" };
        self.events += 1;
        let at = now.since(self.begun).as_micros();
        let _ = write!(self.out, "{comma}{{\"at_us\":{at},\"what\":\"{what}\"");
        more(&mut self.out);
        self.out.push(b'}');
    }

    /// It was routed: `place` is the policy's name of where to.
    pub fn routed(&mut self, decision: &Decision, place: &str, now: Time) {
        let wait = |until: Time| until.since(now).as_millis();
        match decision {
            Decision::Forward(target) => self.event("attempt", now, |out| {
                let _ = write!(out, ",\"upstream\":\"{}\",\"place\":", target.addr);
                json::string(out, place.as_bytes());
            }),
            Decision::Park { until, .. } => self.event("park", now, |out| {
                let _ = write!(out, ",\"at_most_ms\":{}", wait(*until));
            }),
            Decision::Ask { until, target, .. } => self.event("probe", now, |out| {
                let _ = write!(out, ",\"upstream\":\"{}\",\"at_most_ms\":{}", target.addr, wait(*until));
            }),
            Decision::Reply(Reply::Refuse(refusal)) => self.event("refuse", now, |out| {
                let _ = write!(out, ",\"why\":\"{}\"", refusal.explain().name);
            }),
            Decision::Reply(Reply::Bare { status, field }) => self.event("refuse", now, |out| {
                let _ = write!(out, ",\"status\":{status}");
                if let Some((_, value)) = field {
                    out.extend_from_slice(b",\"why\":");
                    json::string(out, value);
                }
            }),
        }
    }

    /// It waited since the last event.
    pub fn waited(&mut self, waited: Duration) {
        self.event("resume", self.last + waited, |out| {
            let _ = write!(out, ",\"waited_us\":{}", waited.as_micros());
        });
    }

    pub fn attempt_ended(&mut self, end: AttemptEnd, now: Time) {
        self.event("attempt_ended", now, |out| {
            let _ = write!(out, ",\"end\":\"{}\"", end.name());
        });
    }

    /// The head of its response, as it is sent.
    pub fn answered(&mut self, response: &Head, now: Time) {
        self.event("answer", now, |out| {
            let _ = write!(out, ",\"status\":{}", response.status);
            field_names(out, response);
        });
    }

    /// It is over: the line goes to whoever follows. `more` is what the policy knows beside, members with a comma before each.
    pub fn end<T>(&self, record: &Record<'_, T>, more: &str) {
        let mut out = self.out.clone();
        let why = record.refusal.map_or("", |refusal| refusal.explain().name);
        let micros = |from: Time, to: Time| to.since(from).as_micros();
        let timing = &record.timing;
        // Writing to memory does not fail.
        let _ = write!(
            out,
            "],\"events_left_out\":{},\"version\":{},\"status\":{},\"outcome\":\"{}\",\"refusal\":\"{why}\",\"attempts\":{}",
            self.cut_short,
            record.version,
            record.status,
            record.outcome.name(),
            record.attempts,
        );
        let _ = write!(
            out,
            ",\"request_bytes\":{},\"response_bytes\":{},\"queue_us\":{},\"connect_us\":{},\"upstream_us\":{},\
             \"streaming_us\":{},\"own_us\":{},\"total_us\":{}{more}}}",
            record.request_bytes,
            record.response_bytes,
            micros(timing.started, timing.routed),
            micros(timing.routed, timing.attached),
            micros(timing.attached, timing.answered),
            micros(timing.answered, timing.ended),
            timing.own.as_micros(),
            micros(timing.started, timing.ended),
        );
        if !(self.trace.sink)(out) {
            self.trace.dropped.fetch_add(1, Relaxed);
        }
    }
}

/// The names of a head's fields; their values are nobody's business.
fn field_names(out: &mut Vec<u8>, head: &Head) {
    out.extend_from_slice(b",\"fields\":[");
    let before = out.len();
    for field in head.fields().filter(|field| !Name::is_reserved(field.name)) {
        if out.len() - before > STORY_OCTETS_MAX / 4 {
            break;
        }
        if out.len() > before {
            out.push(b',');
        }
        json::string(out, field.name);
    }
    out.push(b']');
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::policy::{Outcome, Timing};

    type Lines = Arc<Mutex<Vec<Vec<u8>>>>;

    fn head(id: &str) -> Head {
        let mut head = Head::new();
        head.set_authority(b"shop.localhost");
        head.set_path(b"/a\"b");
        head.push_known(Name::XRequestId, id.as_bytes());
        head.push(b"cookie", b"secret");
        head
    }

    fn sink(lines: &Lines, room: usize) -> Sink {
        let lines = Arc::clone(lines);
        Box::new(move |line| {
            let mut lines = lines.lock().unwrap();
            let fits = lines.len() < room;
            if fits {
                lines.push(line);
            }
            fits
        })
    }

    fn end(story: &Story, head: &Head) {
        let record = Record {
            request: head,
            ticket: &(),
            peer: None,
            is_tls: false,
            version: 11,
            status: 200,
            outcome: Outcome::Complete,
            refusal: None,
            request_bytes: 1,
            response_bytes: 2,
            attempts: 1,
            timing: Timing::default(),
        };
        story.end(&record, "");
    }

    #[test]
    fn a_story_is_one_line_of_json_with_names_and_no_values_of_fields() {
        let (tracer, lines) = (Arc::new(Tracer::default()), Lines::default());
        let running = tracer.start(Order { requests: 5, ..Order::default() }, sink(&lines, 9)).unwrap();
        let head = head("r1");
        let mut story = tracer.begin(b"shop", &head, None, Time::ZERO).unwrap();
        let later = Time::ZERO + Duration::from_millis(3);
        story.waited(Duration::from_millis(3));
        story.attempt_ended(AttemptEnd::ConnectFailed, later);
        story.answered(&head, later);
        end(&story, &head);
        let line = lines.lock().unwrap().remove(0);
        let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(value["events"][0]["waited_us"], 3000);
        assert_eq!(value["events"][1]["end"], "connect_failed");
        assert_eq!(value["path"], "/a\"b");
        assert_eq!(value["fields"][1], "cookie");
        assert!(!String::from_utf8(line).unwrap().contains("secret"));
        drop(running);
        assert!(tracer.begin(b"shop", &head, None, later).is_none(), "it ends with whoever follows it");
    }

    #[test]
    fn a_trace_takes_what_its_order_says_and_no_more_than_it_says() {
        let (tracer, lines) = (Arc::new(Tracer::default()), Lines::default());
        let begin = |subject: &str, id: &str, peer: &str| {
            let peer = format!("{peer}:1").parse().unwrap();
            tracer.begin(subject.as_bytes(), &head(id), Some(peer), Time::ZERO)
        };
        assert!(begin("shop", "r1", "10.0.0.1").is_none(), "there is no trace");
        let order = Order {
            subject: Some("shop".into()),
            id: Some("r1".into()),
            client: Some("10.0.0.1".parse().unwrap()),
            requests: 2,
        };
        let running = tracer.start(order, sink(&lines, 1)).unwrap();
        assert!(begin("blog", "r1", "10.0.0.1").is_none());
        assert!(begin("shop", "r2", "10.0.0.1").is_none());
        assert!(begin("shop", "r1", "10.0.0.2").is_none());
        let stories: Vec<_> = (0..3).map(|_| begin("shop", "r1", "10.0.0.1")).collect();
        assert_eq!(stories.iter().flatten().count(), 2);
        stories.into_iter().flatten().for_each(|story| end(&story, &head("r1")));
        assert_eq!((lines.lock().unwrap().len(), running.dropped()), (1, 1));
    }

    #[test]
    fn a_story_that_grows_without_end_is_cut_short_and_says_so() {
        let (tracer, lines) = (Arc::new(Tracer::default()), Lines::default());
        let _running = tracer.start(Order { requests: 1, ..Order::default() }, sink(&lines, 1)).unwrap();
        let mut many = head("r1");
        for number in 0..2000 {
            many.push(format!("x-field-{number}").as_bytes(), b"");
        }
        let mut story = tracer.begin(b"shop", &many, None, Time::ZERO).unwrap();
        for _ in 0..10_000 {
            story.attempt_ended(AttemptEnd::Refused, Time::ZERO);
            story.answered(&many, Time::ZERO);
        }
        end(&story, &many);
        let line = lines.lock().unwrap().remove(0);
        assert!(line.len() < 2 * STORY_OCTETS_MAX, "{}", line.len());
        let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(value["events_left_out"], true);
    }

    #[test]
    fn traces_at_once_are_bounded() {
        let tracer = Arc::new(Tracer::default());
        let start = || tracer.start(Order::default(), Box::new(|_| true));
        let running: Vec<_> = (0..TRACES_MAX).map(|_| start().unwrap()).collect();
        assert!(start().is_none());
        drop(running);
        assert!(start().is_some());
    }
}
