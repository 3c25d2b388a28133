//! Read-only queries: the counters of pools and shares, and the usage rows of a day.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use redis::{Cmd, Value};

use super::{
    RedisStore,
    conn::{
        connection::{Reply, SendOptions, retry_if_cut},
        errors::SendError,
    },
    recovery::pn_counter::PoolCounter,
    script::{
        keys::{self, CounterId, OrgKeys},
        reader::{BadReply, MsgPackReader, bad, bytes, parse_number},
    },
};
use crate::{
    domain::{OrgId, PoolCounters, PoolName, ShareId, Tokens, UsageCounters, UtcDay},
    store::{DayCounters, RowKey, StoreError, Timestamped, UsageRows},
};

/// Maximum number of scans of a day's usage. A scan starts over if the key moves to another server.
const MAX_SCANS: usize = 4;

/// How many rows one HSCAN asks for: Redis serves others in between.
const SCAN_COUNT: usize = 512;

impl RedisStore {
    /// The counters of pools and shares: Redis' records, merged with the snapshots if Redis lost writes. Only a
    /// decision restores these in Redis.
    pub(super) async fn read_pools(
        &self,
        org: &OrgId,
        day: UtcDay,
        pools: &[PoolName],
        shares: &[ShareId],
    ) -> Result<Timestamped<DayCounters>, StoreError> {
        let snapshots = &self.decider.snapshots;
        let keys = OrgKeys::new(&self.decider.key_prefix, org, day);
        let known = snapshots.lock().pools(org, day).to_vec();
        let push = |command: &mut Cmd| {
            command.arg(pools.len() + shares.len() + 1);
            for pool in pools {
                command.arg(keys.pool(&keys::encode(pool.as_str())));
            }
            for share in shares {
                command.arg(keys.share(&CounterId::Share(share.clone()).encoded()));
            }
            command.arg(keys.requests());
            for pool in pools {
                command.arg(keys::held_field(pool));
            }
        };
        let reply = self.run(&keys.usage(), push).await?;
        let mut stored = parse_pools(bytes(&reply)?, pools.len(), shares.len())?;
        for snapshot in known {
            let record = match &snapshot.counter {
                CounterId::Pool(pool) => {
                    let at = pools.iter().position(|it| it == pool);
                    at.map(|at| &mut stored.pools[at].0)
                }
                CounterId::Share(share) => {
                    let at = shares.iter().position(|it| it == share);
                    at.map(|at| &mut stored.shares[at])
                }
            };
            // Otherwise Redis' record is newer: another replica may have united components since.
            if let Some(record) = record
                && record.seq_of(snapshots.replica) < snapshot.seq
            {
                record.merge(PoolCounter::parse(&snapshot.record)?);
            }
        }
        let counters = |(record, held): (PoolCounter, Tokens)| PoolCounters {
            held,
            ..record.counters()
        };
        let answer = DayCounters {
            pools: stored.pools.into_iter().map(counters).collect(),
            shares: stored.shares.iter().map(|it| it.counters().used).collect(),
        };
        let now = stored.now;
        Ok(Timestamped { now, answer })
    }

    /// The first `limit` rows of a day that come after `after`.
    pub(super) async fn read_usage(
        &self,
        org: &OrgId,
        day: UtcDay,
        after: Option<&RowKey>,
        limit: usize,
    ) -> Result<Timestamped<UsageRows>, StoreError> {
        let key = OrgKeys::new(&self.decider.key_prefix, org, day).usage();
        let answer = self.scan_rows(&key, after, limit, parse_row).await?;
        let reply = self.run(&key, |command| _ = command.arg(0)).await?;
        let StoredCounters { now, .. } = parse_pools(bytes(&reply)?, 0, 0)?;
        Ok(Timestamped { now, answer })
    }

    /// The first `limit` rows of a hash that come after `after`, of the fields that are rows.
    pub(super) async fn scan_rows<R>(
        &self,
        key: &str,
        after: Option<&RowKey>,
        limit: usize,
        parse: impl ParseRow<R>,
    ) -> Result<BTreeMap<RowKey, R>, StoreError> {
        let _permit = self.usage_reads.acquire().await;
        let mut scans = 1;
        let mut scan_connection = None;
        let mut rows = BTreeMap::new();
        let mut cursor = "0".to_owned();
        loop {
            let mut command = redis::cmd("HSCAN");
            command.arg(key).arg(&cursor).arg("COUNT").arg(SCAN_COUNT);
            let send = || self.client.send(key, &command, SendOptions::default());
            let Reply {
                value,
                connection_id,
            } = self.explain(key, retry_if_cut(send).await).await?;
            let before = scan_connection.replace(connection_id);
            if before.is_some_and(|before| before != connection_id) {
                // A cursor is valid only at the server that returned it.
                if scans == MAX_SCANS {
                    let reason = "the usage key keeps moving between servers".to_owned();
                    return Err(StoreError::OutcomeUnknown { reason });
                }
                scans += 1;
                scan_connection = None;
                rows.clear();
                "0".clone_into(&mut cursor);
                continue;
            }
            let (next, step) = parse_step(&value, &parse)?;
            for (row_key, row) in step {
                if Some(&row_key) > after {
                    rows.insert(row_key, row);
                }
                if rows.len() > limit {
                    rows.pop_last();
                }
            }
            if next == "0" {
                return Ok(rows);
            }
            cursor = next;
        }
    }

    async fn run(&self, key: &str, push: impl Fn(&mut Cmd)) -> Result<Value, StoreError> {
        let options = SendOptions::default();
        let run = || self.query_script.run(&self.client, key, options, &push);
        self.explain(key, retry_if_cut(run).await).await
    }

    /// If it failed for a missing permission, names that.
    pub(super) async fn explain<T>(
        &self,
        key: &str,
        reply: Result<T, SendError>,
    ) -> Result<T, StoreError> {
        let acl_check = &self.decider.acl_check;
        match reply {
            Ok(reply) => Ok(reply),
            Err(failed) => Err(acl_check.explain(&self.client, key, failed.into()).await),
        }
    }
}

/// The reply of `query.lua`.
#[derive(Debug)]
pub struct StoredCounters {
    /// Redis' clock.
    pub now: DateTime<Utc>,
    /// The record of each pool, and its held tokens.
    pub pools: Vec<(PoolCounter, Tokens)>,
    /// The record of each share.
    pub shares: Vec<PoolCounter>,
}

/// Parses the reply of `query.lua` for these numbers of pools and shares.
///
/// # Errors
///
/// [`BadReply`] if the script can't have returned this.
pub fn parse_pools(reply: &[u8], pools: usize, shares: usize) -> Result<StoredCounters, BadReply> {
    let mut reader = MsgPackReader::new(reply);
    let now = reader.time()?;
    let pools = (0..pools).map(|_| {
        let record = reader.stored()?.map(PoolCounter::parse).transpose()?;
        let held = match reader.stored()? {
            Some(held) => parse_number(held).and_then(Tokens::new),
            None => Some(Tokens::ZERO),
        };
        let held = held.ok_or_else(|| bad("held tokens"))?;
        Ok((record.unwrap_or_default(), held))
    });
    let pools = pools.collect::<Result<_, BadReply>>()?;
    let shares = (0..shares).map(|_| {
        let record = reader.stored()?.map(PoolCounter::parse).transpose()?;
        Ok(record.unwrap_or_default())
    });
    let shares = shares.collect::<Result<_, BadReply>>()?;
    reader.end().map(|()| StoredCounters { now, pools, shares })
}

/// Parses a reply to HSCAN on a day's usage: the next cursor, "0" at the end, and the rows. Leaves out rows of
/// zeros, which a release leaves behind.
///
/// # Errors
///
/// [`BadReply`] if this is no reply to HSCAN, or the script can't have written these rows.
pub fn parse_scan(reply: &Value) -> Result<(String, Vec<(RowKey, UsageCounters)>), BadReply> {
    parse_step(reply, parse_row)
}

/// Parses a field and its value; `None` if that is no row to be listed.
pub(super) trait ParseRow<R>:
    Fn(&str, &[u8]) -> Result<Option<(RowKey, R)>, BadReply>
{
}

impl<R, F: Fn(&str, &[u8]) -> Result<Option<(RowKey, R)>, BadReply>> ParseRow<R> for F {}

fn parse_row(field: &str, value: &[u8]) -> Result<Option<(RowKey, UsageCounters)>, BadReply> {
    let key = keys::parse_row_field(field);
    let key = key.ok_or_else(|| bad("a usage row without project and model"))?;
    let row = MsgPackReader::new(value).row()?;
    Ok((!row.is_empty()).then_some((key, row)))
}

fn parse_step<R>(
    reply: &Value,
    parse: impl ParseRow<R>,
) -> Result<(String, Vec<(RowKey, R)>), BadReply> {
    let parsed = redis::from_redis_value_ref(reply);
    let (cursor, fields): (String, Vec<(String, Vec<u8>)>) =
        parsed.map_err(|_| bad("a scan that is not a cursor and rows"))?;
    let rows = fields
        .iter()
        .filter_map(|(field, value)| parse(field, value).transpose());
    let rows = rows.collect::<Result<_, BadReply>>()?;
    Ok((cursor, rows))
}
