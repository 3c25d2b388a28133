//! Reads a TOML document and collects *every* fault in it, each with its line and its key.
//!
//! A document is accepted or refused as a whole. A derived deserializer stops at the first fault, so schemas read key
//! by key.

mod excerpts;
mod faults;

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::HashSet,
    fmt::Display,
    hash::Hash,
    ops::Range,
    str::{self, FromStr},
    time::Duration,
};

use toml::de::{DeTable, DeValue};

pub use self::faults::{Diagnostic, Faults};

use self::excerpts::{Excerpt, Split};
use crate::files::read::trimmed;

/// Reads a document: passes its root to `schema`, which returns `None` only after it reported a fault. `file` is the
/// document's name in faults.
pub(crate) fn read<T>(
    file: &str,
    bytes: &[u8],
    schema: impl FnOnce(&Section<'_>) -> Option<T>,
) -> Result<T, Faults> {
    let Ok(text) = str::from_utf8(bytes) else {
        return Err(not_utf8(file, bytes));
    };
    let whole = Excerpt::whole(text);
    let document = Document::new(&whole);
    let value = document.read(schema);
    document.into_result(file, value)
}

/// As [`read`], for a document in which one table may have a million tables: they are parsed one after the other.
/// `schema` reads them by [`Section::for_each_table`].
pub(crate) fn read_split<T>(
    file: &str,
    bytes: &[u8],
    parent: &str,
    schema: impl FnOnce(&Section<'_>) -> Option<T>,
) -> Result<T, Faults> {
    let Ok(text) = str::from_utf8(bytes) else {
        return Err(not_utf8(file, bytes));
    };
    let split = Split::of(text, parent);
    let rest = split.rest();
    let document = Document {
        split: Some(&split),
        ..Document::new(&rest)
    };
    let mut is_broken = true;
    let value = document.read(|root| {
        is_broken = false;
        schema(root)
    });
    if is_broken {
        // The schema did not read the tables. They may have faults of syntax, too.
        document.for_each_table(|table| table.read(|_| Some(())));
    }
    document.into_result(file, value)
}

fn not_utf8(file: &str, bytes: &[u8]) -> Faults {
    let valid = bytes.utf8_chunks().next().map_or(0, |it| it.valid().len());
    let before = bytes[..valid].iter().filter(|byte| **byte == b'\n');
    Faults {
        file: file.to_owned(),
        faults: vec![Diagnostic {
            line: 1 + before.count(),
            key: String::new(),
            message: "is not UTF-8".to_owned(),
        }],
    }
}

/// The paths of all keys that `schema` reads of this document.
pub(crate) fn keys<T>(text: &str, schema: impl FnOnce(&Section<'_>) -> Option<T>) -> Vec<String> {
    let whole = Excerpt::whole(text);
    let document = Document {
        keys: Some(RefCell::default()),
        ..Document::new(&whole)
    };
    document.read(schema);
    document.keys.map(RefCell::into_inner).unwrap_or_default()
}

const DUPLICATE_KEY: &str = "duplicate key";

/// What is parsed at once, at most: it takes 40 times as much memory.
const MAX_PARSED_BYTES: usize = 16 << 20;

struct Document<'t> {
    excerpt: &'t Excerpt<'t>,
    /// Computed once: a document can have many faults.
    line_ends: OnceCell<Vec<usize>>,
    /// Faults of the TOML itself.
    syntax_faults: RefCell<Vec<Diagnostic>>,
    /// Whether there are others than duplicate keys among them.
    is_broken: Cell<bool>,
    /// Faults that the schema reports.
    faults: RefCell<Vec<Diagnostic>>,
    /// The table of an absent section.
    empty: DeTable<'t>,
    /// The keys that were read, if they are collected.
    keys: Option<RefCell<Vec<String>>>,
    /// The tables that are not in the excerpt.
    split: Option<&'t Split<'t>>,
}

impl<'t> Document<'t> {
    fn new(excerpt: &'t Excerpt<'t>) -> Self {
        Self {
            excerpt,
            line_ends: OnceCell::new(),
            syntax_faults: RefCell::default(),
            is_broken: Cell::new(false),
            faults: RefCell::default(),
            empty: DeTable::new(),
            keys: None,
            split: None,
        }
    }

    fn read<T>(&self, schema: impl FnOnce(&Section<'_>) -> Option<T>) -> Option<T> {
        let text = &self.excerpt.text;
        if text.len() > MAX_PARSED_BYTES {
            let message = match self.split {
                Some(_) => {
                    "more than 16 MiB are outside of the tables that are read one after the other"
                }
                None => "the table is larger than 16 MiB",
            };
            self.syntax_fault(&(0..1), message);
            return None;
        }
        let (root, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            self.syntax_fault(&error.span().unwrap_or_default(), error.message());
        }
        // A table recovered from broken syntax has gaps, which the schema would report as further faults.
        if self.is_broken.get() {
            return None;
        }
        let root = Place {
            document: self,
            path: String::new(),
            span: 0..0,
        }
        .section(root.get_ref());
        schema(&root)
    }

    /// Passes on each of the split's tables, and takes its faults.
    fn for_each_table(&self, mut read: impl FnMut(&Document<'_>) -> Option<()>) {
        for excerpt in self.split.iter().flat_map(|split| split.tables()) {
            let table = Document::new(&excerpt);
            read(&table);
            let is_broken = self.is_broken.get() || table.is_broken.get();
            self.is_broken.set(is_broken);
            let syntax_faults = table.syntax_faults.into_inner();
            self.syntax_faults.borrow_mut().extend(syntax_faults);
            self.faults.borrow_mut().extend(table.faults.into_inner());
        }
    }

    fn into_result<T>(self, file: &str, value: Option<T>) -> Result<T, Faults> {
        let mut faults = self.syntax_faults.into_inner();
        if !self.is_broken.get() {
            faults.append(&mut self.faults.into_inner());
        }
        match value {
            Some(value) if faults.is_empty() => Ok(value),
            _ => {
                faults.sort_by_key(|fault| fault.line);
                let file = file.to_owned();
                Err(Faults { file, faults })
            }
        }
    }

    fn line(&self, span: &Range<usize>) -> usize {
        // The root's, wherever its first part stands.
        if span.end == 0 {
            return 1;
        }
        let ends = self.line_ends.get_or_init(|| {
            let ends = self.excerpt.text.match_indices('\n');
            ends.map(|(at, _)| at).collect()
        });
        let before = |place| ends.partition_point(|end| *end < place);
        let (start, line) = self.excerpt.part_at(span.start);
        line + before(span.start) - before(start)
    }

    fn diagnostic(&self, span: &Range<usize>, key: &str, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            line: self.line(span),
            key: key.to_owned(),
            message: message.into(),
        }
    }

    fn fault(&self, span: &Range<usize>, key: &str, message: impl Into<String>) {
        let fault = self.diagnostic(span, key, message);
        self.faults.borrow_mut().push(fault);
    }

    fn syntax_fault(&self, span: &Range<usize>, message: &str) {
        let is_duplicate = message == DUPLICATE_KEY;
        let key = self.excerpt.text.get(span.clone());
        let key = key.filter(|_| is_duplicate).unwrap_or_default();
        let fault = self.diagnostic(span, key, message);
        self.syntax_faults.borrow_mut().push(fault);
        self.is_broken.set(self.is_broken.get() || !is_duplicate);
    }
}

/// Parses each string of a list. A value that is listed twice is a fault.
pub(crate) fn distinct<'d, T: Clone + Eq + Hash, E: Display>(
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

pub(crate) fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let known = known.iter().copied();
    known.min_by_key(|other| strsim::damerau_levenshtein(name, other))
}

/// Where a table or a value stands.
#[derive(Clone)]
struct Place<'d> {
    document: &'d Document<'d>,
    path: String,
    span: Range<usize>,
}

impl<'d> Place<'d> {
    fn fault(&self, message: impl Into<String>) {
        self.document.fault(&self.span, &self.path, message);
    }

    /// The place of a key in this table.
    fn child(&self, key: &str, span: Range<usize>) -> Self {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        let dot = if self.path.is_empty() { "" } else { "." };
        let path = if key.bytes().all(is_plain) && !key.is_empty() {
            format!("{}{dot}{key}", self.path)
        } else {
            format!("{}{dot}{key:?}", self.path)
        };
        let document = self.document;
        Self {
            document,
            path,
            span,
        }
    }

    fn section(self, table: &'d DeTable<'d>) -> Section<'d> {
        Section {
            place: self,
            table,
            known: RefCell::default(),
        }
    }
}

/// A table of the document. If a value has the wrong type, its getters report a fault and return `None`; for an absent
/// key they return `None` too.
pub(crate) struct Section<'d> {
    place: Place<'d>,
    table: &'d DeTable<'d>,
    /// The keys that were read.
    known: RefCell<Vec<&'static str>>,
}

/// A value of the document, with its position.
pub(crate) struct Entry<'d> {
    place: Place<'d>,
    value: &'d DeValue<'d>,
}

impl<'d> Section<'d> {
    /// The value of a key. The key counts as known from now on.
    pub(crate) fn entry(&self, key: &'static str) -> Option<Entry<'d>> {
        self.known.borrow_mut().push(key);
        if let Some(keys) = &self.place.document.keys {
            keys.borrow_mut().push(self.place.child(key, 0..0).path);
        }
        self.find(key)
    }

    pub(crate) fn get<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(&Entry<'d>) -> Option<T>,
    ) -> Option<T> {
        read(&self.entry(key)?)
    }

    pub(crate) fn get_or<T>(
        &self,
        key: &'static str,
        default: T,
        read: impl FnOnce(&Entry<'d>) -> Option<T>,
    ) -> T {
        self.get(key, read).unwrap_or(default)
    }

    /// The table of a key; an empty one if there is none.
    pub(crate) fn section(&self, key: &'static str) -> Section<'d> {
        let absent = || {
            self.place
                .child(key, 0..0)
                .section(&self.place.document.empty)
        };
        self.get(key, Entry::section).unwrap_or_else(absent)
    }

    pub(crate) fn require<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(&Entry<'d>) -> Option<T>,
    ) -> Option<T> {
        read(&self.present(key, self.entry(key))?)
    }

    /// The value of a required key whose name is not in the schema.
    pub(crate) fn require_named(&self, key: &str) -> Option<Entry<'d>> {
        self.present(key, self.find(key))
    }

    fn present(&self, key: &str, entry: Option<Entry<'d>>) -> Option<Entry<'d>> {
        if entry.is_none() {
            let place = self.place.child(key, self.place.span.clone());
            place.fault("is missing");
        }
        entry
    }

    /// Reports every key that was not read, with the nearest known one.
    pub(crate) fn finish(&self) {
        self.only(&self.known.borrow());
    }

    /// Reports every key that is not among `known`, with the nearest known one.
    pub(crate) fn only(&self, known: &[&str]) {
        for key in self.table.keys() {
            let name = key.get_ref().as_ref();
            if known.contains(&name) {
                continue;
            }
            let place = self.place.child(name, key.span());
            place.fault(match nearest(name, known) {
                Some(nearest) => format!("unknown key; the nearest known one is \"{nearest}\""),
                None => "unknown key; none is known here".to_owned(),
            });
        }
    }

    /// Every key with its value, in the order of the keys. The value has the key's position.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'d str, Entry<'d>)> + '_ {
        self.table.iter().map(|(key, value)| {
            let name = key.get_ref().as_ref();
            let place = self.place.child(name, key.span());
            let value = value.get_ref();
            (name, Entry { place, value })
        })
    }

    /// The highest number of tables for which [`for_each_table`](Self::for_each_table) may call.
    pub(crate) fn max_tables(&self) -> usize {
        self.place.document.split.map_or(0, Split::max_tables)
    }

    /// Reads every entry of the table of a key, also those that were split off, in no order.
    pub(crate) fn for_each_table(&self, key: &'static str, mut read: impl FnMut(&str, &Entry<'_>)) {
        let here = self.get(key, Entry::section);
        for (name, entry) in here.iter().flat_map(Section::entries) {
            read(name, &entry);
        }
        self.place.document.for_each_table(|table| {
            table.read(|root| {
                for (name, entry) in root.section(key).entries() {
                    match here.as_ref().and_then(|here| here.conflict(name, &entry)) {
                        Some((place, message)) => place.document.syntax_fault(&place.span, message),
                        None => read(name, &entry),
                    }
                }
                Some(())
            })
        });
    }

    /// Why this table can't have an entry that was split off, if so, and where that is to be reported.
    fn conflict<'p>(
        &'p self,
        name: &str,
        entry: &'p Entry<'_>,
    ) -> Option<(Place<'p>, &'static str)> {
        let Place { document, span, .. } = &self.place;
        let is_inline = document.excerpt.text[span.clone()].starts_with('{');
        if is_inline {
            let message = "cannot extend value of type inline table with a dotted key";
            return Some((entry.place.clone(), message));
        }
        let (key, _) = self.table.get_key_value(name)?;
        let here = self.place.child(name, key.span());
        let later = match document.line(&here.span) > entry.line() {
            true => here,
            false => entry.place.clone(),
        };
        Some((later, DUPLICATE_KEY))
    }

    pub(crate) fn fault(&self, message: &str) {
        self.place.fault(message);
    }

    fn find(&self, key: &str) -> Option<Entry<'d>> {
        let value = self.table.get(key)?;
        let place = self.place.child(key, value.span());
        let value = value.get_ref();
        Some(Entry { place, value })
    }
}

impl<'d> Entry<'d> {
    pub(crate) fn fault(&self, message: impl Into<String>) {
        self.place.fault(message);
    }

    /// A warning about this value. It is not reported as a fault.
    pub(crate) fn warning(&self, message: String) -> Diagnostic {
        Diagnostic {
            line: self.line(),
            key: self.place.path.clone(),
            message,
        }
    }

    pub(crate) fn line(&self) -> usize {
        self.place.document.line(&self.place.span)
    }

    /// The value of a result; an error is reported as a fault.
    pub(crate) fn check<T, E: Display>(&self, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.fault(error.to_string())).ok()
    }

    /// A string, trimmed and parsed.
    pub(crate) fn parse<T, E: Display>(
        &self,
        parse: impl FnOnce(&'d str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.check(trimmed(self.text()?))?;
        self.check(parse(text))
    }

    /// A string, trimmed and parsed as its type does.
    pub(crate) fn value<T: FromStr<Err: Display>>(&self) -> Option<T> {
        self.parse(str::parse)
    }

    pub(crate) fn section(&self) -> Option<Section<'d>> {
        let table = self.expect("a table", self.value.as_table())?;
        Some(self.place.clone().section(table))
    }

    pub(crate) fn text(&self) -> Option<&'d str> {
        self.expect("a string", self.value.as_str())
    }

    pub(crate) fn is_text(&self) -> bool {
        self.value.as_str().is_some()
    }

    pub(crate) fn is_table(&self) -> bool {
        self.value.as_table().is_some()
    }

    pub(crate) fn flag(&self) -> Option<bool> {
        self.expect("true or false", self.value.as_bool())
    }

    /// A whole number within bounds that fit in `T`.
    pub(crate) fn number<T: TryFrom<u64>>(&self, min: u64, max: u64) -> Option<T> {
        let digits = self.expect("a whole number", self.value.as_integer())?;
        let number = u64::from_str_radix(digits.as_str(), digits.radix()).ok();
        let number = number.filter(|number| (min..=max).contains(number));
        let number = number.and_then(|number| T::try_from(number).ok());
        self.allowed(number, digits, format_args!("{min} to {max}"))
    }

    pub(crate) fn share(&self) -> Option<f64> {
        let number = self.value.as_float().map(|it| it.as_str());
        let number = number.or_else(|| self.value.as_integer().map(|it| it.as_str()));
        let digits = self.expect("a number from 0 to 1", number)?;
        let share = digits.replace('_', "").parse::<f64>().ok();
        let share = share.filter(|share| (0.0..=1.0).contains(share));
        self.allowed(share, digits, format_args!("0 to 1"))
    }

    fn allowed<T>(
        &self,
        number: Option<T>,
        digits: impl Display,
        allowed: impl Display,
    ) -> Option<T> {
        let fault = || format!("is {digits}, allowed are {allowed}");
        self.check(number.ok_or_else(fault))
    }

    /// The strings of a list. Reports each value that is no string as a fault, and skips it.
    pub(crate) fn texts(&self) -> Option<Vec<(&'d str, Entry<'d>)>> {
        let entries = self.entries("a list of strings")?;
        Some(entries.filter_map(|it| Some((it.text()?, it))).collect())
    }

    /// The values of a list. `wanted` is what it must be.
    pub(crate) fn entries(&self, wanted: &str) -> Option<impl Iterator<Item = Entry<'d>>> {
        let list = self.expect(wanted, self.value.as_array())?;
        let place = self.place.clone();
        Some(list.iter().map(move |value| {
            let mut place = place.clone();
            place.span = value.span();
            let value = value.get_ref();
            Entry { place, value }
        }))
    }

    pub(crate) fn duration(&self) -> Option<Duration> {
        self.parse(|text| {
            humantime::parse_duration(text).map_err(|_| {
                format!("{text:?} is not a duration such as \"500ms\", \"10s\" or \"35days\"")
            })
        })
    }

    /// A day, as a string or as a TOML date.
    pub(crate) fn day_text(&self) -> Option<String> {
        match self.value {
            DeValue::Datetime(date) => Some(date.to_string()),
            value => self.expect(
                "a day such as \"2027-01-31\"",
                value.as_str().map(str::to_owned),
            ),
        }
    }

    fn expect<T>(&self, wanted: &str, found: Option<T>) -> Option<T> {
        let kind = match self.value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a fraction",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.check(found.ok_or_else(|| format!("must be {wanted}, and is {kind}")))
    }
}

#[cfg(test)]
mod tests;
