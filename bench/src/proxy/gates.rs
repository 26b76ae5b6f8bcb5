//! The gates: what the figures have to be for the project to say of itself what it says.

use std::fmt::Write as _;

use super::Setting;
use super::outcome::Outcome;
use super::shape::Measured;
use super::who::Who;

/// How much worse a ratio may be in production.
const PRODUCTION_SLACK: f64 = 0.05;

/// What of a row is bounded.
#[derive(Clone, Copy, Debug)]
enum Bound {
    /// Steady's ratio to the best peer, in both settings.
    Ratio,
    /// One's ratio to its reference.
    RatioOf(Who),
    /// Steady's own figure.
    Figure(&'static str),
    Syscalls,
    Allocations,
}

#[derive(Debug)]
struct Gate {
    row: &'static str,
    of: Bound,
    most: f64,
    stretch: Option<f64>,
}

const fn gate(row: &'static str, of: Bound, most: f64) -> Gate {
    Gate { row, of, most, stretch: None }
}

const fn stretched(row: &'static str, most: f64, stretch: f64) -> Gate {
    Gate { row, of: Bound::Ratio, most, stretch: Some(stretch) }
}

const GATES: &[Gate] = &[
    stretched("h1-64", 0.65, 0.50),
    stretched("h1-512", 0.50, 0.40),
    gate("h1-1", Bound::Ratio, 0.80),
    stretched("h1-tls-64", 0.65, 0.55),
    stretched("h2-tls-8x16", 0.60, 0.45),
    gate("tls-full", Bound::Ratio, 1.0),
    gate("tls-resumed", Bound::Ratio, 0.9),
    gate("down-64k", Bound::Ratio, 0.9),
    gate("down-1m", Bound::Ratio, 0.9),
    gate("up-64k", Bound::Ratio, 0.9),
    gate("up-1m", Bound::Ratio, 0.9),
    gate("h2-tls-down-64k", Bound::Ratio, 0.9),
    gate("h2-tls-down-1m", Bound::Ratio, 0.9),
    gate("h2-tls-up-64k", Bound::Ratio, 0.9),
    gate("h2-tls-up-1m", Bound::Ratio, 0.9),
    gate("memory-tls", Bound::Figure("KiB"), 5.0),
    gate("memory-plain", Bound::Figure("KiB"), 0.5),
    gate("applications", Bound::RatioOf(Who::Apps1m), 1.05),
    gate("swaps", Bound::RatioOf(Who::Swaps), 1.10),
    gate("moves", Bound::RatioOf(Who::Moves), 1.10),
    gate("chain", Bound::RatioOf(Who::Chain), 0.65),
    gate("attack", Bound::RatioOf(Who::Attacked), 2.0),
    gate("latency-50", Bound::Ratio, 1.0),
    gate("h1-64", Bound::Syscalls, 0.15),
    gate("h1-64", Bound::Allocations, 0.0),
    gate("h1-512", Bound::Allocations, 0.0),
    gate("h2-8x16", Bound::Allocations, 0.0),
];

/// An allocation in so many requests is the last growth of a buffer, not a request's.
const ALLOCATIONS_NOISE: f64 = 0.0005;

impl Gate {
    fn name(&self) -> String {
        match self.of {
            Bound::Ratio if self.row.starts_with("latency") => format!("{}, p99.9 to the best peer's", self.row),
            Bound::Ratio => format!("{}, CPU to the best peer's", self.row),
            Bound::RatioOf(Who::Attacked) => format!("{}, p99 of the good client with the attack to without", self.row),
            Bound::RatioOf(who) => format!("{}, {}", self.row, who.name()),
            Bound::Figure(unit) => format!("{}, {unit} per connection", self.row),
            Bound::Syscalls => format!("{}, system calls per request", self.row),
            Bound::Allocations => format!("{}, heap allocations per request", self.row),
        }
    }

    fn value(&self, outcome: &Outcome) -> Option<f64> {
        let median = |at, value: &dyn Fn(&Measured) -> Option<f64>| {
            outcome.of(at, |sample| value(sample.load()?)).map(|spread| spread.median)
        };
        let steady = outcome.at(Who::Steady);
        match self.of {
            Bound::Ratio => Some(outcome.ratio(steady?)?.median),
            Bound::RatioOf(who) => Some(outcome.ratio(outcome.at(who)?)?.median),
            Bound::Figure(_) => Some(outcome.figures(steady?)?.median),
            Bound::Syscalls => median(steady?, &Measured::syscalls),
            Bound::Allocations => median(steady?, &Measured::allocations),
        }
    }

    fn most(&self, setting: Setting) -> f64 {
        match (self.of, setting) {
            (Bound::Ratio, Setting::Production) => self.most + PRODUCTION_SLACK,
            (Bound::Allocations, _) => self.most + ALLOCATIONS_NOISE,
            _ => self.most,
        }
    }

    fn verdict(&self, outcomes: &[Outcome], setting: Setting) -> String {
        let of_row = outcomes.iter().find(|outcome| outcome.row == self.row && outcome.setting == setting);
        let Some(value) = of_row.and_then(|outcome| self.value(outcome)) else { return String::new() };
        let is_stretch = self.stretch.is_some_and(|stretch| value <= stretch);
        let verdict = match value <= self.most(setting) {
            true if is_stretch => "met, and the stretch",
            true => "met",
            false => "**not met**",
        };
        format!("{value:.2} {verdict}")
    }
}

/// Each gate, its figure in both settings, and whether it is met. Empty when nothing of them was measured.
pub fn markdown(outcomes: &[Outcome]) -> String {
    let mut rows = String::new();
    for gate in GATES {
        let [bare, production] = [Setting::Bare, Setting::Production].map(|setting| gate.verdict(outcomes, setting));
        if bare.is_empty() && production.is_empty() {
            continue;
        }
        let stretch = gate.stretch.map_or(String::new(), |stretch| format!("{stretch:.2}"));
        let _ = writeln!(rows, "| {} | {:.2} | {stretch} | {bare} | {production} |", gate.name(), gate.most);
    }
    if rows.is_empty() {
        return rows;
    }
    format!(
        "### Gates\n\nRatios may be {PRODUCTION_SLACK:.2} worse in production.\n\n\
         | gate | at most | stretch | bare | production |\n|---|---|---|---|---|\n{rows}"
    )
}

#[cfg(test)]
mod tests {
    use super::super::rows::ROWS;
    use super::*;

    #[test]
    fn every_gate_is_of_a_row_that_is_measured() {
        for gate in GATES {
            assert!(ROWS.iter().any(|row| row.name == gate.row), "{gate:?}");
        }
    }
}
