//! The task that delivers notices: to the log, and to the receiver if there is one; then it has them confirmed.
//!
//! A notice is delivered at least once over all replicas. It is posted until the receiver takes it, and confirmed until the
//! ledger has that; before each attempt that may not be the first one, the ledger is asked whether another replica was
//! faster. What does not fit in the queue, or is left at the end, is not confirmed, so a replica finds it again.

use std::{
    fmt::Display,
    iter,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    notification,
    queue::{Delivery, DeliveryQueue, DeliveryStep, StepResult},
    webhook::Webhook,
};
use crate::{
    ledger::{Ledger, LedgerError, Notice, NoticeOrigin},
    telemetry::{
        log_limited,
        metrics::{Metrics, NotificationResult},
    },
};

/// How long an answer of the ledger is waited for.
const LEDGER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the end waits for what is due.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The ledger's marks of the notices that were delivered.
pub trait NoticeMarks: Send + Sync {
    /// Why a mark can't be read or set.
    type Error: Display + Send;

    /// Whether a replica has confirmed the notice.
    fn is_confirmed(
        &self,
        notice: &Notice,
    ) -> impl Future<Output = Result<bool, Self::Error>> + Send;

    /// Confirms the notice: no replica finds it again.
    fn confirm(&self, notice: &Notice) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

impl NoticeMarks for Ledger {
    type Error = LedgerError;

    async fn is_confirmed(&self, notice: &Notice) -> Result<bool, LedgerError> {
        Ledger::is_confirmed(self, notice).await
    }

    async fn confirm(&self, notice: &Notice) -> Result<(), LedgerError> {
        self.confirm_notice(notice).await
    }
}

/// The notices that this replica delivers (docs/CONTRACT.md, "Notifications"). Cheap to clone.
#[derive(Clone)]
pub struct Deliveries {
    state: Arc<DeliveryState>,
}

struct DeliveryState {
    queue: Mutex<DeliveryQueue>,
    added: Notify,
    metrics: Metrics,
}

/// What delivers and confirms.
struct DeliveryTask<'d, M> {
    deliveries: &'d Deliveries,
    webhook: Option<Webhook>,
    marks: M,
}

impl Deliveries {
    /// An empty queue.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        let state = DeliveryState {
            queue: Mutex::default(),
            added: Notify::new(),
            metrics,
        };
        Self {
            state: Arc::new(state),
        }
    }

    /// Queues a notice, unless it is queued already. Never waits. If 10,000 notices wait, it is left out.
    pub fn add(&self, notice: Notice, origin: NoticeOrigin) {
        let (is_queued, waiting) = {
            let mut queue = self.queue();
            (queue.add(notice, origin), queue.len())
        };
        let metrics = &self.state.metrics;
        metrics.notifications_waiting(waiting);
        if is_queued {
            self.state.added.notify_one();
        } else {
            metrics.notified(NotificationResult::LeftOut);
            log_limited!(
                warn,
                waiting,
                "too many notifications wait: further ones are left until they are found again"
            );
        }
    }

    /// Delivers what is added, and has `marks` confirm it, until the service stops; then, for at most 5 s, what is due.
    /// Without a receiver, the log line is the delivery.
    pub async fn run(
        &self,
        webhook: Option<Webhook>,
        marks: impl NoticeMarks,
        stopping: CancellationToken,
    ) {
        let task = DeliveryTask {
            deliveries: self,
            webhook,
            marks,
        };
        let mut steps = FuturesUnordered::new();
        loop {
            steps.extend(iter::from_fn(|| task.take_due()).map(|it| task.step(it)));
            let now = Instant::now();
            let next_due = self.queue().next_due(now);
            tokio::select! {
                Some(()) = steps.next() => {}
                () = self.state.added.notified() => {}
                () = sleep_until(next_due.unwrap_or(now)), if next_due.is_some() => {}
                () = stopping.cancelled() => break,
            }
        }
        let drain = async {
            loop {
                steps.extend(iter::from_fn(|| task.take_due()).map(|it| task.step(it)));
                if steps.next().await.is_none() {
                    break;
                }
            }
        };
        let _ = timeout(DRAIN_TIMEOUT, drain).await;
        let left = self.queue().len();
        if left > 0 {
            tracing::info!(
                left,
                "notifications are left for another replica, or the next start"
            );
        }
    }

    fn queue(&self) -> MutexGuard<'_, DeliveryQueue> {
        let queue = self.state.queue.lock();
        queue.unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: NoticeMarks> DeliveryTask<'_, M> {
    /// The next delivery that is due.
    fn take_due(&self) -> Option<Delivery> {
        self.deliveries.queue().take(Instant::now())
    }

    /// Makes the next step of a delivery, and queues what is left to do.
    async fn step(&self, mut delivery: Delivery) {
        let result = match delivery.step {
            DeliveryStep::Post => self.deliver(&mut delivery).await,
            DeliveryStep::Confirm => self.confirm(&delivery.notice).await,
        };
        let waiting = {
            let mut queue = self.deliveries.queue();
            queue.finish(Instant::now(), delivery, result);
            queue.len()
        };
        self.metrics().notifications_waiting(waiting);
    }

    async fn deliver(&self, delivery: &mut Delivery) -> StepResult {
        let notice = &delivery.notice;
        if delivery.needs_check {
            match within_timeout(self.marks.is_confirmed(notice)).await {
                Ok(true) => return StepResult::Obsolete,
                Ok(false) => {}
                Err(error) => return ledger_failed(&error),
            }
        }
        if !delivery.is_logged {
            notification::log(notice);
            delivery.is_logged = true;
        }
        if let Some(webhook) = &self.webhook
            && let Err(error) = webhook.post(notice).await
        {
            self.metrics().notified(NotificationResult::Failed);
            let receiver = webhook.url();
            log_limited!(warn, %receiver, %error, "a notification can't be delivered: it is repeated");
            let retry_after = error.retry_after();
            return StepResult::ReceiverFailed { retry_after };
        }
        self.metrics().notified(NotificationResult::Delivered);
        StepResult::Done
    }

    async fn confirm(&self, notice: &Notice) -> StepResult {
        match within_timeout(self.marks.confirm(notice)).await {
            Ok(()) => StepResult::Done,
            Err(error) => ledger_failed(&error),
        }
    }

    fn metrics(&self) -> &Metrics {
        &self.deliveries.state.metrics
    }
}

/// The ledger's answer, or in words why there is none.
async fn within_timeout<T, E: Display>(
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, String> {
    match timeout(LEDGER_TIMEOUT, answer).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err("the ledger does not answer".to_owned()),
    }
}

fn ledger_failed(error: &str) -> StepResult {
    log_limited!(
        warn,
        error,
        "marks of notifications can't be read or confirmed: that is repeated"
    );
    StepResult::LedgerFailed
}
