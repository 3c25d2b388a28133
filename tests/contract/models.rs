//! docs/CONTRACT.md, "Models": aliases, prefixes and retired models.

use tollgate::domain::Workload;

use super::{NewWorld, over_every_store};
use crate::support::world::{
    ReserveExt as _, new_reserve, policy_text, small_policy, verdict_text,
};

over_every_store!(
    an_alias_counts_in_the_pool_of_its_model_and_keeps_its_name_in_the_history,
    a_retired_model_is_not_covered_and_keeps_its_pool_in_the_history,
    a_retry_over_a_change_of_what_a_name_stands_for_is_a_replay,
    a_workload_is_covered_if_the_policy_names_it,
);

fn text() -> String {
    small_policy("keep_open").replace("overflow", "strip_prefixes = [\"openai/\"]\noverflow")
        + "[aliases]\n\"gpt-4\" = \"gpt-4o\"\n"
}

async fn an_alias_counts_in_the_pool_of_its_model_and_keeps_its_name_in_the_history(new: NewWorld) {
    let world = new(policy_text(&text()));
    for (at, model) in ["gpt-4o", "gpt-4", "openai/gpt-4o", "openai/gpt-4"]
        .into_iter()
        .enumerate()
    {
        let call = new_reserve(200).model(model).id(model);
        let answer = world.reserve(call.clone()).await;
        assert_eq!(verdict_text(answer.verdict), "FREE", "{model}");
        let pool = answer.pool.unwrap();
        assert_eq!(
            (pool.pool.as_str(), pool.used.get()),
            ("large", 200 * (at as u64 + 1))
        );
        assert!(world.reserve(call).await.replayed);
    }
    let billed = world.reserve(new_reserve(201).model("gpt-4")).await;
    assert_eq!(verdict_text(billed.verdict), "AllowanceExceeded");
    for (model, reason) in [
        ("GPT-4", "ModelNotCovered"),
        ("azure/gpt-4", "ModelNotCovered"),
        ("openai/ft:gpt-4o:x", "FineTunedModel"),
    ] {
        let answer = world.reserve(new_reserve(1).model(model)).await;
        assert_eq!(verdict_text(answer.verdict), reason, "{model}");
    }
    let settled = world.settle("openai/gpt-4", 150).await;
    assert_eq!(settled.pool.unwrap().used.get(), 750);
    let expected = [
        "p GPT-4 - 0 1 0 1",
        "p azure/gpt-4 - 0 1 0 1",
        "p gpt-4 large 200 201 1 1",
        "p gpt-4o large 200 0 1 0",
        "p openai/ft:gpt-4o:x - 0 1 0 1",
        "p openai/gpt-4 large 150 0 1 0",
        "p openai/gpt-4o large 200 0 1 0",
    ];
    assert_eq!(world.usage("acme", None).await, expected);
}

async fn a_retired_model_is_not_covered_and_keeps_its_pool_in_the_history(new: NewWorld) {
    let world = new(policy_text(&text()));
    world.reserve(new_reserve(300).model("o1").id("r")).await;
    let retired = text().replace(", \"o1\"]", "]\nretired = [\"o1\"]");
    world.ledger.set_policy(policy_text(&retired).into());
    let answer = world.reserve(new_reserve(5).model("o1")).await;
    assert_eq!(verdict_text(answer.verdict), "ModelNotCovered");
    assert!(answer.pool.is_none());
    // What was reserved before settles in its pool.
    assert_eq!(verdict_text(world.settle("r", 250).await.verdict), "FREE");
    assert_eq!(world.pool("large").await, (250, 1, 0, 0));
    assert_eq!(world.usage("acme", None).await, ["p o1 large 250 5 1 1"]);
}

async fn a_retry_over_a_change_of_what_a_name_stands_for_is_a_replay(new: NewWorld) {
    let first = text();
    let world = new(policy_text(&first));
    let names = ["gpt-4", "openai/gpt-4o", "gpt-4o"];
    for model in names {
        world.reserve(new_reserve(100).model(model).id(model)).await;
    }
    for next in [
        first.replace("= \"gpt-4o\"\n", "= \"gpt-4o-mini\"\n"),
        first
            .replace("[aliases]\n\"gpt-4\" = \"gpt-4o\"\n", "")
            .replace("[\"openai/\"]", "[]"),
        first
            .replace(
                "[\"gpt-4o\", \"o1\"]",
                "[\"gpt-4\"]\nretired = [\"gpt-4o\"]",
            )
            .replace("[aliases]\n\"gpt-4\" = \"gpt-4o\"\n", ""),
    ] {
        world.ledger.set_policy(policy_text(&next).into());
        for model in names {
            let again = world.reserve(new_reserve(100).model(model).id(model)).await;
            assert_eq!(
                (verdict_text(again.verdict).as_str(), again.replayed),
                ("FREE", true),
                "{model}"
            );
            assert_eq!(again.pool.unwrap().pool.as_str(), "large");
        }
        assert_eq!(world.pool("large").await, (300, 3, 0, 0));
    }
    assert_eq!(
        verdict_text(world.settle("gpt-4", 90).await.verdict),
        "FREE"
    );
    assert_eq!(world.pool("large").await, (290, 3, 0, 0));
}

async fn a_workload_is_covered_if_the_policy_names_it(new: NewWorld) {
    let covering = |workload: Workload| {
        let covered = format!("covered_workloads = [{:?}]\noverflow", workload.name());
        policy_text(&small_policy("keep_open").replace("overflow", &covered)).into()
    };
    let world = new(policy_text(&small_policy("keep_open")));
    for (at, workload) in Workload::ALL.into_iter().enumerate() {
        let call = new_reserve(10).workload(workload).id(workload.name());
        let inference = if at == 0 {
            "FREE"
        } else {
            "WorkloadNotCovered"
        };
        let first = world.reserve(call.clone()).await;
        assert_eq!(verdict_text(first.verdict), inference, "{workload:?}");
        world.ledger.set_policy(covering(workload));
        // The id has its first verdict, a new request is free.
        let again = world.reserve(call.clone()).await;
        assert_eq!(
            (again.verdict, again.replayed),
            (first.verdict, true),
            "{workload:?}"
        );
        let new = world.reserve(new_reserve(10).workload(workload)).await;
        assert_eq!(verdict_text(new.verdict), "FREE", "{workload:?}");
        world.ledger.set_policy(covering(Workload::Inference));
        let settled = world.settle(workload.name(), 5).await;
        assert_eq!(verdict_text(settled.verdict), inference, "{workload:?}");
    }
    assert_eq!(
        world.usage("acme", None).await,
        ["p gpt-4o large 85 35 9 7"]
    );
}
