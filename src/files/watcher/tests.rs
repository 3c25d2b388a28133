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
async fn a_change_behind_a_link_is_reported() {
    let dir = tempfile::tempdir().expect("a directory");
    let (here, there) = (dir.path().join("here"), dir.path().join("there"));
    let link = dir.path().join("link");
    fs::write(&here, "one").expect("written");
    std::os::unix::fs::symlink(&here, &link).expect("linked");
    let mut watch = FileWatcher::new([link.clone(), there.clone()].into());
    let signal = watch.signal.clone();
    let mut cause = async || {
        let changed = timeout(Duration::from_secs(10), watch.changed()).await;
        changed.expect("reported in time")
    };
    assert_eq!(cause().await, ReloadCause::Changed);
    for change in [
        (|here, _| fs::write(here, "two")) as fn(&Path, &Path) -> io::Result<()>,
        |_, there| fs::write(there, "three"),
        |here, there| fs::rename(there, here),
        |here, _| fs::remove_file(here),
    ] {
        change(&here, &there).expect("changed");
        assert_eq!(cause().await, ReloadCause::Changed);
    }
    signal.send();
    assert_eq!(cause().await, ReloadCause::Requested);
    // The signal may have come during a write.
    assert_eq!(cause().await, ReloadCause::Changed);
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
