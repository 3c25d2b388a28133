//! The client of a subcommand, and the calls that need more than one.

use std::mem;

use tonic::{Response, Status};

use crate::{
    client::connection::{AuthorizedChannel, ConnectionArgs},
    grpc::proto::{ListUsageRequest, ListUsageResponse, quota_service_client::QuotaServiceClient},
};

pub(super) fn connect(
    connection: &ConnectionArgs,
) -> anyhow::Result<QuotaServiceClient<AuthorizedChannel>> {
    Ok(QuotaServiceClient::new(connection.open()?))
}

/// All pages of a day's usage, as one answer.
pub(super) async fn all_usage(
    mut client: QuotaServiceClient<AuthorizedChannel>,
    mut request: ListUsageRequest,
) -> Result<Response<ListUsageResponse>, Status> {
    let mut rows = Vec::new();
    loop {
        let mut page = client.list_usage(request.clone()).await?;
        rows.append(&mut page.get_mut().rows);
        request.page_token = mem::take(&mut page.get_mut().next_page_token);
        if request.page_token.is_empty() {
            page.get_mut().rows = rows;
            return Ok(page);
        }
    }
}
