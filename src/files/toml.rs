//! Reads a TOML document and collects *every* fault in it, each with its line and its key.
//!
//! A document is accepted or refused as a whole. A derived deserializer stops at the first fault, so schemas read key
//! by key.

use std::{
    cell::{OnceCell, RefCell},
    collections::HashSet,
    fmt::{self, Display},
    hash::Hash,
    ops::Range,
    str,
    time::Duration,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::files::read::trimmed;

/// How many faults a [summary](Faults::summary) has.
const MAX_SHOWN: usize = 100;

/// A fault or a warning. Displays as `line: key: message`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// From 1.
    pub line: usize,
    /// The key, with its tables: `orgs.org-acme.tier`. Empty if the fault is of no key.
    pub key: String,
    /// What is wrong, and what is allowed.
    pub message: String,
}

/// All faults of a document, by line. Displays as one line for each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.first(usize::MAX))]
pub struct Faults {
    /// The document's name: its path.
    pub file: String,
    /// At least one.
    pub faults: Vec<Diagnostic>,
}

impl Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, key, message } = self;
        let colon = if key.is_empty() { "" } else { ": " };
        write!(f, "{line}: {key}{colon}{message}")
    }
}

impl Faults {
    fn first(&self, max: usize) -> String {
        let faults = self.faults.iter().take(max);
        let lines: Vec<String> = faults.map(|it| format!("{}:{it}", self.file)).collect();
        lines.join("\n")
    }

    /// The first faults, one a line, and the number of further ones.
    #[must_use]
    pub fn summary(&self) -> String {
        let first = self.first(MAX_SHOWN);
        match self.faults.len().saturating_sub(MAX_SHOWN) {
            0 => first,
            more => format!("{first}\nand {more} more"),
        }
    }
}

/// Reads a document: passes its root to `schema`. `file` is its name in faults.
///
/// # Errors
///
/// All faults: of the encoding, of the TOML, and those that `schema` reported.
pub fn read<T>(
    file: &str,
    bytes: &[u8],
    schema: impl FnOnce(&Section<'_>) -> Option<T>,
) -> Result<T, Faults> {
    let invalid = |mut faults: Vec<Diagnostic>| {
        faults.sort_by_key(|fault| fault.line);
        let file = file.to_owned();
        Err(Faults { file, faults })
    };
    let fault = |line, message: &str| Diagnostic {
        line,
        key: String::new(),
        message: message.to_owned(),
    };
    let text = match str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let before = &bytes[..error.valid_up_to()];
            let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
            return invalid(vec![fault(line, "is not UTF-8")]);
        }
    };
    let (root, errors) = DeTable::parse_recoverable(text);
    let document = Document::new(text);
    for error in &errors {
        let span = error.span().unwrap_or_default();
        let is_duplicate = error.message() == DUPLICATE_KEY;
        let key = text.get(span.clone()).filter(|_| is_duplicate);
        document.fault(&span, key.unwrap_or_default(), error.message());
    }
    // A table recovered from broken syntax has gaps, which the schema would report as further faults.
    let is_broken = errors.iter().any(|it| it.message() != DUPLICATE_KEY);
    let value = if is_broken {
        None
    } else {
        schema(&Section::root(&document, root.get_ref()))
    };
    match (value, document.faults.into_inner()) {
        (Some(value), faults) if faults.is_empty() => Ok(value),
        (None, faults) if faults.is_empty() => invalid(vec![fault(1, "can't be taken")]),
        (_, faults) => invalid(faults),
    }
}

/// The paths of all keys that `schema` reads of this document.
pub(crate) fn keys(text: &str, schema: impl FnOnce(&Section<'_>)) -> Vec<String> {
    let (root, _) = DeTable::parse_recoverable(text);
    let document = Document {
        keys: Some(RefCell::default()),
        ..Document::new(text)
    };
    schema(&Section::root(&document, root.get_ref()));
    document.keys.map(RefCell::into_inner).unwrap_or_default()
}

const DUPLICATE_KEY: &str = "duplicate key";

struct Document<'t> {
    text: &'t str,
    /// Computed once: a document can have many faults.
    line_ends: OnceCell<Vec<usize>>,
    faults: RefCell<Vec<Diagnostic>>,
    /// The table of an absent section.
    empty: DeTable<'t>,
    /// The keys that were read, if they are collected.
    keys: Option<RefCell<Vec<String>>>,
}

impl<'t> Document<'t> {
    fn new(text: &'t str) -> Self {
        Self {
            text,
            line_ends: OnceCell::new(),
            faults: RefCell::default(),
            empty: DeTable::new(),
            keys: None,
        }
    }

    fn line(&self, span: &Range<usize>) -> usize {
        let ends = self.line_ends.get_or_init(|| {
            let ends = self.text.bytes().enumerate();
            ends.filter_map(|(at, byte)| (byte == b'\n').then_some(at))
                .collect()
        });
        1 + ends.partition_point(|end| *end < span.start)
    }

    fn fault(&self, span: &Range<usize>, key: &str, message: &str) {
        let fault = Diagnostic {
            line: self.line(span),
            key: key.to_owned(),
            message: message.to_owned(),
        };
        self.faults.borrow_mut().push(fault);
    }
}

/// Parses each string of a list. A value that is listed twice is a fault.
pub fn distinct<'d, T: Clone + Eq + Hash, E: Display>(
    texts: Vec<(&'d str, Entry<'d>)>,
    parse: impl Fn(&'d str) -> Result<T, E>,
) -> Vec<T> {
    let (mut values, mut seen) = (Vec::new(), HashSet::new());
    for (text, entry) in texts {
        match entry.check(parse(text)) {
            Some(value) if seen.insert(value.clone()) => values.push(value),
            Some(_) => entry.fault(format!("{text:?} is listed twice")),
            None => {}
        }
    }
    values
}

/// The known name that is most similar.
pub(crate) fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let known = known.iter().copied();
    known.min_by_key(|other| strsim::damerau_levenshtein(name, other))
}

/// A table of the document. If a value has the wrong type, its getters report a fault and return `None`; for an absent
/// key they return `None` too.
pub struct Section<'d> {
    document: &'d Document<'d>,
    path: String,
    span: Range<usize>,
    table: &'d DeTable<'d>,
    /// The keys that were read.
    known: RefCell<Vec<&'static str>>,
}

/// A value of the document, with its position.
pub struct Entry<'d> {
    document: &'d Document<'d>,
    path: String,
    span: Range<usize>,
    value: &'d DeValue<'d>,
}

impl<'d> Section<'d> {
    fn root(document: &'d Document<'d>, table: &'d DeTable<'d>) -> Self {
        Self {
            document,
            path: String::new(),
            span: 0..0,
            table,
            known: RefCell::default(),
        }
    }

    /// The value of a key. The key counts as known from now on.
    pub fn entry(&self, key: &'static str) -> Option<Entry<'d>> {
        self.mark_known(key);
        self.find(key)
    }

    fn mark_known(&self, key: &'static str) {
        self.known.borrow_mut().push(key);
        if let Some(keys) = &self.document.keys {
            keys.borrow_mut().push(self.join(key));
        }
    }

    /// Reads the value of an optional key.
    pub fn get<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(&Entry<'d>) -> Option<T>,
    ) -> Option<T> {
        read(&self.entry(key)?)
    }

    /// The table of a key; an empty one if there is none.
    pub fn section(&self, key: &'static str) -> Section<'d> {
        self.get(key, Entry::section).unwrap_or_else(|| Section {
            document: self.document,
            path: self.join(key),
            span: 0..0,
            table: &self.document.empty,
            known: RefCell::default(),
        })
    }

    /// Reads the value of a required key.
    pub fn require<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(&Entry<'d>) -> Option<T>,
    ) -> Option<T> {
        self.mark_known(key);
        read(&self.require_named(key)?)
    }

    /// The value of a required key whose name is not in the schema.
    pub fn require_named(&self, key: &str) -> Option<Entry<'d>> {
        let entry = self.find(key);
        if entry.is_none() {
            let path = self.join(key);
            self.document.fault(&self.span, &path, "is missing");
        }
        entry
    }

    /// Reports every key that was not read, with the nearest known one.
    pub fn finish(&self) {
        self.only(&self.known.borrow());
    }

    /// Reports every key that is not among `known`, with the nearest known one.
    pub fn only(&self, known: &[&str]) {
        for key in self.table.keys() {
            let name = key.get_ref().as_ref();
            if known.contains(&name) {
                continue;
            }
            let message = match nearest(name, known) {
                Some(nearest) => format!("unknown key; the nearest known one is \"{nearest}\""),
                None => "unknown key; none is known here".to_owned(),
            };
            self.document.fault(&key.span(), &self.join(name), &message);
        }
    }

    /// Every key with its value, in the order of the keys. The value has the key's position.
    pub fn entries(&self) -> impl Iterator<Item = (&'d str, Entry<'d>)> + '_ {
        self.table.iter().map(|(key, value)| {
            let mut entry = self.value(key.get_ref(), value);
            entry.span = key.span();
            (key.get_ref().as_ref(), entry)
        })
    }

    /// Reports a fault of this table as a whole.
    pub fn fault(&self, message: &str) {
        self.document.fault(&self.span, &self.path, message);
    }

    fn find(&self, key: &str) -> Option<Entry<'d>> {
        Some(self.value(key, self.table.get(key)?))
    }

    fn value(&self, key: &str, value: &'d Spanned<DeValue<'d>>) -> Entry<'d> {
        Entry {
            document: self.document,
            path: self.join(key),
            span: value.span(),
            value: value.get_ref(),
        }
    }

    fn join(&self, key: &str) -> String {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        let dot = if self.path.is_empty() { "" } else { "." };
        if key.bytes().all(is_plain) && !key.is_empty() {
            format!("{}{dot}{key}", self.path)
        } else {
            format!("{}{dot}{key:?}", self.path)
        }
    }
}

impl<'d> Entry<'d> {
    /// Reports a fault of this value.
    pub fn fault(&self, message: impl AsRef<str>) {
        self.document
            .fault(&self.span, &self.path, message.as_ref());
    }

    /// A warning about this value. It is not reported as a fault.
    #[must_use]
    pub fn warning(&self, message: String) -> Diagnostic {
        Diagnostic {
            line: self.line(),
            key: self.path.clone(),
            message,
        }
    }

    /// Its line, from 1.
    #[must_use]
    pub fn line(&self) -> usize {
        self.document.line(&self.span)
    }

    /// The value of a result; an error is reported as a fault.
    pub fn check<T, E: Display>(&self, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.fault(error.to_string())).ok()
    }

    /// A string, trimmed and parsed.
    pub fn parse<T, E: Display>(&self, parse: impl FnOnce(&'d str) -> Result<T, E>) -> Option<T> {
        self.check(parse(self.trimmed()?))
    }

    /// A table.
    #[must_use]
    pub fn section(&self) -> Option<Section<'d>> {
        let table = self.expect("a table", self.value.as_table())?;
        Some(Section {
            document: self.document,
            path: self.path.clone(),
            span: self.span.clone(),
            table,
            known: RefCell::default(),
        })
    }

    /// A string.
    #[must_use]
    pub fn text(&self) -> Option<&'d str> {
        self.expect("a string", self.value.as_str())
    }

    /// A string, trimmed. Control characters within it are a fault.
    #[must_use]
    pub fn trimmed(&self) -> Option<&'d str> {
        self.check(trimmed(self.text()?))
    }

    /// `true` or `false`.
    #[must_use]
    pub fn flag(&self) -> Option<bool> {
        self.expect("true or false", self.value.as_bool())
    }

    /// A whole number within bounds that fit in `T`.
    #[must_use]
    pub fn number<T: TryFrom<u64>>(&self, min: u64, max: u64) -> Option<T> {
        let digits = self.expect("a whole number", self.value.as_integer())?;
        let number = i128::from_str_radix(digits.as_str(), digits.radix()).ok();
        let number = number.and_then(|number| u64::try_from(number).ok());
        let number = number.filter(|number| (min..=max).contains(number));
        let number = number.and_then(|number| T::try_from(number).ok());
        if number.is_none() {
            self.fault(format!("is {digits}, allowed are {min} to {max}"));
        }
        number
    }

    /// A share, 0 to 1.
    #[must_use]
    pub fn share(&self) -> Option<f64> {
        let number = self.value.as_float().map(|it| it.as_str());
        let number = number.or_else(|| self.value.as_integer().map(|it| it.as_str()));
        let digits = self.expect("a number from 0 to 1", number)?;
        let share = digits.replace('_', "").parse::<f64>().ok();
        let share = share.filter(|share| (0.0..=1.0).contains(share));
        if share.is_none() {
            self.fault(format!("is {digits}, allowed are 0 to 1"));
        }
        share
    }

    /// The strings of a list. Reports each value that is no string as a fault, and skips it.
    #[must_use]
    pub fn texts(&self) -> Option<Vec<(&'d str, Entry<'d>)>> {
        let list = self.expect("a list of strings", self.value.as_array())?;
        let entries = list.iter().map(|value| Entry {
            document: self.document,
            path: self.path.clone(),
            span: value.span(),
            value: value.get_ref(),
        });
        Some(entries.filter_map(|it| Some((it.text()?, it))).collect())
    }

    /// A duration such as "500ms", "10s" or "35days".
    #[must_use]
    pub fn duration(&self) -> Option<Duration> {
        self.parse(|text| {
            humantime::parse_duration(text).map_err(|_| {
                format!("{text:?} is not a duration such as \"500ms\", \"10s\" or \"35days\"")
            })
        })
    }

    /// A day, as a string or as a TOML date.
    #[must_use]
    pub fn day_text(&self) -> Option<String> {
        match self.value {
            DeValue::Datetime(date) => Some(date.to_string()),
            _ => self
                .expect("a day such as \"2027-01-31\"", self.value.as_str())
                .map(str::to_owned),
        }
    }

    fn expect<T>(&self, wanted: &str, found: Option<T>) -> Option<T> {
        if found.is_none() {
            let kind = match self.value {
                DeValue::String(_) => "a string",
                DeValue::Integer(_) => "a whole number",
                DeValue::Float(_) => "a fraction",
                DeValue::Boolean(_) => "true or false",
                DeValue::Datetime(_) => "a date",
                DeValue::Array(_) => "a list",
                DeValue::Table(_) => "a table",
            };
            self.fault(format!("must be {wanted}, and is {kind}"));
        }
        found
    }
}

#[cfg(test)]
mod tests;
