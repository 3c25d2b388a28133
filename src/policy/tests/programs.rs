//! Policies that extend a built-in programme, and names of models.

use super::*;

/// A policy that extends the newest programme: these lines of `[program]` from line 3 on, then sections.
fn extending(program: &str, sections: &str) -> String {
    format!(
        "[program]\nextends = \"openai-2026-09-28\"\n{program}{sections}\
         [orgs.acme]\ntier = 1\ndata_sharing = \"all\"\n"
    )
}

fn parse(text: &str) -> Policy {
    Policy::parse("p.toml", text).unwrap_or_else(|faults| panic!("{faults}"))
}

/// The pool of a model today, and in the history; `-` if it has none.
fn pools_of(policy: &Policy, model: &str) -> (String, String) {
    let model = ModelName::parse(model).expect("legal");
    let text = |pool: Option<&PoolName>| pool.map_or("-".to_owned(), PoolName::to_string);
    let pools = (policy.pool_of(&model), policy.history_pool(&model));
    (text(pools.0), text(pools.1))
}

#[track_caller]
fn assert_pools(policy: &Policy, expected: &[(&str, &str, &str)]) {
    for (models, today, history) in expected {
        for model in models.split_whitespace() {
            let pools = pools_of(policy, model);
            assert_eq!((&*pools.0, &*pools.1), (*today, *history), "{model}");
        }
    }
}

#[test]
fn the_built_in_programmes_have_the_lists_of_their_day() {
    let of = |name: &str| {
        let program = BuiltinProgram::named(name).expect("known");
        program.policy()
    };
    let june = of("openai-2025-06-27");
    assert_pools(
        &june,
        &[
            (
                "gpt-4.5-preview gpt-4.1 gpt-4o o1 o1-preview o3 gpt-4.5-preview-2025-02-27 gpt-4.1-2025-04-14 \
                 gpt-4o-2024-05-13 gpt-4o-2024-08-06 gpt-4o-2024-11-20 o3-2025-04-16 o1-preview-2024-09-12 \
                 o1-2024-12-17",
                "large",
                "large",
            ),
            (
                "gpt-4.1-mini gpt-4.1-nano gpt-4o-mini o1-mini o3-mini o4-mini codex-mini-latest \
                 gpt-4.1-mini-2025-04-14 gpt-4.1-nano-2025-04-14 gpt-4o-mini-2024-07-18 o4-mini-2025-04-16 \
                 o1-mini-2024-09-12 o3-mini-2025-01-31",
                "mini",
                "mini",
            ),
            ("gpt-5 o1-pro", "-", "-"),
        ],
    );
    let september = of("openai-2026-09-28");
    assert_pools(
        &september,
        &[
            (
                "gpt-6-astra gpt-6-sol gpt-6-luna gpt-5.6-sol gpt-5.5-2026-04-23 gpt-5.4-2026-03-05 \
                 gpt-5.2-2025-12-11 gpt-5.1-2025-11-13 gpt-5.1-codex gpt-5-codex gpt-5-2025-08-07 gpt-5-chat-latest \
                 gpt-4.1-2025-04-14 gpt-4o-2024-05-13 gpt-4o-2024-08-06 gpt-4o-2024-11-20 o3-2025-04-16 \
                 o1-preview-2024-09-12 o1-2024-12-17 gpt-5.4 gpt-5.2 gpt-5.1 gpt-5 gpt-4.1 gpt-4o o3 o1 o1-preview",
                "large",
                "large",
            ),
            (
                "gpt-5.6-terra gpt-5.6-luna gpt-5.4-mini-2026-03-17 gpt-5.4-nano-2026-03-17 gpt-5.1-codex-mini \
                 gpt-5-mini-2025-08-07 gpt-5-nano-2025-08-07 gpt-4.1-mini-2025-04-14 gpt-4.1-nano-2025-04-14 \
                 gpt-4o-mini-2024-07-18 o4-mini-2025-04-16 o1-mini-2024-09-12 codex-mini-latest gpt-5.4-mini \
                 gpt-5.4-nano gpt-5-mini gpt-5-nano gpt-4.1-mini gpt-4.1-nano gpt-4o-mini o4-mini o1-mini",
                "mini",
                "mini",
            ),
            ("gpt-4.5-preview gpt-4.5-preview-2025-02-27", "-", "large"),
            ("o3-mini o3-mini-2025-01-31", "-", "mini"),
            ("gpt-5.5 openai/gpt-4o", "-", "-"),
        ],
    );
    for (policy, large, mini, aliases) in [(june, 14, 13, 0), (september, 19, 13, 18)] {
        let count = |pool| policy.model_count(&PoolName::parse(pool).expect("legal"));
        let counts = (count("large"), count("mini"), policy.alias_count());
        assert_eq!(counts, (large, mini, aliases));
        assert_eq!((policy.program.ends_on, policy.orgs.len()), (None, 0));
        let stated = policy.models.entries.iter();
        let stated = stated.filter(|(_, entry)| matches!(entry, ModelEntry::Listed(_)));
        for (model, _) in stated {
            let capacity = policy.models.stated_capacity(model.as_str());
            assert!(capacity.is_some(), "{model}");
        }
    }
}

#[test]
fn a_policy_of_six_lines_has_the_whole_programme() {
    let text = extending("", "\n");
    assert_eq!(text.lines().count(), 6);
    let policy = parse(&text);
    let programme = BuiltinProgram::newest().policy();
    assert_eq!(
        Policy::builtin().program.extends,
        Some(BuiltinProgram::newest().name)
    );
    let diff = programme.diff(&policy);
    let changed: Vec<_> = diff.kinds().into_iter().map(|(kind, ..)| kind).collect();
    // The programme: it extends.
    assert_eq!(changed, ["program", "organizations added"]);
    assert_eq!(diff.program.first, ["extends none → openai-2026-09-28"]);
}

#[test]
fn what_a_file_names_replaces_the_entry_of_the_programme() {
    let policy = parse(&extending(
        "overflow = \"close_until_reset\"\nwithout = [\"gpt-5\", \"gpt-5.1-codex\", \"o3-mini\"]\n",
        r#"
[pools.large]
models = ["gpt-7", "o1", "o4-mini-2025-04-16", "o4-mini"]
retired = ["gpt-5-codex"]
[pools.mini]
models = ["gpt-5.6-sol"]
[aliases]
"gpt-4o" = "gpt-4o-2024-11-20"
"gpt-5-mini-2025-08-07" = "gpt-7"
"gpt-5-mini" = "gpt-7"
[models]
gpt-7 = { context = 7 }
"gpt-4o-2024-11-20" = { image = 9 }
[tiers.1]
large = 1
mini = 2
"#,
    ));
    assert_pools(
        &policy,
        &[
            (
                "gpt-7 o1 o4-mini-2025-04-16 o4-mini gpt-5-mini gpt-5-mini-2025-08-07",
                "large",
                "large",
            ),
            ("gpt-5.6-sol gpt-5.6-terra", "mini", "mini"),
            ("gpt-5-2025-08-07 o1-2024-12-17 gpt-4o", "large", "large"),
            ("gpt-5 gpt-5.1-codex o3-mini", "-", "-"),
            ("gpt-5-codex", "-", "large"),
            ("o3-mini-2025-01-31", "-", "mini"),
        ],
    );
    let of = |context, max_output, image| ModelCapacity {
        context,
        max_output,
        image,
    };
    for (model, wanted) in [
        ("gpt-5-mini", of(7, 100_000, 50_000)),
        ("gpt-4o", of(200_000, 100_000, 9)),
        ("o1-2024-12-17", of(200_000, 100_000, 50_000)),
        ("gpt-4o-2024-08-06", of(128_000, 16_384, 1_445)),
    ] {
        assert_eq!(policy.capacity(model), wanted, "{model}");
    }
    let tokens = |tier: u8| {
        let terms = &policy.tiers[&tier];
        assert_eq!(terms.overflow, Overflow::CloseUntilReset);
        let tokens = terms.pools.iter().map(|(_, grant)| grant.allowance.get());
        tokens.collect::<Vec<_>>()
    };
    assert_eq!(tokens(1), [1, 2]);
    assert_eq!(tokens(2), [250_000, 2_500_000]);
    assert_eq!(tokens(5), [1_000_000, 10_000_000]);
}

#[test]
fn the_programmes_own_keys_are_defaults() {
    let policy = parse(&extending("", "\n"));
    let defaults = &policy.program;
    assert_eq!(defaults.name, "openai-complimentary-tokens");
    assert_eq!(defaults.as_of, UtcDay::parse("2026-09-28").ok());
    let source = defaults.source.as_deref();
    assert_eq!(source, Some("https://help.openai.com/en/articles/10306912"));
    let policy = parse(&extending(
        "name = \"n\"\nas_of = 2026-11-02\nends_on = \"2027-01-31\"\nsource = \"banner\"\n\
         covered_workloads = [\"inference\", \"evaluation\"]\n",
        "",
    ));
    let program = &policy.program;
    assert_eq!(
        (&*program.name, program.source.as_deref()),
        ("n", Some("banner"))
    );
    assert_eq!(program.as_of, UtcDay::parse("2026-11-02").ok());
    assert_eq!(program.ends_on, UtcDay::parse("2027-01-31").ok());
    assert!(policy.covers(Workload::Evaluation));
    assert_eq!(program.extends, Some("openai-2026-09-28"));
}

/// In each text, the line of a fault ends with a comment: its key, and words of its message.
#[test]
fn faults_of_names_are_reported_at_the_key_of_the_file() {
    let without_base = r#"
[program]
without = ["gpt-4o"]                  # program.without: stands only with extends
strip_prefixes = ["a/", "", "a/"]     # program.strip_prefixes: an empty prefix
[pools.large]                         # pools.large.models: is missing
retired = ["x"]
[pools.mini]
models = ["m", "ft:m:x"]              # pools.mini.models: fine-tuned
retired = ["m", "x"]                  # pools.mini.retired: is in pool "mini" already (line 8)
[aliases]
m = "m"                               # aliases.m: is in pool "mini" already (line 8)
self = "self"                         # aliases.self: an alias itself
two = "self"                          # aliases.two: an alias itself
gone = "x"                            # aliases.gone: is retired
"ft:q" = "m"                          # aliases."ft:q": fine-tuned
none = "nothing"                      # aliases.none: "nothing", which is in no pool
empty = ""                            # aliases.empty: must not be empty
number = 7                            # aliases.number: must be a string
[tiers.1]
large = 1
mini = 1
"#;
    let unknown = r#"
[program]
extends = "openai"                    # program.extends: "openai-2025-06-27", "openai-2026-09-28"
"#;
    let extending = r#"
[program]
extends = "openai-2026-09-28"
without = [
    "gpt-4o-2024-08-06",              # program.without: the programme's alias "gpt-4o" stands for it
    "gpt-3",                          # program.without: "openai-2026-09-28" has no model or alias "gpt-3"
    "o3",
    "o3",                             # program.without: "o3" is listed twice
]
[pools.large]
retired = ["o1-2024-12-17"]           # pools.large.retired: is retired, and the programme's alias "o1"
[pools.third]                         # pools.third: in the built-in programme's tiers 2, 3, 4, 5
models = ["t"]
[aliases]
"gpt-5.1-2025-11-13" = "t"            # aliases."gpt-5.1-2025-11-13": is an alias itself, and the programme's alias
mine = "o3"                           # aliases.mine: "o3", which is in no pool
[tiers.1]                             # tiers.1.mini: is missing
large = 5
third = 5
"#;
    for text in [without_base, unknown, extending] {
        let faults = Policy::parse("p.toml", text).expect_err("faults").faults;
        let wanted = (1..).zip(text.lines()).filter_map(|(line, text)| {
            let (key, words) = text.split_once("  # ")?.1.split_once(": ")?;
            Some((line, key, words))
        });
        let wanted: Vec<_> = wanted.collect();
        let mut listed = faults.iter().map(ToString::to_string);
        for (line, key, words) in &wanted {
            let begins = format!("{line}: {key}: ");
            let found = listed.find(|fault| fault.starts_with(&begins) && fault.contains(words));
            assert!(found.is_some(), "{begins}{words}: {faults:#?}");
        }
    }
}

#[test]
fn a_prefix_is_removed_from_a_name_that_the_policy_does_not_have() {
    let policy = parse(&extending(
        "strip_prefixes = [\"openai/\", \"openai/eu/\", \"x\"]\n",
        "[pools.mini]\nmodels = [\"openai/own\"]\n[models]\n\"openai/o1\" = { image = 3 }\n",
    ));
    assert_pools(
        &policy,
        &[
            (
                "openai/gpt-4o openai/gpt-4o-2024-11-20 openai/eu/gpt-4o xgpt-4o",
                "large",
                "large",
            ),
            ("openai/own openai/openai/own", "mini", "mini"),
            ("openai/o3-mini", "-", "mini"),
            (
                "own openai/ x openai/openai/gpt-4o Openai/gpt-4o azure/gpt-4o gpt-4o/",
                "-",
                "-",
            ),
        ],
    );
    assert_eq!(
        policy.capacity("openai/gpt-4o"),
        policy.capacity("gpt-4o-2024-08-06")
    );
    assert_eq!(policy.capacity("openai/o1").image, 3);
}

#[test]
fn an_old_programme_causes_a_warning_at_extends_which_names_the_newest() {
    let old = |text: &str, day| {
        let warnings = parse(text).warnings(UtcDay::parse(day).expect("a day"));
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let newest = extending("", "");
    assert_eq!(old(&newest, "2026-12-27"), [""; 0]);
    assert_eq!(
        old(&newest, "2026-12-28"),
        [
            "2: program.extends: the lists of models are 91 days old: compare them with the provider's, and set as_of"
        ]
    );
    let compared = extending("as_of = 2026-12-01\n", "");
    assert_eq!(old(&compared, "2026-12-28"), [""; 0]);
    let june = newest.replace("2026-09-28", "2025-06-27");
    assert!(old(&june, "2026-09-28")[0].contains("or extend \"openai-2026-09-28\", and set as_of"));
}

#[test]
fn listed_models_without_a_capacity_cause_a_warning_for_each_pool() {
    let warnings = |text: &str| {
        let warnings = parse(text).warnings(UtcDay::parse("2026-10-01").expect("a day"));
        warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let pools = "[pools.large]\nmodels = [\n\"b\",\n\"a\",\n\"o1\"]\nretired = [\"c\"]\n";
    let text = extending("", pools) + "[models.o1]\n";
    let message = "[models] has no capacity of a, b: estimates take a context of 200000 and a max_output of 100000";
    assert_eq!(
        warnings(&text),
        [format!("5: pools.large.models: {message}")]
    );
    let known = text.clone() + "[models.a]\n[models.b]\n";
    assert_eq!(warnings(&known), [""; 0]);
    // A policy without any capacity is not for estimates.
    assert_eq!(warnings(&super::text("")), [""; 0]);
}
