//! The rights that a decision needs of the user, and what Redis says where one is missing.
//!
//! A script of its own asks for all of them, so that the probe finds what a decision would (docs/CONTRACT.md,
//! "Errors"). Where a decision is refused without a word on what is missing, it is asked, too.

use chrono::{DateTime, Utc};
use redis::{Cmd, Value};

use super::{
    conn::{
        RedisClient,
        connection::{SendOptions, TOO_FEW_REPLICAS, retry_if_cut},
        errors::{NO_KEYS, denied, is_denial, is_missing, no_right},
    },
    script::{
        Script,
        reader::{self, bad, text},
    },
};
use crate::store::{Hindrance, StoreError};

pub(super) struct AclCheck {
    key_prefix: String,
    /// Commands that are sent beside the script.
    others: Vec<&'static str>,
    script: Script,
}

impl AclCheck {
    pub(super) fn new(key_prefix: &str, others: Vec<&'static str>) -> Self {
        Self {
            key_prefix: key_prefix.to_owned(),
            others,
            script: Script::new(include_str!("script/acl_check.lua")),
        }
    }

    /// Asks the server that has this key whether it would decide, and gives its clock.
    pub(super) async fn probe(
        &self,
        client: &RedisClient,
        key: &str,
        manner: SendOptions,
    ) -> Result<DateTime<Utc>, StoreError> {
        let mut keys = vec![key.to_owned()];
        if !client.is_sharded() {
            keys.push(format!("{}{{1}}:probe", self.key_prefix));
        }
        let push = |command: &mut Cmd| {
            command.arg(keys.len()).arg(&keys).arg(&self.others);
        };
        let reply = retry_if_cut(|| self.script.run(client, key, manner, push)).await;
        let reply = reply.map_err(|failed| match failed.into() {
            // Nothing was asked whose outcome would be unknown.
            StoreError::NoAnswer { reason } if is_denial(&reason) => no_right(denied(&reason)),
            StoreError::NoAnswer { reason } if reason.contains(TOO_FEW_REPLICAS) => {
                let why = Hindrance::TooFewReplicas;
                StoreError::Refused { why, reason }
            }
            error => self.with_pattern(error),
        })?;
        let Value::Array(parts) = &reply else {
            return Err(bad("a reply that is no list").into());
        };
        let [seconds, micros, missing @ ..] = parts.as_slice() else {
            return Err(bad("a reply of fewer than two parts").into());
        };
        if !missing.is_empty() {
            let missing = missing
                .iter()
                .map(|command| Ok(format!(" +{}", text(command)?)));
            let missing: String = missing.collect::<Result<_, reader::BadReply>>()?;
            return Err(no_right(format!("lacks{missing}")));
        }
        let now = reader::parse_time(text(seconds)?, text(micros)?);
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
        if !is_missing(&error) || is_named(&error) {
            return self.with_pattern(error);
        }
        match self.probe(client, key, SendOptions::default()).await {
            Err(found) if is_missing(&found) => found,
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
