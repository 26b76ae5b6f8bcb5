//! The frames: that the committed code is what the schema generates, and that yesterday's frames are still understood.

use std::path::{Path, PathBuf};

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// With `STEADY_BLESS=1` it writes the file instead.
#[test]
fn the_committed_code_is_what_the_schema_generates() {
    let descriptors = protox::compile([here("proto/stream.proto")], [here("proto")]).expect("the schema compiles");
    let out = tempfile::tempdir().expect("a directory");
    prost_build::Config::new().bytes(["."]).out_dir(out.path()).compile_fds(descriptors).expect("the schema generates");
    let generated = std::fs::read_to_string(out.path().join("steady.stream.v1.rs")).expect("the generated file");
    let committed = here("src/wire/generated.rs");
    if std::env::var_os("STEADY_BLESS").is_some() {
        std::fs::write(&committed, &generated).expect("the committed file is written");
    }
    let committed = std::fs::read_to_string(&committed).unwrap_or_default();
    assert!(
        generated == committed,
        "src/wire/generated.rs isn't what proto/stream.proto generates: STEADY_BLESS=1 cargo test -p steady-stream --test schema"
    );
}
