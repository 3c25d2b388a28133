//! Every RPC, from every kind of caller, for its own and other organizations.

use futures_util::stream;
use prost_reflect::DescriptorPool;
use tollgate::{
    auth::Role,
    grpc::proto::{
        DESCRIPTORS, EstimateRequest, GetQuotaRequest, ListExternalChangesRequest,
        ListOrganizationsRequest, ListUsageRequest, ReleaseRequest, ReserveRequest,
        SetExternalUsageRequest, SettleRequest, quota_service_client::QuotaServiceClient,
    },
};
use tonic::{Code, Status};

use super::{ORGS, STRANGER, Service, caller_kinds::Access, listener::AuthorizedChannel};
use crate::support::streams::next;

/// The role that each RPC needs. The tests fail for an RPC that is missing here.
fn needed(method: &str) -> Role {
    match method {
        "Reserve" | "ReserveStream" | "Settle" | "Release" | "Estimate" => Role::Reserve,
        "GetQuota" | "ListUsage" | "ListOrganizations" | "ListExternalChanges" => Role::Read,
        "SetExternalUsage" => Role::Admin,
        other => panic!("the matrix does not know {other}: who may call it?"),
    }
}

/// Every RPC of the compiled service.
pub(super) fn methods() -> Vec<String> {
    let pool = DescriptorPool::decode(DESCRIPTORS).unwrap();
    let service = pool
        .get_service_by_name("tollgate.v1.QuotaService")
        .unwrap();
    let methods = service.methods().map(|method| method.name().to_owned());
    methods.collect()
}

pub(super) fn new_reserve(org: &str, request_id: &str) -> ReserveRequest {
    ReserveRequest {
        org: org.to_owned(),
        project: "p".to_owned(),
        model: "gpt-4o".to_owned(),
        tokens: 1,
        request_id: request_id.to_owned(),
        ..ReserveRequest::default()
    }
}

/// How a call of an RPC for an organization ends. For a stream, how its item ends.
pub(super) async fn call(
    channel: &AuthorizedChannel,
    method: &str,
    org: &str,
) -> Result<(), Status> {
    let mut client = QuotaServiceClient::new(channel.clone());
    let (org, request_id) = (org.to_owned(), "never reserved".to_owned());
    match method {
        "Reserve" => client.reserve(new_reserve(&org, "")).await.map(drop),
        "ReserveStream" => {
            let requests = stream::iter([new_reserve(&org, "")]);
            let answers = client.reserve_stream(requests).await?;
            let mut answers = answers.into_inner();
            let item = next(&mut answers).await.expect("an answer to each request");
            assert!(next(&mut answers).await.is_none());
            item.map(drop)
                .map_err(|error| Status::new(error.code.into(), error.message))
        }
        "Settle" => {
            let request = SettleRequest {
                org,
                request_id,
                ..SettleRequest::default()
            };
            client.settle(request).await.map(drop)
        }
        "Release" => {
            let request = ReleaseRequest { org, request_id };
            client.release(request).await.map(drop)
        }
        "GetQuota" => client.get_quota(GetQuotaRequest { org }).await.map(drop),
        "ListUsage" => {
            let request = ListUsageRequest {
                org,
                ..ListUsageRequest::default()
            };
            client.list_usage(request).await.map(drop)
        }
        "ListExternalChanges" => {
            let request = ListExternalChangesRequest {
                org,
                ..ListExternalChangesRequest::default()
            };
            client.list_external_changes(request).await.map(drop)
        }
        "SetExternalUsage" => {
            let request = SetExternalUsageRequest {
                org,
                pool: "large".to_owned(),
                ..SetExternalUsageRequest::default()
            };
            client.set_external_usage(request).await.map(drop)
        }
        // These are for no single organization.
        "ListOrganizations" => {
            let all = ListOrganizationsRequest::default();
            client.list_organizations(all).await.map(drop)
        }
        "Estimate" => {
            let request = EstimateRequest {
                path: "/v1/responses".to_owned(),
                body: b"{}".to_vec(),
                model: "gpt-4o".to_owned(),
            };
            client.estimate(request).await.map(drop)
        }
        other => panic!("the matrix does not know {other}"),
    }
}

/// The ledger's answer to an authorized call.
fn answer(method: &str, org: &str) -> Code {
    match method {
        "Settle" | "Release" => Code::NotFound,
        "GetQuota" | "ListUsage" | "ListExternalChanges" | "SetExternalUsage"
            if org == STRANGER =>
        {
            Code::NotFound
        }
        _ => Code::Ok,
    }
}

/// Whether a call is for one organization.
fn is_for_org(method: &str) -> bool {
    !matches!(method, "Estimate" | "ListOrganizations")
}

fn wanted(may: &Access, method: &str, org: &str) -> Code {
    match may {
        Access::Nothing => Code::Unauthenticated,
        Access::These(roles, orgs)
            if roles.contains(&needed(method)) && (!is_for_org(method) || orgs.contains(&org)) =>
        {
            answer(method, org)
        }
        Access::These(..) => Code::PermissionDenied,
    }
}

#[tokio::test]
async fn every_rpc_needs_its_role_for_the_organization() {
    let service = Service::start().await;
    let methods = methods();
    let kinds = service.kinds();
    let orgs = [ORGS[0], ORGS[1], STRANGER];
    let mut cells = [0, 0];
    // First all calls that must be refused, then all that must succeed.
    for (turn, pass) in [false, true].into_iter().enumerate() {
        for kind in &kinds {
            let channel = kind.wire.channel(kind.certificate.as_ref(), &kind.headers);
            for method in &methods {
                for org in orgs {
                    let wanted = wanted(&kind.may, method, org);
                    let passes = !matches!(wanted, Code::Unauthenticated | Code::PermissionDenied);
                    if passes != pass {
                        continue;
                    }
                    let received = call(&channel, method, org).await;
                    let code = received.as_ref().err().map_or(Code::Ok, Status::code);
                    assert_eq!(
                        code, wanted,
                        "{}: {method} for {org}: {received:?}",
                        kind.what
                    );
                    cells[turn] += 1;
                }
            }
        }
        let keys = service.keys();
        assert_eq!(keys.is_empty(), !pass, "{keys:?}");
    }
    // 3 organizations each.
    assert_eq!(cells[0] + cells[1], kinds.len() * methods.len() * 3);
    assert!(cells[0] > 300 && cells[1] > 100, "{cells:?}");
}

#[tokio::test]
async fn a_refusal_reveals_nothing_about_others() {
    let service = Service::start().await;
    let strange = service.loopback.channel(None, &["Bearer tg_wrong"]);
    let acme = service.loopback.channel(None, &["Bearer tg_after"]);
    let reader = service.loopback.channel(None, &["Bearer tg_reader"]);
    for method in methods().into_iter().filter(|it| is_for_org(it)) {
        // The same answer for an existing organization and an unknown one.
        let [known, unknown] = [ORGS[1], STRANGER].map(|org| (org, acme.clone()));
        let known = call(&known.1, &method, known.0).await.unwrap_err();
        let unknown = call(&unknown.1, &method, unknown.0).await.unwrap_err();
        assert_eq!(
            known.message(),
            "this caller may not speak for this organization"
        );
        assert_eq!(known.message(), unknown.message(), "{method}");
        let status = call(&strange, &method, "acme").await.unwrap_err();
        assert_eq!(status.message(), "the bearer token is of no known caller");
        assert_eq!(status.metadata().get("www-authenticate").unwrap(), "Bearer");
        if needed(&method) == Role::Reserve {
            let status = call(&reader, &method, "acme").await.unwrap_err();
            assert_eq!(
                status.message(),
                "this caller does not have the role \"reserve\""
            );
        }
    }
}

#[tokio::test]
async fn a_stream_has_the_refusal_in_its_place_and_counts_the_others() {
    let service = Service::start().await;
    let channel = service.loopback.channel(None, &["Bearer tg_after"]);
    let mut client = QuotaServiceClient::new(channel);
    let orgs = ["acme", "other", "acme", STRANGER, "", "acme"];
    let requests = stream::iter(orgs.map(|org| new_reserve(org, "")));
    let answers = client.reserve_stream(requests).await.unwrap();
    let mut answers = answers.into_inner();
    for org in orgs {
        let received = next(&mut answers).await.unwrap();
        let code = received.err().map_or(Code::Ok, |error| error.code.into());
        let wanted = match org {
            "acme" => Code::Ok,
            "" => Code::InvalidArgument,
            _ => Code::PermissionDenied,
        };
        assert_eq!(code, wanted, "{org}");
    }
    assert!(next(&mut answers).await.is_none());
    let quota = client
        .get_quota(GetQuotaRequest {
            org: "acme".to_owned(),
        })
        .await;
    assert_eq!(quota.unwrap().into_inner().pools[0].used, 3);
    let foreign: Vec<String> = service.keys();
    assert!(
        foreign.iter().all(|key| key.contains("{acme}")),
        "{foreign:?}"
    );
}

#[tokio::test]
async fn an_id_of_another_organization_is_out_of_reach() {
    let service = Service::start().await;
    let own = |token| QuotaServiceClient::new(service.loopback.channel(None, &[token]));
    let (mut acme, mut other) = (own("Bearer tg_after"), own("Bearer tg_elsewhere"));
    let theirs = || new_reserve("other", "the id");
    other.reserve(theirs()).await.unwrap();
    let settle = |org: &str| SettleRequest {
        org: org.to_owned(),
        request_id: "the id".to_owned(),
        tokens: 0,
        outside_program: false,
    };
    let release = |org: &str| ReleaseRequest {
        org: org.to_owned(),
        request_id: "the id".to_owned(),
    };
    let codes = [
        acme.reserve(theirs()).await.unwrap_err().code(),
        acme.settle(settle("other")).await.unwrap_err().code(),
        acme.release(release("other")).await.unwrap_err().code(),
    ];
    assert_eq!(codes, [Code::PermissionDenied; 3]);
    // In another organization, the same id is a different one.
    let status = acme.release(release("acme")).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(
        !acme
            .reserve(new_reserve("acme", "the id"))
            .await
            .unwrap()
            .into_inner()
            .replayed
    );
    acme.release(release("acme")).await.unwrap();
    let again = other.reserve(theirs()).await.unwrap().into_inner();
    assert_eq!((again.replayed, again.used), (true, 1));
}

#[tokio::test]
async fn callers_are_listed_only_the_organizations_that_they_may_read() {
    let service = Service::start().await;
    for (token, wanted) in [
        ("Bearer tg_reader", &["acme"][..]),
        ("Bearer tg_elsewhere", &["other"]),
        ("Bearer tg_everywhere", &["acme", "other"]),
    ] {
        let mut client = QuotaServiceClient::new(service.loopback.channel(None, &[token]));
        // A name that a caller may not read is not found by a search for it either.
        for query in ["", "acme", "other"] {
            let request = ListOrganizationsRequest {
                query: query.to_owned(),
                ..ListOrganizationsRequest::default()
            };
            let list = client.list_organizations(request).await;
            let list = list.unwrap().into_inner();
            let listed: Vec<_> = list
                .organizations
                .iter()
                .map(|it| it.org.as_str())
                .collect();
            let wanted = wanted.iter().filter(|it| it.contains(query));
            let wanted: Vec<&str> = wanted.copied().collect();
            assert_eq!(listed, wanted, "{token} {query}");
            assert_eq!(list.total, wanted.len() as u64, "{token} {query}");
        }
    }
}
