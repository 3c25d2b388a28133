//! docs/CONTRACT.md, "Reserve" 1: any name is legal, and two different names never share a counter.

use tollgate::{
    domain::{Tokens, UtcDay},
    store::{Batch, Decision, Operation, Outcome, Recording},
};

use super::{NewWorld, over_every_store};
use crate::support::world::{
    ReserveExt as _, World, new_reserve, policy, policy_text, small_policy, verdict_text,
};

over_every_store!(
    no_two_names_share_a_counter,
    pairs_of_names_that_run_together_do_not_meet,
    organizations_with_hostile_names_are_apart,
    a_pool_may_have_any_name,
    sums_around_the_largest_amount_are_exact,
    a_usage_row_of_ineligible_requests_is_exact_too,
);

fn hostile_names() -> Vec<String> {
    let mut names: Vec<String> = [
        "a", "A", "a:b", "a%3Ab", "{a}", "}", "{", "a b", " a", "a ", "%", "%25", "\"", "'", "\\",
        "a,b", "a\u{301}", "á", "*", "?", "[a]", "usage", "pool", "requests", "0", "-", ".", "~",
        "日本", "\u{200b}", "\u{feff}",
    ]
    .map(str::to_owned)
    .into();
    names.push("🦀".repeat(64));
    names.push("x".repeat(256));
    names
}

async fn no_two_names_share_a_counter(new: NewWorld) {
    let world = new(policy("keep_open"));
    let names = hostile_names();
    for (at, name) in names.iter().enumerate() {
        world
            .reserve(new_reserve(1 + at as u64).project(name).model("unlisted"))
            .await;
        world
            .reserve(new_reserve(1_000_001 + at as u64).project("p").model(name))
            .await;
    }
    let mut wanted: Vec<(&str, &str, u64)> = Vec::new();
    for (at, name) in names.iter().enumerate() {
        wanted.push((name, "unlisted", 1 + at as u64));
        wanted.push(("p", name, 1_000_001 + at as u64));
    }
    wanted.sort_unstable();
    let usage = world.try_usage("acme", None).await.unwrap();
    let rows = usage.rows.iter();
    let listed: Vec<(&str, &str, u64)> = rows
        .map(|row| {
            (
                row.project.as_str(),
                row.model.as_str(),
                row.counters.billed_tokens.get(),
            )
        })
        .collect();
    assert_eq!(listed, wanted);
}

async fn pairs_of_names_that_run_together_do_not_meet(new: NewWorld) {
    let world = new(policy("keep_open"));
    let pairs = [
        ("a:b", "c"),
        ("a", "b:c"),
        ("a%3Ab", "c"),
        ("a:", "b:c"),
        ("a b", "c"),
        ("a", "b c"),
        ("a/b", "c"),
        ("a", "b/c"),
        ("ab", "c"),
        ("a", "bc"),
    ];
    for (project, model) in pairs {
        world
            .reserve(
                new_reserve(7)
                    .project(project)
                    .model(model)
                    .id(&format!("{project}|{model}")),
            )
            .await;
    }
    for (project, model) in pairs {
        let again = new_reserve(7)
            .project(project)
            .model(model)
            .id(&format!("{project}|{model}"));
        assert!(world.reserve(again).await.replayed);
    }
    let rows = world.usage("acme", None).await;
    assert_eq!(rows.len(), pairs.len());
    assert!(
        rows.iter().all(|row| row.ends_with("- 0 7 0 1")),
        "{rows:?}"
    );
}

async fn organizations_with_hostile_names_are_apart(new: NewWorld) {
    let names = hostile_names();
    let orgs = names.iter().map(|name| {
        let key = serde_json::to_string(name).unwrap();
        format!("[orgs.{key}]\ntier = 1\ndata_sharing = \"all\"\n")
    });
    let world = new(policy_text(
        &(small_policy("keep_open") + &orgs.collect::<String>()),
    ));
    for (at, name) in names.iter().enumerate() {
        world
            .reserve(new_reserve(1 + at as u64).org(name).id("r"))
            .await;
    }
    for (at, name) in names.iter().enumerate() {
        let quota = world.quota(name).await;
        assert_eq!(quota.pools[0].0.used.get(), 1 + at as u64, "{name:?}");
    }
}

async fn a_pool_may_have_any_name(new: NewWorld) {
    let names = hostile_names();
    let mut text = "[tiers.1]\n".to_owned();
    for name in &names {
        text += &format!("{} = 100\n", serde_json::to_string(name).unwrap());
    }
    for (at, name) in names.iter().enumerate() {
        let name = serde_json::to_string(name).unwrap();
        text += &format!("[pools.{name}]\nmodels = [\"model-{at}\"]\n");
    }
    text += "[orgs.acme]\ntier = 1\ndata_sharing = \"all\"\n";
    let world = new(policy_text(&text));
    for (at, name) in names.iter().enumerate() {
        let answer = world
            .reserve(
                new_reserve(1 + at as u64)
                    .model(&format!("model-{at}"))
                    .id(&at.to_string()),
            )
            .await;
        let pool = answer.pool.unwrap();
        assert_eq!(
            (pool.pool.as_str(), pool.used.get()),
            (name.as_str(), 1 + at as u64)
        );
    }
    for at in 0..names.len() {
        let settled = world.settle(&at.to_string(), 0).await;
        assert_eq!(settled.pool.unwrap().used.get(), 0);
    }
}

/// Reserves directly at the store, because the amounts exceed what a caller may send. Gives the verdict and `used`, or
/// `None` if a counter would exceed its maximum.
async fn reserve(world: &World, tokens: u64, model: &str) -> Option<(String, u64)> {
    let call = new_reserve(1).model(model);
    let day = UtcDay::of(world.clock.now());
    let mut fields = call.fields;
    fields.tokens = Tokens::new(tokens).unwrap();
    let policy = world.ledger.policy();
    let assessor = policy.assessor(&call.org, day);
    let operation = Operation::Reserve {
        request_id: None,
        eligibility: assessor.eligibility(&fields),
        fields,
        is_listed: true,
        recording: Recording::Record,
        has_run: false,
    };
    let batch = Batch {
        org: call.org,
        day,
        terms: assessor.terms(),
        operations: vec![operation],
    };
    let decided = world.store.decide(&[batch]).await.pop().unwrap().unwrap();
    let Decision::Outcomes { mut outcomes, .. } = decided.answer else {
        panic!("{decided:?}");
    };
    match outcomes.pop().unwrap() {
        Outcome::Reserved { verdict, pool, .. } => Some((
            verdict_text(verdict),
            pool.map_or(0, |pool| pool.used.get()),
        )),
        Outcome::CounterOverflow(_) => None,
        other => panic!("{other:?}"),
    }
}

async fn sums_around_the_largest_amount_are_exact(new: NewWorld) {
    let text = small_policy("keep_open").replace("large = 1_000", "large = 9_007_199_254_740_991");
    let world = new(policy_text(&text));
    let max = Tokens::MAX.get();
    let free = |used| Some(("FREE".to_owned(), used));
    let billed = |used| Some(("AllowanceExceeded".to_owned(), used));
    for (tokens, answer) in [
        (max - 3, free(max - 3)),
        (1, free(max - 2)),
        (3, billed(max - 2)),
        (2, free(max)),
        (1, billed(max)),
        // The billed sum is 4 here. One more than the maximum is refused, and counts nothing.
        (max - 3, None),
    ] {
        assert_eq!(reserve(&world, tokens, "gpt-4o").await, answer, "{tokens}");
    }
    // The same if only the pool's sum would exceed it: another model has its own row.
    assert_eq!(reserve(&world, max - 3, "o1").await, None);
    assert_eq!(world.pool("large").await, (max, 3, 4, 2));
    assert_eq!(reserve(&world, max - 4, "gpt-4o").await, billed(max));
    assert_eq!(world.pool("large").await, (max, 3, max, 3));
    let rows = world.usage("acme", None).await;
    assert_eq!(rows, [format!("p gpt-4o large {max} {max} 3 3")]);
}

async fn a_usage_row_of_ineligible_requests_is_exact_too(new: NewWorld) {
    let world = new(policy("keep_open"));
    let max = Tokens::MAX.get();
    let billed = Some(("ModelNotCovered".to_owned(), 0));
    assert_eq!(reserve(&world, max - 1, "gpt-5").await, billed);
    assert_eq!(reserve(&world, 2, "gpt-5").await, None);
    assert_eq!(reserve(&world, 1, "gpt-5").await, billed);
    assert_eq!(
        world.usage("acme", None).await,
        [format!("p gpt-5 - 0 {max} 0 2")]
    );
}
