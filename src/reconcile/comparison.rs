//! The comparison by project, model and day.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};

use super::{
    drift::{CellFacts, ComparedUsage, Drift, DriftKind, Tolerance},
    report::{ReportRow, UsageReport},
    samples::{LedgerRow, LedgerSample},
};
use crate::{
    domain::{OrgId, PoolName, ProjectId, UtcDay, other_row},
    policy::{ComparedModel, DataSharing, Policy},
};

/// How long after its end a day is closed by default: the provider corrects its figures until then.
pub const CLOSED_AFTER: TimeDelta = TimeDelta::hours(36);

/// The service tier that is free by default.
pub const FREE_TIER: &str = "incentivized-tier";

/// Service tiers that are not free.
const BILLED_TIERS: [&str; 6] = ["auto", "default", "standard", "flex", "priority", "scale"];

/// What is compared, and by what.
#[derive(Debug)]
pub struct Scope<'a> {
    /// Names, pools, and which projects share.
    pub policy: &'a Policy,
    /// Whose usage it is.
    pub org: &'a OrgId,
    /// Whether the service has the organization as enrolled.
    pub enrolled: bool,
    /// The allowances that the service grants, by pool.
    pub allowances: BTreeMap<PoolName, u64>,
    /// The provider's ids of projects, and their names in the ledger.
    pub projects: BTreeMap<String, String>,
    /// The service tiers that are free.
    pub free_tiers: Vec<String>,
    /// Which differences count as none.
    pub tolerance: Tolerance,
    /// How long after its end a day is closed.
    pub close_after: TimeDelta,
    /// What the ledger had at the moment after which usage is too young to be compared; none: all usage is compared.
    pub settled: Option<&'a LedgerSample>,
    /// The days beside those that are compared, whose rows are given too: what ended after midnight is on two days.
    pub context: BTreeSet<UtcDay>,
    /// The time.
    pub now: DateTime<Utc>,
}

/// What one figure is of. Ordered by day, project and model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UsageKey {
    /// The day.
    pub day: UtcDay,
    /// The project by the ledger's name; empty if the report does not have it.
    pub project: String,
    /// The model and its pool.
    pub model: ComparedModel,
}

/// What both sides have of a pool on a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolUsage {
    /// The allowance.
    pub allowance: u64,
    /// FREE tokens of the ledger.
    pub ledger_free: u64,
    /// Free tokens of the provider.
    pub provider_free: u64,
    /// FREE tokens of the ledger that the provider billed.
    pub false_free: u64,
}

/// Something that could not be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    /// The day; none: all days.
    pub day: Option<UtcDay>,
    /// Why.
    pub reason: String,
}

/// The result.
#[derive(Debug, Default)]
pub struct Comparison {
    /// The days that were compared.
    pub days: BTreeSet<UtcDay>,
    /// Those of them to which the provider may still add.
    pub open_days: BTreeSet<UtcDay>,
    /// By project, model and day.
    pub usage: BTreeMap<UsageKey, ComparedUsage>,
    /// By day and pool.
    pub pools: BTreeMap<(UtcDay, PoolName), PoolUsage>,
    /// What differs, ordered.
    pub drifts: Vec<Drift>,
    /// What could not be compared.
    pub unknown: Vec<Unknown>,
    /// Service tiers of the report that are not known.
    pub other_tiers: BTreeSet<String>,
    /// Whether the report is grouped by project.
    pub(super) by_project: bool,
    /// Whether the report says what was free.
    has_verdicts: bool,
    /// FREE and BILLED tokens of the ledger that are of no known model.
    hidden: BTreeMap<UtcDay, u64>,
    /// The provider's free tokens of which the ledger can have carried some: they ended within the guard after midnight.
    after_midnight: BTreeMap<UsageKey, u64>,
}

/// FREE and BILLED tokens of the ledger.
type LedgerTokens = (u64, u64);

impl Comparison {
    /// Whether there is drift. What is late is none.
    pub fn has_drift(&self) -> bool {
        self.drifts.iter().any(|it| it.kind.is_drift())
    }

    /// Whether both sides have projects, and none in common: their names are probably not mapped.
    pub fn has_no_common_project(&self) -> bool {
        let projects = |tokens: fn(&ComparedUsage) -> u64| -> BTreeSet<&str> {
            let used = self.usage.iter().filter(|(_, usage)| tokens(usage) > 0);
            used.map(|(key, _)| key.project.as_str()).collect()
        };
        let ledger = projects(|it| it.ledger_free + it.ledger_billed);
        let provider = projects(ComparedUsage::provider_total);
        !ledger.is_empty() && !provider.is_empty() && ledger.is_disjoint(&provider)
    }
}

impl Scope<'_> {
    /// The ledger's name of a project.
    pub(super) fn project<'n>(&'n self, name: &'n str) -> &'n str {
        self.projects.get(name).map_or(name, String::as_str)
    }

    /// Whether the project shares its data. Of an organization that the policy does not have, all projects do.
    pub(super) fn is_sharing(&self, project: &str) -> bool {
        let sharing = self.policy.orgs.get(self.org).map(|it| &it.data_sharing);
        self.enrolled
            && match sharing {
                None | Some(DataSharing::All) => true,
                Some(sharing) if project.is_empty() => *sharing != DataSharing::Off,
                Some(sharing) => ProjectId::parse(project).is_ok_and(|it| sharing.includes(&it)),
            }
    }

    /// Whether the row was free at the provider.
    pub(super) fn is_free(&self, row: &ReportRow) -> bool {
        row.tier
            .as_ref()
            .is_some_and(|it| self.free_tiers.contains(it))
    }
}

impl Comparison {
    /// Compares the ledger's rows with the report, on these days, row by row and pool by pool.
    pub(super) fn new(
        scope: &Scope<'_>,
        days: BTreeSet<UtcDay>,
        ledger: &[LedgerRow],
        report: &UsageReport,
    ) -> Self {
        let is_open = |day: &&UtcDay| scope.now < day.end() + scope.close_after;
        let all: BTreeSet<UtcDay> = days.union(&scope.context).copied().collect();
        let mut comparison = Self {
            open_days: all.iter().filter(is_open).copied().collect(),
            by_project: report.rows.iter().any(|row| row.project.is_some()),
            days: all,
            ..Self::default()
        };
        comparison.add_ledger(scope, ledger);
        comparison.add_report(scope, report);
        comparison.find_absent_days(report);
        let settled = comparison.settled(scope);
        comparison.find_verdicts(scope, report, &settled);
        comparison.find_hidden();
        comparison.leave_out_young(&settled);
        comparison.judge(scope);
        comparison.move_to_the_next_day();
        comparison.subtract_hidden();
        comparison.leave_out_context(&days);
        comparison.sum_pools(scope);
        comparison.drifts = comparison.cell_drifts().collect();
        comparison
    }

    fn add_ledger(&mut self, scope: &Scope<'_>, rows: &[LedgerRow]) {
        let (other_project, other_model) = other_row();
        for row in rows.iter().filter(|row| self.days.contains(&row.day)) {
            if row.project == other_project.as_str() && row.model == other_model.as_str() {
                *self.hidden.entry(row.day).or_default() += row.free_tokens + row.billed_tokens;
                continue;
            }
            let usage = self.usage.entry(self.ledger_key(scope, row)).or_default();
            usage.ledger_free += row.free_tokens;
            usage.ledger_billed += row.billed_tokens;
        }
    }

    fn ledger_key(&self, scope: &Scope<'_>, row: &LedgerRow) -> UsageKey {
        UsageKey {
            day: row.day,
            project: if self.by_project {
                scope.project(&row.project).to_owned()
            } else {
                String::new()
            },
            model: scope.policy.compared_model(&row.model),
        }
    }

    /// What the ledger had of each cell that may have young usage.
    fn settled(&self, scope: &Scope<'_>) -> BTreeMap<UsageKey, LedgerTokens> {
        let Some(sample) = scope.settled else {
            return BTreeMap::new();
        };
        let cells = self.usage.keys().filter(|key| key.day >= sample.day);
        let mut settled: BTreeMap<UsageKey, LedgerTokens> =
            cells.map(|key| (key.clone(), (0, 0))).collect();
        for row in &sample.rows {
            if let Some((free, billed)) = settled.get_mut(&self.ledger_key(scope, row)) {
                *free += row.free_tokens;
                *billed += row.billed_tokens;
            }
        }
        settled
    }

    /// The provider may not have yet what the ledger has counted or taken back since: as much of that counts as agrees
    /// with the report.
    fn leave_out_young(&mut self, settled: &BTreeMap<UsageKey, LedgerTokens>) {
        for (key, then) in settled {
            if let Some(usage) = self.usage.get_mut(key) {
                usage.leave_out_young(*then, self.has_verdicts);
            }
        }
    }

    fn add_report(&mut self, scope: &Scope<'_>, report: &UsageReport) {
        let guard = TimeDelta::from_std(scope.policy.program.midnight_guard).unwrap_or_default();
        for row in &report.rows {
            let day = row.bucket.day();
            if !self.days.contains(&day) {
                continue;
            }
            let project = row.project.as_deref().unwrap_or_default();
            let key = UsageKey {
                day,
                project: scope.project(project).to_owned(),
                model: scope.policy.compared_model(&row.model),
            };
            if scope.is_free(row) && row.bucket.start < day.start() + guard {
                *self.after_midnight.entry(key.clone()).or_default() += row.tokens;
            }
            let usage = self.usage.entry(key).or_default();
            match scope.is_free(row) {
                true => usage.provider_free += row.tokens,
                false => usage.provider_billed += row.tokens,
            }
            usage
                .names
                .insert(scope.policy.resolved_model(&row.model).to_owned());
        }
    }

    /// Days that the report does not have.
    fn find_absent_days(&mut self, report: &UsageReport) {
        let (known, absent) = self.days.iter().partition(|day| report.days.contains(day));
        let absent: BTreeSet<UtcDay> = absent;
        self.days = known;
        self.usage.retain(|key, _| !absent.contains(&key.day));
        let absent = absent.into_iter().map(|day| {
            let reason = "the report has no bucket of this day".to_owned();
            Unknown {
                day: Some(day),
                reason,
            }
        });
        self.unknown.extend(absent);
    }

    /// What the ledger does not say.
    fn find_hidden(&mut self) {
        let hidden = self.hidden.iter().filter(|(_, tokens)| **tokens > 0);
        self.unknown.extend(hidden.map(|(day, tokens)| {
            let reason = format!("the models of {tokens} tokens are not known: the ledger has them in the row (other)");
            Unknown { day: Some(*day), reason }
        }));
    }

    /// Without a free tier in the report nobody knows what was free, unless nothing was.
    fn find_verdicts(
        &mut self,
        scope: &Scope<'_>,
        report: &UsageReport,
        settled: &BTreeMap<UsageKey, LedgerTokens>,
    ) {
        let tiers = report.rows.iter().filter_map(|row| row.tier.as_deref());
        let other = tiers.filter(|it| {
            !BILLED_TIERS.contains(it) && !scope.free_tiers.iter().any(|free| free == it)
        });
        self.other_tiers = other.map(str::to_owned).collect();
        let has_free_tier = report.rows.iter().any(|row| scope.is_free(row));
        let is_by_tier = report.rows.is_empty() || report.rows.iter().any(|row| row.tier.is_some());
        let mut compared = self.usage.iter();
        let is_nothing_free = compared.all(|(key, usage)| {
            scope.context.contains(&key.day)
                || usage.ledger_free == 0
                || settled.get(key).is_some_and(|(free, _)| *free == 0)
        });
        self.has_verdicts =
            has_free_tier || (is_by_tier && is_nothing_free && self.other_tiers.is_empty());
        if self.has_verdicts {
            return;
        }
        let reason = match is_by_tier {
            false => "the report has no service tiers: group it by service_tier".to_owned(),
            true => format!(
                "the report never has the service tier {}: it has another name (--free-tiers), or nothing of the \
                 organization was free (not_enrolled)",
                scope.free_tiers.join(" or ")
            ),
        };
        self.unknown.push(Unknown { day: None, reason });
    }

    fn judge(&mut self, scope: &Scope<'_>) {
        for (key, usage) in &mut self.usage {
            let facts = CellFacts {
                is_open: self.open_days.contains(&key.day),
                is_sharing: scope.is_sharing(&key.project),
                is_listed: key.model.pool.is_some(),
                has_verdicts: self.has_verdicts,
            };
            usage.drift = usage.judge(facts, scope.tolerance);
        }
    }

    /// What the ledger has on a day and the provider on the next one ended after midnight: at most what ended there within
    /// the midnight guard, since a request that ends later is not carried.
    fn move_to_the_next_day(&mut self) {
        let gone = self.usage.iter().map(|(key, it)| {
            let tokens = &it.drift.tokens;
            (
                key.clone(),
                tokens[DriftKind::Lost] + tokens[DriftKind::Late],
            )
        });
        let gone: Vec<(UsageKey, u64)> = gone.filter(|(_, tokens)| *tokens > 0).collect();
        for (key, gone) in gone {
            let day = key.day.plus_days(1);
            let next = UsageKey { day, ..key.clone() };
            let after_midnight = self.after_midnight.get(&next).copied().unwrap_or_default();
            let Some(next) = self.usage.get_mut(&next) else {
                continue;
            };
            let carried = gone.min(after_midnight);
            let external = carried.min(next.drift.external_free);
            // It seems to be a BILLED request of the next day that was free, if one ran elsewhere.
            let missed = (carried - external).min(next.drift.tokens[DriftKind::MissedFree]);
            next.drift.external_free -= external;
            next.drift.tokens[DriftKind::External] -= external;
            next.drift.tokens[DriftKind::MissedFree] -= missed;
            if let Some(usage) = self.usage.get_mut(&key) {
                let lost = (external + missed).min(usage.drift.tokens[DriftKind::Lost]);
                usage.drift.tokens[DriftKind::Lost] -= lost;
                usage.drift.tokens[DriftKind::Late] += lost;
            }
        }
    }

    /// Leaves the days that were asked for.
    fn leave_out_context(&mut self, days: &BTreeSet<UtcDay>) {
        self.days.retain(|day| days.contains(day));
        self.open_days.retain(|day| days.contains(day));
        self.usage.retain(|key, _| days.contains(&key.day));
        self.unknown
            .retain(|it| it.day.is_none_or(|day| days.contains(&day)));
    }

    /// What the ledger has in the row `(other)` may be what seems to be external.
    fn subtract_hidden(&mut self) {
        for (key, usage) in &mut self.usage {
            let Some(hidden) = self.hidden.get_mut(&key.day) else {
                continue;
            };
            let explained = usage.drift.tokens[DriftKind::External].min(*hidden);
            usage.drift.tokens[DriftKind::External] -= explained;
            *hidden -= explained;
        }
    }

    fn sum_pools(&mut self, scope: &Scope<'_>) {
        for day in &self.days {
            for (pool, allowance) in &scope.allowances {
                let allowance = *allowance;
                let usage = PoolUsage {
                    allowance,
                    ..PoolUsage::default()
                };
                self.pools.insert((*day, pool.clone()), usage);
            }
        }
        for (key, usage) in &self.usage {
            // A model that was retired during the day has no pool here, although its FREE tokens are in `used`. No verdict
            // depends on these sums; where one does, `external::provider_tokens` counts it.
            let Some(pool) = &key.model.pool else {
                continue;
            };
            let sum = self.pools.entry((key.day, pool.clone())).or_default();
            sum.ledger_free += usage.ledger_free;
            sum.provider_free += usage.provider_free;
            sum.false_free += usage.drift.tokens[DriftKind::FalseFree];
        }
    }

    fn cell_drifts(&self) -> impl Iterator<Item = Drift> {
        self.usage.iter().flat_map(|(key, usage)| {
            let found = usage.drift.tokens.iter().filter(|(_, tokens)| **tokens > 0);
            found.map(|(kind, tokens)| Drift {
                kind,
                day: Some(key.day),
                project: self.by_project.then(|| key.project.clone()),
                model: Some(key.model.name.clone()),
                pool: key.model.pool.clone(),
                tokens: *tokens,
                detail: String::new(),
            })
        })
    }
}
