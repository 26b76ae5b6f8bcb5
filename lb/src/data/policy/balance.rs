//! Which of an application's hosts gets a request, and what the request's end says about both.

use steady_proxy::AttemptEnd;
use steady_ring::Time;
use steady_table::{Endpoint, HostIndex, Route};

use super::super::breaker::{self, Streak};
use super::{EdgePolicy, Ticket};
use crate::snapshot::HostState;

impl EdgePolicy {
    /// An endpoint: the one there is, or the less loaded of two chosen by weight.
    pub(super) fn pick(&mut self, route: &Route<'_>, ticket: &mut Ticket, now: Time) -> Option<HostIndex> {
        let mut endpoints = route.endpoints();
        if endpoints.len() == 1 {
            let host = endpoints.next()?.host;
            let entry = self.hosts.get_mut(host).filter(|entry| entry.state != HostState::Down)?;
            if entry.breaker.is_open() && !self.stats.tries(&mut entry.breaker, now) {
                return None;
            }
            return Some(host);
        }
        ticket.rated = true;
        let host = self.pick_one_of(route, ticket, now)?;
        let entry = self.hosts.get_mut(host)?;
        if entry.breaker.begin(now) | self.rated.begin(route.app_id(), host, now) {
            self.stats.breaker_trials.add(1);
        }
        Some(host)
    }

    /// The less loaded of two chosen by weight, of those whose breakers let requests through, as long as these are half of
    /// them.
    fn pick_one_of(&mut self, route: &Route<'_>, ticket: &Ticket, now: Time) -> Option<HostIndex> {
        let endpoints = route.endpoints();
        let app = route.app_id();
        let (hosts, rated) = (&self.hosts, &self.rated);
        let lets_through = |host: HostIndex| {
            hosts.get(host).is_some_and(|entry| entry.breaker.lets_through(now)) && rated.lets_through(app, host, now)
        };
        let healthy = endpoints.clone().filter(|endpoint| lets_through(endpoint.host)).count();
        let heeds_breakers = healthy * 2 >= endpoints.len();
        let avoided = ticket.refused.map(|(host, _)| host);
        let is_down = |host: HostIndex| hosts.get(host).is_none_or(|entry| entry.state == HostState::Down);
        let usable = |endpoint: &Endpoint| {
            endpoint.weight > 0
                && Some(endpoint.host) != avoided
                && !is_down(endpoint.host)
                && (!heeds_breakers || lets_through(endpoint.host))
        };
        let total: u32 = endpoints.clone().filter(usable).map(|endpoint| u32::from(endpoint.weight)).sum();
        if total == 0 {
            return endpoints.map(|endpoint| endpoint.host).find(|&host| !is_down(host));
        }
        let rng = &mut self.rng;
        let draws = [rng.u32(..total), rng.u32(..total)];
        let drawn = draws.map(|mut draw| {
            endpoints.clone().filter(usable).find(|endpoint| {
                let weight = u32::from(endpoint.weight);
                let hit = draw < weight;
                draw = draw.saturating_sub(weight);
                hit
            })
        });
        let load = |endpoint: &Endpoint| hosts.get(endpoint.host).map_or(0, |host| host.in_flight);
        drawn.into_iter().flatten().min_by_key(load).map(|endpoint| endpoint.host)
    }

    /// What an attempt says about its host, and about the application there.
    pub(super) fn rate(&mut self, host: HostIndex, ticket: &mut Ticket, end: AttemptEnd, now: Time) {
        let erred = std::mem::take(&mut ticket.erred);
        let rated = std::mem::take(&mut ticket.rated);
        if end == AttemptEnd::Abandoned {
            return;
        }
        self.rate_host(host, ticket.app, end, now);
        let Some(app) = ticket.app.filter(|_| rated) else { return };
        match end {
            AttemptEnd::Complete if !erred => self.rated.succeeded(app, host),
            AttemptEnd::Complete | AttemptEnd::Broken | AttemptEnd::TimedOut => {
                if self.rated.failed(app, host, &self.settings.breaker, now) {
                    self.stats.apps_avoided.add(1);
                }
            }
            // Of the host, of nobody.
            AttemptEnd::ConnectFailed | AttemptEnd::Refused | AttemptEnd::Abandoned => {}
        }
    }

    fn rate_host(&mut self, host: HostIndex, app: Option<u64>, end: AttemptEnd, now: Time) {
        let fails = match end {
            AttemptEnd::Complete | AttemptEnd::Refused | AttemptEnd::Abandoned => false,
            AttemptEnd::ConnectFailed | AttemptEnd::Broken | AttemptEnd::TimedOut => true,
        };
        // Looked at only where something failed: it counts them all.
        let may_open = fails && breaker::may_eject(self.hosts.ejected(), self.hosts.count());
        let Some(entry) = self.hosts.get_mut(host) else { return };
        if !fails {
            entry.breaker.succeeded();
            entry.streak = Streak::default();
            return;
        }
        let rules = &self.settings.breaker;
        let (is_ejected, why) = if end == AttemptEnd::ConnectFailed {
            (entry.breaker.not_connected(rules, now, may_open), "connects fail")
        } else {
            entry.streak.grow(app.unwrap_or_default(), now);
            let broken = entry.streak.of_host();
            (entry.breaker.broken(broken, rules, now, may_open), "requests of several applications broke or were late")
        };
        if is_ejected {
            self.stats.hosts_ejected.add(1);
            tracing::warn!(host = &*entry.name, "{why}; it gets no requests of this worker for a while");
        }
    }
}
