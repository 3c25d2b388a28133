//! Reading without deciding: the pools' counters, and the usage rows of a day.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use redis::{Cmd, Value};
use tokio::sync::Semaphore;

use super::{
    conn::{
        RedisClient,
        connection::{Reply, SendOptions, retry_if_cut},
        errors::SendError,
    },
    decide::Decider,
    recovery::pn_counter::PoolCounter,
    script::{
        Script,
        keys::{self, OrgKeys},
        reader::{BadReply, MsgPackReader, after_clock, bad, bytes, parse_number, text},
    },
};
use crate::{
    domain::{OrgId, PoolCounters, PoolName, Tokens, UsageCounters, UtcDay},
    store::{RowKey, StoreError, Timestamped, UsageRows},
};

/// How many days' usage is read at a time: a day's rows are read whole for each page.
const MAX_USAGE_READS: usize = 4;

/// How often a day's usage is read anew because its key moved between two steps.
const MAX_SCANS: usize = 4;

/// How many rows one step of reading a day's usage asks for: Redis serves others between the steps.
const USAGE_STEP: usize = 512;

pub(super) struct Queries {
    client: Arc<RedisClient>,
    decider: Arc<Decider>,
    /// Reads pools, and the clock, where nothing may be written.
    script: Script,
    usage_reads: Semaphore,
}

impl Queries {
    pub(super) fn new(client: Arc<RedisClient>, decider: Arc<Decider>) -> Self {
        Self {
            client,
            decider,
            script: Script::new(include_str!("script/query.lua")),
            usage_reads: Semaphore::new(MAX_USAGE_READS),
        }
    }

    /// The counters of pools, as Redis has them or, where it lost writes, as the snapshots say: what is lost
    /// shows here too, though only a decision recovers it.
    pub(super) async fn pools(
        &self,
        org: &OrgId,
        day: UtcDay,
        pools: &[PoolName],
    ) -> Result<Timestamped<Vec<PoolCounters>>, StoreError> {
        let snapshots = &self.decider.snapshots;
        let keys = OrgKeys::new(&self.decider.key_prefix, org, day);
        let known = snapshots.lock().pools(org, day).to_vec();
        let push = |command: &mut Cmd| {
            command.arg(pools.len() + 1);
            for pool in pools {
                command.arg(keys.pool(&keys::encode(pool.as_str())));
            }
            command.arg(keys.requests());
            for pool in pools {
                command.arg(keys::held_field(pool));
            }
        };
        let key = keys.usage();
        let reply = self.run(&key, push).await?;
        let (now, mut stored) = parse_pools(&reply, pools.len())?;
        for snapshot in known {
            // Where Redis lost nothing, its record is the newer one: others may have united components since.
            if let Some(at) = pools.iter().position(|pool| *pool == snapshot.pool)
                && stored[at].0.seq_of(snapshots.replica) < snapshot.seq
            {
                stored[at].0.merge(PoolCounter::parse(&snapshot.record)?);
            }
        }
        let counters = |(record, held): (PoolCounter, Tokens)| PoolCounters {
            held,
            ..record.counters()
        };
        let answer = stored.into_iter().map(counters).collect();
        Ok(Timestamped { now, answer })
    }

    /// The first `limit` rows of a day that come after `after`.
    pub(super) async fn usage(
        &self,
        org: &OrgId,
        day: UtcDay,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<Timestamped<UsageRows>, StoreError> {
        let _permit = self.usage_reads.acquire().await;
        let key = OrgKeys::new(&self.decider.key_prefix, org, day).usage();
        let mut scans = 1;
        let mut scanned_over = None;
        let mut rows = UsageRows::new();
        let mut cursor = "0".to_owned();
        loop {
            let mut command = redis::cmd("HSCAN");
            command.arg(&key).arg(&cursor).arg("COUNT").arg(USAGE_STEP);
            let send = || self.client.send(&key, &command, SendOptions::default());
            let Reply {
                value,
                connection_id,
            } = self.explain(&key, retry_if_cut(send).await).await?;
            let before = scanned_over.replace(connection_id);
            if before.is_some_and(|before| before != connection_id) {
                // One server's cursor means nothing to another.
                if scans == MAX_SCANS {
                    let reason = "the key of the usage moves again and again".to_owned();
                    return Err(StoreError::OutcomeUnknown { reason });
                }
                scans += 1;
                scanned_over = None;
                rows.clear();
                "0".clone_into(&mut cursor);
                continue;
            }
            let (next, step) = parse_scan(&value)?;
            for (row_key, row) in step {
                if Some(&row_key) > after {
                    rows.insert(row_key, row);
                }
                if rows.len() > limit {
                    rows.pop_last();
                }
            }
            if next == "0" {
                break;
            }
            cursor = next;
        }
        let no_pools = |command: &mut Cmd| {
            command.arg(0);
        };
        let reply = self.run(&key, no_pools).await?;
        let (now, _) = parse_pools(&reply, 0)?;
        Ok(Timestamped { now, answer: rows })
    }

    /// Runs the script where a key is.
    async fn run(&self, key: &str, push: impl Fn(&mut Cmd)) -> Result<Value, StoreError> {
        let options = SendOptions::default();
        let run = || self.script.run(&self.client, key, options, &push);
        self.explain(key, retry_if_cut(run).await).await
    }

    /// Names a permission that is missing, where that is why it failed.
    async fn explain<T>(&self, key: &str, reply: Result<T, SendError>) -> Result<T, StoreError> {
        let acl_check = &self.decider.acl_check;
        match reply {
            Ok(reply) => Ok(reply),
            Err(failed) => Err(acl_check.explain(&self.client, key, failed.into()).await),
        }
    }
}

/// A pool's record, and its tokens that are held.
pub type StoredPool = (PoolCounter, Tokens);

/// Reads the reply of `query.lua` to `pools` pools.
///
/// # Errors
///
/// [`BadReply`] where the script can't have said that.
pub fn parse_pools(
    reply: &Value,
    pools: usize,
) -> Result<(DateTime<Utc>, Vec<StoredPool>), BadReply> {
    let (now, stored) = after_clock(reply)?;
    let now = now.ok_or_else(|| bad("the time"))?;
    if stored.len() != 2 * pools {
        return Err(bad(format!("{} answers to {pools} pools", stored.len())));
    }
    let (records, held) = stored.split_at(pools);
    let stored = records.iter().zip(held).map(|(record, held)| {
        let record = match record {
            Value::Nil => PoolCounter::default(),
            record => PoolCounter::parse(bytes(record)?)?,
        };
        let held = match held {
            Value::Nil => Some(Tokens::ZERO),
            held => parse_number(text(held)?).and_then(Tokens::new),
        };
        Ok((record, held.ok_or_else(|| bad("tokens that are held"))?))
    });
    Ok((now, stored.collect::<Result<_, _>>()?))
}

/// Reads one step of a scan of a day's usage: the cursor of the next step, "0" after the last, and the rows. A
/// row of zeros, which a release leaves behind, is none.
///
/// # Errors
///
/// [`BadReply`] where Redis can't have said that of what the script wrote.
pub fn parse_scan(reply: &Value) -> Result<(String, Vec<(RowKey, UsageCounters)>), BadReply> {
    let Value::Array(parts) = reply else {
        return Err(bad("a scan that is no list"));
    };
    let [cursor, Value::Array(fields)] = parts.as_slice() else {
        return Err(bad("a scan of other than two parts"));
    };
    let mut rows = Vec::with_capacity(fields.len() / 2);
    for pair in fields.chunks(2) {
        let [field, row] = pair else {
            return Err(bad("a usage row without counters"));
        };
        let key = keys::parse_row_field(text(field)?);
        let key = key.ok_or_else(|| bad("a usage row without project and model"))?;
        let row = MsgPackReader::new(bytes(row)?).row()?;
        if !row.is_empty() {
            rows.push((key, row));
        }
    }
    Ok((text(cursor)?.to_owned(), rows))
}
