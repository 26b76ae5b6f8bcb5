//! Runs many histories of the message stream and says how long it took: `simulate [HOW MANY] [FIRST SEED]`.
//!
//! A history that fails names its seed; `SIM_TRACE=1 … simulate 1 SEED` tells it step by step.

#[path = "../tests/sim/mod.rs"]
mod sim;

use std::process::ExitCode;
use std::time::Instant;

use sim::{Plan, World};
use steady_stream::Sound;

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|argument| argument.parse::<u64>().expect("a number"));
    let (count, first) = (numbers.next().unwrap_or(10_000), numbers.next().unwrap_or(0));
    let start = Instant::now();
    let mut failed = 0;
    let (mut messages, mut frames, mut crashes, mut seconds) = (0, 0, 0, 0.0);
    for seed in first..first + count {
        match World::<Sound>::new(Plan::troubled(seed)).run() {
            Ok(outcomes) => {
                messages += outcomes.messages;
                frames += outcomes.frames;
                crashes += outcomes.crashes;
                seconds += outcomes.ended_at.as_secs_f64();
            }
            Err(why) => {
                failed += 1;
                eprintln!("{why}");
            }
        }
    }
    let took = start.elapsed().as_secs_f64();
    println!(
        "{count} histories in {took:.1} s: {messages} messages, {frames} frames, {crashes} crashes, {:.0} simulated hours; {failed} failed",
        seconds / 3600.0
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
