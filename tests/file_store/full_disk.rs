//! A disk that is full.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::support::{
    calls::{large, new_reserve, policy_file},
    clock::Clock,
    disk::Disk,
    world::NOON,
};

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Long names, so that the file soon grows.
fn id(at: usize) -> String {
    format!("{at:0>120}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_grants_nothing_and_it_serves_again_when_there_is_room() {
    grants_nothing_while_it_is_full(Disk::preloaded()).await;
}

/// On a real disk, if this system allows mounts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_mount_grants_nothing_and_it_serves_again_when_there_is_room() {
    let disk = Disk::mounted().unwrap_or_else(|why| {
        eprintln!("no mount is allowed here, so writes fail by the preloaded library: {why}");
        Disk::preloaded()
    });
    grants_nothing_while_it_is_full(disk).await;
}

async fn grants_nothing_while_it_is_full(disk: Disk) {
    let (policy, clock) = (policy_file(1_000_000), Clock::at(NOON));
    let tollgate = disk.launch(&["--policy", policy.path()], &clock);
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    let client = tollgate.client();

    disk.fill(&tollgate);
    let deadline = Instant::now() + WAIT_TIMEOUT;
    let (mut sent, mut failed) = (0, BTreeSet::new());
    while failed.len() < 100 {
        assert!(Instant::now() < deadline, "{sent} fitted on a full disk");
        let calls = (sent..sent + 64).map(|at| {
            let mut client = client.clone();
            async move { (at, client.reserve(new_reserve(1, &id(at))).await) }
        });
        for (at, answer) in join_all(calls).await {
            if let Err(status) = answer {
                assert_eq!(status.code(), Code::Unavailable, "{status}");
                failed.insert(at);
            }
        }
        sent += 64;
    }
    tollgate.wait_for_readiness(ServingStatus::NotServing).await;
    // It stays NOT_SERVING: small writes that still fit don't count as recovery.
    for _ in 0..40 {
        let received = tollgate.health("readiness").await;
        assert_eq!(received, Some(ServingStatus::NotServing));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let status = client
        .clone()
        .reserve(new_reserve(1, "while full"))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");

    disk.free(&tollgate);
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    let used = large(&client).await.used;
    let answered = (sent - failed.len()) as u64;
    assert!(
        (answered..=sent as u64).contains(&used),
        "{answered} {used}"
    );
    for at in 0..sent {
        let answer = client
            .clone()
            .reserve(new_reserve(1, &id(at)))
            .await
            .unwrap();
        assert!(answer.into_inner().replayed || failed.contains(&at), "{at}");
    }
    assert_eq!(large(&client).await.used, sent as u64);
}
