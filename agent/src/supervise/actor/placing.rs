//! What this host is to become for the application: a role, a generation, a version; and how one version follows another.

use std::time::Duration;

use super::{Actor, Main, Next, Place, Refusal, StartFailure, Waiter, answer, blocking};
use crate::app_spec::Spec;
use crate::bundle::Held;
use crate::gate::Role;
use crate::records::{Placement, Record, role_name};
use crate::supervise::process::LaunchError;

fn exclusive_word(exclusive: bool) -> &'static str {
    if exclusive { "an exclusive" } else { "an ordinary" }
}

impl Actor {
    pub(super) async fn place(&mut self, place: Place, ready: Option<Waiter>) -> Result<(), Refusal> {
        self.check_generation(&place)?;
        let held = self.shared.bundles.hold(&place.digest).ok_or_else(|| {
            let digest = place.digest.as_str();
            Refusal::Invalid(format!(
                "bundle {digest} is not on this host; send it with PUT /v1/bundles/{digest} first"
            ))
        })?;
        let folder = held.folder();
        let spec = blocking(move || Spec::load(&folder)).await?.map_err(|error| Refusal::Invalid(error.to_string()))?;
        if let Some(exclusive) = place.exclusive.filter(|exclusive| *exclusive != spec.exclusive) {
            let (edge, host) = (exclusive_word(exclusive), exclusive_word(spec.exclusive));
            return Err(Refusal::Invalid(format!(
                "the edge reads the steady.toml of bundle {} as of {edge} application, this host as of {host} one: two \
                 hosts could run it at once. Run the same program on both; if it says so then too, write `exclusive = true` \
                 or `false` in the file and deploy it again",
                place.digest.as_str()
            )));
        }
        let placement = Placement { version: place.version, digest: place.digest, exclusive: spec.exclusive };
        let is_on_trial = self.next.as_ref().is_some_and(|next| next.placement == placement);
        let is_same = is_on_trial || (self.next.is_none() && self.target.as_ref() == Some(&placement));
        let keeps_old = !is_same && self.is_running();
        let may_run = place.role == Role::Owner || !placement.exclusive;
        // A version that has not proven itself is not recorded in the place of one that was to run here, whether that one
        // runs at this moment or waits for its next start.
        let recorded = self.record.placement.clone().filter(|_| may_run && self.record.may_run());
        let old = recorded.clone().filter(|old| *old != placement);
        let record = Record {
            name: self.record.name.clone(),
            role: place.role,
            generation: place.generation,
            placement: recorded.or_else(|| Some(placement.clone())),
        };
        self.save(record).await?;
        if !may_run {
            // An exclusive application that is only to come: prepared, and surely not running.
            self.supersede();
            self.rollback = None;
            self.set_target(placement, held);
            self.state = Main::Cold;
            self.retire_all(self.shared.config.get().drain_timeout);
            answer(ready, Ok(()));
            return Ok(());
        }
        if is_same {
            self.go_on(ready).await;
        } else if !keeps_old {
            self.supersede();
            self.failures = 0;
            self.keep_for_return(old);
            self.set_target(placement, held);
            self.waiters.extend(ready);
            self.start_when_alone().await;
        } else if placement.exclusive || self.target.as_ref().is_some_and(|old| old.exclusive) || self.runs_exclusive()
        {
            self.replace_alone(placement, held, ready);
        } else {
            self.try_beside(placement, held, ready).await;
        }
        self.publish();
        Ok(())
    }

    fn check_generation(&self, place: &Place) -> Result<(), Refusal> {
        let (known, asked) = (self.record.generation, place.generation);
        let conflict = |why: String| Err(Refusal::Stale { known, why });
        if asked < known {
            return conflict(format!("generation {known} is known here, {asked} is older; place it with a larger one"));
        }
        if asked > known {
            return Ok(());
        }
        match (self.record.role, place.role) {
            (Role::Draining | Role::Absent, _) => {
                conflict(format!("generation {known} has left this host; place it with a larger one"))
            }
            (Role::Owner, Role::Incoming) => conflict(format!(
                "this host is {} of generation {known}; drain it, or come with a larger one",
                role_name(self.record.role)
            )),
            _ => Ok(()),
        }
    }

    /// The same version again: nothing changes but the record, and what does not run is started.
    async fn go_on(&mut self, ready: Option<Waiter>) {
        if let Some(next) = &mut self.next {
            next.waiters.extend(ready);
            return;
        }
        match self.state {
            Main::Ready { .. } => answer(ready, Ok(())),
            Main::Cold | Main::Failed { .. } => {
                self.waiters.extend(ready);
                self.failures = 0;
                self.start_when_alone().await;
            }
            _ => self.waiters.extend(ready),
        }
    }

    /// A new version of an exclusive application: the old one stops first, and comes back if the new one cannot be.
    fn replace_alone(&mut self, placement: Placement, held: Held, ready: Option<Waiter>) {
        self.supersede();
        self.keep_for_return(self.record.placement.clone());
        self.set_target(placement, held);
        self.waiters.extend(ready);
        self.failures = 0;
        self.state = Main::Waiting;
        self.retire_all(self.shared.config.get().drain_timeout);
    }

    /// The version to come back to if the one that is tried now cannot be. One that is kept already stays: what was tried
    /// since has not proven itself.
    fn keep_for_return(&mut self, old: Option<Placement>) {
        if self.rollback.is_none()
            && let Some(old) = old
        {
            self.rollback = Some((old, self.held.take()));
        }
    }

    /// A new version of an ordinary application: on trial beside the old one.
    async fn try_beside(&mut self, placement: Placement, held: Held, ready: Option<Waiter>) {
        self.supersede();
        match self.launch(&placement).await {
            Ok(instance) => self.next = Some(Next { instance, placement, held, waiters: ready.into_iter().collect() }),
            Err(LaunchError::Hopeless(reason) | LaunchError::Passing(reason)) => {
                answer(ready, Err(StartFailure { reason, output: String::new() }));
            }
        }
    }

    /// Gives up the version on trial for another.
    fn supersede(&mut self) {
        let failure =
            || StartFailure { reason: "another version was placed meanwhile".to_owned(), output: String::new() };
        if let Some(next) = self.next.take() {
            self.retire(next.instance, 0, Duration::ZERO, false);
            next.waiters.into_iter().for_each(|waiter| answer(Some(waiter), Err(failure())));
        }
        self.waiters.drain(..).for_each(|waiter| answer(Some(waiter), Err(failure())));
    }

    pub(super) async fn restart(&mut self, ready: Option<Waiter>) -> Result<(), Refusal> {
        let may_run = self.record.may_run();
        let (Some(target), true) = (self.target.clone(), may_run) else {
            return Err(Refusal::Conflict(format!(
                "this host is {} of it and does not run it; nothing to restart",
                role_name(self.record.role)
            )));
        };
        let held = self.shared.bundles.hold(&target.digest);
        let held =
            held.ok_or_else(|| Refusal::Conflict("its bundle is not on this host; deploy it again".to_owned()))?;
        self.restarts += 1;
        match self.state {
            Main::Ready { .. } if !target.exclusive => self.try_beside(target, held, ready).await,
            Main::Ready { .. } | Main::Starting { .. } | Main::Falling { .. } | Main::Waiting => {
                self.waiters.extend(ready);
                self.state = Main::Waiting;
                self.retire_all(self.shared.config.get().drain_timeout);
            }
            Main::Cold | Main::Crashed { .. } | Main::Failed { .. } => {
                self.waiters.extend(ready);
                self.failures = 0;
                self.start_when_alone().await;
            }
        }
        self.publish();
        Ok(())
    }
}
