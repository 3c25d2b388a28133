//! Drift against the provider, as `tollgate quota` and `tollgate top --once` print it.

use crate::{
    client::output::grouped,
    domain::DriftKind,
    grpc::proto::{ComparisonResult, DayComparison},
};

/// What was found over these days: `agrees`, or each kind with its tokens, the most harmful first; and `unknown`, if not
/// everything could be compared.
pub(super) fn summary(days: &[DayComparison]) -> String {
    let mut kinds: Vec<(&str, u64)> = Vec::new();
    for drift in days.iter().flat_map(|day| &day.drift) {
        match kinds.iter_mut().find(|(kind, _)| *kind == drift.kind) {
            Some((_, tokens)) => *tokens = tokens.saturating_add(drift.tokens),
            None => kinds.push((&drift.kind, drift.tokens)),
        }
    }
    // Those that this release does not know come last.
    kinds.sort_by_key(|(kind, _)| {
        let known: Result<DriftKind, _> = kind.parse();
        (known.is_err(), known.ok())
    });
    let kinds = kinds.iter();
    let kinds = kinds.map(|(kind, tokens)| format!("{kind} {}", grouped(*tokens)));
    let is_unknown = |day: &DayComparison| day.result() == ComparisonResult::Unknown;
    let unknown = days.iter().any(is_unknown).then(|| "unknown".to_owned());
    let found: Vec<String> = kinds.chain(unknown).collect();
    match found.is_empty() {
        true => "agrees".to_owned(),
        false => found.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::proto::DriftTokens;

    fn day(result: ComparisonResult, drift: &[(&str, u64)]) -> DayComparison {
        let drift = drift.iter().map(|(kind, tokens)| DriftTokens {
            kind: (*kind).to_owned(),
            tokens: *tokens,
        });
        DayComparison {
            result: result.into(),
            drift: drift.collect(),
            ..DayComparison::default()
        }
    }

    #[test]
    fn kinds_are_summed_over_the_days_and_the_most_harmful_comes_first() {
        use ComparisonResult::{Agrees, Drifts, Unknown};
        let one = day(Drifts, &[("external", 1_000), ("later_kind", 1)]);
        let other = day(Drifts, &[("false_free", 3), ("external", 500)]);
        let agrees = day(Agrees, &[]);
        assert_eq!(summary(&[agrees.clone(), agrees.clone()]), "agrees");
        assert_eq!(summary(&[agrees, day(Unknown, &[])]), "unknown");
        let both = "false_free 3, external 1,500, later_kind 1";
        assert_eq!(summary(&[one, other]), both);
    }
}
