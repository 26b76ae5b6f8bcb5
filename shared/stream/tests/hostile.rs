//! A peer whose frames are whole and say what no peer of ours would say.

use std::time::Duration;

use steady_stream::wire::{Body, Frame, Hello, VERSION};
use steady_stream::{Config, Event, Mode, NoBodies, Recovered, Sound, Stream, StreamId};

#[test]
fn a_hello_with_positions_that_no_log_reaches_is_refused() {
    for (floor, received_below) in [(u64::MAX, 1), (u64::MAX - 5, 1), (1, u64::MAX), ((1 << 62) + 1, 1)] {
        let (id, now) = (StreamId::new("us", "them", Mode(1)), Duration::from_secs(1));
        let mut stream: Stream<Sound> =
            Stream::open(id, Config::default(), Recovered::new(10), None, now, 3).expect("nothing was saved");
        stream.connected(now);
        let (from, to) = ("them".to_owned(), "us".to_owned());
        let hello = Hello { version: VERSION, from, to, epoch: 20, floor, received_below, ..Hello::default() };
        stream.receive(now, Frame { mode: 1, feedback: None, body: Some(Body::Hello(hello)) });
        let event = stream.event();
        assert!(matches!(&event, Some(Event::PeerIsAnother { detail }) if detail.contains("positions")), "{event:?}");
        assert_eq!(stream.transmit(now, &mut NoBodies).expect("no body is read"), None);
    }
}
