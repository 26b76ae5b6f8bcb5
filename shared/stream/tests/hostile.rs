//! A peer whose frames are whole and say what no peer of ours would say.

use std::time::Duration;

use steady_stream::wire::{Body, Frame, Hello, VERSION};
use steady_stream::{Config, Event, Mode, NoBodies, Recovered, Sound, Stream, StreamId};

/// What a stream that has just connected says to a hello.
fn refused(hello: Hello) -> String {
    let (id, now) = (StreamId::new("us", "them", Mode(1)), Duration::from_secs(1));
    let mut stream: Stream<Sound> =
        Stream::open(id, Config::default(), Recovered::new(10), None, now, 3).expect("nothing was saved");
    stream.connected(now);
    let (from, to) = ("them".to_owned(), "us".to_owned());
    let hello = Hello { version: VERSION, from, to, ..hello };
    stream.receive(now, Frame { mode: 1, feedback: None, body: Some(Body::Hello(hello)) });
    let Some(Event::PeerIsAnother { detail }) = stream.event() else { panic!("it is taken") };
    assert_eq!(stream.transmit(now, &mut NoBodies).expect("no body is read"), None);
    detail
}

#[test]
fn a_hello_with_positions_that_no_log_reaches_is_refused() {
    for (floor, received_below) in [(u64::MAX, 1), (u64::MAX - 5, 1), (1, u64::MAX), ((1 << 62) + 1, 1)] {
        let detail = refused(Hello { epoch: 20, floor, received_below, ..Hello::default() });
        assert!(detail.contains("positions"), "{detail}");
    }
}

// It was taken for the log that one knows before any was seen: its gap was told of, and then messages below that came.
#[test]
fn a_hello_that_does_not_say_which_log_it_has_is_refused() {
    let detail = refused(Hello { epoch: 0, floor: 97, received_below: 1, ..Hello::default() });
    assert!(detail.contains("which log"), "{detail}");
}
