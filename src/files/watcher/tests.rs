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
fn a_change_is_told_once_the_file_has_been_left_alone() {
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
fn a_file_that_is_never_left_alone_is_told_a_few_times_a_second_and_once_more_at_the_end() {
    let now = Instant::now();
    let mut debounce = settled(now);
    let mut told = 0;
    for at in 0..100_u32 {
        match debounce.observe(stamps(2 + u64::from(at)), now + QUIET_INTERVAL * at) {
            Observation::Settled => told += 1,
            other => assert_eq!(other, Observation::Unsettled),
        }
    }
    let seconds = (QUIET_INTERVAL * 100).as_secs();
    assert!((seconds..=seconds * 3).contains(&told), "{told}");
    // The last look again: also where it was told already.
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
fn a_file_that_looks_as_before_after_some_unrest_is_told_since_its_bytes_may_be_others() {
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
async fn what_is_told_follows_files_wherever_their_links_lead() {
    let dir = tempfile::tempdir().expect("a directory");
    let (here, there) = (dir.path().join("here"), dir.path().join("there"));
    let (link, signal) = (dir.path().join("link"), ReloadSignal::new());
    fs::write(&here, "one").expect("written");
    std::os::unix::fs::symlink(&here, &link).expect("linked");
    let mut watch = FileWatcher::new([link.clone(), there.clone()].into(), &signal);
    let patience = Duration::from_secs(10);
    let mut told = async || {
        let changed = tokio::time::timeout(patience, watch.changed()).await;
        changed.expect("told in time")
    };
    assert_eq!(told().await, ReloadCause::Changed);
    for change in [
        (|here, _| fs::write(here, "two")) as fn(&Path, &Path) -> io::Result<()>,
        |_, there| fs::write(there, "three"),
        |here, there| fs::rename(there, here),
        |here, _| fs::remove_file(here),
    ] {
        change(&here, &there).expect("changed");
        assert_eq!(told().await, ReloadCause::Changed);
    }
    signal.send();
    assert_eq!(told().await, ReloadCause::Requested);
    // The moment may have been the middle of a write.
    assert_eq!(told().await, ReloadCause::Changed);
}

#[tokio::test]
async fn a_nudge_that_was_given_before_anybody_watched_is_told() {
    let signal = ReloadSignal::new();
    signal.send();
    // There is nothing to look at besides.
    let mut watch = FileWatcher::new([].into(), &signal);
    assert_eq!(watch.changed().await, ReloadCause::Requested);
    let told = tokio::time::timeout(POLL_INTERVAL * 2, watch.changed()).await;
    assert!(told.is_err(), "{told:?}");
}

#[tokio::test]
async fn nothing_is_told_while_nothing_changes() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    fs::write(&file, "one").expect("written");
    let mut watch = FileWatcher::new([file].into(), &ReloadSignal::new());
    assert_eq!(watch.changed().await, ReloadCause::Changed);
    let told = tokio::time::timeout(POLL_INTERVAL * 3, watch.changed()).await;
    assert!(told.is_err(), "{told:?}");
}
