use super::*;

const VALID: &str = r#"
[program]
name = "test"
overflow = "close_until_reset"
covered_workloads = ["inference", "evaluation"]
ends_on = "2027-01-31"

[pools.large]
models = ["gpt-4o"]
[pools.mini]
models = ["gpt-4o-mini"]

[tiers.1]
large = 250_000
mini = 2_500_000
[tiers.5]
large = 9_007_199_254_740_991
mini = 0

[orgs.org-acme]
tier = 1
data_sharing = "selected"
projects = ["proj-search"]
zero_data_retention = false
enterprise = false
[orgs."a {strange}: name"]
tier = 5
data_sharing = "off"
"#;

fn faults(text: &str) -> Vec<String> {
    let faults = Policy::parse("p.toml", text).expect_err("faults");
    faults.to_string().lines().map(str::to_owned).collect()
}

/// The valid policy with one text in place of another.
fn changed(from: &str, to: &str) -> String {
    assert!(VALID.contains(from), "{from}");
    VALID.replacen(from, to, 1)
}

fn only_fault(from: &str, to: &str) -> String {
    let faults = faults(&changed(from, to));
    assert_eq!(faults.len(), 1, "{faults:?}");
    faults[0].clone()
}

fn assess(policy: &Policy, org: &str, model: &str, day: &str) -> Eligibility {
    let request = RequestFields {
        project: ProjectId::parse("proj-search").expect("legal"),
        model: ModelName::parse(model).expect("legal"),
        tokens: crate::domain::Tokens::ZERO,
        workload: Workload::Inference,
    };
    let day = UtcDay::parse(day).expect("a day");
    policy
        .assessor(&OrgId::parse(org).expect("legal"), day)
        .eligibility(&request)
}

#[test]
fn an_end_in_the_past_and_an_old_list_cause_warnings_from_the_day_after() {
    let text = changed("ends_on =", "as_of = 2026-11-02\nends_on =");
    let policy = Policy::parse("p.toml", &text).expect("valid");
    let on = |day: &str| {
        let warnings = policy.warnings(UtcDay::parse(day).expect("a day"));
        let keys = warnings.into_iter().map(|it| (it.line, it.key));
        keys.collect::<Vec<_>>()
    };
    let (old, over) = (
        (6, "program.as_of".to_owned()),
        (7, "program.ends_on".to_owned()),
    );
    // An `as_of` in the future: the age of the lists is unknown.
    assert_eq!(on("2026-11-01"), std::slice::from_ref(&old));
    assert_eq!(on("2026-11-02"), []);
    assert_eq!(on("2027-01-31"), []);
    assert_eq!(on("2027-02-01"), [old.clone(), over.clone()]);
    let later = changed("ends_on = \"2027-01-31\"", "as_of = \"2026-11-02\"");
    let policy = Policy::parse("p.toml", &later).expect("valid");
    let on = |day: &str| policy.warnings(UtcDay::parse(day).expect("a day")).len();
    assert_eq!((on("2027-01-31"), on("2027-02-01")), (0, 1));
    assert!(only_fault("ends_on =", "as_of =\"soon\"\nends_on =").contains("program.as_of"));
}

#[test]
fn every_part_of_a_valid_policy_is_read() {
    let policy = Policy::parse("p.toml", VALID).expect("valid");
    assert_eq!(policy.program().overflow, Overflow::CloseUntilReset);
    assert_eq!(
        policy
            .pools()
            .iter()
            .map(PoolName::as_str)
            .collect::<Vec<_>>(),
        ["large", "mini"]
    );
    assert_eq!(policy.orgs().len(), 2);
    let pool = PoolName::parse("large").expect("legal");
    assert_eq!(
        policy.tiers()[&5].of_pool(&pool).allowance,
        crate::domain::Tokens::MAX
    );
    let eligible = Eligibility::Eligible(pool);
    assert_eq!(
        assess(&policy, "org-acme", "gpt-4o", "2027-01-31"),
        eligible
    );
    assert_eq!(
        assess(&policy, "org-acme", "gpt-4o", "2027-02-01"),
        Eligibility::Ineligible(BilledReason::ProgramEnded)
    );
}

#[test]
fn the_built_in_policy_carries_the_programme_exactly() {
    let policy = Policy::builtin();
    let large = PoolName::parse("large").expect("legal");
    let mini = PoolName::parse("mini").expect("legal");
    assert_eq!(policy.pools(), [large.clone(), mini.clone()]);
    assert_eq!(
        (policy.model_count(&large), policy.model_count(&mini)),
        (14, 13)
    );
    for (tiers, of_large, of_mini) in [(1..=2, 250_000, 2_500_000), (3..=5, 1_000_000, 10_000_000)]
    {
        for tier in tiers {
            let terms = &policy.tiers()[&tier];
            assert_eq!(
                terms.of_pool(&large).allowance.get(),
                of_large,
                "tier {tier}"
            );
            assert_eq!(terms.of_pool(&mini).allowance.get(), of_mini, "tier {tier}");
        }
    }
    for (pool, models) in [
        (
            &large,
            "gpt-4.5-preview gpt-4.1 gpt-4o o1 o1-preview o3 gpt-4.5-preview-2025-02-27 \
             gpt-4.1-2025-04-14 gpt-4o-2024-05-13 gpt-4o-2024-08-06 gpt-4o-2024-11-20 \
             o3-2025-04-16 o1-preview-2024-09-12 o1-2024-12-17",
        ),
        (
            &mini,
            "gpt-4.1-mini gpt-4.1-nano gpt-4o-mini o1-mini o3-mini o4-mini codex-mini-latest \
             gpt-4.1-mini-2025-04-14 gpt-4.1-nano-2025-04-14 gpt-4o-mini-2024-07-18 \
             o4-mini-2025-04-16 o1-mini-2024-09-12 o3-mini-2025-01-31",
        ),
    ] {
        for model in models.split_whitespace() {
            let model = ModelName::parse(model).expect("legal");
            assert_eq!(policy.pool_of(&model), Some(pool), "{model}");
        }
    }
    let demo = &policy.orgs()["org-demo"];
    assert_eq!((demo.tier, &demo.data_sharing), (3, &DataSharing::All));
    assert_eq!(policy.program().covered_workloads, [Workload::Inference]);
    assert_eq!(
        (policy.program().overflow, policy.program().ends_on),
        (Overflow::KeepOpen, None)
    );
}

#[test]
fn a_model_in_two_pools_is_refused() {
    assert_eq!(
        only_fault("[\"gpt-4o-mini\"]", "[\"gpt-4o-mini\", \"gpt-4o\"]"),
        "p.toml:11: pools.mini.models: \"gpt-4o\" is in pool \"large\" already (line 9)"
    );
}

#[test]
fn a_tier_without_a_pools_allowance_is_refused() {
    assert_eq!(
        only_fault("mini = 2_500_000\n", ""),
        "p.toml:13: tiers.1.mini: is missing"
    );
}

#[test]
fn an_organization_with_an_unknown_tier_is_refused() {
    assert_eq!(
        only_fault("tier = 1\n", "tier = 4\n"),
        "p.toml:21: orgs.org-acme.tier: is 4, and there is no [tiers.4]"
    );
    assert_eq!(
        only_fault("tier = 1\n", "tier = 6\n"),
        "p.toml:21: orgs.org-acme.tier: is 6, allowed are 1 to 5"
    );
}

#[test]
fn projects_stand_only_with_selected() {
    assert_eq!(
        only_fault("\"selected\"", "\"all\""),
        "p.toml:23: orgs.org-acme.projects: stands only with data_sharing = \"selected\", and it is \
         \"all\""
    );
    assert_eq!(
        only_fault("projects = [\"proj-search\"]\n", ""),
        "p.toml:22: orgs.org-acme.data_sharing: is \"selected\", and projects is missing"
    );
}

#[test]
fn an_allowance_past_the_largest_amount_is_refused() {
    for wrong in [
        "9_007_199_254_740_992",
        "-1",
        "99999999999999999999999999999999999999999999",
    ] {
        let fault = only_fault("large = 250_000", &format!("large = {wrong}"));
        assert!(
            fault.starts_with("p.toml:14: tiers.1.large: is "),
            "{fault}"
        );
        assert!(
            fault.ends_with(", allowed are 0 to 9007199254740991"),
            "{fault}"
        );
    }
}

#[test]
fn a_duplicate_is_refused() {
    let twice = faults(&changed("[tiers.5]", "[tiers.1]"));
    assert_eq!(twice[0], "p.toml:16: 1: duplicate key");
    let twice = only_fault("tier = 1\n", "tier = 1\ntier = 5\n");
    assert_eq!(twice, "p.toml:22: tier: duplicate key");
    assert_eq!(
        only_fault("[\"gpt-4o\"]", "[\"gpt-4o\", \"gpt-4o\"]"),
        "p.toml:9: pools.large.models: \"gpt-4o\" is in pool \"large\" already (line 9)"
    );
    assert_eq!(
        only_fault("[\"proj-search\"]", "[\"proj-search\", \"proj-search\"]"),
        "p.toml:23: orgs.org-acme.projects: \"proj-search\" is listed twice"
    );
}

#[test]
fn an_unknown_key_is_named_with_the_nearest_known_one() {
    assert_eq!(
        only_fault("zero_data_retention", "zero_data_retencion"),
        "p.toml:24: orgs.org-acme.zero_data_retencion: unknown key; the nearest known one is \
         \"zero_data_retention\""
    );
    assert_eq!(
        only_fault("[program]", "[programme]\n[program]"),
        "p.toml:2: programme: unknown key; the nearest known one is \"program\""
    );
}

#[test]
fn a_fine_tuned_model_is_never_covered() {
    let fault = only_fault("[\"gpt-4o\"]", "[\"ft:gpt-4o:acme\"]");
    assert!(fault.contains("fine-tuned"), "{fault}");
}

#[test]
fn every_fault_is_listed_by_line() {
    let text = changed("\"close_until_reset\"", "\"sometimes\"")
        .replacen("\"evaluation\"", "\"training\"", 1)
        .replacen("2027-01-31", "2027-02-30", 1)
        .replacen("[\"gpt-4o\"]", "[\"gpt-4o\", 5, \"ft:x\", \"gpt-4o\"]", 1)
        .replacen("tier = 5", "tier = \"5\"", 1)
        .replacen("enterprise = false", "enterprise = 0", 1);
    let faults = faults(&text);
    let lines: Vec<&str> = faults
        .iter()
        .filter_map(|fault| fault.split(':').nth(1))
        .collect();
    assert_eq!(
        lines,
        ["4", "5", "6", "9", "9", "9", "25", "27"],
        "{faults:#?}"
    );
}

#[test]
fn an_empty_or_cut_off_file_is_refused() {
    let missing = ["p.toml:1: pools: is missing", "p.toml:1: tiers: is missing"];
    assert_eq!(faults(""), missing);
    assert!(Policy::parse("p.toml", "[program]\n").is_err());
    for cut in (0..VALID.len()).filter(|cut| VALID.is_char_boundary(*cut)) {
        // Each part is accepted as a whole or refused with faults; the parser never panics.
        if let Err(faults) = Policy::parse("p.toml", &VALID[..cut]) {
            assert!(!faults.faults.is_empty());
        }
    }
}
