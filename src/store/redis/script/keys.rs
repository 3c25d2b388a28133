//! The names of keys and of their fields (docs/CONTRACT.md, "Keys in Redis").
//!
//! Every name from outside is percent-encoded, so it can't leave its part of a key or a field, nor the hash tag:
//! only letters, digits, `-`, `.`, `_` and `~` stay as they are. The encoding is injective, so two names never
//! share a counter.

use std::borrow::Cow;

use percent_encoding::{percent_decode_str, utf8_percent_encode};

use crate::domain::{ModelName, OrgId, PoolName, ProjectId, ShareId, UtcDay, ids::ENCODED};

/// Encodes a name for a key or a field.
#[must_use]
pub fn encode(name: &str) -> Cow<'_, str> {
    utf8_percent_encode(name, ENCODED).into()
}

/// The inverse of [`encode`]; `None` if `encode` can't have returned this.
#[must_use]
pub fn decode(encoded: &str) -> Option<String> {
    let name = percent_decode_str(encoded).decode_utf8().ok()?;
    (encode(&name) == encoded).then(|| name.into_owned())
}

/// The field of a usage row: project and model.
#[must_use]
pub fn row_field(project: &ProjectId, model: &ModelName) -> String {
    [&encode(project.as_str()), ":", &encode(model.as_str())].concat()
}

/// The inverse of [`row_field`]; `None` if `row_field` can't have returned this.
#[must_use]
pub fn parse_row_field(field: &str) -> Option<(ProjectId, ModelName)> {
    let (project, model) = field.split_once(':')?;
    Some((
        ProjectId::parse(decode(project)?).ok()?,
        ModelName::parse(decode(model)?).ok()?,
    ))
}

/// What has a record of counters: a pool, or a share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CounterId {
    /// A pool.
    Pool(PoolName),
    /// A share, whose record counts like a pool's.
    Share(ShareId),
}

impl CounterId {
    /// The name in the script's arguments and replies: the encoded pool; of a share, `:` and the encoded project follow.
    #[must_use]
    pub fn encoded(&self) -> String {
        match self {
            Self::Pool(pool) => encode(pool.as_str()).into_owned(),
            Self::Share(id) => {
                [&encode(id.pool.as_str()), ":", &encode(id.project.as_str())].concat()
            }
        }
    }

    /// The inverse of [`CounterId::encoded`]; `None` if it can't have returned this.
    #[must_use]
    pub fn decode(encoded: &str) -> Option<Self> {
        let pool = |encoded| PoolName::parse(decode(encoded)?).ok();
        Some(match encoded.split_once(':') {
            None => Self::Pool(pool(encoded)?),
            Some((of, project)) => Self::Share(ShareId {
                pool: pool(of)?,
                project: ProjectId::parse(decode(project)?).ok()?,
            }),
        })
    }
}

/// The keys of one organization and day. They share a hash tag, so a script may use them together on
/// Redis Cluster.
#[derive(Debug)]
pub struct OrgKeys {
    /// `tollgate:{org}:`
    root: String,
    /// `:2026-11-22`
    end: String,
}

impl OrgKeys {
    /// The keys of `org` on a day, under a prefix such as `tollgate:`.
    #[must_use]
    pub fn new(prefix: &str, org: &OrgId, day: UtcDay) -> Self {
        Self {
            root: format!("{prefix}{{{}}}:", encode(org.as_str())),
            end: format!(":{day}"),
        }
    }

    /// The day's counters of a pool, by its encoded name.
    #[must_use]
    pub fn pool(&self, encoded: &str) -> String {
        [&self.root, "pool:", encoded, &self.end].concat()
    }

    /// The day's counters of a share, by its encoded name.
    #[must_use]
    pub fn share(&self, encoded: &str) -> String {
        [&self.root, "share:", encoded, &self.end].concat()
    }

    /// The day's usage by project and model.
    #[must_use]
    pub fn usage(&self) -> String {
        [&self.root, "usage", &self.end].concat()
    }

    /// The day's changes of external usage.
    #[must_use]
    pub fn external_changes(&self) -> String {
        [&self.root, "audit", &self.end].concat()
    }

    /// What the provider counted on the day, by project and model.
    #[must_use]
    pub fn provider(&self) -> String {
        [&self.root, "provider", &self.end].concat()
    }

    /// The day's reservations by request id.
    #[must_use]
    pub fn requests(&self) -> String {
        [&self.root, "requests", &self.end].concat()
    }
}

/// The field of the requests that has a pool's held tokens. No request id equals it, since it begins with a
/// control character.
pub(crate) fn held_field(pool: &PoolName) -> String {
    format!("\u{2}{}", encode(pool.as_str()))
}
