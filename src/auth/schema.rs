//! The callers file's schema.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{Caller, Callers, CertificateName, Organizations, Role, TokenHash};
use crate::{
    domain::{OrgId, ids::MAX_NAME_BYTES},
    files::toml::{self, Entry, Faults, Section, distinct},
};

/// A caller's token, and the one that replaces it.
const MAX_TOKENS: usize = 2;

const EVERY_ORGANIZATION: &str = "*";

/// The caller that has a name or a token, and the line.
type Owner<'d> = (&'d str, usize);

/// The strings of a list.
type Strings<'d> = Vec<(&'d str, Entry<'d>)>;

/// The credentials of all callers so far.
#[derive(Default)]
struct Credentials<'d> {
    certificates: HashMap<CertificateName, Owner<'d>>,
    tokens: HashMap<String, Owner<'d>>,
}

impl Callers {
    /// Parses a callers file, which is accepted or refused as a whole. `file` is its name in faults.
    ///
    /// # Errors
    ///
    /// Every fault in it, with line and key.
    pub fn parse(file: &str, text: &str) -> Result<Self, Faults> {
        Self::from_bytes(file, text.as_bytes())
    }

    /// As [`parse`](Self::parse). Bytes that are not UTF-8 are a fault.
    ///
    /// # Errors
    ///
    /// Every fault in it.
    pub fn from_bytes(file: &str, bytes: &[u8]) -> Result<Self, Faults> {
        toml::read(file, bytes, callers)
    }
}

/// Reads the whole file. Returns `None` only after reporting a fault.
fn callers(root: &Section<'_>) -> Option<Callers> {
    let section = root.require("callers", Entry::section);
    root.finish();
    let section = section?;
    let mut credentials = Credentials::default();
    let mut callers = Callers {
        by_name: BTreeMap::new(),
        by_certificate: HashMap::new(),
        by_token: Vec::new(),
    };
    // If two callers have the same credentials, the fault is the later one's.
    let mut entries: Vec<_> = section.entries().collect();
    entries.sort_by_key(|(_, entry)| entry.line());
    // An emptied or half-written file would lock everybody out.
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

/// Checks a caller's name, which appears in logs.
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
    let (certificates, tokens) = (section.entry("certificates"), section.entry("tokens"));
    let roles = section.require("roles", roles);
    let organizations = section.require("organizations", organizations);
    section.finish();
    let certificates = certificates.map(|list| list.texts());
    let tokens = tokens.map(|list| (list.texts(), list));
    // A value that is no list has a fault already.
    let is_known_by = |texts: &Option<Strings<'_>>| texts.as_ref().is_none_or(|it| !it.is_empty());
    if !certificates.as_ref().is_some_and(is_known_by)
        && !tokens.as_ref().is_some_and(|(texts, _)| is_known_by(texts))
    {
        entry.fault("can't be known: it has neither certificates nor tokens");
    }
    let certificates = certificates.flatten().unwrap_or_default();
    let certificates = certificate_names(name, certificates, credentials);
    let tokens = match tokens {
        Some((Some(texts), list)) => token_hashes(name, &list, texts, credentials),
        _ => Vec::new(),
    };
    Some(Caller {
        name: name.to_owned(),
        certificates,
        tokens,
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

/// Parses the hashes. Faults name a token by its index: the text may be the token itself instead of its hash.
fn token_hashes<'d>(
    name: &'d str,
    list: &Entry<'d>,
    listed: Strings<'d>,
    credentials: &mut Credentials<'d>,
) -> Vec<TokenHash> {
    let mut hashes = Vec::new();
    if listed.len() > MAX_TOKENS {
        list.fault(format!(
            "holds {} tokens; at most {MAX_TOKENS} are valid at once",
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

fn roles(list: &Entry<'_>) -> Option<Vec<Role>> {
    let listed = list.texts()?;
    if listed.is_empty() {
        list.fault("holds no role");
    }
    Some(distinct(listed, |name| {
        let role = Role::ALL.into_iter().find(|role| role.name() == name);
        role.ok_or_else(|| {
            let known = Role::ALL.map(Role::name).join("\", \"");
            format!("{name:?} is no role; there are \"{known}\"")
        })
    }))
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
    let orgs = distinct(listed, OrgId::parse);
    Some(Organizations::Named(orgs.into_iter().collect()))
}
