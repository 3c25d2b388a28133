//! What the provider bills: the programme, applied to what ran there in the order of completion. It shares no code with
//! the program.

use std::collections::BTreeMap;

pub const DAY_SECONDS: i64 = 86_400;

/// A request that the provider ran. Times are seconds since the first midnight.
#[derive(Debug, Clone)]
pub struct Completion {
    pub project: &'static str,
    pub model: &'static str,
    pub workload: &'static str,
    pub tokens: u64,
    pub started: i64,
    pub ended: i64,
}

/// Whether a request that was billed counts in its pool's running total. If it does, the pool is closed until midnight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunningTotal {
    FreeOnly,
    All,
}

/// The day on which a request counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountedOn {
    Start,
    End,
}

/// A pool: its name, its allowance, and its models.
pub type ProviderPool = (&'static str, u64, Vec<&'static str>);

/// The programme as the provider applies it to one organization.
#[derive(Debug, Clone)]
pub struct Programme {
    /// The projects that share.
    pub projects: Vec<&'static str>,
    pub pools: Vec<ProviderPool>,
    /// The workloads that are covered.
    pub workloads: Vec<&'static str>,
    pub total: RunningTotal,
    pub day: CountedOn,
}

impl Programme {
    /// Which of them are free.
    pub fn bill(&self, completions: &[Completion]) -> Vec<bool> {
        let mut order: Vec<usize> = (0..completions.len()).collect();
        order.sort_by_key(|at| completions[*at].ended);
        let mut totals: BTreeMap<(&str, i64), u64> = BTreeMap::new();
        let mut free = vec![false; completions.len()];
        for at in order {
            let completion = &completions[at];
            let Some((pool, allowance, _)) = self.pool_of(completion) else {
                continue;
            };
            let day = self.counted_at(completion).div_euclid(DAY_SECONDS);
            let total = totals.entry((pool, day)).or_default();
            free[at] = *total + completion.tokens <= *allowance;
            if free[at] || self.total == RunningTotal::All {
                *total += completion.tokens;
            }
        }
        free
    }

    /// The moment that decides on which day it counts.
    pub fn counted_at(&self, completion: &Completion) -> i64 {
        match self.day {
            CountedOn::Start => completion.started,
            CountedOn::End => completion.ended,
        }
    }

    /// The pool of a request that is covered.
    fn pool_of(&self, completion: &Completion) -> Option<&ProviderPool> {
        let is_covered = self.projects.contains(&completion.project)
            && self.workloads.contains(&completion.workload);
        let mut pools = self.pools.iter().filter(|_| is_covered);
        pools.find(|(_, _, models)| models.contains(&completion.model))
    }
}

/// The example of the programme's text, 30,000 after 975,000 of 1,000,000, and what the text leaves open.
#[test]
fn the_bill_is_that_of_the_programmes_example() {
    let ran = |tokens, started, ended| Completion {
        project: "search",
        model: "gpt-4o",
        workload: "inference",
        tokens,
        started,
        ended,
    };
    let midnight = DAY_SECONDS;
    let completions = [
        // Listed first, and over last.
        ran(25_000, 10, 60),
        ran(975_000, 10, 40),
        ran(30_000, 10, 50),
        ran(1, midnight - 1, midnight),
    ];
    let uncovered = [
        ("private", "gpt-4o", "inference"),
        ("search", "o3", "inference"),
        ("search", "gpt-4o", "batch"),
    ];
    let uncovered = uncovered.map(|(project, model, workload)| Completion {
        project,
        model,
        workload,
        ..ran(1, 70, 80)
    });
    let all = [&completions[..], &uncovered].concat();
    for (total, day, wanted) in [
        (
            RunningTotal::FreeOnly,
            CountedOn::End,
            [true, true, false, true],
        ),
        (
            RunningTotal::FreeOnly,
            CountedOn::Start,
            [true, true, false, false],
        ),
        (
            RunningTotal::All,
            CountedOn::End,
            [false, true, false, true],
        ),
        (
            RunningTotal::All,
            CountedOn::Start,
            [false, true, false, false],
        ),
    ] {
        let programme = Programme {
            projects: vec!["search"],
            pools: vec![("large", 1_000_000, vec!["gpt-4o"])],
            workloads: vec!["inference"],
            total,
            day,
        };
        let free = programme.bill(&all);
        assert_eq!(free[..4], wanted, "{total:?} {day:?}");
        assert_eq!(free[4..], [false; 3]);
    }
}
