//! The table's files: whatever is in them, they are refused with a reason or look-ups in them do not panic.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use steady_table::{App, AppName, Change, Contents, DomainName, Endpoint, Host, HostIndex, TableDir, open_latest};

use crate::Octets;

const HEADER: usize = 256;

struct Good {
    base: Vec<u8>,
    log: Vec<u8>,
}

fn app(name: &str) -> App {
    App {
        name: AppName::new(name).expect("a name"),
        generation: 3,
        exclusive: false,
        version: 1,
        endpoints: vec![Endpoint { host: HostIndex(0), weight: 1, version: 1 }],
        moving: None,
    }
}

fn base_path(dir: &Path) -> std::path::PathBuf {
    dir.join(format!("routes-{:020}.base", 1))
}

/// Memory, where there is some: the files of a run are many.
fn dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory")
}

/// A table with a bit of everything.
fn good() -> &'static Good {
    static GOOD: OnceLock<Good> = OnceLock::new();
    GOOD.get_or_init(|| {
        let dir = dir();
        let (mut table, _, _) = TableDir::open(dir.path()).expect("an empty directory");
        let contents = Contents {
            hosts: vec![
                Host::new("h1", "127.0.0.1:1").expect("a host"),
                Host::new("h2", "127.0.0.1:2").expect("a host"),
            ],
            domains: vec![DomainName::new("steady.page").expect("a domain")],
            apps: (0..12).map(|n| app(&format!("app-{n}"))).collect::<Vec<_>>(),
            customs: vec![(DomainName::new("a.org").expect("a domain"), AppName::new("app-7").expect("a name"))],
        };
        let routes = table.replace(contents, 1).expect("a table");
        let routes = table.apply(&routes, &[Change::Put(app("new"))], 2).expect("a change");
        table.apply(&routes, &[Change::Remove(AppName::new("app-1").expect("a name"))], 3).expect("a change");
        let base = fs::read(base_path(dir.path())).expect("the base");
        let log = fs::read(base_path(dir.path()).with_extension("log")).expect("the log");
        Good { base, log }
    })
}

/// Changes to a good base and its log: where, and which octet; then every checksum is made right again. With an odd first
/// octet the input is the base as it is.
pub fn table(data: &[u8]) {
    let mut octets = Octets(data);
    let how = octets.one();
    let (mut base, mut log) = (good().base.clone(), good().log.clone());
    if how & 1 == 1 {
        base = octets.0.to_vec();
    } else {
        while !octets.is_empty() {
            let (at, octet) = (usize::from(octets.two()), octets.one());
            let file = if at & 0x8000 == 0 { &mut base } else { &mut log };
            let len = file.len();
            match at & 0x7fff {
                0x7fff => file.truncate(len * usize::from(octet) / 256),
                at => file[at % len] = octet,
            }
            if file.is_empty() {
                break;
            }
        }
    }
    if how & 2 == 0 {
        fix_base(&mut base);
        fix_log(&mut log);
    }
    let dir = dir();
    let path = base_path(dir.path());
    fs::write(&path, &base).expect("written");
    fs::write(path.with_extension("log"), &log).expect("written");
    let (routes, damage) = open_latest(dir.path()).expect("a directory that can be read");
    damage.iter().for_each(|damage| assert!(!damage.to_string().is_empty()));
    let Some(routes) = routes else {
        assert!(!damage.is_empty(), "refused without a reason");
        return;
    };
    assert_eq!(routes.apps().count(), routes.app_count());
    for route in routes.apps() {
        let found = routes.by_name(route.name()).expect("an application that is listed is found");
        assert_eq!(found.generation(), route.generation());
        assert!(found.endpoints().all(|endpoint| routes.host(endpoint.host).is_some()));
    }
    for (custom, app) in routes.customs() {
        let _ = (routes.resolve(custom.as_bytes()), routes.by_name(app));
    }
    let _ = routes.resolve(b"nobody.steady.page:443");
}

fn fix_base(bytes: &mut [u8]) {
    if bytes.len() < HEADER {
        return;
    }
    for section in 0..6 {
        let place = 64 + section * 24;
        let word =
            |at: usize| bytes[at..at + 8].iter().rev().fold(0usize, |word, &octet| word << 8 | usize::from(octet));
        let (from, to) = (word(place), word(place).saturating_add(word(place + 8)));
        if let Some(content) = bytes.get(from..to) {
            let sum = crc32c::crc32c(content);
            bytes[place + 16..place + 20].copy_from_slice(&sum.to_le_bytes());
        }
    }
    let sum = crc32c::crc32c(&bytes[..HEADER - 4]);
    bytes[HEADER - 4..HEADER].copy_from_slice(&sum.to_le_bytes());
}

/// The checksum of every entry, as far as their lengths lead.
fn fix_log(bytes: &mut [u8]) {
    let mut at = 32;
    while let Some(len) = bytes.get(at..at + 4) {
        let len = len.iter().rev().fold(0usize, |len, &octet| len << 8 | usize::from(octet));
        let Some(content) = bytes.get(at + 8..at + 16 + len) else { return };
        let sum = crc32c::crc32c(content);
        bytes[at + 4..at + 8].copy_from_slice(&sum.to_le_bytes());
        at += 16 + len;
    }
}
