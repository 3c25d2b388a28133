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
    outcome: Result<(), StoreError>,
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
            .filter(|last| last.began_at >= needed_at || last.ended_at.elapsed() < self.shared_for)
            .map(|last| last.outcome.clone());
        if let Some(found) = found(shared == Some(Ok(()))) {
            return Ok(found);
        }
        if let Some(Err(failure)) = shared {
            return Err(failure);
        }
        let began_at = Instant::now();
        let result = attempt.await;
        *last = Some(Attempt {
            began_at,
            ended_at: Instant::now(),
            outcome: result.as_ref().map(drop).map_err(Clone::clone),
        });
        result
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::future::join_all;

    use super::*;

    /// Three callers at a time, then a fourth: how many attempts there were. All get the same result.
    async fn attempts_of_four(
        flight: &SingleFlight,
        found: impl Fn(bool) -> Option<u32>,
        result: &Result<u32, StoreError>,
    ) -> u32 {
        let attempts = Cell::new(0);
        let run = || {
            flight.run(Instant::now(), &found, async {
                tokio::task::yield_now().await;
                attempts.set(attempts.get() + 1);
                result.clone()
            })
        };
        let mut results = join_all([run(), run(), run()]).await;
        results.push(run().await);
        assert_eq!(results, vec![result.clone(); 4]);
        attempts.get()
    }

    #[tokio::test]
    async fn callers_that_waited_share_the_result_of_an_attempt_and_later_ones_for_a_time() {
        let reason = "connection refused".to_owned();
        let failure = Err(StoreError::Unreachable { reason });
        let hour = Duration::from_secs(3600);
        for (shared_for, attempts) in [(Duration::ZERO, 2), (hour, 1)] {
            let flight = SingleFlight::new(shared_for);
            assert_eq!(
                attempts_of_four(&flight, |_| None, &failure).await,
                attempts
            );
            // A result that exists outweighs a shared failure.
            assert_eq!(attempts_of_four(&flight, |_| Some(7), &Ok(7)).await, 0);
        }
        let flight = SingleFlight::new(hour);
        let shared = |is_shared: bool| is_shared.then_some(7);
        assert_eq!(attempts_of_four(&flight, shared, &Ok(7)).await, 1);
    }
}
