//! What the bodies of all requests hold together.
//!
//! A body holds about a window at most. But a client may ask for many and take none of them, or all of them by drips, and an
//! application may leave as many uploads unread. So there is a bound for the whole worker. Answers that their clients have left
//! standing for a while may hold half of it; at the whole of it any request is cut. Those go first that hold most for longest, which
//! are not whom somebody reads, however slow his line.

use std::cmp::Reverse;
use std::time::Duration;

use steady_ring::{Driver, Time};

use crate::conn::Stage;
use crate::exchange::{Exchange, Key, Phase};
use crate::policy::Policy;
use crate::refusal::Refusal;
use crate::worker::Worker;

/// Octets that have hardly moved for so long stand: longer than a crowd of good clients takes to get its turns.
const STANDS: Duration = Duration::from_secs(1);
/// Of what has come just now it counts how much it is.
const AGE_MIN: Duration = Duration::from_millis(1);
/// Between two looks at everything, while there is room.
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl<T> Exchange<T> {
    /// What its client has left standing.
    fn untaken(&self, now: Time) -> usize {
        let stands = self.awaits_client() && self.download.since + STANDS <= now;
        if stands { self.download.held.len() } else { 0 }
    }

    /// What it holds of bodies. An answer from here is little: the least bound holds one of every request.
    fn holds(&self) -> usize {
        if self.phase == Phase::Replying { 0 } else { self.upload.held.len() + self.download.held.len() }
    }

    /// How long what it holds has hardly moved.
    fn age(&self, now: Time) -> Duration {
        let pipes = [&self.upload, &self.download].into_iter().filter(|pipe| !pipe.held.is_empty());
        AGE_MIN + pipes.map(|pipe| now.since(pipe.since)).max().unwrap_or_default()
    }
}

impl<D: Driver, P: Policy> Worker<D, P> {
    /// Once a batch: ends requests where all of them hold too much.
    #[inline]
    pub(crate) fn relieve(&mut self) {
        let held = self.held.octets();
        self.stats.bodies_bytes.set(held as u64);
        self.stats.heads_bytes.set(self.exchanges.head_bytes() as u64);
        if held > self.limits.bodies_bytes_max / 2 {
            self.cut_standing();
        }
    }

    /// Makes room, and some more, so that not every batch has to look at everything.
    #[cold]
    fn cut_standing(&mut self) {
        let (held, max) = (self.held.octets(), self.limits.bodies_bytes_max);
        let is_full = held > max;
        if !is_full && self.now < self.relieve_again {
            return;
        }
        // A worker that was stopped for so long has not read yet who took what meanwhile.
        if !is_full && self.since_last >= STANDS {
            self.relieve_again = self.now + STANDS;
            return;
        }
        self.relieve_again = self.now + LOOK_EVERY;
        // Who holds less is left alone: as many of them as there may be do not fill half of it.
        let little = max / 2 / self.limits.exchanges_max.max(1);
        let mut burdens: Vec<(u128, usize, Key)> = Vec::new();
        for exchange in self.exchanges.iter() {
            let octets = if is_full { exchange.holds() } else { exchange.untaken(self.now) };
            if octets > little {
                burdens.push((octets as u128 * exchange.age(self.now).as_nanos(), octets, exchange.key));
            }
        }
        let all: usize = burdens.iter().map(|&(_, octets, _)| octets).sum();
        let enough = if is_full { max / 4 * 3 } else { max / 2 };
        let mut excess = if is_full { held.saturating_sub(enough) } else { all.saturating_sub(enough) };
        burdens.sort_unstable_by_key(|&(burden, ..)| Reverse(burden));
        let mut cut = 0;
        for (_, octets, key) in burdens {
            if excess == 0 {
                break;
            }
            self.cut_one(key);
            excess = excess.saturating_sub(octets);
            cut += 1;
        }
        self.run_todo();
        self.stats.bodies_cut.add(cut);
        self.stats.bodies_bytes.set(self.held.octets() as u64);
        if cut > 0 && self.may_warn() {
            tracing::warn!(
                held,
                cut,
                "nobody takes so many octets of bodies (see bodies_bytes_max): cut those that hold most for longest"
            );
        }
    }

    fn cut_one(&mut self, key: Key) {
        let Some(exchange) = self.exchanges.at(key) else { return };
        let down = exchange.down.filter(|_| exchange.phase == Phase::Answering).map(|leg| leg.conn);
        self.cut(key, Refusal::Overloaded);
        // What is on its way out on a connection of its own is not taken either.
        if let Some(id) = down
            && self.conn(id).is_some_and(|conn| conn.is_serial() && conn.stage == Stage::Finishing)
        {
            self.close_by_reset(id);
        }
    }
}
