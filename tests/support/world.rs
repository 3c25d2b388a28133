//! A ledger over one of the stores, under a clock that the test sets. The contract suite and the property test use it.

use std::{
    cell::RefCell,
    mem,
    rc::Rc,
    sync::{Arc, Mutex},
};

use tollgate::{
    domain::{
        ModelName, OrgId, ProjectId, RequestFields, RequestId, Tokens, UtcDay, Verdict, Workload,
    },
    ledger::{
        Ledger, LedgerConfig, LedgerError, Notice, Quota, Released, Reserve, Reserved, Settle,
        Settled, Usage, UsageDays, UsagePage,
    },
    policy::Policy,
    store::{
        Store, UsageLimits,
        file::FileStore,
        memory::MemoryStore,
        redis::{Login, RedisConfig, RedisStore, RedisUrl, Timeouts, TlsFiles, UnsafeEviction},
    },
};

use tempfile::TempDir;

use super::{clock::Clock, cluster::RedisCluster, redis::RedisServer};

/// At noon no case crosses midnight by accident.
pub const NOON: &str = "2026-11-22T12:00:00Z";
pub const TODAY: &str = "2026-11-22";

pub struct World {
    pub clock: Arc<Clock>,
    pub store: Arc<dyn Store>,
    pub ledger: Ledger,
    notices: Arc<Mutex<Vec<Notice>>>,
    /// If the store is Redis.
    pub redis: Option<RedisServer>,
    cluster: Option<Rc<SharedCluster>>,
    /// The folder of a file store.
    dir: Option<TempDir>,
    /// The store's limits after [`World::empty`].
    pub limits: UsageLimits,
}

/// A cluster takes seconds to start: all cases of a test share one, and empty it.
struct SharedCluster {
    clock: Arc<Clock>,
    cluster: RedisCluster,
}

thread_local! {
    static CLUSTER: RefCell<Option<Rc<SharedCluster>>> = const { RefCell::new(None) };
}

/// While it exists, [`World::cluster`] has a cluster.
pub struct ClusterForCases;

impl ClusterForCases {
    pub fn start() -> Self {
        let clock = Arc::new(Clock::at(NOON));
        let cluster = RedisCluster::start_at(&clock);
        CLUSTER.set(Some(Rc::new(SharedCluster { clock, cluster })));
        Self
    }
}

impl Drop for ClusterForCases {
    fn drop(&mut self) {
        CLUSTER.set(None);
    }
}

/// A policy with one organization of tier 1 that grants `large` 1,000 and `mini` 10,000 tokens.
pub fn policy(overflow: &str) -> Policy {
    policy_text(&small_policy(overflow))
}

pub fn policy_text(text: &str) -> Policy {
    Policy::parse("test.toml", text).unwrap_or_else(|faults| panic!("{faults}"))
}

/// The text of [`policy`], which a test may change.
pub fn small_policy(overflow: &str) -> String {
    format!(
        "[program]\nname = \"test\"\noverflow = \"{overflow}\"\n\
         [pools.large]\nmodels = [\"gpt-4o\", \"o1\"]\n\
         [pools.mini]\nmodels = [\"gpt-4o-mini\"]\n\
         [tiers.1]\nlarge = 1_000\nmini = 10_000\n\
         [orgs.acme]\ntier = 1\ndata_sharing = \"all\"\n\
         [orgs.other]\ntier = 1\ndata_sharing = \"all\"\n"
    )
}

impl World {
    pub fn memory(policy: Policy) -> Self {
        let clock = Arc::new(Clock::at(NOON));
        let store = Arc::new(MemoryStore::new(clock.function(), UsageLimits::default()));
        Self::over(clock, store, policy)
    }

    pub fn file(policy: Policy) -> Self {
        let clock = Arc::new(Clock::at(NOON));
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(file_store(&dir, &clock, UsageLimits::default()));
        Self {
            dir: Some(dir),
            ..Self::over(clock, store, policy)
        }
    }

    pub fn redis(policy: Policy) -> Self {
        Self::over_server(policy, RedisServer::start_at)
    }

    /// Over the Valkey that `./scripts/test` installs.
    pub fn valkey(policy: Policy) -> Self {
        Self::over_server(policy, RedisServer::start_valkey_at)
    }

    fn over_server(policy: Policy, start: fn(&Clock) -> RedisServer) -> Self {
        let clock = Arc::new(Clock::at(NOON));
        let server = start(&clock);
        let store = Arc::new(redis_store(&server));
        Self {
            redis: Some(server),
            ..Self::over(clock, store, policy)
        }
    }

    /// Over the cluster that [`ClusterForCases`] started.
    pub fn cluster(policy: Policy) -> Self {
        let shared = CLUSTER.with_borrow(Clone::clone).unwrap();
        let clock = Arc::clone(&shared.clock);
        let store = Arc::new(redis_store_at(&shared.cluster.url()));
        let mut world = Self::over(clock, store, policy);
        world.cluster = Some(shared);
        world.empty();
        world
    }

    fn over(clock: Arc<Clock>, store: Arc<dyn Store>, policy: Policy) -> Self {
        let notices = Arc::default();
        let ledger = ledger(Arc::new(policy), Arc::clone(&store), &notices);
        Self {
            clock,
            store,
            ledger,
            notices,
            redis: None,
            cluster: None,
            dir: None,
            limits: UsageLimits::default(),
        }
    }

    /// Deletes everything, and sets the clock back to noon.
    pub fn empty(&mut self) {
        self.clock.set(NOON);
        // The store has snapshots of what Redis had, so a new one is needed.
        self.store = match (&self.redis, &self.cluster, &mut self.dir) {
            (Some(redis), ..) => {
                redis.run(&["FLUSHALL"]);
                Arc::new(limited_redis_store(&redis.url(), self.limits))
            }
            (None, Some(shared), _) => {
                for node in &shared.cluster.nodes {
                    node.run(&["FLUSHALL"]);
                }
                Arc::new(limited_redis_store(&shared.cluster.url(), self.limits))
            }
            (None, None, Some(dir)) => {
                *dir = tempfile::tempdir().unwrap();
                Arc::new(file_store(dir, &self.clock, self.limits))
            }
            (None, None, None) => Arc::new(MemoryStore::new(self.clock.function(), self.limits)),
        };
        let (policy, store) = (self.ledger.policy(), Arc::clone(&self.store));
        self.notices = Arc::default();
        self.ledger = ledger(policy, store, &self.notices);
    }

    /// The notices since the last call.
    pub fn take_notices(&self) -> Vec<Notice> {
        mem::take(&mut self.notices.lock().unwrap())
    }

    /// Whether the store keeps a day's counters until the end of the following day; Redis does not.
    pub fn is_embedded(&self) -> bool {
        self.redis.is_none() && self.cluster.is_none()
    }

    pub async fn reserve(&self, call: Reserve) -> Reserved {
        self.ledger.reserve(call).await.unwrap()
    }

    pub async fn settle(&self, id: &str, tokens: u64) -> Settled {
        self.try_settle("acme", id, tokens).await.unwrap()
    }

    pub async fn try_settle(
        &self,
        org: &str,
        id: &str,
        tokens: u64,
    ) -> Result<Settled, LedgerError> {
        let org = org_id(org);
        let call = Settle {
            org,
            ..new_settle(id, tokens)
        };
        self.ledger.settle(call).await
    }

    /// Settles a request of `acme` that ran outside the programme.
    pub async fn try_settle_outside(&self, id: &str, tokens: u64) -> Result<Settled, LedgerError> {
        let call = Settle {
            outside_program: true,
            ..new_settle(id, tokens)
        };
        self.ledger.settle(call).await
    }

    pub async fn release(&self, id: &str) -> Released {
        self.try_release("acme", id).await.unwrap()
    }

    pub async fn try_release(&self, org: &str, id: &str) -> Result<Released, LedgerError> {
        self.ledger.release(org_id(org), request_id(id)).await
    }

    pub async fn quota(&self, org: &str) -> Quota {
        self.ledger.quota(&org_id(org)).await.unwrap()
    }

    /// A pool's (used, free requests, billed tokens, billed requests) of `acme` today.
    pub async fn pool(&self, pool: &str) -> (u64, u64, u64, u64) {
        let quota = self.quota("acme").await;
        let found = quota
            .pools
            .iter()
            .find(|(balance, _)| balance.pool.as_str() == pool);
        let (balance, counters) = found.unwrap();
        assert_eq!(balance.used, counters.used);
        let (used, billed) = (counters.used.get(), counters.billed_tokens.get());
        (
            used,
            counters.free_requests,
            billed,
            counters.billed_requests,
        )
    }

    pub async fn try_usage(&self, org: &str, day: Option<&str>) -> Result<Usage, LedgerError> {
        let days = day.map_or(UsageDays::Today, |day| {
            UsageDays::Day(UtcDay::parse(day).unwrap())
        });
        let page = UsagePage {
            days,
            start: None,
            size: 1000,
        };
        self.ledger.usage(&org_id(org), page).await
    }

    /// The usage rows of a day as text: `project model pool free billed free_requests billed_requests`.
    pub async fn usage(&self, org: &str, day: Option<&str>) -> Vec<String> {
        let usage = self.try_usage(org, day).await.unwrap();
        let text = |row: &tollgate::ledger::UsageRow| {
            let pool = row.pool.as_ref().map_or("-", |pool| pool.as_str());
            let c = &row.counters;
            format!(
                "{} {} {pool} {} {} {} {}",
                row.project,
                row.model,
                c.free_tokens,
                c.billed_tokens,
                c.free_requests,
                c.billed_requests
            )
        };
        usage.rows.iter().map(text).collect()
    }
}

/// A ledger that adds its notices to a list.
fn ledger(policy: Arc<Policy>, store: Arc<dyn Store>, notices: &Arc<Mutex<Vec<Notice>>>) -> Ledger {
    let notices = Arc::clone(notices);
    Ledger::new(LedgerConfig {
        notices: Some(Arc::new(move |notice, _| {
            notices.lock().unwrap().push(notice);
        })),
        ..LedgerConfig::new(policy, store)
    })
}

pub fn file_store(dir: &TempDir, clock: &Clock, limits: UsageLimits) -> FileStore {
    let path = dir.path().join("tollgate.db");
    FileStore::open(&path, clock.function(), limits).unwrap()
}

pub fn redis_store(server: &RedisServer) -> RedisStore {
    redis_store_at(&server.url())
}

pub fn redis_store_at(url: &str) -> RedisStore {
    limited_redis_store(url, UsageLimits::default())
}

pub fn limited_redis_store(url: &str, usage_limits: UsageLimits) -> RedisStore {
    RedisStore::new(redis_config(url, usage_limits)).unwrap()
}

pub fn redis_config(url: &str, usage_limits: UsageLimits) -> RedisConfig {
    RedisConfig {
        url: RedisUrl::parse(url).unwrap(),
        tls: TlsFiles::default(),
        sentinel_login: Login::default(),
        key_prefix: "tollgate:".to_owned(),
        timeouts: Timeouts {
            connect: std::time::Duration::from_secs(5),
            response: std::time::Duration::from_secs(5),
        },
        wait_replicas: 0,
        usage_limits,
        unsafe_eviction: UnsafeEviction::Refuse,
    }
}

/// A Reserve of `acme`, project `p`, model `gpt-4o`, without an id.
pub fn new_reserve(tokens: u64) -> Reserve {
    Reserve {
        org: org_id("acme"),
        fields: RequestFields {
            project: ProjectId::parse("p").unwrap(),
            model: ModelName::parse("gpt-4o").unwrap(),
            tokens: Tokens::of_reserve(tokens).unwrap(),
            workload: Workload::Inference,
        },
        request_id: None,
        dry_run: false,
        has_run: false,
    }
}

/// A Settle of `acme`, within the programme.
pub fn new_settle(id: &str, tokens: u64) -> Settle {
    Settle {
        org: org_id("acme"),
        request_id: request_id(id),
        tokens: Tokens::of_settle(tokens).unwrap(),
        outside_program: false,
    }
}

/// Changes to a [`new_reserve`].
pub trait ReserveExt {
    fn id(self, id: &str) -> Self;
    fn org(self, org: &str) -> Self;
    fn project(self, project: &str) -> Self;
    fn model(self, model: &str) -> Self;
    fn workload(self, workload: Workload) -> Self;
    fn dry(self) -> Self;
}

impl ReserveExt for Reserve {
    fn id(mut self, id: &str) -> Self {
        self.request_id = Some(request_id(id));
        self
    }

    fn org(mut self, org: &str) -> Self {
        self.org = org_id(org);
        self
    }

    fn project(mut self, project: &str) -> Self {
        self.fields.project = ProjectId::parse(project).unwrap();
        self
    }

    fn model(mut self, model: &str) -> Self {
        self.fields.model = ModelName::parse(model).unwrap();
        self
    }

    fn workload(mut self, workload: Workload) -> Self {
        self.fields.workload = workload;
        self
    }

    fn dry(mut self) -> Self {
        self.dry_run = true;
        self
    }
}

pub fn org_id(org: &str) -> OrgId {
    OrgId::parse(org).unwrap()
}

pub fn request_id(id: &str) -> RequestId {
    RequestId::parse(id).unwrap()
}

/// The verdict as text: "FREE", or the billed reason's name.
pub fn verdict_text(verdict: Verdict) -> String {
    match verdict {
        Verdict::Free => "FREE".to_owned(),
        Verdict::Billed(reason) => format!("{reason:?}"),
    }
}
