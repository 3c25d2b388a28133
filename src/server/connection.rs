//! One connection's life: it begins in time, serves, and ends when its caller, its age or the service says so.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    pin::pin,
    time::Duration,
};

use hyper_util::server::graceful::GracefulConnection;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{activity::Activity, bounds::Bounds};
use crate::metrics::Closing;

/// An idle connection has this long to end as HTTP/2 wants it, and one that is to make room so much as it takes
/// to tell its caller.
const FAREWELL: Duration = Duration::from_millis(250);
const SHORT_FAREWELL: Duration = Duration::from_millis(5);

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It did not begin as it should.
    Handshake,
    /// It did not begin in time.
    Slow,
    /// Of one that had begun.
    Closed(Closing),
}

/// Serves a connection to its end.
pub(super) async fn serve(
    connection: impl GracefulConnection,
    activity: &Activity,
    bounds: &Bounds,
    stop: &CancellationToken,
) -> End {
    let mut connection = pin!(connection);
    let mut begins_until = pin!(sleep(bounds.handshake_time));
    let mut ages = pin!(sleep(more_or_less(bounds.connection_age)));
    let mut idles = pin!(sleep(bounds.idle_time));
    let mut begins = true;
    // The first one asks for a graceful end, and the connection goes on until its calls have ended.
    let end = loop {
        tokio::select! {
            ended = connection.as_mut() => {
                let why = ended.map_or(Closing::Error, |()| Closing::ByCaller);
                return End::Closed(why);
            }
            () = stop.cancelled() => break Closing::Stopping,
            () = activity.room_is_wanted() => break Closing::MadeRoom,
            () = activity.too_much_is_cancelled() => break Closing::Cancelling,
            () = &mut ages => break Closing::Age,
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
    };
    connection.as_mut().graceful_shutdown();
    let farewell = match end {
        Closing::MadeRoom => SHORT_FAREWELL,
        Closing::Idle | Closing::Cancelling => FAREWELL,
        _ => {
            // A caller that does not answer any more is found out by HTTP/2's pings.
            let _ = connection.await;
            return End::Closed(end);
        }
    };
    let _ = timeout(farewell, connection).await;
    End::Closed(end)
}

/// A tenth more or less.
fn more_or_less(age: Duration) -> Duration {
    let dice = RandomState::new().build_hasher().finish() % 201;
    let share = 0.9 + f64::from(u32::try_from(dice).unwrap_or(100)) / 1_000.0;
    age.mul_f64(share)
}
