//! The protocol between a sender and a receiver, abstract and small, checked exhaustively: every order of sending,
//! granting, losing, repeating and reordering frames, applying, withdrawing, disconnecting and crashing on either side.
//!
//! The other direction is the same with the names changed, and shares no state with this one. What the model leaves out
//! (probes, serials, answers, the hello's own loss) only decides when something is sent; the model may send anything that
//! the rules allow at any time.

use stateright::{Checker, Model, Property};

/// Messages, at positions 0..MESSAGES. Three in a window of two are 2.3 million states, which an optimised build checks in
/// seconds (`cargo test --release -p steady-stream --test model`); a debug build checks two in a window of one.
const MESSAGES: u8 = if cfg!(debug_assertions) { 2 } else { 3 };
const WINDOW: u8 = MESSAGES - 1;
/// Crashes of each side, and disconnections without one.
const CRASHES: u8 = 1;
const CUTS: u8 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Frame {
    Data {
        position: u8,
        tombstone: bool,
    },
    /// `received` has a bit for each position; `granted` is the end of the numbers.
    Feedback {
        received: u8,
        durable: u8,
        granted: u8,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    // The sender's log.
    next: u8,
    floor: u8,
    tombstones: u8,
    ever_sent: u8,
    // The sender's memory of this connection.
    known_received: u8,
    sent: u8,
    granted: u8,
    // The receiver's store: the cursor, and what took effect, in order.
    durable: u8,
    effects: Vec<u8>,
    /// Effects whose cursor has not been stored: only where the rule that forbids it is broken.
    apart: bool,
    // The receiver's memory.
    received: u8,
    connected: bool,
    // A frame that is in the set may arrive any number of times, in any order, or be lost.
    wire: Vec<Frame>,
    crashes: [u8; 2],
    cuts: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Action {
    Send,
    Withdraw(u8),
    Transmit(u8),
    Acknowledge,
    Arrive(Frame),
    Lose(Frame),
    Apply,
    /// Where effect and cursor are apart: the cursor follows.
    StoreCursor,
    CrashSender,
    CrashReceiver,
    Cut,
    Connect,
}

/// Which rule is broken, to show that the model notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    AllKept,
    TrimAtReceived,
    ResumeFromNext,
    TombstoneSkipped,
    WindowOffByOne,
    CursorApart,
}

struct Protocol(Rule);

fn bit(position: u8) -> u8 {
    1 << position
}

impl Protocol {
    fn received_below(received: u8, from: u8) -> u8 {
        (from..MESSAGES).find(|position| received & bit(*position) == 0).unwrap_or(MESSAGES)
    }

    fn window(&self) -> u8 {
        if self.0 == Rule::WindowOffByOne { WINDOW + 1 } else { WINDOW }
    }

    fn put(state: &mut State, frame: Frame) {
        if let Err(place) = state.wire.binary_search(&frame) {
            state.wire.insert(place, frame);
        }
    }

    fn may_transmit(&self, state: &State, position: u8) -> bool {
        let again = self.0 != Rule::ResumeFromNext || state.sent & bit(position) == 0;
        let skipped = self.0 == Rule::TombstoneSkipped && state.tombstones & bit(position) != 0;
        state.connected
            && (state.floor..state.next.min(state.granted)).contains(&position)
            && state.known_received & bit(position) == 0
            && again
            && !skipped
    }

    fn disconnect(&self, state: &mut State) {
        state.connected = false;
        state.wire.clear();
        state.known_received = 0;
        state.granted = 0;
        if self.0 != Rule::ResumeFromNext {
            state.sent = 0;
        }
        // What is held and not applied is given up with the connection.
        state.received &= bit(state.durable) - 1;
    }

    fn apply(&self, state: &mut State) {
        let position = state.durable + u8::from(state.apart);
        // A tombstone is held as one: the frame that brought it said so.
        if state.tombstones & bit(position) == 0 {
            state.effects.push(position);
        }
        if self.0 == Rule::CursorApart {
            state.apart = true;
        } else {
            state.durable += 1;
        }
    }

    fn arrive(&self, state: &mut State, frame: Frame) {
        match frame {
            Frame::Data { position, .. } => {
                if position >= state.durable && position < state.durable + self.window() {
                    state.received |= bit(position);
                }
            }
            Frame::Feedback { received, durable, granted } => {
                state.known_received |= received;
                let below =
                    if self.0 == Rule::TrimAtReceived { Self::received_below(received, state.floor) } else { durable };
                state.floor = state.floor.max(below);
                state.granted = state.granted.max(granted);
            }
        }
    }

    /// What happens when nothing is lost any more, nobody crashes, and everyone does what there is to do.
    fn goes_on_to_the_end(&self, state: &State) -> bool {
        let step = |state: &State, action| self.next_state(state, action).unwrap_or_else(|| state.clone());
        let mut state = state.clone();
        for _ in 0..50 {
            if state.floor == MESSAGES && state.durable == MESSAGES {
                return true;
            }
            if !state.connected {
                state = step(&state, Action::Connect);
            }
            while state.next < MESSAGES {
                state = step(&state, Action::Send);
            }
            for position in 0..MESSAGES {
                if self.may_transmit(&state, position) {
                    state = step(&state, Action::Transmit(position));
                }
            }
            for frame in std::mem::take(&mut state.wire) {
                self.arrive(&mut state, frame);
            }
            while state.received & bit(state.durable) != 0 && state.durable < MESSAGES {
                self.apply(&mut state);
                if state.apart {
                    state = step(&state, Action::StoreCursor);
                }
            }
            state = step(&state, Action::Acknowledge);
            for frame in std::mem::take(&mut state.wire) {
                self.arrive(&mut state, frame);
            }
        }
        false
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            next: 0,
            floor: 0,
            tombstones: 0,
            ever_sent: 0,
            known_received: 0,
            sent: 0,
            granted: 0,
            durable: 0,
            effects: Vec::new(),
            apart: false,
            received: 0,
            connected: false,
            wire: Vec::new(),
            crashes: [0; 2],
            cuts: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.next < MESSAGES {
            actions.push(Action::Send);
        }
        for position in state.floor..state.next {
            if state.ever_sent & bit(position) == 0 && state.tombstones & bit(position) == 0 {
                actions.push(Action::Withdraw(position));
            }
        }
        actions.extend((0..MESSAGES).filter(|position| self.may_transmit(state, *position)).map(Action::Transmit));
        for frame in &state.wire {
            actions.extend([Action::Arrive(*frame), Action::Lose(*frame)]);
        }
        if state.apart {
            actions.push(Action::StoreCursor);
        } else if state.durable < MESSAGES && state.received & bit(state.durable) != 0 {
            actions.push(Action::Apply);
        }
        if state.connected {
            actions.push(Action::Acknowledge);
            if state.cuts < CUTS {
                actions.push(Action::Cut);
            }
        } else {
            actions.push(Action::Connect);
        }
        if state.crashes[0] < CRASHES {
            actions.push(Action::CrashSender);
        }
        if state.crashes[1] < CRASHES {
            actions.push(Action::CrashReceiver);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Send => state.next += 1,
            Action::Withdraw(position) => state.tombstones |= bit(position),
            Action::Transmit(position) => {
                state.sent |= bit(position);
                state.ever_sent |= bit(position);
                let tombstone = state.tombstones & bit(position) != 0;
                Self::put(&mut state, Frame::Data { position, tombstone });
            }
            Action::Acknowledge => {
                let (received, durable) = (state.received | (bit(state.durable) - 1), state.durable);
                let granted = (durable + self.window()).min(MESSAGES);
                Self::put(&mut state, Frame::Feedback { received, durable, granted });
            }
            Action::Arrive(frame) => self.arrive(&mut state, frame),
            Action::Lose(frame) => state.wire.retain(|other| *other != frame),
            Action::Apply => self.apply(&mut state),
            Action::StoreCursor => {
                state.apart = false;
                state.durable += 1;
            }
            Action::CrashSender => {
                state.crashes[0] += 1;
                // The process that knew what was sent has ended: all of it may have been.
                state.ever_sent = bit(state.next) - 1;
                self.disconnect(&mut state);
                state.sent = if self.0 == Rule::ResumeFromNext { state.sent } else { 0 };
            }
            Action::CrashReceiver => {
                state.crashes[1] += 1;
                state.apart = false;
                self.disconnect(&mut state);
            }
            Action::Cut => {
                state.cuts += 1;
                self.disconnect(&mut state);
            }
            Action::Connect => {
                // The hellos: the sender learns where the receiver's memory ends.
                state.connected = true;
                state.known_received = bit(state.durable) - 1;
            }
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::<Self>::always("nothing is applied twice or out of order", |_, state| {
                state.effects.windows(2).all(|pair| pair[0] < pair[1])
            }),
            Property::<Self>::always("nothing but what was withdrawn is skipped", |_, state| {
                (0..state.durable)
                    .all(|position| (state.tombstones & bit(position) != 0) != state.effects.contains(&position))
            }),
            Property::<Self>::always("nothing is trimmed that is not durable", |_, state| state.floor <= state.durable),
            Property::<Self>::always("what is held fits the window", |_, state| {
                (state.received >> state.durable).count_ones() <= u32::from(WINDOW)
            }),
            Property::<Self>::always("from anywhere it goes on to the end", Self::goes_on_to_the_end),
            Property::<Self>::sometimes("everything is answered after a crash of each", |_, state| {
                state.floor == MESSAGES && state.crashes == [CRASHES; 2]
            }),
            Property::<Self>::sometimes("a tombstone is passed", |_, state| {
                state.durable == MESSAGES && state.effects.len() < usize::from(MESSAGES)
            }),
        ]
    }
}

fn check(rule: Rule) -> impl Checker<Protocol> {
    Protocol(rule).checker().threads(2).spawn_bfs().join()
}

#[test]
fn no_order_of_events_loses_a_message_applies_one_twice_or_gets_stuck() {
    let checker = check(Rule::AllKept);
    println!("{} states, {} of them different", checker.state_count(), checker.unique_state_count());
    checker.assert_properties();
    assert!(checker.unique_state_count() > 1000, "{}", checker.unique_state_count());
}

#[test]
fn the_model_notices_each_rule_that_is_broken() {
    for (rule, property) in [
        (Rule::TrimAtReceived, "nothing is trimmed that is not durable"),
        (Rule::ResumeFromNext, "from anywhere it goes on to the end"),
        (Rule::TombstoneSkipped, "from anywhere it goes on to the end"),
        (Rule::WindowOffByOne, "what is held fits the window"),
        (Rule::CursorApart, "nothing is applied twice or out of order"),
    ] {
        let checker = check(rule);
        assert!(checker.discovery(property).is_some(), "{rule:?} was not noticed");
    }
}
