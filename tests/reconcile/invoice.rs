//! docs/FINANCE.md, "Does it agree with the invoice?": billed tokens, times the price, are what the provider's costs have.

use std::{collections::BTreeMap, process::Command};

use serde_json::Value;

use super::FREE;
use crate::support::{
    clock::Clock,
    costs_api::PRICE,
    tollgate::{Tollgate, program},
    tools::run,
    usage_api::{ADMIN_KEY, UsageApiServer, UsageEvent},
    world::NOON,
};

/// Tokens by day and project.
type Billed = BTreeMap<(String, String), u64>;

fn events() -> Vec<UsageEvent> {
    [
        ("2026-11-20T10:00:00Z", "proj_a", FREE, 1_000),
        ("2026-11-20T11:00:00Z", "proj_a", "default", 70),
        ("2026-11-20T12:00:00Z", "proj_b", "flex", 500),
        ("2026-11-21T10:00:00Z", "proj_a", "default", 4_000),
        ("2026-11-21T10:00:00Z", "proj_b", FREE, 300),
    ]
    .map(|(at, project, tier, tokens)| UsageEvent::new(at, project, "gpt-4o", tier, tokens))
    .into()
}

/// By the file for accounting.
fn of_the_file(provider: &UsageApiServer) -> Billed {
    let clock = Clock::at(NOON);
    let service = Tollgate::start_at(&clock, &["--store", "memory:"]);
    let mut command = program();
    clock.preload(&mut command);
    command
        .env("OPENAI_ADMIN_KEY", ADMIN_KEY)
        .args(["reconcile", "--org", "org-demo", "--addr", &service.addr])
        .args(["--api-base", &provider.base, "--days", "3", "--csv"]);
    let file = run(&mut command).stdout;
    let mut reader = csv::Reader::from_reader(file.as_bytes());
    let rows = reader.deserialize().map(|row| {
        let row: BTreeMap<String, String> = row.unwrap();
        let key = (row["day"].clone(), row["project"].clone());
        (key, row["provider_billed_tokens"].parse().unwrap())
    });
    rows.filter(|(_, tokens)| *tokens > 0).collect()
}

/// By the provider's costs.
fn of_the_costs(provider: &UsageApiServer) -> Billed {
    let start = "start_time=1795132800&limit=3&group_by[]=project_id";
    let url = format!("{}/organization/costs?{start}", provider.base);
    let key = format!("authorization: Bearer {ADMIN_KEY}");
    let mut curl = Command::new("curl");
    curl.args([
        "--silent",
        "--fail",
        "--globoff",
        "--max-time",
        "30",
        "--header",
        &key,
        &url,
    ]);
    let page: Value = serde_json::from_str(&run(&mut curl).expect_success()).unwrap();
    let buckets = page["data"].as_array().unwrap().iter();
    let costs = buckets.flat_map(|bucket| {
        let start = bucket["start_time"].as_i64().unwrap();
        let day = chrono::DateTime::from_timestamp(start, 0).unwrap();
        let results = bucket["results"].as_array().unwrap().iter();
        results.map(move |result| {
            let project = result["project_id"].as_str().unwrap().to_owned();
            let value = result["amount"]["value"].as_f64().unwrap();
            let tokens = (value / PRICE * 1e6).round();
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            ((day.format("%F").to_string(), project), tokens as u64)
        })
    });
    costs.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn billed_tokens_of_the_file_times_the_price_are_the_costs() {
    let provider = UsageApiServer::start("2026-11-22T12:00:00Z", events()).await;
    let (file, costs) =
        tokio::task::block_in_place(|| (of_the_file(&provider), of_the_costs(&provider)));
    assert_eq!(file, costs);
    let wanted = [
        ("2026-11-20", "proj_a", 70),
        ("2026-11-20", "proj_b", 500),
        ("2026-11-21", "proj_a", 4_000),
    ];
    // What was only free is in no cost.
    let wanted =
        wanted.map(|(day, project, tokens)| ((day.to_owned(), project.to_owned()), tokens));
    assert_eq!(costs, wanted.into());
}
