//! The overview: when organizations are read, what is known of them, and how they are listed.

mod gauges;
mod listing;
mod notices;
mod reads;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use tokio::{task::JoinHandle, time::Instant};
use tollgate::{
    domain::{DayComparison, ExternalChange, ExternalChanges, OrgId, PoolName, ShareId, UtcDay},
    ledger::{
        Ledger, LedgerConfig, OrganizationFigures, OrganizationList, OrganizationOrder,
        OrganizationPage,
    },
    store::{
        Batch, CallLimits, DayCounters, Decision, ProviderChanges, ProviderRows, RowKey, Store,
        StoreError, Timestamped, UsageLimits, UsageRows, memory::MemoryStore,
    },
};

use crate::support::{
    clock::Clock,
    world::{NOON, new_reserve, org_id, policy_text},
};

/// A store that remembers when organizations were read.
struct ReadLog {
    inner: MemoryStore,
    reads: Mutex<HashMap<OrgId, Vec<Instant>>>,
    /// The organizations that can't be read.
    failing: Mutex<HashSet<OrgId>>,
    is_down: Mutex<bool>,
    /// The number of probes.
    probes: AtomicUsize,
}

fn silent() -> StoreError {
    let reason = "the test wants it".to_owned();
    StoreError::OutcomeUnknown { reason }
}

impl ReadLog {
    /// Remembers a read, and fails if it must.
    fn check(&self, org: &OrgId) -> Result<(), StoreError> {
        let mut reads = self.reads.lock().unwrap();
        reads.entry(org.clone()).or_default().push(Instant::now());
        let fails = *self.is_down.lock().unwrap() || self.failing.lock().unwrap().contains(org);
        match fails {
            true => Err(silent()),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Store for ReadLog {
    async fn decide(&self, batches: &[Batch]) -> Vec<Result<Timestamped<Decision>, StoreError>> {
        self.inner.decide(batches).await
    }

    fn call_limits(&self) -> CallLimits {
        self.inner.call_limits()
    }

    async fn pools(
        &self,
        org: &OrgId,
        day: UtcDay,
        pools: &[PoolName],
        shares: &[ShareId],
    ) -> Result<Timestamped<DayCounters>, StoreError> {
        self.check(org)?;
        self.inner.pools(org, day, pools, shares).await
    }

    async fn usage(
        &self,
        org: &OrgId,
        day: UtcDay,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<Timestamped<UsageRows>, StoreError> {
        self.inner.usage(org, day, after, limit).await
    }

    async fn keep_external_change(
        &self,
        org: &OrgId,
        change: &ExternalChange,
    ) -> Result<(), StoreError> {
        self.inner.keep_external_change(org, change).await
    }

    async fn external_changes(
        &self,
        org: &OrgId,
        day: UtcDay,
    ) -> Result<Timestamped<ExternalChanges>, StoreError> {
        self.inner.external_changes(org, day).await
    }

    async fn record_comparison(
        &self,
        org: &OrgId,
        day: UtcDay,
        changes: &ProviderChanges,
        comparison: Option<&DayComparison>,
    ) -> Result<(), StoreError> {
        let inner = &self.inner;
        inner.record_comparison(org, day, changes, comparison).await
    }

    async fn provider_usage(
        &self,
        org: &OrgId,
        day: UtcDay,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<ProviderRows, StoreError> {
        self.inner.provider_usage(org, day, after, limit).await
    }

    async fn comparisons(
        &self,
        org: &OrgId,
        days: &[UtcDay],
    ) -> Result<Vec<Option<DayComparison>>, StoreError> {
        self.inner.comparisons(org, days).await
    }

    async fn probe(&self) -> Result<Timestamped<()>, StoreError> {
        self.probes.fetch_add(1, Ordering::Relaxed);
        let is_down = *self.is_down.lock().unwrap();
        match is_down {
            true => Err(silent()),
            false => self.inner.probe().await,
        }
    }
}

/// A ledger that keeps its overview, under a clock at noon.
struct Overview {
    ledger: Ledger,
    store: Arc<ReadLog>,
    clock: Clock,
    _refresh: JoinHandle<()>,
}

/// A policy with these organizations. Tier 1 grants 1,000 tokens of `large` and 10,000 of `mini`.
fn policy_of(orgs: impl IntoIterator<Item = String>) -> String {
    let orgs = orgs.into_iter().map(|org| org_section(&org, ""));
    "[program]\nname = \"test\"\noverflow = \"close_until_reset\"\n\
     [pools.large]\nmodels = [\"gpt-4o\"]\n[pools.mini]\nmodels = [\"gpt-4o-mini\"]\n\
     [tiers.1]\nlarge = 1_000\nmini = 10_000\n"
        .to_owned()
        + &orgs.collect::<String>()
}

fn org_section(org: &str, more: &str) -> String {
    format!("[orgs.\"{org}\"]\ntier = 1\ndata_sharing = \"all\"\n{more}\n")
}

/// `org-0000` and so on.
fn numbered(orgs: usize) -> impl Iterator<Item = String> {
    (0..orgs).map(|at| format!("org-{at:04}"))
}

impl Overview {
    async fn start(policy: &str) -> Self {
        let clock = Clock::at(NOON);
        let store = Arc::new(ReadLog {
            inner: MemoryStore::new(clock.function(), UsageLimits::default()),
            reads: Mutex::default(),
            failing: Mutex::default(),
            is_down: Mutex::default(),
            probes: AtomicUsize::default(),
        });
        let policy = Arc::new(policy_text(policy));
        let ledger = Ledger::new(LedgerConfig::new(policy, store.clone()));
        // The ledger learns the store's day.
        ledger.probe().await.unwrap();
        let refresh = tokio::spawn(ledger.refresh_overview());
        Self {
            ledger,
            store,
            clock,
            _refresh: refresh,
        }
    }

    /// Uses tokens of a model.
    async fn reserve(&self, org: &str, model: &str, tokens: u64) {
        let mut request = new_reserve(tokens);
        request.org = org_id(org);
        request.fields.model = tollgate::domain::ModelName::parse(model).unwrap();
        self.ledger.reserve(request).await.unwrap();
    }

    /// When an organization was read.
    fn reads_of(&self, org: &str) -> Vec<Instant> {
        let reads = self.store.reads.lock().unwrap();
        reads.get(&org_id(org)).cloned().unwrap_or_default()
    }

    /// All reads, in order.
    fn reads(&self) -> Vec<Instant> {
        let reads = self.store.reads.lock().unwrap();
        let mut reads: Vec<Instant> = reads.values().flatten().copied().collect();
        reads.sort();
        reads
    }

    async fn list(&self, page: OrganizationPage) -> OrganizationList {
        self.ledger.organizations(page).await.unwrap()
    }

    /// What is known of an organization.
    async fn figures(&self, org: &str) -> Option<OrganizationFigures> {
        let listed = self.list(page(1_000)).await.organizations;
        listed.into_iter().find(|it| it.org.as_str() == org)
    }

    /// The tokens of `large` that are known to be used by an organization, and when they were read.
    async fn large(&self, org: &str) -> (u64, Option<String>) {
        let figures = self.figures(org).await.unwrap();
        let (balance, _) = &figures.pools[0];
        let as_of = figures.as_of.map(|it| it.to_rfc3339());
        (balance.used.get(), as_of)
    }
}

/// The first organizations by name.
fn page(size: usize) -> OrganizationPage {
    OrganizationPage {
        query: String::new(),
        readable: None,
        order: OrganizationOrder::Name,
        after: None,
        size,
    }
}

fn names(list: &OrganizationList) -> Vec<&str> {
    list.organizations
        .iter()
        .map(|it| it.org.as_str())
        .collect()
}
