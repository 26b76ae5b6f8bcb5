//! RFC 7541 as a server's peer can see it: blocks in, heads out; heads in, blocks out.

use std::rc::Rc;

use steady_http::error::code::COMPRESSION_ERROR;
use steady_http::h2::{Client, Server};
use steady_http::{Client as _, Codec, Limits, Scheme};

use crate::support::*;

fn plain() -> End<Server> {
    server(Limits::default())
}

/// What a request says that begins with a GET and goes on with these octets.
fn ask(end: &mut End<Server>, id: u32, more: &[u8]) -> Result<String, u32> {
    let octets = frame(HEADERS, EH | ES, id, &[&block(&GET), more].concat());
    match end.hear(&octets).map_err(|error| error.code)?.into_iter().next() {
        Some(Seen::Head { text, .. }) => Ok(text.strip_prefix("GET Https a.example /").unwrap().to_owned()),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn wrong(more: &[u8]) {
    assert_eq!(ask(&mut plain(), 1, more), Err(COMPRESSION_ERROR), "{more:x?}");
}

#[test]
fn rfc_7541_2_3_3_an_index_beyond_both_tables_and_index_0_are_errors() {
    wrong(&[0x80]);
    wrong(&[0x80 | 62]);
    wrong(&[0x7f, 0, 1, b'a']); // A name of index 63.
    wrong(&[0xff, 0xff, 0xff, 0xff, 0x7f]);
}

#[test]
fn rfc_7541_2_3_2_the_newest_entry_has_the_lowest_index() {
    let mut end = plain();
    assert_eq!(ask(&mut end, 1, b"\x40\x01a\x011\x40\x01b\x012").unwrap(), "|a=1|b=2");
    assert_eq!(ask(&mut end, 3, &[0x80 | 62, 0x80 | 63]).unwrap(), "|b=2|a=1");
}

/// A literal that enters the table, its name and value as octets.
fn kept(name: &str, len: usize) -> Vec<u8> {
    let mut octets = block(&[(name, "v".repeat(len))]);
    octets[0] = 0x40;
    octets
}

#[test]
fn rfc_7541_4_4_an_entry_evicts_what_it_needs_and_one_larger_than_the_table_empties_it() {
    // 1 + 4040 + 32 octets fit 4096, but not with the 34 of another.
    let mut end = plain();
    ask(&mut end, 1, b"\x40\x01a\x011").unwrap();
    assert!(ask(&mut end, 3, &kept("b", 4040)).unwrap().starts_with("|b=vvv"));
    assert!(ask(&mut end, 5, &[0x80 | 62]).unwrap().starts_with("|b=vvv"));
    assert_eq!(ask(&mut end, 7, &[0x80 | 63]), Err(COMPRESSION_ERROR), "the older one went");
    let mut end = plain();
    ask(&mut end, 1, b"\x40\x01a\x011").unwrap();
    assert!(ask(&mut end, 3, &kept("b", 4064)).unwrap().starts_with("|b=vvv"));
    assert_eq!(ask(&mut end, 5, &[0x80 | 62]), Err(COMPRESSION_ERROR), "neither is there");
}

#[test]
fn rfc_7541_4_4_an_entry_may_take_its_name_from_the_one_that_it_evicts() {
    let mut end = plain();
    assert!(ask(&mut end, 1, &kept("n", 3000)).unwrap().starts_with("|n=v"));
    // The same value after a name that is index 62.
    let again = [&[0x7e][..], &kept("n", 3000)[3..]].concat();
    assert!(ask(&mut end, 3, &again).unwrap().starts_with("|n=v"));
    assert!(ask(&mut end, 5, &[0x80 | 62]).unwrap().starts_with("|n=v"));
    assert_eq!(ask(&mut end, 7, &[0x80 | 63]), Err(COMPRESSION_ERROR));
}

#[test]
fn rfc_7541_5_1_integers_of_any_length_that_they_need_are_read_and_endless_ones_are_not() {
    // 1337 in five bits is 31, 154, 10 (appendix C.1.2); here as a size update, allowed and at the start.
    let mut end = plain();
    let block = [&[0x3f, 0x9a, 0x0a][..], &block(&GET)].concat();
    assert!(matches!(end.hear(&frame(HEADERS, EH | ES, 1, &block)).unwrap()[..], [Seen::Head { .. }]));
    wrong(b"\x00\x01a\x7f\x80\x00"); // 127 octets that are not there
    wrong(&[0xff, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00]);
    wrong(&[0xff]);
    wrong(&[0x7f, 0x80]);
}

#[test]
fn rfc_7541_5_2_a_string_is_not_longer_than_its_block() {
    wrong(b"\x00\x01a\x05abcd");
    wrong(b"\x00\x05abcd");
    wrong(&[0x00, 0x7f, 0xff, 0xff, 0xff, 0x7f]);
}

#[test]
fn rfc_7541_5_2_padding_of_huffman_is_ones_and_fewer_than_eight_and_eos_is_an_error() {
    let value = |octets: &[u8]| [&[0, 1, b'a', 0x80 | octets.len() as u8][..], octets].concat();
    assert_eq!(ask(&mut plain(), 1, &value(&[0b0001_1111])).unwrap(), "|a=a");
    wrong(&value(&[0b0001_1110]));
    wrong(&value(&[0b0001_1111, 0xff]));
    wrong(&value(&[0xff, 0xff, 0xff, 0xff]));
    wrong(&value(&[0b0001_1111, 0xff, 0xff, 0xff, 0xff]));
}

#[test]
fn rfc_7541_6_2_literals_are_kept_only_when_they_say_so() {
    let mut end = plain();
    assert_eq!(ask(&mut end, 1, b"\x00\x01a\x011\x10\x01b\x012").unwrap(), "|a=1|b=2");
    assert_eq!(ask(&mut end, 3, &[0x80 | 62]), Err(COMPRESSION_ERROR));
}

#[test]
fn rfc_7541_6_3_a_size_update_is_no_more_than_was_announced_and_comes_first() {
    for (update, fine) in [(&[0x20][..], true), (&[0x3f, 0xe1, 0x1f], true), (&[0x3f, 0xe2, 0x1f], false)] {
        let block = [update, &block(&GET)].concat();
        let seen = plain().hear(&frame(HEADERS, EH | ES, 1, &block));
        assert_eq!(seen.is_ok(), fine, "{update:x?}");
    }
    wrong(&[0x20]);
    let mut end = plain();
    let both = [&[0x20, 0x3f, 0xe1, 0x1f][..], &block(&GET)].concat();
    assert!(end.hear(&frame(HEADERS, EH | ES, 1, &both)).is_ok(), "two of them may come first");
}

#[test]
fn rfc_7541_4_3_a_smaller_table_evicts_at_once() {
    let mut end = plain();
    ask(&mut end, 1, b"\x40\x01a\x011").unwrap();
    let shrunk = [&[0x20, 0x3f, 0xe1, 0x1f][..], &block(&GET), &[0x80 | 62]].concat();
    assert_eq!(end.hear(&frame(HEADERS, EH | ES, 3, &shrunk)).unwrap_err().code, COMPRESSION_ERROR);
}

#[test]
fn rfc_9113_4_3_1_a_table_that_we_made_smaller_must_be_said_smaller_by_the_peer() {
    let limits = Limits { hpack_table_bytes: 100, ..Limits::default() };
    let hello = [PREFACE, &settings(&[]), &frame(SETTINGS, 1, 0, &[])].concat();
    let fresh = || {
        let mut end = End::of(Server::new(Rc::new(limits.clone()), Scheme::Https));
        end.hear(&hello).unwrap();
        end
    };
    assert_eq!(fresh().hear(&get(1, ES, &[])).unwrap_err().code, COMPRESSION_ERROR);
    for update in [&[0x3f, 0x45][..], &[0x20]] {
        let block = [update, &block(&GET)].concat();
        assert!(fresh().hear(&frame(HEADERS, EH | ES, 1, &block)).is_ok(), "{update:x?}");
    }
}

#[test]
fn rfc_7541_4_2_what_we_send_fits_the_table_that_the_peer_offers() {
    for size in [0, 64, 4096, 1 << 20] {
        let mut near = End::of(Client::new(Rc::new(Limits::default()), Scheme::Http));
        near.codec.start(&mut near.out);
        near.hear(&[settings(&[(1, size)]), frame(SETTINGS, 1, 0, &[])].concat()).unwrap();
        let mut far = server(Limits { hpack_table_bytes: size.min(4096), ..Limits::default() });
        near.out.clear();
        for round in 0..50 {
            let name = format!("x-{}", round % 7);
            let head = request("GET", "/", &[(&name, "value"), ("accept", "*/*")]);
            let stream = near.codec.open(&head, true, &mut near.out).unwrap();
            let seen = far.hear(&std::mem::take(&mut near.out)).unwrap();
            let right =
                matches!(&seen[..], [Seen::Head { text, .. }] if text.ends_with(&format!("|{name}=value|accept=*/*")));
            assert!(right, "{size}: {seen:?}");
            far.codec.send_head(far.ids[&stream.id], &response(204, &[]), true, &mut far.out);
            near.hear(&std::mem::take(&mut far.out)).unwrap();
        }
    }
}

#[test]
fn rfc_7541_6_2_3_what_came_as_never_indexed_goes_on_as_never_indexed() {
    let mut near = plain();
    let fields = [&block(&GET)[..], b"\x10\x08x-secret\x04abcd", b"\x00\x06x-open\x01y"].concat();
    near.hear(&frame(HEADERS, EH | ES, 1, &fields)).unwrap();
    let mut far = client(Limits::default(), &[]);
    for _ in 0..3 {
        far.out.clear();
        far.codec.open(&near.head, true, &mut far.out).unwrap();
        let block = far.said().remove(0).payload;
        let at = block.windows(4).position(|four| four == b"abcd").expect("the value, in the open");
        // 0x10, then a name that is a literal (the length of a Huffman string, or of octets) or an index; then the value.
        let name =
            block[..at - 1].iter().rposition(|&octet| octet == 0x10).expect("the mark of a literal never indexed");
        assert!(at - name < 12, "{block:x?}");
    }
}
