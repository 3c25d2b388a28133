//! Drift of a whole model, project, pool or organization, which explains the drift of single rows.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    comparison::{Comparison, PoolUsage, Scope, UsageKey},
    drift::{Drift, DriftKind},
};
use crate::{
    domain::{PoolName, UtcDay},
    policy::ComparedModel,
};

/// By how much a day's free total may be above the allowance, in per cent: the provider says that it may be a little off.
const OVERSHOOT_PERCENT: u64 = 1;

pub(super) fn find(scope: &Scope<'_>, comparison: &Comparison) -> Vec<Drift> {
    let mut causes = Causes {
        scope,
        comparison,
        explained: BTreeSet::new(),
        drifts: Vec::new(),
    };
    for (at, pool) in &comparison.pools {
        causes.find_over_allowance(at, pool);
        causes.find_pool_differs(at, pool);
    }
    causes.find_never_free();
    causes.drifts
}

struct Causes<'c> {
    scope: &'c Scope<'c>,
    comparison: &'c Comparison,
    /// Pools whose false FREE a model of another pool explains.
    explained: BTreeSet<(UtcDay, PoolName)>,
    drifts: Vec<Drift>,
}

/// A FREE amount that the provider billed, though it would have fit.
type FalseFree<'c> = (&'c UsageKey, u64);

fn is_above(tokens: u64, allowance: u64) -> bool {
    u128::from(tokens) * 100 > u128::from(allowance) * u128::from(100 + OVERSHOOT_PERCENT)
}

/// Whether all FREE tokens would have been free at the provider, if nothing but the report's rows counted there.
fn would_fit(pool: &PoolUsage) -> bool {
    pool.provider_free.saturating_add(pool.false_free) <= pool.allowance
}

/// The lowest tier of the policy in whose allowances the day's free tokens fit.
pub(super) fn fitting_tier(scope: &Scope<'_>, comparison: &Comparison, day: UtcDay) -> Option<u8> {
    let mut fitting = scope.policy.tiers.iter().filter(|(_, terms)| {
        let mut pools = comparison.pools.iter().filter(|((of, _), _)| *of == day);
        pools
            .all(|((_, pool), it)| !is_above(it.provider_free, terms.of_pool(pool).allowance.get()))
    });
    fitting.next().map(|(tier, _)| *tier)
}

impl<'c> Causes<'c> {
    /// More was free than the allowance: by another tier, or since a model counts in another pool.
    fn find_over_allowance(&mut self, (day, pool): &(UtcDay, PoolName), usage: &PoolUsage) {
        // What is free without an enrolment has a kind of its own.
        if !self.scope.enrolled || !is_above(usage.provider_free, usage.allowance) {
            return;
        }
        let fitting = fitting_tier(self.scope, self.comparison, *day);
        let mut moved = self.free_models(*day).filter(|(model, tokens)| {
            let rest = usage.provider_free.saturating_sub(*tokens);
            model.pool.as_ref() == Some(pool) && *tokens > 0 && !is_above(rest, usage.allowance)
        });
        if let (None, Some((model, tokens)), None) = (fitting, moved.next(), moved.next()) {
            let others = self
                .comparison
                .pools
                .iter()
                .filter(|((of, other), _)| of == day && other != pool);
            let mut others =
                others.filter(|(_, it)| !is_above(it.provider_free + tokens, it.allowance));
            if let Some(((_, other), _)) = others.next() {
                self.push_pool_differs(*day, &model, other, tokens);
                return;
            }
        }
        let allowance = usage.allowance;
        let detail = match fitting {
            Some(tier) => format!("the allowance is {allowance}; it would fit in tier {tier}"),
            None => format!("the allowance is {allowance}"),
        };
        self.drifts.push(Drift {
            kind: DriftKind::OverAllowance,
            day: Some(*day),
            project: None,
            model: None,
            pool: Some(pool.clone()),
            tokens: usage.provider_free - usage.allowance,
            detail,
        });
    }

    /// Reports a pool whose FREE requests were billed though they would fit, if they would not together with exactly
    /// one model of another pool.
    fn find_pool_differs(&mut self, (day, pool): &(UtcDay, PoolName), usage: &PoolUsage) {
        if usage.false_free == 0 || !would_fit(usage) {
            return;
        }
        let mut suspects = self.free_models(*day).filter(|(model, tokens)| {
            let with_it = usage.provider_free + tokens;
            model.pool.as_ref().is_some_and(|it| it != pool)
                && !is_above(with_it, usage.allowance)
                && with_it + usage.false_free > usage.allowance
        });
        if let (Some((model, tokens)), None) = (suspects.next(), suspects.next()) {
            self.explained.insert((*day, pool.clone()));
            self.push_pool_differs(*day, &model, pool, tokens);
        }
    }

    /// The free tokens of each model on a day.
    fn free_models(&self, day: UtcDay) -> impl Iterator<Item = (ComparedModel, u64)> + use<> {
        let mut models: BTreeMap<ComparedModel, u64> = BTreeMap::new();
        for (key, usage) in self
            .comparison
            .usage
            .iter()
            .filter(|(key, _)| key.day == day)
        {
            *models.entry(key.model.clone()).or_default() += usage.provider_free;
        }
        models.into_iter()
    }

    fn push_pool_differs(
        &mut self,
        day: UtcDay,
        model: &ComparedModel,
        pool: &PoolName,
        tokens: u64,
    ) {
        let own = model.pool.as_ref().map_or("no pool", PoolName::as_str);
        self.drifts.push(Drift {
            kind: DriftKind::PoolDiffers,
            day: Some(day),
            project: None,
            model: Some(model.name.clone()),
            pool: Some(pool.clone()),
            tokens,
            detail: format!("it seems to count in {pool}; the policy has it in {own}"),
        });
    }

    /// Days, projects and models of which nothing was free, though it would have fit: the widest cause is reported.
    fn find_never_free(&mut self) {
        let mut rest: Vec<FalseFree<'c>> = self.false_free().collect();
        let not_enrolled = DriftKind::NotEnrolled;
        self.take_never_free(
            &mut rest,
            not_enrolled,
            |key| key.day,
            |drift, key| drift.day = Some(key.day),
        );
        if self.comparison.by_project {
            let project = |key: &UsageKey| key.project.clone();
            self.take_never_free(&mut rest, not_enrolled, project, |drift, key| {
                drift.project = Some(key.project.clone());
            });
        }
        let model = |key: &UsageKey| key.model.clone();
        self.take_never_free(
            &mut rest,
            DriftKind::ListedNeverFree,
            model,
            |drift, key| {
                drift.model = Some(key.model.name.clone());
                drift.pool = key.model.pool.clone();
            },
        );
    }

    fn false_free(&self) -> impl Iterator<Item = FalseFree<'c>> {
        let found = self.comparison.usage.iter();
        let found = found.map(|(key, usage)| (key, usage.drift.tokens[DriftKind::FalseFree]));
        found.filter(|(key, tokens)| {
            let at = key.model.pool.clone().map(|pool| (key.day, pool));
            let fits = |at| {
                self.comparison.pools.get(at).is_some_and(would_fit) && !self.explained.contains(at)
            };
            *tokens > 0 && self.scope.is_sharing(&key.project) && at.as_ref().is_some_and(fits)
        })
    }

    /// Reports each group of which nothing was free, and removes its amounts.
    fn take_never_free<G: Ord>(
        &mut self,
        rest: &mut Vec<FalseFree<'c>>,
        kind: DriftKind,
        group: impl Fn(&UsageKey) -> G,
        describe: impl Fn(&mut Drift, &UsageKey),
    ) {
        let mut free: BTreeMap<G, u64> = BTreeMap::new();
        for (key, usage) in &self.comparison.usage {
            *free.entry(group(key)).or_default() += usage.provider_free;
        }
        let mut found: BTreeMap<G, Drift> = BTreeMap::new();
        rest.retain(|(key, tokens)| {
            let group = group(key);
            if free.get(&group).is_some_and(|free| *free > 0) {
                return true;
            }
            let mut drift = Drift {
                kind,
                day: None,
                project: None,
                model: None,
                pool: None,
                tokens: 0,
                detail: "nothing of it was free, and it would have fit".to_owned(),
            };
            describe(&mut drift, key);
            found.entry(group).or_insert(drift).tokens += tokens;
            false
        });
        self.drifts.extend(found.into_values());
    }
}
