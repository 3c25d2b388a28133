//! Authenticates the callers of both ports, and checks their rights.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::{Caller, Callers, Organizations, Peer, PortSecurity, Role, TokenHash, Unauthenticated};
use crate::domain::OrgId;

/// Who may call.
#[derive(Debug, Clone)]
pub enum Authenticator {
    /// There is no callers file: everyone may do everything, but administrate only on loopback.
    Everyone,
    /// The callers of the callers file.
    Callers(Arc<CallerSet>),
}

/// The callers in force, which can be replaced while calls are open.
#[derive(Debug)]
pub struct CallerSet {
    current: ArcSwap<Callers>,
    /// The gRPC port, which accepts tokens only if it is confidential.
    port: PortSecurity,
}

/// The callers have tokens, and the port is not confidential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "callers have tokens, and the gRPC port, which is not on loopback, has no TLS: everybody on the way \
     could read them. Give the port a certificate, or let callers be known by theirs alone"
)]
pub struct PlaintextTokens;

/// The changes from one callers file to another, by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CallerChanges {
    /// New callers.
    pub added: Vec<String>,
    /// Removed callers.
    pub removed: Vec<String>,
    /// Callers with other credentials or rights.
    pub changed: Vec<String>,
}

/// Who makes a call.
#[derive(Debug, Clone)]
pub(crate) enum Principal {
    /// There is no callers file.
    Anybody {
        /// Whether it called over a port that only this machine can reach.
        is_local: bool,
    },
    Known(KnownCaller),
}

/// A caller with its credentials, so that it can be authenticated again.
#[derive(Debug, Clone)]
pub(crate) struct KnownCaller {
    caller: Arc<Caller>,
    peer: Arc<Peer>,
    token: Option<TokenHash>,
    /// The callers that authenticated it.
    callers: Arc<Callers>,
    /// The callers in force.
    caller_set: Arc<CallerSet>,
}

/// Why a known caller is refused. Names no others, and not whether an organization exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Forbidden {
    #[error("this caller does not have the role \"{}\"", .0.name())]
    Role(Role),
    #[error("this caller may not speak for this organization")]
    Organization,
    #[error("without a callers file this call is answered on loopback only")]
    NotLocal,
}

impl CallerSet {
    /// Puts the first callers in force.
    ///
    /// # Errors
    ///
    /// They have tokens that this port must not accept.
    pub fn new(callers: Callers, port: PortSecurity) -> Result<Self, PlaintextTokens> {
        check(&callers, port)?;
        Ok(Self {
            current: ArcSwap::from_pointee(callers),
            port,
        })
    }

    /// Puts other callers in force, for every call and every request of a stream from now on, and logs the changes.
    ///
    /// # Errors
    ///
    /// They have tokens that this port must not accept. The callers before stay.
    pub fn replace(&self, callers: Callers) -> Result<CallerChanges, PlaintextTokens> {
        check(&callers, self.port)?;
        let changes = CallerChanges::between(&self.current.load(), &callers);
        if changes == CallerChanges::default() {
            return Ok(changes);
        }
        let count = callers.iter().len();
        self.current.store(Arc::new(callers));
        tracing::info!(
            callers = count,
            added = ?changes.added,
            removed = ?changes.removed,
            changed = ?changes.changed,
            "the callers have changed"
        );
        Ok(changes)
    }
}

fn check(callers: &Callers, port: PortSecurity) -> Result<(), PlaintextTokens> {
    if callers.has_tokens() && !port.is_confidential() {
        return Err(PlaintextTokens);
    }
    Ok(())
}

impl CallerChanges {
    fn between(last: &Callers, next: &Callers) -> Self {
        let mut changes = Self::default();
        for (name, caller) in &next.by_name {
            match last.by_name.get(name) {
                None => changes.added.push(name.clone()),
                Some(before) if before != caller => changes.changed.push(name.clone()),
                Some(_) => {}
            }
        }
        let names = last.by_name.keys();
        let gone = names.filter(|name| !next.by_name.contains_key(*name));
        changes.removed = gone.cloned().collect();
        changes
    }
}

impl Authenticator {
    /// Authenticates the caller of a call. `peer` is none if the connection is unknown; `token` reads the call's
    /// headers, and is not called if everyone may call.
    pub(crate) fn authenticate(
        &self,
        peer: Option<&Arc<Peer>>,
        token: impl FnOnce() -> Result<Option<TokenHash>, Unauthenticated>,
    ) -> Result<Principal, Unauthenticated> {
        let Self::Callers(caller_set) = self else {
            let is_local = peer.is_some_and(|peer| peer.is_local());
            return Ok(Principal::Anybody { is_local });
        };
        let unknown = || Arc::new(Peer::on(PortSecurity::default(), None));
        let peer = peer.map_or_else(unknown, Arc::clone);
        let token = token()?;
        let callers = caller_set.current.load_full();
        Ok(Principal::Known(KnownCaller {
            caller: callers.identify(&peer, token.as_ref())?,
            peer,
            token,
            callers,
            caller_set: Arc::clone(caller_set),
        }))
    }
}

impl Principal {
    pub(crate) fn check_role(&self, role: Role) -> Result<(), Forbidden> {
        match self {
            Self::Known(known) if !known.caller.roles.contains(&role) => Err(Forbidden::Role(role)),
            Self::Anybody { is_local: false } if role == Role::Admin => Err(Forbidden::NotLocal),
            _ => Ok(()),
        }
    }

    /// Checks that it has a role, for an organization.
    pub(crate) fn check(&self, role: Role, org: &OrgId) -> Result<(), Forbidden> {
        self.check_role(role)?;
        match self {
            Self::Known(known) if !known.caller.organizations.include(org) => {
                Err(Forbidden::Organization)
            }
            _ => Ok(()),
        }
    }

    /// The organizations that it may act for.
    pub(crate) fn organizations(&self) -> &Organizations {
        match self {
            Self::Anybody { .. } => &Organizations::All,
            Self::Known(known) => &known.caller.organizations,
        }
    }

    /// Authenticates it again if the callers have changed: a stream can be open for days.
    pub(crate) fn refresh(&mut self) -> Result<(), Unauthenticated> {
        let Self::Known(known) = self else {
            return Ok(());
        };
        let current = known.caller_set.current.load();
        if !Arc::ptr_eq(&current, &known.callers) {
            known.caller = current.identify(&known.peer, known.token.as_ref())?;
            known.callers = Arc::clone(&current);
        }
        Ok(())
    }

    /// The caller's name, if it is known.
    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Self::Anybody { .. } => None,
            Self::Known(known) => Some(&known.caller.name),
        }
    }
}
