//! TLS on either port: settings, Secrets, probes, metrics and the test pod.

use serde_json::json;

use super::{mounted_secret, service_probes, strings};
use crate::helm::{render, render_with, toml};

#[test]
fn with_tls_on_the_grpc_port_probes_ask_the_http_port() {
    let made = render("mtls");
    let settings = toml(made.settings());
    let file = |name: &str| format!("/etc/tollgate/tls/{name}");
    assert_eq!(
        settings["tls"],
        json!({
            "cert_file": file("tls.crt"), "key_file": file("tls.key"),
            "client_ca_file": file("ca.crt"), "client_certificates": "required",
        })
    );
    assert_eq!(settings.get("http_tls"), None);
    let service = render_with("mtls", &["--set", "service.headless.enabled=true"]);
    for (name, ports) in [("rel-tollgate", 2), ("rel-tollgate-headless", 1)] {
        let service = service.named("Service", name).unwrap();
        let all = service["spec"]["ports"].as_array().unwrap();
        assert_eq!(
            (&all[0]["name"], &all[0]["appProtocol"], all.len()),
            (&json!("grpc"), &json!("https"), ports)
        );
    }
    assert_eq!(settings["callers"], "/etc/tollgate/callers/who.toml");
    assert_eq!(mounted_secret(&made, "tls").unwrap(), "tollgate-tls");
    assert_eq!(
        mounted_secret(&made, "callers").unwrap(),
        "tollgate-callers"
    );
    let paths = ["/livez", "/livez", "/readyz"];
    for (probe, path) in service_probes(&made).into_iter().zip(paths) {
        assert_eq!(
            probe["httpGet"],
            json!({"path": path, "port": "http", "scheme": "HTTP"})
        );
        assert_eq!(probe.get("grpc"), None);
    }
    // The test pod has its own certificate.
    let test = &made.tests()[0]["spec"];
    let secret = &test["volumes"][0]["secret"];
    assert_eq!(
        (&secret["secretName"], &secret["defaultMode"]),
        (&json!("tollgate-client"), &json!(0o440))
    );
    for container in [&test["initContainers"][0], &test["containers"][0]] {
        let args = strings(&container["args"]);
        let of_tls = [
            "--ca-file /etc/tollgate/tls/ca.crt",
            "--cert-file /etc/tollgate/tls/tls.crt",
            "--key-file /etc/tollgate/tls/tls.key",
        ];
        let words = of_tls.join(" ");
        assert!(args.join(" ").ends_with(&words), "{args:?}");
        assert!(
            args.contains(&"https://rel-tollgate.ns.svc:50051".to_owned()),
            "{args:?}"
        );
        assert_eq!(
            container["volumeMounts"][0]["mountPath"],
            "/etc/tollgate/tls"
        );
    }
    // Without it, the port would refuse the pod.
    let none = render_with("mtls", &["--set", "test.tlsSecret=null"]);
    assert!(none.tests().is_empty());
}

#[test]
fn with_tls_on_the_http_port_probes_and_metrics_speak_it() {
    let made = render("http-tls");
    for probe in service_probes(&made) {
        assert_eq!(probe["httpGet"]["scheme"], "HTTPS");
    }
    let settings = toml(made.settings());
    let file = |name: &str| format!("/etc/tollgate/http-tls/{name}");
    assert_eq!(
        settings["http_tls"],
        json!({"cert_file": file("tls.crt"), "key_file": file("tls.key")})
    );
    assert_eq!(
        mounted_secret(&made, "http-tls").unwrap(),
        "tollgate-http-tls"
    );
    let service = made.named("Service", "rel-tollgate").unwrap();
    assert_eq!(service["spec"]["ports"][1]["appProtocol"], "https");
    let endpoint = &made.one("ServiceMonitor")["spec"]["endpoints"][0];
    assert_eq!(endpoint["scheme"], "https");
    assert_eq!(endpoint["tlsConfig"], json!({"insecureSkipVerify": true}));
}
