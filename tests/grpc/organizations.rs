//! ListOrganizations over the wire.

use std::time::Duration;

use tollgate::grpc::proto::{
    BilledReason, GetQuotaRequest, ListOrganizationsRequest, ListOrganizationsResponse,
    OrganizationOrder, OrganizationSummary,
};
use tonic::Status;
use tonic_health::pb::health_check_response::ServingStatus;

use super::{MORE_ORGS, Service, assert_names, new_reserve, over_every_store};
use crate::support::{calls::TextFile, tollgate::Tollgate};

over_every_store!(
    figures_of_every_organization_are_listed_within_seconds,
    pages_give_each_organization_once_in_either_order,
);

/// The built-in policy has one organization.
const ORGS: u64 = MORE_ORGS as u64 + 1;

fn all() -> ListOrganizationsRequest {
    ListOrganizationsRequest {
        page_size: 1_000,
        ..ListOrganizationsRequest::default()
    }
}

fn nearest() -> ListOrganizationsRequest {
    ListOrganizationsRequest {
        order: OrganizationOrder::NearestToEnd.into(),
        ..all()
    }
}

impl Service {
    async fn organizations(&self, request: ListOrganizationsRequest) -> ListOrganizationsResponse {
        self.try_organizations(request).await.unwrap().into_inner()
    }

    async fn try_organizations(
        &self,
        request: ListOrganizationsRequest,
    ) -> Result<tonic::Response<ListOrganizationsResponse>, Status> {
        self.tollgate.client().list_organizations(request).await
    }

    /// The first one that is nearest to its end, once this holds of it.
    async fn first_when(
        &self,
        holds: impl Fn(&OrganizationSummary) -> bool,
    ) -> OrganizationSummary {
        for _ in 0..300 {
            let list = self.organizations(nearest()).await;
            let first = list.organizations.into_iter().next().unwrap();
            if holds(&first) {
                return first;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("it does not hold within 30 seconds");
    }
}

fn names(list: &ListOrganizationsResponse) -> Vec<String> {
    list.organizations.iter().map(|it| it.org.clone()).collect()
}

async fn figures_of_every_organization_are_listed_within_seconds(service: Service) {
    let mut client = service.tollgate.client();
    client.reserve(new_reserve(700_000)).await.unwrap();
    let first = service.first_when(|it| it.org == "org-demo").await;
    let org = "org-demo".to_owned();
    let quota = client.get_quota(GetQuotaRequest { org }).await;
    let quota = quota.unwrap().into_inner();
    assert_eq!(first.pools, quota.pools);
    assert_eq!((first.tier, first.enrolled), (3, true));
    assert_eq!(first.not_enrolled_reason(), BilledReason::Unspecified);
    // It was read on the store's day.
    let as_of = first.as_of.unwrap();
    let until_reset = quota.resets_at.unwrap().seconds - as_of.seconds;
    assert!((43_000..=43_200).contains(&until_reset), "{until_reset}");
    let others = service.organizations(all()).await;
    assert_eq!((others.total, names(&others).len() as u64), (ORGS, ORGS));
}

async fn pages_give_each_organization_once_in_either_order(service: Service) {
    for request in [all(), nearest()] {
        let whole = names(&service.organizations(request.clone()).await);
        let (mut listed, mut page_token) = (Vec::new(), String::new());
        loop {
            let page = ListOrganizationsRequest {
                page_size: 7,
                page_token,
                ..request.clone()
            };
            let page = service.organizations(page).await;
            assert_eq!(page.total, ORGS);
            listed.extend(names(&page));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        assert_eq!(listed, whole);
    }
}

#[tokio::test]
async fn a_page_has_100_organizations_unless_said_and_never_more_than_1000() {
    let orgs = (0..1_001).map(|at| format!("[orgs.o-{at}]\ntier = 1\ndata_sharing = \"all\"\n"));
    let policy = "[program]\nextends = \"openai-2026-09-28\"\n".to_owned();
    let policy = TextFile::new(&(policy + &orgs.collect::<String>()));
    let tollgate = Tollgate::start(&["--store", "memory:", "--policy", policy.path()]);
    for (page_size, listed) in [
        (0, 100),
        (1, 1),
        (1_000, 1_000),
        (1_001, 1_000),
        (i32::MAX, 1_000),
    ] {
        let request = ListOrganizationsRequest {
            page_size,
            ..ListOrganizationsRequest::default()
        };
        let answer = tollgate.client().list_organizations(request).await;
        let answer = answer.unwrap().into_inner();
        assert_eq!(answer.organizations.len(), listed, "{page_size}");
        assert_eq!(answer.total, 1_001);
        assert!(!answer.next_page_token.is_empty());
    }
}

#[tokio::test]
async fn what_is_out_of_bounds_is_named() {
    let service = Service::memory();
    let with = |change: &dyn Fn(&mut ListOrganizationsRequest)| {
        let mut request = all();
        change(&mut request);
        request
    };
    for (field, request) in [
        ("page_size", with(&|it| it.page_size = -1)),
        ("query", with(&|it| it.query = "q".repeat(257))),
        ("query", with(&|it| it.query = "a\u{7f}".to_owned())),
        ("order", with(&|it| it.order = 3)),
        ("order", with(&|it| it.order = -1)),
        ("page_token", with(&|it| it.page_token = "x".to_owned())),
        ("page_token", with(&|it| it.page_token = "bg".to_owned())),
    ] {
        let answer = service.try_organizations(request).await;
        assert_names(field, answer, field);
    }
    let longest = with(&|it| it.query = "q".repeat(256));
    assert_eq!(service.organizations(longest).await.total, 0);
}

#[tokio::test]
async fn a_page_token_of_another_query_or_order_is_refused() {
    let service = Service::memory();
    let first = ListOrganizationsRequest {
        page_size: 1,
        query: "org-1".to_owned(),
        ..nearest()
    };
    let page_token = service.organizations(first.clone()).await.next_page_token;
    let second = ListOrganizationsRequest {
        page_token,
        ..first
    };
    let listed = service.organizations(second.clone()).await;
    assert_eq!(names(&listed), ["org-10"]);
    let other_query = ListOrganizationsRequest {
        query: "org-".to_owned(),
        ..second.clone()
    };
    let answer = service.try_organizations(other_query).await;
    assert_names("page_token", answer, "another query");
    let other_order = ListOrganizationsRequest {
        order: OrganizationOrder::Name.into(),
        ..second
    };
    let answer = service.try_organizations(other_order).await;
    assert_names("page_token", answer, "another order");
}

#[tokio::test]
async fn it_answers_with_the_last_figures_while_the_store_is_down() {
    let mut service = Service::redis();
    let mut client = service.tollgate.client();
    client.reserve(new_reserve(700_000)).await.unwrap();
    let before = service.first_when(|it| it.org == "org-demo").await;
    drop(service.redis.take());
    service
        .tollgate
        .wait_for_readiness(ServingStatus::NotServing)
        .await;
    let org = "org-demo".to_owned();
    client.get_quota(GetQuotaRequest { org }).await.unwrap_err();
    let after = service.first_when(|it| it.org == "org-demo").await;
    assert_eq!(after.pools, before.pools);
    assert!(after.as_of.is_some());
}
