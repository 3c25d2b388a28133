//! One poll of an organization: its key, the provider's report, then the ledger, the comparison, and the external usage.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use http::Uri;
use tokio::{task::spawn_blocking, time::Instant};

use super::{
    Comparison, LedgerRow, Raise, ReconcileSettings, ReconciledOrg, Scope, Tolerance, UsageReport,
    api::{AdminKey, BucketWidth, UsageApi, UsageApiError, UsageApiLimits},
    compare,
    external::{ExternalFigures, PoolFacts, provider_tokens},
    samples::{LedgerSample, SampleHistory},
};
use crate::{
    domain::{ExternalSource, OrgId, PoolName, Tokens, UtcDay},
    files::read::{read_file, trimmed},
    ledger::{Ledger, LedgerError, Quota, SetExternalUsage, UsagePage},
    telemetry::metrics::ReconcileState,
};

/// The size of the largest file with a key.
const MAX_KEY_BYTES: u64 = 64 << 10;

/// The time for the ledger's answers, before the query and after it.
const LEDGER_TIMEOUT: Duration = Duration::from_secs(30);

/// The time for lowering the figures when the service stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// Nothing is set this close to midnight: the store could decide it on the next day, where it would count.
const NO_RAISE_BEFORE_MIDNIGHT: TimeDelta = TimeDelta::seconds(60);

/// Usage rows that are read at a time.
const PAGE_SIZE: usize = 10_000;

/// The caller in the audit log.
const CALLER: &str = "reconcile";

/// Polls one organization, while this replica has the lease.
pub(super) struct OrgPoller {
    pub(super) org: OrgId,
    config: ReconciledOrg,
    settings: Arc<ReconcileSettings>,
    limits: UsageApiLimits,
    ledger: Ledger,
    samples: SampleHistory,
    external: ExternalFigures,
    /// The key that the provider refused, and how.
    refused: Option<(AdminKey, String)>,
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
    pub(super) fn new(
        org: &OrgId,
        settings: &Arc<ReconcileSettings>,
        limits: UsageApiLimits,
        ledger: &Ledger,
    ) -> Option<Self> {
        Some(Self {
            org: org.clone(),
            config: settings.orgs.get(org)?.clone(),
            settings: Arc::clone(settings),
            limits,
            ledger: ledger.clone(),
            samples: SampleHistory::new(settings.settle_lag),
            external: ExternalFigures::default(),
            refused: None,
        })
    }

    /// Compares the organization with the provider's report.
    pub(super) async fn poll(&mut self) -> Result<Comparison, PollError> {
        let (key, api) = self.open_api().await?;
        // Fails before the provider is asked, if the policy does not have the organization. Also gives the store's
        // clock.
        let ledger = self.ledger.with_deadline(Instant::now() + LEDGER_TIMEOUT);
        ledger.quota(&self.org).await?;
        let (asked_at, now) = (Instant::now(), self.ledger.now());
        let days = self.days(now);
        let first = days.first().map_or(now, |day| day.start());
        let report = match api.usage(first, None, BucketWidth::Day).await {
            Ok(report) => report,
            Err(error @ (UsageApiError::KeyRefused | UsageApiError::Forbidden)) => {
                let why = error.to_string();
                self.refused = Some((key, why.clone()));
                return Err(PollError::KeyRefused(why));
            }
            Err(error) => return Err(PollError::Provider(error)),
        };
        // Read after the report, so the ledger has already counted what is in it.
        let ledger = self.ledger.with_deadline(Instant::now() + LEDGER_TIMEOUT);
        let quota = ledger.quota(&self.org).await?;
        let rows = self.rows(&ledger, &days).await?;
        let known = self.samples.settled(asked_at);
        self.samples.add(Instant::now(), sample(&quota, &rows));
        let lag = TimeDelta::from_std(self.settings.settle_lag).unwrap_or_default();
        let unknown = || Arc::new(LedgerSample::empty(UtcDay::of(now - lag)));
        let policy = self.ledger.policy();
        let scope = Scope {
            policy: &policy,
            org: &self.org,
            enrolled: quota.enrollment.not_enrolled.is_none(),
            allowances: allowances(&quota),
            projects: self.config.projects.clone(),
            free_tiers: self.settings.free_tiers.clone(),
            tolerance: Tolerance::Tokens(0),
            close_after: self.settings.close_after,
            settled: Some(&known.clone().unwrap_or_else(unknown)),
            now,
        };
        let comparison = compare(&scope, days, &rows, &report);
        if self.settings.raise == Raise::External {
            let figures = &mut self.external;
            raise(&scope, &ledger, &quota, &report, known.as_deref(), figures).await?;
        }
        Ok(comparison)
    }

    /// Lowers the figures to what is proven, since the next replica takes what it finds for proven.
    pub(super) async fn lower_to_proven(&self) -> Result<(), LedgerError> {
        let ledger = self.ledger.with_deadline(Instant::now() + STOP_TIMEOUT);
        let day = UtcDay::of(ledger.now());
        if is_ending(&ledger, day) {
            return Ok(());
        }
        for (pool, tokens) in self.external.only_proven(day) {
            let note = "this replica stops: what is only likely is left out".to_owned();
            set_external(&ledger, &self.org, pool, tokens, note).await?;
        }
        Ok(())
    }

    /// Reads the key, at each poll: keys are replaced. The system's authorities are read too.
    async fn open_api(&self) -> Result<(AdminKey, UsageApi), PollError> {
        let (path, base) = (
            self.config.admin_key_file.clone(),
            self.settings.api_base.clone(),
        );
        let (limits, refused) = (self.limits, self.refused.clone());
        let opened = spawn_blocking(move || open_api(&path, &base, limits, refused)).await;
        opened.unwrap_or_else(|_| Err(LedgerError::TaskPanicked.into()))
    }

    /// Today, the days that are open, and the one that was closed last.
    fn days(&self, now: DateTime<Utc>) -> BTreeSet<UtcDay> {
        let today = UtcDay::of(now);
        let days = (0..).map(|ago| today.minus_days(ago));
        let kept = self.settings.close_after + TimeDelta::days(1);
        days.take_while(|day| now < day.end() + kept).collect()
    }

    async fn rows(
        &self,
        ledger: &Ledger,
        days: &BTreeSet<UtcDay>,
    ) -> Result<Vec<LedgerRow>, LedgerError> {
        let mut rows = Vec::new();
        for day in days {
            let mut after = None;
            loop {
                let page = UsagePage {
                    day: Some(*day),
                    after,
                    size: PAGE_SIZE,
                };
                let usage = ledger.usage(&self.org, page).await?;
                let last = usage.rows.last();
                after = last.map(|row| (row.project.clone(), row.model.clone()));
                rows.extend(usage.rows.into_iter().map(|row| LedgerRow {
                    day: *day,
                    project: row.project.to_string(),
                    model: row.model.to_string(),
                    free_tokens: row.counters.free_tokens.get(),
                    billed_tokens: row.counters.billed_tokens.get(),
                }));
                if !usage.more {
                    break;
                }
            }
        }
        Ok(rows)
    }
}

fn open_api(
    path: &Path,
    base: &Uri,
    limits: UsageApiLimits,
    refused: Option<(AdminKey, String)>,
) -> Result<(AdminKey, UsageApi), PollError> {
    let name = path.display();
    let bytes = read_file(path, MAX_KEY_BYTES);
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

/// What the ledger has of today.
fn sample(quota: &Quota, rows: &[LedgerRow]) -> LedgerSample {
    let pools = quota.pools.iter();
    let used = pools.map(|(balance, _)| (balance.pool.clone(), balance.used.get()));
    let rows = rows.iter().filter(|row| row.day == quota.day);
    LedgerSample {
        day: quota.day,
        rows: rows.cloned().collect(),
        used: used.collect(),
    }
}

/// Whether the day ends soon.
fn is_ending(ledger: &Ledger, day: UtcDay) -> bool {
    ledger.now() + NO_RAISE_BEFORE_MIDNIGHT >= day.end()
}

/// Sets the external usage of each pool whose figure has changed.
async fn raise(
    scope: &Scope<'_>,
    ledger: &Ledger,
    quota: &Quota,
    report: &UsageReport,
    settled: Option<&LedgerSample>,
    figures: &mut ExternalFigures,
) -> Result<(), LedgerError> {
    let day = quota.day;
    if is_ending(ledger, day) || !report.days.contains(&day) {
        return Ok(());
    }
    let provider = provider_tokens(scope, day, report);
    for (balance, counters) in &quota.pools {
        let pool = &balance.pool;
        let facts = PoolFacts {
            provider: provider.get(pool).copied().unwrap_or_default(),
            used: balance.used.get(),
            used_settled: settled.map(|sample| sample.used_on(day, pool)),
            stored: counters.external.reconciled.get(),
        };
        let tokens = figures.update(day, pool, facts);
        if tokens != facts.stored {
            let PoolFacts { provider, used, .. } = facts;
            let note = format!("the provider reports {provider} tokens, {used} are used");
            set_external(ledger, scope.org, pool, tokens, note).await?;
        }
    }
    Ok(())
}

/// Sets the external usage of a pool, in a task of its own: once begun, it completes, with its event in the audit log,
/// even if the poll is cancelled.
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
