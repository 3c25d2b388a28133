//! SetExternalUsage over the wire: its bounds, and the audit log.

use serde_json::Value;
use tollgate::grpc::proto::SetExternalUsageRequest;
use tonic::Code;

use crate::support::{
    calls::{TextFile, large, policy_file},
    tollgate::Tollgate,
};

fn request(tokens: u64) -> SetExternalUsageRequest {
    SetExternalUsageRequest {
        org: "acme".to_owned(),
        pool: "large".to_owned(),
        tokens,
        note: "the batch job of this morning".to_owned(),
    }
}

/// The events of the audit log.
fn audit(tollgate: &Tollgate) -> Vec<Value> {
    let mut lines = tollgate.log();
    lines.retain(|line| line["target"] == "audit");
    lines
}

#[tokio::test]
async fn each_change_is_an_event_in_the_audit_log() {
    let (policy, settings) = (policy_file(1_000), TextFile::new("http_api = true\n"));
    let args = [
        "--store",
        "memory:",
        "--policy",
        policy.path(),
        "--config",
        settings.path(),
    ];
    let tollgate = Tollgate::start(&args);
    let client = tollgate.client();
    for tokens in [300, 250] {
        let set = client.clone().set_external_usage(request(tokens)).await;
        let set = set.unwrap().into_inner();
        assert_eq!(
            (set.external_tokens, set.remaining),
            (tokens, 1_000 - tokens)
        );
    }
    let pool = large(&client).await;
    assert_eq!(
        (pool.external_tokens, pool.remaining, pool.used),
        (250, 750, 0)
    );
    let events = audit(&tollgate);
    assert_eq!(events.len(), 2, "{events:?}");
    for (event, (before, after)) in events.iter().zip([(0, 300), (300, 250)]) {
        assert_eq!(
            (&event["org"], &event["pool"]),
            (&"acme".into(), &"large".into())
        );
        assert_eq!(
            (&event["before"], &event["after"]),
            (&before.into(), &after.into())
        );
        assert_eq!(event["note"], "the batch job of this morning");
        assert_eq!(
            (&event["operation"], &event["level"]),
            (&"set_external_usage".into(), &"INFO".into())
        );
    }
}

#[tokio::test]
async fn what_is_out_of_bounds_or_unknown_changes_nothing_and_is_no_event() {
    let policy = policy_file(1_000);
    let tollgate = Tollgate::start(&["--store", "memory:", "--policy", policy.path()]);
    let client = tollgate.client();
    let with = |change: &dyn Fn(&mut SetExternalUsageRequest)| {
        let mut request = request(1);
        change(&mut request);
        request
    };
    for (request, code, field) in [
        (with(&|it| it.org.clear()), Code::InvalidArgument, "org"),
        (with(&|it| it.pool.clear()), Code::InvalidArgument, "pool"),
        (
            with(&|it| it.tokens = 1_000_000_000_001),
            Code::InvalidArgument,
            "tokens",
        ),
        (
            with(&|it| it.note = "a\nb".to_owned()),
            Code::InvalidArgument,
            "note",
        ),
        (
            with(&|it| it.note = "n".repeat(513)),
            Code::InvalidArgument,
            "note",
        ),
        (
            with(&|it| it.org = "stranger".to_owned()),
            Code::NotFound,
            "org",
        ),
        (
            with(&|it| it.pool = "huge".to_owned()),
            Code::NotFound,
            "pool",
        ),
    ] {
        let status = client
            .clone()
            .set_external_usage(request)
            .await
            .unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(
            status.message().starts_with(&format!("{field}: ")),
            "{status}"
        );
    }
    let largest = with(&|it| (it.tokens, it.note) = (1_000_000_000_000, "n".repeat(512)));
    client.clone().set_external_usage(largest).await.unwrap();
    assert_eq!(audit(&tollgate).len(), 1);
}
