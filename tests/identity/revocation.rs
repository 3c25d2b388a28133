//! The callers file may change while calls are open: the change applies to streams too.

use std::sync::Arc;

use futures_util::stream;
use tokio::sync::mpsc;
use tollgate::{
    auth::{CallerChanges, CallerSet, Callers, PortSecurity},
    grpc::proto::quota_service_client::QuotaServiceClient,
};
use tonic::Code;

use super::{
    ALL_ROLES, Service, URI, caller, callers,
    matrix::{call, new_reserve},
    tokens,
};
use crate::support::streams::next;

fn parsed(text: &str) -> Callers {
    Callers::parse("callers.toml", text.as_bytes()).unwrap()
}

#[tokio::test]
async fn a_token_is_rotated_without_a_moment_in_which_none_is_known() {
    let service = Service::start().await;
    let before = service.tls.channel(None, &["Bearer tg_before"]);
    let after = service.tls.channel(None, &["Bearer tg_after"]);
    let next = service.tls.channel(None, &["Bearer tg_next"]);
    let alive = async || {
        let mut alive = Vec::new();
        for channel in [&before, &after, &next] {
            let received = call(channel, "Reserve", "acme").await;
            alive.push(received.is_ok());
        }
        alive
    };
    assert_eq!(alive().await, [true, true, false]);
    for (now, wanted) in [
        (["tg_after"].as_slice(), [false, true, false]),
        (&["tg_after", "tg_next"], [false, true, true]),
        (&["tg_next"], [false, false, true]),
    ] {
        let text = caller("rotating", &tokens(now), ALL_ROLES, "acme");
        service.caller_set.replace(parsed(&text)).unwrap();
        assert_eq!(alive().await, wanted, "{now:?}");
    }
}

/// How an open stream of `acme` ends if the callers change after its first request.
async fn stream_after(service: &Service, headers: &[&str], text: &str) -> (Code, u64) {
    let certificate = service.certificate(&[URI]);
    let channel = service.tls.channel(Some(&certificate), headers);
    let (requests, sent) = mpsc::channel(8);
    let sent = stream::unfold(sent, async |mut sent| Some((sent.recv().await?, sent)));
    requests.send(new_reserve("acme", "")).await.unwrap();
    let mut client = QuotaServiceClient::new(channel);
    let answers = client.reserve_stream(sent).await.unwrap();
    let mut answers = answers.into_inner();
    let first = next(&mut answers).await.unwrap().unwrap();
    service.caller_set.replace(parsed(text)).unwrap();
    requests.send(new_reserve("acme", "")).await.unwrap();
    let code = match answers.message().await {
        Err(status) => status.code(),
        Ok(answer) => match answer.unwrap().answer.unwrap() {
            tollgate::grpc::proto::reserve_stream_response::Answer::Reserved(_) => Code::Ok,
            tollgate::grpc::proto::reserve_stream_response::Answer::Error(error) => {
                error.code.into()
            }
        },
    };
    (code, first.used)
}

#[tokio::test]
async fn an_open_stream_ends_with_the_rights_of_its_caller() {
    let service = Service::start().await;
    let by_uri = |roles, org| caller("x", &format!("certificates = [\"{URI}\"]"), roles, org);
    let by_token = |token| caller("x", &tokens(&[token]), ALL_ROLES, "acme");
    let none: &[&str] = &[];
    let token: &[&str] = &["Bearer tg_after"];
    let mut used = 0;
    for (headers, text, wanted) in [
        // Another caller with the same rights.
        (none, by_uri(ALL_ROLES, "acme"), Code::Ok),
        (none, by_uri(ALL_ROLES, "other"), Code::PermissionDenied),
        (none, by_uri("\"read\"", "acme"), Code::PermissionDenied),
        (none, by_token("tg_after"), Code::Unauthenticated),
        (token, by_token("tg_after"), Code::Ok),
        // The certificate is still known, but the stream used a token.
        (
            token,
            by_token("tg_next") + &by_uri(ALL_ROLES, "acme").replace("callers.x", "callers.y"),
            Code::Unauthenticated,
        ),
        (token, by_token("tg_next"), Code::Unauthenticated),
    ] {
        service.caller_set.replace(parsed(&callers())).unwrap();
        let (code, now) = stream_after(&service, headers, &text).await;
        assert_eq!(code, wanted, "{text}");
        used += 1;
        assert_eq!(now, used, "what was refused counted");
        used += u64::from(code == Code::Ok);
    }
}

#[test]
fn changes_are_logged_by_the_names_of_callers() {
    let port = PortSecurity {
        encrypted: false,
        loopback: true,
    };
    let caller_set = Arc::new(CallerSet::new(parsed(&callers()), port).unwrap());
    assert_eq!(
        caller_set.replace(parsed(&callers())).unwrap(),
        CallerChanges::default()
    );
    let text = caller("new", &tokens(&["tg_new"]), ALL_ROLES, "*")
        + &caller("reader", &tokens(&["tg_reader2"]), "\"read\"", "acme")
        + &caller("reserver", &tokens(&["tg_reserver"]), ALL_ROLES, "acme")
        + &caller("elsewhere", &tokens(&["tg_elsewhere"]), ALL_ROLES, "other");
    let changes = caller_set.replace(parsed(&text)).unwrap();
    assert_eq!(changes.added, ["new"]);
    assert_eq!(changes.changed, ["reader", "reserver"]);
    let gone = ["admin", "by-dns", "by-uri", "everywhere", "rotating"];
    assert_eq!(changes.removed, gone);
}

#[test]
fn tokens_that_come_later_are_refused_where_others_could_read_them() {
    let port = PortSecurity {
        encrypted: false,
        loopback: false,
    };
    assert!(CallerSet::new(parsed(&callers()), port).is_err());
    let by_certificate = caller("a", &format!("certificates = [\"{URI}\"]"), ALL_ROLES, "*");
    let caller_set = CallerSet::new(parsed(&by_certificate), port).unwrap();
    assert!(caller_set.replace(parsed(&callers())).is_err());
    // The last valid callers stay.
    let changes = caller_set.replace(parsed(&by_certificate)).unwrap();
    assert_eq!(changes, CallerChanges::default());
}
