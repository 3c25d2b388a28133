use std::cell::Cell;

use tokio::time::timeout;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn stamps(bytes: u64) -> FileStamps {
    vec![Ok((1, 2, bytes, (3, 4), (3, 4)))]
}

/// Waits for a report, if each poll sees the next of these sizes, and then the last one. Returns the number of polls.
async fn polls(settled: &mut Option<FileStamps>, sizes: &[u64]) -> Option<usize> {
    let polls = Cell::new(0);
    let poll = || {
        let at = polls.replace(polls.get() + 1);
        std::future::ready(stamps(sizes[at.min(sizes.len() - 1)]))
    };
    let reported = timeout(MINUTE, change(poll, settled)).await;
    reported.ok().map(|()| polls.get())
}

#[tokio::test(start_paused = true)]
async fn a_change_is_reported_once_the_file_is_quiet() {
    let mut settled = None;
    // The last ones have their old stamp after another one: their bytes may differ.
    for sizes in [&[1, 1][..], &[1, 1, 2, 3, 3], &[2, 3, 3]] {
        assert_eq!(polls(&mut settled, sizes).await, Some(sizes.len()));
        assert_eq!(settled.as_ref(), Some(&stamps(sizes[sizes.len() - 1])));
        assert_eq!(polls(&mut settled, &sizes[sizes.len() - 1..]).await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_never_quiet_is_reported_twice_a_second_and_once_more_at_the_end() {
    let mut settled = Some(stamps(0));
    let sizes: Vec<u64> = (1..100).collect();
    for _ in 0..3 {
        let began = Instant::now();
        assert!(polls(&mut settled, &sizes).await.is_some());
        assert!(began.elapsed() < MAX_UNSETTLED * 2);
    }
    let last = polls(&mut settled, &sizes).await.expect("reported") as u64;
    assert_eq!(polls(&mut settled, &[last]).await, Some(2));
    assert_eq!(polls(&mut settled, &[last]).await, None);
}

#[tokio::test]
async fn after_a_signal_a_change_is_reported_again_since_it_may_have_come_during_a_write() {
    let mut watch = FileWatcher::new([PathBuf::from("/")].into());
    assert_eq!(watch.changed().await, ReloadCause::Changed);
    watch.signal.send();
    assert_eq!(watch.changed().await, ReloadCause::Requested);
    assert_eq!(watch.changed().await, ReloadCause::Changed);
}

#[tokio::test]
async fn a_signal_that_was_sent_before_its_receiver_existed_is_received_once() {
    let signal = ReloadSignal::default();
    signal.send();
    let mut later = signal.clone();
    later.received().await;
    let again = timeout(POLL_INTERVAL, later.received()).await;
    assert!(again.is_err());
}
