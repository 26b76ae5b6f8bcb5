//! What a worker knows of the moves under way: which old hosts were asked, and what they said.
//!
//! While an application moves, the table names both hosts. A request asks the old host's agent first; those that come
//! meanwhile wait behind that one question. "Live" holds for those that waited; "not live" is final for the generation.

use std::collections::HashMap;

use steady_proxy::ParkKey;
use steady_table::{Moving, Route, Routes};

/// The moves of one worker, by where the requests wait that meet them.
#[derive(Debug, Default)]
pub(super) struct Moves {
    by_key: HashMap<ParkKey, Move>,
}

/// Where the requests for an application wait. Each move has a place of its own, so that an answer about one that was
/// rolled back means nothing to the next.
pub(super) fn place(app: u64, moving: Option<Moving>) -> ParkKey {
    let generation = moving.map_or(0, |moving| moving.generation);
    ParkKey(app ^ generation.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// One move.
#[derive(Debug)]
pub(super) struct Move {
    pub name: Box<str>,
    /// The old owner's generation.
    pub generation: u64,
    pub moving: Moving,
    /// A question is under way.
    pub asking: bool,
    /// Final for this generation.
    pub not_live: bool,
    /// How often the old host has said "live".
    answers: u64,
}

/// What a request that meets a move is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The old host said that it owns the application, after this request began to wait.
    Old,
    New,
    /// Ask the old host.
    Ask,
    /// Somebody has asked already.
    Wait,
}

impl Moves {
    /// Forgets the moves that this table no longer tells of.
    pub(super) fn published(&mut self, routes: &Routes) {
        self.by_key.retain(|_, known| {
            routes
                .by_name(&known.name)
                .is_some_and(|route| route.moving() == Some(known.moving) && route.generation() == known.generation)
        });
    }

    /// The move of an application, as the table tells it.
    pub(super) fn of(&mut self, route: &Route<'_>, moving: Moving) -> &mut Move {
        self.begin(route.app_id(), route.name(), route.generation(), moving)
    }

    fn begin(&mut self, app: u64, name: &str, generation: u64, moving: Moving) -> &mut Move {
        self.by_key.entry(place(app, Some(moving))).or_insert_with(|| Move {
            name: name.into(),
            generation,
            moving,
            asking: false,
            not_live: false,
            answers: 0,
        })
    }

    pub(super) fn known(&mut self, key: ParkKey) -> Option<&mut Move> {
        self.by_key.get_mut(&key)
    }
}

impl Move {
    /// `asked`: what [`Move::answers`] was when this request began to wait.
    pub(super) fn step(&self, asked: Option<u64>) -> Step {
        match asked {
            _ if self.not_live => Step::New,
            Some(before) if self.answers > before => Step::Old,
            _ if self.asking => Step::Wait,
            _ => Step::Ask,
        }
    }

    pub(super) fn answers(&self) -> u64 {
        self.answers
    }

    /// The old host's answer.
    pub(super) fn answered(&mut self, live: bool) {
        self.asking = false;
        if live {
            self.answers += 1;
        } else {
            self.not_live = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use steady_table::HostIndex;

    use super::*;

    const MOVING: Moving = Moving { from: HostIndex(0), to: HostIndex(1), generation: 8 };

    #[test]
    fn one_question_serves_all_that_wait_and_no_later_one() {
        let mut moves = Moves::default();
        let known = moves.begin(1, "a", 7, MOVING);
        assert_eq!(known.step(None), Step::Ask);
        let asked = Some(known.answers());
        known.asking = true;
        assert_eq!(known.step(None), Step::Wait);
        known.answered(true);
        assert_eq!(known.step(asked), Step::Old);
        assert_eq!(known.step(None), Step::Ask, "a later request asks anew");
        assert_eq!(known.step(Some(known.answers())), Step::Ask);
    }

    #[test]
    fn not_live_is_final_for_the_generation_and_forgotten_with_it() {
        let mut moves = Moves::default();
        moves.begin(1, "a", 7, MOVING).answered(false);
        assert_eq!(moves.begin(1, "a", 7, MOVING).step(Some(0)), Step::New);
        let rolled_back = Moving { generation: 9, ..MOVING };
        assert_eq!(moves.begin(1, "a", 7, rolled_back).step(None), Step::Ask, "another move asks anew");
        moves.known(place(1, Some(MOVING))).unwrap().answered(false);
        assert_eq!(moves.begin(1, "a", 7, rolled_back).step(None), Step::Ask, "a late answer is about the earlier one");
    }
}
