//! The section `[reconcile]` of the settings.

use tollgate::{
    reconcile::{Raise, ReconcileSettings},
    settings::{ServeArgs, Settings},
};

use crate::support::{calls::TextFile, world::org_id};

fn load(text: &str) -> Result<Option<ReconcileSettings>, String> {
    let file = TextFile::new(text);
    let flags = ServeArgs {
        config: Some(file.path().into()),
        ..ServeArgs::default()
    };
    let settings = Settings::load(flags).map_err(|error| error.to_string());
    settings.map(|settings| settings.reconcile)
}

const ORG: &str = "[reconcile.orgs.org-acme]\nadmin_key_file = \"/run/secrets/acme-usage-key\"\n\
                   projects = { \"proj-search\" = \"proj_9su0\" }\n";

#[test]
fn without_the_section_nothing_is_compared_and_with_an_organization_the_rest_has_defaults() {
    assert!(load("").unwrap().is_none());
    let settings = load(ORG).unwrap().unwrap();
    let durations = [settings.every.as_secs(), settings.settle_lag.as_secs()];
    assert_eq!(
        (durations, settings.close_after.num_hours()),
        ([300, 1_200], 36)
    );
    assert_eq!(
        (settings.raise, settings.free_tiers),
        (Raise::Off, vec!["incentivized-tier".to_owned()])
    );
    assert_eq!(settings.api_base, "https://api.openai.com/v1");
    let org = &settings.orgs[&org_id("org-acme")];
    assert_eq!(org.projects["proj_9su0"], "proj-search");
    assert_eq!(
        org.admin_key_file.to_str(),
        Some("/run/secrets/acme-usage-key")
    );
}

#[test]
fn every_key_is_read() {
    let text = "every = \"1s\"\nsettle_lag = \"6h\"\nclose_after = \"2days\"\nraise = \"external\"\n\
                free_tiers = [\"a\", \"b\"]\napi_base = \"http://127.0.0.1:8080\"\n";
    let settings = load(&format!("[reconcile]\n{text}{ORG}")).unwrap().unwrap();
    let durations = [settings.every.as_secs(), settings.settle_lag.as_secs()];
    assert_eq!(
        (durations, settings.close_after.num_hours()),
        ([1, 21_600], 48)
    );
    assert_eq!(
        (settings.raise, settings.free_tiers.len()),
        (Raise::External, 2)
    );
    assert_eq!(settings.api_base, "http://127.0.0.1:8080");
}

#[test]
fn each_fault_names_its_key() {
    for (keys, fault) in [
        ("every = \"999ms\"", "reconcile.every: must be 1s to 1h"),
        ("every = \"61min\"", "reconcile.every: must be 1s to 1h"),
        (
            "settle_lag = \"0s\"",
            "reconcile.settle_lag: must be 1s to 6h",
        ),
        (
            "settle_lag = \"7h\"",
            "reconcile.settle_lag: must be 1s to 6h",
        ),
        (
            "close_after = \"5h\"",
            "reconcile.close_after: must be 6h to 7days",
        ),
        (
            "close_after = \"8days\"",
            "reconcile.close_after: must be 6h to 7days",
        ),
        (
            "every = \"21min\"",
            "reconcile: every must not be longer than settle_lag (20m)",
        ),
        ("raise = \"yes\"", "reconcile.raise: "),
        (
            "free_tiers = [\"\"]",
            "reconcile.free_tiers: must not be empty",
        ),
        (
            "free_tiers = []",
            "reconcile.free_tiers: must name a service tier",
        ),
        (
            "api_base = \"http://api.example\"",
            "reconcile.api_base: must be https://",
        ),
        (
            "api_base = \"https://api.example:70000/v1\"",
            "reconcile.api_base: must have no port, or one from 1 to 65535",
        ),
        (
            "api_base = \"https://user@api.example\"",
            "reconcile.api_base: must have a host",
        ),
        ("admin_key = \"x\"", "reconcile.admin_key: unknown key"),
    ] {
        let error = load(&format!("[reconcile]\n{keys}\n{ORG}")).unwrap_err();
        assert!(error.contains(fault), "{error}");
    }
}

#[test]
fn each_fault_of_an_organization_names_its_key() {
    for (orgs, fault) in [
        ("[reconcile]\n", "reconcile: names no organization"),
        (
            "[reconcile.orgs.acme]\n",
            "reconcile.orgs.acme.admin_key_file: is missing",
        ),
        (
            "[reconcile.orgs.acme]\nadmin_key_file = \"f\"\nkey = 1\n",
            "reconcile.orgs.acme.key: unknown key",
        ),
        (
            "[reconcile.orgs.acme]\nadmin_key_file = \"f\"\nprojects = { a = \"x\", b = \"x\" }\n",
            "reconcile.orgs.acme.projects.b: is the id of another project, too",
        ),
        (
            "[reconcile.orgs.acme]\nadmin_key_file = \"f\"\nprojects = { \"\" = \"x\" }\n",
            "reconcile.orgs.acme.projects.\"\": ",
        ),
        (
            "[reconcile.orgs.\"a\\u0000\"]\nadmin_key_file = \"f\"\n",
            "reconcile.orgs.",
        ),
        (
            "usage_retention = \"2days\"\n[reconcile.orgs.acme]\nadmin_key_file = \"f\"\n",
            "reconcile: needs usage_retention = \"3days\" at least",
        ),
    ] {
        let error = load(orgs).unwrap_err();
        assert!(error.contains(fault), "{error}");
    }
}
