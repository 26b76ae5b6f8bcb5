//! Keeps the daemons' logs in a state directory within bounds: nobody else does on a laptop.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

use steady_sys::kin::Kin;

use crate::up::child::Spec;

/// A file is set aside as `NAME.1` past this, replacing the one before: at most twice this is kept.
const LOG_BYTES_MAX: u64 = 64 << 20;
const SIGHUP: i32 = 1;

/// Bounds the logs of one daemon: those it writes by name are renamed and it is asked to reopen them; the one it inherited
/// (stdout and stderr, appended) is copied and emptied.
pub fn bound(spec: &Spec, kin: Kin) -> io::Result<()> {
    let mut renamed = false;
    for name in ["access.jsonl", "requests.jsonl"] {
        let path = spec.state_dir.join(name);
        if oversized(&path, LOG_BYTES_MAX) {
            fs::rename(&path, path.with_added_extension("1"))?;
            renamed = true;
        }
    }
    if renamed {
        kin.signal(SIGHUP)?;
    }
    empty_oversized(&spec.log(), LOG_BYTES_MAX)
}

fn empty_oversized(path: &Path, max: u64) -> io::Result<()> {
    if oversized(path, max) {
        fs::copy(path, path.with_added_extension("1"))?;
        OpenOptions::new().write(true).open(path)?.set_len(0)?;
    }
    Ok(())
}

fn oversized(path: &Path, max: u64) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.len() > max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_log_past_its_bound_is_set_aside_and_its_writer_goes_on_in_the_emptied_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lb.log");
        let mut writer = OpenOptions::new().create(true).append(true).open(&path).unwrap();
        writer.write_all(b"0123456789").unwrap();
        empty_oversized(&path, 10).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"0123456789");
        empty_oversized(&path, 9).unwrap();
        writer.write_all(b"next").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"next");
        assert_eq!(fs::read(dir.path().join("lb.log.1")).unwrap(), b"0123456789");
    }
}
