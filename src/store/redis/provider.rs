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
use redis::{Cmd, Value};

use super::{
    RedisStore,
    conn::connection::{SendOptions, retry_if_cut},
    script::{
        keys::{self, OrgKeys},
        reader::{BadReply, bad},
    },
};
use crate::{
    domain::{DayComparison, OrgId, ProviderUsage, UtcDay},
    store::{
        RowKey, StoreError,
        provider::{
            ProviderChanges, ProviderRows, comparison_text, parse_comparison, parse_usage,
            usage_text,
        },
    },
};

/// The field of the comparison. No row equals it, since it is a control character.
const COMPARISON: &str = "\u{1}";

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
        self.scan_rows(&key, after, limit, parse_row).await
    }

    /// How each of these days was compared.
    pub(super) async fn read_comparisons(
        &self,
        org: &OrgId,
        days: &[UtcDay],
    ) -> Result<Vec<Option<DayComparison>>, StoreError> {
        let reads = days.iter().map(async |day| {
            let key = OrgKeys::new(&self.decider.key_prefix, org, *day).provider();
            let mut command = redis::cmd("HMGET");
            command.arg(&key).arg(COMPARISON);
            let send = || self.client.send(&key, &command, SendOptions::default());
            let reply = self.explain(&key, retry_if_cut(send).await).await?;
            Ok(parse_comparison_reply(&reply.value)?)
        });
        try_join_all(reads).await
    }
}

/// A field of the hash and its value; none if it is no row, or one that was removed.
fn parse_row(field: &str, value: &[u8]) -> Result<Option<(RowKey, ProviderUsage)>, BadReply> {
    if field == COMPARISON {
        return Ok(None);
    }
    let key = keys::parse_row_field(field);
    let key = key.ok_or_else(|| bad("a row of the provider without project and model"))?;
    let usage = parse_usage(value).ok_or_else(|| bad("a row of the provider"))?;
    Ok(usage.map(|usage| (key, usage)))
}

fn parse_comparison_reply(reply: &Value) -> Result<Option<DayComparison>, BadReply> {
    let wrong = || bad("a comparison with the provider");
    let [text]: [Option<Vec<u8>>; 1] = redis::from_redis_value_ref(reply).map_err(|_| wrong())?;
    text.map(|text| parse_comparison(&text).ok_or_else(wrong))
        .transpose()
}
