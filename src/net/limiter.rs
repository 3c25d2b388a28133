//! Limits the connections of a port. At the limit, the longest idle ones are closed to make room.

use std::{collections::HashMap, sync::Arc, time::Instant};

use tokio::task::Id;

use super::connection::ConnectionState;
use crate::telemetry::{LogLimit, metrics::CloseReason};

/// The open connections of a port, by their tasks.
pub(crate) struct ConnectionLimiter {
    max: usize,
    open: HashMap<Id, Arc<ConnectionState>>,
    /// How many of these are closing to make room.
    closing: usize,
}

/// One idle connection in 16 is closed at once, so that a flood of new connections does not scan all of them each time.
const CLOSING_SHARE: usize = 16;

static LIMIT_REACHED: LogLimit = LogLimit::new();

impl ConnectionLimiter {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            open: HashMap::new(),
            closing: 0,
        }
    }

    pub(crate) fn add(&mut self, id: Id, state: Arc<ConnectionState>) {
        self.open.insert(id, state);
    }

    pub(crate) fn remove(&mut self, id: Id) {
        if self
            .open
            .remove(&id)
            .is_some_and(|state| state.is_making_room())
        {
            self.closing -= 1;
        }
    }

    /// Whether accepting must wait until closing connections have closed.
    pub(crate) fn is_over_limit(&self) -> bool {
        self.closing > 0 && self.open.len() >= self.max + self.max / CLOSING_SHARE
    }

    /// Closes idle connections at the limit. False if there is no room: all have open calls.
    pub(crate) fn make_room(&mut self) -> bool {
        if self.open.len() - self.closing < self.max {
            return true;
        }
        let mut idle: Vec<_> = self
            .open
            .values()
            .filter_map(|it| Some((it.evictable_since()?, it)))
            .collect();
        let victims = idle.len().div_ceil(CLOSING_SHARE);
        if victims > 0 {
            idle.select_nth_unstable_by_key(victims - 1, |(since, _)| *since);
        }
        let closed = idle[..victims]
            .iter()
            .filter(|(_, state)| state.request_close(CloseReason::MadeRoom));
        self.closing += closed.count();
        if let Some(left_out) = LIMIT_REACHED.admit(Instant::now()) {
            tracing::warn!(
                bound = self.max,
                closed = victims,
                left_out,
                "bounds.connections is reached: idle connections make room, and where there are none, new ones are refused"
            );
        }
        victims > 0
    }
}
