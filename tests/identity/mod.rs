//! docs/CONTRACT.md, "Callers": identification, rights, and that nothing else is accepted.

mod caller_kinds;
mod callers_file;
mod client;
mod credentials;
mod http;
mod listener;
mod matrix;
mod process;
mod revocation;

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use tollgate::auth::{Authenticator, CallerSet, Callers, PortSecurity, TokenHash};

use self::listener::TestPort;
use crate::support::{
    certificates::{Authority, Files},
    world::{World, policy_text, small_policy},
};

/// Callers of the first organization act only for it; `other` is in the policy, too.
const ORGS: [&str; 2] = ["acme", "other"];

/// An unknown organization.
const STRANGER: &str = "stranger";

const URI: &str = "spiffe://example.org/gateway";
const DNS: &str = "gateway.internal";

fn policy() -> String {
    small_policy("keep_open")
}

/// A section of the callers file.
fn caller(name: &str, known_by: &str, roles: &str, orgs: &str) -> String {
    format!("[callers.{name}]\n{known_by}\nroles = [{roles}]\norganizations = [\"{orgs}\"]\n")
}

/// The line of a caller's tokens.
fn tokens(tokens: &[&str]) -> String {
    let hashes = tokens.iter().map(|token| TokenHash::of(token.as_bytes()));
    let hashes: Vec<String> = hashes.map(|hash| format!("\"{hash}\"")).collect();
    format!("tokens = [{}]", hashes.join(", "))
}

const ALL_ROLES: &str = "\"reserve\", \"read\", \"admin\"";

/// The callers of the tests.
fn callers() -> String {
    [
        caller(
            "by-uri",
            &format!("certificates = [\"{URI}\"]"),
            ALL_ROLES,
            "acme",
        ),
        caller(
            "by-dns",
            &format!("certificates = [\"{DNS}\"]"),
            ALL_ROLES,
            "acme",
        ),
        caller(
            "admin",
            "certificates = [\"spiffe://example.org/admin\", \"admin.internal\"]",
            ALL_ROLES,
            "*",
        ),
        caller(
            "rotating",
            &tokens(&["tg_before", "tg_after"]),
            ALL_ROLES,
            "acme",
        ),
        caller("reserver", &tokens(&["tg_reserver"]), "\"reserve\"", "acme"),
        caller("reader", &tokens(&["tg_reader"]), "\"read\"", "acme"),
        caller("everywhere", &tokens(&["tg_everywhere"]), ALL_ROLES, "*"),
        caller("elsewhere", &tokens(&["tg_elsewhere"]), ALL_ROLES, "other"),
    ]
    .concat()
}

/// A service over its own Redis, with a port for each kind of connection.
struct Service {
    world: World,
    authority: Authority,
    certificates: AtomicU32,
    caller_set: Arc<CallerSet>,
    tls: TestPort,
    loopback: TestPort,
    /// A plaintext port that looks reachable from other machines.
    in_the_clear: TestPort,
    /// A port without a callers file.
    everyone: TestPort,
    /// The same on loopback.
    everyone_here: TestPort,
    /// A port without connection details.
    bare: TestPort,
}

const ENCRYPTED: PortSecurity = PortSecurity {
    encrypted: true,
    loopback: false,
};

impl Service {
    async fn start() -> Self {
        let world = World::redis(policy_text(&policy()));
        let authority = Authority::new();
        let files = authority.sign("tollgate", &[listener::HOST]);
        let callers = Callers::parse("callers.toml", callers().as_bytes()).unwrap();
        let caller_set = Arc::new(CallerSet::new(callers, ENCRYPTED).unwrap());
        let known = || Authenticator::Callers(Arc::clone(&caller_set));
        let port = |loopback| PortSecurity {
            encrypted: false,
            loopback,
        };
        let ledger = || world.ledger.clone();
        Self {
            tls: listener::tls(ledger(), known(), &authority, &files).await,
            loopback: listener::plaintext(ledger(), known(), port(true)).await,
            in_the_clear: listener::plaintext(ledger(), known(), port(false)).await,
            everyone: listener::plaintext(ledger(), Authenticator::Everyone, port(false)).await,
            everyone_here: listener::plaintext(ledger(), Authenticator::Everyone, port(true)).await,
            bare: listener::bare(ledger(), known()).await,
            world,
            authority,
            certificates: AtomicU32::new(0),
            caller_set,
        }
    }

    /// A certificate with these names.
    fn certificate(&self, names: &[&str]) -> Files {
        let number = self.certificates.fetch_add(1, Ordering::Relaxed);
        self.authority
            .sign_names(&format!("client-{number}"), names)
    }

    /// Every key in Redis.
    fn keys(&self) -> Vec<String> {
        self.world.redis.as_ref().unwrap().strings(&["KEYS", "*"])
    }
}
