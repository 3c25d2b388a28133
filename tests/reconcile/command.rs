//! The command: what it prints, and its exit codes.

use std::process::Command;

use serde_json::{Value, json};
use tollgate::grpc::proto::ReserveRequest;

use super::{FREE, Used, bucket, page};
use crate::support::{
    calls::TextFile,
    clock::Clock,
    tollgate::{Tollgate, program},
    tools::{ProgramOutput, run},
    usage_api::{ADMIN_KEY, PROJECT_KEY, UsageApiServer, UsageEvent},
    world::{NOON, TODAY},
};

const GPT_4O: &str = "gpt-4o-2024-08-06";
const YESTERDAY: &str = "2026-11-21";

/// A service that has counted 100 FREE tokens of org-demo, project p, gpt-4o, today.
struct Service {
    tollgate: Tollgate,
    clock: Clock,
}

impl Service {
    async fn start() -> Self {
        let clock = Clock::at(NOON);
        let tollgate = Tollgate::start_at(&clock, &["--store", "memory:"]);
        let request = ReserveRequest {
            org: "org-demo".to_owned(),
            project: "p".to_owned(),
            model: "gpt-4o".to_owned(),
            tokens: 100,
            ..ReserveRequest::default()
        };
        tollgate.client().reserve(request).await.unwrap();
        Self { tollgate, clock }
    }

    fn command(&self, words: &[&str]) -> Command {
        self.command_at(NOON, words)
    }

    fn command_at(&self, now: &str, words: &[&str]) -> Command {
        self.clock.set(now);
        let mut command = program();
        self.clock.preload(&mut command);
        command
            .env_remove("OPENAI_ADMIN_KEY")
            .args(["reconcile", "--addr", &self.tollgate.addr])
            .args(words);
        command
    }

    fn run(&self, words: &[&str]) -> ProgramOutput {
        run(&mut self.command(words))
    }

    /// Compares with a file.
    fn with_file(&self, usage: &str, words: &[&str]) -> ProgramOutput {
        let file = TextFile::new(usage);
        self.run(
            &[
                &["--from-file", file.path(), "--project", "p=proj_p"],
                words,
            ]
            .concat(),
        )
    }
}

fn usage(on: &str, used: &[Used<'_>]) -> String {
    page(&[bucket(on, used)]).to_string()
}

fn lines(text: &str) -> Vec<String> {
    let narrow = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    text.lines()
        .map(narrow)
        .filter(|line| !line.is_empty())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_say_whether_the_two_sides_agree() {
    let service = Service::start().await;
    let agrees = service.with_file(&usage(TODAY, &[("proj_p", GPT_4O, FREE, 100)]), &[]);
    assert_eq!((agrees.code, agrees.stderr.as_str()), (Some(0), ""));
    let wanted = [
        "org-demo (UTC, 1 day): agrees; 1 row, 0 different".to_owned(),
        "DAY POOL ALLOWANCE LEDGER FREE PROVIDER FREE".to_owned(),
        format!("{TODAY} open large 1,000,000 100 100"),
        format!("{TODAY} open mini 10,000,000 0 0"),
    ];
    assert_eq!(lines(&agrees.stdout), wanted);

    // Late is no drift.
    let late = service.with_file(&usage(TODAY, &[("proj_p", GPT_4O, FREE, 60)]), &[]);
    assert_eq!(late.code, Some(0), "{late:?}");
    assert!(late.stdout.contains("late"), "{late:?}");

    let used = [
        ("proj_p", GPT_4O, FREE, 70),
        ("proj_p", GPT_4O, "default", 30),
    ];
    let drifts = service.with_file(&usage(TODAY, &used), &[]);
    assert_eq!(drifts.code, Some(1), "{drifts:?}");
    assert_eq!(
        drifts.stderr,
        "tollgate: the ledger and the provider differ\n"
    );
    let printed = lines(&drifts.stdout);
    assert!(
        printed.contains(&format!("false_free {TODAY} open p gpt-4o large 30")),
        "{printed:#?}"
    );

    let unknown = service.with_file(&usage(TODAY, &[("proj_p", GPT_4O, "default", 100)]), &[]);
    assert_eq!(unknown.code, Some(2), "{unknown:?}");
    assert!(
        unknown.stdout.contains("unknown: the report never has"),
        "{unknown:?}"
    );
    assert_eq!(
        unknown.stderr,
        "tollgate: could not compare: not all is known\n"
    );
    // Its name is a setting.
    let named = usage(TODAY, &[("proj_p", GPT_4O, "complimentary", 100)]);
    let named = service.with_file(&named, &["--free-tiers", "complimentary,incentivized-tier"]);
    assert_eq!(named.code, Some(0), "{named:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn json_and_csv_have_every_row_and_the_change_of_the_policy() {
    let service = Service::start().await;
    let used = [("proj_p", GPT_4O, FREE, 100), ("proj_x", "gpt-7", FREE, 5)];
    let ran = service.with_file(&usage(TODAY, &used), &["--json"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let answer: Value = serde_json::from_str(&ran.stdout).unwrap();
    let row = json!({
        "day": TODAY, "open": true, "project": "p", "model": "gpt-4o", "pool": "large",
        "ledger_free_tokens": 100, "ledger_billed_tokens": 0, "provider_free_tokens": 100,
        "provider_billed_tokens": 0,
    });
    assert_eq!(
        (&answer["org"], &answer["result"]),
        (&json!("org-demo"), &json!("drifts"))
    );
    assert_eq!(answer["rows"][0], row);
    assert_eq!(answer["days"], json!([{ "day": TODAY, "open": true }]));
    let kinds: Vec<&Value> = answer["drifts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["kind"])
        .collect();
    assert_eq!(kinds, [&json!("external"), &json!("unlisted_but_free")]);
    assert!(
        answer["policy_change"]
            .as_str()
            .unwrap()
            .contains("models = [\"gpt-7\"]")
    );

    let ran = service.with_file(&usage(TODAY, &used), &["--csv"]);
    let wanted = format!(
        "org,day,open,project,model,pool,ledger_free_tokens,ledger_billed_tokens,provider_free_tokens,\
         provider_billed_tokens,drift\n\
         org-demo,{TODAY},true,p,gpt-4o,large,100,0,100,0,\n\
         org-demo,{TODAY},true,proj_x,gpt-7,,0,0,5,0,external 5; unlisted_but_free 5\n"
    );
    assert_eq!(ran.stdout, wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn days_are_those_of_the_file_or_those_that_were_asked_for() {
    let service = Service::start().await;
    let yesterday = bucket(YESTERDAY, &[("proj_p", GPT_4O, FREE, 7)]);
    let today = bucket(TODAY, &[("proj_p", GPT_4O, FREE, 100)]);
    let both = page(&[yesterday, today]).to_string();
    assert_eq!(service.with_file(&both, &[]).code, Some(1));
    assert_eq!(service.with_file(&both, &["--day", TODAY]).code, Some(0));
    assert_eq!(service.with_file(&both, &["--days", "1"]).code, Some(0));
    let three = service.with_file(&both, &["--days", "3"]);
    assert_eq!(three.code, Some(2), "{three:?}");
    assert!(
        three
            .stdout
            .contains("unknown: 2026-11-20: the report has no bucket of this day"),
        "{three:?}"
    );
    // Longer ago than the service keeps.
    let old = usage("2026-01-02", &[("proj_p", GPT_4O, FREE, 7)]);
    let old = service.with_file(&old, &[]);
    assert_eq!(old.code, Some(2), "{old:?}");
    assert!(
        old.stdout.contains("unknown: 2026-01-02: the service: "),
        "{old:?}"
    );
    let days: Vec<Value> = (0..63).map(bucket_of_day).collect();
    let many = service.with_file(&page(&days).to_string(), &[]);
    assert_eq!(many.code, Some(2), "{many:?}");
    assert!(
        many.stderr
            .contains("the report has 63 days, at most 62 are compared"),
        "{many:?}"
    );
}

fn bucket_of_day(at: i64) -> Value {
    super::bucket_at(at * 86_400, (at + 1) * 86_400, &[])
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_compared_exits_with_2_and_says_why() {
    let service = Service::start().await;
    let good = usage(TODAY, &[("proj_p", GPT_4O, FREE, 100)]);
    let wrong = service.with_file("{\"object\":\"page\",\"data\":[{\"start_time\":1.5}]}", &[]);
    assert_eq!(wrong.code, Some(2));
    let place = "page 1, bucket 1: start_time: is the number 1.5, not a whole number\n";
    assert!(wrong.stderr.ends_with(place), "{wrong:?}");
    let file = TextFile::new(&good);
    for (words, wanted) in [
        (
            vec!["--from-file", "/nowhere.json"],
            "/nowhere.json can't be read",
        ),
        (
            vec!["--from-file", file.path(), "--org", "org-x"],
            "NOT_FOUND: ",
        ),
        (
            vec!["--from-file", file.path(), "--policy", "/nowhere.toml"],
            "/nowhere.toml can't be read",
        ),
        (
            vec!["--from-file", file.path(), "--overflow"],
            "--overflow needs buckets of one minute",
        ),
        (
            vec!["--from-file", file.path(), "--addr", "127.0.0.1:1"],
            "UNAVAILABLE",
        ),
        (
            vec![],
            "--from-file FILE, or an admin key: --admin-key-file FILE or OPENAI_ADMIN_KEY",
        ),
        (
            vec!["--admin-key-file", "/nowhere.key"],
            "/nowhere.key can't be read",
        ),
        (
            vec!["--from-file", file.path(), "--day", "2026-1-1"],
            "is not a day of the form",
        ),
        (
            vec!["--from-file", file.path(), "--days", "63"],
            "63 is not in 1..=62",
        ),
        (
            vec!["--from-file", file.path(), "--project", "p"],
            "must be NAME=ID",
        ),
        (
            vec!["--from-file", file.path(), "--tolerance", "x"],
            "must be tokens",
        ),
    ] {
        let mut command = service.command(&[]);
        // The last address counts: clap takes each flag once.
        if words.contains(&"--addr") {
            command = program();
            command.arg("reconcile");
        }
        let ran = run(command.args(&words));
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{ran:?}");
        assert!(ran.stderr.contains(wanted), "{ran:?}: {wanted}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_organization_is_named_unless_the_policy_has_one_or_the_caller_may_read_one_only() {
    let service = Service::start().await;
    let good = usage(TODAY, &[("proj_p", GPT_4O, FREE, 100)]);
    let policy_of = |orgs: &[&str]| {
        let orgs = orgs
            .iter()
            .map(|org| format!("[orgs.{org}]\ntier = 3\ndata_sharing = \"all\"\n"));
        let text = "[program]\nextends = \"openai-2026-09-28\"\n".to_owned();
        TextFile::new(&(text + &orgs.collect::<String>()))
    };
    let (none, two) = (policy_of(&[]), policy_of(&["org-demo", "b"]));
    for policy in [&none, &two] {
        let ran = service.with_file(&good, &["--policy", policy.path()]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
    }
    // That of the policy comes first.
    let other = policy_of(&["b"]);
    let ran = service.with_file(&good, &["--policy", other.path()]);
    assert!(ran.stderr.contains("NOT_FOUND"), "{ran:?}");
    assert_eq!(ran.code, Some(2));
    let clock = Clock::at(NOON);
    let tollgate = Tollgate::start_at(&clock, &["--store", "memory:", "--policy", two.path()]);
    let service = Service { tollgate, clock };
    let nothing = usage(TODAY, &[]);
    let ran = service.with_file(&nothing, &["--policy", two.path()]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    let wanted = "--org is missing: the caller may read 2 organizations";
    assert!(ran.stderr.contains(wanted), "{ran:?}");
    let ran = service.with_file(&nothing, &["--policy", two.path(), "--org", "b"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_providers_api_is_asked_with_the_key_of_a_file_or_of_the_environment() {
    let service = Service::start().await;
    let events = vec![
        UsageEvent::new("2026-11-22T09:00:00Z", "proj_p", GPT_4O, FREE, 100),
        UsageEvent::new(
            "2026-11-21T09:00:00Z",
            "proj_p",
            "gpt-4o-mini-2024-07-18",
            "default",
            11,
        ),
    ];
    let server = UsageApiServer::start(NOON, events).await;
    let ask = |key: &str, words: &[&str]| {
        let flags = ["--api-base", &server.base, "--project", "p=proj_p"];
        let mut command = service.command(&[&flags, words].concat());
        run(command.env("OPENAI_ADMIN_KEY", key))
    };
    let today = ask(ADMIN_KEY, &[]);
    assert_eq!(today.code, Some(0), "{today:?}");
    let query = &server.queries()[0];
    let wanted = "start_time=1795219200&bucket_width=1d&limit=31&group_by=project_id&group_by=model\
                  &group_by=service_tier&group_by=batch";
    assert!(query.ends_with(wanted), "{query}");
    let file = TextFile::new(&format!("{ADMIN_KEY}\n"));
    let two = ask("", &["--admin-key-file", file.path(), "--days", "2"]);
    assert_eq!(two.code, Some(1), "{two:?}");
    assert!(
        lines(&two.stdout).contains(&format!("external {YESTERDAY} open p gpt-4o-mini mini 11")),
        "{two:?}"
    );
    let minutes = ask(ADMIN_KEY, &["--overflow"]);
    assert_eq!(minutes.code, Some(0), "{minutes:?}");
    assert!(
        minutes
            .stdout
            .contains(&format!("overflow on {TODAY} open in large: no overflow")),
        "{minutes:?}"
    );
    let refused = ask(PROJECT_KEY, &[]);
    assert_eq!(
        (refused.code, refused.stdout.as_str()),
        (Some(2), ""),
        "{refused:?}"
    );
    assert!(
        refused.stderr.contains("must be an admin key"),
        "{refused:?}"
    );
    assert!(!refused.stderr.contains("sk-"), "{refused:?}");
}

/// 50 of today's 100 tokens ended after midnight. Each day is compared alone, when the first one is closed.
#[tokio::test(flavor = "multi_thread")]
async fn the_days_beside_those_that_were_asked_for_show_what_ended_after_midnight() {
    const THEN: &str = "2026-11-24T12:00:00Z";
    let service = Service::start().await;
    let ended = |at| UsageEvent::new(at, "proj_p", GPT_4O, FREE, 50);
    let events = vec![ended("2026-11-22T12:30:00Z"), ended("2026-11-23T00:05:00Z")];
    let server = UsageApiServer::start(THEN, events).await;
    let pages = [TODAY, "2026-11-23"].map(|on| super::bucket(on, &[("proj_p", GPT_4O, FREE, 50)]));
    let file = TextFile::new(&page(&pages).to_string());
    for source in [["--api-base", &server.base], ["--from-file", file.path()]] {
        for (day, kind) in [(TODAY, Some("late")), ("2026-11-23", None)] {
            let words = ["--project", "p=proj_p", "--day", day];
            let mut command = service.command_at(THEN, &[&source[..], &words].concat());
            let ran = run(command.env("OPENAI_ADMIN_KEY", ADMIN_KEY));
            assert_eq!(ran.code, Some(0), "{day}: {ran:?}");
            let found = lines(&ran.stdout);
            let found = found.iter().filter(|it| it.ends_with("p gpt-4o large 50"));
            let found: Vec<&str> = found.filter_map(|it| it.split(' ').next()).collect();
            assert_eq!(found, Vec::from_iter(kind), "{day}: {ran:?}");
        }
    }
    let queries = server.queries();
    let start = |day: &str| super::day(day).start().timestamp();
    let first = format!("?start_time={}&", start(YESTERDAY));
    let end = format!("&end_time={}", start("2026-11-24"));
    assert!(
        queries[0].contains(&first) && queries[0].contains(&end),
        "{queries:?}"
    );
    // The day after the other one is not over.
    let first = format!("?start_time={}&", start(TODAY));
    assert!(
        queries[1].contains(&first) && !queries[1].contains("end_time"),
        "{queries:?}"
    );
}
