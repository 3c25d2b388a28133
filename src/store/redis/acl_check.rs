//! Checks the ACL permissions that a decision needs.
//!
//! A script of its own checks them all, so the probe fails if a decision would (docs/CONTRACT.md, "Errors"). It
//! also runs if a decision was refused and Redis did not name the missing permission.

use chrono::{DateTime, Utc};
use redis::Cmd;

use super::{
    conn::{
        RedisClient,
        connection::{SendOptions, TOO_FEW_REPLICAS, retry_if_cut},
        errors::{NO_KEYS, is_denial, is_permission_denied, permission_denied},
    },
    script::{
        Script,
        reader::{MsgPackReader, bytes},
    },
};
use crate::store::{RefusalReason, StoreError};

pub(super) struct AclCheck {
    key_prefix: String,
    /// Commands that are sent outside scripts.
    commands: Vec<&'static str>,
    script: Script,
}

impl AclCheck {
    pub(super) fn new(key_prefix: &str, commands: Vec<&'static str>) -> Self {
        Self {
            key_prefix: key_prefix.to_owned(),
            commands,
            script: Script::new(include_str!("script/acl_check.lua")),
        }
    }

    /// Checks whether the server that has this key would decide, and returns its clock.
    pub(super) async fn probe(
        &self,
        client: &RedisClient,
        key: &str,
        options: SendOptions,
    ) -> Result<DateTime<Utc>, StoreError> {
        let mut keys = vec![key.to_owned()];
        if !client.is_sharded() {
            keys.push(format!("{}{{1}}:probe", self.key_prefix));
        }
        let push = |command: &mut Cmd| {
            command.arg(keys.len()).arg(&keys).arg(&self.commands);
        };
        let reply = retry_if_cut(|| self.script.run(client, key, options, push)).await;
        let reply = reply.map_err(|failed| match failed.into() {
            // The probe writes nothing, so no outcome is unknown.
            StoreError::OutcomeUnknown { reason } if is_denial(&reason) => {
                permission_denied(&reason)
            }
            StoreError::OutcomeUnknown { reason } if reason.contains(TOO_FEW_REPLICAS) => {
                let why = RefusalReason::TooFewReplicas;
                StoreError::Refused { why, reason }
            }
            error => self.with_pattern(error),
        })?;
        let mut reader = MsgPackReader::new(bytes(&reply)?);
        let now = reader.time();
        let mut missing = String::new();
        while reader.left() > 0 {
            missing += &format!(" +{}", reader.text()?);
        }
        match missing.is_empty() {
            true => Ok(now?),
            false => Err(permission_denied(&format!("lacks{missing}"))),
        }
    }

    /// Adds the missing permission to a failure at this key.
    pub(super) async fn explain(
        &self,
        client: &RedisClient,
        key: &str,
        error: StoreError,
    ) -> StoreError {
        let is_named = |error: &StoreError| match error {
            StoreError::Refused { reason, .. } => reason.starts_with("lacks "),
            _ => false,
        };
        if !is_permission_denied(&error) || is_named(&error) {
            return self.with_pattern(error);
        }
        match self.probe(client, key, SendOptions::default()).await {
            Err(found) if is_permission_denied(&found) => found,
            _ => error,
        }
    }

    fn with_pattern(&self, error: StoreError) -> StoreError {
        match error {
            StoreError::Refused { why, reason } if reason == NO_KEYS => StoreError::Refused {
                why,
                reason: format!("{NO_KEYS} {}*", self.key_prefix),
            },
            error => error,
        }
    }
}
