//! What was measured, and what is computed from it.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Setting;
use super::outside::Tool;
use super::rows::{ROWS, Row, What};
use super::shape::Measured;
use super::who::Who;

/// One row in one setting.
#[derive(Debug, Serialize, Deserialize)]
pub struct Outcome {
    pub row: String,
    pub setting: Setting,
    pub load: Tool,
    pub who: Vec<Who>,
    /// Requests a second, in an open loop.
    pub rate: Option<f64>,
    /// By round, in the order of `who`; an error where it failed.
    pub rounds: Vec<Vec<Result<Sample, String>>>,
}

/// Of one proxy in one round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Sample {
    Load(Measured),
    /// Octets of a connection, and of the whole process with all of them.
    Memory {
        connection: f64,
        process: f64,
    },
    /// To the first answer, and octets of the process then.
    Start {
        millis: f64,
        process: f64,
    },
}

impl Sample {
    pub fn load(&self) -> Option<&Measured> {
        match self {
            Sample::Load(measured) => Some(measured),
            _ => None,
        }
    }
}

/// Median, least and most.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Spread {
    pub median: f64,
    pub least: f64,
    pub most: f64,
}

impl Spread {
    pub fn of(values: impl Iterator<Item = f64>) -> Option<Spread> {
        let mut sorted: Vec<f64> = values.collect();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        Some(Spread { median, least, most })
    }
}

impl Outcome {
    pub fn row(&self) -> Option<&'static Row> {
        ROWS.iter().find(|row| row.name == self.row)
    }

    fn what(&self) -> What {
        self.row().map_or(What::Cost, |row| row.what)
    }

    /// What proxies are compared by: CPU µs per request, p99.9 (under attack p99) in µs, KiB per connection, milliseconds.
    pub fn figure(&self, sample: &Sample) -> f64 {
        match (sample, self.what()) {
            (Sample::Load(measured), What::Latency(_)) => measured.latency[2].as_secs_f64() * 1e6,
            (Sample::Load(measured), What::Attack(_)) => measured.latency[1].as_secs_f64() * 1e6,
            (Sample::Load(measured), _) => measured.micros_per_request(),
            (Sample::Memory { connection, .. }, _) => connection / 1024.0,
            (Sample::Start { millis, .. }, _) => *millis,
        }
    }

    /// Over the rounds that went well and have such a value.
    pub fn of(&self, at: usize, value: impl Fn(&Sample) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.rounds.iter().filter_map(|round| value(round.get(at)?.as_ref().ok()?)))
    }

    pub fn figures(&self, at: usize) -> Option<Spread> {
        self.of(at, |sample| Some(self.figure(sample)))
    }

    /// Of the proxy, as it is called.
    pub fn at(&self, who: Who) -> Option<usize> {
        self.who.iter().position(|other| *other == who)
    }

    /// Which of the others one is compared with: ours with the peers, or with the build before where it is there; in a row of
    /// our own the others with the first.
    fn references(&self, at: usize) -> Vec<usize> {
        let all = |wanted: &dyn Fn(Who) -> bool| -> Vec<usize> {
            (0..self.who.len()).filter(|&other| other != at && wanted(self.who[other])).collect()
        };
        match (self.what(), self.who[at]) {
            (What::Own(_) | What::Attack(_), _) => {
                if at == 0 {
                    Vec::new()
                } else {
                    vec![0]
                }
            }
            (_, Who::Before) => Vec::new(),
            (_, who) if !who.is_ours() => Vec::new(),
            _ if self.who.contains(&Who::Before) => all(&|other| other == Who::Before),
            _ => all(&Who::is_peer),
        }
    }

    /// Its figure by that of the best of its references, in the same round.
    pub fn ratio(&self, at: usize) -> Option<Spread> {
        let references = self.references(at);
        Spread::of(self.rounds.iter().filter_map(|round| {
            let figure = |at: usize| round.get(at)?.as_ref().ok().map(|sample| self.figure(sample));
            let best = references.iter().filter_map(|&at| figure(at)).min_by(f64::total_cmp)?;
            // A figure of nothing can only be compared with itself.
            (best > 0.0).then_some(figure(at)? / best)
        }))
    }

    pub fn error(&self, at: usize) -> Option<&str> {
        self.rounds.iter().find_map(|round| round.get(at)?.as_ref().err()).map(String::as_str)
    }

    fn file(dir: &Path, setting: Setting, row: &str, load: Tool) -> std::path::PathBuf {
        dir.join("rows").join(format!("{}-{row}-{}.json", setting.name(), load.name()))
    }

    /// Keeps it, so that an interrupted run can go on.
    ///
    /// # Errors
    /// What the disk says.
    pub fn save(&self, dir: &Path) -> io::Result<()> {
        let file = Outcome::file(dir, self.setting, &self.row, self.load);
        fs::create_dir_all(dir.join("rows"))?;
        fs::write(file, serde_json::to_vec(self)?)
    }

    /// What an earlier run kept, if it measured the same proxies as often.
    pub fn kept(dir: &Path, row: &str, setting: Setting, load: Tool, who: &[Who], rounds: usize) -> Option<Outcome> {
        let text = fs::read(Outcome::file(dir, setting, row, load)).ok()?;
        let outcome: Outcome = serde_json::from_slice(&text).ok()?;
        (outcome.who == who && outcome.rounds.len() >= rounds).then_some(outcome)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn measured(micros: f64) -> Result<Sample, String> {
        let cpu = serde_json::from_value(serde_json::json!({ "nanos": (micros * 1e6) as u64, "user": 1, "system": 1 }))
            .unwrap();
        let latency = [Duration::ZERO; 3];
        Ok(Sample::Load(Measured { requests: 1000, seconds: 1.0, latency, cpu, counts: None }))
    }

    fn outcome(who: &[Who], rounds: Vec<Vec<Result<Sample, String>>>) -> Outcome {
        let (row, who) = ("h1-64".to_owned(), who.to_vec());
        Outcome { row, setting: Setting::Bare, load: Tool::Own, who, rate: None, rounds }
    }

    #[test]
    fn a_ratio_is_to_the_best_peer_of_the_same_round_and_never_to_a_baseline() {
        let who = [Who::Steady, Who::Haproxy, Who::Nginx, Who::Floor];
        let round = |own, one, other| vec![measured(own), measured(one), measured(other), measured(0.5)];
        let outcome = outcome(&who, vec![round(5.0, 10.0, 20.0), round(6.0, 40.0, 8.0), round(9.0, 10.0, 30.0)]);
        let ratio = outcome.ratio(0).unwrap();
        assert_eq!([ratio.median, ratio.least, ratio.most], [0.75, 0.5, 0.9]);
        assert!(outcome.ratio(1).is_none());
        assert!(outcome.ratio(3).is_none());
    }

    #[test]
    fn a_proxy_that_fails_takes_only_its_own_figures_away() {
        let who = [Who::Steady, Who::Haproxy, Who::Nginx];
        let broken = || Err("does not serve".to_owned());
        let outcome = outcome(&who, vec![vec![measured(5.0), broken(), measured(10.0)]]);
        assert_eq!(outcome.ratio(0).unwrap().median, 0.5);
        assert_eq!(outcome.error(1), Some("does not serve"));
        assert!(outcome.figures(1).is_none());
    }

    #[test]
    fn what_was_kept_is_taken_only_for_the_same_proxies_and_as_many_rounds() {
        let dir = tempfile::tempdir().unwrap();
        let who = [Who::Steady, Who::Nginx];
        outcome(&who, vec![vec![measured(5.0), measured(9.0)]]).save(dir.path()).unwrap();
        let kept = |who: &[Who], rounds| Outcome::kept(dir.path(), "h1-64", Setting::Bare, Tool::Own, who, rounds);
        assert_eq!(kept(&who, 1).unwrap().figures(1).unwrap().median, 9.0);
        assert!(kept(&who, 2).is_none());
        assert!(kept(&[Who::Steady], 1).is_none());
    }
}
