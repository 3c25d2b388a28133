//! Who may call what (docs/CONTRACT.md, "Callers").
//!
//! A call is authorized before its message is read. The handler gets the caller's rights as a [`Permit`], without
//! which no organization's name becomes an [`OrgId`] ([`convert::org`](super::convert::org)). An RPC that is not
//! listed in [`role_of`] is not served.

use std::sync::Arc;

use tonic::{
    Code, Status,
    body::Body,
    codegen::http::{Request, header},
    metadata::MetadataValue,
};

use crate::{
    auth::{
        Authenticator, Forbidden, Organizations, Peer, Principal, Role, TokenHash, Unauthenticated,
        token::AuthSchemes,
    },
    domain::OrgId,
    telemetry::log_limited,
};

/// Who may call server reflection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ReflectionFor {
    /// Everyone.
    Everyone,
    /// Every known caller, of any role.
    Callers,
    /// Nobody: it is not served.
    #[value(name = "off")]
    Nobody,
}

/// What a caller of a service must have.
#[derive(Debug, Clone, Copy)]
pub(super) enum AccessRule {
    /// The role of the method.
    ByMethod,
    /// One role, whatever the method.
    Role(Role),
    /// Only valid credentials.
    AnyCaller,
}

/// The rights of a call: a role, for its caller's organizations.
#[derive(Debug, Clone)]
pub(crate) struct Permit {
    principal: Principal,
    /// None if any caller may call.
    role: Option<Role>,
}

/// The role that a method of `tollgate.v1.QuotaService` needs.
fn role_of(method: &str) -> Option<Role> {
    Some(match method {
        "Reserve" | "ReserveStream" | "Settle" | "Release" | "Estimate" => Role::Reserve,
        "GetQuota" | "ListUsage" | "ListOrganizations" | "ListExternalChanges" => Role::Read,
        "SetExternalUsage" => Role::Admin,
        _ => return None,
    })
}

impl ReflectionFor {
    /// Authenticates its callers; none if it is not served.
    #[must_use]
    pub fn authenticator(self, callers: &Authenticator) -> Option<Authenticator> {
        match self {
            Self::Everyone => Some(Authenticator::Everyone),
            Self::Callers => Some(callers.clone()),
            Self::Nobody => None,
        }
    }
}

impl AccessRule {
    /// Authenticates the caller, and checks its role.
    pub(super) fn authorize(
        self,
        authenticator: &Authenticator,
        service: &str,
        request: &Request<Body>,
    ) -> Result<Permit, Status> {
        let principal = principal(authenticator, request)?;
        let role = match self {
            Self::AnyCaller => None,
            Self::Role(role) => Some(role),
            Self::ByMethod => {
                let path = request.uri().path().strip_prefix('/');
                let method = path.and_then(|it| it.strip_prefix(service)?.strip_prefix('/'));
                let role = method.and_then(role_of);
                Some(role.ok_or_else(|| Status::unimplemented("the service has no such method"))?)
            }
        };
        let permit = Permit { principal, role };
        permit.check_role()?;
        Ok(permit)
    }
}

fn principal(authenticator: &Authenticator, request: &Request<Body>) -> Result<Principal, Status> {
    let peer = request.extensions().get::<Arc<Peer>>();
    let token = || {
        let headers = request.headers().get_all(header::AUTHORIZATION);
        TokenHash::presented(headers.iter().map(|it| it.as_bytes()), AuthSchemes::Bearer)
    };
    authenticator
        .authenticate(peer, token)
        .map_err(|why| unauthenticated(peer, why))
}

impl Permit {
    pub(crate) fn covers(&self, org: &OrgId) -> Result<(), Status> {
        let Some(role) = self.role else {
            return Ok(());
        };
        let checked = self.principal.check(role, org);
        checked.map_err(|why| forbidden(&self.principal, why))
    }

    /// The organizations that it is for; none: all.
    pub(crate) fn organizations(&self) -> Option<Vec<OrgId>> {
        match self.principal.organizations() {
            Organizations::All => None,
            Organizations::Named(orgs) => Some(orgs.iter().cloned().collect()),
        }
    }

    /// The caller's name in the callers file; none without one.
    pub(crate) fn caller(&self) -> Option<&str> {
        self.principal.name()
    }

    /// Checks the caller's rights again: the callers may have changed since.
    pub(crate) fn renew(&mut self) -> Result<(), Status> {
        let refreshed = self.principal.refresh();
        refreshed.map_err(|why| unauthenticated(None, why))?;
        self.check_role()
    }

    fn check_role(&self) -> Result<(), Status> {
        let Some(role) = self.role else {
            return Ok(());
        };
        let checked = self.principal.check_role(role);
        checked.map_err(|why| forbidden(&self.principal, why))
    }
}

fn unauthenticated(peer: Option<&Arc<Peer>>, why: Unauthenticated) -> Status {
    let peer = || Some(peer?.address()?.to_string());
    log_limited!(warn, peer = peer(), reason = %why, "calls of unknown callers are refused");
    let mut status = Status::new(Code::Unauthenticated, why.to_string());
    let scheme = MetadataValue::from_static("Bearer");
    status.metadata_mut().insert("www-authenticate", scheme);
    status
}

fn forbidden(principal: &Principal, why: Forbidden) -> Status {
    let caller = principal.name();
    log_limited!(warn, caller, reason = %why, "calls beyond a caller's rights are refused");
    Status::permission_denied(why.to_string())
}
