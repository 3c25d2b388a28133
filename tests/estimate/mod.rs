//! The estimates of requests: an upper bound on their tokens.

mod faults;
mod table;
mod tokenizer;

use tollgate::{
    domain::{ModelCapacity, Workload},
    estimate::{Endpoint, Estimate, EstimateError, estimate},
};

/// Tokens of every request beside its text.
const REQUEST_TOKENS: u64 = 16;

const CAPACITY: ModelCapacity = ModelCapacity {
    context: 10_000,
    max_output: 1_000,
    image: 700,
};

/// A policy that covers inference only.
fn covers(workload: Workload) -> bool {
    workload == Workload::Inference
}

fn estimate_of(
    endpoint: Endpoint,
    body: &[u8],
    capacity: impl Fn(&str) -> ModelCapacity,
) -> Result<Estimate, EstimateError> {
    estimate(endpoint, body, Some("m"), capacity, covers)
}

fn of(endpoint: Endpoint, body: &str) -> Result<Estimate, EstimateError> {
    estimate_of(endpoint, body.as_bytes(), |_| CAPACITY)
}
