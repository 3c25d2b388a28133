//! Each condition broken in turn: some FREE is billed then, and `reconcile` shows why.

use std::collections::BTreeSet;

use tollgate::{
    domain::PoolName,
    reconcile::{
        Comparison,
        DriftKind::{self, *},
        Scope, Tolerance, UsageReport, compare,
        comparison::CLOSED_AFTER,
    },
};

use super::{
    bill::{DAY_SECONDS, Programme},
    history::{self, History, ledger_rows, moment},
    traffic::{
        Behavior::{self, *},
        DAYS, POOLS, SHARING, Traffic, UNLISTED, programme,
    },
};
use crate::support::{
    usage_api::{ReportedUsage, UsageEvent},
    world::{World, org_id},
};

pub const FREE_TIER: &str = "incentivized-tier";
const MAX_SEQUENCES: u64 = 2_000;

/// What is broken: its name, what the traffic does, what differs at the provider, and the kinds that show.
type Breach = (
    &'static str,
    &'static [Behavior],
    fn(&mut Programme),
    &'static [DriftKind],
);

const SAME: fn(&mut Programme) = |_| {};

/// By the conditions. Where one is broken, some FREE is billed.
const BREACHES: [Breach; 14] = [
    (
        "1: traffic goes past",
        &[GoesPast],
        SAME,
        &[External, FalseFree],
    ),
    (
        "2: BILLED goes into a project that shares",
        &[IsBilledInside],
        SAME,
        &[BilledInSharingProject, MissedFree, FalseFree],
    ),
    (
        "3: tokens are no upper bound",
        &[IsUnderestimated],
        SAME,
        &[FalseFree],
    ),
    (
        "4: FREE without an id ends after midnight",
        &[LacksId, CrossesMidnight],
        SAME,
        &[Late, FalseFree],
    ),
    (
        "4: FREE ends past the guard",
        &[EndsPastTheGuard, CrossesMidnight],
        SAME,
        &[Late, FalseFree],
    ),
    (
        "5: a listed model is not covered",
        &[],
        |it| it.pools[0].2.retain(|model| *model != "o1"),
        &[ListedNeverFree, FalseFree],
    ),
    (
        "5: a model is covered that is not listed",
        &[IsUnlistedInside],
        |it| it.pools[0].2.push(UNLISTED),
        &[UnlistedButFree, FalseFree],
    ),
    (
        "5: a model is in another pool",
        &[],
        |it| {
            it.pools[1].2.retain(|model| *model != "gpt-4o-mini");
            it.pools[0].2.push("gpt-4o-mini");
        },
        &[PoolDiffers, FalseFree],
    ),
    (
        "5: the tier is lower",
        &[],
        |it| it.pools[0].1 /= 2,
        &[FalseFree],
    ),
    (
        "5: a project does not share",
        &[],
        |it| it.projects.retain(|project| *project != SHARING[1]),
        &[NotEnrolled, FalseFree],
    ),
    (
        "5: function calling is not covered",
        &[],
        |it| it.workloads.retain(|it| *it != "function_calling"),
        &[FalseFree],
    ),
    (
        "5: batch is not covered",
        &[],
        |it| it.workloads.retain(|it| *it != "batch"),
        &[FalseFree],
    ),
    (
        "6: what ran is released",
        &[IsReleasedThoughRun],
        SAME,
        &[External, FalseFree],
    ),
    (
        "5: the tier is higher, where BILLED goes into a project that shares",
        &[IsBilledInside],
        |it| it.pools.iter_mut().for_each(|pool| pool.1 *= 3),
        &[OverAllowance, MissedFree],
    ),
];

/// What breaks no condition, but shows in the comparison.
const HARMLESS: [Breach; 2] = [
    ("what ran is not settled", &[IsNotEnded], SAME, &[Lost]),
    (
        "FREE ends after midnight, within the guard",
        &[CrossesMidnight],
        SAME,
        &[Late],
    ),
];

/// The same events as the bill's, as the provider reports them.
pub fn usage_events(programme: &Programme, history: &History) -> Vec<UsageEvent> {
    let bill = programme.bill(&history.completions);
    let events = history.completions.iter().zip(bill).map(|(it, is_free)| {
        let tier = if is_free { FREE_TIER } else { "default" };
        let at = moment(programme.counted_at(it));
        let event = UsageEvent::at(at, it.project, it.model, tier, it.tokens);
        UsageEvent {
            is_batch: it.workload == "batch",
            ..event
        }
    });
    events.collect()
}

/// Compares the ledger with the provider's report of all days.
async fn compare_all(world: &World, traffic: &Traffic, events: Vec<UsageEvent>) -> Comparison {
    let rows = ledger_rows(world).await;
    let now = world.clock.now();
    let (start, end) = (moment(0), moment((DAYS + 1) * DAY_SECONDS));
    let query = format!(
        "start_time={}&end_time={}&group_by=project_id&group_by=model&group_by=service_tier&group_by=batch",
        start.timestamp(),
        end.timestamp()
    );
    let page = ReportedUsage { now, events }.page(&query).unwrap();
    let report = UsageReport::from_bytes(page.to_string().as_bytes()).unwrap();
    let allowances = POOLS.map(|(pool, allowance, _)| (PoolName::parse(pool).unwrap(), allowance));
    let scope = Scope {
        policy: &traffic.policy(),
        org: &org_id("acme"),
        enrolled: true,
        allowances: allowances.into_iter().collect(),
        projects: [].into(),
        free_tiers: vec![FREE_TIER.to_owned()],
        tolerance: Tolerance::Tokens(0),
        close_after: CLOSED_AFTER,
        settled: None,
        context: BTreeSet::new(),
        now,
    };
    compare(&scope, history::days().collect(), &rows, &report)
}

/// Runs sequences until all the kinds have shown. Where `FalseFree` is among them, only sequences with a FREE request
/// that is billed are compared.
async fn expect_drift(world: &mut World, (name, behaviors, change, kinds): &Breach) {
    let mut programme = programme();
    change(&mut programme);
    let mut missing = kinds.to_vec();
    for seed in 0..MAX_SEQUENCES {
        let traffic = Traffic::random(seed, behaviors);
        world.empty();
        let history = History::of(world, &traffic).await;
        let is_billed = !history.false_free(&programme).is_empty();
        let may_be_billed = kinds.contains(&FalseFree);
        assert!(may_be_billed || !is_billed, "{name}: seed {seed}");
        if is_billed || !may_be_billed {
            let events = usage_events(&programme, &history);
            let comparison = compare_all(world, &traffic, events).await;
            missing.retain(|kind| comparison.drifts.iter().all(|it| it.kind != *kind));
        }
        if missing.is_empty() {
            return;
        }
    }
    panic!("{name}: never {missing:?}");
}

#[tokio::test]
async fn each_condition_that_is_broken_bills_some_free_and_shows_as_its_kind_of_drift() {
    let breaches = BREACHES.iter().chain(&HARMLESS);
    let kinds: BTreeSet<DriftKind> = breaches.clone().flat_map(|it| it.3).copied().collect();
    assert_eq!(kinds.len(), <DriftKind as enum_map::Enum>::LENGTH);
    let mut world = World::memory(Traffic::random(0, &[]).policy());
    for breach in breaches {
        expect_drift(&mut world, breach).await;
    }
}

#[tokio::test]
async fn where_no_condition_is_broken_and_all_is_settled_both_sides_agree() {
    let mut world = World::memory(Traffic::random(0, &[]).policy());
    for seed in 0..100 {
        let traffic = Traffic::random(seed, &[]);
        world.empty();
        let history = History::of(&world, &traffic).await;
        let events = usage_events(&programme(), &history);
        let drifts = compare_all(&world, &traffic, events).await.drifts;
        assert!(drifts.is_empty(), "seed {seed}: {drifts:#?}");
    }
}
