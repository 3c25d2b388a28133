//! The provider's usage, as rows: what a project used of a model in a bucket of time, by service tier.

use std::collections::{BTreeSet, HashSet};

use chrono::{DateTime, Datelike as _, TimeDelta, Utc};

use crate::domain::{Tokens, UtcDay};

/// The last year of a [`UtcDay`] that can be parsed.
const MAX_YEAR: i32 = 9999;

/// What the provider reports, from its API or a file.
#[derive(Debug, Default)]
pub struct UsageReport {
    /// The rows, in the provider's order.
    pub rows: Vec<ReportRow>,
    /// The days that have a bucket, also an empty one.
    pub days: BTreeSet<UtcDay>,
    /// The sum of all rows.
    total: Tokens,
    /// The pages that were read.
    pub(super) pages: usize,
    /// The keys of the rows, to detect a row that two pages have.
    pub(super) keys: HashSet<ResultKey>,
}

/// What distinguishes the rows of a bucket: the bucket, and what the report is grouped by.
pub(super) type ResultKey = (TimeBucket, Vec<Option<String>>);

/// The usage of a model in a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportRow {
    /// When.
    pub bucket: TimeBucket,
    /// The project's id, if the report is grouped by project.
    pub project: Option<String>,
    /// The model, mostly a snapshot.
    pub model: String,
    /// The service tier, if the report is grouped by it.
    pub tier: Option<String>,
    /// Whether these are batches.
    pub batch: bool,
    /// Input and output.
    pub tokens: u64,
    /// The number of requests.
    pub requests: u64,
}

/// A bucket of time, within a UTC day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeBucket {
    /// Its first second.
    pub start: DateTime<Utc>,
    /// Its length, in seconds; more than 0.
    pub seconds: i64,
}

/// A report can't be read. The message names the place: page, bucket, result and field, or the line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {fault}")]
pub struct ReportFault {
    /// Where.
    pub place: String,
    /// What is wrong there.
    pub fault: String,
}

impl ReportFault {
    pub(super) fn new(place: impl Into<String>, fault: impl Into<String>) -> Self {
        let (place, fault) = (place.into(), fault.into());
        Self { place, fault }
    }
}

impl UsageReport {
    /// Adds a row, unless it is empty.
    pub(super) fn add_row(&mut self, row: ReportRow) -> Result<(), ReportFault> {
        let tokens = Tokens::new(row.tokens).unwrap_or(Tokens::MAX);
        let total = self.total.plus(tokens);
        self.total = total.map_err(|error| ReportFault::new("the report", error.to_string()))?;
        if row.tokens > 0 || row.requests > 0 {
            self.rows.push(row);
        }
        Ok(())
    }

    /// The days of the report that are beside these, and not among them.
    pub fn days_beside(&self, days: &BTreeSet<UtcDay>) -> BTreeSet<UtcDay> {
        let beside = days
            .iter()
            .flat_map(|day| [day.yesterday(), day.plus_days(1)]);
        beside
            .filter(|day| self.days.contains(day) && !days.contains(day))
            .collect()
    }

    /// Whether every bucket has at most a minute.
    pub fn is_by_minute(&self) -> bool {
        self.rows.iter().all(|row| row.bucket.seconds <= 60)
    }
}

impl TimeBucket {
    /// The bucket from `start` to before `end`, in seconds since 1970.
    pub(super) fn new(start: u64, end: u64) -> Result<Self, String> {
        let time = |seconds| DateTime::from_timestamp(i64::try_from(seconds).ok()?, 0);
        let (Some(from), Some(to)) = (time(start), time(end)) else {
            return Err("is not a time in seconds since 1970".to_owned());
        };
        if from.year() > MAX_YEAR {
            return Err(format!("is after the year {MAX_YEAR}"));
        }
        let bucket = Self {
            start: from,
            seconds: (to - from).num_seconds(),
        };
        if bucket.seconds <= 0 {
            return Err("is not before end_time".to_owned());
        }
        if UtcDay::of(from) != UtcDay::of(to - TimeDelta::seconds(1)) {
            return Err("begins a bucket of more than one UTC day".to_owned());
        }
        Ok(bucket)
    }

    /// The day.
    pub fn day(self) -> UtcDay {
        UtcDay::of(self.start)
    }
}

/// A name of the provider, which is printed.
pub(super) fn name(text: &str) -> Result<String, String> {
    match text.chars().any(char::is_control) {
        true => Err("holds a control character".to_owned()),
        false => Ok(text.to_owned()),
    }
}

/// The sum of input and output.
pub(super) fn tokens(input: u64, output: u64) -> Result<u64, String> {
    let sum = input.checked_add(output).and_then(Tokens::new);
    sum.map(Tokens::get)
        .ok_or_else(|| "with the output is more than 2^53 - 1".to_owned())
}
