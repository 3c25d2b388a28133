//! What was heard of a call that ends early: whether its caller hung up, or it was late.
//!
//! tonic takes a request that its caller cut off for one that is over, and answers that its message is missing.
//! And where a call is ended at its deadline, those who count it are within, and see only that it is dropped.

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

/// Of one call. Whoever takes the call from its connection puts it into the request's extensions, and reads the
/// body through [`Heard::body`].
#[derive(Debug, Clone, Default)]
pub struct Heard(Arc<AtomicU8>);

const HUNG_UP: u8 = 1;
const LATE: u8 = 2;

impl Heard {
    /// The body, as it is heard from now on.
    pub fn body<B>(&self, body: B) -> HeardBody<B> {
        HeardBody {
            body,
            heard: self.clone(),
        }
    }

    /// Whether the caller cancelled the call before it had said everything.
    pub(super) fn hung_up(&self) -> bool {
        self.is(HUNG_UP)
    }

    /// Whether the call was ended at its deadline.
    pub(super) fn was_late(&self) -> bool {
        self.is(LATE)
    }

    /// The call is ended at its deadline.
    pub(super) fn ends_late(&self) {
        self.mark(LATE);
    }

    fn is(&self, mark: u8) -> bool {
        self.0.load(Ordering::Relaxed) & mark != 0
    }

    fn mark(&self, mark: u8) {
        self.0.fetch_or(mark, Ordering::Relaxed);
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
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        match &frame {
            Some(Ok(_)) => {}
            // A call that is cancelled without an error looks as if it were over.
            None if this.body.is_end_stream() => {}
            None | Some(Err(_)) => this.heard.mark(HUNG_UP),
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
