//! Runs one attempt at a time for all callers.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

use crate::store::StoreError;

/// Lets one caller at a time connect, search for the master or fetch the slots. Callers that waited through a
/// whole attempt share its result: if a server hangs, they would otherwise wait for one timeout after another.
pub(crate) struct SingleFlight {
    /// How long the result of an attempt is shared after its end: an outage must not keep the remaining servers
    /// busy.
    shared_for: Duration,
    last: Mutex<Option<Attempt>>,
}

struct Attempt {
    began_at: Instant,
    ended_at: Instant,
    failure: Option<StoreError>,
}

impl SingleFlight {
    pub(crate) fn new(shared_for: Duration) -> Self {
        Self {
            shared_for,
            last: Mutex::new(None),
        }
    }

    /// Runs the attempt, unless `found` returns its result. `found` gets whether the shared attempt succeeded.
    /// `needed_at` is when the caller first needed the result.
    pub(crate) async fn run<T>(
        &self,
        needed_at: Instant,
        found: impl Fn(bool) -> Option<T>,
        attempt: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let mut last = self.last.lock().await;
        let shared = last
            .as_ref()
            .filter(|last| last.began_at >= needed_at || last.ended_at.elapsed() < self.shared_for);
        let failure = shared.and_then(|last| last.failure.clone());
        if let Some(found) = found(shared.is_some() && failure.is_none()) {
            return Ok(found);
        }
        if let Some(failure) = failure {
            return Err(failure);
        }
        let began_at = Instant::now();
        let result = attempt.await;
        *last = Some(Attempt {
            began_at,
            ended_at: Instant::now(),
            failure: result.as_ref().err().cloned(),
        });
        result
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::future::join_all;

    use super::*;

    fn failure() -> StoreError {
        let reason = "connection refused".to_owned();
        StoreError::Unreachable { reason }
    }

    /// Three callers at a time, then a fourth: how many attempts there were, and what each got.
    async fn run_four(
        flight: &SingleFlight,
        found: impl Fn(bool) -> Option<u32>,
        result: Result<u32, StoreError>,
    ) -> (u32, Vec<Result<u32, StoreError>>) {
        let attempts = Cell::new(0);
        let run = || {
            let needed_at = Instant::now();
            flight.run(needed_at, &found, async {
                tokio::task::yield_now().await;
                attempts.set(attempts.get() + 1);
                result.clone()
            })
        };
        let mut results = join_all([run(), run(), run()]).await;
        results.push(run().await);
        (attempts.get(), results)
    }

    #[tokio::test]
    async fn callers_that_waited_through_a_failed_attempt_share_it_and_later_ones_try_again() {
        let flight = SingleFlight::new(Duration::ZERO);
        let (attempts, results) = run_four(&flight, |_| None, Err(failure())).await;
        assert_eq!(attempts, 2);
        assert_eq!(results, vec![Err(failure()); 4]);
    }

    #[tokio::test]
    async fn nobody_tries_again_while_a_failure_is_shared() {
        let flight = SingleFlight::new(Duration::from_secs(3600));
        let (attempts, results) = run_four(&flight, |_| None, Err(failure())).await;
        assert_eq!(attempts, 1);
        assert_eq!(results, vec![Err(failure()); 4]);
    }

    #[tokio::test]
    async fn callers_that_waited_share_the_result_of_an_attempt() {
        let flight = SingleFlight::new(Duration::from_secs(3600));
        let shared = |is_shared: bool| is_shared.then_some(7);
        let (attempts, results) = run_four(&flight, shared, Ok(7)).await;
        assert_eq!((attempts, results), (1, vec![Ok(7); 4]));
    }

    #[tokio::test]
    async fn a_result_that_exists_outweighs_a_shared_failure() {
        let flight = SingleFlight::new(Duration::from_secs(3600));
        let (attempts, _) = run_four(&flight, |_| None, Err(failure())).await;
        let (more, results) = run_four(&flight, |_| Some(7), Err(failure())).await;
        assert_eq!((attempts, more, results), (1, 0, vec![Ok(7); 4]));
    }
}
