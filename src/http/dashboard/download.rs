//! `/usage.csv`: the usage of a range of days as a file, the same as `tollgate usage --csv` prints.
//!
//! It is read and sent page by page, so that any number of rows takes the memory of one page.

use axum::{
    BoxError,
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures_util::stream;
use tokio::time::Instant;

use super::{
    headers::PROTECTION,
    links::PageQuery,
    range::{KeptDays, UsageRange},
    state::Dashboard,
};
use crate::{
    domain::{OrgId, UtcDay},
    http::{
        auth::Reader,
        error::{HttpError, query_error},
    },
    ledger::{Ledger, LedgerError, Usage, UsageDays, UsagePage, UsagePosition},
    spreadsheet::{CsvTable, USAGE_COLUMNS, UsageLine},
};

/// The parameters.
pub(super) const PARAMETERS: [&str; 3] = ["org", "from", "to"];

/// The rows of one call of the store.
const ROWS_PER_READ: usize = 1_000;

/// A file that is being sent.
struct Export {
    ledger: Ledger,
    call_timeout: std::time::Duration,
    org: OrgId,
    days: UsageDays,
    next: NextPart,
}

/// What is sent next.
enum NextPart {
    /// The header and the first page, which was read before the answer began.
    First(Box<Usage>),
    Page(UsagePosition),
    End,
}

/// The file. An error before its first row is an answer; a later one cuts the connection, so that no browser takes a
/// part for the whole.
pub(super) async fn file(
    dashboard: &Dashboard,
    reader: &Reader,
    query: &PageQuery,
) -> Result<Response, HttpError> {
    let bad = |why: String| HttpError(StatusCode::BAD_REQUEST, why);
    let org = OrgId::parse(query.get("org").unwrap_or_default());
    let org = org.map_err(|fault| bad(fault.to_string()))?;
    reader.may_read(&org)?;
    let ledger = dashboard.http.ledger.clone();
    let today = UtcDay::of(ledger.now());
    let kept = KeptDays::new(today, ledger.usage_retention_days());
    let range = kept.range(query).map_err(|fault| bad(fault.to_string()))?;
    let mut export = Export {
        ledger,
        call_timeout: dashboard.http.call_timeout,
        days: UsageDays::Range {
            from: range.from,
            to: Some(range.to),
        },
        next: NextPart::End,
        org,
    };
    let first = export.read(None).await.map_err(query_error)?;
    let name = file_name(&export.org, range);
    export.next = NextPart::First(Box::new(first));
    let parts = stream::try_unfold(export, |mut export| async move {
        let part = export.part().await.inspect_err(|error| {
            tracing::warn!(%error, "a download of usage ends early");
        })?;
        Ok::<_, BoxError>(part.map(|text| (text, export)))
    });
    let mut response = (PROTECTION, Body::from_stream(parts)).into_response();
    let headers = response.headers_mut();
    let csv = HeaderValue::from_static("text/csv; charset=utf-8");
    headers.insert(header::CONTENT_TYPE, csv);
    if let Ok(name) = HeaderValue::from_str(&name) {
        headers.insert(header::CONTENT_DISPOSITION, name);
    }
    Ok(response)
}

impl Export {
    async fn read(&self, start: Option<UsagePosition>) -> Result<Usage, LedgerError> {
        let page = UsagePage {
            days: self.days,
            start,
            size: ROWS_PER_READ,
        };
        let deadline = Instant::now() + self.call_timeout;
        self.ledger
            .with_deadline(deadline)
            .usage(&self.org, page)
            .await
    }

    /// The next part of the text; none: it is complete.
    async fn part(&mut self) -> Result<Option<String>, BoxError> {
        let (usage, is_first) = match std::mem::replace(&mut self.next, NextPart::End) {
            NextPart::First(usage) => (*usage, true),
            NextPart::Page(start) => (self.read(Some(start)).await?, false),
            NextPart::End => return Ok(None),
        };
        let mut table = CsvTable::new();
        if is_first {
            table.add_row(USAGE_COLUMNS)?;
        }
        for row in &usage.rows {
            table.add_usage(&UsageLine {
                org: self.org.as_str(),
                day: &row.day.to_string(),
                project: row.project.as_str(),
                model: row.model.as_str(),
                pool: row
                    .pool
                    .as_ref()
                    .map(|pool| pool.as_str())
                    .unwrap_or_default(),
                free_tokens: row.counters.free_tokens.get(),
                billed_tokens: row.counters.billed_tokens.get(),
                free_requests: row.counters.free_requests,
                billed_requests: row.counters.billed_requests,
                provider_free_tokens: row.provider.map(|it| it.free_tokens.get()),
                provider_billed_tokens: row.provider.map(|it| it.billed_tokens.get()),
            })?;
        }
        if let Some(position) = usage.next {
            self.next = NextPart::Page(position);
        }
        Ok(Some(table.into_text()?))
    }
}

/// The header that names the file: in ASCII, whatever the organization is called.
fn file_name(org: &OrgId, range: UsageRange) -> String {
    let safe = |c: char| match c {
        c if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') => c,
        _ => '_',
    };
    let org: String = org.as_str().chars().take(64).map(safe).collect();
    format!(
        "attachment; filename=\"usage-{org}-{}-{}.csv\"",
        range.from, range.to
    )
}
