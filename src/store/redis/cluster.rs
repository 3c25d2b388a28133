//! `redis+cluster://`: each organization's keys are in one hash slot, and each slot is at one master.
//!
//! Four answers of a node prove that nothing ran, and are followed up within the call: MOVED (the slot
//! is elsewhere for good), ASK (it is on its way there), TRYAGAIN (its keys are on both sides for a
//! moment) and CLUSTERDOWN (the node thinks so; others may know better). So does a connection that never
//! came about. Anything else is the caller's: the client library's own cluster connection would send
//! timed-out writes again, and they would count twice.
//!
//! A call is bounded in rounds, and in time by what the timeouts of one connection allow.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex as SyncMutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use futures_util::{
    FutureExt as _,
    stream::{self, StreamExt as _},
};
use redis::{Cmd, ErrorKind, ServerErrorKind, cluster_routing::Slot};
use tokio::sync::Mutex;

use super::{
    errors::{most_specific, store_error},
    link::{Expected, Failed, Link, Manner},
    links::{Answered, Servers},
    slots::Slots,
    url::Host,
};
use crate::store::StoreError;

/// How often a call is asked at most. Waiting between them makes the time the bound that is met first.
const MOST_ROUNDS: u32 = 100;

/// So many times a call follows where it is led at once; then it waits in between, since the nodes don't
/// agree yet.
const ROUNDS_AT_ONCE: u32 = 4;

/// How long a call waits before it asks again: doubled each time, up to the second.
const FIRST_WAIT: Duration = Duration::from_millis(1);
const LONGEST_WAIT: Duration = Duration::from_millis(32);

/// After the nodes were asked for the slots, nobody asks again for so long: an outage must not keep the
/// nodes that are left busy.
const PAUSE: Duration = Duration::from_millis(50);

/// How many nodes are asked for the slots at a time.
const ASKED_AT_ONCE: usize = 4;

pub(super) struct Cluster {
    servers: Servers,
    /// Those of the URL. Always among the ones that are asked for the slots.
    seeds: Vec<Host>,
    links: SyncMutex<HashMap<Host, Arc<Link>>>,
    slots: ArcSwapOption<Slots>,
    /// One caller asks for the slots at a time. Holds when, and how it failed, if it did.
    asking: Mutex<Option<Asked>>,
    /// A slot was found elsewhere: others may have moved too.
    is_outdated: AtomicBool,
}

struct Asked {
    began_at: Instant,
    ended_at: Instant,
    failure: Option<StoreError>,
}

/// Whom to ask next.
struct Way {
    host: Host,
    link: Arc<Link>,
    /// With ASKING before the command: the slot is on its way there.
    asking: bool,
    /// Not at once: nothing has changed yet.
    waits: bool,
}

impl Cluster {
    pub(super) fn new(servers: Servers, seeds: Vec<Host>) -> Self {
        Self {
            servers,
            seeds,
            links: SyncMutex::default(),
            slots: ArcSwapOption::empty(),
            asking: Mutex::new(None),
            is_outdated: AtomicBool::new(false),
        }
    }

    /// Sends one command to the master that has this key.
    pub(super) async fn ask(
        &self,
        key: &str,
        command: &Cmd,
        manner: Manner,
    ) -> Result<Answered, Failed> {
        let slot = Slot::for_key(key);
        let timeouts = self.servers.timeouts;
        let deadline = Instant::now() + timeouts.connect + timeouts.response;
        let mut wait = FIRST_WAIT;
        let mut way = self.way(slot).await.map_err(Failed::Known)?;
        let mut round = 1;
        loop {
            let asked_at = Instant::now();
            let manner = Manner {
                asking: way.asking,
                ..manner
            };
            let failed = match way.link.ask(command, manner).await {
                Ok(answered) => return Ok(answered),
                Err(failed) => failed,
            };
            let next = self.way_on(slot, &way, &failed, asked_at).await;
            let Some(next) = next.filter(|_| round < MOST_ROUNDS && Instant::now() < deadline)
            else {
                return Err(failed);
            };
            way = next;
            if way.waits || round >= ROUNDS_AT_ONCE {
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(LONGEST_WAIT);
            }
            round += 1;
        }
    }

    /// Where to ask on after a failure that proves that nothing ran; none where it doesn't, or where
    /// there is nobody else to ask.
    async fn way_on(
        &self,
        slot: Slot,
        asked: &Way,
        failed: &Failed,
        asked_at: Instant,
    ) -> Option<Way> {
        let error = match failed {
            Failed::Known(_) => return None,
            Failed::Connecting(_) => return self.way_around(slot, asked, asked_at).await,
            Failed::Asking(error) => error,
        };
        // What a script says on its way proves nothing.
        if error.to_string().contains("@user_script") {
            return None;
        }
        let ErrorKind::Server(kind) = error.kind() else {
            return None;
        };
        match kind {
            ServerErrorKind::Moved => {
                let host = Host::told(error.redirect_node()?.0, &asked.host)?;
                self.learn(slot, &host);
                self.way_to(host, false).ok()
            }
            ServerErrorKind::Ask => {
                let host = Host::told(error.redirect_node()?.0, &asked.host)?;
                self.way_to(host, true).ok()
            }
            ServerErrorKind::TryAgain => {
                let way = self.way(slot).await.ok()?;
                Some(Way { waits: true, ..way })
            }
            ServerErrorKind::ClusterDown => self.way_around(slot, asked, asked_at).await,
            _ => None,
        }
    }

    /// Asks the other nodes who has the slot, where one is no good; none where it is still that one.
    async fn way_around(&self, slot: Slot, asked: &Way, asked_at: Instant) -> Option<Way> {
        // What is outdated is seen by the probe, if these nodes can't tell it now.
        self.is_outdated.store(true, Ordering::Release);
        self.ask_for_slots(asked_at, Some(&asked.host)).await.ok()?;
        let way = self.way(slot).await.ok()?;
        (way.host != asked.host || asked.asking).then_some(way)
    }

    /// The master of a slot, as far as it is known.
    pub(super) fn master(&self, slot: Slot) -> Option<Host> {
        self.slots.load().as_ref()?.master(slot).cloned()
    }

    async fn way(&self, slot: Slot) -> Result<Way, StoreError> {
        let asked_at = Instant::now();
        let host = match self.master(slot) {
            Some(host) => host,
            None => {
                self.ask_for_slots(asked_at, None).await?;
                self.master(slot).ok_or_else(|| {
                    let reason = "no master has the slot of this organization".to_owned();
                    StoreError::Unreachable { reason }
                })?
            }
        };
        self.way_to(host, false)
    }

    fn way_to(&self, host: Host, asking: bool) -> Result<Way, StoreError> {
        Ok(Way {
            link: self.link(&host)?,
            host,
            asking,
            waits: false,
        })
    }

    fn link(&self, host: &Host) -> Result<Arc<Link>, StoreError> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = links.get(host) {
            return Ok(Arc::clone(link));
        }
        let link = self.servers.link(host, Expected::Anything);
        let link = Arc::new(link.map_err(|error| store_error(&Failed::Connecting(error)))?);
        links.insert(host.clone(), Arc::clone(&link));
        Ok(link)
    }

    /// Takes in that a slot has another master.
    fn learn(&self, slot: Slot, master: &Host) {
        self.is_outdated.store(true, Ordering::Release);
        self.slots.rcu(|slots| {
            let slots = slots.as_ref()?;
            if slots.master(slot) == Some(master) {
                return Some(Arc::clone(slots));
            }
            Some(Arc::new(slots.with(slot, master)))
        });
    }

    /// For each master a hash tag whose slot it has.
    pub(super) async fn tags(&self) -> Result<Vec<String>, StoreError> {
        let asked_at = Instant::now();
        let known = self.slots.load_full();
        if known.is_none() || self.is_outdated.load(Ordering::Acquire) {
            let asked = self.ask_for_slots(asked_at, None).await;
            // What was known before is better than nothing.
            asked.or_else(|error| known.map(|_| ()).ok_or(error))?;
        }
        let slots = self.slots.load_full();
        Ok(slots.map(|slots| slots.tags().to_vec()).unwrap_or_default())
    }

    /// Asks the nodes for the slots, all but the one that is no good, and takes the first answer. Who
    /// waited while another one asked shares what became of it.
    async fn ask_for_slots(&self, asked_at: Instant, but: Option<&Host>) -> Result<(), StoreError> {
        let mut last = self.asking.lock().await;
        if let Some(last) = last.as_ref()
            && (last.began_at >= asked_at || last.ended_at.elapsed() < PAUSE)
        {
            return last.failure.clone().map_or(Ok(()), Err);
        }
        let began_at = Instant::now();
        self.is_outdated.store(false, Ordering::Release);
        let found = self.first_told(but).await;
        *last = Some(Asked {
            began_at,
            ended_at: Instant::now(),
            failure: found.as_ref().err().cloned(),
        });
        let slots = found.inspect_err(|_| self.is_outdated.store(true, Ordering::Release))?;
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|host, _| slots.nodes().contains(host) || self.seeds.contains(host));
        self.slots.store(Some(Arc::new(slots)));
        Ok(())
    }

    async fn first_told(&self, but: Option<&Host>) -> Result<Slots, StoreError> {
        let known = self.slots.load_full();
        let known = known.as_ref().map_or(&[][..], |slots| slots.nodes());
        let mut hosts: Vec<&Host> = Vec::new();
        for host in known.iter().chain(&self.seeds) {
            if Some(host) != but && !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        // The only one there is may have been restarted.
        if hosts.is_empty() {
            hosts.extend(but);
        }
        let told: Vec<_> = hosts
            .into_iter()
            .map(|host| self.told_by(host).boxed())
            .collect();
        let mut told = stream::iter(told).buffer_unordered(ASKED_AT_ONCE);
        let mut faults = Vec::new();
        while let Some(told) = told.next().await {
            match told {
                Ok(slots) => return Ok(slots),
                Err(error) => faults.push(error),
            }
        }
        Err(most_specific(faults, "no node tells the slots"))
    }

    async fn told_by(&self, host: &Host) -> Result<Slots, StoreError> {
        let mut command = redis::cmd("CLUSTER");
        command.arg("SLOTS");
        let answered = self.link(host)?.ask(&command, Manner::default()).await;
        let answered = answered.map_err(|failed| store_error(&failed))?;
        Slots::read(answered.value, host).ok_or_else(|| {
            let reason = format!("a node knows of no slot [{host}]");
            StoreError::Unreachable { reason }
        })
    }
}
