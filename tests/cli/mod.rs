//! The built-in client: the real program against a real service.

mod bench;
mod check_policy;
mod client;
mod drift;
mod estimate;
mod external;
mod health;
mod program;
mod tls;
mod top;
mod usage;

use std::process::Command;

use serde_json::Value;
use tollgate::grpc::proto::ReserveRequest;

use crate::support::{
    clock::Clock,
    tollgate::{Tollgate, program},
    tools::{ProgramOutput, run},
    world::NOON,
};

/// Runs the program without a service.
fn tollgate(words: &[&str]) -> ProgramOutput {
    run(program().args(words))
}

/// A service and a client, both under a clock at noon.
struct Cli {
    service: Tollgate,
    clock: Clock,
}

impl Cli {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(args: &[&str]) -> Self {
        let clock = Clock::at(NOON);
        Self {
            service: Tollgate::start_at(&clock, args),
            clock,
        }
    }

    fn command(&self, words: &[&str]) -> Command {
        // Back to noon, so that the time to the reset is known.
        self.clock.set(NOON);
        let mut command = program();
        self.clock.preload(&mut command);
        command.args(words).args(["--addr", &self.service.addr]);
        command
    }

    fn run(&self, words: &str) -> ProgramOutput {
        let words: Vec<&str> = words.split_whitespace().collect();
        run(&mut self.command(&words))
    }

    /// A printed table, with its gaps reduced to one space.
    fn table(&self, words: &str) -> Vec<String> {
        let ran = self.run(words);
        assert_eq!(ran.stderr, "", "{words}");
        let narrow = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        ran.expect_success().lines().map(narrow).collect()
    }

    fn json(&self, words: &str) -> Value {
        let ran = self.run(&format!("{words} --json"));
        assert_eq!(ran.stderr, "", "{words}");
        serde_json::from_str(&ran.expect_success()).unwrap()
    }

    /// Counts one token for each of so many projects.
    async fn use_projects(&self, projects: usize) {
        let mut client = self.service.client();
        for project in 0..projects {
            let request = ReserveRequest {
                org: "org-demo".to_owned(),
                project: format!("project-{project:04}"),
                model: "gpt-4o".to_owned(),
                tokens: 1,
                ..ReserveRequest::default()
            };
            client.reserve(request).await.unwrap();
        }
    }
}
