//! Reads a TOML document and collects *every* fault in it, each with its line and its key.
//!
//! The settings and the policy are both taken whole or not at all, so their schemas are walked by
//! hand: a derived deserializer stops at the first fault.

use std::{
    cell::{OnceCell, RefCell},
    fmt,
    fmt::Write as _,
    ops::Range,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::files::read::trimmed;

/// One thing that is wrong in a document. Displays as `line: key: message`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The line it stands on, from 1.
    pub line: usize,
    /// The key, with its tables: `orgs.org-acme.tier`. Empty where no key is at fault.
    pub key: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// Everything that is wrong in a document, by line. Displays as one line for each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Faults {
    /// The document's name: its path.
    pub file: String,
    /// At least one.
    pub faults: Vec<Fault>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, key, message } = self;
        write!(f, "{line}: ")?;
        if !key.is_empty() {
            write!(f, "{key}: ")?;
        }
        f.write_str(message)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, fault) in self.faults.iter().enumerate() {
            if at > 0 {
                f.write_char('\n')?;
            }
            write!(f, "{}:{fault}", self.file)?;
        }
        Ok(())
    }
}

/// Walks a document: calls `walk` with its root, and gives what `walk` gave if no fault was found.
///
/// # Errors
///
/// All faults: of the TOML itself, and those that `walk` reported.
pub fn read<T>(
    file: &str,
    text: &str,
    walk: impl FnOnce(&Section<'_>) -> Option<T>,
) -> Result<T, Faults> {
    let (root, errors) = DeTable::parse_recoverable(text);
    let document = Document {
        text,
        line_ends: OnceCell::new(),
        faults: RefCell::new(Vec::new()),
    };
    let mut broken = false;
    for error in &errors {
        broken |= error.message() != DUPLICATE_KEY;
        let span = error.span().unwrap_or_default();
        let key = text
            .get(span.clone())
            .filter(|_| error.message() == DUPLICATE_KEY);
        document.fault(&span, key.unwrap_or_default(), error.message());
    }
    // What was recovered from broken syntax has gaps of its own: they would only be noise.
    let walked = if broken {
        None
    } else {
        walk(&Section {
            document: &document,
            path: String::new(),
            span: 0..0,
            table: root.get_ref(),
        })
    };
    let mut faults = document.faults.into_inner();
    faults.sort_by_key(|fault| fault.line);
    match walked {
        Some(value) if faults.is_empty() => Ok(value),
        _ => {
            if faults.is_empty() {
                faults.push(Fault {
                    line: 1,
                    key: String::new(),
                    message: "can't be taken".to_owned(),
                });
            }
            Err(Faults {
                file: file.to_owned(),
                faults,
            })
        }
    }
}

const DUPLICATE_KEY: &str = "duplicate key";

struct Document<'t> {
    text: &'t str,
    /// Where its lines end, once that is asked for: a document can have as many faults as lines.
    line_ends: OnceCell<Vec<usize>>,
    faults: RefCell<Vec<Fault>>,
}

impl Document<'_> {
    fn line(&self, span: &Range<usize>) -> usize {
        let ends = self.line_ends.get_or_init(|| {
            let ends = self.text.bytes().enumerate();
            ends.filter_map(|(at, byte)| (byte == b'\n').then_some(at))
                .collect()
        });
        1 + ends.partition_point(|end| *end < span.start)
    }

    fn fault(&self, span: &Range<usize>, key: &str, message: &str) {
        let fault = Fault {
            line: self.line(span),
            key: key.to_owned(),
            message: message.to_owned(),
        };
        self.faults.borrow_mut().push(fault);
    }
}

/// The known name that is most like this one.
pub(crate) fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let known = known.iter().copied();
    known.min_by_key(|other| strsim::damerau_levenshtein(name, other))
}

/// A table of the document. Its getters report a fault where a value is of another kind, and give
/// `None` then, as they do for an absent key.
pub struct Section<'d> {
    document: &'d Document<'d>,
    path: String,
    span: Range<usize>,
    table: &'d DeTable<'d>,
}

/// A value of the document, and where it stands.
pub struct Entry<'d> {
    document: &'d Document<'d>,
    path: String,
    span: Range<usize>,
    value: &'d DeValue<'d>,
}

impl<'d> Section<'d> {
    /// Reports every key that is not among `known`, with the nearest that is.
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

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Entry<'d>> {
        let value = self.table.get(key)?;
        Some(self.entry(key, value))
    }

    /// The value of a key that must be there.
    pub fn require(&self, key: &str) -> Option<Entry<'d>> {
        let entry = self.get(key);
        if entry.is_none() {
            self.document
                .fault(&self.span, &self.join(key), "is missing");
        }
        entry
    }

    /// The table under a key.
    pub fn section(&self, key: &str) -> Option<Section<'d>> {
        self.get(key)?.section()
    }

    /// Every key with its value, in the order of the keys.
    pub fn entries(&self) -> impl Iterator<Item = (&'d str, Entry<'d>)> + '_ {
        self.table.iter().map(|(key, value)| {
            let entry = self.entry(key.get_ref(), value);
            (
                key.get_ref().as_ref(),
                Entry {
                    span: key.span(),
                    ..entry
                },
            )
        })
    }

    /// Reports a fault of this table as a whole.
    pub fn fault(&self, message: &str) {
        self.document.fault(&self.span, &self.path, message);
    }

    fn entry(&self, key: &str, value: &'d Spanned<DeValue<'d>>) -> Entry<'d> {
        Entry {
            document: self.document,
            path: self.join(key),
            span: value.span(),
            value: value.get_ref(),
        }
    }

    fn join(&self, key: &str) -> String {
        let plain = key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        let key = if plain && !key.is_empty() {
            key.to_owned()
        } else {
            format!("{key:?}")
        };
        if self.path.is_empty() {
            key
        } else {
            format!("{}.{key}", self.path)
        }
    }
}

impl<'d> Entry<'d> {
    /// Reports a fault of this value.
    pub fn fault(&self, message: impl AsRef<str>) {
        self.document
            .fault(&self.span, &self.path, message.as_ref());
    }

    /// A fault of this value that is not reported: the document stays valid.
    #[must_use]
    pub fn to_fault(&self, message: String) -> Fault {
        Fault {
            line: self.line(),
            key: self.path.clone(),
            message,
        }
    }

    /// The line that it stands on, from 1.
    #[must_use]
    pub fn line(&self) -> usize {
        self.document.line(&self.span)
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
        })
    }

    /// A string.
    #[must_use]
    pub fn text(&self) -> Option<&'d str> {
        self.expect("a string", self.value.as_str())
    }

    /// A string without surrounding white space and control characters, as settings have them.
    #[must_use]
    pub fn trimmed_text(&self) -> Option<&'d str> {
        let trimmed = trimmed(self.text()?);
        trimmed.map_err(|fault| self.fault(fault)).ok()
    }

    /// `true` or `false`.
    #[must_use]
    pub fn flag(&self) -> Option<bool> {
        self.expect("true or false", self.value.as_bool())
    }

    /// A whole number within bounds.
    #[must_use]
    pub fn number(&self, min: u64, max: u64) -> Option<u64> {
        let digits = self.expect("a whole number", self.value.as_integer())?;
        let number = i128::from_str_radix(digits.as_str(), digits.radix()).ok();
        let number = number.and_then(|number| u64::try_from(number).ok());
        let number = number.filter(|number| (min..=max).contains(number));
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

    /// A list of strings: those of its entries that are. Each other one is reported as a fault.
    #[must_use]
    pub fn texts(&self) -> Option<Vec<(&'d str, Entry<'d>)>> {
        let list = self.expect("a list of strings", self.value.as_array())?;
        let mut texts = Vec::with_capacity(list.len());
        for value in list.iter() {
            let entry = Entry {
                document: self.document,
                path: self.path.clone(),
                span: value.span(),
                value: value.get_ref(),
            };
            if let Some(text) = entry.text() {
                texts.push((text, entry));
            }
        }
        Some(texts)
    }

    /// A duration such as "500ms", "10s" or "35days".
    #[must_use]
    pub fn duration(&self) -> Option<std::time::Duration> {
        let text = self.trimmed_text()?;
        let duration = humantime::parse_duration(text).ok();
        if duration.is_none() {
            self.fault(format!(
                "{text:?} is not a duration such as \"500ms\", \"10s\" or \"35days\""
            ));
        }
        duration
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
            self.fault(format!("must be {wanted}, and is {}", kind(self.value)));
        }
        found
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests;
