//! What `up` tells the person who started it: a line for each thing that is there, with a check mark, and no more.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use crate::show::{self, Style};

#[derive(Clone, Copy, Debug)]
pub struct Say {
    /// A program listens: only the one document at the end, on stdout.
    pub json: bool,
    style: Style,
}

impl Say {
    pub fn new(json: bool) -> Say {
        Say { json, style: Style::of(&io::stdout()) }
    }

    pub fn title(self, text: &str) {
        self.line(&self.style.strong(text));
    }

    pub fn done(self, what: &str, detail: &str, took: Option<Duration>) {
        let took = took.map(|took| format!("  {}", self.style.faint(&show::duration(took)))).unwrap_or_default();
        self.line(&format!("  {} {what:<13} {detail}{took}", self.style.good("✓")));
    }

    pub fn doing(self, what: &str, detail: &str) {
        self.line(&format!("  {} {what:<13} {detail}", self.style.faint("…")));
    }

    pub fn failed(self, what: &str, why: &str) {
        self.line(&format!("  {} {what:<13} {why}", self.style.bad("✗")));
    }

    pub fn ready(self, took: Duration, try_these: &[String]) {
        self.line(&format!("\nRunning after {}. Try, in another terminal:", show::duration(took)));
        for command in try_these {
            self.line(&format!("  {}", self.style.strong(command)));
        }
        self.line("\nCtrl-C stops everything.");
    }

    /// A reader that has left does not stop the system: what is said is then lost.
    pub fn line(self, text: &str) {
        if !self.json {
            let mut out = io::stdout();
            let _ = writeln!(out, "{text}").and_then(|()| out.flush());
        }
    }
}

/// A path as a person here would type it: relative to the working directory when it is below.
pub fn short(path: &Path) -> String {
    let here = std::env::current_dir().ok().and_then(|here| here.canonicalize().ok());
    match here.and_then(|here| path.strip_prefix(here).ok().map(Path::to_owned)) {
        Some(below) => format!("./{}", below.display()),
        None => path.display().to_string(),
    }
}

/// How to call this program for the system in `dir`: by its bare name when PATH leads to it, and with `--dir` unless it is
/// the default.
pub fn program(dir: &Path) -> String {
    let own = std::env::current_exe().and_then(|path| path.canonicalize()).ok();
    let found = super::bun::on_path("steady").and_then(|path| path.canonicalize().ok());
    let name = match own {
        Some(own) if found.as_ref() != Some(&own) => short(&own),
        _ => "steady".to_owned(),
    };
    let default = Path::new("./.steady").canonicalize().ok();
    if default.as_deref() == Some(dir) { name } else { format!("{name} --dir {}", short(dir)) }
}
