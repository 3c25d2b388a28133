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
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use futures_util::{
    Stream,
    stream::{FuturesUnordered, StreamExt as _},
};
use redis::Cmd;

use super::{
    connection::{RedisConnection, Reply, RequiredRole, SendOptions, must_be_replaced},
    endpoint::Endpoints,
    errors::{SendError, connect_error, most_specific},
    message::sanitize,
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
    servers: Endpoints,
    master: ArcSwapOption<Master>,
    search: SingleFlight,
    has_logged_refusal: AtomicBool,
}

struct Master {
    /// As named by a sentinel.
    host: Host,
    connection: RedisConnection,
}

impl Sentinel {
    pub(crate) fn new(name: String, sentinels: Vec<RedisConnection>, servers: Endpoints) -> Self {
        Self {
            name,
            sentinels,
            servers,
            master: ArcSwapOption::empty(),
            search: SingleFlight::new(SEARCH_INTERVAL),
            has_logged_refusal: AtomicBool::new(false),
        }
    }

    /// Sends one command to the master.
    pub(crate) async fn send(
        &self,
        command: &Cmd,
        options: SendOptions,
    ) -> Result<Reply, SendError> {
        let master = self.master().await.map_err(SendError::NotSent)?;
        let reply = master.connection.send(command, options).await;
        let is_gone = match &reply {
            Ok(_) => false,
            Err(SendError::NotSent(_)) => true,
            Err(SendError::Rejected(error) | SendError::OutcomeUnknown(error)) => {
                must_be_replaced(error)
            }
        };
        if is_gone {
            self.replace(&master, None);
        }
        reply
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
                Err(error @ StoreError::Refused { .. }) => {
                    self.log_refusal(&error);
                    continue;
                }
                Err(_) => continue,
            };
            let count = votes.entry(host.clone()).or_insert(0);
            *count += 1;
            if *count * 2 <= self.sentinels.len() {
                continue;
            }
            if host != current.host
                && let Ok(master) = self.connect(host).await
            {
                self.replace(&current, Some(Arc::new(master)));
            }
            return;
        }
    }

    /// Warns, once, that a failover may be noticed late. Calls that need the sentinels fail on their own.
    fn log_refusal(&self, error: &StoreError) {
        if !self.has_logged_refusal.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "a sentinel refuses to name the master: a failover may be seen late");
        }
    }

    /// Replaces a master, unless another call has done so.
    fn replace(&self, old: &Arc<Master>, new: Option<Arc<Master>>) {
        let current = self.master.load();
        let is_same = |current: &Arc<Master>| Arc::ptr_eq(current, old);
        if current.as_ref().is_some_and(is_same) {
            self.master.compare_and_swap(&current, new);
        }
    }

    async fn master(&self) -> Result<Arc<Master>, StoreError> {
        if let Some(master) = self.connected() {
            return Ok(master);
        }
        let attempt = async {
            let master = Arc::new(self.find_master().await?);
            self.master.store(Some(Arc::clone(&master)));
            Ok(master)
        };
        let search = self
            .search
            .run(Instant::now(), |_| self.connected(), attempt);
        search.await
    }

    fn connected(&self) -> Option<Arc<Master>> {
        let master = self.master.load_full();
        master.filter(|master| master.connection.is_connected())
    }

    /// Queries all sentinels concurrently, and connects to the first server they name that is a master.
    async fn find_master(&self) -> Result<Master, StoreError> {
        let mut hosts = self.named_masters();
        let mut tried = HashSet::new();
        let mut failures = Vec::new();
        while let Some(host) = hosts.next().await {
            let master = match host {
                Ok(host) if tried.insert(host.clone()) => self.connect(host).await,
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
    async fn connect(&self, host: Host) -> Result<Master, StoreError> {
        let connection = RedisConnection::new(&self.servers, &host, RequiredRole::Master);
        let connection = connection.map_err(|error| connect_error(&error))?;
        connection.connect().await?;
        Ok(Master { host, connection })
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
