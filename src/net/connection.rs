//! The lifetime of one connection: its handshake timeout, idle timeout, maximum age, and graceful close.

use std::{
    error::Error as _,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    pin::{Pin, pin},
    time::Duration,
};

use hyper_util::server::graceful::GracefulConnection;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{connection_state::ConnectionState, limits::Limits};
use crate::telemetry::metrics::CloseReason;

/// How long a closing connection may take to exchange GOAWAY; shorter if it makes room for another.
const GOAWAY_GRACE: Duration = Duration::from_millis(250);
const SHORT_GOAWAY_GRACE: Duration = Duration::from_millis(5);

/// The extra time while calls are open.
const CALL_GRACE: Duration = Duration::from_secs(2);
const SHORT_CALL_GRACE: Duration = Duration::from_millis(250);

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectionEnd {
    /// The TLS handshake failed, or the client certificate is invalid.
    Handshake,
    HandshakeTimeout,
    Closed(CloseReason),
}

/// Drives a connection until it is closed.
pub(crate) async fn serve(
    connection: impl GracefulConnection<Error = hyper::Error>,
    state: &ConnectionState,
    limits: &Limits,
    stop: &CancellationToken,
) -> ConnectionEnd {
    let mut connection = pin!(connection);
    let mut handshake_timer = pin!(sleep(limits.handshake_time));
    let mut age_timer = pin!(sleep(jittered(limits.connection_age)));
    let mut idle_timer = pin!(sleep(limits.idle_time));
    let mut in_handshake = true;
    // Set once GOAWAY is sent. The open calls continue under the same limits.
    let mut draining = None;
    let end = loop {
        let is_open = draining.is_none();
        tokio::select! {
            ended = connection.as_mut() => {
                return draining.map_or_else(|| unrequested_end(ended, state), ConnectionEnd::Closed);
            }
            why = state.close_requested() => break why,
            () = stop.cancelled(), if is_open => draining = Some(CloseReason::Stopping),
            () = &mut age_timer, if is_open => draining = Some(CloseReason::Age),
            () = &mut handshake_timer, if in_handshake => {
                if !state.has_begun() {
                    return ConnectionEnd::HandshakeTimeout;
                }
                in_handshake = false;
            }
            () = &mut idle_timer => {
                let since = state.idle_since().unwrap_or_else(Instant::now);
                if since.elapsed() >= limits.idle_time {
                    break CloseReason::Idle;
                }
                idle_timer.as_mut().reset(since + limits.idle_time);
            }
        }
        if is_open && draining.is_some() {
            connection.as_mut().graceful_shutdown();
        }
    };
    if draining.is_none() {
        connection.as_mut().graceful_shutdown();
    }
    close(connection, state, end).await;
    ConnectionEnd::Closed(end)
}

/// Waits until a connection has closed, for at most the grace times.
async fn close(
    mut connection: Pin<&mut impl GracefulConnection>,
    state: &ConnectionState,
    why: CloseReason,
) {
    let (goaway_grace, call_grace) = match why {
        CloseReason::MadeRoom => (SHORT_GOAWAY_GRACE, SHORT_CALL_GRACE),
        _ => (GOAWAY_GRACE, CALL_GRACE),
    };
    let closed = timeout(goaway_grace, connection.as_mut()).await.is_ok();
    if !closed && state.idle_since().is_none() {
        let _ = timeout(call_grace, connection).await;
    }
}

/// Why a connection ended that this service did not close.
fn unrequested_end(ended: Result<(), hyper::Error>, state: &ConnectionState) -> ConnectionEnd {
    match ended {
        Ok(()) => ConnectionEnd::Closed(CloseReason::ByCaller),
        // The timeout of HTTP/1 headers has no source; that of HTTP/2 pings has one.
        Err(error) if error.is_timeout() && error.source().is_none() => {
            if state.has_called() {
                ConnectionEnd::Closed(CloseReason::Idle)
            } else {
                ConnectionEnd::HandshakeTimeout
            }
        }
        Err(_) => ConnectionEnd::Closed(CloseReason::Error),
    }
}

/// Changes an age by a random share of up to 10 %.
fn jittered(age: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 201;
    let share = 0.9 + f64::from(u32::try_from(random).unwrap_or(100)) / 1_000.0;
    age.mul_f64(share)
}
