//! Delivers the ledger's notices while the service runs.

use std::sync::Arc;

use tokio::time::{Instant, timeout_at};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    ledger::{Ledger, NoticeSink},
    notify::{Deliveries, Webhook, WebhookUrl},
    telemetry::metrics::Metrics,
};

/// What delivers notices, not running yet.
pub(super) struct Notifier {
    deliveries: Deliveries,
    webhook: Option<Webhook>,
}

/// The task that delivers notices.
pub(super) struct NotifierTask {
    stopping: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Notifier {
    /// Posts to this receiver; none: notices are only logged.
    pub(super) fn new(receiver: Option<&WebhookUrl>, metrics: &Metrics) -> anyhow::Result<Self> {
        let webhook = receiver.map(|url| Webhook::new(url, Webhook::TIMEOUT));
        Ok(Self {
            deliveries: Deliveries::new(metrics.clone()),
            webhook: webhook.transpose()?,
        })
    }

    /// Takes the ledger's notices.
    pub(super) fn sink(&self) -> NoticeSink {
        let deliveries = self.deliveries.clone();
        Arc::new(move |notice, origin| deliveries.add(notice, origin))
    }

    /// Starts to deliver.
    pub(super) fn start(self, ledger: Ledger) -> NotifierTask {
        let stopping = CancellationToken::new();
        let stopped = stopping.clone();
        let task = tokio::spawn(async move {
            self.deliveries.run(self.webhook, ledger, stopped).await;
        });
        NotifierTask {
            stopping,
            task: AbortOnDropHandle::new(task),
        }
    }
}

impl NotifierTask {
    /// Delivers what is due, until the deadline. The ledger must still work.
    pub(super) async fn end(self, deadline: Instant) {
        self.stopping.cancel();
        let _ = timeout_at(deadline, self.task).await;
    }
}
