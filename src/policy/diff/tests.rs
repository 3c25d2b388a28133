use super::*;

const BEFORE: &str = r#"
[program]
overflow = "keep_open"
[pools.large]
models = ["gpt-4o", "o1", "o3"]
[pools.old]
models = []
[models.gpt-4o]
context = 128_000
max_output = 16_384
[models.o1]
[tiers.1]
large = 250
old = 1
[tiers.2]
large = 500
old = 1
[orgs.a]
tier = 1
data_sharing = "all"
[orgs.b]
tier = 1
data_sharing = "selected"
projects = ["p", "q"]
[orgs.c]
tier = 2
data_sharing = "off"
[orgs.gone]
tier = 2
data_sharing = "off"
"#;

const AFTER: &str = r#"
[program]
overflow = "close_until_reset"
covered_workloads = ["inference", "evaluation"]
ends_on = "2027-01-31"
source = "the banner"
strip_prefixes = ["openai/"]
margin = "2.5%"
[aliases]
gpt-5-latest = "gpt-5"
[pools.large]
models = ["gpt-4o", "gpt-5"]
retired = ["o3"]
margin = 50
[pools.mini]
models = ["o1"]
[models.gpt-4o]
context = 128_000
max_output = 4_096
[models.unlisted]
image = 1
[tiers.1]
large = 300
mini = 9
[tiers.2]
large = 500
mini = 9
[orgs.a]
tier = 1
data_sharing = "selected"
projects = ["x"]
enterprise = true
margin = "0%"
[orgs.b]
tier = 1
data_sharing = "selected"
projects = ["q", "r"]
[orgs.c]
tier = 1
data_sharing = "off"
zero_data_retention = true
[orgs.new]
tier = 2
data_sharing = "all"
"#;

fn policy(text: &str) -> Policy {
    Policy::parse("p.toml", text).unwrap_or_else(|faults| panic!("{faults}"))
}

fn described(before: &str, after: &str) -> Vec<String> {
    let kinds = policy(before).diff(&policy(after)).kinds();
    let lines = kinds.into_iter();
    lines
        .map(|(kind, count, first)| format!("{count} {kind}: {first}"))
        .collect()
}

#[test]
fn every_change_is_described_with_the_old_and_the_new_value() {
    assert_eq!(
        described(BEFORE, AFTER),
        [
            "6 program: overflow keep_open → close_until_reset, covered_workloads inference → \
             evaluation+inference, ends_on none → 2027-01-31, source none → the banner, \
             strip_prefixes none → openai/, margin none → 2.5%",
            "1 pools added: mini",
            "1 pools removed: old",
            "4 models: gpt-5 none → large, gpt-5-latest none → alias of gpt-5, o1 large → mini, \
             o3 large → large (retired)",
            "3 capacities of models: gpt-4o context 128000 + max_output 16384 + image 50000 → \
             context 128000 + max_output 4096 + image 50000, \
             o1 context 200000 + max_output 100000 + image 50000 → none, \
             unlisted none → context 200000 + max_output 100000 + image 1",
            "1 margins of pools: large none → 50",
            "5 allowances: large of tier 1 250 → 300, mini of tier 1 none → 9, old of tier 1 1 → \
             none, mini of tier 2 none → 9, old of tier 2 1 → none",
            "1 organizations added: new",
            "1 organizations removed: gone",
            "3 organizations changed: c (tier 2 → 1, zero_data_retention false → true), \
             a (data_sharing all → selected, enterprise false → true, margin none → 0%, projects added: x), \
             b (projects added: r, projects removed: p)",
        ]
    );
    assert_eq!(policy(BEFORE).diff(&policy(AFTER)).tier_changes, 1);
}

#[test]
fn another_text_of_the_same_policy_is_no_change() {
    let text = format!(
        "# Another comment\n{}",
        BEFORE.replace("\"p\", \"q\"", "\"q\", \"p\"")
    );
    assert_eq!(described(BEFORE, &text), [""; 0]);
}
