//! A look-up takes nothing from the heap. In a program of its own, because it counts for the whole process.

mod common;

use common::*;
use steady_heap::{Counting, of_thread};
use steady_table::{Change, TableDir};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_lookup_takes_nothing_from_the_heap() {
    let dir = tempfile::tempdir().unwrap();
    let (mut table, _, _) = TableDir::open(dir.path()).unwrap();
    let routes = table.replace(contents(), 1).unwrap();
    let routes = table.apply(&routes, &[Change::Put(app("new", 1)), Change::Remove(name("wiki"))], 2).unwrap();
    let before = of_thread().allocations;
    assert!(before > 0);
    let authorities =
        ["shop.steady.page", "NEW.steady.sh.:80", "wiki.localhost", "www.example.org:443", "x.org", "[::1]", "a b", ""];
    for authority in authorities {
        std::hint::black_box(routes.resolve(authority.as_bytes()));
    }
    let route = routes.by_name("new").unwrap();
    assert!(route.endpoints().all(|endpoint| routes.host(endpoint.host).is_some()));
    assert_eq!(of_thread().allocations, before);
}
