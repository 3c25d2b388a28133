//! The rights that a decision needs of the user, and what Redis says where one is missing.
//!
//! A script of its own asks for all of them, so that the probe finds what a decision would (docs/CONTRACT.md,
//! "Errors"). Where a decision is refused without a word on what is missing, it is asked, too.

use chrono::{DateTime, Utc};
use redis::{Cmd, Value};

use super::{
    errors::store_error,
    link::{Manner, TOO_FEW_REPLICAS, again_if_cut},
    links::Links,
    packed::{self, bad},
    readings::text,
    script::Script,
};
use crate::store::{RefusalReason, StoreError};

/// What a reason says of keys before the pattern is known.
const NO_KEYS: &str = "lacks access to keys";

pub(super) struct Rights {
    key_prefix: String,
    /// Commands that are sent beside the script.
    others: Vec<&'static str>,
    script: Script,
}

impl Rights {
    pub(super) fn new(key_prefix: &str, others: Vec<&'static str>) -> Self {
        Self {
            key_prefix: key_prefix.to_owned(),
            others,
            script: Script::new(include_str!("rights.lua")),
        }
    }

    /// Asks the server that has this key whether it would decide, and gives its clock.
    pub(super) async fn probe(
        &self,
        links: &Links,
        key: &str,
        manner: Manner,
    ) -> Result<DateTime<Utc>, StoreError> {
        let mut keys = vec![key.to_owned()];
        if !links.are_many() {
            keys.push(format!("{}{{1}}:probe", self.key_prefix));
        }
        let push = |command: &mut Cmd| {
            command.arg(keys.len()).arg(&keys).arg(&self.others);
        };
        let reply = again_if_cut(|| self.script.run(links, key, manner, push)).await;
        let reply = reply.map_err(|failed| match store_error(&failed) {
            // Nothing was asked whose outcome would be unknown.
            StoreError::OutcomeUnknown { reason } if is_denial(&reason) => {
                no_right(denied(&reason))
            }
            StoreError::OutcomeUnknown { reason } if reason.contains(TOO_FEW_REPLICAS) => {
                let why = RefusalReason::TooFewReplicas;
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
            let missing: String = missing.collect::<Result<_, packed::BadReply>>()?;
            return Err(no_right(format!("lacks{missing}")));
        }
        let now = packed::parse_time(text(seconds)?, text(micros)?);
        now.ok_or_else(|| bad("the time").into())
    }

    /// A failure at this key, with what the user lacks if it is for that.
    pub(super) async fn explain(&self, links: &Links, key: &str, error: StoreError) -> StoreError {
        let is_named = |error: &StoreError| match error {
            StoreError::Refused { reason, .. } => reason.starts_with("lacks "),
            _ => false,
        };
        if !is_missing(&error) || is_named(&error) {
            return self.with_pattern(error);
        }
        match self.probe(links, key, Manner::default()).await {
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

pub(super) fn no_right(reason: String) -> StoreError {
    let why = RefusalReason::NoRight;
    StoreError::Refused { why, reason }
}

/// Whether it failed because the user lacks a right.
pub(super) fn is_missing(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Refused {
            why: RefusalReason::NoRight,
            ..
        }
    )
}

/// Whether this is said of a right that is missing. Within a script Redis 7.0 says so as `ERR`.
pub(super) fn is_denial(said: &str) -> bool {
    [
        "NOPERM",
        "has no permissions to",
        "The user executing the script can't",
    ]
    .iter()
    .any(|sign| said.contains(sign))
}

/// What is missing: the command, or access to keys; else the server's words.
pub(super) fn denied(said: &str) -> String {
    let quoted = said.split_once("to run the '");
    if let Some((command, _)) = quoted.and_then(|(_, rest)| rest.split_once('\'')) {
        return format!("lacks +{command}");
    }
    let of_keys = ["keys used as arguments", "keys mentioned", "access a key"];
    if of_keys.iter().any(|sign| said.contains(sign)) {
        return NO_KEYS.to_owned();
    }
    said.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_in_the_words_of_every_version() {
        for (said, named) in [
            (
                "NOPERM this user has no permissions to run the 'eval' command",
                "lacks +eval",
            ),
            (
                "NOPERM User gate has no permissions to run the 'cluster|slots' command",
                "lacks +cluster|slots",
            ),
            (
                "NOPERM ACL failure in script: User gate has no permissions to run the 'get' command",
                "lacks +get",
            ),
            (
                "NOPERM this user has no permissions to access one of the keys used as arguments",
                "lacks access to keys",
            ),
            (
                "NOPERM No permissions to access a key",
                "lacks access to keys",
            ),
            (
                "ERR The user executing the script can't access at least one of the keys mentioned in the command \
                 arguments",
                "lacks access to keys",
            ),
            (
                "ERR The user executing the script can't run this command or subcommand",
                "ERR The user executing the script can't run this command or subcommand",
            ),
        ] {
            assert!(is_denial(said), "{said}");
            assert_eq!(denied(said), named);
        }
        assert!(!is_denial("ERR unknown command 'get'"));
    }
}
