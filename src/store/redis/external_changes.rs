//! The changes of external usage: a hash for each organization and day, which expires with the day's usage.

use redis::Cmd;

use super::{
    RedisStore,
    conn::connection::{SendOptions, retry_if_cut},
    script::{
        keys::OrgKeys,
        reader::{BadReply, MsgPackReader, bytes},
    },
};
use crate::{
    domain::{ExternalChange, ExternalChanges, OrgId, UtcDay},
    store::{
        StoreError, Timestamped,
        external_changes::{decode, encode},
    },
};

impl RedisStore {
    /// Sent once: a second run would keep the change twice.
    pub(super) async fn keep_change(
        &self,
        org: &OrgId,
        change: &ExternalChange,
    ) -> Result<(), StoreError> {
        let day = UtcDay::of(change.at);
        let key = OrgKeys::new(&self.decider.key_prefix, org, day).external_changes();
        let retention = self.decider.usage_limits.retention_seconds();
        let expires_at = day.end().timestamp().saturating_add_unsigned(retention);
        let push = |command: &mut Cmd| {
            command.arg(1).arg(&key).arg(encode(change));
            command.arg(<&str>::from(change.source));
            command.arg(ExternalChanges::MAX).arg(expires_at);
        };
        let options = SendOptions::default();
        let sent = self
            .keep_change_script
            .run(&self.client, &key, options, push);
        self.explain(&key, sent.await).await.map(drop)
    }

    pub(super) async fn read_changes(
        &self,
        org: &OrgId,
        day: UtcDay,
    ) -> Result<Timestamped<ExternalChanges>, StoreError> {
        let _permit = self.usage_reads.acquire().await;
        let key = OrgKeys::new(&self.decider.key_prefix, org, day).external_changes();
        let push = |command: &mut Cmd| {
            command.arg(1).arg(&key).arg(ExternalChanges::MAX);
        };
        let options = SendOptions::default();
        let send = || self.changes_script.run(&self.client, &key, options, push);
        let reply = self.explain(&key, retry_if_cut(send).await).await?;
        Ok(parse_changes(org, bytes(&reply)?)?)
    }
}

/// Parses the reply of `changes.lua`.
fn parse_changes(org: &OrgId, reply: &[u8]) -> Result<Timestamped<ExternalChanges>, BadReply> {
    let mut reader = MsgPackReader::new(reply);
    let now = reader.time()?;
    let mut answer = ExternalChanges {
        is_truncated: reader.flag()?,
        ..ExternalChanges::default()
    };
    while reader.left() > 0 {
        // A number without a change is one that was lost.
        answer.add_kept(decode(org, reader.stored()?.unwrap_or_default()));
    }
    Ok(Timestamped { now, answer })
}
