//! docs/ENVOY.md, followed literally, but for ports and the provider.

use std::{path::Path, process::Command};

use super::{gateway::Gateway, provider::Provider};
use crate::support::{
    tollgate::{Tollgate, program},
    tools::run,
};

/// The commands of a section, each without its prompt.
fn commands(section: &str) -> Vec<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/ENVOY.md");
    let text = std::fs::read_to_string(file).unwrap();
    let (_, section) = text.split_once(&format!("## {section}\n")).unwrap();
    let (_, block) = section.split_once("```sh\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    // The body of curl goes over several lines.
    let mut commands: Vec<String> = Vec::new();
    for line in block.lines() {
        match commands.last_mut() {
            Some(last) if line.starts_with(' ') => *last += line,
            _ => commands.push(line.to_owned()),
        }
    }
    commands
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_who_follows_the_page_has_envoy_asking_tollgate() {
    let commands = commands("Run the example");
    let [serve, envoy, curl, quota] = &commands[..] else {
        panic!("{commands:?}");
    };
    let config = serve.strip_prefix("tollgate serve --config ").unwrap();
    assert!(
        envoy.ends_with("envoy --config-path examples/envoy/envoy.yaml"),
        "{envoy}"
    );
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join(config);
    let args = ["--store", "memory:", "--config", config.to_str().unwrap()];
    let tollgate = Tollgate::start(&args);
    let provider = Provider::start().await;
    let gateway = Gateway::start(&[&tollgate.addr], &provider.addr);

    let curl = curl.replace("127.0.0.1:10000", gateway.addr());
    let answer = tokio::task::spawn_blocking(move || run(Command::new("sh").args(["-c", &curl])));
    let answer = answer.await.unwrap().expect_success();
    assert!(answer.contains("chat.completion"), "{answer}");
    assert_eq!(provider.seen("")[0].project, "shared");
    let words = quota.strip_prefix("tollgate ").unwrap().split(' ');
    let quota = run(program()
        .args(words)
        .args(["--addr", &format!("http://{}", tollgate.addr)]));
    let quota = quota.expect_success();
    assert!(quota.contains("org-demo: tier 3, enrolled"), "{quota}");
}
