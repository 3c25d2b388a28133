//! What the command line prints of the comparison with the provider: `quota`, `usage` and `top --once`.

use std::time::{Duration, Instant};

use serde_json::Value;
use tollgate::grpc::proto::ReserveRequest;

use crate::support::{
    calls::quota,
    compared::ComparedService,
    tollgate::program,
    tools::{WAIT_TIMEOUT, run},
    usage_api::UsageEvent,
    world::small_policy,
};

/// 100 FREE tokens of the ledger, of which the provider has 130; and 70 that only the provider has.
async fn service() -> ComparedService {
    let event = |project, model, tokens| {
        UsageEvent::new(
            "2026-11-22T08:00:00Z",
            project,
            model,
            "incentivized-tier",
            tokens,
        )
    };
    let events = vec![
        event("proj_p", "gpt-4o", 130),
        event("=x", "gpt-4o-mini", 70),
    ];
    let policy = small_policy("keep_open");
    let service = ComparedService::start(&policy, "p = \"proj_p\"", events).await;
    let client = service.tollgate.client();
    for project in ["p", "young"] {
        let request = ReserveRequest {
            org: "acme".to_owned(),
            project: project.to_owned(),
            model: "gpt-4o".to_owned(),
            tokens: 100,
            ..ReserveRequest::default()
        };
        client.clone().reserve(request).await.unwrap();
    }
    let deadline = Instant::now() + WAIT_TIMEOUT;
    let drift = async || {
        let comparisons = quota(&client).await.comparisons;
        let last = comparisons.last().cloned().unwrap_or_default();
        last.drift.first().map(|it| it.tokens)
    };
    while drift().await != Some(100) {
        assert!(Instant::now() < deadline, "{:?}", drift().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    service
}

fn printed(service: &ComparedService, words: &[&str]) -> String {
    let mut command = program();
    service.clock.preload(&mut command);
    let ran = run(command.args(words).args(["--addr", &service.tollgate.addr]));
    assert_eq!(ran.stderr, "", "{words:?}");
    ran.expect_success()
}

/// Without what is before the line that begins so, with single spaces.
fn from(text: &str, begin: &str) -> Vec<String> {
    let narrow = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines = text.lines().map(narrow);
    lines.skip_while(|line| !line.starts_with(begin)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn quota_and_top_show_drift_and_usage_has_the_providers_figures() {
    let service = service().await;
    let quota = printed(&service, &["quota", "acme"]);
    let lines = from(&quota, "compared");
    let [head, titles, past @ .., today] = &lines[..] else {
        panic!("{quota}")
    };
    assert_eq!(head, "compared with the provider 0 min ago");
    assert_eq!(
        (&**titles, &**today),
        ("DAY DRIFT", "2026-11-22 external 100")
    );
    assert!(
        past.len() >= 2 && past.iter().all(|day| day.ends_with(" agrees")),
        "{quota}"
    );
    let top = printed(&service, &["top", "--once"]);
    let lines = from(&top, "ORGANIZATION");
    assert!(lines[0].ends_with(" AGE DRIFT"), "{top}");
    assert!(lines[1].ends_with(" external 100"), "{top}");
    assert!(!lines[3].contains("external"), "{top}");
    let table = printed(&service, &["usage", "acme"]);
    let expected = [
        "PROJECT MODEL POOL FREE TOKENS BILLED TOKENS FREE REQUESTS BILLED REQUESTS PROVIDER FREE PROVIDER BILLED",
        "=x gpt-4o-mini mini 0 0 0 0 70 0",
        "p gpt-4o large 100 0 1 0 130 0",
        "young gpt-4o large 100 0 1 0 0 0",
    ];
    assert_eq!(from(&table, "PROJECT"), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_and_json_have_the_providers_figures_where_there_are_any() {
    let service = service().await;
    let client = service.tollgate.client();
    let request = ReserveRequest {
        org: "other".to_owned(),
        project: "p".to_owned(),
        model: "gpt-4o".to_owned(),
        tokens: 7,
        ..ReserveRequest::default()
    };
    client.clone().reserve(request).await.unwrap();
    let header = "org,day,project,model,pool,free_tokens,billed_tokens,free_requests,billed_requests,\
         provider_free_tokens,provider_billed_tokens";
    let rows = [
        "acme,2026-11-22,'=x,gpt-4o-mini,mini,0,0,0,0,70,0",
        "acme,2026-11-22,p,gpt-4o,large,100,0,1,0,130,0",
        "acme,2026-11-22,young,gpt-4o,large,100,0,1,0,0,0",
        "other,2026-11-22,p,gpt-4o,large,7,0,1,0,,",
    ];
    let csv = printed(&service, &["usage", "--all", "--csv"]);
    assert_eq!(
        csv.lines().collect::<Vec<_>>(),
        [&[header], &rows[..]].concat()
    );
    let json = printed(&service, &["usage", "--all", "--json"]);
    let provider = json.lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        line["provider_free_tokens"].as_u64()
    });
    assert_eq!(
        provider.collect::<Vec<_>>(),
        [Some(70), Some(130), Some(0), None]
    );
    let json: Value =
        serde_json::from_str(&printed(&service, &["usage", "acme", "--json"])).unwrap();
    assert_eq!(json["rows"][1]["provider"]["free_tokens"], 130);
    let last = json["comparisons"].as_array().unwrap().last().unwrap();
    assert_eq!(last["drift"][0]["kind"], "external", "{json}");
}
