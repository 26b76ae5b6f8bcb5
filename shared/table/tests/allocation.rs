//! A look-up takes nothing from the heap. In a program of its own, because it counts for the whole process.

#![allow(unsafe_code)] // The allocator that counts.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::*;
use steady_table::{Change, TableDir};

thread_local!(static TAKEN: Cell<u64> = const { Cell::new(0) });

struct Counting;

// SAFETY: everything is passed on to the system's allocator; the cell needs no memory of its own.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        TAKEN.with(|taken| taken.set(taken.get() + 1));
        // SAFETY: the caller's promises are those of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_lookup_takes_nothing_from_the_heap() {
    let dir = tempfile::tempdir().unwrap();
    let (mut table, _, _) = TableDir::open(dir.path()).unwrap();
    let routes = table.replace(contents(), 1).unwrap();
    let routes = table.apply(&routes, &[Change::Put(app("new", 1)), Change::Remove(name("wiki"))], 2).unwrap();
    let before = TAKEN.with(Cell::get);
    assert!(before > 0);
    let authorities =
        ["shop.steady.page", "NEW.steady.sh.:80", "wiki.localhost", "www.example.org:443", "x.org", "[::1]", "a b", ""];
    for authority in authorities {
        std::hint::black_box(routes.resolve(authority.as_bytes()));
    }
    let route = routes.by_name("new").unwrap();
    assert!(route.endpoints().all(|endpoint| routes.host(endpoint.host).is_some()));
    assert_eq!(TAKEN.with(Cell::get), before);
}
