//! The real program, started like a pod of the chart, except for addresses and paths.

use std::{fs, path::Path};

use serde_json::Value;
use tempfile::TempDir;
use tollgate::grpc::proto::{ReserveRequest, ReserveResponse};
use tonic_health::pb::health_check_response::ServingStatus;

use super::{Manifests, render};
use crate::{
    server::http_get,
    support::{
        certificates::Authority,
        clock::Clock,
        redis::RedisServer,
        tollgate::{Tollgate, program},
        tools::{ProgramOutput, run},
        world::NOON,
    },
};

/// An external policy in a ConfigMap.
const EXTERNAL_POLICY: &str = "\
[pools.large]
models = ['gpt-4o']
[tiers.1]
large = 250_000
[orgs.org-x]
tier = 1
data_sharing = 'all'
";

/// The program, started like a pod of the chart.
pub(super) struct Pod {
    pub(super) manifests: Manifests,
    pub(super) service: Tollgate,
    pub(super) root: TempDir,
    pub(super) _redis: Option<RedisServer>,
    _clock: Clock,
}

impl Pod {
    pub(super) fn start(set: &str) -> Self {
        Self::of(render(set))
    }

    pub(super) fn of(manifests: Manifests) -> Self {
        let root = tempfile::tempdir().unwrap();
        mount(&manifests, root.path());
        let container = manifests.container();
        assert_eq!(container["args"], serde_json::json!(["serve"]));
        let redis = (manifests.workload()["kind"] == "Deployment").then(RedisServer::start);
        let clock = Clock::at(NOON);
        let service = Tollgate::start_with(&[], |command| {
            clock.preload(command);
            for variable in container["env"].as_array().unwrap() {
                let name = variable["name"].as_str().unwrap();
                match variable["value"].as_str() {
                    Some(value) => command.env(name, moved(value, root.path())),
                    // The Secrets of these pods.
                    None if name == "TOLLGATE_STORE" => {
                        command.env(name, redis.as_ref().unwrap().url())
                    }
                    None => panic!("{variable}"),
                };
            }
        });
        Self {
            manifests,
            service,
            root,
            _redis: redis,
            _clock: clock,
        }
    }

    pub(super) async fn reserve(
        &self,
        org: &str,
        project: &str,
        model: &str,
        tokens: u64,
    ) -> ReserveResponse {
        let request = ReserveRequest {
            org: org.to_owned(),
            project: project.to_owned(),
            model: model.to_owned(),
            tokens,
            ..ReserveRequest::default()
        };
        let answer = self.service.client().reserve(request).await;
        answer.unwrap().into_inner()
    }

    /// Runs the pod's three probes.
    pub(super) async fn probe(&self) {
        self.service
            .wait_for_readiness(ServingStatus::Serving)
            .await;
        for kind in ["startupProbe", "livenessProbe", "readinessProbe"] {
            let probe = &self.manifests.container()[kind];
            if let Some(name) = probe["grpc"]["service"].as_str() {
                assert_eq!(
                    self.service.health(name).await,
                    Some(ServingStatus::Serving),
                    "{kind}"
                );
            } else {
                let path = probe["httpGet"]["path"].as_str().unwrap();
                let (head, _) = http_get(&self.service.http_addr, path);
                assert!(head.starts_with("HTTP/1.1 200 "), "{kind}: {head}");
            }
        }
    }

    /// Runs a container of the test pod with this pod uid.
    pub(super) fn run_client(&self, container: &Value, uid: &str) -> ProgramOutput {
        let address = container["args"].as_array().unwrap().iter();
        let mut next_is_address = false;
        let args: Vec<String> = address
            .map(|arg| {
                let arg = arg.as_str().unwrap();
                if std::mem::replace(&mut next_is_address, arg == "--addr") {
                    assert_eq!(arg, "rel-tollgate.ns.svc:50051");
                    return self.service.addr.clone();
                }
                arg.replace("$(POD_UID)", uid)
            })
            .collect();
        let uid_of_pod = &container["env"][0];
        assert_eq!(uid_of_pod["name"], "POD_UID");
        assert_eq!(
            uid_of_pod["valueFrom"]["fieldRef"]["fieldPath"],
            "metadata.uid"
        );
        run(program().args(args))
    }
}

/// Writes the files of the ConfigMaps to their mount paths, below another root.
fn mount(manifests: &Manifests, root: &Path) {
    let volumes = manifests.pod()["volumes"].as_array().unwrap();
    for mount in manifests.container()["volumeMounts"].as_array().unwrap() {
        let folder = root.join(mount["mountPath"].as_str().unwrap().trim_start_matches('/'));
        fs::create_dir_all(&folder).unwrap();
        let volume = volumes.iter().find(|it| it["name"] == mount["name"]);
        if volume.is_some_and(|it| it["secret"].is_object()) {
            write_secret(&folder);
            continue;
        }
        let Some(name) = volume.and_then(|it| it["configMap"]["name"].as_str()) else {
            continue;
        };
        let foreign = serde_json::json!({"the-policy.toml": EXTERNAL_POLICY});
        let made = manifests.named("ConfigMap", name).map(|it| &it["data"]);
        for (key, text) in made.unwrap_or(&foreign).as_object().unwrap() {
            fs::write(folder.join(key), moved(text.as_str().unwrap(), root)).unwrap();
        }
    }
}

/// Writes the content of a Secret: a certificate, its key and authority, and callers.
fn write_secret(folder: &Path) {
    let authority = Authority::new();
    let files = authority.sign("server", &["localhost"]);
    for (key, file) in [
        ("tls.crt", &files.cert),
        ("tls.key", &files.key),
        ("ca.crt", &authority.file()),
    ] {
        fs::copy(file, folder.join(key)).unwrap();
    }
    let callers = "[callers.gateway]\ncertificates = [\"gateway.internal\"]\n\
                   roles = [\"reserve\"]\norganizations = [\"*\"]\n";
    for key in ["who.toml", "callers.toml"] {
        fs::write(folder.join(key), callers).unwrap();
    }
}

/// Replaces the paths of mounted files by paths below another root.
fn moved(text: &str, root: &Path) -> String {
    let root = root.to_str().unwrap();
    text.replace("/etc/tollgate/", &format!("{root}/etc/tollgate/"))
        .replace("/var/lib/tollgate/", &format!("{root}/var/lib/tollgate/"))
}
