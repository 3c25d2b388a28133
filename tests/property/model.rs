//! The rules in the simplest form: the model has a list of all requests, and computes every sum from it. It shares no
//! code with the program.

mod queries;

use std::collections::{BTreeMap, BTreeSet};

use super::rules::{Rules, Sharing};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    pub project: &'static str,
    pub model: &'static str,
    pub tokens: u64,
    pub workload: &'static str,
}

/// Project and model of a usage row.
type Row = (&'static str, &'static str);

struct Request {
    org: &'static str,
    id: Option<&'static str>,
    fields: Fields,
    /// The usage row that counts the request.
    row: Row,
    day: u32,
    pool: Option<&'static str>,
    /// The verdict at Reserve.
    first: &'static str,
    /// The verdict and tokens that count now; `None` after a release.
    counts: Option<(&'static str, u64)>,
    settled: bool,
    carry: Carry,
    /// Whether its project had a share of the pool at Reserve.
    in_share: bool,
}

/// What the next day counts of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Carry {
    /// Nothing: it is not carried, or has ended on its own day.
    Nothing,
    /// All that was reserved.
    Open,
    /// It has ended after its day: what is free.
    Ended,
}

pub struct Model {
    pub rules: Rules,
    /// The limit of usage rows, without [`OTHER`].
    max_rows: usize,
    /// The usage rows by organization and day, each with whether a pool listed the model when it was created.
    rows: BTreeMap<(&'static str, u32), BTreeMap<Row, bool>>,
    /// Days after the first.
    pub day: u32,
    requests: Vec<Request>,
    closed: Vec<(&'static str, &'static str, u32)>,
    /// What the provider counted besides, by organization, pool and day.
    external: BTreeMap<(&'static str, &'static str, u32), u64>,
    /// The day of the last change of the policy, after which what was reached before may be found instead.
    pub changed_on: Option<u32>,
    /// The notices that must have been given.
    pub due: BTreeSet<Noticed>,
    /// Those that may have been given.
    pub possible: BTreeSet<Noticed>,
}

/// A notice: organization, pool, day, threshold.
pub type Noticed = (String, String, u32, u8);

/// The row of requests beyond the limit.
const OTHER: Row = ("(other)", "(other)");

/// 2^53 − 1.
pub const MAX_AMOUNT: u64 = 9_007_199_254_740_991;

/// The verdict of what ran outside the programme: no pool counts it.
const OUTSIDE: &str = "RanOutsideProgram";

const BILLED_IN_POOL: [&str; 4] = [
    "AllowanceExceeded",
    "PoolClosed",
    "DayClosed",
    "ShareExceeded",
];

impl Model {
    pub fn new(rules: Rules, max_rows: usize) -> Self {
        Self {
            rules,
            max_rows,
            rows: BTreeMap::new(),
            day: 0,
            requests: Vec::new(),
            closed: Vec::new(),
            external: BTreeMap::new(),
            changed_on: None,
            due: BTreeSet::new(),
            possible: BTreeSet::new(),
        }
    }

    /// What is counted today in each pool of an organization.
    pub fn counted(&self, org: &str) -> Vec<(&'static str, u64)> {
        let pools = self.rules.pools.keys();
        let counted = pools.map(|pool| (*pool, self.used(org, pool) + self.external(org, pool)));
        counted.collect()
    }

    /// Adds the notices of an operation. `before`: what was counted before it.
    pub fn add_notices(&mut self, org: &str, before: &[(&'static str, u64)]) {
        for (then, (pool, now)) in before.iter().zip(self.counted(org)) {
            let reached = |counted: u64| {
                let allowance = u128::from(self.allowance(org, pool));
                let reaches = move |per_cent: &u8| {
                    allowance > 0 && u128::from(counted) * 100 >= allowance * u128::from(*per_cent)
                };
                let reached = [80, 95, 100].into_iter().filter(reaches);
                reached.map(|per_cent| (org.to_owned(), pool.to_owned(), self.day, per_cent))
            };
            let (then_reached, now_reached) = (reached(then.1), reached(now));
            let (then_reached, now_reached): (Vec<_>, Vec<_>) =
                (then_reached.collect(), now_reached.collect());
            if then.1 != now && self.changed_on != Some(self.day) {
                self.due.extend(now_reached.clone());
            }
            self.possible
                .extend(then_reached.into_iter().chain(now_reached));
        }
    }

    pub fn reserve(
        &mut self,
        org: &'static str,
        fields: Fields,
        id: Option<&'static str>,
        dry: bool,
    ) -> String {
        let id = id.filter(|_| !dry);
        if let Some(at) = id.and_then(|id| self.find(org, id)) {
            let known = &self.requests[at];
            return if known.fields != fields {
                "OtherFields".to_owned()
            } else if known.counts.is_none() {
                "Released".to_owned()
            } else {
                format!("{} replayed {}", known.first, self.balance(org, known.pool))
            };
        }
        let (verdict, pool) = match self.ineligible(org, &fields) {
            Some(reason) => (reason, None),
            None => {
                let pool = self.pool_of(fields.model).unwrap();
                let verdict = self.judge(org, pool, fields.tokens);
                let share = self.rules.share(org, fields.project, pool);
                let used = self.used_share(org, pool, fields.project);
                match share {
                    Some(share) if verdict == "FREE" && used + fields.tokens > share => {
                        ("ShareExceeded", Some(pool))
                    }
                    _ => (verdict, Some(pool)),
                }
            }
        };
        if !dry && self.rules.orgs.contains_key(org) {
            let row = self.row_for(org, &fields);
            if self.is_full(org, self.day, row, pool, verdict, fields.tokens, None) {
                return "Full".to_owned();
            }
            self.add_row(org, row);
            let counts = Some((verdict, fields.tokens));
            let day = self.day;
            let settled = false;
            let is_carried = self.rules.guards && id.is_some() && verdict == "FREE";
            let carry = if is_carried {
                Carry::Open
            } else {
                Carry::Nothing
            };
            let share = pool.and_then(|pool| self.rules.share(org, fields.project, pool));
            let in_share = share.is_some();
            self.requests.push(Request {
                in_share,
                org,
                id,
                fields,
                row,
                day,
                pool,
                first: verdict,
                counts,
                settled,
                carry,
            });
            self.close_after(org, pool, verdict);
        }
        format!("{verdict} {}", self.balance(org, pool))
    }

    pub fn settle(
        &mut self,
        org: &'static str,
        id: &'static str,
        actual: u64,
        outside: bool,
    ) -> String {
        let Some(at) = self.find(org, id) else {
            return "UnknownRequestId".to_owned();
        };
        let Request {
            day,
            pool,
            first,
            counts,
            settled,
            row,
            ..
        } = self.requests[at];
        let Some((counted_as, counted)) = counts else {
            return "Released".to_owned();
        };
        let late = day != self.day;
        if settled && (counted_as == OUTSIDE) != outside {
            return "OtherPlace".to_owned();
        }
        if settled && counted != actual {
            return "OtherAmount".to_owned();
        }
        let verdict = match settled {
            true => counted_as,
            false => self.judge_settle(&self.requests[at], actual, outside),
        };
        if !settled {
            let counted_in = pool.filter(|_| !late && !outside);
            if self.is_full(org, day, row, counted_in, verdict, actual, Some(at)) {
                return "Full".to_owned();
            }
            self.requests[at].counts = Some((verdict, actual));
            self.requests[at].settled = true;
            self.end_carry(at);
            if !late {
                self.close_after(org, pool, verdict);
            }
        }
        let changed = (verdict == "FREE") != (first == "FREE");
        let replayed = if settled { " replayed" } else { "" };
        format!(
            "{verdict} changed={changed}{replayed} {}",
            self.balance_on(org, pool, late)
        )
    }

    /// The verdict on the actual tokens of a held request.
    fn judge_settle(&self, request: &Request, actual: u64, outside: bool) -> &'static str {
        let Request {
            org, pool, first, ..
        } = *request;
        let reserved = request.fields.tokens;
        if outside {
            OUTSIDE
        } else if request.day != self.day {
            if first == "FREE" && actual > reserved {
                "DayClosed"
            } else {
                first
            }
        } else if first == "FREE" {
            let without = self.used(org, pool.unwrap()) - reserved;
            let fits = self.fits(org, pool.unwrap(), without + actual);
            if actual <= reserved || fits {
                "FREE"
            } else {
                "AllowanceExceeded"
            }
        } else if first == "AllowanceExceeded" && !self.is_closed(org, pool.unwrap()) {
            let fits = self.fits(org, pool.unwrap(), self.used(org, pool.unwrap()) + actual);
            if fits { "FREE" } else { first }
        } else {
            first
        }
    }

    pub fn release(&mut self, org: &'static str, id: &'static str) -> String {
        let Some(at) = self.find(org, id) else {
            return "UnknownRequestId".to_owned();
        };
        if self.requests[at].settled {
            return "Settled".to_owned();
        }
        let replayed = if self.requests[at].counts.take().is_none() {
            " replayed"
        } else {
            self.end_carry(at);
            ""
        };
        let Request {
            pool,
            day,
            ref fields,
            ..
        } = self.requests[at];
        let balance = self.balance_on(org, pool, day != self.day);
        format!("released {}{replayed} {balance}", fields.tokens)
    }

    pub fn set_external(&mut self, org: &'static str, pool: &'static str, tokens: u64) -> String {
        if let Some(unknown) = self.unknown(org, pool) {
            return unknown.to_owned();
        }
        let before = self.external.insert((org, pool, self.day), tokens);
        let (before, balance) = (before.unwrap_or(0), self.balance(org, Some(pool)));
        format!("external {before} {balance}")
    }

    /// Why the policy has no such pool of the organization.
    pub fn unknown(&self, org: &str, pool: &str) -> Option<&'static str> {
        if !self.rules.orgs.contains_key(org) {
            Some("UnknownOrganization")
        } else if !self.rules.pools.contains_key(pool) {
            Some("UnknownPool")
        } else {
            None
        }
    }

    fn find(&self, org: &str, id: &str) -> Option<usize> {
        // Today's first, then yesterday's.
        [Some(self.day), self.day.checked_sub(1)]
            .into_iter()
            .flatten()
            .find_map(|day| {
                self.requests
                    .iter()
                    .position(|it| it.org == org && it.id == Some(id) && it.day == day)
            })
    }

    fn counting(&self, org: &str, day: Option<u32>) -> impl Iterator<Item = &Request> {
        self.requests
            .iter()
            .filter(move |it| it.org == org && it.counts.is_some())
            .filter(move |it| day.is_none_or(|day| it.day == day))
    }

    /// Whether a counter of the usage row or of the pool would exceed its maximum if a request counted in addition to
    /// all others but one.
    #[allow(clippy::too_many_arguments)]
    fn is_full(
        &self,
        org: &str,
        day: u32,
        row: Row,
        pool: Option<&str>,
        verdict: &str,
        tokens: u64,
        but: Option<usize>,
    ) -> bool {
        let others = self.requests.iter().enumerate().filter(|(at, it)| {
            let same_side = |as_what: &str| (as_what == "FREE") == (verdict == "FREE");
            let counts = it.counts.is_some_and(|(as_what, _)| same_side(as_what));
            Some(*at) != but && it.org == org && it.day == day && counts
        });
        let sum = |counts_there: &dyn Fn(&Request) -> bool| {
            let there = others.clone().filter(|(_, it)| counts_there(it));
            there
                .filter_map(|(_, it)| it.counts)
                .map(|(_, it)| it)
                .sum::<u64>()
        };
        let in_row = sum(&|it| it.row == row);
        let in_pool = |it: &Request| it.counts.is_some_and(|(as_what, _)| as_what != OUTSIDE);
        let in_pool = pool.map_or(0, |pool| sum(&|it| it.pool == Some(pool) && in_pool(it)));
        in_row.max(in_pool) + tokens > MAX_AMOUNT
    }

    /// The row that would count a request today.
    fn row_for(&self, org: &'static str, fields: &Fields) -> Row {
        let own = (fields.project, fields.model);
        let Some(rows) = self.rows.get(&(org, self.day)) else {
            return own;
        };
        let unlisted = rows.values().filter(|is_listed| !**is_listed).count();
        let may_be_made = rows.len() < self.max_rows
            && (self.pool_of(fields.model).is_some() || unlisted < self.max_rows / 2);
        if rows.contains_key(&own) || may_be_made {
            own
        } else {
            OTHER
        }
    }

    fn add_row(&mut self, org: &'static str, row: Row) {
        if row == OTHER {
            return;
        }
        let is_listed = self.pool_of(row.1).is_some();
        let rows = self.rows.entry((org, self.day)).or_default();
        rows.entry(row).or_insert(is_listed);
    }

    fn held(&self, org: &str, pool: &str) -> u64 {
        let held = self.counting(org, Some(self.day));
        held.filter(|it| it.pool == Some(pool) && it.id.is_some() && !it.settled)
            .filter_map(|it| it.counts)
            .filter(|(verdict, _)| *verdict == "FREE")
            .map(|(_, tokens)| tokens)
            .sum()
    }

    fn end_carry(&mut self, at: usize) {
        let request = &mut self.requests[at];
        request.carry = match request.carry {
            Carry::Open if request.day != self.day => Carry::Ended,
            _ => Carry::Nothing,
        };
    }

    /// What today counts of yesterday's requests.
    fn carried(&self, org: &str, pool: &str) -> u64 {
        let requests = self
            .requests
            .iter()
            .filter(|it| it.org == org && it.pool == Some(pool) && it.day + 1 == self.day);
        let carried = requests.map(|it| match (it.carry, it.counts) {
            (Carry::Open, _) => it.fields.tokens,
            (Carry::Ended, Some(("FREE", tokens))) => tokens,
            _ => 0,
        });
        carried.sum()
    }

    fn used(&self, org: &str, pool: &str) -> u64 {
        let own: u64 = self
            .counting(org, Some(self.day))
            .filter(|it| it.pool == Some(pool))
            .filter_map(|it| it.counts)
            .filter(|(verdict, _)| *verdict == "FREE")
            .map(|(_, tokens)| tokens)
            .sum();
        own + self.carried(org, pool)
    }

    /// What a project used of its share of a pool today.
    fn used_share(&self, org: &str, pool: &str, project: &str) -> u64 {
        self.counting(org, Some(self.day))
            .filter(|it| it.in_share && it.pool == Some(pool) && it.fields.project == project)
            .filter_map(|it| it.counts)
            .filter(|(verdict, _)| *verdict == "FREE")
            .map(|(_, tokens)| tokens)
            .sum()
    }

    fn judge(&self, org: &str, pool: &str, tokens: u64) -> &'static str {
        if self.is_closed(org, pool) {
            "PoolClosed"
        } else if self.used(org, pool) + self.external(org, pool) + tokens
            <= self.reservable(org, pool)
        {
            "FREE"
        } else {
            "AllowanceExceeded"
        }
    }

    fn is_closed(&self, org: &str, pool: &str) -> bool {
        self.rules.closes && self.closed.contains(&(org, pool, self.day))
    }

    fn close_after(&mut self, org: &'static str, pool: Option<&'static str>, verdict: &str) {
        if let (true, Some(pool), "AllowanceExceeded") = (self.rules.closes, pool, verdict) {
            self.closed.push((org, pool, self.day));
        }
    }

    fn pool_of(&self, model: &str) -> Option<&'static str> {
        let mut pools = self.rules.pools.iter();
        pools
            .find(|(_, (models, _))| models.contains(&model))
            .map(|(pool, _)| *pool)
    }

    fn allowance(&self, org: &str, pool: &str) -> u64 {
        if !self.rules.orgs.contains_key(org) || self.not_enrolled(org).is_some() {
            return 0;
        }
        self.rules
            .pools
            .get(pool)
            .map_or(0, |(_, allowance)| *allowance)
    }

    /// Whether this total of used tokens is free at the provider.
    fn fits(&self, org: &str, pool: &str, total: u64) -> bool {
        total + self.external(org, pool) <= self.allowance(org, pool)
    }

    fn external(&self, org: &str, pool: &str) -> u64 {
        let mut known = self.external.iter();
        let known = known.find(|((of, its, day), _)| (*of, *its, *day) == (org, pool, self.day));
        known.map_or(0, |(_, tokens)| *tokens)
    }

    /// What Reserves get of the allowance.
    fn reservable(&self, org: &str, pool: &str) -> u64 {
        let allowance = self.allowance(org, pool);
        allowance.saturating_sub(self.rules.margin(org, pool, allowance))
    }

    fn not_enrolled(&self, org: &str) -> Option<&'static str> {
        match self.rules.orgs.get(org) {
            None | Some(Sharing::Off) => Some("OrganizationNotEnrolled"),
            Some(Sharing::ZeroDataRetention) => Some("ZeroDataRetention"),
            Some(Sharing::Enterprise) => Some("EnterprisePlan"),
            _ if self.rules.ends_after.is_some_and(|last| self.day > last) => Some("ProgramEnded"),
            Some(Sharing::All | Sharing::Selected(_)) => None,
        }
    }

    fn ineligible(&self, org: &str, fields: &Fields) -> Option<&'static str> {
        let shares = match self.rules.orgs.get(org) {
            Some(Sharing::Selected(project)) => *project == fields.project,
            _ => true,
        };
        if let Some(reason) = self.not_enrolled(org) {
            Some(reason)
        } else if !shares {
            Some("ProjectNotSharing")
        } else if fields.workload != "inference" {
            Some("WorkloadNotCovered")
        } else if fields.model.starts_with("ft:") {
            Some("FineTunedModel")
        } else if self.pool_of(fields.model).is_none() {
            Some("ModelNotCovered")
        } else {
            None
        }
    }

    /// `pool allowance used remaining`
    fn balance(&self, org: &str, pool: Option<&str>) -> String {
        let Some(pool) = pool else {
            return "-".to_owned();
        };
        let (allowance, used) = (self.allowance(org, pool), self.used(org, pool));
        let remaining = match self.is_closed(org, pool) {
            true => 0,
            false => self
                .reservable(org, pool)
                .saturating_sub(used + self.external(org, pool)),
        };
        format!("{pool} {allowance} {used} {remaining}")
    }

    fn balance_on(&self, org: &str, pool: Option<&str>, late: bool) -> String {
        match pool {
            Some(pool) if late => format!("{pool} 0 0 0"),
            pool => self.balance(org, pool),
        }
    }
}
