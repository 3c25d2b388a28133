//! Unary `Reserve` calls: each caller has one open at a time.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use tonic::{Code, Request, Status, client::Grpc, codegen::http::uri::PathAndQuery};

use super::{
    codec::{PartialResponse, RequestCodec, Requests},
    measurements::Measurements,
    schedule::Schedule,
};
use crate::client::connection::AuthorizedChannel;

const METHOD: &str = "/tollgate.v1.QuotaService/Reserve";

/// Runs one caller until the load ends.
pub(super) async fn call(
    channel: AuthorizedChannel,
    requests: Arc<Requests>,
    schedule: Arc<Schedule>,
) -> Measurements {
    let mut client = Grpc::new(channel);
    let mut measurements = Measurements::new();
    loop {
        let number = schedule.claim();
        let due = match schedule.due(number) {
            None => Instant::now(),
            Some(due) => {
                tokio::time::sleep_until(due.min(schedule.ends).into()).await;
                due
            }
        };
        if due >= schedule.ends {
            return measurements;
        }
        let answer = reserve(&mut client, &requests, number).await;
        let outcome = answer.map_err(|status| status.code());
        measurements.count(due, Instant::now(), outcome);
        schedule.answered.fetch_add(1, Ordering::Relaxed);
    }
}

async fn reserve(
    client: &mut Grpc<AuthorizedChannel>,
    requests: &Arc<Requests>,
    number: u64,
) -> Result<PartialResponse, Status> {
    let ready = client.ready().await;
    ready.map_err(|error| Status::new(Code::Unavailable, error.to_string()))?;
    let codec = RequestCodec::new(Arc::clone(requests));
    let path = PathAndQuery::from_static(METHOD);
    let answer = client.unary(Request::new(number), path, codec).await?;
    Ok(answer.into_inner())
}
