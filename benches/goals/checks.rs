//! The cost of Envoy's Check beside that of a Reserve with an id.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use tokio::task::JoinSet;
use tollgate::envoy::proto::envoy::service::auth::v3::{
    AttributeContext, CheckRequest,
    attribute_context::{HttpRequest, Request},
    authorization_client::AuthorizationClient,
};

use super::{
    Scale,
    load::{self, Target},
    log_progress,
    processes::{PolicyFile, Service, cpu_time},
};

pub(crate) const NAME: &str = "envoy check C=64";

const CALLERS: u64 = 64;
const CONNECTIONS: u64 = 4;

/// The size of a body.
const BODY_BYTES: usize = 2048;

/// The server's CPU time a call in one round, in microseconds.
pub(crate) struct CheckCost {
    pub(crate) check: f64,
    pub(crate) reserve: f64,
}

pub(crate) async fn measure(scale: &Scale) -> anyhow::Result<Vec<CheckCost>> {
    let mut rounds = Vec::new();
    if !scale.wants(NAME) {
        return Ok(rounds);
    }
    let policy = PolicyFile::of(["bench".to_owned()])?;
    let service = Service::before_envoy(&policy, "bench").await?;
    let target = Target {
        service: &service,
        redis: None,
    };
    let words = format!("--org bench --ids --callers {CALLERS} --connections {CONNECTIONS}");
    let numbers = Arc::new(AtomicU64::new(0));
    load::run(target, &words, scale.warm_up).await?;
    checks(&service, &numbers, scale.warm_up).await?;
    for number in 1..=scale.rounds {
        log_progress(&format!("round {number} of {}: {NAME}", scale.rounds));
        let reserve = load::run(target, &words, scale.load).await?.server_cpu;
        rounds.push(CheckCost {
            reserve: reserve.context("the server's CPU time")?,
            check: checks(&service, &numbers, scale.load).await?,
        });
    }
    Ok(rounds)
}

/// Sends Checks, and returns the server's CPU time for one.
async fn checks(
    service: &Service,
    numbers: &Arc<AtomicU64>,
    lasts: Duration,
) -> anyhow::Result<f64> {
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(AuthorizationClient::connect(format!("http://{}", service.addr)).await?);
    }
    let (before, ends) = (cpu_time(service.pid())?, Instant::now() + lasts);
    let mut callers = JoinSet::new();
    for client in clients.iter().cycle().take(CALLERS as usize) {
        let (mut client, numbers) = (client.clone(), Arc::clone(numbers));
        callers.spawn(async move {
            let mut answered = 0_u64;
            while Instant::now() < ends {
                let number = numbers.fetch_add(1, Ordering::Relaxed);
                let answer = client.check(check(number)).await?.into_inner();
                ensure!(
                    answer.dynamic_metadata.is_some(),
                    "not reserved: {answer:?}"
                );
                answered += 1;
            }
            Ok(answered)
        });
    }
    let mut answered = 0;
    while let Some(caller) = callers.join_next().await {
        answered += caller??;
    }
    let used = cpu_time(service.pid())?.saturating_sub(before);
    Ok(used.as_secs_f64() * 1e6 / answered as f64)
}

fn check(number: u64) -> CheckRequest {
    let head =
        r#"{"model":"gpt-4o","max_completion_tokens":100,"messages":[{"role":"user","content":""#;
    let text = "Is this free? ".repeat(BODY_BYTES / 14);
    let body = format!("{head}{text}\"}}]}}");
    let http = HttpRequest {
        id: number.to_string(),
        method: "POST".to_owned(),
        path: "/v1/chat/completions".to_owned(),
        raw_body: body.into(),
        ..HttpRequest::default()
    };
    CheckRequest {
        attributes: Some(AttributeContext {
            request: Some(Request { http: Some(http) }),
            ..AttributeContext::default()
        }),
    }
}
