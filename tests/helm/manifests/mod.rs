//! The manifests of each set of values.

mod all_options;
mod files;
mod stores;
mod tls;

use serde_json::{Value, json};

use super::Manifests;

fn names(manifests: &Manifests, kind: &str) -> Vec<String> {
    let all = manifests.all(kind).into_iter();
    all.map(|it| it["metadata"]["name"].as_str().unwrap().to_owned())
        .collect()
}

/// A variable of the service's container.
fn variable<'m>(manifests: &'m Manifests, name: &str) -> Option<&'m Value> {
    let variables = manifests.container()["env"].as_array().unwrap();
    variables.iter().find(|it| it["name"] == name)
}

fn strings(list: &Value) -> Vec<String> {
    let list = list.as_array().unwrap().iter();
    list.map(|it| it.as_str().unwrap().to_owned()).collect()
}

fn secret_variable(secret: &str, key: &str) -> Value {
    json!({"secretKeyRef": {"name": secret, "key": key}})
}

/// The Secret that is mounted as a directory below /etc/tollgate.
fn mounted_secret(manifests: &Manifests, directory: &str) -> Option<String> {
    let path = format!("/etc/tollgate/{directory}");
    let mounts = manifests.container()["volumeMounts"].as_array().unwrap();
    let mount = mounts.iter().find(|it| it["mountPath"] == path)?;
    assert_eq!(mount["readOnly"], true);
    let volumes = manifests.pod()["volumes"].as_array().unwrap();
    let volume = volumes
        .iter()
        .find(|it| it["name"] == mount["name"])
        .unwrap();
    assert_eq!(volume["secret"]["defaultMode"], 0o440);
    Some(volume["secret"]["secretName"].as_str().unwrap().to_owned())
}

fn service_probes(manifests: &Manifests) -> [&Value; 3] {
    ["startupProbe", "livenessProbe", "readinessProbe"].map(|it| &manifests.container()[it])
}
