//! Every number that the project states comes from here: one subcommand a measurement, each in a file of its own.

mod proxy;
mod reports;
mod table;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: steady_heap::Counting = steady_heap::Counting;

/// Measures the parts of Steady against what one would use instead, in interleaved rounds of one run.
#[derive(Debug, Parser)]
#[command(name = "steady-bench", version)]
struct Command {
    #[command(subcommand)]
    measurement: Measurement,
}

#[derive(Debug, Subcommand)]
enum Measurement {
    /// Look-ups in the routing table against a HashMap, and what it costs to build, open and change one.
    Table(table::Args),
    /// Steady's edge beside nginx, HAProxy and others: CPU per request, latency, memory.
    Proxy(proxy::Args),
    /// What latency reports cost an agent and an edge.
    Reports(reports::Args),
    /// Steady's edge as one of the proxies that are measured.
    #[command(hide = true)]
    Edge(proxy::edge::Args),
    /// Steady's host agent, for the whole chain.
    #[command(hide = true)]
    Agent(proxy::agent::Args),
}

fn main() -> ExitCode {
    let outcome = match Command::parse().measurement {
        Measurement::Table(args) => table::run(&args),
        Measurement::Proxy(args) => proxy::run(&args),
        Measurement::Reports(args) => reports::run(&args),
        Measurement::Edge(args) => proxy::edge::run(&args),
        Measurement::Agent(args) => proxy::agent::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("steady-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
