//! The sample applications, carried in the binary, so that it shows something wherever it is started.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::pack::{self, Packed};
use crate::up::bun;
use crate::up::place::write_aside;

/// A folder of `examples/`.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub name: &'static str,
    files: &'static [(&'static str, &'static str)],
    pub needs: Needs,
}

/// What has to be on the machine for it to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    Bun,
    Python,
}

pub const SAMPLES: [Sample; 2] = [
    Sample {
        name: "hello",
        files: &[
            ("index.ts", include_str!("../../examples/hello/index.ts")),
            ("page.html", include_str!("../../examples/hello/page.html")),
            ("package.json", include_str!("../../examples/hello/package.json")),
            ("steady.toml", include_str!("../../examples/hello/steady.toml")),
        ],
        needs: Needs::Bun,
    },
    Sample {
        name: "clock",
        files: &[
            ("server.py", include_str!("../../examples/clock/server.py")),
            ("steady.toml", include_str!("../../examples/clock/steady.toml")),
        ],
        needs: Needs::Python,
    },
];

impl Sample {
    /// Writes the folder to `dir/examples/NAME`, where the user may look at it; files of the user's own making stay.
    pub fn unpack(&self, dir: &Path) -> Result<PathBuf, Error> {
        let folder = dir.join("examples").join(self.name);
        fs::create_dir_all(&folder).map_err(Error::file(&folder))?;
        for (name, content) in self.files {
            let path = folder.join(name);
            if !path.exists() {
                write_aside(&path, content.as_bytes())?;
            }
        }
        Ok(folder)
    }

    pub fn pack(&self, dir: &Path) -> Result<Packed, Error> {
        pack::pack(&self.unpack(dir)?, Some(self.name))
    }

    /// What keeps it from running here, said so that it can be mended. Bun is looked for elsewhere, with what fetches it.
    pub fn lacks(&self) -> Option<&'static str> {
        let missing = self.needs == Needs::Python && bun::on_path("python3").is_none();
        missing.then_some("python3 is not on PATH; install it, then start again")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binary_carries_every_file_of_its_samples() {
        for sample in SAMPLES {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(sample.name);
            let mut there: Vec<String> =
                fs::read_dir(folder).unwrap().map(|item| item.unwrap().file_name().into_string().unwrap()).collect();
            let mut carried: Vec<String> = sample.files.iter().map(|(name, _)| (*name).to_owned()).collect();
            there.sort();
            carried.sort();
            assert_eq!(there, carried, "{}", sample.name);
        }
    }

    #[test]
    fn a_sample_that_the_user_changed_stays_changed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = SAMPLES[0].unpack(dir.path()).unwrap();
        fs::write(folder.join("index.ts"), "mine").unwrap();
        SAMPLES[0].unpack(dir.path()).unwrap();
        assert_eq!(fs::read_to_string(folder.join("index.ts")).unwrap(), "mine");
    }
}
