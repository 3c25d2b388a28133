//! `tollgate usage` of a range of days and as CSV: what it prints, and in how much memory.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Stdio},
};

use futures_util::{StreamExt as _, stream};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tollgate::{auth::TokenHash, grpc::proto::ReserveRequest};

use crate::support::{
    calls::TextFile,
    clock::Clock,
    tollgate::{Tollgate, program},
    tools::{ProgramOutput, WAIT_TIMEOUT, run},
    world::NOON,
};

const HEADER: &str = "org,day,project,model,pool,free_tokens,billed_tokens,free_requests,\
     billed_requests,provider_free_tokens,provider_billed_tokens";

/// A service whose clock the test sets.
struct Days {
    service: Tollgate,
    clock: Clock,
}

impl Days {
    fn start() -> Self {
        let clock = Clock::at(NOON);
        Self {
            service: Tollgate::start_at(&clock, &["--store", "memory:"]),
            clock,
        }
    }

    /// Counts a request of one token for each project.
    async fn use_projects(&self, projects: impl IntoIterator<Item = String>) {
        let requests = projects.into_iter().map(|project| ReserveRequest {
            org: "org-demo".to_owned(),
            project,
            model: "gpt-4o".to_owned(),
            tokens: 1,
            ..ReserveRequest::default()
        });
        let requests: Vec<_> = requests.collect();
        let mut client = self.service.client();
        let answers = client.reserve_stream(stream::iter(requests)).await;
        let mut answers = answers.unwrap().into_inner();
        while let Some(answer) = answers.next().await {
            answer.unwrap();
        }
    }

    fn run(&self, words: &[&str]) -> ProgramOutput {
        run(program().args(words).args(["--addr", &self.service.addr]))
    }

    fn spawn(&self, words: &[&str]) -> Child {
        let mut command = program();
        command.args(words).args(["--addr", &self.service.addr]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    /// Two projects on 2026-11-22, one on 2026-11-24, which is today.
    async fn with_rows() -> Self {
        let days = Self::start();
        days.use_projects(["b", "a"].map(str::to_owned)).await;
        days.clock.set("2026-11-24T12:00:00Z");
        days.use_projects(["c".to_owned()]).await;
        days
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_a_table_with_the_day_in_each_row() {
    let days = Days::with_rows().await;
    let ran = days.run(&["usage", "org-demo", "--from", "2026-11-22"]);
    assert_eq!(ran.stderr, "");
    let printed = ran.expect_success();
    let narrow = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(
        printed.lines().map(narrow).collect::<Vec<_>>(),
        [
            "org-demo, 2026-11-22 to 2026-11-24 (UTC)",
            "DAY PROJECT MODEL POOL FREE TOKENS BILLED TOKENS FREE REQUESTS BILLED REQUESTS",
            "2026-11-22 a gpt-4o large 1 0 1 0",
            "2026-11-22 b gpt-4o large 1 0 1 0",
            "2026-11-24 c gpt-4o large 1 0 1 0",
        ]
    );
    let one_day = ["--from", "2026-11-23", "--to", "2026-11-23"];
    let ran = days.run(&[&["usage", "org-demo"], &one_day[..]].concat());
    assert_eq!(
        ran.expect_success(),
        "org-demo, 2026-11-23 (UTC): nothing was used\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_is_one_header_line_and_a_line_for_each_day_project_and_model() {
    let days = Days::with_rows().await;
    let rows = [
        "org-demo,2026-11-22,a,gpt-4o,large,1,0,1,0,,",
        "org-demo,2026-11-22,b,gpt-4o,large,1,0,1,0,,",
        "org-demo,2026-11-24,c,gpt-4o,large,1,0,1,0,,",
    ];
    for (words, rows) in [
        (&["--from", "2026-11-22"][..], &rows[..]),
        (&["--from", "2026-11-22", "--to", "2026-11-23"], &rows[..2]),
        (&["--day", "2026-11-22"], &rows[..2]),
        (&[], &rows[2..]),
        (&["--day", "2026-11-23"], &[]),
    ] {
        let ran = days.run(&[&["usage", "org-demo", "--csv"], words].concat());
        assert_eq!(ran.stderr, "");
        let printed = ran.expect_success();
        let lines: Vec<&str> = printed.lines().collect();
        assert_eq!(lines, [&[HEADER], rows].concat(), "{words:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_json_of_a_range_is_an_object_with_its_organization_on_each_line() {
    let days = Days::with_rows().await;
    let ran = days.run(&["usage", "org-demo", "--from", "2026-11-22", "--json"]);
    let printed = ran.expect_success();
    let lines: Vec<Value> = printed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let row = |day: &str, project: &str| {
        json!({
            "org": "org-demo", "day": day, "project": project, "model": "gpt-4o", "pool": "large", "free_tokens": 1,
            "billed_tokens": 0, "free_requests": 1, "billed_requests": 0,
            "provider_free_tokens": null, "provider_billed_tokens": null,
        })
    };
    let [first, second, third] = [
        ("2026-11-22", "a"),
        ("2026-11-22", "b"),
        ("2026-11-24", "c"),
    ];
    assert_eq!(
        lines,
        [first, second, third].map(|(day, project)| row(day, project))
    );
    let nothing = ["--from", "2026-11-23", "--to", "2026-11-23", "--json"];
    let ran = days.run(&[&["usage", "org-demo"], &nothing[..]].concat());
    assert_eq!(ran.expect_success(), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_name_becomes_a_formula_of_the_csv() {
    let days = Days::start();
    let names = [
        "=HYPERLINK(\"http://x\")",
        "+1",
        "-1",
        "@SUM(A1)",
        "＝1",
        "p;=1+1",
        "p,=1+1",
        "\"=1+1",
    ];
    days.use_projects(names.map(str::to_owned)).await;
    let ran = days.run(&["usage", "org-demo", "--csv"]);
    let printed = ran.expect_success();
    let mut reader = csv::Reader::from_reader(printed.as_bytes());
    let mut projects: Vec<String> = reader
        .records()
        .map(|record| record.unwrap()[2].to_owned())
        .collect();
    let mut expected = [
        "'=HYPERLINK(\"http://x\")",
        "'+1",
        "'-1",
        "'@SUM(A1)",
        "'＝1",
        "p;'=1+1",
        "p,=1+1",
        "\"=1+1",
    ];
    projects.sort();
    expected.sort_unstable();
    assert_eq!(projects, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn days_that_are_not_kept_any_more_are_a_warning_and_others_an_error() {
    let days = Days::with_rows().await;
    let ran = days.run(&["usage", "org-demo", "--from", "2026-10-01", "--csv"]);
    let warning =
        "warning: usage is kept from 2026-10-20 on: the days before it are not in the output\n";
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), warning));
    assert_eq!(ran.stdout.lines().count(), 4);
    for (words, expected) in [
        (
            &["--from", "2026-11-25"][..],
            "OUT_OF_RANGE: from_day: 2026-11-25 is not kept",
        ),
        (
            &["--from", "2026-11-22", "--to", "2026-11-25", "--json"],
            "OUT_OF_RANGE: to_day: 2026-11-25 is not kept",
        ),
        (
            &["--from", "2026-09-01", "--csv"],
            "INVALID_ARGUMENT: from_day: 2026-09-01 to 2026-11-24 are more than 62 days",
        ),
        (
            &["--from", "soon"],
            "INVALID_ARGUMENT: from_day: is not a day",
        ),
    ] {
        let ran = days.run(&[&["usage", "org-demo"], words].concat());
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
        let expected = format!("tollgate: {expected}");
        assert!(ran.stderr.starts_with(&expected), "{words:?}: {ran:?}");
    }
}

/// Projects with long names: a page of them is more than a pipe buffers.
fn long_names(projects: usize) -> impl Iterator<Item = String> {
    (0..projects).map(|at| format!("{at:05}-{}", "x".repeat(240)))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_in_the_middle_says_that_the_output_is_incomplete_and_exits_with_1() {
    let mut days = Days::start();
    days.use_projects(long_names(2_001)).await;
    let mut client = days.spawn(&["usage", "org-demo", "--csv"]);
    let mut printed = BufReader::new(client.stdout.take().unwrap());
    let mut first = String::new();
    printed.read_line(&mut first).unwrap();
    assert_eq!(first.trim_end(), HEADER);
    days.service.signal(Signal::SIGKILL);
    days.service.wait(WAIT_TIMEOUT);
    assert_eq!(printed.lines().count(), 1_000);
    let ended = client.wait_with_output().unwrap();
    let stderr = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains(": no answer from http://"), "{stderr}");
    let expected = "; the output is incomplete, it ends after 1,000 rows\n";
    assert!(stderr.ends_with(expected), "{stderr}");
}

/// The process' largest resident memory so far, in bytes; none once it has ended.
fn peak_memory(process: &Child) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).ok()?;
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024)
}

/// Runs the client, and measures while its output is read. It can't end before the last of it fits into the pipe.
fn peak_and_lines(days: &Days, words: &[&str]) -> (u64, usize) {
    let mut client = days.spawn(words);
    let mut stdout = client.stdout.take().unwrap();
    let (mut peak, mut lines) = (0, 0);
    let mut part = vec![0; 64 * 1024];
    loop {
        let read = stdout.read(&mut part).unwrap();
        if read == 0 {
            break;
        }
        lines += part[..read].iter().filter(|byte| **byte == b'\n').count();
        peak = peak_memory(&client).unwrap_or_default().max(peak);
    }
    let ended = client.wait_with_output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    assert!(peak > 0, "it was not measured");
    (peak, lines)
}

/// 76,000 rows are more than 38 MB of names and text. The first pages are what the allocator needs to settle, and on a
/// busy machine it takes some more.
#[tokio::test(flavor = "multi_thread")]
async fn ten_times_the_rows_take_no_more_memory() {
    const ROWS: usize = 4_000;
    const MAX_GROWTH: u64 = 24 << 20;
    let days = Days::start();
    days.use_projects(long_names(ROWS)).await;
    for day in 23..=30 {
        days.clock.set(&format!("2026-11-{day}T12:00:00Z"));
        days.use_projects(long_names(ROWS * 9 / 4)).await;
    }
    for format in [&["--csv"][..], &["--json"], &[]] {
        let from = ["usage", "org-demo", "--from", "2026-11-22"];
        let few = [&from[..], &["--to", "2026-11-22"], format].concat();
        let (few_peak, few_lines) = peak_and_lines(&days, &few);
        let (peak, lines) = peak_and_lines(&days, &[&from[..], format].concat());
        assert!(few_lines >= ROWS && lines >= 10 * ROWS, "{format:?}");
        assert!(
            peak < few_peak + MAX_GROWTH,
            "{format:?}: {few_peak} bytes for {few_lines} lines, {peak} for {lines}"
        );
    }
}

/// A service with the organizations `org-a` to `org-c`, and callers with the tokens `all` and `some`, who may read
/// them all or two of them, and `writer`.
fn with_callers(clock: &Clock) -> Tollgate {
    let orgs = ["org-a", "org-b", "org-c"];
    let policy = orgs.map(|org| format!("[orgs.{org}]\ntier = 3\ndata_sharing = \"all\"\n"));
    let policy = "[program]\nextends = \"openai-2026-09-28\"\n".to_owned() + &policy.concat();
    let caller = |token: &str, role: &str, orgs: &str| {
        let hash = TokenHash::of(token.as_bytes());
        format!(
            "[callers.{token}]\ntokens = [\"{hash}\"]\nroles = [\"{role}\"]\norganizations = [{orgs}]\n"
        )
    };
    let callers = [
        caller("all", "read", "\"*\""),
        caller("some", "read", "\"org-a\", \"org-c\""),
        caller("none", "read", "\"org-other\""),
        caller("writer", "reserve", "\"*\""),
    ];
    let (policy, callers) = (TextFile::new(&policy), TextFile::new(&callers.concat()));
    let files = ["--policy", policy.path(), "--callers", callers.path()];
    Tollgate::start_at(clock, &[&["--store", "memory:"], &files[..]].concat())
}

/// Runs the client as the caller with this token.
fn run_as(token: &str, service: &Tollgate, words: &[&str]) -> ProgramOutput {
    let mut client = program();
    client.env("TOLLGATE_TOKEN", token);
    run(client.args(words).args(["--addr", &service.addr]))
}

#[test]
fn all_organizations_are_those_that_the_caller_may_read() {
    let clock = Clock::at(NOON);
    let service = with_callers(&clock);
    for (day, org) in [
        ("2026-11-22", "org-c"),
        ("2026-11-23", "org-a"),
        ("2026-11-23", "org-b"),
    ] {
        clock.set(&format!("{day}T12:00:00Z"));
        let reserve = ["reserve", org, "p", "gpt-4o", "1"];
        run_as("writer", &service, &reserve).expect_success();
    }
    let printed = |token: &str, words: &[&str]| {
        let ran = run_as(token, &service, &[&["usage", "--all"], words].concat());
        assert_eq!(ran.stderr, "", "{words:?}");
        ran.expect_success()
    };
    let row = |org: &str, day: &str| format!("{org},{day},p,gpt-4o,large,1,0,1,0,,");
    let [a, b, c] = [("org-a", 23), ("org-b", 23), ("org-c", 22)]
        .map(|(org, day)| row(org, &format!("2026-11-{day}")));
    let header = HEADER.to_owned();
    for (token, words, expected) in [
        (
            "all",
            &["--from", "2026-11-22"][..],
            vec![&header, &a, &b, &c],
        ),
        ("some", &["--from", "2026-11-22"], vec![&header, &a, &c]),
        ("all", &["--day", "2026-11-22"], vec![&header, &c]),
        ("all", &[], vec![&header, &a, &b]),
        ("none", &[], vec![&header]),
    ] {
        let csv = printed(token, &[words, &["--csv"]].concat());
        assert_eq!(
            csv.lines().collect::<Vec<_>>(),
            expected,
            "{token} {words:?}"
        );
    }
    let lines = printed("all", &["--json"]);
    let orgs: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["org"].clone())
        .collect();
    assert_eq!(orgs, ["org-a", "org-b"]);
    let tables = printed("all", &["--from", "2026-11-22"]);
    let headings: Vec<&str> = tables
        .lines()
        .filter(|line| line.starts_with("org-"))
        .collect();
    let heading = |org: &str| format!("{org}, 2026-11-22 to 2026-11-23 (UTC)");
    assert_eq!(headings, ["org-a", "org-b", "org-c"].map(heading));
    assert_eq!(printed("none", &[]), "nothing was used\n");
}

#[test]
fn a_caller_who_may_not_list_organizations_gets_no_output_and_the_services_error() {
    let clock = Clock::at(NOON);
    let service = with_callers(&clock);
    let ran = run_as("writer", &service, &["usage", "--all", "--csv"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
    let expected = "tollgate: PERMISSION_DENIED: ";
    assert!(ran.stderr.starts_with(expected), "{ran:?}");
}
