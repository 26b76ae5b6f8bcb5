use std::collections::VecDeque;
use std::fs;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};

use super::*;

fn say(writer: &mut LogWriter, text: &str) {
    writer.line(|out| out.extend_from_slice(text.as_bytes()));
}

/// A disk that does with each write what it is told, waiting to be told.
struct Told {
    orders: Receiver<Order>,
    /// Says that a write has begun.
    begun: Sender<()>,
    written: Written,
}

enum Order {
    Write(usize),
    Fail,
}

impl Output for Told {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let _ = self.begun.send(());
        match self.orders.recv() {
            Ok(Order::Write(limit)) => {
                let length = octets.len().min(limit);
                self.written.lock().unwrap().extend_from_slice(&octets[..length]);
                Ok(length)
            }
            Ok(Order::Fail) | Err(_) => Err(io::ErrorKind::StorageFull.into()),
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.written.lock().unwrap().extend_from_slice(b"[reopened]");
        Ok(())
    }
}

/// What was written.
type Written = Arc<Mutex<Vec<u8>>>;

fn told() -> (LogSink, Sender<Order>, Receiver<()>, Written) {
    let (orders, receiver) = channel();
    let (begun, begins) = channel();
    let written = Written::default();
    let sink = LogSink::start(Told { orders: receiver, begun, written: written.clone() }).unwrap();
    (sink, orders, begins, written)
}

/// Waits for the next write, without the pause that follows a failed one.
fn begun_at_once(sink: &LogSink, begins: &Receiver<()>) {
    while begins.try_recv().is_err() {
        sink.handle.thread.unpark();
        thread::yield_now();
    }
}

#[test]
fn lines_of_all_workers_are_in_the_file_whole_when_the_sink_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.jsonl");
    fs::write(&path, "before\n").unwrap();
    let sink = LogSink::open(&path).unwrap();
    thread::scope(|scope| {
        for worker in 0..3 {
            let mut writer = sink.writer();
            // Few enough that no block is dropped, however slow the disk.
            scope.spawn(move || (0..2000).for_each(|line| say(&mut writer, &format!("{worker} {line} {:0200}", 0))));
        }
    });
    let counters = sink.counters();
    drop(sink);
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(counters.octets_written(), text.len() as u64 - 7);
    assert_eq!(counters.lines_dropped(), 0);
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some("before"));
    let mut next = [0; 3];
    for line in lines {
        let mut words = line.split(' ');
        let worker: usize = words.next().unwrap().parse().unwrap();
        assert_eq!(words.next().unwrap().parse(), Ok(next[worker]));
        assert_eq!(words.next().unwrap().len(), 200);
        next[worker] += 1;
    }
    assert_eq!(next, [2000; 3]);
}

#[test]
fn a_reopened_log_goes_on_in_the_new_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.jsonl");
    let sink = LogSink::open(&path).unwrap();
    let mut writer = sink.writer();
    say(&mut writer, "old");
    writer.flush();
    while sink.counters().octets_written() < 4 {
        thread::yield_now();
    }
    fs::rename(&path, dir.path().join("access.1")).unwrap();
    sink.handle().reopen();
    say(&mut writer, "new");
    drop(writer);
    drop(sink);
    assert_eq!(fs::read_to_string(dir.path().join("access.1")).unwrap(), "old\n");
    assert_eq!(fs::read_to_string(&path).unwrap(), "new\n");
}

#[test]
fn a_log_that_cannot_be_reopened_stays_in_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let logs = dir.path().join("logs");
    fs::create_dir(&logs).unwrap();
    let sink = LogSink::open(&logs.join("access.jsonl")).unwrap();
    let mut writer = sink.writer();
    fs::rename(&logs, dir.path().join("away")).unwrap();
    sink.handle().reopen();
    say(&mut writer, "line");
    drop(writer);
    let counters = sink.counters();
    drop(sink);
    assert_eq!(fs::read_to_string(dir.path().join("away/access.jsonl")).unwrap(), "line\n");
    assert_eq!(counters.write_errors(), 1);
}

#[test]
fn a_worker_whose_blocks_are_all_under_way_drops_and_counts_and_goes_on() {
    let (sink, orders, begins, written) = told();
    let mut writer = sink.writer();
    let mut other = sink.writer();
    say(&mut writer, "0");
    writer.flush();
    begins.recv().unwrap();
    // One block is held by the write that waits; the last one stays with the worker.
    for line in 1..BLOCKS_PER_WRITER + 3 {
        say(&mut writer, &line.to_string());
        say(&mut writer, "and");
        writer.flush();
    }
    assert_eq!(sink.counters().blocks_dropped(), 4);
    assert_eq!(sink.counters().lines_dropped(), 8);
    // Another worker's blocks are not affected.
    say(&mut other, "other");
    other.flush();
    assert_eq!(sink.counters().blocks_dropped(), 4);
    for _ in 0..BLOCKS_PER_WRITER {
        orders.send(Order::Write(usize::MAX)).unwrap();
    }
    for _ in 1..BLOCKS_PER_WRITER {
        begins.recv().unwrap();
    }
    // The other worker's write has begun, so that all of this one's blocks are back or about to be.
    while writer.spare.try_recv().map(|block| writer.home.try_send(block).unwrap()).is_err() {
        thread::yield_now();
    }
    say(&mut writer, "again");
    writer.flush();
    assert_eq!(sink.counters().blocks_dropped(), 4);
    orders.send(Order::Write(usize::MAX)).unwrap();
    drop((writer, other));
    drop(sink);
    let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
    let kept: String = (1..BLOCKS_PER_WRITER - 1).map(|line| format!("{line}\nand\n")).collect();
    assert_eq!(text, format!("0\n{kept}other\nagain\n"));
}

#[test]
fn a_failed_write_is_counted_and_goes_on_where_it_stopped() {
    let (sink, orders, begins, written) = told();
    let mut writer = sink.writer();
    say(&mut writer, "first");
    say(&mut writer, "second");
    writer.flush();
    for order in [Order::Write(3), Order::Fail, Order::Write(usize::MAX)] {
        begun_at_once(&sink, &begins);
        orders.send(order).unwrap();
    }
    drop(writer);
    let counters = sink.counters();
    drop(sink);
    assert_eq!(*written.lock().unwrap(), b"first\nsecond\n");
    assert_eq!((counters.write_errors(), counters.lines_dropped()), (1, 0));
}

#[test]
fn a_file_opened_in_the_middle_of_a_line_begins_with_the_whole_line() {
    let (sink, orders, begins, written) = told();
    let mut writer = sink.writer();
    say(&mut writer, "first");
    say(&mut writer, "second");
    writer.flush();
    begins.recv().unwrap();
    orders.send(Order::Write(9)).unwrap();
    begins.recv().unwrap();
    sink.handle().reopen();
    orders.send(Order::Fail).unwrap();
    begun_at_once(&sink, &begins);
    orders.send(Order::Write(usize::MAX)).unwrap();
    drop(writer);
    drop(sink);
    assert_eq!(written.lock().unwrap().escape_ascii().to_string(), "first\\nsec[reopened]second\\n");
}

#[test]
fn a_sink_that_is_dropped_on_a_full_disk_ends_and_counts() {
    let (sink, orders, _begins, _) = told();
    let mut writer = sink.writer();
    say(&mut writer, "lost");
    say(&mut writer, "lost too");
    writer.flush();
    let counters = sink.counters();
    drop(orders);
    drop(sink);
    assert_eq!(counters.lines_dropped(), 2);
    say(&mut writer, "after the end");
    drop(writer);
    assert_eq!(counters.lines_dropped(), 3);
}

#[test]
fn lines_are_handed_over_when_old_and_not_before() {
    let (sink, orders, begins, written) = told();
    let mut writer = sink.writer();
    let at = Duration::from_millis;
    writer.tick(at(0));
    assert_eq!(writer.due(), None);
    say(&mut writer, "line");
    writer.tick(at(1000));
    writer.tick(at(1099));
    assert_eq!(writer.lines, 1);
    assert_eq!(writer.due(), Some(at(1100)));
    writer.tick(at(1100));
    assert_eq!((writer.lines, writer.due()), (0, None));
    begins.recv().unwrap();
    orders.send(Order::Write(usize::MAX)).unwrap();
    drop(sink);
    assert_eq!(*written.lock().unwrap(), b"line\n");
}

#[test]
fn a_line_that_is_too_long_is_dropped_alone_and_a_full_block_never_grows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.jsonl");
    let sink = LogSink::open(&path).unwrap();
    let mut writer = sink.writer();
    let mut blocks = VecDeque::from([writer.block.as_ptr()]);
    for length in [LINE_OCTETS_MAX - 1, LINE_OCTETS_MAX, 5, 20_000, 6] {
        writer.line(|out| out.extend(std::iter::repeat_n(b'x', length)));
    }
    for _ in 0..10 {
        writer.line(|out| out.extend(std::iter::repeat_n(b'y', 10_000)));
        assert_eq!(writer.block.capacity(), BLOCK_OCTETS);
        blocks.push_back(writer.block.as_ptr());
    }
    assert!(blocks.iter().any(|block| *block != blocks[0]), "blocks were handed over");
    drop(writer);
    assert_eq!(sink.counters().lines_dropped(), 2);
    drop(sink);
    let lengths: Vec<usize> = fs::read_to_string(&path).unwrap().lines().map(str::len).collect();
    assert_eq!(lengths[..3], [LINE_OCTETS_MAX - 1, 5, 6]);
    assert_eq!(lengths[3..], [10_000; 10]);
}

#[test]
fn blocks_come_back_and_no_more_are_made() {
    let dir = tempfile::tempdir().unwrap();
    let sink = LogSink::open(&dir.path().join("access.jsonl")).unwrap();
    let mut writer = sink.writer();
    for round in 1..100 {
        say(&mut writer, "0123456789");
        writer.flush();
        while sink.counters().octets_written() < round * 11 {
            thread::yield_now();
        }
    }
    // One that is filled, one that is written, and one that is on its way home: the one before is back when the next is written.
    assert!(writer.made <= 3, "{} blocks", writer.made);
    assert_eq!(sink.counters().lines_dropped(), 0);
}
