//! The program itself, with a preloaded library that shifts its clocks.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use nix::sys::signal::Signal;
use tollgate::grpc::proto::GetQuotaRequest;
use tonic_health::pb::health_check_response::ServingStatus;

use super::super::metrics::sample;
use crate::{
    server::http_get,
    support::{
        calls::{large, policy_file, quota, reserve, usage, verdict_text},
        clock::Clock,
        redis::RedisServer,
        tollgate::Tollgate,
        world::{NOON, TODAY},
    },
};

const WAIT_TIMEOUT: Duration = Duration::from_secs(20);
const ALLOWANCE: u64 = 1_000_000;

fn steps_logged(tollgate: &Tollgate) -> usize {
    let lines = tollgate.log();
    let message = |line: &&serde_json::Value| {
        let text = line["message"].as_str().unwrap_or_default();
        text.starts_with("the wall clock was stepped")
    };
    lines.iter().filter(message).count()
}

#[tokio::test]
async fn a_step_is_logged_the_service_stays_ready_and_the_real_day_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let policy = policy_file(ALLOWANCE);
    for (store, jump) in [
        ("memory:", 1),
        ("file", 1),
        ("file", 400),
        ("file", 146_000),
    ] {
        let clock = Clock::at(NOON);
        let store = match store {
            "file" => format!("file:{}/{jump}.db", dir.path().display()),
            memory => memory.to_owned(),
        };
        let args = ["--policy", policy.path(), "--store", &store];
        let mut tollgate = Tollgate::start_at(&clock, &args);
        let client = tollgate.client();
        assert_eq!(
            verdict_text(&reserve(&client, 900_000, "before").await),
            "FREE"
        );
        clock.advance(TimeDelta::days(jump));
        assert_eq!(verdict_text(&reserve(&client, 900_000, "").await), "FREE");
        clock.advance(TimeDelta::days(-jump));
        assert_eq!(
            verdict_text(&reserve(&client, 900_000, "").await),
            "AllowanceExceeded"
        );
        let today = quota(&client).await;
        assert_eq!(
            (today.day.as_str(), large(&client).await.used),
            (TODAY, 900_000)
        );
        let (head, body) = http_get(&tollgate.http_addr, "/readyz");
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(
            body.contains("the wall clock was stepped back by "),
            "{body}"
        );
        let counted = sample(&tollgate, "tollgate_clock_steps_total");
        assert!((counted - 2.0).abs() < f64::EPSILON, "{counted}");
        assert_eq!(steps_logged(&tollgate), 2);
        if store == "memory:" {
            continue;
        }
        tollgate.signal(Signal::SIGINT);
        assert!(tollgate.wait(WAIT_TIMEOUT).success());
        let tollgate = Tollgate::start_at(&clock, &args);
        let client = tollgate.client();
        assert_eq!(large(&client).await.used, 900_000);
        let rows = usage(&client, TODAY).await;
        assert_eq!(rows.iter().map(|row| row.free_tokens).sum::<u64>(), 900_000);
        // Not a step of this process, but still reported.
        let (_, body) = http_get(&tollgate.http_addr, "/readyz");
        assert!(
            body.contains("the wall clock was stepped back by "),
            "{body}"
        );
        assert_eq!(steps_logged(&tollgate), 0);
    }
}

#[tokio::test]
async fn a_wall_clock_outside_the_calendar_stops_nothing_and_readiness_still_follows_the_store() {
    let (clock, redis_clock) = (Clock::at(NOON), Clock::at(NOON));
    let mut redis = RedisServer::start_at(&redis_clock);
    let tollgate = Tollgate::start_at(&clock, &["--store", &redis.url()]);
    let client = tollgate.client();
    for years in [-100, 300, 9_000, 270_000] {
        clock.advance(TimeDelta::days(365 * years));
        // Longer than one probe interval.
        let deadline = Instant::now() + Duration::from_millis(1_200);
        while Instant::now() < deadline {
            let org = "org-demo".to_owned();
            let answer = client.clone().get_quota(GetQuotaRequest { org }).await;
            assert_eq!(answer.unwrap().into_inner().day, TODAY, "{years}");
            let ready = tollgate.health("readiness").await;
            assert_eq!(ready, Some(ServingStatus::Serving), "{years}");
        }
        clock.advance(TimeDelta::days(-365 * years));
    }
    // The HTTP library writes no date before 1970 or after 9999, and recovers afterwards.
    let (head, _) = http_get(&tollgate.http_addr, "/readyz");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    redis.kill();
    tollgate.wait_for_readiness(ServingStatus::NotServing).await;
}

#[tokio::test]
async fn an_embedded_store_decides_on_days_outside_the_calendar() {
    let dir = tempfile::tempdir().unwrap();
    let policy = policy_file(ALLOWANCE);
    let file = format!("file:{}/t.db", dir.path().display());
    for store in ["memory:", &file] {
        let clock = Clock::at(NOON);
        let tollgate = Tollgate::start_at(&clock, &["--policy", policy.path(), "--store", store]);
        let client = tollgate.client();
        assert_eq!(verdict_text(&reserve(&client, 900_000, "").await), "FREE");
        for years in [-100, 9_000, 270_000] {
            clock.advance(TimeDelta::days(365 * years));
            assert_eq!(
                verdict_text(&reserve(&client, 900_000, "").await),
                "FREE",
                "{years}"
            );
            assert_eq!(
                verdict_text(&reserve(&client, 900_000, "").await),
                "AllowanceExceeded"
            );
            clock.advance(TimeDelta::days(-365 * years));
            assert_eq!(large(&client).await.used, 900_000, "{years}");
        }
        let steps = sample(&tollgate, "tollgate_clock_steps_total");
        assert!((steps - 6.0).abs() < f64::EPSILON, "{steps}");
    }
}
