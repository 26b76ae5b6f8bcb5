//! Each rule of the protocol, broken on purpose, is noticed: by the simulator's checks or by a directed history that
//! passes with the rule kept.

#[path = "sim/mod.rs"]
mod sim;

use std::time::Duration;

use bytes::Bytes;
use sim::disk::SimDisk;
use sim::{Plan, World};
use steady_stream::wire::{Body, Feedback, Frame, Goodbye};
use steady_stream::{
    App, Config, Event, Grant, Log, LogConfig, LogError, LogIdentity, Mode, NoBodies, Outcome, Record, Recovered,
    Rules, Sound, Stream, StreamId, wire,
};

macro_rules! broken {
    ($($name:ident: $rule:ident),* $(,)?) => { $(
        #[derive(Clone, Copy, Debug, Default)]
        struct $name;
        impl Rules for $name {
            const $rule: bool = true;
        }
    )* };
}

broken! {
    TrimAtReceived: TRIM_AT_RECEIVED,
    CursorApartFromEffect: CURSOR_APART_FROM_EFFECT,
    NoTransmitAfterGrant: NO_TRANSMIT_AFTER_GRANT,
    EpochNotCompared: EPOCH_NOT_COMPARED,
    TombstoneSkipped: TOMBSTONE_SKIPPED,
    WindowOffByOne: WINDOW_OFF_BY_ONE,
    AcknowledgedAfterBody: ACKNOWLEDGED_AFTER_BODY,
    ResumeFromNext: RESUME_FROM_NEXT,
    VerifierIgnored: VERIFIER_IGNORED,
    TornRecordAccepted: TORN_RECORD_ACCEPTED,
}

/// Seeds in which the sound machine passes and the broken one is caught, with the reason that is expected.
fn is_caught_by_the_simulator<R: Rules>(reason: &[&str]) {
    let mut reasons = Vec::new();
    for seed in 0..200 {
        // A machine that is broken may also panic on what it can't have by its own rules: that is being caught, too.
        let outcome = std::panic::catch_unwind(|| World::<R>::new(Plan::troubled(seed)).run());
        let Ok(Err(why)) = outcome else { continue };
        if reason.iter().any(|reason| why.contains(reason)) {
            World::<Sound>::new(Plan::troubled(seed)).run().expect("the sound machine passes the same history");
            return;
        }
        reasons.push(why);
    }
    panic!("it was not caught for {reason:?}: {reasons:#?}");
}

#[test]
fn trimming_what_is_received_and_not_durable_is_noticed() {
    is_caught_by_the_simulator::<TrimAtReceived>(&["answered and not applied", "got the answer"]);
}

#[test]
fn a_cursor_stored_apart_from_the_effect_is_noticed() {
    is_caught_by_the_simulator::<CursorApartFromEffect>(&["applied twice"]);
}

#[test]
fn messages_not_sent_once_they_have_numbers_are_noticed() {
    is_caught_by_the_simulator::<NoTransmitAfterGrant>(&["still waits"]);
}

#[test]
fn an_epoch_that_is_not_compared_is_noticed() {
    is_caught_by_the_simulator::<EpochNotCompared>(&[
        "answered and not applied",
        "still waits",
        "never applied",
        "got the answer",
    ]);
}

#[test]
fn a_tombstone_that_is_not_sent_is_noticed() {
    is_caught_by_the_simulator::<TombstoneSkipped>(&["still waits"]);
}

#[test]
fn a_window_that_is_one_too_wide_is_noticed() {
    is_caught_by_the_simulator::<WindowOffByOne>(&["its window is"]);
}

#[test]
fn resuming_from_what_was_sent_is_noticed() {
    is_caught_by_the_simulator::<ResumeFromNext>(&["still waits"]);
}

const TAKEN: Duration = Duration::from_millis(1);

fn id(local: &str, peer: &str) -> StreamId {
    StreamId::new(local, peer, Mode(0))
}

/// A machine with one message in its log, connected and greeted by a peer that we play.
fn greeted<R: Rules>() -> Stream<R> {
    let mut stream =
        Stream::<R>::open(id("agent", "edge"), Config::default(), Recovered::new(5), None, Duration::ZERO, 1).unwrap();
    stream.send(TAKEN, App(1), Bytes::from_static(b"a message")).unwrap();
    assert_eq!(stream.take_records().len(), 1);
    stream.stored(TAKEN);
    stream.connected(TAKEN);
    let hello = wire::Hello {
        version: wire::VERSION,
        from: "edge".into(),
        to: "agent".into(),
        epoch: 9,
        floor: 1,
        next: 1,
        peer_epoch: 0,
        received_below: 1,
        durable_below: 1,
        seen: true,
    };
    stream.receive(TAKEN, Frame { mode: 0, feedback: None, body: Some(Body::Hello(hello)) });
    stream
}

fn feedback(grants: Vec<wire::Grant>) -> Feedback {
    Feedback {
        epoch: 5,
        received_below: 1,
        durable_below: 1,
        answers_from: 1,
        answers_below: 1,
        grants,
        ..Feedback::default()
    }
}

fn sent<R: Rules>(stream: &mut Stream<R>) -> Vec<Body> {
    std::iter::from_fn(|| stream.transmit(TAKEN, &mut NoBodies).unwrap()).filter_map(|frame| frame.body).collect()
}

fn events<R: Rules>(stream: &mut Stream<R>) -> Vec<Event> {
    std::iter::from_fn(|| stream.event()).collect()
}

/// A grant that was made for another epoch of our log reaches us. Whether a message goes out on it.
fn sends_on_a_grant_of_another_epoch<R: Rules>() -> bool {
    let mut stream = greeted::<R>();
    let grant = Grant::new(id("agent", "edge").direction(), 4, 1, 65, 3);
    stream.receive(TAKEN, Frame { mode: 0, feedback: Some(feedback(vec![(&grant).into()])), body: None });
    sent(&mut stream).iter().any(|body| matches!(body, Body::Data(_)))
}

#[test]
fn a_grant_whose_verifier_is_ignored_is_noticed() {
    assert!(!sends_on_a_grant_of_another_epoch::<Sound>());
    assert!(sends_on_a_grant_of_another_epoch::<VerifierIgnored>());
}

/// The peer's last frame brings our answer and its goodbye. Whether our own goodbye is over with it.
fn goodbye_ends_with_the_last_answer<R: Rules>() -> bool {
    let mut stream = greeted::<R>();
    let grant = Grant::new(id("agent", "edge").direction(), 5, 1, 65, 3);
    stream.receive(TAKEN, Frame { mode: 0, feedback: Some(feedback(vec![(&grant).into()])), body: None });
    assert!(sent(&mut stream).iter().any(|body| matches!(body, Body::Data(_))));
    stream.goodbye(TAKEN, Duration::from_secs(10));
    let answered = Feedback { received_below: 2, durable_below: 2, answers_below: 2, ..feedback(Vec::new()) };
    let body = Some(Body::Goodbye(Goodbye { drained: true }));
    stream.receive(TAKEN, Frame { mode: 0, feedback: Some(answered), body });
    let events = events(&mut stream);
    assert!(events.contains(&Event::Finished { position: 1, outcome: Outcome::Answered(Bytes::new()) }));
    events.contains(&Event::Closed { left: 0 })
}

#[test]
fn an_acknowledgement_processed_after_the_body_that_it_came_with_is_noticed() {
    assert!(goodbye_ends_with_the_last_answer::<Sound>());
    assert!(!goodbye_ends_with_the_last_answer::<AcknowledgedAfterBody>());
}

/// A write of which only the first sector reached the disk. How many messages the log then believes to hold.
fn messages_after_a_torn_write<R: Rules>() -> Result<usize, LogError> {
    let identity = LogIdentity { direction: 1, epoch: 5, boot: 1 };
    let disk = SimDisk::default();
    let (mut log, _) = Log::<SimDisk, R>::open(disk.clone(), LogConfig::default(), identity)?;
    let message = |position, length: usize| {
        let body = Bytes::from(vec![position as u8; length]);
        Record::Message { position, app: App(1), checksum: steady_stream::checksum(position, App(1), &body), body }
    };
    log.append(&[message(1, 10)]).unwrap();
    // The batch is there, its end is zeros: what a file system leaves that grew the file and didn't write the sector.
    log.append(&[message(2, 2000)]).unwrap();
    drop(log);
    disk.zero_end("segment-0000000000000001", 1000);
    let (_, recovered) = Log::<SimDisk, R>::open(disk, LogConfig::default(), identity)?;
    Ok(recovered.pending.len())
}

#[test]
fn a_torn_record_that_is_accepted_is_noticed() {
    assert_eq!(messages_after_a_torn_write::<Sound>().unwrap(), 1);
    assert_eq!(messages_after_a_torn_write::<TornRecordAccepted>().unwrap(), 2);
    is_caught_by_the_simulator::<TornRecordAccepted>(&["damaged", "still waits", "never applied", "it cannot be sent"]);
}
