//! The queue of one organization.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use super::{LedgerError, api::Request};
use crate::{
    store::{Batch, CallLimits, Outcome, Timestamped},
    telemetry::traces::Span,
};

/// The result that a caller waits for.
pub(super) type DecisionResult = Result<Timestamped<Outcome>, LedgerError>;

/// A request that waits for the store.
pub(super) struct Pending {
    pub(super) request: Request,
    pub(super) waiter: Waiter,
}

/// The caller that waits for a reply.
pub(super) struct Waiter {
    pub(super) reply: oneshot::Sender<DecisionResult>,
    /// The span of its call, if that is traced.
    pub(super) span: Option<Span>,
}

/// How much more fits in a call.
pub(super) struct CallBudget {
    requests: usize,
    bytes: usize,
}

impl CallBudget {
    pub(super) fn new(limits: CallLimits) -> Self {
        Self {
            requests: limits.operations,
            bytes: limits.bytes,
        }
    }

    pub(super) fn is_spent(&self) -> bool {
        self.requests == 0 || self.bytes == 0
    }

    fn allows(&self, request: &Request) -> bool {
        self.requests > 0 && request.bytes() <= self.bytes
    }

    fn spend(&mut self, request: &Request) {
        self.requests = self.requests.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(request.bytes());
    }
}

/// An organization's pending requests, in the order of their arrival.
#[derive(Default)]
pub(super) struct OrgQueue {
    pending: VecDeque<Pending>,
}

impl OrgQueue {
    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn push(&mut self, pending: Pending) {
        self.pending.push_back(pending);
    }

    /// Takes a batch of requests within the budget, the first even beyond it. Drops those whose callers have gone away.
    pub(super) fn take(&mut self, budget: &mut CallBudget) -> Vec<Pending> {
        let mut taken = Vec::new();
        while let Some(Pending { request, waiter }) = self.pending.front() {
            let is_wanted = !waiter.reply.is_closed();
            let is_full = taken.len() == Batch::MAX_OPERATIONS || !budget.allows(request);
            if is_wanted && is_full && !taken.is_empty() {
                break;
            }
            let next = self.pending.pop_front();
            if let Some(next) = next.filter(|_| is_wanted) {
                budget.spend(&next.request);
                taken.push(next);
            }
        }
        taken
    }
}
