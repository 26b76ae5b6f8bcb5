//! The directory that tables are kept in, and its one writer.
//!
//! ```text
//!   lock                         held by the writer as long as it lives
//!   routes-REVISION.base         the newest base, and the one before it
//!   routes-REVISION.log          the changes since that base
//!   routes.tmp                   what was being written when a writer was killed
//!   routes-REVISION.*.damaged    what was refused, until the next base is written
//! ```
//!
//! A file appears under its name when it is whole: written aside, synced, mapped and checked, renamed, the directory synced.
//! Whatever a killed writer leaves, the next one finds the newest table that had been published.

use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::{self, Base, Parts};
use crate::check::{self, Reasons};
use crate::error::{Damage, DamageReason, Error, Invalid, Result};
use crate::hash::{Seed, hash};
use crate::index::{Builder, Built, Fault};
use crate::lists::Domains;
use crate::log;
use crate::model::{App, Change, Contents, Host, MAX_APPS, MAX_ENDPOINTS};
use crate::name::{AppName, DomainName};
use crate::overlay::{Draft, Overlay};
use crate::record::{AppLayout, CustomLayout, encode_app, encode_custom};
use crate::routes::Routes;

/// Seeds that are drawn before a base is given up; the last ones with more slots. One is enough unless someone knows them.
const SEEDS: u32 = 16;
const TEMPORARY: &str = "routes.tmp";

/// How large the overlay may grow before it is folded into a new base.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Entries that differ from the base. Each change rebuilds the overlay, each look-up asks it first: 4,096 of them stay
    /// in a core's own cache and are rebuilt in well under a millisecond.
    pub overlay_entries: usize,
    /// Bytes of the log, which is read whole at start. 4 MiB are some 40,000 deployments of the same few applications.
    pub log_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { overlay_entries: 4096, log_bytes: 4 << 20 }
    }
}

/// What a writer needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    pub limits: Limits,
    /// Names that no application may have (`api`, `www`, ...).
    pub reserved: Vec<AppName>,
    /// Where seeds come from. Nobody who chooses names may be able to guess them; by default from the system's randomness.
    pub random: fn() -> u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            limits: Limits::default(),
            reserved: Vec::new(),
            random: || RandomState::new().build_hasher().finish(),
        }
    }
}

/// The writer of a directory of tables; one per directory at a time. Its calls block on the disk.
#[derive(Debug)]
pub struct TableDir {
    dir: PathBuf,
    options: Options,
    current: Option<Current>,
    /// Keeps the directory locked.
    _lock: File,
}

#[derive(Debug)]
struct Current {
    revision: u64,
    base: u64,
    identity: u32,
    log: Log,
}

#[derive(Debug)]
enum Log {
    /// None yet, or none that belongs to the base.
    Absent,
    /// Whole up to this byte.
    Open(File, u64),
    /// Nothing may be added: a write failed, or damage lies behind what was read. The next change writes a new base.
    Closed,
}

/// Reads the newest table of `dir` that is whole, and says what was passed over. It takes no lock and changes nothing; beside
/// a writer that is at work it may see the log's last entry half written and report a [`DamageReason::TornTail`].
pub fn open_latest(dir: impl AsRef<Path>) -> Result<(Option<Routes>, Vec<Damage>)> {
    let (found, damage) = find_latest(dir.as_ref())?;
    Ok((found.map(|found| found.routes), damage))
}

impl TableDir {
    /// Opens the directory (it is made when there is none), takes its lock and reads the newest table that is whole. What had
    /// to be passed over is listed and, where it would be found again, set aside.
    pub fn open(dir: impl AsRef<Path>) -> Result<(TableDir, Option<Routes>, Vec<Damage>)> {
        TableDir::open_with(dir, Options::default())
    }

    pub fn open_with(dir: impl AsRef<Path>, options: Options) -> Result<(TableDir, Option<Routes>, Vec<Damage>)> {
        let dir = dir.as_ref().to_owned();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(at("create", &dir))?;
        let lock = lock(&dir)?;
        match fs::remove_file(dir.join(TEMPORARY)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(at("remove", &dir.join(TEMPORARY))(error));
            }
            _ => {}
        }
        let (found, damage) = find_latest(&dir)?;
        set_aside(&dir, found.as_ref().map(|found| found.routes.base.revision))?;
        let mut routes = None;
        let mut current = None;
        if let Some(found) = found {
            let base = &found.routes.base;
            let log = found.log(&dir)?;
            current =
                Some(Current { revision: found.routes.revision, base: base.revision, identity: base.identity, log });
            routes = Some(found.routes);
        }
        Ok((TableDir { dir, options, current, _lock: lock }, routes, damage))
    }

    /// Writes a whole new table. `revision` must be above that of the newest one. On an error the old one stands.
    pub fn replace<I>(&mut self, contents: Contents<I>, revision: u64) -> Result<Routes>
    where
        I: IntoIterator<Item = App>,
    {
        self.check_revision(revision)?;
        let mut reasons = Reasons::default();
        check::hosts(&contents.hosts, &mut reasons);
        check::domains(&contents.domains, &mut reasons);
        let (mut apps, mut customs) = (Builder::new(), Builder::new());
        for app in contents.apps {
            if self.options.reserved.contains(&app.name) {
                reasons.push(Invalid::Reserved { app: app.name.clone() });
            }
            check::app(&app, contents.hosts.len(), &mut reasons);
            if app.endpoints.len() <= MAX_ENDPOINTS && apps.len() <= MAX_APPS {
                apps.push(|out| encode_app(&app, out));
            }
        }
        for (domain, app) in &contents.customs {
            customs.push(|out| encode_custom(domain, app.as_str(), out));
        }
        if apps.len().max(customs.len()) > MAX_APPS {
            reasons.push(Invalid::TooManyEntries);
        }
        let domains = Domains::new(contents.domains);
        let (seed, apps, customs) = self.build(apps, customs, &mut reasons)?;
        for (domain, app) in &contents.customs {
            let name = app.as_str().as_bytes();
            if apps.index().find(hash(seed, name), name).is_none() {
                reasons.push(Invalid::CustomWithoutApp { domain: domain.clone(), app: app.clone() });
            }
            if let Some(suffix) = domains.covering(domain.as_str().as_bytes()) {
                reasons.push(Invalid::CustomUnderSuffix { domain: domain.clone(), suffix: suffix.clone() });
            }
        }
        reasons.into_result()?;
        self.write_base(Parts {
            revision,
            seed,
            hosts: &contents.hosts,
            domains: &domains,
            apps: &apps,
            customs: &customs,
        })
    }

    /// Makes changes on top of `routes`, which must be the newest of this directory: all of them or, on an error, none. The
    /// cost is that of the changes and the overlay; when the overlay passes its bound, a new base is written.
    pub fn apply(&mut self, routes: &Routes, changes: &[Change], revision: u64) -> Result<Routes> {
        self.check_revision(revision)?;
        let newest = self.current.as_ref().map(|current| (current.revision, current.identity));
        if newest != Some((routes.revision, routes.base.identity)) {
            let current = newest.map_or(0, |(revision, _)| revision);
            return Err(Error::NotCurrent { current, given: routes.revision });
        }
        let mut draft = Draft::new(routes);
        if let Err(reasons) = draft.make(changes, &self.options.reserved) {
            return Err(reasons.into_error());
        }
        match draft.finish(revision) {
            Ok(next) if next.app_count().max(next.custom_count()) > MAX_APPS => {
                Err(Error::Invalid(vec![Invalid::TooManyEntries]))
            }
            Ok(next) if next.overlay.entries() <= self.options.limits.overlay_entries => {
                match log::entry(revision, changes).filter(|entry| self.has_room(entry.len())) {
                    Some(entry) => self.append(&routes.base, &entry, revision).map(|()| next),
                    None => self.fold(&draft, revision),
                }
            }
            // Full, or too crowded for the base's seed.
            Ok(_) | Err(_) => self.fold(&draft, revision),
        }
    }

    fn check_revision(&self, given: u64) -> Result<()> {
        match &self.current {
            Some(Current { revision: current, .. }) if given <= *current => {
                Err(Error::StaleRevision { current: *current, given })
            }
            _ => Ok(()),
        }
    }

    fn has_room(&self, entry: usize) -> bool {
        let used = match self.current.as_ref().map(|current| &current.log) {
            Some(Log::Open(_, len)) => *len,
            Some(Log::Absent) => log::HEADER as u64,
            Some(Log::Closed) | None => return false,
        };
        used + entry as u64 <= self.options.limits.log_bytes
    }

    fn append(&mut self, base: &Base, entry: &[u8], revision: u64) -> Result<()> {
        let Some(current) = &mut self.current else { return Ok(()) };
        let path = log::path(&self.dir, current.base);
        // Whatever fails below leaves the log closed.
        match std::mem::replace(&mut current.log, Log::Closed) {
            Log::Open(file, len) => {
                let written =
                    file.set_len(len).and_then(|()| file.write_all_at(entry, len)).and_then(|()| file.sync_data());
                if let Err(error) = written {
                    // A change that was refused shall not come back at the next start. When this fails too, nothing is lost:
                    // the next change writes a new base, which is preferred.
                    let _ = file.set_len(len);
                    return Err(at("append to", &path)(error));
                }
                current.log = Log::Open(file, len + entry.len() as u64);
            }
            Log::Absent | Log::Closed => {
                let mut file = create_temporary(&self.dir)?;
                let bytes = [&log::header(base), entry].concat();
                file.write_all(&bytes)
                    .and_then(|()| file.sync_all())
                    .map_err(at("write", &self.dir.join(TEMPORARY)))?;
                publish(&self.dir, &path)?;
                current.log = Log::Open(file, bytes.len() as u64);
            }
        }
        current.revision = revision;
        Ok(())
    }

    fn fold(&mut self, draft: &Draft<'_>, revision: u64) -> Result<Routes> {
        let mut reasons = Reasons::default();
        let (apps, customs) = draft.fold();
        if apps.len().max(customs.len()) > MAX_APPS {
            reasons.push(Invalid::TooManyEntries);
        }
        let (seed, apps, customs) = self.build(apps, customs, &mut reasons)?;
        reasons.into_result()?;
        let (hosts, domains): (&[Host], &Domains) = (draft.hosts(), draft.domains());
        self.write_base(Parts { revision, seed, hosts, domains, apps: &apps, customs: &customs })
    }

    /// Gives the records their slots, with a seed under which all are near their place.
    fn build(
        &self,
        mut apps: Builder<AppLayout>,
        mut customs: Builder<CustomLayout>,
        reasons: &mut Reasons,
    ) -> Result<(Seed, Built<AppLayout>, Built<CustomLayout>)> {
        for attempt in 0..SEEDS {
            let seed = Seed((self.options.random)(), (self.options.random)());
            let doublings = attempt / 4;
            let built = match apps.build(seed, doublings) {
                Ok(built) => built,
                Err((again, Fault::Crowded)) => {
                    apps = again;
                    continue;
                }
                Err((_, Fault::Duplicates(names))) => {
                    names.iter().filter_map(|name| parse(name, AppName::new)).for_each(|app| {
                        reasons.push(Invalid::DuplicateApp { app });
                    });
                    return Err(std::mem::take(reasons).into_error());
                }
            };
            match customs.build(seed, doublings) {
                Ok(customs) => return Ok((seed, built, customs)),
                Err((again, Fault::Crowded)) => {
                    apps = built.unbuild();
                    customs = again;
                }
                Err((_, Fault::Duplicates(names))) => {
                    for domain in names.iter().filter_map(|name| parse(name, DomainName::new)) {
                        reasons.push(Invalid::CustomTwice { domain });
                    }
                    return Err(std::mem::take(reasons).into_error());
                }
            }
        }
        Err(Error::Crowded { seeds: SEEDS })
    }

    fn write_base(&mut self, parts: Parts<'_>) -> Result<Routes> {
        let temporary = self.dir.join(TEMPORARY);
        let mut file = create_temporary(&self.dir)?;
        parts.write(&mut file).map_err(at("write", &temporary))?;
        let base = Base::open(&temporary)?;
        let path = base::path(&self.dir, parts.revision);
        // A log of that number can only be of a base that was refused.
        remove_if_there(&log::path(&self.dir, parts.revision))?;
        if let Err(error) = publish(&self.dir, &path) {
            // It is not known to be on the disk; nor shall it be preferred to what is changed next.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        let previous = self.current.replace(Current {
            revision: parts.revision,
            base: parts.revision,
            identity: base.identity,
            log: Log::Absent,
        });
        // Old files are no harm: if one cannot be removed now, the next base tries again.
        let _ = remove_old(&self.dir, parts.revision, previous.map(|current| current.base));
        Ok(routes_of(base))
    }
}

fn parse<T, E>(name: &[u8], make: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
    make(std::str::from_utf8(name).ok()?).ok()
}

fn routes_of(base: Base) -> Routes {
    Routes {
        overlay: Arc::new(Overlay::empty()),
        hosts: base.hosts.clone(),
        domains: base.domains.clone(),
        revision: base.revision,
        base: Arc::new(base),
    }
}

/// The newest table that is whole.
struct Found {
    routes: Routes,
    /// Where the log's good entries end; `None` when there is no log of this base.
    log_end: Option<u64>,
    /// There is more behind them than a write that was cut off.
    log_damaged: bool,
}

impl Found {
    fn log(&self, dir: &Path) -> Result<Log> {
        let path = log::path(dir, self.routes.base.revision);
        match self.log_end {
            None => Ok(Log::Absent),
            Some(_) if self.log_damaged => Ok(Log::Closed),
            Some(end) => {
                let file = OpenOptions::new().read(true).write(true).open(&path).map_err(at("open", &path))?;
                Ok(Log::Open(file, end))
            }
        }
    }
}

fn find_latest(dir: &Path) -> Result<(Option<Found>, Vec<Damage>)> {
    let mut revisions: Vec<u64> = names(dir)?.iter().filter_map(|name| revision_of(name, ".base")).collect();
    revisions.sort_unstable();
    let mut damage = Vec::new();
    for named in revisions.into_iter().rev() {
        let path = base::path(dir, named);
        match Base::open(&path) {
            Ok(base) if base.revision == named => {
                let found = read_log(dir, base, &mut damage);
                return Ok((Some(found), damage));
            }
            Ok(base) => damage.push(Damage { path, reason: DamageReason::Name { found: base.revision, named } }),
            Err(found) => damage.push(found),
        }
    }
    Ok((None, damage))
}

/// The base with as many entries of its log as are good.
fn read_log(dir: &Path, base: Base, damage: &mut Vec<Damage>) -> Found {
    let path = log::path(dir, base.revision);
    let routes = routes_of(base);
    let mut note = |reason| damage.push(Damage { path: path.clone(), reason });
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                note(DamageReason::Unreadable(error.to_string()));
            }
            return Found { routes, log_end: None, log_damaged: false };
        }
    };
    let mut contents = log::read(&bytes, &routes.base);
    let torn = matches!(contents.damage, None | Some(DamageReason::TornTail(_)));
    let mut log_damaged = !torn;
    if let Some(reason) = contents.damage.take() {
        note(reason);
    }
    let mut end = contents.end as u64;
    // The entries are replayed in one draft; should one be refused, again up to that one.
    let routes = loop {
        match replay(&routes, &contents.entries) {
            Ok(replayed) => break replayed,
            Err((which, why)) => {
                end = contents.entries[which].at as u64;
                note(DamageReason::LogEntry { at: end, why });
                contents.entries.truncate(which);
                log_damaged = true;
            }
        }
    };
    let log_end = (end >= log::HEADER as u64).then_some(end);
    Found { routes, log_end, log_damaged }
}

/// The table after these entries, or which of them cannot be used and why.
fn replay(routes: &Routes, entries: &[log::Entry]) -> Result<Routes, (usize, String)> {
    let Some(last) = entries.last() else { return Ok(routes.clone()) };
    let mut draft = Draft::new(routes);
    // All at once, because some checks look at the whole table; one by one only to find the entry that is at fault.
    if draft.make(entries.iter().flat_map(|entry| &entry.changes), &[]).is_err() {
        draft = Draft::new(routes);
        for (which, entry) in entries.iter().enumerate() {
            if let Err(reasons) = draft.make(&entry.changes, &[]) {
                let why = reasons.into_text().err().unwrap_or_default();
                return Err((which, why));
            }
        }
    }
    draft.finish(last.revision).map_err(|_| (entries.len() - 1, "its names crowd the index".to_owned()))
}

fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let mut open = OpenOptions::new();
    let file =
        open.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(at("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(Error::Held { path: dir.to_owned() }),
        Err(fs::TryLockError::Error(error)) => Err(at("lock", &path)(error)),
    }
}

fn create_temporary(dir: &Path) -> Result<File> {
    let path = dir.join(TEMPORARY);
    // A new file each time: one that is mapped must not be written to.
    remove_if_there(&path)?;
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path).map_err(at("create", &path))
}

/// Gives the temporary file its name, for good.
fn publish(dir: &Path, path: &Path) -> Result<()> {
    fs::rename(dir.join(TEMPORARY), path).map_err(at("rename a file to", path))?;
    sync(dir)
}

fn sync(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(at("sync", dir))
}

/// Renames what is newer than the table in use, so that it is not found again beside what comes next.
fn set_aside(dir: &Path, in_use: Option<u64>) -> Result<()> {
    let mut any = false;
    for name in names(dir)? {
        let revision = revision_of(&name, ".base").or_else(|| revision_of(&name, ".log"));
        if revision.is_some_and(|revision| in_use.is_none_or(|in_use| revision > in_use)) {
            let path = dir.join(&name);
            fs::rename(&path, dir.join(format!("{name}.damaged"))).map_err(at("set aside", &path))?;
            any = true;
        }
    }
    if any { sync(dir) } else { Ok(()) }
}

fn remove_old(dir: &Path, newest: u64, previous: Option<u64>) -> Result<()> {
    for name in names(dir)? {
        let revision = revision_of(&name, ".base").or_else(|| revision_of(&name, ".log"));
        let old = revision.is_some_and(|revision| revision != newest && Some(revision) != previous);
        let refused = name.starts_with("routes-") && name.ends_with(".damaged");
        if old || refused {
            remove_if_there(&dir.join(&name))?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("remove", path)(error)),
        _ => Ok(()),
    }
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(dir).map_err(at("read", dir))?;
    let names = entries.map(|entry| entry.map(|entry| entry.file_name().into_string()));
    let names = names.collect::<io::Result<Vec<_>>>().map_err(at("read", dir))?;
    Ok(names.into_iter().flatten().collect())
}

fn revision_of(name: &str, ending: &str) -> Option<u64> {
    let digits = name.strip_prefix("routes-")?.strip_suffix(ending)?;
    if digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None }
}

fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { what, path, source }
}
