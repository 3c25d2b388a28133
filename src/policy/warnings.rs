//! Warnings: entries of a valid policy that are probably mistakes.

use super::{BuiltinProgram, KeyPosition, Policy};
use crate::{
    domain::UtcDay,
    files::toml::{Diagnostic, Entry},
};

/// Older lists of models cause a warning: the provider may have changed its lists.
const MAX_LIST_AGE_DAYS: i64 = 90;

impl Policy {
    /// The warnings on a day, ordered by line.
    pub fn warnings(&self, today: UtcDay) -> Vec<Diagnostic> {
        let (program, lints) = (&self.program, &self.lints);
        let mut warnings = lints.models.clone();
        let mut warn = |at: KeyPosition, message| {
            let (line, key) = (at.line, at.key.to_owned());
            warnings.push(Diagnostic { line, key, message });
        };
        if let Some(day) = program.ends_on.filter(|day| *day < today) {
            let message = format!("{day} is over: every request is billed (PROGRAM_ENDED)");
            warn(lints.ends_on, message);
        }
        if let Some(day) = program.as_of {
            let age = (today.start() - day.start()).num_days();
            if age < 0 {
                let message =
                    format!("{day} is in the future: the age of the lists of models is not known");
                warn(lints.as_of, message);
            }
            if age > MAX_LIST_AGE_DAYS {
                let newest = BuiltinProgram::newest().name;
                let newer = match program.extends {
                    Some(extends) if extends != newest => format!(" or extend {newest:?},"),
                    _ => String::new(),
                };
                let message = format!(
                    "the lists of models are {age} days old: compare them with the provider's,{newer} and set as_of"
                );
                warn(lints.as_of, message);
            }
        }
        warnings.sort_by_key(|warning| warning.line);
        warnings
    }
}

/// Whether it is invisible on a screen: Unicode's property `Default_Ignorable_Code_Point`.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff0}'..='\u{fff8}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

/// Warns of a name that probably matches no model of the provider.
pub(super) fn lint_model_name(name: &str, entry: &Entry<'_>) -> Option<Diagnostic> {
    let suspicions = [
        ("white space", name.contains(char::is_whitespace)),
        ("upper case", name.contains(char::is_uppercase)),
        ("a wildcard", name.contains(['*', '?', '[', ']'])),
        ("an invisible character", name.contains(is_invisible)),
    ];
    let found = suspicions.into_iter().filter(|(_, holds)| *holds);
    let found: Vec<&str> = found.map(|(suspicion, _)| suspicion).collect();
    (!found.is_empty()).then(|| {
        let found = found.join(" and ");
        entry.warning(format!(
            "{name:?} holds {found}: names match exactly, and this one may match no model"
        ))
    })
}
