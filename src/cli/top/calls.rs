//! The calls of `tollgate top`.

use std::mem;

use tonic::Status;

use crate::{
    client::connection::AuthorizedChannel,
    grpc::proto::{
        ListOrganizationsRequest, ListOrganizationsResponse, OrganizationOrder,
        quota_service_client::QuotaServiceClient,
    },
};

/// Organizations of a page.
const PAGE_SIZE: i32 = 1000;

/// The first organizations that match, at least so many if there are; as one answer.
pub(super) async fn organizations(
    mut client: QuotaServiceClient<AuthorizedChannel>,
    order: OrganizationOrder,
    query: &str,
    at_least: usize,
) -> Result<ListOrganizationsResponse, Status> {
    let mut request = ListOrganizationsRequest {
        page_size: PAGE_SIZE,
        page_token: String::new(),
        query: query.to_owned(),
        order: order.into(),
    };
    let mut organizations = Vec::new();
    loop {
        let page = client.list_organizations(request.clone()).await?;
        let mut page = page.into_inner();
        organizations.append(&mut page.organizations);
        if page.next_page_token.is_empty() || organizations.len() >= at_least {
            return Ok(ListOrganizationsResponse {
                organizations,
                ..page
            });
        }
        request.page_token = mem::take(&mut page.next_page_token);
    }
}
