//! The task that delivers notices: to the log, and to the receiver if there is one; then it has them confirmed.
//!
//! A notice is delivered at least once over all replicas. It is posted until the receiver takes it, and confirmed until the
//! ledger has that; before each attempt that may not be the first one, the ledger is asked whether another replica was
//! faster. What does not fit in the queue, or is left at the end, is not confirmed, so a replica finds it again. The log
//! line waits for no receiver.

use std::{
    fmt::Display,
    iter,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
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

/// The pause after a panic.
const RESTART_DELAY: Duration = Duration::from_secs(1);

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

/// A step under way. Without another result it has failed when it is dropped, as in a panic.
struct DeliveryAttempt<'d> {
    deliveries: &'d Deliveries,
    delivery: Option<Delivery>,
    result: StepResult,
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

    /// Queues a notice, unless it is queued already, and logs it, if this replica decided. Never waits. If 10,000 notices
    /// wait, one of an earlier day is dropped, or this one is left out.
    pub fn add(&self, notice: Notice, origin: NoticeOrigin) {
        let mut queue = self.queue();
        let is_new = queue.add(Instant::now(), &notice, origin);
        self.report(queue);
        if is_new && origin == NoticeOrigin::Decided {
            notification::log(&notice);
        }
        self.state.added.notify_one();
    }

    /// Delivers what is added, and has `marks` confirm it, until the service stops; then, for at most 5 s, what is due.
    /// Without a receiver, the log line is the delivery. After a panic it goes on with what is queued.
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
        while AssertUnwindSafe(task.run(&stopping))
            .catch_unwind()
            .await
            .is_err()
        {
            task.metrics().notified(NotificationResult::Failed);
            tracing::error!("the delivery of notifications has panicked: it is restarted");
            if stopping.is_cancelled() {
                break;
            }
            let _ = timeout(RESTART_DELAY, stopping.cancelled()).await;
        }
        let left = self.queue().len();
        if left > 0 {
            tracing::info!(
                left,
                "notifications are left for another replica, or the next start"
            );
        }
    }

    /// Reports how many wait, and what was left out.
    fn report(&self, mut queue: MutexGuard<'_, DeliveryQueue>) {
        let (waiting, left_out) = (queue.len(), queue.take_left_out());
        drop(queue);
        let metrics = &self.state.metrics;
        metrics.notifications_waiting(waiting);
        for _ in 0..left_out {
            metrics.notified(NotificationResult::LeftOut);
        }
        if left_out > 0 {
            log_limited!(
                warn,
                waiting,
                "notifications are not posted: too many wait, or their day is over"
            );
        }
    }

    fn queue(&self) -> MutexGuard<'_, DeliveryQueue> {
        let queue = self.state.queue.lock();
        queue.unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: NoticeMarks> DeliveryTask<'_, M> {
    /// Delivers until the service stops, then what is due.
    async fn run(&self, stopping: &CancellationToken) {
        let mut steps = FuturesUnordered::new();
        loop {
            steps.extend(iter::from_fn(|| self.take_due()).map(|it| self.step(it)));
            let now = Instant::now();
            let next_due = self.deliveries.queue().next_due(now);
            tokio::select! {
                Some(()) = steps.next() => {}
                () = self.deliveries.state.added.notified() => {}
                () = sleep_until(next_due.unwrap_or(now)), if next_due.is_some() => {}
                () = stopping.cancelled() => break,
            }
        }
        let drain = async {
            loop {
                steps.extend(iter::from_fn(|| self.take_due()).map(|it| self.step(it)));
                if steps.next().await.is_none() {
                    break;
                }
            }
        };
        let _ = timeout(DRAIN_TIMEOUT, drain).await;
    }

    /// The next delivery that is due.
    fn take_due(&self) -> Option<DeliveryAttempt<'_>> {
        let (mut queue, now) = (self.deliveries.queue(), Instant::now());
        queue.drop_expired(now);
        let delivery = queue.take(now);
        self.deliveries.report(queue);
        Some(DeliveryAttempt {
            deliveries: self.deliveries,
            delivery: Some(delivery?),
            result: StepResult::Failed { retry_after: None },
        })
    }

    /// Makes the next step of a delivery.
    async fn step(&self, mut attempt: DeliveryAttempt<'_>) {
        let Some(delivery) = &mut attempt.delivery else {
            return;
        };
        attempt.result = match delivery.step {
            DeliveryStep::Check => self.check(delivery).await,
            DeliveryStep::Post => self.post(&delivery.notice).await,
            DeliveryStep::Confirm => self.confirm(&delivery.notice).await,
        };
    }

    /// Asks whether the notice still is to be delivered. One that this replica has not logged is logged then.
    async fn check(&self, delivery: &mut Delivery) -> StepResult {
        let notice = &delivery.notice;
        match within_timeout(self.marks.is_confirmed(notice)).await {
            Ok(true) => return StepResult::Obsolete,
            Ok(false) if delivery.is_expired(Instant::now()) => return StepResult::Expired,
            Ok(false) => {}
            Err(error) => return ledger_failed(&error),
        }
        if !delivery.is_logged {
            notification::log(notice);
            delivery.is_logged = true;
        }
        StepResult::Done
    }

    async fn post(&self, notice: &Notice) -> StepResult {
        if let Some(webhook) = &self.webhook
            && let Err(error) = webhook.post(notice).await
        {
            self.metrics().notified(NotificationResult::Failed);
            let receiver = webhook.url();
            log_limited!(warn, %receiver, %error, "a notification can't be delivered: it is repeated");
            let retry_after = error.retry_after();
            return StepResult::Failed { retry_after };
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

impl Drop for DeliveryAttempt<'_> {
    fn drop(&mut self) {
        if let Some(delivery) = self.delivery.take() {
            let mut queue = self.deliveries.queue();
            queue.finish(Instant::now(), delivery, self.result);
            self.deliveries.report(queue);
        }
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
    StepResult::Failed { retry_after: None }
}
