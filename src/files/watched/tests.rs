use std::fs::File;

use super::*;

fn looks(bytes: u64) -> Vec<Look> {
    vec![Look::There {
        device: 1,
        inode: 2,
        bytes,
        modified_at: (3, 4),
        changed_at: (3, 4),
    }]
}

/// A sight that has settled on a file of one byte.
fn settled(now: Instant) -> Sight {
    let mut sight = Sight::default();
    assert_eq!(sight.take_in(looks(1), now), Seen::Unrest);
    assert_eq!(sight.take_in(looks(1), now + SETTLE), Seen::Change);
    assert_eq!(sight.take_in(looks(1), now + LOOK), Seen::Nothing);
    sight
}

#[test]
fn a_change_is_told_once_the_file_has_been_left_alone() {
    let now = Instant::now();
    let mut sight = settled(now);
    assert_eq!(sight.take_in(looks(2), now), Seen::Unrest);
    assert_eq!(sight.take_in(looks(3), now + SETTLE), Seen::Unrest);
    assert_eq!(sight.take_in(looks(3), now + SETTLE * 2), Seen::Change);
    assert_eq!(sight.take_in(looks(3), now + SETTLE * 3), Seen::Nothing);
}

#[test]
fn a_file_that_is_never_left_alone_is_told_a_few_times_a_second_and_once_more_at_the_end() {
    let now = Instant::now();
    let mut sight = settled(now);
    let mut told = 0;
    for at in 0..100_u32 {
        match sight.take_in(looks(2 + u64::from(at)), now + SETTLE * at) {
            Seen::Change => told += 1,
            other => assert_eq!(other, Seen::Unrest),
        }
    }
    let seconds = (SETTLE * 100).as_secs();
    assert!((seconds..=seconds * 3).contains(&told), "{told}");
    // The last look again: also where it was told already.
    assert_eq!(sight.take_in(looks(101), now + SETTLE * 100), Seen::Change);
    assert_eq!(sight.take_in(looks(101), now + SETTLE * 101), Seen::Nothing);
}

#[test]
fn a_file_that_looks_as_before_after_some_unrest_is_told_since_its_bytes_may_be_others() {
    let now = Instant::now();
    let mut sight = settled(now);
    assert_eq!(sight.take_in(looks(2), now), Seen::Unrest);
    assert_eq!(sight.take_in(looks(1), now + SETTLE), Seen::Unrest);
    assert_eq!(sight.take_in(looks(1), now + SETTLE * 2), Seen::Change);
}

#[tokio::test]
async fn what_is_told_follows_files_wherever_their_links_lead() {
    let dir = tempfile::tempdir().expect("a directory");
    let (here, there) = (dir.path().join("here"), dir.path().join("there"));
    let (link, nudge) = (dir.path().join("link"), Nudge::new());
    fs::write(&here, "one").expect("written");
    std::os::unix::fs::symlink(&here, &link).expect("linked");
    let mut watch = Watch::new([link.clone(), there.clone()], &nudge);
    let patience = Duration::from_secs(10);
    let mut told = async || {
        let changed = tokio::time::timeout(patience, watch.changed()).await;
        changed.expect("told in time")
    };
    assert_eq!(told().await, Cause::Seen);
    for change in [
        (|here, _| fs::write(here, "two")) as fn(&Path, &Path) -> io::Result<()>,
        |_, there| fs::write(there, "three"),
        |here, there| fs::rename(there, here),
        |here, _| fs::remove_file(here),
    ] {
        change(&here, &there).expect("changed");
        assert_eq!(told().await, Cause::Seen);
    }
    nudge.give();
    assert_eq!(told().await, Cause::Nudged);
    // The moment may have been the middle of a write.
    assert_eq!(told().await, Cause::Seen);
}

#[tokio::test]
async fn a_nudge_that_was_given_before_anybody_watched_is_told() {
    let nudge = Nudge::new();
    nudge.give();
    // There is nothing to look at besides.
    let mut watch = Watch::new([], &nudge);
    assert_eq!(watch.changed().await, Cause::Nudged);
    let told = tokio::time::timeout(LOOK * 2, watch.changed()).await;
    assert!(told.is_err(), "{told:?}");
}

#[tokio::test]
async fn nothing_is_told_while_nothing_changes() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    fs::write(&file, "one").expect("written");
    let mut watch = Watch::new([file], &Nudge::new());
    assert_eq!(watch.changed().await, Cause::Seen);
    let told = tokio::time::timeout(LOOK * 3, watch.changed()).await;
    assert!(told.is_err(), "{told:?}");
}

#[test]
fn what_has_no_end_or_too_distant_a_one_is_not_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let place = dir.path().join("file");
    let refused = |most| read(&place, most).expect_err("refused").to_string();
    let at_place = |target: &str| {
        std::os::unix::fs::symlink(target, &place).expect("linked");
    };
    assert!(refused(8).starts_with("can't be read: No such file"));
    at_place("/dev/zero");
    assert_eq!(refused(8), "can't be read: it is no regular file");
    fs::remove_file(&place).expect("removed");
    at_place("/");
    assert_eq!(refused(8), "can't be read: it is no regular file");
    fs::remove_file(&place).expect("removed");
    let long = File::create(&place).expect("created");
    long.set_len(200 << 20).expect("sparse");
    let wanted = "can't be read: it is larger than 64 MiB";
    assert_eq!(refused(64 << 20), wanted);
    fs::write(&place, "12345678").expect("written");
    assert_eq!(read(&place, 8).expect("read"), b"12345678");
    assert!(read(&place, 7).is_err());
    assert!(read_all(io::repeat(0), 1 << 20).is_err());
}

#[test]
fn a_pipe_at_the_place_of_a_file_holds_nobody_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let place = dir.path().join("file");
    nix::unistd::mkfifo(&place, nix::sys::stat::Mode::S_IRWXU).expect("made");
    let refused = read(&place, 8).expect_err("refused");
    assert_eq!(refused.to_string(), "can't be read: it is no regular file");
}

/// What comes of reading when it gives these one after the other, and then goes on counting.
fn readings(first: &[&'static str]) -> Result<Vec<u8>, ReadError> {
    let mut readings = first.iter().map(|text| match *text {
        "" => Err(ReadError::NotAFile),
        text => Ok(text.as_bytes().to_vec()),
    });
    let mut count = 0;
    reading::same_twice(|| {
        count += 1;
        readings.next().unwrap_or_else(|| Ok(vec![count]))
    })
}

#[test]
fn what_is_another_one_with_each_reading_is_read_until_it_is_the_same_twice() {
    assert_eq!(readings(&["a", "a"]), Ok(b"a".to_vec()));
    assert_eq!(
        readings(&["a", "ab", "", "abc", "abc"]),
        Ok(b"abc".to_vec())
    );
    assert_eq!(readings(&["a", "", ""]), Err(ReadError::NotAFile));
    assert_eq!(readings(&["a", "b", "a", "b"]), Err(ReadError::Restless));
}
