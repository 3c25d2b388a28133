//! Authentication and authorization of HTTP requests: by a client certificate, a bearer token, or the token as the
//! password of HTTP Basic.

use std::sync::Arc;

use axum::{
    extract::FromRequestParts,
    http::{StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};

use crate::{
    auth::{Authenticator, Peer, Principal, Role, TokenHash, Unauthenticated, token::AuthSchemes},
    domain::OrgId,
};

/// A principal that may read some organizations.
pub(super) struct Reader(Principal);

/// A request that fails, and why.
pub(super) struct HttpError(pub(super) StatusCode, pub(super) String);

impl Reader {
    /// Checks that it may read this organization.
    pub(super) fn may_read(&self, org: &OrgId) -> Result<(), HttpError> {
        self.0.check(Role::Read, org).map_err(forbidden)
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
        let peer = parts.extensions.get::<Arc<Peer>>();
        let token = || {
            let headers = parts.headers.get_all(header::AUTHORIZATION).iter();
            TokenHash::presented(headers.map(|it| it.as_bytes()), AuthSchemes::BearerOrBasic)
        };
        let principal = state.as_ref().authenticate(peer, token).map_err(|why| {
            // Without TLS, a browser would send the password in plaintext.
            let is_confidential = peer.is_some_and(|peer| peer.is_confidential());
            match why {
                Unauthenticated::PlaintextToken => forbidden(why),
                _ if !is_confidential => forbidden(format!("{why} (a token only over TLS)")),
                _ => HttpError(StatusCode::UNAUTHORIZED, why.to_string()),
            }
        })?;
        principal.check_role(Role::Read).map_err(forbidden)?;
        Ok(Self(principal))
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let Self(status, why) = self;
        let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"tollgate\"")];
        let challenge = (status == StatusCode::UNAUTHORIZED).then_some(challenge);
        (status, challenge, why).into_response()
    }
}
