//! gRPC calls of a gateway, and the files that a service is started with.

use std::{io::Write as _, time::Duration};

use tempfile::NamedTempFile;
use tollgate::grpc::proto::{
    BilledReason, GetQuotaRequest, GetQuotaResponse, ListUsageRequest, PoolQuota, ReserveRequest,
    ReserveResponse, SettleResponse, UsageRow, Verdict, quota_service_client::QuotaServiceClient,
};
use tonic::{Code, transport::Channel};

/// How often a query is retried.
const MAX_TRIES: usize = 100;

pub type Client = QuotaServiceClient<Channel>;

/// A Reserve of `acme`, project `p`, model `gpt-4o`.
pub fn new_reserve(tokens: u64, request_id: &str) -> ReserveRequest {
    ReserveRequest {
        org: "acme".to_owned(),
        project: "p".to_owned(),
        model: "gpt-4o".to_owned(),
        tokens,
        request_id: request_id.to_owned(),
        ..ReserveRequest::default()
    }
}

/// The verdict as text: "FREE", or the billed reason's name.
pub fn verdict_text(answer: &ReserveResponse) -> String {
    verdict(answer.verdict(), answer.billed_reason())
}

/// The verdict of a Settle as text.
pub fn settle_verdict_text(answer: &SettleResponse) -> String {
    verdict(answer.verdict(), answer.billed_reason())
}

fn verdict(verdict: Verdict, reason: BilledReason) -> String {
    match (verdict, reason) {
        (Verdict::Free, BilledReason::Unspecified) => "FREE".to_owned(),
        (Verdict::Billed, reason) if reason != BilledReason::Unspecified => format!("{reason:?}"),
        other => panic!("no verdict: {other:?}"),
    }
}

pub async fn reserve(client: &Client, tokens: u64, request_id: &str) -> ReserveResponse {
    let answer = client
        .clone()
        .reserve(new_reserve(tokens, request_id))
        .await;
    answer.unwrap().into_inner()
}

pub async fn quota(client: &Client) -> GetQuotaResponse {
    let org = "acme".to_owned();
    let answer = client.clone().get_quota(GetQuotaRequest { org }).await;
    answer.unwrap().into_inner()
}

/// The quota of `acme`'s pool `large`.
pub async fn large(client: &Client) -> PoolQuota {
    large_of(client, "acme").await
}

/// The quota of an organization's pool `large`.
pub async fn large_of(client: &Client, org: &str) -> PoolQuota {
    let request = GetQuotaRequest {
        org: org.to_owned(),
    };
    let mut quota = client.clone().get_quota(request.clone()).await;
    // For busy machines. A query counts nothing.
    for _ in 0..MAX_TRIES {
        match &quota {
            Err(status) if status.code() == Code::Unavailable => {}
            _ => break,
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        quota = client.clone().get_quota(request.clone()).await;
    }
    let pools = quota.unwrap().into_inner().pools;
    pools.into_iter().find(|pool| pool.pool == "large").unwrap()
}

/// The usage rows of `acme`.
pub async fn usage(client: &Client, day: &str) -> Vec<UsageRow> {
    usage_of(client, "acme", day).await
}

/// The usage rows of an organization; no test has more than a page.
pub async fn usage_of(client: &Client, org: &str, day: &str) -> Vec<UsageRow> {
    let request = ListUsageRequest {
        org: org.to_owned(),
        day: day.to_owned(),
        page_size: 1000,
        ..ListUsageRequest::default()
    };
    let page = client.clone().list_usage(request).await;
    let page = page.unwrap().into_inner();
    assert_eq!(page.next_page_token, "");
    page.rows
}

/// The sum of rows: free tokens, billed tokens, free requests, billed requests.
pub fn sum(rows: &[UsageRow]) -> (u64, u64, u64, u64) {
    rows.iter().fold((0, 0, 0, 0), |sum, row| {
        (
            sum.0 + row.free_tokens,
            sum.1 + row.billed_tokens,
            sum.2 + row.free_requests,
            sum.3 + row.billed_requests,
        )
    })
}

/// A settings or policy file.
pub struct TextFile(NamedTempFile);

impl TextFile {
    pub fn new(text: &str) -> Self {
        let mut file = NamedTempFile::with_suffix(".toml").unwrap();
        file.write_all(text.as_bytes()).unwrap();
        Self(file)
    }

    pub fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }
}

/// The policy of tests/support/world.rs with another allowance for `large`.
pub fn policy_file(allowance: u64) -> TextFile {
    let text = super::world::small_policy("keep_open");
    TextFile::new(&text.replace("large = 1_000", &format!("large = {allowance}")))
}

/// The same with additional organizations `org-0`, `org-1`, ….
pub fn policy_file_of(orgs: usize, allowance: u64) -> TextFile {
    let text = super::world::small_policy("keep_open");
    let mut text = text.replace("large = 1_000", &format!("large = {allowance}"));
    for org in 0..orgs {
        text += &format!("[orgs.org-{org}]\ntier = 1\ndata_sharing = \"all\"\n");
    }
    TextFile::new(&text)
}
