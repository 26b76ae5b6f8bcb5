//! Links over real files and a connection in memory.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use steady_stream::io::{Ended, Events, Lane, Link, LinkEvent, Names, OnDamage, OpenError};
use steady_stream::{App, Event, Faults, FileInbox, Inbox, MemoryInbox, Mode, Outcome, SendError};

const MODE: Mode = Mode(0);
type Seen = Arc<Mutex<Vec<Bytes>>>;

fn names(local: &str, peer: &str) -> Names {
    Names { local: local.into(), peer: peer.into() }
}

/// Answers each message with its own body, and remembers it.
fn echo(seen: &Seen) -> MemoryInbox {
    let seen = Arc::clone(seen);
    MemoryInbox::new(move |_, message| {
        seen.lock().unwrap().push(message.body.clone());
        message.body.clone()
    })
}

fn nothing() -> MemoryInbox {
    MemoryInbox::new(|_, _| Bytes::new())
}

async fn open(local: &str, peer: &str, directory: &Path, inbox: impl Inbox) -> (Link, Events) {
    Link::open(names(local, peer), directory.join(local), vec![Lane::new(MODE, inbox)]).await.expect("a link")
}

/// Joins two links by a connection in memory, until it is dropped on one side.
fn join(left: &Link, right: &Link) -> tokio::task::JoinHandle<(Ended, Ended)> {
    let (one, other) = tokio::io::duplex(1 << 16);
    let (left, right) = (left.clone(), right.clone());
    tokio::spawn(async move { tokio::join!(left.attach(one), right.attach(other)) })
}

fn body(number: usize) -> Bytes {
    Bytes::from(format!("message {number}"))
}

#[tokio::test]
async fn what_is_sent_is_applied_in_order_and_answered() {
    let directory = tempfile::tempdir().unwrap();
    let seen = Seen::default();
    let (agent, _agent_events) = open("agent", "edge", directory.path(), nothing()).await;
    let (edge, _edge_events) = open("edge", "agent", directory.path(), echo(&seen)).await;
    join(&agent, &edge);
    let sender = agent.sender(MODE);
    let mut calls = Vec::new();
    for number in 0..2000 {
        calls.push(sender.send(App(1), body(number)).await.expect("taken"));
    }
    for (number, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await, Some(Outcome::Answered(body(number))));
    }
    assert_eq!(*seen.lock().unwrap(), (0..2000).map(body).collect::<Vec<_>>());
}

#[tokio::test]
async fn one_frame_in_ten_lost_on_either_leg_loses_no_message_and_applies_none_twice() {
    let directory = tempfile::tempdir().unwrap();
    let seen = Seen::default();
    let lossy = |inbox: MemoryInbox, seed| {
        let mut lane = Lane::new(MODE, inbox);
        lane.config.faults = Faults { lose_sent_one_in: 10, lose_received_one_in: 0, seed };
        lane
    };
    let agent = Link::open(names("agent", "edge"), directory.path().join("a"), vec![lossy(nothing(), 1)]).await;
    let edge = Link::open(names("edge", "agent"), directory.path().join("e"), vec![lossy(echo(&seen), 2)]).await;
    let ((agent, _agent_events), (edge, _edge_events)) = (agent.unwrap(), edge.unwrap());
    join(&agent, &edge);
    let sender = agent.sender(MODE);
    let mut calls = Vec::new();
    for number in 0..1000 {
        calls.push(sender.send(App(1), body(number)).await.expect("taken"));
    }
    for (number, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await, Some(Outcome::Answered(body(number))));
    }
    assert_eq!(*seen.lock().unwrap(), (0..1000).map(body).collect::<Vec<_>>());
    assert!(agent.standing(MODE).unwrap().stats.messages_sent_again > 0, "nothing was lost: the test shows nothing");
}

#[tokio::test]
async fn what_was_taken_before_a_restart_of_both_is_applied_after_it_and_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("inbox");
    let append = |state: &mut Vec<u8>, message: &steady_stream::Message| {
        state.extend_from_slice(&message.body);
        state.push(b'\n');
        Bytes::new()
    };
    // The first half is applied, the second only taken.
    {
        let (agent, _agent_events) = open("agent", "edge", directory.path(), nothing()).await;
        let (edge, _edge_events) =
            open("edge", "agent", directory.path(), FileInbox::open(&file, append).unwrap()).await;
        let joined = join(&agent, &edge);
        let sender = agent.sender(MODE);
        for number in 0..50 {
            let call = sender.send(App(1), body(number)).await.unwrap();
            assert!(matches!(call.await, Some(Outcome::Answered(_))));
        }
        edge.close().await;
        assert!(matches!(joined.await.unwrap().0, Ended::Lost(_)));
        for number in 50..100 {
            sender.send(App(1), body(number)).await.unwrap();
        }
        agent.close().await;
    }
    let (agent, _agent_events) = open("agent", "edge", directory.path(), nothing()).await;
    let (edge, _edge_events) = open("edge", "agent", directory.path(), FileInbox::open(&file, append).unwrap()).await;
    join(&agent, &edge);
    let last = agent.sender(MODE).send(App(1), body(100)).await.unwrap();
    assert!(matches!(last.await, Some(Outcome::Answered(_))));
    edge.close().await;
    let state = FileInbox::open(&file, append).unwrap().state().to_vec();
    let expected: String = (0..=100).map(|number| format!("message {number}\n")).collect();
    assert_eq!(String::from_utf8(state).unwrap(), expected);
}

#[tokio::test]
async fn what_was_not_sent_can_be_withdrawn_and_what_was_cannot() {
    let directory = tempfile::tempdir().unwrap();
    let seen = Seen::default();
    let (agent, _agent_events) = open("agent", "edge", directory.path(), nothing()).await;
    let sender = agent.sender(MODE);
    let first = sender.send(App(1), body(0)).await.unwrap();
    let second = sender.send(App(1), body(1)).await.unwrap();
    let third = sender.send(App(1), body(2)).await.unwrap();
    second.withdraw().await.expect("nothing has been sent yet");
    assert_eq!(second.await, Some(Outcome::Withdrawn));
    let (edge, _edge_events) = open("edge", "agent", directory.path(), echo(&seen)).await;
    join(&agent, &edge);
    assert_eq!(first.await, Some(Outcome::Answered(body(0))));
    assert_eq!(third.await, Some(Outcome::Answered(body(2))));
    assert_eq!(*seen.lock().unwrap(), [body(0), body(2)]);
    let late = sender.send(App(1), body(3)).await.unwrap();
    let position = late.position();
    assert_eq!(late.await, Some(Outcome::Answered(body(3))));
    assert_eq!(position, 4);
}

#[tokio::test]
async fn a_goodbye_drains_both_sides_and_ends_the_connection() {
    let directory = tempfile::tempdir().unwrap();
    let seen = Seen::default();
    let (agent, _agent_events) = open("agent", "edge", directory.path(), nothing()).await;
    let (edge, mut edge_events) = open("edge", "agent", directory.path(), echo(&seen)).await;
    let joined = join(&agent, &edge);
    let sender = agent.sender(MODE);
    let mut calls = Vec::new();
    for number in 0..100 {
        calls.push(sender.send(App(1), body(number)).await.unwrap());
    }
    assert_eq!(agent.goodbye(Duration::from_secs(30)).await, 0);
    for (number, call) in calls.into_iter().enumerate() {
        assert_eq!(call.await, Some(Outcome::Answered(body(number))));
    }
    assert!(matches!(sender.send(App(1), body(100)).await, Err(SendError::Leaving | SendError::Ended)));
    assert_eq!(joined.await.unwrap().0, Ended::Goodbye);
    while edge_events.next().await.expect("the edge's link goes on") != LinkEvent::Stream(MODE, Event::PeerLeaves) {}
}

#[tokio::test]
async fn a_goodbye_to_a_peer_that_is_away_ends_at_its_deadline_and_says_what_is_left() {
    let directory = tempfile::tempdir().unwrap();
    let (agent, _agent_events) = open("agent", "edge", directory.path(), nothing()).await;
    let _call = agent.sender(MODE).send(App(1), body(0)).await.unwrap();
    assert_eq!(agent.goodbye(Duration::from_millis(5)).await, 1);
    let (agent, _agent_events) = open("agent", "edge", directory.path(), nothing()).await;
    let seen = Seen::default();
    let (edge, _edge_events) = open("edge", "agent", directory.path(), echo(&seen)).await;
    join(&agent, &edge);
    let next = agent.sender(MODE).send(App(1), body(1)).await.unwrap();
    assert_eq!(next.await, Some(Outcome::Answered(body(1))));
    assert_eq!(*seen.lock().unwrap(), [body(0), body(1)]);
}

#[tokio::test]
async fn a_goodbye_ends_when_the_directory_is_free() {
    let directory = tempfile::tempdir().unwrap();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (told, mut applies) = tokio::sync::mpsc::unbounded_channel();
    let slow = MemoryInbox::new(move |_, _| {
        told.send(()).unwrap();
        let _ = held.recv();
        Bytes::new()
    });
    let (agent, _agent_events) = open("agent", "edge", directory.path(), nothing()).await;
    let (edge, _edge_events) = open("edge", "agent", directory.path(), slow).await;
    let joined = join(&agent, &edge);
    let _call = agent.sender(MODE).send(App(1), body(0)).await.unwrap();
    applies.recv().await.unwrap();
    let goodbye = tokio::spawn(async move { edge.goodbye(Duration::from_millis(5)).await });
    assert_eq!(joined.await.unwrap().1, Ended::Goodbye);
    // As many turns of this thread's runtime as anything here needs.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!goodbye.is_finished(), "a batch runs yet");
    release.send(()).unwrap();
    assert_eq!(goodbye.await.unwrap(), 0);
    open("edge", "agent", directory.path(), nothing()).await;
}

/// Fails a few times before it applies.
struct Reluctant(u32, MemoryInbox);

impl Inbox for Reluctant {
    fn load(&mut self, stream: &steady_stream::StreamId) -> Result<Option<Vec<u8>>, steady_stream::InboxError> {
        self.1.load(stream)
    }

    fn apply(&mut self, batch: &steady_stream::Batch) -> Result<Vec<Bytes>, steady_stream::InboxError> {
        if self.0 > 0 {
            self.0 -= 1;
            return Err("the store is busy".into());
        }
        self.1.apply(batch)
    }
}

#[tokio::test]
async fn a_batch_that_the_inbox_cannot_apply_is_given_to_it_again() {
    let directory = tempfile::tempdir().unwrap();
    let seen = Seen::default();
    let (agent, _agent_events) = open("agent", "edge", directory.path(), nothing()).await;
    let (edge, _edge_events) = open("edge", "agent", directory.path(), Reluctant(3, echo(&seen))).await;
    join(&agent, &edge);
    let call = agent.sender(MODE).send(App(1), body(0)).await.unwrap();
    assert_eq!(call.await, Some(Outcome::Answered(body(0))));
    assert_eq!(*seen.lock().unwrap(), [body(0)]);
}

#[tokio::test]
async fn a_mode_whose_inbox_stands_still_does_not_hold_up_another() {
    let directory = tempfile::tempdir().unwrap();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let slow = MemoryInbox::new(move |_, _| {
        let _ = held.recv();
        Bytes::new()
    });
    let lanes =
        |control: MemoryInbox, reports: MemoryInbox| vec![Lane::new(Mode(0), control), Lane::new(Mode(1), reports)];
    let agent = Link::open(names("agent", "edge"), directory.path().join("a"), lanes(nothing(), nothing())).await;
    let edge = Link::open(names("edge", "agent"), directory.path().join("e"), lanes(nothing(), slow)).await;
    let ((agent, _agent_events), (edge, _edge_events)) = (agent.unwrap(), edge.unwrap());
    join(&agent, &edge);
    let stuck = agent.sender(Mode(1)).send(App(1), body(0)).await.unwrap();
    let quick = agent.sender(Mode(0)).send(App(1), body(0)).await.unwrap();
    assert!(matches!(quick.await, Some(Outcome::Answered(_))));
    release.send(()).unwrap();
    assert!(matches!(stuck.await, Some(Outcome::Answered(_))));
}

#[tokio::test]
async fn a_second_process_cannot_open_the_same_log() {
    let directory = tempfile::tempdir().unwrap();
    let (_agent, _agent_events) = open("agent", "edge", directory.path(), nothing()).await;
    let again =
        Link::open(names("agent", "edge"), directory.path().join("agent"), vec![Lane::new(MODE, nothing())]).await;
    assert!(matches!(again, Err(OpenError::Locked { .. })));
}

#[tokio::test]
async fn a_damaged_log_is_refused_or_begun_anew_and_told() {
    let directory = tempfile::tempdir().unwrap();
    {
        let (agent, _agent_events) = open("agent", "edge", directory.path(), nothing()).await;
        for number in 0..20 {
            agent.sender(MODE).send(App(1), body(number)).await.unwrap();
        }
        agent.close().await;
    }
    let segment = directory.path().join("agent/mode-0/segment-0000000000000001");
    let mut octets = std::fs::read(&segment).unwrap();
    octets[100] ^= 1;
    std::fs::write(&segment, octets).unwrap();
    let path = directory.path().join("agent");
    let refused = Link::open(names("agent", "edge"), &path, vec![Lane::new(MODE, nothing())]).await;
    let Err(OpenError::Log { source, .. }) = refused else { panic!("a damaged log was opened") };
    assert!(source.to_string().contains("damaged"), "{source}");
    let mut lane = Lane::new(MODE, nothing());
    lane.on_damage = OnDamage::BeginAnew;
    let (agent, mut events) = Link::open(names("agent", "edge"), &path, vec![lane]).await.unwrap();
    assert!(matches!(events.next().await, Some(LinkEvent::LogBegunAnew(MODE, _))));
    let seen = Seen::default();
    let (edge, _edge_events) = open("edge", "agent", directory.path(), echo(&seen)).await;
    join(&agent, &edge);
    let call = agent.sender(MODE).send(App(1), body(7)).await.unwrap();
    assert_eq!(call.await, Some(Outcome::Answered(body(7))));
}
