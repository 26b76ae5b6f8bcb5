//! The edge against a conformance suite that is not ours: every case of `httpwg` (crates.io: httpwg-cli) over cleartext
//! HTTP/2. What it demands against the RFC is listed here and in docs/conformance.md, and nothing else may fail.

mod house;
mod support;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use house::{House, Setup, placed};
use steady_table::{AppName, DomainName};

/// Cases that contradict the RFC, by name, with the section that says so.
const CONTRADICTED: &[(&str, &str)] = &[];

/// Cases of version 0.2.5. Fewer would mean that the tool's output is no longer understood.
const CASES: usize = 107;

/// The tool: STEADY_HTTPWG, or `httpwg` on PATH. `None`, said loudly, without either; with STEADY_REQUIRE_HTTPWG set that is
/// a failure.
fn httpwg() -> Option<PathBuf> {
    let found = std::env::var_os("STEADY_HTTPWG").map(PathBuf::from).or_else(|| support::on_path("httpwg"));
    if found.is_none() {
        assert!(
            std::env::var_os("STEADY_REQUIRE_HTTPWG").is_none(),
            "STEADY_REQUIRE_HTTPWG is set, but there is no httpwg: cargo install httpwg-cli --version 0.2.5 --locked"
        );
        support::shout("SKIPPED: httpwg's cases (cargo install httpwg-cli --version 0.2.5 --locked)");
    }
    found
}

#[test]
fn every_case_of_httpwg_passes_but_those_that_contradict_the_rfc() {
    let Some(tool) = httpwg() else { return };
    for uring in [true, false] {
        let house = House::with_echo(Setup { uring, ..Setup::default() });
        // The suite asks for `localhost`, whatever the address.
        let mut contents = house.contents(vec![placed("echo", 0, 1)]);
        contents.domains.retain(|domain| domain.as_str() != "localhost");
        contents.customs.push((DomainName::new("localhost").unwrap(), AppName::new("echo").unwrap()));
        house.publish(house.build_table(contents));
        let output = Command::new(&tool)
            // A case that expects silence lasts this long; one that expects an answer only when it does not come.
            .args(["--frame-timeout", "2000", "--connect-timeout", "20000", "--address", &house.plain.to_string()])
            .output()
            .unwrap();
        let text = support::text(&output);
        let cases = |mark: &str| -> BTreeSet<String> {
            let named = text.lines().filter_map(|line| line.split_once(mark));
            named.map(|(_, name)| name.rsplit(" :: ").next().unwrap_or(name).trim().to_owned()).collect()
        };
        let (passed, failed) = (cases("Test passed: "), cases("Test failed: "));
        assert_eq!(passed.len() + failed.len(), CASES, "{text}");
        let listed: BTreeSet<_> = CONTRADICTED.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(failed, listed, "{text}");
    }
}
