//! docs/CONTRACT.md, "Reserve" 3 to 5, with three real replicas on one real Redis: concurrency, retries through other
//! replicas, callers that leave, and broken connections.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use tollgate::grpc::proto::{ReserveRequest, ReserveResponse};
use tonic::Code;

use crate::support::{
    calls::{Client, TextFile, large, new_reserve, policy_file, sum, usage, verdict_text},
    clock::Clock,
    redis::RedisServer,
    streams::stream_all,
    tollgate::Tollgate,
    world::{NOON, TODAY},
};

const CALLERS: usize = 64;
const IDS_PER_CALLER: usize = 12;
const IDS: usize = CALLERS * IDS_PER_CALLER;
const ALLOWANCE: u64 = 100_000;
const MAX_TOKENS: u64 = 997;
/// How often all connections to Redis are cut during the run.
const CONNECTION_CUTS: usize = 6;
const MAX_TRIES: usize = 200;
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// What a caller sent and received.
#[derive(Default)]
struct CallerLog {
    answers: Vec<(usize, ReserveResponse)>,
    dropped: usize,
    unavailable: usize,
}

/// Spreads the tokens, 1 to [`MAX_TOKENS`], over the ids.
fn tokens(id: usize) -> u64 {
    (id as u64 * 7_919) % MAX_TOKENS + 1
}

fn request(id: usize) -> ReserveRequest {
    ReserveRequest {
        project: format!("project-{}", id % 4),
        model: ["gpt-4o", "o1"][id % 2].to_owned(),
        ..new_reserve(tokens(id), &format!("id {id}"))
    }
}

/// Retries, each time through the next replica, until an answer comes.
async fn reserve_until_answered(
    replicas: &[Client],
    first: usize,
    id: usize,
    seen: &mut CallerLog,
) {
    for replica in (first..).take(MAX_TRIES) {
        let mut client = replicas[replica % replicas.len()].clone();
        match client.reserve(request(id)).await {
            Ok(answer) => return seen.answers.push((id, answer.into_inner())),
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
        }
        seen.unavailable += 1;
    }
    panic!("id {id} was not answered in {MAX_TRIES} tries");
}

async fn caller(replicas: Vec<Client>, number: usize, done: Arc<AtomicUsize>) -> CallerLog {
    let mut seen = CallerLog::default();
    for id in (0..IDS).skip(number).step_by(CALLERS) {
        if id % 3 == 0 {
            // Abandons the call at some time between its start and after its answer.
            let abandon_after = Duration::from_micros((id as u64 * 131) % 20_000);
            let mut client = replicas[id % replicas.len()].clone();
            match tokio::time::timeout(abandon_after, client.reserve(request(id))).await {
                Ok(Ok(answer)) => seen.answers.push((id, answer.into_inner())),
                Ok(Err(status)) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
                Err(_) => seen.dropped += 1,
            }
        }
        if id % 4 == 0 {
            let mut other = CallerLog::default();
            tokio::join!(
                reserve_until_answered(&replicas, id, id, &mut seen),
                reserve_until_answered(&replicas, id + 2, id, &mut other),
            );
            seen.answers.append(&mut other.answers);
            seen.unavailable += other.unavailable;
        } else {
            reserve_until_answered(&replicas, id, id, &mut seen).await;
        }
        reserve_until_answered(&replicas, id + 1, id, &mut seen).await;
        done.fetch_add(1, Ordering::Relaxed);
    }
    seen
}

/// Cuts every connection to Redis after each further part of the ids.
async fn break_connections(redis: Arc<RedisServer>, done: Arc<AtomicUsize>) -> i64 {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    let mut broken = 0;
    for part in 1..=CONNECTION_CUTS {
        while done.load(Ordering::Relaxed) < part * IDS / (CONNECTION_CUTS + 2) {
            assert!(Instant::now() < deadline, "the callers do not get on");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let redis = Arc::clone(&redis);
        let kill = move || redis.integer(&["CLIENT", "KILL", "TYPE", "normal"]);
        broken += tokio::task::spawn_blocking(kill).await.unwrap();
    }
    broken
}

/// Checks that each id has one verdict for all callers and at most one answer that is no replay.
fn verdicts(answers: &[(usize, ReserveResponse)]) -> BTreeMap<usize, String> {
    let mut verdicts = BTreeMap::new();
    let mut first_answers = BTreeMap::<usize, usize>::new();
    for (id, answer) in answers {
        let verdict = verdicts.entry(*id).or_insert_with(|| verdict_text(answer));
        assert_eq!(*verdict, verdict_text(answer), "id {id}");
        assert!(answer.used <= ALLOWANCE, "{answer:?}");
        *first_answers.entry(*id).or_default() += usize::from(!answer.replayed);
    }
    assert!(first_answers.values().all(|count| *count <= 1));
    verdicts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_id_counts_once_and_the_allowance_is_never_passed_through_any_replica_and_fault() {
    let redis = Arc::new(RedisServer::start_at(&Clock::at(NOON)));
    let policy = policy_file(ALLOWANCE);
    let url = redis.url();
    let args = ["--store", &url, "--policy", policy.path()];
    let replicas = [(); 3].map(|()| Tollgate::start(&args));
    let clients: Vec<Client> = replicas.iter().map(Tollgate::client).collect();

    let done = Arc::new(AtomicUsize::new(0));
    let breaking = tokio::spawn(break_connections(Arc::clone(&redis), Arc::clone(&done)));
    let callers: Vec<_> = (0..CALLERS)
        .map(|number| tokio::spawn(caller(clients.clone(), number, Arc::clone(&done))))
        .collect();
    let mut all = CallerLog::default();
    for caller in callers {
        let mut seen = tokio::time::timeout(WAIT_TIMEOUT, caller)
            .await
            .unwrap()
            .unwrap();
        all.answers.append(&mut seen.answers);
        all.dropped += seen.dropped;
        all.unavailable += seen.unavailable;
    }
    let broken = breaking.await.unwrap();
    // Without these faults, the run would prove nothing.
    assert!(
        broken >= CONNECTION_CUTS as i64 && all.dropped > 0,
        "{broken}"
    );
    println!(
        "{broken} broken, {} dropped, {} unavailable",
        all.dropped, all.unavailable
    );

    let verdicts = verdicts(&all.answers);
    assert_eq!(verdicts.len(), IDS);
    let of = |wanted: &str| {
        let ids = verdicts.iter().filter(|(_, verdict)| *verdict == wanted);
        ids.fold((0, 0), |(sum, count), (id, _)| {
            (sum + tokens(*id), count + 1)
        })
    };
    let (free, free_requests) = of("FREE");
    let (billed, billed_requests) = of("AllowanceExceeded");
    assert_eq!(free_requests + billed_requests, IDS as u64);
    assert!(free + billed > 3 * ALLOWANCE);
    assert!(free <= ALLOWANCE && free > ALLOWANCE - MAX_TOKENS, "{free}");
    for client in &clients {
        let pool = large(client).await;
        assert_eq!((pool.used, pool.free_requests), (free, free_requests));
        assert_eq!(
            (pool.billed_tokens, pool.billed_requests),
            (billed, billed_requests)
        );
        let rows = usage(client, TODAY).await;
        assert_eq!(rows.len(), 4);
        assert_eq!(sum(&rows), (free, billed, free_requests, billed_requests));
    }
}

/// Half of the callers of the hot organization use single calls, half use streams.
const HOT_CALLERS: u64 = 12;
const HOT_REQUESTS: u64 = 400;
/// Divides the allowance, so that it is granted exactly, in any order.
const HOT_TOKENS: u64 = 25;

/// The number of free requests of a caller.
async fn hot_caller(client: Client, number: u64) -> u64 {
    let requests = (0..HOT_REQUESTS).map(move |at| {
        // Every second request has an id, and one in ten is a repetition.
        let same = if at % 10 == 9 { at - 2 } else { at };
        let id = if at % 2 == 0 {
            String::new()
        } else {
            format!("{number} {same}")
        };
        ReserveRequest {
            project: format!("project-{}", same % 3),
            ..new_reserve(HOT_TOKENS, &id)
        }
    });
    let mut free = 0;
    let mut take = |answer: ReserveResponse| {
        assert!(answer.used <= ALLOWANCE, "{answer:?}");
        free += u64::from(verdict_text(&answer) == "FREE" && !answer.replayed);
    };
    if number.is_multiple_of(2) {
        for answer in stream_all(&client, requests.collect()).await {
            take(answer.unwrap());
        }
    } else {
        // The concurrency of a gateway.
        let mut answers = futures_util::stream::iter(requests)
            .map(|request| {
                let mut client = client.clone();
                async move { client.reserve(request).await.unwrap().into_inner() }
            })
            .buffer_unordered(32);
        while let Some(answer) = answers.next().await {
            take(answer);
        }
    }
    free
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_and_single_calls_through_three_replicas_are_granted_exactly_what_fits() {
    let redis = RedisServer::start_at(&Clock::at(NOON));
    let policy = policy_file(ALLOWANCE);
    let url = redis.url();
    // No call may fail, however slow the machine is.
    let settings = TextFile::new("call_timeout = \"30s\"\n[redis]\nresponse_timeout = \"30s\"\n");
    let args = ["--store", &url, "--policy", policy.path()];
    let args = [&args[..], &["--config", settings.path()]].concat();
    let replicas = [(); 3].map(|()| Tollgate::start(&args));
    let callers: Vec<_> = (0..HOT_CALLERS)
        .map(|number| {
            let replica = usize::try_from(number / 2).unwrap() % replicas.len();
            tokio::spawn(hot_caller(replicas[replica].client(), number))
        })
        .collect();
    let mut free = 0;
    for caller in callers {
        free += tokio::time::timeout(WAIT_TIMEOUT, caller)
            .await
            .unwrap()
            .unwrap();
    }
    let requested = HOT_CALLERS * HOT_REQUESTS;
    assert!(
        requested * HOT_TOKENS * 9 / 10 > ALLOWANCE,
        "the requests fit in the allowance"
    );
    assert_eq!(free * HOT_TOKENS, ALLOWANCE);
    for replica in &replicas {
        let pool = large(&replica.client()).await;
        assert_eq!((pool.used, pool.free_requests), (ALLOWANCE, free));
        let rows = usage(&replica.client(), TODAY).await;
        let (tokens, _, requests, billed) = sum(&rows);
        assert_eq!(
            (tokens, requests, billed),
            (ALLOWANCE, free, pool.billed_requests)
        );
    }
}
