use super::*;

fn stamps(bytes: u64) -> FileStamps {
    vec![Ok(FileStamp {
        device: 1,
        inode: 2,
        bytes,
        modified_at: (3, 4),
        changed_at: (3, 4),
    })]
}

/// A debounce that has settled on a file of one byte.
fn settled(now: Instant) -> Debounce {
    let mut debounce = Debounce::default();
    assert_eq!(debounce.observe(stamps(1), now), Observation::Unsettled);
    assert_eq!(
        debounce.observe(stamps(1), now + QUIET_INTERVAL),
        Observation::Settled
    );
    assert_eq!(
        debounce.observe(stamps(1), now + POLL_INTERVAL),
        Observation::Unchanged
    );
    debounce
}

#[test]
fn a_change_is_reported_once_the_file_is_quiet() {
    let now = Instant::now();
    let mut debounce = settled(now);
    assert_eq!(debounce.observe(stamps(2), now), Observation::Unsettled);
    assert_eq!(
        debounce.observe(stamps(3), now + QUIET_INTERVAL),
        Observation::Unsettled
    );
    assert_eq!(
        debounce.observe(stamps(3), now + QUIET_INTERVAL * 2),
        Observation::Settled
    );
    assert_eq!(
        debounce.observe(stamps(3), now + QUIET_INTERVAL * 3),
        Observation::Unchanged
    );
}

#[test]
fn a_file_that_is_never_quiet_is_reported_a_few_times_a_second_and_once_more_at_the_end() {
    let now = Instant::now();
    let mut debounce = settled(now);
    let mut reports = 0;
    for at in 0..100_u32 {
        match debounce.observe(stamps(2 + u64::from(at)), now + QUIET_INTERVAL * at) {
            Observation::Settled => reports += 1,
            other => assert_eq!(other, Observation::Unsettled),
        }
    }
    let seconds = (QUIET_INTERVAL * 100).as_secs();
    assert!((seconds..=seconds * 3).contains(&reports), "{reports}");
    // The last stamps again: reported once more, now that they are quiet.
    assert_eq!(
        debounce.observe(stamps(101), now + QUIET_INTERVAL * 100),
        Observation::Settled
    );
    assert_eq!(
        debounce.observe(stamps(101), now + QUIET_INTERVAL * 101),
        Observation::Unchanged
    );
}

#[test]
fn a_file_with_its_old_stamp_after_other_stamps_is_reported_since_its_bytes_may_differ() {
    let now = Instant::now();
    let mut debounce = settled(now);
    assert_eq!(debounce.observe(stamps(2), now), Observation::Unsettled);
    assert_eq!(
        debounce.observe(stamps(1), now + QUIET_INTERVAL),
        Observation::Unsettled
    );
    assert_eq!(
        debounce.observe(stamps(1), now + QUIET_INTERVAL * 2),
        Observation::Settled
    );
}

#[tokio::test]
async fn a_change_behind_a_link_is_reported() {
    let dir = tempfile::tempdir().expect("a directory");
    let (here, there) = (dir.path().join("here"), dir.path().join("there"));
    let (link, signal) = (dir.path().join("link"), ReloadSignal::new());
    fs::write(&here, "one").expect("written");
    std::os::unix::fs::symlink(&here, &link).expect("linked");
    let mut watch = FileWatcher::new([link.clone(), there.clone()].into(), &signal);
    let mut cause = async || {
        let changed = tokio::time::timeout(Duration::from_secs(10), watch.changed()).await;
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
async fn a_signal_that_was_sent_before_the_watcher_existed_is_reported() {
    let signal = ReloadSignal::new();
    signal.send();
    // There are no files.
    let mut watch = FileWatcher::new([].into(), &signal);
    assert_eq!(watch.changed().await, ReloadCause::Requested);
    let reported = tokio::time::timeout(POLL_INTERVAL * 2, watch.changed()).await;
    assert!(reported.is_err(), "{reported:?}");
}

#[tokio::test]
async fn nothing_is_reported_while_nothing_changes() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    fs::write(&file, "one").expect("written");
    let mut watch = FileWatcher::new([file].into(), &ReloadSignal::new());
    assert_eq!(watch.changed().await, ReloadCause::Changed);
    let reported = tokio::time::timeout(POLL_INTERVAL * 3, watch.changed()).await;
    assert!(reported.is_err(), "{reported:?}");
}
