//! What the provider counted on a day: a hash of its own, which earlier releases do not read. It is never merged after a
//! loss: the background reconcile writes what is missing at its next poll.
//!
//! | field | value |
//! | --- | --- |
//! | `project:model`, encoded | a row |
//! | `\1` | how the day was compared |
//!
//! [`crate::store::provider`] has the values.

use futures_util::future::try_join_all;
use redis::Cmd;

use super::{
    RedisStore,
    conn::connection::{SendOptions, retry_if_cut},
    script::{
        keys::{self, OrgKeys},
        reader::bad,
    },
};
use crate::{
    domain::{DayComparison, OrgId, ProviderUsage, UtcDay},
    store::{
        RowKey, StoreError,
        provider::{
            ProviderChanges, ProviderRows, comparison_text, parse_comparison, parse_usage,
            usage_text, warn_unreadable,
        },
    },
};

/// The field of the comparison. No row equals it, since it is a control character.
const COMPARISON: &str = "\u{1}";

/// Maximum number of concurrent reads of a call that reads how days were compared.
const MAX_COMPARISON_READS: usize = 8;

impl RedisStore {
    /// Writes rows and the comparison in one step. Sent again after a cut connection: a second run writes the same.
    pub(super) async fn write_comparison(
        &self,
        org: &OrgId,
        day: UtcDay,
        changes: &ProviderChanges,
        comparison: Option<&DayComparison>,
    ) -> Result<(), StoreError> {
        let rows = changes.iter().map(|((project, model), usage)| {
            let field = keys::row_field(project, model);
            (field, usage_text(*usage))
        });
        let comparison = comparison.map(|it| (COMPARISON.to_owned(), comparison_text(it)));
        let fields: Vec<(String, String)> = rows.chain(comparison).collect();
        if fields.is_empty() {
            return Ok(());
        }
        let key = OrgKeys::new(&self.decider.key_prefix, org, day).provider();
        let expires = day.plus_days(self.usage_retention_days).end().timestamp();
        let push = |command: &mut Cmd| {
            command.arg(1).arg(&key).arg(expires);
            for (field, value) in &fields {
                command.arg(field).arg(value);
            }
        };
        let options = SendOptions::default();
        let send = || self.provider_script.run(&self.client, &key, options, push);
        self.explain(&key, retry_if_cut(send).await).await?;
        Ok(())
    }

    /// The first `limit` rows of a day that come after `after`.
    pub(super) async fn read_provider_usage(
        &self,
        org: &OrgId,
        day: UtcDay,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<ProviderRows, StoreError> {
        let key = OrgKeys::new(&self.decider.key_prefix, org, day).provider();
        let parse = |field: &str, value: &[u8]| match parse_row(field, value) {
            _ if field == COMPARISON => Ok(None),
            // None, if the row was removed.
            Some((row, usage)) => Ok(usage.map(|usage| (row, usage))),
            None => {
                warn_unreadable(org, day);
                Ok(None)
            }
        };
        self.scan_rows(&key, after, limit, parse).await
    }

    /// How each of these days was compared.
    pub(super) async fn read_comparisons(
        &self,
        org: &OrgId,
        days: &[UtcDay],
    ) -> Result<Vec<Option<DayComparison>>, StoreError> {
        let _permit = self.usage_reads.acquire().await;
        let mut found = Vec::with_capacity(days.len());
        for days in days.chunks(MAX_COMPARISON_READS) {
            let reads = days.iter().map(|day| self.read_comparison(org, *day));
            found.extend(try_join_all(reads).await?);
        }
        Ok(found)
    }

    async fn read_comparison(
        &self,
        org: &OrgId,
        day: UtcDay,
    ) -> Result<Option<DayComparison>, StoreError> {
        let key = OrgKeys::new(&self.decider.key_prefix, org, day).provider();
        let mut command = redis::cmd("HMGET");
        command.arg(&key).arg(COMPARISON);
        let send = || self.client.send(&key, &command, SendOptions::default());
        let reply = self.explain(&key, retry_if_cut(send).await).await?;
        let [text]: [Option<Vec<u8>>; 1] = redis::from_redis_value_ref(&reply.value)
            .map_err(|_| bad("a reply to HMGET that is not one value"))?;
        let Some(text) = text else {
            return Ok(None);
        };
        let comparison = parse_comparison(&text);
        if comparison.is_none() {
            warn_unreadable(org, day);
        }
        Ok(comparison)
    }
}

/// A field of the hash and its value, of which there is none if the row was removed; `None` if it is no row.
fn parse_row(field: &str, value: &[u8]) -> Option<(RowKey, Option<ProviderUsage>)> {
    Some((keys::parse_row_field(field)?, parse_usage(value)?))
}
