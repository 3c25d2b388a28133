//! The letters that stand for verdicts and workloads, in what is kept and in what is said to a script.

use crate::domain::{BilledReason, Verdict, Workload};

/// The letter of a verdict in records, arguments and replies. Never changed: records hold it.
const VERDICTS: [(char, Verdict); 12] = [
    ('F', Verdict::Free),
    ('O', Verdict::Billed(BilledReason::OrganizationNotEnrolled)),
    ('Z', Verdict::Billed(BilledReason::ZeroDataRetention)),
    ('E', Verdict::Billed(BilledReason::EnterprisePlan)),
    ('P', Verdict::Billed(BilledReason::ProgramEnded)),
    ('J', Verdict::Billed(BilledReason::ProjectNotSharing)),
    ('W', Verdict::Billed(BilledReason::WorkloadNotCovered)),
    ('T', Verdict::Billed(BilledReason::FineTunedModel)),
    ('M', Verdict::Billed(BilledReason::ModelNotCovered)),
    ('C', Verdict::Billed(BilledReason::PoolClosed)),
    ('X', Verdict::Billed(BilledReason::AllowanceExceeded)),
    ('D', Verdict::Billed(BilledReason::DayClosed)),
];

/// The letter of a verdict. `STORE_UNAVAILABLE` never reaches a store, so it has none.
pub(super) fn letter(verdict: Verdict) -> char {
    let found = VERDICTS.iter().find(|(_, known)| *known == verdict);
    let (letter, _) = found.expect("only the ledger says STORE_UNAVAILABLE, and to no store");
    *letter
}

/// The letter of a workload.
pub(super) const fn workload_letter(workload: Workload) -> char {
    match workload {
        Workload::Inference => 'i',
        Workload::HostedTool => 'h',
        Workload::FineTuning => 't',
        Workload::Evaluation => 'e',
    }
}

/// The workload of a letter.
pub(super) fn workload(letter: char) -> Option<Workload> {
    let mut known = Workload::ALL.into_iter();
    known.find(|known| workload_letter(*known) == letter)
}

/// The verdict of a letter.
pub(super) fn verdict(text: &str) -> Option<Verdict> {
    let known = VERDICTS
        .iter()
        .find(|(letter, _)| text.chars().eq([*letter]));
    known.map(|(_, verdict)| *verdict)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verdict_but_store_unavailable_has_a_letter_of_its_own() {
        for (known, its_verdict) in VERDICTS {
            assert_eq!(letter(its_verdict), known);
            assert_eq!(verdict(&known.to_string()), Some(its_verdict));
        }
        assert!(verdict("?").is_none());
    }

    #[test]
    fn every_workload_has_a_letter_of_its_own() {
        for known in Workload::ALL {
            assert_eq!(workload(workload_letter(known)), Some(known));
        }
        assert_eq!(workload('?'), None);
    }

    #[test]
    fn the_script_takes_every_letter_in_a_record_and_no_other() {
        let letters: String = VERDICTS.iter().map(|(letter, _)| letter).collect();
        let class = format!("([{letters}])([sr]?)([{letters}]?)");
        assert!(
            include_str!("redis/script/reservations.lua").contains(&class),
            "{class}"
        );
    }
}
