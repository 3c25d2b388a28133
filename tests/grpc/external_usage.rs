//! SetExternalUsage and ListExternalChanges over the wire: bounds, the audit log, and the list of changes.

use serde_json::Value;
use tollgate::grpc::proto::{ExternalSource, ListExternalChangesRequest, SetExternalUsageRequest};
use tonic::Code;

use crate::support::{
    calls::{TextFile, large, policy_file},
    clock::Clock,
    tollgate::Tollgate,
    world::NOON,
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

fn changes(org: &str, from_day: &str, to_day: &str) -> ListExternalChangesRequest {
    ListExternalChangesRequest {
        org: org.to_owned(),
        from_day: from_day.to_owned(),
        to_day: to_day.to_owned(),
    }
}

#[tokio::test]
async fn each_change_is_in_the_list_as_it_is_in_the_audit_log() {
    let (policy, clock) = (policy_file(1_000), Clock::at(NOON));
    let args = ["--store", "memory:", "--policy", policy.path()];
    let tollgate = Tollgate::start_at(&clock, &args);
    let mut client = tollgate.client();
    for tokens in [300, 250] {
        client.set_external_usage(request(tokens)).await.unwrap();
    }
    let listed = client.list_external_changes(changes("acme", "", "")).await;
    let listed = listed.unwrap().into_inner();
    assert_eq!(
        (&*listed.from_day, &*listed.to_day, &*listed.next_to_day),
        ("2026-11-22", "2026-11-22", "")
    );
    let mut events = audit(&tollgate);
    events.reverse();
    assert_eq!((events.len(), listed.changes.len()), (2, 2));
    for (event, change) in events.iter().zip(&listed.changes) {
        assert_eq!(event["before"], change.before);
        assert_eq!(event["after"], change.after);
        assert_eq!(event["note"], *change.note);
        assert_eq!(event["pool"], *change.pool);
        assert_eq!(event["outcome_known"], change.outcome_known);
        assert_eq!(change.source(), ExternalSource::Manual);
        let noon = clock.now().timestamp();
        assert!((noon..noon + 60).contains(&change.changed_at.unwrap().seconds));
    }
    let whole = changes("acme", "2026-11-16", "2026-11-22");
    let whole = client.list_external_changes(whole).await.unwrap();
    assert_eq!(whole.into_inner().changes.len(), 2);
}

#[tokio::test]
async fn days_of_changes_that_are_wrong_are_named() {
    let (policy, clock) = (policy_file(1_000), Clock::at(NOON));
    let args = ["--store", "memory:", "--policy", policy.path()];
    let tollgate = Tollgate::start_at(&clock, &args);
    for (org, from, to, code, field) in [
        ("", "", "", Code::InvalidArgument, "org"),
        ("acme", "soon", "", Code::InvalidArgument, "from_day"),
        ("acme", "", "2026-11-22", Code::InvalidArgument, "to_day"),
        (
            "acme",
            "2026-11-22",
            "2026-11-21",
            Code::InvalidArgument,
            "to_day",
        ),
        (
            "acme",
            "2026-09-01",
            "2026-11-22",
            Code::InvalidArgument,
            "from_day",
        ),
        (
            "acme",
            "2026-11-22",
            "2026-11-23",
            Code::OutOfRange,
            "to_day",
        ),
        ("acme", "2026-11-23", "", Code::OutOfRange, "from_day"),
        ("stranger", "", "", Code::NotFound, "org"),
    ] {
        let mut client = tollgate.client();
        let listed = client.list_external_changes(changes(org, from, to));
        let status = listed.await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        let named = status.message().starts_with(&format!("{field}: "));
        assert!(named, "{status}");
    }
}
