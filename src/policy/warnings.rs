//! What a policy may not mean, although it is valid: it is told, and the policy is taken.

use super::Policy;
use crate::{
    document::{Entry, Fault},
    domain::UtcDay,
};

/// A list of models that is older than this is told: the provider's may be another by now.
const MAX_LIST_AGE_DAYS: u32 = 90;

/// What there may be to warn of.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    /// Models whose names match nothing that a provider has.
    pub(super) models: Vec<Fault>,
    /// The line of the programme's last day.
    pub(super) ends_on_line: usize,
    /// The line of its `as_of`.
    pub(super) as_of_line: usize,
}

impl Policy {
    /// What may not be meant, on this day, by line.
    #[must_use]
    pub fn warnings(&self, today: UtcDay) -> Vec<Fault> {
        let (program, suspects) = (&self.program, &self.suspects);
        let mut warnings = suspects.models.clone();
        if let Some(day) = program.ends_on.filter(|day| *day < today) {
            warnings.push(Fault {
                line: suspects.ends_on_line,
                key: "program.ends_on".to_owned(),
                message: format!("{day} is over: every request is billed (PROGRAM_ENDED)"),
            });
        }
        let oldest = today.minus_days(MAX_LIST_AGE_DAYS);
        if let Some(day) = program.as_of.filter(|day| *day < oldest) {
            let age = (today.start() - day.start()).num_days();
            warnings.push(Fault {
                line: suspects.as_of_line,
                key: "program.as_of".to_owned(),
                message: format!(
                    "the lists of models are {age} days old: compare them with the provider's, and set the day"
                ),
            });
        }
        warnings.sort_by_key(|warning| warning.line);
        warnings
    }
}

/// What is suspect about a model's name, at its place in the file.
pub(super) fn suspect_model(name: &str, entry: &Entry<'_>) -> Option<Fault> {
    let signs = [
        ("white space", name.contains(char::is_whitespace)),
        ("upper case", name.contains(char::is_uppercase)),
        ("a wildcard", name.contains('*')),
    ];
    let found: Vec<&str> = signs
        .into_iter()
        .filter_map(|(sign, holds)| holds.then_some(sign))
        .collect();
    (!found.is_empty()).then(|| {
        let found = found.join(" and ");
        entry.remark(format!(
            "{name:?} holds {found}: names match exactly, and this one may match no model"
        ))
    })
}
