//! The exchanges under way, for operators: what there is, and an end to one of them.
//!
//! Nothing is kept for this. A question goes to every worker as a [`Command::Inspect`]; each walks over what it has, which
//! costs it well under a microsecond an exchange and only what was asked for is copied. An answer waits for the slowest.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use steady_http::Name;

use crate::plane::{Command, Listed, Plane};
use crate::policy::Policy;
use crate::trace::Tracer;

/// Rows of a list that does not say how many.
const ROWS: usize = 100;
/// Rows of one list. More would be no list for people, and the row costs its worker a copy.
pub const ROWS_MAX: usize = 10_000;
/// How long a worker may take to answer. One batch is far shorter; past it the worker is stuck.
const ANSWER: Duration = Duration::from_secs(2);
/// Of a path, as much as tells it from others.
const PATH_OCTETS_MAX: usize = 512;

/// Which exchanges. What is not set does not choose.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// The request's id.
    pub id: Option<String>,
    /// What it is for, see [`Policy::subject`].
    pub subject: Option<String>,
    /// Where it goes to, as [`Addr`](steady_ring::Addr) shows itself.
    pub upstream: Option<String>,
    pub older_than: Duration,
    /// At most so many, the oldest.
    pub limit: usize,
}

/// A filter as the private API spells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    pub app: Option<String>,
    pub host: Option<String>,
    pub id: Option<String>,
    /// A duration, `10s`.
    pub older: Option<String>,
    pub limit: Option<usize>,
}

impl Query {
    /// The filter that it means; `upstream` is the address of its host, which only the policy's control side knows.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn filter(self, upstream: Option<String>) -> Result<Filter, String> {
        let older = self.older.as_deref().map(steady_sys::text::parse_duration).transpose();
        let limit = self.limit.unwrap_or(ROWS);
        if limit > ROWS_MAX {
            return Err(format!("limit is {limit}, and at most {ROWS_MAX}"));
        }
        Ok(Filter {
            id: self.id,
            subject: self.app,
            upstream,
            older_than: older.map_err(|error| format!("older: {error}"))?.unwrap_or_default(),
            limit,
        })
    }
}

/// One exchange.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    pub id: String,
    #[serde(rename = "app")]
    pub subject: String,
    pub client: Option<SocketAddr>,
    pub upstream: Option<String>,
    pub method: String,
    pub authority: String,
    pub path: String,
    /// 11 or 20.
    pub version: u8,
    /// `routing`, `parked`, `connecting`, `waiting` (for the response), `answering`, `replying` (from here).
    pub state: &'static str,
    /// The status that was sent; 0 when none was.
    pub status: u16,
    pub attempts: u8,
    pub age_ms: u64,
    pub request_bytes: u64,
    pub response_bytes: u64,
}

/// What was found, the oldest first.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    pub rows: Vec<Row>,
    /// How many the filter chose, `rows` or not.
    pub found: usize,
    /// Whether every worker has answered.
    pub complete: bool,
}

/// Some worker has too many commands waiting: ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a worker has too many commands waiting; ask again in a moment")]
pub struct Busy;

/// Everything that operators have of one process's workers.
#[derive(Clone)]
pub struct Oversight {
    pub registry: Arc<dyn Registry>,
    pub tracer: Arc<Tracer>,
}

impl std::fmt::Debug for Oversight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Oversight")
    }
}

/// What an operator can ask, whatever the policy is. The calls block for a batch of the slowest worker.
pub trait Registry: Send + Sync {
    /// # Errors
    /// When a worker could not be asked.
    fn list(&self, filter: Filter) -> Result<Listing, Busy>;

    /// Ends every exchange with this request id, parked ones too: answered 503 where no answer has begun, cut otherwise.
    /// How many there were.
    ///
    /// # Errors
    /// When a worker could not be asked; others may have cut theirs.
    fn cut(&self, id: &str) -> Result<usize, Busy>;
}

impl<P: Policy> Registry for Plane<P> {
    fn list(&self, filter: Filter) -> Result<Listing, Busy> {
        let oldest = Arc::new(Mutex::new(Oldest::new(filter.limit.min(ROWS_MAX))));
        let into = Arc::clone(&oldest);
        let complete = self.inspect(move |listed| {
            if filter.chooses::<P>(listed) {
                into.lock().unwrap_or_else(PoisonError::into_inner).offer(listed.age, || row::<P>(listed));
            }
            false
        })?;
        let mut oldest = oldest.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = std::mem::replace(&mut *oldest, Oldest::new(0));
        Ok(Listing { found: oldest.found, rows: oldest.into_rows(), complete })
    }

    fn cut(&self, id: &str) -> Result<usize, Busy> {
        let filter = Filter { id: Some(id.to_owned()), ..Filter::default() };
        let count = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&count);
        self.inspect(move |listed| {
            let chosen = filter.chooses::<P>(listed);
            if chosen {
                *counted.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            }
            chosen
        })?;
        let count = *count.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(count)
    }
}

impl<P: Policy> Plane<P> {
    /// Has every worker look at its exchanges, and waits for them. `false`: not all have in time.
    fn inspect(&self, look: impl Fn(&Listed<'_, P::Ticket>) -> bool + Send + Sync + 'static) -> Result<bool, Busy> {
        let (held, released) = mpsc::channel::<()>();
        // Each worker lets its copy go when it has looked; the last one ends the channel.
        let command = Command::Inspect(Arc::new(move |listed: &Listed<'_, P::Ticket>| {
            let _held = &held;
            look(listed)
        }));
        let asked = self.command(&command);
        drop(command);
        let complete = released.recv_timeout(ANSWER) == Err(mpsc::RecvTimeoutError::Disconnected);
        if asked { Ok(complete) } else { Err(Busy) }
    }
}

impl Filter {
    fn chooses<P: Policy>(&self, listed: &Listed<'_, P::Ticket>) -> bool {
        let is = |wanted: &Option<String>, value: &[u8]| wanted.as_ref().is_none_or(|it| it.as_bytes() == value);
        !listed.is_question
            && listed.age >= self.older_than
            && is(&self.id, listed.request.get(Name::XRequestId).unwrap_or_default())
            && is(&self.subject, P::subject(listed.request, listed.ticket))
            && self.upstream.as_ref().is_none_or(|it| listed.upstream.is_some_and(|addr| addr.to_string() == *it))
    }
}

fn row<P: Policy>(listed: &Listed<'_, P::Ticket>) -> Row {
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).into_owned();
    let request = listed.request;
    let path = request.path();
    Row {
        id: text(request.get(Name::XRequestId).unwrap_or_default()),
        subject: text(P::subject(request, listed.ticket)),
        client: listed.peer,
        upstream: listed.upstream.map(ToString::to_string),
        method: text(request.method_bytes()),
        authority: text(request.authority()),
        path: text(&path[..path.len().min(PATH_OCTETS_MAX)]),
        version: listed.version,
        state: listed.phase,
        status: listed.status,
        attempts: listed.attempts,
        age_ms: u64::try_from(listed.age.as_millis()).unwrap_or(u64::MAX),
        request_bytes: listed.request_bytes,
        response_bytes: listed.response_bytes,
    }
}

/// The oldest of all that it is offered.
struct Oldest {
    limit: usize,
    found: usize,
    /// The youngest of them on top.
    rows: BinaryHeap<Reverse<Aged>>,
}

struct Aged {
    age: Duration,
    row: Row,
}

impl PartialEq for Aged {
    fn eq(&self, other: &Aged) -> bool {
        self.age == other.age
    }
}

impl Eq for Aged {}

impl PartialOrd for Aged {
    fn partial_cmp(&self, other: &Aged) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Aged {
    fn cmp(&self, other: &Aged) -> Ordering {
        self.age.cmp(&other.age)
    }
}

impl Oldest {
    fn new(limit: usize) -> Oldest {
        Oldest { limit, found: 0, rows: BinaryHeap::new() }
    }

    fn offer(&mut self, age: Duration, row: impl FnOnce() -> Row) {
        self.found += 1;
        if self.rows.len() == self.limit {
            match self.rows.peek() {
                Some(Reverse(youngest)) if youngest.age < age => drop(self.rows.pop()),
                _ => return,
            }
        }
        self.rows.push(Reverse(Aged { age, row: row() }));
    }

    fn into_rows(self) -> Vec<Row> {
        self.rows.into_sorted_vec().into_iter().map(|Reverse(aged)| aged.row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: u64) -> Row {
        Row {
            id: id.to_string(),
            subject: String::new(),
            client: None,
            upstream: None,
            method: String::new(),
            authority: String::new(),
            path: String::new(),
            version: 11,
            state: "waiting",
            status: 0,
            attempts: 1,
            age_ms: 0,
            request_bytes: 0,
            response_bytes: 0,
        }
    }

    #[test]
    fn the_oldest_are_kept_oldest_first_and_all_are_counted() {
        let mut oldest = Oldest::new(3);
        for age in [5, 1, 9, 7, 2, 8] {
            oldest.offer(Duration::from_secs(age), || row(age));
        }
        assert_eq!(oldest.found, 6);
        let ids: Vec<String> = oldest.into_rows().into_iter().map(|row| row.id).collect();
        assert_eq!(ids, ["9", "8", "7"]);
        let mut none = Oldest::new(0);
        none.offer(Duration::ZERO, || unreachable!("nothing is copied that is not kept"));
        assert_eq!((none.found, none.into_rows().len()), (1, 0));
    }
}
