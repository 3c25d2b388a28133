//! One poll of an organization: its key, the provider's report, then the ledger, the comparison, and the external usage.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use http::Uri;
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{Instant, timeout_at},
};

use super::{
    Comparison, LedgerRow, Raise, ReconcileSettings, ReconciledOrg, Scope, Tolerance, UsageReport,
    api::{AdminKey, BucketWidth, UsageApi, UsageApiError, UsageApiLimits},
    compare,
    external::{ExternalFigures, PoolFacts, provider_tokens},
    provider::{ProviderDay, provider_days, record},
    samples::{LedgerSample, SampleHistory},
};
use crate::{
    domain::{ExternalSource, OrgId, PoolName, Tokens, UtcDay},
    files::read::{read_file, trimmed},
    ledger::{Ledger, LedgerError, Quota, SetExternalUsage, Usage, UsageDays, UsagePage},
    telemetry::{log_limited, metrics::ReconcileState},
};

/// For the ledger's answers, before the query and after it.
const LEDGER_TIMEOUT: Duration = Duration::from_secs(30);

/// The time for lowering the figures when the service stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// For the result of a comparison, which the store keeps.
const RECORD_TIMEOUT: Duration = Duration::from_secs(10);

/// Nothing is set this close to midnight: the store could decide it on the next day, where it would count.
const NO_RAISE_BEFORE_MIDNIGHT: TimeDelta = TimeDelta::seconds(60);

/// Usage rows that are read at a time: those of a day, also with the largest `usage_rows`. Redis scans the whole day for
/// each page.
const PAGE_SIZE: usize = 1_000_000;

/// The caller in the audit log.
const CALLER: &str = "reconcile";

/// Polls one organization, while this replica has the lease.
pub(super) struct OrgPoller {
    pub(super) org: OrgId,
    pub(super) config: ReconciledOrg,
    pub(super) settings: Arc<ReconcileSettings>,
    pub(super) limits: UsageApiLimits,
    pub(super) ledger: Ledger,
    /// When the lease ends, unless it is renewed.
    pub(super) lease_end: watch::Receiver<Instant>,
    pub(super) samples: SampleHistory,
    pub(super) external: ExternalFigures,
    /// The key that the provider refused, and how.
    pub(super) refused: Option<(AdminKey, String)>,
}

/// A poll with a comparison.
pub(super) struct PollResult {
    pub(super) comparison: Comparison,
    /// What the store keeps of it.
    days: BTreeMap<UtcDay, ProviderDay>,
}

/// The provider's report.
struct ProviderReport {
    asked_at: Instant,
    /// By the store's clock.
    now: DateTime<Utc>,
    days: BTreeSet<UtcDay>,
    report: UsageReport,
}

/// Why there was no comparison. No text has a key.
#[derive(Debug, thiserror::Error)]
pub(super) enum PollError {
    #[error("admin_key_file: {0}")]
    KeyFile(String),
    #[error("{0}")]
    KeyRefused(String),
    #[error(transparent)]
    Provider(UsageApiError),
    #[error("the ledger: {0}")]
    Ledger(#[from] LedgerError),
}

impl PollError {
    pub(super) fn state(&self) -> ReconcileState {
        match self {
            Self::KeyFile(_) => ReconcileState::KeyUnreadable,
            Self::KeyRefused(_) => ReconcileState::KeyRefused,
            Self::Provider(_) | Self::Ledger(_) => ReconcileState::Failing,
        }
    }

    /// How long the provider asks to wait.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Provider(UsageApiError::RetryLater(pause)) => Some(*pause),
            _ => None,
        }
    }
}

impl OrgPoller {
    /// Compares the organization with the provider's report.
    pub(super) async fn poll(&mut self) -> Result<PollResult, PollError> {
        match self.query_provider().await {
            Ok(reported) => self.compare(reported).await,
            Err(error) => {
                // After the outage, what is used now must be known. If it can't be read, then it is not.
                if let Err(error) = self.add_sample().await {
                    tracing::debug!(org = %self.org, %error, "the ledger can't be read");
                }
                Err(error)
            }
        }
    }

    async fn query_provider(&mut self) -> Result<ProviderReport, PollError> {
        let (key, api) = self.open_api().await?;
        // Of an organization that the policy does not have, the provider is not asked. It also gives the store's clock.
        self.ledger_within(LEDGER_TIMEOUT).quota(&self.org).await?;
        let (asked_at, now) = (Instant::now(), self.ledger.now());
        let days = self.days(now);
        let first = day_before(&days).map_or(now, UtcDay::start);
        match api.usage(first, None, BucketWidth::Day).await {
            Ok(report) => Ok(ProviderReport {
                asked_at,
                now,
                days,
                report,
            }),
            Err(error @ (UsageApiError::KeyRefused | UsageApiError::Forbidden)) => {
                let why = error.to_string();
                self.refused = Some((key, why.clone()));
                Err(PollError::KeyRefused(why))
            }
            Err(error) => Err(PollError::Provider(error)),
        }
    }

    /// Compares the report with the ledger, which is read after it: what is in the report was counted before.
    async fn compare(&mut self, reported: ProviderReport) -> Result<PollResult, PollError> {
        let ProviderReport {
            asked_at,
            now,
            days,
            report,
        } = reported;
        let ledger = self.ledger_within(LEDGER_TIMEOUT);
        let quota = ledger.quota(&self.org).await?;
        let mut pages = self.usage_pages(&ledger, &days).await?;
        let mut context: BTreeSet<UtcDay> = day_before(&days).into_iter().collect();
        match self.usage_pages(&ledger, &context).await {
            Ok(before) => pages.extend(before),
            Err(LedgerError::DayNotKept { .. }) => context.clear(),
            Err(error) => return Err(error.into()),
        }
        let read_at = Instant::now();
        let settled = self.samples.settled(asked_at);
        if self.samples.is_newly_missing(asked_at) {
            let (org, settle_lag) = (&self.org, self.settings.settle_lag);
            tracing::warn!(%org, ?settle_lag, "polls are too far apart: all usage of today counts as too young to be compared");
        }
        let (policy, org, settings) = (
            self.ledger.policy(),
            self.org.clone(),
            Arc::clone(&self.settings),
        );
        let (projects, known) = (self.config.projects.clone(), settled.clone());
        let compared = run_blocking(move || {
            let rows = ledger_rows(pages);
            let lag = TimeDelta::from_std(settings.settle_lag).unwrap_or_default();
            let unknown = LedgerSample::empty(UtcDay::of(now - lag));
            let scope = Scope {
                policy: &policy,
                org: &org,
                enrolled: quota.enrollment.not_enrolled.is_none(),
                allowances: allowances(&quota),
                projects,
                free_tiers: settings.free_tiers.clone(),
                tolerance: Tolerance::Tokens(0),
                close_after: settings.close_after,
                settled: Some(known.as_deref().unwrap_or(&unknown)),
                context,
                now,
            };
            let day = quota.day;
            let is_reported = report.days.contains(&day);
            let provider = is_reported.then(|| provider_tokens(&scope, day, &rows, &report));
            let comparison = compare(&scope, days.clone(), &rows, &report);
            let days = provider_days(&scope, &days, &rows, &report, &comparison);
            let polled = PollResult { comparison, days };
            (polled, sample(&quota, rows), quota, provider)
        });
        let (polled, sample, quota, provider) = compared.await?;
        self.samples.add(read_at, sample);
        if let (Raise::External, Some(provider)) = (self.settings.raise, provider) {
            self.raise(&quota, &provider, settled.as_deref()).await?;
        }
        Ok(polled)
    }

    /// Keeps the result in the store, for all replicas. Nothing depends on it: a failure is logged.
    pub(super) async fn record(&self, polled: &PollResult) {
        let deadline = (Instant::now() + RECORD_TIMEOUT).min(*self.lease_end.borrow());
        let recorded = record(self.ledger.store(), &self.org, &polled.days);
        let failure = match timeout_at(deadline, recorded).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it did not answer in time".to_owned(),
        };
        log_limited!(warn, org = %self.org, error = failure, "the store has no new comparison with the provider");
    }

    /// Keeps what the ledger has of today, without a report.
    async fn add_sample(&mut self) -> Result<(), LedgerError> {
        let ledger = self.ledger_within(LEDGER_TIMEOUT);
        let quota = ledger.quota(&self.org).await?;
        let pages = self
            .usage_pages(&ledger, &BTreeSet::from([quota.day]))
            .await?;
        let read_at = Instant::now();
        let sample = run_blocking(move || sample(&quota, ledger_rows(pages))).await?;
        self.samples.add(read_at, sample);
        Ok(())
    }

    /// Sets the external usage of each pool whose figure has changed. A pool that fails holds up no other: the first
    /// error is returned at the end.
    async fn raise(
        &mut self,
        quota: &Quota,
        provider: &BTreeMap<PoolName, u64>,
        settled: Option<&LedgerSample>,
    ) -> Result<(), LedgerError> {
        let (day, mut raised) = (quota.day, Ok(()));
        for (balance, counters) in &quota.pools {
            // Each pool may take long.
            if is_ending(&self.ledger, day) {
                break;
            }
            let pool = &balance.pool;
            let facts = PoolFacts {
                provider: provider.get(pool).copied().unwrap_or_default(),
                used: balance.used.get(),
                used_settled: settled.map(|sample| sample.used_on(day, pool)),
                stored: counters.external.reconciled.get(),
            };
            let tokens = self.external.update(day, pool, facts);
            if tokens != facts.stored {
                let PoolFacts { provider, used, .. } = facts;
                let note = format!("the provider reports {provider} tokens, {used} are used");
                let ledger = self.ledger_within(LEDGER_TIMEOUT);
                let set = set_external(&ledger, &self.org, pool, tokens, note).await;
                if set.is_ok() {
                    self.external.confirm(pool);
                }
                raised = raised.and(set);
            }
        }
        raised
    }

    /// The ledger, for so long, and never longer than this replica has the lease.
    fn ledger_within(&self, time: Duration) -> Ledger {
        let deadline = (Instant::now() + time).min(*self.lease_end.borrow());
        self.ledger.with_deadline(deadline)
    }

    /// Lowers what is only likely to what is proven, since the next replica takes what it finds for proven. Tries all
    /// pools, within one timeout, and returns the first error: a pool may have left the policy.
    pub(super) async fn lower_to_proven(&self) -> Result<(), LedgerError> {
        let ledger = self.ledger_within(STOP_TIMEOUT);
        let day = UtcDay::of(ledger.now());
        if is_ending(&ledger, day) {
            return Ok(());
        }
        let mut lowered = Ok(());
        for (pool, tokens) in self.external.unproven(day) {
            let note = "this replica stops: what is only likely is left out".to_owned();
            lowered = lowered.and(set_external(&ledger, &self.org, pool, tokens, note).await);
        }
        lowered
    }

    /// Reads the key, at each poll: keys are replaced. The system's authorities are read too.
    async fn open_api(&self) -> Result<(AdminKey, UsageApi), PollError> {
        let (path, base) = (
            self.config.admin_key_file.clone(),
            self.settings.api_base.clone(),
        );
        let (limits, refused) = (self.limits, self.refused.clone());
        run_blocking(move || open_api(&path, &base, limits, refused)).await?
    }

    /// Today, the days that are open, and the one that was closed last.
    fn days(&self, now: DateTime<Utc>) -> BTreeSet<UtcDay> {
        let today = UtcDay::of(now);
        let days = (0..).map(|ago| today.minus_days(ago));
        let kept = self.settings.close_after + TimeDelta::days(1);
        days.take_while(|day| now < day.end() + kept).collect()
    }

    async fn usage_pages(
        &self,
        ledger: &Ledger,
        days: &BTreeSet<UtcDay>,
    ) -> Result<Vec<Usage>, LedgerError> {
        let mut pages = Vec::new();
        for day in days {
            let mut start = None;
            loop {
                let page = UsagePage {
                    days: UsageDays::Day(*day),
                    start,
                    size: PAGE_SIZE,
                };
                let usage = ledger.counted_usage(&self.org, page).await?;
                start = usage.next.clone();
                pages.push(usage);
                if start.is_none() {
                    break;
                }
            }
        }
        Ok(pages)
    }
}

/// Runs what takes a while on a thread of its own, so that it holds up no decision.
async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, LedgerError> {
    let done = spawn_blocking(work).await;
    done.map_err(|_| LedgerError::TaskPanicked)
}

fn open_api(
    path: &Path,
    base: &Uri,
    limits: UsageApiLimits,
    refused: Option<(AdminKey, String)>,
) -> Result<(AdminKey, UsageApi), PollError> {
    let name = path.display();
    let bytes = read_file(path, AdminKey::MAX_FILE_BYTES);
    let bytes = bytes.map_err(|error| PollError::KeyFile(format!("{name} {error}")))?;
    let fault = |fault: &dyn std::fmt::Display| PollError::KeyFile(format!("{name}: {fault}"));
    let text = str::from_utf8(&bytes).map_err(|_| fault(&"the admin key is not UTF-8"))?;
    let text = trimmed(text).map_err(|error| fault(&format!("the admin key {error}")))?;
    let key = AdminKey::parse(text).map_err(|error| fault(&error))?;
    match refused {
        Some((known, why)) if known == key => Err(PollError::KeyRefused(why)),
        _ => {
            let api = UsageApi::new(base, key.clone(), limits);
            Ok((key, api.map_err(PollError::Provider)?))
        }
    }
}

fn allowances(quota: &Quota) -> BTreeMap<PoolName, u64> {
    let pools = quota.pools.iter();
    let pools = pools.map(|(balance, _)| (balance.pool.clone(), balance.allowance.get()));
    pools.collect()
}

fn ledger_rows(pages: Vec<Usage>) -> Vec<LedgerRow> {
    let rows = pages.into_iter().flat_map(|usage| usage.rows);
    let rows = rows.map(|row| LedgerRow {
        day: row.day,
        project: row.project.to_string(),
        model: row.model.to_string(),
        free_tokens: row.counters.free_tokens.get(),
        billed_tokens: row.counters.billed_tokens.get(),
    });
    rows.collect()
}

/// What the ledger has of today.
fn sample(quota: &Quota, mut rows: Vec<LedgerRow>) -> LedgerSample {
    rows.retain(|row| row.day == quota.day);
    let pools = quota.pools.iter();
    let used = pools.map(|(balance, _)| (balance.pool.clone(), balance.used.get()));
    LedgerSample {
        day: quota.day,
        rows,
        used: used.collect(),
    }
}

/// The day before those that are compared. Its requests may have ended after midnight.
fn day_before(days: &BTreeSet<UtcDay>) -> Option<UtcDay> {
    days.first().map(|day| day.yesterday())
}

/// Whether the day ends soon.
fn is_ending(ledger: &Ledger, day: UtcDay) -> bool {
    ledger.now() + NO_RAISE_BEFORE_MIDNIGHT >= day.end()
}

/// Sets the external usage of a pool. What was begun is carried to its end, with its event in the audit log.
async fn set_external(
    ledger: &Ledger,
    org: &OrgId,
    pool: &PoolName,
    tokens: u64,
    note: String,
) -> Result<(), LedgerError> {
    let request = SetExternalUsage {
        org: org.clone(),
        pool: pool.clone(),
        source: ExternalSource::Reconciled,
        tokens: Tokens::new(tokens).unwrap_or(Tokens::MAX_EXTERNAL),
        note,
        caller: Some(CALLER.to_owned()),
    };
    let ledger = ledger.clone();
    let set = tokio::spawn(async move { ledger.set_external_usage(request).await });
    set.await.unwrap_or(Err(LedgerError::TaskPanicked))?;
    Ok(())
}
