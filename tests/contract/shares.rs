//! docs/CONTRACT.md, "Shares": what a project may use of a pool, judged at Reserve only.

use tollgate::{domain::Tokens, ledger::Reserve};

use super::{NewWorld, over_every_store};
use crate::support::world::{
    ReserveExt as _, TODAY, World, new_reserve, policy, policy_text, small_policy, verdict_text,
};

over_every_store!(
    a_project_gets_no_more_than_its_share_and_others_get_the_rest,
    a_share_is_tokens_or_per_cent_rounded_down_of_every_pool_or_of_some,
    the_pool_is_judged_first_and_a_share_never_closes_it,
    settle_knows_no_share,
    what_is_taken_back_from_the_pool_is_taken_back_from_the_share,
    a_replay_and_a_dry_run_count_nothing,
    a_share_begins_anew_at_midnight_and_carries_nothing,
    a_share_counts_what_is_reserved_while_the_policy_has_it,
    reservations_of_many_shares_end,
    a_batch_sees_what_its_operations_count,
    what_has_run_is_neither_judged_nor_counted_by_a_share,
);

fn with_shares(shares: &str) -> String {
    let shares = format!("[orgs.acme.shares]\n{shares}\n[orgs.other]");
    small_policy("keep_open").replace("[orgs.other]", &shares)
}

fn world_with(new: NewWorld, shares: &str) -> World {
    new(policy_text(&with_shares(shares)))
}

async fn reserve(world: &World, project: &str, tokens: u64, id: &str) -> String {
    let call = new_reserve(tokens).project(project).id(id);
    verdict_text(world.reserve(call).await.verdict)
}

/// The share of a project in a pool, and what it used of it.
async fn share_of(world: &World, pool: &str, project: &str) -> Option<(u64, u64)> {
    let quota = world.quota("acme").await;
    let named = quota
        .shares
        .iter()
        .find(|(id, _)| (id.pool.as_str(), id.project.as_str()) == (pool, project));
    named.map(|(_, it)| {
        assert_eq!(
            it.remaining().get(),
            it.share.get().saturating_sub(it.used.get())
        );
        (it.share.get(), it.used.get())
    })
}

/// What `p` used of its share of `large`.
async fn used(world: &World) -> u64 {
    share_of(world, "large", "p").await.unwrap().1
}

async fn a_project_gets_no_more_than_its_share_and_others_get_the_rest(new: NewWorld) {
    let world = world_with(new, "p = \"40%\"\n\"a:b%+\" = 5");
    assert_eq!(
        reserve(&world, "p", 401, "too large").await,
        "ShareExceeded"
    );
    assert_eq!(reserve(&world, "p", 300, "r").await, "FREE");
    assert_eq!(reserve(&world, "p", 100, "s").await, "FREE");
    assert_eq!(reserve(&world, "p", 1, "t").await, "ShareExceeded");
    assert_eq!(reserve(&world, "a:b%+", 5, "u").await, "FREE");
    assert_eq!(reserve(&world, "a:b%+", 1, "v").await, "ShareExceeded");
    assert_eq!(reserve(&world, "q", 595, "w").await, "FREE");
    // Without an id too, and in the pool's billed tokens.
    let billed = world.reserve(new_reserve(7).model("o1")).await;
    assert_eq!(verdict_text(billed.verdict), "AllowanceExceeded");
    assert_eq!(world.pool("large").await, (1_000, 4, 410, 4));
    assert_eq!(share_of(&world, "large", "p").await, Some((400, 400)));
    assert_eq!(share_of(&world, "large", "a:b%+").await, Some((5, 5)));
    assert_eq!(share_of(&world, "large", "q").await, None);
    // The same project of another organization has none.
    let other = world.reserve(new_reserve(1_000).org("other")).await;
    assert!(other.verdict.is_free());
    assert!(world.quota("other").await.shares.is_empty());
}

async fn a_share_is_tokens_or_per_cent_rounded_down_of_every_pool_or_of_some(new: NewWorld) {
    let world = world_with(
        new,
        "p = \"33.33%\"\nq = 250\nr = { mini = \"0.05%\" }\ns = { large = 1, mini = \"100%\" }",
    );
    for (project, large, mini) in [
        ("p", Some(333), Some(3_333)),
        ("q", Some(250), Some(250)),
        ("r", None, Some(5)),
        ("s", Some(1), Some(10_000)),
    ] {
        let wanted = [large, mini].map(|it| it.map(|share| (share, 0)));
        let shares = [
            share_of(&world, "large", project).await,
            share_of(&world, "mini", project).await,
        ];
        assert_eq!(shares, wanted, "{project}");
    }
    let quota = world.quota("acme").await;
    let order: Vec<_> = quota
        .shares
        .iter()
        .map(|(id, _)| (&id.pool, &id.project))
        .collect();
    assert!(order.is_sorted());
}

async fn the_pool_is_judged_first_and_a_share_never_closes_it(new: NewWorld) {
    let text = with_shares("p = 100").replace("keep_open", "close_until_reset");
    let world = new(policy_text(&text));
    assert_eq!(reserve(&world, "p", 101, "r").await, "ShareExceeded");
    assert_eq!(reserve(&world, "q", 950, "s").await, "FREE");
    // Neither fits: the pool's reason.
    assert_eq!(reserve(&world, "p", 101, "t").await, "AllowanceExceeded");
    assert_eq!(reserve(&world, "p", 1, "u").await, "PoolClosed");
}

async fn settle_knows_no_share(new: NewWorld) {
    let world = world_with(new, "p = 100");
    assert_eq!(reserve(&world, "p", 100, "grown").await, "FREE");
    assert_eq!(reserve(&world, "p", 10, "billed").await, "ShareExceeded");
    assert_eq!(
        reserve(&world, "p", 1_000, "too large").await,
        "AllowanceExceeded"
    );
    // What ran is free by the provider's rule, which knows no share.
    assert_eq!(
        verdict_text(world.settle("grown", 300).await.verdict),
        "FREE"
    );
    assert_eq!(used(&world).await, 300);
    let settled = world.settle("too large", 200).await;
    assert!(settled.verdict.is_free() && settled.verdict_changed);
    assert_eq!(used(&world).await, 500);
    // It was billed for the share, and stays billed.
    for replayed in [false, true] {
        let settled = world.settle("billed", 1).await;
        assert_eq!(verdict_text(settled.verdict), "ShareExceeded");
        assert_eq!(
            (settled.verdict_changed, settled.replayed),
            (false, replayed)
        );
    }
    assert_eq!(world.pool("large").await, (500, 2, 1, 1));
    assert_eq!(share_of(&world, "large", "p").await, Some((100, 500)));
    assert_eq!(reserve(&world, "p", 1, "more").await, "ShareExceeded");
    assert_eq!(reserve(&world, "q", 500, "rest").await, "FREE");
}

async fn what_is_taken_back_from_the_pool_is_taken_back_from_the_share(new: NewWorld) {
    let world = world_with(new, "p = 500");
    for id in ["less", "released", "outside", "exceeded"] {
        assert_eq!(reserve(&world, "p", 100, id).await, "FREE");
    }
    assert_eq!(reserve(&world, "q", 600, "others").await, "FREE");
    assert_eq!(used(&world).await, 400);
    for _ in 0..2 {
        world.settle("less", 40).await;
        assert_eq!(used(&world).await, 340);
    }
    for _ in 0..2 {
        world.release("released").await;
        assert_eq!(used(&world).await, 240);
    }
    for _ in 0..2 {
        world.try_settle_outside("outside", 70).await.unwrap();
        assert_eq!(used(&world).await, 140);
    }
    let settled = world.settle("exceeded", 900).await;
    assert_eq!(verdict_text(settled.verdict), "AllowanceExceeded");
    assert_eq!(used(&world).await, 40);
    // Of a project without a share nothing changes it.
    world.release("others").await;
    assert_eq!(used(&world).await, 40);
}

async fn a_replay_and_a_dry_run_count_nothing(new: NewWorld) {
    let world = world_with(new, "p = 100");
    for tokens in [100, 101] {
        let dry = world.reserve(new_reserve(tokens).dry()).await;
        assert_eq!(dry.verdict.is_free(), tokens == 100);
    }
    assert_eq!(used(&world).await, 0);
    for _ in 0..2 {
        assert_eq!(reserve(&world, "p", 60, "r").await, "FREE");
        assert_eq!(reserve(&world, "p", 41, "s").await, "ShareExceeded");
        assert_eq!(used(&world).await, 60);
    }
}

async fn a_share_begins_anew_at_midnight_and_carries_nothing(new: NewWorld) {
    let world = world_with(new, "p = 400");
    world.clock.set("2026-11-22T23:55:00Z");
    for (id, tokens) in [("carried", 100), ("grown", 100), ("released", 100)] {
        assert_eq!(reserve(&world, "p", tokens, id).await, "FREE");
    }
    assert_eq!(reserve(&world, "p", 200, "billed").await, "ShareExceeded");
    world.clock.set("2026-11-23T00:01:00Z");
    assert_eq!(used(&world).await, 0);
    assert_eq!(reserve(&world, "p", 400, "new").await, "FREE");
    world.settle("carried", 30).await;
    let grown = world.settle("grown", 101).await;
    assert_eq!(verdict_text(grown.verdict), "DayClosed");
    world.release("released").await;
    let billed = world.settle("billed", 5).await;
    assert_eq!(verdict_text(billed.verdict), "ShareExceeded");
    assert_eq!(used(&world).await, 400);
    assert_eq!(world.pool("large").await.0, 430);
    assert_eq!(
        world.usage("acme", Some(TODAY)).await,
        ["p gpt-4o large 30 106 1 2"]
    );
}

async fn a_share_counts_what_is_reserved_while_the_policy_has_it(new: NewWorld) {
    let world = new(policy("keep_open"));
    let set = |text: &str| world.ledger.set_policy(policy_text(text).into());
    assert_eq!(reserve(&world, "p", 300, "before").await, "FREE");
    set(&with_shares("p = 100"));
    assert_eq!(used(&world).await, 0);
    assert_eq!(reserve(&world, "p", 70, "within").await, "FREE");
    // What the share did not count is not taken back from it.
    world.release("before").await;
    assert_eq!(used(&world).await, 70);
    set(&with_shares("q = 100"));
    assert_eq!(reserve(&world, "p", 200, "without").await, "FREE");
    world.settle("within", 50).await;
    set(&with_shares("p = \"1%\""));
    assert_eq!(share_of(&world, "large", "p").await, Some((10, 50)));
    world.settle("without", 0).await;
    assert_eq!(used(&world).await, 50);
    assert_eq!(reserve(&world, "p", 1, "more").await, "ShareExceeded");
    // Without its tier's enrolment it has no share to show.
    set(&with_shares("p = 10").replace("\"all\"", "\"off\""));
    assert!(world.quota("acme").await.shares.is_empty());
}

async fn reservations_of_many_shares_end(new: NewWorld) {
    let shares: Vec<String> = (0..150).map(|at| format!("p{at} = 6")).collect();
    let world = world_with(new, &shares.join("\n"));
    let calls = (0..150).map(|at| {
        let project = format!("p{at}");
        new_reserve(6).project(&project).id(&project)
    });
    for answer in world.ledger.reserve_all(calls.collect()).await {
        assert!(answer.unwrap().verdict.is_free());
    }
    for at in 0..150 {
        let id = format!("p{at}");
        match at % 2 {
            0 => assert!(!world.settle(&id, 4).await.replayed),
            _ => assert_eq!(world.release(&id).await.tokens.get(), 6),
        }
    }
    let quota = world.quota("acme").await;
    let sum: u64 = quota.shares.iter().map(|(_, it)| it.used.get()).sum();
    assert_eq!((sum, world.pool("large").await.0), (300, 300));
    assert!(
        quota
            .shares
            .iter()
            .all(|(_, it)| it.used <= Tokens::new(4).unwrap())
    );
}

async fn a_batch_sees_what_its_operations_count(new: NewWorld) {
    let world = world_with(new, "p = 100\nq = 50");
    let calls = (0..40).map(|at| {
        let project = ["p", "q", "r"][at % 3];
        let call = new_reserve(10).project(project);
        if at % 2 == 0 {
            call
        } else {
            call.id(&format!("{}", at % 24))
        }
    });
    let answers = world.ledger.reserve_all(calls.collect()).await;
    let verdicts = answers
        .into_iter()
        .map(|it| verdict_text(it.unwrap().verdict));
    let exceeded = verdicts.filter(|it| it == "ShareExceeded").count();
    assert!(exceeded > 0);
    assert_eq!(share_of(&world, "large", "p").await, Some((100, 100)));
    assert_eq!(share_of(&world, "large", "q").await, Some((50, 50)));
}

async fn what_has_run_is_neither_judged_nor_counted_by_a_share(new: NewWorld) {
    let world = world_with(new, "p = 100");
    let has_run = async |tokens, id| {
        let call = Reserve {
            has_run: true,
            ..new_reserve(tokens).id(id)
        };
        verdict_text(world.reserve(call).await.verdict)
    };
    assert_eq!(has_run(300, "r").await, "FREE");
    assert_eq!(has_run(800, "s").await, "AllowanceExceeded");
    assert_eq!(used(&world).await, 0);
    assert_eq!(reserve(&world, "p", 101, "t").await, "ShareExceeded");
    assert_eq!(world.settle("r", 200).await.pool.unwrap().used.get(), 200);
    assert_eq!(used(&world).await, 0);
}
