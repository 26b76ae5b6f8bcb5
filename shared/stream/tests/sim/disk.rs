//! A disk that loses what was not synced: whole writes, single sectors of a write, the newest changes of names.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use steady_stream::Disk;

const SECTOR: usize = 512;

#[derive(Clone, Debug, Default)]
struct Content {
    durable: Vec<u8>,
    current: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
}

#[derive(Clone, Debug)]
enum Change {
    Made(String, usize),
    Renamed(String, String),
    Removed(String),
}

#[derive(Debug, Default)]
struct Inner {
    files: Vec<Content>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    changes: Vec<Change>,
    /// So many more operations succeed.
    fuse: Option<u32>,
}

/// Cheap to clone: all clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct SimDisk(Arc<Mutex<Inner>>);

impl SimDisk {
    /// Lets so many more operations succeed; the ones after fail, as those of a process that is dead.
    pub fn fuse(&self, operations: u32) {
        self.0.lock().unwrap().fuse = Some(operations);
    }

    /// The process died, and only it: everything that was written is there.
    pub fn killed(&self) {
        self.0.lock().unwrap().fuse = None;
    }

    /// The machine died: of what was not synced, each sector may be there or not.
    pub fn crashed(&self, rng: &mut fastrand::Rng) {
        let mut inner = self.0.lock().unwrap();
        inner.fuse = None;
        let kept = rng.usize(..=inner.changes.len());
        let changes: Vec<Change> = inner.changes.drain(..).take(kept).collect();
        for change in changes {
            apply(&mut inner.durable_names, change);
        }
        inner.names = inner.durable_names.clone();
        for file in &mut inner.files {
            let mood = rng.u8(..3);
            let mut content = std::mem::take(&mut file.durable);
            for (offset, octets) in file.unsynced.drain(..) {
                let mut at = 0;
                while at < octets.len() {
                    let length = (SECTOR - (offset + at) % SECTOR).min(octets.len() - at);
                    if mood == 2 || (mood == 1 && rng.bool()) {
                        put(&mut content, offset + at, &octets[at..at + length]);
                    }
                    at += length;
                }
            }
            file.durable.clone_from(&content);
            file.current = content;
        }
    }

    /// The disk was replaced by an empty one.
    pub fn wiped(&self) {
        *self.0.lock().unwrap() = Inner::default();
    }

    /// Flips one bit of a file.
    #[allow(dead_code)]
    pub fn rot(&self, name: &str, offset: usize) {
        let mut inner = self.0.lock().unwrap();
        let file = inner.names[name];
        inner.files[file].current[offset] ^= 1;
        inner.files[file].durable[offset] ^= 1;
    }

    /// Makes the last octets of a file zeros.
    #[allow(dead_code)]
    pub fn zero_end(&self, name: &str, octets: usize) {
        let mut inner = self.0.lock().unwrap();
        let file = inner.names[name];
        for content in [0, 1] {
            let file = &mut inner.files[file];
            let content = if content == 0 { &mut file.current } else { &mut file.durable };
            let length = content.len();
            content[length - octets..].fill(0);
        }
    }

    #[allow(dead_code)]
    pub fn octets(&self) -> usize {
        let inner = self.0.lock().unwrap();
        inner.names.values().map(|file| inner.files[*file].current.len()).sum()
    }
}

fn put(content: &mut Vec<u8>, offset: usize, octets: &[u8]) {
    if content.len() < offset + octets.len() {
        content.resize(offset + octets.len(), 0);
    }
    content[offset..offset + octets.len()].copy_from_slice(octets);
}

fn apply(names: &mut BTreeMap<String, usize>, change: Change) {
    match change {
        Change::Made(name, file) => {
            names.insert(name, file);
        }
        Change::Renamed(from, to) => {
            if let Some(file) = names.remove(&from) {
                names.insert(to, file);
            }
        }
        Change::Removed(name) => {
            names.remove(&name);
        }
    }
}

impl Inner {
    fn spend(&mut self) -> io::Result<()> {
        match &mut self.fuse {
            Some(0) => Err(io::Error::other("the process is dead")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn file(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, name.to_owned()))
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.names, change.clone());
        self.changes.push(change);
    }
}

impl Disk for SimDisk {
    fn list(&mut self) -> io::Result<Vec<String>> {
        Ok(self.0.lock().unwrap().names.keys().cloned().collect())
    }

    fn length(&mut self, name: &str) -> io::Result<u64> {
        let inner = self.0.lock().unwrap();
        Ok(inner.files[inner.file(name)?].current.len() as u64)
    }

    fn read_at(&mut self, name: &str, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let inner = self.0.lock().unwrap();
        let content = &inner.files[inner.file(name)?].current;
        let from = usize::try_from(offset).unwrap().min(content.len());
        Ok(content[from..(from + length).min(content.len())].to_vec())
    }

    fn write_at(&mut self, name: &str, offset: u64, octets: &[u8]) -> io::Result<()> {
        let mut inner = self.0.lock().unwrap();
        inner.spend()?;
        let file = match inner.file(name) {
            Ok(file) => file,
            Err(_) => {
                let file = inner.files.len();
                inner.files.push(Content::default());
                inner.change(Change::Made(name.to_owned(), file));
                file
            }
        };
        let offset = usize::try_from(offset).unwrap();
        put(&mut inner.files[file].current, offset, octets);
        inner.files[file].unsynced.push((offset, octets.to_vec()));
        Ok(())
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        let mut inner = self.0.lock().unwrap();
        inner.spend()?;
        let file = inner.file(name)?;
        let file = &mut inner.files[file];
        for (offset, octets) in std::mem::take(&mut file.unsynced) {
            put(&mut file.durable, offset, &octets);
        }
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.0.lock().unwrap();
        inner.spend()?;
        inner.file(from)?;
        inner.change(Change::Renamed(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        let mut inner = self.0.lock().unwrap();
        inner.spend()?;
        inner.change(Change::Removed(name.to_owned()));
        Ok(())
    }

    fn sync_names(&mut self) -> io::Result<()> {
        let mut inner = self.0.lock().unwrap();
        inner.spend()?;
        for change in std::mem::take(&mut inner.changes) {
            apply(&mut inner.durable_names, change);
        }
        Ok(())
    }
}
