//! Many clients at once, through one Envoy and three replicas on one Redis, while replicas and clients fail.

use std::{
    collections::HashSet,
    ops::Range,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use http_body_util::BodyExt as _;
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::{
    net::TcpSocket,
    task::{JoinHandle, JoinSet},
};
use tollgate::grpc::proto::PoolQuota;

use super::{
    PATH, SETTINGS,
    audit::{End, LoggedRequest, RequestLog, end_of, held_for_earlier_attempts, release_rest},
    gateway::{Gateway, chat, chat_stream, endpoint, example, with_servers},
    provider::{Provider, Seen, TAG_HEADER},
    traffic::{CLIENTS, Tag, send_all},
};
use crate::{
    metrics::sample,
    support::{
        calls::{Client, TextFile, policy_file, quota},
        redis::RedisServer,
        tollgate::Tollgate,
    },
};

/// The requests of each client, by what happens meanwhile.
const UNDISTURBED: Range<usize> = 0..60;
const ONE_STOPS: Range<usize> = 60..90;
const ONE_IS_KILLED: Range<usize> = 90..120;
const EXHAUSTED: Range<usize> = 120..157;

/// Not enough for all of the requests.
const ALLOWANCE: u64 = 750_000;

/// Streams that begin before a replica is killed, and end after it is back.
const LONG_STREAMS: usize = 8;

/// A phase is under way when the provider has seen so many of its requests.
const UNDER_WAY: usize = 200;

/// What the request uses that is the last in the access log, of another pool.
const LAST_USED: u64 = 50;

const TIMEOUT: Duration = Duration::from_secs(60);

const OUTCOMES: [&str; 9] = [
    "settled",
    "settled_outside_program",
    "released",
    "kept_client_left",
    "kept_upstream_failed",
    "kept_partial_usage",
    "kept_no_usage",
    "kept_earlier_attempts",
    "failed",
];

/// How many reservations a replica has ended.
fn ended(replica: &Tollgate) -> u64 {
    let series = |it: &&str| format!("tollgate_envoy_outcomes_total{{outcome=\"{it}\"}}");
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let counts = OUTCOMES
        .iter()
        .map(|it| sample(replica, &series(it)) as u64);
    counts.sum()
}

async fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !is_so() {
        assert!(Instant::now() < deadline, "it is not so: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Three replicas on one Redis, behind Envoy.
struct Load {
    replicas: Vec<Tollgate>,
    gateway: Gateway,
    provider: Provider,
    log: RequestLog,
    redis: RedisServer,
    files: [TextFile; 2],
    /// An address that refuses connections.
    _closed: TcpSocket,
}

impl Load {
    async fn start() -> Self {
        let redis = RedisServer::start();
        // Latency is not tested here.
        let settings = format!("call_timeout = \"20s\"\n{SETTINGS}");
        let files = [policy_file(ALLOWANCE), TextFile::new(&settings)];
        let replicas: Vec<_> = (0..3).map(|_| replica(&redis, &files, &[])).collect();
        let provider = Provider::start().await;
        let closed = TcpSocket::new_v4().unwrap();
        closed.bind("127.0.0.1:0".parse().unwrap()).unwrap();

        let addrs: Vec<&str> = replicas.iter().map(|it| &it.addr[..]).collect();
        let mut config = with_servers(example(), &addrs, &provider.addr);
        let resources = &mut config["static_resources"];
        let clusters = resources["clusters"].as_array_mut().unwrap();
        let shared = clusters
            .iter_mut()
            .find(|it| it["name"] == "openai_shared")
            .unwrap();
        // One in 41 requests finds no connection at first, and is retried.
        let refusing = endpoint(&closed.local_addr().unwrap().to_string());
        let servers = &mut shared["load_assignment"]["endpoints"][0]["lb_endpoints"];
        servers[0]["load_balancing_weight"] = json!(40);
        servers.as_array_mut().unwrap().push(refusing);
        servers[1]["load_balancing_weight"] = json!(1);
        let log = RequestLog::new();
        let manager = &mut resources["listeners"][0]["filter_chains"][0]["filters"][0];
        let access_logs = &mut manager["typed_config"]["access_log"];
        access_logs.as_array_mut().unwrap().push(log.config());
        Self {
            gateway: Gateway::run(config),
            replicas,
            provider,
            log,
            redis,
            files,
            _closed: closed,
        }
    }

    async fn begin(&self, phase: Range<usize>) -> JoinSet<()> {
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            clients.spawn(send_all(self.gateway.client().await, number, phase.clone()));
        }
        clients
    }

    fn has_logged_all(&self) -> bool {
        self.gateway.envoy.stat("http.llm.downstream_rq_total") == self.log.count() as u64
    }

    async fn wait_until_under_way(&self) {
        let before = self.provider.count();
        let is_so = || self.provider.count() >= before + UNDER_WAY;
        wait_until("the phase is under way", is_so).await;
    }

    /// Waits until each reservation that Envoy knows has ended.
    async fn wait_until_ended(&self) {
        let is_so = || {
            let ended: u64 = self.replicas.iter().map(ended).sum();
            let published = |it: &LoggedRequest| it.published.is_some();
            self.has_logged_all()
                && self.log.read().into_iter().filter(published).count() as u64 == ended
        };
        wait_until("each reservation has ended", is_so).await;
    }

    /// One replica stands still for longer than Envoy waits.
    async fn stop_one(&self) {
        let replica = &self.replicas[(self.reader() + 1) % 3];
        let timeouts = || {
            self.gateway
                .envoy
                .stat("cluster.tollgate.upstream_rq_timeout")
        };
        let before = timeouts();
        replica.signal(Signal::SIGSTOP);
        wait_until("Checks have timed out", || timeouts() >= before + 20).await;
        replica.signal(Signal::SIGCONT);
    }

    /// The replica that reads the access log.
    fn reader(&self) -> usize {
        (0..3).max_by_key(|at| ended(&self.replicas[*at])).unwrap()
    }

    /// The replica that reads the access log is killed, and is back after a while.
    async fn kill_one(&mut self) {
        let at = self.reader();
        self.replicas[at].signal(Signal::SIGKILL);
        self.replicas[at].wait(TIMEOUT);
        self.wait_until_under_way().await;
        let addr = self.replicas[at].addr.clone();
        self.replicas[at] = replica(&self.redis, &self.files, &["--listen", &addr]);
    }

    /// Begins streams that wait for the provider's gate, each read to its end in a task.
    async fn begin_long_streams(&self) -> Vec<JoinHandle<()>> {
        let mut streams = Vec::new();
        for number in 0..LONG_STREAMS {
            let mut client = self.gateway.client().await;
            let tag = format!("long {number}");
            let body = chat_stream(&tag, 60, "wait").to_string();
            let answer = client.begin(PATH, &[(TAG_HEADER, &tag)], body).await;
            let mut body = answer.unwrap().into_body();
            body.frame().await.unwrap().unwrap();
            streams.push(tokio::spawn(async move {
                let rest = body.collect().await.unwrap().to_bytes();
                assert!(rest.ends_with(b"data: [DONE]\n\n"));
                drop(client);
            }));
        }
        streams
    }

    /// Sends a request that is the last in the access log, and waits until it is settled. Then all entries that reach
    /// a replica have been read.
    async fn wait_until_log_is_read(&self) {
        let mut client = self.gateway.client().await;
        let deadline = Instant::now() + TIMEOUT;
        for number in 0.. {
            assert!(Instant::now() < deadline, "no Check is answered");
            let tag = format!("last {number}");
            let mut body = chat(&tag, LAST_USED, "");
            body["model"] = json!("gpt-4o-mini");
            client
                .post(PATH, &[(TAG_HEADER, &tag)], body.to_string())
                .await;
            if self
                .provider
                .seen(&tag)
                .iter()
                .any(|it| it.project == "shared")
            {
                break;
            }
        }
        let client = self.replicas[0].client();
        // An earlier one may be held, if Envoy did not wait for its verdict.
        let is_settled = |mini: PoolQuota| mini.used - mini.held_tokens >= LAST_USED;
        while !is_settled(pool(&client, "mini").await) {
            assert!(Instant::now() < deadline, "the last request is not settled");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Stops the replicas, which end what they have read of the access log. Another one shows what they counted.
    fn stop(&mut self) -> Tollgate {
        for replica in &self.replicas {
            replica.signal(Signal::SIGINT);
        }
        for replica in &mut self.replicas {
            assert!(replica.wait(TIMEOUT).success());
        }
        replica(&self.redis, &self.files, &[])
    }
}

fn replica(redis: &RedisServer, files: &[TextFile; 2], more: &[&str]) -> Tollgate {
    let url = redis.url();
    let [policy, settings] = files.each_ref().map(TextFile::path);
    let args = ["--store", &url, "--policy", policy, "--config", settings];
    Tollgate::start(&[&args, more].concat())
}

async fn pool(client: &Client, name: &str) -> PoolQuota {
    let pools = quota(client).await.pools;
    pools.into_iter().find(|it| it.pool == name).unwrap()
}

async fn join(mut clients: JoinSet<()>) {
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
}

/// What became of the FREE reservations, added up.
#[derive(Debug, Default)]
struct Sum {
    settled: usize,
    /// What the settled requests used.
    settled_tokens: u64,
    kept: usize,
    /// The tokens of the kept ones, and those for attempts before the last one.
    kept_tokens: u64,
    released: usize,
    /// Requests whose entry of the access log was on the wire to the replica that was killed.
    lost: usize,
}

impl Sum {
    /// Adds a request with its end, and with what is held for its earlier attempts.
    fn add(&mut self, request: &LoggedRequest, end: End, held: Option<u64>, seen: &[Seen]) {
        let published = request.published.as_ref().unwrap();
        let allowed = request.ends(seen);
        let tag = request.tag.parse::<Tag>();
        let may_be_lost = tag.is_ok_and(|tag| tag.is_in(&ONE_IS_KILLED)) && end == End::Held;
        let mut is_lost = !allowed.contains(&end);
        match end {
            End::Settled => {
                self.settled += 1;
                self.settled_tokens += seen[0].used;
            }
            End::Held => {
                self.kept += 1;
                self.kept_tokens += published.tokens;
            }
            End::Released => self.released += 1,
        }
        is_lost |= held.is_none();
        self.kept_tokens += held.unwrap_or_default();
        assert!(
            may_be_lost || !is_lost,
            "{request:?}: {end:?}, not {allowed:?}"
        );
        self.lost += usize::from(is_lost);
    }
}

/// Each request that ran in the programme was reserved as FREE, in a reservation of its own.
fn assert_verdicts_choose(requests: &[LoggedRequest], provider: &Provider) {
    let mut ids = HashSet::new();
    for request in requests {
        let is_free = request.published.as_ref().is_some_and(|it| it.is_free);
        let seen = provider.seen(&request.tag);
        assert!(seen.len() <= 1, "{request:?}: {seen:?}");
        let project = if is_free { "shared" } else { "private" };
        assert!(
            seen.iter().all(|it| it.project == project),
            "{request:?}: {seen:?}"
        );
        assert!(
            request.published.iter().all(|it| ids.insert(&it.id)),
            "{request:?}"
        );
    }
    let reserved: HashSet<&String> = requests.iter().map(|it| &it.tag).collect();
    let all = provider.all();
    assert!(all.keys().all(|tag| reserved.contains(tag)));
}

/// What the provider counted in the programme.
fn used_in_program(provider: &Provider) -> u64 {
    let seen = provider.all();
    let seen = seen.iter().filter(|(tag, _)| !tag.starts_with("last"));
    let all = seen.flat_map(|(_, seen)| seen);
    all.filter(|it| it.project == "shared")
        .map(|it| it.used)
        .sum()
}

/// What the provider and Envoy saw, against what Tollgate counted.
async fn audit(load: &Load, client: &Client) {
    wait_until("Envoy has logged all requests", || load.has_logged_all()).await;
    let requests = load.log.read();
    assert_verdicts_choose(&requests, &load.provider);
    let before = pool(client, "large").await;
    let in_program = used_in_program(&load.provider);
    assert!(in_program <= ALLOWANCE, "{in_program}");
    assert!(before.used <= ALLOWANCE, "{before:?}");

    let (mut free, mut unanswered) = (Vec::new(), Vec::new());
    let mut reasons = HashSet::new();
    for request in requests.iter().filter(|it| !it.tag.starts_with("last")) {
        match &request.published {
            Some(published) if published.is_free => free.push(request),
            Some(published) => drop(reasons.insert(&published.reason[..])),
            None => unanswered.push(request.tag.parse().map_or(600, Tag::max_reserved)),
        }
    }
    let ends = stream::iter(&free).map(|request| async move {
        let end = end_of(client, request.published.as_ref().unwrap()).await;
        (
            *request,
            end,
            held_for_earlier_attempts(client, request).await,
        )
    });
    let mut ends = ends.buffered(CLIENTS);
    let mut sum = Sum::default();
    while let Some((request, end, held)) = ends.next().await {
        sum.add(request, end, held, &load.provider.seen(&request.tag));
    }
    let held = pool(client, "large").await.held_tokens;
    for request in &free {
        release_rest(client, request).await;
    }
    let after = pool(client, "large").await;
    sum.kept_tokens += held - after.held_tokens;
    println!(
        "{} requests, {} without a verdict; {in_program} tokens ran in the programme\n{sum:?}\n{before:?}\n{after:?}",
        requests.len(),
        unanswered.len()
    );
    assert_eq!(before.used, sum.settled_tokens + before.held_tokens);
    assert_eq!(before.held_tokens, sum.kept_tokens + after.held_tokens);
    assert_eq!(after.used, sum.settled_tokens + after.held_tokens);
    // What is held now has a verdict that Envoy did not wait for, or that died with the replica on its way to Envoy.
    let orphans = after.free_requests - sum.settled as u64;
    assert!(orphans <= unanswered.iter().filter(|most| **most > 0).count() as u64);
    assert!(after.held_tokens <= unanswered.iter().sum(), "{after:?}");
    // The load had what it is for.
    assert!(reasons.contains("allowance_exceeded"), "{reasons:?}");
    let is_retried = |it: &LoggedRequest| it.attempts > 1 && it.published.is_some();
    assert!(requests.iter().any(is_retried));
    let long = |it: &LoggedRequest| it.tag.starts_with("long") && it.published.is_some();
    assert!(requests.iter().any(long));
    assert!(sum.lost <= sum.kept && sum.released > 0, "{sum:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_and_faults_nothing_is_granted_twice_and_what_stays_counted_is_explained() {
    let mut load = Load::start().await;
    join(load.begin(UNDISTURBED).await).await;
    load.wait_until_ended().await;

    let clients = load.begin(ONE_STOPS).await;
    load.wait_until_under_way().await;
    load.stop_one().await;
    join(clients).await;
    load.wait_until_ended().await;

    let streams = load.begin_long_streams().await;
    let clients = load.begin(ONE_IS_KILLED).await;
    load.wait_until_under_way().await;
    load.kill_one().await;
    load.provider.open_gate();
    for stream in streams {
        stream.await.unwrap();
    }
    join(clients).await;

    join(load.begin(EXHAUSTED).await).await;
    load.wait_until_log_is_read().await;
    let auditor = load.stop();
    audit(&load, &auditor.client()).await;
}
