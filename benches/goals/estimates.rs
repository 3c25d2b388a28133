//! How long the estimate of a large body takes at most.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use tollgate::{
    estimate::{Endpoint, EstimateError, estimate},
    policy::Policy,
};

use super::{Scale, log_progress, median};

pub(crate) const NAME: &str = "estimate of 1 MiB";

const BODY_BYTES: usize = 1 << 20;

/// How often each body is estimated. The figure is the median.
const REPETITIONS: usize = 9;

/// The endpoints, and what the slowest bodies found for each are made of: a beginning, something that is repeated up to
/// the size, and an end.
const BODIES: [(&str, &str, &str, &str); 16] = [
    ("/chat/completions", r#"{"messages":[],"x":["#, "1,", "0]}"),
    (
        "/chat/completions",
        r#"{"messages":[],"x":["#,
        "[1],",
        "0]}",
    ),
    ("/chat/completions", r#"{"messages":[],"x":["#, "[],", "0]}"),
    ("/chat/completions", r#"{"messages":[],"x":["#, "1 ,", "0]}"),
    (
        "/chat/completions",
        r#"{"messages":[],"x":["#,
        "[[[[[[[[[]]]]]]]]],",
        "0]}",
    ),
    (
        "/chat/completions",
        r#"{"messages":[],"x":{"#,
        r#""":0,"#,
        r#""":0}}"#,
    ),
    (
        "/chat/completions",
        r#"{"messages":[],"#,
        r#""":"","#,
        r#""":0}"#,
    ),
    (
        "/chat/completions",
        r#"{"messages":[],"#,
        r#""\n":"\n","#,
        r#""":0}"#,
    ),
    ("/chat/completions", r#"{"messages":["#, "{},", "{}]}"),
    (
        "/chat/completions",
        r#"{"messages":["#,
        r#"{"":0},"#,
        "{}]}",
    ),
    ("/chat/completions", r#"{"messages":["#, "1,", "0]}"),
    (
        "/chat/completions",
        r#"{"messages":[{"content":["#,
        "{},",
        "{}]}]}",
    ),
    (
        "/chat/completions",
        r#"{"messages":[],"tools":["#,
        r#"{"":0},"#,
        "{}]}",
    ),
    ("/responses", r#"{"input":["#, "{},", "{}]}"),
    ("/embeddings", r#"{"input":["#, "1,", "0]}"),
    ("/embeddings", r#"{"input":["#, "[1],", "[]]}"),
];

/// The slowest of the bodies, in milliseconds.
pub(crate) fn measure(scale: &Scale) -> anyhow::Result<Option<f64>> {
    if !scale.wants(NAME) {
        return Ok(None);
    }
    log_progress(NAME);
    let policy = Policy::builtin();
    let mut slowest: f64 = 0.0;
    for (path, beginning, repeated, end) in BODIES {
        let count = (BODY_BYTES - beginning.len() - end.len()) / repeated.len();
        let body = format!("{beginning}{}{end}", repeated.repeat(count));
        let endpoint = Endpoint::of_path(path)?;
        let mut took = Vec::new();
        for _ in 0..REPETITIONS {
            let started = Instant::now();
            let capacity = |model: &str| policy.capacity(model);
            let covers = |workload| policy.covers(workload);
            let estimate = estimate(endpoint, body.as_bytes(), Some("gpt-4o"), capacity, covers);
            took.push(started.elapsed().as_secs_f64() * 1e3);
            let is_read = !matches!(estimate, Err(EstimateError::Malformed { .. }));
            ensure!(is_read, "{path}, {beginning}: {estimate:?}");
        }
        slowest = slowest.max(median(took).context("nothing was estimated")?);
    }
    Ok(Some(slowest))
}
