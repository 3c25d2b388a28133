//! Callers of `Reserve`: each has one call open at a time.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use tonic::{Code, Request, Status, client::Grpc, codegen::http::uri::PathAndQuery};

use super::{
    load::Course,
    tally::Tally,
    wire::{Answer, Requests, Wire},
};
use crate::cli::connection::Caller;

const METHOD: &str = "/tollgate.v1.QuotaService/Reserve";

/// One caller, from the first request to the last.
pub(super) async fn call(channel: Caller, requests: Arc<Requests>, course: Arc<Course>) -> Tally {
    let mut client = Grpc::new(channel);
    let mut tally = Tally::new();
    loop {
        let number = course.claim();
        let due = match course.due(number) {
            None => Instant::now(),
            Some(due) => {
                tokio::time::sleep_until(due.min(course.ends).into()).await;
                due
            }
        };
        if due >= course.ends {
            return tally;
        }
        let answer = ask(&mut client, &requests, number).await;
        let outcome = answer.map_err(|status| status.code());
        tally.count(due, Instant::now(), outcome);
        course.answered.fetch_add(1, Ordering::Relaxed);
    }
}

async fn ask(
    client: &mut Grpc<Caller>,
    requests: &Arc<Requests>,
    number: u64,
) -> Result<Answer, Status> {
    let ready = client.ready().await;
    ready.map_err(|error| Status::new(Code::Unavailable, error.to_string()))?;
    let codec = Wire::new(Arc::clone(requests));
    let path = PathAndQuery::from_static(METHOD);
    let answer = client.unary(Request::new(number), path, codec).await?;
    Ok(answer.into_inner())
}
