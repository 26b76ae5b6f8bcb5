//! Load as others make it: wrk, h2load, oha. They check less than our own (the status, not the body) and measure over the
//! whole of their time, connecting included; they are here so that nobody has to trust ours.

use std::process::Command;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::peers::Proxy;
use super::shape::{Life, Measured, Shape};
use super::{AUTHORITY, cpu};

/// Who makes the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
pub enum Tool {
    Own,
    Wrk,
    H2load,
    Oha,
}

impl Tool {
    pub const fn name(self) -> &'static str {
        match self {
            Tool::Own => "own",
            Tool::Wrk => "wrk",
            Tool::H2load => "h2load",
            Tool::Oha => "oha",
        }
    }

    /// Whether it can make this load.
    pub fn makes(self, shape: Shape) -> bool {
        let simple = shape.life == Life::Kept && shape.upload == 0;
        match self {
            Tool::Own => true,
            Tool::Wrk => simple && !shape.h2,
            // oha takes HTTP/2 to be over TLS only where it is told nothing else; cleartext is left to h2load.
            Tool::Oha => simple && (shape.tls || !shape.h2),
            Tool::H2load => simple,
        }
    }

    pub fn version(self) -> Option<String> {
        if self == Tool::Own {
            return None;
        }
        let flag = if self == Tool::Wrk { "-v" } else { "--version" };
        let Ok(output) = Command::new(self.name()).arg(flag).output() else { return Some("not installed".to_owned()) };
        let said = [output.stdout, output.stderr].concat();
        Some(String::from_utf8_lossy(&said).lines().next().unwrap_or_default().trim().to_owned())
    }
}

/// Loads a proxy for `measure`.
///
/// # Errors
/// A sentence: the tool is missing, or answers were wrong.
pub fn run(tool: Tool, shape: Shape, proxy: &mut Proxy, measure: Duration) -> Result<Measured, String> {
    let addr = proxy.addr(shape);
    let scheme = if shape.tls { "https" } else { "http" };
    let seconds = measure.as_secs().max(1).to_string();
    let connections = shape.connections.to_string();
    let mut command = Command::new(tool.name());
    match tool {
        Tool::Own => return Err("that is no tool of others".to_owned()),
        Tool::Wrk => command
            .args(["-t1", "--latency", "-c", &connections, "-d", &seconds, "-H"])
            .args([format!("Host: {AUTHORITY}"), format!("{scheme}://{addr}/{}", shape.download)]),
        Tool::H2load => {
            if !shape.h2 {
                command.arg("--h1");
            }
            command
                .args(["-t1", "-c", &connections, "-m", &shape.streams.to_string(), "-D", &seconds])
                .args([format!("--connect-to={addr}"), format!("{scheme}://{AUTHORITY}/{}", shape.download)])
        }
        Tool::Oha => {
            if shape.h2 {
                command.args(["--http2", "-p", &shape.streams.to_string()]);
            }
            command.args(["--no-tui", "--insecure", "-c", &connections, "-z", &format!("{seconds}s")]).args([
                format!("--connect-to={AUTHORITY}:{}:127.0.0.1:{}", if shape.tls { 443 } else { 80 }, addr.port()),
                format!("{scheme}://{AUTHORITY}/{}", shape.download),
            ])
        }
    };
    let pids = proxy.pids();
    let read = || cpu::spent(&pids).map_err(|error| format!("the proxy's process is gone: {error}"));
    let (before, counted, begun) = (read()?, proxy.counts(), Instant::now());
    let output = command.output().map_err(|error| format!("{} cannot be run: {error}", tool.name()))?;
    let (seconds, after) = (begun.elapsed().as_secs_f64(), read()?);
    let counts = counted.zip(proxy.counts()).map(|(before, after)| [0, 1, 2].map(|at| after[at] - before[at]));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let Said { requests, latency } = match tool {
        Tool::Wrk => wrk(&said),
        Tool::H2load => h2load(&said),
        _ => oha(&said),
    }
    .ok_or_else(|| format!("{} said: {}", tool.name(), last(&said, &String::from_utf8_lossy(&output.stderr))))?;
    Ok(Measured { requests, seconds, latency, cpu: after.since(before), counts })
}

/// What a tool's report tells; a percentile that it does not know is zero.
#[derive(Debug, PartialEq)]
struct Said {
    requests: u64,
    latency: [Duration; 3],
}

fn last(said: &str, errors: &str) -> String {
    let line = |text: &str| text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned();
    format!("{} {}", line(said), line(errors)).replace('|', "/")
}

/// `1.5ms`, `900us`, `2s`.
fn duration(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(split);
    let scale = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * scale).ok()
}

fn wrk(said: &str) -> Option<Said> {
    if said.contains("Non-2xx") || said.contains("Socket errors") {
        return None;
    }
    let requests = said.lines().find_map(|line| line.trim().split_once(" requests in "))?.0.parse().ok()?;
    let percentile = |name: &str| {
        said.lines().find_map(|line| line.trim().strip_prefix(name)).and_then(|text| duration(text.trim()))
    };
    Some(Said { requests, latency: [percentile("50%")?, percentile("99%")?, Duration::ZERO] })
}

fn h2load(said: &str) -> Option<Said> {
    let codes = said.lines().find_map(|line| line.strip_prefix("status codes: "))?;
    let mut counts = codes.split(", ").filter_map(|part| part.split_once(' '));
    let requests = counts.next()?.0.parse().ok()?;
    let is_clean = counts.all(|(count, _)| count == "0");
    (is_clean && requests > 0).then_some(Said { requests, latency: [Duration::ZERO; 3] })
}

fn oha(said: &str) -> Option<Said> {
    let mut requests = 0;
    let codes = said.lines().skip_while(|line| !line.starts_with("Status code distribution")).skip(1);
    for line in codes.take_while(|line| line.trim().starts_with('[')) {
        let (code, rest) = line.trim().strip_prefix('[')?.split_once(']')?;
        if code != "200" {
            return None;
        }
        requests += rest.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    let percentile = |name: &str| {
        let line = said.lines().find_map(|line| line.trim().strip_prefix(name))?;
        let mut words = line.split_whitespace().skip_while(|word| *word == "in");
        duration(&format!("{}{}", words.next()?, words.next()?.replace("sec", "s").replace("secs", "s")))
    };
    let at = |name: &str| percentile(name).unwrap_or_default();
    (requests > 0).then(|| Said { requests, latency: [at("50.00%"), at("99.00%"), at("99.90%")] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrk_is_understood_and_its_errors_are_errors() {
        let said = "Running 2s test @ http://127.0.0.1:1/100\n  1 threads and 64 connections\n  Latency Distribution\n\
                    \x20    50%  612.00us\n     75%  650.00us\n     90%    0.70ms\n     99%    1.02ms\n\
                    \x20 165004 requests in 2.10s, 32.41MB read\nRequests/sec:  78553.52\n";
        let latency = [612, 1020, 0].map(Duration::from_micros);
        assert_eq!(wrk(said), Some(Said { requests: 165_004, latency }));
        assert_eq!(wrk(&format!("{said}  Non-2xx or 3xx responses: 12\n")), None);
    }

    #[test]
    fn h2load_is_understood_and_other_answers_than_2xx_are_errors() {
        let said = "finished in 2.00s, 100.00 req/s\nstatus codes: 200 2xx, 0 3xx, 0 4xx, 0 5xx\n";
        assert_eq!(h2load(said).unwrap().requests, 200);
        assert_eq!(h2load(&said.replace("0 5xx", "3 5xx")), None);
    }

    #[test]
    fn oha_is_understood() {
        let said = "  50.00% in 0.6120 ms\n  99.00% in 1.0200 ms\n  99.90% in 2.5000 ms\n\n\
                    Status code distribution:\n  [200] 1234 responses\n\nError distribution:\n  [64] aborted due to deadline\n";
        let latency = [612, 1020, 2500].map(Duration::from_micros);
        assert_eq!(oha(said), Some(Said { requests: 1234, latency }));
        assert_eq!(oha(&said.replace("[200]", "[502]")), None);
    }
}
