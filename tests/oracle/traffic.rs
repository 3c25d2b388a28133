//! Random traffic of one organization over some days. All times are chosen beforehand, so that a request can be left
//! out without a change to the others.

use tollgate::policy::Policy;

use super::bill::{CountedOn, DAY_SECONDS, Programme, RunningTotal};
use crate::support::{random::Random, world::policy_text};

/// The days on which requests are reserved. Some are over on the day after.
pub const DAYS: i64 = 3;
/// The models of each pool, and its allowance in the organization's tier.
pub const POOLS: [(&str, u64, [&str; 2]); 2] = [
    ("large", 1_000, ["gpt-4o", "o1"]),
    ("mini", 2_000, ["gpt-4o-mini", "o4-mini"]),
];
/// A model that no pool lists.
pub const UNLISTED: &str = "gpt-7";
/// The projects that share.
pub const SHARING: [&str; 2] = ["search", "chat"];
/// A project that does not.
pub const PRIVATE: &str = "private";
/// The workloads that are covered, and one that is not.
const WORKLOADS: [&str; 3] = ["inference", "function_calling", "batch"];
const UNCOVERED: &str = "hosted_tool";
const MAX_REQUESTS: u64 = 80;
/// Of traffic that runs one at a time.
const REQUESTS_PER_DAY: i64 = 10;

/// What some requests do. The last ones break a condition of docs/CONTRACT.md, "When FREE is certain".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behavior {
    CrossesMidnight,
    /// It ran, and is never settled; or it never runs, and is never released.
    IsNotEnded,
    /// Bypasses Tollgate, after it is set as external usage.
    IsAnnounced,
    GoesPast,
    /// BILLED, and runs in a project that shares.
    IsBilledInside,
    IsUnlistedInside,
    IsUnderestimated,
    LacksId,
    EndsPastTheGuard,
    IsReleasedThoughRun,
}

/// Everything that the conditions allow, and external usage. Without any of these, each request is over on its day, and is
/// settled or released.
pub const SOUND: &[Behavior] = &[
    Behavior::CrossesMidnight,
    Behavior::IsNotEnded,
    Behavior::IsAnnounced,
];

/// How a request reaches the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    Tollgate,
    Past,
    /// Past Tollgate, after it is set as external usage.
    Announced,
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It runs in its project.
    Runs,
    RunsUnsettled,
    RunsAndIsReleased,
    /// It runs in [`PRIVATE`].
    RunsInPrivate,
    /// It runs at another provider.
    RunsElsewhere,
    IsReleased,
    IsAbandoned,
}

/// A planned request. Times are seconds since the first midnight.
#[derive(Debug, Clone)]
pub struct PlannedRequest {
    pub route: Route,
    pub project: &'static str,
    pub model: &'static str,
    pub workload: &'static str,
    pub reserved: u64,
    pub actual: u64,
    pub reserved_at: i64,
    pub started: i64,
    pub ended: i64,
    pub settled_at: i64,
    pub has_id: bool,
    /// Each of its calls is sent twice.
    pub is_retried: bool,
    pub if_free: Fate,
    pub if_billed: Fate,
}

/// A policy's varied parts, and requests.
#[derive(Debug, Clone)]
pub struct Traffic {
    pub overflow: &'static str,
    /// In seconds.
    pub guard: i64,
    pub margin: u64,
    pub requests: Vec<PlannedRequest>,
}

impl Traffic {
    pub fn random(seed: u64, behaviors: &[Behavior]) -> Self {
        let mut random = Random(seed);
        let mut traffic = Self {
            overflow: ["keep_open", "close_until_reset"][random.below(2) as usize],
            guard: [600, 3_600, 43_200][random.below(3) as usize],
            margin: [0, 0, 50, 300][random.below(4) as usize],
            requests: Vec::new(),
        };
        for _ in 0..random.below(MAX_REQUESTS) {
            let request = traffic.request(&mut random, behaviors);
            traffic.requests.push(request);
        }
        traffic
    }

    /// Each request is over and settled before the next one is reserved. Some use more than was reserved, and BILLED ones
    /// run in their projects too. The last one of a day is over after midnight: then it has an upper bound, and runs
    /// elsewhere if it is BILLED.
    pub fn one_at_a_time(seed: u64) -> Self {
        let behaviors = &[Behavior::IsBilledInside, Behavior::IsUnderestimated];
        let mut traffic = Self {
            overflow: "keep_open",
            ..Self::random(seed, behaviors)
        };
        for (at, request) in (0_i64..).zip(&mut traffic.requests) {
            let (day, number) = (at / REQUESTS_PER_DAY, at % REQUESTS_PER_DAY + 1);
            let mut begin = day * DAY_SECONDS + 100 * number;
            (request.if_free, request.if_billed) = (Fate::Runs, Fate::Runs);
            if number == REQUESTS_PER_DAY {
                begin = (day + 1) * DAY_SECONDS - 50;
                request.if_billed = Fate::RunsElsewhere;
                request.actual = request.actual.min(request.reserved);
            }
            (request.reserved_at, request.started) = (begin, begin);
            (request.ended, request.settled_at) = (begin + 70, begin + 70);
        }
        traffic
    }

    pub fn without(&self, at: usize) -> Self {
        let mut rest = self.clone();
        rest.requests.remove(at);
        rest
    }

    fn request(&self, random: &mut Random, behaviors: &[Behavior]) -> PlannedRequest {
        let mut percent = |share: u64| random.below(100) < share;
        let has = |it| behaviors.contains(&it);
        let is_mini = percent(30);
        let (_, _, models) = POOLS[usize::from(is_mini)];
        let model = if percent(8) {
            UNLISTED
        } else {
            models[usize::from(percent(40))]
        };
        let project = if percent(8) {
            PRIVATE
        } else {
            SHARING[usize::from(percent(40))]
        };
        let workload = match () {
            () if percent(5) => UNCOVERED,
            () if percent(10) => "batch",
            () => WORKLOADS[usize::from(percent(20))],
        };
        let route = match () {
            () if has(Behavior::GoesPast) && percent(20) => Route::Past,
            () if has(Behavior::IsAnnounced) && percent(10) => Route::Announced,
            () => Route::Tollgate,
        };
        let (is_exact, is_underestimated) =
            (percent(50), has(Behavior::IsUnderestimated) && percent(40));
        let has_id = !(has(Behavior::LacksId) && percent(50));
        let is_retried = percent(10);
        let if_free = free_fate(random, behaviors);
        let if_billed = billed_fate(random, behaviors, model, project);
        let reserved = (1 + random.below(400)) * if is_mini { 2 } else { 1 };
        let actual = match () {
            () if is_underestimated => reserved + random.below(2 * reserved),
            () if is_exact => reserved,
            () => random.below(reserved + 1),
        };
        let [reserved_at, started, ended, settled_at] = self.times(random, behaviors, route);
        PlannedRequest {
            route,
            project,
            model,
            workload,
            reserved,
            actual,
            reserved_at,
            started,
            ended,
            settled_at,
            has_id,
            is_retried,
            if_free,
            if_billed,
        }
    }

    /// When it is reserved, begins, ends and is settled. No moment is near midnight or the start of a guard, since the
    /// clock advances during a call.
    fn times(&self, random: &mut Random, behaviors: &[Behavior], route: Route) -> [i64; 4] {
        let has = |it| behaviors.contains(&it);
        let mut below = |bound: i64| random.below(bound.unsigned_abs()) as i64;
        let coarse = |moment: i64| moment / 10 * 10 + 1;
        let day = below(DAYS) * DAY_SECONDS;
        let reserved_at = coarse(match below(3) {
            0 | 1 => day + DAY_SECONDS - 1_800 + below(3_600),
            _ => day + below(DAY_SECONDS),
        });
        let longest = [600, 600, 600, 10_800][below(4) as usize];
        let mut ended = coarse(reserved_at + below(longest));
        let midnight = (reserved_at / DAY_SECONDS + 1) * DAY_SECONDS;
        if ended > midnight && !has(Behavior::EndsPastTheGuard) {
            let may_cross = has(Behavior::CrossesMidnight) && route == Route::Tollgate;
            let latest = reserved_at + self.guard;
            ended = match may_cross && latest > midnight {
                true => ended.min(latest),
                false => coarse(midnight - 1),
            };
        }
        let started = coarse(reserved_at + below(ended - reserved_at + 1));
        let delay = [1, 1, 3_600, 18_000][below(4) as usize];
        let settled_at = coarse(ended + below(delay));
        [reserved_at, started, ended, settled_at]
    }

    pub fn policy(&self) -> Policy {
        policy_text(&self.policy_text())
    }

    pub fn policy_text(&self) -> String {
        let Self {
            overflow,
            guard,
            margin,
            ..
        } = self;
        let mut text = format!(
            "[program]\noverflow = \"{overflow}\"\nmidnight_guard = \"{guard}s\"\nmargin = {margin}\n\
             covered_workloads = {WORKLOADS:?}\n"
        );
        for (pool, _, models) in POOLS {
            text += &format!("[pools.{pool}]\nmodels = {models:?}\n");
        }
        for tier in [1, 3] {
            text += &format!("[tiers.{tier}]\n");
            for (pool, allowance, _) in POOLS {
                text += &format!("{pool} = {}\n", allowance * tier);
            }
        }
        text + &format!(
            "[orgs.acme]\ntier = 1\ndata_sharing = \"selected\"\nprojects = {SHARING:?}\n"
        )
    }
}

/// The provider's programme as the policy has it.
pub fn programme() -> Programme {
    let pools = POOLS.map(|(pool, allowance, models)| (pool, allowance, models.to_vec()));
    Programme {
        projects: SHARING.to_vec(),
        pools: pools.to_vec(),
        workloads: WORKLOADS.to_vec(),
        total: RunningTotal::FreeOnly,
        day: CountedOn::End,
    }
}

fn free_fate(random: &mut Random, behaviors: &[Behavior]) -> Fate {
    let has = |it| behaviors.contains(&it);
    match random.below(100) {
        0..10 if has(Behavior::IsNotEnded) => Fate::RunsUnsettled,
        10..15 if has(Behavior::IsNotEnded) => Fate::IsAbandoned,
        15..35 if has(Behavior::IsReleasedThoughRun) => Fate::RunsAndIsReleased,
        35..45 => Fate::IsReleased,
        45..52 => Fate::RunsElsewhere,
        _ => Fate::Runs,
    }
}

fn billed_fate(random: &mut Random, behaviors: &[Behavior], model: &str, project: &str) -> Fate {
    let has = |it| behaviors.contains(&it);
    let is_unlisted = model == UNLISTED;
    let is_inside = project == PRIVATE
        || has(Behavior::IsBilledInside)
        || (has(Behavior::IsUnlistedInside) && is_unlisted);
    match random.below(10) {
        _ if is_inside => Fate::Runs,
        0..4 => Fate::RunsElsewhere,
        4..7 => Fate::RunsInPrivate,
        7..9 => Fate::IsReleased,
        _ => Fate::IsAbandoned,
    }
}
