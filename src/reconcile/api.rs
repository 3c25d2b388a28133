//! A client of the provider's usage API.
//!
//! Every wait, page and number of pages is bounded ([`UsageApiLimits`]). It speaks HTTPS, HTTP only to this machine, and
//! follows no redirect. The key is in no error and no log; nor is the body of an error, which may repeat it.

use std::{collections::HashSet, error::Error, fmt, time::Duration};

use chrono::{DateTime, Utc};
use http::{
    HeaderValue, Request, Response, StatusCode, Uri,
    header::{ACCEPT, AUTHORIZATION, LOCATION},
};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use tokio::{
    task::spawn_blocking,
    time::{sleep, timeout},
};

use super::report::{ReportFault, UsageReport};
use crate::{
    http_client::{BodyFault, ConnectionFault, HttpClient, check_port, retry_after},
    tls::{TlsNames, is_loopback},
};

/// The provider's API.
pub const DEFAULT_BASE: &str = "https://api.openai.com/v1";

/// What the report is grouped by.
const GROUP_BY: [&str; 4] = ["project_id", "model", "service_tier", "batch"];

static TLS_NAMES: TlsNames = TlsNames {
    ca_file: "SSL_CERT_FILE",
    cert_file: "",
    key_file: "",
    plaintext_address: "http:// (only for this machine)",
};

/// What bounds a query.
#[derive(Debug, Clone, Copy)]
pub struct UsageApiLimits {
    /// The time for one answer.
    pub timeout: Duration,
    /// The size of a page.
    pub page_bytes: usize,
    /// The number of pages.
    pub pages: usize,
    /// How often a page is asked for.
    pub attempts: u32,
    /// The pause before the second attempt. It doubles with each further one.
    pub retry_delay: Duration,
    /// The longest pause that the provider may ask for.
    pub max_retry_delay: Duration,
}

/// The provider's admin key.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminKey(HeaderValue);

/// Queries the provider's usage.
pub struct UsageApi {
    client: HttpClient,
    /// The path before `/organization`.
    path: String,
    key: AdminKey,
    limits: UsageApiLimits,
}

/// The length of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BucketWidth {
    /// A UTC day.
    Day,
    /// A minute.
    Minute,
}

/// Why the provider's usage is not known.
#[derive(Debug, thiserror::Error)]
pub enum UsageApiError {
    /// The address can't be used.
    #[error("{0}")]
    Address(&'static str),
    /// The key can't be sent.
    #[error("the admin key is not one word of ASCII")]
    Key,
    /// TLS can't be set up.
    #[error("TLS: {0}")]
    Tls(#[source] Box<dyn Error + Send + Sync>),
    /// 401.
    #[error("the provider does not accept the admin key (401)")]
    KeyRefused,
    /// 403.
    #[error(
        "the key may not read the organization's usage (403): it must be an admin key, not one of a project"
    )]
    Forbidden,
    /// Another address is said to have it.
    #[error("the provider redirects ({0}), and redirects are not followed")]
    Redirect(u16),
    /// Any other status.
    #[error("the provider answers {0}")]
    Status(StatusCode),
    /// It asks to wait for longer than a query may take.
    #[error("the provider asks to wait {} s (Retry-After)", .0.as_secs())]
    RetryLater(Duration),
    /// No whole answer in time.
    #[error("the provider does not answer within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    /// No connection, or it was cut.
    #[error("no answer from the provider: {0}")]
    Connection(String),
    /// A page above the bound.
    #[error("a page of the provider is larger than {} MiB", .0 >> 20)]
    PageTooLarge(usize),
    /// More pages than the bound.
    #[error("the provider has more than {0} pages: compare fewer days at a time")]
    TooManyPages(usize),
    /// A cursor came back: the pages would never end.
    #[error("the provider repeats a page's cursor")]
    RepeatedCursor,
    /// A page can't be read.
    #[error("the provider's usage: {0}")]
    Report(#[from] ReportFault),
    /// A fault of this program.
    #[error("reading the provider's usage has panicked")]
    Panicked,
}

impl Default for UsageApiLimits {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            page_bytes: 8 << 20,
            pages: 100,
            attempts: 4,
            retry_delay: Duration::from_millis(500),
            max_retry_delay: Duration::from_secs(30),
        }
    }
}

impl BucketWidth {
    /// The name, and the most buckets that are asked for at a time.
    const fn query(self) -> (&'static str, u32) {
        match self {
            Self::Day => ("1d", 31),
            Self::Minute => ("1m", 720),
        }
    }
}

impl fmt::Debug for AdminKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminKey(…)")
    }
}

impl AdminKey {
    /// The size of the largest file with a key.
    pub const MAX_FILE_BYTES: u64 = 64 << 10;

    /// Takes a key.
    ///
    /// # Errors
    ///
    /// It is not one word of ASCII. The error does not repeat it.
    pub fn parse(key: &str) -> Result<Self, UsageApiError> {
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(UsageApiError::Key);
        }
        let header = HeaderValue::try_from(format!("Bearer {key}"));
        let mut header = header.map_err(|_| UsageApiError::Key)?;
        header.set_sensitive(true);
        Ok(Self(header))
    }
}

impl UsageApiError {
    /// Whether the same query may succeed a little later.
    fn is_transient(&self) -> bool {
        match self {
            Self::Timeout(_) | Self::Connection(_) => true,
            Self::Status(status) => matches!(status.as_u16(), 429 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }
}

/// Why a page was not answered, and how long the provider asks to wait.
type Failure = (UsageApiError, Option<Duration>);

impl UsageApi {
    /// A client of the API at this address, such as [`DEFAULT_BASE`]. Without a path it is `/v1`.
    ///
    /// # Errors
    ///
    /// The address is not `https://`, nor `http://` of this machine; the system's authorities can't be used.
    pub fn new(base: &Uri, key: AdminKey, limits: UsageApiLimits) -> Result<Self, UsageApiError> {
        check_base(base)?;
        let path = match base.path().trim_end_matches('/') {
            "" => "/v1",
            path => path,
        };
        let client = HttpClient::new(base.clone(), &TLS_NAMES);
        Ok(Self {
            client: client.map_err(|error| UsageApiError::Tls(Box::new(error)))?,
            path: path.to_owned(),
            key,
            limits,
        })
    }

    /// The usage from `start` to before `end`, or to now.
    ///
    /// # Errors
    ///
    /// The provider did not answer all pages, after some attempts, or a page can't be read.
    pub async fn usage(
        &self,
        start: DateTime<Utc>,
        end: Option<DateTime<Utc>>,
        width: BucketWidth,
    ) -> Result<UsageReport, UsageApiError> {
        let (name, limit) = width.query();
        let mut query = format!(
            "start_time={}&bucket_width={name}&limit={limit}",
            start.timestamp()
        );
        if let Some(end) = end {
            query += &format!("&end_time={}", end.timestamp());
        }
        query.extend(GROUP_BY.map(|field| format!("&group_by={field}")));
        let query = format!("{}/organization/usage/completions?{query}", self.path);
        let (mut report, mut cursors, mut page) =
            (UsageReport::default(), HashSet::new(), query.clone());
        for _ in 0..self.limits.pages {
            let body = self.page(&page).await?;
            // A page of some MiB takes a while, in which this thread would serve nobody else.
            let read = spawn_blocking(move || {
                let next = report.add_page(&body);
                (report, next)
            });
            let (pages, next) = read.await.map_err(|_| UsageApiError::Panicked)?;
            report = pages;
            let Some(cursor) = next? else {
                return Ok(report);
            };
            let encoded =
                percent_encoding::utf8_percent_encode(&cursor, percent_encoding::NON_ALPHANUMERIC);
            page = format!("{query}&page={encoded}");
            if !cursors.insert(cursor) {
                return Err(UsageApiError::RepeatedCursor);
            }
        }
        Err(UsageApiError::TooManyPages(self.limits.pages))
    }

    /// One page, after as many attempts as it takes, within bounds.
    async fn page(&self, query: &str) -> Result<Bytes, UsageApiError> {
        let mut delay = self.limits.retry_delay;
        let mut attempt = 1;
        loop {
            let UsageApiLimits { timeout: time, .. } = self.limits;
            let answer = timeout(time, self.exchange(query)).await;
            let (error, retry_after) = match answer {
                Ok(Ok(body)) => return Ok(body),
                Ok(Err(failure)) => failure,
                Err(_) => (UsageApiError::Timeout(time), None),
            };
            if !error.is_transient() {
                return Err(error);
            }
            if let Some(pause) = retry_after.filter(|it| *it > self.limits.max_retry_delay) {
                return Err(UsageApiError::RetryLater(pause));
            }
            if attempt == self.limits.attempts {
                return Err(error);
            }
            sleep(retry_after.unwrap_or(delay)).await;
            delay *= 2;
            attempt += 1;
        }
    }

    async fn exchange(&self, query: &str) -> Result<Bytes, Failure> {
        let request = Request::get(query)
            .header(AUTHORIZATION, self.key.0.clone())
            .header(ACCEPT, "application/json")
            .body(Empty::<Bytes>::new())
            .map_err(|_| {
                let fault = "has a path that can't be sent";
                (UsageApiError::Address(fault), None)
            })?;
        let no_answer = |ConnectionFault(words)| (UsageApiError::Connection(words), None);
        let answer = self.client.send(request).await.map_err(no_answer)?;
        if answer.response.status() != StatusCode::OK {
            return Err(refusal(&answer.response));
        }
        let max = self.limits.page_bytes;
        answer.body(max).await.map_err(|fault| match fault {
            BodyFault::Connection(fault) => no_answer(fault),
            BodyFault::TooLarge => (UsageApiError::PageTooLarge(max), None),
        })
    }
}

/// Checks the address of the API.
///
/// # Errors
///
/// It is not `https://`, nor `http://` of this machine; or it has more than a host, a port and a path.
pub fn check_base(base: &Uri) -> Result<(), UsageApiError> {
    match base.scheme_str() {
        Some("https") => {}
        Some("http") if is_loopback(base) => {}
        _ => {
            return Err(UsageApiError::Address(
                "must be https://, or http:// of this machine",
            ));
        }
    }
    let authority = base.authority().filter(|it| !it.as_str().contains('@'));
    match authority {
        Some(host) if base.query().is_none() => check_port(host).map_err(UsageApiError::Address),
        _ => Err(UsageApiError::Address(
            "must have a host, and neither a user nor a query",
        )),
    }
}

/// What a status other than 200 means. Its body is not read: it may repeat the key.
fn refusal(answer: &Response<Incoming>) -> Failure {
    let (status, headers) = (answer.status(), answer.headers());
    let error = match status.as_u16() {
        401 => UsageApiError::KeyRefused,
        403 => UsageApiError::Forbidden,
        code if status.is_redirection() || headers.contains_key(LOCATION) => {
            UsageApiError::Redirect(code)
        }
        _ => UsageApiError::Status(status),
    };
    (error, retry_after(headers))
}
