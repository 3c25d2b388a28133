//! The lease of the background reconcile: a key that expires, with the number of the replica that has it.

use std::time::Duration;

use redis::{Cmd, Value};

use super::{
    RedisStore,
    conn::connection::{SendOptions, retry_if_cut},
    script::reader::bad,
};
use crate::store::StoreError;

/// What follows the prefix in the lease's key. No key of an organization equals it: those go on with a brace.
const KEY: &str = "reconcile";

impl RedisStore {
    /// Takes the lease, or renews it; `false` if another replica has it. Sent again after a cut connection: a second
    /// run only renews.
    pub(super) async fn take_or_renew_lease(&self, duration: Duration) -> Result<bool, StoreError> {
        let key = format!("{}{KEY}", self.decider.key_prefix);
        let (replica, milliseconds) = (self.decider.snapshots.replica, duration.as_millis());
        let push = |command: &mut Cmd| {
            command.arg(1).arg(&key).arg(replica);
            command.arg(milliseconds.to_string());
        };
        let options = SendOptions::default();
        let send = || self.lease_script.run(&self.client, &key, options, push);
        match self.explain(&key, retry_if_cut(send).await).await? {
            Value::Int(1) => Ok(true),
            Value::Int(0) => Ok(false),
            _ => Err(bad("the answer about the lease").into()),
        }
    }
}
