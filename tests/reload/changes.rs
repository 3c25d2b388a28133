//! A valid file is loaded, whichever way it was written.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::json;

use super::{LOADED, ReloadingService, policy};
use crate::support::{
    calls::{reserve, verdict_text},
    tollgate::Tollgate,
};

const UNCHANGED: &str = "asked to read the policy file again: it is unchanged";

#[tokio::test]
async fn a_file_written_in_place_is_in_force_within_a_second() {
    let service = ReloadingService::start();
    let mut took = Vec::new();
    for large in 1_001..=1_005 {
        service.write(&policy(large));
        took.push(service.grants(large).await);
    }
    took.sort();
    assert!(took[2] < Duration::from_secs(1), "{took:?}");
    assert_eq!(service.logged(LOADED).len(), 5);
}

#[tokio::test]
async fn warnings_of_a_policy_are_logged_at_the_start_and_at_each_change() {
    const WARNING: &str = "the policy is valid and has warnings";
    let with_wildcard = |large| policy(large).replace("\"gpt-4o\"", "\"gpt-4o\", \"gpt-4o-*\"");
    let service = ReloadingService::start_in(|dir| {
        fs::write(dir.join("policy.toml"), with_wildcard(1_000)).unwrap()
    });
    for (large, times) in [(1_000, 1), (1_001, 2)] {
        service.write(&with_wildcard(large));
        service.grants(large).await;
        let logged_warning = service.waits_for(WARNING, times).await;
        assert_eq!(logged_warning["level"], "WARN", "{logged_warning}");
        let warnings = logged_warning["warnings"].as_str().unwrap();
        let file = service.file();
        let place = format!("{}:", file.display());
        assert!(warnings.starts_with(&place), "{warnings}");
        assert!(
            warnings.contains("\"gpt-4o-*\" holds a wildcard"),
            "{warnings}"
        );
    }
    service.write(&policy(1_002));
    service.grants(1_002).await;
    service.waits_for(WARNING, 2).await;
}

#[tokio::test]
async fn a_file_that_was_renamed_to_its_place_is_loaded() {
    let service = ReloadingService::start();
    for large in [1_001, 1_002] {
        fs::write(service.path("next"), policy(large)).unwrap();
        fs::rename(service.path("next"), service.file()).unwrap();
        service.grants(large).await;
    }
}

/// A version of a mounted ConfigMap, as the kubelet writes it: a folder of its own, and a link `..data` to it that is
/// swapped atomically.
fn mount(dir: &Path, version: &str, text: &str) {
    fs::create_dir(dir.join(version)).unwrap();
    fs::write(dir.join(version).join("policy.toml"), text).unwrap();
    symlink(version, dir.join("..data_tmp")).unwrap();
    fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
}

#[tokio::test]
async fn a_config_map_that_the_kubelet_swaps_is_loaded() {
    let versions = ["..2026_11_24_a", "..2026_11_24_b", "..2026_11_24_c"];
    let service = ReloadingService::start_in(|dir| {
        mount(dir, versions[0], &policy(1_000));
        symlink("..data/policy.toml", dir.join("policy.toml")).unwrap();
    });
    for (large, pair) in [1_001, 1_002].into_iter().zip(versions.windows(2)) {
        mount(service.dir.path(), pair[1], &policy(large));
        fs::remove_dir_all(service.path(pair[0])).unwrap();
        service.grants(large).await;
    }
    assert_eq!(service.logged(super::REFUSED).len(), 0);
}

#[tokio::test]
async fn an_organization_that_left_is_billed_and_one_that_came_is_granted() {
    let service = ReloadingService::start();
    let client = &service.client;
    assert_eq!(verdict_text(&reserve(client, 600, "first").await), "FREE");
    service.write(&policy(1_000).replace("[orgs.acme]", "[orgs.newcomer]"));
    service.waits_for(LOADED, 1).await;
    let billed = reserve(client, 1, "").await;
    assert_eq!(verdict_text(&billed), "OrganizationNotEnrolled");
    // An answered id keeps its answer.
    assert_eq!(verdict_text(&reserve(client, 600, "first").await), "FREE");
    service.write(&policy(800));
    let line = service.waits_for(LOADED, 2).await;
    assert_eq!(
        (&line["added"], &line["removed"]),
        (&json!("acme"), &json!("newcomer"))
    );
    let again = reserve(client, 200, "").await;
    assert_eq!((verdict_text(&again).as_str(), again.used), ("FREE", 800));
    assert_eq!(
        verdict_text(&reserve(client, 1, "").await),
        "AllowanceExceeded"
    );
}

#[tokio::test]
async fn changes_are_logged_with_old_and_new_values() {
    let service = ReloadingService::start_in(|dir| {
        let text = policy(1_000) + "[tiers.3]\nlarge = 9_000\nmini = 9_000\n";
        fs::write(dir.join("policy.toml"), text).unwrap();
    });
    let started = service.logged("tollgate serves").remove(0);
    let text = policy(2_000)
        + "[tiers.3]\nlarge = 9_000\nmini = 9_000\n[orgs.new]\ntier = 3\n\
         data_sharing = \"all\"\n";
    let text = text
        .replace("\"o1\"", "\"o3\"")
        .replace("keep_open", "close_until_reset");
    service.write(&text.replace("[orgs.acme]\ntier = 1", "[orgs.acme]\ntier = 3"));
    let line = service.waits_for(LOADED, 1).await;
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
async fn the_same_text_again_changes_nothing_and_is_logged_only_after_sighup() {
    let service = ReloadingService::start();
    let lines = service.tollgate.log().len();
    service.write(&policy(1_000));
    fs::write(service.path("next"), policy(1_000)).unwrap();
    fs::rename(service.path("next"), service.file()).unwrap();
    service.tollgate.signal(Signal::SIGHUP);
    let line = service.waits_for(UNCHANGED, 1).await;
    assert_eq!(line["level"], "INFO");
    // The line about the store may come late.
    let after = service.tollgate.log();
    let lines_after: Vec<_> = after[lines..]
        .iter()
        .filter(|line| line["message"].as_str().unwrap().contains("policy"))
        .collect();
    assert_eq!(lines_after.len(), 1, "{lines_after:#?}");
}

#[tokio::test]
async fn sighup_reads_the_file_again_at_once_however_often() {
    let service = ReloadingService::start();
    service.write(&policy(1_001));
    service.tollgate.signal(Signal::SIGHUP);
    service.grants(1_001).await;
    let begun = Instant::now();
    for _ in 0..200 {
        service.tollgate.signal(Signal::SIGHUP);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    service.write(&policy(1_002));
    service.tollgate.signal(Signal::SIGHUP);
    service.grants(1_002).await;
    // At most ten reads a second.
    let logged = service.logged(UNCHANGED).len() as u128;
    let max = begun.elapsed().as_millis() / 100 + 2;
    assert!((1..=max).contains(&logged), "{logged} of {max}");
}

#[tokio::test]
async fn sighup_has_no_effect_on_a_service_with_the_built_in_policy() {
    let tollgate = Tollgate::start(&["--store", "memory:"]);
    tollgate.signal(Signal::SIGHUP);
    let logged =
        async {
            while !tollgate.log().iter().any(|line| {
                line["message"] == "asked to read the policy again: it is the built-in one"
            }) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
    tokio::time::timeout(super::RELOAD_TIMEOUT, logged)
        .await
        .unwrap();
    let request = tollgate::grpc::proto::GetQuotaRequest {
        org: "org-demo".to_owned(),
    };
    tollgate.client().get_quota(request).await.unwrap();
}
