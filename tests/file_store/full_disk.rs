//! A disk that is full, really: a small tmpfs that only the service and this test see.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::support::{
    calls::{ask, large, policy_file},
    clock::Clock,
    tollgate::{Tollgate, program_by},
    world::NOON,
};

const SIZE: &str = "size=8m";
const PATIENCE: Duration = Duration::from_secs(60);

/// Mounts a tmpfs at its first argument, in a mount namespace of its own, and becomes what follows.
fn launcher(mount: &Path) -> Vec<String> {
    let root = nix::unistd::geteuid().is_root();
    let namespace: &[&str] = match root {
        true => &["unshare", "--mount"],
        false => &["unshare", "--user", "--map-root-user", "--mount"],
    };
    let script = format!("mount -t tmpfs -o {SIZE} tmpfs \"$0\" && exec \"$@\"");
    let words = [namespace, &["sh", "-c", &script, mount.to_str().unwrap()]].concat();
    let tried = Command::new(words[0])
        .args(&words[1..])
        .arg("true")
        .output();
    let tried = tried.expect("this test needs unshare (util-linux)");
    assert!(
        tried.status.success(),
        "this test needs a tmpfs of its own, and this system allows none: run it as root, or where \
         unprivileged user namespaces are allowed: {}",
        String::from_utf8_lossy(&tried.stderr)
    );
    words.into_iter().map(str::to_owned).collect()
}

/// Takes all the room that is left.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    for size in [65_536, 4_096, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
}

/// Long names, so that the file must grow soon.
fn id(at: usize) -> String {
    format!("{at:0>120}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_grants_nothing_and_it_serves_again_when_there_is_room() {
    let (mount, clock) = (tempfile::tempdir().unwrap(), Clock::at(NOON));
    let mount = mount.path();
    let launcher = launcher(mount);
    let launcher: Vec<&str> = launcher.iter().map(String::as_str).collect();
    let policy = policy_file(1_000_000);
    let store = format!("file:{}", mount.join("tollgate.db").display());
    let args = ["--store", &store, "--policy", policy.path()];
    let tollgate = Tollgate::launch(program_by(&launcher), &args, |it| clock.preload(it));
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    // How this test sees the tmpfs.
    let inside = format!("/proc/{}/root{}", tollgate.pid(), mount.display());
    let filler = PathBuf::from(inside).join("filler");
    let client = tollgate.client();

    fill(&filler);
    let patience = Instant::now() + PATIENCE;
    let (mut asked, mut failed) = (0, BTreeSet::new());
    while failed.len() < 100 {
        assert!(Instant::now() < patience, "{asked} fitted on a full disk");
        let calls = (asked..asked + 64).map(|at| {
            let mut client = client.clone();
            async move { (at, client.reserve(ask(1, &id(at))).await) }
        });
        for (at, answer) in join_all(calls).await {
            if let Err(status) = answer {
                assert_eq!(status.code(), Code::Unavailable, "{status}");
                failed.insert(at);
            }
        }
        asked += 64;
    }
    tollgate.wait_for_readiness(ServingStatus::NotServing).await;
    // And stays so: small writes that still fit don't make it look well.
    for _ in 0..40 {
        let said = tollgate.health("readiness").await;
        assert_eq!(said, Some(ServingStatus::NotServing));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let status = client
        .clone()
        .reserve(ask(1, "while full"))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");

    fs::remove_file(&filler).unwrap();
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    let used = large(&client).await.used;
    let answered = (asked - failed.len()) as u64;
    assert!(
        (answered..=asked as u64).contains(&used),
        "{answered} {used}"
    );
    for at in 0..asked {
        let answer = client.clone().reserve(ask(1, &id(at))).await.unwrap();
        assert!(answer.into_inner().replayed || failed.contains(&at), "{at}");
    }
    assert_eq!(large(&client).await.used, asked as u64);
}
