//! An invalid file is refused as a whole, and the service uses the last valid one.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::Path,
};

use nix::{sys::stat::Mode, unistd::mkfifo};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::{LOADED, REFUSED, ReloadingService, policy};
use crate::{
    server::http_get,
    support::calls::{reserve, verdict_text},
};

/// How to break a file, and the expected words.
type InvalidFile = (fn(&Path), &'static [&'static str]);

const TOO_LARGE: &str = "can't be read: it is larger than 128 MiB";
const NO_FILE: &str = "can't be read: it is no regular file";

/// Ways to break a file.
const INVALID_FILES: [InvalidFile; 11] = [
    (
        |file| {
            let text = policy(7)
                .replace("keep_open", "maybe")
                .replace("tier = 1", "tier = 9");
            fs::write(file, text).unwrap();
        },
        &[
            "policy.toml:3: program.overflow: \"maybe\" is neither",
            "policy.toml:12: orgs.acme.tier: is 9",
            "policy.toml:15: orgs.other.tier: is 9",
        ],
    ),
    (
        |file| fs::write(file, policy(7).split_once("-mini").unwrap().0).unwrap(),
        &["policy.toml:7: unclosed array"],
    ),
    (
        |file| fs::write(file, "").unwrap(),
        &["policy.toml:1: pools: is missing"],
    ),
    (
        |file| fs::write(file, b"\n\xff").unwrap(),
        &["policy.toml:2: is not UTF-8"],
    ),
    (|_| {}, &["can't be read: No such file"]),
    (
        |file| symlink("nowhere", file).unwrap(),
        &["can't be read: No such file"],
    ),
    (
        |file| symlink("policy.toml", file).unwrap(),
        &["can't be read: Too many levels"],
    ),
    (|file| fs::create_dir(file).unwrap(), &[NO_FILE]),
    (|file| symlink("/dev/zero", file).unwrap(), &[NO_FILE]),
    (|file| mkfifo(file, Mode::S_IRWXU).unwrap(), &[NO_FILE]),
    (
        |file| File::create(file).unwrap().set_len(200 << 20).unwrap(),
        &[TOO_LARGE],
    ),
];

/// Replaces the file by a staged one of any type, or removes it if there is none. Atomically: an absent file would be a
/// fault of its own.
fn put(staged: &Path, file: &Path) {
    let (here, there) = (fs::symlink_metadata(file), fs::symlink_metadata(staged));
    match (here, there) {
        (Ok(_), Ok(_)) => {
            let (from, to, flags) = (staged, file, RenameFlags::EXCHANGE);
            renameat_with(CWD, from, CWD, to, flags).unwrap();
            clear(staged);
        }
        (Err(_), Ok(_)) => fs::rename(staged, file).unwrap(),
        (_, Err(_)) => clear(file),
    }
}

fn clear(file: &Path) {
    match fs::symlink_metadata(file) {
        Ok(there) if there.is_dir() => fs::remove_dir(file).unwrap(),
        Ok(_) => fs::remove_file(file).unwrap(),
        Err(_) => {}
    }
}

#[tokio::test]
async fn an_invalid_file_is_refused_with_the_reason_and_the_last_valid_one_stays() {
    let service = ReloadingService::start();
    let (file, staged) = (service.file(), service.path("staged"));
    for (at, (damage, wanted)) in INVALID_FILES.into_iter().enumerate() {
        let large = 2_000 + at as u64;
        fs::write(&staged, policy(large)).unwrap();
        put(&staged, &file);
        service.grants(large).await;
        let refusals = service.logged(REFUSED).len();
        damage(&staged);
        put(&staged, &file);
        let line = service.waits_for(REFUSED, refusals + 1).await;
        assert_eq!(line["level"], "ERROR");
        let error = line["error"].as_str().unwrap();
        for wanted in wanted {
            assert!(error.contains(wanted), "{wanted:?} is not in {error:?}");
        }
        assert_eq!(verdict_text(&reserve(&service.client, 1, "").await), "FREE");
        assert_eq!(service.grants(large).await.as_secs(), 0);
        let (head, body) = http_get(&service.tollgate.http_addr, "/readyz");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let mut lines = body.lines();
        assert_eq!(lines.next(), Some("ok"), "{body}");
        let line = lines.next().unwrap();
        assert!(
            line.starts_with("policy: the file was refused at 20"),
            "{body}"
        );
        assert!(line.ends_with(" stays"), "{body}");
    }
    let rss = service.tollgate.memory();
    assert!(rss < 150 << 20, "{rss}: something enormous was read");
}

#[tokio::test]
async fn a_refused_file_is_logged_once_until_it_changes_or_is_valid_again() {
    let service = ReloadingService::start();
    let bad = policy(7).replace("keep_open", "maybe");
    service.write(&bad);
    service.waits_for(REFUSED, 1).await;
    // Atomically: a reader could find an empty file, which is another fault.
    fs::write(service.path("next"), &bad).unwrap();
    fs::rename(service.path("next"), service.file()).unwrap();
    service.tollgate.signal(nix::sys::signal::Signal::SIGHUP);
    let again = "asked to read the policy file again: it is what was refused before";
    service.waits_for(again, 1).await;
    service.write(&policy(1_000));
    service
        .waits_for("the policy file is the one in force again", 1)
        .await;
    let (_, body) = http_get(&service.tollgate.http_addr, "/readyz");
    assert_eq!(body, "ok\n");
    assert_eq!(service.logged(REFUSED).len(), 1);
    assert_eq!(service.logged(LOADED).len(), 0);
    // The same invalid file is refused again.
    service.write(&bad);
    service.waits_for(REFUSED, 2).await;
}
