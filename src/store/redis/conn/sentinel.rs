//! `redis+sentinel://`: the sentinels know which server is the master.
//!
//! The sentinels are queried before the first call, and again if the connection to the master has ended, can't be
//! made, stalls, or rejects a write: a demoted master still answers. The server that they name must confirm that
//! it is a master (`ROLE`) on every new connection: sentinels disagree for a while.
//!
//! A failed call is not sent again. The next one searches for the master anew.
//!
//! In a failover the new master knows at once, and the old one seconds later. Until then the old one still
//! decides, and its decisions are lost. So each probe queries the sentinels too, and follows their majority.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Once},
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use futures_util::{
    Stream,
    stream::{FuturesUnordered, StreamExt as _},
};
use redis::Cmd;

use super::{
    connection::{Endpoints, RedisConnection, Reply, RequiredRole, SendOptions},
    errors::{SendError, most_specific, sanitize},
    single_flight::SingleFlight,
    url::Host,
};
use crate::store::StoreError;

/// How long the failure of a search for the master is shared.
const SEARCH_INTERVAL: Duration = Duration::from_millis(50);

pub(crate) struct Sentinel {
    /// The master's name in the sentinels' configuration.
    name: String,
    sentinels: Vec<RedisConnection>,
    /// How to reach the master.
    servers: Arc<Endpoints>,
    /// To the host that a sentinel named.
    master: ArcSwapOption<RedisConnection>,
    search: SingleFlight,
    refusal_log: Once,
}

impl Sentinel {
    pub(crate) fn new(
        name: String,
        sentinels: Vec<RedisConnection>,
        servers: Arc<Endpoints>,
    ) -> Self {
        Self {
            name,
            sentinels,
            servers,
            master: ArcSwapOption::empty(),
            search: SingleFlight::new(SEARCH_INTERVAL),
            refusal_log: Once::new(),
        }
    }

    /// Sends one command to the master. After a failure for which its connection must be replaced, the next call
    /// searches for the master.
    pub(crate) async fn send(
        &self,
        command: &Cmd,
        options: SendOptions,
    ) -> Result<Reply, SendError> {
        let master = self.master().await.map_err(SendError::NotSent)?;
        master.send(command, options).await
    }

    /// Switches to another master if more than half of the sentinels name it, and it is one. Calls that are under
    /// way stay with the old one.
    pub(crate) async fn refresh(&self) {
        let Some(current) = self.connected() else {
            return;
        };
        let mut votes = HashMap::new();
        let mut hosts = self.named_masters();
        // A majority is enough: the others may be gone.
        while let Some(host) = hosts.next().await {
            let host = match host {
                Ok(host) => host,
                Err(error) => {
                    self.log_refusal(&error);
                    continue;
                }
            };
            let count = votes.entry(host.clone()).or_insert(0);
            *count += 1;
            if *count * 2 <= self.sentinels.len() {
                continue;
            }
            if host != current.host
                && let Ok(master) = self.connect(&host).await
            {
                // Unless another call has replaced it.
                self.master
                    .compare_and_swap(Arc::as_ptr(&current), Some(master));
            }
            return;
        }
    }

    /// Warns, once, that a failover may be noticed late. Calls that need the sentinels fail on their own.
    fn log_refusal(&self, error: &StoreError) {
        if let StoreError::Refused { .. } = error {
            self.refusal_log.call_once(|| {
                tracing::warn!(%error, "a sentinel refuses to name the master: a failover may be seen late");
            });
        }
    }

    async fn master(&self) -> Result<Arc<RedisConnection>, StoreError> {
        if let Some(master) = self.connected() {
            return Ok(master);
        }
        let attempt = async {
            let master = self.find_master().await?;
            self.master.store(Some(Arc::clone(&master)));
            Ok(master)
        };
        let search = self
            .search
            .run(Instant::now(), |_| self.connected(), attempt);
        search.await
    }

    fn connected(&self) -> Option<Arc<RedisConnection>> {
        let master = self.master.load_full();
        master.filter(|master| master.is_connected())
    }

    /// Queries all sentinels concurrently, and connects to the first server they name that is a master.
    async fn find_master(&self) -> Result<Arc<RedisConnection>, StoreError> {
        let mut hosts = self.named_masters();
        let mut tried = HashSet::new();
        let mut failures = Vec::new();
        while let Some(host) = hosts.next().await {
            let master = match host {
                Ok(host) if tried.insert(host.clone()) => self.connect(&host).await,
                Ok(_) => continue,
                Err(error) => Err(error),
            };
            match master {
                Ok(master) => return Ok(master),
                Err(error) => failures.push(error),
            }
        }
        Err(most_specific(failures, "the sentinels lead to no master"))
    }

    /// Connects to a server, if it is a master.
    async fn connect(&self, host: &Host) -> Result<Arc<RedisConnection>, StoreError> {
        let master = RedisConnection::new(&self.servers, host, RequiredRole::Master);
        master.connect().await?;
        Ok(Arc::new(master))
    }

    /// The master's address from each sentinel, in the order of their replies.
    fn named_masters(&self) -> impl Stream<Item = Result<Host, StoreError>> + Unpin {
        let requests = self.sentinels.iter();
        let requests = requests.map(|sentinel| self.named_master(sentinel));
        requests.collect::<FuturesUnordered<_>>()
    }

    async fn named_master(&self, sentinel: &RedisConnection) -> Result<Host, StoreError> {
        let mut command = redis::cmd("SENTINEL");
        command.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.name);
        let reply = sentinel.send(&command, SendOptions::default()).await?;
        let reason = match redis::from_redis_value::<Option<(String, u16)>>(reply.value) {
            Ok(Some((name, port))) => return Ok(Host::new(&name, port)),
            Ok(None) => format!("a sentinel knows no master {:?}", self.name),
            Err(error) => {
                let words = sanitize(&error.to_string());
                format!("a sentinel's answer is no address: {words}")
            }
        };
        Err(StoreError::Unreachable { reason })
    }
}
