//! A real Prometheus scrapes a running service.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;
use tonic_health::pb::health_check_response::ServingStatus;

use super::{WAIT_TIMEOUT, scrape};
use crate::support::{
    calls::{TextFile, new_reserve},
    free_port,
    tollgate::Tollgate,
    tools::{run, tool},
    world::small_policy,
};

/// A Prometheus that scrapes one service as the job `tollgate`.
struct Prometheus {
    process: Child,
    addr: String,
    _dir: TempDir,
}

impl Prometheus {
    async fn start(target: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("prometheus.yml");
        let rules = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/helm/tollgate/files/alerts.yaml"
        );
        let text = format!(
            "global: {{scrape_interval: 200ms, evaluation_interval: 200ms, scrape_timeout: 200ms}}\n\
             rule_files: ['{rules}']\n\
             scrape_configs: [{{job_name: tollgate, static_configs: [{{targets: ['{target}']}}]}}]\n"
        );
        fs::write(&config, text).unwrap();
        let addr = format!("127.0.0.1:{}", free_port());
        let log = File::create(dir.path().join("log")).unwrap();
        let process = Command::new(tool("bin/prometheus"))
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                dir.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={addr}"))
            .current_dir(dir.path())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let prometheus = Self {
            process,
            addr,
            _dir: dir,
        };
        let deadline = Instant::now() + WAIT_TIMEOUT;
        while tokio::net::TcpStream::connect(&prometheus.addr)
            .await
            .is_err()
        {
            assert!(Instant::now() < deadline, "Prometheus does not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Its port opens before it answers.
        while !get(&prometheus.addr, "/-/ready")
            .0
            .starts_with("HTTP/1.0 200 ")
        {
            assert!(Instant::now() < deadline, "Prometheus is not ready");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        prometheus
    }

    fn api(&self, path: &str) -> Value {
        let (head, body) = get(&self.addr, path);
        assert!(head.starts_with("HTTP/1.0 200 "), "{head}\n{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// The values of a query's result.
    fn query(&self, query: &str) -> Vec<f64> {
        let query =
            percent_encoding::utf8_percent_encode(query, percent_encoding::NON_ALPHANUMERIC);
        let answer = self.api(&format!("/api/v1/query?query={query}"));
        let series = answer["data"]["result"].as_array().unwrap().iter();
        let values = series.map(|it| it["value"][1].as_str().unwrap().parse().unwrap());
        values.collect()
    }

    async fn wait_for(&self, query: &str, wanted: f64) {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        while self.query(query) != [wanted] {
            assert!(
                Instant::now() < deadline,
                "{query} is {:?}, not {wanted}: {}",
                self.query(query),
                self.api("/api/v1/targets")
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// A GET in HTTP/1.0, whose answer is not chunked.
fn get(addr: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {addr}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), body.to_owned())
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn prometheus_scrapes_what_was_called() {
    // Without thresholds, only these requests call the store.
    let policy = small_policy("keep_open").replace("[orgs.acme]", "[orgs.acme]\nnotify_at = []");
    let policy = TextFile::new(&policy);
    let tollgate = Tollgate::start(&["--store", "memory:", "--policy", policy.path()]);
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    let prometheus = Prometheus::start(&tollgate.http_addr).await;
    let mut client = tollgate.client();
    for id in 0..13 {
        client
            .reserve(new_reserve(100, &id.to_string()))
            .await
            .unwrap();
    }
    client.reserve(new_reserve(0, "")).await.unwrap_err();
    for (query, wanted) in [
        (r#"up{job="tollgate"}"#, 1.0),
        (
            r#"tollgate_requests_total{rpc="Reserve",verdict="FREE"}"#,
            10.0,
        ),
        (
            r#"sum(tollgate_requests_total{reason="ALLOWANCE_EXCEEDED"})"#,
            3.0,
        ),
        (
            r#"tollgate_requests_total{rpc="Reserve",code="INVALID_ARGUMENT"}"#,
            1.0,
        ),
        (
            r#"tollgate_tokens_total{pool="large",kind="free"}"#,
            1_000.0,
        ),
        (
            r#"tollgate_tokens_total{pool="large",kind="billed"}"#,
            300.0,
        ),
        (r#"tollgate_reservations_total{transition="held"}"#, 13.0),
        (
            r#"tollgate_request_duration_seconds_count{rpc="Reserve"}"#,
            14.0,
        ),
        (
            r#"tollgate_request_duration_seconds_bucket{rpc="Reserve",le="+Inf"}"#,
            14.0,
        ),
        (
            r#"tollgate_store_call_duration_seconds_count{outcome="decided"}"#,
            13.0,
        ),
        (r#"tollgate_store_batch_decisions_bucket{le="1.0"}"#, 13.0),
        ("tollgate_ready", 1.0),
        ("tollgate_store_up", 1.0),
        ("count(tollgate_build_info)", 1.0),
        ("count(tollgate_policy_info)", 1.0),
        ("process_open_fds > bool 0", 1.0),
    ] {
        prometheus.wait_for(query, wanted).await;
    }
    // It has loaded our rules without an error.
    let rules = prometheus.api("/api/v1/rules");
    let rules = rules["data"]["groups"][0]["rules"].as_array().unwrap();
    assert!(rules.len() >= 11);
    for rule in rules {
        assert_ne!(rule["health"], "err", "{rule}");
        assert_ne!(rule["state"], "firing", "{rule}");
    }
}

/// Converts to the older format that promtool reads: the lines of a family have the name of its samples, and there are
/// no infos and no end mark.
fn in_the_older_format(text: &str) -> String {
    let mut lines = Vec::new();
    let mut help = String::new();
    for line in text.lines() {
        if line.starts_with("# HELP ") {
            line.clone_into(&mut help);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                kind => ("", kind),
            };
            let received = help.strip_prefix(&format!("# HELP {name} ")).unwrap();
            lines.push(format!("# HELP {name}{suffix} {received}"));
            lines.push(format!("# TYPE {name}{suffix} {kind}"));
        } else if line != "# EOF" {
            lines.push(line.to_owned());
        }
    }
    lines.join("\n") + "\n"
}

#[tokio::test]
async fn promtool_finds_no_fault() {
    let tollgate = Tollgate::start(&["--store", "memory:"]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("metrics");
    fs::write(&file, in_the_older_format(&scrape(&tollgate))).unwrap();
    let checked = run(Command::new("sh")
        .arg("-c")
        .arg("exec \"$0\" check metrics <\"$1\"")
        .arg(tool("bin/promtool"))
        .arg(&file));
    assert_eq!(
        (checked.code, checked.stderr.as_str()),
        (Some(0), ""),
        "{checked:?}"
    );
}

/// Organizations whose names look like the text format.
const ODD_NAMES: [&str; 3] = [r#"a"} 1"#, r"back\slash\", "Ä {x=\"y\",} # HELP"];

#[tokio::test]
async fn prometheus_reads_the_gauges_of_organizations_with_any_name() {
    let orgs = ODD_NAMES.iter().map(|org| {
        let key = Value::from(*org).to_string();
        format!("[orgs.{key}]\ntier = 1\ndata_sharing = \"all\"\n")
    });
    let policy = "[program]\nname = \"test\"\n[pools.large]\nmodels = [\"gpt-4o\"]\n[tiers.1]\nlarge = 1_000\n"
        .to_owned()
        + &orgs.collect::<String>();
    let (policy, settings) = (
        TextFile::new(&policy),
        TextFile::new("[metrics]\norganizations = \"all\"\n"),
    );
    let tollgate = Tollgate::start(&[
        "--store",
        "memory:",
        "--policy",
        policy.path(),
        "--config",
        settings.path(),
    ]);
    tollgate.wait_for_readiness(ServingStatus::Serving).await;
    let mut reserve = new_reserve(960, "a");
    ODD_NAMES[0].clone_into(&mut reserve.org);
    tollgate.client().reserve(reserve).await.unwrap();
    let prometheus = Prometheus::start(&tollgate.http_addr).await;
    for (query, wanted) in [
        (
            r#"sum(tollgate_pool_tokens{kind="allowance",pool="large"})"#,
            3_000.0,
        ),
        (r#"sum(tollgate_pool_tokens{kind="used"})"#, 960.0),
        (r#"sum(tollgate_pool_tokens{kind="held"})"#, 960.0),
        (r#"tollgate_pools_above{pool="large",threshold="95"}"#, 1.0),
        (r#"tollgate_pools_above{pool="large",threshold="100"}"#, 0.0),
    ] {
        prometheus.wait_for(query, wanted).await;
    }
    let answer = prometheus.api("/api/v1/label/org/values");
    let mut names: Vec<&str> = answer["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it.as_str().unwrap())
        .collect();
    names.sort_unstable();
    let mut wanted = ODD_NAMES;
    wanted.sort_unstable();
    assert_eq!(names, wanted);
}
