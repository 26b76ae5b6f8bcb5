//! What is measured.

use super::Setting;
use super::shape::{Life, Shape};
use super::who::Who;

/// One row of the tables.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub name: &'static str,
    pub shape: Shape,
    pub what: What,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum What {
    /// CPU per request in a closed loop.
    Cost,
    /// Latency in an open loop, at this part of the best peer's most requests a second in `h1-64`.
    Latency(f64),
    /// CPU per request of these, which are compared with the first.
    Own(&'static [Who]),
    /// Latency in an open loop, so many requests a second, with hostile clients beside it and without.
    Attack(f64),
    /// The whole way from the edge to an application's process.
    Chain,
    /// Memory of connections that have had one answer and stay.
    Memory,
    /// From the start of a process with a table of a million applications to its first answer.
    Start,
}

const fn row(name: &'static str, h2: bool, tls: bool, connections: usize, streams: usize) -> Row {
    let shape = Shape { h2, tls, connections, streams, download: 100, upload: 0, life: Life::Kept };
    Row { name, shape, what: What::Cost }
}

impl Row {
    const fn down(mut self, octets: usize) -> Row {
        self.shape.download = octets;
        self
    }

    const fn up(mut self, octets: usize) -> Row {
        self.shape.upload = octets;
        self
    }

    const fn life(mut self, life: Life) -> Row {
        self.shape.life = life;
        self
    }

    const fn what(mut self, what: What) -> Row {
        self.what = what;
        self
    }

    /// Whether there is such a thing in this setting: a table and a chain need the edge's own policy.
    pub fn is_in(&self, setting: Setting) -> bool {
        match self.what {
            What::Own(who) if who.contains(&Who::SteadyEpoll) => true,
            What::Own(_) | What::Attack(_) | What::Chain | What::Start => setting == Setting::Production,
            _ => true,
        }
    }

    /// Who is measured in it, when `all` are asked for.
    pub fn who(&self, all: &[Who]) -> Vec<Who> {
        match self.what {
            What::Own(who) => who.to_vec(),
            What::Attack(_) => vec![Who::Steady, Who::Attacked],
            What::Chain => vec![Who::Chain, Who::PeerChain],
            What::Start => vec![Who::Apps1m],
            What::Latency(_) | What::Memory => all.iter().copied().filter(|who| !who.is_baseline()).collect(),
            What::Cost => all.iter().copied().filter(|who| who.serves(self.shape)).collect(),
        }
    }
}

const KIB: usize = 1024;

/// All of them, in the order in which they are measured and shown.
pub const ROWS: &[Row] = &[
    row("h1-1", false, false, 1, 1),
    row("h1-8", false, false, 8, 1),
    row("h1-64", false, false, 64, 1),
    row("h1-512", false, false, 512, 1),
    row("h2-8x16", true, false, 8, 16),
    row("h1-tls-64", false, true, 64, 1),
    row("h2-tls-8x16", true, true, 8, 16),
    row("down-1k", false, false, 64, 1).down(KIB),
    row("down-64k", false, false, 16, 1).down(64 * KIB),
    row("down-1m", false, false, 8, 1).down(1024 * KIB),
    row("up-1k", false, false, 64, 1).up(KIB),
    row("up-64k", false, false, 16, 1).up(64 * KIB),
    row("up-1m", false, false, 8, 1).up(1024 * KIB),
    row("h2-tls-down-1k", true, true, 8, 8).down(KIB),
    row("h2-tls-down-64k", true, true, 4, 4).down(64 * KIB),
    row("h2-tls-down-1m", true, true, 4, 2).down(1024 * KIB),
    row("h2-tls-up-1k", true, true, 8, 8).up(KIB),
    row("h2-tls-up-64k", true, true, 4, 4).up(64 * KIB),
    row("h2-tls-up-1m", true, true, 4, 2).up(1024 * KIB),
    row("new-connection", false, false, 16, 1).life(Life::Each),
    row("tls-full", false, true, 16, 1).life(Life::EachInFull),
    row("tls-resumed", false, true, 16, 1).life(Life::Each),
    row("websocket-64", false, false, 64, 1).life(Life::Tunnel),
    row("epoll-1", false, false, 1, 1).what(What::Own(&[Who::Steady, Who::SteadyEpoll])),
    row("epoll-64", false, false, 64, 1).what(What::Own(&[Who::Steady, Who::SteadyEpoll])),
    row("epoll-h2-tls", true, true, 8, 16).what(What::Own(&[Who::Steady, Who::SteadyEpoll])),
    row("applications", false, false, 64, 1).what(What::Own(&[Who::Steady, Who::Apps10k, Who::Apps1m])),
    row("swaps", false, false, 64, 1).what(What::Own(&[Who::Apps1m, Who::Swaps])),
    row("moves", false, false, 64, 1).what(What::Own(&[Who::TwoHosts, Who::Moves])),
    row("chain", false, false, 64, 1).what(What::Chain),
    row("chain-tls-h2", true, true, 8, 16).what(What::Chain),
    row("latency-25", false, false, 64, 1).what(What::Latency(0.25)),
    row("latency-50", false, false, 64, 1).what(What::Latency(0.5)),
    row("latency-75", false, false, 64, 1).what(What::Latency(0.75)),
    row("attack", false, false, 64, 1).what(What::Attack(5_000.0)),
    row("memory-plain", false, false, 10_000, 1).what(What::Memory),
    row("memory-tls", false, true, 10_000, 1).what(What::Memory),
    row("memory-h2-tls", true, true, 10_000, 1).what(What::Memory),
    // Each takes a stream to the origin, of which Steady holds two connections of 1024 streams to one host.
    row("memory-websocket", false, false, 2_000, 1).life(Life::Tunnel).what(What::Memory),
    row("start-1m", false, false, 1, 1).what(What::Start),
];

/// The rows of these names; all when there are none. A name that ends with `*` stands for all that begin so.
///
/// # Errors
/// A name that is none, with those that are.
pub fn chosen(names: &[String]) -> Result<Vec<Row>, String> {
    if names.is_empty() {
        return Ok(ROWS.to_vec());
    }
    let mut rows = Vec::new();
    for name in names {
        let is_meant =
            |row: &&Row| name.strip_suffix('*').map_or(row.name == name, |start| row.name.starts_with(start));
        let before = rows.len();
        rows.extend(ROWS.iter().filter(is_meant).copied());
        if rows.len() == before {
            let known: Vec<_> = ROWS.iter().map(|row| row.name).collect();
            return Err(format!("there is no row `{name}`; there are {}", known.join(", ")));
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_chosen_by_name_or_by_how_their_names_begin() {
        let names = |asked: &[&str]| -> Vec<&str> {
            let asked: Vec<String> = asked.iter().map(|&name| name.to_owned()).collect();
            chosen(&asked).unwrap().iter().map(|row| row.name).collect()
        };
        assert_eq!(names(&["latency-*", "h1-1"]), ["latency-25", "latency-50", "latency-75", "h1-1"]);
        assert_eq!(names(&[]).len(), ROWS.len());
        assert!(chosen(&["h1".to_owned()]).unwrap_err().contains("h1-64"));
    }

    #[test]
    fn a_row_compares_steady_with_every_proxy_that_can_do_it() {
        let all = [Who::Steady, Who::Nginx, Who::Floor];
        let row = |name: &str| *ROWS.iter().find(|row| row.name == name).unwrap();
        assert_eq!(row("h1-64").who(&all), all);
        assert_eq!(row("h1-tls-64").who(&all), [Who::Steady, Who::Nginx]);
        assert_eq!(row("moves").who(&all), [Who::TwoHosts, Who::Moves]);
        assert!(!row("moves").is_in(Setting::Bare));
    }
}
