//! The callers file's schema, walked by hand so that every fault is reported at once.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use super::{Caller, Callers, CertificateName, Organizations, Role, TokenHash};
use crate::{
    domain::{OrgId, ids::MAX_NAME_BYTES},
    files::toml::{Entry, Section},
};

/// One in use, and the one that follows or precedes it.
const MAX_TOKENS: usize = 2;

/// What stands for every organization.
const EVERY_ORGANIZATION: &str = "*";

/// Whose a name or a token is, and where that was said.
type Owner<'d> = (&'d str, usize);

/// The strings of a list.
type Strings<'d> = Vec<(&'d str, Entry<'d>)>;

/// What callers are known by so far.
#[derive(Default)]
struct Credentials<'d> {
    certificates: HashMap<CertificateName, Owner<'d>>,
    tokens: HashMap<String, Owner<'d>>,
}

/// The whole file. `None` only where a fault was reported.
pub(super) fn callers(root: &Section<'_>) -> Option<Callers> {
    root.only(&["callers"]);
    let section = root.require("callers")?.section()?;
    let mut credentials = Credentials::default();
    let mut callers = Callers {
        by_name: BTreeMap::new(),
        by_certificate: HashMap::new(),
        by_token: Vec::new(),
    };
    // Of two that have the same, the later one is at fault.
    let mut entries: Vec<_> = section.entries().collect();
    entries.sort_by_key(|(_, entry)| entry.line());
    // A file that was emptied, or is half written, would lock everybody out.
    if entries.is_empty() {
        section.fault("holds no caller");
    }
    for (name, entry) in entries {
        check_name(name, &entry);
        let Some(caller) = caller(name, &entry, &mut credentials).map(Arc::new) else {
            continue;
        };
        for certificate in &caller.certificates {
            let known = &mut callers.by_certificate;
            known.insert(certificate.clone(), Arc::clone(&caller));
        }
        for token in &caller.tokens {
            callers.by_token.push((token.clone(), Arc::clone(&caller)));
        }
        callers.by_name.insert(name.to_owned(), caller);
    }
    Some(callers)
}

/// It stands in logs.
fn check_name(name: &str, entry: &Entry<'_>) {
    if name.is_empty() || name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
        entry.fault(format!(
            "a caller's name is 1 to {MAX_NAME_BYTES} bytes without control characters"
        ));
    }
}

fn caller<'d>(
    name: &'d str,
    entry: &Entry<'d>,
    credentials: &mut Credentials<'d>,
) -> Option<Caller> {
    let section = entry.section()?;
    section.only(&["certificates", "tokens", "roles", "organizations"]);
    let listed = |key| {
        let list = section.get(key)?;
        let texts = list.texts();
        Some((list, texts))
    };
    let (certificates, tokens) = (listed("certificates"), listed("tokens"));
    // What is no list at all has its own fault.
    let is_known_by = |list: &Option<(_, Option<Vec<_>>)>| match list {
        None => false,
        Some((_, texts)) => texts.as_ref().is_none_or(|texts| !texts.is_empty()),
    };
    if !is_known_by(&certificates) && !is_known_by(&tokens) {
        entry.fault("can't be known: it has neither certificates nor tokens");
    }
    let certificates = certificates
        .and_then(|(_, texts)| texts)
        .map(|texts| certificate_names(name, texts, credentials));
    let tokens =
        tokens.and_then(|(list, texts)| Some(token_hashes(name, &list, texts?, credentials)));
    let roles = section.require("roles").map(|list| roles(&list));
    let organizations = section
        .require("organizations")
        .and_then(|list| organizations(&list));
    Some(Caller {
        name: name.to_owned(),
        certificates: certificates.unwrap_or_default(),
        tokens: tokens.unwrap_or_default(),
        roles: roles?,
        organizations: organizations?,
    })
}

fn certificate_names<'d>(
    name: &'d str,
    listed: Strings<'d>,
    credentials: &mut Credentials<'d>,
) -> Vec<CertificateName> {
    let mut names = Vec::new();
    for (text, entry) in listed {
        match CertificateName::parse(text) {
            Err(fault) => entry.fault(format!("{text:?} {fault}")),
            Ok(certificate) => match credentials.certificates.get(&certificate) {
                Some(owner) => entry.fault(format!("{text:?} {}", is_taken(name, *owner))),
                None => {
                    let owner = (name, entry.line());
                    credentials.certificates.insert(certificate.clone(), owner);
                    names.push(certificate);
                }
            },
        }
    }
    names
}

/// Faults tell which token it is by its place: somebody may have written the token itself there.
fn token_hashes<'d>(
    name: &'d str,
    list: &Entry<'d>,
    listed: Strings<'d>,
    credentials: &mut Credentials<'d>,
) -> Vec<TokenHash> {
    let mut hashes = Vec::new();
    if listed.len() > MAX_TOKENS {
        list.fault(format!(
            "holds {} tokens; at most {MAX_TOKENS} are alive at once",
            listed.len()
        ));
    }
    for (place, (text, entry)) in (1..).zip(listed) {
        let Some(hash) = TokenHash::parse(text) else {
            entry.fault(format!(
                "token {place} is not \"sha256:\" and 64 hex digits; `tollgate new-token` makes one"
            ));
            continue;
        };
        match credentials.tokens.get(&hash.to_string()) {
            Some(owner) => entry.fault(format!("token {place} {}", is_taken(name, *owner))),
            None => {
                credentials
                    .tokens
                    .insert(hash.to_string(), (name, entry.line()));
                hashes.push(hash);
            }
        }
    }
    hashes
}

fn is_taken(name: &str, (owner, line): Owner<'_>) -> String {
    if name == owner {
        "is listed twice".to_owned()
    } else {
        format!("is of the caller {owner:?} already (line {line})")
    }
}

fn roles(list: &Entry<'_>) -> Vec<Role> {
    let mut roles = Vec::new();
    let Some(listed) = list.texts() else {
        return roles;
    };
    if listed.is_empty() {
        list.fault("holds no role");
    }
    for (name, entry) in listed {
        match Role::ALL.into_iter().find(|role| role.name() == name) {
            Some(role) if roles.contains(&role) => {
                entry.fault(format!("{name:?} is listed twice"));
            }
            Some(role) => roles.push(role),
            None => {
                let known = Role::ALL.map(Role::name).join("\", \"");
                entry.fault(format!("{name:?} is no role; there are \"{known}\""));
            }
        }
    }
    roles
}

fn organizations(list: &Entry<'_>) -> Option<Organizations> {
    let listed = list.texts()?;
    if listed.is_empty() {
        list.fault("holds no organization; \"*\" stands for every one");
    }
    if listed.iter().any(|(name, _)| *name == EVERY_ORGANIZATION) {
        if listed.len() > 1 {
            list.fault("\"*\" stands alone: it is every organization");
        }
        return Some(Organizations::All);
    }
    let mut orgs = HashSet::new();
    for (name, entry) in listed {
        match OrgId::parse(name) {
            Err(invalid) => entry.fault(invalid.to_string()),
            Ok(org) => {
                if !orgs.insert(org) {
                    entry.fault(format!("{name:?} is listed twice"));
                }
            }
        }
    }
    Some(Organizations::Named(orgs))
}
