//! Where the peers are that are programs, and those that need no script.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::{Town, on_path, repository, shout, text};

/// `None`, said loudly; with STEADY_REQUIRE_PEERS set that is a failure.
fn missing(what: &str) {
    let required = std::env::var_os("STEADY_REQUIRE_PEERS").is_some_and(|value| !value.is_empty());
    assert!(!required, "STEADY_REQUIRE_PEERS is set, but there is no {what}");
    shout(&format!("SKIPPED: peers on {what}"));
}

/// A script of this folder, on that interpreter.
pub fn script(interpreter: &Path, name: &str) -> Command {
    let mut command = Command::new(interpreter);
    command.arg(repository("tests/peers").join(name)).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// A Python that has h2, h11 and wsproto: that of PATH, or of an environment that is made once for all tests.
pub fn python() -> Option<PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    FOUND
        .get_or_init(|| {
            let found = on_path("python3").filter(|python| has_peers(python)).or_else(make_environment);
            if found.is_none() {
                missing("Python with h2, h11 and wsproto (pip cannot fetch them)");
            }
            found
        })
        .clone()
}

/// Those very versions: what they do differs.
fn has_peers(python: &Path) -> bool {
    let wanted = std::fs::read_to_string(repository("tests/peers/requirements.txt")).unwrap();
    let code = "import importlib.metadata as m, sys\nfor line in sys.argv[1:]:\n n, v = line.split('==')\n assert m.version(n) == v";
    let output = Command::new(python).arg("-c").arg(code).args(wanted.lines()).output();
    output.is_ok_and(|output| output.status.success())
}

fn make_environment() -> Option<PathBuf> {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("peers");
    std::fs::create_dir_all(&cache).ok()?;
    let lock = File::create(cache.join("lock")).ok()?;
    lock.lock().ok()?;
    let python = cache.join("bin/python");
    if !has_peers(&python) {
        run("python3", &["-m".as_ref(), "venv".as_ref(), cache.as_os_str()]);
        let wanted = repository("tests/peers/requirements.txt");
        run(
            python.as_os_str(),
            &["-m".as_ref(), "pip".as_ref(), "install".as_ref(), "-q".as_ref(), "-r".as_ref(), wanted.as_os_str()],
        );
    }
    has_peers(&python).then_some(python)
}

fn run(program: impl AsRef<OsStr>, arguments: &[&OsStr]) {
    let said = Command::new(&program).args(arguments).output().map_or_else(|error| error.to_string(), |it| text(&it));
    if !said.is_empty() {
        shout(&format!("{}: {said}", program.as_ref().display()));
    }
}

pub fn node() -> Option<PathBuf> {
    let found = on_path("node");
    if found.is_none() {
        missing("Node");
    }
    found
}

/// Prints every answer's octets of `/big?200000`, sends a file, looks at a head; one after the other over each of curl's versions.
pub fn curl_and_nghttp(town: &Town) {
    let whole: Vec<u8> = (0..200_000u32).map(|at| (at % 251) as u8).collect();
    let file = town.house.dir.path().join("upload");
    std::fs::write(&file, &whole).unwrap();
    let (plain, tls) = (town.house.plain.port(), town.house.tls.port());
    let ca = town.house.dir.path().join("ca.pem");
    let Some(curl) = on_path("curl") else { return missing("curl") };
    for name in &town.names {
        for (version, scheme, port) in [
            ("--http1.1", "http", plain),
            ("--http2-prior-knowledge", "http", plain),
            ("--http1.1", "https", tls),
            ("--http2", "https", tls),
        ] {
            let ask = |more: &[&str], path: &str| {
                let mut command = Command::new(&curl);
                command.args(["-sS", "--fail", "--max-time", "120", version, "--cacert"]).arg(&ca).args(more);
                command.arg("--resolve").arg(format!("{name}.steady.page:{port}:127.0.0.1"));
                let output = command.arg(format!("{scheme}://{name}.steady.page:{port}{path}")).output().unwrap();
                assert!(output.status.success(), "{command:?}: {}", text(&output));
                output.stdout
            };
            assert!(ask(&[], "/big?200000") == whole, "{name} {version} {scheme}");
            let facts = String::from_utf8(ask(&["-T", file.to_str().unwrap()], "/facts")).unwrap();
            assert!(facts.contains("PUT") && facts.contains("200000"), "{name} {version} {scheme}: {facts}");
            let head = String::from_utf8(ask(&["-I"], "/big?7")).unwrap().to_lowercase();
            assert!(head.contains(" 200") && head.contains("content-length: 7"), "{name} {version} {scheme}: {head}");
        }
        let Some(nghttp) = on_path("nghttp") else { return missing("nghttp") };
        // It takes the address from the URL, and the name from the field.
        let output = Command::new(nghttp)
            .args(["-v", "-w", "12", "-d"])
            .arg(&file)
            .arg(format!("-H:authority: {name}.steady.page"))
            .arg("-Hte: trailers")
            .arg(format!("http://127.0.0.1:{plain}/facts"))
            .arg(format!("http://127.0.0.1:{plain}/summed?9000"))
            .output()
            .unwrap();
        let said = text(&output);
        assert!(output.status.success() && said.matches(":status: 200").count() == 2, "{name}: {said}");
        assert!(said.contains("\"length\":200000") || said.contains("\"length\": 200000"), "{name}: {said}");
        assert!(said.contains("x-sum: "), "{name}: {said}");
    }
}
