//! RFC 7541's own examples, and the two sides against each other.

use super::plain::{Collector, Pairs};
use super::statics::Which;
use super::{Decoder, Encoder, HpackError};
use crate::head::Name;
use proptest::prelude::*;

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Pairs, HpackError> {
    let mut collector = Collector::default();
    decoder.decode(block, &mut collector)?;
    assert!(collector.arena.is_empty());
    Ok(collector.pairs)
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|octet| !octet.is_ascii_whitespace()).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn pairs(text: &[(&str, &str)]) -> Pairs {
    text.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

#[test]
fn single_fields_decode_as_appendix_c_2_says() {
    for (block, name, value) in [
        ("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572", "custom-key", "custom-header"),
        ("040c 2f73 616d 706c 652f 7061 7468", ":path", "/sample/path"),
        ("1008 7061 7373 776f 7264 0673 6563 7265 74", "password", "secret"),
        ("82", ":method", "GET"),
    ] {
        assert_eq!(decode(&mut Decoder::new(), &hex(block)).unwrap(), pairs(&[(name, value)]));
    }
}

#[test]
fn requests_decode_as_appendices_c_3_and_c_4_say() {
    let plain = [
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ];
    let huffman = [
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ];
    let authority = (":authority", "www.example.com");
    let expected = [
        pairs(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), authority]),
        pairs(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), authority, ("cache-control", "no-cache")]),
        pairs(&[
            (":method", "GET"),
            (":scheme", "https"),
            (":path", "/index.html"),
            authority,
            ("custom-key", "custom-value"),
        ]),
    ];
    for blocks in [plain, huffman] {
        let mut decoder = Decoder::new();
        for (block, expected) in blocks.iter().zip(&expected) {
            assert_eq!(&decode(&mut decoder, &hex(block)).unwrap(), expected);
        }
    }
}

#[test]
fn responses_decode_with_eviction_as_appendices_c_5_and_c_6_say() {
    let plain = [
        "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d \
         546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "4803 3330 37c1 c0bf",
        "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f \
         6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b \
         2076 6572 7369 6f6e 3d31",
    ];
    let huffman = [
        "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 \
         8f0b 97c8 e9ae 82ae 43d3",
        "4883 640e ffc1 c0bf",
        "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 \
         dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
    ];
    let (private, location) = (("cache-control", "private"), ("location", "https://www.example.com"));
    let date = ("date", "Mon, 21 Oct 2013 20:13:21 GMT");
    let expected = [
        pairs(&[(":status", "302"), private, date, location]),
        pairs(&[(":status", "307"), private, date, location]),
        pairs(&[
            (":status", "200"),
            private,
            ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
            location,
            ("content-encoding", "gzip"),
            ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
        ]),
    ];
    for blocks in [plain, huffman] {
        let mut decoder = Decoder::new();
        assert_eq!(decode(&mut decoder, &hex("3fe101")).unwrap(), vec![], "a table of 256 octets");
        for (block, expected) in blocks.iter().zip(&expected) {
            assert_eq!(&decode(&mut decoder, &hex(block)).unwrap(), expected);
        }
    }
}

#[test]
fn what_is_wrong_is_refused_by_name() {
    for (block, error) in [
        ("80", HpackError::Index),
        ("be", HpackError::Index),
        ("ff00", HpackError::Index),
        ("7f00 00", HpackError::Index),
        ("ff", HpackError::Truncated),
        ("ff80 8080 8080 8080 01", HpackError::Integer),
        ("ffff ffff ff0f", HpackError::Integer),
        ("00", HpackError::Truncated),
        ("0005 61", HpackError::Truncated),
        ("0001 6105 62", HpackError::Truncated),
        ("0001 6182 ffff", HpackError::Huffman),
        ("3fe2 1f", HpackError::TableSize),
        ("8220", HpackError::TableSize),
    ] {
        assert_eq!(decode(&mut Decoder::new(), &hex(block)), Err(error), "{block}");
    }
}

#[test]
fn a_smaller_table_that_was_acknowledged_must_be_said_at_the_next_blocks_start() {
    let mut decoder = Decoder::new();
    decoder.announced(100);
    assert_eq!(decode(&mut decoder, &hex("82")), Err(HpackError::TableSize));
    let mut decoder = Decoder::new();
    decoder.announced(100);
    assert!(decode(&mut decoder, &hex("3f45 82")).is_ok(), "100 is 31 + 69");
    assert!(decode(&mut decoder, &hex("82")).is_ok());
    assert_eq!(decode(&mut decoder, &hex("3f46")), Err(HpackError::TableSize));
}

fn encode(encoder: &mut Encoder, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    encoder.begin(&mut out);
    for (name, value) in fields {
        encoder.field(Which::from_name(name.as_bytes()), name.as_bytes(), value.as_bytes(), &mut out);
    }
    out
}

#[test]
fn what_repeats_is_one_octet_and_what_is_secret_or_unique_is_never_indexed() {
    let mut encoder = Encoder::new(4096, true);
    let repeats = [(":authority", "a.steady.page"), ("user-agent", "curl/8"), ("accept", "*/*"), ("x-tenant", "blue")];
    assert!(encode(&mut encoder, &repeats).len() > 20);
    assert_eq!(encode(&mut encoder, &repeats).len(), 4);
    for (name, pattern) in
        [("cookie", 0x10), ("authorization", 0x10), ("set-cookie", 0x10), ("etag", 0), (":path", 0x10)]
    {
        let block = encode(&mut encoder, &[(name, "/v")]);
        assert_eq!(block[0] & 0xf0, pattern, "{name}");
        assert_eq!(encode(&mut encoder, &[(name, "/v")]), block, "{name}");
    }
    let first = encode(&mut encoder, &[("x-request-id", "0123")]);
    assert_eq!(first[0], 0x40, "the name goes into the table");
    for id in ["4567", "89ab"] {
        let block = encode(&mut encoder, &[("x-request-id", id)]);
        assert!(block.len() <= 6 && block[0] & 0xf0 == 0, "and is referred to: {block:?}");
    }
}

#[test]
fn a_name_whose_values_never_repeat_stops_flushing_the_table() {
    let mut encoder = Encoder::new(4096, false);
    encode(&mut encoder, &[("user-agent", "curl/8")]);
    let mut inserted = 0;
    for number in 0..1000 {
        let block = encode(&mut encoder, &[("x-unique", &format!("{number:040}"))]);
        inserted += usize::from(block[0] & 0xc0 == 0x40);
    }
    assert!(inserted < 150, "{inserted}");
}

#[test]
fn a_table_that_shrank_and_grew_between_blocks_is_said_as_both() {
    let mut encoder = Encoder::new(4096, false);
    let mut decoder = Decoder::new();
    let fields = [("user-agent", "curl/8")];
    decode(&mut decoder, &encode(&mut encoder, &fields)).unwrap();
    encoder.offered(0);
    encoder.offered(4096);
    let block = encode(&mut encoder, &fields);
    assert_eq!(&block[..4], &hex("203f e11f")[..]);
    assert_eq!(decode(&mut decoder, &block).unwrap(), pairs(&fields));
    encoder.offered(100);
    assert_eq!(decode(&mut decoder, &encode(&mut encoder, &fields)).unwrap(), pairs(&fields));
    let same = encode(&mut encoder, &fields);
    assert_eq!(same.len(), 1, "it fits the smaller table too");
    assert_eq!(decode(&mut decoder, &same).unwrap(), pairs(&fields));
}

fn a_field() -> impl Strategy<Value = (String, String)> {
    let name = prop_oneof![
        proptest::sample::select(Name::ALL)
            .prop_map(|name| String::from_utf8(name.as_bytes().to_vec()).unwrap())
            .prop_filter("dropped", |name| {
                ![
                    "connection",
                    "host",
                    "http2-settings",
                    "keep-alive",
                    "proxy-connection",
                    "transfer-encoding",
                    "upgrade",
                ]
                .contains(&name.as_str())
            }),
        "x-[a-d]",
        Just(":path".to_owned()),
        Just(":authority".to_owned()),
    ];
    (name, prop_oneof!["[a-c]{0,2}", "[ -~]{0,80}", "\\PC{0,40}", Just("v".repeat(1500))])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_encoded_decodes_to_the_same(
        blocks in proptest::collection::vec(proptest::collection::vec(a_field(), 0..20), 1..15),
        sizes in proptest::collection::vec(proptest::option::of(0usize..6000), 15),
        own_max in 0usize..6000,
        huffman: bool,
    ) {
        let mut encoder = Encoder::new(own_max, huffman);
        let mut decoder = Decoder::new();
        for (block, size) in blocks.iter().zip(sizes) {
            if let Some(size) = size {
                encoder.offered(size);
                decoder.announced(size);
            }
            let fields: Vec<_> = block.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let encoded = encode(&mut encoder, &fields);
            // Where the allowance fell below what both used, an update is due; ours says so exactly then.
            prop_assert_eq!(decode(&mut decoder, &encoded), Ok(pairs(&fields)));
        }
    }

    #[test]
    fn random_octets_never_panic(blocks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..10)) {
        let mut decoder = Decoder::new();
        for block in blocks {
            if decode(&mut decoder, &block).is_err() {
                break;
            }
        }
    }
}
