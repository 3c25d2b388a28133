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

/// What identifies one caller only.
#[derive(PartialEq, Eq, Hash)]
enum Credential {
    Certificate(CertificateName),
    Token(String),
}

/// The name and the line of the caller of each credential so far.
type Owners<'d> = HashMap<Credential, (&'d str, usize)>;

impl Callers {
    /// Parses a callers file, which is accepted or refused as a whole. `file` is its name in faults. Bytes that are not
    /// UTF-8 are a fault.
    ///
    /// # Errors
    ///
    /// Every fault in it, with line and key.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self, Faults> {
        toml::read(file, bytes, callers)
    }
}

/// Reads the whole file. Returns `None` only after reporting a fault.
fn callers(root: &Section<'_>) -> Option<Callers> {
    let section = root.require("callers", Entry::section);
    root.finish();
    let section = section?;
    let mut owners = Owners::new();
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
        let Some(caller) = caller(name, &entry, &mut owners).map(Arc::new) else {
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

fn caller<'d>(name: &'d str, entry: &Entry<'d>, owners: &mut Owners<'d>) -> Option<Caller> {
    let section = entry.section()?;
    let (certificates, tokens) = (section.entry("certificates"), section.entry("tokens"));
    let roles = section.require("roles", roles);
    let organizations = section.require("organizations", organizations);
    section.finish();
    // None of a value that is no list, which has a fault already.
    let texts = |list: &Option<Entry<'d>>| list.as_ref().map_or(Some(vec![]), Entry::texts);
    let (names, hashes) = (texts(&certificates), texts(&tokens));
    if names.as_ref().is_some_and(Vec::is_empty) && hashes.as_ref().is_some_and(Vec::is_empty) {
        entry.fault("can't be known: it has neither certificates nor tokens");
    }
    let names = names.unwrap_or_default();
    let hashes = hashes.unwrap_or_default();
    Some(Caller {
        name: name.to_owned(),
        certificates: certificate_names(name, names, owners),
        tokens: tokens.map_or_else(Vec::new, |list| token_hashes(name, &list, hashes, owners)),
        roles: roles?,
        organizations: organizations?,
    })
}

fn certificate_names<'d>(
    name: &'d str,
    listed: Vec<(&'d str, Entry<'d>)>,
    owners: &mut Owners<'d>,
) -> Vec<CertificateName> {
    let names = listed.into_iter().filter_map(|(text, entry)| {
        let certificate = CertificateName::parse(text);
        let certificate = entry.check(certificate.map_err(|fault| format!("{text:?} {fault}")))?;
        let key = Credential::Certificate(certificate.clone());
        claim(owners, key, name, &entry, &format!("{text:?}")).then_some(certificate)
    });
    names.collect()
}

/// Parses the hashes. Faults name a token by its index: the text may be the token itself instead of its hash.
fn token_hashes<'d>(
    name: &'d str,
    list: &Entry<'d>,
    listed: Vec<(&'d str, Entry<'d>)>,
    owners: &mut Owners<'d>,
) -> Vec<TokenHash> {
    let count = listed.len();
    if count > MAX_TOKENS {
        list.fault(format!(
            "holds {count} tokens; at most {MAX_TOKENS} are valid at once"
        ));
    }
    let hashes = (1..).zip(listed).filter_map(|(place, (text, entry))| {
        let malformed = || {
            format!(
                "token {place} is not \"sha256:\" and 64 hex digits; `tollgate new-token` makes one"
            )
        };
        let hash = entry.check(TokenHash::parse(text).ok_or_else(malformed))?;
        let key = Credential::Token(hash.to_string());
        claim(owners, key, name, &entry, &format!("token {place}")).then_some(hash)
    });
    hashes.collect()
}

/// Records the caller of a credential. Returns false if it has one already, which is a fault.
fn claim<'d>(
    owners: &mut Owners<'d>,
    credential: Credential,
    name: &'d str,
    entry: &Entry<'d>,
    shown: &str,
) -> bool {
    let fault = match owners.get(&credential) {
        None => {
            owners.insert(credential, (name, entry.line()));
            return true;
        }
        Some((owner, _)) if *owner == name => format!("{shown} is listed twice"),
        Some((owner, line)) => {
            format!("{shown} is of the caller {owner:?} already (line {line})")
        }
    };
    entry.fault(fault);
    false
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
