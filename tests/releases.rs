//! Replicas of the previous release and of this one on one Redis, as during a rollout.

use std::{
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use tollgate::{
    grpc::proto::{
        ListUsageRequest, ReleaseRequest, ReserveRequest, SetExternalUsageRequest, SettleRequest,
        Workload,
    },
    ledger::{Ledger, LedgerConfig},
};

use crate::support::{
    calls::{
        Client, TextFile, large, new_reserve, policy_file, quota, reserve, settle_verdict_text,
        sum, usage, verdict_text,
    },
    clock::Clock,
    redis::RedisServer,
    tollgate::{Tollgate, program},
    tools::{WAIT_TIMEOUT, run, tool},
    usage_api::{ADMIN_KEY, UsageApiServer, UsageEvent},
    world::{NOON, TODAY, new_reserve as call, policy_text, redis_store},
};

const ALLOWANCE: u64 = 100_000;

/// A replica of each release, and their Redis.
struct Rollout {
    clock: Clock,
    redis: RedisServer,
    old: Tollgate,
    new: Tollgate,
    _files: [TextFile; 2],
}

impl Rollout {
    fn start(settings: &str) -> Self {
        Self::start_at(Clock::real(), settings)
    }

    fn start_at(clock: Clock, settings: &str) -> Self {
        let redis = RedisServer::start_at(&clock);
        let (policy, settings) = (policy_file(ALLOWANCE), TextFile::new(settings));
        let url = redis.url();
        let args = ["--store", &url, "--policy", policy.path()];
        let mut previous = Command::new(tool("bin/tollgate-previous"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TOLLGATE_")) {
            previous.env_remove(name);
        }
        let old = Tollgate::launch(previous, &args, |command| clock.preload(command));
        let args = [&args[..], &["--config", settings.path()]].concat();
        let new = Tollgate::start_at(&clock, &args);
        Self {
            clock,
            redis,
            old,
            new,
            _files: [policy, settings],
        }
    }

    fn clients(&self) -> [Client; 2] {
        [self.old.client(), self.new.client()]
    }
}

async fn settle(client: &Client, id: &str, tokens: u64) -> String {
    let request = SettleRequest {
        org: "acme".to_owned(),
        request_id: id.to_owned(),
        tokens,
        outside_program: false,
    };
    settle_verdict_text(client.clone().settle(request).await.unwrap().get_ref())
}

async fn release(client: &Client, id: &str) -> u64 {
    let request = ReleaseRequest {
        org: "acme".to_owned(),
        request_id: id.to_owned(),
    };
    let answer = client.clone().release(request).await.unwrap();
    answer.into_inner().released_tokens
}

#[tokio::test]
async fn what_one_release_reserves_the_other_replays_settles_and_releases() {
    let rollout = Rollout::start("");
    let clients = rollout.clients();
    let mut expected = 0;
    for round in 0..40_usize {
        let (one, other) = (&clients[round % 2], &clients[(round + 1) % 2]);
        let id = format!("id-{round}");
        assert_eq!(verdict_text(&reserve(one, 100, &id).await), "FREE");
        let again = reserve(other, 100, &id).await;
        assert!(again.replayed && verdict_text(&again) == "FREE");
        let others = other
            .clone()
            .reserve(new_reserve(101, &id))
            .await
            .unwrap_err();
        assert_eq!(others.code(), tonic::Code::AlreadyExists);
        match round / 2 % 3 {
            0 => assert_eq!(settle(other, &id, 40).await, "FREE"),
            1 => assert_eq!(release(other, &id).await, 100),
            _ => {}
        }
        expected += [40, 0, 100][round / 2 % 3];
        for client in &clients {
            assert_eq!(large(client).await.used, expected);
        }
    }
    for client in &clients {
        let day = quota(client).await.day;
        let rows = usage(client, &day).await;
        assert_eq!(sum(&rows).0, expected);
        assert_eq!(
            verdict_text(&reserve(client, ALLOWANCE, "").await),
            "AllowanceExceeded"
        );
    }
}

#[tokio::test]
async fn together_they_grant_the_allowance_and_no_more() {
    let rollout = Rollout::start("");
    let callers = (0..8_usize).map(|caller| {
        let client = rollout.clients()[caller % 2].clone();
        tokio::spawn(async move {
            let mut granted = 0;
            for call in 0..40 {
                let answer = reserve(&client, 500, &format!("{caller}-{call}")).await;
                granted += u64::from(verdict_text(&answer) == "FREE") * 500;
            }
            granted
        })
    });
    let mut granted = 0;
    for caller in callers.collect::<Vec<_>>() {
        granted += caller.await.unwrap();
    }
    assert_eq!(granted, ALLOWANCE);
    for client in rollout.clients() {
        assert_eq!(large(&client).await.used, ALLOWANCE);
    }
}

#[tokio::test]
async fn the_previous_release_reads_days_with_bounded_rows() {
    let rollout = Rollout::start("usage_rows = 2\n");
    let [old, new] = rollout.clients();
    for project in ["a", "b", "c", "d"] {
        let mut request = new_reserve(10, project);
        request.project = project.to_owned();
        assert_eq!(
            verdict_text(new.clone().reserve(request).await.unwrap().get_ref()),
            "FREE"
        );
    }
    let day = quota(&old).await.day;
    let rows = usage(&old, &day).await;
    let projects: Vec<&str> = rows.iter().map(|row| row.project.as_str()).collect();
    assert_eq!(projects, ["(other)", "a", "b"]);
    assert_eq!(sum(&rows).0, 40);
    assert_eq!(settle(&old, "c", 5).await, "FREE");
    assert_eq!(release(&old, "d").await, 10);
    for client in [&old, &new] {
        assert_eq!(large(client).await.used, 25);
    }
}

#[tokio::test]
async fn what_redis_forgets_either_release_restores() {
    let rollout = Rollout::start("");
    let [old, new] = rollout.clients();
    reserve(&old, 700, "old").await;
    reserve(&new, 200, "new").await;
    for (loser, (client, then)) in [(&old, 901), (&new, 902)].into_iter().enumerate() {
        rollout.redis.run(&["FLUSHALL"]);
        assert_eq!(
            verdict_text(&reserve(client, 1, &format!("{loser}")).await),
            "FREE"
        );
        for client in [&old, &new] {
            reserve(client, 1, &format!("{loser}")).await;
        }
        assert_eq!(large(client).await.used, then);
    }
}

#[tokio::test]
async fn the_previous_release_takes_external_usage_for_used_and_either_restores_it() {
    let rollout = Rollout::start("");
    let [old, new] = rollout.clients();
    reserve(&old, 10_000, "r").await;
    let external = SetExternalUsageRequest {
        org: "acme".to_owned(),
        pool: "large".to_owned(),
        tokens: 60_000,
        note: String::new(),
    };
    new.clone().set_external_usage(external).await.unwrap();
    let verdict = async |client: &Client, tokens| verdict_text(&reserve(client, tokens, "").await);
    for _ in 0..2 {
        assert_eq!(verdict(&old, 30_001).await, "AllowanceExceeded");
        assert_eq!(verdict(&new, 30_001).await, "AllowanceExceeded");
        assert_eq!(large(&old).await.used, 70_000);
        let pool = large(&new).await;
        assert_eq!(
            (pool.used, pool.external_tokens, pool.remaining),
            (10_000, 60_000, 30_000)
        );
        rollout.redis.run(&["FLUSHALL"]);
    }
    assert_eq!(verdict(&old, 30_000).await, "FREE");
    assert_eq!(large(&new).await.remaining, 0);
}

#[tokio::test]
async fn the_previous_release_bears_what_is_carried_and_what_it_ends_stays_counted() {
    let rollout = Rollout::start_at(Clock::at("2026-11-22T23:55:00Z"), "");
    let [old, new] = rollout.clients();
    let ids = [
        "old settles",
        "new settles",
        "old releases",
        "old settles late",
        "new settles late",
    ];
    for id in ids {
        assert_eq!(verdict_text(&reserve(&new, 100, id).await), "FREE");
        assert!(reserve(&old, 100, id).await.replayed);
    }
    reserve(&old, 1, "of the old").await;
    assert_eq!(settle(&old, "old settles", 40).await, "FREE");
    assert_eq!(settle(&new, "new settles", 40).await, "FREE");
    assert_eq!(release(&old, "old releases").await, 100);
    for client in [&old, &new] {
        assert_eq!(large(client).await.used, 281);
    }
    rollout.clock.set("2026-11-23T00:00:01Z");
    // What the old release ended stays counted on the new day: that bills too much, and grants nothing twice.
    for client in [&old, &new] {
        assert_eq!(large(client).await.used, 400);
    }
    assert_eq!(settle(&old, "old settles late", 40).await, "FREE");
    assert_eq!(settle(&new, "new settles late", 40).await, "FREE");
    assert!(reserve(&old, 100, "new settles late").await.replayed);
    for client in [&old, &new] {
        assert_eq!(large(client).await.used, 340);
    }
    let together = verdict_text(&reserve(&old, ALLOWANCE - 339, "").await);
    assert_eq!(together, "AllowanceExceeded");
}

#[tokio::test]
async fn the_previous_release_fails_for_what_ran_outside_the_programme_and_counts_nothing() {
    let rollout = Rollout::start("");
    let [old, new] = rollout.clients();
    reserve(&old, 300, "outside").await;
    reserve(&old, 200, "other").await;
    let outside = SettleRequest {
        org: "acme".to_owned(),
        request_id: "outside".to_owned(),
        tokens: 250,
        outside_program: true,
    };
    let settled = new.clone().settle(outside.clone()).await.unwrap();
    assert_eq!(settle_verdict_text(settled.get_ref()), "RanOutsideProgram");
    // The old release does not know the verdict.
    let release = ReleaseRequest {
        org: "acme".to_owned(),
        request_id: "outside".to_owned(),
    };
    for failed in [
        old.clone().settle(outside.clone()).await.err(),
        old.clone().release(release).await.err(),
        old.clone().reserve(new_reserve(300, "outside")).await.err(),
    ] {
        assert_eq!(failed.unwrap().code(), tonic::Code::Internal);
    }
    assert!(
        new.clone()
            .settle(outside)
            .await
            .unwrap()
            .get_ref()
            .replayed
    );
    // Other requests and the counters are served by both.
    assert_eq!(settle(&old, "other", 150).await, "FREE");
    for client in [&old, &new] {
        let pool = large(client).await;
        assert_eq!((pool.used, pool.billed_tokens), (150, 0));
        let day = quota(client).await.day;
        assert_eq!(sum(&usage(client, &day).await), (150, 250, 1, 1));
    }
}

#[tokio::test]
async fn the_previous_release_ends_no_reservation_that_a_share_counts_and_reserves_beside_it() {
    let rollout = Rollout::start("");
    let [old, _] = rollout.clients();
    let text = std::fs::read_to_string(rollout._files[0].path()).unwrap();
    let policy = TextFile::new(&text.replace("[orgs.acme]", "[orgs.acme]\nshares.p = 500"));
    let url = rollout.redis.url();
    let args = ["--store", &url, "--policy", policy.path()];
    let replica = Tollgate::start_at(&rollout.clock, &args);
    let new = replica.client();
    assert_eq!(verdict_text(&reserve(&new, 300, "shared").await), "FREE");
    assert_eq!(
        verdict_text(&reserve(&new, 201, "billed").await),
        "ShareExceeded"
    );
    // It has no share: what it reserves counts in the pool alone.
    assert_eq!(verdict_text(&reserve(&old, 400, "old").await), "FREE");
    for id in ["shared", "billed"] {
        let (org, request_id) = ("acme".to_owned(), id.to_owned());
        let failed = old
            .clone()
            .release(ReleaseRequest { org, request_id })
            .await;
        assert_eq!(failed.unwrap_err().code(), tonic::Code::Internal, "{id}");
    }
    assert_eq!(settle(&new, "old", 350).await, "FREE");
    assert_eq!(settle(&new, "shared", 450).await, "FREE");
    let pool = large(&new).await;
    assert_eq!(
        (pool.used, pool.billed_tokens, pool.shares[0].used),
        (800, 201, 450)
    );
    assert_eq!(large(&old).await.used, 800);
}

#[tokio::test]
async fn the_previous_release_counts_on_beside_what_a_pool_has_reached() {
    let rollout = Rollout::start("");
    let [old, new] = rollout.clients();
    let mut expected = 0;
    let steps = [(&old, 50_000), (&new, 45_000), (&old, 2_000), (&new, 3_000)];
    for (at, (client, tokens)) in steps.into_iter().enumerate() {
        let id = format!("id-{at}");
        assert_eq!(verdict_text(&reserve(client, tokens, &id).await), "FREE");
        expected += tokens;
        for client in [&old, &new] {
            assert_eq!(large(client).await.used, expected);
        }
        let one_more = verdict_text(&reserve(client, ALLOWANCE - expected + 1, "").await);
        assert_eq!(one_more, "AllowanceExceeded");
    }
    assert_eq!(release(&old, "id-0").await, 50_000);
    // Both know the last state.
    for client in [&old, &new] {
        assert!(reserve(client, 3_000, "id-3").await.replayed);
    }
    rollout.redis.run(&["FLUSHALL"]);
    for client in [&old, &new, &old] {
        assert_eq!(
            verdict_text(&reserve(client, 50_001, "").await),
            "AllowanceExceeded"
        );
        assert_eq!(large(client).await.used, 50_000);
    }
}

/// It unites the first two components of a record that has many.
#[tokio::test]
async fn the_previous_release_loses_no_counts_of_a_pool_that_many_replicas_wrote_to() {
    let rollout = Rollout::start("");
    let [old, new] = rollout.clients();
    assert_eq!(verdict_text(&reserve(&new, 85_000, "").await), "FREE");
    let text = std::fs::read_to_string(rollout._files[0].path()).unwrap();
    let policy = Arc::new(policy_text(&text));
    for _ in 0..70 {
        let store = Arc::new(redis_store(&rollout.redis));
        let replica = Ledger::new(LedgerConfig::new(Arc::clone(&policy), store));
        replica.reserve(call(10)).await.unwrap();
    }
    assert_eq!(verdict_text(&reserve(&old, 1, "").await), "FREE");
    for client in [&new, &old] {
        assert_eq!(large(client).await.used, 85_701);
        assert_eq!(
            verdict_text(&reserve(client, 14_300, "").await),
            "AllowanceExceeded"
        );
    }
    assert_eq!(verdict_text(&reserve(&new, 14_299, "").await), "FREE");
}

/// Its wire has no number for them, but it finishes what this release reserved.
#[tokio::test]
async fn the_previous_release_settles_and_releases_new_workloads_and_refuses_to_reserve_them() {
    let rollout = Rollout::start("");
    let [old, new] = rollout.clients();
    let reserve = |workload: Workload| ReserveRequest {
        workload: workload.into(),
        ..new_reserve(100, workload.as_str_name())
    };
    let workloads = [
        Workload::Batch,
        Workload::FunctionCalling,
        Workload::Flex,
        Workload::Priority,
    ];
    for workload in workloads {
        let refused = old.clone().reserve(reserve(workload)).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        let reserved = new.clone().reserve(reserve(workload)).await.unwrap();
        assert_eq!(verdict_text(reserved.get_ref()), "WorkloadNotCovered");
    }
    let name = Workload::as_str_name;
    assert_eq!(
        settle(&old, name(&Workload::Batch), 70).await,
        "WorkloadNotCovered"
    );
    assert_eq!(release(&old, name(&Workload::Flex)).await, 100);
    let others = old
        .clone()
        .reserve(new_reserve(100, name(&Workload::Priority)))
        .await;
    assert_eq!(others.unwrap_err().code(), tonic::Code::AlreadyExists);
    for client in [&old, &new] {
        let day = quota(client).await.day;
        assert_eq!(sum(&usage(client, &day).await), (0, 270, 0, 3));
    }
    let again = new
        .clone()
        .reserve(reserve(Workload::Priority))
        .await
        .unwrap();
    assert!(again.get_ref().replayed);
}

#[tokio::test]
async fn a_page_token_of_a_day_is_valid_at_either_release_and_a_range_needs_this_one() {
    let rollout = Rollout::start_at(Clock::at(NOON), "");
    let new = &rollout.clients()[1];
    for project in ["a", "b", "c"] {
        let request = ReserveRequest {
            project: project.to_owned(),
            ..new_reserve(1, "")
        };
        new.clone().reserve(request).await.unwrap();
    }
    let page = |from_day: &str, page_token: String| ListUsageRequest {
        org: "acme".to_owned(),
        from_day: from_day.to_owned(),
        page_size: 1,
        page_token,
        ..ListUsageRequest::default()
    };
    let [old, new] = rollout.clients();
    for [mut one, mut other] in [[old.clone(), new.clone()], [new, old]] {
        let first = one.list_usage(page("", String::new())).await.unwrap();
        let token = first.into_inner().next_page_token;
        let second = other.list_usage(page("", token)).await.unwrap();
        let second = second.into_inner();
        assert_eq!(second.rows[0].project, "b");
        let token = second.next_page_token;
        let third = one.list_usage(page("", token)).await.unwrap();
        assert_eq!(third.get_ref().rows[0].project, "c");
    }
    let [mut old, mut new] = rollout.clients();
    let range = new.list_usage(page("2026-11-20", String::new())).await;
    let token = range.unwrap().into_inner().next_page_token;
    let refused = old.list_usage(page("2026-11-20", token)).await;
    assert_eq!(refused.unwrap_err().code(), tonic::Code::InvalidArgument);
    for words in [&["--from", "2026-11-20"][..], &["--csv"]] {
        let mut client = program();
        client.args(["usage", "acme", "--addr", &rollout.old.addr]);
        let ran = run(client.args(words));
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
        let expected = "tollgate: the service is of an earlier release";
        assert!(ran.stderr.starts_with(expected), "{ran:?}");
    }
}

#[tokio::test]
async fn what_the_provider_counted_is_nothing_to_the_previous_release() {
    let clock = Clock::at(NOON);
    let event = UsageEvent::new("2026-11-22T08:00:00Z", "x", "gpt-4o", "default", 70);
    let api = UsageApiServer::start(NOON, vec![event]).await;
    let key = TextFile::new(ADMIN_KEY);
    let (base, key) = (&api.base, key.path());
    let rollout = Rollout::start_at(
        clock,
        &format!(
            "[reconcile]\nevery = \"1s\"\nsettle_lag = \"5s\"\napi_base = \"{base}\"\n\
             [reconcile.orgs.acme]\nadmin_key_file = \"{key}\"\n"
        ),
    );
    let [old, new] = rollout.clients();
    reserve(&old, 100, "r").await;
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while usage(&new, TODAY).await.len() < 2 {
        assert!(Instant::now() < deadline, "the provider's row");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for _ in 0..2 {
        assert_eq!(sum(&usage(&old, TODAY).await), (100, 0, 1, 0));
        assert_eq!(usage(&old, TODAY).await.len(), 1);
        assert_eq!(sum(&usage(&new, TODAY).await), (100, 0, 1, 0));
        assert!(reserve(&old, 100, "r").await.replayed);
        assert_eq!(quota(&old).await.pools, quota(&new).await.pools);
    }
}
