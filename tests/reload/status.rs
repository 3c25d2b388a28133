//! The status of the policy for other parts such as metrics: loads, refusals and the version.

use std::{
    fs,
    sync::{Arc, Mutex},
};

use tokio::sync::watch;
use tollgate::{
    files::watched::{ReloadSignal, Version},
    policy::{Policy, PolicySource, PolicyStatus},
};

use super::{RELOAD_TIMEOUT, policy};

/// Waits until the status is such.
async fn until(
    status: &mut watch::Receiver<PolicyStatus>,
    such: impl FnMut(&PolicyStatus) -> bool,
) -> PolicyStatus {
    let reached = tokio::time::timeout(RELOAD_TIMEOUT, status.wait_for(such)).await;
    reached.unwrap().unwrap().clone()
}

#[tokio::test]
async fn loads_and_refusals_are_counted_and_the_version_is_that_of_the_text() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("policy.toml");
    fs::write(&file, policy(1)).unwrap();
    let source = PolicySource::open(Some(&file), 1 << 20).unwrap();
    let mut status = source.status();
    let before = status.borrow().clone();
    assert_eq!(before.version, Version::of(policy(1).as_bytes()));
    assert_eq!(
        (before.applied, before.refused, before.refused_at),
        (0, 0, None)
    );
    let taken: Arc<Mutex<Vec<Arc<Policy>>>> = Arc::default();
    let (reload, keep) = (ReloadSignal::default(), Arc::clone(&taken));
    let following = source.follow(reload.clone(), move |policy| {
        keep.lock().unwrap().push(policy);
    });
    let following = tokio::spawn(following);

    fs::write(&file, policy(2)).unwrap();
    let second = until(&mut status, |status| status.applied == 1).await;
    assert_eq!(second.version, Version::of(policy(2).as_bytes()));
    assert!(second.loaded_at > before.loaded_at);
    fs::write(&file, "nonsense").unwrap();
    let refused = until(&mut status, |status| status.refused == 1).await;
    assert_eq!(refused.version, second.version);
    assert!(refused.refused_at.unwrap() >= second.loaded_at && refused.complaint().is_some());
    fs::remove_file(&file).unwrap();
    until(&mut status, |status| status.refused == 2).await;
    fs::write(&file, policy(2)).unwrap();
    let again = until(&mut status, |status| status.refused_at.is_none()).await;
    assert_eq!(
        (again.applied, again.refused, again.complaint()),
        (1, 2, None)
    );
    fs::write(&file, policy(3)).unwrap();
    until(&mut status, |status| status.applied == 2).await;

    // An unused policy is freed; a used one is not.
    let mut taken = std::mem::take(&mut *taken.lock().unwrap());
    let (third, second) = (taken.pop().unwrap(), taken.pop().unwrap());
    assert_eq!(Arc::strong_count(&third), 2);
    let gone = Arc::downgrade(&second);
    drop(second);
    let freed = async {
        while gone.strong_count() > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(RELOAD_TIMEOUT, freed).await.unwrap();
    following.abort();
}
