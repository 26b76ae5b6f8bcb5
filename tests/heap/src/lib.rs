//! An allocator that counts, for tests that promise what something costs in heap, and for the bench.
//!
//! A program declares it as its own:
//!
//! ```
//! #[global_allocator]
//! static ALLOCATOR: steady_heap::Counting = steady_heap::Counting;
//!
//! let before = steady_heap::of_thread();
//! drop(Box::new([0u8; 100]));
//! assert_eq!((steady_heap::of_thread() - before).allocations, 1);
//! ```
//!
//! Counted are the calling thread, the whole process, and, for tests of programs with threads of their own, whichever threads are
//! watched ([`watch`]). Memory that C code takes is not seen.
#![allow(unsafe_code, reason = "an allocator is unsafe by its nature")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::ops::Sub;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock};

/// The system's allocator, and the counters of this module.
#[derive(Debug)]
pub struct Counting;

/// Since the beginning, or between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heap {
    /// Allocations; one that grows or shrinks counts again.
    pub allocations: u64,
    /// What is held, in octets. Of a thread it may be negative: another's memory was freed.
    pub octets: i64,
}

impl Sub for Heap {
    type Output = Heap;

    fn sub(self, earlier: Heap) -> Heap {
        Heap { allocations: self.allocations - earlier.allocations, octets: self.octets - earlier.octets }
    }
}

thread_local! {
    static THREAD: Cell<Heap> = const { Cell::new(Heap { allocations: 0, octets: 0 }) };
    /// A thread that looks where an allocation came from allocates for that.
    static LOOKING: Cell<bool> = const { Cell::new(false) };
}

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static OCTETS: AtomicI64 = AtomicI64::new(0);
static WATCHING: AtomicBool = AtomicBool::new(false);
static IS_WATCHED: OnceLock<fn() -> bool> = OnceLock::new();
static WATCHED: AtomicU64 = AtomicU64::new(0);
static FIRST: Mutex<String> = Mutex::new(String::new());

/// What this thread has allocated and holds.
pub fn of_thread() -> Heap {
    THREAD.get()
}

/// What all threads together have allocated and hold.
pub fn of_process() -> Heap {
    Heap { allocations: ALLOCATIONS.load(Relaxed), octets: OCTETS.load(Relaxed) }
}

/// Does `work` and counts the allocations meanwhile of the threads for which `is_watched` holds. It is asked on the thread itself,
/// must not allocate, and is the same whenever a program watches; nobody else watches meanwhile.
///
/// The result, the number of allocations, and where the first one came from.
pub fn watch<T>(is_watched: fn() -> bool, work: impl FnOnce() -> T) -> (T, u64, String) {
    IS_WATCHED.get_or_init(|| is_watched);
    WATCHED.store(0, Relaxed);
    WATCHING.store(true, Relaxed);
    let done = work();
    WATCHING.store(false, Relaxed);
    (done, WATCHED.load(Relaxed), FIRST.lock().map(|mut first| std::mem::take(&mut *first)).unwrap_or_default())
}

fn count(allocations: u64, octets: i64) {
    ALLOCATIONS.fetch_add(allocations, Relaxed);
    OCTETS.fetch_add(octets, Relaxed);
    // While a thread ends there is nothing left to count in.
    let _ = THREAD.try_with(|heap| {
        let Heap { allocations: before, octets: held } = heap.get();
        heap.set(Heap { allocations: before + allocations, octets: held + octets });
    });
    if allocations > 0 && WATCHING.load(Relaxed) {
        note();
    }
}

#[cold]
fn note() {
    if LOOKING.try_with(Cell::get).unwrap_or(true) || !IS_WATCHED.get().is_some_and(|is_watched| is_watched()) {
        return;
    }
    if WATCHED.fetch_add(1, Relaxed) == 0 {
        LOOKING.set(true);
        if let Ok(mut first) = FIRST.lock() {
            *first = Backtrace::force_capture().to_string();
        }
        LOOKING.set(false);
    }
}

/// A layout never holds more than `isize::MAX` octets.
fn size(octets: usize) -> i64 {
    octets as i64
}

// SAFETY: every call goes to the system's allocator as it came. Counting touches none of its memory, and its thread-locals are
// constants without a destructor, so that reaching them allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(1, size(layout.size()));
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(1, size(layout.size()));
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(0, -size(layout.size()));
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(1, size(new_size) - size(layout.size()));
        // SAFETY: the caller's promise, passed on.
        unsafe { System.realloc(at, layout, new_size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[global_allocator]
    static ALLOCATOR: Counting = Counting;

    thread_local!(static CHOSEN: Cell<bool> = const { Cell::new(false) });

    #[test]
    fn what_is_taken_and_given_back_is_counted_for_the_thread_and_the_process() {
        let (thread, process) = (of_thread(), of_process());
        let mut held = std::hint::black_box(Vec::<u8>::with_capacity(1000));
        assert_eq!(of_thread() - thread, Heap { allocations: 1, octets: 1000 });
        held.reserve_exact(3000);
        drop(std::hint::black_box(vec![0u8; 50]));
        assert_eq!(of_thread() - thread, Heap { allocations: 3, octets: 3000 });
        drop(held);
        assert_eq!(of_thread() - thread, Heap { allocations: 3, octets: 0 });
        assert!((of_process() - process).allocations >= 3);
    }

    #[test]
    fn of_the_threads_that_are_watched_each_allocation_counts_and_the_first_is_told() {
        let on_a_thread = |chosen: bool| {
            let work = move || {
                CHOSEN.set(chosen);
                drop(std::hint::black_box(Box::new(7)));
                CHOSEN.set(false);
            };
            std::thread::spawn(work).join().unwrap();
        };
        let ((), watched, first) = watch(CHOSEN_HERE, || on_a_thread(true));
        assert_eq!(watched, 1);
        assert!(first.contains("alloc"), "{first}");
        let ((), watched, first) = watch(CHOSEN_HERE, || on_a_thread(false));
        assert_eq!((watched, &*first), (0, ""));
    }

    const CHOSEN_HERE: fn() -> bool = || CHOSEN.try_with(Cell::get).unwrap_or(false);
}
