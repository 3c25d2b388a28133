//! Many clients at once, through one Envoy and three replicas on one Redis.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::{
    PATH, SETTINGS,
    gateway::{Gateway, GatewayClient, chat, chat_stream},
    provider::{Provider, Seen},
};
use crate::{
    metrics::sample,
    support::{
        calls::{TextFile, large_of, policy_file},
        redis::RedisServer,
        tollgate::Tollgate,
    },
};

const CLIENTS: usize = 64;
const REQUESTS_PER_CLIENT: usize = 157;

/// Not enough for all of the requests.
const ALLOWANCE: u64 = 400_000;

const ENDED: [&str; 3] = ["settled", "settled_outside_program", "released"];

const KEPT: [&str; 5] = [
    "kept_retried",
    "kept_client_left",
    "kept_upstream_failed",
    "kept_partial_usage",
    "kept_no_usage",
];

/// What a request wishes of the provider, by its place: most run well.
fn wish(at: usize) -> &'static str {
    match at % 40 {
        7 => "no usage",
        13 => "429",
        19 => "500",
        29 => "cut",
        _ => "",
    }
}

fn is_stream(at: usize) -> bool {
    at.is_multiple_of(3)
}

async fn run(mut client: GatewayClient, number: usize) {
    for at in 0..REQUESTS_PER_CLIENT {
        let (tag, used) = (format!("{number}-{at}"), 20 + (at % 50) as u64);
        let body = match is_stream(at) {
            true => chat_stream(&tag, used, wish(at)),
            false => chat(&tag, used, wish(at)),
        };
        // It may repeat a verdict and an id as often as it likes.
        let spoofed = [("x-tollgate-verdict", "free"), ("x-request-id", "same")];
        let answer = client.post(PATH, &spoofed, body.to_string()).await;
        assert!([200, 429, 500].contains(&answer.status), "{answer:?}");
    }
}

/// Three replicas on one Redis, behind Envoy.
struct Replicas {
    all: Vec<Tollgate>,
    _redis: RedisServer,
    _files: [TextFile; 2],
}

impl Replicas {
    fn start() -> Self {
        let redis = RedisServer::start();
        let url = redis.url();
        // Latency is not tested here.
        let settings = format!("call_timeout = \"20s\"\n{SETTINGS}");
        let files = [policy_file(ALLOWANCE), TextFile::new(&settings)];
        let [policy, settings] = files.each_ref().map(TextFile::path);
        let args = ["--store", &url, "--policy", policy, "--config", settings];
        Self {
            all: (0..3).map(|_| Tollgate::start(&args)).collect(),
            _redis: redis,
            _files: files,
        }
    }

    fn addrs(&self) -> Vec<&str> {
        self.all.iter().map(|it| &it.addr[..]).collect()
    }

    /// The sum of a counter.
    fn sum(&self, series: &str) -> u64 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let counts = self.all.iter().map(|it| sample(it, series) as u64);
        counts.sum()
    }

    fn checks(&self, answer: &str) -> u64 {
        self.sum(&format!(
            "tollgate_envoy_checks_total{{answer=\"{answer}\"}}"
        ))
    }

    fn outcomes(&self, outcomes: &[&str]) -> u64 {
        let name = "tollgate_envoy_outcomes_total";
        let counts = outcomes
            .iter()
            .map(|it| self.sum(&format!("{name}{{outcome=\"{it}\"}}")));
        counts.sum()
    }

    /// Waits until each reservation has ended.
    async fn wait_for_ends(&self) {
        let reserved = self.checks("free") + self.checks("billed");
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let ended = self.outcomes(&KEPT) + self.outcomes(&ENDED);
            if ended == reserved {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{ended} of {reserved} have ended"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Whether nobody can know what a request of this tag used.
fn is_kept(tag: &str) -> bool {
    let (_, at) = tag.split_once('-').unwrap();
    let at = at.parse().unwrap();
    match wish(at) {
        "cut" => is_stream(at),
        wish => ["no usage", "500"].contains(&wish),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_nothing_is_granted_twice_and_what_stays_counted_is_explained() {
    let replicas = Replicas::start();
    let provider = Provider::start().await;
    let gateway = Gateway::start(&replicas.addrs(), &provider.addr);
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(run(gateway.client().await, number));
    }
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }

    let requests = provider.all();
    assert_eq!(requests.len(), CLIENTS * REQUESTS_PER_CLIENT);
    let seen = requests
        .iter()
        .flat_map(|(tag, all)| all.iter().map(move |it| (tag, it)));
    let in_program: Vec<(&String, &Seen)> = seen.filter(|(_, it)| it.project == "shared").collect();
    // Each request that ran in the programme was reserved as FREE.
    assert_eq!(replicas.checks("free"), in_program.len() as u64);
    assert!(replicas.checks("billed") > 0);
    replicas.wait_for_ends().await;
    assert_eq!(replicas.outcomes(&["failed"]), 0);

    let (kept, settled): (Vec<_>, Vec<_>) = in_program.iter().partition(|(tag, _)| is_kept(tag));
    let actual: u64 = settled.iter().map(|(_, it)| it.used).sum();
    let large = large_of(&replicas.all[0].client(), "acme").await;
    assert!(large.used <= ALLOWANCE, "{large:?}");
    assert_eq!(large.used, actual + large.held_tokens, "{large:?}");
    // BILLED requests run in another cluster, where nothing is kept.
    assert_eq!(replicas.outcomes(&KEPT), kept.len() as u64);
    println!(
        "{} requests: {} free, {} kept with {} tokens, {} settled with {actual}",
        requests.len(),
        in_program.len(),
        kept.len(),
        large.held_tokens,
        settled.len()
    );
}
