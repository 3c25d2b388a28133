//! A given number of requests, without measuring time.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context as _, bail, ensure};
use futures_util::stream;
use tokio::task::JoinSet;
use tollgate::grpc::proto::{
    ReserveRequest, ReserveStreamResponse, Verdict, quota_service_client::QuotaServiceClient,
    reserve_stream_response::Answer,
};

use super::processes::Service;

const STREAMS: u64 = 4;

const CONNECTIONS: usize = 4;

/// A request of the organization with this number, as those of `tollgate bench --org bench --orgs`.
pub(crate) fn of_organization(number: u64) -> ReserveRequest {
    ReserveRequest {
        org: format!("bench-{number}"),
        project: "bench".to_owned(),
        model: "gpt-4o".to_owned(),
        tokens: 1,
        ..ReserveRequest::default()
    }
}

/// Sends the requests of these numbers one by one: a closed loop of so many callers over several connections.
///
/// # Errors
///
/// Not all were answered FREE.
pub(crate) async fn send_by_callers(
    callers: usize,
    service: &Service,
    numbers: Range<u64>,
    request: impl Fn(u64) -> ReserveRequest + Copy + Send + 'static,
) -> anyhow::Result<()> {
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS.min(callers) {
        let addr = format!("http://{}", service.addr);
        clients.push(QuotaServiceClient::connect(addr).await?);
    }
    let next = Arc::new(AtomicU64::new(numbers.start));
    let mut calls = JoinSet::new();
    for client in clients.iter().cycle().take(callers) {
        let (mut client, next) = (client.clone(), Arc::clone(&next));
        calls.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= numbers.end {
                    return anyhow::Ok(());
                }
                let reserved = client.reserve(request(number)).await?.into_inner();
                ensure!(
                    reserved.verdict() == Verdict::Free,
                    "not FREE: {reserved:?}"
                );
            }
        });
    }
    while let Some(caller) = calls.join_next().await {
        caller??;
    }
    Ok(())
}

/// Sends the requests of these numbers over several streams, and waits for their answers.
///
/// # Errors
///
/// Not all were answered FREE.
pub(crate) async fn send_over_streams(
    service: &Service,
    numbers: Range<u64>,
    request: fn(u64) -> ReserveRequest,
) -> anyhow::Result<()> {
    let mut streams = JoinSet::new();
    for first in 0..STREAMS {
        let addr = format!("http://{}", service.addr);
        let numbers = numbers.clone().skip(first as usize);
        streams.spawn(one_stream(
            addr,
            numbers.step_by(STREAMS as usize).map(request),
        ));
    }
    let mut answered = 0;
    while let Some(stream) = streams.join_next().await {
        answered += stream??;
    }
    let requests = numbers.end - numbers.start;
    ensure!(answered == requests, "{answered} answers to {requests}");
    Ok(())
}

async fn one_stream(
    addr: String,
    requests: impl Iterator<Item = ReserveRequest> + Send + 'static,
) -> anyhow::Result<u64> {
    let mut client = QuotaServiceClient::connect(addr).await?;
    let answers = client.reserve_stream(stream::iter(requests)).await?;
    let mut answers = answers.into_inner();
    let mut answered = 0;
    while let Some(ReserveStreamResponse { answer }) = answers.message().await? {
        match answer.context("an empty answer")? {
            Answer::Reserved(reserved) if reserved.verdict() == Verdict::Free => answered += 1,
            other => bail!("not FREE: {other:?}"),
        }
    }
    Ok(answered)
}
