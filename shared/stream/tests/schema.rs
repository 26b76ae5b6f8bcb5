//! The frames: that the committed code is what the schema generates, and that yesterday's frames are still understood.

use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use steady_stream::wire::{self, Answer, Body, Data, Feedback, Frame, Goodbye, Grant, Hello, Pace, Probe};

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// With `STEADY_BLESS=1` it writes the file instead.
#[test]
fn the_committed_code_is_what_the_schema_generates() {
    let descriptors = protox::compile([here("proto/stream.proto")], [here("proto")]).expect("the schema compiles");
    let out = tempfile::tempdir().expect("a directory");
    prost_build::Config::new().bytes(["."]).out_dir(out.path()).compile_fds(descriptors).expect("the schema generates");
    let generated = std::fs::read_to_string(out.path().join("steady.stream.v1.rs")).expect("the generated file");
    let committed = here("src/wire/generated.rs");
    if std::env::var_os("STEADY_BLESS").is_some() {
        std::fs::write(&committed, &generated).expect("the committed file is written");
    }
    let committed = std::fs::read_to_string(&committed).unwrap_or_default();
    assert!(
        generated == committed,
        "src/wire/generated.rs isn't what proto/stream.proto generates: STEADY_BLESS=1 cargo test -p steady-stream --test schema"
    );
}

/// One frame of each kind with every field set, and the name of the file that holds its octets.
fn version_1() -> Vec<(&'static str, Frame)> {
    let pace = Some(Pace { floor: 900, granted_below: 1300, blocked: true, immediate: true });
    let feedback = Feedback {
        epoch: 1_700_000_000_000_000_001,
        received_below: 500,
        bits: Bytes::from_static(&[0b1010_0110, 1]),
        durable_below: 480,
        answers_from: 470,
        answers_below: 480,
        answers: vec![Answer { position: 472, body: Bytes::from_static(b"started") }],
        grants: vec![Grant { from: 512, until: 576, seed: 0xfeed_beef, verifier: 0x1234_5678 }],
    };
    let hello = Hello {
        version: 1,
        from: "host-7".into(),
        to: "edge-1".into(),
        epoch: 1_700_000_000_000_000_000,
        floor: 900,
        next: 1000,
        peer_epoch: 1_700_000_000_000_000_001,
        received_below: 500,
        durable_below: 480,
        seen: true,
    };
    let data = Data {
        epoch: 1_700_000_000_000_000_000,
        position: 999,
        number: 1021,
        application: 12,
        body: Bytes::from_static(b"stop"),
        checksum: 0x89ab_cdef,
        tombstone: true,
        pace,
    };
    let probe = Probe { epoch: 1_700_000_000_000_000_000, pace };
    vec![
        ("hello-1", Frame { mode: 3, feedback: None, body: Some(Body::Hello(hello)) }),
        ("data-1", Frame { mode: 3, feedback: Some(feedback.clone()), body: Some(Body::Data(data)) }),
        ("probe-1", Frame { mode: 3, feedback: None, body: Some(Body::Probe(probe)) }),
        ("goodbye-1", Frame { mode: 3, feedback: None, body: Some(Body::Goodbye(Goodbye { drained: true })) }),
        ("feedback-1", Frame { mode: 3, feedback: Some(feedback), body: None }),
    ]
}

/// The files are never written again once a version has been released; a new version adds its own.
#[test]
fn the_frames_of_version_1_are_read_and_written_as_they_always_were() {
    for (name, frame) in version_1() {
        let path = here("tests/frames").join(name);
        let mut written = BytesMut::new();
        wire::encode(&frame, &mut written);
        if std::env::var_os("STEADY_BLESS").is_some() && !path.exists() {
            std::fs::write(&path, &written).expect("the frame is written");
        }
        let golden = std::fs::read(&path).expect("the frame is in the repository");
        assert_eq!(written[..], golden[..], "{name} is written otherwise than it was");
        let mut octets = BytesMut::from(&golden[..]);
        assert_eq!(
            wire::decode(&mut octets, 1 << 20).expect("a frame"),
            Some(frame),
            "{name} is read otherwise than it was"
        );
        assert!(octets.is_empty());
    }
}

#[test]
fn what_a_later_version_adds_to_a_frame_is_skipped() {
    for (name, frame) in version_1() {
        let golden = std::fs::read(here("tests/frames").join(name)).expect("the frame is in the repository");
        let mut later = golden[4..].to_vec();
        // Fields 90 (a varint), 91 (octets) and 92 (four octets) of a later version.
        later.extend_from_slice(&[0xd0, 0x05, 0x96, 0x01, 0xda, 0x05, 3, 1, 2, 3, 0xe5, 0x05, 1, 2, 3, 4]);
        let mut octets = BytesMut::from(&u32::try_from(later.len()).unwrap().to_le_bytes()[..]);
        octets.extend_from_slice(&later);
        assert_eq!(wire::decode(&mut octets, 1 << 20).expect("a frame"), Some(frame), "{name}");
    }
}

#[test]
fn octets_that_are_no_frame_are_an_error_and_never_a_panic() {
    let mut rng = fastrand::Rng::with_seed(3);
    let frames: Vec<Vec<u8>> =
        version_1().iter().map(|(name, _)| std::fs::read(here("tests/frames").join(name)).unwrap()).collect();
    for _ in 0..20_000 {
        let mut octets = frames[rng.usize(..frames.len())].clone();
        for _ in 0..rng.usize(1..4) {
            let at = rng.usize(4..octets.len());
            octets[at] = rng.u8(..);
        }
        let mut octets = BytesMut::from(&octets[..]);
        let _ = wire::decode(&mut octets, 1 << 20);
    }
    let mut long = BytesMut::from(&[0xff, 0xff, 0xff, 0x7f, 0][..]);
    assert!(wire::decode(&mut long, 1 << 20).is_err(), "a length that no frame has");
    let mut short = BytesMut::from(&frames[0][..frames[0].len() - 1]);
    assert_eq!(wire::decode(&mut short, 1 << 20).unwrap(), None, "the rest is awaited");
}
