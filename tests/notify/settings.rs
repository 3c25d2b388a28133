//! The sections `[notify]` and `[metrics]` of the settings.

use tollgate::{
    ledger::GaugedOrganizations,
    settings::{ServeArgs, Settings},
};

use crate::support::{calls::TextFile, tollgate::program, tools::run, world::org_id};

fn load(text: &str) -> Result<Settings, String> {
    let file = TextFile::new(text);
    let flags = ServeArgs {
        config: Some(file.path().into()),
        ..ServeArgs::default()
    };
    Settings::load(flags).map_err(|error| error.to_string())
}

#[test]
fn by_default_nothing_is_posted_and_no_organization_has_gauges() {
    for text in [
        "",
        "[notify]\n[metrics]\n",
        "[metrics]\norganizations = \"off\"\n",
    ] {
        let settings = load(text).unwrap();
        assert_eq!(settings.notify_url, None);
        assert_eq!(settings.gauged, GaugedOrganizations::Off);
    }
}

#[test]
fn of_a_receivers_url_only_scheme_and_host_are_shown() {
    for (url, shown) in [
        (
            "https://hooks.example/services/s3cret",
            "https://hooks.example",
        ),
        (
            "  http://127.0.0.1:8080/s3cret?key=s3cret \\n",
            "http://127.0.0.1:8080",
        ),
        ("https://[::1]", "https://[::1]"),
        (
            "https://hooks.example:65535/",
            "https://hooks.example:65535",
        ),
    ] {
        let settings = load(&format!("[notify]\nurl = \"{url}\"\n")).unwrap();
        assert_eq!(settings.notify_url.as_ref().unwrap().to_string(), shown);
        assert!(!format!("{settings:?}").contains("s3cret"), "{settings:?}");
    }
}

const NO_PORT: &str = "must have no port, or one from 1 to 65535";

#[test]
fn a_wrong_url_is_a_fault_that_does_not_repeat_it() {
    for (url, fault) in [
        ("hooks.example/s3cret", "is not a URL"),
        ("/s3cret", "is not a URL"),
        ("", "is not a URL"),
        ("ftp://hooks.example/s3cret", "is not a URL"),
        ("https:///s3cret", "is not a URL"),
        ("https://hooks.example/s3cret s3cret", "is not a URL"),
        (
            "https://s3cret@hooks.example/",
            "must not have a user or a password",
        ),
        (
            "https://u:s3cret@hooks.example/",
            "must not have a user or a password",
        ),
        ("https://hooks.example:65536/", NO_PORT),
        ("https://hooks.example:0/", NO_PORT),
        ("https://hooks.example:/", NO_PORT),
        ("https://[::1]:99999/", NO_PORT),
        (
            "https://hooks.example/#s3cret",
            "must not have a fragment (#)",
        ),
        (
            "https://hooks.example/s3\\u0000cret",
            "holds a control character (U+0000)",
        ),
    ] {
        let error = load(&format!("[notify]\nurl = \"{url}\"\n")).unwrap_err();
        assert!(
            error.contains(&format!(":2: notify.url: {fault}")),
            "{url}: {error}"
        );
        assert!(!error.contains("s3cret"), "{error}");
    }
    let error = load("[notify]\nurls = \"x\"\n").unwrap_err();
    assert!(error.contains("notify.urls: unknown key"), "{error}");
}

#[test]
fn the_variable_takes_precedence_and_its_fault_names_it() {
    let file = TextFile::new("[notify]\nurl = \"https://file.example/\"\n");
    let served = run(program()
        .args(["serve", "--config", file.path(), "--store", "memory:"])
        .env("TOLLGATE_NOTIFY_URL", "s3cret"));
    assert_ne!(served.code, Some(0));
    assert!(
        served.stderr.contains("TOLLGATE_NOTIFY_URL: is not a URL"),
        "{served:?}"
    );
    assert!(!served.stderr.contains("s3cret"), "{served:?}");
}

#[test]
fn organizations_with_gauges_are_all_or_a_list_of_at_most_1000() {
    let gauged = |value: &str| {
        let settings = load(&format!("[metrics]\norganizations = {value}\n"));
        settings.map(|it| it.gauged)
    };
    assert_eq!(gauged("\"all\""), Ok(GaugedOrganizations::All));
    let two = GaugedOrganizations::Named(vec![org_id("b"), org_id("a")]);
    assert_eq!(gauged("[\"b\", \" a \"]"), Ok(two));
    let list = |count: usize| {
        let names: Vec<String> = (0..count).map(|at| format!("\"org-{at}\"")).collect();
        format!("[{}]", names.join(", "))
    };
    assert!(gauged(&list(1_000)).is_ok());
    for (value, fault) in [
        (
            &list(1_001)[..],
            "has 1001 organizations, at most 1000 are allowed",
        ),
        (
            "\"org-acme\"",
            "\"org-acme\" is neither \"off\" nor \"all\", nor a list",
        ),
        ("[\"a\", \"a\"]", "\"a\" is listed twice"),
        ("[\"\"]", "must not be empty"),
        ("[1]", "must be a string"),
        ("true", "must be a list of strings"),
    ] {
        let error = gauged(value).unwrap_err();
        assert!(error.contains("metrics.organizations: "), "{error}");
        assert!(error.contains(fault), "{error}");
    }
    let error = load("[metrics]\norganisations = \"all\"\n").unwrap_err();
    assert!(
        error.contains("nearest known one is \"organizations\""),
        "{error}"
    );
}
