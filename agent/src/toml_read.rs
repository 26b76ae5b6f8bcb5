//! Reads a TOML table key by key and collects **everything** that is wrong with it, each fault under its full key.
//!
//! A deserialiser stops at the first fault; someone who edits a file wants all of them. Keys that nobody asked for are
//! faults too, with the nearest known key when there is one.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use steady_sys::text;
use toml::{Table, Value};

/// One thing that is wrong, and under which key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// `apps.queue_wait`; empty when the text is not TOML at all.
    pub key: String,
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.key, self.message) }
    }
}

/// Parses `text`, or gives the one fault that says where it stops being TOML.
pub fn parse(text: &str) -> Result<Table, Fault> {
    text.parse::<Table>().map_err(|error| Fault { key: String::new(), message: error.to_string().trim().to_owned() })
}

/// A table being read. Every `take` marks its key as known; [`Reader::finish`] reports the rest.
#[derive(Debug)]
pub struct Reader<'f> {
    table: Table,
    prefix: String,
    known: BTreeSet<&'static str>,
    faults: &'f mut Vec<Fault>,
}

impl<'f> Reader<'f> {
    pub fn new(table: Table, faults: &'f mut Vec<Fault>) -> Self {
        Self { table, prefix: String::new(), known: BTreeSet::new(), faults }
    }

    /// Whether there is something under `key`.
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// The table under `key`, empty when it is not there. `read` is handed a reader of it.
    pub fn section<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Reader<'_>) -> T) -> T {
        let table = match self.take(key) {
            Some(Value::Table(table)) => table,
            Some(_) => {
                self.fault::<()>(key, format!("must be a section, [{}{key}]", self.prefix));
                Table::new()
            }
            None => Table::new(),
        };
        let prefix = format!("{}{key}.", self.prefix);
        let mut inner = Reader { table, prefix, known: BTreeSet::new(), faults: self.faults };
        let read = read(&mut inner);
        inner.finish();
        read
    }

    pub fn text(&mut self, key: &'static str) -> Option<String> {
        match self.take(key)? {
            Value::String(text) if !text.is_empty() => Some(text),
            _ => self.fault(key, "must be a text that is not empty, in quotes".to_owned()),
        }
    }

    /// Like [`Reader::text`], and a fault that gives an example when it is not there.
    pub fn text_required(&mut self, key: &'static str, example: &str) -> Option<String> {
        if !self.table.contains_key(key) {
            self.known.insert(key);
            return self.fault(key, format!("is missing: write {key} = {example:?}"));
        }
        self.text(key)
    }

    pub fn boolean(&mut self, key: &'static str) -> Option<bool> {
        match self.take(key)? {
            Value::Boolean(value) => Some(value),
            _ => self.fault(key, "must be true or false".to_owned()),
        }
    }

    pub fn number(&mut self, key: &'static str, least: u64, most: u64) -> Option<u64> {
        match self.take(key)? {
            Value::Integer(value) if u64::try_from(value).is_ok_and(|v| (least..=most).contains(&v)) => {
                Some(value as u64)
            }
            _ => self.fault(key, format!("must be a whole number from {least} to {most}")),
        }
    }

    pub fn duration(&mut self, key: &'static str) -> Option<Duration> {
        let read = match self.take(key)? {
            Value::String(text) => text::parse_duration(&text).map_err(|error| error.to_string()),
            _ => Err("must be a duration as text, like \"10s\"".to_owned()),
        };
        read.map_err(|message| self.fault::<()>(key, message)).ok()
    }

    pub fn size(&mut self, key: &'static str) -> Option<u64> {
        let read = match self.take(key)? {
            Value::Integer(octets) => u64::try_from(octets).map_err(|_| "must not be negative".to_owned()),
            Value::String(text) => text::parse_size(&text).map_err(|error| error.to_string()),
            _ => Err("must be a size, like \"10MiB\" or a number of octets".to_owned()),
        };
        read.map_err(|message| self.fault::<()>(key, message)).ok()
    }

    /// A text that `parse` makes something of.
    pub fn parsed<T>(&mut self, key: &'static str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = self.text(key)?;
        parse(&text).map_err(|message| self.fault::<()>(key, message)).ok()
    }

    pub fn texts(&mut self, key: &'static str) -> Option<Vec<String>> {
        let Value::Array(values) = self.take(key)? else {
            return self.fault(key, "must be a list of texts, like [\"a\", \"b\"]".to_owned());
        };
        let texts: Option<Vec<String>> = values.iter().map(|value| value.as_str().map(str::to_owned)).collect();
        texts.or_else(|| self.fault(key, "must hold texts only".to_owned()))
    }

    /// Every key of this table with its text: for tables whose keys are the user's own.
    pub fn all_texts(&mut self) -> Vec<(String, String)> {
        let mut pairs = Vec::new();
        for (key, value) in std::mem::take(&mut self.table) {
            match value {
                Value::String(text) => pairs.push((key, text)),
                Value::Integer(number) => pairs.push((key, number.to_string())),
                Value::Boolean(value) => pairs.push((key, value.to_string())),
                _ => {
                    let key = format!("{}{key}", self.prefix);
                    self.faults.push(Fault { key, message: "must be a text".to_owned() });
                }
            }
        }
        pairs
    }

    /// Notes a fault; gives `None` so that it can end an expression.
    pub fn fault<T>(&mut self, key: &str, message: String) -> Option<T> {
        self.faults.push(Fault { key: format!("{}{key}", self.prefix), message });
        None
    }

    /// Reports what nobody asked for.
    pub fn finish(self) {
        for key in self.table.keys() {
            let near = self.known.iter().find(|known| is_near(known, key));
            let hint = match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here: {}", self.known.iter().copied().collect::<Vec<_>>().join(", ")),
            };
            self.faults
                .push(Fault { key: format!("{}{key}", self.prefix), message: format!("is not a known key; {hint}") });
        }
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.insert(key);
        self.table.remove(key)
    }
}

/// Whether two keys differ by a slip: one octet changed, added or left out, or a dash for an underscore.
fn is_near(known: &str, written: &str) -> bool {
    let (known, written) = (known.as_bytes(), written.as_bytes());
    let same_start = known.iter().zip(written).take_while(|(a, b)| a == b).count();
    let (known, written) = (&known[same_start..], &written[same_start..]);
    let same_end = known.iter().rev().zip(written.iter().rev()).take_while(|(a, b)| a == b).count();
    known.len() - same_end <= 1 && written.len() - same_end <= 1
}
