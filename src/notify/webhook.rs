//! The receiver of notifications: a URL that takes each as a POST.
//!
//! The URL is a secret: no error and no log has more of it than scheme, host and port. An answer's body is not read: it may
//! repeat the URL, and is not needed.

use std::{fmt, time::Duration};

use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::body::Bytes;
use tokio::time::timeout;

use super::notification;
use crate::{
    files::pem::PemError,
    http_client::{ConnectionFault, HttpClient, check_port, retry_after},
    ledger::Notice,
    tls::TlsNames,
};

/// The header with the notice's id, by which a receiver recognizes a repetition.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

static TLS_NAMES: TlsNames = TlsNames {
    ca_file: "SSL_CERT_FILE",
    cert_file: "",
    key_file: "",
    plaintext_address: "http://",
};

/// The URL of a receiver. Displays as scheme, host and port.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookUrl(Uri);

/// Delivers notices to a receiver.
pub struct Webhook {
    url: WebhookUrl,
    client: HttpClient,
    /// The time for a whole attempt.
    timeout: Duration,
}

/// Why a notice is not delivered. Nothing of it is final: a receiver may be repaired.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// A status that is not 2xx.
    #[error("the receiver answers {status}")]
    Status {
        /// The status.
        status: StatusCode,
        /// How long the receiver asks to wait.
        retry_after: Option<Duration>,
    },
    /// Another address is said to take it.
    #[error("the receiver redirects ({0}), and redirects are not followed")]
    Redirect(u16),
    /// No answer in time.
    #[error("the receiver does not answer within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
    /// No connection, or it was cut.
    #[error("no answer from the receiver: {0}")]
    Connection(String),
}

impl WebhookUrl {
    /// Parses a URL. The error does not repeat it.
    ///
    /// # Errors
    ///
    /// It is not `http://` or `https://` with a host; or it has a user, which no request would send, a fragment, or a port
    /// that is not from 1 to 65535.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let no_url = "is not a URL: http://HOST/PATH or https://HOST/PATH";
        if text.contains('#') {
            return Err("must not have a fragment (#): percent-encode it (%23)");
        }
        let url: Uri = text.parse().map_err(|_| no_url)?;
        let is_http = matches!(url.scheme_str(), Some("http" | "https"));
        let authority = url.authority().filter(|_| is_http).ok_or(no_url)?;
        if authority.as_str().contains('@') {
            return Err("must not have a user or a password");
        }
        if authority.host().is_empty() {
            return Err(no_url);
        }
        check_port(authority)?;
        Ok(Self(url))
    }
}

impl fmt::Display for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = self.0.authority().map_or("", |it| it.as_str());
        write!(
            f,
            "{}://{authority}",
            self.0.scheme_str().unwrap_or_default()
        )
    }
}

impl fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebhookUrl({self}/…)")
    }
}

impl WebhookError {
    /// How long the receiver asks to wait.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            Self::Redirect(_) | Self::Timeout(_) | Self::Connection(_) => None,
        }
    }
}

impl Webhook {
    /// The time for a whole attempt.
    pub const TIMEOUT: Duration = Duration::from_secs(10);

    /// A client of the receiver at this URL. `timeout` is the time for a whole attempt.
    ///
    /// # Errors
    ///
    /// The system's authorities can't be used.
    pub fn new(url: &WebhookUrl, timeout: Duration) -> Result<Self, PemError> {
        Ok(Self {
            url: url.clone(),
            client: HttpClient::new(url.0.clone(), &TLS_NAMES)?,
            timeout,
        })
    }

    /// The receiver's URL.
    pub(super) fn url(&self) -> &WebhookUrl {
        &self.url
    }

    /// Makes one attempt to deliver a notice. A receiver that has it already recognizes the id.
    ///
    /// # Errors
    ///
    /// The receiver did not answer in time with a 2xx status. It may have the notice nevertheless.
    pub async fn post(&self, notice: &Notice) -> Result<(), WebhookError> {
        let id = HeaderValue::try_from(notification::id(notice)).expect("an id is ASCII");
        let mut request = Request::new(Full::new(Bytes::from(notification::body(notice))));
        *request.method_mut() = Method::POST;
        let target = self.url.0.path_and_query().cloned();
        *request.uri_mut() = target.map(Uri::from).unwrap_or_default();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(IDEMPOTENCY_KEY, id);
        let answer = timeout(self.timeout, self.client.send(request)).await;
        let answer = answer.map_err(|_| WebhookError::Timeout(self.timeout))?;
        let answer = answer.map_err(|ConnectionFault(words)| WebhookError::Connection(words))?;
        let status = answer.response.status();
        if status.is_success() {
            Ok(())
        } else if status.is_redirection() {
            Err(WebhookError::Redirect(status.as_u16()))
        } else {
            let retry_after = retry_after(answer.response.headers());
            Err(WebhookError::Status {
                status,
                retry_after,
            })
        }
    }
}
