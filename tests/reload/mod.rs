//! docs/CONTRACT.md, "Policy change": a real service whose policy file changes in every way that files can.

mod changes;
mod flapping;
mod large_policy;
mod policy_size;
mod refusals;
mod status;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    calls::{self, Client},
    tollgate::Tollgate,
    world::small_policy,
};

/// The contract says one second; more time for busy machines.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(5);

const LOADED: &str = "the policy file is taken";
const REFUSED: &str = "the policy file is not taken: the policy in force stays";

/// The small policy with this allowance for `large`, and a related one for `mini`.
fn policy(large: u64) -> String {
    let text = small_policy("keep_open").replace("large = 1_000", &format!("large = {large}"));
    text.replace("mini = 10_000", &format!("mini = {}", large + 1_000_000))
}

/// A folder with a policy file, and a service that follows it.
struct ReloadingService {
    dir: TempDir,
    tollgate: Tollgate,
    client: Client,
}

impl ReloadingService {
    /// Starts with the policy that grants `large` 1,000 tokens.
    fn start() -> Self {
        Self::start_in(|dir| fs::write(dir.join("policy.toml"), policy(1_000)).unwrap())
    }

    /// Starts with the folder's content.
    fn start_in(lay_out: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        lay_out(dir.path());
        let file = dir.path().join("policy.toml");
        let args = ["--store", "memory:", "--policy", file.to_str().unwrap()];
        let tollgate = Tollgate::start(&args);
        let client = tollgate.client();
        Self {
            dir,
            tollgate,
            client,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self) -> PathBuf {
        self.path("policy.toml")
    }

    fn write(&self, text: &str) {
        fs::write(self.file(), text).unwrap();
    }

    /// Waits until `large` has this allowance. Gives the time that it took.
    async fn grants(&self, large: u64) -> Duration {
        let begun = Instant::now();
        loop {
            let granted = calls::large(&self.client).await.allowance;
            if granted == large {
                return begun.elapsed();
            }
            let late = begun.elapsed() > RELOAD_TIMEOUT;
            assert!(!late, "{granted}, not {large}: {:#?}", self.tollgate.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn logged(&self, message: &str) -> Vec<Value> {
        let mut lines = self.tollgate.log();
        lines.retain(|line| {
            let received = line["message"].as_str();
            received.is_some_and(|received| received.starts_with(message))
        });
        lines
    }

    /// Waits until a log line has been written so often. Gives the last one.
    async fn waits_for(&self, message: &str, times: usize) -> Value {
        let begun = Instant::now();
        loop {
            let mut lines = self.logged(message);
            if lines.len() >= times {
                assert_eq!(lines.len(), times, "{lines:#?}");
                return lines.pop().unwrap();
            }
            let late = begun.elapsed() > RELOAD_TIMEOUT;
            assert!(!late, "{message}: {:#?}", self.tollgate.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
