//! What a worker measures of each application: the time that a request took, and what of it no agent knows of.

use std::collections::HashMap;
use std::sync::Arc;

use steady_http::Name;
use steady_proxy::Record;
use steady_ring::Time;
use steady_timing::Pen;

use super::policy::Ticket;
use crate::reports::EdgeMeters;

/// One worker's meters, by application; each is opened with its first request.
#[derive(Debug)]
pub(super) struct Measured {
    meters: Arc<EdgeMeters>,
    by_app: HashMap<Arc<str>, Pen<Arc<str>, 2>>,
    /// Retirements that were heeded.
    retirements: u64,
}

impl Measured {
    pub(super) fn new(meters: Arc<EdgeMeters>) -> Measured {
        Measured { meters, by_app: HashMap::new(), retirements: 0 }
    }

    /// Counts a request that is over, if it was for an application.
    pub(super) fn record(&mut self, record: &Record<'_, Ticket>) {
        let app = record.request.get(Name::SteadyApp).and_then(|name| std::str::from_utf8(name).ok());
        let Some(app) = app else { return };
        let micros = |from: Time, to: Time| u64::try_from(to.since(from).as_micros()).unwrap_or(u64::MAX);
        let timing = &record.timing;
        let total = (record.status != 0).then(|| micros(timing.started, timing.answered));
        // Only an agent's answer says what part of the time was spent there.
        let at_agent = record.ticket.timing.total();
        let network = total.filter(|_| record.refusal.is_none()).map(|total| total.saturating_sub(at_agent));
        if let Some(meter) = self.by_app.get(app).filter(|meter| !meter.is_retired()) {
            meter.record(record.status, [total, network]);
            return;
        }
        let app: Arc<str> = Arc::from(app);
        if let Some(meter) = self.meters.open(Arc::clone(&app)) {
            meter.record(record.status, [total, network]);
            self.by_app.insert(app, meter);
        }
    }

    /// Lets go of what control has retired.
    pub(super) fn let_go(&mut self) {
        let retirements = self.meters.retirements();
        if retirements != self.retirements {
            self.retirements = retirements;
            self.by_app.retain(|_, meter| !meter.is_retired());
        }
    }
}
