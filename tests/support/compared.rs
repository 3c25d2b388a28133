//! A service that compares `acme` with a stand-in for the provider's usage API.

use super::{
    calls::TextFile,
    clock::Clock,
    tollgate::Tollgate,
    usage_api::{ADMIN_KEY, UsageApiServer, UsageEvent},
    world::NOON,
};

pub struct ComparedService {
    pub tollgate: Tollgate,
    pub clock: Clock,
    pub api: UsageApiServer,
    _files: [TextFile; 3],
}

impl ComparedService {
    /// At noon, over memory, with this policy. `projects` are lines of TOML: names and ids.
    pub async fn start(policy: &str, projects: &str, events: Vec<UsageEvent>) -> Self {
        let clock = Clock::at(NOON);
        let api = UsageApiServer::start(NOON, events).await;
        let (policy, key) = (TextFile::new(policy), TextFile::new(ADMIN_KEY));
        let settings = TextFile::new(&format!(
            "[reconcile]\nevery = \"1s\"\nsettle_lag = \"5s\"\napi_base = \"{}\"\n\
             [reconcile.orgs.acme]\nadmin_key_file = \"{}\"\n\
             [reconcile.orgs.acme.projects]\n{projects}\n",
            api.base,
            key.path(),
        ));
        let files = ["--policy", policy.path(), "--config", settings.path()];
        let args = [&["--store", "memory:"], &files[..]].concat();
        Self {
            tollgate: Tollgate::start_at(&clock, &args),
            clock,
            api,
            _files: [policy, key, settings],
        }
    }
}
