//! Authentication and authorization of callers (docs/CONTRACT.md, "Callers").
//!
//! `schema.rs` has the schema of the callers file. [`peer`] has the credentials of a connection, [`token`] those of a
//! call. The [`authenticator`] checks both, and the ports convert its errors to statuses.

pub mod authenticator;
pub mod peer;
mod schema;
pub mod token;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

pub use self::{
    authenticator::{Authenticator, CallerChanges, CallerSet, PlaintextTokens},
    peer::{BadCertificate, CertificateName, Peer, PortSecurity},
    token::TokenHash,
};
pub(crate) use self::{
    authenticator::{Forbidden, Principal},
    token::new_token,
};
use crate::domain::OrgId;

/// The size of the largest callers file.
pub(crate) const MAX_BYTES: u64 = 8 << 20;

/// A validated callers file.
#[derive(Debug)]
pub struct Callers {
    by_name: BTreeMap<String, Arc<Caller>>,
    by_certificate: HashMap<CertificateName, Arc<Caller>>,
    by_token: Vec<(TokenHash, Arc<Caller>)>,
}

/// A caller, with its credentials and rights.
#[derive(Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its name in the callers file.
    pub name: String,
    /// The names in a certificate by which it is known.
    pub certificates: Vec<CertificateName>,
    /// The hashes of the tokens by which it is known.
    pub tokens: Vec<TokenHash>,
    /// Its roles.
    pub roles: Vec<Role>,
    /// The organizations that it may act for.
    pub organizations: Organizations,
}

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Reserve, settle and release.
    Reserve,
    /// Read quotas and usage.
    Read,
    /// Correct what is counted.
    Admin,
}

/// The organizations that a caller may act for.
#[derive(Debug, PartialEq, Eq)]
pub enum Organizations {
    /// Every one.
    All,
    /// These.
    Named(HashSet<OrgId>),
}

/// Why a caller is not known. Names no known callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // The messages say it.
pub enum Unauthenticated {
    #[error(
        "this service answers known callers: present a client certificate, or \
         \"authorization: Bearer TOKEN\""
    )]
    NoCredentials,
    #[error("the client certificate is of no known caller")]
    UnknownCertificate,
    #[error("the client certificate is of more than one caller")]
    AmbiguousCertificate,
    #[error("the bearer token is of no known caller")]
    UnknownToken,
    #[error("the authorization header is not one \"Bearer TOKEN\"")]
    MalformedHeader,
    #[error(
        "a bearer token came over a connection that is not encrypted, and is not taken: connect over TLS, \
         and replace the token if others could read it"
    )]
    PlaintextToken,
}

impl Callers {
    /// The callers, ordered by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Caller> {
        self.by_name.values().map(|caller| &**caller)
    }

    /// Whether any caller is known by a token.
    pub fn has_tokens(&self) -> bool {
        !self.by_token.is_empty()
    }

    /// The caller with these credentials. If there is a token, it alone counts: a wrong one is refused, even beside a
    /// valid certificate.
    ///
    /// # Errors
    ///
    /// It is not known.
    pub fn identify(
        &self,
        peer: &Peer,
        token: Option<&TokenHash>,
    ) -> Result<Arc<Caller>, Unauthenticated> {
        let caller = match token {
            Some(_) if !peer.is_confidential() => Err(Unauthenticated::PlaintextToken),
            Some(token) => self.by_token(token).ok_or(Unauthenticated::UnknownToken),
            None => self.by_certificate(peer),
        };
        caller.cloned()
    }

    /// Compares with every token: the time does not depend on which one it is.
    fn by_token(&self, token: &TokenHash) -> Option<&Arc<Caller>> {
        let hashes = self.by_token.iter().map(|(hash, _)| hash);
        let (_, caller) = &self.by_token[token.position_in(hashes)?];
        Some(caller)
    }

    fn by_certificate(&self, peer: &Peer) -> Result<&Arc<Caller>, Unauthenticated> {
        if peer.names.is_empty() {
            return Err(Unauthenticated::NoCredentials);
        }
        let names = peer.names.iter();
        let mut known = names.filter_map(|name| self.by_certificate.get(name));
        let caller = known.next().ok_or(Unauthenticated::UnknownCertificate)?;
        if known.all(|other| Arc::ptr_eq(other, caller)) {
            Ok(caller)
        } else {
            Err(Unauthenticated::AmbiguousCertificate)
        }
    }
}

impl Organizations {
    fn include(&self, org: &OrgId) -> bool {
        match self {
            Self::All => true,
            Self::Named(orgs) => orgs.contains(org),
        }
    }
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::Reserve, Self::Read, Self::Admin];

    /// Its name in the callers file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reserve => "reserve",
            Self::Read => "read",
            Self::Admin => "admin",
        }
    }
}
