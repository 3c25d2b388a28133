//! `redis+cluster://`: each organization's keys are in one hash slot, and each slot is at one master.
//!
//! Four replies prove that nothing ran, and the call is sent again: MOVED (the slot is at another node), ASK (it
//! is moving there), TRYAGAIN (its keys are at both nodes for a moment) and CLUSTERDOWN (other nodes may know
//! better). The same holds if no connection was made. Any other failure is returned: the client library's own
//! cluster connection would send timed-out writes again, and they would count twice.
//!
//! A call is bounded in rounds, and in time by the timeouts of one connection.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use futures_util::{
    FutureExt as _,
    stream::{self, StreamExt as _},
};
use redis::{Cmd, ServerErrorKind, cluster_routing::Slot};

use super::{
    connection::{Endpoints, RedisConnection, Reply, RequiredRole, SendOptions},
    errors::{SendError, most_specific},
    single_flight::SingleFlight,
    slots::Slots,
    url::Host,
};
use crate::store::StoreError;

/// Maximum number of attempts of a call. With the waits in between, its deadline comes first.
const MAX_ROUNDS: u32 = 100;

/// This many attempts follow each other at once. Then the call waits before each: the nodes don't agree yet.
const ROUNDS_AT_ONCE: u32 = 4;

/// The wait before the next attempt, doubled each time up to the maximum.
const FIRST_WAIT: Duration = Duration::from_millis(1);
const MAX_WAIT: Duration = Duration::from_millis(32);

/// How long the result of a request for the slots is shared.
const SLOTS_INTERVAL: Duration = Duration::from_millis(50);

/// Maximum number of concurrent requests for the slots.
const MAX_SLOTS_REQUESTS: usize = 4;

pub(crate) struct Cluster {
    servers: Arc<Endpoints>,
    /// The nodes of the URL. The slots are always requested from these too.
    seeds: Vec<Host>,
    connections: Mutex<HashMap<Host, Arc<RedisConnection>>>,
    slots: ArcSwapOption<Slots>,
    fetch: SingleFlight,
    /// A slot was found at another node: others may have moved too.
    is_outdated: AtomicBool,
}

/// Where to send a call next.
struct Route {
    connection: Arc<RedisConnection>,
    /// Sends ASKING first: the slot is moving there.
    asking: bool,
    /// Waits first: nothing has changed yet.
    waits: bool,
}

impl Cluster {
    pub(crate) fn new(servers: Arc<Endpoints>, seeds: Vec<Host>) -> Self {
        Self {
            servers,
            seeds,
            connections: Mutex::default(),
            slots: ArcSwapOption::empty(),
            fetch: SingleFlight::new(SLOTS_INTERVAL),
            is_outdated: AtomicBool::new(false),
        }
    }

    /// Sends one command to the master that has this key.
    pub(crate) async fn send(
        &self,
        key: &str,
        command: &Cmd,
        options: SendOptions,
    ) -> Result<Reply, SendError> {
        let slot = Slot::for_key(key);
        let timeouts = self.servers.timeouts;
        let deadline = Instant::now() + timeouts.connect + timeouts.response;
        let mut wait = FIRST_WAIT;
        let mut route = self.route(slot).await.map_err(SendError::NotSent)?;
        let mut round = 1;
        loop {
            let sent_at = Instant::now();
            let options = SendOptions {
                asking: route.asking,
                ..options
            };
            let failed = match route.connection.send(command, options).await {
                Ok(reply) => return Ok(reply),
                Err(failed) => failed,
            };
            match self.next_route(slot, &route, &failed, sent_at).await {
                Some(next) if round < MAX_ROUNDS && Instant::now() < deadline => route = next,
                _ => return Err(failed),
            }
            if route.waits || round >= ROUNDS_AT_ONCE {
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(MAX_WAIT);
            }
            round += 1;
        }
    }

    /// The next route, if the failure proves that nothing ran and there is another node.
    async fn next_route(
        &self,
        slot: Slot,
        last: &Route,
        failed: &SendError,
        sent_at: Instant,
    ) -> Option<Route> {
        let error = match failed {
            SendError::NotSent(_) => return self.route_around(slot, last, sent_at).await,
            SendError::Rejected(error) => error,
            SendError::OutcomeUnknown(_) => return None,
        };
        let redirection = || Host::of_redirection(error.redirect_node()?.0, &last.connection.host);
        match failed.rejection()? {
            ServerErrorKind::Moved => {
                let host = redirection()?;
                self.mark_moved(slot, &host);
                Some(self.route_to(&host, false))
            }
            ServerErrorKind::Ask => Some(self.route_to(&redirection()?, true)),
            ServerErrorKind::TryAgain => {
                let route = self.route(slot).await.ok()?;
                Some(Route {
                    waits: true,
                    ..route
                })
            }
            ServerErrorKind::ClusterDown => self.route_around(slot, last, sent_at).await,
            _ => None,
        }
    }

    /// Asks the other nodes for the slots. `None` if the slot is still at the node that failed.
    async fn route_around(&self, slot: Slot, last: &Route, sent_at: Instant) -> Option<Route> {
        let failed = &last.connection.host;
        // If the other nodes do not know either, the next probe tries again.
        self.is_outdated.store(true, Ordering::Release);
        self.refresh_slots(sent_at, Some(failed)).await.ok()?;
        let route = self.route(slot).await.ok()?;
        (route.connection.host != *failed || last.asking).then_some(route)
    }

    /// The master of a slot, if it is known.
    pub(crate) fn master(&self, slot: Slot) -> Option<Host> {
        self.slots.load().as_ref()?.masters.get(&slot).cloned()
    }

    async fn route(&self, slot: Slot) -> Result<Route, StoreError> {
        let needed_at = Instant::now();
        let mut master = self.master(slot);
        if master.is_none() {
            self.refresh_slots(needed_at, None).await?;
            master = self.master(slot);
        }
        let master = master.ok_or_else(|| {
            let reason = "no master has the slot of this organization".to_owned();
            StoreError::Unreachable { reason }
        })?;
        Ok(self.route_to(&master, false))
    }

    fn route_to(&self, host: &Host, asking: bool) -> Route {
        Route {
            connection: self.connection(host),
            asking,
            waits: false,
        }
    }

    fn connection(&self, host: &Host) -> Arc<RedisConnection> {
        let mut connections = self.lock_connections();
        let connection = connections.entry(host.clone()).or_insert_with(|| {
            let connection = RedisConnection::new(&self.servers, host, RequiredRole::Any);
            Arc::new(connection)
        });
        Arc::clone(connection)
    }

    fn lock_connections(&self) -> MutexGuard<'_, HashMap<Host, Arc<RedisConnection>>> {
        let lock = self.connections.lock();
        lock.unwrap_or_else(PoisonError::into_inner)
    }

    fn mark_moved(&self, slot: Slot, master: &Host) {
        self.is_outdated.store(true, Ordering::Release);
        self.slots.rcu(|slots| {
            let slots = slots.as_ref()?;
            if slots.masters.get(&slot) == Some(master) {
                return Some(Arc::clone(slots));
            }
            Some(Arc::new(slots.with(slot, master)))
        });
    }

    /// For each master, a hash tag in one of its slots.
    pub(crate) async fn tags(&self) -> Result<Vec<String>, StoreError> {
        let needed_at = Instant::now();
        let known = self.slots.load_full();
        if known.is_none() || self.is_outdated.load(Ordering::Acquire) {
            let refreshed = self.refresh_slots(needed_at, None).await;
            // Old slots are better than none.
            refreshed.or_else(|error| known.map(drop).ok_or(error))?;
        }
        let slots = self.slots.load_full();
        Ok(slots.map_or_else(Vec::new, |slots| slots.tags().to_vec()))
    }

    /// Asks the nodes, except one that failed, for the slots, and keeps the first reply.
    async fn refresh_slots(
        &self,
        needed_at: Instant,
        except: Option<&Host>,
    ) -> Result<(), StoreError> {
        let attempt = async {
            self.is_outdated.store(false, Ordering::Release);
            let slots = self.fetch_slots(except).await;
            let slots = slots.inspect_err(|_| self.is_outdated.store(true, Ordering::Release))?;
            let is_used = |host: &Host| slots.nodes.contains(host) || self.seeds.contains(host);
            self.lock_connections().retain(|host, _| is_used(host));
            self.slots.store(Some(Arc::new(slots)));
            Ok(())
        };
        let is_fresh = |is_shared: bool| is_shared.then_some(());
        self.fetch.run(needed_at, is_fresh, attempt).await
    }

    async fn fetch_slots(&self, except: Option<&Host>) -> Result<Slots, StoreError> {
        let known = self.slots.load_full();
        let known = known.iter().flat_map(|slots| &slots.nodes);
        let mut hosts: HashSet<&Host> = known.chain(&self.seeds).collect();
        if let Some(except) = except {
            hosts.remove(except);
        }
        // The only node may have restarted.
        if hosts.is_empty() {
            hosts.extend(except);
        }
        let requests = hosts.into_iter().map(|host| self.slots_of(host).boxed());
        let requests: Vec<_> = requests.collect();
        let mut replies = stream::iter(requests).buffer_unordered(MAX_SLOTS_REQUESTS);
        let mut failures = Vec::new();
        while let Some(slots) = replies.next().await {
            match slots {
                Ok(slots) => return Ok(slots),
                Err(error) => failures.push(error),
            }
        }
        Err(most_specific(failures, "no node lists the slots"))
    }

    /// The slots as this node lists them.
    async fn slots_of(&self, host: &Host) -> Result<Slots, StoreError> {
        let mut command = redis::cmd("CLUSTER");
        command.arg("SLOTS");
        let connection = self.connection(host);
        let reply = connection.send(&command, SendOptions::default()).await?;
        Slots::parse(reply.value, host).ok_or_else(|| {
            let reason = format!("a node knows of no slot [{host}]");
            StoreError::Unreachable { reason }
        })
    }
}
