//! README, "Does the provider agree?", followed literally, but for the address.

use std::path::Path;

use crate::support::{
    clock::Clock,
    tollgate::{Tollgate, program},
    tools::run,
    world::NOON,
};

/// The lines without the widths of their columns.
fn narrow(text: &str) -> Vec<String> {
    let lines = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    lines.filter(|line| !line.is_empty()).collect()
}

#[test]
fn the_readmes_example_prints_what_the_readme_shows() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let (_, section) = readme.split_once("## Does the provider agree?\n").unwrap();
    let (_, block) = section
        .split_once("```console\n$ cat usage.json\n")
        .unwrap();
    let (usage, rest) = block.split_once("$ tollgate ").unwrap();
    let (command, rest) = rest.split_once('\n').unwrap();
    let (wanted, _) = rest.split_once("```").unwrap();

    let (clock, dir) = (Clock::at(NOON), tempfile::tempdir().unwrap());
    let service = Tollgate::start_at(&clock, &["--store", "memory:"]);
    std::fs::write(dir.path().join("usage.json"), usage).unwrap();
    let tollgate = |words: &str| {
        clock.set(NOON);
        let mut program = program();
        clock.preload(&mut program);
        let words = words.split_whitespace();
        run(program
            .args(words)
            .args(["--addr", &service.addr])
            .current_dir(dir.path()))
    };
    // The first call, and the client's, of "The first call".
    let calls = [
        "reserve org-demo p gpt-4o 30000",
        "reserve org-demo p gpt-4o 945000 --request-id req-1",
        "reserve org-demo p gpt-4o 30000",
        "settle org-demo req-1 900000",
    ];
    for call in calls {
        assert!(readme.contains(call) || call == calls[0], "{call}");
        tollgate(call).expect_success();
    }
    let ran = tollgate(command);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert_eq!(narrow(&ran.stdout), narrow(wanted));
}
