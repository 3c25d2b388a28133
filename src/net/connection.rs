//! One connection's life: it begins in time, serves, and ends when its caller, its age or the service says so.

use std::{
    error::Error as _,
    future::poll_fn,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    pin::{Pin, pin},
    time::Duration,
};

use hyper_util::server::graceful::GracefulConnection;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{connection_state::ConnectionState, limits::Limits};
use crate::telemetry::metrics::CloseReason;

/// A connection that ends has this long to do so as HTTP/2 wants it, and one that makes room so much as it takes
/// to tell its caller.
const GOAWAY_GRACE: Duration = Duration::from_millis(250);
const SHORT_GOAWAY_GRACE: Duration = Duration::from_millis(5);

/// Where calls are open then, or came meanwhile, they have so much longer; where room is wanted, less.
const CALL_GRACE: Duration = Duration::from_secs(2);
const SHORT_CALL_GRACE: Duration = Duration::from_millis(250);

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectionEnd {
    /// It did not begin as it should.
    Handshake,
    /// It did not begin in time.
    Slow,
    /// Of one that had begun.
    Closed(CloseReason),
}

/// HttpService a connection to its end.
pub(crate) async fn serve(
    connection: impl GracefulConnection<Error = hyper::Error>,
    state: &ConnectionState,
    limits: &Limits,
    stop: &CancellationToken,
) -> ConnectionEnd {
    let mut connection = pin!(connection);
    let mut begins_until = pin!(sleep(limits.handshake_time));
    let mut ages = pin!(sleep(more_or_less(limits.connection_age)));
    let mut idles = pin!(sleep(limits.idle_time));
    let mut begins = true;
    // Why it was told to go, where it may go on until its calls have ended. It is as bound as ever meanwhile.
    let mut goes = None;
    let end = loop {
        let may_stay = goes.is_none();
        tokio::select! {
            ended = turn_by_turn(connection.as_mut(), state) => {
                return goes.map_or_else(|| ended_by(ended, state), ConnectionEnd::Closed);
            }
            why = state.is_to_leave() => break why,
            () = stop.cancelled(), if may_stay => goes = Some(CloseReason::Stopping),
            () = &mut ages, if may_stay => goes = Some(CloseReason::Age),
            () = &mut begins_until, if begins => {
                if !state.has_spoken() {
                    return ConnectionEnd::Slow;
                }
                begins = false;
            }
            () = &mut idles => {
                let since = state.idle_since().unwrap_or_else(Instant::now);
                if since.elapsed() >= limits.idle_time {
                    break CloseReason::Idle;
                }
                idles.as_mut().reset(since + limits.idle_time);
            }
        }
        if may_stay && goes.is_some() {
            connection.as_mut().graceful_shutdown();
        }
    };
    if goes.is_none() {
        connection.as_mut().graceful_shutdown();
    }
    leave(connection, state, end).await;
    ConnectionEnd::Closed(end)
}

/// Gives a connection that was told to go the time that it needs for that.
async fn leave(
    connection: Pin<&mut impl GracefulConnection>,
    state: &ConnectionState,
    why: CloseReason,
) {
    let (farewell, last_calls) = match why {
        CloseReason::MadeRoom => (SHORT_GOAWAY_GRACE, SHORT_CALL_GRACE),
        _ => (GOAWAY_GRACE, CALL_GRACE),
    };
    let mut ending = pin!(turn_by_turn(connection, state));
    let left = timeout(farewell, ending.as_mut()).await.is_ok();
    if !left && state.idle_since().is_none() {
        let _ = timeout(last_calls, ending).await;
    }
}

/// Drives a connection, and counts its turns.
async fn turn_by_turn<C: GracefulConnection>(
    mut connection: Pin<&mut C>,
    state: &ConnectionState,
) -> Result<(), C::Error> {
    poll_fn(|cx| {
        state.has_a_turn();
        connection.as_mut().poll(cx)
    })
    .await
}

/// Why a connection ended that was not told to.
fn ended_by(ended: Result<(), hyper::Error>, state: &ConnectionState) -> ConnectionEnd {
    match ended {
        Ok(()) => ConnectionEnd::Closed(CloseReason::ByCaller),
        // HTTP/1's headers did not come in time. Where HTTP/2's pings are not answered, the error has a cause.
        Err(error) if error.is_timeout() && error.source().is_none() => {
            if state.has_called() {
                ConnectionEnd::Closed(CloseReason::Idle)
            } else {
                ConnectionEnd::Slow
            }
        }
        Err(_) => ConnectionEnd::Closed(CloseReason::Error),
    }
}

/// A tenth more or less.
fn more_or_less(age: Duration) -> Duration {
    let dice = RandomState::new().build_hasher().finish() % 201;
    let share = 0.9 + f64::from(u32::try_from(dice).unwrap_or(100)) / 1_000.0;
    age.mul_f64(share)
}
