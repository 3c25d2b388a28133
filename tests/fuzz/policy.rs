//! The policy parser accepts any text as a whole, or refuses it with faults on existing lines.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tollgate::{
    domain::{Eligibility, ModelName, ProjectId, RequestFields, Tokens, UtcDay, Workload},
    policy::Policy,
};

fuzz_target!(|text: &str| {
    let day = UtcDay::parse("2026-11-22").expect("a day");
    match Policy::parse("fuzz.toml", text) {
        Err(faults) => {
            assert!(!faults.faults.is_empty());
            let lines = text.split('\n').count();
            assert!(faults.faults.iter().all(|fault| (1..=lines).contains(&fault.line)), "{faults}");
        }
        Ok(policy) => {
            assert!(!policy.pools.is_empty());
            for (org, known) in policy.orgs.iter().take(4) {
                assert!(policy.tiers.contains_key(&known.tier));
                let fields = RequestFields {
                    project: ProjectId::parse("p").expect("legal"),
                    model: ModelName::parse("gpt-4o").expect("legal"),
                    tokens: Tokens::ZERO,
                    workload: Workload::Inference,
                };
                if let Eligibility::Eligible(pool) = policy.assessor(org, day).eligibility(&fields) {
                    assert!(policy.pools.contains(&pool));
                }
            }
        }
    }
});
