//! A valid file is taken, however it got there.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::json;

use super::{Followed, TAKEN, policy};
use crate::support::{
    calls::{reserve, said},
    tollgate::Tollgate,
};

const UNCHANGED: &str = "asked to read the policy file again: it is unchanged";

#[tokio::test]
async fn a_file_written_in_place_is_in_force_within_a_second() {
    let followed = Followed::start();
    let mut took = Vec::new();
    for large in 1_001..=1_005 {
        followed.write(&policy(large));
        took.push(followed.grants(large).await);
    }
    took.sort();
    assert!(took[2] < Duration::from_secs(1), "{took:?}");
    assert_eq!(followed.logged(TAKEN).len(), 5);
}

#[tokio::test]
async fn warnings_of_a_policy_are_logged_at_the_start_and_at_each_change() {
    const WARNED: &str = "the policy is valid and has warnings";
    let odd = |large| policy(large).replace("\"gpt-4o\"", "\"gpt-4o\", \"gpt-4o-*\"");
    let followed =
        Followed::start_in(|dir| fs::write(dir.join("policy.toml"), odd(1_000)).unwrap());
    for (large, times) in [(1_000, 1), (1_001, 2)] {
        followed.write(&odd(large));
        followed.grants(large).await;
        let warned = followed.waits_for(WARNED, times).await;
        assert_eq!(warned["level"], "WARN", "{warned}");
        let told = warned["warnings"].as_str().unwrap();
        let file = followed.file();
        let place = format!("{}:", file.display());
        assert!(told.starts_with(&place), "{told}");
        assert!(told.contains("\"gpt-4o-*\" holds a wildcard"), "{told}");
    }
    followed.write(&policy(1_002));
    followed.grants(1_002).await;
    followed.waits_for(WARNED, 2).await;
}

#[tokio::test]
async fn a_file_that_was_renamed_to_its_place_is_taken() {
    let followed = Followed::start();
    for large in [1_001, 1_002] {
        fs::write(followed.path("next"), policy(large)).unwrap();
        fs::rename(followed.path("next"), followed.file()).unwrap();
        followed.grants(large).await;
    }
}

/// A version of a mounted ConfigMap, as the kubelet writes it: a folder of its own, and the link `..data` to
/// it, which is swapped at once.
fn mount(dir: &Path, version: &str, text: &str) {
    fs::create_dir(dir.join(version)).unwrap();
    fs::write(dir.join(version).join("policy.toml"), text).unwrap();
    symlink(version, dir.join("..data_tmp")).unwrap();
    fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
}

#[tokio::test]
async fn a_config_map_that_the_kubelet_swaps_is_taken() {
    let versions = ["..2026_11_24_a", "..2026_11_24_b", "..2026_11_24_c"];
    let followed = Followed::start_in(|dir| {
        mount(dir, versions[0], &policy(1_000));
        symlink("..data/policy.toml", dir.join("policy.toml")).unwrap();
    });
    for (large, pair) in [1_001, 1_002].into_iter().zip(versions.windows(2)) {
        mount(followed.dir.path(), pair[1], &policy(large));
        fs::remove_dir_all(followed.path(pair[0])).unwrap();
        followed.grants(large).await;
    }
    assert_eq!(followed.logged(super::NOT_TAKEN).len(), 0);
}

#[tokio::test]
async fn an_organization_that_left_is_billed_and_one_that_came_is_granted() {
    let followed = Followed::start();
    let client = &followed.client;
    assert_eq!(said(&reserve(client, 600, "first").await), "FREE");
    followed.write(&policy(1_000).replace("[orgs.acme]", "[orgs.newcomer]"));
    followed.waits_for(TAKEN, 1).await;
    let billed = reserve(client, 1, "").await;
    assert_eq!(said(&billed), "OrganizationNotEnrolled");
    // What was answered under an id stays answered.
    assert_eq!(said(&reserve(client, 600, "first").await), "FREE");
    followed.write(&policy(800));
    let line = followed.waits_for(TAKEN, 2).await;
    assert_eq!(
        (&line["added"], &line["removed"]),
        (&json!("acme"), &json!("newcomer"))
    );
    let again = reserve(client, 200, "").await;
    assert_eq!((said(&again).as_str(), again.used), ("FREE", 800));
    assert_eq!(said(&reserve(client, 1, "").await), "AllowanceExceeded");
}

#[tokio::test]
async fn what_changed_is_logged_with_old_and_new() {
    let followed = Followed::start_in(|dir| {
        let text = policy(1_000) + "[tiers.3]\nlarge = 9_000\nmini = 9_000\n";
        fs::write(dir.join("policy.toml"), text).unwrap();
    });
    let started = followed.logged("tollgate serves").remove(0);
    let text = policy(2_000)
        + "[tiers.3]\nlarge = 9_000\nmini = 9_000\n[orgs.new]\ntier = 3\n\
         data_sharing = \"all\"\n";
    let text = text
        .replace("\"o1\"", "\"o3\"")
        .replace("keep_open", "close_until_reset");
    followed.write(&text.replace("[orgs.acme]\ntier = 1", "[orgs.acme]\ntier = 3"));
    let line = followed.waits_for(TAKEN, 1).await;
    assert_eq!(line["replaces"], started["policy_version"]);
    assert_ne!(line["replaces"], line["policy_version"]);
    for (field, wanted) in [
        ("organizations", json!(3)),
        ("orgs_added", json!(1)),
        ("added", json!("new")),
        ("orgs_removed", json!(0)),
        ("orgs_changed", json!(1)),
        ("tier_changes", json!(1)),
        ("changed", json!("acme (tier 1 → 3)")),
        ("program", json!("overflow keep_open → close_until_reset")),
        ("models", json!("o1 large → none, o3 none → large")),
        (
            "allowances",
            json!("large of tier 1 1000 → 2000, mini of tier 1 1001000 → 1002000"),
        ),
    ] {
        assert_eq!(line[field], wanted, "{field}: {line}");
    }
    assert!(line.get("removed").is_none(), "{line}");
}

#[tokio::test]
async fn the_same_text_again_changes_nothing_and_is_told_only_to_whoever_asked() {
    let followed = Followed::start();
    let lines = followed.tollgate.log().len();
    followed.write(&policy(1_000));
    fs::write(followed.path("next"), policy(1_000)).unwrap();
    fs::rename(followed.path("next"), followed.file()).unwrap();
    followed.tollgate.signal(Signal::SIGHUP);
    let line = followed.waits_for(UNCHANGED, 1).await;
    assert_eq!(line["level"], "INFO");
    // The store that is found to answer may come late.
    let after = followed.tollgate.log();
    let told: Vec<_> = after[lines..]
        .iter()
        .filter(|line| line["message"].as_str().unwrap().contains("policy"))
        .collect();
    assert_eq!(told.len(), 1, "{told:#?}");
}

#[tokio::test]
async fn sighup_reads_the_file_again_at_once_however_often() {
    let followed = Followed::start();
    followed.write(&policy(1_001));
    followed.tollgate.signal(Signal::SIGHUP);
    followed.grants(1_001).await;
    let begun = Instant::now();
    for _ in 0..200 {
        followed.tollgate.signal(Signal::SIGHUP);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    followed.write(&policy(1_002));
    followed.tollgate.signal(Signal::SIGHUP);
    followed.grants(1_002).await;
    // Ten readings a second at most.
    let told = followed.logged(UNCHANGED).len() as u128;
    let most = begun.elapsed().as_millis() / 100 + 2;
    assert!((1..=most).contains(&told), "{told} of {most}");
}

#[tokio::test]
async fn sighup_does_no_harm_to_a_service_with_the_built_in_policy() {
    let tollgate = Tollgate::start(&["--store", "memory:"]);
    tollgate.signal(Signal::SIGHUP);
    let told =
        async {
            while !tollgate.log().iter().any(|line| {
                line["message"] == "asked to read the policy again: it is the built-in one"
            }) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
    tokio::time::timeout(super::SOON, told).await.unwrap();
    let request = tollgate::grpc::proto::GetQuotaRequest {
        org: "org-demo".to_owned(),
    };
    tollgate.client().get_quota(request).await.unwrap();
}
