//! Every application that this host knows: an actor for each that is here, and of those that left no more than the generation.
//!
//! A generation is never forgotten: a late order must not bring back what has left. An actor is, once nothing is left for it to
//! do and nobody holds it: [`Known::leave`] looks at both while nobody can find it.

use std::sync::Arc;

use dashmap::DashMap;
use tokio::sync::mpsc;

use super::actor::{AppHandle, Command};
use crate::gate::Generation;
use crate::records::Record;

/// See the module.
#[derive(Debug, Default)]
pub struct Known {
    here: DashMap<Arc<str>, AppHandle>,
    left: DashMap<Arc<str>, Generation>,
}

impl Known {
    /// What the records say; `make` starts an actor.
    pub fn fill(&self, records: Vec<Record>, make: impl Fn(Record) -> AppHandle) {
        for record in records {
            let name: Arc<str> = Arc::from(record.name.as_str());
            if record.is_tombstone() {
                self.left.insert(name, record.generation);
            } else {
                self.here.insert(name, make(record));
            }
        }
    }

    /// With those that left.
    pub fn len(&self) -> usize {
        self.here.len() + self.left.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Those that have an actor.
    pub fn here(&self) -> usize {
        self.here.len()
    }

    /// Those that left, as far as they have no actor.
    pub fn left(&self) -> usize {
        self.left.len()
    }

    /// Of an application that has an actor.
    pub fn find(&self, name: &str) -> Option<AppHandle> {
        self.here.get(name).map(|entry| entry.value().clone())
    }

    /// Does something with each actor; it must not look for another meanwhile.
    pub fn each(&self, mut each: impl FnMut(&Arc<str>, &AppHandle)) {
        self.here.iter().for_each(|entry| each(entry.key(), entry.value()));
    }

    /// What this host is to the application, as far as it knows any.
    pub fn record(&self, name: &str) -> Record {
        if let Some(entry) = self.here.get(name) {
            return entry.status.borrow().record.clone();
        }
        let generation = self.left.get(name).map(|entry| *entry).unwrap_or_default();
        Record { generation, ..Record::unknown(name) }
    }

    /// Finds an actor, or has one made of what is known.
    pub fn find_or_make(&self, name: &str, make: impl FnOnce(Record) -> AppHandle) -> AppHandle {
        let made = self.here.entry(Arc::from(name)).or_insert_with(|| {
            let generation = self.left.remove(name).map(|(_, generation)| generation).unwrap_or_default();
            make(Record { generation, ..Record::unknown(name) })
        });
        made.clone()
    }

    /// An actor of what has left asks whether it may end. `false`: somebody holds it, and may still ask for something.
    pub fn leave(&self, name: &Arc<str>, generation: Generation, inbox: &mpsc::Receiver<Command>) -> bool {
        // In this order: it is known at every moment.
        if generation > Generation(0) {
            self.left.insert(Arc::clone(name), generation);
        }
        // The one sender is the map's own, and nobody can clone it now.
        let is_alone = |_: &Arc<str>, handle: &AppHandle| handle.commands.strong_count() == 1 && inbox.is_empty();
        let has_left = self.here.remove_if(name, is_alone).is_some();
        if !has_left {
            self.left.remove(name);
        }
        has_left
    }
}
