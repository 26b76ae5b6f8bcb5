//! Whatever a killed writer or a failing disk leaves, the newest table that is whole is found, and what was not is named.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::*;
use steady_table::{Change, DamageReason, Error, Limits, Options, Routes, TableDir, open_latest};

fn file(dir: &Path, name: &str) -> PathBuf {
    dir.join(name)
}

fn base(dir: &Path, revision: u64) -> PathBuf {
    file(dir, &format!("routes-{revision:020}.base"))
}

fn log(dir: &Path, revision: u64) -> PathBuf {
    file(dir, &format!("routes-{revision:020}.log"))
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A base of revision 1 and changes 2 to 5, each of which adds an application `r2` to `r5`.
fn history() -> (tempfile::TempDir, TableDir, Routes) {
    let dir = tempfile::tempdir().unwrap();
    let (mut table, _, _) = TableDir::open(dir.path()).unwrap();
    let mut routes = table.replace(contents(), 1).unwrap();
    for revision in 2..=5 {
        routes = table.apply(&routes, &[Change::Put(app(&format!("r{revision}"), 0))], revision).unwrap();
    }
    (dir, table, routes)
}

#[test]
fn the_second_writer_of_a_directory_is_told_that_it_is_held() {
    let (dir, table, _) = history();
    assert!(matches!(TableDir::open(dir.path()), Err(Error::Held { .. })));
    drop(table);
    TableDir::open(dir.path()).unwrap();
}

#[test]
fn a_reader_finds_the_newest_table_beside_the_writer_and_changes_nothing() {
    let (dir, _table, _) = history();
    let before = names(dir.path());
    let (routes, damage) = open_latest(dir.path()).unwrap();
    assert_eq!((routes.unwrap().revision(), damage), (5, vec![]));
    assert_eq!(names(dir.path()), before);
}

#[test]
fn a_log_cut_at_any_byte_gives_the_last_whole_change_and_goes_on_from_there() {
    let (dir, table, _) = history();
    drop(table);
    let whole = fs::read(log(dir.path(), 1)).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for len in 0..whole.len() {
        fs::write(log(dir.path(), 1), &whole[..len]).unwrap();
        let (mut table, routes, damage) = TableDir::open(dir.path()).unwrap();
        let routes = routes.unwrap();
        let revision = routes.revision();
        seen.insert(revision);
        assert_eq!(routes.app_count() as u64, 3 + revision - 1);
        // Between two entries nothing can be missed; anywhere else it is.
        let between = damage.is_empty();
        assert!(between || damage.len() == 1, "{damage:?}");
        let expected = if len < 32 { DamageReason::Short(len as u64) } else { DamageReason::TornTail(0) };
        if let [damage] = &damage[..] {
            assert_eq!(std::mem::discriminant(&damage.reason), std::mem::discriminant(&expected), "{len}: {damage}");
        }
        let next = table.apply(&routes, &[Change::Put(app("after", 1))], 9).unwrap();
        drop(table);
        let (routes, damage) = open_latest(dir.path()).unwrap();
        assert_eq!(damage, vec![], "cut at {len}");
        assert_eq!(app_names(&routes.unwrap()), app_names(&next));
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [1, 2, 3, 4]);
}

#[test]
fn a_log_with_any_byte_changed_is_used_up_to_there_and_kept_until_a_new_base_is_written() {
    let (dir, table, _) = history();
    drop(table);
    let whole = fs::read(log(dir.path(), 1)).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x41;
        fs::write(log(dir.path(), 1), &bytes).unwrap();
        let (routes, damage) = open_latest(dir.path()).unwrap();
        let routes = routes.unwrap();
        assert_eq!(damage.len(), 1, "byte {at}");
        assert!(routes.revision() < 5 && routes.app_count() as u64 == 2 + routes.revision(), "byte {at}");
    }
    // In the middle: not a torn write, so the next change goes to a new base and the log stays to be looked at.
    let mut bytes = whole.clone();
    bytes[60] ^= 1;
    fs::write(log(dir.path(), 1), &bytes).unwrap();
    let (mut table, routes, damage) = TableDir::open(dir.path()).unwrap();
    assert!(damage[0].to_string().contains("byte 32 of its log"), "{}", damage[0]);
    let routes = table.apply(&routes.unwrap(), &[Change::Put(app("after", 1))], 6).unwrap();
    assert_eq!(app_names(&routes), ["after", "blog", "shop", "wiki"]);
    assert_eq!(fs::read(log(dir.path(), 1)).unwrap(), bytes);
    assert!(base(dir.path(), 6).exists());
}

#[test]
fn a_log_of_another_base_is_not_used() {
    let (dir, table, _) = history();
    drop(table);
    let (other, other_table, _) = history();
    drop(other_table);
    fs::copy(log(other.path(), 1), log(dir.path(), 1)).unwrap();
    let (mut table, routes, damage) = TableDir::open(dir.path()).unwrap();
    assert_eq!(damage[0].reason, DamageReason::OtherBase);
    let routes = routes.unwrap();
    assert_eq!(routes.revision(), 1);
    let routes = table.apply(&routes, &[Change::Put(app("after", 1))], 2).unwrap();
    drop(table);
    let (again, damage) = open_latest(dir.path()).unwrap();
    assert_eq!((app_names(&again.unwrap()), damage), (app_names(&routes), vec![]));
}

#[test]
fn what_was_being_written_when_the_writer_was_killed_is_removed() {
    let (dir, table, _) = history();
    drop(table);
    fs::write(file(dir.path(), "routes.tmp"), b"STEADYRT and so on").unwrap();
    let (_table, routes, damage) = TableDir::open(dir.path()).unwrap();
    assert_eq!((routes.unwrap().revision(), damage), (5, vec![]));
    assert!(!file(dir.path(), "routes.tmp").exists());
}

#[test]
fn a_damaged_base_is_set_aside_and_the_one_before_serves() {
    let (dir, mut table, _) = history();
    table.replace(contents(), 6).unwrap();
    drop(table);
    let mut bytes = fs::read(base(dir.path(), 6)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(base(dir.path(), 6), bytes).unwrap();

    let (mut table, routes, damage) = TableDir::open(dir.path()).unwrap();
    let routes = routes.unwrap();
    assert_eq!((damage.len(), routes.revision()), (1, 5));
    assert_eq!(damage[0].reason, DamageReason::Checksum("customs"));
    assert!(names(dir.path()).contains(&format!("routes-{:020}.base.damaged", 6)));
    // What is changed now must not be lost behind the damaged one at the next start.
    table.apply(&routes, &[Change::Put(app("after", 1))], 6).unwrap();
    drop(table);
    let (table, routes, damage) = TableDir::open(dir.path()).unwrap();
    assert_eq!((routes.unwrap().revision(), damage), (6, vec![]));
    drop(table);
}

#[test]
fn with_every_base_damaged_there_is_no_table_and_a_new_one_can_be_written() {
    let (dir, table, _) = history();
    drop(table);
    fs::write(base(dir.path(), 1), b"not this").unwrap();
    fs::write(base(dir.path(), 7), b"").unwrap();
    let (mut table, routes, damage) = TableDir::open(dir.path()).unwrap();
    assert!(routes.is_none());
    assert_eq!(
        damage.iter().map(|d| d.reason.clone()).collect::<Vec<_>>(),
        [DamageReason::Short(0), DamageReason::Short(8)]
    );
    table.replace(contents(), 1).unwrap();
    drop(table);
    assert_eq!(names(dir.path()), ["lock".to_owned(), format!("routes-{:020}.base", 1)]);
    assert_eq!(open_latest(dir.path()).unwrap().0.unwrap().revision(), 1);
}

#[test]
fn a_base_under_the_name_of_another_revision_is_refused() {
    let (dir, table, _) = history();
    drop(table);
    fs::rename(base(dir.path(), 1), base(dir.path(), 3)).unwrap();
    let (routes, damage) = open_latest(dir.path()).unwrap();
    assert!(routes.is_none());
    assert_eq!(damage[0].reason, DamageReason::Name { found: 1, named: 3 });
}

#[test]
fn only_the_newest_base_and_the_one_before_it_are_kept() {
    let (dir, mut table, _) = history();
    for revision in 6..10 {
        table.replace(contents(), revision).unwrap();
    }
    let expected = ["lock".to_owned(), format!("routes-{:020}.base", 8), format!("routes-{:020}.base", 9)];
    assert_eq!(names(dir.path()), expected);
}

#[test]
fn a_log_that_reaches_its_bound_is_folded() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits { log_bytes: 1000, ..Limits::default() };
    let (mut table, _, _) = TableDir::open_with(dir.path(), Options { limits, ..Options::default() }).unwrap();
    let mut routes = table.replace(contents(), 1).unwrap();
    for revision in 2..60 {
        routes = table.apply(&routes, &[Change::Put(app("shop", 0))], revision).unwrap();
        for name in names(dir.path()).iter().filter(|name| name.ends_with(".log")) {
            assert!(fs::metadata(dir.path().join(name)).unwrap().len() <= 1000);
        }
    }
    assert!(!base(dir.path(), 1).exists());
    drop(table);
    assert_eq!(open_latest(dir.path()).unwrap().0.unwrap().revision(), 59);
}

#[test]
fn an_old_table_answers_after_its_file_is_gone() {
    let (dir, mut table, routes) = history();
    for revision in 6..9 {
        table.replace(contents(), revision).unwrap();
    }
    assert!(!base(dir.path(), 1).exists());
    assert_eq!(resolved(&routes, "r5.steady.page"), "r5");
}

#[test]
fn no_table_in_a_new_directory_and_an_error_without_one() {
    let dir = tempfile::tempdir().unwrap();
    assert!(open_latest(dir.path()).unwrap().0.is_none());
    let error = open_latest(dir.path().join("none")).unwrap_err();
    assert!(error.to_string().starts_with("cannot read "), "{error}");
}

#[test]
fn an_entry_that_its_table_cannot_take_is_named_and_left_out_with_all_after_it() {
    // Two histories with bases of one revision and one seed, so that the log of one fits the other's base in all but sense.
    let made = |apps: Vec<steady_table::App>| {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { random: || 7, ..Options::default() };
        let (mut table, _, _) = TableDir::open_with(dir.path(), options).unwrap();
        let contents = steady_table::Contents { apps, ..contents() };
        let routes = table.replace(contents, 1).unwrap();
        (dir, table, routes)
    };
    let (full, mut table, routes) = made(contents().apps);
    let routes = table.apply(&routes, &[Change::Put(app("one", 0))], 2).unwrap();
    let routes = table.apply(&routes, &[Change::Remove(name("wiki"))], 3).unwrap();
    table.apply(&routes, &[Change::Put(app("two", 0))], 4).unwrap();
    let (less, _table, _) = made(vec![app("shop", 0), app("blog", 1)]);
    let mut bytes = fs::read(log(full.path(), 1)).unwrap();
    let header = fs::read(base(less.path(), 1)).unwrap();
    bytes[12..16].copy_from_slice(&header[252..256]);
    let crc = crc32c::crc32c(&bytes[..28]);
    bytes[28..32].copy_from_slice(&crc.to_le_bytes());
    fs::write(log(less.path(), 1), bytes).unwrap();

    let (routes, damage) = open_latest(less.path()).unwrap();
    assert_eq!(app_names(&routes.unwrap()), ["blog", "one", "shop"]);
    assert!(damage[0].to_string().ends_with("there is no application wiki"), "{}", damage[0]);
}
