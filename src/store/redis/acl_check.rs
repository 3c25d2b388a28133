//! The permissions that a decision needs of the user (ACL), and which of them are missing.
//!
//! A script of its own asks for all of them, so that the probe finds what a decision would (docs/CONTRACT.md,
//! "Errors"). It is also asked where a decision was refused and Redis did not say what is missing.

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
        reader::{BadReply, after_clock, bad, text},
    },
};
use crate::store::{RefusalReason, StoreError};

pub(super) struct AclCheck {
    key_prefix: String,
    /// Those that are sent besides the scripts.
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

    /// Asks the server that has this key whether it would decide, and gives its clock.
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
            // Nothing was to be written, so no outcome is unknown.
            StoreError::OutcomeUnknown { reason } if is_denial(&reason) => {
                permission_denied(&reason)
            }
            StoreError::OutcomeUnknown { reason } if reason.contains(TOO_FEW_REPLICAS) => {
                let why = RefusalReason::TooFewReplicas;
                StoreError::Refused { why, reason }
            }
            error => self.with_pattern(error),
        })?;
        let (now, missing) = after_clock(&reply)?;
        if !missing.is_empty() {
            let missing = missing
                .iter()
                .map(|command| Ok(format!(" +{}", text(command)?)));
            let missing: String = missing.collect::<Result<_, BadReply>>()?;
            return Err(permission_denied(&format!("lacks{missing}")));
        }
        now.ok_or_else(|| bad("the time").into())
    }

    /// A failure at this key, with what the user lacks if it is for that.
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
