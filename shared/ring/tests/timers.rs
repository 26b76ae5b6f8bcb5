//! The timing wheel against a heap.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use proptest::prelude::*;
use steady_ring::{Time, Timers};

/// One tick: how late a timer may be.
const TICK: Duration = Duration::from_nanos(1 << 20);

#[derive(Clone, Debug)]
enum Step {
    /// Set a timer this far ahead (or behind: nanoseconds).
    Set(i64),
    /// Let time pass.
    Pass(u64),
    /// Sleep exactly until the wheel says.
    Sleep,
}

/// Spans of every magnitude, from a nanosecond to years.
fn span() -> impl Strategy<Value = u64> {
    (0u32..58, any::<u64>()).prop_map(|(bits, value)| value & ((1 << bits) - 1))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => span().prop_map(|ahead| Step::Set(ahead as i64)),
        1 => (0i64..1 << 40).prop_map(|behind| Step::Set(-behind)),
        2 => span().prop_map(Step::Pass),
        2 => Just(Step::Sleep),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_wheel_fires_what_a_heap_fires_never_early_and_at_most_a_tick_late(
        start in 0u64..1 << 50,
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut now = Time::from_nanos(start);
        let mut wheel = Timers::new(now);
        let mut heap = BinaryHeap::new();
        let mut due_at = Vec::new();
        for step in steps {
            match step {
                Step::Set(ahead) => {
                    let at = Time::from_nanos(now.as_nanos().saturating_add_signed(ahead));
                    wheel.set(due_at.len(), at);
                    heap.push(Reverse((at, due_at.len())));
                    due_at.push(Some(at));
                }
                Step::Pass(span) => now = now + Duration::from_nanos(span),
                Step::Sleep => {
                    if let Some(next) = wheel.next() {
                        let first = heap.peek().map(|Reverse((at, _))| *at).expect("the wheel holds what the heap holds");
                        prop_assert!(next <= first + TICK, "it would sleep past the first timer: {next} {first}");
                        now = now.max(next);
                    }
                }
            }
            while let Some(key) = wheel.expire(now) {
                let at = due_at[key].take();
                prop_assert!(at.is_some_and(|at| at <= now), "{key} fired early or twice");
            }
            while heap.peek().is_some_and(|Reverse((at, _))| *at + TICK <= now) {
                let Some(Reverse((at, key))) = heap.pop() else { unreachable!() };
                prop_assert!(due_at[key].is_none(), "{key} due at {at} has not fired at {now}");
            }
            heap.retain(|Reverse((_, key))| due_at[*key].is_some());
            prop_assert_eq!(wheel.len(), heap.len());
            prop_assert_eq!(wheel.next().is_some(), !heap.is_empty());
        }
    }
}

#[test]
fn sleeping_from_one_bound_to_the_next_reaches_every_timer_in_few_steps() {
    let mut now = Time::from_nanos(123_456_789_012);
    let mut wheel = Timers::new(now);
    for exponent in 0..50 {
        wheel.set(exponent, now + Duration::from_nanos(1 << exponent));
    }
    let (mut fired, mut naps) = (0, 0);
    while let Some(next) = wheel.next() {
        assert!(next >= now || fired > 0);
        now = now.max(next);
        naps += 1;
        while wheel.expire(now).is_some() {
            fired += 1;
        }
    }
    assert_eq!(fired, 50);
    assert!(naps <= 50 * 6, "{naps} naps");
}
