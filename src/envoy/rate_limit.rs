//! `ShouldRateLimit`: reserves, settles or releases what a descriptor says.
//!
//! For Envoys that can't use Check. A rate limit filter can't choose the upstream by the verdict.

use std::collections::HashMap;

use prost_types::Duration;
use tonic::{Request, Response, Status};

use super::{
    attributes::ID_PREFIX,
    front::EnvoyFront,
    proto::envoy::{
        extensions::common::ratelimit::v3::RateLimitDescriptor,
        service::ratelimit::v3::{
            RateLimitRequest, RateLimitResponse,
            rate_limit_response::{Code, DescriptorStatus},
            rate_limit_service_server::RateLimitService,
        },
    },
    response,
};
use crate::{
    domain::{ModelName, OrgId, ProjectId, RequestFields, RequestId, Tokens, Workload},
    grpc::{Permit, invalid, org, status},
    ledger::{Ledger, Reserve, Reserved, Settle},
    telemetry::metrics::{EnvoyCheck, EnvoyOutcome, Metrics},
};

const OPERATION: &str = "tollgate.operation";
const ORG: &str = "tollgate.org";
const PROJECT: &str = "tollgate.project";
const MODEL: &str = "tollgate.model";
const ID: &str = "tollgate.id";

/// Handles `envoy.service.ratelimit.v3.RateLimitService`.
pub(super) struct RateLimitHandler(pub(super) EnvoyFront);

#[tonic::async_trait]
impl RateLimitService for RateLimitHandler {
    async fn should_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let (ledger, permit, message) = self.0.service.accept(request)?;
        let descriptor = Descriptor::read(message)?;
        let response = match descriptor.entry(OPERATION)? {
            "reserve" => {
                let request = self.reserve_request(&descriptor, &permit)?;
                self.reserve(&ledger, request).await?
            }
            "settle" => {
                let settle = Settle {
                    org: self.org(&descriptor, &permit)?,
                    request_id: descriptor.request_id()?,
                    tokens: Tokens::of_settle(descriptor.tokens()?).map_err(invalid)?,
                    outside_program: false,
                };
                ledger.settle(settle).await.map_err(status)?;
                self.metrics().envoy_ended(EnvoyOutcome::Settled);
                answer(Code::Ok)
            }
            "release" => {
                let (org, id) = (self.org(&descriptor, &permit)?, descriptor.request_id()?);
                ledger.release(org, id).await.map_err(status)?;
                self.metrics().envoy_ended(EnvoyOutcome::Released);
                answer(Code::Ok)
            }
            other => {
                let fault =
                    format!("{OPERATION}: is {other:?}, allowed are reserve, settle and release");
                return Err(Status::invalid_argument(fault));
            }
        };
        Ok(Response::new(response))
    }
}

impl RateLimitHandler {
    fn metrics(&self) -> &Metrics {
        &self.0.service.metrics
    }

    fn org(&self, descriptor: &Descriptor, permit: &Permit) -> Result<OrgId, Status> {
        let name = descriptor.entry_or(ORG, self.0.settings.organization.as_deref())?;
        org(name.to_owned(), permit)
    }

    fn reserve_request(&self, descriptor: &Descriptor, permit: &Permit) -> Result<Reserve, Status> {
        let project = descriptor.entry_or(PROJECT, self.0.settings.project.as_deref())?;
        let has_id = descriptor.entries.contains_key(ID);
        Ok(Reserve {
            org: self.org(descriptor, permit)?,
            fields: RequestFields {
                project: ProjectId::parse(project).map_err(invalid)?,
                model: ModelName::parse(descriptor.entry(MODEL)?).map_err(invalid)?,
                tokens: Tokens::of_reserve(descriptor.tokens()?).map_err(invalid)?,
                workload: Workload::Inference,
            },
            request_id: has_id.then(|| descriptor.request_id()).transpose()?,
            dry_run: false,
            has_run: false,
        })
    }

    async fn reserve(
        &self,
        ledger: &Ledger,
        request: Reserve,
    ) -> Result<RateLimitResponse, Status> {
        if let Some(refused) = self.0.refusal(ledger, &request).await? {
            self.metrics().envoy_checked(EnvoyCheck::Denied);
            return Ok(refusal(&refused));
        }
        let (org, id) = (request.org.clone(), request.request_id.clone());
        let reserved = ledger.reserve(request).await.map_err(status)?;
        if self.0.must_refuse(&reserved) {
            if let Some(id) = id {
                self.0.settlement.release(org, id);
            }
            self.metrics().envoy_checked(EnvoyCheck::Denied);
            return Ok(refusal(&reserved));
        }
        self.metrics()
            .envoy_checked(match reserved.verdict.is_free() {
                true => EnvoyCheck::Free,
                false => EnvoyCheck::Billed,
            });
        let (verdict, reason) = response::names(reserved.verdict);
        Ok(RateLimitResponse {
            request_headers_to_add: response::headers(verdict, reason.as_deref()),
            statuses: vec![descriptor_status(Code::Ok, &reserved)],
            ..answer(Code::Ok)
        })
    }
}

fn answer(code: Code) -> RateLimitResponse {
    let status = DescriptorStatus {
        code: code.into(),
        ..DescriptorStatus::default()
    };
    RateLimitResponse {
        overall_code: code.into(),
        statuses: vec![status],
        ..RateLimitResponse::default()
    }
}

fn refusal(reserved: &Reserved) -> RateLimitResponse {
    RateLimitResponse {
        response_headers_to_add: response::refusal_headers(reserved.verdict),
        raw_body: response::refusal_body(reserved.verdict).into_bytes(),
        statuses: vec![descriptor_status(Code::OverLimit, reserved)],
        ..answer(Code::OverLimit)
    }
}

fn descriptor_status(code: Code, reserved: &Reserved) -> DescriptorStatus {
    let remaining = reserved
        .pool
        .as_ref()
        .map_or(0, |pool| pool.remaining().get());
    let until_reset = reserved.resets_at - crate::wall_clock::now();
    DescriptorStatus {
        code: code.into(),
        limit_remaining: u32::try_from(remaining).unwrap_or(u32::MAX),
        duration_until_reset: Some(Duration {
            seconds: until_reset.num_seconds().max(0),
            nanos: 0,
        }),
    }
}

/// The one descriptor of a request.
struct Descriptor {
    entries: HashMap<String, String>,
    tokens: Option<u64>,
}

impl Descriptor {
    fn read(request: RateLimitRequest) -> Result<Self, Status> {
        let fault = |fault: &str| Status::invalid_argument(fault.to_owned());
        let of_request = Some(request.hits_addend).filter(|hits| *hits > 0);
        let [descriptor] =
            <[RateLimitDescriptor; 1]>::try_from(request.descriptors).map_err(|all| {
                fault(&format!(
                    "descriptors: there are {}, and must be one",
                    all.len()
                ))
            })?;
        if descriptor.is_negative_hits {
            return Err(fault(
                "is_negative_hits: a reservation is taken back with the operation release",
            ));
        }
        let mut entries = HashMap::new();
        for entry in descriptor.entries {
            if entries.insert(entry.key.clone(), entry.value).is_some() {
                return Err(fault(&format!("{}: is given twice", entry.key)));
            }
        }
        Ok(Self {
            entries,
            tokens: descriptor.hits_addend.or(of_request.map(u64::from)),
        })
    }

    /// The tokens. An unset number is an error: Envoy's default of 1 would count almost nothing.
    fn tokens(&self) -> Result<u64, Status> {
        let missing = || Status::invalid_argument("hits_addend: is missing: the number of tokens");
        self.tokens.ok_or_else(missing)
    }

    fn entry(&self, key: &str) -> Result<&str, Status> {
        self.entry_or(key, None)
    }

    fn entry_or<'d>(&'d self, key: &str, default: Option<&'d str>) -> Result<&'d str, Status> {
        let entry = self.entries.get(key).map(String::as_str).or(default);
        entry.ok_or_else(|| {
            Status::invalid_argument(format!("{key}: the descriptor has no such entry"))
        })
    }

    /// The id that a Check has published. An id from a client's header could repeat an earlier one, whose answer would
    /// be replayed while nothing is counted.
    fn request_id(&self) -> Result<RequestId, Status> {
        let id = self.entry(ID)?;
        if !id.starts_with(ID_PREFIX) {
            let fault = format!("{ID}: must be the id of a Check, which begins with {ID_PREFIX:?}");
            return Err(Status::invalid_argument(fault));
        }
        RequestId::parse(id).map_err(invalid)
    }
}
