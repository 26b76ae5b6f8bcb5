//! Histories under a seed; `cargo run --release -p steady-stream --example simulate -- 10000` runs many more.

#[path = "sim/mod.rs"]
mod sim;

use std::time::Duration;

use sim::{Outcomes, Plan, World};
use steady_stream::Sound;

#[test]
fn nothing_is_lost_applied_twice_or_out_of_order_in_troubled_histories() {
    let mut sum = Outcomes::default();
    for seed in 0..200 {
        let outcomes = World::<Sound>::new(Plan::troubled(seed)).run().unwrap_or_else(|why| panic!("{why}"));
        sum.crashes += outcomes.crashes;
        sum.disks_lost += outcomes.disks_lost;
        sum.disconnections += outcomes.disconnections;
        sum.withdrawn += outcomes.withdrawn;
        sum.dropped += outcomes.dropped;
        sum.answered += outcomes.answered;
    }
    // The histories are what they are meant to be.
    assert!(sum.crashes > 500 && sum.disks_lost > 50 && sum.disconnections > 500, "{sum:?}");
    assert!(sum.withdrawn > 50 && sum.dropped > 50 && sum.answered > 20_000, "{sum:?}");
}

fn percentile(latencies: &mut [Duration], of_100: usize) -> Duration {
    latencies.sort_unstable();
    latencies[(latencies.len() * of_100).div_ceil(100) - 1]
}

#[test]
fn one_message_a_second_is_answered_within_150_ms_at_the_99th_percentile_with_one_in_ten_lost_both_ways() {
    let plan = Plan::quiet(Duration::from_secs(1), 10, Duration::from_secs(20_000));
    let mut outcomes = World::<Sound>::new(plan).run().unwrap();
    assert!(outcomes.answered > 19_000);
    let (p50, p99) = (percentile(&mut outcomes.latencies, 50), percentile(&mut outcomes.latencies, 99));
    println!("p50 {p50:?}, p99 {p99:?}");
    assert!(p99 <= Duration::from_millis(150), "{p99:?}");
}

#[test]
fn two_thousand_messages_a_second_take_at_most_eleven_frames_for_ten_of_them() {
    let plan = Plan::quiet(Duration::from_micros(500), 0, Duration::from_secs(20));
    let mut outcomes = World::<Sound>::new(plan).run().unwrap();
    assert!(outcomes.answered > 39_000);
    let p99 = percentile(&mut outcomes.latencies, 99);
    println!("{} frames for {} messages, p99 {p99:?}", outcomes.frames, outcomes.messages);
    assert!(
        outcomes.frames * 10 <= outcomes.messages * 11,
        "{} frames for {} messages",
        outcomes.frames,
        outcomes.messages
    );
    assert!(p99 <= Duration::from_millis(100), "{p99:?}");
}

/// Ten minutes without a connection, at 2,000 messages a second and with more patience than that.
#[test]
fn memory_is_bounded_in_an_outage_of_ten_minutes_and_everything_taken_arrives_after_it() {
    let mut plan = Plan::quiet(Duration::from_micros(500), 0, Duration::from_secs(605));
    plan.config.patience = Duration::from_secs(900);
    plan.config.messages_max = 20_000;
    plan.config.cache_max = 1 << 20;
    plan.away = Some((Duration::from_secs(2), Duration::from_secs(602)));
    let outcomes = World::<Sound>::new(plan.clone()).run().unwrap();
    assert!(outcomes.refused > 1_000_000, "the outage did not fill the log: {outcomes:?}");
    assert!(outcomes.waiting_max == plan.config.messages_max);
    // The cache, and for each message that waits what it takes beside its body.
    let bound = plan.config.cache_max + 2 * 256 * plan.config.messages_max;
    assert!(outcomes.memory_max <= bound, "{} octets, {bound} is the bound", outcomes.memory_max);
    assert_eq!(outcomes.answered, outcomes.messages);
}
