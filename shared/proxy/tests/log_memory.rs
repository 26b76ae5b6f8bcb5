//! What a log line costs in heap: nothing. One test, for the counter is global.

use steady_heap::{Counting, of_process};
use steady_proxy::log::{LogSink, LogWriter, json};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn lines_and_blocks_allocate_nothing_in_steady_state() {
    let dir = tempfile::tempdir().unwrap();
    let sink = LogSink::open(&dir.path().join("access.jsonl")).unwrap();
    let counters = sink.counters();
    let mut writer = sink.writer();
    let mut stamps = json::Timestamps::default();
    let mut round = |writer: &mut LogWriter, round: u64| {
        for line in 0..300 {
            writer.line(|out| {
                out.extend_from_slice(b"{\"time\":\"");
                stamps.append(out, 1_800_000_000_000_000_000 + (round * 300 + line) * 777_777_777);
                out.extend_from_slice(b"\",\"path\":");
                json::string(out, "/caf\u{e9}?\"quoted\"\\".as_bytes());
                out.extend_from_slice(b",\"status\":");
                json::unsigned(out, 200);
                out.push(b'}');
            });
        }
        let before = counters.octets_written();
        writer.flush();
        while counters.octets_written() == before {
            std::thread::yield_now();
        }
    };
    (0..20).for_each(|at| round(&mut writer, at));
    let before = of_process().allocations;
    (20..120).for_each(|at| round(&mut writer, at));
    let calls = of_process().allocations - before;
    // A third block may be made late, where the thread has written one but not handed it back yet.
    assert!(calls <= 8, "{calls} allocations for 30,000 lines in 100 blocks");
    assert_eq!(counters.lines_dropped(), 0);
}
