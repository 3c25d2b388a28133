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

use super::{activity::Activity, bounds::Bounds};
use crate::telemetry::metrics::Closing;

/// A connection that ends has this long to do so as HTTP/2 wants it, and one that makes room so much as it takes
/// to tell its caller.
const FAREWELL: Duration = Duration::from_millis(250);
const SHORT_FAREWELL: Duration = Duration::from_millis(5);

/// Where calls are open then, or came meanwhile, they have so much longer; where room is wanted, less.
const LAST_CALLS: Duration = Duration::from_secs(2);
const SHORT_LAST_CALLS: Duration = Duration::from_millis(250);

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It did not begin as it should.
    Handshake,
    /// It did not begin in time.
    Slow,
    /// Of one that had begun.
    Closed(Closing),
}

/// Serves a connection to its end.
pub(crate) async fn serve(
    connection: impl GracefulConnection<Error = hyper::Error>,
    activity: &Activity,
    bounds: &Bounds,
    stop: &CancellationToken,
) -> End {
    let mut connection = pin!(connection);
    let mut begins_until = pin!(sleep(bounds.handshake_time));
    let mut ages = pin!(sleep(more_or_less(bounds.connection_age)));
    let mut idles = pin!(sleep(bounds.idle_time));
    let mut begins = true;
    // Why it was told to go, where it may go on until its calls have ended. It is as bound as ever meanwhile.
    let mut goes = None;
    let end = loop {
        let may_stay = goes.is_none();
        tokio::select! {
            ended = turn_by_turn(connection.as_mut(), activity) => {
                return goes.map_or_else(|| ended_by(ended, activity), End::Closed);
            }
            why = activity.is_to_leave() => break why,
            () = stop.cancelled(), if may_stay => goes = Some(Closing::Stopping),
            () = &mut ages, if may_stay => goes = Some(Closing::Age),
            () = &mut begins_until, if begins => {
                if !activity.has_spoken() {
                    return End::Slow;
                }
                begins = false;
            }
            () = &mut idles => {
                let since = activity.idle_since().unwrap_or_else(Instant::now);
                if since.elapsed() >= bounds.idle_time {
                    break Closing::Idle;
                }
                idles.as_mut().reset(since + bounds.idle_time);
            }
        }
        if may_stay && goes.is_some() {
            connection.as_mut().graceful_shutdown();
        }
    };
    if goes.is_none() {
        connection.as_mut().graceful_shutdown();
    }
    leave(connection, activity, end).await;
    End::Closed(end)
}

/// Gives a connection that was told to go the time that it needs for that.
async fn leave(connection: Pin<&mut impl GracefulConnection>, activity: &Activity, why: Closing) {
    let (farewell, last_calls) = match why {
        Closing::MadeRoom => (SHORT_FAREWELL, SHORT_LAST_CALLS),
        _ => (FAREWELL, LAST_CALLS),
    };
    let mut ending = pin!(turn_by_turn(connection, activity));
    let left = timeout(farewell, ending.as_mut()).await.is_ok();
    if !left && activity.idle_since().is_none() {
        let _ = timeout(last_calls, ending).await;
    }
}

/// Drives a connection, and counts its turns.
async fn turn_by_turn<C: GracefulConnection>(
    mut connection: Pin<&mut C>,
    activity: &Activity,
) -> Result<(), C::Error> {
    poll_fn(|cx| {
        activity.has_a_turn();
        connection.as_mut().poll(cx)
    })
    .await
}

/// Why a connection ended that was not told to.
fn ended_by(ended: Result<(), hyper::Error>, activity: &Activity) -> End {
    match ended {
        Ok(()) => End::Closed(Closing::ByCaller),
        // HTTP/1's headers did not come in time. Where HTTP/2's pings are not answered, the error has a cause.
        Err(error) if error.is_timeout() && error.source().is_none() => {
            if activity.has_called() {
                End::Closed(Closing::Idle)
            } else {
                End::Slow
            }
        }
        Err(_) => End::Closed(Closing::Error),
    }
}

/// A tenth more or less.
fn more_or_less(age: Duration) -> Duration {
    let dice = RandomState::new().build_hasher().finish() % 201;
    let share = 0.9 + f64::from(u32::try_from(dice).unwrap_or(100)) / 1_000.0;
    age.mul_f64(share)
}
