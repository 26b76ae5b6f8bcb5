//! How an application's folder is to be run: `steady.toml` when it has one, and what the folder itself shows.
//!
//! A folder with an entry for Bun (`index.ts` and its kin, or what package.json names) runs on Bun, on a unix socket of
//! each start. Any other must say its `command`, and is given a TCP port.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path};

use crate::gate::Protocol;
use crate::supervise::told;
use crate::toml_read::{self, Fault, Reader};

/// Files that Bun runs when neither `steady.toml` nor package.json says another, in the order they are looked for.
const BUN_ENTRIES: [&str; 10] = [
    "index.ts",
    "index.tsx",
    "index.js",
    "index.mjs",
    "server.ts",
    "server.js",
    "src/index.ts",
    "src/server.ts",
    "main.ts",
    "main.js",
];

/// Octets of `steady.toml` and package.json that are read at most: neither has a reason to be larger.
const FILE_OCTETS_MAX: u64 = 1 << 20;

/// What only the agent may set: where to listen, and how leftovers are recognised.
const RESERVED: [&str; 7] =
    ["PORT", "HOST", "STEADY_SOCKET", "STEADY_STATE", "STEADY_START", "STEADY_APP", "STEADY_HOST"];

/// What an application's processes are started with. Immutable for one bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    pub run: Run,
    pub env: BTreeMap<String, String>,
    pub protocol: Protocol,
    /// A path that begins with `/`; a GET of it is what probes ask.
    pub health: String,
    /// At most one host runs it at any moment.
    pub exclusive: bool,
}

/// What is executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Run {
    /// Bun with the preload and this file of the folder; it listens on a unix socket.
    Bun { entry: String },
    /// This program with these arguments (at least one element); `$PORT` in them is replaced. It listens on TCP.
    Command(Vec<String>),
}

/// Why a folder cannot be run: for the person who deployed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecError {
    pub faults: Vec<String>,
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // They repeat what the files say.
        f.write_str(&told(self.faults.join("; ")))
    }
}

impl std::error::Error for SpecError {}

impl Spec {
    /// Reads what the folder says. Blocking.
    pub fn load(folder: &Path) -> Result<Self, SpecError> {
        let text = read_small(&folder.join("steady.toml")).map_err(|error| one("steady.toml", error))?;
        let (command, mut spec) = parse(text.as_deref().unwrap_or(""))?;
        spec.run = match command {
            Some(command) => Run::Command(command),
            None => Run::Bun { entry: find_entry(folder)? },
        };
        Ok(spec)
    }
}

/// The file's content; the command apart, because the folder decides when it says none.
fn parse(text: &str) -> Result<(Option<Vec<String>>, Spec), SpecError> {
    let told =
        |faults: Vec<Fault>| SpecError { faults: faults.iter().map(|fault| format!("steady.toml: {fault}")).collect() };
    let table = toml_read::parse(text).map_err(|fault| told(vec![fault]))?;
    let mut faults = Vec::new();
    let mut reader = Reader::new(table, &mut faults);
    // For `steady deploy`: which application a folder becomes is said by whoever sends it.
    reader.text("name");
    let command = reader.texts("command");
    if command.as_ref().is_some_and(|command| command.first().is_none_or(String::is_empty)) {
        reader.fault::<()>("command", "must name a program, like [\"./server\", \"--port\", \"$PORT\"]".to_owned());
    }
    let protocol = reader.parsed("protocol", |text| match text {
        "http1" => Ok(Protocol::Http1),
        "h2c" => Ok(Protocol::H2c),
        _ => Err(format!("`{text}` is not one of: http1, h2c")),
    });
    let health = reader.parsed("health", |text| {
        let is_path = text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
        if is_path { Ok(text.to_owned()) } else { Err(format!("`{text}` is not a path that begins with /")) }
    });
    let exclusive = reader.boolean("exclusive").unwrap_or(false);
    let env = reader.section("env", read_env);
    reader.finish();
    if !faults.is_empty() {
        return Err(told(faults));
    }
    let spec = Spec {
        run: Run::Command(Vec::new()),
        env,
        protocol: protocol.unwrap_or(Protocol::Http1),
        health: health.unwrap_or_else(|| "/".to_owned()),
        exclusive,
    };
    Ok((command, spec))
}

fn read_env(env: &mut Reader<'_>) -> BTreeMap<String, String> {
    let pairs = env.all_texts();
    for (key, value) in &pairs {
        if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
            env.fault::<()>(key, "is not a name and value that an environment can hold".to_owned());
        }
        if RESERVED.contains(&key.as_str()) {
            env.fault::<()>(key, "is set by the agent; leave it out".to_owned());
        }
    }
    pairs.into_iter().collect()
}

fn find_entry(folder: &Path) -> Result<String, SpecError> {
    let package = read_small(&folder.join("package.json")).map_err(|error| one("package.json", error))?;
    if let Some(text) = package {
        let package: serde_json::Value =
            serde_json::from_str(&text).map_err(|error| one("package.json", format!("is not JSON: {error}")))?;
        for key in ["module", "main"] {
            let Some(entry) = package.get(key).and_then(serde_json::Value::as_str) else { continue };
            if !stays_inside(entry) {
                return Err(one("package.json", format!("\"{key}\" is {entry:?}, which is not a file of this folder")));
            }
            if folder.join(entry).is_file() {
                return Ok(entry.to_owned());
            }
        }
    }
    if let Some(entry) = BUN_ENTRIES.iter().find(|entry| folder.join(entry).is_file()) {
        return Ok((*entry).to_owned());
    }
    let fault = format!(
        "nothing here says how to run it: there is no steady.toml with a `command`, no file that \"module\" or \"main\" \
         of package.json names, and none of {}; add one of these",
        BUN_ENTRIES.join(", ")
    );
    Err(SpecError { faults: vec![fault] })
}

fn stays_inside(entry: &str) -> bool {
    !entry.is_empty()
        && Path::new(entry).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

/// The text of a small file; `None` when there is none.
fn read_small(path: &Path) -> Result<Option<String>, String> {
    match std::fs::metadata(path) {
        Ok(meta) if meta.len() > FILE_OCTETS_MAX => Err(format!("is larger than {FILE_OCTETS_MAX} octets")),
        Ok(_) => std::fs::read_to_string(path).map(Some).map_err(|error| format!("cannot be read: {error}")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

fn one(file: &str, message: impl fmt::Display) -> SpecError {
    SpecError { faults: vec![format!("{file}: {message}")] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(files: &[(&str, &str)]) -> Result<Spec, SpecError> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Spec::load(folder.path())
    }

    #[test]
    fn a_folder_with_an_index_runs_on_bun_without_any_file_about_it() {
        let spec = load(&[("index.ts", "")]).unwrap();
        assert_eq!(spec.run, Run::Bun { entry: "index.ts".to_owned() });
        assert_eq!((spec.protocol, spec.health.as_str(), spec.exclusive), (Protocol::Http1, "/", false));
    }

    #[test]
    fn package_json_names_the_entry_and_falls_back_when_the_file_is_not_there() {
        let package = r#"{"main": "app/run.ts"}"#;
        let spec = load(&[("package.json", package), ("app/run.ts", ""), ("index.ts", "")]).unwrap();
        assert_eq!(spec.run, Run::Bun { entry: "app/run.ts".to_owned() });
        let spec = load(&[("package.json", package), ("index.ts", "")]).unwrap();
        assert_eq!(spec.run, Run::Bun { entry: "index.ts".to_owned() });
    }

    #[test]
    fn package_json_cannot_point_out_of_the_folder() {
        for entry in ["../other/index.ts", "/etc/passwd"] {
            let error = load(&[("package.json", &format!(r#"{{"main": "{entry}"}}"#))]).unwrap_err();
            assert!(error.to_string().contains("not a file of this folder"), "{error}");
        }
    }

    #[test]
    fn what_a_file_says_at_length_is_not_repeated_at_length() {
        let entry = format!("../{}", "x".repeat(600_000));
        let error = load(&[("package.json", &format!(r#"{{"main": "{entry}"}}"#))]).unwrap_err().to_string();
        assert!(error.len() <= crate::limits::TOLD_OCTETS_MAX && error.starts_with("package.json"));
    }

    #[test]
    fn a_folder_with_nothing_to_run_is_told_what_was_looked_for() {
        let error = load(&[("README", "")]).unwrap_err().to_string();
        assert!(error.contains("`command`") && error.contains("index.ts"), "{error}");
    }

    #[test]
    fn steady_toml_says_everything() {
        let text = "name = \"shop\"\ncommand = [\"./server\", \"$PORT\"]\nprotocol = \"h2c\"\nhealth = \"/ok\"\nexclusive = true\n\
                    [env]\nGREETING = \"hello\"\nTIMES = 3";
        let spec = load(&[("steady.toml", text)]).unwrap();
        assert_eq!(spec.run, Run::Command(vec!["./server".to_owned(), "$PORT".to_owned()]));
        assert_eq!((spec.protocol, spec.health.as_str(), spec.exclusive), (Protocol::H2c, "/ok", true));
        assert_eq!((spec.env["GREETING"].as_str(), spec.env["TIMES"].as_str()), ("hello", "3"));
    }

    #[test]
    fn every_fault_of_steady_toml_is_told_with_its_key() {
        let text = "command = []\nprotocol = \"spdy\"\nhealth = \"ok\"\nexclusiv = true\n[env]\nPORT = \"1\"\nSTEADY_HOST = \"h\"";
        let error = load(&[("steady.toml", text)]).unwrap_err().to_string();
        for part in [
            "command: must name",
            "protocol: `spdy`",
            "health: `ok`",
            "did you mean `exclusive`",
            "env.PORT",
            "env.STEADY_HOST",
        ] {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
    }
}
