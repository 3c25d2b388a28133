//! Any bytes as the provider's report: a fault, or rows within its days whose sum is an amount of tokens, and which can be
//! compared with an empty ledger.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};

use chrono::DateTime;
use libfuzzer_sys::fuzz_target;
use tollgate::{
    domain::{OrgId, PoolName, Tokens, UtcDay},
    policy::Policy,
    reconcile::{
        Scope, Tolerance, UsageReport, compare, comparison::CLOSED_AFTER, overflow::overflow,
    },
};

fuzz_target!(|bytes: &[u8]| {
    let Ok(report) = UsageReport::from_bytes(bytes) else {
        return;
    };
    let total = report.rows.iter().try_fold(0_u64, |sum, row| sum.checked_add(row.tokens));
    assert!(total.is_some_and(|total| total <= Tokens::MAX.get()));
    assert!(report.rows.iter().all(|row| report.days.contains(&row.bucket.day())));

    // The service can be asked for each day, and it can be compared.
    assert!(report.days.iter().all(|day| UtcDay::parse(&day.to_string()).is_ok()));

    let days: BTreeSet<_> = report.days.iter().copied().take(62).collect();
    let policy = Policy::builtin();
    let org = OrgId::parse("org-demo").expect("legal");
    let scope = Scope {
        policy: &policy,
        org: &org,
        enrolled: true,
        allowances: BTreeMap::from([(PoolName::parse("large").expect("legal"), 1_000_000)]),
        projects: BTreeMap::new(),
        free_tiers: vec!["incentivized-tier".to_owned()],
        tolerance: "0".parse::<Tolerance>().expect("legal"),
        close_after: CLOSED_AFTER,
        settled: None,
        context: report.days_beside(&days),
        now: DateTime::from_timestamp(1_800_000_000, 0).expect("a time"),
    };
    let comparison = compare(&scope, days.clone(), &[], &report);
    assert!(comparison.drifts.iter().all(|drift| drift.tokens > 0));
    if report.is_by_minute() {
        overflow(&scope, &report);
    }
});
