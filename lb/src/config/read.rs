//! Reads a TOML table key by key and notes everything that is wrong, so that one look at a file shows it all.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use steady_sys::text::{parse_duration, parse_size};
use toml::{Table, Value};

/// One thing that is wrong with a configuration, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `timeouts.idle`, `host[2].addr`; empty for the file as a whole.
    pub key: String,
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() { f.write_str(&self.what) } else { write!(f, "{}: {}", self.key, self.what) }
    }
}

/// Where problems are collected.
#[derive(Clone, Debug, Default)]
pub(super) struct Problems(Rc<RefCell<Vec<Problem>>>);

impl Problems {
    pub fn add(&self, key: impl Into<String>, what: impl Into<String>) {
        self.0.borrow_mut().push(Problem { key: key.into(), what: what.into() });
    }

    pub fn into_vec(self) -> Vec<Problem> {
        self.0.take()
    }
}

/// A table whose keys are taken out as they are read; what is left at the end is unknown.
#[derive(Debug)]
pub(super) struct Section {
    path: String,
    table: Table,
    asked: Vec<&'static str>,
    problems: Problems,
    /// It stands in the file.
    pub present: bool,
}

impl Section {
    pub fn new(path: String, table: Option<Table>, problems: &Problems) -> Section {
        let present = table.is_some();
        Section { path, table: table.unwrap_or_default(), asked: Vec::new(), problems: problems.clone(), present }
    }

    pub fn key(&self, key: &str) -> String {
        if self.path.is_empty() { key.into() } else { format!("{}.{key}", self.path) }
    }

    pub fn problem(&self, key: &str, what: impl Into<String>) {
        self.problems.add(self.key(key), what);
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.asked.push(key);
        self.table.remove(key)
    }

    fn wrong(&self, key: &str, found: &Value, wanted: &str) {
        self.problem(key, format!("it is {}: write {wanted}", kind(found)));
    }

    pub fn text(&mut self, key: &'static str) -> Option<String> {
        match self.take(key)? {
            Value::String(text) => Some(text),
            other => {
                self.wrong(key, &other, "a text in quotes");
                None
            }
        }
    }

    /// Reads a text by `parse`; what `parse` says is the problem.
    pub fn parsed<T>(&mut self, key: &'static str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = self.text(key)?;
        parse(&text).map_err(|what| self.problem(key, what)).ok()
    }

    pub fn required<T>(
        &mut self,
        key: &'static str,
        example: &str,
        value: impl FnOnce(&mut Self) -> Option<T>,
    ) -> Option<T> {
        if !self.table.contains_key(key) {
            self.asked.push(key);
            self.problem(key, format!("it is missing: write {key} = {example}"));
            return None;
        }
        value(self)
    }

    pub fn flag(&mut self, key: &'static str, default: bool) -> bool {
        match self.take(key) {
            None => default,
            Some(Value::Boolean(flag)) => flag,
            Some(other) => {
                self.wrong(key, &other, "true or false");
                default
            }
        }
    }

    pub fn count(&mut self, key: &'static str, default: usize, most: usize) -> usize {
        match self.take(key) {
            None => default,
            Some(Value::Integer(n)) if usize::try_from(n).is_ok_and(|n| n <= most) => n as usize,
            Some(Value::Integer(n)) => {
                self.problem(key, format!("it is {n}: write a number from 0 to {most}"));
                default
            }
            Some(other) => {
                self.wrong(key, &other, "a whole number");
                default
            }
        }
    }

    /// A duration above zero.
    pub fn duration(&mut self, key: &'static str) -> Option<Duration> {
        self.parsed(key, |text| match parse_duration(text) {
            Ok(Duration::ZERO) => Err("it is zero, so that everything would end at once: write a longer time".into()),
            Ok(duration) => Ok(duration),
            Err(error) => Err(error.to_string()),
        })
    }

    /// Octets, as a number or as text.
    pub fn size(&mut self, key: &'static str, default: u64) -> u64 {
        let read = match self.take(key) {
            None => return default,
            Some(Value::Integer(n)) if n > 0 => Ok(n as u64),
            Some(Value::Integer(n)) => Err(format!("it is {n}: write a size above 0")),
            Some(Value::String(text)) => parse_size(&text).map_err(|error| error.to_string()),
            Some(other) => Err(format!("it is {}: write a size such as \"64MiB\"", kind(&other))),
        };
        read.unwrap_or_else(|what| {
            self.problem(key, what);
            default
        })
    }

    /// A list of texts, each read by `parse`; `None` when the key is not there.
    pub fn list<T>(&mut self, key: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Option<Vec<T>> {
        let items = match self.take(key)? {
            Value::Array(items) => items,
            other => {
                self.wrong(key, &other, "a list of texts");
                return None;
            }
        };
        let mut read = Vec::new();
        for (place, item) in items.iter().enumerate() {
            let key = format!("{key}[{place}]");
            match item {
                Value::String(text) => match parse(text) {
                    Ok(value) => read.push(value),
                    Err(what) => self.problem(&key, what),
                },
                other => self.wrong(&key, other, "a text in quotes"),
            }
        }
        Some(read)
    }

    pub fn section(&mut self, key: &'static str) -> Section {
        let table = match self.take(key) {
            None => None,
            Some(Value::Table(table)) => Some(table),
            Some(other) => {
                self.wrong(key, &other, &format!("a section [{key}]"));
                None
            }
        };
        Section::new(self.key(key), table, &self.problems)
    }

    /// Every `[[key]]`.
    pub fn sections(&mut self, key: &'static str) -> Vec<Section> {
        let items = match self.take(key) {
            None => return Vec::new(),
            Some(Value::Array(items)) => items,
            Some(other) => {
                self.wrong(key, &other, &format!("sections [[{key}]]"));
                return Vec::new();
            }
        };
        let mut found = Vec::new();
        for (place, item) in items.into_iter().enumerate() {
            let path = format!("{key}[{place}]");
            match item {
                Value::Table(table) => found.push(Section::new(self.key(&path), Some(table), &self.problems)),
                other => self.wrong(&path, &other, &format!("a section [[{key}]]")),
            }
        }
        found
    }

    /// Says which keys nobody asked for.
    pub fn finish(self) {
        for key in self.table.keys() {
            self.problem(key, format!("there is no such key; here are: {}", self.asked.join(", ")));
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a text",
        Value::Integer(_) | Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a section",
    }
}
