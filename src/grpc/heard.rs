//! What was heard of a caller: whether it said anything, and whether it hung up.
//!
//! tonic takes a request that its caller cut off for one that is over, and answers that its message is missing:
//! INTERNAL, as if the service were to blame. Who counts calls must know better.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, ready},
};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use prost::bytes::Buf;

/// Of one call. Whoever takes the call from its connection puts it into the request's extensions, and reads the
/// body through [`Heard::body`].
#[derive(Debug, Clone, Default)]
pub struct Heard(Arc<AtomicU8>);

const SPOKE: u8 = 1;
const HUNG_UP: u8 = 2;

impl Heard {
    /// The body, as it is heard from now on.
    pub fn body<B>(&self, body: B) -> HeardBody<B> {
        HeardBody {
            body,
            heard: self.clone(),
        }
    }

    /// Whether the caller said anything at all.
    pub(super) fn spoke(&self) -> bool {
        self.0.load(Ordering::Relaxed) & SPOKE != 0
    }

    /// Whether the caller cancelled the call before it had said everything.
    #[must_use]
    pub fn hung_up(&self) -> bool {
        self.0.load(Ordering::Relaxed) & HUNG_UP != 0
    }
}

pin_project! {
    /// A request's body.
    #[derive(Debug)]
    pub struct HeardBody<B> {
        #[pin]
        body: B,
        heard: Heard,
    }
}

impl<B: Body> Body for HeardBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.project();
        let frame = ready!(this.body.poll_frame(cx));
        let Heard(heard) = this.heard;
        match &frame {
            Some(Ok(frame)) if frame.data_ref().is_some_and(Buf::has_remaining) => {
                heard.fetch_or(SPOKE, Ordering::Relaxed);
            }
            Some(Err(_)) => {
                heard.fetch_or(HUNG_UP, Ordering::Relaxed);
            }
            _ => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
