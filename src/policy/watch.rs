//! Reloads the policy when its file changes (docs/CONTRACT.md, "Policy change").

use std::{path::Path, sync::Arc, time::Duration};

use chrono::{DateTime, SecondsFormat, Utc};
use tokio::{sync::watch, task::spawn_blocking};

use super::{BUILTIN_NAME, BUILTIN_TEXT, Policy, diff::Diff};
use crate::{
    domain::UtcDay,
    files::{
        memory::return_freed,
        toml::Faults,
        watched::{LoadError, Reload, ReloadSignal, Version, Watched},
    },
    wall_clock,
};

/// The policy in force, and its file.
#[derive(Debug)]
pub struct PolicySource {
    name: String,
    /// None if the policy is the built-in one.
    watched: Option<Watched<Policy, LoadError>>,
    /// Held here too, so that no call drops the last reference: that takes long.
    policy: Arc<Policy>,
    status: watch::Sender<PolicyStatus>,
}

/// Which policy is in force, and whether the file is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyStatus {
    /// The version of its text.
    pub version: Version,
    /// When it was loaded.
    pub loaded_at: DateTime<Utc>,
    /// How many policies were loaded since the start, without the first.
    pub applied: u64,
    /// How many times the file was refused since the start.
    pub refused: u64,
    /// When the file was refused, if it still is.
    pub refused_at: Option<DateTime<Utc>>,
}

/// The interval of checks whether a replaced policy is still in use.
const RELEASE_INTERVAL: Duration = Duration::from_millis(50);

impl PolicySource {
    /// Reads the policy file, of at most `max_bytes`, or takes the built-in policy if there is none. Blocks.
    ///
    /// # Errors
    ///
    /// Why the file is refused.
    pub fn open(file: Option<&Path>, max_bytes: u64) -> Result<Self, LoadError> {
        let (name, policy, watched) = match file {
            None => (BUILTIN_NAME.to_owned(), Policy::builtin(), None),
            Some(file) => {
                let name = file.display().to_string();
                let parse = {
                    let name = name.clone();
                    move |bytes: &[u8]| Ok(Policy::from_bytes(&name, bytes)?)
                };
                let (policy, watched) = Watched::open_file(file, max_bytes, parse)?;
                (name, policy, Some(watched))
            }
        };
        let builtin = Version::of(BUILTIN_TEXT.as_bytes());
        let status = watch::Sender::new(PolicyStatus {
            version: watched.as_ref().map_or(builtin, Watched::version),
            loaded_at: wall_clock::now(),
            applied: 0,
            refused: 0,
            refused_at: None,
        });
        Ok(Self {
            name,
            watched,
            policy: Arc::new(policy),
            status,
        })
    }

    /// The policy in force.
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy)
    }

    /// The file's path, or the name of the built-in policy.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The status, now and at each change.
    pub fn status(&self) -> watch::Receiver<PolicyStatus> {
        self.status.subscribe()
    }

    /// Follows the file, and passes each policy that is loaded to `apply`. Does not return.
    pub async fn follow(mut self, mut signal: ReloadSignal, apply: impl Fn(Arc<Policy>)) {
        let Some(watched) = self.watched.take() else {
            loop {
                signal.received().await;
                tracing::info!("asked to read the policy again: it is the built-in one");
            }
        };
        let mut watched = watched.with_signal(&signal);
        loop {
            let reload = watched.next().await;
            let (policy, policy_version) = (self.name(), self.status.borrow().version);
            match reload {
                Reload::Loaded(next) => self.replace(next, watched.version(), &apply).await,
                Reload::Rejected(error) => {
                    self.status.send_modify(|status| {
                        status.refused += 1;
                        status.refused_at = Some(wall_clock::now());
                    });
                    tracing::error!(
                        policy,
                        %policy_version,
                        %error,
                        faults = error.faults(),
                        "the policy file is not taken: the policy in force stays"
                    );
                }
                Reload::Restored => {
                    self.status.send_modify(|status| status.refused_at = None);
                    tracing::info!(policy, %policy_version, "the policy file is the one in force again");
                }
                Reload::Unchanged => {
                    tracing::info!(policy, %policy_version, "asked to read the policy file again: it is unchanged");
                }
                Reload::StillRejected => {
                    tracing::warn!(
                        policy,
                        %policy_version,
                        "asked to read the policy file again: it is what was refused before"
                    );
                }
                Reload::Unstable => {
                    tracing::warn!(policy, "the policy file is being written all the time");
                }
            }
        }
    }

    async fn replace(&mut self, next: Policy, version: Version, apply: impl Fn(Arc<Policy>)) {
        let next = Arc::new(next);
        let (before, after) = (self.policy(), Arc::clone(&next));
        let diff = spawn_blocking(move || before.diff(&after)).await;
        apply(Arc::clone(&next));
        let before = std::mem::replace(&mut self.policy, next);
        let replaces = self.status.borrow().version;
        self.status.send_modify(|status| {
            status.version = version;
            status.loaded_at = wall_clock::now();
            status.applied += 1;
            status.refused_at = None;
        });
        self.log_loaded(replaces, &diff.unwrap_or_default());
        self.log_warnings();
        tokio::spawn(free(before));
    }

    fn log_loaded(&self, replaces: Version, diff: &Diff) {
        tracing::info!(
            policy = self.name(),
            policy_version = %self.status.borrow().version,
            %replaces,
            organizations = self.policy.orgs.len(),
            orgs_added = diff.orgs_added.count,
            orgs_removed = diff.orgs_removed.count,
            orgs_changed = diff.orgs_changed.count,
            tier_changes = diff.tier_changes,
            added = diff.orgs_added.described(),
            removed = diff.orgs_removed.described(),
            changed = diff.orgs_changed.described(),
            program = diff.program.described(),
            pools_added = diff.pools_added.described(),
            pools_removed = diff.pools_removed.described(),
            models = diff.models.described(),
            capacities = diff.capacities.described(),
            margins = diff.margins.described(),
            allowances = diff.allowances.described(),
            "the policy file is taken"
        );
    }

    /// Logs the warnings of the policy in force.
    pub fn log_warnings(&self) {
        let faults = self.policy.warnings(UtcDay::of(wall_clock::now()));
        if !faults.is_empty() {
            let file = self.name.clone();
            tracing::warn!(
                policy = self.name(),
                policy_version = %self.status.borrow().version,
                warnings = Faults { file, faults }.summary(),
                "the policy is valid and has warnings"
            );
        }
    }
}

impl PolicyStatus {
    /// The line of `/readyz` while the file is refused.
    pub fn complaint(&self) -> Option<String> {
        let text = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
        let (refused_at, loaded_at) = (text(self.refused_at?), text(self.loaded_at));
        Some(format!(
            "policy: the file was refused at {refused_at}, the one of {loaded_at} stays"
        ))
    }
}

/// Frees a replaced policy once no call uses it. With 100,000 organizations that would delay a call too long.
async fn free(policy: Arc<Policy>) {
    // There are no new references, so the count only decreases.
    while Arc::strong_count(&policy) > 1 {
        tokio::time::sleep(RELEASE_INTERVAL).await;
    }
    let _ = spawn_blocking(move || drop(policy)).await;
    return_freed();
}
