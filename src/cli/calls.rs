//! The client of a subcommand, calls that need more than one, and how an answer is printed.

use std::mem;

use tonic::{Response, Status};

use crate::{
    client::{
        connection::{AuthorizedChannel, ConnectionArgs},
        failure::rpc_error,
        output::{json, print},
    },
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
    let (mut rows, mut comparisons) = (Vec::new(), Vec::new());
    loop {
        let mut page = client.list_usage(request.clone()).await?;
        rows.append(&mut page.get_mut().rows);
        comparisons.append(&mut page.get_mut().comparisons);
        request.page_token = mem::take(&mut page.get_mut().next_page_token);
        if request.page_token.is_empty() {
            page.get_mut().rows = rows;
            page.get_mut().comparisons = comparisons;
            return Ok(page);
        }
    }
}

/// Prints the answer as a table, or as JSON if the caller wants that.
pub(super) fn show<T: prost::Name>(
    connection: &ConnectionArgs,
    answer: Result<Response<T>, Status>,
    table: impl FnOnce(&T) -> String,
) -> anyhow::Result<()> {
    let answer = answer
        .map_err(|status| rpc_error(connection, &status))?
        .into_inner();
    print(&match connection.json {
        true => json(&answer)?,
        false => table(&answer),
    })
}
