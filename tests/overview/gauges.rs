//! The gauges of pools: how many organizations have reached a threshold, and the figures of single ones.

use std::time::Duration;

use tokio::time::sleep;
use tollgate::{
    domain::{ExternalSource, PoolName, Tokens},
    ledger::{GaugedOrganizations, SetExternalUsage},
    telemetry::metrics::{PoolGauges, PoolTokenKind, PoolTokens},
};

use super::{Overview, numbered, org_section, policy_of};
use crate::support::world::{org_id, policy_text};

impl Overview {
    async fn set_external(&self, org: &str, tokens: u64) {
        let external = SetExternalUsage {
            org: org_id(org),
            pool: PoolName::parse("large").unwrap(),
            source: ExternalSource::Manual,
            tokens: Tokens::new(tokens).unwrap(),
            note: String::new(),
            caller: None,
        };
        self.ledger.set_external_usage(external).await.unwrap();
    }

    fn above(&self) -> Vec<(String, u8, u64)> {
        let PoolGauges { above, tokens } = self.ledger.pool_gauges(&GaugedOrganizations::Off);
        assert_eq!(tokens, []);
        let above = above.into_iter();
        let above = above.map(|it| {
            (
                it.pool.to_string(),
                it.threshold.per_cent(),
                it.organizations,
            )
        });
        above.collect()
    }

    fn tokens(&self, organizations: &GaugedOrganizations) -> Vec<PoolTokens> {
        self.ledger.pool_gauges(organizations).tokens
    }
}

/// Every series, by these numbers of organizations.
fn series(large: [u64; 3], mini: [u64; 3]) -> Vec<(String, u8, u64)> {
    let of = |pool: &str, counts: [u64; 3]| {
        let series = [80, 95, 100].into_iter().zip(counts);
        let series = series.map(|(threshold, count)| (pool.to_owned(), threshold, count));
        series.collect::<Vec<_>>()
    };
    [of("large", large), of("mini", mini)].concat()
}

#[tokio::test(start_paused = true)]
async fn used_and_external_tokens_reach_thresholds_of_the_allowance() {
    let orgs = ["a", "b", "c", "d", "e"].map(str::to_owned);
    let policy = policy_of(orgs) + &org_section("margin", "margin = \"50%\"");
    let overview = Overview::start(&policy).await;
    assert_eq!(overview.above(), series([0; 3], [0; 3]), "from the start");
    overview.reserve("a", "gpt-4o", 799).await;
    overview.reserve("b", "gpt-4o", 800).await;
    overview.reserve("c", "gpt-4o", 900).await;
    overview.set_external("c", 50).await;
    overview.reserve("d", "gpt-4o", 1_000).await;
    overview.reserve("d", "gpt-4o-mini", 9_500).await;
    overview.set_external("e", 5_000).await;
    overview.reserve("margin", "gpt-4o", 500).await;
    sleep(Duration::from_secs(6)).await;
    assert_eq!(overview.above(), series([4, 3, 2], [1, 1, 0]));
    // What is not enrolled has no allowance.
    let off = policy.replace(
        "[orgs.\"d\"]\ntier = 1\ndata_sharing = \"all\"",
        "[orgs.d]\ntier = 1\ndata_sharing = \"off\"",
    );
    overview.ledger.set_policy(policy_text(&off).into());
    assert_eq!(overview.above(), series([3, 2, 1], [0; 3]));
    // What has left the policy is not counted.
    let left = policy_of(["a", "b"].map(str::to_owned));
    overview.ledger.set_policy(policy_text(&left).into());
    assert_eq!(overview.above(), series([1, 0, 0], [0; 3]));
}

#[tokio::test(start_paused = true)]
async fn thresholds_begin_anew_at_midnight() {
    let overview = Overview::start(&policy_of(["a".to_owned()])).await;
    overview.reserve("a", "gpt-4o", 1_000).await;
    sleep(Duration::from_secs(6)).await;
    assert_eq!(overview.above(), series([1, 1, 1], [0; 3]));
    overview.clock.set("2026-11-23T00:00:01Z");
    overview.ledger.probe().await.unwrap();
    assert_eq!(overview.above(), series([0; 3], [0; 3]));
}

#[tokio::test(start_paused = true)]
async fn a_named_organization_has_every_figure_of_every_pool() {
    let overview = Overview::start(&policy_of(["busy", "idle", "other"].map(str::to_owned))).await;
    overview.reserve("busy", "gpt-4o", 600).await;
    overview.reserve("busy", "gpt-4o", 600).await;
    overview.set_external("busy", 70).await;
    sleep(Duration::from_secs(6)).await;
    let named = ["idle", "stranger", "busy"].map(org_id).to_vec();
    let named = GaugedOrganizations::Named(named);
    let tokens = overview.tokens(&named);
    let of = |figure| {
        let figures = tokens.iter();
        figures
            .map(move |it| it.figures[figure].get())
            .collect::<Vec<_>>()
    };
    let names = tokens.iter().map(|it| (it.org.as_str(), it.pool.as_str()));
    let names: Vec<_> = names.collect();
    assert_eq!(
        names,
        [
            ("idle", "large"),
            ("idle", "mini"),
            ("busy", "large"),
            ("busy", "mini")
        ]
    );
    assert_eq!(of(PoolTokenKind::Allowance), [1_000, 10_000, 1_000, 10_000]);
    assert_eq!(of(PoolTokenKind::Used), [0, 0, 600, 0]);
    assert_eq!(of(PoolTokenKind::External), [0, 0, 70, 0]);
    assert_eq!(of(PoolTokenKind::Billed), [0, 0, 600, 0]);
    // They had no request id, so nothing is held.
    assert_eq!(of(PoolTokenKind::Held), [0; 4]);
    let policy = overview.ledger.policy();
    let warning =
        "metrics.organizations names organizations that the policy does not have: stranger";
    assert_eq!(named.warning(&policy).as_deref(), Some(warning));
}

#[tokio::test(start_paused = true)]
async fn at_most_1000_organizations_have_gauges_the_first_ones_by_name() {
    for (count, gauged) in [(999, 999), (1_000, 1_000), (1_003, 1_000)] {
        let overview = Overview::start(&policy_of(numbered(count))).await;
        let all = GaugedOrganizations::All;
        let tokens = overview.tokens(&all);
        assert_eq!(tokens.len(), 2 * gauged);
        assert_eq!(tokens[0].org.as_str(), "org-0000");
        assert_eq!(
            tokens[2 * gauged - 1].org.to_string(),
            format!("org-{:04}", gauged - 1)
        );
        let warning = all.warning(&overview.ledger.policy());
        assert_eq!(warning.is_some(), count > 1_000, "{warning:?}");
    }
}
