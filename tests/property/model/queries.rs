//! What the model answers to queries, as text.

use std::collections::BTreeMap;

use super::{BILLED_IN_POOL, Model};

impl Model {
    pub fn quota(&self, org: &'static str) -> String {
        if !self.rules.orgs.contains_key(org) {
            return "UnknownOrganization".to_owned();
        }
        let mut lines = vec![format!("{:?}", self.not_enrolled(org))];
        for pool in self.rules.pools.keys() {
            let counted = |billed: bool| {
                self.counting(org, Some(self.day))
                    .filter(|request| request.pool == Some(*pool))
                    .filter_map(|request| request.counts)
                    .filter(move |(verdict, _)| {
                        if billed {
                            BILLED_IN_POOL.contains(verdict)
                        } else {
                            *verdict == "FREE"
                        }
                    })
            };
            let (free, billed) = (counted(false).count(), counted(true).count());
            let billed_tokens: u64 = counted(true).map(|(_, tokens)| tokens).sum();
            let balance = self.balance(org, Some(pool));
            let (held, closed) = (self.held(org, pool), self.is_closed(org, pool));
            lines.push(format!(
                "{balance} {free} {billed_tokens} {billed} held={held} closed={closed}"
            ));
        }
        for (project, pool, share) in &self.rules.shares {
            if org == "acme" && self.not_enrolled(org).is_none() {
                let used = self.used_share(org, pool, project);
                lines.push(format!("{project} of {pool} {share} {used}"));
            }
        }
        lines[1..].sort();
        lines.join("; ")
    }

    pub fn usage(&self, org: &'static str, day: u32) -> String {
        if day > self.day {
            return "DayNotKept".to_owned();
        }
        let mut rows: BTreeMap<(&str, &str), [u64; 4]> = BTreeMap::new();
        for request in self.counting(org, Some(day)) {
            let Some((verdict, tokens)) = request.counts else {
                continue;
            };
            let row = rows.entry(request.row).or_default();
            let side = usize::from(verdict != "FREE");
            row[side] += tokens;
            row[2 + side] += 1;
        }
        if rows.is_empty() && !self.rules.orgs.contains_key(org) {
            return "UnknownOrganization".to_owned();
        }
        let rows = rows
            .iter()
            .map(|((project, model), [free, billed, frees, billeds])| {
                let pool = self.pool_of(model).unwrap_or("-");
                format!("{project} {model} {pool} {free} {billed} {frees} {billeds}")
            });
        rows.collect::<Vec<_>>().join("; ")
    }
}
