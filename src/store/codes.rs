//! The codes that stand for verdicts and workloads, in what is kept and in what is said to a script.

use crate::domain::{BilledReason, Verdict, Workload};

/// The code of a verdict in records, arguments and replies. Never changed: records hold it.
const VERDICTS: [(char, Verdict); 14] = [
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
    ('R', Verdict::RAN_OUTSIDE_PROGRAM),
    ('H', Verdict::Billed(BilledReason::ShareExceeded)),
];

/// The code of a verdict. `STORE_UNAVAILABLE` never reaches a store, so it has none.
pub(super) fn verdict_code(verdict: Verdict) -> char {
    let found = VERDICTS.iter().find(|(_, known)| *known == verdict);
    let (code, _) = found.expect("only the ledger says STORE_UNAVAILABLE, and to no store");
    *code
}

pub(super) const fn workload_code(workload: Workload) -> char {
    match workload {
        Workload::Inference => 'i',
        Workload::HostedTool => 'h',
        Workload::FineTuning => 't',
        Workload::Evaluation => 'e',
        Workload::Batch => 'b',
        Workload::FunctionCalling => 'c',
        Workload::Flex => 'f',
        Workload::Priority => 'p',
    }
}

pub(super) fn parse_workload(code: char) -> Option<Workload> {
    let mut known = Workload::ALL.into_iter();
    known.find(|known| workload_code(*known) == code)
}

pub(super) fn parse_verdict(text: &str) -> Option<Verdict> {
    let known = VERDICTS.iter().find(|(code, _)| text.chars().eq([*code]));
    known.map(|(_, verdict)| *verdict)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verdict_but_store_unavailable_and_every_workload_has_a_code_of_its_own() {
        for (code, verdict) in VERDICTS {
            assert_eq!(verdict_code(verdict), code);
            assert_eq!(parse_verdict(&code.to_string()), Some(verdict));
        }
        for workload in Workload::ALL {
            assert_eq!(parse_workload(workload_code(workload)), Some(workload));
        }
        assert_eq!((parse_verdict("?"), parse_workload('?')), (None, None));
    }

    #[test]
    fn the_script_takes_every_code_in_a_record_and_no_other() {
        let codes: String = VERDICTS.iter().map(|(code, _)| code).collect();
        let class = format!("([{codes}])([sr]?)([{codes}]?)");
        assert!(
            include_str!("redis/script/reservations.lua").contains(&class),
            "{class}"
        );
    }
}
