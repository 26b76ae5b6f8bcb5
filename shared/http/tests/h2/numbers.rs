//! What happens when the numbers of streams run out (RFC 9113 §5.1.1), seen by beginning near their end.

use crate::support::*;
use steady_http::{Client as _, Codec, Limits};

/// The last that there is.
const LAST: u32 = (1 << 31) - 1;

#[test]
fn a_client_uses_the_last_number_and_then_has_no_more_and_its_streams_end_well() {
    let mut end = client(Limits { stream_first: LAST - 4, ..Limits::default() }, &[]);
    let mut opened = Vec::new();
    assert_eq!(end.codec.available(), 3);
    while let Some(stream) = end.codec.open(&request("GET", "/", &[]), true, &mut end.out) {
        opened.push(stream.id);
    }
    assert_eq!(opened, [LAST - 4, LAST - 2, LAST]);
    assert_eq!((end.codec.available(), end.codec.active(), end.codec.is_finished()), (0, 3, true));
    for id in opened.into_iter().rev() {
        let seen = end.hear(&frame(HEADERS, EH | ES, id, &block(&[(":status", "204")]))).unwrap();
        assert!(matches!(seen[..], [Seen::Head { id: heard, end: true, .. }] if heard == id), "{seen:?}");
    }
    assert_eq!(end.codec.active(), 0);
    assert!(end.codec.open(&request("GET", "/", &[]), true, &mut end.out).is_none());
}

#[test]
fn numbers_are_available_as_far_as_there_are_any_and_the_peer_allows() {
    let beginning_at =
        |stream_first| client(Limits { stream_first, ..Limits::default() }, &[(3, 10)]).codec.available();
    assert_eq!([1, LAST - 18, LAST - 16, LAST - 2, LAST].map(beginning_at), [10, 10, 9, 2, 1]);
}

#[test]
fn a_server_whose_client_nears_the_last_number_says_goaway_and_answers_what_still_comes() {
    let mut end = server(Limits::default());
    end.hear(&get(1, ES, &[])).unwrap();
    end.said();
    end.hear(&get(LAST - 20_002, ES, &[])).unwrap();
    assert!(end.said().iter().all(|frame| frame.kind != GOAWAY), "not yet");
    for (id, told) in [(LAST - 20_000, 1), (LAST - 2, 0), (LAST, 0)] {
        let seen = end.hear(&get(id, ES, &[])).unwrap();
        assert!(matches!(seen[..], [Seen::Head { id: heard, .. }] if heard == id), "{seen:?}");
        let said = end.said();
        let goaways: Vec<_> = said.iter().filter(|frame| frame.kind == GOAWAY).map(Frame::u32).collect();
        assert_eq!(goaways, vec![LAST; told], "once, and it refuses nothing");
        let stream = end.ids[&id];
        end.codec.send_head(stream, &response(204, &[]), true, &mut end.out);
    }
    let answered = end.said().iter().filter(|frame| frame.kind == HEADERS).count();
    assert_eq!(answered, 1, "the last one's; the others' were taken with what was said before");
    end.hear(&get(LAST - 4, ES, &[])).expect_err("a number below the last is none that may be used");
}
