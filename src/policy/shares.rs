//! Shares: the most that projects may use of a pool (docs/CONTRACT.md, "Shares").

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::margins::portion;
use crate::{
    domain::{OrgId, PoolName, Portion, ProjectId, ShareId, Terms},
    files::toml::{Entry, Section},
};

/// The maximum number of shares of an organization, over all pools: a script of Redis reads all of them at a time.
const MAX_SHARES: usize = 500;

/// The shares of an organization, as the policy states them.
pub type Shares = BTreeMap<ShareId, Portion>;

/// The terms of organizations with shares.
pub(super) type SharedTerms = HashMap<OrgId, Arc<Terms>>;

/// Adds an organization's shares to its terms.
pub(super) fn with_shares(terms: &Terms, shares: &Shares) -> Arc<Terms> {
    let tokens = |(id, portion): (&ShareId, &Portion)| {
        let allowance = terms.of_pool(&id.pool).allowance;
        (id.clone(), portion.rounded_down(allowance))
    };
    Arc::new(Terms {
        shares: shares.iter().map(tokens).collect(),
        ..terms.clone()
    })
}

/// Reads `[orgs.X.shares]`: for each project the same share of every pool, or those of some pools. `selected`: the only
/// projects that share their data, ordered by name.
pub(super) fn shares(
    section: &Section<'_>,
    pools: &[PoolName],
    selected: Option<&[ProjectId]>,
) -> Shares {
    let mut shares = Shares::new();
    let Some(section) = section.get("shares", Entry::section) else {
        return shares;
    };
    for (name, entry) in section.entries() {
        let Some(project) = entry.check(ProjectId::parse(name)) else {
            continue;
        };
        if selected.is_some_and(|projects| projects.binary_search(&project).is_err()) {
            entry.fault("is not among the projects that share their data");
        }
        let of_pools = portions(&entry, pools);
        shares.extend(of_pools.into_iter().map(|(pool, portion)| {
            let project = project.clone();
            (ShareId { pool, project }, portion)
        }));
    }
    if shares.len() > MAX_SHARES {
        section.fault(&format!(
            "has {} shares, counted by project and pool, at most {MAX_SHARES} are allowed",
            shares.len()
        ));
    }
    shares
}

/// The shares of one project.
fn portions(entry: &Entry<'_>, pools: &[PoolName]) -> Vec<(PoolName, Portion)> {
    if !entry.is_table() {
        let portion = portion(entry);
        let of_each = portion.map(|portion| pools.iter().map(move |it| (it.clone(), portion)));
        return of_each.into_iter().flatten().collect();
    }
    let Some(section) = entry.section() else {
        return Vec::new();
    };
    let names: Vec<&str> = pools.iter().map(PoolName::as_str).collect();
    section.only(&names);
    let of_pools = section.entries().filter_map(|(name, entry)| {
        let pool = pools.iter().find(|pool| pool.as_str() == name)?;
        Some((pool.clone(), portion(&entry)?))
    });
    of_pools.collect()
}
