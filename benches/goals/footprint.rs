//! Memory use.

use std::time::{Duration, Instant};

use tollgate::grpc::proto::ReserveRequest;

use super::{
    Scale,
    fixed_load::{of_organization, send_over_streams},
    load::{self, Target},
    log_progress,
    processes::{PolicyFile, Redis, Service},
};

const RESERVES_ON_MEMORY: &str = "footprint of reserves on memory";
const RESERVES_ON_REDIS: &str = "footprint of reserves on redis";
const IDS: &str = "footprint of ids";
const ORGANIZATIONS: &str = "footprint of organizations";
const POLICY: &str = "footprint of a policy";

/// Reserves stop after this time even if not all are done, so that a run takes minutes on any machine.
const MAX_DURATION: Duration = Duration::from_secs(40);

/// The measurements that were selected.
#[derive(Default)]
pub(crate) struct Footprint {
    pub(crate) reserves: Vec<Reserves>,
    pub(crate) ids: Option<RedisBytes>,
    pub(crate) organizations: Option<RedisBytes>,
    pub(crate) policy: Option<LargePolicy>,
}

/// The server's memory over many reserves.
pub(crate) struct Reserves {
    pub(crate) store: &'static str,
    pub(crate) count: u64,
    /// The number of reserves at `early_bytes`.
    pub(crate) early_count: u64,
    pub(crate) early_bytes: u64,
    pub(crate) late_bytes: u64,
}

/// Redis' memory for each of many ids, or organizations.
pub(crate) struct RedisBytes {
    pub(crate) count: u64,
    pub(crate) bytes_each: f64,
}

/// The cost of a policy of many organizations.
pub(crate) struct LargePolicy {
    pub(crate) organizations: u64,
    pub(crate) bytes_each: f64,
    /// The additional latency of the longest call during a reload, in microseconds.
    pub(crate) reload_delay: f64,
}

pub(crate) async fn measure(scale: &Scale) -> anyhow::Result<Footprint> {
    let mut footprint = Footprint::default();
    if scale.wants(POLICY) {
        log_progress(POLICY);
        footprint.policy = Some(large_policy(scale).await?);
    }
    if scale.wants(IDS) {
        log_progress(IDS);
        let policy = PolicyFile::of([organization(0)])?;
        footprint.ids = Some(redis_bytes(&policy, scale.ids, with_id).await?);
    }
    if scale.wants(ORGANIZATIONS) {
        log_progress(ORGANIZATIONS);
        let count = scale.organizations;
        let names = (0..count).map(|number| format!("bench-{number}"));
        let policy = PolicyFile::of(names.chain([organization(0)]))?;
        footprint.organizations = Some(redis_bytes(&policy, count, of_organization).await?);
    }
    if scale.wants(RESERVES_ON_MEMORY) {
        log_progress(RESERVES_ON_MEMORY);
        let policy = PolicyFile::of([organization(0)])?;
        let service = Service::tollgate("memory:", Some(&policy)).await?;
        let measurements = reserves("memory", &service, scale.reserves).await?;
        footprint.reserves.push(measurements);
    }
    if scale.wants(RESERVES_ON_REDIS) {
        log_progress(RESERVES_ON_REDIS);
        let policy = PolicyFile::of([organization(0)])?;
        let (_redis, service) = over_redis(&policy).await?;
        let measurements = reserves("redis", &service, scale.reserves).await?;
        footprint.reserves.push(measurements);
    }
    Ok(footprint)
}

async fn reserves(store: &'static str, service: &Service, wanted: u64) -> anyhow::Result<Reserves> {
    let started = Instant::now();
    let early_count = wanted / 10;
    send_over_streams(service, 0..early_count, without_id).await?;
    let early_bytes = service.resident_bytes()?;
    let mut count = early_count;
    while count < wanted && started.elapsed() < MAX_DURATION {
        let more = (count + early_count).min(wanted);
        send_over_streams(service, count..more, without_id).await?;
        count = more;
    }
    Ok(Reserves {
        store,
        count,
        early_count,
        early_bytes,
        late_bytes: service.resident_bytes()?,
    })
}

/// Redis' memory for what each of so many requests leaves.
async fn redis_bytes(
    policy: &PolicyFile,
    count: u64,
    request: fn(u64) -> ReserveRequest,
) -> anyhow::Result<RedisBytes> {
    let (redis, service) = over_redis(policy).await?;
    // So that counters, scripts and connections exist before.
    send_over_streams(&service, 0..1000, without_id).await?;
    let before = redis.used_bytes()?;
    send_over_streams(&service, 0..count, request).await?;
    let grown = redis.used_bytes()?.saturating_sub(before);
    Ok(RedisBytes {
        count,
        bytes_each: grown as f64 / count as f64,
    })
}

/// The additional latency of a single caller's longest call during a reload, in microseconds.
async fn reload_delay(
    service: &Service,
    policy: &PolicyFile,
    lasts: Duration,
) -> anyhow::Result<f64> {
    let target = Target {
        service,
        redis: None,
    };
    let one = format!("--org {} --callers 1 --connections 1", organization(0));
    load::run(target, &one, lasts / 4).await?;
    let alone = load::run(target, &one, lasts).await?.max;
    let changing = async {
        tokio::time::sleep(lasts / 4).await;
        policy.append("\n[orgs.another]\ntier = 3\ndata_sharing = \"all\"\n")
    };
    let (during_reload, changed) = tokio::join!(load::run(target, &one, lasts), changing);
    changed?;
    Ok((during_reload?.max - alone).max(0.0))
}

async fn large_policy(scale: &Scale) -> anyhow::Result<LargePolicy> {
    let organizations = scale.policy_organizations;
    let large = PolicyFile::of((0..organizations).map(organization))?;
    let small = PolicyFile::of([organization(0)])?;
    let started = Instant::now();
    let with_large = Service::tollgate("memory:", Some(&large)).await?;
    let read_in = started.elapsed();
    let with_small = Service::tollgate("memory:", Some(&small)).await?;
    // Without any call.
    tokio::time::sleep(scale.settle).await;
    let (more, less) = (with_large.resident_bytes()?, with_small.resident_bytes()?);
    // Long enough for a reload beside a caller.
    let lasts = scale.load + 4 * read_in;
    Ok(LargePolicy {
        organizations,
        reload_delay: reload_delay(&with_large, &large, lasts).await?,
        bytes_each: more.saturating_sub(less) as f64 / organizations as f64,
    })
}

async fn over_redis(policy: &PolicyFile) -> anyhow::Result<(Redis, Service)> {
    let redis = Redis::start().await?;
    let service = Service::tollgate(&redis.url(), Some(policy)).await?;
    Ok((redis, service))
}

/// A name in the provider's format.
fn organization(number: u64) -> String {
    format!("org-{:024x}", u128::from(scattered(number)))
}

/// A typical request of a gateway, for one of ten projects.
fn without_id(number: u64) -> ReserveRequest {
    ReserveRequest {
        org: organization(0),
        project: format!("proj_{:024x}", u128::from(scattered(number % 10))),
        model: "gpt-4o-mini-2024-07-18".to_owned(),
        tokens: 1 + number % 10_000,
        ..ReserveRequest::default()
    }
}

/// The same with an id like a random UUID.
fn with_id(number: u64) -> ReserveRequest {
    let (high, low) = (scattered(number), scattered(!number));
    let request_id = format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xfff,
        low >> 52,
        low & 0xffff_ffff_ffff,
    );
    ReserveRequest {
        request_id,
        ..without_id(number)
    }
}

/// Spreads numbers over 64 bits without collisions (SplitMix64).
fn scattered(number: u64) -> u64 {
    let mixed = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}
