//! The rounds of a row.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use super::attack::Attack;
use super::load;
use super::outcome::{Outcome, Sample, Spread};
use super::outside::{self, Tool};
use super::peers::{Proxy, Stage};
use super::rows::{ROWS, Row, What};
use super::shape::Shape;
use super::who::Who;
use super::{authority, cpu};

/// Memory is the same each time, but for how the allocator's arenas fall.
const MEMORY_ROUNDS: usize = 1;
/// The row that rates of open loops are taken from.
const FULL: &str = "h1-64";

/// Which core is whose.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    pub proxy: usize,
    pub rest: usize,
}

/// The proxies of one setting.
pub struct House<'a> {
    stage: Stage<'a>,
    cores: Cores,
    tls: Arc<ClientConfig>,
    rounds: usize,
    time: Duration,
    load: Tool,
    /// Those that run, and why others do not. One that has ended is started again when it is next asked for.
    proxies: BTreeMap<Who, Result<Proxy, String>>,
}

impl<'a> House<'a> {
    pub fn new(
        stage: Stage<'a>,
        cores: Cores,
        tls: Arc<ClientConfig>,
        rounds: usize,
        time: Duration,
        load: Tool,
    ) -> House<'a> {
        House { stage, cores, tls, rounds, time, load, proxies: BTreeMap::new() }
    }

    /// Who makes the load of a row.
    pub fn load_of(&self, row: &Row) -> Tool {
        if row.what == What::Cost && self.load.makes(row.shape) { self.load } else { Tool::Own }
    }

    pub fn rounds_of(&self, row: &Row) -> usize {
        if row.what == What::Memory { MEMORY_ROUNDS.min(self.rounds) } else { self.rounds }
    }

    /// All rounds of a row. `before` are the rows so far.
    pub fn measure(&mut self, row: &Row, who: Vec<Who>, before: &[Outcome]) -> Outcome {
        let rate = match row.what {
            What::Latency(part) => self.most_of_peers(&who, before).map(|most| most * part),
            What::Attack(rate) => Some(rate),
            _ => None,
        };
        let mut rounds = Vec::new();
        for round in 0..self.rounds_of(row) {
            let mut results: Vec<Result<Sample, String>> = who.iter().map(|_| Err(String::new())).collect();
            for step in 0..who.len() {
                let at = (round + step) % who.len();
                let sample = self.sample(row, who[at], rate);
                if let Err(error) = &sample {
                    eprintln!("{} {} {}: {error}", row.name, self.stage.setting.name(), who[at].name());
                }
                results[at] = sample;
            }
            rounds.push(results);
        }
        // What only this row has would cost the others: their tables change all the time.
        self.proxies.retain(|other, _| {
            !matches!(row.what, What::Own(_) | What::Chain) || *other == Who::Steady || !who.contains(other)
        });
        let (row, load) = (row.name.to_owned(), self.load_of(row));
        Outcome { row, setting: self.stage.setting, load, who, rate, rounds }
    }

    fn sample(&mut self, row: &Row, who: Who, rate: Option<f64>) -> Result<Sample, String> {
        match row.what {
            What::Memory => self.memory(row.shape, who),
            What::Start => self.start(who),
            What::Latency(_) if rate.is_none() => Err("no peer's most requests a second is known".to_owned()),
            _ => {
                let (tool, time, tls) = (self.load_of(row), self.time, Arc::clone(&self.tls));
                let proxy = self.proxy(who)?;
                let _attack = (who == Who::Attacked).then(|| Attack::start(proxy.addr(row.shape)));
                let measured = match tool {
                    Tool::Own => load::run(row.shape, rate, proxy, &tls, time / 3, time),
                    tool => outside::run(tool, row.shape, proxy, time),
                };
                measured.map(Sample::Load)
            }
        }
    }

    /// The proxy, started when it does not run.
    fn proxy(&mut self, who: Who) -> Result<&mut Proxy, String> {
        let runs = self.proxies.get_mut(&who).is_some_and(|proxy| proxy.as_mut().is_ok_and(Proxy::is_alive));
        let failed = self.proxies.get(&who).is_some_and(Result::is_err);
        if !runs && !failed {
            drop(self.proxies.remove(&who));
            let started = self.start_anew(who);
            self.proxies.insert(who, started);
        }
        match self.proxies.get_mut(&who) {
            Some(Ok(proxy)) => Ok(proxy),
            Some(Err(error)) => Err(error.clone()),
            None => Err("it was not started".to_owned()),
        }
    }

    /// On its core.
    fn start_anew(&self, who: Who) -> Result<Proxy, String> {
        let pin = |core| steady_sys::cpu::pin(core).map_err(|error| format!("core {core} cannot be had: {error}"));
        pin(self.cores.proxy)?;
        let started = Proxy::start(who, self.stage);
        pin(self.cores.rest)?;
        started
    }

    /// Of a proxy that has done nothing before.
    fn memory(&mut self, shape: Shape, who: Who) -> Result<Sample, String> {
        drop(self.proxies.remove(&who));
        let proxy = self.start_anew(who)?;
        load::hold(Shape { connections: 16, ..shape }, &proxy, &self.tls)?;
        let before = cpu::resident(&proxy.pids()).map_err(|error| error.to_string())?;
        let after = load::hold(shape, &proxy, &self.tls)?;
        let connection = after.saturating_sub(before) as f64 / shape.connections as f64;
        Ok(Sample::Memory { connection, process: after as f64 })
    }

    /// With a table that is there.
    fn start(&mut self, who: Who) -> Result<Sample, String> {
        // The first start makes it.
        self.proxy(who)?;
        drop(self.proxies.remove(&who));
        let begun = Instant::now();
        let proxy = self.start_anew(who)?;
        let shape = ROWS.iter().find(|row| row.what == What::Start).ok_or("there is no such row")?.shape;
        let apps = proxy.apps();
        let asked = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(proxy.addr(shape))?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            write!(stream, "GET /100 HTTP/1.1\r\nhost: {}\r\n\r\n", authority(apps - 1, apps))?;
            let mut buffer = [0; 1024];
            let len = stream.read(&mut buffer)?;
            Ok(String::from_utf8_lossy(&buffer[..len]).into_owned())
        };
        let answer = asked().map_err(|error| error.to_string())?;
        let millis = begun.elapsed().as_secs_f64() * 1e3;
        if !answer.starts_with("HTTP/1.1 200") {
            return Err(format!("the last application was answered {}", answer.lines().next().unwrap_or_default()));
        }
        let process = cpu::resident(&proxy.pids()).map_err(|error| error.to_string())?;
        Ok(Sample::Start { millis, process: process as f64 })
    }

    /// Requests a second that the best peer answers at most: as measured, or else measured now.
    fn most_of_peers(&mut self, who: &[Who], before: &[Outcome]) -> Option<f64> {
        let measured = before.iter().rfind(|outcome| outcome.row == FULL && outcome.setting == self.stage.setting);
        let mut most: Vec<f64> = Vec::new();
        for peer in who.iter().copied().filter(|who| who.is_peer()) {
            let rate = |sample: &Sample| Some(sample.load()?.requests_per_second());
            let known = measured.and_then(|outcome| outcome.of(outcome.at(peer)?, rate));
            let rates = known.or_else(|| {
                let row = ROWS.iter().find(|row| row.name == FULL)?;
                let samples: Vec<_> = (0..3).filter_map(|_| self.sample(row, peer, None).ok()).collect();
                Spread::of(samples.iter().filter_map(rate))
            });
            most.extend(rates.map(|rates| rates.median));
        }
        most.into_iter().max_by(f64::total_cmp)
    }
}
