//! Reads a Check: which request to a provider Envoy asks about, and what to reserve for it.

use std::collections::HashMap;

use tonic::Status;

use super::{
    metadata,
    proto::envoy::{
        config::core::v3::Metadata,
        data::ai::v3::RequestInfo,
        service::auth::v3::{
            AttributeContext, CheckRequest,
            attribute_context::{HttpRequest, Request as RequestAttributes},
        },
    },
    settings::EnvoySettings,
};
use crate::{
    domain::{InvalidField, ProjectId, RequestFields, RequestId},
    estimate::{Endpoint, Estimate, EstimateError, estimate, estimate_partial},
    grpc::{Permit, invalid, org},
    ledger::Reserve,
    policy::Policy,
};

/// The keys of a route's context extensions.
const ORG_KEY: &str = "tollgate.org";
const PROJECT_KEY: &str = "tollgate.project";

/// Envoy sets it where it sends only the beginning of a body.
const PARTIAL_BODY_HEADER: &str = "x-envoy-auth-partial-body";

/// Where the AI protocol manager publishes what a request asks for.
const REQUEST_INFO: &str = "envoy.ai.request_info";

/// Why a request can't be estimated. It passes as BILLED, and nothing is counted.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("no POST to chat/completions, responses or embeddings")]
    OtherCall,
    #[error("the body is compressed (content-encoding: {0})")]
    Compressed(String),
    #[error(transparent)]
    Body(#[from] EstimateError),
}

/// The request that Envoy asks about.
pub(super) struct CheckAttributes {
    http: HttpRequest,
    headers: HashMap<String, String>,
    extensions: HashMap<String, String>,
    metadata: Metadata,
}

impl CheckAttributes {
    /// # Errors
    ///
    /// The message has no HTTP request.
    pub(super) fn read(message: CheckRequest) -> Result<Self, Status> {
        let AttributeContext {
            request,
            context_extensions,
            metadata_context,
        } = message.attributes.unwrap_or_default();
        let Some(RequestAttributes {
            http: Some(mut http),
        }) = request
        else {
            let fault = "attributes.request.http: is missing";
            return Err(Status::invalid_argument(fault));
        };
        let mut headers = std::mem::take(&mut http.headers);
        for header in http.header_map.take().unwrap_or_default().headers {
            let value = match header.raw_value.is_empty() {
                true => header.value,
                false => String::from_utf8_lossy(&header.raw_value).into_owned(),
            };
            headers.insert(header.key.to_lowercase(), value);
        }
        Ok(Self {
            http,
            headers,
            extensions: context_extensions,
            metadata: metadata_context.unwrap_or_default(),
        })
    }

    /// The most tokens that the request may use, its model and its workload.
    ///
    /// # Errors
    ///
    /// It is not a request that can be estimated.
    pub(super) fn estimate(
        &self,
        settings: &EnvoySettings,
        policy: &Policy,
    ) -> Result<Estimate, Unreadable> {
        let endpoint = Endpoint::of_path(&self.http.path).map_err(|_| Unreadable::OtherCall)?;
        if self.http.method != "POST" {
            return Err(Unreadable::OtherCall);
        }
        let encoding = self.header("content-encoding");
        if let Some(encoding) = encoding.filter(|it| !it.eq_ignore_ascii_case("identity")) {
            return Err(Unreadable::Compressed(encoding.to_owned()));
        }
        let body: &[u8] = match self.http.raw_body.is_empty() {
            true => self.http.body.as_bytes(),
            false => &self.http.raw_body,
        };
        let info = self.metadata.typed_filter_metadata.get(REQUEST_INFO);
        let info: Option<RequestInfo> = info.and_then(metadata::decode);
        let model = info.as_ref().map(|info| info.model.as_str());
        let model = model.filter(|model| !model.is_empty());
        let capacity = |model: &str| policy.capacity(model);
        let covers = |workload| policy.covers(workload);
        let estimate = match self.is_partial(body, settings) {
            // Envoy says how much it has received, not how much there is.
            true => estimate_partial(endpoint, body, model, capacity, covers),
            false => estimate(endpoint, body, model, capacity, covers),
        };
        Ok(estimate?)
    }

    /// Whether this may be the beginning of a body. Envoy does not say so if it asks as soon as its buffer is full.
    fn is_partial(&self, body: &[u8], settings: &EnvoySettings) -> bool {
        let length = self.header("content-length");
        let length = length.and_then(|it| it.parse().ok()).unwrap_or(0);
        self.header(PARTIAL_BODY_HEADER) == Some("true")
            || body.len() < length
            || body.len() >= settings.authorization_bytes
    }

    /// What to reserve, and the id of the reservation.
    ///
    /// # Errors
    ///
    /// The organization or the project is missing, a value is out of bounds, or the caller may not speak for the
    /// organization.
    pub(super) fn reserve(
        self,
        estimate: Estimate,
        settings: &EnvoySettings,
        permit: &Permit,
    ) -> Result<(RequestId, Reserve), Status> {
        let default = settings.organization.as_deref();
        let name = self.name(
            "org",
            ORG_KEY,
            settings.organization_header.as_deref(),
            default,
        )?;
        let org = org(name.to_owned(), permit)?;
        let default = settings.project.as_deref();
        let project = self.name(
            "project",
            PROJECT_KEY,
            settings.project_header.as_deref(),
            default,
        )?;
        if self.http.id.is_empty() {
            let fault = "attributes.request.http.id: is missing";
            return Err(Status::invalid_argument(fault));
        }
        let id = request_id(&self.http.id).map_err(invalid)?;
        let reserve = Reserve {
            org,
            fields: RequestFields {
                project: ProjectId::parse(project).map_err(invalid)?,
                model: estimate.model,
                tokens: estimate.tokens,
                workload: estimate.workload,
            },
            request_id: Some(id.clone()),
            dry_run: false,
            has_run: false,
        };
        Ok((id, reserve))
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// A name: the route's, else that of the header, else the default.
    fn name<'s>(
        &'s self,
        field: &str,
        key: &str,
        header: Option<&str>,
        default: Option<&'s str>,
    ) -> Result<&'s str, Status> {
        let of_route = self.extensions.get(key).map(String::as_str);
        let name = of_route.or_else(|| self.header(header?)).or(default);
        name.ok_or_else(|| {
            let message = format!(
                "{field}: neither the route's context_extensions have {key:?}, nor does [envoy] set a default"
            );
            Status::invalid_argument(message)
        })
    }
}

/// The id of a request's reservation: Envoy's own number of the stream, which no client chooses. If Envoy asks twice
/// about one request, the second Reserve is a replay.
fn request_id(stream: &str) -> Result<RequestId, InvalidField> {
    RequestId::parse(format!("{ID_PREFIX}{stream}"))
}

/// The beginning of every id that Check makes.
pub(super) const ID_PREFIX: &str = "envoy:";
