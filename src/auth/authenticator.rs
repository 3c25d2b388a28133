//! What the ports ask: who speaks in this call, and may they?

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use arc_swap::ArcSwap;

use super::{Caller, Callers, Peer, PortSecurity, Role, TokenHash, Unauthenticated};
use crate::domain::OrgId;

/// Who is let in.
#[derive(Debug, Clone)]
pub enum Authenticator {
    /// There is no callers file: everyone may do everything.
    Everyone,
    /// Whom the callers file knows, as it is at that moment.
    Callers(Arc<CallerSet>),
}

/// The callers that are in force, and can be replaced while calls are open.
#[derive(Debug)]
pub struct CallerSet {
    current: ArcSwap<CallerRevision>,
    last_revision: AtomicU64,
    /// The gRPC port, which must not take tokens where others could read them.
    port: PortSecurity,
}

/// No two callers files that were in force have the same revision.
#[derive(Debug)]
struct CallerRevision {
    revision: u64,
    callers: Callers,
}

/// Callers that could only show their tokens to everybody on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "callers have tokens, and the gRPC port, which is not on loopback, has no TLS: everybody on the way \
     could read them. Give the port a certificate, or let callers be known by theirs alone"
)]
pub struct PlaintextTokens;

/// What a new callers file changed, by the names of the callers.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CallerChanges {
    /// Known since.
    pub added: Vec<String>,
    /// Not known any more.
    pub removed: Vec<String>,
    /// Known by something else, or with other rights.
    pub changed: Vec<String>,
}

/// Who speaks in a call, and is known to be it.
#[derive(Debug, Clone)]
pub enum Principal {
    /// Anybody, where everyone may do everything.
    Anybody,
    /// This caller.
    Known(KnownCaller),
}

/// A caller, and what it was known by: whether it still is can be asked anew.
#[derive(Debug, Clone)]
pub struct KnownCaller {
    caller: Arc<Caller>,
    peer: Arc<Peer>,
    token: Option<TokenHash>,
    caller_set: Arc<CallerSet>,
    /// Of the callers file by which it was known.
    revision: u64,
}

/// Why a known caller may not. Says nothing of others, nor whether an organization exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// It has not the role.
    #[error("this caller does not have the role \"{0}\"")]
    Role(Role),
    /// It may not speak for that organization.
    #[error("this caller may not speak for this organization")]
    Organization,
}

impl CallerSet {
    /// Puts the first callers in force.
    ///
    /// # Errors
    ///
    /// They have tokens that this port must not take.
    pub fn new(callers: Callers, port: PortSecurity) -> Result<Self, PlaintextTokens> {
        check(&callers, port)?;
        Ok(Self {
            current: ArcSwap::from_pointee(CallerRevision {
                revision: 0,
                callers,
            }),
            last_revision: AtomicU64::new(0),
            port,
        })
    }

    /// Puts others in force, for every call and every request of a stream from now on, and logs what
    /// changed.
    ///
    /// # Errors
    ///
    /// They have tokens that this port must not take; the last ones stay.
    pub fn replace(&self, callers: Callers) -> Result<CallerChanges, PlaintextTokens> {
        check(&callers, self.port)?;
        let count = callers.iter().len();
        let changes = CallerChanges::between(&self.current.load().callers, &callers);
        if changes == CallerChanges::default() {
            return Ok(changes);
        }
        let revision = 1 + self.last_revision.fetch_add(1, Ordering::Relaxed);
        self.current
            .store(Arc::new(CallerRevision { revision, callers }));
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

/// Whether the port may take the tokens of these callers, where they have any.
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
        let gone = last
            .by_name
            .keys()
            .filter(|name| !next.by_name.contains_key(*name));
        changes.removed = gone.cloned().collect();
        changes
    }
}

impl Authenticator {
    /// The callers in force, which can be replaced; none where everyone may call.
    #[must_use]
    pub fn caller_set(&self) -> Option<Arc<CallerSet>> {
        match self {
            Self::Everyone => None,
            Self::Callers(caller_set) => Some(Arc::clone(caller_set)),
        }
    }

    /// Who speaks in a call. `peer` is none where nothing is known of the connection; `token` reads the
    /// call's own headers, and is asked only where callers are told apart.
    ///
    /// # Errors
    ///
    /// It is not known.
    pub fn authenticate(
        &self,
        peer: Option<&Arc<Peer>>,
        token: impl FnOnce() -> Result<Option<TokenHash>, Unauthenticated>,
    ) -> Result<Principal, Unauthenticated> {
        let caller_set = match self {
            Self::Everyone => return Ok(Principal::Anybody),
            Self::Callers(caller_set) => caller_set,
        };
        let peer = peer.map_or_else(|| Arc::new(Peer::unknown()), Arc::clone);
        let token = token()?;
        let current = caller_set.current.load();
        Ok(Principal::Known(KnownCaller {
            caller: current.callers.identify(&peer, token.as_ref())?,
            peer,
            token,
            caller_set: Arc::clone(caller_set),
            revision: current.revision,
        }))
    }
}

impl Principal {
    /// Whether it has this role.
    ///
    /// # Errors
    ///
    /// It does not.
    pub fn check_role(&self, role: Role) -> Result<(), Forbidden> {
        match self {
            Self::Known(known) if !known.caller.has_role(role) => Err(Forbidden::Role(role)),
            _ => Ok(()),
        }
    }

    /// Whether it may do this for that organization.
    ///
    /// # Errors
    ///
    /// It may not.
    pub fn check(&self, role: Role, org: &OrgId) -> Result<(), Forbidden> {
        self.check_role(role)?;
        match self {
            Self::Known(known) if !known.caller.can(role, org) => Err(Forbidden::Organization),
            _ => Ok(()),
        }
    }

    /// Asks anew who speaks, where the callers have changed since: a call can be open for days.
    ///
    /// # Errors
    ///
    /// It is not known any more.
    pub fn refresh(&mut self) -> Result<(), Unauthenticated> {
        let Self::Known(known) = self else {
            return Ok(());
        };
        let current = known.caller_set.current.load();
        if current.revision != known.revision {
            let token = known.token.as_ref();
            known.caller = current.callers.identify(&known.peer, token)?;
            known.revision = current.revision;
        }
        Ok(())
    }

    /// The caller's name, where it is known.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Anybody => None,
            Self::Known(known) => Some(known.caller.name()),
        }
    }
}
