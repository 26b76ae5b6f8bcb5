//! What this host knows of an application, durably: a restarted agent knows what it owns before it listens.
//!
//! One JSON file per application, `apps/NAME/record.json`, written aside, synced and renamed. A record is never deleted:
//! when the application leaves, its generation stays as a tombstone, so that a late message cannot bring it back.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::gate::{Generation, Role};

/// What is to run: a version and the bundle that holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    pub version: u64,
    pub digest: Digest,
    pub exclusive: bool,
}

/// What this host is to one application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub name: String,
    #[serde(with = "role_text")]
    pub role: Role,
    #[serde(with = "generation_number")]
    pub generation: Generation,
    /// The version to run. `None`: nothing was ever placed, or it was deleted.
    pub placement: Option<Placement>,
}

impl Record {
    /// Nothing known yet: any generation is newer.
    pub fn unknown(name: &str) -> Self {
        Self { name: name.to_owned(), role: Role::Absent, generation: Generation(0), placement: None }
    }

    /// Whether it was deleted, or never placed: only its generation is known.
    pub fn is_tombstone(&self) -> bool {
        self.role == Role::Absent && self.placement.is_none()
    }

    /// Whether a process of it may run on this host.
    pub fn may_run(&self) -> bool {
        match (self.role, &self.placement) {
            (Role::Owner, Some(_)) => true,
            (Role::Incoming, Some(placement)) => !placement.exclusive,
            _ => false,
        }
    }
}

/// A SHA-256, as 64 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Digest(String);

impl Digest {
    pub fn parse(text: &str) -> Option<Self> {
        let right = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        right.then(|| Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("a digest is 64 lower-case hexadecimal digits"))
    }
}

/// Whether `name` may name an application: a DNS label, in lower case (RFC 1035 §2.3.1, digits first allowed).
pub fn is_app_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}

/// The folder of all records.
#[derive(Clone, Debug)]
pub struct Records {
    dir: PathBuf,
}

impl Records {
    pub fn new(apps_dir: PathBuf) -> Self {
        Self { dir: apps_dir }
    }

    /// Everything that is recorded. A record that cannot be read is an error: to ignore it would be to forget what this
    /// host owns. One that was draining has drained: its process ended with the agent that drained it.
    pub fn load_all(&self) -> io::Result<Vec<Record>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path().join("record.json");
            let text = match fs::read(&path) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
            };
            let mut record: Record = serde_json::from_slice(&text).map_err(|error| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{}: {error}; mend it, or remove its folder to forget the application", path.display()),
                )
            })?;
            if record.role == Role::Draining {
                record.role = Role::Absent;
            }
            records.push(record);
        }
        records.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(records)
    }

    /// Writes a record; when this returns it survives a power cut. Blocking.
    pub fn save(&self, record: &Record) -> io::Result<()> {
        let dir = self.dir.join(&record.name);
        let is_new = !dir.exists();
        fs::create_dir_all(&dir)?;
        let text = serde_json::to_vec_pretty(record).map_err(io::Error::other)?;
        replace_file(&dir, "record.json", &text)?;
        if is_new {
            File::open(&self.dir)?.sync_all()?;
        }
        Ok(())
    }
}

/// Replaces `dir/name` with `text`: written aside, synced, renamed, and the folder synced.
pub fn replace_file(dir: &Path, name: &str, text: &[u8]) -> io::Result<()> {
    let aside = dir.join(format!(".{name}.new"));
    let mut file = File::create(&aside)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&aside, dir.join(name))?;
    File::open(dir)?.sync_all()
}

/// `Role` as the API and the records write it.
pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::Owner => "owner",
        Role::Incoming => "incoming",
        Role::Draining => "draining",
        Role::Absent => "absent",
    }
}

mod role_text {
    use super::{Deserialize, Role, role_name};

    pub fn serialize<S: serde::Serializer>(role: &Role, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(role_name(*role))
    }

    pub fn deserialize<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Role, D::Error> {
        match String::deserialize(from)?.as_str() {
            "owner" => Ok(Role::Owner),
            "incoming" => Ok(Role::Incoming),
            "draining" => Ok(Role::Draining),
            "absent" => Ok(Role::Absent),
            _ => Err(serde::de::Error::custom("a role is one of owner, incoming, draining, absent")),
        }
    }
}

mod generation_number {
    use super::{Deserialize, Generation};

    pub fn serialize<S: serde::Serializer>(generation: &Generation, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(generation.0)
    }

    pub fn deserialize<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Generation, D::Error> {
        u64::deserialize(from).map(Generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(role: Role) -> Record {
        let digest = Digest::parse(&"a1".repeat(32)).unwrap();
        let placement = Some(Placement { version: 3, digest, exclusive: true });
        Record { name: "shop".to_owned(), role, generation: Generation(7), placement }
    }

    #[test]
    fn a_record_is_read_back_as_it_was_saved() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::new(dir.path().to_owned());
        for role in [Role::Owner, Role::Incoming, Role::Absent] {
            records.save(&record(role)).unwrap();
            assert_eq!(records.load_all().unwrap(), [record(role)]);
        }
    }

    #[test]
    fn what_was_draining_when_the_agent_ended_is_absent_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::new(dir.path().to_owned());
        records.save(&record(Role::Draining)).unwrap();
        assert_eq!(records.load_all().unwrap()[0].role, Role::Absent);
    }

    #[test]
    fn a_half_written_file_beside_the_record_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::new(dir.path().to_owned());
        records.save(&record(Role::Owner)).unwrap();
        fs::write(dir.path().join("shop/.record.json.new"), "{").unwrap();
        assert_eq!(records.load_all().unwrap(), [record(Role::Owner)]);
    }

    #[test]
    fn a_damaged_record_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::new(dir.path().to_owned());
        records.save(&record(Role::Owner)).unwrap();
        fs::write(dir.path().join("shop/record.json"), "{}").unwrap();
        assert!(records.load_all().unwrap_err().to_string().contains("shop/record.json"));
    }

    #[test]
    fn an_exclusive_application_may_run_at_its_owner_only() {
        assert!(record(Role::Owner).may_run());
        assert!(!record(Role::Incoming).may_run());
        assert!(!record(Role::Draining).may_run());
    }

    #[test]
    fn only_dns_labels_name_applications() {
        for name in ["a", "shop", "shop-2", "0x"] {
            assert!(is_app_name(name), "{name}");
        }
        for name in ["", "-a", "a-", "A", "a.b", "../x", "a/b", &"a".repeat(64)] {
            assert!(!is_app_name(name), "{name}");
        }
    }
}
