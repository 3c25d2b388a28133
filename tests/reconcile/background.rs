//! docs/CONTRACT.md, "Background reconcile": the task over a ledger, against a stand-in for the usage API.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use chrono::TimeDelta;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tollgate::{
    ledger::{Ledger, LedgerConfig},
    reconcile::{Raise, ReconcileSettings, ReconciledOrg, Reconciler, api::UsageApiLimits},
    telemetry::metrics::{Metrics, MetricsSnapshot, PoolGauges},
};

use super::{FREE, day};
use crate::support::{
    held_store::HeldStore,
    usage_api::{ADMIN_KEY, ApiFault, PROJECT_KEY, UsageApiServer, UsageEvent},
    world::{
        NOON, ReserveExt as _, World, new_reserve, org_id, policy, policy_text, small_policy,
        verdict_text,
    },
};

/// Longer than anything takes, also on a busy machine.
const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

pub(super) const EVERY: Duration = Duration::from_millis(100);

/// The task, what it compares, and its key file.
pub(super) struct Background {
    pub(super) world: World,
    pub(super) api: UsageApiServer,
    metrics: Metrics,
    key_file: PathBuf,
    pub(super) settings: ReconcileSettings,
    limits: UsageApiLimits,
    pub(super) stopping: CancellationToken,
    pub(super) task: Option<AbortOnDropHandle<()>>,
    _dir: tempfile::TempDir,
}

/// What `acme` used of gpt-4o this morning; the provider shows it.
pub(super) fn used(tier: &'static str, tokens: u64) -> UsageEvent {
    UsageEvent::new("2026-11-22T08:00:00Z", "proj_p", "gpt-4o", tier, tokens)
}

impl Background {
    /// Over this ledger, in which project `p` of `acme` is mapped. The task does not run yet.
    pub(super) async fn over(world: World, events: Vec<UsageEvent>) -> Self {
        let api = UsageApiServer::start(NOON, events).await;
        let dir = tempfile::tempdir().unwrap();
        let key_file = dir.path().join("key");
        fs::write(&key_file, format!("{ADMIN_KEY}\n")).unwrap();
        let org = ReconciledOrg {
            admin_key_file: key_file.clone(),
            projects: BTreeMap::from([("proj_p".to_owned(), "p".to_owned())]),
        };
        // So that a busy machine loses no lease.
        let every = match world.redis {
            Some(_) => 5 * EVERY,
            None => EVERY,
        };
        let settings = ReconcileSettings {
            every,
            settle_lag: Duration::from_millis(400),
            close_after: TimeDelta::hours(36),
            raise: Raise::Off,
            free_tiers: vec![FREE.to_owned()],
            api_base: api.base.parse().unwrap(),
            orgs: BTreeMap::from([(org_id("acme"), org)]),
        };
        Self {
            world,
            api,
            metrics: Metrics::default(),
            key_file,
            settings,
            limits: UsageApiLimits::default(),
            stopping: CancellationToken::new(),
            task: None,
            _dir: dir,
        }
    }

    pub(super) async fn memory(events: Vec<UsageEvent>) -> Self {
        Self::over(World::memory(policy("keep_open")), events).await
    }

    pub(super) fn start(&mut self) {
        let (settings, ledger) = (self.settings.clone(), self.world.ledger.clone());
        let task = Reconciler::new(settings, ledger, self.metrics.clone(), self.limits);
        let stopping = self.stopping.clone();
        self.task = Some(AbortOnDropHandle::new(tokio::spawn(task.run(stopping))));
    }

    pub(super) fn raising(mut self) -> Self {
        self.settings.raise = Raise::External;
        self
    }

    fn write_key(&self, key: &str) {
        fs::write(&self.key_file, key).unwrap();
    }

    fn text(&self) -> String {
        let snapshot = MetricsSnapshot {
            ready: true,
            store_up: true,
            store_losses: 0,
            clock_steps: 0,
            store_calls: 0,
            waiting: 0,
        };
        self.metrics.text(snapshot, PoolGauges::default())
    }

    /// The value of a series.
    fn gauge(&self, series: &str) -> Option<f64> {
        let text = self.text();
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        value.map(|value| value.parse().unwrap())
    }

    fn drift(&self, kind: &str) -> Option<f64> {
        self.gauge(&format!("tollgate_drift_tokens{{kind=\"{kind}\"}}"))
    }

    fn is(&self, state: &str) -> bool {
        self.gauge(&format!("tollgate_reconcile_orgs{{state=\"{state}\"}}")) == Some(1.0)
    }

    pub(super) async fn wait_for(&self, state: &str) {
        wait(state, async || self.is(state)).await;
    }

    /// Waits for so many polls more.
    pub(super) async fn polls(&self, number: usize) {
        let before = self.api.queries().len();
        wait("polls", async || {
            self.api.queries().len() >= before + number
        })
        .await;
    }

    /// The external usage of a pool: what counts.
    pub(super) async fn external_of(&self, pool: &str) -> u64 {
        let quota = self.world.quota("acme").await;
        let mut pools = quota.pools.iter();
        let found = pools.find(|(balance, _)| balance.pool.as_str() == pool);
        found.unwrap().0.external.get()
    }

    /// That of `large`.
    async fn external(&self) -> u64 {
        self.external_of("large").await
    }

    pub(super) async fn wait_for_external(&self, tokens: u64) {
        wait(&format!("{tokens} external"), async || {
            self.external().await == tokens
        })
        .await;
    }

    async fn reserve(&self, tokens: u64, id: &str) -> String {
        let reserved = self.world.reserve(new_reserve(tokens).id(id)).await;
        verdict_text(reserved.verdict)
    }

    /// Reserves and settles.
    pub(super) async fn use_tokens(&self, tokens: u64, id: &str) {
        assert_eq!(self.reserve(tokens, id).await, "FREE");
        self.world.settle(id, tokens).await;
    }
}

/// Waits until it is true.
pub(super) async fn wait(what: &str, mut is_true: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    while !is_true().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn each_poll_is_one_query_of_today_the_open_days_and_the_one_that_was_closed_last() {
    for world in [World::memory, World::redis] {
        let world = world(policy("keep_open"));
        let mut it = Background::over(world, vec![used(FREE, 200)]).await;
        it.use_tokens(200, "r").await;
        assert_eq!(
            it.drift("external"),
            None,
            "no figures before it has the lease"
        );
        it.start();
        it.wait_for("agrees").await;
        it.polls(3).await;
        for query in it.api.queries() {
            // And the day before, from which requests may have ended after midnight.
            let start = format!("start_time={}&", day("2026-11-19").start().timestamp());
            let parts = [&*start, "bucket_width=1d", "group_by=service_tier"];
            assert!(parts.iter().all(|part| query.contains(part)), "{query}");
            assert!(
                !query.contains("end_time") && !query.contains("page="),
                "{query}"
            );
        }
        assert_eq!(it.drift("external"), Some(0.0));
        let age = it.gauge("tollgate_reconcile_age_seconds").unwrap();
        assert!((0.0..WAIT_TIMEOUT.as_secs_f64()).contains(&age), "{age}");
        assert_eq!(it.external().await, 0);
    }
}

#[tokio::test]
async fn each_kind_of_drift_is_a_gauge_and_names_no_organization() {
    let mut it = Background::memory(vec![used(FREE, 200), used("default", 50)]).await;
    it.use_tokens(150, "r").await;
    it.start();
    it.wait_for("drifts").await;
    assert_eq!(it.drift("external"), Some(100.0));
    assert_eq!(it.drift("false_free"), Some(0.0));
    let text = it.text();
    assert!(!text.contains("acme") && !text.contains("proj_p"), "{text}");
    // It only compares.
    assert_eq!(it.external().await, 0);
    drop(it.task.take());
    wait("no figures", async || it.drift("external").is_none()).await;
    assert!(it.text().contains("# TYPE tollgate_drift_tokens gauge"));
}

#[tokio::test]
async fn no_drift_is_shown_before_the_first_comparison_and_the_last_one_stays() {
    let mut it = Background::memory(vec![used(FREE, 50)]).await;
    fs::remove_file(&it.key_file).unwrap();
    it.start();
    it.wait_for("key_unreadable").await;
    // A holder of the lease that has compared nothing yet must not show that nothing differs.
    assert_eq!(it.drift("external"), None);
    it.write_key(ADMIN_KEY);
    it.wait_for("drifts").await;
    assert_eq!(it.drift("external"), Some(50.0));
    assert_eq!(it.drift("false_free"), Some(0.0));
    fs::remove_file(&it.key_file).unwrap();
    it.wait_for("key_unreadable").await;
    assert_eq!(it.drift("external"), Some(50.0));
}

#[tokio::test]
async fn a_report_without_a_free_tier_is_unknown() {
    let mut it = Background::memory(vec![used("default", 200)]).await;
    it.use_tokens(200, "r").await;
    it.start();
    it.wait_for("unknown").await;
}

#[tokio::test]
async fn the_key_file_is_read_again_at_each_poll() {
    let mut it = Background::memory(Vec::new()).await;
    fs::remove_file(&it.key_file).unwrap();
    it.start();
    it.wait_for("key_unreadable").await;
    assert!(it.api.queries().is_empty());
    for unusable in ["", "two words", "two\nlines", "\u{fffd}"] {
        it.write_key(unusable);
        tokio::time::sleep(2 * EVERY).await;
        assert!(
            it.is("key_unreadable") && it.api.queries().is_empty(),
            "{unusable:?}"
        );
    }
    it.write_key(ADMIN_KEY);
    it.wait_for("agrees").await;
    it.api.set_key("sk-admin-the-next");
    it.wait_for("key_refused").await;
    it.write_key("sk-admin-the-next");
    it.wait_for("agrees").await;
}

#[tokio::test]
async fn a_key_that_is_refused_is_not_sent_again_until_its_file_changes() {
    for key in ["sk-admin-unknown", PROJECT_KEY] {
        let mut it = Background::memory(Vec::new()).await;
        it.write_key(key);
        it.start();
        it.wait_for("key_refused").await;
        tokio::time::sleep(6 * EVERY).await;
        assert_eq!(it.api.queries().len(), 1, "{key}");
        it.write_key(ADMIN_KEY);
        it.wait_for("agrees").await;
    }
}

#[tokio::test]
async fn a_failure_is_followed_by_longer_pauses_and_by_the_one_that_the_provider_asks_for() {
    let mut it = Background::memory(Vec::new()).await;
    it.api.fail([
        ApiFault::Status(500),
        ApiFault::Status(429),
        ApiFault::CutBody,
    ]);
    let began = Instant::now();
    it.start();
    it.wait_for("agrees").await;
    // 1, 2 and 4 times `every`.
    assert!(began.elapsed() >= 7 * EVERY, "{:?}", began.elapsed());
    it.api.fail([ApiFault::RetryAfter(429, "2")]);
    it.wait_for("failing").await;
    let (asked_at, queries) = (Instant::now(), it.api.queries().len());
    it.wait_for("agrees").await;
    let pause = asked_at.elapsed();
    assert!(pause >= Duration::from_millis(1_800), "{pause:?}");
    assert!(it.api.queries().len() > queries);
}

#[tokio::test]
async fn a_provider_that_hangs_is_given_up() {
    let mut it = Background::memory(Vec::new()).await;
    it.limits.timeout = Duration::from_millis(300);
    it.api.fail([ApiFault::Hang]);
    it.start();
    it.wait_for("failing").await;
    it.wait_for("agrees").await;
}

#[tokio::test]
async fn an_organization_that_the_policy_does_not_have_is_not_asked_for() {
    let mut it = Background::memory(Vec::new()).await;
    let org = it.settings.orgs.remove(&org_id("acme")).unwrap();
    it.settings.orgs.insert(org_id("nobody"), org);
    it.start();
    it.wait_for("failing").await;
    assert!(it.api.queries().is_empty());
}

#[tokio::test]
async fn what_the_provider_has_and_the_ledger_never_had_is_raised_and_counts() {
    for world in [World::memory, World::redis] {
        let world = world(policy("keep_open"));
        let mut it = Background::over(world, vec![used(FREE, 200)])
            .await
            .raising();
        it.use_tokens(200, "r").await;
        it.start();
        it.polls(2).await;
        assert_eq!(it.external().await, 0);
        // Also what was billed.
        it.api.add(used("default", 300));
        it.wait_for_external(300).await;
        assert_eq!(it.reserve(501, "too-much").await, "AllowanceExceeded");
        assert_eq!(it.reserve(500, "fits").await, "FREE");
        // The ledger has more now, and the provider's figure is still above what was used before.
        it.polls(3).await;
        assert_eq!(it.external().await, 300, "what is proven is not lowered");
        it.world.release("fits").await;
        it.polls(3).await;
        assert_eq!(it.external().await, 300);
    }
}

#[tokio::test]
async fn what_is_only_likely_is_raised_after_the_lag_and_falls_again() {
    let mut it = Background::memory(Vec::new()).await.raising();
    it.settings.settle_lag = Duration::from_secs(2);
    it.use_tokens(400, "before").await;
    it.api.add(used(FREE, 400));
    it.start();
    it.polls(3).await;
    assert_eq!(
        it.external().await,
        0,
        "a new holder does not know what was used before"
    );
    it.wait_for("agrees").await;
    tokio::time::sleep(it.settings.settle_lag + 5 * EVERY).await;
    assert_eq!(it.external().await, 0);
    // The provider shows it at once: it may be external, as far as is known.
    it.use_tokens(100, "now").await;
    it.api.add(used(FREE, 100));
    it.wait_for_external(100).await;
    it.wait_for_external(0).await;
}

#[tokio::test]
async fn a_replica_that_stops_leaves_what_is_proven() {
    let mut it = Background::memory(vec![used(FREE, 300)]).await.raising();
    it.settings.settle_lag = Duration::from_secs(3);
    it.start();
    it.wait_for_external(300).await;
    tokio::time::sleep(it.settings.settle_lag + 5 * EVERY).await;
    it.use_tokens(100, "r").await;
    it.api.add(used(FREE, 100));
    it.wait_for_external(400).await;
    it.api.fail([ApiFault::Hang]);
    it.polls(1).await;
    let began = Instant::now();
    it.stopping.cancel();
    it.task.take().unwrap().await.unwrap();
    assert_eq!(it.external().await, 300);
    assert!(
        began.elapsed() < Duration::from_secs(2),
        "it does not wait for the provider"
    );
    assert_eq!(it.drift("external"), None);
}

#[tokio::test]
async fn a_new_holder_takes_the_figure_in_the_store_for_proven() {
    let mut it = Background::memory(Vec::new()).await.raising();
    it.api.add(used(FREE, 300));
    it.start();
    it.wait_for_external(300).await;
    it.use_tokens(200, "r").await;
    it.start();
    it.polls(6).await;
    assert_eq!(it.external().await, 300);
}

#[tokio::test]
async fn an_outage_of_the_provider_changes_no_verdict() {
    let mut it = Background::memory(vec![used(FREE, 300)]).await.raising();
    it.start();
    it.wait_for_external(300).await;
    it.api
        .fail(std::iter::repeat_n(ApiFault::Status(503), 1_000));
    it.wait_for("failing").await;
    for round in 0..3 {
        assert_eq!(
            it.reserve(701, &format!("a{round}")).await,
            "AllowanceExceeded"
        );
        assert_eq!(it.reserve(100, &format!("b{round}")).await, "FREE");
        it.world.release(&format!("b{round}")).await;
        tokio::time::sleep(EVERY).await;
    }
    assert!(it.is("failing"));
    assert_eq!(it.external().await, 300);
}

#[tokio::test]
async fn what_was_used_during_an_outage_of_the_provider_is_not_external_after_it() {
    let mut it = Background::memory(Vec::new()).await.raising();
    it.start();
    it.wait_for("agrees").await;
    it.api.fail(std::iter::repeat_n(ApiFault::Status(503), 5));
    it.wait_for("failing").await;
    it.use_tokens(400, "r").await;
    it.api.add(used(FREE, 400));
    it.wait_for("agrees").await;
    for _ in 0..5 {
        it.polls(1).await;
        assert_eq!(it.external().await, 0);
    }
}

#[tokio::test]
async fn what_is_used_while_a_key_is_refused_is_known_when_there_is_another_one() {
    let mut it = Background::memory(Vec::new()).await.raising();
    it.settings.settle_lag = Duration::from_secs(1);
    it.write_key(PROJECT_KEY);
    it.start();
    it.wait_for("key_refused").await;
    tokio::time::sleep(3 * it.settings.settle_lag).await;
    it.use_tokens(100, "r").await;
    it.api.add(used(FREE, 100));
    it.write_key(ADMIN_KEY);
    // As far as is known, it is not that of the ledger.
    it.wait_for_external(100).await;
    it.wait_for_external(0).await;
}

#[tokio::test]
async fn what_a_project_used_before_it_opted_out_hides_no_external_usage() {
    let mut it = Background::memory(vec![used(FREE, 600)]).await.raising();
    it.use_tokens(600, "r").await;
    it.start();
    it.polls(2).await;
    let text =
        small_policy("keep_open").replace("data_sharing = \"all\"", "data_sharing = \"off\"");
    it.world.ledger.set_policy(policy_text(&text).into());
    it.api.add(UsageEvent::new(
        "2026-11-22T09:00:00Z",
        "proj_other",
        "gpt-4o",
        FREE,
        50,
    ));
    it.wait_for_external(50).await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_stops_before_its_lease_ends_however_long_a_renewal_takes() {
    let mut it = Background::memory(Vec::new()).await;
    it.settings.every = Duration::from_secs(10);
    let (store, _calls) = HeldStore::over(it.world.store.clone(), 1);
    it.world.ledger = Ledger::new(LedgerConfig::new(policy("keep_open").into(), store.clone()));
    fs::remove_file(&it.key_file).unwrap();
    // It is taken, renewed by a call from 10 s to 19.9 s, and not renewed any more: it ends after 40 s.
    let hangs = std::iter::repeat_n(1_000_000, 10);
    let delays = [0, 9_900].into_iter().chain(hangs);
    *store.lease_delays.lock().unwrap() = delays.map(Duration::from_millis).collect();
    it.start();
    tokio::time::sleep(Duration::from_secs(34)).await;
    assert!(it.is("key_unreadable"));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!it.is("key_unreadable"));
}

#[tokio::test]
async fn nothing_is_raised_in_the_last_minute_of_the_day() {
    let mut it = Background::memory(vec![used(FREE, 300)]).await.raising();
    it.world.clock.set("2026-11-22T23:59:20Z");
    it.api.set_now("2026-11-22T23:59:20Z");
    it.start();
    it.polls(3).await;
    assert_eq!(it.external().await, 0);
}

#[tokio::test]
async fn a_replica_that_loses_the_lease_stops_and_one_that_has_it_again_goes_on() {
    let mut it = Background::over(World::redis(policy("keep_open")), Vec::new()).await;
    let holds = |it: &Background| it.gauge("tollgate_reconcile_holder");
    assert_eq!(holds(&it), None, "it has nothing to compare");
    it.start();
    it.wait_for("agrees").await;
    assert_eq!(holds(&it), Some(1.0));
    let redis = it.world.redis.as_ref().unwrap();
    redis.run(&["SET", "tollgate:reconcile", "1"]);
    wait("no figures", async || it.drift("external").is_none()).await;
    assert_eq!(holds(&it), Some(0.0));
    let queries = it.api.queries().len();
    tokio::time::sleep(3 * it.settings.every).await;
    assert_eq!(it.api.queries().len(), queries);
    redis.run(&["DEL", "tollgate:reconcile"]);
    it.wait_for("agrees").await;
}

#[tokio::test]
async fn an_organization_that_is_not_answered_for_holds_up_no_other() {
    let mut it = Background::memory(Vec::new()).await;
    let other = ReconciledOrg {
        admin_key_file: "/nowhere".into(),
        ..it.settings.orgs[&org_id("acme")].clone()
    };
    it.settings.orgs.insert(org_id("other"), other);
    it.start();
    it.wait_for("agrees").await;
    it.wait_for("key_unreadable").await;
    it.polls(3).await;
}

#[tokio::test]
async fn a_failed_query_is_not_repeated_before_the_next_poll() {
    let mut it = Background::memory(Vec::new()).await;
    it.settings.every = Duration::from_secs(3);
    it.api.fail([ApiFault::Status(503)]);
    it.start();
    it.wait_for("failing").await;
    assert_eq!(it.api.queries().len(), 1);
}

#[tokio::test]
async fn the_age_is_that_of_the_oldest_of_the_last_comparisons() {
    let mut it = Background::memory(Vec::new()).await;
    it.start();
    let age = || it.gauge("tollgate_reconcile_age_seconds");
    let until = Instant::now() + Duration::from_secs(2);
    wait("2 s", async || Instant::now() > until).await;
    wait("a new comparison", async || {
        age().is_some_and(|it| it < 1.0)
    })
    .await;
    it.api
        .fail(std::iter::repeat_n(ApiFault::Status(500), 1_000));
    wait("an old comparison", async || {
        age().is_some_and(|it| it > 2.0)
    })
    .await;
}
