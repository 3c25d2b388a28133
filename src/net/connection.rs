//! The lifetime of one connection: its handshake timeout, idle timeout, maximum age, and graceful close.

use std::{
    error::Error as _,
    future::pending,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use hyper_util::server::graceful::GracefulConnection;
use tokio::{
    sync::SetOnce,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{calls::Calls, driver::ConnectionDriver, limits::Limits};
use crate::telemetry::metrics::{CloseReason, ConnectionRefusal};

/// How long a closing connection may take to exchange GOAWAY; shorter if it makes room for another.
const GOAWAY_GRACE: Duration = Duration::from_millis(250);
const SHORT_GOAWAY_GRACE: Duration = Duration::from_millis(5);

/// The extra time while calls are open.
const CALL_GRACE: Duration = Duration::from_secs(2);
const SHORT_CALL_GRACE: Duration = Duration::from_millis(250);

/// The state of one connection, shared by its task, its calls and the limiter.
pub(crate) struct ConnectionState {
    started: Instant,
    open_calls: AtomicUsize,
    /// When the last call ended, in milliseconds since `started`.
    idle_since: AtomicU64,
    /// Whether its first frame of HTTP/2 or its first request has arrived.
    has_begun: AtomicBool,
    /// Why it must close; the first reason stays.
    close_reason: SetOnce<CloseReason>,
}

/// Counts a call as open until dropped.
pub(crate) struct OpenCall(Arc<ConnectionState>);

impl ConnectionState {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            open_calls: AtomicUsize::new(0),
            idle_since: AtomicU64::new(0),
            has_begun: AtomicBool::new(false),
            close_reason: SetOnce::new(),
        }
    }

    /// When the last call ended; none while a call is open.
    fn idle_since(&self) -> Option<Instant> {
        let idle = self.open_calls.load(Ordering::Relaxed) == 0;
        idle.then(|| self.started + Duration::from_millis(self.idle_since.load(Ordering::Relaxed)))
    }

    /// Like [`Self::idle_since`], but none once it must close.
    pub(crate) fn evictable_since(&self) -> Option<Instant> {
        let is_closing = self.close_reason.initialized();
        self.idle_since().filter(|_| !is_closing)
    }

    /// Waits until no call has been open for this long.
    async fn idle_for(&self, time: Duration) {
        loop {
            let since = self.idle_since().unwrap_or_else(Instant::now);
            if since.elapsed() >= time {
                return;
            }
            sleep_until(since + time).await;
        }
    }

    pub(crate) fn set_begun(&self) {
        self.has_begun.store(true, Ordering::Relaxed);
    }

    fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }

    /// Requests that the connection closes. False if that was requested before.
    pub(crate) fn request_close(&self, why: CloseReason) -> bool {
        self.close_reason.set(why).is_ok()
    }

    pub(crate) fn is_making_room(&self) -> bool {
        self.close_reason.get() == Some(&CloseReason::MadeRoom)
    }

    /// Waits until a close is requested, and returns the reason.
    pub(crate) async fn close_requested(&self) -> CloseReason {
        *self.close_reason.wait().await
    }
}

impl OpenCall {
    pub(crate) fn new(state: &Arc<ConnectionState>) -> Self {
        state.set_begun();
        state.open_calls.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(state))
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let Self(state) = self;
        if state.open_calls.fetch_sub(1, Ordering::Relaxed) == 1 {
            let since = state.started.elapsed().as_millis();
            let since = u64::try_from(since).unwrap_or(u64::MAX);
            state.idle_since.store(since, Ordering::Relaxed);
        }
    }
}

/// Drives a connection and its calls until it is closed.
pub(crate) async fn serve(
    connection: impl GracefulConnection<Error = hyper::Error>,
    calls: Calls,
    state: &ConnectionState,
    limits: &Limits,
    stop: &CancellationToken,
) -> Result<CloseReason, ConnectionRefusal> {
    let mut connection = ConnectionDriver::new(connection, calls);
    let not_begun = async {
        sleep(limits.handshake_time).await;
        if state.has_begun() {
            pending().await
        }
    };
    let mut closes = pin!(async {
        tokio::select! {
            why = state.close_requested() => Ok(why),
            () = state.idle_for(limits.idle_time) => Ok(CloseReason::Idle),
            () = not_begun => Err(ConnectionRefusal::HandshakeTimeout),
        }
    });
    let mut drains = pin!(async {
        tokio::select! {
            () = stop.cancelled() => CloseReason::Stopping,
            () = sleep(jittered(limits.connection_age)) => CloseReason::Age,
        }
    });
    // Set once GOAWAY is sent. The open calls continue under the same limits.
    let mut draining = None;
    let why = loop {
        tokio::select! {
            ended = &mut connection => {
                return draining.map_or_else(|| unrequested_end(ended, state), Ok);
            }
            why = &mut closes => break why?,
            why = &mut drains, if draining.is_none() => {
                draining = Some(why);
                connection.graceful_shutdown();
            }
        }
    };
    connection.graceful_shutdown();
    let (goaway_grace, call_grace) = match why {
        CloseReason::MadeRoom => (SHORT_GOAWAY_GRACE, SHORT_CALL_GRACE),
        _ => (GOAWAY_GRACE, CALL_GRACE),
    };
    let closed = timeout(goaway_grace, &mut connection).await.is_ok();
    if !closed && state.idle_since().is_none() {
        let _ = timeout(call_grace, connection).await;
    }
    Ok(why)
}

/// Why a connection ended that this service did not close.
fn unrequested_end(
    ended: Result<(), hyper::Error>,
    state: &ConnectionState,
) -> Result<CloseReason, ConnectionRefusal> {
    match ended {
        Ok(()) => Ok(CloseReason::ByCaller),
        // The timeout of HTTP/1 headers has no source; that of HTTP/2 pings has one.
        Err(error) if error.is_timeout() && error.source().is_none() => {
            if state.has_begun() {
                Ok(CloseReason::Idle)
            } else {
                Err(ConnectionRefusal::HandshakeTimeout)
            }
        }
        Err(_) => Ok(CloseReason::Error),
    }
}

/// Changes an age by a random share of up to 10 %.
fn jittered(age: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 201;
    age.mul_f64(0.9 + random as f64 / 1_000.0)
}
