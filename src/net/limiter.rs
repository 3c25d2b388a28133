//! The connections of a port, of which there is a bound: those that have been idle longest make room for others.

use std::{collections::HashMap, sync::Arc, time::Instant};

use tokio::task::Id;

use super::connection_state::ConnectionState;
use crate::telemetry::{LogLimit, metrics::CloseReason};

/// Those that are open, by their tasks.
pub(crate) struct ConnectionLimiter {
    most: usize,
    open: HashMap<Id, Arc<ConnectionState>>,
    /// Of these, how many were asked to close.
    leaving: usize,
}

/// What part of the idle ones is asked at once, so that a flood of connections does not have all looked through for
/// each that comes.
const CLOSING_SHARE: usize = 16;

static LIMIT_REACHED: LogLimit = LogLimit::new();

impl ConnectionLimiter {
    pub(crate) fn of_at_most(most: usize) -> Self {
        Self {
            most,
            open: HashMap::new(),
            leaving: 0,
        }
    }

    pub(crate) fn came(&mut self, id: Id, state: Arc<ConnectionState>) {
        self.open.insert(id, state);
    }

    pub(crate) fn left(&mut self, id: Id) {
        if self
            .open
            .remove(&id)
            .is_some_and(|state| state.makes_room())
        {
            self.leaving -= 1;
        }
    }

    /// Whether those that were asked to close have to do it first.
    pub(crate) fn is_crammed(&self) -> bool {
        self.leaving > 0 && self.open.len() >= self.most + self.most / CLOSING_SHARE
    }

    /// Whether there is room for one more, or some is being made. Else all have calls that are open.
    pub(crate) fn has_room(&mut self) -> bool {
        if self.open.len() - self.leaving < self.most {
            return true;
        }
        let spare = self.open.values();
        let mut spare: Vec<_> = spare
            .filter_map(|it| Some((it.spare_since()?, it)))
            .collect();
        let asked = spare.len().div_ceil(CLOSING_SHARE);
        if asked > 0 {
            spare.select_nth_unstable_by_key(asked - 1, |(since, _)| *since);
        }
        // One that is asked for another reason at this very moment leaves, too.
        let ask = |state: &ConnectionState| state.ask_to_leave(CloseReason::MadeRoom);
        let asks = spare[..asked].iter().filter(|(_, state)| ask(state));
        self.leaving += asks.count();
        if let Some(left_out) = LIMIT_REACHED.admit(Instant::now()) {
            tracing::warn!(
                bound = self.most,
                closed = asked,
                left_out,
                "bounds.connections is reached: idle connections make room, and where there are none, new ones are refused"
            );
        }
        asked > 0
    }
}
