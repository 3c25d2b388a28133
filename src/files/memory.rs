//! Gives the memory that a large file took while it was read back to the system.
//!
//! The allocator (mimalloc) keeps what a thread has freed until the thread ends, and then for a second. After that it
//! gives it back at its next occasion, such as the end of a thread. A server without calls may have none.

use std::{panic, thread, time::Duration};

/// Longer than the allocator keeps free memory.
const RETURN_DELAY: Duration = Duration::from_millis(1_500);

/// Runs on a thread of its own, and waits for its end.
pub(super) fn on_own_thread<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    let done = thread::scope(|scope| scope.spawn(run).join());
    done.unwrap_or_else(|panicked| panic::resume_unwind(panicked))
}

/// Gives back soon what has been freed by threads that have ended.
pub(crate) fn return_freed() {
    let thread = thread::Builder::new().name("memory".to_owned());
    // Without a thread, the next calls do it.
    let _ = thread.spawn(|| {
        thread::sleep(RETURN_DELAY);
        // The allocator looks for what to give back only as a thread ends that has allocated.
        drop(std::hint::black_box(Box::new(0_u8)));
    });
}
