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

/// Why access is denied.
pub(super) enum AccessError {
    /// The caller is not authenticated.
    Unknown(Unauthenticated),
    /// The caller lacks the permission.
    Forbidden(String),
}

impl Reader {
    /// Checks that it may read this organization.
    pub(super) fn may_read(&self, org: &OrgId) -> Result<(), AccessError> {
        let may = self.0.check(Role::Read, org);
        may.map_err(|why| AccessError::Forbidden(why.to_string()))
    }
}

impl<S> FromRequestParts<S> for Reader
where
    S: Send + Sync + AsRef<Authenticator>,
{
    type Rejection = AccessError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, AccessError> {
        let peer = parts.extensions.get::<Arc<Peer>>();
        let token = || {
            let headers = parts.headers.get_all(header::AUTHORIZATION).iter();
            TokenHash::presented(headers.map(|it| it.as_bytes()), AuthSchemes::BearerOrBasic)
        };
        let principal = state.as_ref().authenticate(peer, token).map_err(|why| {
            // Without TLS, a browser would send the password in plaintext.
            let is_confidential = peer.is_some_and(|peer| peer.is_confidential());
            match why {
                Unauthenticated::PlaintextToken => AccessError::Forbidden(why.to_string()),
                _ if !is_confidential => {
                    AccessError::Forbidden(format!("{why} (a token only over TLS)"))
                }
                _ => AccessError::Unknown(why),
            }
        })?;
        let may = principal.check_role(Role::Read);
        may.map_err(|why| AccessError::Forbidden(why.to_string()))?;
        Ok(Self(principal))
    }
}

impl IntoResponse for AccessError {
    fn into_response(self) -> Response {
        match self {
            Self::Unknown(why) => {
                let challenge = (header::WWW_AUTHENTICATE, "Basic realm=\"tollgate\"");
                (StatusCode::UNAUTHORIZED, [challenge], why.to_string()).into_response()
            }
            Self::Forbidden(why) => (StatusCode::FORBIDDEN, why).into_response(),
        }
    }
}
