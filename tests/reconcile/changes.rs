//! The printed change of the policy: applied as docs/CONTRACT.md says, every policy with it is valid, and mends the drift.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use tollgate::{
    domain::Overflow,
    policy::{ModelEntry, Policy},
    reconcile::{
        Comparison,
        DriftKind::{self, *},
        changes::policy_changes,
        overflow::OverflowEvidence,
    },
};

use super::{Books, Counted, DAY, FREE, Used, bucket};

/// A policy of its own, with an alias in addition.
const WHOLE: &str = "
[program]
covered_workloads = [\"inference\"]
overflow = \"keep_open\"
[pools.large]
models = [\"gpt-4o-2024-08-06\", \"o3-2025-04-16\", \"gpt-4.1-2025-04-14\", \"gpt-7-2027-01-01\"]
retired = [\"old-1\"]
[pools.mini]
models = [\"gpt-5.4-mini-2026-03-17\"]
[aliases]
o3 = \"o3-2025-04-16\"
gpt-7 = \"gpt-7-2027-01-01\"
favourite = \"o3-2025-04-16\"
[tiers.1]
large = 250_000
mini = 2_500_000
[tiers.3]
large = 1_000_000
mini = 10_000_000
";

const EXTENDS: &str = "
[program]
extends = \"openai-2026-09-28\"
overflow = \"keep_open\"
";

/// With names of its own, some of which the programme has too, as another model's or dropped.
const EXTENDS_WITH_OWN: &str = "
[program]
extends = \"openai-2026-09-28\"
overflow = \"keep_open\"
without = [\"o1\"]
[pools.large]
models = [\"o3-2025-04-16\", \"gpt-7-2027-01-01\"]
retired = [\"old-1\", \"gpt-4o-2024-05-13\"]
[pools.mini]
models = [\"gpt-5.4-mini-2026-03-17\"]
[aliases]
o1 = \"gpt-7-2027-01-01\"
o3 = \"o3-2025-04-16\"
gpt-7 = \"gpt-7-2027-01-01\"
gpt-4o = \"gpt-7-2027-01-01\"
favourite = \"o3-2025-04-16\"
";

const ORGS: [&str; 4] = [
    "",
    "[orgs.acme]\ntier = 1\ndata_sharing = \"all\"\n",
    "[orgs.acme]\ntier = 1\ndata_sharing = \"selected\"\nprojects = [\"p\"]\n",
    "[orgs.acme]\ntier = 1\ndata_sharing = \"selected\"\nprojects = [\"proj_q\"]\n",
];

/// The file with the change.
fn changed(file: &str, change: &str) -> String {
    let mut tables: Value = toml::from_str(file).unwrap();
    let table_at = |path: &str| format!("/{}", path.replace('.', "/"));
    let mut table = String::new();
    for line in change.lines() {
        if let Some(header) = line.strip_prefix('[') {
            table = table_at(header.strip_suffix(']').unwrap());
        } else if let Some(removal) = line.strip_prefix("# remove") {
            let (list, name) = removal.split_once(": ").unwrap();
            let name: String = serde_json::from_str(name).unwrap();
            let list = list
                .strip_prefix(" from ")
                .map(|list| format!("{table}/{list}"));
            let place = tables.pointer_mut(list.as_ref().unwrap_or(&table)).unwrap();
            match place {
                Value::Array(names) => {
                    let at = names.iter().position(|it| *it == *name).unwrap();
                    names.remove(at);
                }
                place => assert!(place.as_object_mut().unwrap().remove(&name).is_some()),
            }
        }
    }
    add(&mut tables, &toml::from_str(change).unwrap());
    let lines = tables.as_object().unwrap().iter();
    lines
        .map(|(key, value)| format!("{} = {}\n", Value::from(key.as_str()), inline(value)))
        .collect()
}

/// Lists of models and names grow, other values are replaced.
fn add(to: &mut Value, change: &Value) {
    for (key, value) in change.as_object().unwrap() {
        let old = to
            .as_object_mut()
            .unwrap()
            .entry(key)
            .or_insert_with(|| match value {
                Value::Object(_) => Map::new().into(),
                _ => Value::Array(Vec::new()),
            });
        match value {
            Value::Object(_) => add(old, value),
            Value::Array(more) if key != "projects" => {
                old.as_array_mut().unwrap().extend(more.iter().cloned());
            }
            value => *old = value.clone(),
        }
    }
}

fn inline(value: &Value) -> String {
    match value {
        Value::Object(table) => {
            let fields = table.iter();
            let fields = fields
                .map(|(key, value)| format!("{} = {}", Value::from(key.as_str()), inline(value)));
            format!("{{ {} }}", fields.collect::<Vec<_>>().join(", "))
        }
        value => value.to_string(),
    }
}

/// What the two sides have of a day, and the kind that it shows under some of the policies.
type Case = (DriftKind, Vec<Counted<'static>>, Vec<Used<'static>>);

fn cases() -> Vec<Case> {
    const GPT_4_1: &str = "gpt-4.1-2025-04-14";
    const MINI: &str = "gpt-5.4-mini-2026-03-17";
    let mut cases = Vec::new();
    let mut case =
        |kind, rows: &[(&'static str, &'static str, u64, u64)], used: &[Used<'static>]| {
            // Something was free in two projects.
            let free = ["p", "proj_q"].map(|project| (project, GPT_4_1, 5, 0));
            let rows = free.iter().chain(rows);
            let rows =
                rows.map(|(project, model, free, billed)| (DAY, *project, *model, *free, *billed));
            let free = ["p", "proj_q"].map(|project| (project, GPT_4_1, FREE, 5));
            cases.push((kind, rows.collect(), [&free, used].concat()));
        };
    for model in ["o3-2025-04-16", "gpt-7-2027-01-01", "gpt-4o-2024-08-06"] {
        case(
            ListedNeverFree,
            &[("p", model, 60, 0)],
            &[("p", model, "default", 60)],
        );
    }
    for model in [
        "old-1",
        "gpt-4o-2024-05-13",
        "gpt-4o-mini-2027-01-01",
        "not a\u{a0}model",
    ] {
        case(UnlistedButFree, &[], &[("p", model, FREE, 60)]);
    }
    const O3: &str = "o3-2025-04-16";
    case(
        PoolDiffers,
        &[("p", MINI, 150_000, 0), ("p", O3, 120_000, 0)],
        &[
            ("p", O3, FREE, 90_000),
            ("p", O3, "default", 30_000),
            ("p", MINI, FREE, 150_000),
        ],
    );
    case(
        OverAllowance,
        &[("p", MINI, 9_000_000, 0)],
        &[("p", MINI, FREE, 9_000_000)],
    );
    case(
        MissedFree,
        &[("p", MINI, 0, 60), ("", MINI, 0, 1)],
        &[("p", MINI, FREE, 60), ("", MINI, FREE, 1)],
    );
    case(
        NotEnrolled,
        &[("r", MINI, 60, 0)],
        &[("r", MINI, "default", 60)],
    );
    let billed = |project: &'static str| (project, GPT_4_1, "default", 70);
    cases.push((
        NotEnrolled,
        vec![(DAY, "p", GPT_4_1, 70, 0)],
        vec![billed("p"), ("s", MINI, FREE, 1)],
    ));
    let both = vec![(DAY, "p", GPT_4_1, 70, 0), (DAY, "proj_q", GPT_4_1, 70, 0)];
    cases.push((
        NotEnrolled,
        both,
        vec![billed("p"), billed("proj_q"), ("s", "ft:x", FREE, 0)],
    ));
    cases
}

/// Whether the policy has what the drift asks for.
fn expect_mended(policy: &Policy, case: &Case, text: &str) {
    let (kind, _, used) = case;
    let (project, model, ..) = used[used.len() - 1];
    let is_small = policy.entry("gpt-5.4-mini-2026-03-17");
    let is_mended = match kind {
        ListedNeverFree => {
            matches!(policy.entry(model), Some(ModelEntry::Retired(_)))
                && policy.aliases_of(model).is_empty()
        }
        UnlistedButFree => matches!(policy.entry(model), Some(ModelEntry::Listed(_))),
        PoolDiffers => {
            matches!(is_small, Some(ModelEntry::Listed(pool)) if pool.as_str() == "large")
        }
        OverAllowance => policy.orgs.values().any(|org| org.tier == 3),
        NotEnrolled => {
            project == "s"
                || policy.orgs.values().all(|org| {
                    !org.data_sharing
                        .includes(&tollgate::domain::ProjectId::parse(project).unwrap())
                })
        }
        _ => true,
    };
    assert!(is_mended, "{kind:?}: {text}");
}

#[test]
fn every_policy_with_its_printed_change_is_valid_and_as_the_report_has_it() {
    let mut shown = BTreeSet::new();
    for (program, org) in [WHOLE, EXTENDS, EXTENDS_WITH_OWN]
        .iter()
        .flat_map(|it| ORGS.map(|org| (it, org)))
    {
        let text = format!("{program}{org}");
        let books = Books::of(&text);
        for case in cases() {
            let (kind, rows, used) = &case;
            let comparison = books.compare(rows, &[bucket(DAY, used)]);
            let has_kind = comparison.drifts.iter().any(|it| it.kind == *kind);
            let Some(change) = books.changes(&comparison).filter(|_| has_kind) else {
                continue;
            };
            let changed = changed(&text, &change);
            let policy = Policy::parse("changed", &changed);
            let policy = policy.unwrap_or_else(|faults| panic!("{faults}\n{change}\n{changed}"));
            expect_mended(&policy, &case, &change);
            shown.insert((*kind, program.len()));
        }
        let closes = OverflowEvidence::Applied(Overflow::CloseUntilReset);
        let change = policy_changes(&books.scope(), &Comparison::default(), [closes].iter());
        let policy = Policy::parse("changed", &changed(&text, &change.unwrap())).unwrap();
        assert_eq!(policy.program.overflow, Overflow::CloseUntilReset);
    }
    // Each kind that has a change, under each of the programmes.
    assert_eq!(shown.len(), 6 * 3, "{shown:?}");
}

#[test]
fn what_the_file_itself_has_is_to_be_removed_there() {
    let books = Books::of(&format!("{EXTENDS_WITH_OWN}{}", ORGS[1]));
    let models = ["o3-2025-04-16", "gpt-7-2027-01-01"];
    let rows = models.map(|model| (DAY, "p", model, 60, 0));
    let used = models.map(|model| ("p", model, "default", 60));
    let free = ("p", "gpt-4.1-2025-04-14", FREE, 1);
    let comparison = books.compare(&rows, &[bucket(DAY, &[used[0], used[1], free])]);
    let change = "[aliases]\n# remove: \"favourite\"\n# remove: \"gpt-4o\"\n# remove: \"gpt-7\"\n# remove: \"o1\"\n\
                  # remove: \"o3\"\n[pools.large]\n# remove from models: \"gpt-7-2027-01-01\"\n\
                  # remove from models: \"o3-2025-04-16\"\nretired = [\"gpt-7-2027-01-01\", \"o3-2025-04-16\"]\n\
                  [program]\nwithout = [\"o3\"]\n";
    assert_eq!(books.changes(&comparison).as_deref(), Some(change));
}
