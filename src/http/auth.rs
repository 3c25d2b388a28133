//! Authentication and authorization of HTTP requests: by a client certificate, a bearer token, or the token as the
//! password of HTTP Basic.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{StatusCode, header, request::Parts},
};

use super::error::HttpError;
use crate::{
    auth::{
        Authenticator, Organizations, Peer, Principal, Role, TokenHash, Unauthenticated,
        token::AuthSchemes,
    },
    domain::OrgId,
};

/// A principal that may read some organizations.
pub(super) struct Reader(Principal);

/// A principal that may administrate some organizations.
pub(super) struct Administrator(Principal);

impl Reader {
    /// Checks that it may read this organization.
    pub(super) fn may_read(&self, org: &OrgId) -> Result<(), HttpError> {
        self.0.check(Role::Read, org).map_err(forbidden)
    }

    /// Whether it may also administrate this organization.
    pub(super) fn may_administrate(&self, org: &OrgId) -> bool {
        self.0.check(Role::Admin, org).is_ok()
    }

    /// The organizations that it may read; none: all.
    pub(super) fn readable(&self) -> Option<Vec<OrgId>> {
        match self.0.organizations() {
            Organizations::All => None,
            Organizations::Named(orgs) => Some(orgs.iter().cloned().collect()),
        }
    }
}

impl Administrator {
    /// Checks that it may administrate this organization.
    pub(super) fn may_administrate(&self, org: &OrgId) -> Result<(), HttpError> {
        self.0.check(Role::Admin, org).map_err(forbidden)
    }

    /// Its name in the callers file; none without one.
    pub(super) fn name(&self) -> Option<&str> {
        self.0.name()
    }
}

fn forbidden(why: impl ToString) -> HttpError {
    HttpError(StatusCode::FORBIDDEN, why.to_string())
}

impl<S> FromRequestParts<S> for Reader
where
    S: Send + Sync + AsRef<Authenticator>,
{
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, HttpError> {
        principal(parts, state.as_ref(), Role::Read).map(Self)
    }
}

impl<S> FromRequestParts<S> for Administrator
where
    S: Send + Sync + AsRef<Authenticator>,
{
    type Rejection = HttpError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, HttpError> {
        principal(parts, state.as_ref(), Role::Admin).map(Self)
    }
}

/// Authenticates the caller, and checks its role.
fn principal(
    parts: &Parts,
    authenticator: &Authenticator,
    role: Role,
) -> Result<Principal, HttpError> {
    let peer = parts.extensions.get::<Arc<Peer>>();
    let token = || {
        let headers = parts.headers.get_all(header::AUTHORIZATION).iter();
        TokenHash::presented(headers.map(|it| it.as_bytes()), AuthSchemes::BearerOrBasic)
    };
    let principal = authenticator.authenticate(peer, token).map_err(|why| {
        // Without TLS, a browser would send the password in plaintext.
        let is_confidential = peer.is_some_and(|peer| peer.is_confidential());
        match why {
            Unauthenticated::PlaintextToken => forbidden(why),
            _ if !is_confidential => forbidden(format!("{why} (a token only over TLS)")),
            _ => HttpError(StatusCode::UNAUTHORIZED, why.to_string()),
        }
    })?;
    principal.check_role(role).map_err(forbidden)?;
    Ok(principal)
}
