//! The gRPC surface of a real service: bounds, malformed messages, paging, and callers that leave.

mod bounds;
mod compression;
mod estimate;
mod external_usage;
mod field_numbers;
mod in_flight;
mod organizations;
mod stream;
mod usage;
mod wire;

use tollgate::grpc::proto::{GetQuotaRequest, PoolQuota, ReserveRequest};
use tonic::{Code, Status};

use crate::support::{
    calls::TextFile, clock::Clock, redis::RedisServer, tollgate::Tollgate, world::NOON,
};

/// Runs each case over every store of a service: `async fn case(service: Service)`.
macro_rules! over_every_store {
    ($($case:ident),+ $(,)?) => {
        mod memory {
            $(#[tokio::test] async fn $case() { super::$case(super::Service::memory()).await; })+
        }
        mod file {
            $(#[tokio::test] async fn $case() { super::$case(super::Service::file()).await; })+
        }
        mod redis {
            $(#[tokio::test] async fn $case() { super::$case(super::Service::redis()).await; })+
        }
    };
}
use over_every_store;

/// A service with the built-in policy and more organizations, under a clock at noon.
struct Service {
    tollgate: Tollgate,
    redis: Option<RedisServer>,
    clock: Clock,
}

/// `org-0` and so on, in the tier of the demo organization.
const MORE_ORGS: usize = 40;

fn policy() -> TextFile {
    let more =
        (0..MORE_ORGS).map(|at| format!("[orgs.org-{at}]\ntier = 3\ndata_sharing = \"all\"\n"));
    let text = include_str!("../../src/policy/builtin.toml").to_owned();
    TextFile::new(&(text + &more.collect::<String>()))
}

impl Service {
    fn memory() -> Self {
        let clock = Clock::at(NOON);
        Self {
            tollgate: Tollgate::start_at(
                &clock,
                &["--store", "memory:", "--policy", policy().path()],
            ),
            redis: None,
            clock,
        }
    }

    /// On the file store, the default.
    fn file() -> Self {
        let clock = Clock::at(NOON);
        // A slow disk is no failure.
        let long_timeout = TextFile::new("call_timeout = \"30s\"\n");
        let policy = policy();
        let args = ["--policy", policy.path(), "--config", long_timeout.path()];
        Self {
            tollgate: Tollgate::start_at(&clock, &args),
            redis: None,
            clock,
        }
    }

    fn redis() -> Self {
        let clock = Clock::at(NOON);
        let redis = RedisServer::start_at(&clock);
        // A pause of the store by a test is no failure.
        let dir = tempfile::tempdir().unwrap();
        let settings = dir.path().join("tollgate.toml");
        std::fs::write(
            &settings,
            "call_timeout = \"30s\"\n[redis]\nresponse_timeout = \"30s\"\n",
        )
        .unwrap();
        let settings = settings.to_str().unwrap();
        let (url, policy) = (redis.url(), policy());
        let args = [
            "--store",
            &url,
            "--config",
            settings,
            "--policy",
            policy.path(),
        ];
        Self {
            tollgate: Tollgate::start_at(&clock, &args),
            redis: Some(redis),
            clock,
        }
    }

    /// The quota of org-demo's pool `large`.
    async fn large(&self) -> PoolQuota {
        let org = "org-demo".to_owned();
        let mut client = self.tollgate.client();
        let quota = client.get_quota(GetQuotaRequest { org }).await;
        let pools = quota.unwrap().into_inner().pools;
        pools.into_iter().find(|it| it.pool == "large").unwrap()
    }
}

/// A Reserve of the demo organization.
fn new_reserve(tokens: u64) -> ReserveRequest {
    ReserveRequest {
        org: "org-demo".to_owned(),
        project: "p".to_owned(),
        model: "gpt-4o".to_owned(),
        tokens,
        ..ReserveRequest::default()
    }
}

/// Asserts that the message of an `INVALID_ARGUMENT` names the field.
fn assert_names<T: std::fmt::Debug>(
    field: &str,
    answer: Result<tonic::Response<T>, Status>,
    what: &str,
) {
    let status = answer.expect_err(what);
    assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status}");
    let named = status.message().starts_with(&format!("{field}: "));
    assert!(named, "{what}: {field} is not named by {status}");
}
