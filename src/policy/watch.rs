//! Keeps the policy true to its file while the service runs.
//!
//! Rules: docs/CONTRACT.md, "Policy change". A file that is valid is taken whole; one that is not, is refused
//! whole, and the policy in force stays. All that takes long, reading, parsing, comparing, freeing, is done
//! where no call waits for it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, SecondsFormat, Utc};
use tokio::sync::watch;

use super::{
    BUILTIN_NAME, Policy,
    diff::{Diff, Truncated},
    load::{self, LoadError, LoadedPolicy, MAX_BYTES, Version},
};
use crate::{
    domain::UtcDay,
    files::{
        read::{ReadError, read_file},
        toml::Faults,
        watched::{FileWatcher, ReloadCause, ReloadSignal},
    },
};

/// The policy in force, and the file that it follows, where there is one.
#[derive(Debug)]
pub struct PolicySource {
    file: Option<PathBuf>,
    /// Held here too, so that no call is ever the last one to hold it, and has to free it.
    in_force: LoadedPolicy,
    /// The last thing that was refused, as long as nothing else came after.
    refused: Option<Refused>,
    /// Whether it is known already that the file is being written all the time.
    unstable: bool,
    status: watch::Sender<PolicyStatus>,
}

/// How the policy stands, for whoever shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyStatus {
    /// Which text it was read from.
    pub version: Version,
    /// When it was taken.
    pub loaded_at: DateTime<Utc>,
    /// How often another policy was taken since the start.
    pub applied: u64,
    /// How often the file was refused since the start.
    pub refused: u64,
    /// When the file was refused, where what is there now is.
    pub refused_at: Option<DateTime<Utc>>,
}

/// What was refused, so that the same is not refused again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Refused {
    Text(Version),
    /// For this reason.
    File(String),
}

/// What was found where the policy file should be.
enum Found {
    /// The text that is in force.
    InForce,
    /// What was refused already.
    SameRefused,
    /// Nothing to judge: it is being written.
    Unstable,
    Another(LoadedPolicy, Box<Diff>),
    Faulty(Refused, LoadError),
}

/// How often it is looked whether a policy that was replaced is still in use.
const RELEASE_INTERVAL: Duration = Duration::from_millis(50);

impl PolicySource {
    /// Reads the policy file; without one, the built-in policy is in force. Blocks.
    ///
    /// # Errors
    ///
    /// Why the file is refused.
    pub fn open(file: Option<&Path>) -> Result<Self, LoadError> {
        let in_force = file.map_or_else(|| Ok(LoadedPolicy::builtin()), LoadedPolicy::read)?;
        let status = watch::Sender::new(PolicyStatus {
            version: in_force.version,
            loaded_at: crate::wall_clock::now(),
            applied: 0,
            refused: 0,
            refused_at: None,
        });
        Ok(Self {
            file: file.map(Path::to_owned),
            in_force,
            refused: None,
            unstable: false,
            status,
        })
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.in_force.policy)
    }

    /// The file's path, or the name of the built-in policy.
    #[must_use]
    pub fn name(&self) -> String {
        let path = self.file.as_deref().map(|file| file.display().to_string());
        path.unwrap_or_else(|| BUILTIN_NAME.to_owned())
    }

    /// How it stands, now and from now on.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<PolicyStatus> {
        self.status.subscribe()
    }

    /// Follows the file: hands each policy that is taken to `take`, from which on it shall hold. Has no end.
    pub async fn follow(mut self, reload: ReloadSignal, take: impl Fn(Arc<Policy>)) {
        let mut watch = FileWatcher::new(self.file.clone(), &reload);
        loop {
            let cause = watch.changed().await;
            match self.file.clone() {
                Some(file) => self.look(file, cause, &take).await,
                None if cause == ReloadCause::Requested => {
                    tracing::info!("asked to read the policy again: it is the built-in one");
                }
                None => {}
            }
        }
    }

    async fn look(&mut self, file: PathBuf, cause: ReloadCause, take: impl Fn(Arc<Policy>)) {
        let (in_force, refused) = (self.in_force.clone(), self.refused.clone());
        let found = tokio::task::spawn_blocking(move || find(&file, &in_force, refused.as_ref()));
        let found = found.await.unwrap_or_else(|died| {
            let defect = LoadError::Defect(died.to_string());
            Found::Faulty(Refused::File(defect.to_string()), defect)
        });
        let was_unstable = std::mem::take(&mut self.unstable);
        match found {
            Found::Another(taken, diff) => self.replace(taken, &diff, take),
            Found::Faulty(what, why) => self.refuse(what, &why),
            Found::InForce => self.in_force_again(cause),
            Found::SameRefused if cause == ReloadCause::Requested => {
                tracing::warn!(
                    policy = %self.name(),
                    policy_version = %self.in_force.version,
                    "asked to read the policy file again: it is what was refused before"
                );
            }
            Found::SameRefused => {}
            Found::Unstable => {
                self.unstable = true;
                if !was_unstable {
                    tracing::warn!(policy = %self.name(), "the policy file is being written all the time");
                }
            }
        }
    }

    fn replace(&mut self, taken: LoadedPolicy, diff: &Diff, take: impl Fn(Arc<Policy>)) {
        take(Arc::clone(&taken.policy));
        let before = std::mem::replace(&mut self.in_force, taken);
        self.refused = None;
        self.status.send_modify(|status| {
            status.version = self.in_force.version;
            status.loaded_at = crate::wall_clock::now();
            status.applied += 1;
            status.refused_at = None;
        });
        log_taken(&self.name(), &self.in_force, before.version, diff);
        self.log_warnings();
        tokio::spawn(free(before.policy));
    }

    /// Logs the warnings of the policy in force.
    pub fn log_warnings(&self) {
        let faults = self
            .in_force
            .policy
            .warnings(UtcDay::of(crate::wall_clock::now()));
        if !faults.is_empty() {
            let file = self.name();
            tracing::warn!(
                policy = self.name(),
                policy_version = %self.in_force.version,
                warnings = load::told(&Faults { file, faults }),
                "the policy is valid and has warnings"
            );
        }
    }

    fn refuse(&mut self, what: Refused, why: &LoadError) {
        self.refused = Some(what);
        self.status.send_modify(|status| {
            status.refused += 1;
            status.refused_at = Some(crate::wall_clock::now());
        });
        tracing::error!(
            policy = %self.name(),
            policy_version = %self.in_force.version,
            error = %why,
            faults = why.faults(),
            "the policy file is not taken: the policy in force stays"
        );
    }

    fn in_force_again(&mut self, cause: ReloadCause) {
        let (policy, policy_version) = (self.name(), self.in_force.version);
        if self.refused.take().is_some() {
            self.status.send_modify(|status| status.refused_at = None);
            tracing::info!(policy, %policy_version, "the policy file is the one in force again");
        } else if cause == ReloadCause::Requested {
            tracing::info!(policy, %policy_version, "asked to read the policy file again: it is unchanged");
        }
    }
}

impl PolicyStatus {
    /// What is to be said of a file that is refused, as long as it is.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        let text = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
        let (refused_at, loaded_at) = (text(self.refused_at?), text(self.loaded_at));
        Some(format!(
            "policy: the file was refused at {refused_at}, the one of {loaded_at} stays"
        ))
    }
}

impl LoadError {
    fn faults(&self) -> Option<usize> {
        match self {
            Self::Faulty(faults) => Some(faults.faults.len()),
            Self::Unreadable(_) | Self::Defect(_) => None,
        }
    }
}

/// Reads the file, and compares it with what is known. Blocks.
fn find(file: &Path, in_force: &LoadedPolicy, refused: Option<&Refused>) -> Found {
    let bytes = match read_file(file, MAX_BYTES) {
        Ok(bytes) => bytes,
        Err(ReadError::Unstable) => return Found::Unstable,
        Err(error) => {
            let what = Refused::File(error.to_string());
            return Found::refused(what, LoadError::Unreadable(error), refused);
        }
    };
    let version = Version::of(&bytes);
    if version == in_force.version {
        return Found::InForce;
    }
    if refused == Some(&Refused::Text(version)) {
        return Found::SameRefused;
    }
    match load::parse(&file.display().to_string(), &bytes) {
        Ok(policy) => {
            let diff = Box::new(in_force.policy.diff(&policy));
            let policy = Arc::new(policy);
            Found::Another(LoadedPolicy { policy, version }, diff)
        }
        Err(why) => Found::refused(Refused::Text(version), why, refused),
    }
}

impl Found {
    fn refused(what: Refused, why: LoadError, before: Option<&Refused>) -> Self {
        if before == Some(&what) {
            Self::SameRefused
        } else {
            Self::Faulty(what, why)
        }
    }
}

fn log_taken(name: &str, taken: &LoadedPolicy, before: Version, diff: &Diff) {
    fn first<T: std::fmt::Display>(listed: &Truncated<T>) -> Option<String> {
        (listed.count > 0).then(|| listed.to_string())
    }
    tracing::info!(
        policy = name,
        policy_version = %taken.version,
        replaces = %before,
        organizations = taken.policy.orgs().len(),
        orgs_added = diff.orgs_added.count,
        orgs_removed = diff.orgs_removed.count,
        orgs_changed = diff.orgs_changed.count,
        tier_changes = diff.tier_changes,
        added = first(&diff.orgs_added),
        removed = first(&diff.orgs_removed),
        changed = first(&diff.orgs_changed),
        program = first(&diff.program),
        pools_added = first(&diff.pools_added),
        pools_removed = first(&diff.pools_removed),
        models = first(&diff.models),
        allowances = first(&diff.allowances),
        "the policy file is taken"
    );
}

/// Frees a policy that was replaced, once no call uses it any more: with 100,000 organizations that takes
/// longer than a call may.
async fn free(policy: Arc<Policy>) {
    // Nobody can come to hold it any more, so the count only falls.
    while Arc::strong_count(&policy) > 1 {
        tokio::time::sleep(RELEASE_INTERVAL).await;
    }
    // Where the process ends before, there is nothing to free.
    let _ = tokio::task::spawn_blocking(move || drop(policy)).await;
}
