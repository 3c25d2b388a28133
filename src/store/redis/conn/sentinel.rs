//! `redis+sentinel://`: the sentinels know which server is the master.
//!
//! They are asked before the first call, and again when the connection to the master has ended, can't be
//! made, stalls, or refuses a write: a demoted master goes on answering. Whom they name must say itself
//! that it is a master (`ROLE`), on every new connection: sentinels disagree for a while.
//!
//! A call that fails is not sent again here. Its failure only sees to it that the next one looks anew.
//!
//! A failover tells the new master at once, and the one before seconds later: so long that one goes on
//! deciding, and what it decides is lost. So sentinels are asked with every probe, too, and whom most of
//! them name is followed.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use redis::Cmd;
use tokio::sync::Mutex;

use super::{
    connection::{
        Failed, Failure, RedisConnection, Reply, RequiredRole, SendOptions, must_be_replaced,
    },
    endpoints::Endpoints,
    errors::{most_specific, store_error},
    message::sanitize,
    url::Host,
};
use crate::store::StoreError;

/// After a look that found no master, this long nobody looks: an outage must not keep sentinels busy.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

pub(crate) struct Sentinel {
    /// What the sentinels call the master.
    name: String,
    sentinels: Vec<RedisConnection>,
    servers: Endpoints,
    master: ArcSwapOption<Master>,
    /// Whether the log was told that sentinels refuse to name the master.
    has_logged_refusal: AtomicBool,
    /// One caller looks at a time. Holds how the last look failed, if it did.
    looking: Mutex<Option<Failure<StoreError>>>,
}

struct Master {
    /// As a sentinel named it.
    host: Host,
    link: RedisConnection,
}

impl Sentinel {
    pub(crate) fn new(name: String, sentinels: Vec<RedisConnection>, servers: Endpoints) -> Self {
        Self {
            name,
            sentinels,
            servers,
            master: ArcSwapOption::empty(),
            has_logged_refusal: AtomicBool::new(false),
            looking: Mutex::new(None),
        }
    }

    /// Sends one command to the master.
    pub(crate) async fn ask(&self, command: &Cmd, manner: SendOptions) -> Result<Reply, Failed> {
        let master = self.master().await.map_err(Failed::Known)?;
        let answered = master.link.ask(command, manner).await;
        let is_left = match &answered {
            Ok(_) => false,
            Err(Failed::Connecting(_) | Failed::Known(_)) => true,
            Err(Failed::Asking(error)) => must_be_replaced(error),
        };
        if is_left {
            self.replace(&master, None);
        }
        answered
    }

    /// Goes over to another master where more than half of the sentinels name it, and it is one. Calls
    /// that are under way are answered by the one before.
    pub(crate) async fn refresh(&self) {
        let Some(kept) = self.connected() else {
            return;
        };
        let asked = self
            .sentinels
            .iter()
            .map(|sentinel| self.fetch_master(sentinel));
        let mut told: FuturesUnordered<_> = asked.collect();
        let mut votes = HashMap::new();
        // As soon as most agree, the others are not waited for: they may be gone.
        while let Some(told) = told.next().await {
            let host = match told {
                Ok(host) => host,
                Err(error @ StoreError::Refused { .. }) => {
                    self.tell(&error);
                    continue;
                }
                Err(_) => continue,
            };
            let count = votes.entry(host.clone()).or_insert(0);
            *count += 1;
            if *count * 2 <= self.sentinels.len() {
                continue;
            }
            if host != kept.host
                && let Ok(link) = self.servers.link(&host, RequiredRole::Master)
                && link.connect().await.is_ok()
            {
                self.replace(&kept, Some(Arc::new(Master { host, link })));
            }
            return;
        }
    }

    /// Tells the log, once, that a failover may pass unseen: what needs the sentinels now has its own answer.
    fn tell(&self, error: &StoreError) {
        if !self.has_logged_refusal.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "a sentinel refuses to name the master: a failover may be seen late");
        }
    }

    /// Takes another master for this one, unless someone has done so.
    fn replace(&self, before: &Arc<Master>, by: Option<Arc<Master>>) {
        let current = self.master.load();
        let same = |current: &Arc<Master>| Arc::ptr_eq(current, before);
        if current.as_ref().is_some_and(same) {
            self.master.compare_and_swap(&current, by);
        }
    }

    async fn master(&self) -> Result<Arc<Master>, StoreError> {
        if let Some(master) = self.connected() {
            return Ok(master);
        }
        let asked_at = Instant::now();
        let mut last_failure = self.looking.lock().await;
        if let Some(master) = self.connected() {
            return Ok(master);
        }
        // Who waited through a whole look shares its failure, as in a link.
        if let Some(failure) = last_failure.as_ref()
            && (failure.began_at >= asked_at || failure.ended_at.elapsed() < RETRY_INTERVAL)
        {
            return Err(failure.error.clone());
        }
        let began_at = Instant::now();
        let found = self.look().await;
        *last_failure = found.as_ref().err().map(|error| Failure {
            began_at,
            ended_at: Instant::now(),
            error: error.clone(),
        });
        let master = Arc::new(found?);
        self.master.store(Some(Arc::clone(&master)));
        Ok(master)
    }

    fn connected(&self) -> Option<Arc<Master>> {
        let master = self.master.load_full();
        master.filter(|master| master.link.is_connected())
    }

    /// Asks all sentinels at once, and takes the first whose master proves to be one.
    async fn look(&self) -> Result<Master, StoreError> {
        let asked = self
            .sentinels
            .iter()
            .map(|sentinel| self.fetch_master(sentinel));
        let mut told: FuturesUnordered<_> = asked.collect();
        let mut tried = HashSet::new();
        let mut faults = Vec::new();
        while let Some(told) = told.next().await {
            let found = match told {
                Ok(host) if tried.insert(host.clone()) => {
                    let found = match self.servers.link(&host, RequiredRole::Master) {
                        Ok(link) => link.connect().await.map(|()| Master { host, link }),
                        Err(error) => Err(error),
                    };
                    found.map_err(|error| store_error(&Failed::Connecting(error)))
                }
                Ok(_) => continue,
                Err(error) => Err(error),
            };
            match found {
                Ok(master) => return Ok(master),
                Err(error) => faults.push(error),
            }
        }
        Err(most_specific(faults, "the sentinels lead to no master"))
    }

    /// Where a sentinel says that the master is.
    async fn fetch_master(&self, sentinel: &RedisConnection) -> Result<Host, StoreError> {
        let mut command = redis::cmd("SENTINEL");
        command.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.name);
        let answered = sentinel.ask(&command, SendOptions::default()).await;
        let answered = answered.map_err(|failed| store_error(&failed))?;
        match redis::from_redis_value::<Option<(String, u16)>>(answered.value) {
            Ok(Some((name, port))) => Ok(Host::new(&name, port)),
            Ok(None) => {
                let reason = format!("a sentinel knows no master {:?}", self.name);
                Err(StoreError::Unreachable { reason })
            }
            Err(error) => {
                let reason = format!(
                    "a sentinel's answer is no address: {}",
                    sanitize(&error.to_string())
                );
                Err(StoreError::Unreachable { reason })
            }
        }
    }
}
