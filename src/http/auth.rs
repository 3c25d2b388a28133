//! Who asks over HTTP, and may they read? A client certificate, a bearer token, or the token as the password
//! that a browser asks for.

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

/// Somebody who may read, of some organizations at least.
pub(super) struct Reader(Principal);

/// Why somebody may not.
pub(super) enum AccessError {
    /// It is not known who it is.
    Unknown(Unauthenticated),
    /// It is a caller without the right.
    Forbidden(String),
}

impl Reader {
    /// Whether it may read of this organization.
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
            // A browser that is asked for a password would send it to everybody on the way.
            let asks = peer.is_some_and(|peer| peer.is_confidential());
            match why {
                Unauthenticated::PlaintextToken => AccessError::Forbidden(why.to_string()),
                _ if !asks => AccessError::Forbidden(format!("{why} (a token only over TLS)")),
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
                let ask = (header::WWW_AUTHENTICATE, "Basic realm=\"tollgate\"");
                (StatusCode::UNAUTHORIZED, [ask], why.to_string()).into_response()
            }
            Self::Forbidden(why) => (StatusCode::FORBIDDEN, why).into_response(),
        }
    }
}
