//! Files by name in one directory: the seam below the log, so that a simulated disk can lose what was not synced.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What the log needs of a disk. Names are plain file names. Nothing is durable before the `sync` that covers it.
pub trait Disk: Send {
    fn list(&mut self) -> io::Result<Vec<String>>;
    fn length(&mut self, name: &str) -> io::Result<u64>;
    /// Reads up to `length` octets; fewer at the end of the file.
    fn read_at(&mut self, name: &str, offset: u64, length: usize) -> io::Result<Vec<u8>>;
    /// Writes all, making the file and growing it where needed.
    fn write_at(&mut self, name: &str, offset: u64, octets: &[u8]) -> io::Result<()>;
    fn sync(&mut self, name: &str) -> io::Result<()>;
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&mut self, name: &str) -> io::Result<()>;
    /// Makes the files made, renamed and removed so far durable as such.
    fn sync_names(&mut self) -> io::Result<()>;
}

/// A directory of the real file system. Made if it is missing.
#[derive(Debug)]
pub struct FileDisk {
    directory: PathBuf,
    open: HashMap<String, File>,
}

impl FileDisk {
    pub fn new(directory: impl Into<PathBuf>) -> io::Result<FileDisk> {
        let directory = directory.into();
        fs::create_dir_all(&directory)?;
        Ok(FileDisk { directory, open: HashMap::new() })
    }

    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn file(&mut self, name: &str, create: bool) -> io::Result<&File> {
        if !self.open.contains_key(name) {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(create).truncate(false);
            let path = self.directory.join(name);
            let file = options
                .open(&path)
                .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
            self.open.insert(name.to_owned(), file);
        }
        Ok(&self.open[name])
    }
}

impl Disk for FileDisk {
    fn list(&mut self) -> io::Result<Vec<String>> {
        fs::read_dir(&self.directory)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn length(&mut self, name: &str) -> io::Result<u64> {
        Ok(self.file(name, false)?.metadata()?.len())
    }

    fn read_at(&mut self, name: &str, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let file = self.file(name, false)?;
        let mut octets = vec![0; length];
        let mut read = 0;
        while read < length {
            match file.read_at(&mut octets[read..], offset + read as u64) {
                Ok(0) => break,
                Ok(count) => read += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        octets.truncate(read);
        Ok(octets)
    }

    fn write_at(&mut self, name: &str, offset: u64, octets: &[u8]) -> io::Result<()> {
        self.file(name, true)?.write_all_at(octets, offset)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.file(name, false)?.sync_data()
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.directory.join(from), self.directory.join(to))?;
        self.open.remove(to);
        if let Some(file) = self.open.remove(from) {
            self.open.insert(to.to_owned(), file);
        }
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.open.remove(name);
        fs::remove_file(self.directory.join(name))
    }

    fn sync_names(&mut self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }
}
