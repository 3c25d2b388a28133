//! Large policies: their bound, the memory that they take, and faults in the middle of them.

use std::{
    fmt::Write as _,
    fs,
    time::{Duration, Instant},
};

use super::{ReloadingService, policy};
use crate::{
    reload::large_policy::taken,
    server::settings_of,
    support::{
        calls::TextFile,
        tollgate::program,
        tools::{ProgramOutput, run},
    },
};

/// As many as a debug build reads in some seconds. `cargo bench --bench goals` has a million.
const ORGANIZATIONS: usize = 200_000;

const MAX_BYTES_EACH: u64 = 300;

/// Since the policy was read.
const MAX_RETURN_TIME: Duration = Duration::from_secs(10);

const MIB: usize = 1 << 20;

fn organizations(from: usize, count: usize) -> String {
    let mut text = String::new();
    for org in from..from + count {
        let _ = write!(
            text,
            "[orgs.org-{org:024x}]\ntier = 1\ndata_sharing = \"all\"\n"
        );
    }
    text
}

#[tokio::test]
async fn a_large_policy_takes_little_memory_and_the_rest_is_given_back_without_a_call() {
    let service = ReloadingService::start();
    let before = service.tollgate.memory();
    let text = policy(1_000) + &organizations(0, ORGANIZATIONS);
    fs::write(service.path("next"), &text).unwrap();
    fs::rename(service.path("next"), service.file()).unwrap();
    taken(&service, 1).await;
    let read_at = Instant::now();
    let organizations = MAX_BYTES_EACH * ORGANIZATIONS as u64;
    let peak = service.tollgate.peak_memory().saturating_sub(before);
    // While it is read, its text is in memory too.
    assert!(
        peak <= text.len() as u64 + organizations,
        "{peak} bytes while it was read"
    );
    loop {
        let grown = service.tollgate.memory().saturating_sub(before);
        if grown <= organizations {
            return;
        }
        assert!(
            read_at.elapsed() < MAX_RETURN_TIME,
            "{} bytes for each organization",
            grown / ORGANIZATIONS as u64
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn check_policy(file: &TextFile, words: &[&str], variable: &str) -> ProgramOutput {
    let mut command = program();
    command.args(["check-policy", file.path()]).args(words);
    run(command.env("TOLLGATE_POLICY_BYTES", variable))
}

#[test]
fn a_policy_file_larger_than_policy_bytes_is_refused() {
    let text = policy(7);
    let filled =
        |len: usize| TextFile::new(&format!("{text}#{}\n", " ".repeat(len - text.len() - 2)));
    let (fits, too_large) = (filled(MIB), filled(MIB + 1));
    for (words, variable) in [
        (&["--policy-bytes", "1048576"][..], "2000000"),
        (&[], "1048576"),
    ] {
        check_policy(&fits, words, variable).expect_success();
        let refused = check_policy(&too_large, words, variable);
        assert!(
            refused.stderr.contains("it is larger than 1 MiB"),
            "{refused:?}"
        );
    }
    check_policy(&too_large, &[], "").expect_success();
    let served = run(program().args([
        "serve",
        "--policy-bytes",
        "1048576",
        "--policy",
        too_large.path(),
    ]));
    assert!(served.stderr.contains("larger than 1 MiB"), "{served:?}");
}

#[test]
fn policy_bytes_are_one_mebibyte_to_one_gibibyte() {
    assert_eq!(settings_of("").unwrap().policy_bytes, 128 << 20);
    for bytes in ["1048576", "1073741824"] {
        let settings = settings_of(&format!("policy_bytes = {bytes}")).unwrap();
        assert_eq!(settings.policy_bytes.to_string(), bytes);
    }
    let file = TextFile::new(&policy(7));
    for bytes in ["1048575", "1073741825"] {
        let fault = format!("is {bytes}, allowed are 1048576 to 1073741824");
        let in_file = settings_of(&format!("policy_bytes = {bytes}")).unwrap_err();
        assert!(in_file.contains(&fault), "{in_file}");
        for refused in [
            check_policy(&file, &["--policy-bytes", bytes], ""),
            check_policy(&file, &[], bytes),
            run(program().env("TOLLGATE_POLICY_BYTES", bytes)),
        ] {
            assert!(refused.stderr.contains(&fault), "{refused:?}");
        }
    }
}

#[test]
fn faults_in_the_middle_of_a_large_policy_have_their_lines() {
    let faulty = "[orgs.faulty]\ntear = 1\ndata_sharing = \"some\"\n[tiers.6]\n[orgs.faulty.shares]\np = 5.5\n";
    let text = policy(7) + &organizations(0, 2_000) + faulty + &organizations(1_999, 2_000);
    let refused = check_policy(&TextFile::new(&text), &[], "");
    let at = policy(7).lines().count() + 3 * 2_000;
    let last_org = format!("{:024x}", 1_999);
    let faults = [
        (1, "orgs.faulty.tier: is missing".to_owned()),
        (
            2,
            "orgs.faulty.tear: unknown key; the nearest known one is \"tier\"".to_owned(),
        ),
        (
            3,
            "orgs.faulty.data_sharing: \"some\" is neither".to_owned(),
        ),
        (4, "tiers.6: is no usage tier".to_owned()),
        (6, "orgs.faulty.shares.p: must be".to_owned()),
        (7, format!("org-{last_org}: duplicate key")),
        (8, "tier: duplicate key".to_owned()),
        (9, "data_sharing: duplicate key".to_owned()),
    ];
    assert!(
        refused.stderr.starts_with("tollgate: 8 faults\n"),
        "{refused:?}"
    );
    for ((line, fault), shown) in faults.iter().zip(refused.stderr.lines().skip(1)) {
        let wanted = format!(":{}: {fault}", at + line);
        assert!(shown.contains(&wanted), "{wanted} is not in {shown}");
    }
}
