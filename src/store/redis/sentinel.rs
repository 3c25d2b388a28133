//! `redis+sentinel://`: the sentinels know which server is the master.
//!
//! They are asked before the first call, and again when the connection to the master has ended, can't be
//! made, stalls, or refuses a write: a demoted master goes on answering. Whom they name must say itself
//! that it is a master (`ROLE`), on every new connection: sentinels disagree for a while.
//!
//! A call that fails is not sent again here. Its failure only sees to it that the next one looks anew.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use redis::{Cmd, ErrorKind, RedisError};
use tokio::sync::Mutex;

use super::{
    link::{Expected, Failed, Failure, Link, Manner, must_be_replaced},
    links::{Answered, Servers},
    url::Host,
};

/// After a look that found no master, this long nobody looks: an outage must not keep sentinels busy.
const PAUSE: Duration = Duration::from_millis(50);

pub(super) struct Sentinel {
    /// What the sentinels call the master.
    name: String,
    sentinels: Vec<Link>,
    servers: Servers,
    master: ArcSwapOption<Link>,
    /// One caller looks at a time. Holds how the last look failed, if it did.
    looking: Mutex<Option<Failure>>,
}

impl Sentinel {
    pub(super) fn new(name: String, sentinels: Vec<Link>, servers: Servers) -> Self {
        Self {
            name,
            sentinels,
            servers,
            master: ArcSwapOption::empty(),
            looking: Mutex::new(None),
        }
    }

    /// Sends one command to the master.
    pub(super) async fn ask(&self, command: &Cmd, manner: Manner) -> Result<Answered, Failed> {
        let link = self.master().await.map_err(Failed::Connecting)?;
        let answered = link.ask(command, manner).await;
        let is_left = match &answered {
            Ok(_) => false,
            Err(Failed::Connecting(_)) => true,
            Err(Failed::Asking(error)) => must_be_replaced(error),
        };
        if is_left {
            let current = self.master.load();
            if current
                .as_ref()
                .is_some_and(|current| Arc::ptr_eq(current, &link))
            {
                self.master.compare_and_swap(&current, None);
            }
        }
        answered
    }

    async fn master(&self) -> Result<Arc<Link>, RedisError> {
        if let Some(link) = self.connected() {
            return Ok(link);
        }
        let asked_at = Instant::now();
        let mut last_failure = self.looking.lock().await;
        if let Some(link) = self.connected() {
            return Ok(link);
        }
        // Who waited through a whole look shares its failure, as in a link.
        if let Some(failure) = last_failure.as_ref()
            && (failure.began_at >= asked_at || failure.ended_at.elapsed() < PAUSE)
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
        let link = Arc::new(found?);
        self.master.store(Some(Arc::clone(&link)));
        Ok(link)
    }

    fn connected(&self) -> Option<Arc<Link>> {
        self.master.load_full().filter(|link| link.is_connected())
    }

    /// Asks all sentinels at once, and takes the first whose master proves to be one.
    async fn look(&self) -> Result<Link, RedisError> {
        let asked = self.sentinels.iter().map(|sentinel| self.told_by(sentinel));
        let mut told: FuturesUnordered<_> = asked.collect();
        let mut tried = HashSet::new();
        let mut faults = Vec::new();
        while let Some(told) = told.next().await {
            let found = match told {
                Ok(host) if tried.insert(host.clone()) => {
                    let link = self.servers.link(&host, Expected::Master);
                    match link {
                        Ok(link) => link.connect().await.map(|()| link),
                        Err(error) => Err(error),
                    }
                }
                Ok(_) => continue,
                Err(error) => Err(error),
            };
            match found {
                Ok(link) => return Ok(link),
                Err(error) => faults.push(error.to_string()),
            }
        }
        faults.dedup();
        let found = ("the sentinels lead to no master", faults.join("; "));
        Err((ErrorKind::Client, found.0, found.1).into())
    }

    /// Where a sentinel says that the master is.
    async fn told_by(&self, sentinel: &Link) -> Result<Host, RedisError> {
        let mut command = redis::cmd("SENTINEL");
        command.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.name);
        let answered = match sentinel.ask(&command, Manner::default()).await {
            Ok(answered) => answered,
            Err(Failed::Connecting(error) | Failed::Asking(error)) => return Err(error),
        };
        let told: Option<(String, u16)> = redis::from_redis_value(answered.value)?;
        match told {
            Some((name, port)) => Ok(Host::new(&name, port)),
            None => {
                let why = format!("a sentinel knows no master {:?}", self.name);
                Err((ErrorKind::Client, "no such master", why).into())
            }
        }
    }
}
