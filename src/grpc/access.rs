//! Who may call what (docs/CONTRACT.md, "Callers").
//!
//! Every call passes [`Authorized`] before anything else happens to it: not even its message is read of a
//! caller who may not. What it found out goes with the call as a [`Permit`], and only by that an
//! organization's name becomes an [`OrgId`] here ([`convert::org`](super::convert::org)). An RPC that is
//! not listed in [`role_of`] is not served.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use futures_util::future::Either;
use tonic::{
    Code, Extensions, Status,
    body::Body,
    codegen::{
        Service,
        http::{Request, Response, header},
    },
    metadata::MetadataValue,
    server::NamedService,
};

use crate::{
    auth::{
        Authenticator, Forbidden, Peer, Principal, Role, TokenHash, Unauthenticated,
        token::AuthSchemes,
    },
    domain::OrgId,
    telemetry::LogLimit,
};

/// Who may ask server reflection what the service offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReflectionFor {
    /// Everyone.
    Everyone,
    /// Every known caller, of any role.
    Callers,
    /// Nobody: it is not served.
    Nobody,
}

/// A gRPC service that only those reach who may.
#[derive(Debug, Clone)]
pub struct Authorized<S> {
    inner: S,
    authenticator: Authenticator,
    rule: Rule,
}

/// What a caller needs for the calls of a service.
#[derive(Debug, Clone, Copy)]
enum Rule {
    /// The role of the method.
    ByMethod,
    /// To be known.
    AnyCaller,
}

/// What the caller of a call may: a role, for its organizations.
#[derive(Debug, Clone)]
pub(super) struct Permit {
    principal: Principal,
    role: Role,
}

/// The role that a method of `tollgate.v1.QuotaService` needs.
fn role_of(method: &str) -> Option<Role> {
    Some(match method {
        "Reserve" | "ReserveStream" | "Settle" | "Release" => Role::Reserve,
        "GetQuota" | "ListUsage" => Role::Read,
        _ => return None,
    })
}

impl ReflectionFor {
    /// Who is let in to it; none where nobody is.
    #[must_use]
    pub fn authenticator(self, callers: &Authenticator) -> Option<Authenticator> {
        match self {
            Self::Everyone => Some(Authenticator::Everyone),
            Self::Callers => Some(callers.clone()),
            Self::Nobody => None,
        }
    }
}

impl<S> Authorized<S> {
    /// The quota service, each method for those who have its role.
    pub(super) fn by_method(inner: S, authenticator: Authenticator) -> Self {
        let rule = Rule::ByMethod;
        Self {
            inner,
            authenticator,
            rule,
        }
    }

    /// Another service, for every known caller.
    pub fn any_caller(inner: S, authenticator: Authenticator) -> Self {
        let rule = Rule::AnyCaller;
        Self {
            inner,
            authenticator,
            rule,
        }
    }
}

impl<S: NamedService> Authorized<S> {
    /// Lets a call through, with what its caller may, or says why not.
    fn admit(&self, request: &mut Request<Body>) -> Result<(), Status> {
        let principal = self.authenticate(request)?;
        if let Rule::AnyCaller = self.rule {
            return Ok(());
        }
        let path = request.uri().path();
        let method = path
            .strip_prefix('/')
            .and_then(|it| it.strip_prefix(S::NAME));
        let method = method.and_then(|it| it.strip_prefix('/'));
        let role = method
            .and_then(role_of)
            .ok_or_else(|| Status::unimplemented("the service has no such method"))?;
        principal
            .check_role(role)
            .map_err(|why| forbidden(&principal, why))?;
        // Where everyone may do everything there is nothing to carry along.
        if let Principal::Known(_) = principal {
            request.extensions_mut().insert(Permit { principal, role });
        }
        Ok(())
    }

    fn authenticate(&self, request: &Request<Body>) -> Result<Principal, Status> {
        let peer = request.extensions().get::<Arc<Peer>>();
        let token = || {
            let headers = request.headers().get_all(header::AUTHORIZATION);
            TokenHash::presented(headers.iter().map(|it| it.as_bytes()), AuthSchemes::Bearer)
        };
        self.authenticator
            .authenticate(peer, token)
            .map_err(|why| unauthenticated(peer, why))
    }
}

impl<S> Service<Request<Body>> for Authorized<S>
where
    S: NamedService + Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Result<Response<Body>, Infallible>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        match self.admit(&mut request) {
            Ok(()) => Either::Left(self.inner.call(request)),
            Err(status) => Either::Right(ready(Ok(status.into_http()))),
        }
    }
}

impl<S: NamedService> NamedService for Authorized<S> {
    const NAME: &'static str = S::NAME;
}

impl Permit {
    /// The permit of a call. A call that did not pass [`Authorized`] has none.
    pub(super) fn of(authenticator: &Authenticator, call: &Extensions) -> Result<Self, Status> {
        match (authenticator, call.get::<Self>()) {
            (Authenticator::Everyone, _) => Ok(Self {
                principal: Principal::Anybody,
                role: Role::Reserve,
            }),
            (Authenticator::Callers(_), Some(permit)) => Ok(permit.clone()),
            (Authenticator::Callers(_), None) => {
                Err(unauthenticated(None, Unauthenticated::NoCredentials))
            }
        }
    }

    /// Whether it is for this organization too.
    pub(super) fn covers(&self, org: &OrgId) -> Result<(), Status> {
        let may = self.principal.check(self.role, org);
        may.map_err(|why| forbidden(&self.principal, why))
    }

    /// Whether it still holds: the callers may have changed since.
    pub(super) fn refresh(&mut self) -> Result<(), Status> {
        let known = self.principal.refresh();
        known.map_err(|why| unauthenticated(None, why))?;
        let has = self.principal.check_role(self.role);
        has.map_err(|why| forbidden(&self.principal, why))
    }
}

static REFUSALS: LogLimit = LogLimit::new();

fn unauthenticated(peer: Option<&Arc<Peer>>, why: Unauthenticated) -> Status {
    if let Some(left_out) = REFUSALS.admit(Instant::now()) {
        let peer = peer.and_then(|peer| peer.address());
        let peer = peer.map(|address| address.to_string());
        tracing::warn!(peer, reason = %why, left_out, "calls of unknown callers are refused");
    }
    let mut status = Status::new(Code::Unauthenticated, why.to_string());
    let scheme = MetadataValue::from_static("Bearer");
    status.metadata_mut().insert("www-authenticate", scheme);
    status
}

fn forbidden(principal: &Principal, why: Forbidden) -> Status {
    if let Some(left_out) = REFUSALS.admit(Instant::now()) {
        let caller = principal.name();
        tracing::warn!(caller, reason = %why, left_out, "calls beyond a caller's rights are refused");
    }
    Status::permission_denied(why.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use prost_reflect::DescriptorPool;

    use super::*;

    #[test]
    fn every_method_of_the_service_has_its_role() {
        let pool = DescriptorPool::decode(crate::grpc::proto::DESCRIPTORS).unwrap();
        let service = pool.get_service_by_name("tollgate.v1.QuotaService");
        for method in service.unwrap().methods() {
            assert!(role_of(method.name()).is_some(), "{}", method.name());
        }
        assert_eq!(role_of("reserve"), None);
        assert_eq!(role_of(""), None);
    }

    #[test]
    fn a_call_that_was_not_authorized_has_no_permit() {
        use crate::auth::{CallerSet, Callers, PortSecurity};

        let text =
            "[callers.a]\ncertificates = [\"a\"]\nroles = [\"read\"]\norganizations = [\"*\"]\n";
        let port = PortSecurity {
            encrypted: true,
            loopback: false,
        };
        let callers = Callers::parse("callers.toml", text).unwrap();
        let caller_set = CallerSet::new(callers, port).unwrap();
        let authenticator = Authenticator::Callers(Arc::new(caller_set));
        let permit = Permit::of(&authenticator, &Extensions::new());
        assert_eq!(permit.unwrap_err().code(), Code::Unauthenticated);
        assert!(Permit::of(&Authenticator::Everyone, &Extensions::new()).is_ok());
    }
}
