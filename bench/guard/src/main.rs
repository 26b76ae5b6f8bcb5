//! Counts instructions under callgrind and compares them with `baseline.json`: of the codecs, of a look-up in the table, and
//! of one exchange through the engine, TLS and the kernel excluded. Seconds depend on the machine and on who else is on it;
//! instructions do not, so that one run can tell a change of a few per cent.
//!
//! Each case is a run of its own: this program again, under valgrind, which counts only what happens inside of
//! [`measured`]. So no case moves another one's memory, and adding one changes nothing for the rest.
//!
//! Start it with `.ci/guard`, which builds what is counted as a release has it. Counts are compared only with those of the
//! same compiler, C library and valgrind; elsewhere they are shown, with a warning.

mod baseline;
mod callgrind;
mod codecs;
mod exchange;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// What is counted.
pub(crate) struct Case {
    pub name: &'static str,
    /// What one of it is.
    pub unit: &'static str,
    /// Does so many of it uncounted, until buffers have grown, then as many inside of [`measured`].
    pub run: fn(u64),
    pub times: u64,
}

/// What happens in here is counted, and nothing else: callgrind is told to watch this function's name.
#[inline(never)]
pub(crate) fn measured<T>(work: impl FnOnce() -> T) -> T {
    std::hint::black_box(work())
}

/// What happens in here is not counted, though [`measured`] calls it.
#[inline(never)]
pub(crate) fn uncounted<T>(work: impl FnOnce() -> T) -> T {
    std::hint::black_box(work())
}

fn cases() -> Vec<Case> {
    [codecs::CASES, table::CASES, exchange::CASES].into_iter().flatten().map(|case| Case { ..*case }).collect()
}

#[derive(Debug, Parser)]
#[command(name = "steady-guard", about = "Counts instructions and compares them with the baseline")]
struct Args {
    /// Write what is counted now into the baseline, with the reason why it changed.
    #[arg(long, value_name = "REASON")]
    update: Option<String>,
    /// Only cases whose name contains this. Nothing is updated then.
    #[arg(long, conflicts_with = "update")]
    only: Option<String>,
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/baseline.json"))]
    baseline: PathBuf,
    /// Do the work of one case, to be counted from outside.
    #[arg(long, hide = true)]
    case: Option<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let cases = cases();
    if let Some(name) = &args.case {
        let Some(case) = cases.iter().find(|case| case.name == *name) else { return ExitCode::FAILURE };
        (case.run)(case.times);
        return ExitCode::SUCCESS;
    }
    match guard(&args, &cases) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("steady-guard: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Counts, compares, says; `false` when something has grown.
fn guard(args: &Args, cases: &[Case]) -> Result<bool, String> {
    let wanted = cases.iter().filter(|case| args.only.as_ref().is_none_or(|only| case.name.contains(only)));
    let counted: Vec<(&Case, u64)> =
        wanted.map(|case| Ok((case, callgrind::count(case.name)? / case.times))).collect::<Result<_, String>>()?;
    let old = baseline::read(&args.baseline)?;
    let made_with = baseline::made_with();
    let comparable = old.made_with == made_with;
    let mut fine = true;
    println!("{:<28} {:>12} {:>12}  change  (instructions each)", "case", "baseline", "now");
    for (case, count) in &counted {
        let before = old.instructions.get(case.name).copied().filter(|_| comparable);
        let verdict = baseline::compare(before, *count);
        fine &= !verdict.is_growth();
        let before = before.map_or("-".to_owned(), |before| before.to_string());
        println!("{:<28} {before:>12} {count:>12}  {verdict}  ({})", case.name, case.unit);
    }
    if let Some(reason) = &args.update {
        let counts = counted.iter().map(|(case, count)| (case.name.to_owned(), *count)).collect();
        baseline::write(&args.baseline, old, made_with, counts, reason)?;
        println!("{} is updated; commit it with the change", args.baseline.display());
        return Ok(true);
    }
    if !comparable {
        eprintln!(
            "\nThe baseline was counted with\n  {:?}\nand this machine has\n  {made_with:?}\n\
             Counts of different compilers say nothing of each other. When the project moves to this one:\n  \
             .ci/guard --update \"the compiler is now ...\" (on the commit before any change of the code)\n\n\
             ##### WARNING: NOTHING WAS COMPARED, AND NOTHING IS GUARDED #####",
            old.made_with
        );
    } else if !fine {
        eprintln!(
            "\nA case has grown by more than {} %. If that is meant: .ci/guard --update \"the reason\", and commit the baseline.",
            baseline::GROWTH_PERCENT_MAX
        );
    }
    Ok(fine)
}
