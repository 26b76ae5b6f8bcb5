//! What a worker measures of each application: the time that a request took, and what of it no agent knows of.
//!
//! Of many applications hardly any is in a cache when its request ends. So what a batch measured is written down in one
//! place, and goes to the meters when the batch ends: then the processor waits for many of them at once, not for one after
//! the other.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use steady_http::Name;
use steady_proxy::Record;
use steady_ring::Time;
use steady_timing::Pen;

use super::policy::Ticket;
use crate::reports::EdgeMeters;

/// Requests that are written down before their batch's end. A batch rarely ends more.
const NOTED_MAX: usize = 256;
/// The longest name of an application, a label of DNS.
const NAME_MAX: usize = 63;

/// One worker's meters, by application; each is opened with its first request.
#[derive(Debug)]
pub(super) struct Measured {
    meters: Arc<EdgeMeters>,
    open: Vec<Pen<Arc<str>, 2>>,
    /// Where in `open`, by [`app_id`](steady_table::Route::app_id).
    by_app: HashMap<u64, usize, BuildHasherDefault<Digested>>,
    /// What is not in the meters yet, and the names of its applications.
    noted: Vec<Note>,
    names: Vec<u8>,
    /// Retirements that were heeded.
    retirements: u64,
}

/// A request that is over.
#[derive(Debug)]
struct Note {
    app: u64,
    /// Where its name ends in [`Measured::names`]; it begins where the one before ends.
    name_end: usize,
    /// In [`Measured::open`], once it is looked up.
    meter: Option<usize>,
    status: u16,
    times: [Option<u64>; 2],
}

/// The hash of what is a digest already.
#[derive(Debug, Default)]
struct Digested(u64);

impl Hasher for Digested {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| hash.rotate_left(8) ^ u64::from(*byte));
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = id;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Measured {
    pub(super) fn new(meters: Arc<EdgeMeters>) -> Measured {
        Measured {
            meters,
            open: Vec::new(),
            by_app: HashMap::default(),
            noted: Vec::with_capacity(NOTED_MAX),
            names: Vec::with_capacity(NOTED_MAX * NAME_MAX),
            retirements: 0,
        }
    }

    /// Counts a request that is over, if it was for an application.
    pub(super) fn record(&mut self, record: &Record<'_, Ticket>) {
        let Some((app, name)) = record.ticket.app.zip(record.request.get(Name::SteadyApp)) else { return };
        let micros = |from: Time, to: Time| u64::try_from(to.since(from).as_micros()).unwrap_or(u64::MAX);
        let timing = &record.timing;
        let total = (record.status != 0).then(|| micros(timing.started, timing.answered));
        // Only an agent's answer says what part of the time was spent there.
        let at_agent = record.ticket.timing.total();
        let network = total.filter(|_| !record.is_from_here()).map(|total| total.saturating_sub(at_agent));
        self.note(app, name, record.status, [total, network]);
    }

    fn note(&mut self, app: u64, name: &[u8], status: u16, times: [Option<u64>; 2]) {
        self.names.extend_from_slice(name);
        self.noted.push(Note { app, name_end: self.names.len(), meter: None, status, times });
        if self.noted.len() == NOTED_MAX {
            self.write();
        }
    }

    /// Writes into the meters what was noted: looks all of them up before it writes to the first.
    fn write(&mut self) {
        let mut name_at = 0;
        for note in &mut self.noted {
            note.meter = self.by_app.get(&note.app).copied();
            if note.meter.is_none()
                && let Ok(name) = std::str::from_utf8(&self.names[name_at..note.name_end])
                && let Some(meter) = self.meters.open(|| Arc::from(name))
            {
                note.meter = Some(self.open.len());
                self.by_app.insert(note.app, self.open.len());
                self.open.push(meter);
            }
            name_at = note.name_end;
        }
        for note in self.noted.drain(..) {
            let Some(meter) = note.meter.and_then(|at| self.open.get_mut(at)) else { continue };
            if meter.is_retired()
                && let Some(next) = self.meters.open(|| Arc::clone(meter.key()))
            {
                *meter = next;
            }
            meter.record(note.status, note.times);
        }
        self.names.clear();
    }

    /// The batch is over. Lets go of what control has retired, too.
    pub(super) fn batch_ended(&mut self) {
        self.write();
        let retirements = self.meters.retirements();
        if retirements != self.retirements {
            self.retirements = retirements;
            self.let_go();
        }
    }

    fn let_go(&mut self) {
        let mut kept = 0;
        // Asked once: control may be retiring more meanwhile.
        let place = |meter: &Pen<_, 2>| {
            let place = (!meter.is_retired()).then_some(kept);
            kept += usize::from(place.is_some());
            place
        };
        let places: Vec<Option<usize>> = self.open.iter().map(place).collect();
        let mut stays = places.iter().map(Option::is_some);
        self.open.retain(|_| stays.next().unwrap_or(true));
        self.by_app.retain(|_, at| places[*at].map(|place| *at = place).is_some());
    }
}

#[cfg(test)]
mod tests {
    use steady_timing::Collector;

    use super::*;

    #[test]
    fn what_is_noted_reaches_its_own_meter_also_after_others_were_retired_in_between() {
        let meters = Arc::new(EdgeMeters::new(16));
        let mut collector = Collector::new(Arc::clone(&meters), 0, 10);
        let mut measured = Measured::new(meters);
        let requests = |names: &[&'static str], measured: &mut Measured| {
            for &name in names {
                let app = u64::from_le_bytes(*name.as_bytes().first_chunk().expect("eight octets"));
                measured.note(app, name.as_bytes(), 200, [Some(7), None]);
            }
            measured.batch_ended();
        };
        let done = |collector: &Collector<Arc<str>, 2>, name: &str| {
            collector.subject(&Arc::from(name)).map_or(0, |subject| subject.sum.responses[2])
        };
        requests(&["app-one.", "app-two.", "app-six.", "app-two."], &mut measured);
        collector.look(0);
        // Only the second and the last go on; the others are retired.
        requests(&["app-two.", "app-six."], &mut measured);
        collector.look(10);
        requests(&["app-six.", "app-two."], &mut measured);
        assert_eq!((measured.open.len(), measured.by_app.len()), (2, 2), "the first is let go of");
        collector.look(12);
        requests(&["app-one.", "app-two."], &mut measured);
        collector.look(15);
        collector.look(16);
        assert_eq!([done(&collector, "app-two."), done(&collector, "app-six.")], [5, 3]);
        assert_eq!(done(&collector, "app-one."), 1, "its numbers began again");
    }
}
