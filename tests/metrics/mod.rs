//! What the service exposes: metrics, traces, alerts and the dashboard.

mod alerts;
mod counters;
mod prometheus;
pub mod refusals;
mod traces;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{server::http_get, support::tollgate::Tollgate};

/// Longer than any service needs, also on a busy machine.
const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

/// The answer to a scrape.
fn scrape(tollgate: &Tollgate) -> String {
    let (head, body) = http_get(&tollgate.http_addr, "/metrics");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(head.to_lowercase().contains(kind), "{head}");
    assert!(body.ends_with("# EOF\n"), "{body}");
    body
}

/// The samples of a scrape: each series with its value.
fn samples(text: &str) -> BTreeMap<&str, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let samples = lines.map(|line| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        (series, value.parse().unwrap())
    });
    samples.collect()
}

/// The sum of all series of a name that have these labels.
fn sum(text: &str, name: &str, labels: &[&str]) -> f64 {
    let samples = samples(text);
    let of_name = samples.iter().filter(|(series, _)| {
        let rest = series.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
    });
    let found: Vec<f64> = of_name
        .filter(|(series, _)| labels.iter().all(|label| series.contains(label)))
        .map(|(_, value)| *value)
        .collect();
    assert!(!found.is_empty(), "{name} {labels:?}\n{text}");
    found.iter().sum()
}

/// Waits for this sum: counters may change shortly after the answer.
pub async fn wait_for(tollgate: &Tollgate, name: &str, labels: &[&str], wanted: f64) {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    loop {
        let text = scrape(tollgate);
        let found = sum(&text, name, labels);
        #[allow(clippy::float_cmp)]
        if found == wanted {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{name} {labels:?} is {found}, not {wanted}\n{text}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// One series of a scrape.
pub fn sample(tollgate: &Tollgate, name: &str) -> f64 {
    sum(&scrape(tollgate), name, &[])
}
