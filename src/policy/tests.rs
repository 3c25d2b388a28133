use super::*;

/// A policy with these lines in its programme, from line 2 on.
fn text(program: &str) -> String {
    format!(
        "[program]\n{program}[pools.large]\nmodels = [\"gpt-4o\"]\n[tiers.1]\nlarge = 250_000\n\
         [orgs.acme]\ntier = 1\ndata_sharing = \"selected\"\nprojects = [\"p\"]\n"
    )
}

#[test]
fn an_end_in_the_past_and_an_old_list_cause_warnings_from_the_day_after() {
    let text = text("as_of = 2026-11-02\nends_on = \"2027-01-31\"\n");
    let policy = Policy::parse("p.toml", &text).expect("valid");
    let (old, over) = ((2, "program.as_of"), (3, "program.ends_on"));
    for (day, wanted) in [
        // An `as_of` in the future: the age of the lists is unknown.
        ("2026-11-01", &[old][..]),
        ("2026-11-02", &[]),
        ("2027-01-31", &[]),
        ("2027-02-01", &[old, over]),
    ] {
        let warnings = policy.warnings(UtcDay::parse(day).expect("a day"));
        let keys: Vec<_> = warnings.iter().map(|it| (it.line, &*it.key)).collect();
        assert_eq!(keys, wanted, "{day}");
    }
}

#[test]
fn a_day_that_is_not_in_the_calendar_is_refused() {
    for day in ["soon", "2027-02-30"] {
        let text = text(&format!("ends_on = {day:?}\n"));
        let faults = Policy::parse("p.toml", &text).expect_err("a fault");
        let fault =
            format!("p.toml:2: program.ends_on: {day:?} is not a day such as \"2027-01-31\"");
        assert_eq!(faults.to_string(), fault);
    }
}

#[test]
fn a_model_without_a_stated_capacity_has_a_high_one_key_by_key() {
    let text = text("") + "[models.\"ft:x\"]\ncontext = 8_192\n[models.gpt-4o]\nimage = 7\n";
    let policy = Policy::parse("p.toml", &text).expect("valid");
    let of = |context, max_output, image| ModelCapacity {
        context,
        max_output,
        image,
    };
    for (model, wanted) in [
        ("ft:x", of(8_192, 100_000, 50_000)),
        ("gpt-4o", of(200_000, 100_000, 7)),
        ("gpt-4o-2024-08-06", of(200_000, 100_000, 50_000)),
    ] {
        assert_eq!(policy.capacity(model), wanted, "{model}");
    }
    let builtin = Policy::builtin();
    for (model, wanted) in [
        ("gpt-6-sol", of(1_050_000, 128_000, 50_000)),
        ("gpt-5-mini", of(400_000, 128_000, 50_000)),
        ("gpt-4o-2024-05-13", of(128_000, 4_096, 1_445)),
        ("gpt-4o-mini", of(128_000, 16_384, 48_169)),
        ("gpt-4.1-nano-2025-04-14", of(1_047_576, 32_768, 3_779)),
        ("o3", of(200_000, 100_000, 50_000)),
    ] {
        assert_eq!(builtin.capacity(model), wanted, "{model}");
    }
}

#[test]
fn a_file_that_is_cut_off_anywhere_is_accepted_or_refused_with_faults() {
    let text = text("");
    for cut in 0..text.len() {
        // The parser never panics.
        if let Err(faults) = Policy::parse("p.toml", &text[..cut]) {
            assert!(!faults.faults.is_empty());
        }
    }
}

mod programs;

#[test]
fn an_organization_has_at_most_500_shares_over_all_pools() {
    for (projects, is_valid) in [(500, true), (501, false)] {
        let names = (0..projects).map(|at| format!("p{at}"));
        let shares: Vec<String> = names.map(|name| format!("{name} = \"1%\"")).collect();
        let text = text("").replace("\"selected\"\nprojects = [\"p\"]", "\"all\"")
            + &format!("[orgs.acme.shares]\n{}\n", shares.join("\n"));
        let policy = Policy::parse("p.toml", &text);
        assert_eq!(policy.is_ok(), is_valid, "{projects}");
        if let Err(faults) = policy {
            let fault = "orgs.acme.shares: has 501 shares, counted by project and pool, at most 500 are allowed";
            assert!(faults.to_string().contains(fault), "{faults}");
        }
    }
}
