//! A base file that was damaged, or made by an enemy who knows the checksums, is refused, or is a table like any other: no
//! look-up in what opened panics.

mod common;

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;

use common::*;
use proptest::prelude::*;
use steady_table::{Change, Contents, TableDir, open_latest};

const HEADER: usize = 256;

/// A small table with all that a table can hold.
fn good() -> &'static [u8] {
    static GOOD: OnceLock<Vec<u8>> = OnceLock::new();
    GOOD.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let (mut table, _, _) = TableDir::open(dir.path()).unwrap();
        let mut contents: Contents = contents();
        contents.apps.extend((0..20).map(|n| app(&format!("app-{n}"), n % 3)));
        contents.apps[0].moving = moving(0, 1, 2);
        contents.apps[1].endpoints = (0..3).map(endpoint).collect();
        contents.customs.push((domain("a.org"), name("app-7")));
        table.replace(contents, 1).unwrap();
        fs::read(path(dir.path())).unwrap()
    })
}

fn path(dir: &std::path::Path) -> PathBuf {
    dir.join(format!("routes-{:020}.base", 1))
}

/// Opens these bytes as a base, looks everything up, and says whether they opened.
fn opens(bytes: &[u8]) -> bool {
    let dir = tempfile::tempdir().unwrap();
    fs::write(path(dir.path()), bytes).unwrap();
    let (routes, damage) = open_latest(dir.path()).unwrap();
    assert_eq!(routes.is_none(), damage.len() == 1);
    damage.iter().for_each(|damage| assert!(damage.to_string().len() > 20));
    let Some(routes) = routes else { return false };
    for route in routes.apps() {
        // What is there is found, and means something.
        let found = routes.by_name(route.name()).expect("an application that is listed is found");
        assert_eq!(to_app(found), to_app(route));
        assert!(found.endpoints().len() > 0);
        assert!(found.endpoints().all(|endpoint| routes.host(endpoint.host).is_some()));
    }
    assert_eq!(routes.apps().count(), routes.app_count());
    for (custom, app) in routes.customs() {
        assert_eq!(resolved(&routes, custom), app);
    }
    let _ = resolved(&routes, "nobody.steady.page");
    true
}

/// Makes every checksum right again, as far as the sections lie in the file.
fn fix_checksums(bytes: &mut [u8]) {
    if bytes.len() < HEADER {
        return;
    }
    for section in 0..6 {
        let place = 64 + section * 24;
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let from = usize::try_from(word(place)).unwrap_or(usize::MAX);
        let to = from.saturating_add(usize::try_from(word(place + 8)).unwrap_or(usize::MAX));
        if let Some(content) = bytes.get(from..to) {
            let crc = crc32c::crc32c(content);
            bytes[place + 16..place + 20].copy_from_slice(&crc.to_le_bytes());
        }
    }
    let crc = crc32c::crc32c(&bytes[..HEADER - 4]);
    bytes[HEADER - 4..HEADER].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn the_file_that_the_others_are_made_from_opens() {
    assert!(opens(good()));
    let mut fixed = good().to_vec();
    fix_checksums(&mut fixed);
    assert_eq!(fixed, good(), "the checksums of these tests are those of the format");
}

#[test]
fn a_file_with_any_one_byte_changed_is_refused() {
    for at in 0..good().len() {
        let mut bytes = good().to_vec();
        bytes[at] ^= 1 << (at % 8);
        assert!(!opens(&bytes), "byte {at}");
    }
}

#[test]
fn a_file_cut_anywhere_or_with_bytes_after_it_is_refused() {
    for len in (0..good().len()).step_by(7) {
        assert!(!opens(&good()[..len]), "{len} bytes");
        let mut bytes = good()[..len].to_vec();
        fix_checksums(&mut bytes);
        assert!(!opens(&bytes), "{len} bytes");
    }
    assert!(!opens(&[good(), b"\0"].concat()));
}

#[test]
fn a_byte_changed_with_right_checksums_never_panics() {
    // Every byte once, with a change that depends on its place: few open (a weight, a version, a seed of nothing).
    let mut opened = 0;
    for at in 0..good().len() {
        let mut bytes = good().to_vec();
        bytes[at] ^= [0x01, 0x80, 0xff, 0x04, 0x20][at % 5];
        fix_checksums(&mut bytes);
        opened += usize::from(opens(&bytes));
    }
    assert!(opened > 0 && opened < good().len() / 2, "{opened} of {}", good().len());
}

/// A log with every kind of change, and the base that it is for.
fn good_log() -> &'static (Vec<u8>, Vec<u8>) {
    static GOOD: OnceLock<(Vec<u8>, Vec<u8>)> = OnceLock::new();
    GOOD.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let (mut table, _, _) = TableDir::open(dir.path()).unwrap();
        let routes = table.replace(contents(), 1).unwrap();
        let changes = [Change::Put(app("new", 0)), Change::PutDomain(domain("a.org"), name("new"))];
        let routes = table.apply(&routes, &changes, 2).unwrap();
        let changes = [Change::SetHosts((0..4).map(host).collect()), Change::SetDomains(vec![domain("b.org")])];
        let routes = table.apply(&routes, &changes, 3).unwrap();
        let changes = [Change::RemoveDomain(domain("a.org")), Change::Remove(name("new")), Change::Put(app("shop", 3))];
        table.apply(&routes, &changes, 4).unwrap();
        (fs::read(path(dir.path())).unwrap(), fs::read(path(dir.path()).with_extension("log")).unwrap())
    })
}

/// Makes the checksum of every entry of a log right, as far as their lengths lead.
fn fix_log(bytes: &mut [u8]) {
    let mut at = 32;
    while let Some(head) = bytes.get(at..at + 16) {
        let len = u32::from_le_bytes(head[..4].try_into().unwrap()) as usize;
        let Some(content) = bytes.get(at + 8..at + 16 + len) else { return };
        let crc = crc32c::crc32c(content);
        bytes[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
        at += 16 + len;
    }
}

#[test]
fn a_byte_of_a_log_changed_with_right_checksums_never_panics_and_never_breaks_a_rule() {
    let (base, log) = good_log();
    let mut revisions = [0; 5];
    for at in 32..log.len() {
        for change in [0x01, 0x80, 0xff, 0x04] {
            let dir = tempfile::tempdir().unwrap();
            let mut bytes = log.clone();
            bytes[at] ^= change;
            fix_log(&mut bytes);
            fs::write(path(dir.path()), base).unwrap();
            fs::write(path(dir.path()).with_extension("log"), &bytes).unwrap();
            let (routes, damage) = open_latest(dir.path()).unwrap();
            let routes = routes.expect("the base is good");
            assert!(routes.apps().all(|app| app.endpoints().all(|endpoint| routes.host(endpoint.host).is_some())));
            assert!(routes.customs().all(|(custom, app)| resolved(&routes, custom) == app));
            assert_eq!(routes.apps().count(), routes.app_count());
            assert!(damage.len() <= 2);
            revisions[routes.revision().min(4) as usize] += 1;
        }
    }
    assert!(revisions[1..].iter().all(|count| *count > 0), "{revisions:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn many_bytes_changed_with_right_checksums_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        swap in prop::option::of((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1usize..80)),
    ) {
        let mut bytes = good().to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some((from, to, len)) = swap {
            let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
            let len = len.min(bytes.len() - from.max(to));
            bytes.copy_within(from..from + len, to);
        }
        fix_checksums(&mut bytes);
        opens(&bytes);
    }
}
